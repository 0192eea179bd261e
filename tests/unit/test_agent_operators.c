/* Operators cell by cell, NULLs, decimals, tokens against their vectors, and the CSV that comes out. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "dataset/csv_out.h"
#include "dataset/operator.h"
#include "dataset/token.h"
#include "stagebridge/file.h"
#include "support.h"

/* --- decimals --- */

static const struct { const char *in, *out; bool ok, exact; } decimals[] = {
	{ "0", "0", true, true }, { "-0", "0", true, true }, { "+12", "12", true, true }, { "12.50", "12.5", true, true }, { ".5", "0.5", true, true },
	{ "-0.000000001", "-0.000000001", true, true }, { "0.0000000019", "0.000000001", true, false }, { "-0.0000000011", "-0.000000002", true, false },
	{ "1e+20", "100000000000000000000", true, true }, { "1.5e-07", "0.00000015", true, true }, { "123456789012345678901234567", "123456789012345678901234567", true, true },
	{ "0000000000000000000000000000000000042", "42", true, true }, { "1e-400", "0", true, false }, { "1000000000000000000000000000", "", false, false },
	{ "1e27", "", false, false }, { "", "", false, false }, { "-", "", false, false }, { ".", "", false, false }, { "1e", "", false, false }, { "1e+", "", false, false },
	{ "1x", "", false, false }, { " 1", "", false, false }, { "NaN", "", false, false }, { "Infinity", "", false, false }, { "0x10", "", false, false },
	{ "1,5", "", false, false }, { "1.2.3", "", false, false }, { "--1", "", false, false }, { "1e9999999999", "", false, false },
};

START_TEST(test_decimal)
{
	char text[AGENT_FIXED_LEN];
	agent_fixed v = 0;
	bool exact = false;

	ck_assert_msg(agent_fixed_parse(decimals[_i].in, strlen(decimals[_i].in), &v, &exact) == decimals[_i].ok, "%s", decimals[_i].in);
	if (!decimals[_i].ok)
		return;
	ck_assert_uint_eq(agent_fixed_format(text, v), strlen(decimals[_i].out));
	ck_assert_str_eq(text, decimals[_i].out);
	ck_assert_int_eq(exact, decimals[_i].exact);
}
END_TEST

/* --- cells --- */

#define REFUSED "\1"
#define NO_VALUE NULL

static struct sb_strings edges(char **item, size_t n)
{
	return (struct sb_strings){ .item = item, .count = n };
}


static struct agent_rule rule_of(const char *spec)
{
	static char e18[] = "18", e30[] = "30", e65[] = "65", minus_tenth[] = "-0.1", tenth[] = "0.1";
	static char *ages[] = { e18, e30, e65 }, *tenths[] = { minus_tenth, tenth };
	static char drop[] = "drop", suppress[] = "suppress", constant[] = "constant", keep[] = "keep", bucket[] = "bucket", round[] = "round", prefix[] = "prefix",
		    date_part[] = "date_part", top_bottom[] = "top_bottom", why[] = "r", x[] = "x", ten[] = "10", quarter_step[] = "0.25", year[] = "year",
		    quarter[] = "quarter", month[] = "month", lo[] = "16", hi[] = "90", token[] = "token", refuse[] = "refuse", empty[] = "";
	const struct { const char *spec; struct agent_rule rule; } rules[] = {
		{ "drop", { .op = drop } },
		{ "suppress", { .op = suppress } },
		{ "constant", { .op = constant, .value = x } },
		{ "constant-empty", { .op = constant, .value = empty } },
		{ "keep", { .op = keep, .reason = why } },
		{ "keep-token", { .op = keep, .reason = why, .null = token } },
		{ "keep-refuse", { .op = keep, .reason = why, .null = refuse } },
		{ "ages", { .op = bucket, .edges = edges(ages, 3) } },
		{ "ages-token", { .op = bucket, .edges = edges(ages, 3), .null = token } },
		{ "tenths", { .op = bucket, .edges = edges(tenths, 2) } },
		{ "tens", { .op = bucket, .step = ten } },
		{ "round10", { .op = round, .step = ten } },
		{ "round-quarter", { .op = round, .step = quarter_step } },
		{ "prefix2", { .op = prefix, .n = 2 } },
		{ "year", { .op = date_part, .part = year } },
		{ "quarter", { .op = date_part, .part = quarter } },
		{ "month", { .op = date_part, .part = month } },
		{ "ends", { .op = top_bottom, .lo = lo, .hi = hi } },
	};

