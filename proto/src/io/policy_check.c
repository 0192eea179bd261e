/* The promotion policy: what no row of its table can say, and what the engine cannot do yet. Every refusal names file, line, column, path and what was
 * expected. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "policy_private.h"

struct check {
	struct sb_policy *p;
	int64_t horizon_ms;
	char path[200];
	struct sb_error *err;
};

static void SB_PRINTF(2, 3) at(struct check *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(c->path, sizeof(c->path), fmt, ap); /* paths of the table fit; keys are ours */
	va_end(ap);
}

static int SB_PRINTF(2, 3) refuse(const struct check *c, const char *fmt, ...)
{
	char reason[300];
	size_t line = 1, column = 1;
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(reason, sizeof(reason), fmt, ap); /* a long name may be cut: it is a message */
	va_end(ap);
	sb_settings_where(c->p->text ? c->p->text : "", c->p->text_len, c->path, &line, &column);
	return sb_fail(c->err, SB_ECONFIG, "%s:%zu:%zu: %s: %s", c->p->file ? c->p->file : "policy", line, column, c->path, reason);
}

/* --- windows --- */

static int check_windows(struct check *c, struct sb_list *list, const char *where)
{
	struct sb_policy_window *w = list->item;

	for (size_t i = 0; i < list->count; i++) {
		struct sb_window_spec spec = { .tz = w[i].tz, .start = w[i].start, .end = w[i].end, .duration_ms = w[i].duration_ms, .rrule = w[i].rrule, .exdates = &w[i].exdates };
		struct sb_error why = SB_ERROR_INIT;
		const char *field = "";

		at(c, "%s[%zu].name", where, i);
		if (!*w[i].name || strlen(w[i].name) > 80)
			return refuse(c, "expected 1 to 80 bytes");
		int r = sb_window_new(&w[i].made, &spec, c->horizon_ms, &field, &why);
		if (r == SB_ENOMEM)
			return sb_fail_nomem(c->err);
		if (r < 0) {
			at(c, "%s[%zu].%s", where, i, field);
			return refuse(c, "%s", why.msg);
		}
	}
	return 0;
}

/* --- people --- */

static int check_groups(struct check *c)
{
	const struct sb_policy_group *group = c->p->groups.item;

	for (size_t i = 0; i < c->p->groups.count; i++) {
		for (size_t k = 0; k < group[i].members.count; k++) {
			at(c, "groups[%zu].members[%zu]", i, k);
			if (!*group[i].members.item[k])
				return refuse(c, "is empty, expected a person's name");
			for (size_t m = 0; m < k; m++) {
				if (strcmp(group[i].members.item[m], group[i].members.item[k]) == 0)
					return refuse(c, "\"%.60s\" is there twice", group[i].members.item[k]);
			}
		}
		at(c, "groups[%zu].name", i);
		if (sb_policy_group_find(c->p, group[i].name) != &group[i])
			return refuse(c, "\"%s\" is there twice", group[i].name);
	}
	return 0;
}

/* Different people in the groups of the rules; a person in two groups counts once. */
static size_t people(const struct sb_policy *p, const struct sb_list *rules)
{
	const struct sb_policy_rule *rule = rules->item;
	size_t n = 0;

	for (size_t i = 0; i < rules->count; i++) {
		const struct sb_policy_group *g = sb_policy_group_find(p, rule[i].group);
		for (size_t m = 0; g && m < g->members.count; m++) {
			bool again = false;
			for (size_t k = 0; k < i && !again; k++)
				again = sb_policy_member(sb_policy_group_find(p, rule[k].group), g->members.item[m]);
			n += !again;
		}
	}
	return n;
}

static int check_approvals(struct check *c, const struct sb_policy_edge *e, size_t i)
{
	const struct sb_policy_rule *rule = e->approvals.rules.item;

	for (size_t k = 0; k < e->approvals.rules.count; k++) {
		const struct sb_policy_group *g = sb_policy_group_find(c->p, rule[k].group);
		at(c, "edges[%zu].approvals.rules[%zu].group", i, k);
		if (!g)
			return refuse(c, "\"%s\" is not one of the groups", rule[k].group);
		for (size_t m = 0; m < k; m++) {
			if (strcmp(rule[m].group, rule[k].group) == 0)
				return refuse(c, "\"%s\" has a rule already", rule[k].group);
		}
		at(c, "edges[%zu].approvals.rules[%zu].min", i, k);
		if (rule[k].min > (int64_t)g->members.count)
			return refuse(c, "%lld people of \"%s\" are asked for, it has %zu", (long long)rule[k].min, rule[k].group, g->members.count);
	}
	at(c, "edges[%zu].approvals.min", i);
	if (e->approvals.rules.count > 0 && (int64_t)people(c->p, &e->approvals.rules) < e->approvals.min)
		return refuse(c, "%lld people are asked for, the groups have %zu", (long long)e->approvals.min, people(c->p, &e->approvals.rules));
	return 0;
}

/* --- one edge --- */

static int check_name(struct check *c, struct sb_policy_edge *e, size_t i)
{
	const char *dots = strstr(e->edge, "..");

	at(c, "edges[%zu].edge", i);
	if (!dots || dots == e->edge || (size_t)(dots - e->edge) > SB_NAME_MAX || strlen(dots + 2) > SB_NAME_MAX)
		return refuse(c, "\"%.70s\" is not FROM..TO, such as preprod..prod", e->edge);
	memcpy(e->from, e->edge, (size_t)(dots - e->edge));
	memcpy(e->to, dots + 2, strlen(dots + 2));
	if (!sb_name_ok(e->from) || !sb_name_ok(e->to) || strcmp(e->from, e->to) == 0 || strcmp(e->to, SB_POLICY_MAIN) == 0)
		return refuse(c, "\"%.70s\" is not FROM..TO, such as preprod..prod", e->edge);
	if (sb_policy_edge_to(c->p, e->to) != e)
		return refuse(c, "\"%s\" has an edge already", e->to);
	return 0;
}

