/* The keyring: a DSSE envelope signed by the offline root, checked before its content is looked at. Immutable once parsed: any thread
 * may read it; who replaces it (reload) owns the change. Reads one file, nothing else. */
#include "stagebridge/keyring.h"

#include <string.h>

#include <sodium.h>

#include "json_strict.h"
#include "stagebridge/clock.h"
#include "stagebridge/file.h"

#define KEYRING_MAX (1024 * 1024)
#define KEYS_MAX    4096

struct sb_keyring {
	uint64_t version;
	size_t n;
	struct sb_key *key; /* sorted by kid */
};

void sb_keyring_free(struct sb_keyring *kr)
{
	if (!kr)
		return;
	free(kr->key);
	free(kr);
}

static void keyring_freep(struct sb_keyring **kr)
{
	sb_keyring_free(*kr);
}

uint64_t sb_keyring_version(const struct sb_keyring *kr)
{
	return kr->version;
}

static int by_kid(const void *a, const void *b)
{
	return strcmp(((const struct sb_key *)a)->kid, ((const struct sb_key *)b)->kid);
}

const struct sb_key *sb_keyring_find(const struct sb_keyring *kr, const char *kid)
{
	size_t low = 0, high = kr->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		int c = strcmp(kid, kr->key[mid].kid);
		if (c == 0)
			return &kr->key[mid];
		if (c < 0)
			high = mid;
		else
			low = mid + 1;
	}
	return NULL;
}

const struct sb_key *sb_keyring_party(const struct sb_keyring *kr, const char *tenant, const char *stage, int64_t now_ms)
{
	const struct sb_key *best = NULL;

	for (size_t i = 0; i < kr->n; i++) {
		const struct sb_key *k = &kr->key[i];
		if (k->revoked || now_ms < k->not_before_ms || now_ms > k->not_after_ms || strcmp(k->tenant, tenant) != 0 ||
			strcmp(k->stage, stage) != 0)
			continue;
		if (!best || k->not_before_ms > best->not_before_ms)
			best = k;
	}
	return best;
}

static int copy_name(char out[SB_NAME_MAX + 1], const char *s)
{
	if (!s || !sb_name_ok(s))
		return -1;
	memcpy(out, s, strlen(s) + 1);
	return 0;
}

static int public_key(uint8_t out[32], const char *hex)
{
	return hex && sb_hex_ok(hex, 64) ? sb_unhex(out, 32, hex, NULL) : -1;
}

static int parse_key(struct sb_key *k, const json_t *o, struct sb_error *err)
{
	static const char *const keys[] = { "kid", "role", "tenant", "stage", "sign", "box", "not_before", "not_after", "revoked" };
	uint8_t digest[32];
	const char *wrong = NULL;

	int r = sb_json_closed(o, keys, SB_COUNT(keys), "keyring row", err);
	if (r < 0)
		return r;
	const char *kid = sb_json_string(o, "kid");
	const char *role = sb_json_string(o, "role");
	bool hub = role && strcmp(role, "hub") == 0;

	if (!hub && (!role || strcmp(role, "agent") != 0))
		wrong = "role";
	else if (copy_name(k->tenant, sb_json_string(o, "tenant")) < 0)
		wrong = "tenant";
	else if (copy_name(k->stage, sb_json_string(o, "stage")) < 0 || hub != (strcmp(k->stage, "hub") == 0))
		wrong = "stage";
	else if (public_key(k->sign_pk, sb_json_string(o, "sign")) < 0)
		wrong = "sign";
	else if (public_key(k->box_pk, sb_json_string(o, "box")) < 0)
		wrong = "box";
	else if (!sb_json_time(o, "not_before", &k->not_before_ms))
		wrong = "not_before";
	else if (!sb_json_time(o, "not_after", &k->not_after_ms) || k->not_after_ms <= k->not_before_ms)
		wrong = "not_after";
	else if (!json_is_boolean(json_object_get(o, "revoked")))
		wrong = "revoked";
	if (wrong)
		return sb_fail(err, SB_EPROTO, "keyring row has a bad \"%s\"", wrong);

	k->role = hub ? SB_ROLE_HUB : SB_ROLE_AGENT;
	k->revoked = json_is_true(json_object_get(o, "revoked"));
	crypto_hash_sha256(digest, k->sign_pk, sizeof(k->sign_pk));
	sb_hex(k->kid, digest, SB_KID_LEN / 2);
	if (!kid || strcmp(kid, k->kid) != 0)
		return sb_fail(err, SB_EPROTO, "keyring row has a \"kid\" that is not its key's");
	return 0;
}

static int parse_rows(struct sb_keyring *kr, const json_t *rows, struct sb_error *err)
{
	size_t n = json_array_size(rows);

	if (!json_is_array(rows) || n == 0 || n > KEYS_MAX)
		return sb_fail(err, SB_EPROTO, "keyring does not hold 1 to %d keys", KEYS_MAX);
	kr->key = calloc(n, sizeof(*kr->key));
	if (!kr->key)
		return sb_fail_nomem(err);
	for (; kr->n < n; kr->n++) {
		int r = parse_key(&kr->key[kr->n], json_array_get(rows, kr->n), err);
		if (r < 0) {
			sb_fail_prefix(err, "row %zu", kr->n + 1);
			return r;
		}
	}
	qsort(kr->key, n, sizeof(*kr->key), by_kid);
	for (size_t i = 1; i < n; i++) {
		if (strcmp(kr->key[i].kid, kr->key[i - 1].kid) == 0)
			return sb_fail(err, SB_EPROTO, "keyring holds key %s twice", kr->key[i].kid);
	}
	return 0;
}

