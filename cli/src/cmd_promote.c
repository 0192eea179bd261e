/* promote, rollback, approve, reject, abort, stop, resume, hold, release, merge: requests to the promotion engine, through the agent of the stage or at the hub. */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "stagebridge/promotion.h"
#include "stagebridge/text.h"

enum { OPT_TO, OPT_ARTIFACT, OPT_REASON };
static const struct cli_option promote_options[] = {
	{ "--to", "STAGE", "the stage to promote into" },
	{ "--artifact", "ID", "which artifact, by id or its first 8 digits or more (default: the newest that may go)" },
	{ "--reason", "TEXT", "goes into the record" },
	{ NULL, NULL, NULL },
};
static const struct cli_option rollback_options[] = {
	{ "--stage", "STAGE", "the stage to roll back" },
	{ "--artifact", "ID", "the target (default: the last that was verified there before)" },
	{ "--reason", "TEXT", "goes into the record" },
	{ NULL, NULL, NULL },
};
/* the same places as above, so that OPT_REASON holds */
static const struct cli_option reason_options[] = {
	{ "--promotion-stage", "STAGE", "checked against the promotion's stage, when given" },
	{ "--promotion-artifact", "ID", "checked against the promotion's artifact, when given" },
	{ "--reason", "TEXT", "goes into the record" },
	{ NULL, NULL, NULL },
};

/* the same places again */
static const struct cli_option brake_options[] = {
	{ "--stage", "STAGE", "only into this stage" },
	{ "--origin", "NAME", "only this origin" },
	{ "--reason", "TEXT", "others read it" },
	{ NULL, NULL, NULL },
};

static const char *text(const char *s)
{
	return s ? s : "";
}

static bool at_hub(const struct cli *cli)
{
	return cli->hub && *cli->hub;
}

static int fetch(struct cli *cli, const void *user, json_t **ret, struct sb_error *err)
{
	char *path = sb_asprintf(at_hub(cli) ? "/requests/%s" : "/v1/promotions/%s", (const char *)user);
	int r;

	if (!path)
		return sb_fail_nomem(err);
	r = at_hub(cli) ? cli_hub_call(cli, "GET", path, NULL, ret, err) : cli_agent_call(cli, "GET", path, NULL, ret, err);
	free(path);
	return r;
}

static bool settled(const json_t *answer)
{
	int s = sb_promotion_state_find(cli_str(answer, "state"));

	if (strcmp(cli_str(answer, "state"), "refused") == 0 || strcmp(cli_str(answer, "state"), "done") == 0)
		return true;
	return s >= 0 && (sb_promotion_terminal((enum sb_promotion_state)s) || s == SB_P_IN_DOUBT || s == SB_P_HELD);
}

/* "refused" and "done" are answers to the request itself; other states are the promotion's. */
static int exit_of(const json_t *answer)
{
	if (strcmp(cli_str(answer, "state"), "refused") == 0)
		return 4;
	if (strcmp(cli_str(answer, "state"), "done") == 0)
		return 0;
	return cli_exit_of(cli_str(answer, "state"));
}

static int send(struct cli *cli, const char *action, const char *origin, const char *artifact, const char *stage, const char *promotion, struct sb_error *err)
{
	json_t *body = NULL, *answer = NULL, *fate = NULL;
	int r, status;

	body = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "action", action, "origin", origin, "artifact", artifact, "stage", stage, "promotion", promotion, "reason",
		cli->option[OPT_REASON] ? cli->option[OPT_REASON] : "");
	if (!body)
		return sb_fail(err, SB_EINVAL, "an argument is not valid UTF-8");
	r = at_hub(cli) ? cli_hub_call(cli, "POST", "/promotions", body, &answer, err) : cli_agent_call(cli, "POST", "/v1/promotions", body, &answer, err);
	json_decref(body);
	if (r < 0)
		return r;
	if (!cli->wait && !at_hub(cli)) {
		cli_say(cli, answer, "request %s: it waits at the broker; add --wait to see the outcome", cli_str(answer, "request"));
		json_decref(answer);
		return 0;
	}
	r = cli_poll(cli, fetch, settled, cli_str(answer, "request"), &fate, err);
	json_decref(answer);
	if (r < 0)
		return r;
	status = r == 0 && cli->wait ? 124 : exit_of(fate);
	if (r == 0 && !cli->wait && status == 124)
		status = 0; /* on its way, and nobody asked to wait */
	cli_say(cli, fate, "%s%s%s%s%s", cli_str(fate, "state"), *cli_str(fate, "promotion") ? " promotion " : "", cli_str(fate, "promotion"),
		*cli_str(fate, "reason") ? ": " : "", cli_str(fate, "reason"));
	json_decref(fate);
	return status;
}

