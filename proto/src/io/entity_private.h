/* What the entity_*.c files share. Never included elsewhere. */
#ifndef SB_ENTITY_PRIVATE_H
#define SB_ENTITY_PRIVATE_H

#include <jansson.h>

#include "stagebridge/entity_table.h"

#define ENTITY_COPY_MAX ((size_t)64 * 1024 * 1024) /* far more than a value of 768 KiB can expand to */
#define ENTITY_SQL_MAX ((size_t)4 * 1024 * 1024) /* 1,600 columns named a dozen times in one statement */

/* Our columns beside the source's, after a prefix that no source column collides with ("_" nearly always):
 *   inc, lsn, seq  version of the row          deleted  tombstone, while a snapshot runs
 *   missing        names of columns whose value has not arrived: an update left them out (unchanged TOAST) before the row itself came
 *   moved          of such a row after a change of its key: the key under which the snapshot will bring it
 * The staging table has inc, lsn, seq, ord (place in the batch) and op. */

struct entity_version { uint64_t inc, lsn; uint32_t seq; };

struct entity_column {        /* of the store table, as it is in the database */
	char *name;
	char *cast;           /* type without modifier, for casts */
};

struct entity_type {
	struct entity_type *next;
	char name[SB_TYPE_MAX + 1];
	unsigned number;              /* names the staging table */
	bool loaded;                  /* what follows is what the database says */
	char table[64];
	char prefix[16];
	bool has_table;
	struct sb_shape shape;        /* current shape; empty without a table */
	struct entity_version shape_at; /* version of the change that brought it */
	json_t *described;            /* last description, checked; NULL: none came yet */
	struct entity_column *column; /* physical columns but ours, in no order */
	unsigned n_columns;
	bool snapshot, partial;       /* a snapshot runs; some rows have missing columns */
	struct entity_version truncated; /* everything older is gone */
	bool history;                 /* versions are recorded */
	char history_table[64];       /* "": never were */
	unsigned history_generation;  /* begins anew when the key changes */
	json_t *history_text;         /* names of columns whose type changed meanwhile */
	int64_t snapshot_ms;          /* when the snapshot that runs, or ran last, began; 0 unknown */
	bool staged;                  /* staging table exists and fits */
	uint64_t staged_in;           /* transaction that used it last */
	uint32_t ord;                 /* next place in it */
	unsigned direct_skip;         /* runs of new rows that are staged all the same, because some were not new lately */
	unsigned direct_penalty;      /* how many the next time */
};

struct entity_row {
	size_t at, table_at;          /* its line in `copy`, and where in it the part for the table begins */
	unsigned index;               /* its change in the batch */
	uint32_t ord;
	char op;
};

struct sb_entity_tables {
	struct sb_pg *pg;
	char *scope, *view_schema;
	uint64_t rolled_back;         /* of the connection when the cache was filled */
	unsigned numbers;
	struct sb_entity_when when;
	struct entity_type *types;
	struct sb_buf sql;
	/* of the batch at work; kept from one to the next */
	struct entity_row *row; size_t cap_rows;
	struct sb_buf copy, direct;   /* lines for the staging table; of these the part that the table itself takes */
};

/* One call of sb_entity_apply. */
struct entity_apply {
	struct sb_entity_tables *t;
	struct entity_type *type;
	const void *value; size_t value_len;
	const struct sb_shape *shape;  /* of the batch */
	bool *use;                     /* per batch column: it is in the table */
	bool unfit;                    /* older than a change of the key: its rows have no place */
	sb_row_refused_fn refused; void *user;
	struct sb_apply_stats *stats;
	bool use_all;                  /* all of them are */
	size_t n_rows;                 /* of the segment that waits in t->row and t->copy */
	struct sb_batch_reader *again; /* second reading, for the rows that go one by one */
	unsigned again_at;             /* index of the change it gives next */
};


