/* Entities of this stage: which types come from where, and how far their snapshots are. On the API's threads. */
#include <string.h>

#include "api.h"
#include "heartbeat.h"
#include "state.h"

static int add_type(struct sb_db *db, json_t *list, const char *type, const char *source, const char *kind, const char *place, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	json_t *snapshot;

	int r = sb_db_query(db, &st, err, 
		"SELECT state, reason, rows, predicate, asked, (SELECT count(*) FROM snapshot_range g WHERE g.source = s.source AND g.type = s.type),"
		" (SELECT count(*) FROM snapshot_range g WHERE g.source = s.source AND g.type = s.type AND g.done) FROM snapshot s WHERE source = ? AND type = ?", "ss",
		source, type);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	if (r > 0)
		snapshot = json_pack("{s:s, s:s, s:I, s:s, s:s, s:I, s:I}", "state", sb_db_text(st, 0), "reason", sb_db_text(st, 1), "rows", (json_int_t)sb_db_int(st, 2),
			"where", sb_db_text(st, 3), "asked", sb_db_text(st, 4), "ranges", (json_int_t)sb_db_int(st, 5), "ranges_done", (json_int_t)sb_db_int(st, 6));
	else
		snapshot = json_pack("{s:s, s:s, s:i, s:s, s:s, s:i, s:i}", "state", "none", "reason", "", "rows", 0, "where", "", "asked", "", "ranges", 0, "ranges_done", 0);
	json_t *entry = json_pack("{s:s, s:s, s:s, s:s, s:o}", "type", type, "source", source, "kind", kind, "place", place, "snapshot", snapshot);
	return json_array_append_new(list, entry) < 0 ? sb_fail_nomem(err) : 0;
}

static int types_json(struct agent *a, struct sb_db *db, json_t *list, struct sb_error *err)
{
	const struct agent_pg_source *pg = a->set.postgres.item;
	const struct agent_dir_source *dir = a->set.directories.item;
	int r = 0;

	for (size_t i = 0; r == 0 && i < a->set.postgres.count; i++) {
		const struct agent_table *t = pg[i].tables.item;
		for (size_t k = 0; r == 0 && k < pg[i].tables.count; k++)
			r = add_type(db, list, t[k].type, pg[i].name, "postgres", t[k].table, err);
	}
	for (size_t i = 0; r == 0 && i < a->set.directories.count; i++)
		r = add_type(db, list, dir[i].type, dir[i].name, "directory", dir[i].path, err);
	const struct agent_socket_type *e = a->set.entities.item;
	for (size_t i = 0; r == 0 && i < a->set.entities.count; i++)
		r = add_type(db, list, e[i].type, AGENT_SOCKET_SOURCE, "socket", a->set.api.socket, err);
	return r;
}

static int get_entities(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	struct agent *a = user;
	json_auto_t *types = json_array();
	struct sb_db *db = NULL;

	(void)req;
	if (!types)
		return sb_fail_nomem(err);
	int r = agent_state_open(&db, a, err);
	if (r == 0)
		r = types_json(a, db, types, err);
	sb_db_close(db);
	if (r < 0)
		return r;
	json_t *body = json_pack("{s:O, s:o}", "types", types, "sources", agent_board_sources(a, true));
	return body ? sb_http_json(reply, body, err) : sb_fail_nomem(err);
}

/* What is gone from a folder, all at once, is meant to be gone. Only for what waits now: the next mass deletion asks again. */
static int confirm(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	const char *name = sb_http_param(req, "name");
	sb_cleanup(sb_freep) char *key = sb_asprintf("confirmed/%s", name), *lane = sb_asprintf("source/%s", name);
	struct agent *a = user;
	const struct agent_dir_source *dir = a->set.directories.item;
	struct sb_db *db = NULL;
	size_t i = 0;

	if (!key || !lane)
		return sb_fail_nomem(err);
	while (i < a->set.directories.count && strcmp(dir[i].name, name) != 0)
		i++;
	if (i == a->set.directories.count)
		return sb_fail(err, SB_ENOTFOUND, "no folder of the settings (directories) has that name");
	if (!agent_board_source_is(a, name, "deletion held"))
		return sb_fail(err, SB_ESTATE, "no deletion of source \"%s\" waits", name);
	int r = agent_state_open(&db, a, err);
	if (r == 0)
		r = sb_db_run(db, NULL, err, "INSERT OR REPLACE INTO meta(key, value) VALUES (?, 1)", "s", key);
	sb_db_close(db);
	if (r < 0)
		return r;
	sb_lanes_wake(a->lanes, lane);
	json_t *body = json_pack("{s:s, s:s}", "source", name, "state", "confirmed");
	return body ? sb_http_json(reply, body, err) : sb_fail_nomem(err);
}

const struct sb_http_route agent_api_entity_routes[] = {
	{ "GET", "/v1/entities", 0, 0, get_entities, "entity types, their sources and the progress of their snapshots" },
	{ "POST", "/v1/sources/{name}/confirm", 0, 0, confirm, "believe the deletion of much of a folder that waits for a second look" },
	{ NULL, NULL, 0, 0, NULL, NULL },
};
