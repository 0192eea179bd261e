/* Waiting for the broker, and the markers of snapshots, for lanes that read what they publish by themselves, and so may wait. */
#include <jansson.h>
#include <string.h>

#include "source.h"

int agent_publisher_wait(struct agent_publisher *p, struct sb_lane *lane, bool for_room, struct sb_error *err)
{
	int r = agent_publisher_poll(p, 0, err);

	while (r == 0 && (for_room ? agent_publisher_full(p) : agent_publisher_in_flight(p) > 0)) {
		struct pollfd fd = { .fd = agent_publisher_fd(p), .events = POLLIN };
		if (sb_lane_stopping(lane))
			return sb_fail(err, SB_ESHUTDOWN, "stopped while the broker was waited for");
		(void)sb_lane_wait(lane, &fd, 1, 1000); /* polled below in any case */
		r = agent_publisher_poll(p, 0, err);
	}
	return r;
}

/* Takes value. */
static int send(struct agent_publisher *p, struct sb_lane *lane, const struct agent_marker *m, enum sb_event event, json_t *value, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *text = value ? json_dumps(value, JSON_COMPACT | JSON_SORT_KEYS) : NULL;

	json_decref(value);
	if (!text)
		return sb_fail_nomem(err);
	int r = agent_publisher_wait(p, lane, true, err);
	return r < 0 ? r : agent_publisher_send(p, m->stream, event, m->type, NULL, NULL, NULL, 0, text, strlen(text), err);
}

static const char *id_of(const struct agent_marker *m, char lsn[20])
{
	sb_lsn_format(lsn, m->point);
	return m->id ? m->id : lsn;
}

int agent_publisher_begun(struct agent_publisher *p, struct sb_lane *lane, const struct agent_marker *m, struct sb_error *err)
{
	char lsn[20];

	return send(p, lane, m, SB_EV_SNAPSHOT_BEGUN, json_pack("{s:s, s:I, s:s, s:s, s:b, s:I, s:I}", "type", m->type, "incarnation", (json_int_t)m->incarnation,
		"snapshot", id_of(m, lsn), "reason", m->reason, "partial", (int)m->partial, "after_session", (json_int_t)m->after_session, "after_sequence",
		(json_int_t)m->after_sequence), err);
}

int agent_publisher_ended(struct agent_publisher *p, struct sb_lane *lane, const struct agent_marker *m, struct sb_error *err)
{
	char lsn[20];
	const char *id = id_of(m, lsn);

	return send(p, lane, m, SB_EV_SNAPSHOT_ENDED, json_pack("{s:s, s:I, s:s, s:s, s:I, s:b}", "type", m->type, "incarnation", (json_int_t)m->incarnation,
		"snapshot", id, "lsn", lsn, "rows", (json_int_t)m->rows, "complete", (int)!m->given_up), err);
}
