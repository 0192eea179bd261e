/* The directory source against an in-process broker: new, changed, deleted, torn and broken files, restarts, orders to send everything again. */
#include <jansson.h>
#include <sys/stat.h>
#include <unistd.h>

#include "entity_model.h"
#include "source.h"
#include "stagebridge/file.h"
#include "stagebridge/log.h"

struct rig {
	struct fix fix;
	struct sb_mock_broker *broker;
	struct sb_consumer *consumer;
	struct agent_dir_source source;
	struct agent_dir_lane lane;
	char dir[TEST_PATH_MAX];
	struct model m;
	const char *want;             /* what the model must hold, as JSON */
};

static void start(struct rig *g)
{
	struct sb_error err = SB_ERROR_INIT;

	fix_ok(sb_lanes_new(&g->fix.a.lanes, &err), err);
	fix_ok(sb_lanes_start(g->fix.a.lanes, "source/files", agent_dir_source_lane, &g->lane, &err), err);
}

static void stop(struct rig *g)
{
	sb_lanes_free(g->fix.a.lanes);
	g->fix.a.lanes = NULL;
	g->fix.a.board.n_sources = 0;
}

static void rig_make(struct rig *g, int format, const char *key)
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
	fix_ok(agent_state_open(&db, &g->fix.a, &err), err); /* made before the lane opens it, as the agent does at its start */
	sb_db_close(db);
	model_init(&g->m);
	test_path(g->dir, "folder");
	fix_ok(sb_dir_make(g->dir, 0700, &err), err);
	g->source = (struct agent_dir_source){ .name = sb_strdup("files"), .type = sb_strdup("note"), .path = g->dir, .format = format, .key = sb_strdup(key),
		.poll_ms = 20, .max_files = 1000, .max_file = 1 << 20, .delete_share = 100, .delete_wait_ms = 3600000 };
	g->lane = (struct agent_dir_lane){ .agent = &g->fix.a, .source = &g->source };
}

static void rig_free(struct rig *g)
{
	stop(g);
	sb_consumer_free(g->consumer);
	sb_mock_broker_free(g->broker);
	model_release(&g->m);
	free(g->source.name);
	free(g->source.type);
	free(g->source.key);
	fix_release(&g->fix);
}

static void put(struct rig *g, const char *name, const char *text)
{
	char path[TEST_PATH_MAX + 64];

	(void)snprintf(path, sizeof(path), "%s/%s", g->dir, name);
	test_write(path, text, 0600);
}

static void drop(struct rig *g, const char *name)
{
	char path[TEST_PATH_MAX + 64];

	(void)snprintf(path, sizeof(path), "%s/%s", g->dir, name);
	ck_assert_int_eq(unlink(path), 0);
}

static bool holds(struct rig *g)
{
	(void)model_pull(&g->m, g->fix.keys.keyring, g->consumer); /* looked at below */
	json_t *want = json_loads(g->want, 0, NULL), *rows = model_rows(&g->m, "note");
	ck_assert_ptr_nonnull(want);
	bool same = json_equal(want, rows);
	json_decref(want);
	json_decref(rows);
	return same;
}

static bool becomes(struct rig *g, const char *want)
{
	g->want = want;
	return wait_until(holds(g), 10000);
}

static bool state_is(struct rig *g, const char *state)
{
	pthread_mutex_lock(&g->fix.a.board.lock);
	bool is = g->fix.a.board.n_sources > 0 && strcmp(g->fix.a.board.source[0].state, state) == 0;
	pthread_mutex_unlock(&g->fix.a.board.lock);
	return is;
}

static bool snapshots_are(struct rig *g, unsigned n)
{
	(void)model_pull(&g->m, g->fix.keys.keyring, g->consumer); /* counted below */
	return g->m.ended >= n;
}

