/* The producer: idempotent, acks=all, no lingering, waits for ever for the broker, bounded queue. A delivery report is the only proof of delivery.
 *
 * Thread: the lane that made it; callbacks run inside sb_producer_poll on that lane. librdkafka's own threads send.
 * States: usable -> broken (any failed delivery or fatal error; the first reason is kept). A broken producer refuses everything: sending on
 * after a lost record would make a hole, so the owner frees it, rewinds and makes a new one.
 * Owns: the handle, one topic object per topic written to, the wake descriptor. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kafka_private.h"
#include "stagebridge/clock.h"
#include "stagebridge/text.h"
#include "stagebridge/topic.h"

#define TOPICS_MAX 64 /* a lane writes to a handful */

struct sb_producer {
	rd_kafka_t *rk;
	rd_kafka_queue_t *queue;
	int fd;
	sb_delivered_fn delivered;
	void *user;
	size_t in_flight;
	bool closing;
	struct sb_error broken; /* code SB_OK while usable */
	unsigned n_topics;
	struct { char name[SB_TOPIC_MAX]; rd_kafka_topic_t *rkt; } topic[TOPICS_MAX];
};

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque)
{
	struct sb_producer *p = opaque;
	enum sb_code code = SB_OK;

	(void)rk; /* the same handle as p->rk */
	p->in_flight--;
	if (p->closing)
		return;
	if (m->err) {
		struct sb_error why = SB_ERROR_INIT;
		code = (enum sb_code)sb_kafka_fail(&why, m->err, rd_kafka_topic_name(m->rkt), rd_kafka_err2str(m->err));
		if (p->broken.code == SB_OK)
			p->broken = why;
	}
	p->delivered(p->user, (uint64_t)(uintptr_t)m->_private, code, m->err ? -1 : m->offset);
}

static void on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
	struct sb_producer *p = opaque;
	char why[256] = "";

	/* all others are transient: librdkafka goes on by itself and has logged them */
	if (code != RD_KAFKA_RESP_ERR__FATAL || p->broken.code != SB_OK)
		return;
	rd_kafka_resp_err_t fatal = rd_kafka_fatal_error(rk, why, sizeof(why));
	(void)sb_fail(&p->broken, SB_EKAFKA, "producer failed: %s: %s", rd_kafka_err2name(fatal), *why ? why : reason); /* kept for the next poll */
}

static int producer_conf(rd_kafka_conf_t **ret, const struct sb_kafka_conf *conf, struct sb_error *err)
{
	char kbytes[24];
	uint64_t bytes = conf->queue_bytes ? conf->queue_bytes : SB_KAFKA_QUEUE_BYTES;
	int rc = sb_format(kbytes, sizeof(kbytes), err, "%" PRIu64, bytes / 1024 ? bytes / 1024 : 1);
	if (rc)
		return rc;
	const struct sb_kafka_prop props[] = {
		{ "allow.auto.create.topics", "false" }, /* a consumer's default; `provision` makes topics */
		{ "enable.idempotence", "true" },
		{ "acks", "all" },
		{ "linger.ms", "0" },
		{ "message.timeout.ms", "0" },
		{ "message.max.bytes", SB_KAFKA_MESSAGE_BYTES },
		{ "queue.buffering.max.kbytes", kbytes },
		{ "queue.buffering.max.messages", "20000" },
		{ "compression.codec", "lz4" },
		{ "retry.backoff.ms", "50" },
		/* how long a topic may be unknown before its records fail: covers a topic made a moment ago */
		{ "topic.metadata.propagation.max.ms", "5000" },
		{ "log.queue", "true" },
	};
	return sb_kafka_conf_make(ret, conf, props, SB_COUNT(props), err);
}

int sb_producer_new(struct sb_producer **ret, const struct sb_kafka_conf *conf, sb_delivered_fn delivered, void *user, struct sb_error *err)
{
	rd_kafka_conf_t *rkc = NULL;
	struct sb_producer *p = calloc(1, sizeof(*p));

	if (!p)
		return sb_fail_nomem(err);
	p->fd = -1;
	p->delivered = delivered;
	p->user = user;
	int rc = producer_conf(&rkc, conf, err);
	if (rc)
		goto out;
	rd_kafka_conf_set_dr_msg_cb(rkc, on_delivery);
	rd_kafka_conf_set_error_cb(rkc, on_error);
	rd_kafka_conf_set_opaque(rkc, p);
	rc = sb_kafka_handle(&p->rk, RD_KAFKA_PRODUCER, rkc, err);
	if (rc)
		goto out;
	rd_kafka_set_log_queue(p->rk, NULL); /* NULL is the main queue, which sb_producer_poll serves */
	p->queue = rd_kafka_queue_get_main(p->rk);
	rc = sb_kafka_wake_open(&p->fd, p->queue, err);
	if (rc == SB_OK)
		*ret = SB_TAKE(p);
out:
	sb_producer_free(p);
	return rc;
}

void sb_producer_free(struct sb_producer *p)
{
	if (!p)
		return;
	p->closing = true;
	if (p->queue) {
		rd_kafka_queue_io_event_enable(p->queue, -1, NULL, 0);
		rd_kafka_queue_destroy(p->queue);
	}
	for (unsigned i = 0; i < p->n_topics; i++)
		rd_kafka_topic_destroy(p->topic[i].rkt);
	if (p->rk) {
		rd_kafka_purge(p->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT | RD_KAFKA_PURGE_F_NON_BLOCKING);
		rd_kafka_destroy(p->rk);
	}
	sb_closep(&p->fd);
	free(p);
}

