/* What people ask of the promotion engine, and why something waits. A request is a row for the engine; the answer is waited for a moment, so that a refusal
 * comes back with the call. */
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "api.h"
#include "promote/engine.h"
#include "stagebridge/clock.h"

#define ANSWER_MS 3000
#define ASK_AGAIN_MS 20

/* A request's state is the engine's answer; once it has a promotion, the promotion's. */
#define REQUEST_SQL                                                                                                                        \
	"SELECT json_build_object('request', q.id, 'action', q.action, 'state', CASE WHEN q.state = 'refused' OR p.id IS NULL OR q.action IN ('approve', 'reject') THEN q.state ELSE p.state END," \
	" 'promotion', q.promotion, 'reason', CASE WHEN q.state = 'refused' OR p.id IS NULL THEN q.answer ELSE p.reason END, 'waiting_for', coalesce(p.waiting_for, ''),"       \
	" 'stage', coalesce(p.stage, q.stage), 'origin', coalesce(p.origin, q.origin), 'artifact', coalesce(p.artifact, q.artifact))::text"                                     \
	" FROM lifecycle.promotion_request q LEFT JOIN lifecycle.promotion p ON p.id = q.promotion WHERE q.id = $1"

static const char *field(const json_t *body, const char *key)
{
	const char *s = json_string_value(json_object_get(body, key));

	return s ? s : "";
}

enum { NEEDS_PROMOTION = 1, NEEDS_LINE = 2, APPROVERS = 4, NEEDS_REASON = 8 }; /* line: stage and origin */
static const struct { const char *name; unsigned needs; } actions[] = {
	{ "promote", NEEDS_LINE }, { "rollback", NEEDS_LINE }, { "approve", NEEDS_PROMOTION | APPROVERS }, { "reject", NEEDS_PROMOTION | APPROVERS }, { "abort", NEEDS_PROMOTION },
	{ "stop", NEEDS_REASON }, { "resume", APPROVERS }, { "hold", NEEDS_LINE | NEEDS_REASON }, { "release", NEEDS_LINE },
};

static int check(const json_t *body, const struct sb_principal *who, struct sb_error *err)
{
	const char *action = field(body, "action"), *origin = field(body, "origin"), *stage = field(body, "stage");
	size_t i = 0;

	while (i < SB_COUNT(actions) && strcmp(actions[i].name, action) != 0)
		i++;
	if (i == SB_COUNT(actions))
		return sb_fail(err, SB_EINVAL, "action: expected promote, rollback, approve, reject, abort, stop, resume, hold or release");
	unsigned needs = actions[i].needs;
	if ((needs & APPROVERS) && !(who->may & SB_ROUTE_APPROVE))
		return sb_fail(err, SB_EAUTH, "%s may not %s: the role approver is needed", who->name, action);
	if ((needs & NEEDS_PROMOTION) && !sb_id_ok(field(body, "promotion")))
		return sb_fail(err, SB_EINVAL, "promotion: expected its id, as `stagebridge get promotions` shows it");
	if (((needs & NEEDS_LINE) || *origin) && !(needs & NEEDS_PROMOTION) && !sb_type_ok(origin))
		return sb_fail(err, SB_EINVAL, "origin and stage are needed");
	if (((needs & NEEDS_LINE) || *stage) && !(needs & NEEDS_PROMOTION) && !sb_name_ok(stage))
		return sb_fail(err, SB_EINVAL, "origin and stage are needed");
	if ((needs & NEEDS_REASON) && !*field(body, "reason"))
		return sb_fail(err, SB_EINVAL, "reason: say why, others will read it");
	if (strlen(field(body, "reason")) > 1000)
		return sb_fail(err, SB_EINVAL, "reason: at most 1000 bytes");
	return 0;
}

static int insert(struct hub_call *c, const char *id, const json_t *body, const char *who, struct sb_error *err)
{
	const char *param[] = { id, field(body, "action"), field(body, "origin"), field(body, "artifact"), field(body, "stage"), field(body, "promotion"), who, field(body, "reason") };

	return sb_pg_exec(c->pg,
		"INSERT INTO lifecycle.promotion_request (id, stage_from, action, origin, artifact, stage, promotion, person, reason) VALUES ($1, 'hub', $2, $3, $4, $5, $6, $7, $8)", 8, param, NULL, err);
}

