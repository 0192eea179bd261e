/* Rows of a PostgreSQL query or table: one read-only transaction with one snapshot, the columns from a statement that reads no row, then COPY of the
 * columns that the policy needs, streamed. The dataset lane's thread; owns its connection. Nothing of the server's messages that could hold a
 * value gets out: only those about names, rights and connections are passed on. */
#include <string.h>

#include "feed.h"
#include "stagebridge/buf.h"
#include "stagebridge/pg.h"
#include "stagebridge/text.h"

#define SQL_MAX (1u << 20)
#define LINE_MAX_BYTES (1u << 30)

struct pg_feed {
	struct agent_feed feed;
	struct sb_pg *pg;
	struct sb_buf from;       /* what stands in FROM: "schema"."table", or (query) */
	struct sb_buf line;       /* the row being split */
	unsigned n_wanted;
};

static struct pg_feed *self(struct agent_feed *f)
{
	return (struct pg_feed *)(void *)f;
}

static void pg_close(struct agent_feed *f)
{
	struct pg_feed *p = self(f);

	if (p->pg)
		sb_pg_rollback(p->pg);
	sb_pg_close(p->pg);
	sb_buf_release(&p->from);
	sb_buf_release(&p->line);
	free(p);
}

static bool class_in(const char *state, const char *const *list)
{
	for (; *list; list++) {
		if (strncmp(state, *list, 2) == 0)
			return true;
	}
	return false;
}

/* What the server said, judged: trouble that passes, or a source that this policy cannot be fulfilled from. */
static int judge(const struct sb_error *why, struct agent_refusal *no, struct sb_error *err)
{
	/* connection, serialization, resources, busy objects, shutdown, system: another time may do */
	static const char *const passing[] = { "08", "40", "53", "55", "57", "58", NULL };
	/* messages about names, rights and resources; others may quote data */
	static const char *const harmless[] = { "08", "28", "3D", "42", "53", "55", "57", NULL };
	bool quiet = why->state[0] && !class_in(why->state, harmless);

	if (why->code == SB_ENOMEM || (why->retriable && (!why->state[0] || class_in(why->state, passing)))) {
		int r = sb_fail(err, why->code, "source: %s", quiet ? "the database failed" : why->msg);
		if (err) {
			memcpy(err->state, why->state, sizeof(err->state));
			err->retriable = true;
		}
		return r;
	}
	(void)agent_refuse(no, NULL, "source", "the policy's source cannot be read%s%s", why->state[0] ? ": SQLSTATE " : "", why->state);
	/* the stage's own log may name what is wrong */
	return sb_fail(err, SB_EREFUSED, "source: %s%s%s", quiet ? "the database refused, SQLSTATE " : "", quiet ? why->state : "", quiet ? "" : why->msg);
}

/* A query's own end would end what stands around it */
static size_t query_len(const char *q)
{
	size_t n = strlen(q);

	while (n > 0 && strchr("; \t\r\n", q[n - 1]))
		n--;
	return n;
}

static void write_from(struct pg_feed *f, const struct agent_policy *p)
{
	const char *table = p->source.postgres.table, *query = p->source.postgres.query;

	if (table && *table) {
		const char *dot = strchr(table, '.');
		char schema[256];
		/* the policy was checked to be schema.table; a longer name is cut and not found */
		size_t n = (size_t)(dot - table) < sizeof(schema) ? (size_t)(dot - table) : sizeof(schema) - 1;
		memcpy(schema, table, n);
		schema[n] = '\0';
		sb_pg_ident(&f->from, schema);
		sb_buf_addc(&f->from, '.');
		sb_pg_ident(&f->from, dot + 1);
	} else {
		/* on lines of its own: a comment at its end must not swallow the bracket */
		sb_buf_adds(&f->from, "(\n");
		sb_buf_add(&f->from, query, query_len(query));
		sb_buf_adds(&f->from, "\n)");
	}
}

static int run(struct pg_feed *f, const char *sql, struct sb_pg_result **ret, struct agent_refusal *no, struct sb_error *err)
{
	struct sb_error why = SB_ERROR_INIT;

	/* one statement with the extended protocol: a query that tries to be several is refused by the server */
	int r = sb_pg_exec(f->pg, sql, 0, NULL, ret, &why);
	return r < 0 ? judge(&why, no, err) : 0;
}

static int read_names(struct pg_feed *f, struct agent_refusal *no, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	sb_cleanup(sb_freep) char *sql = sb_asprintf("SELECT * FROM %s AS s LIMIT 0", f->from.data);

	int r = sql ? run(f, sql, &res, no, err) : sb_fail_nomem(err);
	if (r == 0)
		r = agent_feed_columns(&f->feed, (unsigned)sb_pg_columns(res), err);
	for (unsigned i = 0; r == 0 && i < f->feed.n_columns; i++) {
		f->feed.column[i] = sb_strdup(sb_pg_column_name(res, (int)i));
		r = f->feed.column[i] ? 0 : sb_fail_nomem(err);
		for (unsigned k = 0; r == 0 && k < i; k++) {
			if (strcmp(f->feed.column[i], f->feed.column[k]) == 0)
				r = agent_refuse(no, err, "source", "the source has column \"%s\" twice", f->feed.column[i]);
		}
	}
	return r;
}

