/* What people ask: promote, rollback, approve, reject, abort, stop, resume, hold, release, and merges into a stage's branch. A request is answered once, in the transaction that carries it
 * out; a refused one says why. */
#include <stdio.h>
#include <string.h>

#include "engine.h"
#include "stagebridge/log.h"
#include "store/store.h"

#define BATCH "100"

struct request { const char *id, *from, *action, *origin, *artifact, *stage, *promotion, *person, *reason; };

/* A full id, or at least 8 leading digits of it, or nothing: then `fallback` chooses. $1 origin, $2 prefix, $3 stage, $4 the stage before */
static int find_artifact(struct hub_engine *e, const struct request *q, const char *fallback, char out[65], struct sb_error *err)
{
	static const char by_prefix[] = "SELECT id FROM lifecycle.artifact WHERE origin = $1 AND left(id, length($2)) = $2 AND $3 = $3 AND $4 = $4 ORDER BY seq DESC LIMIT 2";
	const char *before = hub_stage_before(e->w->set, q->stage);
	const char *param[] = { q->origin, q->artifact, q->stage, before ? before : "" };
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;

	if (*q->artifact && (strlen(q->artifact) < 8 || strlen(q->artifact) > 64))
		return sb_fail(err, SB_EREFUSED, "artifact: expected an id or at least its first 8 digits");
	int r = sb_pg_exec(e->pg, *q->artifact ? by_prefix : fallback, 4, param, &res, err);
	if (r < 0)
		return r;
	if (sb_pg_rows(res) == 0)
		return sb_fail(err, SB_EREFUSED, *q->artifact ? "origin \"%s\" has no such artifact" : "origin \"%s\" has no artifact that could go there", q->origin);
	if (*q->artifact && sb_pg_rows(res) > 1)
		return sb_fail(err, SB_EREFUSED, "these digits name several artifacts: give more");
	return sb_format(out, 65, err, "%s", sb_pg_get(res, 0, 0));
}

/* No self-approval: whoever opened the pull request of the artifact, or pushed it, may not be the one who lets it in. */
static int not_own(struct hub_engine *e, const struct sb_policy_edge *edge, const char *artifact, const char *person, struct sb_error *err)
{
	const char *param[] = { artifact, person };
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;

	if (sb_policy_approvals(edge) == 0 || edge->approvals.self == SB_SELF_ALLOW)
		return 0;
	int r = sb_pg_exec(e->pg,
		"SELECT 1 FROM lifecycle.artifact a LEFT JOIN lifecycle.pull_request p ON p.origin = a.origin AND p.merge_oid = a.commit_oid"
		" LEFT JOIN lifecycle.push u ON u.origin = a.origin AND u.head IN (a.commit_oid, p.head_oid) WHERE a.id = $1 AND (p.author = $2 OR u.pusher = $2) LIMIT 1",
		2, param, &res, err);
	if (r == 0 && sb_pg_rows(res) > 0)
		r = sb_fail(err, SB_EREFUSED, "%s made this change: somebody else must let it into %s", person, edge->to);
	return r;
}

static bool may_approve(const struct hub_engine *e, const struct sb_policy_edge *edge, const char *person)
{
	const struct sb_policy_rule *rule = edge->approvals.rules.item;

	for (size_t i = 0; i < edge->approvals.rules.count; i++) {
		if (sb_policy_member(sb_policy_group_find(e->policy, rule[i].group), person))
			return true;
	}
	return edge->approvals.rules.count == 0;
}

/* A decision is given for this artifact under this policy and for nothing else. A second one of the same person takes the place of the first. */
static int vote(struct hub_engine *e, const struct sb_policy_edge *edge, const char *promotion, const char *artifact, const struct request *q, bool yes, struct sb_error *err)
{
	const char *param[] = { promotion, q->person, yes ? "approve" : "reject", q->reason, artifact, edge->digest };

	return sb_pg_exec(e->pg,
		"INSERT INTO lifecycle.approval (promotion, person, decision, reason, artifact, policy) VALUES ($1, $2, $3, $4, $5, $6)"
		" ON CONFLICT (promotion, person) DO UPDATE SET decision = excluded.decision, reason = excluded.reason, artifact = excluded.artifact, policy = excluded.policy, at = now()",
		6, param, NULL, err);
}

/* The edge into the stage that is asked for */
static int edge_to(const struct hub_engine *e, const char *stage, const struct sb_policy_edge **ret, struct sb_error *err)
{
	*ret = sb_policy_edge_to(e->policy, stage);
	return *ret ? 0 : sb_fail(err, SB_EREFUSED, "\"%s\" is not a stage that artifacts are promoted into", stage);
}