START_TEST(documents)
{
	struct rig g;

	rig_make(&g, AGENT_DIR_JSON, "");
	put(&g, "a.json", "{\"n\": 1.10}\n");
	put(&g, "b.json", "[1, 2]");
	put(&g, ".hidden.json", "{}");
	put(&g, "c.txt", "no");
	start(&g);
	ck_assert(becomes(&g, "{\"a|\": [\"a\", \"{\\\"n\\\": 1.10}\"], \"b|\": [\"b\", \"[1, 2]\"]}"));
	ck_assert_uint_eq(g.m.begun, 1);
	put(&g, "b.json", "{\"changed\":true}");
	put(&g, "d.json", "null");
	ck_assert(becomes(&g, "{\"a|\": [\"a\", \"{\\\"n\\\": 1.10}\"], \"b|\": [\"b\", \"{\\\"changed\\\":true}\"], \"d|\": [\"d\", \"null\"]}"));
	drop(&g, "a.json");
	drop(&g, "b.json");
	ck_assert(becomes(&g, "{\"d|\": [\"d\", \"null\"]}"));
	ck_assert_uint_eq(g.m.changes['d'], 2);
	ck_assert_uint_eq(g.m.changes['s'], 2);
	rig_free(&g);
}
END_TEST

/* What is not whole or not valid is not published, does not stop the others, and does not make its documents look deleted. */
START_TEST(broken_files)
{
	struct rig g;

	rig_make(&g, AGENT_DIR_JSONL, "id");
	put(&g, "one.jsonl", "{\"id\":1,\"v\":\"a\"}\n\n{\"id\":\"x\",\"v\":\"b\"}\n");
	put(&g, "two.jsonl", "{\"id\":2}\n");
	start(&g);
	ck_assert(becomes(&g, "{\"1|\": [\"1\", \"{\\\"id\\\":1,\\\"v\\\":\\\"a\\\"}\"], \"x|\": [\"x\", \"{\\\"id\\\":\\\"x\\\",\\\"v\\\":\\\"b\\\"}\"], \"2|\": [\"2\", \"{\\\"id\\\":2}\"]}"));
	put(&g, "one.jsonl", "{\"id\":1,\"v\":\"new\"}\n{\"id\":\"x\",\"v\":");
	put(&g, "two.jsonl", "{\"id\":2,\"v\":2}\n");
	put(&g, "three.jsonl", "{\"id\":2,\"v\":\"of another file\"}\n{\"id\":3}\n");
	ck_assert(becomes(&g, "{\"1|\": [\"1\", \"{\\\"id\\\":1,\\\"v\\\":\\\"a\\\"}\"], \"x|\": [\"x\", \"{\\\"id\\\":\\\"x\\\",\\\"v\\\":\\\"b\\\"}\"], \"2|\": [\"2\", \"{\\\"id\\\":2,\\\"v\\\":2}\"],"
		" \"3|\": [\"3\", \"{\\\"id\\\":3}\"]}"));
	ck_assert(wait_until(state_is(&g, "invalid file"), 5000));
	/* the key moves when its first holder lets it go */
	drop(&g, "two.jsonl");
	put(&g, "one.jsonl", "{\"id\":1}");
	ck_assert(becomes(&g, "{\"1|\": [\"1\", \"{\\\"id\\\":1}\"], \"2|\": [\"2\", \"{\\\"id\\\":2,\\\"v\\\":\\\"of another file\\\"}\"], \"3|\": [\"3\", \"{\\\"id\\\":3}\"]}"));
	ck_assert(wait_until(state_is(&g, "watching"), 5000));
	rig_free(&g);
}
END_TEST

START_TEST(tables)
{
	struct rig g;

	rig_make(&g, AGENT_DIR_CSV, "id");
	put(&g, "a.csv", "id,name\n1,\"x, y\"\n2,\n");
	start(&g);
	ck_assert(becomes(&g, "{\"1|\": [\"1\", \"x, y\"], \"2|\": [\"2\", null]}"));
	put(&g, "b.csv", "place,id\nhere,3\n");
	ck_assert(becomes(&g, "{\"1|\": [\"1\", \"x, y\"], \"2|\": [\"2\", null], \"3|\": [\"3\", null, \"here\"]}"));
	put(&g, "a.csv", "id,name\n1,z\n");
	ck_assert(becomes(&g, "{\"1|\": [\"1\", \"z\", null], \"3|\": [\"3\", null, \"here\"]}"));
	rig_free(&g);
}
END_TEST

