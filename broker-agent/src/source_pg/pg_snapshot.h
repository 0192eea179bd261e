/* Inside of the snapshot lane of a postgres source: what its files share. Everything here belongs to that lane's thread.
 *
 * A table is cut into ranges of blocks; several connections read them at once on one exported snapshot, and all go out on one stream. A range whose
 * rows are all on the broker is noted in the agent's state, and what is noted is not read again after a break (decision 0009). */
#ifndef AGENT_PG_SNAPSHOT_H
#define AGENT_PG_SNAPSHOT_H

#include "pgsrc.h"
#include "stagebridge/clock.h"

#define SNAP_READERS_MAX 16
#define SNAP_RANGES_MAX 4096      /* larger tables have larger ranges */
#define SNAP_PRINT_LEN 64         /* hex of SHA-256 */
#define SNAP_REASON_MAX 200

struct snapper {
	struct agent *a;
	const struct agent_pg_source *set;
	struct sb_lane *lane;
	struct sb_db *db;
	struct agent_publisher *pub;
	uint64_t session;            /* of the publisher */
	uint64_t marks;              /* given to the publisher so far */
	bool worked;                 /* something was sent in this pass, and with it a wake-up perhaps slept through */
};

/* ---- pg_snapshot_plan.c: where a table's rows are ---- */

struct snap_leaf {                   /* a table that holds rows: the table itself, or a partition */
	uint32_t oid;
	char *name;                  /* quoted, with its schema */
	int64_t blocks;              /* when it was looked at; rows that come later lie behind */
	bool places;                 /* its rows may be asked for by their place */
};

enum snap_state { SNAP_LEFT, SNAP_READING, SNAP_SENT, SNAP_DONE };

struct snap_range {
	uint32_t leaf;               /* oid; 0: the whole table, by its own name */
	int64_t first, last;         /* blocks [first, last); last -1: to the end, wherever that is by then */
	bool newer;                  /* it was read at an earlier point: only what came after that one */
	enum snap_state state;
	uint64_t rows;
	uint64_t mark;               /* sent: acknowledged when the publisher's mark is reached */
	uint64_t sequence, down_sequence; /* of the last record of the two streams then */
};

struct snap_plan {
	struct snap_leaf *leaf;
	unsigned n_leaves;
	bool toasted;                /* there are values that an update may leave out of the stream */
	char print[SNAP_PRINT_LEN + 1]; /* of all that must be the same for a range to mean the same rows */
	struct snap_range *range;
	unsigned n_ranges;
};
/** Looks; makes no ranges. The plan is released by the caller, also after an error. */
int snap_plan_look(struct sb_pg *pg, const struct pgsrc_table *t, const char *predicate, struct snap_plan *ret, struct sb_error *err) SB_MUSTCHECK;
/** Cuts into ranges of about range_bytes (a block size of 8192 is taken for granted: it only sets the size). */
int snap_plan_cut(struct snap_plan *p, uint64_t range_bytes, struct sb_error *err) SB_MUSTCHECK;
/** Adds, for every range that is done, one that reads what came into it after transaction xid. */
int snap_plan_catch_up(struct snap_plan *p, struct sb_error *err) SB_MUSTCHECK;
/** Takes a lock, for the rest of the transaction, under which no row changes its place but by the application's own writes. */
int snap_plan_lock(struct sb_pg *pg, const struct pgsrc_table *t, struct sb_error *err) SB_MUSTCHECK;
/** COPY statement of a range. xid: for newer ones. */
int snap_plan_sql(struct sb_buf *out, const struct snap_plan *p, const struct pgsrc_table *t, const struct snap_range *range, const char *predicate, uint64_t xid,
	struct sb_error *err) SB_MUSTCHECK;
void snap_plan_release(struct snap_plan *p);

/* ---- one snapshot ---- */

struct snap_want { char state[12], reason[SNAP_REASON_MAX], *predicate; bool asked; };

