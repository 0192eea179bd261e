/* Entity batches: one record = one ordered batch of changes of one entity type, NDJSON. Line 1 is the shape, every other line one
 * change, so that `kcat | jq` reads it:
 *   {"type":"experiment","incarnation":1,"columns":[["id","integer",true],["name","text",false]]}
 *   ["u","0/16B3748",3,["1","first",null]]
 * op: "i" insert, "u" update, "d" delete (key cells, the others null), "k" key change (a fifth element holds the old key cells in
 * key order), "t" truncate (cells []), "s" snapshot row. Cells are PostgreSQL's text output: a string; null is SQL NULL; false is
 * an unchanged TOAST value that the source did not send. Version of a change: (incarnation, lsn of the commit, n within it). */
#ifndef STAGEBRIDGE_CHANGE_H
#define STAGEBRIDGE_CHANGE_H

#include "stagebridge/base.h"
#include "stagebridge/buf.h"
#include "stagebridge/error.h"
#include "stagebridge/text.h"

#define SB_COLUMNS_MAX 1600
#define SB_BATCH_CONTENT_TYPE "application/x-ndjson"

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

enum sb_cell_kind { SB_CELL_NULL, SB_CELL_VALUE, SB_CELL_UNCHANGED };
struct sb_cell { enum sb_cell_kind kind; const char *p; size_t n; };  /* borrowed bytes */

struct sb_change {
	char op;
	uint64_t lsn;
	uint32_t seq;
	unsigned n_cells;              /* shape.n_columns, or 0 for 't' */
	const struct sb_cell *cell;    /* borrowed */
	unsigned n_old;                /* 'k': number of key columns */
	const struct sb_cell *old_key;
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
