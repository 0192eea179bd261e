/* Git inside the stage: packs that arrived are opened and indexed; refs that the hub announced are set once their objects are here. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "deploy.h"
#include "stagebridge/carrier.h"
#include "stagebridge/file.h"
#include "stagebridge/log.h"
#include "stagebridge/text.h"

const struct agent_origin *agent_origin_find(const struct agent *a, const char *name)
{
	const struct agent_origin *o = a->set.origins.item;

	for (size_t i = 0; i < a->set.origins.count; i++) {
		if (strcmp(o[i].name, name) == 0)
			return &o[i];
	}
	return NULL;
}

int agent_repo_path(char *out, size_t size, const struct agent *a, const char *origin, struct sb_error *err)
{
	if (!agent_origin_find(a, origin))
		return sb_fail(err, SB_ENOTFOUND, "origin \"%s\" is not configured in stage %s", origin, a->set.stage);
	return sb_format(out, size, err, "%s/git/%s.git", a->set.state_dir, origin);
}

int agent_repo_open(struct sb_repo **ret, const struct agent *a, const char *origin, struct sb_error *err)
{
	char path[1024], dir[1024];

	int r = agent_repo_path(path, sizeof(path), a, origin, err);
	if (r == 0)
		r = sb_format(dir, sizeof(dir), err, "%s/git", a->set.state_dir);
	if (r == 0)
		r = sb_dir_make(dir, 0755, err);
	return r < 0 ? r : sb_repo_open(ret, path, true, err);
}

int agent_repos_sweep(const struct agent *a, struct sb_error *err)
{
	const struct agent_origin *o = a->set.origins.item;
	char path[1024];
	int r = 0;

	for (size_t i = 0; r == 0 && i < a->set.origins.count; i++) {
		r = agent_repo_path(path, sizeof(path), a, o[i].name, err);
		if (r == 0)
			r = sb_repo_sweep(path, 0, err);
	}
	return r;
}

static int load_manifest(struct sb_db *db, const char *transfer, uint64_t max_bytes, struct sb_manifest *ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	json_auto_t *json = NULL;

	int r = sb_db_query(db, &st, err, "SELECT manifest FROM transfer_in WHERE id = ? AND state = 'complete'", "s", transfer);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	if (r == 0)
		return sb_fail(err, SB_ENOTFOUND, "transfer %s is not complete", transfer);
	json = json_loads(sb_db_text(st, 0), JSON_REJECT_DUPLICATES, NULL);
	if (!json)
		return sb_fail(err, SB_EDB, "manifest of transfer %s is not readable", transfer);
	return sb_manifest_parse(ret, json, max_bytes, err);
}

static int index_pack(struct agent *a, const struct sb_manifest *m, const char *spool, const char *pack, struct sb_error *err)
{
	const char *origin = json_string_value(json_object_get(m->meta, "origin")), *head = json_string_value(json_object_get(m->meta, "head"));
	struct sb_repo *repo = NULL;

	if (!origin || !head || !sb_hex_ok(head, SB_OID_LEN))
		return sb_fail(err, SB_EPROTO, "pack %s does not name its origin and head", m->transfer);
	int r = agent_repo_open(&repo, a, origin, err);
	if (r == 0)
		r = sb_carrier_open(m, spool, pack, a->set.carrier.max_bytes, a->identity, err);
	if (r == 0)
		r = sb_repo_index(repo, pack, AGENT_PACK_OBJECTS_MAX, head, err);
	if (r == 0)
		sb_log(SB_INFO, "pack_indexed", "origin=%s head=%.12s bytes=%llu", origin, head, (unsigned long long)m->plain_bytes);
	sb_repo_close(repo);
	return r;
}

static int end_transfer(struct sb_db *db, const char *transfer, int result, const struct sb_error *why, struct sb_error *err)
{
	return sb_db_run(db, NULL, err, "UPDATE transfer_in SET state = ?, reason = ? WHERE id = ?", "sss", result == 0 ? "done" : "failed", result == 0 ? "" : why->msg, transfer);
}

static int take_pack(struct agent *a, struct sb_db *db, const char *transfer, struct sb_error *err)
{
	char spool[1024], pack[1100];
	struct sb_manifest m = { .meta = NULL };
	struct sb_error why = SB_ERROR_INIT;

	int r = agent_state_spool(spool, sizeof(spool), a, transfer, true, err);
	if (r == 0)
		r = sb_format(pack, sizeof(pack), err, "%s.pack", spool);
	if (r == 0)
		r = load_manifest(db, transfer, a->set.carrier.max_bytes, &m, err);
	if (r < 0)
		return r;
	int result = index_pack(a, &m, spool, pack, &why);
	sb_manifest_release(&m);
	if (result < 0 && why.retriable) {
		*err = why;
		return result;
	}
	/* best effort: both files are named by the transfer and swept when it expires */
	(void)unlink(pack);
	(void)unlink(spool);
	if (result < 0)
		sb_log_error(SB_ERROR, "pack_refused", &why, "transfer=%s", transfer);
	return end_transfer(db, transfer, result, &why, err);
}

/* Stage heads and main come from the hub alone: what it says is what is set. */
static int set_refs(struct sb_repo *repo, const json_t *refs, bool *ret_missing, struct sb_error *err)
{
	json_t *item;
	size_t i;
	int r = 0;

	json_array_foreach(refs, i, item)
	{
		const char *name = json_string_value(json_object_get(item, "name")), *oid = json_string_value(json_object_get(item, "oid"));

		if (!name || strncmp(name, "refs/heads/", 11) != 0 || !sb_branch_ok(name + 11) || !oid || !sb_hex_ok(oid, SB_OID_LEN))
			return sb_fail(err, SB_EPROTO, "announced ref %zu is malformed", i);
		if (!sb_repo_has(repo, oid)) {
			*ret_missing = true;
			continue;
		}
		r = sb_repo_ref_set(repo, name, oid, NULL, "announced by the hub", err);
		if (r < 0)
			return r;
	}
	return r;
}

static int pack_pending(struct sb_db *db, const char *transfer, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(db, &st, err, "SELECT state FROM transfer_in WHERE id = ?", "s", transfer);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	return r == 0 || (strcmp(sb_db_text(st, 0), "failed") != 0 && strcmp(sb_db_text(st, 0), "done") != 0);
}

static int take_refs(struct agent *a, struct sb_db *db, const json_t *payload, struct sb_error *err)
{
	const char *origin = json_string_value(json_object_get(payload, "origin")), *transfer = json_string_value(json_object_get(payload, "transfer"));
	struct sb_repo *repo = NULL;
	bool missing = false;

	if (!origin || !transfer)
		return sb_fail(err, SB_EPROTO, "announcement of refs without origin or transfer");
	if (!agent_origin_find(a, origin))
		return 0; /* an origin that this stage does not use */
	int r = agent_repo_open(&repo, a, origin, err);
	if (r == 0)
		r = set_refs(repo, json_object_get(payload, "refs"), &missing, err);
	sb_repo_close(repo);
	if (r == 0 && missing && *transfer)
		return pack_pending(db, transfer, err);
	if (r == 0 && missing)
		sb_log(SB_WARN, "refs_incomplete", "origin=%s", origin);
	return r;
}

int agent_git_job(struct agent *a, struct sb_db *db, const char *ref, const json_t *payload, struct sb_error *err)
{
	return strncmp(ref, "refs/", 5) == 0 ? take_refs(a, db, payload, err) : take_pack(a, db, ref, err);
}
