/* Who may speak about an entity type. Used by intake (to apply) and by the relay (to forward): both judge for themselves. */
#ifndef HUB_OWNERSHIP_H
#define HUB_OWNERSHIP_H

#include "hub.h"

/** What a verified record of class entity is about. */
struct hub_entity {
	char type[SB_TYPE_MAX + 1];
	bool snapshot;               /* stream "snapshot/<type>" or "public-snapshot/<type>"; else changes */
	bool down;                   /* a "public" stream: what the owner lets go to earlier stages; no matter of the sync view */
	json_t *body;                /* entity.described, snapshot.begun, snapshot.ended: the parsed value, owned; else NULL */
	uint64_t incarnation;        /* of a batch; else 0 */
	const struct hub_type *rule; /* of the settings */
};
void hub_entity_release(struct hub_entity *e);
/**
 * The type as the value says, which must be the one that the stream's name says, and must be owned by the stage that signed.
 * SB_EPROTO (class "malf") or SB_EREFUSED (class "not-owned"; ret->type is set for the report).
 */
int hub_entity_judge(struct hub_entity *ret, const struct hub_tenant *t, const struct sb_record *rec, const struct sb_meta *meta,
	struct sb_error *err) SB_MUSTCHECK;

#endif
