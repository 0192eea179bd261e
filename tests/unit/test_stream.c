/* Streams: what the sender stamps and how the receiver judges it. */
#include <check.h>
#include <string.h>

#include "devkeys.h"
#include "stagebridge/clock.h"
#include "stagebridge/stream.h"
#include "support.h"

static struct devkeys keys;

static void setup(void)
{
	devkeys_make(&keys);
}

static void teardown(void)
{
	devkeys_release(&keys);
}

static void stamp(struct sb_stream_out *so, struct sb_record *rec, const char *topic, enum sb_event event, const struct sb_identity *id)
{
	struct sb_error err = SB_ERROR_INIT;

	sb_record_init(rec, topic);
	rec->value = "{}";
	rec->value_len = 2;
	ck_assert_int_eq(sb_record_set(rec, "expirytime", "2099-01-01T00:00:00.000Z", &err), 0);
	ck_assert_msg(sb_stream_stamp(so, rec, event, "k", NULL, id, &err) == 0, "%s", err.msg);
}

static struct sb_meta verified(const struct sb_record *rec, const char *dest)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_meta meta;

	ck_assert_msg(sb_record_verify(rec, keys.keyring, "acme", dest, sb_wall_ms(), &meta, &err) == 0, "%s", err.msg);
	return meta;
}

START_TEST(test_stamp_and_follow)
{
	struct sb_stream_out so;
	struct sb_stream_in in = { .session = 0 };
	struct sb_record rec;
	struct sb_meta meta;

	sb_stream_out_init(&so, "acme", "dev", "event", 3, true);
	ck_assert_str_eq(so.source, "stagebridge://acme/dev/agent/event");
	for (uint64_t i = 1; i <= 3; i++) {
		stamp(&so, &rec, "sb.acme.dev.up.event.v1", SB_EV_HEARTBEAT_SENT, keys.dev);
		meta = verified(&rec, "hub");
		ck_assert_uint_eq(meta.session, 3);
		ck_assert_uint_eq(meta.sequence, i);
		ck_assert(meta.has_prev == (i > 1));
		ck_assert_mem_eq(meta.digest, so.prev, 32);
		ck_assert_str_eq(sb_record_get(&rec, "datacontenttype"), "application/json");
		ck_assert_int_eq((int)sb_stream_judge(&in, &meta), i == 1 ? SB_NEW_SESSION : SB_APPLY);
		sb_stream_advance(&in, &meta);
		ck_assert_int_eq((int)sb_stream_judge(&in, &meta), SB_DUPLICATE);
	}
	ck_assert_str_eq(sb_record_get(&rec, "id"), "0000000003-00000000000000000003");

	/* the next session starts over */
	sb_stream_out_init(&so, "acme", "dev", "event", 4, true);
	stamp(&so, &rec, "sb.acme.dev.up.event.v1", SB_EV_HEARTBEAT_SENT, keys.dev);
	meta = verified(&rec, "hub");
	ck_assert_int_eq((int)sb_stream_judge(&in, &meta), SB_NEW_SESSION);
}
END_TEST

START_TEST(test_unchained)
{
	struct sb_stream_out so;
	struct sb_record rec;

	sb_stream_out_init(&so, "acme", "dev", "data/x", 1, false);
	stamp(&so, &rec, "sb.acme.dev.up.data.v1", SB_EV_TRANSFER_CHUNK, keys.dev);
	stamp(&so, &rec, "sb.acme.dev.up.data.v1", SB_EV_TRANSFER_CHUNK, keys.dev);
	ck_assert(!verified(&rec, "hub").has_prev);
}
END_TEST

START_TEST(test_hub_addresses_one_stage)
{
	struct sb_stream_out so;
	struct sb_record rec;

	sb_stream_out_init(&so, "acme", "hub", "train/event", 1, true);
	ck_assert_str_eq(so.source, "stagebridge://acme/hub/train/event");
	stamp(&so, &rec, "sb.acme.train.down.event.v1", SB_EV_GIT_UPDATED, keys.hub);
	ck_assert_str_eq(sb_record_get(&rec, "sbtarget"), "train");
	ck_assert_str_eq(verified(&rec, "train").stream, "train/event");
}
END_TEST