static int producer_topic(struct sb_producer *p, const char *name, rd_kafka_topic_t **ret, struct sb_error *err)
{
	struct sb_topic parsed;

	for (unsigned i = 0; i < p->n_topics; i++)
		if (strcmp(p->topic[i].name, name) == 0) {
			*ret = p->topic[i].rkt;
			return SB_OK;
		}
	if (p->n_topics == TOPICS_MAX)
		return sb_fail(err, SB_ETOOBIG, "a producer writes to at most %d topics", TOPICS_MAX);
	int rc = sb_format(p->topic[p->n_topics].name, SB_TOPIC_MAX, err, "%s", name);
	if (rc)
		return rc;
	rd_kafka_topic_conf_t *tc = rd_kafka_default_topic_conf_dup(p->rk);
	if (!tc)
		return sb_fail_nomem(err);
	/* sealed chunks are compressed before they are sealed: doing it again costs time and gains nothing */
	if (sb_topic_parse(name, &parsed, NULL) == SB_OK && parsed.class == SB_DATA) {
		char why[128];
		if (rd_kafka_topic_conf_set(tc, "compression.codec", "none", why, sizeof(why)) != RD_KAFKA_CONF_OK) {
			rd_kafka_topic_conf_destroy(tc);
			return sb_fail(err, SB_ECONFIG, "topic \"%s\": %s", name, why);
		}
	}
	rd_kafka_topic_t *rkt = rd_kafka_topic_new(p->rk, name, tc); /* takes tc when it succeeds */
	if (!rkt) {
		rd_kafka_topic_conf_destroy(tc);
		return sb_kafka_fail(err, rd_kafka_last_error(), name, NULL);
	}
	p->topic[p->n_topics++].rkt = rkt;
	*ret = rkt;
	return SB_OK;
}

static int record_headers(rd_kafka_headers_t **ret, const struct sb_record *rec, struct sb_error *err)
{
	rd_kafka_headers_t *headers = rd_kafka_headers_new(rec->n_attr);

	if (!headers)
		return sb_fail_nomem(err);
	for (unsigned i = 0; i < rec->n_attr; i++) {
		const char *name, *value = sb_record_attr(rec, i, &name);
		char full[SB_ATTR_NAME_MAX + 4];
		int rc = sb_format(full, sizeof(full), err, "%s%s", strcmp(name, "datacontenttype") == 0 ? "" : "ce_",
			strcmp(name, "datacontenttype") == 0 ? "content-type" : name);
		if (rc == SB_OK && rd_kafka_header_add(headers, full, -1, value, (ssize_t)strlen(value)))
			rc = sb_fail_nomem(err);
		if (rc) {
			rd_kafka_headers_destroy(headers);
			return rc;
		}
	}
	*ret = headers;
	return SB_OK;
}

static int broken(const struct sb_producer *p, struct sb_error *err)
{
	if (err)
		*err = p->broken;
	return p->broken.code;
}

int sb_producer_send(struct sb_producer *p, const struct sb_record *rec, uint64_t tag, struct sb_error *err)
{
	rd_kafka_topic_t *rkt;
	rd_kafka_headers_t *headers;
	const char *key = sb_record_get(rec, "partitionkey");

	if (p->broken.code != SB_OK)
		return broken(p, err);
	if (rec->value_len > SB_VALUE_MAX)
		return sb_fail(err, SB_ETOOBIG, "topic \"%s\": a value of %zu bytes is larger than %d", rec->topic, rec->value_len, SB_VALUE_MAX);
	int rc = producer_topic(p, rec->topic, &rkt, err);
	if (rc == SB_OK)
		rc = record_headers(&headers, rec, err);
	if (rc)
		return rc;
	rd_kafka_resp_err_t code = rd_kafka_producev(p->rk, RD_KAFKA_V_RKT(rkt), RD_KAFKA_V_PARTITION(0), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
		RD_KAFKA_V_KEY(key, key ? strlen(key) : 0), RD_KAFKA_V_VALUE((void *)(uintptr_t)rec->value, rec->value_len), RD_KAFKA_V_HEADERS(headers),
		RD_KAFKA_V_OPAQUE((void *)(uintptr_t)tag), RD_KAFKA_V_END);
	if (code == RD_KAFKA_RESP_ERR_NO_ERROR) {
		p->in_flight++;
		return SB_OK;
	}
	rd_kafka_headers_destroy(headers); /* taken only by success */
	if (code == RD_KAFKA_RESP_ERR__QUEUE_FULL)
		return sb_fail(err, SB_EAGAIN, "topic \"%s\": the producer's queue is full", rec->topic);
	return sb_kafka_fail(err, code, rec->topic, NULL);
}

int sb_producer_poll(struct sb_producer *p, int timeout_ms, struct sb_error *err)
{
	sb_kafka_wake_drain(p->fd); /* before serving: what arrives meanwhile raises it again */
	rd_kafka_poll(p->rk, p->broken.code == SB_OK ? timeout_ms : 0);
	return p->broken.code == SB_OK ? SB_OK : broken(p, err);
}

int sb_producer_flush(struct sb_producer *p, int timeout_ms, struct sb_error *err)
{
	int64_t deadline = sb_mono_ms() + timeout_ms;

	for (;;) {
		int64_t left = deadline - sb_mono_ms();
		int rc = sb_producer_poll(p, p->in_flight && left > 0 ? (int)left : 0, err);
		if (rc || p->in_flight == 0)
			return rc;
		if (left <= 0)
			return sb_fail(err, SB_ETIMEOUT, "%zu records are still in flight after %d ms", p->in_flight, timeout_ms);
	}
}

size_t sb_producer_in_flight(const struct sb_producer *p)
{
	return p->in_flight;
}

int sb_producer_fd(const struct sb_producer *p)
{
	return p->fd;
}
