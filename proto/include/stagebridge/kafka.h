/* The broker adapter: the only file that knows librdkafka. One handle belongs to one lane. */
#ifndef STAGEBRIDGE_KAFKA_H
#define STAGEBRIDGE_KAFKA_H

#include "stagebridge/record.h"

/** Connection; strings borrowed for the life of the handle. Properties beyond these come from an allow-list in kafka.c. */
struct sb_kafka_conf {
	const char *servers;            /* host:port,... */
	const char *client_id;
	const char *security;           /* "plaintext" (loopback or test) | "sasl_ssl" | "ssl"; NULL: plaintext */
	const char *sasl_user;          /* SCRAM-SHA-512 */
	const char *sasl_password_file;
	const char *ca_file, *cert_file, *key_file;
	uint64_t queue_bytes;           /* producer's and consumer's buffer; 0: 16 MiB */
	int64_t fetch_wait_ms;          /* 0: 100; the in-process broker wants 10 */
};

/* ---- Producer: idempotent, acks=all, linger 0, message.timeout 0 (waits for ever), bounded queue ---- */
struct sb_producer;
/** Called from sb_producer_poll, in the order of delivery within a partition. code: SB_OK or why not. After any code but SB_OK the
 * producer is broken: free it, rewind to the first undelivered record, make a new one. */
typedef void (*sb_delivered_fn)(void *user, uint64_t tag, enum sb_code code, int64_t offset);
int sb_producer_new(struct sb_producer **ret, const struct sb_kafka_conf *conf, sb_delivered_fn delivered, void *user, struct sb_error *err) SB_MUSTCHECK;
/** Purges what is queued (no callbacks), does not wait for brokers. */
void sb_producer_free(struct sb_producer *p);
/** Copies the record (headers and value); partition 0. SB_EAGAIN: queue full, poll and try again. SB_ETOOBIG, SB_EKAFKA. */
int sb_producer_send(struct sb_producer *p, const struct sb_record *rec, uint64_t tag, struct sb_error *err) SB_MUSTCHECK;
/** Runs delivery callbacks; waits up to timeout_ms for the first. SB_EKAFKA when the handle is broken (fatal error). */
int sb_producer_poll(struct sb_producer *p, int timeout_ms, struct sb_error *err) SB_MUSTCHECK;
/** Waits until nothing is in flight, or SB_ETIMEOUT. */
int sb_producer_flush(struct sb_producer *p, int timeout_ms, struct sb_error *err) SB_MUSTCHECK;
size_t sb_producer_in_flight(const struct sb_producer *p);
/** Readable (level) when a poll has something to do: for sb_lane_wait. Drained by sb_producer_poll. */
int sb_producer_fd(const struct sb_producer *p);

/* ---- Consumer: manual assignment without any consumer group, offsets are the caller's, auto.offset.reset=error ---- */
struct sb_consumer;
#define SB_OFFSET_BEGINNING ((int64_t)-2)
struct sb_assignment { const char *topic; int64_t offset; };  /* next offset to read */

/** A record from the broker; rec.value is borrowed from it. Key is attribute "partitionkey" and checked against the Kafka key. */
struct sb_inrecord {
	struct sb_record rec;
	int64_t offset;
	enum sb_code malformed;         /* SB_OK, or SB_EPROTO when the headers could not be read (caps, duplicates): quarantine it */
	char malformed_reason[160];
	const void *raw_key; size_t raw_key_len;
	void *handle;
};
int sb_consumer_new(struct sb_consumer **ret, const struct sb_kafka_conf *conf, struct sb_error *err) SB_MUSTCHECK;
void sb_consumer_free(struct sb_consumer *c);
/** Replaces the assignment. */
int sb_consumer_assign(struct sb_consumer *c, const struct sb_assignment *a, size_t n, struct sb_error *err) SB_MUSTCHECK;
/**
 * 1 and a record (release it), 0 after timeout_ms, or an error: SB_EKAFKA transient; SB_ENOTFOUND the offset is gone
 * (retention, truncated or recreated topic: err->msg names topic and offsets). A broker that is away is no error: it is retried for ever. An idle
 * consumer looks now and then whether its topics exist (missing: SB_EKAFKA); then a call may last half a second longer.
 */
int sb_consumer_poll(struct sb_consumer *c, int timeout_ms, struct sb_inrecord *ret, struct sb_error *err) SB_MUSTCHECK;
void sb_inrecord_release(struct sb_inrecord *in);
/** Paused: what was fetched is dropped; resumed: goes on with the record after the last one that was given out. */
int sb_consumer_pause(struct sb_consumer *c, const char *topic, bool paused, struct sb_error *err) SB_MUSTCHECK;
/** Low and high watermark; asks the broker. */
int sb_consumer_watermarks(struct sb_consumer *c, const char *topic, int64_t *ret_low, int64_t *ret_high, struct sb_error *err) SB_MUSTCHECK;
int sb_consumer_fd(const struct sb_consumer *c);

/* ---- Administration (provision, doctor) ---- */
/** Creates missing topics with 1 partition, retention by time, max.message.bytes 1 MiB; existing ones are checked: SB_ECONFLICT when the
 * partition count differs. replication 0: broker default. */
int sb_kafka_provision(const struct sb_kafka_conf *conf, const char *const *topics, size_t n, int replication, int64_t retention_ms, struct sb_error *err) SB_MUSTCHECK;
/** True when the broker answers metadata within timeout_ms. */
int sb_kafka_ping(const struct sb_kafka_conf *conf, int timeout_ms, struct sb_error *err) SB_MUSTCHECK;

/* ---- In-process broker for the demo and the component tests: librdkafka's mock cluster, reachable over loopback ---- */
struct sb_mock_broker;
int sb_mock_broker_new(struct sb_mock_broker **ret, const char *const *topics, size_t n, struct sb_error *err) SB_MUSTCHECK;
const char *sb_mock_broker_servers(const struct sb_mock_broker *m);
/** Away: connections end and new ones are refused; what it holds is there again when it is back. */
int sb_mock_broker_away(struct sb_mock_broker *m, bool away, struct sb_error *err) SB_MUSTCHECK;
void sb_mock_broker_free(struct sb_mock_broker *m);

#endif
