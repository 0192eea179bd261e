/* Intake against a real PostgreSQL and a broker: every record has its effect once, whatever is repeated, missing, forged or poisoned. */
#include "hub_rig.h"
#include "stagebridge/metric.h"

#define EXPERIMENTS        "SELECT count(*) FROM dev.experiment"
#define QUARANTINED(class) "SELECT count(*) FROM lifecycle.quarantine WHERE class = '" class "'"
#define RESYNCS            "SELECT count(*) FROM sb.outbox WHERE stage = 'dev'"

static struct rig rig;

static void setup(void)
{
	static const char *const topics[] = { "dev.up.entity", "dev.up.event", "train.up.entity", "train.up.event", "prod.up.entity",
		"prod.up.event", NULL };

	rig_open(&rig, topics, NULL);
}

static void teardown(void)
{
	rig_close(&rig);
}

static void stream(struct sb_stream_out *so, int stage, const char *name, uint64_t session)
{
	sb_stream_out_init(so, RIG_TENANT, rig_stage[stage], name, session, true);
}

START_TEST(test_exactly_once)
{
	struct sb_stream_out so;

	rig_start(&rig, "intake", DEV, hub_intake_lane);
	stream(&so, DEV, "entity/experiment", 1);
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 0, 50, "first", 0, NULL });
	rig_await(&rig, EXPERIMENTS, 50);
	rig_stop(&rig);
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 50, 80, "second", 0, NULL });
	rig_start(&rig, "intake", DEV, hub_intake_lane);
	rig_await(&rig, EXPERIMENTS, 80);
	/* an agent that was killed reads again and cuts other batches: nothing changes, the new tail is applied */
	stream(&so, DEV, "entity/experiment", 2);
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 40, 90, "again", 0, NULL });
	rig_await(&rig, EXPERIMENTS, 90);
	rig_await(&rig, "SELECT count(*) FROM dev.experiment WHERE name LIKE 'again-%'", 10);
	/* the whole topic once more, as after a restored position */
	rig_stop(&rig);
	rig_run(&rig, "UPDATE sb.position SET next_offset = 0 WHERE consumer = 'intake'");
	int64_t rows = rig_i64(&rig, "SELECT sum(rows_applied) FROM lifecycle.entity_type");
	double seen = sb_metric_get(sb_metric("stagebridge_intake_duplicates_total", SB_COUNTER, "stage", ""), "acme/dev");
	rig_start(&rig, "intake", DEV, hub_intake_lane);
	rig_await(&rig, "SELECT next_offset FROM sb.position WHERE topic LIKE '%entity%'", 3);
	ck_assert_int_eq(rig_i64(&rig, "SELECT sum(rows_applied) FROM lifecycle.entity_type"), rows);
	ck_assert_int_eq(rows, 90);
	/* the records of session 1 are from the past now, that of session 2 was seen */
	ck_assert(sb_metric_get(sb_metric("stagebridge_intake_duplicates_total", SB_COUNTER, "stage", ""), "acme/dev") > seen);
	ck_assert_int_eq(rig_i64(&rig, QUARANTINED("gap")), 0);
	ck_assert_int_eq(rig_i64(&rig, RESYNCS), 0);
}
END_TEST

#define PUBLIC_GAPS "SELECT count(*) FROM sb.stream WHERE gap_at IS NOT NULL AND source LIKE '%/public%'"

/* What is published for earlier stages is no matter of the view; its place is kept, who does not own it is refused, and what is lost of it is ordered again. */
START_TEST(test_public_streams)
{
	static const char begun[] = "{\"type\":\"experiment\",\"incarnation\":1,\"snapshot\":\"s1\",\"reason\":\"resync\"}";
	static const char ended[] = "{\"type\":\"experiment\",\"incarnation\":1,\"snapshot\":\"s1\",\"lsn\":\"0/C350\",\"rows\":9}";
	struct sb_stream_out so, public, snapshot, thief, lost;

	stream(&so, DEV, "entity/experiment", 1);
	stream(&public, DEV, "public/experiment", 1);
	stream(&snapshot, DEV, "public-snapshot/experiment", 1);
	stream(&thief, TRAIN, "public/experiment", 1);
	rig_start(&rig, "intake", DEV, hub_intake_lane);
	rig_start(&rig, "intake", TRAIN, hub_intake_lane);
	rig_entity(&rig, DEV, &public, &(struct rig_batch){ "experiment", 1, 1, 10, "masked", 0, NULL });
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 1, 5, "a", 0, NULL });
	rig_entity(&rig, TRAIN, &thief, &(struct rig_batch){ "experiment", 1, 1, 10, "x", 0, NULL });
	rig_await(&rig, EXPERIMENTS, 4);
	rig_await(&rig, QUARANTINED("not-owned"), 1);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM dev.experiment WHERE name LIKE 'masked%'"), 0);
	ck_assert_int_eq(rig_i64(&rig, "SELECT sequence FROM sb.stream WHERE source LIKE '%dev/agent/public/experiment'"), 1);
	ck_assert_int_eq(rig_i64(&rig, RESYNCS), 0);

	rig_entity(&rig, DEV, &public, &(struct rig_batch){ "experiment", 1, 20, 30, "masked", 0, NULL }); /* 10 to 20 are missing */
	rig_await(&rig, PUBLIC_GAPS, 1);
	rig_await(&rig, RESYNCS, 1);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.freshness WHERE gap_at IS NOT NULL"), 0); /* the view lacks nothing */
	rig_marker(&rig, DEV, &snapshot, SB_EV_SNAPSHOT_BEGUN, begun);
	lost = snapshot;
	lost.sequence += 1;
	rig_marker(&rig, DEV, &lost, SB_EV_SNAPSHOT_ENDED, ended);
	rig_await(&rig, RESYNCS, 2);
	stream(&snapshot, DEV, "public-snapshot/experiment", 2);
	rig_run(&rig, "UPDATE lifecycle.entity_type SET snapshot_at = now()"); /* as the snapshot beside it does */
	rig_marker(&rig, DEV, &snapshot, SB_EV_SNAPSHOT_BEGUN, begun);
	rig_marker(&rig, DEV, &snapshot, SB_EV_SNAPSHOT_ENDED, ended);
	rig_await(&rig, PUBLIC_GAPS, 0);
	ck_assert_int_eq(rig_i64(&rig, RESYNCS), 2);
	ck_assert_int_eq(rig_i64(&rig, EXPERIMENTS), 4);
}
END_TEST

