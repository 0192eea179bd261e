/* The judgement on facts made by hand: approvals, soak, windows, order, each by a table; and what must hold for any facts whatever: it never lets anything pass with a
 * gate that is not open, it gives the same answer twice, and one fact more in favour never closes what was open. */
#include <stdio.h>
#include <string.h>

#include "promote/engine.h"
#include "stagebridge/policy.h"
#include "support.h"

#define NOW  INT64_C(1790000000000) /* 2026-09-21T14:13:20Z, a Monday */
#define HOUR INT64_C(3600000)
#define A1   "1111111111111111111111111111111111111111111111111111111111111111"
#define A2   "2222222222222222222222222222222222222222222222222222222222222222"

#define HEAD "policy: a\nversion: \"1\"\ngroups:\n  - { name: release, members: [maria, tom] }\n  - { name: quality, members: [ines, tom] }\nedges:\n  - edge: preprod..prod\n"

static struct sb_policy policy;
static struct hub_facts facts;
static struct hub_gates gates;

static void use(const char *edge)
{
	sb_cleanup(sb_freep) char *yaml = sb_asprintf(HEAD "%s", edge);
	struct sb_error err = SB_ERROR_INIT;

	ck_assert_msg(sb_policy_parse(&policy, yaml, strlen(yaml), "p.yaml", NOW, &err) == 0, "%s", err.msg);
	memset(&facts, 0, sizeof(facts));
	facts = (struct hub_facts){ .promotion = "p", .artifact = A1, .origin = "model", .stage = "prod", .kind = "auto", .state = SB_P_GATED, .now_ms = NOW, .created_ms = NOW - HOUR, .seq = 7,
		.current_seq = 5, .up_verified = true, .up_since_ms = NOW - 2 * HOUR, .up_longest_ms = 2 * HOUR };
	memcpy(facts.policy, sb_policy_edge_to(&policy, "prod")->digest, 65);
}

static void done(void)
{
	sb_policy_release(&policy);
}

/* The states of the gates that are not open: "approval window!" (! refuses), "" when it may go */
static const char *closed(void)
{
	static char text[300];

	hub_decide(&policy, &facts, &gates);
	text[0] = '\0';
	for (unsigned i = 0; i < gates.count; i++) {
		size_t n = strlen(text);
		if (gates.item[i].state != HUB_GATE_PASS)
			(void)snprintf(text + n, sizeof(text) - n, "%s%s%s", n ? " " : "", gates.item[i].gate, gates.item[i].state == HUB_GATE_REFUSE ? "!" : "");
	}
	ck_assert_int_eq(gates.pass, text[0] == '\0');
	return text;
}

static const struct hub_gate *gate(const char *name)
{
	for (unsigned i = 0; i < gates.count; i++) {
		if (strcmp(gates.item[i].gate, name) == 0)
			return &gates.item[i];
	}
	ck_abort_msg("gate %s was not asked", name);
	return NULL;
}

static void say(const char *person, bool yes, int64_t at, const char *artifact, const char *digest)
{
	struct hub_vote *v = &facts.vote[facts.n_votes++];

	*v = (struct hub_vote){ .yes = yes, .at_ms = at };
	(void)snprintf(v->person, sizeof(v->person), "%s", person);
	(void)snprintf(v->artifact, sizeof(v->artifact), "%s", artifact ? artifact : A1);
	(void)snprintf(v->policy, sizeof(v->policy), "%s", digest ? digest : sb_policy_edge_to(&policy, "prod")->digest);
}

/* --- approvals --- */

#define TWO "    mode: manual\n    approvals: { min: 2, expires: 10h, rules: [{ group: release, min: 1 }, { group: quality }] }\n"

#define YES(person_, hours) { .person = person_, .hours_ago = hours }

