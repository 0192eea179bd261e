/* Datasets in the agent: producing them for other stages, taking in what other stages produced. All of it runs on the dataset lane. */
#ifndef AGENT_DATASET_H
#define AGENT_DATASET_H

#include "plan.h"
#include "state.h"
#include "stagebridge/carrier.h"

/** Job of kind "dataset" (ref = request, payload = value of dataset.ordered): produced, or refused with a reason; 0 either way. Harmless when done before.
 * An error is retriable trouble, or a job that makes no sense. lane may be NULL; when it stops, SB_ESHUTDOWN. */
int agent_dataset_produce(struct agent *a, struct sb_db *db, const struct sb_lane *lane, const char *request, const json_t *order, struct sb_error *err) SB_MUSTCHECK;
/** Job of kind "receive" (ref = transfer): placed in the inbox, or failed with a reason; 0 either way. Harmless when done before. */
int agent_dataset_receive(struct agent *a, struct sb_db *db, const char *transfer, struct sb_error *err) SB_MUSTCHECK;

/** What is said of a dataset: the row and the event to the hub, inside the caller's transaction; wake the courier after commit. */
struct agent_dataset_report {
	const char *request, *dataset, *state;        /* accepted | refused | produced | delivered | failed */
	const char *code, *reason;                    /* "" unless refused or failed */
	const char *transfer, *policy_digest, *path;  /* "" where there is none */
	int64_t rows;
};
int agent_dataset_report(struct agent *a, struct sb_db *db, const struct agent_dataset_report *rep, struct sb_error *err) SB_MUSTCHECK;

/** What the manifest says of how the data was made. Returns new; NULL only without memory. Columns that are left out are counted, not named. */
struct agent_made { uint64_t rows_in, rows_out; const char *fingerprint; int64_t at_ms; };
json_t *agent_attestation(const struct agent_policy *p, const struct agent_plan *plan, const struct agent_made *made);

#endif
