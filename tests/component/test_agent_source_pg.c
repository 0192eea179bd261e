/* The postgres source against a private PostgreSQL and an in-process broker: what arrives is verified, judged for order and continuity, and applied to a
 * model of the tables as a receiver would; then model and tables must be equal. */
#include <sys/resource.h>

#include "columns.h"
#include "source_pg_rig.h"

#define ITEM_QUERY "SELECT json_object_agg(id || '|', json_build_array(id::text, name, note)) FROM app.item"
#define LOT_QUERY "SELECT json_object_agg(a || '|' || b || '|', json_build_array(a, b::text, v::text)) FROM app.lot"

static bool items_equal(struct rig *g)
{
	return equal(g, "item", ITEM_QUERY);
}

/* A woken source looks at the catalog at once, else within half a minute. */
static bool items_equal_when_woken(struct rig *g)
{
	sb_lanes_wake(g->fix.a.lanes, "source/*");
	return items_equal(g);
}

static bool lots_equal(struct rig *g)
{
	return equal(g, "lot", LOT_QUERY);
}

static bool all_equal(struct rig *g)
{
	return items_equal(g) && lots_equal(g);
}

static bool lots_with_w(struct rig *g)
{
	return equal(g, "lot", "SELECT json_object_agg(a || '|' || b || '|', json_build_array(a, b::text, v::text, w::text)) FROM app.lot");
}

static bool lots_with_x(struct rig *g)
{
	return equal(g, "lot", "SELECT json_object_agg(a || '|' || b || '|', json_build_array(a, b::text, v::text, w::text, x)) FROM app.lot");
}

static bool lots_described_equal(struct rig *g)
{
	return equal(g, "lot", "SELECT json_object_agg(a || '|' || b || '|', json_build_array(a, b::text, worth::text, mood::text, mail)) FROM app.lot");
}

static bool lots_as_text(struct rig *g)
{
	return equal(g, "lot", "SELECT json_object_agg(a || '|' || b || '|', json_build_array(a, b::text, v::text, w)) FROM app.lot");
}

static bool items_without_note(struct rig *g)
{
	return equal(g, "item", "SELECT json_object_agg(id || '|', json_build_array(id::text, name)) FROM app.item");
}

static bool small_items(struct rig *g)
{
	return equal(g, "item", ITEM_QUERY " WHERE id <> 2");
}

static bool unpublished(struct rig *g)
{
	char *n = ask(g, "SELECT count(*) FROM pg_publication_tables WHERE tablename = 'item'");
	bool none = strcmp(n, "0") == 0;

	free(n);
	return none;
}

static bool third_ended(struct rig *g)
{
	return g->m.ended >= 3;
}

/* --- tests --- */

START_TEST(snapshot_and_stream)
{
	struct rig g;

	rig_make(&g, "basic");
	sql(&g, "INSERT INTO app.item SELECT i, 'n' || i, 'HUSH', repeat('x', i % 7) FROM generate_series(1, 500) i;"
		"INSERT INTO app.lot VALUES ('a', 1, 1.5), ('b', 2, NULL)");
	rig_start(&g);
	ck_assert(pull_until(&g, snapshots_done, 20000));
	ck_assert(pull_until(&g, all_equal, 5000));
	ck_assert_uint_eq(g.m.changes['s'], 502);

	sql(&g, "INSERT INTO app.item VALUES (1001, 'new', 'HUSH', NULL)");
	sql(&g, "UPDATE app.item SET name = E'tab\\there \"quoted\" \\\\ \u00e9' WHERE id = 7");
	sql(&g, "DELETE FROM app.item WHERE id IN (8, 9)");
	sql(&g, "BEGIN; UPDATE app.lot SET v = 9.99 WHERE a = 'a'; INSERT INTO app.item VALUES (1002, 'both'); DELETE FROM app.lot WHERE a = 'b'; COMMIT");
	ck_assert(pull_until(&g, all_equal, 10000));
	ck_assert_uint_eq(g.m.changes['i'], 2);
	ck_assert_uint_eq(g.m.changes['u'], 2);
	ck_assert_uint_eq(g.m.changes['d'], 3);

	sql(&g, "UPDATE app.item SET id = 5007 WHERE id = 7");
	ck_assert(pull_until(&g, all_equal, 10000));
	ck_assert_uint_eq(g.m.changes['k'], 1);
	sql(&g, "TRUNCATE app.item, app.lot; INSERT INTO app.item VALUES (1, 'after')");
	ck_assert(pull_until(&g, all_equal, 10000));
	ck_assert_uint_eq(g.m.changes['t'], 2);
	ck_assert_uint_gt(g.m.committed, 3);
	rig_free(&g);
}
END_TEST

