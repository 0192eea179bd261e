/* Reading entity batches, strictly: what is not exactly of the form is refused with its line number, never its content. Pure; a reader
 * belongs to one thread. */
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
	char *scratch;        /* for fields with escapes; made at the first line that has one */
	size_t longest;       /* no line is longer */
	const char *lsn_text; /* of the line before: changes of one transaction share it */
	size_t lsn_len;
	uint64_t lsn;
};

void sb_batch_close(struct sb_batch_reader *r)
{
	if (!r)
		return;
	sb_shape_release(&r->shape);
	free(r->key);
	free(r->cell);
	free(r->scratch);
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
	r->longest = (size_t)(r->end - r->at);
	*ret = SB_TAKE(r);
	return 0;
}

/* --- changes --- */

/* The field up to the next tab, or to the end; *p is moved behind the tab, to NULL at the end. */
static size_t take_field(const char **p, size_t *n, const char **ret)
{
	const char *tab = memchr(*p, '\t', *n);
	size_t len = tab ? (size_t)(tab - *p) : *n;

	*ret = *p;
	*n -= tab ? len + 1 : len;
	*p = tab ? tab + 1 : NULL;
	return len;
}

static bool read_lsn(struct sb_batch_reader *r, const char *p, size_t n, uint64_t *ret)
{
	char text[20];

	if (n != r->lsn_len || n == 0 || memcmp(p, r->lsn_text, n) != 0) {
		if (n >= sizeof(text))
			return false;
		memcpy(text, p, n);
		text[n] = '\0';
		if (strlen(text) != n || sb_lsn_parse(text, &r->lsn, NULL) < 0)
			return false;
		r->lsn_text = p;
		r->lsn_len = n;
	}
	*ret = r->lsn;
	return true;
}

/* Decimal, shortest form */
static bool read_seq(const char *p, size_t n, uint32_t *ret)
{
	uint64_t v = 0;

	if (n == 0 || n > 10 || (n > 1 && *p == '0'))
		return false;
	for (size_t i = 0; i < n; i++) {
		if (p[i] < '0' || p[i] > '9')
			return false;
		v = v * 10 + (unsigned)(p[i] - '0');
	}
	*ret = (uint32_t)v;
	return v <= UINT32_MAX;
}

static int need_scratch(struct sb_batch_reader *r, const char *p, size_t n, struct sb_error *err)
{
	if (r->scratch || !memchr(p, '\\', n))
		return 0;
	r->scratch = malloc(r->longest);
	return r->scratch ? 0 : sb_fail_nomem(err);
}

static int read_cells(struct sb_batch_reader *r, const char *p, size_t n, struct sb_change *c, struct sb_error *err)
{
	struct sb_error why = SB_ERROR_INIT;
	bool whole = c->op != 'k';

	c->n_cells = r->shape.n_columns;
	c->n_old = whole ? 0 : r->n_key;
	int rc = need_scratch(r, p, n, err);
	if (rc < 0)
		return rc;
	if (sb_copy_split(p, n, r->scratch, r->cell, c->n_cells + c->n_old, &why) < 0)
		return sb_fail(err, SB_EPROTO, "line %u: cells: %s", r->line, why.msg);
	if (!sb_utf8_ok(p, n))
		return sb_fail(err, SB_EPROTO, "line %u: cell is not UTF-8, or holds a NUL", r->line);
	for (unsigned i = 0; whole && i < c->n_cells; i++)
		whole = r->cell[i].kind != SB_CELL_UNCHANGED;
	c->text = whole ? p : NULL;
	c->text_len = whole ? n : 0;
	return 0;
}

static int read_change(struct sb_batch_reader *r, const char *p, size_t n, struct sb_change *c, struct sb_error *err)
{
	const char *field;
	size_t len = take_field(&p, &n, &field);

	if (len != 1 || !strchr("iudkts", *field))
		return sb_fail(err, SB_EPROTO, "line %u: operation is not known", r->line);
	c->op = *field;
	len = p ? take_field(&p, &n, &field) : 0;
	if (!read_lsn(r, field, len, &c->lsn))
		return sb_fail(err, SB_EPROTO, "line %u: log position is malformed", r->line);
	len = p ? take_field(&p, &n, &field) : 0;
	if (!read_seq(field, len, &c->seq))
		return sb_fail(err, SB_EPROTO, "line %u: number within the transaction is malformed or out of range", r->line);
	if ((p == NULL) != (c->op == 't'))
		return sb_fail(err, SB_EPROTO, "line %u: %s", r->line, p ? "cells where there are none" : "cells are missing");
	c->cell = r->cell;
	c->old_key = r->cell + r->shape.n_columns;
	int rc = p ? read_cells(r, p, n, c, err) : 0;
	if (rc < 0)
		return rc;
	const char *wrong = sb_change_wrong(r->key, r->shape.n_columns, r->n_key, c);
	return wrong ? sb_fail(err, SB_EPROTO, "line %u: %s", r->line, wrong) : 0;
}

int sb_batch_next(struct sb_batch_reader *r, struct sb_change *ret, struct sb_error *err)
{
	struct sb_change c = { .op = '\0' };
	const char *line;
	size_t len;

	if (r->at == r->end)
		return 0;
	int rc = take_line(r, &line, &len, err);
	if (rc == 0)
		rc = read_change(r, line, len, &c, err);
	if (rc < 0)
		return rc;
	*ret = c;
	return 1;
}
