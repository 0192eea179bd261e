/* Every type of column, every kind of name and the other encodings, from a source's table through the agent and a broker into tables as hub and replica
 * have them: by snapshot, by stream, changed and unchanged, and as keys. Equal means equal text of whole rows, and the same declared types. */
#include "landing.h"
#include "source_pg_rig.h"
#include "stagebridge/file.h"

#define TYPES_TABLE "tests/support/column_types.tsv"
#define TYPES_OBJECTS "tests/support/column_types.sql"

struct type_case {
	char *type, *values;
	bool same; /* the view's type is the source's */
};

static struct type_case cases[RIG_TABLES];
static size_t n_cases;

static char *file_text(const char *path)
{
	struct sb_error err = SB_ERROR_INIT;
	char *text;
	size_t n;

	fix_ok(sb_file_read(path, 1u << 20, &text, &n, &err), err);
	return text;
}

/* Cuts the text of TYPES_TABLE into the cases, which point into it. */
static void read_cases(char *text)
{
	char *rest, *line = strtok_r(text, "\n", &rest);

	for (n_cases = 0; line; line = strtok_r(NULL, "\n", &rest)) {
		char *same, *values;
		if (*line == '#')
			continue;
		ck_assert(n_cases < SB_COUNT(cases) && (same = strchr(line, '\t')) && (values = strchr(same + 1, '\t')));
		*same = *values = '\0';
		cases[n_cases++] = (struct type_case){ .type = line, .values = values + 1, .same = strcmp(same + 1, "same") == 0 };
	}
	ck_assert(n_cases > 70);
}

static void tell(const char *what, char *there, char *here)
{
	size_t i = 0;

	while (there[i] && there[i] == here[i])
		i++;
	size_t from = i > 60 ? i - 60 : 0;
	ck_abort_msg("%s: source ...%.200s, view ...%.200s", what, there + from, here + from);
}

/* Waits until table and view hold the same rows. */
static void same_rows(struct rig *g, struct landing *l, const char *table, const char *type)
{
	char query[512], there_query[512];
	char *there = NULL, *here = NULL;
	int64_t until = sb_mono_ms() + 30000;

	(void)snprintf(there_query, sizeof(there_query), "SELECT count(*) || E':\\n' || string_agg(t::text, E'\\n' ORDER BY t::text COLLATE \"C\") FROM %s t", table);
	(void)snprintf(query, sizeof(query), "SELECT count(*) || E':\\n' || string_agg(t::text, E'\\n' ORDER BY t::text COLLATE \"C\") FROM dev.%s t", type);
	for (;;) {
		there = ask(g, there_query);
		here = landing_ask(l->pg, query);
		if (strcmp(there, here) == 0)
			break;
		if (sb_mono_ms() > until)
			tell(type, there, here);
		free(there);
		free(here);
		(void)landing_pull(l, g->fix.keys.keyring, g->consumer); /* looked at above */
	}
	free(there);
	free(here);
}

static void landed(struct rig *g, struct landing *l)
{
	int64_t until = sb_mono_ms() + 60000;

	while (l->ended < g->source.tables.count) {
		ck_assert_msg(sb_mono_ms() < until, "%u of %zu snapshots ended", l->ended, g->source.tables.count);
		(void)landing_pull(l, g->fix.keys.keyring, g->consumer); /* looked at above */
	}
}

#define TYPES_SQL "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) FROM pg_attribute" \
	" WHERE attrelid = '%s'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''"

static void same_types(struct rig *g, struct landing *l, const char *table, const char *type)
{
	char query[1024], view[128];

	(void)snprintf(view, sizeof(view), "dev.%s", type);
	(void)snprintf(query, sizeof(query), TYPES_SQL, table);
	char *there = ask(g, query);
	(void)snprintf(query, sizeof(query), TYPES_SQL, view);
	char *here = landing_ask(l->pg, query);
	ck_assert_str_eq(there, here);
	free(there);
	free(here);
}

static void make_types(struct rig *g)
{
	sb_cleanup(sb_freep) char *objects = file_text(TYPES_OBJECTS);

	sql(g, objects);
}

