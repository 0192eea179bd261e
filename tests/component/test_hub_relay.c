/* Relay and courier against a real PostgreSQL and a broker: transfers into the spool, datasets and copies forwarded so that the receiver
 * can verify owner and hop, nothing forwarded that no rule allows, orders delivered once and in order, the hub's own transfers paced by
 * credit. */
#include <sys/stat.h>

#include "hub_rig.h"
#include "stagebridge/carrier.h"

#define PLAIN_BYTES        (3 * SB_CHUNK_PLAIN + 1000)
#define QUARANTINED(class) "SELECT count(*) FROM lifecycle.quarantine WHERE class = '" class "'"

static struct rig rig;

static void setup(void)
{
	static const char *const topics[] = { "dev.up.entity", "dev.up.data", "prod.up.entity", "prod.up.data", "dev.down.entity",
		"dev.down.event", "train.down.entity", "train.down.event", "train.down.data", NULL };

	rig_open(&rig, topics, "127.0.0.1:1");
}

static void teardown(void)
{
	rig_close(&rig);
}

/* --- an agent's transfer --- */

struct transfer {
	struct sb_manifest m;
	char spool[TEST_PATH_MAX];
	int stage;
};

static void transfer_make(struct transfer *t, const char *kind, int from, const char *to, const char *request)
{
	char plain[TEST_PATH_MAX];
	sb_cleanup(sb_freep) char *content = malloc(PLAIN_BYTES);

	*t = (struct transfer){ .stage = from };
	uint64_t x = 88172645463325252u;
	for (size_t i = 0; i < PLAIN_BYTES; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17; /* does not compress away */
		content[i] = (char)(x >> 32);
	}
	test_path(plain, "plain");
	rig_ok(sb_file_write(plain, content, PLAIN_BYTES, 0600, err));
	test_path(t->spool, "sealed");
	sb_id_new(t->m.transfer);
	rig_ok(sb_format(t->m.kind, sizeof(t->m.kind), err, "%s", kind));
	rig_ok(sb_format(t->m.from, sizeof(t->m.from), err, "%s", from < 0 ? "hub" : rig_stage[from]));
	rig_ok(sb_format(t->m.to, sizeof(t->m.to), err, "%s", to));
	t->m.expires_ms = sb_wall_ms() + 3600000;
	t->m.meta = request ? json_pack("{s:s, s:{s:s}}", "request", request, "attestation", "k", "11") : json_object();
	const struct sb_key *key = sb_keyring_party(rig.w->keyring, RIG_TENANT, to, sb_wall_ms());
	ck_assert_ptr_nonnull(key);
	rig_ok(sb_carrier_seal(&t->m, plain, t->spool, key, err));
	ck_assert_uint_ge(t->m.chunks, 3);
}

static void data_stream(const struct transfer *t, struct sb_stream_out *so)
{
	char name[64];

	rig_ok(sb_format(name, sizeof(name), err, "data/%s", t->m.transfer));
	sb_stream_out_init(so, RIG_TENANT, rig_stage[t->stage], name, 1, false);
}

static void offer(const struct transfer *t)
{
	struct sb_stream_out so;
	struct sb_record rec;
	json_t *json = sb_manifest_json(&t->m);
	sb_cleanup(sb_freep) char *text = json_dumps(json, JSON_COMPACT);

	json_decref(json);
	data_stream(t, &so);
	rig_record(&rec, t->stage, SB_DATA, text, strlen(text));
	rig_ok(sb_record_set(&rec, "sbtransfer", t->m.transfer, err));
	rig_ok(sb_stream_stamp(&so, &rec, SB_EV_TRANSFER_OFFERED, t->m.transfer, NULL, rig.agent[t->stage], err));
	rig_send(&rig, &rec);
}

