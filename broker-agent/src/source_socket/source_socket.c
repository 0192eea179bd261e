/* The lane of all entity types that applications write through the socket. It publishes what the store holds and the broker has not: changes in the order of their
 * numbers, each under its own, so that a repeat after a crash is the same change and is dropped; when they are acknowledged the position moves on and
 * deleted entities leave the store. A snapshot, first or ordered, sends what is there. A type that never held anything sends nothing: an agent that lost
 * its state does not empty the view before somebody writes again.
 *
 * States, as the board shows them: publishing; down (broker or state failed: the lane's back-off). */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "entity_store.h"
#include "source.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "stagebridge/metric.h"

#define BATCH_BYTES (512u * 1024)
#define BATCH_ROWS 5000
#define POLL_MS 5000   /* it is woken by the API; this is for a wake-up that was lost */

struct one {           /* one type */
	struct entity_type type;
	struct sb_shape shape;
	struct sb_position from;
	char stream[SB_TYPE_MAX + 16], snapshot_stream[SB_TYPE_MAX + 16];
};
struct socket_source {
	struct agent *a;
	struct sb_lane *lane;
	struct sb_db *db;
	struct agent_publisher *pub;
	struct sb_batch *batch;
	struct one *one;
	size_t n;
	uint64_t rows;
};

/* --- state --- */

static int store_position(struct socket_source *s, const struct one *o, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *key = sb_asprintf("position/%s", o->type.source);
	char text[SB_POSITION_LEN + 1];

	if (!key)
		return sb_fail_nomem(err);
	sb_position_format(text, o->from);
	return sb_db_run(s->db, NULL, err, "INSERT OR REPLACE INTO meta(key, value) VALUES (?, ?)", "ss", key, text);
}

/* What is on the broker: the position, and no more deleted entities below it. */
static int settle(struct socket_source *s, struct one *o, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *count = sb_asprintf("entities/%s", o->type.set->type);
	int64_t n = 0;

	int r = count ? sb_db_begin(s->db, err) : sb_fail_nomem(err);
	if (r < 0)
		return r;
	r = store_position(s, o, err);
	if (r == 0)
		r = sb_db_run(s->db, &n, err, "DELETE FROM entity WHERE type = ? AND document IS NULL AND version < ?", "si", o->type.set->type, (int64_t)o->from.lsn);
	if (r == 0 && n > 0)
		r = sb_db_run(s->db, NULL, err, "UPDATE meta SET value = value - ? WHERE key = ?", "is", n, count);
	if (r == 0)
		r = sb_db_commit(s->db, err);
	if (r < 0)
		sb_db_rollback(s->db);
	return r;
}

/* With other columns the same documents are other rows: all are sent again. */
static int check_settings(struct socket_source *s, struct one *o, struct sb_error *err)
{
	sb_cleanup(sb_buf_release) struct sb_buf now = { 0 };
	sb_cleanup(sb_freep) char *key = sb_asprintf("settings/%s", o->type.source);
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	sb_buf_init(&now, 1 << 20);
	row_schema_yaml(&o->type.schema, 0, &now);
	int r = key ? sb_buf_check(&now, "columns", err) : sb_fail_nomem(err);
	if (r == 0)
		r = sb_db_query(s->db, &st, err, "SELECT value FROM meta WHERE key = ?", "s", key);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0 || (r > 0 && strcmp(sb_db_text(st, 0), now.data) == 0))
		return r < 0 ? r : 0;
	bool known = r > 0;
	sb_db_done(SB_TAKE(st));
	r = 0;
	if (known)
		r = sb_db_run(s->db, NULL, err, "UPDATE snapshot SET state = 'wanted', reason = 'settings changed' WHERE source = ? AND type = ?", "ss", AGENT_SOCKET_SOURCE,
			o->type.set->type);
	return r < 0 ? r : sb_db_run(s->db, NULL, err, "INSERT OR REPLACE INTO meta(key, value) VALUES (?, ?)", "ss", key, now.data);
}

static int load_one(struct socket_source *s, struct one *o, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *key = sb_asprintf("position/%s", o->type.source);
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL, *position = NULL;

	int r = key ? entity_type_ready(&o->type, s->db, s->a->session, err) : sb_fail_nomem(err);
	if (r == 0)
		r = check_settings(s, o, err);
	if (r == 0)
		r = sb_db_query(s->db, &st, err, "SELECT incarnation FROM source_state WHERE source = ?", "s", o->type.source);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	o->shape.incarnation = (uint64_t)sb_db_int(st, 0);
	o->from = (struct sb_position){ .lsn = 1 };
	r = sb_db_query(s->db, &position, err, "SELECT value FROM meta WHERE key = ?", "s", key);
	if (r == 0)
		r = sb_db_step(position, err);
	return r > 0 ? sb_position_parse(sb_db_text(position, 0), &o->from, err) : r;
}

