/* Promotion requests of people inside the stage: written down, sent to the hub, and their fate shown as the hub reports it. The user is the peer of the
 * socket, never what the request says: no-self-approval at the hub rests on it. On the API's threads. */
#include <string.h>

#include "api.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "state.h"

#define BODY_MAX (64 * 1024)
#define REASON_MAX 2000

struct ask { const char *action, *origin, *artifact, *stage, *promotion, *reason; };

static bool one_of(const char *s, const char *const *list)
{
	for (; *list; list++) {
		if (strcmp(s, *list) == 0)
			return true;
	}
	return false;
}

/* What the action needs; the hub judges whether it may be. */
static int check(const struct ask *q, struct sb_error *err)
{
	static const char *const on_stage[] = { "promote", "rollback", NULL };
	static const char *const on_promotion[] = { "approve", "reject", "abort", NULL };

	if (!one_of(q->action, on_stage) && !one_of(q->action, on_promotion))
		return sb_fail(err, SB_EINVAL, "\"action\" is one of promote, rollback, approve, reject, abort");
	if (*q->origin && !sb_type_ok(q->origin))
		return sb_fail(err, SB_EINVAL, "\"origin\" is not a name");
	if (*q->stage && !sb_name_ok(q->stage))
		return sb_fail(err, SB_EINVAL, "\"stage\" is not a name");
	if (*q->artifact && (strlen(q->artifact) < 6 || strlen(q->artifact) > 64 || strspn(q->artifact, "0123456789abcdef") != strlen(q->artifact)))
		return sb_fail(err, SB_EINVAL, "\"artifact\" is not an artifact id or the first 6 or more digits of one");
	if (strlen(q->promotion) > 64)
		return sb_fail(err, SB_EINVAL, "\"promotion\" is not a promotion id");
	if (strlen(q->reason) > REASON_MAX)
		return sb_fail(err, SB_EINVAL, "\"reason\" is longer than %d bytes", REASON_MAX);
	if (one_of(q->action, on_stage) && (!*q->origin || !*q->stage))
		return sb_fail(err, SB_EINVAL, "%s needs \"origin\" and \"stage\"", q->action);
	if (one_of(q->action, on_promotion) && !*q->promotion)
		return sb_fail(err, SB_EINVAL, "%s needs \"promotion\"", q->action);
	return 0;
}

static const char *field(const json_t *body, const char *key, struct sb_error *err)
{
	const json_t *v = json_object_get(body, key);

	if (v && !json_is_string(v) && err->code == SB_OK)
		(void)sb_fail(err, SB_EINVAL, "\"%s\" is not a string", key); /* the caller looks at err */
	return json_is_string(v) ? json_string_value(v) : "";
}

static int store(struct agent *a, const char *id, const struct ask *q, const json_t *event, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *payload = json_dumps(event, JSON_COMPACT);
	struct sb_db *db = NULL;
	int64_t now = sb_wall_ms();

	if (!payload)
		return sb_fail_nomem(err);
	int r = agent_state_open(&db, a, err);
	if (r == 0)
		r = sb_db_begin(db, err);
	if (r == 0)
		r = sb_db_run(db, NULL, err, "INSERT INTO request(id, action, payload, state, promotion, created_ms, updated_ms) VALUES (?, ?, ?, 'requested', ?, ?, ?)",
			"ssssii", id, q->action, payload, q->promotion, now, now);
	if (r == 0)
		r = agent_outbox_put(a, db, SB_EV_PROMOTION_REQUESTED, id, event, err);
	if (r == 0)
		r = sb_db_commit(db, err);
	sb_db_close(db); /* ends the transaction when it did not commit */
	if (r == 0)
		agent_wake_courier(a);
	return r;
}

