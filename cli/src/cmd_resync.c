/* resync: an entity type, or some of its rows, once more; and what runs. */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "stagebridge/text.h"

enum { OPT_STAGE, OPT_WHERE, OPT_REASON, OPT_CANCEL };
static const struct cli_option options[] = {
	{ "--stage", "NAME", "at the hub: the stage that owns the type, for your own check" },
	{ "--where", "CONDITION", "inside the stage only: SQL condition on the table's columns; only these rows are sent, nothing is removed" },
	{ "--reason", "TEXT", "goes into the record" },
	{ "--cancel", NULL, "what was asked for is not wanted any more" },
	{ NULL, NULL, NULL },
};

static bool at_hub(const struct cli *cli)
{
	return cli->hub && *cli->hub;
}

/* --- what runs --- */

static json_t *find(const json_t *list, const char *type)
{
	json_t *item;
	size_t i;

	json_array_foreach(list, i, item) {
		if (strcmp(cli_str(item, "type"), type) == 0)
			return item;
	}
	return NULL;
}

/* The agent's answer as one list for the table: types with their snapshots and, for the one that runs, how far it is. */
static json_t *flatten(const json_t *answer)
{
	json_t *list = json_array(), *item, *source;
	size_t i, k;

	json_array_foreach(json_object_get(answer, "types"), i, item) {
		json_t *row = json_deep_copy(json_object_get(item, "snapshot"));
		(void)json_object_set(row, "type", json_object_get(item, "type"));
		(void)json_object_set(row, "source", json_object_get(item, "source"));
		json_array_foreach(json_object_get(answer, "sources"), k, source) {
			const json_t *running = json_object_get(source, "snapshot");
			if (strcmp(cli_str(running, "type"), cli_str(item, "type")) == 0) {
				(void)json_object_set(row, "percent", json_object_get(running, "percent"));
				(void)json_object_set(row, "eta_s", json_object_get(running, "eta_s"));
			}
		}
		(void)json_array_append_new(list, row);
	}
	return list;
}

static int show(struct cli *cli, struct sb_error *err)
{
	static const struct cli_column columns[] = { { "TYPE", "type", CLI_TEXT }, { "SOURCE", "source", CLI_TEXT }, { "SNAPSHOT", "state", CLI_TEXT }, { "ROWS", "rows", CLI_NUMBER },
		{ "%", "percent", CLI_NUMBER }, { "ETA-S", "eta_s", CLI_NUMBER }, { "RANGES", "ranges", CLI_NUMBER }, { "DONE", "ranges_done", CLI_NUMBER }, { "BY", "asked", CLI_TEXT },
		{ "REASON", "reason", CLI_TEXT }, { NULL, NULL, CLI_TEXT } };
	static const struct cli_column hub_columns[] = { { "TYPE", "type", CLI_TEXT }, { "STAGE", "stage", CLI_TEXT }, { "SNAPSHOT", "snapshot_state", CLI_TEXT }, { "ROWS", "snapshot_rows", CLI_NUMBER },
		{ "%", "snapshot_percent", CLI_NUMBER }, { "ETA-S", "snapshot_eta_s", CLI_NUMBER }, { "ORDERED", "resync_at", CLI_AGE }, { NULL, NULL, CLI_TEXT } };
	json_t *answer = NULL;

	int r = at_hub(cli) ? cli_hub_call(cli, "GET", "/entities", NULL, &answer, err) : cli_agent_call(cli, "GET", "/v1/entities", NULL, &answer, err);
	if (r < 0)
		return r;
	if (!at_hub(cli) && cli->output == CLI_TABLE) {
		json_t *list = json_pack("{s:o}", "items", flatten(answer));
		cli_show(cli, list, columns);
		json_decref(list);
	} else {
		cli_show(cli, answer, hub_columns);
	}
	json_decref(answer);
	return 0;
}

/* --- asking --- */

static int fetch(struct cli *cli, const void *user, json_t **ret, struct sb_error *err)
{
	json_t *answer = NULL;

	int r = at_hub(cli) ? cli_hub_call(cli, "GET", "/entities", NULL, &answer, err) : cli_agent_call(cli, "GET", "/v1/entities", NULL, &answer, err);
	if (r < 0)
		return r;
	*ret = json_incref(find(json_object_get(answer, at_hub(cli) ? "items" : "types"), user));
	json_decref(answer);
	return *ret ? 0 : sb_fail(err, SB_ENOTFOUND, "\"%s\" is not listed any more", (const char *)user);
}

