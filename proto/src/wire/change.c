/* Shapes, changes and positions of entity batches: life, comparison, rules and text forms. Pure; any thread. */
#include "stagebridge/change.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "batch_rules.h"

void sb_shape_release(struct sb_shape *s)
{
	for (unsigned i = 0; i < s->n_columns; i++) {
		free(s->column[i].name);
		free(s->column[i].type);
	}
	free(s->column);
	*s = (struct sb_shape){ .column = NULL };
}

int sb_shape_copy(struct sb_shape *dst, const struct sb_shape *src, struct sb_error *err)
{
	struct sb_shape s = { .incarnation = src->incarnation };

	memcpy(s.type, src->type, sizeof(s.type));
	s.column = calloc(src->n_columns ? src->n_columns : 1, sizeof(*s.column));
	if (!s.column)
		return sb_fail_nomem(err);
	for (; s.n_columns < src->n_columns; s.n_columns++) {
		struct sb_column *c = &s.column[s.n_columns];
		c->key = src->column[s.n_columns].key;
		c->name = sb_strdup(src->column[s.n_columns].name);
		c->type = sb_strdup(src->column[s.n_columns].type);
		if (!c->name || !c->type) {
			s.n_columns++; /* the half column is released as well */
			sb_shape_release(&s);
			return sb_fail_nomem(err);
		}
	}
	*dst = s;
	return 0;
}

bool sb_shape_equal(const struct sb_shape *a, const struct sb_shape *b)
{
	if (a->n_columns != b->n_columns || strcmp(a->type, b->type) != 0)
		return false;
	for (unsigned i = 0; i < a->n_columns; i++) {
		const struct sb_column *x = &a->column[i], *y = &b->column[i];
		if (x->key != y->key || strcmp(x->name, y->name) != 0 || strcmp(x->type, y->type) != 0)
			return false;
	}
	return true;
}

/* --- rules --- */

