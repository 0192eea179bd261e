/* What people and appliers inside a stage ask or report: written to the tables that the git lane, the engine and the courier work from. The
 * intake lane's thread, inside the record's savepoint. Every handler is harmless when the same request comes again. */
#include <string.h>

#include "intake.h"
#include "stagebridge/log.h"
#include "store/store.h"

#define TEXT_MAX   65536
#define REASON_MAX 4000

int intake_on_push(struct intake *in, const struct sb_meta *meta, const json_t *body, struct sb_error *err)
{
	struct intake_field f[] = { { "push", 64, false, NULL }, { "origin", SB_TYPE_MAX, false, NULL }, { "branch", 200, false, NULL },
		{ "head", 64, false, NULL }, { "base", 64, true, NULL }, { "title", 512, false, NULL }, { "body", TEXT_MAX, true, NULL },
		{ "user", 96, false, NULL }, { "transfer", SB_ID_LEN, true, NULL } };

	int r = intake_fields(body, f, SB_COUNT(f), err);
	if (r < 0)
		return r;
	if (!sb_branch_ok(f[2].value) || !sb_hex_ok(f[3].value, 40))
		return sb_fail(err, SB_EPROTO, "\"branch\" or \"head\" is not one of Git");
	const char *param[] = { f[0].value, meta->stage, f[1].value, f[2].value, f[3].value, f[4].value, f[5].value, f[6].value, f[7].value,
		f[8].value };
	in->wake_git = true;
	return sb_pg_exec(in->pg,
		"INSERT INTO lifecycle.push (id, stage, origin, branch, head, base, title, body, pusher, transfer) VALUES ($1, $2, $3, $4, "
		"$5, $6, $7, $8, $9, $10) "
		"ON CONFLICT (id) DO NOTHING",
		SB_COUNT(param), param, NULL, err);
}

int intake_on_promotion(struct intake *in, const struct sb_meta *meta, const json_t *body, struct sb_error *err)
{
	static const char *const actions[] = { "promote", "rollback", "approve", "reject", "abort" };
	struct intake_field f[] = { { "request", 64, false, NULL }, { "action", 16, false, NULL }, { "origin", SB_TYPE_MAX, true, NULL },
		{ "artifact", 64, true, NULL }, { "stage", SB_NAME_MAX, true, NULL }, { "promotion", 64, true, NULL },
		{ "user", 96, false, NULL }, { "reason", REASON_MAX, true, NULL } };
	bool known = false;

	int r = intake_fields(body, f, SB_COUNT(f), err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < SB_COUNT(actions); i++)
		known = known || strcmp(actions[i], f[1].value) == 0;
	if (!known)
		return sb_fail(err, SB_EPROTO, "\"action\" is not one that a stage may ask for");
	const char *param[] = { f[0].value, meta->stage, f[1].value, f[2].value, f[3].value, f[4].value, f[5].value, f[6].value,
		f[7].value };
	in->wake_engine = true;
	return sb_pg_exec(in->pg,
		"INSERT INTO lifecycle.promotion_request (id, stage_from, action, origin, artifact, stage, promotion, person, reason) "
		"VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (id) DO NOTHING",
		SB_COUNT(param), param, NULL, err);
}

int intake_on_deployment(struct intake *in, const struct sb_meta *meta, const json_t *body, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *text = json_dumps(body, JSON_COMPACT);
	struct intake_field f[] = { { "promotion", 64, false, NULL }, { "state", 16, false, NULL } };

	if (!text)
		return sb_fail_nomem(err);
	int r = intake_fields(body, f, SB_COUNT(f), err);
	if (r < 0)
		return r;
	const char *param[] = { meta->stage, text };
	in->wake_engine = true;
	return sb_pg_exec(in->pg, "INSERT INTO sb.report (stage, kind, body) VALUES ($1, 'deployment', $2::jsonb)", 2, param, NULL, err);
}

/* --- datasets: the hub only checks that this pair of stages may, the source stage's own policy decides about the data --- */

static bool edge_allowed(const struct hub_tenant *t, const char *dataset, const char *from, const char *to)
{
	const struct hub_dataset *rule = t->datasets.item;

	for (size_t i = 0; i < t->datasets.count; i++) {
		if (strcmp(rule[i].dataset, dataset) != 0 || strcmp(rule[i].from, from) != 0)
			continue;
		for (size_t k = 0; k < rule[i].to.count; k++) {
			if (strcmp(rule[i].to.item[k], to) == 0)
				return true;
		}
	}
	return false;
}

static int send(struct intake *in, const char *stage, enum sb_event event, const char *key, json_t *body, struct sb_error *err)
{
	if (!body)
		return sb_fail_nomem(err);
	int r = hub_outbox_put(in->w, in->pg, stage, event, key, body, err);
	json_decref(body);
	in->wake_courier = true;
	return r;
}

