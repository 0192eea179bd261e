/* The way of a source's records to the broker: stamps them on their streams, bounds what is in flight, and knows up to which position of the source
 * everything is acknowledged.
 *
 * Thread: the source's lane that made it. Owns the producer, the streams and a ring with one entry per record in flight, in the order of sending. A
 * mark ("the source may forget everything before this position once all that was sent so far is there") hangs on the last entry of the ring;
 * the entries leave the ring from the front only, so a mark counts when its record and all before it are acknowledged. A failed
 * delivery breaks the publisher for good: its owner starts again from the safe position with a new session. */
#include <string.h>

#include "source.h"
#include "stagebridge/clock.h"

#define STREAMS_MAX 1024 /* two for each of the 500 types of a source */

struct stream {
	char name[SB_TYPE_MAX + 16];
	struct sb_stream_out so;
	struct sb_position acked;
	bool has_acked;
};

struct entry {
	size_t bytes;
	unsigned stream;
	bool acked, has_to, has_mark;
	struct sb_position to;
	uint64_t mark;
};

struct agent_publisher {
	struct agent *a;
	struct sb_producer *producer;
	uint64_t session;
	struct stream *stream;
	unsigned n_streams;
	uint64_t first, next;    /* tags of the ring's oldest entry and of the next record */
	size_t bytes;
	uint64_t safe;
	int64_t committed_ms;    /* of the next record; 0 not said */
	struct sb_record rec;    /* large: not for the stack */
	struct entry ring[AGENT_PUBLISHER_RECORDS];
};

static struct entry *entry_of(struct agent_publisher *p, uint64_t tag)
{
	return &p->ring[tag % AGENT_PUBLISHER_RECORDS];
}

static void take_acked(struct agent_publisher *p)
{
	while (p->first < p->next && entry_of(p, p->first)->acked) {
		const struct entry *e = entry_of(p, p->first);
		p->bytes -= e->bytes;
		if (e->has_to) {
			p->stream[e->stream].acked = e->to;
			p->stream[e->stream].has_acked = true;
		}
		if (e->has_mark && e->mark > p->safe)
			p->safe = e->mark;
		p->first++;
	}
}

static void delivered(void *user, uint64_t tag, enum sb_code code, int64_t offset)
{
	struct agent_publisher *p = user;

	(void)offset; /* the receivers keep it */
	if (code != SB_OK || tag < p->first || tag >= p->next)
		return; /* a failure shows in sb_producer_poll */
	entry_of(p, tag)->acked = true;
	take_acked(p);
}

int agent_publisher_new(struct agent_publisher **ret, struct agent *a, uint64_t session, struct sb_error *err)
{
	struct agent_publisher *p = calloc(1, sizeof(*p));

	if (!p)
		return sb_fail_nomem(err);
	p->a = a;
	p->session = session;
	/* the producer's own queue must never be what is full first: a type's last batch may go over our bound */
	struct sb_kafka_conf conf = a->kafka;
	if (conf.queue_bytes < AGENT_PUBLISHER_BYTES + 2 * (uint64_t)SB_VALUE_MAX)
		conf.queue_bytes = AGENT_PUBLISHER_BYTES + 2 * (uint64_t)SB_VALUE_MAX;
	int r = sb_producer_new(&p->producer, &conf, delivered, p, err);
	if (r == 0)
		*ret = SB_TAKE(p);
	agent_publisher_free(p);
	return r;
}

void agent_publisher_free(struct agent_publisher *p)
{
	if (!p)
		return;
	sb_producer_free(p->producer);
	free(p->stream);
	free(p);
}

static const struct stream *find_stream(const struct agent_publisher *p, const char *name)
{
	for (unsigned i = 0; i < p->n_streams; i++) {
		if (strcmp(p->stream[i].name, name) == 0)
			return &p->stream[i];
	}
	return NULL;
}

static int stream_of(struct agent_publisher *p, const char *name, unsigned *ret, struct sb_error *err)
{
	const struct stream *found = find_stream(p, name);

	if (found) {
		*ret = (unsigned)(found - p->stream);
		return 0;
	}
	if (p->n_streams == STREAMS_MAX)
		return sb_fail(err, SB_ETOOBIG, "more than %d streams of one source", STREAMS_MAX);
	if (p->n_streams % 16 == 0) {
		struct stream *more = realloc(p->stream, (p->n_streams + 16) * sizeof(*more));
		if (!more)
			return sb_fail_nomem(err);
		p->stream = more;
	}
	struct stream *s = &p->stream[p->n_streams];
	memset(s, 0, sizeof(*s));
	int r = sb_format(s->name, sizeof(s->name), err, "%s", name);
	if (r < 0)
		return r;
	sb_stream_out_init(&s->so, p->a->set.tenant, p->a->set.stage, name, p->session, true);
	*ret = p->n_streams++;
	return 0;
}

