/* What people read: the page of columns is that of the database's own comments, the role that the documents make reads the views and nothing else, freshness tells of
 * each type, history goes from a record to entity_at(). SB_WRITE_DOCS=1 writes the page instead of comparing it. */
#include "hub_rig.h"
#include "intake/intake.h"
#include "stagebridge/file.h"

#define DEV 0
#define PAGE "docs/sync-view-columns.md"
#define SQL_PAGE "docs/sync-view.md"

static struct rig rig;

static void setup(void)
{
	static const char *const topics[] = { "dev.up.entity", "dev.up.event", "dev.down.event", NULL };

	rig_open(&rig, topics, NULL);
}

static void teardown(void)
{
	rig_close(&rig);
}

static void stream(struct sb_stream_out *so, const char *name, uint64_t session)
{
	sb_stream_out_init(so, RIG_TENANT, rig_stage[DEV], name, session, true);
}

/* ---- the page ---- */

static const char page_query[] =
	"SELECT '# Columns of the views\n\nWritten from the database''s own comments (`\\d+ lifecycle.freshness` in psql shows them too). What the views are for: [sync-view.md](sync-view.md).\n'"
	" || string_agg(E'\n## lifecycle.' || v.relname || E'\n\n' || coalesce(obj_description(v.oid), '') || E'.\n\n| column | type | meaning |\n|---|---|---|\n' ||"
	" (SELECT string_agg(format(E'| `%s` | %s | %s |\n', a.attname, format_type(a.atttypid, a.atttypmod), replace(coalesce(col_description(v.oid, a.attnum), ''), '|', '\\|')), '' ORDER BY a.attnum)"
	" FROM pg_attribute a WHERE a.attrelid = v.oid AND a.attnum > 0), '' ORDER BY v.relname)"
	" FROM pg_class v WHERE v.relnamespace = 'lifecycle'::regnamespace AND v.relkind = 'v'";

START_TEST(test_page_of_columns)
{
	sb_cleanup(sb_freep) char *want = rig_text(&rig, page_query);
	sb_cleanup(sb_freep) char *there = NULL;
	const char *path = PAGE;
	size_t n = 0;

	if (getenv("SB_WRITE_DOCS")) {
		FILE *f = fopen(path, "w");
		ck_assert_ptr_nonnull(f);
		ck_assert_int_ge(fputs(want, f), 0);
		ck_assert_int_eq(fclose(f), 0);
		return;
	}
	rig_ok(sb_file_read(path, 1024 * 1024, &there, &n, err));
	ck_assert_msg(strcmp(there, want) == 0, "%s is not what the views say: SB_WRITE_DOCS=1 build/tests/component/test_hub_views writes it", PAGE);
}
END_TEST

/* No view without a word on what it is, no column of the views on entities either. */
START_TEST(test_comments)
{
	sb_cleanup(sb_freep) char *views = rig_text(&rig, "SELECT string_agg(relname, ', ') FROM pg_class v WHERE relnamespace = 'lifecycle'::regnamespace AND relkind = 'v'"
		" AND coalesce(length(obj_description(oid)), 0) < 20");
	sb_cleanup(sb_freep) char *columns = rig_text(&rig, "SELECT string_agg(relname || '.' || attname, ', ') FROM pg_class v JOIN pg_attribute a ON a.attrelid = v.oid AND a.attnum > 0"
		" WHERE relnamespace = 'lifecycle'::regnamespace AND relkind = 'v' AND col_description(v.oid, a.attnum) IS NULL");

	ck_assert_str_eq(views, "");
	ck_assert_msg(*columns == '\0', "COMMENT ON COLUMN is missing: %s", columns);
}
END_TEST

/* ---- the role ---- */

/* The first block of SQL below the heading; returns new. */
static char *documented_sql(const char *heading)
{
	sb_cleanup(sb_freep) char *page = NULL;
	size_t n = 0;

	rig_ok(sb_file_read(SQL_PAGE, 1024 * 1024, &page, &n, err));
	const char *at = strstr(page, heading);
	ck_assert_ptr_nonnull(at);
	at = strstr(at, "```sql\n");
	ck_assert_ptr_nonnull(at);
	const char *end = strstr(at + 7, "```");
	ck_assert_ptr_nonnull(end);
	return strndup(at + 7, (size_t)(end - at - 7));
}

#define RELATIONS "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname !~ '^pg_|^information_schema$' AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')"

