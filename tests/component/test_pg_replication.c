/* Logical replication against a real walsender: slots, exported snapshots, the stream, what a status report confirms, and how it ends. */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "pg_fixture.h"
#include "stagebridge/pg.h"
#include "support.h"

static const char *conninfo;
static struct sb_pg *pg;
static struct sb_pgrepl *repl;
static struct sb_error err;
static char name[32];

#define ok(call)                                                                          \
	do {                                                                              \
		int _rc = (call);                                                         \
		ck_assert_msg(_rc == SB_OK, #call ": %d %s %s", _rc, err.state, err.msg); \
	} while (0)

static void setup(void)
{
	char sql[256];

	err = (struct sb_error)SB_ERROR_INIT;
	ok(sb_pg_open(&pg, conninfo, "test", &err));
	ok(sb_pgrepl_open(&repl, conninfo, "test-repl", &err));
	(void)snprintf(name, sizeof(name), "s%d", (int)getpid()); /* tests share the server */
	(void)snprintf(sql, sizeof(sql), "CREATE TABLE public.%s (id int PRIMARY KEY, v text); CREATE PUBLICATION \"p\"\"%s\" FOR TABLE public.%s", name, name, name);
	ok(sb_pg_script(pg, sql, &err));
}

static void teardown(void)
{
	sb_pgrepl_close(repl);
	sb_pg_close(pg);
}

/* ~ in a statement stands for the name of this test's table, slot and so on. */
static void named(char out[512], const char *sql)
{
	size_t n = 0;

	for (; *sql && n < 511 - sizeof(name); sql++) {
		if (*sql == '~')
			n += (size_t)snprintf(out + n, 512 - n, "%s", name);
		else
			out[n++] = *sql;
	}
	out[n] = '\0';
}

static void run(const char *text)
{
	char sql[512];

	named(sql, text);
	ok(sb_pg_exec(pg, sql, 0, NULL, NULL, &err));
}

static int64_t number(const char *text)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	char sql[512];

	named(sql, text);
	ok(sb_pg_exec(pg, sql, 0, NULL, &res, &err));
	return sb_pg_rows(res) ? sb_pg_get_i64(res, 0, 0) : -1;
}

static void publication(char out[64])
{
	(void)snprintf(out, 64, "p\"%s", name);
}

/* The next message of that kind, waiting on the descriptor. */
static void next(int kind, struct sb_pgrepl_msg *m)
{
	int64_t deadline = sb_mono_ms() + 10000;

	do {
		ok(sb_pgrepl_next(repl, m, &err));
		if (m->kind == SB_REPL_NONE) {
			struct pollfd p = { .fd = sb_pgrepl_fd(repl), .events = POLLIN };
			ck_assert_int_ge(poll(&p, 1, 1000), 0);
		}
		ck_assert_int_lt(sb_mono_ms(), deadline);
	} while ((int)m->kind != kind);
}

/* First letters of the messages up to and including the commit; its end position in ret_end. */
static const char *transaction(uint64_t *ret_end)
{
	static char letters[64];
	size_t n = 0;
	struct sb_pgrepl_msg m;

	do {
		next(SB_REPL_DATA, &m);
		ck_assert_uint_lt(n + 1, sizeof(letters));
		letters[n++] = m.data[0];
	} while (m.data[0] != 'C');
	letters[n] = '\0';
	ck_assert_uint_eq(m.len, 26); /* C, flags, commit, end, time */
	*ret_end = 0;
	for (int i = 10; i < 18; i++)
		*ret_end = *ret_end << 8 | (uint8_t)m.data[i];
	return letters;
}

START_TEST(test_identify)
{
	struct sb_pgrepl_system sys;

	ok(sb_pgrepl_identify(repl, &sys, &err));
	ck_assert_uint_ge(strlen(sys.system_id), 10);
	ck_assert_str_eq(sys.timeline, "1");
	ck_assert_str_eq(sys.dbname, "postgres");
	ck_assert_uint_gt(sys.xlogpos, 0);
}
END_TEST