/* A person's promotion backwards holds automation; one forwards releases it. */
static int set_hold(struct hub_engine *e, const struct request *q, const char *artifact, bool always, struct sb_error *err)
{
	const char *param[] = { q->stage, q->origin, artifact, q->person, *q->reason ? q->reason : q->action, always ? "t" : "f" };

	int r = sb_pg_exec(e->pg,
		"DELETE FROM lifecycle.hold WHERE stage = $1 AND origin = $2 AND NOT $6::boolean AND $4 = $4 AND $5 = $5 AND (SELECT seq FROM lifecycle.artifact WHERE id = $3) ="
		" (SELECT max(seq) FROM lifecycle.artifact WHERE origin = $2 AND NOT orphaned)",
		6, param, NULL, err);
	if (r == 0)
		r = sb_pg_exec(e->pg,
			"INSERT INTO lifecycle.hold (stage, origin, person, reason) SELECT $1, $2, $4, $5 WHERE $6::boolean OR (SELECT seq FROM lifecycle.artifact WHERE id = $3) <"
			" coalesce((SELECT a.seq FROM lifecycle.occupancy o JOIN lifecycle.artifact a ON a.id = o.artifact WHERE o.stage = $1 AND o.origin = $2 AND o.until IS NULL), 0)"
			" ON CONFLICT (stage, origin) DO UPDATE SET person = excluded.person, reason = excluded.reason, since = now()",
			6, param, NULL, err);
	return r;
}

/* A promotion that automation proposed and that still waits becomes the person's. */
static int adopt(struct sb_pg *pg, const char *promotion, const char *kind, const struct request *q, struct sb_error *err)
{
	const char *param[] = { promotion, kind, q->person, q->reason };

	return sb_pg_exec(pg, "UPDATE lifecycle.promotion SET kind = $2, requested_by = $3, reason = $4, version = version + 1 WHERE id = $1 AND kind = 'auto' AND state IN ('PENDING', 'GATED', 'READY')", 4, param,
		NULL, err);
}

static int promote(struct hub_engine *e, const struct request *q, const char *kind, const char *fallback, char promotion[SB_ID_LEN + 1], struct sb_error *err)
{
	const struct sb_policy_edge *edge = NULL;
	char artifact[65];
	bool is_new = false, counts = false;

	int r = edge_to(e, q->stage, &edge, err);
	if (r == 0)
		r = find_artifact(e, q, fallback, artifact, err);
	if (r == 0) {
		counts = edge->approvals.request_counts && may_approve(e, edge, q->person);
		r = edge->approvals.request_counts ? not_own(e, edge, artifact, q->person, err) : 0;
	}
	if (r == 0)
		r = hub_promotion_create(e->pg, q->origin, artifact, q->stage, kind, q->person, q->reason, promotion, &is_new, err);
	if (r == 0 && !is_new)
		r = adopt(e->pg, promotion, kind, q, err);
	if (r == 0 && counts && sb_policy_approvals(edge) > 0)
		r = vote(e, edge, promotion, artifact, q, true, err);
	if (r == 0)
		r = set_hold(e, q, artifact, strcmp(kind, "rollback") == 0, err);
	return r;
}

static int decide(struct hub_engine *e, const struct request *q, struct sb_error *err)
{
	bool yes = strcmp(q->action, "approve") == 0;
	const struct sb_policy_edge *edge = NULL;
	struct hub_promotion p;

	int r = hub_promotion_load(e->pg, q->promotion, true, &p, err);
	if (r == SB_ENOTFOUND)
		return sb_fail(err, SB_EREFUSED, "no promotion has this id");
	if (r == 0 && p.state != SB_P_PENDING && p.state != SB_P_GATED && p.state != SB_P_READY)
		r = sb_fail(err, SB_EREFUSED, "it is %s: nothing waits for a decision", sb_promotion_state_name(p.state));
	if (r == 0)
		r = edge_to(e, p.stage, &edge, err);
	if (r == 0 && yes)
		r = not_own(e, edge, p.artifact, q->person, err);
	if (r == 0 && yes && !may_approve(e, edge, q->person))
		r = sb_fail(err, SB_EREFUSED, "%s is in none of the groups whose yes counts for %s", q->person, edge->edge);
	if (r == 0)
		r = vote(e, edge, p.id, p.artifact, q, yes, err);
	if (r == 0 && !yes)
		return hub_promotion_step(e->pg, &p, SB_PE_REJECTED, q->person, q->reason, err);
	return r < 0 ? r : hub_audit(e->pg, q->person, "approved", q->promotion, "", "", q->reason, err);
}

