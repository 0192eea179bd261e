/* The consumer: partition 0 of named topics from offsets that the caller keeps in its own store. It uses no consumer group at all (librdkafka's
 * partition consumer): no coordinator connection, no group rights, no rebalance, nothing committed to the broker.
 *
 * Thread: the lane that made it. All partitions and the handle's log and error events flow into one queue, so one descriptor wakes the lane.
 * Owns: the handle, the queue, one topic object per assigned topic, the wake descriptor. A returned record owns its librdkafka message
 * until sb_inrecord_release.
 * librdkafka keeps silent for ever about a topic that does not exist, so an idle consumer asks for its topics itself now and then.
 * librdkafka before 2.2 looks at a queue that was full only once a second, so a reader of a backlog gives it something to wake up for: see nudge().
 * Pausing stops the partition and drops what was fetched; resuming starts it at the next offset the caller has not seen: librdkafka 2.0.2 has
 * lost its place around its own pause and resume. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "kafka_private.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "stagebridge/text.h"

#define WATERMARK_TIMEOUT_MS 5000
#define FIRST_CHECK_MS 3000   /* topics that bring nothing are looked up: soon after they were assigned, */
#define NEXT_CHECK_MS 30000   /* then now and then */
#define CHECK_TIMEOUT_MS 500
#define NUDGE_TIMEOUT_MS 100

struct part {
	char name[SB_TOPIC_MAX];
	rd_kafka_topic_t *rkt;
	int64_t next; /* offset that the caller gets next, or SB_OFFSET_BEGINNING */
	bool started;
};

struct sb_consumer {
	rd_kafka_t *rk;
	rd_kafka_queue_t *main, *queue;
	int fd;
	struct part *part;
	size_t n_parts;
	bool busy;         /* something came since the last look at the clock */
	uint64_t nudge_bytes, taken_bytes; /* nudged after so many; taken since the last time */
	int64_t check_at;
};

static void on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
	(void)rk;
	(void)opaque;
	/* transient by nature (brokers down, resolve failures): librdkafka retries for ever and the caller goes on polling */
	if (code != RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
		return;
	struct sb_error err = SB_ERROR_INIT;
	(void)sb_fail(&err, SB_EKAFKA, "%s", reason); /* fills err for the line below */
	sb_log_limited(SB_WARN, "broker_unreachable", rd_kafka_name(rk), &err);
}

static int consumer_conf(rd_kafka_conf_t **ret, const struct sb_kafka_conf *conf, struct sb_error *err)
{
	char kbytes[24], wait_ms[24];
	uint64_t bytes = conf->queue_bytes ? conf->queue_bytes : SB_KAFKA_QUEUE_BYTES;
	int rc = sb_format(kbytes, sizeof(kbytes), err, "%" PRIu64, bytes / 1024 ? bytes / 1024 : 1);
	if (rc == SB_OK)
		rc = sb_format(wait_ms, sizeof(wait_ms), err, "%" PRId64, conf->fetch_wait_ms > 0 ? conf->fetch_wait_ms : 100);
	if (rc)
		return rc;
	const struct sb_kafka_prop props[] = {
		{ "enable.auto.commit", "false" },
		{ "enable.auto.offset.store", "false" },
		{ "auto.offset.reset", "error" },
		{ "check.crcs", "true" },
		{ "isolation.level", "read_committed" },
		{ "enable.partition.eof", "false" },
		{ "queued.max.messages.kbytes", kbytes },
		{ "queued.min.messages", "20000" },
		{ "message.max.bytes", SB_KAFKA_MESSAGE_BYTES },
		{ "fetch.message.max.bytes", SB_KAFKA_MESSAGE_BYTES },
		{ "fetch.max.bytes", "8388608" },
		{ "receive.message.max.bytes", "16777216" },
		{ "fetch.wait.max.ms", wait_ms },
		{ "fetch.error.backoff.ms", "50" },
		{ "log.queue", "true" },
	};
	return sb_kafka_conf_make(ret, conf, props, SB_COUNT(props), err);
}

