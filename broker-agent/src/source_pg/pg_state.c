/* What the postgres source keeps in the agent's state: its life and acknowledged position (source_state), where each type's records end (meta
 * "position/<source>/<type>"), which source last told of a type
 * and in which life (meta "told/<type>"), which types need a snapshot and the shape they had (snapshot). Stream lane, but for pgsrc_state_load.
 *
 * Order of things: an acknowledged position is stored before it is reported to the server, so the slot is never ahead of what is stored here unless
 * somebody else moved it. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "pgsrc.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"

#define LIFE_COST_MS (20LL * 60 * 1000)
#define LIFE_BURST 3

static int position_key(char out[192], const char *source, const char *type, struct sb_error *err)
{
	return sb_format(out, 192, err, "position/%s/%s", source, type);
}

int pgsrc_state_load(struct sb_db *db, const char *source, struct pgsrc_state *ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	*ret = (struct pgsrc_state){ .known = false };
	int r = sb_db_query(db, &st, err, "SELECT system_id, timeline, slot, incarnation, acked_lsn, sent_lsn, point_lsn FROM source_state WHERE source = ?", "s", source);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r <= 0)
		return r;
	r = sb_format(ret->system_id, sizeof(ret->system_id), err, "%s", sb_db_text(st, 0));
	if (r == 0)
		r = sb_format(ret->timeline, sizeof(ret->timeline), err, "%s", sb_db_text(st, 1));
	if (r == 0)
		r = sb_format(ret->slot, sizeof(ret->slot), err, "%s", sb_db_text(st, 2));
	ret->incarnation = (uint64_t)sb_db_int(st, 3);
	ret->acked_lsn = (uint64_t)sb_db_int(st, 4);
	ret->sent_lsn = sb_db_int(st, 5);
	ret->point_lsn = (uint64_t)sb_db_int(st, 6);
	ret->known = r == 0;
	return r;
}

/* --- lives --- */

/* A bucket that leaks: every life costs 20 minutes, an hour's worth may be spent at once. */
int pgsrc_state_may_renew(struct sb_db *db, const char *source, bool *ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	char key[64];
	int64_t now = sb_wall_ms(), until = now;

	int r = sb_format(key, sizeof(key), err, "life/%s", source);
	if (r == 0)
		r = sb_db_query(db, &st, err, "SELECT value FROM meta WHERE key = ?", "s", key);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	if (r > 0 && sb_db_int(st, 0) > now)
		until = sb_db_int(st, 0);
	sb_db_done(SB_TAKE(st));
	*ret = until - now <= (LIFE_BURST - 1) * LIFE_COST_MS;
	if (!*ret)
		return 0;
	return sb_db_run(db, NULL, err, "INSERT OR REPLACE INTO meta(key, value) VALUES (?, ?)", "si", key, until + LIFE_COST_MS);
}

static int want(struct pgsrc *s, const struct pgsrc_type *t, const char *reason, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *shape = pgsrc_shape_text(&t->table);

	if (!shape)
		return sb_fail_nomem(err);
	sb_log(SB_INFO, "snapshot_wanted", "source=%s type=%s reason=%s", s->set->name, t->conf->type, reason);
	return sb_db_run(s->db, NULL, err,
		"INSERT INTO snapshot(source, type, shape, state, reason) VALUES (?, ?, ?, 'wanted', ?)"
		" ON CONFLICT(source, type) DO UPDATE SET shape = excluded.shape, state = 'wanted', reason = excluded.reason, predicate = '', asked = ''", "ssss",
		s->set->name, t->conf->type, shape, reason);
}

static int new_life(struct pgsrc *s, const struct pgsrc_state *st, const char *reason, struct sb_error *err)
{
	char prefix[64];

	int r = sb_format(prefix, sizeof(prefix), err, "position/%s/", s->set->name);
	if (r == 0)
		r = sb_db_run(s->db, NULL, err,
			"INSERT OR REPLACE INTO source_state(source, system_id, timeline, slot, incarnation, acked_lsn, updated_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
			"ssssiii", s->set->name, st->system_id, st->timeline, st->slot, (int64_t)st->incarnation, (int64_t)st->acked_lsn, sb_wall_ms());
	if (r == 0)
		r = sb_db_run(s->db, NULL, err, "DELETE FROM meta WHERE substr(key, 1, length(?)) = ?", "ss", prefix, prefix);
	for (size_t i = 0; r == 0 && i < s->n_types; i++) {
		if (!s->type[i].table.refusal[0] && !s->type[i].events)
			r = want(s, &s->type[i], reason, err);
	}
	return r;
}

