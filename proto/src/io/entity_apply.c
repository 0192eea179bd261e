/* Applies batches. A run of whole rows goes one of two ways. New rows (inserts, rows of a snapshot) are tried as one COPY straight into the table: a key that
 * is there already refuses it, and then they go the other way, as all other runs do: COPY into a staging table, collapse to the last version of each key, one upsert
 * guarded by version. Changes that are not whole rows (unchanged TOAST values, key changes, truncates) go row by row between such runs, in order.
 *
 * A run that the server refuses because of its data is rolled back to a savepoint and halved until the bad rows stand alone: they are
 * reported, the others applied.
 *
 * Deletes: while a snapshot of the type runs, a delete leaves a tombstone, because the snapshot may still bring the row as it was before. Without
 * one the row is removed for good. That is safe: a change that could bring it back is older than the delete, the stream was read in order,
 * so its position is before `done` and it is dropped before it gets here; only snapshot rows ignore `done`.
 *
 * Thread: the lane of the connection. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "entity_private.h"

#define SMALL_RUN 4          /* up to here single statements are quicker than COPY and upsert */
#define DIRECT_PENALTY 16    /* runs of a type that are staged at once after a COPY of new rows met one that was not new; doubled each time */
#define DIRECT_PENALTY_MAX 1024

/* ---- the segment ---- */

/* A line for the staging table; what follows `place` and `op` is one for the table itself. */
static void add_line(struct entity_apply *a, const struct sb_change *c, struct entity_version v, struct entity_row *row)
{
	struct sb_buf *copy = &a->t->copy;
	char head[96];
	int n = snprintf(head, sizeof(head), "%" PRIu32 "\t%c\t", row->ord, row->op);                          /* this fits, */
	int m = snprintf(head + n, sizeof(head) - (size_t)n, "%" PRIu64 "\t%" PRIu64 "\t%" PRIu32, v.inc, v.lsn, v.seq); /* and this */

	row->at = copy->len;
	row->table_at = copy->len + (size_t)n;
	sb_buf_add(copy, head, (size_t)(n + m));
	if (a->use_all && c->text) {
		sb_buf_addc(copy, '\t');
		sb_buf_add(copy, c->text, c->text_len);
	} else {
		for (unsigned i = 0; i < c->n_cells; i++) {
			if (!a->use[i])
				continue;
			sb_buf_addc(copy, '\t');
			sb_copy_field(copy, c->cell[i].kind == SB_CELL_VALUE ? c->cell[i].p : NULL, c->cell[i].n);
		}
	}
	sb_buf_addc(copy, '\n');
}

static int segment_add(struct entity_apply *a, const struct sb_change *c, unsigned index, struct entity_version v, struct sb_error *err)
{
	struct sb_entity_tables *t = a->t;

	if (a->n_rows == t->cap_rows) {
		size_t cap = t->cap_rows ? 2 * t->cap_rows : 64;
		struct entity_row *row = reallocarray(t->row, cap, sizeof(*row));
		if (!row)
			return sb_fail_nomem(err);
		t->row = row;
		t->cap_rows = cap;
	}
	struct entity_row *row = &t->row[a->n_rows++];
	*row = (struct entity_row){ .index = index, .ord = a->type->ord++, .op = c->op };
	add_line(a, c, v, row);
	return SB_OK;
}

/* Start of row i's line; behind the last row the end of all. */
static size_t line_at(const struct entity_apply *a, size_t i)
{
	return i < a->n_rows ? a->t->row[i].at : a->t->copy.len;
}

static void add_columns(struct sb_buf *sql, const struct entity_apply *a, const char *alias)
{
	for (unsigned i = 0; i < a->shape->n_columns; i++) {
		if (!a->use[i])
			continue;
		sb_buf_addf(sql, ", %s", alias);
		sb_pg_ident(sql, a->shape->column[i].name);
	}
}

void entity_keys(struct sb_buf *sql, const struct entity_type *type, const char *alias)
{
	const char *sep = "";

	for (unsigned i = 0; i < type->shape.n_columns; i++) {
		if (!type->shape.column[i].key)
			continue;
		sb_buf_addf(sql, "%s%s", sep, alias);
		sb_pg_ident(sql, type->shape.column[i].name);
		sep = ", ";
	}
}

static void stage_name(struct sb_buf *sql, const struct entity_type *type)
{
	sb_buf_addf(sql, "pg_temp.sb_stage_%u", type->number);
}

