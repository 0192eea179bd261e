/* The promotion engine: one table (proto), one judgement (gates.c), one writer of states (step.c). It works on rows of schema lifecycle and never
 * talks to a broker or a forge: orders go through the outbox, forge work is left to the git lane. Runs on the lane "<tenant>/engine"; the HTTP
 * faces use the judgement read-only. */
#ifndef HUB_ENGINE_H
#define HUB_ENGINE_H

#include "hub.h"
#include "promote/policy.h"
#include "stagebridge/promotion.h"

/** One promotion as the engine sees it; strings owned by the object. */
struct hub_promotion {
	char id[SB_ID_LEN + 1], origin[SB_TYPE_MAX + 1], artifact[65], stage[SB_NAME_MAX + 1], kind[12];
	char requested_by[128], expected_current[65], transfer[SB_ID_LEN + 1];
	enum sb_promotion_state state;
	int64_t attempt, lease;
};
/** SB_ENOTFOUND. lock: FOR UPDATE, inside a transaction. */
int hub_promotion_load(struct sb_pg *pg, const char *id, bool lock, struct hub_promotion *ret, struct sb_error *err) SB_MUSTCHECK;

/** One event on one promotion, inside the caller's transaction: the edge from the table, the row, the audit row, the commit status. SB_ESTATE when the
 * table has no such edge: a stale message, nothing changed. p->state is updated. */
int hub_promotion_step(struct sb_pg *pg, struct hub_promotion *p, enum sb_promotion_event event, const char *actor, const char *reason, struct sb_error *err) SB_MUSTCHECK;

/** Makes a promotion (PENDING) unless one is open for this artifact and stage: then its id is returned and *ret_new is false. Inside a transaction. */
int hub_promotion_create(struct sb_pg *pg, const char *origin, const char *artifact, const char *stage, const char *kind, const char *actor, const char *reason, char ret_id[SB_ID_LEN + 1], bool *ret_new,
	struct sb_error *err) SB_MUSTCHECK;

/* What is known of a promotion, or of an artifact that somebody might promote, at one moment. Values only: the judgement needs nothing else. */
#define HUB_VOTES_MAX    64
#define HUB_STATUSES_MAX 64
#define HUB_AUTHORS_MAX  8
struct hub_vote { char person[128], artifact[65], policy[65]; bool yes; int64_t at_ms; };   /* artifact and policy: what it was given for */
struct hub_status { char context[201], state[12], reporter[128]; };
struct hub_facts {
	char promotion[SB_ID_LEN + 1], artifact[65], origin[SB_TYPE_MAX + 1], stage[SB_NAME_MAX + 1], kind[12];
	enum sb_promotion_state state;
	char policy[65], waiting_for[1000];  /* of the row: the edge's digest when it was last judged, and what was said then */
	int64_t now_ms, created_ms, seq;     /* seq: of the artifact */
	bool orphaned;
	bool up_verified, here_verified;     /* ever verified in the stage before, in this one */
	int64_t up_since_ms, up_longest_ms;  /* in the stage before: since when now (0: not), longest stay */
	int64_t current_seq;                 /* of what the stage has; 0 nothing */
	char hold[300], stop[300], in_flight[64], older[64], last_state[16];
	int64_t hold_ms, stop_ms;
	unsigned n_votes, n_statuses, n_authors;
	struct hub_vote vote[HUB_VOTES_MAX];  /* newest first */
	struct hub_status status[HUB_STATUSES_MAX];
	char author[HUB_AUTHORS_MAX][128];    /* who made the change */
};

enum hub_gate_state { HUB_GATE_PASS, HUB_GATE_PENDING, HUB_GATE_REFUSE };
extern const char *const hub_gate_state_name[]; /* pass, pending, refuse */
struct hub_gate { char gate[16], who[300], detail[500]; enum hub_gate_state state; int64_t since_ms, next_ms; };   /* 0: not known */
struct hub_gates { struct hub_gate item[16]; unsigned count; bool pass, refused, expired; };

