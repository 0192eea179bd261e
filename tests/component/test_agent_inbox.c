/* The inbox: orders once, reports into rows, transfers into spools, and what is refused into quarantine. Most tests give records to the inbox as the
 * consumer would; the last one runs the lane against a broker. A kill is closing and opening again: whatever was not committed is gone. */
#include <fcntl.h>
#include <unistd.h>

#include "agent_fixture.h"
#include "schema.h"
#include "stagebridge/carrier.h"
#include "stagebridge/file.h"

static struct fix f;
static struct agent_inbox in;

static void set_up(void)
{
	struct sb_error err = SB_ERROR_INIT;

	fix_init(&f);
	fix_ok(agent_inbox_open(&in, &f.a, &err), err);
}

/* Whatever a test made the inbox say follows the contract. */
static void check_outbox(void)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_stmt *st = NULL;

	fix_ok(sb_db_query(in.db, &st, &err, "SELECT attrs, value FROM outbox", ""), err);
	while (sb_db_step(st, &err) > 0) {
		struct sb_record rec;
		size_t n = 0;
		const void *attrs = sb_db_blob(st, 0, &n);
		sb_record_init(&rec, "t");
		fix_ok(agent_attrs_unpack(&rec, attrs, n, &err), err);
		const void *value = sb_db_blob(st, 1, &n);
		json_t *v = json_loadb(value, n, 0, NULL);
		ck_schema(sb_event_info((enum sb_event)sb_event_find(sb_record_get(&rec, "type")))->name, v);
		json_decref(v);
	}
	sb_db_done(st);
}

static void tear_down(void)
{
	check_outbox();
	agent_inbox_close(&in);
	fix_release(&f);
}

static void kill_and_restart(void)
{
	struct sb_error err = SB_ERROR_INIT;

	agent_inbox_close(&in);
	fix_ok(agent_inbox_open(&in, &f.a, &err), err);
}

static void take(const struct sb_inrecord *ir)
{
	struct sb_error err = SB_ERROR_INIT;

	fix_ok(agent_inbox_take(&in, ir, &err), err);
}

static void say(enum sb_event event, const char *key, const char *value)
{
	struct sb_inrecord ir;

	fix_event(&f, &ir, event, key, value);
	take(&ir);
}

static void sql(const char *text)
{
	struct sb_error err = SB_ERROR_INIT;

	fix_ok(sb_db_script(in.db, text, &err), err);
}

static int64_t number(const char *query)
{
	return fix_number(in.db, query);
}

#define QUARANTINED number("SELECT count(*) FROM quarantine")
#define text_is(query, want)                                              \
	do {                                                              \
		char _text[1024];                                         \
		fix_text(in.db, query, _text, sizeof(_text));             \
		ck_assert_str_eq(_text, want);                            \
	} while (0)

static const char *problem(void)
{
	return f.a.board.n_sources ? f.a.board.source[0].state : "";
}

/* --- orders --- */

static const char order[] = "{\"promotion\":\"pr1\",\"attempt\":1,\"lease\":5,\"origin\":\"model\",\"artifact\":\"aa\",\"commit\":\"cc\",\"tree\":\"tt\","
	"\"expected_current\":\"\",\"kind\":\"auto\",\"transfer\":\"\",\"manifest\":{},\"deadline\":\"2030-01-01T00:00:00.000Z\"}";

START_TEST(test_order_once)
{
	struct sb_inrecord ir;

	fix_event(&f, &ir, SB_EV_DEPLOYMENT_ORDERED, "model", order);
	take(&ir);
	take(&ir); /* read again: a duplicate by its place */
	kill_and_restart();
	take(&ir);
	say(SB_EV_DEPLOYMENT_ORDERED, "model", order); /* the hub says it again: the same promotion and attempt */
	ck_assert_int_eq(number("SELECT count(*) FROM job WHERE kind = 'deploy' AND ref = 'pr1/1' AND state = 'queued'"), 1);
	ck_assert_int_eq(number("SELECT count(*) FROM deploy_order"), 1);
	ck_assert_int_eq(number("SELECT lease FROM fence WHERE origin = 'model'"), 5);
	ck_assert_int_eq(number("SELECT count(*) FROM outbox"), 0); /* not looked at yet: nothing to report */
	ck_assert_int_eq(number("SELECT next_offset FROM down_offset"), 2);
	ck_assert_int_eq(QUARANTINED, 0);
	text_is("SELECT json_extract(payload, '$.commit') FROM job", "cc");
}
END_TEST