static bool text_ok(const char *s, size_t max)
{
	size_t n = strnlen(s, max + 1);

	if (n > max)
		return false;
	for (size_t i = 0; i < n; i++) {
		if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
			return false;
	}
	return sb_utf8_ok(s, n);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

const char *sb_shape_wrong(const struct sb_shape *s)
{
	const char *name[SB_COLUMNS_MAX];
	bool any_key = false;

	if (!sb_type_ok(s->type))
		return "entity type is not a name";
	if (s->incarnation > INT64_MAX)
		return "incarnation is out of range";
	if (s->n_columns == 0 || s->n_columns > SB_COLUMNS_MAX)
		return "number of columns is out of range";
	for (unsigned i = 0; i < s->n_columns; i++) {
		const struct sb_column *c = &s->column[i];
		if (c->name[0] == '\0' || !text_ok(c->name, SB_COLUMN_NAME_MAX))
			return "column has a bad name";
		if (!text_ok(c->type, SB_COLUMN_TYPE_MAX))
			return "column has a bad type";
		any_key = any_key || c->key;
		name[i] = c->name;
	}
	if (!any_key)
		return "no column is in the key";
	qsort(name, s->n_columns, sizeof(name[0]), by_name);
	for (unsigned i = 1; i < s->n_columns; i++) {
		if (strcmp(name[i - 1], name[i]) == 0)
			return "column is there twice";
	}
	return NULL;
}

const char *sb_change_wrong(const bool *key, unsigned n_columns, unsigned n_key, const struct sb_change *c)
{
	bool may_miss = c->op == 'u' || c->op == 'k';

	if (c->op == '\0' || !strchr("iudkts", c->op))
		return "operation is not known";
	if (c->n_cells != (c->op == 't' ? 0 : n_columns))
		return "number of cells is not that of the columns";
	if (c->n_old != (c->op == 'k' ? n_key : 0))
		return "number of old key cells is wrong";
	for (unsigned i = 0; i < c->n_cells; i++) {
		enum sb_cell_kind kind = c->cell[i].kind;
		if (key[i] && kind != SB_CELL_VALUE)
			return "key cell has no value";
		if (kind == SB_CELL_UNCHANGED && !may_miss)
			return "unchanged cell in an operation that has none";
		if (c->op == 'd' && !key[i] && kind != SB_CELL_NULL)
			return "delete holds more than the key";
	}
	for (unsigned i = 0; i < c->n_old; i++) {
		if (c->old_key[i].kind != SB_CELL_VALUE)
			return "old key cell has no value";
	}
	return NULL;
}

/* What COPY wrote needs no look at its escapes, which are its own; only \U would be read as something else. */
const char *sb_row_text_wrong(const bool *key, unsigned n_columns, const char *line, size_t n)
{
	unsigned field = 0;

	for (size_t at = 0;; at++, field++) {
		const char *tab = memchr(line + at, '\t', n - at);
		size_t len = tab ? (size_t)(tab - line) - at : n - at;
		if (field == n_columns)
			return "number of cells is not that of the columns";
		if (len == 2 && line[at] == '\\' && (line[at + 1] == 'U' || key[field]))
			return "key cell has no value, or a cell is not of COPY's form";
		at += len;
		if (!tab)
			break;
	}
	if (field + 1 != n_columns)
		return "number of cells is not that of the columns";
	if (memchr(line, '\n', n) || !sb_utf8_ok(line, n))
		return "cell is not UTF-8, or holds a NUL";
	return NULL;
}

/* --- positions --- */

int sb_position_cmp(struct sb_position a, struct sb_position b)
{
	if (a.lsn != b.lsn)
		return a.lsn < b.lsn ? -1 : 1;
	return a.seq == b.seq ? 0 : a.seq < b.seq ? -1 : 1;
}

void sb_position_format(char out[SB_POSITION_LEN + 1], struct sb_position p)
{
	(void)snprintf(out, SB_POSITION_LEN + 1, "%" PRIX64 ".%" PRIu32, p.lsn, p.seq); /* at most 16 + 1 + 10 */
}

void sb_lsn_format(char out[20], uint64_t lsn)
{
	(void)snprintf(out, 20, "%" PRIX32 "/%" PRIX32, (uint32_t)(lsn >> 32), (uint32_t)lsn); /* at most 17 */
}

/* 1 to max upper-case hex digits up to the stop character; returns the place of the stop, or NULL */
static const char *hex_until(const char *s, char stop, size_t max, uint64_t *ret)
{
	uint64_t v = 0;
	size_t n = 0;

	for (; s[n] && s[n] != stop; n++) {
		unsigned digit;
		if (s[n] >= '0' && s[n] <= '9')
			digit = (unsigned)(s[n] - '0');
		else if (s[n] >= 'A' && s[n] <= 'F')
			digit = (unsigned)(s[n] - 'A') + 10;
		else
			return NULL;
		if (n == max)
			return NULL;
		v = v << 4 | digit;
	}
	*ret = v;
	return n > 0 && s[n] == stop ? s + n : NULL;
}

int sb_position_parse(const char *s, struct sb_position *ret, struct sb_error *err)
{
	struct sb_position p = { .seq = 0 };
	uint64_t seq = 0;
	char canonical[SB_POSITION_LEN + 1];

	const char *dot = hex_until(s, '.', 16, &p.lsn);
	if (!dot || sb_parse_u64(dot + 1, 0, UINT32_MAX, "position", &seq, NULL) < 0)
		return sb_fail(err, SB_EPROTO, "position is not of the form <hex lsn>.<number>");
	p.seq = (uint32_t)seq;
	/* positions are compared as text by others: one spelling only */
	sb_position_format(canonical, p);
	if (strcmp(canonical, s) != 0)
		return sb_fail(err, SB_EPROTO, "position is not in its shortest form");
	*ret = p;
	return 0;
}

int sb_lsn_parse(const char *s, uint64_t *ret, struct sb_error *err)
{
	uint64_t high = 0, low = 0;
	const char *slash = hex_until(s, '/', 8, &high);

	if (!slash || !hex_until(slash + 1, '\0', 8, &low))
		return sb_fail(err, SB_EPROTO, "log position is not of the form X/X");
	*ret = high << 32 | low;
	return 0;
}
