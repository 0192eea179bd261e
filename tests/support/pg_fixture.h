/* A private PostgreSQL for one test program: the newest installed version or that of the folder SB_PG_BIN, data in a temporary folder, Unix socket only, wal_level=logical. */
#ifndef SB_TESTS_PG_FIXTURE_H
#define SB_TESTS_PG_FIXTURE_H

/** Starts it, once per program and before the first fork; ends the program when it cannot. Stopped and removed at exit. Returns the conninfo. */
const char *pg_fixture_start(void);
/** Stops and starts it again (fast mode), for tests of lost connections. */
void pg_fixture_restart(void);

#endif