/* Values that were not sent because they did not change: with the default identity the receiver keeps them, also when the key moves; with FULL the old row has them. */
START_TEST(unchanged_toast)
{
	struct rig g;

	rig_make(&g, "toast");
	g.table[0].private_columns.count = 0; /* a column list and REPLICA IDENTITY FULL exclude each other */
	sql(&g, "ALTER TABLE app.item DROP COLUMN secret");
	sql(&g, "ALTER TABLE app.item ALTER note SET STORAGE EXTERNAL; INSERT INTO app.item VALUES (1, 'a', repeat('long ', 4000)), (2, 'b', repeat('far ', 4000))");
	rig_start(&g);
	ck_assert(pull_until(&g, snapshots_done, 20000));
	sql(&g, "UPDATE app.item SET name = 'changed' WHERE id = 1");
	sql(&g, "UPDATE app.item SET id = 3 WHERE id = 2");
	ck_assert(pull_until(&g, items_equal, 10000));
	ck_assert_uint_eq(g.m.changes['k'], 1);
	sql(&g, "ALTER TABLE app.item REPLICA IDENTITY FULL");
	sql(&g, "UPDATE app.item SET name = 'under full' WHERE id = 1; UPDATE app.item SET id = 4 WHERE id = 3; DELETE FROM app.item WHERE id = 1");
	ck_assert(pull_until(&g, items_equal, 10000));
	ck_assert_uint_eq(g.m.changes['k'], 2);
	ck_assert_uint_eq(g.m.changes['d'], 1);
	rig_free(&g);
}
END_TEST

/* Neither by snapshot, nor by change, nor while no column list hides it, nor after it was renamed; the model looks into every record. */
START_TEST(private_column_stays)
{
	struct rig g;
	char state[24];

	rig_make(&g, "private");
	sql(&g, "INSERT INTO app.item VALUES (1, 'a', 'HUSH', 'n')");
	rig_start(&g);
	ck_assert(pull_until(&g, snapshots_done, 20000));
	sql(&g, "UPDATE app.item SET name = 'c', secret = 'HUSH'; INSERT INTO app.item VALUES (2, 'b', 'HUSH', 'n')");
	ck_assert(pull_until(&g, items_equal, 10000));
	sql(&g, "ALTER TABLE app.item REPLICA IDENTITY FULL");
	ck_assert(wait_until(works(&g, "UPDATE app.item SET name = 'b', secret = 'HUSH'"), 10000));
	sql(&g, "DELETE FROM app.item WHERE id = 2");
	ck_assert(pull_until(&g, items_equal, 10000));
	sql(&g, "BEGIN; ALTER TABLE app.item RENAME secret TO hushed; UPDATE app.item SET name = 'd'; COMMIT; INSERT INTO app.lot VALUES ('after', 1, 1)");
	ck_assert(pull_until(&g, lots_equal, 10000));
	ck_assert(!items_equal(&g)); /* nothing of the table leaves any more */
	ck_assert(wait_until(strcmp(logged_state(&g, state), "refused table") == 0, 5000));
	sql(&g, "ALTER TABLE app.item RENAME hushed TO secret");
	ck_assert(pull_until(&g, items_equal_when_woken, 20000));
	rig_free(&g);
}
END_TEST

/* The application goes on writing, the other tables flow, the reason names the SQL; once that is done the table comes by itself. */
START_TEST(table_without_key)
{
	struct rig g;
	char state[24];

	rig_make(&g, "nokey");
	sql(&g, "ALTER TABLE app.item DROP CONSTRAINT item_pkey; INSERT INTO app.item VALUES (1, 'a', NULL, NULL)");
	rig_start(&g);
	ck_assert(wait_until(strcmp(logged_state(&g, state), "refused table") == 0, 10000));
	sql(&g, "UPDATE app.item SET name = 'b'; DELETE FROM app.item WHERE id = 0; INSERT INTO app.lot VALUES ('x', 1, 1)");
	ck_assert(pull_until(&g, lots_equal, 10000));
	ck_assert_ptr_null(json_object_get(g.m.type, "item"));
	rig_stop(&g);
	/* published by somebody else in spite of it: the source takes it out again, and writing works */
	sql(&g, "ALTER PUBLICATION src_nokey ADD TABLE app.item");
	rig_start(&g);
	ck_assert(wait_until(unpublished(&g), 10000));
	sql(&g, "UPDATE app.item SET name = 'c'");
	rig_stop(&g);
	sql(&g, "ALTER TABLE app.item ADD PRIMARY KEY (id)");
	rig_start(&g);
	ck_assert(pull_until(&g, all_equal, 20000));
	sql(&g, "UPDATE app.item SET name = 'd'");
	ck_assert(pull_until(&g, all_equal, 10000));
	rig_free(&g);
}
END_TEST

static bool many_arrived(struct rig *g)
{
	return g->m.changes['i'] >= 100000;
}

static bool many_snapped(struct rig *g)
{
	return g->m.ended >= 4 && g->m.changes['s'] >= 100000;
}

static long peak_kb(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return u.ru_maxrss;
}

START_TEST(large_transaction)
{
	struct rig g;
	long before;

	rig_make(&g, "large");
	rig_start(&g);
	ck_assert(pull_until(&g, snapshots_done, 20000));
	before = peak_kb();
	sql(&g, "INSERT INTO app.item SELECT i, 'name of ' || i, NULL, md5(i::text) FROM generate_series(1, 100000) i");
	int64_t t = sb_mono_ms();
	ck_assert(wait_until(all_acknowledged(&g, 100000), 30000));
	int64_t ms = sb_mono_ms() - t;
	printf("stream: 100000 rows of one transaction acknowledged in %lld ms (%lld rows/s), peak memory +%ld KiB (broker included)\n", (long long)ms,
		(long long)(100000000 / (ms ? ms : 1)), peak_kb() - before);
	/* the in-process broker keeps what it was given: 8 MiB in flight, batches and decoder are what is ours */
	if (fault_available()) /* a sanitizer keeps freed memory */
		ck_assert_int_lt(peak_kb() - before, 64 * 1024);
	ck_assert(pull_until(&g, many_arrived, 30000));
	char *count = ask(&g, "SELECT count(*) FROM app.item");
	json_t *rows = model_rows(&g.m, "item");
	ck_assert_uint_eq(json_object_size(rows), strtoul(count, NULL, 10));
	json_decref(rows);
	free(count);
	rig_free(&g);
}
END_TEST

