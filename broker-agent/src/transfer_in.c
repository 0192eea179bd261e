/* Incoming transfers, on the inbox lane inside its transaction. Chunks go to a spool file at their place, synced before the transaction commits: the
 * table is never ahead of the file. The file may be ahead of the table after a kill; the chunk then comes again and has no effect. Credit is told
 * every half window and at the end, and whenever the manifest is offered again (a sender that restarted). A hole is told once per attempt.
 *
 *   receiving --(all chunks, digest holds)--> complete --(job did its work)--> done
 *   receiving --(digest, expiry)--> failed            offered --(too large, not for us)--> failed */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "inbox.h"
#include "stagebridge/clock.h"
#include "stagebridge/file.h"
#include "stagebridge/log.h"
#include "stagebridge/metric.h"

#define DISK_RESERVE (64ULL * 1024 * 1024)

static void incoming_clear(struct agent_incoming *t)
{
	if (t->fd >= 0)
		close(t->fd);
	sb_manifest_release(&t->manifest);
	memset(t, 0, sizeof(*t));
	t->fd = -1;
}

void agent_incoming_forget(struct agent_inbox *in)
{
	for (unsigned i = 0; i < AGENT_SPOOLS_OPEN; i++)
		incoming_clear(&in->open[i]);
}

static int put_credit(struct agent_inbox *in, const char *transfer, uint64_t next, const char *state, const char *reason, struct sb_error *err)
{
	json_auto_t *credit = json_pack("{s:s, s:I, s:I, s:s, s:s}", "transfer", transfer, "next", (json_int_t)next, "window",
		(json_int_t)in->a->set.carrier.window, "state", state, "reason", reason);

	if (!credit)
		return sb_fail_nomem(err);
	in->wake |= AGENT_WAKE_COURIER;
	return agent_outbox_put(in->a, in->db, SB_EV_TRANSFER_CREDITED, transfer, credit, err);
}

/* Ends a transfer for good. The spool goes at once: should the transaction fail after all, the chunks look lost and are asked for again. */
static int fail_incoming(struct agent_inbox *in, const char *id, const char *reason, struct sb_error *err)
{
	char path[4096];

	sb_log(SB_WARN, "transfer_failed", "transfer=%s direction=%s reason=%s", id, "in", reason);
	int r = sb_db_run(in->db, NULL, err, "UPDATE transfer_in SET state = 'failed', reason = ?, updated_ms = ? WHERE id = ? AND state = 'receiving'",
		"sis", reason, sb_wall_ms(), id);
	if (r == 0)
		r = sb_db_run(in->db, NULL, err,
			"UPDATE dataset SET state = 'failed', reason = ?, updated_ms = ? WHERE transfer = ? AND role = 'receive' AND state <> 'delivered'", "sis", reason,
			sb_wall_ms(), id);
	if (r == 0)
		r = put_credit(in, id, 0, "failed", reason, err);
	if (r == 0)
		r = agent_state_spool(path, sizeof(path), in->a, id, true, err);
	if (r == 0 && unlink(path) < 0 && errno != ENOENT)
		r = sb_fail_errno(err, errno, "spool of transfer %s", id);
	return r;
}

/* --- manifests --- */

/* Why this stage does not take it; NULL when it does. */
static const char *refusal(const struct agent_inbox *in, const struct sb_manifest *m, const struct sb_meta *meta)
{
	struct statvfs v;

	if (strcmp(m->recipient_kid, sb_identity_kid(in->a->identity)) != 0)
		return "it is sealed to a key that this agent does not hold";
	if (m->expires_ms && sb_wall_ms() > m->expires_ms)
		return "it had expired when it came";
	if (strcmp(m->kind, "pack") == 0 ? strcmp(meta->stage, "hub") != 0 : strcmp(m->kind, "dataset") != 0)
		return "a transfer of this kind and sender is not taken here";
	if (statvfs(in->a->set.state_dir, &v) == 0 && (uint64_t)v.f_bavail * v.f_frsize < m->sealed_bytes + DISK_RESERVE)
		return "there is not enough room on the disk";
	return NULL;
}

