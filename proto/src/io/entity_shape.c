/* Store tables and people's views: made from a shape, and changed when the source's shape changes.
 *
 * Rules: what holds data is never dropped. A column that leaves the shape stays in the store and leaves the view; one that comes back gets a new
 * column, because the old values are not those of the new one. A type change casts in place; when the cast fails the old column is renamed
 * away and the values are kept as text. A change of the key keeps the rows when they satisfy the new key, else they are deleted: the
 * source resyncs a type whose key changed. A view that others depend on is renamed away when it cannot be replaced, theirs keep working.
 *
 * Everything runs in a savepoint: a shape that the server refuses leaves no trace and is SB_EDATA. Thread: the lane of the connection. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "entity_private.h"
#include "stagebridge/clock.h"
#include "stagebridge/text.h"

static const char *const our_columns[] = { "inc", "lsn", "seq", "deleted", "missing", "moved", "ord", "op", "valid_from", "valid_to", "position" };
#define STORED_OURS 6 /* the first of them are in the store table, the others in the staging table and in the view of versions only */

struct evolution {
	struct sb_entity_tables *t;
	struct entity_type *type;
	const struct sb_shape *shape;
	char **ddl;      /* type per column of shape */
	unsigned away;   /* number for the next column that is renamed away */
	bool rekeyed;    /* the key was another */
};

static void ddl_freep(char ***ddl)
{
	for (char **p = *ddl; p && *p; p++)
		free(*p);
	free(*ddl);
}

int entity_attempt(struct sb_entity_tables *t, bool *ret_done, struct sb_error *err)
{
	struct sb_error why = SB_ERROR_INIT;
	int rc = entity_savepoint(t, err);
	if (rc)
		return rc;
	rc = entity_ddl(t, &why);
	*ret_done = rc == SB_OK;
	if (rc == SB_OK)
		return entity_savepoint_keep(t, err);
	if (rc == SB_ECONFLICT || !sb_pg_ok(t->pg)) {
		if (err)
			*err = why;
		return rc;
	}
	return entity_savepoint_undo(t, err);
}

static void begin_alter(struct evolution *e)
{
	sb_buf_reset(&e->t->sql);
	sb_buf_adds(&e->t->sql, "ALTER TABLE ");
	entity_table_name(&e->t->sql, e->type);
}

static bool has_column(const struct entity_type *type, const char *name)
{
	for (unsigned i = 0; i < type->n_columns; i++)
		if (strcmp(type->column[i].name, name) == 0)
			return true;
	return false;
}

/* ---- our columns' prefix ---- */

static bool prefix_free(const struct evolution *e, const char *prefix)
{
	char name[32];

	for (size_t i = 0; i < SB_COUNT(our_columns); i++) {
		(void)snprintf(name, sizeof(name), "%s%s", prefix, our_columns[i]); /* fits: prefixes are short */
		if (has_column(e->type, name) || entity_shape_find(e->shape, name))
			return false;
	}
	return true;
}

static int choose_prefix(struct evolution *e, struct sb_error *err)
{
	char prefix[sizeof(e->type->prefix)], old[sizeof(prefix)];

	(void)snprintf(old, sizeof(old), "%s", e->type->prefix); /* same size */
	(void)snprintf(prefix, sizeof(prefix), "%s", old);
	for (unsigned i = 0; !prefix_free(e, prefix); i++) /* ends: a table has at most 1,600 columns */
		(void)snprintf(prefix, sizeof(prefix), i ? "_sb%u_" : "_sb_", i);
	if (strcmp(prefix, old) == 0)
		return SB_OK;
	(void)snprintf(e->type->prefix, sizeof(e->type->prefix), "%s", prefix);
	for (size_t i = 0; e->type->has_table && i < STORED_OURS; i++) {
		begin_alter(e);
		sb_buf_addf(&e->t->sql, " RENAME COLUMN %s%s TO %s%s", old, our_columns[i], prefix, our_columns[i]);
		int rc = entity_ddl(e->t, err);
		if (rc)
			return rc;
	}
	return SB_OK;
}

