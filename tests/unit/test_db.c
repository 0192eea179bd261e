/* The state database: statements, their cache, transactions, several handles on one file, and what is refused. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stagebridge/db.h"
#include "support.h"

static struct sb_db *db;
static struct sb_error err;
static char path[TEST_PATH_MAX];

#define ok(call)                                                              \
	do {                                                                  \
		int _rc = (call);                                             \
		ck_assert_msg(_rc == SB_OK, #call ": %d %s", _rc, err.msg);   \
	} while (0)

static void setup(void)
{
	err = (struct sb_error)SB_ERROR_INIT;
	test_path(path, "state.db");
	ok(sb_db_open(&db, path, &err));
	ok(sb_db_script(db, "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT UNIQUE, n INTEGER, b BLOB)", &err));
}

static void teardown(void)
{
	sb_db_close(db);
}

static int64_t count(struct sb_db *d)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	ok(sb_db_query(d, &st, &err, "SELECT count(*) FROM t", ""));
	ck_assert_int_eq(sb_db_step(st, &err), 1);
	return sb_db_int(st, 0);
}

START_TEST(test_values)
{
	static const uint8_t bytes[] = { 0, 1, 255, 0 };
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	int64_t changes = 0;
	size_t n = 99;

	ok(sb_db_run(db, &changes, &err, "INSERT INTO t (name, n, b) VALUES (?, ?, ?)", "sib", "caf\xc3\xa9", INT64_MIN, bytes, sizeof(bytes)));
	ck_assert_int_eq(changes, 1);
	ck_assert_int_eq(sb_db_last_id(db), 1);
	ok(sb_db_run(db, NULL, &err, "INSERT INTO t (name, n, b) VALUES (?, ?, ?)", "sib", NULL, INT64_MAX, (const void *)NULL, (size_t)0));
	ok(sb_db_query(db, &st, &err, "SELECT name, n, b FROM t ORDER BY id", ""));
	ck_assert_int_eq(sb_db_step(st, &err), 1);
	ck_assert_str_eq(sb_db_text(st, 0), "caf\xc3\xa9");
	ck_assert_int_eq(sb_db_int(st, 1), INT64_MIN);
	ck_assert_mem_eq(sb_db_blob(st, 2, &n), bytes, sizeof(bytes));
	ck_assert_uint_eq(n, sizeof(bytes));
	ck_assert_int_eq(sb_db_step(st, &err), 1);
	ck_assert_ptr_null(sb_db_text(st, 0));
	ck_assert_int_eq(sb_db_int(st, 1), INT64_MAX);
	(void)sb_db_blob(st, 2, &n);
	ck_assert_uint_eq(n, 0);
	ck_assert_int_eq(sb_db_step(st, &err), 0);
}
END_TEST

START_TEST(test_statement_in_use_twice)
{
	static const char sql[] = "SELECT id FROM t WHERE id >= ? ORDER BY id";
	struct sb_stmt *outer, *inner;

	ok(sb_db_script(db, "INSERT INTO t (id) VALUES (1), (2), (3)", &err));
	for (int round = 0; round < 3; round++) {
		int64_t sum = 0;
		ok(sb_db_query(db, &outer, &err, sql, "i", INT64_C(1)));
		while (sb_db_step(outer, &err) == 1) {
			ok(sb_db_query(db, &inner, &err, sql, "i", sb_db_int(outer, 0)));
			while (sb_db_step(inner, &err) == 1)
				sum += sb_db_int(inner, 0);
			sb_db_done(inner);
		}
		sb_db_done(outer);
		ck_assert_int_eq(sum, 6 + 5 + 3);
	}
}
END_TEST

START_TEST(test_text_that_is_no_literal)
{
	/* one address, several statements; more of them than the cache holds */
	char sql[64];

	ok(sb_db_script(db, "INSERT INTO t (id, n) VALUES (1, 5)", &err));
	for (int64_t i = 0; i < 1000; i++) {
		sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
		(void)snprintf(sql, sizeof(sql), "SELECT n + %" PRId64 " FROM t", i);
		ok(sb_db_query(db, &st, &err, sql, ""));
		ck_assert_int_eq(sb_db_step(st, &err), 1);
		ck_assert_int_eq(sb_db_int(st, 0), 5 + i);
	}
}
END_TEST

START_TEST(test_transactions)
{
	struct sb_db *other;

	ok(sb_db_begin(db, &err));
	ok(sb_db_run(db, NULL, &err, "INSERT INTO t (name) VALUES (?)", "s", "a"));
	ck_assert_int_eq(sb_db_begin(db, &err), SB_EDB);
	sb_db_rollback(db);
	sb_db_rollback(db);
	ck_assert_int_eq(count(db), 0);
	ok(sb_db_begin(db, &err));
	ok(sb_db_run(db, NULL, &err, "INSERT INTO t (name) VALUES (?)", "s", "b"));
	ok(sb_db_open(&other, path, &err));
	ck_assert_int_eq(count(other), 0);
	ok(sb_db_commit(db, &err));
	ck_assert_int_eq(count(other), 1);
	sb_db_close(other);
}
END_TEST

