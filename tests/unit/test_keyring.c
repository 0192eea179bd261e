/* Keys: the development set, the keyring's envelope and content against its vectors, private key files, signing and sealing. */
#include <check.h>
#include <string.h>
#include <sys/stat.h>

#include <jansson.h>
#include <sodium.h>

#include "devkeys.h"
#include "stagebridge/clock.h"
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

/* Returns new: the envelope of a payload of one row, signed by the test root. */
static char *envelope(json_t *payload)
{
	sb_cleanup(sb_freep) char *body = json_dumps(payload, JSON_COMPACT);
	uint8_t sig[64];

	sb_identity_sign(keys.root, SB_PAYLOAD_KEYRING, body, strlen(body), sig);
	sb_cleanup(sb_freep) char *b64 = sb_base64((const uint8_t *)body, strlen(body));
	sb_cleanup(sb_freep) char *sig64 = sb_base64(sig, sizeof(sig));
	json_auto_t *e = json_pack("{s:s, s:s, s:[{s:s}]}", "payloadType", SB_PAYLOAD_KEYRING, "payload", b64, "signatures", "sig", sig64);
	json_decref(payload);
	return json_dumps(e, 0);
}

/* Returns new: a row of the stage dev for a key made from n. */
static json_t *row(unsigned char n, const char *from, const char *to, bool revoked)
{
	uint8_t seed[32], pk[32], sk[64], digest[32];
	char sign[65], box[65], kid[SB_KID_LEN + 1];

	memset(seed, n, sizeof(seed));
	(void)crypto_sign_seed_keypair(pk, sk, seed);
	crypto_hash_sha256(digest, pk, sizeof(pk));
	sb_hex(kid, digest, SB_KID_LEN / 2);
	sb_hex(sign, pk, sizeof(pk));
	(void)crypto_scalarmult_base(pk, seed);
	sb_hex(box, pk, sizeof(pk));
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:b}", "kid", kid, "role", "agent", "tenant", "acme", "stage", "dev",
		"sign", sign, "box", box, "not_before", from, "not_after", to, "revoked", revoked);
}

START_TEST(test_dev_set)
{
	static const char *const parties[] = { "hub", "dev", "train", "prod", "explore" };
	const struct sb_identity *const ids[] = { keys.hub, keys.dev, keys.train, keys.prod, keys.explore };
	struct stat st;
	char path[128];

	ck_assert_uint_eq(sb_keyring_version(keys.keyring), 1);
	ck_assert_ptr_null(sb_keyring_find(keys.keyring, sb_identity_kid(keys.root)));
	ck_assert_ptr_null(sb_keyring_find(keys.keyring, "0000000000000000"));
	ck_assert_mem_eq(sb_identity_sign_pk(keys.root), keys.root_pk, 32);
	for (size_t i = 0; i < SB_COUNT(parties); i++) {
		const struct sb_key *k = sb_keyring_find(keys.keyring, sb_identity_kid(ids[i]));
		ck_assert_ptr_nonnull(k);
		ck_assert_str_eq(k->stage, parties[i]);
		ck_assert_str_eq(k->tenant, "acme");
		ck_assert_int_eq((int)k->role, i == 0 ? SB_ROLE_HUB : SB_ROLE_AGENT);
		ck_assert_mem_eq(k->sign_pk, sb_identity_sign_pk(ids[i]), 32);
		ck_assert_mem_eq(k->box_pk, sb_identity_box_pk(ids[i]), 32);
		ck_assert_ptr_eq(sb_keyring_party(keys.keyring, "acme", parties[i], DEVKEYS_NOW_MS), k);
		ck_assert_int_eq(sb_format(path, sizeof(path), NULL, "%s/%s.key", keys.dir, parties[i]), 0);
		ck_assert_int_eq(stat(path, &st), 0);
		ck_assert_uint_eq(st.st_mode & 0777, 0400);
	}
	ck_assert_ptr_null(sb_keyring_party(keys.keyring, "acme", "preprod", DEVKEYS_NOW_MS));
	ck_assert_ptr_null(sb_keyring_party(keys.keyring, "other", "dev", DEVKEYS_NOW_MS));
	ck_assert_ptr_null(sb_keyring_party(keys.keyring, "acme", "dev", 0));
}
END_TEST

