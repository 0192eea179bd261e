/* The snapshot lane of a postgres source: sends every row of the types that the stream lane (or the hub, by a resync order) wants, while the stream goes
 * on. The order makes it safe: snapshot.begun is on the broker before the consistent point is chosen, so every change after that point
 * follows it; every row carries the point as its version, so newer changes win whichever comes first; snapshot.ended lets the receivers sweep what was not named.
 * A crash or an error begins the type again, with a new point; a type is done when its end is acknowledged.
 *
 * Owns, per type, an ordinary connection, a replication connection until the exported snapshot is imported, and one publisher while there is work. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "pgsrc.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "stagebridge/metric.h"

#define PASS_MS 30000
#define PROGRESS_MS 2000
#define LOG_PROGRESS_MS 10000

struct snapper {
	struct agent *a;
	const struct agent_pg_source *set;
	struct sb_lane *lane;
	struct sb_db *db;
	struct agent_publisher *pub;
	struct sb_batch *batch;
	bool worked;                 /* something was sent in this pass, and with it a wake-up perhaps slept through */
};

struct snapshot {                    /* of one type */
	struct snapper *sn;
	const struct agent_table *conf;
	char reason[200];
	char stream[SB_TYPE_MAX + 16];
	struct pgsrc_table table;
	struct pgsrc_known known;
	struct pgsrc_down *down;
	struct sb_shape shape;
	struct sb_pg *pg;
	uint64_t incarnation;
	char id[20];                 /* names it: where the server was when it began */
	uint64_t point;
	uint64_t rows, withheld;
	int64_t began_ms, progress_ms, log_ms;
	struct sb_cell cell[SB_COLUMNS_MAX];
};

/* --- publishing --- */

static int wait_broker(struct snapper *sn, bool for_room, struct sb_error *err)
{
	int r = agent_publisher_poll(sn->pub, 0, err);

	while (r == 0 && (for_room ? agent_publisher_full(sn->pub) : agent_publisher_in_flight(sn->pub) > 0)) {
		struct pollfd fd = { .fd = agent_publisher_fd(sn->pub), .events = POLLIN };
		if (sb_lane_stopping(sn->lane))
			return sb_fail(err, SB_ESHUTDOWN, "stopped while the broker was waited for");
		(void)sb_lane_wait(sn->lane, &fd, 1, 1000); /* polled below in any case */
		r = agent_publisher_poll(sn->pub, 0, err);
	}
	return r;
}

static int wait_room(void *user, struct sb_error *err)
{
	return wait_broker(user, true, err);
}

static int send_down(struct snapshot *sp, const void *value, size_t n, struct sb_error *err)
{
	const struct pgsrc_down_to out = { sp->sn->pub, wait_room, sp->sn };
	const struct pgsrc_down_batch batch = { value, n, NULL, NULL };

	return pgsrc_down_batch(sp->down, &out, SB_EV_SNAPSHOT_ROWS, &batch, err);
}

/* Takes value. */
static int send_marker(struct snapshot *sp, enum sb_event event, json_t *value, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *text = value ? json_dumps(value, JSON_COMPACT | JSON_SORT_KEYS) : NULL;

	json_decref(value);
	if (!text)
		return sb_fail_nomem(err);
	const struct pgsrc_down_to out = { sp->sn->pub, wait_room, sp->sn };
	int r = wait_broker(sp->sn, true, err);
	if (r == 0)
		r = agent_publisher_send(sp->sn->pub, sp->stream, event, sp->conf->type, NULL, NULL, NULL, 0, text, strlen(text), err);
	if (r == 0 && sp->table.down_digest[0])
		r = pgsrc_down_marker(sp->down, &out, event, text, err);
	return r < 0 ? r : wait_broker(sp->sn, false, err);
}

static int send_rows(struct snapshot *sp, struct sb_error *err)
{
	unsigned count = sb_batch_count(sp->sn->batch);
	size_t n;

	/* an empty table is told too: people find its columns in the view */
	if (count == 0 && sp->rows > 0)
		return 0;
	int r = wait_broker(sp->sn, true, err);
	const void *value = sb_batch_value(sp->sn->batch, &n);
	if (r == 0)
		r = agent_publisher_send(sp->sn->pub, sp->stream, SB_EV_SNAPSHOT_ROWS, sp->conf->type, SB_BATCH_CONTENT_TYPE, NULL, NULL, count, value, n, err);
	if (r == 0 && sp->table.down_digest[0])
		r = send_down(sp, value, n, err);
	if (r < 0)
		return r;
	sb_metric_add(sb_metric("stagebridge_source_snapshot_rows_total", SB_COUNTER, "type", "Snapshot rows sent to the broker"), sp->conf->type, count);
	return sb_batch_begin(sp->sn->batch, &sp->shape, err);
}

