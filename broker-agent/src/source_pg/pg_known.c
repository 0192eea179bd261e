/* Which columns a table had when its type was first taken up: those may go to the sync view without being declared, one that comes later must be declared
 * first. Remembered in the agent's state (meta "columns/<source>/<type>"). A column is known by its number, which outlives a renaming and is never used
 * again; by its name only where the table itself is another one than before. The stream lane writes, both lanes read. */
#include <string.h>

#include <jansson.h>

#include "columns.h"
#include "pgsrc.h"
#include "stagebridge/log.h"

static int meta_key(char out[192], const char *source, const char *type, struct sb_error *err)
{
	return sb_format(out, 192, err, "columns/%s/%s", source, type);
}

void pgsrc_known_release(struct pgsrc_known *k)
{
	json_decref(k->columns);
	*k = (struct pgsrc_known){ .columns = NULL };
}

static int parse(struct pgsrc_known *ret, const char *text, struct sb_error *err)
{
	json_auto_t *j = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
	json_t *columns = json_object_get(j, "columns");

	if (!json_is_array(columns))
		return sb_fail(err, SB_EDB, "what is remembered of a table's columns cannot be read");
	ret->oid = (uint32_t)json_integer_value(json_object_get(j, "oid"));
	ret->columns = json_incref(columns);
	return 0;
}

int pgsrc_known_load(struct sb_db *db, const char *source, const char *type, struct pgsrc_known *ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	struct pgsrc_known k = { .columns = NULL };
	char key[192];

	int r = meta_key(key, source, type, err);
	if (r == 0)
		r = sb_db_query(db, &st, err, "SELECT value FROM meta WHERE key = ?", "s", key);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r > 0)
		r = parse(&k, sb_db_text(st, 0), err);
	if (r < 0)
		return r;
	*ret = k;
	return 0;
}

bool pgsrc_known_has(const struct pgsrc_known *k, uint32_t oid, int attnum, const char *name)
{
	size_t i;
	const json_t *c;

	if (!k->columns)
		return true; /* to be taken up */
	json_array_foreach(k->columns, i, c) {
		if (k->oid == oid && attnum ? json_integer_value(json_array_get(c, 0)) == attnum : strcmp(json_string_value(json_array_get(c, 1)), name) == 0)
			return true;
	}
	return false;
}

static int store(struct sb_db *db, const char *source, const char *type, const struct pgsrc_known *k, struct sb_error *err)
{
	json_auto_t *j = json_pack("{s:I, s:O}", "oid", (json_int_t)k->oid, "columns", k->columns);
	sb_cleanup(sb_freep) char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
	char key[192];

	if (!text)
		return sb_fail_nomem(err);
	int r = meta_key(key, source, type, err);
	return r < 0 ? r : sb_db_run(db, NULL, err, "INSERT OR REPLACE INTO meta(key, value) VALUES (?, ?)", "ss", key, text);
}

/* Every column that leaves now; what was known of another table under this name is known of this one. */
static int take_up(struct pgsrc_known *k, const struct pgsrc_table *t, struct sb_error *err)
{
	json_auto_t *columns = json_array();

	for (unsigned i = 0; i < t->n_columns; i++) {
		if (json_array_append_new(columns, json_pack("[i, s]", t->column[i].attnum, t->column[i].name)) < 0)
			return sb_fail_nomem(err);
	}
	pgsrc_known_release(k);
	k->oid = t->oid;
	k->columns = SB_TAKE(columns);
	return 0;
}

/* new_columns: send. Returns how many came to it, or an error. */
static int add_new(struct pgsrc_known *k, const char *source, const struct agent_table *conf, const struct pgsrc_table *t, struct sb_error *err)
{
	int added = 0;

	for (unsigned i = 0; i < t->n_columns; i++) {
		const struct pgsrc_column *c = &t->column[i];
		if (agent_column_class(conf, c->name) != AGENT_UNDECLARED || pgsrc_known_has(k, t->oid, c->attnum, c->name))
			continue;
		if (json_array_append_new(k->columns, json_pack("[i, s]", c->attnum, c->name)) < 0)
			return sb_fail_nomem(err);
		sb_log(SB_INFO, "column_taken_up", "source=%s type=%s column=%s reason=%s", source, conf->type, c->name, "new_columns is send");
		added++;
	}
	return added;
}

int pgsrc_known_keep(struct sb_db *db, const char *source, const struct agent_table *conf, const struct pgsrc_table *t, struct pgsrc_known *k, struct sb_error *err)
{
	int r = 0;

	if (t->refusal[0] || !t->oid)
		return 0; /* nothing of it leaves yet */
	if (!k->columns) {
		r = take_up(k, t, err);
		if (r == 0)
			sb_log(SB_INFO, "columns_taken_up", "source=%s type=%s columns=%u text=%s", source, conf->type, t->n_columns,
				"these may go to the sync view; a column that comes later must be declared");
	} else if (k->oid != t->oid) {
		r = take_up(k, t, err);
	} else {
		r = add_new(k, source, conf, t, err);
		if (r <= 0)
			return r;
	}
	return r < 0 ? r : store(db, source, conf->type, k, err);
}
