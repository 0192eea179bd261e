/* Stage branches show what the stages hold, as their agents reported it: by fast-forward where that is possible, else by a record commit whose tree is exactly the
 * artifact's. Promotions that wait for a person have a pull request into the stage's branch: merging it is saying yes. */
#include <stdio.h>
#include <string.h>

#include "lane.h"
#include "stagebridge/log.h"
#include "store/store.h"

struct target { char artifact[65], commit[SB_OID_LEN + 1], tree[SB_OID_LEN + 1], promotion[SB_ID_LEN + 1]; };

static int held(struct hub_git *g, const char *stage, const char *origin, struct target *t, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { stage, origin };

	int r = sb_pg_exec(g->pg,
		"SELECT a.id, a.commit_oid, a.tree_oid, o.promotion FROM lifecycle.occupancy o JOIN lifecycle.artifact a ON a.id = o.artifact WHERE o.stage = $1 AND o.origin = $2 AND o.until IS NULL AND o.verified_at IS NOT NULL"
		" AND NOT EXISTS (SELECT FROM lifecycle.promotion_request q WHERE q.stage = $1 AND q.origin = $2 AND q.action = 'merged' AND (q.state = 'open' OR EXISTS"
		"  (SELECT FROM lifecycle.promotion p WHERE p.id = q.promotion AND p.ended_at IS NULL)))",
		2, param, &res, err);
	if (r < 0 || sb_pg_rows(res) == 0)
		return r < 0 ? r : 0;
	char *const out[] = { t->artifact, t->commit, t->tree, t->promotion };
	const size_t size[] = { sizeof(t->artifact), sizeof(t->commit), sizeof(t->tree), sizeof(t->promotion) };
	for (int i = 0; r == 0 && i < 4; i++)
		r = sb_format(out[i], size[i], err, "%s", sb_pg_get(res, 0, i));
	return r < 0 ? r : 1;
}

/* What to put on the branch. "" when it shows the artifact already. */
static int plan(struct sb_repo *repo, const char *tip, const char *stage, const struct target *t, char out[SB_OID_LEN + 1], struct sb_error *err)
{
	struct sb_commit now;
	char message[300];

	out[0] = '\0';
	if (!tip)
		return sb_format(out, SB_OID_LEN + 1, err, "%s", t->commit);
	int r = sb_repo_commit(repo, tip, &now, err);
	if (r < 0 || strcmp(now.oid, t->commit) == 0 || strcmp(now.tree, t->tree) == 0)
		return r;
	r = sb_repo_is_ancestor(repo, tip, t->commit, err);
	if (r < 0)
		return r;
	if (r == 1)
		return sb_format(out, SB_OID_LEN + 1, err, "%s", t->commit);
	const char *parents[] = { tip, t->commit };
	r = sb_format(message, sizeof(message), err, "%s: artifact %.12s\n\nPromotion: %s\nArtifact: %s\nCommit: %s\n", stage, t->artifact, t->promotion, t->artifact, t->commit);
	return r < 0 ? r : sb_repo_record(repo, t->commit, parents, 2, message, out, err);
}

static int remember(struct hub_git *g, const char *origin, const char *branch, const char *oid, const char *promotion, struct sb_error *err)
{
	const char *row[] = { origin, branch, oid };
	const char *stamp[] = { promotion, oid };

	int r = hub_git_begin(g, err);
	if (r == 0)
		r = sb_pg_exec(g->pg, "INSERT INTO lifecycle.branch (origin, name, oid) VALUES ($1, $2, $3) ON CONFLICT (origin, name) DO UPDATE SET oid = excluded.oid, updated_at = now()", 3, row, NULL, err);
	if (r == 0)
		r = sb_pg_exec(g->pg, "UPDATE lifecycle.promotion SET stage_commit = $2 WHERE id = $1", 2, stamp, NULL, err);
	return r < 0 ? r : sb_pg_commit(g->pg, err);
}

static int follow(struct hub_git *g, struct hub_git_origin *o, struct sb_repo *repo, const char *path, const struct hub_stage *s, const char *branch, struct sb_error *err)
{
	struct target t = { .artifact = "" };
	char ref[64], oid[SB_OID_LEN + 1], url[400];
	struct sb_remote remote;

	int r = held(g, s->name, o->set->name, &t, err);
	if (r <= 0)
		return r;
	(void)snprintf(ref, sizeof(ref), "refs/heads/%s", branch);
	const char *tip = hub_ref_find(&o->remote, ref);
	r = plan(repo, tip, s->name, &t, oid, err);
	if (r < 0 || !*oid)
		return r;
	r = g->api->remote(g->forge, o->set->repository, url, &remote, err);
	if (r == 0)
		r = sb_remote_push(&remote, path, oid, ref, tip ? tip : "", false, err);
	if (r == 0)
		r = remember(g, o->set->name, branch, oid, t.promotion, err);
	if (r < 0)
		return sb_fail_prefix(err, "branch %s", branch);
	o->seen[0] = '\0'; /* our own move is read back and stored like any other */
	sb_log(SB_INFO, "stage_branch_moved", "origin=%s branch=%s oid=%.12s artifact=%.12s", o->set->name, branch, oid, t.artifact);
	return 1;
}

