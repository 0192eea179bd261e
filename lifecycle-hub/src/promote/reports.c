/* What agents say about their orders. A report counts when it is of this attempt and lease and comes from the stage that was ordered; what the stage holds
 * (occupancy) is what the agent reports, not what was ordered. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine.h"
#include "stagebridge/log.h"
#include "store/store.h"

#define BATCH "100"

struct report {
	const char *state, *current, *reason, *output;
	int64_t attempt, lease;
};

static const char *str(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

/* The stage now holds this artifact: the former stay ends, a new one begins. */
static int occupy(struct sb_pg *pg, const struct hub_promotion *p, struct sb_error *err)
{
	const char *param[] = { p->stage, p->origin, p->artifact, p->id };

	int r = sb_pg_exec(pg, "UPDATE lifecycle.occupancy SET until = now() WHERE stage = $1 AND origin = $2 AND until IS NULL AND artifact <> $3 AND $4 <> ''", 4, param, NULL, err);
	if (r == 0)
		r = sb_pg_exec(pg,
			"INSERT INTO lifecycle.occupancy (stage, origin, artifact, promotion) SELECT $1, $2, $3, $4 WHERE NOT EXISTS"
			" (SELECT FROM lifecycle.occupancy WHERE stage = $1 AND origin = $2 AND artifact = $3 AND until IS NULL)",
			4, param, NULL, err);
	return r;
}

static int verified(struct sb_pg *pg, const struct hub_promotion *p, struct sb_error *err)
{
	const char *param[] = { p->stage, p->origin, p->artifact };

	return sb_pg_exec(pg, "UPDATE lifecycle.occupancy SET verified_at = coalesce(verified_at, now()) WHERE stage = $1 AND origin = $2 AND artifact = $3 AND until IS NULL", 3, param, NULL, err);
}

/* Drift: the stage holds something else than we believed. */
static int correct(struct sb_pg *pg, const struct hub_promotion *p, const char *current, struct sb_error *err)
{
	const char *close[] = { p->stage, p->origin, current };
	const char *open[] = { p->stage, p->origin, current, p->id };

	int r = sb_pg_exec(pg, "UPDATE lifecycle.occupancy SET until = now() WHERE stage = $1 AND origin = $2 AND until IS NULL AND artifact <> $3", 3, close, NULL, err);
	if (r == 0 && *current)
		r = sb_pg_exec(pg,
			"INSERT INTO lifecycle.occupancy (stage, origin, artifact, promotion) SELECT $1, $2, id, $4 FROM lifecycle.artifact WHERE id = $3 AND NOT EXISTS"
			" (SELECT FROM lifecycle.occupancy WHERE stage = $1 AND origin = $2 AND artifact = $3 AND until IS NULL)",
			4, open, NULL, err);
	return r;
}

static int in_place(struct hub_engine *e, struct hub_promotion *p, const char *actor, bool healthy, struct sb_error *err)
{
	int r = 0;

	if (p->state == SB_P_DISPATCHED || p->state == SB_P_APPLYING || p->state == SB_P_IN_DOUBT) {
		r = hub_promotion_step(e->pg, p, SB_PE_APPLIED, actor, "", err);
		if (r == 0)
			r = occupy(e->pg, p, err);
	}
	if (r == 0 && healthy) {
		r = hub_promotion_step(e->pg, p, SB_PE_HEALTHY, actor, "", err);
		if (r == 0)
			r = verified(e->pg, p, err);
	}
	return r;
}

static int accepted(struct hub_engine *e, struct hub_promotion *p, const char *actor, struct sb_error *err)
{
	char ms[24];

	(void)snprintf(ms, sizeof(ms), "%" PRId64, hub_apply_ms(e, p->stage));
	const char *param[] = { p->id, ms };
	int r = hub_promotion_step(e->pg, p, SB_PE_ACCEPTED, actor, "", err);
	if (r == 0)
		r = sb_pg_exec(e->pg, "UPDATE lifecycle.promotion SET deadline_at = now() + $2::bigint * interval '1 millisecond' WHERE id = $1", 2, param, NULL, err);
	return r;
}

static int trouble(struct hub_engine *e, struct hub_promotion *p, const char *actor, const struct report *rep, struct sb_error *err)
{
	const struct sb_policy_edge *edge = sb_policy_edge_to(e->policy, p->stage);

	if (!edge || p->attempt >= edge->retry.attempts)
		return hub_promotion_step(e->pg, p, SB_PE_GAVE_UP, actor, rep->reason, err);
	int r = hub_promotion_step(e->pg, p, SB_PE_RETRY, actor, rep->reason, err);
	return r < 0 ? r : hub_order_again(e, p, err);
}

