/* The slot and the server's log: an idle database holds nothing back; a slot that was lost, moved or replaced is noticed and made up for, and so is another
 * server in the place of the last; a server that is impatient with its readers is content while the broker is away. */
#include <signal.h>

#include "landing.h"
#include "source_pg_rig.h"
#include "stagebridge/db.h"

#define ITEMS(schema) "SELECT string_agg(id || ' ' || name, ', ' ORDER BY id) FROM " schema ".item"

/* The landing holds what the source holds, exactly. */
static bool same(struct rig *g, struct landing *l)
{
	(void)landing_pull(l, g->fix.keys.keyring, g->consumer); /* looked at here */
	sb_cleanup(sb_freep) char *there = ask(g, ITEMS("app"));
	sb_cleanup(sb_freep) char *here = landing_ask(l->pg, ITEMS("dev"));
	return strcmp(there, here) == 0;
}

/* Rows, whose first snapshots have arrived. */
static void begin(struct rig *g, struct landing *l)
{
	sql(g, "INSERT INTO app.item SELECT i, 'v' FROM generate_series(1, 50) i");
	rig_start(g);
	ck_assert(wait_until((landing_pull(l, g->fix.keys.keyring, g->consumer), l->ended == 2), 20000));
}

static void change(struct rig *g, const char *word)
{
	char text[256];

	(void)snprintf(text, sizeof(text), "DELETE FROM app.item WHERE id IN (SELECT id FROM app.item ORDER BY id LIMIT 5); UPDATE app.item SET name = '%s' WHERE id %% 7 = 0;"
		" INSERT INTO app.item SELECT max(id) + 1, '%s' FROM app.item", word, word);
	sql(g, text);
}

static int64_t stored(struct rig *g, const char *query)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_db *db = NULL;

	fix_ok(agent_state_open(&db, &g->fix.a, &err), err);
	int64_t n = fix_number(db, query);
	sb_db_close(db);
	return n;
}

static bool is_state(struct rig *g, const char *wanted)
{
	char state[24];

	return strcmp(logged_state(g, state), wanted) == 0;
}

static bool slot_near(struct rig *g)
{
	char query[256];

	(void)snprintf(query, sizeof(query), "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn) < 65536 FROM pg_replication_slots WHERE slot_name = '%s'", g->db);
	sb_cleanup(sb_freep) char *near = ask(g, query);
	return *near == 't';
}

/* Only tables that nobody publishes are written to: the slot follows all the same. */
START_TEST(idle_database_holds_no_log)
{
	struct rig g;

	rig_make(&g, "idle");
	sql(&g, "ALTER SYSTEM SET wal_sender_timeout = '3s'");
	sql(&g, "CREATE TABLE app.other (id int, v text)");
	ck_assert(works(&g, "SELECT pg_reload_conf()"));
	rig_start(&g);
	ck_assert(pull_until(&g, snapshots_done, 20000));
	sql(&g, "INSERT INTO app.other SELECT i, repeat('x', 200) FROM generate_series(1, 20000) i");
	ck_assert(wait_until(slot_near(&g), 20000));
	rig_free(&g);
}
END_TEST

static bool lost(struct rig *g)
{
	(void)works(g, "SELECT pg_switch_wal()");
	(void)works(g, "INSERT INTO app.lot SELECT 'fill' || clock_timestamp(), i, i FROM generate_series(1, 2000) i");
	(void)works(g, "CHECKPOINT");
	sb_cleanup(sb_freep) char *state = ask(g, "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'src_lost'");
	return strcmp(state, "lost") == 0;
}

/* The server removes what the slot needs while the agent is away: a new life, a snapshot, and what was deleted meanwhile is swept. */
START_TEST(slot_lost)
{
	struct rig g;
	struct landing l;

	rig_make(&g, "lost");
	landing_open(&l, g.db + 4);
	begin(&g, &l);
	rig_stop(&g);
	change(&g, "unseen");
	sql(&g, "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'");
	ck_assert(works(&g, "SELECT pg_reload_conf()"));
	ck_assert(wait_until(lost(&g), 60000));
	rig_start(&g);
	ck_assert(wait_until((landing_pull(&l, g.fix.keys.keyring, g.consumer), l.ended == 4), 30000));
	ck_assert(same(&g, &l));
	sql(&g, "ALTER SYSTEM RESET max_slot_wal_keep_size");
	landing_close(&l);
	rig_free(&g);
}
END_TEST

