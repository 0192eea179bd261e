/* What other systems say about commits at the forge, for promotions that wait for it: asked commit by commit, only while something waits. The newest word per context
 * counts, with the account that said it. Our own statuses are left out. */
#include <string.h>

#include "lane.h"

#define COMMITS_MAX "20" /* a turn, drawn by lot: none is left out for ever */

static int store(struct hub_git *g, const char *origin, const char *oid, const struct hub_check *c, struct sb_error *err)
{
	const char *param[] = { origin, oid, c->context, c->state, c->description, c->url, c->reporter };

	return sb_pg_exec(g->pg,
		"INSERT INTO lifecycle.commit_status (origin, oid, context, state, description, url, reporter) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (origin, oid, context) DO UPDATE"
		" SET state = excluded.state, description = excluded.description, url = excluded.url, reporter = excluded.reporter, updated_at = now()"
		" WHERE commit_status.reporter <> '' AND (commit_status.state, commit_status.reporter) IS DISTINCT FROM (excluded.state, excluded.reporter)",
		7, param, NULL, err);
}

static int look(struct hub_git *g, const struct hub_git_origin *o, const char *oid, struct sb_error *err)
{
	struct hub_check check[HUB_CHECKS_MAX];
	size_t n = 0;

	int r = g->api->checks(g->forge, o->set->repository, oid, check, &n, err);
	if (r == 0)
		r = hub_git_begin(g, err);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = store(g, o->set->name, oid, &check[i], err);
	return r < 0 ? r : sb_pg_commit(g->pg, err);
}

int hub_git_checks(struct hub_git *g, struct hub_git_origin *o, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { o->set->name };

	if (!g->api->checks)
		return 0;
	/* the judgement has written into the row what is missing: the gate "status" */
	int r = sb_pg_exec(g->pg,
		"SELECT a.commit_oid FROM lifecycle.promotion p JOIN lifecycle.artifact a ON a.id = p.artifact WHERE p.origin = $1 AND p.state IN ('PENDING', 'GATED', 'READY')"
		" AND (p.waiting_for LIKE 'status: %' OR p.waiting_for LIKE '%; status: %') GROUP BY a.commit_oid ORDER BY random() LIMIT " COMMITS_MAX,
		1, param, &res, err);
	for (int i = 0; r == 0 && i < sb_pg_rows(res); i++)
		r = look(g, o, sb_pg_get(res, i, 0), err);
	if (r == 0 && sb_pg_rows(res) > 0)
		hub_wake(g->w, "engine");
	return r;
}
