/* Entities in a real PostgreSQL: versions decide whatever the order, rows that the server refuses stand alone, shapes change under live rows. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "pg_fixture.h"
#include "stagebridge/entity_table.h"
#include "stagebridge/record.h"
#include "support.h"

static const char *conninfo;

/* ---- a small language for batches: shapes and lines as they are on the wire ---- */

static struct sb_pg *pg;
static struct sb_entity_tables *tables;
static struct sb_apply_stats stats;
static char refused_keys[1024];
static const struct sb_position START = { 0, 0 };

static void fail_with(const struct sb_error *err)
{
	ck_abort_msg("%s (%s)", err->msg, err->state);
}

static void setup(void)
{
	struct sb_error err = SB_ERROR_INIT;
	char scope[32];

	(void)snprintf(scope, sizeof(scope), "t%d", (int)getpid()); /* tests share the server, not the tables */
	if (sb_pg_open(&pg, conninfo, "test", &err) != SB_OK || sb_entity_tables_new(&tables, pg, scope, scope, &err) != SB_OK)
		fail_with(&err);
}

static void teardown(void)
{
	sb_entity_tables_free(tables);
	sb_pg_close(pg);
}

/* The one value of a query; "%s" in it stands for the people's schema. */
static char *ask(const char *fmt)
{
	static char out[65536];
	struct sb_error err = SB_ERROR_INIT;
	struct sb_pg_result *res = NULL;
	char sql[4096], scope[32];

	(void)snprintf(scope, sizeof(scope), "t%d", (int)getpid());
	size_t n = 0;
	for (const char *p = fmt; *p && n < sizeof(sql) - 40; p++) {
		if (*p == '~') /* ~ is the schema and the scope of this test */
			n += (size_t)snprintf(sql + n, sizeof(sql) - n, "%s", scope);
		else
			sql[n++] = *p;
	}
	sql[n] = '\0';
	if (sb_pg_exec(pg, sql, 0, NULL, &res, &err) != SB_OK)
		fail_with(&err);
	const char *v = sb_pg_rows(res) ? sb_pg_get(res, 0, 0) : "(no row)";
	(void)snprintf(out, sizeof(out), "%s", v ? v : "(null)");
	sb_pg_free(res);
	return out;
}

#define SHAPE_INC(inc, columns) "{\"type\":\"e\",\"incarnation\":" inc ",\"columns\":[" columns "]}\n"
#define SHAPE(columns) SHAPE_INC("1", columns)
#define ID_NAME "[\"id\",\"integer\",true],[\"name\",\"text\",false]"
#define ID_NAME_BIG ID_NAME ",[\"big\",\"text\",false]"

static int on_refused(void *user, const struct sb_shape *shape, const struct sb_change *c, const struct sb_error *why)
{
	(void)user;
	ck_assert_str_eq(shape->type, "e");
	ck_assert_int_eq(why->code, SB_EDATA);
	ck_assert_uint_eq(strlen(why->state), 5);
	size_t n = strlen(refused_keys);
	(void)snprintf(refused_keys + n, sizeof(refused_keys) - n, "%.*s,", (int)c->cell[0].n, c->cell[0].p);
	/* the transaction is usable: the caller writes the row into its quarantine here */
	return sb_pg_exec(pg, "SELECT 1", 0, NULL, NULL, NULL);
}

static int apply_text(const char *batch, struct sb_position done, struct sb_error *err)
{
	refused_keys[0] = '\0';
	int rc = sb_pg_begin(pg, err);
	if (rc == SB_OK)
		rc = sb_entity_apply(tables, batch, strlen(batch), done, on_refused, NULL, &stats, err);
	if (rc == SB_OK)
		rc = sb_pg_commit(pg, err);
	if (rc)
		sb_pg_rollback(pg);
	return rc;
}

static void apply_from(const char *batch, struct sb_position done)
{
	struct sb_error err = SB_ERROR_INIT;

	if (apply_text(batch, done, &err) != SB_OK)
		fail_with(&err);
}

static void apply(const char *batch)
{
	apply_from(batch, START);
}

static void snapshot_begins(void)
{
	struct sb_error err = SB_ERROR_INIT;

	if (sb_pg_begin(pg, &err) || sb_entity_snapshot_begun(tables, "e", &err) || sb_pg_commit(pg, &err))
		fail_with(&err);
}

static uint64_t snapshot_ends(uint64_t incarnation, uint64_t lsn)
{
	struct sb_error err = SB_ERROR_INIT;
	uint64_t swept = 99;

	if (sb_pg_begin(pg, &err) || sb_entity_snapshot_ended(tables, "e", incarnation, lsn, &swept, &err) || sb_pg_commit(pg, &err))
		fail_with(&err);
	return swept;
}

#define ROWS "SELECT string_agg(id || '=' || coalesce(name::text, '-'), ' ' ORDER BY id) FROM ~.e"
#define STORED "SELECT count(*) FROM store.\"~__e\""
#define check_stats(a, s, r)                             \
	do {                                             \
		ck_assert_uint_eq(stats.applied, (a));   \
		ck_assert_uint_eq(stats.stale, (s));     \
		ck_assert_uint_eq(stats.refused, (r));   \
	} while (0)

/* The same text, rows one by one (few) and staged (many): every semantic test runs both ways by padding the batch with rows of other keys. */
static char *padded(const char *batch, int pad)
{
	static char out[65536];
	const char *rest = strchr(batch, '\n') + 1;
	unsigned columns = 0;
	size_t n;

	for (const char *p = batch; (p = strstr(p, "[\"")) && p < rest; p++)
		columns++;
	n = (size_t)snprintf(out, sizeof(out), "%s", batch);
	for (int i = 0; i < pad; i++) {
		n += (size_t)snprintf(out + n, sizeof(out) - n, "i\t0/FFFF\t%d\t%d\tpad", i, 100000 + i);
		for (unsigned k = 2; k < columns; k++)
			n += (size_t)snprintf(out + n, sizeof(out) - n, "\t\\N");
		n += (size_t)snprintf(out + n, sizeof(out) - n, "\n");
	}
	return out;
}

