/* Partitions come and go without a word to a logical decoder: attached with rows, detached, dropped, truncated alone, rewritten. So the leaves of a
 * partitioned table are part of what is remembered of it, each with its file and the links by which it hangs in the tree, and a leaf that differs later
 * asks for the rows again. A leaf that was born in the tree does not: all its rows came by the stream. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "pgsrc.h"

/* The file changes with TRUNCATE and with rewrites, the number of a link's transaction with every attachment. Born in the tree: not older than any link
 * on the way to the root. The last column: one transaction made the leaf and attached it, perhaps with rows in between. */
static const char leaves_query[] =
	"WITH tree AS (SELECT relid FROM pg_partition_tree($1::oid) WHERE isleaf AND relid <> $1::oid),"
	" link AS (SELECT t.relid, i.inhrelid, i.xmin FROM tree t CROSS JOIN LATERAL pg_partition_ancestors(t.relid) a(id) JOIN pg_inherits i ON i.inhrelid = a.id"
	"  WHERE a.id <> $1::oid AND a.id IN (SELECT relid FROM pg_partition_tree($1::oid)))"
	" SELECT l.relid::oid, concat_ws('/', c.relfilenode, string_agg(l.xmin::text, ',' ORDER BY l.inhrelid)), bool_and(age(l.xmin) >= age(t.xmin)),"
	" bool_or(l.inhrelid = l.relid AND l.xmin = t.xmin) FROM link l JOIN pg_class c ON c.oid = l.relid JOIN pg_type t ON t.oid = c.reltype"
	" GROUP BY l.relid, c.relfilenode ORDER BY 1";

void pgsrc_leaves_release(struct pgsrc_table *t)
{
	for (unsigned i = 0; i < t->n_leaves; i++)
		free(t->leaf[i].mark);
	free(t->leaf);
	t->leaf = NULL;
	t->n_leaves = 0;
}

int pgsrc_leaves_read(struct sb_pg *pg, struct pgsrc_table *t, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	char oid[16];
	const char *const param[] = { oid };

	(void)snprintf(oid, sizeof(oid), "%" PRIu32, t->oid); /* ten digits at most */
	int r = sb_pg_exec(pg, leaves_query, 1, param, &res, err);
	if (r < 0)
		return r;
	int n = sb_pg_rows(res);
	t->leaf = calloc((size_t)n + 1, sizeof(*t->leaf));
	if (!t->leaf)
		return sb_fail_nomem(err);
	for (int i = 0; i < n; i++) {
		struct pgsrc_leaf *leaf = &t->leaf[t->n_leaves++];
		*leaf = (struct pgsrc_leaf){ .oid = (uint32_t)sb_pg_get_i64(res, i, 0), .mark = sb_strdup(sb_pg_get(res, i, 1)),
			.born_here = sb_pg_get(res, i, 2)[0] == 't', .one_go = sb_pg_get(res, i, 3)[0] == 't' };
		if (!leaf->mark)
			return sb_fail_nomem(err);
	}
	return 0;
}

/* {"oid": "mark"}; returns new */
json_t *pgsrc_leaves_json(const struct pgsrc_table *t)
{
	json_t *leaves = json_object();

	for (unsigned i = 0; leaves && i < t->n_leaves; i++) {
		char oid[16];
		(void)snprintf(oid, sizeof(oid), "%" PRIu32, t->leaf[i].oid); /* ten digits at most */
		if (json_object_set_new(leaves, oid, json_string(t->leaf[i].mark)) < 0) {
			json_decref(leaves);
			return NULL;
		}
	}
	return leaves;
}

const char *pgsrc_leaves_demand(const json_t *old, const struct pgsrc_table *now)
{
	size_t kept = 0;

	for (unsigned i = 0; i < now->n_leaves; i++) {
		char oid[16];
		(void)snprintf(oid, sizeof(oid), "%" PRIu32, now->leaf[i].oid); /* ten digits at most */
		const char *mark = json_string_value(json_object_get(old, oid));
		if (mark && strcmp(mark, now->leaf[i].mark) != 0)
			return "a partition was truncated, rewritten or attached again";
		if (!mark && (!now->leaf[i].born_here || now->leaf[i].filled))
			return "a partition was attached";
		kept += mark != NULL;
	}
	return kept < json_object_size(old) ? "a partition was detached or dropped" : NULL;
}

/* Rows that the leaf's own transaction wrote may be from before it was attached. */
static int filled(struct sb_pg *pg, struct pgsrc_leaf *leaf, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	sb_cleanup(sb_buf_release) struct sb_buf sql = { 0 };
	char oid[16];
	const char *const param[] = { oid };

	(void)snprintf(oid, sizeof(oid), "%" PRIu32, leaf->oid); /* ten digits at most */
	int r = sb_pg_exec(pg, "SELECT n.nspname, c.relname, i.xmin::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
		" JOIN pg_inherits i ON i.inhrelid = c.oid WHERE c.oid = $1::oid AND c.relkind = 'r'", 1, param, &res, err);
	if (r < 0 || sb_pg_rows(res) == 0)
		return r; /* gone meanwhile, or foreign */
	sb_buf_init(&sql, 1024);
	sb_buf_adds(&sql, "SELECT FROM ONLY ");
	sb_pg_ident(&sql, sb_pg_get(res, 0, 0));
	sb_buf_addc(&sql, '.');
	sb_pg_ident(&sql, sb_pg_get(res, 0, 1));
	sb_buf_addf(&sql, " WHERE xmin = '%s'::xid LIMIT 1", sb_pg_get(res, 0, 2));
	r = sb_buf_check(&sql, "statement", err);
	sb_pg_free(SB_TAKE(res));
	if (r == 0)
		r = sb_pg_exec(pg, sql.data, 0, NULL, &res, err);
	if (r == 0)
		leaf->filled = sb_pg_rows(res) > 0;
	return r;
}

int pgsrc_leaves_check(struct sb_pg *pg, const char *old_text, struct pgsrc_table *now, struct sb_error *err)
{
	json_auto_t *old = json_loads(old_text, JSON_REJECT_DUPLICATES, NULL);
	const json_t *leaves = json_object_get(old, "leaves");
	int r = 0;

	for (unsigned i = 0; r == 0 && i < now->n_leaves; i++) {
		char oid[16];
		(void)snprintf(oid, sizeof(oid), "%" PRIu32, now->leaf[i].oid); /* ten digits at most */
		if (now->leaf[i].one_go && !json_object_get(leaves, oid))
			r = filled(pg, &now->leaf[i], err);
	}
	return r;
}