static int open_one(struct socket_source *s, struct one *o, const struct agent_socket_type *set, struct sb_error *err)
{
	int r = entity_type_open(&o->type, set, err);

	if (r == 0)
		r = sb_format(o->shape.type, sizeof(o->shape.type), err, "%s", set->type);
	if (r == 0)
		r = sb_format(o->stream, sizeof(o->stream), err, "entity/%s", set->type);
	if (r == 0)
		r = sb_format(o->snapshot_stream, sizeof(o->snapshot_stream), err, "snapshot/%s", set->type);
	if (r == 0)
		r = row_schema_shape(&o->type.schema, &o->shape, err);
	return r < 0 ? r : load_one(s, o, err);
}

static int open_all(struct socket_source *s, struct sb_error *err)
{
	const struct agent_socket_type *set = s->a->set.entities.item;
	uint64_t session = 0;

	s->one = calloc(s->a->set.entities.count, sizeof(*s->one));
	if (!s->one)
		return sb_fail_nomem(err);
	int r = agent_state_open(&s->db, s->a, err);
	for (; r == 0 && s->n < s->a->set.entities.count; s->n++)
		r = open_one(s, &s->one[s->n], &set[s->n], err);
	if (r == 0)
		r = agent_state_session(s->db, "source/" AGENT_SOCKET_SOURCE, s->a->session, &session, err);
	if (r == 0)
		r = agent_publisher_new(&s->pub, s->a, session, err);
	return r < 0 ? r : sb_batch_new(&s->batch, err);
}

static void close_all(struct socket_source *s)
{
	agent_publisher_free(s->pub);
	sb_batch_free(s->batch);
	for (size_t i = 0; i < s->a->set.entities.count && s->one; i++) {
		entity_type_close(&s->one[i].type);
		sb_shape_release(&s->one[i].shape);
	}
	free(s->one);
	sb_db_close(s->db);
}

/* --- rows --- */

static void withheld(const struct one *o, const struct sb_error *why)
{
	sb_log_limited(SB_ERROR, "row_withheld", o->type.set->type, why);
	sb_metric_add(sb_metric("stagebridge_source_refused_total", SB_COUNTER, "type", "Documents that were not published because they do not fit"), o->type.set->type, 1);
}

/* 1: it is in the batch, 0: the batch is full (it is not in it). A row that fits no record is left out for good; what fits was checked when it was written, against the
 * settings of then. */
static int add_row(struct socket_source *s, struct one *o, char op, uint64_t lsn, const char *key, const char *document, struct sb_error *err)
{
	struct sb_error why = SB_ERROR_INIT;
	struct sb_change c = { .op = document ? op : 'd', .lsn = lsn, .n_cells = o->shape.n_columns, .cell = o->type.cell };
	size_t n;
	int r = 0;

	if (document) {
		r = entity_cells(&o->type, key, document, strlen(document), &why);
	} else {
		memset(o->type.cell, 0, o->shape.n_columns * sizeof(*o->type.cell)); /* kind 0 is NULL */
		for (unsigned i = 0; i < o->shape.n_columns; i++) {
			if (o->shape.column[i].key)
				o->type.cell[i] = (struct sb_cell){ .kind = SB_CELL_VALUE, .p = key, .n = strlen(key) };
		}
	}
	if (r == 0)
		r = sb_batch_add(s->batch, &c, &why);
	if (r == SB_ENOMEM)
		return sb_fail_nomem(err);
	if (r == SB_ETOOBIG && sb_batch_count(s->batch) > 0)
		return 0;
	if (r < 0) {
		withheld(o, &why);
		return 1;
	}
	(void)sb_batch_value(s->batch, &n); /* only its length */
	return n < BATCH_BYTES;
}

static int sent(struct socket_source *s, const struct one *o, unsigned count)
{
	s->rows += count;
	sb_metric_add(sb_metric("stagebridge_source_rows_total", SB_COUNTER, "type", "Changes sent to the broker"), o->type.set->type, count);
	return 1;
}

/* --- changes --- */