static void add_column(struct sb_buf *sql, const char *name, bool first)
{
	sb_buf_adds(sql, first ? "s." : ", s.");
	sb_pg_ident(sql, name);
}

/* The types of columns without reading a row: an outer join to nothing has one row of typed NULLs. */
static int read_types(struct pg_feed *f, struct agent_refusal *no, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	sb_cleanup(sb_buf_release) struct sb_buf sql;

	sb_buf_init(&sql, SQL_MAX);
	sb_buf_adds(&sql, "SELECT ARRAY[");
	for (unsigned i = 0; i < f->feed.n_columns; i++) {
		sb_buf_adds(&sql, i ? ", pg_typeof(s." : "pg_typeof(s.");
		sb_pg_ident(&sql, f->feed.column[i]);
		sb_buf_adds(&sql, ")::text");
	}
	sb_buf_addf(&sql, "] FROM (SELECT 1) AS one LEFT JOIN (SELECT * FROM %s AS q LIMIT 0) AS s ON true", f->from.data);
	int r = sb_buf_check(&sql, "statement", err);
	if (r < 0)
		return r;
	sb_cleanup(sb_freep) char *unnest = sb_asprintf("SELECT unnest(t.a) FROM (%s) AS t(a)", sql.data);
	r = unnest ? run(f, unnest, &res, no, err) : sb_fail_nomem(err);
	if (r == 0 && (unsigned)sb_pg_rows(res) != f->feed.n_columns)
		r = agent_refuse(no, err, "source", "the types of the source's columns cannot be told");
	for (unsigned i = 0; r == 0 && i < f->feed.n_columns; i++) {
		f->feed.type[i] = sb_strdup(sb_pg_get(res, (int)i, 0) ? sb_pg_get(res, (int)i, 0) : "");
		r = f->feed.type[i] ? 0 : sb_fail_nomem(err);
	}
	return r;
}

static int pg_start(struct agent_feed *feed, const unsigned *wanted, unsigned n, struct agent_refusal *no, struct sb_error *err)
{
	struct pg_feed *f = self(feed);
	struct sb_error why = SB_ERROR_INIT;
	sb_cleanup(sb_buf_release) struct sb_buf sql;

	sb_buf_init(&sql, SQL_MAX);
	sb_buf_adds(&sql, "COPY (SELECT ");
	for (unsigned i = 0; i < n; i++)
		add_column(&sql, feed->column[wanted[i]], i == 0);
	/* no column of the source is needed: its rows still count */
	sb_buf_addf(&sql, "%s FROM %s AS s) TO STDOUT", n ? "" : "1", f->from.data);
	int r = sb_buf_check(&sql, "statement", err);
	if (r < 0)
		return r;
	f->n_wanted = n;
	r = sb_pg_copy_out(f->pg, sql.data, &why);
	return r < 0 ? judge(&why, no, err) : 0;
}

static int pg_next(struct agent_feed *feed, struct sb_cell *cell, struct agent_refusal *no, struct sb_error *err)
{
	struct pg_feed *f = self(feed);
	struct sb_error why = SB_ERROR_INIT;
	const char *line = NULL;
	size_t n = 0;

	int r = sb_pg_copy_line(f->pg, &line, &n, &why);
	if (r < 0)
		return judge(&why, no, err);
	if (r == 0 || f->n_wanted == 0)
		return r;
	/* splitting undoes the escapes in place, and the line is the adapter's */
	sb_buf_reset(&f->line);
	sb_buf_add(&f->line, line, n);
	r = sb_buf_check(&f->line, "row", err);
	if (r == 0)
		r = sb_copy_split(f->line.data, f->line.len, f->line.data, cell, f->n_wanted, err);
	return r < 0 ? r : 1;
}

static const struct agent_feed_ops ops = { .start = pg_start, .next = pg_next, .close = pg_close };

int agent_feed_pg(struct agent_feed **ret, const struct agent_policy *p, struct agent_refusal *no, struct sb_error *err)
{
	struct pg_feed *f = calloc(1, sizeof(*f));
	struct sb_error why = SB_ERROR_INIT;

	if (!f)
		return sb_fail_nomem(err);
	f->feed.ops = &ops;
	sb_buf_init(&f->from, SQL_MAX);
	sb_buf_init(&f->line, LINE_MAX_BYTES);
	write_from(f, p);
	int r = sb_buf_check(&f->from, "query", err);
	if (r == 0 && sb_pg_open(&f->pg, p->source.postgres.conninfo, "stagebridge-dataset", &why) < 0)
		r = judge(&why, no, err);
	if (r == 0 && sb_pg_begin(f->pg, &why) < 0)
		r = judge(&why, no, err);
	if (r == 0)
		r = run(f, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY", NULL, no, err);
	if (r == 0)
		r = read_names(f, no, err);
	if (r == 0 && f->feed.n_columns > 0)
		r = read_types(f, no, err);
	if (r < 0) {
		agent_feed_close(&f->feed);
		return r;
	}
	*ret = &f->feed;
	return 0;
}
