/* The log emitter: both forms, quoting against hostile values, cuts, repeated events. The monotonic clock is the test's
 * own here (the linker puts __wrap_sb_mono_ms in front of it), so a minute passes at once. */
#include "stagebridge/log.h"

#include <fcntl.h>
#include <float.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "support.h"

static int64_t clock_ms = 1000000;

int64_t __wrap_sb_mono_ms(void);
int64_t __wrap_sb_mono_ms(void)
{
	return clock_ms;
}

/* From here on stderr is a file of the test; logged() gives what was written since the last call. */
static int capture_fd = -1;
static char captured[1 << 20];

static void capture(void)
{
	char path[TEST_PATH_MAX];

	test_path(path, "log");
	capture_fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	ck_assert_int_ge(capture_fd, 0);
	ck_assert_int_ge(dup2(capture_fd, STDERR_FILENO), 0);
}

static const char *logged(void)
{
	ssize_t n = pread(capture_fd, captured, sizeof(captured) - 1, 0);

	ck_assert_int_ge(n, 0);
	captured[n] = '\0';
	ck_assert_int_eq(ftruncate(capture_fd, 0), 0);
	return captured;
}

/* The line without its time stamp, which is checked, and without the newline. */
static const char *fields(bool json)
{
	const char *line = logged();
	const char *head = json ? "{\"ts\":\"" : "ts=";
	size_t n = strlen(head);
	char ts[SB_TIME_LEN + 1];
	int64_t ms;

	ck_assert_msg(strncmp(line, head, n) == 0, "%s", line);
	memcpy(ts, line + n, SB_TIME_LEN);
	ts[SB_TIME_LEN] = '\0';
	ck_assert_msg(sb_time_parse(ts, &ms), "%s", line);
	captured[strcspn(captured, "\n")] = '\0';
	return line + n + SB_TIME_LEN + (json ? 2 : 1);
}

START_TEST(test_logfmt)
{
	capture();
	sb_log(SB_INFO, "early", NULL);
	ck_assert_str_eq(fields(false), "level=info ev=early");
	sb_log_init("agent", "train", SB_DEBUG, false);
	sb_log(SB_DEBUG, "batch_sent", "type=%s rows=%u", "customer", 42u);
	ck_assert_str_eq(fields(false), "level=debug comp=agent stage=train ev=batch_sent type=customer rows=42");
	sb_log(SB_WARN, "nothing", NULL);
	ck_assert_str_eq(fields(false), "level=warn comp=agent stage=train ev=nothing");
	sb_log_init("hub", "", SB_ERROR, false);
	sb_log(SB_ERROR, "down", "  a=%d   b=%d ", 1, 2);
	ck_assert_str_eq(fields(false), "level=error comp=hub ev=down a=1 b=2");
}
END_TEST

START_TEST(test_levels)
{
	capture();
	for (int min = SB_DEBUG; min <= SB_ERROR; min++) {
		sb_log_init("x", "", (enum sb_level)min, false);
		for (int level = SB_DEBUG; level <= SB_ERROR; level++) {
			ck_assert_int_eq(sb_log_on((enum sb_level)level), level >= min);
			sb_log((enum sb_level)level, "e", "a=%d", 1);
			sb_log_error((enum sb_level)level, "e", NULL, "a=%d", 1);
			ck_assert_int_eq(logged()[0] != '\0', level >= min);
			sb_log_limited(
				(enum sb_level)level, "l", level == SB_ERROR && min == SB_ERROR ? "a" : "b", NULL);
			(void)logged();
		}
	}
}
END_TEST

