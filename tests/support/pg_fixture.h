/* A private PostgreSQL for one test program: the newest installed version or that of the folder SB_PG_BIN, data in a temporary folder, Unix socket only, wal_level=logical. */
#ifndef SB_TESTS_PG_FIXTURE_H
#define SB_TESTS_PG_FIXTURE_H

#include <sys/types.h>

/** Starts it, once per program and before the first fork; ends the program when it cannot. Stopped and removed at exit. Returns the conninfo. */
const char *pg_fixture_start(void);

/* One more server that a test has to itself: to be copied, to be followed by another, to die. The kernel ends it when the test's process ends. Every function
 * ends the program when it cannot do what it is for. */
struct pg_server { pid_t pid; char dir[64], conninfo[128]; };
/** An empty cluster, running. */
void pg_server_new(struct pg_server *s);
/** A server with a copy of the files of one that is stopped; it does not run yet. */
void pg_server_copy(struct pg_server *s, const struct pg_server *of);
/** Makes a copy that was never started a standby of the other, which needs a physical slot named standby. */
void pg_server_follow(const struct pg_server *s, const struct pg_server *primary);
void pg_server_start(struct pg_server *s);
/** SIGINT: in order; SIGQUIT: as in a crash. Waits until it is gone. */
void pg_server_stop(struct pg_server *s, int signal_number);
/** Ends it and removes its files. */
void pg_server_free(struct pg_server *s);

#endif
