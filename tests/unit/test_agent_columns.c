/* Column types: which text fits which, what is inferred from several, and what a row becomes. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "column_type.h"
#include "json_fields.h"
#include "row_json.h"
#include "support.h"

#define B COLUMN_BOOLEAN
#define I COLUMN_BIGINT
#define N COLUMN_NUMERIC
#define D COLUMN_DATE
#define Z COLUMN_TIMESTAMPTZ
#define T COLUMN_TEXT

/* Texts of CSV fields: what they fit besides text, and so what a column of them alone becomes. */
static const struct { const char *text; unsigned fits; const char *type; } texts[] = {
	{ "true", B, "boolean" }, { "false", B, "boolean" }, { "TRUE", 0, "text" }, { "t", 0, "text" }, { "yes", 0, "text" },
	{ "0", I | N, "bigint" }, { "7", I | N, "bigint" }, { "-7", I | N, "bigint" }, { "-0", 0, "text" }, { "+7", 0, "text" }, { "007", 0, "text" }, { "00", 0, "text" },
	{ " 7", 0, "text" }, { "7 ", 0, "text" }, { "1e5", 0, "text" }, { "1,000", 0, "text" }, { "0x10", 0, "text" }, { "-", 0, "text" }, { "", 0, "text" },
	{ "9223372036854775807", I | N, "bigint" }, { "9223372036854775808", N, "numeric" }, { "-9223372036854775808", I | N, "bigint" }, { "-9223372036854775809", N, "numeric" },
	{ "99999999999999999999999999", N, "numeric" }, { "1.10", N, "numeric" }, { "0.5", N, "numeric" }, { ".5", 0, "text" }, { "5.", 0, "text" }, { "-0.0", 0, "text" },
	{ "-0.10", N, "numeric" }, { "01.5", 0, "text" }, { "1.5.2", 0, "text" }, { "NaN", 0, "text" }, { "Infinity", 0, "text" },
	{ "2026-02-28", D, "date" }, { "2024-02-29", D, "date" }, { "2026-02-29", 0, "text" }, { "1900-02-29", 0, "text" }, { "2000-02-29", D, "date" }, { "2026-13-01", 0, "text" },
	{ "2026-00-10", 0, "text" }, { "0000-01-01", 0, "text" }, { "2026-1-1", 0, "text" }, { "01/02/2026", 0, "text" }, { "20260102", I | N, "bigint" },
	{ "2026-03-02 09:15:01+00", Z, "timestamptz" }, { "2026-03-02 09:15:01.25+00", Z, "timestamptz" }, { "2026-03-02 09:15:01.250+00", 0, "text" },
	{ "2026-03-02T09:15:01+00", 0, "text" }, { "2026-03-02 09:15:01+02", 0, "text" }, { "2026-03-02 09:15:01Z", 0, "text" }, { "2026-03-02 24:00:00+00", 0, "text" },
	{ "2026-03-02 09:15:60+00", 0, "text" }, { "2026-03-02 09:15:01.1234567+00", 0, "text" }, { "2026-03-02 09:15:01", 0, "text" },
	{ "garbage", 0, "text" }, { "\xc3\xa9", 0, "text" }, { "\xef\xbc\x91", 0, "text" },
};

START_TEST(text_fits)
{
	const char *p = texts[_i].text;
	unsigned fits = column_fits(p, strlen(p));

	ck_assert_msg(fits == (texts[_i].fits | T), "\"%s\": %u", p, fits);
	ck_assert_str_eq(column_type_of(fits)->name, texts[_i].type);
}
END_TEST

