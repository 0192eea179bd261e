/* The PostgreSQL adapter against a real server: session, statements and their cache, transactions, error classes, COPY, notifications, lost connections. */
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "pg_fixture.h"
#include "stagebridge/change.h"
#include "stagebridge/pg.h"
#include "support.h"

static const char *conninfo;
static struct sb_pg *pg;
static struct sb_error err;

#define ok(call)                                                                          \
	do {                                                                              \
		int _rc = (call);                                                         \
		ck_assert_msg(_rc == SB_OK, #call ": %d %s %s", _rc, err.state, err.msg); \
	} while (0)

static void setup(void)
{
	err = (struct sb_error)SB_ERROR_INIT;
	ok(sb_pg_open(&pg, conninfo, "stagebridge-test", &err));
}

static void teardown(void)
{
	sb_pg_close(pg);
}

static void check_value(const char *sql, const char *expected)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;

	ok(sb_pg_exec(pg, sql, 0, NULL, &res, &err));
	ck_assert_int_eq(sb_pg_rows(res), 1);
	if (expected)
		ck_assert_str_eq(sb_pg_get(res, 0, 0), expected);
	else
		ck_assert_ptr_null(sb_pg_get(res, 0, 0));
}

START_TEST(test_session)
{
	ck_assert(sb_pg_ok(pg));
	ck_assert_int_ge(sb_pg_version(pg), 140000);
	check_value("SELECT current_setting('application_name')", "stagebridge-test");
	check_value("SELECT current_setting('client_encoding')", "UTF8");
	check_value("SELECT current_setting('search_path')", "pg_catalog");
	check_value("SELECT timestamptz '2026-03-02 10:15:01.25+01'", "2026-03-02 09:15:01.25+00");
	check_value("SELECT interval '1 month -2 days 3 hours'", "P1M-2DT3H");
	check_value("SELECT (0.1::float8 + 0.2::float8)::text", "0.30000000000000004");
	check_value("SELECT '\\x00ff'::bytea", "\\x00ff");
	check_value("SELECT current_setting('statement_timeout')", "5min");
	/* what the connection string says wins */
	char theirs[512];
	struct sb_pg *other;
	(void)snprintf(theirs, sizeof(theirs), "%s options='-c statement_timeout=7s -c search_path=public' connect_timeout=3", conninfo);
	ok(sb_pg_open(&other, theirs, "other", &err));
	struct sb_pg *mine = pg;
	pg = other;
	check_value("SELECT current_setting('statement_timeout') || current_setting('search_path') || current_setting('timezone')", "7spublicUTC");
	pg = mine;
	sb_pg_close(other);
	sb_pg_close(NULL);
}
END_TEST

START_TEST(test_open_refused)
{
	struct sb_pg *other;

	ck_assert_int_eq(sb_pg_open(&other, "host=/nonexistent dbname=x", "t", &err), SB_EDB);
	ck_assert(err.retriable);
	ck_assert_int_eq(sb_pg_open(&other, "this is = not a conninfo", "t", &err), SB_ECONFIG);
	ck_assert_int_eq(sb_pg_open(&other, "host=127.0.0.1 port=1 dbname=x", "t", &err), SB_EDB);
	sb_pg_rollback(NULL); /* what callers do after any error */
}
END_TEST

