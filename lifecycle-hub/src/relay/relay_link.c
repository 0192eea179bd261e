/* The life of a link: closed -> reading <-> waiting for acknowledgements -> reading; any trouble with a broker closes it, and it opens
 * again after a back-off from the positions that are stored. The relay lane's thread.
 *
 * To another stage: records are forwarded first and the position is stored once the target's broker has acknowledged all of them; what is
 * forwarded again after a kill falls to the receiver's own count. To the hub: spool and position commit together, the spool synced before.
 */
#include <stdio.h>
#include <string.h>

#include "intake/quarantine.h"
#include "relay.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "store/store.h"

#define BATCH_RECORDS 64
#define BATCH_BYTES   (4 * 1024 * 1024)
#define REOPEN_MS     200

static int link_make(struct relay *relay, const struct hub_stage *to, bool entities, struct sb_error *err)
{
	struct relay_link **grown = realloc(relay->link, (relay->n_links + 1) * sizeof(struct relay_link *));
	if (!grown)
		return sb_fail_nomem(err);
	relay->link = grown;
	struct relay_link *l = calloc(1, sizeof(*l));
	if (!l)
		return sb_fail_nomem(err);
	l->relay = relay;
	l->to = to;
	l->entities = entities;
	l->poison[RELAY_DATA] = l->poison[RELAY_ENTITY] = -1;
	sb_topic_name(l->topic[RELAY_DATA], relay->w->set->name, relay->stage->name, SB_UP, SB_DATA);
	sb_topic_name(l->topic[RELAY_ENTITY], relay->w->set->name, relay->stage->name, SB_UP, SB_ENTITY);
	relay->link[relay->n_links++] = l;
	int r = sb_format(l->target, sizeof(l->target), err, "%s", to ? to->name : RELAY_HUB);
	if (r == 0)
		r = sb_format(l->position, sizeof(l->position), err, "relay/%s", l->target);
	return r;
}

int relay_links_make(struct relay *relay, struct sb_error *err)
{
	const struct hub_tenant *t = relay->w->set;
	const struct hub_stage *stage = t->stages.item;
	const struct hub_type *type = t->types.item;

	int r = link_make(relay, NULL, false, err);
	for (size_t i = 0; r == 0 && i < t->stages.count; i++) {
		bool entities = false;
		for (size_t k = 0; k < t->types.count; k++)
			entities = entities ||
				   (strcmp(type[k].owner, relay->stage->name) == 0 && relay_subscribes(t, &type[k], stage[i].name));
		if (entities || relay_edge(t, relay->stage->name, stage[i].name))
			r = link_make(relay, &stage[i], entities, err);
	}
	return r;
}

static void link_close(struct relay_link *l)
{
	sb_consumer_free(l->consumer);
	sb_producer_free(l->producer);
	l->consumer = NULL;
	l->producer = NULL;
	for (size_t i = 0; i < l->n_transfers; i++)
		relay_transfer_clear(&l->transfer[i]);
	l->n_transfers = 0;
	l->records = 0;
	l->bytes = 0;
	l->state = RELAY_CLOSED;
}

void relay_link_free(struct relay_link *l)
{
	if (!l)
		return;
	link_close(l);
	free(l);
}

static void link_trouble(struct relay_link *l, const struct sb_error *why)
{
	sb_log_limited(SB_WARN, "relay_link_closed", l->target, why);
	link_close(l);
	l->retry_ms = sb_mono_ms() + sb_backoff_ms(l->failures, 200, 30000);
	l->failures++;
}

int relay_begin(struct relay_link *l, struct sb_error *err)
{
	int r = sb_pg_begin(l->relay->pg, err);
	if (r == 0)
		r = hub_fence(l->relay->pg, sb_lane_name(l->relay->lane), l->relay->generation, err);
	return r;
}

static int positions_load(struct relay_link *l, struct sb_error *err)
{
	for (int i = 0; i < RELAY_TOPICS; i++) {
		sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
		const char *param[] = { l->position, l->topic[i] };
		int r = sb_pg_exec(
			l->relay->pg, "SELECT next_offset FROM sb.position WHERE consumer = $1 AND topic = $2", 2, param, &res, err);
		if (r < 0)
			return r;
		l->next[i] = sb_pg_rows(res) ? sb_pg_get_i64(res, 0, 0) : SB_OFFSET_BEGINNING;
		l->moved[i] = false;
	}
	return 0;
}

static int link_assign(struct relay_link *l, struct sb_error *err)
{
	struct sb_assignment a[RELAY_TOPICS];

	for (int i = 0; i < RELAY_TOPICS; i++)
		a[i] = (struct sb_assignment){ l->topic[i], l->next[i] };
	return sb_consumer_assign(l->consumer, a, l->entities ? RELAY_TOPICS : 1, err);
}

static void on_delivered(void *user, uint64_t tag, enum sb_code code, int64_t offset)
{
	(void)user; /* what counts is that nothing is in flight any more; failures come out of sb_producer_poll */
	(void)tag;
	(void)code;
	(void)offset;
}

