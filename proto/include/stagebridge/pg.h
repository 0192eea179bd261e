/* PostgreSQL adapter: the only files that know libpq are pg.c and pg_replication.c. A connection belongs to one lane; calls block, with a
 * statement deadline. Parameters only, never SQL built from input; names go through sb_pg_ident. */
#ifndef STAGEBRIDGE_PG_H
#define STAGEBRIDGE_PG_H

#include "stagebridge/base.h"
#include "stagebridge/buf.h"
#include "stagebridge/error.h"

struct sb_pg;
struct sb_pg_result;

/** conninfo: libpq's; a password comes from a passfile in it, never from argv. Sets UTF8 (bytes as they are where the database has SQL_ASCII), ISO dates, UTC, iso_8601 intervals, extra_float_digits 3,
 * keepalives, search_path = pg_catalog. Errors: SB_EDB (retriable), SB_EAUTH. */
int sb_pg_open(struct sb_pg **ret, const char *conninfo, const char *application_name, struct sb_error *err) SB_MUSTCHECK;
void sb_pg_close(struct sb_pg *pg);   /* NULL is fine */
bool sb_pg_ok(const struct sb_pg *pg); /* connection not known to be broken */
int sb_pg_version(const struct sb_pg *pg); /* 150020 */

/**
 * One statement with n text parameters (NULL = SQL NULL). ret may be NULL when the rows do not matter.
 * err->state is the SQLSTATE. Codes: SB_EDATA for class 22, 23 and 54 (the data is at fault), SB_ECONFLICT for 40001 40P01 55P03,
 * SB_EAUTH 42501, SB_ENOTFOUND 42P01 42704 3D000, SB_EDB otherwise. The message holds the server's primary message only: DETAIL may hold row values;
 * of class 22 also what it quotes is left out.
 */
int sb_pg_exec(struct sb_pg *pg, const char *sql, unsigned n, const char *const *param, struct sb_pg_result **ret, struct sb_error *err) SB_MUSTCHECK;
/** The same with some binary parameters: len[i] >= 0 means bytea in binary of that length, -1 text. */
int sb_pg_exec_bin(struct sb_pg *pg, const char *sql, unsigned n, const char *const *param, const int *len, struct sb_pg_result **ret, struct sb_error *err) SB_MUSTCHECK;
/** Several statements without parameters: migrations and set-up only. */
int sb_pg_script(struct sb_pg *pg, const char *sql, struct sb_error *err) SB_MUSTCHECK;
int sb_pg_begin(struct sb_pg *pg, struct sb_error *err) SB_MUSTCHECK;
int sb_pg_commit(struct sb_pg *pg, struct sb_error *err) SB_MUSTCHECK;
void sb_pg_rollback(struct sb_pg *pg);  /* quietly; nothing when no transaction is open, or pg is NULL: what failed may be the opening */
/** For caches of what a transaction made: is one open, how many were begun and how many rolled back as a whole. */
struct sb_pg_tx { bool open; uint64_t begun, rolled_back; };
struct sb_pg_tx sb_pg_tx(const struct sb_pg *pg);

int sb_pg_rows(const struct sb_pg_result *r);
int sb_pg_columns(const struct sb_pg_result *r);
const char *sb_pg_column_name(const struct sb_pg_result *r, int column);
/** Borrowed; NULL for SQL NULL. */
const char *sb_pg_get(const struct sb_pg_result *r, int row, int column);
int64_t sb_pg_get_i64(const struct sb_pg_result *r, int row, int column);   /* 0 for NULL */
/** bytea in text (hex) form to bytes; returns new. */
int sb_pg_get_bytes(const struct sb_pg_result *r, int row, int column, uint8_t **ret, size_t *ret_len, struct sb_error *err) SB_MUSTCHECK;
int64_t sb_pg_affected(const struct sb_pg_result *r);
void sb_pg_free(struct sb_pg_result *r);
void sb_pg_freep(struct sb_pg_result **r);

/** Quotes an identifier into out (appends). */
void sb_pg_ident(struct sb_buf *out, const char *name);
/** Quotes a literal (appends); for DDL only, where parameters are not possible. */
void sb_pg_literal(struct sb_buf *out, const char *value);

