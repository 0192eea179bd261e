/* From decoded transactions to batches, one open batch per entity type. A change's version is (commit lsn, place within its transaction over all tables,
 * from 1: 0 belongs to the rows of a snapshot taken at exactly that point). A batch says which positions it covers, [from, to), so that the
 * receiver sees a hole between two of them: between transactions `to` is the end of the last one, within a transaction the next change.
 *
 * Memory: at most PGSRC_BATCHES_OPEN batches and what the publisher allows in flight, whatever a transaction's size. Stream lane. */
#include <string.h>

#include <sodium.h>

#include "pgsrc.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "stagebridge/metric.h"

struct sb_position pgsrc_here(const struct pgsrc *s)
{
	if (s->in_tx)
		return (struct sb_position){ .lsn = s->commit_lsn, .seq = s->seq };
	return (struct sb_position){ .lsn = s->done_lsn };
}

/* --- batches --- */

static int wait_room(void *user, struct sb_error *err)
{
	return pgsrc_wait_room(user, err);
}

static int send_down(struct pgsrc *s, struct pgsrc_type *t, const struct sb_position *to, const void *value, size_t n, struct sb_error *err)
{
	const struct pgsrc_down_to out = { s->pub, wait_room, s };
	const struct pgsrc_down_batch batch = { value, n, &t->from, to };

	return pgsrc_down_batch(t->down, &out, SB_EV_ENTITY_CHANGED, &batch, err);
}

int pgsrc_batch_close(struct pgsrc *s, struct pgsrc_type *t, struct sb_position to, struct sb_error *err)
{
	unsigned count = sb_batch_count(t->batch);
	size_t n = 0;
	int r = 0;

	if (count > 0) {
		r = pgsrc_wait_room(s, err);
		const void *value = sb_batch_value(t->batch, &n);
		agent_publisher_committed(s->pub, s->commit_ms);
		if (r == 0)
			r = agent_publisher_send(s->pub, t->stream, SB_EV_ENTITY_CHANGED, t->conf->type, SB_BATCH_CONTENT_TYPE, &t->from, &to, count, value, n, err);
		if (r == 0 && t->table.down_digest[0])
			r = send_down(s, t, &to, value, n, err);
		if (r < 0)
			return r;
		t->from = to;
		s->rows += count;
		s->sent++;
		sb_metric_add(sb_metric("stagebridge_source_rows_total", SB_COUNTER, "type", "Changes sent to the broker"), t->conf->type, count);
	}
	s->spare[s->n_spare++] = SB_TAKE(t->batch);
	s->n_open--;
	return 0;
}

int pgsrc_batches_close(struct pgsrc *s, struct sb_error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && s->n_open > 0 && i < s->n_types; i++) {
		if (s->type[i].batch)
			r = pgsrc_batch_close(s, &s->type[i], pgsrc_here(s), err);
	}
	if (r == 0)
		agent_publisher_mark(s->pub, s->done_lsn);
	return r;
}

static struct pgsrc_type *oldest_open(struct pgsrc *s)
{
	struct pgsrc_type *oldest = NULL;

	for (size_t i = 0; i < s->n_types; i++) {
		if (s->type[i].batch && (!oldest || s->type[i].opened < oldest->opened))
			oldest = &s->type[i];
	}
	return oldest;
}

static int batch_open(struct pgsrc *s, const struct pgsrc_relation *rel, struct sb_error *err)
{
	struct pgsrc_type *t = rel->type;
	int r = 0;

	if (s->n_open == PGSRC_BATCHES_OPEN)
		r = pgsrc_batch_close(s, oldest_open(s), pgsrc_here(s), err);
	if (r == 0 && s->n_spare == 0) {
		r = sb_batch_new(&s->spare[0], err);
		s->n_spare = r == 0;
	}
	if (r < 0)
		return r;
	r = sb_batch_begin(s->spare[s->n_spare - 1], &rel->shape, err);
	if (r < 0)
		return r;
	t->batch = s->spare[--s->n_spare];
	t->batch_oid = rel->oid;
	t->opened = s->openings++;
	if (s->n_open++ == 0)
		s->open_since_ms = sb_mono_ms();
	return 0;
}

/* --- rows that cannot be sent --- */