START_TEST(test_json)
{
	capture();
	sb_log_init("agent", "train", SB_INFO, true);
	sb_log(SB_INFO, "batch_sent", "type=%s rows=%u share=%.2f text=%s pair=%d/%d wide=%03d hex=%x", "customer", 42u,
		0.5, "17", 1, 2, 7, 255u);
	ck_assert_str_eq(fields(true),
		"\"level\":\"info\",\"comp\":\"agent\",\"stage\":\"train\",\"ev\":\"batch_sent\",\"type\":\"customer\","
		"\"rows\":42,\"share\":0.50,\"text\":\"17\",\"pair\":\"1/2\",\"wide\":\"007\",\"hex\":\"ff\"}");
	sb_log(SB_INFO, "odd", "nan=%f inf=%f", (double)NAN, (double)-INFINITY);
	ck_assert_ptr_nonnull(strstr(fields(true), "\"nan\":\"nan\",\"inf\":\"-inf\"}"));
}
END_TEST

static const struct {
	const char *value, *logfmt, *json;
} quotings[] = {
	{ "plain", "plain", "\"plain\"" },
	{ "", "\"\"", "\"\"" },
	{ "two words", "\"two words\"", "\"two words\"" },
	{ "a=b", "\"a=b\"", "\"a=b\"" },
	{ "say \"hi\"", "\"say \\\"hi\\\"\"", "\"say \\\"hi\\\"\"" },
	{ "back\\slash", "\"back\\\\slash\"", "\"back\\\\slash\"" },
	{ "x\nlevel=error ev=forged", "\"x\\nlevel=error ev=forged\"", "\"x\\nlevel=error ev=forged\"" },
	{ "a\r\tb\x01\x1b[0m\x7f", "\"a\\r\\tb\\u0001\\u001b[0m\\u007f\"", "\"a\\r\\tb\\u0001\\u001b[0m\\u007f\"" },
	{ "caf\xc3\xa9", "caf\xc3\xa9", "\"caf\xc3\xa9\"" },
	{ "\xe2\x82\xac \xf0\x9f\x9a\x80", "\"\xe2\x82\xac \xf0\x9f\x9a\x80\"", "\"\xe2\x82\xac \xf0\x9f\x9a\x80\"" },
	{ "bad\xff\xc3", "\"bad\\ufffd\\ufffd\"", "\"bad\\ufffd\\ufffd\"" },
	{ "\",\"admin\":\"yes", "\"\\\",\\\"admin\\\":\\\"yes\"", "\"\\\",\\\"admin\\\":\\\"yes\"" },
	{ "100%d%s%n", "100%d%s%n", "\"100%d%s%n\"" },
	{ NULL, "\"\"", "\"\"" },
};

START_TEST(test_quoting)
{
	char want[400];

	capture();
	sb_log_init("", "", SB_INFO, false);
	sb_log(SB_INFO, "e", "v=%s after=%d", quotings[_i].value, 1);
	(void)snprintf(want, sizeof(want), "level=info ev=e v=%s after=1", quotings[_i].logfmt);
	ck_assert_str_eq(fields(false), want);
	sb_log_init("", "", SB_INFO, true);
	sb_log(SB_INFO, "e", "v=%s after=%d", quotings[_i].value, 1);
	(void)snprintf(want, sizeof(want), "\"level\":\"info\",\"ev\":\"e\",\"v\":%s,\"after\":1}", quotings[_i].json);
	ck_assert_str_eq(fields(true), want);
}
END_TEST

/* Each conversion against printf itself, through the same format. */
#define SAME(fmt, ...)                                                                                     \
	do {                                                                                               \
		char want_[800], got_[900];                                                                \
		(void)snprintf(want_, sizeof(want_), "level=info ev=e " fmt, __VA_ARGS__);                 \
		sb_log(SB_INFO, "e", fmt, __VA_ARGS__);                                                    \
		(void)snprintf(got_, sizeof(got_), "%s", fields(false));                                   \
		ck_assert_str_eq(got_, want_);                                                             \
	} while (0)

