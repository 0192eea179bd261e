/* Intake of one stage: what its files share. The lane's thread owns all of it. */
#ifndef HUB_INTAKE_H
#define HUB_INTAKE_H

#include "hub.h"
#include "quarantine.h"
#include "stagebridge/entity_table.h"
#include "stagebridge/metric.h"

#define INTAKE_STREAMS_MAX 20000
#define INTAKE_TYPES_MAX   10000

/* sb.stream as this lane knows it: the fence makes the copy in memory as good as the row. */
struct intake_stream {
	char source[SB_SOURCE_MAX];
	struct sb_stream_in in;
	bool known; /* something was accepted */
	uint64_t incarnation;
	struct sb_position position; /* entity streams: everything before it is in the view */
	bool dirty;
};
struct intake_type {
	char type[SB_TYPE_MAX + 1];
	uint64_t rows;
	bool dirty;
}; /* counts of this transaction */

enum { INTAKE_ENTITY, INTAKE_EVENT, INTAKE_TOPICS };

struct intake {
	struct sb_lane *lane;
	struct hub_world *w;
	const struct hub_stage *stage;
	struct sb_pg *pg;
	struct sb_consumer *consumer;
	struct sb_entity_tables *tables; /* NULL: to be made (again) */
	int64_t generation;
	char label[2 * SB_NAME_MAX + 2]; /* "<tenant>/<stage>" for metrics */

	char topic[INTAKE_TOPICS][SB_TOPIC_MAX];
	int64_t next[INTAKE_TOPICS]; /* offset; SB_OFFSET_BEGINNING: nothing read yet */
	bool moved[INTAKE_TOPICS];

	struct intake_stream **stream;
	size_t n_streams;
	struct intake_type *type;
	size_t n_types;

	/* the last heartbeat whose heads are not all applied */
	json_t *heads; /* NULL: none */
	char as_of[64];
	int64_t as_of_ms;

	const struct sb_inrecord *now; /* the record at work */
	int polled;
	struct sb_error poll_err; /* of the poll that ended the last batch, when it failed */
	bool wake_git, wake_engine, wake_courier;
	uint64_t batch_records, batch_bytes;
	int64_t prune_ms; /* when versions are to be pruned next */
	struct sb_metric *m_records, *m_rows, *m_duplicates, *m_commits, *m_commit_seconds, *m_lag;
};

/* intake_stream.c */
int intake_streams_load(struct intake *in, struct sb_error *err) SB_MUSTCHECK;
void intake_streams_free(struct intake *in);
/** Finds or adds; SB_EREFUSED when there are too many. */
int intake_stream_get(struct intake *in, const char *source, struct intake_stream **ret, struct sb_error *err) SB_MUSTCHECK;
/** NULL when nothing of it was accepted. */
const struct intake_stream *intake_stream_find(const struct intake *in, const char *source);
void intake_count_rows(struct intake *in, const char *type, uint64_t rows);
/** Writes dirty streams, row counts, positions and, when they are reached, the heads of the last heartbeat. */
int intake_flush(struct intake *in, struct sb_error *err) SB_MUSTCHECK;

/* intake_entity.c */
int intake_entity(struct intake *in, const struct sb_meta *meta, struct sb_error *err) SB_MUSTCHECK;
/** resync.ordered for the type, at most one a minute unless it must be said again. */
int intake_resync(struct intake *in, const char *type, const char *reason, bool again, struct sb_error *err) SB_MUSTCHECK;
/** At the start: a resync of every type that was refused before and that the settings now give to this stage. Inside a transaction. */
int intake_owned_again(struct intake *in, struct sb_error *err) SB_MUSTCHECK;

/* intake_history.c */
/** Switches the history of the stage's types on or off as the settings say. Inside a transaction. */
int intake_history_set(struct intake *in, struct sb_error *err) SB_MUSTCHECK;
/** Removes versions that are older than the settings keep them, when it is time; a transaction of its own. */
int intake_history_prune(struct intake *in, struct sb_error *err) SB_MUSTCHECK;

/* intake.c */
typedef int (*intake_fn)(void *user, struct sb_error *err);
/** Runs fn in a savepoint. When the record is at fault its effects are undone and it is quarantined (class "data"): 0 as well. */
int intake_try(struct intake *in, const char *type, intake_fn fn, void *user, struct sb_error *err) SB_MUSTCHECK;

/* intake_event.c, intake_request.c. Handlers run inside intake_try() */
int intake_event(struct intake *in, const struct sb_meta *meta, struct sb_error *err) SB_MUSTCHECK;
int intake_on_push(struct intake *in, const struct sb_meta *meta, const json_t *body, struct sb_error *err) SB_MUSTCHECK;
int intake_on_promotion(struct intake *in, const struct sb_meta *meta, const json_t *body, struct sb_error *err) SB_MUSTCHECK;
int intake_on_deployment(struct intake *in, const struct sb_meta *meta, const json_t *body, struct sb_error *err) SB_MUSTCHECK;
int intake_on_dataset_requested(struct intake *in, const struct sb_meta *meta, const json_t *body, struct sb_error *err) SB_MUSTCHECK;
int intake_on_dataset_reported(struct intake *in, const struct sb_meta *meta, const json_t *body, struct sb_error *err) SB_MUSTCHECK;
int intake_on_credit(struct intake *in, const struct sb_meta *meta, const json_t *body, struct sb_error *err) SB_MUSTCHECK;

/* Fields of a JSON body. A field that is not optional must be there and not empty. */
struct intake_field {
	const char *key;
	size_t max;
	bool optional;
	const char *value;
};
int intake_fields(const json_t *body, struct intake_field *f, size_t n, struct sb_error *err) SB_MUSTCHECK;
int intake_number(const json_t *body, const char *key, int64_t *ret, struct sb_error *err) SB_MUSTCHECK;

#endif
