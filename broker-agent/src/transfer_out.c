/* Outgoing transfers, on the courier's lane: manifest, then chunks within the receiver's credit. An attempt is a session of the stream
 * "data/<transfer>" and begins with the manifest; it starts at the chunk that the receiver was credited last. A new attempt begins after a restart, when
 * the receiver reports a gap, and when it has been silent for long: records can be lost to the broker's retention, and only a repeat brings them back.
 *
 *   open --(credit says complete)--> complete        open --(credit says failed; expired; spool unreadable)--> failed
 */
#include "courier.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "stagebridge/clock.h"
#include "stagebridge/file.h"
#include "stagebridge/log.h"
#include "stagebridge/metric.h"

#define PATIENCE_MS (10LL * 60 * 1000)
#define PATIENCE_MAX_MS (6LL * 3600 * 1000)
#define SLOT_SHIFT 48

int agent_outgoing_init(struct agent_outgoing_set *s, struct agent *a, struct sb_db *db, struct sb_error *err)
{
	memset(s, 0, sizeof(*s));
	s->a = a;
	s->db = db;
	for (unsigned i = 0; i < AGENT_TRANSFERS_OUT; i++)
		s->slot[i].fd = -1;
	s->chunk = malloc(SB_CHUNK_SEALED);
	return s->chunk ? 0 : sb_fail_nomem(err);
}

static void slot_clear(struct agent_outgoing *o)
{
	if (o->fd >= 0)
		close(o->fd);
	sb_manifest_release(&o->manifest);
	free(o->offer);
	memset(o, 0, sizeof(*o));
	o->fd = -1;
}

void agent_outgoing_release(struct agent_outgoing_set *s)
{
	if (!s->a)
		return; /* never initialised: its descriptors mean nothing */
	for (unsigned i = 0; i < AGENT_TRANSFERS_OUT; i++)
		slot_clear(&s->slot[i]);
	free(s->chunk);
	s->chunk = NULL;
}

static int fail_transfer(struct agent_outgoing_set *s, const char *id, const char *reason, struct sb_error *err)
{
	sb_log(SB_WARN, "transfer_failed", "transfer=%s direction=%s reason=%s", id, "out", reason);
	return sb_db_run(s->db, NULL, err, "UPDATE transfer_out SET state = 'failed', reason = ?, updated_ms = ? WHERE id = ? AND state = 'open'", "sis", reason,
		sb_wall_ms(), id);
}

static int begin_attempt(struct agent_outgoing_set *s, struct agent_outgoing *o, struct sb_error *err)
{
	char stream[SB_ID_LEN + 8];

	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	int r = sb_db_run(s->db, NULL, err, "UPDATE transfer_out SET attempt = attempt + 1, rewind = 0 WHERE id = ?", "s", o->id);
	if (r < 0)
		return r;
	r = sb_db_query(s->db, &st, err, "SELECT attempt FROM transfer_out WHERE id = ?", "s", o->id);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r > 0)
		r = sb_format(stream, sizeof(stream), err, "data/%s", o->id);
	if (r < 0)
		return r;
	sb_stream_out_init(&o->so, s->a->set.tenant, s->a->set.stage, stream, (uint64_t)sb_db_int(st, 0), false);
	o->offered = false;
	o->next = o->credited;
	o->progress_ms = sb_mono_ms();
	return 0;
}

static int load_offer(struct agent_outgoing_set *s, struct agent_outgoing *o, const char *id, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	json_auto_t *json = NULL;

	int r = sb_db_query(s->db, &st, err, "SELECT manifest FROM transfer_out WHERE id = ?", "s", id);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r <= 0)
		return r < 0 ? r : sb_fail(err, SB_ENOTFOUND, "manifest is gone");
	o->offer = sb_strdup(sb_db_text(st, 0));
	if (!o->offer)
		return sb_fail_nomem(err);
	json = json_loads(o->offer, JSON_REJECT_DUPLICATES, NULL);
	if (!json)
		return sb_fail(err, SB_EPROTO, "manifest cannot be read");
	return sb_manifest_parse(&o->manifest, json, s->a->set.carrier.max_bytes, err);
}

/* The file and the manifest of a transfer that is new to this run. A transfer that cannot be read is failed for good, the others go on. */
static int slot_open(struct agent_outgoing_set *s, struct agent_outgoing *o, const char *id, struct sb_error *err)
{
	char path[4096];
	struct sb_error why = SB_ERROR_INIT;

	int r = load_offer(s, o, id, &why);
	if (r == 0)
		r = agent_state_spool(path, sizeof(path), s->a, id, false, &why);
	if (r == 0) {
		o->fd = open(path, O_RDONLY | O_CLOEXEC);
		if (o->fd < 0)
			r = sb_fail_errno(&why, errno, "spool cannot be opened");
	}
	if (r == 0)
		r = sb_format(o->id, sizeof(o->id), &why, "%s", id);
	o->patience_ms = PATIENCE_MS;
	if (r == 0)
		return 0;
	slot_clear(o);
	if (r == SB_ENOMEM || r == SB_EDB)
		return sb_fail(err, (enum sb_code)r, "%s", why.msg);
	return fail_transfer(s, id, why.msg, err);
}