/* Files change while nobody looks, and everything is asked for again: the model converges, positions have no gap. */
START_TEST(restarts_and_resync)
{
	struct rig g;
	struct sb_error err = SB_ERROR_INIT;
	struct sb_db *db = NULL;
	char name[32], text[64];

	rig_make(&g, AGENT_DIR_JSON, "");
	start(&g);
	put(&g, "a.json", "1");
	ck_assert(becomes(&g, "{\"a|\": [\"a\", \"1\"]}"));
	for (int i = 0; i < 5; i++) {
		for (int k = 0; k < 20; k++) {
			(void)snprintf(name, sizeof(name), "f%d.json", k);
			(void)snprintf(text, sizeof(text), "%d", i * 100 + k);
			put(&g, name, text);
		}
		(void)model_pull(&g.m, g.fix.keys.keyring, g.consumer); /* some, or none yet */
		stop(&g);
		(void)snprintf(name, sizeof(name), "f%d.json", i);
		drop(&g, name);
		start(&g);
	}
	for (int k = 0; k < 20; k++) {
		(void)snprintf(name, sizeof(name), "f%d.json", k);
		put(&g, name, "0");
		drop(&g, name);
	}
	put(&g, "z.json", "26");
	ck_assert(becomes(&g, "{\"a|\": [\"a\", \"1\"], \"z|\": [\"z\", \"26\"]}"));
	ck_assert_uint_eq(g.m.begun, 1);
	fix_ok(agent_state_open(&db, &g.fix.a, &err), err);
	fix_ok(sb_db_run(db, NULL, &err, "UPDATE snapshot SET state = 'wanted', reason = 'resync'", ""), err);
	json_object_clear(g.m.type); /* the receiver lost everything */
	sb_lanes_wake(g.fix.a.lanes, "source/*");
	ck_assert(wait_until(snapshots_are(&g, 2), 10000));
	ck_assert(becomes(&g, "{\"a|\": [\"a\", \"1\"], \"z|\": [\"z\", \"26\"]}"));
	sb_db_close(db);
	rig_free(&g);
}
END_TEST

/* The folder is not there: nothing is deleted, and when it is back all goes on. */
START_TEST(folder_away)
{
	struct rig g;
	char away[TEST_PATH_MAX];

	rig_make(&g, AGENT_DIR_JSON, "");
	put(&g, "a.json", "1");
	start(&g);
	ck_assert(becomes(&g, "{\"a|\": [\"a\", \"1\"]}"));
	test_path(away, "away");
	ck_assert_int_eq(rename(g.dir, away), 0);
	ck_assert(wait_until(state_is(&g, "down"), 5000));
	ck_assert(holds(&g));
	ck_assert_int_eq(rename(away, g.dir), 0);
	put(&g, "b.json", "2");
	ck_assert(becomes(&g, "{\"a|\": [\"a\", \"1\"], \"b|\": [\"b\", \"2\"]}"));
	rig_free(&g);
}
END_TEST

static bool reason_has(struct rig *g, const char *part)
{
	pthread_mutex_lock(&g->fix.a.board.lock);
	bool has = g->fix.a.board.n_sources > 0 && strstr(g->fix.a.board.source[0].progress, part) != NULL;
	pthread_mutex_unlock(&g->fix.a.board.lock);
	return has;
}

