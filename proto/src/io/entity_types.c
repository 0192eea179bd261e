/* Which type a column gets here: the source's when pg_catalog has it, else text. The source's text never reaches SQL unless its base is
 * exactly a name that the catalog gives and its modifier is digits, so that a type is no way to inject a statement.
 *
 * Left out on purpose: types whose values mean something only in the source's catalog (regclass, aclitem ...) and money, whose text depends on
 * the locale. Pure but for one query; thread of the connection's lane. */
#include <ctype.h>
#include <string.h>

#include "entity_private.h"
#include "stagebridge/text.h"

/* "numeric(10,2)" -> base "numeric", modifier true; "timestamp(3) with time zone" -> "timestamp with time zone". False: not of that form. */
static bool split(const char *type, struct sb_buf *base, bool *ret_modifier)
{
	const char *open = strchr(type, '('), *close = open ? strchr(open, ')') : NULL;

	*ret_modifier = open != NULL;
	if (!open) {
		sb_buf_adds(base, type);
		return true;
	}
	if (!close || close == open + 1)
		return false;
	for (const char *p = open + 1; p < close; p++)
		if (!isdigit((unsigned char)*p) && *p != ',' && *p != '-')
			return false;
	sb_buf_add(base, type, (size_t)(open - type));
	sb_buf_adds(base, close + 1);
	return true;
}

/* Appends the name to look up for one column and tells whether its modifier is to be kept. */
static void lookup_name(struct sb_buf *array, const char *type, bool *ret_modifier)
{
	sb_cleanup(sb_buf_release) struct sb_buf base = { 0 };
	bool modifier = false;

	sb_buf_init(&base, 1024);
	if (*type == '\0') {
		sb_buf_adds(&base, "jsonb"); /* a value of a source without declared columns */
	} else if (strncmp(type, "interval ", 9) == 0) {
		sb_buf_adds(&base, "interval"); /* its field restrictions were enforced at the source */
	} else if (!split(type, &base, &modifier)) {
		sb_buf_truncate(&base, 0);
		modifier = false;
	}
	entity_array_add(array, base.data, base.len);
	*ret_modifier = modifier;
}

static const char lookup_sql[] =
	"SELECT (SELECT quote_ident(t.typname) FROM pg_type t WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype IN ('b', 'r', 'm')"
	" AND (t.typcategory <> 'Z' OR t.typname = 'char') AND t.typname !~ '^_?(reg|aclitem|pg_(?!lsn)|gtsvector|cid$|tid$|money|refcursor)'"
	" AND u.base IN (format_type(t.oid, NULL), format_type(t.oid, -1)) LIMIT 1)"
	" FROM unnest($1::text[]) WITH ORDINALITY u(base, i) ORDER BY u.i";

int entity_resolve_types(struct sb_entity_tables *t, const struct sb_shape *shape, char **ret, struct sb_error *err)
{
	sb_cleanup(sb_buf_release) struct sb_buf array = { 0 };
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	sb_cleanup(sb_freep) bool *modifier = calloc(shape->n_columns, sizeof(*modifier));

	if (!modifier)
		return sb_fail_nomem(err);
	sb_buf_init(&array, ENTITY_SQL_MAX);
	for (unsigned i = 0; i < shape->n_columns; i++)
		lookup_name(&array, shape->column[i].type, &modifier[i]);
	sb_buf_addc(&array, '}');
	int rc = sb_buf_check(&array, "list of types", err);
	const char *param[] = { array.data };
	if (rc == SB_OK)
		rc = sb_pg_exec(t->pg, lookup_sql, 1, param, &res, err);
	if (rc == SB_OK && sb_pg_rows(res) != (int)shape->n_columns)
		rc = sb_fail(err, SB_EDB, "types of \"%s\" could not be looked up", shape->type);
	for (unsigned i = 0; i < shape->n_columns && rc == SB_OK; i++) {
		const char *name = sb_pg_get(res, (int)i, 0);
		/* by catalog name without a modifier: the SQL name "character" alone would mean one character */
		ret[i] = !name ? sb_strdup("text") : modifier[i] ? sb_strdup(shape->column[i].type) : sb_asprintf("pg_catalog.%s", name);
		if (!ret[i])
			rc = sb_fail_nomem(err);
	}
	return rc;
}
