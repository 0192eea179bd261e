/* The promotion table. Pure; any thread. Hub, agent and CLI link this one table; tests walk it: every state reachable, every state
 * that is not an end has a way out that needs no answer from anybody. */
#include "stagebridge/promotion.h"

#include <assert.h>
#include <string.h>

#define E(from_, event_, to_, why_) \
	{ \
		SB_P_##from_, SB_PE_##event_, SB_P_##to_, why_ \
	}

static const struct sb_promotion_edge edges[] = {
	/* waiting: holds no lease, blocks nobody, changes nothing but its own row */
	E(PENDING, EVALUATED, GATED, "the stage wants it, its gates are being asked"),
	E(PENDING, CHANGED, PENDING, "something changed, it is looked at again"),
	E(PENDING, REFUSED, REJECTED, "a rule refuses it: not wanted here, vetoed, or its evidence is bad"),
	E(PENDING, REJECTED, REJECTED, "a person refused it"),
	E(PENDING, SUPERSEDED, SUPERSEDED, "a newer one took its place"),
	E(PENDING, EXPIRED, EXPIRED, "nobody could look at it before its deadline"),
	E(PENDING, ABORTED, ABORTED, "a person stopped it"),
	E(PENDING, GAVE_UP, ERRORED, "it could not be evaluated, retries used up"),

	E(GATED, GATES_PASSED, READY, "all gates pass"),
	E(GATED, CHANGED, PENDING, "the head, the policy, a window or a hold changed: gates and approvals are stale"),
	E(GATED, REFUSED, REJECTED, "a rule refuses it now"),
	E(GATED, REJECTED, REJECTED, "an approver said no"),
	E(GATED, SUPERSEDED, SUPERSEDED, "a newer one took its place"),
	E(GATED, EXPIRED, EXPIRED, "a gate or an approval did not come before its deadline"),
	E(GATED, ABORTED, ABORTED, "a person stopped it"),
	E(GATED, GAVE_UP, ERRORED, "a gate could not be asked, retries used up"),

	E(READY, DISPATCHED, DISPATCHED, "the stage is free, the order is written"),
	E(READY, CHANGED, PENDING, "the head, the policy, a window or a hold changed: gates and approvals are stale"),
	E(READY, REFUSED, REJECTED, "a rule refuses it now"),
	E(READY, REJECTED, REJECTED, "an approver took the yes back"),
	E(READY, SUPERSEDED, SUPERSEDED, "a newer one took its place"),
	E(READY, EXPIRED, EXPIRED, "the stage was not free before its deadline"),
	E(READY, ABORTED, ABORTED, "a person stopped it"),
	E(READY, GAVE_UP, ERRORED, "it could not be packed for the stage, retries used up"),

	/* ordered: the stage's word is needed, so a person's stop and a missing answer both lead into doubt */
	E(DISPATCHED, ACCEPTED, APPLYING, "the stage took the order"),
	E(DISPATCHED, APPLIED, APPLIED, "the stage says it is in place, digest compared"),
	E(DISPATCHED, CONFLICT, PENDING, "the stage holds something else than expected: drift, planned again"),
	E(DISPATCHED, UNHEALTHY, FAILED, "the stage says no"),
	E(DISPATCHED, TECHNICAL, DISPATCHED, "technical trouble, a retry is due"),
	E(DISPATCHED, RETRY, DISPATCHED, "ordered again"),
	E(DISPATCHED, GAVE_UP, ERRORED, "technical trouble, retries used up"),
	E(DISPATCHED, NO_ANSWER, IN_DOUBT, "no answer before the deadline: fenced, the stage is asked"),
	E(DISPATCHED, ABORTED, IN_DOUBT, "a person asked to stop: fenced, the stage is asked"),

	E(APPLYING, APPLIED, APPLIED, "the stage says it is in place, digest compared"),
	E(APPLYING, CONFLICT, PENDING, "the stage holds something else than expected: drift, planned again"),
	E(APPLYING, UNHEALTHY, FAILED, "the deploy hook failed"),
	E(APPLYING, TECHNICAL, APPLYING, "technical trouble, a retry is due"),
	E(APPLYING, RETRY, DISPATCHED, "ordered again"),
	E(APPLYING, GAVE_UP, ERRORED, "technical trouble, retries used up"),
	E(APPLYING, NO_ANSWER, IN_DOUBT, "no result before the deadline: fenced, the stage is asked"),
	E(APPLYING, ABORTED, IN_DOUBT, "a person asked to stop: fenced, the stage is asked"),

	/* in place: what the stage holds is known */
	E(APPLIED, VERIFY, VERIFYING, "healthy, verification begins"),
	E(APPLIED, HEALTHY, SUCCEEDED, "healthy, and the edge asks for no verification"),
	E(APPLIED, UNHEALTHY, FAILED, "the health check failed"),
	E(APPLIED, INCONCLUSIVE, HELD, "the health check did not tell"),
	E(APPLIED, TECHNICAL, APPLIED, "technical trouble, a retry is due"),
	E(APPLIED, RETRY, DISPATCHED, "ordered again, the stage repeats what is missing"),
	E(APPLIED, GAVE_UP, ERRORED, "technical trouble, retries used up"),
	E(APPLIED, NO_ANSWER, IN_DOUBT, "no word on its health before the deadline: fenced, the stage is asked"),
	E(APPLIED, ABORTED, ABORTED, "a person stopped it: it stays in place, not verified"),

	E(VERIFYING, HEALTHY, SUCCEEDED, "verified"),
	E(VERIFYING, UNHEALTHY, FAILED, "verification said no"),
	E(VERIFYING, INCONCLUSIVE, HELD, "verification did not tell"),
	E(VERIFYING, NO_ANSWER, HELD, "verification did not end before its deadline"),
	E(VERIFYING, TECHNICAL, VERIFYING, "technical trouble, a retry is due"),
	E(VERIFYING, RETRY, VERIFYING, "verification runs again"),
	E(VERIFYING, GAVE_UP, ERRORED, "technical trouble, retries used up"),
	E(VERIFYING, ABORTED, ABORTED, "a person stopped it: it stays in place, not verified"),

	E(HELD, JUDGED_GOOD, SUCCEEDED, "a person judged it good"),
	E(HELD, JUDGED_BAD, FAILED, "a person judged it bad"),
	E(HELD, UNHEALTHY, FAILED, "a late no"),
	E(HELD, EXPIRED, FAILED, "nobody judged it before the deadline"),
	E(HELD, RETRY, VERIFYING, "a person asked for another verification"),
	E(HELD, ABORTED, ABORTED, "a person stopped it: it stays in place, not verified"),

	/* in doubt: the lane stays closed until the stage speaks, or is fenced off and given up */
	E(IN_DOUBT, ACCEPTED, APPLYING, "the stage answers again and works on it"),
	E(IN_DOUBT, APPLIED, APPLIED, "the stage answers again: it is in place, digest compared"),
	E(IN_DOUBT, UNHEALTHY, FAILED, "the stage answers again: it failed"),
	E(IN_DOUBT, CONFLICT, PENDING, "the stage answers again: it holds something else, planned again"),
	E(IN_DOUBT, FENCED, ABORTED, "the stage did not do it and can no longer"),
	E(IN_DOUBT, TECHNICAL, IN_DOUBT, "technical trouble, the stage is asked again"),
	E(IN_DOUBT, RETRY, DISPATCHED, "ordered again under a new lease"),
	E(IN_DOUBT, ABORTED, IN_DOUBT, "a person asked to stop: the stage's word is still needed"),
	E(IN_DOUBT, GAVE_UP, ERRORED, "the stage did not answer, given up"),
};

