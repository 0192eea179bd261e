/* The agent's state: the outbox numbers and chains in order and only in committed transactions, jobs are done once and survive a kill, sessions rise. */
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "agent_fixture.h"
#include "stagebridge/carrier.h"

static struct fix f;
static struct sb_db *db;

static void set_up(void)
{
	struct sb_error err = SB_ERROR_INIT;

	fix_init(&f);
	fix_ok(agent_state_open(&db, &f.a, &err), err);
}

static void tear_down(void)
{
	sb_db_close(db);
	fix_release(&f);
}

/* A kill: whatever was not committed is gone. */
static void reopen(void)
{
	struct sb_error err = SB_ERROR_INIT;

	sb_db_close(db);
	db = NULL;
	fix_ok(agent_state_open(&db, &f.a, &err), err);
}

static void put(int n)
{
	struct sb_error err = SB_ERROR_INIT;
	json_t *v = json_pack("{s:i}", "n", n);

	fix_ok(agent_outbox_put(&f.a, db, SB_EV_AGENT_STARTED, FIX_STAGE, v, &err), err);
	json_decref(v);
}

/* Reads row n (0-based) of the outbox as the courier would, verifies it as the hub would. */
static void verify_row(int n, struct sb_record *rec, struct sb_meta *meta, char *value, size_t size)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_stmt *st = NULL;
	size_t len = 0;

	fix_ok(sb_db_query(db, &st, &err, "SELECT topic, attrs, value FROM outbox ORDER BY id LIMIT 1 OFFSET ?", "i", (int64_t)n), err);
	ck_assert_int_eq(sb_db_step(st, &err), 1);
	sb_record_init(rec, sb_db_text(st, 0));
	const void *attrs = sb_db_blob(st, 1, &len);
	fix_ok(agent_attrs_unpack(rec, attrs, len, &err), err);
	const void *bytes = sb_db_blob(st, 2, &len);
	ck_assert_uint_lt(len, size);
	memcpy(value, bytes, len);
	value[len] = '\0';
	rec->value = value;
	rec->value_len = len;
	sb_db_done(st);
	fix_ok(sb_record_verify(rec, f.keys.keyring, DEVKEYS_TENANT, "hub", sb_wall_ms(), meta, &err), err);
}

START_TEST(test_outbox_chain)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_record rec;
	struct sb_meta meta;
	struct sb_stream_in in = { .session = 0 };
	char value[200], want[32];

	for (int i = 0; i < 3; i++) {
		fix_ok(sb_db_begin(db, &err), err);
		put(i);
		fix_ok(sb_db_commit(db, &err), err);
	}
	reopen();
	/* a rolled back event leaves neither a row nor a hole in the numbers */
	fix_ok(sb_db_begin(db, &err), err);
	put(98);
	sb_db_rollback(db);
	fix_ok(sb_db_begin(db, &err), err);
	put(99);
	reopen();
	fix_ok(sb_db_begin(db, &err), err);
	put(3);
	fix_ok(sb_db_commit(db, &err), err);

	ck_assert_int_eq(fix_number(db, "SELECT count(*) FROM outbox"), 4);
	for (int i = 0; i < 4; i++) {
		verify_row(i, &rec, &meta, value, sizeof(value));
		(void)snprintf(want, sizeof(want), "{\"n\":%d}", i);
		ck_assert_str_eq(value, want);
		ck_assert_str_eq(meta.stream, "event");
		ck_assert_int_eq(sb_stream_judge(i ? &in : NULL, &meta), i ? SB_APPLY : SB_NEW_SESSION);
		sb_stream_advance(&in, &meta);
	}
	ck_assert_int_eq((int64_t)meta.session, fix_number(db, "SELECT value FROM meta WHERE key = 'created'"));
}
END_TEST

START_TEST(test_outbox_numbers_survive_emptying)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_record rec;
	struct sb_meta meta;
	char value[200];

	put(0);
	put(1);
	int64_t last = fix_number(db, "SELECT max(id) FROM outbox");
	fix_ok(sb_db_run(db, NULL, &err, "DELETE FROM outbox", ""), err);
	reopen();
	put(2);
	verify_row(0, &rec, &meta, value, sizeof(value));
	ck_assert_uint_eq(meta.sequence, 3);
	ck_assert(meta.has_prev);
	ck_assert_int_gt(fix_number(db, "SELECT id FROM outbox"), last);
}
END_TEST

