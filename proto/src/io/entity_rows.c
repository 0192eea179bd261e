/* One change, one or two statements: what the fast path cannot express, and whatever it was refused. The caller holds a savepoint.
 *
 * An update with unchanged TOAST values sets the other columns and keeps these. When the row is not here yet (its snapshot row is still to
 * come) it is stored without them and they are noted as missing; the snapshot row fills them in later although its version is older.
 * A key change writes the row under its new key, taking unchanged values from the old row, and removes the old key at the same version.
 *
 * Thread: the lane of the connection. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "entity_private.h"

/* Parameters of one statement. Text is collected first: pointers into a growing buffer would not hold. */
struct params {
	struct sb_buf text;
	size_t *at;             /* offset + 1; 0: SQL NULL */
	const char **value;
	unsigned n, cap;
};

static void params_release(struct params *p)
{
	sb_buf_release(&p->text);
	free(p->at);
	free(p->value);
}

static int params_init(struct params *p, unsigned cap, struct sb_error *err)
{
	*p = (struct params){ .cap = cap };
	sb_buf_init(&p->text, (size_t)4 * 1024 * 1024); /* a change is smaller than its batch */
	p->at = calloc(p->cap, sizeof(*p->at));
	p->value = calloc(p->cap, sizeof(*p->value));
	return p->at && p->value ? SB_OK : sb_fail_nomem(err);
}

/* Each returns the number that names the parameter in the statement. */
static unsigned param_text(struct params *p, const char *s, size_t n)
{
	p->at[p->n++] = s ? p->text.len + 1 : 0;
	if (s) {
		sb_buf_add(&p->text, s, n);
		sb_buf_addc(&p->text, '\0');
	}
	return p->n;
}

static unsigned param_cell(struct params *p, const struct sb_cell *c)
{
	return param_text(p, c->kind == SB_CELL_VALUE ? c->p : NULL, c->n);
}

static unsigned param_number(struct params *p, uint64_t v)
{
	char s[24];
	int n = snprintf(s, sizeof(s), "%" PRIu64, v); /* fits */

	return param_text(p, s, (size_t)n);
}

/* Runs t->sql; ret_changed: rows it changed. With a result, its first value is given in ret_first ('t', 'f', 0 for none). */
static int params_run(struct params *p, struct entity_apply *a, uint64_t *ret_changed, char *ret_first, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	int rc = sb_buf_check(&a->t->sql, "statement", err);

	if (rc == SB_OK)
		rc = sb_buf_check(&p->text, "row", err);
	if (rc)
		return rc;
	for (unsigned i = 0; i < p->n; i++)
		p->value[i] = p->at[i] ? p->text.data + p->at[i] - 1 : NULL;
	rc = sb_pg_exec(a->t->pg, a->t->sql.data, p->n, p->value, &res, err);
	if (rc)
		return rc;
	*ret_changed = (uint64_t)sb_pg_affected(res);
	if (ret_first)
		*ret_first = sb_pg_columns(res) && sb_pg_rows(res) && sb_pg_get(res, 0, 0) ? *sb_pg_get(res, 0, 0) : '\0';
	return SB_OK;
}

static struct entity_version version_of(const struct entity_apply *a, const struct sb_change *c)
{
	return (struct entity_version){ a->shape->incarnation, c->lsn, c->op == 's' ? 0 : c->seq };
}

