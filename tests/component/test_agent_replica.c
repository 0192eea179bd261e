/* Read-only copies: entities of stage dev arrive in stage train's database as views of schema replica, with a real PostgreSQL and the in-process
 * broker. Records are signed by the owner and countersigned by the hub, as on the wire. */
#include <unistd.h>

#include "agent_fixture.h"
#include "pg_fixture.h"
#include "stagebridge/pg.h"

static struct fix f;
static struct sb_mock_broker *broker;
static struct sb_producer *producer;
static struct sb_pg *pg;
static struct sb_stream_out entity, snapshot;
static uint64_t hopseq;
static enum sb_code delivery;

static void delivered(void *user, uint64_t tag, enum sb_code code, int64_t offset)
{
	(void)user;
	(void)tag;
	(void)offset;
	delivery = code;
}

static void sql(const char *text)
{
	struct sb_error err = SB_ERROR_INIT;

	fix_ok(sb_pg_script(pg, text, &err), err);
}

static void set_up(void)
{
	struct sb_error err = SB_ERROR_INIT;
	const char *topic;

	fix_init(&f);
	f.a.set.replica.conninfo = sb_strdup(pg_fixture_start());
	fix_ok(sb_pg_open(&pg, f.a.set.replica.conninfo, "test", &err), err);
	sql("DROP SCHEMA IF EXISTS store CASCADE; DROP SCHEMA IF EXISTS replica CASCADE");
	topic = f.a.topic_down[SB_ENTITY];
	fix_ok(sb_mock_broker_new(&broker, &topic, 1, &err), err);
	f.a.kafka = (struct sb_kafka_conf){ .servers = sb_mock_broker_servers(broker), .client_id = "test", .fetch_wait_ms = 10 };
	fix_ok(sb_producer_new(&producer, &f.a.kafka, delivered, NULL, &err), err);
	sb_stream_out_init(&entity, DEVKEYS_TENANT, "dev", "entity/experiment", 7, true);
	sb_stream_out_init(&snapshot, DEVKEYS_TENANT, "dev", "snapshot/experiment", 7, true);
}

static void lane_start(void)
{
	struct sb_error err = SB_ERROR_INIT;

	fix_ok(sb_lanes_new(&f.a.lanes, &err), err);
	fix_ok(sb_lanes_start(f.a.lanes, "replica", agent_replica_lane, &f.a, &err), err);
}

static void lane_stop(void)
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
	lane_stop();
	sb_producer_free(producer);
	sb_mock_broker_free(broker);
	sb_pg_close(pg);
	free(f.a.set.replica.conninfo);
	fix_release(&f);
}

/* Signs for dev, countersigns for train, sends. from NULL: no positions. spoil: one byte is changed on the way. */
static void send_record(struct sb_stream_out *so, enum sb_event event, const char *from, const char *to, const void *value, size_t n, bool spoil)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_record rec;
	char *copy = malloc(n);

	memcpy(copy, value, n);
	sb_record_init(&rec, f.a.topic_down[SB_ENTITY]);
	rec.value = copy;
	rec.value_len = n;
	if (from) {
		fix_ok(sb_record_set(&rec, "sbfrom", from, &err), err);
		fix_ok(sb_record_set(&rec, "sbto", to, &err), err);
	}
	fix_ok(sb_stream_stamp(so, &rec, event, "experiment", event == SB_EV_ENTITY_CHANGED || event == SB_EV_SNAPSHOT_ROWS ? SB_BATCH_CONTENT_TYPE : NULL,
		f.keys.dev, &err), err);
	fix_ok(sb_record_hop(&rec, f.keys.hub, FIX_STAGE, ++hopseq, &err), err);
	if (spoil)
		copy[n - 3] ^= 1;
	fix_ok(sb_producer_send(producer, &rec, 1, &err), err);
	fix_ok(sb_producer_flush(producer, 10000, &err), err);
	free(copy);
}

