/* What the intake has accepted of each stream of its stage, and the end of every transaction. The intake lane's thread.
 * Streams are loaded once; as long as the fence holds nobody else writes them, and a rollback restarts the lane, which loads them anew. */
#include <inttypes.h>
#include <string.h>

#include "intake.h"
#include "store/store.h"

static int stream_add(struct intake *in, const char *source, struct intake_stream **ret, struct sb_error *err)
{
	if (in->n_streams == INTAKE_STREAMS_MAX)
		return sb_fail(err, SB_EREFUSED, "stage has more than %d streams", INTAKE_STREAMS_MAX);
	if (in->n_streams % 64 == 0) {
		struct intake_stream **grown = realloc(in->stream, (in->n_streams + 64) * sizeof(struct intake_stream *));
		if (!grown)
			return sb_fail_nomem(err);
		in->stream = grown;
	}
	struct intake_stream *s = calloc(1, sizeof(*s));
	if (!s)
		return sb_fail_nomem(err);
	int r = sb_format(s->source, sizeof(s->source), err, "%s", source);
	if (r < 0) {
		free(s);
		return r;
	}
	in->stream[in->n_streams++] = s;
	*ret = s;
	return 0;
}

const struct intake_stream *intake_stream_find(const struct intake *in, const char *source)
{
	/* few streams, and the busy one is found first: a move to front keeps it so (intake_stream_get) */
	for (size_t i = 0; i < in->n_streams; i++) {
		if (strcmp(in->stream[i]->source, source) == 0)
			return in->stream[i]->known ? in->stream[i] : NULL;
	}
	return NULL;
}

int intake_stream_get(struct intake *in, const char *source, struct intake_stream **ret, struct sb_error *err)
{
	for (size_t i = 0; i < in->n_streams; i++) {
		struct intake_stream *s = in->stream[i];
		if (strcmp(s->source, source) != 0)
			continue;
		memmove(in->stream + 1, in->stream, i * sizeof(struct intake_stream *));
		in->stream[0] = s;
		*ret = s;
		return 0;
	}
	return stream_add(in, source, ret, err);
}

int intake_streams_load(struct intake *in, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { in->stage->name };

	int r = sb_pg_exec(in->pg,
		"SELECT source, session, sequence, prev, incarnation, lsn, seq FROM sb.stream WHERE stage = $1 ORDER BY updated_at DESC", 1,
		param, &res, err);
	for (int i = 0; r == 0 && i < sb_pg_rows(res); i++) {
		sb_cleanup(sb_freep) uint8_t *prev = NULL;
		struct intake_stream *s = NULL;
		size_t n = 0;
		r = stream_add(in, sb_pg_get(res, i, 0), &s, err);
		if (r == 0)
			r = sb_pg_get_bytes(res, i, 3, &prev, &n, err);
		if (r < 0)
			break;
		s->in.session = (uint64_t)sb_pg_get_i64(res, i, 1);
		s->in.sequence = (uint64_t)sb_pg_get_i64(res, i, 2);
		if (n == sizeof(s->in.prev))
			memcpy(s->in.prev, prev, n);
		s->known = s->in.session > 0;
		s->incarnation = (uint64_t)sb_pg_get_i64(res, i, 4);
		s->position = (struct sb_position){ (uint64_t)sb_pg_get_i64(res, i, 5), (uint32_t)sb_pg_get_i64(res, i, 6) };
	}
	return r;
}

void intake_streams_free(struct intake *in)
{
	for (size_t i = 0; i < in->n_streams; i++)
		free(in->stream[i]);
	free(in->stream);
	free(in->type);
	in->stream = NULL;
	in->type = NULL;
	in->n_streams = in->n_types = 0;
}

void intake_count_rows(struct intake *in, const char *type, uint64_t rows)
{
	struct intake_type *t = NULL;

	for (size_t i = 0; i < in->n_types && !t; i++) {
		if (strcmp(in->type[i].type, type) == 0)
			t = &in->type[i];
	}
	if (!t) {
		/* a count that is lost without memory is no reason to stop: figures for people only */
		struct intake_type *grown = in->n_types < INTAKE_TYPES_MAX ? realloc(in->type, (in->n_types + 1) * sizeof(*grown)) : NULL;
		if (!grown)
			return;
		in->type = grown;
		t = &in->type[in->n_types];
		*t = (struct intake_type){ .rows = 0 };
		if (sb_format(t->type, sizeof(t->type), NULL, "%s", type) < 0)
			return;
		in->n_types++;
	}
	t->rows += rows;
	t->dirty = true;
	sb_metric_add(in->m_rows, in->label, (double)rows);
}

static int flush_stream(struct intake *in, struct intake_stream *s, struct sb_error *err)
{
	char num[5][HUB_NUM];
	const char *param[] = { s->source, in->stage->name, hub_num(num[0], (int64_t)s->in.session),
		hub_num(num[1], (int64_t)s->in.sequence), (const char *)s->in.prev, hub_num(num[2], (int64_t)s->incarnation),
		hub_num(num[3], (int64_t)s->position.lsn), hub_num(num[4], s->position.seq) };
	const int len[] = { -1, -1, -1, -1, sizeof(s->in.prev), -1, -1, -1 };

	int r = sb_pg_exec_bin(in->pg,
		"INSERT INTO sb.stream (source, stage, session, sequence, prev, incarnation, lsn, seq) VALUES ($1, $2, $3, $4, $5, $6, $7, "
		"$8) "
		"ON CONFLICT (source) DO UPDATE SET session = excluded.session, sequence = excluded.sequence, prev = excluded.prev, "
		"incarnation = excluded.incarnation, lsn = excluded.lsn, seq = excluded.seq, updated_at = now()",
		SB_COUNT(param), param, len, NULL, err);
	if (r == 0)
		s->dirty = false;
	return r;
}

