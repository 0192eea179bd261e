/* Keyed pseudonyms. All keys come from the tenant's root key, which never leaves the stage that owns the data, or from nothing but chance:
 *   scope = BLAKE2b-256(key = root, personal "SB-scope-v1", LP(tenant) LP(link) LP(recipient) LP(epoch))   or 32 random bytes
 *   use   = crypto_kdf(scope, 1, "SBpseudo")
 *   token = BLAKE2b-128(key = use, personal "SB-pseud-v1", LP(domain) LP(value))    NULL: LP(domain) alone
 *   key id = first 8 bytes of BLAKE2b-256(key = scope, personal "SB-keyid-v1", "")
 * LP(x) is the length in 4 bytes, little-endian, then x. Vectors: proto/vectors/pseudonym.json. */
#ifndef AGENT_DATASET_TOKEN_H
#define AGENT_DATASET_TOKEN_H

#include "stagebridge/base.h"
#include "stagebridge/error.h"

#define AGENT_ROOT_KEY 32
#define AGENT_TOKEN_PREFIX_MAX 63
#define AGENT_TOKEN_MAX (AGENT_TOKEN_PREFIX_MAX + 1 + 26) /* "<prefix>_<26 base32>" */

struct agent_scope;  /* the keys of one run, in locked memory, wiped when freed */
/** The root key file: 32 bytes, or 64 hex digits and perhaps a line end. link: "dataset:<name>" or "group:<name>". */
int agent_scope_stored(struct agent_scope **ret, const char *root_file, const char *tenant, const char *link, const char *recipient, const char *epoch,
	struct sb_error *err) SB_MUSTCHECK;
int agent_scope_from_root(struct agent_scope **ret, const uint8_t root[AGENT_ROOT_KEY], const char *tenant, const char *link, const char *recipient,
	const char *epoch, struct sb_error *err) SB_MUSTCHECK;
/** Random: nobody can ever make these tokens again. */
int agent_scope_ephemeral(struct agent_scope **ret, struct sb_error *err) SB_MUSTCHECK;
void agent_scope_free(struct agent_scope *s);
void agent_scope_key_id(const struct agent_scope *s, char out[17]);

struct agent_token;  /* one domain under a scope */
/** prefix: at most AGENT_TOKEN_PREFIX_MAX bytes. */
int agent_token_new(struct agent_token **ret, const struct agent_scope *s, const char *domain, const char *prefix, struct sb_error *err) SB_MUSTCHECK;
void agent_token_free(struct agent_token *t);
/** Writes the token of a value, or of NULL when p is NULL, without a NUL; returns its length. */
size_t agent_token_write(const struct agent_token *t, const void *p, size_t n, char out[AGENT_TOKEN_MAX]);

#endif