/* One batch with one row. */
static void send_row(struct sb_stream_out *so, enum sb_event event, char op, uint64_t lsn, const char *from, const char *to, const char *id, const char *name, bool spoil)
{
	struct sb_column column[] = { { (char[]){ "id" }, (char[]){ "integer" }, true }, { (char[]){ "name" }, (char[]){ "text" }, false } };
	struct sb_shape shape = { .type = "experiment", .incarnation = 1, .column = column, .n_columns = 2 };
	struct sb_cell cell[2] = { { SB_CELL_VALUE, id, strlen(id) }, { name ? SB_CELL_VALUE : SB_CELL_NULL, name, name ? strlen(name) : 0 } };
	struct sb_change change = { .op = op, .lsn = lsn, .seq = 0, .n_cells = 2, .cell = cell };
	struct sb_error err = SB_ERROR_INIT;
	struct sb_batch *b = NULL;
	size_t n = 0;

	fix_ok(sb_batch_new(&b, &err), err);
	fix_ok(sb_batch_begin(b, &shape, &err), err);
	fix_ok(sb_batch_add(b, &change, &err), err);
	const void *value = sb_batch_value(b, &n);
	send_record(so, event, from, to, value, n, spoil);
	sb_batch_free(b);
}

/* The answer to one query as text; "" while relations are missing. */
static const char *ask(const char *query)
{
	static char text[512];
	struct sb_error err = SB_ERROR_INIT;
	struct sb_pg_result *res = NULL;

	text[0] = '\0';
	if (sb_pg_exec(pg, query, 0, NULL, &res, &err) == 0 && sb_pg_rows(res) && sb_pg_get(res, 0, 0))
		(void)snprintf(text, sizeof(text), "%s", sb_pg_get(res, 0, 0));
	sb_pg_free(res);
	return text;
}

#define becomes(query, want) ck_assert_msg(wait_until(strcmp(ask(query), want) == 0, 15000), "%s: \"%s\" is not \"%s\"", query, ask(query), want)
#define ROWS "SELECT string_agg(id || name, ' ' ORDER BY id) FROM replica.experiment"

START_TEST(test_copies)
{
	lane_start();
	send_row(&entity, SB_EV_ENTITY_CHANGED, 'i', 0x100, "100.0", "110.0", "1", "a", false);
	send_row(&entity, SB_EV_ENTITY_CHANGED, 'i', 0x110, "110.0", "120.0", "2", "b", false);
	becomes(ROWS, "1a 2b");
	lane_stop();
	send_row(&entity, SB_EV_ENTITY_CHANGED, 'u', 0x120, "120.0", "130.0", "1", "c", false);
	send_row(&entity, SB_EV_ENTITY_CHANGED, 'd', 0x130, "130.0", "140.0", "2", NULL, false);
	lane_start();
	becomes(ROWS, "1c");
	becomes("SELECT next_offset::text FROM store.down_position", "4");
	becomes("SELECT session || ' ' || sequence || ' ' || incarnation || ' ' || to_hex(lsn) FROM store.down_stream", "7 4 1 140");
	becomes("SELECT count(*)::text FROM store.quarantine", "0");
	/* anybody may read the view, nobody but the agent the tables */
	sql("DROP ROLE IF EXISTS sb_reader; CREATE ROLE sb_reader");
	becomes("SELECT has_table_privilege('sb_reader', 'replica.experiment', 'SELECT') || ' ' || has_table_privilege('sb_reader', 'replica.experiment', 'UPDATE')"
		" || ' ' || has_schema_privilege('sb_reader', 'store', 'USAGE')", "true false false");
	/* the copies are marked as not made here */
	becomes("SELECT count(*)::text FROM pg_replication_origin_status s JOIN pg_replication_origin o ON o.roident = s.local_id WHERE roname = 'stagebridge_acme_train'", "1");
	ck_assert_str_eq(f.a.board.source[0].state, "streaming");
}
END_TEST

/* What the owner's catalog says: columns without a row, comments for the stage's people. */
START_TEST(test_described)
{
	static const char told[] = "{\"type\":\"experiment\",\"incarnation\":1,\"lsn\":\"0/120\",\"comment\":\"runs\",\"rows\":1,\"withheld\":[],\"columns\":["
		"{\"name\":\"id\",\"type\":\"integer\",\"key\":true,\"source_type\":\"integer\",\"comment\":\"number\",\"labels\":[],\"class\":\"public\"},"
		"{\"name\":\"size\",\"type\":\"bigint\",\"key\":false,\"source_type\":\"bigint\",\"comment\":\"\",\"labels\":[],\"class\":\"public\"}]}";
	char other[sizeof(told)];

	lane_start();
	send_row(&entity, SB_EV_ENTITY_CHANGED, 'i', 0x100, "100.0", "110.0", "1", "a", false);
	send_record(&entity, SB_EV_ENTITY_DESCRIBED, NULL, NULL, told, strlen(told), false);
	becomes("SELECT string_agg(attname || ':' || atttypid::regtype || ':' || coalesce(col_description(attrelid, attnum), ''), ' ' ORDER BY attnum) FROM pg_attribute"
		" WHERE attrelid = to_regclass('replica.experiment') AND attnum > 0", "id:integer:number size:bigint:");
	becomes("SELECT obj_description('replica.experiment'::regclass)", "runs");
	memcpy(other, told, sizeof(told));
	memcpy(strstr(other, "experiment"), "experience", 10);
	send_record(&entity, SB_EV_ENTITY_DESCRIBED, NULL, NULL, other, strlen(other), false);
	becomes("SELECT class || ' ' || (SELECT next_offset FROM store.down_position) FROM store.quarantine", "data 3");
	/* it holds its place in the stream and covers no positions */
	becomes("SELECT sequence || ' ' || to_hex(lsn) FROM store.down_stream", "3 110");
}
END_TEST

