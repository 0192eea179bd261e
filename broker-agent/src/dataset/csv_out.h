/* The CSV that datasets travel as: RFC 4180 with "\n", as PostgreSQL's COPY ... CSV HEADER reads it: nothing is NULL, "" is the empty text. */
#ifndef AGENT_DATASET_CSV_OUT_H
#define AGENT_DATASET_CSV_OUT_H

#include "stagebridge/buf.h"

/** Appends a value, quoted where it must be. */
void agent_csv_cell(struct sb_buf *out, const char *p, size_t n);
/** The file begins with the header and has exactly that many rows behind it, the last one whole. SB_EPROTO otherwise. */
int agent_csv_check(const char *path, const struct sb_buf *header, uint64_t rows, struct sb_error *err) SB_MUSTCHECK;

#endif
