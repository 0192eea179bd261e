/*
 * Allocation functions for libgit2 that refuse absurd sizes.
 *
 * libgit2 takes sizes from packs, deltas and trees that another stage wrote: a delta of twenty bytes may announce a
 * result of many gigabytes. A request above the cap fails as if memory had run out, so a forged size is an error and
 * not the end of the process. Stateless; any thread.
 */
#include <string.h>

#include "git_private.h"
#include <git2/sys/alloc.h>

/* Several times the largest object that we take: the biggest arrays of a pack of millions of objects still fit. */
enum { ALLOC_MAX = 512 * 1024 * 1024 };

static void *capped_realloc(void *old, size_t n, const char *file, int line)
{
	(void)file;
	(void)line;
	void *p = n > ALLOC_MAX ? NULL : realloc(old, n ? n : 1);
	if (!p)
		git_error_set_oom();
	return p;
}

static void *capped_malloc(size_t n, const char *file, int line)
{
	return capped_realloc(NULL, n, file, line);
}

static void *capped_calloc(size_t n, size_t size, const char *file, int line)
{
	size_t all;

	(void)file;
	(void)line;
	bool fits = !__builtin_mul_overflow(n, size, &all) && all <= ALLOC_MAX;
	void *p = fits ? calloc(all ? all : 1, 1) : NULL;
	if (!p)
		git_error_set_oom();
	return p;
}

static void *capped_reallocarray(void *old, size_t n, size_t size, const char *file, int line)
{
	size_t all;

	return capped_realloc(old, __builtin_mul_overflow(n, size, &all) ? SIZE_MAX : all, file, line);
}

static void *capped_mallocarray(size_t n, size_t size, const char *file, int line)
{
	return capped_reallocarray(NULL, n, size, file, line);
}

static char *capped_substrdup(const char *s, size_t n, const char *file, int line)
{
	char *p = n < ALLOC_MAX ? capped_malloc(n + 1, file, line) : NULL;

	if (p) {
		memcpy(p, s, n);
		p[n] = '\0';
	}
	return p;
}

static char *capped_strndup(const char *s, size_t n, const char *file, int line)
{
	return capped_substrdup(s, strnlen(s, n), file, line);
}

static char *capped_strdup(const char *s, const char *file, int line)
{
	return capped_substrdup(s, strlen(s), file, line);
}

int sb_git_cap_allocations(void)
{
	git_allocator capped = {
		.gmalloc = capped_malloc,
		.gcalloc = capped_calloc,
		.gstrdup = capped_strdup,
		.gstrndup = capped_strndup,
		.gsubstrdup = capped_substrdup,
		.grealloc = capped_realloc,
		.greallocarray = capped_reallocarray,
		.gmallocarray = capped_mallocarray,
		.gfree = free,
	};

	return git_libgit2_opts(GIT_OPT_SET_ALLOCATOR, &capped);
}
