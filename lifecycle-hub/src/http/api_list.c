/* Lists: one table of noun and query. The database makes the JSON; parameters are the query's, checked and bound. */
#include <stdio.h>
#include <string.h>

#include "api.h"
#include "stagebridge/text.h"

#define STAMP(column) "to_char(" column " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
#define ITEMS(inner) "SELECT json_build_object('items', coalesce(json_agg(t), '[]'::json))::text FROM (" inner ") t"
#define ENDED "('SUCCEEDED', 'FAILED', 'ERRORED', 'ABORTED', 'SUPERSEDED', 'REJECTED', 'EXPIRED')"

/* every query takes $1 origin, $2 stage, $3 state, $4 limit; '' means all */
#define ALL_USED " AND $1 = $1 AND $2 = $2 AND $3 = $3 AND $4::integer > 0"

#define STAGES \
	"SELECT s.name, s.place, s.promoted, CASE WHEN s.promoted THEN s.mode ELSE 'consumer' END AS mode, CASE WHEN s.heartbeat_at IS NULL THEN 'NEVER' WHEN s.heartbeat_expires < now() THEN 'STALE' ELSE 'LIVE' END AS status," \
	" " STAMP("s.heartbeat_at") " AS heartbeat_at, s.agent_version, s.as_of, " STAMP("s.as_of_at") " AS as_of_at, s.lag_ms, s.lag_bytes, s.outbox_depth, s.lanes_ok," \
	" (SELECT coalesce(json_agg(json_build_object('name', o.origin || '@' || left(o.artifact, 8), 'origin', o.origin, 'artifact', o.artifact, 'title', a.title," \
	"   'commit', a.commit_oid, 'since', " STAMP("o.since") ", 'verified', o.verified_at IS NOT NULL," \
	"   'behind', (SELECT count(*) FROM lifecycle.artifact n WHERE n.origin = o.origin AND n.kind = 'merge' AND NOT n.orphaned AND n.seq > a.seq)) ORDER BY o.origin), '[]'::json)" \
	"  FROM lifecycle.occupancy o JOIN lifecycle.artifact a ON a.id = o.artifact WHERE o.stage = s.name AND o.until IS NULL) AS artifacts" \
	" FROM lifecycle.stage s WHERE NOT s.retired AND ($2 = '' OR s.name = $2)" ALL_USED " ORDER BY s.place"
#define ARTIFACTS \
	"SELECT a.id, a.seq, a.origin, a.commit_oid AS commit, a.tree_oid AS tree, a.kind, a.title, a.author, " STAMP("a.committed_at") " AS committed_at, " \
	STAMP("a.discovered_at") " AS discovered_at, a.orphaned, (SELECT coalesce(json_agg(o.stage ORDER BY o.stage), '[]'::json) FROM lifecycle.occupancy o" \
	" WHERE o.artifact = a.id AND o.until IS NULL) AS stages FROM lifecycle.artifact a WHERE ($1 = '' OR a.origin = $1)" ALL_USED " ORDER BY a.seq DESC LIMIT $4::integer"
#define PROMOTIONS \
	"SELECT p.id, p.seq, p.origin, p.artifact, a.title, p.stage, p.kind, p.state, p.requested_by, p.reason, p.waiting_for, p.attempt, p.pull_number, " \
	STAMP("p.created_at") " AS created_at, " STAMP("p.updated_at") " AS updated_at, " STAMP("p.ended_at") " AS ended_at" \
	" FROM lifecycle.promotion p JOIN lifecycle.artifact a ON a.id = p.artifact WHERE ($1 = '' OR p.origin = $1) AND ($2 = '' OR p.stage = $2)" \
	" AND ($3 <> 'open' OR p.state NOT IN " ENDED ")" ALL_USED " ORDER BY p.seq DESC LIMIT $4::integer"
