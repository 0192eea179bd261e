/* get, status, why: what is where, since when, how fresh, and why something waits. One table of nouns. */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "stagebridge/buf.h"
#include "stagebridge/text.h"

enum { OPT_ORIGIN, OPT_STAGE, OPT_STATE, OPT_LIMIT };
static const struct cli_option get_options[] = {
	{ "--origin", "NAME", "only this origin" },
	{ "--stage", "NAME", "only this stage" },
	{ "--state", "open|all", "promotions: those that are not over, or all (default)" },
	{ "--limit", "N", "at most that many, newest first (default 50)" },
	{ NULL, NULL, NULL },
};

static const struct cli_column stage_columns[] = { { "STAGE", "name", CLI_TEXT }, { "STATUS", "status", CLI_TEXT }, { "MODE", "mode", CLI_TEXT }, { "HEARTBEAT", "heartbeat_at", CLI_AGE },
	{ "AGENT", "agent_version", CLI_TEXT }, { "LAG-MS", "lag_ms", CLI_NUMBER }, { "OUTBOX", "outbox_depth", CLI_NUMBER }, { "ARTIFACTS", "artifacts", CLI_LIST }, { NULL, NULL, CLI_TEXT } };
static const struct cli_column artifact_columns[] = { { "ARTIFACT", "id", CLI_SHORT }, { "ORIGIN", "origin", CLI_TEXT }, { "COMMIT", "commit", CLI_SHORT }, { "AGE", "discovered_at", CLI_AGE },
	{ "AUTHOR", "author", CLI_TEXT }, { "STAGES", "stages", CLI_LIST }, { "TITLE", "title", CLI_TEXT }, { NULL, NULL, CLI_TEXT } };
static const struct cli_column promotion_columns[] = { { "PROMOTION", "id", CLI_TEXT }, { "ORIGIN", "origin", CLI_TEXT }, { "ARTIFACT", "artifact", CLI_SHORT }, { "STAGE", "stage", CLI_TEXT },
	{ "KIND", "kind", CLI_TEXT }, { "STATE", "state", CLI_TEXT }, { "AGE", "created_at", CLI_AGE }, { "BY", "requested_by", CLI_TEXT }, { "WAITS FOR", "waiting_for", CLI_TEXT }, { NULL, NULL, CLI_TEXT } };
static const struct cli_column type_columns[] = { { "TYPE", "type", CLI_TEXT }, { "OWNER", "owner", CLI_TEXT }, { "STATUS", "status", CLI_TEXT }, { "SOURCE", "source_state", CLI_TEXT }, { "ROWS", "rows", CLI_NUMBER }, { "CHANGES", "changes", CLI_NUMBER },
	{ "AS OF", "as_of_at", CLI_AGE }, { "LAG-MS", "lag_ms", CLI_NUMBER }, { "SNAPSHOT", "snapshot_state", CLI_TEXT }, { "GAP", "gap_at", CLI_AGE }, { "HISTORY", "history", CLI_TEXT },
	{ "REFUSED", "violations", CLI_NUMBER }, { NULL, NULL, CLI_TEXT } };
static const struct cli_column dataset_columns[] = { { "REQUEST", "id", CLI_TEXT }, { "DATASET", "dataset", CLI_TEXT }, { "FROM", "from_stage", CLI_TEXT }, { "TO", "to_stage", CLI_TEXT },
	{ "STATE", "state", CLI_TEXT }, { "ROWS", "row_count", CLI_NUMBER }, { "AGE", "created_at", CLI_AGE }, { "BY", "requested_by", CLI_TEXT }, { "REASON", "reason", CLI_TEXT }, { NULL, NULL, CLI_TEXT } };
static const struct cli_column pull_columns[] = { { "NUMBER", "number", CLI_NUMBER }, { "ORIGIN", "origin", CLI_TEXT }, { "STATE", "state", CLI_TEXT }, { "HEAD", "head", CLI_TEXT }, { "BASE", "base", CLI_TEXT },
	{ "BY", "author", CLI_TEXT }, { "AGE", "created_at", CLI_AGE }, { "TITLE", "title", CLI_TEXT }, { NULL, NULL, CLI_TEXT } };
