/* Relations as the stream describes them: which type they are, which of their columns leave the stage, what the key is. The columns are those of the
 * moment when the rows were written; the present catalog is asked for the names of types only, and for the key where REPLICA IDENTITY FULL marks
 * every column. Stream lane; owned by the session. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "columns.h"
#include "pgsrc.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"

#define TYPE_NAMES_MAX 1024

static void relation_clear(struct pgsrc_relation *rel)
{
	sb_shape_release(&rel->shape);
	free(rel->wire);
	free(rel->key);
	rel->wire = rel->key = NULL;
	rel->n_key = 0;
}

static void type_names_clear(struct pgsrc *s)
{
	for (size_t i = 0; i < s->n_type_names; i++)
		free(s->type_name[i].name);
	s->n_type_names = 0;
}

void pgsrc_relations_release(struct pgsrc *s)
{
	for (size_t i = 0; i < s->n_relations; i++)
		relation_clear(&s->relation[i]);
	free(s->relation);
	s->relation = NULL;
	s->n_relations = 0;
	relation_clear(&s->event_relation);
	type_names_clear(s);
	free(s->type_name);
	s->type_name = NULL;
}

static struct pgsrc_relation *find_any(struct pgsrc *s, uint32_t oid)
{
	for (size_t i = 0; i < s->n_relations; i++) {
		if (s->relation[i].oid == oid)
			return &s->relation[i];
	}
	return NULL;
}

struct pgsrc_relation *pgsrc_relation_find(struct pgsrc *s, uint32_t oid)
{
	struct pgsrc_relation *rel = find_any(s, oid);

	return rel && rel->type ? rel : NULL;
}

/* A relation that no type has, or no more: its rows are not ours. It is remembered, because the server describes it once a session only. */
static int disown(struct pgsrc *s, struct pgsrc_relation *rel, struct sb_error *err)
{
	struct pgsrc_type *type = rel->type;
	int r = 0;

	if (type && type->batch && type->batch_oid == rel->oid)
		r = pgsrc_batch_close(s, type, pgsrc_here(s), err);
	relation_clear(rel);
	rel->type = NULL;
	return r;
}

int pgsrc_relation_disown(struct pgsrc *s, uint32_t oid, struct sb_error *err)
{
	struct pgsrc_relation *rel = find_any(s, oid);

	return rel ? disown(s, rel, err) : 0;
}

int pgsrc_relations_check(struct pgsrc *s, struct sb_error *err)
{
	for (size_t i = 0; i < s->n_types; i++) {
		const struct pgsrc_type *t = &s->type[i];
		const struct pgsrc_relation *rel = t->active && t->table.oid ? find_any(s, t->table.oid) : NULL;
		if (rel && !rel->type)
			return sb_fail(err, SB_EAGAIN, "table \"%s\" is another one than before: the server must describe it again", t->conf->table);
	}
	return 0;
}

/* By number, which outlives a renaming; by name, for a table that was dropped and made again. */
static struct pgsrc_type *find_type(struct pgsrc *s, const struct pgoutput_msg *m)
{
	struct pgsrc_type *named = NULL;

	for (size_t i = 0; i < s->n_types; i++) {
		const struct pgsrc_table *t = &s->type[i].table;
		if (t->oid == m->oid)
			return &s->type[i];
		if (t->name && strcmp(t->name, m->name) == 0 && strcmp(t->schema, m->schema) == 0)
			named = &s->type[i];
	}
	return named;
}

/* --- names of types --- */

static int ask_type_name(struct pgsrc *s, uint32_t oid, int32_t typmod, char **ret, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	char id[16], mod[16];
	const char *const param[] = { id, mod };

	(void)snprintf(id, sizeof(id), "%" PRIu32, oid);      /* both fit */
	(void)snprintf(mod, sizeof(mod), "%" PRId32, typmod);
	int r = sb_pg_exec(s->pg, "SELECT coalesce(" PGSRC_TYPE_SQL("$1::oid", "$2::int4") ", 'text')", 2, param, &res, err);
	if (r < 0)
		return r;
	*ret = sb_strdup(sb_pg_get(res, 0, 0));
	return *ret ? 0 : sb_fail_nomem(err);
}

