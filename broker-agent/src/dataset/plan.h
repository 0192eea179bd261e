/* The plan of one run: the policy's rules bound to the columns that the source has now, with the run's keys. Default deny happens here: a column without
 * a rule, or a rule without a column, refuses the dataset before a row is read. */
#ifndef AGENT_DATASET_PLAN_H
#define AGENT_DATASET_PLAN_H

#include "feed.h"
#include "operator.h"

struct agent_plan_column {
	struct agent_bound bound;
	unsigned cell;                            /* among the cells that the feed gives; unused when the operator does not read */
};

struct agent_plan {
	struct agent_plan_column *column;         /* the output, in the policy's order */
	unsigned n_columns;
	unsigned *wanted, n_wanted;               /* for agent_feed_ops.start */
	char key_id[17];                          /* "" with ephemeral keys, or without tokens */
};

/** Who receives it, under which names keys are derived. root_file may be NULL when the policy's keys are ephemeral. */
struct agent_audience { const char *tenant, *dataset, *recipient, *root_file; };

int agent_plan_make(struct agent_plan *ret, const struct agent_policy *p, const struct agent_feed *f, const struct agent_audience *to,
	struct agent_refusal *no, struct sb_error *err) SB_MUSTCHECK;
void agent_plan_release(struct agent_plan *plan);
/** One row as a CSV line. SB_EREFUSED: an operator could not, or refused. */
int agent_plan_row(const struct agent_plan *plan, const struct sb_cell *cell, struct sb_buf *out, struct agent_refusal *no, struct sb_error *err) SB_MUSTCHECK;
void agent_plan_header(const struct agent_plan *plan, struct sb_buf *out);

#endif