static void chunks(const struct transfer *t, uint64_t from, uint64_t to)
{
	sb_cleanup(sb_freep) uint8_t *buf = malloc(SB_CHUNK_SEALED);
	FILE *f = fopen(t->spool, "rb");
	struct sb_stream_out so;

	ck_assert_ptr_nonnull(f);
	data_stream(t, &so);
	for (uint64_t i = from; i < to; i++) {
		struct sb_record rec;
		size_t n = 0;
		rig_ok(sb_spool_read(fileno(f), &t->m, i, buf, &n, err));
		rig_record(&rec, t->stage, SB_DATA, buf, n);
		so.sequence = i + 1;
		rig_ok(sb_record_set(&rec, "sbtransfer", t->m.transfer, err));
		rig_ok(sb_record_setf(&rec, "sbchunk", err, "%" PRIu64 "/%" PRIu64, i, t->m.chunks));
		rig_ok(sb_stream_stamp(
			&so, &rec, SB_EV_TRANSFER_CHUNK, t->m.transfer, "application/octet-stream", rig.agent[t->stage], err));
		rig_send(&rig, &rec);
	}
	(void)fclose(f); /* only read from */
}

/* --- a receiver in a stage --- */

struct receiver {
	struct sb_consumer *consumer;
	const char *stage;
	unsigned records, refused;
	uint64_t chunks;
	struct sb_record last;
	char *value;
	struct sb_meta meta;
};

static void receiver_open(struct receiver *r, const char *stage, enum sb_class class)
{
	char topic[SB_TOPIC_MAX];
	struct sb_kafka_conf conf;
	struct sb_assignment a = { topic, SB_OFFSET_BEGINNING };

	*r = (struct receiver){ .stage = stage };
	sb_topic_name(topic, RIG_TENANT, stage, SB_DOWN, class);
	rig_conf(&rig, &conf);
	rig_ok(sb_consumer_new(&r->consumer, &conf, err));
	rig_ok(sb_consumer_assign(r->consumer, &a, 1, err));
}

/* Takes what is there; every record must be good for this stage */
static unsigned receiver_poll(struct receiver *r)
{
	struct sb_inrecord in;
	struct sb_error why = SB_ERROR_INIT;

	while (sb_consumer_poll(r->consumer, 0, &in, &why) == 1) {
		ck_assert_int_eq(in.malformed, SB_OK);
		int rc = sb_record_verify(&in.rec, rig.w->keyring, RIG_TENANT, r->stage, sb_wall_ms(), &r->meta, &why);
		ck_assert_msg(rc == 0, "record for %s: %s", r->stage, why.msg);
		free(r->value);
		r->value = strndup(in.rec.value, in.rec.value_len);
		r->last = in.rec;
		r->records++;
		r->chunks += r->meta.event == SB_EV_TRANSFER_CHUNK;
		sb_inrecord_release(&in);
	}
	return r->records;
}

static void receiver_close(struct receiver *r)
{
	sb_consumer_free(r->consumer);
	free(r->value);
}

static void allow(const char *request, const char *state)
{
	sb_cleanup(sb_freep) char *sql =
		sb_asprintf("INSERT INTO lifecycle.dataset_request (id, dataset, from_stage, to_stage, requested_by, purpose, state) "
			    "VALUES ('%s', 'customers', 'prod', 'train', 'ann', 'x', '%s')",
			request, state);

	rig_run(&rig, sql);
}

