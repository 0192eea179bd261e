/* The courier: what its files share. The courier lane's thread owns all of it. */
#ifndef HUB_COURIER_H
#define HUB_COURIER_H

#include "hub.h"
#include "stagebridge/carrier.h"

#define COURIER_TRANSFERS_MAX 8  /* to one stage at once; the others wait their turn */
#define COURIER_CHUNKS_MAX    8  /* in flight to one stage: 4 MiB */
#define COURIER_EVENTS_MAX    64 /* in flight to one stage */

struct courier_stage;
struct courier_transfer {
	struct courier_stage *to;
	bool used; /* the slot holds a transfer */
	char id[SB_ID_LEN + 1];
	struct sb_manifest manifest;
	int fd;
	int64_t attempt;
	bool offered, offer_acked; /* the manifest */
	uint64_t sent, acked;      /* chunks */
	uint64_t limit;            /* chunks that the receiver's credit allows */
	unsigned in_flight;
	bool dirty; /* acked says more than the row */
};

struct courier;
struct courier_stage {
	struct courier *courier;
	const struct hub_stage *stage;
	struct sb_producer *producer; /* NULL: closed until retry_ms */
	int64_t retry_ms;
	unsigned failures;
	char topic_data[SB_TOPIC_MAX];
	int64_t sent_id, acked_id, deleted_id; /* outbox */
	unsigned events_in_flight, chunks_in_flight;
	struct courier_transfer transfer[COURIER_TRANSFERS_MAX];
};

struct courier {
	struct sb_lane *lane;
	struct hub_world *w;
	struct sb_pg *pg;
	int64_t generation;
	struct courier_stage *stage;
	size_t n_stages;
	uint8_t *chunk; /* SB_CHUNK_SEALED bytes */
	int64_t looked_ms, told_ms;
};

/* courier_transfer.c */
/** Reads the rows of the hub's own transfers: takes new ones, moves limits, ends those that are over. */
int courier_transfers_load(struct courier *c, struct sb_error *err) SB_MUSTCHECK;
/** Sends what credit and room allow. SB_EKAFKA: the stage's producer is broken. */
int courier_transfers_send(struct courier_stage *s, struct sb_error *err) SB_MUSTCHECK;
/** Inside a transaction: writes how far each is. */
int courier_transfers_store(struct courier *c, struct sb_error *err) SB_MUSTCHECK;
bool courier_transfers_dirty(const struct courier *c);
void courier_transfer_acked(struct courier_stage *s, uint64_t tag);
/** The producer is gone: what was in flight counts as not sent. */
void courier_transfers_rewind(struct courier_stage *s);
void courier_transfer_clear(struct courier_transfer *t);

/* Tags of deliveries: outbox ids are small; chunks carry a mark, their slot and index + 1 (0: the manifest) */
#define COURIER_TAG_CHUNK (UINT64_C(1) << 63)

#endif
