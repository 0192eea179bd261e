/* Heartbeats: version, heads of all streams and their digest, depth of the outbox, state of the sources, what is deployed. They make silence visible:
 * a stage that misses three is stale, a record that the broker withholds shows as a head that nobody has seen. Runs on the courier's lane. */
#include "heartbeat.h"

#include <string.h>
#include <sys/statvfs.h>

#include "outbox.h"
#include "stagebridge/clock.h"

#define LANES_GRACE_MS 30000

static json_t *head_json(const char *source, uint64_t session, uint64_t sequence)
{
	return json_pack("{s:s, s:I, s:I}", "source", source, "session", (json_int_t)session, "sequence", (json_int_t)sequence);
}

/* The event stream's head is what the broker has acknowledged: the outbox holds exactly the rest. */
static int add_event_head(struct agent *a, struct sb_db *db, json_t *heads, int64_t depth, struct sb_error *err)
{
	struct sb_stream_out so;

	int r = agent_outbox_stream(a, db, &so, err);
	if (r < 0)
		return r;
	if (so.sequence <= (uint64_t)depth)
		return 0;
	return json_array_append_new(heads, head_json(so.source, so.session, so.sequence - (uint64_t)depth)) == 0 ? 0 : sb_fail_nomem(err);
}

static int heads_json(struct agent *a, struct sb_db *db, int64_t depth, json_t **ret, struct sb_error *err)
{
	json_auto_t *heads = json_array();
	sb_cleanup(sb_freep) struct agent_head *head = NULL;
	unsigned n;

	if (!heads)
		return sb_fail_nomem(err);
	pthread_mutex_lock(&a->board.lock);
	n = a->board.n_heads;
	head = calloc(n + 1, sizeof(*head));
	if (head)
		memcpy(head, a->board.head, n * sizeof(*head));
	pthread_mutex_unlock(&a->board.lock);
	if (!head)
		return sb_fail_nomem(err);
	for (unsigned i = 0; i < n; i++) {
		if (json_array_append_new(heads, head_json(head[i].source, head[i].session, head[i].sequence)) < 0)
			return sb_fail_nomem(err);
	}
	int r = add_event_head(a, db, heads, depth, err);
	if (r == 0)
		*ret = SB_TAKE(heads);
	return r;
}

static int heads_digest(const json_t *heads, char hex[65], struct sb_error *err)
{
	size_t n = json_array_size(heads);
	sb_cleanup(sb_freep) struct sb_head *head = calloc(n + 1, sizeof(*head));

	if (!head)
		return sb_fail_nomem(err);
	for (size_t i = 0; i < n; i++) {
		const json_t *h = json_array_get(heads, i);
		head[i] = (struct sb_head){ json_string_value(json_object_get(h, "source")), (uint64_t)json_integer_value(json_object_get(h, "session")),
			(uint64_t)json_integer_value(json_object_get(h, "sequence")) };
	}
	sb_heads_digest(head, n, hex);
	return 0;
}

static json_t *list_json(const char *list, const char separator[2])
{
	json_t *items = json_array();

	for (const char *p = list; items && *p;) {
		size_t n = strcspn(p, separator);
		if (n > 0 && json_array_append_new(items, json_stringn(p, n)) < 0) {
			json_decref(items);
			return NULL;
		}
		p += n + (p[n] == *separator);
	}
	return items;
}

/* Of the snapshot that runs; "" and 0 when none does. */
static json_t *snapshot_json(const struct agent_snapshot_state *p)
{
	bool runs = p->type[0] != '\0';

	return json_pack("{s:s, s:b, s:I, s:I, s:i, s:i, s:i, s:I}", "type", p->type, "partial", (int)p->partial, "rows", (json_int_t)p->rows, "estimate",
		(json_int_t)p->estimate, "ranges", (int)p->ranges, "ranges_done", (int)p->ranges_done, "percent", (int)p->percent, "eta_s",
		(json_int_t)(runs ? p->eta_s : -1));
}

static json_t *source_json(const struct agent_source_state *s, bool for_people)
{
	char position[SB_POSITION_LEN + 1] = "";

	if (s->acked_lsn)
		sb_position_format(position, (struct sb_position){ .lsn = s->acked_lsn });
	json_t *j = json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:s, s:o, s:o, s:o, s:o}", "name", s->name, "kind", s->kind, "state", s->state, "lag_bytes",
		(json_int_t)s->lag_bytes, "lag_ms", (json_int_t)s->lag_ms, "position", position, "slot_state", s->slot_state, "types", list_json(s->types, ","),
		"down", list_json(s->down, ","), "withheld", list_json(s->withheld, "\n"), "snapshot", snapshot_json(&s->snapshot));
	if (j && for_people &&
	    (json_object_set_new(j, "rows", json_integer((json_int_t)s->rows)) < 0 || json_object_set_new(j, "progress", json_string(s->progress)) < 0)) {
		json_decref(j);
		return NULL;
	}
	return j;
}

