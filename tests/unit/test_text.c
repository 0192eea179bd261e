/* Strict text: what is taken, what is refused, and that a refusal leaves the output alone. */
#include "stagebridge/text.h"

#include <string.h>

#include "support.h"

#define A10 "aaaaaaaaaa"
#define A30 A10 A10 A10
#define A60 A30 A30

static const struct {
	const char *s;
	bool name, type, branch;
} words[] = {
	{ "dev", true, true, true },          { "a", true, true, true },
	{ "pre-prod-2", true, true, true },   { "pre_prod", false, true, true },
	{ "a" A30, true, true, true },        { "aa" A30, false, true, true },
	{ "aaa" A60, false, true, true },     { "aaaa" A60, false, false, true },
	{ "", false, false, false },          { NULL, false, false, false },
	{ "Dev", false, false, true },        { "9lives", false, false, true },
	{ "-x", false, false, false },        { "_x", false, false, true },
	{ "a b", false, false, false },       { "a.b", false, false, true },
	{ "caf\xc3\xa9", false, false, true }, { "caf\xe9", false, false, false },
	{ "stage/prod", false, false, true }, { "promote/prod/0a1b", false, false, true },
	{ "/x", false, false, false },        { "x/", false, false, false },
	{ "a//b", false, false, false },      { "a..b", false, false, false },
	{ "a/.b", false, false, false },      { ".a", false, false, false },
	{ "a.", false, false, false },        { "a.lock", false, false, false },
	{ "a.lock/b", false, false, false },  { "a.locks", false, false, true },
	{ ".lock", false, false, false },     { "a~1", false, false, false },
	{ "a^", false, false, false },        { "a:b", false, false, false },
	{ "a?", false, false, false },        { "a*", false, false, false },
	{ "a[b", false, false, false },       { "a\\b", false, false, false },
	{ "a@{b", false, false, false },      { "@", false, false, false },
	{ "a@b", false, false, true },        { "HEAD", false, false, false },
	{ "a\nb", false, false, false },      { "a\x7f", false, false, false },
	{ A60 A60 A60 A10 A10, false, false, true }, { A60 A60 A60 A10 A10 "a", false, false, false },
};

START_TEST(test_words)
{
	ck_assert_int_eq(sb_name_ok(words[_i].s), words[_i].name);
	ck_assert_int_eq(sb_type_ok(words[_i].s), words[_i].type);
	ck_assert_int_eq(sb_branch_ok(words[_i].s), words[_i].branch);
}
END_TEST

static const struct {
	const char *s;
	size_t n;
	bool ok;
	const char *tidy;
} utf8[] = {
	{ "", 0, true, "" },
	{ "plain", 5, true, "plain" },
	{ "\xc3\xa9", 2, true, "\xc3\xa9" },
	{ "\xe2\x82\xac", 3, true, "\xe2\x82\xac" },
	{ "\xf0\x9f\x9a\x80", 4, true, "\xf0\x9f\x9a\x80" },
	{ "\xf4\x8f\xbf\xbf", 4, true, "\xf4\x8f\xbf\xbf" },
	{ "\xed\x9f\xbf", 3, true, "\xed\x9f\xbf" },
	{ "a\0b", 3, false, NULL },
	{ "\x80", 1, false, "?" },
	{ "\xc3", 1, false, "?" },
	{ "\xe2\x82", 2, false, "??" },
	{ "\xf0\x9f\x9a", 3, false, "???" },
	{ "\xc0\xaf", 2, false, "??" },
	{ "\xc1\xbf", 2, false, "??" },
	{ "\xe0\x9f\xbf", 3, false, "???" },
	{ "\xed\xa0\x80", 3, false, "???" },
	{ "\xf0\x8f\xbf\xbf", 4, false, "????" },
	{ "\xf4\x90\x80\x80", 4, false, "????" },
	{ "\xf5\x80\x80\x80", 4, false, "????" },
	{ "\xff", 1, false, "?" },
	{ "x\xc3y", 3, false, "x?y" },
	{ "line\r\n", 6, true, "line" },
	{ "a\tb\n", 4, true, "a b" },
};

START_TEST(test_utf8)
{
	char text[16];

	ck_assert_int_eq(sb_utf8_ok(utf8[_i].s, utf8[_i].n), utf8[_i].ok);
	if (utf8[_i].tidy == NULL)
		return;
	memcpy(text, utf8[_i].s, utf8[_i].n + 1);
	sb_text_tidy(text);
	ck_assert_str_eq(text, utf8[_i].tidy);
}
END_TEST

