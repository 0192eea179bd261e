/* Versions of rows in a real PostgreSQL: every change makes one, whichever way it is applied; what repeats the known content makes none; times, columns and the key
 * may change meanwhile. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "entity_rig.h"
#include "pg_fixture.h"
#include "stagebridge/entity_table.h"
#include "support.h"

#define T0 1767225600000 /* 2026-01-01 */
#define HOUR 3600000

static void history(bool on)
{
	struct sb_error err = SB_ERROR_INIT;

	must(sb_pg_begin(pg, &err));
	must(sb_entity_history(tables, "e", on, &err));
	must(sb_pg_commit(pg, &err));
}

static void snapshot(bool begins, int64_t ms, uint64_t lsn)
{
	struct sb_error err = SB_ERROR_INIT;

	sb_entity_when(tables, &(struct sb_entity_when){ .ms = ms, .incarnation = 1, .snapshot = true });
	must(sb_pg_begin(pg, &err));
	if (begins)
		must(sb_entity_snapshot_begun(tables, "e", &err));
	else
		must(sb_entity_snapshot_ended(tables, "e", 1, lsn, NULL, &err));
	must(sb_pg_commit(pg, &err));
}

/* ---- batches: rows (id, name), each with its operation ---- */

struct row { char op; uint64_t lsn; const char *id, *name; };

/* key: the column that is the key; type: of the name */
static void put_as(int64_t ms, const struct row *row, size_t n, const char *id_type, const char *name_type, struct sb_position done)
{
	struct sb_column columns[] = { { (char[]){ "id" }, sb_strdup(id_type), true }, { (char[]){ "name" }, sb_strdup(name_type), false } };
	struct sb_shape shape = { .type = "e", .incarnation = 1, .column = columns, .n_columns = 2 };
	struct sb_apply_stats stats;
	struct sb_error err = SB_ERROR_INIT;
	struct sb_batch *b = NULL;
	size_t len = 0;

	must(sb_batch_new(&b, &err));
	must(sb_batch_begin(b, &shape, &err));
	for (size_t i = 0; i < n; i++) {
		struct sb_cell cell[] = { { SB_CELL_VALUE, row[i].id, strlen(row[i].id) },
			{ row[i].name ? SB_CELL_VALUE : SB_CELL_NULL, row[i].name, row[i].name ? strlen(row[i].name) : 0 } };
		must(sb_batch_add(b, &(struct sb_change){ .op = row[i].op, .lsn = row[i].lsn, .n_cells = 2, .cell = cell }, &err));
	}
	const void *value = sb_batch_value(b, &len);
	sb_entity_when(tables, &(struct sb_entity_when){ .ms = ms, .incarnation = 1, .until = { n ? row[n - 1].lsn + 1 : 0, 0 }, .snapshot = n && row[0].op == 's' });
	must(sb_pg_begin(pg, &err));
	must(sb_entity_apply(tables, value, len, done, NULL, NULL, &stats, &err));
	must(sb_pg_commit(pg, &err));
	ck_assert_uint_eq(stats.refused, 0);
	sb_batch_free(b);
	free(columns[0].type);
	free(columns[1].type);
}

#define put(ms, ...) put_as(ms, (const struct row[]){ __VA_ARGS__ }, sizeof((const struct row[]){ __VA_ARGS__ }) / sizeof(struct row), "integer", "text", (struct sb_position){ 0, 0 })

#define VERSIONS "SELECT string_agg(_op || ' ' || id || coalesce('=' || name::text, ''), '; ' ORDER BY _valid_from, id, _valid_to NULLS LAST) FROM ~.e_history WHERE id < 90"
#define AT(time) "SELECT string_agg(id || '=' || name, ' ' ORDER BY id) FROM ~.e_at('" time "') WHERE id < 90"

/* Few changes go one by one, many in a staged run: rows of other keys pad the batch. */
static void put_padded(int64_t ms, const struct row *row, size_t n, bool pad)
{
	struct row all[40];
	static char id[20][8];
	size_t total = n;

	memcpy(all, row, n * sizeof(*row));
	for (int i = 0; pad && i < 20; i++) {
		(void)snprintf(id[i], sizeof(id[i]), "%d", 100 + i);
		all[total++] = (struct row){ 'u', row[n - 1].lsn, id[i], "pad" };
	}
	put_as(ms, all, total, "integer", "text", (struct sb_position){ 0, 0 });
}

