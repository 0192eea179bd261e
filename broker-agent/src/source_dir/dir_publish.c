/* From rows to records, so that no crash loses or repeats a change. Every change has a number of its own, (incarnation, number, 0) is its version. Before a
 * batch is sent, the numbers that it uses are stored and its keys are put in doubt (an empty hash equals nothing, so they are published again after a
 * crash, under higher numbers); when the broker has it, the hashes are stored and the position moves on. The source's lane. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "dirsrc.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "stagebridge/metric.h"

int dirsrc_wait(struct dirsrc *s, bool for_room, struct sb_error *err)
{
	int r = agent_publisher_poll(s->pub, 0, err);

	while (r == 0 && (for_room ? agent_publisher_full(s->pub) : agent_publisher_in_flight(s->pub) > 0)) {
		struct pollfd fd = { .fd = agent_publisher_fd(s->pub), .events = POLLIN };
		if (sb_lane_stopping(s->lane))
			return sb_fail(err, SB_ESHUTDOWN, "stopped while the broker was waited for");
		(void)sb_lane_wait(s->lane, &fd, 1, 1000); /* polled below in any case */
		r = agent_publisher_poll(s->pub, 0, err);
	}
	return r;
}

/* --- state --- */

static int position_key(const struct dirsrc *s, char key[192], struct sb_error *err)
{
	return sb_format(key, 192, err, "position/%s/%s", s->set->name, s->set->type);
}

/* JSON array of the CSV columns that were ever published: a file that lacks one has NULL there. Returns new. */
static char *columns_text(const struct dirsrc *s)
{
	json_auto_t *list = json_array();

	for (unsigned i = 0; list && i < s->shape.n_columns; i++) {
		if (json_array_append_new(list, json_string(s->shape.column[i].name)) < 0)
			return NULL;
	}
	return list ? json_dumps(list, JSON_COMPACT) : NULL;
}

static int store_numbers(struct dirsrc *s, struct sb_error *err)
{
	return sb_db_run(s->db, NULL, err, "UPDATE source_state SET acked_lsn = ?, updated_ms = ? WHERE source = ?", "iis", (int64_t)s->next, sb_wall_ms(), s->set->name);
}

static int store_position(struct dirsrc *s, struct sb_position p, struct sb_error *err)
{
	char key[192], text[SB_POSITION_LEN + 1];

	sb_position_format(text, p);
	int r = position_key(s, key, err);
	return r < 0 ? r : sb_db_run(s->db, NULL, err, "INSERT OR REPLACE INTO meta(key, value) VALUES (?, ?)", "ss", key, text);
}

static int in_transaction(struct dirsrc *s, int (*fn)(struct dirsrc *s, struct sb_error *err), struct sb_error *err)
{
	int r = sb_db_begin(s->db, err);

	if (r < 0)
		return r;
	r = fn(s, err);
	if (r == 0)
		r = sb_db_commit(s->db, err);
	if (r < 0)
		sb_db_rollback(s->db);
	return r;
}

/* --- changes --- */

static int in_doubt(struct dirsrc *s, struct sb_error *err)
{
	int r = store_numbers(s, err);

	if (r == 0)
		r = sb_db_run(s->db, NULL, err,
			"INSERT INTO document(source, type, key, hash) SELECT ?, ?, key, '' FROM temp.pending WHERE true ON CONFLICT(source, key) DO UPDATE SET hash = ''", "ss",
			s->set->name, s->set->type);
	return r;
}

static int settled(struct dirsrc *s, struct sb_error *err)
{
	int r = sb_db_run(s->db, NULL, err, "DELETE FROM document WHERE source = ? AND key IN (SELECT key FROM temp.pending WHERE hash IS NULL)", "s", s->set->name);

	if (r == 0)
		r = sb_db_run(s->db, NULL, err,
			"INSERT INTO document(source, type, key, hash) SELECT ?, ?, key, hash FROM temp.pending WHERE hash IS NOT NULL"
			" ON CONFLICT(source, key) DO UPDATE SET hash = excluded.hash", "ss", s->set->name, s->set->type);
	if (r == 0)
		r = store_position(s, s->from, err);
	return r;
}