static const struct {
	const char *s;
	uint64_t min, max, want;
	const char *msg; /* NULL: taken */
} u64s[] = {
	{ "0", 0, 10, 0, NULL },
	{ "10", 0, 10, 10, NULL },
	{ "007", 0, 10, 7, NULL },
	{ "18446744073709551615", 0, UINT64_MAX, UINT64_MAX, NULL },
	{ "18446744073709551616", 0, UINT64_MAX, 0, "n: 18446744073709551616 is outside 0..18446744073709551615" },
	{ "99999999999999999999999999", 0, 5, 0, "n: 99999999999999999999999999 is outside 0..5" },
	{ "11", 0, 10, 0, "n: 11 is outside 0..10" },
	{ "1", 2, 10, 0, "n: 1 is outside 2..10" },
	{ "", 0, 10, 0, "n: \"\" is not a whole number" },
	{ "12x", 0, 99, 0, "n: \"12x\" is not a whole number" },
	{ " 1", 0, 99, 0, "n: \" 1\" is not a whole number" },
	{ "1 ", 0, 99, 0, "n: \"1 \" is not a whole number" },
	{ "+1", 0, 99, 0, "n: \"+1\" is not a whole number" },
	{ "-1", 0, 99, 0, "n: \"-1\" is not a whole number" },
	{ "1.0", 0, 99, 0, "n: \"1.0\" is not a whole number" },
	{ "1e3", 0, 9999, 0, "n: \"1e3\" is not a whole number" },
	{ "0x10", 0, 99, 0, "n: \"0x10\" is not a whole number" },
	{ NULL, 0, 99, 0, "n: no number given" },
};

START_TEST(test_u64)
{
	struct sb_error err = SB_ERROR_INIT;
	uint64_t n = 77;
	int r = sb_parse_u64(u64s[_i].s, u64s[_i].min, u64s[_i].max, "n", &n, &err);

	ck_assert_int_eq(r, u64s[_i].msg == NULL ? SB_OK : SB_EINVAL);
	ck_assert_uint_eq(n, u64s[_i].msg == NULL ? u64s[_i].want : 77);
	ck_assert_str_eq(err.msg, u64s[_i].msg == NULL ? "" : u64s[_i].msg);
}
END_TEST

static const struct {
	const char *s;
	int64_t min, max, want;
	const char *msg;
} i64s[] = {
	{ "-5", -5, 5, -5, NULL },
	{ "5", -5, 5, 5, NULL },
	{ "-0", -5, 5, 0, NULL },
	{ "9223372036854775807", INT64_MIN, INT64_MAX, INT64_MAX, NULL },
	{ "-9223372036854775808", INT64_MIN, INT64_MAX, INT64_MIN, NULL },
	{ "9223372036854775808", 0, INT64_MAX, 0, "n: 9223372036854775808 is outside 0..9223372036854775807" },
	{ "-9223372036854775809", -1, 1, 0, "n: -9223372036854775809 is outside -1..1" },
	{ "-6", -5, 5, 0, "n: -6 is outside -5..5" },
	{ "-", -5, 5, 0, "n: \"-\" is not a whole number" },
	{ "--1", -5, 5, 0, "n: \"--1\" is not a whole number" },
	{ "- 1", -5, 5, 0, "n: \"- 1\" is not a whole number" },
	{ NULL, -5, 5, 0, "n: no number given" },
};

START_TEST(test_i64)
{
	struct sb_error err = SB_ERROR_INIT;
	int64_t n = 77;
	int r = sb_parse_i64(i64s[_i].s, i64s[_i].min, i64s[_i].max, "n", &n, &err);

	ck_assert_int_eq(r, i64s[_i].msg == NULL ? SB_OK : SB_EINVAL);
	ck_assert_int_eq(n, i64s[_i].msg == NULL ? i64s[_i].want : 77);
	ck_assert_str_eq(err.msg, i64s[_i].msg == NULL ? "" : i64s[_i].msg);
}
END_TEST

static const struct {
	const char *s;
	int64_t want; /* -1: refused */
} durations[] = {
	{ "250ms", 250 },   { "10s", 10000 }, { "5m", 300000 }, { "2h", 7200000 }, { "30d", 2592000000 },
	{ "0s", 0 },        { "10", -1 },     { "", -1 },       { "s", -1 },       { "1.5s", -1 },
	{ "-1s", -1 },      { "10 s", -1 },   { "10S", -1 },    { "10sec", -1 },   { "1h30m", -1 },
	{ "9223372036854775807ms", INT64_MAX }, { "9223372036854775808ms", -1 }, { "99999999999999999999999s", -1 },
	{ "9223372036854775807d", -1 }, { NULL, -1 },
};