static int refuse_edge(struct intake *in, const struct sb_meta *meta, const struct intake_field *f, struct sb_error *err)
{
	static const char reason[] = "the hub's settings do not allow this dataset between these stages";

	int r = hub_audit(in->pg, f[3].value, "dataset-refused", f[0].value, "requested", "refused", reason, err);
	if (r < 0)
		return r;
	return send(in, meta->stage, SB_EV_DATASET_ANSWERED, f[0].value,
		json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:s}", "request", f[0].value, "dataset", f[1].value, "state", "refused",
			"reason_code", "edge", "reason", reason, "transfer", "", "policy_digest", "", "rows", 0, "from", f[2].value),
		err);
}

int intake_on_dataset_requested(struct intake *in, const struct sb_meta *meta, const json_t *body, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	struct intake_field f[] = { { "request", 64, false, NULL }, { "dataset", SB_TYPE_MAX, false, NULL },
		{ "from", SB_NAME_MAX, false, NULL }, { "user", 96, false, NULL }, { "purpose", REASON_MAX, true, NULL } };

	int r = intake_fields(body, f, SB_COUNT(f), err);
	if (r < 0)
		return r;
	bool allowed = edge_allowed(in->w->set, f[1].value, f[2].value, meta->stage);
	const char *param[] = { f[0].value, f[1].value, f[2].value, meta->stage, f[3].value, f[4].value, allowed ? "ordered" : "refused",
		allowed ? "" : "edge" };
	r = sb_pg_exec(in->pg,
		"INSERT INTO lifecycle.dataset_request (id, dataset, from_stage, to_stage, requested_by, purpose, state, reason_code) "
		"VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING",
		SB_COUNT(param), param, &res, err);
	if (r < 0 || sb_pg_affected(res) == 0)
		return r;
	if (!allowed)
		return refuse_edge(in, meta, f, err);
	r = hub_audit(in->pg, f[3].value, "dataset-ordered", f[0].value, "requested", "ordered", f[4].value, err);
	if (r < 0)
		return r;
	return send(in, f[2].value, SB_EV_DATASET_ORDERED, f[0].value,
		json_pack("{s:s, s:s, s:s, s:s, s:s}", "request", f[0].value, "dataset", f[1].value, "to", meta->stage, "user", f[3].value,
			"purpose", f[4].value),
		err);
}

/* The source reports accepted, refused, produced, failed; the receiver delivered, failed. Ended requests stay as they are. */
static const struct {
	const char *state;
	bool by_source, by_receiver;
	const char *after; /* states that it may follow, as a text[] */
} reports[] = {
	{ "accepted", true, false, "{ordered}" },
	{ "refused", true, false, "{ordered,accepted}" },
	{ "produced", true, false, "{ordered,accepted}" },
	{ "delivered", false, true, "{ordered,accepted,produced}" },
	{ "failed", true, true, "{ordered,accepted,produced}" },
};

static int report_find(const char *state)
{
	for (size_t i = 0; i < SB_COUNT(reports); i++) {
		if (strcmp(reports[i].state, state) == 0)
			return (int)i;
	}
	return -1;
}

static int forward_report(struct intake *in, const struct sb_pg_result *request, const char *id, const json_t *body, struct sb_error *err)
{
	json_t *answer = json_copy((json_t *)(uintptr_t)body); /* jansson's copy takes no const but does not write */

	if (!answer || json_object_set_new(answer, "from", json_string(sb_pg_get(request, 0, 0))) < 0) {
		json_decref(answer);
		return sb_fail_nomem(err);
	}
	return send(in, sb_pg_get(request, 0, 1), SB_EV_DATASET_ANSWERED, id, answer, err);
}