START_TEST(test_order_repeated_is_reported_again)
{
	say(SB_EV_DEPLOYMENT_ORDERED, "model", order);
	sql("UPDATE deploy_order SET state = 'healthy', report = 'all is well'");
	say(SB_EV_DEPLOYMENT_ORDERED, "model", order);
	ck_assert_int_eq(number("SELECT count(*) FROM outbox"), 1);
	text_is("SELECT json_extract(CAST(value AS TEXT), '$.state') FROM outbox", "healthy");
	text_is("SELECT json_extract(CAST(value AS TEXT), '$.reason') FROM outbox", "all is well");
	ck_assert_int_eq(number("SELECT count(*) FROM job"), 1);
}
END_TEST

START_TEST(test_order_fenced)
{
	say(SB_EV_DEPLOYMENT_ORDERED, "model", order);
	say(SB_EV_DEPLOYMENT_ORDERED, "model", "{\"promotion\":\"pr0\",\"attempt\":2,\"lease\":4,\"origin\":\"model\",\"artifact\":\"bb\",\"commit\":\"cc\",\"tree\":\"tt\"}");
	ck_assert_int_eq(number("SELECT count(*) FROM job"), 1);
	ck_assert_int_eq(number("SELECT lease FROM fence"), 5);
	text_is("SELECT json_extract(CAST(value AS TEXT), '$.state') FROM outbox", "errored");
	text_is("SELECT json_extract(CAST(value AS TEXT), '$.promotion') FROM outbox", "pr0");
	/* another origin has a fence of its own */
	say(SB_EV_DEPLOYMENT_ORDERED, "other", "{\"promotion\":\"pr2\",\"attempt\":1,\"lease\":4,\"origin\":\"other\",\"artifact\":\"bb\",\"commit\":\"cc\",\"tree\":\"tt\"}");
	ck_assert_int_eq(number("SELECT count(*) FROM job"), 2);
}
END_TEST

START_TEST(test_dataset_ordered_and_answered)
{
	say(SB_EV_DATASET_ORDERED, "r1", "{\"request\":\"r1\",\"dataset\":\"patients\",\"to\":\"dev\",\"user\":\"ana\",\"purpose\":\"tests\"}");
	ck_assert_int_eq(number("SELECT count(*) FROM job WHERE kind = 'dataset' AND ref = 'r1'"), 1);
	text_is("SELECT role || ' ' || peer || ' ' || state FROM dataset WHERE request = 'r1'", "produce dev ordered");
	sql("INSERT INTO dataset(request, dataset, peer, role, user, purpose, state, created_ms, updated_ms) VALUES "
	    "('r2', 'd', 'prod', 'receive', 'ana', 'p', 'requested', 1, 1), ('r3', 'd', 'prod', 'receive', 'ana', 'p', 'delivered', 1, 1)");
	say(SB_EV_DATASET_ANSWERED, "r2", "{\"request\":\"r2\",\"dataset\":\"d\",\"from\":\"prod\",\"state\":\"refused\",\"reason_code\":\"k\",\"reason\":\"too few\",\"transfer\":\"\",\"policy_digest\":\"\",\"rows\":0}");
	say(SB_EV_DATASET_ANSWERED, "r3", "{\"request\":\"r3\",\"dataset\":\"d\",\"from\":\"prod\",\"state\":\"produced\",\"reason_code\":\"\",\"reason\":\"\",\"transfer\":\"t\",\"policy_digest\":\"\",\"rows\":7}");
	text_is("SELECT state || ' ' || reason FROM dataset WHERE request = 'r2'", "refused too few");
	text_is("SELECT state FROM dataset WHERE request = 'r3'", "delivered"); /* a late answer does not undo the arrival */
}
END_TEST

