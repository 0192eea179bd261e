/* Data records for the hub itself: packs of pushes, into a spool file per transfer. The relay lane's thread, inside the hub link's
 * transaction.
 *
 * The spool is synced before the transaction that counts its chunks and moves the position, so the file holds at least what the row says.
 * The sender goes on as far as our credits allow: one with the offer, one each half window, one at the end. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "intake/quarantine.h"
#include "relay.h"
#include "stagebridge/clock.h"
#include "stagebridge/file.h"
#include "stagebridge/log.h"
#include "store/store.h"

#define RECEIVING_MAX 32 /* at once from one stage */
#define GAP_CREDIT_MS 5000

static int refuse(struct relay_link *l, const struct sb_inrecord *in, const char *class, const char *reason, struct sb_error *err)
{
	struct hub_refusal why = { .stage = l->relay->stage->name, .class = class, .reason = reason };

	return hub_quarantine(l->relay->pg, in, &why, err);
}

static int credit(struct relay_link *l, struct relay_transfer *t, const char *state, const char *reason, struct sb_error *err)
{
	json_int_t window = (json_int_t)l->relay->w->hub->set.carrier.window;
	json_t *body = json_pack("{s:s, s:I, s:I, s:s, s:s}", "transfer", t->id, "next", (json_int_t)t->next, "window", window, "state",
		state, "reason", reason);

	if (!body)
		return sb_fail_nomem(err);
	int r = hub_outbox_put(l->relay->w, l->relay->pg, l->relay->stage->name, SB_EV_CREDIT_RELAYED, t->id, body, err);
	json_decref(body);
	t->credited = t->next;
	l->wake_courier = true;
	return r;
}

static int spool_path(char *out, size_t size, const struct relay *relay, const char *id, struct sb_error *err)
{
	char name[SB_ID_LEN + 4];

	int r = sb_format(name, sizeof(name), err, "%s.in", id);
	return r < 0 ? r : hub_path(out, size, relay->w, "spool", name, err);
}

static int spool_open(struct relay_link *l, struct relay_transfer *t, struct sb_error *err)
{
	char path[4096];

	int r = spool_path(path, sizeof(path), l->relay, t->id, err);
	if (r == 0)
		r = sb_spool_received(path, &t->manifest, &t->next, err);
	if (r < 0)
		return r;
	t->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (t->fd < 0)
		return sb_fail_errno(err, errno, "cannot open spool \"%s\"", path);
	t->credited = t->next;
	return 0;
}

/* A transfer that this lane does not hold open: from its row, when it is being received */
static int transfer_load(struct relay_link *l, const char *id, struct relay_transfer **ret, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { id, l->relay->stage->name };

	*ret = NULL;
	int r = sb_pg_exec(l->relay->pg,
		"SELECT manifest FROM lifecycle.transfer WHERE id = $1 AND from_stage = $2 AND to_stage = 'hub' AND state = 'receiving'", 2,
		param, &res, err);
	if (r < 0 || sb_pg_rows(res) == 0)
		return r;
	json_t *json = json_loads(sb_pg_get(res, 0, 0), 0, NULL);
	struct relay_transfer *t = json ? relay_transfer_add(l, id, true) : NULL;
	r = t ? sb_manifest_parse(&t->manifest, json, l->relay->w->hub->set.carrier.max_bytes, err) : sb_fail_nomem(err);
	json_decref(json);
	if (r == 0)
		r = spool_open(l, t, err);
	if (r == 0)
		*ret = t;
	else if (t)
		t->ours = false;
	return r;
}

static int row_insert(struct relay_link *l, const struct sb_manifest *m, bool *ret_new, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	json_t *json = sb_manifest_json(m);
	sb_cleanup(sb_freep) char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	char chunks[HUB_NUM], sealed[HUB_NUM], expires[HUB_NUM], window[HUB_NUM];

	json_decref(json);
	if (!text)
		return sb_fail_nomem(err);
	const char *param[] = { m->transfer, m->kind, m->from, text, hub_num(chunks, (int64_t)m->chunks),
		hub_num(sealed, (int64_t)m->sealed_bytes), hub_num(expires, m->expires_ms),
		hub_num(window, l->relay->w->hub->set.carrier.window) };
	int r = sb_pg_exec(l->relay->pg,
		"INSERT INTO lifecycle.transfer (id, kind, from_stage, to_stage, manifest, chunks, sealed_bytes, state, expires_at, "
		"credit_window) "
		"VALUES ($1, $2, $3, 'hub', $4::jsonb, $5, $6, 'receiving', to_timestamp($7::bigint / 1000.0), $8) ON CONFLICT (id) DO "
		"NOTHING",
		SB_COUNT(param), param, &res, err);
	if (r == 0)
		*ret_new = sb_pg_affected(res) == 1;
	return r;
}

