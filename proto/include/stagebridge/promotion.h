/* The one table of promotion states, linked by hub, agent and CLI, walked by tests and printed as a diagram. */
#ifndef STAGEBRIDGE_PROMOTION_H
#define STAGEBRIDGE_PROMOTION_H

#include "stagebridge/base.h"
#include "stagebridge/buf.h"

/*       state        terminal in-flight  for people */
#define SB_PROMOTION_STATES(X)                                                            \
	X(PENDING,    false, false, "waiting to be looked at")                            \
	X(GATED,      false, false, "waiting for a gate or a person")                     \
	X(READY,      false, false, "all gates pass, waiting for the stage to be free")   \
	X(DISPATCHED, false, true,  "ordered, the stage has not answered yet")            \
	X(APPLYING,   false, true,  "the stage works on it")                              \
	X(APPLIED,    false, true,  "in place, health not known yet")                     \
	X(VERIFYING,  false, true,  "being verified")                                     \
	X(HELD,       false, true,  "verification was inconclusive, a person must judge") \
	X(IN_DOUBT,   false, true,  "the stage does not answer, its state is not known")  \
	X(SUCCEEDED,  true,  false, "in place and verified")                              \
	X(FAILED,     true,  false, "a definitive no: hook, health or verification")      \
	X(ERRORED,    true,  false, "technical trouble, retries used up")                 \
	X(ABORTED,    true,  false, "stopped by a person")                                \
	X(SUPERSEDED, true,  false, "a newer one took its place while it waited")         \
	X(REJECTED,   true,  false, "refused by a person or a rule")                      \
	X(EXPIRED,    true,  false, "a deadline passed while it waited")

enum sb_promotion_state {
#define SB_X(name, terminal, in_flight, text) SB_P_##name,
	SB_PROMOTION_STATES(SB_X)
#undef SB_X
	SB_P_COUNT
};

#define SB_PROMOTION_EVENTS(X) X(EVALUATED) X(GATES_PASSED) X(CHANGED) X(REFUSED) X(REJECTED) X(SUPERSEDED) X(EXPIRED) X(ABORTED) \
	X(DISPATCHED) X(ACCEPTED) X(CONFLICT) X(NO_ANSWER) X(APPLIED) X(VERIFY) X(HEALTHY) X(UNHEALTHY) X(INCONCLUSIVE) X(JUDGED_GOOD)  \
	X(JUDGED_BAD) X(TECHNICAL) X(RETRY) X(GAVE_UP) X(FENCED)

enum sb_promotion_event {
#define SB_X(name) SB_PE_##name,
	SB_PROMOTION_EVENTS(SB_X)
#undef SB_X
	SB_PE_COUNT
};

struct sb_promotion_edge {
	enum sb_promotion_state from;
	enum sb_promotion_event event;
	enum sb_promotion_state to;
	const char *why;               /* the sentence shown to people */
};
const struct sb_promotion_edge *sb_promotion_edges(size_t *ret_count);
/** NULL when the pair is not in the table: a stale or wrong message; log, count, refuse. */
const struct sb_promotion_edge *sb_promotion_step(enum sb_promotion_state from, enum sb_promotion_event event);
const char *sb_promotion_state_name(enum sb_promotion_state s);   /* "IN_DOUBT" */
const char *sb_promotion_state_text(enum sb_promotion_state s);
const char *sb_promotion_event_name(enum sb_promotion_event e);   /* "gates_passed" */
bool sb_promotion_terminal(enum sb_promotion_state s);
bool sb_promotion_in_flight(enum sb_promotion_state s);
int sb_promotion_state_find(const char *name);                    /* -1 unknown */
/** CLI exit code by outcome: 0 succeeded, 2 failed, 3 errored, 4 waiting at a gate, 5 ended otherwise, 6 in doubt, 124 not there yet. */
int sb_promotion_exit(enum sb_promotion_state s);
/** Mermaid stateDiagram-v2 of the table. */
void sb_promotion_diagram(struct sb_buf *out);

#endif