START_TEST(test_reports_set_rows)
{
	sql("INSERT INTO push(id, origin, branch, head, base, title, body, user, transfer, state, created_ms, updated_ms) VALUES "
	    "('p1', 'model', 'b', 'h', '', 't', '', 'ana', 'tr', 'waiting', 1, 1)");
	sql("INSERT INTO request(id, action, payload, state, created_ms, updated_ms) VALUES ('q1', 'promote', '{}', 'requested', 1, 1)");
	say(SB_EV_PUSH_REPORTED, "p1", "{\"push\":\"p1\",\"state\":\"opened\",\"url\":\"https://x/1\",\"number\":7,\"reason\":\"\"}");
	say(SB_EV_PROMOTION_REPORTED, "q1", "{\"request\":\"q1\",\"promotion\":\"pr9\",\"stage\":\"train\",\"origin\":\"model\",\"artifact\":\"a\",\"state\":\"GATED\",\"reason\":\"soak\",\"gates\":[\"soak: 2 h left\"]}");
	text_is("SELECT state || ' ' || url || ' ' || number FROM push", "opened https://x/1 7");
	text_is("SELECT state || ' ' || promotion || ' ' || gates FROM request", "GATED pr9 [\"soak: 2 h left\"]");
	/* later steps name the promotion alone */
	say(SB_EV_PROMOTION_REPORTED, "pr9", "{\"request\":\"\",\"promotion\":\"pr9\",\"stage\":\"train\",\"origin\":\"model\",\"artifact\":\"a\",\"state\":\"SUCCEEDED\",\"reason\":\"\",\"gates\":[]}");
	text_is("SELECT state FROM request", "SUCCEEDED");
	say(SB_EV_GIT_UPDATED, "model", "{\"origin\":\"model\",\"refs\":[{\"name\":\"refs/heads/main\",\"oid\":\"00\"}],\"pulls\":[{\"number\":3,\"title\":\"T\",\"state\":\"open\",\"head\":\"h\",\"base\":\"main\",\"user\":\"ana\",\"url\":\"u\",\"updated_at\":\"2026-01-01T00:00:00.000Z\"}],\"transfer\":\"\"}");
	text_is("SELECT origin || number || state FROM pull", "model3open");
	ck_assert_int_eq(number("SELECT count(*) FROM job WHERE kind = 'git' AND ref LIKE 'refs/model/%'"), 1);
	ck_assert_int_eq(QUARANTINED, 0);
}
END_TEST

#define RESYNC(type, reason, asked, cancel) "{\"type\":\"" type "\",\"reason\":\"" reason "\",\"asked\":\"" asked "\",\"cancel\":" cancel "}"

/* What a person asks for never drops what is needed, and only that can be taken back. */
START_TEST(test_resync_asked_and_cancelled)
{
	struct agent_table table = { .table = (char[]){ "app.item" }, .type = (char[]){ "item" } };
	struct agent_pg_source pg = { .name = (char[]){ "main" }, .tables = { &table, 1 } };

	f.a.set.postgres = (struct sb_list){ .item = &pg, .count = 1 };
	say(SB_EV_RESYNC_ORDERED, "item", RESYNC("item", "gap", "", "false"));
	say(SB_EV_RESYNC_ORDERED, "item", RESYNC("item", "rows differ", "ana", "false"));
	text_is("SELECT state || ' ' || reason || ' ' || asked FROM snapshot", "wanted gap ");
	say(SB_EV_RESYNC_ORDERED, "item", RESYNC("item", "", "ana", "true"));
	text_is("SELECT state || ' ' || reason FROM snapshot", "wanted gap");
	sql("UPDATE snapshot SET state = 'done'");
	say(SB_EV_RESYNC_ORDERED, "item", RESYNC("item", "rows differ", "ana", "false"));
	text_is("SELECT state || ' ' || reason || ' ' || asked FROM snapshot", "wanted rows differ ana");
	say(SB_EV_RESYNC_ORDERED, "item", RESYNC("item", "", "ana", "true"));
	text_is("SELECT state || ' ' || reason FROM snapshot", "cancelled cancelled");
	/* what is needed comes before what is being taken back */
	say(SB_EV_RESYNC_ORDERED, "item", RESYNC("item", "gap", "", "false"));
	text_is("SELECT state || ' ' || reason || ' ' || asked FROM snapshot", "wanted gap ");
	ck_assert_int_eq(QUARANTINED, 0);
	f.a.set.postgres = (struct sb_list){ .count = 0 };
}
END_TEST

