/* The one log emitter. Any thread; owns the process's log settings and the table of repeated events, both behind one
 * mutex. A line is built in a stack buffer and leaves by one write(2) of at most PIPE_BUF bytes, so lines of several
 * threads and processes on one pipe never mix (log_line.c makes it). */
#include "stagebridge/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "log_line.h"
#include "stagebridge/clock.h"
#include "stagebridge/text.h"

#define LIMITED_MAX 128
#define LIMITED_MS 60000

struct limited {
	char event[64];
	char key[128];
	char code[16];
	enum sb_level level;
	int64_t since_ms; /* when it was last logged */
	unsigned suppressed;
	bool used;
};

static struct {
	pthread_mutex_t lock;
	char component[32];
	char scope[SB_NAME_MAX + 1];
	_Atomic int min;
	bool json;
	struct limited limited[LIMITED_MAX];
} sink = { .lock = PTHREAD_MUTEX_INITIALIZER, .min = SB_INFO };

void sb_log_init(const char *component, const char *scope, enum sb_level min, bool json)
{
	pthread_mutex_lock(&sink.lock);
	(void)snprintf(sink.component, sizeof(sink.component), "%s", component); /* our own short words */
	(void)snprintf(sink.scope, sizeof(sink.scope), "%s", scope);
	sink.min = (int)min;
	sink.json = json;
	pthread_mutex_unlock(&sink.lock);
}

bool sb_log_on(enum sb_level level)
{
	return (int)level >= sink.min;
}

static const char *level_name(enum sb_level level)
{
	switch (level) {
	case SB_DEBUG:
		return "debug";
	case SB_INFO:
		return "info";
	case SB_WARN:
		return "warn";
	case SB_ERROR:
		return "error";
	}
	return "error";
}

/* The leading fields. The lock is held. */
static void line_begin(struct sb_log_line *l, enum sb_level level, const char *event)
{
	char ts[SB_TIME_LEN + 1];

	sb_log_line_begin(l, sink.json);
	sb_time_format(ts, sb_wall_ms());
	sb_log_line_string(l, "ts", ts);
	sb_log_line_string(l, "level", level_name(level));
	if (sink.component[0] != '\0')
		sb_log_line_string(l, "comp", sink.component);
	if (sink.scope[0] != '\0')
		sb_log_line_string(l, "stage", sink.scope);
	sb_log_line_string(l, "ev", event);
}

static void line_write(struct sb_log_line *l)
{
	size_t n = sb_log_line_end(l), done = 0;

	while (done < n) {
		ssize_t w = write(STDERR_FILENO, l->text + done, n - done);
		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return; /* there is nowhere to complain to */
		done += (size_t)w;
	}
}

static void line_error(struct sb_log_line *l, const struct sb_error *err)
{
	if (err == NULL)
		return;
	sb_log_line_string(l, "error", sb_code_name(err->code));
	if (err->state[0] != '\0')
		sb_log_line_string(l, "sqlstate", err->state);
	sb_log_line_string(l, "reason", err->msg);
}

/* ---- repeated events; the lock is held ---- */

/* Tells how often an event was held back whose minute is over. */
static void limited_flush(struct limited *slot)
{
	struct sb_log_line l;
	char count[16];
	int n = snprintf(count, sizeof(count), "%u", slot->suppressed);

	line_begin(&l, slot->level, slot->event);
	sb_log_line_string(&l, "key", slot->key);
	if (slot->code[0] != '\0')
		sb_log_line_string(&l, "error", slot->code);
	sb_log_line_field(&l, "suppressed", strlen("suppressed"), count, n > 0 ? (size_t)n : 0, true);
	line_write(&l);
	slot->suppressed = 0;
}

static void limited_sweep(int64_t now_ms)
{
	for (size_t i = 0; i < LIMITED_MAX; i++) {
		struct limited *slot = &sink.limited[i];
		if (!slot->used || now_ms - slot->since_ms < LIMITED_MS)
			continue;
		if (slot->suppressed > 0) {
			limited_flush(slot);
			slot->since_ms = now_ms; /* it repeats: the next minute is summed up too */
		} else {
			slot->used = false;
		}
	}
}

/* The slot of (event, key); a new one is taken from the longest silent when all are used. */
static struct limited *limited_slot(const char *event, const char *key, bool *ret_new)
{
	struct limited *oldest = &sink.limited[0];

	for (size_t i = 0; i < LIMITED_MAX; i++) {
		struct limited *slot = &sink.limited[i];
		if (slot->used && strncmp(slot->event, event, sizeof(slot->event) - 1) == 0 &&
		    strncmp(slot->key, key, sizeof(slot->key) - 1) == 0) {
			*ret_new = false;
			return slot;
		}
		if (oldest->used && (!slot->used || slot->since_ms < oldest->since_ms))
			oldest = slot;
	}
	if (oldest->used && oldest->suppressed > 0)
		limited_flush(oldest);
	*ret_new = true;
	*oldest = (struct limited){ .used = true };
	(void)snprintf(oldest->event, sizeof(oldest->event), "%s", event); /* compared to the same length above */
	(void)snprintf(oldest->key, sizeof(oldest->key), "%s", key);
	return oldest;
}

/* ---- entry points ---- */

static void emit(
	enum sb_level level, const char *event, const char *fmt, struct sb_log_args *a, const struct sb_error *err)
{
	struct sb_log_line l;

	pthread_mutex_lock(&sink.lock);
	limited_sweep(sb_mono_ms());
	line_begin(&l, level, event);
	if (a != NULL)
		sb_log_line_walk(&l, fmt, a);
	line_error(&l, err);
	line_write(&l);
	pthread_mutex_unlock(&sink.lock);
}

void sb_log(enum sb_level level, const char *event, const char *fmt, ...)
{
	struct sb_log_args a;

	if (!sb_log_on(level))
		return;
	va_start(a.ap, fmt);
	emit(level, event, fmt, &a, NULL);
	va_end(a.ap);
}

void sb_log_error(enum sb_level level, const char *event, const struct sb_error *err, const char *fmt, ...)
{
	struct sb_log_args a;

	if (!sb_log_on(level))
		return;
	va_start(a.ap, fmt);
	emit(level, event, fmt, &a, err);
	va_end(a.ap);
}

void sb_log_limited(enum sb_level level, const char *event, const char *key, const struct sb_error *err)
{
	bool first = false;
	struct limited *slot;
	int64_t now_ms;

	if (!sb_log_on(level))
		return;
	now_ms = sb_mono_ms();
	pthread_mutex_lock(&sink.lock);
	limited_sweep(now_ms);
	slot = limited_slot(event, key, &first);
	if (first) {
		struct sb_log_line l;
		slot->since_ms = now_ms;
		line_begin(&l, level, event);
		sb_log_line_string(&l, "key", key);
		line_error(&l, err);
		line_write(&l);
	} else {
		slot->suppressed++;
	}
	slot->level = level;
	(void)snprintf(slot->code, sizeof(slot->code), "%s", err != NULL ? sb_code_name(err->code) : "");
	pthread_mutex_unlock(&sink.lock);
}