static const int pads[] = { 0, 20 };
#define OWN_ROWS "SELECT string_agg(id || '=' || coalesce(name, '-'), ' ' ORDER BY id) FROM ~.e WHERE id < 100000"

/* ---- versions ---- */

START_TEST(test_replay_is_no_op)
{
	const char *batch = padded(SHAPE(ID_NAME)
		"i\t0/10\t0\t1\tone\n"
		"i\t0/10\t1\t2\ttwo\n"
		"u\t0/20\t0\t1\tuno\n"
		"d\t0/30\t0\t2\t\\N\n", pads[_i]);
	unsigned n = 4 + (unsigned)pads[_i];

	apply(batch);
	/* a row that is made and deleted in one staged run leaves nothing to count */
	ck_assert_uint_eq(stats.applied + stats.stale, n);
	ck_assert_uint_le(stats.stale, 1);
	ck_assert_str_eq(ask(OWN_ROWS), "1=uno");
	char *before = strdup(ask("SELECT string_agg(t::text || xmin::text, ';' ORDER BY id) FROM store.\"~__e\" t"));
	/* what `done` covers is dropped without a look at the table */
	apply_from(batch, (struct sb_position){ 0x10000, 0 });
	check_stats(0, n, 0);
	ck_assert_str_eq(ask("SELECT string_agg(t::text || xmin::text, ';' ORDER BY id) FROM store.\"~__e\" t"), before);
	free(before);
}
END_TEST

START_TEST(test_replay_by_version)
{
	/* without deletes versions alone make it a no-op */
	const char *batch = padded(SHAPE(ID_NAME)
		"i\t0/10\t0\t1\tone\n"
		"u\t0/20\t0\t1\tuno\n"
		"u\t0/20\t1\t1\teins\n", pads[_i]);

	apply(batch);
	check_stats(3 + (unsigned)pads[_i], 0, 0);
	char *before = strdup(ask("SELECT string_agg(t::text || xmin::text, ';' ORDER BY id) FROM store.\"~__e\" t"));
	apply(batch);
	ck_assert_uint_eq(stats.refused, 0);
	ck_assert_uint_gt(stats.stale, 0);
	ck_assert_str_eq(ask("SELECT string_agg(t::text || xmin::text, ';' ORDER BY id) FROM store.\"~__e\" t"), before);
	ck_assert_str_eq(ask(OWN_ROWS), "1=eins");
	free(before);
}
END_TEST

START_TEST(test_out_of_order)
{
	apply(padded(SHAPE(ID_NAME) "u\t0/50\t0\t1\tnew\n", pads[_i]));
	apply(padded(SHAPE(ID_NAME) "u\t0/40\t9\t1\told\ns\t0/49\t0\t1\tsnapshot\ni\t0/50\t0\t2\tx\n", pads[_i]));
	ck_assert_str_eq(ask(OWN_ROWS), "1=new 2=x");
	/* a later incarnation wins whatever its log positions are */
	apply(padded(SHAPE_INC("2", ID_NAME) "s\t0/1\t0\t1\trestored\n", pads[_i]));
	ck_assert_str_eq(ask(OWN_ROWS), "1=restored 2=x");
	/* within one batch the highest version wins, not the last line */
	apply(padded(SHAPE_INC("2", ID_NAME) "u\t0/90\t2\t3\tc\nu\t0/90\t10\t3\td\nu\t0/8F\t11\t3\ta\n", pads[_i]));
	ck_assert_str_eq(ask(OWN_ROWS), "1=restored 2=x 3=d");
}
END_TEST

START_TEST(test_delete_then_older_snapshot_row)
{
	snapshot_begins();
	apply(padded(SHAPE(ID_NAME) "d\t0/50\t0\t1\t\\N\nu\t0/50\t1\t2\tb\n", pads[_i]));
	check_stats(2 + (unsigned)pads[_i], 0, 0);
	apply(padded(SHAPE(ID_NAME) "s\t0/30\t0\t1\tghost\ns\t0/30\t0\t2\told\ns\t0/30\t0\t3\tc\n", pads[_i]));
	ck_assert_str_eq(ask(OWN_ROWS), "2=b 3=c");
	ck_assert_str_eq(ask("SELECT count(*) FROM store.\"~__e\" WHERE _deleted"), "1");
	ck_assert_uint_eq(snapshot_ends(1, 0x30), 0);
	ck_assert_str_eq(ask("SELECT count(*) FROM store.\"~__e\" WHERE _deleted"), "0");
	ck_assert_str_eq(ask("SELECT snapshot_running FROM store.entity_type WHERE scope = '~'"), "f");
	/* without a snapshot the row itself goes */
	apply_from(padded(SHAPE(ID_NAME) "d\t0/60\t0\t3\t\\N\n", pads[_i]), START);
	ck_assert_str_eq(ask("SELECT count(*) FROM store.\"~__e\" WHERE id = 3"), "0");
}
END_TEST

START_TEST(test_delete_and_insert_in_one_batch)
{
	apply(padded(SHAPE(ID_NAME) "i\t0/10\t0\t1\ta\ni\t0/10\t1\t2\tb\n", pads[_i]));
	apply(padded(SHAPE(ID_NAME)
		"d\t0/20\t0\t1\t\\N\ni\t0/20\t1\t1\ta2\n"
		"u\t0/20\t2\t2\tb2\nd\t0/20\t3\t2\t\\N\n"
		"i\t0/20\t4\t3\tc\nd\t0/20\t5\t3\t\\N\n", pads[_i]));
	ck_assert_str_eq(ask(OWN_ROWS), "1=a2");
	ck_assert_uint_eq(stats.refused, 0);
}
END_TEST

