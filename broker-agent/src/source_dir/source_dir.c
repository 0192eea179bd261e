/* The lane of a directory source. It looks through the whole folder at the configured interval, and where the system tells of changes (inotify) at single
 * names as soon as they change; it publishes new and changed documents and the deletion of those that are gone. The first look of a source's life, and
 * one after a resync order, publishes everything as a snapshot.
 *
 * States, as the board shows them, with the reason beside them: watching; "invalid file", "refused rows" (the others go on); "deletion held";
 * "snapshot waits"; down (folder, broker or state failed: the lane's back-off). */
#include <stdio.h>
#include <string.h>

#include "dirsrc.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"

#define RECHECK_MS 100 /* until a name that is said to be gone is looked at again */

static const char *state_of(struct dirsrc *s)
{
	const struct dirsrc_file *bad = NULL, *partly = NULL;
	unsigned n = 0;

	if (*s->reason)
		return s->held_since_ms ? "deletion held" : "snapshot waits";
	for (size_t i = 0; i < s->files.count; i++) {
		const struct dirsrc_file *f = s->files.item[i];
		n += f->bad || f->reason;
		bad = f->bad && !bad ? f : bad;
		partly = f->reason && !partly ? f : partly;
	}
	const struct dirsrc_file *first = bad ? bad : partly;
	if (!first)
		return "watching";
	(void)snprintf(s->reason, sizeof(s->reason), "%.60s: %.80s%s", first->name, first->reason ? first->reason : "invalid", n > 1 ? " (and others)" : ""); /* for people */
	return bad ? "invalid file" : "refused rows";
}

static void board(struct dirsrc *s, const char *state)
{
	struct agent_source_state b = { .kind = "directory", .acked_lsn = s->next, .rows = s->rows };

	(void)snprintf(b.name, sizeof(b.name), "%s", s->set->name);    /* all are shorter */
	(void)snprintf(b.state, sizeof(b.state), "%s", state);
	(void)snprintf(b.types, sizeof(b.types), "%s", s->set->type);
	(void)snprintf(b.progress, sizeof(b.progress), "%s", s->reason);
	sb_text_tidy(b.progress); /* names of files may hold anything */
	agent_board_source(s->a, &b);
}

/* The reason why a snapshot is wanted; "" when it is not. */
static int wanted(struct dirsrc *s, char reason[200], struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	reason[0] = '\0';
	int r = sb_db_query(s->db, &st, err, "SELECT reason FROM snapshot WHERE source = ? AND type = ? AND state <> 'done'", "ss", s->set->name, s->set->type);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r <= 0)
		return r;
	(void)snprintf(reason, 200, "%.199s", sb_db_text(st, 0)[0] ? sb_db_text(st, 0) : "wanted"); /* for people */
	return 0;
}

/* --- looking --- */

struct hints { struct dirsrc *s; struct sb_error *err; int r; bool any; };

static int on_folder(void *user, const char *name)
{
	struct dirsrc *s = user;

	dirsrc_watch_add(s->watch, s->set->path, name);
	return 0;
}

static void on_hint(void *user, const char *name, bool closed)
{
	struct hints *h = user;

	h->any = true;
	if (h->r == 0)
		h->r = dirsrc_files_look_at(&h->s->files, h->s->set, name, closed, h->err);
}

/* Names that one look did not find, and files that are not whole yet, get their second look soon: a writer that removes and creates would seem to delete. */
static void look_again(struct dirsrc *s, struct hints *h)
{
	for (size_t i = 0; h->r == 0 && i < s->files.count; i++) {
		const struct dirsrc_file *f = s->files.item[i];
		if ((f->missing && !dirsrc_file_gone(f)) || !f->stable)
			h->r = dirsrc_files_look_at(&s->files, s->set, f->name, false, h->err);
	}
}

/* When the next look at single files is due; -1: none has to be. */
static int64_t look_again_in(const struct dirsrc *s)
{
	int64_t in = -1;

	for (size_t i = 0; i < s->files.count; i++) {
		const struct dirsrc_file *f = s->files.item[i];
		if (f->missing)
			return RECHECK_MS;
		if (!f->stable)
			in = dirsrc_settle_ms(s->set);
	}
	return in;
}

/* --- turns --- */

struct pace { int64_t next_look, next_recheck; bool recheck; };

static int look(struct dirsrc *s, struct pace *p, bool all, struct hints *h)
{
	int64_t now = sb_mono_ms();

	if (all || now >= p->next_look) {
		p->next_look = now + s->set->poll_ms;
		return dirsrc_files_look(&s->files, s->set, on_folder, s, h->err);
	}
	if (p->recheck && now >= p->next_recheck) {
		p->recheck = false;
		look_again(s, h);
	}
	return h->r;
}

static int turn(struct dirsrc *s, struct pace *p, struct sb_error *err)
{
	struct hints h = { .s = s, .err = err };
	char reason[200];

	s->reason[0] = '\0';
	bool whole = dirsrc_watch_take(s->watch, s->set, on_hint, &h);
	int r = h.r < 0 ? h.r : wanted(s, reason, err);
	if (r == 0)
		r = look(s, p, !whole || reason[0], &h);
	if (r < 0)
		return r;
	r = reason[0] ? dirsrc_snapshot(s, reason, err) : dirsrc_changes(s, err);
	int64_t in = r == 0 ? look_again_in(s) : -1, at = sb_mono_ms() + in;
	if (in >= 0 && (!p->recheck || at < p->next_recheck)) {
		p->recheck = true;
		p->next_recheck = at;
	}
	return r;
}

static int64_t until_next(const struct pace *p)
{
	int64_t next = p->recheck && p->next_recheck < p->next_look ? p->next_recheck : p->next_look, now = sb_mono_ms();

	return next > now ? next - now : 0;
}

int agent_dir_source_lane(struct sb_lane *lane, void *user, struct sb_error *err)
{
	const struct agent_dir_lane *mine = user;
	struct dirsrc s = { .a = mine->agent, .set = mine->source, .lane = lane };
	struct pace p = { 0 };

	int r = dirsrc_open(&s, err);
	while (r == 0 && !sb_lane_stopping(lane)) {
		struct pollfd fd = { .fd = dirsrc_watch_fd(s.watch), .events = POLLIN };
		r = turn(&s, &p, err);
		if (r < 0)
			break;
		board(&s, state_of(&s));
		sb_lane_note(lane, "watching %zu files%s%s", s.files.count, *s.reason ? ": " : "", s.reason);
		(void)sb_lane_wait(lane, &fd, s.watch ? 1 : 0, until_next(&p)); /* woken or not: looks again */
	}
	if (r < 0 && r != SB_ESHUTDOWN) {
		(void)snprintf(s.reason, sizeof(s.reason), "%.*s", (int)sizeof(s.reason) - 1, err ? err->msg : ""); /* for people */
		board(&s, "down");
	}
	dirsrc_close(&s);
	return r == SB_ESHUTDOWN ? 0 : r;
}
