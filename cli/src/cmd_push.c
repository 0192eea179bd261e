/* push: packs what the stage's agent lacks of the current branch and hands it over; the agent does the rest, also while the hub is down. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "stagebridge/buf.h"
#include "stagebridge/git.h"
#include "stagebridge/text.h"

enum { OPT_REPO, OPT_BRANCH, OPT_ORIGIN, OPT_TITLE, OPT_BODY };
static const struct cli_option options[] = {
	{ "--repo", "DIR", "the repository (default: here)" },
	{ "--branch", "NAME", "name of the branch for the pull request (default: the one that is checked out)" },
	{ "--origin", "NAME", "the origin as the stage calls it (default: the only one the agent has)" },
	{ "--title", "TEXT", "title of the pull request (default: the newest commit's)" },
	{ "--body", "TEXT", "description of the pull request" },
	{ NULL, NULL, NULL },
};

struct head {
	char branch[256];
	char oid[SB_OID_LEN + 1];
	struct sb_commit commit;
};

static int read_head(struct sb_repo *repo, const char *branch, struct head *ret, struct sb_error *err)
{
	char ref[256];
	const char *name;

	if (branch) {
		if (!sb_branch_ok(branch))
			return sb_fail(err, SB_EINVAL, "--branch \"%s\" is not a name that Git accepts", branch);
		if (sb_format(ref, sizeof(ref), err, "refs/heads/%s", branch) < 0)
			return (int)err->code;
		(void)snprintf(ret->branch, sizeof(ret->branch), "%s", branch);
		/* a branch that does not exist here: the checked-out commit goes up under that name */
		if (sb_repo_ref(repo, ref, ret->oid, err) == 0)
			return sb_repo_commit(repo, ret->oid, &ret->commit, err);
		if (err->code != SB_ENOTFOUND)
			return (int)err->code;
	}
	if (sb_repo_head(repo, ref, ret->oid, err) < 0)
		return sb_fail_prefix(err, "no commit to push");
	if (!branch) {
		name = strncmp(ref, "refs/heads/", 11) == 0 ? ref + 11 : ref;
		if (!*name)
			return sb_fail(err, SB_EINVAL, "no branch is checked out: name one with --branch");
		if (sb_format(ret->branch, sizeof(ret->branch), err, "%s", name) < 0)
			return (int)err->code;
	}
	return sb_repo_commit(repo, ret->oid, &ret->commit, err);
}

static int find_origin(struct cli *cli, char out[SB_TYPE_MAX + 1], struct sb_error *err)
{
	json_t *status = NULL;
	const json_t *origins;
	const char *name;
	int r = cli_agent_call(cli, "GET", "/v1/status", NULL, &status, err);

	if (r < 0)
		return r;
	origins = json_object_get(status, "origins");
	name = json_string_value(json_array_get(origins, 0));
	if (json_array_size(origins) == 1 && name && sb_type_ok(name))
		(void)snprintf(out, SB_TYPE_MAX + 1, "%s", name);
	else
		r = sb_fail(err, SB_EINVAL, "this stage has %zu origins: name one with --origin", json_array_size(origins));
	json_decref(status);
	return r;
}

/* Writes what the agent lacks to path; an empty file when it has everything. */
static int make_pack(struct cli *cli, struct sb_repo *repo, const char *origin, const struct head *head, const char *path, struct sb_pack_stats *stats, struct sb_error *err)
{
	const char *want[] = { head->oid }, **have = NULL;
	json_t *answer = NULL, *ref;
	const json_t *refs;
	char *url = NULL;
	size_t i, n = 0;
	int r;

	url = sb_asprintf("/v1/git/%s/refs", origin);
	if (!url)
		return sb_fail_nomem(err);
	r = cli_agent_call(cli, "GET", url, NULL, &answer, err);
	free(url);
	if (r < 0)
		return r;
	refs = json_object_get(answer, "refs");
	have = calloc(json_array_size(refs) + 1, sizeof(*have));
	if (!have) {
		json_decref(answer);
		return sb_fail_nomem(err);
	}
	json_array_foreach(refs, i, ref)
	{
		if (sb_hex_ok(cli_str(ref, "oid"), SB_OID_LEN))
			have[n++] = cli_str(ref, "oid");
	}
	r = sb_repo_pack(repo, want, 1, have, n, path, stats, err);
	if (r == SB_ESTATE)
		r = 0;
	free(have);
	json_decref(answer);
	return r;
}

