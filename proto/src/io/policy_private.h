/* What the parts of the policy module share. Private to io/policy*.c. */
#ifndef STAGEBRIDGE_IO_POLICY_PRIVATE_H
#define STAGEBRIDGE_IO_POLICY_PRIVATE_H

#include "stagebridge/policy.h"

/** What no row of the table can say; fills from, to and the windows. */
int sb_policy_check(struct sb_policy *p, int64_t horizon_ms, struct sb_error *err) SB_MUSTCHECK;
/** Every edge leads from a promoted stage to the next. */
int sb_policy_check_path(const struct sb_policy *p, const struct sb_policy_stage *stage, size_t n, struct sb_error *err) SB_MUSTCHECK;

#endif
