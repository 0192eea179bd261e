/* What the files of the git lane share. The lane is the only one that talks to the forge; all others leave rows for it. */
#ifndef HUB_GIT_LANE_H
#define HUB_GIT_LANE_H

#include "forge.h"
#include "transfer.h"

struct hub_git_origin {
	const struct hub_origin *set;
	struct sb_refs remote;        /* branches as last read from the forge */
	char seen[65];                /* digest of what was processed to its end; "" never */
	int64_t next_poll_ms;
	unsigned failures;
	unsigned deferred;            /* turns that a moved stage branch has waited for its pull request to say who merged it */
	bool provisioned;
};

struct hub_git {
	struct hub_world *w;
	struct sb_pg *pg;
	struct sb_lane *lane;
	int64_t generation;
	void *forge;
	const struct hub_forge_api *api;
	struct hub_git_origin *origin;
	size_t n_origins;
};

int hub_git_begin(struct hub_git *g, struct sb_error *err) SB_MUSTCHECK;  /* begin + fence */

#define HUB_GIT_DEFERRED 2
/** Reads the forge's branches; fetches what is new; artifacts, branches and merges by people become rows. 1: something changed; HUB_GIT_DEFERRED: a
 * stage's branch was moved by somebody whose name is not known yet: it is looked at again soon, and must not be moved by us before. */
int hub_git_discover(struct hub_git *g, struct hub_git_origin *o, struct sb_error *err) SB_MUSTCHECK;
/** Pull requests of the forge into lifecycle.pull_request; fates of pushes back to their stages. */
int hub_git_pulls(struct hub_git *g, struct hub_git_origin *o, struct sb_error *err) SB_MUSTCHECK;
/** lifecycle.push in state received whose pack is here: index, push the branch, open the pull request. */
int hub_git_pushes(struct hub_git *g, struct sb_error *err) SB_MUSTCHECK;
/** Moves stage branches to what the stages hold; opens and closes the pull requests of promotions that wait for a person. */
int hub_git_stages(struct hub_git *g, struct hub_git_origin *o, struct sb_error *err) SB_MUSTCHECK;
/** Sends commit statuses that changed. */
int hub_git_statuses(struct hub_git *g, struct sb_error *err) SB_MUSTCHECK;
/** Reads what other systems said about the commits of promotions that wait for it. */
int hub_git_checks(struct hub_git *g, struct hub_git_origin *o, struct sb_error *err) SB_MUSTCHECK;
/** Tells the first stage's repository about main, stage heads and pull requests. */
int hub_git_announce(struct hub_git *g, struct hub_git_origin *o, struct sb_error *err) SB_MUSTCHECK;

/** "stage/train"; the first promoted stage has no branch of its own: it is main. NULL for it and for consumers. */
const char *hub_stage_branch(const struct hub_tenant *t, const struct hub_stage *s, char out[SB_NAME_MAX + 8]);
const char *hub_ref_find(const struct sb_refs *refs, const char *name); /* oid or NULL */

#endif
