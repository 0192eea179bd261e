/* What is learned only ever widens: a column's `fits` loses bits and never gets one back, so its type cannot go to and fro with the files. The key column is text
 * unless it is pinned: a key that changed its type would make every row another one. */
#include "row_schema.h"

#include <string.h>

#include <jansson.h>

#include "json_fields.h"

void row_schema_release(struct row_schema *s)
{
	for (unsigned i = 0; i < s->n; i++)
		free(s->column[i].name);
	free(s->column);
	free(s->key);
	free(s->room);
	memset(s, 0, sizeof(*s));
}

bool row_schema_hides(const struct row_schema *s, const char *name, size_t n)
{
	for (size_t i = 0; s->hidden && i < s->hidden->count; i++) {
		if (strlen(s->hidden->item[i]) == n && memcmp(s->hidden->item[i], name, n) == 0)
			return true;
	}
	return false;
}

static int add(struct row_schema *s, const char *name, size_t n, unsigned fits, const struct column_type *type, struct sb_error *err)
{
	if (s->n == SB_COLUMNS_MAX)
		return sb_fail(err, SB_ETOOBIG, "the documents have more than %d fields together", SB_COLUMNS_MAX);
	struct row_column *more = realloc(s->column, (s->n + 1) * sizeof(*more));
	if (!more)
		return sb_fail_nomem(err);
	s->column = more;
	struct row_column *c = &more[s->n];
	*c = (struct row_column){ .name = strndup(name, n), .fits = fits, .type = type };
	if (!c->name)
		return sb_fail_nomem(err);
	c->key = strcmp(c->name, s->key) == 0;
	s->n++;
	return 0;
}

static int add_pins(struct row_schema *s, const struct sb_list *pins, struct sb_error *err)
{
	const struct row_pin *pin = pins->item;
	int r = 0;

	s->pinned = pins->count > 0;
	for (size_t i = 0; r == 0 && i < pins->count; i++)
		r = add(s, pin[i].name, strlen(pin[i].name), 0, column_type_find(pin[i].type), err);
	return r;
}

int row_schema_init(struct row_schema *s, const char *key, bool document, const struct sb_list *pins, const struct sb_strings *hidden, struct sb_error *err)
{
	*s = (struct row_schema){ .key = sb_strdup(key), .document = document, .hidden = hidden };
	if (!s->key)
		return sb_fail_nomem(err);
	int r = document ? 0 : add_pins(s, pins, err);
	/* the key comes first, unless the settings put it elsewhere */
	if (r == 0 && !s->pinned)
		r = add(s, key, strlen(key), COLUMN_TEXT, column_type_find("text"), err);
	if (r == 0 && document)
		r = add(s, "document", 8, COLUMN_JSONB, column_type_find("jsonb"), err);
	if (r < 0)
		row_schema_release(s);
	return r;
}

/* --- what was learned --- */

char *row_schema_text(const struct row_schema *s)
{
	json_auto_t *list = json_array();

	for (unsigned i = 0; list && i < s->n; i++) {
		if (json_array_append_new(list, json_pack("[s, i]", s->column[i].name, (int)s->column[i].fits)) < 0)
			return NULL;
	}
	return list ? json_dumps(list, JSON_COMPACT) : NULL;
}

static struct row_column *find(const struct row_schema *s, const char *name, size_t n, unsigned hint)
{
	for (unsigned k = 0; k < s->n; k++) {
		struct row_column *c = &s->column[(hint + k) % s->n];
		if (strlen(c->name) == n && memcmp(c->name, name, n) == 0)
			return c;
	}
	return NULL;
}

