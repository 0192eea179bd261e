/* Walks the promotion table: what is reachable, what ends, what needs nobody's answer, and which rules of the engine it holds. */
#include <check.h>
#include <string.h>

#include "stagebridge/promotion.h"
#include "support.h"

static bool waiting(enum sb_promotion_state s)
{
	return !sb_promotion_terminal(s) && !sb_promotion_in_flight(s);
}

START_TEST(test_every_state_is_reachable)
{
	bool seen[SB_P_COUNT] = { [SB_P_PENDING] = true };
	size_t n;
	const struct sb_promotion_edge *e = sb_promotion_edges(&n);

	for (size_t round = 0; round < SB_P_COUNT; round++) {
		for (size_t i = 0; i < n; i++)
			seen[e[i].to] = seen[e[i].to] || seen[e[i].from];
	}
	for (int s = 0; s < SB_P_COUNT; s++)
		ck_assert_msg(seen[s], "%s cannot be reached", sb_promotion_state_name((enum sb_promotion_state)s));
}
END_TEST

START_TEST(test_ends_are_ends)
{
	size_t n;
	const struct sb_promotion_edge *e = sb_promotion_edges(&n);

	for (size_t i = 0; i < n; i++)
		ck_assert_msg(!sb_promotion_terminal(e[i].from), "%s is an end and has a way out", sb_promotion_state_name(e[i].from));
}
END_TEST

/* From every state that is no end, one can come to an end by deadlines and exhausted retries alone. */
START_TEST(test_a_way_out_without_answers)
{
	static const enum sb_promotion_event alone[] = { SB_PE_EXPIRED, SB_PE_NO_ANSWER, SB_PE_GAVE_UP };
	bool ends[SB_P_COUNT];

	for (int s = 0; s < SB_P_COUNT; s++)
		ends[s] = sb_promotion_terminal((enum sb_promotion_state)s);
	for (int round = 0; round < SB_P_COUNT; round++) {
		for (int s = 0; s < SB_P_COUNT; s++) {
			for (size_t i = 0; i < SB_COUNT(alone); i++) {
				const struct sb_promotion_edge *e = sb_promotion_step((enum sb_promotion_state)s, alone[i]);
				ends[s] = ends[s] || (e && ends[e->to]);
			}
		}
	}
	for (int s = 0; s < SB_P_COUNT; s++)
		ck_assert_msg(ends[s], "%s can hang for ever", sb_promotion_state_name((enum sb_promotion_state)s));
}
END_TEST

START_TEST(test_no_pair_twice)
{
	size_t n;
	const struct sb_promotion_edge *e = sb_promotion_edges(&n);

	for (size_t i = 0; i < n; i++) {
		ck_assert_uint_gt(strlen(e[i].why), 0);
		ck_assert_ptr_eq(sb_promotion_step(e[i].from, e[i].event), &e[i]);
	}
}
END_TEST

START_TEST(test_every_event_is_used)
{
	for (int ev = 0; ev < SB_PE_COUNT; ev++) {
		bool used = false;
		for (int s = 0; s < SB_P_COUNT; s++)
			used = used || sb_promotion_step((enum sb_promotion_state)s, (enum sb_promotion_event)ev);
		ck_assert_msg(used, "event %s is in no edge", sb_promotion_event_name((enum sb_promotion_event)ev));
		ck_assert_str_ne(sb_promotion_event_name((enum sb_promotion_event)ev), "?");
		for (int other = 0; other < ev; other++)
			ck_assert_str_ne(sb_promotion_event_name((enum sb_promotion_event)ev),
				sb_promotion_event_name((enum sb_promotion_event)other));
	}
}
END_TEST

/* What the engine's invariants say about the table itself. */
START_TEST(test_invariants)
{
	size_t n;
	const struct sb_promotion_edge *e = sb_promotion_edges(&n);

	for (size_t i = 0; i < n; i++) {
		/* the one door into the stage is DISPATCHED, and from waiting it opens from READY alone */
		if (waiting(e[i].from) && sb_promotion_in_flight(e[i].to)) {
			ck_assert_int_eq((int)e[i].from, SB_P_READY);
			ck_assert_int_eq((int)e[i].to, SB_P_DISPATCHED);
		}
		/* only gates make it ready */
		if (e[i].to == SB_P_READY)
			ck_assert_int_eq((int)e[i].event, SB_PE_GATES_PASSED);
		/* a running one is never superseded or rejected */
		if (e[i].to == SB_P_SUPERSEDED || e[i].to == SB_P_REJECTED)
			ck_assert(waiting(e[i].from));
		/* while the stage may be at work, a person's stop is a request: the end needs its word or the fence */
		if ((e[i].from == SB_P_DISPATCHED || e[i].from == SB_P_APPLYING || e[i].from == SB_P_IN_DOUBT) && e[i].to == SB_P_ABORTED)
			ck_assert_int_eq((int)e[i].event, SB_PE_FENCED);
		/* success only from where the artifact is known to be in place */
		if (e[i].to == SB_P_SUCCEEDED)
			ck_assert(e[i].from == SB_P_APPLIED || e[i].from == SB_P_VERIFYING || e[i].from == SB_P_HELD);
	}
	/* silence leads into doubt wherever the stage's state is not known */
	ck_assert_int_eq((int)sb_promotion_step(SB_P_DISPATCHED, SB_PE_NO_ANSWER)->to, SB_P_IN_DOUBT);
	ck_assert_int_eq((int)sb_promotion_step(SB_P_APPLYING, SB_PE_NO_ANSWER)->to, SB_P_IN_DOUBT);
	ck_assert_int_eq((int)sb_promotion_step(SB_P_GATED, SB_PE_CHANGED)->to, SB_P_PENDING);
	ck_assert_int_eq((int)sb_promotion_step(SB_P_READY, SB_PE_CHANGED)->to, SB_P_PENDING);
	ck_assert_int_eq((int)sb_promotion_step(SB_P_HELD, SB_PE_EXPIRED)->to, SB_P_FAILED);
}
END_TEST

