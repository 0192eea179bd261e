/* Pseudonyms: a keyed token in place of the value. The dataset lane's thread; the key is the run's, in the step. */
#include <string.h>

#include "operator.h"

#define DOMAIN_MAX 63

_Static_assert(AGENT_SCRATCH >= AGENT_TOKEN_MAX, "a token fits");

/* The prefix stands in every cell: nothing that a CSV file or a shell would treat specially */
static bool word_ok(const char *s, size_t max)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");

	return n > 0 && n <= max && s[n] == '\0';
}

static int prepare(struct agent_rule *rule, struct sb_error *err)
{
	if (!word_ok(rule->domain, DOMAIN_MAX))
		return sb_fail(err, SB_ECONFIG, "domain: is not 1 to %d letters, digits, _ and -", DOMAIN_MAX);
	if (rule->token_prefix && !word_ok(rule->token_prefix, AGENT_TOKEN_PREFIX_MAX))
		return sb_fail(err, SB_ECONFIG, "token_prefix: is not 1 to %d letters, digits, _ and -", AGENT_TOKEN_PREFIX_MAX);
	return 0;
}

static const char *apply(const struct agent_step *step, const struct sb_cell *in, struct sb_cell *out, char scratch[AGENT_SCRATCH])
{
	size_t n = agent_token_write(step->token, in->p, in->n, scratch);

	*out = (struct sb_cell){ .kind = SB_CELL_VALUE, .p = scratch, .n = n };
	return NULL;
}

const struct agent_operator agent_op_pseudonym = { .name = "pseudonym", .iso_class = "pseudonymization",
	.takes = AGENT_P_DOMAIN | AGENT_P_TOKEN_PREFIX | AGENT_P_NULL | AGENT_P_REASON, .needs = AGENT_P_DOMAIN,
	.roles = AGENT_ROLE_BIT(AGENT_ROLE_DIRECT) | AGENT_ROLE_BIT(AGENT_ROLE_QUASI) | AGENT_ROLE_BIT(AGENT_ROLE_SENSITIVE) |
		AGENT_ROLE_BIT(AGENT_ROLE_KEY) | AGENT_ROLE_BIT(AGENT_ROLE_SUBJECT),
	.emits = true, .reads = true, .injective = true, .type = "text", .prepare = prepare, .apply = apply };