int row_schema_load(struct row_schema *s, const char *text, struct sb_error *err)
{
	json_auto_t *list = *text ? json_loads(text, JSON_REJECT_DUPLICATES, NULL) : json_array();
	json_t *entry;
	size_t i;
	int r = 0;

	if (s->pinned || s->document)
		return 0;
	if (!list)
		return sb_fail(err, SB_EPROTO, "the remembered columns cannot be read");
	json_array_foreach(list, i, entry) {
		const char *name = json_string_value(json_array_get(entry, 0));
		unsigned fits = (unsigned)json_integer_value(json_array_get(entry, 1)) & COLUMN_ANY;
		if (!name)
			return sb_fail(err, SB_EPROTO, "the remembered columns cannot be read");
		if (r == 0 && !find(s, name, strlen(name), 0) && !row_schema_hides(s, name, strlen(name)))
			r = add(s, name, strlen(name), fits, column_type_of(fits), err);
	}
	return r;
}

static unsigned fits_of(const struct row_field *f)
{
	if (f->null)
		return COLUMN_ANY;
	if (!f->json)
		return column_fits(f->p, f->n);
	if (*f->p != '"') {
		unsigned fits = column_fits_json(*f->p, f->p, f->n);
		return fits ? fits : COLUMN_ANY;
	}
	if (!memchr(f->p, '\\', f->n))
		return column_fits_json('"', f->p + 1, f->n - 2);
	/* no type but text has a form with escapes that anybody would write */
	return COLUMN_TEXT | COLUMN_JSONB;
}

int row_schema_learn(struct row_schema *s, const struct row_field *f, unsigned *ret_change, struct sb_error *err)
{
	if (s->pinned || s->document || row_schema_hides(s, f->name, f->name_n))
		return 0;
	struct row_column *c = find(s, f->name, f->name_n, 0);
	if (!c) {
		*ret_change |= ROW_NEW;
		unsigned fits = fits_of(f);
		return add(s, f->name, f->name_n, fits, column_type_of(fits), err);
	}
	if (c->key && !s->learn_key)
		return 0;
	unsigned fits = c->fits & fits_of(f);
	if (fits == 0)
		fits = f->json ? COLUMN_JSONB : COLUMN_TEXT; /* a JSON value holds every other, a text every CSV field */
	const struct column_type *type = column_type_of(fits);
	if (type != c->type)
		*ret_change |= c->fits == COLUMN_ANY ? ROW_NEW : ROW_WIDER;
	c->fits = fits;
	c->type = type;
	return 0;
}

/* --- rows --- */

static int no_fit(struct sb_error *err, const struct row_column *c, const char *why)
{
	return sb_fail(err, SB_EDATA, "column \"%s\": %s %s", c->name, why, c->type->name);
}

static int boolean_cell(const struct row_column *c, const char *p, size_t n, struct sb_cell *cell, struct sb_error *err)
{
	if (!c->type->accepts(p, n))
		return no_fit(err, c, "the value is not a");
	*cell = (struct sb_cell){ .kind = SB_CELL_VALUE, .p = *p == 't' ? "t" : "f", .n = 1 };
	return 0;
}

/* A text that is decoded lies in the room, whose size the caller has made sure of. */
static int json_cell(const struct row_column *c, const struct row_field *f, char **room, struct sb_cell *cell, struct sb_error *err)
{
	sb_cleanup(sb_buf_release) struct sb_buf text = { 0 };
	char first = *f->p, kind = first == '"' ? 's' : first == 't' || first == 'f' ? 'b' : first == '{' || first == '[' ? '*' : 'n';

	*cell = (struct sb_cell){ .kind = SB_CELL_VALUE, .p = f->p, .n = f->n };
	if (c->type->json == '*')
		return 0;
	if (c->key && c->type->json == 's' && kind == 'n') /* a whole number is as good a key as its text */
		return 0;
	if (kind != c->type->json)
		return no_fit(err, c, "the JSON value is not a");
	if (kind == 'b')
		return boolean_cell(c, f->p, f->n, cell, err);
	if (kind == 's') {
		sb_buf_init(&text, f->n + 1);
		int r = json_text(f->p, f->n, &text, err);
		if (r < 0)
			return r;
		memcpy(*room, text.data, text.len);
		cell->p = *room;
		cell->n = text.len;
		*room += text.len;
	}
	return c->type->accepts(cell->p, cell->n) ? 0 : no_fit(err, c, "the value is not a");
}