/* entity_table.c */
/** The type's cache entry, loaded; makes its row in store.entity_type when it is new. */
int entity_type_load(struct sb_entity_tables *t, const char *name, struct entity_type **ret, struct sb_error *err) SB_MUSTCHECK;
void entity_type_unload(struct entity_type *type);
/** Says so when no transaction is open, and forgets what a rolled-back one had made. */
int entity_enter(struct sb_entity_tables *t, struct sb_error *err) SB_MUSTCHECK;
void entity_table_name(struct sb_buf *out, const struct entity_type *type);  /* store."dev__experiment" */
/** Keeps fn's effect only when it succeeds; the transaction goes on either way. */
int entity_savepoint(struct sb_entity_tables *t, struct sb_error *err) SB_MUSTCHECK;
int entity_savepoint_keep(struct sb_entity_tables *t, struct sb_error *err) SB_MUSTCHECK;
int entity_savepoint_undo(struct sb_entity_tables *t, struct sb_error *err) SB_MUSTCHECK;
/** Name of a table of store for the type, with a suffix: names that the server would cut end in a hash. */
int entity_store_name(const struct sb_entity_tables *t, const struct entity_type *type, const char *suffix, char out[64], struct sb_error *err) SB_MUSTCHECK;
/** Runs t->sql inside a savepoint; ret_done tells whether it held. Only failures that come from the statements themselves count as "no". */
int entity_attempt(struct sb_entity_tables *t, bool *ret_done, struct sb_error *err) SB_MUSTCHECK;
/** Runs t->sql as a set-up statement. */
int entity_ddl(struct sb_entity_tables *t, struct sb_error *err) SB_MUSTCHECK;
int entity_set_partial(struct sb_entity_tables *t, struct entity_type *type, bool partial, struct sb_error *err) SB_MUSTCHECK;
int entity_version_cmp(struct entity_version a, struct entity_version b);
const struct sb_column *entity_shape_find(const struct sb_shape *s, const char *name);
const char *entity_cast(const struct entity_type *type, const char *column); /* "integer", for a cast */
void entity_array_add(struct sb_buf *out, const char *p, size_t n);  /* one element of an array literal; starts it with '{' */

/* entity_shape.c: DDL */
int entity_evolve(struct sb_entity_tables *t, struct entity_type *type, const struct sb_shape *shape, struct entity_version at, struct sb_error *err) SB_MUSTCHECK;
/* entity_types.c: DDL types of a shape's columns; ret[i] returns new */
int entity_resolve_types(struct sb_entity_tables *t, const struct sb_shape *shape, char **ret, struct sb_error *err) SB_MUSTCHECK;

/* entity_describe.c */
/** Appends COMMENT ON statements for the type's view from its description; columns: those that the view shows. */
void entity_comments(struct sb_buf *sql, const struct sb_entity_tables *t, const struct entity_type *type, const struct sb_shape *columns);
/** Reads the stored text of a description back. Returns new. */
int entity_described_load(json_t **ret, const char *text, struct sb_error *err) SB_MUSTCHECK;

/* entity_history.c */
/** Sets the time of what follows in the transaction, when the type has history. */
int entity_history_tell(struct sb_entity_tables *t, const struct entity_type *type, struct sb_error *err) SB_MUSTCHECK;
/** Before the columns change: no recording. */
int entity_history_pause(struct sb_entity_tables *t, const struct entity_type *type, struct sb_error *err) SB_MUSTCHECK;
/** Afterwards: recording goes on with the present columns. anew: old versions are those of another key. */
int entity_history_refresh(struct sb_entity_tables *t, struct entity_type *type, bool anew, struct sb_error *err) SB_MUSTCHECK;

/* entity_rows.c: the path row by row */
/** Applies one change (in a savepoint of the caller); ret_applied false: stale. */
int entity_row_apply(struct entity_apply *a, const struct sb_change *c, bool *ret_applied, struct sb_error *err) SB_MUSTCHECK;
/** "ON CONFLICT (key) DO UPDATE SET ... WHERE older", shared with the fast path; skip: batch columns not to set (may be NULL). */
void entity_conflict(struct sb_buf *sql, const struct entity_apply *a, const bool *skip);
void entity_keys(struct sb_buf *sql, const struct entity_type *type, const char *alias); /* a."k1", a."k2" */

#endif
