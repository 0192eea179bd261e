/* Entities that are written through the socket, over HTTP against the real API, published to an in-process broker: what was answered is there after restarts, once. */
#include <jansson.h>
#include <unistd.h>

#include "api.h"
#include "entity_model.h"
#include "source.h"
#include "stagebridge/file.h"
#include "stagebridge/http_client.h"
#include "stagebridge/log.h"

static char *text(const char *s)
{
	return (char *)(uintptr_t)s; /* settings that nobody frees */
}

struct rig {
	struct fix fix;
	struct sb_mock_broker *broker;
	struct sb_consumer *consumer;
	struct sb_http_client *http;
	struct agent_api *api;
	struct agent_socket_type type[2];
	struct row_pin pin[3];
	char *hide[1];
	char sock[TEST_PATH_MAX];
	struct model m;
	struct sb_buf answer;
	const char *want, *of;
};

static void start(struct rig *g)
{
	struct sb_error err = SB_ERROR_INIT;

	fix_ok(sb_lanes_new(&g->fix.a.lanes, &err), err);
	fix_ok(sb_lanes_start(g->fix.a.lanes, "source/socket", agent_socket_source_lane, &g->fix.a, &err), err);
	fix_ok(agent_api_start(&g->api, &g->fix.a, &err), err);
}

static void stop(struct rig *g)
{
	agent_api_stop(g->api);
	g->api = NULL;
	sb_lanes_free(g->fix.a.lanes);
	g->fix.a.lanes = NULL;
	g->fix.a.session++;
}

static void rig_make(struct rig *g)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_db *db = NULL;

	memset(g, 0, sizeof(*g));
	sb_log_init("agent", "train", getenv("SB_TEST_LOG") ? SB_DEBUG : SB_ERROR, false);
	fix_init(&g->fix);
	const char *topic = g->fix.a.topic_up[SB_ENTITY];
	fix_ok(sb_mock_broker_new(&g->broker, &topic, 1, &err), err);
	g->fix.a.kafka = (struct sb_kafka_conf){ .servers = sb_mock_broker_servers(g->broker), .client_id = "test", .fetch_wait_ms = 10 };
	fix_ok(sb_consumer_new(&g->consumer, &g->fix.a.kafka, &err), err);
	fix_ok(sb_consumer_assign(g->consumer, &(struct sb_assignment){ .topic = topic, .offset = SB_OFFSET_BEGINNING }, 1, &err), err);
	fix_ok(agent_state_open(&db, &g->fix.a, &err), err);
	sb_db_close(db);
	fix_ok(sb_http_client_new(&g->http, NULL, &err), err);
	model_init(&g->m);
	sb_buf_init(&g->answer, 1 << 20);
	test_path(g->sock, "agent.sock");
	g->fix.a.set.api.socket = g->sock;
	g->fix.a.set.api.mode = 600;
	g->hide[0] = text("HUSH");
	g->pin[0] = (struct row_pin){ text("id"), text("integer") };
	g->pin[1] = (struct row_pin){ text("stars"), text("integer") };
	g->pin[2] = (struct row_pin){ text("comment"), text("text") };
	g->type[0] = (struct agent_socket_type){ .type = text("note"), .key = text("key"), .max_rows = 6, .max_body = 1 << 20 };
	g->type[1] = (struct agent_socket_type){ .type = text("feedback"), .key = text("id"), .columns = { g->pin, 3 }, .private_columns = { g->hide, 1 }, .max_rows = 100000,
		.max_body = 8 << 20 };
	g->fix.a.set.entities = (struct sb_list){ .item = g->type, .count = 2 };
}

static void rig_free(struct rig *g)
{
	stop(g);
	sb_http_client_free(g->http);
	sb_consumer_free(g->consumer);
	sb_mock_broker_free(g->broker);
	sb_buf_release(&g->answer);
	model_release(&g->m);
	fix_release(&g->fix);
}

/* The status; the answer is in g->answer. */
static int call(struct rig *g, const char *method, const char *path, const char *body)
{
	sb_cleanup(sb_freep) char *url = sb_asprintf("http://localhost%s", path);
	struct sb_http_call c = { .method = method, .url = url, .unix_path = g->sock, .body = body, .body_len = body ? strlen(body) : 0 };
	struct sb_error err = SB_ERROR_INIT;
	int status = 0;

	sb_buf_reset(&g->answer);
	fix_ok(sb_http_call(g->http, &c, &status, &g->answer, &err), err);
	return status;
}

static bool says(const struct rig *g, const char *part)
{
	return strstr(g->answer.data, part) != NULL;
}