/* True when the statement fails for want of rights, as that role. */
static bool forbidden(struct sb_pg *as, const char *statement)
{
	struct sb_error err = SB_ERROR_INIT;
	int r = sb_pg_exec(as, statement, 0, NULL, NULL, &err);

	return r == SB_EAUTH;
}

static struct sb_pg *login(const char *role)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_pg *as = NULL;
	char text[200];

	fix_ok(sb_pg_open(&as, f.a.set.replica.conninfo, "test", &err), err);
	(void)snprintf(text, sizeof(text), "SET SESSION AUTHORIZATION %s", role);
	fix_ok(sb_pg_script(as, text, &err), err);
	return as;
}

/* Another database, owned by a role, instead of the common one; as superuser. */
static void own_database(const char *name, const char *owner)
{
	struct sb_error err = SB_ERROR_INIT;
	char text[200];

	(void)snprintf(text, sizeof(text), "CREATE DATABASE %s OWNER %s", name, owner);
	sql(text);
	sb_pg_close(pg);
	free(f.a.set.replica.conninfo);
	f.a.set.replica.conninfo = sb_asprintf("%s dbname=%s", pg_fixture_start(), name);
	fix_ok(sb_pg_open(&pg, f.a.set.replica.conninfo, "test", &err), err);
}

/* Neither an ordinary role nor one that owns the database and other things in it, to which somebody gave default rights on all that comes. */
START_TEST(test_nobody_writes_a_copy)
{
	static const char *const roles[] = { "sb_plain", "sb_owner" };
	static const char *const statements[] = {
		"INSERT INTO replica.experiment VALUES (9, 'x')", "UPDATE replica.experiment SET name = 'x'", "DELETE FROM replica.experiment",
		"DROP VIEW replica.experiment", "ALTER VIEW replica.experiment RENAME TO e", "CREATE OR REPLACE VIEW replica.experiment AS SELECT 1 AS id, 'x'::text AS name",
		"CREATE TRIGGER t INSTEAD OF INSERT ON replica.experiment FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
		"CREATE RULE r AS ON INSERT TO replica.experiment DO INSTEAD NOTHING", "CREATE TABLE replica.mine (a int)", "CREATE TABLE store.mine (a int)",
		"SELECT count(*) FROM store.dev__experiment", "INSERT INTO store.down_position VALUES ('x', 1)", "TRUNCATE store.down_stream", "DROP SCHEMA replica CASCADE",
		"DROP SCHEMA store CASCADE", "ALTER SCHEMA store RENAME TO s", "DELETE FROM store.quarantine",
		"SELECT count(*) FROM store.down_stream" };
	struct sb_error err = SB_ERROR_INIT;

	sql("CREATE ROLE sb_plain; CREATE ROLE sb_owner CREATEDB");
	own_database("sb_rights", "sb_owner");
	sql("SET ROLE sb_owner; CREATE SCHEMA shop; CREATE TABLE shop.item (id int PRIMARY KEY); RESET ROLE");
	lane_start();
	send_row(&entity, SB_EV_ENTITY_CHANGED, 'i', 0x100, "100.0", "110.0", "1", "a", false);
	becomes(ROWS, "1a");
	for (size_t i = 0; i < SB_COUNT(roles); i++) {
		struct sb_pg *as = login(roles[i]);
		fix_ok(sb_pg_exec(as, "SELECT * FROM replica.experiment, replica._freshness", 0, NULL, NULL, &err), err);
		for (size_t k = 0; k < SB_COUNT(statements); k++)
			ck_assert_msg(forbidden(as, statements[k]), "%s as %s", statements[k], roles[i]);
		sb_pg_close(as);
	}
	becomes(ROWS, "1a");
	/* rights that somebody gave are taken back at the next start */
	sql("GRANT ALL ON ALL TABLES IN SCHEMA replica TO sb_plain; GRANT ALL ON ALL TABLES IN SCHEMA store TO sb_plain; GRANT ALL ON SCHEMA store TO PUBLIC");
	lane_stop();
	lane_start();
	becomes("SELECT has_table_privilege('sb_plain', 'replica.experiment', 'INSERT') || ' ' || has_table_privilege('sb_plain', 'store.down_stream', 'SELECT') || ' '"
		" || has_schema_privilege('sb_plain', 'store', 'CREATE') || ' ' || has_table_privilege('sb_plain', 'replica.experiment', 'SELECT')", "false false false true");
}
END_TEST