START_TEST(test_resync_and_credit)
{
	struct agent_dir_source dir = { .name = f.dir, .type = (char[]){ "card" } };

	dir.name = (char[]){ "cards" };
	f.a.set.directories = (struct sb_list){ .item = &dir, .count = 1 };
	say(SB_EV_RESYNC_ORDERED, "card", RESYNC("card", "gap", "", "false"));
	text_is("SELECT source || ' ' || type || ' ' || state || ' ' || reason FROM snapshot", "cards card wanted gap");
	sql("UPDATE snapshot SET state = 'done'");
	say(SB_EV_RESYNC_ORDERED, "card", RESYNC("card", "again", "", "false"));
	text_is("SELECT state || ' ' || reason FROM snapshot", "wanted again");
	say(SB_EV_RESYNC_ORDERED, "other", RESYNC("other", "", "", "false"));
	ck_assert_int_eq(number("SELECT count(*) FROM snapshot"), 1);

	sql("INSERT INTO transfer_out(id, kind, manifest, window, updated_ms) VALUES ('t1', 'pack', '{}', 4, 1), ('t2', 'pack', '{}', 4, 1)");
	sql("INSERT INTO push(id, origin, branch, head, base, title, body, user, transfer, state, created_ms, updated_ms) VALUES "
	    "('p2', 'model', 'b', 'h', '', 't', '', 'ana', 't2', 'waiting', 1, 1)");
	say(SB_EV_CREDIT_RELAYED, "t1", "{\"transfer\":\"t1\",\"next\":6,\"window\":8,\"state\":\"receiving\",\"reason\":\"\"}");
	say(SB_EV_CREDIT_RELAYED, "t1", "{\"transfer\":\"t1\",\"next\":4,\"window\":8,\"state\":\"receiving\",\"reason\":\"\"}"); /* credit never goes back */
	text_is("SELECT credited || ' ' || window || ' ' || rewind FROM transfer_out WHERE id = 't1'", "6 8 0");
	say(SB_EV_CREDIT_RELAYED, "t1", "{\"transfer\":\"t1\",\"next\":6,\"window\":8,\"state\":\"receiving\",\"reason\":\"chunk 6 is missing\"}");
	ck_assert_int_eq(number("SELECT rewind FROM transfer_out WHERE id = 't1'"), 1);
	say(SB_EV_CREDIT_RELAYED, "t1", "{\"transfer\":\"t1\",\"next\":9,\"window\":8,\"state\":\"complete\",\"reason\":\"\"}");
	text_is("SELECT state FROM transfer_out WHERE id = 't1'", "complete");
	say(SB_EV_CREDIT_RELAYED, "t2", "{\"transfer\":\"t2\",\"next\":0,\"window\":8,\"state\":\"failed\",\"reason\":\"too large\"}");
	text_is("SELECT state || ': ' || reason FROM push", "refused: too large"); /* the pusher learns of it */
	f.a.set.directories = (struct sb_list){ .count = 0 };
}
END_TEST

/* --- what is refused --- */

START_TEST(test_poison_is_set_aside)
{
	struct sb_inrecord ir;
	char value[] = "{\"push\":\"p1\",\"state\":\"opened\",\"url\":\"\",\"number\":7,\"reason\":\"\"}";

	say(SB_EV_PUSH_REPORTED, "p", "{\"push\":\"p1\",\"state\":17}");             /* a field is missing */
	say(SB_EV_PUSH_REPORTED, "p", "[1,2]");                                        /* not an object */
	say(SB_EV_PUSH_REPORTED, "p", "{\"push\":\"p1\",\"push\":\"p2\"}");          /* the same key twice */
	say(SB_EV_DEPLOYMENT_ORDERED, "p", "{\"promotion\":\"p\",\"attempt\":1,\"lease\":1,\"origin\":\"../x\",\"artifact\":\"a\"}");
	ck_assert_int_eq(QUARANTINED, 4);
	ck_assert_int_eq(number("SELECT count(*) FROM quarantine WHERE class = 'data'"), 4);
	fix_event(&f, &ir, SB_EV_PUSH_REPORTED, "p", value);
	value[10] = 'x'; /* changed on the broker */
	take(&ir);
	text_is("SELECT class FROM quarantine ORDER BY id DESC LIMIT 1", "forge");
	ir = (struct sb_inrecord){ .malformed = SB_EPROTO, .malformed_reason = "too many headers", .offset = f.offset++ };
	sb_record_init(&ir.rec, f.a.topic_down[SB_EVENT]);
	take(&ir);
	text_is("SELECT class || ': ' || reason FROM quarantine ORDER BY id DESC LIMIT 1", "malf: too many headers");
	ck_assert_int_eq(number("SELECT next_offset FROM down_offset"), 6);
	ck_assert_int_eq(number("SELECT count(*) FROM job"), 0);
	/* what was refused for its content still has its place: what follows it is no gap, what follows the forged one is */
	ck_assert_str_eq(problem(), "");
	say(SB_EV_DEPLOYMENT_ORDERED, "model", order);
	ck_assert_str_eq(problem(), "gap");
	ck_assert_int_eq(number("SELECT count(*) FROM job"), 1);
}
END_TEST