START_TEST(test_outbox_takes_events_alone)
{
	struct sb_error err = SB_ERROR_INIT;
	json_t *v = json_object();

	ck_assert_int_eq(agent_outbox_put(&f.a, db, SB_EV_TRANSFER_OFFERED, "x", v, &err), SB_EINVAL);
	ck_assert_int_eq(agent_outbox_put(&f.a, db, SB_EV_GIT_UPDATED, "x", v, &err), SB_EINVAL);
	ck_assert_int_eq(fix_number(db, "SELECT count(*) FROM outbox"), 0);
	json_decref(v);
}
END_TEST

START_TEST(test_job_once)
{
	struct sb_error err = SB_ERROR_INIT;
	json_t *payload = json_pack("{s:s}", "k", "v");
	json_t *got = NULL;
	int64_t id = 0, again = 0;
	char ref[40];
	bool is_new = false;

	fix_ok(agent_job_add(db, "deploy", "p/1", payload, &is_new, &err), err);
	ck_assert(is_new);
	fix_ok(agent_job_add(db, "deploy", "p/1", payload, &is_new, &err), err);
	ck_assert(!is_new);
	fix_ok(agent_job_add(db, "git", "p/1", payload, &is_new, &err), err);
	ck_assert(is_new); /* another kind is another job */

	ck_assert_int_eq(agent_job_take(db, "deploy", &id, ref, sizeof(ref), &got, &err), 1);
	ck_assert_str_eq(ref, "p/1");
	ck_assert_str_eq(json_string_value(json_object_get(got, "k")), "v");
	json_decref(got);
	reopen(); /* killed at work: it is there again */
	ck_assert_int_eq(agent_job_take(db, "deploy", &again, ref, sizeof(ref), &got, &err), 1);
	ck_assert_int_eq(again, id);
	json_decref(got);
	fix_ok(agent_job_end(db, id, true, "fine", &err), err);
	ck_assert_int_eq(agent_job_take(db, "deploy", &id, ref, sizeof(ref), &got, &err), 0);
	fix_ok(agent_job_add(db, "deploy", "p/1", payload, &is_new, &err), err);
	ck_assert(!is_new); /* done is done */
	json_decref(payload);
}
END_TEST

START_TEST(test_jobs_in_order)
{
	struct sb_error err = SB_ERROR_INIT;
	json_t *payload = json_object();
	json_t *got = NULL;
	int64_t id = 0;
	char ref[40];

	for (int i = 0; i < 3; i++) {
		(void)snprintf(ref, sizeof(ref), "p/%d", 9 - i);
		fix_ok(agent_job_add(db, "git", ref, payload, NULL, &err), err);
	}
	for (int i = 0; i < 3; i++) {
		char want[40];
		(void)snprintf(want, sizeof(want), "p/%d", 9 - i);
		ck_assert_int_eq(agent_job_take(db, "git", &id, ref, sizeof(ref), &got, &err), 1);
		ck_assert_str_eq(ref, want);
		json_decref(got);
		fix_ok(agent_job_end(db, id, i != 1, NULL, &err), err);
	}
	ck_assert_int_eq(fix_number(db, "SELECT count(*) FROM job WHERE state = 'failed'"), 1);
	json_decref(payload);
}
END_TEST

START_TEST(test_sessions_rise)
{
	struct sb_error err = SB_ERROR_INIT;
	uint64_t a = 0, b = 0, other = 0;

	fix_ok(agent_state_session(db, "x", 100, &a, &err), err);
	ck_assert_uint_eq(a, 100);
	fix_ok(agent_state_session(db, "x", 100, &b, &err), err);
	ck_assert_uint_eq(b, 101);
	reopen();
	fix_ok(agent_state_session(db, "x", 50, &a, &err), err);
	ck_assert_uint_eq(a, 102);
	fix_ok(agent_state_session(db, "x", 500, &a, &err), err);
	ck_assert_uint_eq(a, 500);
	fix_ok(agent_state_session(db, "y", 100, &other, &err), err);
	ck_assert_uint_eq(other, 100);
}
END_TEST

START_TEST(test_older_keyring_is_refused)
{
	struct sb_error err = SB_ERROR_INIT;

	fix_ok(agent_state_keyring(db, 3, &err), err);
	fix_ok(agent_state_keyring(db, 3, &err), err);
	fix_ok(agent_state_keyring(db, 5, &err), err);
	reopen();
	ck_assert_int_eq(agent_state_keyring(db, 4, &err), SB_ECONFIG);
	ck_assert_msg(strstr(err.msg, "version 4, but version 5") != NULL, "%s", err.msg);
	err = (struct sb_error)SB_ERROR_INIT;
	fix_ok(agent_state_keyring(db, 5, &err), err);
}
END_TEST