START_TEST(test_reader)
{
	sb_cleanup(sb_freep) char *sql = documented_sql("## A read-only role");
	struct sb_stream_out so;

	rig_start(&rig, "intake", DEV, hub_intake_lane);
	stream(&so, "entity/experiment", 1);
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 1, 10, "a", 0, NULL });
	rig_await(&rig, "SELECT count(*) FROM dev.experiment", 9);
	rig_run(&rig, "DROP ROLE IF EXISTS mona; DROP ROLE IF EXISTS sync_view_reader");
	rig_run(&rig, sql);
	/* a type with history that comes afterwards */
	stream(&so, "entity/secret", 1);
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "secret", 1, 1, 10, "b", 0, NULL });
	rig_await(&rig, "SELECT count(*) FROM dev.secret", 9);

	sb_cleanup(sb_freep) char *more = rig_text(&rig, "SELECT string_agg(n.nspname || '.' || c.relname, ' ' ORDER BY 1) " RELATIONS
		" AND has_schema_privilege('mona', n.oid, 'USAGE') AND has_any_column_privilege('mona', c.oid, 'SELECT') AND c.relkind <> 'S'"
		" AND NOT (c.relkind = 'v' AND n.nspname IN ('lifecycle', 'dev', 'train', 'prod', 'explore')) AND (n.nspname, c.relname) NOT IN"
		" (('lifecycle', 'branch'), ('lifecycle', 'pull_request'), ('lifecycle', 'commit_status'))");
	ck_assert_str_eq(more, "");
	sb_cleanup(sb_freep) char *less = rig_text(&rig, "SELECT string_agg(n.nspname || '.' || c.relname, ' ' ORDER BY 1) " RELATIONS
		" AND c.relkind = 'v' AND NOT (has_schema_privilege('mona', n.oid, 'USAGE') AND has_table_privilege('mona', c.oid, 'SELECT'))");
	ck_assert_str_eq(less, "");
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) " RELATIONS " AND has_any_column_privilege('mona', c.oid, 'INSERT, UPDATE')"), 0);
	/* the rights are enough for what the views and functions do inside */
	rig_run(&rig, "SET ROLE mona");
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM dev.experiment"), 9);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM dev.secret_history"), 9);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM dev.secret_at(clock_timestamp())"), 9);
	ck_assert_int_eq(rig_i64(&rig, "SELECT (lifecycle.entity_at('secret', '7', clock_timestamp()) ->> 'id')::bigint"), 7);
	ck_assert_int_ge(rig_i64(&rig, "SELECT count(*) FROM lifecycle.freshness"), 3);
	ck_assert_int_ge(rig_i64(&rig, "SELECT count(*) FROM lifecycle.entity_column"), 4);
	static const char *const forbidden[] = { "SELECT * FROM lifecycle.quarantine", "SELECT * FROM store.entity_type", "SELECT * FROM sb.stream", "DELETE FROM dev.experiment" };
	for (size_t i = 0; i < SB_COUNT(forbidden); i++) {
		struct sb_error why = SB_ERROR_INIT;
		ck_assert_msg(sb_pg_exec(rig.pg, forbidden[i], 0, NULL, NULL, &why) == SB_EAUTH, "%s: %s", forbidden[i], why.msg);
	}
	rig_run(&rig, "RESET ROLE; DROP OWNED BY mona, sync_view_reader; DROP ROLE mona, sync_view_reader");
}
END_TEST

/* ---- freshness ---- */

/* Two sources, two types: one that lags leaves the other's as_of alone. */
START_TEST(test_freshness)
{
	struct sb_stream_out experiment, secret, beat;
	struct sb_head head[] = { { "stagebridge://acme/dev/agent/entity/experiment", 7, 1 }, { "stagebridge://acme/dev/agent/entity/secret", 7, 2 } };
	char digest[65];

	rig_start(&rig, "intake", DEV, hub_intake_lane);
	stream(&experiment, "entity/experiment", 7);
	stream(&secret, "entity/secret", 7);
	stream(&beat, "heartbeat", 7);
	rig_entity(&rig, DEV, &experiment, &(struct rig_batch){ "experiment", 1, 1, 10, "a", 0, NULL });
	rig_entity(&rig, DEV, &secret, &(struct rig_batch){ "secret", 1, 1, 5, "b", 0, NULL });
	sb_heads_digest(head, 2, digest);
	sb_cleanup(sb_freep) char *body = sb_asprintf("{\"agent_version\":\"1.2\",\"session\":7,\"interval_ms\":10000,\"outbox_depth\":0,\"heads\":["
		"{\"source\":\"%s\",\"session\":7,\"sequence\":1},{\"source\":\"%s\",\"session\":7,\"sequence\":2}],\"digest\":\"%s\",\"sources\":["
		"{\"name\":\"app\",\"kind\":\"postgres\",\"state\":\"streaming\",\"lag_bytes\":10,\"lag_ms\":20,\"position\":\"0/2710\",\"slot_state\":\"reserved\",\"types\":[\"experiment\"]},"
		"{\"name\":\"other\",\"kind\":\"postgres\",\"state\":\"paused\",\"lag_bytes\":5,\"lag_ms\":70,\"position\":\"0/1\",\"slot_state\":\"lost\",\"types\":[\"secret\"]}],"
		"\"as_of\":\"\",\"occupancy\":[],\"lanes_ok\":true,\"disk_free_bytes\":1000}", head[0].source, head[1].source, digest);
	ck_assert_ptr_nonnull(body);
	rig_event(&rig, DEV, &beat, SB_EV_HEARTBEAT_SENT, body);
	rig_await(&rig, "SELECT count(*) FROM lifecycle.freshness WHERE type = 'experiment' AND as_of = '2710.0' AND as_of_at IS NOT NULL AND as_of_seconds < 60 AND source = 'app' AND source_state = 'streaming'"
		" AND lag_ms = 20 AND status = 'LIVE' AND history = 'false' AND violations = 0 AND changes_applied = 9", 1);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.freshness WHERE type = 'secret' AND as_of = '1388.0' AND as_of_at IS NULL AND source = 'other' AND source_state = 'paused' AND lag_ms = 70"
		" AND history = '90d'"), 1);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.stages WHERE stage = 'dev' AND behind AND as_of_at IS NULL"), 1);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.source WHERE stage = 'dev' AND source = 'other' AND state = 'paused' AND slot_state = 'lost' AND types = '{secret}'"), 1);
	rig_entity(&rig, DEV, &secret, &(struct rig_batch){ "secret", 1, 5, 6, "b", 0, NULL });
	rig_await(&rig, "SELECT count(*) FROM lifecycle.freshness WHERE stage = 'dev' AND as_of_at IS NOT NULL AND snapshot_state = 'none'", 2);
	rig_await(&rig, "SELECT count(*) FROM lifecycle.stages WHERE stage = 'dev' AND NOT behind AND as_of_at IS NOT NULL", 1);
	/* counts come from the server's statistics, moments later */
	rig_await(&rig, "SELECT rows_estimate FROM lifecycle.freshness WHERE type = 'experiment'", 9);
	rig_run(&rig, "ANALYZE");
	ck_assert_int_gt(rig_i64(&rig, "SELECT bytes_estimate FROM lifecycle.freshness WHERE type = 'experiment'"), 8000);
}
END_TEST