static const struct {
	const char *what, *edge;
	struct { const char *person; int64_t hours_ago; const char *artifact, *digest; bool no; } votes[4];
	const char *author, *closed;
} approvals[] = {
	{ "nobody yet", TWO, { { .person = NULL } }, "ann", "approval" },
	{ "two of the groups", TWO, { YES("maria", 1), YES("ines", 1) }, "ann", "" },
	{ "one of two", TWO, { YES("maria", 1) }, "ann", "approval" },
	{ "nobody of the group that must", TWO, { YES("ines", 1) }, "ann", "approval" },
	{ "a person of both groups is one person", TWO, { YES("tom", 1) }, "ann", "approval" },
	{ "a person of both groups and another", TWO, { YES("tom", 1), YES("ines", 1) }, "ann", "" },
	{ "the same person twice is one", TWO, { YES("maria", 1), YES("maria", 2) }, "ann", "approval" },
	{ "of none of the groups", TWO, { YES("maria", 1), YES("bob", 1) }, "ann", "approval" },
	{ "who made the change", TWO, { YES("maria", 1), YES("tom", 1) }, "maria", "approval" },
	{ "too old", TWO, { YES("maria", 10), YES("ines", 1) }, "ann", "approval" },
	{ "nearly too old", TWO, { YES("maria", 9), YES("ines", 1) }, "ann", "" },
	{ "for another artifact", TWO, { { .person = "maria", .hours_ago = 1, .artifact = A2 }, YES("ines", 1) }, "ann", "approval" },
	{ "under another policy", TWO, { { .person = "maria", .hours_ago = 1, .digest = A2 }, YES("ines", 1) }, "ann", "approval" },
	{ "for nothing in particular", TWO, { { .person = "maria", .hours_ago = 1, .artifact = "", .digest = "" }, YES("ines", 1) }, "ann", "approval" },
	{ "a no ends it, whatever else", TWO, { YES("maria", 1), YES("ines", 1), { .person = "tom", .hours_ago = 1, .no = true } }, "ann", "approval!" },
	{ "manual asks for one", "    mode: manual\n", { { .person = NULL } }, "ann", "approval" },
	{ "manual, anybody", "    mode: manual\n", { YES("bob", 1) }, "ann", "" },
	{ "manual, not who made it", "    mode: manual\n", { YES("ann", 1) }, "ann", "approval" },
	{ "who made it, where that is allowed", "    mode: manual\n    approvals: { self: allow }\n", { YES("ann", 1) }, "ann", "" },
	{ "auto asks nobody", "    mode: auto\n", { { .person = NULL } }, "ann", "" },
	{ "auto with approvals", "    mode: auto\n    approvals: { min: 1 }\n", { { .person = NULL } }, "ann", "approval" },
	{ "a group's min beyond the edge's", "    mode: auto\n    approvals: { rules: [{ group: quality, min: 2 }] }\n", { YES("ines", 1) }, "ann", "approval" },
};

START_TEST(test_approvals)
{
	use(approvals[_i].edge);
	(void)snprintf(facts.author[facts.n_authors++], 128, "%s", approvals[_i].author);
	for (size_t i = 0; i < SB_COUNT(approvals[_i].votes) && approvals[_i].votes[i].person; i++)
		say(approvals[_i].votes[i].person, !approvals[_i].votes[i].no, NOW - approvals[_i].votes[i].hours_ago * HOUR, approvals[_i].votes[i].artifact, approvals[_i].votes[i].digest);
	ck_assert_msg(strcmp(closed(), approvals[_i].closed) == 0, "%s: closed are \"%s\"", approvals[_i].what, closed());
	done();
}
END_TEST

START_TEST(test_approval_says_who)
{
	use(TWO);
	(void)snprintf(facts.author[facts.n_authors++], 128, "ann");
	say("ines", true, NOW - HOUR, NULL, NULL);
	ck_assert_str_eq(closed(), "approval");
	ck_assert_str_eq(gate("approval")->who, "release (maria, tom), quality (ines, tom) other than ann");
	ck_assert_ptr_nonnull(strstr(gate("approval")->detail, "1 more person must say yes, one of release"));
	ck_assert_ptr_nonnull(strstr(gate("approval")->detail, "yes: ines"));
	ck_assert_int_eq(gate("approval")->since_ms, facts.created_ms);
	done();
}
END_TEST

/* --- the other gates --- */

