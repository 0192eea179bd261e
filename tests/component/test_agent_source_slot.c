/* The slot and the server's log: an idle database holds nothing back, a slot that the server gave up is noticed and made up for, and a server that is
 * impatient with its readers is content while the broker is away. */
#include "landing.h"
#include "source_pg_rig.h"

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
	landing_open(&l, "lost");
	sql(&g, "INSERT INTO app.item SELECT i, 'v' FROM generate_series(1, 50) i");
	rig_start(&g);
	ck_assert(wait_until((landing_pull(&l, g.fix.keys.keyring, g.consumer), l.ended == 2), 20000));
	rig_stop(&g);
	sql(&g, "DELETE FROM app.item WHERE id % 2 = 0; UPDATE app.item SET name = 'unseen' WHERE id = 1");
	sql(&g, "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'");
	ck_assert(works(&g, "SELECT pg_reload_conf()"));
	ck_assert(wait_until(lost(&g), 60000));
	rig_start(&g);
	ck_assert(wait_until((landing_pull(&l, g.fix.keys.keyring, g.consumer), l.ended == 4), 30000));
	char *there = ask(&g, "SELECT string_agg(id || name, ' ' ORDER BY id) FROM app.item"), *here = landing_ask(l.pg, "SELECT string_agg(id || name, ' ' ORDER BY id) FROM dev.item");
	ck_assert_str_eq(there, here);
	free(there);
	free(here);
	sql(&g, "ALTER SYSTEM RESET max_slot_wal_keep_size");
	landing_close(&l);
	rig_free(&g);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("agent_source_slot");
	TCase *t = tcase_create("slot");

	tcase_set_timeout(t, 180);
	tcase_add_test(t, idle_database_holds_no_log);
	tcase_add_test(t, slot_lost);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	pg_fixture_start();
	return test_run(suite());
}
