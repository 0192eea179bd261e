/* History of entities, for the types that ask for it: one row per version in store.<table of history>, written by statement triggers on the store table, so
 * that every path that changes rows is recorded and types without history cost nothing. A version is the row as texts, cell by cell: exact, and
 * independent of later changes of the columns. What repeats the known content makes no version.
 *
 * People read <schema>.<type>_history (all versions) and <schema>.<type>_at(time) (the rows as they were). A column whose type changed while there were versions is text in
 * both: old texts need not be values of the new type. After a change of the key a new generation begins, and the old one is not shown.
 *
 * Times: stagebridge.at, set for the transaction by entity_history_tell(): when the source committed, of a snapshot when it began. Thread: the lane of the connection. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "entity_private.h"
#include "stagebridge/clock.h"
#include "stagebridge/text.h"

#define PRUNE_ROWS 10000

void sb_entity_when(struct sb_entity_tables *t, const struct sb_entity_when *when)
{
	t->when = *when;
}

/* ---- pieces of SQL ---- */

static void history_name(struct sb_buf *sql, const struct entity_type *type)
{
	sb_buf_adds(sql, "store.");
	sb_pg_ident(sql, type->history_table);
}

static void people_name(struct sb_buf *sql, const struct sb_entity_tables *t, const struct entity_type *type, const char *suffix)
{
	char name[SB_TYPE_MAX + 16];

	(void)snprintf(name, sizeof(name), "%s%s", type->name, suffix); /* fits */
	sb_pg_ident(sql, t->view_schema);
	sb_buf_addc(sql, '.');
	sb_pg_ident(sql, name);
}

/* ARRAY[n."a"::text, ...] of the key columns or of all */
static void texts(struct sb_buf *sql, const struct entity_type *type, const char *alias, bool keys)
{
	const char *sep = "ARRAY[";

	for (unsigned i = 0; i < type->shape.n_columns; i++) {
		if (keys && !type->shape.column[i].key)
			continue;
		sb_buf_addf(sql, "%s%s.", sep, alias);
		sb_pg_ident(sql, type->shape.column[i].name);
		sb_buf_adds(sql, "::text");
		sep = ", ";
	}
	sb_buf_addc(sql, ']');
}

static void row_json(struct sb_buf *sql, const struct entity_type *type, const char *alias)
{
	sb_buf_adds(sql, "json_object(ARRAY[");
	for (unsigned i = 0; i < type->shape.n_columns; i++) {
		sb_buf_adds(sql, i ? ", " : "");
		sb_pg_literal(sql, type->shape.column[i].name);
	}
	sb_buf_adds(sql, "]::text[], ");
	texts(sql, type, alias, false);
	sb_buf_addc(sql, ')');
}

static void position(struct sb_buf *sql, const struct entity_type *type, const char *alias)
{
	const char *p = type->prefix;

	sb_buf_addf(sql, "%s.%sinc || '/' || upper(to_hex(%s.%slsn)) || '.' || %s.%sseq", alias, p, alias, p, alias, p);
}

static void begin_versions(struct sb_buf *sql, const struct entity_type *type)
{
	sb_buf_adds(sql, "INSERT INTO ");
	history_name(sql, type);
	sb_buf_addf(sql, " (generation, key, valid_from, valid_to, op, position, row) SELECT %u, ", type->history_generation);
}

/* ", e AS (UPDATE ...) INSERT ... SELECT ": ends the open versions of the keys `was` of c. What changed is materialized: of a table that grows so fast the planner
 * knows little, and it must not look at all versions for each row. */
static void end_and_begin(struct sb_buf *sql, const struct entity_type *type)
{
	sb_buf_adds(sql, "), e AS (UPDATE ");
	history_name(sql, type);
	sb_buf_adds(sql, " h SET valid_to = at FROM c WHERE h.key = c.was AND h.valid_to IS NULL) ");
	begin_versions(sql, type);
}

/* ---- the trigger ---- */

