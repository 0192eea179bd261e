/* Error objects and the table behind the codes. Any thread: all state is the caller's. Never allocates, so that
 * it works when memory is what ran out. Messages are made clean here (one line, well-formed UTF-8), because they
 * end in logs, JSON and database columns, and foreign texts in them can hold anything. */
#include "stagebridge/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "stagebridge/text.h"

struct code_row {
	enum sb_code code;
	bool retriable;
	int http;
	int exit;
	const char *name;
	const char *text;
};

static const struct code_row code_rows[] = {
	{ SB_OK, false, 200, 0, "OK", "success" },
#define ROW(name, value, retriable, http, exit, text) { SB_##name, retriable, http, exit, #name, text },
	SB_ERROR_TABLE(ROW)
#undef ROW
};

static const struct code_row unknown_code = { SB_EIO, false, 500, 1, "?", "unknown error" };

static const struct code_row *code_row(enum sb_code code)
{
	for (size_t i = 0; i < SB_COUNT(code_rows); i++)
		if (code_rows[i].code == code)
			return &code_rows[i];
	return &unknown_code;
}

/* Ends a message that did not fit in "...", never in half a character. */
static void mark_cut(char *msg, size_t size)
{
	size_t at = size - sizeof("...");

	while (at > 0 && ((unsigned char)msg[at] & 0xc0) == 0x80)
		at--;
	memcpy(msg + at, "...", sizeof("..."));
}

static void set_code(struct sb_error *err, enum sb_code code)
{
	err->code = code;
	err->retriable = sb_code_retriable(code);
	err->state[0] = '\0';
}

/* The text is composed aside first: the arguments may point into err->msg itself. */
SB_PRINTF(2, 0) static void set_message(struct sb_error *err, const char *fmt, va_list ap, const char *tail)
{
	char msg[sizeof(err->msg)];
	int n = vsnprintf(msg, sizeof(msg), fmt, ap);

	if (n < 0)
		n = snprintf(msg, sizeof(msg), "message could not be formatted");
	if ((size_t)n < sizeof(msg) && tail != NULL) {
		size_t at = (size_t)n;
		n += snprintf(msg + at, sizeof(msg) - at, ": %s", tail);
	}
	if ((size_t)n >= sizeof(msg))
		mark_cut(msg, sizeof(msg));
	sb_text_tidy(msg);
	memcpy(err->msg, msg, sizeof(msg));
}

int sb_fail(struct sb_error *err, enum sb_code code, const char *fmt, ...)
{
	va_list ap;

	if (err == NULL)
		return code;
	va_start(ap, fmt);
	set_message(err, fmt, ap, NULL);
	va_end(ap);
	set_code(err, code);
	return code;
}

int sb_fail_prefix(struct sb_error *err, const char *fmt, ...)
{
	char cause[sizeof(err->msg)];
	va_list ap;

	if (err == NULL)
		return SB_OK;
	memcpy(cause, err->msg, sizeof(cause));
	va_start(ap, fmt);
	set_message(err, fmt, ap, cause);
	va_end(ap);
	return err->code;
}

int sb_fail_errno(struct sb_error *err, int errno_value, const char *fmt, ...)
{
	enum sb_code code = errno_value == ENOMEM ? SB_ENOMEM : errno_value == ENOENT ? SB_ENOTFOUND : SB_EIO;
	char space[64];
	va_list ap;

	if (err == NULL)
		return code;
	va_start(ap, fmt);
	set_message(err, fmt, ap, strerror_r(errno_value, space, sizeof(space)));
	va_end(ap);
	set_code(err, code);
	return code;
}

int sb_fail_nomem(struct sb_error *err)
{
	return sb_fail(err, SB_ENOMEM, "%s", sb_code_text(SB_ENOMEM));
}

const char *sb_code_name(enum sb_code code)
{
	return code_row(code)->name;
}

const char *sb_code_text(enum sb_code code)
{
	return code_row(code)->text;
}

bool sb_code_retriable(enum sb_code code)
{
	return code_row(code)->retriable;
}

int sb_code_http(enum sb_code code)
{
	return code_row(code)->http;
}

int sb_code_exit(enum sb_code code)
{
	return code_row(code)->exit;
}
