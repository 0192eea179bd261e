/* Policies: what a file must say, what each mistake is answered with, and that only the file speaks. */
#include <string.h>

#include "dataset/policy.h"
#include "support.h"

#define HEAD "policy: census\nversion: \"3\"\nsource:\n  postgres: {conninfo: \"host=x\", table: public.census}\nrecipients: [dev, train]\n"
#define COLUMNS "columns:\n  - {name: id, role: key, op: pseudonym, domain: person}\n"

static struct agent_policy p;

static void release(void)
{
	agent_policy_release(&p);
}

static int parse(const char *yaml, struct sb_error *err)
{
	return agent_policy_parse(&p, yaml, strlen(yaml), "census.yaml", "/srv/policies", err);
}

START_TEST(test_whole)
{
	struct sb_error err = SB_ERROR_INIT;
	const char *yaml = HEAD "keys: {mode: stored, epoch: 2026-q3, link: \"group:survey\"}\nlimits: {min_rows: 5, max_rows: 10}\ncolumns:\n"
		"  - {name: id, role: key, op: pseudonym, domain: person, null: refuse}\n"
		"  - {name: age, role: quasi, op: bucket, edges: [18, 30.5, \"65\"]}\n"
		"  - {name: Zip Code, role: quasi, op: prefix, n: 2, null: token}\n";

	int r = parse(yaml, &err);
	ck_assert_msg(r == 0, "%s", err.msg);
	ck_assert_str_eq(p.name, "census");
	ck_assert_str_eq(p.version, "3");
	ck_assert_str_eq(p.source.postgres.table, "public.census");
	ck_assert_ptr_null(p.source.csv.path);
	ck_assert_int_eq(p.keys.mode, AGENT_KEYS_STORED);
	ck_assert_str_eq(p.keys.link, "group:survey");
	ck_assert_int_eq(p.limits.min_rows, 5);
	ck_assert(agent_policy_allows(&p, "train") && !agent_policy_allows(&p, "prod"));
	ck_assert_uint_eq(strlen(p.digest), 64);
	const struct agent_rule *rule = agent_policy_rule(&p, "age");
	ck_assert_ptr_nonnull(rule);
	ck_assert_uint_eq(rule->line, 10);
	ck_assert_uint_eq(rule->n_labels, 4);
	ck_assert_str_eq(rule->label[1], "[18,30.5)");
	ck_assert_int_eq(agent_policy_rule(&p, "id")->on_null, AGENT_NULL_REFUSE);
	ck_assert_int_eq(agent_policy_rule(&p, "Zip Code")->on_null, AGENT_NULL_TOKEN);
	ck_assert_ptr_null(agent_policy_rule(&p, "zip code"));
}
END_TEST

START_TEST(test_defaults)
{
	struct sb_error err = SB_ERROR_INIT;

	ck_assert_msg(parse("policy: a\nversion: 1\nsource: {csv: {path: sub/a.csv}}\nrecipients: [dev]\n" COLUMNS, &err) == 0, "%s", err.msg);
	ck_assert_int_eq(p.keys.mode, AGENT_KEYS_EPHEMERAL);
	ck_assert_int_eq(p.limits.min_rows, 100);
	ck_assert_str_eq(p.source.csv.path, "/srv/policies/sub/a.csv");
	ck_assert_str_eq(p.source.fingerprint, "");
}
END_TEST

START_TEST(test_environment_is_not_heard)
{
	struct sb_error err = SB_ERROR_INIT;

	ck_assert_int_eq(setenv("SB_POLICY", "other", 1), 0);
	ck_assert_int_eq(setenv("SB_RECIPIENTS", "explore", 1), 0);
	ck_assert_int_eq(setenv("SB_LIMITS_MIN_ROWS", "1", 1), 0);
	ck_assert_int_eq(setenv("SB_SOURCE_POSTGRES_TABLE", "secret.all", 1), 0);
	ck_assert_msg(parse(HEAD COLUMNS, &err) == 0, "%s", err.msg);
	ck_assert_str_eq(p.name, "census");
	ck_assert(!agent_policy_allows(&p, "explore"));
	ck_assert_int_eq(p.limits.min_rows, 100);
	ck_assert_str_eq(p.source.postgres.table, "public.census");
}
END_TEST