static void on_insert(struct sb_buf *sql, const struct entity_type *type)
{
	begin_versions(sql, type); /* whatever removed a row of this key has ended its version */
	texts(sql, type, "n", true);
	sb_buf_adds(sql, ", at, NULL, 'i', ");
	position(sql, type, "n");
	sb_buf_adds(sql, ", ");
	row_json(sql, type, "n");
	sb_buf_addf(sql, " FROM new_rows n WHERE NOT n.%sdeleted; ", type->prefix);
}

static void on_update(struct sb_buf *sql, const struct entity_type *type)
{
	const char *p = type->prefix, *sep = "";

	sb_buf_adds(sql, "WITH c AS MATERIALIZED (SELECT ");
	texts(sql, type, "o", true);
	sb_buf_adds(sql, " AS was, ");
	texts(sql, type, "n", true);
	sb_buf_addf(sql, " AS key, n.%sdeleted AS gone, o.%sdeleted AS new, ", p, p);
	position(sql, type, "n");
	sb_buf_addf(sql, " AS position, CASE WHEN NOT n.%sdeleted THEN ", p);
	row_json(sql, type, "n");
	sb_buf_adds(sql, " END AS row FROM new_rows n JOIN old_rows o ON ");
	for (unsigned i = 0; i < type->shape.n_columns; i++) {
		if (!type->shape.column[i].key)
			continue;
		sb_buf_addf(sql, "%sn.", sep);
		sb_pg_ident(sql, type->shape.column[i].name);
		sb_buf_adds(sql, " = o.");
		sb_pg_ident(sql, type->shape.column[i].name);
		sep = " AND ";
	}
	sb_buf_addf(sql, " WHERE n.%sdeleted <> o.%sdeleted OR NOT n.%sdeleted AND ", p, p, p);
	texts(sql, type, "n", false);
	sb_buf_adds(sql, " IS DISTINCT FROM ");
	texts(sql, type, "o", false);
	end_and_begin(sql, type);
	sb_buf_adds(sql, "c.key, at, CASE WHEN c.gone THEN at END, CASE WHEN c.gone THEN 'd' WHEN c.new THEN 'i' ELSE 'u' END, c.position, c.row FROM c; ");
}

static void on_delete(struct sb_buf *sql, const struct entity_type *type)
{
	sb_buf_adds(sql, "WITH c AS MATERIALIZED (SELECT ");
	texts(sql, type, "o", true);
	sb_buf_addf(sql, " AS was FROM old_rows o WHERE NOT o.%sdeleted", type->prefix);
	end_and_begin(sql, type);
	sb_buf_adds(sql, "c.was, at, at, 'd', until, NULL FROM c; ");
}

static int make_triggers(struct sb_entity_tables *t, const struct entity_type *type, struct sb_error *err)
{
	static const struct { const char *name, *op, *tables; void (*body)(struct sb_buf *, const struct entity_type *); } on[] = {
		{ "sb_history_i", "INSERT", "NEW TABLE AS new_rows", on_insert },
		{ "sb_history_u", "UPDATE", "OLD TABLE AS old_rows NEW TABLE AS new_rows", on_update },
		{ "sb_history_d", "DELETE", "OLD TABLE AS old_rows", on_delete },
	};
	struct sb_buf *sql = &t->sql;
	const char *word = "IF";

	sb_buf_reset(sql);
	sb_buf_adds(sql, "CREATE OR REPLACE FUNCTION ");
	history_name(sql, type);
	sb_buf_adds(sql, "() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan AS $sb_history$ DECLARE"
		" at timestamptz := coalesce(nullif(current_setting('stagebridge.at', true), '')::timestamptz, now());"
		" until text := coalesce(current_setting('stagebridge.position', true), ''); BEGIN ");
	for (size_t i = 0; i < SB_COUNT(on); i++) {
		sb_buf_addf(sql, "%s TG_OP = '%s' THEN ", word, on[i].op);
		on[i].body(sql, type);
		word = "ELSIF";
	}
	sb_buf_adds(sql, "END IF; RETURN NULL; END $sb_history$; ");
	for (size_t i = 0; i < SB_COUNT(on); i++) {
		sb_buf_addf(sql, "CREATE OR REPLACE TRIGGER %s AFTER %s ON ", on[i].name, on[i].op);
		entity_table_name(sql, type);
		sb_buf_addf(sql, " REFERENCING %s FOR EACH STATEMENT EXECUTE FUNCTION ", on[i].tables);
		history_name(sql, type);
		sb_buf_adds(sql, "(); ");
	}
	return entity_ddl(t, err);
}