START_TEST(test_pack_to_hub)
{
	struct transfer t;
	struct sb_manifest back = { 0 };
	char path[4096], name[64], out[TEST_PATH_MAX];

	transfer_make(&t, "pack", DEV, "hub", NULL);
	rig_start(&rig, "relay", DEV, hub_relay_lane);
	offer(&t);
	rig_await(&rig,
		"SELECT count(*) FROM lifecycle.transfer WHERE state = 'receiving' AND from_stage = 'dev' AND to_stage = 'hub' AND "
		"credit_window = 4",
		1);
	rig_await(&rig, "SELECT count(*) FROM sb.outbox WHERE stage = 'dev'", 1);
	chunks(&t, 0, 2);
	rig_await(&rig, "SELECT next FROM lifecycle.transfer", 2);
	rig_await(&rig, "SELECT count(*) FROM sb.outbox WHERE stage = 'dev'", 2);
	/* a restart in the middle; chunks again, then the rest; a forged one changes nothing */
	rig_stop(&rig);
	rig_start(&rig, "relay", DEV, hub_relay_lane);
	chunks(&t, 0, t.m.chunks);
	rig_await(&rig, "SELECT count(*) FROM lifecycle.transfer WHERE state = 'complete'", 1);

	rig_ok(sb_format(name, sizeof(name), err, "%s.in", t.m.transfer));
	rig_ok(hub_path(path, sizeof(path), rig.w, "spool", name, err));
	test_path(out, "opened");
	sb_cleanup(sb_freep) char *manifest = rig_text(&rig, "SELECT manifest FROM lifecycle.transfer");
	json_t *json = json_loads(manifest, 0, NULL);
	rig_ok(sb_manifest_parse(&back, json, 1 << 30, err));
	json_decref(json);
	rig_ok(sb_carrier_open(&back, path, out, 1 << 30, rig.w->identity, err));
	char original[TEST_PATH_MAX], a[65], b[65];
	uint64_t size = 0;
	test_path(original, "plain");
	rig_ok(sb_file_sha256(original, a, &size, err));
	rig_ok(sb_file_sha256(out, b, &size, err));
	ck_assert_str_eq(a, b);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.quarantine"), 0);
	sb_manifest_release(&back);
	sb_manifest_release(&t.m);
}
END_TEST

/* A kill between the disk and the commit: the file holds more than the row says */
START_TEST(test_spool_ahead_of_row)
{
	struct transfer t;

	transfer_make(&t, "pack", DEV, "hub", NULL);
	rig_start(&rig, "relay", DEV, hub_relay_lane);
	offer(&t);
	chunks(&t, 0, t.m.chunks);
	rig_await(&rig, "SELECT count(*) FROM lifecycle.transfer WHERE state = 'complete'", 1);
	rig_stop(&rig);
	rig_run(&rig, "UPDATE lifecycle.transfer SET state = 'receiving', next = 1; UPDATE sb.position SET next_offset = 2 WHERE consumer "
		      "= 'relay/hub' AND topic LIKE '%data%'");
	rig_start(&rig, "relay", DEV, hub_relay_lane);
	rig_await(&rig, "SELECT count(*) FROM lifecycle.transfer WHERE state = 'complete' AND next = chunks", 1);
	sb_manifest_release(&t.m);
}
END_TEST

START_TEST(test_missing_chunk_is_told)
{
	struct transfer t;

	transfer_make(&t, "pack", DEV, "hub", NULL);
	rig_start(&rig, "relay", DEV, hub_relay_lane);
	offer(&t);
	chunks(&t, 0, 1);
	chunks(&t, 2, 3);
	rig_await(&rig,
		"SELECT count(*) FROM sb.outbox WHERE stage = 'dev' AND convert_from(value, 'UTF8') LIKE '%\"next\":1%chunks are missing%'",
		1);
	ck_assert_int_eq(rig_i64(&rig, "SELECT next FROM lifecycle.transfer"), 1);
	chunks(&t, 1, t.m.chunks);
	rig_await(&rig, "SELECT count(*) FROM lifecycle.transfer WHERE state = 'complete'", 1);
	sb_manifest_release(&t.m);
}
END_TEST

START_TEST(test_dataset_forwarded)
{
	struct transfer t;
	struct receiver r;

	allow("d1", "accepted");
	transfer_make(&t, "dataset", PROD, "train", "d1");
	receiver_open(&r, "train", SB_DATA);
	rig_start(&rig, "relay", PROD, hub_relay_lane);
	offer(&t);
	ck_assert(wait_until(receiver_poll(&r) == 1, RIG_WAIT_MS));
	ck_assert_int_eq(r.meta.event, SB_EV_TRANSFER_OFFERED);
	ck_assert(r.meta.hopped);
	ck_assert_str_eq(r.meta.stage, "prod");
	chunks(&t, 0, t.m.chunks);
	ck_assert(wait_until(receiver_poll(&r) == 1 + t.m.chunks, RIG_WAIT_MS));
	ck_assert_uint_eq(r.chunks, t.m.chunks);
	rig_await(&rig,
		"SELECT count(*) FROM lifecycle.transfer WHERE state = 'sending' AND kind = 'dataset' AND from_stage = 'prod' AND to_stage "
		"= 'train'",
		1);
	ck_assert_int_eq(
		rig_i64(&rig,
			"SELECT count(*) FROM lifecycle.datasets WHERE request = 'd1' AND attestation->>'k' = '11' AND transfer <> ''"),
		1);
	/* the receiver alone can open it: nothing of it lies in the hub */
	rig_await(&rig, "SELECT next_offset FROM sb.position WHERE consumer = 'relay/train' AND topic LIKE '%data%'",
		(int64_t)t.m.chunks + 1);
	rig_await(
		&rig, "SELECT next_offset FROM sb.position WHERE consumer = 'relay/hub' AND topic LIKE '%data%'", (int64_t)t.m.chunks + 1);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.quarantine"), 0);
	receiver_close(&r);
	sb_manifest_release(&t.m);
}
END_TEST

