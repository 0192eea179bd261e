/* Policy and gates over the hub's real store, with the engine's own lane: approvals, windows, statuses, brakes, and a policy that changes under what waits. Something of
 * the same origin is on its way into prod all the time, so that what is let through stops at the gate "stage" and no order is packed. */
#include <stdio.h>

#include "hub_rig.h"
#include "promote/engine.h"

static struct rig rig;

#define HEX(d) "repeat('" d "', 64)"
#define OID    "repeat('c', 40)"
#define HEAD   "policy: acme\nversion: \"1\"\ngroups:\n  - { name: release, members: [maria, tom] }\n  - { name: quality, members: [ines, tom] }\n"
#define TWO    "edges:\n  - edge: train..prod\n    mode: manual\n    approvals: { min: 2, rules: [{ group: release, min: 1 }, { group: quality }] }\n"

/* The file is replaced as a whole, so it is another one even within the same moment */
static void write_policy(const char *text)
{
	char path[TEST_PATH_MAX], fresh[TEST_PATH_MAX];

	test_path(path, "policy.yaml");
	test_path(fresh, "policy.new");
	test_write(fresh, text, 0644);
	ck_assert_int_eq(rename(fresh, path), 0);
	hub_wake(rig.w, "engine");
}

/* model's artifact 2 is verified in train for two hours and proposed for prod; 1 is on its way there */
static void open_with(const char *policy)
{
	static const char *const topics[] = { NULL };
	char path[TEST_PATH_MAX];

	rig_open(&rig, topics, NULL);
	test_path(path, "policy.yaml");
	write_policy(policy);
	((struct hub_tenant *)rig.hub->set.tenants.item)->policy = sb_strdup(path);
	rig_run(&rig,
		"INSERT INTO lifecycle.artifact (id, origin, commit_oid, tree_oid, kind, title, author, committed_at, manifest) "
		"SELECT repeat(to_hex(n), 64), 'model', repeat(substr('abcd', n::int + 1, 1), 40), repeat('d', 40), 'merge', 'change ' || n, 'ann', now(), '{}' FROM generate_series(1, 2) n;"
		"INSERT INTO lifecycle.pull_request (origin, number, title, state, head, base, head_oid, merge_oid, author, url) VALUES ('model', 1, 't', 'merged', 'h', 'main', 'x', " OID ", 'ann', '');"
		"INSERT INTO lifecycle.occupancy (stage, origin, artifact, promotion, since, verified_at) VALUES ('train', 'model', " HEX("2") ", 'p', now() - interval '2 h', now() - interval '2 h'),"
		" ('dev', 'model', " HEX("2") ", 'p', now() - interval '3 h', now() - interval '3 h');"
		"INSERT INTO lifecycle.promotion (id, origin, artifact, stage, kind, state, requested_by) VALUES ('before', 'model', " HEX("1") ", 'prod', 'manual', 'APPLYING', 'tom')");
	rig_start(&rig, "engine", -1, hub_engine_lane);
	rig_await(&rig, "SELECT count(*) FROM lifecycle.promotion WHERE stage = 'prod' AND kind = 'auto' AND state = 'GATED' AND waiting_for <> ''", 1);
}

static void close_all(void)
{
	rig_stop(&rig);
	rig_close(&rig);
}

/* Waits until what the promotion into prod waits for is like that */
static void waits_for(const char *like)
{
	sb_cleanup(sb_freep) char *sql = sb_asprintf("SELECT (waiting_for LIKE '%s')::int FROM lifecycle.promotion WHERE stage = 'prod' AND id <> 'before' ORDER BY seq DESC LIMIT 1", like);
	bool holds = wait_until(rig_i64(&rig, sql) == 1, RIG_WAIT_MS);

	if (!holds) {
		sb_cleanup(sb_freep) char *got = rig_text(&rig, "SELECT state || ' ' || waiting_for FROM lifecycle.promotion WHERE id <> 'before' AND stage = 'prod' ORDER BY seq DESC LIMIT 1");
		ck_abort_msg("waits for \"%s\", not like \"%s\"", got, like);
	}
}

