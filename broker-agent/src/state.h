/* The agent's durable state: one SQLite file in state_dir (state.db). It is the mailbox between lanes: whoever adds work commits it here,
 * then wakes the lane that does it. Schema in state.c (version in user_version). */
#ifndef AGENT_STATE_H
#define AGENT_STATE_H

#include <jansson.h>

#include "agent.h"

/* Tables:
 *  meta(key PRIMARY KEY, value)
 *  outbox(id INTEGER PRIMARY KEY AUTOINCREMENT, topic, attrs BLOB, value BLOB, created_ms)          final signed bytes, sent in order of id
 *  down_offset(topic PRIMARY KEY, next_offset)
 *  stream_in(source PRIMARY KEY, session, sequence, prev BLOB)
 *  job(id INTEGER PRIMARY KEY, kind, ref UNIQUE, payload JSON, state queued|running|waiting|done|failed, result, created_ms, updated_ms)
 *  transfer_in(id PRIMARY KEY, kind, manifest JSON, next, gap_session, expires_ms, state receiving|complete|failed|done, reason, updated_ms)
 *                                                    spool: <state_dir>/spool/<id>.in
 *  transfer_out(id PRIMARY KEY, kind, manifest JSON, sent, credited, window, attempt, rewind, spool, state open|complete|failed, reason, updated_ms)
 *                                                    spool: <id>.out, removed when spool is 0
 *  push(id PRIMARY KEY, origin, branch, head, base, title, body, user, transfer, state, url, number, reason, created_ms, updated_ms)
 *  pull(origin, number, title, state, head, base, user, url, updated_at, PRIMARY KEY(origin, number))
 *  request(id PRIMARY KEY, action, payload JSON, state, promotion, reason, gates JSON, created_ms, updated_ms)        promotion requests and their fate
 *  deployment(origin PRIMARY KEY, artifact, commit_oid, tree, manifest JSON, state, since_ms, previous_artifact)      what is in the stage
 *  deploy_order(promotion, attempt, lease, state, report, PRIMARY KEY(promotion, attempt))   ledger: an order is carried out once; report: the reason last told
 *  fence(origin PRIMARY KEY, lease)                                                                                    highest lease seen
 *  dataset(request PRIMARY KEY, dataset, peer, role produce|receive, user, purpose, state, reason_code, reason, transfer, path, rows, created_ms, updated_ms)
 *  document(source, key, file, hash, PRIMARY KEY(source, key))        directory source: what was published; hash '': in doubt, file '': in no file any more
 *  dir_file(source, name, ino, size, mtime, ctime, PRIMARY KEY(source, name))    directory source: files whose documents are all in `document`; times in ns
 *  entity(type, key, document, version, PRIMARY KEY(type, key))                  socket source: what applications wrote; document NULL: deleted, not yet sent
 *  source_state(source PRIMARY KEY, system_id, timeline, slot, incarnation, acked_lsn, updated_ms,
 *      sent_lsn, point_lsn)                     postgres sources; up to where the stream was sent (-1: not known), and the last point of a snapshot
 *  snapshot(source, type, shape, state wanted|running|done, reason, lsn, rows, PRIMARY KEY(source, type))
 *  quarantine(id PRIMARY KEY, at_ms, topic, record_offset, class, reason, source, type, attrs BLOB, value BLOB)        refused records, the newest 1000
 */
int agent_state_open(struct sb_db **ret, const struct agent *a, struct sb_error *err) SB_MUSTCHECK; /* every lane opens its own handle */
int agent_state_spool(char *out, size_t size, const struct agent *a, const char *transfer, bool incoming, struct sb_error *err) SB_MUSTCHECK;

/** A session for a stream that begins anew at every start: larger than any taken under this name before, at least `least`. */
int agent_state_session(struct sb_db *db, const char *name, uint64_t least, uint64_t *ret, struct sb_error *err) SB_MUSTCHECK;

/** Remembers the newest keyring that was in use. SB_ECONFIG for an older one: keys that were revoked since may be in it. */
int agent_state_keyring(struct sb_db *db, uint64_t version, struct sb_error *err) SB_MUSTCHECK;

/** Signs the event on the persistent stream "event" and puts its final bytes into the outbox: call inside the caller's transaction, then agent_wake_courier() after commit. */
int agent_outbox_put(struct agent *a, struct sb_db *db, enum sb_event event, const char *key, const json_t *value, struct sb_error *err) SB_MUSTCHECK;
void agent_wake_courier(struct agent *a);

/** Adds a job once per (kind, ref): true in ret_new when it was not there. payload borrowed. Wake "deploy" or "dataset" after commit. */
int agent_job_add(struct sb_db *db, const char *kind, const char *ref, const json_t *payload, bool *ret_new, struct sb_error *err) SB_MUSTCHECK;
/** Next queued (or running: left by a crash) job of a kind: 1 and its id, ref and payload (new), else 0. Marks it running. */
int agent_job_take(struct sb_db *db, const char *kind, int64_t *ret_id, char *ret_ref, size_t ref_size, json_t **ret_payload, struct sb_error *err) SB_MUSTCHECK;
/** Puts a job aside until what it needs (a pack, an earlier job) is there; agent_job_resume makes all such jobs of a kind queued again. */
int agent_job_wait(struct sb_db *db, int64_t id, struct sb_error *err) SB_MUSTCHECK;
int agent_job_resume(struct sb_db *db, const char *kind, struct sb_error *err) SB_MUSTCHECK;
int agent_job_end(struct sb_db *db, int64_t id, bool ok, const char *result, struct sb_error *err) SB_MUSTCHECK;

/** Registers an outgoing transfer whose spool file is in place (moved to <state_dir>/spool/<id>.out); the courier offers and sends it. */
struct sb_manifest;
int agent_transfer_send(struct agent *a, struct sb_db *db, const struct sb_manifest *m, struct sb_error *err) SB_MUSTCHECK;

#endif
