/* Where entities land: the cache of types on one connection, their rows in store.entity_type, snapshots. The parts: entity_types.c (column
 * types), entity_shape.c (tables, views), entity_describe.c (what the source's catalog says), entity_history.c (versions), entity_apply.c (batches, the fast path), entity_rows.c (row by row).
 *
 * Thread: the lane of the connection; it is the only writer of its scope, and whoever takes a scope over makes this object anew.
 * The cache describes committed state plus the open transaction: after a rollback all of it is read again. */
#include "stagebridge/entity_table.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "entity_private.h"
#include "stagebridge/text.h"

/* ---- small helpers of all parts ---- */

int entity_version_cmp(struct entity_version a, struct entity_version b)
{
	if (a.inc != b.inc)
		return a.inc < b.inc ? -1 : 1;
	if (a.lsn != b.lsn)
		return a.lsn < b.lsn ? -1 : 1;
	return a.seq == b.seq ? 0 : a.seq < b.seq ? -1 : 1;
}

const struct sb_column *entity_shape_find(const struct sb_shape *s, const char *name)
{
	for (unsigned i = 0; i < s->n_columns; i++)
		if (strcmp(s->column[i].name, name) == 0)
			return &s->column[i];
	return NULL;
}

const char *entity_cast(const struct entity_type *type, const char *column)
{
	for (unsigned i = 0; i < type->n_columns; i++)
		if (strcmp(type->column[i].name, column) == 0)
			return type->column[i].cast;
	return "text"; /* not reached: the columns of the shape are in the table */
}

void entity_array_add(struct sb_buf *out, const char *p, size_t n)
{
	sb_buf_addc(out, out->len == 0 ? '{' : ',');
	sb_buf_addc(out, '"');
	for (size_t i = 0; i < n; i++) {
		if (p[i] == '"' || p[i] == '\\')
			sb_buf_addc(out, '\\');
		sb_buf_addc(out, p[i]);
	}
	sb_buf_addc(out, '"');
}

void entity_table_name(struct sb_buf *out, const struct entity_type *type)
{
	sb_buf_adds(out, "store.");
	sb_pg_ident(out, type->table);
}

int entity_savepoint(struct sb_entity_tables *t, struct sb_error *err)
{
	return sb_pg_exec(t->pg, "SAVEPOINT sb_entity", 0, NULL, NULL, err);
}

int entity_savepoint_keep(struct sb_entity_tables *t, struct sb_error *err)
{
	return sb_pg_exec(t->pg, "RELEASE SAVEPOINT sb_entity", 0, NULL, NULL, err);
}

int entity_savepoint_undo(struct sb_entity_tables *t, struct sb_error *err)
{
	int rc = sb_pg_exec(t->pg, "ROLLBACK TO SAVEPOINT sb_entity", 0, NULL, NULL, err);

	return rc ? rc : entity_savepoint_keep(t, err);
}

int entity_ddl(struct sb_entity_tables *t, struct sb_error *err)
{
	int rc = sb_buf_check(&t->sql, "statement", err);

	return rc ? rc : sb_pg_script(t->pg, t->sql.data, err);
}

/* ---- the cache ---- */

static void columns_release(struct entity_type *type)
{
	for (unsigned i = 0; i < type->n_columns; i++) {
		free(type->column[i].name);
		free(type->column[i].cast);
	}
	free(type->column);
	type->column = NULL;
	type->n_columns = 0;
}

void entity_type_unload(struct entity_type *type)
{
	columns_release(type);
	sb_shape_release(&type->shape);
	type->shape = (struct sb_shape){ .column = NULL };
	json_decref(type->described);
	json_decref(type->history_text);
	type->described = type->history_text = NULL;
	type->loaded = false;
	type->staged = false;
}

int entity_enter(struct sb_entity_tables *t, struct sb_error *err)
{
	struct sb_pg_tx tx = sb_pg_tx(t->pg);

	if (!tx.open)
		return sb_fail(err, SB_ESTATE, "entities are applied inside a transaction only");
	if (tx.rolled_back != t->rolled_back)
		for (struct entity_type *type = t->types; type; type = type->next)
			entity_type_unload(type);
	t->rolled_back = tx.rolled_back;
	return SB_OK;
}