static int await_answer(struct hub_call *c, const char *id, struct sb_error *err)
{
	int64_t end = sb_mono_ms() + ANSWER_MS;

	for (;;) {
		sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
		int r = sb_pg_exec(c->pg, "SELECT state FROM lifecycle.promotion_request WHERE id = $1", 1, &id, &res, err);

		if (r < 0 || sb_mono_ms() >= end || (sb_pg_rows(res) && strcmp(sb_pg_get(res, 0, 0), "open") != 0))
			return r;
		(void)poll(NULL, 0, ASK_AGAIN_MS); /* the condition is asked again, with the deadline above */
	}
}

int hub_api_request_post(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	const struct sb_principal *who = sb_http_who(req);
	json_auto_t *body = NULL;
	struct hub_call c = { .w = NULL };
	char id[SB_ID_LEN + 1];
	const char *param = id;

	int r = sb_http_body_json(req, &body, err);
	if (r == 0)
		r = check(body, who, err);
	if (r == 0)
		r = hub_call_begin(user, req, &c, err);
	if (r == 0) {
		sb_id_new(id);
		r = insert(&c, id, body, who->name, err);
	}
	if (r == 0) {
		hub_wake(c.w, "engine");
		r = await_answer(&c, id, err);
	}
	if (r == 0)
		r = hub_call_json(&c, REQUEST_SQL, 1, &param, reply, err);
	reply->status = 202;
	hub_call_end(user, &c, r == 0);
	return r;
}

int hub_api_request_get(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	const char *id = sb_http_param(req, "id");
	struct hub_call c;

	int r = hub_call_begin(user, req, &c, err);
	if (r == 0)
		r = hub_call_json(&c, REQUEST_SQL, 1, &id, reply, err);
	hub_call_end(user, &c, r == 0);
	return r;
}

int hub_api_promotion_get(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	const char *id = sb_http_param(req, "id");
	struct hub_call c;

	int r = hub_call_begin(user, req, &c, err);
	if (r == 0)
		r = hub_call_json(&c,
			"SELECT (to_jsonb(p) || jsonb_build_object('title', a.title, 'commit', a.commit_oid, 'author', a.author, 'history', (SELECT coalesce(jsonb_agg(jsonb_build_object('at', u.at, 'actor', u.actor, 'action', u.action,"
			" 'from', u.from_state, 'to', u.to_state, 'reason', u.reason) ORDER BY u.id), '[]') FROM lifecycle.audit u WHERE u.object = 'promotion/' || p.id),"
			" 'approvals', (SELECT coalesce(jsonb_agg(to_jsonb(v) - 'promotion' ORDER BY v.at), '[]') FROM lifecycle.approval v WHERE v.promotion = p.id)))::text"
			" FROM lifecycle.promotion p JOIN lifecycle.artifact a ON a.id = p.artifact WHERE p.id = $1",
			1, &id, reply, err);
	hub_call_end(user, &c, r == 0);
	return r;
}

/* --- why --- */

struct subject { char promotion[SB_ID_LEN + 1], artifact[65], stage[SB_NAME_MAX + 1], kind[12], state[16], origin[SB_TYPE_MAX + 1], waiting[400]; };