static int insert_incoming(struct agent_inbox *in, const char *id, const char *kind, const json_t *value, int64_t expires_ms, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *text = json_dumps(value, JSON_COMPACT | JSON_SORT_KEYS);

	if (!text)
		return sb_fail_nomem(err);
	return sb_db_run(in->db, NULL, err, "INSERT INTO transfer_in(id, kind, manifest, expires_ms, updated_ms) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", "sssii", id,
		kind, text, expires_ms, sb_wall_ms());
}

/* The manifest came again: the sender restarted or has not heard of us. Tells where we are. 0 when the transfer is new. */
static int offered_again(struct agent_inbox *in, const struct sb_manifest *m, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	struct sb_manifest known = { .meta = NULL };
	json_auto_t *json = NULL;
	char state[16], reason[480];
	uint64_t next;

	int r = sb_db_query(in->db, &st, err, "SELECT manifest, next, state, reason FROM transfer_in WHERE id = ?", "s", m->transfer);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r <= 0)
		return r;
	next = (uint64_t)sb_db_int(st, 1);
	r = sb_format(state, sizeof(state), err, "%s", sb_db_text(st, 2));
	if (r == 0)
		r = sb_format(reason, sizeof(reason), err, "%s", sb_db_text(st, 3));
	if (r < 0)
		return r;
	json = json_loads(sb_db_text(st, 0), 0, NULL);
	sb_db_done(SB_TAKE(st));
	if (strcmp(state, "failed") == 0) {
		r = put_credit(in, m->transfer, 0, "failed", reason, err);
		return r < 0 ? r : 1;
	}
	r = json ? sb_manifest_parse(&known, json, UINT64_MAX, err) : sb_fail(err, SB_EDB, "stored manifest of %s cannot be read", m->transfer);
	if (r == 0 && strcmp(known.sealed_sha256, m->sealed_sha256) != 0)
		r = sb_fail(err, SB_EPROTO, "transfer %s was offered before with other content", m->transfer);
	if (r == 0)
		r = put_credit(in, m->transfer, next, strcmp(state, "receiving") == 0 ? "receiving" : "complete", "", err);
	sb_manifest_release(&known);
	return r < 0 ? r : 1;
}

static int offered(struct agent_inbox *in, const struct sb_manifest *m, const struct sb_meta *meta, const json_t *value, struct sb_error *err)
{
	if (strncmp(meta->stream, "data/", 5) != 0 || strcmp(meta->stream + 5, m->transfer) != 0)
		return sb_fail(err, SB_EPROTO, "manifest is not of its stream");
	if (strcmp(m->from, meta->stage) != 0 || strcmp(m->to, in->a->set.stage) != 0)
		return sb_fail(err, SB_EPROTO, "manifest names another sender or receiver");
	int r = offered_again(in, m, err);
	if (r != 0)
		return r < 0 ? r : 0;
	r = insert_incoming(in, m->transfer, m->kind, value, m->expires_ms, err);
	if (r < 0)
		return r;
	const char *why = refusal(in, m, meta);
	if (why)
		return fail_incoming(in, m->transfer, why, err);
	sb_log(SB_INFO, "transfer_began", "transfer=%s kind=%s from=%s chunks=%" PRIu64 " bytes=%" PRIu64, m->transfer, m->kind, m->from, m->chunks, m->sealed_bytes);
	return 0;
}

/* Larger than this stage takes: the sender is told, which needs no more of the manifest than the name of its stream. */
static int refuse_large(struct agent_inbox *in, const struct sb_meta *meta, const json_t *value, struct sb_error *err)
{
	const char *id = strncmp(meta->stream, "data/", 5) == 0 ? meta->stream + 5 : "";

	if (!sb_id_ok(id))
		return sb_fail(err, SB_EPROTO, "manifest is not of its stream");
	int r = insert_incoming(in, id, "", value, 0, err);
	return r < 0 ? r : fail_incoming(in, id, "it is larger than this stage takes (carrier.max_bytes)", err);
}

int agent_transfer_offered(struct agent_inbox *in, const struct sb_meta *meta, const json_t *value, struct sb_error *err)
{
	struct sb_manifest m = { .meta = NULL };
	struct sb_error why = SB_ERROR_INIT;

	int r = sb_manifest_parse(&m, value, in->a->set.carrier.max_bytes, &why);
	if (r == SB_ETOOBIG)
		return refuse_large(in, meta, value, err);
	if (r < 0)
		return sb_fail(err, (enum sb_code)r, "%s", why.msg);
	r = offered(in, &m, meta, value, err);
	sb_manifest_release(&m);
	return r;
}

