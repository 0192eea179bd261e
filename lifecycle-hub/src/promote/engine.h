/* The promotion engine: one table (proto), one judgement (gates.c), one writer of states (step.c). It works on rows of schema lifecycle and never
 * talks to a broker or a forge: orders go through the outbox, forge work is left to the git lane. Runs on the lane "<tenant>/engine"; the HTTP
 * faces use the judgement read-only. */
#ifndef HUB_ENGINE_H
#define HUB_ENGINE_H

#include "hub.h"
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

/** What is asked of a promotion, or of an artifact that somebody might promote. */
struct hub_gate { char gate[32], state[12], who[160], next[40], since[40]; char detail[400]; };   /* state: open | wait | refuse */
struct hub_gates { struct hub_gate item[8]; unsigned count; bool pass, refused; };
/**
 * The one judgement (available and promotable): used by the engine, the lists, `why` and the page.
 * @param promotion  "" when none exists yet
 */
int hub_gates_judge(struct sb_pg *pg, const struct hub_tenant *t, const char *promotion, const char *artifact, const char *stage, const char *kind, struct hub_gates *ret, struct sb_error *err) SB_MUSTCHECK;

/** The promoted stage before this one; NULL for the first (its upstream is main). */
const char *hub_stage_before(const struct hub_tenant *t, const char *stage);

/* The turns of the engine; each takes what waits and returns how much it did. pg is outside a transaction. */
struct hub_engine { struct hub_world *w; struct sb_pg *pg; int64_t generation; struct sb_lane *lane; };
int hub_engine_reports(struct hub_engine *e, struct sb_error *err) SB_MUSTCHECK;     /* sb.report: what agents say about orders */
int hub_engine_requests(struct hub_engine *e, struct sb_error *err) SB_MUSTCHECK;    /* lifecycle.promotion_request: what people ask */
int hub_engine_candidates(struct hub_engine *e, struct sb_error *err) SB_MUSTCHECK;  /* new promotions by the policy of the edges, superseding */
int hub_engine_evaluate(struct hub_engine *e, struct sb_error *err) SB_MUSTCHECK;    /* waiting ones: gates */
int hub_engine_dispatch(struct hub_engine *e, struct sb_error *err) SB_MUSTCHECK;    /* READY: order to the stage */
int hub_engine_deadlines(struct hub_engine *e, struct sb_error *err) SB_MUSTCHECK;   /* no answer in time */
int hub_engine_tell(struct hub_engine *e, struct sb_error *err) SB_MUSTCHECK;        /* requests from inside stages: their fate goes back down */

/** begin + fence; the turn's work; commit. */
int hub_engine_begin(struct hub_engine *e, struct sb_error *err) SB_MUSTCHECK;

/** A new order for a promotion in flight, inside a transaction: same pack, new attempt and lease, which fences the former. */
int hub_order_again(struct hub_engine *e, struct hub_promotion *p, struct sb_error *err) SB_MUSTCHECK;

#endif
