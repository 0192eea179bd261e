/* Events of applications: rows that are inserted into an outbox table, and logical messages with our prefix, become rows of one append-only entity type,
 * so that order, exactly-once effect, copies and quarantine are those of entities. Both ways give the same columns. Of the table only INSERTs count: the
 * application may delete its rows in the same transaction. There is no snapshot and no sweep: what an event says stays said.
 *
 * A message is told inside its transaction or not at all: one that is not transactional is withheld, because it may come from a transaction that was
 * rolled back. What is malformed is withheld with its reason, and the stream goes on. Stream lane. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "pgsrc.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "stagebridge/metric.h"

#define PREFIX "stagebridge.outbox"

enum { ID, AGGREGATE_TYPE, AGGREGATE_ID, TYPE, PAYLOAD, AT_TIME, N_COLUMNS };

static const struct { const char *name, *type; } column[N_COLUMNS] = {
	{ "id", "text" }, { "aggregatetype", "text" }, { "aggregateid", "text" }, { "type", "text" }, { "payload", "json" }, { "at", "timestamp with time zone" },
};

static int make_shape(const struct pgsrc *s, struct pgsrc_relation *rel, struct sb_error *err)
{
	rel->shape = (struct sb_shape){ .incarnation = s->incarnation };
	int r = sb_format(rel->shape.type, sizeof(rel->shape.type), err, "%s", rel->type->conf->type);
	rel->shape.column = calloc(N_COLUMNS, sizeof(*rel->shape.column));
	rel->wire = calloc(N_COLUMNS, sizeof(*rel->wire));
	if (!rel->shape.column || !rel->wire)
		return sb_fail_nomem(err);
	for (unsigned i = 0; r == 0 && i < N_COLUMNS; i++) {
		struct sb_column *c = &rel->shape.column[rel->shape.n_columns++];
		*c = (struct sb_column){ .name = sb_strdup(column[i].name), .type = sb_strdup(column[i].type), .key = i == ID };
		if (!c->name || !c->type)
			r = sb_fail_nomem(err);
	}
	return r;
}

/* When the transaction was committed, as PostgreSQL writes it. */
static struct sb_cell commit_time(struct pgsrc *s)
{
	time_t seconds = (time_t)(s->begin_us / 1000000);
	struct tm tm = { 0 };

	gmtime_r(&seconds, &tm);
	int n = snprintf(s->event_at, sizeof(s->event_at), "%04d-%02d-%02d %02d:%02d:%02d.%06d+00", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min,
		tm.tm_sec, (int)(s->begin_us % 1000000)); /* fits for years of four digits, and PostgreSQL's clock has those */
	return (struct sb_cell){ .kind = SB_CELL_VALUE, .p = s->event_at, .n = (size_t)n };
}

/* --- the table --- */

int pgsrc_outbox_relation(struct pgsrc *s, struct pgsrc_relation *rel, const struct pgoutput_msg *m, struct sb_error *err)
{
	int r = make_shape(s, rel, err);

	rel->usable = true;
	for (unsigned i = 0; r == 0 && i < AT_TIME; i++) {
		unsigned at = 0;
		while (at < m->n_columns && strcmp(m->column[at].name, column[i].name) != 0)
			at++;
		rel->wire[i] = at;
		rel->usable = rel->usable && at < m->n_columns;
	}
	if (r == 0 && !rel->usable)
		sb_log(SB_ERROR, "outbox_unusable", "source=%s type=%s reason=\"a column of id, aggregatetype, aggregateid, type, payload is missing\"", s->set->name,
			rel->type->conf->type);
	return r;
}

int pgsrc_outbox_row(struct pgsrc *s, struct pgsrc_relation *rel, const struct pgoutput_msg *m, uint32_t seq, struct sb_error *err)
{
	const struct sb_change c = { .op = 'i', .lsn = s->commit_lsn, .seq = seq, .n_cells = N_COLUMNS, .cell = s->cell };

	if (m->kind != 'I')
		return 0;
	if (m->n_cells != rel->n_wire)
		return sb_fail(err, SB_EPROTO, "a row of \"%s\" has %u columns instead of %u", rel->type->conf->type, m->n_cells, rel->n_wire);
	for (unsigned i = 0; i < AT_TIME; i++)
		s->cell[i] = m->cell[rel->wire[i]];
	s->cell[AT_TIME] = commit_time(s);
	return pgsrc_add(s, rel, &c, err);
}

/* --- messages --- */

static const char *skip_space(const char *p, const char *end)
{
	while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
		p++;
	return p;
}

static const char *skip_string(const char *p, const char *end)
{
	for (p++; p < end && *p != '"'; p++)
		p += *p == '\\';
	return p < end ? p + 1 : end;
}

static const char *skip_value(const char *p, const char *end)
{
	unsigned depth = 0;

	while (p < end) {
		if (*p == '"') {
			p = skip_string(p, end);
		} else {
			if (depth == 0 && (*p == ',' || *p == '}' || *p == ']'))
				return p;
			depth += *p == '{' || *p == '[';
			depth -= *p == '}' || *p == ']';
			p++;
		}
	}
	return p;
}