/* *ret_db: the error is the database's, not the brokers' */
static int link_open(struct relay_link *l, bool *ret_db, struct sb_error *err)
{
	struct sb_kafka_conf conf;
	int64_t low = 0, high = 0;

	*ret_db = true;
	int r = positions_load(l, err);
	if (r < 0)
		return r;
	*ret_db = false;
	hub_kafka_conf(&conf, l->relay->stage, sb_lane_name(l->relay->lane));
	r = sb_consumer_new(&l->consumer, &conf, err);
	if (r == 0 && l->entities && l->next[RELAY_ENTITY] < 0)
		r = sb_consumer_watermarks(l->consumer, l->topic[RELAY_ENTITY], &low, &high, err);
	if (r == 0)
		r = link_assign(l, err);
	if (r == 0 && l->to) {
		hub_kafka_conf(&conf, l->to, sb_lane_name(l->relay->lane));
		r = sb_producer_new(&l->producer, &conf, on_delivered, l, err);
	}
	if (r == 0 && l->entities) {
		/* a topic that is there from its first record on fills a new subscriber by itself */
		*ret_db = true;
		r = relay_subscribe(l, l->next[RELAY_ENTITY] >= 0 || low > 0, err);
	}
	if (r == 0)
		l->state = RELAY_READING;
	return r;
}

int relay_forward(struct relay_link *l, struct sb_inrecord *in, const struct sb_meta *meta, enum sb_class class, struct sb_error *err)
{
	sb_topic_name(in->rec.topic, l->relay->w->set->name, l->target, SB_DOWN, class);
	int r = sb_record_hop(&in->rec, l->relay->w->identity, l->target, meta->sequence, err);
	if (r == 0)
		r = sb_producer_send(l->producer, &in->rec, 0, err);
	if (r == 0) {
		sb_metric_add(l->relay->m_forwarded, l->relay->label, 1);
		sb_metric_add(l->relay->m_bytes, l->relay->label, (double)in->rec.value_len);
	}
	return r;
}

static int positions_store(struct relay_link *l, struct sb_error *err)
{
	int r = 0;

	for (int i = 0; r == 0 && i < RELAY_TOPICS; i++) {
		char offset[HUB_NUM];
		const char *param[] = { l->position, l->topic[i], hub_num(offset, l->next[i]) };
		if (!l->moved[i])
			continue;
		r = sb_pg_exec(l->relay->pg,
			"INSERT INTO sb.position (consumer, topic, next_offset) VALUES ($1, $2, $3) "
			"ON CONFLICT (consumer, topic) DO UPDATE SET next_offset = excluded.next_offset, updated_at = now()",
			3, param, NULL, err);
		if (r == 0)
			l->moved[i] = false;
	}
	return r;
}

static int link_commit(struct relay_link *l, struct sb_error *err)
{
	int r = 0;

	if (!l->tx)
		r = relay_begin(l, err);
	if (r == 0 && !l->to)
		r = relay_spool_sync(l, err);
	if (r == 0)
		r = positions_store(l, err);
	if (r == 0)
		r = sb_pg_commit(l->relay->pg, err);
	if (r < 0)
		sb_pg_rollback(l->relay->pg);
	l->tx = false;
	if (r < 0)
		return r;
	l->records = 0;
	l->bytes = 0;
	l->failures = 0;
	l->state = RELAY_READING;
	if (l->wake_courier)
		hub_wake(l->relay->w, "courier");
	if (l->wake_git)
		hub_wake(l->relay->w, "git");
	l->wake_courier = l->wake_git = false;
	if (l->reopen) {
		link_close(l);
		l->retry_ms = sb_mono_ms() + REOPEN_MS;
	}
	l->reopen = false;
	return 0;
}

/* What the database refused last time: the batch was rolled back with it, now it alone is put aside */
static int poison_take(struct relay_link *l, const struct sb_inrecord *in, int i, struct sb_error *err)
{
	struct hub_refusal why = { .stage = l->relay->stage->name, .class = "data", .reason = l->poison_reason };

	l->poison[i] = -1;
	if (l->to)
		return relay_refuse(l, in, "data", l->poison_reason, l->target, err);
	return hub_quarantine(l->relay->pg, in, &why, err);
}

static int record_take(struct relay_link *l, struct sb_inrecord *in, struct sb_error *err)
{
	int i = strcmp(in->rec.topic, l->topic[RELAY_DATA]) == 0 ? RELAY_DATA : RELAY_ENTITY;
	int64_t offset = in->offset;
	size_t n = in->rec.value_len;
	int r;

	if (offset == l->poison[i])
		r = poison_take(l, in, i, err);
	else if (i == RELAY_ENTITY)
		r = relay_entity(l, in, err);
	else
		r = l->to ? relay_data_stage(l, in, err) : relay_data_hub(l, in, err);
	if (r < 0 && err && hub_is_poison(err, false)) {
		l->poison[i] = offset;
		(void)snprintf(l->poison_reason, sizeof(l->poison_reason), "%s", err->msg); /* a cut reason is good enough */
	}
	if (r < 0)
		return r;
	l->next[i] = offset + 1;
	l->moved[i] = true;
	l->records++;
	l->bytes += n;
	return 0;
}

