/* The table of operators, and what all of them share: checking a rule against its operator's entry, and NULLs. A new operator is an entry in its
 * family's file and one in the table. Any thread; rules are const after they were prepared. */
#include "operator.h"

#include <string.h>

#include "stagebridge/text.h"

static const struct agent_operator *const operators[] = { &agent_op_drop, &agent_op_suppress, &agent_op_constant, &agent_op_keep, &agent_op_pseudonym,
	&agent_op_bucket, &agent_op_round, &agent_op_prefix, &agent_op_date_part, &agent_op_top_bottom };

static const struct agent_operator *find(const char *name)
{
	for (size_t i = 0; i < SB_COUNT(operators); i++) {
		if (strcmp(operators[i]->name, name) == 0)
			return operators[i];
	}
	return NULL;
}

static int fail_unknown(const char *name, struct sb_error *err)
{
	char list[200];
	size_t n = 0;

	for (size_t i = 0; i < SB_COUNT(operators); i++) {
		size_t k = strlen(operators[i]->name);
		if (n + k + 3 > sizeof(list))
			break;
		if (n > 0)
			list[n++] = ',', list[n++] = ' ';
		memcpy(list + n, operators[i]->name, k);
		n += k;
	}
	return sb_fail(err, SB_ECONFIG, "op: \"%.40s\" is none of: %.*s", name, (int)n, list);
}

/* The parameters that the rule has; an empty text counts, it was written */
static unsigned given(const struct agent_rule *r)
{
	return (r->domain ? AGENT_P_DOMAIN : 0u) | (r->token_prefix ? AGENT_P_TOKEN_PREFIX : 0u) | (r->value ? AGENT_P_VALUE : 0u) |
		(r->edges.count ? AGENT_P_EDGES : 0u) | (r->step ? AGENT_P_STEP : 0u) | (r->n ? AGENT_P_N : 0u) | (r->part ? AGENT_P_PART : 0u) |
		(r->lo ? AGENT_P_LO : 0u) | (r->hi ? AGENT_P_HI : 0u) | (r->reason ? AGENT_P_REASON : 0u) | (r->null ? AGENT_P_NULL : 0u);
}

static const char *parameter_name(unsigned bit)
{
	static const struct { unsigned bit; const char *name; } names[] = { { AGENT_P_DOMAIN, "domain" }, { AGENT_P_TOKEN_PREFIX, "token_prefix" },
		{ AGENT_P_VALUE, "value" }, { AGENT_P_EDGES, "edges" }, { AGENT_P_STEP, "step" }, { AGENT_P_N, "n" }, { AGENT_P_PART, "part" },
		{ AGENT_P_LO, "lo" }, { AGENT_P_HI, "hi" }, { AGENT_P_REASON, "reason" }, { AGENT_P_NULL, "null" } };

	for (size_t i = 0; i < SB_COUNT(names); i++) {
		if (bit & names[i].bit)
			return names[i].name;
	}
	return "?";
}

static int parse_null(struct agent_rule *rule, struct sb_error *err)
{
	static const char *const words[] = { "keep", "token", "refuse" };

	rule->on_null = AGENT_NULL_KEEP;
	for (size_t i = 0; rule->null && i < SB_COUNT(words); i++) {
		if (strcmp(rule->null, words[i]) == 0) {
			rule->on_null = (enum agent_null)i;
			return 0;
		}
	}
	return rule->null ? sb_fail(err, SB_ECONFIG, "null: is none of: keep, token, refuse") : 0;
}

int agent_rule_prepare(struct agent_rule *rule, struct sb_error *err)
{
	const struct agent_operator *op = find(rule->op);

	if (!op)
		return fail_unknown(rule->op, err);
	unsigned have = given(rule), wrong = have & ~op->takes, missing = op->needs & ~have;
	if (!(op->roles & AGENT_ROLE_BIT(rule->role)))
		return sb_fail(err, SB_ECONFIG, "op: %s is not allowed for a column of role %s", op->name, agent_role_names[rule->role]);
	if (wrong)
		return sb_fail(err, SB_ECONFIG, "%s: is not a parameter of %s", parameter_name(wrong), op->name);
	if (missing)
		return sb_fail(err, SB_ECONFIG, "%s: is required by %s, but missing", parameter_name(missing), op->name);
	if ((op->needs & AGENT_P_REASON) && rule->reason[strspn(rule->reason, " ")] == '\0')
		return sb_fail(err, SB_ECONFIG, "reason: is empty");
	int r = parse_null(rule, err);
	if (r < 0)
		return r;
	rule->operator = op;
	return op->prepare ? op->prepare(rule, err) : 0;
}

void agent_rule_release(struct agent_rule *rule)
{
	for (size_t i = 0; i < rule->n_labels; i++)
		free(rule->label[i]);
	free(rule->label);
	free(rule->edge);
	rule->label = NULL;
	rule->edge = NULL;
	rule->n_labels = rule->n_edges = 0;
}

bool agent_rule_tokens(const struct agent_rule *rule)
{
	return rule->operator == &agent_op_pseudonym;
}

int agent_bound_init(struct agent_bound *b, const struct agent_rule *rule, const struct agent_scope *scope, struct sb_error *err)
{
	bool token = rule->on_null == AGENT_NULL_TOKEN;

	*b = (struct agent_bound){ .step = { .rule = rule, .null_cell = { .kind = SB_CELL_NULL } } };
	if (token)
		b->step.null_cell = (struct sb_cell){ .kind = SB_CELL_VALUE, .p = AGENT_NULL_TEXT, .n = strlen(AGENT_NULL_TEXT) };
	if (!agent_rule_tokens(rule))
		return 0;
	int r = agent_token_new(&b->token, scope, rule->domain, rule->token_prefix ? rule->token_prefix : rule->domain, err);
	b->step.token = b->token;
	if (r == 0 && token)
		b->step.null_cell = (struct sb_cell){ .kind = SB_CELL_VALUE, .p = b->null_text, .n = agent_token_write(b->token, NULL, 0, b->null_text) };
	return r;
}

void agent_bound_release(struct agent_bound *b)
{
	agent_token_free(b->token);
	b->token = NULL;
}

int agent_rule_number(const char *key, const char *text, agent_fixed *ret, struct sb_error *err)
{
	bool exact = false;

	if (!agent_fixed_parse(text, strlen(text), ret, &exact) || !exact)
		return sb_fail(err, SB_ECONFIG, "%s: \"%.40s\" is not a number of at most nine decimals", key, text);
	return 0;
}

const char *agent_step_apply(const struct agent_step *step, const struct sb_cell *in, struct sb_cell *out, char scratch[AGENT_SCRATCH])
{
	if (step->rule->operator->reads && in->kind == SB_CELL_NULL) {
		if (step->rule->on_null == AGENT_NULL_REFUSE)
			return "holds NULL, which its rule refuses";
		*out = step->null_cell;
		return NULL;
	}
	return step->rule->operator->apply(step, in, out, scratch);
}
