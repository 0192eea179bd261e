/* READY -> DISPATCHED: the judgement once more, the lease, the pack of what the stage lacks, and the signed order, in one transaction with the
 * outbox row. The pack is made before (it takes time and has no effect by itself). */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine.h"
#include "git/transfer.h"
#include "stagebridge/clock.h"
#include "store/store.h"

struct cargo { char commit[SB_OID_LEN + 1], tree[SB_OID_LEN + 1], current[65]; json_t *manifest; };

static int load_cargo(struct sb_pg *pg, const struct hub_promotion *p, struct cargo *c, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { p->artifact, p->stage };

	int r = sb_pg_exec(pg,
		"SELECT a.commit_oid, a.tree_oid, a.manifest::text, coalesce((SELECT o.artifact FROM lifecycle.occupancy o WHERE o.stage = $2 AND o.origin = a.origin AND o.until IS NULL), '')"
		" FROM lifecycle.artifact a WHERE a.id = $1",
		2, param, &res, err);
	if (r < 0)
		return r;
	if (sb_pg_rows(res) == 0)
		return sb_fail(err, SB_ENOTFOUND, "artifact %.12s is gone", p->artifact);
	c->manifest = json_loads(sb_pg_get(res, 0, 2), JSON_REJECT_DUPLICATES, NULL);
	if (!c->manifest)
		return sb_fail(err, SB_EDB, "manifest of artifact %.12s is not readable", p->artifact);
	r = sb_format(c->commit, sizeof(c->commit), err, "%s", sb_pg_get(res, 0, 0));
	if (r == 0)
		r = sb_format(c->tree, sizeof(c->tree), err, "%s", sb_pg_get(res, 0, 1));
	if (r == 0)
		r = sb_format(c->current, sizeof(c->current), err, "%s", sb_pg_get(res, 0, 3));
	return r;
}

static int take_lease(struct sb_pg *pg, struct hub_promotion *p, const struct cargo *c, const char *transfer, int64_t ack_ms, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	char ms[24];

	(void)snprintf(ms, sizeof(ms), "%" PRId64, ack_ms);
	const char *param[] = { p->id, c->current, transfer, ms };
	int r = sb_pg_exec(pg,
		"UPDATE lifecycle.promotion SET lease = nextval('lifecycle.lease'), attempt = attempt + 1, expected_current = $2, transfer = $3, dispatched_at = now(), waiting_for = '',"
		" deadline_at = now() + $4::bigint * interval '1 millisecond' WHERE id = $1 RETURNING lease, attempt",
		4, param, &res, err);
	if (r < 0)
		return r;
	p->lease = sb_pg_get_i64(res, 0, 0);
	p->attempt = sb_pg_get_i64(res, 0, 1);
	return 0;
}

/* The edge's own deadlines, or the hub's */
static int64_t ack_ms(const struct hub_engine *e, const char *stage)
{
	const struct sb_policy_edge *edge = sb_policy_edge_to(e->policy, stage);

	return edge && edge->deadlines.ack_ms ? edge->deadlines.ack_ms : e->w->hub->set.deadlines.ack_ms;
}

int64_t hub_apply_ms(const struct hub_engine *e, const char *stage)
{
	const struct sb_policy_edge *edge = sb_policy_edge_to(e->policy, stage);

	return edge && edge->deadlines.apply_ms ? edge->deadlines.apply_ms : e->w->hub->set.deadlines.apply_ms;
}

static int put_order(struct hub_engine *e, const struct hub_promotion *p, const struct cargo *c, const char *transfer, struct sb_error *err)
{
	char deadline[SB_TIME_LEN + 1];

	sb_time_format(deadline, sb_wall_ms() + hub_apply_ms(e, p->stage));
	json_auto_t *body = json_pack("{s:s, s:I, s:I, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:O, s:s}", "promotion", p->id, "attempt", (json_int_t)p->attempt, "lease", (json_int_t)p->lease, "origin", p->origin,
		"artifact", p->artifact, "commit", c->commit, "tree", c->tree, "expected_current", c->current, "kind", p->kind, "transfer", transfer, "manifest", c->manifest, "deadline", deadline);
	if (!body)
		return sb_fail_nomem(err);
	return hub_outbox_put(e->w, e->pg, p->stage, SB_EV_DEPLOYMENT_ORDERED, p->id, body, err);
}

