/* PostgreSQL through libpq: connections, statements, transactions, results, names, notifications.
 *
 * Thread: a connection belongs to one lane; calls block, bounded by statement_timeout, lock_timeout and TCP's own timeouts.
 * Owns: the connection and up to 64 prepared statements: a text that is executed again and again is prepared at its third use, the least
 * recently used one is dropped. Preparing is not undone by a rollback, so the cache needs no care for transactions. */
#include "pg_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "stagebridge/text.h"

static int code_of(const char *state)
{
	static const struct { const char *state; int code; } table[] = {
		{ "40001", SB_ECONFLICT }, { "40P01", SB_ECONFLICT }, { "55P03", SB_ECONFLICT }, { "42501", SB_EAUTH },
		{ "42P01", SB_ENOTFOUND }, { "42704", SB_ENOTFOUND }, { "3D000", SB_ENOTFOUND },
	};

	for (size_t i = 0; i < SB_COUNT(table); i++)
		if (strcmp(table[i].state, state) == 0)
			return table[i].code;
	if (strncmp(state, "22", 2) == 0 || strncmp(state, "23", 2) == 0 || strncmp(state, "54", 2) == 0)
		return SB_EDATA;
	return strncmp(state, "28", 2) == 0 ? SB_EAUTH : SB_EDB;
}

/* One line of text without what stands between its first and last quotation mark when hide is set: `invalid input syntax for type integer: "..."` */
static int line_of(const char *text, bool hide, char *out, size_t size)
{
	const char *end = text + strcspn(text, "\n");
	const char *open = hide ? memchr(text, '"', (size_t)(end - text)) : NULL;
	const char *close = open ? memrchr(open, '"', (size_t)(end - open)) : NULL;

	if (open && close > open)
		return snprintf(out, size, "%.*s\"...\"%.*s", (int)(open - text), text, (int)(end - close - 1), close + 1);
	return snprintf(out, size, "%.*s", (int)(end - text), text);
}

int sb_pg_fail(struct sb_error *err, PGconn *conn, const PGresult *res, const char *what)
{
	const char *state = res ? PQresultErrorField(res, PG_DIAG_SQLSTATE) : NULL;
	const char *text = res ? PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY) : NULL;
	char line[400];

	if (!text)
		text = res && *PQresultErrorMessage(res) ? PQresultErrorMessage(res) : PQerrorMessage(conn);
	int code = state ? code_of(state) : SB_EDB;
	(void)line_of(text, state && strncmp(state, "22", 2) == 0, line, sizeof(line)); /* a cut message is good enough */
	(void)sb_fail(err, (enum sb_code)code, "%s: %s", what, *line ? line : "connection lost"); /* code is returned below */
	if (err && state)
		(void)snprintf(err->state, sizeof(err->state), "%s", state); /* always five characters */
	if (err && code == SB_ECONFLICT)
		err->retriable = true;
	return code;
}

int sb_pg_expect(PGconn *conn, PGresult *res, ExecStatusType a, ExecStatusType b, const char *what, struct sb_error *err)
{
	ExecStatusType status = PQresultStatus(res);
	int rc = status == a || status == b ? SB_OK : sb_pg_fail(err, conn, res, what);

	PQclear(res);
	return rc;
}

/* No SQLSTATE comes with a failed connection in libpq 15: the texts tell. In another language of the server it is SB_EDB, which is retried. */
static int connect_failed(PGconn *conn, struct sb_error *err)
{
	static const char *const auth[] = { "authentication failed", "no password supplied", "no pg_hba.conf entry", "permission denied for database",
		"is not permitted to log in", "must be superuser or replication role" };
	const char *text = PQerrorMessage(conn);
	int code = PQconnectionNeedsPassword(conn) ? SB_EAUTH : SB_EDB;
	char line[400];

	for (size_t i = 0; i < SB_COUNT(auth); i++)
		if (strstr(text, auth[i]))
			code = SB_EAUTH;
	(void)line_of(text, false, line, sizeof(line)); /* a cut message is good enough */
	return sb_fail(err, (enum sb_code)code, "could not connect: %s", line);
}

#define SESSION "-c datestyle=ISO -c intervalstyle=iso_8601 -c extra_float_digits=3 -c timezone=UTC -c bytea_output=hex -c search_path=pg_catalog"
#define MAX_OPTIONS 64