/* Fills the batch with what comes after the position; ret_to: where it ends. A row that is the last of a full batch is in it or is the first of the next. */
static int fill_changes(struct socket_source *s, struct one *o, struct sb_position *ret_to, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(s->db, &st, err, "SELECT version, key, document FROM entity WHERE type = ? AND version >= ? ORDER BY version LIMIT ?", "sii", o->type.set->type,
		(int64_t)o->from.lsn, (int64_t)BATCH_ROWS);
	*ret_to = o->from;
	while (r == 0 && (r = sb_db_step(st, err)) > 0) {
		uint64_t version = (uint64_t)sb_db_int(st, 0);
		unsigned before = sb_batch_count(s->batch);
		r = add_row(s, o, 'u', version, sb_db_text(st, 1), sb_db_text(st, 2), err);
		if (r < 0)
			return r;
		if (r > 0 || sb_batch_count(s->batch) > before)
			ret_to->lsn = version + 1;
		r = r > 0 ? 0 : 1;
	}
	return r < 0 ? r : 0;
}

/* One batch: 1 when there was something. */
static int send_changes(struct socket_source *s, struct one *o, struct sb_error *err)
{
	struct sb_position to;
	size_t n;

	int r = sb_batch_begin(s->batch, &o->shape, err);
	if (r == 0)
		r = fill_changes(s, o, &to, err);
	if (r < 0 || sb_position_cmp(o->from, to) == 0)
		return r;
	unsigned count = sb_batch_count(s->batch);
	const void *value = sb_batch_value(s->batch, &n);
	r = agent_publisher_wait(s->pub, s->lane, true, err);
	if (r == 0 && count > 0)
		r = agent_publisher_send(s->pub, o->stream, SB_EV_ENTITY_CHANGED, o->type.set->type, SB_BATCH_CONTENT_TYPE, &o->from, &to, count, value, n, err);
	if (r == 0)
		r = agent_publisher_wait(s->pub, s->lane, false, err);
	if (r < 0)
		return r;
	/* with nothing but withheld rows the position waits for the next record: receivers must not see a gap */
	if (count > 0)
		o->from = to;
	r = count > 0 ? settle(s, o, err) : 0;
	return r < 0 ? r : count > 0 ? sent(s, o, count) : 0;
}

/* --- snapshots --- */

/* 1 and the reason when a snapshot is wanted and there is, or was, something to send. */
static int wanted(struct socket_source *s, const struct one *o, char reason[200], struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(s->db, &st, err, "SELECT reason FROM snapshot WHERE source = ?1 AND type = ?2 AND state <> 'done'"
		" AND (reason <> 'first' OR EXISTS (SELECT 1 FROM entity WHERE type = ?2))", "ss", AGENT_SOCKET_SOURCE, o->type.set->type);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r > 0)
		(void)snprintf(reason, 200, "%.199s", sb_db_text(st, 0)[0] ? sb_db_text(st, 0) : "wanted"); /* for people */
	return r;
}

/* The snapshot's own number. What is written from here on has a higher one, and is sent as a change too. */
static int take_point(struct socket_source *s, struct one *o, uint64_t *ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_begin(s->db, err);
	if (r < 0)
		return r;
	r = sb_db_query(s->db, &st, err, "SELECT acked_lsn FROM source_state WHERE source = ?", "s", o->type.source);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r > 0) {
		*ret = (uint64_t)sb_db_int(st, 0);
		sb_db_done(SB_TAKE(st));
		r = sb_db_run(s->db, NULL, err, "UPDATE source_state SET acked_lsn = acked_lsn + 1 WHERE source = ?", "s", o->type.source);
	}
	if (r == 0)
		r = sb_db_run(s->db, NULL, err, "UPDATE snapshot SET state = 'running', rows = 0 WHERE source = ? AND type = ?", "ss", AGENT_SOCKET_SOURCE, o->type.set->type);
	if (r == 0)
		r = sb_db_commit(s->db, err);
	if (r < 0)
		sb_db_rollback(s->db);
	return r;
}

