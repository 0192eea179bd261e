/* What is kept of a snapshot in the agent's state until its end is acknowledged: snapshot (what is wanted, and why), snapshot_run (id, first point,
 * what the table looked like, the last record that the broker must have) and snapshot_range (the parts, and which of them are complete). */
#include <inttypes.h>
#include <string.h>

#include "pg_snapshot.h"

int snap_want_load(struct sb_db *db, const char *source, const char *type, struct snap_want *ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	*ret = (struct snap_want){ .predicate = NULL };
	int r = sb_db_query(db, &st, err, "SELECT state, reason, predicate, asked FROM snapshot WHERE source = ? AND type = ? AND state <> 'done' AND shape <> ''", "ss",
		source, type);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r <= 0)
		return r;
	r = sb_format(ret->state, sizeof(ret->state), err, "%s", sb_db_text(st, 0));
	(void)snprintf(ret->reason, sizeof(ret->reason), "%.199s", sb_db_text(st, 1)[0] ? sb_db_text(st, 1) : "wanted"); /* for people */
	ret->asked = sb_db_text(st, 3)[0] != '\0';
	ret->predicate = sb_strdup(sb_db_text(st, 2));
	return r < 0 || ret->predicate ? r : sb_fail_nomem(err);
}

int snap_run_load(struct snapshot *sp, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	struct snap_run *run = &sp->run;

	*run = (struct snap_run){ .known = false };
	int r = sb_db_query(sp->sn->db, &st, err,
		"SELECT snapshot, incarnation, point, xid, print, session, sequence, down_sequence, (SELECT coalesce(sum(g.rows), 0) FROM snapshot_range g"
		" WHERE g.source = r.source AND g.type = r.type AND g.done) FROM snapshot_run r WHERE source = ? AND type = ?", "ss", sp->sn->set->name, sp->conf->type);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r <= 0)
		return r;
	r = sb_format(run->id, sizeof(run->id), err, "%s", sb_db_text(st, 0));
	if (r == 0)
		r = sb_format(run->print, sizeof(run->print), err, "%s", sb_db_text(st, 4));
	run->incarnation = (uint64_t)sb_db_int(st, 1);
	run->point = (uint64_t)sb_db_int(st, 2);
	run->xid = (uint64_t)sb_db_int(st, 3);
	run->session = (uint64_t)sb_db_int(st, 5);
	run->sequence = (uint64_t)sb_db_int(st, 6);
	run->down_sequence = (uint64_t)sb_db_int(st, 7);
	sp->rows_before = (uint64_t)sb_db_int(st, 8);
	run->known = r == 0;
	return r;
}

static int store_run(struct snapshot *sp, struct sb_error *err)
{
	const struct snap_run *run = &sp->run;

	return sb_db_run(sp->sn->db, NULL, err,
		"INSERT OR REPLACE INTO snapshot_run(source, type, snapshot, incarnation, point, xid, print, session, sequence, down_sequence)"
		" VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", "sssiiisiii", sp->sn->set->name, sp->conf->type, run->id, (int64_t)run->incarnation, (int64_t)run->point, (int64_t)run->xid, run->print,
		(int64_t)run->session, (int64_t)run->sequence, (int64_t)run->down_sequence);
}

static int forget_ranges(struct snapshot *sp, struct sb_error *err)
{
	return sb_db_run(sp->sn->db, NULL, err, "DELETE FROM snapshot_range WHERE source = ? AND type = ?", "ss", sp->sn->set->name, sp->conf->type);
}

typedef int (*step_fn)(struct snapshot *sp, uint64_t arg, struct sb_error *err);

static int in_transaction(struct snapshot *sp, step_fn fn, uint64_t arg, struct sb_error *err)
{
	int r = sb_db_begin(sp->sn->db, err);

	if (r < 0)
		return r;
	r = fn(sp, arg, err);
	if (r == 0)
		r = sb_db_commit(sp->sn->db, err);
	if (r < 0)
		sb_db_rollback(sp->sn->db);
	return r;
}

static int begin(struct snapshot *sp, uint64_t arg, struct sb_error *err)
{
	(void)arg;
	int r = forget_ranges(sp, err);
	if (r == 0)
		r = store_run(sp, err);
	if (r == 0)
		r = sb_db_run(sp->sn->db, NULL, err, "UPDATE snapshot SET state = 'running', rows = 0 WHERE source = ? AND type = ? AND state IN ('wanted', 'running')", "ss",
			sp->sn->set->name, sp->conf->type);
	return r;
}

int snap_run_begin(struct snapshot *sp, struct sb_error *err)
{
	return in_transaction(sp, begin, 0, err);
}

