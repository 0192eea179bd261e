/* Documents in the text of a file: one JSON document, JSON Lines, or CSV. JSON is checked and then passed on as it was written: numbers keep
 * their digits. Messages name the line, never what is in it. Pure. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>
#include <sodium.h>

#include "csv.h"
#include "dirsrc.h"

#define CSV_COLUMNS_MAX 512
#define KEY_MAX 1024

const char *dirsrc_key_column(const struct agent_dir_source *set)
{
	return set->key && *set->key && strcmp(set->key, "document") != 0 ? set->key : "key";
}

static int wrong(struct sb_error *err, unsigned line, const char *what)
{
	return sb_fail(err, SB_EPROTO, "line %u: %s", line, what);
}

static void trim(const char **p, size_t *n)
{
	while (*n && memchr(" \t\r\n", **p, 4)) {
		(*p)++;
		(*n)--;
	}
	while (*n && memchr(" \t\r\n", (*p)[*n - 1], 4))
		(*n)--;
}

/* --- JSON --- */

/* The document's key: text or a whole number in the field that the settings name. */
static int json_key(const struct agent_dir_source *set, const json_t *doc, unsigned line, char key[KEY_MAX + 1], struct sb_error *err)
{
	const json_t *v = json_object_get(doc, set->key);

	if (!json_is_object(doc))
		return wrong(err, line, "the document is not an object");
	if (json_is_integer(v)) {
		(void)snprintf(key, KEY_MAX + 1, "%" JSON_INTEGER_FORMAT, json_integer_value(v)); /* fits */
		return 0;
	}
	if (!json_is_string(v) || json_string_length(v) == 0)
		return wrong(err, line, "the key field is missing, or neither text nor a whole number");
	if (json_string_length(v) > KEY_MAX)
		return wrong(err, line, "the key is too long");
	memcpy(key, json_string_value(v), json_string_length(v) + 1);
	return 0;
}

static int name_key(const char *name, char key[KEY_MAX + 1], struct sb_error *err)
{
	size_t n = strlen(name) - strlen(".json");

	if (n > KEY_MAX || !sb_utf8_ok(name, n))
		return sb_fail(err, SB_EPROTO, "the file's name cannot be a key");
	memcpy(key, name, n);
	key[n] = '\0';
	return 0;
}

static int one_json(const struct agent_dir_source *set, const char *name, const char *p, size_t n, unsigned line, const struct dirsrc_sink *sink, struct sb_error *err)
{
	char key[KEY_MAX + 1];
	uint8_t digest[crypto_hash_sha256_BYTES];
	json_error_t why = { .line = 1 };

	trim(&p, &n);
	json_auto_t *doc = json_loadb(p, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &why);
	if (!doc)
		return wrong(err, line + (why.line > 0 ? (unsigned)why.line - 1 : 0), "is not valid JSON (or a name is there twice, or a number is too large)");
	int r = set->key && *set->key ? json_key(set, doc, line, key, err) : name_key(name, key, err);
	if (r < 0 || !sink)
		return r;
	const struct sb_cell cell[2] = { { .kind = SB_CELL_VALUE, .p = key, .n = strlen(key) }, { .kind = SB_CELL_VALUE, .p = p, .n = n } };
	struct dirsrc_document out = { .key = key, .cell = cell, .n_cells = 2, .line = line };
	crypto_hash_sha256(digest, (const unsigned char *)p, n);
	sb_hex(out.hash, digest, sizeof(digest));
	return sink->document(sink->user, &out, err);
}

static int json_lines(const struct agent_dir_source *set, const char *name, const char *text, size_t n, const struct dirsrc_sink *sink, struct sb_error *err)
{
	const char *end = text + n;
	unsigned line = 1;
	int r = 0;

	for (const char *p = text; r == 0 && p < end; line++) {
		const char *nl = memchr(p, '\n', (size_t)(end - p));
		const char *stop = nl ? nl : end, *start = p;
		size_t len = (size_t)(stop - p);
		trim(&start, &len);
		if (len > 0)
			r = one_json(set, name, start, len, line, sink, err);
		p = nl ? nl + 1 : end;
	}
	return r;
}

/* --- CSV --- */