START_TEST(test_places_in_the_stream)
{
	struct sb_inrecord ir;
	struct sb_stream_out before, zombie;

	say(SB_EV_DATASET_ORDERED, "r1", "{\"request\":\"r1\",\"dataset\":\"d\",\"to\":\"dev\",\"user\":\"a\",\"purpose\":\"p\"}");
	before = f.hub;
	zombie = f.hub;
	say(SB_EV_DATASET_ORDERED, "r2", "{\"request\":\"r2\",\"dataset\":\"d\",\"to\":\"dev\",\"user\":\"a\",\"purpose\":\"p\"}");
	/* the same place, other content */
	f.hub = before;
	fix_event(&f, &ir, SB_EV_DATASET_ORDERED, "rx", "{\"request\":\"rx\",\"dataset\":\"d\",\"to\":\"dev\",\"user\":\"a\",\"purpose\":\"p\"}");
	take(&ir);
	text_is("SELECT class FROM quarantine ORDER BY id DESC LIMIT 1", "equivocation");
	/* the hub's store was made anew: a later session, from the start */
	sb_stream_out_init(&f.hub, DEVKEYS_TENANT, "hub", "event/" FIX_STAGE, 2000, true);
	say(SB_EV_DATASET_ORDERED, "r3", "{\"request\":\"r3\",\"dataset\":\"d\",\"to\":\"dev\",\"user\":\"a\",\"purpose\":\"p\"}");
	ck_assert_str_eq(problem(), "");
	/* the old one speaks again */
	before = f.hub;
	f.hub = zombie;
	fix_event(&f, &ir, SB_EV_DATASET_ORDERED, "rz", "{\"request\":\"rz\",\"dataset\":\"d\",\"to\":\"dev\",\"user\":\"a\",\"purpose\":\"p\"}");
	take(&ir);
	text_is("SELECT class FROM quarantine ORDER BY id DESC LIMIT 1", "zombie");
	/* a hole: applied, and reported */
	f.hub = before;
	f.hub.sequence += 3;
	say(SB_EV_DATASET_ORDERED, "r4", "{\"request\":\"r4\",\"dataset\":\"d\",\"to\":\"dev\",\"user\":\"a\",\"purpose\":\"p\"}");
	ck_assert_str_eq(problem(), "gap");
	text_is("SELECT group_concat(ref, ' ') FROM job", "r1 r2 r3 r4");
	ck_assert_int_eq(QUARANTINED, 2);
}
END_TEST

START_TEST(test_quarantine_is_bounded)
{
	struct sb_inrecord ir = { .malformed = SB_EPROTO, .malformed_reason = "bad" };

	sb_record_init(&ir.rec, f.a.topic_down[SB_EVENT]);
	sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200) "
	    "INSERT INTO quarantine(at_ms, topic, record_offset, class, reason) SELECT 1, 't', i, 'c', 'r' FROM n");
	take(&ir);
	ck_assert_int_eq(QUARANTINED, 1000);
	text_is("SELECT reason FROM quarantine ORDER BY id DESC LIMIT 1", "bad");
}
END_TEST

/* --- transfers --- */

struct cargo { struct sb_manifest m; char *offer; char spool[TEST_PATH_MAX], plain[TEST_PATH_MAX]; int fd; int64_t offset; };

static void cargo_make(struct cargo *c, const char *kind, size_t bytes)
{
	struct sb_error err = SB_ERROR_INIT;
	char *data = malloc(bytes);
	const struct sb_key *to = sb_keyring_find(f.keys.keyring, sb_identity_kid(f.keys.train));

	/* does not compress: the number of chunks follows from the size */
	uint64_t x = 88172645463325252u;
	for (size_t i = 0; i < bytes; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		data[i] = (char)(x >> 32);
	}
	memset(c, 0, sizeof(*c));
	test_path(c->plain, "plain");
	test_path(c->spool, "sealed");
	fix_ok(sb_file_write(c->plain, data, bytes, 0600, &err), err);
	free(data);
	sb_id_new(c->m.transfer);
	(void)snprintf(c->m.kind, sizeof(c->m.kind), "%s", kind);
	(void)snprintf(c->m.from, sizeof(c->m.from), "hub");
	(void)snprintf(c->m.to, sizeof(c->m.to), FIX_STAGE);
	c->m.expires_ms = sb_wall_ms() + 3600000;
	c->m.meta = json_object();
	fix_ok(sb_carrier_seal(&c->m, c->plain, c->spool, to, &err), err);
	json_t *j = sb_manifest_json(&c->m);
	c->offer = json_dumps(j, JSON_COMPACT);
	json_decref(j);
	c->fd = open(c->spool, O_RDONLY);
	ck_assert_int_ge(c->fd, 0);
}

static void cargo_release(struct cargo *c)
{
	close(c->fd);
	free(c->offer);
	sb_manifest_release(&c->m);
}

static void offer(struct cargo *c, uint64_t attempt)
{
	struct sb_inrecord ir;

	fix_data(&f, &ir, &c->m, -1, attempt, c->offer, strlen(c->offer), c->offset++);
	take(&ir);
}

static void chunk(struct cargo *c, uint64_t i, uint64_t attempt)
{
	static uint8_t buf[SB_CHUNK_SEALED];
	struct sb_error err = SB_ERROR_INIT;
	struct sb_inrecord ir;
	size_t n = 0;

	fix_ok(sb_spool_read(c->fd, &c->m, i, buf, &n, &err), err);
	fix_data(&f, &ir, &c->m, (int64_t)i, attempt, buf, n, c->offset++);
	take(&ir);
}

