/* The beginning of a session with the source, up to the first message: checks, publication, slot, life, start; and the look at the catalog that is
 * repeated while the session runs. Order matters: a slot that is older than its publication can never be decoded, so the publication comes first, and when
 * it had to be made anew the slot is made anew too.
 *
 * A source's life (its incarnation) ends when what was read can no longer be continued: another system, another timeline, a slot that is missing, lost
 * or was moved by somebody else. The next life begins with a new slot and snapshots of everything, and its versions are above all of the last.
 * Stream lane. */
#include <stdio.h>
#include <string.h>

#include "pgsrc.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "stagebridge/metric.h"

struct slot { bool exists, ready, synced; uint64_t confirmed; char wal_status[16]; };

/* News of columns that are withheld: said once, counted as long as it lasts. */
static void tell_withheld(const struct pgsrc *s, const struct pgsrc_type *type, const struct pgsrc_table *now)
{
	for (unsigned i = 0; i < now->n_withheld; i++) {
		if (!pgsrc_is_withheld(&type->table, now->withheld[i].name))
			sb_log(SB_WARN, "column_withheld", "source=%s type=%s column=%s text=%s", s->set->name, type->conf->type, now->withheld[i].name,
				"it came after the type was taken up: declare it in the settings (private, internal, public or masks), then restart the agent");
	}
	sb_metric_set(sb_metric("stagebridge_source_withheld_columns", SB_GAUGE, "type", "Columns that are not sent because nobody declared them"), type->conf->type,
		now->n_withheld);
}

static int read_table(struct pgsrc *s, struct pgsrc_type *type, struct sb_error *err)
{
	struct pgsrc_table now;
	int r = 0;

	if (!type->known.columns)
		r = pgsrc_known_load(s->db, s->set->name, type->conf->type, &type->known, err);
	if (r == 0)
		r = pgsrc_table_read(s->pg, type->conf, &type->known, &now, err);
	if (r < 0)
		return r;
	tell_withheld(s, type, &now);
	pgsrc_down_judge(type->down, &now);
	if (now.down_refusal[0] && strcmp(now.down_refusal, type->table.down_refusal) != 0)
		sb_log(SB_ERROR, "copy_refused", "source=%s type=%s reason=%s", s->set->name, type->conf->type, now.down_refusal);
	uint32_t was = type->table.oid;
	pgsrc_table_release(&type->table);
	type->table = now;
	/* from here on its rows are skipped: should it be back at the next look, as if nothing had been, a snapshot must bring them */
	if (was && was != now.oid)
		r = pgsrc_state_forget_shape(s, type, err);
	if (r == 0 && was && was != now.oid)
		r = pgsrc_relation_disown(s, was, err);
	return r < 0 ? r : pgsrc_known_keep(s->db, s->set->name, type->conf, &type->table, &type->known, err);
}

static int read_tables(struct pgsrc *s, struct sb_error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < s->n_types; i++)
		r = s->type[i].events && !s->outbox.table ? 0 : read_table(s, &s->type[i], err); /* without a table: messages only */
	return r;
}

int pgsrc_table_look(struct pgsrc *s, struct pgsrc_type *type, struct sb_error *err)
{
	char refusal[sizeof(type->table.refusal)];
	bool listed = type->table.listed;
	char *filter = SB_TAKE(type->table.filter);

	memcpy(refusal, type->table.refusal, sizeof(refusal));
	int r = read_table(s, type, err);
	/* what the publication had to say, and says again at the next look at everything */
	type->table.listed = listed;
	if (r == 0)
		type->table.filter = SB_TAKE(filter);
	free(filter);
	if (r == 0 && !type->table.refusal[0])
		memcpy(type->table.refusal, refusal, sizeof(refusal));
	return r;
}

/* Where the server is, just before the catalog is read */
static int position_before(struct pgsrc *s, uint64_t *ret, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;

	int r = sb_pg_exec(s->pg, "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)::text", 0, NULL, &res, err);
	return r < 0 ? r : sb_lsn_parse(sb_pg_get(res, 0, 0), ret, err);
}

