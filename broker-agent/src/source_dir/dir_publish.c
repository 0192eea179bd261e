/* From rows to records, so that no crash loses or repeats a change. Every change has a number of its own, (incarnation, number, 0) is its version. Before a
 * batch is sent, the numbers that it uses are stored and its keys are put in doubt (an empty hash equals nothing, so they are published again after a
 * crash, under higher numbers); when the broker has it, the hashes are stored and the position moves on. The source's lane. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "dirsrc.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "stagebridge/metric.h"

#define FEW 10 /* deletions that never wait */

/* --- sending --- */

/* The batch is empty again. */
static int sent(struct dirsrc *s, unsigned n, struct sb_error *err)
{
	s->rows += n;
	sb_metric_add(sb_metric("stagebridge_source_rows_total", SB_COUNTER, "type", "Changes sent to the broker"), s->set->type, n);
	return sb_batch_begin(s->batch, &s->shape, err);
}

static int clear_pending(struct dirsrc *s, struct sb_error *err)
{
	int r = sb_db_run(s->db, NULL, err, "DELETE FROM temp.pending", "");

	s->n_pending = 0;
	return r < 0 ? r : sb_db_run(s->db, NULL, err, "DELETE FROM temp.pending_file", "");
}

static int send_changes(struct dirsrc *s, unsigned count, struct sb_error *err)
{
	const struct sb_position to = { .lsn = s->next };
	size_t n;

	int r = dirsrc_in_transaction(s, dirsrc_in_doubt, err);
	if (r == 0)
		r = agent_publisher_wait(s->pub, s->lane, true, err);
	const void *value = sb_batch_value(s->batch, &n);
	if (r == 0)
		r = agent_publisher_send(s->pub, s->stream, SB_EV_ENTITY_CHANGED, s->set->type, SB_BATCH_CONTENT_TYPE, &s->from, &to, count, value, n, err);
	if (r == 0)
		r = agent_publisher_wait(s->pub, s->lane, false, err);
	if (r == 0)
		s->from = to;
	return r;
}

static int send_rows(struct dirsrc *s, unsigned count, struct sb_error *err)
{
	size_t n;

	int r = agent_publisher_wait(s->pub, s->lane, true, err);
	const void *value = sb_batch_value(s->batch, &n);
	if (r == 0)
		r = agent_publisher_send(s->pub, s->snapshot_stream, SB_EV_SNAPSHOT_ROWS, s->set->type, SB_BATCH_CONTENT_TYPE, NULL, NULL, count, value, n, err);
	s->sent_rows += count;
	return r;
}

int dirsrc_flush(struct dirsrc *s, struct sb_error *err)
{
	unsigned count = sb_batch_count(s->batch);
	int r = 0;

	if (count > 0)
		r = s->snapshot ? send_rows(s, count, err) : send_changes(s, count, err);
	/* a snapshot settles at its end, as a whole */
	if (r == 0 && s->n_pending > 0 && !s->snapshot) {
		r = dirsrc_in_transaction(s, dirsrc_settle, err);
		if (r == 0)
			r = clear_pending(s, err);
	}
	return r < 0 || count == 0 ? r : sent(s, count, err);
}

/* --- rows --- */

/* Rows that are in the batch keep their shape. */
static int reshape(struct dirsrc *s, struct sb_error *err)
{
	struct sb_cell *cell;

	if (!s->reshape)
		return 0;
	int r = dirsrc_flush(s, err);
	if (r == 0)
		r = row_schema_shape(&s->schema, &s->shape, err);
	if (r < 0)
		return r;
	cell = realloc(s->cell, s->shape.n_columns * sizeof(*cell));
	if (!cell)
		return sb_fail_nomem(err);
	s->cell = cell;
	s->reshape = false;
	return sb_batch_begin(s->batch, &s->shape, err);
}

