/* Values of entity batches: what is read must be writable again, and then read the same. */
#include <stdint.h>
#include <string.h>

#include "stagebridge/change.h"

#include "fuzz_driver.h"

/* Everything readable once is written into b; false when the reader refused something. */
static bool copy(struct sb_batch *b, const void *value, size_t n)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_batch_reader *r = NULL;
	struct sb_change c;
	int rc = sb_batch_open(&r, value, n, &err);

	if (rc == 0 && sb_batch_begin(b, sb_batch_shape(r), &err) < 0)
		abort();
	while (rc == 0 && (rc = sb_batch_next(r, &c, &err)) == 1) {
		rc = sb_batch_add(b, &c, &err);
		/* escapes of the input may have been shorter than ours */
		if (rc < 0 && rc != SB_ETOOBIG)
			abort();
	}
	sb_batch_close(r);
	return rc == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sb_batch *first = NULL, *second = NULL;
	size_t n, m;

	if (sb_batch_new(&first, NULL) == 0 && sb_batch_new(&second, NULL) == 0 && copy(first, data, size)) {
		const void *value = sb_batch_value(first, &n);
		if (!copy(second, value, n))
			abort();
		const void *again = sb_batch_value(second, &m);
		if (n != m || memcmp(value, again, n) != 0 || sb_batch_count(first) != sb_batch_count(second))
			abort();
	}
	sb_batch_free(first);
	sb_batch_free(second);
	return 0;
}
