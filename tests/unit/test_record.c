/* Records: the caps, the signed bytes, and every reason for a refusal, from the committed vectors and made here. */
#include <check.h>
#include <string.h>

#include <jansson.h>
#include <sodium.h>

#include "devkeys.h"
#include "stagebridge/clock.h"
#include "stagebridge/stream.h"
#include "support.h"

static struct devkeys keys;
static json_t *vectors;
static struct sb_keyring *vector_keyring;
static int64_t vector_now;

static void setup(void)
{
	struct sb_error err = SB_ERROR_INIT;
	uint8_t root[32];

	devkeys_make(&keys);
	vectors = json_load_file("proto/vectors/records.json", 0, NULL);
	ck_assert_ptr_nonnull(vectors);
	const char *text = json_string_value(json_object_get(vectors, "keyring"));
	ck_assert(sb_time_parse(json_string_value(json_object_get(vectors, "now")), &vector_now));
	ck_assert_int_eq(sb_unhex(root, 32, json_string_value(json_object_get(vectors, "root_pk")), &err), 0);
	ck_assert_msg(sb_keyring_parse(&vector_keyring, text, strlen(text), root, vector_now, &err) == 0, "%s", err.msg);
}

static void teardown(void)
{
	sb_keyring_free(vector_keyring);
	json_decref(vectors);
	devkeys_release(&keys);
}

/* What an adapter does with a record from the broker, then what a receiver does. */
static int judge(json_t *v, struct sb_meta *meta, struct sb_record *rec, uint8_t *value, struct sb_error *err)
{
	const char *b64 = json_string_value(json_object_get(v, "value"));
	json_t *pair;
	size_t i, n = 0;

	sb_record_init(rec, json_string_value(json_object_get(v, "topic")));
	json_array_foreach(json_object_get(v, "attributes"), i, pair)
	{
		int r = sb_record_set(rec, json_string_value(json_array_get(pair, 0)), json_string_value(json_array_get(pair, 1)), err);
		if (r < 0) {
			memcpy(err->state, "malf", 5); /* the adapter's class for what it cannot even hold */
			return r;
		}
	}
	if (b64) {
		ck_assert_int_eq(sodium_base642bin(value, 4096, b64, strlen(b64), NULL, &n, NULL, sodium_base64_VARIANT_ORIGINAL), 0);
		rec->value = value;
		rec->value_len = n;
	}
	return sb_record_verify(rec, vector_keyring, "acme", json_string_value(json_object_get(v, "dest")), vector_now, meta, err);
}

START_TEST(test_vectors)
{
	static uint8_t value[4096];
	json_t *list = json_object_get(vectors, "vectors");
	size_t i;
	json_t *v;

	ck_assert_uint_gt(json_array_size(list), 30);
	json_array_foreach(list, i, v)
	{
		const char *name = json_string_value(json_object_get(v, "name"));
		const char *reason = json_string_value(json_object_get(v, "reason"));
		struct sb_error err = SB_ERROR_INIT;
		struct sb_record rec;
		struct sb_meta meta = { .event = -2 };
		int r = judge(v, &meta, &rec, value, &err);

		ck_assert_msg(strcmp(sb_code_name((enum sb_code)r), json_string_value(json_object_get(v, "expect"))) == 0, "%s: %s (%s)",
			name, sb_code_name((enum sb_code)r), err.msg);
		ck_assert_msg(strcmp(err.state, reason) == 0, "%s: class %s (%s)", name, err.state, err.msg);
		if (r == 0) {
			char hex[65];
			sb_hex(hex, meta.digest, 32);
			ck_assert_str_eq(hex, json_string_value(json_object_get(v, "digest")));
		} else {
			ck_assert_int_eq(meta.event, -2);
		}
	}
}
END_TEST

/* All good vectors, every attribute altered by one character: nothing may pass. */
START_TEST(test_every_attribute_is_covered)
{
	static uint8_t value[4096];
	size_t i, j;
	json_t *v, *pair;
	unsigned tried = 0;

	json_array_foreach(json_object_get(vectors, "vectors"), i, v)
	{
		if (strcmp(json_string_value(json_object_get(v, "expect")), "OK") != 0)
			continue;
		json_array_foreach(json_object_get(v, "attributes"), j, pair)
		{
			struct sb_error err = SB_ERROR_INIT;
			struct sb_record rec;
			struct sb_meta meta;
			char text[SB_ATTR_VALUE_MAX + 1];

			ck_assert_int_eq(sb_format(text, sizeof(text), NULL, "%s", json_string_value(json_array_get(pair, 1))), 0);
			text[strlen(text) / 2] ^= 1;
			json_t *was = json_incref(json_array_get(pair, 1));
			(void)json_array_set_new(pair, 1, json_string(text));
			ck_assert_msg(judge(v, &meta, &rec, value, &err) < 0, "%s altered", json_string_value(json_array_get(pair, 0)));
			(void)json_array_set_new(pair, 1, was);
			tried++;
		}
	}
	ck_assert_uint_gt(tried, 60);
}
END_TEST

