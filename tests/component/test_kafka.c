/* Producer and consumer against the in-process broker: what goes in comes out, what is malformed is told apart, what is full or gone says so. */
#include <librdkafka/rdkafka.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "stagebridge/kafka.h"
#include "support.h"

#define UP "sb.acme.dev.up.entity.v1"
#define EVENTS "sb.acme.dev.up.event.v1"
#define DATA "sb.acme.dev.up.data.v1"

static struct sb_mock_broker *broker;
static struct sb_kafka_conf conf;
static struct sb_producer *producer;
static struct sb_consumer *consumer;
static struct sb_error err;
static struct { unsigned ok, failed; uint64_t last_tag; int64_t last_offset; enum sb_code code; bool in_order; } delivered;

static void on_delivered(void *user, uint64_t tag, enum sb_code code, int64_t offset)
{
	ck_assert_ptr_eq(user, &delivered);
	delivered.in_order = delivered.in_order && tag > delivered.last_tag;
	delivered.last_tag = tag;
	delivered.last_offset = offset;
	delivered.code = code;
	delivered.ok += code == SB_OK;
	delivered.failed += code != SB_OK;
}

#define ok(call)                                                              \
	do {                                                                  \
		int _rc = (call);                                             \
		ck_assert_msg(_rc == SB_OK, #call ": %d %s", _rc, err.msg);   \
	} while (0)

static void setup(void)
{
	static const char *const topics[] = { UP, EVENTS, DATA };

	err = (struct sb_error)SB_ERROR_INIT;
	delivered.in_order = true;
	ok(sb_mock_broker_new(&broker, topics, SB_COUNT(topics), &err));
	conf = (struct sb_kafka_conf){ .servers = sb_mock_broker_servers(broker), .client_id = "test", .fetch_wait_ms = 10 };
	ok(sb_producer_new(&producer, &conf, on_delivered, &delivered, &err));
	ok(sb_consumer_new(&consumer, &conf, &err));
}

static void teardown(void)
{
	sb_producer_free(producer);
	sb_consumer_free(consumer);
	sb_mock_broker_free(broker);
}

static void assign(const char *topic, int64_t offset)
{
	const struct sb_assignment a = { topic, offset };

	ok(sb_consumer_assign(consumer, &a, 1, &err));
}

static void send_record(const char *topic, const char *key, const char *value, uint64_t tag)
{
	struct sb_record rec;

	sb_record_init(&rec, topic);
	ok(sb_record_set(&rec, "specversion", "1.0", &err));
	ok(sb_record_set(&rec, "datacontenttype", "application/json", &err));
	ok(sb_record_set(&rec, "partitionkey", key, &err));
	rec.value = value;
	rec.value_len = value ? strlen(value) : 0;
	ok(sb_producer_send(producer, &rec, tag, &err));
}

/* The next record within ten seconds. */
static void take(struct sb_inrecord *in)
{
	int rc = sb_consumer_poll(consumer, 10000, in, &err);

	ck_assert_msg(rc == 1, "%d %s", rc, err.msg);
}

START_TEST(test_round_trip)
{
	struct sb_inrecord in;

	send_record(UP, "experiment", "{\"a\":1}", 1);
	send_record(UP, "caf\xc3\xa9", NULL, 2);
	send_record(UP, "empty", "", 3);
	ck_assert_uint_eq(sb_producer_in_flight(producer), 3);
	ok(sb_producer_flush(producer, 10000, &err));
	ck_assert_uint_eq(sb_producer_in_flight(producer), 0);
	ck_assert_uint_eq(delivered.ok, 3);
	ck_assert(delivered.in_order);
	ck_assert_int_eq(delivered.last_offset, 2);

	assign(UP, SB_OFFSET_BEGINNING);
	take(&in);
	ck_assert_int_eq(in.malformed, SB_OK);
	ck_assert_int_eq(in.offset, 0);
	ck_assert_str_eq(in.rec.topic, UP);
	ck_assert_uint_eq(in.rec.n_attr, 3);
	ck_assert_str_eq(sb_record_get(&in.rec, "specversion"), "1.0");
	ck_assert_str_eq(sb_record_get(&in.rec, "datacontenttype"), "application/json");
	ck_assert_str_eq(sb_record_get(&in.rec, "partitionkey"), "experiment");
	ck_assert_uint_eq(in.rec.value_len, 7);
	ck_assert_mem_eq(in.rec.value, "{\"a\":1}", 7);
	sb_inrecord_release(&in);
	sb_inrecord_release(&in);
	take(&in);
	ck_assert_str_eq(sb_record_get(&in.rec, "partitionkey"), "caf\xc3\xa9");
	ck_assert_uint_eq(in.raw_key_len, 5);
	ck_assert_ptr_null(in.rec.value);
	sb_inrecord_release(&in);
	take(&in);
	ck_assert_uint_eq(in.rec.value_len, 0);
	ck_assert_int_eq(in.offset, 2);
	sb_inrecord_release(&in);
	ck_assert_int_eq(sb_consumer_poll(consumer, 50, &in, &err), 0);

	int64_t low, high;
	ok(sb_consumer_watermarks(consumer, UP, &low, &high, &err));
	ck_assert_int_eq(low, 0);
	ck_assert_int_eq(high, 3);
	assign(UP, 2); /* from the middle, again */
	take(&in);
	ck_assert_int_eq(in.offset, 2);
	sb_inrecord_release(&in);
}
END_TEST

START_TEST(test_names_on_the_wire)
{
	/* seen by another client: ce_ headers, content-type, the key */
	char why[256];
	rd_kafka_conf_t *rkc = rd_kafka_conf_new();
	rd_kafka_headers_t *headers;
	const void *value;
	size_t n;

	send_record(DATA, "the key", "chunk", 1);
	ok(sb_producer_flush(producer, 10000, &err));
	ck_assert_int_eq(rd_kafka_conf_set(rkc, "bootstrap.servers", conf.servers, why, sizeof(why)), RD_KAFKA_CONF_OK);
	ck_assert_int_eq(rd_kafka_conf_set(rkc, "fetch.wait.max.ms", "10", why, sizeof(why)), RD_KAFKA_CONF_OK);
	rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, rkc, why, sizeof(why));
	ck_assert_ptr_nonnull(rk);
	rd_kafka_topic_t *rkt = rd_kafka_topic_new(rk, DATA, NULL);
	ck_assert_int_eq(rd_kafka_consume_start(rkt, 0, 0), 0);
	rd_kafka_message_t *m = NULL;
	ck_assert(wait_until((m = rd_kafka_consume(rkt, 0, 100)) != NULL, 10000));
	ck_assert_int_eq(m->err, 0);
	ck_assert_uint_eq(m->key_len, 7);
	ck_assert_mem_eq(m->key, "the key", 7);
	ck_assert_int_eq(rd_kafka_message_headers(m, &headers), 0);
	ck_assert_uint_eq(rd_kafka_header_cnt(headers), 3);
	ck_assert_int_eq(rd_kafka_header_get_last(headers, "ce_specversion", &value, &n), 0);
	ck_assert_mem_eq(value, "1.0", 3);
	ck_assert_int_eq(rd_kafka_header_get_last(headers, "content-type", &value, &n), 0);
	ck_assert_mem_eq(value, "application/json", 16);
	ck_assert_int_eq(rd_kafka_header_get_last(headers, "ce_partitionkey", &value, &n), 0);
	rd_kafka_message_destroy(m);
	rd_kafka_consume_stop(rkt, 0);
	rd_kafka_topic_destroy(rkt);
	rd_kafka_destroy(rk);
}
END_TEST

