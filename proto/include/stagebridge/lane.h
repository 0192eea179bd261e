/* A lane is one thread that owns all it works with (its broker handles, its database connection) and shares nothing: lanes talk
 * through the daemon's durable store (SQLite in the agent, PostgreSQL in the hub) and wake each other. A lane's function runs
 * until the stop flag is up; when it returns an error, the lane logs it once, backs off with jitter and runs it again. */
#ifndef STAGEBRIDGE_LANE_H
#define STAGEBRIDGE_LANE_H

#include <poll.h>

#include "stagebridge/base.h"
#include "stagebridge/buf.h"
#include "stagebridge/error.h"

#define SB_LANE_FDS_MAX 64 /* descriptors of one sb_lane_wait */

struct sb_lane;
struct sb_lanes; /* all the lanes of a daemon */

/** The body. Return SB_OK only when sb_lane_stopping(); an error means "restart me" (after back-off, at most 30 s). */
typedef int (*sb_lane_fn)(struct sb_lane *lane, void *user, struct sb_error *err);

int sb_lanes_new(struct sb_lanes **ret, struct sb_error *err) SB_MUSTCHECK;
/** Starts a thread. name is copied and must be unique: it labels logs and metrics and is how others wake it. */
int sb_lanes_start(struct sb_lanes *lanes, const char *name, sb_lane_fn fn, void *user, struct sb_error *err) SB_MUSTCHECK;
/** Any thread: makes sb_lane_wait of that lane return at once. Unknown names are ignored. "prefix*" wakes all that match. */
void sb_lanes_wake(struct sb_lanes *lanes, const char *name);
/** Raises the stop flag of all, wakes all, joins; a lane that is not done after deadline_ms is reported and the process aborted by the caller (SB_ETIMEOUT). */
int sb_lanes_stop(struct sb_lanes *lanes, int64_t deadline_ms, struct sb_error *err) SB_MUSTCHECK;
/** Stops first when that was not done (10 s at most); what a thread that does not end still uses is left alone. NULL is fine. */
void sb_lanes_free(struct sb_lanes *lanes);
/** One JSON object per lane in an array: name, state (running|backoff|stopped), since, restarts, note, reason. For /readyz and `doctor`. */
void sb_lanes_report(struct sb_lanes *lanes, struct sb_buf *out);
/** True when every lane runs and none has been in back-off for more than grace_ms. */
bool sb_lanes_ready(struct sb_lanes *lanes, int64_t grace_ms);

/* For the lane's own thread */
bool sb_lane_stopping(const struct sb_lane *lane);
const char *sb_lane_name(const struct sb_lane *lane);
/**
 * poll(2) on the lane's wake descriptor and on fds (at most SB_LANE_FDS_MAX; revents are set), for at most timeout_ms (-1: no limit).
 * Returns the number of ready fds of the caller; 0 on a wake-up, time-out or stop. Wake-ups are consumed.
 */
int sb_lane_wait(struct sb_lane *lane, struct pollfd *fds, nfds_t n, int64_t timeout_ms);
/** Says that the lane works (ends the back-off count) and what it does now, for people: "streaming", "waiting for broker". Cheap. */
void sb_lane_note(struct sb_lane *lane, const char *fmt, ...) SB_PRINTF(2, 3);

/** Blocks until SIGTERM/SIGINT (returns it) or SIGHUP; main thread only; call sb_signals_block() before any thread starts. */
int sb_signals_block(struct sb_error *err) SB_MUSTCHECK;
int sb_signals_wait(void);

#endif
