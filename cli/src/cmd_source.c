/* source: the sources of a stage's entities, asked of and told to the stage's agent. */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "stagebridge/text.h"

static int list(struct cli *cli, struct sb_error *err)
{
	static const struct cli_column columns[] = { { "SOURCE", "name", CLI_TEXT }, { "KIND", "kind", CLI_TEXT }, { "STATE", "state", CLI_TEXT }, { "ROWS", "rows", CLI_NUMBER },
		{ "TYPES", "types", CLI_LIST }, { "ABOUT", "progress", CLI_TEXT }, { NULL, NULL, CLI_TEXT } };
	json_t *answer = NULL;

	int r = cli_agent_call(cli, "GET", "/v1/entities", NULL, &answer, err);
	if (r < 0)
		return r;
	json_t *view = json_pack("{s:O}", "items", json_object_get(answer, "sources"));
	json_decref(answer);
	if (!view)
		return sb_fail_nomem(err);
	cli_show(cli, view, columns);
	json_decref(view);
	return 0;
}

static int confirm(struct cli *cli, const char *name, struct sb_error *err)
{
	json_t *answer = NULL;

	if (!sb_name_ok(name))
		return sb_fail(err, SB_EINVAL, "\"%s\" is not a source's name", name);
	sb_cleanup(sb_freep) char *path = sb_asprintf("/v1/sources/%s/confirm", name);
	if (!path)
		return sb_fail_nomem(err);
	int r = cli_agent_call(cli, "POST", path, NULL, &answer, err);
	if (r < 0)
		return r;
	cli_say(cli, answer, "confirmed: what is gone from \"%s\" is deleted now", name);
	json_decref(answer);
	return 0;
}

static int run(struct cli *cli, struct sb_error *err)
{
	if (strcmp(cli->argument[0], "list") == 0 && cli->n_arguments == 1)
		return list(cli, err);
	if (strcmp(cli->argument[0], "confirm") == 0 && cli->n_arguments == 2)
		return confirm(cli, cli->argument[1], err);
	return sb_fail(err, SB_EINVAL, "expected `source list` or `source confirm NAME`");
}

static const struct cli_option options[] = { { NULL, NULL, NULL } };

const struct cli_command cli_source = {
	.name = "source", .arguments = "list | confirm NAME", .summary = "where a stage's entities come from, and whether all is well there", .options = options,
	.min_arguments = 1, .max_arguments = 2, .run = run,
	.help = "Talks to the stage's agent. `list` shows every source with its state: an invalid file, rows that were refused, a folder that is away.\n"
		"When much of a folder is gone at once, the agent does not believe it at first: the state is \"deletion held\". If it is meant,\n"
		"`confirm` lets it happen now; if it is not (a folder that was not mounted), bring the files back and nothing will have happened.\n"
		"\n"
		"  stagebridge source list\n"
		"  stagebridge source confirm model-cards\n",
};