int entity_history_pause(struct sb_entity_tables *t, const struct entity_type *type, struct sb_error *err)
{
	if (!type->history)
		return SB_OK;
	sb_buf_reset(&t->sql);
	for (const char *op = "iud"; *op; op++) {
		sb_buf_addf(&t->sql, "DROP TRIGGER IF EXISTS sb_history_%c ON ", *op);
		entity_table_name(&t->sql, type);
		sb_buf_adds(&t->sql, "; ");
	}
	return entity_ddl(t, err);
}

/* ---- what people read ---- */

static bool shown_as_text(const struct entity_type *type, const char *column)
{
	const json_t *v;
	size_t i;

	json_array_foreach(type->history_text, i, v)
	{
		if (strcmp(json_string_value(v), column) == 0)
			return true;
	}
	return false;
}

static const char *shown_type(const struct entity_type *type, const struct sb_column *c)
{
	return !c->key && shown_as_text(type, c->name) ? "text" : entity_cast(type, c->name);
}

/* "(h.row ->> 'name')::text AS "name", ..."; a key also of versions that have no row */
static void cells(struct sb_buf *sql, const struct entity_type *type)
{
	unsigned k = 0;

	for (unsigned i = 0; i < type->shape.n_columns; i++) {
		const struct sb_column *c = &type->shape.column[i];
		sb_buf_adds(sql, i ? ", (" : "(");
		if (c->key) {
			sb_buf_addf(sql, "h.key[%u]", ++k);
		} else {
			sb_buf_adds(sql, "h.row ->> ");
			sb_pg_literal(sql, c->name);
		}
		sb_buf_addf(sql, ")::%s AS ", shown_type(type, c));
		sb_pg_ident(sql, c->name);
	}
}

static void people_view(struct sb_entity_tables *t, const struct entity_type *type, const char *before)
{
	struct sb_buf *sql = &t->sql;
	const char *p = type->prefix;

	sb_buf_adds(sql, before);
	people_name(sql, t, type, "_history");
	sb_buf_addf(sql, " AS SELECT h.valid_from AS %svalid_from, h.valid_to AS %svalid_to, h.op AS %sop, h.position AS %sposition, ", p, p, p, p);
	cells(sql, type);
	sb_buf_adds(sql, " FROM ");
	history_name(sql, type);
	sb_buf_addf(sql, " h WHERE h.generation = %u; COMMENT ON VIEW ", type->history_generation);
	people_name(sql, t, type, "_history");
	sb_buf_adds(sql, " IS 'Every version of every row; op: i, u, d'");
}

static void people_function(struct sb_entity_tables *t, const struct entity_type *type)
{
	struct sb_buf *sql = &t->sql;

	sb_buf_adds(sql, "DROP FUNCTION IF EXISTS ");
	people_name(sql, t, type, "_at");
	sb_buf_adds(sql, "(timestamptz); CREATE FUNCTION ");
	people_name(sql, t, type, "_at");
	sb_buf_adds(sql, "(timestamptz) RETURNS TABLE (");
	for (unsigned i = 0; i < type->shape.n_columns; i++) {
		sb_buf_adds(sql, i ? ", " : "");
		sb_pg_ident(sql, type->shape.column[i].name);
		sb_buf_addf(sql, " %s", shown_type(type, &type->shape.column[i]));
	}
	/* its owner's rights: readers have none on the tables of store */
	sb_buf_adds(sql, ") LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $sb_history$ SELECT ");
	cells(sql, type);
	sb_buf_adds(sql, " FROM ");
	history_name(sql, type);
	sb_buf_addf(sql, " h WHERE h.generation = %u AND h.op <> 'd' AND h.valid_from <= $1 AND (h.valid_to IS NULL OR h.valid_to > $1) $sb_history$; REVOKE ALL ON FUNCTION ",
		type->history_generation);
	people_name(sql, t, type, "_at");
	sb_buf_adds(sql, "(timestamptz) FROM PUBLIC; COMMENT ON FUNCTION ");
	people_name(sql, t, type, "_at");
	sb_buf_adds(sql, "(timestamptz) IS 'The rows as they were at a time'");
}

