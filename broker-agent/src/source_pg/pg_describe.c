/* What a type's receivers are told beside its rows: entity.described, made from the catalog at every look at it. So DDL and comments reach the sync view
 * also when no row changes afterwards.
 *
 * The catalog is ahead of the stream. A description therefore waits until the stream is past the moment at which the catalog had been read: what was written under
 * the old columns goes first. Its version is the position just before the reading, so rows that already came with newer columns win. A change that falls between
 * the two, or that is in the log and not yet visible, could slip through: what is news is told once more at the next look. Stream lane. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "columns.h"
#include "pgsrc.h"
#include "stagebridge/described.h"
#include "stagebridge/log.h"

static const char comment_query[] = "SELECT left(coalesce(obj_description($1::oid, 'pg_class'), ''), 1000)";

/* of every column: number, own type, comment, labels when the type (or a domain's base) is an enum */
static const char columns_query[] =
	"SELECT a.attnum, format_type(a.atttypid, a.atttypmod), left(coalesce(col_description(a.attrelid, a.attnum), ''), 1000), (SELECT json_agg(e.enumlabel ORDER BY e.enumsortorder)"
	" FROM pg_enum e WHERE e.enumtypid = (WITH RECURSIVE d (t) AS (SELECT a.atttypid UNION ALL SELECT y.typbasetype FROM d JOIN pg_type y ON y.oid = d.t WHERE y.typtype = 'd')"
	" SELECT d.t FROM d JOIN pg_type y ON y.oid = d.t WHERE y.typtype <> 'd'))"
	" FROM pg_attribute a WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

/* Comments of a database whose encoding is none may be no UTF-8: they are not worth a failure. */
static json_t *text_json(const char *s)
{
	json_t *v = json_string(s);

	return v ? v : json_string("");
}

static json_t *labels_json(const char *text)
{
	json_t *labels = text ? json_loads(text, 0, NULL) : NULL;

	if (labels && json_array_size(labels) <= SB_LABELS_MAX)
		return labels;
	json_decref(labels);
	return json_array();
}

static const char *class_name(const struct agent_table *conf, const char *column)
{
	enum agent_class class = agent_column_class(conf, column);

	return sb_column_class_name(class == AGENT_PUBLIC ? SB_COLUMN_PUBLIC : class == AGENT_MASKED ? SB_COLUMN_MASKED : SB_COLUMN_INTERNAL);
}

static json_t *column_json(const struct agent_table *conf, const struct pgsrc_column *c, const struct sb_pg_result *res)
{
	int row = 0, n = sb_pg_rows(res);

	while (row < n && sb_pg_get_i64(res, row, 0) != c->attnum)
		row++;
	bool found = row < n; /* it may have been dropped since the table was read */
	return json_pack("{s:s, s:s, s:b, s:o, s:o, s:o, s:s}", "name", c->name, "type", c->type, "key", c->key ? 1 : 0, "source_type",
		text_json(found ? sb_pg_get(res, row, 1) : c->type), "comment", text_json(found ? sb_pg_get(res, row, 2) : ""), "labels",
		labels_json(found ? sb_pg_get(res, row, 3) : NULL), "class", class_name(conf, c->name));
}

/* Everything but position and estimate, which are no news. Returns new. */
static int describe(struct pgsrc *s, const struct pgsrc_type *t, json_t **ret, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL, *about = NULL;
	char oid[16];
	const char *const param[] = { oid };
	json_auto_t *columns = json_array();
	json_auto_t *withheld = json_array();

	(void)snprintf(oid, sizeof(oid), "%" PRIu32, t->table.oid); /* ten digits at most */
	int r = sb_pg_exec(s->pg, comment_query, 1, param, &about, err);
	if (r == 0)
		r = sb_pg_exec(s->pg, columns_query, 1, param, &res, err);
	for (unsigned i = 0; r == 0 && i < t->table.n_columns; i++) {
		if (json_array_append_new(columns, column_json(t->conf, &t->table.column[i], res)) < 0)
			r = sb_fail_nomem(err);
	}
	for (unsigned i = 0; r == 0 && i < t->table.n_withheld; i++) {
		if (json_array_append_new(withheld, json_string(t->table.withheld[i].name)) < 0)
			r = sb_fail_nomem(err);
	}
	if (r < 0)
		return r;
	*ret = json_pack("{s:s, s:I, s:o, s:O, s:O}", "type", t->conf->type, "incarnation", (json_int_t)s->incarnation, "comment",
		text_json(sb_pg_get(about, 0, 0)), "columns", columns, "withheld", withheld);
	return *ret ? 0 : sb_fail_nomem(err);
}

/* --- labels --- */

/* {"column": [labels], ...} of the columns that have some. Returns new; NULL without memory. */
static json_t *labels_of(const json_t *described)
{
	json_t *all = json_object();
	const json_t *c;
	size_t i;

	json_array_foreach(json_object_get(described, "columns"), i, c)
	{
		json_t *labels = json_object_get(c, "labels");
		if (json_array_size(labels) > 0 && json_object_set(all, json_string_value(json_object_get(c, "name")), labels) < 0) {
			json_decref(all);
			return NULL;
		}
	}
	return all;
}

static bool holds(const json_t *labels, const json_t *label)
{
	const json_t *v;
	size_t i;

	json_array_foreach(labels, i, v)
	{
		if (json_equal(v, label))
			return true;
	}
	return false;
}

/* A label is never dropped: one that is no longer there has another name now, in every row that has it. */
static bool label_renamed(json_t *was, const json_t *now)
{
	const char *column;
	json_t *labels;

	json_object_foreach(was, column, labels)
	{
		const json_t *there = json_object_get(now, column), *v;
		size_t i;
		json_array_foreach(labels, i, v)
		{
			if (there && !holds(there, v))
				return true;
		}
	}
	return false;
}

