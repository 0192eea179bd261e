/* Inside of the inbox lane: one record at a time, its effects and its offset in one transaction of state.db. */
#ifndef AGENT_INBOX_H
#define AGENT_INBOX_H

#include "stagebridge/carrier.h"
#include "state.h"

#define AGENT_SPOOLS_OPEN 8

struct agent_incoming {                /* an incoming transfer with its spool open */
	char id[SB_ID_LEN + 1];        /* "": free */
	struct sb_manifest manifest;
	int fd;
	uint64_t next;                 /* chunks that the spool holds */
	uint64_t told;                 /* `next` of the last credit */
	uint64_t gap_session;          /* attempt for which a gap was reported */
	uint64_t used;                 /* for eviction */
};

struct agent_inbox {
	struct agent *a;
	struct sb_db *db;
	struct agent_incoming open[AGENT_SPOOLS_OPEN];
	uint64_t uses;
	unsigned wake;                 /* AGENT_WAKE_*: whom to wake once the transaction is committed */
};
enum { AGENT_WAKE_COURIER = 1, AGENT_WAKE_DEPLOY = 2, AGENT_WAKE_DATASET = 4, AGENT_WAKE_SOURCES = 8 };

int agent_inbox_open(struct agent_inbox *in, struct agent *a, struct sb_error *err) SB_MUSTCHECK;
void agent_inbox_close(struct agent_inbox *in);
/** Takes one record: effects, stream position and next offset commit together, or nothing does. 0 also for what was refused: it is in quarantine.
 * An error is retriable: the record must be taken again. */
int agent_inbox_take(struct agent_inbox *in, const struct sb_inrecord *rec, struct sb_error *err) SB_MUSTCHECK;
/** What time brings: transfers that expire, old rows. Call about once a minute. */
int agent_inbox_tidy(struct agent_inbox *in, struct sb_error *err) SB_MUSTCHECK;

/* inbox_events.c: inside the caller's transaction. SB_EPROTO when the value has not the agreed form. */
int agent_event_apply(struct agent_inbox *in, const struct sb_meta *meta, json_t *value, struct sb_error *err) SB_MUSTCHECK;

/* transfer_in.c: inside the caller's transaction. After an error of any of them call agent_incoming_forget: spools were ahead of the table. */
int agent_transfer_offered(struct agent_inbox *in, const struct sb_meta *meta, const json_t *value, struct sb_error *err) SB_MUSTCHECK;
int agent_transfer_chunk(struct agent_inbox *in, const struct sb_record *rec, const struct sb_meta *meta, struct sb_error *err) SB_MUSTCHECK;
int agent_transfer_expire(struct agent_inbox *in, struct sb_error *err) SB_MUSTCHECK;
void agent_incoming_forget(struct agent_inbox *in);

#endif
