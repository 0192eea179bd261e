/* Carrying out orders: Git objects into the stage's repository, artifacts into place. All of it runs on the deploy lane. */
#ifndef AGENT_DEPLOY_H
#define AGENT_DEPLOY_H

#include "state.h"
#include "stagebridge/git.h"

#define AGENT_OUTPUT_MAX 8192     /* bytes of a hook's output that go into the report */
#define AGENT_PACK_OBJECTS_MAX 5000000
#define AGENT_RELEASES_KEPT 3

/** An order, borrowed from its JSON; parsed and checked once. */
struct agent_order {
	const char *promotion, *origin, *artifact, *commit, *tree, *expected_current, *kind, *transfer;
	int64_t attempt, lease;
	const json_t *manifest;
};
int agent_order_parse(struct agent_order *ret, const json_t *body, struct sb_error *err) SB_MUSTCHECK;

/** What happened, for the hub. state: accepted | applied | healthy | failed | conflict | errored. */
struct agent_outcome { const char *state; char reason[480]; struct sb_buf output; int64_t duration_ms; };

const struct agent_origin *agent_origin_find(const struct agent *a, const char *name);
/** The stage's bare repository of an origin: <state_dir>/git/<origin>.git; made when missing. */
int agent_repo_open(struct sb_repo **ret, const struct agent *a, const char *origin, struct sb_error *err) SB_MUSTCHECK;
int agent_repo_path(char *out, size_t size, const struct agent *a, const char *origin, struct sb_error *err) SB_MUSTCHECK;

/** Before any lane or the API runs: what a killed predecessor left in the repositories. */
int agent_repos_sweep(const struct agent *a, struct sb_error *err) SB_MUSTCHECK;

/** Ledger, deployment row and report event in one transaction; wakes the courier. */
int agent_report(struct agent *a, struct sb_db *db, const struct agent_order *o, const struct agent_outcome *out, struct sb_error *err) SB_MUSTCHECK;
/** The artifact that is in place; "" when none. */
int agent_current(struct sb_db *db, const char *origin, char out[65], struct sb_error *err) SB_MUSTCHECK;

/** Writes the release beside the others, switches `current`, runs hook and health check; on failure the former release is put back.
 * 0 with the outcome filled, whatever it is; an error is technical trouble of ours. */
int agent_release(struct agent *a, struct sb_repo *repo, const struct agent_origin *origin, const struct agent_order *o, struct agent_outcome *out, struct sb_error *err) SB_MUSTCHECK;

/** Jobs of kind "git": an arrived pack (ref = transfer), or refs that the hub announced (ref = "refs/..."). 1: put aside until a pack comes. */
int agent_git_job(struct agent *a, struct sb_db *db, const char *ref, const json_t *payload, struct sb_error *err) SB_MUSTCHECK;
/** Job of kind "deploy". 1: put aside until its pack comes. */
int agent_deploy_job(struct agent *a, struct sb_db *db, const json_t *payload, struct sb_error *err) SB_MUSTCHECK;

#endif
