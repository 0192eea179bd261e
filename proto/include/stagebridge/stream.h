/* A stream is one source's ordered records: (session, sequence) with a hash chain. The sender stamps, the receiver judges. */
#ifndef STAGEBRIDGE_STREAM_H
#define STAGEBRIDGE_STREAM_H

#include "stagebridge/record.h"

/** Sender side. source: "stagebridge://<tenant>/<stage>/agent/<stream>" or "stagebridge://<tenant>/hub/<stream>". */
struct sb_stream_out {
	char source[SB_SOURCE_MAX];
	char tenant[SB_NAME_MAX + 1];
	char stage[SB_NAME_MAX + 1];  /* speaker: the stage, or "hub" */
	uint64_t session;             /* 1 to 9999999999 */
	uint64_t sequence;            /* of the last stamped record; 0 before the first */
	uint8_t prev[32];             /* digest of the last stamped record */
	bool chained;                 /* false for data streams: their manifest holds the hashes */
};

void sb_stream_out_init(struct sb_stream_out *so, const char *tenant, const char *stage, const char *stream, uint64_t session, bool chained);

/**
 * Completes and signs: specversion, id, source, type, time, datacontenttype, partitionkey, sbtenant, sbstage, sbsession, sequence, sbprev, sbkid, sbsig,
 * and for the hub sbtarget (the stage of rec->topic: what it says to one stage cannot be shown to another).
 * The record was made by sb_record_init and may carry extra attributes; topic and value are set. A "time" that is there is kept. Advances the stream.
 * @param key           the Kafka key
 * @param content_type  NULL: "application/json"
 */
int sb_stream_stamp(struct sb_stream_out *so, struct sb_record *rec, enum sb_event event, const char *key, const char *content_type, const struct sb_identity *id, struct sb_error *err) SB_MUSTCHECK;

/** Receiver side: what is stored per source. */
struct sb_stream_in {
	uint64_t session, sequence;
	uint8_t prev[32];
};

enum sb_verdict {
	SB_APPLY,        /* the next one */
	SB_DUPLICATE,    /* seen: drop it, count it */
	SB_NEW_SESSION,  /* first of a newer session: apply; position continuity is the caller's check */
	SB_GAP,          /* sequence or chain does not follow: ask for a resync */
	SB_ZOMBIE,       /* an older session speaks: refuse */
	SB_EQUIVOCATION, /* same place, other content: refuse and alarm */
};
/** Pure. in NULL or all zero: nothing known yet, any record is SB_NEW_SESSION (what came before may be past the broker's retention). A session newer than
 * the stored one must start at sequence 1, else SB_GAP. */
enum sb_verdict sb_stream_judge(const struct sb_stream_in *in, const struct sb_meta *meta);
void sb_stream_advance(struct sb_stream_in *in, const struct sb_meta *meta);
const char *sb_verdict_name(enum sb_verdict v); /* "apply", "duplicate", ... */

/** A stream's newest record, as heartbeats name it. */
struct sb_head {
	const char *source;
	uint64_t session, sequence;
};
/** Sorts heads by source and writes the digest of all of them that a heartbeat carries (SPEC.md, "Heartbeat"). */
void sb_heads_digest(struct sb_head *heads, size_t n, char hex[65]);

/* Streams of entities: every type has two, and two more when its owner publishes what earlier stages may hold. */
enum sb_entity_stream { SB_STREAM_ENTITY, SB_STREAM_SNAPSHOT, SB_STREAM_PUBLIC, SB_STREAM_PUBLIC_SNAPSHOT };
struct sb_entity_stream_name { enum sb_entity_stream kind; const char *type; bool snapshot, down; };  /* type: points into the name */
/** False when it is none: "entity/<type>", "snapshot/<type>", "public/<type>", "public-snapshot/<type>". */
bool sb_entity_stream_parse(const char *stream, struct sb_entity_stream_name *ret);
#define SB_ENTITY_STREAM_SIZE (SB_TYPE_MAX + 17)
void sb_entity_stream_name(char out[SB_ENTITY_STREAM_SIZE], enum sb_entity_stream kind, const char *type);

#endif
