/* Waiting promotions against their gates. What is missing is written into the row for people; a refusal ends it. */
#include <stdio.h>
#include <string.h>

#include "engine.h"
#include "stagebridge/buf.h"

static int say_waiting(struct sb_pg *pg, const struct hub_promotion *p, const struct hub_gates *g, struct sb_error *err)
{
	struct sb_buf text;

	sb_buf_init(&text, 4096);
	for (unsigned i = 0; i < g->count; i++)
		sb_buf_addf(&text, "%s%s: %s", i ? "; " : "", g->item[i].gate, g->item[i].detail);
	const char *param[] = { p->id, text.data };
	int r = sb_pg_exec(pg, "UPDATE lifecycle.promotion SET waiting_for = $2, updated_at = now() WHERE id = $1 AND waiting_for <> $2", 2, param, NULL, err);
	sb_buf_release(&text);
	return r;
}

/* 1 when the state changed */
static int evaluate(struct hub_engine *e, const char *id, struct sb_error *err)
{
	struct hub_promotion p;
	struct hub_gates g;
	bool moved = false;

	int r = hub_engine_begin(e, err);
	if (r == 0)
		r = hub_promotion_load(e->pg, id, true, &p, err);
	if (r == 0)
		r = hub_gates_judge(e->pg, e->w->set, p.id, p.artifact, p.stage, p.kind, &g, err);
	if (r < 0)
		return r;
	if (g.refused) {
		r = hub_promotion_step(e->pg, &p, SB_PE_REFUSED, "stagebridge", g.item[0].detail, err);
		moved = true;
	} else {
		if (p.state == SB_P_PENDING) {
			r = hub_promotion_step(e->pg, &p, SB_PE_EVALUATED, "stagebridge", "", err);
			moved = true;
		}
		if (r == 0)
			r = say_waiting(e->pg, &p, &g, err);
		if (r == 0 && g.pass && p.state == SB_P_GATED) {
			r = hub_promotion_step(e->pg, &p, SB_PE_GATES_PASSED, "stagebridge", "", err);
			moved = true;
		} else if (r == 0 && !g.pass && p.state == SB_P_READY) {
			r = hub_promotion_step(e->pg, &p, SB_PE_CHANGED, "stagebridge", g.item[0].detail, err);
			moved = true;
		}
	}
	if (r == 0)
		r = sb_pg_commit(e->pg, err);
	return r < 0 ? r : moved;
}

int hub_engine_evaluate(struct hub_engine *e, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	int done = 0;

	int r = sb_pg_exec(e->pg, "SELECT id FROM lifecycle.promotion WHERE state IN ('PENDING', 'GATED', 'READY') ORDER BY seq LIMIT 2000", 0, NULL, &res, err);
	for (int i = 0; r >= 0 && i < sb_pg_rows(res); i++) {
		r = evaluate(e, sb_pg_get(res, i, 0), err);
		done += r > 0;
	}
	return r < 0 ? r : done;
}
