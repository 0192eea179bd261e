/* Snapshots that somebody asks for. Any thread with its own handle on the state. */
#include "resync.h"

#include <string.h>

#include "stagebridge/log.h"

int agent_type_find(const struct agent *a, const char *type, struct agent_type_source *ret, struct sb_error *err)
{
	const struct agent_pg_source *pg = a->set.postgres.item;
	const struct agent_dir_source *dir = a->set.directories.item;

	*ret = (struct agent_type_source){ .pg = NULL };
	for (size_t i = 0; i < a->set.postgres.count; i++) {
		const struct agent_table *t = pg[i].tables.item;
		for (size_t k = 0; k < pg[i].tables.count; k++) {
			if (strcmp(t[k].type, type) == 0) {
				*ret = (struct agent_type_source){ .pg = &pg[i], .table = &t[k] };
				return 0;
			}
		}
	}
	for (size_t i = 0; i < a->set.directories.count; i++) {
		if (strcmp(dir[i].type, type) == 0) {
			ret->dir = &dir[i];
			return 0;
		}
	}
	const struct agent_socket_type *e = a->set.entities.item;
	for (size_t i = 0; i < a->set.entities.count; i++) {
		if (strcmp(e[i].type, type) == 0) {
			ret->socket = true;
			return 0;
		}
	}
	return sb_fail(err, SB_ENOTFOUND, "no source of this stage has the entity type \"%.*s\"", SB_TYPE_MAX, type);
}

struct now { char state[12]; bool partial, asked; };

static int read_now(struct sb_db *db, const char *source, const char *type, struct now *ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	*ret = (struct now){ .partial = false };
	int r = sb_db_query(db, &st, err, "SELECT state, predicate, asked FROM snapshot WHERE source = ? AND type = ?", "ss", source, type);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r <= 0)
		return r;
	ret->partial = sb_db_text(st, 1)[0] != '\0';
	ret->asked = sb_db_text(st, 2)[0] != '\0';
	return sb_format(ret->state, sizeof(ret->state), err, "%s", sb_db_text(st, 0));
}

static bool under_way(const struct now *now)
{
	return strcmp(now->state, "wanted") == 0 || strcmp(now->state, "running") == 0;
}

static const char *source_name(const struct agent_type_source *s)
{
	return s->pg ? s->pg->name : s->dir ? s->dir->name : AGENT_SOCKET_SOURCE;
}

int agent_resync_want(const struct agent *a, struct sb_db *db, const struct agent_resync *q, struct sb_error *err)
{
	struct agent_type_source s;
	struct now now;

	int r = agent_type_find(a, q->type, &s, err);
	if (r == 0 && *q->predicate && !s.pg)
		r = sb_fail(err, SB_EINVAL, "\"%s\" does not come from a table: a condition is for tables", q->type);
	if (r == 0)
		r = read_now(db, source_name(&s), q->type, &now, err);
	if (r < 0)
		return r;
	/* what is needed begins anew; what a person asks for must not drop it */
	if (*q->asked && under_way(&now) && *q->predicate)
		return sb_fail(err, SB_ECONFLICT, "a snapshot of \"%s\" is %s already: wait for its end, or cancel it", q->type, now.state);
	if (*q->asked && under_way(&now) && !now.partial)
		return 0;
	if (*q->asked && strcmp(now.state, "cancelled") == 0)
		return sb_fail(err, SB_ECONFLICT, "a snapshot of \"%s\" is being cancelled: ask again in a moment", q->type);
	return sb_db_run(db, NULL, err,
		"INSERT INTO snapshot(source, type, state, reason, predicate, asked) VALUES (?, ?, 'wanted', ?, ?, ?)"
		" ON CONFLICT(source, type) DO UPDATE SET state = 'wanted', reason = excluded.reason, predicate = excluded.predicate, asked = excluded.asked", "sssss",
		source_name(&s), q->type, q->reason, q->predicate, q->asked);
}

int agent_resync_cancel(const struct agent *a, struct sb_db *db, const char *type, struct sb_error *err)
{
	struct agent_type_source s;
	struct now now;

	int r = agent_type_find(a, type, &s, err);
	if (r == 0)
		r = read_now(db, source_name(&s), type, &now, err);
	if (r < 0)
		return r;
	if (!under_way(&now))
		return sb_fail(err, SB_ESTATE, "no snapshot of \"%s\" is wanted or runs", type);
	if (!now.asked)
		return sb_fail(err, SB_ESTATE, "the snapshot of \"%s\" is needed, nobody asked for it: without it the view stays incomplete", type);
	if (!s.pg && strcmp(now.state, "running") == 0)
		return sb_fail(err, SB_ESTATE, "the snapshot of \"%s\" runs and is over in a moment", type);
	return sb_db_run(db, NULL, err, "UPDATE snapshot SET state = ?, reason = 'cancelled' WHERE source = ? AND type = ?", "sss", s.pg ? "cancelled" : "done",
		source_name(&s), type);
}
