/* Windows of time: recurrence rules, and what a local time means in the hours when clocks change. All expectations are in UTC, worked out by hand. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "stagebridge/window.h"
#include "support.h"

static int64_t utc(const char *text)
{
	struct tm tm = { 0 };
	const char *end = strptime(text, "%Y-%m-%dT%H:%M", &tm);

	ck_assert_msg(end && *end == '\0', "%s", text);
	return (int64_t)timegm(&tm) * 1000;
}

static struct sb_window *make(const struct sb_window_spec *spec)
{
	struct sb_window *w = NULL;
	struct sb_error err = SB_ERROR_INIT;
	const char *field = "";

	ck_assert_msg(sb_window_new(&w, spec, utc("2036-01-01T00:00"), &field, &err) == 0, "%s: %s", field, err.msg);
	return w;
}

/* "from to from to ..." of the first spans, in UTC */
static void spans_are(const struct sb_window *w, const char *want)
{
	char got[600] = "";
	int64_t from = 0, to = 0;

	for (size_t i = 0; sb_window_span(w, i, &from, &to) && strlen(got) < strlen(want); i++) {
		for (int k = 0; k < 2; k++) {
			time_t t = (time_t)((k ? to : from) / 1000);
			struct tm tm = { 0 };
			size_t n = strlen(got);
			ck_assert_ptr_nonnull(gmtime_r(&t, &tm));
			ck_assert_uint_gt(strftime(got + n, sizeof(got) - n, *got ? " %Y-%m-%dT%H:%M" : "%Y-%m-%dT%H:%M", &tm), 0);
		}
	}
	ck_assert_str_eq(got, want);
}

static const struct {
	const char *what;
	struct sb_window_spec spec;
	const char *spans;
} zones[] = {
	/* Paris: 2026-03-29 2:00 -> 3:00, 2026-10-25 3:00 -> 2:00. New York: 2026-03-08 2:00 -> 3:00, 2026-11-01 2:00 -> 1:00. */
	{ "once, winter", { .tz = "Europe/Paris", .start = "2026-01-10T09:00", .end = "2026-01-10T17:00" }, "2026-01-10T08:00 2026-01-10T16:00" },
	{ "once, summer", { .tz = "Europe/Paris", .start = "2026-07-10T09:00", .end = "2026-07-10T17:00" }, "2026-07-10T07:00 2026-07-10T15:00" },
	{ "over the gap: an hour shorter", { .tz = "Europe/Paris", .start = "2026-03-27T18:00", .end = "2026-03-30T08:00" }, "2026-03-27T17:00 2026-03-30T06:00" },
	{ "over the overlap: an hour longer", { .tz = "Europe/Paris", .start = "2026-10-23T18:00", .end = "2026-10-26T08:00" }, "2026-10-23T16:00 2026-10-26T07:00" },
	{ "a length is the wall clock's", { .tz = "Europe/Paris", .start = "2026-03-27T18:00", .duration_ms = 62LL * 3600000 }, "2026-03-27T17:00 2026-03-30T06:00" },
	{ "begins in the gap", { .tz = "Europe/Paris", .start = "2026-03-29T02:30", .end = "2026-03-29T06:00" }, "2026-03-29T01:30 2026-03-29T04:00" },
	{ "ends in the gap", { .tz = "Europe/Paris", .start = "2026-03-29T01:00", .end = "2026-03-29T02:30" }, "2026-03-29T00:00 2026-03-29T01:30" },
	{ "all of it in the gap", { .tz = "Europe/Paris", .start = "2026-03-29T02:00", .end = "2026-03-29T03:00" }, "" },
	{ "begins in the overlap: at the first", { .tz = "Europe/Paris", .start = "2026-10-25T02:30", .end = "2026-10-25T06:00" }, "2026-10-25T00:30 2026-10-25T05:00" },
	{ "ends in the overlap: at the first", { .tz = "Europe/Paris", .start = "2026-10-25T01:00", .end = "2026-10-25T02:30" }, "2026-10-24T23:00 2026-10-25T00:30" },
	{ "the overlap twice", { .tz = "Europe/Paris", .start = "2026-10-25T02:00", .end = "2026-10-25T03:00" }, "2026-10-25T00:00 2026-10-25T02:00" },
	{ "New York, begins in the gap", { .tz = "America/New_York", .start = "2026-03-08T02:30", .end = "2026-03-08T05:00" }, "2026-03-08T07:30 2026-03-08T09:00" },
	{ "New York, begins in the overlap", { .tz = "America/New_York", .start = "2026-11-01T01:30", .end = "2026-11-01T05:00" }, "2026-11-01T05:30 2026-11-01T10:00" },
	{ "half an hour off", { .tz = "Asia/Kolkata", .start = "2026-11-01T09:00", .end = "2026-11-01T10:00" }, "2026-11-01T03:30 2026-11-01T04:30" },
	{ "a zone that gave it up", { .tz = "America/Sao_Paulo", .start = "2026-12-01T09:00", .end = "2026-12-01T10:00" }, "2026-12-01T12:00 2026-12-01T13:00" },
	{ "whole days", { .tz = "UTC", .start = "2026-12-24", .end = "2026-12-27" }, "2026-12-24T00:00 2026-12-27T00:00" },
};

