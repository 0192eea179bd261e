/* Inside of the replica lane: what it keeps in the replica database, in the same transactions as the rows. */
#ifndef AGENT_REPLICA_H
#define AGENT_REPLICA_H

#include "agent.h"
#include "stagebridge/entity_table.h"
#include "stagebridge/pg.h"

#define REPLICA_OWNERS_MAX 16        /* stages whose entities are copied here */

struct replica_stream {              /* store.down_stream: how far a stream of an owner has come */
	bool known;
	struct sb_stream_in in;
	uint64_t incarnation;
	struct sb_position done;     /* everything before it is in the tables */
	int64_t made_ms;             /* when its owner signed the last record */
};

struct replica_owner { char stage[SB_NAME_MAX + 1]; struct sb_entity_tables *tables; };

struct replica {
	struct agent *a;
	struct sb_pg *pg;
	struct sb_consumer *consumer;
	struct replica_owner owner[REPLICA_OWNERS_MAX];
	unsigned n_owners;
};

/** Schemas, tables, rights, replication origin. Outside a transaction; may be repeated. */
int replica_prepare(struct replica *rp, struct sb_error *err) SB_MUSTCHECK;

int replica_offset_load(struct replica *rp, int64_t *ret, struct sb_error *err) SB_MUSTCHECK;
int replica_offset_store(struct replica *rp, int64_t next, struct sb_error *err) SB_MUSTCHECK;
int replica_stream_load(struct replica *rp, const char *source, struct replica_stream *ret, struct sb_error *err) SB_MUSTCHECK;
int replica_stream_store(struct replica *rp, const char *source, const struct replica_stream *s, struct sb_error *err) SB_MUSTCHECK;

/** Remembers which snapshot of a type runs; a hole in it makes it broken; whole: it ran and had no hole, and is done now. */
int replica_snapshot_begun(struct replica *rp, const char *stage, const char *type, const char *snapshot, struct sb_error *err) SB_MUSTCHECK;
/** The same snapshot after a break: it stays as it is when nothing of it is missing, else it is broken. */
int replica_snapshot_goes_on(struct replica *rp, const char *stage, const char *type, const char *snapshot, bool has_all, struct sb_error *err) SB_MUSTCHECK;
int replica_snapshot_broken(struct replica *rp, const char *stage, const char *type, struct sb_error *err) SB_MUSTCHECK;
int replica_snapshot_ended(struct replica *rp, const char *stage, const char *type, const char *snapshot, bool *ret_whole, struct sb_error *err) SB_MUSTCHECK;

/** For people: what the view of a type is, where its source says nothing. */
int replica_comment(struct replica *rp, const char *stage, const char *type, bool down, struct sb_error *err) SB_MUSTCHECK;

/** A record, or one row of it (class "row"), that was refused; the newest 10000 are kept. */
int replica_quarantine(struct replica *rp, const struct sb_inrecord *ir, const char *class, const char *reason, struct sb_error *err) SB_MUSTCHECK;

/** The tables of an owner; made on first use, inside the caller's transaction. */
int replica_tables(struct replica *rp, const char *stage, struct sb_entity_tables **ret, struct sb_error *err) SB_MUSTCHECK;

#endif