static const json_t *snapshot_of(const json_t *entity)
{
	const json_t *snapshot = json_object_get(entity, "snapshot");

	return json_is_object(snapshot) ? snapshot : entity;
}

/* At the stage: its end is acknowledged by the broker. At the hub: it is in the view. */
static bool settled(const json_t *entity)
{
	if (json_is_object(json_object_get(entity, "snapshot")))
		return strcmp(cli_str(snapshot_of(entity), "state"), "done") == 0;
	return json_is_false(json_object_get(entity, "resync_pending"));
}

static int wait_for(struct cli *cli, const char *type, struct sb_error *err)
{
	json_t *entity = NULL;

	int r = cli_poll(cli, fetch, settled, type, &entity, err);
	if (r < 0)
		return r;
	const char *reason = cli_str(snapshot_of(entity), "reason");
	bool failed = strncmp(reason, "failed", 6) == 0;
	if (r == 0)
		cli_say(cli, entity, "%s: it is still going on", type);
	else
		cli_say(cli, entity, "%s: %s%s", type, failed ? "" : "done", failed ? reason : "");
	json_decref(entity);
	return r == 0 ? 124 : failed ? 2 : 0;
}

static int ask(struct cli *cli, const char *type, struct sb_error *err)
{
	const char *where = cli->option[OPT_WHERE], *reason = cli->option[OPT_REASON], *stage = cli->option[OPT_STAGE];
	json_t *body = json_pack("{s:s, s:b}", "reason", reason ? reason : "", "cancel", cli->option[OPT_CANCEL] != NULL), *answer = NULL;
	char *path = sb_asprintf("%s/entities/%s/resync%s", at_hub(cli) ? "" : "/v1", type, !at_hub(cli) && cli->option[OPT_CANCEL] ? "/cancel" : "");
	int r = 0;

	if (!body || !path)
		r = sb_fail(err, SB_EINVAL, "an argument is not valid UTF-8");
	if (r == 0 && where && json_object_set_new(body, "where", json_string(where)) < 0)
		r = sb_fail(err, SB_EINVAL, "--where is not valid UTF-8");
	if (r == 0 && stage && at_hub(cli))
		(void)json_object_set_new(body, "stage", json_string(stage));
	if (r == 0)
		r = at_hub(cli) ? cli_hub_call(cli, "POST", path, body, &answer, err) : cli_agent_call(cli, "POST", path, body, &answer, err);
	free(path);
	json_decref(body);
	if (r == 0 && !cli->wait)
		cli_say(cli, answer, "%s: %s", type, cli_str(answer, "state"));
	json_decref(answer);
	return r;
}

static int run_resync(struct cli *cli, struct sb_error *err)
{
	if (!at_hub(cli) && (!cli->socket || !*cli->socket))
		return sb_fail(err, SB_EINVAL, "whom to ask? inside a stage set SB_SOCKET, as a manager set SB_HUB, SB_TENANT and SB_TOKEN_FILE");
	if (cli->n_arguments == 0)
		return show(cli, err);
	if (!sb_type_ok(cli->argument[0]))
		return sb_fail(err, SB_EINVAL, "\"%s\" is not an entity type's name", cli->argument[0]);
	if (cli->option[OPT_WHERE] && at_hub(cli))
		return sb_fail(err, SB_EINVAL, "--where can be given only inside the stage that owns the rows: unset SB_HUB and use its socket");
	if (cli->option[OPT_WHERE] && cli->option[OPT_CANCEL])
		return sb_fail(err, SB_EINVAL, "--cancel takes no --where");
	int r = ask(cli, cli->argument[0], err);
	return r < 0 || !cli->wait ? r : wait_for(cli, cli->argument[0], err);
}

const struct cli_command cli_resync = {
	.name = "resync", .arguments = "[TYPE]", .summary = "send an entity type, or some of its rows, once more", .options = options, .min_arguments = 0, .max_arguments = 1, .run = run_resync,
	.help = "Without a type it shows what runs. Everything of the type is sent again while changes go on, and what is gone at the source is removed from the view; with --where only\n"
		"the rows that match are sent, and nothing is removed. A condition names columns of the table, and functions of them; names outside of pg_catalog need their schema.\n\n"
		"  stagebridge resync\n  stagebridge resync experiment --reason \"rows differ\" --wait\n  stagebridge resync experiment --where \"started_at >= '2026-01-01'\"\n"
		"  stagebridge resync experiment --cancel",
};
