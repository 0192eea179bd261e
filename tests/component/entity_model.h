/* A receiver of entity records for tests: verifies, judges order and continuity, and applies them to a model of the tables as hub and replica do. Header
 * only. What must never be seen in a record: the words HUSH, hushed, secret. */
#ifndef SB_TEST_ENTITY_MODEL_H
#define SB_TEST_ENTITY_MODEL_H

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "agent_fixture.h"
#include "schema.h"
#include "stagebridge/described.h"

#define MODEL_STREAMS 32

/* What was received. */
struct model {
	json_t *down;                 /* the same as type, of what goes to earlier stages */
	json_t *type;                 /* type -> { key -> [incarnation, lsn, seq, alive, cells] } */
	json_t *columns;              /* type -> [names] of the last shape */
	json_t *described;            /* type -> the last description */
	json_t *types;                /* type -> [types] of the last shape */
	struct { char source[SB_SOURCE_MAX]; struct sb_stream_in in; bool known; struct sb_position to; uint64_t incarnation; } stream[MODEL_STREAMS];
	unsigned n_streams, records, sessions, begun, ended, descriptions, committed;
	uint64_t changes[128];        /* by op */
};

static inline json_t *sub(json_t *object, const char *key)
{
	json_t *v = json_object_get(object, key);

	if (!v) {
		v = json_object();
		json_object_set_new(object, key, v);
	}
	return v;
}

static inline json_t *cell_json(const struct sb_cell *c)
{
	return c->kind == SB_CELL_NULL ? json_null() : c->kind == SB_CELL_UNCHANGED ? json_false() : json_stringn(c->n ? c->p : "", c->n);
}

static inline void key_text(const struct sb_shape *shape, const struct sb_cell *cell, bool packed, char out[256])
{
	size_t n = 0;
	unsigned k = 0;

	out[0] = '\0';
	for (unsigned i = 0; i < shape->n_columns; i++) {
		if (shape->column[i].key) {
			const struct sb_cell *c = &cell[packed ? k++ : i];
			n += (size_t)snprintf(out + n, 256 - n, "%.*s|", (int)c->n, c->n ? c->p : "");
		}
	}
}

static inline int compare_version(const json_t *row, uint64_t inc, uint64_t lsn, uint32_t seq)
{
	const uint64_t a[3] = { (uint64_t)json_integer_value(json_array_get(row, 0)), (uint64_t)json_integer_value(json_array_get(row, 1)),
		(uint64_t)json_integer_value(json_array_get(row, 2)) };
	const uint64_t b[3] = { inc, lsn, seq };

	for (int i = 0; i < 3; i++) {
		if (a[i] != b[i])
			return a[i] < b[i] ? -1 : 1;
	}
	return 0;
}

static inline void put_row(json_t *rows, const char *key, const struct sb_shape *shape, const struct sb_change *c, bool alive, const json_t *base)
{
	json_t *cells = json_array();

	for (unsigned i = 0; i < c->n_cells; i++) {
		json_t *cell = cell_json(&c->cell[i]);
		if (json_is_false(cell)) {
			json_t *old = json_array_get(json_array_get(base, 4), i);
			cell = old ? json_incref(old) : json_integer(0); /* missing, and unlike any value, until a snapshot row brings it */
		}
		json_array_append_new(cells, cell);
	}
	json_object_set_new(rows, key, json_pack("[I, I, i, b, o]", (json_int_t)shape->incarnation, (json_int_t)c->lsn, (int)c->seq, alive, cells));
}

/* An older snapshot row brings what a newer change left out. */
static inline void fill_missing(json_t *row, const struct sb_change *c)
{
	json_t *cells = json_array_get(row, 4);

	for (unsigned i = 0; c->op == 's' && i < c->n_cells; i++) {
		if (json_is_integer(json_array_get(cells, i)))
			json_array_set_new(cells, i, cell_json(&c->cell[i]));
	}
}