/* The manifest may be ahead of the report that accepts its request: it waits, and what follows waits with it */
START_TEST(test_dataset_waits_for_acceptance)
{
	struct transfer t;
	struct receiver r;

	allow("d1", "ordered");
	transfer_make(&t, "dataset", PROD, "train", "d1");
	receiver_open(&r, "train", SB_DATA);
	rig_start(&rig, "relay", PROD, hub_relay_lane);
	offer(&t);
	chunks(&t, 0, 1);
	rig_await(&rig, "SELECT next_offset FROM sb.position WHERE consumer = 'relay/hub' AND topic LIKE '%data%'", 2);
	ck_assert_uint_eq(receiver_poll(&r), 0);
	rig_run(&rig, "UPDATE lifecycle.dataset_request SET state = 'accepted'");
	ck_assert(wait_until(receiver_poll(&r) == 2, RIG_WAIT_MS));
	receiver_close(&r);
	sb_manifest_release(&t.m);
}
END_TEST

START_TEST(test_dataset_refused)
{
	struct transfer none, wrong, elsewhere;
	struct receiver r;

	receiver_open(&r, "train", SB_DATA);
	rig_start(&rig, "relay", PROD, hub_relay_lane);
	rig_start(&rig, "relay", DEV, hub_relay_lane);
	transfer_make(&none, "dataset", PROD, "train", "unknown");
	offer(&none);
	chunks(&none, 0, 1);
	rig_await(&rig, QUARANTINED("edge"), 1);
	/* a request of other stages */
	rig_run(&rig, "INSERT INTO lifecycle.dataset_request (id, dataset, from_stage, to_stage, requested_by, purpose, state) VALUES "
		      "('d9', 'customers', 'dev', 'prod', 'a', 'x', 'accepted')");
	transfer_make(&wrong, "dataset", PROD, "train", "d9");
	offer(&wrong);
	rig_await(&rig, QUARANTINED("edge"), 2);
	/* no rule lets dev send datasets anywhere */
	transfer_make(&elsewhere, "dataset", DEV, "train", "d9");
	offer(&elsewhere);
	rig_await(&rig, QUARANTINED("edge"), 3);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.audit WHERE action = 'transfer-refused'"), 3);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.transfer"), 0);
	ck_assert_uint_eq(receiver_poll(&r), 0);
	receiver_close(&r);
	sb_manifest_release(&none.m);
	sb_manifest_release(&wrong.m);
	sb_manifest_release(&elsewhere.m);
}
END_TEST