static const struct cli_column event_columns[] = { { "AGE", "at", CLI_AGE }, { "KIND", "kind", CLI_TEXT }, { "STAGE", "stage", CLI_TEXT }, { "WHO", "who", CLI_TEXT }, { "WHAT", "text", CLI_TEXT }, { NULL, NULL, CLI_TEXT } };
static const struct cli_column quarantine_columns[] = { { "ID", "id", CLI_NUMBER }, { "AGE", "at", CLI_AGE }, { "STAGE", "stage", CLI_TEXT }, { "CLASS", "class", CLI_TEXT }, { "TYPE", "type", CLI_TEXT },
	{ "REASON", "reason", CLI_TEXT }, { NULL, NULL, CLI_TEXT } };

static const struct noun {
	const char *name, *path;
	const struct cli_column *columns;
} nouns[] = {
	{ "stages", "/stages", stage_columns },
	{ "artifacts", "/artifacts", artifact_columns },
	{ "promotions", "/promotions", promotion_columns },
	{ "types", "/entities", type_columns },
	{ "datasets", "/datasets", dataset_columns },
	{ "pulls", "/pulls", pull_columns },
	{ "events", "/events", event_columns },
	{ "quarantine", "/quarantine", quarantine_columns },
};

static int show_noun(struct cli *cli, const struct noun *noun, struct sb_error *err)
{
	struct sb_buf path;
	json_t *answer = NULL;
	int r;

	sb_buf_init(&path, 4096);
	sb_buf_adds(&path, noun->path);
	cli_query(&path, "origin", cli->option[OPT_ORIGIN]);
	cli_query(&path, "stage", cli->option[OPT_STAGE]);
	cli_query(&path, "state", cli->option[OPT_STATE]);
	cli_query(&path, "limit", cli->option[OPT_LIMIT]);
	r = sb_buf_check(&path, "options", err);
	if (r == 0)
		r = cli_hub_call(cli, "GET", path.data, NULL, &answer, err);
	sb_buf_release(&path);
	if (r < 0)
		return r;
	cli_show(cli, answer, noun->columns);
	json_decref(answer);
	return 0;
}

static int run_get(struct cli *cli, struct sb_error *err)
{
	char known[256] = "";
	size_t used = 0, n = strlen(cli->argument[0]);

	for (size_t i = 0; i < SB_COUNT(nouns); i++) {
		size_t len = strlen(nouns[i].name);

		/* singular works too: our nouns only lose their s */
		if (strcmp(nouns[i].name, cli->argument[0]) == 0 || (n + 1 == len && strncmp(nouns[i].name, cli->argument[0], n) == 0))
			return show_noun(cli, &nouns[i], err);
		used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%s", i ? ", " : "", nouns[i].name);
	}
	return sb_fail(err, SB_EINVAL, "unknown noun \"%s\": expected one of %s", cli->argument[0], known);
}

static void print_source(const json_t *s)
{
	const json_t *column;
	size_t i;

	printf("source %-22s %-9s lag %" JSON_INTEGER_FORMAT " ms, %" JSON_INTEGER_FORMAT " bytes %s\n", cli_str(s, "name"), cli_str(s, "state"),
		json_integer_value(json_object_get(s, "lag_ms")), json_integer_value(json_object_get(s, "lag_bytes")), cli_str(s, "progress"));
	json_array_foreach(json_object_get(s, "withheld"), i, column)
		printf("  withheld %s: it came after its type was taken up, and the agent's settings do not declare it\n", json_string_value(column));
}

static void print_agent(const json_t *s)
{
	const json_t *lanes = json_object_get(s, "lanes"), *sources = json_object_get(s, "sources");
	json_t *item;
	size_t i;

	printf("stage %s of %s, agent %s, session %" JSON_INTEGER_FORMAT "\n", cli_str(s, "stage"), cli_str(s, "tenant"), cli_str(s, "version"),
		json_integer_value(json_object_get(s, "session")));
	printf("outbox: %" JSON_INTEGER_FORMAT " waiting\n", json_integer_value(json_object_get(json_object_get(s, "outbox"), "depth")));
	json_array_foreach(lanes, i, item)
		printf("lane %-24s %-9s %s%s%s\n", cli_str(item, "name"), cli_str(item, "state"), cli_str(item, "note"), *cli_str(item, "reason") ? ": " : "", cli_str(item, "reason"));
	json_array_foreach(sources, i, item)
		print_source(item);
}

