/* Snapshots of the postgres source: ranges, readers, breaks in the middle, what makes a snapshot begin anew, what is held back meanwhile. */
#include "resync.h"
#include "source_pg_rig.h"
#include "state.h"

#define ROWS 150000

#define ITEM_QUERY "SELECT json_object_agg(id || '|', json_build_array(id::text, name, note)) FROM app.item"

static bool items_equal(struct rig *g)
{
	return equal(g, "item", ITEM_QUERY);
}

/* One table, wide enough that reading it takes a while; the large values of the last rows lie apart. */
static void make(struct rig *g, const char *name)
{
	rig_make(g, name);
	g->table[0].private_columns.count = 0;
	sql(g, "ALTER TABLE app.item DROP COLUMN secret; ALTER TABLE app.item ALTER note SET STORAGE EXTERNAL");
	sql(g, "INSERT INTO app.item SELECT i, 'name of ' || i || repeat('.', 150), NULL FROM generate_series(1, 150000) i");
	sql(g, "UPDATE app.item SET note = repeat('long ', 1000) WHERE id > 149900; ANALYZE app.item");
}

static int64_t stored(struct rig *g, const char *query)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_db *db = NULL;

	fix_ok(agent_state_open(&db, &g->fix.a, &err), err);
	int64_t n = (int64_t)fix_number(db, query);
	sb_db_close(db);
	return n;
}

static int64_t asked(struct rig *g, const char *query)
{
	char *s = ask(g, query);
	int64_t n = strtoll(s, NULL, 10);

	free(s);
	return n;
}

#define DONE "SELECT count(*) FROM snapshot_range WHERE type = 'item' AND done"
#define LEFT "SELECT count(*) FROM snapshot_range WHERE type = 'item' AND NOT done"

/* Ends the lanes when a good part is read and a good part is not; takes what was sent so far. Returns the rows that count as read. */
static int64_t break_in_the_middle(struct rig *g)
{
	rig_start(g);
	ck_assert(wait_until(stored(g, DONE) >= 20, 60000));
	rig_stop(g);
	ck_assert_int_gt(stored(g, LEFT), 20);
	ck_assert_int_eq(stored(g, "SELECT count(*) FROM snapshot WHERE type = 'item' AND state = 'running'"), 1);
	while (pull(g))
		;
	ck_assert_uint_eq(g->m.ended, 0);
	return stored(g, "SELECT sum(rows) FROM snapshot_range WHERE type = 'item' AND done");
}

START_TEST(goes_on_after_a_break)
{
	struct rig g;

	make(&g, "goeson");
	int64_t read = break_in_the_middle(&g);
	uint64_t before = g.m.changes['s'], begun = g.m.begun;
	ck_assert_int_gt(read, 1000);
	/* places in what was read become free, and rows that were not read move there without their large values being sent */
	sql(&g, "DELETE FROM app.item WHERE id <= 400");
	sql(&g, "VACUUM app.item");
	sql(&g, "UPDATE app.item SET name = 'moved' WHERE id > 149900; UPDATE app.item SET id = -id WHERE id = 149999");
	ck_assert_int_gt(asked(&g, "SELECT count(*) FROM app.item WHERE name = 'moved' AND ctid < '(100,0)'"), 50);
	rig_start(&g);
	ck_assert(pull_until(&g, snapshots_done, 60000));
	ck_assert(pull_until(&g, items_equal, 20000));
	ck_assert_uint_eq(g.m.begun, begun + 2); /* the same one again, and the other table's */
	int64_t sent = (int64_t)(g.m.changes['s'] - before);
	printf("snapshot: %d rows, %lld counted as read before the break, %lld sent after it\n", ROWS, (long long)read, (long long)sent);
	ck_assert_int_ge(sent, ROWS - read - 500);
	ck_assert_int_le(sent, ROWS - read + 500);
	ck_assert_int_eq(stored(&g, "SELECT count(*) FROM snapshot_run") + stored(&g, "SELECT count(*) FROM snapshot_range"), 0);
	rig_free(&g);
}
END_TEST

