/* The inbox lane: reads the down.event and down.data topics, with its offsets in state.db. For each record: verify, judge its place in the stream,
 * apply, and commit effects, place and offset together, so that a kill repeats a record as a whole or not at all.
 *
 * What is refused (malformed, forged, not for us, zombie, other content in the same place) goes to the table `quarantine` with the reason, is counted,
 * and the next record is taken: a poison record never stops the lane. A gap in the hub's event stream is reported, not waited for: the hub's
 * outbox is durable, so what is missing was lost by the broker and will not come by itself. The record is applied all the same (orders carry leases and
 * reports set rows, so none depends on the one before), the gap shows in the log, in a metric and as state "gap" of source "inbox" in every heartbeat
 * until the agent is restarted. */
#include "inbox.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "outbox.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "stagebridge/metric.h"

#define IDLE_MS 1000
#define TIDY_MS 60000
#define KEEP_MS (30LL * 24 * 3600 * 1000)
#define QUARANTINE_ROWS 1000
#define QUARANTINE_VALUE_MAX 65536

/* --- quarantine --- */

static int quarantine(struct agent_inbox *in, const struct sb_inrecord *ir, const char *class, const char *reason, struct sb_error *err)
{
	const struct sb_record *rec = &ir->rec;
	char attrs[AGENT_ATTRS_MAX];
	size_t n_attrs = 0;
	size_t n = rec->value_len < QUARANTINE_VALUE_MAX ? rec->value_len : QUARANTINE_VALUE_MAX;
	const char *type = sb_record_get(rec, "type");

	sb_metric_add(sb_metric("stagebridge_refused_total", SB_COUNTER, "class", "Records that were refused, by reason"), class, 1);
	struct sb_error why = { .code = SB_EPROTO };
	(void)snprintf(why.msg, sizeof(why.msg), "%s", reason); /* same size */
	sb_log_limited(SB_WARN, "record_refused", class, &why);
	int r = agent_attrs_pack(rec, attrs, &n_attrs, err);
	if (r < 0)
		return r;
	/* chunks are sealed: their bytes would tell nobody anything */
	if (type && strcmp(type, sb_event_info(SB_EV_TRANSFER_CHUNK)->type) == 0)
		n = 0;
	r = sb_db_run(in->db, NULL, err,
		"INSERT INTO quarantine(at_ms, topic, record_offset, class, reason, source, type, attrs, value) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", "isissssbb",
		sb_wall_ms(), rec->topic, ir->offset, class, reason, sb_record_get(rec, "source"), type, (const void *)attrs, n_attrs, rec->value, n);
	if (r == 0)
		r = sb_db_run(in->db, NULL, err, "DELETE FROM quarantine WHERE id <= (SELECT max(id) FROM quarantine) - ?", "i", (int64_t)QUARANTINE_ROWS);
	return r;
}

/* --- places --- */

static int load_stream(struct sb_db *db, const char *source, struct sb_stream_in *ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	size_t n = 0;

	int r = sb_db_query(db, &st, err, "SELECT session, sequence, prev FROM stream_in WHERE source = ?", "s", source);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r <= 0)
		return r;
	const void *prev = sb_db_blob(st, 2, &n);
	if (!prev || n != sizeof(ret->prev))
		return sb_fail(err, SB_EDB, "stored place of stream %s cannot be read", source);
	ret->session = (uint64_t)sb_db_int(st, 0);
	ret->sequence = (uint64_t)sb_db_int(st, 1);
	memcpy(ret->prev, prev, n);
	return 1;
}

static int store_stream(struct sb_db *db, const struct sb_meta *meta, struct sb_error *err)
{
	struct sb_stream_in s;

	sb_stream_advance(&s, meta);
	return sb_db_run(db, NULL, err, "INSERT OR REPLACE INTO stream_in(source, session, sequence, prev) VALUES (?, ?, ?, ?)", "siib", meta->source,
		(int64_t)s.session, (int64_t)s.sequence, (const void *)s.prev, sizeof(s.prev));
}

