/* The git lane: keeps Git in step through the tenant's forge. A webhook or another lane wakes it; what counts is what ls-remote says, asked again every
 * poll interval. One origin's trouble does not stop the others: it backs off by itself and says so in lifecycle.origin.problem. */
#include <stdio.h>
#include <string.h>

#include "lane.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "store/store.h"

#define BACKOFF_CAP_MS 60000
#define DEFERRED_MS 500
#define FOREIGN_LOCK_MS 60000

int hub_git_begin(struct hub_git *g, struct sb_error *err)
{
	int r = sb_pg_begin(g->pg, err);

	if (r == 0)
		r = hub_fence(g->pg, sb_lane_name(g->lane), g->generation, err);
	if (r < 0)
		sb_pg_rollback(g->pg);
	return r;
}

const char *hub_stage_branch(const struct hub_tenant *t, const struct hub_stage *s, char out[SB_NAME_MAX + 8])
{
	const struct hub_stage *all = t->stages.item;

	for (size_t i = 0; i < t->stages.count; i++) {
		if (!all[i].promoted)
			continue;
		if (strcmp(all[i].name, s->name) == 0)
			return NULL; /* the first: main */
		break;
	}
	if (!s->promoted)
		return NULL;
	(void)snprintf(out, SB_NAME_MAX + 8, "stage/%.31s", s->name);
	return out;
}

const char *hub_ref_find(const struct sb_refs *refs, const char *name)
{
	for (size_t i = 0; i < refs->count; i++) {
		if (strcmp(refs->item[i].name, name) == 0)
			return refs->item[i].oid;
	}
	return NULL;
}

static int note_problem(struct hub_git *g, const char *origin, const char *problem, struct sb_error *err)
{
	const char *param[] = { origin, problem };

	return sb_pg_exec(g->pg, "UPDATE lifecycle.origin SET problem = $2, polled_at = CASE WHEN $2 = '' THEN now() ELSE polled_at END WHERE name = $1", 2, param, NULL, err);
}

/* Steps of one origin against the forge, each safe to repeat. */
static int visit(struct hub_git *g, struct hub_git_origin *o, struct sb_error *err)
{
	int r = 0;

	if (!o->provisioned) {
		r = g->api->provision(g->forge, o->set->repository, err);
		o->provisioned = r == 0;
	}
	/* pull requests first: a merge commit that is discovered then knows who merged it */
	if (r >= 0)
		r = hub_git_pulls(g, o, err);
	if (r >= 0)
		r = hub_git_discover(g, o, err);
	if (r == HUB_GIT_DEFERRED)
		return 0;
	if (r >= 0)
		r = hub_git_stages(g, o, err);
	if (r >= 0)
		r = hub_git_checks(g, o, err);
	if (r >= 0)
		r = hub_git_announce(g, o, err);
	return r < 0 ? r : 0;
}

/* Errors of the database end the lane's run; errors of the forge are the origin's own. */
static int poll_origins(struct hub_git *g, bool due_only, struct sb_error *err)
{
	for (size_t i = 0; i < g->n_origins && !sb_lane_stopping(g->lane); i++) {
		struct hub_git_origin *o = &g->origin[i];
		struct sb_error why = SB_ERROR_INIT;

		if (due_only && sb_mono_ms() < o->next_poll_ms)
			continue;
		sb_lane_note(g->lane, "looking at %s", o->set->name);
		int r = visit(g, o, &why);
		if (r < 0)
			sb_pg_rollback(g->pg);
		if (r == SB_EDB || r == SB_ESHUTDOWN) {
			*err = why;
			return r;
		}
		if (r < 0) {
			sb_log_limited(SB_WARN, "forge_trouble", o->set->name, &why);
			o->next_poll_ms = sb_mono_ms() + sb_backoff_ms(o->failures++, 1000, BACKOFF_CAP_MS);
		} else {
			o->failures = 0;
			o->next_poll_ms = sb_mono_ms() + (o->deferred ? DEFERRED_MS : g->w->set->forge.poll_ms);
		}
		r = note_problem(g, o->set->name, r < 0 ? why.msg : "", err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* What a killed predecessor left in our repositories. This lane is their only writer; the bare forge's have others, so only old locks go. */
static int sweep(struct hub_git *g, struct sb_error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < g->n_origins; i++) {
		char path[1024], name[SB_TYPE_MAX + 8];

		r = sb_format(name, sizeof(name), err, "%s.git", g->origin[i].set->name);
		if (r == 0)
			r = hub_path(path, sizeof(path), g->w, "repos", name, err);
		if (r == 0)
			r = sb_repo_sweep(path, 0, err);
		if (r == 0 && g->w->set->forge.kind == HUB_FORGE_BARE) {
			r = sb_format(path, sizeof(path), err, "%s/%s.git", g->w->set->forge.path, g->origin[i].set->repository);
			if (r == 0)
				r = sb_repo_sweep(path, FOREIGN_LOCK_MS, err);
		}
	}
	return r;
}

static int open_git(struct hub_git *g, struct sb_error *err)
{
	const struct hub_tenant *t = g->w->set;
	const struct hub_origin *set = t->origins.item;

	int r = hub_store_open(&g->pg, g->w, sb_lane_name(g->lane), err);
	if (r == 0)
		r = hub_fence_wait(g->lane, g->pg, g->w, &g->generation, err);
	if (r == 0)
		r = t->forge.kind == HUB_FORGE_GITEA ? hub_forge_gitea_new(&g->forge, &g->api, g->w, err) : hub_forge_bare_new(&g->forge, &g->api, g->w, g->pg, err);
	if (r < 0)
		return r;
	g->n_origins = t->origins.count;
	g->origin = calloc(g->n_origins ? g->n_origins : 1, sizeof(*g->origin));
	if (!g->origin)
		return sb_fail_nomem(err);
	for (size_t i = 0; i < g->n_origins; i++)
		g->origin[i].set = &set[i];
	return sweep(g, err);
}

static void close_git(struct hub_git *g)
{
	for (size_t i = 0; g->origin && i < g->n_origins; i++)
		sb_refs_release(&g->origin[i].remote);
	free(g->origin);
	if (g->forge)
		g->api->free(g->forge);
	sb_pg_close(g->pg);
}

static int64_t until_next(const struct hub_git *g)
{
	int64_t now = sb_mono_ms(), next = now + g->w->set->forge.poll_ms;

	for (size_t i = 0; i < g->n_origins; i++) {
		if (g->origin[i].next_poll_ms < next)
			next = g->origin[i].next_poll_ms;
	}
	return next > now ? next - now : 0;
}

int hub_git_lane(struct sb_lane *lane, void *user, struct sb_error *err)
{
	struct hub_git g = { .w = user, .lane = lane };
	bool due_only = false;

	int r = open_git(&g, err);
	while (r >= 0 && !sb_lane_stopping(lane)) {
		r = hub_git_pushes(&g, err);
		/* after a wake-up everything is looked at once; a time-out looks at what is due */
		if (r >= 0)
			r = poll_origins(&g, due_only && r == 0, err);
		if (r >= 0)
			r = hub_git_statuses(&g, err);
		if (r >= 0) {
			int64_t wait = until_next(&g), start = sb_mono_ms();

			sb_lane_note(lane, "in step with the forge");
			(void)sb_lane_wait(lane, NULL, 0, wait);
			due_only = sb_mono_ms() - start >= wait;
		}
	}
	if (r < 0)
		sb_pg_rollback(g.pg);
	close_git(&g);
	return r < 0 ? r : 0;
}
