/* From the forge's branches to artifacts. Truth is ls-remote; what is new is found by ancestry from the tip that was processed last, never by time or by the
 * order of hooks. Main gives artifacts (one per first-parent commit, oldest first); a stage's branch that a person moved gives a request. */
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "lane.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "store/store.h"

#define WALK_MAX 1000
#define DEFER_MAX 30

static void digest(char out[65], const struct sb_refs *refs)
{
	crypto_hash_sha256_state st;
	uint8_t hash[32];

	(void)crypto_hash_sha256_init(&st);
	for (size_t i = 0; i < refs->count; i++) {
		(void)crypto_hash_sha256_update(&st, (const uint8_t *)refs->item[i].name, strlen(refs->item[i].name) + 1);
		(void)crypto_hash_sha256_update(&st, (const uint8_t *)refs->item[i].oid, SB_OID_LEN);
	}
	(void)crypto_hash_sha256_final(&st, hash);
	sb_hex(out, hash, sizeof(hash));
}

/* The immutable manifest; its id is the SHA-256 of the canonical form. */
static int make_manifest(const char *origin, const struct sb_commit *c, char id[65], char **ret, struct sb_error *err)
{
	json_auto_t *json = json_pack("{s:i, s:s, s:s, s:s, s:[], s:[]}", "version", 1, "origin", origin, "commit", c->oid, "tree", c->tree, "blobs", "images");
	char *text = json ? json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
	uint8_t hash[32];

	if (!text)
		return sb_fail_nomem(err);
	crypto_hash_sha256(hash, (const uint8_t *)text, strlen(text));
	sb_hex(id, hash, sizeof(hash));
	*ret = text;
	return 0;
}

static int add_artifact(struct hub_git *g, struct sb_repo *repo, const char *origin, const struct sb_commit *c, const char *kind, char id[65], bool *ret_new, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	sb_cleanup(sb_freep) char *manifest = NULL;
	char when[SB_TIME_LEN + 1], ref[128];

	int r = make_manifest(origin, c, id, &manifest, err);
	if (r == 0)
		r = sb_format(ref, sizeof(ref), err, "refs/stagebridge/keep/%s", id);
	if (r == 0)
		r = sb_repo_ref_set(repo, ref, c->oid, NULL, "artifact", err);
	if (r < 0)
		return r;
	sb_time_format(when, c->committed_ms);
	const char *param[] = { id, origin, c->oid, c->tree, kind, c->title, c->author, when, manifest };
	r = sb_pg_exec(g->pg,
		"INSERT INTO lifecycle.artifact (id, origin, commit_oid, tree_oid, kind, title, author, committed_at, manifest) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
		" ON CONFLICT (origin, commit_oid) DO NOTHING",
		9, param, &res, err);
	if (r < 0)
		return r;
	*ret_new = sb_pg_affected(res) == 1;
	if (*ret_new)
		sb_log(SB_INFO, "artifact_found", "origin=%s artifact=%.12s commit=%.12s kind=%s", origin, id, c->oid, kind);
	return 0;
}

static int main_before(struct hub_git *g, const char *origin, char tip[SB_OID_LEN + 1], struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;

	int r = sb_pg_exec(g->pg, "SELECT main_tip FROM lifecycle.origin WHERE name = $1", 1, &origin, &res, err);
	return r < 0 ? r : sb_format(tip, SB_OID_LEN + 1, err, "%s", sb_pg_rows(res) ? sb_pg_get(res, 0, 0) : "");
}

/* A rewritten main: artifacts that are no longer part of it are kept, but automation leaves them alone. */
static int mark_orphans(struct hub_git *g, struct sb_repo *repo, const char *origin, const char *tip, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;

	int r = sb_pg_exec(g->pg, "SELECT id, commit_oid FROM lifecycle.artifact WHERE origin = $1 AND kind = 'merge' ORDER BY seq DESC LIMIT 1000", 1, &origin, &res, err);
	for (int i = 0; r >= 0 && i < sb_pg_rows(res); i++) {
		const char *param[] = { sb_pg_get(res, i, 0), "f" };

		r = sb_repo_is_ancestor(repo, sb_pg_get(res, i, 1), tip, err);
		if (r < 0)
			return r;
		param[1] = r ? "f" : "t";
		r = sb_pg_exec(g->pg, "UPDATE lifecycle.artifact SET orphaned = $2::boolean WHERE id = $1 AND orphaned <> $2::boolean", 2, param, NULL, err);
	}
	return r < 0 ? r : 0;
}

