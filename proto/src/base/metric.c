/* The metrics registry. Any thread; owns one process-wide table behind one mutex, which lives as long as the process.
 * Bounded: what does not fit is counted, never stored. */
#include "stagebridge/metric.h"

#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "stagebridge/text.h"

#define METRICS_MAX 256
#define VALUES_MAX 128

struct value {
	char *label; /* "" without a label */
	double number;
};

struct sb_metric {
	enum sb_metric_type type;
	char *name;
	char *label; /* NULL: none */
	char *help;
	struct value *values;
	size_t count, cap;
};

static struct {
	pthread_mutex_t lock;
	struct sb_metric *metrics[METRICS_MAX];
	size_t count;
	double dropped;
} registry = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void metric_freep(struct sb_metric **mp)
{
	struct sb_metric *m = *mp;

	if (m == NULL)
		return;
	free(m->name);
	free(m->label);
	free(m->help);
	free(m);
}

static struct sb_metric *metric_new(const char *name, enum sb_metric_type type, const char *label, const char *help)
{
	sb_cleanup(metric_freep) struct sb_metric *m = calloc(1, sizeof(*m));

	if (m == NULL)
		return NULL;
	m->type = type;
	m->name = sb_strdup(name);
	m->label = sb_strdup(label);
	m->help = sb_strdup(help != NULL ? help : "");
	if (m->name == NULL || m->help == NULL || (label != NULL && m->label == NULL))
		return NULL;
	return SB_TAKE(m);
}

struct sb_metric *sb_metric(const char *name, enum sb_metric_type type, const char *label, const char *help)
{
	struct sb_metric *m = NULL;

	pthread_mutex_lock(&registry.lock);
	for (size_t i = 0; i < registry.count && m == NULL; i++)
		if (strcmp(registry.metrics[i]->name, name) == 0)
			m = registry.metrics[i];
	if (m == NULL && registry.count < METRICS_MAX) {
		m = metric_new(name, type, label, help);
		if (m != NULL)
			registry.metrics[registry.count++] = m;
	}
	if (m == NULL)
		registry.dropped++;
	pthread_mutex_unlock(&registry.lock);
	return m;
}

/* The lock is held. NULL: not there and, with make, no room or memory for it. */
static struct value *find_value(struct sb_metric *m, const char *label_value, bool make)
{
	const char *label = m->label == NULL || label_value == NULL ? "" : label_value;
	char *copy;

	for (size_t i = 0; i < m->count; i++)
		if (strcmp(m->values[i].label, label) == 0)
			return &m->values[i];
	if (!make || m->count == VALUES_MAX)
		return NULL;
	if (m->count == m->cap) {
		size_t cap = m->cap == 0 ? 1 : m->cap * 2;
		struct value *values = realloc(m->values, cap * sizeof(*values));
		if (values == NULL)
			return NULL;
		m->values = values;
		m->cap = cap;
	}
	copy = sb_strdup(label);
	if (copy == NULL)
		return NULL;
	m->values[m->count] = (struct value){ .label = copy };
	return &m->values[m->count++];
}

static void change(struct sb_metric *m, const char *label_value, double number, bool add)
{
	struct value *v;

	pthread_mutex_lock(&registry.lock);
	v = m != NULL ? find_value(m, label_value, true) : NULL;
	if (v == NULL)
		registry.dropped++;
	else
		v->number = add ? v->number + number : number;
	pthread_mutex_unlock(&registry.lock);
}

void sb_metric_add(struct sb_metric *m, const char *label_value, double delta)
{
	change(m, label_value, delta, true);
}

void sb_metric_set(struct sb_metric *m, const char *label_value, double value)
{
	change(m, label_value, value, false);
}

double sb_metric_get(struct sb_metric *m, const char *label_value)
{
	double number = 0;
	struct value *v;

	if (m == NULL)
		return 0;
	pthread_mutex_lock(&registry.lock);
	v = find_value(m, label_value, false);
	if (v != NULL)
		number = v->number;
	pthread_mutex_unlock(&registry.lock);
	return number;
}

/* ---- exposition ---- */

static void add_escaped(struct sb_buf *out, const char *s, bool quotes)
{
	for (; *s != '\0'; s++) {
		if (*s == '\n')
			sb_buf_adds(out, "\\n");
		else if (*s == '\\' || (quotes && *s == '"'))
			sb_buf_addf(out, "\\%c", *s);
		else
			sb_buf_addc(out, *s);
	}
}

static void add_number(struct sb_buf *out, double d)
{
	if (isnan(d))
		sb_buf_adds(out, "NaN");
	else if (isinf(d))
		sb_buf_adds(out, d > 0 ? "+Inf" : "-Inf");
	else if (fabs(d) < 1e15 && d >= floor(d) && d <= floor(d))
		sb_buf_addf(out, "%.0f", d);
	else
		sb_buf_addf(out, "%.17g", d);
	sb_buf_addc(out, '\n');
}

static void add_head(struct sb_buf *out, const char *name, enum sb_metric_type type, const char *help)
{
	sb_buf_addf(out, "# HELP %s ", name);
	add_escaped(out, help, false);
	sb_buf_addf(out, "\n# TYPE %s %s\n", name, type == SB_COUNTER ? "counter" : "gauge");
}

static void add_plain(struct sb_buf *out, const char *name, enum sb_metric_type type, const char *help, double d)
{
	add_head(out, name, type, help);
	sb_buf_addf(out, "%s ", name);
	add_number(out, d);
}

static double resident_bytes(void)
{
	sb_cleanup(sb_closep) int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	char text[128] = "";
	unsigned long long pages = 0;
	ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;

	if (n <= 0 || sscanf(text, "%*u %llu", &pages) != 1)
		return 0;
	return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

static double cpu_seconds(void)
{
	struct rusage u = { 0 };

	(void)getrusage(RUSAGE_SELF, &u); /* cannot fail for ourselves */
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

void sb_metric_render(struct sb_buf *out)
{
	add_plain(out, "process_resident_memory_bytes", SB_GAUGE, "Resident memory.", resident_bytes());
	add_plain(out, "process_cpu_seconds_total", SB_COUNTER, "User and system CPU time.", cpu_seconds());
	pthread_mutex_lock(&registry.lock);
	for (size_t i = 0; i < registry.count; i++) {
		const struct sb_metric *m = registry.metrics[i];
		add_head(out, m->name, m->type, m->help);
		if (m->label == NULL && m->count == 0)
			sb_buf_addf(out, "%s 0\n", m->name); /* known from the start, so that rates begin at zero */
		for (size_t k = 0; k < m->count; k++) {
			sb_buf_adds(out, m->name);
			if (m->label != NULL) {
				sb_buf_addf(out, "{%s=\"", m->label);
				add_escaped(out, m->values[k].label, true);
				sb_buf_adds(out, "\"}");
			}
			sb_buf_addc(out, ' ');
			add_number(out, m->values[k].number);
		}
	}
	add_plain(out, "stagebridge_metrics_dropped_total", SB_COUNTER,
		  "Metrics and label values that did not fit into the registry.", registry.dropped);
	pthread_mutex_unlock(&registry.lock);
}