/* --- chunks --- */

static struct agent_incoming *slot_for(struct agent_inbox *in, const char *id)
{
	struct agent_incoming *oldest = &in->open[0];

	for (unsigned i = 0; i < AGENT_SPOOLS_OPEN; i++) {
		struct agent_incoming *t = &in->open[i];
		if (strcmp(t->id, id) == 0)
			return t;
		if (t->used < oldest->used)
			oldest = t;
	}
	incoming_clear(oldest);
	return oldest;
}

static int open_spool(struct agent_inbox *in, struct agent_incoming *t, const char *id, const json_t *json, struct sb_error *err)
{
	char path[4096];

	/* the limit was applied when the manifest came; the settings may have changed since */
	int r = sb_manifest_parse(&t->manifest, json, UINT64_MAX, err);
	if (r == 0)
		r = agent_state_spool(path, sizeof(path), in->a, id, true, err);
	if (r == 0)
		r = sb_spool_received(path, &t->manifest, &t->next, err);
	if (r < 0)
		return r;
	t->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (t->fd < 0)
		return sb_fail_errno(err, errno, "spool of transfer %s", id);
	return sb_format(t->id, sizeof(t->id), err, "%s", id);
}

static uint64_t half_window(const struct agent_inbox *in)
{
	return ((uint64_t)in->a->set.carrier.window + 1) / 2; /* at least 1: the window is */
}

/* 1 with the open transfer, 0 when it has ended and chunks of it are late. */
static int incoming(struct agent_inbox *in, const char *id, struct agent_incoming **ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	json_auto_t *json = NULL;
	struct agent_incoming *t = slot_for(in, id);

	t->used = ++in->uses;
	*ret = t;
	if (t->id[0])
		return 1;
	int r = sb_db_query(in->db, &st, err, "SELECT manifest, state, gap_session, next FROM transfer_in WHERE id = ?", "s", id);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	if (r == 0)
		return sb_fail(err, SB_EPROTO, "no manifest came before this chunk");
	if (strcmp(sb_db_text(st, 1), "receiving") != 0)
		return 0;
	t->gap_session = (uint64_t)sb_db_int(st, 2);
	/* credit was told at the multiples of a half window that the table, not the file, has reached */
	t->told = (uint64_t)sb_db_int(st, 3) - (uint64_t)sb_db_int(st, 3) % half_window(in);
	json = json_loads(sb_db_text(st, 0), 0, NULL);
	r = json ? open_spool(in, t, id, json, err) : sb_fail(err, SB_EDB, "stored manifest of %s cannot be read", id);
	if (r < 0)
		incoming_clear(t);
	return r < 0 ? r : 1;
}

static int add_job(struct agent_inbox *in, const struct sb_manifest *m, struct sb_error *err)
{
	json_auto_t *json = sb_manifest_json(m);
	bool pack = strcmp(m->kind, "pack") == 0;

	if (!json)
		return sb_fail_nomem(err);
	in->wake |= pack ? AGENT_WAKE_DEPLOY : AGENT_WAKE_DATASET;
	return agent_job_add(in->db, pack ? "git" : "receive", m->transfer, json, NULL, err);
}

/* All chunks are here. "complete" lets the sender forget its copy, so ours is looked at first, as a whole. */
static int finish(struct agent_inbox *in, struct agent_incoming *t, struct sb_error *err)
{
	char path[4096], hex[65];
	uint64_t size = 0;

	int r = agent_state_spool(path, sizeof(path), in->a, t->id, true, err);
	if (r == 0)
		r = sb_file_sha256(path, hex, &size, err);
	if (r < 0)
		return r;
	if (size != t->manifest.sealed_bytes || strcmp(hex, t->manifest.sealed_sha256) != 0) {
		r = fail_incoming(in, t->id, "what arrived does not have the digest that the manifest names", err);
	} else {
		r = sb_db_run(in->db, NULL, err, "UPDATE transfer_in SET state = 'complete', updated_ms = ? WHERE id = ?", "is", sb_wall_ms(), t->id);
		if (r == 0)
			r = add_job(in, &t->manifest, err);
		if (r == 0)
			r = put_credit(in, t->id, t->next, "complete", "", err);
		if (r == 0)
			sb_log(SB_INFO, "transfer_ended", "transfer=%s direction=%s state=%s bytes=%" PRIu64, t->id, "in", "complete", size);
	}
	incoming_clear(t);
	return r;
}

