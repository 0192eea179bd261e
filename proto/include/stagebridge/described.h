/* The value of entity.described: what a source's catalog says of an entity type. It tells people what they look at (comments, labels of enums, the source's
 * own types), and receivers of changes that no row shows: a column that was added, dropped, renamed or changed its type while nothing is written. It
 * names only columns that leave the stage; `withheld` names those that wait for somebody to declare them. Pure; any thread. */
#ifndef STAGEBRIDGE_DESCRIBED_H
#define STAGEBRIDGE_DESCRIBED_H

#include <jansson.h>

#include "stagebridge/change.h"

#define SB_COMMENT_MAX 1000  /* characters of a comment; a longer one is cut by who sends it */
#define SB_LABELS_MAX 1000   /* labels of one enum; an enum with more is described without */

/* What may become of a column elsewhere: "internal" is shown in the sync view and copied to later stages only, "public" anywhere, "masked" elsewhere by rule only. */
enum sb_column_class { SB_COLUMN_INTERNAL, SB_COLUMN_PUBLIC, SB_COLUMN_MASKED, SB_COLUMN_CLASS_COUNT };
const char *sb_column_class_name(enum sb_column_class c);

/** Reads a value and checks all of it: afterwards every key is there with the right kind of content. Returns new. SB_EPROTO, SB_ENOMEM. */
int sb_described_parse(json_t **ret, const void *p, size_t n, struct sb_error *err) SB_MUSTCHECK;
/** The same of an object that is there; the writer asks before it sends. */
int sb_described_check(const json_t *described, struct sb_error *err) SB_MUSTCHECK;
/** Its columns as the shape of a batch; release it. described: checked. */
int sb_described_shape(const json_t *described, struct sb_shape *ret, struct sb_error *err) SB_MUSTCHECK;
/** Position of the source's log at which the catalog was read. described: checked. */
uint64_t sb_described_lsn(const json_t *described);

#endif
