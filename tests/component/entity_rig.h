/* A connection to the fixture's server and the entity tables of one test, which share the server with others but no table. Header only. */
#ifndef SB_TEST_ENTITY_RIG_H
#define SB_TEST_ENTITY_RIG_H

#include <check.h>
#include <stdio.h>
#include <unistd.h>

#include "pg_fixture.h"
#include "stagebridge/entity_table.h"

static const char *conninfo;
static struct sb_pg *pg;
static struct sb_entity_tables *tables;
static char scope[32];

#define must(call) ck_assert_msg((call) == 0, "%s (%s)", err.msg, err.state)

static inline void setup(void)
{
	struct sb_error err = SB_ERROR_INIT;

	(void)snprintf(scope, sizeof(scope), "e%d", (int)getpid()); /* tests share the server, not the tables */
	must(sb_pg_open(&pg, conninfo, "test", &err));
	must(sb_entity_tables_new(&tables, pg, scope, scope, &err));
}

static inline void teardown(void)
{
	sb_entity_tables_free(tables);
	sb_pg_close(pg);
}

/* The one value of a query; ~ in it is the people's schema. */
static inline const char *ask(const char *sql)
{
	static char out[65536];
	struct sb_error err = SB_ERROR_INIT;
	struct sb_pg_result *res = NULL;
	char at[4096];
	size_t n = 0;

	for (const char *p = sql; *p && n < sizeof(at) - sizeof(scope); p++) {
		if (*p == '~')
			n += (size_t)snprintf(at + n, sizeof(at) - n, "%s", scope);
		else
			at[n++] = *p;
	}
	at[n] = '\0';
	must(sb_pg_exec(pg, at, 0, NULL, &res, &err));
	(void)snprintf(out, sizeof(out), "%s", sb_pg_rows(res) && sb_pg_get(res, 0, 0) ? sb_pg_get(res, 0, 0) : "-");
	sb_pg_free(res);
	return out;
}

#endif
