/* The hub's own transfers to stages (packs of promotions, repositories): manifest and sealed chunks from a spool file, paced by the
 * receiver's credit. The courier lane's thread.
 *
 * A row is the truth: sent counts what the broker has acknowledged, next and credit_window what the receiver said (intake writes them). A
 * receiver that has lost its spool says a smaller next: intake raises attempt, and the transfer begins again there. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "courier.h"
#include "stagebridge/log.h"
#include "store/store.h"

#define TAG_SLOT_SHIFT 40
#define TAG_INDEX_MASK ((UINT64_C(1) << TAG_SLOT_SHIFT) - 1)
/* No word from the receiver for that long although all its credit is used up: say it again from where it was */
#define SILENCE "10 minutes"

void courier_transfer_clear(struct courier_transfer *t)
{
	struct courier_stage *to = t->to;

	sb_manifest_release(&t->manifest);
	sb_closep(&t->fd);
	*t = (struct courier_transfer){ .to = to, .fd = -1 };
}

void courier_transfer_acked(struct courier_stage *s, uint64_t tag)
{
	size_t slot = (size_t)((tag & ~COURIER_TAG_CHUNK) >> TAG_SLOT_SHIFT);
	uint64_t index = tag & TAG_INDEX_MASK;
	struct courier_transfer *t = slot < COURIER_TRANSFERS_MAX ? &s->transfer[slot] : NULL;

	s->chunks_in_flight--;
	if (!t || !t->used || t->in_flight == 0)
		return;
	t->in_flight--;
	if (index == 0)
		t->offer_acked = true;
	else if (index > t->acked)
		t->acked = index;
	t->dirty = true;
}

void courier_transfers_rewind(struct courier_stage *s)
{
	for (size_t i = 0; i < COURIER_TRANSFERS_MAX; i++) {
		struct courier_transfer *t = &s->transfer[i];
		t->in_flight = 0;
		t->offered = t->offer_acked;
		t->sent = t->acked;
	}
}

static struct courier_transfer *find(struct courier_stage *s, const char *id)
{
	for (size_t i = 0; i < COURIER_TRANSFERS_MAX; i++) {
		if (s->transfer[i].used && strcmp(s->transfer[i].id, id) == 0)
			return &s->transfer[i];
	}
	return NULL;
}

static struct courier_transfer *free_slot(struct courier_stage *s)
{
	for (size_t i = 0; i < COURIER_TRANSFERS_MAX; i++) {
		if (!s->transfer[i].used)
			return &s->transfer[i];
	}
	return NULL;
}

static struct courier_stage *stage_of(struct courier *c, const char *name)
{
	for (size_t i = 0; i < c->n_stages; i++) {
		if (strcmp(c->stage[i].stage->name, name) == 0)
			return &c->stage[i];
	}
	return NULL;
}

static int spool_path(char *out, size_t size, const struct courier *c, const char *id, struct sb_error *err)
{
	char name[SB_ID_LEN + 5];

	int r = sb_format(name, sizeof(name), err, "%s.out", id);
	return r < 0 ? r : hub_path(out, size, c->w, "spool", name, err);
}

static int fail_row(struct courier *c, const char *id, const struct sb_error *why, struct sb_error *err)
{
	const char *param[] = { id, why->msg };

	sb_log_error(SB_ERROR, "transfer_failed", why, "transfer=%s", id);
	return sb_pg_exec(c->pg, "UPDATE lifecycle.transfer SET state = 'failed', reason = $2, updated_at = now() WHERE id = $1", 2, param,
		NULL, err);
}

static int start(struct courier *c, struct courier_transfer *t, const struct sb_pg_result *res, int i, struct sb_error *err)
{
	char path[4096];
	json_t *json = json_loads(sb_pg_get(res, i, 2), 0, NULL);

	if (!json)
		return sb_fail_nomem(err);
	int r = sb_manifest_parse(&t->manifest, json, UINT64_MAX / 2, err);
	json_decref(json);
	if (r == 0)
		r = spool_path(path, sizeof(path), c, sb_pg_get(res, i, 0), err);
	if (r == 0)
		r = sb_format(t->id, sizeof(t->id), err, "%s", sb_pg_get(res, i, 0));
	if (r < 0)
		return r;
	t->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (t->fd < 0)
		return sb_fail_errno(err, errno, "cannot open spool \"%s\"", path);
	t->attempt = sb_pg_get_i64(res, i, 6);
	t->acked = t->sent = (uint64_t)sb_pg_get_i64(res, i, 3);
	t->offered = t->offer_acked = strcmp(sb_pg_get(res, i, 7), "sending") == 0;
	t->used = true;
	return 0;
}