void entity_conflict(struct sb_buf *sql, const struct entity_apply *a, const bool *skip)
{
	const char *p = a->type->prefix;

	sb_buf_adds(sql, " ON CONFLICT (");
	entity_keys(sql, a->type, "");
	sb_buf_adds(sql, ") DO UPDATE SET ");
	/* key columns too: equal keys may be spelled differently (numeric 1.0 and 1.00) */
	for (unsigned i = 0; i < a->shape->n_columns; i++) {
		if (!a->use[i] || (skip && skip[i]))
			continue;
		sb_pg_ident(sql, a->shape->column[i].name);
		sb_buf_adds(sql, " = excluded.");
		sb_pg_ident(sql, a->shape->column[i].name);
		sb_buf_adds(sql, ", ");
	}
	sb_buf_addf(sql, "%sinc = excluded.%sinc, %slsn = excluded.%slsn, %sseq = excluded.%sseq, %sdeleted = excluded.%sdeleted,"
		" %smissing = ", p, p, p, p, p, p, p, p, p);
	if (skip) /* still missing: what was missing and did not come now */
		sb_buf_addf(sql, "CASE WHEN t.%sdeleted THEN excluded.%smissing ELSE (SELECT array_agg(m) FROM unnest(t.%smissing) m"
			" WHERE m = ANY (excluded.%smissing)) END, %smoved = CASE WHEN t.%sdeleted THEN NULL ELSE t.%smoved END", p, p, p, p, p, p, p);
	else
		sb_buf_addf(sql, "excluded.%smissing, %smoved = excluded.%smoved", p, p, p);
	sb_buf_addf(sql, " WHERE (t.%sinc, t.%slsn, t.%sseq) < (excluded.%sinc, excluded.%slsn, excluded.%sseq)", p, p, p, p, p, p);
}

/* "k1" = $n AND ...; cells are per shape column (old false) or per key column (old true). */
static void add_key_params(struct sb_buf *sql, struct params *p, const struct entity_apply *a, const struct sb_cell *cell, bool old, const char *alias)
{
	for (unsigned i = 0, k = 0; i < a->shape->n_columns; i++) {
		if (!a->shape->column[i].key)
			continue;
		sb_buf_addf(sql, "%s%s", k ? " AND " : "", alias);
		sb_pg_ident(sql, a->shape->column[i].name);
		sb_buf_addf(sql, " = $%u", param_cell(p, &cell[old ? k : i]));
		k++;
	}
}

/* ($inc, $lsn, $seq) of the change as parameters */
static void add_version_params(struct sb_buf *sql, struct params *p, const struct entity_apply *a, const struct sb_change *c)
{
	struct entity_version v = version_of(a, c);
	unsigned inc = param_number(p, v.inc), lsn = param_number(p, v.lsn), seq = param_number(p, v.seq);

	sb_buf_addf(sql, "$%u::bigint, $%u::bigint, $%u::integer", inc, lsn, seq);
}

static void begin_insert(struct sb_buf *sql, const struct entity_apply *a, const bool *skip)
{
	const char *p = a->type->prefix;

	sb_buf_reset(sql);
	sb_buf_adds(sql, "INSERT INTO ");
	entity_table_name(sql, a->type);
	sb_buf_addf(sql, " AS t (%sinc, %slsn, %sseq, %sdeleted, %smissing, %smoved", p, p, p, p, p, p);
	for (unsigned i = 0; i < a->shape->n_columns; i++) {
		if (!a->use[i] || (skip && skip[i]))
			continue;
		sb_buf_adds(sql, ", ");
		sb_pg_ident(sql, a->shape->column[i].name);
	}
	sb_buf_adds(sql, ") VALUES (");
}

/* Array literal of the names of unchanged columns; skip[i] says which. Parameter NULL when there are none. */
static unsigned param_missing(struct params *p, const struct entity_apply *a, const bool *skip)
{
	sb_cleanup(sb_buf_release) struct sb_buf list = { 0 };

	sb_buf_init(&list, 1024 * 1024);
	for (unsigned i = 0; i < a->shape->n_columns; i++)
		if (a->use[i] && skip[i])
			entity_array_add(&list, a->shape->column[i].name, strlen(a->shape->column[i].name));
	if (list.len == 0)
		return param_text(p, NULL, 0);
	sb_buf_addc(&list, '}');
	return param_text(p, list.data, list.len);
}

/* ---- whole rows, updates with unchanged columns, deletes ---- */

