/* Row filters: the part of a table's rows that may leave. The publication holds the filter, so that the server applies it to the stream; the snapshot
 * asks the publication for its text, so that both mean the same whoever made it. A filter may only use columns that every update and delete tells
 * with the old row, or the server refuses the application's updates: that is found out before anything is published. Both lanes, each its connection. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "pgsrc.h"

static void identity_columns(struct sb_buf *sql, const struct pgsrc_table *t)
{
	const char *sep = "";

	for (unsigned i = 0; i < t->n_columns; i++) {
		if (t->identity != 'f' && !t->column[i].key)
			continue;
		sb_buf_adds(sql, sep);
		sb_pg_ident(sql, t->column[i].name);
		sep = ", ";
	}
}

/* Plans it over the columns of the identity alone: a filter that needs another one is not valid there. Reads no row. */
static int try_filter(struct sb_pg *pg, const char *where, const struct pgsrc_table *t, struct sb_error *err)
{
	sb_cleanup(sb_buf_release) struct sb_buf sql = { 0 };

	sb_buf_init(&sql, 256 * 1024);
	sb_buf_adds(&sql, "SELECT FROM (SELECT ");
	identity_columns(&sql, t);
	sb_buf_adds(&sql, " FROM ");
	pgsrc_table_sql(&sql, t);
	sb_buf_adds(&sql, ") AS ");
	sb_pg_ident(&sql, t->name);
	sb_buf_addf(&sql, " WHERE (%s) LIMIT 0", where);
	int r = sb_buf_check(&sql, "row filter", err);
	return r < 0 ? r : sb_pg_exec(pg, sql.data, 0, NULL, NULL, err);
}

int pgsrc_filter_check(struct sb_pg *pg, const struct agent_table *conf, struct pgsrc_table *t, struct sb_error *err)
{
	struct sb_error why = SB_ERROR_INIT;

	if (!conf->where || !conf->where[0] || t->refusal[0])
		return 0;
	if (sb_pg_version(pg) < 150000) {
		(void)snprintf(t->refusal, sizeof(t->refusal), "a row filter needs PostgreSQL 15 or newer, this server has %d: remove `where`", sb_pg_version(pg) / 10000);
		return 0;
	}
	int r = try_filter(pg, conf->where, t, &why);
	if (r == 0)
		return 0;
	if (!sb_pg_ok(pg)) {
		*err = why;
		return r;
	}
	t->harmful = true;
	(void)snprintf(t->refusal, sizeof(t->refusal), "the row filter is not valid over the %s, updates of the table would fail: %.160s%s",
		t->identity == 'f' ? "columns that may leave" : "key columns", why.msg,
		t->identity == 'f' ? "" : "; use the key's columns only, or ALTER TABLE ... REPLICA IDENTITY FULL"); /* for people; may be cut */
	return 0;
}

int pgsrc_filter_read(struct sb_pg *pg, const char *publication, const struct pgsrc_table *t, char **ret, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	char oid[16];
	const char *const param[] = { publication, oid };

	*ret = NULL;
	if (sb_pg_version(pg) < 150000)
		return 0;
	(void)snprintf(oid, sizeof(oid), "%" PRIu32, t->oid); /* ten digits at most */
	int r = sb_pg_exec(pg, "SELECT pg_get_expr(r.prqual, r.prrelid) FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid"
		" WHERE p.pubname = $1 AND r.prrelid = $2::oid", 2, param, &res, err);
	if (r < 0 || sb_pg_rows(res) == 0 || !sb_pg_get(res, 0, 0))
		return r;
	*ret = sb_strdup(sb_pg_get(res, 0, 0));
	return *ret ? 0 : sb_fail_nomem(err);
}