START_TEST(test_results)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { "7", NULL, "caf\xc3\xa9 'x' \\" };
	uint8_t *bytes;
	size_t n;

	ok(sb_pg_exec(pg, "SELECT $1::bigint AS a, $2::text AS b, $3::text AS c UNION ALL SELECT -1, 'x', NULL", 3, param, &res, &err));
	ck_assert_int_eq(sb_pg_rows(res), 2);
	ck_assert_int_eq(sb_pg_columns(res), 3);
	ck_assert_str_eq(sb_pg_column_name(res, 2), "c");
	ck_assert_int_eq(sb_pg_get_i64(res, 0, 0), 7);
	ck_assert_int_eq(sb_pg_get_i64(res, 1, 0), -1);
	ck_assert_int_eq(sb_pg_get_i64(res, 0, 1), 0);
	ck_assert_ptr_null(sb_pg_get(res, 0, 1));
	ck_assert_str_eq(sb_pg_get(res, 0, 2), param[2]);
	ck_assert_int_eq(sb_pg_get_bytes(res, 0, 2, &bytes, &n, &err), SB_EDB);
	sb_pg_free(SB_TAKE(res));

	static const char binary[] = "a\0b\xff";
	const char *p[] = { binary, "text" };
	const int len[] = { 4, -1 };
	ok(sb_pg_exec_bin(pg, "SELECT $1::bytea, $2::text, length($1::bytea)", 2, p, len, &res, &err));
	ok(sb_pg_get_bytes(res, 0, 0, &bytes, &n, &err));
	ck_assert_uint_eq(n, 4);
	ck_assert_mem_eq(bytes, binary, 4);
	free(bytes);
	ck_assert_str_eq(sb_pg_get(res, 0, 1), "text");
	sb_pg_free(SB_TAKE(res));

	ok(sb_pg_script(pg, "CREATE TEMP TABLE r (a int); INSERT INTO r SELECT generate_series(1, 5)", &err));
	ok(sb_pg_exec(pg, "UPDATE r SET a = a + 1 WHERE a > 2", 0, NULL, &res, &err));
	ck_assert_int_eq(sb_pg_affected(res), 3);
}
END_TEST

static const struct { const char *sql, *state; int code; const char *has, *has_not; } failures[] = {
	{ "SELECT 'Jean Martin'::integer", "22P02", SB_EDATA, "invalid input syntax for type integer", "Martin" },
	{ "SELECT 'say \"Martin\" twice'::date", "22007", SB_EDATA, "invalid input syntax for type date", "Martin" },
	{ "SELECT 1/0", "22012", SB_EDATA, "division by zero", "\"" },
	{ "INSERT INTO pg_temp.f VALUES (1)", "23505", SB_EDATA, "f_pkey", "(1)" },
	{ "INSERT INTO pg_temp.f VALUES (NULL)", "23502", SB_EDATA, "null value", "\n" },
	{ "SELECT * FROM nowhere", "42P01", SB_ENOTFOUND, "nowhere", "\n" },
	{ "SELECT 'x'::nowhere", "42704", SB_ENOTFOUND, "nowhere", "\n" },
	{ "SELECT nothing", "42703", SB_EDB, "nothing", "\n" },
	{ "SELEC", "42601", SB_EDB, "syntax", "\n" },
	{ "LOCK TABLE pg_temp.f IN ACCESS EXCLUSIVE MODE NOWAIT", "25P01", SB_EDB, "LOCK TABLE", "\n" },
	{ "DO $$BEGIN RAISE SQLSTATE '40P01'; END$$", "40P01", SB_ECONFLICT, "", "\n" },
	{ "DO $$BEGIN RAISE SQLSTATE '40001'; END$$", "40001", SB_ECONFLICT, "", "\n" },
	{ "DO $$BEGIN RAISE SQLSTATE '55P03'; END$$", "55P03", SB_ECONFLICT, "", "\n" },
	{ "DO $$BEGIN RAISE SQLSTATE '42501'; END$$", "42501", SB_EAUTH, "", "\n" },
	{ "DO $$BEGIN RAISE SQLSTATE '54000'; END$$", "54000", SB_EDATA, "", "\n" },
	{ "DO $$BEGIN RAISE SQLSTATE '57014'; END$$", "57014", SB_EDB, "", "\n" },
};

START_TEST(test_failures)
{
	ok(sb_pg_script(pg, "CREATE TEMP TABLE f (a int PRIMARY KEY); INSERT INTO f VALUES (1)", &err));
	for (int i = 0; i < 4; i++) { /* also when the statement is prepared by then */
		ck_assert_int_eq(sb_pg_exec(pg, failures[_i].sql, 0, NULL, NULL, &err), failures[_i].code);
		ck_assert_int_eq(err.code, failures[_i].code);
		ck_assert_str_eq(err.state, failures[_i].state);
		ck_assert_int_eq(err.retriable, failures[_i].code == SB_ECONFLICT || failures[_i].code == SB_EDB);
		ck_assert_msg(strstr(err.msg, failures[_i].has) != NULL, "%s", err.msg);
		ck_assert_msg(strstr(err.msg, failures[_i].has_not) == NULL, "%s", err.msg);
	}
	ck_assert(sb_pg_ok(pg));
}
END_TEST