static inline void apply(struct model *m, const struct sb_shape *shape, const struct sb_change *c)
{
	json_t *rows = sub(m->type, shape->type), *row;
	char key[256], old[256];
	const char *k;
	void *tmp;

	m->changes[(unsigned char)c->op]++;
	if (c->op == 't') {
		json_object_foreach_safe(rows, tmp, k, row) {
			if (compare_version(row, shape->incarnation, c->lsn, c->seq) < 0)
				json_object_del(rows, k);
		}
		return;
	}
	key_text(shape, c->cell, false, key);
	row = json_object_get(rows, key);
	if (row && compare_version(row, shape->incarnation, c->lsn, c->seq) >= 0) {
		fill_missing(row, c);
		return;
	}
	if (c->op == 'k') {
		key_text(shape, c->old_key, true, old);
		json_t *moved = json_incref(json_object_get(rows, old));
		json_object_del(rows, old);
		put_row(rows, key, shape, c, true, moved);
		json_decref(moved);
		return;
	}
	put_row(rows, key, shape, c, c->op != 'd', row);
}

static inline void take_batch(struct model *m, const struct sb_inrecord *ir, const struct sb_meta *meta, unsigned at)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_batch_reader *b;
	struct sb_position from, to;
	struct sb_change c;
	int r;

	fix_ok(sb_batch_open(&b, ir->rec.value, ir->rec.value_len, &err), err);
	const struct sb_shape *shape = sb_batch_shape(b);
	json_t *names = json_array();
	for (unsigned i = 0; i < shape->n_columns; i++)
		json_array_append_new(names, json_string(shape->column[i].name));
	json_object_set_new(m->columns, shape->type, names);
	json_t *types = json_array();
	for (unsigned i = 0; i < shape->n_columns; i++)
		json_array_append_new(types, json_string(shape->column[i].type));
	json_object_set_new(m->types, shape->type, types);
	if (meta->event == SB_EV_ENTITY_CHANGED) {
		fix_ok(sb_position_parse(sb_record_get(&ir->rec, "sbfrom"), &from, &err), err);
		fix_ok(sb_position_parse(sb_record_get(&ir->rec, "sbto"), &to, &err), err);
		m->committed += sb_record_get(&ir->rec, "sbcommit") != NULL;
		ck_assert_int_lt(sb_position_cmp(from, to), 0);
		if (m->stream[at].incarnation == shape->incarnation)
			ck_assert_msg(sb_position_cmp(from, m->stream[at].to) <= 0, "a gap: %s begins at %" PRIX64 ".%u, had %" PRIX64 ".%u", meta->source, from.lsn,
				from.seq, m->stream[at].to.lsn, m->stream[at].to.seq);
		m->stream[at].incarnation = shape->incarnation;
		if (sb_position_cmp(to, m->stream[at].to) > 0)
			m->stream[at].to = to;
	}
	unsigned n = 0;
	while ((r = sb_batch_next(b, &c, &err)) > 0) {
		n++;
		if (meta->event == SB_EV_ENTITY_CHANGED) {
			ck_assert_int_ge(sb_position_cmp((struct sb_position){ c.lsn, c.seq }, from), 0);
			ck_assert_int_lt(sb_position_cmp((struct sb_position){ c.lsn, c.seq }, to), 0);
		}
		apply(m, shape, &c);
	}
	fix_ok(r, err);
	ck_assert_str_eq(sb_record_get(&ir->rec, "datacontenttype"), SB_BATCH_CONTENT_TYPE);
	const char *count = sb_record_get(&ir->rec, "sbcount"); /* absent: the shape of an empty table */
	ck_assert_uint_eq(n, count ? strtoul(count, NULL, 10) : 0);
	sb_batch_close(b);
}

/* Rows older than the snapshot are gone. */
static inline void sweep(struct model *m, const json_t *value)
{
	struct sb_error err = SB_ERROR_INIT;
	json_t *rows = sub(m->type, json_string_value(json_object_get(value, "type"))), *row;
	const char *k;
	void *tmp;
	uint64_t lsn;

	fix_ok(sb_lsn_parse(json_string_value(json_object_get(value, "lsn")), &lsn, &err), err);
	json_object_foreach_safe(rows, tmp, k, row) {
		if (compare_version(row, (uint64_t)json_integer_value(json_object_get(value, "incarnation")), lsn, 0) < 0)
			json_object_del(rows, k);
	}
}

static inline bool record_holds(const struct sb_inrecord *ir, const char *needle)
{
	return memmem(ir->rec.value, ir->rec.value_len, needle, strlen(needle)) != NULL;
}

static inline void take_verified(struct model *m, const struct sb_inrecord *ir, const struct sb_meta *meta, unsigned at);

