/* The source's line on the status board. Both lanes write it, each its own fields, under the board's lock. */
#include <stdio.h>
#include <string.h>

#include "pgsrc.h"
#include "stagebridge/clock.h"
#include "stagebridge/metric.h"

/* To be used under the board's lock. */
static struct agent_source_state *find(struct agent *a, const char *source)
{
	for (unsigned i = 0; i < a->board.n_sources; i++) {
		if (strcmp(a->board.source[i].name, source) == 0)
			return &a->board.source[i];
	}
	return NULL;
}

static struct agent_snapshot_state snapshot_now(struct agent *a, const char *source)
{
	struct agent_snapshot_state now = { .eta_s = -1 };

	pthread_mutex_lock(&a->board.lock);
	const struct agent_source_state *s = find(a, source);
	if (s)
		now = s->snapshot;
	pthread_mutex_unlock(&a->board.lock);
	return now;
}

void pgsrc_board_snapshot(struct agent *a, const char *source, const struct agent_snapshot_state *now)
{
	pthread_mutex_lock(&a->board.lock);
	struct agent_source_state *s = find(a, source);
	if (s)
		s->snapshot = *now;
	pthread_mutex_unlock(&a->board.lock);
}

static void list_types(const struct pgsrc *s, bool down, char *out, size_t size)
{
	size_t len = 0;

	out[0] = '\0';
	for (size_t i = 0; i < s->n_types; i++) {
		const char *type = s->type[i].conf->type;
		size_t n = strlen(type);
		if (s->type[i].table.refusal[0] || (down && !s->type[i].table.down_digest[0]) || len + n + 2 > size)
			continue;
		if (len)
			out[len++] = ',';
		memcpy(out + len, type, n + 1);
		len += n;
	}
}

static void add_line(char *out, size_t size, const char *type, const char *column)
{
	size_t len = strlen(out);

	if (len + strlen(type) + strlen(column) + 3 > size || strchr(column, '\n'))
		return; /* the log has named it */
	(void)snprintf(out + len, size - len, "%s%s.%s", len ? "\n" : "", type, column); /* fits, see above */
}

static void list_withheld(const struct pgsrc *s, char *out, size_t size)
{
	out[0] = '\0';
	for (size_t i = 0; i < s->n_types; i++) {
		const struct pgsrc_table *t = &s->type[i].table;
		for (unsigned k = 0; k < t->n_withheld; k++)
			add_line(out, size, s->type[i].conf->type, t->withheld[k].name);
	}
}

static const char *worst(const struct pgsrc *s, const char *state)
{
	if (strcmp(state, "streaming") != 0)
		return state;
	if (s->withheld)
		return "withheld row";
	for (size_t i = 0; i < s->n_types; i++) {
		if (s->type[i].table.refusal[0] || s->type[i].unusable)
			return "refused table";
	}
	for (size_t i = 0; i < s->n_types; i++) {
		if (s->type[i].table.n_withheld)
			return "withheld column";
		if (s->type[i].table.down_refusal[0])
			return "refused copy";
	}
	return s->full ? "paused" : state;
}

void pgsrc_board(struct pgsrc *s, const char *state)
{
	struct agent_source_state b = { .kind = "postgres", .rows = s->rows };
	uint64_t safe = s->pub ? agent_publisher_safe(s->pub) : 0;
	uint64_t there = s->server_lsn > s->received ? s->server_lsn : s->received;
	bool waits = s->in_tx || s->n_open > 0 || (s->pub && agent_publisher_in_flight(s->pub) > 0);

	b.acked_lsn = safe > s->saved_lsn ? safe : s->saved_lsn;
	b.lag_bytes = there > b.acked_lsn ? there - b.acked_lsn : 0;
	b.lag_ms = waits && s->commit_ms ? sb_wall_ms() - s->commit_ms : 0;
	if (b.lag_ms < 0)
		b.lag_ms = 0; /* its clock and ours differ */
	(void)snprintf(b.name, sizeof(b.name), "%s", s->set->name); /* a name is shorter */
	(void)snprintf(b.state, sizeof(b.state), "%s", worst(s, state));
	(void)snprintf(b.slot_state, sizeof(b.slot_state), "%s", s->slot_state);
	list_types(s, false, b.types, sizeof(b.types));
	list_types(s, true, b.down, sizeof(b.down));
	list_withheld(s, b.withheld, sizeof(b.withheld));
	/* between the two calls only the snapshot lane writes, and only its own field: it says the next one soon */
	b.snapshot = snapshot_now(s->a, s->set->name);
	agent_board_source(s->a, &b);
	sb_metric_set(sb_metric("stagebridge_source_lag_bytes", SB_GAUGE, "source", "Written by the source and not yet acknowledged by the broker"), s->set->name,
		(double)b.lag_bytes);
}