START_TEST(test_sweep)
{
	apply(padded(SHAPE(ID_NAME) "i\t0/10\t0\t1\ta\ni\t0/10\t1\t2\tb\ni\t0/10\t2\t3\tc\n", pads[0]));
	snapshot_begins();
	apply(padded(SHAPE(ID_NAME) "s\t0/30\t0\t1\ta\n", pads[0]));
	apply(padded(SHAPE(ID_NAME) "i\t0/40\t0\t4\td\n", pads[0])); /* after the snapshot's point: not named by it, stays */
	ck_assert_uint_eq(snapshot_ends(1, 0x30), 2);
	ck_assert_str_eq(ask(ROWS), "1=a 4=d");
	/* changes from before the snapshot that come after its end: what became of their rows is in it, even where no other change tells */
	apply(padded(SHAPE(ID_NAME) "i\t0/20\t0\t9\tlate\nu\t0/20\t1\t1\told\n", pads[0]));
	ck_assert_str_eq(ask(ROWS), "1=a 4=d");
	/* a new life of the source: everything that is not named again goes, also what had a higher position */
	snapshot_begins();
	apply(SHAPE_INC("2", ID_NAME) "s\t0/8\t0\t4\td2\n");
	ck_assert_uint_eq(snapshot_ends(2, 0x8), 1);
	ck_assert_str_eq(ask(ROWS), "4=d2");
	/* a type of which nothing is known yet */
	struct sb_error err = SB_ERROR_INIT;
	uint64_t swept = 7;
	ck_assert_int_eq(sb_pg_begin(pg, &err), SB_OK);
	ck_assert_int_eq(sb_entity_snapshot_begun(tables, "never_seen", &err), SB_OK);
	ck_assert_int_eq(sb_entity_snapshot_ended(tables, "never_seen", 1, 5, &swept, &err), SB_OK);
	ck_assert_int_eq(sb_pg_commit(pg, &err), SB_OK);
	ck_assert_uint_eq(swept, 0);
}
END_TEST

/* ---- changes that are not whole rows ---- */

#define BIG "SELECT string_agg(id || ':' || coalesce(name, '-') || ':' || coalesce(big, '-'), ' ' ORDER BY id) FROM ~.e WHERE id < 100000"

START_TEST(test_toast_merge)
{
	apply(padded(SHAPE(ID_NAME_BIG) "i\t0/10\t0\t1\ta\tLARGE\nu\t0/20\t0\t1\tb\t\\U\n", pads[_i]));
	check_stats(2 + (unsigned)pads[_i], 0, 0);
	ck_assert_str_eq(ask(BIG), "1:b:LARGE");
	apply(padded(SHAPE(ID_NAME_BIG) "u\t0/18\t0\t1\tstale\t\\U\n", pads[_i]));
	ck_assert_str_eq(ask(BIG), "1:b:LARGE");
	ck_assert_uint_ge(stats.stale, 1);
	ck_assert_str_eq(ask("SELECT partial FROM store.entity_type WHERE scope = '~'"), "f");
}
END_TEST

START_TEST(test_toast_before_snapshot_row)
{
	snapshot_begins();
	/* row 1 changes twice before the snapshot brings it; row 2 gets its value by itself */
	apply(padded(SHAPE(ID_NAME_BIG) "u\t0/40\t0\t1\tb\t\\U\nu\t0/41\t0\t1\tc\t\\U\n"
		"u\t0/42\t0\t2\tx\t\\U\nu\t0/43\t0\t2\ty\tOWN\n", pads[_i]));
	ck_assert_str_eq(ask(BIG), "1:c:- 2:y:OWN");
	ck_assert_str_eq(ask("SELECT partial FROM store.entity_type WHERE scope = '~'"), "t");
	apply(padded(SHAPE(ID_NAME_BIG) "s\t0/30\t0\t1\ta\tLARGE\ns\t0/30\t0\t2\tw\tOLD\n", pads[_i]));
	ck_assert_str_eq(ask(BIG), "1:c:LARGE 2:y:OWN");
	ck_assert_uint_eq(snapshot_ends(1, 0x30), 0);
	ck_assert_str_eq(ask("SELECT partial FROM store.entity_type WHERE scope = '~'"), "f");
	ck_assert_str_eq(ask(BIG), "1:c:LARGE 2:y:OWN");
}
END_TEST

START_TEST(test_key_change)
{
	apply(padded(SHAPE(ID_NAME_BIG) "i\t0/10\t0\t1\ta\tLARGE\n"
		"k\t0/20\t0\t2\tb\t\\U\t1\nu\t0/20\t1\t2\tc\t\\U\n", pads[_i]));
	check_stats(3 + (unsigned)pads[_i], 0, 0);
	ck_assert_str_eq(ask(BIG), "2:c:LARGE");
	/* onto a key that was in use and freed in the same transaction: 3 -> 4 after 4 -> 5 */
	apply(padded(SHAPE(ID_NAME_BIG) "i\t0/30\t0\t3\tthree\tL3\ni\t0/30\t1\t4\tfour\tL4\n"
		"k\t0/31\t0\t5\tfour\t\\U\t4\nk\t0/31\t1\t4\tthree\t\\U\t3\n", pads[_i]));
	ck_assert_str_eq(ask(BIG), "2:c:LARGE 4:three:L3 5:four:L4");
	/* a swap through a free key */
	apply(padded(SHAPE(ID_NAME_BIG) "k\t0/40\t0\t9\tthree\t\\U\t4\nk\t0/40\t1\t4\tfour\t\\U\t5\n"
		"k\t0/40\t2\t5\tthree\t\\U\t9\n", pads[_i]));
	ck_assert_str_eq(ask(BIG), "2:c:LARGE 4:four:L4 5:three:L3");
}
END_TEST

