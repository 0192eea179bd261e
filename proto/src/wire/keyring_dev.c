/* Makes the keys of a development set-up: a root, one key file per party, and the keyring signed by that root. Runs in the CLI and in
 * tests. The keyring is written last, so a folder with a keyring is whole. With a seed the keys are the same everywhere: for tests only. */
#include <stdio.h>
#include <string.h>

#include <jansson.h>
#include <sodium.h>

#include "key_file.h"
#include "stagebridge/clock.h"
#include "stagebridge/file.h"
#include "stagebridge/keyring.h"

#define DAY_MS      (24LL * 3600 * 1000)
#define LIFE_MS     (3650 * DAY_MS)
#define SEEDED_FROM "2020-01-01T00:00:00.000Z"
#define SEEDED_TO   "2099-12-31T23:59:59.000Z"
#define PATH_SIZE   1024

struct dev {
	const char *dir, *tenant, *seed;
	char from[SB_TIME_LEN + 1], to[SB_TIME_LEN + 1];
	json_t *rows;
};

/* SHA-256("stagebridge-test-seed:<seed>:<party>:<use>"), or random */
static int secret(uint8_t out[32], const char *seed, const char *party, const char *use, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *text = NULL;

	if (!seed) {
		randombytes_buf(out, 32);
		return 0;
	}
	text = sb_asprintf("stagebridge-test-seed:%s:%s:%s", seed, party, use);
	if (!text)
		return sb_fail_nomem(err);
	crypto_hash_sha256(out, (const unsigned char *)text, strlen(text));
	return 0;
}

static int write_key_file(
	const struct dev *d, const char *party, const uint8_t sign_seed[32], const uint8_t box_sk[32], struct sb_error *err)
{
	char path[PATH_SIZE];
	char text[SB_KEY_FILE_SIZE + 1];
	char sign[65], box[65];

	sb_hex(sign, sign_seed, 32);
	sb_hex(box, box_sk, 32);
	int r = sb_format(path, sizeof(path), err, "%s/%s.key", d->dir, party);
	if (r == 0)
		r = sb_format(text, sizeof(text), err, "%s%s%s%s\n", SB_KEY_FILE_HEAD, sign, SB_KEY_FILE_BOX, box);
	if (r == 0)
		r = sb_file_write(path, text, SB_KEY_FILE_SIZE, 0400, err);
	sodium_memzero(text, sizeof(text));
	sodium_memzero(sign, sizeof(sign));
	sodium_memzero(box, sizeof(box));
	return r;
}

/* Writes <party>.key and, unless it is the root, adds its row. */
static int make_party(struct dev *d, const char *party, struct sb_error *err)
{
	uint8_t sign_seed[32], box_sk[32], box_pk[32], sign_pk[32], sign_sk[64], digest[32];
	char kid[SB_KID_LEN + 1], sign_hex[65], box_hex[65];

	int r = secret(sign_seed, d->seed, party, "sign", err);
	if (r == 0)
		r = secret(box_sk, d->seed, party, "box", err);
	if (r == 0)
		r = write_key_file(d, party, sign_seed, box_sk, err);
	if (r < 0)
		goto out;
	(void)crypto_sign_seed_keypair(sign_pk, sign_sk, sign_seed); /* always 0 */
	if (crypto_scalarmult_base(box_pk, box_sk) != 0) {
		r = sb_fail(err, SB_EIO, "could not make a box key");
		goto out;
	}
	sb_hex(sign_hex, sign_pk, 32);
	if (strcmp(party, "root") == 0) {
		char path[PATH_SIZE];
		sign_hex[64] = '\n';
		r = sb_format(path, sizeof(path), err, "%s/root.pub", d->dir);
		if (r == 0)
			r = sb_file_write(path, sign_hex, 65, 0444, err);
		goto out;
	}
	sb_hex(box_hex, box_pk, 32);
	crypto_hash_sha256(digest, sign_pk, sizeof(sign_pk));
	sb_hex(kid, digest, SB_KID_LEN / 2);
	if (json_array_append_new(d->rows, json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:b}", "kid", kid, "role",
						   strcmp(party, "hub") == 0 ? "hub" : "agent", "tenant", d->tenant, "stage", party, "sign",
						   sign_hex, "box", box_hex, "not_before", d->from, "not_after", d->to, "revoked", 0)) < 0)
		r = sb_fail_nomem(err);