static int64_t life(struct rig *g, const char *source)
{
	char query[128];

	(void)snprintf(query, sizeof(query), "SELECT incarnation FROM source_state WHERE source = '%s'", source);
	return stored(g, query);
}

static void rename_source(struct rig *g, const char *name, const char *slot)
{
	free(g->source.name);
	g->source.name = sb_strdup(name);
	g->source.slot = g->source.publication = (char *)(uintptr_t)slot;
}

/* Types that come from another source, with positions of its own, begin a later life: also when they come back to a source that was there before. */
START_TEST(type_of_another_source)
{
	struct rig g;
	struct landing l;

	rig_make(&g, "types_move");
	landing_open(&l, g.db + 4);
	begin(&g, &l);
	rig_stop(&g);
	rename_source(&g, "second", "src_second");
	change(&g, "unseen");
	rig_start(&g);
	ck_assert(wait_until((landing_pull(&l, g.fix.keys.keyring, g.consumer), l.ended == 4), 30000));
	ck_assert_int_gt(life(&g, "second"), life(&g, "main"));
	ck_assert(same(&g, &l));
	rig_stop(&g);
	rename_source(&g, "main", g.db);
	change(&g, "unseen");
	rig_start(&g);
	ck_assert(wait_until((landing_pull(&l, g.fix.keys.keyring, g.consumer), l.ended == 6), 30000));
	ck_assert_int_gt(life(&g, "main"), life(&g, "second"));
	change(&g, "seen");
	ck_assert(wait_until(same(&g, &l), 20000));
	/* and stays as it is */
	int64_t now = life(&g, "main");
	rig_stop(&g);
	rig_start(&g);
	change(&g, "again");
	ck_assert(wait_until(same(&g, &l), 20000));
	ck_assert_int_eq(life(&g, "main"), now);
	landing_close(&l);
	rig_free(&g);
}
END_TEST

#define RECREATED "SELECT pg_drop_replication_slot(current_database()); SELECT pg_create_logical_replication_slot(current_database(), 'pgoutput')"
#define ADVANCED "SELECT pg_replication_slot_advance(current_database(), pg_current_wal_flush_lsn())"

static bool script_works(struct rig *g, const char *text)
{
	struct sb_error err = SB_ERROR_INIT;

	return sb_pg_script(g->pg, text, &err) == 0;
}

/* Somebody lets the slot pass over changes while the agent is away: it is noticed before the stream begins, and nothing is missed. */
START_TEST(slot_moved)
{
	static const char *const how[] = { RECREATED, ADVANCED };
	struct rig g;
	struct landing l;

	rig_make(&g, _i ? "advanced" : "recreated");
	landing_open(&l, g.db + 4);
	begin(&g, &l);
	rig_stop(&g);
	change(&g, "passed over");
	ck_assert(wait_until(script_works(&g, how[_i]), 10000)); /* the server may take a moment to see that its client is gone */
	change(&g, "after it");
	rig_start(&g);
	ck_assert(wait_until((landing_pull(&l, g.fix.keys.keyring, g.consumer), l.ended == 4), 20000));
	ck_assert(wait_until(same(&g, &l), 10000));
	ck_assert_int_eq(stored(&g, "SELECT count(*) FROM snapshot WHERE reason = 'the slot was moved by somebody else'"), 2);
	change(&g, "goes on");
	ck_assert(wait_until(same(&g, &l), 10000));
	ck_assert_uint_eq(l.ended, 4);
	landing_close(&l);
	rig_free(&g);
}
END_TEST

static bool waits_for(struct rig *g, const char *relation)
{
	char query[160];

	(void)snprintf(query, sizeof(query), "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '%s'::regclass", relation);
	sb_cleanup(sb_freep) char *n = ask(g, query);
	return *n == '1';
}