/* ---- the table ---- */

static void add_key(struct sb_buf *sql, const struct sb_shape *shape)
{
	const char *sep = "";

	sb_buf_adds(sql, "PRIMARY KEY (");
	for (unsigned i = 0; i < shape->n_columns; i++) {
		if (!shape->column[i].key)
			continue;
		sb_buf_adds(sql, sep);
		sb_pg_ident(sql, shape->column[i].name);
		sep = ", ";
	}
	sb_buf_addc(sql, ')');
}

static int create_table(struct evolution *e, struct sb_error *err)
{
	struct sb_buf *sql = &e->t->sql;
	const char *p = e->type->prefix;

	sb_buf_reset(sql);
	sb_buf_adds(sql, "CREATE TABLE ");
	entity_table_name(sql, e->type);
	/* ours first: their places do not depend on what the source stores */
	sb_buf_addf(sql, " (%sinc bigint NOT NULL, %slsn bigint NOT NULL, %sseq integer NOT NULL, %sdeleted boolean NOT NULL DEFAULT false,"
		" %smissing text[], %smoved text[]", p, p, p, p, p, p);
	for (unsigned i = 0; i < e->shape->n_columns; i++) {
		sb_buf_adds(sql, ", ");
		sb_pg_ident(sql, e->shape->column[i].name);
		sb_buf_addf(sql, " %s", e->ddl[i]);
	}
	sb_buf_adds(sql, ", ");
	add_key(sql, e->shape);
	sb_buf_adds(sql, ") WITH (fillfactor = 85); CREATE INDEX ON ");
	entity_table_name(sql, e->type);
	sb_buf_addf(sql, " (%smoved) WHERE %smoved IS NOT NULL", p, p); /* nearly always empty */
	return entity_ddl(e->t, err);
}

static int add_column(struct evolution *e, const char *name, const char *ddl, struct sb_error *err)
{
	begin_alter(e);
	sb_buf_adds(&e->t->sql, " ADD COLUMN ");
	sb_pg_ident(&e->t->sql, name);
	sb_buf_addf(&e->t->sql, " %s", ddl);
	return entity_ddl(e->t, err);
}

/* Renames a column out of the way of a new one of its name; its comment says what it was. ret_name: NULL when not wanted. */
static int rename_away(struct evolution *e, const char *name, char *ret_name, size_t size, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *comment = sb_asprintf("was \"%s\"", name);
	struct sb_buf *sql = &e->t->sql;
	char away[32];

	if (!comment)
		return sb_fail_nomem(err);
	do
		(void)snprintf(away, sizeof(away), "sb_old_%u", e->away++); /* fits */
	while (has_column(e->type, away) || entity_shape_find(e->shape, away));
	begin_alter(e);
	sb_buf_adds(sql, " RENAME COLUMN ");
	sb_pg_ident(sql, name);
	sb_buf_addf(sql, " TO %s; COMMENT ON COLUMN ", away);
	entity_table_name(sql, e->type);
	sb_buf_addf(sql, ".%s IS ", away);
	sb_pg_literal(sql, comment);
	int rc = entity_ddl(e->t, err);
	return rc || !ret_name ? rc : sb_format(ret_name, size, err, "%s", away);
}

static void add_view_name(struct evolution *e)
{
	sb_pg_ident(&e->t->sql, e->t->view_schema);
	sb_buf_addc(&e->t->sql, '.');
	sb_pg_ident(&e->t->sql, e->type->name);
}