static const struct { const char *type, *text; bool accepts; } pinned[] = {
	{ "smallint", "32767", true }, { "smallint", "32768", false }, { "smallint", "-32768", true }, { "smallint", "-32769", false }, { "integer", "2147483647", true },
	{ "integer", "2147483648", false }, { "integer", "", false }, { "integer", "-", false }, { "bigint", "9223372036854775808", false }, { "bigint", "1.0", false },
	{ "double precision", "1e5", true }, { "double precision", "-1.5E-3", true }, { "double precision", "1e999", false }, { "double precision", "1e-999", false },
	{ "double precision", "NaN", true }, { "double precision", "nan", false }, { "double precision", "0x1p3", false }, { "double precision", "1..2", false },
	{ "double precision", "", false }, { "double precision", "-", false }, { "double precision", "inf", false },
	{ "timestamptz", "2026-03-02T09:15:01Z", true }, { "timestamptz", "2026-03-02T09:15:01.123456+02:00", true }, { "timestamptz", "2026-03-02 09:15:01-14", true },
	{ "timestamptz", "2026-03-02T09:15:01", false }, { "timestamptz", "2026-03-02T09:15:01+15", false }, { "timestamptz", "2026-03-02T09:15:01+02:60", false },
	{ "timestamptz", "yesterday", false }, { "timestamptz", "", false }, { "timestamp", "2026-03-02T09:15:01.5", true }, { "timestamp", "2026-03-02T09:15:01Z", false },
	{ "timestamp", "now", false }, { "timestamp", "", false }, { "uuid", "00000000-0000-0000-0000-00000000000a", true }, { "uuid", "00000000-0000-0000-0000-00000000000A", true },
	{ "uuid", "00000000000000000000000000000000000a", false }, { "uuid", "00000000-0000-0000-0000-00000000000g", false }, { "uuid", "", false },
	{ "boolean", "t", true }, { "boolean", "yes", false }, { "boolean", "", false }, { "date", "", false }, { "date", "2026-02-30", false }, { "numeric", "", false },
	{ "text", "", true }, { "jsonb", "{}", true },
};

START_TEST(pinned_accepts)
{
	const struct column_type *t = column_type_find(pinned[_i].type);

	ck_assert_ptr_nonnull(t);
	ck_assert_msg(t->accepts(pinned[_i].text, strlen(pinned[_i].text)) == pinned[_i].accepts, "%s \"%s\"", pinned[_i].type, pinned[_i].text);
}
END_TEST

START_TEST(unknown_type)
{
	ck_assert_ptr_null(column_type_find("money"));
	ck_assert_ptr_null(column_type_find(""));
	ck_assert_str_eq(column_type_of(COLUMN_ANY)->name, "text");
}
END_TEST

/* --- learning --- */

static const struct { bool json; const char *values[5]; const char *type; unsigned change; } learned[] = {
	{ false, { "1", "2", "300" }, "bigint", 0 },
	{ false, { "1", "", "2" }, "bigint", 0 },
	{ false, { "", "", "2" }, "bigint", ROW_NEW },
	{ false, { "", "" }, "text", 0 },
	{ false, { "1", "1.5" }, "numeric", ROW_WIDER },
	{ false, { "1.5", "1" }, "numeric", 0 },
	{ false, { "1", "1.5", "x", "1" }, "text", ROW_WIDER },
	{ false, { "1", "02" }, "text", ROW_WIDER },
	{ false, { "true", "1" }, "text", ROW_WIDER },
	{ false, { "2026-01-01", "2026-01-01 00:00:00+00" }, "text", ROW_WIDER },
	{ true, { "1", "2" }, "bigint", 0 },
	{ true, { "1", "null", "2.50" }, "numeric", ROW_WIDER },
	{ true, { "true", "false" }, "boolean", 0 },
	{ true, { "true", "1" }, "jsonb", ROW_WIDER },
	{ true, { "\"a\"", "1" }, "jsonb", ROW_WIDER },
	{ true, { "\"1\"", "\"2\"" }, "text", 0 },
	{ true, { "\"2026-01-01\"", "\"2026-01-02\"" }, "date", 0 },
	{ true, { "\"2026-01-01\"", "\"soon\"" }, "text", ROW_WIDER },
	{ true, { "{}", "\"a\"" }, "jsonb", 0 },
	{ true, { "[1]", "{\"a\":1}" }, "jsonb", 0 },
	{ true, { "1e5" }, "jsonb", 0 },
	{ true, { "null" }, "text", 0 },
};

START_TEST(learns)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_list none = { .item = NULL };
	struct row_schema s;
	unsigned change = 0;

	ck_assert_int_eq(row_schema_init(&s, "id", false, &none, NULL, &err), 0);
	for (int i = 0; i < 5 && learned[_i].values[i]; i++) {
		const char *v = learned[_i].values[i];
		const struct row_field f = { .name = "c", .name_n = 1, .json = learned[_i].json, .null = *v == '\0' || strcmp(v, "null") == 0, .p = v, .n = strlen(v) };
		if (i == 1)
			change = 0; /* that the column is new is no news */
		ck_assert_int_eq(row_schema_learn(&s, &f, &change, &err), 0);
	}
	ck_assert_str_eq(s.column[1].type->name, learned[_i].type);
	if (learned[_i].values[1])
		ck_assert_uint_eq(change, learned[_i].change);
	/* what is remembered is the same again, also after another document */
	char *text = row_schema_text(&s);
	struct row_schema again;
	ck_assert_int_eq(row_schema_init(&again, "id", false, &none, NULL, &err), 0);
	ck_assert_int_eq(row_schema_load(&again, text, &err), 0);
	ck_assert_uint_eq(again.n, 2);
	ck_assert_ptr_eq(again.column[1].type, s.column[1].type);
	ck_assert_uint_eq(again.column[1].fits, s.column[1].fits);
	free(text);
	row_schema_release(&again);
	row_schema_release(&s);
}
END_TEST