/* SB_EDATA: it does not fit a record. */
static int add(struct dirsrc *s, struct sb_change *c, struct sb_error *err)
{
	struct sb_error why = SB_ERROR_INIT;
	int r = 0;

	if (sb_batch_count(s->batch) == 0)
		r = sb_batch_begin(s->batch, &s->shape, err);
	if (r < 0)
		return r;
	c->lsn = s->snapshot ? s->point : s->next;
	r = sb_batch_add(s->batch, c, &why);
	if (r == SB_ETOOBIG && sb_batch_count(s->batch) > 0) {
		r = dirsrc_flush(s, err);
		if (r < 0)
			return r;
		c->lsn = s->snapshot ? s->point : s->next;
		r = sb_batch_add(s->batch, c, &why);
	}
	if (r == SB_ETOOBIG || r == SB_EPROTO || r == SB_EINVAL)
		return sb_fail(err, SB_EDATA, "the row cannot be sent: %s", why.msg);
	if (r < 0)
		return sb_fail(err, (enum sb_code)r, "%s", why.msg);
	if (!s->snapshot)
		s->next++;
	return 0;
}

static int flush_full(struct dirsrc *s, struct sb_error *err)
{
	size_t n;

	(void)sb_batch_value(s->batch, &n); /* only its length */
	return n >= DIRSRC_BATCH_BYTES || sb_batch_count(s->batch) >= DIRSRC_BATCH_ROWS ? dirsrc_flush(s, err) : 0;
}

int dirsrc_add(struct dirsrc *s, const struct dirsrc_document *doc, bool is_new, const char *file, struct sb_error *err)
{
	int r = reshape(s, err);

	if (r == 0)
		r = row_schema_cells(&s->schema, doc->field, doc->n_fields, s->cell, err);
	struct sb_change c = { .op = s->snapshot ? 's' : is_new ? 'i' : 'u', .n_cells = s->shape.n_columns, .cell = s->cell };
	if (r == 0)
		r = add(s, &c, err);
	if (r == 0)
		r = dirsrc_pend(s, doc->key, file, doc->hash, true, err);
	return r < 0 ? r : flush_full(s, err);
}

/* --- deletions --- */

/* A key that no file holds any more. Its own statement each time: the rows change below. */
static int next_orphan(struct dirsrc *s, char **key, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(s->db, &st, err, "SELECT key FROM document WHERE source = ? AND file = '' AND key > ? ORDER BY key LIMIT 1", "ss", s->set->name, *key ? *key : "");
	if (r == 0)
		r = sb_db_step(st, err);
	if (r <= 0)
		return r;
	char *found = sb_strdup(sb_db_text(st, 0));
	free(*key);
	*key = found;
	return found ? 1 : sb_fail_nomem(err);
}

static int delete_orphans(struct dirsrc *s, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *key = NULL;
	int r = reshape(s, err);

	if (r < 0)
		return r;
	while ((r = next_orphan(s, &key, err)) > 0) {
		memset(s->cell, 0, s->shape.n_columns * sizeof(*s->cell)); /* kind 0 is NULL */
		for (unsigned i = 0; i < s->shape.n_columns; i++) {
			if (s->shape.column[i].key)
				s->cell[i] = (struct sb_cell){ .kind = SB_CELL_VALUE, .p = key, .n = strlen(key) };
		}
		struct sb_change c = { .op = 'd', .n_cells = s->shape.n_columns, .cell = s->cell };
		r = add(s, &c, err);
		if (r == 0)
			r = dirsrc_pend(s, key, NULL, NULL, true, err);
		if (r == 0)
			r = flush_full(s, err);
		if (r < 0)
			return r;
	}
	return r;
}

/* Somebody said that what is gone is meant to be gone. */
static int confirmed(struct dirsrc *s, bool *ret, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *key = sb_asprintf("confirmed/%s", s->set->name);
	int64_t n = 0;

	if (!key)
		return sb_fail_nomem(err);
	int r = sb_db_run(s->db, &n, err, "DELETE FROM meta WHERE key = ?", "s", key);
	*ret = n > 0;
	return r;
}