/* The batch is empty again, with the shape of now. */
static int sent(struct dirsrc *s, unsigned n, struct sb_error *err)
{
	s->rows += n;
	sb_metric_add(sb_metric("stagebridge_source_rows_total", SB_COUNTER, "type", "Changes sent to the broker"), s->set->type, n);
	return sb_batch_begin(s->batch, &s->shape, err);
}

static int send_changes(struct dirsrc *s, struct sb_error *err)
{
	const struct sb_position to = { .lsn = s->next };
	unsigned count = sb_batch_count(s->batch);
	size_t n;

	if (count == 0)
		return 0;
	int r = in_transaction(s, in_doubt, err);
	if (r == 0)
		r = dirsrc_wait(s, true, err);
	const void *value = sb_batch_value(s->batch, &n);
	if (r == 0)
		r = agent_publisher_send(s->pub, s->stream, SB_EV_ENTITY_CHANGED, s->set->type, SB_BATCH_CONTENT_TYPE, &s->from, &to, count, value, n, err);
	if (r == 0)
		r = dirsrc_wait(s, false, err);
	if (r < 0)
		return r;
	s->from = to;
	r = in_transaction(s, settled, err);
	if (r == 0)
		r = sb_db_run(s->db, NULL, err, "DELETE FROM temp.pending", "");
	return r < 0 ? r : sent(s, count, err);
}

static int send_rows(struct dirsrc *s, struct sb_error *err)
{
	unsigned count = sb_batch_count(s->batch);
	size_t n;

	if (count == 0)
		return 0;
	int r = dirsrc_wait(s, true, err);
	const void *value = sb_batch_value(s->batch, &n);
	if (r == 0)
		r = agent_publisher_send(s->pub, s->snapshot_stream, SB_EV_SNAPSHOT_ROWS, s->set->type, SB_BATCH_CONTENT_TYPE, NULL, NULL, count, value, n, err);
	s->sent_rows += count;
	return r < 0 ? r : sent(s, count, err);
}

static int send(struct dirsrc *s, struct sb_error *err)
{
	return s->snapshot ? send_rows(s, err) : send_changes(s, err);
}

/* hash NULL: deleted. A change that does not fit a record is withheld, and not tried again until it changes. */
static int add(struct dirsrc *s, struct sb_change *c, const char *key, const char *hash, const char *where, unsigned line, struct sb_error *err)
{
	struct sb_error why = SB_ERROR_INIT;
	int r = 0;

	if (sb_batch_count(s->batch) == 0)
		r = sb_batch_begin(s->batch, &s->shape, err);
	if (r < 0)
		return r;
	c->lsn = s->snapshot ? s->point : s->next;
	r = sb_batch_add(s->batch, c, &why);
	if (r == SB_ETOOBIG && sb_batch_count(s->batch) > 0) {
		r = send(s, err);
		if (r < 0)
			return r;
		r = sb_batch_add(s->batch, c, &why);
	}
	if (r == SB_ETOOBIG || r == SB_EPROTO || r == SB_EINVAL) {
		sb_log_error(SB_ERROR, "row_withheld", &why, "source=%s file=%s line=%u", s->set->name, where, line);
		return 0;
	}
	if (r < 0)
		return sb_fail(err, (enum sb_code)r, "%s", why.msg);
	if (!s->snapshot) {
		s->next++;
		r = sb_db_run(s->db, NULL, err, "INSERT OR REPLACE INTO temp.pending(key, hash) VALUES (?, ?)", "ss", key, hash);
		if (r < 0)
			return r;
	}
	size_t n;
	(void)sb_batch_value(s->batch, &n); /* only its length */
	return n >= DIRSRC_BATCH_BYTES || sb_batch_count(s->batch) >= DIRSRC_BATCH_ROWS ? send(s, err) : 0;
}

