/* What every lane of the agent gets: settings, keys, the lanes to wake, and the status board. All const after start but the board,
 * which has its own lock. */
#ifndef AGENT_H
#define AGENT_H

#include <pthread.h>

#include "settings.h"
#include "stagebridge/change.h"
#include "stagebridge/db.h"
#include "stagebridge/kafka.h"
#include "stagebridge/keyring.h"
#include "stagebridge/lane.h"
#include "stagebridge/stream.h"

#define AGENT_HEADS_MAX 512

/* Stream heads and source states for the heartbeat: written by source lanes, read by the courier. */
struct agent_head { char source[SB_SOURCE_MAX]; uint64_t session, sequence; };
struct agent_snapshot_state {            /* of the snapshot that a source runs; type "": none */
	char type[SB_TYPE_MAX + 1];
	uint64_t rows, estimate;         /* sent; in the table by the catalog, 0 unknown */
	unsigned ranges, ranges_done, percent;
	int64_t eta_s;                   /* -1 unknown */
	bool partial;
};
struct agent_source_state {
	char name[64], kind[16], state[24], slot_state[24];
	uint64_t lag_bytes; int64_t lag_ms;
	uint64_t acked_lsn;              /* everything before it is on the broker */
	uint64_t rows;                   /* sent since start */
	char types[1024];                /* comma-separated */
	char down[1024];                 /* those of them that are published for copies in earlier stages as well */
	char withheld[1024];             /* "type.column" a line: columns that nobody declared; what does not fit is left out */
	char progress[160];              /* what it has to say, or "" */
	struct agent_snapshot_state snapshot;
};
struct agent_board {
	pthread_mutex_t lock;
	struct agent_head head[AGENT_HEADS_MAX]; unsigned n_heads;
	struct agent_source_state source[64]; unsigned n_sources;
};

struct agent {
	struct agent_settings set;
	struct sb_identity *identity;
	struct sb_keyring *keyring;
	struct sb_lanes *lanes;
	struct sb_kafka_conf kafka;      /* filled from set.broker */
	uint64_t session;                /* of this start; larger than any before */
	struct agent_board board;
	char topic_up[3][SB_TOPIC_MAX], topic_down[3][SB_TOPIC_MAX]; /* by enum sb_class */
};

int agent_open(struct agent **ret, const char *config_file, struct sb_error *err) SB_MUSTCHECK; /* settings, keys, state: no threads yet */
int agent_start(struct agent *a, struct sb_error *err) SB_MUSTCHECK;   /* starts the lanes that the settings ask for */
void agent_close(struct agent *a);                                      /* stops lanes in order, frees */

/** Replication origin of the rows that the replica lane writes: one server may hold the databases of several stages, and an origin belongs to one session of it. */
#define AGENT_ORIGIN_SIZE 96
void agent_origin_name(const struct agent *a, char out[AGENT_ORIGIN_SIZE]);

void agent_board_head(struct agent *a, const struct sb_stream_out *so);
void agent_board_source(struct agent *a, const struct agent_source_state *s);  /* by name */
bool agent_board_source_is(struct agent *a, const char *name, const char *state);

/* Lane bodies, one file each; user is struct agent * or the named struct of their header. */
int agent_courier_lane(struct sb_lane *lane, void *user, struct sb_error *err);   /* outbox, heartbeats, outgoing transfers -> broker */
int agent_inbox_lane(struct sb_lane *lane, void *user, struct sb_error *err);     /* down events and data -> state, spools, jobs */
int agent_replica_lane(struct sb_lane *lane, void *user, struct sb_error *err);   /* down entities -> schema replica */
int agent_deploy_lane(struct sb_lane *lane, void *user, struct sb_error *err);    /* jobs of kind "deploy" and "git" */
int agent_dataset_lane(struct sb_lane *lane, void *user, struct sb_error *err);   /* jobs of kind "dataset" and "receive" */

#endif
