/* The policy in force. The engine's lane looks at the file and takes a new one; HTTP threads borrow the one of the moment. A file with a mistake changes nothing:
 * the former policy stays, and what is wrong is shown. */
#ifndef HUB_POLICY_H
#define HUB_POLICY_H

#include "hub.h"
#include "stagebridge/policy.h"

struct hub_policy_slot;

/** The tenant's file, or none, fitted to its stages. On error *ret is zeroed. */
int hub_policy_load(struct sb_policy *ret, const struct hub_tenant *t, int64_t now_ms, struct sb_error *err) SB_MUSTCHECK;
/** Main thread, at start and stop. */
int hub_policy_open(struct hub_world *w, struct sb_error *err) SB_MUSTCHECK;
void hub_policy_close(struct hub_policy_slot *slot); /* NULL is fine */

/** Borrows; give back. Any thread. */
const struct sb_policy *hub_policy_get(struct hub_world *w);
void hub_policy_put(struct hub_world *w, const struct sb_policy *p);
/** Why the file as it is now is not in force; "" when it is. */
void hub_policy_problem(struct hub_world *w, char *out, size_t size);

/** Takes the file when it has changed: true, and hub_policy_get gives the new one. The engine's lane only. */
bool hub_policy_refresh(struct hub_world *w);
/** Inside a transaction: writes the policy into the record and the stages' modes where it is another than the last one. */
int hub_policy_record(struct sb_pg *pg, const struct sb_policy *p, struct sb_error *err) SB_MUSTCHECK;

#endif