static int type_name(struct pgsrc *s, uint32_t oid, int32_t typmod, const char **ret, struct sb_error *err)
{
	char *name = NULL;

	for (size_t i = 0; i < s->n_type_names; i++) {
		if (s->type_name[i].oid == oid && s->type_name[i].typmod == typmod) {
			*ret = s->type_name[i].name;
			return 0;
		}
	}
	int r = ask_type_name(s, oid, typmod, &name, err);
	if (r < 0)
		return r;
	if (s->n_type_names == TYPE_NAMES_MAX)
		type_names_clear(s);
	if (!s->type_name)
		s->type_name = calloc(TYPE_NAMES_MAX, sizeof(*s->type_name));
	if (!s->type_name) {
		free(name);
		return sb_fail_nomem(err);
	}
	s->type_name[s->n_type_names++] = (struct pgsrc_type_name){ .oid = oid, .typmod = typmod, .name = name };
	*ret = name;
	return 0;
}

/* --- shapes --- */

static bool in_catalog(const struct pgsrc_table *t, const char *column)
{
	for (unsigned i = 0; i < t->n_columns; i++) {
		if (strcmp(t->column[i].name, column) == 0)
			return true;
	}
	return false;
}

static bool is_key(const struct pgsrc_relation *rel, const struct pgoutput_column *c)
{
	const struct pgsrc_table *t = &rel->type->table;

	if (rel->identity != 'f')
		return c->key;
	for (unsigned i = 0; i < t->n_columns; i++) {
		if (strcmp(t->column[i].name, c->name) == 0)
			return t->column[i].key;
	}
	return false;
}

/* A column is told by its name here, and the name may be of another time than the catalog. */
static bool may_leave(const struct pgsrc_type *type, const char *column)
{
	enum agent_class class = agent_column_class(type->conf, column);

	if (class != AGENT_UNDECLARED)
		return class != AGENT_PRIVATE;
	return !pgsrc_is_withheld(&type->table, column) && (in_catalog(&type->table, column) || pgsrc_known_has(&type->known, 0, 0, column));
}

static int fill(struct pgsrc *s, struct pgsrc_relation *rel, const struct pgoutput_msg *m, struct sb_error *err)
{
	struct sb_shape *shape = &rel->shape;

	*shape = (struct sb_shape){ .incarnation = s->incarnation };
	int r = sb_format(shape->type, sizeof(shape->type), err, "%s", rel->type->conf->type);
	shape->column = calloc((size_t)m->n_columns + 1, sizeof(*shape->column));
	rel->wire = calloc((size_t)m->n_columns + 1, sizeof(*rel->wire));
	rel->key = calloc((size_t)m->n_columns + 1, sizeof(*rel->key));
	if (!shape->column || !rel->wire || !rel->key)
		return sb_fail_nomem(err);
	for (unsigned i = 0; r == 0 && i < m->n_columns; i++) {
		const struct pgoutput_column *c = &m->column[i];
		const char *type;
		if (!may_leave(rel->type, c->name))
			continue;
		r = type_name(s, c->type, c->typmod, &type, err);
		if (r < 0)
			break;
		unsigned at = shape->n_columns++;
		rel->wire[at] = i;
		shape->column[at] = (struct sb_column){ .name = sb_strdup(c->name), .type = sb_strdup(type), .key = is_key(rel, c) };
		if (!shape->column[at].name || !shape->column[at].type)
			return sb_fail_nomem(err);
		if (shape->column[at].key)
			rel->key[rel->n_key++] = at;
	}
	return r;
}

static bool in_message(const struct pgoutput_msg *m, const char *column)
{
	for (unsigned i = 0; i < m->n_columns; i++) {
		if (strcmp(m->column[i].name, column) == 0)
			return true;
	}
	return false;
}

/* Every column of the message is one of the catalog's, or is private by name. */
static bool all_known(const struct pgsrc_type *type, const struct pgoutput_msg *m)
{
	for (unsigned i = 0; i < m->n_columns; i++) {
		const char *name = m->column[i].name;
		if (agent_column_class(type->conf, name) != AGENT_PRIVATE && !in_catalog(&type->table, name) && !pgsrc_is_withheld(&type->table, name))
			return false;
	}
	return true;
}

/* Why no row of this relation may be sent; NULL: all may. A private column that is not there under its name was left out by the publication, or has another
 * name in this part of the history: then it must not be taken for a public one. */