static bool holds(struct rig *g)
{
	(void)model_pull(&g->m, g->fix.keys.keyring, g->consumer); /* looked at below */
	json_t *want = json_loads(g->want, 0, NULL), *rows = model_rows(&g->m, g->of);
	ck_assert_ptr_nonnull(want);
	bool same = json_equal(want, rows);
	json_decref(want);
	json_decref(rows);
	return same;
}

static bool becomes(struct rig *g, const char *type, const char *want)
{
	g->want = want;
	g->of = type;
	return wait_until(holds(g), 10000);
}

START_TEST(one_at_a_time)
{
	struct rig g;

	rig_make(&g);
	start(&g);
	ck_assert_int_eq(call(&g, "PUT", "/v1/entities/note/a%2Fb", "{\"n\": 1.10}"), 201);
	ck_assert(says(&g, "\"created\""));
	ck_assert_int_eq(call(&g, "PUT", "/v1/entities/note/a%2Fb", "{\"n\": 1.10}"), 200);
	ck_assert(says(&g, "\"unchanged\""));
	ck_assert_int_eq(call(&g, "PUT", "/v1/entities/note/c", "{}"), 201);
	ck_assert(becomes(&g, "note", "{\"a/b|\": [\"a/b\", \"{\\\"n\\\": 1.10}\"], \"c|\": [\"c\", \"{}\"]}"));
	ck_assert_int_eq(call(&g, "PUT", "/v1/entities/note/c", "{\"key\": \"c\", \"v\": 2}"), 200);
	ck_assert(says(&g, "\"changed\""));
	ck_assert_int_eq(call(&g, "DELETE", "/v1/entities/note/a%2Fb", NULL), 200);
	ck_assert_int_eq(call(&g, "DELETE", "/v1/entities/note/a%2Fb", NULL), 200);
	ck_assert(says(&g, "\"absent\""));
	ck_assert(becomes(&g, "note", "{\"c|\": [\"c\", \"{\\\"key\\\": \\\"c\\\", \\\"v\\\": 2}\"]}"));
	ck_assert_int_eq(call(&g, "GET", "/v1/entities/note/c", NULL), 200);
	ck_assert(says(&g, "\"v\":2") || says(&g, "\"v\": 2"));
	ck_assert_int_eq(call(&g, "GET", "/v1/entities/note/a%2Fb", NULL), 404);
	ck_assert_uint_eq(g.m.begun, 1);
	ck_assert_uint_eq(g.m.changes['d'], 1);
	rig_free(&g);
}
END_TEST

START_TEST(batches)
{
	struct rig g;

	rig_make(&g);
	start(&g);
	ck_assert_int_eq(call(&g, "POST", "/v1/entities/feedback", "{\"id\":1,\"stars\":5,\"HUSH\":\"hushed\"}\n\n{\"id\":2,\"comment\":\"a\\u00e9\"}\r\n{\"id\":3}"), 200);
	ck_assert(says(&g, "\"created\":3") || says(&g, "\"created\": 3"));
	ck_assert(becomes(&g, "feedback", "{\"1|\": [\"1\", \"5\", null], \"2|\": [\"2\", null, \"aé\"], \"3|\": [\"3\", null, null]}"));
	/* all or none, with the line */
	ck_assert_int_eq(call(&g, "POST", "/v1/entities/feedback", "{\"id\":4}\n{\"id\":5,\"stars\":\"secret\"}\n"), 422);
	ck_assert(says(&g, "line 2: column \\\"stars\\\": the JSON value is not a integer") && !says(&g, "secret"));
	ck_assert_int_eq(call(&g, "GET", "/v1/entities/feedback/4", NULL), 404);
	ck_assert_int_eq(call(&g, "DELETE", "/v1/entities/feedback", "\"1\"\n\"9\"\n\"3\"\n"), 200);
	ck_assert(says(&g, "\"deleted\":2") || says(&g, "\"deleted\": 2"));
	ck_assert(becomes(&g, "feedback", "{\"2|\": [\"2\", null, \"aé\"]}"));
	ck_assert_int_eq(call(&g, "GET", "/v1/entities/feedback?limit=1", NULL), 200);
	ck_assert(says(&g, "\"after\":\"2\"") || says(&g, "\"after\": \"2\""));
	rig_free(&g);
}
END_TEST

