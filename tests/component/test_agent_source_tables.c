/* Kinds of tables, and what happens to them while the source runs: filters, partitions, identities, DDL. What arrives is applied to real tables, which
 * must be equal to the source's at the end of each step; at no time may a statement of the application fail. */
#include "landing.h"
#include "source_pg_rig.h"

static void same(struct rig *g, struct landing *l, const char *there_query, const char *here_query)
{
	char *there = NULL, *here = NULL;
	int64_t until = sb_mono_ms() + 40000;

	for (;;) {
		there = ask(g, there_query);
		here = landing_ask(l->pg, here_query);
		if (strcmp(there, here) == 0)
			break;
		ck_assert_msg(sb_mono_ms() < until, "%s: source %.300s, view %.300s", here_query, there, here);
		free(there);
		free(here);
		sb_lanes_wake(g->fix.a.lanes, "source/*"); /* looks at the catalog at once, else within half a minute */
		(void)landing_pull(l, g->fix.keys.keyring, g->consumer); /* looked at above */
	}
	free(there);
	free(here);
}

#define ROWS(table) "SELECT string_agg(t::text, ' ' ORDER BY t::text COLLATE \"C\") FROM " table " t"

static void landed(struct rig *g, struct landing *l, unsigned snapshots)
{
	int64_t until = sb_mono_ms() + 40000;

	while (l->ended < snapshots) {
		ck_assert_msg(sb_mono_ms() < until, "%u of %u snapshots ended", l->ended, snapshots);
		(void)landing_pull(l, g->fix.keys.keyring, g->consumer); /* looked at above */
	}
}

static void begin(struct rig *g, struct landing *l, const char *name)
{
	rig_open(g, name);
	landing_open(l, name);
	sql(g, "CREATE SCHEMA app");
}

static void end(struct rig *g, struct landing *l)
{
	landing_close(l);
	rig_free(g);
}

/* Rows enter and leave the filter by updates; the snapshot has the same filter; a changed filter brings and sweeps rows. */
START_TEST(row_filter)
{
	struct rig g;
	struct landing l;
	char state[24];

	begin(&g, &l, "filter");
	sql(&g, "CREATE TABLE app.t (region text, id int, v text, PRIMARY KEY (region, id)); INSERT INTO app.t VALUES ('eu', 1, 'a'), ('us', 2, 'HUSH'), ('eu', 3, 'c')");
	struct agent_table *t = rig_table(&g, "app.t", "t");
	t->where = (char *)(uintptr_t)"t.region = 'eu' AND id < 100";
	rig_start(&g);
	if (sb_pg_version(g.pg) < 150000) {
		ck_assert(wait_until(strcmp(logged_state(&g, state), "refused table") == 0, 10000));
		sql(&g, "UPDATE app.t SET v = 'x'");
		end(&g, &l);
		return;
	}
	landed(&g, &l, 1);
	same(&g, &l, ROWS("app.t") " WHERE region = 'eu'", ROWS("dev.t"));
	sql(&g, "INSERT INTO app.t VALUES ('us', 4, 'HUSH'), ('eu', 5, 'e'); UPDATE app.t SET region = 'eu', v = 'came' WHERE id = 2; UPDATE app.t SET region = 'us' WHERE id = 1;"
		"DELETE FROM app.t WHERE id = 3; UPDATE app.t SET v = 'HUSH' WHERE region = 'us'");
	same(&g, &l, ROWS("app.t") " WHERE region = 'eu'", ROWS("dev.t"));
	rig_stop(&g);
	t->where = (char *)(uintptr_t)"id % 2 = 0";
	rig_start(&g);
	same(&g, &l, ROWS("app.t") " WHERE id % 2 = 0", ROWS("dev.t"));
	/* a filter over other columns would make the application's updates fail: refused before it is published */
	rig_stop(&g);
	t->where = (char *)(uintptr_t)"v <> 'a'";
	rig_start(&g);
	ck_assert(wait_until(strcmp(logged_state(&g, state), "refused table") == 0, 10000));
	sql(&g, "UPDATE app.t SET v = 'still works'; DELETE FROM app.t WHERE id = 5");
	/* with the whole row as identity it may */
	sql(&g, "ALTER TABLE app.t REPLICA IDENTITY FULL");
	same(&g, &l, ROWS("app.t") " WHERE v <> 'a'", ROWS("dev.t"));
	sql(&g, "UPDATE app.t SET v = 'a' WHERE id = 1; INSERT INTO app.t VALUES ('eu', 9, 'nine'), ('eu', 10, 'a')");
	same(&g, &l, ROWS("app.t") " WHERE v <> 'a'", ROWS("dev.t"));
	/* and none at all */
	rig_stop(&g);
	t->where = NULL;
	rig_start(&g);
	same(&g, &l, ROWS("app.t"), ROWS("dev.t"));
	end(&g, &l);
}
END_TEST

