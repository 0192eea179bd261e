/* Every record type of version 1, in one table: SPEC.md, asyncapi.yaml, the schemas and both daemons follow it, and tests hold them
 * against it. Schema: proto/schemas/<noun>.<verb>.json; "-" for values that are not JSON. */
#ifndef STAGEBRIDGE_EVENT_TYPES_H
#define STAGEBRIDGE_EVENT_TYPES_H

#include "stagebridge/topic.h"

/*       symbol                noun.verb               direction class    schema */
#define SB_EVENT_TABLE(X)                                                                     \
	X(AGENT_STARTED,         "agent.started",          SB_UP,   SB_EVENT,  true)          \
	X(HEARTBEAT_SENT,        "heartbeat.sent",         SB_UP,   SB_EVENT,  true)          \
	X(ENTITY_CHANGED,        "entity.changed",         SB_UP,   SB_ENTITY, false)         \
	X(ENTITY_DESCRIBED,      "entity.described",       SB_UP,   SB_ENTITY, true)          \
	X(SNAPSHOT_BEGUN,        "snapshot.begun",         SB_UP,   SB_ENTITY, true)          \
	X(SNAPSHOT_ROWS,         "snapshot.rows",          SB_UP,   SB_ENTITY, false)         \
	X(SNAPSHOT_ENDED,        "snapshot.ended",         SB_UP,   SB_ENTITY, true)          \
	X(PUSH_REQUESTED,        "push.requested",         SB_UP,   SB_EVENT,  true)          \
	X(PROMOTION_REQUESTED,   "promotion.requested",    SB_UP,   SB_EVENT,  true)          \
	X(DEPLOYMENT_REPORTED,   "deployment.reported",    SB_UP,   SB_EVENT,  true)          \
	X(DATASET_REQUESTED,     "dataset.requested",      SB_UP,   SB_EVENT,  true)          \
	X(DATASET_REPORTED,      "dataset.reported",       SB_UP,   SB_EVENT,  true)          \
	X(TRANSFER_CREDITED,     "transfer.credited",      SB_UP,   SB_EVENT,  true)          \
	X(TRANSFER_OFFERED,      "transfer.offered",       SB_UP,   SB_DATA,   true)          \
	X(TRANSFER_CHUNK,        "transfer.chunk",         SB_UP,   SB_DATA,   false)         \
	X(PUSH_REPORTED,         "push.reported",          SB_DOWN, SB_EVENT,  true)          \
	X(GIT_UPDATED,           "git.updated",            SB_DOWN, SB_EVENT,  true)          \
	X(DEPLOYMENT_ORDERED,    "deployment.ordered",     SB_DOWN, SB_EVENT,  true)          \
	X(PROMOTION_REPORTED,    "promotion.reported",     SB_DOWN, SB_EVENT,  true)          \
	X(DATASET_ORDERED,       "dataset.ordered",        SB_DOWN, SB_EVENT,  true)          \
	X(DATASET_ANSWERED,      "dataset.answered",       SB_DOWN, SB_EVENT,  true)          \
	X(RESYNC_ORDERED,        "resync.ordered",         SB_DOWN, SB_EVENT,  true)          \
	X(CREDIT_RELAYED,        "credit.relayed",         SB_DOWN, SB_EVENT,  true)
/* transfer.offered and transfer.chunk travel down as well, on the data class: signed by the hub when it is the sender (git packs),
 * or the owner's bytes forwarded with a hop signature. entity.* and snapshot.* travel down the same way. */

enum sb_event {
#define SB_X(symbol, name, direction, class, schema) SB_EV_##symbol,
	SB_EVENT_TABLE(SB_X)
#undef SB_X
	SB_EV_COUNT
};

struct sb_event_info {
	const char *name;            /* "heartbeat.sent" */
	const char *type;            /* "stagebridge.heartbeat.sent.v1" */
	enum sb_direction direction;
	enum sb_class class;
	bool has_schema;             /* value is one JSON object that proto/schemas/<name>.json describes */
};
const struct sb_event_info *sb_event_info(enum sb_event e);
/** By the CloudEvents type; -1 when unknown. */
int sb_event_find(const char *type);

#endif