static const char *unusable(const struct pgsrc_relation *rel, const struct pgoutput_msg *m)
{
	const struct sb_strings *private_columns = &rel->type->conf->private_columns;

	if (rel->n_key == 0)
		return "rows carry no key";
	if (rel->shape.n_columns > SB_COLUMNS_MAX)
		return "more columns than a record can have";
	for (unsigned i = 0; i < rel->shape.n_columns; i++) {
		if (!pgsrc_name_ok(rel->shape.column[i].name) || !pgsrc_name_ok(rel->shape.column[i].type))
			return "the name of a column or its type has control characters or is not UTF-8";
	}
	for (unsigned i = 0; rel->identity != 'f' && i < m->n_columns; i++) {
		if (m->column[i].key && !may_leave(rel->type, m->column[i].name))
			return "a column that may not leave the stage is part of the key";
	}
	for (size_t i = 0; i < private_columns->count; i++) {
		if (!in_message(m, private_columns->item[i]) && (!rel->type->table.listed || !all_known(rel->type, m)))
			return "a private column is not there under its name";
	}
	return NULL;
}

/* Rows that are skipped must come by a snapshot: like a table that was refused, the type is forgotten until its rows can be sent again. */
static int judge(struct pgsrc *s, struct pgsrc_relation *rel, const struct pgoutput_msg *m, struct sb_error *err)
{
	struct pgsrc_type *type = rel->type;
	const char *why = unusable(rel, m);
	int r = 0;

	if (why && !type->unusable) {
		r = pgsrc_catalog_poll(s, err); /* it may know more by now */
		if (r < 0 || !rel->type)
			return r;
		why = unusable(rel, m);
	}
	rel->usable = why == NULL;
	if (r < 0 || type->unusable == (why != NULL))
		return r;
	if (why) {
		sb_log(SB_ERROR, "relation_unusable", "source=%s type=%s reason=%s", s->set->name, type->conf->type, why);
		return pgsrc_relation_skips(s, rel, err);
	}
	type->unusable = false;
	return pgsrc_catalog_poll(s, err);
}

int pgsrc_relation_skips(struct pgsrc *s, struct pgsrc_relation *rel, struct sb_error *err)
{
	struct pgsrc_type *type = rel->type;

	type->unusable = true;
	type->unusable_lsn = UINT64_MAX; /* until the poll knows where the server is */
	int r = pgsrc_catalog_poll(s, err);
	type->unusable_lsn = s->server_lsn;
	return r;
}

static int slot_for(struct pgsrc *s, uint32_t oid, struct pgsrc_relation **ret, struct sb_error *err)
{
	*ret = find_any(s, oid);
	if (*ret)
		return 0;
	struct pgsrc_relation *more = realloc(s->relation, (s->n_relations + 1) * sizeof(*more));
	if (!more)
		return sb_fail_nomem(err);
	s->relation = more;
	*ret = &more[s->n_relations++];
	**ret = (struct pgsrc_relation){ .oid = oid };
	return 0;
}

int pgsrc_relation_set(struct pgsrc *s, const struct pgoutput_msg *m, struct sb_error *err)
{
	struct pgsrc_type *type = find_type(s, m);
	struct pgsrc_relation *rel = NULL;

	bool known = pgsrc_relation_find(s, m->oid) != NULL;
	unsigned withheld = type ? type->table.n_withheld : 0;
	int r = slot_for(s, m->oid, &rel, err);
	if (r == 0 && !type) /* in the publication, but not in our settings */
		return disown(s, rel, err);
	/* rows that were batched under the old shape go first */
	if (r == 0 && type->batch && type->batch_oid == m->oid)
		r = pgsrc_batch_close(s, type, pgsrc_here(s), err);
	/* a column may be new, or another one of an old name: asked before a row of it is sent */
	if (r == 0)
		r = pgsrc_table_look(s, type, err);
	if (r < 0)
		return r;
	if (find_type(s, m) != type) /* another table has its name by now */
		return disown(s, rel, err);
	relation_clear(rel);
	rel->type = type;
	rel->identity = m->identity;
	rel->n_wire = m->n_columns;
	rel->usable = false;
	if (type->events)
		return pgsrc_outbox_relation(s, rel, m, err);
	r = fill(s, rel, m, err);
	if (r < 0)
		return r;
	if (known || withheld != type->table.n_withheld)
		s->catalog_ms = sb_mono_ms(); /* something was altered: look soon */
	return judge(s, rel, m, err);
}