/* Rows that have other places than before cannot be told by them; neither by another shape. */
START_TEST(begins_anew_when_rewritten)
{
	static const char *const rewriting[] = { "VACUUM FULL app.item", "ALTER TABLE app.item ADD COLUMN extra int DEFAULT 5",
		"BEGIN; CREATE TABLE app.aside AS SELECT * FROM app.item; TRUNCATE app.item; INSERT INTO app.item SELECT * FROM app.aside; COMMIT" };
	struct rig g;
	char name[16];

	(void)snprintf(name, sizeof(name), "anew%d", _i);
	make(&g, name);
	(void)break_in_the_middle(&g);
	uint64_t before = g.m.changes['s'];
	sql(&g, rewriting[_i]);
	rig_start(&g);
	ck_assert(pull_until(&g, snapshots_done, 60000));
	if (_i != 1) /* the model's rows would have the column as well */
		ck_assert(pull_until(&g, items_equal, 20000));
	ck_assert_uint_ge(g.m.changes['s'] - before, ROWS);
	rig_free(&g);
}
END_TEST

/* An order that comes in the middle is answered by a snapshot that began after it. */
START_TEST(ordered_in_the_middle)
{
	struct rig g;
	struct sb_error err = SB_ERROR_INIT;
	struct sb_db *db = NULL;

	make(&g, "order");
	rig_start(&g);
	ck_assert(wait_until(stored(&g, DONE) >= 20, 60000));
	fix_ok(agent_state_open(&db, &g.fix.a, &err), err);
	fix_ok(sb_db_run(db, NULL, &err, "UPDATE snapshot SET state = 'wanted', reason = 'gap' WHERE type = 'item'", ""), err);
	sb_db_close(db);
	ck_assert(pull_until(&g, snapshots_done, 60000));
	ck_assert_uint_eq(g.m.begun, 3);
	ck_assert_uint_gt(g.m.changes['s'], ROWS);
	ck_assert(pull_until(&g, items_equal, 20000));
	rig_free(&g);
}
END_TEST

/* While a snapshot is read the main slot goes on being confirmed, and no other slot holds anything back. */
START_TEST(holds_nothing_back)
{
	struct rig g;
	char text[160];

	make(&g, "wal");
	/* in small steps, for longer than positions wait to be stored */
	g.source.snapshot_readers = 1;
	g.source.snapshot_range = 16 * 1024;
	rig_start(&g);
	ck_assert(wait_until(stored(&g, DONE) >= 1, 60000));
	int64_t confirmed = 0, first = 0, moved = 0, other = 0, looks = 0;
	while (stored(&g, LEFT) > 5) {
		sql(&g, "UPDATE app.lot SET v = v + 1; INSERT INTO app.lot SELECT 'w', count(*), 1 FROM app.lot");
		(void)snprintf(text, sizeof(text), "SELECT confirmed_flush_lsn - '0/0' FROM pg_replication_slots WHERE slot_name = '%s'", g.db);
		confirmed = asked(&g, text);
		other += asked(&g, "SELECT count(*) FROM pg_replication_slots WHERE temporary");
		looks++;
		first = first ? first : confirmed;
		moved = confirmed > first ? moved + 1 : moved;
	}
	ck_assert_int_gt(looks, 5);
	ck_assert_int_eq(other, 0);
	ck_assert_int_gt(moved, 0);
	ck_assert(pull_until(&g, snapshots_done, 60000));
	ck_assert(pull_until(&g, items_equal, 20000));
	rig_free(&g);
}
END_TEST

