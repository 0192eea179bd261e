/* Orders and answers for the stages: numbered, chained and signed when they are decided, inside the deciding transaction, so that what
 * the courier sends later (and again after a kill) is the same bytes. Any lane.
 *
 * The row of sb.down_stream is locked until the transaction ends: ids of a stage's outbox rows follow their sequence, and commit in order.
 */
#include <string.h>

#include "stagebridge/clock.h"
#include "store.h"

#define ATTRS_MAX (SB_ATTRS_BYTES_MAX + 64)

int hub_attrs_pack(const struct sb_record *rec, struct sb_buf *out, struct sb_error *err)
{
	const char *name = NULL;
	const char *value;

	for (unsigned i = 0; (value = sb_record_attr(rec, i, &name)) != NULL; i++) {
		sb_buf_add(out, name, strlen(name) + 1);
		sb_buf_add(out, value, strlen(value) + 1);
	}
	return sb_buf_check(out, "attributes", err);
}

int hub_attrs_unpack(struct sb_record *rec, const uint8_t *p, size_t n, struct sb_error *err)
{
	const char *s = (const char *)p;
	const char *end = s + n;

	while (s < end) {
		const char *name = s;
		const char *name_end = memchr(s, 0, (size_t)(end - s));
		const char *value = name_end ? name_end + 1 : end;
		const char *value_end = value < end ? memchr(value, 0, (size_t)(end - value)) : NULL;
		if (!value_end)
			return sb_fail(err, SB_EPROTO, "stored attributes are torn");
		int r = sb_record_set(rec, name, value, err);
		if (r < 0)
			return r;
		s = value_end + 1;
	}
	return 0;
}

/* The stream as it stands, its row locked */
static int stream_load(struct hub_world *w, struct sb_pg *pg, const char *stage, struct sb_stream_out *so, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	sb_cleanup(sb_freep) uint8_t *prev = NULL;
	char name[sizeof("event/") + SB_NAME_MAX], born[HUB_NUM];
	size_t n = 0;
	/* a lost database comes back later, hence with a larger session: the agents see that the stream is new */
	const char *param[] = { stage, hub_num(born, sb_wall_ms() / 1000) };

	int r = sb_format(name, sizeof(name), err, "event/%s", stage);
	if (r == 0)
		r = sb_pg_exec(pg,
			"INSERT INTO sb.down_stream (stage, session, sequence, prev) VALUES ($1, $2, 0, '') ON CONFLICT DO NOTHING", 2,
			param, NULL, err);
	if (r == 0)
		r = sb_pg_exec(pg, "SELECT session, sequence, prev FROM sb.down_stream WHERE stage = $1 FOR UPDATE", 1, param, &res, err);
	if (r == 0)
		r = sb_pg_get_bytes(res, 0, 2, &prev, &n, err);
	if (r < 0)
		return r;
	sb_stream_out_init(so, w->set->name, "hub", name, (uint64_t)sb_pg_get_i64(res, 0, 0), true);
	so->sequence = (uint64_t)sb_pg_get_i64(res, 0, 1);
	if (n == sizeof(so->prev))
		memcpy(so->prev, prev, n);
	return 0;
}

static int stream_store(struct sb_pg *pg, const char *stage, const struct sb_stream_out *so, struct sb_error *err)
{
	char sequence[HUB_NUM];
	const char *param[] = { stage, hub_num(sequence, (int64_t)so->sequence), (const char *)so->prev };
	const int len[] = { -1, -1, sizeof(so->prev) };

	return sb_pg_exec_bin(pg, "UPDATE sb.down_stream SET sequence = $2, prev = $3 WHERE stage = $1", 3, param, len, NULL, err);
}

static int row_put(struct sb_pg *pg, const char *stage, const struct sb_record *rec, struct sb_error *err)
{
	struct sb_buf attrs;

	sb_buf_init(&attrs, ATTRS_MAX);
	int r = hub_attrs_pack(rec, &attrs, err);
	if (r == 0) {
		const char *param[] = { stage, rec->topic, attrs.data, rec->value };
		const int len[] = { -1, -1, (int)attrs.len, (int)rec->value_len };
		r = sb_pg_exec_bin(
			pg, "INSERT INTO sb.outbox (stage, topic, attrs, value) VALUES ($1, $2, $3, $4)", 4, param, len, NULL, err);
	}
	sb_buf_release(&attrs);
	return r;
}

int hub_outbox_put(struct hub_world *w, struct sb_pg *pg, const char *stage, enum sb_event event, const char *key, const json_t *value,
	struct sb_error *err)
{
	struct sb_stream_out so;
	struct sb_record rec;
	char topic[SB_TOPIC_MAX];
	sb_cleanup(sb_freep) char *text = json_dumps(value, JSON_COMPACT);

	if (!text)
		return sb_fail_nomem(err);
	if (!hub_stage_find(w->set, stage))
		return sb_fail(err, SB_EINVAL, "\"%s\" is not a stage of tenant %s", stage, w->set->name);
	int r = stream_load(w, pg, stage, &so, err);
	if (r < 0)
		return r;
	sb_topic_name(topic, w->set->name, stage, SB_DOWN, SB_EVENT);
	sb_record_init(&rec, topic);
	rec.value = text;
	rec.value_len = strlen(text);
	r = sb_stream_stamp(&so, &rec, event, key, NULL, w->identity, err);
	if (r == 0)
		r = stream_store(pg, stage, &so, err);
	if (r == 0)
		r = row_put(pg, stage, &rec, err);
	return r;
}