int sb_consumer_new(struct sb_consumer **ret, const struct sb_kafka_conf *conf, struct sb_error *err)
{
	rd_kafka_conf_t *rkc = NULL;
	struct sb_consumer *c = calloc(1, sizeof(*c));

	if (!c)
		return sb_fail_nomem(err);
	c->fd = -1;
	c->nudge_bytes = (conf->queue_bytes ? conf->queue_bytes : SB_KAFKA_QUEUE_BYTES) / 4;
	int rc = consumer_conf(&rkc, conf, err);
	if (rc)
		goto out;
	rd_kafka_conf_set_error_cb(rkc, on_error);
	rc = sb_kafka_handle(&c->rk, RD_KAFKA_CONSUMER, rkc, err);
	if (rc)
		goto out;
	c->queue = rd_kafka_queue_new(c->rk);
	c->main = rd_kafka_queue_get_main(c->rk);
	rd_kafka_queue_forward(c->main, c->queue);
	rd_kafka_set_log_queue(c->rk, c->queue);
	rc = sb_kafka_wake_open(&c->fd, c->queue, err);
	if (rc == SB_OK)
		*ret = SB_TAKE(c);
out:
	sb_consumer_free(c);
	return rc;
}

static int part_start(struct sb_consumer *c, struct part *part, struct sb_error *err)
{
	if (part->started)
		return SB_OK;
	if (rd_kafka_consume_start_queue(part->rkt, 0, part->next, c->queue))
		return sb_kafka_fail(err, rd_kafka_last_error(), part->name, NULL);
	part->started = true;
	c->check_at = sb_mono_ms() + FIRST_CHECK_MS;
	return SB_OK;
}

static void part_stop(struct part *part)
{
	if (part->started)
		rd_kafka_consume_stop(part->rkt, 0);
	part->started = false;
}

static void unassign(struct sb_consumer *c)
{
	for (size_t i = 0; i < c->n_parts; i++) {
		part_stop(&c->part[i]);
		if (c->part[i].rkt)
			rd_kafka_topic_destroy(c->part[i].rkt);
	}
	free(c->part);
	c->part = NULL;
	c->n_parts = 0;
}

void sb_consumer_free(struct sb_consumer *c)
{
	if (!c)
		return;
	unassign(c);
	if (c->queue) {
		rd_kafka_queue_io_event_enable(c->queue, -1, NULL, 0);
		rd_kafka_queue_forward(c->main, NULL);
		rd_kafka_queue_destroy(c->main);
		rd_kafka_queue_destroy(c->queue);
	}
	if (c->rk)
		rd_kafka_destroy(c->rk);
	sb_closep(&c->fd);
	free(c);
}

int sb_consumer_assign(struct sb_consumer *c, const struct sb_assignment *a, size_t n, struct sb_error *err)
{
	int rc = SB_OK;

	unassign(c);
	c->part = calloc(n ? n : 1, sizeof(*c->part));
	if (!c->part)
		return sb_fail_nomem(err);
	for (size_t i = 0; i < n && rc == SB_OK; i++) {
		struct part *part = &c->part[i];
		if (a[i].offset < 0 && a[i].offset != SB_OFFSET_BEGINNING)
			rc = sb_fail(err, SB_EINVAL, "topic \"%s\": offset %" PRId64 " cannot be read from", a[i].topic, a[i].offset);
		if (rc == SB_OK)
			rc = sb_format(part->name, sizeof(part->name), err, "%s", a[i].topic);
		if (rc)
			break;
		part->next = a[i].offset;
		part->rkt = rd_kafka_topic_new(c->rk, part->name, NULL);
		if (!part->rkt) {
			rc = sb_kafka_fail(err, rd_kafka_last_error(), part->name, NULL);
			break;
		}
		c->n_parts = i + 1;
		rc = part_start(c, part, err);
	}
	if (rc)
		unassign(c);
	return rc;
}

static struct part *find_part(struct sb_consumer *c, const char *topic)
{
	for (size_t i = 0; i < c->n_parts; i++)
		if (strcmp(c->part[i].name, topic) == 0)
			return &c->part[i];
	return NULL;
}