START_TEST(test_lost_connection)
{
	struct sb_stream_out so;

	rig_start(&rig, "intake", DEV, hub_intake_lane);
	stream(&so, DEV, "entity/experiment", 1);
	for (int i = 0; i < 10; i++) {
		rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, i * 10, i * 10 + 10, "x", 0, NULL });
		if (i % 3 == 1)
			rig_run(&rig, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'acme/intake/dev'");
	}
	rig_await(&rig, EXPERIMENTS, 100);
	ck_assert_int_eq(rig_i64(&rig, "SELECT rows_applied FROM lifecycle.entity_type WHERE type = 'experiment'"), 100);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.quarantine"), 0);
}
END_TEST

/* A hole within a session: on record, resync ordered once, what follows applied, and a snapshot mends it */
START_TEST(test_gap_and_resync)
{
	struct sb_stream_out so, snapshot, lost;

	rig_start(&rig, "intake", DEV, hub_intake_lane);
	stream(&so, DEV, "entity/experiment", 1);
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 1, 10, "a", 0, NULL });
	lost = so;
	struct sb_record rec;
	char *value = NULL;
	rig_entity_stamp(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 10, 20, "lost", 0, NULL }, "2710", "4E20", &rec, &value);
	free(value);
	ck_assert_uint_eq(lost.sequence + 1, so.sequence);
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 20, 30, "c", 0, NULL });
	rig_await(&rig, EXPERIMENTS, 19);
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 30, 31, "d", 0, NULL });
	rig_await(&rig, EXPERIMENTS, 20);
	ck_assert_int_eq(rig_i64(&rig, QUARANTINED("gap")), 1);
	ck_assert_int_eq(rig_i64(&rig, RESYNCS), 1);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM sb.stream WHERE gap_at IS NOT NULL"), 1);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.freshness WHERE type = 'experiment' AND gap_at IS NOT NULL"), 1);

	/* row 5 was deleted in the source meanwhile: the snapshot does not name it, so it is swept */
	stream(&snapshot, DEV, "snapshot/experiment", 1);
	rig_marker(&rig, DEV, &snapshot, SB_EV_SNAPSHOT_BEGUN,
		"{\"type\":\"experiment\",\"incarnation\":1,\"snapshot\":\"s1\",\"reason\":\"resync\",\"partial\":false,\"after_session\":0,\"after_sequence\":0}");
	/* versions of the snapshot: its consistent point, beyond everything streamed so far */
	static char id[] = "id", integer[] = "integer", name[] = "name", text[] = "text";
	struct sb_column column[] = { { id, integer, true }, { name, text, false } };
	struct sb_shape shape = { .type = "experiment", .incarnation = 1, .column = column, .n_columns = 2 };
	struct sb_batch *batch = NULL;
	rig_ok(sb_batch_new(&batch, err));
	rig_ok(sb_batch_begin(batch, &shape, err));
	for (int i = 1; i < 31; i++) {
		char number[16];
		rig_ok(sb_format(number, sizeof(number), err, "%d", i));
		struct sb_cell cell[] = { { SB_CELL_VALUE, number, strlen(number) }, { SB_CELL_VALUE, "snap", 4 } };
		if (i != 5)
			rig_ok(sb_batch_add(batch, &(struct sb_change){ .op = 's', .lsn = 40000, .n_cells = 2, .cell = cell }, err));
	}
	size_t n = 0;
	const void *rows = sb_batch_value(batch, &n);
	rig_record(&rec, DEV, SB_ENTITY, rows, n);
	rig_ok(sb_stream_stamp(&snapshot, &rec, SB_EV_SNAPSHOT_ROWS, "experiment", SB_BATCH_CONTENT_TYPE, rig.agent[DEV], err));
	rig_send(&rig, &rec);
	sb_batch_free(batch);
	rig_marker(&rig, DEV, &snapshot, SB_EV_SNAPSHOT_ENDED,
		"{\"type\":\"experiment\",\"incarnation\":1,\"snapshot\":\"s1\",\"lsn\":\"0/9C40\",\"rows\":29,\"complete\":true}");
	rig_await(&rig, "SELECT count(*) FROM lifecycle.entity_type WHERE type = 'experiment' AND snapshot_state = 'done'", 1);
	ck_assert_int_eq(rig_i64(&rig, EXPERIMENTS), 29);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM dev.experiment WHERE id = 5"), 0);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM sb.stream WHERE gap_at IS NOT NULL"), 0);
}
END_TEST

/* Between sessions positions tell: an agent that resumes after a hole of its source */
START_TEST(test_position_gap)
{
	struct sb_stream_out so;

	rig_start(&rig, "intake", DEV, hub_intake_lane);
	stream(&so, DEV, "entity/experiment", 1);
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 1, 10, "a", 0, NULL });
	stream(&so, DEV, "entity/experiment", 2);
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 15, 20, "b", 0, NULL });
	rig_await(&rig, EXPERIMENTS, 14);
	ck_assert_int_eq(rig_i64(&rig, QUARANTINED("gap")), 1);
	ck_assert_int_eq(rig_i64(&rig, RESYNCS), 1);
	/* a larger incarnation starts anywhere: a snapshot follows by itself */
	stream(&so, DEV, "entity/experiment", 3);
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 2, 100, 102, "c", 0, NULL });
	rig_await(&rig, EXPERIMENTS, 16);
	ck_assert_int_eq(rig_i64(&rig, QUARANTINED("gap")), 1);
	/* and the older incarnation may not come back */
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 102, 110, "old", 0, NULL });
	rig_await(&rig, QUARANTINED("zombie"), 1);
	ck_assert_int_eq(rig_i64(&rig, EXPERIMENTS), 16);
}
END_TEST

