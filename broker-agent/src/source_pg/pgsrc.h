/* Inside of the postgres source: what its files share. The stream lane owns struct pgsrc; the snapshot lane has connections, a publisher and a handle on
 * the state of its own, and the two talk through the tables source_state and snapshot of the agent's state. */
#ifndef AGENT_PGSRC_H
#define AGENT_PGSRC_H

#include <jansson.h>

#include "pgoutput.h"
#include "source.h"
#include "stagebridge/pg.h"
#include "state.h"

#define PGSRC_BATCH_BYTES (512u * 1024)
#define PGSRC_BATCH_ROWS 20000u
#define PGSRC_BATCHES_OPEN 8      /* 768 KiB each; with more types at once the oldest batch is closed early */
#define PGSRC_FLIGHTS 1           /* records on their way up to which an open batch is closed as soon as the source is idle */
#define PGSRC_SPACE_MS 3          /* between the records that an idle source closes */
#define PGSRC_OPEN_MS 50          /* a batch that is never idle is closed at the first end of a transaction after this */
#define PGSRC_CATALOG_MS 30000    /* how often the catalog is looked at */
#define PGSRC_GUARD_MS 2000       /* how often published tables are looked at for what would break the application's updates */
#define PGSRC_STATUS_MS 10000     /* reports to the server, at least */
#define PGSRC_SAVE_MS 1000        /* acknowledged positions are stored at most this often */

/* ---- pg_catalog.c: what the catalog says of a configured table ---- */

/* SQL: format_type() of a column's type, of a domain that of its base type: receivers know no domains, and its values are those of the base. */
#define PGSRC_TYPE_SQL(oid, typmod)                                                                                                         \
	"(WITH RECURSIVE d (t, m) AS (SELECT " oid ", " typmod " UNION ALL SELECT y.typbasetype, y.typtypmod FROM d JOIN pg_type y ON y.oid = d.t WHERE y.typtype = 'd')" \
	" SELECT format_type(d.t, d.m) FROM d JOIN pg_type y ON y.oid = d.t WHERE y.typtype <> 'd')"

struct pgsrc_column {
	char *name, *type;        /* type: PGSRC_TYPE_SQL */
	int attnum;
	bool key, has_default;
};

struct pgsrc_leaf {               /* a partition that holds rows */
	uint32_t oid;
	char *mark;               /* differs once its rows were changed without the stream */
	bool born_here;           /* it never was anything but a part of the table */
	bool one_go;              /* made and attached by one transaction */
	bool filled;              /* that transaction also wrote rows (set by pgsrc_leaves_check) */
};

struct pgsrc_table {
	uint32_t oid;
	char *schema, *name;
	char kind, identity;      /* relkind 'r' or 'p'; relreplident */
	int natts;                /* highest column number ever used */
	struct pgsrc_column *column;
	unsigned n_columns;       /* those that may leave the stage: neither private, withheld nor generated */
	struct pgsrc_column *withheld;
	unsigned n_withheld;      /* those that came later and that nobody declared: published, never sent */
	bool hides;               /* there are private columns */
	bool listed;              /* the publication leaves them out (set by pgsrc_publication) */
	bool harmful;             /* published, it would break the application's updates */
	struct pgsrc_leaf *leaf;  /* of a partitioned table */
	unsigned n_leaves;
	int64_t estimate;         /* rows; 0 unknown */
	char down_refusal[320];   /* why nothing of it goes to earlier stages, though it is to; "": it does, or is not to */
	char down_digest[33];     /* what decides what goes down; "": nothing does */
	char *filter;             /* the publication's row filter, as the server spells it; NULL: all rows (set by pgsrc_publication) */
	char refusal[440];        /* why it cannot be a source, with the SQL that mends it; "": it can */
};
struct pgsrc_known { uint32_t oid; json_t *columns; };  /* [[number, name], ...]; NULL: the type was not taken up yet */

