/* The replica lane: entities that other stages own arrive on down.entity and become read-only views in schema `replica` of this stage's database. The
 * records are the owners' own bytes, forwarded and countersigned by the hub. Rows, stream position and offset commit in one transaction of that
 * database, so that a kill repeats a record as a whole or not at all.
 *
 * A hole in a stream (by sequence, or by position between two sessions) is reported as state "gap" of source "replica" in the heartbeat until a whole
 * snapshot of the type has come; what follows the hole is applied all the same: it is newer than anything stored, and versions make that safe. A
 * snapshot with a hole does not sweep. Refused records and rows go to store.quarantine, the rest goes on. */
#include "replica.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "stagebridge/clock.h"
#include "stagebridge/described.h"
#include "stagebridge/log.h"
#include "stagebridge/metric.h"

#define IDLE_MS 1000

struct copy {                        /* one record on its way into the tables */
	struct replica *rp;
	const struct sb_inrecord *ir;
	const struct sb_meta *meta;
	char type[SB_TYPE_MAX + 1];
	bool down;                   /* what its owner lets go to earlier stages */
	struct replica_stream stream;
	uint64_t incarnation;        /* of a batch */
	bool covers;                 /* it names the positions [from, to) */
	struct sb_position from, to;
};

static void report(struct agent *a, const char *state, const char *what)
{
	struct agent_source_state s = { .name = "replica", .kind = "replica" };

	(void)snprintf(s.state, sizeof(s.state), "%s", state);
	(void)snprintf(s.progress, sizeof(s.progress), "%.150s", what); /* for people; a cut text is fine */
	agent_board_source(a, &s);
}

/* --- reading a record --- */

static int read_type(struct copy *c, struct sb_error *err)
{
	bool snapshot = c->meta->event != SB_EV_ENTITY_CHANGED && c->meta->event != SB_EV_ENTITY_DESCRIBED;
	struct sb_entity_stream_name name;

	if (!sb_entity_stream_parse(c->meta->stream, &name) || name.snapshot != snapshot)
		return sb_fail(err, SB_EPROTO, "stream is not one of an entity type");
	c->down = name.down;
	return sb_format(c->type, sizeof(c->type), err, "%s", name.type);
}

static int read_batch(struct copy *c, struct sb_error *err)
{
	struct sb_batch_reader *reader = NULL;
	const char *from = sb_record_get(&c->ir->rec, "sbfrom");
	const char *to = sb_record_get(&c->ir->rec, "sbto");

	int r = sb_batch_open(&reader, c->ir->rec.value, c->ir->rec.value_len, err);
	if (r < 0)
		return r;
	if (strcmp(sb_batch_shape(reader)->type, c->type) != 0)
		r = sb_fail(err, SB_EPROTO, "batch is of another type than its stream");
	c->incarnation = sb_batch_shape(reader)->incarnation;
	sb_batch_close(reader);
	c->covers = from && to && c->meta->event == SB_EV_ENTITY_CHANGED;
	if (r == 0 && c->covers)
		r = sb_position_parse(from, &c->from, err);
	if (r == 0 && c->covers)
		r = sb_position_parse(to, &c->to, err);
	if (r == 0 && c->covers && sb_position_cmp(c->to, c->from) < 0)
		r = sb_fail(err, SB_EPROTO, "positions run backwards");
	return r;
}

/* --- effects --- */

static int row_refused(void *user, const struct sb_shape *shape, const struct sb_change *change, const struct sb_error *why)
{
	struct copy *c = user;
	struct sb_error err = SB_ERROR_INIT;
	char reason[600];

	(void)shape; /* the type is in the record; keys may be private, so the place names the row */
	(void)snprintf(reason, sizeof(reason), "lsn %" PRIX64 " change %u: %s", change->lsn, change->seq, why->msg); /* larger than a message */
	return replica_quarantine(c->rp, c->ir, "row", reason, &err);
}

static int apply_batch(struct copy *c, struct sb_error *err)
{
	struct sb_entity_tables *t = NULL;
	struct sb_apply_stats stats = { 0 };
	struct sb_position done = { 0, 0 };

	int r = replica_tables(c->rp, c->meta->stage, &t, err);
	/* snapshot rows lie at one position by nature; only the stream's repeats can be told by it */
	if (c->meta->event == SB_EV_ENTITY_CHANGED && c->stream.known && c->stream.incarnation == c->incarnation)
		done = c->stream.done;
	if (r == 0)
		r = sb_entity_apply(t, c->ir->rec.value, c->ir->rec.value_len, done, row_refused, c, &stats, err);
	if (r == 0)
		sb_metric_add(sb_metric("stagebridge_replica_rows_total", SB_COUNTER, NULL, "Changes applied to read-only copies"), NULL, (double)stats.applied);
	return r;
}