static int main_moved(struct hub_git *g, struct sb_repo *repo, const char *origin, const char *tip, struct sb_error *err)
{
	char before[SB_OID_LEN + 1], id[65];
	struct sb_commit *list = NULL;
	size_t n = 0;
	bool is_new = false, forward = false;

	int r = main_before(g, origin, before, err);
	if (r < 0 || strcmp(before, tip) == 0)
		return r;
	if (*before && sb_repo_has(repo, before)) {
		r = sb_repo_is_ancestor(repo, before, tip, err);
		forward = r == 1;
	}
	/* the first look at a repository takes its tip alone: its past is not waiting to be promoted */
	if (r >= 0)
		r = sb_repo_first_parents(repo, tip, forward ? before : "", forward ? WALK_MAX : 1, &list, &n, err);
	if (r >= 0)
		r = hub_git_begin(g, err);
	for (size_t i = n; r >= 0 && i > 0; i--)
		r = add_artifact(g, repo, origin, &list[i - 1], "merge", id, &is_new, err);
	if (r >= 0 && *before && !forward) {
		sb_log(SB_WARN, "main_rewritten", "origin=%s from=%.12s to=%.12s", origin, before, tip);
		r = mark_orphans(g, repo, origin, tip, err);
	}
	if (r >= 0) {
		const char *param[] = { origin, tip };

		r = sb_pg_exec(g->pg, "UPDATE lifecycle.origin SET main_tip = $2 WHERE name = $1", 2, param, NULL, err);
	}
	if (r >= 0)
		r = sb_pg_commit(g->pg, err);
	free(list);
	return r < 0 ? r : 1;
}

/* The artifact that a stage's branch now shows: by commit, else by tree; none: a hotfix made there. */
static int artifact_at(struct hub_git *g, struct sb_repo *repo, const char *origin, const char *tip, char id[65], struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	struct sb_commit c;
	bool is_new = false;

	int r = sb_repo_commit(repo, tip, &c, err);
	if (r < 0)
		return r;
	const char *param[] = { origin, c.oid, c.tree, c.parent[1] };
	r = sb_pg_exec(g->pg,
		"SELECT id FROM lifecycle.artifact WHERE origin = $1 AND (commit_oid = $2 OR (tree_oid = $3 AND commit_oid = $4) OR tree_oid = $3) ORDER BY (commit_oid = $2) DESC, (commit_oid = $4) DESC, seq DESC LIMIT 1",
		4, param, &res, err);
	if (r < 0)
		return r;
	if (sb_pg_rows(res) > 0)
		return sb_format(id, 65, err, "%s", sb_pg_get(res, 0, 0));
	return add_artifact(g, repo, origin, &c, "hotfix", id, &is_new, err);
}

/* Who merged: the pull request says so, a moment after the branch has moved. 1: known, 0: nobody's pull request, or not said after some turns. */
static int who_merged(struct hub_git *g, struct hub_git_origin *o, const char *branch, const char *tip, char person[96], bool *ret_wait, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { o->set->name, branch, tip };

	int r = hub_git_pulls(g, o, err);
	if (r == 0)
		r = sb_pg_exec(g->pg,
			"SELECT CASE WHEN state = 'merged' THEN merged_by ELSE '' END FROM lifecycle.pull_request WHERE origin = $1 AND base = $2 AND (merge_oid = $3 OR state = 'open') ORDER BY (merge_oid = $3) DESC LIMIT 1", 3, param,
			&res, err);
	if (r < 0)
		return r;
	const char *said = sb_pg_rows(res) ? sb_pg_get(res, 0, 0) : NULL;
	*ret_wait = said && !*said && o->deferred < DEFER_MAX;
	if (*ret_wait)
		o->deferred++;
	else
		o->deferred = 0;
	return sb_format(person, 96, err, "%s", said && *said ? said : "git");
}

/* A stage's branch stands at something that we did not put there: somebody merged, which is a request, answered when its gates pass. 1: looked at again later. */
static int stage_moved(struct hub_git *g, struct sb_repo *repo, struct hub_git_origin *o, const char *stage, const char *branch, const char *tip, struct sb_error *err)
{
	char artifact[65], id[128], person[96];
	const char *origin = o->set->name;
	bool wait = false;

	int r = who_merged(g, o, branch, tip, person, &wait, err);
	if (r < 0 || wait)
		return r < 0 ? r : 1;
	r = hub_git_begin(g, err);
	if (r == 0)
		r = artifact_at(g, repo, origin, tip, artifact, err);
	if (r == 0)
		r = sb_format(id, sizeof(id), err, "merged-%s-%.40s", stage, tip);
	if (r == 0) {
		const char *param[] = { id, origin, artifact, stage, person };

		r = sb_pg_exec(g->pg,
			"INSERT INTO lifecycle.promotion_request (id, stage_from, action, origin, artifact, stage, promotion, person, reason) SELECT $1, 'forge', 'merged', $2, $3, $4, '', $5, 'merged at the forge'"
			" WHERE NOT EXISTS (SELECT FROM lifecycle.occupancy WHERE stage = $4 AND origin = $2 AND artifact = $3 AND until IS NULL) ON CONFLICT DO NOTHING",
			5, param, NULL, err);
	}
	return r < 0 ? r : sb_pg_commit(g->pg, err);
}