static const struct {
	const char *name, *text;
	bool terminal, in_flight;
} states[SB_P_COUNT] = {
#define SB_X(name_, terminal_, in_flight_, text_) \
	[SB_P_##name_] = { .name = #name_, .text = text_, .terminal = terminal_, .in_flight = in_flight_ },
	SB_PROMOTION_STATES(SB_X)
#undef SB_X
};

const struct sb_promotion_edge *sb_promotion_edges(size_t *ret_count)
{
	*ret_count = SB_COUNT(edges);
	return edges;
}

const struct sb_promotion_edge *sb_promotion_step(enum sb_promotion_state from, enum sb_promotion_event event)
{
	for (size_t i = 0; i < SB_COUNT(edges); i++) {
		if (edges[i].from == from && edges[i].event == event)
			return &edges[i];
	}
	return NULL;
}

const char *sb_promotion_state_name(enum sb_promotion_state s)
{
	assert((unsigned)s < SB_P_COUNT);
	return states[s].name;
}

const char *sb_promotion_state_text(enum sb_promotion_state s)
{
	assert((unsigned)s < SB_P_COUNT);
	return states[s].text;
}

const char *sb_promotion_event_name(enum sb_promotion_event e)
{
	switch (e) {
	case SB_PE_EVALUATED:
		return "evaluated";
	case SB_PE_GATES_PASSED:
		return "gates_passed";
	case SB_PE_CHANGED:
		return "changed";
	case SB_PE_REFUSED:
		return "refused";
	case SB_PE_REJECTED:
		return "rejected";
	case SB_PE_SUPERSEDED:
		return "superseded";
	case SB_PE_EXPIRED:
		return "expired";
	case SB_PE_ABORTED:
		return "aborted";
	case SB_PE_DISPATCHED:
		return "dispatched";
	case SB_PE_ACCEPTED:
		return "accepted";
	case SB_PE_CONFLICT:
		return "conflict";
	case SB_PE_NO_ANSWER:
		return "no_answer";
	case SB_PE_APPLIED:
		return "applied";
	case SB_PE_VERIFY:
		return "verify";
	case SB_PE_HEALTHY:
		return "healthy";
	case SB_PE_UNHEALTHY:
		return "unhealthy";
	case SB_PE_INCONCLUSIVE:
		return "inconclusive";
	case SB_PE_JUDGED_GOOD:
		return "judged_good";
	case SB_PE_JUDGED_BAD:
		return "judged_bad";
	case SB_PE_TECHNICAL:
		return "technical";
	case SB_PE_RETRY:
		return "retry";
	case SB_PE_GAVE_UP:
		return "gave_up";
	case SB_PE_FENCED:
		return "fenced";
	case SB_PE_COUNT:
		break;
	}
	return "?";
}

bool sb_promotion_terminal(enum sb_promotion_state s)
{
	assert((unsigned)s < SB_P_COUNT);
	return states[s].terminal;
}

bool sb_promotion_in_flight(enum sb_promotion_state s)
{
	assert((unsigned)s < SB_P_COUNT);
	return states[s].in_flight;
}

int sb_promotion_state_find(const char *name)
{
	for (int s = 0; s < SB_P_COUNT; s++) {
		if (strcmp(states[s].name, name) == 0)
			return s;
	}
	return -1;
}

int sb_promotion_exit(enum sb_promotion_state s)
{
	switch (s) {
	case SB_P_SUCCEEDED:
		return 0;
	case SB_P_FAILED:
		return 2;
	case SB_P_ERRORED:
		return 3;
	case SB_P_GATED:
	case SB_P_HELD: /* both wait for a person or a gate */
		return 4;
	case SB_P_ABORTED:
	case SB_P_SUPERSEDED:
	case SB_P_REJECTED:
	case SB_P_EXPIRED:
		return 5;
	case SB_P_IN_DOUBT:
		return 6;
	case SB_P_PENDING:
	case SB_P_READY:
	case SB_P_DISPATCHED:
	case SB_P_APPLYING:
	case SB_P_APPLIED:
	case SB_P_VERIFYING:
	case SB_P_COUNT:
		break;
	}
	return 124;
}

void sb_promotion_diagram(struct sb_buf *out)
{
	sb_buf_adds(out, "stateDiagram-v2\n    [*] --> PENDING\n");
	for (size_t i = 0; i < SB_COUNT(edges); i++)
		sb_buf_addf(out, "    %s --> %s: %s\n", states[edges[i].from].name, states[edges[i].to].name,
			sb_promotion_event_name(edges[i].event));
	for (int s = 0; s < SB_P_COUNT; s++) {
		if (states[s].terminal)
			sb_buf_addf(out, "    %s --> [*]\n", states[s].name);
	}
}
