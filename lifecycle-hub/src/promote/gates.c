/* The one judgement: may this artifact go into this stage now? Every asker (engine, lists, `why`, page) gets the same gates with the same words. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine.h"

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

static void add(struct hub_gates *g, const char *gate, const char *state, const char *who, const char *since, const char *next, const char *detail)
{
	struct hub_gate *x;

	if (g->count == SB_COUNT(g->item))
		return;
	x = &g->item[g->count++];
	(void)snprintf(x->gate, sizeof(x->gate), "%s", gate);
	(void)snprintf(x->state, sizeof(x->state), "%s", state);
	(void)snprintf(x->who, sizeof(x->who), "%s", who);
	(void)snprintf(x->since, sizeof(x->since), "%s", since ? since : "");
	(void)snprintf(x->next, sizeof(x->next), "%s", next ? next : "");
	(void)snprintf(x->detail, sizeof(x->detail), "%s", detail);
	if (strcmp(state, "open") != 0)
		g->pass = false;
	if (strcmp(state, "refuse") == 0)
		g->refused = true;
}

/* One query brings all facts; each gate reads its own. $1 artifact $2 stage $3 stage before ('' none) $4 promotion $5 soak in ms */
static const char facts_sql[] =
	"SELECT a.orphaned, a.seq,"
	" coalesce((SELECT max(o.verified_at) FROM lifecycle.occupancy o WHERE o.artifact = a.id AND o.stage = $3)::text, ''),"
	" coalesce((SELECT to_char(o.since AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM lifecycle.occupancy o WHERE o.artifact = a.id AND o.stage = $3 AND o.until IS NULL), ''),"
	" coalesce((SELECT to_char((o.since + $5::bigint * interval '1 millisecond') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM lifecycle.occupancy o"
	"   WHERE o.artifact = a.id AND o.stage = $3 AND o.until IS NULL), ''),"
	" coalesce((SELECT bool_or(coalesce(o.until, now()) - o.since >= $5::bigint * interval '1 millisecond') FROM lifecycle.occupancy o WHERE o.artifact = a.id AND o.stage = $3), false),"
	" coalesce((SELECT x.seq FROM lifecycle.occupancy o JOIN lifecycle.artifact x ON x.id = o.artifact WHERE o.stage = $2 AND o.origin = a.origin AND o.until IS NULL), 0),"
	" coalesce((SELECT h.person || ': ' || h.reason FROM lifecycle.hold h WHERE h.stage = $2 AND h.origin = a.origin), ''),"
	" coalesce((SELECT string_agg(p.person, ', ') FROM lifecycle.approval p WHERE p.promotion = $4 AND p.decision = 'approve'), ''),"
	" coalesce((SELECT string_agg(p.person || ' ' || p.reason, ', ') FROM lifecycle.approval p WHERE p.promotion = $4 AND p.decision = 'reject'), ''),"
	" coalesce((SELECT p.id || ' ' || p.state FROM lifecycle.promotion p WHERE p.stage = $2 AND p.origin = a.origin AND p.id <> $4"
	"   AND p.state IN ('DISPATCHED', 'APPLYING', 'APPLIED', 'VERIFYING', 'HELD', 'IN_DOUBT')), ''),"
	" coalesce((SELECT max(o.verified_at) FROM lifecycle.occupancy o WHERE o.artifact = a.id AND o.stage = $2)::text, ''),"
	" coalesce((SELECT to_char(p.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM lifecycle.promotion p WHERE p.id = $4), ''),"
	" coalesce((SELECT s.state FROM lifecycle.promotion s WHERE s.artifact = a.id AND s.stage = $2 AND s.id <> $4 AND s.ended_at IS NOT NULL ORDER BY s.seq DESC LIMIT 1), ''),"
	" coalesce((SELECT string_agg(DISTINCT r.author, ', ') FROM lifecycle.pull_request r WHERE r.origin = a.origin AND r.merge_oid = a.commit_oid), '')"
	" FROM lifecycle.artifact a WHERE a.id = $1";
enum { F_ORPHANED, F_SEQ, F_UP_VERIFIED, F_UP_SINCE, F_SOAK_END, F_SOAKED, F_CURRENT_SEQ, F_HOLD, F_APPROVED, F_REJECTED, F_IN_FLIGHT, F_HERE_VERIFIED, F_CREATED, F_LAST, F_AUTHORS };

struct question {
	const struct hub_stage *stage;
	const char *before, *kind;
	bool automatic;
	const struct sb_pg_result *f;
};

static const char *fact(const struct question *q, int column)
{
	const char *s = sb_pg_get(q->f, 0, column);

	return s ? s : "";
}