START_TEST(test_key_change_before_snapshot_row)
{
	snapshot_begins();
	apply(padded(SHAPE(ID_NAME_BIG) "k\t0/40\t0\t2\tb\t\\U\t1\nk\t0/41\t0\t3\tc\t\\U\t2\n", pads[_i]));
	ck_assert_str_eq(ask(BIG), "3:c:-");
	apply(padded(SHAPE(ID_NAME_BIG) "s\t0/30\t0\t1\ta\tLARGE\n", pads[_i]));
	ck_assert_str_eq(ask(BIG), "3:c:LARGE");
	ck_assert_uint_eq(snapshot_ends(1, 0x30), 0);
	ck_assert_str_eq(ask(BIG), "3:c:LARGE");
	ck_assert_str_eq(ask("SELECT count(*) FROM store.\"~__e\" WHERE id < 100000"), "1");
}
END_TEST

START_TEST(test_truncate)
{
	apply(padded(SHAPE(ID_NAME) "i\t0/10\t0\t1\ta\nt\t0/20\t0\ni\t0/20\t1\t2\tb\n", pads[_i]));
	ck_assert_str_eq(ask(OWN_ROWS), "2=b");
	/* during a snapshot rows that were read before the truncate may come after it */
	snapshot_begins();
	apply(padded(SHAPE(ID_NAME) "t\t0/40\t0\ni\t0/41\t0\t3\tc\n", pads[_i]));
	apply(padded(SHAPE(ID_NAME) "s\t0/30\t0\t1\tghost\ns\t0/30\t0\t7\tghost\n", 0));
	check_stats(0, 2, 0);
	ck_assert_str_eq(ask(OWN_ROWS), "3=c");
	apply(padded(SHAPE(ID_NAME) "t\t0/20\t0\n", 0)); /* again, late */
	check_stats(0, 1, 0);
	ck_assert_str_eq(ask(OWN_ROWS), "3=c");
}
END_TEST

/* ---- data ---- */

START_TEST(test_poison_rows)
{
	char batch[32768];
	size_t n = (size_t)snprintf(batch, sizeof(batch), "%s", SHAPE("[\"id\",\"integer\",true],[\"n\",\"integer\",false],[\"d\",\"date\",false]"));

	for (int i = 0; i < 300; i++)
		n += (size_t)snprintf(batch + n, sizeof(batch) - n, "i\t0/10\t%d\t%d\t%s\t2026-01-01\n", i, i,
			i == 0 || i == 123 || i == 124 || i == 299 ? "not a number" : "5");
	apply(batch);
	check_stats(296, 0, 4);
	ck_assert_str_eq(refused_keys, "0,123,124,299,");
	ck_assert_str_eq(ask("SELECT count(*) FROM ~.e"), "296");
	/* alone, and as an update without a value; the message tells the kind, not the content */
	apply(SHAPE("[\"id\",\"integer\",true],[\"n\",\"integer\",false],[\"d\",\"date\",false]")
		"u\t0/20\t0\t5\t\\U\tno date\nu\t0/20\t1\t6\t99999999999\t\\N\nu\t0/20\t2\t7\t7\t\\N\n");
	check_stats(1, 0, 2);
	ck_assert_str_eq(refused_keys, "5,6,");
}
END_TEST

static int stop_at_once(void *user, const struct sb_shape *shape, const struct sb_change *c, const struct sb_error *why)
{
	(void)shape;
	(void)c;
	(void)snprintf(user, sizeof(why->msg), "%s", why->msg);
	return SB_EREFUSED;
}

START_TEST(test_refused_can_stop)
{
	struct sb_error err = SB_ERROR_INIT;
	char msg[sizeof(err.msg)] = "";
	const char *batch = SHAPE("[\"id\",\"integer\",true]") "i\t0/10\t0\tJean Martin\n";

	ck_assert_int_eq(sb_pg_begin(pg, &err), SB_OK);
	ck_assert_int_eq(sb_entity_apply(tables, batch, strlen(batch), START, stop_at_once, msg, NULL, &err), SB_EDATA);
	sb_pg_rollback(pg);
	ck_assert_ptr_null(strstr(msg, "Martin"));
	ck_assert_ptr_nonnull(strstr(msg, "invalid input syntax for type integer"));
}
END_TEST

START_TEST(test_values)
{
	const char *batch = padded(SHAPE(ID_NAME)
		"i\t0/10\t0\t1\t\\N\ni\t0/10\t1\t2\t\ni\t0/10\t2\t3\t\\\\N\n"
		"i\t0/10\t3\t4\ta\\tb\\nc\\\\d\\re\\b\\f\\v\001\ni\t0/10\t4\t5\t\\\\.\n"
		"i\t0/10\t5\t6\th\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 'q' \"dq\"\n", pads[_i]);

	apply(batch);
	check_stats(6 + (unsigned)pads[_i], 0, 0);
	ck_assert_str_eq(ask("SELECT name IS NULL FROM ~.e WHERE id = 1"), "t");
	ck_assert_str_eq(ask("SELECT name = '' FROM ~.e WHERE id = 2"), "t");
	ck_assert_str_eq(ask("SELECT name FROM ~.e WHERE id = 3"), "\\N");
	ck_assert_str_eq(ask("SELECT name FROM ~.e WHERE id = 4"), "a\tb\nc\\d\re\b\f\v\001");
	ck_assert_str_eq(ask("SELECT name FROM ~.e WHERE id = 5"), "\\.");
	ck_assert_str_eq(ask("SELECT name FROM ~.e WHERE id = 6"), "h\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 'q' \"dq\"");
}
END_TEST

