/* The hub's store against a real PostgreSQL: migrations, leading and fencing, the signed outbox, the audit chain, the views for people. */
#include <pthread.h>

#include "hub_rig.h"
#include "store/store.h"

static struct rig rig;

static void setup(void)
{
	static const char *const topics[] = { NULL };

	rig_open(&rig, topics, NULL);
}

static void teardown(void)
{
	rig_close(&rig);
}

START_TEST(test_migrate_again)
{
	struct sb_error why = SB_ERROR_INIT;
	int64_t versions = rig_i64(&rig, "SELECT count(*) FROM sb.migration");

	ck_assert_int_gt(versions, 2);
	rig_ok(hub_store_migrate(rig.w, err));
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM sb.migration"), versions);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.stage WHERE NOT retired"), 4);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.entity_owner"), 3);
	/* the path of promotion leaves out what is not promoted */
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.edge"), 2);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.edge WHERE from_stage = 'train' AND to_stage = 'prod'"), 1);
	/* a database from a newer program is left alone */
	rig_run(&rig, "INSERT INTO sb.migration (version, name) VALUES (9999, 'future')");
	ck_assert_int_eq(hub_store_migrate(rig.w, &why), SB_ESTATE);
}
END_TEST

/* A keyring may be followed by a newer one alone */
START_TEST(test_older_keyring)
{
	struct sb_error why = SB_ERROR_INIT;
	int64_t version = (int64_t)sb_keyring_version(rig.w->keyring);

	ck_assert_int_eq(rig_i64(&rig, "SELECT value::bigint FROM sb.meta WHERE key = 'keyring_version'"), version);
	rig_run(&rig, "UPDATE sb.meta SET value = '0' WHERE key = 'keyring_version'");
	rig_ok(hub_store_migrate(rig.w, err));
	ck_assert_int_eq(rig_i64(&rig, "SELECT value::bigint FROM sb.meta WHERE key = 'keyring_version'"), version);
	rig_run(&rig, "UPDATE sb.meta SET value = '99' WHERE key = 'keyring_version'");
	ck_assert_int_eq(hub_store_migrate(rig.w, &why), SB_ECONFIG);
	ck_assert_ptr_nonnull(strstr(why.msg, "version 99 was in use"));
	ck_assert_int_eq(rig_i64(&rig, "SELECT value::bigint FROM sb.meta WHERE key = 'keyring_version'"), 99);
}
END_TEST

static void *migrate_thread(void *arg)
{
	int *rc = arg;
	struct sb_error why = SB_ERROR_INIT;

	*rc = hub_store_migrate(rig.w, &why);
	return NULL;
}

START_TEST(test_migrate_at_once)
{
	pthread_t thread[4];
	int rc[4];

	rig_run(&rig, "DROP SCHEMA sb, lifecycle CASCADE");
	for (size_t i = 0; i < SB_COUNT(thread); i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, migrate_thread, &rc[i]), 0);
	for (size_t i = 0; i < SB_COUNT(thread); i++) {
		ck_assert_int_eq(pthread_join(thread[i], NULL), 0);
		ck_assert_int_eq(rc[i], 0);
	}
	ck_assert_int_gt(rig_i64(&rig, "SELECT count(*) FROM sb.migration"), 2);
}
END_TEST

START_TEST(test_fence)
{
	struct hub_world other = *rig.w;
	struct sb_pg *mine = NULL, *theirs = NULL;
	struct sb_error why = SB_ERROR_INIT;
	int64_t one = 0, two = 0, three = 0;

	rig_ok(sb_format(other.holder, sizeof(other.holder), err, "elsewhere"));
	rig_ok(hub_store_open(&mine, rig.w, "a", err));
	rig_ok(hub_store_open(&theirs, &other, "b", err));
	rig_ok(hub_fence_take(mine, rig.w, "lane", &one, err));
	rig_ok(hub_fence_idle(mine, "lane", one, err));
	ck_assert_int_eq(hub_fence_take(theirs, &other, "lane", &two, &why), SB_EAGAIN);
	/* a restart of the same lane in the leading process raises the generation */
	rig_ok(hub_fence_take(mine, rig.w, "lane", &two, err));
	ck_assert_int_eq(two, one + 1);
	ck_assert_int_eq(hub_fence_idle(mine, "lane", one, &why), SB_ESHUTDOWN);
	rig_ok(hub_fence_idle(mine, "lane", two, err));

	/* a leader that is gone is followed at once, without waiting for its lease to run out */
	sb_pg_close(mine);
	ck_assert(wait_until(hub_fence_take(theirs, &other, "lane", &three, &why) == 0, 5000));
	ck_assert_int_eq(three, two + 1);

	/* the lease is renewed by whoever works */
	rig_run(&rig, "UPDATE sb.lease SET renewed_at = now() - interval '10 s'");
	rig_ok(hub_fence_idle(theirs, "lane", three, err));
	ck_assert_int_eq(
		rig_i64(&rig, "SELECT count(*) FROM sb.lease WHERE renewed_at > now() - interval '5 s' AND holder = 'elsewhere'"), 1);
	sb_pg_close(theirs);
}
END_TEST

