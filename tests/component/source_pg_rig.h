/* One postgres source against a private PostgreSQL and an in-process broker, for the tests of the source. Header only. The source's two lanes run as in
 * the agent; what arrives at the broker is pulled into a model of the tables, or consumed otherwise by the test. */
#ifndef SOURCE_PG_RIG_H
#define SOURCE_PG_RIG_H

#include <jansson.h>

#include "entity_model.h"
#include "pg_fixture.h"
#include "source.h"
#include "stagebridge/log.h"
#include "stagebridge/pg.h"

#define RIG_TABLES 96

struct rig {
	struct fix fix;
	struct sb_mock_broker *broker;
	struct sb_consumer *consumer;
	struct sb_pg *pg;
	char db[32], conninfo[320];
	struct agent_pg_source source;
	struct agent_table table[RIG_TABLES];
	char *hidden[1];
	struct agent_pg_lane lane;
	struct model m;
};

static inline void sql(struct rig *g, const char *text)
{
	struct sb_error err = SB_ERROR_INIT;
	int r = sb_pg_script(g->pg, text, &err);

	ck_assert_msg(r == 0, "%s: %s", text, err.msg);
}

/* An update of the application that fails while the publication does not fit the table's identity; the source mends that within moments. */
static inline bool works(struct rig *g, const char *text)
{
	struct sb_error err = SB_ERROR_INIT;

	return sb_pg_exec(g->pg, text, 0, NULL, NULL, &err) == 0;
}

static inline char *ask(struct rig *g, const char *text)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_pg_result *res = NULL;
	int r = sb_pg_exec(g->pg, text, 0, NULL, &res, &err);

	ck_assert_msg(r == 0, "%s: %s", text, err.msg);
	char *s = sb_strdup(sb_pg_rows(res) && sb_pg_get(res, 0, 0) ? sb_pg_get(res, 0, 0) : "");
	sb_pg_free(res);
	return s;
}

static inline bool pull(struct rig *g)
{
	return model_pull(&g->m, g->fix.keys.keyring, g->consumer);
}

static inline bool pull_until(struct rig *g, bool (*holds)(struct rig *g), int64_t ms)
{
	int64_t until = sb_mono_ms() + ms;

	while (!holds(g)) {
		if (sb_mono_ms() > until)
			return false;
		(void)pull(g); /* looked at by holds */
	}
	return true;
}

/* --- equality of table and model --- */

/* query: one row of one column, a JSON object { "key|": [cells as text] } */
static inline bool equal(struct rig *g, const char *type, const char *query)
{
	char *text = ask(g, query);
	json_t *there = *text ? json_loads(text, 0, NULL) : json_object();
	json_t *here = model_rows(&g->m, type);
	bool same = json_equal(there, here);

	json_decref(there);
	json_decref(here);
	free(text);
	return same;
}

/* --- what to wait for --- */

static inline bool snapshots_done(struct rig *g)
{
	return g->m.ended >= g->source.tables.count;
}

static inline bool all_acknowledged(struct rig *g, uint64_t rows)
{
	pthread_mutex_lock(&g->fix.a.board.lock);
	const struct agent_source_state *s = &g->fix.a.board.source[0];
	bool done = s->rows >= rows && s->lag_ms == 0;
	pthread_mutex_unlock(&g->fix.a.board.lock);
	return done;
}

/* --- the rig --- */

static inline void rig_start(struct rig *g)
{
	struct sb_error err = SB_ERROR_INIT;
	char name[64];

	fix_ok(sb_lanes_new(&g->fix.a.lanes, &err), err);
	(void)snprintf(name, sizeof(name), "source/%s", g->source.name);
	fix_ok(sb_lanes_start(g->fix.a.lanes, name, agent_pg_source_lane, &g->lane, &err), err);
	(void)snprintf(name, sizeof(name), "source/%s/snapshot", g->source.name);
	fix_ok(sb_lanes_start(g->fix.a.lanes, name, agent_pg_snapshot_lane, &g->lane, &err), err);
}

static inline void rig_stop(struct rig *g)
{
	sb_lanes_free(g->fix.a.lanes);
	g->fix.a.lanes = NULL;
}

static const char *rig_encoding; /* of the next database; NULL: UTF8 */
static const char *rig_server;   /* conninfo of the next database's server; NULL: the program's own */

