/* Lanes: the threads of a daemon, their stop flag, their wake-ups and their restarts. Threads: a lane's function runs
 * on its own thread; starting, stopping and freeing belong to the main thread; waking and reporting are for any. Owns
 * the threads, one eventfd per lane, and the lanes' public state behind one mutex. A lane's life: running -> (error)
 * backoff -> running ... -> stopped. */
#include "stagebridge/lane.h"

#include <assert.h>
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "stagebridge/text.h"

#define LANES_MAX 1024
#define BACKOFF_BASE_MS 200
#define BACKOFF_CAP_MS 30000
#define STEADY_MS 60000   /* a run of this length ends the back-off count even when the lane notes nothing */
#define FREE_DEADLINE_MS 10000

enum lane_state { LANE_RUNNING, LANE_BACKOFF, LANE_STOPPED };

struct sb_lane {
	struct sb_lanes *lanes;
	char *name;
	sb_lane_fn fn;
	void *user;
	pthread_t thread;
	int wake_fd;
	bool joined;             /* main thread only */
	/* behind lanes->lock */
	enum lane_state state;
	int64_t since_ms;        /* monotonic: of this state */
	int64_t since_wall_ms;
	int64_t failing_since_ms; /* 0: not since the last note */
	unsigned attempt;
	uint64_t restarts;
	char note[160];
	struct sb_error last;
};

struct sb_lanes {
	pthread_mutex_t lock;
	pthread_cond_t changed; /* a lane stopped, or the stop flag is up */
	atomic_bool stopping;
	struct sb_lane *lane[LANES_MAX];
	size_t count;
};

int sb_lanes_new(struct sb_lanes **ret, struct sb_error *err)
{
	struct sb_lanes *lanes = calloc(1, sizeof(*lanes));
	pthread_condattr_t attr;
	int e;

	if (lanes == NULL)
		return sb_fail_nomem(err);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	e = pthread_cond_init(&lanes->changed, &attr);
	pthread_condattr_destroy(&attr);
	if (e == 0)
		e = pthread_mutex_init(&lanes->lock, NULL);
	if (e != 0) {
		free(lanes);
		return sb_fail_errno(err, e, "could not make the lanes");
	}
	atomic_init(&lanes->stopping, false);
	*ret = lanes;
	return SB_OK;
}

static void lane_free(struct sb_lane *lane)
{
	if (lane == NULL)
		return;
	sb_closep(&lane->wake_fd);
	free(lane->name);
	free(lane);
}

static struct timespec mono_deadline(int64_t at_ms)
{
	return (struct timespec){ .tv_sec = (time_t)(at_ms / 1000), .tv_nsec = (long)(at_ms % 1000) * 1000000 };
}

/* The lock is held. */
static void set_state(struct sb_lane *lane, enum lane_state state)
{
	lane->state = state;
	lane->since_ms = sb_mono_ms();
	lane->since_wall_ms = sb_wall_ms();
}

/* Notes the failure and tells how long to wait. ret_new: another reason than last time. */
static int64_t lane_failed(struct sb_lane *lane, const struct sb_error *err, bool *ret_new)
{
	int64_t wait_ms;

	pthread_mutex_lock(&lane->lanes->lock);
	if (sb_mono_ms() - lane->since_ms >= STEADY_MS) {
		lane->attempt = 0;
		lane->failing_since_ms = 0;
	}
	*ret_new = lane->failing_since_ms == 0 || strcmp(lane->last.msg, err->msg) != 0;
	wait_ms = sb_backoff_ms(lane->attempt++, BACKOFF_BASE_MS, BACKOFF_CAP_MS);
	lane->restarts++;
	lane->last = *err;
	set_state(lane, LANE_BACKOFF);
	if (lane->failing_since_ms == 0)
		lane->failing_since_ms = lane->since_ms;
	pthread_mutex_unlock(&lane->lanes->lock);
	return wait_ms;
}