/* After the publication had its say. Logged when it is news. */
static void log_refusals(struct pgsrc *s)
{
	for (size_t i = 0; i < s->n_types; i++) {
		const struct pgsrc_type *t = &s->type[i];
		if (t->table.refusal[0] && t->active)
			sb_log(SB_ERROR, "table_refused", "source=%s type=%s table=%s reason=%s", s->set->name, t->conf->type, t->conf->table, t->table.refusal);
		else if (!t->table.refusal[0] && !t->active)
			sb_log(SB_INFO, "table_accepted", "source=%s type=%s table=%s", s->set->name, t->conf->type, t->conf->table);
	}
}

static void wake_snapshots(const struct pgsrc *s)
{
	char name[SB_NAME_MAX + 32];

	(void)snprintf(name, sizeof(name), "source/%s/snapshot", s->set->name); /* a name is shorter */
	if (s->a->lanes)
		sb_lanes_wake(s->a->lanes, name);
}

/* --- the slot --- */

static int look_at_slot(struct pgsrc *s, struct slot *ret, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *const param[] = { s->set->slot };
	struct slot slot = { .exists = false };

	int r = sb_pg_exec(s->pg,
		"SELECT s.confirmed_flush_lsn::text, coalesce(s.wal_status, ''),"
		" CASE WHEN s.slot_name IS NOT NULL THEN coalesce(s.plugin = 'pgoutput' AND s.database = current_database() AND NOT s.temporary, false) END,"
		" (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)::text,"
		" to_jsonb(s) ->> 'synced' FROM (SELECT 1) one LEFT JOIN pg_replication_slots s ON s.slot_name = $1", 1, param, &res, err);
	if (r == 0 && sb_pg_get(res, 0, 3))
		r = sb_lsn_parse(sb_pg_get(res, 0, 3), &s->server_lsn, err);
	if (r < 0)
		return r;
	slot.exists = sb_pg_get(res, 0, 2) != NULL;
	if (slot.exists && sb_pg_get(res, 0, 2)[0] != 't')
		return sb_fail(err, SB_ECONFIG, "replication slot \"%s\" belongs to another database or plugin: choose another name, or drop it", s->set->slot);
	slot.synced = sb_pg_get(res, 0, 4) && sb_pg_get(res, 0, 4)[0] == 't'; /* PostgreSQL 17 */
	slot.ready = slot.exists && sb_pg_get(res, 0, 0) != NULL;
	if (slot.ready)
		r = sb_lsn_parse(sb_pg_get(res, 0, 0), &slot.confirmed, err);
	if (r == 0)
		r = sb_format(slot.wal_status, sizeof(slot.wal_status), err, "%s", sb_pg_get(res, 0, 1));
	(void)snprintf(s->slot_state, sizeof(s->slot_state), "%s", slot.wal_status); /* shorter */
	*ret = slot;
	return r;
}

/* Why the last life cannot be continued; NULL: it can. */
static const char *life_over(const struct pgsrc_state *st, const struct slot *slot, const struct sb_pgrepl_system *sys, bool publication_made)
{
	if (!st->known)
		return "first";
	if (strcmp(st->system_id, sys->system_id) != 0)
		return "another database system";
	/* a copy that was restored or promoted may lack what was read from the one before */
	if (strcmp(st->timeline, sys->timeline) != 0)
		return "another timeline";
	if (sys->xlogpos < st->acked_lsn)
		return "the server is behind what was read from it";
	if (publication_made)
		return "the publication was missing";
	if (!st->slot[0])
		return "the slot could not be decoded any more";
	if (!slot->ready)
		return "the slot is missing";
	if (strcmp(slot->wal_status, "lost") == 0)
		return "the slot was lost: the server removed what it needs";
	if (slot->confirmed > st->acked_lsn)
		return "the slot was moved by somebody else";
	return NULL;
}

/* A standby that was promoted with our slot in step is gone on with when it has all that was ever sent: the two histories are one up to the fork, and
 * nothing was read beyond it. */
