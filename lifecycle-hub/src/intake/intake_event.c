/* Events of a stage: order, then a table of handlers by type. The intake lane's thread.
 * Event streams keep their sequence over restarts of the agent, heartbeats begin anew; both are judged the same way. There is no resync of
 * events: a hole is put on record and what follows is taken. Heartbeats that ran out on the broker leave holes by nature, those are not
 * worth a record. */
#include <string.h>

#include "intake.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "store/store.h"

#define MISSED_HEARTBEATS 3

struct event_job {
	struct intake *in;
	const struct sb_meta *meta;
	json_t *body;
};

int intake_fields(const json_t *body, struct intake_field *f, size_t n, struct sb_error *err)
{
	for (size_t i = 0; i < n; i++) {
		const json_t *v = json_object_get(body, f[i].key);
		if (!v || json_is_null(v)) {
			f[i].value = "";
		} else {
			f[i].value = json_string_value(v);
			if (!f[i].value || json_string_length(v) > f[i].max)
				return sb_fail(err, SB_EPROTO, "\"%s\" is not a text of at most %zu bytes", f[i].key, f[i].max);
		}
		if (!f[i].optional && !*f[i].value)
			return sb_fail(err, SB_EPROTO, "\"%s\" is missing", f[i].key);
	}
	return 0;
}

int intake_number(const json_t *body, const char *key, int64_t *ret, struct sb_error *err)
{
	const json_t *v = json_object_get(body, key);

	if (!json_is_integer(v) || json_integer_value(v) < 0)
		return sb_fail(err, SB_EPROTO, "\"%s\" is not a whole number of at least 0", key);
	*ret = json_integer_value(v);
	return 0;
}

static int on_started(struct intake *in, const struct sb_meta *meta, const json_t *body, struct sb_error *err)
{
	struct intake_field f[] = { { "agent_version", 64, false, NULL } };
	char ms[HUB_NUM], num[HUB_NUM];
	int64_t session = 0;

	int r = intake_fields(body, f, SB_COUNT(f), err);
	if (r == 0)
		r = intake_number(body, "session", &session, err);
	if (r < 0)
		return r;
	const char *param[] = { in->stage->name, f[0].value, hub_num(num, session), hub_num(ms, meta->time_ms) };
	sb_log(SB_INFO, "agent_started", "stage=%s version=%s session=%lld", in->stage->name, f[0].value, (long long)session);
	return sb_pg_exec(in->pg,
		"UPDATE lifecycle.stage SET agent_version = $2, session = $3, started_at = to_timestamp($4::bigint / 1000.0) WHERE name = "
		"$1",
		4, param, NULL, err);
}

static char *json_text(const json_t *body, const char *key)
{
	const json_t *v = json_object_get(body, key);

	return v ? json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
}

/* The largest of the sources: one that lags is what people must know of */
static int64_t worst(const json_t *sources, const char *key)
{
	int64_t max = 0;
	size_t i;
	const json_t *s;

	json_array_foreach(sources, i, s)
	{
		int64_t v = json_integer_value(json_object_get(s, key));
		max = v > max ? v : max;
	}
	return max;
}

/* Remembered until everything that the agent had sent by then is in the view: then that moment is the view's as_of */
static void await_heads(struct intake *in, const struct sb_meta *meta, const json_t *body)
{
	const json_t *as_of = json_object_get(body, "as_of");
	json_t *heads = json_deep_copy(json_object_get(body, "heads"));

	if (!json_is_array(heads)) {
		json_decref(heads);
		return;
	}
	json_decref(in->heads);
	in->heads = heads;
	in->as_of_ms = meta->time_ms;
	if (!json_is_string(as_of) || sb_format(in->as_of, sizeof(in->as_of), NULL, "%s", json_string_value(as_of)) < 0)
		in->as_of[0] = '\0';
}

/* A copy that was asked for and that nobody publishes stays empty: said with every heartbeat, once a while in the log */
static int tell_withheld_copies(struct intake *in, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { in->stage->name };

	int r = sb_pg_exec(in->pg, "SELECT type, stage, withheld FROM lifecycle.copy WHERE owner = $1 AND withheld <> ''", 1, param, &res, err);
	for (int i = 0; r == 0 && i < sb_pg_rows(res); i++) {
		struct sb_error why = { .code = SB_EREFUSED };
		r = sb_format(why.msg, sizeof(why.msg), err, "copy of \"%s\" in \"%s\": %s", sb_pg_get(res, i, 0), sb_pg_get(res, i, 1), sb_pg_get(res, i, 2));
		if (r == 0)
			sb_log_limited(SB_WARN, "copy_withheld", sb_pg_get(res, i, 0), &why);
	}
	return r;
}