/* It was partial, or was given up: nothing is removed. A state "gap" that is reported stays. */
static int snapshot_incomplete(struct copy *c, struct sb_error *err)
{
	struct sb_entity_tables *t = NULL;

	int r = replica_snapshot_broken(c->rp, c->meta->stage, c->type, err);
	if (r == 0)
		r = replica_tables(c->rp, c->meta->stage, &t, err);
	return r < 0 ? r : sb_entity_snapshot_ended(t, c->type, 0, 0, NULL, err);
}

static int snapshot_ended(struct copy *c, const json_t *value, const char *snapshot, struct sb_error *err)
{
	struct sb_entity_tables *t = NULL;
	const char *at = json_string_value(json_object_get(value, "lsn"));
	json_int_t incarnation = json_integer_value(json_object_get(value, "incarnation"));
	uint64_t lsn = 0, swept = 0;
	bool whole = false;

	const json_t *complete = json_object_get(value, "complete");
	if (!json_is_boolean(complete))
		return sb_fail(err, SB_EPROTO, "\"complete\" is not true or false");
	if (json_is_false(complete))
		return snapshot_incomplete(c, err);
	int r = at ? sb_lsn_parse(at, &lsn, err) : sb_fail(err, SB_EPROTO, "\"lsn\" is missing");
	if (r == 0)
		r = replica_snapshot_ended(c->rp, c->meta->stage, c->type, snapshot, &whole, err);
	if (r < 0)
		return r;
	if (!whole) {
		report(c->rp->a, "gap", "a snapshot ended of which records are missing");
		return 0;
	}
	r = replica_tables(c->rp, c->meta->stage, &t, err);
	if (r == 0)
		r = sb_entity_snapshot_ended(t, c->type, (uint64_t)incarnation, lsn, &swept, err);
	if (r == 0)
		r = replica_comment(c->rp, c->meta->stage, c->type, c->down, err);
	if (r == 0) {
		report(c->rp->a, "streaming", "");
		sb_log(SB_INFO, "replica_snapshot_ended", "owner=%s type=%s swept=%" PRIu64, c->meta->stage, c->type, swept);
	}
	return r;
}

static int apply_description(struct copy *c, struct sb_error *err)
{
	struct sb_entity_tables *t = NULL;
	json_t *described = NULL;
	bool news = false;

	int r = sb_described_parse(&described, c->ir->rec.value, c->ir->rec.value_len, err);
	if (r == 0 && strcmp(json_string_value(json_object_get(described, "type")), c->type) != 0)
		r = sb_fail(err, SB_EPROTO, "description is of another type than its stream");
	if (r == 0)
		r = replica_tables(c->rp, c->meta->stage, &t, err);
	if (r == 0)
		r = sb_entity_describe(t, described, &news, err);
	json_decref(described);
	return r;
}

/* A snapshot that goes on names the last record that it builds upon: that, and all before it, must be here. */
static bool has_all(const struct copy *c, uint64_t session, uint64_t sequence)
{
	const struct replica_stream *s = &c->stream;

	return s->known && (s->in.session > session || (s->in.session == session && s->in.sequence >= sequence));
}

static int apply_marker(struct copy *c, struct sb_error *err)
{
	json_auto_t *value = json_loadb(c->ir->rec.value, c->ir->rec.value_len, JSON_REJECT_DUPLICATES, NULL);
	struct sb_entity_tables *t = NULL;
	const char *snapshot = json_string_value(json_object_get(value, "snapshot"));
	const char *type = json_string_value(json_object_get(value, "type"));

	if (!snapshot || !type || strcmp(type, c->type) != 0)
		return sb_fail(err, SB_EPROTO, "\"snapshot\" or \"type\" is missing or wrong");
	if (c->meta->event == SB_EV_SNAPSHOT_ENDED)
		return snapshot_ended(c, value, snapshot, err);
	const json_t *session = json_object_get(value, "after_session"), *sequence = json_object_get(value, "after_sequence");
	if (!json_is_integer(session) || !json_is_integer(sequence))
		return sb_fail(err, SB_EPROTO, "\"after_session\" or \"after_sequence\" is not a number");
	int r = replica_tables(c->rp, c->meta->stage, &t, err);
	if (r == 0)
		r = sb_entity_snapshot_begun(t, c->type, err);
	if (r < 0 || json_is_true(json_object_get(value, "partial")))
		return r;
	if (json_integer_value(session) == 0)
		return replica_snapshot_begun(c->rp, c->meta->stage, c->type, snapshot, err);
	return replica_snapshot_goes_on(c->rp, c->meta->stage, c->type, snapshot,
		has_all(c, (uint64_t)json_integer_value(session), (uint64_t)json_integer_value(sequence)), err);
}