START_TEST(test_stream)
{
	uint64_t point = 0, end = 0, end2 = 0;
	char pub[64];
	struct sb_pgrepl_msg m;

	publication(pub);
	ok(sb_pgrepl_create_slot(repl, name, 0, &point, NULL, &err));
	ck_assert_uint_gt(point, 0);
	ck_assert_int_eq(sb_pgrepl_create_slot(repl, name, 0, &point, NULL, &err), SB_ECONFLICT);
	ok(sb_pgrepl_start(repl, name, point, pub, true, &err));
	ok(sb_pgrepl_next(repl, &m, &err)); /* returns at once, with or without a keepalive */
	run("INSERT INTO public.~ VALUES (1, 'a'), (2, 'b')");
	ck_assert_str_eq(transaction(&end), "BRIIC");
	ck_assert_uint_gt(end, point);
	run("UPDATE public.~ SET v = 'c' WHERE id = 2");
	ck_assert_str_eq(transaction(&end2), "BUC");
	/* messages of the application, outside and inside of transactions */
	run("SELECT pg_logical_emit_message(true, 'stagebridge', '~')");
	uint64_t end3;
	ck_assert_str_eq(transaction(&end3), "BMC");

	/* a report confirms exactly what it says */
	ok(sb_pgrepl_status(repl, end3, end, &err));
	char sql[256];
	(void)snprintf(sql, sizeof(sql), "SELECT 1 FROM pg_replication_slots WHERE slot_name = '~' AND confirmed_flush_lsn - '0/0'::pg_lsn = %llu", (unsigned long long)end);
	ck_assert(wait_until(number(sql) == 1, 10000));
	sb_pgrepl_close(repl);

	/* from there on everything comes again, and not before */
	ok(sb_pgrepl_open(&repl, conninfo, "test-repl", &err));
	int rc;
	ck_assert(wait_until((rc = sb_pgrepl_start(repl, name, 0, pub, true, &err)) != SB_EAGAIN, 10000));
	ck_assert_msg(rc == SB_OK, "%s", err.msg);
	ck_assert_str_eq(transaction(&end), "BRUC");
	ck_assert_uint_eq(end, end2);
}
END_TEST

START_TEST(test_slot_in_use)
{
	uint64_t point;
	char pub[64];
	struct sb_pgrepl *second;

	publication(pub);
	ok(sb_pgrepl_create_slot(repl, name, 0, &point, NULL, &err));
	ok(sb_pgrepl_start(repl, name, point, pub, false, &err));
	ok(sb_pgrepl_open(&second, conninfo, "second", &err));
	ck_assert_int_eq(sb_pgrepl_start(second, name, point, pub, false, &err), SB_EAGAIN);
	ck_assert_str_eq(err.state, "55006");
	ck_assert(err.retriable);
	ck_assert_int_eq(sb_pgrepl_drop_slot(second, name, &err), SB_EAGAIN);
	ck_assert_int_eq(sb_pgrepl_start(second, "no_such_slot", point, pub, false, &err), SB_ENOTFOUND);
	sb_pgrepl_close(repl);
	repl = NULL;
	int rc;
	ck_assert(wait_until((rc = sb_pgrepl_drop_slot(second, name, &err)) != SB_EAGAIN, 10000));
	ck_assert_int_eq(rc, SB_OK);
	ck_assert_int_eq(sb_pgrepl_drop_slot(second, name, &err), SB_ENOTFOUND);
	sb_pgrepl_close(second);
}
END_TEST

START_TEST(test_exported_snapshot)
{
	uint64_t point;
	char snapshot[64], sql[256];

	run("INSERT INTO public.~ VALUES (1, 'a')");
	ok(sb_pgrepl_create_slot(repl, name, SB_PGREPL_TEMPORARY | SB_PGREPL_EXPORT, &point, snapshot, &err));
	ck_assert_uint_gt(strlen(snapshot), 0);
	run("INSERT INTO public.~ VALUES (2, 'b')");
	(void)snprintf(sql, sizeof(sql), "BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '%s'", snapshot);
	ok(sb_pg_script(pg, sql, &err));
	ck_assert_int_eq(number("SELECT count(*) FROM public.~"), 1);
	ok(sb_pg_script(pg, "COMMIT", &err));
	ck_assert_int_eq(number("SELECT count(*) FROM public.~"), 2);
	/* temporary: gone with its connection */
	sb_pgrepl_close(repl);
	repl = NULL;
	ck_assert(wait_until(number("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '~'") == 0, 10000));
}
END_TEST

