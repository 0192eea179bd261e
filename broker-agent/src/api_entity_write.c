/* Entities that applications of the stage write and read through the socket. A write is answered when it is durable in the agent's state, from where it reaches the
 * broker sooner or later, once; a batch is stored as a whole or not at all. On the API's threads. */
#include <string.h>

#include "api.h"
#include "source_socket/entity_store.h"
#include "stagebridge/file.h"
#include "stagebridge/log.h"

#define BODY_MAX (64u * 1024 * 1024)   /* max_body of a type is at most this */
#define LIST_MAX 1000
#define RESULTS (ENTITY_ABSENT + 1)

static const char *const result_name[RESULTS] = { "unchanged", "created", "changed", "deleted", "absent" };

/* One request. */
struct call {
	struct agent *a;
	struct sb_db *db;
	struct entity_type type;
	char *file;              /* a large body, from its spool */
	const char *body;
	size_t n;
	unsigned count[RESULTS];
};

static const struct agent_socket_type *find_type(const struct agent *a, const char *name)
{
	const struct agent_socket_type *e = a->set.entities.item;

	for (size_t i = 0; i < a->set.entities.count; i++) {
		if (strcmp(e[i].type, name) == 0)
			return &e[i];
	}
	return NULL;
}

static int load_body(struct call *c, struct sb_http_request *req, struct sb_error *err)
{
	const char *spool = sb_http_body_file(req);
	int r = 0;

	if (spool) {
		r = sb_file_read(spool, c->type.set->max_body, &c->file, &c->n, err);
		c->body = c->file;
	} else {
		c->body = sb_http_body(req, &c->n);
	}
	if (r == 0 && c->n > c->type.set->max_body)
		r = SB_ETOOBIG;
	return r == SB_ETOOBIG ? sb_fail(err, SB_ETOOBIG, "the body is larger than %llu bytes (max_body): send it in parts", (unsigned long long)c->type.set->max_body) : r;
}

static int begin(struct call *c, struct agent *a, struct sb_http_request *req, struct sb_error *err)
{
	const char *name = sb_http_param(req, "type");
	const struct agent_socket_type *set = find_type(a, name);

	*c = (struct call){ .a = a };
	if (!set)
		return sb_fail(err, SB_ENOTFOUND, "no type of that name is written through the socket: see `entities` in the agent's settings");
	int r = entity_type_open(&c->type, set, err);
	if (r == 0)
		r = load_body(c, req, err);
	if (r == 0)
		r = agent_state_open(&c->db, a, err);
	return r < 0 ? r : entity_type_ready(&c->type, c->db, a->session, err);
}

static void end(struct call *c)
{
	entity_type_close(&c->type);
	free(c->file);
	sb_db_close(c->db); /* ends a transaction that did not commit */
}

/* What is stored is durable with the commit; only then anybody hears of it. */
static int commit(struct call *c, struct sb_error *err)
{
	int r = sb_db_commit(c->db, err);

	if (r == 0 && c->count[ENTITY_CREATED] + c->count[ENTITY_CHANGED] + c->count[ENTITY_DELETED] > 0)
		sb_lanes_wake(c->a->lanes, "source/" AGENT_SOCKET_SOURCE);
	return r;
}

/* --- one entity --- */

static int one(struct call *c, struct sb_http_request *req, bool put, enum entity_result *ret, struct sb_error *err)
{
	const char *key = sb_http_param(req, "key");

	int r = sb_db_begin(c->db, err);
	if (r == 0)
		r = put ? entity_put(&c->type, c->db, key, c->body, c->n, ret, err) : entity_delete(&c->type, c->db, key, ret, err);
	if (r < 0)
		return r;
	c->count[*ret]++;
	return commit(c, err);
}