START_TEST(test_soak)
{
	use("    mode: auto\n    soak: { min: 3h }\n");
	ck_assert_str_eq(closed(), "soak");
	ck_assert_int_eq(gate("soak")->since_ms, NOW - 2 * HOUR);
	ck_assert_int_eq(gate("soak")->next_ms, NOW + HOUR);
	facts.up_longest_ms = 3 * HOUR - 1;
	ck_assert_str_eq(closed(), "soak");
	facts.up_longest_ms = 3 * HOUR;
	ck_assert_str_eq(closed(), "");
	/* an earlier stay that was long enough counts; being there without being verified does not */
	facts.up_since_ms = 0;
	ck_assert_str_eq(closed(), "");
	facts.up_verified = false;
	ck_assert_str_eq(closed(), "upstream soak");
	ck_assert_int_eq(gate("soak")->next_ms, 0);
	/* a person who asks waits as well; a hotfix and a rollback do not */
	facts.up_longest_ms = 0;
	(void)snprintf(facts.kind, sizeof(facts.kind), "manual");
	ck_assert_str_eq(closed(), "upstream soak");
	(void)snprintf(facts.kind, sizeof(facts.kind), "hotfix");
	ck_assert_str_eq(closed(), "");
	(void)snprintf(facts.kind, sizeof(facts.kind), "rollback");
	ck_assert_str_eq(closed(), "verified-here!");
	facts.here_verified = true;
	ck_assert_str_eq(closed(), "");
	done();
}
END_TEST

static void report(const char *context, const char *state, const char *reporter)
{
	struct hub_status *s = &facts.status[facts.n_statuses++];

	(void)snprintf(s->context, sizeof(s->context), "%s", context);
	(void)snprintf(s->state, sizeof(s->state), "%s", state);
	(void)snprintf(s->reporter, sizeof(s->reporter), "%s", reporter);
}

START_TEST(test_statuses_missing_is_pending)
{
	use("    mode: auto\n    statuses: { required: [ci/build, scan], reporters: [ci] }\n");
	ck_assert_str_eq(closed(), "status");
	ck_assert_str_eq(gate("status")->detail, "ci/build is not reported yet, scan is not reported yet");
	ck_assert_str_eq(gate("status")->who, "whoever reports ci/build, scan");
	report("ci/build", "success", "ci");
	report("scan", "success", "bob"); /* not his to say */
	report("other", "success", "ci");
	ck_assert_str_eq(closed(), "status");
	ck_assert_str_eq(gate("status")->detail, "scan is not reported yet");
	report("scan", "failure", "ci");
	ck_assert_str_eq(closed(), "status");
	ck_assert_str_eq(gate("status")->detail, "scan is failure");
	(void)snprintf(facts.status[3].state, sizeof(facts.status[3].state), "success");
	ck_assert_str_eq(closed(), "");
	done();
}
END_TEST

/* Freeze and allow overlap: the freeze wins; it holds for what was there before it began, and for people too */
START_TEST(test_freeze)
{
	use("    mode: auto\n    windows:\n      allow: [{ name: hours, start: 2026-09-21T09:00, duration: 8h, rrule: FREQ=DAILY }]\n"
	    "      deny: [{ name: freeze, start: 2026-09-21T14:00, end: 2026-09-22T10:00 }]\n");
	facts.state = SB_P_READY;
	ck_assert_str_eq(closed(), "window");
	ck_assert_int_eq(gate("window")->since_ms, INT64_C(1789999200000)); /* 14:00 */
	ck_assert_int_eq(gate("window")->next_ms, INT64_C(1790071200000));  /* tomorrow 10:00, an hour into the working hours */
	ck_assert_str_eq(gate("window")->detail, "closed by \"freeze\", opens 2026-09-22 10:00 +00:00");
	ck_assert_int_eq(hub_verdict(&policy, &facts, &gates), SB_PE_CHANGED);
	(void)snprintf(facts.kind, sizeof(facts.kind), "manual");
	ck_assert_str_eq(closed(), "window");
	(void)snprintf(facts.kind, sizeof(facts.kind), "rollback");
	facts.here_verified = true;
	ck_assert_str_eq(closed(), "");
	(void)snprintf(facts.kind, sizeof(facts.kind), "auto");
	facts.now_ms = INT64_C(1790071200000);
	facts.up_longest_ms += 24 * HOUR;
	ck_assert_str_eq(closed(), "");
	ck_assert_int_eq(hub_verdict(&policy, &facts, &gates), SB_PE_DISPATCHED);
	done();
}
END_TEST

START_TEST(test_rollback_bound_to_windows)
{
	use("    mode: auto\n    windows: { rollback: bound, deny: [{ name: freeze, start: 2026-09-21, duration: 1d }] }\n");
	(void)snprintf(facts.kind, sizeof(facts.kind), "rollback");
	facts.here_verified = true;
	ck_assert_str_eq(closed(), "window");
	done();
}
END_TEST