static void table_name(char out[32], const char *prefix, size_t i)
{
	(void)snprintf(out, 32, "%s_%zu", prefix, i); /* fits */
}

static void run(struct rig *g, const char *before, size_t i, const char *after)
{
	sb_cleanup(sb_freep) char *text = sb_asprintf("%s_%zu %s", before, i, after);

	sql(g, text);
}

static void insert(struct rig *g, const char *table, size_t i, const char *values)
{
	sb_cleanup(sb_freep) char *text = sb_asprintf("INSERT INTO %s_%zu (v) VALUES %s", table, i, values);

	sql(g, text);
}

static void all_landed(struct rig *g, struct landing *l)
{
	for (size_t i = 0; i < g->source.tables.count; i++) {
		same_rows(g, l, g->table[i].table, g->table[i].type);
		if (g->table[i].type[0] == 't' && cases[i].same)
			same_types(g, l, g->table[i].table, g->table[i].type);
	}
}

START_TEST(every_type)
{
	struct rig g;
	struct landing l;
	char table[40], type[32];
	sb_cleanup(sb_freep) char *text = file_text(TYPES_TABLE);

	read_cases(text);
	rig_open(&g, "types");
	landing_open(&l, "types");
	make_types(&g);
	for (size_t i = 0; i < n_cases; i++) {
		sb_cleanup(sb_freep) char *columns = sb_asprintf("(id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v %s, n int)", cases[i].type);
		run(&g, "CREATE TABLE app.t", i, columns);
		insert(&g, "app.t", i, cases[i].values);
		table_name(type, "t", i);
		(void)snprintf(table, sizeof(table), "app.%s", type);
		rig_table(&g, table, type);
	}
	rig_start(&g);
	landed(&g, &l);
	all_landed(&g, &l);
	for (size_t i = 0; i < n_cases; i++)
		insert(&g, "app.t", i, cases[i].values);
	all_landed(&g, &l);
	/* all rows change, the large values among them are not sent again */
	for (size_t i = 0; i < n_cases; i++)
		run(&g, "UPDATE app.t", i, "SET n = id");
	all_landed(&g, &l);
	landing_close(&l);
	rig_free(&g);
}
END_TEST

struct key_case {
	const char *type;
	const char *values;      /* rows of an INSERT into (v, n, big) */
	const char *move;        /* rest of an UPDATE: a key that changes, or is written otherwise and stays equal */
};

static const struct key_case keys[] = {
	{ "numeric", "(1.10), (2), ('NaN')", "SET v = 1.1000 WHERE v = 1.1" },
	{ "double precision", "('-0'), (1)", "SET v = '0' WHERE v = 0" },
	{ "interval", "('1 mon'), ('5 days')", "SET v = '30 days' WHERE v = '1 mon'" },
	{ "app.citext", "('MiXed'), ('b')", "SET v = 'mIxED' WHERE v OPERATOR(app.=) 'MIXED'" },
	{ "character(4)", "('a'), ('b ')", "SET v = 'c' WHERE v = 'a'" },
	{ "text", "(''), (' '), ('NULL'), (E'\\N'), (E'a\tb\n')", "SET v = v || '\\'" },
	{ "bytea", "(''), ('\\x00')", "SET v = v || '\\xff00'" },
	{ "date", "('infinity'), ('4713-01-01 BC')", "SET v = '2000-01-01' WHERE v = 'infinity'" },
	{ "timestamp with time zone", "('-infinity'), ('0044-03-15 12:00:00+00 BC')", "SET v = '2026-01-01 00:00:00.000001+05:45' WHERE v = '-infinity'" },
	{ "uuid", "('00000000-0000-0000-0000-000000000000')", "SET v = 'ffffffff-ffff-ffff-ffff-ffffffffffff'" },
	{ "integer[]", "('{}'), ('{1,NULL}')", "SET v = v || 3" },
	{ "jsonb", "('{\"a\": [1]}'), ('null')", "SET v = '[]' WHERE v = 'null'" },
	{ "inet", "('10.0.0.1'), ('::1')", "SET v = '10.0.0.1/8' WHERE v = '10.0.0.1'" },
	{ "int4range", "('[1,10)'), ('empty')", "SET v = '(,)' WHERE v = 'empty'" },
	{ "app.mood", "('ok'), ('it''s, \"bad\"')", "SET v = 'soso' WHERE v = 'ok'" },
	{ "app.percent", "(1.00), (99.5)", "SET v = v - 1" },
	{ "app.pair", "(ROW(1, 'a', NULL)), (ROW(2, '', NULL))", "SET v = ROW((v).a + 5, 'b', NULL)" },
	{ "bigint", "(1), (2), (3)", "SET v = 10 - v" },
	{ "smallint", "(1), (2), (3)", "SET v = v + 10" },
};