START_TEST(test_zones)
{
	struct sb_window *w = make(&zones[_i].spec);

	spans_are(w, zones[_i].spans);
	sb_window_free(w);
}
END_TEST

static char ex_day[] = "2026-03-20", ex_time[] = "2026-03-27T18:00", ex_other[] = "2026-03-27T17:00";
static char *exdate_day[] = { ex_day }, *exdate_time[] = { ex_time, ex_other }, *exdate_other[] = { ex_other };
static const struct sb_strings without_day = { exdate_day, 1 }, without_time = { exdate_time, 2 }, without_other = { exdate_other, 1 };
#define WEEKEND .tz = "Europe/Paris", .start = "2026-03-13T18:00", .end = "2026-03-16T08:00"

static const struct {
	const char *what;
	struct sb_window_spec spec;
	const char *spans;
} rules[] = {
	{ "every weekend, over the change", { WEEKEND, .rrule = "FREQ=WEEKLY;BYDAY=FR;COUNT=3" },
		"2026-03-13T17:00 2026-03-16T07:00 2026-03-20T17:00 2026-03-23T07:00 2026-03-27T17:00 2026-03-30T06:00" },
	{ "a day left out still counts", { WEEKEND, .rrule = "FREQ=WEEKLY;COUNT=3", .exdates = &without_day },
		"2026-03-13T17:00 2026-03-16T07:00 2026-03-27T17:00 2026-03-30T06:00" },
	{ "a start left out", { WEEKEND, .rrule = "FREQ=WEEKLY;COUNT=3", .exdates = &without_time }, "2026-03-13T17:00 2026-03-16T07:00 2026-03-20T17:00 2026-03-23T07:00" },
	{ "another time of that day is not left out", { WEEKEND, .rrule = "FREQ=WEEKLY;COUNT=1", .exdates = &without_other }, "2026-03-13T17:00 2026-03-16T07:00" },
	{ "until a day: that day counts", { WEEKEND, .rrule = "FREQ=WEEKLY;UNTIL=20260320" }, "2026-03-13T17:00 2026-03-16T07:00 2026-03-20T17:00 2026-03-23T07:00" },
	{ "until a local time: that start counts", { WEEKEND, .rrule = "FREQ=WEEKLY;UNTIL=20260320T180000" }, "2026-03-13T17:00 2026-03-16T07:00 2026-03-20T17:00 2026-03-23T07:00" },
	{ "until, in UTC", { WEEKEND, .rrule = "FREQ=WEEKLY;UNTIL=20260320T170000Z" }, "2026-03-13T17:00 2026-03-16T07:00 2026-03-20T17:00 2026-03-23T07:00" },
	{ "until a second before", { WEEKEND, .rrule = "FREQ=WEEKLY;UNTIL=20260320T165959Z" }, "2026-03-13T17:00 2026-03-16T07:00" },
	{ "last Friday of the month", { .tz = "UTC", .start = "2026-01-01T16:00", .duration_ms = 3600000, .rrule = "FREQ=MONTHLY;BYDAY=-1FR;COUNT=2" },
		"2026-01-30T16:00 2026-01-30T17:00 2026-02-27T16:00 2026-02-27T17:00" },
	{ "each second week", { .tz = "UTC", .start = "2026-01-05T00:00", .duration_ms = 86400000, .rrule = "FREQ=WEEKLY;INTERVAL=2;COUNT=2" },
		"2026-01-05T00:00 2026-01-06T00:00 2026-01-19T00:00 2026-01-20T00:00" },
	{ "every year, over New Year", { .tz = "UTC", .start = "2025-12-20", .end = "2026-01-03", .rrule = "FREQ=YEARLY;COUNT=2" },
		"2025-12-20T00:00 2026-01-03T00:00 2026-12-20T00:00 2027-01-03T00:00" },
	{ "29 February", { .tz = "UTC", .start = "2024-02-29", .duration_ms = 86400000, .rrule = "FREQ=YEARLY;COUNT=2" }, "2024-02-29T00:00 2024-03-01T00:00 2028-02-29T00:00 2028-03-01T00:00" },
	{ "those that touch are one", { .tz = "Europe/Paris", .start = "2026-03-28T00:00", .duration_ms = 86400000, .rrule = "FREQ=DAILY;COUNT=3" }, "2026-03-27T23:00 2026-03-30T22:00" },
	{ "those that overlap are one", { .tz = "UTC", .start = "2026-03-02T00:00", .duration_ms = 3 * 86400000LL, .rrule = "FREQ=WEEKLY;BYDAY=MO,TU;COUNT=2" },
		"2026-03-02T00:00 2026-03-06T00:00" },
	{ "the gap every day: left out when it is all of it", { .tz = "America/New_York", .start = "2026-03-07T02:00", .duration_ms = 3600000, .rrule = "FREQ=DAILY;COUNT=3" },
		"2026-03-07T07:00 2026-03-07T08:00 2026-03-09T06:00 2026-03-09T07:00" },
};