static int run_promote(struct cli *cli, struct sb_error *err)
{
	if (!cli->option[OPT_TO])
		return sb_fail(err, SB_EINVAL, "--to STAGE is needed: where shall \"%s\" go?", cli->argument[0]);
	return send(cli, "promote", cli->argument[0], text(cli->option[OPT_ARTIFACT]), cli->option[OPT_TO], "", err);
}

static int run_rollback(struct cli *cli, struct sb_error *err)
{
	if (!cli->option[OPT_TO])
		return sb_fail(err, SB_EINVAL, "--stage STAGE is needed: where shall \"%s\" be rolled back?", cli->argument[0]);
	return send(cli, "rollback", cli->argument[0], text(cli->option[OPT_ARTIFACT]), cli->option[OPT_TO], "", err);
}

static int run_approve(struct cli *cli, struct sb_error *err)
{
	return send(cli, "approve", "", text(cli->option[OPT_ARTIFACT]), text(cli->option[OPT_TO]), cli->argument[0], err);
}

static int run_reject(struct cli *cli, struct sb_error *err)
{
	return send(cli, "reject", "", text(cli->option[OPT_ARTIFACT]), text(cli->option[OPT_TO]), cli->argument[0], err);
}

static int run_abort(struct cli *cli, struct sb_error *err)
{
	return send(cli, "abort", "", text(cli->option[OPT_ARTIFACT]), text(cli->option[OPT_TO]), cli->argument[0], err);
}

static int brake(struct cli *cli, const char *action, struct sb_error *err)
{
	if (!at_hub(cli))
		return sb_fail(err, SB_EINVAL, "the hub is asked for this: set SB_HUB, SB_TENANT and SB_TOKEN_FILE");
	return send(cli, action, text(cli->option[OPT_ARTIFACT]), "", text(cli->option[OPT_TO]), "", err);
}

static int run_stop(struct cli *cli, struct sb_error *err)
{
	return brake(cli, "stop", err);
}

static int run_resume(struct cli *cli, struct sb_error *err)
{
	return brake(cli, "resume", err);
}

static int run_hold(struct cli *cli, struct sb_error *err)
{
	return brake(cli, "hold", err);
}

static int run_release(struct cli *cli, struct sb_error *err)
{
	return brake(cli, "release", err);
}

static int run_merge(struct cli *cli, struct sb_error *err)
{
	json_t *answer = NULL;
	uint64_t number;
	char *path;
	int r;

	if (!sb_type_ok(cli->argument[0]))
		return sb_fail(err, SB_EINVAL, "\"%s\" is not an origin's name", cli->argument[0]);
	if (sb_parse_u64(cli->argument[1], 1, INT32_MAX, "number of the pull request", &number, err) < 0)
		return (int)err->code;
	path = sb_asprintf("/pulls/%s/%llu/merge", cli->argument[0], (unsigned long long)number);
	if (!path)
		return sb_fail_nomem(err);
	r = cli_hub_call(cli, "POST", path, NULL, &answer, err);
	free(path);
	if (r < 0)
		return r;
	cli_say(cli, answer, "merged as %.12s", cli_str(answer, "merge_oid"));
	json_decref(answer);
	return 0;
}

