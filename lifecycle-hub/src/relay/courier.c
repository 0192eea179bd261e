/* Lane "<tenant>/courier": what the hub says to its stages. One thread, which owns a connection and a producer per stage.
 *
 * Outbox rows hold the final signed bytes; they go out in order of id per stage and are deleted once the broker has acknowledged them, so a
 * kill in between sends the same bytes again, which the agent knows by their place in the stream. A stage whose broker is down keeps its
 * rows and holds back nobody else: its producer has a bounded number of records in flight and a back-off of its own. */
#include "courier.h"

#include <inttypes.h>
#include <string.h>

#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "stagebridge/metric.h"
#include "store/store.h"

#define LOOK_MS    1000 /* for what another process of this tenant has put down: its wake-ups do not reach us */
#define TELL_MS    5000 /* the depth, and that we are alive */
#define FETCH_ROWS "32"

static void on_delivered(void *user, uint64_t tag, enum sb_code code, int64_t offset)
{
	struct courier_stage *s = user;

	(void)offset;
	if (code != SB_OK)
		return; /* the producer is broken: sb_producer_poll says why, and everything unacknowledged is sent again */
	if (tag & COURIER_TAG_CHUNK) {
		courier_transfer_acked(s, tag);
		return;
	}
	s->acked_id = (int64_t)tag;
	s->events_in_flight--;
}

static void stage_close(struct courier_stage *s)
{
	sb_producer_free(s->producer);
	s->producer = NULL;
	s->events_in_flight = s->chunks_in_flight = 0;
	s->sent_id = s->acked_id;
	courier_transfers_rewind(s);
}

static void stage_trouble(struct courier_stage *s, const struct sb_error *why)
{
	sb_log_limited(SB_WARN, "courier_stage_closed", s->stage->name, why);
	stage_close(s);
	s->retry_ms = sb_mono_ms() + sb_backoff_ms(s->failures, 200, 30000);
	s->failures++;
}

static int stage_open(struct courier_stage *s, struct sb_error *err)
{
	struct sb_kafka_conf conf;

	if (s->producer)
		return 0;
	hub_kafka_conf(&conf, s->stage, sb_lane_name(s->courier->lane));
	return sb_producer_new(&s->producer, &conf, on_delivered, s, err);
}

/* The stored bytes of one row. SB_EPROTO: it could not be read back, which only damage to the table explains. */
static int row_send(struct courier_stage *s, const struct sb_pg_result *res, int i, struct sb_error *err)
{
	sb_cleanup(sb_freep) uint8_t *attrs = NULL, *value = NULL;
	size_t attrs_len = 0, value_len = 0;
	struct sb_record rec;

	int r = sb_pg_get_bytes(res, i, 2, &attrs, &attrs_len, err);
	if (r == 0)
		r = sb_pg_get_bytes(res, i, 3, &value, &value_len, err);
	if (r < 0)
		return r;
	sb_record_init(&rec, sb_pg_get(res, i, 1));
	rec.value = value;
	rec.value_len = value_len;
	r = hub_attrs_unpack(&rec, attrs, attrs_len, err);
	if (r == 0)
		r = sb_producer_send(s->producer, &rec, (uint64_t)sb_pg_get_i64(res, i, 0), err);
	return r;
}

/* Trouble with the broker stays in the stage; the database's goes up */
static int stage_send_events(struct courier_stage *s, bool *ret_more, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	struct sb_error cause = SB_ERROR_INIT;
	char from[HUB_NUM];
	const char *param[] = { s->stage->name, hub_num(from, s->sent_id) };

	if (s->events_in_flight >= COURIER_EVENTS_MAX)
		return 0;
	int r = sb_pg_exec(s->courier->pg,
		"SELECT id, topic, attrs, value FROM sb.outbox WHERE stage = $1 AND id > $2 ORDER BY id LIMIT " FETCH_ROWS, 2, param, &res,
		err);
	if (r < 0 || sb_pg_rows(res) == 0)
		return r;
	r = stage_open(s, &cause);
	for (int i = 0; r == 0 && i < sb_pg_rows(res) && s->events_in_flight < COURIER_EVENTS_MAX; i++) {
		r = row_send(s, res, i, &cause);
		if (r == 0) {
			s->sent_id = sb_pg_get_i64(res, i, 0);
			s->events_in_flight++;
			*ret_more = true;
		}
	}
	if (r < 0 && r != SB_EAGAIN)
		stage_trouble(s, &cause);
	return r == SB_ENOMEM ? sb_fail_nomem(err) : 0;
}

static int stage_send(struct courier_stage *s, bool *ret_more, struct sb_error *err)
{
	struct sb_error cause = SB_ERROR_INIT;

	if (!s->producer && sb_mono_ms() < s->retry_ms)
		return 0;
	int r = stage_send_events(s, ret_more, err);
	if (r < 0 || (!s->producer && sb_mono_ms() < s->retry_ms))
		return r;
	bool work = false;
	for (size_t i = 0; i < COURIER_TRANSFERS_MAX; i++)
		work = work || s->transfer[i].used;
	if (!work)
		return 0;
	r = stage_open(s, &cause);
	if (r == 0)
		r = courier_transfers_send(s, &cause);
	if (r < 0)
		stage_trouble(s, &cause);
	return 0;
}

static int outbox_delete(struct courier *c, struct sb_error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < c->n_stages; i++) {
		struct courier_stage *s = &c->stage[i];
		char to[HUB_NUM];
		const char *param[] = { s->stage->name, hub_num(to, s->acked_id) };
		if (s->acked_id > s->deleted_id)
			r = sb_pg_exec(c->pg, "DELETE FROM sb.outbox WHERE stage = $1 AND id <= $2", 2, param, NULL, err);
	}
	return r;
}