json_t *agent_board_sources(struct agent *a, bool for_people)
{
	json_t *sources = json_array();

	if (!sources)
		return NULL;
	pthread_mutex_lock(&a->board.lock);
	for (unsigned i = 0; sources && i < a->board.n_sources; i++) {
		if (json_array_append_new(sources, source_json(&a->board.source[i], for_people)) < 0) {
			json_decref(sources);
			sources = NULL;
		}
	}
	pthread_mutex_unlock(&a->board.lock);
	return sources;
}

/* Positions of different servers cannot be compared: with more than one source there is no single "as of". */
static void as_of(struct agent *a, char out[SB_POSITION_LEN + 1])
{
	uint64_t lsn = 0;
	unsigned with_position = 0;

	pthread_mutex_lock(&a->board.lock);
	for (unsigned i = 0; i < a->board.n_sources; i++) {
		if (strcmp(a->board.source[i].kind, "postgres") == 0) {
			lsn = a->board.source[i].acked_lsn;
			with_position++;
		}
	}
	pthread_mutex_unlock(&a->board.lock);
	out[0] = '\0';
	if (with_position == 1 && lsn)
		sb_position_format(out, (struct sb_position){ .lsn = lsn });
}

static int occupancy_json(struct sb_db *db, json_t **ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	json_auto_t *list = json_array();
	char since[SB_TIME_LEN + 1];

	if (!list)
		return sb_fail_nomem(err);
	int r = sb_db_query(db, &st, err, "SELECT origin, artifact, commit_oid, state, since_ms FROM deployment ORDER BY origin", "");
	while (r == 0 && (r = sb_db_step(st, err)) > 0) {
		sb_time_format(since, sb_db_int(st, 4));
		r = json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s, s:s}", "origin", sb_db_text(st, 0), "artifact", sb_db_text(st, 1),
			"commit", sb_db_text(st, 2), "state", sb_db_text(st, 3), "since", since));
		if (r < 0)
			r = sb_fail_nomem(err);
	}
	if (r == 0)
		*ret = SB_TAKE(list);
	return r;
}

static int outbox_depth(struct sb_db *db, int64_t *ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(db, &st, err, "SELECT count(*) FROM outbox", "");
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	*ret = sb_db_int(st, 0);
	return 0;
}

static json_int_t disk_free(const struct agent *a)
{
	struct statvfs v;

	if (statvfs(a->set.state_dir, &v) < 0)
		return 0;
	return (json_int_t)v.f_bavail * (json_int_t)v.f_frsize;
}

/* Inside one read transaction: heads and depth must belong together. */
static int value_of_now(struct agent *a, struct sb_db *db, json_t **ret, struct sb_error *err)
{
	json_auto_t *heads = NULL;
	json_auto_t *occupancy = NULL;
	int64_t depth = 0;
	char digest[65];
	char position[SB_POSITION_LEN + 1];

	int r = outbox_depth(db, &depth, err);
	if (r == 0)
		r = heads_json(a, db, depth, &heads, err);
	if (r == 0)
		r = heads_digest(heads, digest, err);
	if (r == 0)
		r = occupancy_json(db, &occupancy, err);
	if (r < 0)
		return r;
	as_of(a, position);
	*ret = json_pack("{s:s, s:I, s:I, s:I, s:O, s:s, s:o, s:s, s:O, s:b, s:I}", "agent_version", sb_version(), "session", (json_int_t)a->session,
		"interval_ms", (json_int_t)a->set.heartbeat.interval_ms, "outbox_depth", (json_int_t)depth, "heads", heads, "digest", digest,
		"sources", agent_board_sources(a, false), "as_of", position, "occupancy", occupancy, "lanes_ok",
		a->lanes ? (int)sb_lanes_ready(a->lanes, LANES_GRACE_MS) : 1, "disk_free_bytes", disk_free(a));
	return *ret ? 0 : sb_fail_nomem(err);
}

int agent_heartbeat_value(struct agent *a, struct sb_db *db, json_t **ret, struct sb_error *err)
{
	int r = sb_db_script(db, "BEGIN", err);

	if (r < 0)
		return r;
	r = value_of_now(a, db, ret, err);
	sb_db_rollback(db); /* it only read */
	return r;
}

int agent_heartbeat_record(struct agent *a, struct sb_db *db, struct sb_stream_out *so, struct sb_record *rec, char **ret_value, struct sb_error *err)
{
	json_auto_t *value = NULL;
	sb_cleanup(sb_freep) char *text = NULL;
	char expiry[SB_TIME_LEN + 1];

	int r = agent_heartbeat_value(a, db, &value, err);
	if (r < 0)
		return r;
	text = json_dumps(value, JSON_COMPACT | JSON_SORT_KEYS);
	if (!text)
		return sb_fail_nomem(err);
	sb_record_init(rec, a->topic_up[SB_EVENT]);
	rec->value = text;
	rec->value_len = strlen(text);
	sb_time_format(expiry, sb_wall_ms() + 3 * a->set.heartbeat.interval_ms);
	r = sb_record_set(rec, "expirytime", expiry, err);
	if (r == 0)
		r = sb_stream_stamp(so, rec, SB_EV_HEARTBEAT_SENT, a->set.stage, NULL, a->identity, err);
	if (r == 0)
		*ret_value = SB_TAKE(text);
	return r;
}