static int fetch(struct cli *cli, const void *user, json_t **ret, struct sb_error *err)
{
	char *path = sb_asprintf("/v1/pushes/%s", (const char *)user);
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

	return strcmp(s, "opened") == 0 || strcmp(s, "updated") == 0 || strcmp(s, "refused") == 0 || strcmp(s, "merged") == 0 || strcmp(s, "closed") == 0;
}

static int hand_over(struct cli *cli, const char *origin, const struct head *head, const char *pack, json_t **ret, struct sb_error *err)
{
	struct sb_buf path;
	int r;

	sb_buf_init(&path, 16384);
	sb_buf_addf(&path, "/v1/git/%s/push", origin);
	cli_query(&path, "branch", head->branch);
	cli_query(&path, "head", head->oid);
	cli_query(&path, "title", cli->option[OPT_TITLE] ? cli->option[OPT_TITLE] : head->commit.title);
	cli_query(&path, "body", cli->option[OPT_BODY]);
	r = sb_buf_check(&path, "title and body", err);
	if (r == 0)
		r = cli_agent_upload(cli, path.data, pack, ret, err);
	sb_buf_release(&path);
	return r;
}

static int outcome(struct cli *cli, const json_t *answer, const struct head *head, const struct sb_pack_stats *stats, struct sb_error *err)
{
	json_t *fate = NULL;
	int r, status = 0;

	if (!cli->quiet)
		fprintf(stderr, "pushed %.12s as %s: %llu commits, %llu bytes\n", head->oid, head->branch, (unsigned long long)stats->commits, (unsigned long long)stats->bytes);
	if (!cli->wait) {
		cli_say(cli, answer, "push %s: the request waits at the broker; `stagebridge status` shows its fate", cli_str(answer, "push"));
		return 0;
	}
	r = cli_poll(cli, fetch, settled, cli_str(answer, "push"), &fate, err);
	if (r < 0)
		return r;
	if (r == 0)
		status = 124;
	else if (strcmp(cli_str(fate, "state"), "refused") == 0)
		status = 2;
	cli_say(cli, fate, "%s%s%s%s%s", cli_str(fate, "state"), *cli_str(fate, "url") ? " " : "", cli_str(fate, "url"), *cli_str(fate, "reason") ? ": " : "",
		cli_str(fate, "reason"));
	json_decref(fate);
	return status;
}

static int run(struct cli *cli, struct sb_error *err)
{
	char pack[] = "/tmp/stagebridge-push-XXXXXX", origin[SB_TYPE_MAX + 1] = "";
	struct sb_pack_stats stats = { 0 };
	struct sb_repo *repo = NULL;
	json_t *answer = NULL;
	struct head head;
	int fd = -1, r;

	memset(&head, 0, sizeof(head));
	r = sb_repo_open(&repo, cli->option[OPT_REPO] ? cli->option[OPT_REPO] : ".", false, err);
	if (r == 0)
		r = read_head(repo, cli->option[OPT_BRANCH], &head, err);
	if (r == 0 && cli->option[OPT_ORIGIN] && !sb_type_ok(cli->option[OPT_ORIGIN]))
		r = sb_fail(err, SB_EINVAL, "--origin \"%s\" is not an origin's name", cli->option[OPT_ORIGIN]);
	if (r == 0 && cli->option[OPT_ORIGIN])
		(void)snprintf(origin, sizeof(origin), "%s", cli->option[OPT_ORIGIN]);
	else if (r == 0)
		r = find_origin(cli, origin, err);
	if (r == 0) {
		fd = mkstemp(pack);
		r = fd < 0 ? sb_fail(err, SB_EIO, "could not make a temporary file in /tmp") : 0;
	}
	if (r == 0)
		r = make_pack(cli, repo, origin, &head, pack, &stats, err);
	if (r == 0)
		r = hand_over(cli, origin, &head, pack, &answer, err);
	if (r == 0)
		r = outcome(cli, answer, &head, &stats, err);
	if (fd >= 0) {
		(void)unlink(pack); /* best effort: it is in /tmp and 0600 */
		sb_closep(&fd);
	}
	json_decref(answer);
	sb_repo_close(repo);
	return r;
}

const struct cli_command cli_push = {
	.name = "push",
	.arguments = "",
	.summary = "hand the current branch to the bridge: a pull request opens at the forge",
	.help = "Packs the commits that the stage's agent does not have, gives them to the agent and comes back. The agent carries them to the hub,\n"
		"which pushes the branch and opens the pull request in your name. It works while the hub is down: the request waits.\n\n"
		"  stagebridge push --title \"better prompts\"\n  stagebridge push --branch try-2 --wait=2m",
	.options = options,
	.max_arguments = 0,
	.run = run,
};