static int known_tip(struct hub_git *g, const char *origin, const char *branch, char tip[SB_OID_LEN + 1], struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { origin, branch };

	int r = sb_pg_exec(g->pg, "SELECT oid FROM lifecycle.branch WHERE origin = $1 AND name = $2", 2, param, &res, err);
	return r < 0 ? r : sb_format(tip, SB_OID_LEN + 1, err, "%s", sb_pg_rows(res) ? sb_pg_get(res, 0, 0) : "");
}

/* 1: one of them is looked at again at the next turn */
static int stages_moved(struct hub_git *g, struct sb_repo *repo, struct hub_git_origin *o, struct sb_error *err)
{
	const struct hub_stage *s = g->w->set->stages.item;
	char branch[SB_NAME_MAX + 8], ref[64], tip[SB_OID_LEN + 1];
	int r = 0;

	for (size_t i = 0; r == 0 && i < g->w->set->stages.count; i++) {
		if (!hub_stage_branch(g->w->set, &s[i], branch))
			continue;
		(void)snprintf(ref, sizeof(ref), "refs/heads/%s", branch);
		const char *oid = hub_ref_find(&o->remote, ref);
		r = known_tip(g, o->set->name, branch, tip, err);
		/* unknown before: the branch that provisioning made, or one that was there; not a merge */
		if (r == 0 && oid && *tip && strcmp(tip, oid) != 0)
			r = stage_moved(g, repo, o, s[i].name, branch, oid, err);
	}
	return r;
}

static int store_branches(struct hub_git *g, const struct hub_git_origin *o, struct sb_error *err)
{
	int r = hub_git_begin(g, err);
	struct sb_buf names;

	sb_buf_init(&names, 4 << 20);
	sb_buf_addc(&names, '{');
	for (size_t i = 0; r == 0 && i < o->remote.count; i++) {
		const char *param[] = { o->set->name, o->remote.item[i].name + strlen("refs/heads/"), o->remote.item[i].oid };

		r = sb_pg_exec(g->pg,
			"INSERT INTO lifecycle.branch (origin, name, oid) VALUES ($1, $2, $3) ON CONFLICT (origin, name) DO UPDATE SET oid = excluded.oid, updated_at = now() WHERE branch.oid <> excluded.oid", 3, param, NULL, err);
		sb_buf_addf(&names, "%s\"%s\"", i ? "," : "", param[1]); /* sb_branch_ok has no quotes or backslashes */
	}
	sb_buf_addc(&names, '}');
	if (r == 0)
		r = sb_buf_check(&names, "branches", err);
	if (r == 0) {
		const char *param[] = { o->set->name, names.data };

		r = sb_pg_exec(g->pg, "DELETE FROM lifecycle.branch WHERE origin = $1 AND name <> ALL ($2::text[])", 2, param, NULL, err);
	}
	sb_buf_release(&names);
	return r < 0 ? r : sb_pg_commit(g->pg, err);
}

/* Branches with names that we do not accept are left out: nothing of ours can be called so. */
static void drop_unfit(struct sb_refs *refs)
{
	size_t n = 0;

	for (size_t i = 0; i < refs->count; i++) {
		if (strncmp(refs->item[i].name, "refs/heads/", 11) == 0 && sb_branch_ok(refs->item[i].name + 11) && !strpbrk(refs->item[i].name, "\"\\{},"))
			refs->item[n++] = refs->item[i];
	}
	refs->count = n;
}

int hub_git_discover(struct hub_git *g, struct hub_git_origin *o, struct sb_error *err)
{
	static const char *const all[] = { "+refs/heads/*:refs/remotes/forge/*" };
	char url[400], now[65], path[1024];
	struct sb_remote remote;
	struct sb_repo *repo = NULL;

	int r = g->api->remote(g->forge, o->set->repository, url, &remote, err);
	if (r == 0) {
		struct sb_refs refs = { .count = 0 };

		r = sb_remote_refs(&remote, &refs, err);
		if (r == 0) {
			drop_unfit(&refs);
			sb_refs_release(&o->remote);
			o->remote = refs;
		}
	}
	if (r < 0)
		return r;
	digest(now, &o->remote);
	if (strcmp(now, o->seen) == 0)
		return 0;
	r = hub_repo_open(&repo, path, g->w, o->set->name, err);
	if (r == 0)
		r = sb_remote_fetch(&remote, path, all, 1, err);
	if (r == 0) { /* opened again: the child wrote new packs */
		sb_repo_close(repo);
		repo = NULL;
		r = hub_repo_open(&repo, path, g->w, o->set->name, err);
	}
	const char *tip = hub_ref_find(&o->remote, "refs/heads/main");
	if (r == 0 && tip)
		r = main_moved(g, repo, o->set->name, tip, err);
	if (r >= 0)
		r = stages_moved(g, repo, o, err);
	if (r == 1) { /* nothing is marked as seen */
		sb_repo_close(repo);
		return HUB_GIT_DEFERRED;
	}
	if (r >= 0)
		r = store_branches(g, o, err);
	sb_repo_close(repo);
	if (r < 0)
		return r;
	memcpy(o->seen, now, sizeof(now));
	hub_wake(g->w, "engine");
	return 1;
}