/* A schema of ours that somebody else owns would be his to change: nothing is written, and the reason names the SQL. */
START_TEST(test_schema_of_somebody_else)
{
	sql("DROP ROLE IF EXISTS sb_shop; CREATE ROLE sb_shop; CREATE SCHEMA store AUTHORIZATION sb_shop");
	lane_start();
	ck_assert(wait_until(strcmp(f.a.board.source[0].state, "failing") == 0, 10000));
	ck_assert(strstr(f.a.board.source[0].progress, "belongs to role sb_shop"));
	ck_assert_str_eq(ask("SELECT count(*)::text FROM pg_class WHERE relnamespace = 'store'::regnamespace"), "0");
	sql("ALTER SCHEMA store OWNER TO CURRENT_USER");
	becomes("SELECT count(*)::text FROM store.down_position", "0");
	sql("DROP SCHEMA store CASCADE; DROP ROLE sb_shop");
}
END_TEST

/* What its owner lets go to an earlier stage comes on other streams and lands at the same place; people see what they look at and how fresh it is. */
START_TEST(test_public_copy)
{
	static const char begun[] = "{\"type\":\"experiment\",\"snapshot\":\"0/90\",\"reason\":\"new\",\"incarnation\":1,\"partial\":false,\"after_session\":0,\"after_sequence\":0}";
	static const char ended[] = "{\"type\":\"experiment\",\"snapshot\":\"0/90\",\"incarnation\":1,\"lsn\":\"0/90\",\"rows\":1,\"complete\":true}";
	struct sb_stream_out public, public_snapshot;

	sb_stream_out_init(&public, DEVKEYS_TENANT, "dev", "public/experiment", 7, true);
	sb_stream_out_init(&public_snapshot, DEVKEYS_TENANT, "dev", "public-snapshot/experiment", 7, true);
	lane_start();
	send_row(&public, SB_EV_ENTITY_CHANGED, 'i', 0x100, "100.0", "110.0", "2", "b", false);
	send_record(&public_snapshot, SB_EV_SNAPSHOT_BEGUN, NULL, NULL, begun, strlen(begun), false);
	becomes("SELECT content || ' ' || snapshot_state FROM replica._freshness", "public running");
	send_row(&public_snapshot, SB_EV_SNAPSHOT_ROWS, 's', 0x90, NULL, NULL, "1", "a", false);
	send_record(&public_snapshot, SB_EV_SNAPSHOT_ENDED, NULL, NULL, ended, strlen(ended), false);
	becomes("SELECT owner || ' ' || type || ' ' || content || ' ' || snapshot_state || ' ' || (last_stored_at >= last_made_at - interval '1 s') || ' '"
		" || (now() - last_made_at < interval '1 min') FROM replica._freshness", "dev experiment public done true true");
	becomes(ROWS, "1a 2b");
	becomes("SELECT obj_description('replica.experiment'::regclass)",
		"Read-only copy of \"experiment\" of stage dev, what its owner lets go to earlier stages; see replica._freshness");
	/* a stream that belongs to no entity is nobody's */
	sb_stream_out_init(&public, DEVKEYS_TENANT, "dev", "publics/experiment", 8, true);
	send_row(&public, SB_EV_ENTITY_CHANGED, 'i', 0x110, "110.0", "120.0", "3", "c", false);
	becomes("SELECT class FROM store.quarantine", "data");
}
END_TEST

