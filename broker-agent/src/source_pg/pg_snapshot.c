/* The snapshot lane of a postgres source: sends every row of the types that the stream lane, the hub (by a resync order) or a person wants, while the
 * stream goes on. One type after the other, each read by several connections at once (pg_snapshot_run.c); a type is done when its end is acknowledged.
 *
 * Owns one publisher while there is work, and a handle on the agent's state. */
#include <stdio.h>
#include <string.h>

#include "pg_snapshot.h"
#include "stagebridge/log.h"

#define PASS_MS 30000

static int open_publisher(struct snapper *sn, struct sb_error *err)
{
	char name[SB_NAME_MAX + 32];

	if (sn->pub)
		return 0;
	int r = sb_format(name, sizeof(name), err, "source/%s/snapshot", sn->set->name);
	if (r == 0)
		r = agent_state_session(sn->db, name, sn->a->session, &sn->session, err);
	sn->marks = 0;
	return r < 0 ? r : agent_publisher_new(&sn->pub, sn->a, sn->session, err);
}

static int one_type(struct snapper *sn, const struct agent_table *conf, struct snap_want *want, uint64_t incarnation, struct sb_error *err)
{
	struct snapshot *sp = calloc(1, sizeof(*sp));

	if (!sp)
		return sb_fail_nomem(err);
	sp->sn = sn;
	sp->conf = conf;
	sp->want = *want;
	sp->run.incarnation = incarnation;
	sp->began_ms = sb_mono_ms();
	sp->log_ms = sp->began_ms;
	sb_entity_stream_name(sp->down_stream, SB_STREAM_PUBLIC_SNAPSHOT, conf->type);
	int r = sb_format(sp->stream, sizeof(sp->stream), err, "snapshot/%s", conf->type);
	if (r == 0)
		r = snapshot_run(sp, err);
	snap_progress_end(sp);
	snap_readers_close(sp);
	sb_pg_close(sp->pg);
	sb_shape_release(&sp->shape);
	snap_plan_release(&sp->plan);
	pgsrc_table_release(&sp->table);
	pgsrc_known_release(&sp->known);
	pgsrc_down_free(sp->down);
	free(sp);
	return r < 0 ? sb_fail_prefix(err, "snapshot of \"%s\"", conf->type) : 0;
}

/* A condition that fails at a row would fail at every attempt: it is given up, with the reason for whoever asked. */
static int give_up(struct snapper *sn, const struct agent_table *conf, struct sb_error *why)
{
	char reason[400];

	(void)snprintf(reason, sizeof(reason), "failed: %.380s", why->msg);
	sb_log_error(SB_WARN, "resync_failed", why, "source=%s type=%s", sn->set->name, conf->type);
	sn->worked = true; /* the next pass tells of its end */
	return sb_db_run(sn->db, NULL, why, "UPDATE snapshot SET state = 'cancelled', reason = ? WHERE source = ? AND type = ? AND predicate <> ''", "sss", reason,
		sn->set->name, conf->type);
}

static int take_type(struct snapper *sn, const struct agent_table *conf, uint64_t incarnation, struct sb_error *err)
{
	struct snap_want want;

	int r = snap_want_load(sn->db, sn->set->name, conf->type, &want, err);
	if (r == 0 && want.state[0])
		r = open_publisher(sn, err);
	if (r == 0 && want.state[0])
		r = one_type(sn, conf, &want, incarnation, err);
	if (r < 0 && *want.predicate && strcmp(want.state, "cancelled") != 0 && (strncmp(err->state, "22", 2) == 0 || strncmp(err->state, "42", 2) == 0))
		r = give_up(sn, conf, err);
	free(want.predicate);
	return r;
}

static void rest(struct snapper *sn)
{
	agent_publisher_free(SB_TAKE(sn->pub));
	sb_lane_note(sn->lane, "no snapshot is wanted");
	(void)sb_lane_wait(sn->lane, NULL, 0, PASS_MS); /* woken or not: looks again */
}

/* Every wanted type once. One that fails does not keep the others waiting. */
static int pass(struct snapper *sn, struct sb_error *err)
{
	const struct agent_table *table = sn->set->tables.item;
	struct pgsrc_state st;
	struct sb_error failed = SB_ERROR_INIT;

	int r = pgsrc_state_load(sn->db, sn->set->name, &st, err);
	if (r < 0 || !st.known || !st.slot[0])
		return r; /* the stream lane wakes us when its slot is there */
	for (size_t i = 0; i < sn->set->tables.count && !sb_lane_stopping(sn->lane); i++) {
		struct sb_error why = SB_ERROR_INIT;
		r = take_type(sn, &table[i], st.incarnation, &why);
		if (r == SB_EKAFKA || r == SB_ESHUTDOWN || r == SB_ENOMEM) {
			*err = why;
			return r;
		}
		if (r < 0) {
			sb_log_limited(SB_WARN, "snapshot_failed", table[i].type, &why);
			failed = why;
		}
	}
	if (failed.code == SB_OK)
		return 0;
	*err = failed;
	return failed.code;
}

int agent_pg_snapshot_lane(struct sb_lane *lane, void *user, struct sb_error *err)
{
	const struct agent_pg_lane *mine = user;
	struct snapper sn = { .a = mine->agent, .set = mine->source, .lane = lane };

	int r = agent_state_open(&sn.db, sn.a, err);
	while (r == 0 && !sb_lane_stopping(lane)) {
		sn.worked = false;
		r = pass(&sn, err);
		if (r == 0 && !sn.worked)
			rest(&sn);
	}
	agent_publisher_free(sn.pub);
	sb_db_close(sn.db);
	return r == SB_ESHUTDOWN ? 0 : r;
}