START_TEST(test_duration)
{
	struct sb_error err = SB_ERROR_INIT;
	int64_t ms = 77;
	int r = sb_parse_duration_ms(durations[_i].s, "t", &ms, &err);

	ck_assert_int_eq(r, durations[_i].want >= 0 ? SB_OK : SB_EINVAL);
	ck_assert_int_eq(ms, durations[_i].want >= 0 ? durations[_i].want : 77);
	ck_assert(r == SB_OK || strncmp(err.msg, "t: ", 3) == 0);
}
END_TEST

static const struct {
	const char *s;
	uint64_t want;
	bool ok;
} sizes[] = {
	{ "512", 512, true },
	{ "64KiB", 65536, true },
	{ "8MiB", 8388608, true },
	{ "2GiB", 2147483648, true },
	{ "0", 0, true },
	{ "18446744073709551615", UINT64_MAX, true },
	{ "18446744073709551616", 0, false },
	{ "17179869184GiB", 0, false },
	{ "8MB", 0, false },
	{ "8M", 0, false },
	{ "8 MiB", 0, false },
	{ "-1", 0, false },
	{ "KiB", 0, false },
	{ "", 0, false },
	{ "1.5GiB", 0, false },
	{ NULL, 0, false },
};

START_TEST(test_size)
{
	struct sb_error err = SB_ERROR_INIT;
	uint64_t n = 77;
	int r = sb_parse_size(sizes[_i].s, "size", &n, &err);

	ck_assert_int_eq(r, sizes[_i].ok ? SB_OK : SB_EINVAL);
	ck_assert_uint_eq(n, sizes[_i].ok ? sizes[_i].want : 77);
	ck_assert(r == SB_OK || strncmp(err.msg, "size: ", 6) == 0);
}
END_TEST

START_TEST(test_hex)
{
	static const uint8_t bytes[] = { 0x00, 0x01, 0x7f, 0x80, 0xff };
	static const char *const bad[] = { "", "00", "0001", "000", "000", "0G01", "0001ff00", "00 1", "00FF", NULL };
	uint8_t back[5] = { 0 };
	char text[11];

	sb_hex(text, bytes, sizeof(bytes));
	ck_assert_str_eq(text, "00017f80ff");
	ck_assert(sb_hex_ok(text, 10));
	ck_assert(!sb_hex_ok(text, 8));
	ck_assert(!sb_hex_ok(text, 12));
	ck_assert_int_eq(sb_unhex(back, sizeof(back), text, NULL), SB_OK);
	ck_assert_mem_eq(back, bytes, sizeof(bytes));
	for (size_t i = 0; i < SB_COUNT(bad); i++) {
		uint8_t out[3] = { 7, 7, 7 };
		ck_assert_int_eq(sb_unhex(out, sizeof(out), bad[i], NULL), SB_EINVAL);
		ck_assert_mem_eq(out, "\7\7\7", 3);
	}
	sb_hex(text, bytes, 0);
	ck_assert_str_eq(text, "");
}
END_TEST

static const struct {
	const char *raw;
	size_t n;
	const char *text;
} base64[] = {
	{ "", 0, "" },           { "f", 1, "Zg==" },         { "fo", 2, "Zm8=" },    { "foo", 3, "Zm9v" },
	{ "foob", 4, "Zm9vYg==" }, { "\xff\xfe\xfd", 3, "//79" }, { "\0", 1, "AA==" },
};

START_TEST(test_base64)
{
	uint8_t back[8] = { 0 };
	char *text = sb_base64((const uint8_t *)base64[_i].raw, base64[_i].n);

	ck_assert_str_eq(text, base64[_i].text);
	ck_assert_int_eq(sb_unbase64(back, base64[_i].n, text, NULL), SB_OK);
	ck_assert_mem_eq(back, base64[_i].raw, base64[_i].n);
	ck_assert_int_eq(sb_unbase64(back, base64[_i].n + 1, text, NULL), SB_EINVAL);
	free(text);
}
END_TEST