static const struct { const char *yaml, *message; } bad[] = {
	{ HEAD "colums: []\n" COLUMNS, "census.yaml:6:1: colums: unknown key" },
	{ HEAD "version: 4\n" COLUMNS, "census.yaml:6:1: version: duplicate of line 2" },
	{ HEAD "limits: {min_rows: many}\n" COLUMNS, "census.yaml:6:20: limits.min_rows: " },
	{ HEAD "limits: {min_rows: 9, max_rows: 8}\n" COLUMNS, "limits.min_rows: is above max_rows" },
	{ HEAD "keys: {mode: eternal}\n" COLUMNS, "census.yaml:6:14: keys.mode: " },
	{ HEAD "keys: {mode: stored}\n" COLUMNS, "keys.epoch: is required" },
	{ HEAD "keys: {epoch: a}\n" COLUMNS, "keys.mode: ephemeral" },
	{ HEAD "keys: {mode: stored, epoch: a, link: everything}\n" COLUMNS, "keys.link: " },
	{ HEAD "columns: []\n", "census.yaml:6:10: columns: " },
	{ HEAD, "columns: is required" },
	{ HEAD "columns:\n  - {name: id, role: key}\n", "census.yaml:7:5: columns[0].op: is required" },
	{ HEAD "columns:\n  - {name: id, role: boss, op: drop}\n", "census.yaml:7:22: columns[0].role: " },
	{ HEAD "columns:\n  - {name: id, role: key, op: pseudonym, domain: d, salt: x}\n", "census.yaml:7:53: columns[0].salt: unknown key" },
	{ HEAD COLUMNS "  - {name: x, role: key, op: sha256}\n", "census.yaml:8: columns[1].op: \"sha256\" is none of: drop, suppress" },
	{ HEAD COLUMNS "  - {name: id, role: key, op: drop}\n", "census.yaml:8: columns[1].name: the column has a rule already" },
	{ HEAD COLUMNS "  - {name: x, role: direct, op: keep, reason: r}\n", "columns[1].op: keep is not allowed for a column of role direct" },
	{ HEAD COLUMNS "  - {name: x, role: key, op: keep, reason: r}\n", "not allowed for a column of role key" },
	{ HEAD COLUMNS "  - {name: x, role: direct, op: prefix, n: 1}\n", "not allowed for a column of role direct" },
	{ HEAD COLUMNS "  - {name: x, role: drop, op: suppress}\n", "not allowed for a column of role drop" },
	{ HEAD COLUMNS "  - {name: x, role: public, op: keep}\n", "columns[1].reason: is required by keep" },
	{ HEAD COLUMNS "  - {name: x, role: public, op: keep, reason: \" \"}\n", "columns[1].reason: is empty" },
	{ HEAD COLUMNS "  - {name: x, role: key, op: pseudonym}\n", "columns[1].domain: is required" },
	{ HEAD COLUMNS "  - {name: x, role: key, op: pseudonym, domain: \"a b\"}\n", "columns[1].domain: " },
	{ HEAD COLUMNS "  - {name: x, role: key, op: pseudonym, domain: a, step: 3}\n", "columns[1].step: is not a parameter of pseudonym" },
	{ HEAD COLUMNS "  - {name: x, role: quasi, op: bucket}\n", "bucket needs either edges or step" },
	{ HEAD COLUMNS "  - {name: x, role: quasi, op: bucket, edges: [1], step: 1}\n", "bucket needs either edges or step" },
	{ HEAD COLUMNS "  - {name: x, role: quasi, op: bucket, edges: [1, 1.0]}\n", "edges: must go up" },
	{ HEAD COLUMNS "  - {name: x, role: quasi, op: bucket, edges: [one]}\n", "edges: \"one\" is not a number" },
	{ HEAD COLUMNS "  - {name: x, role: quasi, op: round, step: \"0\"}\n", "step: must be above 0" },
	{ HEAD COLUMNS "  - {name: x, role: quasi, op: round, step: 0.0000000001}\n", "step: \"0.0000000001\" is not a number" },
	{ HEAD COLUMNS "  - {name: x, role: quasi, op: top_bottom, lo: 5, hi: 5}\n", "lo: must be below hi" },
	{ HEAD COLUMNS "  - {name: x, role: quasi, op: prefix, n: 0}\n", "columns[1].n: " },
	{ HEAD COLUMNS "  - {name: x, role: quasi, op: date_part, part: day}\n", "part: is none of: year, quarter, month" },
	{ HEAD COLUMNS "  - {name: x, role: quasi, op: round, step: 1, null: zero}\n", "null: is none of" },
	{ HEAD "columns:\n  - {name: id, role: key, op: drop}\n", "columns: none of them is in the output" },
	{ "policy: a\nversion: 1\nsource: {}\nrecipients: [dev]\n" COLUMNS, "source: needs either postgres or csv" },
	{ "policy: a\nversion: 1\nsource: {csv: {path: x}, postgres: {conninfo: y, table: a.b}}\nrecipients: [dev]\n" COLUMNS, "source: needs either postgres or csv" },
	{ "policy: a\nversion: 1\nsource: {postgres: {conninfo: y}}\nrecipients: [dev]\n" COLUMNS, "needs either query or table" },
	{ "policy: a\nversion: 1\nsource: {postgres: {conninfo: y, table: census}}\nrecipients: [dev]\n" COLUMNS, "is not schema.table" },
	{ "policy: a\nversion: 1\nsource: {csv: {path: x}, fingerprint: abc}\nrecipients: [dev]\n" COLUMNS, "source.fingerprint: " },
	{ "policy: a\nversion: 1\nsource: {csv: {path: x}}\nrecipients: [\"Dev\"]\n" COLUMNS, "recipients[0]: is not a stage" },
	{ "policy: a\nversion: 1\nsource: {csv: {path: x}}\nrecipients: []\n" COLUMNS, "recipients: 0 items" },
	{ "policy: &a census\n", "anchors are refused" },
	{ "policy: [", "yaml: did not find expected" },
};