START_TEST(test_newer_state_is_refused)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_db *other = NULL;

	fix_ok(sb_db_script(db, "PRAGMA user_version = 99", &err), err);
	ck_assert_int_eq(agent_state_open(&other, &f.a, &err), SB_ECONFIG);
	ck_assert_msg(strstr(err.msg, "99"), "%s", err.msg);
}
END_TEST

START_TEST(test_spool_names)
{
	struct sb_error err = SB_ERROR_INIT;
	char path[TEST_PATH_MAX], id[SB_ID_LEN + 1];

	sb_id_new(id);
	fix_ok(agent_state_spool(path, sizeof(path), &f.a, id, true, &err), err);
	ck_assert_int_eq(strcmp(path + strlen(path) - 3, ".in"), 0);
	ck_assert_int_eq(agent_state_spool(path, sizeof(path), &f.a, "../../etc/passwd", true, &err), SB_EINVAL);
	ck_assert_int_eq(agent_state_spool(path, 10, &f.a, id, false, &err), SB_ETOOBIG);
}
END_TEST

static void *open_it(void *ret)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_db *mine = NULL;

	*(int *)ret = agent_state_open(&mine, &f.a, &err);
	sb_db_close(mine);
	return NULL;
}

/* all lanes open the file at the same moment when the agent starts for the first time */
START_TEST(test_first_open_by_many)
{
	pthread_t thread[8];
	int result[8];
	char path[TEST_PATH_MAX * 2];

	sb_db_close(db);
	db = NULL;
	for (int i = 0; i < 3; i++) {
		(void)snprintf(path, sizeof(path), "%s/state.db%s", f.dir, (const char *[]){ "", "-wal", "-shm" }[i]);
		(void)unlink(path);
	}
	for (size_t i = 0; i < SB_COUNT(thread); i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, open_it, &result[i]), 0);
	for (size_t i = 0; i < SB_COUNT(thread); i++) {
		pthread_join(thread[i], NULL);
		ck_assert_int_eq(result[i], 0);
	}
	reopen();
	ck_assert_int_eq(fix_number(db, "SELECT count(*) FROM meta WHERE key = 'created'"), 1);
}
END_TEST

static void *put_many(void *ret)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_db *mine = NULL;
	json_t *v = json_object();
	int r = agent_state_open(&mine, &f.a, &err);

	for (int i = 0; r == 0 && i < 20; i++) {
		r = sb_db_begin(mine, &err);
		if (r == 0)
			r = agent_outbox_put(&f.a, mine, SB_EV_AGENT_STARTED, FIX_STAGE, v, &err);
		if (r == 0)
			r = sb_db_commit(mine, &err);
	}
	json_decref(v);
	sb_db_close(mine);
	*(int *)ret = r;
	return NULL;
}

START_TEST(test_outbox_of_many_lanes_is_one_chain)
{
	pthread_t thread[4];
	int result[4];
	struct sb_record rec;
	struct sb_meta meta;
	struct sb_stream_in in = { .session = 0 };
	char value[200];

	for (size_t i = 0; i < SB_COUNT(thread); i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, put_many, &result[i]), 0);
	for (size_t i = 0; i < SB_COUNT(thread); i++) {
		pthread_join(thread[i], NULL);
		ck_assert_int_eq(result[i], 0);
	}
	for (int i = 0; i < 80; i++) {
		verify_row(i, &rec, &meta, value, sizeof(value));
		ck_assert_int_eq(sb_stream_judge(i ? &in : NULL, &meta), i ? SB_APPLY : SB_NEW_SESSION);
		sb_stream_advance(&in, &meta);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("agent state");
	TCase *tc = tcase_create("state");

	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_add_test(tc, test_outbox_chain);
	tcase_add_test(tc, test_outbox_numbers_survive_emptying);
	tcase_add_test(tc, test_outbox_takes_events_alone);
	tcase_add_test(tc, test_job_once);
	tcase_add_test(tc, test_jobs_in_order);
	tcase_add_test(tc, test_sessions_rise);
	tcase_add_test(tc, test_older_keyring_is_refused);
	tcase_add_test(tc, test_newer_state_is_refused);
	tcase_add_test(tc, test_spool_names);
	tcase_add_test(tc, test_first_open_by_many);
	tcase_add_test(tc, test_outbox_of_many_lanes_is_one_chain);
	suite_add_tcase(s, tc);
	return test_run(s);
}