void pgsrc_log_withheld(const struct sb_shape *shape, const struct sb_change *c, const struct sb_error *why)
{
	crypto_hash_sha256_state st;
	uint8_t digest[crypto_hash_sha256_BYTES];
	char key[33], lsn[20];

	/* the hash that the hub's quarantine shows, so that both name the same row */
	crypto_hash_sha256_init(&st);
	for (unsigned i = 0; i < c->n_cells && i < shape->n_columns; i++) {
		uint64_t n = c->cell[i].n;
		if (!shape->column[i].key)
			continue;
		crypto_hash_sha256_update(&st, (const unsigned char *)&n, sizeof(n));
		if (n)
			crypto_hash_sha256_update(&st, (const unsigned char *)c->cell[i].p, n);
	}
	crypto_hash_sha256_final(&st, digest);
	sb_hex(key, digest, 16);
	sb_lsn_format(lsn, c->lsn);
	sb_log_error(SB_ERROR, "row_withheld", why, "type=%s key_hash=%s lsn=%s seq=%u", shape->type, key, lsn, c->seq);
	sb_metric_add(sb_metric("stagebridge_source_withheld_total", SB_COUNTER, "type", "Rows that could not be sent: too large, or not UTF-8"), shape->type, 1);
}

static void withhold(struct pgsrc *s, struct pgsrc_type *t, const struct pgsrc_relation *rel, const struct sb_change *c, const struct sb_error *why)
{
	t->withheld++;
	s->withheld++;
	pgsrc_log_withheld(&rel->shape, c, why);
}

/* --- changes --- */

int pgsrc_add(struct pgsrc *s, const struct pgsrc_relation *rel, const struct sb_change *c, struct sb_error *err)
{
	struct pgsrc_type *t = rel->type;
	struct sb_error why = SB_ERROR_INIT;
	const struct sb_position before = { .lsn = s->commit_lsn, .seq = c->seq };
	int r = 0;

	if (t->batch && t->batch_oid != rel->oid)
		r = pgsrc_batch_close(s, t, before, err);
	if (r == 0 && !t->batch)
		r = batch_open(s, rel, err);
	if (r < 0)
		return r;
	r = sb_batch_add(t->batch, c, &why);
	if (r == SB_ETOOBIG && sb_batch_count(t->batch) > 0) {
		r = pgsrc_batch_close(s, t, before, err);
		if (r == 0)
			r = batch_open(s, rel, err);
		if (r < 0)
			return r;
		r = sb_batch_add(t->batch, c, &why);
	}
	if (r == SB_ETOOBIG || r == SB_EPROTO || r == SB_EINVAL) {
		withhold(s, t, rel, c, &why);
		return 0;
	}
	if (r < 0)
		return sb_fail(err, (enum sb_code)r, "%s", why.msg);
	size_t n;
	(void)sb_batch_value(t->batch, &n); /* only its length */
	if (n >= PGSRC_BATCH_BYTES || sb_batch_count(t->batch) >= PGSRC_BATCH_ROWS)
		return pgsrc_batch_close(s, t, (struct sb_position){ .lsn = s->commit_lsn, .seq = c->seq + 1 }, err);
	return 0;
}

static bool same_cell(const struct sb_cell *a, const struct sb_cell *b)
{
	return a->kind == b->kind && a->n == b->n && (a->n == 0 || memcmp(a->p, b->p, a->n) == 0);
}

/* The old row tells key columns ('K') or all ('O'): what the new row left out is taken from there, and a key that differs is a key change. */
static void merge_old(struct pgsrc *s, const struct pgsrc_relation *rel, const struct pgoutput_msg *m, struct sb_change *c)
{
	bool moved = false;

	for (unsigned i = 0; m->old_kind == 'O' && i < c->n_cells; i++) {
		if (s->cell[i].kind == SB_CELL_UNCHANGED)
			s->cell[i] = m->old[rel->wire[i]];
	}
	for (unsigned k = 0; k < rel->n_key; k++) {
		struct sb_cell *now = &s->cell[rel->key[k]];
		s->old_key[k] = m->old[rel->wire[rel->key[k]]];
		if (now->kind == SB_CELL_UNCHANGED)
			*now = s->old_key[k];
		moved = moved || !same_cell(now, &s->old_key[k]);
	}
	if (moved) {
		c->op = 'k';
		c->n_old = rel->n_key;
		c->old_key = s->old_key;
	}
}

static void delete_cells(struct pgsrc *s, const struct pgsrc_relation *rel, const struct pgoutput_msg *m)
{
	for (unsigned i = 0; i < rel->shape.n_columns; i++)
		s->cell[i] = rel->shape.column[i].key ? m->old[rel->wire[i]] : (struct sb_cell){ .kind = SB_CELL_NULL };
}