/* One row that is offered or sending */
static int row_take(struct courier *c, const struct sb_pg_result *res, int i, struct sb_error *err)
{
	struct courier_stage *s = stage_of(c, sb_pg_get(res, i, 1));
	struct courier_transfer *t = s ? find(s, sb_pg_get(res, i, 0)) : NULL;
	struct sb_error cause = SB_ERROR_INIT;

	if (!s)
		return 0; /* a stage that is no longer in the settings: waits until it comes back or runs out */
	if (t && t->attempt != sb_pg_get_i64(res, i, 6) && t->in_flight == 0) {
		courier_transfer_clear(t);
		t = NULL;
	}
	if (!t) {
		t = free_slot(s);
		if (!t)
			return 0;
		if (start(c, t, res, i, &cause) < 0) {
			courier_transfer_clear(t);
			return fail_row(c, sb_pg_get(res, i, 0), &cause, err);
		}
	}
	t->limit = (uint64_t)sb_pg_get_i64(res, i, 4) + (uint64_t)sb_pg_get_i64(res, i, 5);
	return 0;
}

/* Over: the receiver has it, or never will */
static int rows_end(struct courier *c, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	char path[4096];

	int r = sb_pg_exec(c->pg,
		"UPDATE lifecycle.transfer SET state = 'failed', reason = 'expired', updated_at = now() "
		"WHERE from_stage = 'hub' AND state IN ('offered', 'sending') AND expires_at < now()",
		0, NULL, NULL, err);
	if (r == 0)
		r = sb_pg_exec(c->pg,
			"SELECT id, to_stage, state FROM lifecycle.transfer WHERE from_stage = 'hub' AND state IN ('complete', 'failed') "
			"AND credit_window >= 0 LIMIT 64",
			0, NULL, &res, err);
	for (int i = 0; r == 0 && i < sb_pg_rows(res); i++) {
		const char *id = sb_pg_get(res, i, 0);
		struct courier_stage *s = stage_of(c, sb_pg_get(res, i, 1));
		struct courier_transfer *t = s ? find(s, id) : NULL;
		if (t && t->in_flight > 0)
			continue;
		if (t)
			courier_transfer_clear(t);
		if (spool_path(path, sizeof(path), c, id, NULL) == 0 && unlink(path) < 0 && errno != ENOENT)
			sb_log(SB_WARN, "spool_left", "transfer=%s reason=%s", id, strerror(errno));
		/* a failed one stays failed for whoever waits for it; the window below zero says that its spool is gone */
		r = sb_pg_exec(c->pg,
			"UPDATE lifecycle.transfer SET state = CASE state WHEN 'complete' THEN 'done' ELSE state END, credit_window = -1, "
			"updated_at = now() WHERE id = $1",
			1, &id, NULL, err);
	}
	return r;
}

int courier_transfers_load(struct courier *c, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;

	int r = sb_pg_exec(c->pg,
		"UPDATE lifecycle.transfer SET attempt = attempt + 1, sent = next, updated_at = now() "
		"WHERE from_stage = 'hub' AND state = 'sending' AND updated_at < now() - interval '" SILENCE "'",
		0, NULL, NULL, err);
	if (r == 0)
		r = rows_end(c, err);
	if (r == 0)
		r = sb_pg_exec(c->pg,
			"SELECT id, to_stage, manifest, sent, next, credit_window, attempt, state FROM lifecycle.transfer "
			"WHERE from_stage = 'hub' AND state IN ('offered', 'sending') ORDER BY created_at LIMIT 256",
			0, NULL, &res, err);
	for (int i = 0; r == 0 && i < sb_pg_rows(res); i++)
		r = row_take(c, res, i, err);
	return r;
}

static int record_send(struct courier_transfer *t, struct sb_record *rec, uint64_t sequence, enum sb_event event, const char *content_type,
	struct sb_error *err)
{
	struct courier_stage *s = t->to;
	struct sb_stream_out so;
	char stream[sizeof("data/") + SB_ID_LEN];
	size_t slot = (size_t)(t - s->transfer);