static int answer_one(struct agent *a, struct sb_http_request *req, struct sb_http_reply *reply, bool put, struct sb_error *err)
{
	enum entity_result result = ENTITY_ABSENT;
	struct call c;

	int r = begin(&c, a, req, err);
	if (r == 0)
		r = one(&c, req, put, &result, err);
	if (r == 0) {
		json_t *body = json_pack("{s:s, s:s, s:s}", "type", sb_http_param(req, "type"), "key", sb_http_param(req, "key"), "state", result_name[result]);
		reply->status = result == ENTITY_CREATED ? 201 : 200;
		r = body ? sb_http_json(reply, body, err) : sb_fail_nomem(err);
	}
	end(&c);
	return r;
}

static int put_entity(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	return answer_one(user, req, reply, true, err);
}

static int delete_entity(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	return answer_one(user, req, reply, false, err);
}

/* --- batches --- */

static int key_of_line(const char *p, size_t n, char key[ENTITY_KEY_MAX + 1], struct sb_error *err)
{
	json_auto_t *v = json_loadb(p, n, JSON_DECODE_ANY, NULL);

	if (!json_is_string(v) || json_string_length(v) == 0 || json_string_length(v) > ENTITY_KEY_MAX)
		return sb_fail(err, SB_EPROTO, "is not a JSON string of 1 to %d bytes: a key", ENTITY_KEY_MAX);
	memcpy(key, json_string_value(v), json_string_length(v) + 1);
	return 0;
}

static int one_line(struct call *c, const char *p, size_t n, bool put, struct sb_error *err)
{
	enum entity_result result = ENTITY_ABSENT;
	char key[ENTITY_KEY_MAX + 1];
	int r = put ? 0 : key_of_line(p, n, key, err);

	if (r == 0)
		r = put ? entity_put(&c->type, c->db, NULL, p, n, &result, err) : entity_delete(&c->type, c->db, key, &result, err);
	c->count[result] += r == 0;
	return r;
}

static int lines(struct call *c, bool put, struct sb_error *err)
{
	const char *end_of = c->body + c->n;
	unsigned line = 1;
	int r = 0;

	for (const char *p = c->body; r == 0 && p < end_of; line++) {
		const char *nl = memchr(p, '\n', (size_t)(end_of - p)), *stop = nl ? nl : end_of;
		size_t n = (size_t)(stop - p);
		while (n > 0 && (p[n - 1] == '\r' || p[n - 1] == ' '))
			n--;
		if (n > 0)
			r = one_line(c, p, n, put, err);
		if (r < 0 && err)
			(void)sb_fail_prefix(err, "line %u", line); /* the code stays */
		p = stop + 1;
	}
	return r;
}

static int answer_batch(struct agent *a, struct sb_http_request *req, struct sb_http_reply *reply, bool put, struct sb_error *err)
{
	struct call c;

	int r = begin(&c, a, req, err);
	if (r == 0)
		r = sb_db_begin(c.db, err);
	if (r == 0)
		r = lines(&c, put, err);
	if (r == 0)
		r = commit(&c, err);
	if (r == 0) {
		json_t *body = json_pack("{s:s}", "type", sb_http_param(req, "type"));
		for (int i = 0; body && i < RESULTS; i++) {
			if (json_object_set_new(body, result_name[i], json_integer((json_int_t)c.count[i])) < 0)
				r = sb_fail_nomem(err);
		}
		r = r < 0 ? r : body ? sb_http_json(reply, body, err) : sb_fail_nomem(err);
	}
	end(&c);
	return r;
}

static int post_entities(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	return answer_batch(user, req, reply, true, err);
}

static int delete_entities(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	return answer_batch(user, req, reply, false, err);
}

/* --- reading back --- */

static json_t *entity_json(struct sb_stmt *st, uint64_t acked)
{
	json_t *document = json_loads(sb_db_text(st, 1), JSON_DECODE_ANY, NULL);

	return json_pack("{s:s, s:o, s:b}", "key", sb_db_text(st, 0), "document", document, "sent", (uint64_t)sb_db_int(st, 2) < acked);
}