/* A role that may read columns, but not the table, cannot ask for places: the table is one range. */
START_TEST(rights_on_columns_only)
{
	struct rig g;
	char text[400];

	rig_make(&g, "rights");
	sql(&g, "INSERT INTO app.item SELECT i, 'n', 'HUSH', 'x' FROM generate_series(1, 20000) i; CREATE ROLE narrow LOGIN REPLICATION; GRANT USAGE ON SCHEMA app TO narrow;"
		"GRANT SELECT (id, name, note) ON app.item TO narrow; GRANT SELECT ON app.lot TO narrow; GRANT narrow TO CURRENT_USER;"
		"CREATE PUBLICATION src_rights FOR TABLE app.item (id, name, note), app.lot WITH (publish_via_partition_root = true);"
		"ALTER PUBLICATION src_rights OWNER TO narrow");
	(void)snprintf(text, sizeof(text), "%s user=narrow", g.conninfo);
	memcpy(g.conninfo, text, sizeof(g.conninfo));
	rig_start(&g);
	ck_assert(pull_until(&g, snapshots_done, 20000));
	ck_assert(pull_until(&g, items_equal, 5000));
	rig_free(&g);
}
END_TEST

static int want(struct rig *g, const char *predicate, const char *asked, struct sb_error *err)
{
	struct sb_db *db = NULL;

	*err = (struct sb_error)SB_ERROR_INIT;
	fix_ok(agent_state_open(&db, &g->fix.a, err), *err);
	g->fix.a.set.postgres = (struct sb_list){ .item = &g->source, .count = 1 };
	int r = agent_resync_want(&g->fix.a, db, &(struct agent_resync){ .type = "item", .reason = "asked", .predicate = predicate, .asked = asked }, err);
	g->fix.a.set.postgres.count = 0;
	sb_db_close(db);
	sb_lanes_wake(g->fix.a.lanes, "source/*");
	return r;
}

static int cancel(struct rig *g)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_db *db = NULL;

	fix_ok(agent_state_open(&db, &g->fix.a, &err), err);
	g->fix.a.set.postgres = (struct sb_list){ .item = &g->source, .count = 1 };
	int r = agent_resync_cancel(&g->fix.a, db, "item", &err);
	g->fix.a.set.postgres.count = 0;
	sb_db_close(db);
	sb_lanes_wake(g->fix.a.lanes, "source/*");
	return r;
}

static bool third_ended(struct rig *g)
{
	return g->m.ended >= 3;
}

static bool fourth_ended(struct rig *g)
{
	return g->m.ended >= 4;
}

/* The rows that match are sent again, nothing else, and nothing is removed; a condition that fails at a row is given up and says why. */
START_TEST(some_rows)
{
	struct rig g;
	struct sb_error err;

	rig_make(&g, "some");
	sql(&g, "INSERT INTO app.item SELECT i, 'n' || i, NULL, 'x' FROM generate_series(1, 3000) i");
	rig_start(&g);
	ck_assert(pull_until(&g, snapshots_done, 20000));
	uint64_t before = g.m.changes['s'];
	ck_assert_int_eq(want(&g, "id % 1000 = 7 AND note IN ('x', ')')", "ana", &err), 0);
	ck_assert(pull_until(&g, third_ended, 20000));
	ck_assert_uint_eq(g.m.changes['s'] - before, 3);
	ck_assert(items_equal(&g));
	ck_assert_int_eq(want(&g, "1 / (id - 2500) = 0", "ana", &err), 0);
	ck_assert(pull_until(&g, fourth_ended, 20000));
	ck_assert(wait_until(stored(&g, "SELECT count(*) FROM snapshot WHERE type = 'item' AND state = 'done' AND reason LIKE 'failed: %'") == 1, 5000));
	ck_assert(items_equal(&g));
	rig_free(&g);
}
END_TEST