static int change_type(struct evolution *e, const char *name, const char *ddl, struct sb_error *err)
{
	struct sb_buf *sql = &e->t->sql;
	char away[32];
	bool done = false;

	sb_buf_reset(sql);
	sb_buf_adds(sql, "DROP VIEW IF EXISTS "); /* a column that a view shows cannot change its type */
	add_view_name(e);
	sb_buf_adds(sql, "; ALTER TABLE ");
	entity_table_name(sql, e->type);
	sb_buf_adds(sql, " ALTER COLUMN ");
	sb_pg_ident(sql, name);
	sb_buf_addf(sql, " TYPE %s USING ", ddl);
	sb_pg_ident(sql, name);
	sb_buf_addf(sql, "::%s", ddl);
	int rc = entity_attempt(e->t, &done, err);
	if (rc || done)
		return rc;
	rc = rename_away(e, name, away, sizeof(away), err);
	if (rc == SB_OK)
		rc = add_column(e, name, "text", err);
	if (rc)
		return rc;
	sb_buf_reset(sql);
	sb_buf_adds(sql, "UPDATE ");
	entity_table_name(sql, e->type);
	sb_buf_adds(sql, " SET ");
	sb_pg_ident(sql, name);
	sb_buf_addf(sql, " = %s::text", away);
	return entity_ddl(e->t, err);
}

/* Values of before need not be values of the new type: versions show the column as text. */
static int history_as_text(struct evolution *e, const char *column, struct sb_error *err)
{
	const char *param[] = { e->t->scope, e->type->name, column };

	return sb_pg_exec(e->t->pg, "UPDATE store.entity_type SET history_text = array_append(array_remove(history_text, $3), $3) WHERE scope = $1 AND type = $2", 3, param, NULL, err);
}

static int alter_columns(struct evolution *e, struct sb_error *err)
{
	int rc = SB_OK;

	for (unsigned i = 0; i < e->shape->n_columns && rc == SB_OK; i++) {
		const struct sb_column *now = &e->shape->column[i], *was = entity_shape_find(&e->type->shape, now->name);
		if (was && strcmp(was->type, now->type) != 0) {
			rc = change_type(e, now->name, e->ddl[i], err);
			if (rc == SB_OK && e->type->history)
				rc = history_as_text(e, now->name, err);
		} else if (!was) {
			if (has_column(e->type, now->name)) /* left the shape some time ago */
				rc = rename_away(e, now->name, NULL, 0, err);
			if (rc == SB_OK)
				rc = add_column(e, now->name, e->ddl[i], err);
		}
	}
	return rc;
}

/* ---- the key ---- */

static bool same_key(const struct sb_shape *a, const struct sb_shape *b)
{
	unsigned i = 0, k = 0;

	for (;; i++, k++) {
		while (i < a->n_columns && !a->column[i].key)
			i++;
		while (k < b->n_columns && !b->column[k].key)
			k++;
		if (i == a->n_columns || k == b->n_columns)
			return i == a->n_columns && k == b->n_columns;
		if (strcmp(a->column[i].name, b->column[k].name) != 0 || strcmp(a->column[i].type, b->column[k].type) != 0)
			return false;
	}
}

static int drop_key(struct evolution *e, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	struct sb_buf *sql = &e->t->sql;
	const char *param[] = { e->type->table };

	int rc = sb_pg_exec(e->t->pg, "SELECT k.conname FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid"
		" WHERE c.relnamespace = 'store'::regnamespace AND c.relname = $1 AND k.contype = 'p'", 1, param, &res, err);
	if (rc)
		return rc;
	if (sb_pg_rows(res) != 1)
		return sb_fail(err, SB_EDB, "store table of \"%s\" has no primary key", e->type->name);
	begin_alter(e);
	sb_buf_adds(sql, " DROP CONSTRAINT ");
	sb_pg_ident(sql, sb_pg_get(res, 0, 0));
	/* dropping a primary key leaves NOT NULL behind */
	for (unsigned i = 0; i < e->type->shape.n_columns; i++) {
		if (!e->type->shape.column[i].key)
			continue;
		sb_buf_adds(sql, ", ALTER COLUMN ");
		sb_pg_ident(sql, e->type->shape.column[i].name);
		sb_buf_adds(sql, " DROP NOT NULL");
	}
	sb_buf_adds(sql, "; DELETE FROM ");
	entity_table_name(sql, e->type);
	sb_buf_addf(sql, " WHERE %sdeleted", e->type->prefix); /* tombstones know the old key only */
	return entity_ddl(e->t, err);
}