START_TEST(remembered_garbage)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_list none = { .item = NULL };
	struct row_schema s;

	ck_assert_int_eq(row_schema_init(&s, "id", false, &none, NULL, &err), 0);
	ck_assert_int_eq(row_schema_load(&s, "[[1, 2]]", &err), SB_EPROTO);
	ck_assert_int_eq(row_schema_load(&s, "nothing", &err), SB_EPROTO);
	ck_assert_int_eq(row_schema_load(&s, "", &err), 0);
	row_schema_release(&s);
}
END_TEST

/* --- rows --- */

static const struct row_pin pins[] = { { (char *)(uintptr_t)"id", (char *)(uintptr_t)"bigint" }, { (char *)(uintptr_t)"at", (char *)(uintptr_t)"timestamptz" },
	{ (char *)(uintptr_t)"ok", (char *)(uintptr_t)"boolean" }, { (char *)(uintptr_t)"name", (char *)(uintptr_t)"text" }, { (char *)(uintptr_t)"more", (char *)(uintptr_t)"jsonb" } };
static const struct sb_list pin_list = { .item = (void *)(uintptr_t)pins, .count = SB_COUNT(pins) };
static char *const hidden_name[] = { (char *)(uintptr_t)"iban" };
static const struct sb_strings hidden = { .item = (char **)(uintptr_t)hidden_name, .count = 1 };

static const struct { const char *doc, *want, *why; } rows[] = {
	{ "{\"id\": 1}", "1|-|-|-|-|", NULL },
	{ "{\"name\":\"a\\u00e9\\n\", \"id\":-5,\"ok\" : true , \"more\":{\"x\":[1, 2]}}", "-5|-|t|a\xc3\xa9\n|{\"x\":[1, 2]}|", NULL },
	{ "{\"id\":1,\"iban\":\"DE\",\"extra\":7,\"more\":\"s\",\"ok\":null}", "1|-|-|-|\"s\"|", NULL },
	{ "{\"id\":1,\"at\":\"2026-03-02T09:15:01Z\",\"ok\":false}", "1|2026-03-02T09:15:01Z|f|-|-|", NULL },
	{ "{\"id\":1.5}", NULL, "column \"id\": the value is not a bigint" },
	{ "{\"id\":\"1\"}", NULL, "column \"id\": the JSON value is not a bigint" },
	{ "{\"id\":1,\"ok\":1}", NULL, "column \"ok\": the JSON value is not a boolean" },
	{ "{\"id\":1,\"name\":{}}", NULL, "column \"name\": the JSON value is not a text" },
	{ "{\"id\":1,\"at\":\"soon\"}", NULL, "column \"at\": the value is not a timestamptz" },
	{ "{\"id\":null}", NULL, "column \"id\": the key is missing" },
	{ "{}", NULL, "column \"id\": the key is missing" },
};

START_TEST(json_row)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_cell cell[8];
	struct row_schema s;
	struct row_json rj;
	char got[256] = "";
	size_t at = 0;
	bool twice;

	ck_assert_int_eq(row_schema_init(&s, "id", false, &pin_list, &hidden, &err), 0);
	ck_assert_int_eq(row_json_init(&rj, 4096, &err), 0);
	ck_assert_int_eq(row_json_fields(&rj, &s, NULL, NULL, rows[_i].doc, strlen(rows[_i].doc), &twice, &err), 0);
	int r = row_schema_cells(&s, rj.field, rj.n, cell, &err);
	if (rows[_i].why) {
		ck_assert_int_eq(r, SB_EDATA);
		ck_assert_str_eq(err.msg, rows[_i].why);
	} else {
		ck_assert_msg(r == 0, "%s", err.msg);
		for (unsigned i = 0; i < s.n; i++)
			at += (size_t)snprintf(got + at, sizeof(got) - at, "%.*s|", cell[i].kind == SB_CELL_NULL ? 1 : (int)cell[i].n, cell[i].kind == SB_CELL_NULL ? "-" : cell[i].p);
		ck_assert_str_eq(got, rows[_i].want);
	}
	row_json_release(&rj);
	row_schema_release(&s);
}
END_TEST