/* A snapshot that lost a record must not sweep what that record named */
START_TEST(test_broken_snapshot_does_not_sweep)
{
	struct sb_stream_out so, snapshot;
	struct sb_record rec;
	char *value = NULL;

	rig_start(&rig, "intake", DEV, hub_intake_lane);
	stream(&so, DEV, "entity/experiment", 1);
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 1, 10, "a", 0, NULL });
	stream(&snapshot, DEV, "snapshot/experiment", 1);
	rig_marker(&rig, DEV, &snapshot, SB_EV_SNAPSHOT_BEGUN,
		"{\"type\":\"experiment\",\"incarnation\":1,\"snapshot\":\"s1\",\"reason\":\"resync\",\"partial\":false,\"after_session\":0,\"after_sequence\":0}");
	rig_entity_stamp(&rig, DEV, &snapshot, &(struct rig_batch){ "experiment", 1, 1, 10, "lost", 's', NULL }, NULL, NULL, &rec, &value);
	free(value);
	rig_marker(&rig, DEV, &snapshot, SB_EV_SNAPSHOT_ENDED,
		"{\"type\":\"experiment\",\"incarnation\":1,\"snapshot\":\"s1\",\"lsn\":\"0/9C40\",\"rows\":9,\"complete\":true}");
	rig_await(&rig, "SELECT count(*) FROM lifecycle.entity_type WHERE snapshot_state = 'broken'", 1);
	rig_await(&rig, "SELECT next_offset FROM sb.position WHERE topic LIKE '%entity%'", 3);
	ck_assert_int_eq(rig_i64(&rig, EXPERIMENTS), 9);
	ck_assert_int_eq(rig_i64(&rig, RESYNCS), 1);
}
END_TEST

#define DESCRIBED(lsn, comment)                                                                                                             \
	"{\"type\":\"experiment\",\"incarnation\":1,\"lsn\":\"" lsn "\",\"comment\":\"" comment "\",\"rows\":7,\"withheld\":[\"reviewer\"],"   \
	"\"columns\":[{\"name\":\"id\",\"type\":\"integer\",\"key\":true,\"source_type\":\"integer\",\"comment\":\"number\",\"labels\":[],"    \
	"\"class\":\"public\"},{\"name\":\"state\",\"type\":\"app.mood\",\"key\":false,\"source_type\":\"app.mood\",\"comment\":\"\","      \
	"\"labels\":[\"ok\",\"bad\"],\"class\":\"internal\"}]}"

/* What the source's catalog says reaches people without a row, keeps its place in the stream and moves no position */
START_TEST(test_described)
{
	struct sb_stream_out so;

	rig_start(&rig, "intake", DEV, hub_intake_lane);
	stream(&so, DEV, "entity/experiment", 1);
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 1, 10, "a", 0, NULL });
	rig_marker(&rig, DEV, &so, SB_EV_ENTITY_DESCRIBED, DESCRIBED("0/3000", "runs"));
	rig_await(&rig, "SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('dev.experiment') AND attname = 'state'", 1);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.entity_column WHERE stage = 'dev' AND type = 'experiment' AND column_name = 'state' AND"
		" source_type = 'app.mood' AND shown_type = 'text' AND NOT key AND class = 'internal' AND labels = '{ok,bad}' AND place = 2"), 1);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.entity_column WHERE column_name = 'reviewer' AND class = 'withheld' AND shown_type IS NULL"), 1);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM pg_class WHERE oid = 'dev.experiment'::regclass AND obj_description(oid) = 'runs'"), 1);
	/* older than what is known, and one that is none */
	rig_marker(&rig, DEV, &so, SB_EV_ENTITY_DESCRIBED, DESCRIBED("0/2000", "old"));
	rig_marker(&rig, DEV, &so, SB_EV_ENTITY_DESCRIBED, "{\"type\":\"experiment\",\"columns\":[]}");
	rig_await(&rig, QUARANTINED("data"), 1);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM pg_class WHERE oid = 'dev.experiment'::regclass AND obj_description(oid) = 'runs'"), 1);
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 10, 20, "b", 0, NULL });
	rig_await(&rig, EXPERIMENTS, 19);
	ck_assert_int_eq(rig_i64(&rig, QUARANTINED("gap")), 0);
	ck_assert_int_eq(rig_i64(&rig, "SELECT lsn FROM sb.stream WHERE source LIKE '%entity/experiment'"), 20000);
}
END_TEST

static void marker_after(struct sb_stream_out *so, const char *snapshot, int session, int sequence)
{
	char value[256];

	(void)snprintf(value, sizeof(value), "{\"type\":\"experiment\",\"incarnation\":1,\"snapshot\":\"%s\",\"reason\":\"first\",\"partial\":false,"
		"\"after_session\":%d,\"after_sequence\":%d}", snapshot, session, sequence); /* fits */
	rig_marker(&rig, DEV, so, SB_EV_SNAPSHOT_BEGUN, value);
}

#define SNAPSHOT_IS(s) "SELECT count(*) FROM lifecycle.entity_type WHERE type = 'experiment' AND snapshot_state = '" s "'"
#define ENDED(complete) "{\"type\":\"experiment\",\"incarnation\":1,\"snapshot\":\"0/10\",\"lsn\":\"0/9C40\",\"rows\":9,\"complete\":" complete "}"

