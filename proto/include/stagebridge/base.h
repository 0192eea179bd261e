/* The handful of macros that every module shares. Includes nothing of ours. */
#ifndef STAGEBRIDGE_BASE_H
#define STAGEBRIDGE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/** The caller must look at the result; a result ignored on purpose is cast to (void) with a reason. */
#define SB_MUSTCHECK __attribute__((warn_unused_result))
#define SB_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define SB_UNUSED __attribute__((unused))

/** Number of elements of a true array. */
#define SB_COUNT(a) (sizeof(a) / sizeof((a)[0]))

/** Runs fn(&variable) when the variable leaves its scope; fn must cope with the "empty" value. */
#define sb_cleanup(fn) __attribute__((cleanup(fn)))

/** Moves a pointer out of its owner: yields the value and leaves NULL behind. */
#define SB_TAKE(p)              \
	__extension__({         \
		__typeof__(p) _taken = (p); \
		(p) = NULL;     \
		_taken;         \
	})

/** For sb_cleanup(): frees a malloc'ed pointer of any type. */
static inline void sb_freep(void *pp)
{
	void *p = *(void **)pp;
	free(p);
}

/** For sb_cleanup(): closes a file descriptor unless it is negative. */
void sb_closep(int *fd);

/** Of this build: a tag, or tag-commits-hash. */
const char *sb_version(void);

#endif
