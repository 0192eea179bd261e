/* Shared by all tests. A test program is one thread per forked test unless a test makes more; the allocation faults are
 * per thread. */
#include "support.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "stagebridge/file.h"

static char run_dir[TEST_PATH_MAX / 2]; /* made before the fork, removed after the last test */
static char case_dir[TEST_PATH_MAX / 2 + 16];

/* ---- allocation faults ---- */

#ifdef SB_FAULT
static _Thread_local long fault_left = -1;
static _Thread_local bool fault_was_hit;

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);

static bool fails_now(void)
{
	if (fault_left < 0)
		return false;
	if (fault_left-- > 0)
		return false;
	fault_was_hit = true;
	return true;
}

void *__wrap_malloc(size_t n)
{
	return fails_now() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return fails_now() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
	return fails_now() ? NULL : __real_realloc(p, n);
}

void fault_alloc_after(long n)
{
	fault_left = n;
	if (n >= 0)
		fault_was_hit = false;
}

bool fault_hit(void)
{
	return fault_was_hit;
}

bool fault_available(void)
{
	return true;
}
#else
void fault_alloc_after(SB_UNUSED long n)
{
}

bool fault_hit(void)
{
	return false;
}

bool fault_available(void)
{
	return false;
}
#endif

/* ---- files ---- */

void test_path(char out[TEST_PATH_MAX], const char *name)
{
	if (case_dir[0] == '\0') { /* the first call in this forked test */
		(void)snprintf(case_dir, sizeof(case_dir), "%s/tXXXXXX", run_dir);
		ck_assert_ptr_nonnull(mkdtemp(case_dir));
	}
	ck_assert_int_lt(snprintf(out, TEST_PATH_MAX, "%s/%s", case_dir, name), TEST_PATH_MAX);
}

void test_write(const char *path, const char *text, mode_t mode)
{
	FILE *f = fopen(path, "we");

	ck_assert_ptr_nonnull(f);
	ck_assert_int_ge(fputs(text, f), 0);
	ck_assert_int_eq(fclose(f), 0);
	ck_assert_int_eq(chmod(path, mode), 0);
}

char *test_read(const char *path)
{
	struct sb_error err = SB_ERROR_INIT;
	char *text = NULL;
	int r = sb_file_read(path, 64u << 20, &text, NULL, &err);

	ck_assert_msg(r == SB_OK, "%s", err.msg);
	return text;
}

void test_pause(void)
{
	const struct timespec ms = { .tv_nsec = 1000000 };

	(void)nanosleep(&ms, NULL); /* woken early: asks early */
}

int test_run(Suite *s)
{
	const char *tmp = getenv("TMPDIR");
	struct sb_error err = SB_ERROR_INIT;
	SRunner *sr;
	int failed;

	if (snprintf(run_dir, sizeof(run_dir), "%s/sbtest-XXXXXX", tmp != NULL ? tmp : "/tmp") >=
			(int)sizeof(run_dir) ||
		mkdtemp(run_dir) == NULL) {
		perror("temporary folder");
		return EXIT_FAILURE;
	}
	json_set_alloc_funcs(malloc, free); /* named here, so that the faults reach jansson too */
	sr = srunner_create(s);
	srunner_set_fork_status(sr, CK_FORK);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	if (sb_dir_remove(run_dir, &err) < 0)
		fprintf(stderr, "%s\n", err.msg);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
