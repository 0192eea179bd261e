/* Strict JSON of payloads. jansson's parser drops bytes unseen when memory runs out while it reads a token, so it runs on an allocator
 * that remembers failures; what reads signed content looks at that. */
#ifndef STAGEBRIDGE_JSON_H
#define STAGEBRIDGE_JSON_H

#include <jansson.h>

#include "stagebridge/base.h"
#include "stagebridge/error.h"

/** One JSON value and nothing after it, no key twice, no NUL. Returns new. SB_EPROTO, SB_ENOMEM; `what` names it in the message, the
 * content never does. */
int sb_json_load(json_t **ret, const void *p, size_t n, const char *what, struct sb_error *err) SB_MUSTCHECK;
/** The same, and it must be an object. */
int sb_json_load_object(json_t **ret, const void *p, size_t n, const char *what, struct sb_error *err) SB_MUSTCHECK;

/** Puts jansson on the remembering allocator (malloc and free underneath). Runs by itself before main; a test that set another one
 * calls it again. Not while other threads use jansson. */
void sb_json_guard(void);

#endif