static const struct { const char *method, *path, *body; int status; const char *why; } refused[] = {
	{ "PUT", "/v1/entities/nothing/1", "{}", 404, "no type of that name" },
	{ "PUT", "/v1/entities/note/1", "", 400, "" },
	{ "PUT", "/v1/entities/note/1", "{\"a\":1", 400, "" },
	{ "PUT", "/v1/entities/note/1", "[1]", 400, "" },
	{ "PUT", "/v1/entities/note/1", "{\"a\":1,\"a\":2}", 400, "" },
	{ "PUT", "/v1/entities/note/1", "{} {}", 400, "" },
	{ "PUT", "/v1/entities/note/1", "{\"a\":\"\xff\"}", 400, "" },
	{ "PUT", "/v1/entities/note/1", "{\"a\":\"\\u0000\"}", 400, "" },
	{ "PUT", "/v1/entities/note/1", "{\"key\":\"2\"}", 422, "another key" },
	{ "PUT", "/v1/entities/feedback/x", "{}", 422, "column \\\"id\\\": the value is not a integer" },
	{ "PUT", "/v1/entities/feedback/1", "{\"stars\":2147483648}", 422, "column \\\"stars\\\"" },
	{ "PUT", "/v1/entities/feedback/1", "{\"starz\":1}", 422, "field \\\"starz\\\" has no column" },
	{ "POST", "/v1/entities/note", "{}", 422, "line 1: the key field \\\"key\\\" is missing" },
	{ "POST", "/v1/entities/note", "{\"key\":\"1\"}\n{\"key\":[]}", 422, "line 2: the key field" },
	{ "POST", "/v1/entities/note", "{\"key\":1}\n{\"key\":2}\n{\"key\":3}\n{\"key\":4}\n{\"key\":5}\n{\"key\":6}\n{\"key\":7}\n", 413, "line 7: type \\\"note\\\" is full: 6 entities" },
	{ "DELETE", "/v1/entities/note", "1\n", 400, "line 1: is not a JSON string" },
	{ "GET", "/v1/entities/note?limit=0", NULL, 400, "limit" },
	{ "GET", "/v1/entities/note/none", NULL, 404, "" },
};

START_TEST(refusals)
{
	struct rig g;

	rig_make(&g);
	start(&g);
	for (size_t i = 0; i < SB_COUNT(refused); i++) {
		int status = call(&g, refused[i].method, refused[i].path, refused[i].body);
		ck_assert_msg(status == refused[i].status && says(&g, refused[i].why), "%zu: %d %s", i, status, g.answer.data);
		ck_assert(refused[i].status == 200 || says(&g, "urn:stagebridge:problem:"));
	}
	ck_assert_int_eq(call(&g, "GET", "/v1/entities/note", NULL), 200);
	ck_assert(says(&g, "\"entities\":[]") || says(&g, "\"entities\": []"));
	g.type[1].max_body = 1024;
	char *large = malloc(1100);
	ck_assert_ptr_nonnull(large);
	memset(large, ' ', 1099);
	large[1099] = '\0';
	ck_assert_int_eq(call(&g, "POST", "/v1/entities/feedback", large), 413);
	ck_assert(says(&g, "max_body"));
	free(large);
	rig_free(&g);
}
END_TEST

static bool snapshots_are(struct rig *g, unsigned n)
{
	(void)model_pull(&g->m, g->fix.keys.keyring, g->consumer); /* counted below */
	return g->m.ended >= n;
}

