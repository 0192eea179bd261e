/* The hub's store: one PostgreSQL database per tenant, the durable mailbox between lanes. Schema: migrations/NNN_name.sql, applied in order. */
#ifndef HUB_STORE_H
#define HUB_STORE_H

#include "hub.h"

/** Opens a connection for a lane (application_name = the lane's name). While it is open, w->holder counts as alive. */
int hub_store_open(struct sb_pg **ret, struct hub_world *w, const char *lane, struct sb_error *err) SB_MUSTCHECK;
/** Applies missing migrations under an advisory lock; writes lifecycle.stage, .origin, .entity_owner from the settings.
 * SB_ESTATE: the database is newer. SB_ECONFIG: the keyring is older than one that was in use. */
int hub_store_migrate(struct hub_world *w, struct sb_error *err) SB_MUSTCHECK;
/** Short decimal text of a number for a statement's parameter. */
#define HUB_NUM 24
const char *hub_num(char out[HUB_NUM], int64_t v);

/**
 * Leading and fencing. One hub process leads a tenant (sb.lease): another one may take it when the leader's connections are all gone, or when
 * it has not renewed for HUB_LEASE_S seconds (frozen, cut off). Each lane has a row in sb.fence: taking it raises its generation, and
 * hub_fence() inside every transaction makes a commit under an older one impossible.
 * hub_fence_take: SB_EAGAIN while another process leads. hub_fence: SB_ESHUTDOWN when the generation moved on; renews the lease now and then.
 */
#define HUB_LEASE_S 15
int hub_fence_take(struct sb_pg *pg, struct hub_world *w, const char *lane, int64_t *ret_generation, struct sb_error *err) SB_MUSTCHECK;
/** The same, but stands by until it can lead, or the lane stops (SB_ESHUTDOWN). */
int hub_fence_wait(struct sb_lane *lane, struct sb_pg *pg, struct hub_world *w, int64_t *ret_generation, struct sb_error *err) SB_MUSTCHECK;
int hub_fence(struct sb_pg *pg, const char *lane, int64_t generation, struct sb_error *err) SB_MUSTCHECK;
/** An empty fenced transaction: keeps the lease while there is nothing to do. */
int hub_fence_idle(struct sb_pg *pg, const char *lane, int64_t generation, struct sb_error *err) SB_MUSTCHECK;

/** Signs a down event on the persistent stream "hub/event/<stage>" and puts its final bytes into the outbox: inside the caller's transaction;
 * wake "courier" after commit. value borrowed. */
int hub_outbox_put(struct hub_world *w, struct sb_pg *pg, const char *stage, enum sb_event event, const char *key, const json_t *value, struct sb_error *err) SB_MUSTCHECK;
/** A record's attributes as one byte string (name NUL value NUL ...), for the outbox and the quarantine. */
int hub_attrs_pack(const struct sb_record *rec, struct sb_buf *out, struct sb_error *err) SB_MUSTCHECK;
/** Sets them on a record made by sb_record_init. SB_EPROTO when the bytes are not of that form. */
int hub_attrs_unpack(struct sb_record *rec, const uint8_t *p, size_t n, struct sb_error *err) SB_MUSTCHECK;

/** One audit row in the hash chain (lifecycle.audit), inside the caller's transaction. Any text may be NULL. */
struct hub_resync { const char *type, *reason, *asked; bool cancel; }; /* asked: the person; "": the hub itself needs it */
/** Orders the stage that owns the type to send all of it again. Inside a transaction; wake the courier afterwards. */
int hub_resync_put(struct hub_world *w, struct sb_pg *pg, const char *stage, const struct hub_resync *q, struct sb_error *err) SB_MUSTCHECK;
int hub_audit(struct sb_pg *pg, const char *actor, const char *action, const char *object, const char *from_state, const char *to_state, const char *reason, struct sb_error *err) SB_MUSTCHECK;

#endif