#define CREDITS number("SELECT count(*) FROM outbox")
#define LAST_CREDIT "SELECT json_extract(CAST(value AS TEXT), '$.state') || ' ' || json_extract(CAST(value AS TEXT), '$.next') || ' ' || " \
	"json_extract(CAST(value AS TEXT), '$.reason') FROM outbox ORDER BY id DESC LIMIT 1"

static void arrived_whole(struct cargo *c)
{
	struct sb_error err = SB_ERROR_INIT;
	char spool[TEST_PATH_MAX], out[TEST_PATH_MAX], a[65], b[65];
	uint64_t n = 0;

	text_is("SELECT state FROM transfer_in", "complete");
	fix_ok(agent_state_spool(spool, sizeof(spool), &f.a, c->m.transfer, true, &err), err);
	test_path(out, "out");
	fix_ok(sb_carrier_open(&c->m, spool, out, 1 << 30, f.keys.train, &err), err);
	fix_ok(sb_file_sha256(out, a, &n, &err), err);
	fix_ok(sb_file_sha256(c->plain, b, &n, &err), err);
	ck_assert_str_eq(a, b);
}

START_TEST(test_transfer_arrives)
{
	struct cargo c;

	cargo_make(&c, "pack", 5 * SB_CHUNK_PLAIN - 1000);
	ck_assert_uint_eq(c.m.chunks, 5);
	offer(&c, 1);
	ck_assert_int_eq(CREDITS, 0); /* the first window needs no credit */
	chunk(&c, 0, 1);
	chunk(&c, 0, 1);
	ck_assert_int_eq(CREDITS, 0);
	chunk(&c, 1, 1);
	text_is(LAST_CREDIT, "receiving 2 ");
	chunk(&c, 2, 1);
	kill_and_restart();
	chunk(&c, 2, 1); /* read again after the kill */
	ck_assert_int_eq(CREDITS, 1);
	chunk(&c, 3, 1);
	text_is(LAST_CREDIT, "receiving 4 ");
	ck_assert_int_eq(number("SELECT count(*) FROM job"), 0);
	chunk(&c, 4, 1);
	text_is(LAST_CREDIT, "complete 5 ");
	ck_assert_int_eq(CREDITS, 3);
	chunk(&c, 4, 1); /* late: nothing happens */
	ck_assert_int_eq(CREDITS, 3);
	ck_assert_int_eq(number("SELECT count(*) FROM job WHERE kind = 'git'"), 1);
	arrived_whole(&c);
	offer(&c, 2); /* the sender was killed before it heard */
	text_is(LAST_CREDIT, "complete 5 ");
	ck_assert_int_eq(number("SELECT count(*) FROM job"), 1);
	ck_assert_int_eq(QUARANTINED, 0);
	cargo_release(&c);
}
END_TEST

START_TEST(test_transfer_killed_between_file_and_table)
{
	struct cargo c;
	struct sb_error err = SB_ERROR_INIT;
	char spool[TEST_PATH_MAX];
	static uint8_t buf[SB_CHUNK_SEALED];
	uint64_t next = 0;
	size_t n = 0;

	f.a.set.carrier.window = 1; /* the narrowest: every chunk needs its credit */
	cargo_make(&c, "pack", 2 * SB_CHUNK_PLAIN - 1000);
	offer(&c, 1);
	/* the chunk reached the file, the transaction did not commit */
	fix_ok(agent_state_spool(spool, sizeof(spool), &f.a, c.m.transfer, true, &err), err);
	int fd = open(spool, O_RDWR | O_CREAT, 0600);
	fix_ok(sb_spool_read(c.fd, &c.m, 0, buf, &n, &err), err);
	fix_ok(sb_spool_append(fd, &c.m, &next, 0, buf, n, &err), err);
	close(fd);
	kill_and_restart();
	chunk(&c, 0, 1);
	text_is(LAST_CREDIT, "receiving 1 ");
	chunk(&c, 1, 1);
	arrived_whole(&c);
	cargo_release(&c);
}
END_TEST

