/* Events of applications: the outbox table and logical messages become rows of one append-only type, in commit order, once; what is malformed is
 * withheld and stops nothing. */
#include "landing.h"
#include "source_pg_rig.h"

#define EVENTS "SELECT string_agg(concat_ws(' ', id, aggregatetype, aggregateid, type, payload), '; ' ORDER BY at, id) FROM dev.\"outbox-event\""
#define MESSAGE(transactional, text) "SELECT pg_logical_emit_message(" transactional ", 'stagebridge.outbox', '" text "')"

static void await(struct rig *g, struct landing *l, const char *query, const char *expected)
{
	int64_t until = sb_mono_ms() + 30000;

	for (;;) {
		sb_cleanup(sb_freep) char *is = landing_ask(l->pg, query);
		if (strcmp(is, expected) == 0)
			return;
		ck_assert_msg(sb_mono_ms() < until, "expected %s, is %s", expected, is);
		(void)landing_pull(l, g->fix.keys.keyring, g->consumer); /* looked at above */
	}
}

static void begin(struct rig *g, struct landing *l, const char *name, const char *table)
{
	rig_open(g, name);
	landing_open(l, name);
	sql(g, "CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY); CREATE TABLE app.outbox (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), note text, aggregatetype text NOT NULL,"
		" aggregateid text NOT NULL, type text NOT NULL, payload jsonb); INSERT INTO app.outbox VALUES (DEFAULT, 'before we came', 'x', 'x', 'x', '0')");
	rig_table(g, "app.t", "t");
	g->source.outbox.type = (char *)(uintptr_t)"outbox-event";
	g->source.outbox.table = (char *)(uintptr_t)table;
}

static void end(struct rig *g, struct landing *l)
{
	landing_close(l);
	rig_free(g);
}

static bool t_landed(struct rig *g, struct landing *l)
{
	(void)landing_pull(l, g->fix.keys.keyring, g->consumer); /* looked at here */
	return l->ended >= 1;
}

START_TEST(table_convention)
{
	struct rig g;
	struct landing l;

	begin(&g, &l, "outtable", "app.outbox");
	rig_start(&g);
	ck_assert(wait_until(t_landed(&g, &l), 20000));
	/* as the convention has it: inserted and deleted at once, with what it tells of, in one transaction */
	sql(&g, "BEGIN; INSERT INTO app.t VALUES (1); INSERT INTO app.outbox VALUES ('00000000-0000-0000-0000-000000000001', 'n', 'order', '7', 'placed', '{\"sum\": 12.50}');"
		"DELETE FROM app.outbox; COMMIT");
	sql(&g, "BEGIN; INSERT INTO app.outbox VALUES ('00000000-0000-0000-0000-000000000009', 'n', 'order', '7', 'undone', NULL); ROLLBACK");
	sql(&g, "INSERT INTO app.outbox VALUES ('00000000-0000-0000-0000-000000000002', 'n', 'order', '7', 'paid', NULL); UPDATE app.outbox SET type = 'changed'");
	await(&g, &l, EVENTS, "00000000-0000-0000-0000-000000000001 order 7 placed {\"sum\": 12.50}; 00000000-0000-0000-0000-000000000002 order 7 paid");
	/* kept by nobody, swept by nobody */
	rig_stop(&g);
	sql(&g, "TRUNCATE app.outbox; INSERT INTO app.outbox VALUES ('00000000-0000-0000-0000-000000000003', 'n', 'order', '8', 'placed', '[]')");
	ck_assert(wait_until(works(&g, "SELECT pg_drop_replication_slot('src_outtable')"), 10000));
	rig_start(&g);
	ck_assert(wait_until(t_landed(&g, &l) && l.ended >= 2, 20000));
	sql(&g, "INSERT INTO app.outbox VALUES ('00000000-0000-0000-0000-000000000004', 'n', 'order', '8', 'paid', 'null')");
	await(&g, &l, "SELECT string_agg(right(id, 1), '' ORDER BY at, id) FROM dev.\"outbox-event\"", "124"); /* 3 was written while there was no slot */
	end(&g, &l);
}
END_TEST

