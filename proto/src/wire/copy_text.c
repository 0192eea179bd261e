/* The COPY text format. Pure; any thread. The loops run over every byte that crosses, so the common case, a field without a special byte, is one
 * table look-up a byte and no copy. */
#include "stagebridge/copy_text.h"

#include <string.h>

/* what stands behind the backslash; 0: the byte needs none */
static const char escape[256] = { ['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't', ['\v'] = 'v', ['\\'] = '\\' };
static const char plain[256] = { ['b'] = '\b', ['f'] = '\f', ['n'] = '\n', ['r'] = '\r', ['t'] = '\t', ['v'] = '\v', ['\\'] = '\\' };

static size_t run(const char *p, size_t at, size_t n)
{
	while (at < n && !escape[(unsigned char)p[at]])
		at++;
	return at;
}

size_t sb_copy_escape(char *out, size_t space, const char *p, size_t n)
{
	size_t to = 0;

	for (size_t at = 0; at < n;) {
		size_t end = run(p, at, n), len = end - at;
		if (space - to < len + (end < n ? 2 : 0))
			return SIZE_MAX;
		memcpy(out + to, p + at, len);
		to += len;
		if (end < n) {
			out[to++] = '\\';
			out[to++] = escape[(unsigned char)p[end++]];
		}
		at = end;
	}
	return to;
}

void sb_copy_field(struct sb_buf *out, const char *p, size_t n)
{
	if (!p) {
		sb_buf_add(out, "\\N", 2);
		return;
	}
	for (size_t at = 0; at < n;) {
		size_t end = run(p, at, n);
		sb_buf_add(out, p + at, end - at);
		if (end < n) {
			const char pair[2] = { '\\', escape[(unsigned char)p[end++]] };
			sb_buf_add(out, pair, 2);
		}
		at = end;
	}
}

/* A field that is one of our two marks; *at is moved behind it. */
static bool mark(const char *line, size_t n, size_t *at, struct sb_cell *cell)
{
	if (n - *at < 2 || line[*at] != '\\' || (n - *at > 2 && line[*at + 2] != '\t'))
		return false;
	if (line[*at + 1] != 'N' && line[*at + 1] != 'U')
		return false;
	*cell = (struct sb_cell){ .kind = line[*at + 1] == 'N' ? SB_CELL_NULL : SB_CELL_UNCHANGED };
	*at += 2;
	return true;
}

/* The rest of a field from its first special byte on; returns where it ends, SIZE_MAX when it is malformed. */
static size_t undo(const char *line, size_t n, size_t start, size_t at, char *scratch, size_t *ret_len)
{
	size_t to = start;

	/* scratch may be the line: what is written never overtakes what is read */
	memmove(scratch + to, line + start, at - start);
	to += at - start;
	while (at < n && line[at] != '\t') {
		char c = line[at++];
		if (c == '\\') {
			if (at == n || !plain[(unsigned char)line[at]])
				return SIZE_MAX;
			c = plain[(unsigned char)line[at++]];
		} else if (escape[(unsigned char)c]) {
			return SIZE_MAX;
		}
		scratch[to++] = c;
	}
	*ret_len = to - start;
	return at;
}

int sb_copy_split(const char *line, size_t n, char *scratch, struct sb_cell *cell, unsigned n_cells, struct sb_error *err)
{
	size_t at = 0;

	for (unsigned k = 0; k < n_cells; k++) {
		size_t start = at;
		if (!mark(line, n, &at, &cell[k])) {
			at = run(line, at, n);
			cell[k] = (struct sb_cell){ .kind = SB_CELL_VALUE, .p = line + start, .n = at - start };
			if (at < n && line[at] == '\\') {
				at = undo(line, n, start, at, scratch, &cell[k].n);
				cell[k].p = scratch + start;
			} else if (at < n && line[at] != '\t') {
				at = SIZE_MAX;
			}
			if (at == SIZE_MAX)
				return sb_fail(err, SB_EPROTO, "field %u holds an unknown escape, or a byte that needs one", k + 1);
		}
		if (k + 1 < n_cells) {
			if (at == n)
				return sb_fail(err, SB_EPROTO, "there are %u fields instead of %u", k + 1, n_cells);
			at++;
		}
	}
	return at == n ? SB_OK : sb_fail(err, SB_EPROTO, "there are more than %u fields", n_cells);
}
