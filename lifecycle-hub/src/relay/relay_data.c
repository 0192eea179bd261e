/* Data records for another stage: only what answers an accepted request of exactly that pair of stages is forwarded, sealed as it is. The
 * relay lane's thread. The stage's own agent has decided about the data; the hub cannot read it and decides about the road alone. */
#include <string.h>

#include "intake/quarantine.h"
#include "relay.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "store/store.h"

/* The manifest travels on another topic than the report that accepts the request: how long it may be ahead */
#define ACCEPT_WAIT_MS 60000

struct relay_transfer *relay_transfer_find(struct relay_link *l, const char *id)
{
	for (size_t i = 0; i < l->n_transfers; i++) {
		if (strcmp(l->transfer[i].id, id) == 0) {
			l->transfer[i].used = ++l->tick;
			return &l->transfer[i];
		}
	}
	return NULL;
}

void relay_transfer_clear(struct relay_transfer *t)
{
	sb_manifest_release(&t->manifest);
	sb_closep(&t->fd);
	*t = (struct relay_transfer){ .fd = -1 };
}

/* Room is made by forgetting the one not used for longest: it is looked up again when it speaks */
struct relay_transfer *relay_transfer_add(struct relay_link *l, const char *id, bool ours)
{
	struct relay_transfer *t = relay_transfer_find(l, id);

	if (!t && l->n_transfers < RELAY_TRANSFERS_MAX) {
		t = &l->transfer[l->n_transfers++];
		*t = (struct relay_transfer){ .fd = -1 };
	} else if (!t) {
		for (size_t i = 0; i < l->n_transfers; i++) {
			if (!l->transfer[i].dirty && (!t || l->transfer[i].used < t->used))
				t = &l->transfer[i];
		}
		if (!t)
			return NULL;
	}
	relay_transfer_clear(t);
	if (sb_format(t->id, sizeof(t->id), NULL, "%s", id) < 0)
		return NULL;
	t->ours = ours;
	t->used = ++l->tick;
	return t;
}

bool relay_edge(const struct hub_tenant *t, const char *from, const char *to)
{
	const struct hub_dataset *rule = t->datasets.item;

	for (size_t i = 0; i < t->datasets.count; i++) {
		if (strcmp(rule[i].from, from) != 0)
			continue;
		for (size_t k = 0; k < rule[i].to.count; k++) {
			if (strcmp(rule[i].to.item[k], to) == 0)
				return true;
		}
	}
	return false;
}

int relay_manifest(
	struct sb_manifest *ret, const struct relay_link *l, const struct sb_inrecord *in, const struct sb_meta *meta, struct sb_error *err)
{
	json_t *json = json_loadb(in->rec.value, in->rec.value_len, JSON_REJECT_DUPLICATES, NULL);

	if (!json)
		return sb_fail(err, SB_EPROTO, "manifest is not JSON");
	int r = sb_manifest_parse(ret, json, l->relay->w->hub->set.carrier.max_bytes, err);
	json_decref(json);
	if (r < 0)
		return r;
	if (strcmp(ret->from, meta->stage) != 0 || strcmp(meta->key, ret->transfer) != 0) {
		sb_manifest_release(ret);
		return sb_fail(err, SB_EPROTO, "manifest is not one of this stage and key");
	}
	return 0;
}

/* The request that the manifest answers: 0 with *ret_state ("" when there is none of that pair) */
static int request_state(struct relay_link *l, const struct sb_manifest *m, const char *request, char state[24], struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { request, m->from, m->to };

	int r = sb_pg_exec(l->relay->pg, "SELECT state FROM lifecycle.dataset_request WHERE id = $1 AND from_stage = $2 AND to_stage = $3",
		3, param, &res, err);
	if (r < 0)
		return r;
	return sb_format(state, 24, err, "%s", sb_pg_rows(res) ? sb_pg_get(res, 0, 0) : "");
}

static int transfer_record(struct relay_link *l, const struct sb_manifest *m, const char *request, struct sb_error *err)
{
	json_t *json = sb_manifest_json(m);
	sb_cleanup(sb_freep) char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	sb_cleanup(sb_freep) char *attestation = NULL;
	char chunks[HUB_NUM], sealed[HUB_NUM], expires[HUB_NUM];

	json_decref(json);
	if (!text)
		return sb_fail_nomem(err);
	const char *param[] = { m->transfer, m->kind, m->from, m->to, text, hub_num(chunks, (int64_t)m->chunks),
		hub_num(sealed, (int64_t)m->sealed_bytes), hub_num(expires, m->expires_ms) };
	const json_t *proof = json_object_get(m->meta, "attestation");
	if (proof)
		attestation = json_dumps(proof, JSON_COMPACT | JSON_ENCODE_ANY);
	const char *answer[] = { request, m->transfer, attestation };
	int r = relay_begin(l, err);
	if (r == 0)
		r = sb_pg_exec(l->relay->pg,
			"INSERT INTO lifecycle.transfer (id, kind, from_stage, to_stage, manifest, chunks, sealed_bytes, state, "
			"expires_at) "
			"VALUES ($1, $2, $3, $4, $5::jsonb, $6, $7, 'sending', to_timestamp($8::bigint / 1000.0)) ON CONFLICT (id) DO "
			"NOTHING",
			SB_COUNT(param), param, NULL, err);
	if (r == 0)
		r = sb_pg_exec(l->relay->pg,
			"UPDATE lifecycle.dataset_request SET transfer = $2, attestation = coalesce($3::jsonb, attestation), updated_at = "
			"now() WHERE id = $1",
			3, answer, NULL, err);
	if (r == 0)
		r = sb_pg_commit(l->relay->pg, err);
	if (r < 0)
		sb_pg_rollback(l->relay->pg);
	return r;
}

