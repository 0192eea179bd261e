/* The readers of a snapshot: connections that read a range each, at once, on the lane's one thread. A range's batches hold no other range's rows, so
 * that a range is complete on the broker when its last batch is acknowledged; that is noted then. When the broker has no room nothing
 * is read, and the server waits in its turn: memory is a batch per reader and what the publisher allows in flight. */
#include <inttypes.h>
#include <string.h>

#include "pg_snapshot.h"
#include "stagebridge/log.h"
#include "stagebridge/metric.h"

#define ROWS_A_TURN 1024u
#define WANTED_MS 200

/* --- batches --- */

static int wait_room(void *user, struct sb_error *err)
{
	const struct snapper *sn = user;

	return agent_publisher_wait(sn->pub, sn->lane, true, err);
}

/* What of the batch copies in earlier stages may hold, on a stream of its own. */
static int send_down(struct snapshot *sp, const void *value, size_t n, struct sb_error *err)
{
	const struct pgsrc_down_to out = { sp->sn->pub, wait_room, sp->sn };
	const struct pgsrc_down_batch batch = { value, n, NULL, NULL };

	return pgsrc_down_batch(sp->down, &out, SB_EV_SNAPSHOT_ROWS, &batch, err);
}

static int send_batch(struct snapshot *sp, struct sb_batch *b, struct sb_error *err)
{
	unsigned count = sb_batch_count(b);
	size_t n;

	int r = agent_publisher_wait(sp->sn->pub, sp->sn->lane, true, err);
	const void *value = sb_batch_value(b, &n);
	if (r == 0)
		r = agent_publisher_send(sp->sn->pub, sp->stream, SB_EV_SNAPSHOT_ROWS, sp->conf->type, SB_BATCH_CONTENT_TYPE, NULL, NULL, count, value, n, err);
	if (r == 0 && sp->table.down_digest[0])
		r = send_down(sp, value, n, err);
	if (r < 0)
		return r;
	sp->sent_any = true;
	sp->rows += count;
	sb_metric_add(sb_metric("stagebridge_source_snapshot_rows_total", SB_COUNTER, "type", "Snapshot rows sent to the broker"), sp->conf->type, count);
	return sb_batch_begin(b, &sp->shape, err);
}

/* One line of COPY becomes one change of the batch: its bytes are looked at, not taken apart. */
static int line_to_batch(struct snapshot *sp, struct sb_batch *b, const char *line, size_t n, struct sb_error *why)
{
	return sb_batch_add_line(b, 's', sp->point, 0, line, n, why);
}

/* The key of a row that cannot be sent is told by its hash, so here alone the row is taken apart. */
static int withhold(struct snapshot *sp, const char *line, size_t n, const struct sb_error *why, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *scratch = malloc(n ? n : 1);
	const struct sb_change c = { .op = 's', .lsn = sp->point, .n_cells = sp->shape.n_columns, .cell = sp->cell };

	if (!scratch)
		return sb_fail_nomem(err);
	int r = sb_copy_split(line, n, scratch, sp->cell, sp->shape.n_columns, err);
	if (r < 0)
		return r;
	sp->withheld++;
	pgsrc_log_withheld(&sp->shape, &c, why);
	return 0;
}

static int add_row(struct snapshot *sp, struct snap_reader *rd, const char *line, size_t n, struct sb_error *err)
{
	struct sb_error why = SB_ERROR_INIT;

	int r = line_to_batch(sp, rd->batch, line, n, &why);
	if (r == SB_ETOOBIG && sb_batch_count(rd->batch) > 0) {
		r = send_batch(sp, rd->batch, err);
		if (r < 0)
			return r;
		r = line_to_batch(sp, rd->batch, line, n, &why);
	}
	if (r == SB_ETOOBIG || r == SB_EPROTO)
		return withhold(sp, line, n, &why, err);
	if (r < 0)
		return sb_fail(err, (enum sb_code)r, "%s", why.msg);
	rd->range->rows++;
	(void)sb_batch_value(rd->batch, &n); /* only its length */
	return n >= PGSRC_BATCH_BYTES || sb_batch_count(rd->batch) >= PGSRC_BATCH_ROWS ? send_batch(sp, rd->batch, err) : 0;
}

/* --- ranges --- */

static int range_start(struct snapshot *sp, struct snap_reader *rd, struct sb_error *err)
{
	sb_cleanup(sb_buf_release) struct sb_buf sql = { 0 };

	while (sp->next < sp->plan.n_ranges && sp->plan.range[sp->next].state != SNAP_LEFT)
		sp->next++;
	if (sp->next == sp->plan.n_ranges)
		return 0;
	struct snap_range *range = &sp->plan.range[sp->next];
	sb_buf_init(&sql, 1024 * 1024);
	int r = snap_plan_sql(&sql, &sp->plan, &sp->table, range, sp->want.predicate, sp->run.xid, err);
	if (r == 0)
		r = sb_pg_copy_out(rd->pg, sql.data, err);
	if (r == 0)
		r = sb_batch_begin(rd->batch, &sp->shape, err);
	if (r < 0)
		return r;
	range->state = SNAP_READING;
	range->rows = 0;
	rd->range = range;
	return 0;
}

static int range_end(struct snapshot *sp, struct snap_reader *rd, struct sb_error *err)
{
	struct snap_range *range = rd->range;
	int r = sb_batch_count(rd->batch) > 0 ? send_batch(sp, rd->batch, err) : 0;

	if (r < 0)
		return r;
	range->state = SNAP_SENT;
	range->mark = ++sp->sn->marks;
	range->sequence = agent_publisher_sequence(sp->sn->pub, sp->stream);
	range->down_sequence = agent_publisher_sequence(sp->sn->pub, sp->down_stream);
	agent_publisher_mark(sp->sn->pub, range->mark);
	rd->range = NULL;
	return 0;
}

