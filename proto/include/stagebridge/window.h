/* Windows of time: once, or again and again by a recurrence rule of RFC 5545, in a time zone with its daylight saving. The adapter of libical; a window is
 * expanded when it is made, so that asking it is a search in an array: pure, any thread, and the same answer everywhere. */
#ifndef STAGEBRIDGE_WINDOW_H
#define STAGEBRIDGE_WINDOW_H

#include "stagebridge/base.h"
#include "stagebridge/error.h"
#include "stagebridge/settings.h"

struct sb_window;

/**
 * Times are local: "2026-12-18T18:00", "2026-12-18T18:00:00" or "2026-12-18". The length is measured on the wall clock, so a window from Friday 18:00 to
 * Monday 8:00 does that in the weeks when the clocks change too. A start or end that the clocks skip is taken with the offset from before (2:30 is what
 * 3:30 is called from then on); one that comes twice is the first of both.
 */
struct sb_window_spec {
	const char *tz;                  /* "Europe/Berlin", "UTC" */
	const char *start;               /* of the first one */
	const char *end;                 /* of the first one; NULL: duration */
	int64_t duration_ms;             /* 0: end */
	const char *rrule;               /* NULL: once. FREQ=DAILY, WEEKLY, MONTHLY or YEARLY; COUNT, UNTIL, INTERVAL, BYDAY ... */
	const struct sb_strings *exdates; /* starts that are left out, or whole days of them; NULL: none */
};

/**
 * Expands what begins before horizon_ms. SB_ECONFIG: *ret_field names the field that is wrong ("rrule"), err says what was expected.
 * @param ret  returns new
 */
int sb_window_new(struct sb_window **ret, const struct sb_window_spec *spec, int64_t horizon_ms, const char **ret_field, struct sb_error *err) SB_MUSTCHECK;
void sb_window_free(struct sb_window *w); /* NULL is fine */

/** Is t inside? *ret_change: when that changes next; 0: never, or not before the horizon. */
bool sb_window_at(const struct sb_window *w, int64_t t_ms, int64_t *ret_change_ms);
/** Since when it is as it is at t: the last beginning or end before; false when there was none. */
bool sb_window_since(const struct sb_window *w, int64_t t_ms, int64_t *ret_since_ms);
/** The stretches [from, to), in order, those that touch joined; false behind the last. */
bool sb_window_span(const struct sb_window *w, size_t i, int64_t *ret_from_ms, int64_t *ret_to_ms);

/** "2026-12-21 08:00 +01:00" in that zone, for people; UTC when the zone is not known. */
#define SB_ZONE_TIME_MAX 32
void sb_zone_format(char out[SB_ZONE_TIME_MAX], const char *tz, int64_t t_ms);

#endif
