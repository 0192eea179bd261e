/* The growing buffer: doubles up to its maximum, then fails and stays failed, so that a writer appends many pieces
 * and asks once. One thread at a time; owns data. */
#include "stagebridge/buf.h"

#include <stdio.h>
#include <string.h>

/* What an empty buffer points at, so that data is a string from the start. Never written: cap is 0 meanwhile. */
static char empty[1];

void sb_buf_init(struct sb_buf *b, size_t max)
{
	*b = (struct sb_buf){ .data = empty, .max = max };
}

void sb_buf_release(struct sb_buf *b)
{
	if (b->cap > 0)
		free(b->data);
	sb_buf_init(b, b->max);
}

void sb_buf_reset(struct sb_buf *b)
{
	b->len = 0;
	b->failed = false;
	b->nomem = false;
	if (b->cap > 0)
		b->data[0] = '\0';
}

/* Makes room for n more bytes and the NUL; false marks the buffer failed. */
static bool grow(struct sb_buf *b, size_t n)
{
	size_t need, cap;
	char *data;

	if (b->failed)
		return false;
	if (n > b->max - b->len || n >= SIZE_MAX - b->len) {
		b->failed = true;
		return false;
	}
	need = b->len + n + 1;
	if (need <= b->cap)
		return true;
	cap = b->cap < 32 ? 64 : b->cap;
	while (cap < need && cap <= SIZE_MAX / 2)
		cap *= 2;
	if (b->max < SIZE_MAX && cap > b->max + 1)
		cap = b->max + 1;
	if (cap < need)
		cap = need;
	data = realloc(b->cap > 0 ? b->data : NULL, cap);
	if (data == NULL) {
		b->failed = true;
		b->nomem = true;
		return false;
	}
	b->data = data;
	b->cap = cap;
	return true;
}

void sb_buf_add(struct sb_buf *b, const void *p, size_t n)
{
	if (n == 0 || !grow(b, n))
		return;
	memcpy(b->data + b->len, p, n);
	b->len += n;
	b->data[b->len] = '\0';
}

void sb_buf_adds(struct sb_buf *b, const char *s)
{
	sb_buf_add(b, s, strlen(s));
}

void sb_buf_addc(struct sb_buf *b, char c)
{
	sb_buf_add(b, &c, 1);
}

void sb_buf_addf(struct sb_buf *b, const char *fmt, ...)
{
	va_list ap;
	int n;

	if (b->failed)
		return;
	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0)
		b->failed = true;
	if (n <= 0 || !grow(b, (size_t)n))
		return;
	va_start(ap, fmt);
	(void)vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap); /* measured above: it fits */
	va_end(ap);
	b->len += (size_t)n;
}

void sb_buf_truncate(struct sb_buf *b, size_t len)
{
	if (len >= b->len)
		return;
	b->len = len;
	if (b->cap > 0)
		b->data[len] = '\0';
}

int sb_buf_check(const struct sb_buf *b, const char *what, struct sb_error *err)
{
	if (!b->failed)
		return SB_OK;
	if (b->nomem)
		return sb_fail(err, SB_ENOMEM, "%s: out of memory", what);
	return sb_fail(err, SB_ETOOBIG, "%s: larger than %zu bytes", what, b->max);
}

char *sb_buf_detach(struct sb_buf *b)
{
	char *data;

	if (b->failed || !grow(b, 0)) /* an empty one has nothing of its own to give yet */
		return NULL;
	data = b->data;
	data[b->len] = '\0';
	sb_buf_init(b, b->max);
	return data;
}
