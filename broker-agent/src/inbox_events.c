/* What each down event does: a table from event to handler. Handlers run on the inbox lane inside its transaction; they write rows and queue jobs for
 * the other lanes, nothing else, so that a record has its whole effect or none. They are idempotent: an order is a job once, a report sets a row.
 * Fields that are not known are ignored: newer hubs may say more. */
#include <string.h>

#include "inbox.h"
#include "resync.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"

typedef int (*event_fn)(struct agent_inbox *in, const struct sb_meta *meta, json_t *value, struct sb_error *err);

/* Reads fields by a jansson format; what does not fit breaks the contract. */
#define READ(value, err, ...) read_fields(json_unpack_ex(value, &(json_error_t){ .text = "" }, 0, __VA_ARGS__), err)

static int read_fields(int rc, struct sb_error *err)
{
	return rc == 0 ? 0 : sb_fail(err, SB_EPROTO, "a field is missing or of the wrong type");
}

static int push_reported(struct agent_inbox *in, const struct sb_meta *meta, json_t *value, struct sb_error *err)
{
	const char *push, *state, *url, *reason;
	json_int_t number;

	(void)meta;
	int r = READ(value, err, "{s:s, s:s, s:s, s:I, s:s}", "push", &push, "state", &state, "url", &url, "number", &number, "reason", &reason);
	if (r < 0)
		return r;
	return sb_db_run(in->db, NULL, err, "UPDATE push SET state = ?, url = ?, number = ?, reason = ?, updated_ms = ? WHERE id = ?", "ssisis", state, url,
		(int64_t)number, reason, sb_wall_ms(), push);
}

static int promotion_reported(struct agent_inbox *in, const struct sb_meta *meta, json_t *value, struct sb_error *err)
{
	const char *request, *promotion, *state, *reason;
	json_t *gates = NULL;
	int64_t changes = 0;

	(void)meta;
	int r = READ(value, err, "{s:s, s:s, s:s, s:s, s:o}", "request", &request, "promotion", &promotion, "state", &state, "reason", &reason, "gates", &gates);
	if (r == 0 && !json_is_array(gates))
		r = sb_fail(err, SB_EPROTO, "\"gates\" is not an array");
	if (r < 0)
		return r;
	sb_cleanup(sb_freep) char *text = json_dumps(gates, JSON_COMPACT);
	if (!text)
		return sb_fail_nomem(err);
	r = sb_db_run(in->db, &changes, err, "UPDATE request SET state = ?, promotion = ?, reason = ?, gates = ?, updated_ms = ? WHERE id = ?", "ssssis", state,
		promotion, reason, text, sb_wall_ms(), request);
	/* later steps of a promotion may name the promotion alone */
	if (r == 0 && changes == 0 && *promotion)
		r = sb_db_run(in->db, NULL, err, "UPDATE request SET state = ?, reason = ?, gates = ?, updated_ms = ? WHERE promotion = ?", "sssis", state, reason,
			text, sb_wall_ms(), promotion);
	return r;
}

/* --- deployments --- */

struct order { const char *promotion, *origin, *artifact; json_int_t attempt, lease; };

static int put_report(struct agent_inbox *in, const struct order *o, const char *state, const char *current, const char *reason, struct sb_error *err)
{
	json_auto_t *report = json_pack("{s:s, s:I, s:I, s:s, s:s, s:s, s:s, s:s, s:s, s:i}", "promotion", o->promotion, "attempt", o->attempt, "lease", o->lease,
		"origin", o->origin, "artifact", o->artifact, "state", state, "current", current, "reason", reason, "output", "", "duration_ms", 0);

	if (!report)
		return sb_fail_nomem(err);
	in->wake |= AGENT_WAKE_COURIER;
	return agent_outbox_put(in->a, in->db, SB_EV_DEPLOYMENT_REPORTED, o->promotion, report, err);
}

static int report_fenced(struct agent_inbox *in, const struct order *o, int64_t newest, struct sb_error *err)
{
	char reason[120];

	int r = sb_format(reason, sizeof(reason), err, "the order holds lease %lld, the stage has seen %lld", (long long)o->lease, (long long)newest);
	if (r < 0)
		return r;
	sb_log(SB_WARN, "order_fenced", "promotion=%s attempt=%lld lease=%lld newest=%lld", o->promotion, (long long)o->attempt, (long long)o->lease, (long long)newest);
	return put_report(in, o, "errored", "", reason, err);
}

