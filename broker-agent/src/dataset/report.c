/* Reports of datasets: the row that the local API shows, and the event to the hub, change together. The dataset lane's thread. */
#include <string.h>

#include "dataset.h"
#include "stagebridge/clock.h"
#include "stagebridge/metric.h"

int agent_dataset_report(struct agent *a, struct sb_db *db, const struct agent_dataset_report *rep, struct sb_error *err)
{
	json_auto_t *event = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I}", "request", rep->request, "dataset", rep->dataset, "state", rep->state, "reason_code",
		rep->code, "reason", rep->reason, "transfer", rep->transfer, "policy_digest", rep->policy_digest, "rows", (json_int_t)rep->rows);

	if (!event)
		return sb_fail_nomem(err);
	/* the transfer's id is kept from the acceptance on: a repeat after a kill uses the same spool */
	int r = sb_db_run(db, NULL, err,
		"UPDATE dataset SET state = ?, reason_code = ?, reason = ?, transfer = CASE ? WHEN '' THEN transfer ELSE ? END, path = ?, rows = ?, updated_ms = ?"
		" WHERE request = ?", "ssssssiis", rep->state, rep->code, rep->reason, rep->transfer, rep->transfer, rep->path, rep->rows, sb_wall_ms(), rep->request);
	if (r == 0)
		r = agent_outbox_put(a, db, SB_EV_DATASET_REPORTED, rep->request, event, err);
	if (r == 0)
		sb_metric_add(sb_metric("stagebridge_datasets_total", SB_COUNTER, "state", "Datasets by what was reported of them"), rep->state, 1);
	return r;
}