void pgsrc_table_release(struct pgsrc_table *t);
/** Reads and judges. A table that cannot be a source is no error: refusal says why. */
int pgsrc_table_read(struct sb_pg *pg, const struct agent_table *conf, const struct pgsrc_known *known, struct pgsrc_table *ret, struct sb_error *err) SB_MUSTCHECK;
/** Server-wide demands: version, wal_level. ret_timeout_ms: wal_sender_timeout, 0 none. */
int pgsrc_server_check(struct sb_pg *pg, int64_t *ret_timeout_ms, struct sb_error *err) SB_MUSTCHECK;
/** A name of a column or of a type that a record can carry: UTF-8 (a database without an encoding may hold others), no control characters. */
bool pgsrc_name_ok(const char *name);
/** "schema"."name", appended. */
void pgsrc_table_sql(struct sb_buf *out, const struct pgsrc_table *t);
bool pgsrc_is_withheld(const struct pgsrc_table *t, const char *column);
/** "a", "b": the columns that may leave. */
void pgsrc_columns_sql(struct sb_buf *out, const struct pgsrc_table *t);
/** Returns new: what is remembered of a table to see its DDL later. */
char *pgsrc_shape_text(const struct pgsrc_table *t);
/** Why rows that were sent under the old shape must be sent again; NULL when they need not. */
const char *pgsrc_shape_demands(const char *old_text, const struct pgsrc_table *now);

/* ---- pg_partition.c: changes of partitions, which no decoder tells ---- */

int pgsrc_leaves_read(struct sb_pg *pg, struct pgsrc_table *t, struct sb_error *err) SB_MUSTCHECK;
void pgsrc_leaves_release(struct pgsrc_table *t);
/** Returns new: what is remembered of the leaves; NULL without memory. */
json_t *pgsrc_leaves_json(const struct pgsrc_table *t);
/** Why the rows must be sent again; NULL when they need not. */
const char *pgsrc_leaves_demand(const json_t *old, const struct pgsrc_table *now);
/** Looks into the leaves that are new since old_text (a shape) and could have been filled before they were attached. */
int pgsrc_leaves_check(struct sb_pg *pg, const char *old_text, struct pgsrc_table *now, struct sb_error *err) SB_MUSTCHECK;

/* ---- pg_filter.c ---- */

/** Sets the refusal when the configured row filter cannot be published without breaking the application's updates. Reads no row. */
int pgsrc_filter_check(struct sb_pg *pg, const struct agent_table *conf, struct pgsrc_table *t, struct sb_error *err) SB_MUSTCHECK;
/** The filter that the publication has for the table; returns new, NULL when it has none. */
int pgsrc_filter_read(struct sb_pg *pg, const char *publication, const struct pgsrc_table *t, char **ret, struct sb_error *err) SB_MUSTCHECK;

/* ---- pg_known.c: the columns that were there when a type was first taken up ---- */

int pgsrc_known_load(struct sb_db *db, const char *source, const char *type, struct pgsrc_known *ret, struct sb_error *err) SB_MUSTCHECK;
void pgsrc_known_release(struct pgsrc_known *k);
/** Was it there? True for all of a type that was not taken up yet. attnum 0: asked by name alone. */
bool pgsrc_known_has(const struct pgsrc_known *k, uint32_t oid, int attnum, const char *name);
/** After a look at a table that is no longer refused: takes the type up, follows a table that was made anew, adds what `new_columns: send` lets in. */
int pgsrc_known_keep(struct sb_db *db, const char *source, const struct agent_table *conf, const struct pgsrc_table *t, struct pgsrc_known *k,
	struct sb_error *err) SB_MUSTCHECK;

/* ---- pg_relation.c, pg_stream.c: from messages to batches ---- */

struct pgsrc_relation {           /* a relation as the stream describes it */
	uint32_t oid;
	struct pgsrc_type *type;
	char identity;
	bool usable;              /* false: no key, or a private column cannot be told apart */
	unsigned n_wire;          /* columns in its tuples */
	struct sb_shape shape;
	unsigned *wire;           /* shape column -> column of the tuple */
	unsigned *key;            /* key columns of the shape, in order */
	unsigned n_key;
};