/* ---- records that others wrote ---- */

struct header { const char *name; const void *value; size_t n; };
#define H(name, value) { name, value, sizeof(value) - 1 }
static char long_value[SB_ATTR_VALUE_MAX + 1];
static const struct {
	const char *key; size_t key_len;
	struct header header[4];
	bool good;
	const char *reason;
} foreign[] = {
	{ "k", 1, { H("ce_id", "1"), H("ce_partitionkey", "k"), H("traceparent", "00-\0-x") }, true, "" },
	{ NULL, 0, { H("ce_id", "1") }, true, "" },
	{ NULL, 0, { { NULL, NULL, 0 } }, true, "" },
	{ "k", 1, { H("ce_id", "1"), H("ce_id", "1"), H("ce_partitionkey", "k") }, false, "id" },
	{ "k", 1, { H("content-type", "a"), H("content-type", "b"), H("ce_partitionkey", "k") }, false, "datacontenttype" },
	{ "k", 1, { H("ce_datacontenttype", "a"), H("ce_partitionkey", "k") }, false, "content type" },
	{ "k", 1, { H("ce_id", "a\0b"), H("ce_partitionkey", "k") }, false, "NUL" },
	{ "k", 1, { H("ce_id", "\xff\xfe"), H("ce_partitionkey", "k") }, false, "id" },
	{ "k", 1, { { "ce_id", NULL, 0 }, H("ce_partitionkey", "k") }, false, "without a value" },
	{ "k", 1, { { "ce_id", long_value, sizeof(long_value) }, H("ce_partitionkey", "k") }, false, "too long" },
	{ "k", 1, { H("ce_averyveryveryverylongattributename", "1"), H("ce_partitionkey", "k") }, false, "" },
	{ "k", 1, { H("ce_id", "") }, false, "" },
	{ "other", 5, { H("ce_partitionkey", "k") }, false, "differ" },
	{ "k\0z", 3, { H("ce_partitionkey", "k") }, false, "differ" },
	{ "k", 1, { H("ce_id", "1") }, false, "differ" },
	{ NULL, 0, { H("ce_partitionkey", "k") }, false, "differ" },
};

