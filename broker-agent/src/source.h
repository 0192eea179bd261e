/* Sources of entities. Each configured source is one lane that owns a producer and publishes to up.entity. */
#ifndef AGENT_SOURCE_H
#define AGENT_SOURCE_H

#include <jansson.h>

#include "agent.h"

struct agent_pg_lane { struct agent *agent; const struct agent_pg_source *source; };
struct agent_dir_lane { struct agent *agent; const struct agent_dir_source *source; };
int agent_pg_source_lane(struct sb_lane *lane, void *user, struct sb_error *err);   /* struct agent_pg_lane; lane "source/<name>" */
int agent_pg_snapshot_lane(struct sb_lane *lane, void *user, struct sb_error *err); /* the same struct; lane "source/<name>/snapshot" */
int agent_dir_source_lane(struct sb_lane *lane, void *user, struct sb_error *err);  /* struct agent_dir_lane */
int agent_socket_source_lane(struct sb_lane *lane, void *user, struct sb_error *err); /* struct agent; lane "source/socket", for all types of the socket */

/** The pre-flight of all databases: connects, changes nothing. ret: new, [{source, findings: [{table, what, level ok|warning|missing, text, sql}]}]. A database
 * that does not answer is a finding. */
int agent_pg_check(const struct agent_settings *set, json_t **ret, unsigned *ret_missing, struct sb_error *err) SB_MUSTCHECK;
/** The same for people, a line each. */
void agent_pg_check_text(const json_t *sources, struct sb_buf *out);

#define AGENT_PUBLISHER_BYTES (8u * 1024 * 1024)   /* in flight; more waits at the source */
#define AGENT_PUBLISHER_RECORDS 8192

/** Publishes batches of one producer: stamps, keeps count of what is in flight, and tells which position is safe. Used by all sources; belongs to
 * one lane. */
struct agent_publisher;
int agent_publisher_new(struct agent_publisher **ret, struct agent *a, uint64_t session, struct sb_error *err) SB_MUSTCHECK;
void agent_publisher_free(struct agent_publisher *p);
/** Sends one record of a stream (made on first use: "entity/<type>" or "snapshot/<type>"). value copied. from/to NULL: none; count 0: not said.
 * SB_EAGAIN: full, poll until it is not. SB_EKAFKA: broken. */
int agent_publisher_send(struct agent_publisher *p, const char *stream, enum sb_event event, const char *key, const char *content_type,
	const struct sb_position *from, const struct sb_position *to, unsigned count, const void *value, size_t n, struct sb_error *err) SB_MUSTCHECK;
/** When the newest change of the next record was committed at its source (attribute sbcommit); only the next. */
void agent_publisher_committed(struct agent_publisher *p, int64_t wall_ms);
bool agent_publisher_full(const struct agent_publisher *p);
/** Every record sent so far must be acknowledged before a mark counts: remembers lsn after the records sent so far. */
void agent_publisher_mark(struct agent_publisher *p, uint64_t lsn);
/** Highest marked lsn with everything before it acknowledged; 0 none yet. */
uint64_t agent_publisher_safe(const struct agent_publisher *p);
/** `to` of the last record of the stream that is acknowledged with all before it; false when there is none yet. */
bool agent_publisher_acked(const struct agent_publisher *p, const char *stream, struct sb_position *ret);
/** Sequence of the last record of the stream that was sent; 0 none yet. */
uint64_t agent_publisher_sequence(const struct agent_publisher *p, const char *stream);
size_t agent_publisher_in_flight(const struct agent_publisher *p);   /* records */
int agent_publisher_poll(struct agent_publisher *p, int timeout_ms, struct sb_error *err) SB_MUSTCHECK; /* SB_EKAFKA: broken, restart the lane with a new session */
int agent_publisher_fd(const struct agent_publisher *p);
/** Polls until everything is acknowledged; SB_ETIMEOUT after timeout_ms. */
int agent_publisher_flush(struct agent_publisher *p, int timeout_ms, struct sb_error *err) SB_MUSTCHECK;

/* publisher_sync.c: for lanes that read what they publish by themselves, and so may wait. */

/** Waits for the broker to have everything, or until there is room. SB_ESHUTDOWN when the lane is to stop, SB_EKAFKA: broken. */
int agent_publisher_wait(struct agent_publisher *p, struct sb_lane *lane, bool for_room, struct sb_error *err) SB_MUSTCHECK;
/** Begin and end of a snapshot on its stream. */
struct agent_marker {
	const char *stream, *type, *reason;
	const char *id;                           /* NULL: its point */
	uint64_t incarnation, point, rows;        /* point: the consistent one, for the end */
	bool partial;                             /* only some rows are sent again */
	bool given_up;                            /* at the end: partial, or cancelled: nothing may be removed */
	uint64_t after_session, after_sequence;   /* it goes on: the last record that must have arrived; 0: it is new */
};
int agent_publisher_begun(struct agent_publisher *p, struct sb_lane *lane, const struct agent_marker *m, struct sb_error *err) SB_MUSTCHECK;
int agent_publisher_ended(struct agent_publisher *p, struct sb_lane *lane, const struct agent_marker *m, struct sb_error *err) SB_MUSTCHECK;

#endif