static int store_offset(struct sb_db *db, const char *topic, int64_t next, struct sb_error *err)
{
	return sb_db_run(db, NULL, err, "INSERT OR REPLACE INTO down_offset(topic, next_offset) VALUES (?, ?)", "si", topic, next);
}

/* Shows up in every heartbeat as the state of a source that is not in order. */
static void report_problem(struct agent *a, const char *state, const char *what)
{
	struct agent_source_state s = { .name = "inbox", .kind = "inbox" };

	(void)snprintf(s.state, sizeof(s.state), "%s", state);
	(void)snprintf(s.progress, sizeof(s.progress), "%.150s", what); /* for people; a cut text is fine */
	agent_board_source(a, &s);
}

/* --- one record --- */

static int apply_value(struct agent_inbox *in, const struct sb_inrecord *ir, const struct sb_meta *meta, struct sb_error *err)
{
	json_auto_t *value = NULL;

	if (meta->event == SB_EV_TRANSFER_CHUNK)
		return agent_transfer_chunk(in, &ir->rec, meta, err);
	value = json_loadb(ir->rec.value, ir->rec.value_len, JSON_REJECT_DUPLICATES, NULL);
	if (!json_is_object(value))
		return sb_fail(err, SB_EPROTO, "value is not one JSON object");
	if (meta->event == SB_EV_TRANSFER_OFFERED)
		return agent_transfer_offered(in, meta, value, err);
	return agent_event_apply(in, meta, value, err);
}

/* Data streams are judged by chunk index in transfer_in.c: an attempt begins in the middle. Returns false when the record must not be applied. */
static int judge(struct agent_inbox *in, const struct sb_inrecord *ir, const struct sb_meta *meta, bool *ret_apply, struct sb_error *err)
{
	struct sb_stream_in known;
	enum sb_verdict v;
	char text[300];

	*ret_apply = true;
	if (meta->topic.class != SB_EVENT)
		return 0;
	int r = load_stream(in->db, meta->source, &known, err);
	if (r < 0)
		return r;
	v = sb_stream_judge(r ? &known : NULL, meta);
	sb_metric_add(sb_metric("stagebridge_records_total", SB_COUNTER, "verdict", "Records from the hub, by their place in the stream"), sb_verdict_name(v), 1);
	r = sb_format(text, sizeof(text), err, "session %" PRIu64 " sequence %" PRIu64 " of %s", meta->session, meta->sequence, meta->source);
	if (r < 0)
		return r;
	switch (v) {
	case SB_APPLY:
	case SB_NEW_SESSION:
		break;
	case SB_GAP:
		sb_log(SB_ERROR, "stream_gap", "source=%s session=%" PRIu64 " sequence=%" PRIu64, meta->source, meta->session, meta->sequence);
		report_problem(in->a, "gap", text);
		break;
	case SB_DUPLICATE:
		*ret_apply = false;
		return 0;
	case SB_ZOMBIE:
	case SB_EQUIVOCATION:
		*ret_apply = false;
		sb_log(SB_ERROR, "stream_refused", "source=%s verdict=%s session=%" PRIu64 " sequence=%" PRIu64, meta->source, sb_verdict_name(v), meta->session,
			meta->sequence);
		return quarantine(in, ir, sb_verdict_name(v), text, err);
	}
	return store_stream(in->db, meta, err);
}

static int take_verified(struct agent_inbox *in, const struct sb_inrecord *ir, const struct sb_meta *meta, struct sb_error *err)
{
	bool apply = false;

	int r = judge(in, ir, meta, &apply, err);
	if (r == 0 && apply)
		r = apply_value(in, ir, meta, err);
	if (r == 0)
		r = store_offset(in->db, ir->rec.topic, ir->offset + 1, err);
	return r;
}