static int follow(struct pgsrc *s, struct pgsrc_state *st, const struct slot *slot, const struct sb_pgrepl_system *sys, struct sb_error *err)
{
	struct sb_error why = SB_ERROR_INIT;
	uint64_t fork = 0;

	if (!s->set->failover || !st->known || !slot->synced || strcmp(st->system_id, sys->system_id) != 0 || strcmp(st->timeline, sys->timeline) == 0)
		return 0;
	if (sb_pgrepl_fork(s->repl, st->timeline, sys->timeline, &fork, &why) < 0) {
		sb_log_error(SB_WARN, "failover_not_followed", &why, "source=%s", s->set->name);
		return 0;
	}
	if (st->sent_lsn < 0 || (uint64_t)st->sent_lsn > fork || st->acked_lsn > fork || st->point_lsn > fork) {
		sb_log(SB_WARN, "failover_not_followed", "source=%s text=%s", s->set->name, "more was read from the last primary than this server has of it");
		return 0;
	}
	sb_log(SB_INFO, "failover_followed", "source=%s timeline=%s", s->set->name, sys->timeline);
	memcpy(st->timeline, sys->timeline, sizeof(st->timeline));
	return pgsrc_state_follow(s, sys->timeline, err);
}

static int new_life(struct pgsrc *s, struct pgsrc_state *st, const struct slot *slot, const struct sb_pgrepl_system *sys, const char *reason, struct sb_error *err)
{
	bool may = true;
	int r = 0;

	if (s->set->failover && sb_pg_version(s->pg) < 170000)
		sb_log(SB_WARN, "failover_without_effect", "source=%s text=%s", s->set->name, "slots can be kept in step on standbys since PostgreSQL 17");
	if (st->known)
		r = pgsrc_state_may_renew(s->db, s->set->name, &may, err);
	if (r == 0 && !may)
		r = sb_fail(err, SB_ESTATE, "%s, but the source was begun anew three times within the hour: waiting", reason);
	if (r == 0 && slot->exists)
		r = sb_pgrepl_drop_slot(s->repl, s->set->slot, err);
	if (r == 0)
		r = sb_pgrepl_create_slot(s->repl, s->set->slot, s->set->failover ? SB_PGREPL_FAILOVER : 0, &st->acked_lsn, NULL, err);
	if (r < 0)
		return r;
	/* with the state lost there may have been lives before: the session is above their number, being made of the time */
	st->incarnation++;
	if (!st->known && st->incarnation < s->a->session)
		st->incarnation = s->a->session;
	memcpy(st->system_id, sys->system_id, sizeof(st->system_id));
	memcpy(st->timeline, sys->timeline, sizeof(st->timeline));
	r = sb_format(st->slot, sizeof(st->slot), err, "%s", s->set->slot);
	if (r == 0)
		r = pgsrc_state_new_life(s, st, reason, err);
	if (r == 0)
		sb_log(st->known ? SB_WARN : SB_INFO, "source_new_life", "source=%s incarnation=%llu reason=%s", s->set->name, (unsigned long long)st->incarnation,
			reason);
	return r;
}

/* --- opening --- */

static int connect(struct pgsrc *s, struct sb_pgrepl_system *sys, struct sb_error *err)
{
	char name[64];
	int64_t timeout_ms = 0;

	(void)snprintf(name, sizeof(name), "stagebridge %s", s->set->name); /* a name is shorter */
	int r = sb_pg_open(&s->pg, s->set->conninfo, name, err);
	if (r == 0)
		r = pgsrc_server_check(s->pg, &timeout_ms, err);
	if (r == 0)
		r = sb_pgrepl_open(&s->repl, s->set->conninfo, name, err);
	if (r == 0)
		r = sb_pgrepl_identify(s->repl, sys, err);
	s->status_every_ms = timeout_ms && timeout_ms / 3 < PGSRC_STATUS_MS ? timeout_ms / 3 : PGSRC_STATUS_MS;
	return r;
}

static int open_publisher(struct pgsrc *s, struct sb_error *err)
{
	char name[SB_NAME_MAX + 16];
	uint64_t session = 0;

	int r = sb_format(name, sizeof(name), err, "source/%s", s->set->name);
	if (r == 0)
		r = agent_state_session(s->db, name, s->a->session, &session, err);
	if (r == 0)
		r = agent_publisher_new(&s->pub, s->a, session, err);
	for (size_t i = 0; r == 0 && i < s->n_types; i++)
		r = pgsrc_state_position(s->db, s->set->name, s->type[i].conf->type, s->saved_lsn, &s->type[i].from, err);
	return r;
}