/* Without the right to mark its transactions the lane copies all the same, and tells which right it lacks. */
START_TEST(test_without_origin_rights)
{
	static const char marked[] = "SELECT count(*)::text FROM pg_replication_origin WHERE roname = 'stagebridge_acme_train'";

	sql("CREATE ROLE sb_agent LOGIN; SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin WHERE roname = 'stagebridge_acme_train'");
	own_database("sb_plainly", "sb_agent");
	char *superuser = SB_TAKE(f.a.set.replica.conninfo);
	f.a.set.replica.conninfo = sb_asprintf("%s dbname=sb_plainly user=sb_agent", pg_fixture_start());
	lane_start();
	send_row(&entity, SB_EV_ENTITY_CHANGED, 'i', 0x100, "100.0", "110.0", "1", "a", false);
	becomes(ROWS, "1a");
	ck_assert_str_eq(ask(marked), "0");
	lane_stop();
	/* with the two rights that the log names it marks them */
	sql("GRANT EXECUTE ON FUNCTION pg_replication_origin_create(text), pg_replication_origin_session_setup(text) TO sb_agent");
	lane_start();
	send_row(&entity, SB_EV_ENTITY_CHANGED, 'i', 0x110, "110.0", "120.0", "2", "b", false);
	becomes(ROWS, "1a 2b");
	ck_assert_str_eq(ask(marked), "1");
	ck_assert_str_eq(f.a.board.source[0].state, "streaming");
	free(superuser);
}
END_TEST

START_TEST(test_refused_and_missing)
{
	lane_start();
	send_row(&entity, SB_EV_ENTITY_CHANGED, 'i', 0x100, "100.0", "110.0", "1", "a", false);
	send_row(&entity, SB_EV_ENTITY_CHANGED, 'i', 0x110, "110.0", "120.0", "2", "forged", true);
	send_row(&entity, SB_EV_ENTITY_CHANGED, 'i', 0x120, "120.0", "130.0", "3", "c", false);
	becomes(ROWS, "1a 3c"); /* what follows the hole is applied */
	becomes("SELECT string_agg(class, ' ') FROM store.quarantine", "forge");
	ck_assert(wait_until(strcmp(f.a.board.source[0].state, "gap") == 0, 5000));
	/* a value that the column's type refuses: the row is set aside, the record goes on */
	send_row(&entity, SB_EV_ENTITY_CHANGED, 'i', 0x130, "130.0", "140.0", "four", "d", false);
	send_row(&entity, SB_EV_ENTITY_CHANGED, 'i', 0x140, "140.0", "150.0", "5", "e", false);
	becomes(ROWS, "1a 3c 5e");
	becomes("SELECT string_agg(class, ' ' ORDER BY id) FROM store.quarantine", "forge row");
	/* the hub orders a snapshot, which mends the hole and sweeps what is no longer there */
	static const char begun[] = "{\"type\":\"experiment\",\"snapshot\":\"0/160\",\"reason\":\"gap\",\"incarnation\":1,\"partial\":false,\"after_session\":0,\"after_sequence\":0}";
	static const char ended[] = "{\"type\":\"experiment\",\"snapshot\":\"0/160\",\"incarnation\":1,\"lsn\":\"0/160\",\"rows\":2,\"complete\":true}";
	send_record(&snapshot, SB_EV_SNAPSHOT_BEGUN, NULL, NULL, begun, strlen(begun), false);
	send_row(&snapshot, SB_EV_SNAPSHOT_ROWS, 's', 0x160, NULL, NULL, "2", "b", false);
	send_row(&snapshot, SB_EV_SNAPSHOT_ROWS, 's', 0x160, NULL, NULL, "3", "c", false);
	send_record(&snapshot, SB_EV_SNAPSHOT_ENDED, NULL, NULL, ended, strlen(ended), false);
	becomes(ROWS, "2b 3c");
	ck_assert(wait_until(strcmp(f.a.board.source[0].state, "streaming") == 0, 5000));
}
END_TEST