START_TEST(test_types)
{
	apply(SHAPE("[\"id\",\"numeric(10,2)\",true],[\"a\",\"timestamp(3) with time zone\",false],[\"b\",\"integer[]\",false],[\"c\",\"mood\",false],"
		"[\"d\",\"public.geometry(Point,4326)\",false],[\"e\",\"bpchar\",false],[\"f\",\"character varying(5)\",false],[\"g\",\"regclass\",false],"
		"[\"h\",\"interval day to second(3)\",false],[\"i\",\"\",false],[\"j\",\"money\",false],[\"k\",\"text); DROP SCHEMA store CASCADE; --\",false],"
		"[\"l\",\"\\\"char\\\"\",false],[\"m\",\"numeric(5,2)[]\",false],[\"n\",\"int4range\",false],[\"o\",\"integer(3); SELECT (4)\",false]")
		"i\t0/10\t0\t1.50\t2026-03-02 09:15:01.234+00\t{1,NULL,3}\thappy\t0101\tfour\tabcde\tpg_class\t"
		"P1DT2H\t{\"k\": [1, 2]}\t$1.00\tx\tc\t{1.25}\t[1,5)\ty\n");
	check_stats(1, 0, 0);
	ck_assert_str_eq(ask("SELECT string_agg(format_type(atttypid, atttypmod), '|' ORDER BY attnum) FROM pg_attribute WHERE attrelid = '~.e'::regclass"),
		"numeric(10,2)|timestamp(3) with time zone|integer[]|text|text|bpchar|character varying(5)|text|interval|jsonb|text|text|\"char\"|"
		"numeric(5,2)[]|int4range|text");
	ck_assert_str_eq(ask("SELECT i->'k'->>1 FROM ~.e"), "2");
}
END_TEST

START_TEST(test_names)
{
	/* multi-byte, quotes, reserved words, and every name that ours could collide with */
	apply(padded(SHAPE("[\"id\",\"integer\",true],[\"name\",\"text\",false],[\"pr\xc3\xa9nom \xe6\xbc\xa2\xe5\xad\x97\",\"text\",false],"
		"[\"a\\\"b\",\"text\",false],[\"select\",\"text\",false],[\"_lsn\",\"text\",false],[\"_sb_inc\",\"text\",false],[\"UPPER\",\"text\",false]")
		"i\t0/10\t0\t1\tn\tp\tq\ts\tl\ti\tU\nu\t0/11\t0\t1\tn\tp2\t\\U\ts2\tl2\ti\tU\n", pads[_i]));
	ck_assert_str_eq(ask("SELECT \"pr\xc3\xa9nom \xe6\xbc\xa2\xe5\xad\x97\" || \"a\"\"b\" || \"select\" || _lsn || _sb_inc || \"UPPER\" FROM ~.e WHERE id = 1"),
		"p2qs2l2iU");
	ck_assert_str_eq(ask("SELECT _sb1_lsn FROM store.\"~__e\" WHERE id = 1"), "17");
}
END_TEST

START_TEST(test_long_type_names)
{
	struct sb_error err = SB_ERROR_INIT;
	char batch[1024];
	static const char last[] = { 'a', 'b' };

	/* two types whose store names agree in the first 63 bytes */
	for (size_t i = 0; i < SB_COUNT(last); i++) {
		(void)snprintf(batch, sizeof(batch), "{\"type\":\"%.62s%c\",\"incarnation\":1,\"columns\":[[\"id\",\"integer\",true]]}\ni\t0/10\t0\t%zu\n",
			"tttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt", last[i], i);
		if (apply_text(batch, START, &err) != SB_OK)
			fail_with(&err);
	}
	ck_assert_str_eq(ask("SELECT count(DISTINCT table_name) FROM store.entity_type WHERE scope = '~'"), "2");
	ck_assert_str_eq(ask("SELECT id FROM ~.ttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttb"), "1");
}
END_TEST

START_TEST(test_composite_key_only_columns)
{
	/* nothing but key columns, of types that compare equal in several spellings */
	const char *shape = SHAPE("[\"a\",\"numeric\",true],[\"b\",\"text\",true]");
	char batch[4096];

	(void)snprintf(batch, sizeof(batch), "%si\t0/10\t0\t1.0\tx\nk\t0/20\t0\t1.00\tx\t1.0\tx\n", shape);
	apply(batch);
	ck_assert_str_eq(ask("SELECT string_agg(a || b, ',') FROM ~.e"), "1.00x");
	(void)snprintf(batch, sizeof(batch), "%si\t0/30\t0\t2.0\tx\ni\t0/30\t1\t2.00\tx\ni\t0/30\t2\t3\tx\n"
		"i\t0/30\t3\t4\tx\nd\t0/31\t0\t4.00\tx\ni\t0/31\t1\t6\tx\n", shape);
	apply(batch);
	ck_assert_str_eq(ask("SELECT string_agg(a || b, ',' ORDER BY a) FROM ~.e"), "1.00x,2.00x,3x,6x");
}
END_TEST

/* ---- shapes ---- */

#define VIEW_COLUMNS "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = '~.e'::regclass"

START_TEST(test_add_and_drop_columns)
{
	apply(SHAPE(ID_NAME) "i\t0/10\t0\t1\ta\n");
	apply(padded(SHAPE(ID_NAME ",[\"score\",\"double precision\",false]") "i\t0/20\t0\t2\tb\t0.5\n", pads[_i]));
	ck_assert_str_eq(ask(VIEW_COLUMNS), "id integer, name text, score double precision");
	/* in another place: the view follows the source's order */
	apply(SHAPE("[\"id\",\"integer\",true],[\"kind\",\"text\",false],[\"score\",\"double precision\",false]") "i\t0/30\t0\t3\tk\t1\n");
	ck_assert_str_eq(ask(VIEW_COLUMNS), "id integer, kind text, score double precision");
	ck_assert_str_eq(ask("SELECT string_agg(coalesce(name, '-'), ',' ORDER BY id) FROM store.\"~__e\" WHERE id < 100000"), "a,b,-"); /* kept, not shown */
	/* a column of the dropped one's name is another column */
	apply(SHAPE("[\"id\",\"integer\",true],[\"name\",\"integer\",false]") "i\t0/40\t0\t4\t44\n");
	ck_assert_str_eq(ask(VIEW_COLUMNS), "id integer, name integer");
	ck_assert_str_eq(ask("SELECT string_agg(coalesce(name::text, '-'), ',' ORDER BY id) FROM ~.e WHERE id < 100000"), "-,-,-,44");
}
END_TEST