static int find_life(struct pgsrc *s, const struct sb_pgrepl_system *sys, bool publication_made, struct sb_error *err)
{
	struct pgsrc_state st;
	struct slot slot;
	uint64_t others = 0;

	int r = pgsrc_state_load(s->db, s->set->name, &st, err);
	if (r == 0)
		r = look_at_slot(s, &slot, err);
	if (r == 0)
		r = pgsrc_state_told_by_others(s, &others, err);
	if (r < 0)
		return r;
	r = follow(s, &st, &slot, sys, err);
	if (r < 0)
		return r;
	const char *reason = life_over(&st, &slot, sys, publication_made);
	/* positions of two servers cannot be compared: the life that is ours now must be later than that in which the type's last source told of it */
	if (!reason && others >= st.incarnation)
		reason = "a type came from another source";
	if (others > st.incarnation)
		st.incarnation = others;
	if (reason)
		r = new_life(s, &st, &slot, sys, reason, err);
	/* not known after a crash: no more than the server has */
	s->sent_before = reason || st.sent_lsn < 0 ? s->server_lsn : (uint64_t)st.sent_lsn;
	if (r == 0)
		r = pgsrc_state_sent(s, -1, err);
	s->incarnation = st.incarnation;
	s->saved_lsn = s->done_lsn = s->commit_lsn = s->received = st.acked_lsn;
	return r;
}

/* Until the slot is taken somebody may still move it, over changes that nobody has; from then on nobody can. The next session begins a new life. */
static int start(struct pgsrc *s, struct sb_error *err)
{
	struct slot slot = { .exists = false };

	int r = sb_pgrepl_start(s->repl, s->set->slot, s->saved_lsn, s->set->publication, s->events != NULL, err);
	if (r == 0)
		r = look_at_slot(s, &slot, err);
	if (r < 0 || slot.confirmed <= s->saved_lsn)
		return r;
	return sb_fail(err, SB_ESTATE, "replication slot \"%s\" was moved by somebody else while the source began: it begins anew", s->set->slot);
}

int pgsrc_session_open(struct pgsrc *s, struct sb_error *err)
{
	struct sb_pgrepl_system sys;
	bool made = false, wanted = false;
	uint64_t before = 0;

	int r = agent_state_open(&s->db, s->a, err);
	if (r == 0)
		r = pgoutput_new(&s->decoder, err);
	if (r == 0)
		r = connect(s, &sys, err);
	if (r == 0)
		r = position_before(s, &before, err);
	if (r == 0)
		r = read_tables(s, err);
	if (r == 0)
		r = pgsrc_publication(s, &made, err);
	if (r < 0)
		return r;
	log_refusals(s);
	r = find_life(s, &sys, made, err);
	if (r == 0)
		r = pgsrc_state_types(s, &wanted, err);
	if (r == 0)
		r = pgsrc_describe_look(s, before, &wanted, err);
	if (r == 0)
		r = open_publisher(s, err);
	if (r == 0)
		r = start(s, err);
	if (r == 0 && wanted)
		wake_snapshots(s);
	return r;
}

/* A relation may have been unusable in the past only. When the stream is past it, the type is taken up again, by a snapshot. */
static void forgive(struct pgsrc *s)
{
	for (size_t i = 0; i < s->n_types; i++) {
		struct pgsrc_type *t = &s->type[i];
		if (t->unusable && !t->table.refusal[0] && !s->in_tx && s->received >= t->unusable_lsn)
			t->unusable = false;
	}
}

int pgsrc_catalog_poll(struct pgsrc *s, struct sb_error *err)
{
	struct slot slot;
	bool made = false, wanted = false;
	uint64_t before = 0;

	int r = position_before(s, &before, err);
	if (r == 0)
		r = read_tables(s, err);
	if (r == 0)
		r = pgsrc_publication(s, &made, err);
	if (r == 0 && made) {
		r = pgsrc_state_slot_gone(s->db, s->set->name, err);
		return r < 0 ? r : sb_fail(err, SB_ESTATE, "publication \"%s\" was dropped: the source begins anew", s->set->publication);
	}
	if (r < 0)
		return r;
	log_refusals(s);
	forgive(s);
	r = pgsrc_state_types(s, &wanted, err);
	if (r == 0)
		r = pgsrc_relations_check(s, err);
	if (r == 0)
		r = look_at_slot(s, &slot, err);
	if (r == 0)
		r = pgsrc_describe_look(s, before, &wanted, err);
	if (r == 0 && wanted)
		wake_snapshots(s);
	return r;
}