/* One type whatever its partitions are; rows that come and go with partitions come and go in the view. */
START_TEST(partitions)
{
	struct rig g;
	struct landing l;

	begin(&g, &l, "parts");
	sql(&g, "CREATE TABLE app.p (at int, id int, v text, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);"
		"CREATE TABLE app.p1 PARTITION OF app.p FOR VALUES FROM (0) TO (10); CREATE TABLE app.p2 PARTITION OF app.p FOR VALUES FROM (10) TO (20) PARTITION BY LIST (id);"
		"CREATE TABLE app.p2a PARTITION OF app.p2 DEFAULT; INSERT INTO app.p VALUES (1, 1, 'a'), (11, 1, 'b'), (12, 2, 'c')");
	rig_table(&g, "app.p", "p");
	rig_start(&g);
	landed(&g, &l, 1);
	same(&g, &l, ROWS("app.p"), ROWS("dev.p"));
	/* made as a partition and filled at once: the stream tells it, but it may look as if it had been attached with its rows: then a snapshot more, and no other */
	sql(&g, "CREATE TABLE app.p3 PARTITION OF app.p FOR VALUES FROM (20) TO (30); INSERT INTO app.p VALUES (21, 1, 'new')");
	same(&g, &l, ROWS("app.p"), ROWS("dev.p"));
	sb_lanes_wake(g.fix.a.lanes, "source/*");
	sql(&g, "UPDATE app.p SET at = 22 WHERE at = 1; UPDATE app.p3 SET v = 'by its own name'");
	same(&g, &l, ROWS("app.p"), ROWS("dev.p"));
	ck_assert_uint_le(l.ended, 2);
	/* attached with rows, detached with rows, dropped, truncated by its own name */
	sql(&g, "CREATE TABLE app.p4 (LIKE app.p INCLUDING ALL); INSERT INTO app.p4 VALUES (31, 1, 'before')");
	sql(&g, "ALTER TABLE app.p ATTACH PARTITION app.p4 FOR VALUES FROM (30) TO (40)");
	same(&g, &l, ROWS("app.p"), ROWS("dev.p"));
	sql(&g, "UPDATE app.p SET v = 'after' WHERE at = 31; ALTER TABLE app.p DETACH PARTITION app.p2");
	same(&g, &l, ROWS("app.p"), ROWS("dev.p"));
	sql(&g, "UPDATE app.p2 SET v = 'not ours any more'; TRUNCATE app.p4");
	same(&g, &l, ROWS("app.p"), ROWS("dev.p"));
	sql(&g, "INSERT INTO app.p VALUES (32, 1, 'again'); DROP TABLE app.p3");
	same(&g, &l, ROWS("app.p"), ROWS("dev.p"));
	/* a whole subtree with rows comes back */
	sql(&g, "ALTER TABLE app.p ATTACH PARTITION app.p2 FOR VALUES FROM (10) TO (20)");
	same(&g, &l, ROWS("app.p"), ROWS("dev.p"));
	sql(&g, "TRUNCATE app.p; INSERT INTO app.p VALUES (1, 7, 'end')");
	same(&g, &l, ROWS("app.p"), ROWS("dev.p"));
	end(&g, &l);
}
END_TEST

