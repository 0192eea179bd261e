/* The one judgement: may this artifact go into this stage now? Every asker (engine, `why`, page) gets the same gates with the same words. Pure: facts and policy in,
 * answers out; tests hold it to never passing with an unmet gate. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine.h"

const char *const hub_gate_state_name[] = { "pass", "pending", "refuse" };

struct question {
	const struct sb_policy *p;
	const struct sb_policy_edge *e;
	const struct hub_facts *f;
	struct hub_gates *g;
	bool automatic, rollback, hotfix;
};

/* One answer; the gate that is written on. Every gate is asked once, so there is room for all. */
static struct hub_gate *SB_PRINTF(4, 5) put(struct question *q, const char *gate, enum hub_gate_state state, const char *fmt, ...)
{
	struct hub_gates *g = q->g;
	struct hub_gate *x = &g->item[g->count < SB_COUNT(g->item) - 1 ? g->count++ : g->count];
	va_list ap;

	*x = (struct hub_gate){ .state = state };
	(void)snprintf(x->gate, sizeof(x->gate), "%s", gate);
	va_start(ap, fmt);
	(void)vsnprintf(x->detail, sizeof(x->detail), fmt, ap); /* for people: reasons and lists of names may be cut */
	va_end(ap);
	g->pass = g->pass && state == HUB_GATE_PASS;
	g->refused = g->refused || state == HUB_GATE_REFUSE;
	return x;
}

static void SB_PRINTF(2, 3) who(struct hub_gate *x, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(x->who, sizeof(x->who), fmt, ap);
	va_end(ap);
}

/* --- the gates --- */

static void ask_stop(struct question *q)
{
	if (!*q->f->stop) {
		put(q, "stop", HUB_GATE_PASS, "the line is not stopped");
		return;
	}
	struct hub_gate *x = put(q, "stop", HUB_GATE_PENDING, "the line was stopped by %.250s", q->f->stop);
	x->since_ms = q->f->stop_ms;
	who(x, "whoever says stagebridge resume");
}

static void ask_upstream(struct question *q)
{
	if (q->rollback) {
		put(q, "verified-here", q->f->here_verified ? HUB_GATE_PASS : HUB_GATE_REFUSE, "%s", q->f->here_verified ? "it was verified in this stage" :
			"it was never verified in this stage: not a target for a rollback");
		return;
	}
	if (strcmp(q->e->from, SB_POLICY_MAIN) == 0 || q->hotfix)
		return;
	if (q->f->up_verified) {
		put(q, "upstream", HUB_GATE_PASS, "verified in %s", q->e->from);
		return;
	}
	struct hub_gate *x = put(q, "upstream", HUB_GATE_PENDING, "not verified in %s yet", q->e->from);
	x->since_ms = q->f->created_ms;
	who(x, "the promotion into %s", q->e->from);
}

static void ask_soak(struct question *q)
{
	int64_t min = q->e->soak.min_ms;

	if (min == 0 || q->rollback || q->hotfix || strcmp(q->e->from, SB_POLICY_MAIN) == 0)
		return;
	if (q->f->up_verified && q->f->up_longest_ms >= min) {
		put(q, "soak", HUB_GATE_PASS, "stayed in %s for %" PRId64 " s without a break", q->e->from, min / 1000);
		return;
	}
	struct hub_gate *x = put(q, "soak", HUB_GATE_PENDING, "must stay in %s for %" PRId64 " s without a break%s", q->e->from, min / 1000, q->f->up_since_ms ? "" : ", and is not there now");
	x->since_ms = q->f->up_since_ms;
	x->next_ms = q->f->up_since_ms ? q->f->up_since_ms + min : 0;
	who(x, "%s", q->f->up_since_ms ? "time" : "whoever brings it back there");
}

static bool is_author(const struct hub_facts *f, const char *person)
{
	for (unsigned i = 0; i < f->n_authors; i++) {
		if (strcmp(f->author[i], person) == 0)
			return true;
	}
	return false;
}

static bool in_group(const struct question *q, const char *group, const char *person)
{
	const struct sb_policy_group *g = sb_policy_group_find(q->p, group);

	return g && sb_policy_member(g, person);
}

