/* The members of a JSON object as they were written: numbers keep their digits. Only for text that a strict parser has accepted already. Pure. */
#ifndef AGENT_JSON_FIELDS_H
#define AGENT_JSON_FIELDS_H

#include "stagebridge/buf.h"

struct json_field { const char *name; size_t name_n; const char *raw; size_t raw_n; };   /* name decoded; raw: the value without spaces around it */
/** Calls fn for each member, in order. The name is borrowed for the call. SB_EPROTO when it is not an object after all; else what fn returns. */
int json_fields(const char *p, size_t n, int (*fn)(void *user, const struct json_field *f, struct sb_error *err), void *user, struct sb_error *err) SB_MUSTCHECK;
/** Appends the content of a JSON string, its quotes and escapes resolved. SB_EPROTO, SB_ENOMEM, SB_ETOOBIG. */
int json_text(const char *raw, size_t n, struct sb_buf *out, struct sb_error *err) SB_MUSTCHECK;

#endif