START_TEST(test_old_shape_again)
{
	/* a kill makes the agent read old changes again, with the shape they had: neither they nor snapshot rows from before change the table */
	apply(SHAPE(ID_NAME) "i\t0/10\t0\t1\ta\n");
	apply(SHAPE(ID_NAME ",[\"x\",\"text\",false]") "i\t0/20\t0\t2\tb\tX\n");
	apply_from(SHAPE(ID_NAME) "i\t0/10\t0\t1\ta\n", (struct sb_position){ 0x21, 0 });
	check_stats(0, 1, 0);
	apply_from(padded(SHAPE(ID_NAME) "s\t0/15\t0\t1\ta15\ns\t0/15\t0\t3\tc\n", 0), (struct sb_position){ 0x21, 0 });
	ck_assert_str_eq(ask("SELECT string_agg(id || coalesce(name, '-') || coalesce(x, '-'), ',' ORDER BY id) FROM ~.e"), "1a15-,2bX,3c-");
	apply_from(SHAPE(ID_NAME) "s\t0/15\t0\t4\tc\ns\t0/15\t0\t5\tc\ns\t0/15\t0\t6\tc\ns\t0/15\t0\t7\tc\n"
		"s\t0/15\t0\t2\told\n", (struct sb_position){ 0x21, 0 });
	check_stats(4, 1, 0);
	ck_assert_str_eq(ask(VIEW_COLUMNS), "id integer, name text, x text");
}
END_TEST

START_TEST(test_change_type)
{
	apply(SHAPE(ID_NAME) "i\t0/10\t0\t1\t41\ni\t0/10\t1\t2\t\\N\n");
	/* prepared statements of the old type must not outlive it */
	for (int i = 0; i < 5; i++) {
		char batch[512];
		(void)snprintf(batch, sizeof(batch), "%su\t0/11\t%d\t1\t%d\n", SHAPE(ID_NAME), i, i);
		apply(batch);
	}
	apply(SHAPE("[\"id\",\"integer\",true],[\"name\",\"integer\",false]") "u\t0/20\t0\t2\t7\n");
	ck_assert_str_eq(ask(VIEW_COLUMNS), "id integer, name integer");
	ck_assert_str_eq(ask(ROWS), "1=4 2=7");
	for (int i = 0; i < 5; i++) {
		char batch[512];
		(void)snprintf(batch, sizeof(batch), "%su\t0/21\t%d\t1\t%d\n", SHAPE("[\"id\",\"integer\",true],[\"name\",\"integer\",false]"), i, i);
		apply(batch);
	}
	apply(SHAPE("[\"id\",\"bigint\",true],[\"name\",\"bigint\",false]") "u\t0/30\t0\t99999999999\t99999999999\n");
	check_stats(1, 0, 0);
	ck_assert_str_eq(ask(ROWS), "1=4 2=7 99999999999=99999999999");
	/* no cast: the old values stay readable as text, new ones are taken as they come */
	apply(SHAPE("[\"id\",\"bigint\",true],[\"name\",\"date\",false]") "u\t0/40\t0\t2\t2026-01-01\n");
	ck_assert_str_eq(ask(VIEW_COLUMNS), "id bigint, name text");
	ck_assert_str_eq(ask(ROWS), "1=4 2=2026-01-01 99999999999=99999999999");
}
END_TEST

START_TEST(test_change_key)
{
	apply(SHAPE(ID_NAME) "i\t0/10\t0\t1\ta\ni\t0/10\t1\t2\tb\n");
	/* the rows satisfy the new key: they stay */
	apply(padded(SHAPE("[\"id\",\"integer\",false],[\"name\",\"text\",true]") "u\t0/20\t0\t3\ta\n", 0));
	ck_assert_str_eq(ask("SELECT string_agg(name || coalesce(id::text, '-'), ',' ORDER BY name) FROM ~.e"), "a3,b2");
	apply(SHAPE("[\"id\",\"integer\",false],[\"name\",\"text\",true]") "u\t0/21\t0\t\\N\tb\nu\t0/22\t0\t\\N\tc\n");
	check_stats(2, 0, 0);
	/* they do not: the resync that follows a change of the key brings them again */
	apply(SHAPE(ID_NAME) "s\t0/30\t0\t8\th\n");
	ck_assert_str_eq(ask(ROWS), "8=h");
}
END_TEST

START_TEST(test_view_with_dependents)
{
	struct sb_error err = SB_ERROR_INIT;
	char sql[256];

	apply(SHAPE(ID_NAME) "i\t0/10\t0\t1\t41\n");
	(void)snprintf(sql, sizeof(sql), "CREATE VIEW t%d.theirs AS SELECT name FROM t%d.e", (int)getpid(), (int)getpid());
	ck_assert_int_eq(sb_pg_script(pg, sql, &err), SB_OK);
	apply(SHAPE("[\"id\",\"integer\",true],[\"name\",\"integer\",false]") "u\t0/20\t0\t2\t7\n");
	check_stats(1, 0, 0);
	ck_assert_str_eq(ask(ROWS), "1=41 2=7");
	ck_assert_str_eq(ask("SELECT count(*) FROM ~.theirs"), "2");
}
END_TEST

START_TEST(test_impossible_shape)
{
	struct sb_error err = SB_ERROR_INIT;

	apply(SHAPE(ID_NAME) "i\t0/10\t0\t1\ta\n");
	/* ctid is PostgreSQL's own: a folder of JSON files may have such a field. The transaction goes on, so that it can be quarantined */
	const char *batch = SHAPE(ID_NAME ",[\"ctid\",\"text\",false]") "i\t0/20\t0\t2\tb\tx\n";
	ck_assert_int_eq(sb_pg_begin(pg, &err), SB_OK);
	ck_assert_int_eq(sb_entity_apply(tables, batch, strlen(batch), START, on_refused, NULL, &stats, &err), SB_EDATA);
	ck_assert_int_eq(sb_pg_exec(pg, "SELECT 1", 0, NULL, NULL, &err), SB_OK);
	ck_assert_int_eq(sb_pg_commit(pg, &err), SB_OK);
	apply(SHAPE(ID_NAME) "i\t0/30\t0\t2\tb\n");
	ck_assert_str_eq(ask(ROWS), "1=a 2=b");
}
END_TEST