static void upstream(struct hub_gates *g, const struct question *q)
{
	char detail[300];

	if (strcmp(q->kind, "rollback") == 0) {
		if (!*fact(q, F_HERE_VERIFIED))
			add(g, "verified-here", "refuse", "", "", "", "it was never verified in this stage: not a target for a rollback");
		return;
	}
	if (!q->before || strcmp(q->kind, "hotfix") == 0)
		return;
	if (!*fact(q, F_UP_VERIFIED)) {
		(void)snprintf(detail, sizeof(detail), "not verified in %s yet", q->before);
		add(g, "upstream", "wait", "the promotion into the stage before", fact(q, F_CREATED), "", detail);
	} else if (q->automatic && q->stage->soak_ms > 0 && strcmp(fact(q, F_SOAKED), "t") != 0) {
		(void)snprintf(detail, sizeof(detail), "must stay in %s for %" PRId64 " s without a break", q->before, q->stage->soak_ms / 1000);
		add(g, "soak", "wait", "time", fact(q, F_UP_SINCE), fact(q, F_SOAK_END), detail);
	}
}

static void people(struct hub_gates *g, const struct question *q)
{
	char detail[400], who[160];

	if (*fact(q, F_REJECTED)) {
		(void)snprintf(detail, sizeof(detail), "refused by %.300s", fact(q, F_REJECTED));
		add(g, "approval", "refuse", "", "", "", detail);
		return;
	}
	/* the request of a person, or their merge, is their yes; what the policy proposed by itself into a manual stage needs one */
	if (q->stage->mode == HUB_MODE_MANUAL && q->automatic && !*fact(q, F_APPROVED)) {
		(void)snprintf(who, sizeof(who), "an approver%s%.100s", *fact(q, F_AUTHORS) ? " other than " : "", fact(q, F_AUTHORS));
		(void)snprintf(detail, sizeof(detail), "a person must say yes: stagebridge approve, or merge its pull request");
		add(g, "approval", "wait", who, fact(q, F_CREATED), "", detail);
	}
}

static void order(struct hub_gates *g, const struct question *q)
{
	char detail[400];

	if (q->automatic && *fact(q, F_HOLD)) {
		(void)snprintf(detail, sizeof(detail), "automation is held by %.300s", fact(q, F_HOLD));
		add(g, "hold", "wait", "whoever promotes a newer one by hand", "", "", detail);
	}
	if (q->automatic && sb_pg_get_i64(q->f, 0, F_SEQ) <= sb_pg_get_i64(q->f, 0, F_CURRENT_SEQ))
		add(g, "order", "refuse", "", "", "", "the stage has this one or a newer one: automation never goes back");
	if (q->automatic && (strcmp(fact(q, F_LAST), "FAILED") == 0 || strcmp(fact(q, F_LAST), "REJECTED") == 0 || strcmp(fact(q, F_LAST), "ERRORED") == 0 || strcmp(fact(q, F_LAST), "ABORTED") == 0)) {
		(void)snprintf(detail, sizeof(detail), "its last try here ended %s: a person must ask for another", fact(q, F_LAST));
		add(g, "retry", "refuse", "", "", "", detail);
	}
	if (q->automatic && strcmp(fact(q, F_ORPHANED), "t") == 0)
		add(g, "ancestry", "refuse", "", "", "", "its commit is no longer on main");
	if (*fact(q, F_IN_FLIGHT)) {
		(void)snprintf(detail, sizeof(detail), "the stage is busy with %.100s", fact(q, F_IN_FLIGHT));
		add(g, "stage", "wait", "the stage", "", "", detail);
	}
}

int hub_gates_judge(struct sb_pg *pg, const struct hub_tenant *t, const char *promotion, const char *artifact, const char *stage, const char *kind, struct hub_gates *ret, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *f = NULL;
	struct question q = { .stage = hub_stage_find(t, stage), .kind = kind, .automatic = strcmp(kind, "auto") == 0 };
	char soak[24];

	*ret = (struct hub_gates){ .pass = true };
	if (!q.stage || !q.stage->promoted)
		return sb_fail(err, SB_EINVAL, "\"%s\" is not a stage that artifacts are promoted into", stage);
	q.before = hub_stage_before(t, stage);
	(void)snprintf(soak, sizeof(soak), "%" PRId64, q.stage->soak_ms);
	const char *param[] = { artifact, stage, q.before ? q.before : "", promotion, soak };
	int r = sb_pg_exec(pg, facts_sql, 5, param, &f, err);
	if (r < 0)
		return r;
	if (sb_pg_rows(f) == 0)
		return sb_fail(err, SB_ENOTFOUND, "no artifact has this id");
	q.f = f;
	upstream(ret, &q);
	people(ret, &q);
	order(ret, &q);
	return 0;
}