/* The same in the moment between the look at the slot and the begin of the stream: there the session is held by a lock. */
START_TEST(slot_moved_in_between)
{
	struct sb_error err = SB_ERROR_INIT;
	struct rig g;
	struct landing l;
	struct sb_pg *other;

	rig_make(&g, "between");
	landing_open(&l, g.db + 4);
	begin(&g, &l);
	rig_stop(&g);
	change(&g, "passed over");
	fix_ok(sb_pg_open(&other, g.conninfo, "test", &err), err);
	fix_ok(sb_pg_script(other, "BEGIN; LOCK TABLE pg_catalog.pg_enum IN ACCESS EXCLUSIVE MODE", &err), err);
	rig_start(&g);
	ck_assert(wait_until(waits_for(&g, "pg_enum"), 10000));
	sql(&g, ADVANCED);
	fix_ok(sb_pg_script(other, "COMMIT", &err), err);
	ck_assert(wait_until((landing_pull(&l, g.fix.keys.keyring, g.consumer), l.ended == 4), 20000));
	ck_assert(wait_until(same(&g, &l), 10000));
	ck_assert_int_eq(stored(&g, "SELECT count(*) FROM snapshot WHERE reason = 'the slot was moved by somebody else'"), 2);
	sb_pg_close(other);
	landing_close(&l);
	rig_free(&g);
}
END_TEST

/* A slot of another kind under our name is nobody's to drop: the source waits, and goes on by itself once it is gone. */
START_TEST(slot_of_another_kind)
{
	struct rig g;
	struct landing l;

	rig_make(&g, "kind");
	landing_open(&l, g.db + 4);
	begin(&g, &l);
	rig_stop(&g);
	ck_assert(wait_until(script_works(&g, "SELECT pg_drop_replication_slot(current_database()); SELECT pg_create_physical_replication_slot(current_database())"), 10000));
	change(&g, "unseen");
	rig_start(&g);
	ck_assert(wait_until(is_state(&g, "down"), 10000));
	sb_cleanup(sb_freep) char *kind = ask(&g, "SELECT slot_type FROM pg_replication_slots WHERE slot_name = current_database()");
	ck_assert_str_eq(kind, "physical");
	ck_assert(works(&g, "SELECT pg_drop_replication_slot(current_database())"));
	ck_assert(wait_until((landing_pull(&l, g.fix.keys.keyring, g.consumer), l.ended == 4), 20000));
	ck_assert(wait_until(same(&g, &l), 10000));
	landing_close(&l);
	rig_free(&g);
}
END_TEST

static void reader_of(struct rig *g, char out[16])
{
	sb_cleanup(sb_freep) char *pid = ask(g, "SELECT active_pid FROM pg_replication_slots WHERE slot_name = current_database()");
	(void)snprintf(out, 16, "%s", pid);
}

/* Three times the server's patience without a broker, and more changes than the agent holds: the server keeps its reader, and all of it arrives. */
START_TEST(broker_away)
{
	struct sb_error err = SB_ERROR_INIT;
	struct rig g;
	struct landing l;
	char before[16], after[16];

	rig_open(&g, "away");
	landing_open(&l, "away");
	sql(&g, "CREATE SCHEMA app; CREATE TABLE app.item (id serial PRIMARY KEY, name text)");
	rig_table(&g, "app.item", "item");
	sql(&g, "ALTER SYSTEM SET wal_sender_timeout = '3s'");
	ck_assert(works(&g, "SELECT pg_reload_conf()"));
	rig_start(&g);
	ck_assert(wait_until((landing_pull(&l, g.fix.keys.keyring, g.consumer), l.ended == 1), 20000));
	reader_of(&g, before);
	ck_assert_str_ne(before, "");
	fix_ok(sb_mock_broker_away(g.broker, true, &err), err);
	int64_t until = sb_mono_ms() + 10000;
	ck_assert(wait_until((sql(&g, "INSERT INTO app.item (name) SELECT repeat(md5(i::text), 31) FROM generate_series(1, 500) i"), is_state(&g, "paused")), 30000));
	ck_assert(wait_until((sql(&g, "UPDATE app.item SET name = 'again' WHERE id % 500 = 1"), sb_mono_ms() > until), 30000));
	reader_of(&g, after);
	ck_assert_str_eq(before, after);
	fix_ok(sb_mock_broker_away(g.broker, false, &err), err);
	ck_assert(wait_until(same(&g, &l), 60000));
	reader_of(&g, after);
	ck_assert_str_eq(before, after);
	sql(&g, "ALTER SYSTEM RESET wal_sender_timeout");
	landing_close(&l);
	rig_free(&g);
}
END_TEST

/* --- other servers under the same name --- */

static void reconnect(struct rig *g)
{
	struct sb_error err = SB_ERROR_INIT;

	sb_pg_close(SB_TAKE(g->pg));
	ck_assert_msg(wait_until(sb_pg_open(&g->pg, g->conninfo, "test", &err) == 0, 20000), "%s", err.msg);
}