START_TEST(test_copies)
{
	struct sb_stream_out experiment, secret, card, foreign, public_card, public_experiment;
	struct receiver train, dev;

	receiver_open(&train, "train", SB_ENTITY);
	receiver_open(&dev, "dev", SB_ENTITY);
	rig_start(&rig, "relay", DEV, hub_relay_lane);
	rig_start(&rig, "relay", PROD, hub_relay_lane);
	sb_stream_out_init(&experiment, RIG_TENANT, "dev", "entity/experiment", 1, true);
	sb_stream_out_init(&secret, RIG_TENANT, "dev", "entity/secret", 1, true);
	sb_stream_out_init(&card, RIG_TENANT, "prod", "entity/card", 1, true);
	sb_stream_out_init(&public_card, RIG_TENANT, "prod", "public/card", 1, true);
	sb_stream_out_init(&public_experiment, RIG_TENANT, "dev", "public/experiment", 1, true);
	sb_stream_out_init(&foreign, RIG_TENANT, "prod", "entity/experiment", 1, true);
	rig_entity(&rig, DEV, &secret, &(struct rig_batch){ "secret", 1, 1, 3, "x", 0, NULL });
	rig_entity(&rig, DEV, &experiment, &(struct rig_batch){ "experiment", 1, 1, 3, "x", 0, NULL });
	rig_entity(&rig, PROD, &foreign, &(struct rig_batch){ "experiment", 1, 1, 3, "x", 0, NULL });
	rig_entity(&rig, PROD, &card, &(struct rig_batch){ "card", 1, 1, 3, "inner", 0, NULL });
	rig_entity(&rig, PROD, &public_card, &(struct rig_batch){ "card", 1, 1, 3, "x", 0, NULL });
	rig_entity(&rig, DEV, &public_experiment, &(struct rig_batch){ "experiment", 1, 4, 6, "x", 0, NULL });
	ck_assert(wait_until(receiver_poll(&train) == 1, RIG_WAIT_MS));
	ck_assert_str_eq(train.meta.source, "stagebridge://acme/dev/agent/entity/experiment");
	ck_assert(train.meta.hopped);
	ck_assert(strstr(train.value, "\tx-1\n") != NULL);
	/* to a stage before its owner nothing goes but what the owner published for it */
	ck_assert(wait_until(receiver_poll(&dev) == 1, RIG_WAIT_MS));
	ck_assert_str_eq(dev.meta.source, "stagebridge://acme/prod/agent/public/card");
	ck_assert(dev.meta.hopped);
	ck_assert_ptr_null(strstr(dev.value, "inner-"));
	rig_await(&rig,
		"SELECT count(*) FROM sb.position WHERE consumer IN ('relay/train', 'relay/dev') AND topic LIKE '%entity%' AND next_offset "
		"= 3",
		2);
	ck_assert_uint_eq(receiver_poll(&train), 1);
	ck_assert_uint_eq(receiver_poll(&dev), 1);
	/* a topic read from its first record needs no resync; a subscriber that comes later does */
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM sb.outbox"), 0);
	rig_stop(&rig);
	rig_run(&rig, "DELETE FROM sb.subscription WHERE stage = 'train'");
	rig_start(&rig, "relay", DEV, hub_relay_lane);
	rig_await(&rig, "SELECT count(*) FROM sb.outbox WHERE stage = 'dev' AND convert_from(value, 'UTF8') LIKE '%experiment%'", 1);
	receiver_close(&train);
	receiver_close(&dev);
}
END_TEST

static void put(const char *stage, const char *type)
{
	json_t *body = json_pack("{s:s, s:s}", "type", type, "reason", "test");

	rig_ok(sb_pg_begin(rig.pg, err));
	rig_ok(hub_outbox_put(rig.w, rig.pg, stage, SB_EV_RESYNC_ORDERED, type, body, err));
	rig_ok(sb_pg_commit(rig.pg, err));
	json_decref(body);
	hub_wake(rig.w, "courier");
}

/* explore's broker does not exist: what waits for it waits, the others get theirs */
START_TEST(test_courier)
{
	struct receiver train;

	put("explore", "a");
	receiver_open(&train, "train", SB_EVENT);
	rig_start(&rig, "courier", -1, hub_courier_lane);
	for (int i = 0; i < 100; i++) {
		put("train", "experiment");
		if (i % 10 == 0)
			put("explore", "b");
	}
	ck_assert(wait_until(receiver_poll(&train) == 100, RIG_WAIT_MS));
	ck_assert_uint_eq(train.meta.sequence, 100);
	rig_await(&rig, "SELECT count(*) FROM sb.outbox WHERE stage = 'train'", 0);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM sb.outbox WHERE stage = 'explore'"), 11);
	/* a restart sends nothing twice that was acknowledged */
	rig_stop(&rig);
	rig_start(&rig, "courier", -1, hub_courier_lane);
	put("train", "last");
	ck_assert(wait_until(receiver_poll(&train) == 101, RIG_WAIT_MS));
	ck_assert_uint_eq(train.meta.sequence, 101);
	receiver_close(&train);
}
END_TEST

