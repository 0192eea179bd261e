/* The policy in force: one counted object per tenant behind a lock that is held for pointers only. */
#include "promote/policy.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "stagebridge/metric.h"
#include "store/store.h"

#define STAGES_MAX 64 /* of a tenant, by its settings */

struct held { struct sb_policy policy; unsigned refs; };
struct hub_policy_slot {
	pthread_mutex_t lock;
	struct held *now;
	char problem[480];
	struct stat seen; /* the engine's lane only */
};

int hub_policy_load(struct sb_policy *ret, const struct hub_tenant *t, int64_t now_ms, struct sb_error *err)
{
	const struct hub_stage *s = t->stages.item;
	struct sb_policy_stage path[STAGES_MAX];
	struct sb_error why = SB_ERROR_INIT;
	size_t n = 0;

	*ret = (struct sb_policy){ .name = NULL };
	for (size_t i = 0; i < t->stages.count && n < STAGES_MAX; i++) {
		if (s[i].promoted)
			path[n++] = (struct sb_policy_stage){ s[i].name, s[i].mode == HUB_MODE_MANUAL, s[i].soak_ms };
	}
	int r = t->policy ? sb_policy_load(ret, t->policy, now_ms, &why) : 0;
	if (r == 0)
		r = sb_policy_fit(ret, path, n, now_ms, &why);
	if (r < 0) {
		sb_policy_release(ret);
		*err = why;
	}
	return r;
}

static int load(struct hub_world *w, struct held **ret, struct sb_error *err)
{
	struct held *h = calloc(1, sizeof(*h));

	if (!h)
		return sb_fail_nomem(err);
	int r = hub_policy_load(&h->policy, w->set, sb_wall_ms(), err);
	if (r < 0) {
		free(h);
		return r;
	}
	h->refs = 1;
	*ret = h;
	return 0;
}

/* With the lock held */
static void unref(struct held *h)
{
	if (--h->refs > 0)
		return;
	sb_policy_release(&h->policy);
	free(h);
}

int hub_policy_open(struct hub_world *w, struct sb_error *err)
{
	struct hub_policy_slot *slot = calloc(1, sizeof(*slot));

	if (!slot)
		return sb_fail_nomem(err);
	(void)pthread_mutex_init(&slot->lock, NULL);
	w->policy = slot;
	if (w->set->policy)
		(void)stat(w->set->policy, &slot->seen); /* before it is read: a change meanwhile is seen at the first look */
	return load(w, &slot->now, err);
}

void hub_policy_close(struct hub_policy_slot *slot)
{
	if (!slot)
		return;
	if (slot->now)
		unref(slot->now);
	(void)pthread_mutex_destroy(&slot->lock);
	free(slot);
}

const struct sb_policy *hub_policy_get(struct hub_world *w)
{
	(void)pthread_mutex_lock(&w->policy->lock);
	struct held *h = w->policy->now;
	h->refs++;
	(void)pthread_mutex_unlock(&w->policy->lock);
	return &h->policy;
}

void hub_policy_put(struct hub_world *w, const struct sb_policy *p)
{
	if (!p)
		return;
	(void)pthread_mutex_lock(&w->policy->lock);
	unref((struct held *)(uintptr_t)p); /* its first member */
	(void)pthread_mutex_unlock(&w->policy->lock);
}

void hub_policy_problem(struct hub_world *w, char *out, size_t size)
{
	(void)pthread_mutex_lock(&w->policy->lock);
	(void)snprintf(out, size, "%s", w->policy->problem);
	(void)pthread_mutex_unlock(&w->policy->lock);
}

static bool same(const struct stat *a, const struct stat *b)
{
	return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

bool hub_policy_refresh(struct hub_world *w)
{
	struct hub_policy_slot *slot = w->policy;
	struct sb_error why = SB_ERROR_INIT;
	struct stat now = { 0 };
	struct held *fresh = NULL;

	if (!w->set->policy)
		return false;
	(void)stat(w->set->policy, &now); /* a file that is gone differs too: reading it says so */
	if (same(&now, &slot->seen))
		return false;
	slot->seen = now;
	int r = load(w, &fresh, &why);
	if (r < 0)
		sb_log_error(SB_ERROR, "policy_refused", &why, "tenant=%s", w->set->name);
	else
		sb_log(SB_INFO, "policy_loaded", "tenant=%s policy=%s version=%s digest=%.12s", w->set->name, fresh->policy.name, fresh->policy.version, fresh->policy.digest);
	sb_metric_set(sb_metric("stagebridge_policy_refused", SB_GAUGE, "tenant", "1 while the policy file has a mistake and the former one stays in force"), w->set->name, r < 0);
	(void)pthread_mutex_lock(&slot->lock);
	(void)snprintf(slot->problem, sizeof(slot->problem), "%s", why.msg);
	if (fresh) {
		unref(slot->now);
		slot->now = fresh;
	}
	(void)pthread_mutex_unlock(&slot->lock);
	return fresh != NULL;
}

static int write_stages(struct sb_pg *pg, const struct sb_policy *p, struct sb_error *err)
{
	const struct sb_policy_edge *e = p->edges.item;
	int r = 0;

	for (size_t i = 0; r == 0 && i < p->edges.count; i++) {
		char soak[HUB_NUM];
		const char *param[] = { e[i].to, e[i].mode == SB_MODE_AUTO ? "auto" : "manual", hub_num(soak, e[i].soak.min_ms) };
		r = sb_pg_exec(pg, "UPDATE lifecycle.stage SET mode = $2, soak = $3::bigint * interval '1 millisecond' WHERE name = $1", 3, param, NULL, err);
	}
	return r;
}

int hub_policy_record(struct sb_pg *pg, const struct sb_policy *p, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *last = NULL;
	const char *param[] = { p->digest, p->name, p->version, p->text ? p->text : "" };
	char object[96];

	int r = write_stages(pg, p, err);
	if (r == 0)
		r = sb_pg_exec(pg, "SELECT digest FROM lifecycle.policy ORDER BY seq DESC LIMIT 1", 0, NULL, &last, err);
	if (r < 0 || (sb_pg_rows(last) > 0 && strcmp(sb_pg_get(last, 0, 0), p->digest) == 0))
		return r;
	r = sb_pg_exec(pg, "INSERT INTO lifecycle.policy (digest, name, version, content) VALUES ($1, $2, $3, $4)", 4, param, NULL, err);
	if (r < 0)
		return r;
	(void)snprintf(object, sizeof(object), "policy/%.64s", p->name);
	return hub_audit(pg, "stagebridge", "policy in force", object, sb_pg_rows(last) > 0 ? sb_pg_get(last, 0, 0) : "", p->digest, p->version, err);
}
