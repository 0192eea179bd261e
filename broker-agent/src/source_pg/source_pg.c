/* The stream lane of a postgres source: reads the slot, batches changes, publishes them, and lets the server forget what the broker has. One run of the
 * lane's function is one session; after any error the next run starts at the stored acknowledged position with a new session.
 *
 * States, as the board shows them: starting -> streaming <-> paused (the broker is slow or away: the socket is not read, the server is kept content)
 * -> down (an error; the lane's back-off). Owns struct pgsrc with all it points at. */
#include <stdio.h>
#include <string.h>

#include "pgsrc.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"

#define MESSAGES_A_TURN 256
#define BOARD_MS 200
#define STEADY_MS 1000
#define FINISH_MS 3000

/* --- what goes on beside the messages --- */

static int report(struct pgsrc *s, int64_t now, struct sb_error *err)
{
	s->status_ms = now + s->status_every_ms;
	return sb_pgrepl_status(s->repl, s->received, s->saved_lsn, err);
}

/* Stored first, reported then: the server must never forget what we would ask for again. */
static int save(struct pgsrc *s, int64_t now, struct sb_error *err)
{
	uint64_t safe = agent_publisher_safe(s->pub);

	if (safe <= s->saved_lsn)
		return 0;
	int r = pgsrc_state_save(s, safe, err);
	if (r < 0)
		return r;
	s->saved_lsn = safe;
	s->sent_at_save = s->sent;
	s->save_ms = now;
	return 0;
}

/* Without rows of ours only the server's other work moves the position: no hurry to store that. */
static int64_t next_save(const struct pgsrc *s)
{
	return s->save_ms + (s->sent != s->sent_at_save ? PGSRC_SAVE_MS : s->status_every_ms);
}

static int upkeep(struct pgsrc *s, bool with_catalog, struct sb_error *err)
{
	int64_t now = sb_mono_ms();
	int r = 0;

	if (now >= next_save(s) && agent_publisher_safe(s->pub) > s->saved_lsn) {
		r = save(s, now, err);
		if (r == 0)
			r = report(s, now, err);
	}
	if (r == 0 && now >= s->status_ms)
		r = report(s, now, err);
	if (r == 0 && with_catalog && now >= s->guard_ms) {
		bool changed = false;
		s->guard_ms = now + PGSRC_GUARD_MS;
		r = pgsrc_guard(s, &changed, err);
		if (changed)
			s->catalog_ms = now;
	}
	if (r == 0 && with_catalog && now >= s->catalog_ms) {
		s->catalog_ms = now + PGSRC_CATALOG_MS;
		r = pgsrc_catalog_poll(s, err);
	}
	if (r == 0 && with_catalog)
		r = pgsrc_describe_send(s, err);
	if (r == 0 && now >= s->board_ms) {
		s->board_ms = now + BOARD_MS;
		pgsrc_board(s, "streaming");
	}
	/* not at once: a session that fails at its first message must not end the back-off */
	if (r == 0 && s->started_ms && now - s->started_ms >= STEADY_MS) {
		s->started_ms = 0;
		sb_lane_note(s->lane, "streaming");
	}
	return r;
}

