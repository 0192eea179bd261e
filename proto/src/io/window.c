/* Windows of time on libical: its parser and iterator for recurrence rules, its reader of the system's time zones. What a local time means where the clocks
 * jump is decided here (RFC 5545, 3.3.5). libical keeps a cache of zones behind a lock of its own; nothing of it is used after a window was made. */
#include "stagebridge/window.h"

#include <libical/ical.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "stagebridge/text.h"

#define DAY_S      86400
#define SPANS_MAX  40000 /* a daily window for a hundred years */
#define LENGTH_MAX (366LL * DAY_S)
#define NEVER      (INT64_MAX / 2000) /* the end of a stretch that the rule goes on with for ever */

struct span { int64_t from, to; }; /* seconds, UTC */
struct sb_window {
	struct span *span;
	size_t count;
};

static int fail(const char **ret_field, const char *field, struct sb_error *err, const char *reason)
{
	*ret_field = field;
	return sb_fail(err, SB_ECONFIG, "%s", reason);
}

/* --- local time: seconds as if it were UTC --- */

static bool parse_local(const char *text, int64_t *ret, bool *ret_day)
{
	static const char *const forms[] = { "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d" };
	static const size_t length[] = { 19, 16, 10 };

	for (size_t i = 0; i < SB_COUNT(forms); i++) {
		struct tm tm = { 0 }, back = { 0 };
		const char *end = strlen(text) == length[i] ? strptime(text, forms[i], &tm) : NULL;
		if (!end || *end || tm.tm_sec > 59)
			continue;
		back = tm;
		time_t t = timegm(&back);
		/* 30 February has become another day */
		if (back.tm_mday != tm.tm_mday || back.tm_year < 70 || back.tm_year > 200)
			return false;
		*ret = t;
		*ret_day = i == 2;
		return true;
	}
	return false;
}

static int64_t offset_at(icaltimezone *zone, int64_t utc)
{
	struct icaltimetype t = icaltime_from_timet_with_zone((time_t)utc, 0, icaltimezone_get_utc_timezone());
	int dst = 0;

	return icaltimezone_get_utc_offset_of_utc_time(zone, &t, &dst);
}

/* The first of two, and through a gap with the offset from before it. Zones change at most once in two days. */
static int64_t resolve(icaltimezone *zone, int64_t local)
{
	int64_t before = offset_at(zone, local - DAY_S), after = offset_at(zone, local + DAY_S);

	if (offset_at(zone, local - before) != before && offset_at(zone, local - after) == after)
		return local - after;
	return local - before;
}

/* --- rules --- */

static const char *rule_problem(const struct icalrecurrencetype *rule, const char *text)
{
	if (strlen(text) > 400)
		return "is longer than 400 characters";
	if (rule->freq == ICAL_NO_RECURRENCE)
		return "is not a recurrence rule of RFC 5545, such as FREQ=WEEKLY;BYDAY=FR";
	if (rule->freq != ICAL_DAILY_RECURRENCE && rule->freq != ICAL_WEEKLY_RECURRENCE && rule->freq != ICAL_MONTHLY_RECURRENCE && rule->freq != ICAL_YEARLY_RECURRENCE)
		return "FREQ: expected DAILY, WEEKLY, MONTHLY or YEARLY";
	if (rule->by_hour[0] != ICAL_RECURRENCE_ARRAY_MAX || rule->by_minute[0] != ICAL_RECURRENCE_ARRAY_MAX || rule->by_second[0] != ICAL_RECURRENCE_ARRAY_MAX)
		return "BYHOUR, BYMINUTE and BYSECOND are not taken: the time of day is that of start; make two windows of it";
	return NULL;
}