START_TEST(large_snapshot)
{
	struct rig g;
	struct sb_error err = SB_ERROR_INIT;
	struct sb_db *db = NULL;

	rig_make(&g, "bulk");
	sql(&g, "INSERT INTO app.item SELECT i, 'name of ' || i, NULL, md5(i::text) FROM generate_series(1, 100000) i; ANALYZE app.item");
	int64_t t = sb_mono_ms();
	rig_start(&g);
	fix_ok(agent_state_open(&db, &g.fix.a, &err), err);
	ck_assert(wait_until(fix_number(db, "SELECT count(*) FROM snapshot WHERE state = 'done'") == 2, 60000));
	int64_t ms = sb_mono_ms() - t;
	printf("snapshot: 100000 rows acknowledged in %lld ms, start included (%lld rows/s)\n", (long long)ms, (long long)(100000000 / (ms ? ms : 1)));
	ck_assert(pull_until(&g, snapshots_done, 30000));
	ck_assert_uint_eq(g.m.changes['s'], 100000);
	/* a resync order of the hub: everything again, while changes go on */
	fix_ok(sb_db_run(db, NULL, &err, "UPDATE snapshot SET state = 'wanted', reason = 'resync'", ""), err);
	sb_lanes_wake(g.fix.a.lanes, "source/*");
	sql(&g, "UPDATE app.item SET name = 'meanwhile' WHERE id % 1000 = 0; DELETE FROM app.item WHERE id % 1000 = 1");
	ck_assert(pull_until(&g, many_snapped, 60000));
	json_t *rows = model_rows(&g.m, "item");
	ck_assert_uint_eq(json_object_size(rows), 99900);
	json_decref(rows);
	sb_db_close(db);
	rig_free(&g);
}
END_TEST

/* Stopped and started again and again while the application writes: positions overlap, nothing is missing, sessions grow. */
START_TEST(restarts_without_loss)
{
	struct rig g;

	rig_make(&g, "restart");
	sql(&g, "INSERT INTO app.item SELECT i, 'v0' FROM generate_series(1, 50) i");
	for (int round = 1; round <= 5; round++) {
		char text[400];
		rig_start(&g);
		(void)snprintf(text, sizeof(text),
			"DO $$ BEGIN FOR i IN 1..40 LOOP UPDATE app.item SET name = 'v%d' || i WHERE id = i; IF i %% 3 = 0 THEN DELETE FROM app.item WHERE id = i + 10;"
			" INSERT INTO app.item VALUES (%d + i, 'new'); END IF; COMMIT; END LOOP; END $$", round, round * 1000);
		sql(&g, text);
		unsigned before = g.m.records;
		ck_assert(wait_until(pull(&g) && g.m.records > before, 20000)); /* some of it, wherever it is */
		rig_stop(&g);
		sql(&g, "UPDATE app.item SET note = 'while down' WHERE id % 5 = 0; INSERT INTO app.lot SELECT 'r', count(*) + 1, 1 FROM app.lot");
	}
	rig_start(&g);
	ck_assert(pull_until(&g, snapshots_done, 20000));
	ck_assert(pull_until(&g, all_equal, 20000));
	ck_assert_uint_gt(g.m.sessions, 2);
	rig_free(&g);
}
END_TEST

static uint64_t incarnation_of(struct rig *g)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_db *db = NULL;

	fix_ok(agent_state_open(&db, &g->fix.a, &err), err);
	uint64_t n = (uint64_t)fix_number(db, "SELECT incarnation FROM source_state");
	sb_db_close(db);
	return n;
}

/* The slot is gone, then somebody reads from it, then the publication is dropped: each time a new life, and the model converges. */
START_TEST(new_lives)
{
	struct rig g;

	rig_make(&g, "lives");
	sql(&g, "INSERT INTO app.item SELECT i, 'v' FROM generate_series(1, 20) i");
	rig_start(&g);
	ck_assert(pull_until(&g, all_equal, 20000));
	ck_assert(pull_until(&g, snapshots_done, 20000));
	uint64_t first = incarnation_of(&g);

	rig_stop(&g);
	/* the server may take a moment to see that its client is gone */
	ck_assert(wait_until(works(&g, "SELECT pg_drop_replication_slot('src_lives')"), 10000));
	sql(&g, "DELETE FROM app.item WHERE id = 3; UPDATE app.item SET name = 'unseen' WHERE id = 4");
	rig_start(&g);
	ck_assert(wait_until(incarnation_of(&g) == first + 1, 20000));
	ck_assert(pull_until(&g, all_equal, 20000));

	rig_stop(&g);
	sql(&g, "DELETE FROM app.item WHERE id = 5");
	ck_assert(wait_until(works(&g, "SELECT count(*) FROM pg_logical_slot_get_binary_changes('src_lives', NULL, NULL, 'proto_version', '1', 'publication_names', 'src_lives')"),
		10000));
	rig_start(&g);
	ck_assert(wait_until(incarnation_of(&g) == first + 2, 20000));
	ck_assert(pull_until(&g, all_equal, 20000));

	rig_stop(&g);
	sql(&g, "DROP PUBLICATION src_lives; DELETE FROM app.item WHERE id = 6");
	rig_start(&g);
	ck_assert(wait_until(incarnation_of(&g) == first + 3, 20000));
	ck_assert(pull_until(&g, all_equal, 20000));
	sql(&g, "INSERT INTO app.item VALUES (77, 'goes on')");
	ck_assert(pull_until(&g, all_equal, 10000));
	rig_free(&g);
}
END_TEST

