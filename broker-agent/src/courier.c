/* The courier's lane: everything of the agent's own that goes up, but for entities. It owns one producer and three duties:
 *   events     rows of the outbox, in order of id; a row is deleted when the broker has acknowledged it
 *   heartbeat  every interval, never while the one before is still on its way, so that none pile up when the broker is away
 *   transfers  manifest and chunks, see transfer_out.c
 * When the producer breaks, the lane ends with an error: its next run makes a new producer and starts at the first row that is still there, hence at the
 * first unacknowledged. Repeats carry the same bytes and are recognised by their place in the stream. */
#include "courier.h"

#include <string.h>

#include "heartbeat.h"
#include "outbox.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "stagebridge/metric.h"

#define EVENTS_IN_FLIGHT 256
#define IDLE_MS 5000

#define TAG_SHIFT 56
#define TAG_EVENT (1ULL << TAG_SHIFT)
#define TAG_BEAT (2ULL << TAG_SHIFT)
#define TAG_DATA (3ULL << TAG_SHIFT)
#define TAG_KIND (0xffULL << TAG_SHIFT)

struct courier {
	struct agent *a;
	struct sb_db *db;
	struct sb_producer *producer;
	enum sb_code broken;           /* why the producer is of no use any more */
	int64_t sent_id, acked_id, deleted_id;
	unsigned events_in_flight;
	struct sb_stream_out beat;
	bool beat_in_flight;
	int64_t beat_due_ms;
	int64_t started_ms, delivered_ms; /* when the broker last took something; 0: not in this run */
	struct agent_outgoing_set out;
};

static void delivered(void *user, uint64_t tag, enum sb_code code, int64_t offset)
{
	struct courier *c = user;
	uint64_t value = tag & ~TAG_KIND;

	(void)offset;
	if (code != SB_OK) {
		c->broken = code;
		return;
	}
	c->delivered_ms = sb_mono_ms();
	switch (tag & TAG_KIND) {
	case TAG_EVENT:
		c->acked_id = (int64_t)value;
		c->events_in_flight--;
		break;
	case TAG_BEAT:
		c->beat_in_flight = false;
		sb_metric_set(sb_metric("stagebridge_heartbeat_delivered_timestamp_seconds", SB_GAUGE, NULL, "When the broker took the last heartbeat"), NULL,
			(double)(sb_wall_ms() / 1000));
		break;
	case TAG_DATA:
		agent_outgoing_delivered(&c->out, value);
		break;
	}
}

static int forget_acked(struct courier *c, struct sb_error *err)
{
	int64_t n = 0;

	if (c->acked_id == c->deleted_id)
		return 0;
	int r = sb_db_run(c->db, &n, err, "DELETE FROM outbox WHERE id <= ?", "i", c->acked_id);
	if (r < 0)
		return r;
	c->deleted_id = c->acked_id;
	sb_metric_add(sb_metric("stagebridge_events_delivered_total", SB_COUNTER, NULL, "Events of the outbox that the broker acknowledged"), NULL, (double)n);
	return 0;
}

static int send_row(struct courier *c, struct sb_stmt *st, struct sb_error *err)
{
	struct sb_record rec;
	int64_t id = sb_db_int(st, 0);
	size_t n = 0;

	sb_record_init(&rec, sb_db_text(st, 1));
	const void *attrs = sb_db_blob(st, 2, &n);
	int r = agent_attrs_unpack(&rec, attrs, n, err);
	if (r < 0)
		return sb_fail_prefix(err, "outbox row %lld", (long long)id);
	rec.value = sb_db_blob(st, 3, &rec.value_len);
	r = sb_producer_send(c->producer, &rec, TAG_EVENT | (uint64_t)id, err);
	if (r < 0)
		return r;
	c->sent_id = id;
	c->events_in_flight++;
	return 0;
}

static int send_events(struct courier *c, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(c->db, &st, err, "SELECT id, topic, attrs, value FROM outbox WHERE id > ? ORDER BY id", "i", c->sent_id);
	while (r == 0 && c->events_in_flight < EVENTS_IN_FLIGHT && (r = sb_db_step(st, err)) > 0)
		r = send_row(c, st, err);
	return r == SB_EAGAIN ? 0 : r; /* full: deliveries will bring us back */
}

