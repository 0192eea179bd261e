/* One record: a CloudEvents 1.0 event in Kafka's binary mode, signed once by its owner (Ed25519 over a DSSE v1 PAE, SPEC.md section
 * "Signature") and, when the hub forwards it, by the hop as well. Names here are without the "ce_" prefix; the content type is
 * "datacontenttype". Fixed storage, no allocation. */
#ifndef STAGEBRIDGE_RECORD_H
#define STAGEBRIDGE_RECORD_H

#include "stagebridge/base.h"
#include "stagebridge/error.h"
#include "stagebridge/event_types.h"
#include "stagebridge/keyring.h"

#define SB_ATTR_MAX 40
#define SB_ATTR_NAME_MAX 24
#define SB_ATTR_VALUE_MAX 1024
#define SB_ATTRS_BYTES_MAX 8192
#define SB_VALUE_MAX (768 * 1024)
#define SB_SOURCE_MAX 200
#define SB_PAYLOAD_RECORD "application/vnd.stagebridge.event.v1"
#define SB_PAYLOAD_HOP "application/vnd.stagebridge.hop.v1"

struct sb_attr { uint16_t name, value; };  /* offsets into store */

struct sb_record {
	char topic[SB_TOPIC_MAX];
	const void *value;               /* borrowed; NULL is a Kafka null */
	size_t value_len;
	unsigned n_attr;
	size_t store_len;
	struct sb_attr attr[SB_ATTR_MAX];
	char store[SB_ATTRS_BYTES_MAX];
};

void sb_record_init(struct sb_record *rec, const char *topic);
/** Adds an attribute; SB_EPROTO when empty, too long, not UTF-8, there already, or full. The Kafka key is attribute "partitionkey". */
int sb_record_set(struct sb_record *rec, const char *name, const char *value, struct sb_error *err) SB_MUSTCHECK;
int sb_record_setf(struct sb_record *rec, const char *name, struct sb_error *err, const char *fmt, ...) SB_MUSTCHECK SB_PRINTF(4, 5);
/** Borrowed, NULL when absent. */
const char *sb_record_get(const struct sb_record *rec, const char *name);
const char *sb_record_attr(const struct sb_record *rec, unsigned i, const char **ret_name); /* for adapters: i < n_attr */

/** SHA-256 of the signed body (what the chain links): the bytes that the signature covers. */
void sb_record_digest(const struct sb_record *rec, uint8_t out[32]);
/** Adds sbkid and sbsig. Everything else must be set before. */
int sb_record_sign(struct sb_record *rec, const struct sb_identity *id, struct sb_error *err) SB_MUSTCHECK;
/** Adds sbdest, sbhopseq, sbhopkid, sbhopsig to a record whose owner's attributes are untouched. */
int sb_record_hop(struct sb_record *rec, const struct sb_identity *hub, const char *dest, uint64_t hopseq, struct sb_error *err) SB_MUSTCHECK;

/** What a verified record says, typed; strings borrowed from the record. */
struct sb_meta {
	int event;                     /* enum sb_event */
	struct sb_topic topic;
	const char *id, *source, *key;
	const char *tenant, *stage;    /* of the owner (speaker) */
	const char *stream;            /* the part of source after ".../agent/" or ".../hub/" */
	uint64_t session, sequence;
	bool has_prev;
	uint8_t prev[32];
	int64_t time_ms;
	int64_t expiry_ms;             /* 0: none */
	const struct sb_key *signer;   /* borrowed from the keyring */
	bool hopped;                   /* forwarded by the hub, and the hop verified */
	uint8_t digest[32];
};

/**
 * All checks before the value may be parsed, in the order of SPEC.md: caps, required attributes, topic against tenant and stage, key
 * known, signature, role of the key against source and type, validity, expiry.
 * @param dest  the receiver: its stage name, or "hub". On a down topic a record not signed by the hub must carry a hop for dest, one
 *              signed by the hub must carry sbtarget = dest (sb_stream_stamp adds it).
 * @return 0; SB_EPROTO malformed or misrouted or unknown type; SB_ESIG forged; SB_EAUTH the key may not say this, revoked, or expired.
 *         err->state holds the reason class for metrics: "malf", "route", "type", "forge", "auth", "stale".
 */
int sb_record_verify(const struct sb_record *rec, const struct sb_keyring *kr, const char *tenant, const char *dest, int64_t now_ms, struct sb_meta *ret, struct sb_error *err) SB_MUSTCHECK;

#endif
