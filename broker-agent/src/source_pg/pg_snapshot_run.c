/* One snapshot of one type, from the first look to the acknowledged end. The order makes it safe: snapshot.begun is on the broker before the
 * consistent point is chosen, so every change after that point follows it; every row carries the point as its version, so newer changes win whichever
 * comes first; snapshot.ended lets the receivers sweep what was not named.
 *
 * After a break the ranges that are left are read at a new point. That is safe because the stream has run since before the first one, and rows carry
 * the point at which they were read; the end names the first point, because the ranges that were done before know nothing later. What the new
 * session may build on, its begun says, and the receivers compare it with what they have (decision 0009).
 *
 * Owns a connection for the catalog, one per reader, and a replication connection from the choice of the point until the readers have imported it. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "pg_snapshot.h"
#include "stagebridge/log.h"

/* Transactions after which the numbers in rows cannot be compared with the first point's any more; half of what PostgreSQL allows. */
#define XID_SPAN (1ull << 30)

/* --- markers --- */

static struct agent_marker marker_of(const struct snapshot *sp)
{
	const struct snap_run *run = &sp->run;

	return (struct agent_marker){ .stream = sp->stream, .type = sp->conf->type, .reason = sp->want.reason, .id = run->id, .incarnation = run->incarnation,
		.point = run->point, .rows = sp->rows, .partial = *sp->want.predicate != '\0', .after_session = run->session, .after_sequence = run->sequence };
}

static struct agent_marker down_marker_of(const struct snapshot *sp)
{
	struct agent_marker m = marker_of(sp);

	m.stream = sp->down_stream;
	m.after_sequence = sp->run.down_sequence;
	return m;
}

static int send_begun(struct snapshot *sp, struct sb_error *err)
{
	struct snapper *sn = sp->sn;
	const struct agent_marker m = marker_of(sp), down = down_marker_of(sp);
	int r = agent_publisher_begun(sn->pub, sn->lane, &m, err);

	if (r == 0 && sp->table.down_digest[0])
		r = agent_publisher_begun(sn->pub, sn->lane, &down, err);
	return r < 0 ? r : agent_publisher_wait(sn->pub, sn->lane, false, err);
}

static int send_ended(struct snapshot *sp, bool complete, struct sb_error *err)
{
	struct snapper *sn = sp->sn;
	struct agent_marker m = marker_of(sp), down = down_marker_of(sp);

	m.given_up = down.given_up = !complete;
	int r = agent_publisher_ended(sn->pub, sn->lane, &m, err);
	/* one that is taken back is not looked at any more: whoever follows the other stream learns of an end in any case */
	if (r == 0 && (sp->table.down_digest[0] || (!sp->table.oid && sp->run.down_sequence > 0)))
		r = agent_publisher_ended(sn->pub, sn->lane, &down, err);
	return r < 0 ? r : agent_publisher_wait(sn->pub, sn->lane, false, err);
}

/* --- the first look --- */

static int make_shape(struct snapshot *sp, uint64_t incarnation, struct sb_error *err)
{
	sp->shape = (struct sb_shape){ .incarnation = incarnation };
	int r = sb_format(sp->shape.type, sizeof(sp->shape.type), err, "%s", sp->conf->type);
	sp->shape.column = calloc((size_t)sp->table.n_columns + 1, sizeof(*sp->shape.column));
	if (!sp->shape.column)
		return sb_fail_nomem(err);
	for (unsigned i = 0; r == 0 && i < sp->table.n_columns; i++) {
		struct sb_column *c = &sp->shape.column[sp->shape.n_columns++];
		*c = (struct sb_column){ .name = sb_strdup(sp->table.column[i].name), .type = sb_strdup(sp->table.column[i].type), .key = sp->table.column[i].key };
		if (!c->name || !c->type)
			r = sb_fail_nomem(err);
	}
	return r;
}

struct server_now { char lsn[20]; uint64_t xid; };

static int ask_now(struct sb_pg *pg, struct server_now *ret, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;

	int r = sb_pg_exec(pg, "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)::text,"
		" pg_snapshot_xmin(pg_current_snapshot())::text::bigint", 0, NULL, &res, err);
	if (r < 0)
		return r;
	ret->xid = (uint64_t)sb_pg_get_i64(res, 0, 1);
	return sb_format(ret->lsn, sizeof(ret->lsn), err, "%s", sb_pg_get(res, 0, 0));
}