/* --- progress --- */

static void progress_text(const struct snapshot *sp, int64_t now, char out[160])
{
	double seconds = (double)(now - sp->began_ms) / 1000;
	double rate = seconds > 0 ? (double)sp->rows / seconds : 0;
	double total = (double)sp->table.estimate;

	if (sp->table.estimate > 0 && (double)sp->rows < total && rate > 0)
		(void)snprintf(out, 160, "snapshot %s %" PRIu64 "/%" PRId64 " rows %.0f%% eta %.0fs", sp->conf->type, sp->rows, sp->table.estimate,
			100 * (double)sp->rows / total, (total - (double)sp->rows) / rate);
	else
		(void)snprintf(out, 160, "snapshot %s %" PRIu64 " rows", sp->conf->type, sp->rows); /* the estimate is missing or was too low */
}

static int progress(struct snapshot *sp, struct sb_error *err)
{
	struct snapper *sn = sp->sn;
	int64_t now = sb_mono_ms();
	char text[160];

	if (now < sp->progress_ms)
		return 0;
	sp->progress_ms = now + PROGRESS_MS;
	progress_text(sp, now, text);
	pgsrc_board_progress(sn->a, sn->set->name, text);
	sb_lane_note(sn->lane, "%s", text);
	if (now >= sp->log_ms) {
		sp->log_ms = now + LOG_PROGRESS_MS;
		sb_log(SB_INFO, "snapshot_progress", "source=%s type=%s rows=%" PRIu64 " estimate=%" PRId64, sn->set->name, sp->conf->type, sp->rows, sp->table.estimate);
	}
	return sb_db_run(sn->db, NULL, err, "UPDATE snapshot SET rows = ? WHERE source = ? AND type = ? AND state = 'running'", "iss", (int64_t)sp->rows, sn->set->name,
		sp->conf->type);
}

/* --- rows --- */

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

static int add_row(struct snapshot *sp, const char *line, size_t n, struct sb_error *err)
{
	struct sb_batch *b = sp->sn->batch;
	struct sb_error why = SB_ERROR_INIT;

	int r = sb_batch_add_line(b, 's', sp->point, 0, line, n, &why);
	if (r == SB_ETOOBIG && sb_batch_count(b) > 0) {
		r = send_rows(sp, err);
		if (r < 0)
			return r;
		r = sb_batch_add_line(b, 's', sp->point, 0, line, n, &why);
	}
	if (r == SB_ETOOBIG || r == SB_EPROTO)
		return withhold(sp, line, n, &why, err);
	if (r < 0)
		return sb_fail(err, (enum sb_code)r, "%s", why.msg);
	sp->rows++;
	(void)sb_batch_value(b, &n); /* only its length */
	return n >= PGSRC_BATCH_BYTES || sb_batch_count(b) >= PGSRC_BATCH_ROWS ? send_rows(sp, err) : 0;
}

static int copy_rows(struct snapshot *sp, struct sb_error *err)
{
	sb_cleanup(sb_buf_release) struct sb_buf sql = { 0 };
	const char *line;
	size_t n;

	sb_buf_init(&sql, 256 * 1024);
	sb_buf_adds(&sql, "COPY (SELECT ");
	pgsrc_columns_sql(&sql, &sp->table);
	sb_buf_adds(&sql, sp->table.kind == 'r' ? " FROM ONLY " : " FROM ");
	pgsrc_table_sql(&sql, &sp->table);
	sb_buf_adds(&sql, ") TO STDOUT");
	int r = sb_buf_check(&sql, "snapshot query", err);
	if (r == 0)
		r = sb_pg_copy_out(sp->pg, sql.data, err);
	if (r == 0)
		r = sb_batch_begin(sp->sn->batch, &sp->shape, err);
	while (r == 0 && (r = sb_pg_copy_line(sp->pg, &line, &n, err)) > 0) {
		r = add_row(sp, line, n, err);
		if (r == 0)
			r = progress(sp, err);
		if (r == 0 && sb_lane_stopping(sp->sn->lane))
			r = sb_fail(err, SB_ESHUTDOWN, "stopped in the middle");
	}
	return r < 0 ? r : send_rows(sp, err);
}

/* --- the point --- */