START_TEST(test_refusals)
{
	struct sb_stmt *st;

	ok(sb_db_run(db, NULL, &err, "INSERT INTO t (name) VALUES (?)", "s", "a"));
	ck_assert_int_eq(sb_db_run(db, NULL, &err, "INSERT INTO t (name) VALUES (?)", "s", "a"), SB_ECONFLICT);
	ck_assert_int_eq(sb_db_query(db, &st, &err, "SELECT nothing FROM nowhere", ""), SB_EDB);
	ck_assert_int_eq(sb_db_query(db, &st, &err, "SELECT ?", ""), SB_EINVAL);
	ck_assert_int_eq(sb_db_query(db, &st, &err, "SELECT 1", "i", INT64_C(1)), SB_EINVAL);
	ck_assert_int_eq(sb_db_query(db, &st, &err, "", ""), SB_EINVAL);
	ck_assert_int_eq(count(db), 1);
}
END_TEST

START_TEST(test_file)
{
	struct stat sb;
	struct sb_db *other;
	char bad[TEST_PATH_MAX];

	ck_assert_int_eq(stat(path, &sb), 0);
	ck_assert_uint_eq(sb.st_mode & 0777, 0600);
	test_path(bad, "no/such/folder.db");
	ck_assert_int_eq(sb_db_open(&other, bad, &err), SB_ENOTFOUND);
	test_path(bad, "not-a-database");
	test_write(bad, "this is a text file, and it is long enough to have a header of its own that SQLite does not like at all........", 0600);
	ck_assert_int_eq(sb_db_open(&other, bad, &err), SB_EDB);
	sb_db_close(NULL);
	/* what was committed is there after a close */
	ok(sb_db_run(db, NULL, &err, "INSERT INTO t (name) VALUES (?)", "s", "kept"));
	sb_db_close(db);
	ok(sb_db_open(&db, path, &err));
	ck_assert_int_eq(count(db), 1);
}
END_TEST

/* Another process opens, writes and closes the file while two handles are open here: it must not take itself for the last and delete the log. */
START_TEST(test_other_process)
{
	char log[TEST_PATH_MAX + 8];
	struct sb_db *second = NULL;
	struct stat before, after;
	int go[2], status;

	(void)snprintf(log, sizeof(log), "%s-wal", path);
	sb_db_close(db);
	ck_assert_int_eq(pipe(go), 0);
	pid_t child = fork();
	ck_assert_int_ge(child, 0);
	if (child == 0) {
		char c;
		struct sb_error why = SB_ERROR_INIT;
		int rc = read(go[0], &c, 1) == 1 ? sb_db_open(&db, path, &why) : -1;
		if (rc == 0)
			rc = sb_db_run(db, NULL, &why, "INSERT INTO t (n) VALUES (2)", "");
		sb_db_close(db);
		_exit(rc == 0 ? 0 : 1);
	}
	ok(sb_db_open(&db, path, &err));
	ok(sb_db_run(db, NULL, &err, "INSERT INTO t (n) VALUES (1)", ""));
	ok(sb_db_open(&second, path, &err));
	ck_assert_int_eq(count(second), 1);
	ck_assert_int_eq(stat(log, &before), 0);
	ck_assert_int_eq(write(go[1], "x", 1), 1);
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
	ck_assert_int_eq(stat(log, &after), 0);
	ck_assert_uint_eq(before.st_ino, after.st_ino);
	ok(sb_db_run(second, NULL, &err, "INSERT INTO t (n) VALUES (3)", ""));
	ck_assert_int_eq(count(db), 3);
	sb_db_close(second);
	sb_db_close(db);
	ok(sb_db_open(&db, path, &err));
	ck_assert_int_eq(count(db), 3);
	close(go[0]);
	close(go[1]);
}
END_TEST

START_TEST(test_out_of_memory)
{
	for (long n = 0;; n++) {
		struct sb_db *d = NULL;
		char memory[] = ":memory:";
		fault_alloc_after(n);
		int rc = sb_db_open(&d, memory, &err);
		fault_alloc_after(-1);
		bool hit = fault_hit();
		ck_assert(rc == SB_OK || (hit && rc == SB_ENOMEM));
		if (rc == SB_OK)
			sb_db_close(d);
		if (!hit)
			break;
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("db");
	TCase *tc = tcase_create("db");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_values);
	tcase_add_test(tc, test_statement_in_use_twice);
	tcase_add_test(tc, test_text_that_is_no_literal);
	tcase_add_test(tc, test_transactions);
	tcase_add_test(tc, test_refusals);
	tcase_add_test(tc, test_file);
	tcase_add_test(tc, test_other_process);
	tcase_add_test(tc, test_out_of_memory);
	suite_add_tcase(s, tc);
	return test_run(s);
}
