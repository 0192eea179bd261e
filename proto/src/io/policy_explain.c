/* The promotion policy in words: one edge as sentences and as JSON. Pure. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "settings_internal.h"
#include "stagebridge/clock.h"
#include "stagebridge/policy.h"

static void SB_PRINTF(2, 3) say(json_t *list, const char *fmt, ...)
{
	char text[1000];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap); /* for people: a very long list of names may be cut */
	va_end(ap);
	(void)json_array_append_new(list, json_string(text)); /* NULL when cut inside a character: the sentence is left out */
}

static void join(char *out, size_t size, const struct sb_strings *names)
{
	size_t used = 0;

	out[0] = '\0';
	for (size_t i = 0; i < names->count && used < size; i++)
		used += (size_t)snprintf(out + used, size - used, "%s%s", i ? ", " : "", names->item[i]);
}

static void say_approvals(json_t *out, const struct sb_policy *p, const struct sb_policy_edge *e)
{
	const struct sb_policy_rule *rule = e->approvals.rules.item;
	int64_t min = sb_policy_approvals(e);
	char names[400], time[SB_SETTINGS_SPELL_MAX];

	if (min == 0)
		return;
	sb_settings_spell_duration(time, e->approvals.expires_ms);
	say(out, "%" PRId64 " %s must say yes; a yes counts for %s, and for this artifact under this policy alone", min, min == 1 ? "person" : "different people", time);
	for (size_t i = 0; i < e->approvals.rules.count; i++) {
		join(names, sizeof(names), &sb_policy_group_find(p, rule[i].group)->members);
		if (rule[i].min > 0)
			say(out, "of them at least %" PRId64 " of %s: %s", rule[i].min, rule[i].group, names);
		else
			say(out, "%s may: %s", rule[i].group, names);
	}
	if (e->approvals.self == SB_SELF_DENY)
		say(out, "whoever made the change does not count");
	say(out, e->approvals.request_counts ? "asking for the promotion, or merging its pull request, is a yes" : "asking for the promotion is not a yes");
}

static void say_rules(json_t *out, const struct sb_policy *p, const struct sb_policy_edge *e)
{
	static const char *const select[] = { "a newer artifact takes the place of older ones that wait", "a newer artifact takes the place of older ones once its own gates pass",
		"artifacts go in one after the other, in their order" };
	char text[400], time[SB_SETTINGS_SPELL_MAX];

	say(out, "%s", e->mode == SB_MODE_AUTO ? "goes in by itself once its gates pass" : "waits for a person");
	say(out, "%s", select[e->select < 3 ? e->select : 0]);
	if (strcmp(e->from, SB_POLICY_MAIN) != 0)
		say(out, "%s must have verified it", e->from);
	if (e->soak.min_ms > 0) {
		sb_settings_spell_duration(time, e->soak.min_ms);
		say(out, "it must have been in %s for %s without a break", e->from, time);
	}
	say_approvals(out, p, e);
	if (e->statuses.required.count > 0) {
		join(text, sizeof(text), &e->statuses.required);
		say(out, "these statuses must be success on its commit: %s", text);
	}
	if (e->deadlines.waiting_ms > 0) {
		sb_settings_spell_duration(time, e->deadlines.waiting_ms);
		say(out, "after waiting for %s it expires", time);
	}
	if (e->windows.rollback == SB_ROLLBACK_EXEMPT && (e->windows.allow.count || e->windows.deny.count || p->freezes.count))
		say(out, "rollbacks do not wait for a window");
}

static json_t *stamp(int64_t ms)
{
	char text[SB_TIME_LEN + 1];

	if (ms == 0)
		return json_string("");
	sb_time_format(text, ms);
	return json_string(text);
}

json_t *sb_policy_explain(const struct sb_policy *p, const struct sb_policy_edge *e, int64_t t_ms)
{
	struct sb_policy_moment m;
	char open[SB_ZONE_TIME_MAX] = "";
	json_t *rules = json_array();

	sb_policy_at(p, e, t_ms, &m);
	if (rules)
		say_rules(rules, p, e);
	if (m.next_open)
		sb_zone_format(open, m.tz, m.next_open);
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:b, s:o, s:{s:b, s:s, s:o, s:o, s:o, s:s, s:s}, s:o}", "edge", e->edge, "from", e->from, "to", e->to, "mode",
		e->mode == SB_MODE_AUTO ? "auto" : "manual", "digest", e->digest, "built_in", (int)e->built_in, "at", stamp(t_ms), "window", "open", (int)m.open, "reason", m.reason, "since", stamp(m.since),
		"next_open", stamp(m.next_open), "next_close", stamp(m.next_close), "tz", m.tz, "next_open_local", open, "rules", rules);
}