static int parse_payload(struct sb_keyring *kr, const char *payload, size_t n, int64_t now_ms, struct sb_error *err)
{
	static const char *const keys[] = { "version", "expires", "keys" };
	json_auto_t *o = NULL;
	int64_t expires_ms;

	int r = sb_json_load_object(&o, payload, n, "keyring payload", err);
	if (r == 0)
		r = sb_json_closed(o, keys, SB_COUNT(keys), "keyring payload", err);
	if (r < 0)
		return r;
	if (!sb_json_u64(o, "version", &kr->version) || kr->version == 0)
		return sb_fail(err, SB_EPROTO, "keyring has a bad \"version\"");
	if (!sb_json_time(o, "expires", &expires_ms))
		return sb_fail(err, SB_EPROTO, "keyring has a bad \"expires\"");
	if (now_ms > expires_ms)
		return sb_fail(err, SB_EAUTH, "keyring version %llu has run out at %s", (unsigned long long)kr->version,
			sb_json_string(o, "expires"));
	return parse_rows(kr, json_object_get(o, "keys"), err);
}

/* DSSE asks to accept both alphabets. Returns new; the length is at most three quarters of the text. */
static uint8_t *decode(const char *b64, size_t *ret_len)
{
	static const int variants[] = { sodium_base64_VARIANT_ORIGINAL, sodium_base64_VARIANT_URLSAFE };
	size_t len = strlen(b64);
	uint8_t *out = malloc(len / 4 * 3 + 4);
	const char *end = NULL;

	for (size_t i = 0; out && i < SB_COUNT(variants); i++) {
		if (sodium_base642bin(out, len / 4 * 3 + 4, b64, len, NULL, ret_len, &end, variants[i]) == 0 && *end == '\0')
			return out;
	}
	free(out);
	return NULL;
}

static bool signed_by_root(const json_t *signatures, const uint8_t root_pk[32], const uint8_t *payload, size_t n)
{
	size_t i;
	const json_t *o;

	json_array_foreach(signatures, i, o)
	{
		const char *b64 = sb_json_string(o, "sig");
		size_t sn = 0;
		sb_cleanup(sb_freep) uint8_t *sig = b64 ? decode(b64, &sn) : NULL;
		if (sig && sn == crypto_sign_BYTES && sb_dsse_verify(root_pk, SB_PAYLOAD_KEYRING, payload, n, sig))
			return true;
		if (i == 15)
			break; /* a handful of roots at most: do not verify without end */
	}
	return false;
}

int sb_keyring_parse(struct sb_keyring **ret, const char *json, size_t n, const uint8_t root_pk[32], int64_t now_ms, struct sb_error *err)
{
	static const char *const keys[] = { "payloadType", "payload", "signatures" };
	json_auto_t *envelope = NULL;
	sb_cleanup(sb_freep) uint8_t *payload = NULL;
	sb_cleanup(keyring_freep) struct sb_keyring *kr = NULL;
	size_t payload_len = 0;

	if (sodium_init() < 0)
		return sb_fail(err, SB_EIO, "could not initialise libsodium");
	if (n > KEYRING_MAX)
		return sb_fail(err, SB_ETOOBIG, "keyring is larger than %d bytes", KEYRING_MAX);
	int r = sb_json_load_object(&envelope, json, n, "keyring", err);
	if (r == 0)
		r = sb_json_closed(envelope, keys, SB_COUNT(keys), "keyring", err);
	if (r < 0)
		return r;
	const char *type = sb_json_string(envelope, "payloadType");
	const char *b64 = sb_json_string(envelope, "payload");
	if (!type || strcmp(type, SB_PAYLOAD_KEYRING) != 0 || !b64)
		return sb_fail(err, SB_EPROTO, "keyring has a bad \"payloadType\" or \"payload\"");
	payload = decode(b64, &payload_len);
	if (!payload)
		return sb_fail(err, SB_EPROTO, "keyring payload is not base64");
	if (!signed_by_root(json_object_get(envelope, "signatures"), root_pk, payload, payload_len))
		return sb_fail(err, SB_ESIG, "keyring is not signed by the root");
	kr = calloc(1, sizeof(*kr));
	if (!kr)
		return sb_fail_nomem(err);
	r = parse_payload(kr, (const char *)payload, payload_len, now_ms, err);
	if (r < 0)
		return r;
	*ret = SB_TAKE(kr);
	return 0;
}

int sb_keyring_load(struct sb_keyring **ret, const char *path, const uint8_t root_pk[32], int64_t now_ms, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *json = NULL;
	size_t n;

	int r = sb_file_read(path, KEYRING_MAX, &json, &n, err);
	if (r < 0)
		return r;
	r = sb_keyring_parse(ret, json, n, root_pk, now_ms, err);
	if (r < 0)
		sb_fail_prefix(err, "\"%s\"", path);
	return r;
}

int sb_root_load(const char *path, uint8_t root_pk[32], struct sb_error *err)
{
	sb_cleanup(sb_freep) char *hex = NULL;
	size_t n;

	int r = sb_file_read(path, 256, &hex, &n, err);
	if (r < 0)
		return r;
	if (n > 0 && hex[n - 1] == '\n')
		hex[--n] = '\0';
	if (n != 64 || public_key(root_pk, hex) < 0)
		return sb_fail(err, SB_ECONFIG, "\"%s\" does not hold a public key of 64 lower-case hex digits", path);
	return 0;
}
