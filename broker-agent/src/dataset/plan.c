/* Binding a policy to a source, and rows through the plan into CSV lines. The dataset lane's thread. */
#include "plan.h"

#include <string.h>

#include "csv_out.h"
#include "stagebridge/text.h"

/* --- binding --- */

static int find_column(const struct agent_feed *f, const char *name)
{
	for (unsigned i = 0; i < f->n_columns; i++) {
		if (strcmp(f->column[i], name) == 0)
			return (int)i;
	}
	return -1;
}

static int check_columns(const struct agent_policy *p, const struct agent_feed *f, struct agent_refusal *no, struct sb_error *err)
{
	const struct agent_rule *rule = p->columns.item;
	const char *unlisted = NULL;
	char fingerprint[65];
	unsigned n = 0;

	for (unsigned i = 0; i < f->n_columns; i++) {
		if (agent_policy_rule(p, f->column[i]))
			continue;
		n++;
		unlisted = unlisted ? unlisted : f->column[i];
	}
	if (n > 1)
		return agent_refuse(no, err, "unlisted_column", "column \"%s\" and %u more have no rule; to leave it out, add to columns: - {name: \"%s\", role: drop, op: drop}",
			unlisted, n - 1, unlisted);
	if (n == 1)
		return agent_refuse(no, err, "unlisted_column", "column \"%s\" has no rule; to leave it out, add to columns: - {name: \"%s\", role: drop, op: drop}",
			unlisted, unlisted);
	for (size_t i = 0; i < p->columns.count; i++) {
		if (find_column(f, rule[i].name) < 0)
			return agent_refuse(no, err, "missing_column", "the policy has a rule for column \"%s\", which the source does not have", rule[i].name);
	}
	agent_feed_fingerprint(f, fingerprint);
	if (p->source.fingerprint[0] && strcmp(p->source.fingerprint, fingerprint) != 0)
		return agent_refuse(no, err, "schema_drift", "the source's columns or types are not those that the policy was written for; now: %s", fingerprint);
	return 0;
}

static int add_column(struct agent_plan *plan, const struct agent_rule *rule, unsigned source, const struct agent_scope *scope, struct sb_error *err)
{
	struct agent_plan_column *c = &plan->column[plan->n_columns++];

	if (rule->operator->reads) {
		c->cell = plan->n_wanted;
		plan->wanted[plan->n_wanted++] = source;
	}
	return agent_bound_init(&c->bound, rule, scope, err);
}

/* The run's keys, when any column needs them. */
static int make_scope(struct agent_scope **ret, struct agent_plan *plan, const struct agent_policy *p, const struct agent_audience *to, struct sb_error *err)
{
	const struct agent_rule *rule = p->columns.item;
	sb_cleanup(sb_freep) char *link = NULL;
	bool any = false;

	for (size_t i = 0; i < p->columns.count; i++)
		any = any || agent_rule_tokens(&rule[i]);
	if (!any)
		return 0;
	if (p->keys.mode == AGENT_KEYS_EPHEMERAL)
		return agent_scope_ephemeral(ret, err);
	/* the two kinds begin differently, so that no dataset shares the tokens of a group of its name */
	link = strcmp(p->keys.link, "dataset") == 0 ? sb_asprintf("dataset:%s", to->dataset) : sb_strdup(p->keys.link);
	if (!link)
		return sb_fail_nomem(err);
	if (!to->root_file)
		return sb_fail(err, SB_ECONFIG, "stored keys need the stage's root key (datasets.secret)");
	int r = agent_scope_stored(ret, to->root_file, to->tenant, link, to->recipient, p->keys.epoch, err);
	if (r == 0)
		agent_scope_key_id(*ret, plan->key_id);
	return r;
}

static int fill(struct agent_plan *plan, const struct agent_policy *p, const struct agent_feed *f, const struct agent_scope *scope, struct sb_error *err)
{
	const struct agent_rule *rule = p->columns.item;
	int r = 0;

	plan->column = calloc(p->columns.count, sizeof(*plan->column));
	plan->wanted = calloc(p->columns.count, sizeof(*plan->wanted));
	if (!plan->column || !plan->wanted)
		return sb_fail_nomem(err);
	for (size_t i = 0; r == 0 && i < p->columns.count; i++) {
		if (rule[i].operator->emits)
			r = add_column(plan, &rule[i], (unsigned)find_column(f, rule[i].name), scope, err);
	}
	return r;
}

int agent_plan_make(struct agent_plan *ret, const struct agent_policy *p, const struct agent_feed *f, const struct agent_audience *to,
	struct agent_refusal *no, struct sb_error *err)
{
	struct agent_plan plan = { .column = NULL };
	struct agent_scope *scope = NULL;

	int r = check_columns(p, f, no, err);
	if (r == 0)
		r = make_scope(&scope, &plan, p, to, err);
	if (r == 0)
		r = fill(&plan, p, f, scope, err);
	agent_scope_free(scope);
	if (r < 0)
		agent_plan_release(&plan);
	else
		*ret = plan;
	return r;
}

void agent_plan_release(struct agent_plan *plan)
{
	for (unsigned i = 0; i < plan->n_columns; i++)
		agent_bound_release(&plan->column[i].bound);
	free(plan->column);
	free(plan->wanted);
	*plan = (struct agent_plan){ .column = NULL };
}

/* --- rows --- */

void agent_plan_header(const struct agent_plan *plan, struct sb_buf *out)
{
	for (unsigned i = 0; i < plan->n_columns; i++) {
		const char *name = plan->column[i].bound.step.rule->name;
		if (i)
			sb_buf_addc(out, ',');
		agent_csv_cell(out, name, strlen(name));
	}
	sb_buf_addc(out, '\n');
}

int agent_plan_row(const struct agent_plan *plan, const struct sb_cell *cell, struct sb_buf *out, struct agent_refusal *no, struct sb_error *err)
{
	char scratch[AGENT_SCRATCH];

	for (unsigned i = 0; i < plan->n_columns; i++) {
		const struct agent_plan_column *c = &plan->column[i];
		struct sb_cell value;
		const char *why = agent_step_apply(&c->bound.step, &cell[c->cell], &value, scratch);
		if (why)
			return agent_refuse(no, err, "operator", "column \"%s\" %s", c->bound.step.rule->name, why);
		if (i)
			sb_buf_addc(out, ',');
		if (value.kind == SB_CELL_VALUE)
			agent_csv_cell(out, value.p, value.n);
	}
	sb_buf_addc(out, '\n');
	return 0;
}