START_TEST(test_rules)
{
	struct sb_window *w = make(&rules[_i].spec);

	spans_are(w, rules[_i].spans);
	sb_window_free(w);
}
END_TEST

#define ONE .tz = "UTC", .start = "2026-01-01T09:00", .duration_ms = 3600000
static char bad_day[] = "2026-02-30";
static char *exdate_bad[] = { bad_day };
static const struct sb_strings not_a_day = { exdate_bad, 1 };

static const struct {
	struct sb_window_spec spec;
	const char *field, *msg;
} refused[] = {
	{ { .tz = "Mars/Olympus", .start = "2026-01-01", .duration_ms = 1000 }, "tz", "time zone" },
	{ { .tz = "../../etc/passwd", .start = "2026-01-01", .duration_ms = 1000 }, "tz", "time zone" },
	{ { .start = "2026-01-01", .duration_ms = 1000 }, "tz", "time zone" },
	{ { .tz = "UTC", .start = "2026-02-30", .duration_ms = 1000 }, "start", "local time" },
	{ { .tz = "UTC", .start = "2026-01-01T25:00", .duration_ms = 1000 }, "start", "local time" },
	{ { .tz = "UTC", .start = "2026-01-01T09:00Z", .duration_ms = 1000 }, "start", "local time" },
	{ { .tz = "UTC", .start = "tomorrow", .duration_ms = 1000 }, "start", "local time" },
	{ { .tz = "UTC", .duration_ms = 1000 }, "start", "local time" },
	{ { .tz = "UTC", .start = "2026-01-01" }, "start", "either" },
	{ { .tz = "UTC", .start = "2026-01-01", .end = "2026-01-02", .duration_ms = 1000 }, "end", "either" },
	{ { .tz = "UTC", .start = "2026-01-02", .end = "2026-01-01" }, "end", "after the start" },
	{ { .tz = "UTC", .start = "2026-01-02", .end = "2028-01-01" }, "end", "by a year at most" },
	{ { ONE, .rrule = "FREQ=WEEKLY;BYDAY=XX" }, "rrule", "RFC 5545" },
	{ { ONE, .rrule = "" }, "rrule", "RFC 5545" },
	{ { ONE, .rrule = "weekly" }, "rrule", "RFC 5545" },
	{ { ONE, .rrule = "FREQ=WEEKLY;INTERVAL=0" }, "rrule", "RFC 5545" },
	{ { ONE, .rrule = "FREQ=SECONDLY" }, "rrule", "expected DAILY" },
	{ { ONE, .rrule = "FREQ=HOURLY" }, "rrule", "expected DAILY" },
	{ { ONE, .rrule = "FREQ=DAILY;BYHOUR=9,14" }, "rrule", "BYHOUR" },
	{ { ONE, .rrule = "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30" }, "rrule", "never" },
	{ { ONE, .rrule = "FREQ=DAILY;UNTIL=20200101" }, "rrule", "never" },
	{ { ONE, .rrule = "FREQ=DAILY", .exdates = &not_a_day }, "exdates", "local time" },
};

START_TEST(test_refused)
{
	struct sb_window *w = NULL;
	struct sb_error err = SB_ERROR_INIT;
	const char *field = "";

	ck_assert_int_eq(sb_window_new(&w, &refused[_i].spec, utc("2036-01-01T00:00"), &field, &err), SB_ECONFIG);
	ck_assert_ptr_null(w);
	ck_assert_str_eq(field, refused[_i].field);
	ck_assert_msg(strstr(err.msg, refused[_i].msg) != NULL, "\"%s\" does not say \"%s\"", err.msg, refused[_i].msg);
}
END_TEST