static int poll_failed(struct sb_consumer *c, const rd_kafka_message_t *m, struct sb_error *err)
{
	const char *topic = m->rkt ? rd_kafka_topic_name(m->rkt) : "";
	const struct part *part = find_part(c, topic);
	int64_t low, high;

	if (m->err != RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET && m->err != RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE)
		return sb_kafka_fail(err, m->err, topic, rd_kafka_message_errstr(m));
	if (sb_consumer_watermarks(c, topic, &low, &high, NULL) != SB_OK)
		return sb_fail(err, SB_ENOTFOUND, "topic \"%s\": offset %" PRId64 " is gone (%s)", topic, part ? part->next : -1,
			rd_kafka_message_errstr(m));
	return sb_fail(err, SB_ENOTFOUND, "topic \"%s\": offset %" PRId64 " is gone, the broker holds %" PRId64 " to %" PRId64, topic,
		part ? part->next : -1, low, high);
}

static int bad(struct sb_inrecord *in, const char *what, const char *name)
{
	in->malformed = SB_EPROTO;
	/* a cut reason is good enough: the name comes from the wire and may be long */
	(void)snprintf(in->malformed_reason, sizeof(in->malformed_reason), "%s%s%s%s", what, *name ? " \"" : "", name, *name ? "\"" : "");
	return SB_EPROTO;
}

static int read_header(struct sb_inrecord *in, const char *name, const void *value, size_t n)
{
	struct sb_error err = SB_ERROR_INIT;
	char text[SB_ATTR_VALUE_MAX + 1];

	if (strcmp(name, "content-type") == 0)
		name = "datacontenttype";
	else if (strncmp(name, "ce_", 3) == 0)
		name += 3;
	else
		return SB_OK; /* not an attribute: left alone by the contract, and not under the signature */
	if (!value)
		return bad(in, "attribute without a value", name);
	if (n > SB_ATTR_VALUE_MAX)
		return bad(in, "attribute is too long", name);
	if (memchr(value, '\0', n))
		return bad(in, "attribute holds a NUL", name);
	memcpy(text, value, n);
	text[n] = '\0';
	return sb_record_set(&in->rec, name, text, &err) == SB_OK ? SB_OK : bad(in, err.msg, "");
}