/* ---- transactions ---- */

START_TEST(test_rollback)
{
	struct sb_error err = SB_ERROR_INIT;
	const char *first = padded(SHAPE(ID_NAME) "i\t0/10\t0\t1\ta\n", 20);

	/* table, view, staging table and cache of a rolled-back transaction are gone, and made again */
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(sb_pg_begin(pg, &err), SB_OK);
		ck_assert_int_eq(sb_entity_apply(tables, first, strlen(first), START, on_refused, NULL, &stats, &err), SB_OK);
		sb_pg_rollback(pg);
	}
	ck_assert_str_eq(ask("SELECT count(*) FROM store.entity_type WHERE scope = '~'"), "0");
	apply(first);
	check_stats(21, 0, 0);
	/* a shape change that is rolled back */
	const char *second = SHAPE(ID_NAME ",[\"x\",\"text\",false]") "i\t0/20\t0\t2\tb\tX\n";
	ck_assert_int_eq(sb_pg_begin(pg, &err), SB_OK);
	ck_assert_int_eq(sb_entity_apply(tables, second, strlen(second), START, on_refused, NULL, &stats, &err), SB_OK);
	sb_pg_rollback(pg);
	ck_assert_str_eq(ask(VIEW_COLUMNS), "id integer, name text");
	apply(SHAPE(ID_NAME) "i\t0/20\t0\t2\tb\n");
	/* outside a transaction nothing is done */
	ck_assert_int_eq(sb_entity_apply(tables, first, strlen(first), START, on_refused, NULL, &stats, &err), SB_ESTATE);
	ck_assert_str_eq(ask(OWN_ROWS), "1=a 2=b");
}
END_TEST

START_TEST(test_several_batches_in_one_transaction)
{
	struct sb_error err = SB_ERROR_INIT;

	ck_assert_int_eq(sb_pg_begin(pg, &err), SB_OK);
	for (int i = 0; i < 10; i++) {
		char batch[8192];
		size_t n = (size_t)snprintf(batch, sizeof(batch), "%s", SHAPE(ID_NAME));
		for (int k = 0; k < 30; k++)
			n += (size_t)snprintf(batch + n, sizeof(batch) - n, "u\t0/%X\t%d\t%d\tv%d\n", (unsigned)(16 + i), k, k, i);
		ck_assert_int_eq(sb_entity_apply(tables, batch, n, START, on_refused, NULL, &stats, &err), SB_OK);
		check_stats(30, 0, 0);
	}
	ck_assert_int_eq(sb_pg_commit(pg, &err), SB_OK);
	ck_assert_str_eq(ask("SELECT count(*) || min(name) || max(name) FROM ~.e"), "30v9v9");
}
END_TEST

START_TEST(test_ensure)
{
	struct sb_error err = SB_ERROR_INIT;
	char id[] = "id", type[] = "uuid", name[] = "name", text[] = "text";
	struct sb_column column[] = { { id, type, true }, { name, text, false } };
	struct sb_shape shape = { .type = "made", .incarnation = 1, .column = column, .n_columns = 2 };

	ck_assert_int_eq(sb_entity_ensure(tables, &shape, &err), SB_ESTATE);
	ck_assert_int_eq(sb_pg_begin(pg, &err), SB_OK);
	ck_assert_int_eq(sb_entity_ensure(tables, &shape, &err), SB_OK);
	ck_assert_int_eq(sb_entity_ensure(tables, &shape, &err), SB_OK);
	ck_assert_int_eq(sb_pg_commit(pg, &err), SB_OK);
	ck_assert_str_eq(ask("SELECT count(*) FROM ~.made"), "0");
	ck_assert_str_eq(ask("SELECT shape->>'type' FROM store.entity_type WHERE scope = '~'"), "made");
}
END_TEST

START_TEST(test_batch_without_changes)
{
	apply(SHAPE(ID_NAME)); /* an empty table: people see its columns */
	ck_assert_str_eq(ask("SELECT count(*) FROM ~.e"), "0");
	ck_assert_str_eq(ask("SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = '~.e'::regclass AND attnum > 0"), "id name");
	apply(SHAPE(ID_NAME_BIG) "i\t0/10\t1\t1\ta\tb\n");
	ck_assert_str_eq(ask("SELECT id || name || big FROM ~.e"), "1ab");
	apply(SHAPE(ID_NAME)); /* says nothing new of a table that is there */
	ck_assert_str_eq(ask("SELECT id || name || big FROM ~.e"), "1ab");
}
END_TEST

/* ---- figures ---- */

#define BENCH_ROWS 1400
#define BENCH_ROUNDS 20

static size_t bench_batch(char *out, size_t size, int round, bool update)
{
	size_t n = (size_t)snprintf(out, size, "%s", SHAPE("[\"id\",\"integer\",true],[\"first\",\"text\",false],[\"last\",\"text\",false],[\"mail\",\"text\",false],"
		"[\"phone\",\"text\",false],[\"born\",\"date\",false],[\"city\",\"text\",false],[\"zip\",\"text\",false],[\"salary\",\"numeric(10,2)\",false],"
		"[\"note\",\"text\",false],[\"seen\",\"timestamp with time zone\",false]"));

	for (int i = 0; i < BENCH_ROWS; i++)
		n += (size_t)snprintf(out + n, size - n, "%s\t0/%X\t%d\t%d\tMarie\tDubois\tmarie.dubois%d@example7.com\t01 22 33 44 55\t1980-02-03\t"
			"Toulouse\t31000\t4200.50\t%s the customer asked about a refund of the invoice order number shipping address delivery date thanks regards"
			" bonjour merci le client a contacte le service pour une demande de remboursement concernant sa facture et son contrat%s\t"
			"2026-03-02 09:15:01.234567+00\n", update ? "u" : "i", (unsigned)(0x1000 + round * 16 + (update ? 0x100000 : 0)), i, round * BENCH_ROWS + i, i,
			update ? "again" : "first", " pour la suite");
	return n;
}

