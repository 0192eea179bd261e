/* Snapshots on demand, from inside the stage that owns the rows: of a type, or of the rows that match a condition; and taking that back. The only place where a
 * condition may be given: here whoever asks is an account of the stage's own machine. On the API's threads. */
#include <string.h>

#include "api.h"
#include "resync.h"
#include "stagebridge/log.h"

#define BODY_MAX (32 * 1024)
#define REASON_MAX 160

static int read_text(const json_t *body, const char *key, const char **ret, struct sb_error *err)
{
	const json_t *v = json_object_get(body, key);

	if (v && !json_is_string(v))
		return sb_fail(err, SB_EINVAL, "\"%s\" is not a string", key);
	*ret = v ? json_string_value(v) : "";
	return 0;
}

static int read_body(struct sb_http_request *req, json_t **ret_body, struct agent_resync *ret, struct sb_error *err)
{
	int r = sb_http_body_json(req, ret_body, err);

	if (r == 0)
		r = read_text(*ret_body, "where", &ret->predicate, err);
	if (r == 0)
		r = read_text(*ret_body, "reason", &ret->reason, err);
	if (r == 0 && strlen(ret->reason) > REASON_MAX)
		r = sb_fail(err, SB_EINVAL, "\"reason\" is longer than %d bytes", REASON_MAX);
	if (r == 0 && !*ret->reason)
		ret->reason = *ret->predicate ? "some rows, asked for in the stage" : "asked for in the stage";
	return r;
}

static int check(struct agent *a, const struct agent_resync *q, struct sb_error *err)
{
	struct agent_type_source s;

	int r = agent_type_find(a, q->type, &s, err);
	return r < 0 || !*q->predicate || !s.pg ? r : agent_predicate_check(s.pg, s.table, q->predicate, err);
}

/* q NULL: cancel. */
static int store(struct agent *a, const char *type, const struct agent_resync *q, struct sb_error *err)
{
	struct sb_db *db = NULL;

	int r = agent_state_open(&db, a, err);
	if (r == 0)
		r = sb_db_begin(db, err);
	if (r == 0)
		r = q ? agent_resync_want(a, db, q, err) : agent_resync_cancel(a, db, type, err);
	if (r == 0)
		r = sb_db_commit(db, err);
	sb_db_close(db); /* ends the transaction when it did not commit */
	if (r == 0)
		sb_lanes_wake(a->lanes, "source/*");
	return r;
}

static int post_resync(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	struct agent *a = user;
	json_auto_t *body = NULL;
	char who[96];
	struct agent_resync q = { .type = sb_http_param(req, "type"), .asked = who };

	int r = agent_api_user(a, req, who, err);
	if (r == 0)
		r = read_body(req, &body, &q, err);
	if (r == 0)
		r = check(a, &q, err);
	if (r == 0)
		r = store(a, q.type, &q, err);
	if (r < 0)
		return r;
	sb_log(SB_INFO, "resync_asked", "type=%s user=%s partial=%d", q.type, who, *q.predicate != '\0');
	reply->status = 202;
	return sb_http_json(reply, json_pack("{s:s, s:s, s:b}", "type", q.type, "state", "wanted", "partial", *q.predicate != '\0'), err);
}

static int post_cancel(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	const char *type = sb_http_param(req, "type");
	char who[96];

	int r = agent_api_user(user, req, who, err);
	if (r == 0)
		r = store(user, type, NULL, err);
	if (r < 0)
		return r;
	sb_log(SB_INFO, "resync_cancelled", "type=%s user=%s", type, who);
	reply->status = 202;
	return sb_http_json(reply, json_pack("{s:s, s:s}", "type", type, "state", "cancelled"), err);
}

const struct sb_http_route agent_api_resync_routes[] = {
	{ "POST", "/v1/entities/{type}/resync", 0, BODY_MAX, post_resync, "send a type again, or the rows that match `where`" },
	{ "POST", "/v1/entities/{type}/resync/cancel", 0, BODY_MAX, post_cancel, "take that back" },
	{ NULL, NULL, 0, 0, NULL, NULL },
};
