/* Where entities land in PostgreSQL: in the hub's sync view and in a stage's schema `replica`. One table per entity type in schema `store`
 * with the source's columns and types plus _inc, _lsn, _seq, _deleted; a view in the people's schema shows the live rows. Types that the
 * server does not have in pg_catalog (enums, extensions') become text: a row must never be refused because a label or an extension came here later than it. Everything runs inside the caller's transaction. */
#ifndef STAGEBRIDGE_ENTITY_TABLE_H
#define STAGEBRIDGE_ENTITY_TABLE_H

#include <jansson.h>

#include "stagebridge/change.h"
#include "stagebridge/pg.h"

struct sb_entity_tables;  /* cache of what exists in one database, for one connection */

/** scope: prefix of store tables, e.g. the stage ("dev"); view_schema: where the people's views go ("dev" in the hub, "replica" in a stage). Creates both schemas. */
int sb_entity_tables_new(struct sb_entity_tables **ret, struct sb_pg *pg, const char *scope, const char *view_schema, struct sb_error *err) SB_MUSTCHECK;
void sb_entity_tables_free(struct sb_entity_tables *t);

/** Makes or evolves table and view to the shape: adds columns, relaxes, changes types (unknown casts: the column is added anew as text), keeps dropped ones out of the view. */
int sb_entity_ensure(struct sb_entity_tables *t, const struct sb_shape *shape, struct sb_error *err) SB_MUSTCHECK;

/** Told about every row that the database refused, inside the transaction; key is its key cells for the quarantine. Return non-zero to stop. */
typedef int (*sb_row_refused_fn)(void *user, const struct sb_shape *shape, const struct sb_change *c, const struct sb_error *why);

/**
 * Takes what the source's catalog says of a type (described.h, checked): table and view follow its columns, comments are set on the view and its columns.
 * Older than the last one: nothing happens; the same: neither. ret_news: something was stored.
 */
int sb_entity_describe(struct sb_entity_tables *t, const json_t *described, bool *ret_news, struct sb_error *err) SB_MUSTCHECK;

struct sb_apply_stats { uint64_t applied, stale, refused; };
/**
 * Applies the whole value of one batch, versions older than what is stored are dropped (counted stale), changes before `done` as well.
 * Fast path: COPY into staging, collapse, one guarded upsert. Falls back row by row (savepoints) for TOAST merges, key changes, truncates and poison rows.
 */
int sb_entity_apply(struct sb_entity_tables *t, const void *value, size_t n, struct sb_position done, sb_row_refused_fn refused, void *user, struct sb_apply_stats *stats, struct sb_error *err) SB_MUSTCHECK;

/** When what is applied next took effect at its source; only types with history look at it. */
struct sb_entity_when {
	int64_t ms;                 /* wall clock; 0: now */
	uint64_t incarnation;
	struct sb_position until;   /* end of the record */
	bool snapshot;              /* rows or end of a snapshot: valid since it began */
};
void sb_entity_when(struct sb_entity_tables *t, const struct sb_entity_when *when);
/** Begins or ends the recording of versions of a type: view <type>_history and function <type>_at(timestamptz) beside its view. What is there becomes the first version. */
int sb_entity_history(struct sb_entity_tables *t, const char *type, bool on, struct sb_error *err) SB_MUSTCHECK;
/** Removes versions that ended longer ago than keep_ms, 10,000 at a time; ret_gone: how many. */
int sb_entity_history_prune(struct sb_entity_tables *t, const char *type, int64_t keep_ms, uint64_t *ret_gone, struct sb_error *err) SB_MUSTCHECK;

/** A snapshot began: deletes leave tombstones from now on. Ended: rows older than (incarnation, lsn, 0) are gone, tombstones too. */
int sb_entity_snapshot_begun(struct sb_entity_tables *t, const char *type, struct sb_error *err) SB_MUSTCHECK;
int sb_entity_snapshot_ended(struct sb_entity_tables *t, const char *type, uint64_t incarnation, uint64_t lsn, uint64_t *ret_swept, struct sb_error *err) SB_MUSTCHECK;

#endif