/* A yes counts from one of the groups, for this artifact under this policy, not too old, and not from who made the change. */
static bool counts(const struct question *q, const struct hub_vote *v)
{
	const struct sb_policy_rule *rule = q->e->approvals.rules.item;
	bool member = q->e->approvals.rules.count == 0;

	if (!v->yes || v->at_ms + q->e->approvals.expires_ms <= q->f->now_ms || strcmp(v->artifact, q->f->artifact) != 0 || strcmp(v->policy, q->e->digest) != 0)
		return false;
	if (q->e->approvals.self == SB_SELF_DENY && is_author(q->f, v->person))
		return false;
	for (size_t i = 0; i < q->e->approvals.rules.count && !member; i++)
		member = in_group(q, rule[i].group, v->person);
	return member;
}

struct tally { int64_t valid, stale; char names[200]; };

static void tally(const struct question *q, const char *group, struct tally *t)
{
	size_t used = 0;

	*t = (struct tally){ 0 };
	for (unsigned i = 0; i < q->f->n_votes; i++) {
		const struct hub_vote *v = &q->f->vote[i];
		bool twice = false;
		for (unsigned k = 0; k < i && !twice; k++)
			twice = strcmp(q->f->vote[k].person, v->person) == 0;
		if (twice || (group && !in_group(q, group, v->person)))
			continue;
		if (!counts(q, v)) {
			t->stale += v->yes;
			continue;
		}
		if (used < sizeof(t->names))
			used += (size_t)snprintf(t->names + used, sizeof(t->names) - used, "%s%s", t->valid ? ", " : "", v->person);
		t->valid++;
	}
}

/* "release (maria, tom)", and whose yes does not count */
static void name_approvers(const struct question *q, const char *group, struct hub_gate *x)
{
	const struct sb_policy_rule *rule = q->e->approvals.rules.item;
	size_t used = 0;

	if (q->e->approvals.rules.count == 0)
		used = (size_t)snprintf(x->who, sizeof(x->who), "an approver");
	for (size_t i = 0; i < q->e->approvals.rules.count && used < sizeof(x->who); i++) {
		const struct sb_policy_group *g = sb_policy_group_find(q->p, rule[i].group);
		if (!g || (group && strcmp(group, g->name) != 0))
			continue;
		used += (size_t)snprintf(x->who + used, sizeof(x->who) - used, "%s%s (", used ? ", " : "", g->name);
		for (size_t m = 0; m < g->members.count && used < sizeof(x->who); m++)
			used += (size_t)snprintf(x->who + used, sizeof(x->who) - used, "%s%s", m ? ", " : "", g->members.item[m]);
		if (used < sizeof(x->who))
			used += (size_t)snprintf(x->who + used, sizeof(x->who) - used, ")");
	}
	for (unsigned i = 0; q->e->approvals.self == SB_SELF_DENY && i < q->f->n_authors && used < sizeof(x->who); i++)
		used += (size_t)snprintf(x->who + used, sizeof(x->who) - used, "%s%s", i ? ", " : " other than ", q->f->author[i]);
}

static void ask_approval(struct question *q)
{
	const struct sb_policy_rule *rule = q->e->approvals.rules.item;
	int64_t min = sb_policy_approvals(q->e);
	const char *lacking = NULL;
	struct tally t;

	for (unsigned i = 0; i < q->f->n_votes; i++) {
		if (!q->f->vote[i].yes) {
			put(q, "approval", HUB_GATE_REFUSE, "refused by %.120s", q->f->vote[i].person);
			return;
		}
	}
	if (min == 0 || q->rollback)
		return;
	int64_t missing = 0;
	for (size_t i = 0; i < q->e->approvals.rules.count && !lacking; i++) {
		tally(q, rule[i].group, &t);
		missing = rule[i].min - t.valid;
		lacking = missing > 0 ? rule[i].group : NULL;
	}
	tally(q, NULL, &t);
	if (!lacking && t.valid >= min) {
		put(q, "approval", HUB_GATE_PASS, "%s said yes", t.names);
		return;
	}
	missing = lacking && missing > min - t.valid ? missing : min - t.valid;
	struct hub_gate *x = put(q, "approval", HUB_GATE_PENDING, "%" PRId64 " more %s must say yes%s%.60s: stagebridge approve, or merge its pull request%s%s%s", missing, missing == 1 ? "person" : "people",
		lacking ? ", one of " : "", lacking ? lacking : "", t.valid ? "; yes: " : "", t.names, t.stale ? "; a yes that does not count: too old, for another policy, or not theirs to give" : "");
	x->since_ms = q->f->created_ms;
	name_approvers(q, t.valid < min ? NULL : lacking, x);
}

