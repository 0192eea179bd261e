/* The promotion policy: the sample loads and means what it says, every mistake is refused with its place, digests change with the meaning and with nothing else. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "stagebridge/policy.h"
#include "support.h"

#define NOW INT64_C(1790000000000) /* 2026-09-21T14:13:20Z */

static int64_t utc(const char *text)
{
	struct tm tm = { 0 };
	const char *end = strptime(text, "%Y-%m-%dT%H:%M", &tm);

	ck_assert_msg(end && *end == '\0', "%s", text);
	return (int64_t)timegm(&tm) * 1000;
}

static void load(struct sb_policy *p, const char *yaml)
{
	struct sb_error err = SB_ERROR_INIT;

	ck_assert_msg(sb_policy_parse(p, yaml, strlen(yaml), "p.yaml", NOW, &err) == 0, "%s", err.msg);
}

static char *sample(void)
{
	return test_read("config/policies/promotion.sample.yaml");
}

static const struct sb_policy_stage stages[] = { { "dev", false, 0 }, { "train", false, 0 }, { "preprod", false, 3600000 }, { "prod", true, 0 } };

START_TEST(test_sample)
{
	sb_cleanup(sb_freep) char *yaml = sample();
	struct sb_error err = SB_ERROR_INIT;
	struct sb_policy p;

	load(&p, yaml);
	ck_assert_msg(sb_policy_fit(&p, stages, SB_COUNT(stages), NOW, &err) == 0, "%s", err.msg);
	ck_assert_uint_eq(p.edges.count, 4);
	const struct sb_policy_edge *prod = sb_policy_edge_to(&p, "prod");
	ck_assert_str_eq(prod->from, "preprod");
	ck_assert_int_eq(prod->mode, SB_MODE_MANUAL);
	ck_assert_int_eq(prod->select, SB_SELECT_FIFO);
	ck_assert_int_eq(prod->soak.min_ms, 86400000);
	ck_assert_int_eq(sb_policy_approvals(prod), 2);
	ck_assert_int_eq(prod->approvals.self, SB_SELF_DENY);
	ck_assert_int_eq(prod->retry.attempts, 2);
	ck_assert_int_eq(sb_policy_approvals(sb_policy_edge_to(&p, "dev")), 0);
	ck_assert_ptr_null(sb_policy_edge_to(&p, "explore"));
	ck_assert(sb_policy_member(sb_policy_group_find(&p, "quality"), "tom"));
	ck_assert(!sb_policy_member(sb_policy_group_find(&p, "release"), "ines"));
	ck_assert_uint_eq(strlen(p.digest), 64);

	json_auto_t *told = sb_policy_explain(&p, prod, utc("2026-12-01T10:00"));
	ck_assert_ptr_nonnull(told);
	sb_cleanup(sb_freep) char *text = json_dumps(told, 0);
	ck_assert_ptr_nonnull(strstr(text, "2 different people must say yes"));
	ck_assert_ptr_nonnull(strstr(text, "of them at least 1 of release: maria, tom"));
	ck_assert_ptr_nonnull(strstr(text, "preprod for 1d without a break"));
	sb_policy_release(&p);
}
END_TEST

/* Mondays to Thursdays 9:00 to 16:00 in Paris, not around the end of a month, not from 18 December to 4 January */
static const struct { const char *at; bool open; const char *next, *why; } moments[] = {
	{ "2026-09-21T07:00", true, "2026-09-21T14:00", "" },
	{ "2026-09-21T06:59", false, "2026-09-21T07:00", "outside of \"working hours\"" },
	{ "2026-09-21T14:00", false, "2026-09-22T07:00", "outside of \"working hours\"" },
	{ "2026-09-24T14:00", false, "2026-09-29T07:00", "outside of \"working hours\"" },     /* Thursday; the month's end closes Friday noon to Monday night */
	{ "2026-09-28T10:00", false, "2026-09-29T07:00", "closed by \"month end\"" },          /* deny beats allow */
	{ "2026-05-29T12:00", false, "2026-06-01T07:00", "outside of \"working hours\"" },      /* left out: no month end, still a Friday */
	{ "2026-10-26T07:30", false, "2026-10-26T08:00", "outside of \"working hours\"" },      /* the clocks went back on Sunday */
	{ "2026-10-26T08:00", true, "2026-10-26T15:00", "" },
	{ "2026-12-17T14:30", true, "2026-12-17T15:00", "" },
	{ "2026-12-21T10:00", false, "2027-01-04T08:00", "closed by \"year end\"" },            /* the freeze ends at 8:00, 7:00 UTC, before working hours */
	{ "2026-12-24T10:00", false, "2027-01-04T08:00", "closed by \"year end\"" },
};

