/* The pre-flight: it names what is missing, the SQL that it gives mends it, and a role that has just that and no more is enough for the source. */
#include "landing.h"
#include "source_pg_rig.h"

static struct agent_settings settings_of(struct rig *g)
{
	return (struct agent_settings){ .postgres = { .item = &g->source, .count = 1 } };
}

/* Findings of a level as "what/table ..."; applies: runs their SQL, as the database's owner would. */
static unsigned findings(struct rig *g, const char *level, char *out, size_t size, bool applies)
{
	struct agent_settings set = settings_of(g);
	struct sb_error err = SB_ERROR_INIT;
	json_t *sources = NULL, *f;
	unsigned missing = 0;
	size_t i, n = 0;

	fix_ok(agent_pg_check(&set, &sources, &missing, &err), err);
	out[0] = '\0';
	json_array_foreach(json_object_get(json_array_get(sources, 0), "findings"), i, f) {
		const char *statement = json_string_value(json_object_get(f, "sql")), *table = json_string_value(json_object_get(f, "table"));
		if (strcmp(json_string_value(json_object_get(f, "level")), level) != 0)
			continue;
		n += (size_t)snprintf(out + n, size - n, "%s%s", n ? " " : "", *table ? table : json_string_value(json_object_get(f, "what")));
		if (applies && *statement)
			sql(g, statement);
		if (!applies)
			printf("  %s: %s | %s\n", *table ? table : json_string_value(json_object_get(f, "what")), json_string_value(json_object_get(f, "text")), statement);
	}
	json_decref(sources);
	return missing;
}

static bool seven(struct rig *g, struct landing *l)
{
	(void)landing_pull(l, g->fix.keys.keyring, g->consumer); /* looked at here */
	sb_cleanup(sb_freep) char *v = landing_ask(l->pg, "SELECT v FROM dev.nokey WHERE id = 7");

	return strcmp(v, "seven") == 0;
}