/* What the brokers have acknowledged is done with, in one transaction for all stages */
static int settle(struct courier *c, struct sb_error *err)
{
	bool any = courier_transfers_dirty(c);

	for (size_t i = 0; i < c->n_stages; i++)
		any = any || c->stage[i].acked_id > c->stage[i].deleted_id;
	if (!any)
		return 0;
	int r = sb_pg_begin(c->pg, err);
	if (r == 0)
		r = hub_fence(c->pg, sb_lane_name(c->lane), c->generation, err);
	if (r == 0)
		r = outbox_delete(c, err);
	if (r == 0)
		r = courier_transfers_store(c, err);
	if (r == 0)
		r = sb_pg_commit(c->pg, err);
	if (r < 0) {
		sb_pg_rollback(c->pg);
		return r;
	}
	for (size_t i = 0; i < c->n_stages; i++) {
		c->stage[i].failures = c->stage[i].acked_id > c->stage[i].deleted_id ? 0 : c->stage[i].failures;
		c->stage[i].deleted_id = c->stage[i].acked_id;
	}
	return 0;
}

static void poll_producers(struct courier *c)
{
	for (size_t i = 0; i < c->n_stages; i++) {
		struct sb_error cause = SB_ERROR_INIT;
		if (c->stage[i].producer && sb_producer_poll(c->stage[i].producer, 0, &cause) < 0)
			stage_trouble(&c->stage[i], &cause);
	}
}

/* True when a wake-up or the clock asks to look into the database; an acknowledgement alone does not */
static bool wait_for_work(struct courier *c)
{
	struct pollfd fd[64];
	nfds_t n = 0;

	for (size_t i = 0; i < c->n_stages && n < SB_COUNT(fd); i++) {
		if (c->stage[i].producer)
			fd[n++] = (struct pollfd){ .fd = sb_producer_fd(c->stage[i].producer), .events = POLLIN };
	}
	int64_t left = c->looked_ms + LOOK_MS - sb_mono_ms();
	int ready = sb_lane_wait(c->lane, fd, n, left > 0 ? left : 0);
	return ready == 0;
}

static void depth_tell(struct courier *c)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	struct sb_metric *m =
		sb_metric("stagebridge_hub_outbox_rows", SB_GAUGE, "tenant", "Orders and answers that no broker has acknowledged yet");

	/* a figure for people: the lane has other ways to notice a broken database */
	if (sb_pg_exec(c->pg, "SELECT count(*) FROM sb.outbox", 0, NULL, &res, NULL) == 0)
		sb_metric_set(m, c->w->set->name, (double)sb_pg_get_i64(res, 0, 0));
}

static int look(struct courier *c, struct sb_error *err)
{
	int r = 0;

	c->looked_ms = sb_mono_ms();
	if (c->looked_ms - c->told_ms >= TELL_MS) {
		c->told_ms = c->looked_ms;
		depth_tell(c);
		r = hub_fence_idle(c->pg, sb_lane_name(c->lane), c->generation, err);
	}
	return r < 0 ? r : courier_transfers_load(c, err);
}

static int courier_run(struct courier *c, struct sb_error *err)
{
	bool again = true;

	while (!sb_lane_stopping(c->lane)) {
		bool more = false;
		int r = again ? look(c, err) : 0;
		for (size_t i = 0; r == 0 && i < c->n_stages; i++)
			r = stage_send(&c->stage[i], &more, err);
		poll_producers(c);
		if (r == 0)
			r = settle(c, err);
		if (r < 0)
			return r;
		again = more || wait_for_work(c);
	}
	return 0;
}

static int open_all(struct courier *c, struct sb_error *err)
{
	const struct hub_stage *stage = c->w->set->stages.item;

	c->n_stages = c->w->set->stages.count;
	c->stage = calloc(c->n_stages, sizeof(*c->stage));
	c->chunk = malloc(SB_CHUNK_SEALED);
	if (!c->stage || !c->chunk)
		return sb_fail_nomem(err);
	for (size_t i = 0; i < c->n_stages; i++) {
		c->stage[i].courier = c;
		c->stage[i].stage = &stage[i];
		sb_topic_name(c->stage[i].topic_data, c->w->set->name, stage[i].name, SB_DOWN, SB_DATA);
		for (size_t k = 0; k < COURIER_TRANSFERS_MAX; k++)
			c->stage[i].transfer[k] = (struct courier_transfer){ .to = &c->stage[i], .fd = -1 };
	}
	int r = hub_store_open(&c->pg, c->w, sb_lane_name(c->lane), err);
	if (r == 0)
		r = hub_fence_wait(c->lane, c->pg, c->w, &c->generation, err);
	return r;
}

int hub_courier_lane(struct sb_lane *lane, void *user, struct sb_error *err)
{
	struct courier c = { .lane = lane, .w = user };

	int r = open_all(&c, err);
	if (r == 0) {
		sb_lane_note(lane, "delivering");
		r = courier_run(&c, err);
	}
	for (size_t i = 0; c.stage && i < c.n_stages; i++) {
		sb_producer_free(c.stage[i].producer);
		for (size_t k = 0; k < COURIER_TRANSFERS_MAX; k++)
			courier_transfer_clear(&c.stage[i].transfer[k]);
	}
	free(c.stage);
	free(c.chunk);
	sb_pg_close(c.pg);
	return r;
}
