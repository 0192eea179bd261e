/* Pushes from inside stages: the pack is opened and indexed, the branch goes to the forge under the pusher's name, the pull request opens. A refusal is
 * final and told to the stage; trouble with the forge is tried again. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lane.h"
#include "stagebridge/log.h"
#include "store/store.h"

#define OBJECTS_MAX 5000000

struct push { const char *id, *stage, *origin, *branch, *head, *title, *body, *pusher, *transfer; };

static struct hub_git_origin *find_origin(struct hub_git *g, const char *name)
{
	for (size_t i = 0; i < g->n_origins; i++) {
		if (strcmp(g->origin[i].set->name, name) == 0)
			return &g->origin[i];
	}
	return NULL;
}

static int take_pack(struct hub_git *g, struct sb_repo *repo, const struct push *p, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	struct sb_manifest m = { .meta = NULL };
	char spool[1024], pack[1100], name[SB_ID_LEN + 8];

	if (!*p->transfer)
		return sb_repo_has(repo, p->head) ? 0 : sb_fail(err, SB_EGIT, "commit %.12s is not known here and no pack came with it", p->head);
	int r = sb_pg_exec(g->pg, "SELECT manifest::text FROM lifecycle.transfer WHERE id = $1", 1, &p->transfer, &res, err);
	if (r < 0)
		return r;
	json_auto_t *json = sb_pg_rows(res) ? json_loads(sb_pg_get(res, 0, 0), JSON_REJECT_DUPLICATES, NULL) : NULL;
	r = json ? sb_manifest_parse(&m, json, g->w->hub->set.carrier.max_bytes, err) : sb_fail(err, SB_EPROTO, "its pack was never offered");
	if (r == 0)
		r = sb_format(name, sizeof(name), err, "%s.in", p->transfer);
	if (r == 0)
		r = hub_path(spool, sizeof(spool), g->w, "spool", name, err);
	if (r == 0)
		r = sb_format(pack, sizeof(pack), err, "%s.pack", spool);
	if (r == 0 && !sb_repo_has(repo, p->head)) {
		r = sb_carrier_open(&m, spool, pack, g->w->hub->set.carrier.max_bytes, g->w->identity, err);
		if (r == 0)
			r = sb_repo_index(repo, pack, OBJECTS_MAX, p->head, err);
		(void)unlink(pack); /* ours alone */
	}
	sb_manifest_release(&m);
	return r;
}

static int open_pull(struct hub_git *g, struct hub_git_origin *o, const char *path, const struct push *p, struct hub_pull *pull, struct sb_error *err)
{
	char url[400], branch[300], ref[320];
	struct sb_buf body;
	struct sb_remote remote;

	int r = sb_format(branch, sizeof(branch), err, "%s/%s", p->pusher, p->branch);
	if (r == 0 && !sb_branch_ok(branch))
		r = sb_fail(err, SB_EREFUSED, "\"%s\" is not a branch name that the forge accepts", branch);
	if (r == 0)
		r = sb_format(ref, sizeof(ref), err, "refs/heads/%s", branch);
	if (r == 0)
		r = g->api->remote(g->forge, o->set->repository, url, &remote, err);
	if (r == 0) /* the branch is the pusher's own: what they push is what it is */
		r = sb_remote_push(&remote, path, p->head, ref, NULL, true, err);
	if (r < 0)
		return r;
	sb_buf_init(&body, 64 << 10);
	sb_buf_addf(&body, "%s%sPushed by %s from stage %s.", p->body, *p->body ? "\n\n" : "", p->pusher, p->stage);
	r = sb_buf_check(&body, "description", err);
	if (r == 0)
		r = g->api->pull_open(g->forge, o->set->repository, branch, "main", p->title, body.data, p->pusher, pull, err);
	sb_buf_release(&body);
	return r;
}

/* Best effort: what is left behind by a kill is small and named by its transfer. */
static void drop_spool(const struct hub_git *g, const char *transfer)
{
	char spool[1024], name[SB_ID_LEN + 8];
	struct sb_error ignored = SB_ERROR_INIT;

	if (*transfer && sb_format(name, sizeof(name), &ignored, "%s.in", transfer) == 0 && hub_path(spool, sizeof(spool), g->w, "spool", name, &ignored) == 0)
		(void)unlink(spool);
}