int sb_pg_connect(PGconn **ret, const char *conninfo, const char *application_name, bool replication, struct sb_error *err)
{
	/* ours come first, so that conninfo may override: libpq takes the last of a keyword */
	const char *key[MAX_OPTIONS] = { "connect_timeout", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout" };
	const char *value[MAX_OPTIONS] = { "10", "30", "10", "3", "60000" };
	size_t n = 5;
	char *why = NULL;
	const char *theirs = "";
	PQconninfoOption *option = PQconninfoParse(conninfo, &why);

	if (!option) {
		int rc = sb_fail(err, SB_ECONFIG, "connection string: %.*s", why ? (int)strcspn(why, "\n") : 0, why ? why : "");
		PQfreemem(why);
		return rc;
	}
	for (PQconninfoOption *o = option; o->keyword && n < MAX_OPTIONS - 6; o++) {
		if (!o->val)
			continue;
		if (strcmp(o->keyword, "options") == 0) {
			theirs = o->val;
			continue;
		}
		key[n] = o->keyword;
		value[n++] = o->val;
	}
	/* statement_timeout does not bind replication commands; lock_timeout bounds the creation of a slot */
	sb_cleanup(sb_freep) char *options = sb_asprintf("%s%s %s", SESSION,
		replication ? " -c lock_timeout=10s" : " -c statement_timeout=5min -c lock_timeout=30s", theirs);
	if (!options) {
		PQconninfoFree(option);
		return sb_fail_nomem(err);
	}
	key[n] = "options", value[n++] = options;
	key[n] = "client_encoding", value[n++] = "UTF8";
	key[n] = "application_name", value[n++] = application_name;
	key[n] = replication ? "replication" : NULL, value[n] = replication ? "database" : NULL;
	PGconn *conn = PQconnectdbParams(key, value, 0);
	PQconninfoFree(option);
	if (!conn)
		return sb_fail_nomem(err);
	/* a server that does not know what its bytes mean refuses those that are not UTF-8, and with them the whole stream: whoever reads looks at each value */
	const char *encoding = PQparameterStatus(conn, "server_encoding");
	if (PQstatus(conn) != CONNECTION_OK || (encoding && strcmp(encoding, "SQL_ASCII") == 0 && PQsetClientEncoding(conn, encoding) != 0)) {
		int rc = connect_failed(conn, err);
		PQfinish(conn);
		return rc;
	}
	*ret = conn;
	return SB_OK;
}

/* NOTICE lines ("relation exists, skipping") are of no use to anyone here */
static void no_notice(void *arg, const PGresult *res)
{
	(void)arg;
	(void)res;
}

int sb_pg_open(struct sb_pg **ret, const char *conninfo, const char *application_name, struct sb_error *err)
{
	struct sb_pg *pg = calloc(1, sizeof(*pg));

	if (!pg)
		return sb_fail_nomem(err);
	int rc = sb_pg_connect(&pg->conn, conninfo, application_name, false, err);
	if (rc) {
		free(pg);
		return rc;
	}
	PQsetNoticeReceiver(pg->conn, no_notice, NULL);
	*ret = pg;
	return SB_OK;
}

void sb_pg_close(struct sb_pg *pg)
{
	if (!pg)
		return;
	PQfreemem(pg->line);
	PQfinish(pg->conn);
	for (unsigned i = 0; i < SB_PG_STATEMENTS; i++)
		free(pg->statement[i].sql);
	free(pg);
}

bool sb_pg_ok(const struct sb_pg *pg)
{
	return !pg->broken && PQstatus(pg->conn) == CONNECTION_OK;
}

int sb_pg_version(const struct sb_pg *pg)
{
	return PQserverVersion(pg->conn);
}

/* ---- statements ---- */

static uint64_t hash_of(const char *s)
{
	uint64_t h = 14695981039346656037u;

	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 1099511628211u;
	return h;
}

/* The statement's slot, its text entered when it is new; -1 without memory. */
static int statement_slot(struct sb_pg *pg, const char *sql)
{
	uint64_t hash = hash_of(sql);
	unsigned take = 0; /* a free one, else the one that was not used for the longest time */
	char drop[40];

	for (unsigned i = 0; i < SB_PG_STATEMENTS; i++) {
		const struct sb_pg_prepared *st = &pg->statement[i];
		if (st->sql && st->hash == hash && strcmp(st->sql, sql) == 0)
			return (int)i;
		if (!st->sql || st->used < pg->statement[take].used)
			take = i;
		if (!st->sql)
			break; /* slots fill from the left and are emptied all at once */
	}
	struct sb_pg_prepared *st = &pg->statement[take];
	if (st->name) {
		(void)snprintf(drop, sizeof(drop), "DEALLOCATE sb_%" PRIu64, st->name); /* fits */
		PQclear(PQexec(pg->conn, drop)); /* fails only in an aborted transaction: the name is left behind unused */
	}
	free(st->sql);
	*st = (struct sb_pg_prepared){ .sql = sb_strdup(sql), .hash = hash };
	return st->sql ? (int)take : -1;
}

/* After DDL: the parameters of a prepared statement keep the types that they had when it was prepared. */
static void forget_statements(struct sb_pg *pg)
{
	bool any = false;

	for (unsigned i = 0; i < SB_PG_STATEMENTS; i++) {
		any = any || pg->statement[i].name;
		free(pg->statement[i].sql);
		pg->statement[i] = (struct sb_pg_prepared){ 0 };
	}
	if (any)
		PQclear(PQexec(pg->conn, "DEALLOCATE ALL")); /* as above */
}

static PGresult *run(struct sb_pg *pg, const char *sql, unsigned n, const char *const *param, const int *len, const int *format)
{
	int slot = statement_slot(pg, sql);
	char name[32];

	if (slot < 0)
		return PQexecParams(pg->conn, sql, (int)n, NULL, param, len, format, 0);
	struct sb_pg_prepared *st = &pg->statement[slot];
	st->used = ++pg->tick;
	if (!st->name && ++st->seen < SB_PG_PREPARE_AT)
		return PQexecParams(pg->conn, sql, (int)n, NULL, param, len, format, 0);
	if (!st->name) {
		(void)snprintf(name, sizeof(name), "sb_%" PRIu64, ++pg->names); /* fits */
		PGresult *res = PQprepare(pg->conn, name, sql, (int)n, NULL);
		if (PQresultStatus(res) != PGRES_COMMAND_OK)
			return res; /* what is wrong with the statement would be wrong without preparing it */
		PQclear(res);
		st->name = pg->names;
	}
	(void)snprintf(name, sizeof(name), "sb_%" PRIu64, st->name); /* fits */
	PGresult *res = PQexecPrepared(pg->conn, name, (int)n, param, len, format, 0);
	const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
	/* its plan does not fit a changed table (0A000) or it is gone (26000): prepare anew next time */
	if (state && (strcmp(state, "0A000") == 0 || strcmp(state, "26000") == 0))
		st->name = 0;
	return res;
}

#define PARAMS_MAX 65535

static int finish(struct sb_pg *pg, PGresult *res, struct sb_pg_result **ret, struct sb_error *err)
{
	ExecStatusType status = PQresultStatus(res);

	if (PQstatus(pg->conn) != CONNECTION_OK)
		pg->broken = true;
	if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK) {
		int rc = sb_pg_fail(err, pg->conn, res, "database");
		PQclear(res);
		return rc;
	}
	if (ret)
		*ret = (struct sb_pg_result *)res;
	else
		PQclear(res);
	return SB_OK;
}