/* A transaction that began under an old generation cannot commit under it: the taker waits for it or it fails */
START_TEST(test_fence_waits_for_open_transaction)
{
	struct sb_pg *a = NULL, *b = NULL;
	struct sb_error why = SB_ERROR_INIT;
	int64_t one = 0, two = 0;

	rig_ok(hub_store_open(&a, rig.w, "a", err));
	rig_ok(hub_store_open(&b, rig.w, "b", err));
	rig_ok(hub_fence_take(a, rig.w, "lane", &one, err));
	rig_ok(sb_pg_begin(a, err));
	rig_ok(hub_fence(a, "lane", one, err));
	rig_ok(sb_pg_script(b, "SET lock_timeout = '200ms'", err));
	ck_assert_int_eq(hub_fence_take(b, rig.w, "lane", &two, &why), SB_ECONFLICT);
	rig_ok(sb_pg_commit(a, err));
	rig_ok(hub_fence_take(b, rig.w, "lane", &two, err));
	ck_assert_int_eq(two, one + 1);
	rig_ok(sb_pg_begin(a, err));
	ck_assert_int_eq(hub_fence(a, "lane", one, &why), SB_ESHUTDOWN);
	sb_pg_rollback(a);
	sb_pg_close(a);
	sb_pg_close(b);
}
END_TEST

static void put(const char *stage, const char *key, bool commit)
{
	json_t *body = json_pack("{s:s, s:s}", "type", key, "reason", "test");

	ck_assert_ptr_nonnull(body);
	rig_ok(sb_pg_begin(rig.pg, err));
	rig_ok(hub_outbox_put(rig.w, rig.pg, stage, SB_EV_RESYNC_ORDERED, key, body, err));
	if (commit)
		rig_ok(sb_pg_commit(rig.pg, err));
	else
		sb_pg_rollback(rig.pg);
	json_decref(body);
}

/* Rows hold final bytes: numbered without holes whatever was rolled back, chained, and good for the stage alone */
START_TEST(test_outbox)
{
	struct sb_pg_result *res = NULL;
	struct sb_stream_in in = { 0 };
	bool known = false;

	put("train", "a", true);
	put("train", "b", false);
	put("dev", "x", true);
	put("train", "c", true);
	put("train", "d", true);
	rig_ok(sb_pg_exec(rig.pg, "SELECT topic, attrs, value FROM sb.outbox WHERE stage = 'train' ORDER BY id", 0, NULL, &res, err));
	ck_assert_int_eq(sb_pg_rows(res), 3);
	for (int i = 0; i < 3; i++) {
		sb_cleanup(sb_freep) uint8_t *attrs = NULL, *value = NULL;
		size_t attrs_len = 0, value_len = 0;
		struct sb_record rec;
		struct sb_meta meta;
		struct sb_error why = SB_ERROR_INIT;
		rig_ok(sb_pg_get_bytes(res, i, 1, &attrs, &attrs_len, err));
		rig_ok(sb_pg_get_bytes(res, i, 2, &value, &value_len, err));
		sb_record_init(&rec, sb_pg_get(res, i, 0));
		rec.value = value;
		rec.value_len = value_len;
		rig_ok(hub_attrs_unpack(&rec, attrs, attrs_len, err));
		rig_ok(sb_record_verify(&rec, rig.w->keyring, RIG_TENANT, "train", sb_wall_ms(), &meta, err));
		ck_assert_str_eq(meta.stream, "event/train");
		ck_assert_uint_eq(meta.sequence, (unsigned)i + 1);
		ck_assert_int_eq(sb_stream_judge(known ? &in : NULL, &meta), known ? SB_APPLY : SB_NEW_SESSION);
		sb_stream_advance(&in, &meta);
		known = true;
		ck_assert_int_lt(sb_record_verify(&rec, rig.w->keyring, RIG_TENANT, "dev", sb_wall_ms(), &meta, &why), 0);
	}
	sb_pg_free(res);
}
END_TEST

