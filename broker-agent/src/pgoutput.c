/* Decoder of pgoutput messages, protocol version 1. Pure, no allocation after pgoutput_new; belongs to one thread. Every read is checked against what
 * is left of the message; the first one that does not fit makes all later ones yield zero, and the message is refused at its end. */
#include "pgoutput.h"

#include <string.h>

#define EPOCH_2000_US INT64_C(946684800000000)

struct pgoutput {
	struct pgoutput_column column[PGOUTPUT_COLUMNS_MAX];
	struct sb_cell old[PGOUTPUT_COLUMNS_MAX], cell[PGOUTPUT_COLUMNS_MAX];
};

struct reader {
	const char *p;
	size_t n;
	const char *wrong; /* the first reason to refuse */
};

int pgoutput_new(struct pgoutput **ret, struct sb_error *err)
{
	*ret = calloc(1, sizeof(**ret));
	return *ret ? 0 : sb_fail_nomem(err);
}

void pgoutput_free(struct pgoutput *d)
{
	free(d);
}

static void refuse(struct reader *r, const char *why)
{
	if (!r->wrong)
		r->wrong = why;
	r->n = 0;
}

static const char *take(struct reader *r, size_t n)
{
	if (r->wrong || r->n < n) {
		refuse(r, "is cut short");
		return NULL;
	}
	const char *p = r->p;
	r->p += n;
	r->n -= n;
	return p;
}

static uint64_t number(struct reader *r, size_t bytes)
{
	const char *p = take(r, bytes);
	uint64_t v = 0;

	for (size_t i = 0; p && i < bytes; i++)
		v = v << 8 | (unsigned char)p[i];
	return v;
}

static uint32_t u32(struct reader *r)
{
	return (uint32_t)number(r, 4);
}

static char letter(struct reader *r)
{
	const char *p = take(r, 1);

	return p ? *p : '\0';
}

/* NUL-terminated inside the message */
static const char *text(struct reader *r)
{
	const char *end = r->n ? memchr(r->p, '\0', r->n) : NULL;

	if (!end) {
		refuse(r, "is cut short");
		return "";
	}
	return take(r, (size_t)(end - r->p) + 1);
}

static const char *schema_name(struct reader *r)
{
	const char *s = text(r);

	return *s ? s : "pg_catalog";
}

static unsigned tuple(struct reader *r, struct sb_cell *cell)
{
	unsigned n = (unsigned)number(r, 2);

	if (n > PGOUTPUT_COLUMNS_MAX) {
		refuse(r, "has too many columns");
		return 0;
	}
	for (unsigned i = 0; i < n && !r->wrong; i++) {
		char kind = letter(r);
		cell[i] = (struct sb_cell){ .kind = kind == 'u' ? SB_CELL_UNCHANGED : SB_CELL_NULL };
		if (kind == 't') {
			size_t len = u32(r);
			cell[i] = (struct sb_cell){ .kind = SB_CELL_VALUE, .n = len, .p = take(r, len) };
		} else if (kind == 'b') {
			refuse(r, "has a binary value, which was not asked for");
		} else if (kind != 'n' && kind != 'u') {
			refuse(r, "has a value of an unknown kind");
		}
	}
	return n;
}

static void relation(struct pgoutput *d, struct reader *r, struct pgoutput_msg *m)
{
	m->oid = u32(r);
	m->schema = schema_name(r);
	m->name = text(r);
	m->identity = letter(r);
	m->n_columns = (unsigned)number(r, 2);
	m->column = d->column;
	if (m->n_columns > PGOUTPUT_COLUMNS_MAX)
		refuse(r, "has too many columns");
	for (unsigned i = 0; i < m->n_columns && !r->wrong; i++) {
		d->column[i].key = (number(r, 1) & 1) != 0;
		d->column[i].name = text(r);
		d->column[i].type = u32(r);
		d->column[i].typmod = (int32_t)u32(r);
	}
	if (!r->wrong && (m->identity == '\0' || !strchr("dnfi", m->identity)))
		refuse(r, "has an unknown replica identity");
}

static void row(struct pgoutput *d, struct reader *r, struct pgoutput_msg *m)
{
	m->oid = u32(r);
	m->old = d->old;
	m->cell = d->cell;
	char part = letter(r);
	if (m->kind != 'I' && (part == 'K' || part == 'O')) {
		m->old_kind = part;
		m->n_old = tuple(r, d->old);
		part = m->kind == 'U' ? letter(r) : '\0';
	} else if (m->kind == 'D') {
		refuse(r, "has no old row");
	}
	if (m->kind == 'D')
		return;
	if (part != 'N')
		refuse(r, "has no new row");
	m->n_cells = tuple(r, d->cell);
}

static void truncate_of(struct reader *r, struct pgoutput_msg *m)
{
	m->n_relations = u32(r);
	char flags = letter(r);
	m->cascade = (flags & 1) != 0;
	m->restart = (flags & 2) != 0;
	if (m->n_relations > r->n / 4)
		refuse(r, "is cut short");
	m->relations = take(r, r->wrong ? 0 : (size_t)m->n_relations * 4);
}

uint32_t pgoutput_truncated(const struct pgoutput_msg *m, unsigned i)
{
	struct reader r = { .p = m->relations + (size_t)i * 4, .n = 4 };

	return u32(&r);
}

static void begin_or_commit(struct reader *r, struct pgoutput_msg *m)
{
	if (m->kind == 'C')
		(void)number(r, 1); /* flags: none are defined */
	m->lsn = number(r, 8);
	if (m->kind == 'C')
		m->end_lsn = number(r, 8);
	/* 2000 is far from the ends of int64: wraps only for nonsense, which harms nobody */
	m->commit_us = (int64_t)(number(r, 8) + (uint64_t)EPOCH_2000_US);
	if (m->kind == 'B')
		m->xid = u32(r);
}

static void others(struct reader *r, struct pgoutput_msg *m)
{
	if (m->kind == 'M') {
		m->transactional = (number(r, 1) & 1) != 0;
		m->lsn = number(r, 8);
		m->name = text(r);
		m->content_len = u32(r);
		m->content = take(r, m->content_len);
	} else if (m->kind == 'O') {
		m->lsn = number(r, 8);
		m->name = text(r);
	} else {
		m->oid = u32(r);
		m->schema = schema_name(r);
		m->name = text(r);
	}
}

int pgoutput_decode(struct pgoutput *d, const char *p, size_t n, struct pgoutput_msg *ret, struct sb_error *err)
{
	struct reader r = { .p = p, .n = n };
	struct pgoutput_msg m = { .kind = letter(&r) };

	switch (m.kind) {
	case 'B':
	case 'C':
		begin_or_commit(&r, &m);
		break;
	case 'R':
		relation(d, &r, &m);
		break;
	case 'I':
	case 'U':
	case 'D':
		row(d, &r, &m);
		break;
	case 'T':
		truncate_of(&r, &m);
		break;
	case 'M':
	case 'O':
	case 'Y':
		others(&r, &m);
		break;
	default:
		refuse(&r, "is of an unknown kind");
	}
	if (!r.wrong && r.n > 0)
		refuse(&r, "is longer than it should be");
	if (r.wrong)
		return sb_fail(err, SB_EPROTO, "pgoutput message 0x%02x of %zu bytes %s", (unsigned)(unsigned char)m.kind, n, r.wrong);
	*ret = m;
	return 0;
}
