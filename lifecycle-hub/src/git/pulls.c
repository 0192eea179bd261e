/* Pull requests and commit statuses: the forge's into the sync view, ours to the forge. */
#include <stdio.h>
#include <string.h>

#include "lane.h"
#include "stagebridge/log.h"
#include "store/store.h"

#define ASK_MAX 20

static int store(struct hub_git *g, const char *origin, const struct hub_pull *p, struct sb_error *err)
{
	char number[16];

	(void)snprintf(number, sizeof(number), "%d", p->number);
	const char *param[] = { origin, number, p->title, p->state, p->head, p->base, p->head_oid, p->merge_oid, p->author, p->merged_by, p->url, p->created_at, p->updated_at };
	return sb_pg_exec(g->pg,
		"INSERT INTO lifecycle.pull_request (origin, number, title, state, head, base, head_oid, merge_oid, author, merged_by, url, created_at, updated_at)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, $8,"
		/* the author of what was pushed from inside a stage is the person who pushed, not our account at the forge */
		" coalesce((SELECT pusher FROM lifecycle.push WHERE origin = $1 AND number = $2::integer ORDER BY created_at LIMIT 1), $9), $10, $11, coalesce(nullif($12, '')::timestamptz, now()),"
		" coalesce(nullif($13, '')::timestamptz, now())) ON CONFLICT (origin, number) DO UPDATE SET title = excluded.title, state = excluded.state, head = excluded.head, base = excluded.base,"
		" head_oid = excluded.head_oid, merge_oid = excluded.merge_oid, author = excluded.author,"
		" merged_by = CASE WHEN excluded.merged_by = '' THEN pull_request.merged_by ELSE excluded.merged_by END, url = excluded.url, updated_at = excluded.updated_at",
		13, param, NULL, err);
}

/* Pushes whose pull request was merged or closed: their stage is told once. */
static int tell_fates(struct hub_git *g, const char *origin, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;

	int r = sb_pg_exec(g->pg,
		"SELECT u.id, u.stage, r.state, r.url, r.number FROM lifecycle.push u JOIN lifecycle.pull_request r ON r.origin = u.origin AND r.number = u.number"
		" WHERE u.origin = $1 AND u.state IN ('opened', 'updated') AND r.state IN ('merged', 'closed')",
		1, &origin, &res, err);
	for (int i = 0; r == 0 && i < sb_pg_rows(res); i++) {
		const char *param[] = { sb_pg_get(res, i, 0), sb_pg_get(res, i, 2) };
		json_auto_t *body = json_pack("{s:s, s:s, s:s, s:I, s:s}", "push", param[0], "state", param[1], "url", sb_pg_get(res, i, 3), "number", (json_int_t)sb_pg_get_i64(res, i, 4), "reason", "");

		r = body ? sb_pg_exec(g->pg, "UPDATE lifecycle.push SET state = $2, updated_at = now() WHERE id = $1", 2, param, NULL, err) : sb_fail_nomem(err);
		if (r == 0)
			r = hub_outbox_put(g->w, g->pg, sb_pg_get(res, i, 1), SB_EV_PUSH_REPORTED, param[0], body, err);
	}
	return r;
}

static int is_known(struct hub_git *g, const char *origin, int number, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	char digits[16];

	(void)snprintf(digits, sizeof(digits), "%d", number);
	const char *param[] = { origin, digits };
	int r = sb_pg_exec(g->pg, "SELECT 1 FROM lifecycle.pull_request WHERE origin = $1 AND number = $2 AND merged_by <> ''", 2, param, &res, err);
	return r < 0 ? r : sb_pg_rows(res) > 0;
}

/* Who merged is asked one by one, for the newest that we do not know it of. */
static int complete(struct hub_git *g, const struct hub_git_origin *o, struct hub_pulls *pulls, struct sb_error *err)
{
	unsigned asked = 0;
	int r = 0;

	for (size_t i = 0; r >= 0 && g->api->pull_get && i < pulls->count && asked < ASK_MAX; i++) {
		struct hub_pull *p = &pulls->item[i];

		if (strcmp(p->state, "merged") != 0 || *p->merged_by)
			continue;
		r = is_known(g, o->set->name, p->number, err);
		if (r == 0) {
			r = g->api->pull_get(g->forge, o->set->repository, p->number, p, err);
			asked++;
		}
	}
	return r < 0 ? r : 0;
}

int hub_git_pulls(struct hub_git *g, struct hub_git_origin *o, struct sb_error *err)
{
	struct hub_pulls pulls = { .count = 0 };

	int r = g->api->pulls(g->forge, o->set->repository, &pulls, err);
	if (r == 0)
		r = complete(g, o, &pulls, err);
	if (r == 0)
		r = hub_git_begin(g, err);
	for (size_t i = 0; r == 0 && i < pulls.count; i++)
		r = store(g, o->set->name, &pulls.item[i], err);
	if (r == 0)
		r = tell_fates(g, o->set->name, err);
	if (r == 0)
		r = sb_pg_commit(g->pg, err);
	free(pulls.item);
	return r;
}

static const char *repository_of(const struct hub_git *g, const char *origin)
{
	for (size_t i = 0; i < g->n_origins; i++) {
		if (strcmp(g->origin[i].set->name, origin) == 0)
			return g->origin[i].set->repository;
	}
	return NULL;
}

int hub_git_statuses(struct hub_git *g, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;

	int r = sb_pg_exec(g->pg, "SELECT origin, oid, context, state, description, url, updated_at::text FROM lifecycle.commit_status WHERE NOT sent ORDER BY updated_at LIMIT 100", 0, NULL, &res, err);
	for (int i = 0; r == 0 && i < sb_pg_rows(res); i++) {
		const char *repository = repository_of(g, sb_pg_get(res, i, 0));
		const char *param[] = { sb_pg_get(res, i, 0), sb_pg_get(res, i, 1), sb_pg_get(res, i, 2), sb_pg_get(res, i, 6) };
		struct sb_error why = SB_ERROR_INIT;

		int sent = repository ? g->api->status(g->forge, repository, param[1], sb_pg_get(res, i, 3), param[2], sb_pg_get(res, i, 4), sb_pg_get(res, i, 5), &why) : 0;
		if (sent < 0 && why.retriable) {
			sb_log_limited(SB_WARN, "status_waits", param[0], &why);
			return 0; /* tried again at the next turn */
		}
		if (sent < 0)
			sb_log_error(SB_WARN, "status_refused", &why, "origin=%s oid=%.12s", param[0], param[1]);
		/* only when it is still what was sent */
		r = sb_pg_exec(g->pg, "UPDATE lifecycle.commit_status SET sent = true WHERE origin = $1 AND oid = $2 AND context = $3 AND updated_at = $4::timestamptz", 4, param, NULL, err);
	}
	return r;
}
