/* The private half of a party, and DSSE signatures. An identity is read once at start and never changes: any thread may use it.
 * Secrets live in sodium_malloc pages made read-only; every copy on the way is wiped. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include <sodium.h>

#include "key_file.h"
#include "stagebridge/file.h"
#include "stagebridge/keyring.h"

#define KEY_FILE_MAX 4096
#define PAE_STACK    (16 * 1024) /* holds every record's body; larger ones (keyrings, attestations) go to the heap */

struct sb_identity {
	char kid[SB_KID_LEN + 1];
	uint8_t sign_pk[crypto_sign_PUBLICKEYBYTES];
	uint8_t box_pk[crypto_box_PUBLICKEYBYTES];
	uint8_t sign_sk[crypto_sign_SECRETKEYBYTES];
	uint8_t box_sk[crypto_box_SECRETKEYBYTES];
};

static int parse_key_file(const char *text, size_t n, uint8_t sign_seed[32], uint8_t box_sk[32], struct sb_error *err)
{
	const char *sign = text + strlen(SB_KEY_FILE_HEAD);
	const char *mid = sign + 64;
	const char *box = mid + strlen(SB_KEY_FILE_BOX);
	char hex[65];

	if (n != SB_KEY_FILE_SIZE || memcmp(text, SB_KEY_FILE_HEAD, strlen(SB_KEY_FILE_HEAD)) != 0 ||
		memcmp(mid, SB_KEY_FILE_BOX, strlen(SB_KEY_FILE_BOX)) != 0 || text[n - 1] != '\n')
		return sb_fail(err, SB_ECONFIG, "it is not of the form \"stagebridge-key-v1\"");
	memcpy(hex, sign, 64);
	hex[64] = '\0';
	bool ok = sb_hex_ok(hex, 64) && sb_unhex(sign_seed, 32, hex, NULL) == 0;
	memcpy(hex, box, 64);
	ok = ok && sb_hex_ok(hex, 64) && sb_unhex(box_sk, 32, hex, NULL) == 0;
	sodium_memzero(hex, sizeof(hex));
	if (!ok)
		return sb_fail(err, SB_ECONFIG, "a key in it is not 64 lower-case hex digits");
	return 0;
}

int sb_identity_load(struct sb_identity **ret, const char *key_file, struct sb_error *err)
{
	char *text = NULL;
	size_t n = 0;
	uint8_t seed[32], digest[32];
	struct sb_identity *id = NULL;

	if (sodium_init() < 0)
		return sb_fail(err, SB_EIO, "could not initialise libsodium");
	int r = sb_file_read_secret(key_file, KEY_FILE_MAX, &text, &n, err);
	if (r < 0)
		return r;
	id = sodium_malloc(sizeof(*id));
	if (!id) {
		r = sb_fail_nomem(err);
		goto out;
	}
	r = parse_key_file(text, n, seed, id->box_sk, err);
	if (r < 0) {
		sb_fail_prefix(err, "key file \"%s\"", key_file);
		goto out;
	}
	(void)crypto_sign_seed_keypair(id->sign_pk, id->sign_sk, seed); /* always 0 */
	if (crypto_scalarmult_base(id->box_pk, id->box_sk) != 0) {
		r = sb_fail(err, SB_ECONFIG, "key file \"%s\": the box key cannot be used", key_file);
		goto out;
	}
	crypto_hash_sha256(digest, id->sign_pk, sizeof(id->sign_pk));
	sb_hex(id->kid, digest, SB_KID_LEN / 2);
	(void)sodium_mprotect_readonly(id); /* hardening only: it works without */
	*ret = SB_TAKE(id);
out:
	sb_identity_free(id);
	sodium_memzero(seed, sizeof(seed));
	sodium_memzero(text, n);
	free(text);
	return r;
}

void sb_identity_free(struct sb_identity *id)
{
	sodium_free(id); /* wipes; NULL is fine */
}

const char *sb_identity_kid(const struct sb_identity *id)
{
	return id->kid;
}

const uint8_t *sb_identity_sign_pk(const struct sb_identity *id)
{
	return id->sign_pk;
}

const uint8_t *sb_identity_box_pk(const struct sb_identity *id)
{
	return id->box_pk;
}

/* DSSE v1: "DSSEv1" SP LEN(type) SP type SP LEN(body) SP body. Writes to stack when it fits, else returns new in *ret_heap. */
static uint8_t *pae(uint8_t stack[PAE_STACK], uint8_t **ret_heap, const char *type, const void *body, size_t n, size_t *ret_len)
{
	char head[160];
	int hn = snprintf(head, sizeof(head), "DSSEv1 %zu %s %zu ", strlen(type), type, n);
	uint8_t *to = stack;

	assert(hn > 0 && (size_t)hn < sizeof(head)); /* types are constants of ours */
	*ret_len = (size_t)hn + n;
	if (*ret_len > PAE_STACK) {
		to = malloc(*ret_len);
		*ret_heap = to;
	}
	if (to) {
		memcpy(to, head, (size_t)hn);
		if (n > 0)
			memcpy(to + hn, body, n);
	}
	return to;
}

void sb_identity_sign(const struct sb_identity *id, const char *payload_type, const void *body, size_t n, uint8_t sig[64])
{
	uint8_t stack[PAE_STACK];
	sb_cleanup(sb_freep) uint8_t *heap = NULL;
	size_t len;

	const uint8_t *message = pae(stack, &heap, payload_type, body, n, &len);
	if (message)
		(void)crypto_sign_detached(sig, NULL, message, len, id->sign_sk); /* always 0 */
	else
		memset(sig, 0, crypto_sign_BYTES); /* no memory: a signature that nobody accepts */
}

bool sb_dsse_verify(const uint8_t pk[32], const char *payload_type, const void *body, size_t n, const uint8_t sig[64])
{
	uint8_t stack[PAE_STACK];
	sb_cleanup(sb_freep) uint8_t *heap = NULL;
	size_t len;

	const uint8_t *message = pae(stack, &heap, payload_type, body, n, &len);
	return message && crypto_sign_verify_detached(sig, message, len, pk) == 0;
}

int sb_identity_open(const struct sb_identity *id, const uint8_t *box, size_t box_len, uint8_t *out, size_t n, struct sb_error *err)
{
	if (box_len != n + crypto_box_SEALBYTES)
		return sb_fail(err, SB_ESIG, "sealed box of %zu bytes does not hold %zu", box_len, n);
	if (crypto_box_seal_open(out, box, box_len, id->box_pk, id->box_sk) != 0)
		return sb_fail(err, SB_ESIG, "sealed box is not for key %s, or was altered", id->kid);
	return 0;
}