/* A lane that starts again reads on from its stored position: what it refused just before comes once more */
static int refused_before(struct relay_link *l, const struct sb_inrecord *in, const char *class, bool *ret, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	char offset[HUB_NUM];
	const char *param[] = { in->rec.topic, hub_num(offset, in->offset), class };

	int r = sb_pg_exec(l->relay->pg, "SELECT 1 FROM lifecycle.quarantine WHERE topic = $1 AND record_offset = $2 AND class = $3", 3, param,
		&res, err);
	if (r == 0)
		*ret = sb_pg_rows(res) > 0;
	return r;
}

int relay_refuse(
	struct relay_link *l, const struct sb_inrecord *in, const char *class, const char *reason, const char *object, struct sb_error *err)
{
	struct hub_refusal why = { .stage = l->relay->stage->name, .class = class, .reason = reason };
	bool known = false;

	int r = relay_begin(l, err);
	if (r == 0)
		r = refused_before(l, in, class, &known, err);
	if (r == 0 && !known)
		r = hub_quarantine(l->relay->pg, in, &why, err);
	if (r == 0 && !known)
		r = hub_audit(l->relay->pg, l->relay->stage->name, "transfer-refused", object, NULL, NULL, reason, err);
	if (r == 0)
		r = sb_pg_commit(l->relay->pg, err);
	if (r < 0)
		sb_pg_rollback(l->relay->pg);
	return r;
}

static int offered(
	struct relay_link *l, struct sb_inrecord *in, const struct sb_meta *meta, const struct sb_manifest *m, struct sb_error *err)
{
	const char *request = json_string_value(json_object_get(m->meta, "request"));
	char state[24];

	int r = request_state(l, m, request ? request : "", state, err);
	if (r < 0)
		return r;
	if (strcmp(state, "ordered") == 0 && sb_wall_ms() - meta->time_ms < ACCEPT_WAIT_MS)
		return sb_fail(err, SB_EAGAIN, "transfer %s waits for its request to be accepted", m->transfer);
	if (strcmp(m->kind, "dataset") != 0 || (strcmp(state, "accepted") != 0 && strcmp(state, "produced") != 0)) {
		(void)relay_transfer_add(l, m->transfer, false); /* a cache: forgetting it costs a query */
		return relay_refuse(l, in, "edge", "no accepted request of these two stages stands behind this transfer", m->transfer, err);
	}
	r = transfer_record(l, m, request, err);
	if (r < 0)
		return r;
	(void)relay_transfer_add(l, m->transfer, true); /* as above */
	sb_log(SB_INFO, "transfer_relayed", "transfer=%s from=%s to=%s chunks=%llu", m->transfer, m->from, m->to,
		(unsigned long long)m->chunks);
	return relay_forward(l, in, meta, SB_DATA, err);
}

static int manifest_take(struct relay_link *l, struct sb_inrecord *in, const struct sb_meta *meta, struct sb_error *err)
{
	struct sb_manifest m = { 0 };
	struct sb_error cause = SB_ERROR_INIT;

	/* what is wrong with it is put on record by the hub's own link */
	if (relay_manifest(&m, l, in, meta, &cause) < 0)
		return cause.code == SB_ENOMEM ? sb_fail_nomem(err) : 0;
	int r = 0;
	if (strcmp(m.to, l->target) == 0)
		r = offered(l, in, meta, &m, err);
	sb_manifest_release(&m);
	return r;
}

/* Whether chunks of this transfer may pass, from the cache or the table */
static int lookup(struct relay_link *l, const char *id, bool *ret_ours, struct sb_error *err)
{
	struct relay_transfer *t = relay_transfer_find(l, id);
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { id, l->relay->stage->name, l->target };

	if (t) {
		*ret_ours = t->ours;
		return 0;
	}
	int r = sb_pg_exec(l->relay->pg,
		"SELECT 1 FROM lifecycle.transfer WHERE id = $1 AND from_stage = $2 AND to_stage = $3 AND state = 'sending'", 3, param,
		&res, err);
	if (r < 0)
		return r;
	*ret_ours = sb_pg_rows(res) == 1;
	(void)relay_transfer_add(l, id, *ret_ours); /* a cache */
	return 0;
}

int relay_data_stage(struct relay_link *l, struct sb_inrecord *in, struct sb_error *err)
{
	const char *id = sb_record_get(&in->rec, "sbtransfer");
	struct sb_error cause = SB_ERROR_INIT;
	struct sb_meta meta;
	bool ours = false;
	uint64_t index, count;

	if (in->malformed != SB_OK)
		return 0;
	/* most chunks are for someone else: those are passed over before the costly look */
	if (id && sb_id_ok(id) &&
		strcmp(sb_record_get(&in->rec, "type") ? sb_record_get(&in->rec, "type") : "", sb_event_info(SB_EV_TRANSFER_CHUNK)->type) ==
			0) {
		int r = lookup(l, id, &ours, err);
		if (r < 0 || !ours)
			return r;
	}
	if (sb_record_verify(&in->rec, l->relay->w->keyring, l->relay->w->set->name, RELAY_HUB, sb_wall_ms(), &meta, &cause) < 0)
		return 0;
	if (meta.event == SB_EV_TRANSFER_OFFERED)
		return manifest_take(l, in, &meta, err);
	if (meta.event != SB_EV_TRANSFER_CHUNK || !ours || sb_chunk_index(&in->rec, &id, &index, &count, &cause) < 0)
		return 0;
	return relay_forward(l, in, &meta, SB_DATA, err);
}