/* The staging table of the type: lives as long as the connection, is emptied by every commit. */
static int stage_ready(struct entity_apply *a, struct sb_error *err)
{
	struct sb_buf *sql = &a->t->sql;
	struct entity_type *type = a->type;
	const char *p = type->prefix;

	if (type->staged)
		return SB_OK;
	sb_buf_reset(sql);
	sb_buf_adds(sql, "DROP TABLE IF EXISTS ");
	stage_name(sql, type);
	sb_buf_adds(sql, "; CREATE TEMPORARY TABLE ");
	stage_name(sql, type);
	sb_buf_addf(sql, " ON COMMIT DELETE ROWS AS SELECT 0::integer AS %sord, ''::\"char\" AS %sop, %sinc, %slsn, %sseq", p, p, p, p, p);
	for (unsigned i = 0; i < type->shape.n_columns; i++) {
		sb_buf_adds(sql, ", ");
		sb_pg_ident(sql, type->shape.column[i].name);
	}
	sb_buf_adds(sql, " FROM ");
	entity_table_name(sql, type);
	sb_buf_adds(sql, " WITH NO DATA");
	int rc = entity_ddl(a->t, err);
	type->staged = rc == SB_OK;
	return rc;
}

/* COPY of lines that begin with inc, lsn and seq, or with our two columns of the staging table in front of them. */
static int copy_lines(struct entity_apply *a, bool staged, const char *p, size_t n, struct sb_error *err)
{
	struct sb_buf *sql = &a->t->sql;
	const char *prefix = a->type->prefix;

	sb_buf_reset(sql);
	sb_buf_adds(sql, "COPY ");
	if (staged) {
		stage_name(sql, a->type);
		sb_buf_addf(sql, " (%sord, %sop, ", prefix, prefix);
	} else {
		entity_table_name(sql, a->type);
		sb_buf_adds(sql, " (");
	}
	sb_buf_addf(sql, "%sinc, %slsn, %sseq", prefix, prefix, prefix);
	add_columns(sql, a, "");
	sb_buf_adds(sql, ") FROM STDIN");
	int rc = sb_buf_check(sql, "statement", err);
	if (rc == SB_OK)
		rc = sb_pg_copy_in(a->t->pg, sql->data, err);
	if (rc == SB_OK)
		rc = sb_pg_copy_put(a->t->pg, p, n, err);
	return rc ? rc : sb_pg_copy_end(a->t->pg, NULL, err);
}

/* ---- the statements of a run; parameters: first and last place in the staging table ---- */

static void add_collapsed(struct sb_buf *sql, const struct entity_apply *a)
{
	const char *p = a->type->prefix;

	sb_buf_adds(sql, "SELECT DISTINCT ON (");
	entity_keys(sql, a->type, "s.");
	sb_buf_addf(sql, ") s.%sop = 'd' AS %sdeleted, s.%sinc, s.%slsn, s.%sseq", p, p, p, p, p);
	add_columns(sql, a, "s.");
	sb_buf_adds(sql, " FROM ");
	stage_name(sql, a->type);
	sb_buf_addf(sql, " s WHERE s.%sord BETWEEN $1::integer AND $2::integer ORDER BY ", p);
	entity_keys(sql, a->type, "s.");
	sb_buf_addf(sql, ", s.%slsn DESC, s.%sseq DESC, s.%sord DESC", p, p, p);
}

static void add_insert(struct sb_buf *sql, const struct entity_apply *a)
{
	const char *p = a->type->prefix;

	sb_buf_adds(sql, "INSERT INTO ");
	entity_table_name(sql, a->type);
	sb_buf_addf(sql, " AS t (%sdeleted, %sinc, %slsn, %sseq", p, p, p, p);
	add_columns(sql, a, "");
	sb_buf_adds(sql, ") ");
}

static void add_key_match(struct sb_buf *sql, const struct entity_type *type, const char *x, const char *y)
{
	for (unsigned i = 0, k = 0; i < type->shape.n_columns; i++) {
		if (!type->shape.column[i].key)
			continue;
		sb_buf_addf(sql, "%s%s.", k++ ? " AND " : "", x);
		sb_pg_ident(sql, type->shape.column[i].name);
		sb_buf_addf(sql, " = %s.", y);
		sb_pg_ident(sql, type->shape.column[i].name);
	}
}

static void upsert_statement(struct sb_buf *sql, const struct entity_apply *a)
{
	add_insert(sql, a);
	add_collapsed(sql, a);
	entity_conflict(sql, a, NULL);
}