static int post_promotion(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	struct agent *a = user;
	json_auto_t *body = NULL;
	json_auto_t *event = NULL;
	char who[96], id[SB_ID_LEN + 1];

	int r = sb_http_body_json(req, &body, err);
	if (r == 0)
		r = agent_api_user(a, req, who, err);
	if (r < 0)
		return r;
	struct sb_error bad = SB_ERROR_INIT;
	struct ask q = { .action = field(body, "action", &bad), .origin = field(body, "origin", &bad), .artifact = field(body, "artifact", &bad),
		.stage = field(body, "stage", &bad), .promotion = field(body, "promotion", &bad), .reason = field(body, "reason", &bad) };
	if (bad.code != SB_OK)
		return sb_fail(err, bad.code, "%s", bad.msg);
	r = check(&q, err);
	if (r < 0)
		return r;
	sb_id_new(id);
	event = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "request", id, "action", q.action, "origin", q.origin, "artifact", q.artifact, "stage", q.stage,
		"promotion", q.promotion, "user", who, "reason", q.reason);
	if (!event)
		return sb_fail_nomem(err);
	r = store(a, id, &q, event, err);
	if (r < 0)
		return r;
	sb_log(SB_INFO, "promotion_requested", "request=%s action=%s origin=%s to=%s user=%s", id, q.action, q.origin, q.stage, who);
	reply->status = 202;
	r = sb_format(reply->location, sizeof(reply->location), err, "/v1/promotions/%s", id);
	return r < 0 ? r : sb_http_json(reply, json_pack("{s:s, s:s, s:s}", "request", id, "state", "requested", "user", who), err);
}

static int row_json(struct sb_stmt *st, json_t **ret, struct sb_error *err)
{
	json_auto_t *asked = json_loads(sb_db_text(st, 2), 0, NULL);
	json_auto_t *gates = json_loads(sb_db_text(st, 6), 0, NULL);
	char created[SB_TIME_LEN + 1], updated[SB_TIME_LEN + 1];

	if (!asked || !gates)
		return sb_fail_nomem(err);
	sb_time_format(created, sb_db_int(st, 7));
	sb_time_format(updated, sb_db_int(st, 8));
	*ret = json_pack("{s:s, s:s, s:s, s:s, s:s, s:O, s:s, s:s}", "request", sb_db_text(st, 0), "action", sb_db_text(st, 1), "state", sb_db_text(st, 3),
		"promotion", sb_db_text(st, 4), "reason", sb_db_text(st, 5), "gates", gates, "created_at", created, "updated_at", updated);
	if (!*ret || json_object_update_missing(*ret, asked) < 0) {
		json_decref(*ret);
		*ret = NULL;
		return sb_fail_nomem(err);
	}
	return 0;
}

#define COLUMNS "id, action, payload, state, promotion, reason, gates, created_ms, updated_ms"

static int get_promotion(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	struct sb_stmt *st = NULL;
	struct sb_db *db = NULL;
	json_t *row = NULL;

	int r = agent_state_open(&db, user, err);
	if (r == 0)
		r = sb_db_query(db, &st, err, "SELECT " COLUMNS " FROM request WHERE id = ?", "s", sb_http_param(req, "id"));
	if (r == 0)
		r = sb_db_step(st, err);
	if (r > 0)
		r = row_json(st, &row, err);
	else if (r == 0)
		r = sb_fail(err, SB_ENOTFOUND, "no promotion request has this id");
	sb_db_done(st);
	sb_db_close(db);
	return r < 0 ? r : sb_http_json(reply, row, err);
}

static int get_promotions(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	json_auto_t *items = json_array();
	struct sb_stmt *st = NULL;
	struct sb_db *db = NULL;

	(void)req;
	if (!items)
		return sb_fail_nomem(err);
	int r = agent_state_open(&db, user, err);
	if (r == 0)
		r = sb_db_query(db, &st, err, "SELECT " COLUMNS " FROM request ORDER BY created_ms DESC LIMIT 200", "");
	while (r == 0 && (r = sb_db_step(st, err)) > 0) {
		json_t *row = NULL;
		r = row_json(st, &row, err);
		if (r == 0 && json_array_append_new(items, row) < 0)
			r = sb_fail_nomem(err);
	}
	sb_db_done(st);
	sb_db_close(db);
	return r < 0 ? r : sb_http_json(reply, json_pack("{s:O}", "items", items), err);
}

const struct sb_http_route agent_api_promote_routes[] = {
	{ "POST", "/v1/promotions", 0, BODY_MAX, post_promotion, "ask for a promotion, a rollback, or judge one" },
	{ "GET", "/v1/promotions", 0, 0, get_promotions, "requests from this stage and their fate" },
	{ "GET", "/v1/promotions/{id}", 0, 0, get_promotion, "one request, as the hub last reported it" },
	{ NULL, NULL, 0, 0, NULL, NULL },
};
