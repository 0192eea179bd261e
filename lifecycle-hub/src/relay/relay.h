/* Relay of one stage: what its files share. The lane's thread owns all of it.
 *
 * A link reads the stage's up topics for one target: "hub" (packs of pushes, into the spool) or another stage (datasets, read-only copies).
 * Each link has positions of its own ("relay/<target>"), so that a target whose broker is down holds back nothing but its own link. */
#ifndef HUB_RELAY_H
#define HUB_RELAY_H

#include "hub.h"
#include "stagebridge/carrier.h"
#include "stagebridge/metric.h"

#define RELAY_TRANSFERS_MAX 64
#define RELAY_HUB           "hub"

enum relay_state {
	RELAY_CLOSED, /* to be opened at retry_ms */
	RELAY_READING,
	RELAY_WAITING, /* for the target's broker to acknowledge what was forwarded */
};
enum { RELAY_DATA, RELAY_ENTITY, RELAY_TOPICS };

struct relay_transfer {
	char id[SB_ID_LEN + 1];
	bool ours;                   /* stage link: may be forwarded; hub link: is received here */
	struct sb_manifest manifest; /* hub link */
	int fd;                      /* hub link: the spool; -1 */
	uint64_t next, credited;     /* hub link: chunks on disk; next of the last credit sent */
	bool dirty;                  /* hub link: to be synced before the commit */
	int64_t gap_credit_ms;       /* hub link: when the sender was last told where we are */
	uint64_t used;               /* for replacing the least recently used */
};

struct relay;
struct relay_link {
	struct relay *relay;
	const struct hub_stage *to; /* NULL: the hub itself */
	char target[SB_NAME_MAX + 1], position[SB_NAME_MAX + 8];
	bool entities; /* the target subscribes to a type of this stage */
	enum relay_state state;
	int64_t retry_ms; /* monotonic */
	unsigned failures;
	struct sb_consumer *consumer;
	struct sb_producer *producer;
	char topic[RELAY_TOPICS][SB_TOPIC_MAX];
	int64_t next[RELAY_TOPICS];
	bool moved[RELAY_TOPICS];
	bool tx;                      /* hub link: a transaction is open */
	bool reopen;                  /* after this batch is stored: come back to the same place in a moment */
	int64_t poison[RELAY_TOPICS]; /* offset of a record that the database refused, -1: none */
	char poison_reason[480];
	bool wake_courier, wake_git;
	unsigned records;
	uint64_t bytes;
	struct relay_transfer transfer[RELAY_TRANSFERS_MAX];
	size_t n_transfers;
	uint64_t tick;
};

struct relay {
	struct sb_lane *lane;
	struct hub_world *w;
	const struct hub_stage *stage;
	struct sb_pg *pg;
	int64_t generation;
	struct relay_link **link;
	size_t n_links;
	int64_t swept_ms;
	struct sb_metric *m_forwarded, *m_bytes;
	char label[2 * SB_NAME_MAX + 2];
};

/* relay_link.c: the life of a link */
int relay_links_make(struct relay *relay, struct sb_error *err) SB_MUSTCHECK;
void relay_link_free(struct relay_link *l);
/** 1 when something was done, 0 when there is nothing to do now, or an error of the database: the lane starts anew. Trouble with a broker
 * stays in the link. */
int relay_link_step(struct relay_link *l, struct sb_error *err) SB_MUSTCHECK;
/** A fenced transaction: begin. Commit and rollback are the caller's. */
int relay_begin(struct relay_link *l, struct sb_error *err) SB_MUSTCHECK;
/** Forwards the owner's bytes with our hop signature. */
int relay_forward(
	struct relay_link *l, struct sb_inrecord *in, const struct sb_meta *meta, enum sb_class class, struct sb_error *err) SB_MUSTCHECK;

/* One record. 0: done with it; SB_EAGAIN: not yet (the link comes back to it); else an error. */
int relay_data_hub(
	struct relay_link *l, struct sb_inrecord *in, struct sb_error *err) SB_MUSTCHECK; /* relay_spool.c, inside the link's transaction */
int relay_data_stage(struct relay_link *l, struct sb_inrecord *in, struct sb_error *err) SB_MUSTCHECK; /* relay_data.c */
int relay_entity(struct relay_link *l, struct sb_inrecord *in, struct sb_error *err) SB_MUSTCHECK;     /* relay_entity.c */

/* relay_data.c */
struct relay_transfer *relay_transfer_find(struct relay_link *l, const char *id);
struct relay_transfer *relay_transfer_add(struct relay_link *l, const char *id, bool ours);
void relay_transfer_clear(struct relay_transfer *t);
/** Quarantines the record and writes an audit row, in a transaction of its own. */
int relay_refuse(struct relay_link *l, const struct sb_inrecord *in, const char *class, const char *reason, const char *object,
	struct sb_error *err) SB_MUSTCHECK;
/** Parses the manifest of a verified transfer.offered. SB_EPROTO, SB_ETOOBIG. */
int relay_manifest(struct sb_manifest *ret, const struct relay_link *l, const struct sb_inrecord *in, const struct sb_meta *meta,
	struct sb_error *err) SB_MUSTCHECK;
/** True when the settings allow any dataset between the two. */
bool relay_edge(const struct hub_tenant *t, const char *from, const char *to);

/* relay_spool.c */
/** Before the hub link commits: spools are on disk. */
int relay_spool_sync(struct relay_link *l, struct sb_error *err) SB_MUSTCHECK;
/** Ends transfers that have run out. */
int relay_sweep(struct relay *relay, struct sb_error *err) SB_MUSTCHECK;

/* relay_entity.c */
bool relay_subscribes(const struct hub_tenant *t, const struct hub_type *type, const char *stage);
/** Orders a resync for every type of this stage that the target has newly subscribed to. */
int relay_subscribe(struct relay_link *l, bool partial, struct sb_error *err) SB_MUSTCHECK;

#endif
