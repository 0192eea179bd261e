/* Reading entity batches, strictly: what is not exactly of the form is refused with its line number, never its content. Pure; a reader
 * belongs to one thread. Depth is bounded by the parser (2048) and by the form itself (2). */
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "batch_rules.h"
#include "json_strict.h"
#include "stagebridge/change.h"
#include "stagebridge/record.h"

struct sb_batch_reader {
	const char *at, *end;
	unsigned line; /* number of the line that was read last */
	struct sb_shape shape;
	unsigned n_key;
	bool *key;            /* n_columns */
	struct sb_cell *cell; /* n_columns, then n_key of the old key */
	json_t *current;      /* the line that cells point into */
};

void sb_batch_close(struct sb_batch_reader *r)
{
	if (!r)
		return;
	json_decref(r->current);
	sb_shape_release(&r->shape);
	free(r->key);
	free(r->cell);
	free(r);
}

static void reader_freep(struct sb_batch_reader **r)
{
	sb_batch_close(*r);
}

const struct sb_shape *sb_batch_shape(const struct sb_batch_reader *r)
{
	return &r->shape;
}

/* Takes the next line without its newline; the caller knows that there is one. */
static int take_line(struct sb_batch_reader *r, const char **ret, size_t *ret_len, struct sb_error *err)
{
	const char *nl = memchr(r->at, '\n', (size_t)(r->end - r->at));

	r->line++;
	if (!nl)
		return sb_fail(err, SB_EPROTO, "line %u has no end", r->line);
	*ret = r->at;
	*ret_len = (size_t)(nl - r->at);
	r->at = nl + 1;
	return 0;
}

static int parse_column(struct sb_column *c, const json_t *a, struct sb_error *err)
{
	const char *name = json_string_value(json_array_get(a, 0));
	const char *type = json_string_value(json_array_get(a, 1));
	const json_t *key = json_array_get(a, 2);

	if (json_array_size(a) != 3 || !name || !type || !json_is_boolean(key))
		return sb_fail(err, SB_EPROTO, "line 1: column is not [name, type, key]");
	c->key = json_is_true(key);
	c->name = sb_strdup(name);
	c->type = sb_strdup(type);
	return c->name && c->type ? 0 : sb_fail_nomem(err);
}

static int parse_shape(struct sb_shape *s, const char *p, size_t n, struct sb_error *err)
{
	static const char *const keys[] = { "type", "incarnation", "columns" };
	json_auto_t *o = NULL;

	int r = sb_json_load_object(&o, p, n, "line 1", err);
	if (r == 0)
		r = sb_json_closed(o, keys, SB_COUNT(keys), "line 1", err);
	if (r < 0)
		return r;
	const char *type = sb_json_string(o, "type");
	const json_t *columns = json_object_get(o, "columns");
	size_t n_columns = json_array_size(columns);

	if (!type || strlen(type) > SB_TYPE_MAX)
		return sb_fail(err, SB_EPROTO, "line 1: entity type is not a name");
	memcpy(s->type, type, strlen(type) + 1);
	if (!sb_json_u64(o, "incarnation", &s->incarnation))
		return sb_fail(err, SB_EPROTO, "line 1: incarnation is out of range");
	if (!json_is_array(columns) || n_columns == 0 || n_columns > SB_COLUMNS_MAX)
		return sb_fail(err, SB_EPROTO, "line 1: number of columns is out of range");
	s->column = calloc(n_columns, sizeof(*s->column));
	if (!s->column)
		return sb_fail_nomem(err);
	for (size_t i = 0; r == 0 && i < n_columns; i++) {
		s->n_columns++;
		r = parse_column(&s->column[i], json_array_get(columns, i), err);
	}
	if (r < 0)
		return r;
	const char *wrong = sb_shape_wrong(s);
	return wrong ? sb_fail(err, SB_EPROTO, "line 1: %s", wrong) : 0;
}