static int set_positions(struct sb_record *rec, const struct sb_position *from, const struct sb_position *to, unsigned count, struct sb_error *err)
{
	char text[SB_POSITION_LEN + 1];
	int r = 0;

	if (from) {
		sb_position_format(text, *from);
		r = sb_record_set(rec, "sbfrom", text, err);
	}
	if (r == 0 && to) {
		sb_position_format(text, *to);
		r = sb_record_set(rec, "sbto", text, err);
	}
	if (r == 0 && count)
		r = sb_record_setf(rec, "sbcount", err, "%u", count);
	return r;
}

void agent_publisher_committed(struct agent_publisher *p, int64_t wall_ms)
{
	p->committed_ms = wall_ms;
}

static int set_committed(struct agent_publisher *p, struct sb_error *err)
{
	char text[SB_TIME_LEN + 1];

	if (p->committed_ms <= 0)
		return 0;
	sb_time_format(text, p->committed_ms);
	p->committed_ms = 0;
	return sb_record_set(&p->rec, "sbcommit", text, err);
}

int agent_publisher_send(struct agent_publisher *p, const char *stream, enum sb_event event, const char *key, const char *content_type,
	const struct sb_position *from, const struct sb_position *to, unsigned count, const void *value, size_t n, struct sb_error *err)
{
	unsigned at = 0;

	if (agent_publisher_full(p))
		return sb_fail(err, SB_EAGAIN, "%zu bytes wait for the broker", p->bytes);
	int r = stream_of(p, stream, &at, err);
	if (r < 0)
		return r;
	/* a record that is stamped and not sent would be a hole in its stream: the stream moves on only when the producer has it */
	struct stream *s = &p->stream[at];
	struct sb_stream_out so = s->so;
	sb_record_init(&p->rec, p->a->topic_up[sb_event_info(event)->class]);
	p->rec.value = value;
	p->rec.value_len = n;
	r = set_positions(&p->rec, from, to, count, err);
	if (r == 0)
		r = set_committed(p, err);
	if (r == 0)
		r = sb_stream_stamp(&so, &p->rec, event, key, content_type, p->a->identity, err);
	if (r == 0)
		r = sb_producer_send(p->producer, &p->rec, p->next, err);
	if (r < 0)
		return r;
	s->so = so;
	*entry_of(p, p->next++) = (struct entry){ .bytes = n, .stream = at, .has_to = to != NULL, .to = to ? *to : (struct sb_position){ 0, 0 } };
	p->bytes += n;
	agent_board_head(p->a, &s->so);
	return 0;
}

bool agent_publisher_full(const struct agent_publisher *p)
{
	return p->bytes >= AGENT_PUBLISHER_BYTES || p->next - p->first >= AGENT_PUBLISHER_RECORDS;
}

void agent_publisher_mark(struct agent_publisher *p, uint64_t lsn)
{
	if (p->first == p->next) {
		if (lsn > p->safe)
			p->safe = lsn;
		return;
	}
	struct entry *e = entry_of(p, p->next - 1);
	if (!e->has_mark || lsn > e->mark)
		e->mark = lsn;
	e->has_mark = true;
}

uint64_t agent_publisher_safe(const struct agent_publisher *p)
{
	return p->safe;
}

bool agent_publisher_acked(const struct agent_publisher *p, const char *stream, struct sb_position *ret)
{
	const struct stream *s = find_stream(p, stream);

	if (!s || !s->has_acked)
		return false;
	*ret = s->acked;
	return true;
}

uint64_t agent_publisher_sequence(const struct agent_publisher *p, const char *stream)
{
	const struct stream *s = find_stream(p, stream);

	return s ? s->so.sequence : 0;
}

size_t agent_publisher_in_flight(const struct agent_publisher *p)
{
	return (size_t)(p->next - p->first);
}

int agent_publisher_poll(struct agent_publisher *p, int timeout_ms, struct sb_error *err)
{
	return sb_producer_poll(p->producer, timeout_ms, err);
}

int agent_publisher_fd(const struct agent_publisher *p)
{
	return sb_producer_fd(p->producer);
}

int agent_publisher_flush(struct agent_publisher *p, int timeout_ms, struct sb_error *err)
{
	return sb_producer_flush(p->producer, timeout_ms, err);
}
