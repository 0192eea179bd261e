/* Descriptions in a real PostgreSQL: the view follows the source's columns without a row, comments are where people look for them, what is older changes nothing. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "entity_rig.h"
#include "pg_fixture.h"
#include "stagebridge/described.h"
#include "stagebridge/entity_table.h"
#include "support.h"

/* columns: JSON; ' stands for " */
static bool describe(const char *lsn, const char *comment, const char *columns)
{
	struct sb_error err = SB_ERROR_INIT;
	json_t *d = NULL;
	char text[4096];
	bool news = false;

	(void)snprintf(text, sizeof(text), "{'type':'e','incarnation':1,'lsn':'%s','comment':'%s','rows':-1,'columns':[%s],'withheld':[]}", lsn, comment, columns);
	for (char *p = text; *p; p++)
		*p = *p == '\'' ? '"' : *p;
	must(sb_described_parse(&d, text, strlen(text), &err));
	must(sb_pg_begin(pg, &err));
	must(sb_entity_describe(tables, d, &news, &err));
	must(sb_pg_commit(pg, &err));
	json_decref(d);
	return news;
}

/* One row (id, second column) at a position. */
static void put(uint64_t lsn, const char *id, const char *column, const char *type, const char *value)
{
	struct sb_column columns[] = { { (char[]){ "id" }, (char[]){ "integer" }, true }, { sb_strdup(column), sb_strdup(type), false } };
	struct sb_shape shape = { .type = "e", .incarnation = 1, .column = columns, .n_columns = 2 };
	struct sb_cell cell[] = { { SB_CELL_VALUE, id, strlen(id) }, { SB_CELL_VALUE, value, strlen(value) } };
	struct sb_change c = { .op = 'u', .lsn = lsn, .n_cells = 2, .cell = cell };
	struct sb_apply_stats stats;
	struct sb_error err = SB_ERROR_INIT;
	struct sb_batch *b = NULL;
	size_t n = 0;

	must(sb_batch_new(&b, &err));
	must(sb_batch_begin(b, &shape, &err));
	must(sb_batch_add(b, &c, &err));
	const void *bytes = sb_batch_value(b, &n);
	must(sb_pg_begin(pg, &err));
	must(sb_entity_apply(tables, bytes, n, (struct sb_position){ 0, 0 }, NULL, NULL, &stats, &err));
	must(sb_pg_commit(pg, &err));
	sb_batch_free(b);
	free(columns[1].name);
	free(columns[1].type);
}

#define ID "{'name':'id','type':'integer','key':true,'source_type':'integer','comment':'number','labels':[],'class':'public'}"
#define NAME ",{'name':'name','type':'text','key':false,'source_type':'app.email','comment':'it\\u0027s \\\\ \\n theirs','labels':[],'class':'internal'}"
#define STATE ",{'name':'state','type':'app.mood','key':false,'source_type':'app.mood','comment':'','labels':['sad','so so'],'class':'internal'}"
#define COLUMNS "SELECT string_agg(attname || ':' || format_type(atttypid, atttypmod), ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = to_regclass('~.e') AND attnum > 0"
#define COMMENT(n) "SELECT col_description(to_regclass('~.e'), " n ")"
#define TABLE_COMMENT "SELECT obj_description(to_regclass('~.e'), 'pg_class')"

START_TEST(test_before_any_row)
{
	ck_assert(describe("0/10", "All of it", ID NAME STATE));
	ck_assert_str_eq(ask(COLUMNS), "id:integer name:text state:text");
	ck_assert_str_eq(ask(TABLE_COMMENT), "All of it");
	ck_assert_str_eq(ask(COMMENT("1")), "number");
	ck_assert_str_eq(ask(COMMENT("2")), "it's \\ \n theirs [app.email]");
	ck_assert_str_eq(ask(COMMENT("3")), "[app.mood: sad | so so]");
}
END_TEST

START_TEST(test_ddl_without_rows)
{
	put(0x10, "1", "name", "text", "12");
	ck_assert(describe("0/20", "", ID NAME STATE));
	ck_assert_str_eq(ask(COLUMNS), "id:integer name:text state:text");
	/* dropped, and another type */
	ck_assert(describe("0/30", "", ID ",{'name':'name','type':'integer','key':false,'source_type':'integer','comment':'','labels':[],'class':'internal'}"));
	ck_assert_str_eq(ask(COLUMNS), "id:integer name:integer");
	ck_assert_str_eq(ask(COMMENT("2")), "-");
	ck_assert_str_eq(ask("SELECT name FROM ~.e"), "12");
}
END_TEST

/* A repeat after a crash, an old one, and one that was read before newer rows changed the columns. */
START_TEST(test_order)
{
	ck_assert(describe("0/20", "now", ID NAME));
	ck_assert(!describe("0/20", "now", ID NAME));
	ck_assert(!describe("0/10", "before", ID NAME STATE));
	ck_assert_str_eq(ask(TABLE_COMMENT), "now");
	ck_assert_str_eq(ask(COLUMNS), "id:integer name:text");
	put(0x40, "1", "other", "text", "x");
	ck_assert_str_eq(ask(COLUMNS), "id:integer other:text");
	ck_assert(describe("0/30", "late", ID NAME));
	ck_assert_str_eq(ask(COLUMNS), "id:integer other:text");
	ck_assert_str_eq(ask(TABLE_COMMENT), "late");
	/* a row that was written before does not bring the old columns back */
	ck_assert(describe("0/50", "last", ID NAME));
	put(0x45, "2", "other", "text", "y");
	ck_assert_str_eq(ask(COLUMNS), "id:integer name:text");
	ck_assert_str_eq(ask(COMMENT("1")), "number");
}
END_TEST

/* Comments stay when rows change the columns and the view is made anew; a view that people dropped is no obstacle. */
START_TEST(test_comments_stay)
{
	struct sb_error err = SB_ERROR_INIT;
	char sql[128];

	ck_assert(describe("0/20", "kept", ID NAME));
	put(0x30, "1", "size", "integer", "7"); /* cannot replace the view: made anew */
	ck_assert_str_eq(ask(TABLE_COMMENT), "kept");
	ck_assert_str_eq(ask(COMMENT("1")), "number");
	(void)snprintf(sql, sizeof(sql), "DROP VIEW %s.e", scope);
	must(sb_pg_exec(pg, sql, 0, NULL, NULL, &err));
	ck_assert(describe("0/25", "gone", ID NAME));
	put(0x40, "2", "size", "integer", "8");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("entity_describe");
	TCase *tc = tcase_create("entity_describe");

	conninfo = pg_fixture_start();
	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_before_any_row);
	tcase_add_test(tc, test_ddl_without_rows);
	tcase_add_test(tc, test_order);
	tcase_add_test(tc, test_comments_stay);
	suite_add_tcase(s, tc);
	return test_run(s);
}