#define ENTITIES \
	"SELECT f.stage, f.type, f.owner, f.comment, f.source, f.source_state, f.status, f.rows_estimate AS rows, f.bytes_estimate AS bytes, f.changes_applied AS changes, " STAMP("f.last_change_at") " AS last_change_at," \
	" f.as_of, " STAMP("f.as_of_at") " AS as_of_at, f.as_of_seconds, f.lag_ms, f.lag_bytes, coalesce(f.snapshot_state, 'none') AS snapshot_state, " STAMP("f.snapshot_at") " AS snapshot_at, " STAMP("f.gap_at") " AS gap_at," \
	" CASE f.history WHEN 'false' THEN '' WHEN 'true' THEN 'for ever' ELSE f.history END AS history, f.violations, " STAMP("f.violation_at") " AS violation_at" \
	" , f.snapshot_rows, f.snapshot_percent, f.snapshot_eta_s, " STAMP("t.resync_at") " AS resync_at," \
	" t.resync_at IS NOT NULL AND (t.snapshot_state IN ('running', 'broken') OR t.snapshot_at IS NULL OR t.snapshot_at < t.resync_at) AS resync_pending" \
	" FROM lifecycle.freshness f LEFT JOIN lifecycle.entity_type t ON t.stage = f.stage AND t.type = f.type JOIN lifecycle.stage s ON s.name = f.stage WHERE ($2 = '' OR f.stage = $2)" ALL_USED " ORDER BY s.place, f.type"
#define DATASETS \
	"SELECT id, dataset, from_stage, to_stage, requested_by, purpose, state, reason_code, reason, row_count, policy_digest, " STAMP("created_at") " AS created_at, " \
	STAMP("updated_at") " AS updated_at FROM lifecycle.dataset_request WHERE ($2 = '' OR from_stage = $2 OR to_stage = $2)" ALL_USED " ORDER BY created_at DESC LIMIT $4::integer"
#define PULLS \
	"SELECT origin, number, title, state, head, base, head_oid, merge_oid, author, merged_by, url, " STAMP("created_at") " AS created_at, " STAMP("updated_at") \
	" AS updated_at FROM lifecycle.pull_request WHERE ($1 = '' OR origin = $1)" ALL_USED " ORDER BY origin, number DESC LIMIT $4::integer"
#define EVENTS \
	"SELECT " STAMP("e.at") " AS at, e.kind, e.stage, e.who, e.text FROM (" \
	" (SELECT u.at, 'promotion' AS kind, coalesce(p.stage, '') AS stage, u.actor AS who, u.action || ' ' || coalesce(p.origin || ' ' || left(p.artifact, 8) || ' into ' || p.stage, u.object) || ' ' ||" \
	"   u.to_state || CASE WHEN u.reason <> '' THEN ': ' || u.reason ELSE '' END AS text FROM lifecycle.audit u LEFT JOIN lifecycle.promotion p ON u.object = 'promotion/' || p.id ORDER BY u.id DESC LIMIT 200)" \
	" UNION ALL (SELECT updated_at, 'dataset', to_stage, requested_by, dataset || ' from ' || from_stage || ' ' || state || CASE WHEN reason <> '' THEN ': ' || reason ELSE '' END" \
	"   FROM lifecycle.dataset_request ORDER BY updated_at DESC LIMIT 50)" \
	" UNION ALL (SELECT at, 'quarantine', stage, coalesce(source, ''), class || ': ' || reason FROM lifecycle.quarantine ORDER BY id DESC LIMIT 50)" \
	" UNION ALL (SELECT snapshot_at, 'snapshot', stage, 'agent', type || ' ' || snapshot_state FROM lifecycle.entity_type WHERE snapshot_at IS NOT NULL)" \
	") e WHERE ($2 = '' OR e.stage = $2)" ALL_USED " ORDER BY e.at DESC LIMIT $4::integer"
#define QUARANTINE \
	"SELECT id, " STAMP("at") " AS at, stage, topic, record_offset, class, type, reason, source FROM lifecycle.quarantine WHERE ($2 = '' OR stage = $2)" ALL_USED \
	" ORDER BY id DESC LIMIT $4::integer"

static const struct { const char *noun, *sql; } lists[] = {
	{ "stages", ITEMS(STAGES) },
	{ "artifacts", ITEMS(ARTIFACTS) },
	{ "promotions", ITEMS(PROMOTIONS) },
	{ "entities", ITEMS(ENTITIES) },
	{ "datasets", ITEMS(DATASETS) },
	{ "pulls", ITEMS(PULLS) },
	{ "events", ITEMS(EVENTS) },
	{ "quarantine", ITEMS(QUARANTINE) },
};