/* ---- history ---- */

/* The time of a version is the source's commit where the record tells it. */
START_TEST(test_history)
{
	struct sb_stream_out so;
	struct sb_record rec;
	char *value = NULL;
	size_t n = 0;

	rig_start(&rig, "intake", DEV, hub_intake_lane);
	stream(&so, "entity/secret", 1);
	for (int i = 1; i <= 2; i++) {
		value = rig_batch_value(&(struct rig_batch){ "secret", 1, i, i + 1, "v", 0, NULL }, &n);
		rig_record(&rec, DEV, SB_ENTITY, value, n);
		rig_ok(sb_record_set(&rec, "sbcommit", i == 1 ? "2026-01-02T03:04:05.678Z" : "yesterday", err));
		rig_ok(sb_stream_stamp(&so, &rec, SB_EV_ENTITY_CHANGED, "secret", SB_BATCH_CONTENT_TYPE, rig.agent[DEV], err));
		rig_send(&rig, &rec);
		free(value);
	}
	rig_await(&rig, "SELECT count(*) FROM lifecycle.quarantine WHERE class = 'data' AND reason LIKE 'sbcommit is not a time%'", 1);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM dev.secret_history WHERE id = 1 AND _valid_from = '2026-01-02 03:04:05.678Z' AND _valid_to IS NULL AND _op = 'i'"), 1);
	sb_cleanup(sb_freep) char *row = rig_text(&rig, "SELECT lifecycle.entity_at('secret', '1', '2026-02-01Z')::text || coalesce(lifecycle.entity_at('secret', '1', '2026-01-01Z')::text, ' none')");
	ck_assert_str_eq(row, "{\"id\": \"1\", \"name\": \"v-1\"} none");
	struct sb_error why = SB_ERROR_INIT;
	ck_assert_int_ne(sb_pg_exec(rig.pg, "SELECT lifecycle.entity_at('experiment', '1', now())", 0, NULL, NULL, &why), 0);
	ck_assert_ptr_nonnull(strstr(why.msg, "no history is kept"));
	/* what ended before the settings' 90 days goes, what ended since and what holds now stays */
	rig_stop(&rig);
	rig_run(&rig, "INSERT INTO store.dev__secret__history SELECT generation, key, valid_from, now() - n * interval '1 day', op, position, row FROM store.dev__secret__history,"
		" unnest(ARRAY[89, 91]) n");
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM dev.secret_history"), 3);
	rig_start(&rig, "intake", DEV, hub_intake_lane);
	rig_await(&rig, "SELECT count(*) FROM dev.secret_history", 2);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM dev.secret_history WHERE _valid_to IS NULL OR _valid_to > now() - interval '90 days'"), 2);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("hub_views");
	TCase *tc = tcase_create("all");

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_page_of_columns);
	tcase_add_test(tc, test_comments);
	tcase_add_test(tc, test_reader);
	tcase_add_test(tc, test_freshness);
	tcase_add_test(tc, test_history);
	suite_add_tcase(s, tc);
	return rig_main(s);
}