START_TEST(test_speed)
{
	char *batch = malloc(SB_VALUE_MAX);
	struct sb_error err = SB_ERROR_INIT;

	for (int pass = 0; pass < 3; pass++) {
		int64_t us = 0;
		size_t n = 0;
		for (int round = 0; round < BENCH_ROUNDS; round++) {
			n = bench_batch(batch, SB_VALUE_MAX, round, pass > 0);
			ck_assert_int_eq(sb_pg_begin(pg, &err), SB_OK);
			int64_t from = sb_mono_us();
			if (sb_entity_apply(tables, batch, n, START, on_refused, NULL, &stats, &err) != SB_OK)
				fail_with(&err);
			ck_assert_int_eq(sb_pg_commit(pg, &err), SB_OK);
			us += sb_mono_us() - from;
			ck_assert_uint_eq(pass == 2 ? stats.stale : stats.applied, BENCH_ROWS);
		}
		(void)printf("%s: %.0f rows/s, batches of %d rows and %zu bytes\n", pass == 0 ? "insert" : pass == 1 ? "update" : "replay",
			1e6 * BENCH_ROWS * BENCH_ROUNDS / (double)us, BENCH_ROWS, n);
	}
	int64_t from = sb_mono_us();
	for (int i = 0; i < 500; i++) {
		char one[512];
		(void)snprintf(one, sizeof(one), "{\"type\":\"one\",\"incarnation\":1,\"columns\":[" ID_NAME "]}\nu\t0/10\t%d\t%d\tx\n", i, i);
		ck_assert_int_eq(sb_pg_begin(pg, &err), SB_OK);
		ck_assert_int_eq(sb_entity_apply(tables, one, strlen(one), START, on_refused, NULL, &stats, &err), SB_OK);
		ck_assert_int_eq(sb_pg_commit(pg, &err), SB_OK);
	}
	(void)printf("single row with its transaction: %.0f us\n", (double)(sb_mono_us() - from) / 500);
	free(batch);
}
END_TEST

/* A source that renames its columns again and again fills the store's table, in which none is ever dropped: that is one type's trouble. */
START_TEST(test_too_many_columns_over_time)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_buf batch;
	int rc = SB_OK;

	sb_buf_init(&batch, (size_t)1024 * 1024);
	for (unsigned round = 0; round < 2; round++) {
		sb_buf_reset(&batch);
		sb_buf_addf(&batch, "{\"type\":\"e\",\"incarnation\":%u,\"columns\":[[\"id\",\"integer\",true]", round + 1);
		for (unsigned i = 0; i < 1000; i++)
			sb_buf_addf(&batch, ",[\"c%u_%u\",\"smallint\",false]", round, i);
		sb_buf_addf(&batch, "]}\ni\t0/10\t%u\t1", round);
		for (unsigned i = 0; i < 1000; i++)
			sb_buf_adds(&batch, "\t2");
		sb_buf_addc(&batch, '\n');
		rc = apply_text(batch.data, START, &err);
		ck_assert_int_eq(rc, round == 0 ? SB_OK : SB_EDATA);
	}
	ck_assert_ptr_nonnull(strstr(err.msg, "columns"));
	sb_buf_release(&batch);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("entity_table");
	TCase *tc = tcase_create("entity_table");
	int n = (int)SB_COUNT(pads);

	conninfo = pg_fixture_start();
	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_loop_test(tc, test_replay_is_no_op, 0, n);
	tcase_add_loop_test(tc, test_replay_by_version, 0, n);
	tcase_add_loop_test(tc, test_out_of_order, 0, n);
	tcase_add_loop_test(tc, test_delete_then_older_snapshot_row, 0, n);
	tcase_add_loop_test(tc, test_delete_and_insert_in_one_batch, 0, n);
	tcase_add_test(tc, test_sweep);
	tcase_add_loop_test(tc, test_toast_merge, 0, n);
	tcase_add_loop_test(tc, test_toast_before_snapshot_row, 0, n);
	tcase_add_loop_test(tc, test_key_change, 0, n);
	tcase_add_loop_test(tc, test_key_change_before_snapshot_row, 0, n);
	tcase_add_loop_test(tc, test_truncate, 0, n);
	tcase_add_test(tc, test_poison_rows);
	tcase_add_test(tc, test_refused_can_stop);
	tcase_add_loop_test(tc, test_values, 0, n);
	tcase_add_test(tc, test_types);
	tcase_add_loop_test(tc, test_names, 0, n);
	tcase_add_test(tc, test_long_type_names);
	tcase_add_test(tc, test_composite_key_only_columns);
	tcase_add_loop_test(tc, test_add_and_drop_columns, 0, n);
	tcase_add_test(tc, test_old_shape_again);
	tcase_add_test(tc, test_change_type);
	tcase_add_test(tc, test_change_key);
	tcase_add_test(tc, test_view_with_dependents);
	tcase_add_test(tc, test_impossible_shape);
	tcase_add_test(tc, test_too_many_columns_over_time);
	tcase_add_test(tc, test_rollback);
	tcase_add_test(tc, test_several_batches_in_one_transaction);
	tcase_add_test(tc, test_ensure);
	tcase_add_test(tc, test_batch_without_changes);
	tcase_add_test(tc, test_speed);
	suite_add_tcase(s, tc);
	return test_run(s);
}