static void delete_and_upsert_statement(struct sb_buf *sql, const struct entity_apply *a)
{
	const char *p = a->type->prefix;

	sb_buf_adds(sql, "WITH c AS MATERIALIZED (");
	add_collapsed(sql, a);
	sb_buf_adds(sql, "), d AS (DELETE FROM ");
	entity_table_name(sql, a->type);
	sb_buf_addf(sql, " t USING c WHERE c.%sdeleted AND ", p);
	add_key_match(sql, a->type, "t", "c");
	sb_buf_addf(sql, " AND (t.%sinc, t.%slsn, t.%sseq) < (c.%sinc, c.%slsn, c.%sseq) RETURNING 1), u AS (", p, p, p, p, p, p);
	add_insert(sql, a);
	sb_buf_addf(sql, "SELECT c.%sdeleted, c.%sinc, c.%slsn, c.%sseq", p, p, p, p);
	add_columns(sql, a, "c.");
	sb_buf_addf(sql, " FROM c WHERE NOT c.%sdeleted", p);
	entity_conflict(sql, a, NULL);
	sb_buf_adds(sql, " RETURNING 1) SELECT (SELECT count(*) FROM d) + (SELECT count(*) FROM u)");
}

/* A snapshot row that is older than the stored one still has the values that updates left out. moved: for rows whose key has changed since. */
static void fill_statement(struct sb_buf *sql, const struct entity_apply *a, bool moved)
{
	const struct entity_type *type = a->type;
	const char *p = type->prefix;

	sb_buf_adds(sql, "UPDATE ");
	entity_table_name(sql, type);
	sb_buf_adds(sql, " t SET ");
	for (unsigned i = 0; i < a->shape->n_columns; i++) {
		const char *name = a->shape->column[i].name;
		if (!a->use[i] || a->shape->column[i].key)
			continue;
		sb_pg_ident(sql, name);
		sb_buf_adds(sql, " = CASE WHEN ");
		sb_pg_literal(sql, name);
		sb_buf_addf(sql, " = ANY (t.%smissing) THEN s.", p);
		sb_pg_ident(sql, name);
		sb_buf_adds(sql, " ELSE t.");
		sb_pg_ident(sql, name);
		sb_buf_adds(sql, " END, ");
	}
	sb_buf_addf(sql, "%smissing = NULL, %smoved = NULL FROM ", p, p);
	stage_name(sql, type);
	sb_buf_addf(sql, " s WHERE s.%sop = 's' AND s.%sord BETWEEN $1::integer AND $2::integer AND t.%smissing IS NOT NULL AND NOT t.%sdeleted"
		" AND (t.%sinc, t.%slsn, t.%sseq) > (s.%sinc, s.%slsn, 0) AND ", p, p, p, p, p, p, p, p, p);
	if (!moved) { /* a row that moved here waits for another's value */
		sb_buf_addf(sql, "t.%smoved IS NULL AND ", p);
		add_key_match(sql, type, "t", "s");
		return;
	}
	sb_buf_addf(sql, "t.%smoved = ARRAY[", p);
	for (unsigned i = 0, k = 0; i < type->shape.n_columns; i++) {
		if (!type->shape.column[i].key)
			continue;
		sb_buf_adds(sql, k++ ? ", s." : "s.");
		sb_pg_ident(sql, type->shape.column[i].name);
		sb_buf_adds(sql, "::text");
	}
	sb_buf_addc(sql, ']');
}

static void distinct_statement(struct sb_buf *sql, const struct entity_apply *a)
{
	sb_buf_adds(sql, "SELECT count(*) FROM (SELECT DISTINCT ");
	entity_keys(sql, a->type, "s.");
	sb_buf_adds(sql, " FROM ");
	stage_name(sql, a->type);
	sb_buf_addf(sql, " s WHERE s.%sord BETWEEN $1::integer AND $2::integer) k", a->type->prefix);
}

/* Runs t->sql; ret_n: its one number, or the rows that it changed. */
static int run_counted(struct entity_apply *a, const char *const param[2], uint64_t *ret_n, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	int rc = sb_buf_check(&a->t->sql, "statement", err);

	if (rc == SB_OK)
		rc = sb_pg_exec(a->t->pg, a->t->sql.data, 2, param, &res, err);
	if (rc == SB_OK)
		*ret_n = (uint64_t)(sb_pg_columns(res) ? sb_pg_get_i64(res, 0, 0) : sb_pg_affected(res));
	return rc;
}