static bool has_replayed(struct rig *g, struct sb_pg *standby)
{
	char query[128];
	sb_cleanup(sb_freep) char *end = ask(g, "SELECT pg_current_wal_flush_lsn()");

	(void)snprintf(query, sizeof(query), "SELECT pg_last_wal_replay_lsn() >= '%s'", end);
	sb_cleanup(sb_freep) char *has = landing_ask(standby, query);
	return *has == 't';
}

static void wait_for_standby(struct rig *g, const struct pg_server *standby)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_pg *pg;

	fix_ok(sb_pg_open(&pg, standby->conninfo, "test", &err), err);
	ck_assert(wait_until(has_replayed(g, pg), 20000));
	sb_pg_close(pg);
}

static bool keeps_slots(struct rig *g)
{
	return sb_pg_version(g->pg) >= 170000;
}

static bool in_step(struct sb_pg *standby)
{
	sb_cleanup(sb_freep) char *tried = landing_ask(standby, "SELECT pg_sync_replication_slots()");
	sb_cleanup(sb_freep) char *n = landing_ask(standby, "SELECT count(*) FROM pg_replication_slots WHERE synced AND NOT temporary");
	return *n == '1';
}

static void wait_for_slot(const struct pg_server *standby)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_pg *pg;

	fix_ok(sb_pg_open(&pg, standby->conninfo, "test", &err), err);
	ck_assert(wait_until(in_step(pg), 60000));
	sb_pg_close(pg);
}

static void promote(const struct pg_server *standby)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_pg *pg;

	fix_ok(sb_pg_open(&pg, standby->conninfo, "test", &err), err);
	fix_ok(sb_pg_exec(pg, "SELECT pg_promote()", 0, NULL, NULL, &err), err);
	sb_pg_close(pg);
}

/* Two servers, and a source that takes the one that may be written to. */
static void pair_up(struct rig *g, struct landing *l, struct pg_server *primary, struct pg_server *standby, const char *name)
{
	static char both[256];
	struct sb_error err = SB_ERROR_INIT;
	struct sb_pg *pg;

	pg_server_new(primary);
	fix_ok(sb_pg_open(&pg, primary->conninfo, "test", &err), err);
	fix_ok(sb_pg_script(pg, "SELECT pg_create_physical_replication_slot('standby', true)", &err), err);
	sb_pg_close(pg);
	pg_server_stop(primary, SIGINT);
	pg_server_copy(standby, primary);
	pg_server_follow(standby, primary);
	pg_server_start(primary);
	pg_server_start(standby);
	(void)snprintf(both, sizeof(both), "host=%s,%s user=postgres target_session_attrs=read-write", primary->dir, standby->dir);
	rig_server = both;
	rig_make(g, name);
	landing_open(l, name);
}

static void pair_free(struct pg_server *primary, struct pg_server *standby)
{
	rig_server = NULL;
	pg_server_free(primary);
	pg_server_free(standby);
}

/* The primary dies with changes that were read from it and that its standby never had. The agent, which runs all the time, finds the promoted one by
 * itself; what had been read too much is gone afterwards. */
START_TEST(standby_is_promoted)
{
	struct rig g;
	struct landing l;
	struct pg_server primary, standby;

	pair_up(&g, &l, &primary, &standby, _i ? "kept_lost" : "pair");
	g.source.failover = _i;
	begin(&g, &l);
	change(&g, "on both");
	ck_assert(wait_until(same(&g, &l), 10000));
	int64_t first = stored(&g, "SELECT incarnation FROM source_state");
	if (g.source.failover && keeps_slots(&g))
		wait_for_slot(&standby);
	wait_for_standby(&g, &standby);
	pg_server_stop(&standby, SIGINT);
	change(&g, "lost with the primary");
	ck_assert(wait_until(same(&g, &l), 10000));
	pg_server_stop(&primary, SIGQUIT);
	pg_server_start(&standby);
	promote(&standby);
	reconnect(&g);
	ck_assert(!same(&g, &l));
	change(&g, "on the promoted one");
	ck_assert(wait_until((landing_pull(&l, g.fix.keys.keyring, g.consumer), l.ended == 4), 60000));
	ck_assert(wait_until(same(&g, &l), 10000));
	ck_assert_int_eq(stored(&g, "SELECT incarnation FROM source_state"), first + 1);
	ck_assert_int_eq(stored(&g, "SELECT count(*) FROM snapshot WHERE reason = 'another timeline'"), 2);
	change(&g, "goes on");
	ck_assert(wait_until(same(&g, &l), 10000));
	landing_close(&l);
	rig_free(&g);
	pair_free(&primary, &standby);
}
END_TEST