/* After a break of its sender a snapshot goes on over any number of sessions; when records of one of them are missing it is void. */
START_TEST(test_snapshot_over_sessions)
{
	struct sb_stream_out one, two, three;

	rig_start(&rig, "intake", DEV, hub_intake_lane);
	stream(&one, DEV, "snapshot/experiment", 1);
	marker_after(&one, "0/10", 0, 0);
	rig_entity(&rig, DEV, &one, &(struct rig_batch){ "experiment", 1, 1, 10, "a", 's', NULL });
	rig_await(&rig, SNAPSHOT_IS("running"), 1);
	rig_run(&rig, "UPDATE lifecycle.entity_type SET snapshot_at = '2020-01-01'");
	/* the second session dies before anything of it is known to be on the broker: the third names the first */
	stream(&two, DEV, "snapshot/experiment", 2);
	marker_after(&two, "0/10", 1, 2);
	stream(&three, DEV, "snapshot/experiment", 3);
	marker_after(&three, "0/10", 1, 2);
	rig_marker(&rig, DEV, &three, SB_EV_SNAPSHOT_ENDED, ENDED("true"));
	rig_await(&rig, SNAPSHOT_IS("done"), 1);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.entity_type WHERE snapshot_at = '2020-01-01'"), 1);
	ck_assert_int_eq(rig_i64(&rig, RESYNCS), 0);

	/* one that builds upon a record that never came */
	stream(&one, DEV, "snapshot/experiment", 4);
	marker_after(&one, "0/10", 0, 0);
	stream(&two, DEV, "snapshot/experiment", 5);
	marker_after(&two, "0/10", 4, 2);
	rig_await(&rig, SNAPSHOT_IS("broken"), 1);
	/* what follows does not make it whole again */
	stream(&three, DEV, "snapshot/experiment", 6);
	marker_after(&three, "0/10", 5, 1);
	rig_marker(&rig, DEV, &three, SB_EV_SNAPSHOT_ENDED, ENDED("true"));
	rig_await(&rig, RESYNCS, 1);
	ck_assert_int_eq(rig_i64(&rig, SNAPSHOT_IS("broken")), 1);
}
END_TEST

/* A snapshot that was given up, or that names only some rows, removes nothing; of the second kind the view's state does not change. */
START_TEST(test_snapshot_of_some_rows)
{
	struct sb_stream_out so, snapshot;

	rig_start(&rig, "intake", DEV, hub_intake_lane);
	stream(&so, DEV, "entity/experiment", 1);
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 1, 10, "a", 0, NULL });
	stream(&snapshot, DEV, "snapshot/experiment", 1);
	rig_marker(&rig, DEV, &snapshot, SB_EV_SNAPSHOT_BEGUN, "{\"type\":\"experiment\",\"incarnation\":1,\"snapshot\":\"0/9\",\"reason\":\"asked\",\"partial\":true,"
		"\"after_session\":0,\"after_sequence\":0}");
	rig_entity(&rig, DEV, &snapshot, &(struct rig_batch){ "experiment", 1, 1, 2, "again", 's', NULL });
	rig_marker(&rig, DEV, &snapshot, SB_EV_SNAPSHOT_ENDED,
		"{\"type\":\"experiment\",\"incarnation\":1,\"snapshot\":\"0/9\",\"lsn\":\"0/9C40\",\"rows\":1,\"complete\":false}");
	rig_await(&rig, "SELECT next_offset FROM sb.position WHERE topic LIKE '%entity%'", 4);
	ck_assert_int_eq(rig_i64(&rig, EXPERIMENTS), 9);
	ck_assert_int_eq(rig_i64(&rig, SNAPSHOT_IS("none")), 1);
	marker_after(&snapshot, "0/10", 0, 0);
	rig_marker(&rig, DEV, &snapshot, SB_EV_SNAPSHOT_ENDED, ENDED("false"));
	rig_await(&rig, SNAPSHOT_IS("incomplete"), 1);
	ck_assert_int_eq(rig_i64(&rig, EXPERIMENTS), 9);
	ck_assert_int_eq(rig_i64(&rig, RESYNCS), 0);
}
END_TEST

START_TEST(test_zombie_and_equivocation)
{
	struct sb_stream_out old, so, twin;

	rig_start(&rig, "intake", DEV, hub_intake_lane);
	stream(&old, DEV, "entity/experiment", 4);
	stream(&so, DEV, "entity/experiment", 5);
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 1, 5, "a", 0, NULL });
	rig_entity(&rig, DEV, &old, &(struct rig_batch){ "experiment", 1, 5, 9, "zombie", 0, NULL });
	rig_await(&rig, QUARANTINED("zombie"), 1);
	twin = so;
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 5, 7, "one", 0, NULL });
	rig_entity(&rig, DEV, &twin, &(struct rig_batch){ "experiment", 1, 5, 7, "two", 0, NULL });
	rig_await(&rig, QUARANTINED("equivocation"), 1);
	ck_assert_int_eq(rig_i64(&rig, EXPERIMENTS), 6);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM dev.experiment WHERE name LIKE 'zombie%' OR name LIKE 'two%'"), 0);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.audit WHERE action = 'equivocation'"), 1);
}
END_TEST

