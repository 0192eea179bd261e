/* The intake of one stage: its agent's entities and events, from the broker into the sync view. Lane "<tenant>/intake/<stage>", one thread,
 * which owns a consumer of up.entity and up.event and a connection.
 *
 * Offsets live in PostgreSQL: what a batch of records does, how far each stream is and which offset comes next commit in one transaction,
 * under the lane's fencing generation. So a record has its effect once, whatever dies when. A batch is whatever is there: a record that
 * comes alone is committed at once, a flood in portions of BATCH_RECORDS or BATCH_BYTES.
 *
 * A record at fault is quarantined and the rest goes on. Trouble of the moment (connection, deadlock) rolls back and ends the lane
 * function: it starts again after a back-off, from the offsets that are stored. */
#include "intake.h"

#include <inttypes.h>
#include <string.h>

#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "store/store.h"

#define BATCH_RECORDS 200
#define BATCH_BYTES   (8 * 1024 * 1024)
#define IDLE_MS       5000

static int positions_load(struct intake *in, struct sb_error *err)
{
	for (int i = 0; i < INTAKE_TOPICS; i++) {
		sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
		const char *param[] = { in->topic[i] };
		int r = sb_pg_exec(
			in->pg, "SELECT next_offset FROM sb.position WHERE consumer = 'intake' AND topic = $1", 1, param, &res, err);
		if (r < 0)
			return r;
		in->next[i] = sb_pg_rows(res) ? sb_pg_get_i64(res, 0, 0) : SB_OFFSET_BEGINNING;
	}
	return 0;
}

/* The last heartbeat's heads: as_of goes on after a restart */
static int heads_load(struct intake *in, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { in->stage->name };

	int r = sb_pg_exec(in->pg,
		"SELECT heads, (extract(epoch FROM heartbeat_at) * 1000)::bigint FROM lifecycle.stage WHERE name = $1 AND NOT "
		"heads_reached AND heads IS NOT NULL",
		1, param, &res, err);
	if (r < 0 || sb_pg_rows(res) == 0)
		return r;
	in->heads = json_loads(sb_pg_get(res, 0, 0), JSON_DECODE_ANY, NULL);
	in->as_of_ms = sb_pg_get_i64(res, 0, 1);
	return 0;
}

static int assign(struct intake *in, struct sb_error *err)
{
	struct sb_assignment a[INTAKE_TOPICS];

	for (int i = 0; i < INTAKE_TOPICS; i++)
		a[i] = (struct sb_assignment){ in->topic[i], in->next[i] };
	return sb_consumer_assign(in->consumer, a, INTAKE_TOPICS, err);
}

static void metrics_make(struct intake *in)
{
	in->m_records = sb_metric("stagebridge_intake_records_total", SB_COUNTER, "stage", "Records taken from the stages' brokers");
	in->m_rows = sb_metric("stagebridge_intake_rows_total", SB_COUNTER, "stage", "Rows applied to the sync view");
	in->m_duplicates = sb_metric("stagebridge_intake_duplicates_total", SB_COUNTER, "stage", "Records that were seen before");
	in->m_commits = sb_metric("stagebridge_intake_commits_total", SB_COUNTER, "stage", "Transactions committed by the intake");
	in->m_commit_seconds = sb_metric(
		"stagebridge_intake_commit_seconds_total", SB_COUNTER, "stage", "Time from the first record of a batch to its commit");
	in->m_lag = sb_metric(
		"stagebridge_intake_lag_seconds", SB_GAUGE, "stage", "Age of the last record when it was committed, by the sender's clock");
}

static int open_all(struct intake *in, struct sb_error *err)
{
	struct sb_kafka_conf conf;

	int r = sb_format(in->label, sizeof(in->label), err, "%s/%s", in->w->set->name, in->stage->name);
	if (r < 0)
		return r;
	metrics_make(in);
	sb_topic_name(in->topic[INTAKE_ENTITY], in->w->set->name, in->stage->name, SB_UP, SB_ENTITY);
	sb_topic_name(in->topic[INTAKE_EVENT], in->w->set->name, in->stage->name, SB_UP, SB_EVENT);
	r = hub_store_open(&in->pg, in->w, sb_lane_name(in->lane), err);
	if (r == 0)
		r = hub_fence_wait(in->lane, in->pg, in->w, &in->generation, err);
	if (r == 0)
		r = positions_load(in, err);
	if (r == 0)
		r = intake_streams_load(in, err);
	if (r == 0)
		r = heads_load(in, err);
	if (r == 0) {
		hub_kafka_conf(&conf, in->stage, sb_lane_name(in->lane));
		r = sb_consumer_new(&in->consumer, &conf, err);
	}
	if (r == 0)
		r = assign(in, err);
	return r;
}

static void close_all(struct intake *in)
{
	sb_entity_tables_free(in->tables);
	sb_pg_close(in->pg);
	sb_consumer_free(in->consumer);
	intake_streams_free(in);
	json_decref(in->heads);
}