static int read_some(struct snapshot *sp, struct snap_reader *rd, bool *ret_idle, struct sb_error *err)
{
	const char *line;
	size_t n;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < ROWS_A_TURN && !agent_publisher_full(sp->sn->pub); i++) {
		r = sb_pg_copy_poll(rd->pg, &line, &n, err);
		if (r == SB_EAGAIN)
			return 0;
		*ret_idle = false;
		if (r == 0)
			return range_end(sp, rd, err);
		if (r > 0)
			r = add_row(sp, rd, line, n, err);
	}
	return r;
}

/* --- turns --- */

static void rest(struct snapshot *sp)
{
	struct pollfd fd[SNAP_READERS_MAX + 1] = { { .fd = agent_publisher_fd(sp->sn->pub), .events = POLLIN } };
	nfds_t n = 1;

	for (unsigned i = 0; i < sp->n_readers && !agent_publisher_full(sp->sn->pub); i++) {
		if (sp->reader[i].range)
			fd[n++] = (struct pollfd){ .fd = sb_pg_fd(sp->reader[i].pg), .events = POLLIN };
	}
	(void)sb_lane_wait(sp->sn->lane, fd, n, WANTED_MS); /* what is ready shows when it is read */
}

static int note_done(struct snapshot *sp, struct sb_error *err)
{
	uint64_t safe = agent_publisher_safe(sp->sn->pub);
	bool any = false;

	for (unsigned i = 0; i < sp->plan.n_ranges && !any; i++)
		any = sp->plan.range[i].state == SNAP_SENT && sp->plan.range[i].mark <= safe;
	return any ? snap_ranges_done(sp, safe, err) : 0;
}

static int turn(struct snapshot *sp, struct sb_error *err)
{
	bool idle = true;
	int r = agent_publisher_poll(sp->sn->pub, 0, err);

	for (unsigned i = 0; r == 0 && i < sp->n_readers; i++) {
		struct snap_reader *rd = &sp->reader[i];
		if (!rd->range)
			r = range_start(sp, rd, err);
		if (r == 0 && rd->range)
			r = read_some(sp, rd, &idle, err);
	}
	if (r == 0)
		r = note_done(sp, err);
	if (r == 0 && idle && sp->n_open > 0)
		rest(sp);
	return r;
}

static int still_wanted(struct snapshot *sp, int64_t *next_ms, struct sb_error *err)
{
	bool wanted = true;

	if (sb_mono_ms() < *next_ms)
		return 0;
	*next_ms = sb_mono_ms() + WANTED_MS;
	int r = snap_still_wanted(sp, &wanted, err);
	return r < 0 || wanted ? r : SB_ENOTFOUND;
}

int snap_read(struct snapshot *sp, struct sb_error *err)
{
	int64_t wanted_ms = 0;
	int r = 0;

	sp->n_open = 0;
	for (unsigned i = 0; i < sp->plan.n_ranges; i++)
		sp->n_open += sp->plan.range[i].state != SNAP_DONE;
	while (r == 0 && sp->n_open > 0) {
		r = turn(sp, err);
		if (r == 0)
			r = still_wanted(sp, &wanted_ms, err);
		if (r == 0 && sb_lane_stopping(sp->sn->lane))
			r = sb_fail(err, SB_ESHUTDOWN, "stopped in the middle");
		snap_progress(sp, false);
	}
	/* an empty table is told too: people find its columns in the view */
	if (r == 0 && !sp->sent_any && sp->rows == 0) {
		r = sb_batch_begin(sp->reader[0].batch, &sp->shape, err);
		if (r == 0)
			r = send_batch(sp, sp->reader[0].batch, err);
	}
	return r;
}

/* --- connections --- */

int snap_readers_open(struct snapshot *sp, unsigned n, struct sb_error *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < n; i++) {
		struct snap_reader *rd = &sp->reader[sp->n_readers++];
		r = sb_pg_open(&rd->pg, sp->sn->set->conninfo, "stagebridge snapshot", err);
		/* rows that a policy would hide silently must be an error */
		if (r == 0)
			r = sb_pg_script(rd->pg, "SET row_security = off; SET idle_in_transaction_session_timeout = 0; SET standard_conforming_strings = on;"
				" SET lock_timeout = '2s'", err); /* who waits for an exclusive lock waits for us too: not for long */
		if (r == 0)
			r = sb_batch_new(&rd->batch, err);
	}
	return r;
}

int snap_readers_import(struct snapshot *sp, const char *exported, struct sb_error *err)
{
	sb_cleanup(sb_buf_release) struct sb_buf sql = { 0 };

	sb_buf_init(&sql, 512);
	sb_buf_adds(&sql, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT ");
	sb_pg_literal(&sql, exported);
	int r = sb_buf_check(&sql, "snapshot", err);
	for (unsigned i = 0; r == 0 && i < sp->n_readers; i++) {
		r = sb_pg_script(sp->reader[i].pg, sql.data, err);
		if (r == 0)
			r = snap_plan_lock(sp->reader[i].pg, &sp->table, err);
	}
	return r;
}

void snap_readers_close(struct snapshot *sp)
{
	while (sp->n_readers > 0) {
		struct snap_reader *rd = &sp->reader[--sp->n_readers];
		sb_pg_close(rd->pg);
		sb_batch_free(rd->batch);
		*rd = (struct snap_reader){ .range = NULL };
	}
}