START_TEST(test_transfer_with_a_hole)
{
	struct cargo c;

	cargo_make(&c, "pack", 6 * SB_CHUNK_PLAIN - 1000);
	offer(&c, 1);
	chunk(&c, 0, 1);
	chunk(&c, 2, 1); /* the broker lost chunk 1 */
	text_is(LAST_CREDIT, "receiving 1 chunk 1 is missing");
	chunk(&c, 3, 1);
	ck_assert_int_eq(CREDITS, 1); /* said once an attempt */
	kill_and_restart();
	chunk(&c, 3, 1);
	ck_assert_int_eq(CREDITS, 1);
	offer(&c, 2);
	text_is(LAST_CREDIT, "receiving 1 ");
	chunk(&c, 1, 2);
	chunk(&c, 3, 2); /* and again, in the next attempt */
	text_is(LAST_CREDIT, "receiving 2 chunk 2 is missing");
	offer(&c, 3);
	for (uint64_t i = 2; i < 6; i++)
		chunk(&c, i, 3);
	arrived_whole(&c);
	ck_assert_int_eq(QUARANTINED, 0);
	cargo_release(&c);
}
END_TEST

START_TEST(test_transfer_refused)
{
	struct cargo c;
	char other[SB_ID_LEN + 1];

	f.a.set.carrier.max_bytes = SB_CHUNK_PLAIN;
	cargo_make(&c, "pack", 3 * SB_CHUNK_PLAIN);
	offer(&c, 1);
	text_is("SELECT state FROM transfer_in", "failed");
	text_is(LAST_CREDIT, "failed 0 it is larger than this stage takes (carrier.max_bytes)");
	chunk(&c, 0, 1); /* is on its way already: dropped without noise */
	ck_assert_int_eq(QUARANTINED, 0);
	offer(&c, 2);
	ck_assert_int_eq(CREDITS, 2); /* told again */
	ck_assert_int_eq(number("SELECT count(*) FROM transfer_in"), 1);
	cargo_release(&c);

	f.a.set.carrier.max_bytes = 1 << 30;
	cargo_make(&c, "blob", 1000);
	offer(&c, 1);
	text_is(LAST_CREDIT, "failed 0 a transfer of this kind and sender is not taken here");
	cargo_release(&c);

	/* chunks before any manifest, and a manifest on another's stream */
	cargo_make(&c, "pack", 1000);
	chunk(&c, 0, 1);
	ck_assert_int_eq(QUARANTINED, 1);
	memcpy(other, c.m.transfer, sizeof(other));
	sb_id_new(c.m.transfer);
	offer(&c, 1);
	ck_assert_int_eq(QUARANTINED, 2);
	memcpy(c.m.transfer, other, sizeof(other));
	cargo_release(&c);
}
END_TEST

START_TEST(test_transfer_expires)
{
	struct sb_error err = SB_ERROR_INIT;
	struct cargo c;
	char spool[TEST_PATH_MAX];

	cargo_make(&c, "dataset", 3 * SB_CHUNK_PLAIN);
	offer(&c, 1);
	chunk(&c, 0, 1);
	sql("UPDATE transfer_in SET expires_ms = 1");
	fix_ok(agent_inbox_tidy(&in, &err), err);
	text_is("SELECT state FROM transfer_in", "failed");
	text_is(LAST_CREDIT, "failed 0 it expired before all of it had come");
	fix_ok(agent_state_spool(spool, sizeof(spool), &f.a, c.m.transfer, true, &err), err);
	ck_assert_int_ne(access(spool, F_OK), 0);
	cargo_release(&c);
}
END_TEST

/* --- the lane --- */

static void ignore_delivery(void *user, uint64_t tag, enum sb_code code, int64_t offset)
{
	(void)tag;
	(void)offset;
	*(enum sb_code *)user = code;
}