	for (size_t i = 0; i < SB_COUNT(rules); i++) {
		if (strcmp(rules[i].spec, spec) == 0) {
			struct agent_rule r = rules[i].rule;
			r.role = AGENT_ROLE_QUASI;
			return r;
		}
	}
	ck_abort_msg("no rule \"%s\"", spec);
}

static const struct { const char *rule, *in, *out; } cells[] = {
	{ "suppress", "x", NO_VALUE }, { "suppress", NO_VALUE, NO_VALUE },
	{ "constant", "a", "x" }, { "constant", NO_VALUE, "x" }, { "constant-empty", "a", "" },
	{ "keep", "a,b", "a,b" }, { "keep", "", "" }, { "keep", NO_VALUE, NO_VALUE }, { "keep-token", NO_VALUE, "(null)" }, { "keep-token", "", "" },
	{ "keep-refuse", NO_VALUE, REFUSED }, { "keep-refuse", "", "" },
	{ "ages", "17.999999999999999999999999", "<18" }, { "ages", "18", "[18,30)" }, { "ages", "29", "[18,30)" }, { "ages", "30", "[30,65)" },
	{ "ages", "64.9", "[30,65)" }, { "ages", "65", ">=65" }, { "ages", "-3", "<18" }, { "ages", "1e3", ">=65" }, { "ages", NO_VALUE, NO_VALUE },
	{ "ages-token", NO_VALUE, "(null)" }, { "ages", "", REFUSED }, { "ages", "elderly", REFUSED }, { "ages", "NaN", REFUSED },
	{ "tenths", "0.1", ">=0.1" }, { "tenths", "0.09999999999999999", "[-0.1,0.1)" }, { "tenths", "-0.1", "[-0.1,0.1)" }, { "tenths", "-0.10000000000001", "<-0.1" },
	{ "tens", "0", "[0,10)" }, { "tens", "9.99", "[0,10)" }, { "tens", "10", "[10,20)" }, { "tens", "-1", "[-10,0)" }, { "tens", "-10", "[-10,0)" },
	{ "round10", "14", "10" }, { "round10", "15", "20" }, { "round10", "-15", "-10" }, { "round10", "-16", "-20" }, { "round10", "x", REFUSED },
	{ "round-quarter", "0.13", "0.25" }, { "round-quarter", "0.12", "0" }, { "round-quarter", "7", "7" },
	{ "prefix2", "75011", "75" }, { "prefix2", "7", "7" }, { "prefix2", "", "" }, { "prefix2", "\xc3\xa9t\xc3\xa9", "\xc3\xa9t" }, { "prefix2", "\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac", "\xe2\x82\xac\xe2\x82\xac" },
	{ "year", "1984-06-30", "1984" }, { "year", "1984-06-30 12:00:00+00", "1984" }, { "year", "12024-01-01", "12024" }, { "quarter", "1984-06-30", "1984-Q2" },
	{ "quarter", "1984-01-01", "1984-Q1" }, { "quarter", "1984-12-31T00:00", "1984-Q4" }, { "month", "1984-06-30", "1984-06" }, { "month", NO_VALUE, NO_VALUE },
	{ "year", "0044-03-15 BC", REFUSED }, { "year", "0044-03-15 10:00:00 BC", REFUSED }, { "year", "infinity", REFUSED }, { "year", "84-06-30", REFUSED },
	{ "year", "1984-13-01", REFUSED }, { "year", "1984-06-00", REFUSED }, { "year", "1984-06-30x", REFUSED }, { "year", "1984-06-30 ", REFUSED },
	{ "year", "1984/06/30", REFUSED }, { "year", "", REFUSED },
	{ "ends", "16", "<=16" }, { "ends", "15", "<=16" }, { "ends", "16.0000000000001", "16.0000000000001" }, { "ends", "89.9", "89.9" }, { "ends", "90", ">=90" },
	{ "ends", "104", ">=90" }, { "ends", "many", REFUSED },
};

