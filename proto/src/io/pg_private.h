/* What the pg*.c files share. Never included elsewhere. */
#ifndef SB_PG_PRIVATE_H
#define SB_PG_PRIVATE_H

#include <libpq-fe.h>

#include "stagebridge/pg.h"

#define SB_PG_STATEMENTS 64   /* prepared statements kept per connection */
#define SB_PG_PREPARE_AT 3    /* a text is prepared when it is seen for the third time */

struct sb_pg_prepared {
	uint64_t hash;
	char *sql;            /* NULL: free slot */
	unsigned seen;
	uint64_t used;        /* tick of the last use */
	uint64_t name;        /* "sb_<name>" on the server; 0: not prepared */
};

struct sb_pg {
	PGconn *conn;
	bool broken;
	struct sb_pg_tx tx;
	uint64_t tick, names;
	struct sb_pg_prepared statement[SB_PG_STATEMENTS];
	char *line;         /* of COPY out; libpq's */
	bool copying_out;
};

/** Opens with our session settings before those of conninfo. */
int sb_pg_connect(PGconn **ret, const char *conninfo, const char *application_name, bool replication, struct sb_error *err) SB_MUSTCHECK;
/** Fills err from a failed result (may be NULL) or the connection; returns the code. */
int sb_pg_fail(struct sb_error *err, PGconn *conn, const PGresult *res, const char *what);
/** Takes res: SB_OK when its status is one of the two. */
int sb_pg_expect(PGconn *conn, PGresult *res, ExecStatusType a, ExecStatusType b, const char *what, struct sb_error *err) SB_MUSTCHECK;
/** A simple query without rows. */
int sb_pg_simple(struct sb_pg *pg, const char *sql, struct sb_error *err) SB_MUSTCHECK;
/** Ends a COPY that is under way, whatever its direction. */
void sb_pg_copy_stop(struct sb_pg *pg);

#endif
