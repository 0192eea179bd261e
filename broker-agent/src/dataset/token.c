/* Pseudonym keys and tokens with libsodium. The dataset lane's thread. Keys live in guarded, locked memory; a token's hash state with the key and the
 * domain already in it is copied for every value, and the copy is wiped. */
#include "token.h"

#include <sodium.h>
#include <string.h>

#include "stagebridge/buf.h"
#include "stagebridge/file.h"
#include "stagebridge/text.h"

#define ROOT_FILE_MAX 128
#define DIGEST 16
#define BASE32_LEN 26

struct agent_scope {
	uint8_t scope[32];
	uint8_t use[crypto_kdf_KEYBYTES];
};

struct agent_token {
	crypto_generichash_blake2b_state state; /* aligned to 64, and so is the end of a page behind it */
	size_t prefix_len;
	char prefix[AGENT_TOKEN_PREFIX_MAX + 1]; /* with the "_" */
};

static const uint8_t no_salt[crypto_generichash_blake2b_SALTBYTES];
static const uint8_t scope_personal[crypto_generichash_blake2b_PERSONALBYTES] = "SB-scope-v1";
static const uint8_t token_personal[crypto_generichash_blake2b_PERSONALBYTES] = "SB-pseud-v1";
static const uint8_t keyid_personal[crypto_generichash_blake2b_PERSONALBYTES] = "SB-keyid-v1";

static void le32(uint8_t out[4], size_t n)
{
	for (int i = 0; i < 4; i++)
		out[i] = (uint8_t)(n >> (8 * i));
}

static void add_lp(crypto_generichash_blake2b_state *st, const void *p, size_t n)
{
	uint8_t len[4];

	le32(len, n);
	/* these always return 0 */
	(void)crypto_generichash_blake2b_update(st, len, sizeof(len));
	(void)crypto_generichash_blake2b_update(st, p, n);
}

static int scope_new(struct agent_scope **ret, struct sb_error *err)
{
	if (sodium_init() < 0)
		return sb_fail(err, SB_EIO, "could not initialise libsodium");
	*ret = sodium_malloc(sizeof(**ret));
	return *ret ? 0 : sb_fail_nomem(err);
}

static void derive_use(struct agent_scope *s)
{
	(void)crypto_kdf_derive_from_key(s->use, sizeof(s->use), 1, "SBpseudo", s->scope); /* fails only for a bad length */
}

int agent_scope_from_root(struct agent_scope **ret, const uint8_t root[AGENT_ROOT_KEY], const char *tenant, const char *link, const char *recipient,
	const char *epoch, struct sb_error *err)
{
	const char *const part[] = { tenant, link, recipient, epoch };
	crypto_generichash_blake2b_state st;
	struct agent_scope *s = NULL;

	int r = scope_new(&s, err);
	if (r < 0)
		return r;
	(void)crypto_generichash_blake2b_init_salt_personal(&st, root, AGENT_ROOT_KEY, sizeof(s->scope), no_salt, scope_personal); /* lengths are fixed */
	for (size_t i = 0; i < SB_COUNT(part); i++)
		add_lp(&st, part[i], strlen(part[i]));
	(void)crypto_generichash_blake2b_final(&st, s->scope, sizeof(s->scope));
	sodium_memzero(&st, sizeof(st));
	derive_use(s);
	*ret = s;
	return 0;
}

int agent_scope_ephemeral(struct agent_scope **ret, struct sb_error *err)
{
	struct agent_scope *s = NULL;

	int r = scope_new(&s, err);
	if (r < 0)
		return r;
	randombytes_buf(s->scope, sizeof(s->scope));
	derive_use(s);
	*ret = s;
	return 0;
}

int agent_scope_stored(struct agent_scope **ret, const char *root_file, const char *tenant, const char *link, const char *recipient, const char *epoch,
	struct sb_error *err)
{
	uint8_t root[AGENT_ROOT_KEY];
	char *text = NULL;
	size_t n = 0;

	int r = sb_file_read_secret(root_file, ROOT_FILE_MAX, &text, &n, err);
	if (r < 0)
		return r;
	size_t digits = n;
	while (digits > 0 && n != sizeof(root) && (text[digits - 1] == '\n' || text[digits - 1] == '\r'))
		digits--;
	if (n == sizeof(root)) {
		memcpy(root, text, sizeof(root));
	} else {
		text[digits] = '\0';
		if (digits != 2 * sizeof(root) || sb_unhex(root, sizeof(root), text, NULL) < 0)
			r = sb_fail(err, SB_ECONFIG, "key file \"%s\" holds neither 32 bytes nor 64 hex digits", root_file);
	}
	if (r == 0)
		r = agent_scope_from_root(ret, root, tenant, link, recipient, epoch, err);
	sodium_memzero(root, sizeof(root));
	sodium_memzero(text, n);
	free(text);
	return r;
}

void agent_scope_free(struct agent_scope *s)
{
	sodium_free(s); /* wipes */
}

void agent_scope_key_id(const struct agent_scope *s, char out[17])
{
	uint8_t digest[32];

	(void)crypto_generichash_blake2b_salt_personal(digest, sizeof(digest), NULL, 0, s->scope, sizeof(s->scope), no_salt, keyid_personal); /* lengths are fixed */
	sb_hex(out, digest, 8);
}

int agent_token_new(struct agent_token **ret, const struct agent_scope *s, const char *domain, const char *prefix, struct sb_error *err)
{
	size_t n = strlen(prefix);

	if (n > AGENT_TOKEN_PREFIX_MAX)
		return sb_fail(err, SB_EINVAL, "token prefix is longer than %d bytes", AGENT_TOKEN_PREFIX_MAX);
	struct agent_token *t = sodium_malloc(sizeof(*t));
	if (!t)
		return sb_fail_nomem(err);
	memcpy(t->prefix, prefix, n);
	t->prefix[n] = '_';
	t->prefix_len = n + 1;
	(void)crypto_generichash_blake2b_init_salt_personal(&t->state, s->use, sizeof(s->use), DIGEST, no_salt, token_personal); /* lengths are fixed */
	add_lp(&t->state, domain, strlen(domain));
	*ret = t;
	return 0;
}

void agent_token_free(struct agent_token *t)
{
	sodium_free(t);
}

/* 128 bits, most significant first, in groups of five; two zero bits fill the last group */
static void base32(char *out, const uint8_t digest[DIGEST])
{
	static const char alphabet[] = "0123456789abcdefghjkmnpqrstvwxyz";
	unsigned bits = 0, held = 0, at = 0;

	for (unsigned i = 0; i < DIGEST; i++) {
		bits = bits << 8 | digest[i];
		for (held += 8; held >= 5; held -= 5)
			out[at++] = alphabet[bits >> (held - 5) & 31];
		bits &= 0xff;
	}
	out[at] = alphabet[bits << (5 - held) & 31];
}

size_t agent_token_write(const struct agent_token *t, const void *p, size_t n, char out[AGENT_TOKEN_MAX])
{
	crypto_generichash_blake2b_state st = t->state;
	uint8_t digest[DIGEST];

	if (p)
		add_lp(&st, p, n);
	(void)crypto_generichash_blake2b_final(&st, digest, sizeof(digest)); /* wipes the key out of st */
	memcpy(out, t->prefix, t->prefix_len);
	base32(out + t->prefix_len, digest);
	return t->prefix_len + BASE32_LEN;
}