static int upsert_row(struct entity_apply *a, const struct sb_change *c, const bool *skip, bool *ret_applied, struct sb_error *err)
{
	sb_cleanup(params_release) struct params p = { .n = 0 };
	struct sb_buf *sql = &a->t->sql;
	uint64_t changed = 0;
	char partial = '\0';

	int rc = params_init(&p, a->shape->n_columns + 8, err);
	if (rc)
		return rc;
	begin_insert(sql, a, skip);
	add_version_params(sql, &p, a, c);
	sb_buf_addf(sql, ", %s, ", c->op == 'd' ? "true" : "false");
	if (skip)
		sb_buf_addf(sql, "$%u::text[], NULL", param_missing(&p, a, skip));
	else
		sb_buf_adds(sql, "NULL, NULL");
	for (unsigned i = 0; i < c->n_cells; i++)
		if (a->use[i] && !(skip && skip[i]))
			sb_buf_addf(sql, ", $%u", param_cell(&p, &c->cell[i]));
	sb_buf_addc(sql, ')');
	entity_conflict(sql, a, skip);
	if (skip)
		sb_buf_addf(sql, " RETURNING t.%smissing IS NOT NULL", a->type->prefix);
	rc = params_run(&p, a, &changed, &partial, err);
	*ret_applied = changed > 0;
	return rc == SB_OK && partial == 't' ? entity_set_partial(a->t, a->type, true, err) : rc;
}

static int remove_row(struct entity_apply *a, const struct sb_change *c, const struct sb_cell *key, bool old, bool *ret_applied, struct sb_error *err)
{
	sb_cleanup(params_release) struct params p = { .n = 0 };
	struct sb_buf *sql = &a->t->sql;
	const char *x = a->type->prefix;
	uint64_t changed = 0;

	int rc = params_init(&p, a->shape->n_columns + 8, err);
	if (rc)
		return rc;
	sb_buf_reset(sql);
	sb_buf_adds(sql, "DELETE FROM ");
	entity_table_name(sql, a->type);
	sb_buf_adds(sql, " WHERE ");
	add_key_params(sql, &p, a, key, old, "");
	sb_buf_addf(sql, " AND (%sinc, %slsn, %sseq) < (", x, x, x);
	add_version_params(sql, &p, a, c);
	sb_buf_addc(sql, ')');
	rc = params_run(&p, a, &changed, NULL, err);
	*ret_applied = changed > 0;
	return rc;
}

/* ---- key changes ---- */

/* A tombstone at the old key, while a snapshot may still bring the row as it was. */
static int bury_old_key(struct entity_apply *a, const struct sb_change *c, bool *ret_applied, struct sb_error *err)
{
	sb_cleanup(params_release) struct params p = { .n = 0 };
	sb_cleanup(sb_freep) bool *no_value = calloc(a->shape->n_columns, sizeof(*no_value));
	struct sb_buf *sql = &a->t->sql;
	uint64_t changed = 0;

	int rc = no_value ? params_init(&p, a->shape->n_columns + 8, err) : sb_fail_nomem(err);
	if (rc)
		return rc;
	for (unsigned i = 0; i < a->shape->n_columns; i++)
		no_value[i] = !a->shape->column[i].key;
	begin_insert(sql, a, no_value);
	add_version_params(sql, &p, a, c);
	sb_buf_adds(sql, ", true, NULL, NULL");
	for (unsigned k = 0; k < c->n_old; k++)
		sb_buf_addf(sql, ", $%u", param_cell(&p, &c->old_key[k]));
	sb_buf_addc(sql, ')');
	entity_conflict(sql, a, NULL); /* the columns that were not named are NULL in excluded */
	rc = params_run(&p, a, &changed, NULL, err);
	*ret_applied = changed > 0;
	return rc;
}