/* The record's place is stored with the refusal: what follows it is not a gap. */
static int take_refused(struct agent_inbox *in, const struct sb_inrecord *ir, const struct sb_meta *meta, const char *class, const char *reason, struct sb_error *err)
{
	int r = sb_db_begin(in->db, err);

	if (r < 0)
		return r;
	r = quarantine(in, ir, class, reason, err);
	if (r == 0 && meta && meta->topic.class == SB_EVENT)
		r = store_stream(in->db, meta, err);
	if (r == 0)
		r = store_offset(in->db, ir->rec.topic, ir->offset + 1, err);
	if (r == 0)
		r = sb_db_commit(in->db, err);
	if (r < 0)
		sb_db_rollback(in->db);
	return r;
}

static void wake(struct agent_inbox *in)
{
	static const struct { unsigned bit; const char *lane; } who[] = {
		{ AGENT_WAKE_COURIER, "courier" },
		{ AGENT_WAKE_DEPLOY, "deploy" },
		{ AGENT_WAKE_DATASET, "dataset" },
		{ AGENT_WAKE_SOURCES, "source/*" },
	};

	for (size_t i = 0; in->a->lanes && i < SB_COUNT(who); i++) {
		if (in->wake & who[i].bit)
			sb_lanes_wake(in->a->lanes, who[i].lane);
	}
	in->wake = 0;
}

int agent_inbox_take(struct agent_inbox *in, const struct sb_inrecord *ir, struct sb_error *err)
{
	struct agent *a = in->a;
	struct sb_meta meta;
	struct sb_error why = SB_ERROR_INIT;

	in->wake = 0;
	if (ir->malformed != SB_OK)
		return take_refused(in, ir, NULL, "malf", ir->malformed_reason, err);
	int r = sb_record_verify(&ir->rec, a->keyring, a->set.tenant, a->set.stage, sb_wall_ms(), &meta, &why);
	if (r < 0)
		return take_refused(in, ir, NULL, why.state[0] ? why.state : "malf", why.msg, err);
	r = sb_db_begin(in->db, err);
	if (r < 0)
		return r;
	r = take_verified(in, ir, &meta, &why);
	if (r == 0)
		r = sb_db_commit(in->db, &why);
	if (r == 0) {
		wake(in);
		return 0;
	}
	sb_db_rollback(in->db);
	agent_incoming_forget(in);
	if (!sb_code_retriable((enum sb_code)r))
		return take_refused(in, ir, &meta, "data", why.msg, err);
	return sb_fail(err, (enum sb_code)r, "%s", why.msg);
}

/* --- the lane --- */

int agent_inbox_open(struct agent_inbox *in, struct agent *a, struct sb_error *err)
{
	memset(in, 0, sizeof(*in));
	in->a = a;
	for (unsigned i = 0; i < AGENT_SPOOLS_OPEN; i++)
		in->open[i].fd = -1;
	return agent_state_open(&in->db, a, err);
}

void agent_inbox_close(struct agent_inbox *in)
{
	agent_incoming_forget(in);
	sb_db_close(in->db);
	in->db = NULL;
}

int agent_inbox_tidy(struct agent_inbox *in, struct sb_error *err)
{
	int64_t old = sb_wall_ms() - KEEP_MS;

	int r = sb_db_begin(in->db, err);
	if (r < 0)
		return r;
	r = agent_transfer_expire(in, err);
	if (r == 0)
		r = sb_db_run(in->db, NULL, err, "DELETE FROM transfer_in WHERE state IN ('failed', 'done') AND updated_ms < ?", "i", old);
	if (r == 0)
		r = sb_db_run(in->db, NULL, err, "DELETE FROM transfer_out WHERE state <> 'open' AND spool = 0 AND updated_ms < ?", "i", old);
	if (r == 0)
		r = sb_db_commit(in->db, err);
	if (r < 0)
		sb_db_rollback(in->db);
	else
		wake(in);
	return r;
}

static int next_offset(struct sb_db *db, const char *topic, int64_t *ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(db, &st, err, "SELECT next_offset FROM down_offset WHERE topic = ?", "s", topic);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	*ret = r ? sb_db_int(st, 0) : SB_OFFSET_BEGINNING;
	return 0;
}