int sb_pg_exec(struct sb_pg *pg, const char *sql, unsigned n, const char *const *param, struct sb_pg_result **ret, struct sb_error *err)
{
	if (n > PARAMS_MAX)
		return sb_fail(err, SB_ETOOBIG, "a statement takes at most %d parameters", PARAMS_MAX);
	return finish(pg, run(pg, sql, n, param, NULL, NULL), ret, err);
}

int sb_pg_exec_bin(struct sb_pg *pg, const char *sql, unsigned n, const char *const *param, const int *len, struct sb_pg_result **ret, struct sb_error *err)
{
	int format[64], size[64];

	if (n > SB_COUNT(format))
		return sb_fail(err, SB_EINVAL, "a statement with binary parameters takes at most %zu", SB_COUNT(format));
	for (unsigned i = 0; i < n; i++) {
		format[i] = len[i] >= 0;
		size[i] = len[i] >= 0 ? len[i] : 0;
	}
	return finish(pg, run(pg, sql, n, param, size, format), ret, err);
}

int sb_pg_simple(struct sb_pg *pg, const char *sql, struct sb_error *err)
{
	return finish(pg, PQexec(pg->conn, sql), NULL, err);
}

int sb_pg_script(struct sb_pg *pg, const char *sql, struct sb_error *err)
{
	forget_statements(pg);
	return sb_pg_simple(pg, sql, err);
}

/* ---- transactions ---- */

int sb_pg_begin(struct sb_pg *pg, struct sb_error *err)
{
	int rc = sb_pg_simple(pg, "BEGIN", err);

	if (rc == SB_OK) {
		pg->tx.open = true;
		pg->tx.begun++;
	}
	return rc;
}