/* What a person asked for ends when it is taken back, and says so; what is needed cannot be taken back. */
START_TEST(taken_back)
{
	struct rig g;
	struct sb_error err;

	make(&g, "back");
	rig_start(&g);
	ck_assert(wait_until(stored(&g, DONE) >= 5, 60000));
	ck_assert_int_eq(cancel(&g), SB_ESTATE);
	ck_assert_int_eq(want(&g, "id = 1", "ana", &err), SB_ECONFLICT);
	ck_assert(pull_until(&g, snapshots_done, 60000));
	ck_assert(wait_until(stored(&g, "SELECT count(*) FROM snapshot WHERE state = 'done'") == 2, 10000));
	uint64_t before = g.m.changes['s'];
	ck_assert_int_eq(want(&g, "", "ana", &err), 0);
	ck_assert(wait_until(stored(&g, DONE) >= 5, 60000));
	ck_assert_int_eq(cancel(&g), 0);
	ck_assert(pull_until(&g, third_ended, 60000));
	ck_assert_uint_lt(g.m.changes['s'] - before, ROWS);
	ck_assert(items_equal(&g)); /* nothing was removed */
	ck_assert(wait_until(stored(&g, "SELECT count(*) FROM snapshot WHERE type = 'item' AND state = 'done'") == 1, 5000));
	ck_assert_int_eq(cancel(&g), SB_ESTATE);
	rig_free(&g);
}
END_TEST

/* A condition is one condition on the table's own columns, or is refused with what is wrong. */
START_TEST(conditions)
{
	static const struct { const char *text, *says; } bad[] = {
		{ "id = 1) OR (true", "a bracket is closed" }, { "true) UNION SELECT secret FROM app.item --", "a bracket is closed" },
		{ "(id = 1", "not closed" }, { "id = 1; DROP TABLE app.item", "one condition" }, { "id = 1 -- )", "comments" }, { "id /* */ = 1", "comments" },
		{ "name = 'x", "quote is not closed" }, { "name = E'\\') OR (true'", "prefix of a quote" }, { "name = $$x$$", "$-quotes" }, { "id = $1", "parameters" },
		{ "colour = 'red'", "colour" }, { "id", "boolean" }, { "id = ", "syntax" }, { "id IN (SELECT b FROM app.lot)", "no subquery" }, { "(SELECT count(*) FROM app.lot) > 0", "no subquery" },
		{ "EXISTS (SELECT FROM app.lot)", "no subquery" }, { "id = 1 AND count(*) > 0", "aggregate" } };
	static const char *const good[] = { "id = 1", "name = 'it''s; --' AND (id > 3 OR note IS NULL)", "\"id\" IN (1, 2) AND name LIKE '%)%'", "length(name) > 3" };
	struct rig g;
	struct sb_error err;

	rig_make(&g, "cond");
	for (size_t i = 0; i < SB_COUNT(good); i++) {
		err = (struct sb_error)SB_ERROR_INIT;
		int r = agent_predicate_check(&g.source, &g.table[0], good[i], &err);
		ck_assert_msg(r == 0, "%s: %s", good[i], err.msg);
	}
	for (size_t i = 0; i < SB_COUNT(bad); i++) {
		err = (struct sb_error)SB_ERROR_INIT;
		ck_assert_msg(agent_predicate_check(&g.source, &g.table[0], bad[i].text, &err) == SB_EINVAL, "%s", bad[i].text);
		ck_assert_msg(strstr(err.msg, bad[i].says) != NULL, "%s: %s", bad[i].text, err.msg);
	}
	rig_free(&g);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("agent_snapshot");
	TCase *t = tcase_create("snapshot");

	tcase_set_timeout(t, 180);
	tcase_add_test(t, goes_on_after_a_break);
	tcase_add_loop_test(t, begins_anew_when_rewritten, 0, 3);
	tcase_add_test(t, ordered_in_the_middle);
	tcase_add_test(t, holds_nothing_back);
	tcase_add_test(t, rights_on_columns_only);
	tcase_add_test(t, some_rows);
	tcase_add_test(t, taken_back);
	tcase_add_test(t, conditions);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	pg_fixture_start();
	return test_run(suite());
}