static void own_transfer(struct transfer *t)
{
	char path[4096], name[64];
	json_t *json;

	transfer_make(t, "pack", -1, "train", NULL);
	rig_ok(sb_format(name, sizeof(name), err, "%s.out", t->m.transfer));
	rig_ok(hub_path(path, sizeof(path), rig.w, "spool", name, err));
	ck_assert_int_eq(rename(t->spool, path), 0);
	json = sb_manifest_json(&t->m);
	sb_cleanup(sb_freep) char *text = json_dumps(json, JSON_COMPACT);
	sb_cleanup(sb_freep) char *sql =
		sb_asprintf("INSERT INTO lifecycle.transfer (id, kind, from_stage, to_stage, manifest, chunks, sealed_bytes, state, "
			    "credit_window, expires_at) "
			    "VALUES ('%s', 'pack', 'hub', 'train', '%s', %" PRIu64 ", %" PRIu64 ", 'offered', 2, now() + interval '1 h')",
			t->m.transfer, text, t->m.chunks, t->m.sealed_bytes);
	json_decref(json);
	rig_run(&rig, sql);
	hub_wake(rig.w, "courier");
}

START_TEST(test_own_transfer)
{
	struct transfer t;
	struct receiver train;
	struct stat st;
	char path[4096], name[64];

	receiver_open(&train, "train", SB_DATA);
	rig_start(&rig, "courier", -1, hub_courier_lane);
	own_transfer(&t);
	/* two chunks without credit, no more */
	ck_assert(wait_until(receiver_poll(&train) == 3, RIG_WAIT_MS));
	rig_await(&rig, "SELECT sent FROM lifecycle.transfer WHERE state = 'sending'", 2);
	ck_assert_uint_eq(receiver_poll(&train), 3);
	rig_stop(&rig);
	rig_run(&rig, "UPDATE lifecycle.transfer SET next = 2");
	rig_start(&rig, "courier", -1, hub_courier_lane);
	uint64_t index = 0, count = 0;
	const char *id = NULL;
	ck_assert(wait_until(receiver_poll(&train) == 1 + t.m.chunks, RIG_WAIT_MS));
	rig_ok(sb_chunk_index(&train.last, &id, &index, &count, err));
	ck_assert_uint_eq(index + 1, t.m.chunks);
	ck_assert_str_eq(id, t.m.transfer);
	/* the receiver lost its spool: another attempt from where it says */
	rig_run(&rig, "UPDATE lifecycle.transfer SET attempt = 2, sent = 1, next = 1");
	hub_wake(rig.w, "courier");
	ck_assert(wait_until(receiver_poll(&train) == 3 + t.m.chunks, RIG_WAIT_MS));
	ck_assert_uint_eq(train.meta.session, 2);
	/* it has all: the spool goes, the row stays for people */
	rig_run(&rig, "UPDATE lifecycle.transfer SET state = 'complete'");
	hub_wake(rig.w, "courier");
	rig_await(&rig, "SELECT count(*) FROM lifecycle.transfer WHERE state = 'done'", 1);
	rig_ok(sb_format(name, sizeof(name), err, "%s.out", t.m.transfer));
	rig_ok(hub_path(path, sizeof(path), rig.w, "spool", name, err));
	ck_assert_int_lt(stat(path, &st), 0);
	receiver_close(&train);
	sb_manifest_release(&t.m);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("hub_relay");
	TCase *tc = tcase_create("all");

	tcase_set_timeout(tc, 90);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_pack_to_hub);
	tcase_add_test(tc, test_spool_ahead_of_row);
	tcase_add_test(tc, test_missing_chunk_is_told);
	tcase_add_test(tc, test_dataset_forwarded);
	tcase_add_test(tc, test_dataset_waits_for_acceptance);
	tcase_add_test(tc, test_dataset_refused);
	tcase_add_test(tc, test_copies);
	tcase_add_test(tc, test_courier);
	tcase_add_test(tc, test_own_transfer);
	suite_add_tcase(s, tc);
	return rig_main(s);
}
