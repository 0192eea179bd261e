/* The hub's settings: what the table in settings.c fills. Const after load. */
#ifndef HUB_SETTINGS_H
#define HUB_SETTINGS_H

#include "stagebridge/settings.h"

struct hub_broker { char *servers; int security; char *user, *password_file, *ca_file, *cert_file, *key_file; int64_t fetch_wait_ms; };

enum { HUB_MODE_AUTO, HUB_MODE_MANUAL };
struct hub_stage {
	char *name;
	struct hub_broker broker;
	int mode;                    /* of the edge into this stage: auto | manual */
	bool promoted;               /* part of the promotion path, in the order of the list; false: consumer (explore) */
	int64_t soak_ms;             /* continuous time in the stage before, for auto */
};

struct hub_type {                /* ownership and read-only copies of an entity type */
	char *type;
	char *owner;                 /* stage */
	struct sb_strings subscribers;
	char *history;               /* "false", "true", or how long versions are kept: see hub_type_history() */
	bool public_down;            /* may be copied to a stage earlier than its owner */
};

/** What `history` asks for: ret_keep_ms 0: for ever. SB_ECONFIG when it is neither true, false nor a duration of at least an hour. */
int hub_type_history(const struct hub_type *t, bool *ret_on, int64_t *ret_keep_ms, struct sb_error *err) SB_MUSTCHECK;

struct hub_dataset { char *dataset; char *from; struct sb_strings to; };   /* allowed data edges */

enum { HUB_FORGE_BARE, HUB_FORGE_GITEA };
struct hub_forge {
	int kind;
	char *path;                  /* bare: folder of the forge's repositories <path>/<repository>.git */
	char *url;                   /* gitea: https://gitea.example.org */
	char *owner;                 /* gitea: organisation or user that owns the repositories */
	char *token_file, *token_user, *webhook_secret_file, *ca_file;
	char *hook_url;              /* gitea: where it reaches this hub, ".../hooks/gitea/<tenant>"; empty: no webhook, poll alone */
	int64_t poll_ms;
};
struct hub_origin { char *name; char *repository; };

struct hub_tenant {
	char *name;
	char *database;              /* conninfo of the sync view */
	struct { char *identity, *keyring, *root; } keys;
	struct sb_list stages;       /* struct hub_stage; the order is the order of promotion */
	struct sb_list types;        /* struct hub_type */
	struct sb_list datasets;     /* struct hub_dataset */
	struct hub_forge forge;
	struct sb_list origins;      /* struct hub_origin */
	char *policy;                /* promotion policy, YAML; NULL: the stages' mode and soak alone */
};

struct hub_token { char *name; char *file; int role; };  /* static bearer tokens: viewer | developer | approver | admin */

struct hub_settings {
	char *state_dir;             /* repositories, spools */
	struct { char *host; int64_t port; int64_t threads; bool open; } http;  /* open: viewer rights without a token (demo) */
	struct sb_list tokens;
	struct sb_list tenants;
	struct { int64_t window; uint64_t max_bytes; } carrier;
	struct { int64_t ack_ms, apply_ms; } deadlines;
	struct { int level; int format; } log;
};

extern const struct sb_setting hub_settings_table[];
int hub_settings_load(struct hub_settings *set, const char *file, struct sb_error *err) SB_MUSTCHECK;
void hub_settings_release(struct hub_settings *set);

#endif