static int run_range(struct entity_apply *a, size_t lo, size_t hi, struct sb_apply_stats *stats, struct sb_error *err)
{
	const struct entity_row *row = a->t->row;
	char first[16], last[16];
	const char *const param[2] = { first, last };
	uint64_t changed = 0, keys = 0, filled = 0;
	bool deletes = false, snapshot_rows = false;
	struct sb_buf *sql = &a->t->sql;

	for (size_t i = lo; i < hi; i++) {
		deletes = deletes || row[i].op == 'd';
		snapshot_rows = snapshot_rows || row[i].op == 's';
	}
	(void)snprintf(first, sizeof(first), "%" PRIu32, row[lo].ord); /* these two fit */
	(void)snprintf(last, sizeof(last), "%" PRIu32, row[hi - 1].ord);
	sb_buf_reset(sql);
	if (deletes && !a->type->snapshot)
		delete_and_upsert_statement(sql, a);
	else
		upsert_statement(sql, a);
	int rc = run_counted(a, param, &changed, err);
	for (unsigned moved = 0; rc == SB_OK && snapshot_rows && a->type->partial && moved < 2; moved++) {
		sb_buf_reset(sql);
		fill_statement(sql, a, moved);
		rc = run_counted(a, param, &filled, err);
		changed += filled;
	}
	if (rc == SB_OK && changed < hi - lo) { /* some keys came twice or are stored newer: tell these apart */
		sb_buf_reset(sql);
		distinct_statement(sql, a);
		rc = run_counted(a, param, &keys, err);
		stats->stale = keys > changed ? keys - changed : 0;
	}
	stats->applied = hi - lo - stats->stale;
	return rc;
}

/* Versions are recorded by statement: where they are, a run with two changes of one row is refused here, and halved. */
static int each_key_once(struct entity_apply *a, size_t lo, size_t hi, struct sb_error *err)
{
	char first[16], last[16];
	const char *const param[2] = { first, last };
	uint64_t keys = 0;

	(void)snprintf(first, sizeof(first), "%" PRIu32, a->t->row[lo].ord); /* both fit */
	(void)snprintf(last, sizeof(last), "%" PRIu32, a->t->row[hi - 1].ord);
	sb_buf_reset(&a->t->sql);
	distinct_statement(&a->t->sql, a);
	int rc = run_counted(a, param, &keys, err);
	return rc == SB_OK && keys < hi - lo ? sb_fail(err, SB_EDATA, "two changes of one row") : rc;
}

static int stage_range(struct entity_apply *a, size_t lo, size_t hi, struct sb_error *err)
{
	struct sb_apply_stats stats = { 0 };
	struct sb_error why = SB_ERROR_INIT;
	int rc = entity_savepoint(a->t, err);
	if (rc)
		return rc;
	rc = copy_lines(a, true, a->t->copy.data + line_at(a, lo), line_at(a, hi) - line_at(a, lo), &why);
	if (rc == SB_OK && a->type->history)
		rc = each_key_once(a, lo, hi, &why);
	if (rc == SB_OK)
		rc = run_range(a, lo, hi, &stats, &why);
	if (rc == SB_EDATA) {
		rc = entity_savepoint_undo(a->t, err);
		return rc ? rc : SB_EDATA; /* err stays clean: the halves are tried next */
	}
	if (rc) {
		if (err)
			*err = why;
		return rc;
	}
	a->stats->applied += stats.applied;
	a->stats->stale += stats.stale;
	return entity_savepoint_keep(a->t, err);
}

/* ---- row by row ---- */

static int row_in_savepoint(struct entity_apply *a, const struct sb_change *c, struct sb_error *err)
{
	struct sb_error why = SB_ERROR_INIT;
	bool applied = false;
	int rc = entity_savepoint(a->t, err);
	if (rc)
		return rc;
	rc = entity_row_apply(a, c, &applied, &why);
	if (rc == SB_OK) {
		a->stats->applied += applied;
		a->stats->stale += !applied;
		return entity_savepoint_keep(a->t, err);
	}
	if (rc != SB_EDATA) {
		if (err)
			*err = why;
		return rc;
	}
	rc = entity_savepoint_undo(a->t, err);
	if (rc)
		return rc;
	a->stats->refused++;
	if (a->refused && a->refused(a->user, a->shape, c, &why) != 0)
		return sb_fail(err, SB_EDATA, "entity type \"%s\": stopped after a refused row", a->shape->type);
	return SB_OK;
}

