/* COPY in both directions. Thread: the lane of the connection; calls block.
 * COPY out is the one statement that may run for hours (a snapshot read at the pace of the broker), so it runs without a statement deadline. */
#include <string.h>

#include "pg_private.h"

/* Reads results to the end of a COPY; the first failure counts. */
static int drain(struct sb_pg *pg, int64_t *ret_rows, struct sb_error *err)
{
	int rc = SB_OK;

	for (PGresult *res; (res = PQgetResult(pg->conn)); PQclear(res)) {
		if (PQresultStatus(res) == PGRES_COMMAND_OK) {
			if (ret_rows)
				*ret_rows = sb_pg_affected((const struct sb_pg_result *)res);
		} else if (rc == SB_OK) {
			rc = sb_pg_fail(err, pg->conn, res, "copy");
		}
		if (PQstatus(pg->conn) != CONNECTION_OK) {
			PQclear(res);
			break;
		}
	}
	if (PQstatus(pg->conn) != CONNECTION_OK) {
		pg->broken = true;
		if (rc == SB_OK)
			rc = sb_fail(err, SB_EDB, "copy: connection lost");
	}
	return rc;
}

int sb_pg_copy_in(struct sb_pg *pg, const char *copy_sql, struct sb_error *err)
{
	int rc = sb_pg_expect(pg->conn, PQexec(pg->conn, copy_sql), PGRES_COPY_IN, PGRES_COPY_IN, "copy", err);

	if (PQstatus(pg->conn) != CONNECTION_OK)
		pg->broken = true;
	return rc;
}

int sb_pg_copy_put(struct sb_pg *pg, const void *p, size_t n, struct sb_error *err)
{
	for (const char *at = p; n > 0;) {
		int part = n > (1 << 20) ? 1 << 20 : (int)n;
		if (PQputCopyData(pg->conn, at, part) != 1) {
			pg->broken = PQstatus(pg->conn) != CONNECTION_OK;
			return sb_pg_fail(err, pg->conn, NULL, "copy");
		}
		at += part;
		n -= (size_t)part;
	}
	return SB_OK;
}

int sb_pg_copy_end(struct sb_pg *pg, int64_t *ret_rows, struct sb_error *err)
{
	if (PQputCopyEnd(pg->conn, NULL) != 1) {
		pg->broken = true;
		return sb_pg_fail(err, pg->conn, NULL, "copy");
	}
	return drain(pg, ret_rows, err);
}

int sb_pg_copy_abort(struct sb_pg *pg, struct sb_error *err)
{
	struct sb_error why = SB_ERROR_INIT;

	if (PQputCopyEnd(pg->conn, "given up by the client") != 1) {
		pg->broken = true;
		return sb_pg_fail(err, pg->conn, NULL, "copy");
	}
	int rc = drain(pg, NULL, &why);
	if (rc == SB_OK || strcmp(why.state, "57014") == 0) /* query_canceled: what was asked for */
		return SB_OK;
	if (err)
		*err = why;
	return rc;
}

void sb_pg_copy_stop(struct sb_pg *pg)
{
	char why[128], *line;

	if (pg->copying_out) {
		PGcancel *cancel = PQgetCancel(pg->conn);
		if (cancel) {
			PQcancel(cancel, why, sizeof(why));
			PQfreeCancel(cancel);
		}
		while (PQgetCopyData(pg->conn, &line, 0) > 0)
			PQfreemem(line);
		pg->copying_out = false;
	} else {
		PQputCopyEnd(pg->conn, "given up by the client");
	}
	drain(pg, NULL, NULL); /* its error is the cancelled COPY's; a broken connection is noted in pg */
}

int sb_pg_copy_out(struct sb_pg *pg, const char *copy_sql, struct sb_error *err)
{
	int rc = sb_pg_simple(pg, "SET statement_timeout = 0", err);

	if (rc == SB_OK)
		rc = sb_pg_expect(pg->conn, PQexec(pg->conn, copy_sql), PGRES_COPY_OUT, PGRES_COPY_OUT, "copy", err);
	if (PQstatus(pg->conn) != CONNECTION_OK)
		pg->broken = true;
	pg->copying_out = rc == SB_OK;
	return rc;
}

/* What PQgetCopyData said: a line, or the end of the COPY, good or bad. */
static int take_line(struct sb_pg *pg, int n, const char **ret_line, size_t *ret_len, struct sb_error *err)
{
	if (n > 0) {
		*ret_line = pg->line;
		*ret_len = pg->line[n - 1] == '\n' ? (size_t)n - 1 : (size_t)n;
		return 1;
	}
	pg->copying_out = false;
	if (n == -2) {
		pg->broken = PQstatus(pg->conn) != CONNECTION_OK;
		int rc = sb_pg_fail(err, pg->conn, NULL, "copy");
		drain(pg, NULL, NULL); /* the first error is the one that counts */
		return rc;
	}
	int rc = drain(pg, NULL, err);
	if (rc == SB_OK)
		rc = sb_pg_simple(pg, "SET statement_timeout TO DEFAULT", err);
	return rc;
}

int sb_pg_copy_line(struct sb_pg *pg, const char **ret_line, size_t *ret_len, struct sb_error *err)
{
	PQfreemem(pg->line);
	pg->line = NULL;
	return take_line(pg, PQgetCopyData(pg->conn, &pg->line, 0), ret_line, ret_len, err);
}

int sb_pg_copy_poll(struct sb_pg *pg, const char **ret_line, size_t *ret_len, struct sb_error *err)
{
	PQfreemem(pg->line);
	pg->line = NULL;
	int n = PQgetCopyData(pg->conn, &pg->line, 1);
	if (n == 0 && !PQconsumeInput(pg->conn)) {
		pg->broken = true;
		return sb_pg_fail(err, pg->conn, NULL, "copy");
	}
	if (n == 0)
		n = PQgetCopyData(pg->conn, &pg->line, 1);
	return n == 0 ? SB_EAGAIN : take_line(pg, n, ret_line, ret_len, err);
}
