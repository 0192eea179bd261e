/* SQLite for the agent's state: one file, write-ahead log, every commit synced.
 *
 * Thread: a handle belongs to one lane; several handles on the file (also of other processes) wait for each other up to five seconds.
 * Owns: the connection and a cache of prepared statements keyed by the address of their SQL text (literals), which are put back by sb_db_done.
 * A text that is in use already, or does not fit the cache, gets a statement of its own that sb_db_done finalises. */
#include "stagebridge/db.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CACHE_SIZE 256 /* a power of two; more than the agent has statements */
#define CACHE_PROBES 8
#define BUSY_TIMEOUT_MS 5000

struct sb_stmt {
	struct sb_db *db;
	sqlite3_stmt *st;
	const char *key; /* address of the text; NULL: free slot, or a statement outside the cache */
	bool busy, cached;
};

struct sb_db {
	sqlite3 *h;
	struct sb_stmt cache[CACHE_SIZE];
};

static int db_fail(struct sb_db *db, int code, struct sb_error *err)
{
	int to = SB_EDB;

	switch (code & 0xff) {
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		to = SB_EAGAIN;
		break;
	case SQLITE_CONSTRAINT:
		to = SB_ECONFLICT;
		break;
	case SQLITE_NOMEM:
		return sb_fail_nomem(err);
	case SQLITE_FULL:
	case SQLITE_IOERR:
	case SQLITE_CANTOPEN:
	case SQLITE_READONLY:
		to = SB_EIO;
		break;
	case SQLITE_TOOBIG:
		to = SB_ETOOBIG;
		break;
	default:
		break;
	}
	return sb_fail(err, (enum sb_code)to, "state database: %s", db && db->h ? sqlite3_errmsg(db->h) : sqlite3_errstr(code));
}

/* The file holds what people pushed and which secrets' names exist: it is made private before SQLite opens it; -wal and -shm take its mode.
 * One that is there already is not opened here: closing any descriptor of it would drop all locks that this process has on it, and another process that
 * closes it then, a person's sqlite3 for one, takes itself for the last and deletes the log that we go on writing. */
static int make_private(const char *path, struct sb_error *err)
{
	struct stat st;

	if (strcmp(path, ":memory:") == 0)
		return SB_OK;
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 && errno != EEXIST)
		return sb_fail_errno(err, errno, "state database \"%s\"", path);
	if (fd >= 0) {
		close(fd);
		return SB_OK;
	}
	if (lstat(path, &st) < 0)
		return sb_fail_errno(err, errno, "state database \"%s\"", path);
	return S_ISREG(st.st_mode) ? SB_OK : sb_fail(err, SB_EIO, "state database \"%s\": it is a link or no file", path);
}