/* A column with a default changes rows that no message tells of. */
START_TEST(ddl_brings_a_snapshot)
{
	struct rig g;

	rig_make(&g, "ddl");
	g.table[1].new_columns = AGENT_NEW_SEND;
	sql(&g, "INSERT INTO app.lot VALUES ('a', 1, 1)");
	rig_start(&g);
	ck_assert(pull_until(&g, snapshots_done, 20000));
	rig_stop(&g);
	sql(&g, "ALTER TABLE app.lot ADD COLUMN w int DEFAULT 7");
	rig_start(&g);
	ck_assert(pull_until(&g, lots_with_w, 20000));
	ck_assert(pull_until(&g, third_ended, 10000));
	/* without a default nothing changed: the next row brings the column */
	sql(&g, "ALTER TABLE app.lot ADD COLUMN x text; UPDATE app.lot SET x = 'y', v = 2");
	ck_assert(pull_until(&g, lots_with_x, 20000));
	rig_free(&g);
}
END_TEST

static bool kinds_equal(struct rig *g)
{
	return equal(g, "part", "SELECT json_object_agg(at || '|' || id || '|', json_build_array(at::text, id::text, v)) FROM app.part") &&
		equal(g, "full", "SELECT json_object_agg(code || '|', json_build_array(code, mood::text, n::text)) FROM app.\"Full One\"");
}

/* A partitioned table is one type; REPLICA IDENTITY FULL goes with a declared key; generated columns are left out; types keep their names. */
START_TEST(kinds_of_tables)
{
	struct rig g;
	static char *key[] = { NULL };

	rig_make(&g, "kinds");
	key[0] = sb_strdup("code");
	g.table[2] = (struct agent_table){ .table = sb_strdup("app.part"), .type = sb_strdup("part") };
	g.table[3] = (struct agent_table){ .table = sb_strdup("app.\"Full One\""), .type = sb_strdup("full"), .key = { key, 1 } };
	g.source.tables.count = 4;
	sql(&g, "CREATE TABLE app.part (at int, id int, v text, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);"
		"CREATE TABLE app.part1 PARTITION OF app.part FOR VALUES FROM (0) TO (10); CREATE TABLE app.part2 PARTITION OF app.part FOR VALUES FROM (10) TO (20);"
		"CREATE TYPE app.mood AS ENUM ('ok', 'bad');"
		"CREATE TABLE app.\"Full One\" (code text NOT NULL UNIQUE, mood app.mood, n int, twice int GENERATED ALWAYS AS (n * 2) STORED);"
		"ALTER TABLE app.\"Full One\" REPLICA IDENTITY FULL;"
		"INSERT INTO app.part VALUES (1, 1, 'a'), (11, 1, 'b'); INSERT INTO app.\"Full One\" VALUES ('x', 'ok', 1), ('y', NULL, NULL)");
	rig_start(&g);
	ck_assert(pull_until(&g, snapshots_done, 20000));
	ck_assert(kinds_equal(&g));
	sql(&g, "UPDATE app.part SET v = 'c' WHERE at = 1; UPDATE app.part SET at = 12 WHERE at = 1; INSERT INTO app.part VALUES (5, 5, 'd')");
	sql(&g, "UPDATE app.\"Full One\" SET code = 'z', mood = 'bad' WHERE code = 'x'; DELETE FROM app.\"Full One\" WHERE code = 'y'");
	ck_assert(pull_until(&g, kinds_equal, 10000));
	ck_assert_uint_eq(g.m.changes['k'], 1); /* a row that moves to another partition is deleted and inserted */
	/* a partition that comes later belongs to it */
	sql(&g, "CREATE TABLE app.part3 PARTITION OF app.part FOR VALUES FROM (20) TO (30); INSERT INTO app.part VALUES (21, 1, 'late')");
	ck_assert(pull_until(&g, kinds_equal, 10000));
	rig_free(&g);
	free(key[0]);
}
END_TEST

/* --- partitions --- */

#define PART_QUERY "SELECT json_object_agg(at || '|' || id || '|', json_build_array(at::text, id::text, v)) FROM app.part"

/* A woken source looks at the catalog at once. */
static bool parts_equal(struct rig *g)
{
	sb_lanes_wake(g->fix.a.lanes, "source/main");
	return equal(g, "part", PART_QUERY);
}

/* Leaves that the source remembers; every look wakes it. */
static size_t parts_known(struct rig *g)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	struct sb_error err = SB_ERROR_INIT;
	struct sb_db *db = NULL;

	sb_lanes_wake(g->fix.a.lanes, "source/main");
	fix_ok(agent_state_open(&db, &g->fix.a, &err), err);
	fix_ok(sb_db_query(db, &st, &err, "SELECT shape FROM snapshot WHERE type = 'part' AND state = 'done'", ""), err);
	json_t *shape = sb_db_step(st, &err) > 0 ? json_loads(sb_db_text(st, 0), 0, NULL) : NULL;
	size_t n = json_object_size(json_object_get(shape, "leaves"));
	json_decref(shape);
	sb_db_done(SB_TAKE(st));
	sb_db_close(db);
	return n;
}

