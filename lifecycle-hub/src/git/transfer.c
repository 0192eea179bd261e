/* Packs for stages. What a stage has is what it reported as deployed and what it was told of; a wrong guess costs bytes or a refused order, never
 * correctness: the agent checks that the commit and all it needs are there. */
#include "transfer.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "stagebridge/clock.h"
#include "stagebridge/file.h"
#include "store/store.h"

#define LIFE_MS (INT64_C(7) * 86400 * 1000)

int hub_repo_open(struct sb_repo **ret, char path[1024], const struct hub_world *w, const char *origin, struct sb_error *err)
{
	char dir[1024], name[SB_TYPE_MAX + 8];

	int r = hub_path(dir, sizeof(dir), w, "repos", NULL, err);
	if (r == 0)
		r = sb_dir_make(dir, 0700, err);
	if (r == 0)
		r = sb_format(name, sizeof(name), err, "%s.git", origin);
	if (r == 0)
		r = hub_path(path, 1024, w, "repos", name, err);
	return r < 0 ? r : sb_repo_open(ret, path, true, err);
}

static int stage_has(struct sb_pg *pg, const char *stage, const char *origin, struct sb_pg_result **ret, struct sb_error *err)
{
	const char *param[] = { stage, origin };

	return sb_pg_exec(pg,
		"SELECT a.commit_oid FROM lifecycle.occupancy o JOIN lifecycle.artifact a ON a.id = o.artifact WHERE o.stage = $1 AND o.origin = $2"
		" UNION SELECT v.value FROM sb.announced n, jsonb_each_text(n.refs) v WHERE n.stage = $1 AND n.origin = $2",
		2, param, ret, err);
}

static int seal(struct hub_world *w, struct hub_transfer *t, const char *stage, const char *origin, const char *commit, const char *pack, struct sb_error *err)
{
	const struct sb_key *key = sb_keyring_party(w->keyring, w->set->name, stage, sb_wall_ms());
	struct sb_manifest *m = &t->manifest;
	char dir[1024], name[SB_ID_LEN + 8];

	if (!key)
		return sb_fail(err, SB_EAUTH, "the keyring holds no valid key of stage %s", stage);
	sb_id_new(m->transfer);
	(void)snprintf(m->kind, sizeof(m->kind), "pack");
	(void)snprintf(m->from, sizeof(m->from), "hub");
	(void)snprintf(m->to, sizeof(m->to), "%s", stage);
	m->expires_ms = sb_wall_ms() + LIFE_MS;
	m->meta = json_pack("{s:s, s:s}", "origin", origin, "head", commit);
	int r = m->meta ? 0 : sb_fail_nomem(err);
	if (r == 0)
		r = hub_path(dir, sizeof(dir), w, "spool", NULL, err);
	if (r == 0)
		r = sb_dir_make(dir, 0700, err);
	if (r == 0)
		r = sb_format(name, sizeof(name), err, "%s.out", m->transfer);
	if (r == 0)
		r = hub_path(t->spool, sizeof(t->spool), w, "spool", name, err);
	if (r == 0)
		r = sb_carrier_seal(m, pack, t->spool, key, err);
	if (r == 0)
		memcpy(t->id, m->transfer, sizeof(t->id));
	return r;
}

int hub_transfer_pack(struct hub_world *w, struct sb_pg *pg, const char *lane, const char *stage, const char *origin, const char *commit, struct hub_transfer *ret,
	struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *has = NULL;
	const char *want[] = { commit }, **have = NULL;
	struct sb_pack_stats stats;
	struct sb_repo *repo = NULL;
	char path[1024], pack[1100];

	int r = hub_repo_open(&repo, path, w, origin, err);
	if (r == 0)
		r = stage_has(pg, stage, origin, &has, err);
	if (r < 0)
		goto out;
	have = calloc((size_t)sb_pg_rows(has) + 1, sizeof(*have));
	if (!have) {
		r = sb_fail_nomem(err);
		goto out;
	}
	for (int i = 0; i < sb_pg_rows(has); i++)
		have[i] = sb_pg_get(has, i, 0);
	r = sb_format(pack, sizeof(pack), err, "%s/%s-%s-%.12s.pack", path, lane, stage, commit);
	if (r == 0)
		r = sb_repo_pack(repo, want, 1, have, (size_t)sb_pg_rows(has), pack, &stats, err);
	if (r == SB_ESTATE) {
		r = 0;
		goto out;
	}
	if (r == 0)
		r = seal(w, ret, stage, origin, commit, pack, err);
	(void)unlink(pack); /* ours alone, and made again when needed */
out:
	free(have);
	sb_repo_close(repo);
	return r;
}

int hub_transfer_register(struct hub_world *w, struct sb_pg *pg, const struct hub_transfer *t, struct sb_error *err)
{
	json_auto_t *json = NULL;
	sb_cleanup(sb_freep) char *text = NULL;
	char chunks[24], bytes[24], window[24], expires[SB_TIME_LEN + 1];

	if (!*t->id)
		return 0;
	json = sb_manifest_json(&t->manifest);
	text = json ? json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
	if (!text)
		return sb_fail_nomem(err);
	(void)snprintf(chunks, sizeof(chunks), "%" PRIu64, t->manifest.chunks);
	(void)snprintf(bytes, sizeof(bytes), "%" PRIu64, t->manifest.sealed_bytes);
	(void)snprintf(window, sizeof(window), "%" PRId64, w->hub->set.carrier.window);
	sb_time_format(expires, t->manifest.expires_ms);
	const char *param[] = { t->id, t->manifest.kind, t->manifest.from, t->manifest.to, text, chunks, bytes, window, expires };
	return sb_pg_exec(pg,
		"INSERT INTO lifecycle.transfer (id, kind, from_stage, to_stage, manifest, chunks, sealed_bytes, credit_window, state, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'offered', $9)",
		9, param, NULL, err);
}

void hub_transfer_release(struct hub_world *w, struct hub_transfer *t, bool drop)
{
	(void)w; /* the spool's path is in the object */
	if (drop && *t->spool)
		(void)unlink(t->spool); /* swept later when this fails */
	sb_manifest_release(&t->manifest);
}