START_TEST(test_dev_refuses)
{
	static const char *const twice[] = { "dev", "dev" }, *const hub[] = { "hub" }, *const bad[] = { "Dev" };
	static const char *const dev[] = { "dev" };
	struct sb_error err = SB_ERROR_INIT;

	ck_assert_int_eq(sb_keyring_make_dev(keys.dir, "acme", dev, 1, NULL, &err), SB_ECONFLICT);
	ck_assert_int_eq(sb_keyring_make_dev("/nonexistent/x", "acme", twice, 2, NULL, &err), SB_EINVAL);
	ck_assert_int_eq(sb_keyring_make_dev("/nonexistent/x", "acme", hub, 1, NULL, &err), SB_EINVAL);
	ck_assert_int_eq(sb_keyring_make_dev("/nonexistent/x", "acme", bad, 1, NULL, &err), SB_EINVAL);
	ck_assert_int_eq(sb_keyring_make_dev("/nonexistent/x", "a.b", dev, 1, NULL, &err), SB_EINVAL);
}
END_TEST

START_TEST(test_random_set)
{
	static const char *const dev[] = { "dev" };
	struct sb_error err = SB_ERROR_INIT;
	struct sb_keyring *kr = NULL;
	struct sb_identity *id = NULL;
	uint8_t root[32];
	char dir[128], path[192];

	ck_assert_int_eq(sb_format(dir, sizeof(dir), NULL, "%s/random", keys.dir), 0);
	ck_assert_msg(sb_keyring_make_dev(dir, "acme", dev, 1, NULL, &err) == 0, "%s", err.msg);
	ck_assert_int_eq(sb_format(path, sizeof(path), NULL, "%s/root.pub", dir), 0);
	ck_assert_int_eq(sb_root_load(path, root, &err), 0);
	ck_assert_mem_ne(root, keys.root_pk, 32);
	ck_assert_int_eq(sb_format(path, sizeof(path), NULL, "%s/keyring.json", dir), 0);
	ck_assert_int_eq(sb_keyring_load(&kr, path, keys.root_pk, sb_wall_ms(), &err), SB_ESIG);
	ck_assert_msg(sb_keyring_load(&kr, path, root, sb_wall_ms(), &err) == 0, "%s", err.msg);
	ck_assert_int_eq(sb_format(path, sizeof(path), NULL, "%s/dev.key", dir), 0);
	ck_assert_int_eq(sb_identity_load(&id, path, &err), 0);
	ck_assert_ptr_nonnull(sb_keyring_find(kr, sb_identity_kid(id)));
	sb_identity_free(id);
	sb_keyring_free(kr);
}
END_TEST

START_TEST(test_vectors)
{
	json_error_t je;
	json_auto_t *file = json_load_file("proto/vectors/keyring.json", 0, &je);
	uint8_t root[32];
	size_t i;
	json_t *v;

	ck_assert_msg(file, "%s", je.text);
	ck_assert_int_eq(sb_unhex(root, 32, json_string_value(json_object_get(file, "root_pk")), NULL), 0);
	ck_assert_mem_eq(root, keys.root_pk, 32);
	ck_assert_uint_gt(json_array_size(json_object_get(file, "vectors")), 5);
	json_array_foreach(json_object_get(file, "vectors"), i, v)
	{
		const char *text = json_string_value(json_object_get(v, "envelope"));
		const char *name = json_string_value(json_object_get(v, "name"));
		struct sb_error err = SB_ERROR_INIT;
		struct sb_keyring *kr = NULL;
		int64_t now;

		ck_assert(sb_time_parse(json_string_value(json_object_get(v, "now")), &now));
		int r = sb_keyring_parse(&kr, text, strlen(text), root, now, &err);
		ck_assert_msg(strcmp(sb_code_name((enum sb_code)r), json_string_value(json_object_get(v, "expect"))) == 0, "%s: %s (%s)",
			name, sb_code_name((enum sb_code)r), err.msg);
		ck_assert_msg((r == 0) == (kr != NULL), "%s", name);
		sb_keyring_free(kr);
	}
}
END_TEST