START_TEST(test_lane)
{
	const char *topics[] = { f.a.topic_down[SB_EVENT], f.a.topic_down[SB_DATA] };
	struct sb_error err = SB_ERROR_INIT;
	struct sb_mock_broker *broker = NULL;
	struct sb_producer *p = NULL;
	enum sb_code code = SB_OK;
	struct cargo c;

	cargo_make(&c, "pack", 1000);
	fix_ok(sb_mock_broker_new(&broker, topics, SB_COUNT(topics), &err), err);
	f.a.kafka = (struct sb_kafka_conf){ .servers = sb_mock_broker_servers(broker), .client_id = "test", .fetch_wait_ms = 10 };
	fix_ok(sb_producer_new(&p, &f.a.kafka, ignore_delivery, &code, &err), err);
	for (int round = 0; round < 2; round++) {
		struct sb_inrecord ir;
		static const char *const value[] = { "{\"request\":\"r0\",\"dataset\":\"d\",\"to\":\"dev\",\"user\":\"a\",\"purpose\":\"p\"}",
			"{\"request\":\"r1\",\"dataset\":\"d\",\"to\":\"dev\",\"user\":\"a\",\"purpose\":\"p\"}" };
		fix_event(&f, &ir, SB_EV_DATASET_ORDERED, "r", value[round]);
		fix_ok(sb_producer_send(p, &ir.rec, 1, &err), err);
		uint8_t buf[2048];
		size_t n = strlen(c.offer);
		const void *bytes = c.offer;
		if (round == 1) {
			fix_ok(sb_spool_read(c.fd, &c.m, 0, buf, &n, &err), err);
			bytes = buf;
		}
		fix_data(&f, &ir, &c.m, round == 0 ? -1 : 0, 1, bytes, n, 0);
		fix_ok(sb_producer_send(p, &ir.rec, 2, &err), err);
		fix_ok(sb_producer_flush(p, 10000, &err), err);
		/* the second round is a restart: it goes on where the first one was */
		fix_ok(sb_lanes_new(&f.a.lanes, &err), err);
		fix_ok(sb_lanes_start(f.a.lanes, "inbox", agent_inbox_lane, &f.a, &err), err);
		ck_assert(wait_until(number("SELECT count(*) FROM job WHERE kind = 'dataset'") == round + 1, 15000));
		ck_assert(wait_until(number("SELECT count(*) FROM transfer_in") == 1 && (round == 0 || number("SELECT count(*) FROM job WHERE kind = 'git'") == 1), 15000));
		fix_ok(sb_lanes_stop(f.a.lanes, 10000, &err), err);
		sb_lanes_free(f.a.lanes);
		f.a.lanes = NULL;
	}
	ck_assert_int_eq(number("SELECT sum(next_offset) FROM down_offset"), 4);
	ck_assert_int_eq(QUARANTINED, 0);
	arrived_whole(&c);
	cargo_release(&c);
	sb_producer_free(p);
	sb_mock_broker_free(broker);
}
END_TEST

/* The topics were made anew while the agent was away: its offsets are gone. It says so and goes on. */
START_TEST(test_lane_with_lost_offsets)
{
	const char *topics[] = { f.a.topic_down[SB_EVENT], f.a.topic_down[SB_DATA] };
	struct sb_error err = SB_ERROR_INIT;
	struct sb_mock_broker *broker = NULL;
	struct sb_producer *p = NULL;
	struct sb_inrecord ir;
	enum sb_code code = SB_OK;

	sql("INSERT INTO down_offset(topic, next_offset) VALUES ('sb.acme.train.down.event.v1', 500), ('sb.acme.train.down.data.v1', 0)");
	fix_ok(sb_mock_broker_new(&broker, topics, SB_COUNT(topics), &err), err);
	f.a.kafka = (struct sb_kafka_conf){ .servers = sb_mock_broker_servers(broker), .client_id = "test", .fetch_wait_ms = 10 };
	fix_ok(sb_producer_new(&p, &f.a.kafka, ignore_delivery, &code, &err), err);
	fix_event(&f, &ir, SB_EV_DEPLOYMENT_ORDERED, "model", order);
	fix_ok(sb_producer_send(p, &ir.rec, 1, &err), err);
	fix_ok(sb_producer_flush(p, 10000, &err), err);
	fix_ok(sb_lanes_new(&f.a.lanes, &err), err);
	fix_ok(sb_lanes_start(f.a.lanes, "inbox", agent_inbox_lane, &f.a, &err), err);
	ck_assert(wait_until(number("SELECT count(*) FROM job WHERE kind = 'deploy'") == 1, 20000));
	fix_ok(sb_lanes_stop(f.a.lanes, 10000, &err), err);
	sb_lanes_free(f.a.lanes);
	f.a.lanes = NULL;
	ck_assert_str_eq(problem(), "gap");
	sb_producer_free(p);
	sb_mock_broker_free(broker);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("agent inbox");
	TCase *tc = tcase_create("records");

	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, test_order_once);
	tcase_add_test(tc, test_order_repeated_is_reported_again);
	tcase_add_test(tc, test_order_fenced);
	tcase_add_test(tc, test_dataset_ordered_and_answered);
	tcase_add_test(tc, test_reports_set_rows);
	tcase_add_test(tc, test_resync_and_credit);
	tcase_add_test(tc, test_resync_asked_and_cancelled);
	tcase_add_test(tc, test_poison_is_set_aside);
	tcase_add_test(tc, test_places_in_the_stream);
	tcase_add_test(tc, test_quarantine_is_bounded);
	tcase_add_test(tc, test_transfer_arrives);
	tcase_add_test(tc, test_transfer_killed_between_file_and_table);
	tcase_add_test(tc, test_transfer_with_a_hole);
	tcase_add_test(tc, test_transfer_refused);
	tcase_add_test(tc, test_transfer_expires);
	tcase_add_test(tc, test_lane);
	tcase_add_test(tc, test_lane_with_lost_offsets);
	suite_add_tcase(s, tc);
	return test_run(s);
}
