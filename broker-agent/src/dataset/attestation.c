/* The attestation: what was done to the data, computed from the policy and the run, never a free label. Pure; the dataset lane's thread. */
#include <string.h>

#include "dataset.h"
#include "stagebridge/clock.h"

/* The only claim that rules by row support: nothing is proven of groups of rows */
#define CLAIM "pseudonymized"

static json_t *columns_json(const struct agent_plan *plan)
{
	json_t *list = json_array();

	for (unsigned i = 0; list && i < plan->n_columns; i++) {
		const struct agent_rule *rule = plan->column[i].bound.step.rule;
		json_t *column = json_pack("{s:s, s:s, s:s, s:s}", "name", rule->name, "role", agent_role_names[rule->role], "op", rule->operator->name, "iso_class",
			rule->operator->iso_class);
		if (json_array_append_new(list, column) < 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

static bool has_tokens(const struct agent_plan *plan)
{
	for (unsigned i = 0; i < plan->n_columns; i++) {
		if (plan->column[i].bound.token)
			return true;
	}
	return false;
}

/* The three questions of WP216: which mechanism answers, or none. */
static json_t *wp216_json(const struct agent_policy *p, const struct agent_plan *plan)
{
	const char *linkability = "not addressed";

	if (has_tokens(plan) && p->keys.mode == AGENT_KEYS_EPHEMERAL)
		linkability = "tokens: keyed for this release alone, the key is gone; other columns: not addressed";
	else if (has_tokens(plan) && strcmp(p->keys.link, "dataset") == 0)
		linkability = "tokens: keyed for this dataset, recipient and epoch; other columns: not addressed";
	else if (has_tokens(plan))
		linkability = "tokens: keyed for this group of datasets, recipient and epoch, joinable within them; other columns: not addressed";
	return json_pack("{s:s, s:s, s:s}", "singling_out", "not addressed", "linkability", linkability, "inference", "not addressed");
}

json_t *agent_attestation(const struct agent_policy *p, const struct agent_plan *plan, const struct agent_made *made)
{
	json_auto_t *columns = columns_json(plan), *wp216 = wp216_json(p, plan);
	char at[SB_TIME_LEN + 1];

	if (!columns || !wp216)
		return NULL;
	sb_time_format(at, made->at_ms);
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:O, s:I, s:s, s:s, s:s, s:O}", "claim", CLAIM, "policy", p->name, "version", p->version,
		"policy_digest", p->digest, "source_fingerprint", made->fingerprint, "rows_in", (json_int_t)made->rows_in, "rows_out", (json_int_t)made->rows_out,
		"suppressed", (json_int_t)(made->rows_in - made->rows_out), "columns", columns, "columns_dropped",
		(json_int_t)(p->columns.count - plan->n_columns), "key_id", plan->key_id, "epoch", p->keys.epoch, "produced_at", at, "wp216", wp216);
}