/* A folder that is not mounted looks like one whose files were all deleted: when too much is gone at once, a second look comes first, after a long time. */
static int mass_deletion(struct dirsrc *s, int64_t lost, int64_t all, bool *ret_wait, struct sb_error *err)
{
	int64_t now = sb_mono_ms();
	bool yes = false;

	*ret_wait = false;
	if (lost <= FEW || lost * 100 <= all * s->set->delete_share) {
		s->held_since_ms = 0;
		return 0;
	}
	int r = confirmed(s, &yes, err);
	if (r < 0)
		return r;
	if (s->held_since_ms == 0) {
		yes = false; /* it was meant for something else */
		s->held_since_ms = now ? now : 1;
		sb_log(SB_ERROR, "deletion_held", "source=%s gone=%" PRId64 " of=%" PRId64 " wait_ms=%" PRId64, s->set->name, lost, all, s->set->delete_wait_ms);
	}
	*ret_wait = !yes && now - s->held_since_ms < s->set->delete_wait_ms;
	if (*ret_wait)
		(void)snprintf(s->reason, sizeof(s->reason), "%" PRId64 " of %" PRId64 " documents are gone at once: their deletion waits (stagebridge source confirm %s)", lost, all,
			s->set->name); /* for people */
	else
		s->held_since_ms = 0;
	return 0;
}

/* While a file is being written, keys that moved into it would be deleted and made again: waits, not for ever. */
static bool moving(struct dirsrc *s)
{
	int64_t now = sb_mono_ms();

	if (!dirsrc_unstable(s)) {
		s->orphans_since_ms = 0;
		return false;
	}
	if (s->orphans_since_ms == 0)
		s->orphans_since_ms = now ? now : 1;
	return now - s->orphans_since_ms < 3 * s->set->poll_ms;
}

static int deletions(struct dirsrc *s, struct sb_error *err)
{
	int64_t all = 0, orphans = 0;
	bool wait = false;

	int r = dirsrc_flush(s, err);
	if (r == 0)
		r = dirsrc_count(s, &all, &orphans, err);
	if (r < 0)
		return r;
	if (orphans > 0 && moving(s))
		return 0;
	r = mass_deletion(s, orphans, all, &wait, err);
	if (r < 0 || wait)
		return r;
	if (orphans > 0)
		r = delete_orphans(s, err);
	if (r == 0)
		r = dirsrc_flush(s, err);
	s->look_for_deleted = r < 0;
	s->orphans_since_ms = 0;
	return r;
}

int dirsrc_changes(struct dirsrc *s, struct sb_error *err)
{
	s->snapshot = false;
	int r = dirsrc_release_gone(s, err);
	if (r == 0)
		r = dirsrc_read(s, err);
	if (r == 0 && s->look_for_deleted)
		r = deletions(s, err);
	return r < 0 ? r : dirsrc_flush(s, err);
}

/* --- snapshots --- */

static int begin_snapshot(struct dirsrc *s, struct sb_error *err)
{
	int r = dirsrc_store_numbers(s, err);

	return r < 0 ? r : sb_db_run(s->db, NULL, err, "UPDATE snapshot SET state = 'running', rows = 0 WHERE source = ? AND type = ?", "ss", s->set->name, s->set->type);
}

static int end_snapshot(struct dirsrc *s, struct sb_error *err)
{
	int r = sb_db_run(s->db, NULL, err, "DELETE FROM document WHERE source = ?", "s", s->set->name);

	if (r == 0)
		r = sb_db_run(s->db, NULL, err, "DELETE FROM dir_file WHERE source = ?", "s", s->set->name);
	if (r == 0)
		r = dirsrc_settle(s, err);
	/* an order that came meanwhile stays */
	return r < 0 ? r : sb_db_run(s->db, NULL, err, "UPDATE snapshot SET state = 'done', lsn = ?, rows = ? WHERE source = ? AND type = ? AND state = 'running'", "iiss",
		(int64_t)s->point, (int64_t)s->sent_rows, s->set->name, s->set->type);
}