int intake_on_dataset_reported(struct intake *in, const struct sb_meta *meta, const json_t *body, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *request = NULL, *res = NULL;
	struct intake_field f[] = { { "request", 64, false, NULL }, { "state", 16, false, NULL }, { "reason_code", 64, true, NULL },
		{ "reason", REASON_MAX, true, NULL }, { "transfer", SB_ID_LEN, true, NULL }, { "policy_digest", 128, true, NULL } };
	char number[HUB_NUM];
	int64_t rows = 0;

	int r = intake_fields(body, f, SB_COUNT(f), err);
	if (r == 0 && json_object_get(body, "rows"))
		r = intake_number(body, "rows", &rows, err);
	int i = r == 0 ? report_find(f[1].value) : -1;
	if (r == 0 && i < 0)
		r = sb_fail(err, SB_EPROTO, "\"state\" is not known");
	if (r == 0)
		r = sb_pg_exec(in->pg, "SELECT from_stage, to_stage, state FROM lifecycle.dataset_request WHERE id = $1 FOR UPDATE", 1,
			&f[0].value, &request, err);
	if (r < 0)
		return r;
	bool source = sb_pg_rows(request) == 1 && strcmp(sb_pg_get(request, 0, 0), meta->stage) == 0;
	bool receiver = sb_pg_rows(request) == 1 && strcmp(sb_pg_get(request, 0, 1), meta->stage) == 0;
	if (!(source && reports[i].by_source) && !(receiver && reports[i].by_receiver))
		return sb_fail(err, SB_EAUTH, "the stage may not report \"%s\" on this request", f[1].value);
	const char *param[] = { f[0].value, f[1].value, f[2].value, f[3].value, f[4].value, f[5].value, hub_num(number, rows),
		reports[i].after };
	r = sb_pg_exec(in->pg,
		"UPDATE lifecycle.dataset_request SET state = $2, reason_code = $3, reason = $4, transfer = coalesce(nullif($5, ''), "
		"transfer), "
		"policy_digest = coalesce(nullif($6, ''), policy_digest), row_count = greatest($7::bigint, row_count), updated_at = now() "
		"WHERE id = $1 AND state = ANY ($8::text[])",
		SB_COUNT(param), param, &res, err);
	if (r < 0 || sb_pg_affected(res) == 0)
		return r;
	r = hub_audit(in->pg, meta->stage, "dataset-reported", f[0].value, sb_pg_get(request, 0, 2), f[1].value, f[3].value, err);
	if (r == 0 && source)
		r = forward_report(in, request, f[0].value, body, err);
	return r;
}

/* --- credits: how far the receiver of a transfer is --- */

static int credit_own(struct intake *in, const struct intake_field *f, const char *const num[2], struct sb_error *err)
{
	const char *param[] = { f[0].value, num[0], num[1], f[1].value, f[2].value };

	/* a receiver that says less than before has lost its spool: the courier goes back there, as another attempt */
	int r = sb_pg_exec(in->pg,
		"UPDATE lifecycle.transfer SET attempt = attempt + CASE WHEN $2::bigint < next THEN 1 ELSE 0 END, "
		"sent = CASE WHEN $2::bigint < next THEN $2::bigint ELSE sent END, next = $2::bigint, credit_window = $3::int, reason = "
		"$5, updated_at = now(), "
		"state = CASE $4 WHEN 'complete' THEN 'complete' WHEN 'failed' THEN 'failed' ELSE state END "
		"WHERE id = $1 AND state IN ('offered', 'sending')",
		5, param, NULL, err);
	in->wake_courier = in->wake_git = in->wake_engine = true;
	return r;
}

static int credit_relay(struct intake *in, const char *sender, const struct intake_field *f, const char *const num[2], const json_t *body,
	struct sb_error *err)
{
	const char *param[] = { f[0].value, num[0], num[1], f[1].value, f[2].value };

	int r = sb_pg_exec(in->pg,
		"UPDATE lifecycle.transfer SET next = $2::bigint, credit_window = $3::int, reason = $5, updated_at = now(), "
		"state = CASE $4 WHEN 'complete' THEN 'complete' WHEN 'failed' THEN 'failed' ELSE state END WHERE id = $1 AND state = "
		"'sending'",
		5, param, NULL, err);
	if (r == 0)
		r = hub_outbox_put(in->w, in->pg, sender, SB_EV_CREDIT_RELAYED, f[0].value, body, err);
	in->wake_courier = true;
	return r;
}

int intake_on_credit(struct intake *in, const struct sb_meta *meta, const json_t *body, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	struct intake_field f[] = { { "transfer", SB_ID_LEN, false, NULL }, { "state", 16, false, NULL },
		{ "reason", REASON_MAX, true, NULL } };
	char next_text[HUB_NUM], window_text[HUB_NUM];
	int64_t next = 0, window = 0;

	int r = intake_fields(body, f, SB_COUNT(f), err);
	if (r == 0)
		r = intake_number(body, "next", &next, err);
	if (r == 0)
		r = intake_number(body, "window", &window, err);
	if (r == 0 && window > 1000000)
		r = sb_fail(err, SB_EPROTO, "\"window\" is larger than 1000000");
	if (r == 0)
		r = sb_pg_exec(
			in->pg, "SELECT from_stage, to_stage FROM lifecycle.transfer WHERE id = $1 FOR UPDATE", 1, &f[0].value, &res, err);
	if (r < 0)
		return r;
	if (sb_pg_rows(res) == 0) {
		sb_log(SB_DEBUG, "credit_dropped", "stage=%s transfer=%s", meta->stage, f[0].value);
		return 0; /* a transfer that has ended and was removed */
	}
	if (strcmp(sb_pg_get(res, 0, 1), meta->stage) != 0)
		return sb_fail(err, SB_EAUTH, "the stage is not the receiver of this transfer");
	const char *const num[] = { hub_num(next_text, next), hub_num(window_text, window) };
	const char *sender = sb_pg_get(res, 0, 0);
	return strcmp(sender, "hub") == 0 ? credit_own(in, f, num, err) : credit_relay(in, sender, f, num, body, err);
}