/* (SELECT <what> FROM store o WHERE <old key> AND NOT o.deleted) */
static void add_from_old(struct sb_buf *sql, struct params *p, const struct entity_apply *a, const struct sb_change *c, const char *what)
{
	sb_buf_addf(sql, "(SELECT %s FROM ", what);
	entity_table_name(sql, a->type);
	sb_buf_adds(sql, " o WHERE ");
	add_key_params(sql, p, a, c->old_key, true, "o.");
	sb_buf_addf(sql, " AND NOT o.%sdeleted)", a->type->prefix);
}

/* The values of columns missing and moved of a row that comes from its old key with unchanged columns. The row is not here: all of these are
 * missing, and the snapshot will bring them under the old key. It is here: those that it misses itself and that did not come now. */
static void add_what_is_missing(struct sb_buf *sql, struct params *p, const struct entity_apply *a, const struct sb_change *c, const bool *skip)
{
	const char *x = a->type->prefix, *sep = "";
	unsigned missing = param_missing(p, a, skip);
	char what[128];

	sb_buf_adds(sql, "CASE WHEN NOT EXISTS ");
	add_from_old(sql, p, a, c, "1");
	sb_buf_addf(sql, " THEN $%u::text[] ELSE ", missing);
	(void)snprintf(what, sizeof(what), "(SELECT array_agg(m) FROM unnest(o.%smissing) m WHERE m = ANY ($%u::text[]))", x, missing); /* fits */
	add_from_old(sql, p, a, c, what);
	sb_buf_adds(sql, " END, CASE WHEN EXISTS ");
	add_from_old(sql, p, a, c, "1");
	sb_buf_adds(sql, " AND ");
	(void)snprintf(what, sizeof(what), "o.%smissing IS NULL", x); /* fits */
	add_from_old(sql, p, a, c, what);
	sb_buf_adds(sql, " THEN NULL ELSE coalesce(");
	(void)snprintf(what, sizeof(what), "o.%smoved", x); /* fits */
	add_from_old(sql, p, a, c, what);
	sb_buf_adds(sql, ", ARRAY[");
	for (unsigned i = 0, k = 0; i < a->shape->n_columns; i++) {
		if (!a->shape->column[i].key)
			continue;
		sb_buf_addf(sql, "%s$%u::%s::text", sep, param_cell(p, &c->old_key[k++]), entity_cast(a->type, a->shape->column[i].name));
		sep = ", ";
	}
	sb_buf_adds(sql, "]) END");
}

/* The row at its new key; unchanged columns come from the old row. */
static int insert_moved(struct entity_apply *a, const struct sb_change *c, const bool *skip, bool any_skip, bool *ret_applied, struct sb_error *err)
{
	sb_cleanup(params_release) struct params p = { .n = 0 };
	sb_cleanup(sb_buf_release) struct sb_buf column = { 0 };
	struct sb_buf *sql = &a->t->sql;
	uint64_t changed = 0;
	char partial = '\0';

	/* every unchanged column and each look at the old row repeat the old key */
	int rc = params_init(&p, (a->shape->n_columns + 6) * (c->n_old + 2), err);
	if (rc)
		return rc;
	sb_buf_init(&column, 1024);
	begin_insert(sql, a, NULL);
	add_version_params(sql, &p, a, c);
	sb_buf_adds(sql, ", false, ");
	if (any_skip)
		add_what_is_missing(sql, &p, a, c, skip);
	else
		sb_buf_adds(sql, "NULL, NULL");
	for (unsigned i = 0; i < c->n_cells; i++) {
		if (!a->use[i])
			continue;
		sb_buf_adds(sql, ", ");
		if (skip[i]) {
			sb_buf_reset(&column);
			sb_buf_adds(&column, "o.");
			sb_pg_ident(&column, a->shape->column[i].name);
			add_from_old(sql, &p, a, c, column.data);
		} else {
			sb_buf_addf(sql, "$%u", param_cell(&p, &c->cell[i]));
		}
	}
	sb_buf_addc(sql, ')');
	entity_conflict(sql, a, NULL);
	sb_buf_addf(sql, " RETURNING t.%smissing IS NOT NULL", a->type->prefix);
	rc = params_run(&p, a, &changed, &partial, err);
	*ret_applied = changed > 0;
	return rc == SB_OK && partial == 't' ? entity_set_partial(a->t, a->type, true, err) : rc;
}