START_TEST(test_failed_stamp_does_not_advance)
{
	struct sb_stream_out so;
	struct sb_record rec;
	struct sb_error err = SB_ERROR_INIT;

	sb_stream_out_init(&so, "acme", "dev", "event", 1, true);
	sb_record_init(&rec, "sb.acme.dev.up.event.v1");
	rec.value = "{}";
	rec.value_len = SB_VALUE_MAX + 1;
	ck_assert_int_eq(sb_stream_stamp(&so, &rec, SB_EV_AGENT_STARTED, "k", NULL, keys.dev, &err), SB_ETOOBIG);
	sb_record_init(&rec, "sb.acme.dev.up.event.v1");
	ck_assert_int_eq(sb_stream_stamp(&so, &rec, SB_EV_AGENT_STARTED, "", NULL, keys.dev, &err), SB_EPROTO);
	ck_assert_uint_eq(so.sequence, 0);
}
END_TEST

/* stored: session 5, sequence 10, digest aa...; prev 0: none, 1: aa (right), 2: other; digest 1: aa, 2: other */
static const struct {
	uint64_t session, sequence;
	int prev, digest;
	enum sb_verdict expect;
} cases[] = {
	{ 5, 11, 1, 2, SB_APPLY },
	{ 5, 11, 0, 2, SB_APPLY },
	{ 5, 11, 2, 2, SB_GAP },
	{ 5, 12, 2, 2, SB_GAP },
	{ 5, UINT64_MAX, 2, 2, SB_GAP },
	{ 5, 10, 2, 1, SB_DUPLICATE },
	{ 5, 10, 1, 2, SB_EQUIVOCATION },
	{ 5, 9, 2, 2, SB_DUPLICATE },
	{ 4, 11, 1, 2, SB_ZOMBIE },
	{ 4, 1, 0, 2, SB_ZOMBIE },
	{ 6, 1, 0, 2, SB_NEW_SESSION },
	{ 6, 2, 1, 2, SB_GAP },
	{ 9, 11, 1, 2, SB_GAP },
};

START_TEST(test_judge)
{
	struct sb_stream_in in = { .session = 5, .sequence = 10 };
	struct sb_meta meta = { .session = cases[_i].session, .sequence = cases[_i].sequence, .has_prev = cases[_i].prev != 0 };

	memset(in.prev, 0xaa, sizeof(in.prev));
	memset(meta.prev, cases[_i].prev == 1 ? 0xaa : 0xbb, sizeof(meta.prev));
	memset(meta.digest, cases[_i].digest == 1 ? 0xaa : 0xcc, sizeof(meta.digest));
	ck_assert_str_eq(sb_verdict_name(sb_stream_judge(&in, &meta)), sb_verdict_name(cases[_i].expect));
}
END_TEST

START_TEST(test_judge_unknown)
{
	struct sb_stream_in in = { .session = 0 };
	struct sb_meta meta = { .session = 1, .sequence = 1 };

	ck_assert_int_eq((int)sb_stream_judge(NULL, &meta), SB_NEW_SESSION);
	ck_assert_int_eq((int)sb_stream_judge(&in, &meta), SB_NEW_SESSION);
	meta.sequence = 500; /* the ones before are past the broker's retention */
	ck_assert_int_eq((int)sb_stream_judge(NULL, &meta), SB_NEW_SESSION);
	ck_assert_int_eq((int)sb_stream_judge(&in, &meta), SB_NEW_SESSION);
}
END_TEST

/* printf 'stagebridge://acme/dev/agent/entity/a 2 7\nstagebridge://acme/dev/agent/event 1 18446744073709551615\n' | sha256sum */
START_TEST(test_heads_digest)
{
	struct sb_head heads[] = { { "stagebridge://acme/dev/agent/event", 1, UINT64_MAX },
		{ "stagebridge://acme/dev/agent/entity/a", 2, 7 } };
	char hex[65];

	sb_heads_digest(heads, 2, hex);
	ck_assert_str_eq(hex, "956e4e3cd2c644b2351924d38a3e4ac9450703c8d5de1d756e5288803854c6d1");
	ck_assert_uint_eq(heads[0].sequence, 7);
	sb_heads_digest(NULL, 0, hex);
	ck_assert_str_eq(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("stream");
	TCase *tc = tcase_create("stream");

	tcase_add_unchecked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_stamp_and_follow);
	tcase_add_test(tc, test_unchained);
	tcase_add_test(tc, test_hub_addresses_one_stage);
	tcase_add_test(tc, test_failed_stamp_does_not_advance);
	tcase_add_loop_test(tc, test_judge, 0, (int)SB_COUNT(cases));
	tcase_add_test(tc, test_judge_unknown);
	tcase_add_test(tc, test_heads_digest);
	suite_add_tcase(s, tc);
	return test_run(s);
}