static int receiving_count(struct relay_link *l, int64_t *ret, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { l->relay->stage->name };

	int r = sb_pg_exec(l->relay->pg,
		"SELECT count(*) FROM lifecycle.transfer WHERE from_stage = $1 AND to_stage = 'hub' AND state = 'receiving'", 1, param,
		&res, err);
	if (r == 0)
		*ret = sb_pg_get_i64(res, 0, 0);
	return r;
}

static int offered_to_us(struct relay_link *l, const struct sb_inrecord *in, const struct sb_manifest *m, struct sb_error *err)
{
	struct relay_transfer *t = relay_transfer_find(l, m->transfer);
	int64_t receiving = 0;
	bool fresh = false;

	if (strcmp(m->kind, "pack") != 0 && strcmp(m->kind, "blob") != 0)
		return refuse(l, in, "edge", "the hub takes packs and blobs only", err);
	int r = receiving_count(l, &receiving, err);
	if (r == 0 && receiving >= RECEIVING_MAX && !t)
		return refuse(l, in, "edge", "too many transfers to the hub at once", err);
	if (r == 0)
		r = row_insert(l, m, &fresh, err);
	if (r == 0 && (!t || !t->ours))
		r = transfer_load(l, m->transfer, &t, err);
	if (r < 0 || !t)
		return r; /* no row that is being received: it has ended, the sender was told */
	return credit(l, t, "receiving", "", err);
}

static int manifest_take(struct relay_link *l, const struct sb_inrecord *in, const struct sb_meta *meta, struct sb_error *err)
{
	struct sb_manifest m = { 0 };
	struct sb_error cause = SB_ERROR_INIT;
	int r = 0;

	if (relay_manifest(&m, l, in, meta, &cause) < 0)
		return cause.code == SB_ENOMEM ? sb_fail_nomem(err) : refuse(l, in, "malf", cause.msg, err);
	if (strcmp(m.to, RELAY_HUB) == 0) {
		r = offered_to_us(l, in, &m, err);
	} else if (!relay_edge(l->relay->w->set, m.from, m.to)) {
		r = refuse(l, in, "edge", "the hub's settings allow no dataset between these stages", err);
		if (r == 0)
			r = hub_audit(l->relay->pg, l->relay->stage->name, "transfer-refused", m.transfer, NULL, NULL,
				"no dataset may go to that stage", err);
	}
	sb_manifest_release(&m);
	return r;
}

static int complete(struct relay_link *l, struct relay_transfer *t, struct sb_error *err)
{
	char next[HUB_NUM];
	const char *param[] = { t->id, hub_num(next, (int64_t)t->next) };

	int r = sb_pg_exec(l->relay->pg,
		"UPDATE lifecycle.transfer SET state = 'complete', next = $2, updated_at = now() WHERE id = $1 AND state = 'receiving'", 2,
		param, NULL, err);
	if (r == 0)
		r = credit(l, t, "complete", "", err);
	t->dirty = true; /* the end of the transaction closes it */
	l->wake_git = true;
	sb_log(SB_INFO, "transfer_received", "transfer=%s from=%s chunks=%llu", t->id, l->relay->stage->name, (unsigned long long)t->next);
	return r;
}

static int chunk_take(struct relay_link *l, struct relay_transfer *t, const struct sb_inrecord *in, uint64_t index, struct sb_error *err)
{
	uint64_t before = t->next;

	int r = sb_spool_append(t->fd, &t->manifest, &t->next, index, in->rec.value, in->rec.value_len, err);
	if (r == SB_ECONFLICT) {
		/* chunks before this one are missing: the sender must hear where we are, but not for each that follows */
		if (sb_mono_ms() - t->gap_credit_ms < GAP_CREDIT_MS)
			return 0;
		t->gap_credit_ms = sb_mono_ms();
		return credit(l, t, "receiving", "chunks are missing", err);
	}
	if (r == SB_EPROTO || r == SB_ETOOBIG || r == SB_EINVAL)
		return refuse(l, in, "malf", err ? err->msg : "chunk does not fit its manifest", err);
	if (r < 0)
		return r;
	/* also when the chunk was on disk already: a kill may have come between the disk and the commit */
	if (t->next == t->manifest.chunks)
		return complete(l, t, err);
	if (t->next == before)
		return 0;
	t->dirty = true;
	sb_metric_add(l->relay->m_forwarded, l->relay->label, 1);
	sb_metric_add(l->relay->m_bytes, l->relay->label, (double)in->rec.value_len);
	if (t->next - t->credited >= (uint64_t)(l->relay->w->hub->set.carrier.window + 1) / 2)
		return credit(l, t, "receiving", "", err);
	return 0;
}

