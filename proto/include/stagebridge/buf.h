/* Growing byte buffer, born with its maximum. Invariant: data is never NULL after init and data[len] == 0. */
#ifndef STAGEBRIDGE_BUF_H
#define STAGEBRIDGE_BUF_H

#include <stdarg.h>

#include "stagebridge/base.h"
#include "stagebridge/error.h"

struct sb_buf {
	char *data;
	size_t len;
	size_t cap;
	size_t max;   /* bytes of content it may ever hold */
	bool failed;  /* sticky: an append did not fit or memory ran out; check once at the end with sb_buf_check */
	bool nomem;   /* failed for want of memory, not for size */
};

void sb_buf_init(struct sb_buf *b, size_t max);
void sb_buf_release(struct sb_buf *b);         /* legal on an all-zero object; empty and usable again after */
void sb_buf_reset(struct sb_buf *b);           /* empties, keeps the memory, clears failed */
void sb_buf_add(struct sb_buf *b, const void *p, size_t n);
void sb_buf_adds(struct sb_buf *b, const char *s);
void sb_buf_addc(struct sb_buf *b, char c);
void sb_buf_addf(struct sb_buf *b, const char *fmt, ...) SB_PRINTF(2, 3);
void sb_buf_truncate(struct sb_buf *b, size_t len); /* nothing when it is shorter already */
/** SB_OK, or SB_ETOOBIG / SB_ENOMEM with `what` in the message when an append failed. */
int sb_buf_check(const struct sb_buf *b, const char *what, struct sb_error *err) SB_MUSTCHECK;
/** Gives the malloc'ed content away (returns new, NUL-terminated) and leaves an empty buffer. NULL when failed: sb_buf_check says why. */
char *sb_buf_detach(struct sb_buf *b);

#endif
