/* Operators: what may happen to one cell. A table (operator.c) of entries, one file per family (op_*.c); the rest of the code knows none of them by name.
 * An operator that cannot do its work says why in a fixed text, so that no value can get into a message. */
#ifndef AGENT_DATASET_OPERATOR_H
#define AGENT_DATASET_OPERATOR_H

#include "policy.h"
#include "stagebridge/change.h"
#include "token.h"

#define AGENT_SCRATCH 192                /* bytes that an operator may write for one cell */
#define AGENT_NULL_TEXT "(null)"         /* what `null: token` writes where the operator makes no tokens */

/* Parameters, as bits: which an operator takes, and which it must have */
enum { AGENT_P_DOMAIN = 1, AGENT_P_TOKEN_PREFIX = 2, AGENT_P_VALUE = 4, AGENT_P_EDGES = 8, AGENT_P_STEP = 16, AGENT_P_N = 32, AGENT_P_PART = 64,
	AGENT_P_LO = 128, AGENT_P_HI = 256, AGENT_P_REASON = 512, AGENT_P_NULL = 1024 };
#define AGENT_ROLE_BIT(role) (1u << (role))

/** What an operator works with, for one column of one run. */
struct agent_step {
	const struct agent_rule *rule;
	const struct agent_token *token; /* pseudonym; else NULL */
	struct sb_cell null_cell;        /* what stands for NULL */
};

struct agent_operator {
	const char *name;
	const char *iso_class;           /* ISO/IEC 20889 */
	unsigned takes, needs, roles;
	bool emits;                      /* the column is in the output */
	bool reads;                      /* it needs the source's cell; without it the source is not even asked */
	bool injective;                  /* different values stay different: a key may go through it */
	const char *type;                /* of what it makes, as PostgreSQL calls it; NULL: the source's */
	/** Checks and prepares the parameters; NULL: nothing to do. SB_ECONFIG or SB_ENOMEM; the message begins with the key: "step: ...". */
	int (*prepare)(struct agent_rule *rule, struct sb_error *err);
	/** in is a value, or anything when it does not read. out may point at in, at scratch or at the rule. NULL, or why it cannot: fixed text. */
	const char *(*apply)(const struct agent_step *step, const struct sb_cell *in, struct sb_cell *out, char scratch[AGENT_SCRATCH]);
};

extern const struct agent_operator agent_op_drop, agent_op_suppress, agent_op_constant, agent_op_keep; /* op_suppress.c */
extern const struct agent_operator agent_op_pseudonym;                                                 /* op_pseudonym.c */
extern const struct agent_operator agent_op_bucket, agent_op_round, agent_op_top_bottom, agent_op_prefix, agent_op_date_part; /* op_generalize.c */

/** Finds the rule's operator, checks role and parameters against its entry, prepares. Messages begin with the key. */
int agent_rule_prepare(struct agent_rule *rule, struct sb_error *err) SB_MUSTCHECK;
void agent_rule_release(struct agent_rule *rule); /* only what prepare made */
/** A step with what it works with. Does not move: the step points into it. */
struct agent_bound { struct agent_step step; struct agent_token *token; char null_text[AGENT_TOKEN_MAX]; };
/** True when the rule makes keyed tokens: to be bound it needs a scope. */
bool agent_rule_tokens(const struct agent_rule *rule);
/** Binds a prepared rule, borrowed, to the keys of a run; scope may be NULL where no rule needs it. */
int agent_bound_init(struct agent_bound *b, const struct agent_rule *rule, const struct agent_scope *scope, struct sb_error *err) SB_MUSTCHECK;
void agent_bound_release(struct agent_bound *b);
/** One cell through the rule, NULLs by the rule's choice. NULL, or a fixed text. */
const char *agent_step_apply(const struct agent_step *step, const struct sb_cell *in, struct sb_cell *out, char scratch[AGENT_SCRATCH]);

/** A number parameter, exact; key is for the message. */
int agent_rule_number(const char *key, const char *text, agent_fixed *ret, struct sb_error *err) SB_MUSTCHECK;

#endif