/* UNTIL may be a day (then all of it counts), local, or UTC as RFC 5545 wants it beside a time zone; the iterator compares local times. */
static void localize_until(struct icalrecurrencetype *rule, icaltimezone *zone)
{
	if (icaltime_is_null_time(rule->until))
		return;
	if (rule->until.is_date) {
		rule->until.is_date = 0;
		rule->until.hour = 23;
		rule->until.minute = rule->until.second = 59;
	} else if (icaltime_is_utc(rule->until)) {
		int64_t utc = icaltime_as_timet(rule->until);
		rule->until = icaltime_from_timet_with_zone((time_t)(utc + offset_at(zone, utc)), 0, NULL);
		rule->until.zone = NULL;
	}
}

/* --- expanding --- */

struct plan {
	icaltimezone *zone;
	int64_t start, length; /* local seconds */
	const struct sb_strings *exdates;
};

static bool left_out(const struct plan *plan, int64_t local)
{
	for (size_t i = 0; plan->exdates && i < plan->exdates->count; i++) {
		int64_t t = 0;
		bool day = false;
		if (parse_local(plan->exdates->item[i], &t, &day) && (day ? local >= t && local < t + DAY_S : local == t))
			return true;
	}
	return false;
}

/* Appends, joined with the one before when they touch; an occurrence that falls into a gap as a whole is none. */
static int add(struct sb_window *w, const struct plan *plan, int64_t local, const char **ret_field, struct sb_error *err)
{
	struct span s = { resolve(plan->zone, local), resolve(plan->zone, local + plan->length) };

	if (s.to <= s.from || left_out(plan, local))
		return 0;
	if (w->count > 0 && s.from <= w->span[w->count - 1].to) {
		if (s.to > w->span[w->count - 1].to)
			w->span[w->count - 1].to = s.to;
		return 0;
	}
	if (w->count == SPANS_MAX)
		return fail(ret_field, "rrule", err, "gives more windows than can be kept: let it begin later");
	if (w->count % 64 == 0) {
		struct span *more = realloc(w->span, (w->count + 64) * sizeof(*more));
		if (!more)
			return sb_fail_nomem(err);
		w->span = more;
	}
	w->span[w->count++] = s;
	return 0;
}

static int expand(struct sb_window *w, const struct plan *plan, const char *text, int64_t horizon, const char **ret_field, struct sb_error *err)
{
	struct icalrecurrencetype rule = icalrecurrencetype_from_string(text);
	const char *problem = rule_problem(&rule, text);
	int r = 0;

	if (problem)
		return fail(ret_field, "rrule", err, problem);
	localize_until(&rule, plan->zone);
	struct icalrecur_iterator_impl *it = icalrecur_iterator_new(rule, icaltime_from_timet_with_zone((time_t)plan->start, 0, NULL));
	bool any = false;
	for (int64_t local = 0; r == 0 && it;) {
		struct icaltimetype t = icalrecur_iterator_next(it);
		if (icaltime_is_null_time(t))
			break;
		local = icaltime_as_timet(t);
		if (local > horizon) {
			/* each begins before the one before has ended: it does not end where we stop to look */
			if (w->count > 0 && resolve(plan->zone, local) <= w->span[w->count - 1].to)
				w->span[w->count - 1].to = NEVER;
			break;
		}
		any = true;
		r = add(w, plan, local, ret_field, err);
	}
	if (it)
		icalrecur_iterator_free(it);
	if (r == 0 && !any)
		return fail(ret_field, "rrule", err, "never happens");
	return r;
}