static int grow_cells(struct dirsrc *s, struct sb_error *err)
{
	struct sb_cell *cell = realloc(s->cell, s->shape.n_columns * sizeof(*cell));

	if (!cell)
		return sb_fail_nomem(err);
	s->cell = cell;
	memset(cell, 0, s->shape.n_columns * sizeof(*cell)); /* kind 0 is NULL */
	return 0;
}

static int on_document(struct dirsrc *s, const struct dirsrc_document *doc, bool is_new, struct sb_error *err)
{
	bool csv = s->set->format == AGENT_DIR_CSV;
	int r = 0;

	/* a file of another header: rows before it keep their shape */
	if (s->shape_sent != s->shape.n_columns && sb_batch_count(s->batch) > 0)
		r = send(s, err);
	s->shape_sent = s->shape.n_columns;
	if (r == 0)
		r = grow_cells(s, err);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < doc->n_cells; i++)
		s->cell[csv ? s->place[i] : i] = doc->cell[i];
	struct sb_change c = { .op = s->snapshot ? 's' : is_new ? 'i' : 'u', .n_cells = s->shape.n_columns, .cell = s->cell };
	return add(s, &c, doc->key, doc->hash, s->now->name, doc->line, err);
}

/* A key that no file holds any more. Its own statement each time: the rows change below. */
static int next_deleted(struct dirsrc *s, char **key, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(s->db, &st, err,
		"SELECT d.key FROM document d WHERE d.source = ? AND d.key > ? AND NOT EXISTS (SELECT 1 FROM temp.seen s WHERE s.key = d.key) ORDER BY d.key LIMIT 1", "ss",
		s->set->name, *key ? *key : "");
	if (r == 0)
		r = sb_db_step(st, err);
	if (r <= 0)
		return r;
	char *found = sb_strdup(sb_db_text(st, 0));
	free(*key);
	*key = found;
	return found ? 1 : sb_fail_nomem(err);
}

static int deletions(struct dirsrc *s, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *key = NULL;
	int r;

	while ((r = next_deleted(s, &key, err)) > 0) {
		r = grow_cells(s, err);
		for (unsigned i = 0; r == 0 && i < s->shape.n_columns; i++) {
			if (s->shape.column[i].key)
				s->cell[i] = (struct sb_cell){ .kind = SB_CELL_VALUE, .p = key, .n = strlen(key) };
		}
		struct sb_change c = { .op = 'd', .n_cells = s->shape.n_columns, .cell = s->cell };
		if (r == 0)
			r = add(s, &c, key, NULL, "(deleted)", 0, err);
		if (r < 0)
			return r;
	}
	return r;
}

static int store_columns(struct dirsrc *s, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *columns = columns_text(s);

	if (!columns)
		return sb_fail_nomem(err);
	return sb_db_run(s->db, NULL, err, "UPDATE snapshot SET shape = ? WHERE source = ? AND type = ? AND shape <> ?", "ssss", columns, s->set->name, s->set->type, columns);
}

int dirsrc_changes(struct dirsrc *s, struct sb_error *err)
{
	s->snapshot = false;
	int r = dirsrc_read(s, on_document, err);
	/* while a file cannot be read it is not known which keys are in it */
	if (r == 0 && s->look_for_deleted && !s->moving && !dirsrc_unknown_files(s)) {
		r = deletions(s, err);
		s->look_for_deleted = r < 0;
	}
	if (r == 0)
		r = send_changes(s, err);
	return r < 0 ? r : store_columns(s, err);
}

/* --- snapshots --- */

/* Takes value. */
static int marker(struct dirsrc *s, enum sb_event event, json_t *value, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *text = value ? json_dumps(value, JSON_COMPACT | JSON_SORT_KEYS) : NULL;

	json_decref(value);
	if (!text)
		return sb_fail_nomem(err);
	int r = dirsrc_wait(s, true, err);
	return r < 0 ? r : agent_publisher_send(s->pub, s->snapshot_stream, event, s->set->type, NULL, NULL, NULL, 0, text, strlen(text), err);
}