START_TEST(test_base64_refused)
{
	static const char *const bad[] = { "", "Zg", "Zg=", "Zg===", "Zh==", "Z===", "====", "Zg= ", "Z*==", "Zg==\n",
		"Zm8=", "-_==", NULL };
	uint8_t out[2] = { 0 };

	for (size_t i = 0; i < SB_COUNT(bad); i++)
		ck_assert_msg(sb_unbase64(out, 1, bad[i], NULL) == SB_EINVAL, "%s", bad[i] != NULL ? bad[i] : "NULL");
}
END_TEST

START_TEST(test_format)
{
	struct sb_error err = SB_ERROR_INIT;
	char out[6] = "old";

	ck_assert_int_eq(sb_format(out, sizeof(out), &err, "%d", 12345), SB_OK);
	ck_assert_str_eq(out, "12345");
	ck_assert_int_eq(sb_format(out, sizeof(out), &err, "%d", 123456), SB_ETOOBIG);
	ck_assert_str_eq(out, "");
	ck_assert_str_eq(err.msg, "text of 6 bytes does not fit into 5");
}
END_TEST

START_TEST(test_copies)
{
	char *s = NULL;

	ck_assert_ptr_null(sb_strdup(NULL));
	for (long n = 0;; n++) {
		fault_alloc_after(n);
		s = sb_strdup("text");
		fault_alloc_after(-1);
		if (!fault_hit())
			break;
		ck_assert_ptr_null(s);
	}
	ck_assert_str_eq(s, "text");
	free(s);
	for (long n = 0;; n++) {
		fault_alloc_after(n);
		s = sb_asprintf("%s-%d", "text", 1);
		fault_alloc_after(-1);
		if (!fault_hit())
			break;
		ck_assert_ptr_null(s);
	}
	ck_assert_str_eq(s, "text-1");
	free(s);
	if (fault_available()) {
		fault_alloc_after(0);
		s = sb_base64((const uint8_t *)"x", 1);
		fault_alloc_after(-1);
		ck_assert_ptr_null(s);
	}
}
END_TEST

START_TEST(test_ids)
{
	char last[SB_ID_LEN + 1] = "", id[SB_ID_LEN + 1];
	int64_t made_ms;

	for (int i = 0; i < 1000; i++) {
		sb_id_new(id);
		ck_assert_msg(sb_id_ok(id), "%s", id);
		ck_assert_msg(strncmp(id, last, 10) >= 0, "%s sorts before %s", id, last);
		ck_assert_str_ne(id, last);
		memcpy(last, id, sizeof(last));
	}
	made_ms = sb_wall_ms();
	ck_assert(wait_until(sb_wall_ms() > made_ms, 1000));
	sb_id_new(last);
	ck_assert_msg(strcmp(last, id) > 0, "%s was made after %s", last, id);
}
END_TEST

START_TEST(test_ids_refused)
{
	static const char *const bad[] = { "", "01arz3ndektsv4rrffq69g5fa", "01arz3ndektsv4rrffq69g5favv",
		"81arz3ndektsv4rrffq69g5fav", "01ARZ3ndektsv4rrffq69g5fav", "01arz3ndektsv4rrffq69g5fai",
		"01arz3ndektsv4rrffq69g5fa ", NULL };

	ck_assert(sb_id_ok("01arz3ndektsv4rrffq69g5fav"));
	for (size_t i = 0; i < SB_COUNT(bad); i++)
		ck_assert(!sb_id_ok(bad[i]));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("text");
	TCase *tc = tcase_create("text");

	tcase_add_loop_test(tc, test_words, 0, (int)SB_COUNT(words));
	tcase_add_loop_test(tc, test_utf8, 0, (int)SB_COUNT(utf8));
	tcase_add_loop_test(tc, test_u64, 0, (int)SB_COUNT(u64s));
	tcase_add_loop_test(tc, test_i64, 0, (int)SB_COUNT(i64s));
	tcase_add_loop_test(tc, test_duration, 0, (int)SB_COUNT(durations));
	tcase_add_loop_test(tc, test_size, 0, (int)SB_COUNT(sizes));
	tcase_add_test(tc, test_hex);
	tcase_add_loop_test(tc, test_base64, 0, (int)SB_COUNT(base64));
	tcase_add_test(tc, test_base64_refused);
	tcase_add_test(tc, test_format);
	tcase_add_test(tc, test_copies);
	tcase_add_test(tc, test_ids);
	tcase_add_test(tc, test_ids_refused);
	suite_add_tcase(s, tc);
	return test_run(s);
}