static int on_heartbeat(struct intake *in, const struct sb_meta *meta, const json_t *body, struct sb_error *err)
{
	struct intake_field f[] = { { "agent_version", 64, false, NULL } };
	const json_t *sources = json_object_get(body, "sources");
	sb_cleanup(sb_freep) char *sources_text = json_text(body, "sources");
	sb_cleanup(sb_freep) char *heads = json_text(body, "heads");
	sb_cleanup(sb_freep) char *occupancy = json_text(body, "occupancy");
	char num[8][HUB_NUM];
	int64_t session = 0, interval = 0, depth = 0, disk = 0;

	int r = intake_fields(body, f, SB_COUNT(f), err);
	if (r == 0)
		r = intake_number(body, "session", &session, err);
	if (r == 0)
		r = intake_number(body, "interval_ms", &interval, err);
	if (r == 0)
		r = intake_number(body, "outbox_depth", &depth, err);
	if (r == 0 && json_object_get(body, "disk_free_bytes"))
		r = intake_number(body, "disk_free_bytes", &disk, err);
	if (r < 0)
		return r;
	int64_t now = sb_wall_ms();
	/* an old one that waited on the broker must not look alive, one from a clock ahead of ours must not live longer */
	int64_t at = meta->time_ms < now ? meta->time_ms : now;
	const char *param[] = { in->stage->name, f[0].value, hub_num(num[0], session), hub_num(num[1], at),
		hub_num(num[2], at + MISSED_HEARTBEATS * interval), hub_num(num[3], depth), hub_num(num[4], worst(sources, "lag_bytes")),
		hub_num(num[5], worst(sources, "lag_ms")), sources_text, heads, occupancy,
		json_is_true(json_object_get(body, "lanes_ok")) ? "t" : "f", hub_num(num[6], disk) };
	r = sb_pg_exec(in->pg,
		"UPDATE lifecycle.stage SET agent_version = $2, session = $3, heartbeat_at = to_timestamp($4::bigint / 1000.0), "
		"heartbeat_expires = to_timestamp($5::bigint / 1000.0), outbox_depth = $6, lag_bytes = $7, lag_ms = $8, sources = "
		"$9::jsonb, heads = $10::jsonb, "
		"occupancy = coalesce($11::jsonb, occupancy), lanes_ok = $12, disk_free_bytes = $13, heads_reached = false "
		"WHERE name = $1 AND (heartbeat_at IS NULL OR heartbeat_at <= to_timestamp($4::bigint / 1000.0))",
		SB_COUNT(param), param, NULL, err);
	if (r == 0)
		r = tell_withheld_copies(in, err);
	if (r == 0)
		await_heads(in, meta, body);
	return r;
}

/* Whether the heartbeat's digest is that of its heads; *ret_holds false when either is not as the contract says */
static int digest_holds(const json_t *body, bool *ret_holds, struct sb_error *err)
{
	const json_t *heads = json_object_get(body, "heads");
	const char *digest = json_string_value(json_object_get(body, "digest"));
	size_t n = json_array_size(heads);
	sb_cleanup(sb_freep) struct sb_head *head = calloc(n + 1, sizeof(*head));
	char hex[65];

	if (!head)
		return sb_fail_nomem(err);
	*ret_holds = false;
	if (!json_is_array(heads) || !digest)
		return 0;
	for (size_t i = 0; i < n; i++) {
		const json_t *h = json_array_get(heads, i);
		int64_t session = 0, sequence = 0;
		head[i].source = json_string_value(json_object_get(h, "source"));
		if (!head[i].source || intake_number(h, "session", &session, NULL) < 0 || intake_number(h, "sequence", &sequence, NULL) < 0)
			return 0;
		head[i].session = (uint64_t)session;
		head[i].sequence = (uint64_t)sequence;
	}
	sb_heads_digest(head, n, hex);
	*ret_holds = strcmp(digest, hex) == 0;
	return 0;
}