static int begin_snapshot(struct dirsrc *s, struct sb_error *err)
{
	int r = store_numbers(s, err);

	if (r == 0)
		r = sb_db_run(s->db, NULL, err, "UPDATE snapshot SET state = 'running', rows = 0 WHERE source = ? AND type = ?", "ss", s->set->name, s->set->type);
	return r;
}

static int end_snapshot(struct dirsrc *s, struct sb_error *err)
{
	int r = sb_db_run(s->db, NULL, err, "DELETE FROM document WHERE source = ?", "s", s->set->name);

	if (r == 0)
		r = sb_db_run(s->db, NULL, err, "INSERT INTO document(source, type, key, hash) SELECT ?, ?, key, hash FROM temp.seen", "ss", s->set->name, s->set->type);
	/* an order that came meanwhile stays */
	if (r == 0)
		r = sb_db_run(s->db, NULL, err, "UPDATE snapshot SET state = 'done', lsn = ?, rows = ? WHERE source = ? AND type = ? AND state = 'running'", "iiss",
			(int64_t)s->point, (int64_t)s->sent_rows, s->set->name, s->set->type);
	return r < 0 ? r : store_columns(s, err);
}

static int forget_all(struct dirsrc *s, struct sb_error *err)
{
	for (size_t i = 0; i < s->files.count; i++)
		s->files.item[i].taken = false;
	int r = sb_db_run(s->db, NULL, err, "DELETE FROM temp.seen", "");
	return r < 0 ? r : sb_db_run(s->db, NULL, err, "DELETE FROM temp.pending", "");
}

int dirsrc_snapshot(struct dirsrc *s, const char *reason, struct sb_error *err)
{
	const json_int_t incarnation = (json_int_t)s->shape.incarnation;
	char lsn[20];

	s->point = s->next++;
	s->sent_rows = 0;
	s->snapshot = true;
	sb_lsn_format(lsn, s->point);
	int r = forget_all(s, err);
	if (r == 0)
		r = in_transaction(s, begin_snapshot, err);
	if (r == 0)
		r = marker(s, SB_EV_SNAPSHOT_BEGUN, json_pack("{s:s, s:I, s:s, s:s}", "type", s->set->type, "incarnation", incarnation, "snapshot", lsn, "reason", reason), err);
	if (r == 0)
		r = dirsrc_read(s, on_document, err);
	if (r == 0)
		r = send_rows(s, err);
	if (r == 0)
		r = marker(s, SB_EV_SNAPSHOT_ENDED, json_pack("{s:s, s:I, s:s, s:s, s:I}", "type", s->set->type, "incarnation", incarnation, "snapshot", lsn, "lsn", lsn,
			"rows", (json_int_t)s->sent_rows), err);
	if (r == 0)
		r = dirsrc_wait(s, false, err);
	if (r == 0)
		r = in_transaction(s, end_snapshot, err);
	s->snapshot = false;
	if (r == 0)
		sb_log(SB_INFO, "snapshot_done", "source=%s type=%s rows=%" PRIu64, s->set->name, s->set->type, s->sent_rows);
	return r;
}

/* --- opening --- */

static int load_columns(struct dirsrc *s, const char *text, struct sb_error *err)
{
	json_auto_t *list = *text ? json_loads(text, JSON_REJECT_DUPLICATES, NULL) : json_array();
	size_t i;
	json_t *name;

	s->shape.column = calloc(json_array_size(list) + 2, sizeof(*s->shape.column));
	if (!s->shape.column)
		return sb_fail_nomem(err);
	if (s->set->format != AGENT_DIR_CSV) {
		s->shape.column[0] = (struct sb_column){ .name = sb_strdup(dirsrc_key_column(s->set)), .type = sb_strdup("text"), .key = true };
		s->shape.column[1] = (struct sb_column){ .name = sb_strdup("document"), .type = sb_strdup("jsonb") };
		s->shape.n_columns = 2;
		return 0;
	}
	json_array_foreach(list, i, name) {
		const char *text_of = json_string_value(name);
		struct sb_column *c = &s->shape.column[s->shape.n_columns++];
		*c = (struct sb_column){ .name = sb_strdup(text_of ? text_of : ""), .type = sb_strdup("text"), .key = text_of && strcmp(text_of, s->set->key) == 0 };
		if (!c->name || !c->type)
			return sb_fail_nomem(err);
	}
	return 0;
}