START_TEST(test_not_owned)
{
	struct sb_stream_out dev, train, other;

	rig_start(&rig, "intake", DEV, hub_intake_lane);
	rig_start(&rig, "intake", TRAIN, hub_intake_lane);
	stream(&dev, DEV, "entity/experiment", 1);
	stream(&train, TRAIN, "entity/experiment", 1);
	stream(&other, TRAIN, "entity/unlisted", 1);
	rig_entity(&rig, DEV, &dev, &(struct rig_batch){ "experiment", 1, 1, 5, "mine", 0, NULL });
	rig_await(&rig, EXPERIMENTS, 4);
	rig_entity(&rig, TRAIN, &train, &(struct rig_batch){ "experiment", 1, 1, 5, "theirs", 0, NULL });
	rig_entity(&rig, TRAIN, &other, &(struct rig_batch){ "unlisted", 1, 1, 5, "x", 0, NULL });
	rig_await(&rig, "SELECT count(*) FROM lifecycle.violation WHERE stage = 'train' AND type = 'experiment' AND owner = 'dev'", 1);
	rig_await(&rig, QUARANTINED("not-owned"), 2);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM dev.experiment WHERE name LIKE 'mine-%'"), 4);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.audit WHERE action = 'ownership-violation'"), 2);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'train__%'"), 0);
	/* what was refused is not missing: the stage is not behind for it */
	rig_await(&rig, "SELECT count(*) FROM sb.stream WHERE source LIKE '%/train/agent/entity/%' AND sequence = 1", 2);
}
END_TEST

/* Rows that were refused while the settings gave the type to nobody are asked for once they give it to the stage, once */
START_TEST(test_owned_now)
{
	struct sb_stream_out so;

	rig_ok(sb_pg_script(rig.pg,
		"INSERT INTO lifecycle.quarantine (stage, topic, record_offset, class, reason, type) VALUES ('dev', 't', 1, 'not-owned', 'x', 'experiment'), "
		"('dev', 't', 2, 'not-owned', 'x', 'card'), ('dev', 't', 3, 'malf', 'x', 'secret')",
		err));
	rig_start(&rig, "intake", DEV, hub_intake_lane);
	rig_await(&rig, RESYNCS, 1);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.entity_type WHERE type = 'experiment' AND resync_at IS NOT NULL"), 1);
	rig_stop(&rig);
	rig_start(&rig, "intake", DEV, hub_intake_lane);
	stream(&so, DEV, "entity/experiment", 1);
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 1, 5, "mine", 0, NULL });
	rig_await(&rig, EXPERIMENTS, 4);
	ck_assert_int_eq(rig_i64(&rig, RESYNCS), 1);
}
END_TEST

/* A batch of another type under the name of an owned one */
START_TEST(test_disguised_type)
{
	struct sb_stream_out so;

	rig_start(&rig, "intake", DEV, hub_intake_lane);
	stream(&so, DEV, "entity/experiment", 1);
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "card", 1, 1, 5, "x", 0, NULL });
	rig_await(&rig, QUARANTINED("malf"), 1);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM pg_tables WHERE schemaname = 'store' AND tablename LIKE '%card%'"), 0);
}
END_TEST

START_TEST(test_forged)
{
	struct sb_stream_out so;
	struct sb_record rec;
	size_t n = 0;
	char *value = rig_batch_value(&(struct rig_batch){ "experiment", 1, 1, 5, "x", 0, NULL }, &n);

	rig_start(&rig, "intake", DEV, hub_intake_lane);
	/* another stage's key in dev's name */
	stream(&so, DEV, "entity/experiment", 1);
	rig_record(&rec, DEV, SB_ENTITY, value, n);
	rig_ok(sb_stream_stamp(&so, &rec, SB_EV_ENTITY_CHANGED, "experiment", SB_BATCH_CONTENT_TYPE, rig.agent[EXPLORE], err));
	rig_send(&rig, &rec);
	rig_await(&rig, QUARANTINED("auth"), 1);
	/* changed after signing */
	stream(&so, DEV, "entity/experiment", 1);
	rig_record(&rec, DEV, SB_ENTITY, value, n);
	rig_ok(sb_stream_stamp(&so, &rec, SB_EV_ENTITY_CHANGED, "experiment", SB_BATCH_CONTENT_TYPE, rig.agent[DEV], err));
	value[n - 2] ^= 1;
	rig_send(&rig, &rec);
	rig_await(&rig, QUARANTINED("forge"), 1);
	/* the stream has not moved: the honest first record is still the first */
	stream(&so, DEV, "entity/experiment", 1);
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 1, 5, "honest", 0, NULL });
	rig_await(&rig, EXPERIMENTS, 4);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.quarantine"), 2);
	free(value);
}
END_TEST

START_TEST(test_poison_row)
{
	struct sb_stream_out so;

	rig_start(&rig, "intake", DEV, hub_intake_lane);
	stream(&so, DEV, "entity/experiment", 1);
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 1, 20, "a", 0, "not-a-number-4711" });
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 20, 30, "b", 0, NULL });
	rig_await(&rig, EXPERIMENTS, 28);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.quarantine"), 1);
	ck_assert_int_eq(
		rig_i64(&rig,
			"SELECT count(*) FROM lifecycle.quarantine WHERE class = 'row' AND type = 'experiment' AND length(entity_key) = 32"
			" AND value IS NULL AND reason NOT LIKE '%4711%'"),
		1);
	/* whole record that is no batch */
	struct sb_record rec;
	rig_record(&rec, DEV, SB_ENTITY, "nonsense", 8);
	rig_ok(sb_stream_stamp(&so, &rec, SB_EV_ENTITY_CHANGED, "experiment", SB_BATCH_CONTENT_TYPE, rig.agent[DEV], err));
	rig_send(&rig, &rec);
	rig_await(&rig, QUARANTINED("malf"), 1);
}
END_TEST

