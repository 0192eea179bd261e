/* The courier against a broker: events in order and once acknowledged forgotten, heartbeats that verify and never pile up, transfers within their credit.
 * The test reads as the hub would: every record is verified and judged. A kill is stopping the lane; what the broker had not acknowledged is still there. */
#include <fcntl.h>
#include <unistd.h>

#include "agent_fixture.h"
#include "schema.h"
#include "stagebridge/carrier.h"
#include "stagebridge/file.h"

static struct fix f;
static struct sb_db *db;
static struct sb_mock_broker *broker;
static struct sb_consumer *hub;

static void set_up(void)
{
	struct sb_error err = SB_ERROR_INIT;

	fix_init(&f);
	fix_ok(agent_state_open(&db, &f.a, &err), err);
}

static void broker_start(void)
{
	const char *topics[] = { f.a.topic_up[SB_EVENT], f.a.topic_up[SB_DATA] };
	struct sb_assignment from[] = { { topics[0], SB_OFFSET_BEGINNING }, { topics[1], SB_OFFSET_BEGINNING } };
	struct sb_error err = SB_ERROR_INIT;

	fix_ok(sb_mock_broker_new(&broker, topics, SB_COUNT(topics), &err), err);
	f.a.kafka = (struct sb_kafka_conf){ .servers = sb_mock_broker_servers(broker), .client_id = "test", .fetch_wait_ms = 10 };
	fix_ok(sb_consumer_new(&hub, &f.a.kafka, &err), err);
	fix_ok(sb_consumer_assign(hub, from, SB_COUNT(from), &err), err);
}

static void broker_stop(void)
{
	sb_consumer_free(hub);
	hub = NULL;
	sb_mock_broker_free(broker);
	broker = NULL;
}

static void courier_start(void)
{
	struct sb_error err = SB_ERROR_INIT;

	fix_ok(sb_lanes_new(&f.a.lanes, &err), err);
	fix_ok(sb_lanes_start(f.a.lanes, "courier", agent_courier_lane, &f.a, &err), err);
}

static void courier_stop(void)
{
	struct sb_error err = SB_ERROR_INIT;

	if (!f.a.lanes)
		return;
	fix_ok(sb_lanes_stop(f.a.lanes, 10000, &err), err);
	sb_lanes_free(f.a.lanes);
	f.a.lanes = NULL;
}

static void tear_down(void)
{
	courier_stop();
	broker_stop();
	sb_db_close(db);
	fix_release(&f);
}

static void put(int n)
{
	struct sb_error err = SB_ERROR_INIT;
	json_t *v = json_pack("{s:i}", "n", n);

	fix_ok(sb_db_begin(db, &err), err);
	fix_ok(agent_outbox_put(&f.a, db, SB_EV_AGENT_STARTED, FIX_STAGE, v, &err), err);
	fix_ok(sb_db_commit(db, &err), err);
	json_decref(v);
	agent_wake_courier(&f.a);
}

/* The next record of a stream; others are passed over, all are verified. value (new) when asked for. */
static bool receive(const char *stream, struct sb_meta *meta, struct sb_record *keep, json_t **value)
{
	static struct sb_record scratch;
	struct sb_error err = SB_ERROR_INIT;
	int64_t until = sb_mono_ms() + 15000;

	while (sb_mono_ms() < until) {
		struct sb_inrecord ir;
		int r = sb_consumer_poll(hub, 100, &ir, &err);
		fix_ok(r, err);
		if (r == 0)
			continue;
		ck_assert_int_eq(ir.malformed, SB_OK);
		fix_ok(sb_record_verify(&ir.rec, f.keys.keyring, DEVKEYS_TENANT, "hub", sb_wall_ms(), meta, &err), err);
		bool wanted = strcmp(meta->stream, stream) == 0;
		if (wanted) {
			struct sb_record *to = keep ? keep : &scratch;
			/* meta borrows from the record, which goes with the message: verify the copy instead */
			sb_record_init(to, ir.rec.topic);
			for (unsigned i = 0; i < ir.rec.n_attr; i++) {
				const char *name = NULL, *v = sb_record_attr(&ir.rec, i, &name);
				fix_ok(sb_record_set(to, name, v, &err), err);
			}
			to->value = ir.rec.value;
			to->value_len = ir.rec.value_len;
			fix_ok(sb_record_verify(to, f.keys.keyring, DEVKEYS_TENANT, "hub", sb_wall_ms(), meta, &err), err);
			if (value)
				*value = json_loadb(ir.rec.value, ir.rec.value_len, 0, NULL);
		}
		sb_inrecord_release(&ir);
		if (wanted)
			return true;
	}
	return false;
}