/* --- order --- */

static bool positions_gap(const struct copy *c)
{
	const struct replica_stream *s = &c->stream;

	/* a subscriber that came late, or a new life of the source: a snapshot follows */
	if (!c->covers || !s->known || c->incarnation > s->incarnation || s->done.lsn == 0)
		return false;
	return sb_position_cmp(c->from, s->done) > 0;
}

static int on_gap(struct copy *c, struct sb_error *err)
{
	char text[160];

	(void)snprintf(text, sizeof(text), "records of %s/%s are missing", c->meta->stage, c->meta->stream); /* a cut text is fine */
	sb_log(SB_ERROR, "stream_gap", "source=%s session=%" PRIu64 " sequence=%" PRIu64, c->meta->source, c->meta->session, c->meta->sequence);
	report(c->rp->a, "gap", text);
	if (c->meta->event == SB_EV_ENTITY_CHANGED || c->meta->event == SB_EV_ENTITY_DESCRIBED)
		return 0;
	return replica_snapshot_broken(c->rp, c->meta->stage, c->type, err);
}

static void advance(struct copy *c)
{
	struct replica_stream *s = &c->stream;

	if (c->covers && (!s->known || c->incarnation != s->incarnation || sb_position_cmp(c->to, s->done) > 0))
		s->done = c->to;
	if (c->incarnation)
		s->incarnation = c->incarnation;
	sb_stream_advance(&s->in, c->meta);
	s->made_ms = c->meta->time_ms;
	s->known = true;
}

static int judge(struct copy *c, bool *ret_apply, struct sb_error *err)
{
	enum sb_verdict v = sb_stream_judge(c->stream.known ? &c->stream.in : NULL, c->meta);

	*ret_apply = v == SB_APPLY || v == SB_NEW_SESSION || v == SB_GAP;
	if (v == SB_ZOMBIE || v == SB_EQUIVOCATION) {
		sb_log(SB_ERROR, "stream_refused", "source=%s verdict=%s session=%" PRIu64 " sequence=%" PRIu64, c->meta->source, sb_verdict_name(v),
			c->meta->session, c->meta->sequence);
		return replica_quarantine(c->rp, c->ir, sb_verdict_name(v), "its place in the stream is not its own", err);
	}
	/* the first record that a late subscriber sees may be any: the resync that the hub orders for it fills what lies before */
	bool first = v == SB_GAP && !c->stream.known;
	if ((v == SB_GAP && !first) || (*ret_apply && positions_gap(c)))
		return on_gap(c, err);
	return 0;
}

static int take_verified(struct copy *c, struct sb_error *err)
{
	bool batch = c->meta->event == SB_EV_ENTITY_CHANGED || c->meta->event == SB_EV_SNAPSHOT_ROWS;
	bool apply = false;

	int r = read_type(c, err);
	if (r == 0 && batch)
		r = read_batch(c, err);
	if (r == 0)
		r = replica_stream_load(c->rp, c->meta->source, &c->stream, err);
	if (r == 0)
		r = judge(c, &apply, err);
	if (r == 0 && apply && c->meta->event == SB_EV_ENTITY_DESCRIBED)
		r = apply_description(c, err);
	else if (r == 0 && apply)
		r = batch ? apply_batch(c, err) : apply_marker(c, err);
	if (r == 0 && apply) {
		advance(c);
		r = replica_stream_store(c->rp, c->meta->source, &c->stream, err);
	}
	return r < 0 ? r : replica_offset_store(c->rp, c->ir->offset + 1, err);
}

/* c: verified, its place in the stream is stored with the refusal; NULL: nothing in it can be believed */
static int take_refused(struct replica *rp, const struct sb_inrecord *ir, struct copy *c, const char *class, const char *reason, struct sb_error *err)
{
	int r = sb_pg_begin(rp->pg, err);

	if (r < 0)
		return r;
	r = replica_quarantine(rp, ir, class, reason, err);
	if (r == 0 && c) {
		r = replica_stream_load(rp, c->meta->source, &c->stream, err);
		c->covers = false; /* its changes are not in the tables: the positions stay open, as a gap */
		if (r == 0 && sb_stream_judge(c->stream.known ? &c->stream.in : NULL, c->meta) != SB_ZOMBIE) {
			c->incarnation = c->stream.incarnation;
			advance(c);
			r = replica_stream_store(rp, c->meta->source, &c->stream, err);
		}
	}
	if (r == 0)
		r = replica_offset_store(rp, ir->offset + 1, err);
	if (r == 0)
		r = sb_pg_commit(rp->pg, err);
	if (r < 0)
		sb_pg_rollback(rp->pg);
	return r;
}

