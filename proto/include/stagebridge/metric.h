/* Metrics registry: Prometheus text 0.0.4. Names "stagebridge_<what>_<unit>[_total]"; label values come from configuration
 * (stage, type, state), never from input. Thread-safe; a metric is made once at start and lives for the process. */
#ifndef STAGEBRIDGE_METRIC_H
#define STAGEBRIDGE_METRIC_H

#include "stagebridge/base.h"
#include "stagebridge/buf.h"

enum sb_metric_type { SB_COUNTER, SB_GAUGE };
struct sb_metric;

/** Same name again returns the same metric. label may be NULL (no label). At most 256 metrics of 128 label values: more are
 * counted in stagebridge_metrics_dropped_total. Strings are copied. */
struct sb_metric *sb_metric(const char *name, enum sb_metric_type type, const char *label, const char *help);
void sb_metric_add(struct sb_metric *m, const char *label_value, double delta);
void sb_metric_set(struct sb_metric *m, const char *label_value, double value);
double sb_metric_get(struct sb_metric *m, const char *label_value); /* 0 when never set */
/** Appends the exposition of everything; sets process_resident_memory_bytes and process_cpu_seconds_total first. */
void sb_metric_render(struct sb_buf *out);

#endif
