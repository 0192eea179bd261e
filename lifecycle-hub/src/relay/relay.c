/* Lane "<tenant>/relay/<stage>": bulk of one stage, topic to topic or topic to spool, never through the outbox. One thread, which owns a
 * connection, a consumer per link and a producer per target stage; it steps the links in turn and sleeps when none has anything to do. */
#include "relay.h"

#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "store/store.h"

#define IDLE_MS  5000
#define SWEEP_MS 60000
#define FDS_MAX  128

static int open_all(struct relay *relay, struct sb_error *err)
{
	int r = sb_format(relay->label, sizeof(relay->label), err, "%s/%s", relay->w->set->name, relay->stage->name);
	if (r < 0)
		return r;
	relay->m_forwarded = sb_metric(
		"stagebridge_relay_records_total", SB_COUNTER, "stage", "Records forwarded or spooled, by the stage they come from");
	relay->m_bytes =
		sb_metric("stagebridge_relay_bytes_total", SB_COUNTER, "stage", "Bytes forwarded or spooled, by the stage they come from");
	r = hub_store_open(&relay->pg, relay->w, sb_lane_name(relay->lane), err);
	if (r == 0)
		r = hub_fence_wait(relay->lane, relay->pg, relay->w, &relay->generation, err);
	if (r == 0)
		r = relay_links_make(relay, err);
	return r;
}

/* Until a descriptor speaks, a closed link is due, or the lease wants renewal */
static void wait_for_work(struct relay *relay)
{
	struct pollfd fd[FDS_MAX];
	nfds_t n = 0;
	int64_t now = sb_mono_ms(), until = now + IDLE_MS;

	for (size_t i = 0; i < relay->n_links && n + 2 <= FDS_MAX; i++) {
		const struct relay_link *l = relay->link[i];
		if (l->state == RELAY_CLOSED && l->retry_ms < until)
			until = l->retry_ms;
		if (l->state == RELAY_READING)
			fd[n++] = (struct pollfd){ .fd = sb_consumer_fd(l->consumer), .events = POLLIN };
		if (l->producer)
			fd[n++] = (struct pollfd){ .fd = sb_producer_fd(l->producer), .events = POLLIN };
	}
	(void)sb_lane_wait(relay->lane, fd, n, until > now ? until - now : 0); /* whatever woke us: look again */
}

static int relay_run(struct relay *relay, struct sb_error *err)
{
	int64_t idle_since = sb_mono_ms();

	while (!sb_lane_stopping(relay->lane)) {
		int done = 0, r = 0;
		for (size_t i = 0; r >= 0 && i < relay->n_links; i++) {
			r = relay_link_step(relay->link[i], err);
			done += r > 0;
		}
		if (r >= 0 && sb_mono_ms() - relay->swept_ms >= SWEEP_MS)
			r = relay_sweep(relay, err);
		if (done)
			idle_since = sb_mono_ms();
		if (r >= 0 && sb_mono_ms() - idle_since >= IDLE_MS) {
			r = hub_fence_idle(relay->pg, sb_lane_name(relay->lane), relay->generation, err);
			idle_since = sb_mono_ms();
		}
		if (r < 0)
			return r;
		if (!done)
			wait_for_work(relay);
	}
	return 0;
}

int hub_relay_lane(struct sb_lane *lane, void *user, struct sb_error *err)
{
	const struct hub_stage_lane *what = user;
	struct relay relay = { .lane = lane, .w = what->w, .stage = what->stage };

	int r = open_all(&relay, err);
	if (r == 0) {
		sb_lane_note(lane, "relaying");
		r = relay_run(&relay, err);
	}
	for (size_t i = 0; i < relay.n_links; i++)
		relay_link_free(relay.link[i]);
	free(relay.link);
	sb_pg_close(relay.pg);
	return r;
}
