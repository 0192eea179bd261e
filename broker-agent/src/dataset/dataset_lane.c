/* The dataset lane: takes jobs of kind "receive" and "dataset", one at a time, in order. A job that meets trouble which may pass is put aside, so that the
 * others go on, and all of them are tried again after a back-off. A kill leaves the job "running": it is taken again, and every step may run twice. */
#include <string.h>

#include "dataset.h"
#include "stagebridge/clock.h"
#include "stagebridge/file.h"
#include "stagebridge/log.h"

#define IDLE_MS 30000
#define RETRY_BASE_MS 1000
#define RETRY_MAX_MS 300000

struct pace {
	unsigned attempts;     /* in a row that put a job aside */
	int64_t retry_at_ms;   /* monotonic; 0: nothing is put aside */
};

static int put_aside(struct sb_db *db, int64_t id, const char *kind, const char *ref, const struct sb_error *why, struct pace *pace, struct sb_error *err)
{
	sb_log_error(SB_WARN, "job_put_aside", why, "kind=%s ref=%s", kind, ref);
	if (pace->retry_at_ms == 0)
		pace->retry_at_ms = sb_mono_ms() + sb_backoff_ms(pace->attempts++, RETRY_BASE_MS, RETRY_MAX_MS);
	return agent_job_wait(db, id, err);
}

/* 1: did something, 0: nothing queued */
static int one(struct agent *a, struct sb_db *db, struct sb_lane *lane, const char *kind, struct pace *pace, struct sb_error *err)
{
	json_auto_t *payload = NULL;
	struct sb_error why = SB_ERROR_INIT;
	int64_t id = 0;
	char ref[200];

	int r = agent_job_take(db, kind, &id, ref, sizeof(ref), &payload, err);
	if (r <= 0)
		return r;
	sb_lane_note(lane, "%s %s", kind, ref);
	int done = kind[0] == 'd' ? agent_dataset_produce(a, db, lane, ref, payload, &why) : agent_dataset_receive(a, db, ref, &why);
	if (done == SB_ESHUTDOWN)
		return 1; /* stays "running": taken again after the start */
	if (done < 0 && why.retriable) {
		r = put_aside(db, id, kind, ref, &why, pace, err);
		return r < 0 ? r : 1;
	}
	if (done < 0)
		sb_log_error(SB_ERROR, "job_failed", &why, "kind=%s ref=%s", kind, ref);
	else
		pace->attempts = 0;
	r = agent_job_end(db, id, done == 0, done < 0 ? why.msg : "", err);
	return r < 0 ? r : 1;
}

static int resume(struct sb_db *db, struct pace *pace, struct sb_error *err)
{
	pace->retry_at_ms = 0;
	int r = agent_job_resume(db, "receive", err);
	return r < 0 ? r : agent_job_resume(db, "dataset", err);
}

/* Opened data of a kill; whatever is in there is made again. */
static int clear_tmp(const struct agent *a, struct sb_error *err)
{
	const char *inbox = a->set.datasets.inbox;
	sb_cleanup(sb_freep) char *tmp = sb_asprintf("%s/.tmp", inbox ? inbox : "");

	if (!tmp)
		return sb_fail_nomem(err);
	return inbox && *inbox ? sb_dir_remove(tmp, err) : 0;
}

static int64_t idle_ms(const struct pace *pace)
{
	int64_t left = pace->retry_at_ms ? pace->retry_at_ms - sb_mono_ms() : IDLE_MS;

	return left < 0 ? 0 : left < IDLE_MS ? left : IDLE_MS;
}

int agent_dataset_lane(struct sb_lane *lane, void *user, struct sb_error *err)
{
	struct agent *a = user;
	struct pace pace = { .attempts = 0 };
	struct sb_db *db = NULL;

	int r = agent_state_open(&db, a, err);
	if (r == 0)
		r = clear_tmp(a, err);
	if (r == 0)
		r = resume(db, &pace, err);
	while (r >= 0 && !sb_lane_stopping(lane)) {
		r = one(a, db, lane, "receive", &pace, err);
		if (r == 0)
			r = one(a, db, lane, "dataset", &pace, err);
		if (r != 0)
			continue;
		sb_lane_note(lane, "waiting for requests");
		if (pace.retry_at_ms && sb_mono_ms() >= pace.retry_at_ms)
			r = resume(db, &pace, err);
		else
			(void)sb_lane_wait(lane, NULL, 0, idle_ms(&pace));
	}
	sb_db_close(db);
	return r < 0 ? r : 0;
}