START_TEST(messages)
{
	struct rig g;
	struct landing l;
	char state[24];

	begin(&g, &l, "outmsg", NULL);
	rig_start(&g);
	ck_assert(wait_until(t_landed(&g, &l), 20000));
	sql(&g, "BEGIN; INSERT INTO app.t VALUES (1); " MESSAGE("true", "{\"id\": \"a\", \"aggregatetype\": \"run\", \"aggregateid\": 12345678901234567890123, \"type\": \"begun\","
		" \"payload\": {\"n\": 0.10, \"big\": 123456789012345678901234567890, \"s\": \"}],\\\"\"} }") "; SAVEPOINT x; "
		MESSAGE("true", "{\"id\": \"b\", \"aggregatetype\": \"run\", \"aggregateid\": \"1\", \"type\": \"undone\"}") "; ROLLBACK TO x; COMMIT");
	sql(&g, MESSAGE("true", "{\"payload\":[1],\"id\":\"c\",\"aggregatetype\":\"run\",\"aggregateid\":\"1\",\"type\":\"ended\"}"));
	sql(&g, "SELECT pg_logical_emit_message(true, 'somebody.else', 'not ours')");
	await(&g, &l, EVENTS, "a run 12345678901234567890123 begun {\"n\": 0.10, \"big\": 123456789012345678901234567890, \"s\": \"}],\\\"\"}; c run 1 ended [1]");
	await(&g, &l, "SELECT count(*) FROM dev.\"outbox-event\" WHERE abs(extract(epoch FROM now() - at)) < 600", "2");
	ck_assert_str_eq(logged_state(&g, state), "streaming");
	/* malformed ones are withheld, each */
	static const char *const bad[] = {
		MESSAGE("true", "no json"), MESSAGE("true", "[1]"), MESSAGE("true", "{\"id\":\"x\"}"), MESSAGE("true", ""),
		MESSAGE("true", "{\"id\":\"x\",\"aggregatetype\":\"t\",\"aggregateid\":\"1\",\"type\":null}"),
		MESSAGE("true", "{\"id\":\"x\",\"aggregatetype\":\"t\",\"aggregateid\":\"1\",\"type\":\"t\",\"more\":1}"),
		MESSAGE("true", "{\"id\":\"x\",\"id\":\"y\",\"aggregatetype\":\"t\",\"aggregateid\":\"1\",\"type\":\"t\"}"),
		MESSAGE("false", "{\"id\":\"x\",\"aggregatetype\":\"t\",\"aggregateid\":\"1\",\"type\":\"t\"}"),
	};
	for (size_t i = 0; i < SB_COUNT(bad); i++)
		sql(&g, bad[i]);
	sql(&g, "SELECT pg_logical_emit_message(true, 'stagebridge.outbox', json_build_object('id', 'h', 'aggregatetype', '', 'aggregateid', '', 'type', '', 'payload', repeat('x', 900000))::text)");
	sql(&g, MESSAGE("true", "{\"id\":\"d\",\"aggregatetype\":\"run\",\"aggregateid\":\"2\",\"type\":\"last\",\"payload\":null}"));
	await(&g, &l, "SELECT string_agg(id, '' ORDER BY at, id) FROM dev.\"outbox-event\"", "acd");
	ck_assert(wait_until(strcmp(logged_state(&g, state), "withheld row") == 0, 5000));
	/* read again after a restart, they are what they were */
	rig_stop(&g);
	sql(&g, MESSAGE("true", "{\"id\":\"e\",\"aggregatetype\":\"run\",\"aggregateid\":\"2\",\"type\":\"while down\"}"));
	rig_start(&g);
	await(&g, &l, "SELECT string_agg(id, '' ORDER BY at, id) FROM dev.\"outbox-event\"", "acde");
	end(&g, &l);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("agent_source_outbox");
	TCase *t = tcase_create("outbox");

	tcase_set_timeout(t, 120);
	tcase_add_test(t, table_convention);
	tcase_add_test(t, messages);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	pg_fixture_start();
	return test_run(suite());
}