/* Renaming a label changes rows that are never sent: the type is sent again. What was seen is remembered over restarts. */
static int look_at_labels(struct pgsrc *s, const struct pgsrc_type *t, const json_t *described, bool *ret_wanted, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	json_auto_t *now = labels_of(described), *was = NULL;
	sb_cleanup(sb_freep) char *text = now ? json_dumps(now, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
	char key[192];

	if (!text)
		return sb_fail_nomem(err);
	int r = sb_format(key, sizeof(key), err, "labels/%s/%s", s->set->name, t->conf->type);
	if (r == 0)
		r = sb_db_query(s->db, &st, err, "SELECT value FROM meta WHERE key = ?", "s", key);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	if (r > 0)
		was = json_loads(sb_db_text(st, 0), 0, NULL);
	sb_db_done(SB_TAKE(st));
	if ((was && json_equal(was, now)) || (!was && json_object_size(now) == 0))
		return 0;
	if (label_renamed(was, now)) {
		*ret_wanted = true;
		r = sb_db_run(s->db, NULL, err, "UPDATE snapshot SET state = 'wanted', reason = 'a label of an enum was renamed' WHERE source = ? AND type = ?", "ss", s->set->name,
			t->conf->type);
	}
	/* last: after a crash in between the snapshot is wanted twice, not never */
	return r < 0 ? r : sb_db_run(s->db, NULL, err, "INSERT OR REPLACE INTO meta(key, value) VALUES (?, ?)", "ss", key, text);
}

/* --- when --- */

static void forget(struct pgsrc_type *t)
{
	json_decref(t->said);
	json_decref(t->to_say);
	t->said = t->to_say = NULL;
}

void pgsrc_descriptions_release(struct pgsrc *s)
{
	for (size_t i = 0; i < s->n_types; i++)
		forget(&s->type[i]);
}

int pgsrc_describe_look(struct pgsrc *s, uint64_t before, bool *ret_wanted, struct sb_error *err)
{
	for (size_t i = 0; i < s->n_types; i++) {
		struct pgsrc_type *t = &s->type[i];
		json_t *now = NULL;
		if (!t->active || t->events) {
			forget(t);
			continue;
		}
		int r = describe(s, t, &now, err);
		if (r == 0)
			r = look_at_labels(s, t, now, ret_wanted, err);
		if (r < 0) {
			json_decref(now);
			return r;
		}
		bool waits = t->to_say && json_equal(t->to_say, now); /* it keeps its place: a stream that lags must reach it once */
		bool news = !t->said || !json_equal(t->said, now);
		if (waits || !(news || t->say_again)) {
			json_decref(now);
			continue;
		}
		json_decref(t->to_say);
		t->to_say = now;
		t->to_say_lsn = before;
		t->to_say_after = s->server_lsn;
		t->say_again = news;
	}
	return 0;
}

/* --- sending --- */

/* Takes off what is for people only when the whole does not fit into a record. Returns new. */
static char *fitting(json_t *whole, const char *type)
{
	char *text = json_dumps(whole, JSON_COMPACT);
	json_t *c;
	size_t i;

	if (!text || strlen(text) <= SB_VALUE_MAX)
		return text;
	free(text);
	json_array_foreach(json_object_get(whole, "columns"), i, c)
	{
		if (json_object_set_new(c, "comment", json_string("")) < 0 || json_object_set_new(c, "labels", json_array()) < 0)
			return NULL;
	}
	sb_log(SB_WARN, "description_cut", "type=%s reason=%s", type, "comments and labels do not fit into a record");
	return json_dumps(whole, JSON_COMPACT);
}

static int send_one(struct pgsrc *s, struct pgsrc_type *t, struct sb_error *err)
{
	json_auto_t *whole = json_deep_copy(t->to_say);
	struct sb_error why = SB_ERROR_INIT;
	char lsn[20];

	sb_lsn_format(lsn, t->to_say_lsn);
	if (!whole || json_object_set_new(whole, "lsn", json_string(lsn)) < 0 ||
		json_object_set_new(whole, "rows", json_integer(t->table.estimate > 0 ? t->table.estimate : -1)) < 0)
		return sb_fail_nomem(err);
	json_decref(t->said);
	t->said = t->to_say;
	t->to_say = NULL;
	if (sb_described_check(whole, &why) < 0) { /* names that no batch can carry either */
		sb_log_limited(SB_WARN, "not_described", t->conf->type, &why);
		return 0;
	}
	sb_cleanup(sb_freep) char *text = fitting(whole, t->conf->type);
	if (!text)
		return sb_fail_nomem(err);
	int r = t->batch ? pgsrc_batch_close(s, t, pgsrc_here(s), err) : 0;
	if (r == 0)
		r = pgsrc_wait_room(s, err);
	if (r == 0)
		r = agent_publisher_send(s->pub, t->stream, SB_EV_ENTITY_DESCRIBED, t->conf->type, NULL, NULL, NULL, 0, text, strlen(text), err);
	if (r == 0)
		sb_log(SB_DEBUG, "type_described", "source=%s type=%s lsn=%s", s->set->name, t->conf->type, lsn);
	return r;
}

int pgsrc_describe_send(struct pgsrc *s, struct sb_error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && !s->in_tx && i < s->n_types; i++) {
		if (s->type[i].to_say && s->received >= s->type[i].to_say_after)
			r = send_one(s, &s->type[i], err);
	}
	return r;
}