START_TEST(test_statement_cache)
{
	char sql[128];

	for (int round = 0; round < 4; round++)
		for (int i = 0; i < 100; i++) {
			(void)snprintf(sql, sizeof(sql), "SELECT $1::integer + %d", i);
			const char *param[] = { "1000" };
			sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
			ok(sb_pg_exec(pg, sql, 1, param, &res, &err));
			ck_assert_int_eq(sb_pg_get_i64(res, 0, 0), 1000 + i);
		}
	for (int i = 0; i < 5; i++)
		check_value("SELECT 42", "42");
	ok(sb_pg_exec(pg, "SELECT 42", 0, NULL, NULL, &err));
	check_value("SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT 42'", "1");
	check_value("SELECT count(*) <= 64 FROM pg_prepared_statements", "t");
	/* a statement's parameters follow the table after DDL */
	const char *big[] = { "99999999999" };
	ok(sb_pg_script(pg, "CREATE TEMP TABLE c (a int)", &err));
	for (int i = 0; i < 5; i++)
		ck_assert_int_eq(sb_pg_exec(pg, "INSERT INTO pg_temp.c VALUES ($1)", 1, big, NULL, &err), SB_EDATA);
	ok(sb_pg_script(pg, "ALTER TABLE pg_temp.c ALTER a TYPE bigint", &err));
	ok(sb_pg_exec(pg, "INSERT INTO pg_temp.c VALUES ($1)", 1, big, NULL, &err));
	/* a result that changes its columns below a prepared statement fails once, not for ever */
	for (int i = 0; i < 5; i++)
		check_value("SELECT * FROM pg_temp.c", "99999999999");
	ok(sb_pg_exec(pg, "ALTER TABLE pg_temp.c ALTER a TYPE text", 0, NULL, NULL, &err));
	ck_assert_int_eq(sb_pg_exec(pg, "SELECT * FROM pg_temp.c", 0, NULL, NULL, &err), SB_EDB);
	check_value("SELECT * FROM pg_temp.c", "99999999999");
}
END_TEST

START_TEST(test_transactions)
{
	ok(sb_pg_script(pg, "CREATE TEMP TABLE x (a int)", &err));
	ck_assert(!sb_pg_tx(pg).open);
	ok(sb_pg_begin(pg, &err));
	ck_assert(sb_pg_tx(pg).open);
	ok(sb_pg_exec(pg, "INSERT INTO pg_temp.x VALUES (1)", 0, NULL, NULL, &err));
	ok(sb_pg_commit(pg, &err));
	ck_assert(!sb_pg_tx(pg).open);
	ck_assert_uint_eq(sb_pg_tx(pg).begun, 1);
	ck_assert_uint_eq(sb_pg_tx(pg).rolled_back, 0);
	/* a failed transaction cannot be committed by mistake */
	ok(sb_pg_begin(pg, &err));
	ok(sb_pg_exec(pg, "INSERT INTO pg_temp.x VALUES (2)", 0, NULL, NULL, &err));
	ck_assert_int_eq(sb_pg_exec(pg, "SELECT 1/0", 0, NULL, NULL, &err), SB_EDATA);
	ck_assert_int_eq(sb_pg_commit(pg, &err), SB_EDB);
	ck_assert_uint_eq(sb_pg_tx(pg).rolled_back, 1);
	ck_assert(!sb_pg_tx(pg).open);
	ok(sb_pg_begin(pg, &err));
	ok(sb_pg_exec(pg, "INSERT INTO pg_temp.x VALUES (3)", 0, NULL, NULL, &err));
	sb_pg_rollback(pg);
	sb_pg_rollback(pg);
	ck_assert_uint_eq(sb_pg_tx(pg).rolled_back, 2);
	check_value("SELECT string_agg(a::text, ',') FROM pg_temp.x", "1");
}
END_TEST

START_TEST(test_names)
{
	sb_cleanup(sb_buf_release) struct sb_buf b = { 0 };

	sb_buf_init(&b, 1000);
	sb_buf_adds(&b, "SELECT ");
	sb_pg_literal(&b, "it's a \\ back\\'slash");
	sb_buf_adds(&b, " AS ");
	sb_pg_ident(&b, "we\"ird \xc3\xa9");
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	ok(sb_pg_exec(pg, b.data, 0, NULL, &res, &err));
	ck_assert_str_eq(sb_pg_get(res, 0, 0), "it's a \\ back\\'slash");
	ck_assert_str_eq(sb_pg_column_name(res, 0), "we\"ird \xc3\xa9");
}
END_TEST

