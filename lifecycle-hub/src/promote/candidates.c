/* What the edges propose by themselves: into each promoted stage, per origin, the newest artifact that the stage before has verified (for the first stage:
 * the newest on main). A proposal into a manual stage waits for a person. Older proposals that still wait make room at once (select: newest), when the newer one is
 * ready (newest_ready), or never (fifo). */
#include <string.h>

#include "engine.h"
#include "store/store.h"

const char *hub_stage_before(const struct hub_tenant *t, const char *stage)
{
	const struct hub_stage *s = t->stages.item;
	const char *before = NULL;

	for (size_t i = 0; i < t->stages.count; i++) {
		if (strcmp(s[i].name, stage) == 0)
			return before;
		if (s[i].promoted)
			before = s[i].name;
	}
	return NULL;
}

/* $1 stage, $2 stage before ('' = main). The guards are those of the judgement that never pass again: asking them here keeps dead rows out. */
static const char candidate_sql[] =
	"SELECT DISTINCT ON (a.origin) a.origin, a.id FROM lifecycle.artifact a"
	" LEFT JOIN lifecycle.occupancy c ON c.stage = $1 AND c.origin = a.origin AND c.until IS NULL LEFT JOIN lifecycle.artifact ca ON ca.id = c.artifact"
	" WHERE NOT a.orphaned AND a.kind = 'merge' AND a.seq > coalesce(ca.seq, 0)"
	" AND NOT EXISTS (SELECT FROM lifecycle.hold h WHERE h.stage = $1 AND h.origin = a.origin)"
	" AND ($2 = '' OR EXISTS (SELECT FROM lifecycle.occupancy o WHERE o.artifact = a.id AND o.stage = $2 AND o.until IS NULL AND o.verified_at IS NOT NULL))"
	" ORDER BY a.origin, a.seq DESC";

static const char fresh_sql[] = "SELECT 1 FROM lifecycle.promotion WHERE artifact = $1 AND stage = $2 AND (ended_at IS NULL OR state IN ('FAILED', 'ERRORED', 'REJECTED', 'ABORTED', 'EXPIRED', 'SUCCEEDED')) LIMIT 1";

static const char older_sql[] =
	"SELECT p.id FROM lifecycle.promotion p JOIN lifecycle.artifact a ON a.id = p.artifact WHERE p.stage = $1 AND p.origin = $2 AND p.kind = 'auto' AND p.state IN ('PENDING', 'GATED', 'READY')"
	" AND a.seq < (SELECT seq FROM lifecycle.artifact WHERE id = $3) FOR UPDATE OF p";

int hub_supersede(struct hub_engine *e, const char *stage, const char *origin, const char *artifact, const char *successor, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { stage, origin, artifact };
	char reason[96];

	int r = sb_pg_exec(e->pg, older_sql, 3, param, &res, err);
	for (int i = 0; r == 0 && i < sb_pg_rows(res); i++) {
		struct hub_promotion p;

		r = hub_promotion_load(e->pg, sb_pg_get(res, i, 0), true, &p, err);
		if (r == 0)
			r = sb_format(reason, sizeof(reason), err, "promotion %s of a newer artifact took its place", successor);
		if (r == 0)
			r = hub_promotion_step(e->pg, &p, SB_PE_SUPERSEDED, "stagebridge", reason, err);
	}
	return r;
}

static int propose(struct hub_engine *e, const char *stage, const char *origin, const char *artifact, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *known = NULL;
	const char *param[] = { artifact, stage };
	char id[SB_ID_LEN + 1];
	bool is_new = false;

	int r = sb_pg_exec(e->pg, fresh_sql, 2, param, &known, err);
	if (r < 0 || sb_pg_rows(known) > 0)
		return r;
	r = hub_engine_begin(e, err);
	if (r == 0)
		r = hub_promotion_create(e->pg, origin, artifact, stage, "auto", "stagebridge", "", id, &is_new, err);
	if (r == 0 && is_new && sb_policy_edge_to(e->policy, stage)->select == SB_SELECT_NEWEST)
		r = hub_supersede(e, stage, origin, artifact, id, err);
	if (r == 0)
		r = sb_pg_commit(e->pg, err);
	return r < 0 ? r : is_new;
}

int hub_engine_candidates(struct hub_engine *e, struct sb_error *err)
{
	const struct hub_stage *s = e->w->set->stages.item;
	int done = 0;

	for (size_t i = 0; i < e->w->set->stages.count; i++) {
		sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
		const char *before = hub_stage_before(e->w->set, s[i].name);
		const char *param[] = { s[i].name, before ? before : "" };
		int r = s[i].promoted ? sb_pg_exec(e->pg, candidate_sql, 2, param, &res, err) : 0;

		for (int k = 0; r >= 0 && res && k < sb_pg_rows(res); k++) {
			r = propose(e, s[i].name, sb_pg_get(res, k, 0), sb_pg_get(res, k, 1), err);
			done += r > 0;
		}
		if (r < 0)
			return r;
	}
	return done;
}