/* Another hub takes the lane over while the old one hangs: what the old one writes does not commit */
START_TEST(test_old_generation)
{
	struct sb_stream_out so;
	struct hub_world other = *rig.w;
	struct sb_pg *pg = NULL;
	struct sb_error why = SB_ERROR_INIT;
	int64_t generation = 0, mine = 0;

	rig_start(&rig, "intake", DEV, hub_intake_lane);
	stream(&so, DEV, "entity/experiment", 1);
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 1, 5, "a", 0, NULL });
	rig_await(&rig, EXPERIMENTS, 4);
	mine = rig_i64(&rig, "SELECT generation FROM sb.fence WHERE lane = 'acme/intake/dev'");

	rig_ok(sb_format(other.holder, sizeof(other.holder), err, "elsewhere"));
	rig_ok(hub_store_open(&pg, &other, "other", err));
	ck_assert_int_eq(hub_fence_take(pg, &other, "acme/intake/dev", &generation, &why), SB_EAGAIN); /* the leader lives */
	rig_run(&rig, "UPDATE sb.lease SET renewed_at = now() - interval '1 hour'"); /* ... but was not heard of for long */
	rig_ok(hub_fence_take(pg, &other, "acme/intake/dev", &generation, err));
	ck_assert_int_eq(generation, mine + 1);

	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 5, 9, "b", 0, NULL });
	struct sb_buf report;
	sb_buf_init(&report, 65536);
	ck_assert(wait_until((sb_buf_reset(&report), sb_lanes_report(rig.hub->lanes, &report), strstr(report.data, "standing by") != NULL),
		RIG_WAIT_MS));
	sb_buf_release(&report);
	ck_assert_int_eq(rig_i64(&rig, EXPERIMENTS), 4);
	ck_assert_int_eq(rig_i64(&rig, "SELECT next_offset FROM sb.position WHERE topic LIKE '%entity%'"), 1);

	/* the other one goes away: the first takes over again and catches up */
	sb_pg_close(pg);
	rig_await(&rig, EXPERIMENTS, 8);
	ck_assert_int_eq(rig_i64(&rig, "SELECT rows_applied FROM lifecycle.entity_type WHERE type = 'experiment'"), 8);
}
END_TEST

START_TEST(test_offset_gone)
{
	struct sb_stream_out so;

	stream(&so, DEV, "entity/experiment", 1);
	rig_run(&rig, "INSERT INTO sb.position (consumer, topic, next_offset) VALUES ('intake', 'sb.acme.dev.up.entity.v1', 5000)");
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 1, 5, "a", 0, NULL });
	rig_start(&rig, "intake", DEV, hub_intake_lane);
	rig_await(&rig, EXPERIMENTS, 4);
	ck_assert_int_eq(rig_i64(&rig, QUARANTINED("gap")), 1);
	/* every type that dev owns is asked for */
	ck_assert_int_eq(rig_i64(&rig, RESYNCS), 2);
}
END_TEST

START_TEST(test_heartbeat)
{
	struct sb_stream_out so, beat, event;

	rig_start(&rig, "intake", DEV, hub_intake_lane);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.freshness WHERE status = 'NEVER'"), 3);
	stream(&event, DEV, "event", 1000);
	rig_event(&rig, DEV, &event, SB_EV_AGENT_STARTED,
		"{\"agent_version\":\"1.2\",\"session\":7,\"started_at\":\"2026-01-01T00:00:00.000Z\"}");
	stream(&so, DEV, "entity/experiment", 7);
	stream(&beat, DEV, "heartbeat", 7);
	struct sb_head head = { "stagebridge://acme/dev/agent/entity/experiment", 7, 1 };
	char digest[65];
	static const char form[] =
		"{\"agent_version\":\"1.2\",\"session\":7,\"interval_ms\":10000,\"outbox_depth\":3,"
		"\"heads\":[{\"source\":\"stagebridge://acme/dev/agent/entity/experiment\",\"session\":7,\"sequence\":1}],\"digest\":\"%s\","
		"\"sources\":[{\"name\":\"app\",\"lag_bytes\":10,\"lag_ms\":20},{\"name\":\"b\",\"lag_bytes\":5,\"lag_ms\":70}],\"as_of\":"
		"\"0/1388\","
		"\"occupancy\":[],\"lanes_ok\":true,\"disk_free_bytes\":1000}";
	sb_heads_digest(&head, 1, digest);
	sb_cleanup(sb_freep) char *body = sb_asprintf(form, digest);
	ck_assert_ptr_nonnull(body);
	digest[0] = digest[0] == '0' ? '1' : '0';
	sb_cleanup(sb_freep) char *wrong = sb_asprintf(form, digest);
	ck_assert_ptr_nonnull(wrong);
	/* heads that are not those of the digest are not believed, and say nothing of the stage */
	rig_event(&rig, DEV, &beat, SB_EV_HEARTBEAT_SENT, wrong);
	rig_await(&rig, QUARANTINED("malf"), 1);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.stage WHERE name = 'dev' AND heartbeat_at IS NULL"), 1);
	rig_event(&rig, DEV, &beat, SB_EV_HEARTBEAT_SENT, body);
	rig_await(&rig,
		"SELECT count(*) FROM lifecycle.stages WHERE stage = 'dev' AND status = 'LIVE' AND agent_version = '1.2' AND behind AND "
		"lag_ms = 70"
		" AND outbox_depth = 3 AND as_of IS NULL",
		1);
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 1, 5, "a", 0, NULL });
	rig_await(&rig, "SELECT count(*) FROM lifecycle.stages WHERE stage = 'dev' AND NOT behind AND as_of = '0/1388'", 1);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.freshness WHERE stage = 'dev' AND type = 'experiment' AND status = "
				       "'LIVE' AND changes_applied = 4"),
		1);
	rig_run(&rig, "UPDATE lifecycle.stage SET heartbeat_expires = now() - interval '1 s' WHERE name = 'dev'");
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.freshness WHERE stage = 'dev' AND status = 'STALE'"), 2);
	ck_assert_int_eq(rig_i64(&rig, QUARANTINED("malf")), 1);
}
END_TEST