/* What is done to partitions changes rows of the table without a word to a decoder. */
START_TEST(partitions_come_and_go)
{
	static const char *const silent[] = {
		"TRUNCATE app.part1",
		"ALTER TABLE app.part DETACH PARTITION app.part2",
		"UPDATE app.part2 SET v = 'alone'; ALTER TABLE app.part ATTACH PARTITION app.part2 FOR VALUES FROM (10) TO (20)",
		/* away and back between two looks */
		"BEGIN; ALTER TABLE app.part DETACH PARTITION app.part2; UPDATE app.part2 SET v = 'alone again';"
		" ALTER TABLE app.part ATTACH PARTITION app.part2 FOR VALUES FROM (10) TO (20); COMMIT",
		/* made, filled and attached by one transaction */
		"BEGIN; CREATE TABLE app.part3 (LIKE app.part INCLUDING ALL); INSERT INTO app.part3 VALUES (21, 1, 'before');"
		" ALTER TABLE app.part ATTACH PARTITION app.part3 FOR VALUES FROM (20) TO (30); COMMIT",
		/* a branch that has leaves of its own */
		"CREATE TABLE app.branch (LIKE app.part INCLUDING ALL) PARTITION BY RANGE (at); CREATE TABLE app.part4 PARTITION OF app.branch FOR VALUES FROM (30) TO (40);"
		" INSERT INTO app.branch VALUES (31, 1, 'apart'); ALTER TABLE app.part ATTACH PARTITION app.branch FOR VALUES FROM (30) TO (50)",
		"DROP TABLE app.part2",
	};
	struct rig g;

	rig_make(&g, "parts");
	g.table[2] = (struct agent_table){ .table = sb_strdup("app.part"), .type = sb_strdup("part") };
	g.source.tables.count = 3;
	sql(&g, "CREATE TABLE app.part (at int, id int, v text, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);"
		"CREATE TABLE app.part1 PARTITION OF app.part FOR VALUES FROM (0) TO (10); CREATE TABLE app.part2 PARTITION OF app.part FOR VALUES FROM (10) TO (20);"
		"INSERT INTO app.part SELECT i, i, 'v' FROM generate_series(0, 19) i");
	rig_start(&g);
	ck_assert(pull_until(&g, snapshots_done, 20000));
	ck_assert(pull_until(&g, parts_equal, 20000));
	for (unsigned i = 0; i < SB_COUNT(silent); i++) {
		sql(&g, silent[i]);
		ck_assert_msg(pull_until(&g, parts_equal, 20000), "not equal after: %s", silent[i]);
	}
	/* what is made empty and filled later needs no snapshot: all of it comes by the stream */
	unsigned ended = g.m.ended;
	sql(&g, "CREATE TABLE app.part5 PARTITION OF app.part FOR VALUES FROM (50) TO (60); CREATE TABLE app.part6 PARTITION OF app.branch FOR VALUES FROM (40) TO (50);"
		"INSERT INTO app.part VALUES (51, 1, 'e'), (41, 1, 'f')");
	ck_assert(pull_until(&g, parts_equal, 20000));
	ck_assert(wait_until(parts_known(&g) == 5, 20000));
	ck_assert(pull_until(&g, parts_equal, 20000));
	ck_assert_uint_eq(g.m.ended, ended);
	rig_free(&g);
}
END_TEST

/* --- what the catalog says --- */

/* "comment / name type source_type comment labels; ..." of the last description of lots; woken, the source looks at its catalog at once */
static const char *lot_described(struct rig *g)
{
	static char out[1024];
	const json_t *d = json_object_get(g->m.described, "lot"), *c;
	size_t i, n = (size_t)snprintf(out, sizeof(out), "%s /", d ? json_string_value(json_object_get(d, "comment")) : "");

	json_array_foreach(json_object_get(d, "columns"), i, c)
	{
		char *labels = json_dumps(json_object_get(c, "labels"), JSON_COMPACT);
		n += (size_t)snprintf(out + n, sizeof(out) - n, " %s%s %s %s %s %s;", json_string_value(json_object_get(c, "name")), json_is_true(json_object_get(c, "key")) ? "*" : "",
			json_string_value(json_object_get(c, "type")), json_string_value(json_object_get(c, "source_type")), json_string_value(json_object_get(c, "comment")), labels);
		free(labels);
	}
	sb_lanes_wake(g->fix.a.lanes, "source/main");
	return out;
}

#define LOT_KEY " a* text text  []; b* integer integer  [];"

static bool lot_first(struct rig *g)
{
	return strcmp(lot_described(g), " /" LOT_KEY " v numeric(10,2) numeric(10,2)  [];") == 0;
}

static bool lot_commented(struct rig *g)
{
	return strcmp(lot_described(g), "all lots /" LOT_KEY " v numeric(10,2) numeric(10,2) worth []; mood app.mood app.mood  [\"ok\",\"bad\"];"
		" mail character varying(50) app.mail  [];") == 0;
}