static struct entity_type *type_entry(struct sb_entity_tables *t, const char *name, struct sb_error *err)
{
	struct entity_type *type = t->types;

	while (type && strcmp(type->name, name) != 0)
		type = type->next;
	if (type)
		return type;
	type = calloc(1, sizeof(*type));
	if (!type || sb_format(type->name, sizeof(type->name), err, "%s", name) != SB_OK) {
		if (!type)
			(void)sb_fail_nomem(err); /* NULL says it failed */
		free(type);
		return NULL;
	}
	type->number = t->numbers++;
	type->next = t->types;
	t->types = type;
	return type;
}

/* "<scope>__<type>"; names of more than 63 bytes would be cut by the server and could meet: their tail becomes a hash. */
int entity_store_name(const struct sb_entity_tables *t, const struct entity_type *type, const char *suffix, char out[64], struct sb_error *err)
{
	sb_cleanup(sb_freep) char *full = sb_asprintf("%s__%s%s", t->scope, type->name, suffix);
	uint64_t h = 14695981039346656037u;

	if (!full)
		return sb_fail_nomem(err);
	if (strlen(full) <= 63)
		return sb_format(out, 64, err, "%s", full);
	for (const char *p = full; *p; p++)
		h = (h ^ (unsigned char)*p) * 1099511628211u;
	return sb_format(out, 64, err, "%.46s_%016" PRIx64, full, h);
}

static int parse_shape(struct entity_type *type, const char *json, struct sb_error *err)
{
	struct sb_batch_reader *r = NULL;
	sb_cleanup(sb_freep) char *line = sb_asprintf("%s\n", json);

	if (!line)
		return sb_fail_nomem(err);
	int rc = sb_batch_open(&r, line, strlen(line), err);
	if (rc == SB_OK)
		rc = sb_shape_copy(&type->shape, sb_batch_shape(r), err);
	sb_batch_close(r);
	return rc ? sb_fail_prefix(err, "store.entity_type of \"%s\"", type->name) : SB_OK;
}

static int load_columns(struct sb_entity_tables *t, struct entity_type *type, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { type->table, type->prefix };

	int rc = sb_pg_exec(t->pg, "SELECT a.attname, format_type(a.atttypid, -1) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
		" WHERE c.relnamespace = 'store'::regnamespace AND c.relname = $1 AND a.attnum > 0 AND NOT a.attisdropped"
		" AND a.attname NOT IN ($2 || 'inc', $2 || 'lsn', $2 || 'seq', $2 || 'deleted', $2 || 'missing', $2 || 'moved')", 2, param, &res, err);
	if (rc)
		return rc;
	columns_release(type);
	unsigned n = (unsigned)sb_pg_rows(res);
	type->column = calloc(n ? n : 1, sizeof(*type->column));
	if (!type->column)
		return sb_fail_nomem(err);
	for (; type->n_columns < n; type->n_columns++) {
		struct entity_column *c = &type->column[type->n_columns];
		c->name = sb_strdup(sb_pg_get(res, (int)type->n_columns, 0));
		c->cast = sb_strdup(sb_pg_get(res, (int)type->n_columns, 1));
		if (!c->name || !c->cast) {
			free(c->name);
			free(c->cast);
			return sb_fail_nomem(err);
		}
	}
	return SB_OK;
}