START_TEST(test_every_change)
{
	bool pad = _i;

	history(true);
	put_padded(T0, (const struct row[]){ { 'i', 0x10, "1", "one" }, { 'i', 0x10, "2", "two" } }, 2, pad);
	/* a run of many rows is one statement, for its versions too */
	if (pad)
		ck_assert_str_eq(ask("SELECT count(DISTINCT cmin::text) || ' ' || count(*) FROM store.\"~__e__history\""), "1 22");
	/* two versions of one row in one batch */
	put_padded(T0 + HOUR, (const struct row[]){ { 'u', 0x20, "1", "uno" }, { 'u', 0x21, "1", "eins" }, { 'u', 0x22, "2", "two" } }, 3, pad);
	put_padded(T0 + 2 * HOUR, (const struct row[]){ { 'd', 0x30, "2", NULL } }, 1, pad);
	put_padded(T0 + 3 * HOUR, (const struct row[]){ { 'i', 0x40, "2", "deux" } }, 1, pad);
	ck_assert_str_eq(ask(VERSIONS), "i 1=one; i 2=two; u 1=uno; u 1=eins; d 2; i 2=deux");
	ck_assert_str_eq(ask(AT("2025-12-31 23:59Z")), "-");
	ck_assert_str_eq(ask(AT("2026-01-01 00:00Z")), "1=one 2=two");
	ck_assert_str_eq(ask(AT("2026-01-01 01:30Z")), "1=eins 2=two");
	ck_assert_str_eq(ask(AT("2026-01-01 02:30Z")), "1=eins");
	ck_assert_str_eq(ask(AT("2026-01-01 03:00Z")), "1=eins 2=deux");
	ck_assert_str_eq(ask("SELECT _position FROM ~.e_history WHERE name = 'uno'"), "1/20.0");
	ck_assert_str_eq(ask("SELECT count(*) FROM ~.e_history WHERE _op = 'd' AND _position = '1/31.0' AND _valid_to = _valid_from"), "1");
	/* the present is what the view shows */
	ck_assert_str_eq(ask("SELECT count(*) FROM (SELECT * FROM ~.e_at(now()) EXCEPT SELECT * FROM ~.e UNION ALL SELECT * FROM ~.e EXCEPT SELECT * FROM ~.e_at(now())) x"), "0");
}
END_TEST

START_TEST(test_repeats_and_snapshots)
{
	history(true);
	put(T0, { 'i', 0x10, "1", "one" }, { 'i', 0x10, "2", "two" }, { 'i', 0x10, "3", "three" });
	char *before = sb_strdup(ask(VERSIONS));
	/* a repeat after a crash: covered by position, or older by version */
	put_as(T0 + HOUR, (const struct row[]){ { 'i', 0x10, "1", "one" } }, 1, "integer", "text", (struct sb_position){ 0x11, 0 });
	put(T0 + HOUR, { 'i', 0x10, "1", "one" }, { 'i', 0x10, "2", "two" }, { 'i', 0x10, "3", "three" });
	ck_assert_str_eq(ask(VERSIONS), before);
	/* a snapshot brings what is known, something new, and misses a row; a delete meanwhile leaves a tombstone */
	snapshot(true, T0 + 2 * HOUR, 0);
	put(T0 + 3 * HOUR, { 'd', 0x60, "2", NULL });
	put(T0 + 4 * HOUR, { 's', 0x50, "1", "one" }, { 's', 0x50, "2", "two" }, { 's', 0x50, "4", "four" });
	snapshot(false, T0 + 5 * HOUR, 0x50);
	ck_assert_str_eq(ask(VERSIONS), "i 1=one; i 2=two; i 3=three; d 3; i 4=four; d 2");
	ck_assert_str_eq(ask("SELECT string_agg(id || ' ' || to_char(_valid_from AT TIME ZONE 'UTC', 'HH24'), ', ' ORDER BY id) FROM ~.e_history WHERE id > 1 AND _valid_from > '2026-01-01 00:00Z'"),
		"2 03, 3 02, 4 02"); /* what a snapshot found holds since it began */
	free(before);
}
END_TEST