static int run_status(struct cli *cli, struct sb_error *err)
{
	json_t *answer = NULL;
	int r;

	if (cli->hub && *cli->hub) {
		r = show_noun(cli, &nouns[0], err);
		if (r < 0 || cli->output == CLI_JSON)
			return r;
		printf("\n");
		cli->option[OPT_STATE] = "open";
		return show_noun(cli, &nouns[2], err);
	}
	if (!cli->socket || !*cli->socket)
		return sb_fail(err, SB_EINVAL, "whom to ask? inside a stage set SB_SOCKET, as a manager set SB_HUB, SB_TENANT and SB_TOKEN_FILE");
	r = cli_agent_call(cli, "GET", "/v1/status", NULL, &answer, err);
	if (r < 0)
		return r;
	if (cli->output == CLI_JSON)
		cli_say(cli, answer, "%s", "");
	else
		print_agent(answer);
	json_decref(answer);
	return 0;
}

enum { OPT_TO };
enum { OPT_ALL = 1 };
static const struct cli_option why_options[] = {
	{ "--to", "STAGE", "the stage in question (needed for an artifact or an origin)" },
	{ "--all", NULL, "open gates too" },
	{ NULL, NULL, NULL },
};

static int run_why(struct cli *cli, struct sb_error *err)
{
	static const struct cli_column columns[] = { { "GATE", "gate", CLI_TEXT }, { "STATE", "state", CLI_TEXT }, { "SINCE", "since", CLI_AGE }, { "WHO CAN ACT", "who", CLI_TEXT }, { "NEXT", "next", CLI_TEXT },
		{ "DETAIL", "detail", CLI_TEXT }, { NULL, NULL, CLI_TEXT } };
	struct sb_buf path;
	json_t *answer = NULL;
	int r;

	sb_buf_init(&path, 1024);
	sb_buf_adds(&path, "/why");
	cli_query(&path, "subject", cli->argument[0]);
	cli_query(&path, "to", cli->option[OPT_TO]);
	cli_query(&path, "all", cli->option[OPT_ALL] ? "1" : NULL);
	r = sb_buf_check(&path, "subject", err);
	if (r == 0)
		r = cli_hub_call(cli, "GET", path.data, NULL, &answer, err);
	sb_buf_release(&path);
	if (r < 0)
		return r;
	if (cli->output == CLI_TABLE)
		printf("%s\n\n", cli_str(answer, "text"));
	cli_show(cli, answer, columns);
	r = json_is_true(json_object_get(answer, "blocked")) ? 4 : cli_exit_of(cli_str(answer, "state"));
	json_decref(answer);
	return r;
}

const struct cli_command cli_get = {
	.name = "get", .arguments = "stages|artifacts|promotions|entities|datasets|pulls|events|quarantine", .summary = "list what the sync view knows", .options = get_options, .min_arguments = 1,
	.max_arguments = 1, .run = run_get, .help = "Asks the hub. The same data are plain SQL views in the tenant's database, schema lifecycle.\n\n  stagebridge get promotions --state open\n  stagebridge get artifacts --origin model -o json",
};
const struct cli_command cli_status = {
	.name = "status", .arguments = "", .summary = "how it stands: the stages (hub), or this stage's agent (socket)", .options = NULL, .max_arguments = 0, .run = run_status,
	.help = "With a hub: the stages and every open promotion. With a socket only: the agent's lanes, sources and outbox.\n\n  stagebridge status",
};
const struct cli_command cli_why = {
	.name = "why", .arguments = "PROMOTION|ARTIFACT|ORIGIN [--to STAGE]", .summary = "why something waits: each gate, since when, who can act", .options = why_options, .min_arguments = 1,
	.max_arguments = 1, .run = run_why, .help = "Prints every gate that is not open: since when, who can act, the next time at which it may open. The exit code is 4 while a gate is closed, else the promotion's outcome.\n\n  stagebridge why model --to prod",
};
