/* Descriptions of entity types: the schema's example is read, whatever is missing, unknown or of another kind is refused; allocation faults leave nothing behind. */
#include <check.h>
#include <string.h>

#include "schema.h"
#include "stagebridge/described.h"
#include "stagebridge/json.h"
#include "support.h"

static json_t *example(void)
{
	json_auto_t *schema = schema_load("entity.described");

	return json_deep_copy(json_array_get(json_object_get(schema, "examples"), 0));
}

START_TEST(test_example)
{
	struct sb_error err = SB_ERROR_INIT;
	json_auto_t *d = example();
	struct sb_shape shape;

	ck_assert_msg(sb_described_check(d, &err) == 0, "%s", err.msg);
	ck_assert_uint_eq(sb_described_lsn(d), 0x16B3748);
	ck_assert_int_eq(sb_described_shape(d, &shape, &err), 0);
	ck_assert_str_eq(shape.type, "experiment");
	ck_assert_uint_eq(shape.n_columns, 2);
	ck_assert_str_eq(shape.column[1].type, "app.run_state");
	ck_assert(shape.column[0].key && !shape.column[1].key);
	sb_shape_release(&shape);
}
END_TEST

/* path "": of the description, else of its second column; value is JSON, NULL removes the key */
static const struct { const char *where, *key, *value; } bad[] = {
	{ "", "type", "\"Experiment\"" },
	{ "", "type", NULL },
	{ "", "incarnation", "-1" },
	{ "", "lsn", "\"16B3748\"" },
	{ "", "comment", "null" },
	{ "", "rows", "-2" },
	{ "", "columns", "[]" },
	{ "", "columns", "{}" },
	{ "", "withheld", "[\"\"]" },
	{ "", "withheld", "[1]" },
	{ "", "one_more", "1" },
	{ "column", "name", "\"\"" },
	{ "column", "name", "\"id\"" }, /* twice */
	{ "column", "type", "7" },
	{ "column", "key", "\"yes\"" },
	{ "column", "labels", "[null]" },
	{ "column", "labels", "\"a\"" },
	{ "column", "class", "\"private\"" },
	{ "column", "comment", NULL },
	{ "column", "default", "\"1\"" },
};

START_TEST(test_refused)
{
	struct sb_error err = SB_ERROR_INIT;
	json_auto_t *d = example();
	json_t *at = *bad[_i].where ? json_array_get(json_object_get(d, "columns"), 1) : d;

	if (bad[_i].value)
		ck_assert_int_eq(json_object_set_new(at, bad[_i].key, json_loads(bad[_i].value, JSON_DECODE_ANY, NULL)), 0);
	else
		ck_assert_int_eq(json_object_del(at, bad[_i].key), 0);
	ck_assert_int_eq(sb_described_check(d, &err), SB_EPROTO);
	ck_assert_uint_gt(strlen(err.msg), 0);
}
END_TEST

START_TEST(test_lengths)
{
	struct sb_error err = SB_ERROR_INIT;
	json_auto_t *d = example();
	char comment[2 * SB_COMMENT_MAX + 3];

	for (size_t i = 0; i < SB_COMMENT_MAX; i++)
		memcpy(comment + 2 * i, "\xc3\xa9", 2);
	comment[2 * SB_COMMENT_MAX] = '\0';
	ck_assert_int_eq(json_object_set_new(d, "comment", json_string(comment)), 0);
	ck_assert_int_eq(sb_described_check(d, &err), 0);
	memcpy(comment + 2 * SB_COMMENT_MAX, "x", 2);
	ck_assert_int_eq(json_object_set_new(d, "comment", json_string(comment)), 0);
	ck_assert_int_eq(sb_described_check(d, &err), SB_EPROTO);
}
END_TEST

START_TEST(test_without_memory)
{
	json_auto_t *d = example();
	sb_cleanup(sb_freep) char *text = json_dumps(d, JSON_COMPACT);
	int r = SB_ENOMEM;

	sb_json_guard();
	for (long n = 0; r == SB_ENOMEM; n++) {
		struct sb_error err = SB_ERROR_INIT;
		json_t *read = NULL;
		fault_alloc_after(n);
		r = sb_described_parse(&read, text, strlen(text), &err);
		fault_alloc_after(-1);
		json_decref(read);
		ck_assert_msg(r == 0 || r == SB_ENOMEM, "allocation %ld: %s", n, err.msg);
	}
	ck_assert_int_eq(r, 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("described");
	TCase *tc = tcase_create("described");

	tcase_add_test(tc, test_example);
	tcase_add_loop_test(tc, test_refused, 0, (int)SB_COUNT(bad));
	tcase_add_test(tc, test_lengths);
	tcase_add_test(tc, test_without_memory);
	suite_add_tcase(s, tc);
	return test_run(s);
}