struct step { const char *sql; const char *columns; }; /* columns: of the table afterwards, NULL: those of before, "-": there is no such table */

/* What people do to a table that lives, each step with rows before and after, and once without any change afterwards. */
START_TEST(ddl_while_running)
{
	static const struct step steps[] = {
		{ "ALTER TABLE app.t ADD b int DEFAULT 5", "id, v, b" },
		{ "ALTER TABLE app.t ADD c text", "id, v, b, c" },
		{ "UPDATE app.t SET c = 'see' || id", NULL },
		{ "ALTER TABLE app.t ALTER b TYPE text USING 'n' || b", NULL },
		{ "ALTER TABLE app.t DROP c", "id, v, b" },
		{ "INSERT INTO app.t VALUES (50, 'after drop', 'x')", NULL },
		{ "ALTER TABLE app.t ADD c int", "id, v, b, c" }, /* of the same name, empty again */
		{ "ALTER TABLE app.t RENAME b TO bee", "id, v, bee, c" },
		{ "UPDATE app.t SET bee = 'renamed' WHERE id = 1", NULL },
		{ "BEGIN; ALTER TABLE app.t ADD d int; UPDATE app.t SET d = id; ALTER TABLE app.t DROP d; INSERT INTO app.t VALUES (60, 'gone again'); COMMIT", NULL },
		{ "ALTER TABLE app.t ADD e timestamptz DEFAULT clock_timestamp()", "id, v, bee, c, e" }, /* rewrites the table */
		{ "ALTER TABLE app.t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (v)", NULL },
		{ "UPDATE app.t SET v = 'key ' || v, id = -id", NULL },
		{ "ALTER TABLE app.t ALTER id TYPE bigint, ALTER v TYPE varchar(40)", NULL },
		{ "VACUUM FULL app.t", NULL },
		{ "DROP TABLE app.t; CREATE TABLE app.t (id int PRIMARY KEY, z text); INSERT INTO app.t VALUES (1, 'a new table')", "id, z" },
		{ "INSERT INTO app.t VALUES (2, 'more'); UPDATE app.t SET z = 'changed' WHERE id = 1", NULL },
		{ "ALTER TABLE app.t RENAME TO old; CREATE TABLE app.t (id int PRIMARY KEY, z text, y int); INSERT INTO app.t VALUES (9, 'swapped', 9)", "id, z, y" },
		{ "INSERT INTO app.old VALUES (3, 'not ours'); INSERT INTO app.t VALUES (10, 'ours', 1)", NULL },
		{ "ALTER TABLE app.t RENAME TO away; UPDATE app.away SET y = -1", "-" },
		{ "ALTER TABLE app.away RENAME TO t; INSERT INTO app.t VALUES (20, 'back', 3)", NULL },
		{ "INSERT INTO app.t VALUES (21, 'back again', 3)", NULL },
		{ "ALTER TABLE app.t SET SCHEMA app2; ALTER TABLE app2.t SET SCHEMA app; INSERT INTO app.t VALUES (11, 'moved', 2)", NULL },
		{ "TRUNCATE app.t RESTART IDENTITY CASCADE; INSERT INTO app.t VALUES (12, 'last', 2)", NULL },
	};
	struct rig g;
	struct landing l;
	const char *columns = "id, v";
	char state[24];

	begin(&g, &l, "ddl");
	sql(&g, "CREATE SCHEMA app2; CREATE TABLE app.t (id int PRIMARY KEY, v text); INSERT INTO app.t SELECT i, 'row ' || i FROM generate_series(1, 20) i");
	rig_table(&g, "app.t", "t")->new_columns = AGENT_NEW_SEND;
	rig_start(&g);
	landed(&g, &l, 1);
	for (size_t i = 0; i < SB_COUNT(steps); i++) {
		sb_cleanup(sb_freep) char *there = NULL, *here = NULL;
		if (steps[i].columns && *steps[i].columns != '-')
			columns = steps[i].columns;
		if (strncmp(steps[i].sql, "VACUUM", 6) == 0)
			ck_assert(works(&g, steps[i].sql));
		else
			sql(&g, steps[i].sql);
		if (steps[i].columns && *steps[i].columns == '-') {
			sb_lanes_wake(g.fix.a.lanes, "source/*");
			ck_assert(wait_until(strcmp(logged_state(&g, state), "refused table") == 0, 10000)); /* what was named is not there */
			continue;
		}
		there = sb_asprintf("SELECT string_agg(t::text, ' ' ORDER BY t::text COLLATE \"C\") FROM (SELECT %s FROM app.t) t", columns);
		here = sb_asprintf("SELECT string_agg(t::text, ' ' ORDER BY t::text COLLATE \"C\") FROM (SELECT %s FROM dev.t) t", columns);
		same(&g, &l, there, here);
	}
	end(&g, &l);
}
END_TEST