static int load_state(struct dirsrc *s, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL, *shape = NULL, *position = NULL;
	char key[192];

	int r = sb_db_query(s->db, &st, err, "SELECT incarnation, acked_lsn FROM source_state WHERE source = ?", "s", s->set->name);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	/* with the state lost there may have been lives before: the session is above their number, being made of the time */
	s->shape.incarnation = r ? (uint64_t)sb_db_int(st, 0) : s->a->session;
	s->next = r ? (uint64_t)sb_db_int(st, 1) : 1;
	bool known = r > 0;
	sb_db_done(SB_TAKE(st));
	r = 0;
	if (!known)
		r = sb_db_run(s->db, NULL, err, "INSERT INTO source_state(source, incarnation, acked_lsn, updated_ms) VALUES (?, ?, ?, ?)", "siii", s->set->name,
			(int64_t)s->shape.incarnation, (int64_t)s->next, sb_wall_ms());
	if (r == 0)
		r = sb_db_run(s->db, NULL, err, "INSERT INTO snapshot(source, type, state, reason) VALUES (?, ?, 'wanted', 'first') ON CONFLICT DO NOTHING", "ss",
			s->set->name, s->set->type);
	if (r == 0)
		r = sb_db_query(s->db, &shape, err, "SELECT shape FROM snapshot WHERE source = ? AND type = ?", "ss", s->set->name, s->set->type);
	if (r == 0)
		r = sb_db_step(shape, err);
	if (r >= 0)
		r = load_columns(s, r > 0 ? sb_db_text(shape, 0) : "", err);
	s->from = (struct sb_position){ .lsn = s->next };
	if (r == 0)
		r = position_key(s, key, err);
	if (r == 0)
		r = sb_db_query(s->db, &position, err, "SELECT value FROM meta WHERE key = ?", "s", key);
	if (r == 0)
		r = sb_db_step(position, err);
	return r > 0 ? sb_position_parse(sb_db_text(position, 0), &s->from, err) : r;
}

int dirsrc_open(struct dirsrc *s, struct sb_error *err)
{
	char name[SB_NAME_MAX + 16];
	uint64_t session = 0;

	int r = sb_format(s->shape.type, sizeof(s->shape.type), err, "%s", s->set->type);
	if (r == 0)
		r = sb_format(s->stream, sizeof(s->stream), err, "entity/%s", s->set->type);
	if (r == 0)
		r = sb_format(s->snapshot_stream, sizeof(s->snapshot_stream), err, "snapshot/%s", s->set->type);
	if (r == 0)
		r = sb_format(name, sizeof(name), err, "source/%s", s->set->name);
	if (r == 0)
		r = agent_state_open(&s->db, s->a, err);
	if (r == 0)
		r = sb_db_script(s->db, "CREATE TEMP TABLE seen(key TEXT PRIMARY KEY, file TEXT NOT NULL, hash TEXT NOT NULL) WITHOUT ROWID;"
			"CREATE INDEX temp.seen_file ON seen(file); CREATE TEMP TABLE pending(key TEXT PRIMARY KEY, hash TEXT) WITHOUT ROWID", err);
	if (r == 0)
		r = load_state(s, err);
	if (r == 0)
		r = agent_state_session(s->db, name, s->a->session, &session, err);
	if (r == 0)
		r = agent_publisher_new(&s->pub, s->a, session, err);
	return r < 0 ? r : sb_batch_new(&s->batch, err);
}

void dirsrc_close(struct dirsrc *s)
{
	agent_publisher_free(s->pub);
	sb_batch_free(s->batch);
	dirsrc_files_release(&s->files);
	sb_shape_release(&s->shape);
	free(s->place);
	free(s->cell);
	sb_db_close(s->db);
}
