/* Snapshots that somebody asks for: the hub because something is missing, a person because of doubt. Written down in the state for the source's lane. */
#ifndef AGENT_RESYNC_H
#define AGENT_RESYNC_H

#include "state.h"

#define AGENT_PREDICATE_MAX 4096

struct agent_resync {
	const char *type;
	const char *reason;          /* for people; no values in it */
	const char *predicate;       /* "": everything; checked before */
	const char *asked;           /* the person; "": it is needed, and a person cannot cancel it */
};

/** Where a type comes from: a table, a folder or the socket. SB_ENOTFOUND: not from this stage. */
struct agent_type_source { const struct agent_pg_source *pg; const struct agent_table *table; const struct agent_dir_source *dir; bool socket; };
int agent_type_find(const struct agent *a, const char *type, struct agent_type_source *ret, struct sb_error *err) SB_MUSTCHECK;

/** Inside the caller's transaction. SB_ECONFLICT: a person asks for rows while a snapshot of the type is wanted or runs. Wake the sources afterwards. */
int agent_resync_want(const struct agent *a, struct sb_db *db, const struct agent_resync *r, struct sb_error *err) SB_MUSTCHECK;
/** SB_ESTATE: nothing to cancel, or it is not a person's. */
int agent_resync_cancel(const struct agent *a, struct sb_db *db, const char *type, struct sb_error *err) SB_MUSTCHECK;

/** source_pg/pg_predicate.c: is it one condition on the table's columns, and nothing else? Asks the database, which decides; SB_EINVAL says what is wrong. */
int agent_predicate_check(const struct agent_pg_source *pg, const struct agent_table *table, const char *predicate, struct sb_error *err) SB_MUSTCHECK;

#endif
