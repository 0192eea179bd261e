/* Errors: a negative code from one table, and a caller-owned object with the reason in words. */
#ifndef STAGEBRIDGE_ERROR_H
#define STAGEBRIDGE_ERROR_H

#include "stagebridge/base.h"

/*       name       value  retriable http exit  meaning */
#define SB_ERROR_TABLE(X)                                                             \
	X(ENOMEM,     -1,  true,  503, 3, "out of memory")                            \
	X(EINVAL,     -2,  false, 400, 1, "invalid argument or input")                \
	X(ENOTFOUND,  -3,  false, 404, 2, "not found")                                \
	X(ECONFLICT,  -4,  false, 409, 2, "conflicts with the present state")         \
	X(ETOOBIG,    -5,  false, 413, 2, "larger than its limit")                    \
	X(EPROTO,     -6,  false, 400, 2, "breaks the wire contract")                 \
	X(ESIG,       -7,  false, 403, 2, "signature or digest does not hold")        \
	X(EAUTH,      -8,  false, 403, 2, "not allowed")                              \
	X(ETIMEOUT,   -9,  true,  504, 124, "no answer in time")                      \
	X(EAGAIN,     -10, true,  503, 3, "busy, try again")                          \
	X(EIO,        -11, true,  500, 3, "input or output failed")                   \
	X(EKAFKA,     -12, true,  503, 3, "broker")                                   \
	X(EDB,        -13, true,  503, 3, "database")                                 \
	X(EDATA,      -14, false, 422, 2, "the database refused the data")            \
	X(EGIT,       -15, false, 500, 2, "git")                                      \
	X(EHTTP,      -16, true,  502, 3, "remote HTTP service")                      \
	X(ESTATE,     -17, false, 409, 2, "not possible in this state")               \
	X(ECONFIG,    -18, false, 500, 78, "configuration")                           \
	X(ESHUTDOWN,  -19, true,  503, 3, "shutting down")                            \
	X(EREFUSED,   -20, false, 403, 4, "refused by a policy")

enum sb_code {
	SB_OK = 0,
#define SB_X(name, value, retriable, http, exit, text) SB_##name = value,
	SB_ERROR_TABLE(SB_X)
#undef SB_X
};

/** Lives on the caller's stack; SB_ERROR_INIT first. Never allocates. */
struct sb_error {
	enum sb_code code;
	bool retriable;
	char state[6];  /* foreign code where there is one: SQLSTATE; else "" */
	char msg[480];  /* one line, lower case, no period; never a secret, never a row value */
};
#define SB_ERROR_INIT { .code = SB_OK }

/** Fills err (may be NULL) and returns code, so that `return sb_fail(err, SB_EPROTO, ...)` reads well. Cut messages end in "...". */
int sb_fail(struct sb_error *err, enum sb_code code, const char *fmt, ...) SB_PRINTF(3, 4);

/** Puts "context: " before the message that is there; code and flags stay. Returns err's code (SB_OK when err is NULL). */
int sb_fail_prefix(struct sb_error *err, const char *fmt, ...) SB_PRINTF(2, 3);

/** sb_fail with ": " and strerror(errno_value) appended; code SB_EIO (SB_ENOMEM for ENOMEM, SB_ENOTFOUND for ENOENT). */
int sb_fail_errno(struct sb_error *err, int errno_value, const char *fmt, ...) SB_PRINTF(3, 4);

int sb_fail_nomem(struct sb_error *err);

const char *sb_code_name(enum sb_code code);    /* "EPROTO"; "OK"; "?" */
const char *sb_code_text(enum sb_code code);
bool sb_code_retriable(enum sb_code code);
int sb_code_http(enum sb_code code);            /* status for problem+json; 200 for SB_OK */
int sb_code_exit(enum sb_code code);            /* exit status for a command; 0 for SB_OK */

#endif