	int r = sb_format(stream, sizeof(stream), err, "data/%s", t->id);
	if (r < 0)
		return r;
	sb_stream_out_init(&so, s->courier->w->set->name, "hub", stream, (uint64_t)t->attempt, false);
	so.sequence = sequence - 1;
	r = sb_stream_stamp(&so, rec, event, t->id, content_type, s->courier->w->identity, err);
	if (r == 0)
		r = sb_producer_send(s->producer, rec, COURIER_TAG_CHUNK | ((uint64_t)slot << TAG_SLOT_SHIFT) | (sequence - 1), err);
	if (r == 0) {
		t->in_flight++;
		s->chunks_in_flight++;
	}
	return r;
}

static int send_manifest(struct courier_transfer *t, struct sb_error *err)
{
	struct sb_record rec;
	json_t *json = sb_manifest_json(&t->manifest);
	sb_cleanup(sb_freep) char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

	json_decref(json);
	if (!text)
		return sb_fail_nomem(err);
	sb_record_init(&rec, t->to->topic_data);
	rec.value = text;
	rec.value_len = strlen(text);
	int r = sb_record_set(&rec, "sbtransfer", t->id, err);
	if (r == 0)
		r = record_send(t, &rec, 1, SB_EV_TRANSFER_OFFERED, NULL, err);
	if (r == 0)
		t->offered = true;
	return r;
}

static int send_chunk(struct courier_transfer *t, struct sb_error *err)
{
	uint8_t *buf = t->to->courier->chunk;
	struct sb_record rec;
	size_t n = 0;

	int r = sb_spool_read(t->fd, &t->manifest, t->sent, buf, &n, err);
	if (r < 0)
		return r;
	sb_record_init(&rec, t->to->topic_data);
	rec.value = buf;
	rec.value_len = n;
	r = sb_record_set(&rec, "sbtransfer", t->id, err);
	if (r == 0)
		r = sb_record_setf(&rec, "sbchunk", err, "%" PRIu64 "/%" PRIu64, t->sent, t->manifest.chunks);
	if (r == 0)
		r = record_send(t, &rec, t->sent + 2, SB_EV_TRANSFER_CHUNK, "application/octet-stream", err);
	if (r == 0)
		t->sent++;
	return r;
}

int courier_transfers_send(struct courier_stage *s, struct sb_error *err)
{
	for (size_t i = 0; i < COURIER_TRANSFERS_MAX; i++) {
		struct courier_transfer *t = &s->transfer[i];
		int r = 0;
		if (!t->used)
			continue;
		if (!t->offered)
			r = send_manifest(t, err);
		while (r == 0 && t->sent < t->manifest.chunks && t->sent < t->limit && s->chunks_in_flight < COURIER_CHUNKS_MAX)
			r = send_chunk(t, err);
		if (r == SB_EAGAIN)
			return 0; /* the producer's queue is full: acknowledgements make room */
		if (r < 0)
			return r;
	}
	return 0;
}

bool courier_transfers_dirty(const struct courier *c)
{
	for (size_t i = 0; i < c->n_stages; i++) {
		for (size_t k = 0; k < COURIER_TRANSFERS_MAX; k++) {
			if (c->stage[i].transfer[k].dirty)
				return true;
		}
	}
	return false;
}

static int store_one(struct courier *c, struct courier_transfer *t, struct sb_error *err)
{
	char sent[HUB_NUM], attempt[HUB_NUM];
	const char *param[] = { t->id, hub_num(sent, (int64_t)t->acked), hub_num(attempt, t->attempt),
		t->offer_acked ? "sending" : "offered" };

	t->dirty = false;
	/* another attempt was ordered meanwhile: what this one sent does not count */
	return sb_pg_exec(c->pg,
		"UPDATE lifecycle.transfer SET sent = $2, state = $4, updated_at = now() WHERE id = $1 AND attempt = $3 AND state IN "
		"('offered', 'sending')",
		4, param, NULL, err);
}

int courier_transfers_store(struct courier *c, struct sb_error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < c->n_stages; i++) {
		for (size_t k = 0; r == 0 && k < COURIER_TRANSFERS_MAX; k++) {
			struct courier_transfer *t = &c->stage[i].transfer[k];
			if (t->used && t->dirty)
				r = store_one(c, t, err);
			t->dirty = false;
		}
	}
	return r;
}