START_TEST(test_switched_on_later)
{
	put(T0, { 'i', 0x10, "1", "one" });
	ck_assert_str_eq(ask("SELECT to_regclass('~.e_history')::text || count(*) FROM pg_trigger WHERE tgrelid = 'store.\"~__e\"'::regclass"), "-");
	ck_assert_str_eq(ask("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'store.\"~__e\"'::regclass"), "0");
	history(true);
	history(true);
	ck_assert_str_eq(ask(VERSIONS), "i 1=one");
	ck_assert_str_eq(ask("SELECT count(*) FROM ~.e_history WHERE _valid_from > now() - interval '1 min'"), "1");
	history(false);
	ck_assert_str_eq(ask("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'store.\"~__e\"'::regclass"), "0");
	put(T0 + HOUR, { 'u', 0x20, "1", "unseen" });
	ck_assert_str_eq(ask("SELECT count(*) FROM ~.e_at(now())"), "0");
	history(true);
	ck_assert_str_eq(ask("SELECT string_agg(name, ' ') FROM ~.e_at(clock_timestamp())"), "unseen");
	ck_assert_str_eq(ask("SELECT count(*) FROM ~.e_history"), "2");
}
END_TEST

/* Another type of a column, other columns, another key: versions stay readable or are left out, and recording goes on. */
START_TEST(test_other_columns)
{
	history(true);
	put(T0, { 'i', 0x10, "1", "12" }, { 'i', 0x10, "2", "not a number" });
	put(T0 + HOUR, { 'u', 0x20, "2", "7" });
	put_as(T0 + 2 * HOUR, (const struct row[]){ { 'u', 0x30, "1", "13" } }, 1, "integer", "bigint", (struct sb_position){ 0, 0 });
	ck_assert_str_eq(ask(VERSIONS), "i 1=12; i 2=not a number; u 2=7; u 1=13");
	ck_assert_str_eq(ask("SELECT pg_typeof(name)::text FROM ~.e_history LIMIT 1"), "text");
	ck_assert_str_eq(ask("SELECT pg_typeof(name)::text FROM ~.e LIMIT 1"), "bigint");
	put_as(T0 + 3 * HOUR, (const struct row[]){ { 'u', 0x40, "1", "14" } }, 1, "text", "bigint", (struct sb_position){ 0, 0 });
	ck_assert_str_eq(ask("SELECT string_agg(id || '=' || name, ' ' ORDER BY id, name) FROM ~.e_history"), "1=13 1=14 2=7");
	ck_assert_str_eq(ask("SELECT string_agg(id || '=' || name, ' ' ORDER BY id) FROM ~.e_at(clock_timestamp())"), "1=14 2=7");
}
END_TEST

START_TEST(test_prune)
{
	struct sb_error err = SB_ERROR_INIT;
	uint64_t gone = 0;

	history(true);
	put(T0, { 'i', 0x10, "1", "one" }, { 'i', 0x10, "2", "two" }, { 'i', 0x10, "3", "three" });
	put(T0 + HOUR, { 'u', 0x20, "1", "uno" }, { 'd', 0x21, "2", NULL });
	must(sb_pg_begin(pg, &err));
	must(sb_entity_history_prune(tables, "e", INT64_C(3650) * 24 * HOUR, &gone, &err));
	ck_assert_uint_eq(gone, 0);
	must(sb_entity_history_prune(tables, "e", HOUR, &gone, &err));
	must(sb_pg_commit(pg, &err));
	ck_assert_uint_eq(gone, 3); /* 1=one, 2=two and the mark of its end: what holds now stays, however old */
	ck_assert_str_eq(ask(VERSIONS), "i 3=three; u 1=uno");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("entity_history");
	TCase *tc = tcase_create("entity_history");

	conninfo = pg_fixture_start();
	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_loop_test(tc, test_every_change, 0, 2);
	tcase_add_test(tc, test_repeats_and_snapshots);
	tcase_add_test(tc, test_switched_on_later);
	tcase_add_test(tc, test_other_columns);
	tcase_add_test(tc, test_prune);
	suite_add_tcase(s, tc);
	return test_run(s);
}
