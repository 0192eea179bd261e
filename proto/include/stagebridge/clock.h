/* The two clocks. Nothing is ever ordered by the wall clock; it is for people and for expiry with a tolerance. */
#ifndef STAGEBRIDGE_CLOCK_H
#define STAGEBRIDGE_CLOCK_H

#include "stagebridge/base.h"

#define SB_CLOCK_SKEW_MS 120000 /* tolerance on expiry of signed records */

int64_t sb_mono_ms(void);
int64_t sb_mono_us(void);
int64_t sb_wall_ms(void);
int64_t sb_wall_us(void);

/** "2026-03-02T09:15:01.234Z" (RFC 3339, 24 characters); out holds 25 bytes. */
#define SB_TIME_LEN 24
void sb_time_format(char out[SB_TIME_LEN + 1], int64_t wall_ms);
/** Exactly the form above; false on anything else. */
bool sb_time_parse(const char *s, int64_t *ret_ms);
/** What people type: that form, or without the milliseconds. */
bool sb_time_parse_typed(const char *s, int64_t *ret_ms);

/** Exponential back-off with full jitter: attempt 0,1,2... -> ms in [base/2, min(cap, base * 2^attempt)]. */
int64_t sb_backoff_ms(unsigned attempt, int64_t base_ms, int64_t cap_ms);

#endif
