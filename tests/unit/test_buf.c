/* The growing buffer: content, its maximum, its sticky failure, and running out of memory. */
#include <string.h>

#include "stagebridge/buf.h"
#include "support.h"

START_TEST(test_appends)
{
	struct sb_buf b;

	sb_buf_init(&b, 1000);
	ck_assert_str_eq(b.data, "");
	sb_buf_add(&b, "a\0b", 3);
	sb_buf_adds(&b, "cd");
	sb_buf_addc(&b, 'e');
	sb_buf_addf(&b, "%s-%d", "f", 42);
	sb_buf_addf(&b, "%s", "");
	ck_assert_uint_eq(b.len, 10);
	ck_assert_mem_eq(b.data, "a\0bcdef-42", 11);
	ck_assert_int_eq(sb_buf_check(&b, "text", NULL), SB_OK);
	sb_buf_truncate(&b, 20);
	ck_assert_uint_eq(b.len, 10);
	sb_buf_truncate(&b, 1);
	ck_assert_str_eq(b.data, "a");
	sb_buf_reset(&b);
	ck_assert_str_eq(b.data, "");
	sb_buf_adds(&b, "again");
	ck_assert_str_eq(b.data, "again");
	sb_buf_release(&b);
	ck_assert_str_eq(b.data, "");
	sb_buf_adds(&b, "after release");
	ck_assert_str_eq(b.data, "after release");
	sb_buf_release(&b);
}
END_TEST

START_TEST(test_zero_object)
{
	struct sb_buf b = { 0 };

	sb_buf_release(&b);
	sb_buf_release(&b);
	ck_assert_str_eq(b.data, "");
}
END_TEST

static const struct {
	size_t max, first, second;
	bool fits;
} limits[] = {
	{ 0, 0, 0, true },
	{ 0, 0, 1, false },
	{ 10, 10, 0, true },
	{ 10, 4, 6, true },
	{ 10, 4, 7, false },
	{ 10, 10, 1, false },
	{ 63, 31, 32, true },
	{ 64, 32, 33, false },
	{ 5000, 4999, 1, true },
	{ 5000, 4999, 2, false },
	{ SIZE_MAX, 100, 5000, true },
};

START_TEST(test_maximum)
{
	char text[5001];
	struct sb_error err = SB_ERROR_INIT;
	struct sb_buf b;

	memset(text, 'x', sizeof(text));
	sb_buf_init(&b, limits[_i].max);
	sb_buf_add(&b, text, limits[_i].first);
	ck_assert_int_eq(sb_buf_check(&b, "text", &err), SB_OK);
	sb_buf_addf(&b, "%.*s", (int)limits[_i].second, text);
	if (limits[_i].fits) {
		ck_assert_int_eq(sb_buf_check(&b, "text", &err), SB_OK);
		ck_assert_uint_eq(b.len, limits[_i].first + limits[_i].second);
	} else {
		ck_assert_int_eq(sb_buf_check(&b, "the \"batch\"", &err), SB_ETOOBIG);
		ck_assert_ptr_nonnull(strstr(err.msg, "the \"batch\": larger than"));
		ck_assert_uint_eq(b.len, limits[_i].first);
		sb_buf_truncate(&b, 0);
		sb_buf_addc(&b, 'x');
		ck_assert_msg(b.len == 0, "a failure is sticky");
		ck_assert_ptr_null(sb_buf_detach(&b));
		sb_buf_reset(&b);
		ck_assert_int_eq(sb_buf_check(&b, "text", &err), SB_OK);
	}
	ck_assert(b.data[b.len] == '\0');
	sb_buf_release(&b);
}
END_TEST

START_TEST(test_huge_append)
{
	struct sb_buf b;

	sb_buf_init(&b, SIZE_MAX);
	sb_buf_addc(&b, 'x');
	sb_buf_add(&b, "x", SIZE_MAX - 1); /* must be refused before a byte of it is read */
	ck_assert_int_eq(sb_buf_check(&b, "text", NULL), SB_ETOOBIG);
	ck_assert_str_eq(b.data, "x");
	sb_buf_release(&b);
}
END_TEST

START_TEST(test_detach)
{
	struct sb_buf b;
	char *text;

	sb_buf_init(&b, 100);
	text = sb_buf_detach(&b);
	ck_assert_str_eq(text, "");
	free(text);
	sb_buf_adds(&b, "mine");
	text = sb_buf_detach(&b);
	ck_assert_str_eq(text, "mine");
	ck_assert_uint_eq(b.len, 0);
	sb_buf_adds(&b, "new");
	ck_assert_str_eq(text, "mine");
	free(text);
	sb_buf_release(&b);
}
END_TEST

START_TEST(test_out_of_memory)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_buf b;
	char *text = NULL;

	sb_buf_init(&b, 100000);
	for (long n = 0;; n++) {
		fault_alloc_after(n);
		for (int i = 0; i < 1000; i++)
			sb_buf_addf(&b, "%d,", i);
		text = sb_buf_detach(&b);
		fault_alloc_after(-1);
		if (!fault_hit())
			break;
		ck_assert_ptr_null(text);
		ck_assert_int_eq(sb_buf_check(&b, "list", &err), SB_ENOMEM);
		ck_assert_str_eq(err.msg, "list: out of memory");
		ck_assert(b.data[b.len] == '\0');
		sb_buf_release(&b);
	}
	ck_assert_uint_eq(strlen(text), 3890);
	free(text);
	sb_buf_release(&b);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("buf");
	TCase *tc = tcase_create("buf");

	tcase_add_test(tc, test_appends);
	tcase_add_test(tc, test_zero_object);
	tcase_add_loop_test(tc, test_maximum, 0, (int)SB_COUNT(limits));
	tcase_add_test(tc, test_huge_append);
	tcase_add_test(tc, test_detach);
	tcase_add_test(tc, test_out_of_memory);
	suite_add_tcase(s, tc);
	return test_run(s);
}
