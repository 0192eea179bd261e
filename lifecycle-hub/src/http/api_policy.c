/* The promotion policy for people and programs, and the commit statuses that it may require. */
#include <string.h>

#include "api.h"
#include "promote/policy.h"
#include "stagebridge/clock.h"
#include "stagebridge/git.h"

static json_t *explain(const struct sb_policy *p, const char *edge, int64_t at)
{
	const struct sb_policy_edge *e = p->edges.item;
	json_t *items = json_array();

	/* in the order of promotion: each edge begins where another one ends */
	for (const char *from = SB_POLICY_MAIN; from;) {
		const struct sb_policy_edge *next = NULL;
		for (size_t i = 0; i < p->edges.count && !next; i++)
			next = strcmp(e[i].from, from) == 0 ? &e[i] : NULL;
		if (next && (!edge || !*edge || strcmp(next->edge, edge) == 0))
			(void)json_array_append_new(items, sb_policy_explain(p, next, at));
		from = next ? next->to : NULL;
	}
	return items;
}

int hub_api_policy(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	const char *edge = sb_http_query(req, "edge");
	const char *when = sb_http_query(req, "at");
	int64_t at = sb_wall_ms();
	struct hub_call c;
	char problem[480];

	if (when && *when && !sb_time_parse_typed(when, &at))
		return sb_fail(err, SB_EINVAL, "at: expected a time in UTC such as 2026-12-18T18:00:00Z");
	int r = hub_call_begin(user, req, &c, err);
	if (r < 0)
		return r;
	const struct sb_policy *p = hub_policy_get(c.w);
	hub_policy_problem(c.w, problem, sizeof(problem));
	json_t *items = explain(p, edge, at);
	if (edge && *edge && json_array_size(items) == 0) {
		json_decref(items);
		r = sb_fail(err, SB_ENOTFOUND, "no edge \"%.70s\": expected FROM..TO of two promoted stages, or main..TO of the first", edge);
	} else {
		r = sb_http_json(reply, json_pack("{s:s, s:s, s:s, s:s, s:o}", "policy", p->name, "version", p->version, "digest", p->digest, "problem", problem, "items", items), err);
	}
	hub_policy_put(c.w, p);
	hub_call_end(user, &c, r == 0);
	return r;
}

/* --- statuses --- */

static const char *field(const json_t *body, const char *key)
{
	const char *s = json_string_value(json_object_get(body, key));

	return s ? s : "";
}

static int check(const json_t *body, struct sb_error *err)
{
	static const char *const states[] = { "pending", "success", "failure", "error" };
	const char *state = field(body, "state"), *context = field(body, "context");
	bool known = false;

	for (size_t i = 0; i < SB_COUNT(states); i++)
		known = known || strcmp(state, states[i]) == 0;
	if (!known)
		return sb_fail(err, SB_EINVAL, "state: expected pending, success, failure or error");
	if (!*context || strlen(context) > 200 || strncmp(context, "stagebridge/", 12) == 0)
		return sb_fail(err, SB_EINVAL, "context: expected 1 to 200 bytes such as ci/build; stagebridge/ is the hub's own");
	if (!sb_hex_ok(field(body, "commit"), SB_OID_LEN) || !sb_type_ok(field(body, "origin")))
		return sb_fail(err, SB_EINVAL, "origin and commit are needed; commit: its full id in hex");
	if (strlen(field(body, "description")) > 400 || strlen(field(body, "url")) > 400)
		return sb_fail(err, SB_EINVAL, "description and url: at most 400 bytes");
	return 0;
}

int hub_api_status_post(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	json_auto_t *body = NULL;
	struct hub_call c = { .w = NULL };

	int r = sb_http_body_json(req, &body, err);
	if (r == 0)
		r = check(body, err);
	if (r == 0)
		r = hub_call_begin(user, req, &c, err);
	if (r < 0)
		return r;
	const char *param[] = { field(body, "origin"), field(body, "commit"), field(body, "context"), field(body, "state"), field(body, "description"), field(body, "url"), sb_http_who(req)->name };
	r = sb_pg_exec(c.pg,
		"INSERT INTO lifecycle.commit_status (origin, oid, context, state, description, url, reporter) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (origin, oid, context)"
		" DO UPDATE SET state = excluded.state, description = excluded.description, url = excluded.url, reporter = excluded.reporter, updated_at = now() WHERE commit_status.reporter <> ''",
		7, param, NULL, err);
	if (r == 0)
		r = sb_http_json(reply, json_pack("{s:s, s:s, s:s, s:s}", "origin", param[0], "commit", param[1], "context", param[2], "state", param[3]), err);
	if (r == 0)
		hub_wake(c.w, "engine");
	hub_call_end(user, &c, r == 0);
	return r;
}
