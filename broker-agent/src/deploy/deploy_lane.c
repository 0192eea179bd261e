/* The deploy lane: takes jobs of kind "git" and "deploy" from the state, one at a time, in order. A job whose pack has not arrived is put
 * aside and queued again when a pack was indexed. A kill leaves the job "running": it is taken again, and every step may run twice. */
#include "deploy.h"

#include "stagebridge/log.h"

#define IDLE_MS 30000

/* 1: did something, 0: nothing queued */
static int one(struct agent *a, struct sb_db *db, const char *kind, struct sb_error *err)
{
	json_auto_t *payload = NULL;
	struct sb_error why = SB_ERROR_INIT;
	int64_t id = 0;
	char ref[200];

	int r = agent_job_take(db, kind, &id, ref, sizeof(ref), &payload, err);
	if (r <= 0)
		return r;
	int done = kind[0] == 'g' ? agent_git_job(a, db, ref, payload, &why) : agent_deploy_job(a, db, payload, &why);
	if (done == 1) {
		r = agent_job_wait(db, id, err);
	} else if (done < 0 && why.retriable) {
		*err = why; /* the lane backs off; the job stays "running" and is taken again */
		return done;
	} else {
		if (done < 0)
			sb_log_error(SB_ERROR, "job_failed", &why, "kind=%s ref=%s", kind, ref);
		r = agent_job_end(db, id, done == 0, done < 0 ? why.msg : "", err);
	}
	if (r == 0 && done == 0 && kind[0] == 'g') {
		r = agent_job_resume(db, "git", err);
		if (r == 0)
			r = agent_job_resume(db, "deploy", err);
	}
	return r < 0 ? r : 1;
}

int agent_deploy_lane(struct sb_lane *lane, void *user, struct sb_error *err)
{
	struct agent *a = user;
	struct sb_db *db = NULL;

	int r = agent_state_open(&db, a, err);
	if (r == 0)
		r = agent_job_resume(db, "git", err);
	if (r == 0)
		r = agent_job_resume(db, "deploy", err);
	while (r >= 0 && !sb_lane_stopping(lane)) {
		sb_lane_note(lane, "waiting for orders");
		r = one(a, db, "git", err);
		if (r == 0)
			r = one(a, db, "deploy", err);
		if (r == 0)
			(void)sb_lane_wait(lane, NULL, 0, IDLE_MS);
	}
	sb_db_close(db);
	return r < 0 ? r : 0;
}