#define ONLY_THE_STAGE "stage: the stage is busy with before APPLYING"

/* A person asks; returns the answer: "done", or "refused: why" */
static const char *ask(const char *action, const char *stage, const char *origin, const char *person)
{
	static char said[600];
	static unsigned n;
	char id[32];

	rig_ok(sb_format(id, sizeof(id), err, "q%u", n++));
	sb_cleanup(sb_freep) char *insert = sb_asprintf(
		"INSERT INTO lifecycle.promotion_request (id, stage_from, action, origin, artifact, stage, promotion, person, reason) SELECT '%s', 'hub', '%s', '%s', '', '%s',"
		" coalesce((SELECT id FROM lifecycle.promotion WHERE stage = 'prod' AND id <> 'before' ORDER BY seq DESC LIMIT 1), ''), '%s', 'because'",
		id, action, origin, stage, person);
	sb_cleanup(sb_freep) char *open = sb_asprintf("SELECT count(*) FROM lifecycle.promotion_request WHERE id = '%s' AND state = 'open'", id);
	sb_cleanup(sb_freep) char *answer = sb_asprintf("SELECT state || CASE WHEN state = 'refused' THEN ': ' || answer ELSE '' END FROM lifecycle.promotion_request WHERE id = '%s'", id);
	rig_run(&rig, insert);
	hub_wake(rig.w, "engine");
	rig_await(&rig, open, 0);
	sb_cleanup(sb_freep) char *text = rig_text(&rig, answer);
	rig_ok(sb_format(said, sizeof(said), err, "%s", text));
	return said;
}

START_TEST(test_approvals)
{
	open_with(HEAD TWO);
	waits_for("approval: 2 more people%%stage: %%");
	ck_assert_str_eq(ask("approve", "", "", "bob"), "refused: bob is in none of the groups whose yes counts for train..prod");
	ck_assert_str_eq(ask("approve", "", "", "ann"), "refused: ann made this change: somebody else must let it into prod");
	ck_assert_str_eq(ask("approve", "", "", "ines"), "done");
	waits_for("approval: 1 more person must say yes, one of release%%yes: ines%%");
	ck_assert_str_eq(ask("approve", "", "", "ines"), "done"); /* twice is once */
	ck_assert_str_eq(ask("approve", "", "", "maria"), "done");
	waits_for(ONLY_THE_STAGE);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.approval a JOIN lifecycle.promotion p ON p.id = a.promotion WHERE a.artifact = p.artifact AND a.policy = p.policy"), 2);
	/* one takes the yes back */
	ck_assert_str_eq(ask("reject", "", "", "maria"), "done");
	rig_await(&rig, "SELECT count(*) FROM lifecycle.promotion WHERE stage = 'prod' AND state = 'REJECTED'", 1);
	close_all();
}
END_TEST

/* A request is the yes of who asks, where it counts */
START_TEST(test_human_and_automation_make_one)
{
	open_with(HEAD TWO);
	ck_assert_str_eq(ask("promote", "prod", "model", "tom"), "done");
	waits_for("approval: 1 more person%%yes: tom%%");
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.promotion WHERE stage = 'prod' AND artifact = " HEX("2")), 1); /* asked for and proposed: one */
	ck_assert_str_eq(ask("promote", "prod", "model", "ann"), "refused: ann made this change: somebody else must let it into prod");
	close_all();
}
END_TEST