const struct cli_command cli_promote = {
	.name = "promote", .arguments = "ORIGIN --to STAGE", .summary = "ask that an artifact goes into the next stage", .options = promote_options, .min_arguments = 1, .max_arguments = 1,
	.run = run_promote,
	.help = "Asks the promotion engine. Gates stay in force: what is missing is printed by `stagebridge why`.\n\n  stagebridge promote model --to prod --wait\n"
		"  stagebridge promote model --to preprod --artifact 3f9a01cc --reason \"hotfix\"",
};
const struct cli_command cli_rollback = {
	.name = "rollback", .arguments = "ORIGIN --stage STAGE", .summary = "bring back what was verified there before", .options = rollback_options, .min_arguments = 1, .max_arguments = 1,
	.run = run_rollback,
	.help = "Promotes the last verified artifact again and holds automation for that stage and origin.\n\n  stagebridge rollback model --stage prod --reason \"error rate\" --wait",
};
const struct cli_command cli_approve = { .name = "approve", .arguments = "PROMOTION", .summary = "say yes to a promotion that waits for a person", .options = reason_options,
	.min_arguments = 1, .max_arguments = 1, .run = run_approve, .help = "Nobody approves what they requested or pushed themselves.\n\n  stagebridge approve 01k9..." };
const struct cli_command cli_reject = { .name = "reject", .arguments = "PROMOTION", .summary = "say no to a promotion", .options = reason_options, .min_arguments = 1,
	.max_arguments = 1, .run = run_reject, .help = "Ends it as REJECTED; the same artifact does not come back by itself.\n\n  stagebridge reject 01k9..." };
const struct cli_command cli_abort = { .name = "abort", .arguments = "PROMOTION", .summary = "stop a promotion", .options = reason_options, .min_arguments = 1, .max_arguments = 1,
	.run = run_abort, .help = "A waiting one ends at once; one that the stage works on ends when the stage says so.\n\n  stagebridge abort 01k9..." };
const struct cli_command cli_merge = { .name = "merge", .arguments = "ORIGIN NUMBER", .summary = "merge a pull request of the bare forge", .options = NULL, .min_arguments = 2,
	.max_arguments = 2, .run = run_merge, .help = "For the embedded forge; with Gitea, merge there.\n\n  stagebridge merge model 3" };
const struct cli_command cli_stop = { .name = "stop", .arguments = "[--stage STAGE] [--origin NAME] --reason TEXT", .summary = "stop the line: nothing goes in, whoever asks", .options = brake_options,
	.min_arguments = 0, .max_arguments = 0, .run = run_stop,
	.help = "Without a stage: into no stage at all. What a stage works on already goes on. Ends with resume of the same stage and origin.\n\n  stagebridge stop --stage prod --reason \"incident 7\"" };
const struct cli_command cli_resume = { .name = "resume", .arguments = "[--stage STAGE] [--origin NAME]", .summary = "end a stop", .options = brake_options, .min_arguments = 0,
	.max_arguments = 0, .run = run_resume, .help = "Approvers may. What waits is looked at again at once.\n\n  stagebridge resume --stage prod" };
const struct cli_command cli_hold = { .name = "hold", .arguments = "--stage STAGE --origin NAME --reason TEXT", .summary = "hold automation; people may still promote", .options = brake_options,
	.min_arguments = 0, .max_arguments = 0, .run = run_hold, .help = "A rollback does the same by itself.\n\n  stagebridge hold --stage prod --origin model --reason \"demo on Friday\"" };
const struct cli_command cli_release = { .name = "release", .arguments = "--stage STAGE --origin NAME", .summary = "let automation go on", .options = brake_options, .min_arguments = 0,
	.max_arguments = 0, .run = run_release, .help = "Promoting the newest artifact by hand does the same.\n\n  stagebridge release --stage prod --origin model" };