/* One answer from several lists. Each part is a query of its own: a compiler need not take a literal of more than 4095 bytes, and a part is easy to read. */
static const struct { const char *key, *sql; } parts[] = {
	{ "stages", "SELECT coalesce(json_agg(t), '[]'::json)::text FROM (" STAGES ") t" },
	{ "origins", "SELECT coalesce(json_agg(o ORDER BY o.name), '[]'::json)::text FROM (SELECT name, main_tip, problem, " STAMP("polled_at") " AS polled_at FROM lifecycle.origin"
	  " WHERE $1 = $1 AND $2 = $2 AND $3 = $3 AND $4::integer > 0) o" },
	{ "open", "SELECT coalesce(json_agg(t), '[]'::json)::text FROM (SELECT * FROM (" PROMOTIONS ") p WHERE p.state NOT IN " ENDED ") t" },
	{ "artifacts", "SELECT coalesce(json_agg(t), '[]'::json)::text FROM (SELECT * FROM (" ARTIFACTS ") x LIMIT 12) t" },
	{ "entities", "SELECT coalesce(json_agg(t), '[]'::json)::text FROM (" ENTITIES ") t" },
	{ "datasets", "SELECT coalesce(json_agg(t), '[]'::json)::text FROM (SELECT * FROM (" DATASETS ") x LIMIT 8) t" },
	{ "events", "SELECT coalesce(json_agg(t), '[]'::json)::text FROM (" EVENTS ") t" },
	{ "quarantined", "SELECT count(*)::text FROM lifecycle.quarantine WHERE $1 = $1 AND $2 = $2 AND $3 = $3 AND $4::integer > 0" },
	{ "violations", "SELECT coalesce(json_agg(v), '[]'::json)::text FROM (SELECT stage, type, owner, count(*) AS count, " STAMP("max(at)") " AS at FROM lifecycle.violation"
	  " WHERE $1 = $1 AND $2 = $2 AND $3 = $3 AND $4::integer > 0 GROUP BY stage, type, owner ORDER BY max(at) DESC LIMIT 20) v" },
	{ "now", "SELECT to_json(" STAMP("now()") ")::text WHERE $1 = $1 AND $2 = $2 AND $3 = $3 AND $4::integer > 0" },
};

static const char *query(struct sb_http_request *req, const char *name)
{
	const char *v = sb_http_query(req, name);

	return v ? v : "";
}

/* The last part of the path is the noun: the router has matched it already. */
static const char *sql_of(const char *path)
{
	const char *noun = strrchr(path, '/');

	for (size_t i = 0; noun && i < SB_COUNT(lists); i++) {
		if (strcmp(noun + 1, lists[i].noun) == 0)
			return lists[i].sql;
	}
	return NULL;
}

static int run(struct sb_http_request *req, struct sb_http_reply *reply, struct hub_http *http, const char *sql, struct sb_error *err)
{
	const char *limit = sb_http_query(req, "limit");
	const char *param[] = { query(req, "origin"), query(req, "stage"), query(req, "state"), limit ? limit : "50" };
	struct hub_call c;
	uint64_t n;

	if (sb_parse_u64(param[3], 1, 1000, "limit", &n, err) < 0)
		return (int)err->code;
	if (*param[2] && strcmp(param[2], "open") != 0 && strcmp(param[2], "all") != 0)
		return sb_fail(err, SB_EINVAL, "state: expected open or all");
	int r = hub_call_begin(http, req, &c, err);
	if (r == 0)
		r = hub_call_json(&c, sql, 4, param, reply, err);
	hub_call_end(http, &c, r == 0);
	return r;
}

int hub_api_list(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	const char *sql = sql_of(sb_http_path(req));

	return sql ? run(req, reply, user, sql, err) : sb_fail(err, SB_ENOTFOUND, "no such list");
}

int hub_api_overview(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	static const char *const param[] = { "", "", "", "120" };
	struct hub_call c;

	int r = hub_call_begin(user, req, &c, err);
	for (size_t i = 0; r == 0 && i < SB_COUNT(parts); i++) {
		sb_buf_addf(&reply->body, "%s\"%s\":", i ? "," : "{", parts[i].key);
		r = hub_call_json(&c, parts[i].sql, 4, param, reply, err);
	}
	sb_buf_addc(&reply->body, '}');
	hub_call_end(user, &c, r == 0);
	return r;
}

int hub_api_tenants(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	struct hub *h = hub_of(user);
	json_t *items = json_array();

	(void)req; /* no parameters */
	for (size_t i = 0; i < h->n_worlds; i++) {
		if (json_array_append_new(items, json_pack("{s:s, s:s}", "name", h->world[i].set->name, "forge", h->world[i].set->forge.kind == HUB_FORGE_GITEA ? "gitea" : "bare")) != 0) {
			json_decref(items);
			return sb_fail_nomem(err);
		}
	}
	return sb_http_json(reply, json_pack("{s:o}", "items", items), err);
}
