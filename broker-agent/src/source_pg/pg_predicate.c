/* A condition that a person gives for a partial snapshot becomes part of the statement that reads the table, so it must be a condition and nothing else.
 * Two looks: a reader of characters makes sure that it cannot leave the brackets that it is put in; then PostgreSQL itself plans it, in a transaction that
 * may not write, and the plan must touch the table only. On the thread of whoever asks, with a connection of its own. */
#include <string.h>

#include <jansson.h>

#include "pgsrc.h"
#include "resync.h"

#define DEADLINE "5s"

/* --- characters --- */

static int bad(struct sb_error *err, size_t at, const char *what)
{
	return sb_fail(err, SB_EINVAL, "condition, character %zu: %s", at + 1, what);
}

static bool of_word(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || (unsigned char)c >= 0x80;
}

/* To the closing quote; doubled ones are part of the text. Backslashes mean nothing: standard_conforming_strings is on. */
static int skip_quoted(const char *s, size_t *at, struct sb_error *err)
{
	char quote = s[*at];
	size_t i = *at + 1;

	while (s[i] && (s[i] != quote || s[i + 1] == quote))
		i += s[i] == quote ? 2 : 1;
	if (!s[i])
		return bad(err, *at, "the quote is not closed");
	*at = i;
	return 0;
}

static int check_characters(const char *s, struct sb_error *err)
{
	unsigned depth = 0;

	for (size_t i = 0; s[i]; i++) {
		bool quote = s[i] == '\'' || s[i] == '"';
		if ((unsigned char)s[i] < 0x20 && s[i] != '\t' && s[i] != '\n')
			return bad(err, i, "control characters have no place here");
		if (quote && i > 0 && (of_word(s[i - 1]) || s[i - 1] == '&'))
			return bad(err, i, "a prefix of a quote (E'', B'', U&'') is not allowed, only '...' and \"...\"");
		if (s[i] == '$')
			return bad(err, i, "neither parameters nor $-quotes are allowed");
		if (s[i] == ';')
			return bad(err, i, "one condition, no second statement");
		if ((s[i] == '-' && s[i + 1] == '-') || (s[i] == '/' && s[i + 1] == '*'))
			return bad(err, i, "comments are not allowed");
		if (s[i] == ')' && depth-- == 0)
			return bad(err, i, "a bracket is closed that was not opened");
		depth += s[i] == '(';
		int r = quote ? skip_quoted(s, &i, err) : 0;
		if (r < 0)
			return r;
	}
	return depth == 0 ? 0 : bad(err, strlen(s), "a bracket is not closed");
}

/* --- the plan --- */

/* Reading one table, or its partitions, takes no other steps than these. */
static bool reads_rows_only(const char *node)
{
	static const char *const steps[] = { "Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan", "Bitmap Index Scan", "BitmapAnd", "BitmapOr", "Tid Scan",
		"Tid Range Scan", "Append", "Merge Append", "Gather", "Result" };

	for (size_t i = 0; node && i < SB_COUNT(steps); i++) {
		if (strcmp(node, steps[i]) == 0)
			return true;
	}
	return false;
}

static bool harmless(const json_t *node)
{
	const char *place = json_string_value(json_object_get(node, "Parent Relationship"));
	json_t *child;
	size_t i;

	if (!reads_rows_only(json_string_value(json_object_get(node, "Node Type"))) || json_object_get(node, "Subplan Name"))
		return false;
	if (place && (strcmp(place, "SubPlan") == 0 || strcmp(place, "InitPlan") == 0))
		return false;
	json_array_foreach(json_object_get(node, "Plans"), i, child) {
		if (!harmless(child))
			return false;
	}
	return true;
}

static int explain(struct sb_pg *pg, const struct pgsrc_table *t, const char *predicate, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	sb_cleanup(sb_buf_release) struct sb_buf sql = { 0 };

	sb_buf_init(&sql, 64 * 1024);
	sb_buf_adds(&sql, t->kind == 'r' ? "EXPLAIN (FORMAT JSON) SELECT 1 FROM ONLY " : "EXPLAIN (FORMAT JSON) SELECT 1 FROM ");
	pgsrc_table_sql(&sql, t);
	sb_buf_addf(&sql, " WHERE (%s)", predicate);
	int r = sb_buf_check(&sql, "condition", err);
	if (r < 0)
		return r;
	r = sb_pg_exec(pg, sql.data, 0, NULL, &res, err);
	/* classes 22, 42: what it says is wrong; anything else is trouble of the database */
	if (r < 0 && sb_pg_ok(pg)) {
		struct sb_error why = *err;
		return sb_fail(err, SB_EINVAL, "condition: %s", why.msg);
	}
	if (r < 0)
		return r;
	json_auto_t *plan = json_loads(sb_pg_get(res, 0, 0), 0, NULL);
	if (!harmless(json_object_get(json_array_get(plan, 0), "Plan")))
		return sb_fail(err, SB_EINVAL, "condition: only columns of \"%s\" and functions of them, no other table and no subquery", t->name);
	return 0;
}

int agent_predicate_check(const struct agent_pg_source *source, const struct agent_table *conf, const char *predicate, struct sb_error *err)
{
	struct pgsrc_table table = { .oid = 0 };
	struct sb_pg *pg = NULL;

	if (strlen(predicate) > AGENT_PREDICATE_MAX)
		return sb_fail(err, SB_EINVAL, "condition: at most %d bytes", AGENT_PREDICATE_MAX);
	int r = check_characters(predicate, err);
	if (r == 0)
		r = sb_pg_open(&pg, source->conninfo, "stagebridge condition", err);
	if (r == 0)
		r = sb_pg_script(pg, "SET statement_timeout = '" DEADLINE "'; SET lock_timeout = '" DEADLINE "'; SET row_security = off; SET standard_conforming_strings = on;"
			"SET default_transaction_read_only = on", err);
	if (r == 0)
		r = pgsrc_table_read(pg, conf, &(struct pgsrc_known){ .columns = NULL }, &table, err);
	if (r == 0 && table.refusal[0])
		r = sb_fail(err, SB_ESTATE, "the table cannot be read now: %s", table.refusal);
	if (r == 0)
		r = explain(pg, &table, predicate, err);
	pgsrc_table_release(&table);
	sb_pg_close(pg);
	return r;
}
