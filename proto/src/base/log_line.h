/* One log line in the making: fields quoted for logfmt or JSON, and the walk over a format. Private to base. */
#ifndef STAGEBRIDGE_BASE_LOG_LINE_H
#define STAGEBRIDGE_BASE_LOG_LINE_H

#include <stdarg.h>

#include "stagebridge/base.h"

#define SB_LOG_LINE_MAX 4096 /* PIPE_BUF: one write of it is not torn */

struct sb_log_line {
	char text[SB_LOG_LINE_MAX];
	size_t len;
	bool json;
	bool cut;        /* something did not fit; nothing is added any more */
	unsigned fields; /* of the format */
};

/* A va_list inside a struct can be passed on by address and keeps its place, on every ABI. */
struct sb_log_args {
	va_list ap;
};

void sb_log_line_begin(struct sb_log_line *l, bool json);
/** One field; number: p is a plain number, which JSON does not quote. */
void sb_log_line_field(struct sb_log_line *l, const char *key, size_t key_len, const char *p, size_t n, bool number);
void sb_log_line_string(struct sb_log_line *l, const char *key, const char *s);
/** The fields of "key=%d other=%s"; fmt may be NULL. */
void sb_log_line_walk(struct sb_log_line *l, const char *fmt, struct sb_log_args *a);
/** Closes and marks; returns the length, newline and all. */
size_t sb_log_line_end(struct sb_log_line *l);

#endif