/* Broker, agent and an empty database; no tables yet. */
static inline void rig_open(struct rig *g, const char *name)
{
	struct sb_error err = SB_ERROR_INIT;
	const char *topics[1];
	struct sb_pg *admin;
	struct sb_db *db = NULL;
	char text[160];

	memset(g, 0, sizeof(*g));
	sb_log_init("agent", "train", getenv("SB_TEST_LOG") ? SB_DEBUG : SB_ERROR, false);
	fix_init(&g->fix);
	topics[0] = g->fix.a.topic_up[SB_ENTITY];
	fix_ok(sb_mock_broker_new(&g->broker, topics, 1, &err), err);
	g->fix.a.kafka = (struct sb_kafka_conf){ .servers = sb_mock_broker_servers(g->broker), .client_id = "test", .fetch_wait_ms = 10 };
	fix_ok(sb_consumer_new(&g->consumer, &g->fix.a.kafka, &err), err);
	const struct sb_assignment from = { .topic = topics[0], .offset = SB_OFFSET_BEGINNING };
	fix_ok(sb_consumer_assign(g->consumer, &from, 1, &err), err);
	/* made before the lanes open it, as the agent does at its start */
	fix_ok(agent_state_open(&db, &g->fix.a, &err), err);
	sb_db_close(db);
	model_init(&g->m);

	(void)snprintf(g->db, sizeof(g->db), "src_%s", name);
	const char *server = rig_server ? rig_server : pg_fixture_start();
	fix_ok(sb_pg_open(&admin, server, "test", &err), err);
	(void)snprintf(text, sizeof(text), "CREATE DATABASE %s TEMPLATE template0 ENCODING '%s' LOCALE '%s'", g->db, rig_encoding ? rig_encoding : "UTF8",
		rig_encoding ? "C" : "C.UTF-8");
	fix_ok(sb_pg_exec(admin, text, 0, NULL, NULL, &err), err);
	sb_pg_close(admin);
	(void)snprintf(g->conninfo, sizeof(g->conninfo), "%s dbname=%s", server, g->db);
	fix_ok(sb_pg_open(&g->pg, g->conninfo, "test", &err), err);
	g->source = (struct agent_pg_source){ .name = sb_strdup("main"), .conninfo = g->conninfo, .slot = g->db, .publication = g->db,
		.snapshot_readers = 3, .snapshot_range = 65536, .tables = { g->table, 0 } };
	g->lane = (struct agent_pg_lane){ .agent = &g->fix.a, .source = &g->source };
}

/* One more table of the settings. */
static inline struct agent_table *rig_table(struct rig *g, const char *table, const char *type)
{
	struct agent_table *t = &g->table[g->source.tables.count++];

	ck_assert_uint_le(g->source.tables.count, RIG_TABLES);
	*t = (struct agent_table){ .table = sb_strdup(table), .type = sb_strdup(type) };
	return t;
}

/* A database with two tables, of which one has a private column. */
static inline void rig_make(struct rig *g, const char *name)
{
	rig_open(g, name);
	sql(g, "CREATE SCHEMA app;"
	       "CREATE TABLE app.item (id int PRIMARY KEY, name text, secret text, note text);"
	       "CREATE TABLE app.lot (a text, b int, v numeric(10,2), PRIMARY KEY (a, b))");
	g->hidden[0] = sb_strdup("secret");
	rig_table(g, "app.item", "item")->private_columns = (struct sb_strings){ g->hidden, 1 };
	rig_table(g, "app.lot", "lot");
}

static inline void rig_free(struct rig *g)
{
	char text[200];

	rig_stop(g);
	(void)snprintf(text, sizeof(text), "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '%s' AND NOT active", g->db);
	free(ask(g, text));
	sb_pg_close(g->pg);
	sb_consumer_free(g->consumer);
	sb_mock_broker_free(g->broker);
	model_release(&g->m);
	for (size_t i = 0; i < g->source.tables.count; i++) {
		free(g->table[i].table);
		free(g->table[i].type);
	}
	free(g->hidden[0]);
	free(g->source.name);
	fix_release(&g->fix);
}

static inline char *logged_state(struct rig *g, char out[24])
{
	pthread_mutex_lock(&g->fix.a.board.lock);
	out[0] = '\0';
	if (g->fix.a.board.n_sources)
		memcpy(out, g->fix.a.board.source[0].state, 24);
	pthread_mutex_unlock(&g->fix.a.board.lock);
	return out;
}

#endif