/* Keys that the snapshot cannot name: receivers will drop them. */
static int lost_by_snapshot(struct dirsrc *s, int64_t *ret_lost, int64_t *ret_all, struct sb_error *err)
{
	int r = dirsrc_count(s, ret_all, ret_lost, err);

	for (size_t i = 0; r == 0 && i < s->files.count; i++) {
		sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
		const struct dirsrc_file *f = s->files.item[i];
		if (!f->bad)
			continue;
		r = sb_db_query(s->db, &st, err, "SELECT count(*) FROM document WHERE source = ? AND file = ?", "ss", s->set->name, f->name);
		if (r == 0)
			r = sb_db_step(st, err);
		if (r <= 0)
			return r;
		r = 0;
		*ret_lost += sb_db_int(st, 0);
		if (sb_db_int(st, 0) > 0)
			sb_log(SB_WARN, "snapshot_without_file", "source=%s file=%s documents=%" PRId64 " reason=%s", s->set->name, f->name, sb_db_int(st, 0), f->reason ? f->reason : "");
	}
	return r;
}

static int may_snapshot(struct dirsrc *s, bool *ret, struct sb_error *err)
{
	const char *unstable;
	int64_t lost = 0, all = 0;
	bool wait = false;

	int r = dirsrc_count(s, &all, &lost, err);
	/* receivers have what is known so far; what is gone since is deleted by the rules for that */
	if (r == 0 && all > 0)
		r = dirsrc_changes(s, err);
	if (r == 0)
		r = lost_by_snapshot(s, &lost, &all, err);
	if (r == 0)
		r = mass_deletion(s, lost, all, &wait, err);
	/* what is being written cannot be read, and what a snapshot does not name is gone elsewhere */
	unstable = dirsrc_unstable(s);
	if (r == 0 && unstable && !wait)
		(void)snprintf(s->reason, sizeof(s->reason), "the snapshot waits: %.80s is being written", unstable); /* for people */
	*ret = r == 0 && !wait && !unstable;
	return r;
}

static int read_all(struct dirsrc *s, struct sb_error *err)
{
	for (size_t i = 0; i < s->files.count; i++)
		s->files.item[i]->taken = false;
	s->refused = 0;
	return dirsrc_read(s, err);
}

int dirsrc_snapshot(struct dirsrc *s, const char *reason, struct sb_error *err)
{
	bool may = false;

	int r = may_snapshot(s, &may, err);
	if (r < 0 || !may)
		return r;
	s->point = s->next++;
	s->sent_rows = 0;
	s->snapshot = true;
	struct agent_marker m = { .stream = s->snapshot_stream, .type = s->set->type, .incarnation = s->shape.incarnation, .point = s->point, .reason = reason };
	r = dirsrc_in_transaction(s, begin_snapshot, err);
	if (r == 0)
		r = agent_publisher_begun(s->pub, s->lane, &m, err);
	if (r == 0)
		r = read_all(s, err);
	if (r == 0)
		r = dirsrc_flush(s, err);
	m.rows = s->sent_rows;
	if (r == 0)
		r = agent_publisher_ended(s->pub, s->lane, &m, err);
	if (r == 0)
		r = agent_publisher_wait(s->pub, s->lane, false, err);
	if (r == 0)
		r = dirsrc_in_transaction(s, end_snapshot, err);
	if (r == 0)
		r = clear_pending(s, err);
	s->snapshot = false;
	if (r == 0)
		sb_log(SB_INFO, "snapshot_done", "source=%s type=%s rows=%" PRIu64 " refused=%" PRIu64, s->set->name, s->set->type, s->sent_rows, s->refused);
	return r;
}
