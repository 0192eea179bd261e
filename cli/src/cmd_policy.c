/* policy check, policy explain: what an artifact needs to go along each edge. A file is read by the same table as the hub's; without one the hub is asked what is in
 * force. */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "stagebridge/buf.h"
#include "stagebridge/clock.h"
#include "stagebridge/policy.h"

enum { OPT_EDGE, OPT_AT, OPT_FILE };
static const struct cli_option policy_options[] = {
	{ "--edge", "FROM..TO", "explain: only this edge" },
	{ "--at", "TIME", "explain: how it would be then, 2026-12-18T18:00:00Z (default: now)" },
	{ "--file", "FILE", "explain: a policy's file instead of what is in force at the hub" },
	{ NULL, NULL, NULL },
};

static json_t *explain_all(const struct sb_policy *p, const char *edge, int64_t at)
{
	const struct sb_policy_edge *e = p->edges.item;
	json_t *items = json_array();

	for (size_t i = 0; i < p->edges.count; i++) {
		if (!edge || strcmp(edge, e[i].edge) == 0)
			(void)json_array_append_new(items, sb_policy_explain(p, &e[i], at));
	}
	return json_pack("{s:s, s:s, s:s, s:s, s:o}", "policy", p->name, "version", p->version, "digest", p->digest, "problem", "", "items", items);
}

static int check_file(struct cli *cli, const char *file, struct sb_error *err)
{
	struct sb_policy p;

	int r = sb_policy_load(&p, file, sb_wall_ms(), err);
	if (r < 0)
		return r;
	json_auto_t *answer = explain_all(&p, NULL, sb_wall_ms());
	cli_say(cli, answer, "%s: ok, policy %s version %s, %zu edges, sha256 %.12s", file, p.name, p.version, p.edges.count, p.digest);
	sb_policy_release(&p);
	return 0;
}

static int from_file(const char *file, const char *edge, const char *at, json_t **ret, struct sb_error *err)
{
	struct sb_policy p = { .name = NULL };
	int64_t t = sb_wall_ms();

	if (at && !sb_time_parse_typed(at, &t))
		return sb_fail(err, SB_EINVAL, "--at \"%.40s\": expected a time in UTC such as 2026-12-18T18:00:00Z", at);
	int r = sb_policy_load(&p, file, sb_wall_ms(), err);
	if (r < 0)
		return r;
	*ret = explain_all(&p, edge, t);
	sb_policy_release(&p);
	return *ret ? 0 : sb_fail_nomem(err);
}

static int from_hub(struct cli *cli, json_t **ret, struct sb_error *err)
{
	struct sb_buf path;

	sb_buf_init(&path, 1024);
	sb_buf_adds(&path, "/policy");
	cli_query(&path, "edge", cli->option[OPT_EDGE]);
	cli_query(&path, "at", cli->option[OPT_AT]);
	int r = sb_buf_check(&path, "options", err);
	if (r == 0)
		r = cli_hub_call(cli, "GET", path.data, NULL, ret, err);
	sb_buf_release(&path);
	return r;
}

static void print_edge(const json_t *e)
{
	const json_t *w = json_object_get(e, "window"), *rules = json_object_get(e, "rules");
	const char *opens = cli_str(w, "next_open"), *closes = cli_str(w, "next_close");
	json_t *rule;
	size_t i;

	printf("\n%s  %s%s, policy %.12s\n", cli_str(e, "edge"), cli_str(e, "mode"), json_is_true(json_object_get(e, "built_in")) ? " (built in)" : "", cli_str(e, "digest"));
	if (json_is_true(json_object_get(w, "open")))
		printf("  open%s%s\n", *closes ? ", closes " : "", closes);
	else
		printf("  closed at that time: %s; %s%s%s%s%s\n", cli_str(w, "reason"), *opens ? "opens " : "no opening in sight", opens, *opens ? " (" : "", cli_str(w, "next_open_local"), *opens ? ")" : "");
	json_array_foreach(rules, i, rule)
		printf("  - %s\n", json_string_value(rule));
}

static int explain(struct cli *cli, struct sb_error *err)
{
	json_auto_t *answer = NULL;
	json_t *e;
	size_t i;

	int r = cli->option[OPT_FILE] ? from_file(cli->option[OPT_FILE], cli->option[OPT_EDGE], cli->option[OPT_AT], &answer, err) : from_hub(cli, &answer, err);
	if (r < 0)
		return r;
	if (cli->option[OPT_EDGE] && json_array_size(json_object_get(answer, "items")) == 0)
		return sb_fail(err, SB_ENOTFOUND, "the policy names no edge \"%.70s\"", cli->option[OPT_EDGE]);
	if (cli->output == CLI_JSON) {
		cli_say(cli, answer, "%s", "");
		return 0;
	}
	printf("policy %s%s%s, sha256 %.12s\n", cli_str(answer, "policy"), *cli_str(answer, "version") ? " version " : "", cli_str(answer, "version"), *cli_str(answer, "digest") ? cli_str(answer, "digest") : "none");
	if (*cli_str(answer, "problem"))
		printf("the file is another one now and has a mistake, so the former policy stays in force: %s\n", cli_str(answer, "problem"));
	json_array_foreach(json_object_get(answer, "items"), i, e)
		print_edge(e);
	return 0;
}

static int run_policy(struct cli *cli, struct sb_error *err)
{
	if (strcmp(cli->argument[0], "check") == 0) {
		if (cli->n_arguments != 2)
			return sb_fail(err, SB_EINVAL, "which file? stagebridge policy check FILE");
		return check_file(cli, cli->argument[1], err);
	}
	if (strcmp(cli->argument[0], "explain") == 0 && cli->n_arguments == 1)
		return explain(cli, err);
	return sb_fail(err, SB_EINVAL, "expected: stagebridge policy check FILE, or stagebridge policy explain");
}

const struct cli_command cli_policy = {
	.name = "policy", .arguments = "check FILE | explain [--edge FROM..TO] [--at TIME]", .summary = "what an artifact needs to go along each edge", .options = policy_options, .min_arguments = 1,
	.max_arguments = 2, .run = run_policy,
	.help = "check reads a file as the hub would and needs no hub; a mistake is said with line and column, exit code 78.\n"
		"explain says in sentences what holds on each edge, whether its window is open, and when that changes.\n\n"
		"  stagebridge policy check promotion.yaml\n  stagebridge policy explain --edge preprod..prod\n  stagebridge policy explain --file promotion.yaml --at 2026-12-24T10:00:00Z -o json",
};
