/* Who may write: one leading process per tenant (sb.lease) and one generation per lane (sb.fence). Any lane, on its own connection.
 *
 * hub_fence() locks the lane's row FOR SHARE until the transaction ends. A taker's UPDATE waits for transactions under way and every later
 * one sees the new generation, so nothing commits under an old one. The lease is renewed with SKIP LOCKED: a lane never waits for another
 * there. */
#include <inttypes.h>
#include <string.h>

#include "store.h"

#define STANDBY_MS 1000

static bool gone(struct sb_pg *pg, const char *holder, struct sb_error *err, int *ret_rc)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { holder };

	/* a transaction lock: given back by the commit or rollback that follows */
	*ret_rc = sb_pg_exec(pg, "SELECT pg_try_advisory_xact_lock(21314, hashtext($1))", 1, param, &res, err);
	return *ret_rc == 0 && strcmp(sb_pg_get(res, 0, 0), "t") == 0;
}

static int lead(struct sb_pg *pg, struct hub_world *w, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	char seconds[HUB_NUM];
	const char *mine[] = { w->holder };
	const char *lease[] = { hub_num(seconds, HUB_LEASE_S) };
	int r;

	r = sb_pg_exec(pg, "INSERT INTO sb.lease (holder) VALUES ($1) ON CONFLICT DO NOTHING", 1, mine, NULL, err);
	if (r < 0)
		return r;
	r = sb_pg_exec(pg, "SELECT holder, renewed_at < clock_timestamp() - make_interval(secs => $1::int) FROM sb.lease FOR UPDATE", 1,
		lease, &res, err);
	if (r < 0)
		return r;
	const char *holder = sb_pg_get(res, 0, 0);
	bool run_out = strcmp(sb_pg_get(res, 0, 1), "t") == 0;
	if (strcmp(holder, w->holder) != 0 && !run_out && !gone(pg, holder, err, &r))
		return r < 0 ? r : sb_fail(err, SB_EAGAIN, "tenant %s is led by %s", w->set->name, holder);
	return sb_pg_exec(pg, "UPDATE sb.lease SET holder = $1, renewed_at = clock_timestamp()", 1, mine, NULL, err);
}

int hub_fence_take(struct sb_pg *pg, struct hub_world *w, const char *lane, int64_t *ret_generation, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { lane, w->holder };
	int64_t generation = 0;

	int r = sb_pg_begin(pg, err);
	if (r == 0)
		r = lead(pg, w, err);
	if (r == 0)
		r = sb_pg_exec(pg,
			"INSERT INTO sb.fence AS f (lane, generation, holder) VALUES ($1, 1, $2) "
			"ON CONFLICT (lane) DO UPDATE SET generation = f.generation + 1, holder = $2, taken_at = now() RETURNING "
			"generation",
			2, param, &res, err);
	if (r == 0) {
		generation = sb_pg_get_i64(res, 0, 0);
		r = sb_pg_commit(pg, err);
	}
	if (r < 0) {
		sb_pg_rollback(pg);
		return r;
	}
	*ret_generation = generation;
	return 0;
}

int hub_fence_wait(struct sb_lane *lane, struct sb_pg *pg, struct hub_world *w, int64_t *ret_generation, struct sb_error *err)
{
	while (!sb_lane_stopping(lane)) {
		int r = hub_fence_take(pg, w, sb_lane_name(lane), ret_generation, err);
		if (r != SB_EAGAIN)
			return r;
		sb_lane_note(lane, "standing by: %s", err ? err->msg : "another hub leads");
		(void)sb_lane_wait(lane, NULL, 0, STANDBY_MS); /* a wake-up only means: look again */
	}
	return sb_fail(err, SB_ESHUTDOWN, "stopped while standing by");
}

int hub_fence(struct sb_pg *pg, const char *lane, int64_t generation, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { lane };

	int r = sb_pg_exec(pg,
		"SELECT f.generation, f.holder, l.holder = f.holder AND l.renewed_at < clock_timestamp() - interval '5 s' "
		"FROM sb.fence f, sb.lease l WHERE f.lane = $1 FOR SHARE OF f",
		1, param, &res, err);
	if (r < 0)
		return r;
	if (sb_pg_rows(res) != 1 || sb_pg_get_i64(res, 0, 0) != generation)
		return sb_fail(err, SB_ESHUTDOWN, "lane %s was taken over: generation %" PRId64 " is over", lane, generation);
	if (strcmp(sb_pg_get(res, 0, 2), "t") != 0)
		return 0;
	const char *holder[] = { sb_pg_get(res, 0, 1) };
	return sb_pg_exec(pg,
		"UPDATE sb.lease SET renewed_at = clock_timestamp() WHERE one IN (SELECT one FROM sb.lease WHERE holder = $1 FOR UPDATE "
		"SKIP LOCKED)",
		1, holder, NULL, err);
}

int hub_fence_idle(struct sb_pg *pg, const char *lane, int64_t generation, struct sb_error *err)
{
	int r = sb_pg_begin(pg, err);
	if (r == 0)
		r = hub_fence(pg, lane, generation, err);
	if (r == 0)
		r = sb_pg_commit(pg, err);
	if (r < 0)
		sb_pg_rollback(pg);
	return r;
}
