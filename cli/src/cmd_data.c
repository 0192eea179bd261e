/* data: anonymized datasets, asked for from inside the stage that wants them. */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "stagebridge/text.h"

enum { OPT_FROM, OPT_PURPOSE };
static const struct cli_option options[] = {
	{ "--from", "STAGE", "the stage that owns the data" },
	{ "--purpose", "TEXT", "goes into the record of both stages" },
	{ NULL, NULL, NULL },
};

static int fetch(struct cli *cli, const void *user, json_t **ret, struct sb_error *err)
{
	char *path = sb_asprintf("/v1/datasets/%s", (const char *)user);
	int r;

	if (!path)
		return sb_fail_nomem(err);
	r = cli_agent_call(cli, "GET", path, NULL, ret, err);
	free(path);
	return r;
}

static bool settled(const json_t *answer)
{
	const char *s = cli_str(answer, "state");

	return strcmp(s, "delivered") == 0 || strcmp(s, "refused") == 0 || strcmp(s, "failed") == 0;
}

static int pull(struct cli *cli, const char *name, struct sb_error *err)
{
	json_t *body, *answer = NULL, *fate = NULL;
	int r, status;

	if (!sb_type_ok(name))
		return sb_fail(err, SB_EINVAL, "\"%s\" is not a dataset's name", name);
	if (!cli->option[OPT_FROM])
		return sb_fail(err, SB_EINVAL, "--from STAGE is needed: which stage owns \"%s\"?", name);
	body = json_pack("{s:s, s:s, s:s}", "dataset", name, "from", cli->option[OPT_FROM], "purpose", cli->option[OPT_PURPOSE] ? cli->option[OPT_PURPOSE] : "");
	if (!body)
		return sb_fail(err, SB_EINVAL, "an argument is not valid UTF-8");
	r = cli_agent_call(cli, "POST", "/v1/datasets", body, &answer, err);
	json_decref(body);
	if (r < 0)
		return r;
	if (!cli->wait) {
		cli_say(cli, answer, "request %s: it waits at the broker; `stagebridge data list` shows its fate", cli_str(answer, "request"));
		json_decref(answer);
		return 0;
	}
	r = cli_poll(cli, fetch, settled, cli_str(answer, "request"), &fate, err);
	json_decref(answer);
	if (r < 0)
		return r;
	status = r == 0 ? 124 : strcmp(cli_str(fate, "state"), "delivered") == 0 ? 0 : strcmp(cli_str(fate, "state"), "refused") == 0 ? 4 : 2;
	cli_say(cli, fate, "%s%s%s%s%s%s%s", cli_str(fate, "state"), *cli_str(fate, "path") ? " " : "", cli_str(fate, "path"), *cli_str(fate, "reason_code") ? " " : "", cli_str(fate, "reason_code"),
		*cli_str(fate, "reason") ? ": " : "", cli_str(fate, "reason"));
	json_decref(fate);
	return status;
}

static int list(struct cli *cli, struct sb_error *err)
{
	static const struct cli_column columns[] = { { "REQUEST", "request", CLI_TEXT }, { "DATASET", "dataset", CLI_TEXT }, { "ROLE", "role", CLI_TEXT }, { "PEER", "peer", CLI_TEXT }, { "STATE", "state", CLI_TEXT },
		{ "ROWS", "rows", CLI_NUMBER }, { "BY", "user", CLI_TEXT }, { "PATH", "path", CLI_TEXT }, { "REASON", "reason", CLI_TEXT }, { NULL, NULL, CLI_TEXT } };
	json_t *answer = NULL;
	int r = cli_agent_call(cli, "GET", "/v1/datasets", NULL, &answer, err);

	if (r < 0)
		return r;
	cli_show(cli, answer, columns);
	json_decref(answer);
	return 0;
}

static int run(struct cli *cli, struct sb_error *err)
{
	if (strcmp(cli->argument[0], "pull") == 0 && cli->n_arguments == 2)
		return pull(cli, cli->argument[1], err);
	if (strcmp(cli->argument[0], "list") == 0 && cli->n_arguments == 1)
		return list(cli, err);
	return sb_fail(err, SB_EINVAL, "expected: stagebridge data pull NAME --from STAGE, or stagebridge data list");
}

const struct cli_command cli_data = {
	.name = "data", .arguments = "pull NAME --from STAGE | list", .summary = "pull an anonymized dataset into this stage", .options = options, .min_arguments = 1, .max_arguments = 2, .run = run,
	.help = "The owning stage applies its own policy, refuses or produces, and seals the result to this stage alone. It arrives complete or not at all.\n\n"
		"  stagebridge data pull tickets --from prod --purpose \"retrain intent model\" --wait\n  stagebridge data list",
};