/* The hub asks again for what was carried out: it is told again where that stands, the order is not repeated. */
static int repeat_report(struct agent_inbox *in, const struct order *o, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(in->db, &st, err,
		"SELECT l.state, l.report, coalesce(d.artifact, '') FROM deploy_order l LEFT JOIN deployment d ON d.origin = ?"
		" WHERE l.promotion = ? AND l.attempt = ?", "ssi", o->origin, o->promotion, (int64_t)o->attempt);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r <= 0 || strcmp(sb_db_text(st, 0), "ordered") == 0)
		return r < 0 ? r : 0; /* not looked at yet: its reports come by themselves */
	return put_report(in, o, sb_db_text(st, 0), sb_db_text(st, 2), sb_db_text(st, 1), err);
}

static int newest_lease(struct sb_db *db, const char *origin, int64_t *ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(db, &st, err, "SELECT lease FROM fence WHERE origin = ?", "s", origin);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	*ret = r ? sb_db_int(st, 0) : 0;
	return 0;
}

static int deployment_ordered(struct agent_inbox *in, const struct sb_meta *meta, json_t *value, struct sb_error *err)
{
	struct order o;
	int64_t newest = 0, changes = 0;
	char ref[160];

	(void)meta;
	int r = READ(value, err, "{s:s, s:I, s:I, s:s, s:s}", "promotion", &o.promotion, "attempt", &o.attempt, "lease", &o.lease, "origin", &o.origin, "artifact",
		&o.artifact);
	if (r == 0 && (!sb_type_ok(o.origin) || o.attempt < 1 || o.lease < 1 || !*o.promotion || !*o.artifact))
		r = sb_fail(err, SB_EPROTO, "origin, attempt or lease is malformed, or an id is empty");
	if (r == 0)
		r = newest_lease(in->db, o.origin, &newest, err);
	if (r < 0)
		return r;
	/* a hub that has lost its lease must not move the stage any more */
	if (o.lease < newest)
		return report_fenced(in, &o, newest, err);
	r = sb_db_run(in->db, NULL, err, "INSERT OR REPLACE INTO fence(origin, lease) VALUES (?, ?)", "si", o.origin, (int64_t)o.lease);
	if (r == 0)
		r = sb_db_run(in->db, &changes, err, "INSERT INTO deploy_order(promotion, attempt, lease, state) VALUES (?, ?, ?, 'ordered') ON CONFLICT DO NOTHING",
			"sii", o.promotion, (int64_t)o.attempt, (int64_t)o.lease);
	if (r == 0 && changes == 0)
		return repeat_report(in, &o, err);
	if (r == 0 && sb_format(ref, sizeof(ref), NULL, "%s/%lld", o.promotion, (long long)o.attempt) < 0)
		r = sb_fail(err, SB_EPROTO, "promotion id is too long");
	if (r == 0)
		r = agent_job_add(in->db, "deploy", ref, value, NULL, err);
	in->wake |= AGENT_WAKE_DEPLOY;
	return r;
}

/* --- datasets --- */

static int dataset_ordered(struct agent_inbox *in, const struct sb_meta *meta, json_t *value, struct sb_error *err)
{
	const char *request, *dataset, *to, *user, *purpose;
	int64_t now = sb_wall_ms();

	(void)meta;
	int r = READ(value, err, "{s:s, s:s, s:s, s:s, s:s}", "request", &request, "dataset", &dataset, "to", &to, "user", &user, "purpose", &purpose);
	if (r == 0 && (!sb_type_ok(dataset) || !sb_name_ok(to)))
		r = sb_fail(err, SB_EPROTO, "dataset or stage name is malformed");
	if (r == 0)
		r = sb_db_run(in->db, NULL, err,
			"INSERT INTO dataset(request, dataset, peer, role, user, purpose, state, created_ms, updated_ms)"
			" VALUES (?, ?, ?, 'produce', ?, ?, 'ordered', ?, ?) ON CONFLICT DO NOTHING", "sssssii", request, dataset, to, user, purpose, now, now);
	if (r == 0)
		r = agent_job_add(in->db, "dataset", request, value, NULL, err);
	in->wake |= AGENT_WAKE_DATASET;
	return r;
}

