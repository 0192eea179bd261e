/* Writing entity batches: NDJSON into one fixed buffer, every value through jansson. Pure; a batch belongs to one thread.
 * Invariant: value[0..len) always ends in a newline, or is empty before the first begin. */
#include <string.h>

#include <jansson.h>

#include "batch_rules.h"
#include "stagebridge/change.h"
#include "stagebridge/record.h"

struct sb_batch {
	unsigned count;
	unsigned n_columns, n_key;
	size_t len;
	bool key[SB_COLUMNS_MAX];
	char value[SB_VALUE_MAX];
};

int sb_batch_new(struct sb_batch **ret, struct sb_error *err)
{
	struct sb_batch *b = malloc(sizeof(*b));

	if (!b)
		return sb_fail_nomem(err);
	b->count = b->n_columns = b->n_key = 0;
	b->len = 0;
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

/* Appends one line; SB_ETOOBIG leaves the batch as it was. */
static int add_line(struct sb_batch *b, const json_t *line, struct sb_error *err)
{
	size_t space = sizeof(b->value) - b->len;
	size_t n = json_dumpb(line, b->value + b->len, space, JSON_COMPACT);

	if (n == 0)
		return sb_fail_nomem(err);
	if (n >= space)
		return sb_fail(err, SB_ETOOBIG, "change does not fit into a batch of %d bytes", SB_VALUE_MAX);
	b->value[b->len + n] = '\n';
	b->len += n + 1;
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
	int r = add_line(b, line, err);
	if (r < 0)
		return r;
	b->n_columns = shape->n_columns;
	return 0;
}

/* Returns new; NULL without memory. The text was checked: no second look. */
static json_t *cell_json(const struct sb_cell *c)
{
	switch (c->kind) {
	case SB_CELL_NULL:
		return json_null();
	case SB_CELL_UNCHANGED:
		return json_false();
	case SB_CELL_VALUE:
		break;
	}
	return json_stringn_nocheck(c->n ? c->p : "", c->n);
}

static json_t *cells_json(const struct sb_cell *cell, unsigned n)
{
	json_t *a = json_array();

	for (unsigned i = 0; a && i < n; i++) {
		if (json_array_append_new(a, cell_json(&cell[i])) < 0) {
			json_decref(a);
			return NULL;
		}
	}
	return a;
}

static bool cells_text_ok(const struct sb_cell *cell, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (cell[i].kind == SB_CELL_VALUE && cell[i].n > 0 && !sb_utf8_ok(cell[i].p, cell[i].n))
			return false;
	}
	return true;
}

int sb_batch_add(struct sb_batch *b, const struct sb_change *c, struct sb_error *err)
{
	const char op[2] = { c->op, '\0' };
	char lsn[20];
	const char *wrong = b->len == 0 ? "batch was not begun" : sb_change_wrong(b->key, b->n_columns, b->n_key, c);

	if (wrong)
		return sb_fail(err, SB_EINVAL, "change: %s", wrong);
	if (!cells_text_ok(c->cell, c->n_cells) || !cells_text_ok(c->old_key, c->n_old))
		return sb_fail(err, SB_EPROTO, "change: cell is not UTF-8, or holds a NUL");

	sb_lsn_format(lsn, c->lsn);
	json_auto_t *line = json_array();
	if (!line || json_array_append_new(line, json_string_nocheck(op)) < 0 ||
		json_array_append_new(line, json_string_nocheck(lsn)) < 0 || json_array_append_new(line, json_integer(c->seq)) < 0 ||
		json_array_append_new(line, cells_json(c->cell, c->n_cells)) < 0 ||
		(c->op == 'k' && json_array_append_new(line, cells_json(c->old_key, c->n_old)) < 0))
		return sb_fail_nomem(err);
	int r = add_line(b, line, err);
	if (r < 0)
		return r;
	b->count++;
	return 0;
}
