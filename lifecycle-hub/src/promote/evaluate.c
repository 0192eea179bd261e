/* Waiting promotions against their gates. One look at all of them finds those for which something is to be done; each of these is judged again under its row's lock
 * before anything is written. What is missing is written into the row for people; a refusal ends it. */
#include <stdio.h>
#include <string.h>

#include "engine.h"
#include "stagebridge/clock.h"
#include "stagebridge/metric.h"

#define IDS_MAX 2000

struct look { const struct sb_policy *policy; char (*id)[SB_ID_LEN + 1]; size_t count; };

static int look_at(void *user, const struct hub_facts *f, struct sb_error *err)
{
	struct look *k = user;
	struct hub_gates g;
	char text[1000];

	(void)err; /* a judgement cannot fail */
	hub_decide(k->policy, f, &g);
	int event = hub_verdict(k->policy, f, &g);
	hub_gates_text(&g, text);
	if ((event < 0 || event == SB_PE_DISPATCHED) && strcmp(text, f->waiting_for) == 0)
		return 0;
	if (k->count < IDS_MAX)
		memcpy(k->id[k->count++], f->promotion, sizeof(f->promotion));
	return 0;
}

static int say_waiting(struct sb_pg *pg, const struct hub_facts *f, const char *text, const char *digest, struct sb_error *err)
{
	const char *param[] = { f->promotion, text, digest };

	return sb_pg_exec(pg, "UPDATE lifecycle.promotion SET waiting_for = $2, policy = $3, updated_at = now() WHERE id = $1", 3, param, NULL, err);
}

/* 1 when the state changed */
static int evaluate(struct hub_engine *e, const char *id, struct sb_error *err)
{
	struct hub_promotion p;
	struct hub_facts f;
	struct hub_gates g;
	char text[1000];

	int r = hub_engine_begin(e, err);
	if (r == 0)
		r = hub_promotion_load(e->pg, id, true, &p, err);
	if (r == 0)
		r = hub_facts_load(e->pg, p.id, p.artifact, p.stage, p.kind, &f, err);
	if (r < 0)
		return r;
	hub_decide(e->policy, &f, &g);
	hub_gates_text(&g, text);
	int event = hub_verdict(e->policy, &f, &g);
	const struct hub_gate *first = hub_gates_first(&g);
	bool moves = event >= 0 && event != SB_PE_DISPATCHED;
	const struct sb_policy_edge *edge = sb_policy_edge_to(e->policy, p.stage);
	if (moves)
		r = hub_promotion_step(e->pg, &p, (enum sb_promotion_event)event, "stagebridge", first && event != SB_PE_EVALUATED ? first->detail : "", err);
	if (r == 0 && edge && !sb_promotion_terminal(p.state) && !sb_promotion_in_flight(p.state))
		r = say_waiting(e->pg, &f, text, edge->digest, err);
	if (r == 0 && event == SB_PE_GATES_PASSED && edge->select == SB_SELECT_NEWEST_READY && strcmp(p.kind, "auto") == 0)
		r = hub_supersede(e, p.stage, p.origin, p.artifact, p.id, err);
	if (r == 0)
		r = sb_pg_commit(e->pg, err);
	return r < 0 ? r : moves;
}

int hub_engine_evaluate(struct hub_engine *e, struct sb_error *err)
{
	struct look k = { .policy = e->policy, .id = calloc(IDS_MAX, sizeof(*k.id)) };
	int64_t begin = sb_mono_us();
	int done = 0;

	if (!k.id)
		return sb_fail_nomem(err);
	int r = hub_facts_waiting(e->pg, look_at, &k, err);
	sb_metric_set(sb_metric("stagebridge_promotions_evaluate_seconds", SB_GAUGE, "tenant", "time of the last look at all waiting promotions"), e->w->set->name, (double)(sb_mono_us() - begin) / 1e6);
	if (r >= 0)
		sb_metric_set(sb_metric("stagebridge_promotions_waiting", SB_GAUGE, "tenant", "promotions that wait for a gate, a person or their stage"), e->w->set->name, r);
	for (size_t i = 0; r >= 0 && i < k.count; i++) {
		r = evaluate(e, k.id[i], err);
		done += r > 0;
	}
	free(k.id);
	return r < 0 ? r : done;
}