static int load_row(struct sb_entity_tables *t, struct entity_type *type, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { t->scope, type->name, type->table };

	/* an upsert that changes nothing, so that the row is returned in either case */
	int rc = sb_pg_exec(t->pg, "INSERT INTO store.entity_type (scope, type, table_name) VALUES ($1, $2, $3) ON CONFLICT (scope, type) DO UPDATE SET"
		" type = excluded.type RETURNING table_name, prefix, shape, shape_inc, shape_lsn, shape_seq, snapshot_running, partial, truncated_inc,"
		" truncated_lsn, truncated_seq, described, history, history_table, history_generation, to_json(history_text), snapshot_ms", 3, param, &res, err);
	if (rc == SB_OK)
		rc = sb_format(type->table, sizeof(type->table), err, "%s", sb_pg_get(res, 0, 0));
	if (rc == SB_OK)
		rc = sb_format(type->prefix, sizeof(type->prefix), err, "%s", sb_pg_get(res, 0, 1));
	if (rc == SB_OK)
		rc = sb_format(type->history_table, sizeof(type->history_table), err, "%s", sb_pg_get(res, 0, 13));
	if (rc)
		return rc;
	const char *shape = sb_pg_get(res, 0, 2);
	type->has_table = shape != NULL;
	type->shape_at = (struct entity_version){ (uint64_t)sb_pg_get_i64(res, 0, 3), (uint64_t)sb_pg_get_i64(res, 0, 4), (uint32_t)sb_pg_get_i64(res, 0, 5) };
	type->snapshot = *sb_pg_get(res, 0, 6) == 't';
	type->partial = *sb_pg_get(res, 0, 7) == 't';
	type->truncated = (struct entity_version){ (uint64_t)sb_pg_get_i64(res, 0, 8), (uint64_t)sb_pg_get_i64(res, 0, 9), (uint32_t)sb_pg_get_i64(res, 0, 10) };
	type->history = *sb_pg_get(res, 0, 12) == 't';
	type->history_generation = (unsigned)sb_pg_get_i64(res, 0, 14);
	type->snapshot_ms = sb_pg_get_i64(res, 0, 16);
	type->history_text = json_loads(sb_pg_get(res, 0, 15), 0, NULL);
	if (!type->history_text)
		rc = sb_fail_nomem(err); /* the server made it: only memory can lack */
	if (rc == SB_OK && sb_pg_get(res, 0, 11))
		rc = entity_described_load(&type->described, sb_pg_get(res, 0, 11), err);
	return rc || !shape ? rc : parse_shape(type, shape, err);
}

int entity_type_load(struct sb_entity_tables *t, const char *name, struct entity_type **ret, struct sb_error *err)
{
	struct entity_type *type = type_entry(t, name, err);

	if (!type)
		return err ? (int)err->code : SB_ENOMEM;
	if (!type->loaded) {
		int rc = entity_store_name(t, type, "", type->table, err);
		if (rc == SB_OK)
			rc = load_row(t, type, err);
		if (rc == SB_OK && type->has_table)
			rc = load_columns(t, type, err);
		if (rc) {
			entity_type_unload(type);
			return rc;
		}
		type->loaded = true;
	}
	*ret = type;
	return SB_OK;
}

int entity_set_partial(struct sb_entity_tables *t, struct entity_type *type, bool partial, struct sb_error *err)
{
	const char *param[] = { t->scope, type->name, partial ? "t" : "f" };

	if (type->partial == partial)
		return SB_OK;
	int rc = sb_pg_exec(t->pg, "UPDATE store.entity_type SET partial = $3::boolean WHERE scope = $1 AND type = $2", 3, param, NULL, err);
	if (rc == SB_OK)
		type->partial = partial;
	return rc;
}

/* ---- life ---- */

static const char set_up_sql[] =
	"CREATE TABLE IF NOT EXISTS store.entity_type (scope text, type text, table_name text NOT NULL UNIQUE, prefix text NOT NULL DEFAULT '_', shape json,"
	" shape_inc bigint NOT NULL DEFAULT 0, shape_lsn bigint NOT NULL DEFAULT 0, shape_seq bigint NOT NULL DEFAULT 0,"
	" snapshot_running boolean NOT NULL DEFAULT false, partial boolean NOT NULL DEFAULT false, truncated_inc bigint NOT NULL DEFAULT 0,"
	" truncated_lsn bigint NOT NULL DEFAULT 0, truncated_seq bigint NOT NULL DEFAULT 0, described json,"
	" history boolean NOT NULL DEFAULT false, history_table text NOT NULL DEFAULT '', history_generation integer NOT NULL DEFAULT 0,"
	" history_text text[] NOT NULL DEFAULT '{}', snapshot_ms bigint NOT NULL DEFAULT 0, PRIMARY KEY (scope, type));";