static int make_key(struct evolution *e, struct sb_error *err)
{
	bool done = false;

	begin_alter(e);
	sb_buf_adds(&e->t->sql, " ADD ");
	add_key(&e->t->sql, e->shape);
	int rc = entity_attempt(e->t, &done, err);
	if (rc || done)
		return rc;
	sb_buf_reset(&e->t->sql);
	sb_buf_adds(&e->t->sql, "DELETE FROM ");
	entity_table_name(&e->t->sql, e->type);
	rc = entity_ddl(e->t, err);
	if (rc)
		return rc;
	begin_alter(e);
	sb_buf_adds(&e->t->sql, " ADD ");
	add_key(&e->t->sql, e->shape);
	return entity_ddl(e->t, err);
}

/* ---- the view ---- */

static void view_statement(struct evolution *e, const char *before)
{
	struct sb_buf *sql = &e->t->sql;

	sb_buf_adds(sql, before);
	add_view_name(e);
	sb_buf_adds(sql, " AS SELECT ");
	for (unsigned i = 0; i < e->shape->n_columns; i++) {
		sb_buf_adds(sql, i ? ", " : "");
		sb_pg_ident(sql, e->shape->column[i].name);
	}
	sb_buf_adds(sql, " FROM ");
	entity_table_name(sql, e->type);
	sb_buf_addf(sql, " WHERE NOT %sdeleted", e->type->prefix);
}

static int replace_view(struct evolution *e, struct sb_error *err)
{
	struct sb_buf *sql = &e->t->sql;
	char away[SB_TYPE_MAX + 1];
	bool done = false;

	sb_buf_reset(sql);
	view_statement(e, "CREATE OR REPLACE VIEW "); /* possible when columns come last: keeps rights and dependents */
	int rc = entity_attempt(e->t, &done, err);
	if (rc || done)
		return rc;
	sb_buf_reset(sql);
	sb_buf_adds(sql, "DROP VIEW ");
	add_view_name(e);
	view_statement(e, "; CREATE VIEW ");
	rc = entity_attempt(e->t, &done, err);
	if (rc || done)
		return rc;
	/* somebody's view stands on ours: give it the old one under another name */
	(void)snprintf(away, sizeof(away), "%.40s_old_%" PRIx64, e->type->name, (uint64_t)sb_wall_ms()); /* fits; types are ASCII */
	sb_buf_reset(sql);
	sb_buf_adds(sql, "ALTER VIEW ");
	add_view_name(e);
	sb_buf_adds(sql, " RENAME TO ");
	sb_pg_ident(sql, away);
	view_statement(e, "; CREATE VIEW ");
	return entity_ddl(e->t, err);
}

/* Comments go with a view that is made anew; those of the last description hold for the columns that it knows. */
static int make_view(struct evolution *e, struct sb_error *err)
{
	int rc = replace_view(e, err);

	sb_buf_reset(&e->t->sql);
	if (rc == SB_OK)
		entity_comments(&e->t->sql, e->t, e->type, e->shape);
	return rc || e->t->sql.len == 0 ? rc : entity_ddl(e->t, err);
}

/* ---- together ---- */

static void batch_freep(struct sb_batch **b)
{
	sb_batch_free(*b);
}