/* Sleeps until the time is over or the stop flag is up. Not on wake_fd: a wake-up now is for the next run. */
static void lane_back_off(struct sb_lane *lane, int64_t wait_ms)
{
	struct timespec until = mono_deadline(sb_mono_ms() + wait_ms);
	int e = 0;

	pthread_mutex_lock(&lane->lanes->lock);
	while (!sb_lane_stopping(lane) && e != ETIMEDOUT)
		e = pthread_cond_timedwait(&lane->lanes->changed, &lane->lanes->lock, &until);
	set_state(lane, LANE_RUNNING);
	pthread_mutex_unlock(&lane->lanes->lock);
}

static void lane_log(const struct sb_lane *lane, const struct sb_error *err, bool is_new, int64_t wait_ms)
{
	if (is_new)
		sb_log_error(SB_WARN, "lane_failed", err, "lane=%s retry_ms=%lld", lane->name, (long long)wait_ms);
	else
		sb_log_limited(SB_WARN, "lane_still_failing", lane->name, err);
}

static void *lane_main(void *arg)
{
	struct sb_lane *lane = arg;

	while (!sb_lane_stopping(lane)) {
		struct sb_error err = SB_ERROR_INIT;
		bool is_new = false;
		int64_t wait_ms;
		int r = lane->fn(lane, lane->user, &err);
		if (sb_lane_stopping(lane)) {
			if (r < 0 && r != SB_ESHUTDOWN)
				sb_log_error(SB_INFO, "lane_ended_with_error", &err, "lane=%s", lane->name);
			break;
		}
		if (r >= 0)
			(void)sb_fail(&err, SB_ESTATE,
				"ended without having been asked to"); /* is restarted like a failure */
		wait_ms = lane_failed(lane, &err, &is_new);
		lane_log(lane, &err, is_new, wait_ms);
		lane_back_off(lane, wait_ms);
	}
	pthread_mutex_lock(&lane->lanes->lock);
	set_state(lane, LANE_STOPPED);
	pthread_cond_broadcast(&lane->lanes->changed);
	pthread_mutex_unlock(&lane->lanes->lock);
	return NULL;
}

/* The lock is held. */
static int lane_add(struct sb_lanes *lanes, struct sb_lane *lane, struct sb_error *err)
{
	char title[16]; /* the kernel's limit */
	int e;

	if (atomic_load(&lanes->stopping))
		return sb_fail(err, SB_ESHUTDOWN, "lane \"%s\" is not started: shutting down", lane->name);
	if (lanes->count == LANES_MAX)
		return sb_fail(err, SB_ETOOBIG, "more than %d lanes", LANES_MAX);
	for (size_t i = 0; i < lanes->count; i++)
		if (strcmp(lanes->lane[i]->name, lane->name) == 0)
			return sb_fail(err, SB_ECONFLICT, "there is a lane \"%s\" already", lane->name);
	set_state(lane, LANE_RUNNING);
	e = pthread_create(&lane->thread, NULL, lane_main, lane);
	if (e != 0)
		return sb_fail_errno(err, e, "could not start lane \"%s\"", lane->name);
	(void)snprintf(title, sizeof(title), "%s", lane->name); /* a cut title is good enough for top(1) */
	(void)pthread_setname_np(lane->thread, title);
	lanes->lane[lanes->count++] = lane;
	return SB_OK;
}

int sb_lanes_start(struct sb_lanes *lanes, const char *name, sb_lane_fn fn, void *user, struct sb_error *err)
{
	struct sb_lane *lane = calloc(1, sizeof(*lane));
	int r;

	if (lane == NULL)
		return sb_fail_nomem(err);
	lane->lanes = lanes;
	lane->fn = fn;
	lane->user = user;
	lane->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	lane->name = sb_strdup(name);
	if (lane->name == NULL) {
		r = sb_fail_nomem(err);
	} else if (lane->wake_fd < 0) {
		r = sb_fail_errno(err, errno, "could not start lane \"%s\"", name);
	} else {
		pthread_mutex_lock(&lanes->lock);
		r = lane_add(lanes, lane, err);
		pthread_mutex_unlock(&lanes->lock);
	}
	if (r < 0)
		lane_free(lane);
	return r;
}

static void wake(const struct sb_lane *lane)
{
	uint64_t one = 1;

	/* fails only when the counter is full, and then the lane is being woken anyway */
	if (write(lane->wake_fd, &one, sizeof(one)) < 0)
		return;
}