START_TEST(test_moment)
{
	sb_cleanup(sb_freep) char *yaml = sample();
	struct sb_policy_moment m;
	struct sb_policy p;

	load(&p, yaml);
	sb_policy_at(&p, sb_policy_edge_to(&p, "prod"), utc(moments[_i].at), &m);
	ck_assert_int_eq(m.open, moments[_i].open);
	ck_assert_int_eq(m.open ? m.next_close : m.next_open, utc(moments[_i].next));
	ck_assert_int_eq(m.open ? m.next_open : m.next_close, 0);
	ck_assert_str_eq(m.reason, moments[_i].why);
	ck_assert(m.open || m.since <= utc(moments[_i].at));
	/* an edge without windows of its own knows the freeze alone */
	sb_policy_at(&p, sb_policy_edge_to(&p, "dev"), utc(moments[_i].at), &m);
	ck_assert_int_eq(m.open, utc(moments[_i].at) < utc("2026-12-18T17:00"));
	sb_policy_release(&p);
}
END_TEST

#define HEAD "policy: a\nversion: \"1\"\n"
#define EDGE "edges:\n  - edge: a..b\n    mode: auto\n"

static const struct { const char *yaml, *msg; } bad[] = {
	{ "", "p.yaml:1:1: policy: is required, but missing" },
	{ HEAD, "p.yaml:1:1: edges: is required, but missing" },
	{ HEAD "edges: []\n", "p.yaml:3:8: edges: 0 items, must be 1..64" },
	{ HEAD EDGE "    colour: red\n", "p.yaml:6:5: edges[0].colour: unknown key" },
	{ HEAD "edges:\n  - edge: a..b\n    mode: never\n", "p.yaml:5:11: edges[0].mode: \"never\" is none of: auto, manual, on_merge" },
	{ HEAD "edges:\n  - edge: a..b\n", "p.yaml:4:5: edges[0].mode: is required, but missing" },
	{ HEAD "edges:\n  - edge: ab\n    mode: auto\n", "p.yaml:4:11: edges[0].edge: \"ab\" is not FROM..TO, such as preprod..prod" },
	{ HEAD "edges:\n  - { edge: a..a, mode: auto }\n", "p.yaml:4:13: edges[0].edge: \"a..a\" is not FROM..TO" },
	{ HEAD "edges:\n  - { edge: A..b, mode: auto }\n", "p.yaml:4:13: edges[0].edge: \"A..b\" is not FROM..TO" },
	{ HEAD "edges:\n  - { edge: b..main, mode: auto }\n", "p.yaml:4:13: edges[0].edge: \"b..main\" is not FROM..TO" },
	{ HEAD "edges:\n  - { edge: a..b, mode: auto }\n  - { edge: c..b, mode: auto }\n", "p.yaml:5:13: edges[1].edge: \"b\" has an edge already" },
	{ HEAD EDGE "    soak: { min: 1x }\n", "p.yaml:6:18: edges[0].soak.min: \"1x\" is not a duration" },
	{ HEAD EDGE "    approvals: { rules: [{ group: nobody }] }\n", "p.yaml:6:35: edges[0].approvals.rules[0].group: \"nobody\" is not one of the groups" },
	{ HEAD "groups: [{ name: g, members: [x, y] }]\n" EDGE "    approvals: { min: 3, rules: [{ group: g }] }\n",
		"p.yaml:7:23: edges[0].approvals.min: 3 people are asked for, the groups have 2" },
	{ HEAD "groups: [{ name: g, members: [x, y] }, { name: h, members: [y] }]\n" EDGE "    approvals: { min: 3, rules: [{ group: g }, { group: h }] }\n",
		"p.yaml:7:23: edges[0].approvals.min: 3 people are asked for, the groups have 2" },
	{ HEAD "groups: [{ name: g, members: [x] }]\n" EDGE "    approvals: { rules: [{ group: g, min: 2 }] }\n",
		"p.yaml:7:43: edges[0].approvals.rules[0].min: 2 people of \"g\" are asked for, it has 1" },
	{ HEAD "groups: [{ name: g, members: [x] }]\n" EDGE "    approvals: { rules: [{ group: g }, { group: g }] }\n", "p.yaml:7:49: edges[0].approvals.rules[1].group: \"g\" has a rule already" },
	{ HEAD "groups: [{ name: g, members: [x, x] }]\n" EDGE, "p.yaml:3:34: groups[0].members[1]: \"x\" is there twice" },
	{ HEAD "groups: [{ name: g, members: [x] }, { name: g, members: [y] }]\n" EDGE, "p.yaml:3:45: groups[1].name: \"g\" is there twice" },
	{ HEAD EDGE "    statuses: { required: [stagebridge/dev] }\n", "p.yaml:6:28: edges[0].statuses.required[0]: \"stagebridge/dev\" is the hub's own word" },
	{ HEAD EDGE "    windows: { deny: [{ name: x, tz: Mars, start: 2026-01-01, duration: 1h }] }\n", "p.yaml:6:38: edges[0].windows.deny[0].tz: is not a time zone" },
	{ HEAD EDGE "    windows: { allow: [{ name: x, start: 2026-01-01, duration: 1h, rrule: x }] }\n", "p.yaml:6:75: edges[0].windows.allow[0].rrule: is not a recurrence rule" },
	{ HEAD EDGE "    windows: { allow: [{ name: x, start: 2026-01-01 }] }\n", "p.yaml:6:42: edges[0].windows.allow[0].start: needs either an end or a duration" },
	{ HEAD "freezes: [{ name: x, start: soon, duration: 1h }]\n" EDGE, "p.yaml:3:29: freezes[0].start: is not a local time" },
	{ HEAD "freezes: [{ name: \"\", start: 2026-01-01, duration: 1h }]\n" EDGE, "p.yaml:3:19: freezes[0].name: expected 1 to 80 bytes" },
};