int relay_data_hub(struct relay_link *l, struct sb_inrecord *in, struct sb_error *err)
{
	const char *id = sb_record_get(&in->rec, "sbtransfer");
	const char *type = sb_record_get(&in->rec, "type");
	struct relay_transfer *t = NULL;
	struct sb_error cause = SB_ERROR_INIT;
	struct sb_meta meta;
	uint64_t index = 0, count = 0;

	if (in->malformed != SB_OK)
		return refuse(l, in, "malf", in->malformed_reason, err);
	if (id && sb_id_ok(id) && type && strcmp(type, sb_event_info(SB_EV_TRANSFER_CHUNK)->type) == 0) {
		/* chunks without a transfer of ours are another link's business, or follow a manifest that was refused */
		t = relay_transfer_find(l, id);
		int r = t ? 0 : transfer_load(l, id, &t, err);
		if (r < 0 || !t || !t->ours)
			return r;
	}
	if (sb_record_verify(&in->rec, l->relay->w->keyring, l->relay->w->set->name, RELAY_HUB, sb_wall_ms(), &meta, &cause) < 0)
		return refuse(l, in, cause.state[0] ? cause.state : "malf", cause.msg, err);
	if (meta.event == SB_EV_TRANSFER_OFFERED)
		return manifest_take(l, in, &meta, err);
	if (meta.event != SB_EV_TRANSFER_CHUNK || !t)
		return refuse(l, in, "malf", "record is neither a manifest nor a chunk", err);
	if (sb_chunk_index(&in->rec, &id, &index, &count, &cause) < 0 || count != t->manifest.chunks)
		return refuse(l, in, "malf", cause.code == SB_OK ? "chunk count is not the manifest's" : cause.msg, err);
	return chunk_take(l, t, in, index, err);
}

int relay_spool_sync(struct relay_link *l, struct sb_error *err)
{
	for (size_t i = 0; i < l->n_transfers; i++) {
		struct relay_transfer *t = &l->transfer[i];
		char next[HUB_NUM];
		const char *param[] = { t->id, hub_num(next, (int64_t)t->next) };
		if (!t->dirty)
			continue;
		if (fdatasync(t->fd) < 0)
			return sb_fail_errno(err, errno, "cannot sync the spool of transfer %s", t->id);
		int r = sb_pg_exec(l->relay->pg,
			"UPDATE lifecycle.transfer SET next = $2, updated_at = now() WHERE id = $1 AND state = 'receiving'", 2, param, NULL,
			err);
		if (r < 0)
			return r;
		t->dirty = false;
		if (t->next == t->manifest.chunks) {
			/* nothing more will come: the git lane has it now */
			sb_closep(&t->fd);
			t->fd = -1;
			t->ours = false;
		}
	}
	return 0;
}

/* Transfers to the hub that ran out: the sender stopped for good. Rows are kept a month for people to look at. */
int relay_sweep(struct relay *relay, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { relay->stage->name };
	char path[4096];

	relay->swept_ms = sb_mono_ms();
	int r = sb_pg_begin(relay->pg, err);
	if (r == 0)
		r = hub_fence(relay->pg, sb_lane_name(relay->lane), relay->generation, err);
	if (r == 0)
		r = sb_pg_exec(relay->pg,
			"UPDATE lifecycle.transfer SET state = 'failed', reason = 'expired', updated_at = now() "
			"WHERE from_stage = $1 AND state IN ('receiving', 'sending') AND expires_at < now() RETURNING id, to_stage",
			1, param, &res, err);
	if (r == 0)
		r = sb_pg_exec(relay->pg,
			"DELETE FROM lifecycle.transfer WHERE from_stage = $1 AND state IN ('failed', 'done') AND updated_at < now() - "
			"interval '30 days'",
			1, param, NULL, err);
	if (r == 0)
		r = sb_pg_commit(relay->pg, err);
	if (r < 0) {
		sb_pg_rollback(relay->pg);
		return r;
	}
	for (int i = 0; i < sb_pg_rows(res); i++) {
		sb_log(SB_WARN, "transfer_expired", "transfer=%s from=%s to=%s", sb_pg_get(res, i, 0), relay->stage->name,
			sb_pg_get(res, i, 1));
		if (strcmp(sb_pg_get(res, i, 1), RELAY_HUB) == 0 && spool_path(path, sizeof(path), relay, sb_pg_get(res, i, 0), NULL) == 0)
			(void)unlink(path); /* a leftover costs space only, and the next sweep of the folder finds nothing to point to it */
	}
	return 0;
}