START_TEST(test_set_rules)
{
	static char longest[SB_ATTR_VALUE_MAX + 2];
	struct sb_record rec;
	struct sb_error err = SB_ERROR_INIT;
	char name[8];
	const char *got;

	memset(longest, 'x', SB_ATTR_VALUE_MAX + 1);
	sb_record_init(&rec, "t");
	ck_assert_int_eq(sb_record_set(&rec, "", "v", &err), SB_EPROTO);
	ck_assert_int_eq(sb_record_set(&rec, "Name", "v", &err), SB_EPROTO);
	ck_assert_int_eq(sb_record_set(&rec, "ce_id", "v", &err), SB_EPROTO);
	ck_assert_int_eq(sb_record_set(&rec, "abcdefghijklmnopqrstuvwxy", "v", &err), SB_EPROTO);
	ck_assert_int_eq(sb_record_set(&rec, "a", "", &err), SB_EPROTO);
	ck_assert_int_eq(sb_record_set(&rec, "a", "\xff", &err), SB_EPROTO);
	ck_assert_int_eq(sb_record_set(&rec, "a", "x\ny", &err), SB_EPROTO);
	ck_assert_int_eq(sb_record_set(&rec, "a", longest, &err), SB_EPROTO);
	ck_assert_int_eq(sb_record_setf(&rec, "a", &err, "%s", longest), SB_EPROTO);
	ck_assert_uint_eq(rec.n_attr, 0);
	longest[SB_ATTR_VALUE_MAX] = '\0';
	ck_assert_int_eq(sb_record_setf(&rec, "a", &err, "%s", longest), 0);
	ck_assert_int_eq(sb_record_set(&rec, "a", "v", &err), SB_EPROTO);
	ck_assert_int_eq(sb_record_set(&rec, "abcdefghijklmnopqrstuvwx", "\xc3\xa9", &err), 0);
	ck_assert_str_eq(sb_record_get(&rec, "abcdefghijklmnopqrstuvwx"), "\xc3\xa9");
	ck_assert_ptr_null(sb_record_get(&rec, "b"));
	ck_assert_str_eq(sb_record_attr(&rec, 0, &got), longest);
	ck_assert_str_eq(got, "a");
	ck_assert_ptr_null(sb_record_attr(&rec, 2, &got));

	for (int i = 2; i < SB_ATTR_MAX; i++) {
		ck_assert_int_eq(sb_format(name, sizeof(name), NULL, "n%d", i), 0);
		ck_assert_int_eq(sb_record_set(&rec, name, "v", &err), 0);
	}
	ck_assert_int_eq(sb_record_set(&rec, "more", "v", &err), SB_EPROTO);
	ck_assert_uint_eq(rec.n_attr, SB_ATTR_MAX);
}
END_TEST

START_TEST(test_largest_record_signs)
{
	static char longest[SB_ATTR_VALUE_MAX + 1];
	struct sb_record rec;
	struct sb_error err = SB_ERROR_INIT;
	char name[8];
	unsigned i = 0;

	/* fill the store to the last byte that leaves room for sbkid and sbsig, then for neither */
	memset(longest, 'x', SB_ATTR_VALUE_MAX);
	sb_record_init(&rec, "t");
	rec.value = "v";
	rec.value_len = 1;
	do {
		ck_assert_int_eq(sb_format(name, sizeof(name), NULL, "n%u", i++), 0);
	} while (sb_record_set(&rec, name, longest, &err) == 0);
	ck_assert_int_eq(sb_record_sign(&rec, keys.dev, &err), 0);
	ck_assert_int_eq(sb_record_hop(&rec, keys.hub, "train", UINT64_MAX, &err), 0);
	ck_assert_str_eq(sb_record_get(&rec, "sbhopseq"), "18446744073709551615");

	sb_record_init(&rec, "t");
	for (i = 0; i < SB_ATTR_MAX - 1; i++) {
		ck_assert_int_eq(sb_format(name, sizeof(name), NULL, "n%u", i), 0);
		ck_assert_int_eq(sb_record_set(&rec, name, "v", &err), 0);
	}
	ck_assert_int_eq(sb_record_hop(&rec, keys.hub, "train", 1, &err), SB_EINVAL);
	ck_assert_int_eq(sb_record_sign(&rec, keys.dev, &err), SB_EPROTO);
	ck_assert_ptr_null(sb_record_get(&rec, "sbkid"));
	rec.value_len = SB_VALUE_MAX + 1;
	ck_assert_int_eq(sb_record_sign(&rec, keys.dev, &err), SB_ETOOBIG);
}
END_TEST