static void expect_events(int first, int last, struct sb_stream_in *in, bool new_stream)
{
	struct sb_meta meta;

	for (int i = first; i <= last; i++) {
		json_t *v = NULL;
		ck_assert_msg(receive("event", &meta, NULL, &v), "event %d did not come", i);
		ck_assert_int_eq(json_integer_value(json_object_get(v, "n")), i);
		json_decref(v);
		ck_assert_int_eq(sb_stream_judge(new_stream ? NULL : in, &meta), new_stream ? SB_NEW_SESSION : SB_APPLY);
		sb_stream_advance(in, &meta);
		new_stream = false;
	}
}

START_TEST(test_events_in_order)
{
	struct sb_stream_in in;

	broker_start();
	for (int i = 0; i < 300; i++) /* more than may be in flight */
		put(i);
	courier_start();
	expect_events(0, 299, &in, true);
	ck_assert(wait_until(fix_number(db, "SELECT count(*) FROM outbox") == 0, 10000));
	put(300); /* the wake-up, not the idle time, brings it */
	int64_t before = sb_mono_ms();
	expect_events(300, 300, &in, false);
	ck_assert_int_lt(sb_mono_ms() - before, 3000);
	courier_stop();
	put(301);
	courier_start();
	expect_events(301, 301, &in, false);
}
END_TEST

/* The broker is away: events wait, heartbeats do not pile up, and when there is a broker again everything goes from the first that was not acknowledged. */
START_TEST(test_broker_lost_and_replaced)
{
	struct sb_stream_in in;
	struct sb_meta meta;

	f.a.set.heartbeat.interval_ms = 100;
	broker_start();
	put(0);
	courier_start();
	expect_events(0, 0, &in, true);
	ck_assert(wait_until(fix_number(db, "SELECT count(*) FROM outbox") == 0, 10000));
	broker_stop();
	for (int i = 1; i <= 5; i++)
		put(i);
	int64_t until = sb_mono_ms() + 1500; /* fifteen intervals without a broker */
	ck_assert(!wait_until(fix_number(db, "SELECT count(*) FROM outbox") < 5, until - sb_mono_ms()));
	courier_stop();
	ck_assert_int_eq(fix_number(db, "SELECT count(*) FROM outbox"), 5);
	broker_start();
	courier_start();
	expect_events(1, 5, &in, false);
	ck_assert(receive("heartbeat", &meta, NULL, NULL));
	ck_assert_uint_le(meta.sequence, 3); /* a stream of its own for this run, none of those that were due meanwhile */
	ck_assert(wait_until(fix_number(db, "SELECT count(*) FROM outbox") == 0, 10000));
}
END_TEST

/* The broker took the records, but the acknowledgement was lost with the agent: they come again and are known by their place. */
START_TEST(test_repeat_is_a_duplicate)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_stream_in in;
	struct sb_meta meta;

	broker_start();
	put(0);
	put(1);
	fix_ok(sb_db_script(db, "CREATE TABLE kept AS SELECT * FROM outbox", &err), err);
	courier_start();
	expect_events(0, 1, &in, true);
	ck_assert(wait_until(fix_number(db, "SELECT count(*) FROM outbox") == 0, 10000));
	courier_stop();
	fix_ok(sb_db_script(db, "INSERT INTO outbox SELECT * FROM kept", &err), err);
	courier_start();
	for (int i = 0; i < 2; i++) {
		ck_assert(receive("event", &meta, NULL, NULL));
		ck_assert_int_eq(sb_stream_judge(&in, &meta), SB_DUPLICATE);
	}
	put(2);
	expect_events(2, 2, &in, false);
}
END_TEST

/* What SPEC.md says of the digest, for the two streams of the test. "entity/..." sorts before "event". */
static const char *digest_of(const struct sb_stream_out *entity, const char *heartbeat_source, int64_t created)
{
	static char hex[65];
	struct sb_error err = SB_ERROR_INIT;
	char text[600], path[TEST_PATH_MAX];
	uint64_t n = 0;
	int prefix = (int)(strlen(heartbeat_source) - strlen("heartbeat"));

	(void)snprintf(text, sizeof(text), "%s 77 12\n%.*sevent %" PRId64 " 1\n", entity->source, prefix, heartbeat_source, created);
	test_path(path, "digest");
	fix_ok(sb_file_write(path, text, strlen(text), 0600, &err), err);
	fix_ok(sb_file_sha256(path, hex, &n, &err), err);
	return hex;
}

