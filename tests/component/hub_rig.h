/* A hub's world for the component tests of its lanes: a database of its own in the test program's PostgreSQL, one in-process broker that
 * all stages share, fresh keys, and agents' hands to write records with. Header only; rig_open() in
 * the test, after Check's fork. Stages: dev, train, prod, explore. */
#ifndef SB_TESTS_HUB_RIG_H
#define SB_TESTS_HUB_RIG_H

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "hub.h"
#include "pg_fixture.h"
#include "stagebridge/change.h"
#include "stagebridge/file.h"
#include "stagebridge/log.h"
#include "store/store.h"
#include "support.h"

#define RIG_TENANT  "acme"
#define RIG_STAGES  4
#define RIG_WAIT_MS 20000
enum { DEV, TRAIN, PROD, EXPLORE };
static const char *const rig_stage[RIG_STAGES] = { "dev", "train", "prod", "explore" };

struct rig {
	struct hub *hub;
	struct hub_world *w;
	struct sb_pg *pg;
	struct sb_mock_broker *broker;
	struct sb_identity *agent[RIG_STAGES];
	struct sb_producer *producer;
	struct hub_stage_lane lane[RIG_STAGES];
	char database[512];
};

static const char *rig_base; /* conninfo of the test program's PostgreSQL */

#define rig_ok(call) \
	do { \
		struct sb_error rig_err = SB_ERROR_INIT, *err = &rig_err; \
		int rig_rc = (call); \
		ck_assert_msg(rig_rc >= 0, "%s: %s", #call, rig_err.msg); \
	} while (0)

static inline void rig_delivered(void *user, uint64_t tag, enum sb_code code, int64_t offset)
{
	(void)user;
	(void)tag;
	(void)offset;
	ck_assert_int_eq(code, SB_OK);
}

static inline void rig_conf(struct rig *rig, struct sb_kafka_conf *ret)
{
	*ret = (struct sb_kafka_conf){ .servers = sb_mock_broker_servers(rig->broker), .client_id = "rig", .fetch_wait_ms = 10 };
}

/* topics: "dev.up.entity" ..., NULL-terminated */
static inline void rig_broker(struct rig *rig, const char *const *topics)
{
	char name[32][SB_TOPIC_MAX];
	const char *topic[32];
	struct sb_kafka_conf conf;
	size_t n = 0;

	for (; topics[n] && n < SB_COUNT(name); n++) {
		rig_ok(sb_format(name[n], sizeof(name[n]), err, "sb." RIG_TENANT ".%s.v1", topics[n]));
		topic[n] = name[n];
	}
	rig_ok(sb_mock_broker_new(&rig->broker, topic, n, err));
	rig_conf(rig, &conf);
	rig_ok(sb_producer_new(&rig->producer, &conf, rig_delivered, rig, err));
}

static inline void rig_keys(struct rig *rig)
{
	char dir[TEST_PATH_MAX], path[TEST_PATH_MAX + 32];

	test_path(dir, "keys");
	rig_ok(sb_keyring_make_dev(dir, RIG_TENANT, rig_stage, RIG_STAGES, NULL, err));
	for (int i = 0; i < RIG_STAGES; i++) {
		rig_ok(sb_format(path, sizeof(path), err, "%s/%s.key", dir, rig_stage[i]));
		rig_ok(sb_identity_load(&rig->agent[i], path, err));
	}
}

/* explore_servers: NULL, or where explore's broker is said to be */
static inline void rig_config(struct rig *rig, char path[TEST_PATH_MAX], const char *explore_servers)
{
	const char *servers = sb_mock_broker_servers(rig->broker);

	test_path(path, "hub.yaml");
	sb_cleanup(sb_freep) char *yaml =
		sb_asprintf("state_dir: state\n"
			    "tenants:\n"
			    "  - name: acme\n"
			    "    database: \"%s\"\n"
			    "    keys: { identity: keys/hub.key, keyring: keys/keyring.json, root: keys/root.pub }\n"
			    "    stages:\n"
			    "      - { name: dev, broker: { servers: \"%s\", fetch_wait: 10ms } }\n"
			    "      - { name: train, broker: { servers: \"%s\", fetch_wait: 10ms } }\n"
			    "      - { name: prod, broker: { servers: \"%s\", fetch_wait: 10ms } }\n"
			    "      - { name: explore, promoted: false, broker: { servers: \"%s\", fetch_wait: 10ms } }\n"
			    "    types:\n"
			    "      - { type: experiment, owner: dev, subscribers: [train] }\n"
			    "      - { type: card, owner: prod, subscribers: [dev], public_down: true }\n"
			    "      - { type: secret, owner: dev, history: 90d }\n"
			    "    datasets:\n"
			    "      - { dataset: customers, from: prod, to: [train] }\n"
			    "    forge: { kind: bare, path: forge }\n"
			    "    origins:\n"
			    "      - { name: model, repository: model }\n"
			    "carrier: { window: 4, max_bytes: 64MiB }\n",
			rig->database, servers, servers, servers, explore_servers ? explore_servers : servers);
	test_write(path, yaml, 0644);
}

static inline void rig_open(struct rig *rig, const char *const *topics, const char *explore_servers)
{
	char path[TEST_PATH_MAX], name[32];
	struct sb_pg *pg = NULL;

	*rig = (struct rig){ 0 };
	rig_ok(sb_format(name, sizeof(name), err, "hub_%d", (int)getpid()));
	sb_cleanup(sb_freep) char *create = sb_asprintf("CREATE DATABASE %s", name);
	rig_ok(sb_pg_open(&pg, rig_base, "rig", err));
	rig_ok(sb_pg_script(pg, create, err));
	sb_pg_close(pg);
	rig_ok(sb_format(rig->database, sizeof(rig->database), err, "%s dbname=%s", rig_base, name));
	rig_broker(rig, topics);
	rig_keys(rig);
	rig_config(rig, path, explore_servers);
	rig_ok(hub_open(&rig->hub, path, err));
	sb_log_init("hub", "", getenv("SB_TEST_VERBOSE") ? SB_DEBUG : SB_ERROR, false);
	rig->w = &rig->hub->world[0];
	rig_ok(sb_pg_open(&rig->pg, rig->database, "test", err));
	for (int i = 0; i < RIG_STAGES; i++)
		rig->lane[i] = (struct hub_stage_lane){ rig->w, hub_stage_find(rig->w->set, rig_stage[i]) };
}

static inline void rig_start(struct rig *rig, const char *what, int stage, sb_lane_fn fn)
{
	char name[80];

	rig_ok(sb_format(name, sizeof(name), err, "acme/%s%s%s", what, stage < 0 ? "" : "/", stage < 0 ? "" : rig_stage[stage]));
	rig_ok(sb_lanes_start(rig->hub->lanes, name, fn, stage < 0 ? (void *)rig->w : (void *)&rig->lane[stage], err));
}

/* Stops every lane wherever it is, as a restart would */
static inline void rig_stop(struct rig *rig)
{
	rig_ok(sb_lanes_stop(rig->hub->lanes, 15000, err));
	sb_lanes_free(rig->hub->lanes);
	rig_ok(sb_lanes_new(&rig->hub->lanes, err));
}

static inline void rig_close(struct rig *rig)
{
	hub_close(rig->hub);
	sb_pg_close(rig->pg);
	sb_producer_free(rig->producer);
	sb_mock_broker_free(rig->broker);
	for (int i = 0; i < RIG_STAGES; i++)
		sb_identity_free(rig->agent[i]);
}

/* --- looking --- */

static inline int64_t rig_i64(struct rig *rig, const char *sql)
{
	struct sb_pg_result *res = NULL;
	struct sb_error err = SB_ERROR_INIT;

	int r = sb_pg_exec(rig->pg, sql, 0, NULL, &res, &err);
	if (r == SB_ENOTFOUND)
		return -1; /* the relation comes with its first row */
	ck_assert_msg(r == 0, "%s: %s", sql, err.msg);
	int64_t v = sb_pg_rows(res) ? sb_pg_get_i64(res, 0, 0) : -1;
	sb_pg_free(res);
	return v;
}

static inline char *rig_text(struct rig *rig, const char *sql)
{
	struct sb_pg_result *res = NULL;

	rig_ok(sb_pg_exec(rig->pg, sql, 0, NULL, &res, err));
	char *v = sb_strdup(sb_pg_rows(res) && sb_pg_get(res, 0, 0) ? sb_pg_get(res, 0, 0) : "");
	sb_pg_free(res);
	return v;
}

static inline void rig_run(struct rig *rig, const char *sql)
{
	rig_ok(sb_pg_script(rig->pg, sql, err));
}

static inline void rig_await(struct rig *rig, const char *sql, int64_t want)
{
	int64_t got = -2;
	bool holds = wait_until((got = rig_i64(rig, sql)) == want, RIG_WAIT_MS);

	ck_assert_msg(holds, "%s: %" PRId64 ", want %" PRId64, sql, got, want);
}

/* --- an agent's hand --- */

static inline void rig_send(struct rig *rig, const struct sb_record *rec)
{
	rig_ok(sb_producer_send(rig->producer, rec, 0, err));
	rig_ok(sb_producer_flush(rig->producer, 10000, err));
}

static inline void rig_record(struct sb_record *rec, int stage, enum sb_class class, const void *value, size_t n)
{
	char topic[SB_TOPIC_MAX];

	sb_topic_name(topic, RIG_TENANT, rig_stage[stage], SB_UP, class);
	sb_record_init(rec, topic);
	rec->value = value;
	rec->value_len = n;
}

static inline void rig_event(struct rig *rig, int stage, struct sb_stream_out *so, enum sb_event event, const char *json)
{
	struct sb_record rec;
	char until[SB_TIME_LEN + 1];

	rig_record(&rec, stage, SB_EVENT, json, strlen(json));
	if (event == SB_EV_HEARTBEAT_SENT) {
		sb_time_format(until, sb_wall_ms() + 30000);
		rig_ok(sb_record_set(&rec, "expirytime", until, err));
	}
	rig_ok(sb_stream_stamp(so, &rec, event, "test", NULL, rig->agent[stage], err));
	rig_send(rig, &rec);
}

/* A batch of rows (id from..to-1, name "<name>-<id>"), each a change of its own at lsn 1000 * id */
struct rig_batch {
	const char *type;
	uint64_t incarnation;
	int from, to;
	const char *name;
	char op;
	const char *bad_id;
};

static inline char *rig_batch_value(const struct rig_batch *b, size_t *ret_len)
{
	static char id_name[] = "id", id_type[] = "integer", name_name[] = "name", name_type[] = "text";
	struct sb_column column[] = { { id_name, id_type, true }, { name_name, name_type, false } };
	struct sb_shape shape = { .incarnation = b->incarnation, .column = column, .n_columns = 2 };
	struct sb_batch *batch = NULL;

	rig_ok(sb_format(shape.type, sizeof(shape.type), err, "%s", b->type));
	rig_ok(sb_batch_new(&batch, err));
	rig_ok(sb_batch_begin(batch, &shape, err));
	for (int i = b->from; i < b->to; i++) {
		char id[32], name[64];
		bool bad = b->bad_id && i == b->to - 1;
		rig_ok(sb_format(id, sizeof(id), err, "%d", i));
		rig_ok(sb_format(name, sizeof(name), err, "%s-%d", b->name, i));
		const char *key = bad ? b->bad_id : id;
		struct sb_cell cell[] = { { SB_CELL_VALUE, key, strlen(key) }, { SB_CELL_VALUE, name, strlen(name) } };
		struct sb_change c = {
			.op = b->op ? b->op : 'u', .lsn = b->op == 's' ? 1 : (uint64_t)i * 1000, .n_cells = 2, .cell = cell
		};
		rig_ok(sb_batch_add(batch, &c, err));
	}
	size_t n = 0;
	const void *value = sb_batch_value(batch, &n);
	char *copy = malloc(n);
	ck_assert_ptr_nonnull(copy);
	memcpy(copy, value, n);
	sb_batch_free(batch);
	*ret_len = n;
	return copy;
}

static inline void rig_entity_stamp(struct rig *rig, int stage, struct sb_stream_out *so, const struct rig_batch *b, const char *from,
	const char *to, struct sb_record *rec, char **ret_value)
{
	size_t n = 0;

	*ret_value = rig_batch_value(b, &n);
	rig_record(rec, stage, SB_ENTITY, *ret_value, n);
	if (from) {
		rig_ok(sb_record_set(rec, "sbfrom", from, err));
		rig_ok(sb_record_set(rec, "sbto", to, err));
	}
	rig_ok(sb_stream_stamp(so, rec, b->op == 's' ? SB_EV_SNAPSHOT_ROWS : SB_EV_ENTITY_CHANGED, b->type, SB_BATCH_CONTENT_TYPE,
		rig->agent[stage], err));
}

static inline void rig_entity_at(
	struct rig *rig, int stage, struct sb_stream_out *so, const struct rig_batch *b, const char *from, const char *to)
{
	struct sb_record rec;
	char *value = NULL;

	rig_entity_stamp(rig, stage, so, b, from, to, &rec, &value);
	rig_send(rig, &rec);
	free(value);
}

/* Covers [1000 * from, 1000 * to) */
static inline void rig_entity(struct rig *rig, int stage, struct sb_stream_out *so, const struct rig_batch *b)
{
	char from[SB_POSITION_LEN + 1], to[SB_POSITION_LEN + 1];

	sb_position_format(from, (struct sb_position){ (uint64_t)b->from * 1000, 0 });
	sb_position_format(to, (struct sb_position){ (uint64_t)b->to * 1000, 0 });
	rig_entity_at(rig, stage, so, b, from, to);
}

static inline void rig_marker(struct rig *rig, int stage, struct sb_stream_out *so, enum sb_event event, const char *json)
{
	struct sb_record rec;

	rig_record(&rec, stage, SB_ENTITY, json, strlen(json));
	rig_ok(sb_stream_stamp(so, &rec, event, "test", NULL, rig->agent[stage], err));
	rig_send(rig, &rec);
}

static inline int rig_main(Suite *s)
{
	rig_base = pg_fixture_start();
	return test_run(s);
}

#endif
