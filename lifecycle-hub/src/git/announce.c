/* Git flows down as well: the first stage's own repository (where developers clone and fetch) learns main, the stage heads and the pull requests. The pack of what
 * it lacks goes by the carrier, the names by an event; both are one transaction here and meet again at the agent. */
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "lane.h"
#include "stagebridge/log.h"
#include "store/store.h"

static const char *first_stage(const struct hub_tenant *t)
{
	const struct hub_stage *s = t->stages.item;

	for (size_t i = 0; i < t->stages.count; i++) {
		if (s[i].promoted)
			return s[i].name;
	}
	return NULL;
}

static bool is_public(const char *ref)
{
	return strcmp(ref, "refs/heads/main") == 0 || strncmp(ref, "refs/heads/stage/", 17) == 0;
}

static int collect_pulls(struct hub_git *g, const char *origin, json_t *array, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;

	int r = sb_pg_exec(g->pg,
		"SELECT number, title, state, head, base, author, url, to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM lifecycle.pull_request WHERE origin = $1 ORDER BY number DESC LIMIT 200", 1, &origin,
		&res, err);
	for (int i = 0; r == 0 && i < sb_pg_rows(res); i++) {
		json_t *row = json_pack("{s:I, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "number", (json_int_t)sb_pg_get_i64(res, i, 0), "title", sb_pg_get(res, i, 1), "state", sb_pg_get(res, i, 2), "head", sb_pg_get(res, i, 3), "base",
			sb_pg_get(res, i, 4), "user", sb_pg_get(res, i, 5), "url", sb_pg_get(res, i, 6), "updated_at", sb_pg_get(res, i, 7));
		if (json_array_append_new(array, row) != 0)
			r = sb_fail_nomem(err);
	}
	return r;
}

static int collect_refs(const struct hub_git_origin *o, json_t *array, json_t *map, struct sb_error *err)
{
	for (size_t i = 0; i < o->remote.count; i++) {
		const struct sb_ref *ref = &o->remote.item[i];

		if (!is_public(ref->name))
			continue;
		if (json_array_append_new(array, json_pack("{s:s, s:s}", "name", ref->name, "oid", ref->oid)) != 0 || json_object_set_new(map, ref->name, json_string(ref->oid)) != 0)
			return sb_fail_nomem(err);
	}
	return 0;
}

static int told_before(struct hub_git *g, const char *stage, const char *origin, const char *digest, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { stage, origin };

	int r = sb_pg_exec(g->pg, "SELECT digest FROM sb.announced WHERE stage = $1 AND origin = $2", 2, param, &res, err);
	return r < 0 ? r : sb_pg_rows(res) > 0 && strcmp(sb_pg_get(res, 0, 0), digest) == 0;
}

static int commit_news(struct hub_git *g, const char *stage, const char *origin, const char *digest, const json_t *map, json_t *body, struct hub_transfer *t, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *refs = json_dumps(map, JSON_COMPACT | JSON_SORT_KEYS);
	const char *param[] = { stage, origin, refs, digest };

	if (!refs || json_object_set_new(body, "transfer", json_string(t->id)) != 0)
		return sb_fail_nomem(err);
	int r = hub_git_begin(g, err);
	if (r == 0)
		r = hub_transfer_register(g->w, g->pg, t, err);
	if (r == 0)
		r = hub_outbox_put(g->w, g->pg, stage, SB_EV_GIT_UPDATED, origin, body, err);
	if (r == 0)
		r = sb_pg_exec(g->pg, "INSERT INTO sb.announced (stage, origin, refs, digest) VALUES ($1, $2, $3, $4) ON CONFLICT (stage, origin) DO UPDATE SET refs = excluded.refs, digest = excluded.digest", 4, param, NULL, err);
	return r < 0 ? r : sb_pg_commit(g->pg, err);
}

int hub_git_announce(struct hub_git *g, struct hub_git_origin *o, struct sb_error *err)
{
	const char *stage = first_stage(g->w->set), *origin = o->set->name, *tip = hub_ref_find(&o->remote, "refs/heads/main");
	json_auto_t *refs = json_array(), *pulls = json_array(), *map = json_object();
	json_auto_t *body = json_pack("{s:s, s:O, s:O}", "origin", origin, "refs", refs, "pulls", pulls);
	struct hub_transfer t = { .id = "" };
	uint8_t hash[32];
	char digest[65];

	if (!stage || !tip)
		return 0;
	if (!body || !map)
		return sb_fail_nomem(err);
	int r = collect_refs(o, refs, map, err);
	if (r == 0)
		r = collect_pulls(g, origin, pulls, err);
	if (r < 0)
		return r;
	sb_cleanup(sb_freep) char *text = json_dumps(body, JSON_COMPACT | JSON_SORT_KEYS);
	if (!text)
		return sb_fail_nomem(err);
	crypto_hash_sha256(hash, (const uint8_t *)text, strlen(text));
	sb_hex(digest, hash, sizeof(hash));
	r = told_before(g, stage, origin, digest, err);
	if (r != 0)
		return r < 0 ? r : 0;
	/* stage heads are on main or near it: the pack of main brings what they need, a record commit comes with the next one */
	r = hub_transfer_pack(g->w, g->pg, "git", stage, origin, tip, &t, err);
	if (r == 0)
		r = commit_news(g, stage, origin, digest, map, body, &t, err);
	hub_transfer_release(g->w, &t, r != 0);
	if (r == 0)
		hub_wake(g->w, "courier");
	return r;
}