static int dataset_answered(struct agent_inbox *in, const struct sb_meta *meta, json_t *value, struct sb_error *err)
{
	const char *request, *state, *code, *reason, *transfer;
	json_int_t rows;

	(void)meta;
	int r = READ(value, err, "{s:s, s:s, s:s, s:s, s:s, s:I}", "request", &request, "state", &state, "reason_code", &code, "reason", &reason, "transfer",
		&transfer, "rows", &rows);
	if (r < 0)
		return r;
	/* what has arrived or failed here is known better here: the answer may come after the data */
	return sb_db_run(in->db, NULL, err,
		"UPDATE dataset SET state = ?, reason_code = ?, reason = ?, transfer = CASE ? WHEN '' THEN transfer ELSE ? END, rows = ?, updated_ms = ?"
		" WHERE request = ? AND role = 'receive' AND state NOT IN ('delivered', 'failed', 'refused')", "sssssiis", state, code, reason, transfer, transfer,
		(int64_t)rows, sb_wall_ms(), request);
}

/* --- git --- */

static int store_pull(struct agent_inbox *in, const char *origin, json_t *pull, struct sb_error *err)
{
	const char *title, *state, *head, *base, *user, *url, *updated;
	json_int_t number;

	int r = READ(pull, err, "{s:I, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "number", &number, "title", &title, "state", &state, "head", &head, "base", &base,
		"user", &user, "url", &url, "updated_at", &updated);
	if (r < 0)
		return r;
	return sb_db_run(in->db, NULL, err,
		"INSERT OR REPLACE INTO pull(origin, number, title, state, head, base, user, url, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", "sisssssss",
		origin, (int64_t)number, title, state, head, base, user, url, updated);
}

static int git_updated(struct agent_inbox *in, const struct sb_meta *meta, json_t *value, struct sb_error *err)
{
	const char *origin;
	json_t *refs = NULL, *pulls = NULL, *pull;
	size_t i;
	char ref[SB_TYPE_MAX + SB_ATTR_VALUE_MAX];

	int r = READ(value, err, "{s:s, s:o, s:o}", "origin", &origin, "refs", &refs, "pulls", &pulls);
	if (r == 0 && (!sb_type_ok(origin) || !json_is_array(refs) || !json_is_array(pulls)))
		r = sb_fail(err, SB_EPROTO, "origin, refs or pulls is malformed");
	if (r < 0)
		return r;
	json_array_foreach(pulls, i, pull) {
		r = store_pull(in, origin, pull, err);
		if (r < 0)
			return r;
	}
	/* named after the record: an offset would come again after the topic was made anew */
	r = sb_format(ref, sizeof(ref), err, "refs/%s/%s", origin, meta->id);
	if (r == 0)
		r = agent_job_add(in->db, "git", ref, value, NULL, err);
	in->wake |= AGENT_WAKE_DEPLOY;
	return r;
}

/* --- entities, transfers --- */

/* A person's order that comes too late, or in vain, is no fault of the record: the hub shows what runs. */
static int resync_ordered(struct agent_inbox *in, const struct sb_meta *meta, json_t *value, struct sb_error *err)
{
	struct agent_resync q = { .predicate = "" };
	struct sb_error why = SB_ERROR_INIT;
	int cancel = 0;

	(void)meta;
	int r = READ(value, err, "{s:s, s:s, s:s, s:b}", "type", &q.type, "reason", &q.reason, "asked", &q.asked, "cancel", &cancel);
	if (r < 0)
		return r;
	r = cancel ? agent_resync_cancel(in->a, in->db, q.type, &why) : agent_resync_want(in->a, in->db, &q, &why);
	if (r == SB_ENOTFOUND || r == SB_ESTATE || r == SB_ECONFLICT) {
		sb_log_error(SB_WARN, "resync_in_vain", &why, "type=%s cancel=%d reason=%s", q.type, cancel, q.reason);
		return 0;
	}
	if (r < 0)
		return sb_fail(err, (enum sb_code)r, "%s", why.msg);
	in->wake |= AGENT_WAKE_SOURCES;
	return 0;
}

