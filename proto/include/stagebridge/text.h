/* Strict text: numbers, names, hex, base64, UTF-8. Every parser refuses what it does not fully understand. */
#ifndef STAGEBRIDGE_TEXT_H
#define STAGEBRIDGE_TEXT_H

#include "stagebridge/base.h"
#include "stagebridge/error.h"

#define SB_NAME_MAX 31   /* tenant, stage: ^[a-z][a-z0-9-]{0,30}$ */
#define SB_TYPE_MAX 63   /* entity type, dataset, origin: ^[a-z][a-z0-9_-]{0,62}$ */

bool sb_name_ok(const char *s);
bool sb_type_ok(const char *s);
/** A branch name that we accept: git's rules, no "..", no leading or trailing '/', at most 200 bytes. */
bool sb_branch_ok(const char *s);
bool sb_utf8_ok(const char *p, size_t n);      /* well-formed (RFC 3629), no NUL */
/** In place: one clean line. Control characters become spaces, bytes that are no UTF-8 become '?', spaces at the end go. */
void sb_text_tidy(char *s);
bool sb_hex_ok(const char *s, size_t digits);  /* exactly that many lower-case hex digits, then NUL */

/** Whole string is one decimal number within [min, max]; else SB_EINVAL naming `what`. */
int sb_parse_u64(const char *s, uint64_t min, uint64_t max, const char *what, uint64_t *ret, struct sb_error *err) SB_MUSTCHECK;
int sb_parse_i64(const char *s, int64_t min, int64_t max, const char *what, int64_t *ret, struct sb_error *err) SB_MUSTCHECK;
/** "250ms", "10s", "5m", "2h", "30d" -> milliseconds. A bare number is refused: a unit must be named. */
int sb_parse_duration_ms(const char *s, const char *what, int64_t *ret, struct sb_error *err) SB_MUSTCHECK;
/** "512", "64KiB", "8MiB", "2GiB" -> bytes. */
int sb_parse_size(const char *s, const char *what, uint64_t *ret, struct sb_error *err) SB_MUSTCHECK;

/** out holds 2 * n + 1 bytes. */
void sb_hex(char *out, const uint8_t *p, size_t n);
int sb_unhex(uint8_t *out, size_t n, const char *hex, struct sb_error *err) SB_MUSTCHECK; /* exactly 2n digits */
/** Standard alphabet with padding. Returns new; NULL only without memory. */
char *sb_base64(const uint8_t *p, size_t n);
/** Exactly n bytes expected; SB_EINVAL otherwise. */
int sb_unbase64(uint8_t *out, size_t n, const char *s, struct sb_error *err) SB_MUSTCHECK;

/** snprintf into a fixed array, but a cut result is an error (SB_ETOOBIG), not a silent half. */
int sb_format(char *out, size_t size, struct sb_error *err, const char *fmt, ...) SB_MUSTCHECK SB_PRINTF(4, 5);
/** strdup that may return NULL only without memory; NULL stays NULL. */
char *sb_strdup(const char *s);
/** printf to a malloc'ed string; NULL only without memory. */
char *sb_asprintf(const char *fmt, ...) SB_PRINTF(1, 2);

/** Random id, 26 lower-case base32 characters, time-ordered prefix (48 bits of ms, 80 bits random). out holds 27 bytes. */
#define SB_ID_LEN 26
void sb_id_new(char out[SB_ID_LEN + 1]);
bool sb_id_ok(const char *s);

#endif