START_TEST(test_snapshot_with_a_hole_does_not_sweep)
{
	static const char begun[] = "{\"type\":\"experiment\",\"snapshot\":\"0/160\",\"reason\":\"new\",\"incarnation\":1,\"partial\":false,\"after_session\":0,\"after_sequence\":0}";
	static const char ended[] = "{\"type\":\"experiment\",\"snapshot\":\"0/160\",\"incarnation\":1,\"lsn\":\"0/160\",\"rows\":2,\"complete\":true}";

	lane_start();
	send_row(&entity, SB_EV_ENTITY_CHANGED, 'i', 0x100, "100.0", "110.0", "1", "a", false);
	send_record(&snapshot, SB_EV_SNAPSHOT_BEGUN, NULL, NULL, begun, strlen(begun), false);
	send_row(&snapshot, SB_EV_SNAPSHOT_ROWS, 's', 0x160, NULL, NULL, "1", "a", true); /* lost: it does not verify */
	send_row(&snapshot, SB_EV_SNAPSHOT_ROWS, 's', 0x160, NULL, NULL, "2", "b", false);
	send_record(&snapshot, SB_EV_SNAPSHOT_ENDED, NULL, NULL, ended, strlen(ended), false);
	becomes("SELECT next_offset::text FROM store.down_position", "5");
	becomes(ROWS, "1a 2b"); /* row 1 was not named, and stays */
	becomes("SELECT state FROM store.down_snapshot", "broken");
	ck_assert_str_eq(f.a.board.source[0].state, "gap");
}
END_TEST

static void send_begun(struct sb_stream_out *so, int session, int sequence)
{
	char value[256];

	(void)snprintf(value, sizeof(value), "{\"type\":\"experiment\",\"snapshot\":\"0/160\",\"reason\":\"new\",\"incarnation\":1,\"partial\":false,"
		"\"after_session\":%d,\"after_sequence\":%d}", session, sequence); /* fits */
	send_record(so, SB_EV_SNAPSHOT_BEGUN, NULL, NULL, value, strlen(value), false);
}

/* What the second session builds upon is here, what the third builds upon is not. */
START_TEST(test_snapshot_over_sessions)
{
	static const char ended[] = "{\"type\":\"experiment\",\"snapshot\":\"0/160\",\"incarnation\":1,\"lsn\":\"0/160\",\"rows\":2,\"complete\":true}";
	struct sb_stream_out second, third;

	sb_stream_out_init(&second, DEVKEYS_TENANT, "dev", "snapshot/experiment", 8, true);
	sb_stream_out_init(&third, DEVKEYS_TENANT, "dev", "snapshot/experiment", 9, true);
	lane_start();
	send_row(&entity, SB_EV_ENTITY_CHANGED, 'i', 0x100, "100.0", "110.0", "1", "a", false);
	send_begun(&snapshot, 0, 0);
	send_row(&snapshot, SB_EV_SNAPSHOT_ROWS, 's', 0x160, NULL, NULL, "2", "b", false);
	send_begun(&second, 7, 2);
	send_row(&second, SB_EV_SNAPSHOT_ROWS, 's', 0x170, NULL, NULL, "3", "c", false);
	send_record(&second, SB_EV_SNAPSHOT_ENDED, NULL, NULL, ended, strlen(ended), false);
	becomes(ROWS, "2b 3c");
	send_begun(&second, 0, 0);
	send_begun(&third, 8, 5);
	send_record(&third, SB_EV_SNAPSHOT_ENDED, NULL, NULL, ended, strlen(ended), false);
	becomes("SELECT next_offset::text FROM store.down_position", "9");
	becomes("SELECT state FROM store.down_snapshot", "broken");
	ck_assert_str_eq(f.a.board.source[0].state, "gap");
}
END_TEST

/* The lane's connection dies: it comes back and goes on, nothing twice, nothing lost. */
START_TEST(test_connection_lost)
{
	lane_start();
	send_row(&entity, SB_EV_ENTITY_CHANGED, 'i', 0x100, "100.0", "110.0", "1", "a", false);
	becomes(ROWS, "1a");
	sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'stagebridge replica'");
	send_row(&entity, SB_EV_ENTITY_CHANGED, 'i', 0x110, "110.0", "120.0", "2", "b", false);
	becomes(ROWS, "1a 2b");
	becomes("SELECT count(*)::text FROM store.quarantine", "0");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("agent replica");
	TCase *tc = tcase_create("replica");

	(void)pg_fixture_start(); /* before the fork of the tests: they share the server */
	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_set_timeout(tc, 90);
	tcase_add_test(tc, test_copies);
	tcase_add_test(tc, test_described);
	tcase_add_test(tc, test_nobody_writes_a_copy);
	tcase_add_test(tc, test_schema_of_somebody_else);
	tcase_add_test(tc, test_public_copy);
	tcase_add_test(tc, test_without_origin_rights);
	tcase_add_test(tc, test_refused_and_missing);
	tcase_add_test(tc, test_snapshot_with_a_hole_does_not_sweep);
	tcase_add_test(tc, test_snapshot_over_sessions);
	tcase_add_test(tc, test_connection_lost);
	suite_add_tcase(s, tc);
	return test_run(s);
}