struct pgsrc_type {               /* one configured table */
	const struct agent_table *conf;
	struct pgsrc_table table;
	struct pgsrc_known known;
	struct pgsrc_down *down;  /* NULL: nothing is to go to earlier stages */
	bool active;              /* was fine at the last look: its changes are sent */
	bool events;              /* the outbox: no snapshot, only INSERTs, columns of our own (pg_outbox.c) */
	bool filter_put;          /* the publication's row filter is the settings' */
	bool unusable;            /* the stream's relation is not: a private column cannot be told apart, or no key; rows are skipped */
	uint64_t unusable_lsn;    /* when the stream is past it, what the catalog says counts again */
	char stream[SB_TYPE_MAX + 16];
	struct sb_batch *batch;   /* NULL: none open */
	uint32_t batch_oid;       /* relation whose shape the open batch has */
	uint64_t opened;          /* order of opening */
	struct sb_position from;  /* where the next record begins */
	uint64_t withheld;
	json_t *said, *to_say;    /* its description: as sent last in this session; as it is to be sent, NULL none */
	uint64_t to_say_lsn, to_say_after; /* positions before its catalog was read, and when it had been read */
	bool say_again;           /* at the next look, even when it is no news */
};

struct pgsrc_type_name { uint32_t oid; int32_t typmod; char *name; };

struct pgsrc {
	struct agent *a;
	const struct agent_pg_source *set;
	struct sb_lane *lane;
	struct sb_db *db;
	struct sb_pg *pg;
	struct sb_pgrepl *repl;
	struct agent_publisher *pub;
	struct pgoutput *decoder;
	struct pgsrc_type *type;
	size_t n_types;
	struct pgsrc_relation *relation;
	size_t n_relations;
	struct pgsrc_type_name *type_name;
	size_t n_type_names;
	struct sb_batch *spare[PGSRC_BATCHES_OPEN];
	unsigned n_spare, n_open;
	uint64_t openings;
	int64_t open_since_ms;    /* of the oldest open batch */
	int64_t closed_ms;        /* when batches were closed because the source was idle, the last time */
	uint64_t incarnation;
	/* place in the stream */
	bool in_tx;
	bool copied;              /* the open transaction is of a replica lane: its rows are copies of what others own */
	char origin[AGENT_ORIGIN_SIZE];
	uint64_t commit_lsn;      /* of the open transaction; before the first: where the session began */
	uint32_t seq;             /* of the next change; 1 is the first: 0 belongs to snapshot rows */
	uint64_t done_lsn;        /* end of the last whole transaction */
	uint64_t received;
	int64_t begin_us;         /* when the open transaction was committed there */
	struct pgsrc_type *events; /* the outbox, one of `type`; NULL: none */
	struct agent_table outbox; /* its settings, as those of a table */
	struct pgsrc_relation event_relation; /* of its messages */
	char event_at[40];
	int64_t commit_ms;        /* when the last transaction was committed there */
	/* what was told */
	uint64_t saved_lsn;       /* stored as acknowledged; what the server may forget */
	uint64_t rows, withheld, sent;
	uint64_t sent_at_save;
	int64_t save_ms, status_ms, catalog_ms, guard_ms, board_ms, status_every_ms;
	int64_t started_ms;       /* 0: the lane has said that it works */
	char guard[33];           /* fingerprint of the published tables' identities */
	uint64_t server_lsn;
	uint64_t sent_before;     /* everything that earlier sessions of this life sent is before it */
	char slot_state[24];
	bool full;
	struct sb_cell cell[SB_COLUMNS_MAX], old_key[SB_COLUMNS_MAX];
};

int pgsrc_relation_set(struct pgsrc *s, const struct pgoutput_msg *m, struct sb_error *err) SB_MUSTCHECK;
struct pgsrc_relation *pgsrc_relation_find(struct pgsrc *s, uint32_t oid);
/** The table of this number is no longer the one that the settings name: its rows are not ours. */
int pgsrc_relation_disown(struct pgsrc *s, uint32_t oid, struct sb_error *err) SB_MUSTCHECK;
/** SB_EAGAIN when a table of ours was disowned earlier in this session: the server would not describe it again. */
int pgsrc_relations_check(struct pgsrc *s, struct sb_error *err) SB_MUSTCHECK;
void pgsrc_relations_release(struct pgsrc *s);

