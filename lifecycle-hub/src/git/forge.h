/* A forge is where people's repositories, pull requests and commit statuses live. Two kinds: bare (plain repositories, no forge: the
 * embedded default; its pull requests live in our database) and gitea. A forge object belongs to the git lane. */
#ifndef HUB_FORGE_H
#define HUB_FORGE_H

#include "hub.h"
#include "stagebridge/clock.h"
#include "stagebridge/git.h"

struct hub_pull {
	int number;
	char title[256], state[8];          /* open | merged | closed */
	char head[256], base[256];          /* branch names */
	char head_oid[SB_OID_LEN + 1], merge_oid[SB_OID_LEN + 1];
	char author[96], merged_by[96], url[400];
	char created_at[SB_TIME_LEN + 8], updated_at[SB_TIME_LEN + 8];
};
struct hub_pulls { struct hub_pull *item; size_t count; };

/** What another system said about a commit. */
#define HUB_CHECKS_MAX 50
struct hub_check { char context[201], state[12], description[401], url[401], reporter[128]; };

struct hub_forge_api {
	const char *name;
	/** Makes repository, branches, protection and webhook as far as they are missing. Called at start and after trouble. */
	int (*provision)(void *forge, const char *repository, struct sb_error *err);
	/** Fills what sb_remote_* needs to reach the repository over Git. */
	int (*remote)(void *forge, const char *repository, char url[400], struct sb_remote *ret, struct sb_error *err);
	/** Opens a pull request, or adopts the open one with the same head and base. */
	int (*pull_open)(void *forge, const char *repository, const char *head, const char *base, const char *title, const char *body, const char *author, struct hub_pull *ret, struct sb_error *err);
	/** Pull requests changed since the last call with this object (all at the first), open ones always. */
	int (*pulls)(void *forge, const char *repository, struct hub_pulls *ret, struct sb_error *err);
	/** One pull request in full (lists may leave out who merged it); NULL when lists say all. */
	int (*pull_get)(void *forge, const char *repository, int number, struct hub_pull *ret, struct sb_error *err);
	/** Merges with the expected head: SB_ECONFLICT when it moved. Bare: fast-forward or merge commit; author is who asked. */
	int (*pull_merge)(void *forge, const char *repository, int number, const char *head_oid, const char *who, char merge_oid[SB_OID_LEN + 1], struct sb_error *err);
	int (*pull_close)(void *forge, const char *repository, int number, const char *comment, struct sb_error *err);
	/** state: pending | success | failure | error. */
	int (*status)(void *forge, const char *repository, const char *oid, const char *state, const char *context, const char *description, const char *url, struct sb_error *err);
	/** The newest word per context, at most HUB_CHECKS_MAX, without our own (stagebridge/...); NULL when the forge has none but those that are reported to the hub. */
	int (*checks)(void *forge, const char *repository, const char *oid, struct hub_check ret[HUB_CHECKS_MAX], size_t *ret_count, struct sb_error *err);
	void (*free)(void *forge);
};
int hub_forge_gitea_new(void **ret, const struct hub_forge_api **ret_api, struct hub_world *w, struct sb_error *err) SB_MUSTCHECK;
int hub_forge_bare_new(void **ret, const struct hub_forge_api **ret_api, struct hub_world *w, struct sb_pg *pg, struct sb_error *err) SB_MUSTCHECK;

/** HMAC check of a Gitea webhook (hex SHA-256 of the raw body); constant time; false with an empty secret or header. */
bool hub_webhook_ok(const uint8_t *secret, size_t secret_len, const void *body, size_t n, const char *signature_hex);

#endif