static bool may_report(const struct sb_policy_edge *e, const char *person)
{
	for (size_t i = 0; i < e->statuses.reporters.count; i++) {
		if (strcmp(e->statuses.reporters.item[i], person) == 0)
			return true;
	}
	return e->statuses.reporters.count == 0;
}

static const char *status_of(const struct question *q, const char *context)
{
	for (unsigned i = 0; i < q->f->n_statuses; i++) {
		if (strcmp(q->f->status[i].context, context) == 0 && may_report(q->e, q->f->status[i].reporter))
			return q->f->status[i].state;
	}
	return "not reported yet";
}

static void ask_statuses(struct question *q)
{
	char text[400] = "", waits[200] = "";
	size_t used = 0, named = 0;

	if (q->e->statuses.required.count == 0 || q->rollback)
		return;
	for (size_t i = 0; i < q->e->statuses.required.count; i++) {
		const char *context = q->e->statuses.required.item[i], *state = status_of(q, context);
		if (strcmp(state, "success") == 0)
			continue;
		if (used < sizeof(text))
			used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%s is %s", used ? ", " : "", context, state);
		if (named < sizeof(waits))
			named += (size_t)snprintf(waits + named, sizeof(waits) - named, "%s%s", named ? ", " : "", context);
	}
	struct hub_gate *x = put(q, "status", *text ? HUB_GATE_PENDING : HUB_GATE_PASS, "%s", *text ? text : "all required statuses are success");
	if (*text) {
		x->since_ms = q->f->created_ms;
		who(x, "whoever reports %s", waits);
	}
}

static void ask_window(struct question *q)
{
	struct sb_policy_moment m;
	char open[SB_ZONE_TIME_MAX];

	if ((q->rollback && q->e->windows.rollback == SB_ROLLBACK_EXEMPT) || q->e->windows.allow.count + q->e->windows.deny.count + q->p->freezes.count == 0)
		return;
	sb_policy_at(q->p, q->e, q->f->now_ms, &m);
	if (m.open) {
		put(q, "window", HUB_GATE_PASS, "open");
		return;
	}
	sb_zone_format(open, m.tz, m.next_open);
	struct hub_gate *x = put(q, "window", HUB_GATE_PENDING, "%s, %s%s", m.reason, m.next_open ? "opens " : "and no opening is in sight", m.next_open ? open : "");
	x->since_ms = m.since;
	x->next_ms = m.next_open;
	who(x, "time, or a change of the policy");
}

static void ask_order(struct question *q)
{
	static const char *const over[] = { "FAILED", "REJECTED", "ERRORED", "ABORTED", "EXPIRED" };
	const struct hub_facts *f = q->f;

	if (!q->automatic)
		return;
	struct hub_gate *x = put(q, "hold", *f->hold ? HUB_GATE_PENDING : HUB_GATE_PASS, *f->hold ? "automation is held by %.250s" : "automation is not held%s", f->hold);
	x->since_ms = f->hold_ms;
	who(x, "%s", *f->hold ? "whoever says stagebridge release, or promotes the newest by hand" : "");
	bool newer = f->seq > f->current_seq;
	put(q, "order", newer ? HUB_GATE_PASS : HUB_GATE_REFUSE, "%s", newer ? "newer than what is there" : "the stage has this one or a newer one: automation never goes back");
	bool again = false;
	for (size_t i = 0; i < SB_COUNT(over); i++)
		again = again || strcmp(f->last_state, over[i]) == 0;
	put(q, "retry", again ? HUB_GATE_REFUSE : HUB_GATE_PASS, again ? "its last try here ended %s: a person must ask for another" : "not tried here before%s", again ? f->last_state : "");
	put(q, "ancestry", f->orphaned ? HUB_GATE_REFUSE : HUB_GATE_PASS, "%s", f->orphaned ? "its commit is no longer on main" : "on main");
	if (q->e->select == SB_SELECT_FIFO)
		put(q, "queue", *f->older ? HUB_GATE_PENDING : HUB_GATE_PASS, *f->older ? "promotion %s of this origin comes first" : "first in the queue%s", f->older);
}