START_TEST(test_attrs_torn)
{
	struct sb_record rec;
	struct sb_buf packed;
	struct sb_error why = SB_ERROR_INIT;

	sb_record_init(&rec, "t");
	rig_ok(sb_record_set(&rec, "one", "1", err));
	rig_ok(sb_record_set(&rec, "two", "2", err));
	sb_buf_init(&packed, 1000);
	rig_ok(hub_attrs_pack(&rec, &packed, err));
	for (size_t n = 0; n <= packed.len; n++) {
		struct sb_record back;
		sb_record_init(&back, "t");
		int r = hub_attrs_unpack(&back, (const uint8_t *)packed.data, n, &why);
		ck_assert_int_eq(r, n == 0 || n == 6 || n == packed.len ? 0 : SB_EPROTO);
	}
	sb_buf_release(&packed);
}
END_TEST

START_TEST(test_audit_chain)
{
	for (int i = 0; i < 5; i++) {
		rig_ok(sb_pg_begin(rig.pg, err));
		rig_ok(hub_audit(rig.pg, "ann", "approve", "promotion-1", "GATED", "READY", i == 3 ? NULL : "because", err));
		rig_ok(sb_pg_commit(rig.pg, err));
	}
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.audit"), 5);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.audit_broken"), 0);
	static const char *const tampering[] = {
		"UPDATE lifecycle.audit SET actor = 'bob' WHERE id = 2",
		"UPDATE lifecycle.audit SET at = at + interval '1 s' WHERE id = 5",
		"UPDATE lifecycle.audit SET actor = 'an', action = 'napprove' WHERE id = 3",
		"DELETE FROM lifecycle.audit WHERE id = 2",
		"DELETE FROM lifecycle.audit WHERE id = 1",
	};
	for (size_t i = 0; i < SB_COUNT(tampering); i++) {
		rig_ok(sb_pg_begin(rig.pg, err));
		rig_ok(sb_pg_script(rig.pg, tampering[i], err));
		ck_assert_msg(rig_i64(&rig, "SELECT count(*) FROM lifecycle.audit_broken") > 0, "%s is not seen", tampering[i]);
		sb_pg_rollback(rig.pg);
	}
}
END_TEST

/* Every view that people are promised answers and says what it is */
START_TEST(test_views)
{
	static const char *const views[] = { "stages", "edge", "freshness", "pipeline", "promotions", "event", "violation", "quarantined",
		"datasets", "audit_broken" };

	for (size_t i = 0; i < SB_COUNT(views); i++) {
		sb_cleanup(sb_freep) char *rows = sb_asprintf("SELECT count(*) FROM lifecycle.%s", views[i]);
		sb_cleanup(sb_freep) char *comment = sb_asprintf("SELECT length(obj_description('lifecycle.%s'::regclass))", views[i]);
		ck_assert_int_ge(rig_i64(&rig, rows), 0);
		ck_assert_msg(rig_i64(&rig, comment) > 20, "view %s has no comment", views[i]);
	}
	rig_run(&rig, "INSERT INTO lifecycle.artifact (id, origin, commit_oid, tree_oid, kind, title, author, committed_at, manifest) "
		      "SELECT repeat(to_hex(n), 64), 'model', 'c' || n, 't', 'merge', 'change ' || n, 'ann', now(), '{}' FROM "
		      "generate_series(1, 3) n; "
		      "INSERT INTO lifecycle.occupancy (stage, origin, artifact, promotion, verified_at) VALUES ('train', 'model', "
		      "repeat('1', 64), 'p', now()); "
		      "INSERT INTO lifecycle.promotion (id, origin, artifact, stage, kind, state, requested_by, waiting_for) "
		      "VALUES ('p2', 'model', repeat('2', 64), 'train', 'auto', 'GATED', 'engine', 'approval')");
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.pipeline"), 3);
	ck_assert_int_eq(rig_i64(&rig, "SELECT behind_main FROM lifecycle.pipeline WHERE stage = 'train' AND verified AND promotion_state "
				       "= 'GATED' AND waiting_for = 'approval'"),
		2);
	ck_assert_int_eq(rig_i64(&rig, "SELECT behind_main FROM lifecycle.pipeline WHERE stage = 'prod' AND artifact IS NULL"), 3);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("hub_store");
	TCase *tc = tcase_create("all");

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_migrate_again);
	tcase_add_test(tc, test_older_keyring);
	tcase_add_test(tc, test_migrate_at_once);
	tcase_add_test(tc, test_fence);
	tcase_add_test(tc, test_fence_waits_for_open_transaction);
	tcase_add_test(tc, test_outbox);
	tcase_add_test(tc, test_attrs_torn);
	tcase_add_test(tc, test_audit_chain);
	tcase_add_test(tc, test_views);
	suite_add_tcase(s, tc);
	return rig_main(s);
}