static struct agent_outgoing *slot_of(struct agent_outgoing_set *s, const char *id)
{
	for (unsigned i = 0; i < AGENT_TRANSFERS_OUT; i++) {
		if (strcmp(s->slot[i].id, id) == 0)
			return &s->slot[i];
	}
	return NULL;
}

struct open_row {
	char id[SB_ID_LEN + 1];
	uint64_t credited, window;
	bool rewind;
};

static int refresh_row(struct agent_outgoing_set *s, const struct open_row *row, struct sb_error *err)
{
	struct agent_outgoing *o = slot_of(s, row->id);
	bool rewind = row->rewind;
	int r;

	if (!o) {
		o = slot_of(s, "");
		if (!o)
			return 0; /* all slots are taken: its turn comes */
		r = slot_open(s, o, row->id, err);
		if (r < 0 || o->fd < 0)
			return r;
		rewind = true;
		o->credited = row->credited;
	}
	o->over = false;
	o->window = row->window;
	if (row->credited > o->credited) {
		o->credited = row->credited;
		o->progress_ms = sb_mono_ms();
		o->patience_ms = PATIENCE_MS;
		if (o->next < o->credited)
			o->next = o->credited;
	}
	if (o->manifest.expires_ms && sb_wall_ms() > o->manifest.expires_ms) {
		o->over = true;
		return fail_transfer(s, row->id, "it expired before the receiver had all of it", err);
	}
	return rewind ? begin_attempt(s, o, err) : 0;
}

/* Read to the end before anything is written: SQLite refuses a write on top of a read that another lane's commit has overtaken. */
static int read_open(struct agent_outgoing_set *s, struct open_row *row, unsigned most, unsigned *ret_n, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	unsigned n = 0;

	int r = sb_db_query(s->db, &st, err, "SELECT id, credited, window, rewind FROM transfer_out WHERE state = 'open' ORDER BY id", "");
	while (r == 0 && n < most && (r = sb_db_step(st, err)) > 0) {
		row[n].credited = (uint64_t)sb_db_int(st, 1);
		row[n].window = (uint64_t)sb_db_int(st, 2);
		row[n].rewind = sb_db_int(st, 3) != 0;
		r = sb_format(row[n].id, sizeof(row[n].id), err, "%s", sb_db_text(st, 0));
		n++;
	}
	*ret_n = n;
	return r;
}

/* Spools of what has ended. The row is told after the file is gone, so that a kill between repeats the removal. */
static int remove_spools(struct agent_outgoing_set *s, struct sb_error *err)
{
	char id[8][SB_ID_LEN + 1];
	char path[4096];
	unsigned n = 0;

	{
		sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
		int r = sb_db_query(s->db, &st, err, "SELECT id FROM transfer_out WHERE spool = 1 AND state <> 'open' LIMIT 8", "");
		while (r == 0 && n < SB_COUNT(id) && (r = sb_db_step(st, err)) > 0)
			r = sb_format(id[n++], sizeof(id[0]), err, "%s", sb_db_text(st, 0));
		if (r < 0)
			return r;
	}
	for (unsigned i = 0; i < n; i++) {
		int r = agent_state_spool(path, sizeof(path), s->a, id[i], false, err);
		if (r < 0)
			return r;
		if (unlink(path) < 0 && errno != ENOENT)
			return sb_fail_errno(err, errno, "spool of transfer %s", id[i]);
		r = sb_db_run(s->db, NULL, err, "UPDATE transfer_out SET spool = 0 WHERE id = ?", "s", id[i]);
		if (r < 0)
			return r;
	}
	return 0;
}

/* How far the broker has it, for people; one write a turn at most. */
static int store_sent(struct agent_outgoing_set *s, struct sb_error *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < AGENT_TRANSFERS_OUT; i++) {
		struct agent_outgoing *o = &s->slot[i];
		if (o->delivered == o->stored)
			continue;
		r = sb_db_run(s->db, NULL, err, "UPDATE transfer_out SET sent = max(sent, ?), updated_ms = ? WHERE id = ?", "iis", (int64_t)o->delivered,
			sb_wall_ms(), o->id);
		o->stored = o->delivered;
	}
	return r;
}

/* Frees the slots of what has ended, and repeats what has been silent for long. */
static int settle_slots(struct agent_outgoing_set *s, struct sb_error *err)
{
	for (unsigned i = 0; i < AGENT_TRANSFERS_OUT; i++) {
		struct agent_outgoing *o = &s->slot[i];
		if (!o->id[0] || o->in_flight > 0)
			continue;
		if (o->over) {
			slot_clear(o);
		} else if (sb_mono_ms() - o->progress_ms > o->patience_ms) {
			sb_log(SB_WARN, "transfer_repeated", "transfer=%s next=%" PRIu64 " silent_ms=%lld", o->id, o->credited, (long long)o->patience_ms);
			int r = begin_attempt(s, o, err);
			if (r < 0)
				return r;
			o->patience_ms = o->patience_ms * 2 < PATIENCE_MAX_MS ? o->patience_ms * 2 : PATIENCE_MAX_MS;
		}
	}
	return 0;
}

