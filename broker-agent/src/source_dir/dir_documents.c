/* Documents in the text of a file: one JSON document, JSON Lines, or CSV. JSON is checked and then passed on as it was written: numbers keep their digits. What
 * is private is left out here already, also of the hash. Messages name the line, never what is in it. Pure. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <sodium.h>

#include "csv.h"
#include "dirsrc.h"
#include "row_json.h"
#include "stagebridge/json.h"

#define KEY_MAX 1024

const char *dirsrc_key_column(const struct agent_dir_source *set)
{
	return set->key && *set->key && !(dirsrc_is_document(set) && strcmp(set->key, "document") == 0) ? set->key : "key";
}

bool dirsrc_is_document(const struct agent_dir_source *set)
{
	return set->format != AGENT_DIR_CSV && set->rows == AGENT_ROWS_DOCUMENT && set->columns.count == 0;
}

static int wrong(struct sb_error *err, unsigned line, const char *what)
{
	return sb_fail(err, SB_EPROTO, "line %u: %s", line, what);
}

/* What every document of a file has to do with. */
struct reading {
	const struct agent_dir_source *set;
	const struct row_schema *schema;
	const char *name;
	dirsrc_document_fn fn;
	void *user;
	struct row_json json;         /* its fields also hold those of a CSV row */
	struct sb_buf names;          /* of a CSV header */
	char key[KEY_MAX + 1];
};

static void hash_fields(const struct row_field *f, unsigned n, char hash[65])
{
	crypto_hash_sha256_state st;
	uint8_t digest[crypto_hash_sha256_BYTES];

	crypto_hash_sha256_init(&st);
	for (unsigned i = 0; i < n; i++) {
		const uint64_t len[3] = { f[i].name_n, f[i].n, f[i].null };
		crypto_hash_sha256_update(&st, (const unsigned char *)len, sizeof(len));
		crypto_hash_sha256_update(&st, (const unsigned char *)f[i].name, f[i].name_n);
		crypto_hash_sha256_update(&st, (const unsigned char *)f[i].p, f[i].n);
	}
	crypto_hash_sha256_final(&st, digest);
	sb_hex(hash, digest, sizeof(digest));
}

static int tell(struct reading *rd, unsigned line, struct sb_error *err)
{
	struct dirsrc_document doc = { .key = rd->key, .field = rd->json.field, .n_fields = rd->json.n, .line = line };

	hash_fields(rd->json.field, rd->json.n, doc.hash);
	return rd->fn(rd->user, &doc, err);
}

/* --- JSON --- */

static void trim(const char **p, size_t *n)
{
	while (*n && memchr(" \t\r\n", **p, 4)) {
		(*p)++;
		(*n)--;
	}
	while (*n && memchr(" \t\r\n", (*p)[*n - 1], 4))
		(*n)--;
}

/* The document's key: text or a whole number in the field that the settings name. */
static int json_key(struct reading *rd, const json_t *doc, unsigned line, struct sb_error *err)
{
	const json_t *v = json_object_get(doc, rd->set->key);

	if (!json_is_object(doc))
		return wrong(err, line, "the document is not an object");
	if (json_is_integer(v)) {
		(void)snprintf(rd->key, sizeof(rd->key), "%" JSON_INTEGER_FORMAT, json_integer_value(v)); /* fits */
		return 0;
	}
	if (!json_is_string(v) || json_string_length(v) == 0)
		return wrong(err, line, "the key field is missing, or neither text nor a whole number");
	if (json_string_length(v) > KEY_MAX)
		return wrong(err, line, "the key is too long");
	memcpy(rd->key, json_string_value(v), json_string_length(v) + 1);
	return 0;
}

static int name_key(struct reading *rd, struct sb_error *err)
{
	size_t n = strlen(rd->name) - strlen(".json");

	if (n > KEY_MAX || !sb_utf8_ok(rd->name, n))
		return sb_fail(err, SB_EPROTO, "the file's name cannot be a key");
	memcpy(rd->key, rd->name, n);
	rd->key[n] = '\0';
	return 0;
}

static int json_columns(struct reading *rd, const char *p, size_t n, unsigned line, struct sb_error *err)
{
	struct sb_error why = SB_ERROR_INIT;
	bool by_name = !*rd->set->key, twice = false;

	/* the file's name is the key: it is a field too */
	int r = row_json_fields(&rd->json, rd->schema, by_name ? dirsrc_key_column(rd->set) : NULL, rd->key, p, n, &twice, &why);
	if (r < 0)
		return r == SB_ENOMEM ? sb_fail_nomem(err) : wrong(err, line, why.msg);
	return twice ? wrong(err, line, "a field is called like the key column: name it in `key`") : tell(rd, line, err);
}

/* The document as it was written, or again without its private fields. */
static int json_document(struct reading *rd, const json_t *doc, const char *p, size_t n, unsigned line, struct sb_error *err)
{
	const char *key = dirsrc_key_column(rd->set);

	if (rd->set->private_columns.count && json_is_object(doc)) {
		int r = row_json_strip(&rd->json, rd->schema, p, n, &p, &n, err);
		if (r < 0)
			return r;
	}
	rd->json.field[0] = (struct row_field){ .name = key, .name_n = strlen(key), .p = rd->key, .n = strlen(rd->key) };
	rd->json.field[1] = (struct row_field){ .name = "document", .name_n = 8, .p = p, .n = n };
	rd->json.n = 2;
	return tell(rd, line, err);
}