static int flush_type(struct intake *in, struct intake_type *t, struct sb_error *err)
{
	char rows[HUB_NUM];
	const char *param[] = { in->stage->name, t->type, hub_num(rows, (int64_t)t->rows) };

	int r = sb_pg_exec(in->pg,
		"INSERT INTO lifecycle.entity_type AS e (stage, type, owner, rows_applied, last_change_at) VALUES ($1, $2, $1, $3, now()) "
		"ON CONFLICT (stage, type) DO UPDATE SET rows_applied = e.rows_applied + excluded.rows_applied, last_change_at = now()",
		3, param, NULL, err);
	if (r == 0)
		*t = (struct intake_type){ 0 };
	return r;
}

static int flush_position(struct intake *in, int i, struct sb_error *err)
{
	char offset[HUB_NUM];
	const char *param[] = { in->topic[i], hub_num(offset, in->next[i]) };

	int r = sb_pg_exec(in->pg,
		"INSERT INTO sb.position (consumer, topic, next_offset) VALUES ('intake', $1, $2) "
		"ON CONFLICT (consumer, topic) DO UPDATE SET next_offset = excluded.next_offset, updated_at = now()",
		2, param, NULL, err);
	if (r == 0)
		in->moved[i] = false;
	return r;
}

static bool head_reached(const struct intake *in, const json_t *head)
{
	const char *source = json_string_value(json_object_get(head, "source"));
	uint64_t session = (uint64_t)json_integer_value(json_object_get(head, "session"));
	uint64_t sequence = (uint64_t)json_integer_value(json_object_get(head, "sequence"));
	const struct intake_stream *s = source ? intake_stream_find(in, source) : NULL;

	return s && (s->in.session > session || (s->in.session == session && s->in.sequence >= sequence));
}

/* The type whose changes or snapshot the stream carries; NULL: another kind of stream */
static const char *type_of_head(const json_t *head)
{
	const char *source = json_string_value(json_object_get(head, "source"));
	const char *stream = source ? strstr(source, "/agent/") : NULL;
	const char *slash = stream ? strchr(stream + 7, '/') : NULL;

	if (!slash || (strncmp(stream + 7, "entity/", 7) != 0 && strncmp(stream + 7, "snapshot/", 9) != 0))
		return NULL;
	return slash + 1;
}

static bool type_waits(const struct intake *in, const char *type)
{
	size_t i;
	const json_t *head;

	json_array_foreach(in->heads, i, head)
	{
		const char *other = type_of_head(head);
		if (other && strcmp(other, type) == 0)
			return true;
	}
	return false;
}

/* Takes the heads that are reached off the list; their types, as far as nothing else of them is waited for, go into the array literal */
static int heads_take(struct intake *in, struct sb_buf *types, struct sb_error *err)
{
	json_auto_t *reached = json_array();
	const json_t *head;
	size_t i = 0;

	while ((head = json_array_get(in->heads, i)) != NULL) {
		if (!head_reached(in, head)) {
			i++;
			continue;
		}
		if (json_array_append(reached, json_array_get(in->heads, i)) < 0)
			return sb_fail_nomem(err);
		json_array_remove(in->heads, i);
	}
	json_array_foreach(reached, i, head)
	{
		const char *type = type_of_head(head);
		/* names of types need no quotes; what is none matches no row */
		if (type && sb_type_ok(type) && !type_waits(in, type))
			sb_buf_addf(types, "%c\"%s\"", types->len ? ',' : '{', type);
	}
	if (types->len)
		sb_buf_addc(types, '}');
	return sb_buf_check(types, "types", err);
}

static int flush_heads(struct intake *in, struct sb_error *err)
{
	sb_cleanup(sb_buf_release) struct sb_buf types = { 0 };
	char ms[HUB_NUM];
	int r = 0;

	if (!in->heads)
		return 0;
	sb_buf_init(&types, INTAKE_TYPES_MAX * (SB_TYPE_MAX + 4));
	r = heads_take(in, &types, err);
	const char *type_param[] = { in->stage->name, types.data, hub_num(ms, in->as_of_ms) };
	if (r == 0 && types.len)
		r = sb_pg_exec(in->pg,
			"UPDATE lifecycle.entity_type SET as_of_at = to_timestamp($3::bigint / 1000.0) WHERE stage = $1 AND type = ANY ($2::text[])", 3,
			type_param, NULL, err);
	if (r < 0 || json_array_size(in->heads) > 0)
		return r;
	const char *param[] = { in->stage->name, in->as_of, ms };
	r = sb_pg_exec(in->pg,
		"UPDATE lifecycle.stage SET as_of = $2, as_of_at = to_timestamp($3::bigint / 1000.0), heads_reached = true WHERE name = $1",
		3, param, NULL, err);
	if (r == 0) {
		json_decref(in->heads);
		in->heads = NULL;
	}
	return r;
}

int intake_flush(struct intake *in, struct sb_error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < in->n_streams; i++) {
		if (in->stream[i]->dirty)
			r = flush_stream(in, in->stream[i], err);
	}
	for (size_t i = 0; r == 0 && i < in->n_types; i++) {
		if (in->type[i].dirty)
			r = flush_type(in, &in->type[i], err);
	}
	in->n_types = r == 0 ? 0 : in->n_types;
	for (int i = 0; r == 0 && i < INTAKE_TOPICS; i++) {
		if (in->moved[i])
			r = flush_position(in, i, err);
	}
	if (r == 0)
		r = flush_heads(in, err);
	return r;
}