START_TEST(test_order_and_brakes)
{
	use("    mode: auto\n    select: fifo\n");
	ck_assert_str_eq(closed(), "");
	facts.current_seq = 7;
	ck_assert_str_eq(closed(), "order!");
	facts.current_seq = 5;
	(void)snprintf(facts.last_state, sizeof(facts.last_state), "EXPIRED");
	ck_assert_str_eq(closed(), "retry!");
	(void)snprintf(facts.last_state, sizeof(facts.last_state), "SUPERSEDED");
	ck_assert_str_eq(closed(), "");
	facts.orphaned = true;
	ck_assert_str_eq(closed(), "ancestry!");
	facts.orphaned = false;
	(void)snprintf(facts.older, sizeof(facts.older), "older");
	ck_assert_str_eq(closed(), "queue");
	(void)snprintf(facts.hold, sizeof(facts.hold), "tom: let it rest");
	(void)snprintf(facts.stop, sizeof(facts.stop), "maria: incident 7");
	facts.stop_ms = NOW - 5;
	(void)snprintf(facts.in_flight, sizeof(facts.in_flight), "other APPLYING");
	ck_assert_str_eq(closed(), "stop hold queue stage");
	ck_assert_int_eq(gate("stop")->since_ms, NOW - 5);
	/* a person is not held and does not queue, but is stopped */
	(void)snprintf(facts.kind, sizeof(facts.kind), "manual");
	ck_assert_str_eq(closed(), "stop stage");
	(void)snprintf(facts.stage, sizeof(facts.stage), "elsewhere");
	ck_assert_str_eq(closed(), "path!");
	done();
}
END_TEST

START_TEST(test_verdict)
{
	use("    mode: auto\n    deadlines: { waiting: 2h }\n");
	static const struct { enum sb_promotion_state state; bool same_policy; const char *stop; int64_t age_ms; const char *last; int event; } cases[] = {
		{ SB_P_PENDING, false, "", HOUR, "", SB_PE_EVALUATED }, { SB_P_PENDING, true, "", HOUR, "FAILED", SB_PE_REFUSED }, { SB_P_GATED, true, "", HOUR, "", SB_PE_GATES_PASSED },
		{ SB_P_GATED, false, "", HOUR, "", SB_PE_CHANGED }, { SB_P_READY, false, "", HOUR, "", SB_PE_CHANGED }, { SB_P_READY, true, "", HOUR, "", SB_PE_DISPATCHED },
		{ SB_P_READY, true, "x", HOUR, "", SB_PE_CHANGED }, { SB_P_GATED, true, "x", HOUR, "", -1 }, { SB_P_GATED, true, "x", 2 * HOUR, "", SB_PE_EXPIRED },
		{ SB_P_GATED, true, "x", 2 * HOUR, "FAILED", SB_PE_REFUSED }, { SB_P_GATED, true, "", 9 * HOUR, "", SB_PE_GATES_PASSED }, { SB_P_APPLYING, true, "", HOUR, "", -1 },
		{ SB_P_SUCCEEDED, false, "x", HOUR, "FAILED", -1 },
	};

	for (size_t i = 0; i < SB_COUNT(cases); i++) {
		facts.state = cases[i].state;
		(void)snprintf(facts.policy, sizeof(facts.policy), "%s", cases[i].same_policy ? sb_policy_edge_to(&policy, "prod")->digest : "");
		(void)snprintf(facts.stop, sizeof(facts.stop), "%s", cases[i].stop);
		(void)snprintf(facts.last_state, sizeof(facts.last_state), "%s", cases[i].last);
		facts.created_ms = NOW - cases[i].age_ms;
		hub_decide(&policy, &facts, &gates);
		ck_assert_msg(hub_verdict(&policy, &facts, &gates) == cases[i].event, "case %zu: %d", i, hub_verdict(&policy, &facts, &gates));
	}
	done();
}
END_TEST

/* --- what must hold for any facts --- */

static uint64_t seed;
static uint64_t pick(uint64_t n)
{
	seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (seed >> 33) % n;
}

static const char *const people[] = { "maria", "tom", "ines", "ann", "bob" };
static const char *const kinds[] = { "auto", "manual", "rollback", "hotfix", "merge" };

