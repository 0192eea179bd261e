/* What the tests share: running a suite, folders of their own, waiting for conditions, failing allocations. */
#ifndef SB_TESTS_SUPPORT_H
#define SB_TESTS_SUPPORT_H

#include <check.h>
#include <sys/types.h>

#include "stagebridge/base.h"
#include "stagebridge/clock.h"
#include "stagebridge/error.h"

/** Runs the suite in fork mode with a temporary folder around it; returns main's exit status. */
int test_run(Suite *s);

#define TEST_PATH_MAX 512
/** "<folder of this test>/name"; every test function has a folder of its own. */
void test_path(char out[TEST_PATH_MAX], const char *name);
/** Writes a file of that mode, whatever the umask; ends the test when it cannot. */
void test_write(const char *path, const char *text, mode_t mode);
/** The whole file as new string; ends the test when it cannot. */
char *test_read(const char *path);

/** Asks again and again until it holds; false after deadline_ms. The one way for a test to wait. */
#define wait_until(cond, deadline_ms)                                     \
	__extension__({                                                   \
		int64_t _until = sb_mono_ms() + (deadline_ms);            \
		bool _holds;                                              \
		while (!(_holds = (cond)) && sb_mono_ms() < _until)       \
			test_pause();                                     \
		_holds;                                                   \
	})
void test_pause(void); /* a millisecond, for wait_until */

/**
 * Lets n allocations of this thread succeed and the next one fail (malloc, calloc, realloc of our own code and of
 *jansson); negative: none fails. Arm only around the call under test:
 *
 *	for (long n = 0;; n++) {
 *		fault_alloc_after(n);
 *		r = make_it(&it, &err);
 *		fault_alloc_after(-1);
 *		if (!fault_hit())
 *			break;
 *		ck_assert_int_eq(r, SB_ENOMEM);
 *	}
 *
 * Under sanitizers nothing can be made to fail: fault_available() is false and such a loop runs once, without a fault.
 */
void fault_alloc_after(long n);
bool fault_hit(void); /* since the last arming one has failed */
bool fault_available(void);

#endif
