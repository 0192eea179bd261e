/* The walsender side of PostgreSQL: slots and the COPY BOTH stream of logical decoding. What the messages mean is the reader's business.
 *
 * Thread: the lane that made it. After sb_pgrepl_start the connection is non-blocking: sb_pgrepl_next never waits, and a status report that does
 * not fit the socket now is sent on by the next call. Reading goes on while a report waits, or both sides could wait for each other.
 * Only simple queries are possible on this connection. Owns: the connection and the last message. */
#include <arpa/inet.h>
#include <endian.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "pg_private.h"
#include "stagebridge/change.h"
#include "stagebridge/clock.h"

#define EPOCH_2000_US INT64_C(946684800000000)
#define STATUS_WAIT_MS 200

struct sb_pgrepl {
	PGconn *conn;
	char *message; /* libpq's; the last one given out */
};

int sb_pgrepl_open(struct sb_pgrepl **ret, const char *conninfo, const char *application_name, struct sb_error *err)
{
	struct sb_pgrepl *r = calloc(1, sizeof(*r));

	if (!r)
		return sb_fail_nomem(err);
	int rc = sb_pg_connect(&r->conn, conninfo, application_name, true, err);
	if (rc) {
		free(r);
		return rc;
	}
	*ret = r;
	return SB_OK;
}

void sb_pgrepl_close(struct sb_pgrepl *r)
{
	if (!r)
		return;
	PQfreemem(r->message);
	PQfinish(r->conn);
	free(r);
}

static int copy_text(char *out, size_t size, const PGresult *res, int column, struct sb_error *err)
{
	int n = PQgetisnull(res, 0, column) ? 0 : snprintf(out, size, "%s", PQgetvalue(res, 0, column));

	return n >= 0 && (size_t)n < size ? SB_OK : sb_fail(err, SB_EPROTO, "replication: the server's answer is too long");
}

int sb_pgrepl_identify(struct sb_pgrepl *r, struct sb_pgrepl_system *ret, struct sb_error *err)
{
	struct sb_pgrepl_system sys = { 0 };
	PGresult *res = PQexec(r->conn, "IDENTIFY_SYSTEM");
	int rc = SB_OK;

	if (PQresultStatus(res) != PGRES_TUPLES_OK)
		rc = sb_pg_fail(err, r->conn, res, "replication");
	else if (PQntuples(res) != 1 || PQnfields(res) < 4)
		rc = sb_fail(err, SB_EPROTO, "replication: the server did not identify itself");
	if (rc == SB_OK)
		rc = copy_text(sys.system_id, sizeof(sys.system_id), res, 0, err);
	if (rc == SB_OK)
		rc = copy_text(sys.timeline, sizeof(sys.timeline), res, 1, err);
	if (rc == SB_OK)
		rc = copy_text(sys.dbname, sizeof(sys.dbname), res, 3, err);
	if (rc == SB_OK)
		rc = sb_lsn_parse(PQgetvalue(res, 0, 2), &sys.xlogpos, err);
	PQclear(res);
	if (rc == SB_OK)
		*ret = sys;
	return rc;
}

/* The file is text: a line for each timeline before, "<timeline> TAB <where it was left> TAB <why>". */
static int find_fork(const char *history, const char *from, uint64_t *ret_lsn, struct sb_error *err)
{
	char lsn[24];
	size_t n = strlen(from);

	for (const char *line = history; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
		if (strncmp(line, from, n) == 0 && line[n] == '\t') {
			line += n + 1;
			int r = sb_format(lsn, sizeof(lsn), err, "%.*s", (int)strcspn(line, "\t\n"), line);
			return r < 0 ? r : sb_lsn_parse(lsn, ret_lsn, err);
		}
	}
	return sb_fail(err, SB_ENOTFOUND, "replication: timeline %s is not in the server's history", from);
}

int sb_pgrepl_fork(struct sb_pgrepl *r, const char *from, const char *to, uint64_t *ret_lsn, struct sb_error *err)
{
	char command[48];
	int rc = sb_format(command, sizeof(command), err, "TIMELINE_HISTORY %s", to);

	if (rc)
		return rc;
	PGresult *res = PQexec(r->conn, command);
	if (PQresultStatus(res) != PGRES_TUPLES_OK)
		rc = sb_pg_fail(err, r->conn, res, "replication");
	else if (PQntuples(res) != 1 || PQnfields(res) < 2)
		rc = sb_fail(err, SB_EPROTO, "replication: no answer to the question for a timeline's history");
	else
		rc = find_fork(PQgetvalue(res, 0, 1), from, ret_lsn, err);
	PQclear(res);
	return rc;
}

