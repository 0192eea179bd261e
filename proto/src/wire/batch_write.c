/* Writing entity batches into one fixed buffer: the shape through jansson once, changes as COPY text. Pure; a batch belongs to one thread.
 * Invariant: value[0..len) always ends in a newline, or is empty before the first begin. */
#include <string.h>

#include <jansson.h>

#include "batch_rules.h"
#include "stagebridge/change.h"
#include "stagebridge/record.h"

#define HEAD_MAX 40 /* op, two tabs, log position of at most 17, number of at most 10 */

struct sb_batch {
	unsigned count;
	unsigned n_columns, n_key;
	size_t len;
	uint64_t lsn;         /* what lsn_text spells: changes of one transaction share it */
	char lsn_text[20];
	size_t lsn_len;
	bool key[SB_COLUMNS_MAX];
	char value[SB_VALUE_MAX];
};

int sb_batch_new(struct sb_batch **ret, struct sb_error *err)
{
	struct sb_batch *b = malloc(sizeof(*b));

	if (!b)
		return sb_fail_nomem(err);
	b->count = b->n_columns = b->n_key = 0;
	b->len = b->lsn_len = 0;
	*ret = b;
	return 0;
}

void sb_batch_free(struct sb_batch *b)
{
	free(b);
}

unsigned sb_batch_count(const struct sb_batch *b)
{
	return b->count;
}

const void *sb_batch_value(const struct sb_batch *b, size_t *ret_len)
{
	*ret_len = b->len;
	return b->value;
}

static int too_big(struct sb_error *err)
{
	return sb_fail(err, SB_ETOOBIG, "change does not fit into a batch of %d bytes", SB_VALUE_MAX);
}

/* --- the shape --- */

static int put_shape(struct sb_batch *b, const json_t *line, struct sb_error *err)
{
	size_t n = json_dumpb(line, b->value, sizeof(b->value), JSON_COMPACT);

	if (n == 0)
		return sb_fail_nomem(err);
	if (n >= sizeof(b->value))
		return too_big(err);
	b->value[n] = '\n';
	b->len = n + 1;
	return 0;
}

int sb_batch_begin(struct sb_batch *b, const struct sb_shape *shape, struct sb_error *err)
{
	const char *wrong = sb_shape_wrong(shape);

	b->count = b->n_columns = b->n_key = 0;
	b->len = 0;
	if (wrong)
		return sb_fail(err, SB_EPROTO, "shape: %s", wrong);

	json_auto_t *columns = json_array();
	for (unsigned i = 0; i < shape->n_columns; i++) {
		const struct sb_column *c = &shape->column[i];
		if (json_array_append_new(columns, json_pack("[s, s, b]", c->name, c->type, c->key ? 1 : 0)) < 0)
			return sb_fail_nomem(err);
		b->key[i] = c->key;
		b->n_key += c->key;
	}
	json_auto_t *line =
		json_pack("{s:s, s:I, s:O}", "type", shape->type, "incarnation", (json_int_t)shape->incarnation, "columns", columns);
	if (!line)
		return sb_fail_nomem(err);
	int r = put_shape(b, line, err);
	if (r < 0)
		return r;
	b->n_columns = shape->n_columns;
	return 0;
}

/* --- changes --- */

/* "u<tab>0/16B3748<tab>3" at the end of the batch; the caller knows that HEAD_MAX bytes are free. Returns where it ends. */
static size_t put_head(struct sb_batch *b, char op, uint64_t lsn, uint32_t seq)
{
	char digits[10];
	size_t at = b->len, n = 0;

	if (b->lsn_len == 0 || lsn != b->lsn) {
		sb_lsn_format(b->lsn_text, lsn);
		b->lsn_len = strlen(b->lsn_text);
		b->lsn = lsn;
	}
	b->value[at++] = op;
	b->value[at++] = '\t';
	memcpy(b->value + at, b->lsn_text, b->lsn_len);
	at += b->lsn_len;
	b->value[at++] = '\t';
	do
		digits[n++] = (char)('0' + seq % 10);
	while ((seq /= 10) > 0);
	while (n > 0)
		b->value[at++] = digits[--n];
	return at;
}

/* Appends cells at *at, which stays below the buffer's last byte; false when they do not fit. */
static bool put_cells(struct sb_batch *b, size_t *at, const struct sb_cell *cell, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		size_t space = sizeof(b->value) - 1 - *at; /* the newline's place is kept */
		if (space < 3)
			return false;
		b->value[(*at)++] = '\t';
		if (cell[i].kind == SB_CELL_VALUE) {
			size_t len = sb_copy_escape(b->value + *at, space - 1, cell[i].p, cell[i].n);
			if (len == SIZE_MAX)
				return false;
			*at += len;
		} else {
			b->value[(*at)++] = '\\';
			b->value[(*at)++] = cell[i].kind == SB_CELL_NULL ? 'N' : 'U';
		}
	}
	return true;
}

static bool cells_text_ok(const struct sb_cell *cell, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (cell[i].kind == SB_CELL_VALUE && cell[i].n > 0 && !sb_utf8_ok(cell[i].p, cell[i].n))
			return false;
	}
	return true;
}

static void take(struct sb_batch *b, size_t at)
{
	b->value[at] = '\n';
	b->len = at + 1;
	b->count++;
}

int sb_batch_add(struct sb_batch *b, const struct sb_change *c, struct sb_error *err)
{
	const char *wrong = b->len == 0 ? "batch was not begun" : sb_change_wrong(b->key, b->n_columns, b->n_key, c);

	if (wrong)
		return sb_fail(err, SB_EINVAL, "change: %s", wrong);
	if (!cells_text_ok(c->cell, c->n_cells) || !cells_text_ok(c->old_key, c->n_old))
		return sb_fail(err, SB_EPROTO, "change: cell is not UTF-8, or holds a NUL");
	if (sizeof(b->value) - b->len <= HEAD_MAX)
		return too_big(err);
	size_t at = put_head(b, c->op, c->lsn, c->seq);
	if (!put_cells(b, &at, c->cell, c->n_cells) || !put_cells(b, &at, c->old_key, c->n_old))
		return too_big(err);
	take(b, at);
	return 0;
}

int sb_batch_add_line(struct sb_batch *b, char op, uint64_t lsn, uint32_t seq, const char *line, size_t n, struct sb_error *err)
{
	if (b->len == 0 || op == '\0' || !strchr("ius", op))
		return sb_fail(err, SB_EINVAL, "change: %s", b->len ? "operation has no row" : "batch was not begun");
	const char *wrong = sb_row_text_wrong(b->key, b->n_columns, line, n);
	if (wrong)
		return sb_fail(err, SB_EPROTO, "change: %s", wrong);
	if (sizeof(b->value) - b->len <= HEAD_MAX || sizeof(b->value) - b->len - HEAD_MAX < n)
		return too_big(err);
	size_t at = put_head(b, op, lsn, seq);
	b->value[at++] = '\t';
	memcpy(b->value + at, line, n);
	take(b, at + n);
	return 0;
}
