/* Error objects: the table, the composition of messages, their cleanness and their cut. */
#include <errno.h>
#include <string.h>

#include "stagebridge/text.h"
#include "support.h"

static const struct {
	enum sb_code code;
	int value;
	const char *name;
	bool retriable;
	int http, exit;
} codes[] = {
	{ SB_OK, 0, "OK", false, 200, 0 },
	{ SB_ENOMEM, -1, "ENOMEM", true, 503, 3 },
	{ SB_EINVAL, -2, "EINVAL", false, 400, 1 },
	{ SB_EPROTO, -6, "EPROTO", false, 400, 2 },
	{ SB_ETIMEOUT, -9, "ETIMEOUT", true, 504, 124 },
	{ SB_ECONFIG, -18, "ECONFIG", false, 500, 78 },
	{ SB_EREFUSED, -20, "EREFUSED", false, 403, 4 },
	{ (enum sb_code)-99, -99, "?", false, 500, 1 },
};

START_TEST(test_codes)
{
	enum sb_code code = codes[_i].code;

	ck_assert_int_eq(code, codes[_i].value);
	ck_assert_str_eq(sb_code_name(code), codes[_i].name);
	ck_assert_int_eq(sb_code_retriable(code), codes[_i].retriable);
	ck_assert_int_eq(sb_code_http(code), codes[_i].http);
	ck_assert_int_eq(sb_code_exit(code), codes[_i].exit);
	ck_assert_int_gt((int)strlen(sb_code_text(code)), 0);
}
END_TEST

START_TEST(test_fail_sets_all)
{
	struct sb_error err = { .code = SB_EDB, .retriable = true, .state = "40001", .msg = "old" };

	ck_assert_int_eq(sb_fail(&err, SB_EPROTO, "chunk %d of %d is missing", 3, 7), SB_EPROTO);
	ck_assert_int_eq(err.code, SB_EPROTO);
	ck_assert(!err.retriable);
	ck_assert_str_eq(err.state, "");
	ck_assert_str_eq(err.msg, "chunk 3 of 7 is missing");
	ck_assert_int_eq(sb_fail(NULL, SB_EIO, "nobody listens"), SB_EIO);
}
END_TEST

START_TEST(test_own_message_as_argument)
{
	struct sb_error err = SB_ERROR_INIT;

	(void)sb_fail(&err, SB_EIO, "cause");
	(void)sb_fail(&err, SB_EGIT, "fetch: %s", err.msg);
	ck_assert_str_eq(err.msg, "fetch: cause");
}
END_TEST

START_TEST(test_prefix)
{
	struct sb_error err = SB_ERROR_INIT;

	(void)sb_fail(&err, SB_EDB, "deadlock");
	memcpy(err.state, "40P01", 6);
	err.retriable = true;
	ck_assert_int_eq(sb_fail_prefix(&err, "batch %s", "b1"), SB_EDB);
	ck_assert_str_eq(err.msg, "batch b1: deadlock");
	ck_assert_str_eq(err.state, "40P01");
	ck_assert(err.retriable);
	ck_assert_int_eq(sb_fail_prefix(NULL, "batch"), SB_OK);
}
END_TEST

static const struct {
	int errno_value;
	enum sb_code code;
	const char *msg;
} errnos[] = {
	{ ENOENT, SB_ENOTFOUND, "could not open \"x\": No such file or directory" },
	{ ENOMEM, SB_ENOMEM, "could not open \"x\": Cannot allocate memory" },
	{ EACCES, SB_EIO, "could not open \"x\": Permission denied" },
};

START_TEST(test_errno)
{
	struct sb_error err = SB_ERROR_INIT;

	ck_assert_int_eq(sb_fail_errno(&err, errnos[_i].errno_value, "could not open \"%s\"", "x"), errnos[_i].code);
	ck_assert_int_eq(err.code, errnos[_i].code);
	ck_assert_str_eq(err.msg, errnos[_i].msg);
	ck_assert_int_eq(sb_fail_errno(NULL, errnos[_i].errno_value, "x"), errnos[_i].code);
}
END_TEST

START_TEST(test_nomem)
{
	struct sb_error err = SB_ERROR_INIT;

	ck_assert_int_eq(sb_fail_nomem(&err), SB_ENOMEM);
	ck_assert_str_eq(err.msg, "out of memory");
	ck_assert(err.retriable);
}
END_TEST

static const struct {
	const char *given, *want;
} clean[] = {
	{ "ERROR:  no such table\nLINE 1: select\n", "ERROR:  no such table LINE 1: select" },
	{ "tab\there \x1b[31mred", "tab here  [31mred" },
	{ "latin \xe9t\xe9", "latin ?t?" },
	{ "caf\xc3\xa9", "caf\xc3\xa9" },
	{ "", "" },
};

START_TEST(test_messages_are_one_clean_line)
{
	struct sb_error err = SB_ERROR_INIT;

	(void)sb_fail(&err, SB_EDB, "%s", clean[_i].given);
	ck_assert_str_eq(err.msg, clean[_i].want);
}
END_TEST

/* A long text of one-, two-, three- and four-byte characters: the cut is marked and falls between characters. */
START_TEST(test_cut_is_marked)
{
	static const char *const characters[] = { "x", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x9a\x80" };
	struct sb_error err = SB_ERROR_INIT;

	for (size_t shift = 0; shift < 4; shift++) {
		char text[3000] = "";
		size_t n = 0, len = strlen(characters[_i]);
		for (; n < shift; n++)
			text[n] = 'a';
		for (; n + len < sizeof(text); n += len)
			memcpy(text + n, characters[_i], len);
		(void)sb_fail(&err, SB_EIO, "%s", text);
		ck_assert_int_le((int)strlen(err.msg), (int)sizeof(err.msg) - 1);
		ck_assert_int_ge((int)strlen(err.msg), (int)sizeof(err.msg) - 5);
		ck_assert_str_eq(err.msg + strlen(err.msg) - 3, "...");
		ck_assert_ptr_null(strchr(err.msg, '?'));
		ck_assert(sb_utf8_ok(err.msg, strlen(err.msg)));
		(void)sb_fail_prefix(&err, "a context that pushes the end out of the message");
		ck_assert_str_eq(err.msg + strlen(err.msg) - 3, "...");
		ck_assert(sb_utf8_ok(err.msg, strlen(err.msg)));
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("error");
	TCase *tc = tcase_create("error");

	tcase_add_loop_test(tc, test_codes, 0, (int)SB_COUNT(codes));
	tcase_add_test(tc, test_fail_sets_all);
	tcase_add_test(tc, test_own_message_as_argument);
	tcase_add_test(tc, test_prefix);
	tcase_add_loop_test(tc, test_errno, 0, (int)SB_COUNT(errnos));
	tcase_add_test(tc, test_nomem);
	tcase_add_loop_test(tc, test_messages_are_one_clean_line, 0, (int)SB_COUNT(clean));
	tcase_add_loop_test(tc, test_cut_is_marked, 0, 4);
	suite_add_tcase(s, tc);
	return test_run(s);
}