/* The policy changes under what waits: judged again at once, a yes for the former one no longer counts; a comment changes nothing; a mistake neither */
START_TEST(test_policy_changes)
{
	open_with(HEAD TWO);
	ck_assert_str_eq(ask("approve", "", "", "ines"), "done");
	ck_assert_str_eq(ask("approve", "", "", "maria"), "done");
	waits_for(ONLY_THE_STAGE);
	int64_t steps = rig_i64(&rig, "SELECT count(*) FROM lifecycle.audit WHERE action = 'changed'");

	write_policy("# a word for people\n" HEAD TWO);
	rig_await(&rig, "SELECT count(*) FROM lifecycle.policy", 2);
	waits_for(ONLY_THE_STAGE);
	write_policy(HEAD "edges: [\n");
	char problem[480] = "";
	ck_assert(wait_until((hub_wake(rig.w, "engine"), hub_policy_problem(rig.w, problem, sizeof(problem)), problem[0] != '\0'), RIG_WAIT_MS));
	ck_assert_ptr_nonnull(strstr(problem, "policy.yaml:"));
	waits_for(ONLY_THE_STAGE);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.policy"), 2);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.audit WHERE action = 'changed'"), steps);

	write_policy(HEAD TWO "    soak: { min: 30m }\n");
	waits_for("approval: 2 more people%%a yes that does not count%%");
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.audit WHERE action = 'changed'"), steps + 1);
	ck_assert(wait_until((hub_policy_problem(rig.w, problem, sizeof(problem)), problem[0] == '\0'), RIG_WAIT_MS));
	ck_assert_str_eq(ask("approve", "", "", "ines"), "done");
	ck_assert_str_eq(ask("approve", "", "", "maria"), "done");
	waits_for(ONLY_THE_STAGE);
	write_policy(HEAD "edges:\n  - { edge: train..prod, mode: auto }\n");
	rig_await(&rig, "SELECT count(*) FROM lifecycle.stage WHERE name = 'prod' AND mode = 'auto'", 1);
	waits_for(ONLY_THE_STAGE);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.audit WHERE action = 'policy in force'"), 4);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.audit_broken"), 0);
	close_all();
}
END_TEST

START_TEST(test_soak_window_and_statuses)
{
	open_with(HEAD "edges:\n  - edge: train..prod\n    mode: auto\n    soak: { min: 3h }\n    statuses: { required: [ci/build], reporters: [ci] }\n"
		       "    windows: { deny: [{ name: year end, start: 2020-01-01, duration: 300d, rrule: FREQ=YEARLY }] }\n");
	waits_for("soak: must stay in train%%status: ci/build is not reported yet%%");
	rig_run(&rig, "UPDATE lifecycle.occupancy SET since = now() - interval '4 h' WHERE stage = 'train'");
	hub_wake(rig.w, "engine");
	waits_for("status: ci/build is not reported yet%%");
	/* our own word on the commit is no answer of another system */
	rig_run(&rig, "INSERT INTO lifecycle.commit_status (origin, oid, context, state, reporter) VALUES ('model', " OID ", 'ci/build', 'success', 'bob')");
	hub_wake(rig.w, "engine");
	waits_for("status: ci/build is not reported yet%%");
	rig_run(&rig, "UPDATE lifecycle.commit_status SET reporter = 'ci' WHERE context = 'ci/build'");
	hub_wake(rig.w, "engine");
	/* 300 days of the year are closed: what is left depends on the day of this run, and on nothing else */
	bool closed = rig_i64(&rig, "SELECT (extract(doy FROM now() AT TIME ZONE 'UTC') <= 300)::int") == 1;
	waits_for(closed ? "window: closed by \"year end\", opens %%stage:%%" : ONLY_THE_STAGE);
	close_all();
}
END_TEST

START_TEST(test_brakes)
{
	open_with(HEAD "edges:\n  - { edge: train..prod, mode: auto }\n");
	waits_for(ONLY_THE_STAGE);
	ck_assert_str_eq(ask("stop", "", "", "maria"), "done");
	waits_for("stop: the line was stopped by maria: because; stage:%%");
	ck_assert_str_eq(ask("stop", "", "", "maria"), "done");
	ck_assert_str_eq(ask("resume", "prod", "", "maria"), "refused: there is no stop of exactly this stage and origin");
	ck_assert_str_eq(ask("resume", "", "", "maria"), "done");
	waits_for(ONLY_THE_STAGE);
	ck_assert_str_eq(ask("stop", "prod", "", "maria"), "done");
	waits_for("stop: %%");
	ck_assert_str_eq(ask("resume", "prod", "", "tom"), "done");
	ck_assert_str_eq(ask("stop", "dev", "model", "maria"), "done"); /* another stage */
	ck_assert_str_eq(ask("stop", "explore", "", "maria"), "refused: \"explore\" is not a stage that artifacts are promoted into");
	ck_assert_str_eq(ask("hold", "prod", "model", "maria"), "done");
	waits_for("hold: automation is held by maria: because; stage:%%");
	ck_assert_str_eq(ask("hold", "prod", "", "maria"), "refused: which stage and which origin?");
	ck_assert_str_eq(ask("release", "prod", "model", "maria"), "done");
	waits_for(ONLY_THE_STAGE);
	ck_assert_str_eq(ask("release", "prod", "model", "maria"), "refused: automation is not held for this stage and origin");
	close_all();
}
END_TEST