static int one_cell(const struct row_column *c, const struct row_field *f, char **room, struct sb_cell *cell, struct sb_error *err)
{
	if (f->null || (f->json && *f->p == 'n')) {
		*cell = (struct sb_cell){ .kind = SB_CELL_NULL };
		return 0;
	}
	if (f->json)
		return json_cell(c, f, room, cell, err);
	if (c->type->bit == COLUMN_BOOLEAN)
		return boolean_cell(c, f->p, f->n, cell, err);
	if (!c->type->accepts(f->p, f->n))
		return no_fit(err, c, "the value is not a");
	*cell = (struct sb_cell){ .kind = SB_CELL_VALUE, .p = f->p, .n = f->n };
	return 0;
}

static int make_room(struct row_schema *s, const struct row_field *field, unsigned n, struct sb_error *err)
{
	size_t size = 1;

	for (unsigned i = 0; i < n; i++)
		size += field[i].json ? field[i].n : 0;
	if (size <= s->room_size)
		return 0;
	char *room = realloc(s->room, size);
	if (!room)
		return sb_fail_nomem(err);
	s->room = room;
	s->room_size = size;
	return 0;
}

int row_schema_cells(struct row_schema *s, const struct row_field *field, unsigned n, struct sb_cell *cell, struct sb_error *err)
{
	int r = make_room(s, field, n, err);
	char *room = s->room;
	unsigned hint = 0;

	memset(cell, 0, s->n * sizeof(*cell)); /* kind 0 is NULL */
	for (unsigned i = 0; r == 0 && i < n; i++) {
		const struct row_column *c = find(s, field[i].name, field[i].name_n, hint);
		if (!c || row_schema_hides(s, field[i].name, field[i].name_n))
			continue;
		hint = (unsigned)(c - s->column) + 1; /* fields mostly come in the same order */
		r = one_cell(c, &field[i], &room, &cell[c - s->column], err);
	}
	for (unsigned i = 0; r == 0 && i < s->n; i++) {
		if (s->column[i].key && cell[i].kind != SB_CELL_VALUE)
			r = sb_fail(err, SB_EDATA, "column \"%s\": the key is missing", s->column[i].name);
	}
	return r;
}

int row_schema_shape(const struct row_schema *s, struct sb_shape *shape, struct sb_error *err)
{
	struct sb_column *column = calloc(s->n, sizeof(*column));
	struct sb_shape old = *shape;

	if (!column)
		return sb_fail_nomem(err);
	shape->column = column;
	shape->n_columns = s->n;
	for (unsigned i = 0; i < s->n; i++) {
		column[i] = (struct sb_column){ .name = sb_strdup(s->column[i].name), .type = sb_strdup(s->column[i].type->pg), .key = s->column[i].key };
		if (!column[i].name || !column[i].type) {
			sb_shape_release(shape);
			*shape = old;
			return sb_fail_nomem(err);
		}
	}
	sb_shape_release(&old);
	return 0;
}

void row_schema_yaml(const struct row_schema *s, unsigned indent, struct sb_buf *out)
{
	sb_buf_addf(out, "%*scolumns:\n", (int)indent, "");
	for (unsigned i = 0; i < s->n; i++) {
		/* a JSON string is a YAML string */
		json_auto_t *name = json_string(s->column[i].name);
		char *quoted = name ? json_dumps(name, JSON_ENCODE_ANY) : NULL;
		sb_buf_addf(out, "%*s- { name: %s, type: %s }%s\n", (int)indent + 2, "", quoted ? quoted : "?", s->column[i].type->name,
			s->column[i].key ? "   # the key" : s->column[i].fits == COLUMN_ANY ? "   # no value seen" : "");
		free(quoted);
	}
}
