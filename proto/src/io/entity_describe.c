/* What the source's catalog says of a type: its columns, which the table follows even when no row comes, and comments for people. The last
 * description is kept with the type, so that a view that is made anew gets its comments again.
 *
 * Enums stay text: PostgreSQL refuses a label that a type does not have yet, and a new label's rows may come before its description; and a value that ALTER
 * TYPE has added cannot be used before the transaction commits. Their labels are in the comment. Thread: the lane of the connection. */
#include <string.h>

#include "entity_private.h"
#include "stagebridge/described.h"

static const char *text(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

int entity_described_load(json_t **ret, const char *stored, struct sb_error *err)
{
	int rc = sb_described_parse(ret, stored, strlen(stored), err);

	return rc ? sb_fail_prefix(err, "store.entity_type") : SB_OK;
}

static struct entity_version version_of(const json_t *described)
{
	return (struct entity_version){ .inc = (uint64_t)json_integer_value(json_object_get(described, "incarnation")), .lsn = sb_described_lsn(described) };
}

/* ---- comments ---- */

/* "comment [app.run_state: queued | running]": what is shown as another type says which it is at the source */
static void column_comment(struct sb_buf *out, const json_t *c)
{
	const char *sep = "", *own = text(c, "source_type");
	const json_t *label;
	size_t i;

	sb_buf_reset(out);
	sb_buf_adds(out, text(c, "comment"));
	if (strcmp(own, text(c, "type")) == 0 && json_array_size(json_object_get(c, "labels")) == 0)
		return;
	sb_buf_addf(out, "%s[%s", out->len ? " " : "", own);
	json_array_foreach(json_object_get(c, "labels"), i, label)
	{
		sb_buf_adds(out, i ? sep : ": ");
		sb_buf_adds(out, json_string_value(label));
		sep = " | ";
	}
	sb_buf_addc(out, ']');
}

static void add_name(struct sb_buf *sql, const struct sb_entity_tables *t, const struct entity_type *type)
{
	sb_pg_ident(sql, t->view_schema);
	sb_buf_addc(sql, '.');
	sb_pg_ident(sql, type->name);
}

static void add_comment(struct sb_buf *sql, const char *comment)
{
	sb_buf_adds(sql, " IS ");
	if (*comment)
		sb_pg_literal(sql, comment);
	else
		sb_buf_adds(sql, "NULL");
	sb_buf_adds(sql, "; ");
}

void entity_comments(struct sb_buf *sql, const struct sb_entity_tables *t, const struct entity_type *type, const struct sb_shape *columns)
{
	sb_cleanup(sb_buf_release) struct sb_buf comment = { 0 };
	const json_t *c;
	size_t i;

	if (!type->described)
		return;
	sb_buf_init(&comment, 256 * 1024); /* 1,000 labels and 1,000 characters */
	sb_buf_adds(sql, "COMMENT ON VIEW ");
	add_name(sql, t, type);
	add_comment(sql, text(type->described, "comment"));
	json_array_foreach(json_object_get(type->described, "columns"), i, c)
	{
		if (!entity_shape_find(columns, text(c, "name")))
			continue;
		column_comment(&comment, c);
		sb_buf_adds(sql, "COMMENT ON COLUMN ");
		add_name(sql, t, type);
		sb_buf_addc(sql, '.');
		sb_pg_ident(sql, text(c, "name"));
		add_comment(sql, comment.len ? comment.data : "");
	}
}

/* Somebody may have dropped or replaced the view: that is theirs, the rows matter more than the comments. */
static int comment_view(struct sb_entity_tables *t, const struct entity_type *type, struct sb_error *err)
{
	struct sb_error why = SB_ERROR_INIT;
	int rc = entity_savepoint(t, err);
	if (rc)
		return rc;
	sb_buf_reset(&t->sql);
	entity_comments(&t->sql, t, type, &type->shape);
	rc = entity_ddl(t, &why);
	if (rc == SB_OK)
		return entity_savepoint_keep(t, err);
	if (strncmp(why.state, "42", 2) == 0)
		return entity_savepoint_undo(t, err);
	if (err)
		*err = why;
	return rc;
}

/* ---- the description ---- */

static int save(struct sb_entity_tables *t, struct entity_type *type, const json_t *described, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *stored = json_dumps(described, JSON_COMPACT | JSON_SORT_KEYS);
	const char *param[] = { t->scope, type->name, stored };

	if (!stored)
		return sb_fail_nomem(err);
	json_t *mine = json_deep_copy(described);
	if (!mine)
		return sb_fail_nomem(err);
	json_decref(type->described);
	type->described = mine;
	return sb_pg_exec(t->pg, "UPDATE store.entity_type SET described = $3::json WHERE scope = $1 AND type = $2", 3, param, NULL, err);
}

/* The columns follow unless those that are here came with a later change. */
static int follow(struct sb_entity_tables *t, struct entity_type *type, const json_t *described, struct sb_error *err)
{
	struct entity_version v = version_of(described);
	struct sb_shape shape;
	int rc = sb_described_shape(described, &shape, err);
	if (rc)
		return rc;
	bool evolve = !type->has_table || (!sb_shape_equal(&type->shape, &shape) && entity_version_cmp(v, type->shape_at) >= 0);
	rc = evolve ? entity_evolve(t, type, &shape, v, err) : comment_view(t, type, err);
	sb_shape_release(&shape);
	return rc;
}

int sb_entity_describe(struct sb_entity_tables *t, const json_t *described, bool *ret_news, struct sb_error *err)
{
	struct entity_type *type;
	struct entity_version v = version_of(described);
	int rc = entity_enter(t, err);

	*ret_news = false;
	if (rc == SB_OK && (v.inc > INT64_MAX || v.lsn > INT64_MAX))
		rc = sb_fail(err, SB_EPROTO, "position of a description is out of range");
	if (rc == SB_OK)
		rc = entity_type_load(t, text(described, "type"), &type, err);
	if (rc || (type->described && (entity_version_cmp(v, version_of(type->described)) < 0 || json_equal(type->described, described))))
		return rc;
	rc = save(t, type, described, err);
	if (rc == SB_OK)
		rc = follow(t, type, described, err);
	*ret_news = rc == SB_OK;
	return rc;
}