static int open_one(struct snapshot *sp, struct server_now *now, struct sb_error *err)
{
	int r = sb_pg_open(&sp->pg, sp->sn->set->conninfo, "stagebridge snapshot", err);

	if (r == 0)
		r = sb_pg_script(sp->pg, "SET row_security = off", err);
	if (r == 0)
		r = pgsrc_known_load(sp->sn->db, sp->sn->set->name, sp->conf->type, &sp->known, err);
	if (r == 0)
		r = pgsrc_table_read(sp->pg, sp->conf, &sp->known, &sp->table, err);
	/* the publication's own text, so that stream and snapshot mean the same rows */
	if (r == 0 && sp->table.oid)
		r = pgsrc_filter_read(sp->pg, sp->sn->set->publication, &sp->table, &sp->table.filter, err);
	if (r == 0)
		r = pgsrc_down_new(&sp->down, sp->sn->a, sp->conf, SB_STREAM_PUBLIC_SNAPSHOT, err);
	if (r == 0)
		pgsrc_down_judge(sp->down, &sp->table);
	if (r == 0 && !sp->table.refusal[0])
		r = snap_plan_look(sp->pg, &sp->table, sp->want.predicate, &sp->plan, err);
	return r < 0 ? r : ask_now(sp->pg, now, err);
}

/* --- going on, or beginning --- */

/* Why what was read before cannot be built upon; NULL: it can. */
static const char *break_of(const struct snapshot *sp, const struct server_now *now, uint64_t incarnation, unsigned n_done)
{
	const struct snap_run *run = &sp->run;

	if (run->incarnation != incarnation)
		return "the source began a new life";
	if (strcmp(run->print, sp->plan.print) != 0)
		return "the table was rewritten or changed";
	if (n_done == 0)
		return "nothing of it was complete";
	if (now->xid < run->xid || now->xid - run->xid > XID_SPAN)
		return "too many transactions have passed";
	return NULL;
}

static int take_up(struct snapshot *sp, const struct server_now *now, uint64_t incarnation, struct sb_error *err)
{
	unsigned n_done = 0;
	const char *why = "ordered";

	int r = snap_run_load(sp, err);
	if (r == 0 && sp->run.known && strcmp(sp->want.state, "running") == 0) {
		r = snap_ranges_load(sp, err);
		for (unsigned i = 0; i < sp->plan.n_ranges; i++)
			n_done += sp->plan.range[i].state == SNAP_DONE;
		why = break_of(sp, now, incarnation, n_done);
	}
	if (r < 0)
		return r;
	if (!why) {
		sp->resumed = true;
		sp->rows = sp->rows_before;
		sb_log(SB_INFO, "snapshot_resumed", "source=%s type=%s rows=%" PRIu64 " ranges=%u/%u", sp->sn->set->name, sp->conf->type, sp->rows, n_done,
			sp->plan.n_ranges);
		return 0;
	}
	if (sp->run.known)
		sb_log(SB_INFO, "snapshot_anew", "source=%s type=%s reason=%s", sp->sn->set->name, sp->conf->type, why);
	sp->run = (struct snap_run){ .known = true, .incarnation = incarnation };
	memcpy(sp->run.id, now->lsn, sizeof(sp->run.id));
	memcpy(sp->run.print, sp->plan.print, sizeof(sp->run.print));
	return snap_run_begin(sp, err);
}

/* --- the point --- */

static unsigned readers_wanted(const struct snapshot *sp)
{
	unsigned left = 0, most = (unsigned)sp->sn->set->snapshot_readers;

	for (unsigned i = 0; i < sp->plan.n_ranges; i++)
		left += sp->plan.range[i].state != SNAP_DONE;
	if (most > SNAP_READERS_MAX)
		most = SNAP_READERS_MAX;
	return left < most ? (left ? left : 1) : (most ? most : 1);
}

/* A temporary slot tells the point and exports what is visible there; once that is imported the slot goes, and with it the log that it holds back. */
static int choose_point(struct snapshot *sp, struct sb_error *err)
{
	struct sb_pgrepl *repl = NULL;
	char slot[SB_ID_LEN + 16], id[SB_ID_LEN + 1], exported[64];

	sb_id_new(id);
	int r = sb_format(slot, sizeof(slot), err, "sb_snapshot_%s", id);
	if (r == 0)
		r = sb_pgrepl_open(&repl, sp->sn->set->conninfo, "stagebridge snapshot", err);
	if (r == 0)
		r = sb_pgrepl_create_slot(repl, slot, SB_PGREPL_TEMPORARY | SB_PGREPL_EXPORT, &sp->point, exported, err);
	if (r == 0) /* before a row of it is sent: a promoted standby must have it */
		r = sb_db_run(sp->sn->db, NULL, err, "UPDATE source_state SET point_lsn = max(point_lsn, ?) WHERE source = ?", "is", (int64_t)sp->point, sp->sn->set->name);
	if (r == 0)
		r = snap_readers_import(sp, exported, err);
	sb_pgrepl_close(repl);
	return r;
}

/* The ranges of a new snapshot; what was loaded of an older one does not count. */
static int cut(struct snapshot *sp, struct sb_error *err)
{
	free(SB_TAKE(sp->plan.range));
	sp->plan.n_ranges = 0;
	return snap_plan_cut(&sp->plan, sp->sn->set->snapshot_range, err);
}