/* Lanes of several stages may come here at once, and CREATE ... IF NOT EXISTS alone can still collide: one lock for all. */
static int set_up(struct sb_entity_tables *t, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { t->view_schema };

	int rc = sb_pg_exec(t->pg, "SELECT 1 FROM pg_namespace WHERE nspname = $1 AND to_regclass('store.entity_type') IS NOT NULL", 1, param, &res, err);
	if (rc || sb_pg_rows(res) == 1)
		return rc;
	sb_buf_reset(&t->sql);
	sb_buf_adds(&t->sql, "SELECT pg_advisory_xact_lock(7230417, 1); CREATE SCHEMA IF NOT EXISTS store; CREATE SCHEMA IF NOT EXISTS ");
	sb_pg_ident(&t->sql, t->view_schema);
	sb_buf_addf(&t->sql, "; %s", set_up_sql);
	return entity_ddl(t, err); /* several statements in one message are one transaction */
}

int sb_entity_tables_new(struct sb_entity_tables **ret, struct sb_pg *pg, const char *scope, const char *view_schema, struct sb_error *err)
{
	struct sb_entity_tables *t = calloc(1, sizeof(*t));

	if (!t)
		return sb_fail_nomem(err);
	sb_buf_init(&t->sql, ENTITY_SQL_MAX);
	sb_buf_init(&t->copy, ENTITY_COPY_MAX);
	sb_buf_init(&t->direct, ENTITY_COPY_MAX);
	t->pg = pg;
	t->scope = sb_strdup(scope);
	t->view_schema = sb_strdup(view_schema);
	t->rolled_back = sb_pg_tx(pg).rolled_back;
	int rc = t->scope && t->view_schema ? set_up(t, err) : sb_fail_nomem(err);
	if (rc == SB_OK)
		*ret = SB_TAKE(t);
	sb_entity_tables_free(t);
	return rc;
}

void sb_entity_tables_free(struct sb_entity_tables *t)
{
	if (!t)
		return;
	for (struct entity_type *next, *type = t->types; type; type = next) {
		next = type->next;
		entity_type_unload(type);
		free(type);
	}
	sb_buf_release(&t->sql);
	sb_buf_release(&t->copy);
	sb_buf_release(&t->direct);
	free(t->row);
	free(t->scope);
	free(t->view_schema);
	free(t);
}

int sb_entity_ensure(struct sb_entity_tables *t, const struct sb_shape *shape, struct sb_error *err)
{
	struct entity_type *type;
	int rc = entity_enter(t, err);

	if (rc == SB_OK)
		rc = entity_type_load(t, shape->type, &type, err);
	if (rc || (type->has_table && sb_shape_equal(&type->shape, shape)))
		return rc;
	return entity_evolve(t, type, shape, type->shape_at, err);
}

/* ---- snapshots ---- */

static int set_snapshot(struct sb_entity_tables *t, struct entity_type *type, bool running, struct sb_error *err)
{
	char ms[24];
	const char *param[] = { t->scope, type->name, running ? "t" : "f", ms };

	if (running)
		type->snapshot_ms = t->when.ms;
	(void)snprintf(ms, sizeof(ms), "%" PRId64, type->snapshot_ms); /* fits */
	int rc = sb_pg_exec(t->pg, "UPDATE store.entity_type SET snapshot_running = $3::boolean, snapshot_ms = $4::bigint WHERE scope = $1 AND type = $2", 4, param, NULL, err);

	if (rc == SB_OK)
		type->snapshot = running;
	return rc;
}

/* What a whole snapshot did not name is gone, also where no change says so: an older change that comes after its end must not bring a row back. */
static int set_floor(struct sb_entity_tables *t, struct entity_type *type, uint64_t incarnation, uint64_t lsn, struct sb_error *err)
{
	const struct entity_version v = { incarnation, lsn, 0 };
	char inc[24], at[24];
	const char *param[] = { t->scope, type->name, inc, at };

	if (entity_version_cmp(v, type->truncated) <= 0)
		return SB_OK;
	(void)snprintf(inc, sizeof(inc), "%" PRIu64, incarnation); /* both fit */
	(void)snprintf(at, sizeof(at), "%" PRIu64, lsn);
	int rc = sb_pg_exec(t->pg,
		"UPDATE store.entity_type SET (truncated_inc, truncated_lsn, truncated_seq) = ($3::bigint, $4::bigint, 0) WHERE scope = $1 AND type = $2", 4,
		param, NULL, err);

	if (rc == SB_OK)
		type->truncated = v;
	return rc;
}

