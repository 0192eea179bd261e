/* Clocks, their text form, back-off. */
#include <string.h>
#include <time.h>

#include "support.h"

START_TEST(test_clocks_move)
{
	int64_t a = sb_mono_us(), b;
	struct timespec ts;

	ck_assert(wait_until(sb_mono_us() > a, 1000));
	b = sb_mono_ms();
	ck_assert_int_ge(b, a / 1000);
	clock_gettime(CLOCK_REALTIME, &ts);
	ck_assert_int_le(llabs(sb_wall_ms() - (int64_t)ts.tv_sec * 1000), 5000);
	ck_assert_int_le(llabs(sb_wall_us() / 1000 - sb_wall_ms()), 5000);
}
END_TEST

static const struct {
	int64_t ms;
	const char *text;
} times[] = {
	{ 0, "1970-01-01T00:00:00.000Z" },
	{ 1, "1970-01-01T00:00:00.001Z" },
	{ -1, "1969-12-31T23:59:59.999Z" },
	{ 1772442901234, "2026-03-02T09:15:01.234Z" },
	{ 951782400000, "2000-02-29T00:00:00.000Z" },
	{ 4107542400000, "2100-03-01T00:00:00.000Z" },
	{ 253402300799999, "9999-12-31T23:59:59.999Z" },
	{ -62167219200000, "0000-01-01T00:00:00.000Z" },
};

START_TEST(test_both_ways)
{
	char text[SB_TIME_LEN + 1];
	int64_t ms = 42;

	sb_time_format(text, times[_i].ms);
	ck_assert_str_eq(text, times[_i].text);
	ck_assert(sb_time_parse(times[_i].text, &ms));
	ck_assert_int_eq(ms, times[_i].ms);
}
END_TEST

/* Every day of 500 years, against libc. */
START_TEST(test_every_day)
{
	for (int64_t day = -36525; day < 146097; day++) {
		char text[SB_TIME_LEN + 1], want[32];
		time_t seconds = (time_t)(day * 86400 + 43199);
		int64_t ms = 0;
		struct tm tm;
		gmtime_r(&seconds, &tm);
		/* an assertion is written to a pipe: one for each of 180,000 days would take seconds */
		bool right = strftime(want, sizeof(want), "%Y-%m-%dT%H:%M:%S.000Z", &tm) > 0 && sb_time_parse(want, &ms) && ms == (int64_t)seconds * 1000;
		sb_time_format(text, ms);
		if (!right || strcmp(text, want) != 0)
			ck_abort_msg("%s is read as %jd and written as %s", want, (intmax_t)ms, text);
	}
}
END_TEST

START_TEST(test_far_times_are_clamped)
{
	char text[SB_TIME_LEN + 1];

	sb_time_format(text, INT64_MAX);
	ck_assert_str_eq(text, "9999-12-31T23:59:59.999Z");
	sb_time_format(text, INT64_MIN);
	ck_assert_str_eq(text, "0000-01-01T00:00:00.000Z");
}
END_TEST

static const char *const bad_times[] = {
	"",
	"2026",
	"2026-03-02",
	"2026-03-02T09:15:01Z",
	"2026-03-02T09:15:01.23Z",
	"2026-03-02T09:15:01.2345Z",
	"2026-03-02T09:15:01.234",
	"2026-03-02T09:15:01.234z",
	"2026-03-02t09:15:01.234Z",
	"2026-03-02 09:15:01.234Z",
	"2026-03-02T09:15:01.234Z ",
	" 2026-03-02T09:15:01.234Z",
	"2026-03-02T09:15:01.234+00:00",
	"2026-03-02T09:15:01,234Z",
	"2026-00-02T09:15:01.234Z",
	"2026-13-02T09:15:01.234Z",
	"2026-03-00T09:15:01.234Z",
	"2026-03-32T09:15:01.234Z",
	"2026-04-31T09:15:01.234Z",
	"2026-02-29T09:15:01.234Z",
	"2100-02-29T09:15:01.234Z",
	"2026-03-02T24:15:01.234Z",
	"2026-03-02T09:60:01.234Z",
	"2026-03-02T09:15:60.234Z",
	"-026-03-02T09:15:01.234Z",
	"2026-+3-02T09:15:01.234Z",
};

START_TEST(test_refused)
{
	int64_t ms = 42;

	ck_assert_msg(!sb_time_parse(bad_times[_i], &ms), "\"%s\"", bad_times[_i]);
	ck_assert_int_eq(ms, 42);
}
END_TEST

static const struct {
	unsigned attempt;
	int64_t base, cap, low, high;
} backoffs[] = {
	{ 0, 100, 10000, 50, 100 },
	{ 1, 100, 10000, 50, 200 },
	{ 3, 100, 10000, 50, 800 },
	{ 10, 100, 10000, 50, 10000 },
	{ 4000000000u, 100, 30000, 50, 30000 },
	{ 0, 100, 20, 20, 20 },
	{ 5, 0, 10, 0, 10 },
	{ 70, 1, INT64_MAX, 0, INT64_MAX },
	{ 3, 100, -5, 0, 0 },
};

START_TEST(test_backoff)
{
	for (int i = 0; i < 1000; i++) {
		int64_t ms = sb_backoff_ms(backoffs[_i].attempt, backoffs[_i].base, backoffs[_i].cap);
		ck_assert_int_ge(ms, backoffs[_i].low);
		ck_assert_int_le(ms, backoffs[_i].high);
	}
}
END_TEST

START_TEST(test_backoff_is_spread)
{
	int64_t least = INT64_MAX, most = 0;

	for (int i = 0; i < 1000; i++) {
		int64_t ms = sb_backoff_ms(5, 100, 3200);
		least = ms < least ? ms : least;
		most = ms > most ? ms : most;
	}
	ck_assert_int_lt(least, 800);
	ck_assert_int_gt(most, 2400);
}
END_TEST

START_TEST(test_typed_time)
{
	int64_t typed = 0, full = 0;

	ck_assert(sb_time_parse_typed("2026-12-18T18:00:00Z", &typed) && sb_time_parse("2026-12-18T18:00:00.000Z", &full));
	ck_assert_int_eq(typed, full);
	ck_assert(sb_time_parse_typed("2026-12-18T18:00:00.250Z", &typed));
	ck_assert_int_eq(typed, full + 250);
	ck_assert(!sb_time_parse_typed("2026-12-18T18:00:00", &typed));
	ck_assert(!sb_time_parse_typed("2026-13-18T18:00:00Z", &typed));
	ck_assert(!sb_time_parse_typed("", &typed));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("clock");
	TCase *tc = tcase_create("clock");
	tcase_set_timeout(tc, 60); /* a machine that does much else */

	tcase_add_test(tc, test_clocks_move);
	tcase_add_loop_test(tc, test_both_ways, 0, (int)SB_COUNT(times));
	tcase_add_test(tc, test_every_day);
	tcase_add_test(tc, test_far_times_are_clamped);
	tcase_add_loop_test(tc, test_refused, 0, (int)SB_COUNT(bad_times));
	tcase_add_loop_test(tc, test_backoff, 0, (int)SB_COUNT(backoffs));
	tcase_add_test(tc, test_backoff_is_spread);
	tcase_add_test(tc, test_typed_time);
	suite_add_tcase(s, tc);
	return test_run(s);
}
