/* Entity batches: one record = one ordered batch of changes of one entity type. Line 1 is the shape, in JSON; every other line is one change, its fields between
 * tabs, its cells as PostgreSQL's COPY writes them (copy_text.h), so that `kcat | cut` reads it and a server loads it as it is:
 *   {"type":"experiment","incarnation":1,"columns":[["id","integer",true],["name","text",false]]}
 *   u	0/16B3748	3	1	first
 * op: "i" insert, "u" update, "d" delete (key cells, the others NULL), "k" key change (the old key's cells follow the row's), "t" truncate (no cells),
 * "s" snapshot row. Cells are PostgreSQL's text output; \N is NULL, \U an unchanged TOAST value that the source did not send.
 * Version of a change: (incarnation, lsn of the commit, n within it). */
#ifndef STAGEBRIDGE_CHANGE_H
#define STAGEBRIDGE_CHANGE_H

#include "stagebridge/base.h"
#include "stagebridge/copy_text.h"
#include "stagebridge/error.h"
#include "stagebridge/text.h"

#define SB_COLUMNS_MAX 1592   /* a table of PostgreSQL has 1,600 at most; a receiver keeps eight beside the source's */
#define SB_BATCH_CONTENT_TYPE "application/vnd.stagebridge.rows.v1"

struct sb_column {
	char *name;      /* UTF-8, at most 63 bytes, as the source spells it */
	char *type;      /* format_type() of the source: "numeric(10,2)", "timestamp with time zone"; "" = json value (schemaless) */
	bool key;
};

/** Owned value type; release with sb_shape_release. */
struct sb_shape {
	char type[SB_TYPE_MAX + 1];   /* entity type */
	uint64_t incarnation;
	struct sb_column *column;
	unsigned n_columns;
};
void sb_shape_release(struct sb_shape *s);
int sb_shape_copy(struct sb_shape *dst, const struct sb_shape *src, struct sb_error *err) SB_MUSTCHECK;
bool sb_shape_equal(const struct sb_shape *a, const struct sb_shape *b); /* incarnation not compared */

struct sb_change {
	char op;
	uint64_t lsn;
	uint32_t seq;
	unsigned n_cells;              /* shape.n_columns, or 0 for 't' */
	const struct sb_cell *cell;    /* borrowed */
	unsigned n_old;                /* 'k': number of key columns */
	const struct sb_cell *old_key;
	const char *text;              /* readers only: the cells as they stand in the batch, COPY text without newline; NULL when a COPY would not take them (\U, 'k', 't') */
	size_t text_len;
};

/** A place in a source's stream; orders lexicographically. A batch covers [from, to): after a transaction's last change `to` is (end_lsn, 0). */
struct sb_position { uint64_t lsn; uint32_t seq; };
int sb_position_cmp(struct sb_position a, struct sb_position b);
#define SB_POSITION_LEN 28
void sb_position_format(char out[SB_POSITION_LEN + 1], struct sb_position p);  /* "16B3748.3" hex lsn "." decimal seq */
int sb_position_parse(const char *s, struct sb_position *ret, struct sb_error *err) SB_MUSTCHECK;
void sb_lsn_format(char out[20], uint64_t lsn);                                 /* "0/16B3748" */
int sb_lsn_parse(const char *s, uint64_t *ret, struct sb_error *err) SB_MUSTCHECK;

/* Writing */
struct sb_batch;
int sb_batch_new(struct sb_batch **ret, struct sb_error *err) SB_MUSTCHECK;
void sb_batch_free(struct sb_batch *b);
/** Empties and writes the shape line. */
int sb_batch_begin(struct sb_batch *b, const struct sb_shape *shape, struct sb_error *err) SB_MUSTCHECK;
/** Appends one change (cells borrowed). SB_ETOOBIG when it does not fit into SB_VALUE_MAX: the batch is unchanged, send it and begin
 * another (when count is 0 the row itself is too large). SB_EPROTO when a cell is not UTF-8. */
int sb_batch_add(struct sb_batch *b, const struct sb_change *c, struct sb_error *err) SB_MUSTCHECK;
/** The same for a whole row that is COPY text already (a line of COPY TO STDOUT without its newline): its bytes are looked at, not taken apart. SB_EPROTO also
 * for another number of fields or a NULL in the key. op: 'i', 'u', 's'. */
int sb_batch_add_line(struct sb_batch *b, char op, uint64_t lsn, uint32_t seq, const char *line, size_t n, struct sb_error *err) SB_MUSTCHECK;
unsigned sb_batch_count(const struct sb_batch *b);
const void *sb_batch_value(const struct sb_batch *b, size_t *ret_len);  /* borrowed until the next call */

/* Reading */
struct sb_batch_reader;
/** Parses the shape line; value is borrowed for the life of the reader. SB_EPROTO with the line number. */
int sb_batch_open(struct sb_batch_reader **ret, const void *value, size_t n, struct sb_error *err) SB_MUSTCHECK;
const struct sb_shape *sb_batch_shape(const struct sb_batch_reader *r);
/** 1 and a change (borrowed until the next call), 0 at the end, or SB_EPROTO. */
int sb_batch_next(struct sb_batch_reader *r, struct sb_change *ret, struct sb_error *err) SB_MUSTCHECK;
void sb_batch_close(struct sb_batch_reader *r);

#endif