/* Rows lo..hi of the segment, from a second reading of the batch that only goes forward: refused rows come in order. */
static int rows_range(struct entity_apply *a, size_t lo, size_t hi, struct sb_error *err)
{
	int rc = SB_OK;

	if (!a->again) {
		rc = sb_batch_open(&a->again, a->value, a->value_len, err);
		a->again_at = 0;
	}
	for (; lo < hi && rc == SB_OK; lo++) {
		struct sb_change c;
		do
			rc = sb_batch_next(a->again, &c, err);
		while (rc > 0 && a->again_at++ < a->t->row[lo].index);
		rc = rc > 0 ? row_in_savepoint(a, &c, err) : rc ? rc : sb_fail(err, SB_EPROTO, "batch ended early");
	}
	return rc;
}

static int apply_range(struct entity_apply *a, size_t lo, size_t hi, struct sb_error *err)
{
	/* rows with missing columns are filled by the staged statements only */
	if (hi - lo <= (a->type->partial ? 0 : SMALL_RUN))
		return rows_range(a, lo, hi, err);
	int rc = stage_range(a, lo, hi, err);
	if (rc != SB_EDATA)
		return rc;
	if (hi - lo == 1)
		return rows_range(a, lo, hi, err);
	size_t middle = lo + (hi - lo) / 2;
	rc = apply_range(a, lo, middle, err);
	return rc ? rc : apply_range(a, middle, hi, err);
}

/* ---- new rows ---- */

static bool all_new(struct entity_apply *a)
{
	struct entity_type *type = a->type;

	/* rows with missing columns are filled by the staged statements only */
	if (type->partial)
		return false;
	for (size_t i = 0; i < a->n_rows; i++)
		if (a->t->row[i].op != 'i' && a->t->row[i].op != 's')
			return false;
	if (type->direct_skip == 0)
		return true;
	type->direct_skip--;
	return false;
}

static int copy_new(struct entity_apply *a, struct sb_error *err)
{
	struct sb_buf *direct = &a->t->direct;

	sb_buf_reset(direct);
	for (size_t i = 0; i < a->n_rows; i++)
		sb_buf_add(direct, a->t->copy.data + a->t->row[i].table_at, line_at(a, i + 1) - a->t->row[i].table_at);
	int rc = sb_buf_check(direct, "batch", err);
	return rc ? rc : copy_lines(a, false, direct->data, direct->len, err);
}

/* The whole segment straight into the table; *ret_done false: a row was not new, or was refused, and nothing is changed. */
static int direct(struct entity_apply *a, bool *ret_done, struct sb_error *err)
{
	struct entity_type *type = a->type;
	struct sb_error why = SB_ERROR_INIT;

	int rc = entity_savepoint(a->t, err);
	if (rc)
		return rc;
	rc = copy_new(a, &why);
	*ret_done = rc == SB_OK;
	if (rc == SB_OK) {
		type->direct_penalty = 0;
		a->stats->applied += a->n_rows;
		return entity_savepoint_keep(a->t, err);
	}
	if (rc != SB_EDATA) {
		if (err)
			*err = why;
		return rc;
	}
	if (strcmp(why.state, "23505") == 0) { /* unique_violation */
		type->direct_penalty = type->direct_penalty == 0 ? DIRECT_PENALTY : type->direct_penalty < DIRECT_PENALTY_MAX ? 2 * type->direct_penalty : DIRECT_PENALTY_MAX;
		type->direct_skip = type->direct_penalty;
	}
	return entity_savepoint_undo(a->t, err);
}

static int segment_flush(struct entity_apply *a, struct sb_error *err)
{
	bool staged = a->n_rows > (a->type->partial ? 0 : SMALL_RUN), done = false;
	int rc = sb_buf_check(&a->t->copy, "batch", err);

	if (rc == SB_OK && staged && all_new(a))
		rc = direct(a, &done, err);
	if (rc == SB_OK && staged && !done)
		rc = stage_ready(a, err); /* outside the savepoint, or refused data would undo it */
	if (rc == SB_OK && a->n_rows && !done)
		rc = apply_range(a, 0, a->n_rows, err);
	a->n_rows = 0;
	sb_buf_reset(&a->t->copy);
	return rc;
}

/* ---- the batch ---- */