void sb_lanes_wake(struct sb_lanes *lanes, const char *name)
{
	size_t n = strlen(name);
	bool prefix = n > 0 && name[n - 1] == '*';

	pthread_mutex_lock(&lanes->lock);
	for (size_t i = 0; i < lanes->count; i++) {
		const struct sb_lane *lane = lanes->lane[i];
		if (prefix ? strncmp(lane->name, name, n - 1) == 0 : strcmp(lane->name, name) == 0)
			wake(lane);
	}
	pthread_mutex_unlock(&lanes->lock);
}

/* The lock is held. */
static struct sb_lane *first_not_stopped(struct sb_lanes *lanes)
{
	for (size_t i = 0; i < lanes->count; i++)
		if (lanes->lane[i]->state != LANE_STOPPED)
			return lanes->lane[i];
	return NULL;
}

int sb_lanes_stop(struct sb_lanes *lanes, int64_t deadline_ms, struct sb_error *err)
{
	struct timespec until = mono_deadline(sb_mono_ms() + (deadline_ms < 0 ? 0 : deadline_ms));
	struct sb_lane *left;
	int e = 0, r = SB_OK;

	pthread_mutex_lock(&lanes->lock);
	atomic_store(&lanes->stopping, true);
	pthread_cond_broadcast(&lanes->changed);
	for (size_t i = 0; i < lanes->count; i++)
		wake(lanes->lane[i]);
	while ((left = first_not_stopped(lanes)) != NULL && e != ETIMEDOUT)
		e = pthread_cond_timedwait(&lanes->changed, &lanes->lock, &until);
	if (left != NULL)
		r = sb_fail(err, SB_ETIMEOUT, "lane \"%s\" (%s) did not stop within %lld ms", left->name, left->note,
			    (long long)deadline_ms);
	for (size_t i = 0; i < lanes->count; i++) {
		struct sb_lane *lane = lanes->lane[i];
		if (lane->state != LANE_STOPPED || lane->joined)
			continue;
		lane->joined = true;
		/* it needs the lock once more at most, to leave; nothing is added or freed meanwhile */
		pthread_mutex_unlock(&lanes->lock);
		pthread_join(lane->thread, NULL);
		pthread_mutex_lock(&lanes->lock);
	}
	pthread_mutex_unlock(&lanes->lock);
	return r;
}

void sb_lanes_free(struct sb_lanes *lanes)
{
	if (lanes == NULL)
		return;
	if (sb_lanes_stop(lanes, FREE_DEADLINE_MS, NULL) < 0)
		return; /* a thread that still runs uses all this: the process is about to end, leave it */
	for (size_t i = 0; i < lanes->count; i++)
		lane_free(lanes->lane[i]);
	pthread_mutex_destroy(&lanes->lock);
	pthread_cond_destroy(&lanes->changed);
	free(lanes);
}

static const char *state_name(enum lane_state state)
{
	switch (state) {
	case LANE_RUNNING:
		return "running";
	case LANE_BACKOFF:
		return "backoff";
	case LANE_STOPPED:
		return "stopped";
	}
	return "stopped";
}

/* Returns new; NULL without memory. The lock is held. */
static json_t *lane_json(const struct sb_lane *lane)
{
	char since[SB_TIME_LEN + 1];

	sb_time_format(since, lane->since_wall_ms);
	return json_pack("{s:s, s:s, s:s, s:I, s:s, s:s}", "name", lane->name, "state", state_name(lane->state),
		"since", since, "restarts", (json_int_t)lane->restarts, "note", lane->note, "reason", lane->last.msg);
}

static int buf_sink(const char *p, size_t n, void *out)
{
	sb_buf_add(out, p, n);
	return 0;
}

void sb_lanes_report(struct sb_lanes *lanes, struct sb_buf *out)
{
	json_t *list = json_array();
	bool ok = list != NULL;

	pthread_mutex_lock(&lanes->lock);
	for (size_t i = 0; ok && i < lanes->count; i++)
		ok = json_array_append_new(list, lane_json(lanes->lane[i])) == 0;
	pthread_mutex_unlock(&lanes->lock);
	if (ok)
		ok = json_dump_callback(list, buf_sink, out, JSON_COMPACT) == 0;
	if (!ok)
		out->failed = out->nomem = true;
	json_decref(list);
}