/* stop and resume: nothing goes in, whoever asks. hold and release: automation does not. Each twice is once. */
static int brake(struct hub_engine *e, const struct request *q, struct sb_error *err)
{
	static const struct { const char *action, *sql, *nothing; } brakes[] = {
		{ "stop", "INSERT INTO lifecycle.stop (stage, origin, person, reason) VALUES ($1, $2, $3, $4) ON CONFLICT (stage, origin) DO UPDATE SET person = excluded.person, reason = excluded.reason", "" },
		{ "resume", "DELETE FROM lifecycle.stop WHERE stage = $1 AND origin = $2 AND $3 = $3 AND $4 = $4", "there is no stop of exactly this stage and origin" },
		{ "hold", "INSERT INTO lifecycle.hold (stage, origin, person, reason) VALUES ($1, $2, $3, $4) ON CONFLICT (stage, origin) DO UPDATE SET person = excluded.person, reason = excluded.reason", "" },
		{ "release", "DELETE FROM lifecycle.hold WHERE stage = $1 AND origin = $2 AND $3 = $3 AND $4 = $4", "automation is not held for this stage and origin" },
	};
	const char *param[] = { q->stage, q->origin, q->person, q->reason };
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const struct sb_policy_edge *edge = NULL;
	char object[160];
	size_t i = 0;

	while (i + 1 < SB_COUNT(brakes) && strcmp(brakes[i].action, q->action) != 0)
		i++;
	int r = *q->stage ? edge_to(e, q->stage, &edge, err) : 0;
	if (r == 0 && i >= 2 && (!*q->stage || !*q->origin))
		r = sb_fail(err, SB_EREFUSED, "which stage and which origin?");
	if (r == 0)
		r = sb_pg_exec(e->pg, brakes[i].sql, 4, param, &res, err);
	if (r == 0 && sb_pg_affected(res) == 0)
		r = sb_fail(err, SB_EREFUSED, "%s", brakes[i].nothing);
	if (r == 0)
		r = sb_format(object, sizeof(object), err, "%s%s%s", *q->origin ? q->origin : "all origins", " into ", *q->stage ? q->stage : "all stages");
	return r < 0 ? r : hub_audit(e->pg, q->person, q->action, object, "", "", q->reason, err);
}

static int stop(struct hub_engine *e, const struct request *q, struct sb_error *err)
{
	struct hub_promotion p;

	int r = hub_promotion_load(e->pg, q->promotion, true, &p, err);
	if (r == SB_ENOTFOUND)
		return sb_fail(err, SB_EREFUSED, "no promotion has this id");
	return r < 0 ? r : hub_promotion_step(e->pg, &p, SB_PE_ABORTED, q->person, q->reason, err);
}

static int carry_out(struct hub_engine *e, const struct request *q, char promotion[SB_ID_LEN + 1], struct sb_error *err)
{
	static const char newest[] =
		"SELECT a.id FROM lifecycle.artifact a WHERE a.origin = $1 AND $2 = '' AND $3 = $3 AND NOT a.orphaned AND ($4 = '' OR EXISTS (SELECT FROM lifecycle.occupancy o WHERE o.artifact = a.id AND o.stage = $4"
		" AND o.verified_at IS NOT NULL)) ORDER BY a.seq DESC LIMIT 1";
	static const char last_good[] =
		"SELECT o.artifact FROM lifecycle.occupancy o WHERE o.origin = $1 AND $2 = '' AND o.stage = $3 AND $4 = $4 AND o.verified_at IS NOT NULL AND o.until IS NOT NULL AND o.artifact NOT IN"
		" (SELECT artifact FROM lifecycle.occupancy WHERE stage = $3 AND origin = $1 AND until IS NULL) ORDER BY o.since DESC LIMIT 1";
	static const char hotfix_sql[] = "SELECT kind FROM lifecycle.artifact WHERE id = $1";
	sb_cleanup(sb_pg_freep) struct sb_pg_result *kind = NULL;

	(void)snprintf(promotion, SB_ID_LEN + 1, "%s", sb_id_ok(q->promotion) ? q->promotion : "");
	if (strcmp(q->action, "promote") == 0)
		return promote(e, q, "manual", newest, promotion, err);
	if (strcmp(q->action, "rollback") == 0)
		return promote(e, q, "rollback", last_good, promotion, err);
	if (strcmp(q->action, "abort") == 0)
		return stop(e, q, err);
	if (strcmp(q->action, "stop") == 0 || strcmp(q->action, "resume") == 0 || strcmp(q->action, "hold") == 0 || strcmp(q->action, "release") == 0)
		return brake(e, q, err);
	if (strcmp(q->action, "merged") != 0)
		return decide(e, q, err);
	int r = sb_pg_exec(e->pg, hotfix_sql, 1, &q->artifact, &kind, err);
	if (r < 0)
		return r;
	bool hotfix = sb_pg_rows(kind) == 1 && strcmp(sb_pg_get(kind, 0, 0), "hotfix") == 0;
	return promote(e, q, hotfix ? "hotfix" : "merge", newest, promotion, err);
}