/* Everything is gone at once: it is not believed until somebody says so; files that come back make it undone. */
START_TEST(mass_deletion)
{
	struct rig g;
	struct sb_error err = SB_ERROR_INIT;
	struct sb_db *db = NULL;
	char name[32];

	rig_make(&g, AGENT_DIR_JSON, "");
	g.source.delete_share = 50;
	start(&g);
	for (int k = 0; k < 30; k++) {
		(void)snprintf(name, sizeof(name), "%02d.json", k);
		put(&g, name, "1");
	}
	ck_assert(wait_until((snapshots_are(&g, 0), g.m.changes['i'] + g.m.changes['s'] == 30), 10000));
	for (int k = 0; k < 29; k++) {
		(void)snprintf(name, sizeof(name), "%02d.json", k);
		drop(&g, name);
	}
	ck_assert(wait_until(state_is(&g, "deletion held") && reason_has(&g, "29 of 30"), 10000));
	stop(&g); /* a restart does not believe it either */
	start(&g);
	ck_assert(wait_until(state_is(&g, "deletion held"), 10000));
	/* nor does an order to send everything again */
	fix_ok(agent_state_open(&db, &g.fix.a, &err), err);
	fix_ok(sb_db_run(db, NULL, &err, "UPDATE snapshot SET state = 'wanted', reason = 'resync'", ""), err);
	sb_lanes_wake(g.fix.a.lanes, "source/*");
	for (int k = 0; k < 25; k++) {
		(void)snprintf(name, sizeof(name), "%02d.json", k);
		put(&g, name, "1");
	}
	ck_assert(wait_until(snapshots_are(&g, 2), 10000));
	uint64_t few = g.m.changes['d'];
	ck_assert_msg(few >= 4 && few <= 15, "%llu", (unsigned long long)few); /* 4 of 30 are few; a look while they came back may have seen up to half of them missing */
	for (int k = 0; k < 25; k++) {
		(void)snprintf(name, sizeof(name), "%02d.json", k);
		drop(&g, name);
	}
	ck_assert(wait_until(state_is(&g, "deletion held"), 10000));
	ck_assert_uint_eq(g.m.changes['d'], few);
	fix_ok(sb_db_run(db, NULL, &err, "INSERT INTO meta(key, value) VALUES ('confirmed/files', 1)", ""), err);
	sb_lanes_wake(g.fix.a.lanes, "source/*");
	ck_assert(becomes(&g, "{\"29|\": [\"29\", \"1\"]}"));
	ck_assert(wait_until(state_is(&g, "watching"), 5000));
	sb_db_close(db);
	rig_free(&g);
}
END_TEST

/* It is believed after its time. */
START_TEST(mass_deletion_waits)
{
	struct rig g;
	char name[32];

	rig_make(&g, AGENT_DIR_JSON, "");
	g.source.delete_share = 10;
	g.source.delete_wait_ms = 1500;
	start(&g);
	for (int k = 0; k < 20; k++) {
		(void)snprintf(name, sizeof(name), "%02d.json", k);
		put(&g, name, "1");
	}
	ck_assert(wait_until((snapshots_are(&g, 0), g.m.changes['i'] + g.m.changes['s'] == 20), 10000));
	for (int k = 0; k < 20; k++) {
		(void)snprintf(name, sizeof(name), "%02d.json", k);
		drop(&g, name);
	}
	ck_assert(wait_until(state_is(&g, "deletion held"), 10000));
	ck_assert(becomes(&g, "{}"));
	rig_free(&g);
}
END_TEST

static bool column_is(struct rig *g, unsigned at, const char *type)
{
	(void)model_pull(&g->m, g->fix.keys.keyring, g->consumer); /* looked at below */
	const char *is = json_string_value(json_array_get(json_object_get(g->m.types, "note"), at));
	return is && strcmp(is, type) == 0;
}

/* Types are learned, remembered over a restart, and widen with a new snapshot; they never go back. */
START_TEST(inference)
{
	struct rig g;

	rig_make(&g, AGENT_DIR_CSV, "id");
	put(&g, "a.csv", "id,n,day,zip\n1,10,2026-01-01,007\n2,,,\n");
	start(&g);
	ck_assert(becomes(&g, "{\"1|\": [\"1\", \"10\", \"2026-01-01\", \"007\"], \"2|\": [\"2\", null, null, null]}"));
	ck_assert(column_is(&g, 1, "bigint") && column_is(&g, 2, "date") && column_is(&g, 3, "text"));
	put(&g, "b.csv", "id,n\n3,1.50\n");
	ck_assert(wait_until(snapshots_are(&g, 2), 10000));
	ck_assert(becomes(&g, "{\"1|\": [\"1\", \"10\", \"2026-01-01\", \"007\"], \"2|\": [\"2\", null, null, null], \"3|\": [\"3\", \"1.50\", null, null]}"));
	ck_assert(column_is(&g, 1, "numeric"));
	drop(&g, "b.csv");
	ck_assert(becomes(&g, "{\"1|\": [\"1\", \"10\", \"2026-01-01\", \"007\"], \"2|\": [\"2\", null, null, null]}"));
	stop(&g);
	start(&g);
	put(&g, "a.csv", "id,n,day,zip\n1,11,2026-01-01,007\n");
	ck_assert(becomes(&g, "{\"1|\": [\"1\", \"11\", \"2026-01-01\", \"007\"]}"));
	ck_assert(column_is(&g, 1, "numeric"));
	ck_assert_uint_eq(g.m.begun, 2);
	rig_free(&g);
}
END_TEST