/** The one judgement (available and promotable): every gate that this edge asks of this kind, with its answer. Pure. */
void hub_decide(const struct sb_policy *p, const struct hub_facts *f, struct hub_gates *ret);
/** What it comes to: the event that the state machine is to take, or -1: nothing to do. Pure. */
int hub_verdict(const struct sb_policy *p, const struct hub_facts *f, const struct hub_gates *g);
/** What it waits for, in one line; empty when all pass. Nothing in it changes from second to second. */
void hub_gates_text(const struct hub_gates *g, char out[1000]);
/** The first gate that is not open, refusals first; NULL when all are. */
const struct hub_gate *hub_gates_first(const struct hub_gates *g);

/**
 * Facts of one. Used by engine, `why` and the page. SB_ENOTFOUND: no such artifact.
 * @param promotion  "" when none exists yet
 */
int hub_facts_load(struct sb_pg *pg, const char *promotion, const char *artifact, const char *stage, const char *kind, struct hub_facts *ret, struct sb_error *err) SB_MUSTCHECK;
/** Facts of all that wait, in one look, handed to each; stops at the first negative answer. Returns how many. The facts are each's only until it returns. */
typedef int (*hub_facts_fn)(void *user, const struct hub_facts *f, struct sb_error *err);
int hub_facts_waiting(struct sb_pg *pg, hub_facts_fn each, void *user, struct sb_error *err) SB_MUSTCHECK;

/** The promoted stage before this one; NULL for the first (its upstream is main). */
const char *hub_stage_before(const struct hub_tenant *t, const char *stage);

/* The turns of the engine; each takes what waits and returns how much it did. pg is outside a transaction. */
struct hub_engine { struct hub_world *w; struct sb_pg *pg; int64_t generation; struct sb_lane *lane; const struct sb_policy *policy; };   /* policy: of this turn */
int hub_engine_reports(struct hub_engine *e, struct sb_error *err) SB_MUSTCHECK;     /* sb.report: what agents say about orders */
int hub_engine_requests(struct hub_engine *e, struct sb_error *err) SB_MUSTCHECK;    /* lifecycle.promotion_request: what people ask */
int hub_engine_policy(struct hub_engine *e, struct sb_error *err) SB_MUSTCHECK;      /* the policy's file */
int hub_engine_candidates(struct hub_engine *e, struct sb_error *err) SB_MUSTCHECK;  /* new promotions by the policy of the edges, superseding */
int hub_engine_evaluate(struct hub_engine *e, struct sb_error *err) SB_MUSTCHECK;    /* waiting ones: gates */
int hub_engine_dispatch(struct hub_engine *e, struct sb_error *err) SB_MUSTCHECK;    /* READY: order to the stage */
int hub_engine_deadlines(struct hub_engine *e, struct sb_error *err) SB_MUSTCHECK;   /* no answer in time */
int hub_engine_tell(struct hub_engine *e, struct sb_error *err) SB_MUSTCHECK;        /* requests from inside stages: their fate goes back down */

/** begin + fence; the turn's work; commit. */
int hub_engine_begin(struct hub_engine *e, struct sb_error *err) SB_MUSTCHECK;

/** Older proposals of automation that still wait, of the same stage and origin, make room for this one. Inside a transaction. */
int hub_supersede(struct hub_engine *e, const char *stage, const char *origin, const char *artifact, const char *successor, struct sb_error *err) SB_MUSTCHECK;

/** How long a stage may work on an accepted order. */
int64_t hub_apply_ms(const struct hub_engine *e, const char *stage);

/** A new order for a promotion in flight, inside a transaction: same pack, new attempt and lease, which fences the former. */
int hub_order_again(struct hub_engine *e, struct hub_promotion *p, struct sb_error *err) SB_MUSTCHECK;

#endif
