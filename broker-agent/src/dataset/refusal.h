/* Why a dataset is not given: a stable word for programs and a sentence for people. Both travel to the stage that asked, so they hold names of columns
 * and counts at most, never a value. */
#ifndef AGENT_DATASET_REFUSAL_H
#define AGENT_DATASET_REFUSAL_H

#include "stagebridge/base.h"
#include "stagebridge/error.h"

struct agent_refusal {
	const char *code;      /* static; NULL: none */
	char reason[480];
};

/** Fills no, and err (may be NULL) with the same words; returns SB_EREFUSED. */
int agent_refuse(struct agent_refusal *no, struct sb_error *err, const char *code, const char *fmt, ...) SB_PRINTF(4, 5);

#endif