static int make_people(struct sb_entity_tables *t, const struct entity_type *type, struct sb_error *err)
{
	bool done = false;

	sb_buf_reset(&t->sql);
	people_view(t, type, "CREATE OR REPLACE VIEW ");
	int rc = entity_attempt(t, &done, err);
	if (rc == SB_OK && !done) {
		sb_buf_reset(&t->sql);
		sb_buf_adds(&t->sql, "DROP VIEW IF EXISTS ");
		people_name(&t->sql, t, type, "_history");
		people_view(t, type, "; CREATE VIEW ");
		rc = entity_attempt(t, &done, err); /* somebody's view stands on it: it stays as it was, and goes on working */
	}
	if (rc == SB_OK) {
		sb_buf_reset(&t->sql);
		people_function(t, type);
		rc = entity_attempt(t, &done, err); /* the same */
	}
	return rc;
}

/* ---- life ---- */

int entity_history_tell(struct sb_entity_tables *t, const struct entity_type *type, struct sb_error *err)
{
	int64_t ms = t->when.snapshot && type->snapshot_ms ? type->snapshot_ms : t->when.ms;
	char at[SB_TIME_LEN + 1] = "", until[SB_POSITION_LEN + 32], pos[SB_POSITION_LEN + 1];
	const char *param[] = { at, until };

	if (!type->history)
		return SB_OK;
	if (ms > 0)
		sb_time_format(at, ms);
	sb_position_format(pos, t->when.until);
	(void)snprintf(until, sizeof(until), "%" PRIu64 "/%s", t->when.incarnation, pos); /* fits */
	return sb_pg_exec(t->pg, "SELECT set_config('stagebridge.at', $1, true), set_config('stagebridge.position', $2, true)", 2, param, NULL, err);
}

/* Everything that is here now becomes a version, from now on. */
static int baseline(struct sb_entity_tables *t, const struct entity_type *type, struct sb_error *err)
{
	struct sb_buf *sql = &t->sql;

	sb_buf_reset(sql);
	sb_buf_adds(sql, "UPDATE ");
	history_name(sql, type);
	sb_buf_adds(sql, " SET valid_to = now() WHERE valid_to IS NULL; ");
	begin_versions(sql, type);
	texts(sql, type, "n", true);
	sb_buf_adds(sql, ", now(), NULL, 'i', ");
	position(sql, type, "n");
	sb_buf_adds(sql, ", ");
	row_json(sql, type, "n");
	sb_buf_adds(sql, " FROM ");
	entity_table_name(sql, type);
	sb_buf_addf(sql, " n WHERE NOT n.%sdeleted", type->prefix);
	return entity_ddl(t, err);
}

/* Only once: recorded by its name. Hash indexes, because a key may be longer than an entry of a btree. */
static int make_table(struct sb_entity_tables *t, struct entity_type *type, struct sb_error *err)
{
	struct sb_buf *sql = &t->sql;
	const char *param[] = { t->scope, type->name, type->history_table };
	int rc = entity_store_name(t, type, "__history", type->history_table, err);
	if (rc)
		return rc;
	sb_buf_reset(sql);
	sb_buf_adds(sql, "CREATE TABLE ");
	history_name(sql, type);
	sb_buf_adds(sql, " (generation integer NOT NULL, key text[] NOT NULL, valid_from timestamptz NOT NULL, valid_to timestamptz, op text NOT NULL, position text NOT NULL,"
		" row json); CREATE INDEX ON ");
	history_name(sql, type);
	sb_buf_adds(sql, " USING hash (key); CREATE INDEX ON ");
	history_name(sql, type);
	sb_buf_adds(sql, " USING hash (key) WHERE valid_to IS NULL; CREATE INDEX ON ");
	history_name(sql, type);
	sb_buf_adds(sql, " (valid_to) WHERE valid_to IS NOT NULL");
	rc = entity_ddl(t, err);
	return rc ? rc : sb_pg_exec(t->pg, "UPDATE store.entity_type SET history_table = $3 WHERE scope = $1 AND type = $2", 3, param, NULL, err);
}