bool sb_lanes_ready(struct sb_lanes *lanes, int64_t grace_ms)
{
	int64_t now_ms = sb_mono_ms();
	bool ready = true;

	pthread_mutex_lock(&lanes->lock);
	for (size_t i = 0; ready && i < lanes->count; i++) {
		const struct sb_lane *lane = lanes->lane[i];
		bool steady = lane->state == LANE_RUNNING && now_ms - lane->since_ms >= STEADY_MS;
		if (lane->state == LANE_STOPPED)
			ready = false;
		else if (lane->failing_since_ms != 0 && !steady && now_ms - lane->failing_since_ms > grace_ms)
			ready = false;
	}
	pthread_mutex_unlock(&lanes->lock);
	return ready;
}

/* ---- for the lane's own thread ---- */

bool sb_lane_stopping(const struct sb_lane *lane)
{
	return atomic_load(&lane->lanes->stopping);
}

const char *sb_lane_name(const struct sb_lane *lane)
{
	return lane->name;
}

int sb_lane_wait(struct sb_lane *lane, struct pollfd *fds, nfds_t n, int64_t timeout_ms)
{
	struct pollfd set[SB_LANE_FDS_MAX + 1];
	int64_t until_ms = sb_mono_ms() + timeout_ms;
	uint64_t count;
	int ready = 0;

	assert(n <= SB_LANE_FDS_MAX);
	set[0] = (struct pollfd){ .fd = lane->wake_fd, .events = POLLIN };
	if (n > 0)
		memcpy(set + 1, fds, n * sizeof(*fds));
	while (!sb_lane_stopping(lane)) {
		int64_t left_ms = timeout_ms < 0 ? -1 : until_ms - sb_mono_ms();
		if (timeout_ms >= 0 && left_ms < 0)
			left_ms = 0;
		ready = poll(set, n + 1, left_ms > INT_MAX ? INT_MAX : (int)left_ms);
		if (ready > 0 || (ready == 0 && left_ms <= INT_MAX))
			break;
		if (ready < 0 && errno != EINTR)
			break; /* EINVAL or ENOMEM count as a time-out: the lane looks at its descriptors itself */
	}
	if (ready <= 0) {
		for (nfds_t i = 0; i < n; i++)
			fds[i].revents = 0;
		return 0;
	}
	if (n > 0)
		memcpy(fds, set + 1, n * sizeof(*fds));
	if (set[0].revents != 0) {
		if (read(lane->wake_fd, &count, sizeof(count)) == (ssize_t)sizeof(count))
			ready--;
	}
	return ready;
}

void sb_lane_note(struct sb_lane *lane, const char *fmt, ...)
{
	char note[sizeof(lane->note)];
	va_list ap;

	va_start(ap, fmt);
	if (vsnprintf(note, sizeof(note), fmt, ap) < 0)
		note[0] = '\0';
	va_end(ap);
	sb_text_tidy(note); /* a cut one may end in half a character */
	pthread_mutex_lock(&lane->lanes->lock);
	memcpy(lane->note, note, sizeof(note));
	lane->attempt = 0;
	lane->failing_since_ms = 0;
	pthread_mutex_unlock(&lane->lanes->lock);
}

/* ---- signals ---- */

static void waited_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGHUP);
}

int sb_signals_block(struct sb_error *err)
{
	sigset_t set;
	int e;

	waited_signals(&set);
	sigaddset(&set, SIGPIPE); /* a peer that hangs up is an error of write(2), not the end of us */
	e = pthread_sigmask(SIG_BLOCK, &set, NULL);
	return e == 0 ? SB_OK : sb_fail_errno(err, e, "could not block signals");
}

int sb_signals_wait(void)
{
	sigset_t set;
	int signo;

	waited_signals(&set);
	do
		signo = sigwaitinfo(&set, NULL);
	while (signo < 0 && errno == EINTR);
	return signo;
}