#define COMMIT "0123456789012345678901234567890123456789"

START_TEST(test_heartbeat)
{
	struct sb_error err = SB_ERROR_INIT;
	struct agent_source_state src = { .name = "app", .kind = "postgres", .state = "streaming", .slot_state = "reserved", .lag_bytes = 42, .lag_ms = 7,
		.acked_lsn = 0x16B3748, .types = "experiment,annotation" };
	struct sb_stream_out entity;
	struct sb_meta meta;
	uint64_t first_session = 0;

	sb_stream_out_init(&entity, DEVKEYS_TENANT, FIX_STAGE, "entity/experiment", 77, true);
	entity.sequence = 12;
	agent_board_head(&f.a, &entity);
	agent_board_source(&f.a, &src);
	fix_ok(sb_db_script(db, "INSERT INTO deployment(origin, artifact, commit_oid, tree, manifest, state, since_ms) VALUES ('model', 'aa', '" COMMIT "', 'tt', '{}', 'healthy', 0)",
		&err), err);
	f.a.set.heartbeat.interval_ms = 200;
	broker_start();
	put(0);
	for (int run = 0; run < 2; run++) {
		json_t *v = NULL;
		bool event_head = false;
		size_t i;
		json_t *h;

		courier_start();
		/* the second of a run: by then the event is on the broker */
		ck_assert(receive("heartbeat", &meta, NULL, NULL));
		ck_assert_uint_eq(meta.sequence, 1);
		ck_assert(wait_until(fix_number(db, "SELECT count(*) FROM outbox") == 0, 10000));
		for (int k = 0; k < 2; k++) {
			json_decref(v);
			ck_assert(receive("heartbeat", &meta, NULL, &v));
		}
		ck_schema("heartbeat.sent", v);
		ck_assert_int_gt(meta.expiry_ms, meta.time_ms + 500);
		ck_assert_int_le(meta.expiry_ms, meta.time_ms + 700);
		ck_assert_int_eq(json_integer_value(json_object_get(v, "session")), 1);
		ck_assert_int_eq(json_integer_value(json_object_get(v, "interval_ms")), 200);
		ck_assert_int_eq(json_integer_value(json_object_get(v, "outbox_depth")), 0);
		ck_assert_str_eq(json_string_value(json_object_get(v, "as_of")), "16B3748.0");
		ck_assert(json_is_true(json_object_get(v, "lanes_ok")));
		ck_assert_uint_eq(json_array_size(json_object_get(v, "heads")), 2);
		json_array_foreach(json_object_get(v, "heads"), i, h) {
			const char *source = json_string_value(json_object_get(h, "source"));
			json_int_t sequence = json_integer_value(json_object_get(h, "sequence"));
			if (strcmp(source, entity.source) == 0) {
				ck_assert_int_eq(sequence, 12);
			} else {
				event_head = strcmp(source, "stagebridge://acme/train/agent/event") == 0;
				ck_assert_int_eq(sequence, 1);
			}
		}
		ck_assert(event_head);
		ck_assert_str_eq(json_string_value(json_object_get(v, "digest")), digest_of(&entity, meta.source, fix_number(db, "SELECT value FROM meta WHERE key = 'created'")));
		json_t *s = json_array_get(json_object_get(v, "sources"), 0);
		ck_assert_str_eq(json_string_value(json_object_get(s, "slot_state")), "reserved");
		ck_assert_uint_eq(json_array_size(json_object_get(s, "types")), 2);
		json_t *o = json_array_get(json_object_get(v, "occupancy"), 0);
		ck_assert_str_eq(json_string_value(json_object_get(o, "artifact")), "aa");
		json_decref(v);
		/* a restart begins the stream anew with a higher session */
		if (run == 0)
			first_session = meta.session;
		else
			ck_assert_uint_gt(meta.session, first_session);
		courier_stop();
		broker_stop();
		broker_start();
	}
}
END_TEST

/* --- transfers --- */