/* Pinned columns: a row that does not fit is refused and keeps what it last was, the others go on; what is private or has no column stays here. */
START_TEST(pinned)
{
	static struct row_pin pin[] = { { (char *)(uintptr_t)"id", (char *)(uintptr_t)"bigint" }, { (char *)(uintptr_t)"ok", (char *)(uintptr_t)"boolean" } };
	static char *hide[] = { (char *)(uintptr_t)"HUSH" };
	struct rig g;

	rig_make(&g, AGENT_DIR_JSONL, "id");
	g.source.columns = (struct sb_list){ .item = pin, .count = 2 };
	g.source.private_columns = (struct sb_strings){ .item = hide, .count = 1 };
	put(&g, "a.jsonl", "{\"id\":1,\"ok\":true,\"HUSH\":\"hushed\",\"more\":1}\n{\"id\":2,\"ok\":false}\n");
	start(&g);
	ck_assert(becomes(&g, "{\"1|\": [\"1\", \"t\"], \"2|\": [\"2\", \"f\"]}"));
	ck_assert(column_is(&g, 0, "bigint") && column_is(&g, 1, "boolean"));
	put(&g, "a.jsonl", "{\"id\":1,\"ok\":\"secret\"}\n{\"id\":2,\"ok\":null}\n{\"id\":3}\n");
	ck_assert(becomes(&g, "{\"1|\": [\"1\", \"t\"], \"2|\": [\"2\", null], \"3|\": [\"3\", null]}"));
	ck_assert(wait_until(state_is(&g, "refused rows") && reason_has(&g, "a.jsonl: line 1: column \"ok\": the JSON value is not a boolean"), 5000));
	stop(&g);
	start(&g); /* it is still said after a restart */
	ck_assert(wait_until(state_is(&g, "refused rows"), 5000));
	put(&g, "a.jsonl", "{\"id\":1,\"ok\":false}\n");
	ck_assert(becomes(&g, "{\"1|\": [\"1\", \"f\"]}"));
	ck_assert(wait_until(state_is(&g, "watching"), 5000));
	ck_assert_uint_eq(g.m.begun, 1);
	/* other settings, other rows: everything is sent again */
	stop(&g);
	g.source.columns.count = 1;
	start(&g);
	ck_assert(becomes(&g, "{\"1|\": [\"1\"]}"));
	ck_assert_uint_eq(g.m.begun, 2);
	rig_free(&g);
}
END_TEST

/* What is not a plain file of its size and depth is left alone and said. */
START_TEST(odd_files)
{
	struct rig g;
	struct sb_error err = SB_ERROR_INIT;
	char path[TEST_PATH_MAX + 64], *large = malloc(3000);

	rig_make(&g, AGENT_DIR_JSON, "");
	g.source.depth = 1;
	g.source.max_file = 2000;
	(void)snprintf(path, sizeof(path), "%s/in/deep", g.dir);
	fix_ok(sb_dir_make(path, 0700, &err), err);
	put(&g, "a.json", "1");
	put(&g, "in/b.json", "2");
	put(&g, "in/deep/c.json", "3");
	put(&g, "d.json~", "4");
	(void)snprintf(path, sizeof(path), "%s/link.json", g.dir);
	ck_assert_int_eq(symlink("a.json", path), 0);
	(void)snprintf(path, sizeof(path), "%s/pipe.json", g.dir);
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	ck_assert_ptr_nonnull(large);
	memset(large, ' ', 2999);
	large[0] = '5';
	large[2999] = '\0';
	put(&g, "large.json", large);
	start(&g);
	ck_assert(becomes(&g, "{\"a|\": [\"a\", \"1\"], \"in/b|\": [\"in/b\", \"2\"]}"));
	ck_assert(wait_until(state_is(&g, "invalid file") && reason_has(&g, "large.json: is larger than 2000 bytes"), 5000));
	large[100] = '\0';
	put(&g, "large.json", large);
	put(&g, "in/b.json", "22");
	ck_assert(becomes(&g, "{\"a|\": [\"a\", \"1\"], \"in/b|\": [\"in/b\", \"22\"], \"large|\": [\"large\", \"5\"]}"));
	ck_assert(wait_until(state_is(&g, "watching"), 5000));
	/* more files than the settings allow: nothing is taken for deleted, and it is said */
	stop(&g);
	g.source.max_files = 2;
	start(&g);
	ck_assert(wait_until(state_is(&g, "down") && reason_has(&g, "more than 2 files"), 5000));
	ck_assert(holds(&g));
	free(large);
	rig_free(&g);
}
END_TEST

