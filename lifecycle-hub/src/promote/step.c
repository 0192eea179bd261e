/* The one writer of promotion states. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine.h"
#include "stagebridge/log.h"
#include "stagebridge/metric.h"
#include "store/store.h"

#define COLUMNS "SELECT id, origin, artifact, stage, kind, requested_by, expected_current, transfer, state, attempt, lease FROM lifecycle.promotion WHERE id = $1"

int hub_promotion_load(struct sb_pg *pg, const char *id, bool lock, struct hub_promotion *ret, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	char *const text[] = { ret->id, ret->origin, ret->artifact, ret->stage, ret->kind, ret->requested_by, ret->expected_current, ret->transfer };
	const size_t size[] = { sizeof(ret->id), sizeof(ret->origin), sizeof(ret->artifact), sizeof(ret->stage), sizeof(ret->kind), sizeof(ret->requested_by), sizeof(ret->expected_current),
		sizeof(ret->transfer) };

	int r = sb_pg_exec(pg, lock ? COLUMNS " FOR UPDATE" : COLUMNS, 1, &id, &res, err);
	if (r < 0)
		return r;
	if (sb_pg_rows(res) == 0)
		return sb_fail(err, SB_ENOTFOUND, "no promotion has this id");
	for (int i = 0; r == 0 && i < (int)SB_COUNT(text); i++)
		r = sb_format(text[i], size[i], err, "%s", sb_pg_get(res, 0, i));
	int state = sb_promotion_state_find(sb_pg_get(res, 0, 8));
	if (r == 0 && state < 0)
		r = sb_fail(err, SB_EDB, "promotion %s has an unknown state", id);
	ret->state = state < 0 ? SB_P_PENDING : (enum sb_promotion_state)state;
	ret->attempt = sb_pg_get_i64(res, 0, 9);
	ret->lease = sb_pg_get_i64(res, 0, 10);
	return r;
}

/* The state of a promotion on the forge: one status per stage on the artifact's commit, sent by the git lane. */
static int put_status(struct sb_pg *pg, const struct hub_promotion *p, const char *why, struct sb_error *err)
{
	const char *state = "pending";
	char context[64], text[160];

	if (p->state == SB_P_SUCCEEDED)
		state = "success";
	else if (p->state == SB_P_FAILED || p->state == SB_P_REJECTED)
		state = "failure";
	else if (sb_promotion_terminal(p->state))
		state = "error";
	(void)snprintf(context, sizeof(context), "stagebridge/%s", p->stage);
	(void)snprintf(text, sizeof(text), "%s: %.120s", sb_promotion_state_name(p->state), why);
	const char *param[] = { p->artifact, context, state, text };
	return sb_pg_exec(pg,
		"INSERT INTO lifecycle.commit_status (origin, oid, context, state, description, sent) SELECT origin, commit_oid, $2, $3, $4, false FROM lifecycle.artifact WHERE id = $1"
		" ON CONFLICT (origin, oid, context) DO UPDATE SET state = excluded.state, description = excluded.description, sent = false, updated_at = now()",
		4, param, NULL, err);
}

int hub_promotion_step(struct sb_pg *pg, struct hub_promotion *p, enum sb_promotion_event event, const char *actor, const char *reason, struct sb_error *err)
{
	const struct sb_promotion_edge *edge = sb_promotion_step(p->state, event);
	const char *from = sb_promotion_state_name(p->state);
	char object[64];

	if (!edge)
		return sb_fail(err, SB_ESTATE, "promotion %s is %s: \"%s\" does not apply", p->id, from, sb_promotion_event_name(event));
	bool ends = sb_promotion_terminal(edge->to);
	const char *param[] = { p->id, sb_promotion_state_name(edge->to), from, reason && *reason ? reason : edge->why, ends ? "t" : "f", edge->to == SB_P_APPLIED ? "t" : "f" };
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	int r = sb_pg_exec(pg,
		"UPDATE lifecycle.promotion SET state = $2, version = version + 1, updated_at = now(), reason = CASE WHEN $5::boolean OR reason = '' THEN $4 ELSE reason END,"
		" waiting_for = CASE WHEN $5::boolean THEN '' ELSE waiting_for END, ended_at = CASE WHEN $5::boolean THEN now() END,"
		" applied_at = CASE WHEN $6::boolean THEN now() ELSE applied_at END WHERE id = $1 AND state = $3",
		6, param, &res, err);
	if (r == 0 && sb_pg_affected(res) != 1)
		r = sb_fail(err, SB_ECONFLICT, "promotion %s was changed by somebody else", p->id);
	(void)snprintf(object, sizeof(object), "promotion/%s", p->id);
	if (r == 0)
		r = hub_audit(pg, actor, sb_promotion_event_name(event), object, from, sb_promotion_state_name(edge->to), reason && *reason ? reason : edge->why, err);
	p->state = edge->to;
	if (r == 0)
		r = put_status(pg, p, reason && *reason ? reason : edge->why, err);
	if (r < 0)
		return r;
	sb_log(SB_INFO, "promotion_step", "promotion=%s origin=%s artifact=%.12s to=%s event=%s from=%s state=%s", p->id, p->origin, p->artifact, p->stage, sb_promotion_event_name(event), from,
		sb_promotion_state_name(edge->to));
	sb_metric_add(sb_metric("stagebridge_promotion_steps_total", SB_COUNTER, "state", "promotions that entered a state"), sb_promotion_state_name(edge->to), 1);
	return 0;
}

int hub_promotion_create(struct sb_pg *pg, const char *origin, const char *artifact, const char *stage, const char *kind, const char *actor, const char *reason, char ret_id[SB_ID_LEN + 1], bool *ret_new,
	struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL, *old = NULL;
	char id[SB_ID_LEN + 1], object[64];

	sb_id_new(id);
	const char *param[] = { id, origin, artifact, stage, kind, actor, reason };
	int r = sb_pg_exec(pg,
		"INSERT INTO lifecycle.promotion (id, origin, artifact, stage, kind, requested_by, reason) VALUES ($1, $2, $3, $4, $5, $6, $7)"
		" ON CONFLICT (stage, artifact) WHERE state NOT IN ('SUCCEEDED', 'FAILED', 'ERRORED', 'ABORTED', 'SUPERSEDED', 'REJECTED', 'EXPIRED') DO NOTHING",
		7, param, &res, err);
	if (r < 0)
		return r;
	*ret_new = sb_pg_affected(res) == 1;
	if (!*ret_new) {
		r = sb_pg_exec(pg,
			"SELECT id FROM lifecycle.promotion WHERE stage = $4 AND artifact = $3 AND $1 <> $2 AND state NOT IN ('SUCCEEDED', 'FAILED', 'ERRORED', 'ABORTED', 'SUPERSEDED', 'REJECTED', 'EXPIRED')",
			4, param, &old, err);
		if (r == 0 && sb_pg_rows(old) == 0)
			r = sb_fail(err, SB_ECONFLICT, "the open promotion of this artifact just ended, try again");
		return r < 0 ? r : sb_format(ret_id, SB_ID_LEN + 1, err, "%s", sb_pg_get(old, 0, 0));
	}
	memcpy(ret_id, id, sizeof(id));
	(void)snprintf(object, sizeof(object), "promotion/%s", id);
	return hub_audit(pg, actor, "created", object, "", "PENDING", reason, err);
}