static int commit_order(struct hub_engine *e, const char *id, const struct cargo *c, struct hub_transfer *t, struct sb_error *err)
{
	struct hub_promotion p;
	struct hub_facts f;
	struct hub_gates g;

	int r = hub_engine_begin(e, err);
	if (r == 0)
		r = hub_promotion_load(e->pg, id, true, &p, err);
	if (r == 0)
		r = hub_facts_load(e->pg, p.id, p.artifact, p.stage, p.kind, &f, err);
	if (r < 0)
		return r;
	hub_decide(e->policy, &f, &g);
	if (hub_verdict(e->policy, &f, &g) != SB_PE_DISPATCHED) {
		/* looked at again by the next turn; the pack is dropped */
		sb_pg_rollback(e->pg);
		return 0;
	}
	r = hub_transfer_register(e->w, e->pg, t, err);
	if (r == 0)
		r = take_lease(e->pg, &p, c, t->id, ack_ms(e, p.stage), err);
	if (r == 0)
		r = hub_promotion_step(e->pg, &p, SB_PE_DISPATCHED, "stagebridge", "", err);
	if (r == 0)
		r = put_order(e, &p, c, t->id, err);
	if (r == 0)
		r = sb_pg_commit(e->pg, err);
	return r < 0 ? r : 1;
}

int hub_order_again(struct hub_engine *e, struct hub_promotion *p, struct sb_error *err)
{
	struct cargo c = { .manifest = NULL };

	int r = load_cargo(e->pg, p, &c, err);
	if (r == 0)
		r = take_lease(e->pg, p, &c, p->transfer, ack_ms(e, p->stage), err);
	if (r == 0)
		r = put_order(e, p, &c, p->transfer, err);
	json_decref(c.manifest);
	return r;
}

static int give_up(struct hub_engine *e, const char *id, const struct sb_error *why, struct sb_error *err)
{
	struct hub_promotion p;

	int r = hub_engine_begin(e, err);
	if (r == 0)
		r = hub_promotion_load(e->pg, id, true, &p, err);
	if (r == 0)
		r = hub_promotion_step(e->pg, &p, SB_PE_GAVE_UP, "stagebridge", why->msg, err);
	if (r == 0)
		r = sb_pg_commit(e->pg, err);
	return r < 0 ? r : 1;
}

static int dispatch(struct hub_engine *e, const char *id, struct sb_error *err)
{
	struct hub_transfer t = { .id = "" };
	struct cargo c = { .manifest = NULL };
	struct sb_error why = SB_ERROR_INIT;
	struct hub_promotion p;

	int r = hub_promotion_load(e->pg, id, false, &p, err);
	if (r == 0)
		r = load_cargo(e->pg, &p, &c, err);
	if (r == 0) {
		r = hub_transfer_pack(e->w, e->pg, "engine", p.stage, p.origin, c.commit, &t, &why);
		if (r < 0 && why.retriable)
			*err = why;
		else if (r < 0)
			r = give_up(e, id, &why, err);
		else
			r = commit_order(e, id, &c, &t, err);
	}
	hub_transfer_release(e->w, &t, r != 1);
	json_decref(c.manifest);
	return r;
}

int hub_engine_dispatch(struct hub_engine *e, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	int done = 0;

	/* one per stage and origin: the oldest; the others wait for the stage to be free */
	int r = sb_pg_exec(e->pg,
		"SELECT DISTINCT ON (stage, origin) id FROM lifecycle.promotion p WHERE state = 'READY' AND NOT EXISTS (SELECT FROM lifecycle.promotion f WHERE f.stage = p.stage AND f.origin = p.origin"
		" AND f.state IN ('DISPATCHED', 'APPLYING', 'APPLIED', 'VERIFYING', 'HELD', 'IN_DOUBT')) ORDER BY stage, origin, seq",
		0, NULL, &res, err);
	for (int i = 0; r >= 0 && i < sb_pg_rows(res); i++) {
		r = dispatch(e, sb_pg_get(res, i, 0), err);
		done += r > 0;
	}
	return r < 0 ? r : done;
}