static int send_heartbeat(struct courier *c, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *value = NULL;
	struct sb_record rec;
	int64_t now = sb_mono_ms();

	if (now < c->beat_due_ms)
		return 0;
	c->beat_due_ms = now + c->a->set.heartbeat.interval_ms;
	if (c->beat_in_flight)
		return 0;
	int r = agent_heartbeat_record(c->a, c->db, &c->beat, &rec, &value, err);
	if (r == 0)
		r = sb_producer_send(c->producer, &rec, TAG_BEAT, err);
	if (r == 0)
		c->beat_in_flight = true;
	/* a number that was stamped and not sent would look like a lost record: begin the stream again */
	return r == SB_EAGAIN ? sb_fail(err, SB_EKAFKA, "the producer's queue is full and the heartbeat found no place") : r;
}

/* For people: what the lane is at. A note ends the back-off count, so it must be earned. */
static void tell(struct courier *c, struct sb_lane *lane)
{
	bool busy = c->events_in_flight > 0 || c->beat_in_flight || c->out.in_flight > 0;
	int64_t last = c->delivered_ms ? c->delivered_ms : c->started_ms;

	if (busy && sb_mono_ms() - last > IDLE_MS)
		sb_lane_note(lane, "waiting for the broker");
	else if (c->delivered_ms)
		sb_lane_note(lane, busy ? "sending" : "idle");
	sb_metric_set(sb_metric("stagebridge_courier_in_flight", SB_GAUGE, NULL, "Records on their way to the broker"), NULL,
		(double)(c->events_in_flight + c->out.in_flight + (c->beat_in_flight ? 1 : 0)));
}

static int turn(struct courier *c, struct sb_error *err)
{
	int r = sb_producer_poll(c->producer, 0, err);

	if (r == 0 && c->broken)
		r = sb_fail(err, SB_EKAFKA, "a record was not delivered (%s)", sb_code_name(c->broken));
	if (r == 0)
		r = forget_acked(c, err);
	if (r == 0)
		r = send_heartbeat(c, err);
	if (r == 0)
		r = send_events(c, err);
	if (r == 0)
		r = agent_outgoing_refresh(&c->out, err);
	if (r == 0)
		r = agent_outgoing_send(&c->out, c->producer, TAG_DATA, err);
	return r;
}

static int start(struct courier *c, struct sb_error *err)
{
	uint64_t session = 0;

	int r = agent_state_open(&c->db, c->a, err);
	/* a run of the lane begins the stream anew: numbers of the run before may or may not have arrived */
	if (r == 0)
		r = agent_state_session(c->db, "heartbeat", c->a->session, &session, err);
	if (r == 0)
		r = agent_outgoing_init(&c->out, c->a, c->db, err);
	if (r < 0)
		return r;
	sb_stream_out_init(&c->beat, c->a->set.tenant, c->a->set.stage, "heartbeat", session, true);
	c->started_ms = sb_mono_ms();
	return sb_producer_new(&c->producer, &c->a->kafka, delivered, c, err);
}

int agent_courier_lane(struct sb_lane *lane, void *user, struct sb_error *err)
{
	sb_cleanup(sb_freep) struct courier *c = calloc(1, sizeof(*c));

	if (!c)
		return sb_fail_nomem(err);
	c->a = user;
	int r = start(c, err);
	while (r == 0 && !sb_lane_stopping(lane)) {
		r = turn(c, err);
		if (r < 0)
			break;
		tell(c, lane);
		struct pollfd fd = { .fd = sb_producer_fd(c->producer), .events = POLLIN };
		int64_t wait = c->beat_due_ms - sb_mono_ms();
		(void)sb_lane_wait(lane, &fd, 1, wait < 0 ? 0 : wait < IDLE_MS ? wait : IDLE_MS);
	}
	/* at the end, what is on its way may arrive: it saves repeats after a restart */
	if (r == 0 && sb_producer_flush(c->producer, 2000, NULL) == 0)
		r = forget_acked(c, err);
	sb_producer_free(c->producer);
	agent_outgoing_release(&c->out);
	sb_db_close(c->db);
	return r;
}
