/* The two clocks, their one text form, and the back-off that all retries share. Any thread; owns nothing. */
#include "stagebridge/clock.h"

#include <string.h>
#include <sys/random.h>
#include <time.h>

#define MS_PER_DAY 86400000LL
#define FIRST_MS (-62167219200000LL) /* 0000-01-01T00:00:00.000Z */
#define LAST_MS 253402300799999LL    /* 9999-12-31T23:59:59.999Z */

static int64_t now_us(clockid_t id)
{
	struct timespec ts = { 0 };

	(void)clock_gettime(id, &ts); /* cannot fail for these two clocks */
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t sb_mono_ms(void)
{
	return now_us(CLOCK_MONOTONIC) / 1000;
}

int64_t sb_mono_us(void)
{
	return now_us(CLOCK_MONOTONIC);
}

int64_t sb_wall_ms(void)
{
	return now_us(CLOCK_REALTIME) / 1000;
}

int64_t sb_wall_us(void)
{
	return now_us(CLOCK_REALTIME);
}

/* Days since 1970-01-01 of a proleptic Gregorian date: years start in March here, so that leap days come last. */
static int64_t days_from_date(int64_t year, int64_t month, int64_t day)
{
	int64_t y = month <= 2 ? year - 1 : year;
	int64_t era = (y >= 0 ? y : y - 399) / 400;
	int64_t year_of_era = y - era * 400;
	int64_t day_of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
	int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;

	return era * 146097 + day_of_era - 719468;
}

static void put_digits(char *out, int width, int64_t value)
{
	for (int i = width - 1; i >= 0; i--) {
		out[i] = (char)('0' + value % 10);
		value /= 10;
	}
}

void sb_time_format(char out[SB_TIME_LEN + 1], int64_t wall_ms)
{
	int64_t ms = wall_ms < FIRST_MS ? FIRST_MS : wall_ms > LAST_MS ? LAST_MS : wall_ms;
	int64_t in_second = ((ms % 1000) + 1000) % 1000;
	time_t seconds = (time_t)((ms - in_second) / 1000);
	struct tm tm = { 0 };

	(void)gmtime_r(&seconds, &tm); /* the year was clamped: it cannot overflow */
	memcpy(out, "0000-00-00T00:00:00.000Z", SB_TIME_LEN + 1);
	put_digits(out, 4, tm.tm_year + 1900);
	put_digits(out + 5, 2, tm.tm_mon + 1);
	put_digits(out + 8, 2, tm.tm_mday);
	put_digits(out + 11, 2, tm.tm_hour);
	put_digits(out + 14, 2, tm.tm_min);
	put_digits(out + 17, 2, tm.tm_sec);
	put_digits(out + 20, 3, in_second);
}

static int get_digits(const char *s, int width)
{
	int value = 0;

	for (int i = 0; i < width; i++)
		value = value * 10 + (s[i] - '0');
	return value;
}

bool sb_time_parse(const char *s, int64_t *ret_ms)
{
	static const char form[] = "dddd-dd-ddTdd:dd:dd.dddZ";
	static const int month_days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
	int year, month, day, hour, minute, second, last;

	for (size_t i = 0; i < sizeof(form); i++) /* the NUL is part of the form */
		if (form[i] == 'd' ? s[i] < '0' || s[i] > '9' : s[i] != form[i])
			return false;
	year = get_digits(s, 4);
	month = get_digits(s + 5, 2);
	day = get_digits(s + 8, 2);
	hour = get_digits(s + 11, 2);
	minute = get_digits(s + 14, 2);
	second = get_digits(s + 17, 2);
	if (month < 1 || month > 12 || hour > 23 || minute > 59 || second > 59)
		return false;
	last = month_days[month - 1];
	if (month == 2 && year % 4 == 0 && (year % 100 != 0 || year % 400 == 0))
		last = 29;
	if (day < 1 || day > last)
		return false;
	*ret_ms = days_from_date(year, month, day) * MS_PER_DAY + hour * 3600000LL + minute * 60000LL +
		  second * 1000LL + get_digits(s + 20, 3);
	return true;
}

bool sb_time_parse_typed(const char *s, int64_t *ret_ms)
{
	char full[SB_TIME_LEN + 1];

	if (strlen(s) != 20 || s[19] != 'Z')
		return sb_time_parse(s, ret_ms);
	memcpy(full, s, 19);
	memcpy(full + 19, ".000Z", 6);
	return sb_time_parse(full, ret_ms);
}

int64_t sb_backoff_ms(unsigned attempt, int64_t base_ms, int64_t cap_ms)
{
	int64_t base = base_ms < 1 ? 1 : base_ms;
	int64_t high = base;
	int64_t low;
	uint64_t dice = 0;

	for (unsigned i = 0; i < attempt && high < cap_ms; i++)
		high = high > INT64_MAX / 2 ? INT64_MAX : high * 2;
	if (high > cap_ms)
		high = cap_ms < 0 ? 0 : cap_ms;
	low = base / 2 < high ? base / 2 : high;
	/* The spread only has to differ between processes; without entropy the clock's low digits do. */
	if (getrandom(&dice, sizeof(dice), GRND_NONBLOCK) != (ssize_t)sizeof(dice))
		dice = (uint64_t)sb_mono_us() * 0x9e3779b97f4a7c15u;
	return low + (int64_t)(dice % ((uint64_t)(high - low) + 1));
}