/* COPY */
int sb_pg_copy_in(struct sb_pg *pg, const char *copy_sql, struct sb_error *err) SB_MUSTCHECK;
int sb_pg_copy_put(struct sb_pg *pg, const void *p, size_t n, struct sb_error *err) SB_MUSTCHECK;
int sb_pg_copy_end(struct sb_pg *pg, int64_t *ret_rows, struct sb_error *err) SB_MUSTCHECK;
int sb_pg_copy_abort(struct sb_pg *pg, struct sb_error *err) SB_MUSTCHECK;
int sb_pg_copy_out(struct sb_pg *pg, const char *copy_sql, struct sb_error *err) SB_MUSTCHECK;
/** 1 and a line (copy_text.h; borrowed until the next call, without newline), 0 at the end, or an error. */
int sb_pg_copy_line(struct sb_pg *pg, const char **ret_line, size_t *ret_len, struct sb_error *err) SB_MUSTCHECK;
/** The same without waiting: SB_EAGAIN (err untouched) when no whole line has come, sb_pg_fd tells when to look again. */
int sb_pg_copy_poll(struct sb_pg *pg, const char **ret_line, size_t *ret_len, struct sb_error *err) SB_MUSTCHECK;

/** LISTEN/NOTIFY: descriptor for sb_lane_wait; drain returns the number of notifications consumed. */
int sb_pg_fd(const struct sb_pg *pg);
int sb_pg_notified(struct sb_pg *pg, struct sb_error *err) SB_MUSTCHECK;

/* ---- Logical replication (pgoutput) ---- */
struct sb_pgrepl;
struct sb_pgrepl_system { char system_id[32]; char timeline[12]; uint64_t xlogpos; char dbname[64]; };

int sb_pgrepl_open(struct sb_pgrepl **ret, const char *conninfo, const char *application_name, struct sb_error *err) SB_MUSTCHECK;
void sb_pgrepl_close(struct sb_pgrepl *r);
/** Where the history of timeline `to` left timeline `from`. SB_ENOTFOUND when `from` is not in it. */
int sb_pgrepl_fork(struct sb_pgrepl *r, const char *from, const char *to, uint64_t *ret_lsn, struct sb_error *err) SB_MUSTCHECK;
int sb_pgrepl_identify(struct sb_pgrepl *r, struct sb_pgrepl_system *ret, struct sb_error *err) SB_MUSTCHECK;
enum {
	SB_PGREPL_TEMPORARY = 1,         /* dies with the connection */
	SB_PGREPL_EXPORT = 2,            /* exports a snapshot */
	SB_PGREPL_FAILOVER = 4,          /* may be kept in step on standbys; ignored before PostgreSQL 17 */
};
/** Creates a slot with plugin pgoutput. ret_snapshot (64 bytes): name of the exported snapshot; it lives until the next command on this connection. SB_ECONFLICT
 * when the slot exists. */
int sb_pgrepl_create_slot(struct sb_pgrepl *r, const char *slot, unsigned flags, uint64_t *ret_point, char *ret_snapshot, struct sb_error *err) SB_MUSTCHECK;
int sb_pgrepl_drop_slot(struct sb_pgrepl *r, const char *slot, struct sb_error *err) SB_MUSTCHECK;
/** START_REPLICATION, pgoutput protocol 1; messages true: logical messages too. SB_EAGAIN when the slot is active elsewhere (55006). */
int sb_pgrepl_start(struct sb_pgrepl *r, const char *slot, uint64_t from_lsn, const char *publication, bool messages, struct sb_error *err) SB_MUSTCHECK;
int sb_pgrepl_fd(const struct sb_pgrepl *r);
/** What the server sent. */
struct sb_pgrepl_msg {
	enum { SB_REPL_NONE, SB_REPL_DATA, SB_REPL_KEEPALIVE } kind;
	uint64_t wal_end;
	bool reply_requested;
	const char *data; size_t len;    /* pgoutput message; borrowed until the next call */
};
/** Never blocks: NONE when nothing is there. Errors end the connection. */
int sb_pgrepl_next(struct sb_pgrepl *r, struct sb_pgrepl_msg *ret, struct sb_error *err) SB_MUSTCHECK;
/** Standby status: everything before flush_lsn may be forgotten by the server. Never blocks for long. */
int sb_pgrepl_status(struct sb_pgrepl *r, uint64_t write_lsn, uint64_t flush_lsn, struct sb_error *err) SB_MUSTCHECK;

#endif
