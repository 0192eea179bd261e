/* DDL tells nothing to a logical decoder: a column that is added with a default, or whose type changes, changes rows that are never sent. So what is
 * known of a table is remembered as text and compared with what the catalog says later. Pure. */
#include <string.h>

#include <jansson.h>

#include "pgsrc.h"

char *pgsrc_shape_text(const struct pgsrc_table *t)
{
	json_auto_t *columns = json_array();

	for (unsigned i = 0; i < t->n_columns; i++) {
		const struct pgsrc_column *c = &t->column[i];
		if (json_array_append_new(columns, json_pack("[s, s, b, i]", c->name, c->type, c->key ? 1 : 0, c->attnum)) < 0)
			return NULL;
	}
	json_auto_t *leaves = pgsrc_leaves_json(t);
	json_auto_t *shape = json_pack("{s:I, s:i, s:O, s:O, s:s, s:s}", "oid", (json_int_t)t->oid, "natts", t->natts, "columns", columns, "leaves", leaves,
		"down", t->down_digest, "filter", t->filter ? t->filter : "");
	return shape ? json_dumps(shape, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
}

/* By its number, which outlives a renaming. */
static const json_t *column_of(const json_t *columns, int attnum)
{
	size_t i;
	json_t *c;

	json_array_foreach(columns, i, c) {
		if (json_integer_value(json_array_get(c, 3)) == attnum)
			return c;
	}
	return NULL;
}

static bool same(const json_t *column, size_t i, const char *text)
{
	const char *s = json_string_value(json_array_get(column, i));

	return s && strcmp(s, text) == 0;
}

const char *pgsrc_shape_demands(const char *old_text, const struct pgsrc_table *now)
{
	json_auto_t *old = json_loads(old_text, JSON_REJECT_DUPLICATES, NULL);
	const json_t *columns = json_object_get(old, "columns");
	const char *filter = json_string_value(json_object_get(old, "filter"));

	if (!json_is_array(columns))
		return "its shape is not known";
	if (json_integer_value(json_object_get(old, "oid")) != (json_int_t)now->oid)
		return "the table was made anew";
	const char *down = json_string_value(json_object_get(old, "down"));
	if (now->down_digest[0] && (!down || strcmp(down, now->down_digest) != 0))
		return "what may go to earlier stages was declared anew";
	if (strcmp(filter ? filter : "", now->filter ? now->filter : "") != 0)
		return "the row filter was changed";
	for (unsigned i = 0; i < now->n_columns; i++) {
		const struct pgsrc_column *c = &now->column[i];
		const json_t *was = column_of(columns, c->attnum);
		if (!was && c->attnum <= json_integer_value(json_object_get(old, "natts")))
			return "a column may leave the stage now";
		/* the publication's list left it out until now */
		if (!was && now->listed)
			return "a column was added";
		if (!was && c->has_default)
			return "a column was added with a default";
		if (was && !same(was, 0, c->name))
			return "a column was renamed";
		if (was && !same(was, 1, c->type))
			return "the type of a column was changed";
		if (json_is_true(json_array_get(was, 2)) != c->key)
			return "the key was changed";
	}
	return pgsrc_leaves_demand(json_object_get(old, "leaves"), now);
}
