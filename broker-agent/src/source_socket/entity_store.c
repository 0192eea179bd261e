/* A document that is the same as the one that is there takes no number: writing it again is free of consequences. A deleted entity stays as a row without a
 * document until the broker has its deletion. See entity_store.h. */
#include "entity_store.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "stagebridge/clock.h"
#include "stagebridge/json.h"

int entity_type_open(struct entity_type *t, const struct agent_socket_type *set, struct sb_error *err)
{
	*t = (struct entity_type){ .set = set };
	int r = sb_format(t->source, sizeof(t->source), err, AGENT_SOCKET_SOURCE "/%s", set->type);
	if (r == 0)
		r = row_schema_init(&t->schema, set->key, set->columns.count == 0, &set->columns, &set->private_columns, err);
	if (r == 0)
		r = row_json_init(&t->json, 2 * set->max_body + 64, err);
	if (r == 0 && !(t->cell = calloc(t->schema.n, sizeof(*t->cell))))
		r = sb_fail_nomem(err);
	return r;
}

void entity_type_close(struct entity_type *t)
{
	row_schema_release(&t->schema);
	row_json_release(&t->json);
	free(t->cell);
	*t = (struct entity_type){ .set = NULL };
}

int entity_type_ready(struct entity_type *t, struct sb_db *db, uint64_t session, struct sb_error *err)
{
	/* with the state lost there may have been lives before: the session is above their number, being made of the time */
	int r = sb_db_run(db, NULL, err, "INSERT INTO source_state(source, incarnation, acked_lsn, updated_ms) VALUES (?, ?, 1, ?) ON CONFLICT DO NOTHING", "sii", t->source,
		(int64_t)session, sb_wall_ms());
	return r < 0 ? r : sb_db_run(db, NULL, err, "INSERT INTO snapshot(source, type, state, reason) VALUES (?, ?, 'wanted', 'first') ON CONFLICT DO NOTHING", "ss",
		AGENT_SOCKET_SOURCE, t->set->type);
}

int entity_cells(struct entity_type *t, const char *key, const char *document, size_t n, struct sb_error *err)
{
	const struct row_field two[2] = { { .name = t->schema.key, .name_n = strlen(t->schema.key), .p = key, .n = strlen(key) },
		{ .name = "document", .name_n = 8, .p = document, .n = n } };
	bool twice;

	if (t->schema.document)
		return row_schema_cells(&t->schema, two, 2, t->cell, err);
	int r = row_json_fields(&t->json, &t->schema, t->schema.key, key, document, n, &twice, err);
	return r < 0 ? r : row_schema_cells(&t->schema, t->json.field, t->json.n, t->cell, err);
}

/* --- judging --- */

/* The key that the document names, "" when it names none. */
static int document_key(const struct entity_type *t, const json_t *doc, char out[ENTITY_KEY_MAX + 1], struct sb_error *err)
{
	const json_t *v = json_object_get(doc, t->schema.key);

	out[0] = '\0';
	if (!v)
		return 0;
	if (json_is_integer(v)) {
		(void)snprintf(out, ENTITY_KEY_MAX + 1, "%" JSON_INTEGER_FORMAT, json_integer_value(v)); /* fits */
		return 0;
	}
	if (!json_is_string(v) || json_string_length(v) == 0 || json_string_length(v) > ENTITY_KEY_MAX)
		return sb_fail(err, SB_EDATA, "the key field \"%s\" is neither a text of 1 to %d bytes nor a whole number", t->schema.key, ENTITY_KEY_MAX);
	memcpy(out, json_string_value(v), json_string_length(v) + 1);
	return 0;
}

/* Every field must have a column: what an application writes is not dropped without a word. */
static int known_fields(struct entity_type *t, const json_t *doc, struct sb_error *err)
{
	const char *name;
	json_t *v;

	json_object_foreach((json_t *)(uintptr_t)doc, name, v) {
		bool known = row_schema_hides(&t->schema, name, strlen(name));
		for (unsigned i = 0; !known && i < t->schema.n; i++)
			known = strcmp(t->schema.column[i].name, name) == 0;
		if (!known)
			return sb_fail(err, SB_EDATA, "field \"%.63s\" has no column: the type's columns are in the agent's settings (entities.columns)", name);
	}
	return 0;
}