/* Keys of every kind move, also onto what is equal and written otherwise, and the large value goes with them without being sent. */
START_TEST(every_key)
{
	struct rig g;
	struct landing l;
	char table[40], type[32];

	rig_open(&g, "keys");
	landing_open(&l, "keys");
	make_types(&g);
	for (size_t i = 0; i < SB_COUNT(keys); i++) {
		sb_cleanup(sb_freep) char *columns = sb_asprintf("(v %s PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, big text)", keys[i].type);
		run(&g, "CREATE TABLE app.k", i, columns);
		run(&g, "ALTER TABLE app.k", i, "ALTER big SET STORAGE EXTERNAL");
		table_name(type, "k", i);
		(void)snprintf(table, sizeof(table), "app.%s", type);
		rig_table(&g, table, type);
		insert(&g, "app.k", i, keys[i].values);
		run(&g, "UPDATE app.k", i, "SET big = repeat('big', 3000)");
	}
	rig_start(&g);
	landed(&g, &l);
	all_landed(&g, &l);
	for (size_t i = 0; i < SB_COUNT(keys); i++)
		run(&g, "UPDATE app.k", i, keys[i].move);
	all_landed(&g, &l);
	for (size_t i = 0; i < SB_COUNT(keys); i++)
		run(&g, "UPDATE app.k", i, "SET n = DEFAULT");
	all_landed(&g, &l);
	for (size_t i = 0; i < SB_COUNT(keys); i++)
		run(&g, "DELETE FROM app.k", i, "WHERE n % 2 = 0");
	all_landed(&g, &l);
	landing_close(&l);
	rig_free(&g);
}
END_TEST

/* --- names and numbers of columns --- */

#define LONG63 "n23456789012345678901234567890123456789012345678901234567890123"
#define LONG62 "\u6f22\u5b57\u6f22\u5b57\u6f22\u5b57\u6f22\u5b57\u6f22\u5b57\u6f22\u5b57\u6f22\u5b57\u6f22\u5b57\u6f22\u5b57\u6f22\u5b57ab"
#define ODD_TABLE "\"\u00dcb er\".\"T\"\"able, \u6f22.x\""
#define LONG_TABLE "\"\u00dcb er\"." LONG63