/* Every answer that an agent can give has an edge in every state in which it may arrive first. */
START_TEST(test_agent_answers)
{
	static const enum sb_promotion_state asked[] = { SB_P_DISPATCHED, SB_P_IN_DOUBT };
	static const enum sb_promotion_event answers[] = { SB_PE_ACCEPTED, SB_PE_APPLIED, SB_PE_UNHEALTHY, SB_PE_CONFLICT,
		SB_PE_TECHNICAL };

	for (size_t i = 0; i < SB_COUNT(asked); i++) {
		for (size_t j = 0; j < SB_COUNT(answers); j++)
			ck_assert_msg(sb_promotion_step(asked[i], answers[j]), "%s in %s", sb_promotion_event_name(answers[j]),
				sb_promotion_state_name(asked[i]));
	}
	ck_assert_ptr_null(sb_promotion_step(SB_P_SUCCEEDED, SB_PE_APPLIED));
	ck_assert_ptr_null(sb_promotion_step(SB_P_PENDING, SB_PE_APPLIED));
	ck_assert_ptr_null(sb_promotion_step(SB_P_READY, SB_PE_ACCEPTED));
}
END_TEST

START_TEST(test_names_and_exits)
{
	for (int s = 0; s < SB_P_COUNT; s++) {
		ck_assert_int_eq(sb_promotion_state_find(sb_promotion_state_name((enum sb_promotion_state)s)), s);
		ck_assert_uint_gt(strlen(sb_promotion_state_text((enum sb_promotion_state)s)), 0);
	}
	ck_assert_int_eq(sb_promotion_state_find("in_doubt"), -1);
	ck_assert_str_eq(sb_promotion_state_name(SB_P_IN_DOUBT), "IN_DOUBT");
	ck_assert_str_eq(sb_promotion_event_name(SB_PE_GATES_PASSED), "gates_passed");
	ck_assert_int_eq(sb_promotion_exit(SB_P_SUCCEEDED), 0);
	ck_assert_int_eq(sb_promotion_exit(SB_P_FAILED), 2);
	ck_assert_int_eq(sb_promotion_exit(SB_P_ERRORED), 3);
	ck_assert_int_eq(sb_promotion_exit(SB_P_GATED), 4);
	ck_assert_int_eq(sb_promotion_exit(SB_P_HELD), 4);
	ck_assert_int_eq(sb_promotion_exit(SB_P_REJECTED), 5);
	ck_assert_int_eq(sb_promotion_exit(SB_P_IN_DOUBT), 6);
	ck_assert_int_eq(sb_promotion_exit(SB_P_APPLYING), 124);
}
END_TEST

START_TEST(test_diagram)
{
	struct sb_buf b;
	size_t n, lines = 0;

	sb_buf_init(&b, 64 * 1024);
	sb_promotion_diagram(&b);
	ck_assert(!b.failed);
	ck_assert_int_eq(strncmp(b.data, "stateDiagram-v2\n", 16), 0);
	ck_assert_ptr_nonnull(strstr(b.data, "    READY --> DISPATCHED: dispatched\n"));
	(void)sb_promotion_edges(&n);
	for (size_t i = 0; i < b.len; i++)
		lines += b.data[i] == '\n';
	ck_assert_uint_eq(lines, 2 + n + 7); /* head, start, edges, seven ends */
	/* the contract shows the same */
	char *spec = test_read("proto/SPEC.md");
	ck_assert_msg(strstr(spec, b.data), "SPEC.md has another diagram");
	const struct sb_promotion_edge *e = sb_promotion_edges(&n);
	for (size_t i = 0; i < n; i++) {
		sb_buf_reset(&b);
		sb_buf_addf(&b, "| `%s` | %s | `%s` | %s |\n", sb_promotion_state_name(e[i].from), sb_promotion_event_name(e[i].event),
			sb_promotion_state_name(e[i].to), e[i].why);
		ck_assert_msg(strstr(spec, b.data), "SPEC.md lacks %s", b.data);
	}
	free(spec);
	sb_buf_release(&b);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("promotion");
	TCase *tc = tcase_create("promotion");

	tcase_add_test(tc, test_every_state_is_reachable);
	tcase_add_test(tc, test_ends_are_ends);
	tcase_add_test(tc, test_a_way_out_without_answers);
	tcase_add_test(tc, test_no_pair_twice);
	tcase_add_test(tc, test_every_event_is_used);
	tcase_add_test(tc, test_invariants);
	tcase_add_test(tc, test_agent_answers);
	tcase_add_test(tc, test_names_and_exits);
	tcase_add_test(tc, test_diagram);
	suite_add_tcase(s, tc);
	return test_run(s);
}
