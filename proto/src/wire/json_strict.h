/* Closed JSON objects: every key expected, every expected key there. Private to wire. */
#ifndef SB_WIRE_JSON_STRICT_H
#define SB_WIRE_JSON_STRICT_H

#include "stagebridge/json.h"

/** SB_EPROTO unless the object has exactly these keys. */
int sb_json_closed(const json_t *object, const char *const *keys, size_t n_keys, const char *what, struct sb_error *err) SB_MUSTCHECK;
/** Borrowed; NULL when it is not a string. */
const char *sb_json_string(const json_t *object, const char *key);
/** False when it is not a whole number of at least 0. */
bool sb_json_u64(const json_t *object, const char *key, uint64_t *ret);
/** False when it is not a time of our form. */
bool sb_json_time(const json_t *object, const char *key, int64_t *ret_ms);

#endif