static int tell(struct hub_git *g, const struct push *p, const char *state, const struct hub_pull *pull, const char *reason, struct sb_error *err)
{
	char number[16];

	(void)snprintf(number, sizeof(number), "%d", pull->number);
	const char *param[] = { p->id, state, pull->url, number, reason };
	json_auto_t *body = json_pack("{s:s, s:s, s:s, s:i, s:s}", "push", p->id, "state", state, "url", pull->url, "number", pull->number, "reason", reason);
	if (!body)
		return sb_fail_nomem(err);
	int r = hub_git_begin(g, err);
	if (r == 0)
		r = sb_pg_exec(g->pg, "UPDATE lifecycle.push SET state = $2, url = $3, number = $4, reason = $5, updated_at = now() WHERE id = $1", 5, param, NULL, err);
	if (r == 0)
		r = sb_pg_exec(g->pg, "UPDATE lifecycle.transfer SET state = 'done', updated_at = now() WHERE id = $1 AND state = 'complete'", 1, &p->transfer, NULL, err);
	if (r == 0)
		r = hub_outbox_put(g->w, g->pg, p->stage, SB_EV_PUSH_REPORTED, p->id, body, err);
	if (r == 0)
		r = hub_audit(g->pg, p->pusher, "pushed", pull->url, "", state, *reason ? reason : p->title, err);
	if (r == 0)
		r = sb_pg_commit(g->pg, err);
	if (r < 0)
		return r;
	sb_log(SB_INFO, "push_handled", "push=%s origin=%s user=%s state=%s number=%d", p->id, p->origin, p->pusher, state, pull->number);
	drop_spool(g, p->transfer);
	hub_wake(g->w, "courier");
	return 0;
}

static int handle(struct hub_git *g, const struct push *p, struct sb_error *err)
{
	struct hub_git_origin *o = find_origin(g, p->origin);
	struct sb_error why = SB_ERROR_INIT;
	struct hub_pull pull = { .number = 0 };
	struct sb_repo *repo = NULL;
	char path[1024];

	int r = o ? 0 : sb_fail(&why, SB_EREFUSED, "the hub has no origin \"%s\"", p->origin);
	if (r == 0 && !o->provisioned) {
		r = g->api->provision(g->forge, o->set->repository, &why);
		o->provisioned = r == 0;
	}
	if (r == 0)
		r = hub_repo_open(&repo, path, g->w, p->origin, &why);
	if (r == 0)
		r = take_pack(g, repo, p, &why);
	if (r == 0)
		r = open_pull(g, o, path, p, &pull, &why);
	sb_repo_close(repo);
	if (r < 0 && why.retriable) {
		/* the database ends the run; a forge that is away is tried again at the next turn */
		if (r == SB_EDB || r == SB_ESHUTDOWN) {
			*err = why;
			return r;
		}
		sb_log_limited(SB_WARN, "push_waits", p->origin, &why);
		return 0;
	}
	r = tell(g, p, r < 0 ? "refused" : "opened", &pull, r < 0 ? why.msg : "", err);
	return r < 0 ? r : 1;
}

int hub_git_pushes(struct hub_git *g, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	int done = 0;

	int r = sb_pg_exec(g->pg,
		"SELECT p.id, p.stage, p.origin, p.branch, p.head, p.title, p.body, p.pusher, p.transfer FROM lifecycle.push p LEFT JOIN lifecycle.transfer t ON t.id = p.transfer"
		" WHERE p.state = 'received' AND (p.transfer = '' OR t.state = 'complete') ORDER BY p.created_at LIMIT 50",
		0, NULL, &res, err);
	for (int i = 0; r >= 0 && i < sb_pg_rows(res); i++) {
		struct push p = { sb_pg_get(res, i, 0), sb_pg_get(res, i, 1), sb_pg_get(res, i, 2), sb_pg_get(res, i, 3), sb_pg_get(res, i, 4), sb_pg_get(res, i, 5), sb_pg_get(res, i, 6), sb_pg_get(res, i, 7),
			sb_pg_get(res, i, 8) };

		r = handle(g, &p, err);
		done += r > 0;
	}
	return r < 0 ? r : done;
}