/* Brings the table to the batch's shape unless the table's is newer (rows of a snapshot taken before a change of the table), and finds
 * the columns that have a place. Called at the first change that counts: a repeated old batch must not undo a later shape. */
static int fit(struct entity_apply *a, struct entity_version v, struct sb_error *err)
{
	struct entity_type *type = a->type;

	if (!type->has_table || (!sb_shape_equal(&type->shape, a->shape) && entity_version_cmp(v, type->shape_at) >= 0)) {
		int rc = entity_evolve(a->t, type, a->shape, v, err);
		if (rc == SB_OK)
			rc = entity_type_load(a->t, a->shape->type, &type, err);
		if (rc)
			return rc;
	}
	int told = entity_history_tell(a->t, type, err);
	if (told)
		return told;
	uint64_t tx = sb_pg_tx(a->t->pg).begun;
	if (type->staged_in != tx)
		type->ord = 0;
	type->staged_in = tx;
	a->use = calloc(a->shape->n_columns, sizeof(*a->use));
	if (!a->use)
		return sb_fail_nomem(err);
	unsigned keys = 0;
	a->use_all = true;
	for (unsigned i = 0; i < a->shape->n_columns; i++) {
		const struct sb_column *c = entity_shape_find(&type->shape, a->shape->column[i].name);
		a->use[i] = c != NULL;
		a->use_all = a->use_all && a->use[i];
		a->unfit = a->unfit || a->shape->column[i].key != (c && c->key);
		keys += a->shape->column[i].key;
	}
	for (unsigned i = 0; i < type->shape.n_columns; i++)
		keys -= type->shape.column[i].key;
	a->unfit = a->unfit || keys != 0;
	return SB_OK;
}

static bool whole_row(const struct sb_change *c)
{
	if (c->op == 'k' || c->op == 't')
		return false;
	for (unsigned i = 0; i < c->n_cells; i++)
		if (c->cell[i].kind == SB_CELL_UNCHANGED)
			return false;
	return true;
}

static int apply_change(struct entity_apply *a, const struct sb_change *c, unsigned index, struct sb_position done, struct sb_error *err)
{
	struct entity_version v = { a->shape->incarnation, c->lsn, c->op == 's' ? 0 : c->seq };
	struct sb_position at = { c->lsn, c->seq };

	if (c->lsn > INT64_MAX || c->seq > INT32_MAX)
		return sb_fail(err, SB_EPROTO, "entity type \"%s\": position of change %u is out of range", a->shape->type, index + 1);
	if ((c->op != 's' && sb_position_cmp(at, done) < 0) || entity_version_cmp(v, a->type->truncated) < 0) {
		a->stats->stale++;
		return SB_OK;
	}
	if (!a->use) {
		int rc = fit(a, v, err);
		if (rc)
			return rc;
	}
	if (a->unfit) {
		a->stats->stale++;
		return SB_OK;
	}
	if (whole_row(c))
		return segment_add(a, c, index, v, err);
	int rc = segment_flush(a, err);
	return rc ? rc : row_in_savepoint(a, c, err);
}

int sb_entity_apply(struct sb_entity_tables *t, const void *value, size_t n, struct sb_position done, sb_row_refused_fn refused, void *user,
	struct sb_apply_stats *stats, struct sb_error *err)
{
	struct sb_apply_stats mine = { 0 };
	struct entity_apply a = { .t = t, .value = value, .value_len = n, .refused = refused, .user = user, .stats = &mine };
	struct sb_batch_reader *r = NULL;
	struct sb_change c;

	sb_buf_reset(&t->copy);
	int rc = entity_enter(t, err);
	if (rc == SB_OK)
		rc = sb_batch_open(&r, value, n, err);
	if (rc)
		goto out;
	a.shape = sb_batch_shape(r);
	rc = entity_type_load(t, a.shape->type, &a.type, err);
	for (unsigned index = 0; rc == SB_OK; index++) {
		rc = sb_batch_next(r, &c, err);
		if (rc <= 0)
			break;
		rc = apply_change(&a, &c, index, done, err);
	}
	/* a batch without changes tells the columns of an empty table */
	if (rc == SB_OK && !a.type->has_table && !a.use)
		rc = fit(&a, (struct entity_version){ a.shape->incarnation, 0, 0 }, err);
	if (rc == SB_OK)
		rc = segment_flush(&a, err);
	if (rc == SB_OK && stats)
		*stats = mine;
out:
	sb_batch_close(r);
	sb_batch_close(a.again);
	free(a.use);
	return rc;
}