static void ask_stage(struct question *q)
{
	struct hub_gate *x = put(q, "stage", *q->f->in_flight ? HUB_GATE_PENDING : HUB_GATE_PASS, *q->f->in_flight ? "the stage is busy with %s" : "the stage is free%s", q->f->in_flight);

	who(x, "%s", *q->f->in_flight ? "the stage" : "");
}

void hub_decide(const struct sb_policy *p, const struct hub_facts *f, struct hub_gates *ret)
{
	static void (*const gates[])(struct question *) = { ask_stop, ask_upstream, ask_soak, ask_approval, ask_statuses, ask_window, ask_order, ask_stage };
	struct question q = { .p = p, .e = sb_policy_edge_to(p, f->stage), .f = f, .g = ret, .automatic = strcmp(f->kind, "auto") == 0, .rollback = strcmp(f->kind, "rollback") == 0,
		.hotfix = strcmp(f->kind, "hotfix") == 0 };

	ret->count = 0;
	ret->pass = true;
	ret->refused = ret->expired = false;
	if (!q.e) {
		put(&q, "path", HUB_GATE_REFUSE, "\"%s\" is not a stage that artifacts are promoted into", f->stage);
		return;
	}
	for (size_t i = 0; i < SB_COUNT(gates); i++)
		gates[i](&q);
	for (unsigned i = 0; i < ret->count; i++) { /* what was cut may end inside a character */
		sb_text_tidy(ret->item[i].detail);
		sb_text_tidy(ret->item[i].who);
	}
	ret->expired = !ret->pass && q.e->deadlines.waiting_ms > 0 && f->created_ms + q.e->deadlines.waiting_ms <= f->now_ms;
}

int hub_verdict(const struct sb_policy *p, const struct hub_facts *f, const struct hub_gates *g)
{
	const struct sb_policy_edge *e = sb_policy_edge_to(p, f->stage);
	bool other_policy = e && strcmp(f->policy, e->digest) != 0;

	if (f->state != SB_P_PENDING && f->state != SB_P_GATED && f->state != SB_P_READY)
		return -1;
	if (g->refused)
		return SB_PE_REFUSED;
	if (g->expired)
		return SB_PE_EXPIRED;
	if (f->state == SB_P_PENDING)
		return SB_PE_EVALUATED;
	if (other_policy || (f->state == SB_P_READY && !g->pass))
		return SB_PE_CHANGED;
	if (!g->pass)
		return -1;
	return f->state == SB_P_GATED ? SB_PE_GATES_PASSED : SB_PE_DISPATCHED;
}

const struct hub_gate *hub_gates_first(const struct hub_gates *g)
{
	for (int state = HUB_GATE_REFUSE; state >= HUB_GATE_PENDING; state--) {
		for (unsigned i = 0; i < g->count; i++) {
			if ((int)g->item[i].state == state)
				return &g->item[i];
		}
	}
	return NULL;
}

void hub_gates_text(const struct hub_gates *g, char out[1000])
{
	size_t used = 0;

	out[0] = '\0';
	for (unsigned i = 0; i < g->count && used < 1000; i++) {
		if (g->item[i].state != HUB_GATE_PASS)
			used += (size_t)snprintf(out + used, 1000 - used, "%s%s: %s", used ? "; " : "", g->item[i].gate, g->item[i].detail);
	}
	sb_text_tidy(out);
}
