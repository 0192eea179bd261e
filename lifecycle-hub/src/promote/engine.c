/* The engine's lane: turns the handle until nothing is left to do, then waits to be woken or for the next tick (soak, windows, deadlines, the policy's file). A turn that
 * fails is rolled back and the lane starts again; every turn is one transaction per promotion, fenced by the lane's generation. */
#include "engine.h"

#include "stagebridge/log.h"
#include "store/store.h"

#define TICK_MS 1000

int hub_engine_begin(struct hub_engine *e, struct sb_error *err)
{
	int r = sb_pg_begin(e->pg, err);

	if (r == 0)
		r = hub_fence(e->pg, sb_lane_name(e->lane), e->generation, err);
	if (r < 0)
		sb_pg_rollback(e->pg);
	return r;
}

int hub_engine_policy(struct hub_engine *e, struct sb_error *err)
{
	bool fresh = hub_policy_refresh(e->w);

	if (e->policy && !fresh)
		return 0;
	hub_policy_put(e->w, SB_TAKE(e->policy));
	e->policy = hub_policy_get(e->w);
	int r = hub_engine_begin(e, err);
	if (r == 0)
		r = hub_policy_record(e->pg, e->policy, err);
	if (r == 0)
		r = sb_pg_commit(e->pg, err);
	return r < 0 ? r : fresh;
}

static int turn(struct hub_engine *e, struct sb_error *err)
{
	static int (*const turns[])(struct hub_engine *, struct sb_error *) = { hub_engine_policy, hub_engine_reports, hub_engine_requests, hub_engine_candidates, hub_engine_evaluate, hub_engine_dispatch,
		hub_engine_deadlines, hub_engine_tell };
	int done = 0;

	for (size_t i = 0; i < SB_COUNT(turns); i++) {
		int r = turns[i](e, err);

		if (r < 0) {
			sb_pg_rollback(e->pg);
			return r;
		}
		done += r;
	}
	return done;
}

int hub_engine_lane(struct sb_lane *lane, void *user, struct sb_error *err)
{
	struct hub_engine e = { .w = user, .lane = lane };

	int r = hub_store_open(&e.pg, e.w, sb_lane_name(lane), err);
	if (r == 0)
		r = hub_fence_wait(lane, e.pg, e.w, &e.generation, err);
	while (r >= 0 && !sb_lane_stopping(lane)) {
		sb_lane_note(lane, "watching promotions");
		r = turn(&e, err);
		if (r > 0) {
			hub_wake(e.w, "courier");
			hub_wake(e.w, "git");
		} else if (r == 0) {
			(void)sb_lane_wait(lane, NULL, 0, TICK_MS);
		}
	}
	hub_policy_put(e.w, e.policy);
	sb_pg_close(e.pg);
	return r < 0 ? r : 0;
}