static void produce_foreign(rd_kafka_t *rk, size_t k)
{
	rd_kafka_headers_t *headers = rd_kafka_headers_new(4);

	for (size_t i = 0; i < 4 && foreign[k].header[i].name; i++)
		ck_assert_int_eq(rd_kafka_header_add(headers, foreign[k].header[i].name, -1, foreign[k].header[i].value, (ssize_t)foreign[k].header[i].n), 0);
	ck_assert_int_eq(rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(EVENTS), RD_KAFKA_V_PARTITION(0), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
		RD_KAFKA_V_KEY(foreign[k].key, foreign[k].key_len), RD_KAFKA_V_VALUE((char[]){ "v" }, 1), RD_KAFKA_V_HEADERS(headers), RD_KAFKA_V_END), 0);
}

START_TEST(test_foreign_records)
{
	char why[256];
	rd_kafka_conf_t *rkc = rd_kafka_conf_new();
	struct sb_inrecord in;

	memset(long_value, 'x', sizeof(long_value));
	ck_assert_int_eq(rd_kafka_conf_set(rkc, "bootstrap.servers", conf.servers, why, sizeof(why)), RD_KAFKA_CONF_OK);
	rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, rkc, why, sizeof(why));
	ck_assert_ptr_nonnull(rk);
	for (size_t k = 0; k < SB_COUNT(foreign); k++)
		produce_foreign(rk, k);
	ck_assert_int_eq(rd_kafka_flush(rk, 10000), 0);
	rd_kafka_destroy(rk);

	assign(EVENTS, 0);
	for (size_t k = 0; k < SB_COUNT(foreign); k++) {
		take(&in);
		ck_assert_int_eq(in.offset, (int64_t)k);
		ck_assert_msg(in.malformed == (foreign[k].good ? SB_OK : SB_EPROTO), "record %zu: %s", k, in.malformed_reason);
		ck_assert_msg(strstr(in.malformed_reason, foreign[k].reason) != NULL, "record %zu: %s", k, in.malformed_reason);
		ck_assert(foreign[k].good || in.malformed_reason[0]);
		ck_assert_uint_eq(in.rec.value_len, 1); /* kept for the quarantine */
		ck_assert_uint_eq(in.raw_key_len, foreign[k].key_len);
		sb_inrecord_release(&in);
	}
}
END_TEST

/* ---- limits and losses ---- */