static int acked_of(struct call *c, uint64_t *ret, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *key = sb_asprintf("position/%s", c->type.source);
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	struct sb_position at = { 0, 0 };

	if (!key)
		return sb_fail_nomem(err);
	int r = sb_db_query(c->db, &st, err, "SELECT value FROM meta WHERE key = ?", "s", key);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r > 0)
		r = sb_position_parse(sb_db_text(st, 0), &at, err);
	*ret = at.lsn;
	return r;
}

static int read_one(struct call *c, struct sb_http_request *req, json_t **ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	uint64_t acked = 0;

	int r = acked_of(c, &acked, err);
	if (r == 0)
		r = sb_db_query(c->db, &st, err, "SELECT key, document, version FROM entity WHERE type = ? AND key = ? AND document IS NOT NULL", "ss", c->type.set->type,
			sb_http_param(req, "key"));
	if (r == 0)
		r = sb_db_step(st, err);
	if (r <= 0)
		return r < 0 ? r : sb_fail(err, SB_ENOTFOUND, "type \"%s\" has no entity with that key", c->type.set->type);
	*ret = entity_json(st, acked);
	return *ret ? 0 : sb_fail_nomem(err);
}

static int get_entity(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	json_t *body = NULL;
	struct call c;

	int r = begin(&c, user, req, err);
	if (r == 0)
		r = read_one(&c, req, &body, err);
	if (r == 0)
		r = sb_http_json(reply, body, err);
	end(&c);
	return r;
}

static int read_list(struct call *c, struct sb_http_request *req, json_t *list, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	const char *after = sb_http_query(req, "after"), *limit = sb_http_query(req, "limit");
	uint64_t acked = 0, n = 100;

	int r = limit ? sb_parse_u64(limit, 1, LIST_MAX, "limit", &n, err) : 0;
	if (r == 0)
		r = acked_of(c, &acked, err);
	if (r == 0)
		r = sb_db_query(c->db, &st, err, "SELECT key, document, version FROM entity WHERE type = ? AND key > ? AND document IS NOT NULL ORDER BY key LIMIT ?", "ssi",
			c->type.set->type, after ? after : "", (int64_t)n);
	while (r == 0 && (r = sb_db_step(st, err)) > 0)
		r = json_array_append_new(list, entity_json(st, acked)) < 0 ? sb_fail_nomem(err) : 0;
	return r;
}

static int list_entities(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	json_auto_t *list = json_array();
	struct call c;

	if (!list)
		return sb_fail_nomem(err);
	int r = begin(&c, user, req, err);
	if (r == 0)
		r = read_list(&c, req, list, err);
	end(&c);
	if (r < 0)
		return r;
	const char *last = json_string_value(json_object_get(json_array_get(list, json_array_size(list) - 1), "key"));
	json_t *body = json_pack("{s:O, s:s}", "entities", list, "after", last ? last : "");
	return body ? sb_http_json(reply, body, err) : sb_fail_nomem(err);
}

const struct sb_http_route agent_api_entity_write_routes[] = {
	{ "PUT", "/v1/entities/{type}/{key}", 0, BODY_MAX, put_entity, "write one entity: the body is its JSON document" },
	{ "DELETE", "/v1/entities/{type}/{key}", 0, 0, delete_entity, "delete one entity" },
	{ "POST", "/v1/entities/{type}", 0, BODY_MAX, post_entities, "write many: a JSON document per line, all or none" },
	{ "DELETE", "/v1/entities/{type}", 0, BODY_MAX, delete_entities, "delete many: a key, as a JSON string, per line" },
	{ "GET", "/v1/entities/{type}", 0, 0, list_entities, "read back what was written; query: after, limit" },
	{ "GET", "/v1/entities/{type}/{key}", 0, 0, get_entity, "read back one entity" },
	{ NULL, NULL, 0, 0, NULL, NULL },
};