int pgsrc_state_new_life(struct pgsrc *s, const struct pgsrc_state *st, const char *reason, struct sb_error *err)
{
	int r = sb_db_begin(s->db, err);

	if (r < 0)
		return r;
	r = new_life(s, st, reason, err);
	if (r == 0)
		r = sb_db_commit(s->db, err);
	if (r < 0)
		sb_db_rollback(s->db);
	return r;
}

int pgsrc_state_slot_gone(struct sb_db *db, const char *source, struct sb_error *err)
{
	return sb_db_run(db, NULL, err, "UPDATE source_state SET slot = '' WHERE source = ?", "s", source);
}

int pgsrc_state_sent(const struct pgsrc *s, int64_t lsn, struct sb_error *err)
{
	return sb_db_run(s->db, NULL, err, "UPDATE source_state SET sent_lsn = ? WHERE source = ?", "is", lsn, s->set->name);
}

int pgsrc_state_follow(const struct pgsrc *s, const char *timeline, struct sb_error *err)
{
	return sb_db_run(s->db, NULL, err, "UPDATE source_state SET timeline = ? WHERE source = ?", "ss", timeline, s->set->name);
}

/* --- positions --- */

static int save(struct pgsrc *s, uint64_t lsn, struct sb_error *err)
{
	struct sb_position p;
	char key[192], text[SB_POSITION_LEN + 1];

	int r = sb_db_run(s->db, NULL, err, "UPDATE source_state SET acked_lsn = ?, updated_ms = ? WHERE source = ? AND incarnation = ?", "iisi", (int64_t)lsn,
		sb_wall_ms(), s->set->name, (int64_t)s->incarnation);
	for (size_t i = 0; r == 0 && i < s->n_types; i++) {
		if (!agent_publisher_acked(s->pub, s->type[i].stream, &p))
			continue;
		sb_position_format(text, p);
		r = position_key(key, s->set->name, s->type[i].conf->type, err);
		if (r == 0)
			r = sb_db_run(s->db, NULL, err,
				"INSERT INTO meta(key, value) VALUES (?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value WHERE value <> excluded.value", "ss",
				key, text);
	}
	return r;
}

int pgsrc_state_save(struct pgsrc *s, uint64_t lsn, struct sb_error *err)
{
	int r = sb_db_begin(s->db, err);

	if (r < 0)
		return r;
	r = save(s, lsn, err);
	if (r == 0)
		r = sb_db_commit(s->db, err);
	if (r < 0)
		sb_db_rollback(s->db);
	return r;
}

int pgsrc_state_position(struct sb_db *db, const char *source, const char *type, uint64_t lsn, struct sb_position *ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	const struct sb_position start = { .lsn = lsn };
	struct sb_position p = start;
	char key[192];

	int r = position_key(key, source, type, err);
	if (r == 0)
		r = sb_db_query(db, &st, err, "SELECT value FROM meta WHERE key = ?", "s", key);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r > 0)
		r = sb_position_parse(sb_db_text(st, 0), &p, err);
	if (r < 0)
		return r;
	/* records after the start are sent again: the first of them must not claim to begin behind its own rows */
	*ret = sb_position_cmp(p, start) < 0 ? p : start;
	return 0;
}

/* --- types --- */

int pgsrc_state_told_by_others(struct pgsrc *s, uint64_t *ret, struct sb_error *err)
{
	*ret = 0;
	for (size_t i = 0; i < s->n_types; i++) {
		sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
		int r = sb_db_query(s->db, &st, err,
			"SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'told/' || ?1 AND substr(value, instr(value, '/') + 1) <> ?2", "ss", s->type[i].conf->type, s->set->name);
		if (r == 0)
			r = sb_db_step(st, err);
		if (r < 0)
			return r;
		if (r > 0 && (uint64_t)sb_db_int(st, 0) > *ret)
			*ret = (uint64_t)sb_db_int(st, 0);
	}
	return 0;
}

static int tell(struct pgsrc *s, const struct pgsrc_type *t, struct sb_error *err)
{
	return sb_db_run(s->db, NULL, err,
		"INSERT INTO meta(key, value) VALUES ('told/' || ?, ? || '/' || ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value WHERE value <> excluded.value",
		"sis", t->conf->type, (int64_t)s->incarnation, s->set->name);
}