/** Into the open batch of the relation's type; a change that no record can carry is withheld. */
int pgsrc_add(struct pgsrc *s, const struct pgsrc_relation *rel, const struct sb_change *c, struct sb_error *err) SB_MUSTCHECK;
/** One message of the stream. May wait for the broker. */
int pgsrc_message(struct pgsrc *s, const char *p, size_t n, struct sb_error *err) SB_MUSTCHECK;
/** Sends the open batch of a type; it covers everything before `to`. */
int pgsrc_batch_close(struct pgsrc *s, struct pgsrc_type *t, struct sb_position to, struct sb_error *err) SB_MUSTCHECK;
/** At the end of a transaction: sends all open batches and marks the position. */
int pgsrc_batches_close(struct pgsrc *s, struct sb_error *err) SB_MUSTCHECK;
/** A row of an unusable relation came while the type is active. */
int pgsrc_relation_skips(struct pgsrc *s, struct pgsrc_relation *rel, struct sb_error *err) SB_MUSTCHECK;
/** The present place, in the middle of a transaction or between two. */
struct sb_position pgsrc_here(const struct pgsrc *s);
/** For both lanes: why a row was withheld, without a value of it. */
void pgsrc_log_withheld(const struct sb_shape *shape, const struct sb_change *c, const struct sb_error *why);

/* ---- pg_down.c: what goes to earlier stages ---- */

/** *ret NULL: the settings let nothing go down. kind: SB_STREAM_PUBLIC or SB_STREAM_PUBLIC_SNAPSHOT. */
int pgsrc_down_new(struct pgsrc_down **ret, const struct agent *a, const struct agent_table *conf, enum sb_entity_stream kind, struct sb_error *err) SB_MUSTCHECK;
void pgsrc_down_free(struct pgsrc_down *d);
/** After a look at the table: sets down_refusal and down_digest. d may be NULL. */
void pgsrc_down_judge(const struct pgsrc_down *d, struct pgsrc_table *t);
struct pgsrc_down_to { struct agent_publisher *pub; int (*wait)(void *user, struct sb_error *err); void *user; };  /* wait: until the publisher has room */
struct pgsrc_down_batch { const void *value; size_t n; const struct sb_position *from, *to; };
/** After a record was sent: sends what of it may go down. */
int pgsrc_down_batch(struct pgsrc_down *d, const struct pgsrc_down_to *to, enum sb_event event, const struct pgsrc_down_batch *b, struct sb_error *err) SB_MUSTCHECK;

/* ---- pg_outbox.c ---- */

/** Makes the relation of the outbox table: not usable when a column is missing. */
int pgsrc_outbox_relation(struct pgsrc *s, struct pgsrc_relation *rel, const struct pgoutput_msg *m, struct sb_error *err) SB_MUSTCHECK;
int pgsrc_outbox_row(struct pgsrc *s, struct pgsrc_relation *rel, const struct pgoutput_msg *m, uint32_t seq, struct sb_error *err) SB_MUSTCHECK;
/** Any logical message: one with our prefix becomes an event. */
int pgsrc_outbox_message(struct pgsrc *s, const struct pgoutput_msg *m, struct sb_error *err) SB_MUSTCHECK;

/* ---- pg_publication.c, pg_session.c ---- */

/** Makes the publication what the types need; sets their refusal and `listed`. ret_made: it was not there. */
int pgsrc_publication(struct pgsrc *s, bool *ret_made, struct sb_error *err) SB_MUSTCHECK;
/** Everything up to the first message: checks, publication, slot, incarnation, session, start. */
int pgsrc_session_open(struct pgsrc *s, struct sb_error *err) SB_MUSTCHECK;
/** Looks at the catalog again: DDL, tables that were mended or broken, the slot's state. */
int pgsrc_catalog_poll(struct pgsrc *s, struct sb_error *err) SB_MUSTCHECK;