/* A batch of rows after the key, which moves on; 0 when there are no more. */
static int send_rows(struct socket_source *s, struct one *o, uint64_t point, char **key, uint64_t *rows, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	bool any = false;
	size_t n;

	int r = sb_batch_begin(s->batch, &o->shape, err);
	if (r == 0)
		r = sb_db_query(s->db, &st, err, "SELECT key, document FROM entity WHERE type = ? AND key > ? AND document IS NOT NULL ORDER BY key LIMIT ?", "ssi", o->type.set->type,
			*key ? *key : "", (int64_t)BATCH_ROWS);
	while (r == 0 && (r = sb_db_step(st, err)) > 0) {
		unsigned before = sb_batch_count(s->batch);
		r = add_row(s, o, 's', point, sb_db_text(st, 0), sb_db_text(st, 1), err);
		if (r < 0)
			return r;
		if (r > 0 || sb_batch_count(s->batch) > before) {
			free(*key);
			*key = sb_strdup(sb_db_text(st, 0));
			any = true;
		}
		if (any && !*key)
			return sb_fail_nomem(err);
		r = r > 0 ? 0 : 1;
	}
	if (r < 0)
		return r;
	unsigned count = sb_batch_count(s->batch);
	const void *value = sb_batch_value(s->batch, &n);
	r = agent_publisher_wait(s->pub, s->lane, true, err);
	if (r == 0 && count > 0)
		r = agent_publisher_send(s->pub, o->snapshot_stream, SB_EV_SNAPSHOT_ROWS, o->type.set->type, SB_BATCH_CONTENT_TYPE, NULL, NULL, count, value, n, err);
	*rows += count;
	(void)sent(s, o, count); /* 1 */
	return r < 0 ? r : any;
}

static int snapshot(struct socket_source *s, struct one *o, const char *reason, struct sb_error *err)
{
	struct agent_marker m = { .stream = o->snapshot_stream, .type = o->type.set->type, .incarnation = o->shape.incarnation, .reason = reason };
	sb_cleanup(sb_freep) char *key = NULL;

	int r = take_point(s, o, &m.point, err);
	if (r == 0)
		r = agent_publisher_begun(s->pub, s->lane, &m, err);
	if (r == 0)
		r = 1;
	while (r > 0)
		r = send_rows(s, o, m.point, &key, &m.rows, err);
	if (r == 0)
		r = agent_publisher_ended(s->pub, s->lane, &m, err);
	if (r == 0)
		r = agent_publisher_wait(s->pub, s->lane, false, err);
	/* an order that came meanwhile stays */
	if (r == 0)
		r = sb_db_run(s->db, NULL, err, "UPDATE snapshot SET state = 'done', lsn = ?, rows = ? WHERE source = ? AND type = ? AND state = 'running'", "iiss",
			(int64_t)m.point, (int64_t)m.rows, AGENT_SOCKET_SOURCE, o->type.set->type);
	if (r == 0)
		sb_log(SB_INFO, "snapshot_done", "source=%s type=%s rows=%" PRIu64, AGENT_SOCKET_SOURCE, o->type.set->type, m.rows);
	return r;
}

/* --- the lane --- */

static void board(struct socket_source *s, const char *state, const char *reason)
{
	struct agent_source_state b = { .kind = "socket", .rows = s->rows };
	size_t at = 0;

	(void)snprintf(b.name, sizeof(b.name), "%s", AGENT_SOCKET_SOURCE);
	(void)snprintf(b.state, sizeof(b.state), "%s", state);
	(void)snprintf(b.progress, sizeof(b.progress), "%.*s", (int)sizeof(b.progress) - 1, reason); /* for people */
	for (size_t i = 0; i < s->n && at + SB_TYPE_MAX + 2 < sizeof(b.types); i++)
		at += (size_t)snprintf(b.types + at, sizeof(b.types) - at, "%s%s", i ? "," : "", s->one[i].type.set->type);
	agent_board_source(s->a, &b);
}

static int turn(struct socket_source *s, struct sb_error *err)
{
	char reason[200];
	int r = 0;

	for (size_t i = 0; r == 0 && i < s->n; i++) {
		r = wanted(s, &s->one[i], reason, err);
		if (r > 0)
			r = snapshot(s, &s->one[i], reason, err);
		while (r == 0 && (r = send_changes(s, &s->one[i], err)) > 0)
			r = 0;
	}
	return r;
}

int agent_socket_source_lane(struct sb_lane *lane, void *user, struct sb_error *err)
{
	struct socket_source s = { .a = user, .lane = lane };

	int r = open_all(&s, err);
	while (r == 0 && !sb_lane_stopping(lane)) {
		r = turn(&s, err);
		if (r < 0)
			break;
		board(&s, "publishing", "");
		sb_lane_note(lane, "publishing %zu types", s.n);
		(void)sb_lane_wait(lane, NULL, 0, POLL_MS); /* woken or not: looks again */
	}
	if (r < 0 && r != SB_ESHUTDOWN)
		board(&s, "down", err ? err->msg : "");
	close_all(&s);
	return r == SB_ESHUTDOWN ? 0 : r;
}