static inline void model_take(struct model *m, const struct sb_keyring *keyring, const struct sb_inrecord *ir)
{
	struct sb_entity_stream_name name;
	struct sb_error err = SB_ERROR_INIT;
	struct sb_meta meta;
	unsigned i = 0;

	fix_ok(sb_record_verify(&ir->rec, keyring, DEVKEYS_TENANT, "hub", sb_wall_ms(), &meta, &err), err);
	while (i < m->n_streams && strcmp(m->stream[i].source, meta.source) != 0)
		i++;
	ck_assert_uint_lt(i, MODEL_STREAMS);
	if (i == m->n_streams)
		(void)snprintf(m->stream[m->n_streams++].source, SB_SOURCE_MAX, "%s", meta.source);
	enum sb_verdict v = sb_stream_judge(m->stream[i].known ? &m->stream[i].in : NULL, &meta);
	ck_assert_msg(v == SB_APPLY || v == SB_NEW_SESSION, "%s: %s", meta.source, sb_verdict_name(v));
	m->sessions += v == SB_NEW_SESSION;
	m->stream[i].known = true;
	sb_stream_advance(&m->stream[i].in, &meta);
	m->records++;
	ck_assert(!record_holds(ir, "HUSH") && !record_holds(ir, "secret") && !record_holds(ir, "hushed"));
	ck_assert(sb_entity_stream_parse(meta.stream, &name));
	if (!name.down) {
		take_verified(m, ir, &meta, i);
		return;
	}
	/* tables of their own, and no part in what the tests wait for */
	struct model whole = *m;
	ck_assert(!record_holds(ir, "INNER"));
	m->type = m->down;
	take_verified(m, ir, &meta, i);
	m->type = whole.type;
	m->begun = whole.begun;
	m->ended = whole.ended;
	memcpy(m->changes, whole.changes, sizeof(m->changes));
}

static inline void take_verified(struct model *m, const struct sb_inrecord *ir, const struct sb_meta *meta, unsigned at)
{
	struct sb_error err = SB_ERROR_INIT;

	if (meta->event == SB_EV_ENTITY_CHANGED || meta->event == SB_EV_SNAPSHOT_ROWS) {
		take_batch(m, ir, meta, at);
		return;
	}
	json_t *value = json_loadb(ir->rec.value, ir->rec.value_len, 0, NULL);
	ck_assert_ptr_nonnull(value);
	m->begun += meta->event == SB_EV_SNAPSHOT_BEGUN;
	m->ended += meta->event == SB_EV_SNAPSHOT_ENDED;
	if (meta->event == SB_EV_ENTITY_DESCRIBED) {
		fix_ok(sb_described_check(value, &err), err);
		ck_schema("entity.described", value);
		json_object_set(m->described, json_string_value(json_object_get(value, "type")), value);
		m->descriptions++;
	}
	if (meta->event == SB_EV_SNAPSHOT_ENDED && json_is_true(json_object_get(value, "complete")))
		sweep(m, value);
	json_decref(value);
}

/* Reads what is there; true when something was. */
static inline bool model_pull(struct model *m, const struct sb_keyring *keyring, struct sb_consumer *consumer)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_inrecord ir;
	bool any = false;
	int r;

	while ((r = sb_consumer_poll(consumer, 5, &ir, &err)) > 0) {
		model_take(m, keyring, &ir);
		sb_inrecord_release(&ir);
		any = true;
	}
	ck_assert_msg(r == 0 || r == SB_EKAFKA, "%s", err.msg);
	return any;
}

/** Returns new: key -> [cells] of the rows that are not deleted. */
static inline json_t *model_rows(struct model *m, const char *type)
{
	json_t *list = json_object(), *row;
	const char *key;

	json_object_foreach(sub(m->type, type), key, row) {
		if (json_is_true(json_array_get(row, 3)))
			json_object_set(list, key, json_array_get(row, 4));
	}
	return list;
}

static inline void model_init(struct model *m)
{
	memset(m, 0, sizeof(*m));
	m->type = json_object();
	m->down = json_object();
	m->columns = json_object();
	m->described = json_object();
	m->types = json_object();
}

static inline void model_release(struct model *m)
{
	json_decref(m->type);
	json_decref(m->down);
	json_decref(m->columns);
	json_decref(m->described);
	json_decref(m->types);
}

#endif