/* Set-up, and every change of what tells rows apart, under an application that never stops writing: not one of its statements may fail. Refused are the
 * tables that publishing would have broken. */
START_TEST(application_goes_on)
{
	struct rig g;
	struct landing l;
	static const char *const table[] = { "pk", "idx", "fulls", "nothing", "none", "part" };
	static char *declared[1];
	char text[400];

	begin(&g, &l, "writes");
	declared[0] = sb_strdup("id");
	sql(&g, "CREATE TABLE app.pk (id int PRIMARY KEY, v int); CREATE TABLE app.idx (id int NOT NULL UNIQUE, v int); ALTER TABLE app.idx REPLICA IDENTITY USING INDEX idx_id_key;"
		"CREATE TABLE app.fulls (id int NOT NULL UNIQUE, v int); ALTER TABLE app.fulls REPLICA IDENTITY FULL; CREATE TABLE app.nothing (id int PRIMARY KEY, v int);"
		"ALTER TABLE app.nothing REPLICA IDENTITY NOTHING; CREATE TABLE app.none (id int, v int);"
		"CREATE TABLE app.part (id int, v int) PARTITION BY RANGE (id); CREATE TABLE app.part1 PARTITION OF app.part FOR VALUES FROM (0) TO (1000000)");
	for (size_t i = 0; i < SB_COUNT(table); i++) {
		(void)snprintf(text, sizeof(text), "INSERT INTO app.%s SELECT i, 0 FROM generate_series(1, 20) i", table[i]);
		sql(&g, text);
		(void)snprintf(text, sizeof(text), "app.%s", table[i]);
		rig_table(&g, text, table[i])->key = (struct sb_strings){ declared, 1 };
	}
	rig_start(&g);
	for (int round = 1; round <= 400 || l.ended < 3; round++) {
		ck_assert_int_lt(round, 100000);
		for (size_t i = 0; i < SB_COUNT(table); i++) {
			(void)snprintf(text, sizeof(text), "UPDATE app.%s SET v = v + 1 WHERE id %% 3 = %d; DELETE FROM app.%s WHERE id = %d; INSERT INTO app.%s VALUES (%d, 0)", table[i],
				round % 3, table[i], round % 20, table[i], 20 + round);
			sql(&g, text);
		}
		(void)landing_pull(&l, g.fix.keys.keyring, g.consumer); /* compared below */
	}
	same(&g, &l, ROWS("app.pk"), ROWS("dev.pk"));
	same(&g, &l, ROWS("app.idx"), ROWS("dev.idx"));
	same(&g, &l, ROWS("app.fulls"), ROWS("dev.fulls"));
	/* mended by its owner, each comes by itself */
	sql(&g, "ALTER TABLE app.nothing REPLICA IDENTITY DEFAULT; DELETE FROM app.none; ALTER TABLE app.none ADD PRIMARY KEY (id); DELETE FROM app.part; ALTER TABLE app.part ADD PRIMARY KEY (id);"
		"INSERT INTO app.none VALUES (1, 1); INSERT INTO app.part VALUES (2, 2)");
	same(&g, &l, ROWS("app.nothing"), ROWS("dev.nothing"));
	same(&g, &l, ROWS("app.none"), ROWS("dev.none"));
	same(&g, &l, ROWS("app.part"), ROWS("dev.part"));
	end(&g, &l);
	free(declared[0]);
}
END_TEST