static int import_snapshot(struct snapshot *sp, const char *exported, struct sb_error *err)
{
	sb_cleanup(sb_buf_release) struct sb_buf sql = { 0 };

	sb_buf_init(&sql, 512);
	sb_buf_adds(&sql, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT ");
	sb_pg_literal(&sql, exported);
	int r = sb_buf_check(&sql, "snapshot", err);
	return r < 0 ? r : sb_pg_script(sp->pg, sql.data, err);
}

/* A temporary slot tells the point and exports what is visible there; once that is imported the slot may go, and with it the log that it holds back. */
static int choose_point(struct snapshot *sp, struct sb_error *err)
{
	struct sb_pgrepl *repl = NULL;
	char slot[SB_ID_LEN + 16], id[SB_ID_LEN + 1], exported[64];

	sb_id_new(id);
	int r = sb_format(slot, sizeof(slot), err, "sb_snapshot_%s", id);
	if (r == 0)
		r = sb_pgrepl_open(&repl, sp->sn->set->conninfo, "stagebridge snapshot", err);
	if (r == 0)
		r = sb_pgrepl_create_slot(repl, slot, true, true, &sp->point, exported, err);
	if (r == 0)
		r = import_snapshot(sp, exported, err);
	sb_pgrepl_close(repl);
	return r;
}

/* --- one type --- */

static int make_shape(struct snapshot *sp, struct sb_error *err)
{
	sp->shape = (struct sb_shape){ .incarnation = sp->incarnation };
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

static int open_one(struct snapshot *sp, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	struct snapper *sn = sp->sn;

	int r = sb_pg_open(&sp->pg, sn->set->conninfo, "stagebridge snapshot", err);
	/* rows that a policy would hide silently must be an error */
	if (r == 0)
		r = sb_pg_script(sp->pg, "SET row_security = off", err);
	if (r == 0)
		r = pgsrc_known_load(sn->db, sn->set->name, sp->conf->type, &sp->known, err);
	if (r == 0)
		r = pgsrc_table_read(sp->pg, sp->conf, &sp->known, &sp->table, err);
	if (r == 0)
		r = pgsrc_down_new(&sp->down, sn->a, sp->conf, SB_STREAM_PUBLIC_SNAPSHOT, err);
	if (r == 0)
		pgsrc_down_judge(sp->down, &sp->table);
	if (r == 0)
		r = make_shape(sp, err);
	if (r == 0)
		r = sb_pg_exec(sp->pg, "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)::text", 0, NULL, &res, err);
	if (r == 0)
		r = sb_format(sp->id, sizeof(sp->id), err, "%s", sb_pg_get(res, 0, 0));
	return r;
}

/* Still what is wanted: the same life, and no new reason since it began. */
static int still_valid(struct snapshot *sp, bool *ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(sp->sn->db, &st, err,
		"SELECT 1 FROM snapshot n JOIN source_state s ON s.source = n.source WHERE n.source = ? AND n.type = ? AND n.state = 'running' AND s.incarnation = ?", "ssi",
		sp->sn->set->name, sp->conf->type, (int64_t)sp->incarnation);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	*ret = r > 0;
	return 0;
}

static int end_one(struct snapshot *sp, struct sb_error *err)
{
	struct snapper *sn = sp->sn;
	bool valid = false;
	char lsn[20];

	int r = still_valid(sp, &valid, err);
	if (r < 0)
		return r;
	if (!valid) {
		sb_log(SB_INFO, "snapshot_abandoned", "source=%s type=%s rows=%" PRIu64, sn->set->name, sp->conf->type, sp->rows);
		return 0;
	}
	sb_lsn_format(lsn, sp->point);
	r = send_marker(sp, SB_EV_SNAPSHOT_ENDED, json_pack("{s:s, s:I, s:s, s:s, s:I}", "type", sp->conf->type, "incarnation", (json_int_t)sp->incarnation,
		"snapshot", sp->id, "lsn", lsn, "rows", (json_int_t)sp->rows), err);
	if (r == 0)
		r = sb_db_run(sn->db, NULL, err,
			"UPDATE snapshot SET state = 'done', lsn = ?, rows = ? WHERE source = ? AND type = ? AND state = 'running'", "iiss", (int64_t)sp->point,
			(int64_t)sp->rows, sn->set->name, sp->conf->type);
	if (r == 0)
		sb_log(SB_INFO, "snapshot_done", "source=%s type=%s rows=%" PRIu64 " withheld=%" PRIu64 " ms=%lld", sn->set->name, sp->conf->type, sp->rows, sp->withheld,
			(long long)(sb_mono_ms() - sp->began_ms));
	return r;
}

static int run_one(struct snapshot *sp, struct sb_error *err)
{
	struct snapper *sn = sp->sn;

	int r = open_one(sp, err);
	if (r < 0 || sp->table.refusal[0])
		return r; /* the stream lane tells of the refusal and wants it again once it is mended */
	sn->worked = true;
	r = sb_db_run(sn->db, NULL, err, "UPDATE snapshot SET state = 'running', rows = 0 WHERE source = ? AND type = ?", "ss", sn->set->name, sp->conf->type);
	if (r == 0)
		r = send_marker(sp, SB_EV_SNAPSHOT_BEGUN, json_pack("{s:s, s:I, s:s, s:s}", "type", sp->conf->type, "incarnation", (json_int_t)sp->incarnation,
			"snapshot", sp->id, "reason", sp->reason), err);
	if (r == 0) {
		sb_log(SB_INFO, "snapshot_begun", "source=%s type=%s reason=%s estimate=%" PRId64, sn->set->name, sp->conf->type, sp->reason, sp->table.estimate);
		r = choose_point(sp, err);
	}
	if (r == 0)
		r = copy_rows(sp, err);
	/* its transaction holds back vacuum: it ends here, not when the broker has everything */
	sb_pg_close(SB_TAKE(sp->pg));
	return r < 0 ? r : end_one(sp, err);
}

static int one_type(struct snapper *sn, const struct agent_table *conf, const char *reason, uint64_t incarnation, struct sb_error *err)
{
	struct snapshot *sp = calloc(1, sizeof(*sp));

	if (!sp)
		return sb_fail_nomem(err);
	sp->sn = sn;
	sp->conf = conf;
	sp->incarnation = incarnation;
	sp->began_ms = sb_mono_ms();
	sp->log_ms = sp->began_ms + LOG_PROGRESS_MS;
	(void)snprintf(sp->reason, sizeof(sp->reason), "%.199s", reason); /* for people */
	int r = sb_format(sp->stream, sizeof(sp->stream), err, "snapshot/%s", conf->type);
	if (r == 0)
		r = run_one(sp, err);
	pgsrc_board_progress(sn->a, sn->set->name, "");
	sb_pg_close(sp->pg);
	sb_shape_release(&sp->shape);
	pgsrc_table_release(&sp->table);
	pgsrc_known_release(&sp->known);
	pgsrc_down_free(sp->down);
	free(sp);
	return r < 0 ? sb_fail_prefix(err, "snapshot of \"%s\"", conf->type) : 0;
}

/* --- the lane --- */

/* The reason why a type is wanted; "" when it is not. Without a shape the stream lane has not taken it up yet. */
static int wanted(struct snapper *sn, const char *type, char reason[256], struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	reason[0] = '\0';
	int r = sb_db_query(sn->db, &st, err, "SELECT reason FROM snapshot WHERE source = ? AND type = ? AND state <> 'done' AND shape <> ''", "ss", sn->set->name, type);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r <= 0)
		return r;
	(void)snprintf(reason, 256, "%.255s", sb_db_text(st, 0)[0] ? sb_db_text(st, 0) : "wanted"); /* for people */
	return 0;
}

static int open_publisher(struct snapper *sn, struct sb_error *err)
{
	char name[SB_NAME_MAX + 32];
	uint64_t session = 0;

	if (sn->pub)
		return 0;
	int r = sb_format(name, sizeof(name), err, "source/%s/snapshot", sn->set->name);
	if (r == 0)
		r = agent_state_session(sn->db, name, sn->a->session, &session, err);
	if (r == 0)
		r = agent_publisher_new(&sn->pub, sn->a, session, err);
	if (r == 0 && !sn->batch)
		r = sb_batch_new(&sn->batch, err);
	return r;
}

static void rest(struct snapper *sn)
{
	agent_publisher_free(SB_TAKE(sn->pub));
	sb_batch_free(SB_TAKE(sn->batch));
	sb_lane_note(sn->lane, "no snapshot is wanted");
	(void)sb_lane_wait(sn->lane, NULL, 0, PASS_MS); /* woken or not: looks again */
}

/* Every wanted type once. One that fails does not keep the others waiting. */
static int pass(struct snapper *sn, struct sb_error *err)
{
	const struct agent_table *table = sn->set->tables.item;
	struct pgsrc_state st;
	struct sb_error failed = SB_ERROR_INIT;
	char reason[256];

	int r = pgsrc_state_load(sn->db, sn->set->name, &st, err);
	if (r < 0 || !st.known || !st.slot[0])
		return r; /* the stream lane wakes us when its slot is there */
	for (size_t i = 0; i < sn->set->tables.count && !sb_lane_stopping(sn->lane); i++) {
		struct sb_error why = SB_ERROR_INIT;
		r = wanted(sn, table[i].type, reason, err);
		if (r == 0 && reason[0])
			r = open_publisher(sn, err);
		if (r < 0)
			return r;
		if (!reason[0])
			continue;
		r = one_type(sn, &table[i], reason, st.incarnation, &why);
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
	sb_batch_free(sn.batch);
	sb_db_close(sn.db);
	return r == SB_ESHUTDOWN ? 0 : r;
}