static int one_json(struct reading *rd, const char *p, size_t n, unsigned line, struct sb_error *err)
{
	json_error_t why = { .line = 1 };

	trim(&p, &n);
	json_auto_t *doc = json_loadb(p, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &why);
	if (!doc)
		return wrong(err, line + (why.line > 0 ? (unsigned)why.line - 1 : 0), "is not valid JSON (or a name is there twice, or a number is too large)");
	int r = *rd->set->key ? json_key(rd, doc, line, err) : name_key(rd, err);
	if (r < 0)
		return r;
	if (dirsrc_is_document(rd->set))
		return json_document(rd, doc, p, n, line, err);
	return json_is_object(doc) ? json_columns(rd, p, n, line, err) : wrong(err, line, "the document is not an object");
}

static const char *skip_mark(const char *text, const char *end)
{
	return end - text >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? text + 3 : text;
}

static int json_lines(struct reading *rd, const char *text, size_t n, struct sb_error *err)
{
	const char *end = text + n;
	unsigned line = 1;
	int r = 0;

	for (const char *p = skip_mark(text, end); r == 0 && p < end; line++) {
		const char *nl = memchr(p, '\n', (size_t)(end - p));
		const char *stop = nl ? nl : end, *start = p;
		size_t len = (size_t)(stop - p);
		trim(&start, &len);
		if (len > 0)
			r = one_json(rd, start, len, line, err);
		p = nl ? nl + 1 : end;
	}
	return r;
}

/* --- CSV --- */

static int check_header(const struct reading *rd, const struct sb_cell *field, unsigned n, unsigned *ret_key, struct sb_error *err)
{
	const char *key = rd->set->key;
	bool found = false;

	for (unsigned i = 0; i < n; i++) {
		if (field[i].n == 0 || field[i].n > 63 || memchr(field[i].p, '\n', field[i].n))
			return wrong(err, 1, "a column has no name, or one that is too long");
		for (unsigned k = 0; k < i; k++) {
			if (field[k].n == field[i].n && memcmp(field[k].p, field[i].p, field[i].n) == 0)
				return wrong(err, 1, "two columns have the same name");
		}
		if (field[i].n == strlen(key) && memcmp(field[i].p, key, field[i].n) == 0) {
			*ret_key = i;
			found = true;
		}
	}
	return found ? 0 : wrong(err, 1, "the key column is missing");
}

static int csv_row(struct reading *rd, const struct sb_cell *header, const struct sb_cell *cell, unsigned n, unsigned key_at, unsigned line, struct sb_error *err)
{
	if (cell[key_at].n == 0 || cell[key_at].n > KEY_MAX)
		return wrong(err, line, "the key is empty or too long");
	memcpy(rd->key, cell[key_at].p, cell[key_at].n);
	rd->key[cell[key_at].n] = '\0';
	rd->json.n = 0;
	for (unsigned i = 0; i < n; i++) {
		if (!row_schema_hides(rd->schema, header[i].p, header[i].n))
			rd->json.field[rd->json.n++] = (struct row_field){ .name = header[i].p, .name_n = header[i].n, .null = cell[i].kind == SB_CELL_NULL, .p = cell[i].p, .n = cell[i].n };
	}
	return tell(rd, line, err);
}

static int csv_rows(struct reading *rd, struct csv *c, struct sb_cell *header, struct sb_cell *cell, struct sb_error *err)
{
	unsigned n = 0, key_at = 0;
	size_t at = 0;

	int r = csv_next(c, header, ROW_FIELDS_MAX, &n, err);
	if (r <= 0)
		return r < 0 ? r : wrong(err, 1, "there is no header");
	r = check_header(rd, header, n, &key_at, err);
	if (r < 0)
		return r;
	sb_buf_add(&rd->names, c->text.data, c->text.len); /* the reader forgets its fields with the next record */
	r = sb_buf_check(&rd->names, "header", err);
	for (unsigned i = 0; r == 0 && i < n; i++) {
		header[i].p = rd->names.data + at;
		at += header[i].n;
	}
	while (r == 0) {
		unsigned line = c->line;
		r = csv_next(c, cell, ROW_FIELDS_MAX, &n, err);
		if (r <= 0)
			return r;
		r = csv_row(rd, header, cell, n, key_at, line, err);
	}
	return r;
}

static int read_csv(struct reading *rd, const char *text, size_t n, struct sb_error *err)
{
	sb_cleanup(sb_freep) struct sb_cell *cell = malloc(2 * ROW_FIELDS_MAX * sizeof(*cell));
	struct csv c;

	if (!cell)
		return sb_fail_nomem(err);
	csv_init(&c, text, n);
	int r = csv_rows(rd, &c, cell, cell + ROW_FIELDS_MAX, err);
	csv_release(&c);
	return r;
}

int dirsrc_documents(const struct agent_dir_source *set, const struct row_schema *schema, const char *name, const char *text, size_t n, dirsrc_document_fn fn, void *user,
	struct sb_error *err)
{
	struct reading rd = { .set = set, .schema = schema, .name = name, .fn = fn, .user = user };
	const char *start = skip_mark(text, text + n);

	int r = row_json_init(&rd.json, 2 * n + 64, err);
	if (r < 0)
		return r;
	sb_buf_init(&rd.names, n + 64);
	if (set->format == AGENT_DIR_JSON)
		r = one_json(&rd, start, n - (size_t)(start - text), 1, err);
	else
		r = set->format == AGENT_DIR_JSONL ? json_lines(&rd, text, n, err) : read_csv(&rd, text, n, err);
	sb_buf_release(&rd.names);
	row_json_release(&rd.json);
	return r;
}