/* The record's fault; anything else (no connection, no rights, no room) is ours and heals or is healed, while the record waits. */
static bool poison(int r)
{
	return r == SB_EPROTO || r == SB_EDATA || r == SB_ETOOBIG || r == SB_EINVAL;
}

static int take(struct replica *rp, const struct sb_inrecord *ir, struct sb_error *err)
{
	struct sb_meta meta;
	struct sb_error why = SB_ERROR_INIT;
	struct copy c = { .rp = rp, .ir = ir, .meta = &meta };

	if (ir->malformed != SB_OK)
		return take_refused(rp, ir, NULL, "malf", ir->malformed_reason, err);
	int r = sb_record_verify(&ir->rec, rp->a->keyring, rp->a->set.tenant, rp->a->set.stage, sb_wall_ms(), &meta, &why);
	if (r < 0)
		return take_refused(rp, ir, NULL, why.state[0] ? why.state : "malf", why.msg, err);
	r = sb_pg_begin(rp->pg, err);
	if (r < 0)
		return r;
	r = take_verified(&c, &why);
	if (r == 0)
		r = sb_pg_commit(rp->pg, &why);
	if (r == 0)
		return 0;
	sb_pg_rollback(rp->pg);
	if (poison(r))
		return take_refused(rp, ir, &c, "data", why.msg, err);
	return sb_fail(err, (enum sb_code)r, "%s", why.msg);
}

/* --- the lane --- */

static int assign(struct replica *rp, struct sb_error *err)
{
	struct sb_assignment topic = { .topic = rp->a->topic_down[SB_ENTITY] };

	int r = replica_offset_load(rp, &topic.offset, err);
	return r < 0 ? r : sb_consumer_assign(rp->consumer, &topic, 1, err);
}

/* The offset is gone from the broker: goes on with the oldest record that there is. The hole shows in the streams and is reported from there. */
static int recover(struct replica *rp, const struct sb_error *lost, struct sb_error *err)
{
	int64_t low = 0, high = 0;

	sb_log_error(SB_ERROR, "offset_lost", lost, "lane=%s", "replica");
	report(rp->a, "gap", lost->msg);
	int r = sb_consumer_watermarks(rp->consumer, rp->a->topic_down[SB_ENTITY], &low, &high, err);
	if (r == 0)
		r = replica_offset_store(rp, low, err);
	return r < 0 ? r : assign(rp, err);
}

static int turn(struct replica *rp, bool *ret_idle, struct sb_error *err)
{
	struct sb_inrecord ir;

	int r = sb_consumer_poll(rp->consumer, 0, &ir, err);
	*ret_idle = r == 0;
	if (r == SB_ENOTFOUND) {
		struct sb_error lost = *err;
		return recover(rp, &lost, err);
	}
	if (r <= 0)
		return r;
	r = take(rp, &ir, err);
	sb_inrecord_release(&ir);
	return r;
}

static int run(struct sb_lane *lane, struct replica *rp, struct sb_error *err)
{
	int64_t started_ms = sb_mono_ms();

	int r = replica_prepare(rp, err);
	if (r == 0)
		r = assign(rp, err);
	if (r == 0)
		report(rp->a, "streaming", "");
	while (r == 0 && !sb_lane_stopping(lane)) {
		bool idle = false;
		r = turn(rp, &idle, err);
		/* a note ends the back-off count: it must be earned */
		if (r == 0 && (!idle || sb_mono_ms() - started_ms > IDLE_MS * 5))
			sb_lane_note(lane, idle ? "listening" : "copying");
		if (r == 0 && idle) {
			struct pollfd fd = { .fd = sb_consumer_fd(rp->consumer), .events = POLLIN };
			(void)sb_lane_wait(lane, &fd, 1, IDLE_MS);
		}
	}
	return r;
}

int agent_replica_lane(struct sb_lane *lane, void *user, struct sb_error *err)
{
	sb_cleanup(sb_freep) struct replica *rp = calloc(1, sizeof(*rp));

	if (!rp)
		return sb_fail_nomem(err);
	rp->a = user;
	int r = sb_pg_open(&rp->pg, rp->a->set.replica.conninfo, "stagebridge replica", err);
	if (r == 0)
		r = sb_consumer_new(&rp->consumer, &rp->a->kafka, err);
	if (r == 0)
		r = run(lane, rp, err);
	sb_consumer_free(rp->consumer);
	for (unsigned i = 0; i < rp->n_owners; i++)
		sb_entity_tables_free(rp->owner[i].tables);
	sb_pg_close(rp->pg);
	if (r < 0)
		report(rp->a, "failing", err->msg);
	return r;
}