static int judge(struct entity_type *t, const char *key, const char *document, size_t n, char own[ENTITY_KEY_MAX + 1], struct sb_error *err)
{
	json_auto_t *doc = NULL;

	int r = sb_json_load_object(&doc, document, n, "the document", err);
	if (r == 0)
		r = document_key(t, doc, own, err);
	if (r < 0)
		return r;
	if (!key && !*own)
		return sb_fail(err, SB_EDATA, "the key field \"%s\" is missing", t->schema.key);
	if (key && *own && strcmp(key, own) != 0)
		return sb_fail(err, SB_EDATA, "the key field \"%s\" says another key than the address", t->schema.key);
	if (key && (!*key || strlen(key) > ENTITY_KEY_MAX || !sb_utf8_ok(key, strlen(key))))
		return sb_fail(err, SB_EINVAL, "the key is not 1 to %d bytes of UTF-8", ENTITY_KEY_MAX);
	if (key)
		memcpy(own, key, strlen(key) + 1);
	return t->schema.document ? 0 : known_fields(t, doc, err);
}

/* --- storing --- */

/* 1 and what is there (document NULL: it was deleted), 0: never heard of. */
static int present(struct entity_type *t, struct sb_db *db, const char *key, struct sb_stmt **ret, struct sb_error *err)
{
	int r = sb_db_query(db, ret, err, "SELECT document FROM entity WHERE type = ? AND key = ?", "ss", t->set->type, key);

	return r < 0 ? r : sb_db_step(*ret, err);
}

static int count(struct entity_type *t, struct sb_db *db, int more, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *name = sb_asprintf("entities/%s", t->set->type);
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	if (!name)
		return sb_fail_nomem(err);
	int r = sb_db_run(db, NULL, err, "INSERT INTO meta(key, value) VALUES (?1, ?2) ON CONFLICT(key) DO UPDATE SET value = value + ?2", "si", name, (int64_t)more);
	if (r == 0)
		r = sb_db_query(db, &st, err, "SELECT value FROM meta WHERE key = ?", "s", name);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r > 0 && sb_db_int(st, 0) > t->set->max_rows)
		return sb_fail(err, SB_ETOOBIG, "type \"%s\" is full: %" PRId64 " entities (max_rows)", t->set->type, t->set->max_rows);
	return r < 0 ? r : 0;
}

static int store(struct entity_type *t, struct sb_db *db, const char *key, const char *document, bool is_new, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = is_new ? count(t, db, 1, err) : 0;
	if (r == 0)
		r = sb_db_query(db, &st, err, "SELECT acked_lsn FROM source_state WHERE source = ?", "s", t->source);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r <= 0)
		return r < 0 ? r : sb_fail(err, SB_ESTATE, "type \"%s\" is not ready yet", t->set->type);
	int64_t version = sb_db_int(st, 0);
	sb_db_done(SB_TAKE(st));
	r = sb_db_run(db, NULL, err, "UPDATE source_state SET acked_lsn = ?, updated_ms = ? WHERE source = ?", "iis", version + 1, sb_wall_ms(), t->source);
	return r < 0 ? r : sb_db_run(db, NULL, err, "INSERT INTO entity(type, key, document, version) VALUES (?, ?, ?, ?)"
		" ON CONFLICT(type, key) DO UPDATE SET document = excluded.document, version = excluded.version", "sssi", t->set->type, key, document, version);
}

int entity_put(struct entity_type *t, struct sb_db *db, const char *key, const char *document, size_t n, enum entity_result *ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	sb_cleanup(sb_freep) char *text = NULL;
	char own[ENTITY_KEY_MAX + 1];

	int r = judge(t, key, document, n, own, err);
	if (r == 0 && t->set->private_columns.count)
		r = row_json_strip(&t->json, &t->schema, document, n, &document, &n, err);
	if (r < 0)
		return r;
	text = strndup(document, n); /* the buffers are used again below */
	if (!text)
		return sb_fail_nomem(err);
	r = entity_cells(t, own, text, strlen(text), err);
	if (r == 0)
		r = present(t, db, own, &st, err);
	if (r < 0)
		return r;
	const char *old = r > 0 ? sb_db_text(st, 0) : NULL;
	*ret = !old ? ENTITY_CREATED : strcmp(old, text) == 0 ? ENTITY_UNCHANGED : ENTITY_CHANGED;
	sb_db_done(SB_TAKE(st));
	return *ret == ENTITY_UNCHANGED ? 0 : store(t, db, own, text, r == 0, err);
}

int entity_delete(struct entity_type *t, struct sb_db *db, const char *key, enum entity_result *ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = present(t, db, key, &st, err);
	if (r < 0)
		return r;
	*ret = r > 0 && sb_db_text(st, 0) ? ENTITY_DELETED : ENTITY_ABSENT;
	sb_db_done(SB_TAKE(st));
	return *ret == ENTITY_ABSENT ? 0 : store(t, db, key, NULL, false, err);
}