/* An artifact more becomes verified in train */
static void next_artifact(int n)
{
	sb_cleanup(sb_freep) char *sql = sb_asprintf(
		"BEGIN; INSERT INTO lifecycle.artifact (id, origin, commit_oid, tree_oid, kind, title, author, committed_at, manifest) VALUES (repeat('%d', 64), 'model', repeat('%d', 40), 'x', 'merge', 't', 'ann', now(), '{}');"
		"UPDATE lifecycle.occupancy SET until = now() WHERE stage = 'train' AND until IS NULL;"
		"INSERT INTO lifecycle.occupancy (stage, origin, artifact, promotion, verified_at) VALUES ('train', 'model', repeat('%d', 64), 'p', now()); COMMIT",
		n, n, n);
	rig_run(&rig, sql);
	hub_wake(rig.w, "engine");
}

static const struct { const char *select; int64_t waiting, superseded; } selects[] = { { "newest", 1, 1 }, { "newest_ready", 2, 0 }, { "fifo", 2, 0 } };

START_TEST(test_select)
{
	sb_cleanup(sb_freep) char *policy = sb_asprintf(HEAD "edges:\n  - { edge: train..prod, mode: manual, select: %s }\n", selects[_i].select);

	open_with(policy);
	next_artifact(3);
	rig_await(&rig, "SELECT count(*) FROM lifecycle.promotion WHERE stage = 'prod' AND artifact = " HEX("3") " AND state = 'GATED'", 1);
	rig_await(&rig, "SELECT count(*) FROM lifecycle.promotion WHERE stage = 'prod' AND state = 'GATED'", selects[_i].waiting);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.promotion WHERE stage = 'prod' AND state = 'SUPERSEDED'"), selects[_i].superseded);
	if (strcmp(selects[_i].select, "fifo") == 0)
		waits_for("approval%%queue: promotion %% of this origin comes first;%%");
	close_all();
}
END_TEST

/* What waited too long ends, and automation does not propose it again */
START_TEST(test_expires)
{
	open_with(HEAD "edges:\n  - { edge: train..prod, mode: manual, deadlines: { waiting: 1h } }\n");
	rig_run(&rig, "UPDATE lifecycle.promotion SET created_at = now() - interval '1 h' WHERE id <> 'before'");
	hub_wake(rig.w, "engine");
	rig_await(&rig, "SELECT count(*) FROM lifecycle.promotion WHERE stage = 'prod' AND state = 'EXPIRED'", 1);
	ck_assert_str_eq(ask("stop", "dev", "", "maria"), "done"); /* some turns of the engine later */
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.promotion WHERE stage = 'prod' AND id <> 'before'"), 1);
	/* a person may */
	ck_assert_str_eq(ask("promote", "prod", "model", "maria"), "done");
	waits_for(ONLY_THE_STAGE);
	close_all();
}
END_TEST

/* The two ways to ask, all that wait at once and one alone, come to the same for each */
struct agree { const struct sb_policy *policy; unsigned n; };
static int agrees(void *user, const struct hub_facts *f, struct sb_error *err)
{
	struct agree *a = user;
	struct hub_gates one, listed;
	char text[1000], other[1000];
	struct hub_facts *alone = calloc(1, sizeof(*alone));

	ck_assert_ptr_nonnull(alone);
	int r = hub_facts_load(rig.pg, f->promotion, f->artifact, f->stage, f->kind, alone, err);
	hub_decide(a->policy, f, &listed);
	hub_decide(a->policy, alone, &one);
	hub_gates_text(&listed, text);
	hub_gates_text(&one, other);
	ck_assert_int_eq(r, 0);
	ck_assert_str_eq(text, other);
	ck_assert(listed.count == one.count && listed.pass == one.pass && listed.refused == one.refused && hub_verdict(a->policy, f, &listed) == hub_verdict(a->policy, alone, &one));
	ck_assert(alone->state == f->state && strcmp(alone->policy, f->policy) == 0 && alone->seq == f->seq && alone->n_votes == f->n_votes && strcmp(alone->older, f->older) == 0);
	free(alone);
	a->n++;
	return 0;
}