START_TEST(test_requests)
{
	struct sb_stream_out event;

	rig_start(&rig, "intake", DEV, hub_intake_lane);
	stream(&event, DEV, "event", 1000);
	rig_event(&rig, DEV, &event, SB_EV_PUSH_REQUESTED,
		"{\"push\":\"p1\",\"origin\":\"model\",\"branch\":\"feature/"
		"x\",\"head\":\"0123456789012345678901234567890123456789\",\"base\":\"\",\"title\":\"T\","
		"\"body\":\"\",\"user\":\"ann\",\"transfer\":\"\"}");
	rig_event(&rig, DEV, &event, SB_EV_PROMOTION_REQUESTED,
		"{\"request\":\"r1\",\"action\":\"promote\",\"origin\":\"model\",\"artifact\":\"a\",\"stage\":\"train\",\"promotion\":\"\","
		"\"user\":\"ann\",\"reason\":\"go\"}");
	rig_event(&rig, DEV, &event, SB_EV_PROMOTION_REQUESTED, "{\"request\":\"r2\",\"action\":\"merged\",\"user\":\"ann\"}");
	rig_event(&rig, DEV, &event, SB_EV_DEPLOYMENT_REPORTED, "{\"promotion\":\"x\",\"attempt\":1,\"lease\":1,\"state\":\"accepted\"}");
	rig_await(&rig, "SELECT count(*) FROM sb.report WHERE kind = 'deployment' AND stage = 'dev' AND body->>'state' = 'accepted'", 1);
	ck_assert_int_eq(
		rig_i64(&rig,
			"SELECT count(*) FROM lifecycle.push WHERE id = 'p1' AND pusher = 'ann' AND stage = 'dev' AND state = 'received'"),
		1);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.promotion_request WHERE id = 'r1' AND person = 'ann' AND state = "
				       "'open' AND stage_from = 'dev'"),
		1);
	/* "merged" is the forge's to say, not a stage's; the stream goes on behind it */
	ck_assert_int_eq(rig_i64(&rig, QUARANTINED("data")), 1);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.promotion_request"), 1);
	ck_assert_int_eq(rig_i64(&rig, QUARANTINED("gap")), 0);
}
END_TEST

START_TEST(test_datasets)
{
	struct sb_stream_out train, prod;

	rig_start(&rig, "intake", TRAIN, hub_intake_lane);
	rig_start(&rig, "intake", PROD, hub_intake_lane);
	stream(&train, TRAIN, "event", 1000);
	stream(&prod, PROD, "event", 1000);
	rig_event(&rig, TRAIN, &train, SB_EV_DATASET_REQUESTED,
		"{\"request\":\"d1\",\"dataset\":\"customers\",\"from\":\"prod\",\"user\":\"ann\",\"purpose\":\"churn\"}");
	rig_event(&rig, TRAIN, &train, SB_EV_DATASET_REQUESTED,
		"{\"request\":\"d2\",\"dataset\":\"customers\",\"from\":\"dev\",\"user\":\"ann\",\"purpose\":\"churn\"}");
	rig_await(&rig, "SELECT count(*) FROM lifecycle.datasets WHERE request = 'd1' AND state = 'ordered'", 1);
	rig_await(&rig, "SELECT count(*) FROM lifecycle.datasets WHERE request = 'd2' AND state = 'refused' AND reason_code = 'edge'", 1);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM sb.outbox WHERE stage = 'prod'"), 1);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM sb.outbox WHERE stage = 'train'"), 1);
	/* train may not speak for prod */
	rig_event(&rig, TRAIN, &train, SB_EV_DATASET_REPORTED, "{\"request\":\"d1\",\"dataset\":\"customers\",\"state\":\"produced\"}");
	rig_await(&rig, QUARANTINED("data"), 1);
	rig_event(&rig, PROD, &prod, SB_EV_DATASET_REPORTED,
		"{\"request\":\"d1\",\"dataset\":\"customers\",\"state\":\"accepted\",\"reason_code\":\"\",\"reason\":\"\",\"transfer\":"
		"\"\",\"policy_digest\":\"sha\",\"rows\":0}");
	rig_await(&rig, "SELECT count(*) FROM lifecycle.datasets WHERE request = 'd1' AND state = 'accepted' AND policy_digest = 'sha'", 1);
	rig_await(&rig, "SELECT count(*) FROM sb.outbox WHERE stage = 'train'", 2);
	rig_event(&rig, TRAIN, &train, SB_EV_DATASET_REPORTED,
		"{\"request\":\"d1\",\"dataset\":\"customers\",\"state\":\"delivered\",\"rows\":12}");
	rig_await(&rig, "SELECT count(*) FROM lifecycle.datasets WHERE request = 'd1' AND state = 'delivered' AND row_count = 12", 1);
	/* ended is ended */
	rig_event(&rig, PROD, &prod, SB_EV_DATASET_REPORTED, "{\"request\":\"d1\",\"dataset\":\"customers\",\"state\":\"failed\"}");
	rig_await(&rig, "SELECT sequence FROM sb.stream WHERE source LIKE '%prod/agent/event'", 2);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.datasets WHERE request = 'd1' AND state = 'delivered'"), 1);
}
END_TEST

