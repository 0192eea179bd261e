/* Strict CSV reader. Pure; owns the buffer of one record. */
#include "csv.h"

#include <string.h>

#define RECORD_MAX (64u * 1024 * 1024)

void csv_init(struct csv *c, const char *text, size_t n)
{
	*c = (struct csv){ .p = text, .end = text + n, .line = 1 };
	sb_buf_init(&c->text, RECORD_MAX);
	if (n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
		c->p += 3;
}

void csv_release(struct csv *c)
{
	sb_buf_release(&c->text);
}

static int wrong(const struct csv *c, const char *what, struct sb_error *err)
{
	return sb_fail(err, SB_EPROTO, "line %u: %s", c->line, what);
}

/* After the opening quote; stops behind the closing one. */
static int quoted(struct csv *c, struct sb_error *err)
{
	unsigned lines = 0;

	for (;;) {
		const char *quote = memchr(c->p, '"', (size_t)(c->end - c->p));
		if (!quote)
			return wrong(c, "a quoted field does not end", err);
		for (const char *nl = c->p; (nl = memchr(nl, '\n', (size_t)(quote - nl))) != NULL; nl++)
			lines++;
		sb_buf_add(&c->text, c->p, (size_t)(quote - c->p));
		c->p = quote + 1;
		if (c->p == c->end || *c->p != '"')
			break;
		sb_buf_addc(&c->text, '"');
		c->p++;
	}
	if (c->p < c->end && *c->p != ',' && *c->p != '\n' && *c->p != '\r')
		return wrong(c, "text after a closing quote", err);
	c->line += lines;
	return 0;
}

static int plain(struct csv *c, struct sb_error *err)
{
	const char *start = c->p;

	while (c->p < c->end && *c->p != ',' && *c->p != '\n' && *c->p != '\r') {
		if (*c->p == '"')
			return wrong(c, "a quote within a field that is not quoted", err);
		c->p++;
	}
	sb_buf_add(&c->text, start, (size_t)(c->p - start));
	return 0;
}

/* 1: another field follows, 0: the record is over */
static int separator(struct csv *c, struct sb_error *err)
{
	if (c->p == c->end)
		return 0;
	if (*c->p == ',') {
		c->p++;
		return 1;
	}
	if (*c->p == '\r' && (c->p + 1 == c->end || c->p[1] != '\n'))
		return wrong(c, "a carriage return without a line feed", err);
	c->p += *c->p == '\r' ? 2 : 1;
	c->line++;
	return 0;
}

int csv_next(struct csv *c, struct sb_cell *field, unsigned max, unsigned *ret_n, struct sb_error *err)
{
	unsigned n = 0, line = c->line;
	int r = 1;

	if (c->p == c->end)
		return 0;
	sb_buf_reset(&c->text);
	while (r == 1) {
		if (n == max)
			return sb_fail(err, SB_ETOOBIG, "line %u: more than %u fields", line, max);
		size_t at = c->text.len;
		bool is_quoted = c->p < c->end && *c->p == '"';
		if (is_quoted)
			c->p++;
		r = is_quoted ? quoted(c, err) : plain(c, err);
		if (r < 0)
			return r;
		/* the buffer may move: places first, pointers when it is whole */
		field[n] = (struct sb_cell){ .kind = is_quoted || c->text.len > at ? SB_CELL_VALUE : SB_CELL_NULL, .p = NULL, .n = c->text.len - at };
		n++;
		r = separator(c, err);
	}
	if (r < 0)
		return r;
	r = sb_buf_check(&c->text, "record", err);
	if (r < 0)
		return sb_fail_prefix(err, "line %u", line);
	if (!sb_utf8_ok(c->text.data, c->text.len))
		return sb_fail(err, SB_EPROTO, "line %u: not UTF-8, or a NUL", line);
	if (c->n_fields && n != c->n_fields)
		return sb_fail(err, SB_EPROTO, "line %u: %u fields instead of %u", line, n, c->n_fields);
	c->n_fields = n;
	size_t at = 0;
	for (unsigned i = 0; i < n; i++) {
		field[i].p = c->text.data + at;
		at += field[i].n;
	}
	*ret_n = n;
	return 1;
}