START_TEST(test_cell)
{
	struct sb_error err = SB_ERROR_INIT;
	struct agent_rule rule = rule_of(cells[_i].rule);
	struct agent_step step = { .rule = &rule, .null_cell = { .kind = SB_CELL_NULL } };
	struct sb_cell in = { .kind = SB_CELL_NULL }, out = { .kind = SB_CELL_UNCHANGED };
	char scratch[AGENT_SCRATCH];

	ck_assert_msg(agent_rule_prepare(&rule, &err) == 0, "%s", err.msg);
	if (rule.on_null == AGENT_NULL_TOKEN)
		step.null_cell = (struct sb_cell){ .kind = SB_CELL_VALUE, .p = AGENT_NULL_TEXT, .n = strlen(AGENT_NULL_TEXT) };
	if (cells[_i].in)
		in = (struct sb_cell){ .kind = SB_CELL_VALUE, .p = cells[_i].in, .n = strlen(cells[_i].in) };
	const char *why = agent_step_apply(&step, &in, &out, scratch);
	const char *want = cells[_i].out;
	if (want && strcmp(want, REFUSED) == 0) {
		ck_assert_msg(why != NULL, "%s took \"%s\"", cells[_i].rule, cells[_i].in ? cells[_i].in : "NULL");
		/* a reason holds nothing of the value */
		ck_assert(!cells[_i].in || !*cells[_i].in || strstr(why, cells[_i].in) == NULL);
	} else if (want) {
		ck_assert_msg(!why && out.kind == SB_CELL_VALUE && out.n == strlen(want) && memcmp(out.p, want, out.n) == 0, "%s of \"%s\": %.*s", cells[_i].rule,
			cells[_i].in, (int)out.n, out.p ? out.p : "");
	} else {
		ck_assert(!why && out.kind == SB_CELL_NULL);
	}
	agent_rule_release(&rule);
}
END_TEST

START_TEST(test_table)
{
	struct sb_error err = SB_ERROR_INIT;
	struct agent_rule drop = rule_of("drop"), keep = rule_of("keep");

	ck_assert_int_eq(agent_rule_prepare(&drop, &err), 0);
	ck_assert(!drop.operator->emits && !drop.operator->reads);
	ck_assert_int_eq(agent_rule_prepare(&keep, &err), 0);
	ck_assert(keep.operator->emits && keep.operator->reads);
	for (int role = AGENT_ROLE_DIRECT; role <= AGENT_ROLE_DROP; role++) {
		bool may = role == AGENT_ROLE_QUASI || role == AGENT_ROLE_SENSITIVE || role == AGENT_ROLE_PUBLIC;
		keep.role = role;
		ck_assert_int_eq(agent_rule_prepare(&keep, &err), may ? 0 : SB_ECONFIG);
	}
}
END_TEST

/* --- tokens --- */

START_TEST(test_vectors)
{
	json_error_t je;
	json_auto_t *file = json_load_file("proto/vectors/pseudonym.json", 0, &je);
	json_t *v, *t;
	size_t i, k;

	ck_assert_msg(file != NULL, "%s", je.text);
	ck_assert_uint_gt(json_array_size(json_object_get(file, "vectors")), 4);
	json_array_foreach(json_object_get(file, "vectors"), i, v)
	{
		struct sb_error err = SB_ERROR_INIT;
		struct agent_scope *scope = NULL;
		uint8_t root[AGENT_ROOT_KEY];
		char key_id[17];

		ck_assert_int_eq(sb_unhex(root, sizeof(root), json_string_value(json_object_get(v, "root")), &err), 0);
		ck_assert_int_eq(agent_scope_from_root(&scope, root, json_string_value(json_object_get(v, "tenant")), json_string_value(json_object_get(v, "link")),
			json_string_value(json_object_get(v, "recipient")), json_string_value(json_object_get(v, "epoch")), &err), 0);
		agent_scope_key_id(scope, key_id);
		ck_assert_str_eq(key_id, json_string_value(json_object_get(v, "key_id")));
		json_array_foreach(json_object_get(v, "tokens"), k, t)
		{
			const char *value = json_string_value(json_object_get(t, "value"));
			struct agent_token *token = NULL;
			char out[AGENT_TOKEN_MAX + 1];

			ck_assert_int_eq(agent_token_new(&token, scope, json_string_value(json_object_get(t, "domain")), json_string_value(json_object_get(t, "prefix")), &err), 0);
			for (int again = 0; again < 2; again++) { /* a token leaves nothing behind for the next */
				out[agent_token_write(token, value, value ? strlen(value) : 0, out)] = '\0';
				ck_assert_str_eq(out, json_string_value(json_object_get(t, "token")));
			}
			agent_token_free(token);
		}
		agent_scope_free(scope);
	}
}
END_TEST

static void token_of(const struct agent_scope *scope, char out[AGENT_TOKEN_MAX + 1])
{
	struct sb_error err = SB_ERROR_INIT;
	struct agent_token *token = NULL;

	ck_assert_int_eq(agent_token_new(&token, scope, "person", "p", &err), 0);
	out[agent_token_write(token, "42", 2, out)] = '\0';
	agent_token_free(token);
}