static int64_t earliest(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* Sleeps until the server or the broker says something, or upkeep is due. */
static void rest(struct pgsrc *s, bool read_source)
{
	struct pollfd fd[2] = { { .fd = agent_publisher_fd(s->pub), .events = POLLIN }, { .fd = sb_pgrepl_fd(s->repl), .events = POLLIN } };
	int64_t now = sb_mono_ms();
	int64_t until = earliest(s->status_ms, read_source ? earliest(s->catalog_ms, s->guard_ms) : s->status_ms);

	if (agent_publisher_safe(s->pub) > s->saved_lsn)
		until = earliest(until, next_save(s));
	if (agent_publisher_in_flight(s->pub) > 0 || agent_publisher_safe(s->pub) > s->saved_lsn)
		until = earliest(until, s->board_ms);
	if (!read_source)
		until = earliest(until, now + BOARD_MS);
	else if (s->n_open > 0 && !s->in_tx)
		until = earliest(until, s->open_since_ms + PGSRC_OPEN_MS); /* unless acknowledgements come first */
	/* until the next record may go, the server gathers for us: one look at the socket for many changes */
	bool gathers = read_source && s->n_open > 0 && !s->in_tx && now < s->closed_ms + PGSRC_SPACE_MS;
	if (gathers)
		until = earliest(until, s->closed_ms + PGSRC_SPACE_MS);
	int ready = sb_lane_wait(s->lane, fd, read_source && !gathers ? 2 : 1, until > now ? until - now : 0); /* what is ready shows when it is read */
	if (ready == 0 && sb_mono_ms() < until)
		s->catalog_ms = 0; /* woken: somebody wants something of the types */
}

int pgsrc_wait_room(struct pgsrc *s, struct sb_error *err)
{
	int r = 0;

	while (r == 0 && agent_publisher_full(s->pub)) {
		if (sb_lane_stopping(s->lane))
			return sb_fail(err, SB_ESHUTDOWN, "the broker has not taken everything");
		s->full = true;
		r = agent_publisher_poll(s->pub, 0, err);
		if (r == 0)
			r = upkeep(s, false, err);
		if (r == 0 && agent_publisher_full(s->pub))
			rest(s, false);
	}
	s->full = false;
	return r;
}

/* --- messages --- */

static int on_keepalive(struct pgsrc *s, const struct sb_pgrepl_msg *msg, struct sb_error *err)
{
	int64_t now = sb_mono_ms();
	int r = 0;

	/* with nothing of ours before it, the position is safe as soon as what was sent is */
	if (!s->in_tx && s->n_open == 0)
		agent_publisher_mark(s->pub, msg->wal_end);
	if (!msg->reply_requested)
		return 0;
	r = save(s, now, err);
	return r < 0 ? r : report(s, now, err);
}

static int read_some(struct pgsrc *s, bool *ret_idle, struct sb_error *err)
{
	struct sb_pgrepl_msg msg;
	int r = 0;

	*ret_idle = false;
	for (unsigned i = 0; r == 0 && i < MESSAGES_A_TURN && !agent_publisher_full(s->pub); i++) {
		r = sb_pgrepl_next(s->repl, &msg, err);
		if (r < 0)
			return r;
		if (msg.kind == SB_REPL_NONE) {
			*ret_idle = true;
			return 0;
		}
		if (msg.wal_end > s->received)
			s->received = msg.wal_end;
		r = msg.kind == SB_REPL_DATA ? pgsrc_message(s, msg.data, msg.len, err) : on_keepalive(s, &msg, err);
	}
	return r;
}

/* A record costs the broker and the hub far more than a row: while some are on their way, or one went just now, what comes goes out together a little later. So
 * batches grow with the load by themselves, and a change that comes alone waits for nothing. */
static bool may_go(const struct pgsrc *s)
{
	int64_t now = sb_mono_ms();

	if (now - s->open_since_ms >= PGSRC_OPEN_MS)
		return true;
	return agent_publisher_in_flight(s->pub) < PGSRC_FLIGHTS && now - s->closed_ms >= PGSRC_SPACE_MS;
}

static int stream(struct pgsrc *s, struct sb_error *err)
{
	bool idle;
	int r = 0;

	while (r == 0 && !sb_lane_stopping(s->lane)) {
		r = pgsrc_wait_room(s, err);
		if (r == 0)
			r = read_some(s, &idle, err);
		if (r == 0)
			r = agent_publisher_poll(s->pub, 0, err);
		if (r == 0 && idle && !s->in_tx && s->n_open > 0 && may_go(s)) {
			r = pgsrc_batches_close(s, err);
			s->closed_ms = sb_mono_ms();
		}
		if (r == 0)
			r = upkeep(s, true, err);
		if (r == 0 && idle)
			rest(s, true);
	}
	return r == SB_ESHUTDOWN ? 0 : r;
}

/* Asked after a failover: was anything sent that the promoted server never had? */
static int note_sent(struct pgsrc *s, struct sb_error *err)
{
	uint64_t last = s->in_tx ? s->commit_lsn + 1 : s->done_lsn; /* a transaction is had with its commit record */

	return pgsrc_state_sent(s, (int64_t)(last > s->sent_before ? last : s->sent_before), err);
}

/* What is whole goes out, what the broker takes within a moment is remembered: the next start repeats less. */
static int finish(struct pgsrc *s, struct sb_error *err)
{
	int64_t now = sb_mono_ms();
	int r = 0;

	if (!s->in_tx && s->n_open > 0 && !agent_publisher_full(s->pub))
		r = pgsrc_batches_close(s, err);
	if (r == 0 && agent_publisher_flush(s->pub, FINISH_MS, err) == SB_EKAFKA)
		return note_sent(s, err); /* it is read again after the next start */
	if (r == 0)
		r = note_sent(s, err);
	if (r < 0)
		return r;
	r = save(s, now, err);
	return r < 0 ? r : report(s, now, err);
}

/* --- the lane --- */

static int open_types(struct pgsrc *s, struct sb_error *err)
{
	const struct agent_table *table = s->set->tables.item;
	int r = 0;

	s->type = calloc(s->set->tables.count + 2, sizeof(*s->type));
	if (!s->type)
		return sb_fail_nomem(err);
	for (; r == 0 && s->n_types < s->set->tables.count; s->n_types++) {
		struct pgsrc_type *t = &s->type[s->n_types];
		t->conf = &table[s->n_types];
		t->active = true; /* until the first look says otherwise */
		r = sb_format(t->stream, sizeof(t->stream), err, "entity/%s", t->conf->type);
		if (r == 0)
			r = pgsrc_down_new(&t->down, s->a, t->conf, SB_STREAM_PUBLIC, err);
	}
	if (r < 0 || !s->set->outbox.type || !s->set->outbox.type[0])
		return r;
	s->outbox = (struct agent_table){ .type = s->set->outbox.type, .new_columns = AGENT_NEW_SEND, .table = s->set->outbox.table && s->set->outbox.table[0] ? s->set->outbox.table : NULL };
	s->events = &s->type[s->n_types++];
	s->events->conf = &s->outbox;
	s->events->active = s->events->events = true;
	return sb_format(s->events->stream, sizeof(s->events->stream), err, "entity/%s", s->outbox.type);
}

static void close_all(struct pgsrc *s)
{
	sb_pgrepl_close(s->repl);
	sb_pg_close(s->pg);
	agent_publisher_free(s->pub);
	pgoutput_free(s->decoder);
	pgsrc_relations_release(s);
	pgsrc_descriptions_release(s);
	for (size_t i = 0; i < s->n_types; i++) {
		sb_batch_free(s->type[i].batch);
		pgsrc_table_release(&s->type[i].table);
		pgsrc_known_release(&s->type[i].known);
		pgsrc_down_free(s->type[i].down);
	}
	while (s->n_spare > 0)
		sb_batch_free(s->spare[--s->n_spare]);
	free(s->type);
	sb_db_close(s->db);
	free(s);
}

/* An error of the session: what the broker has by now need not be sent again. */
static void on_failure(struct pgsrc *s, const struct sb_error *why)
{
	struct sb_error err = SB_ERROR_INIT;
	int r = 0;

	if (s->pub)
		r = save(s, sb_mono_ms(), &err);
	/* undefined_object: the history that the slot would decode knows no such publication, and never will */
	if (r == 0 && s->db && strcmp(why->state, "42704") == 0)
		r = pgsrc_state_slot_gone(s->db, s->set->name, &err);
	if (r == 0 && s->pub)
		r = note_sent(s, &err);
	if (r < 0)
		sb_log_error(SB_WARN, "state_not_saved", &err, "source=%s", s->set->name);
	pgsrc_board(s, "down");
}

int agent_pg_source_lane(struct sb_lane *lane, void *user, struct sb_error *err)
{
	const struct agent_pg_lane *mine = user;
	struct pgsrc *s = calloc(1, sizeof(*s));

	if (!s)
		return sb_fail_nomem(err);
	s->a = mine->agent;
	s->set = mine->source;
	s->lane = lane;
	agent_origin_name(s->a, s->origin);
	int r = open_types(s, err);
	if (r == 0) {
		pgsrc_board(s, "starting");
		r = pgsrc_session_open(s, err);
	}
	if (r == 0) {
		s->save_ms = s->board_ms = sb_mono_ms();
		s->status_ms = s->save_ms + s->status_every_ms;
		s->catalog_ms = s->save_ms + PGSRC_CATALOG_MS;
		s->started_ms = s->save_ms;
		sb_log(SB_INFO, "source_streaming", "source=%s incarnation=%llu", s->set->name, (unsigned long long)s->incarnation);
		pgsrc_board(s, "streaming");
		r = stream(s, err);
	}
	if (r == 0)
		r = finish(s, err);
	else
		on_failure(s, err);
	close_all(s);
	return r;
}