static const struct pgsrc_type *type_of(const struct pgsrc *s, const char *name)
{
	for (size_t i = 0; i < s->n_types; i++) {
		if (strcmp(s->type[i].conf->type, name) == 0)
			return &s->type[i];
	}
	return NULL;
}

/* A type that is refused or no longer configured loses its row: its changes are not sent, so it starts with a snapshot when it comes (back). */
static int drop_rows(struct pgsrc *s, struct sb_error *err)
{
	char gone[SB_TYPE_MAX + 1], key[192];

	for (;;) {
		struct sb_stmt *st = NULL;
		gone[0] = '\0';
		int r = sb_db_query(s->db, &st, err, "SELECT type FROM snapshot WHERE source = ?", "s", s->set->name);
		while (r == 0 && !gone[0] && (r = sb_db_step(st, err)) > 0) {
			const struct pgsrc_type *t = type_of(s, sb_db_text(st, 0));
			r = t && !t->table.refusal[0] && !t->unusable ? 0 : sb_format(gone, sizeof(gone), err, "%s", sb_db_text(st, 0));
		}
		sb_db_done(st);
		if (r < 0 || !gone[0])
			return r;
		r = position_key(key, s->set->name, gone, err);
		if (r == 0)
			r = sb_db_run(s->db, NULL, err, "DELETE FROM snapshot WHERE source = ? AND type = ?", "ss", s->set->name, gone);
		if (r == 0 && !type_of(s, gone))
			r = sb_db_run(s->db, NULL, err, "DELETE FROM meta WHERE key = ? OR key = 'columns/' || ? || '/' || ?", "sss", key, s->set->name, gone);
		if (r < 0)
			return r;
	}
}

int pgsrc_state_forget_shape(struct pgsrc *s, const struct pgsrc_type *t, struct sb_error *err)
{
	return sb_db_run(s->db, NULL, err, "UPDATE snapshot SET shape = '' WHERE source = ? AND type = ?", "ss", s->set->name, t->conf->type);
}

static int check_type(struct pgsrc *s, struct pgsrc_type *t, bool *ret_wanted, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	sb_cleanup(sb_freep) char *now = pgsrc_shape_text(&t->table);
	const char *reason = NULL;
	bool changed = false;

	if (!now)
		return sb_fail_nomem(err);
	int r = sb_db_query(s->db, &st, err, "SELECT shape, state FROM snapshot WHERE source = ? AND type = ?", "ss", s->set->name, t->conf->type);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	if (r == 0 || !sb_db_text(st, 0)[0]) {
		reason = "first";
	} else if (!t->active) {
		reason = "the table was refused before"; /* a resync order may have made a row meanwhile */
	} else {
		changed = strcmp(sb_db_text(st, 0), now) != 0;
		if (changed)
			r = pgsrc_leaves_check(s->pg, sb_db_text(st, 0), &t->table, err);
		if (r < 0)
			return r;
		reason = changed ? pgsrc_shape_demands(sb_db_text(st, 0), &t->table) : NULL;
		*ret_wanted = *ret_wanted || strcmp(sb_db_text(st, 1), "done") != 0;
	}
	/* whoever is to get a snapshot may not have heard what the type is */
	t->say_again = t->say_again || reason || strcmp(sb_db_text(st, 1), "wanted") == 0;
	sb_db_done(SB_TAKE(st));
	t->active = true;
	if (reason) {
		*ret_wanted = true;
		return want(s, t, reason, err);
	}
	if (!changed)
		return 0;
	return sb_db_run(s->db, NULL, err, "UPDATE snapshot SET shape = ? WHERE source = ? AND type = ?", "sss", now, s->set->name, t->conf->type);
}

static int types(struct pgsrc *s, bool *ret_wanted, struct sb_error *err)
{
	int r = drop_rows(s, err);

	for (size_t i = 0; r == 0 && i < s->n_types; i++) {
		r = tell(s, &s->type[i], err);
		if (r < 0)
			return r;
		if (s->type[i].table.refusal[0] || s->type[i].unusable)
			s->type[i].active = false;
		else if (s->type[i].events)
			s->type[i].active = true;
		else
			r = check_type(s, &s->type[i], ret_wanted, err);
	}
	return r;
}

int pgsrc_state_types(struct pgsrc *s, bool *ret_wanted, struct sb_error *err)
{
	int r = sb_db_begin(s->db, err);

	*ret_wanted = false;
	if (r < 0)
		return r;
	r = types(s, ret_wanted, err);
	if (r == 0)
		r = sb_db_commit(s->db, err);
	if (r < 0)
		sb_db_rollback(s->db);
	return r;
}