/* Where the system tells of changes, they do not wait for the next look at all files. */
START_TEST(hints)
{
	struct rig g;

	rig_make(&g, AGENT_DIR_JSON, "");
	put(&g, "a.json", "1");
	put(&g, "b.json", "1");
	start(&g);
	ck_assert(becomes(&g, "{\"a|\": [\"a\", \"1\"], \"b|\": [\"b\", \"1\"]}"));
	stop(&g);
	g.source.poll_ms = 3600000;
	start(&g);
	ck_assert(wait_until(state_is(&g, "watching"), 5000));
	put(&g, "a.json", "2");
	put(&g, "c.json", "3");
	drop(&g, "b.json");
	ck_assert(becomes(&g, "{\"a|\": [\"a\", \"2\"], \"c|\": [\"c\", \"3\"]}"));
	rig_free(&g);
}
END_TEST

/* A file that was renamed, and keys that move between files at once, are neither deleted nor made again. */
START_TEST(moves)
{
	struct rig g;
	char from[TEST_PATH_MAX + 64], to[TEST_PATH_MAX + 64];

	rig_make(&g, AGENT_DIR_JSONL, "id");
	put(&g, "a.jsonl", "{\"id\":1}\n{\"id\":2}\n");
	put(&g, "b.jsonl", "{\"id\":3}\n");
	start(&g);
	ck_assert(becomes(&g, "{\"1|\": [\"1\", \"{\\\"id\\\":1}\"], \"2|\": [\"2\", \"{\\\"id\\\":2}\"], \"3|\": [\"3\", \"{\\\"id\\\":3}\"]}"));
	stop(&g);
	put(&g, "a.jsonl", "{\"id\":1}\n{\"id\":3}\n");
	(void)snprintf(from, sizeof(from), "%s/b.jsonl", g.dir);
	(void)snprintf(to, sizeof(to), "%s/c.jsonl", g.dir);
	put(&g, "b.jsonl", "{\"id\":2}\n");
	ck_assert_int_eq(rename(from, to), 0);
	put(&g, "d.jsonl", "{\"id\":4}\n");
	start(&g);
	ck_assert(becomes(&g, "{\"1|\": [\"1\", \"{\\\"id\\\":1}\"], \"2|\": [\"2\", \"{\\\"id\\\":2}\"], \"3|\": [\"3\", \"{\\\"id\\\":3}\"], \"4|\": [\"4\", \"{\\\"id\\\":4}\"]}"));
	ck_assert(wait_until(state_is(&g, "watching"), 5000));
	ck_assert_uint_eq(g.m.changes['d'], 0);
	ck_assert_uint_eq(g.m.changes['u'], 0);
	rig_free(&g);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("agent_source_dir");
	TCase *t = tcase_create("dir");

	tcase_set_timeout(t, 60);
	tcase_add_test(t, documents);
	tcase_add_test(t, broken_files);
	tcase_add_test(t, tables);
	tcase_add_test(t, restarts_and_resync);
	tcase_add_test(t, folder_away);
	tcase_add_test(t, mass_deletion);
	tcase_add_test(t, mass_deletion_waits);
	tcase_add_test(t, inference);
	tcase_add_test(t, pinned);
	tcase_add_test(t, odd_files);
	tcase_add_test(t, hints);
	tcase_add_test(t, moves);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return test_run(suite());
}