START_TEST(test_every_flipped_byte)
{
	struct sb_error err = SB_ERROR_INIT;
	char *text = envelope(json_pack("{s:i, s:s, s:[o]}", "version", 3, "expires", "2030-01-01T00:00:00.000Z", "keys",
		row(1, "2020-01-01T00:00:00.000Z", "2030-01-01T00:00:00.000Z", false)));
	size_t n = strlen(text);
	struct sb_keyring *kr = NULL;

	ck_assert_msg(sb_keyring_parse(&kr, text, n, keys.root_pk, DEVKEYS_NOW_MS, &err) == 0, "%s", err.msg);
	ck_assert_uint_eq(sb_keyring_version(kr), 3);
	sb_keyring_free(kr);
	for (size_t i = 0; i < n; i++) {
		kr = NULL;
		text[i] ^= 1;
		/* white space may become other white space; content may not */
		if (sb_keyring_parse(&kr, text, n, keys.root_pk, DEVKEYS_NOW_MS, &err) == 0)
			ck_assert_uint_eq(sb_keyring_version(kr), 3);
		sb_keyring_free(kr);
		text[i] ^= 1;
		ck_assert_int_lt(sb_keyring_parse(&kr, text, i, keys.root_pk, DEVKEYS_NOW_MS, &err), 0);
	}
	free(text);
}
END_TEST

START_TEST(test_newest_valid_party)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_keyring *kr = NULL;
	int64_t from[5];
	char *text = envelope(json_pack("{s:i, s:s, s:[o, o, o, o, o]}", "version", 9, "expires", "2030-01-01T00:00:00.000Z", "keys",
		row(1, "2024-01-01T00:00:00.000Z", "2027-01-01T00:00:00.000Z", false),
		row(2, "2025-01-01T00:00:00.000Z", "2027-01-01T00:00:00.000Z", false),
		row(3, "2026-01-01T00:00:00.000Z", "2027-01-01T00:00:00.000Z", true),
		row(4, "2026-02-01T00:00:00.000Z", "2026-02-02T00:00:00.000Z", false),
		row(5, "2026-12-01T00:00:00.000Z", "2027-01-01T00:00:00.000Z", false)));

	ck_assert_msg(sb_keyring_parse(&kr, text, strlen(text), keys.root_pk, DEVKEYS_NOW_MS, &err) == 0, "%s", err.msg);
	/* not the old one, not the revoked, not the one that ran out, not the one to come */
	ck_assert(sb_time_parse("2025-01-01T00:00:00.000Z", &from[0]));
	ck_assert_int_eq(sb_keyring_party(kr, "acme", "dev", DEVKEYS_NOW_MS)->not_before_ms, from[0]);
	sb_keyring_free(kr);
	free(text);
}
END_TEST