int intake_try(struct intake *in, const char *type, intake_fn fn, void *user, struct sb_error *err)
{
	struct hub_refusal why = { .stage = in->stage->name, .class = "data", .type = type };
	struct sb_error cause = SB_ERROR_INIT;

	int r = sb_pg_exec(in->pg, "SAVEPOINT record", 0, NULL, NULL, err);
	if (r < 0)
		return r;
	r = fn(user, &cause);
	if (r == 0)
		return sb_pg_exec(in->pg, "RELEASE SAVEPOINT record", 0, NULL, NULL, err);
	if (!hub_is_poison(&cause, type != NULL)) {
		if (err)
			*err = cause;
		return r;
	}
	/* what was created since the savepoint is gone, and the cache of it must go too */
	sb_entity_tables_free(in->tables);
	in->tables = NULL;
	r = sb_pg_exec(in->pg, "ROLLBACK TO SAVEPOINT record", 0, NULL, NULL, err);
	why.reason = cause.msg;
	return r < 0 ? r : hub_quarantine(in->pg, in->now, &why, err);
}

/* Expired heartbeats pile up while the hub is down: they say nothing any more and are no offence */
static bool worth_keeping(const struct sb_record *rec, const struct sb_error *why)
{
	const char *type = sb_record_get(rec, "type");

	return strcmp(why->state, "stale") != 0 || !type || strcmp(type, sb_event_info(SB_EV_HEARTBEAT_SENT)->type) != 0;
}

static int record_apply(struct intake *in, const struct sb_inrecord *rec, struct sb_error *err)
{
	struct hub_refusal why = { .stage = in->stage->name, .class = "malf" };
	struct sb_error cause = SB_ERROR_INIT;
	struct sb_meta meta;

	if (rec->malformed != SB_OK) {
		why.reason = rec->malformed_reason;
		return hub_quarantine(in->pg, rec, &why, err);
	}
	int r = sb_record_verify(&rec->rec, in->w->keyring, in->w->set->name, "hub", sb_wall_ms(), &meta, &cause);
	if (r < 0) {
		why.class = cause.state[0] ? cause.state : "malf";
		why.reason = cause.msg;
		return worth_keeping(&rec->rec, &cause) ? hub_quarantine(in->pg, rec, &why, err) : 0;
	}
	r = meta.topic.class == SB_ENTITY ? intake_entity(in, &meta, &cause) : intake_event(in, &meta, &cause);
	sb_metric_set(in->m_lag, in->label, (double)(sb_wall_ms() - meta.time_ms) / 1000.0);
	if (r == 0)
		return 0;
	if (hub_is_poison(&cause, false)) {
		why.class = cause.code == SB_EPROTO ? "malf" : "data";
		why.reason = cause.msg;
		return hub_quarantine(in->pg, rec, &why, err);
	}
	if (err)
		*err = cause;
	return r;
}

static int record_take(struct intake *in, const struct sb_inrecord *rec, struct sb_error *err)
{
	int i = strcmp(rec->rec.topic, in->topic[INTAKE_ENTITY]) == 0 ? INTAKE_ENTITY : INTAKE_EVENT;

	if (in->next[i] >= 0 && rec->offset < in->next[i])
		return 0; /* fetched before the last assignment */
	in->now = rec;
	int r = record_apply(in, rec, err);
	in->now = NULL;
	if (r < 0)
		return r;
	in->next[i] = rec->offset + 1;
	in->moved[i] = true;
	in->batch_records++;
	in->batch_bytes += rec->rec.value_len;
	return 0;
}

static void wake_others(struct intake *in)
{
	if (in->wake_courier)
		hub_wake(in->w, "courier");
	if (in->wake_git)
		hub_wake(in->w, "git");
	if (in->wake_engine)
		hub_wake(in->w, "engine");
	in->wake_courier = in->wake_git = in->wake_engine = false;
}

static int batch_commit(struct intake *in, int64_t began_us, struct sb_error *err)
{
	int r = intake_flush(in, err);
	if (r == 0)
		r = sb_pg_commit(in->pg, err);
	if (r < 0)
		return r;
	sb_metric_add(in->m_records, in->label, (double)in->batch_records);
	sb_metric_add(in->m_commits, in->label, 1);
	sb_metric_add(in->m_commit_seconds, in->label, (double)(sb_mono_us() - began_us) / 1e6);
	wake_others(in);
	return 0;
}

/* One transaction: what is there now, up to the limits. first was polled already. */
static int batch_run(struct intake *in, struct sb_inrecord *first, struct sb_error *err)
{
	int64_t began_us = sb_mono_us();
	struct sb_inrecord rec;

	in->batch_records = in->batch_bytes = 0;
	int r = sb_pg_begin(in->pg, err);
	if (r == 0)
		r = hub_fence(in->pg, sb_lane_name(in->lane), in->generation, err);
	if (r == 0)
		r = record_take(in, first, err);
	sb_inrecord_release(first);
	while (r == 0 && in->batch_records < BATCH_RECORDS && in->batch_bytes < BATCH_BYTES) {
		/* trouble with the broker is kept until what we have is committed */
		in->polled = sb_consumer_poll(in->consumer, 0, &rec, &in->poll_err);
		if (in->polled != 1)
			break;
		r = record_take(in, &rec, err);
		sb_inrecord_release(&rec);
	}
	if (r == 0)
		r = batch_commit(in, began_us, err);
	if (r < 0)
		sb_pg_rollback(in->pg);
	return r;
}

