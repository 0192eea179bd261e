/* PostgreSQL's COPY text format (its documentation: COPY, "Text Format"): fields between tabs, \N for NULL, and \b \f \n \r \t \v \\ for what they name. It is what the
 * server gives and takes fastest, so the rows of entity batches have the same form and pass from one to the other without being taken apart.
 * Narrower than COPY: no other escape, and none of the named bytes without one. Wider: \U, a value that the source did not send (entity batches only). */
#ifndef STAGEBRIDGE_COPY_TEXT_H
#define STAGEBRIDGE_COPY_TEXT_H

#include "stagebridge/base.h"
#include "stagebridge/buf.h"
#include "stagebridge/error.h"

enum sb_cell_kind { SB_CELL_NULL, SB_CELL_VALUE, SB_CELL_UNCHANGED };
struct sb_cell { enum sb_cell_kind kind; const char *p; size_t n; };  /* borrowed bytes */

/** Writes the escaped bytes to out, which has room for `space`; returns their number, or SIZE_MAX when there is no room: then out holds rubbish. */
size_t sb_copy_escape(char *out, size_t space, const char *p, size_t n);
/** Appends one field; NULL p is \N. */
void sb_copy_field(struct sb_buf *out, const char *p, size_t n);
/**
 * Splits a line without its newline into exactly n_cells cells. Fields without escapes stay in line, others are undone into scratch, which has room for n bytes and
 * may be the line itself; cells live as long as both.
 * SB_EPROTO: another number of fields, an unknown escape, a byte that should have been escaped; the message names the field by number.
 */
int sb_copy_split(const char *line, size_t n, char *scratch, struct sb_cell *cell, unsigned n_cells, struct sb_error *err) SB_MUSTCHECK;

#endif
