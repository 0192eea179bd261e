/* The messages of PostgreSQL's logical decoding plugin pgoutput, protocol version 1, text format. Pure: bytes in, a struct out. What it points at
 * lies in the message or in the decoder and is borrowed until the next call. */
#ifndef AGENT_PGOUTPUT_H
#define AGENT_PGOUTPUT_H

#include "stagebridge/change.h"

#define PGOUTPUT_COLUMNS_MAX 1600   /* of a table */

struct pgoutput_column {
	const char *name;
	bool key;                 /* part of the replica identity */
	uint32_t type;
	int32_t typmod;
};

struct pgoutput_msg {
	char kind;                /* 'B' begin, 'C' commit, 'R' relation, 'I', 'U', 'D', 'T' truncate, 'M' message, 'O' origin, 'Y' type */
	uint64_t lsn;             /* B: of the commit; C: of the commit; M: its own; O: of the commit at the origin */
	uint64_t end_lsn;         /* C: after the commit */
	int64_t commit_us;        /* B, C: since 1970 */
	uint32_t xid;             /* B */
	uint32_t oid;             /* R, I, U, D: the relation; Y: the type */
	const char *schema;       /* R, Y: "pg_catalog" when the server says "" */
	const char *name;         /* R, Y, O; M: its prefix */
	char identity;            /* R: 'd', 'n', 'f', 'i' */
	unsigned n_columns;       /* R */
	const struct pgoutput_column *column;
	char old_kind;            /* U, D: 'K' key cells, 'O' all, 0 none */
	unsigned n_old, n_cells;  /* U, D; I, U */
	const struct sb_cell *old, *cell;
	unsigned n_relations;     /* T */
	const char *relations;    /* T: see pgoutput_truncated */
	bool cascade, restart;    /* T */
	bool transactional;       /* M */
	const char *content;      /* M */
	size_t content_len;
};

struct pgoutput;
int pgoutput_new(struct pgoutput **ret, struct sb_error *err) SB_MUSTCHECK;
void pgoutput_free(struct pgoutput *d);
/** Reads one whole message. SB_EPROTO: cut short, too long, over a limit, of an unknown kind, or in binary format. */
int pgoutput_decode(struct pgoutput *d, const char *p, size_t n, struct pgoutput_msg *ret, struct sb_error *err) SB_MUSTCHECK;
/** Relation i (< n_relations) of a truncate message. */
uint32_t pgoutput_truncated(const struct pgoutput_msg *m, unsigned i);

#endif