START_TEST(test_keys)
{
	static const char hex[] = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
	struct sb_error err = SB_ERROR_INIT;
	struct agent_scope *a = NULL, *b = NULL;
	char path[TEST_PATH_MAX], raw[33], one[AGENT_TOKEN_MAX + 1], two[AGENT_TOKEN_MAX + 1];

	test_path(path, "root.key");
	/* the two forms of the file are one key */
	test_write(path, hex, 0400);
	ck_assert_msg(agent_scope_stored(&a, path, "acme", "dataset:d", "train", "1", &err) == 0, "%s", err.msg);
	ck_assert_int_eq(unlink(path), 0);
	for (int i = 0; i < 32; i++)
		raw[i] = (char)i;
	ck_assert_int_eq(sb_file_write(path, raw, 32, 0400, &err), 0);
	ck_assert_msg(agent_scope_stored(&b, path, "acme", "dataset:d", "train", "1", &err) == 0, "%s", err.msg);
	token_of(a, one);
	token_of(b, two);
	ck_assert_str_eq(one, two);
	agent_scope_free(b);
	/* two runs with ephemeral keys share nothing */
	ck_assert_int_eq(agent_scope_ephemeral(&b, &err), 0);
	token_of(b, two);
	ck_assert_str_ne(one, two);
	agent_scope_free(a);
	ck_assert_int_eq(agent_scope_ephemeral(&a, &err), 0);
	token_of(a, one);
	ck_assert_str_ne(one, two);
	agent_scope_free(a);
	agent_scope_free(b);
	/* loose or wrong files */
	ck_assert_int_eq(unlink(path), 0);
	test_write(path, hex, 0444);
	ck_assert_int_eq(agent_scope_stored(&a, path, "acme", "l", "r", "e", &err), SB_ECONFIG);
	test_write(path, "00", 0400);
	ck_assert_int_eq(agent_scope_stored(&a, path, "acme", "l", "r", "e", &err), SB_ECONFIG);
	ck_assert_ptr_null(strstr(err.msg, "00\""));
}
END_TEST

/* --- CSV --- */

static const struct { const char *in, *out; } written[] = {
	{ "a", "a" }, { "", "\"\"" }, { "a,b", "\"a,b\"" }, { "say \"x\"", "\"say \"\"x\"\"\"" }, { "\"", "\"\"\"\"" }, { "two\nlines", "\"two\nlines\"" },
	{ "\\.", "\"\\.\"" }, { "\r", "\"\r\"" }, { "\xc3\xa9", "\xc3\xa9" },
};

START_TEST(test_csv)
{
	struct sb_error err = SB_ERROR_INIT;
	char path[TEST_PATH_MAX];
	struct sb_buf b, header;

	sb_buf_init(&b, 4096);
	sb_buf_init(&header, 100);
	sb_buf_adds(&header, "v\n");
	sb_buf_adds(&b, "v\n");
	for (size_t i = 0; i < SB_COUNT(written); i++) {
		size_t at = b.len;
		agent_csv_cell(&b, written[i].in, strlen(written[i].in));
		ck_assert_str_eq(b.data + at, written[i].out);
		sb_buf_addc(&b, '\n');
	}
	test_path(path, "data.csv");
	test_write(path, b.data, 0600);
	ck_assert_msg(agent_csv_check(path, &header, SB_COUNT(written), &err) == 0, "%s", err.msg);
	ck_assert_int_eq(agent_csv_check(path, &header, SB_COUNT(written) - 1, &err), SB_EPROTO);
	ck_assert_int_eq(agent_csv_check(path, &header, SB_COUNT(written) + 1, &err), SB_EPROTO);
	sb_buf_reset(&header);
	sb_buf_adds(&header, "w\n");
	ck_assert_int_eq(agent_csv_check(path, &header, SB_COUNT(written), &err), SB_EPROTO);
	/* a row that does not end, and nothing at all */
	sb_buf_reset(&header);
	sb_buf_adds(&header, "v\n");
	test_write(path, "v\n1\n2", 0600);
	ck_assert_int_eq(agent_csv_check(path, &header, 1, &err), SB_EPROTO);
	test_write(path, "v\n\"1\n", 0600);
	ck_assert_int_eq(agent_csv_check(path, &header, 1, &err), SB_EPROTO);
	test_write(path, "", 0600);
	ck_assert_int_eq(agent_csv_check(path, &header, 0, &err), SB_EPROTO);
	sb_buf_release(&b);
	sb_buf_release(&header);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("agent operators");
	TCase *tc = tcase_create("operators");

	tcase_add_loop_test(tc, test_decimal, 0, (int)SB_COUNT(decimals));
	tcase_add_loop_test(tc, test_cell, 0, (int)SB_COUNT(cells));
	tcase_add_test(tc, test_table);
	tcase_add_test(tc, test_vectors);
	tcase_add_test(tc, test_keys);
	tcase_add_test(tc, test_csv);
	suite_add_tcase(s, tc);
	return test_run(s);
}