/* A promotion by id; else the newest open promotion of an artifact or origin into `to`; else the artifact itself, as if automation proposed it. */
static int find_subject(struct hub_call *c, const char *subject, const char *to, struct subject *ret, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { subject, to };
	char *const out[] = { ret->promotion, ret->artifact, ret->stage, ret->kind, ret->state, ret->origin };
	const size_t size[] = { sizeof(ret->promotion), sizeof(ret->artifact), sizeof(ret->stage), sizeof(ret->kind), sizeof(ret->state), sizeof(ret->origin) };

	if (!*subject)
		return sb_fail(err, SB_EINVAL, "subject: expected a promotion, an artifact or an origin");
	if (!sb_id_ok(subject) && !*to)
		return sb_fail(err, SB_EINVAL, "to: name the stage in question");
	int r = sb_pg_exec(c->pg,
		"(SELECT p.id, p.artifact, p.stage, p.kind, p.state, p.origin, 0 AS rank, a.seq AS age, p.seq FROM lifecycle.promotion p JOIN lifecycle.artifact a ON a.id = p.artifact WHERE p.id = $1)"
		" UNION ALL (SELECT p.id, p.artifact, p.stage, p.kind, p.state, p.origin, CASE WHEN p.ended_at IS NULL THEN 1 ELSE 2 END, a.seq, p.seq FROM lifecycle.promotion p JOIN lifecycle.artifact a ON a.id = p.artifact"
		"  WHERE p.stage = $2 AND (p.origin = $1 OR (length($1) >= 8 AND left(p.artifact, length($1)) = $1)))"
		" UNION ALL (SELECT '', a.id, $2, 'auto', 'PENDING', a.origin, 2, a.seq, 0 FROM lifecycle.artifact a WHERE NOT a.orphaned AND (a.origin = $1 OR (length($1) >= 8 AND left(a.id, length($1)) = $1))"
		"  AND NOT EXISTS (SELECT FROM lifecycle.promotion p WHERE p.artifact = a.id AND p.stage = $2)) ORDER BY rank, age DESC, seq DESC LIMIT 1",
		2, param, &res, err);
	if (r == 0 && sb_pg_rows(res) == 0)
		r = sb_fail(err, SB_ENOTFOUND, "nothing is known of \"%s\"", subject);
	for (int i = 0; r == 0 && i < (int)SB_COUNT(out); i++)
		r = sb_format(out[i], size[i], err, "%s", sb_pg_get(res, 0, i));
	return r;
}

static json_t *stamp(int64_t ms)
{
	char text[SB_TIME_LEN + 1] = "";

	if (ms)
		sb_time_format(text, ms);
	return json_string(text);
}

/* Those that are not open, or all */
static json_t *gate_list(const struct hub_gates *g, bool all)
{
	json_t *items = json_array();

	for (unsigned i = 0; i < g->count; i++) {
		const struct hub_gate *x = &g->item[i];

		if (all || x->state != HUB_GATE_PASS)
			(void)json_array_append_new(items, json_pack("{s:s, s:s, s:o, s:s, s:o, s:s}", "gate", x->gate, "state", hub_gate_state_name[x->state], "since", stamp(x->since_ms), "who", x->who, "next",
				stamp(x->next_ms), "detail", x->detail));
	}
	return items;
}

static int judge(struct hub_call *c, const struct subject *s, struct hub_gates *gates, struct sb_error *err)
{
	const struct sb_policy *policy = hub_policy_get(c->w);
	struct hub_facts *f = calloc(1, sizeof(*f));

	int r = f ? hub_facts_load(c->pg, s->promotion, s->artifact, s->stage, s->kind, f, err) : sb_fail_nomem(err);
	if (r == 0 && !sb_policy_edge_to(policy, s->stage))
		r = sb_fail(err, SB_EINVAL, "\"%s\" is not a stage that artifacts are promoted into", s->stage);
	if (r == 0)
		hub_decide(policy, f, gates);
	free(f);
	hub_policy_put(c->w, policy);
	return r;
}

int hub_api_why(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	const char *subject = sb_http_query(req, "subject"), *to = sb_http_query(req, "to"), *all = sb_http_query(req, "all");
	struct hub_gates gates = { .count = 0, .pass = true };
	struct subject s;
	struct hub_call c;
	char text[400];

	int r = hub_call_begin(user, req, &c, err);
	if (r == 0)
		r = find_subject(&c, subject ? subject : "", to ? to : "", &s, err);
	int state = r == 0 ? sb_promotion_state_find(s.state) : -1;
	bool waits = state >= 0 && !sb_promotion_terminal((enum sb_promotion_state)state) && !sb_promotion_in_flight((enum sb_promotion_state)state);
	if (r == 0 && waits)
		r = judge(&c, &s, &gates, err);
	hub_call_end(user, &c, r == 0);
	if (r < 0)
		return r;
	(void)snprintf(text, sizeof(text), "%s %.12s into %s: %s, %s%s", s.origin, s.artifact, s.stage, s.state, state >= 0 ? sb_promotion_state_text((enum sb_promotion_state)state) : "",
		waits && gates.pass ? "; nothing is in its way" : "");
	return sb_http_json(reply, json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:o}", "promotion", s.promotion, "artifact", s.artifact, "origin", s.origin, "stage", s.stage, "state", s.state, "text", text, "blocked",
		(int)(waits && !gates.pass), "items", gate_list(&gates, all && strcmp(all, "1") == 0)), err);
}