static bool lot_renamed(struct rig *g)
{
	return strcmp(lot_described(g), "all lots /" LOT_KEY " worth numeric(10,2) numeric(10,2) worth []; mood app.mood app.mood  [\"ok\",\"bad\",\"late\"];"
		" mail character varying(50) app.mail  [];") == 0;
}

/* DDL and comments are told without a row that changes; an idle catalog is silent; private columns are not named. */
START_TEST(described)
{
	struct rig g;

	rig_make(&g, "described");
	g.table[1].new_columns = AGENT_NEW_SEND;
	sql(&g, "COMMENT ON COLUMN app.item.secret IS 'HUSH'");
	rig_start(&g);
	ck_assert(pull_until(&g, lot_first, 20000));
	sql(&g, "CREATE TYPE app.mood AS ENUM ('ok', 'bad'); CREATE DOMAIN app.word AS varchar(50); CREATE DOMAIN app.mail AS app.word CHECK (value LIKE '%@%');"
		"ALTER TABLE app.lot ADD COLUMN mood app.mood, ADD COLUMN mail app.mail; COMMENT ON TABLE app.lot IS 'all lots'; COMMENT ON COLUMN app.lot.v IS 'worth'");
	ck_assert(pull_until(&g, lot_commented, 20000));
	sql(&g, "ALTER TYPE app.mood ADD VALUE 'late'; ALTER TABLE app.lot RENAME v TO worth");
	ck_assert(pull_until(&g, lot_renamed, 20000));
	sql(&g, "INSERT INTO app.lot VALUES ('a', 1, 1, 'late', 'x@example.org')");
	ck_assert(pull_until(&g, lots_described_equal, 20000));
	unsigned told = g.m.descriptions, ended = g.m.ended;
	/* a label that is renamed changes rows which no change tells, also while nobody looks */
	rig_stop(&g);
	sql(&g, "ALTER TYPE app.mood RENAME VALUE 'late' TO 'tardy'");
	rig_start(&g);
	ck_assert(pull_until(&g, lots_described_equal, 20000));
	ck_assert(wait_until(((void)pull(&g), g.m.ended > ended), 10000)); /* its last rows may come before its end */
	rig_stop(&g);
	ck_assert_uint_le(told, 40); /* what is no news is not told at every look */
	rig_free(&g);
}
END_TEST

/* A row that no record can hold does not stop the others. */
START_TEST(row_too_large)
{
	struct rig g;
	char state[24];

	rig_make(&g, "huge");
	rig_start(&g);
	ck_assert(pull_until(&g, snapshots_done, 20000));
	sql(&g, "INSERT INTO app.item VALUES (1, 'small'); INSERT INTO app.item VALUES (2, repeat('x', 900000)); INSERT INTO app.item VALUES (3, 'small too')");
	ck_assert(pull_until(&g, small_items, 10000));
	ck_assert(wait_until(strcmp(logged_state(&g, state), "withheld row") == 0, 5000));
	rig_free(&g);
}
END_TEST

static bool lot_withheld(struct rig *g)
{
	const json_t *told = json_object_get(json_object_get(g->m.described, "lot"), "withheld");

	if (!json_is_string(json_array_get(told, 0)) || strcmp(json_string_value(json_array_get(told, 0)), "w") != 0)
		return false;
	pthread_mutex_lock(&g->fix.a.board.lock);
	const struct agent_source_state *s = &g->fix.a.board.source[0];
	bool said = strcmp(s->state, "withheld column") == 0 && strcmp(s->withheld, "lot.w") == 0;
	pthread_mutex_unlock(&g->fix.a.board.lock);
	return said;
}

/* A column that comes later is withheld from snapshot and stream, whatever it is called and after a restart too, until it is declared; the rest flows on and
 * the application is not disturbed. The model looks for HUSH in every record. */
START_TEST(new_column_is_withheld)
{
	struct rig g;
	char *declared[] = { (char[]){ "w" } };

	rig_make(&g, "later");
	g.table[0].private_columns.count = 0; /* a column of a publication's list cannot be dropped */
	sql(&g, "ALTER TABLE app.item DROP COLUMN secret; INSERT INTO app.lot VALUES ('a', 1, 1); INSERT INTO app.item VALUES (1, 'n', 'old')");
	rig_start(&g);
	ck_assert(pull_until(&g, snapshots_done, 60000));
	sql(&g, "ALTER TABLE app.lot ADD COLUMN w text DEFAULT 'HUSH'; UPDATE app.lot SET v = 2; INSERT INTO app.lot VALUES ('b', 2, 3, 'HUSH')");
	ck_assert(pull_until(&g, lots_equal, 60000));
	ck_assert(pull_until(&g, lot_withheld, 60000)); /* in the description, and on the board; an idle server may keep its last words for 15 s */
	/* its name was a known one, the column is not: dropped and made again, between two looks at the catalog */
	sql(&g, "BEGIN; ALTER TABLE app.item DROP COLUMN note; ALTER TABLE app.item ADD COLUMN note text; UPDATE app.item SET note = 'HUSH', name = 'm'; COMMIT");
	ck_assert(pull_until(&g, items_without_note, 60000));
	rig_stop(&g);
	sql(&g, "UPDATE app.lot SET v = 4, w = 'HUSH' WHERE a = 'b'; UPDATE app.item SET name = 'o'");
	rig_start(&g);
	ck_assert(pull_until(&g, lots_equal, 60000));
	ck_assert(pull_until(&g, items_without_note, 60000));

	rig_stop(&g);
	sql(&g, "UPDATE app.lot SET w = 'fine ' || a");
	g.table[1].internal = (struct sb_strings){ declared, 1 };
	rig_start(&g);
	ck_assert(pull_until(&g, lots_as_text, 60000)); /* also the row that no change was sent of */
	rig_free(&g);
}
END_TEST