START_TEST(from_nothing_to_streaming)
{
	struct rig g;
	struct landing l;
	char is[512];

	rig_open(&g, "check");
	landing_open(&l, "check");
	sql(&g, "CREATE ROLE poor LOGIN; CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY, v text); CREATE TABLE app.nokey (id int, v text); CREATE TABLE app.rls (id int PRIMARY KEY);"
		"ALTER TABLE app.rls ENABLE ROW LEVEL SECURITY; INSERT INTO app.t VALUES (1, 'a'); REVOKE ALL ON SCHEMA app FROM PUBLIC; CREATE ROLE app_owner; GRANT CREATE ON DATABASE src_check TO app_owner;"
		"ALTER SCHEMA app OWNER TO app_owner; ALTER TABLE app.t OWNER TO app_owner; ALTER TABLE app.nokey OWNER TO app_owner; ALTER TABLE app.rls OWNER TO app_owner");
	(void)snprintf(g.conninfo, sizeof(g.conninfo), "%s dbname=%s user=poor", pg_fixture_start(), g.db);
	rig_table(&g, "app.t", "t");
	rig_table(&g, "app.nokey", "nokey");
	rig_table(&g, "app.rls", "rls");
	rig_table(&g, "app.none", "none");
	ck_assert_uint_eq(findings(&g, "missing", is, sizeof(is), true), 7);
	ck_assert_str_eq(is, "replication publication protocol app.t app.nokey app.rls app.none");
	sql(&g, "GRANT USAGE ON SCHEMA app TO poor; CREATE TABLE app.none (id int PRIMARY KEY)");
	ck_assert_uint_eq(findings(&g, "missing", is, sizeof(is), false), 4);
	ck_assert_str_eq(is, "app.t app.nokey app.rls app.none");
	sql(&g, "GRANT SELECT ON ALL TABLES IN SCHEMA app TO poor; ALTER TABLE app.nokey ADD PRIMARY KEY (id); ALTER TABLE app.none OWNER TO app_owner");
	/* the owner makes the publication, and the check says what it is to hold */
	ck_assert_uint_eq(findings(&g, "missing", is, sizeof(is), false), 4);
	sql(&g, "CREATE PUBLICATION src_check WITH (publish_via_partition_root = true)");
	for (int round = 0; round < 2; round++)
		(void)findings(&g, "missing", is, sizeof(is), true); /* looked at below: first the rights, then what they hid */
	ck_assert_uint_eq(findings(&g, "missing", is, sizeof(is), false), 0);
	/* nothing was changed by looking, and what was found to be enough is enough */
	char *slots = ask(&g, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'src_check'");
	ck_assert_str_eq(slots, "0");
	free(slots);
	rig_start(&g);
	ck_assert(wait_until((landing_pull(&l, g.fix.keys.keyring, g.consumer), l.ended == 4), 20000));
	sql(&g, "INSERT INTO app.nokey VALUES (7, 'seven')");
	ck_assert(wait_until(seven(&g, &l), 20000));
	ck_assert_uint_eq(findings(&g, "missing", is, sizeof(is), false), 0); /* beside a running source */
	landing_close(&l);
	rig_free(&g);
}
END_TEST

START_TEST(warnings)
{
	struct rig g;
	struct sb_error err = SB_ERROR_INIT;
	struct agent_settings set;
	json_t *sources = NULL;
	unsigned missing = 0;
	char is[512];

	rig_encoding = "SQL_ASCII";
	rig_open(&g, "warn");
	rig_encoding = NULL;
	sql(&g, "CREATE TABLE public.t (id int PRIMARY KEY)");
	rig_table(&g, "public.t", "t");
	ck_assert_uint_eq(findings(&g, "warning", is, sizeof(is), false), 0);
	ck_assert_ptr_nonnull(strstr(is, "encoding"));
	ck_assert_ptr_nonnull(strstr(is, "max_slot_wal_keep_size"));
	ck_assert_ptr_null(strstr(is, "transactions"));
	/* slots kept in step on standbys: since 17, and only with a standby that is waited for */
	g.source.failover = true;
	bool kept = sb_pg_version(g.pg) >= 170000;
	ck_assert_uint_eq(findings(&g, "missing", is, sizeof(is), false), kept ? 0 : 1);
	ck_assert_str_eq(is, kept ? "" : "failover");
	(void)findings(&g, "warning", is, sizeof(is), false); /* looked at here */
	ck_assert(kept == (strstr(is, "failover") != NULL));
	g.source.failover = false;
	/* a slot of another plugin under our name, and a server that does not answer */
	sql(&g, "SELECT pg_create_physical_replication_slot('taken_by_other')");
	g.source.slot = (char *)(uintptr_t)"taken_by_other";
	ck_assert_uint_eq(findings(&g, "missing", is, sizeof(is), false), 1);
	ck_assert_str_eq(is, "slot");
	sql(&g, "SELECT pg_drop_replication_slot('taken_by_other')");
	g.source.slot = g.db;
	g.source.conninfo = (char *)(uintptr_t)"host=/nowhere dbname=x connect_timeout=2";
	set = settings_of(&g);
	fix_ok(agent_pg_check(&set, &sources, &missing, &err), err);
	ck_assert_uint_eq(missing, 1);
	struct sb_buf text;
	sb_buf_init(&text, 65536);
	agent_pg_check_text(sources, &text);
	ck_assert_ptr_nonnull(strstr(text.data, "connection"));
	sb_buf_release(&text);
	json_decref(sources);
	g.source.conninfo = g.conninfo;
	rig_free(&g);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("agent_source_check");
	TCase *t = tcase_create("check");

	tcase_set_timeout(t, 120);
	tcase_add_test(t, from_nothing_to_streaming);
	tcase_add_test(t, warnings);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	pg_fixture_start();
	return test_run(suite());
}