/* Runs a command about a slot; the states that slots have get their own codes. */
static int slot_command(struct sb_pgrepl *r, const struct sb_buf *sql, PGresult **ret, struct sb_error *err)
{
	int rc = sb_buf_check(sql, "replication command", err);
	if (rc)
		return rc;
	PGresult *res = PQexec(r->conn, sql->data);
	ExecStatusType status = PQresultStatus(res);

	if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK || status == PGRES_COPY_BOTH) {
		*ret = res;
		return SB_OK;
	}
	const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
	rc = sb_pg_fail(err, r->conn, res, "replication");
	int special = !state ? rc : strcmp(state, "55006") == 0 ? SB_EAGAIN : /* active for another process */
		strcmp(state, "42710") == 0 ? SB_ECONFLICT : /* exists */
		strcmp(state, "55P03") == 0 ? SB_EAGAIN : rc; /* lock_timeout: waits for an open transaction */
	if (err && special != rc) {
		err->code = (enum sb_code)special;
		err->retriable = special == SB_EAGAIN;
	}
	PQclear(res);
	return special;
}

int sb_pgrepl_create_slot(struct sb_pgrepl *r, const char *slot, unsigned flags, uint64_t *ret_point, char *ret_snapshot, struct sb_error *err)
{
	bool parenthesised = PQserverVersion(r->conn) >= 150000, export_snapshot = flags & SB_PGREPL_EXPORT;
	sb_cleanup(sb_buf_release) struct sb_buf sql = { 0 };
	PGresult *res = NULL;
	uint64_t point = 0;

	sb_buf_init(&sql, 1024);
	sb_buf_adds(&sql, "CREATE_REPLICATION_SLOT ");
	sb_pg_ident(&sql, slot);
	sb_buf_addf(&sql, "%s LOGICAL pgoutput ", flags & SB_PGREPL_TEMPORARY ? " TEMPORARY" : "");
	if (parenthesised)
		sb_buf_addf(&sql, "(SNAPSHOT '%s'%s)", export_snapshot ? "export" : "nothing",
			flags & SB_PGREPL_FAILOVER && PQserverVersion(r->conn) >= 170000 ? ", FAILOVER" : "");
	else
		sb_buf_adds(&sql, export_snapshot ? "EXPORT_SNAPSHOT" : "NOEXPORT_SNAPSHOT");
	int rc = slot_command(r, &sql, &res, err);
	if (rc)
		return rc;
	if (PQntuples(res) != 1 || PQnfields(res) < 3)
		rc = sb_fail(err, SB_EPROTO, "replication: no answer to the creation of slot \"%s\"", slot);
	if (rc == SB_OK)
		rc = sb_lsn_parse(PQgetvalue(res, 0, 1), &point, err);
	if (rc == SB_OK && ret_snapshot) {
		ret_snapshot[0] = '\0';
		rc = copy_text(ret_snapshot, 64, res, 2, err);
	}
	PQclear(res);
	if (rc == SB_OK)
		*ret_point = point;
	return rc;
}

int sb_pgrepl_drop_slot(struct sb_pgrepl *r, const char *slot, struct sb_error *err)
{
	sb_cleanup(sb_buf_release) struct sb_buf sql = { 0 };
	PGresult *res = NULL;

	sb_buf_init(&sql, 1024);
	sb_buf_adds(&sql, "DROP_REPLICATION_SLOT ");
	sb_pg_ident(&sql, slot);
	int rc = slot_command(r, &sql, &res, err);
	PQclear(res);
	return rc;
}

int sb_pgrepl_start(struct sb_pgrepl *r, const char *slot, uint64_t from_lsn, const char *publication, bool messages, struct sb_error *err)
{
	sb_cleanup(sb_buf_release) struct sb_buf sql = { 0 }, name = { 0 };
	PGresult *res = NULL;
	char lsn[20];

	sb_buf_init(&sql, 2048);
	sb_buf_init(&name, 512);
	sb_lsn_format(lsn, from_lsn);
	sb_pg_ident(&name, publication); /* an identifier inside a string */
	sb_buf_adds(&sql, "START_REPLICATION SLOT ");
	sb_pg_ident(&sql, slot);
	sb_buf_addf(&sql, " LOGICAL %s (\"proto_version\" '1', \"publication_names\" ", lsn);
	sb_pg_literal(&sql, name.data);
	if (messages && PQserverVersion(r->conn) >= 140000)
		sb_buf_adds(&sql, ", \"messages\" 'true'");
	sb_buf_addc(&sql, ')');
	int rc = sb_buf_check(&name, "publication name", err);
	if (rc == SB_OK)
		rc = slot_command(r, &sql, &res, err);
	if (rc)
		return rc;
	if (PQresultStatus(res) != PGRES_COPY_BOTH)
		rc = sb_fail(err, SB_EPROTO, "replication: the server did not begin to stream");
	PQclear(res);
	if (rc == SB_OK && PQsetnonblocking(r->conn, 1))
		rc = sb_pg_fail(err, r->conn, NULL, "replication");
	return rc;
}