/* A promotion that waits for a person: its pull request, opened once. Stage branches come first: the pull request needs a base. */
static int offer(struct hub_git *g, struct hub_git_origin *o, const char *path, const struct hub_stage *s, const char *branch, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { s->name, o->set->name };
	char url[400], head[128], ref[160], title[300], number[16];
	struct hub_pull pull = { .number = 0 };
	struct sb_remote remote;

	(void)snprintf(ref, sizeof(ref), "refs/heads/%s", branch);
	if (!hub_ref_find(&o->remote, ref))
		return 0;
	int r = sb_pg_exec(g->pg,
		"SELECT p.id, p.artifact, a.commit_oid, a.title FROM lifecycle.promotion p JOIN lifecycle.artifact a ON a.id = p.artifact WHERE p.stage = $1 AND p.origin = $2 AND p.kind = 'auto' AND p.state = 'GATED'"
		" AND p.pull_number = 0 AND p.waiting_for LIKE '%approval:%' ORDER BY p.seq DESC LIMIT 1",
		2, param, &res, err);
	if (r < 0 || sb_pg_rows(res) == 0)
		return r;
	r = sb_format(head, sizeof(head), err, "promote/%s/%.12s", s->name, sb_pg_get(res, 0, 1));
	if (r == 0)
		r = sb_format(ref, sizeof(ref), err, "refs/heads/%s", head);
	if (r == 0)
		r = sb_format(title, sizeof(title), err, "Promote to %s: %.200s", s->name, sb_pg_get(res, 0, 3));
	if (r == 0)
		r = g->api->remote(g->forge, o->set->repository, url, &remote, err);
	if (r == 0 && !hub_ref_find(&o->remote, ref))
		r = sb_remote_push(&remote, path, sb_pg_get(res, 0, 2), ref, "", false, err);
	if (r == 0)
		r = g->api->pull_open(g->forge, o->set->repository, head, branch, title, "Merging this lets the artifact into the stage.", "stagebridge", &pull, err);
	if (r < 0)
		return sb_fail_prefix(err, "pull request for %s", head);
	(void)snprintf(number, sizeof(number), "%d", pull.number);
	const char *done[] = { sb_pg_get(res, 0, 0), number };
	r = sb_pg_exec(g->pg, "UPDATE lifecycle.promotion SET pull_number = $2 WHERE id = $1", 2, done, NULL, err);
	o->seen[0] = '\0';
	return r < 0 ? r : 1;
}

/* Pull requests of promotions that are over or went in another way. */
static int withdraw(struct hub_git *g, const struct hub_git_origin *o, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *origin = o->set->name;

	int r = sb_pg_exec(g->pg,
		"SELECT r.number, p.state FROM lifecycle.promotion p JOIN lifecycle.pull_request r ON r.origin = p.origin AND r.number = p.pull_number WHERE p.origin = $1 AND p.ended_at IS NOT NULL AND r.state = 'open'", 1,
		&origin, &res, err);
	for (int i = 0; r == 0 && i < sb_pg_rows(res); i++) {
		char comment[128];

		r = sb_format(comment, sizeof(comment), err, "The promotion ended: %s.", sb_pg_get(res, i, 1));
		if (r == 0)
			r = g->api->pull_close(g->forge, o->set->repository, (int)sb_pg_get_i64(res, i, 0), comment, err);
	}
	return r;
}

int hub_git_stages(struct hub_git *g, struct hub_git_origin *o, struct sb_error *err)
{
	const struct hub_stage *s = g->w->set->stages.item;
	struct sb_repo *repo = NULL;
	char branch[SB_NAME_MAX + 8], path[1024];
	int moved = 0;

	int r = hub_repo_open(&repo, path, g->w, o->set->name, err);
	for (size_t i = 0; r >= 0 && i < g->w->set->stages.count; i++) {
		if (!hub_stage_branch(g->w->set, &s[i], branch))
			continue;
		r = follow(g, o, repo, path, &s[i], branch, err);
		moved += r > 0;
		if (r >= 0)
			r = offer(g, o, path, &s[i], branch, err);
		moved += r > 0;
	}
	if (r >= 0)
		r = withdraw(g, o, err);
	sb_repo_close(repo);
	if (r >= 0 && moved > 0)
		r = hub_git_discover(g, o, err);
	return r;
}