START_TEST(test_bad)
{
	struct sb_error err = SB_ERROR_INIT;

	ck_assert_int_eq(parse(bad[_i].yaml, &err), SB_ECONFIG);
	ck_assert_msg(strncmp(err.msg, "census.yaml", 11) == 0 && strstr(err.msg, bad[_i].message), "\"%s\" instead of \"%s\"", err.msg, bad[_i].message);
}
END_TEST

START_TEST(test_files)
{
	struct sb_error err = SB_ERROR_INIT;
	char dir[TEST_PATH_MAX], file[TEST_PATH_MAX];

	test_path(dir, "");
	test_path(file, "census.yaml");
	ck_assert_int_eq(agent_policy_load(&p, dir, "census", &err), SB_ENOTFOUND);
	test_write(file, HEAD COLUMNS, 0600);
	ck_assert_msg(agent_policy_load(&p, dir, "census", &err) == 0, "%s", err.msg);
	ck_assert_int_eq(agent_policy_load(&p, dir, "../census", &err), SB_EINVAL);
}
END_TEST

START_TEST(test_sample)
{
	struct sb_error err = SB_ERROR_INIT;
	char *yaml = test_read("config/policies/census.sample.yaml");

	ck_assert_msg(parse(yaml, &err) == 0, "%s", err.msg);
	ck_assert_uint_eq(p.columns.count, 11);
	free(yaml);
}
END_TEST

START_TEST(test_no_memory)
{
	struct sb_error err = SB_ERROR_INIT;

	for (long n = 0;; n++) {
		fault_alloc_after(n);
		int r = parse(HEAD COLUMNS "  - {name: a, role: quasi, op: bucket, edges: [1, 2]}\n  - {name: b, role: quasi, op: top_bottom, lo: 1, hi: 2}\n", &err);
		fault_alloc_after(-1);
		if (!fault_hit()) {
			ck_assert_int_eq(r, 0);
			break;
		}
		if (r == 0) /* the lines of messages are worth no failure */
			agent_policy_release(&p);
		else
			ck_assert_int_eq(r, SB_ENOMEM);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("agent policy");
	TCase *tc = tcase_create("policy");

	tcase_add_checked_fixture(tc, NULL, release);
	tcase_add_test(tc, test_whole);
	tcase_add_test(tc, test_defaults);
	tcase_add_test(tc, test_environment_is_not_heard);
	tcase_add_loop_test(tc, test_bad, 0, (int)SB_COUNT(bad));
	tcase_add_test(tc, test_files);
	tcase_add_test(tc, test_sample);
	tcase_add_test(tc, test_no_memory);
	suite_add_tcase(s, tc);
	return test_run(s);
}