START_TEST(test_bad)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_policy p;

	ck_assert_int_eq(sb_policy_parse(&p, bad[_i].yaml, strlen(bad[_i].yaml), "p.yaml", NOW, &err), SB_ECONFIG);
	ck_assert_msg(strncmp(err.msg, bad[_i].msg, strlen(bad[_i].msg)) == 0, "got \"%s\", not \"%s\"", err.msg, bad[_i].msg);
	ck_assert_int_eq(sb_code_exit(err.code), 78);
	ck_assert_ptr_null(p.edges.item);
}
END_TEST

/* What the engine cannot do yet is refused by name, never taken in silence */
static const struct { const char *line, *path; } later[] = {
	{ "select: match_upstream", "select" }, { "select: exact", "select" }, { "availability: { strategy: one_of }", "availability.strategy" },
	{ "availability: { upstream: [x] }", "availability.upstream" }, { "windows: { override: boss }", "windows.override" }, { "deadlines: { verify: 1h }", "deadlines.verify" },
	{ "retry: { backoff: 1s }", "retry.backoff" }, { "rollback: { on: [verification.failed] }", "rollback.on" }, { "rollback: { schema_guard: required }", "rollback.schema_guard" },
	{ "verification: { suite: [smoke] }", "verification.suite" }, { "evidence: { require: [provenance] }", "evidence.require" }, { "evidence: { emit: vsa }", "evidence.emit" },
	{ "data: { down: public }", "data.down" }, { "data: { attestation: none }", "data.attestation" }, { "data: { max_age: 7d }", "data.max_age" }, { "depends_on: [schema]", "depends_on" },
};

START_TEST(test_not_supported_yet)
{
	sb_cleanup(sb_freep) char *yaml = sb_asprintf(HEAD EDGE "    %s\n", later[_i].line), *want = sb_asprintf("edges[0].%s: not supported yet: ", later[_i].path);
	struct sb_error err = SB_ERROR_INIT;
	struct sb_policy p;

	ck_assert_int_eq(sb_policy_parse(&p, yaml, strlen(yaml), "p.yaml", NOW, &err), SB_ECONFIG);
	ck_assert_msg(strncmp(err.msg, "p.yaml:6:", 9) == 0 && strstr(err.msg, want) != NULL, "%s", err.msg);
}
END_TEST

static int fit(const char *yaml, struct sb_policy *p, struct sb_error *err)
{
	load(p, yaml);
	return sb_policy_fit(p, stages, SB_COUNT(stages), NOW, err);
}