START_TEST(test_key_file)
{
	static const char *const bad[] = { "", "stagebridge-key-v1\n", "stagebridge-key-v2\nsign 00\nbox 00\n" };
	struct sb_error err = SB_ERROR_INIT;
	struct sb_identity *id = NULL;
	char path[128];
	char *text = NULL;
	size_t n;

	ck_assert_int_eq(sb_format(path, sizeof(path), NULL, "%s/x.key", keys.dir), 0);
	ck_assert_int_eq(sb_identity_load(&id, path, &err), SB_ECONFIG);
	for (size_t i = 0; i < SB_COUNT(bad); i++) {
		ck_assert_int_eq(sb_file_write(path, bad[i], strlen(bad[i]), 0400, &err), 0);
		ck_assert_int_eq(sb_identity_load(&id, path, &err), SB_ECONFIG);
	}
	char dev[128];
	ck_assert_int_eq(sb_format(dev, sizeof(dev), NULL, "%s/dev.key", keys.dir), 0);
	ck_assert_int_eq(sb_file_read(dev, 4096, &text, &n, &err), 0);
	ck_assert_int_eq(sb_file_write(path, text, n, 0444, &err), 0);
	ck_assert_int_eq(sb_identity_load(&id, path, &err), SB_ECONFIG); /* readable by others */
	text[30] = '~'; /* no temporary folder has it in its name */
	ck_assert_int_eq(sb_file_write(path, text, n, 0400, &err), 0);
	ck_assert_int_eq(sb_identity_load(&id, path, &err), SB_ECONFIG);
	ck_assert_msg(!strchr(err.msg, '~'), "the message holds content");
	ck_assert_int_eq(sb_root_load(path, keys.root_pk, &err), SB_ECONFIG);
	ck_assert_ptr_null(id);
	free(text);
}
END_TEST

START_TEST(test_sign_and_seal)
{
	static uint8_t body[40000];
	struct sb_error err = SB_ERROR_INIT;
	uint8_t sig[64], box[32 + 48], out[32], secret[32] = "secret";
	const uint8_t *pk = sb_identity_sign_pk(keys.dev);
	const size_t sizes[] = { 0, 1, 16300, 16384, sizeof(body) };

	for (size_t i = 0; i < SB_COUNT(sizes); i++) {
		sb_identity_sign(keys.dev, "a/b", body, sizes[i], sig);
		ck_assert(sb_dsse_verify(pk, "a/b", body, sizes[i], sig));
		ck_assert(!sb_dsse_verify(pk, "a/c", body, sizes[i], sig));
		ck_assert(!sb_dsse_verify(sb_identity_sign_pk(keys.prod), "a/b", body, sizes[i], sig));
		sig[3] ^= 1;
		ck_assert(!sb_dsse_verify(pk, "a/b", body, sizes[i], sig));
	}
	ck_assert_int_eq(crypto_box_seal(box, secret, sizeof(secret), sb_identity_box_pk(keys.train)), 0);
	ck_assert_int_eq(sb_identity_open(keys.train, box, sizeof(box), out, sizeof(out), &err), 0);
	ck_assert_mem_eq(out, secret, sizeof(secret));
	ck_assert_int_eq(sb_identity_open(keys.dev, box, sizeof(box), out, sizeof(out), &err), SB_ESIG);
	ck_assert_int_eq(sb_identity_open(keys.train, box, sizeof(box) - 1, out, sizeof(out), &err), SB_ESIG);
	box[40] ^= 1;
	ck_assert_int_eq(sb_identity_open(keys.train, box, sizeof(box), out, sizeof(out), &err), SB_ESIG);
}
END_TEST

/* The bytes of the DSSE envelope are a standard's: its own example, signed here, must verify over the PAE written out by hand. */
START_TEST(test_pae_bytes)
{
	static const char pae[] = "DSSEv1 29 http://example.com/HelloWorld 11 hello world";
	uint8_t sig[64];

	sb_identity_sign(keys.dev, "http://example.com/HelloWorld", "hello world", 11, sig);
	ck_assert_int_eq(crypto_sign_verify_detached(sig, (const unsigned char *)pae, strlen(pae), sb_identity_sign_pk(keys.dev)), 0);
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("keyring");

	tcase_add_unchecked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, test_dev_set);
	tcase_add_test(tc, test_dev_refuses);
	tcase_add_test(tc, test_random_set);
	tcase_add_test(tc, test_vectors);
	tcase_add_test(tc, test_every_flipped_byte);
	tcase_add_test(tc, test_newest_valid_party);
	tcase_add_test(tc, test_key_file);
	tcase_add_test(tc, test_sign_and_seal);
	tcase_add_test(tc, test_pae_bytes);
	Suite *s = suite_create("keyring");
	suite_add_tcase(s, tc);
	return test_run(s);
}