/* Inside from the first moment on, outside from the end on; each answer names the moment when it stops to be true */
START_TEST(test_at)
{
	const struct sb_window_spec spec = { .tz = "UTC", .start = "2026-01-05T09:00", .duration_ms = 3600000, .rrule = "FREQ=WEEKLY;COUNT=2" };
	struct sb_window *w = make(&spec);
	static const struct { const char *at; int ms; bool inside; const char *change; } asked[] = {
		{ "2026-01-01T00:00", 0, false, "2026-01-05T09:00" }, { "2026-01-05T09:00", -1, false, "2026-01-05T09:00" }, { "2026-01-05T09:00", 0, true, "2026-01-05T10:00" },
		{ "2026-01-05T10:00", -1, true, "2026-01-05T10:00" }, { "2026-01-05T10:00", 0, false, "2026-01-12T09:00" }, { "2026-01-12T09:30", 0, true, "2026-01-12T10:00" },
		{ "2026-01-12T10:00", 0, false, NULL }, { "2030-01-01T00:00", 0, false, NULL },
	};

	for (size_t i = 0; i < SB_COUNT(asked); i++) {
		int64_t change = -1;
		bool inside = sb_window_at(w, utc(asked[i].at) + asked[i].ms, &change);
		ck_assert_msg(inside == asked[i].inside, "at %s %+d", asked[i].at, asked[i].ms);
		ck_assert_int_eq(change, asked[i].change ? utc(asked[i].change) : 0);
	}
	sb_window_free(w);
	sb_window_free(NULL);
}
END_TEST

/* What a rule without an end gives is followed up to the horizon and no further */
START_TEST(test_horizon)
{
	const struct sb_window_spec spec = { .tz = "Europe/Paris", .start = "2026-01-01T22:00", .duration_ms = 3600000, .rrule = "FREQ=DAILY" };
	struct sb_window *w = make(&spec);
	int64_t change = 0;

	ck_assert(!sb_window_at(w, utc("2035-12-30T12:00"), &change));
	ck_assert_int_eq(change, utc("2035-12-30T21:00"));
	ck_assert(!sb_window_at(w, utc("2036-01-02T00:00"), &change));
	ck_assert_int_eq(change, 0);
	sb_window_free(w);
}
END_TEST

/* Windows that go over into each other without an end do not end at the horizon either */
START_TEST(test_for_ever)
{
	const struct sb_window_spec daily = { .tz = "Europe/Paris", .start = "2026-01-01", .duration_ms = 86400000, .rrule = "FREQ=DAILY" };
	const struct sb_window_spec weekly = { .tz = "UTC", .start = "2026-01-05", .duration_ms = 8 * 86400000LL, .rrule = "FREQ=WEEKLY" };
	const struct sb_window_spec *const specs[] = { &daily, &weekly };

	for (size_t i = 0; i < SB_COUNT(specs); i++) {
		struct sb_window *w = make(specs[i]);
		int64_t change = -1;
		ck_assert(!sb_window_at(w, utc("2025-12-01T00:00"), &change));
		ck_assert_int_gt(change, 0);
		ck_assert(sb_window_at(w, utc("2030-06-01T00:00"), &change));
		ck_assert_int_eq(change, 0);
		ck_assert(sb_window_at(w, utc("2060-06-01T00:00"), &change));
		ck_assert_int_eq(change, 0);
		sb_window_free(w);
	}
}
END_TEST

START_TEST(test_format)
{
	char out[SB_ZONE_TIME_MAX];

	sb_zone_format(out, "Europe/Paris", utc("2026-07-01T10:00"));
	ck_assert_str_eq(out, "2026-07-01 12:00 +02:00");
	sb_zone_format(out, "America/New_York", utc("2026-01-01T03:30"));
	ck_assert_str_eq(out, "2025-12-31 22:30 -05:00");
	sb_zone_format(out, "Mars/Olympus", utc("2026-01-01T03:30"));
	ck_assert_str_eq(out, "2026-01-01 03:30 +00:00");
}
END_TEST

START_TEST(test_out_of_memory)
{
	const struct sb_window_spec spec = { .tz = "UTC", .start = "2026-01-01T22:00", .duration_ms = 3600000 };
	struct sb_error err = SB_ERROR_INIT;
	const char *field = "";

	for (long n = 0;; n++) {
		struct sb_window *w = NULL;
		fault_alloc_after(n);
		int r = sb_window_new(&w, &spec, 0, &field, &err);
		fault_alloc_after(-1);
		sb_window_free(w);
		if (!fault_hit())
			break;
		ck_assert_int_eq(r, SB_ENOMEM);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("window");
	TCase *tc = tcase_create("all");

	tcase_add_loop_test(tc, test_zones, 0, (int)SB_COUNT(zones));
	tcase_add_loop_test(tc, test_rules, 0, (int)SB_COUNT(rules));
	tcase_add_loop_test(tc, test_refused, 0, (int)SB_COUNT(refused));
	tcase_add_test(tc, test_at);
	tcase_add_test(tc, test_horizon);
	tcase_add_test(tc, test_for_ever);
	tcase_add_test(tc, test_format);
	tcase_add_test(tc, test_out_of_memory);
	suite_add_tcase(s, tc);
	return test_run(s);
}
