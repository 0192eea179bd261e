/* The outbox: events as final signed bytes, numbered and chained on the agent's persistent stream "event" inside the transaction that caused them.
 * The session of that stream is the time at which state.db was made: a lost state comes back with a later one, hence a newer session. Any lane that
 * holds a write transaction may put; SQLite lets one at a time do so, which is what keeps sequence and chain in order. */
#include "outbox.h"

#include <string.h>

#include "stagebridge/clock.h"

static int meta_int(struct sb_db *db, const char *key, int64_t *ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(db, &st, err, "SELECT value FROM meta WHERE key = ?", "s", key);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	*ret = r ? sb_db_int(st, 0) : 0;
	return 0;
}

int agent_outbox_stream(struct agent *a, struct sb_db *db, struct sb_stream_out *ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	int64_t created = 0, sequence = 0;
	size_t n = 0;

	int r = meta_int(db, "created", &created, err);
	if (r == 0)
		r = meta_int(db, "event_sequence", &sequence, err);
	if (r == 0 && created <= 0)
		r = sb_fail(err, SB_EDB, "state.db does not say when it was made");
	if (r < 0)
		return r;
	sb_stream_out_init(ret, a->set.tenant, a->set.stage, "event", (uint64_t)created, true);
	ret->sequence = (uint64_t)sequence;
	if (sequence == 0)
		return 0;
	r = sb_db_query(db, &st, err, "SELECT value FROM meta WHERE key = 'event_prev'", "");
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	const void *prev = r ? sb_db_blob(st, 0, &n) : NULL;
	if (!prev || n != sizeof(ret->prev))
		return sb_fail(err, SB_EDB, "state.db has lost the chain of the event stream");
	memcpy(ret->prev, prev, n);
	return 0;
}

int agent_attrs_pack(const struct sb_record *rec, char out[AGENT_ATTRS_MAX], size_t *ret_len, struct sb_error *err)
{
	size_t at = 0;

	for (unsigned i = 0; i < rec->n_attr; i++) {
		const char *name = NULL;
		const char *value = sb_record_attr(rec, i, &name);
		size_t nn = strlen(name) + 1;
		size_t vn = strlen(value) + 1;
		if (at + nn + vn > AGENT_ATTRS_MAX)
			return sb_fail(err, SB_ETOOBIG, "attributes are larger than %d bytes", AGENT_ATTRS_MAX);
		memcpy(out + at, name, nn);
		memcpy(out + at + nn, value, vn);
		at += nn + vn;
	}
	*ret_len = at;
	return 0;
}

int agent_attrs_unpack(struct sb_record *rec, const char *p, size_t n, struct sb_error *err)
{
	int r = 0;

	for (size_t at = 0; r == 0 && at < n;) {
		const char *name = p + at;
		const char *name_end = memchr(name, '\0', n - at);
		const char *value = name_end ? name_end + 1 : NULL;
		const char *value_end = value && value < p + n ? memchr(value, '\0', (size_t)(p + n - value)) : NULL;
		if (!value_end)
			return sb_fail(err, SB_EDB, "stored attributes are cut short");
		r = sb_record_set(rec, name, value, err);
		at = (size_t)(value_end + 1 - p);
	}
	return r;
}

static int store_stream(struct sb_db *db, const struct sb_stream_out *so, struct sb_error *err)
{
	int r = sb_db_run(db, NULL, err, "INSERT OR REPLACE INTO meta(key, value) VALUES ('event_sequence', ?)", "i", (int64_t)so->sequence);
	if (r == 0)
		r = sb_db_run(db, NULL, err, "INSERT OR REPLACE INTO meta(key, value) VALUES ('event_prev', ?)", "b", (const void *)so->prev, sizeof(so->prev));
	return r;
}

int agent_outbox_put(struct agent *a, struct sb_db *db, enum sb_event event, const char *key, const json_t *value, struct sb_error *err)
{
	const struct sb_event_info *info = sb_event_info(event);
	sb_cleanup(sb_freep) char *text = json_dumps(value, JSON_COMPACT | JSON_SORT_KEYS);
	struct sb_stream_out so;
	struct sb_record rec;
	char attrs[AGENT_ATTRS_MAX];
	size_t n = 0;

	if (!text)
		return sb_fail_nomem(err);
	/* one topic only: with two, the broker's acknowledgements would not come in the order of the outbox */
	if (info->direction != SB_UP || info->class != SB_EVENT)
		return sb_fail(err, SB_EINVAL, "%s does not go through the outbox", info->name);
	int r = agent_outbox_stream(a, db, &so, err);
	if (r < 0)
		return r;
	sb_record_init(&rec, a->topic_up[SB_EVENT]);
	rec.value = text;
	rec.value_len = strlen(text);
	r = sb_stream_stamp(&so, &rec, event, key, NULL, a->identity, err);
	if (r == 0)
		r = agent_attrs_pack(&rec, attrs, &n, err);
	if (r == 0)
		r = sb_db_run(db, NULL, err, "INSERT INTO outbox(topic, attrs, value, created_ms) VALUES (?, ?, ?, ?)", "sbbi", rec.topic, (const void *)attrs, n,
			rec.value, rec.value_len, sb_wall_ms());
	if (r == 0)
		r = store_stream(db, &so, err);
	return r < 0 ? sb_fail_prefix(err, "%s", info->name) : 0;
}

void agent_wake_courier(struct agent *a)
{
	if (a->lanes)
		sb_lanes_wake(a->lanes, "courier");
}
