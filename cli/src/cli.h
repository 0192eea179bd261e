/* The people's command line: one table of commands, two places to talk to. Inside a stage it needs nothing but the agent's socket;
 * with a hub's address and a token it asks the sync view. Exit codes: 0 done, 1 usage, 2 failed, 3 technical trouble, 4 waiting at a
 * gate or refused by a policy, 5 ended otherwise, 6 in doubt, 124 not within --wait. */
#ifndef CLI_H
#define CLI_H

#include <jansson.h>

#include "stagebridge/error.h"
#include "stagebridge/http_client.h"

enum cli_output { CLI_TABLE, CLI_JSON };

struct cli {
	const char *socket;              /* --socket or SB_SOCKET: the stage's agent */
	const char *hub;                 /* --hub or SB_HUB */
	const char *tenant;              /* --tenant or SB_TENANT */
	char *token;                     /* from --token-file or SB_TOKEN_FILE; never from argv */
	enum cli_output output;
	bool wait;
	int64_t wait_ms;
	bool quiet;
	struct sb_http_client *http;
	/* the command's own options, by name; see cli_option */
	const char *option[16];
	const char *argument[8];
	unsigned n_arguments;
};

/** One option of a command: "--branch NAME"; value NULL for a switch. */
struct cli_option { const char *name; const char *value; const char *help; };

struct cli_command {
	const char *name;                /* "get" */
	const char *arguments;           /* "stages|artifacts|..." */
	const char *summary;
	const char *help;                /* a paragraph and examples */
	const struct cli_option *options; /* ends with name NULL; index = place in struct cli.option */
	unsigned min_arguments, max_arguments;
	int (*run)(struct cli *cli, struct sb_error *err); /* exit status >= 0, or a negative code */
};
extern const struct cli_command cli_push, cli_promote, cli_rollback, cli_approve, cli_reject, cli_abort, cli_merge, cli_status, cli_get, cli_why, cli_data, cli_source, cli_resync,
	cli_keys, cli_provision, cli_policy, cli_stop, cli_resume, cli_hold, cli_release;

/* Talking. path starts with "/"; the tenant's part is added for the hub. *ret is new. */
int cli_agent_call(struct cli *cli, const char *method, const char *path, const json_t *body, json_t **ret, struct sb_error *err) SB_MUSTCHECK;
int cli_agent_upload(struct cli *cli, const char *path, const char *file, json_t **ret, struct sb_error *err) SB_MUSTCHECK;
int cli_hub_call(struct cli *cli, const char *method, const char *path, const json_t *body, json_t **ret, struct sb_error *err) SB_MUSTCHECK;
/** Percent-encodes a value into a query; appends. */
struct sb_buf;
void cli_query(struct sb_buf *out, const char *name, const char *value);

/**
 * Polls fetch until `settled` says so or --wait is over.
 * @return 1 settled, 0 time is over, negative error. *ret is the last answer (new).
 */
typedef int (*cli_fetch_fn)(struct cli *cli, const void *user, json_t **ret, struct sb_error *err);
typedef bool (*cli_settled_fn)(const json_t *answer);
int cli_poll(struct cli *cli, cli_fetch_fn fetch, cli_settled_fn settled, const void *user, json_t **ret, struct sb_error *err) SB_MUSTCHECK;

/* Showing */
struct cli_column { const char *header; const char *key; enum { CLI_TEXT, CLI_SHORT, CLI_AGE, CLI_NUMBER, CLI_LIST } form; };
/** Prints items as an aligned table (columns end with header NULL), or the whole answer as JSON. */
void cli_show(const struct cli *cli, const json_t *answer, const struct cli_column *columns);
/** Prints the answer as JSON under -o json, else the text. */
void cli_say(const struct cli *cli, const json_t *answer, const char *fmt, ...) SB_PRINTF(3, 4);
const char *cli_str(const json_t *object, const char *key);  /* "" when absent */
/** Exit status by the promotion's state name; a request that is not yet a promotion counts as waiting. */
int cli_exit_of(const char *state);

#endif