/** Looks at one table again, without its publication. */
int pgsrc_table_look(struct pgsrc *s, struct pgsrc_type *type, struct sb_error *err) SB_MUSTCHECK;
/** Looks whether the identity of a published table changed: then its updates may fail until the publication follows. */
int pgsrc_guard(struct pgsrc *s, bool *ret_changed, struct sb_error *err) SB_MUSTCHECK;

/* ---- pg_describe.c ---- */

/** After a look at the catalog that began at position `before` and ended at s->server_lsn: which descriptions are to be sent. ret_wanted: set
 * when a type must be sent again, else left alone. */
int pgsrc_describe_look(struct pgsrc *s, uint64_t before, bool *ret_wanted, struct sb_error *err) SB_MUSTCHECK;
/** Sends those that the stream has reached. */
int pgsrc_describe_send(struct pgsrc *s, struct sb_error *err) SB_MUSTCHECK;
void pgsrc_descriptions_release(struct pgsrc *s);

/* ---- pg_state.c ---- */

struct pgsrc_state { bool known; char system_id[32], timeline[12], slot[64]; uint64_t incarnation, acked_lsn, point_lsn; int64_t sent_lsn; };
int pgsrc_state_load(struct sb_db *db, const char *source, struct pgsrc_state *ret, struct sb_error *err) SB_MUSTCHECK;
/** A new life of the source: stored, positions forgotten, all active types wanted; one transaction. */
int pgsrc_state_new_life(struct pgsrc *s, const struct pgsrc_state *st, const char *reason, struct sb_error *err) SB_MUSTCHECK;
/** False when the source had three new lives within the hour: another must wait. */
int pgsrc_state_may_renew(struct sb_db *db, const char *source, bool *ret, struct sb_error *err) SB_MUSTCHECK;
/** Up to where the stream was sent; -1: not known, from now on until it is. */
int pgsrc_state_sent(const struct pgsrc *s, int64_t lsn, struct sb_error *err) SB_MUSTCHECK;
/** The life goes on, on another timeline. */
int pgsrc_state_follow(const struct pgsrc *s, const char *timeline, struct sb_error *err) SB_MUSTCHECK;
/** The highest life in which another source told of a type that is ours now; 0: none did. */
int pgsrc_state_told_by_others(struct pgsrc *s, uint64_t *ret, struct sb_error *err) SB_MUSTCHECK;
/** Stores the acknowledged position of the source and of its types. */
int pgsrc_state_save(struct pgsrc *s, uint64_t lsn, struct sb_error *err) SB_MUSTCHECK;
/** The slot cannot be used any more: the next session begins a new life. */
int pgsrc_state_slot_gone(struct sb_db *db, const char *source, struct sb_error *err) SB_MUSTCHECK;
/** Where a type's next record begins after a restart at lsn. */
int pgsrc_state_position(struct sb_db *db, const char *source, const char *type, uint64_t lsn, struct sb_position *ret, struct sb_error *err) SB_MUSTCHECK;
/** The type is taken up as if for the first time, with a snapshot, when its table is there (again). */
int pgsrc_state_forget_shape(struct pgsrc *s, const struct pgsrc_type *t, struct sb_error *err) SB_MUSTCHECK;
/** Brings the snapshot table in line with the catalog: new, changed, mended, refused and removed types. ret_wanted: something to do. */
int pgsrc_state_types(struct pgsrc *s, bool *ret_wanted, struct sb_error *err) SB_MUSTCHECK;

/* ---- pg_board.c ---- */

void pgsrc_board(struct pgsrc *s, const char *state);
void pgsrc_board_snapshot(struct agent *a, const char *source, const struct agent_snapshot_state *now);

/* ---- source_pg.c ---- */

/** Waits until the publisher has room, keeping the server content meanwhile. SB_ESHUTDOWN when the lane is to stop. */
int pgsrc_wait_room(struct pgsrc *s, struct sb_error *err) SB_MUSTCHECK;

#endif