/* Several tables by one statement, tables that only the cascade names, and one that is not ours. */
START_TEST(truncates)
{
	struct rig g;
	struct landing l;

	begin(&g, &l, "trunc");
	sql(&g, "CREATE SCHEMA other; CREATE TABLE app.a (id int PRIMARY KEY); CREATE TABLE other.b (id int PRIMARY KEY REFERENCES app.a); CREATE TABLE app.c (id int REFERENCES other.b);"
		"INSERT INTO app.a VALUES (1), (2); INSERT INTO other.b VALUES (1); INSERT INTO app.c VALUES (1)");
	rig_table(&g, "app.a", "a");
	rig_table(&g, "other.b", "b");
	rig_start(&g);
	landed(&g, &l, 2);
	sql(&g, "BEGIN; INSERT INTO app.a VALUES (3); INSERT INTO other.b VALUES (3); TRUNCATE app.a CASCADE; INSERT INTO app.a VALUES (9); COMMIT");
	same(&g, &l, ROWS("app.a"), ROWS("dev.a"));
	same(&g, &l, ROWS("other.b"), ROWS("dev.b"));
	sql(&g, "INSERT INTO other.b VALUES (9); TRUNCATE app.a, other.b, app.c; INSERT INTO app.a VALUES (4)");
	same(&g, &l, ROWS("app.a"), ROWS("dev.a"));
	same(&g, &l, ROWS("other.b"), ROWS("dev.b"));
	end(&g, &l);
}
END_TEST

/* An unlogged table tells nothing and is refused; logged, it comes; a table that joins the settings comes with its rows. */
START_TEST(tables_that_come_later)
{
	struct rig g;
	struct landing l;
	char state[24];

	begin(&g, &l, "later");
	sql(&g, "CREATE UNLOGGED TABLE app.u (id int PRIMARY KEY); INSERT INTO app.u VALUES (1); CREATE TABLE app.n (id int PRIMARY KEY); INSERT INTO app.n VALUES (1), (2)");
	rig_table(&g, "app.u", "u");
	rig_start(&g);
	ck_assert(wait_until(strcmp(logged_state(&g, state), "refused table") == 0, 10000));
	sql(&g, "UPDATE app.u SET id = 2; ALTER TABLE app.u SET LOGGED");
	same(&g, &l, ROWS("app.u"), ROWS("dev.u"));
	rig_stop(&g);
	rig_table(&g, "app.n", "n");
	sql(&g, "INSERT INTO app.n VALUES (3)");
	rig_start(&g);
	same(&g, &l, ROWS("app.n"), ROWS("dev.n"));
	sql(&g, "DELETE FROM app.n WHERE id = 1; INSERT INTO app.u VALUES (7)");
	same(&g, &l, ROWS("app.n"), ROWS("dev.n"));
	same(&g, &l, ROWS("app.u"), ROWS("dev.u"));
	end(&g, &l);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("agent_source_tables");
	TCase *t = tcase_create("tables");

	tcase_set_timeout(t, 240);
	tcase_add_test(t, row_filter);
	tcase_add_test(t, partitions);
	tcase_add_test(t, ddl_while_running);
	tcase_add_test(t, application_goes_on);
	tcase_add_test(t, truncates);
	tcase_add_test(t, tables_that_come_later);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	pg_fixture_start();
	return test_run(suite());
}