int agent_outgoing_refresh(struct agent_outgoing_set *s, struct sb_error *err)
{
	struct open_row row[AGENT_TRANSFERS_OUT * 2];
	unsigned n = 0;

	int r = store_sent(s, err);
	if (r == 0)
		r = read_open(s, row, SB_COUNT(row), &n, err);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < AGENT_TRANSFERS_OUT; i++)
		s->slot[i].over = true;
	for (unsigned i = 0; r == 0 && i < n; i++)
		r = refresh_row(s, &row[i], err);
	if (r == 0)
		r = settle_slots(s, err);
	if (r == 0)
		r = remove_spools(s, err);
	return r;
}

static int send_record(struct agent_outgoing_set *s, struct agent_outgoing *o, struct sb_record *rec, enum sb_event event, const char *content_type,
	struct sb_producer *p, uint64_t tag, struct sb_error *err)
{
	int r = sb_stream_stamp(&o->so, rec, event, o->id, content_type, s->a->identity, err);

	if (r == 0)
		r = sb_producer_send(p, rec, tag, err);
	if (r == 0) {
		o->in_flight++;
		s->in_flight++;
	}
	return r;
}

static int send_offer(struct agent_outgoing_set *s, struct agent_outgoing *o, struct sb_producer *p, uint64_t tag, struct sb_error *err)
{
	struct sb_record rec;

	sb_record_init(&rec, s->a->topic_up[SB_DATA]);
	rec.value = o->offer;
	rec.value_len = strlen(o->offer);
	o->so.sequence = 0;
	int r = send_record(s, o, &rec, SB_EV_TRANSFER_OFFERED, NULL, p, tag, err);
	if (r == 0)
		o->offered = true;
	return r;
}

static int send_chunk(struct agent_outgoing_set *s, struct agent_outgoing *o, struct sb_producer *p, uint64_t tag, struct sb_error *err)
{
	struct sb_record rec;
	struct sb_error why = SB_ERROR_INIT;
	size_t n = 0;

	int r = sb_spool_read(o->fd, &o->manifest, o->next, s->chunk, &n, &why);
	if (r < 0) {
		o->over = true;
		return fail_transfer(s, o->id, why.msg, err);
	}
	sb_record_init(&rec, s->a->topic_up[SB_DATA]);
	rec.value = s->chunk;
	rec.value_len = n;
	r = sb_record_set(&rec, "sbtransfer", o->id, err);
	if (r == 0)
		r = sb_record_setf(&rec, "sbchunk", err, "%" PRIu64 "/%" PRIu64, o->next, o->manifest.chunks);
	if (r < 0)
		return r;
	/* a chunk's place in the stream is its index, whatever attempt it travels in */
	o->so.sequence = o->next + 1;
	r = send_record(s, o, &rec, SB_EV_TRANSFER_CHUNK, "application/octet-stream", p, tag | (o->next + 1), err);
	if (r == 0) {
		o->next++;
		sb_metric_add(sb_metric("stagebridge_transfer_chunks_total", SB_COUNTER, "direction", "Chunks of transfers"), "out", 1);
	}
	return r;
}

static bool may_send(const struct agent_outgoing *o)
{
	if (!o->id[0] || o->over)
		return false;
	return !o->offered || (o->next < o->manifest.chunks && o->next < o->credited + o->window);
}

int agent_outgoing_send(struct agent_outgoing_set *s, struct sb_producer *p, uint64_t tag_kind, struct sb_error *err)
{
	bool sent = true;

	while (sent) {
		sent = false;
		for (unsigned i = 0; i < AGENT_TRANSFERS_OUT && s->in_flight < AGENT_DATA_IN_FLIGHT; i++) {
			struct agent_outgoing *o = &s->slot[i];
			uint64_t tag = tag_kind | (uint64_t)i << SLOT_SHIFT;
			if (!may_send(o))
				continue;
			int r = o->offered ? send_chunk(s, o, p, tag, err) : send_offer(s, o, p, tag, err);
			if (r == SB_EAGAIN)
				return 0; /* the producer is full: deliveries will bring us back */
			if (r < 0)
				return r;
			sent = true;
		}
	}
	return 0;
}

void agent_outgoing_delivered(struct agent_outgoing_set *s, uint64_t tag)
{
	struct agent_outgoing *o = &s->slot[tag >> SLOT_SHIFT & (AGENT_TRANSFERS_OUT - 1)];
	uint64_t chunk = tag & ((1ULL << SLOT_SHIFT) - 1);

	o->in_flight--;
	s->in_flight--;
	if (chunk > o->delivered)
		o->delivered = chunk;
}