/* A standby that kept the slot in step and has all that was read: the life goes on without a snapshot. Servers before 17 cannot: there a new one begins. */
START_TEST(slot_kept_in_step)
{
	struct rig g;
	struct landing l;
	struct pg_server primary, standby;

	pair_up(&g, &l, &primary, &standby, "kept");
	g.source.failover = true;
	begin(&g, &l);
	bool kept = keeps_slots(&g);
	sb_cleanup(sb_freep) char *made = ask(&g, "SELECT to_jsonb(s) ->> 'failover' FROM pg_replication_slots s WHERE slot_name = current_database()");
	ck_assert_str_eq(made, kept ? "true" : "");
	int64_t first = stored(&g, "SELECT incarnation FROM source_state");
	if (kept)
		wait_for_slot(&standby);
	change(&g, "on both");
	ck_assert(wait_until(same(&g, &l), 10000));
	pg_server_stop(&primary, SIGINT); /* in order: the standby gets everything before it ends */
	promote(&standby);
	reconnect(&g);
	change(&g, "on the promoted one");
	ck_assert(wait_until(same(&g, &l), 60000));
	if (!kept)
		ck_assert(wait_until((landing_pull(&l, g.fix.keys.keyring, g.consumer), l.ended == 4), 20000));
	change(&g, "goes on");
	ck_assert(wait_until(same(&g, &l), 10000));
	ck_assert_int_eq(stored(&g, "SELECT incarnation FROM source_state"), first + !kept);
	ck_assert_uint_eq(l.ended, kept ? 2 : 4);
	landing_close(&l);
	rig_free(&g);
	pair_free(&primary, &standby);
}
END_TEST

/* Files put back: the same system on the same timeline, with the slot as it was then. */
START_TEST(files_put_back)
{
	struct rig g;
	struct landing l;
	struct pg_server server, copy;
	int64_t first;

	pg_server_new(&server);
	rig_server = server.conninfo;
	rig_make(&g, "back");
	landing_open(&l, g.db + 4);
	begin(&g, &l);
	first = stored(&g, "SELECT incarnation FROM source_state");
	rig_stop(&g);
	pg_server_stop(&server, SIGINT);
	pg_server_copy(&copy, &server);
	pg_server_start(&server);
	reconnect(&g);
	rig_start(&g);
	change(&g, "never was");
	ck_assert(wait_until(same(&g, &l), 20000));
	ck_assert_int_eq(stored(&g, "SELECT incarnation FROM source_state"), first);
	rig_stop(&g);
	pg_server_stop(&server, SIGINT);
	pg_server_start(&copy);
	(void)snprintf(g.conninfo, sizeof(g.conninfo), "%s dbname=%s", copy.conninfo, g.db);
	reconnect(&g);
	ck_assert(!same(&g, &l));
	rig_start(&g);
	ck_assert(wait_until((landing_pull(&l, g.fix.keys.keyring, g.consumer), l.ended == 4), 20000));
	ck_assert(wait_until(same(&g, &l), 10000));
	ck_assert_int_eq(stored(&g, "SELECT count(*) FROM snapshot WHERE reason = 'the server is behind what was read from it'"), 2);
	landing_close(&l);
	rig_free(&g);
	rig_server = NULL;
	pg_server_free(&server);
	pg_server_free(&copy);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("agent_source_slot");
	TCase *t = tcase_create("slot");

	tcase_set_timeout(t, 180);
	tcase_add_test(t, idle_database_holds_no_log);
	tcase_add_test(t, slot_lost);
	tcase_add_test(t, type_of_another_source);
	tcase_add_loop_test(t, slot_moved, 0, 2);
	tcase_add_test(t, slot_moved_in_between);
	tcase_add_test(t, slot_of_another_kind);
	tcase_add_test(t, broker_away);
	tcase_add_loop_test(t, standby_is_promoted, 0, 2);
	tcase_add_test(t, slot_kept_in_step);
	tcase_add_test(t, files_put_back);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	pg_fixture_start();
	return test_run(suite());
}
