/* Reports of orders: the ledger, what is in the stage, and the event to the hub change together. */
#include <string.h>

#include "deploy.h"
#include "stagebridge/clock.h"

int agent_current(struct sb_db *db, const char *origin, char out[65], struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(db, &st, err, "SELECT artifact FROM deployment WHERE origin = ?", "s", origin);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	return sb_format(out, 65, err, "%s", r ? sb_db_text(st, 0) : "");
}

static int in_place(const char *state)
{
	return strcmp(state, "applied") == 0 || strcmp(state, "healthy") == 0;
}

static int set_deployment(struct sb_db *db, const struct agent_order *o, const char *state, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *manifest = json_dumps(o->manifest, JSON_COMPACT | JSON_SORT_KEYS);
	char before[65];

	if (!manifest)
		return sb_fail_nomem(err);
	int r = agent_current(db, o->origin, before, err);
	if (r < 0)
		return r;
	if (strcmp(before, o->artifact) == 0)
		return sb_db_run(db, NULL, err, "UPDATE deployment SET state = ? WHERE origin = ?", "ss", state, o->origin);
	return sb_db_run(db, NULL, err,
		"INSERT OR REPLACE INTO deployment(origin, artifact, commit_oid, tree, manifest, state, since_ms, previous_artifact) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
		"ssssssis", o->origin, o->artifact, o->commit, o->tree, manifest, state, sb_wall_ms(), before);
}

static int put(struct agent *a, struct sb_db *db, const struct agent_order *o, const struct agent_outcome *out, struct sb_error *err)
{
	json_auto_t *body = NULL;
	char current[65];

	int r = agent_current(db, o->origin, current, err);
	if (r < 0)
		return r;
	body = json_pack("{s:s, s:I, s:I, s:s, s:s, s:s, s:s, s:s, s:s%, s:I}", "promotion", o->promotion, "attempt", (json_int_t)o->attempt, "lease", (json_int_t)o->lease,
		"origin", o->origin, "artifact", o->artifact, "state", out->state, "current", current, "reason", out->reason, "output", out->output.data, out->output.len,
		"duration_ms", (json_int_t)out->duration_ms);
	if (!body)
		return sb_fail(err, SB_EINVAL, "report of promotion %s is not valid UTF-8", o->promotion);
	return agent_outbox_put(a, db, SB_EV_DEPLOYMENT_REPORTED, o->promotion, body, err);
}

int agent_report(struct agent *a, struct sb_db *db, const struct agent_order *o, const struct agent_outcome *out, struct sb_error *err)
{
	int r = sb_db_begin(db, err);

	if (r == 0 && in_place(out->state))
		r = set_deployment(db, o, out->state, err);
	if (r == 0)
		r = sb_db_run(db, NULL, err, "UPDATE deploy_order SET state = ?, report = ? WHERE promotion = ? AND attempt = ?", "sssi", out->state, out->reason, o->promotion, o->attempt);
	if (r == 0)
		r = put(a, db, o, out, err);
	if (r == 0)
		r = sb_db_commit(db, err);
	if (r < 0)
		sb_db_rollback(db);
	else
		agent_wake_courier(a);
	return r;
}