int entity_history_refresh(struct sb_entity_tables *t, struct entity_type *type, bool anew, struct sb_error *err)
{
	const char *param[] = { t->scope, type->name };
	bool first = type->history_table[0] == '\0';
	int rc = SB_OK;

	if (!type->history || !type->has_table)
		return SB_OK;
	if (first)
		rc = make_table(t, type, err);
	if (rc == SB_OK && anew && !first) {
		type->history_generation++;
		rc = sb_pg_exec(t->pg, "UPDATE store.entity_type SET history_generation = history_generation + 1 WHERE scope = $1 AND type = $2", 2, param, NULL, err);
	}
	if (rc == SB_OK)
		rc = make_triggers(t, type, err);
	if (rc == SB_OK)
		rc = make_people(t, type, err);
	return rc || !(first || anew) ? rc : baseline(t, type, err);
}

static int end_all(struct sb_entity_tables *t, const struct entity_type *type, struct sb_error *err)
{
	sb_buf_reset(&t->sql);
	sb_buf_adds(&t->sql, "UPDATE ");
	history_name(&t->sql, type);
	sb_buf_adds(&t->sql, " SET valid_to = now() WHERE valid_to IS NULL");
	return type->history_table[0] ? entity_ddl(t, err) : SB_OK;
}

int sb_entity_history(struct sb_entity_tables *t, const char *name, bool on, struct sb_error *err)
{
	struct entity_type *type;
	const char *param[] = { t->scope, name, on ? "t" : "f" };
	int rc = entity_enter(t, err);

	if (rc == SB_OK)
		rc = entity_type_load(t, name, &type, err);
	if (rc || type->history == on)
		return rc;
	if (!on && type->has_table) {
		rc = entity_history_pause(t, type, err);
		if (rc == SB_OK)
			rc = end_all(t, type, err);
	}
	if (rc == SB_OK)
		rc = sb_pg_exec(t->pg, "UPDATE store.entity_type SET history = $3::boolean WHERE scope = $1 AND type = $2", 3, param, NULL, err);
	type->history = rc == SB_OK ? on : type->history;
	if (rc || !on)
		return rc;
	bool again = type->history_table[0] != '\0'; /* what was recorded before stays */
	rc = entity_history_refresh(t, type, false, err);
	return rc || !again || !type->has_table ? rc : baseline(t, type, err);
}

int sb_entity_history_prune(struct sb_entity_tables *t, const char *name, int64_t keep_ms, uint64_t *ret_gone, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	struct entity_type *type;
	char keep[24];
	const char *param[] = { keep };
	int rc = entity_enter(t, err);

	*ret_gone = 0;
	if (rc == SB_OK)
		rc = entity_type_load(t, name, &type, err);
	if (rc || !type->history_table[0])
		return rc;
	(void)snprintf(keep, sizeof(keep), "%" PRId64, keep_ms); /* fits */
	sb_buf_reset(&t->sql);
	sb_buf_adds(&t->sql, "DELETE FROM ");
	history_name(&t->sql, type);
	sb_buf_adds(&t->sql, " WHERE ctid = ANY (ARRAY(SELECT ctid FROM ");
	history_name(&t->sql, type);
	sb_buf_addf(&t->sql, " WHERE valid_to < now() - $1::bigint * interval '1 millisecond' LIMIT %d))", PRUNE_ROWS);
	rc = sb_buf_check(&t->sql, "statement", err);
	if (rc == SB_OK)
		rc = sb_pg_exec(t->pg, t->sql.data, 1, param, &res, err);
	if (rc == SB_OK)
		*ret_gone = (uint64_t)sb_pg_affected(res);
	return rc;
}
