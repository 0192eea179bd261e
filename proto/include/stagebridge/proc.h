/* Child processes: argv only, no shell, listed environment, deadline, bounded output. */
#ifndef STAGEBRIDGE_PROC_H
#define STAGEBRIDGE_PROC_H

#include "stagebridge/base.h"
#include "stagebridge/buf.h"
#include "stagebridge/error.h"

struct sb_proc {
	const char *const *argv;   /* NULL-terminated; argv[0] is a path or found in PATH */
	const char *const *env;    /* NULL-terminated "K=V"; NULL: only PATH, HOME, LANG, TZ of ours */
	const char *cwd;           /* NULL: ours */
	const void *input;         /* written to its standard input, then closed; NULL: /dev/null */
	size_t input_len;
	int64_t timeout_ms;        /* > 0; then SIGTERM, 2 s later SIGKILL, to its whole process group */
	size_t output_max;         /* stdout and stderr together keep the last that many bytes (stdout alone when output_head) */
	bool output_head;          /* keep stdout only, and more than output_max is SB_ETOOBIG */
	uint64_t memory_max;       /* RLIMIT_AS in bytes; 0: ours */
};

/**
 * Runs and waits until it exits; what processes of its own print after that is not waited for.
 * @param ret_status exit status 0..255, or 128 + signal
 * @param out        appended to; may be NULL
 * @return 0 when it ran to its end, whatever the status; SB_ETIMEOUT; SB_EIO could not start; SB_ETOOBIG; SB_EINVAL no program or
 *         no time limit; SB_ENOMEM. On an error, too, out holds what was kept of the output.
 * @thread any, blocks
 */
int sb_proc_run(const struct sb_proc *p, int *ret_status, struct sb_buf *out, struct sb_error *err) SB_MUSTCHECK;

#endif