out:
	sodium_memzero(sign_seed, sizeof(sign_seed));
	sodium_memzero(box_sk, sizeof(box_sk));
	sodium_memzero(sign_sk, sizeof(sign_sk));
	return r;
}

static int write_keyring(const struct dev *d, const char *path, struct sb_error *err)
{
	char root_key[PATH_SIZE];
	uint8_t sig[64];
	struct sb_identity *root = NULL;
	json_t *payload = json_pack("{s:i, s:s, s:O}", "version", 1, "expires", d->to, "keys", d->rows);
	json_t *envelope = NULL;
	char *body = payload ? json_dumps(payload, JSON_COMPACT) : NULL;
	char *body64 = NULL, *sig64 = NULL, *text = NULL;

	int r = sb_format(root_key, sizeof(root_key), err, "%s/root.key", d->dir);
	if (r == 0)
		r = sb_identity_load(&root, root_key, err);
	if (r < 0)
		goto out;
	if (body) {
		sb_identity_sign(root, SB_PAYLOAD_KEYRING, body, strlen(body), sig);
		body64 = sb_base64((const uint8_t *)body, strlen(body));
		sig64 = sb_base64(sig, sizeof(sig));
	}
	if (body64 && sig64)
		envelope = json_pack("{s:s, s:s, s:[{s:s, s:s}]}", "payloadType", SB_PAYLOAD_KEYRING, "payload", body64, "signatures",
			"keyid", sb_identity_kid(root), "sig", sig64);
	text = envelope ? json_dumps(envelope, JSON_INDENT(1)) : NULL;
	r = text ? sb_file_write(path, text, strlen(text), 0444, err) : sb_fail_nomem(err);
out:
	free(text);
	free(sig64);
	free(body64);
	free(body);
	json_decref(envelope);
	json_decref(payload);
	sb_identity_free(root);
	return r;
}

static int check_names(const char *tenant, const char *const *stages, size_t n_stages, struct sb_error *err)
{
	if (!sb_name_ok(tenant))
		return sb_fail(err, SB_EINVAL, "tenant \"%s\" is not a name", tenant);
	for (size_t i = 0; i < n_stages; i++) {
		if (!sb_name_ok(stages[i]) || strcmp(stages[i], "hub") == 0 || strcmp(stages[i], "root") == 0)
			return sb_fail(err, SB_EINVAL, "stage \"%s\" is not a name, or is reserved", stages[i]);
		for (size_t j = 0; j < i; j++) {
			if (strcmp(stages[i], stages[j]) == 0)
				return sb_fail(err, SB_EINVAL, "stage \"%s\" is named twice", stages[i]);
		}
	}
	return 0;
}

int sb_keyring_make_dev(
	const char *dir, const char *tenant, const char *const *stages, size_t n_stages, const char *seed, struct sb_error *err)
{
	struct dev d = { .dir = dir, .tenant = tenant, .seed = seed, .from = SEEDED_FROM, .to = SEEDED_TO };
	char path[PATH_SIZE];
	sb_cleanup(sb_freep) char *old = NULL;
	struct sb_error absent = SB_ERROR_INIT;
	size_t n;

	int r = check_names(tenant, stages, n_stages, err);
	if (r < 0)
		return r;
	if (sodium_init() < 0)
		return sb_fail(err, SB_EIO, "could not initialise libsodium");
	r = sb_dir_make(dir, 0700, err);
	if (r == 0)
		r = sb_format(path, sizeof(path), err, "%s/keyring.json", dir);
	if (r < 0)
		return r;
	if (sb_file_read(path, 0, &old, &n, &absent) != SB_ENOTFOUND)
		return sb_fail(err, SB_ECONFLICT, "\"%s\" is there already", path);
	if (!seed) {
		int64_t now_ms = sb_wall_ms();
		sb_time_format(d.from, now_ms - DAY_MS);
		sb_time_format(d.to, now_ms + LIFE_MS);
	}
	d.rows = json_array();
	r = d.rows ? make_party(&d, "root", err) : sb_fail_nomem(err);
	if (r == 0)
		r = make_party(&d, "hub", err);
	for (size_t i = 0; r == 0 && i < n_stages; i++)
		r = make_party(&d, stages[i], err);
	if (r == 0)
		r = write_keyring(&d, path, err);
	json_decref(d.rows);
	return r;
}