static void read_record(struct sb_inrecord *in, rd_kafka_message_t *m)
{
	rd_kafka_headers_t *headers;

	in->handle = m;
	in->offset = m->offset;
	in->malformed = SB_OK;
	in->malformed_reason[0] = '\0';
	in->raw_key = m->key;
	in->raw_key_len = m->key_len;
	sb_record_init(&in->rec, rd_kafka_topic_name(m->rkt));
	in->rec.value = m->payload;
	in->rec.value_len = m->len;
	if (rd_kafka_message_headers(m, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR) {
		const char *name;
		const void *value;
		size_t n;
		for (size_t i = 0; rd_kafka_header_get_all(headers, i, &name, &value, &n) == RD_KAFKA_RESP_ERR_NO_ERROR; i++) {
			/* the content type has one spelling, or two headers could disagree */
			if (strcmp(name, "ce_datacontenttype") == 0) {
				(void)bad(in, "content type as a ce_ header", ""); /* reason is in the record */
				return;
			}
			if (read_header(in, name, value, n) != SB_OK)
				return;
		}
	}
	const char *key = sb_record_get(&in->rec, "partitionkey");
	if ((key == NULL) != (m->key == NULL) || (key && (strlen(key) != m->key_len || memcmp(key, m->key, m->key_len) != 0)))
		(void)bad(in, "the broker's key and attribute partitionkey differ", ""); /* reason is in the record */
}

/* Called when nothing came: are the topics there? A broker that does not answer is another matter, and none of an error's. */
static int check_topics(struct sb_consumer *c, struct sb_error *err)
{
	int64_t now = sb_mono_ms();
	int rc = SB_OK;

	if (c->busy)
		c->check_at = now + NEXT_CHECK_MS;
	c->busy = false;
	if (now < c->check_at)
		return SB_OK;
	c->check_at = now + NEXT_CHECK_MS;
	for (size_t i = 0; i < c->n_parts && rc == SB_OK; i++) {
		const rd_kafka_metadata_t *md = NULL;
		if (rd_kafka_metadata(c->rk, 0, c->part[i].rkt, &md, CHECK_TIMEOUT_MS) != RD_KAFKA_RESP_ERR_NO_ERROR)
			return SB_OK;
		rd_kafka_resp_err_t code = md->topic_cnt == 1 ? md->topics[0].err : RD_KAFKA_RESP_ERR_NO_ERROR;
		if (code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || code == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED)
			rc = sb_kafka_fail(err, code, c->part[i].name, NULL);
		rd_kafka_metadata_destroy(md);
	}
	return rc;
}

/* Any answer from the partition's leader makes librdkafka look at its full queue again; without one it sleeps for up to a second. One round trip for a quarter of
 * the queue costs little, and a broker that does not answer has nothing to fetch either. (fetch.queue.backoff.ms, since 2.2, would do the same.) */
static void nudge(struct sb_consumer *c, const struct part *part, size_t taken)
{
	int64_t low, high;

	c->taken_bytes += taken;
	if (c->taken_bytes < c->nudge_bytes)
		return;
	c->taken_bytes = 0;
	if (rd_kafka_queue_length(c->queue) > 0)
		(void)rd_kafka_query_watermark_offsets(c->rk, part->name, 0, &low, &high, NUDGE_TIMEOUT_MS); /* for its answer's sake */
}

int sb_consumer_poll(struct sb_consumer *c, int timeout_ms, struct sb_inrecord *ret, struct sb_error *err)
{
	int64_t deadline = sb_mono_ms() + timeout_ms;

	for (;;) {
		rd_kafka_message_t *m = rd_kafka_consume_queue(c->queue, 0);
		if (!m) {
			int64_t left = deadline - sb_mono_ms();
			sb_kafka_wake_drain(c->fd);
			m = rd_kafka_consume_queue(c->queue, left > 0 ? (int)left : 0);
			if (!m)
				return check_topics(c, err);
			/* the queue signals only when it turns non-empty: keep the descriptor readable, more may be waiting */
			sb_kafka_wake_raise(c->fd);
		}
		if (m->err) {
			int rc = poll_failed(c, m, err);
			rd_kafka_message_destroy(m);
			return rc;
		}
		struct part *part = find_part(c, rd_kafka_topic_name(m->rkt));
		if (!part || !part->started || m->offset < part->next) { /* fetched before a pause or another assignment */
			rd_kafka_message_destroy(m);
			continue;
		}
		part->next = m->offset + 1;
		c->busy = true;
		nudge(c, part, m->len);
		read_record(ret, m);
		return 1;
	}
}

void sb_inrecord_release(struct sb_inrecord *in)
{
	if (in->handle)
		rd_kafka_message_destroy(in->handle);
	in->handle = NULL;
	in->rec.value = NULL;
	in->rec.value_len = 0;
	in->raw_key = NULL;
	in->raw_key_len = 0;
}

int sb_consumer_pause(struct sb_consumer *c, const char *topic, bool paused, struct sb_error *err)
{
	struct part *part = find_part(c, topic);

	if (!part)
		return sb_fail(err, SB_EINVAL, "topic \"%s\" is not assigned", topic);
	if (!paused)
		return part_start(c, part, err);
	part_stop(part);
	return SB_OK;
}

int sb_consumer_watermarks(struct sb_consumer *c, const char *topic, int64_t *ret_low, int64_t *ret_high, struct sb_error *err)
{
	int64_t low, high;
	rd_kafka_resp_err_t code = rd_kafka_query_watermark_offsets(c->rk, topic, 0, &low, &high, WATERMARK_TIMEOUT_MS);

	if (code)
		return sb_kafka_fail(err, code, topic, NULL);
	*ret_low = low;
	*ret_high = high;
	return SB_OK;
}

int sb_consumer_fd(const struct sb_consumer *c)
{
	return c->fd;
}
