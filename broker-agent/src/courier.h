/* Inside of the courier's lane: outgoing transfers. */
#ifndef AGENT_COURIER_H
#define AGENT_COURIER_H

#include "stagebridge/carrier.h"
#include "state.h"

#define AGENT_TRANSFERS_OUT 16     /* at work at once; more wait for their turn */
#define AGENT_DATA_IN_FLIGHT 8     /* chunks not yet acknowledged by the broker, over all transfers */

struct agent_outgoing {
	char id[SB_ID_LEN + 1];        /* "" : the slot is free */
	struct sb_manifest manifest;
	char *offer;                   /* the manifest as it is sent */
	int fd;
	struct sb_stream_out so;       /* session = attempt */
	bool offered;
	bool over;                     /* its row is no longer open: free the slot when nothing is in flight */
	uint64_t next;                 /* chunk to send */
	uint64_t credited;             /* the receiver has everything before it */
	uint64_t window;
	uint64_t delivered, stored;    /* chunks that the broker has; what of it is in the table */
	unsigned in_flight;
	int64_t progress_ms, patience_ms;
};

struct agent_outgoing_set {
	struct agent *a;
	struct sb_db *db;
	struct agent_outgoing slot[AGENT_TRANSFERS_OUT];
	unsigned in_flight;
	uint8_t *chunk;                /* SB_CHUNK_SEALED bytes */
};

int agent_outgoing_init(struct agent_outgoing_set *s, struct agent *a, struct sb_db *db, struct sb_error *err) SB_MUSTCHECK;
void agent_outgoing_release(struct agent_outgoing_set *s);
/** Brings the slots in line with the table: new transfers, credit, ended ones; removes spools that nobody needs. */
int agent_outgoing_refresh(struct agent_outgoing_set *s, struct sb_error *err) SB_MUSTCHECK;
/** Sends what credit and the limit in flight allow, one record of each transfer in turn. tag_kind goes into the top byte of tags. */
int agent_outgoing_send(struct agent_outgoing_set *s, struct sb_producer *p, uint64_t tag_kind, struct sb_error *err) SB_MUSTCHECK;
/** The broker has the record of this tag (without its kind). */
void agent_outgoing_delivered(struct agent_outgoing_set *s, uint64_t tag);

#endif