int sb_db_open(struct sb_db **ret, const char *path, struct sb_error *err)
{
	int rc = make_private(path, err);
	if (rc)
		return rc;
	struct sb_db *db = calloc(1, sizeof(*db));
	if (!db)
		return sb_fail_nomem(err);
	int code = sqlite3_open_v2(path, &db->h, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
	if (code != SQLITE_OK) {
		rc = db_fail(db, code, err);
		goto out;
	}
	sqlite3_extended_result_codes(db->h, 1);
	sqlite3_busy_timeout(db->h, BUSY_TIMEOUT_MS);
	rc = sb_db_script(db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF;"
		"PRAGMA cache_size = -1024;", err);
	if (rc == SB_OK)
		*ret = SB_TAKE(db);
out:
	sb_db_close(db);
	return rc;
}

void sb_db_close(struct sb_db *db)
{
	if (!db)
		return;
	for (unsigned i = 0; i < CACHE_SIZE; i++)
		sqlite3_finalize(db->cache[i].st);
	sqlite3_close_v2(db->h);
	free(db);
}

int sb_db_script(struct sb_db *db, const char *sql, struct sb_error *err)
{
	int code = sqlite3_exec(db->h, sql, NULL, NULL, NULL);

	return code == SQLITE_OK ? SB_OK : db_fail(db, code, err);
}

int sb_db_begin(struct sb_db *db, struct sb_error *err)
{
	return sb_db_script(db, "BEGIN IMMEDIATE", err);
}

int sb_db_commit(struct sb_db *db, struct sb_error *err)
{
	return sb_db_script(db, "COMMIT", err);
}

void sb_db_rollback(struct sb_db *db)
{
	/* some errors (disk full) have rolled back already */
	if (!sqlite3_get_autocommit(db->h))
		sqlite3_exec(db->h, "ROLLBACK", NULL, NULL, NULL);
}

static struct sb_stmt *cache_slot(struct sb_db *db, const char *sql)
{
	size_t at = (size_t)(((uintptr_t)sql * UINT64_C(0x9E3779B97F4A7C15)) >> 40);
	struct sb_stmt *open = NULL;

	for (unsigned i = 0; i < CACHE_PROBES; i++) {
		struct sb_stmt *s = &db->cache[(at + i) & (CACHE_SIZE - 1)];
		/* the same address may hold another text when it was not a literal */
		if (s->key == sql && strcmp(sqlite3_sql(s->st), sql) == 0)
			return s->busy ? NULL : s;
		if (!s->key && !open)
			open = s;
	}
	return open;
}

static int prepare(struct sb_db *db, struct sb_stmt **ret, const char *sql, struct sb_error *err)
{
	struct sb_stmt *s = cache_slot(db, sql);
	bool own = s == NULL;

	if (s && s->st) {
		s->busy = true;
		*ret = s;
		return SB_OK;
	}
	if (own && !(s = calloc(1, sizeof(*s))))
		return sb_fail_nomem(err);
	int code = sqlite3_prepare_v3(db->h, sql, -1, own ? 0 : SQLITE_PREPARE_PERSISTENT, &s->st, NULL);
	if (code != SQLITE_OK || !s->st) {
		if (own)
			free(s);
		return code != SQLITE_OK ? db_fail(db, code, err) : sb_fail(err, SB_EINVAL, "state database: empty statement");
	}
	s->db = db;
	s->key = own ? NULL : sql;
	s->cached = !own;
	s->busy = true;
	*ret = s;
	return SB_OK;
}

static int bind(struct sb_stmt *s, const char *types, va_list ap, struct sb_error *err)
{
	int code = (size_t)sqlite3_bind_parameter_count(s->st) == strlen(types) ? SQLITE_OK : SQLITE_RANGE;

	for (int i = 1; *types && code == SQLITE_OK; types++, i++) {
		switch (*types) {
		case 's':
			code = sqlite3_bind_text(s->st, i, va_arg(ap, const char *), -1, SQLITE_TRANSIENT); /* NULL binds SQL NULL */
			break;
		case 'i':
			code = sqlite3_bind_int64(s->st, i, va_arg(ap, int64_t));
			break;
		case 'b': {
			const void *p = va_arg(ap, const void *);
			size_t n = va_arg(ap, size_t);
			code = sqlite3_bind_blob64(s->st, i, p || n ? p : "", n, SQLITE_TRANSIENT);
			break;
		}
		default:
			code = SQLITE_MISUSE;
			break;
		}
	}
	return code == SQLITE_OK ? SB_OK : code == SQLITE_RANGE || code == SQLITE_MISUSE ?
		sb_fail(err, SB_EINVAL, "state database: parameters do not fit the statement") : db_fail(s->db, code, err);
}

static int vquery(struct sb_db *db, struct sb_stmt **ret, struct sb_error *err, const char *sql, const char *types, va_list ap)
{
	struct sb_stmt *s = NULL;
	int rc = prepare(db, &s, sql, err);

	if (rc == SB_OK && (rc = bind(s, types, ap, err)) != SB_OK)
		sb_db_done(s);
	if (rc == SB_OK)
		*ret = s;
	return rc;
}

int sb_db_query(struct sb_db *db, struct sb_stmt **ret, struct sb_error *err, const char *sql, const char *types, ...)
{
	va_list ap;

	va_start(ap, types);
	int rc = vquery(db, ret, err, sql, types, ap);
	va_end(ap);
	return rc;
}

int sb_db_step(struct sb_stmt *st, struct sb_error *err)
{
	int code = sqlite3_step(st->st);

	return code == SQLITE_ROW ? 1 : code == SQLITE_DONE ? 0 : db_fail(st->db, code, err);
}

const char *sb_db_text(struct sb_stmt *st, int column)
{
	return (const char *)sqlite3_column_text(st->st, column);
}

int64_t sb_db_int(struct sb_stmt *st, int column)
{
	return sqlite3_column_int64(st->st, column);
}

const void *sb_db_blob(struct sb_stmt *st, int column, size_t *ret_len)
{
	const void *p = sqlite3_column_blob(st->st, column); /* before the length: it may convert */

	*ret_len = (size_t)sqlite3_column_bytes(st->st, column);
	return p;
}

void sb_db_done(struct sb_stmt *st)
{
	if (!st)
		return;
	if (!st->cached) {
		sqlite3_finalize(st->st);
		free(st);
		return;
	}
	sqlite3_reset(st->st); /* its result repeats the last step's error, which the caller has seen */
	sqlite3_clear_bindings(st->st);
	st->busy = false;
}

void sb_db_donep(struct sb_stmt **st)
{
	sb_db_done(*st);
}

int sb_db_run(struct sb_db *db, int64_t *ret_changes, struct sb_error *err, const char *sql, const char *types, ...)
{
	struct sb_stmt *s = NULL;
	va_list ap;

	va_start(ap, types);
	int rc = vquery(db, &s, err, sql, types, ap);
	va_end(ap);
	if (rc)
		return rc;
	while ((rc = sb_db_step(s, err)) > 0)
		;
	if (rc == SB_OK && ret_changes)
		*ret_changes = sqlite3_changes64(db->h);
	sb_db_done(s);
	return rc;
}

int64_t sb_db_last_id(struct sb_db *db)
{
	return sqlite3_last_insert_rowid(db->h);
}