static int rekey_row(struct entity_apply *a, const struct sb_change *c, const bool *skip, bool any_skip, bool *ret_applied, struct sb_error *err)
{
	bool inserted = false, removed = false;
	int rc = insert_moved(a, c, skip, any_skip, &inserted, err);

	if (rc == SB_OK)
		rc = a->type->snapshot ? bury_old_key(a, c, &removed, err) : remove_row(a, c, c->old_key, true, &removed, err);
	*ret_applied = inserted || removed;
	return rc;
}

/* ---- truncate ---- */

/* Rows older than the truncate go now; those that are still to come (a snapshot under way) are dropped by its version, kept with the type. */
static int truncate_type(struct entity_apply *a, const struct sb_change *c, bool *ret_applied, struct sb_error *err)
{
	sb_cleanup(params_release) struct params p = { .n = 0 }, q = { .n = 0 };
	struct sb_buf *sql = &a->t->sql;
	const char *x = a->type->prefix;
	struct entity_version v = version_of(a, c);
	uint64_t changed = 0;

	*ret_applied = entity_version_cmp(a->type->truncated, v) < 0;
	if (!*ret_applied)
		return SB_OK;
	int rc = params_init(&p, a->shape->n_columns + 8, err);
	if (rc == SB_OK)
		rc = params_init(&q, a->shape->n_columns + 8, err);
	if (rc)
		return rc;
	sb_buf_reset(sql);
	sb_buf_adds(sql, "DELETE FROM ");
	entity_table_name(sql, a->type);
	sb_buf_addf(sql, " WHERE (%sinc, %slsn, %sseq) < (", x, x, x);
	add_version_params(sql, &p, a, c);
	sb_buf_addc(sql, ')');
	rc = params_run(&p, a, &changed, NULL, err);
	if (rc)
		return rc;
	sb_buf_reset(sql);
	sb_buf_addf(sql, "UPDATE store.entity_type SET (truncated_inc, truncated_lsn, truncated_seq) = (");
	add_version_params(sql, &q, a, c);
	sb_buf_addf(sql, ") WHERE scope = $%u", param_text(&q, a->t->scope, strlen(a->t->scope)));
	sb_buf_addf(sql, " AND type = $%u", param_text(&q, a->type->name, strlen(a->type->name)));
	rc = params_run(&q, a, &changed, NULL, err);
	if (rc == SB_OK)
		a->type->truncated = v;
	return rc;
}

int entity_row_apply(struct entity_apply *a, const struct sb_change *c, bool *ret_applied, struct sb_error *err)
{
	sb_cleanup(sb_freep) bool *skip = calloc(a->shape->n_columns, sizeof(*skip));
	bool any_skip = false;

	if (!skip)
		return sb_fail_nomem(err);
	for (unsigned i = 0; i < c->n_cells; i++) {
		skip[i] = c->cell[i].kind == SB_CELL_UNCHANGED;
		any_skip = any_skip || skip[i];
	}
	switch (c->op) {
	case 't':
		return truncate_type(a, c, ret_applied, err);
	case 'k':
		return rekey_row(a, c, skip, any_skip, ret_applied, err);
	case 'd':
		if (!a->type->snapshot)
			return remove_row(a, c, c->cell, false, ret_applied, err);
		return upsert_row(a, c, NULL, ret_applied, err);
	default: /* 'i', 'u', 's': the reader gives no other */
		return upsert_row(a, c, any_skip ? skip : NULL, ret_applied, err);
	}
}