START_TEST(test_conversions)
{
	capture();
	sb_log_init("", "", SB_INFO, false);
	SAME("a=%d b=%d c=%i", INT_MIN, INT_MAX, 0);
	SAME("a=%u b=%u", 0u, UINT_MAX);
	SAME("a=%ld b=%lu", LONG_MIN, ULONG_MAX);
	SAME("a=%lld b=%llu", LLONG_MIN, ULLONG_MAX);
	SAME("a=%zu b=%zd", SIZE_MAX, (ssize_t)-1);
	SAME("a=%hhd b=%hhu c=%hd d=%hu", (signed char)-128, (unsigned char)255, (short)-32768, (unsigned short)65535);
	SAME("a=%jd b=%ju c=%td", INTMAX_MIN, UINTMAX_MAX, (ptrdiff_t)-5);
	SAME("a=%" PRIu64 " b=%" PRId64 " c=%" PRIu32 " d=%" PRIx64, UINT64_MAX, INT64_MIN, UINT32_MAX, UINT64_MAX);
	SAME("a=%c b=%c%c", 'x', 'y', 'z');
	SAME("a=%f b=%.0f c=%.3f d=%.*f e=%g", 1.5, 2.5, -0.0004, 2, 3.14159, 1e-9);
	SAME("a=%.2f", DBL_MAX);
	SAME("a=%.3s b=%.*s c=%s", "abcdef", 2, "xyz", "end");
	SAME("a=%05d b=%016" PRIx64 " c=%+d d=%08.3f e=%05d f=%lx", 42, UINT64_C(0xabc), 7, -3.5, -42, 255UL);
	SAME("pct=%d%% lsn=%X/%u", 50, 16u, 9u);
	SAME("mixed=%s:%d/%s", "host", 9092, "path");
}
END_TEST

START_TEST(test_padding)
{
	capture();
	sb_log_init("", "", SB_INFO, false);
	sb_log(SB_INFO, "e", "a=%5d b=%-5d c=%5s d=%-*s e=%*d", 42, 42, "ab", 4, "ab", -4, 7);
	ck_assert_str_eq(fields(false), "level=info ev=e a=\"   42\" b=\"42   \" c=\"   ab\" d=\"ab  \" e=\"7   \"");
}
END_TEST

/* A conversion that we do not know loses the place in the arguments: the rest is not guessed at. */
START_TEST(test_unknown_conversion)
{
	capture();
	sb_log_init("", "", SB_INFO, false);
	sb_log(SB_INFO, "e", "a=%d p=%p b=%d", 1, (void *)captured, 2);
	ck_assert_str_eq(fields(false), "level=info ev=e a=1 badformat=\"a=%d p=%p b=%d\"");
}
END_TEST

START_TEST(test_too_many_fields)
{
	capture();
	sb_log_init("", "", SB_INFO, _i == 1);
	sb_log(SB_INFO, "e", "a=%d b=2 c=3 d=4 e=5 f=6 g=7 h=8 i=9 j=10 k=11 l=12 m=13 n=14 o=15 p=16 q=17", 1);
	if (_i == 0)
		ck_assert_str_eq(fields(false), "level=info ev=e a=1 b=2 c=3 d=4 e=5 f=6 g=7 h=8 i=9 j=10 k=11 l=12 "
						"m=13 n=14 o=15 p=16 cut=true");
	else
		ck_assert_ptr_nonnull(strstr(fields(true), ",\"p\":\"16\",\"cut\":true}"));
}
END_TEST

/* Values of every length around the limit, of characters of each width, plain and to be escaped: one line, whole and
 * marked when cut. */