static void any_facts(void)
{
	static const char *const last[] = { "", "", "", "FAILED", "SUPERSEDED", "EXPIRED", "SUCCEEDED" };

	facts.n_votes = facts.n_statuses = facts.n_authors = 0;
	(void)snprintf(facts.kind, sizeof(facts.kind), "%s", kinds[pick(SB_COUNT(kinds))]);
	facts.state = (enum sb_promotion_state)pick(SB_P_COUNT);
	facts.now_ms = NOW + (int64_t)pick(14 * 24) * HOUR;
	facts.created_ms = facts.now_ms - (int64_t)pick(200) * HOUR;
	facts.up_verified = pick(4) != 0;
	facts.here_verified = pick(2) != 0;
	facts.up_since_ms = pick(3) ? facts.now_ms - (int64_t)pick(50) * HOUR : 0;
	facts.up_longest_ms = (int64_t)pick(50) * HOUR;
	facts.current_seq = (int64_t)pick(10);
	facts.orphaned = pick(10) == 0;
	(void)snprintf(facts.hold, sizeof(facts.hold), "%s", pick(5) ? "" : "tom: x");
	(void)snprintf(facts.stop, sizeof(facts.stop), "%s", pick(5) ? "" : "tom: y");
	(void)snprintf(facts.in_flight, sizeof(facts.in_flight), "%s", pick(5) ? "" : "p APPLYING");
	(void)snprintf(facts.older, sizeof(facts.older), "%s", pick(3) ? "" : "p");
	(void)snprintf(facts.last_state, sizeof(facts.last_state), "%s", last[pick(SB_COUNT(last))]);
	for (uint64_t n = pick(5); n > 0; n--)
		say(people[pick(SB_COUNT(people))], pick(8) != 0, facts.now_ms - (int64_t)pick(12) * HOUR, pick(6) ? NULL : A2, pick(6) ? NULL : A2);
	for (uint64_t n = pick(3); n > 0; n--)
		report(pick(2) ? "ci/build" : "scan", pick(3) ? "success" : "failure", pick(3) ? "ci" : "bob");
	if (pick(2))
		(void)snprintf(facts.author[facts.n_authors++], 128, "%s", people[pick(SB_COUNT(people))]);
	memcpy(facts.policy, pick(5) ? sb_policy_edge_to(&policy, "prod")->digest : A1, 65);
}

static const char *const edges[] = {
	"    mode: auto\n", "    mode: manual\n", TWO,
	"    mode: auto\n    select: fifo\n    soak: { min: 20h }\n    statuses: { required: [ci/build, scan], reporters: [ci] }\n    deadlines: { waiting: 100h }\n",
	"    mode: manual\n    approvals: { min: 2, self: allow, request_counts: false }\n    windows: { rollback: bound, allow: [{ name: a, tz: Europe/Paris, start: 2026-09-01T08:00, duration: 9h, rrule: "
	"FREQ=DAILY }], deny: [{ name: d, start: 2026-09-25, duration: 2d, rrule: FREQ=WEEKLY }] }\n",
};

/* An independent count of what a yes is worth: no word of the judgement is used */
static bool enough_yes(void)
{
	const struct sb_policy_edge *e = sb_policy_edge_to(&policy, "prod");
	int64_t n = 0, of_release = 0;

	for (size_t i = 0; i < SB_COUNT(people); i++) {
		const struct hub_vote *v = NULL;
		for (unsigned k = 0; k < facts.n_votes && !v; k++)
			v = strcmp(facts.vote[k].person, people[i]) == 0 ? &facts.vote[k] : NULL;
		bool grouped = e->approvals.rules.count > 0, own = facts.n_authors > 0 && strcmp(facts.author[0], people[i]) == 0;
		if (!v || !v->yes || strcmp(v->artifact, A1) != 0 || strcmp(v->policy, e->digest) != 0 || facts.now_ms - v->at_ms >= e->approvals.expires_ms)
			continue;
		if ((own && e->approvals.self == SB_SELF_DENY) || (grouped && i > 2))
			continue;
		n++;
		of_release += i < 2;
	}
	return n >= sb_policy_approvals(e) && (e->approvals.rules.count == 0 || of_release >= 1);
}

static bool any_no(void)
{
	for (unsigned i = 0; i < facts.n_votes; i++) {
		if (!facts.vote[i].yes)
			return true;
	}
	return false;
}