START_TEST(test_fit)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_policy p;

	ck_assert_int_eq(fit(HEAD "edges:\n  - { edge: dev..prod, mode: auto }\n", &p, &err), SB_ECONFIG);
	ck_assert_str_eq(err.msg, "p.yaml:4:13: edges[0].edge: the stage before \"prod\" is \"preprod\": expected preprod..prod");
	sb_policy_release(&p);
	ck_assert_int_eq(fit(HEAD "edges:\n  - { edge: prod..explore, mode: auto }\n", &p, &err), SB_ECONFIG);
	ck_assert_ptr_nonnull(strstr(err.msg, "\"explore\" is not a stage that artifacts are promoted into"));
	sb_policy_release(&p);
	/* what is not named follows the stage */
	ck_assert_int_eq(fit(HEAD "edges:\n  - { edge: train..preprod, mode: manual }\n", &p, &err), 0);
	ck_assert_uint_eq(p.edges.count, 4);
	ck_assert(!sb_policy_edge_to(&p, "preprod")->built_in);
	ck_assert_int_eq(sb_policy_edge_to(&p, "preprod")->soak.min_ms, 0);
	ck_assert(sb_policy_edge_to(&p, "dev")->built_in);
	ck_assert_str_eq(sb_policy_edge_to(&p, "dev")->from, "main");
	ck_assert_int_eq(sb_policy_edge_to(&p, "prod")->mode, SB_MODE_MANUAL);
	sb_policy_release(&p);
	/* no policy at all */
	p = (struct sb_policy){ .name = NULL };
	ck_assert_int_eq(sb_policy_fit(&p, stages, SB_COUNT(stages), NOW, &err), 0);
	ck_assert_str_eq(p.name, "built-in");
	ck_assert_int_eq(sb_policy_edge_to(&p, "preprod")->soak.min_ms, 3600000);
	sb_policy_release(&p);
}
END_TEST

static void digest_of(const char *yaml, char out[65])
{
	struct sb_policy p;

	load(&p, yaml);
	memcpy(out, sb_policy_edge_to(&p, "b")->digest, 65);
	sb_policy_release(&p);
}

#define GROUPS(members) "groups:\n  - { name: g, members: [" members "] }\n  - { name: other, members: [q] }\n"
#define ASKED "    approvals: { min: 1, rules: [{ group: g }] }\n"

START_TEST(test_digest)
{
	static const struct { const char *yaml; bool same; } others[] = {
		{ "# a comment\n" HEAD GROUPS("x") EDGE ASKED, true },
		{ "version: \"2\"\npolicy: z\n" GROUPS("x") EDGE ASKED, true },                                   /* names are for people */
		{ HEAD GROUPS("x") EDGE ASKED "  - { edge: b..c, mode: manual }\n", true },                      /* another edge */
		{ HEAD "groups:\n  - { name: g, members: [x] }\n" EDGE ASKED, true },                            /* a group it does not ask */
		{ HEAD GROUPS("x") EDGE "    approvals: { rules: [{ group: g }], min: 1, expires: 30d }\n", true }, /* the default, said */
		{ HEAD GROUPS("x, y") EDGE ASKED, false },
		{ HEAD GROUPS("x") EDGE "    approvals: { min: 1 }\n", false },
		{ HEAD GROUPS("x") EDGE ASKED "    soak: { min: 1s }\n", false },
		{ HEAD GROUPS("x") "freezes: [{ name: f, start: 2026-01-01, duration: 1h }]\n" EDGE ASKED, false },
	};
	char one[65], other[65];

	digest_of(HEAD GROUPS("x") EDGE ASKED, one);
	for (size_t i = 0; i < SB_COUNT(others); i++) {
		digest_of(others[i].yaml, other);
		ck_assert_msg((strcmp(one, other) == 0) == others[i].same, "policy %zu", i);
	}
}
END_TEST

START_TEST(test_out_of_memory)
{
	static const char yaml[] = HEAD GROUPS("x") EDGE ASKED "    windows: { deny: [{ name: n, start: 2026-01-01, duration: 1h }] }\n";
	struct sb_error err = SB_ERROR_INIT;

	for (long n = 0;; n++) {
		struct sb_policy p;
		fault_alloc_after(n);
		int r = sb_policy_parse(&p, yaml, strlen(yaml), "p.yaml", NOW, &err);
		fault_alloc_after(-1);
		sb_policy_release(&p);
		if (!fault_hit())
			break;
		ck_assert_msg(r == SB_ENOMEM, "allocation %ld: %d %s", n, r, err.msg);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("promotion policy");
	TCase *tc = tcase_create("all");

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, test_sample);
	tcase_add_loop_test(tc, test_moment, 0, (int)SB_COUNT(moments));
	tcase_add_loop_test(tc, test_bad, 0, (int)SB_COUNT(bad));
	tcase_add_loop_test(tc, test_not_supported_yet, 0, (int)SB_COUNT(later));
	tcase_add_test(tc, test_fit);
	tcase_add_test(tc, test_digest);
	tcase_add_test(tc, test_out_of_memory);
	suite_add_tcase(s, tc);
	return test_run(s);
}