START_TEST(test_list_and_point_agree)
{
	open_with(HEAD "edges:\n  - edge: train..prod\n    mode: manual\n    select: fifo\n    soak: { min: 1h }\n    statuses: { required: [ci/build] }\n    approvals: { min: 2, rules: [{ group: release }, { group: quality }] }\n");
	next_artifact(3);
	next_artifact(4);
	rig_await(&rig, "SELECT count(*) FROM lifecycle.promotion WHERE stage = 'prod' AND artifact = " HEX("4") " AND state = 'GATED'", 1);
	ck_assert_str_eq(ask("approve", "", "", "ines"), "done");
	ck_assert_str_eq(ask("hold", "prod", "model", "tom"), "done");
	ck_assert_str_eq(ask("stop", "", "model", "tom"), "done");
	rig_run(&rig, "INSERT INTO lifecycle.commit_status (origin, oid, context, state, reporter) SELECT origin, commit_oid, 'ci/build', 'success', 'ci' FROM lifecycle.artifact WHERE id <> " HEX("3"));
	rig_stop(&rig);
	struct agree a = { hub_policy_get(rig.w), 0 };
	rig_ok(hub_facts_waiting(rig.pg, agrees, &a, err));
	ck_assert_uint_ge(a.n, 3);
	hub_policy_put(rig.w, a.policy);
	rig_close(&rig);
}
END_TEST

/* One that waits for a person holds no place: what comes after it and has all it needs goes on */
START_TEST(test_waiting_approval_blocks_nobody)
{
	open_with(HEAD "edges:\n  - { edge: train..prod, mode: manual, select: newest_ready }\n");
	next_artifact(3);
	rig_await(&rig, "SELECT count(*) FROM lifecycle.promotion WHERE stage = 'prod' AND state = 'GATED'", 2);
	ck_assert_str_eq(ask("approve", "", "", "maria"), "done"); /* the newest */
	waits_for(ONLY_THE_STAGE);
	ck_assert_int_eq(rig_i64(&rig, "SELECT count(*) FROM lifecycle.promotion WHERE stage = 'prod' AND artifact = " HEX("2") " AND waiting_for LIKE 'approval: %'"), 1);
	close_all();
}
END_TEST

/* Without a file the stages' own mode and soak are the policy */
START_TEST(test_built_in)
{
	static const char *const topics[] = { NULL };

	rig_open(&rig, topics, NULL);
	const struct sb_policy *p = hub_policy_get(rig.w);
	ck_assert_str_eq(p->name, "built-in");
	ck_assert_int_eq(sb_policy_edge_to(p, "prod")->mode, SB_MODE_MANUAL);
	ck_assert_str_eq(sb_policy_edge_to(p, "prod")->from, "train");
	ck_assert_ptr_null(sb_policy_edge_to(p, "explore"));
	hub_policy_put(rig.w, p);
	close_all();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("hub_policy");
	TCase *tc = tcase_create("all");

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, test_approvals);
	tcase_add_test(tc, test_human_and_automation_make_one);
	tcase_add_test(tc, test_list_and_point_agree);
	tcase_add_test(tc, test_waiting_approval_blocks_nobody);
	tcase_add_test(tc, test_policy_changes);
	tcase_add_test(tc, test_soak_window_and_statuses);
	tcase_add_test(tc, test_brakes);
	tcase_add_loop_test(tc, test_select, 0, (int)SB_COUNT(selects));
	tcase_add_test(tc, test_expires);
	tcase_add_test(tc, test_built_in);
	suite_add_tcase(s, tc);
	return rig_main(s);
}