static int assign(struct agent_inbox *in, struct sb_consumer *c, struct sb_error *err)
{
	struct sb_assignment topic[2] = { { .topic = in->a->topic_down[SB_EVENT] }, { .topic = in->a->topic_down[SB_DATA] } };
	int r = 0;

	for (size_t i = 0; r == 0 && i < SB_COUNT(topic); i++)
		r = next_offset(in->db, topic[i].topic, &topic[i].offset, err);
	return r < 0 ? r : sb_consumer_assign(c, topic, SB_COUNT(topic), err);
}

/* The broker no longer has the offset: retention was shorter than we were away, or the topic was made anew. Goes on at what there is, and says so. */
static int recover(struct agent_inbox *in, struct sb_consumer *c, const struct sb_error *lost, struct sb_error *err)
{
	const char *const topic[] = { in->a->topic_down[SB_EVENT], in->a->topic_down[SB_DATA] };
	int64_t next = 0, low = 0, high = 0;
	bool moved = false;

	sb_log_error(SB_ERROR, "offset_lost", lost, "lane=%s", "inbox");
	report_problem(in->a, "gap", lost->msg);
	for (size_t i = 0; i < SB_COUNT(topic); i++) {
		int r = next_offset(in->db, topic[i], &next, err);
		if (r == 0)
			r = sb_consumer_watermarks(c, topic[i], &low, &high, err);
		if (r == 0 && next >= 0 && (next < low || next > high)) {
			r = store_offset(in->db, topic[i], low, err);
			moved = true;
		}
		if (r < 0)
			return r;
	}
	if (!moved)
		return sb_fail(err, SB_EKAFKA, "%s", lost->msg);
	return assign(in, c, err);
}

static int turn(struct agent_inbox *in, struct sb_consumer *c, bool *ret_idle, struct sb_error *err)
{
	struct sb_inrecord ir;

	int r = sb_consumer_poll(c, 0, &ir, err);
	*ret_idle = r == 0;
	if (r == SB_ENOTFOUND) {
		struct sb_error lost = *err;
		return recover(in, c, &lost, err);
	}
	if (r <= 0)
		return r;
	r = agent_inbox_take(in, &ir, err);
	sb_inrecord_release(&ir);
	return r;
}

static int run(struct sb_lane *lane, struct agent_inbox *in, struct sb_consumer *c, struct sb_error *err)
{
	int64_t tidy_ms = 0;
	int64_t started_ms = sb_mono_ms();

	int r = assign(in, c, err);
	while (r == 0 && !sb_lane_stopping(lane)) {
		bool idle = false;
		r = turn(in, c, &idle, err);
		if (r == 0 && sb_mono_ms() >= tidy_ms) {
			tidy_ms = sb_mono_ms() + TIDY_MS;
			r = agent_inbox_tidy(in, err);
		}
		/* a note ends the back-off count: it must be earned */
		if (r == 0 && (!idle || sb_mono_ms() - started_ms > IDLE_MS * 5))
			sb_lane_note(lane, idle ? "listening" : "receiving");
		if (r == 0 && idle) {
			struct pollfd fd = { .fd = sb_consumer_fd(c), .events = POLLIN };
			(void)sb_lane_wait(lane, &fd, 1, IDLE_MS);
		}
	}
	return r;
}

int agent_inbox_lane(struct sb_lane *lane, void *user, struct sb_error *err)
{
	struct agent *a = user;
	sb_cleanup(sb_freep) struct agent_inbox *in = malloc(sizeof(*in));
	struct sb_consumer *c = NULL;

	if (!in)
		return sb_fail_nomem(err);
	int r = agent_inbox_open(in, a, err);
	if (r == 0)
		r = sb_consumer_new(&c, &a->kafka, err);
	if (r == 0)
		r = run(lane, in, c, err);
	sb_consumer_free(c);
	agent_inbox_close(in);
	return r;
}