/* Names that we use ourselves in the tables of a receiver, and those that need care. */
START_TEST(every_name)
{
	struct rig g;
	struct landing l;

	rig_open(&g, "names");
	landing_open(&l, "names");
	sql(&g, "CREATE SCHEMA \"\u00dcb er\"; CREATE TABLE " ODD_TABLE " (\"Id Key\" int, \"select\" int, _inc int, _lsn text, _seq int, _deleted bool, _missing text, _moved int, _ord int,"
		" _op int, _sb_inc int, _sb1_inc int, sb_old_0 int, \"a\"\"b'c\\d\" text, \"a.b,c\" text, \"\u00fc\u00f1\u00ef \U0001F680\" text, \" . \" text, " LONG63 " text, \"" LONG62
		"\" text, ctid_ int, oid int, \"current_user\" text, PRIMARY KEY (\"select\", \"Id Key\")); CREATE TABLE " LONG_TABLE " (id int PRIMARY KEY, gone int, v text);"
		"INSERT INTO " ODD_TABLE " VALUES (1, 2, 3, 'l', 5, true, 'm', 7, 8, 9, 10, 11, 12, 'q', 'w', 'u', 't', 'long', 'kanji', 13, 14, 'me');"
		"INSERT INTO " LONG_TABLE " VALUES (1, 1, 'before'); ALTER TABLE " LONG_TABLE " DROP gone, ADD tail text, ADD last int; INSERT INTO " LONG_TABLE " VALUES (2, 'v', NULL, NULL)");
	rig_table(&g, ODD_TABLE, "odd");
	rig_table(&g, LONG_TABLE, "long-table");
	rig_start(&g);
	landed(&g, &l);
	same_rows(&g, &l, ODD_TABLE, "odd");
	same_types(&g, &l, ODD_TABLE, "odd");
	same_rows(&g, &l, LONG_TABLE, "\"long-table\"");
	sql(&g, "UPDATE " ODD_TABLE " SET _inc = -3, \"select\" = 22; INSERT INTO " ODD_TABLE " (\"Id Key\", \"select\") VALUES (7, 7);"
		"INSERT INTO " LONG_TABLE " (id) VALUES (3); UPDATE " LONG_TABLE " SET v = 'after', last = 4 WHERE id = 1");
	same_rows(&g, &l, ODD_TABLE, "odd");
	same_rows(&g, &l, LONG_TABLE, "\"long-table\"");
	landing_close(&l);
	rig_free(&g);
}
END_TEST

static void make_wide(struct rig *g, const char *table, unsigned columns)
{
	struct sb_buf text;

	sb_buf_init(&text, 65536);
	sb_buf_addf(&text, "CREATE TABLE %s (c0 int PRIMARY KEY", table);
	for (unsigned i = 1; i < columns; i++)
		sb_buf_addf(&text, ", c%u %s", i, i % 2 ? "int2" : "bool");
	sb_buf_addf(&text, "); INSERT INTO %s (c0, c1, c%u) VALUES (1, 1, true), (2, NULL, NULL)", table, columns - 2);
	sql(g, text.data);
	sb_buf_release(&text);
}

/* As many columns as a copy can have; more than that is refused with the reason, and the others go on. */
START_TEST(many_columns)
{
	struct rig g;
	struct landing l;
	char state[24];

	rig_open(&g, "wide");
	landing_open(&l, "wide");
	sql(&g, "CREATE SCHEMA app");
	make_wide(&g, "app.wide", SB_COLUMNS_MAX);
	make_wide(&g, "app.wider", 1600);
	rig_table(&g, "app.wide", "wide");
	rig_start(&g);
	landed(&g, &l);
	same_rows(&g, &l, "app.wide", "wide");
	sql(&g, "INSERT INTO app.wide (c0, c1591) VALUES (3, -3); UPDATE app.wide SET c0 = 10, c2 = true WHERE c0 = 1");
	same_rows(&g, &l, "app.wide", "wide");
	rig_stop(&g);
	rig_table(&g, "app.wider", "wider");
	rig_start(&g);
	ck_assert(wait_until(strcmp(logged_state(&g, state), "refused table") == 0, 10000));
	sql(&g, "UPDATE app.wider SET c1 = 7; DELETE FROM app.wide");
	same_rows(&g, &l, "app.wide", "wide");
	landing_close(&l);
	rig_free(&g);
}
END_TEST

/* --- other encodings --- */

START_TEST(converted_encoding)
{
	struct rig g;
	struct landing l;

	rig_encoding = "LATIN1";
	rig_open(&g, "latin");
	rig_encoding = NULL;
	landing_open(&l, "latin");
	sql(&g, "CREATE SCHEMA app; CREATE TABLE app.\"caf\u00e9\" (id int PRIMARY KEY, \"na\u00efve\" text); INSERT INTO app.\"caf\u00e9\" VALUES (1, '\u00e9\u00ff\u00a3')");
	rig_table(&g, "app.\"caf\u00e9\"", "cafe");
	rig_start(&g);
	landed(&g, &l);
	same_rows(&g, &l, "app.\"caf\u00e9\"", "cafe");
	sql(&g, "INSERT INTO app.\"caf\u00e9\" VALUES (2, 'd\u00e9j\u00e0 vu'); UPDATE app.\"caf\u00e9\" SET \"na\u00efve\" = '\u00fc' WHERE id = 1");
	same_rows(&g, &l, "app.\"caf\u00e9\"", "cafe");
	landing_close(&l);
	rig_free(&g);
}
END_TEST

