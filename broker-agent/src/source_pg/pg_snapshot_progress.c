/* How far a snapshot is: on the board (for the local API and the heartbeat), in metrics and in the log. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "pg_snapshot.h"
#include "stagebridge/log.h"
#include "stagebridge/metric.h"

#define PROGRESS_MS 1000
#define LOG_MS 10000

static void count_ranges(const struct snapshot *sp, struct agent_snapshot_state *p)
{
	p->ranges = sp->plan.n_ranges;
	for (unsigned i = 0; i < sp->plan.n_ranges; i++)
		p->ranges_done += sp->plan.range[i].state == SNAP_DONE;
}

/* By rows where the catalog has an idea of their number, by ranges where it has none. Never 100 before the end. */
static double share(const struct agent_snapshot_state *p)
{
	double done = 0;

	if (p->estimate > 0)
		done = (double)p->rows / (double)p->estimate;
	else if (p->ranges > 0)
		done = (double)p->ranges_done / (double)p->ranges;
	return done < 0.99 ? done : 0.99;
}

static void measure(const struct snapshot *sp, struct agent_snapshot_state *p)
{
	double seconds = (double)(sb_mono_ms() - sp->began_ms) / 1000, before = 0;

	*p = (struct agent_snapshot_state){ .rows = sp->rows, .estimate = *sp->want.predicate ? 0 : (uint64_t)sp->table.estimate, .partial = *sp->want.predicate != '\0' };
	memcpy(p->type, sp->shape.type, sizeof(p->type));
	count_ranges(sp, p);
	double done = share(p);
	p->percent = (unsigned)(done * 100);
	if (p->estimate > 0)
		before = (double)sp->rows_before / (double)p->estimate;
	p->eta_s = done > before && done < 0.99 ? (int64_t)(seconds * (1 - done) / (done - before)) : -1;
}

static void set_gauge(const char *name, const char *help, const char *type, double value)
{
	sb_metric_set(sb_metric(name, SB_GAUGE, "type", help), type, value);
}

void snap_progress(struct snapshot *sp, bool now_please)
{
	struct agent_snapshot_state p;
	char eta[32] = "";
	int64_t now = sb_mono_ms();

	if (now < sp->progress_ms && !now_please)
		return;
	sp->progress_ms = now + PROGRESS_MS;
	measure(sp, &p);
	pgsrc_board_snapshot(sp->sn->a, sp->sn->set->name, &p);
	if (p.eta_s >= 0)
		(void)snprintf(eta, sizeof(eta), " eta %" PRId64 "s", p.eta_s); /* 27 characters at most */
	sb_lane_note(sp->sn->lane, "snapshot %s %u%% %" PRIu64 "/%" PRIu64 " rows%s", p.type, p.percent, p.rows, p.estimate, eta);
	set_gauge("stagebridge_source_snapshot_rows", "Rows of the snapshot that runs, as far as they are sent", p.type, (double)p.rows);
	set_gauge("stagebridge_source_snapshot_rows_estimated", "Rows that the table has by the catalog's estimate", p.type, (double)p.estimate);
	set_gauge("stagebridge_source_snapshot_ranges", "Ranges in which the table is read", p.type, (double)p.ranges);
	set_gauge("stagebridge_source_snapshot_ranges_done", "Ranges whose rows are all on the broker", p.type, (double)p.ranges_done);
	set_gauge("stagebridge_source_snapshot_running", "1 while a snapshot of the type runs", p.type, 1);
	if (now < sp->log_ms)
		return;
	sp->log_ms = now + LOG_MS;
	sb_log(SB_INFO, "snapshot_progress", "source=%s type=%s rows=%" PRIu64 " estimate=%" PRIu64 " percent=%u ranges=%u/%u eta_s=%" PRId64, sp->sn->set->name, p.type,
		p.rows, p.estimate, p.percent, p.ranges_done, p.ranges, p.eta_s);
}

void snap_progress_end(struct snapshot *sp)
{
	pgsrc_board_snapshot(sp->sn->a, sp->sn->set->name, &(struct agent_snapshot_state){ .eta_s = -1 });
	set_gauge("stagebridge_source_snapshot_running", "1 while a snapshot of the type runs", sp->conf->type, 0);
}
