/* Operators that take away, and the one that leaves as it is. The dataset lane's thread; no state. */
#include <string.h>

#include "operator.h"

#define ALL_ROLES (AGENT_ROLE_BIT(AGENT_ROLE_DROP) - 1) /* drop itself is the last one */

static const char *apply_suppress(const struct agent_step *step, const struct sb_cell *in, struct sb_cell *out, char scratch[AGENT_SCRATCH])
{
	(void)step;
	(void)in;
	(void)scratch;
	*out = (struct sb_cell){ .kind = SB_CELL_NULL };
	return NULL;
}

static const char *apply_constant(const struct agent_step *step, const struct sb_cell *in, struct sb_cell *out, char scratch[AGENT_SCRATCH])
{
	(void)in;
	(void)scratch;
	*out = (struct sb_cell){ .kind = SB_CELL_VALUE, .p = step->rule->value, .n = strlen(step->rule->value) };
	return NULL;
}

static const char *apply_keep(const struct agent_step *step, const struct sb_cell *in, struct sb_cell *out, char scratch[AGENT_SCRATCH])
{
	(void)step;
	(void)scratch;
	*out = *in;
	return NULL;
}

const struct agent_operator agent_op_drop = { .name = "drop", .iso_class = "attribute suppression", .takes = AGENT_P_REASON,
	.roles = ALL_ROLES | AGENT_ROLE_BIT(AGENT_ROLE_DROP), .apply = apply_suppress };

const struct agent_operator agent_op_suppress = { .name = "suppress", .iso_class = "local suppression", .takes = AGENT_P_REASON, .roles = ALL_ROLES,
	.emits = true, .apply = apply_suppress };

const struct agent_operator agent_op_constant = { .name = "constant", .iso_class = "local suppression", .takes = AGENT_P_VALUE | AGENT_P_REASON,
	.needs = AGENT_P_VALUE, .roles = ALL_ROLES, .emits = true, .type = "text", .apply = apply_constant };

/* what identifies somebody, or joins to what does, is never kept */
const struct agent_operator agent_op_keep = { .name = "keep", .iso_class = "none", .takes = AGENT_P_REASON | AGENT_P_NULL, .needs = AGENT_P_REASON,
	.roles = AGENT_ROLE_BIT(AGENT_ROLE_PUBLIC) | AGENT_ROLE_BIT(AGENT_ROLE_QUASI) | AGENT_ROLE_BIT(AGENT_ROLE_SENSITIVE),
	.emits = true, .reads = true, .apply = apply_keep };