/* Rows that are told apart by a column that nobody declared cannot be sent; the application goes on, and so do the other tables. */
START_TEST(new_column_in_the_key)
{
	struct rig g;
	char state[24];

	rig_make(&g, "newkey");
	sql(&g, "INSERT INTO app.item VALUES (1, 'a', 'HUSH', 'n')");
	rig_start(&g);
	ck_assert(pull_until(&g, snapshots_done, 20000));
	sql(&g, "ALTER TABLE app.item ADD COLUMN half int NOT NULL DEFAULT 0, DROP CONSTRAINT item_pkey, ADD PRIMARY KEY (id, half)");
	ck_assert(wait_until(works(&g, "UPDATE app.item SET name = 'b'"), 10000));
	ck_assert(wait_until(strcmp(logged_state(&g, state), "refused table") == 0, 10000));
	sql(&g, "INSERT INTO app.lot VALUES ('a', 1, 1); UPDATE app.item SET name = 'c'");
	ck_assert(pull_until(&g, lots_equal, 20000));
	rig_free(&g);
}
END_TEST

/* When what was remembered is lost, the columns of that moment are the known ones. */
START_TEST(columns_are_taken_up_again)
{
	struct rig g;
	struct sb_error err = SB_ERROR_INIT;
	struct sb_db *db = NULL;

	rig_make(&g, "again");
	sql(&g, "INSERT INTO app.lot VALUES ('a', 1, 1)");
	rig_start(&g);
	ck_assert(pull_until(&g, snapshots_done, 20000));
	rig_stop(&g);
	sql(&g, "ALTER TABLE app.lot ADD COLUMN w int DEFAULT 7");
	fix_ok(agent_state_open(&db, &g.fix.a, &err), err);
	ck_assert_int_eq(fix_number(db, "SELECT count(*) FROM meta WHERE key LIKE 'columns/main/%'"), 2);
	fix_ok(sb_db_run(db, NULL, &err, "DELETE FROM meta WHERE key = 'columns/main/lot'", ""), err);
	sb_db_close(db);
	rig_start(&g);
	ck_assert(pull_until(&g, lots_with_w, 20000));
	rig_free(&g);
}
END_TEST

/* What goes down of the lots: a as it is, b as a token, v rounded; a is unique here and tells the rows apart. */
static bool public_lots_equal(struct rig *g)
{
	char *text = ask(g, "SELECT json_object_agg(a, (floor((v + 5) / 10) * 10)::int::text) FROM app.lot");
	json_t *there = *text ? json_loads(text, 0, NULL) : json_object(), *here = json_object(), *row;
	const char *key;

	json_object_foreach(sub(g->m.down, "lot"), key, row) {
		const json_t *cell = json_array_get(row, 4);
		if (!json_is_true(json_array_get(row, 3)))
			continue;
		ck_assert_uint_eq(json_array_size(cell), 3);
		ck_assert_uint_eq(json_string_length(json_array_get(cell, 1)), strlen("lot_") + 26);
		json_object_set(here, json_string_value(json_array_get(cell, 0)), json_array_get(cell, 2));
	}
	bool same = json_equal(there, here);
	json_decref(there);
	json_decref(here);
	free(text);
	return same;
}

static bool lots_with_inner(struct rig *g)
{
	return equal(g, "lot", "SELECT json_object_agg(a || '|' || b || '|', json_build_array(a, b::text, v::text, inner_text)) FROM app.lot") && public_lots_equal(g);
}

static bool lots_without_copy(struct rig *g)
{
	return equal(g, "lot", "SELECT json_object_agg(a || '|' || b || '|', json_build_array(a, b::text, v::text, inner_text)) FROM app.lot") &&
		json_object_size(sub(g->m.down, "lot")) < 3; /* 'later' has not come; deleted rows may still be told */
}

/* Beside the records for the sync view come those for earlier stages: by snapshot, by stream, over key changes, truncation and restarts, and anew when
 * something else is declared. The model looks for INNER in each of them. */
