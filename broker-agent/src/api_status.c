/* How the agent is: for people (`stagebridge status`), for watchers (health, metrics). On the API's threads. */
#include <string.h>

#include "api.h"
#include "heartbeat.h"
#include "stagebridge/clock.h"
#include "stagebridge/metric.h"
#include "state.h"

#define REPORT_MAX (256 * 1024)
#define METRICS_MAX (4 * 1024 * 1024)
#define READY_GRACE_MS 30000

static int lanes_json(struct agent *a, json_t **ret, struct sb_error *err)
{
	struct sb_buf b;

	sb_buf_init(&b, REPORT_MAX);
	sb_lanes_report(a->lanes, &b);
	int r = sb_buf_check(&b, "lanes", err);
	if (r == 0) {
		*ret = json_loadb(b.data, b.len, 0, NULL);
		if (!*ret)
			r = sb_fail_nomem(err);
	}
	sb_buf_release(&b);
	return r;
}

static int one_number(struct sb_db *db, const char *sql, json_int_t *ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(db, &st, err, sql, "");
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	*ret = r ? sb_db_int(st, 0) : 0;
	return 0;
}

static int outbox_json(struct sb_db *db, json_t **ret, struct sb_error *err)
{
	json_int_t depth = 0, oldest = 0;

	int r = one_number(db, "SELECT count(*) FROM outbox", &depth, err);
	if (r == 0)
		r = one_number(db, "SELECT created_ms FROM outbox ORDER BY id LIMIT 1", &oldest, err);
	if (r < 0)
		return r;
	*ret = json_pack("{s:I, s:I}", "depth", depth, "oldest_ms", oldest ? (json_int_t)sb_wall_ms() - oldest : 0);
	return *ret ? 0 : sb_fail_nomem(err);
}

/* sql: id, kind, state, done, chunks of the manifest, reason */
static int transfers_of(struct sb_db *db, const char *sql, json_t **ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	json_auto_t *list = json_array();

	if (!list)
		return sb_fail_nomem(err);
	int r = sb_db_query(db, &st, err, sql, "");
	while (r == 0 && (r = sb_db_step(st, err)) > 0) {
		json_t *t = json_pack("{s:s, s:s, s:s, s:I, s:I, s:s}", "id", sb_db_text(st, 0), "kind", sb_db_text(st, 1), "state", sb_db_text(st, 2), "done",
			(json_int_t)sb_db_int(st, 3), "chunks", (json_int_t)sb_db_int(st, 4), "reason", sb_db_text(st, 5));
		r = json_array_append_new(list, t) < 0 ? sb_fail_nomem(err) : 0;
	}
	if (r == 0)
		*ret = SB_TAKE(list);
	return r;
}

static int transfers_json(struct sb_db *db, json_t **ret, struct sb_error *err)
{
	json_t *in = NULL, *out = NULL;

	int r = transfers_of(db,
		"SELECT id, kind, state, next, coalesce(json_extract(manifest, '$.chunks'), 0), reason FROM transfer_in ORDER BY updated_ms DESC LIMIT 20", &in, err);
	if (r == 0)
		r = transfers_of(db,
			"SELECT id, kind, state, credited, coalesce(json_extract(manifest, '$.chunks'), 0), reason FROM transfer_out ORDER BY updated_ms DESC LIMIT 20",
			&out, err);
	if (r < 0) {
		json_decref(in);
		return r;
	}
	*ret = json_pack("{s:o, s:o}", "in", in, "out", out);
	return *ret ? 0 : sb_fail_nomem(err);
}

static int deployments_json(struct sb_db *db, json_t **ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	json_auto_t *list = json_array();
	char since[SB_TIME_LEN + 1];

	if (!list)
		return sb_fail_nomem(err);
	int r = sb_db_query(db, &st, err, "SELECT origin, artifact, commit_oid, state, since_ms, previous_artifact FROM deployment ORDER BY origin", "");
	while (r == 0 && (r = sb_db_step(st, err)) > 0) {
		sb_time_format(since, sb_db_int(st, 4));
		json_t *d = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "origin", sb_db_text(st, 0), "artifact", sb_db_text(st, 1), "commit", sb_db_text(st, 2),
			"state", sb_db_text(st, 3), "since", since, "previous", sb_db_text(st, 5));
		r = json_array_append_new(list, d) < 0 ? sb_fail_nomem(err) : 0;
	}
	if (r == 0)
		*ret = SB_TAKE(list);
	return r;
}