static bool renamed(struct rig *g)
{
	char state[24];

	sb_lanes_wake(g->fix.a.lanes, "source/*"); /* looks at the catalog at once */
	return equal(g, "t", "SELECT json_object_agg(id || '|', json_build_array(id::text, better)) FROM app.t") && strcmp(logged_state(g, state), "streaming") == 0;
}

/* A name that no record can carry stops its table, as a change in the middle of the stream too, and no other. */
START_TEST(name_with_control_character)
{
	struct rig g;
	char state[24];

	rig_open(&g, "tab");
	sql(&g, "CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY, v text); CREATE TABLE app.u (id int PRIMARY KEY); INSERT INTO app.t VALUES (1, 'a')");
	rig_table(&g, "app.t", "t")->new_columns = AGENT_NEW_SEND;
	rig_table(&g, "app.u", "u");
	rig_start(&g);
	ck_assert(pull_until(&g, snapshots_done, 20000));
	sql(&g, "BEGIN; ALTER TABLE app.t RENAME v TO \"v\t\"; UPDATE app.t SET \"v\t\" = 'b'; COMMIT; INSERT INTO app.u VALUES (1)");
	ck_assert(wait_until(pull(&g) && g.m.changes['i'] == 1, 20000));
	ck_assert(wait_until(strcmp(logged_state(&g, state), "refused table") == 0, 10000));
	sql(&g, "ALTER TABLE app.t RENAME \"v\t\" TO better");
	ck_assert(pull_until(&g, renamed, 20000));
	rig_free(&g);
}
END_TEST

static bool all_but_bad(struct rig *g)
{
	return equal(g, "t", "SELECT json_object_agg(id || '|', json_build_array(id::text, v)) FROM app.t WHERE id % 2 = 1");
}

/* Bytes without a meaning: what is UTF-8 comes, what is not is withheld with its reason, by snapshot as by stream, and nothing stops. */
START_TEST(no_encoding)
{
	struct rig g;
	char state[24];

	rig_encoding = "SQL_ASCII";
	rig_open(&g, "ascii");
	rig_encoding = NULL;
	sql(&g, "CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY, v text); INSERT INTO app.t VALUES (1, 'plain'), (2, E'bad \\xe9'), (3, 'ok \u00e9')");
	rig_table(&g, "app.t", "t");
	rig_start(&g);
	ck_assert(pull_until(&g, snapshots_done, 20000));
	ck_assert(all_but_bad(&g));
	sql(&g, "INSERT INTO app.t VALUES (4, E'\\xff\\xfe')");
	sql(&g, "INSERT INTO app.t VALUES (5, '\u6f22')");
	sql(&g, "UPDATE app.t SET v = E'\\xe9' WHERE id = 2; UPDATE app.t SET v = 'new' WHERE id = 1");
	ck_assert(pull_until(&g, all_but_bad, 20000));
	ck_assert(wait_until(strcmp(logged_state(&g, state), "withheld row") == 0, 5000));
	rig_free(&g);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("agent_source_types");
	TCase *t = tcase_create("types");

	tcase_set_timeout(t, 240);
	tcase_add_test(t, every_type);
	tcase_add_test(t, every_key);
	tcase_add_test(t, every_name);
	tcase_add_test(t, many_columns);
	tcase_add_test(t, name_with_control_character);
	tcase_add_test(t, converted_encoding);
	tcase_add_test(t, no_encoding);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	pg_fixture_start();
	return test_run(suite());
}