/* What the table has a place for and the engine cannot do: refused, never taken in silence. */
static int check_supported(struct check *c, const struct sb_policy_edge *e, size_t i)
{
	bool other_upstream = e->availability.upstream.count > 1 || (e->availability.upstream.count == 1 && strcmp(e->availability.upstream.item[0], e->from) != 0);
	const struct { const char *key; bool asked; const char *instead; } later[] = {
		{ "mode", e->mode == SB_MODE_ON_MERGE, "expected auto (a merge on main goes by itself) or manual (the merge of its pull request is a yes)" },
		{ "select", e->select == SB_SELECT_MATCH_UPSTREAM || e->select == SB_SELECT_EXACT, "expected newest, newest_ready or fifo" },
		{ "availability.strategy", e->availability.strategy != 0, "expected all" },
		{ "availability.upstream", other_upstream, "expected the stage before, or nothing" },
		{ "windows.override", e->windows.override != NULL, "a stop-gap is to change the policy: what waits is looked at again at once" },
		{ "deadlines.verify", e->deadlines.verify_ms != 0, "the health check is the verification, with its own timeout at the agent" },
		{ "retry.backoff", e->retry.backoff_ms != 0, "orders are repeated at once" },
		{ "rollback.on", e->rollback.on.count != 0, "rollbacks are asked for by people: stagebridge rollback" },
		{ "rollback.schema_guard", e->rollback.schema_guard != 0, "expected none" },
		{ "verification.suite", e->verification.suite.count != 0, "the health check is the verification" },
		{ "evidence.require", e->evidence.require.count != 0, "expected nothing" },
		{ "evidence.emit", e->evidence.emit != 0, "expected none" },
		{ "data.down", e->data.down != 0, "expected anonymized; public types are said in the hub's settings" },
		{ "data.attestation", e->data.attestation != 0, "expected required" },
		{ "data.max_age", e->data.max_age_ms != 0, "expected nothing" },
		{ "depends_on", e->depends_on.count != 0, "expected nothing" },
	};

	for (size_t k = 0; k < SB_COUNT(later); k++) {
		if (!later[k].asked)
			continue;
		at(c, "edges[%zu].%s", i, later[k].key);
		return refuse(c, "not supported yet: %s", later[k].instead);
	}
	return 0;
}

static int check_statuses(struct check *c, const struct sb_policy_edge *e, size_t i)
{
	for (size_t k = 0; k < e->statuses.required.count; k++) {
		const char *name = e->statuses.required.item[k];
		at(c, "edges[%zu].statuses.required[%zu]", i, k);
		if (!*name || strlen(name) > 200)
			return refuse(c, "expected the name of a status, such as ci/build");
		if (strncmp(name, "stagebridge/", 12) == 0)
			return refuse(c, "\"%.60s\" is the hub's own word: name one that another system says", name);
	}
	return 0;
}

static int check_edge(struct check *c, struct sb_policy_edge *e, size_t i)
{
	char where[64];

	int r = check_name(c, e, i);
	if (r == 0)
		r = check_supported(c, e, i);
	if (r == 0)
		r = check_approvals(c, e, i);
	if (r == 0)
		r = check_statuses(c, e, i);
	(void)snprintf(where, sizeof(where), "edges[%zu].windows.allow", i);
	if (r == 0)
		r = check_windows(c, &e->windows.allow, where);
	(void)snprintf(where, sizeof(where), "edges[%zu].windows.deny", i);
	if (r == 0)
		r = check_windows(c, &e->windows.deny, where);
	return r;
}

int sb_policy_check(struct sb_policy *p, int64_t horizon_ms, struct sb_error *err)
{
	struct check c = { .p = p, .horizon_ms = horizon_ms, .err = err };
	struct sb_policy_edge *edge = p->edges.item;

	int r = check_groups(&c);
	if (r == 0)
		r = check_windows(&c, &p->freezes, "freezes");
	for (size_t i = 0; r == 0 && i < p->edges.count; i++)
		r = check_edge(&c, &edge[i], i);
	return r;
}

int sb_policy_check_path(const struct sb_policy *p, const struct sb_policy_stage *stage, size_t n, struct sb_error *err)
{
	struct sb_policy copy = *p; /* borrowed, for the messages */
	struct check c = { .p = &copy, .err = err };
	const struct sb_policy_edge *edge = p->edges.item;

	for (size_t i = 0; i < p->edges.count; i++) {
		size_t to = 0;
		while (to < n && strcmp(stage[to].name, edge[i].to) != 0)
			to++;
		at(&c, "edges[%zu].edge", i);
		if (to == n)
			return refuse(&c, "\"%s\" is not a stage that artifacts are promoted into", edge[i].to);
		const char *before = to ? stage[to - 1].name : SB_POLICY_MAIN;
		if (strcmp(edge[i].from, before) != 0)
			return refuse(&c, "the stage before \"%s\" is \"%s\": expected %s..%s", edge[i].to, before, before, edge[i].to);
	}
	return 0;
}