static int report_gap(struct agent_inbox *in, struct agent_incoming *t, const struct sb_meta *meta, struct sb_error *err)
{
	char reason[64];

	sb_metric_add(sb_metric("stagebridge_transfer_gaps_total", SB_COUNTER, NULL, "Chunks that came after one that is missing"), NULL, 1);
	if (meta->session <= t->gap_session)
		return 0; /* told; what is still on its way of this attempt is of no use */
	int r = sb_db_run(in->db, NULL, err, "UPDATE transfer_in SET gap_session = ? WHERE id = ?", "is", (int64_t)meta->session, t->id);
	if (r == 0)
		r = sb_format(reason, sizeof(reason), err, "chunk %" PRIu64 " is missing", t->next);
	if (r == 0)
		r = put_credit(in, t->id, t->next, "receiving", reason, err);
	t->gap_session = meta->session;
	return r;
}

int agent_transfer_chunk(struct agent_inbox *in, const struct sb_record *rec, const struct sb_meta *meta, struct sb_error *err)
{
	struct agent_incoming *t = NULL;
	const char *id = NULL;
	uint64_t index = 0, count = 0, before;

	int r = sb_chunk_index(rec, &id, &index, &count, err);
	if (r == 0 && (strncmp(meta->stream, "data/", 5) != 0 || strcmp(meta->stream + 5, id) != 0))
		r = sb_fail(err, SB_EPROTO, "chunk is not of its stream");
	if (r == 0)
		r = incoming(in, id, &t, err);
	if (r <= 0)
		return r;
	if (strcmp(meta->stage, t->manifest.from) != 0 || count != t->manifest.chunks)
		return sb_fail(err, SB_EPROTO, "chunk does not belong to the manifest");
	before = t->next;
	r = sb_spool_append(t->fd, &t->manifest, &t->next, index, rec->value, rec->value_len, err);
	if (r == SB_ECONFLICT)
		return report_gap(in, t, meta, err);
	if (r < 0)
		return r;
	if (t->next > before && fdatasync(t->fd) < 0)
		return sb_fail_errno(err, errno, "spool of transfer %s", id);
	/* also for a repeat: after a kill the file may have been ahead of the table */
	r = sb_db_run(in->db, NULL, err, "UPDATE transfer_in SET next = ?, updated_ms = ? WHERE id = ? AND next < ?", "iisi", (int64_t)t->next, sb_wall_ms(), id,
		(int64_t)t->next);
	if (r < 0)
		return r;
	sb_metric_add(sb_metric("stagebridge_transfer_chunks_total", SB_COUNTER, "direction", "Chunks of transfers"), "in", 1);
	if (t->next == t->manifest.chunks)
		return finish(in, t, err);
	if (t->next - t->told < half_window(in))
		return 0;
	t->told = t->next;
	return put_credit(in, id, t->next, "receiving", "", err);
}

/* --- time --- */

int agent_transfer_expire(struct agent_inbox *in, struct sb_error *err)
{
	char id[16][SB_ID_LEN + 1];
	unsigned n = 0;
	int r;

	{
		sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
		r = sb_db_query(in->db, &st, err, "SELECT id FROM transfer_in WHERE state = 'receiving' AND expires_ms > 0 AND expires_ms < ? LIMIT 16", "i",
			sb_wall_ms());
		while (r == 0 && n < SB_COUNT(id) && (r = sb_db_step(st, err)) > 0)
			r = sb_format(id[n++], sizeof(id[0]), err, "%s", sb_db_text(st, 0));
	}
	for (unsigned i = 0; r == 0 && i < n; i++) {
		for (unsigned k = 0; k < AGENT_SPOOLS_OPEN; k++) {
			if (strcmp(in->open[k].id, id[i]) == 0)
				incoming_clear(&in->open[k]);
		}
		r = fail_incoming(in, id[i], "it expired before all of it had come", err);
	}
	return r;
}