START_TEST(test_long_values)
{
	static const char *const units[] = { "x", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x9a\x80", "\"", "\x01", " ",
		"\xff" };
	static char value[9000];
	bool json = _i % 2 == 1;
	const char *unit = units[_i / 2];
	size_t len = strlen(unit);

	capture();
	sb_log_init("agent", "train", SB_INFO, json);
	for (size_t target = 600; target < sizeof(value) - 8; target += target < 4200 && target > 3900 ? 1 : 97) {
		const char *line;
		size_t n = 0;
		for (; n + len < target; n += len)
			memcpy(value + n, unit, len);
		value[n] = '\0';
		sb_log(SB_INFO, "e", "v=%s last=%d", value, 1);
		line = logged();
		n = strlen(line);
		ck_assert_uint_le(n, 4096);
		ck_assert_ptr_eq(strchr(line, '\n'), line + n - 1);
		if (json) {
			json_error_t je;
			json_t *o = json_loads(line, JSON_REJECT_DUPLICATES, &je);
			ck_assert_msg(o != NULL, "%s: %s", je.text, line);
			ck_assert(
				json_is_integer(json_object_get(o, "last")) || json_is_true(json_object_get(o, "cut")));
			json_decref(o);
		} else {
			ck_assert(strcmp(line + n - 8, " last=1\n") == 0 || strcmp(line + n - 10, " cut=true\n") == 0);
			ck_assert_msg(strcmp(line + n - 12, " 1 cut=true\n") != 0, "a value without its key");
		}
	}
}
END_TEST

START_TEST(test_long_key_and_event)
{
	static char event[5000], format[9000];

	capture();
	memset(event, 'e', sizeof(event) - 1);
	sb_log_init("", "", SB_INFO, _i == 1);
	sb_log(SB_INFO, event, "a=%d", 1);
	ck_assert_ptr_nonnull(strstr(logged(), _i == 1 ? "\",\"cut\":true}\n" : "\" cut=true\n"));
	memset(format, 'k', sizeof(format) - 1);
	sb_log(SB_INFO, "e", "a=%d b=%s c=%d", 1, format, 2);
	ck_assert_ptr_nonnull(strstr(logged(), _i == 1 ? "\",\"cut\":true}\n" : "\" cut=true\n"));
}
END_TEST

START_TEST(test_error_fields)
{
	struct sb_error err = SB_ERROR_INIT;

	capture();
	sb_log_init("", "", SB_INFO, false);
	(void)sb_fail(&err, SB_EDB, "duplicate key");
	sb_log_error(SB_ERROR, "batch_failed", &err, "rows=%d", 3);
	ck_assert_str_eq(fields(false), "level=error ev=batch_failed rows=3 error=EDB reason=\"duplicate key\"");
	memcpy(err.state, "23505", 6);
	sb_log_error(SB_ERROR, "batch_failed", &err, NULL);
	ck_assert_str_eq(
		fields(false), "level=error ev=batch_failed error=EDB sqlstate=23505 reason=\"duplicate key\"");
	sb_log_error(SB_ERROR, "batch_failed", NULL, "rows=%d", 3);
	ck_assert_str_eq(fields(false), "level=error ev=batch_failed rows=3");
}
END_TEST

START_TEST(test_limited)
{
	struct sb_error err = SB_ERROR_INIT;

	capture();
	sb_log_init("", "", SB_INFO, false);
	(void)sb_fail(&err, SB_EKAFKA, "broker is away");
	sb_log_limited(SB_WARN, "send_failed", "up.entity", &err);
	ck_assert_str_eq(
		fields(false), "level=warn ev=send_failed key=up.entity error=EKAFKA reason=\"broker is away\"");
	for (int i = 0; i < 5; i++)
		sb_log_limited(SB_WARN, "send_failed", "up.entity", &err);
	ck_assert_str_eq(logged(), "");
	sb_log_limited(SB_WARN, "send_failed", "up.event", NULL);
	ck_assert_str_eq(fields(false), "level=warn ev=send_failed key=up.event");
	clock_ms += 59999;
	sb_log_limited(SB_WARN, "send_failed", "up.entity", &err);
	ck_assert_str_eq(logged(), "");
	clock_ms += 1;
	sb_log_limited(SB_WARN, "send_failed", "up.entity", &err);
	ck_assert_str_eq(fields(false), "level=warn ev=send_failed key=up.entity error=EKAFKA suppressed=6");
	/* the one that came just now is summed up a minute later, by whatever is logged then */
	clock_ms += 60000;
	sb_log(SB_INFO, "other", NULL);
	ck_assert_ptr_nonnull(strstr(logged(), "ev=send_failed key=up.entity error=EKAFKA suppressed=1\n"));
	/* a silent minute, and it counts as new */
	clock_ms += 60000;
	sb_log_limited(SB_WARN, "send_failed", "up.entity", &err);
	ck_assert_str_eq(
		fields(false), "level=warn ev=send_failed key=up.entity error=EKAFKA reason=\"broker is away\"");
}
END_TEST