static void make_transfer(struct sb_manifest *m, char plain[TEST_PATH_MAX], size_t bytes)
{
	struct sb_error err = SB_ERROR_INIT;
	char spool[TEST_PATH_MAX];
	char *data = malloc(bytes);
	uint64_t x = 88172645463325252u;

	for (size_t i = 0; i < bytes; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		data[i] = (char)(x >> 32);
	}
	test_path(plain, "plain");
	fix_ok(sb_file_write(plain, data, bytes, 0600, &err), err);
	free(data);
	memset(m, 0, sizeof(*m));
	sb_id_new(m->transfer);
	(void)snprintf(m->kind, sizeof(m->kind), "pack");
	(void)snprintf(m->from, sizeof(m->from), FIX_STAGE);
	(void)snprintf(m->to, sizeof(m->to), "hub");
	m->expires_ms = sb_wall_ms() + 3600000;
	m->meta = json_object();
	fix_ok(agent_state_spool(spool, sizeof(spool), &f.a, m->transfer, false, &err), err);
	fix_ok(sb_carrier_seal(m, plain, spool, sb_keyring_find(f.keys.keyring, sb_identity_kid(f.keys.hub)), &err), err);
	fix_ok(agent_transfer_send(&f.a, db, m, &err), err);
}

static void expect_chunk(const struct sb_manifest *m, uint64_t want, uint64_t attempt, int fd, uint64_t *next)
{
	static struct sb_record rec;
	struct sb_error err = SB_ERROR_INIT;
	int64_t until = sb_mono_ms() + 15000;
	struct sb_meta meta;

	while (sb_mono_ms() < until) {
		struct sb_inrecord ir;
		uint64_t index = 0, count = 0;
		const char *id = NULL;
		int r = sb_consumer_poll(hub, 100, &ir, &err);
		fix_ok(r, err);
		if (r == 0)
			continue;
		fix_ok(sb_record_verify(&ir.rec, f.keys.keyring, DEVKEYS_TENANT, "hub", sb_wall_ms(), &meta, &err), err);
		if (meta.event != SB_EV_TRANSFER_CHUNK) {
			sb_inrecord_release(&ir);
			continue;
		}
		rec = ir.rec;
		fix_ok(sb_chunk_index(&rec, &id, &index, &count, &err), err);
		ck_assert_str_eq(id, m->transfer);
		ck_assert_uint_eq(index, want);
		ck_assert_uint_eq(count, m->chunks);
		ck_assert_uint_eq(meta.session, attempt);
		ck_assert_uint_eq(meta.sequence, want + 2);
		fix_ok(sb_spool_append(fd, m, next, index, ir.rec.value, ir.rec.value_len, &err), err);
		sb_inrecord_release(&ir);
		return;
	}
	ck_abort_msg("chunk %" PRIu64 " did not come", want);
}

static bool data_silent(int64_t ms)
{
	struct sb_error err = SB_ERROR_INIT;
	int64_t until = sb_mono_ms() + ms;
	bool silent = true;

	while (sb_mono_ms() < until) {
		struct sb_inrecord ir;
		int r = sb_consumer_poll(hub, 50, &ir, &err);
		fix_ok(r, err);
		if (r == 0)
			continue;
		silent = silent && strcmp(ir.rec.topic, f.a.topic_up[SB_DATA]) != 0;
		sb_inrecord_release(&ir);
	}
	return silent;
}

static void credit(const char *state, int64_t next)
{
	struct sb_error err = SB_ERROR_INIT;

	fix_ok(sb_db_run(db, NULL, &err, "UPDATE transfer_out SET credited = ?, state = ?", "is", next, state), err);
	agent_wake_courier(&f.a);
}