static json_t *heartbeat_json(const struct agent *a)
{
	double at = sb_metric_get(sb_metric("stagebridge_heartbeat_delivered_timestamp_seconds", SB_GAUGE, NULL, "When the broker took the last heartbeat"), NULL);
	char text[SB_TIME_LEN + 1] = "";

	if (at > 0)
		sb_time_format(text, (int64_t)at * 1000);
	return json_pack("{s:I, s:s}", "interval_ms", (json_int_t)a->set.heartbeat.interval_ms, "delivered_at", text);
}

static json_t *origins_json(const struct agent *a)
{
	const struct agent_origin *o = a->set.origins.item;
	json_t *list = json_array();

	for (size_t i = 0; i < a->set.origins.count; i++)
		(void)json_array_append_new(list, json_string(o[i].name)); /* a shorter list is seen by who asks */
	return list;
}

static int get_status(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	struct agent *a = user;
	struct sb_db *db = NULL;
	json_t *lanes = NULL, *outbox = NULL, *transfers = NULL, *deployments = NULL;
	json_int_t quarantined = 0;

	(void)req;
	int r = agent_state_open(&db, a, err);
	if (r == 0)
		r = lanes_json(a, &lanes, err);
	if (r == 0)
		r = outbox_json(db, &outbox, err);
	if (r == 0)
		r = transfers_json(db, &transfers, err);
	if (r == 0)
		r = deployments_json(db, &deployments, err);
	if (r == 0)
		r = one_number(db, "SELECT count(*) FROM quarantine", &quarantined, err);
	sb_db_close(db);
	if (r < 0) {
		json_decref(lanes);
		json_decref(outbox);
		json_decref(transfers);
		json_decref(deployments);
		return r;
	}
	json_t *status = json_pack("{s:s, s:s, s:s, s:I, s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:o}", "tenant", a->set.tenant, "stage", a->set.stage, "version",
		sb_version(), "session", (json_int_t)a->session, "ready", (int)sb_lanes_ready(a->lanes, READY_GRACE_MS), "lanes", lanes, "sources",
		agent_board_sources(a, true), "outbox", outbox, "transfers", transfers, "deployments", deployments, "heartbeat", heartbeat_json(a), "quarantined",
		quarantined, "origins", origins_json(a));
	return status ? sb_http_json(reply, status, err) : sb_fail_nomem(err);
}

static int get_health(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	(void)req;
	(void)user; /* that this thread answers is the health */
	return sb_http_json(reply, json_pack("{s:s}", "status", "ok"), err);
}

static int get_ready(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	struct agent *a = user;
	json_t *lanes = NULL;
	bool ready = sb_lanes_ready(a->lanes, READY_GRACE_MS);

	(void)req;
	int r = lanes_json(a, &lanes, err);
	if (r < 0)
		return r;
	reply->status = ready ? 200 : 503;
	return sb_http_json(reply, json_pack("{s:s, s:o}", "status", ready ? "ok" : "not ready", "lanes", lanes), err);
}

static int get_metrics(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	struct agent *a = user;
	struct sb_db *db = NULL;
	json_int_t depth = 0;

	(void)req;
	int r = agent_state_open(&db, a, err);
	if (r == 0)
		r = one_number(db, "SELECT count(*) FROM outbox", &depth, err);
	sb_db_close(db);
	if (r < 0)
		return r;
	sb_metric_set(sb_metric("stagebridge_outbox_depth", SB_GAUGE, NULL, "Events that the broker has not acknowledged"), NULL, (double)depth);
	sb_buf_release(&reply->body);
	sb_buf_init(&reply->body, METRICS_MAX);
	sb_metric_render(&reply->body);
	reply->content_type = "text/plain; version=0.0.4";
	return sb_buf_check(&reply->body, "metrics", err);
}

const struct sb_http_route agent_api_status_routes[] = {
	{ "GET", "/v1/status", 0, 0, get_status, "stage, lanes, sources, outbox, transfers, deployments, heartbeat" },
	{ "GET", "/healthz", 0, 0, get_health, "the process answers" },
	{ "GET", "/readyz", 0, 0, get_ready, "every lane works" },
	{ "GET", "/metrics", 0, 0, get_metrics, "Prometheus text" },
	{ NULL, NULL, 0, 0, NULL, NULL },
};