static int make_plan(struct plan *plan, const struct sb_window_spec *spec, const char **ret_field, struct sb_error *err)
{
	static const char form[] = "is not a local time such as 2026-12-18T18:00";
	int64_t end = 0;
	bool day = false;

	plan->zone = spec->tz && strlen(spec->tz) < 64 ? icaltimezone_get_builtin_timezone(spec->tz) : NULL;
	if (!plan->zone)
		return fail(ret_field, "tz", err, "is not a time zone of this machine, such as Europe/Berlin");
	if (!spec->start || !parse_local(spec->start, &plan->start, &day))
		return fail(ret_field, "start", err, form);
	if ((spec->end != NULL) == (spec->duration_ms != 0))
		return fail(ret_field, spec->end ? "end" : "start", err, "needs either an end or a duration");
	if (spec->end && !parse_local(spec->end, &end, &day))
		return fail(ret_field, "end", err, form);
	plan->length = spec->end ? end - plan->start : spec->duration_ms / 1000;
	if (plan->length <= 0 || plan->length > LENGTH_MAX)
		return fail(ret_field, spec->end ? "end" : "duration", err, "must be after the start, by a year at most");
	for (size_t i = 0; spec->exdates && i < spec->exdates->count; i++) {
		int64_t t = 0;
		if (!parse_local(spec->exdates->item[i], &t, &day))
			return fail(ret_field, "exdates", err, form);
	}
	plan->exdates = spec->exdates;
	return 0;
}

int sb_window_new(struct sb_window **ret, const struct sb_window_spec *spec, int64_t horizon_ms, const char **ret_field, struct sb_error *err)
{
	struct plan plan = { NULL, 0, 0, NULL };

	*ret_field = "start";
	int r = make_plan(&plan, spec, ret_field, err);
	if (r < 0)
		return r;
	struct sb_window *w = calloc(1, sizeof(*w));
	if (!w)
		return sb_fail_nomem(err);
	r = spec->rrule ? expand(w, &plan, spec->rrule, horizon_ms / 1000, ret_field, err) : add(w, &plan, plan.start, ret_field, err);
	if (r < 0)
		sb_window_free(w);
	else
		*ret = w;
	return r;
}

void sb_window_free(struct sb_window *w)
{
	if (!w)
		return;
	free(w->span);
	free(w);
}

/* --- asking --- */

/* The first that ends after t; count when there is none */
static size_t first_after(const struct sb_window *w, int64_t t_ms)
{
	size_t lo = 0, hi = w->count;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (w->span[mid].to * 1000 > t_ms)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

bool sb_window_at(const struct sb_window *w, int64_t t_ms, int64_t *ret_change_ms)
{
	size_t lo = first_after(w, t_ms);

	*ret_change_ms = 0;
	if (lo == w->count)
		return false;
	bool inside = w->span[lo].from * 1000 <= t_ms;
	if (!inside || w->span[lo].to != NEVER)
		*ret_change_ms = (inside ? w->span[lo].to : w->span[lo].from) * 1000;
	return inside;
}

bool sb_window_since(const struct sb_window *w, int64_t t_ms, int64_t *ret_since_ms)
{
	size_t i = first_after(w, t_ms);

	*ret_since_ms = 0;
	if (i < w->count && w->span[i].from * 1000 <= t_ms)
		*ret_since_ms = w->span[i].from * 1000;
	else if (i > 0)
		*ret_since_ms = w->span[i - 1].to * 1000;
	return *ret_since_ms != 0;
}

bool sb_window_span(const struct sb_window *w, size_t i, int64_t *ret_from_ms, int64_t *ret_to_ms)
{
	if (i >= w->count)
		return false;
	*ret_from_ms = w->span[i].from * 1000;
	*ret_to_ms = w->span[i].to * 1000;
	return true;
}

void sb_zone_format(char out[SB_ZONE_TIME_MAX], const char *tz, int64_t t_ms)
{
	icaltimezone *zone = tz ? icaltimezone_get_builtin_timezone(tz) : NULL;
	int64_t utc = t_ms / 1000, offset = zone ? offset_at(zone, utc) : 0, away = offset < 0 ? -offset : offset;
	time_t local = (time_t)(utc + offset);
	struct tm tm = { 0 };
	size_t n;

	out[0] = '\0';
	if (!gmtime_r(&local, &tm))
		return;
	n = strftime(out, SB_ZONE_TIME_MAX, "%Y-%m-%d %H:%M", &tm);
	(void)snprintf(out + n, SB_ZONE_TIME_MAX - n, " %c%02d:%02d", offset < 0 ? '-' : '+', (int)(away / 3600 % 24), (int)(away / 60 % 60));
}