START_TEST(test_credits)
{
	struct sb_stream_out train;

	rig_run(&rig, "INSERT INTO lifecycle.transfer (id, kind, from_stage, to_stage, manifest, chunks, sealed_bytes, state, sent, next, "
		      "credit_window) VALUES "
		      "('00000000000000000000000001', 'pack', 'hub', 'train', '{}', 10, 1, 'sending', 6, 2, 4), "
		      "('00000000000000000000000002', 'dataset', 'prod', 'train', '{}', 10, 1, 'sending', 0, 0, 0), "
		      "('00000000000000000000000003', 'pack', 'hub', 'dev', '{}', 10, 1, 'sending', 0, 0, 4)");
	rig_start(&rig, "intake", TRAIN, hub_intake_lane);
	stream(&train, TRAIN, "event", 1000);
	rig_event(&rig, TRAIN, &train, SB_EV_TRANSFER_CREDITED,
		"{\"transfer\":\"00000000000000000000000001\",\"next\":5,\"window\":8,\"state\":\"receiving\",\"reason\":\"\"}");
	rig_await(&rig, "SELECT next + credit_window FROM lifecycle.transfer WHERE id LIKE '%1'", 13);
	rig_event(&rig, TRAIN, &train, SB_EV_TRANSFER_CREDITED,
		"{\"transfer\":\"00000000000000000000000001\",\"next\":1,\"window\":8,\"state\":\"receiving\",\"reason\":\"\"}");
	rig_await(&rig, "SELECT count(*) FROM lifecycle.transfer WHERE id LIKE '%1' AND attempt = 2 AND sent = 1", 1);
	rig_event(&rig, TRAIN, &train, SB_EV_TRANSFER_CREDITED,
		"{\"transfer\":\"00000000000000000000000002\",\"next\":10,\"window\":8,\"state\":\"complete\",\"reason\":\"\"}");
	rig_await(&rig, "SELECT count(*) FROM lifecycle.transfer WHERE id LIKE '%2' AND state = 'complete'", 1);
	rig_await(&rig, "SELECT count(*) FROM sb.outbox WHERE stage = 'prod'", 1);
	/* not its transfer */
	rig_event(&rig, TRAIN, &train, SB_EV_TRANSFER_CREDITED,
		"{\"transfer\":\"00000000000000000000000003\",\"next\":9,\"window\":8,\"state\":\"receiving\",\"reason\":\"\"}");
	rig_await(&rig, QUARANTINED("data"), 1);
	ck_assert_int_eq(rig_i64(&rig, "SELECT next FROM lifecycle.transfer WHERE id LIKE '%3'"), 0);
}
END_TEST

/* Not a benchmark that can fail on a slow machine: prints what it measured */
START_TEST(test_measure)
{
	struct sb_stream_out so;
	int64_t began, us[200];
	const int rows = 100000, per = 1000;

	stream(&so, DEV, "entity/experiment", 1);
	rig_start(&rig, "intake", DEV, hub_intake_lane);
	rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, 0, per, "warm", 0, NULL });
	rig_await(&rig, EXPERIMENTS, per);
	began = sb_mono_us();
	for (int i = 1; i <= rows / per; i++)
		rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, i * per, (i + 1) * per, "flood", 0, NULL });
	rig_await(&rig, "SELECT rows_applied FROM lifecycle.entity_type WHERE type = 'experiment'", rows + per);
	double seconds = (double)(sb_mono_us() - began) / 1e6;

	struct sb_metric *commits = sb_metric("stagebridge_intake_commits_total", SB_COUNTER, "stage", "");
	struct sb_metric *time = sb_metric("stagebridge_intake_commit_seconds_total", SB_COUNTER, "stage", "");
	double c0 = sb_metric_get(commits, "acme/dev"), t0 = sb_metric_get(time, "acme/dev");
	for (int i = 0; i < (int)SB_COUNT(us); i++) {
		int at = rows + per + i;
		char sql[100];
		rig_ok(sb_format(sql, sizeof(sql), err, "SELECT count(*) FROM dev.experiment WHERE id = %d", at));
		int64_t from = sb_mono_us();
		rig_entity(&rig, DEV, &so, &(struct rig_batch){ "experiment", 1, at, at + 1, "one", 0, NULL });
		while (rig_i64(&rig, sql) != 1 && sb_mono_us() - from < 5000000)
			test_pause();
		us[i] = sb_mono_us() - from;
	}
	for (size_t i = 1; i < SB_COUNT(us); i++) {
		for (size_t k = i; k > 0 && us[k] < us[k - 1]; k--) {
			int64_t swap = us[k];
			us[k] = us[k - 1];
			us[k - 1] = swap;
		}
	}
	printf("intake: %d rows in %.2f s: %.0f rows/s (cutting and signing the batches included); one at a time: produce to visible p50 "
	       "%.1f ms p99 %.1f ms, "
	       "first record to commit %.2f ms\n",
		rows, seconds, rows / seconds, (double)us[SB_COUNT(us) / 2] / 1000, (double)us[SB_COUNT(us) * 99 / 100] / 1000,
		1000 * (sb_metric_get(time, "acme/dev") - t0) / (sb_metric_get(commits, "acme/dev") - c0));
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.quarantine"), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("hub_intake");
	TCase *tc = tcase_create("all");

	tcase_set_timeout(tc, 90);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_exactly_once);
	tcase_add_test(tc, test_public_streams);
	tcase_add_test(tc, test_lost_connection);
	tcase_add_test(tc, test_gap_and_resync);
	tcase_add_test(tc, test_position_gap);
	tcase_add_test(tc, test_broken_snapshot_does_not_sweep);
	tcase_add_test(tc, test_snapshot_over_sessions);
	tcase_add_test(tc, test_snapshot_of_some_rows);
	tcase_add_test(tc, test_described);
	tcase_add_test(tc, test_zombie_and_equivocation);
	tcase_add_test(tc, test_not_owned);
	tcase_add_test(tc, test_owned_now);
	tcase_add_test(tc, test_disguised_type);
	tcase_add_test(tc, test_forged);
	tcase_add_test(tc, test_poison_row);
	tcase_add_test(tc, test_old_generation);
	tcase_add_test(tc, test_offset_gone);
	tcase_add_test(tc, test_heartbeat);
	tcase_add_test(tc, test_requests);
	tcase_add_test(tc, test_datasets);
	tcase_add_test(tc, test_credits);
	tcase_add_test(tc, test_measure);
	suite_add_tcase(s, tc);
	return rig_main(s);
}
