/* The sign of life: what the agent says about itself every interval. */
#ifndef AGENT_HEARTBEAT_H
#define AGENT_HEARTBEAT_H

#include "state.h"

/** Returns new: the value of heartbeat.sent as of now. */
int agent_heartbeat_value(struct agent *a, struct sb_db *db, json_t **ret, struct sb_error *err) SB_MUSTCHECK;
/** Completes and signs it as the next of stream so; *ret_value (new) holds the bytes that rec->value borrows. */
int agent_heartbeat_record(struct agent *a, struct sb_db *db, struct sb_stream_out *so, struct sb_record *rec, char **ret_value, struct sb_error *err) SB_MUSTCHECK;
/** Sources as of now, as in the heartbeat but with what is for people besides; returns new, NULL only without memory. */
json_t *agent_board_sources(struct agent *a, bool for_people);

#endif