int sb_entity_snapshot_begun(struct sb_entity_tables *t, const char *name, struct sb_error *err)
{
	struct entity_type *type;
	int rc = entity_enter(t, err);

	if (rc == SB_OK)
		rc = entity_type_load(t, name, &type, err);
	return rc ? rc : set_snapshot(t, type, true, err);
}

/* Rows of the source's life before the snapshot that neither it nor the stream named since are gone at the source. */
static int sweep(struct sb_entity_tables *t, const struct entity_type *type, uint64_t incarnation, uint64_t lsn, uint64_t *ret_swept, bool *ret_partial,
	struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *p = type->prefix;
	char inc[24], at[24];
	const char *param[] = { inc, at };

	(void)snprintf(inc, sizeof(inc), "%" PRIu64, incarnation); /* fits */
	(void)snprintf(at, sizeof(at), "%" PRIu64, lsn);           /* fits */
	sb_buf_reset(&t->sql);
	sb_buf_adds(&t->sql, "WITH gone AS (DELETE FROM ");
	entity_table_name(&t->sql, type);
	sb_buf_addf(&t->sql, " WHERE %sdeleted OR (%sinc, %slsn, %sseq) < ($1::bigint, $2::bigint, 0) RETURNING %sdeleted AS was_deleted)"
		" SELECT count(*) FILTER (WHERE NOT was_deleted) FROM gone", p, p, p, p, p);
	int rc = sb_buf_check(&t->sql, "statement", err);
	if (rc == SB_OK)
		rc = sb_pg_exec(t->pg, t->sql.data, 2, param, &res, err);
	if (rc)
		return rc;
	*ret_swept = (uint64_t)sb_pg_get_i64(res, 0, 0);
	*ret_partial = false;
	if (!type->partial)
		return SB_OK;
	sb_pg_free(SB_TAKE(res));
	sb_buf_reset(&t->sql);
	sb_buf_adds(&t->sql, "SELECT 1 FROM ");
	entity_table_name(&t->sql, type);
	sb_buf_addf(&t->sql, " WHERE %smissing IS NOT NULL LIMIT 1", p);
	rc = sb_buf_check(&t->sql, "statement", err);
	if (rc == SB_OK)
		rc = sb_pg_exec(t->pg, t->sql.data, 0, NULL, &res, err);
	if (rc == SB_OK)
		*ret_partial = sb_pg_rows(res) > 0;
	return rc;
}

int sb_entity_snapshot_ended(struct sb_entity_tables *t, const char *name, uint64_t incarnation, uint64_t lsn, uint64_t *ret_swept, struct sb_error *err)
{
	struct entity_type *type;
	uint64_t swept = 0;
	bool partial = false;
	int rc = entity_enter(t, err);

	if (rc == SB_OK && (incarnation > INT64_MAX || lsn > INT64_MAX))
		rc = sb_fail(err, SB_EPROTO, "position of the snapshot of \"%s\" is out of range", name);
	if (rc == SB_OK)
		rc = entity_type_load(t, name, &type, err);
	if (rc)
		return rc;
	if (type->has_table) { /* an empty source table sends no row, so there may be none yet */
		rc = entity_history_tell(t, type, err);
		if (rc == SB_OK)
			rc = sweep(t, type, incarnation, lsn, &swept, &partial, err);
		if (rc == SB_OK)
			rc = entity_set_partial(t, type, partial, err);
	}
	if (rc == SB_OK)
		rc = set_floor(t, type, incarnation, lsn, err);
	if (rc == SB_OK)
		rc = set_snapshot(t, type, false, err);
	if (rc == SB_OK && ret_swept)
		*ret_swept = swept;
	return rc;
}