static int row(struct pgsrc *s, const struct pgoutput_msg *m, struct sb_error *err)
{
	struct pgsrc_relation *rel = pgsrc_relation_find(s, m->oid);
	uint32_t seq = s->seq++;

	if (!s->in_tx)
		return sb_fail(err, SB_EPROTO, "a row outside of a transaction");
	if (s->copied)
		return 0;
	if (rel && rel->type->events)
		return rel->type->active && rel->usable ? pgsrc_outbox_row(s, rel, m, seq, err) : 0;
	if (rel && rel->type->active && !rel->usable)
		return pgsrc_relation_skips(s, rel, err);
	if (!rel || !rel->type->active)
		return 0;
	if ((m->kind != 'D' && m->n_cells != rel->n_wire) || (m->old_kind && m->n_old != rel->n_wire))
		return sb_fail(err, SB_EPROTO, "a row of \"%s\" has %u columns instead of %u", rel->type->conf->type, m->kind == 'D' ? m->n_old : m->n_cells, rel->n_wire);
	struct sb_change c = { .op = m->kind == 'I' ? 'i' : m->kind == 'U' ? 'u' : 'd', .lsn = s->commit_lsn, .seq = seq, .n_cells = rel->shape.n_columns,
		.cell = s->cell };
	if (m->kind == 'D') {
		delete_cells(s, rel, m);
		return pgsrc_add(s, rel, &c, err);
	}
	for (unsigned i = 0; i < c.n_cells; i++)
		s->cell[i] = m->cell[rel->wire[i]];
	if (m->old_kind)
		merge_old(s, rel, m, &c);
	return pgsrc_add(s, rel, &c, err);
}

static int truncated(struct pgsrc *s, const struct pgoutput_msg *m, struct sb_error *err)
{
	int r = 0;

	if (!s->in_tx)
		return sb_fail(err, SB_EPROTO, "a truncation outside of a transaction");
	if (s->copied)
		return 0;
	for (unsigned i = 0; r == 0 && i < m->n_relations; i++) {
		struct pgsrc_relation *rel = pgsrc_relation_find(s, pgoutput_truncated(m, i));
		const struct sb_change c = { .op = 't', .lsn = s->commit_lsn, .seq = s->seq++ };
		if (rel && rel->type->active && !rel->type->events)
			r = rel->usable ? pgsrc_add(s, rel, &c, err) : pgsrc_relation_skips(s, rel, err);
	}
	return r;
}

static int commit(struct pgsrc *s, const struct pgoutput_msg *m, struct sb_error *err)
{
	if (!s->in_tx || m->lsn != s->commit_lsn)
		return sb_fail(err, SB_EPROTO, "a commit without its transaction");
	s->in_tx = false;
	s->done_lsn = m->end_lsn;
	s->commit_ms = m->commit_us / 1000;
	if (s->n_open == 0) {
		agent_publisher_mark(s->pub, s->done_lsn);
		return 0;
	}
	/* a source that never rests must not keep the rows of a quiet type back */
	return sb_mono_ms() - s->open_since_ms >= PGSRC_OPEN_MS ? pgsrc_batches_close(s, err) : 0;
}

int pgsrc_message(struct pgsrc *s, const char *p, size_t n, struct sb_error *err)
{
	struct pgoutput_msg m;

	int r = pgoutput_decode(s->decoder, p, n, &m, err);
	if (r < 0)
		return r;
	switch (m.kind) {
	case 'B':
		if (s->in_tx)
			return sb_fail(err, SB_EPROTO, "a transaction within a transaction");
		s->in_tx = true;
		s->copied = false;
		s->commit_lsn = m.lsn;
		s->commit_ms = m.commit_us / 1000;
		s->begin_us = m.commit_us;
		s->seq = 1;
		return 0;
	case 'C':
		return commit(s, &m, err);
	case 'R':
		return pgsrc_relation_set(s, &m, err);
	case 'I':
	case 'U':
	case 'D':
		return row(s, &m, err);
	case 'T':
		return truncated(s, &m, err);
	case 'M':
		return pgsrc_outbox_message(s, &m, err);
	case 'O':
		/* by its name on every server version: origin 'none' of newer ones would also drop what an ordinary subscription of the database brings */
		s->copied = strcmp(m.name, s->origin) == 0;
		return 0;
	default:
		return 0; /* type: nothing in them that rows need */
	}
}