START_TEST(test_limited_table_is_bounded)
{
	char key[300];
	unsigned lines = 0;

	capture();
	sb_log_init("", "", SB_INFO, false);
	sb_log_limited(SB_WARN, "e", "first", NULL);
	sb_log_limited(SB_WARN, "e", "first", NULL);
	clock_ms++;
	for (int i = 0; i < 1000; i++) {
		(void)snprintf(key, sizeof(key), "key-%d", i);
		sb_log_limited(SB_WARN, "e", key, NULL);
	}
	for (const char *p = logged(); *p != '\0'; p++)
		lines += *p == '\n';
	ck_assert_uint_eq(lines, 1 + 1000 + 1); /* the one that "first" held back is told when its place is taken */
	ck_assert_ptr_nonnull(strstr(captured, "ev=e key=first suppressed=1\n"));
	/* keys longer than their place are compared as far as they are kept */
	memset(key, 'k', sizeof(key) - 1);
	key[sizeof(key) - 1] = '\0';
	sb_log_limited(SB_WARN, "e", key, NULL);
	(void)logged();
	sb_log_limited(SB_WARN, "e", key, NULL);
	ck_assert_str_eq(logged(), "");
}
END_TEST

static void *log_much(void *name)
{
	for (int i = 0; i < 500; i++)
		sb_log(SB_INFO, "e", "thread=%s i=%d text=%s", (const char *)name, i, "some words between the fields");
	return NULL;
}

START_TEST(test_threads_do_not_mix_lines)
{
	char names[4][2] = { "a", "b", "c", "d" };
	pthread_t thread[4];
	unsigned lines = 0;
	char *line, *rest;

	capture();
	sb_log_init("agent", "", SB_INFO, false);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, log_much, names[i]), 0);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(pthread_join(thread[i], NULL), 0);
	(void)logged();
	for (line = strtok_r(captured, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
		lines++;
		ck_assert_msg(strncmp(line, "ts=", 3) == 0, "%s", line);
		ck_assert_msg(
			strcmp(line + strlen(line) - 37, " text=\"some words between the fields\"") == 0, "%s", line);
	}
	ck_assert_uint_eq(lines, 2000);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("log");
	TCase *tc = tcase_create("log");

	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, test_logfmt);
	tcase_add_test(tc, test_levels);
	tcase_add_test(tc, test_json);
	tcase_add_loop_test(tc, test_quoting, 0, (int)SB_COUNT(quotings));
	tcase_add_test(tc, test_conversions);
	tcase_add_test(tc, test_padding);
	tcase_add_test(tc, test_unknown_conversion);
	tcase_add_loop_test(tc, test_too_many_fields, 0, 2);
	tcase_add_loop_test(tc, test_long_values, 0, 16);
	tcase_add_loop_test(tc, test_long_key_and_event, 0, 2);
	tcase_add_test(tc, test_error_fields);
	tcase_add_test(tc, test_limited);
	tcase_add_test(tc, test_limited_table_is_bounded);
	tcase_add_test(tc, test_threads_do_not_mix_lines);
	suite_add_tcase(s, tc);
	return test_run(s);
}
