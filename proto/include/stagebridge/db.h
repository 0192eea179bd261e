/* SQLite adapter for the agent's state: one file, WAL, synchronous FULL. A handle belongs to one lane; several handles on the file are fine. */
#ifndef STAGEBRIDGE_DB_H
#define STAGEBRIDGE_DB_H

#include "stagebridge/base.h"
#include "stagebridge/error.h"

struct sb_db;
struct sb_stmt;

int sb_db_open(struct sb_db **ret, const char *path, struct sb_error *err) SB_MUSTCHECK; /* created 0600; busy timeout 5 s */
void sb_db_close(struct sb_db *db);
int sb_db_script(struct sb_db *db, const char *sql, struct sb_error *err) SB_MUSTCHECK;
int sb_db_begin(struct sb_db *db, struct sb_error *err) SB_MUSTCHECK;   /* BEGIN IMMEDIATE */
int sb_db_commit(struct sb_db *db, struct sb_error *err) SB_MUSTCHECK;
void sb_db_rollback(struct sb_db *db);

/**
 * Prepares (cached by SQL text's address) and binds: one letter of types per parameter: 's' const char * (NULL: SQL NULL), 'i' int64_t,
 * 'b' const void *, size_t. Example: sb_db_query(db, &st, err, "SELECT x FROM t WHERE a = ? AND b = ?", "si", name, (int64_t)3)
 */
int sb_db_query(struct sb_db *db, struct sb_stmt **ret, struct sb_error *err, const char *sql, const char *types, ...) SB_MUSTCHECK;
/** 1 row, 0 end, or an error. */
int sb_db_step(struct sb_stmt *st, struct sb_error *err) SB_MUSTCHECK;
const char *sb_db_text(struct sb_stmt *st, int column);               /* borrowed until the next step; NULL for SQL NULL */
int64_t sb_db_int(struct sb_stmt *st, int column);
const void *sb_db_blob(struct sb_stmt *st, int column, size_t *ret_len);
void sb_db_done(struct sb_stmt *st);                                   /* resets for reuse */
void sb_db_donep(struct sb_stmt **st);
/** query + step to the end; ret_changes may be NULL. */
int sb_db_run(struct sb_db *db, int64_t *ret_changes, struct sb_error *err, const char *sql, const char *types, ...) SB_MUSTCHECK;
int64_t sb_db_last_id(struct sb_db *db);

#endif