/* The bytes that SPEC.md shows, written out by hand. */
START_TEST(test_signed_bytes)
{
	struct sb_record rec;
	uint8_t digest[32], expected[32], sig[64];
	char text[512];

	sb_record_init(&rec, "t");
	rec.value = "abc";
	rec.value_len = 3;
	ck_assert_int_eq(sb_record_set(&rec, "type", "t", NULL), 0);
	ck_assert_int_eq(sb_record_set(&rec, "sbdest", "not signed by the owner", NULL), 0);
	ck_assert_int_eq(sb_record_set(&rec, "id", "x", NULL), 0);
	ck_assert_int_eq(sb_record_sign(&rec, keys.dev, NULL), 0);
	ck_assert_int_eq(sb_format(text, sizeof(text), NULL,
				 "20:stagebridge.event.v1,1:3,2:id,1:x,5:sbkid,16:%s,4:type,1:t,4:data,64:"
				 "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad,",
				 sb_identity_kid(keys.dev)),
		0);
	sb_record_digest(&rec, digest);
	crypto_hash_sha256(expected, (const unsigned char *)text, strlen(text));
	ck_assert_mem_eq(digest, expected, 32);
	ck_assert_int_eq(sb_unbase64(sig, 64, sb_record_get(&rec, "sbsig"), NULL), 0);
	ck_assert(sb_dsse_verify(sb_identity_sign_pk(keys.dev), SB_PAYLOAD_RECORD, text, strlen(text), sig));
	rec.value = NULL;
	sb_record_digest(&rec, expected);
	ck_assert_mem_ne(digest, expected, 32);
}
END_TEST

/* Keys that ran out vouch for what they signed in their time, for as long as a broker may hold it. */
START_TEST(test_key_times)
{
	static const struct {
		const char *time, *now;
		int expect;
	} cases[] = {
		{ "2026-03-02T09:15:01.234Z", "2026-03-02T09:15:01.234Z", 0 },
		{ "2019-12-31T23:59:00.000Z", "2026-03-02T09:15:01.234Z", 0 }, /* within the tolerance of clocks */
		{ "2019-12-31T23:57:00.000Z", "2026-03-02T09:15:01.234Z", SB_EAUTH },
		{ "2099-12-31T23:00:00.000Z", "2100-01-20T00:00:00.000Z", 0 },
		{ "2099-12-31T23:00:00.000Z", "2100-02-20T00:00:00.000Z", SB_EAUTH },
		{ "2100-01-02T00:00:00.000Z", "2100-01-02T00:00:00.000Z", SB_EAUTH },
	};
	struct sb_stream_out so;
	struct sb_record rec;
	struct sb_meta meta;
	struct sb_error err = SB_ERROR_INIT;
	int64_t now;

	sb_stream_out_init(&so, "acme", "dev", "event", 1, true);
	sb_record_init(&rec, "sb.acme.dev.up.event.v1");
	rec.value = "{}";
	rec.value_len = 2;
	ck_assert_int_eq(sb_record_set(&rec, "time", cases[_i].time, &err), 0);
	ck_assert_int_eq(sb_stream_stamp(&so, &rec, SB_EV_AGENT_STARTED, "dev", NULL, keys.dev, &err), 0);
	ck_assert(sb_time_parse(cases[_i].now, &now));
	ck_assert_int_eq(sb_record_verify(&rec, keys.keyring, "acme", "hub", now, &meta, &err), cases[_i].expect);
	if (cases[_i].expect == 0) {
		ck_assert_str_eq(meta.stream, "event");
		ck_assert_str_eq(meta.key, "dev");
		ck_assert_int_eq(meta.event, SB_EV_AGENT_STARTED);
		ck_assert_str_eq(meta.signer->stage, "dev");
	}
}
END_TEST

START_TEST(test_streams)
{
	static const struct {
		const char *stream;
		bool ok;
	} cases[] = {
		{ "event", true },
		{ "entity/a_b-c.D", true },
		{ "", false },
		{ "/", false },
		{ "a/", false },
		{ "/a", false },
		{ "a//b", false },
		{ "a b", false },
		{ "a\"b", false },
	};
	struct sb_stream_out so;
	struct sb_record rec;
	struct sb_meta meta;
	struct sb_error err = SB_ERROR_INIT;

	sb_stream_out_init(&so, "acme", "dev", cases[_i].stream, 1, true);
	sb_record_init(&rec, "sb.acme.dev.up.event.v1");
	rec.value = "{}";
	rec.value_len = 2;
	ck_assert_int_eq(sb_record_set(&rec, "time", "2026-03-02T09:15:01.234Z", &err), 0);
	ck_assert_int_eq(sb_stream_stamp(&so, &rec, SB_EV_AGENT_STARTED, "dev", NULL, keys.dev, &err), 0);
	int r = sb_record_verify(&rec, keys.keyring, "acme", "hub", DEVKEYS_NOW_MS, &meta, &err);
	ck_assert_int_eq(r, cases[_i].ok ? 0 : SB_EPROTO);
	if (r < 0)
		ck_assert_str_eq(err.state, "route");
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("record");

	tcase_add_unchecked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, test_vectors);
	tcase_add_test(tc, test_every_attribute_is_covered);
	tcase_add_test(tc, test_set_rules);
	tcase_add_test(tc, test_largest_record_signs);
	tcase_add_test(tc, test_signed_bytes);
	tcase_add_loop_test(tc, test_key_times, 0, 6);
	tcase_add_loop_test(tc, test_streams, 0, 9);
	Suite *s = suite_create("record");
	suite_add_tcase(s, tc);
	return test_run(s);
}
