/* Strict CSV (RFC 4180, UTF-8): comma, double quotes, LF or CRLF; every record has as many fields as the first one, the header. What does not fit is refused
 * with its line. An empty field without quotes is NULL, one with quotes ("") is an empty text. Pure; a reader belongs to one thread. */
#ifndef AGENT_CSV_H
#define AGENT_CSV_H

#include "stagebridge/buf.h"
#include "stagebridge/change.h"

struct csv {
	const char *p, *end;
	unsigned line;            /* of the next record, from 1 */
	unsigned n_fields;        /* of the header; 0 before it */
	struct sb_buf text;       /* the record's fields without their quotes */
};

/** text is borrowed; a byte order mark is skipped. */
void csv_init(struct csv *c, const char *text, size_t n);
void csv_release(struct csv *c);
/** 1 and the fields of the next record (borrowed until the next call), 0 at the end, SB_EPROTO with the line, SB_ETOOBIG when there are more than max. */
int csv_next(struct csv *c, struct sb_cell *field, unsigned max, unsigned *ret_n, struct sb_error *err) SB_MUSTCHECK;

#endif
