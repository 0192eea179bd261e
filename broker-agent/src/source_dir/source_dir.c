/* The lane of a directory source: looks through the folder at the configured interval, publishes new and changed documents and the deletion of those that
 * are gone. The first look after the start of a source's life, and any look after a resync order, publishes everything as a snapshot.
 *
 * States, as the board shows them: watching, "invalid file" (the others go on), down (folder or broker or state failed: the lane's back-off). */
#include <stdio.h>
#include <string.h>

#include "dirsrc.h"
#include "stagebridge/log.h"

static void board(struct dirsrc *s, const char *state)
{
	struct agent_source_state b = { .kind = "directory", .acked_lsn = s->next, .rows = s->rows };

	for (size_t i = 0; strcmp(state, "watching") == 0 && i < s->files.count; i++) {
		if (s->files.item[i].bad)
			state = "invalid file";
	}
	(void)snprintf(b.name, sizeof(b.name), "%s", s->set->name);    /* all are shorter */
	(void)snprintf(b.state, sizeof(b.state), "%s", state);
	(void)snprintf(b.types, sizeof(b.types), "%s", s->set->type);
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

static int turn(struct dirsrc *s, struct sb_error *err)
{
	char reason[200];

	int r = dirsrc_files_look(&s->files, s->set, err);
	if (r == 0)
		r = wanted(s, reason, err);
	if (r < 0)
		return r;
	if (!reason[0])
		return dirsrc_changes(s, err);
	/* what is being written cannot be read, and what a snapshot does not name is gone elsewhere */
	return dirsrc_unstable_files(s) ? 0 : dirsrc_snapshot(s, reason, err);
}

int agent_dir_source_lane(struct sb_lane *lane, void *user, struct sb_error *err)
{
	const struct agent_dir_lane *mine = user;
	struct dirsrc s = { .a = mine->agent, .set = mine->source, .lane = lane };

	int r = dirsrc_open(&s, err);
	while (r == 0 && !sb_lane_stopping(lane)) {
		r = turn(&s, err);
		if (r < 0)
			break;
		board(&s, "watching");
		sb_lane_note(lane, "watching %zu files", s.files.count);
		(void)sb_lane_wait(lane, NULL, 0, s.set->poll_ms); /* woken or not: looks again */
	}
	if (r < 0 && r != SB_ESHUTDOWN)
		board(&s, "down");
	dirsrc_close(&s);
	return r == SB_ESHUTDOWN ? 0 : r;
}
