/* Who may speak for whom. The keyring is a DSSE envelope (v1) signed by an offline root; the key that verified, never a name in the
 * record, decides what a record may say. Private keys are files 0400. */
#ifndef STAGEBRIDGE_KEYRING_H
#define STAGEBRIDGE_KEYRING_H

#include "stagebridge/base.h"
#include "stagebridge/error.h"
#include "stagebridge/text.h"

#define SB_KID_LEN 16              /* first 16 hex digits of SHA-256(public signing key): a hint only */
#define SB_PAYLOAD_KEYRING "application/vnd.stagebridge.keyring.v1"

enum sb_role { SB_ROLE_AGENT, SB_ROLE_HUB };

struct sb_key {
	char kid[SB_KID_LEN + 1];
	enum sb_role role;
	char tenant[SB_NAME_MAX + 1];
	char stage[SB_NAME_MAX + 1];   /* agents; "hub" for hubs */
	uint8_t sign_pk[32];
	uint8_t box_pk[32];
	int64_t not_before_ms, not_after_ms;
	bool revoked;
};

struct sb_keyring;
/** Reads, checks the root's signature first, then the content (expired: SB_EAUTH). */
int sb_keyring_load(struct sb_keyring **ret, const char *path, const uint8_t root_pk[32], int64_t now_ms, struct sb_error *err) SB_MUSTCHECK;
int sb_keyring_parse(struct sb_keyring **ret, const char *json, size_t n, const uint8_t root_pk[32], int64_t now_ms, struct sb_error *err) SB_MUSTCHECK;
void sb_keyring_free(struct sb_keyring *kr);
uint64_t sb_keyring_version(const struct sb_keyring *kr);
/** Borrowed; NULL when unknown. */
const struct sb_key *sb_keyring_find(const struct sb_keyring *kr, const char *kid);
/** The newest valid key of a party, for sealing to it; NULL when none. stage "hub" means the hub. */
const struct sb_key *sb_keyring_party(const struct sb_keyring *kr, const char *tenant, const char *stage, int64_t now_ms);

/** The private half of a party: what signs and opens. Memory from sodium_malloc. */
struct sb_identity;
int sb_identity_load(struct sb_identity **ret, const char *key_file, struct sb_error *err) SB_MUSTCHECK;
void sb_identity_free(struct sb_identity *id);
const char *sb_identity_kid(const struct sb_identity *id);
const uint8_t *sb_identity_sign_pk(const struct sb_identity *id);
const uint8_t *sb_identity_box_pk(const struct sb_identity *id);
/** Detached Ed25519 over the DSSE v1 PAE of (payload_type, body). Bodies above 16 KiB need memory; without it sig is all zero, which
 * nobody accepts. */
void sb_identity_sign(const struct sb_identity *id, const char *payload_type, const void *body, size_t n, uint8_t sig[64]);
/** Opens a libsodium sealed box of exactly n + 48 bytes into out. SB_ESIG when it is not for us. */
int sb_identity_open(const struct sb_identity *id, const uint8_t *box, size_t box_len, uint8_t *out, size_t n, struct sb_error *err) SB_MUSTCHECK;
bool sb_dsse_verify(const uint8_t pk[32], const char *payload_type, const void *body, size_t n, const uint8_t sig[64]);

/**
 * Makes a development root, one key file per party and the signed keyring in dir (created 0700): root.key, root.pub (hex), hub.key,
 * <stage>.key ..., keyring.json. The stages "hub" and "root" are reserved. root.key loads as an identity too. Refuses (SB_ECONFLICT) when keyring.json is there. seed NULL: random; else deterministic test keys.
 */
int sb_keyring_make_dev(const char *dir, const char *tenant, const char *const *stages, size_t n_stages, const char *seed, struct sb_error *err) SB_MUSTCHECK;
/** Reads a hex public key file (root.pub). */
int sb_root_load(const char *path, uint8_t root_pk[32], struct sb_error *err) SB_MUSTCHECK;

#endif