static int save_shape(struct evolution *e, struct entity_version at, struct sb_error *err)
{
	sb_cleanup(batch_freep) struct sb_batch *b = NULL;
	char inc[24], lsn[24], seq[16];
	size_t n = 0;

	int rc = sb_batch_new(&b, err);
	if (rc == SB_OK)
		rc = sb_batch_begin(b, e->shape, err);
	if (rc)
		return rc;
	const char *line = sb_batch_value(b, &n);
	sb_cleanup(sb_freep) char *json = strndup(line, n && line[n - 1] == '\n' ? n - 1 : n);
	if (!json)
		return sb_fail_nomem(err);
	(void)snprintf(inc, sizeof(inc), "%" PRIu64, at.inc); /* these three fit */
	(void)snprintf(lsn, sizeof(lsn), "%" PRIu64, at.lsn);
	(void)snprintf(seq, sizeof(seq), "%" PRIu32, at.seq);
	const char *param[] = { e->t->scope, e->type->name, json, inc, lsn, seq, e->type->prefix };
	return sb_pg_exec(e->t->pg, "UPDATE store.entity_type SET shape = $3::json, shape_inc = $4::bigint, shape_lsn = $5::bigint, shape_seq = $6::bigint,"
		" prefix = $7 WHERE scope = $1 AND type = $2", 7, param, NULL, err);
}

static int evolve(struct evolution *e, struct entity_version at, struct sb_error *err)
{
	bool rekey = e->type->has_table && !same_key(&e->type->shape, e->shape);
	int rc = entity_history_pause(e->t, e->type, err);

	if (rc == SB_OK)
		rc = choose_prefix(e, err);

	if (rc == SB_OK && rekey)
		rc = drop_key(e, err);
	if (rc == SB_OK)
		rc = e->type->has_table ? alter_columns(e, err) : create_table(e, err);
	if (rc == SB_OK && rekey)
		rc = make_key(e, err);
	if (rc == SB_OK)
		rc = make_view(e, err);
	if (rc == SB_OK)
		rc = save_shape(e, at, err);
	e->rekeyed = rekey;
	return rc;
}

/* The versions go on with the columns as they are now: read from the database, where some may have become text. */
static int go_on_recording(struct evolution *e, struct sb_error *err)
{
	struct entity_type *type = e->type;
	int rc = SB_OK;

	if (type->history) {
		entity_type_unload(type);
		rc = entity_type_load(e->t, type->name, &type, err);
		if (rc == SB_OK)
			rc = entity_history_refresh(e->t, type, e->rekeyed, err);
	}
	return rc;
}

int entity_evolve(struct sb_entity_tables *t, struct entity_type *type, const struct sb_shape *shape, struct entity_version at, struct sb_error *err)
{
	sb_cleanup(ddl_freep) char **ddl = calloc(shape->n_columns + 1, sizeof(*ddl));
	struct evolution e = { .t = t, .type = type, .shape = shape, .ddl = ddl, .away = type->n_columns };
	struct sb_error why = SB_ERROR_INIT;

	if (!ddl)
		return sb_fail_nomem(err);
	int rc = entity_savepoint(t, err);
	if (rc)
		return rc;
	rc = entity_resolve_types(t, shape, ddl, &why);
	if (rc == SB_OK)
		rc = evolve(&e, at, &why);
	if (rc == SB_OK)
		rc = go_on_recording(&e, &why);
	entity_type_unload(type); /* what is cached is the state before, in part */
	if (rc == SB_OK)
		return entity_savepoint_keep(t, err);
	/* classes 42, 0A and 54 (too many columns), but for missing rights: this shape cannot be a table here, ever */
	bool refused = (strncmp(why.state, "42", 2) == 0 || strncmp(why.state, "0A", 2) == 0 || strncmp(why.state, "54", 2) == 0) && rc != SB_EAUTH;
	if (sb_pg_ok(t->pg) && entity_savepoint_undo(t, err) != SB_OK)
		return err ? (int)err->code : SB_EDB;
	if (refused)
		why.code = SB_EDATA, why.retriable = false;
	if (err) {
		*err = why;
		sb_fail_prefix(err, "entity type \"%s\"", shape->type);
	}
	return refused ? SB_EDATA : rc;
}