int sb_pgrepl_fd(const struct sb_pgrepl *r)
{
	return PQsocket(r->conn);
}

static uint64_t be64(const char *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return be64toh(v);
}

static int parse_message(const char *p, size_t n, struct sb_pgrepl_msg *ret, struct sb_error *err)
{
	if (p[0] == 'w' && n >= 25) {
		*ret = (struct sb_pgrepl_msg){ .kind = SB_REPL_DATA, .wal_end = be64(p + 9), .data = p + 25, .len = n - 25 };
		return SB_OK;
	}
	if (p[0] == 'k' && n >= 18) {
		*ret = (struct sb_pgrepl_msg){ .kind = SB_REPL_KEEPALIVE, .wal_end = be64(p + 1), .reply_requested = p[17] != 0 };
		return SB_OK;
	}
	return sb_fail(err, SB_EPROTO, "replication: a message of type 0x%02x and %zu bytes is not known", (unsigned)(unsigned char)p[0], n);
}

/* The stream ended: either with an error, or because the server shuts down. */
static int ended(struct sb_pgrepl *r, struct sb_error *err)
{
	PGresult *res = PQgetResult(r->conn);
	ExecStatusType status = PQresultStatus(res);
	int rc = status == PGRES_COMMAND_OK || status == PGRES_COPY_IN || status == PGRES_COPY_BOTH ?
		sb_fail(err, SB_EDB, "replication: the server ended the stream") : sb_pg_fail(err, r->conn, res, "replication");

	PQclear(res);
	return rc;
}

int sb_pgrepl_next(struct sb_pgrepl *r, struct sb_pgrepl_msg *ret, struct sb_error *err)
{
	PQfreemem(r->message);
	r->message = NULL;
	int n = PQgetCopyData(r->conn, &r->message, 1);
	if (n == 0) {
		if (PQflush(r->conn) < 0 || !PQconsumeInput(r->conn))
			return sb_pg_fail(err, r->conn, NULL, "replication");
		n = PQgetCopyData(r->conn, &r->message, 1);
	}
	if (n > 0)
		return parse_message(r->message, (size_t)n, ret, err);
	if (n == 0) {
		*ret = (struct sb_pgrepl_msg){ .kind = SB_REPL_NONE };
		return SB_OK;
	}
	return n == -1 ? ended(r, err) : sb_pg_fail(err, r->conn, NULL, "replication");
}

int sb_pgrepl_status(struct sb_pgrepl *r, uint64_t write_lsn, uint64_t flush_lsn, struct sb_error *err)
{
	const uint64_t field[4] = { htobe64(write_lsn), htobe64(flush_lsn), htobe64(flush_lsn), htobe64((uint64_t)(sb_wall_us() - EPOCH_2000_US)) };
	char report[34] = { 'r' }; /* the last byte: no reply wanted */
	int64_t deadline = sb_mono_ms() + STATUS_WAIT_MS;

	memcpy(report + 1, field, sizeof(field));
	if (PQputCopyData(r->conn, report, sizeof(report)) < 0)
		return sb_pg_fail(err, r->conn, NULL, "replication");
	for (;;) {
		int pending = PQflush(r->conn);
		if (pending < 0)
			return sb_pg_fail(err, r->conn, NULL, "replication");
		int64_t left = deadline - sb_mono_ms();
		if (pending == 0 || left <= 0)
			return SB_OK; /* what is left goes out with the next call */
		struct pollfd fd = { .fd = PQsocket(r->conn), .events = POLLIN | POLLOUT };
		if (poll(&fd, 1, (int)left) > 0 && (fd.revents & POLLIN) && !PQconsumeInput(r->conn))
			return sb_pg_fail(err, r->conn, NULL, "replication");
	}
}
