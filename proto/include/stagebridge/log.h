/* One emitter: logfmt (default) or JSON lines on stderr. Fields are for machines, the event name is stable. Never payloads,
 * row values or secrets: what is passed here will be printed. Thread-safe. */
#ifndef STAGEBRIDGE_LOG_H
#define STAGEBRIDGE_LOG_H

#include "stagebridge/base.h"
#include "stagebridge/error.h"

enum sb_level { SB_DEBUG, SB_INFO, SB_WARN, SB_ERROR };

/** Once, at the start of main. component: "agent", "hub", "cli"; scope: stage name or "" (both copied). */
void sb_log_init(const char *component, const char *scope, enum sb_level min, bool json);
bool sb_log_on(enum sb_level level);

/**
 * One line: ts level comp stage ev, then the fields.
 * @param event  stable identifier, snake_case: "snapshot_started"
 * @param fmt    "key=%d other=%s": keys separated by spaces in fmt; values are quoted and escaped as needed; at most 16 fields,
 *               a line is cut at 4 KiB and marked; NULL: no fields. Example: sb_log(SB_INFO, "batch_sent", "type=%s rows=%u", type, n)
 * Values that contain spaces are fine: each %-conversion is formatted on its own.
 */
void sb_log(enum sb_level level, const char *event, const char *fmt, ...) SB_PRINTF(3, 4);
/** sb_log with err's code, sqlstate and message as the last fields (error=..., reason="..."). */
void sb_log_error(enum sb_level level, const char *event, const struct sb_error *err, const char *fmt, ...) SB_PRINTF(4, 5);
/** The same event repeated: first one is logged, then one summary a minute with suppressed=N. Keyed by event + key. */
void sb_log_limited(enum sb_level level, const char *event, const char *key, const struct sb_error *err);

#endif
