/* Feeds: rows of a dataset's source, a column at a time by name. A feed first tells its columns, so that the policy is held against them before any
 * value is read; then it is told which it shall give. Belongs to one lane. */
#ifndef AGENT_DATASET_FEED_H
#define AGENT_DATASET_FEED_H

#include "policy.h"
#include "refusal.h"
#include "stagebridge/change.h"

struct agent_feed;
struct agent_feed_ops {
	/** The columns wanted, by index into column, in the order in which next gives them. Once. */
	int (*start)(struct agent_feed *f, const unsigned *wanted, unsigned n, struct agent_refusal *no, struct sb_error *err);
	/** 1 and the cells of a row (borrowed until the next call; values are well-formed UTF-8), 0 at the end, or an error. */
	int (*next)(struct agent_feed *f, struct sb_cell *cell, struct agent_refusal *no, struct sb_error *err);
	void (*close)(struct agent_feed *f);
};

struct agent_feed {
	const struct agent_feed_ops *ops;
	char **column;                 /* names, in the source's order; owned, as type */
	char **type;                   /* PostgreSQL's name of it; "" where there is none */
	unsigned n_columns;
};

/** Opens the policy's source. Errors, of these and of the calls above: SB_EREFUSED with *no filled when the data or the policy is at fault; else
 * retriable trouble, without values in its message. */
int agent_feed_open(struct agent_feed **ret, const struct agent_policy *p, struct agent_refusal *no, struct sb_error *err) SB_MUSTCHECK;
int agent_feed_pg(struct agent_feed **ret, const struct agent_policy *p, struct agent_refusal *no, struct sb_error *err) SB_MUSTCHECK;
int agent_feed_csv(struct agent_feed **ret, const struct agent_policy *p, struct agent_refusal *no, struct sb_error *err) SB_MUSTCHECK;
void agent_feed_close(struct agent_feed *f);
/** SHA-256 over names and types: another one is another source. */
void agent_feed_fingerprint(const struct agent_feed *f, char out[65]);
/** For feeds: makes room for the names. */
int agent_feed_columns(struct agent_feed *f, unsigned n, struct sb_error *err) SB_MUSTCHECK;

#endif