static int act(struct hub_engine *e, struct hub_promotion *p, const struct report *rep, struct sb_error *err)
{
	char actor[64];

	(void)snprintf(actor, sizeof(actor), "agent/%s", p->stage);
	if (strcmp(rep->state, "accepted") == 0)
		return accepted(e, p, actor, err);
	if (strcmp(rep->state, "applied") == 0)
		return in_place(e, p, actor, false, err);
	if (strcmp(rep->state, "healthy") == 0)
		return in_place(e, p, actor, true, err);
	if (strcmp(rep->state, "failed") == 0)
		return hub_promotion_step(e->pg, p, SB_PE_UNHEALTHY, actor, rep->reason, err);
	if (strcmp(rep->state, "errored") == 0)
		return trouble(e, p, actor, rep, err);
	int r = hub_promotion_step(e->pg, p, SB_PE_CONFLICT, actor, rep->reason, err);
	return r < 0 ? r : correct(e->pg, p, rep->current, err);
}

static int keep_output(struct sb_pg *pg, const struct hub_promotion *p, const struct report *rep, struct sb_error *err)
{
	const char *param[] = { p->id, rep->output };

	return *rep->output ? sb_pg_exec(pg, "UPDATE lifecycle.promotion SET output = $2 WHERE id = $1", 2, param, NULL, err) : 0;
}

/* A stale or foreign report changes nothing and is dropped with a word in the log. */
static int consider(struct hub_engine *e, const char *stage, const json_t *body, struct sb_error *err)
{
	struct report rep = { .state = str(body, "state"), .current = str(body, "current"), .reason = str(body, "reason"), .output = str(body, "output"),
		.attempt = json_integer_value(json_object_get(body, "attempt")), .lease = json_integer_value(json_object_get(body, "lease")) };
	struct sb_error why = SB_ERROR_INIT;
	struct hub_promotion p;

	int r = hub_promotion_load(e->pg, str(body, "promotion"), true, &p, &why);
	if (r == 0 && strcmp(p.stage, stage) != 0)
		r = sb_fail(&why, SB_EAUTH, "stage %s reports on an order of stage %s", stage, p.stage);
	if (r == 0 && (p.attempt != rep.attempt || p.lease != rep.lease))
		r = sb_fail(&why, SB_ESTATE, "report is of attempt %" PRId64 ", lease %" PRId64 ", now at %" PRId64 ", %" PRId64, rep.attempt, rep.lease, p.attempt, p.lease);
	if (r == 0)
		r = act(e, &p, &rep, &why);
	if (r == 0)
		r = keep_output(e->pg, &p, &rep, &why);
	if (r == SB_ENOTFOUND || r == SB_EAUTH || r == SB_ESTATE) {
		sb_log_error(SB_WARN, "report_dropped", &why, "stage=%s promotion=%s state=%s", stage, str(body, "promotion"), rep.state);
		return 0;
	}
	if (r < 0)
		*err = why;
	return r;
}

int hub_engine_reports(struct hub_engine *e, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	int done = 0;

	int r = sb_pg_exec(e->pg, "SELECT id, stage, body::text FROM sb.report WHERE kind = 'deployment' ORDER BY id LIMIT " BATCH, 0, NULL, &res, err);
	for (int i = 0; r >= 0 && i < sb_pg_rows(res); i++) {
		json_auto_t *body = json_loads(sb_pg_get(res, i, 2), JSON_REJECT_DUPLICATES, NULL);
		const char *id = sb_pg_get(res, i, 0);

		r = hub_engine_begin(e, err);
		if (r == 0 && body)
			r = consider(e, sb_pg_get(res, i, 1), body, err);
		if (r == 0)
			r = sb_pg_exec(e->pg, "DELETE FROM sb.report WHERE id = $1", 1, &id, NULL, err);
		if (r == 0)
			r = sb_pg_commit(e->pg, err);
		done++;
	}
	return r < 0 ? r : done;
}

int hub_engine_deadlines(struct hub_engine *e, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	int done = 0;

	/* IN_DOUBT has no deadline of its own: the order waits at the stage's broker, and its late answer resolves it */
	int r = sb_pg_exec(e->pg, "SELECT id FROM lifecycle.promotion WHERE state IN ('DISPATCHED', 'APPLYING', 'APPLIED') AND deadline_at < now() ORDER BY seq LIMIT " BATCH, 0, NULL, &res, err);
	for (int i = 0; r >= 0 && i < sb_pg_rows(res); i++) {
		struct hub_promotion p;

		r = hub_engine_begin(e, err);
		if (r == 0)
			r = hub_promotion_load(e->pg, sb_pg_get(res, i, 0), true, &p, err);
		if (r == 0 && (p.state == SB_P_DISPATCHED || p.state == SB_P_APPLYING || p.state == SB_P_APPLIED))
			r = hub_promotion_step(e->pg, &p, SB_PE_NO_ANSWER, "stagebridge", "", err);
		if (r == 0)
			r = sb_pg_commit(e->pg, err);
		done++;
	}
	return r < 0 ? r : done;
}
