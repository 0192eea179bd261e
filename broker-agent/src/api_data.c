/* Datasets: asking another stage for one, and what became of it, also of those that this stage produced for others. On the API's threads. */
#include <string.h>

#include "api.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "state.h"

#define BODY_MAX (16 * 1024)
#define PURPOSE_MAX 2000

static const char *text(const json_t *body, const char *key)
{
	const char *s = json_string_value(json_object_get(body, key));

	return s ? s : "";
}

static int store(struct agent *a, const json_t *event, const char *id, const char *dataset, const char *from, const char *who, const char *purpose,
	struct sb_error *err)
{
	struct sb_db *db = NULL;
	int64_t now = sb_wall_ms();

	int r = agent_state_open(&db, a, err);
	if (r == 0)
		r = sb_db_begin(db, err);
	if (r == 0)
		r = sb_db_run(db, NULL, err,
			"INSERT INTO dataset(request, dataset, peer, role, user, purpose, state, created_ms, updated_ms)"
			" VALUES (?, ?, ?, 'receive', ?, ?, 'requested', ?, ?)", "sssssii", id, dataset, from, who, purpose, now, now);
	if (r == 0)
		r = agent_outbox_put(a, db, SB_EV_DATASET_REQUESTED, id, event, err);
	if (r == 0)
		r = sb_db_commit(db, err);
	sb_db_close(db); /* ends the transaction when it did not commit */
	if (r == 0)
		agent_wake_courier(a);
	return r;
}

static int check(const struct agent *a, const char *dataset, const char *from, const char *purpose, struct sb_error *err)
{
	if (!sb_type_ok(dataset))
		return sb_fail(err, SB_EINVAL, "\"dataset\" is not a name");
	if (!sb_name_ok(from))
		return sb_fail(err, SB_EINVAL, "\"from\" is not a stage");
	if (strcmp(from, a->set.stage) == 0)
		return sb_fail(err, SB_EINVAL, "\"from\" is this stage itself");
	if (!*purpose || strlen(purpose) > PURPOSE_MAX)
		return sb_fail(err, SB_EINVAL, "\"purpose\" is missing or longer than %d bytes: say what the data is for", PURPOSE_MAX);
	if (!a->set.datasets.inbox || !*a->set.datasets.inbox)
		return sb_fail(err, SB_ESTATE, "this stage has no folder for datasets (datasets.inbox)");
	return 0;
}

static int post_dataset(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
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
	const char *dataset = text(body, "dataset"), *from = text(body, "from"), *purpose = text(body, "purpose");
	r = check(a, dataset, from, purpose, err);
	if (r < 0)
		return r;
	sb_id_new(id);
	event = json_pack("{s:s, s:s, s:s, s:s, s:s}", "request", id, "dataset", dataset, "from", from, "user", who, "purpose", purpose);
	r = event ? store(a, event, id, dataset, from, who, purpose, err) : sb_fail_nomem(err);
	if (r < 0)
		return r;
	sb_log(SB_INFO, "dataset_requested", "request=%s dataset=%s from=%s user=%s", id, dataset, from, who);
	reply->status = 202;
	r = sb_format(reply->location, sizeof(reply->location), err, "/v1/datasets/%s", id);
	return r < 0 ? r : sb_http_json(reply, json_pack("{s:s, s:s, s:s}", "request", id, "state", "requested", "user", who), err);
}

#define COLUMNS "request, dataset, peer, role, user, purpose, state, reason_code, reason, transfer, path, rows, created_ms, updated_ms"

static json_t *row_json(struct sb_stmt *st)
{
	char created[SB_TIME_LEN + 1], updated[SB_TIME_LEN + 1];

	sb_time_format(created, sb_db_int(st, 12));
	sb_time_format(updated, sb_db_int(st, 13));
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:s, s:s}", "request", sb_db_text(st, 0), "dataset", sb_db_text(st, 1), "peer",
		sb_db_text(st, 2), "role", sb_db_text(st, 3), "user", sb_db_text(st, 4), "purpose", sb_db_text(st, 5), "state", sb_db_text(st, 6), "reason_code",
		sb_db_text(st, 7), "reason", sb_db_text(st, 8), "transfer", sb_db_text(st, 9), "path", sb_db_text(st, 10), "rows", (json_int_t)sb_db_int(st, 11),
		"created_at", created, "updated_at", updated);
}

static int get_dataset(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	struct sb_stmt *st = NULL;
	struct sb_db *db = NULL;
	json_t *row = NULL;

	int r = agent_state_open(&db, user, err);
	if (r == 0)
		r = sb_db_query(db, &st, err, "SELECT " COLUMNS " FROM dataset WHERE request = ?", "s", sb_http_param(req, "request"));
	if (r == 0)
		r = sb_db_step(st, err);
	if (r > 0) {
		row = row_json(st);
		r = row ? 0 : sb_fail_nomem(err);
	} else if (r == 0) {
		r = sb_fail(err, SB_ENOTFOUND, "no dataset request has this id");
	}
	sb_db_done(st);
	sb_db_close(db);
	return r < 0 ? r : sb_http_json(reply, row, err);
}

static int get_datasets(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	json_auto_t *items = json_array();
	struct sb_stmt *st = NULL;
	struct sb_db *db = NULL;

	(void)req;
	if (!items)
		return sb_fail_nomem(err);
	int r = agent_state_open(&db, user, err);
	if (r == 0)
		r = sb_db_query(db, &st, err, "SELECT " COLUMNS " FROM dataset ORDER BY created_ms DESC LIMIT 200", "");
	while (r == 0 && (r = sb_db_step(st, err)) > 0)
		r = json_array_append_new(items, row_json(st)) < 0 ? sb_fail_nomem(err) : 0;
	sb_db_done(st);
	sb_db_close(db);
	return r < 0 ? r : sb_http_json(reply, json_pack("{s:O}", "items", items), err);
}

const struct sb_http_route agent_api_data_routes[] = {
	{ "POST", "/v1/datasets", 0, BODY_MAX, post_dataset, "ask another stage for an anonymized dataset" },
	{ "GET", "/v1/datasets", 0, 0, get_datasets, "datasets asked for and produced here" },
	{ "GET", "/v1/datasets/{request}", 0, 0, get_dataset, "one of them" },
	{ NULL, NULL, 0, 0, NULL, NULL },
};