START_TEST(what_goes_down)
{
	struct rig g;
	char *public[] = { (char[]){ "a" } };
	struct agent_rule mask[2] = { { .name = (char[]){ "b" }, .op = (char[]){ "pseudonym" }, .domain = (char[]){ "lot" } },
		{ .name = (char[]){ "v" }, .op = (char[]){ "round" }, .step = (char[]){ "10" } } };
	struct sb_error err = SB_ERROR_INIT;
	char key[TEST_PATH_MAX];

	rig_make(&g, "down");
	test_path(key, "down.key");
	test_write(key, "0101010101010101010101010101010101010101010101010101010101010101", 0400);
	g.fix.a.set.datasets.secret = key;
	g.table[1].public_columns = (struct sb_strings){ public, 1 };
	g.table[1].masks = (struct sb_list){ mask, 2 };
	g.table[1].down = true;
	fix_ok(agent_columns_check(&g.table[1], true, &err), err);
	sql(&g, "ALTER TABLE app.lot ADD COLUMN inner_text text; INSERT INTO app.lot SELECT 'x' || i, i, i, 'INNER' FROM generate_series(1, 300) i");
	rig_start(&g);
	ck_assert(pull_until(&g, lots_with_inner, 20000));
	sql(&g, "UPDATE app.lot SET v = 77 WHERE b < 10; UPDATE app.lot SET b = b + 1000, inner_text = 'INNER too' WHERE b > 290; DELETE FROM app.lot WHERE b = 20");
	ck_assert(pull_until(&g, lots_with_inner, 20000));
	rig_stop(&g);
	sql(&g, "UPDATE app.lot SET v = NULL WHERE b = 30; INSERT INTO app.lot VALUES ('new', 1, 1, 'INNER')");
	rig_start(&g);
	ck_assert(pull_until(&g, lots_with_inner, 20000));
	sql(&g, "TRUNCATE app.lot; INSERT INTO app.lot VALUES ('after', 5, 14, 'INNER')");
	ck_assert(pull_until(&g, lots_with_inner, 20000));
	pthread_mutex_lock(&g.fix.a.board.lock);
	ck_assert_str_eq(g.fix.a.board.source[0].down, "lot");
	pthread_mutex_unlock(&g.fix.a.board.lock);

	/* a key that may not go down: nothing goes, and it is said */
	char state[24];
	rig_stop(&g);
	g.table[1].public_columns.count = 0;
	sql(&g, "INSERT INTO app.lot VALUES ('later', 6, 14, 'INNER')");
	rig_start(&g);
	ck_assert(wait_until(strcmp(logged_state(&g, state), "refused copy") == 0, 10000));
	ck_assert(pull_until(&g, lots_without_copy, 20000));
	/* declared again: a snapshot brings what was missed */
	rig_stop(&g);
	g.table[1].public_columns.count = 1;
	rig_start(&g);
	ck_assert(pull_until(&g, lots_with_inner, 20000));
	agent_columns_release(&g.table[1]);
	rig_free(&g);
}
END_TEST

static bool lots_made_here(struct rig *g)
{
	return equal(g, "lot", "SELECT json_object_agg(a || '|' || b || '|', json_build_array(a, b::text, v::text)) FROM app.lot WHERE a <> 'copy'");
}

/* Transactions that carry our replica lane's origin are copies of what others own; those of an ordinary subscription are not. Tables that copies stand on are
 * refused in any case. */
START_TEST(copies_are_not_captured)
{
	struct rig g;
	char state[24];

	rig_make(&g, "origin");
	rig_start(&g);
	ck_assert(pull_until(&g, snapshots_done, 20000));
	sql(&g, "SELECT pg_replication_origin_create('stagebridge_acme_train'), pg_replication_origin_create('another')");
	sql(&g, "SELECT pg_replication_origin_session_setup('stagebridge_acme_train')");
	sql(&g, "BEGIN; INSERT INTO app.lot VALUES ('copy', 1, 1), ('copy', 2, 2); UPDATE app.lot SET v = 3; COMMIT");
	sql(&g, "SELECT pg_replication_origin_session_reset(); SELECT pg_replication_origin_session_setup('another')");
	sql(&g, "INSERT INTO app.lot VALUES ('subscribed', 1, 1)");
	sql(&g, "SELECT pg_replication_origin_session_reset()");
	sql(&g, "INSERT INTO app.lot VALUES ('made here', 1, 1)");
	ck_assert(pull_until(&g, lots_made_here, 20000));
	rig_stop(&g);
	sql(&g, "CREATE SCHEMA store; CREATE TABLE store.copy (id int PRIMARY KEY); INSERT INTO store.copy VALUES (1)");
	g.table[2] = (struct agent_table){ .table = sb_strdup("store.copy"), .type = sb_strdup("copy") };
	g.source.tables.count = 3;
	rig_start(&g);
	ck_assert(wait_until(strcmp(logged_state(&g, state), "refused table") == 0, 10000));
	sql(&g, "INSERT INTO app.lot VALUES ('goes on', 1, 1)");
	ck_assert(pull_until(&g, lots_made_here, 20000));
	ck_assert_ptr_null(json_object_get(g.m.type, "copy"));
	rig_free(&g);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("agent_source_pg");
	TCase *t = tcase_create("pg");

	tcase_set_timeout(t, 120);
	tcase_add_test(t, snapshot_and_stream);
	tcase_add_test(t, unchanged_toast);
	tcase_add_test(t, private_column_stays);
	tcase_add_test(t, table_without_key);
	tcase_add_test(t, large_transaction);
	tcase_add_test(t, large_snapshot);
	tcase_add_test(t, restarts_without_loss);
	tcase_add_test(t, new_lives);
	tcase_add_test(t, ddl_brings_a_snapshot);
	tcase_add_test(t, kinds_of_tables);
	tcase_add_test(t, partitions_come_and_go);
	tcase_add_test(t, described);
	tcase_add_test(t, row_too_large);
	tcase_add_test(t, what_goes_down);
	tcase_add_test(t, copies_are_not_captured);
	tcase_add_test(t, new_column_is_withheld);
	tcase_add_test(t, new_column_in_the_key);
	tcase_add_test(t, columns_are_taken_up_again);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	pg_fixture_start();
	return test_run(suite());
}
