/* The signed bytes of a record (SPEC.md, "Signature"). Private to wire. */
#ifndef SB_WIRE_RECORD_BODY_H
#define SB_WIRE_RECORD_BODY_H

#include "stagebridge/record.h"

/* attributes, at most 6 bytes of netstring dressing for each name and value, and the fixed strings */
#define SB_BODY_MAX (SB_ATTRS_BYTES_MAX + SB_ATTR_MAX * 2 * 6 + 256)

struct sb_body {
	size_t n;
	char p[SB_BODY_MAX];
};

void sb_body_netstring(struct sb_body *b, const char *s);
/** All attributes but sbsig and the hop's, and the hash of the value. */
void sb_body_record(struct sb_body *b, const struct sb_record *rec);
/** What the hop signs; the hop's attributes are passed because they are not in the record yet. sbsig must be there. */
void sb_body_hop(
	struct sb_body *b, const struct sb_record *rec, const uint8_t digest[32], const char *dest, const char *hopseq, const char *hopkid);
void sb_body_digest(const struct sb_body *b, uint8_t out[32]);

/** sb_record_sign that also hands out the digest, so that a value is hashed once. */
int sb_record_seal(struct sb_record *rec, const struct sb_identity *id, uint8_t digest[32], struct sb_error *err) SB_MUSTCHECK;

#endif