/* The broker no longer has what comes next. Intake has put the loss of entities on record; the copies here are mended by a resync as well.
 */
static int offset_gone(struct relay_link *l, struct sb_error *err)
{
	struct hub_refusal why = { .stage = l->relay->stage->name,
		.class = "gap",
		.reason = "records are gone from the broker: the relay continues with the oldest that it has" };
	int r = 0, topics = l->entities ? RELAY_TOPICS : 1, mended = 0;

	for (int i = 0; r == 0 && i < topics; i++) {
		int64_t low = 0, high = 0;
		r = sb_consumer_watermarks(l->consumer, l->topic[i], &low, &high, err);
		if (r < 0 || l->next[i] < 0 || (l->next[i] >= low && l->next[i] <= high))
			continue;
		if (!l->tx)
			r = relay_begin(l, err);
		l->tx = true;
		if (r == 0)
			r = hub_quarantine_offset(l->relay->pg, l->topic[i], l->next[i], &why, err);
		const char *forget[] = { l->target, l->relay->stage->name };
		if (r == 0 && i == RELAY_ENTITY)
			r = sb_pg_exec(l->relay->pg,
				"DELETE FROM sb.subscription s USING lifecycle.entity_owner o WHERE s.stage = $1 AND o.type = s.type AND "
				"o.owner = $2",
				2, forget, NULL, err);
		l->next[i] = low;
		l->moved[i] = true;
		mended++;
	}
	if (r == 0 && !mended)
		return sb_fail(err, SB_EKAFKA, "the broker refuses offsets that it says it has");
	if (r == 0)
		r = link_commit(l, err);
	if (r == 0) {
		/* opened anew: the forgotten subscriptions order their resync */
		link_close(l);
		l->retry_ms = 0;
	}
	return r;
}

static int batch_end(struct relay_link *l, struct sb_error *err)
{
	if (l->producer && sb_producer_in_flight(l->producer) > 0) {
		l->state = RELAY_WAITING;
		return 0;
	}
	return link_commit(l, err);
}

/* Reads what is there, up to the limits. Kafka's errors end up in link_trouble, the database's go up. */
static int link_read(struct relay_link *l, struct sb_error *err)
{
	struct sb_inrecord in;
	int r = 0, got = 0;

	while (l->records < BATCH_RECORDS && l->bytes < BATCH_BYTES) {
		got = sb_consumer_poll(l->consumer, 0, &in, err);
		if (got != 1)
			break;
		if (!l->to && !l->tx) {
			r = relay_begin(l, err);
			l->tx = true;
		}
		if (r == 0)
			r = record_take(l, &in, err);
		sb_inrecord_release(&in);
		if (r < 0)
			break;
	}
	bool hold = r == SB_EAGAIN;
	if (r < 0 && !hold)
		return r;
	if (got < 0 && got != SB_ENOTFOUND && l->records == 0)
		return got;
	if (got == SB_ENOTFOUND && l->records == 0)
		return offset_gone(l, err);
	/* not decided yet, or trouble with the broker after good records: store those, then look at the same place again */
	l->reopen = hold || got < 0;
	unsigned records = l->records;
	if (records || l->tx || l->reopen) {
		r = batch_end(l, err);
		if (r < 0)
			return r;
	}
	return records > 0;
}

static int link_wait(struct relay_link *l, struct sb_error *err)
{
	int r = sb_producer_poll(l->producer, 0, err);
	if (r < 0)
		return r;
	if (sb_producer_in_flight(l->producer) > 0)
		return 0;
	r = link_commit(l, err);
	return r < 0 ? r : 1;
}

int relay_link_step(struct relay_link *l, struct sb_error *err)
{
	struct sb_error cause = SB_ERROR_INIT;
	bool db = false;
	int r = 0;

	if (l->state == RELAY_CLOSED) {
		if (sb_mono_ms() < l->retry_ms)
			return 0;
		r = link_open(l, &db, &cause);
		r = r < 0 ? r : 1;
	} else if (l->state == RELAY_WAITING) {
		r = link_wait(l, &cause);
	} else {
		r = link_read(l, &cause);
	}
	if (r >= 0)
		return r;
	if (l->tx)
		sb_pg_rollback(l->relay->pg);
	l->tx = false;
	l->reopen = false;
	bool opening = l->state == RELAY_CLOSED && !db;
	if (opening || cause.code == SB_EKAFKA || hub_is_poison(&cause, false)) {
		link_trouble(l, &cause);
		return 0;
	}
	if (err)
		*err = cause;
	return r;
}