START_TEST(strips_private)
{
	static const char doc[] = "{ \"a\" : 1.10, \"iban\": {\"x\": \"}\"}, \"q\\\"\": [\"iban\"] }";
	struct sb_error err = SB_ERROR_INIT;
	struct sb_list none = { .item = NULL };
	struct row_schema s;
	struct row_json rj;
	const char *p;
	size_t n;

	ck_assert_int_eq(row_schema_init(&s, "key", true, &none, &hidden, &err), 0);
	ck_assert_int_eq(row_json_init(&rj, 4096, &err), 0);
	ck_assert_int_eq(row_json_strip(&rj, &s, doc, strlen(doc), &p, &n, &err), 0);
	ck_assert_str_eq(p, "{\"a\": 1.10, \"q\\\"\": [\"iban\"]}");
	row_json_release(&rj);
	row_schema_release(&s);
}
END_TEST

static const char *const no_objects[] = { "", "{", "[]", "{\"a\"}", "{\"a\":}", "{\"a\":1", "{\"a\":1,", "{\"a\" 1}", "{a:1}", "{\"a\":[1}", "{\"a", "{\"a\":\"x" };

static int nothing(void *user, const struct json_field *f, struct sb_error *err)
{
	(void)user;
	(void)f;
	(void)err;
	return 0;
}

START_TEST(no_object)
{
	struct sb_error err = SB_ERROR_INIT;

	ck_assert_msg(json_fields(no_objects[_i], strlen(no_objects[_i]), nothing, NULL, &err) == SB_EPROTO, "%s", no_objects[_i]);
}
END_TEST

START_TEST(yaml)
{
	struct sb_error err = SB_ERROR_INIT;
	struct row_schema s;
	struct sb_buf out;

	sb_buf_init(&out, 4096);
	ck_assert_int_eq(row_schema_init(&s, "id", false, &pin_list, NULL, &err), 0);
	row_schema_yaml(&s, 2, &out);
	ck_assert_msg(strncmp(out.data, "  columns:\n    - { name: \"id\", type: bigint }   # the key\n    - { name: \"at\", type: timestamptz }\n", 90) == 0, "%s", out.data);
	row_schema_release(&s);
	sb_buf_release(&out);
}
END_TEST

/* Without memory at any point: the error says so, nothing is lost. */
START_TEST(no_memory)
{
	struct sb_error err = SB_ERROR_INIT;
	static const char doc[] = "{\"id\":1,\"name\":\"a\\u00e9\",\"more\":[1]}";

	for (long n = 0;; n++) {
		struct row_schema s = { .n = 0 };
		struct row_json rj = { .n = 0 };
		struct sb_shape shape = { .n_columns = 0 };
		struct sb_cell cell[8];
		bool twice;
		fault_alloc_after(n);
		int r = row_schema_init(&s, "id", false, &pin_list, &hidden, &err);
		if (r == 0)
			r = row_json_init(&rj, 4096, &err);
		if (r == 0)
			r = row_json_fields(&rj, &s, NULL, NULL, doc, strlen(doc), &twice, &err);
		if (r == 0)
			r = row_schema_cells(&s, rj.field, rj.n, cell, &err);
		if (r == 0)
			r = row_schema_shape(&s, &shape, &err);
		fault_alloc_after(-1);
		row_schema_release(&s);
		row_json_release(&rj);
		sb_shape_release(&shape);
		if (!fault_hit()) {
			ck_assert_int_eq(r, 0);
			break;
		}
		ck_assert_msg(r == SB_ENOMEM || r == SB_EPROTO, "%d", r);
	}
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("agent columns");
	TCase *t = tcase_create("columns");

	tcase_add_loop_test(t, text_fits, 0, SB_COUNT(texts));
	tcase_add_loop_test(t, pinned_accepts, 0, SB_COUNT(pinned));
	tcase_add_test(t, unknown_type);
	tcase_add_loop_test(t, learns, 0, SB_COUNT(learned));
	tcase_add_test(t, remembered_garbage);
	tcase_add_loop_test(t, json_row, 0, SB_COUNT(rows));
	tcase_add_test(t, strips_private);
	tcase_add_loop_test(t, no_object, 0, SB_COUNT(no_objects));
	tcase_add_test(t, yaml);
	tcase_add_test(t, no_memory);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return test_run(suite());
}
