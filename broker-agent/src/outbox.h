/* Inside of the outbox, for the courier: the event stream's place and the stored form of attributes. */
#ifndef AGENT_OUTBOX_H
#define AGENT_OUTBOX_H

#include "state.h"

#define AGENT_ATTRS_MAX (SB_ATTRS_BYTES_MAX)

/** The event stream as it stands after the newest record in the outbox. */
int agent_outbox_stream(struct agent *a, struct sb_db *db, struct sb_stream_out *ret, struct sb_error *err) SB_MUSTCHECK;
/** Attributes as name NUL value NUL ..., in their order; and back onto a record that has its topic. */
int agent_attrs_pack(const struct sb_record *rec, char out[AGENT_ATTRS_MAX], size_t *ret_len, struct sb_error *err) SB_MUSTCHECK;
int agent_attrs_unpack(struct sb_record *rec, const char *p, size_t n, struct sb_error *err) SB_MUSTCHECK;

#endif