/* What was answered survives the lane, the broker's absence and a resync; a lost position repeats changes under their old numbers. */
START_TEST(survives)
{
	struct rig g;
	struct sb_error err = SB_ERROR_INIT;
	struct sb_db *db = NULL;
	char body[64], path[64];

	rig_make(&g);
	start(&g);
	for (int round = 0; round < 6; round++) {
		for (int k = 0; k < 40; k++) {
			(void)snprintf(path, sizeof(path), "/v1/entities/feedback/%d", k);
			(void)snprintf(body, sizeof(body), "{\"stars\":%d}", round * 100 + k);
			ck_assert_int_lt(call(&g, "PUT", path, body), 300);
			if (k == 20)
				stop(&g), start(&g);
		}
		ck_assert_int_eq(call(&g, "DELETE", "/v1/entities/feedback/7", NULL), 200);
		(void)model_pull(&g.m, g.fix.keys.keyring, g.consumer); /* some of it */
	}
	for (int k = 3; k < 40; k++) {
		(void)snprintf(path, sizeof(path), "/v1/entities/feedback/%d", k);
		ck_assert_int_eq(call(&g, "DELETE", path, NULL), 200);
	}
	ck_assert(becomes(&g, "feedback", "{\"0|\": [\"0\", \"500\", null], \"1|\": [\"1\", \"501\", null], \"2|\": [\"2\", \"502\", null]}"));
	unsigned first = g.m.begun;
	ck_assert_msg(first == 1 || first == 2, "%u", first); /* a stop before its end was acknowledged begins it again */
	stop(&g);
	/* a kill between the broker's acknowledgement and our note of it */
	fix_ok(agent_state_open(&db, &g.fix.a, &err), err);
	fix_ok(sb_db_run(db, NULL, &err, "UPDATE meta SET value = '2.0' WHERE key = 'position/socket/feedback'", ""), err);
	start(&g);
	ck_assert_int_eq(call(&g, "PUT", "/v1/entities/feedback/3", "{}"), 201);
	ck_assert(becomes(&g, "feedback", "{\"0|\": [\"0\", \"500\", null], \"1|\": [\"1\", \"501\", null], \"2|\": [\"2\", \"502\", null], \"3|\": [\"3\", null, null]}"));
	fix_ok(sb_db_run(db, NULL, &err, "UPDATE snapshot SET state = 'wanted', reason = 'resync' WHERE type = 'feedback'", ""), err);
	json_object_clear(g.m.type); /* the receiver lost everything */
	sb_lanes_wake(g.fix.a.lanes, "source/*");
	ck_assert(wait_until(snapshots_are(&g, 2), 10000));
	ck_assert(becomes(&g, "feedback", "{\"0|\": [\"0\", \"500\", null], \"1|\": [\"1\", \"501\", null], \"2|\": [\"2\", \"502\", null], \"3|\": [\"3\", null, null]}"));
	ck_assert_int_eq(fix_number(db, "SELECT count(*) FROM entity WHERE document IS NULL"), 0);
	ck_assert_int_eq(fix_number(db, "SELECT value FROM meta WHERE key = 'entities/feedback'"), 4);
	/* other columns, other rows */
	stop(&g);
	g.type[1].columns.count = 2;
	start(&g);
	ck_assert(becomes(&g, "feedback", "{\"0|\": [\"0\", \"500\"], \"1|\": [\"1\", \"501\"], \"2|\": [\"2\", \"502\"], \"3|\": [\"3\", null]}"));
	sb_db_close(db);
	rig_free(&g);
}
END_TEST

/* A large body comes through a spool file; a state that was lost says nothing before somebody writes. */
START_TEST(large_and_lost)
{
	struct rig g;
	struct sb_error err = SB_ERROR_INIT;
	struct sb_buf body;
	char path[TEST_PATH_MAX + 16];

	rig_make(&g);
	(void)snprintf(path, sizeof(path), "%s/spool", g.fix.dir);
	fix_ok(sb_dir_make(path, 0700, &err), err);
	start(&g);
	sb_buf_init(&body, 8 << 20);
	for (int i = 0; i < 20000; i++)
		sb_buf_addf(&body, "{\"id\":%d,\"stars\":%d,\"comment\":\"as people write them, a bit longer than one word and with a number: %d\"}\n", i, i % 5, i);
	ck_assert_int_eq(call(&g, "POST", "/v1/entities/feedback", body.data), 200);
	ck_assert(says(&g, "\"created\":20000") || says(&g, "\"created\": 20000"));
	ck_assert(wait_until(snapshots_are(&g, 1), 20000));
	json_t *rows = model_rows(&g.m, "feedback");
	ck_assert_uint_eq(json_object_size(rows), 20000);
	json_decref(rows);
	sb_buf_release(&body);
	stop(&g);
	(void)snprintf(path, sizeof(path), "%s/state.db", g.fix.dir);
	ck_assert_int_eq(unlink(path), 0);
	start(&g);
	ck_assert_int_eq(call(&g, "GET", "/v1/entities/feedback", NULL), 200);
	ck_assert_int_eq(call(&g, "PUT", "/v1/entities/note/only", "{}"), 201);
	ck_assert(becomes(&g, "note", "{\"only|\": [\"only\", \"{}\"]}"));
	ck_assert_uint_eq(g.m.begun, 2); /* of feedback then, of note now */
	ck_assert_int_eq(call(&g, "PUT", "/v1/entities/feedback/1", "{}"), 201);
	ck_assert(becomes(&g, "feedback", "{\"1|\": [\"1\", null, null]}"));
	rig_free(&g);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("agent_source_socket");
	TCase *t = tcase_create("socket");

	tcase_set_timeout(t, 60);
	tcase_add_test(t, one_at_a_time);
	tcase_add_test(t, batches);
	tcase_add_test(t, refusals);
	tcase_add_test(t, survives);
	tcase_add_test(t, large_and_lost);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return test_run(suite());
}