static const char *const fields[] = { "plain", "", "\\N", "tab\there", "line\nfeed", "back\\slash", "\r\b\f\v", "\xc3\xa9\xf0\x9f\x98\x80", "\\.", "ends\\" };

START_TEST(test_copy)
{
	sb_cleanup(sb_buf_release) struct sb_buf b = { 0 };
	struct sb_cell cell[2];
	int64_t rows = 0;
	const char *line;
	size_t n;
	int rc;

	ok(sb_pg_script(pg, "CREATE TEMP TABLE c (i int, t text)", &err));
	sb_buf_init(&b, 1 << 20);
	for (size_t i = 0; i <= SB_COUNT(fields); i++) {
		sb_buf_addf(&b, "%zu\t", i);
		sb_copy_field(&b, i < SB_COUNT(fields) ? fields[i] : NULL, i < SB_COUNT(fields) ? strlen(fields[i]) : 0);
		sb_buf_addc(&b, '\n');
	}
	ok(sb_pg_copy_in(pg, "COPY pg_temp.c FROM STDIN", &err));
	ok(sb_pg_copy_put(pg, b.data, 7, &err));
	ok(sb_pg_copy_put(pg, b.data + 7, b.len - 7, &err));
	ok(sb_pg_copy_end(pg, &rows, &err));
	ck_assert_int_eq(rows, SB_COUNT(fields) + 1);
	check_value("SELECT t FROM pg_temp.c WHERE i = 6", "\r\b\f\v");

	ok(sb_pg_copy_out(pg, "COPY (SELECT t, i FROM pg_temp.c ORDER BY i) TO STDOUT", &err));
	for (size_t i = 0; i <= SB_COUNT(fields); i++) {
		char copy[128];
		rc = sb_pg_copy_line(pg, &line, &n, &err);
		ck_assert_int_eq(rc, 1);
		ck_assert_uint_lt(n, sizeof(copy));
		memcpy(copy, line, n);
		ok(sb_copy_split(copy, n, copy, cell, 2, &err));
		ck_assert_int_eq(cell[0].kind, i < SB_COUNT(fields) ? SB_CELL_VALUE : SB_CELL_NULL);
		if (i < SB_COUNT(fields)) {
			ck_assert_uint_eq(cell[0].n, strlen(fields[i]));
			ck_assert_mem_eq(cell[0].p, fields[i], cell[0].n);
		}
	}
	ck_assert_int_eq(sb_pg_copy_line(pg, &line, &n, &err), 0);
	check_value("SELECT current_setting('statement_timeout')", "5min");
}
END_TEST

START_TEST(test_copy_refused)
{
	const char *line;
	size_t n;

	ok(sb_pg_script(pg, "CREATE TEMP TABLE c (i int)", &err));
	ck_assert_int_eq(sb_pg_copy_in(pg, "COPY nowhere FROM STDIN", &err), SB_ENOTFOUND);
	ok(sb_pg_copy_in(pg, "COPY pg_temp.c FROM STDIN", &err));
	ok(sb_pg_copy_put(pg, "1\nx\n", 4, &err));
	ck_assert_int_eq(sb_pg_copy_end(pg, NULL, &err), SB_EDATA);
	ck_assert_str_eq(err.state, "22P02");
	ok(sb_pg_copy_in(pg, "COPY pg_temp.c FROM STDIN", &err));
	ok(sb_pg_copy_put(pg, "1\n", 2, &err));
	ok(sb_pg_copy_abort(pg, &err));
	/* left in the middle, in both directions: a rollback makes the connection usable again */
	ok(sb_pg_begin(pg, &err));
	ok(sb_pg_copy_in(pg, "COPY pg_temp.c FROM STDIN", &err));
	sb_pg_rollback(pg);
	ok(sb_pg_begin(pg, &err));
	ok(sb_pg_copy_out(pg, "COPY (SELECT generate_series(1, 10000000)) TO STDOUT", &err));
	ck_assert_int_eq(sb_pg_copy_line(pg, &line, &n, &err), 1);
	sb_pg_rollback(pg);
	check_value("SELECT count(*) FROM pg_temp.c", "0");
	/* a failure in the middle of a COPY out */
	ok(sb_pg_copy_out(pg, "COPY (SELECT 1 / (5 - i) FROM generate_series(1, 10) i) TO STDOUT", &err));
	int rc;
	while ((rc = sb_pg_copy_line(pg, &line, &n, &err)) == 1)
		;
	ck_assert_int_eq(rc, SB_EDATA);
	check_value("SELECT 1", "1");
}
END_TEST

