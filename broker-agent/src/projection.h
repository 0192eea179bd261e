/* What of an entity type copies in earlier stages may hold: key, public and masked columns, made from the very batches that go to the sync view, so that order,
 * positions and versions are theirs. A projection belongs to one lane.
 *
 * A masked column has the type of what its rule makes (operator.h). A value that its rule cannot work on becomes NULL: nothing raw goes down, and nothing waits. */
#ifndef AGENT_PROJECTION_H
#define AGENT_PROJECTION_H

#include "columns.h"
#include "stagebridge/change.h"

struct agent_projection;

/** conf borrowed, its settings checked (agent_columns_check). Reads the stage's key (datasets.secret) when a mask makes pseudonyms. */
int agent_projection_new(struct agent_projection **ret, const struct agent_settings *set, const struct agent_table *conf, struct sb_error *err) SB_MUSTCHECK;
void agent_projection_free(struct agent_projection *p);
/** Names everything that decides what is sent: with another one everything must be sent anew. */
#define AGENT_PROJECTION_DIGEST 33
const char *agent_projection_digest(const struct agent_projection *p);

struct agent_projected {               /* one record's worth of a batch; from and to only where the batch has them */
	const void *value;        /* borrowed until the next call */
	size_t n;
	unsigned count;
	struct sb_position from, to;
};
/** Begins with a sealed batch, borrowed until next() returned 0. from, to: NULL, or the positions that it covers. */
int agent_projection_open(struct agent_projection *p, const void *value, size_t n, const struct sb_position *from, const struct sb_position *to,
	struct sb_error *err) SB_MUSTCHECK;
/** 1 and a part, 0 at the end. There is one part at least, that the positions stay whole; pseudonyms may be longer than values, so there may be more. */
int agent_projection_next(struct agent_projection *p, struct agent_projected *ret, struct sb_error *err) SB_MUSTCHECK;

#endif