int sb_pg_commit(struct sb_pg *pg, struct sb_error *err)
{
	PGresult *res = PQexec(pg->conn, "COMMIT");
	/* COMMIT of a failed transaction succeeds with the tag ROLLBACK */
	bool undone = PQresultStatus(res) == PGRES_COMMAND_OK && strcmp(PQcmdStatus(res), "ROLLBACK") == 0;
	int rc = finish(pg, res, NULL, err);

	if (rc == SB_OK && undone)
		rc = sb_fail(err, SB_EDB, "database: the transaction had failed and was rolled back");
	pg->tx.rolled_back += rc != SB_OK;
	pg->tx.open = rc != SB_OK && PQtransactionStatus(pg->conn) != PQTRANS_IDLE;
	return rc;
}

void sb_pg_rollback(struct sb_pg *pg)
{
	if (!pg)
		return;
	if (PQtransactionStatus(pg->conn) == PQTRANS_ACTIVE)
		sb_pg_copy_stop(pg);
	if (PQtransactionStatus(pg->conn) != PQTRANS_IDLE)
		PQclear(PQexec(pg->conn, "ROLLBACK")); /* without a connection the server rolls back by itself */
	pg->tx.rolled_back += pg->tx.open;
	pg->tx.open = false;
}

struct sb_pg_tx sb_pg_tx(const struct sb_pg *pg)
{
	return pg->tx;
}

/* ---- results ---- */

static const PGresult *pgres(const struct sb_pg_result *r)
{
	return (const PGresult *)r;
}

int sb_pg_rows(const struct sb_pg_result *r)
{
	return PQntuples(pgres(r));
}

int sb_pg_columns(const struct sb_pg_result *r)
{
	return PQnfields(pgres(r));
}

const char *sb_pg_column_name(const struct sb_pg_result *r, int column)
{
	return PQfname(pgres(r), column);
}

const char *sb_pg_get(const struct sb_pg_result *r, int row, int column)
{
	return PQgetisnull(pgres(r), row, column) ? NULL : PQgetvalue(pgres(r), row, column);
}

int64_t sb_pg_get_i64(const struct sb_pg_result *r, int row, int column)
{
	const char *s = sb_pg_get(r, row, column);

	return s ? strtoll(s, NULL, 10) : 0; /* the server's own rendering of an integer */
}

int sb_pg_get_bytes(const struct sb_pg_result *r, int row, int column, uint8_t **ret, size_t *ret_len, struct sb_error *err)
{
	const char *s = sb_pg_get(r, row, column);

	if (!s || strncmp(s, "\\x", 2) != 0)
		return sb_fail(err, SB_EDB, "column \"%s\" holds no bytea", sb_pg_column_name(r, column));
	size_t n = strlen(s + 2) / 2;
	uint8_t *out = malloc(n + 1);
	if (!out)
		return sb_fail_nomem(err);
	int rc = sb_unhex(out, n, s + 2, err);
	if (rc) {
		free(out);
		return rc;
	}
	out[n] = 0;
	*ret = out;
	*ret_len = n;
	return SB_OK;
}

int64_t sb_pg_affected(const struct sb_pg_result *r)
{
	/* libpq's signature is not const, though it only reads */
	const char *s = PQcmdTuples((PGresult *)(uintptr_t)r);

	return *s ? strtoll(s, NULL, 10) : 0;
}

void sb_pg_free(struct sb_pg_result *r)
{
	PQclear((PGresult *)r);
}

void sb_pg_freep(struct sb_pg_result **r)
{
	sb_pg_free(*r);
}

/* ---- names ---- */

void sb_pg_ident(struct sb_buf *out, const char *name)
{
	sb_buf_addc(out, '"');
	for (; *name; name++) {
		if (*name == '"')
			sb_buf_addc(out, '"');
		sb_buf_addc(out, *name);
	}
	sb_buf_addc(out, '"');
}

void sb_pg_literal(struct sb_buf *out, const char *value)
{
	/* the E form reads backslashes the same under either standard_conforming_strings */
	sb_buf_adds(out, strchr(value, '\\') ? " E'" : "'");
	for (; *value; value++) {
		if (*value == '\'' || *value == '\\')
			sb_buf_addc(out, *value);
		sb_buf_addc(out, *value);
	}
	sb_buf_addc(out, '\'');
}

/* ---- notifications ---- */

int sb_pg_fd(const struct sb_pg *pg)
{
	return PQsocket(pg->conn);
}

int sb_pg_notified(struct sb_pg *pg, struct sb_error *err)
{
	int n = 0;

	if (!PQconsumeInput(pg->conn)) {
		pg->broken = true;
		return sb_pg_fail(err, pg->conn, NULL, "database");
	}
	for (PGnotify *note; (note = PQnotifies(pg->conn)); n++)
		PQfreemem(note);
	return n;
}