static int planned(struct snapshot *sp, uint64_t arg, struct sb_error *err)
{
	(void)arg;
	int r = store_run(sp, err);
	for (unsigned i = 0; r == 0 && i < sp->plan.n_ranges; i++) {
		const struct snap_range *g = &sp->plan.range[i];
		r = sb_db_run(sp->sn->db, NULL, err, "INSERT INTO snapshot_range(source, type, n, leaf, first, last) VALUES (?, ?, ?, ?, ?, ?)", "ssiiii",
			sp->sn->set->name, sp->conf->type, (int64_t)i, (int64_t)g->leaf, g->first, g->last);
	}
	return r;
}

int snap_run_planned(struct snapshot *sp, struct sb_error *err)
{
	return in_transaction(sp, planned, 0, err);
}

int snap_ranges_load(struct snapshot *sp, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	free(sp->plan.range);
	sp->plan.n_ranges = 0;
	sp->plan.range = calloc(SNAP_RANGES_MAX, 2 * sizeof(*sp->plan.range));
	if (!sp->plan.range)
		return sb_fail_nomem(err);
	int r = sb_db_query(sp->sn->db, &st, err, "SELECT leaf, first, last, rows, done FROM snapshot_range WHERE source = ? AND type = ? ORDER BY n", "ss",
		sp->sn->set->name, sp->conf->type);
	while (r == 0 && (r = sb_db_step(st, err)) > 0) {
		if (sp->plan.n_ranges == 2 * SNAP_RANGES_MAX)
			return sb_fail(err, SB_EDB, "more ranges are noted than are ever cut");
		sp->plan.range[sp->plan.n_ranges++] = (struct snap_range){ .leaf = (uint32_t)sb_db_int(st, 0), .first = sb_db_int(st, 1), .last = sb_db_int(st, 2),
			.rows = (uint64_t)sb_db_int(st, 3), .state = sb_db_int(st, 4) ? SNAP_DONE : SNAP_LEFT };
		r = 0;
	}
	return r;
}

static int done(struct snapshot *sp, uint64_t safe, struct sb_error *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < sp->plan.n_ranges; i++) {
		const struct snap_range *g = &sp->plan.range[i];
		if (g->state != SNAP_SENT || g->mark > safe)
			continue;
		if (sp->run.session != sp->sn->session || g->sequence > sp->run.sequence) {
			sp->run.session = sp->sn->session;
			sp->run.sequence = g->sequence;
			sp->run.down_sequence = g->down_sequence;
		}
		/* what was caught up with is caught up with again after the next break */
		if (!g->newer)
			r = sb_db_run(sp->sn->db, NULL, err, "UPDATE snapshot_range SET done = 1, rows = ? WHERE source = ? AND type = ? AND n = ?", "issi", (int64_t)g->rows,
				sp->sn->set->name, sp->conf->type, (int64_t)i);
	}
	return r < 0 ? r : store_run(sp, err);
}

int snap_ranges_done(struct snapshot *sp, uint64_t safe, struct sb_error *err)
{
	int r = in_transaction(sp, done, safe, err);

	for (unsigned i = 0; r == 0 && i < sp->plan.n_ranges; i++) {
		struct snap_range *g = &sp->plan.range[i];
		if (g->state != SNAP_SENT || g->mark > safe)
			continue;
		g->state = SNAP_DONE;
		sp->n_open--;
	}
	return r;
}

int snap_still_wanted(struct snapshot *sp, bool *ret, struct sb_error *err)
{
	int64_t changes = 0;

	int r = sb_db_run(sp->sn->db, &changes, err,
		"UPDATE snapshot SET rows = ? WHERE source = ? AND type = ? AND state = 'running'"
		" AND EXISTS (SELECT 1 FROM source_state s WHERE s.source = snapshot.source AND s.incarnation = ?)", "issi", (int64_t)sp->rows, sp->sn->set->name,
		sp->conf->type, (int64_t)sp->run.incarnation);
	*ret = changes > 0;
	return r;
}

static int end(struct snapshot *sp, uint64_t arg, struct sb_error *err)
{
	(void)arg;
	int r = sb_db_run(sp->sn->db, NULL, err,
		"UPDATE snapshot SET state = 'done', lsn = ?, rows = ?, predicate = '', asked = '' WHERE source = ? AND type = ? AND state IN ('running', 'cancelled')", "iiss",
		(int64_t)sp->run.point, (int64_t)sp->rows, sp->sn->set->name, sp->conf->type);
	if (r == 0)
		r = forget_ranges(sp, err);
	if (r == 0)
		r = sb_db_run(sp->sn->db, NULL, err, "DELETE FROM snapshot_run WHERE source = ? AND type = ?", "ss", sp->sn->set->name, sp->conf->type);
	return r;
}

int snap_run_end(struct snapshot *sp, struct sb_error *err)
{
	return in_transaction(sp, end, 0, err);
}