int sb_batch_open(struct sb_batch_reader **ret, const void *value, size_t n, struct sb_error *err)
{
	sb_cleanup(reader_freep) struct sb_batch_reader *r = NULL;
	const char *line;
	size_t len;

	if (!value || n == 0 || n > SB_VALUE_MAX)
		return sb_fail(err, SB_EPROTO, "batch is empty or larger than %d bytes", SB_VALUE_MAX);
	r = calloc(1, sizeof(*r));
	if (!r)
		return sb_fail_nomem(err);
	r->at = value;
	r->end = r->at + n;
	int rc = take_line(r, &line, &len, err);
	if (rc == 0)
		rc = parse_shape(&r->shape, line, len, err);
	if (rc < 0)
		return rc;

	r->key = calloc(r->shape.n_columns, sizeof(*r->key));
	if (!r->key)
		return sb_fail_nomem(err);
	for (unsigned i = 0; i < r->shape.n_columns; i++) {
		r->key[i] = r->shape.column[i].key;
		r->n_key += r->key[i];
	}
	r->cell = calloc(r->shape.n_columns + r->n_key, sizeof(*r->cell));
	if (!r->cell)
		return sb_fail_nomem(err);
	*ret = SB_TAKE(r);
	return 0;
}

/* Fills at most max cells; false when it is no array of strings, null and false, or longer than max. */
static bool read_cells(const json_t *a, struct sb_cell *cell, unsigned max, unsigned *ret_n)
{
	size_t n = json_array_size(a);

	if (!json_is_array(a) || n > max)
		return false;
	for (size_t i = 0; i < n; i++) {
		const json_t *v = json_array_get(a, i);
		cell[i] = (struct sb_cell){ .kind = SB_CELL_NULL };
		if (json_is_string(v)) {
			cell[i].kind = SB_CELL_VALUE;
			cell[i].p = json_string_value(v);
			cell[i].n = json_string_length(v);
		} else if (json_is_false(v)) {
			cell[i].kind = SB_CELL_UNCHANGED;
		} else if (!json_is_null(v)) {
			return false;
		}
	}
	*ret_n = (unsigned)n;
	return true;
}

static const char *read_change(struct sb_batch_reader *r, struct sb_change *c)
{
	const json_t *a = r->current;
	const char *op = json_string_value(json_array_get(a, 0));
	const char *lsn = json_string_value(json_array_get(a, 1));
	const json_t *seq = json_array_get(a, 2);
	size_t n = json_array_size(a);

	if (!json_is_array(a) || !op || strlen(op) != 1)
		return "operation is not known";
	c->op = op[0];
	if (n != (c->op == 'k' ? 5 : 4))
		return "number of elements is wrong";
	if (!lsn || sb_lsn_parse(lsn, &c->lsn, NULL) < 0)
		return "log position is malformed";
	if (!json_is_integer(seq) || json_integer_value(seq) < 0 || json_integer_value(seq) > UINT32_MAX)
		return "number within the transaction is out of range";
	c->seq = (uint32_t)json_integer_value(seq);
	if (!read_cells(json_array_get(a, 3), r->cell, r->shape.n_columns, &c->n_cells))
		return "cells are too many, or not strings, null and false";
	c->cell = r->cell;
	c->old_key = r->cell + r->shape.n_columns;
	if (n == 5 && !read_cells(json_array_get(a, 4), r->cell + r->shape.n_columns, r->n_key, &c->n_old))
		return "old key cells are too many, or not strings";
	return sb_change_wrong(r->key, r->shape.n_columns, r->n_key, c);
}

int sb_batch_next(struct sb_batch_reader *r, struct sb_change *ret, struct sb_error *err)
{
	struct sb_change c = { .op = '\0' };
	const char *line;
	size_t len;
	char what[32];

	json_decref(r->current);
	r->current = NULL;
	if (r->at == r->end)
		return 0;
	int rc = take_line(r, &line, &len, err);
	if (rc < 0)
		return rc;
	(void)snprintf(what, sizeof(what), "line %u", r->line);
	rc = sb_json_load(&r->current, line, len, what, err);
	if (rc < 0)
		return rc;
	const char *wrong = read_change(r, &c);
	if (wrong)
		return sb_fail(err, SB_EPROTO, "line %u: %s", r->line, wrong);
	*ret = c;
	return 1;
}