/* The value of a key of a JSON object that was parsed before, as its bytes: numbers keep all their digits, and whoever reads them their form. */
static bool slice(const char *p, size_t n, const char *key, struct sb_cell *ret)
{
	const char *end = p + n;
	size_t key_len = strlen(key);

	p = skip_space(p, end);
	while (p < end && *p != '}') {
		const char *name = skip_space(p + 1, end); /* after { or , */
		if (name >= end || *name != '"')
			return false;
		const char *name_end = skip_string(name, end);
		const char *value = skip_space(name_end, end);
		value = skip_space(value < end ? value + 1 : end, end);
		p = skip_value(value, end);
		if ((size_t)(name_end - name) == key_len + 2 && memcmp(name + 1, key, key_len) == 0) {
			const char *last = p;
			while (last > value && skip_space(last - 1, end) != last - 1)
				last--;
			*ret = (struct sb_cell){ .kind = SB_CELL_VALUE, .p = value, .n = (size_t)(last - value) };
			return true;
		}
	}
	return false;
}

static int wrong(struct sb_error *err, const char *what)
{
	return sb_fail(err, SB_EPROTO, "%s (expected {\"id\", \"aggregatetype\", \"aggregateid\", \"type\": text, \"payload\": any})", what);
}

/* Fills the cells; `event` must live as long as they do. */
static int read_event(struct pgsrc *s, const struct pgoutput_msg *m, json_t *event, struct sb_error *err)
{
	const char *key;
	json_t *value;

	json_object_foreach(event, key, value) {
		unsigned i = 0;
		while (i < AT_TIME && strcmp(key, column[i].name) != 0)
			i++;
		if (i == AT_TIME)
			return wrong(err, "unknown key");
	}
	for (unsigned i = 0; i < AT_TIME; i++) {
		const json_t *v = json_object_get(event, column[i].name);
		s->cell[i] = (struct sb_cell){ .kind = SB_CELL_NULL };
		if (i == PAYLOAD && (!v || json_is_null(v)))
			continue;
		if (i != PAYLOAD && json_is_string(v))
			s->cell[i] = (struct sb_cell){ .kind = SB_CELL_VALUE, .p = json_string_value(v), .n = json_string_length(v) };
		else if ((i != PAYLOAD && !json_is_number(v)) || !slice(m->content, m->content_len, column[i].name, &s->cell[i]))
			return wrong(err, "key missing, or of another type");
	}
	return 0;
}

static void withhold(struct pgsrc *s, struct pgsrc_type *type, const struct pgoutput_msg *m, uint32_t seq, const struct sb_error *why)
{
	char lsn[20];

	type->withheld++;
	s->withheld++;
	sb_lsn_format(lsn, m->transactional ? s->commit_lsn : m->lsn);
	sb_log_error(SB_ERROR, "event_withheld", why, "type=%s lsn=%s seq=%u", type->conf->type, lsn, seq);
	sb_metric_add(sb_metric("stagebridge_source_withheld_total", SB_COUNTER, "type", "Rows that could not be sent: too large, or not UTF-8"), type->conf->type, 1);
}

/* Returns what the message is at fault for, or an error of ours; the cells are used before the event is given back. */
static int take(struct pgsrc *s, struct pgsrc_relation *rel, const struct pgoutput_msg *m, uint32_t seq, struct sb_error *why, struct sb_error *err)
{
	const struct sb_change c = { .op = 'i', .lsn = s->commit_lsn, .seq = seq, .n_cells = N_COLUMNS, .cell = s->cell };
	json_error_t at;

	if (!m->transactional || !s->in_tx)
		return sb_fail(why, SB_EPROTO, "the message is not transactional: use pg_logical_emit_message(true, ...)");
	json_auto_t *event = json_loadb(m->content, m->content_len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &at);
	if (!json_is_object(event))
		return wrong(why, "not a JSON object");
	int r = read_event(s, m, event, why);
	if (r < 0)
		return r;
	s->cell[AT_TIME] = commit_time(s);
	return pgsrc_add(s, rel, &c, err);
}

int pgsrc_outbox_message(struct pgsrc *s, const struct pgoutput_msg *m, struct sb_error *err)
{
	struct pgsrc_relation *rel = &s->event_relation;
	struct sb_error why = SB_ERROR_INIT;
	int r = 0;

	if (!s->events || strcmp(m->name, PREFIX) != 0)
		return 0;
	uint32_t seq = s->in_tx && m->transactional ? s->seq++ : 0;
	if (!rel->type) {
		rel->type = s->events;
		r = make_shape(s, rel, err);
	}
	if (r < 0)
		return r;
	r = take(s, rel, m, seq, &why, err);
	if (why.code == SB_OK)
		return r;
	withhold(s, s->events, m, seq, &why);
	return 0;
}