static int answer(struct hub_engine *e, const struct request *q, int result, const struct sb_error *why, const char *promotion, struct sb_error *err)
{
	const char *param[] = { q->id, result == 0 ? "done" : "refused", result == 0 ? "" : why->msg, promotion };

	int r = sb_pg_exec(e->pg, "UPDATE lifecycle.promotion_request SET state = $2, answer = $3, promotion = $4 WHERE id = $1", 4, param, NULL, err);
	if (r == 0 && result < 0)
		r = hub_audit(e->pg, q->person, "refused", q->action, "", "", why->msg, err);
	return r;
}

static bool is_refusal(int code)
{
	return code == SB_EREFUSED || code == SB_ESTATE || code == SB_EINVAL || code == SB_ECONFLICT;
}

static int handle(struct hub_engine *e, const struct request *q, struct sb_error *err)
{
	struct sb_error why = SB_ERROR_INIT;
	char promotion[SB_ID_LEN + 1];

	int r = hub_engine_begin(e, err);
	if (r < 0)
		return r;
	int result = carry_out(e, q, promotion, &why);
	if (result < 0 && !is_refusal(result)) {
		*err = why;
		return result;
	}
	if (result < 0) { /* nothing of a refused request stays but the answer */
		sb_pg_rollback(e->pg);
		r = hub_engine_begin(e, err);
		sb_log_error(SB_INFO, "request_refused", &why, "request=%s action=%s", q->id, q->action);
	}
	if (r == 0)
		r = answer(e, q, result, &why, promotion, err);
	return r < 0 ? r : sb_pg_commit(e->pg, err);
}

int hub_engine_requests(struct hub_engine *e, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	int done = 0;

	int r = sb_pg_exec(e->pg,
		"SELECT id, stage_from, action, origin, artifact, stage, promotion, person, reason FROM lifecycle.promotion_request WHERE state = 'open' ORDER BY created_at, id LIMIT " BATCH, 0, NULL, &res, err);
	for (int i = 0; r >= 0 && i < sb_pg_rows(res); i++) {
		struct request q = { .id = sb_pg_get(res, i, 0), .from = sb_pg_get(res, i, 1), .action = sb_pg_get(res, i, 2), .origin = sb_pg_get(res, i, 3), .artifact = sb_pg_get(res, i, 4),
			.stage = sb_pg_get(res, i, 5), .promotion = sb_pg_get(res, i, 6), .person = sb_pg_get(res, i, 7), .reason = sb_pg_get(res, i, 8) };

		r = handle(e, &q, err);
		done++;
	}
	return r < 0 ? r : done;
}

/* The fate of requests that came from inside stages goes back down, once per change. */
int hub_engine_tell(struct hub_engine *e, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	int done = 0;

	int r = sb_pg_exec(e->pg,
		"SELECT q.id, q.stage_from, coalesce(p.id, ''), q.stage, q.origin, coalesce(p.artifact, ''), CASE WHEN q.state = 'refused' OR p.id IS NULL THEN q.state ELSE p.state END,"
		" CASE WHEN q.state = 'refused' OR p.id IS NULL THEN q.answer ELSE p.reason END, coalesce(p.waiting_for, '') FROM lifecycle.promotion_request q LEFT JOIN lifecycle.promotion p ON p.id = q.promotion"
		" WHERE q.state <> 'open' AND q.stage_from IN (SELECT name FROM lifecycle.stage) AND q.told <> CASE WHEN q.state = 'refused' OR p.id IS NULL THEN q.state ELSE p.state END ORDER BY q.created_at LIMIT " BATCH,
		0, NULL, &res, err);
	for (int i = 0; r >= 0 && i < sb_pg_rows(res); i++) {
		const char *told[] = { sb_pg_get(res, i, 0), sb_pg_get(res, i, 6) };
		const char *waits = sb_pg_get(res, i, 8);
		json_auto_t *gates = *waits ? json_pack("[s]", waits) : json_array();
		json_auto_t *body = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:O}", "request", told[0], "promotion", sb_pg_get(res, i, 2), "stage", sb_pg_get(res, i, 3), "origin", sb_pg_get(res, i, 4), "artifact",
			sb_pg_get(res, i, 5), "state", told[1], "reason", sb_pg_get(res, i, 7), "gates", gates);

		r = body ? hub_engine_begin(e, err) : sb_fail_nomem(err);
		if (r == 0)
			r = hub_outbox_put(e->w, e->pg, sb_pg_get(res, i, 1), SB_EV_PROMOTION_REPORTED, told[0], body, err);
		if (r == 0)
			r = sb_pg_exec(e->pg, "UPDATE lifecycle.promotion_request SET told = $2 WHERE id = $1", 2, told, NULL, err);
		if (r == 0)
			r = sb_pg_commit(e->pg, err);
		done++;
	}
	return r < 0 ? r : done;
}