struct snap_run {                    /* what is kept of it until its end is acknowledged */
	bool known;
	char id[20];                 /* names it: where the server was when it began */
	uint64_t incarnation;
	uint64_t point;              /* the first one; 0 none yet */
	uint64_t xid;                /* every transaction before it had ended by then; 64 bits */
	char print[SNAP_PRINT_LEN + 1];
	uint64_t session, sequence, down_sequence; /* last record that must have arrived for the ranges that are done; of the stream for earlier stages */
};

struct snap_reader {
	struct sb_pg *pg;
	struct sb_batch *batch;
	struct snap_range *range;    /* NULL: at rest */
};

struct snapshot {                    /* of one type */
	struct snapper *sn;
	const struct agent_table *conf;
	struct snap_want want;
	char stream[SB_TYPE_MAX + 16];
	char down_stream[SB_ENTITY_STREAM_SIZE];
	struct pgsrc_table table;
	struct pgsrc_known known;
	struct pgsrc_down *down;
	struct sb_shape shape;
	struct sb_pg *pg;            /* looks at the catalog, holds the lock until the readers do */
	struct snap_run run;
	bool resumed;
	uint64_t point;              /* of this session: version of its rows */
	struct snap_plan plan;
	struct snap_reader reader[SNAP_READERS_MAX];
	unsigned n_readers, next;    /* next range to look at */
	unsigned n_open;             /* ranges that are not done */
	uint64_t rows, withheld;     /* rows: of all sessions, as far as they are sent */
	uint64_t rows_before;        /* of the sessions before */
	bool sent_any;
	int64_t began_ms, progress_ms, log_ms;
	struct sb_cell cell[SB_COLUMNS_MAX];
};

/* ---- pg_snapshot_run.c ---- */

/** From the first look to the acknowledged end. */
int snapshot_run(struct snapshot *sp, struct sb_error *err) SB_MUSTCHECK;

/* ---- pg_snapshot_read.c ---- */

/** Opens the connections of the readers; they hold no snapshot yet. */
int snap_readers_open(struct snapshot *sp, unsigned n, struct sb_error *err) SB_MUSTCHECK;
/** All readers see what the exported snapshot sees, and hold the lock. */
int snap_readers_import(struct snapshot *sp, const char *exported, struct sb_error *err) SB_MUSTCHECK;
/** Reads all ranges that are left; returns when their rows are acknowledged and noted. SB_ENOTFOUND: it is not wanted any more. */
int snap_read(struct snapshot *sp, struct sb_error *err) SB_MUSTCHECK;
/** Their transactions hold back vacuum: they end as soon as everything is read. */
void snap_readers_close(struct snapshot *sp);

/* ---- pg_snapshot_state.c ---- */

/** state "" when nothing is wanted of the type; without a shape the stream lane has not taken it up yet. */
int snap_want_load(struct sb_db *db, const char *source, const char *type, struct snap_want *ret, struct sb_error *err) SB_MUSTCHECK;
int snap_run_load(struct snapshot *sp, struct sb_error *err) SB_MUSTCHECK;
/** A new one: what is left of one before is forgotten. */
int snap_run_begin(struct snapshot *sp, struct sb_error *err) SB_MUSTCHECK;
/** The point is chosen, the ranges are cut. */
int snap_run_planned(struct snapshot *sp, struct sb_error *err) SB_MUSTCHECK;
int snap_ranges_load(struct snapshot *sp, struct sb_error *err) SB_MUSTCHECK;
/** Notes every sent range with a mark up to safe as done, all or none. */
int snap_ranges_done(struct snapshot *sp, uint64_t safe, struct sb_error *err) SB_MUSTCHECK;
/** Still what is wanted: the same life, no new reason since it began, not cancelled. Also stores the number of rows. */
int snap_still_wanted(struct snapshot *sp, bool *ret, struct sb_error *err) SB_MUSTCHECK;
/** The end is acknowledged: done, unless there is a new reason. */
int snap_run_end(struct snapshot *sp, struct sb_error *err) SB_MUSTCHECK;

/* ---- pg_snapshot_progress.c ---- */

/** Board, metrics, log; at most every two seconds, except when it must be said now. */
void snap_progress(struct snapshot *sp, bool now);
void snap_progress_end(struct snapshot *sp);

#endif