/* Under the readers' locks, which no rewriting passes: are places still what they were when the ranges were cut? No lock is held while the point is chosen: making a
 * slot waits for all who write, and one of them may be waiting for our lock. A reader looks, because it has the lock: others would wait behind who waits for it. */
static int confirm(struct snapshot *sp, struct sb_error *err)
{
	struct snap_plan now = { .n_leaves = 0 };

	int r = snap_plan_look(sp->reader[0].pg, &sp->table, sp->want.predicate, &now, err);
	if (r == 0 && strcmp(now.print, sp->run.print) != 0)
		r = sb_fail(err, SB_EAGAIN, "the table was rewritten just now");
	if (r == 0 && sp->resumed && now.toasted)
		r = snap_plan_catch_up(&sp->plan, err);
	snap_plan_release(&now);
	return r;
}

static int prepare(struct snapshot *sp, struct sb_error *err)
{
	struct server_now now;

	sb_pg_close(SB_TAKE(sp->pg));
	int r = sp->resumed ? 0 : cut(sp, err);
	if (r == 0)
		r = snap_readers_open(sp, readers_wanted(sp), err);
	if (r == 0)
		r = choose_point(sp, err);
	if (r == 0)
		r = confirm(sp, err);
	if (r < 0 || sp->resumed)
		return r;
	sp->run.point = sp->point;
	r = ask_now(sp->reader[0].pg, &now, err);
	sp->run.xid = now.xid;
	return r < 0 ? r : snap_run_planned(sp, err);
}

/* --- the end --- */

static int end_one(struct snapshot *sp, struct sb_error *err)
{
	int r = send_ended(sp, *sp->want.predicate == '\0', err);

	if (r == 0)
		r = snap_run_end(sp, err);
	if (r == 0)
		sb_log(SB_INFO, "snapshot_done", "source=%s type=%s rows=%" PRIu64 " withheld=%" PRIu64 " readers=%" PRId64 " ms=%lld", sp->sn->set->name, sp->conf->type,
			sp->rows, sp->withheld, sp->sn->set->snapshot_readers, (long long)(sb_mono_ms() - sp->began_ms));
	return r;
}

/* Whoever follows it must not wait for an end that does not come. */
static int cancel_one(struct snapshot *sp, struct sb_error *err)
{
	int r = sp->run.known ? send_ended(sp, false, err) : 0;

	if (r == 0)
		r = snap_run_end(sp, err);
	if (r == 0)
		sb_log(SB_INFO, "snapshot_cancelled", "source=%s type=%s rows=%" PRIu64, sp->sn->set->name, sp->conf->type, sp->rows);
	return r;
}

/* Not wanted any more, or wanted anew: the next pass takes up what there is. */
static int abandon(struct snapshot *sp, struct sb_error *err)
{
	struct snap_want now;

	int r = snap_want_load(sp->sn->db, sp->sn->set->name, sp->conf->type, &now, err);
	if (r == 0 && strcmp(now.state, "cancelled") == 0)
		r = cancel_one(sp, err);
	else if (r == 0)
		sb_log(SB_INFO, "snapshot_abandoned", "source=%s type=%s rows=%" PRIu64, sp->sn->set->name, sp->conf->type, sp->rows);
	free(now.predicate);
	return r;
}

static int read_all(struct snapshot *sp, struct sb_error *err)
{
	bool wanted = true;

	int r = snap_read(sp, err);
	snap_readers_close(sp);
	if (r == 0)
		r = agent_publisher_wait(sp->sn->pub, sp->sn->lane, false, err);
	if (r == 0)
		r = snap_still_wanted(sp, &wanted, err);
	if (r == SB_ENOTFOUND || (r == 0 && !wanted))
		return abandon(sp, err);
	return r < 0 ? r : end_one(sp, err);
}

int snapshot_run(struct snapshot *sp, struct sb_error *err)
{
	struct snapper *sn = sp->sn;
	struct server_now now;
	uint64_t incarnation = sp->run.incarnation;

	if (strcmp(sp->want.state, "cancelled") == 0) {
		int r = snap_run_load(sp, err);
		sn->worked = true;
		return r < 0 ? r : cancel_one(sp, err);
	}
	int r = open_one(sp, &now, err);
	if (r < 0 || sp->table.refusal[0])
		return r; /* the stream lane tells of the refusal and wants it again once it is mended */
	sn->worked = true;
	r = make_shape(sp, incarnation, err);
	if (r == 0)
		r = take_up(sp, &now, incarnation, err);
	if (r == 0)
		r = send_begun(sp, err);
	if (r < 0)
		return r;
	sb_log(SB_INFO, "snapshot_begun", "source=%s type=%s reason=%s estimate=%" PRId64 " resumed=%d", sn->set->name, sp->conf->type, sp->want.reason,
		sp->table.estimate, sp->resumed);
	r = prepare(sp, err);
	return r < 0 ? r : read_all(sp, err);
}