typedef int (*event_fn)(struct intake *, const struct sb_meta *, const json_t *, struct sb_error *);

/* What a stage may say on up.event; the wire table has refused everything else before */
static const event_fn handlers[SB_EV_COUNT] = {
	[SB_EV_AGENT_STARTED] = on_started,
	[SB_EV_HEARTBEAT_SENT] = on_heartbeat,
	[SB_EV_PUSH_REQUESTED] = intake_on_push,
	[SB_EV_PROMOTION_REQUESTED] = intake_on_promotion,
	[SB_EV_DEPLOYMENT_REPORTED] = intake_on_deployment,
	[SB_EV_DATASET_REQUESTED] = intake_on_dataset_requested,
	[SB_EV_DATASET_REPORTED] = intake_on_dataset_reported,
	[SB_EV_TRANSFER_CREDITED] = intake_on_credit,
};

static int run_handler(void *user, struct sb_error *err)
{
	struct event_job *job = user;

	return handlers[job->meta->event](job->in, job->meta, job->body, err);
}

static int refuse(struct intake *in, const char *class, const char *reason, struct sb_error *err)
{
	struct hub_refusal why = { .stage = in->stage->name, .class = class, .reason = reason };

	return hub_quarantine(in->pg, in->now, &why, err);
}

static int judge_order(struct intake *in, const struct sb_meta *meta, const struct intake_stream *s, bool *ret_take, struct sb_error *err)
{
	enum sb_verdict verdict = sb_stream_judge(s->known ? &s->in : NULL, meta);
	struct hub_refusal gap = { .stage = in->stage->name, .class = "gap", .reason = "records of this stream are missing" };

	*ret_take = false;
	switch (verdict) {
	case SB_DUPLICATE:
		sb_metric_add(in->m_duplicates, in->label, 1);
		return 0;
	case SB_ZOMBIE:
		return refuse(in, "zombie", "an older session of this stream speaks", err);
	case SB_EQUIVOCATION: {
		int r = hub_audit(in->pg, in->stage->name, "equivocation", meta->source, NULL, NULL,
			"two records with the same place in the stream", err);
		return r < 0 ? r : refuse(in, "equivocation", "another record has this place in the stream", err);
	}
	case SB_GAP:
		*ret_take = true;
		if (meta->event == SB_EV_HEARTBEAT_SENT)
			return 0;
		return hub_quarantine_offset(in->pg, in->now->rec.topic, in->now->offset, &gap, err);
	case SB_APPLY:
	case SB_NEW_SESSION:
		*ret_take = true;
		return 0;
	}
	return 0;
}

/* What a value must be before its handler sees it: NULL, or why it is not */
static int malformed(const struct sb_meta *meta, const json_t *body, const char **ret_why, struct sb_error *err)
{
	bool holds = true;

	*ret_why = NULL;
	if (!json_is_object(body)) {
		*ret_why = "value is not one JSON object";
		return 0;
	}
	int r = meta->event == SB_EV_HEARTBEAT_SENT ? digest_holds(body, &holds, err) : 0;
	if (r == 0 && !holds)
		*ret_why = "digest is not that of the heads";
	return r;
}

int intake_event(struct intake *in, const struct sb_meta *meta, struct sb_error *err)
{
	struct event_job job = { .in = in, .meta = meta };
	const char *why = NULL;
	struct intake_stream *s = NULL;
	bool take = false;

	if (!handlers[meta->event])
		return sb_fail(err, SB_EPROTO, "a stage may not send %s here", sb_event_info((enum sb_event)meta->event)->name);
	int r = intake_stream_get(in, meta->source, &s, err);
	if (r == 0)
		r = judge_order(in, meta, s, &take, err);
	if (r < 0 || !take)
		return r;
	job.body = json_loadb(in->now->rec.value, in->now->rec.value_len, JSON_REJECT_DUPLICATES, NULL);
	r = malformed(meta, job.body, &why, err);
	if (r == 0 && why)
		r = refuse(in, "malf", why, err);
	else if (r == 0)
		r = intake_try(in, NULL, run_handler, &job, err);
	json_decref(job.body);
	if (r == 0) {
		sb_stream_advance(&s->in, meta);
		s->known = true;
		s->dirty = true;
	}
	return r;
}
