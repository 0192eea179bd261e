/* What a shape and a change must be, the same for writer and reader: nothing is written that a reader would refuse. Private to wire. */
#ifndef SB_WIRE_BATCH_RULES_H
#define SB_WIRE_BATCH_RULES_H

#include "stagebridge/change.h"

#define SB_COLUMN_NAME_MAX 63
#define SB_COLUMN_TYPE_MAX 255

/** NULL when fine, else what is wrong, in words that hold no content. */
const char *sb_shape_wrong(const struct sb_shape *s);
/** The same for one change; key says per column whether it is in the key, n_key how many are. Content of cells is not looked at. */
const char *sb_change_wrong(const bool *key, unsigned n_columns, unsigned n_key, const struct sb_change *c);
/** The same for a row as COPY text, without taking it apart: number of fields, key fields that are not NULL, UTF-8. */
const char *sb_row_text_wrong(const bool *key, unsigned n_columns, const char *line, size_t n);

#endif