static int resync_all(struct intake *in, struct sb_error *err)
{
	const struct hub_type *type = in->w->set->types.item;
	int r = 0;

	for (size_t i = 0; r == 0 && i < in->w->set->types.count; i++) {
		if (strcmp(type[i].owner, in->stage->name) == 0)
			r = intake_resync(in, type[i].type, "records are gone from the broker", false, err);
	}
	return r;
}

/* The broker no longer has the offset that comes next: records were lost to retention, or the topic was made anew */
static int offset_gone(struct intake *in, int i, int64_t low, int64_t high, struct sb_error *err)
{
	struct hub_refusal why = { .stage = in->stage->name,
		.class = "gap",
		.reason = "records are gone from the broker: continuing with the oldest that it has" };

	sb_log(SB_ERROR, "offset_gone", "topic=%s wanted=%" PRId64 " low=%" PRId64 " high=%" PRId64, in->topic[i], in->next[i], low, high);
	int r = sb_pg_begin(in->pg, err);
	if (r == 0)
		r = hub_fence(in->pg, sb_lane_name(in->lane), in->generation, err);
	if (r == 0)
		r = hub_quarantine_offset(in->pg, in->topic[i], in->next[i], &why, err);
	if (r == 0 && i == INTAKE_ENTITY)
		r = resync_all(in, err);
	if (r == 0) {
		in->next[i] = low;
		in->moved[i] = true;
		r = batch_commit(in, sb_mono_us(), err);
	}
	if (r < 0)
		sb_pg_rollback(in->pg);
	return r;
}

static int offsets_mend(struct intake *in, struct sb_error *err)
{
	bool mended = false;

	for (int i = 0; i < INTAKE_TOPICS; i++) {
		int64_t low = 0, high = 0;
		int r = sb_consumer_watermarks(in->consumer, in->topic[i], &low, &high, err);
		if (r == 0 && in->next[i] >= 0 && (in->next[i] < low || in->next[i] > high)) {
			r = offset_gone(in, i, low, high, err);
			mended = true;
		}
		if (r < 0)
			return r;
	}
	return mended ? assign(in, err) : sb_fail(err, SB_EKAFKA, "the broker refuses offsets that it says it has");
}

static int intake_run(struct intake *in, struct sb_error *err)
{
	int64_t idle_since = sb_mono_ms();
	struct sb_inrecord rec;

	while (!sb_lane_stopping(in->lane)) {
		int pruned = intake_history_prune(in, err);
		if (pruned < 0)
			return pruned;
		int r = in->polled < 0 ? in->polled : sb_consumer_poll(in->consumer, 0, &rec, err);
		if (in->polled < 0 && err)
			*err = in->poll_err;
		in->polled = 0;
		if (r == 1) {
			r = batch_run(in, &rec, err);
			idle_since = sb_mono_ms();
		} else if (r == SB_ENOTFOUND) {
			r = offsets_mend(in, err);
		} else if (r == 0 && sb_mono_ms() - idle_since >= IDLE_MS) {
			r = hub_fence_idle(in->pg, sb_lane_name(in->lane), in->generation, err);
			idle_since = sb_mono_ms();
		} else if (r == 0) {
			struct pollfd fd = { .fd = sb_consumer_fd(in->consumer), .events = POLLIN };
			(void)sb_lane_wait(in->lane, &fd, 1, IDLE_MS); /* whatever woke us: look again */
		}
		if (r < 0)
			return r;
	}
	return 0;
}

static int prune(struct intake *in, struct sb_error *err)
{
	const char *param[] = { in->stage->name };

	return sb_pg_exec(
		in->pg, "DELETE FROM lifecycle.quarantine WHERE stage = $1 AND at < now() - interval '90 days'", 1, param, NULL, err);
}

static int settings_changed(struct intake *in, struct sb_error *err)
{
	int r = sb_pg_begin(in->pg, err);

	if (r == 0)
		r = hub_fence(in->pg, sb_lane_name(in->lane), in->generation, err);
	if (r == 0)
		r = intake_history_set(in, err);
	if (r == 0)
		r = intake_owned_again(in, err);
	if (r == 0)
		r = batch_commit(in, sb_mono_us(), err);
	if (r < 0)
		sb_pg_rollback(in->pg);
	return r;
}

int hub_intake_lane(struct sb_lane *lane, void *user, struct sb_error *err)
{
	const struct hub_stage_lane *what = user;
	struct intake in = { .lane = lane, .w = what->w, .stage = what->stage };

	int r = open_all(&in, err);
	if (r == 0)
		r = prune(&in, err);
	if (r == 0)
		r = settings_changed(&in, err);
	if (r == 0) {
		sb_lane_note(lane, "reading");
		r = intake_run(&in, err);
	}
	close_all(&in);
	return r;
}