START_TEST(test_queue_full_without_broker)
{
	struct sb_kafka_conf nowhere = { .servers = "127.0.0.1:1", .queue_bytes = 64 * 1024 };
	struct sb_producer *p;
	struct sb_record rec;
	static char value[8 * 1024];
	unsigned n = 0;
	int rc;

	ok(sb_producer_new(&p, &nowhere, on_delivered, &delivered, &err));
	sb_record_init(&rec, UP);
	rec.value = value;
	rec.value_len = sizeof(value);
	while ((rc = sb_producer_send(p, &rec, n, &err)) == SB_OK && n < 1000)
		n++;
	ck_assert_int_eq(rc, SB_EAGAIN);
	ck_assert_uint_ge(n, 7);
	ck_assert_uint_le(n, 9);
	ck_assert_uint_eq(sb_producer_in_flight(p), n);
	ok(sb_producer_poll(p, 0, &err)); /* a broker that is away is no error */
	ck_assert_int_eq(sb_producer_flush(p, 20, &err), SB_ETIMEOUT);
	int64_t from = sb_mono_ms();
	sb_producer_free(p);
	ck_assert_int_lt(sb_mono_ms() - from, 3000);
	ck_assert_uint_eq(delivered.ok + delivered.failed, 0);
	ck_assert_int_eq(sb_kafka_ping(&nowhere, 300, &err), SB_EKAFKA);
}
END_TEST

START_TEST(test_too_big)
{
	struct sb_record rec;
	char *value = calloc(1, SB_VALUE_MAX + 1);
	struct sb_inrecord in;

	memset(value, 'x', SB_VALUE_MAX);
	sb_record_init(&rec, DATA);
	ok(sb_record_set(&rec, "partitionkey", "k", &err));
	rec.value = value;
	rec.value_len = SB_VALUE_MAX + 1;
	ck_assert_int_eq(sb_producer_send(producer, &rec, 1, &err), SB_ETOOBIG);
	rec.value_len = SB_VALUE_MAX; /* the largest goes through, uncompressed */
	ok(sb_producer_send(producer, &rec, 2, &err));
	ok(sb_producer_flush(producer, 10000, &err));
	assign(DATA, 0);
	take(&in);
	ck_assert_uint_eq(in.rec.value_len, SB_VALUE_MAX);
	ck_assert_mem_eq(in.rec.value, value, SB_VALUE_MAX);
	sb_inrecord_release(&in);
	free(value);
}
END_TEST

START_TEST(test_offset_out_of_range)
{
	struct sb_inrecord in;
	int rc;

	send_record(UP, "k", "v", 1);
	ok(sb_producer_flush(producer, 10000, &err));
	assign(UP, 77);
	ck_assert(wait_until((rc = sb_consumer_poll(consumer, 100, &in, &err)) != 0, 10000));
	ck_assert_int_eq(rc, SB_ENOTFOUND);
	ck_assert_ptr_nonnull(strstr(err.msg, UP));
	ck_assert_ptr_nonnull(strstr(err.msg, "offset 77"));
	ck_assert_ptr_nonnull(strstr(err.msg, "0 to 1"));
	assign(UP, 0); /* and it can go on elsewhere */
	take(&in);
	ck_assert_int_eq(in.offset, 0);
	sb_inrecord_release(&in);
}
END_TEST

START_TEST(test_bad_configuration)
{
	struct sb_kafka_conf c = conf;
	struct sb_producer *p;

	c.security = "sasl_ssl";
	ck_assert_int_eq(sb_producer_new(&p, &c, on_delivered, &delivered, &err), SB_ECONFIG);
	c.security = "telnet";
	ck_assert_int_eq(sb_producer_new(&p, &c, on_delivered, &delivered, &err), SB_ECONFIG);
	c.security = NULL;
	c.servers = "";
	ck_assert_int_eq(sb_producer_new(&p, &c, on_delivered, &delivered, &err), SB_ECONFIG);
	const struct sb_assignment end = { UP, -1 };
	ck_assert_int_eq(sb_consumer_assign(consumer, &end, 1, &err), SB_EINVAL);
	ck_assert_int_eq(sb_consumer_pause(consumer, UP, true, &err), SB_EINVAL);
}
END_TEST