/* Whoever asked for what the transfer carries learns of its failure. */
static int tell_failure(struct agent_inbox *in, const char *transfer, const char *reason, struct sb_error *err)
{
	int r = sb_db_run(in->db, NULL, err,
		"UPDATE push SET state = 'refused', reason = ?, updated_ms = ? WHERE transfer = ? AND state NOT IN ('opened', 'updated', 'merged', 'closed')", "sis",
		reason, sb_wall_ms(), transfer);
	if (r == 0)
		r = sb_db_run(in->db, NULL, err, "UPDATE dataset SET state = 'failed', reason = ?, updated_ms = ? WHERE transfer = ? AND state <> 'delivered'", "sis",
			reason, sb_wall_ms(), transfer);
	return r;
}

static int credit_relayed(struct agent_inbox *in, const struct sb_meta *meta, json_t *value, struct sb_error *err)
{
	const char *transfer, *state, *reason;
	json_int_t next, window;
	int64_t changes = 0;

	(void)meta;
	int r = READ(value, err, "{s:s, s:I, s:I, s:s, s:s}", "transfer", &transfer, "next", &next, "window", &window, "state", &state, "reason", &reason);
	if (r == 0 && (next < 0 || window < 0 || window > 65536))
		r = sb_fail(err, SB_EPROTO, "\"next\" or \"window\" is out of range");
	if (r < 0)
		return r;
	in->wake |= AGENT_WAKE_COURIER;
	/* a reason while receiving: a record was lost, the receiver wants everything from `next` again */
	if (strcmp(state, "receiving") == 0)
		return sb_db_run(in->db, NULL, err,
			"UPDATE transfer_out SET credited = max(credited, ?), window = ?, rewind = CASE ? WHEN '' THEN rewind ELSE 1 END, updated_ms = ?"
			" WHERE id = ? AND state = 'open'", "iisis", (int64_t)next, (int64_t)window, reason, sb_wall_ms(), transfer);
	if (strcmp(state, "complete") != 0 && strcmp(state, "failed") != 0)
		return sb_fail(err, SB_EPROTO, "\"state\" is not known");
	r = sb_db_run(in->db, &changes, err, "UPDATE transfer_out SET credited = max(credited, ?), state = ?, reason = ?, updated_ms = ? WHERE id = ? AND state = 'open'",
		"issis", (int64_t)next, state, reason, sb_wall_ms(), transfer);
	if (r == 0 && changes > 0)
		sb_log(SB_INFO, "transfer_ended", "transfer=%s direction=%s state=%s reason=%s", transfer, "out", state, reason);
	if (r == 0 && changes > 0 && strcmp(state, "failed") == 0)
		r = tell_failure(in, transfer, reason, err);
	return r;
}

static const struct { enum sb_event event; event_fn fn; } handlers[] = {
	{ SB_EV_PUSH_REPORTED, push_reported },
	{ SB_EV_PROMOTION_REPORTED, promotion_reported },
	{ SB_EV_DEPLOYMENT_ORDERED, deployment_ordered },
	{ SB_EV_DATASET_ORDERED, dataset_ordered },
	{ SB_EV_DATASET_ANSWERED, dataset_answered },
	{ SB_EV_GIT_UPDATED, git_updated },
	{ SB_EV_RESYNC_ORDERED, resync_ordered },
	{ SB_EV_CREDIT_RELAYED, credit_relayed },
};

int agent_event_apply(struct agent_inbox *in, const struct sb_meta *meta, json_t *value, struct sb_error *err)
{
	for (size_t i = 0; i < SB_COUNT(handlers); i++) {
		if (handlers[i].event == (enum sb_event)meta->event) {
			int r = handlers[i].fn(in, meta, value, err);
			return r < 0 ? sb_fail_prefix(err, "%s", sb_event_info(handlers[i].event)->name) : 0;
		}
	}
	return sb_fail(err, SB_EPROTO, "this agent does not take records of that type");
}