static const struct { const char *line; unsigned cells; int code; } lines[] = {
	{ "a\tb", 2, SB_OK }, { "\t", 2, SB_OK }, { "", 1, SB_OK }, { "\\N", 1, SB_OK }, { "\\N\t\\N", 2, SB_OK }, { "\\\\N", 1, SB_OK },
	{ "a", 2, SB_EPROTO }, { "a\tb\tc", 2, SB_EPROTO }, { "a\\", 1, SB_EPROTO }, { "a\\q", 1, SB_EPROTO }, { "\\Nx", 1, SB_EPROTO }, { "", 2, SB_EPROTO },
};

START_TEST(test_copy_split)
{
	struct sb_cell cell[3];
	char line[32];

	(void)snprintf(line, sizeof(line), "%s", lines[_i].line);
	ck_assert_int_eq(sb_copy_split(line, strlen(line), line, cell, lines[_i].cells, &err), lines[_i].code);
}
END_TEST

static bool readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 0) == 1;
}

START_TEST(test_notifications)
{
	struct sb_pg *other;

	ok(sb_pg_open(&other, conninfo, "other", &err));
	ok(sb_pg_exec(pg, "LISTEN sb_wake", 0, NULL, NULL, &err));
	ck_assert_int_eq(sb_pg_notified(pg, &err), 0);
	ok(sb_pg_script(other, "NOTIFY sb_wake, 'a'; NOTIFY sb_wake, 'b'", &err));
	ck_assert(wait_until(readable(sb_pg_fd(pg)), 5000));
	int n = 0;
	ck_assert(wait_until((n += sb_pg_notified(pg, &err)) == 2, 5000));
	ck_assert_int_eq(sb_pg_notified(pg, &err), 0);
	sb_pg_close(other);
}
END_TEST

START_TEST(test_lost_connection)
{
	struct sb_pg *other;
	char sql[80];

	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	ok(sb_pg_open(&other, conninfo, "other", &err));
	ok(sb_pg_exec(other, "SELECT pg_backend_pid()", 0, NULL, &res, &err));
	(void)snprintf(sql, sizeof(sql), "SELECT pg_terminate_backend(%s, 5000)", sb_pg_get(res, 0, 0));
	ok(sb_pg_begin(other, &err));
	check_value(sql, "t");
	ck_assert_int_eq(sb_pg_exec(other, "SELECT 1", 0, NULL, NULL, &err), SB_EDB);
	ck_assert(err.retriable);
	ck_assert(!sb_pg_ok(other));
	sb_pg_rollback(other);
	ck_assert_int_eq(sb_pg_begin(other, &err), SB_EDB);
	ck_assert_int_eq(sb_pg_notified(other, &err), SB_EDB);
	ck_assert_int_eq(sb_pg_copy_in(other, "COPY x FROM STDIN", &err), SB_EDB);
	sb_pg_close(other);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("pg");
	TCase *tc = tcase_create("pg");

	conninfo = pg_fixture_start();
	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_session);
	tcase_add_test(tc, test_open_refused);
	tcase_add_test(tc, test_results);
	tcase_add_loop_test(tc, test_failures, 0, (int)SB_COUNT(failures));
	tcase_add_test(tc, test_statement_cache);
	tcase_add_test(tc, test_transactions);
	tcase_add_test(tc, test_names);
	tcase_add_test(tc, test_copy);
	tcase_add_test(tc, test_copy_refused);
	tcase_add_loop_test(tc, test_copy_split, 0, (int)SB_COUNT(lines));
	tcase_add_test(tc, test_notifications);
	tcase_add_test(tc, test_lost_connection);
	suite_add_tcase(s, tc);
	return test_run(s);
}