START_TEST(test_transfer_within_credit)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_manifest m, got = { .meta = NULL };
	char plain[TEST_PATH_MAX], path[TEST_PATH_MAX], out[TEST_PATH_MAX], a[65], b[65];
	struct sb_meta meta;
	struct sb_record rec;
	json_t *offer = NULL;
	char stream[64];
	uint64_t next = 0, n = 0;

	f.a.set.carrier.window = 2;
	broker_start();
	make_transfer(&m, plain, 7 * SB_CHUNK_PLAIN - 1000);
	ck_assert_uint_eq(m.chunks, 7);
	test_path(path, "arriving");
	test_write(path, "", 0600);
	int fd = open(path, O_RDWR);
	(void)snprintf(stream, sizeof(stream), "data/%s", m.transfer);
	courier_start();
	ck_assert(receive(stream, &meta, &rec, &offer));
	ck_assert_int_eq(meta.event, SB_EV_TRANSFER_OFFERED);
	ck_assert_uint_eq(meta.sequence, 1);
	fix_ok(sb_manifest_parse(&got, offer, 1 << 30, &err), err);
	ck_assert_str_eq(got.sealed_sha256, m.sealed_sha256);
	json_decref(offer);
	expect_chunk(&m, 0, 1, fd, &next);
	expect_chunk(&m, 1, 1, fd, &next);
	ck_assert(data_silent(700)); /* no credit, no more */
	credit("open", 2);
	expect_chunk(&m, 2, 1, fd, &next);
	expect_chunk(&m, 3, 1, fd, &next);
	/* killed: goes on from what was credited last, in a new attempt that begins with the manifest */
	ck_assert(wait_until(fix_number(db, "SELECT sent FROM transfer_out") == 4, 5000));
	courier_stop();
	credit("open", 3);
	courier_start();
	ck_assert(receive(stream, &meta, NULL, NULL));
	ck_assert_int_eq(meta.event, SB_EV_TRANSFER_OFFERED);
	ck_assert_uint_eq(meta.session, 2);
	expect_chunk(&m, 3, 2, fd, &next);
	expect_chunk(&m, 4, 2, fd, &next);
	/* the receiver lost one: it asks for everything from there again */
	fix_ok(sb_db_run(db, NULL, &err, "UPDATE transfer_out SET credited = 4, rewind = 1", ""), err);
	agent_wake_courier(&f.a);
	expect_chunk(&m, 4, 3, fd, &next);
	expect_chunk(&m, 5, 3, fd, &next);
	credit("open", 6);
	expect_chunk(&m, 6, 3, fd, &next);
	ck_assert_uint_eq(next, 7);
	test_path(out, "out");
	fix_ok(sb_carrier_open(&m, path, out, 1 << 30, f.keys.hub, &err), err);
	fix_ok(sb_file_sha256(out, a, &n, &err), err);
	fix_ok(sb_file_sha256(plain, b, &n, &err), err);
	ck_assert_str_eq(a, b);
	/* complete: the spool goes, the row stays for people */
	fix_ok(agent_state_spool(path, sizeof(path), &f.a, m.transfer, false, &err), err);
	ck_assert_int_eq(access(path, F_OK), 0);
	credit("complete", 7);
	ck_assert(wait_until(access(path, F_OK) != 0, 10000));
	ck_assert(wait_until(fix_number(db, "SELECT spool FROM transfer_out WHERE state = 'complete'") == 0, 10000));
	close(fd);
	sb_manifest_release(&m);
	sb_manifest_release(&got);
}
END_TEST

START_TEST(test_transfer_that_cannot_go)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_manifest m, late;
	char plain[TEST_PATH_MAX], path[TEST_PATH_MAX], reason[200];

	broker_start();
	make_transfer(&m, plain, 1000);
	fix_ok(agent_state_spool(path, sizeof(path), &f.a, m.transfer, false, &err), err);
	ck_assert_int_eq(unlink(path), 0);
	make_transfer(&late, plain, 1000);
	fix_ok(sb_db_run(db, NULL, &err, "UPDATE transfer_out SET manifest = replace(manifest, substr(json_extract(manifest, '$.expires'), 1, 4), '2020') WHERE id = ?", "s",
		late.transfer), err);
	put(0);
	courier_start();
	ck_assert(wait_until(fix_number(db, "SELECT count(*) FROM transfer_out WHERE state = 'failed'") == 2, 10000));
	fix_text(db, "SELECT group_concat(reason, ' | ') FROM transfer_out", reason, sizeof(reason));
	ck_assert_msg(strstr(reason, "spool cannot be opened"), "%s", reason);
	ck_assert_msg(strstr(reason, "expired"), "%s", reason);
	/* the rest of the lane's work goes on */
	ck_assert(wait_until(fix_number(db, "SELECT count(*) FROM outbox") == 0, 10000));
	sb_manifest_release(&m);
	sb_manifest_release(&late);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("agent courier");
	TCase *tc = tcase_create("courier");

	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, test_events_in_order);
	tcase_add_test(tc, test_broker_lost_and_replaced);
	tcase_add_test(tc, test_repeat_is_a_duplicate);
	tcase_add_test(tc, test_heartbeat);
	tcase_add_test(tc, test_transfer_within_credit);
	tcase_add_test(tc, test_transfer_that_cannot_go);
	suite_add_tcase(s, tc);
	return test_run(s);
}