/* I2, I4, I7, I8: DISPATCHED needs every gate open, and an independent look agrees */
START_TEST(test_never_dispatched_with_an_unmet_gate)
{
	struct hub_gates again;
	unsigned dispatched = 0;

	seed = (uint64_t)_i + 1;
	use(edges[_i]);
	const struct sb_policy_edge *e = sb_policy_edge_to(&policy, "prod");
	for (int n = 0; n < 20000; n++) {
		any_facts();
		hub_decide(&policy, &facts, &gates);
		hub_decide(&policy, &facts, &again);
		ck_assert(gates.count == again.count && gates.pass == again.pass && gates.refused == again.refused && gates.expired == again.expired);
		ck_assert(gates.count < SB_COUNT(gates.item));
		for (unsigned i = 0; i < gates.count; i++)
			ck_assert(gates.item[i].state == again.item[i].state && strcmp(gates.item[i].detail, again.item[i].detail) == 0);
		if (hub_verdict(&policy, &facts, &gates) != SB_PE_DISPATCHED)
			continue;
		dispatched++;
		bool automatic = strcmp(facts.kind, "auto") == 0, back = strcmp(facts.kind, "rollback") == 0, hotfix = strcmp(facts.kind, "hotfix") == 0;
		struct sb_policy_moment m;
		sb_policy_at(&policy, e, facts.now_ms, &m);
		ck_assert(facts.state == SB_P_READY && strcmp(facts.policy, e->digest) == 0);
		ck_assert(!*facts.stop && !*facts.in_flight && !any_no());
		ck_assert(back ? facts.here_verified : facts.up_verified || hotfix);
		ck_assert(back || hotfix || facts.up_longest_ms >= e->soak.min_ms);
		ck_assert(back || enough_yes());
		ck_assert(m.open || (back && e->windows.rollback == SB_ROLLBACK_EXEMPT));
		ck_assert(!automatic || (!*facts.hold && facts.seq > facts.current_seq && !facts.orphaned));
	}
	ck_assert_msg(dispatched > 10, "only %u of the facts let anything pass: the test tests nothing", dispatched);
	done();
}
END_TEST

/* One fact more in favour: what was open stays open */
START_TEST(test_monotone)
{
	seed = (uint64_t)_i + 99;
	use(edges[_i]);
	for (int n = 0; n < 5000; n++) {
		any_facts();
		hub_decide(&policy, &facts, &gates);
		bool before = gates.pass;
		switch (pick(6)) {
		case 0: facts.up_verified = facts.here_verified = true; break;
		case 1: facts.up_longest_ms += HOUR; break;
		case 2: facts.stop[0] = facts.hold[0] = '\0'; break;
		case 3: facts.in_flight[0] = facts.older[0] = '\0'; break;
		case 4: facts.orphaned = false; break;
		default: /* a yes of somebody who has said nothing so far */
			if (facts.n_votes == 0)
				say("ines", true, facts.now_ms, NULL, NULL);
			break;
		}
		hub_decide(&policy, &facts, &gates);
		ck_assert_msg(!before || gates.pass, "edge %d, facts %d: %s", _i, n, hub_gates_first(&gates)->detail);
	}
	done();
}
END_TEST

/* What people wrote may be cut, never inside a character: PostgreSQL would refuse the row, and the engine would stand still */
START_TEST(test_long_texts)
{
	char text[1000];

	use("    mode: auto\n");
	for (size_t i = 0; i + 3 < sizeof(facts.stop); i += 3)
		memcpy(facts.stop + i, "\xe2\x82\xac", 4);
	memcpy(facts.hold, facts.stop, sizeof(facts.hold));
	hub_decide(&policy, &facts, &gates);
	hub_gates_text(&gates, text);
	ck_assert(sb_utf8_ok(text, strlen(text)));
	for (unsigned i = 0; i < gates.count; i++)
		ck_assert(sb_utf8_ok(gates.item[i].detail, strlen(gates.item[i].detail)) && sb_utf8_ok(gates.item[i].who, strlen(gates.item[i].who)));
	done();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("gates");
	TCase *tc = tcase_create("all");

	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, test_approvals, 0, (int)SB_COUNT(approvals));
	tcase_add_test(tc, test_approval_says_who);
	tcase_add_test(tc, test_soak);
	tcase_add_test(tc, test_statuses_missing_is_pending);
	tcase_add_test(tc, test_freeze);
	tcase_add_test(tc, test_rollback_bound_to_windows);
	tcase_add_test(tc, test_order_and_brakes);
	tcase_add_test(tc, test_verdict);
	tcase_add_loop_test(tc, test_never_dispatched_with_an_unmet_gate, 0, (int)SB_COUNT(edges));
	tcase_add_loop_test(tc, test_monotone, 0, (int)SB_COUNT(edges));
	tcase_add_test(tc, test_long_texts);
	suite_add_tcase(s, tc);
	return test_run(s);
}