START_TEST(test_paused_topic)
{
	const struct sb_assignment a[] = { { UP, 0 }, { EVENTS, 0 } };
	struct sb_inrecord in;
	int64_t next = 0;

	for (uint64_t i = 1; i <= 10; i++)
		send_record(UP, "k", "v", i);
	ok(sb_producer_flush(producer, 10000, &err));
	ok(sb_consumer_assign(consumer, a, SB_COUNT(a), &err));
	for (; next < 3; next++) {
		take(&in);
		ck_assert_int_eq(in.offset, next);
		sb_inrecord_release(&in);
	}
	ok(sb_consumer_pause(consumer, UP, true, &err));
	ok(sb_consumer_pause(consumer, UP, true, &err));
	ck_assert_int_eq(sb_consumer_poll(consumer, 100, &in, &err), 0);
	send_record(EVENTS, "k", "v", 11); /* the other one flows */
	ok(sb_producer_flush(producer, 10000, &err));
	take(&in);
	ck_assert_str_eq(in.rec.topic, EVENTS);
	sb_inrecord_release(&in);
	ok(sb_consumer_pause(consumer, UP, false, &err));
	for (; next < 10; next++) {
		take(&in);
		ck_assert_str_eq(in.rec.topic, UP);
		ck_assert_int_eq(in.offset, next);
		sb_inrecord_release(&in);
	}
}
END_TEST

static bool readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 0) == 1;
}

START_TEST(test_descriptors)
{
	struct sb_inrecord in;
	int rc;

	assign(UP, 0);
	ck_assert_int_eq(sb_consumer_poll(consumer, 100, &in, &err), 0);
	for (uint64_t i = 1; i <= 3; i++)
		send_record(UP, "k", "v", i);
	ck_assert(wait_until(readable(sb_producer_fd(producer)), 10000));
	ck_assert(wait_until(readable(sb_consumer_fd(consumer)), 10000));
	/* level: readable as long as a record waits, also when only some are taken; then not */
	for (int n = 0; n < 3;) {
		ck_assert(wait_until(readable(sb_consumer_fd(consumer)), 10000));
		if ((rc = sb_consumer_poll(consumer, 0, &in, &err)) == 1)
			sb_inrecord_release(&in);
		ck_assert_int_ge(rc, 0);
		n += rc;
	}
	ck_assert_int_eq(sb_consumer_poll(consumer, 0, &in, &err), 0);
	ck_assert(!readable(sb_consumer_fd(consumer)));
	ok(sb_producer_flush(producer, 10000, &err));
	ok(sb_producer_poll(producer, 0, &err));
	ck_assert(!readable(sb_producer_fd(producer)));
}
END_TEST

START_TEST(test_administration)
{
	static const char *const there[] = { UP, EVENTS };

	ok(sb_kafka_ping(&conf, 5000, &err));
	ok(sb_kafka_provision(&conf, there, SB_COUNT(there), 0, 3600000, &err)); /* creating needs a real broker: tests/integration */
}
END_TEST

static int by_value(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return x < y ? -1 : x > y;
}

#define ROUNDS 500

START_TEST(test_latency)
{
	static int64_t us[ROUNDS];
	struct sb_inrecord in;

	assign(UP, 0);
	for (unsigned i = 0; i < ROUNDS; i++) {
		int64_t from = sb_mono_us();
		send_record(UP, "k", "v", i + 1);
		take(&in);
		us[i] = sb_mono_us() - from;
		ck_assert_int_eq(in.offset, i);
		sb_inrecord_release(&in);
		ok(sb_producer_poll(producer, 0, &err));
	}
	qsort(us, ROUNDS, sizeof(us[0]), by_value);
	(void)printf("produce to consume, in-process broker: p50 %.1f ms, p99 %.1f ms\n", (double)us[ROUNDS / 2] / 1000, (double)us[ROUNDS * 99 / 100] / 1000);
	ok(sb_producer_flush(producer, 10000, &err));
	ck_assert_uint_eq(delivered.ok, ROUNDS);
	ck_assert(delivered.in_order);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("kafka");
	TCase *tc = tcase_create("kafka");

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_round_trip);
	tcase_add_test(tc, test_names_on_the_wire);
	tcase_add_test(tc, test_foreign_records);
	tcase_add_test(tc, test_queue_full_without_broker);
	tcase_add_test(tc, test_too_big);
	tcase_add_test(tc, test_offset_out_of_range);
	tcase_add_test(tc, test_bad_configuration);
	tcase_add_test(tc, test_paused_topic);
	tcase_add_test(tc, test_descriptors);
	tcase_add_test(tc, test_administration);
	tcase_add_test(tc, test_latency);
	suite_add_tcase(s, tc);
	return test_run(s);
}
