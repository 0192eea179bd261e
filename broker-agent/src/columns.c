/* Column classes: looking a column up, and what the declarations of one table must not say. */
#include "columns.h"

#include <string.h>

#include "dataset/operator.h"
#include "stagebridge/text.h"

static bool in_list(const struct sb_strings *list, const char *column)
{
	for (size_t i = 0; i < list->count; i++) {
		if (strcmp(list->item[i], column) == 0)
			return true;
	}
	return false;
}

const struct agent_rule *agent_column_mask(const struct agent_table *t, const char *column)
{
	const struct agent_rule *rule = t->masks.item;

	for (size_t i = 0; i < t->masks.count; i++) {
		if (strcmp(rule[i].name, column) == 0)
			return &rule[i];
	}
	return NULL;
}

enum agent_class agent_column_class(const struct agent_table *t, const char *column)
{
	if (in_list(&t->private_columns, column))
		return AGENT_PRIVATE;
	if (agent_column_mask(t, column))
		return AGENT_MASKED;
	if (in_list(&t->public_columns, column))
		return AGENT_PUBLIC;
	return in_list(&t->internal, column) ? AGENT_INTERNAL : AGENT_UNDECLARED;
}

const char *agent_column_key_refusal(const struct agent_table *t, const char *column)
{
	const struct agent_rule *rule = agent_column_mask(t, column);

	if (rule)
		return rule->operator->injective ? NULL : "rows are told apart by it, and its rule makes different values equal: a key may go through pseudonym only";
	return agent_column_class(t, column) == AGENT_PUBLIC ? NULL : "rows are told apart by it: declare it public, or mask it with a pseudonym";
}

/* --- checks --- */

static unsigned times_declared(const struct agent_table *t, const char *column)
{
	const struct sb_strings *const list[] = { &t->private_columns, &t->internal, &t->public_columns };
	const struct agent_rule *rule = t->masks.item;
	unsigned n = 0;

	for (size_t k = 0; k < SB_COUNT(list); k++) {
		for (size_t i = 0; i < list[k]->count; i++)
			n += strcmp(list[k]->item[i], column) == 0;
	}
	for (size_t i = 0; i < t->masks.count; i++)
		n += strcmp(rule[i].name, column) == 0;
	return n;
}

static int check_once(const struct agent_table *t, const char *key, const char *column, struct sb_error *err)
{
	if (!*column)
		return sb_fail(err, SB_ECONFIG, "%s: table \"%s\": a column has no name", key, t->table);
	if (times_declared(t, column) > 1)
		return sb_fail(err, SB_ECONFIG, "%s: table \"%s\": column \"%s\" is declared twice", key, t->table, column);
	return 0;
}

static int check_list(const struct agent_table *t, const char *key, const struct sb_strings *list, struct sb_error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < list->count; i++)
		r = check_once(t, key, list->item[i], err);
	return r;
}

/* Rules of datasets may do what makes no sense for a row that comes alone and must not stop the others */
static const char *rule_refusal(const struct agent_rule *rule)
{
	if (strcmp(rule->op, "keep") == 0)
		return "op: keep is what `public` says";
	if (strcmp(rule->op, "drop") == 0)
		return "op: drop is what `internal` says";
	if (rule->null && strcmp(rule->null, "refuse") == 0)
		return "null: refuse cannot be done, changes must not wait: use keep or token";
	return NULL;
}

static int check_mask(const struct agent_table *t, struct agent_rule *rule, bool has_secret, struct sb_error *err)
{
	const char *refusal = rule_refusal(rule);
	struct sb_error why = SB_ERROR_INIT;

	if (refusal)
		return sb_fail(err, SB_ECONFIG, "masks: table \"%s\": column \"%s\": %s", t->table, rule->name, refusal);
	rule->role = AGENT_ROLE_SENSITIVE; /* every operator that hides something takes it */
	int r = agent_rule_prepare(rule, &why);
	if (r == SB_ENOMEM)
		return sb_fail_nomem(err);
	if (r < 0)
		return sb_fail(err, SB_ECONFIG, "masks: table \"%s\": column \"%s\": %s", t->table, rule->name, why.msg);
	if (agent_rule_tokens(rule) && !has_secret)
		return sb_fail(err, SB_ECONFIG, "masks: table \"%s\": column \"%s\": a pseudonym needs the stage's key: set datasets.secret", t->table, rule->name);
	return 0;
}

static int check_down(const struct agent_table *t, struct sb_error *err)
{
	if (!t->down)
		return 0;
	if (t->public_columns.count == 0 && t->masks.count == 0)
		return sb_fail(err, SB_ECONFIG, "down: table \"%s\": needs columns that may go down: declare some public, or mask them", t->table);
	for (size_t i = 0; i < t->key.count; i++) {
		const char *refusal = agent_column_key_refusal(t, t->key.item[i]);
		if (refusal)
			return sb_fail(err, SB_ECONFIG, "down: table \"%s\": column \"%s\": %s", t->table, t->key.item[i], refusal);
	}
	return 0;
}

int agent_columns_check(struct agent_table *t, bool has_secret, struct sb_error *err)
{
	struct agent_rule *rule = t->masks.item;

	int r = check_list(t, "private", &t->private_columns, err);
	if (r == 0)
		r = check_list(t, "internal", &t->internal, err);
	if (r == 0)
		r = check_list(t, "public", &t->public_columns, err);
	for (size_t i = 0; r == 0 && i < t->masks.count; i++) {
		r = check_once(t, "masks", rule[i].name, err);
		if (r == 0)
			r = check_mask(t, &rule[i], has_secret, err);
	}
	return r < 0 ? r : check_down(t, err);
}

void agent_columns_release(struct agent_table *t)
{
	struct agent_rule *rule = t->masks.item;

	for (size_t i = 0; i < t->masks.count; i++)
		agent_rule_release(&rule[i]);
}