static int check_header(const struct agent_dir_source *set, const struct sb_cell *field, unsigned n, unsigned *ret_key, struct sb_error *err)
{
	bool found = false;

	for (unsigned i = 0; i < n; i++) {
		if (field[i].n == 0 || field[i].n > 63 || memchr(field[i].p, '\n', field[i].n))
			return wrong(err, 1, "a column has no name, or one that is too long");
		for (unsigned k = 0; k < i; k++) {
			if (field[k].n == field[i].n && memcmp(field[k].p, field[i].p, field[i].n) == 0)
				return wrong(err, 1, "two columns have the same name");
		}
		if (field[i].n == strlen(set->key) && memcmp(field[i].p, set->key, field[i].n) == 0) {
			*ret_key = i;
			found = true;
		}
	}
	return found ? 0 : wrong(err, 1, "the key column is missing");
}

/* Hash of names and values, so that it does not depend on what other files add to the type. */
static void row_hash(const struct sb_cell *name, const struct sb_cell *field, unsigned n, char hash[65])
{
	crypto_hash_sha256_state st;
	uint8_t digest[crypto_hash_sha256_BYTES];

	crypto_hash_sha256_init(&st);
	for (unsigned i = 0; i < n; i++) {
		const uint64_t len[2] = { name[i].n, field[i].n };
		crypto_hash_sha256_update(&st, (const unsigned char *)len, sizeof(len));
		crypto_hash_sha256_update(&st, (const unsigned char *)name[i].p, name[i].n);
		crypto_hash_sha256_update(&st, (const unsigned char *)field[i].p, field[i].n);
	}
	crypto_hash_sha256_final(&st, digest);
	sb_hex(hash, digest, sizeof(digest));
}

static int csv_row(const struct sb_cell *name, const struct sb_cell *field, unsigned n, unsigned key_at, unsigned line, const struct dirsrc_sink *sink, struct sb_error *err)
{
	char key[KEY_MAX + 1];
	struct dirsrc_document out = { .key = key, .cell = field, .n_cells = n, .line = line };

	if (field[key_at].n == 0 || field[key_at].n > KEY_MAX)
		return wrong(err, line, "the key is empty or too long");
	if (!sink)
		return 0;
	memcpy(key, field[key_at].p, field[key_at].n);
	key[field[key_at].n] = '\0';
	row_hash(name, field, n, out.hash);
	return sink->document(sink->user, &out, err);
}

static int csv_rows(const struct agent_dir_source *set, struct csv *c, const struct dirsrc_sink *sink, struct sb_error *err)
{
	struct sb_cell header[CSV_COLUMNS_MAX], field[CSV_COLUMNS_MAX];
	sb_cleanup(sb_freep) char *names = NULL;
	unsigned n = 0, key_at = 0;
	size_t at = 0;

	int r = csv_next(c, header, CSV_COLUMNS_MAX, &n, err);
	if (r <= 0)
		return r < 0 ? r : wrong(err, 1, "there is no header");
	r = check_header(set, header, n, &key_at, err);
	if (r < 0)
		return r;
	names = malloc(c->text.len + 1); /* the reader forgets its fields with the next record */
	if (!names)
		return sb_fail_nomem(err);
	memcpy(names, c->text.data, c->text.len);
	for (unsigned i = 0; i < n; i++) {
		header[i].p = names + at;
		at += header[i].n;
	}
	if (sink)
		r = sink->columns(sink->user, header, n, err);
	while (r == 0) {
		unsigned line = c->line;
		r = csv_next(c, field, CSV_COLUMNS_MAX, &n, err);
		if (r <= 0)
			return r;
		r = csv_row(header, field, n, key_at, line, sink, err);
	}
	return r;
}

int dirsrc_documents(const struct agent_dir_source *set, const char *name, const char *text, size_t n, const struct dirsrc_sink *sink, struct sb_error *err)
{
	struct csv c;

	if (set->format == AGENT_DIR_JSON)
		return one_json(set, name, text, n, 1, sink, err);
	if (set->format == AGENT_DIR_JSONL)
		return json_lines(set, name, text, n, sink, err);
	csv_init(&c, text, n);
	int r = csv_rows(set, &c, sink, err);
	csv_release(&c);
	return r;
}
