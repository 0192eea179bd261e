/* Orders of people to send an entity type again, and taking that back. Always the whole type: SQL that came with an order could read a stage's secrets, so a
 * condition can be given inside the stage only. */
#include <string.h>

#include "api.h"
#include "store/store.h"

#define REASON_MAX 160

static int read_order(struct sb_http_request *req, json_t **ret_body, struct hub_resync *ret, const char **ret_stage, struct sb_error *err)
{
	int r = sb_http_body_json(req, ret_body, err);

	if (r < 0)
		return r;
	const char *reason = json_string_value(json_object_get(*ret_body, "reason"));
	const char *stage = json_string_value(json_object_get(*ret_body, "stage"));
	if (json_object_get(*ret_body, "where"))
		return sb_fail(err, SB_EINVAL, "where: a condition can be given only inside the stage that owns the rows (stagebridge resync with its socket)");
	if (reason && strlen(reason) > REASON_MAX)
		return sb_fail(err, SB_EINVAL, "reason: at most %d bytes", REASON_MAX);
	ret->reason = reason && *reason ? reason : "asked for at the hub";
	ret->cancel = json_is_true(json_object_get(*ret_body, "cancel"));
	*ret_stage = stage ? stage : "";
	return 0;
}

static int find_owner(const struct hub_tenant *t, const char *type, const char *stage, const char **ret, struct sb_error *err)
{
	const struct hub_type *rule = hub_type_find(t, type);

	if (!rule)
		return sb_fail(err, SB_ENOTFOUND, "no entity type \"%.63s\" is listed in the hub's settings", type);
	if (*stage && strcmp(stage, rule->owner) != 0)
		return sb_fail(err, SB_EINVAL, "stage: \"%s\" comes from stage \"%s\"", type, rule->owner);
	*ret = rule->owner;
	return 0;
}

static int order(struct hub_call *c, const char *owner, const struct hub_resync *q, struct sb_error *err)
{
	char object[SB_TYPE_MAX + 8];
	const char *param[] = { owner, q->type };

	int r = sb_format(object, sizeof(object), err, "entity/%s", q->type);
	if (r == 0)
		r = sb_pg_begin(c->pg, err);
	if (r == 0)
		r = hub_resync_put(c->w, c->pg, owner, q, err);
	if (r == 0 && !q->cancel)
		r = sb_pg_exec(c->pg,
			"INSERT INTO lifecycle.entity_type (stage, type, owner, resync_at) VALUES ($1, $2, $1, now()) ON CONFLICT (stage, type) DO UPDATE SET resync_at = now()", 2,
			param, NULL, err);
	if (r == 0)
		r = hub_audit(c->pg, q->asked, q->cancel ? "resync-cancelled" : "resync-ordered", object, NULL, NULL, q->reason, err);
	if (r == 0)
		r = sb_pg_commit(c->pg, err);
	if (r < 0)
		sb_pg_rollback(c->pg);
	return r;
}

int hub_api_resync(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	struct hub_resync q = { .type = sb_http_param(req, "type"), .asked = sb_http_who(req)->name };
	const char *stage = "", *owner = NULL;
	json_auto_t *body = NULL;
	struct hub_call c = { .w = NULL };

	int r = read_order(req, &body, &q, &stage, err);
	if (r == 0)
		r = hub_call_begin(user, req, &c, err);
	if (r == 0)
		r = find_owner(c.w->set, q.type, stage, &owner, err);
	if (r == 0)
		r = order(&c, owner, &q, err);
	if (r == 0)
		hub_wake(c.w, "courier");
	hub_call_end(user, &c, r == 0);
	reply->status = 202;
	return r < 0 ? r : sb_http_json(reply, json_pack("{s:s, s:s, s:s}", "type", q.type, "stage", owner, "state", q.cancel ? "cancelled" : "ordered"), err);
}
