/* See row_json.h. Pure; one thread at a time. */
#include "row_json.h"

#include <string.h>

#include <jansson.h>

#include "json_fields.h"

int row_json_init(struct row_json *rj, size_t max, struct sb_error *err)
{
	*rj = (struct row_json){ .field = malloc(ROW_FIELDS_MAX * sizeof(*rj->field)) };
	if (!rj->field)
		return sb_fail_nomem(err);
	sb_buf_init(&rj->names, max);
	sb_buf_init(&rj->text, max);
	return 0;
}

void row_json_release(struct row_json *rj)
{
	free(rj->field);
	sb_buf_release(&rj->names);
	sb_buf_release(&rj->text);
	*rj = (struct row_json){ .field = NULL };
}

struct walk { struct row_json *rj; const struct row_schema *schema; const char *key_name; bool twice; };

/* Names first only as places: the buffer may move. */
static int add_field(void *user, const struct json_field *f, struct sb_error *err)
{
	struct walk *w = user;
	struct row_json *rj = w->rj;

	if (row_schema_hides(w->schema, f->name, f->name_n))
		return 0;
	if (w->key_name && f->name_n == strlen(w->key_name) && memcmp(f->name, w->key_name, f->name_n) == 0) {
		w->twice = true;
		return 0;
	}
	if (f->name_n == 0 || f->name_n > 63)
		return sb_fail(err, SB_EPROTO, "a field has no name, or one that is too long for a column");
	if (rj->n == ROW_FIELDS_MAX)
		return sb_fail(err, SB_EPROTO, "more than %d fields", ROW_FIELDS_MAX);
	sb_buf_add(&rj->names, f->name, f->name_n);
	rj->field[rj->n++] = (struct row_field){ .name_n = f->name_n, .json = true, .null = *f->raw == 'n', .p = f->raw, .n = f->raw_n };
	return sb_buf_check(&rj->names, "names", err);
}

int row_json_fields(struct row_json *rj, const struct row_schema *schema, const char *key_name, const char *key, const char *p, size_t n, bool *ret_twice, struct sb_error *err)
{
	struct walk w = { .rj = rj, .schema = schema, .key_name = key_name };
	size_t at = 0;

	rj->n = 0;
	sb_buf_reset(&rj->names);
	if (key_name) {
		rj->field[rj->n++] = (struct row_field){ .name_n = strlen(key_name), .p = key, .n = strlen(key) };
		sb_buf_adds(&rj->names, key_name);
	}
	int r = json_fields(p, n, add_field, &w, err);
	for (unsigned i = 0; r == 0 && i < rj->n; i++) {
		rj->field[i].name = rj->names.data + at;
		at += rj->field[i].name_n;
	}
	*ret_twice = w.twice;
	return r;
}

static int keep_field(void *user, const struct json_field *f, struct sb_error *err)
{
	struct walk *w = user;
	struct sb_buf *text = &w->rj->text;

	if (row_schema_hides(w->schema, f->name, f->name_n))
		return 0;
	json_auto_t *name = json_stringn(f->name, f->name_n);
	sb_cleanup(sb_freep) char *quoted = name ? json_dumps(name, JSON_ENCODE_ANY) : NULL;
	if (!quoted)
		return sb_fail_nomem(err);
	sb_buf_adds(text, text->len > 1 ? ", " : "");
	sb_buf_adds(text, quoted);
	sb_buf_adds(text, ": ");
	sb_buf_add(text, f->raw, f->raw_n);
	return sb_buf_check(text, "document", err);
}

int row_json_strip(struct row_json *rj, const struct row_schema *schema, const char *p, size_t n, const char **ret, size_t *ret_n, struct sb_error *err)
{
	struct walk w = { .rj = rj, .schema = schema };

	sb_buf_reset(&rj->text);
	sb_buf_addc(&rj->text, '{');
	int r = json_fields(p, n, keep_field, &w, err);
	sb_buf_addc(&rj->text, '}');
	if (r == 0)
		r = sb_buf_check(&rj->text, "document", err);
	*ret = rj->text.data;
	*ret_n = rj->text.len;
	return r;
}