START_TEST(test_creation_does_not_wait_for_ever)
{
	/* an open transaction holds up the creation of a slot; lock_timeout ends the wait, and no slot is left behind */
	struct sb_pgrepl *quick;
	char theirs[512];
	uint64_t point;

	(void)snprintf(theirs, sizeof(theirs), "%s options='-c lock_timeout=200ms'", conninfo);
	ok(sb_pgrepl_open(&quick, theirs, "quick", &err));
	ok(sb_pg_begin(pg, &err));
	run("INSERT INTO public.~ VALUES (1, 'a')");
	ck_assert_int_eq(sb_pgrepl_create_slot(quick, name, 0, &point, NULL, &err), SB_EAGAIN);
	ck_assert_int_eq(number("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '~'"), 0);
	ok(sb_pg_commit(pg, &err));
	ok(sb_pgrepl_create_slot(quick, name, 0, &point, NULL, &err));
	ok(sb_pgrepl_drop_slot(quick, name, &err));
	sb_pgrepl_close(quick);
}
END_TEST

START_TEST(test_keepalive_and_end)
{
	uint64_t point;
	char pub[64];
	struct sb_pgrepl_msg m;
	int rc;

	publication(pub);
	ok(sb_pgrepl_create_slot(repl, name, SB_PGREPL_TEMPORARY, &point, NULL, &err));
	ok(sb_pgrepl_start(repl, name, point, pub, false, &err));
	/* write that nobody published moves the keepalive's position */
	run("CREATE TABLE public.~_other AS SELECT generate_series(1, 1000) AS a");
	uint64_t from = 0;
	do {
		next(SB_REPL_KEEPALIVE, &m);
		from = m.wal_end;
		ok(sb_pgrepl_status(repl, m.wal_end, m.wal_end, &err));
	} while (from <= point);
	ck_assert_int_eq(number("SELECT pg_terminate_backend(pid, 5000)::int FROM pg_stat_replication WHERE application_name = 'test-repl'"
		""), 1);
	ck_assert(wait_until((rc = sb_pgrepl_next(repl, &m, &err)) != SB_OK, 10000));
	ck_assert_int_eq(rc, SB_EDB);
	ck_assert(err.retriable);
}
END_TEST

START_TEST(test_unknown_publication)
{
	uint64_t point;
	struct sb_pgrepl_msg m;
	int rc = SB_OK;

	/* the server notices with the first change only */
	ok(sb_pgrepl_create_slot(repl, name, SB_PGREPL_TEMPORARY, &point, NULL, &err));
	ok(sb_pgrepl_start(repl, name, point, "no_such_publication", false, &err));
	run("INSERT INTO public.~ VALUES (1, 'a')");
	ck_assert(wait_until((rc = sb_pgrepl_next(repl, &m, &err)) != SB_OK, 10000));
	ck_assert_int_eq(rc, SB_ENOTFOUND);
	ck_assert_ptr_nonnull(strstr(err.msg, "no_such_publication"));
}
END_TEST

START_TEST(test_much_data_while_reports_are_sent)
{
	uint64_t point;
	char pub[64];
	struct sb_pgrepl_msg m;
	unsigned rows = 0;

	publication(pub);
	ok(sb_pgrepl_create_slot(repl, name, SB_PGREPL_TEMPORARY, &point, NULL, &err));
	ok(sb_pgrepl_start(repl, name, point, pub, false, &err));
	run("INSERT INTO public.~ SELECT i, repeat('x', 500) FROM generate_series(1, 20000) i");
	do {
		next(SB_REPL_DATA, &m);
		rows += m.data[0] == 'I';
		ok(sb_pgrepl_status(repl, point, point, &err)); /* far more reports than needed: neither side may block the other */
	} while (m.data[0] != 'C');
	ck_assert_uint_eq(rows, 20000);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("pg_replication");
	TCase *tc = tcase_create("pg_replication");

	conninfo = pg_fixture_start();
	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_identify);
	tcase_add_test(tc, test_stream);
	tcase_add_test(tc, test_slot_in_use);
	tcase_add_test(tc, test_exported_snapshot);
	tcase_add_test(tc, test_creation_does_not_wait_for_ever);
	tcase_add_test(tc, test_keepalive_and_end);
	tcase_add_test(tc, test_unknown_publication);
	tcase_add_test(tc, test_much_data_while_reports_are_sent);
	suite_add_tcase(s, tc);
	return test_run(s);
}
