/* Orders to deploy: parse, fence, verify against the repository, carry out, report. What is applied is what was ordered: the manifest's hash is
 * the artifact's id, the manifest names the commit, the commit names the tree. */
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "deploy.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "stagebridge/text.h"

static const char *str(const json_t *o, const char *key)
{
	return json_string_value(json_object_get(o, key));
}

int agent_order_parse(struct agent_order *ret, const json_t *body, struct sb_error *err)
{
	struct agent_order o = {
		.promotion = str(body, "promotion"),
		.origin = str(body, "origin"),
		.artifact = str(body, "artifact"),
		.commit = str(body, "commit"),
		.tree = str(body, "tree"),
		.expected_current = str(body, "expected_current"),
		.kind = str(body, "kind"),
		.transfer = str(body, "transfer"),
		.attempt = json_integer_value(json_object_get(body, "attempt")),
		.lease = json_integer_value(json_object_get(body, "lease")),
		.manifest = json_object_get(body, "manifest"),
	};

	if (!o.promotion || !sb_id_ok(o.promotion))
		return sb_fail(err, SB_EPROTO, "order: promotion: expected an id");
	if (!o.origin || !sb_type_ok(o.origin))
		return sb_fail(err, SB_EPROTO, "order %s: origin: expected a name", o.promotion);
	if (!o.artifact || !sb_hex_ok(o.artifact, 64) || !o.commit || !sb_hex_ok(o.commit, SB_OID_LEN) || !o.tree || !sb_hex_ok(o.tree, SB_OID_LEN))
		return sb_fail(err, SB_EPROTO, "order %s: artifact, commit or tree: expected lower-case hex ids", o.promotion);
	if (!o.expected_current || !o.kind || !o.transfer || (*o.transfer && !sb_id_ok(o.transfer)) || !json_is_object(o.manifest) || o.attempt < 1 || o.lease < 1)
		return sb_fail(err, SB_EPROTO, "order %s: expected_current, kind, transfer, manifest, attempt and lease are needed", o.promotion);
	*ret = o;
	return 0;
}

/* The id is the SHA-256 of the canonical manifest: compact, keys sorted. */
static int check_manifest(const struct agent_order *o, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *text = json_dumps(o->manifest, JSON_COMPACT | JSON_SORT_KEYS);
	uint8_t hash[32];
	char hex[65];

	if (!text)
		return sb_fail_nomem(err);
	crypto_hash_sha256(hash, (const uint8_t *)text, strlen(text));
	sb_hex(hex, hash, sizeof(hash));
	if (strcmp(hex, o->artifact) != 0)
		return sb_fail(err, SB_ESIG, "the manifest's hash is not the artifact's id");
	if (!str(o->manifest, "commit") || strcmp(str(o->manifest, "commit"), o->commit) != 0 || !str(o->manifest, "tree") || strcmp(str(o->manifest, "tree"), o->tree) != 0)
		return sb_fail(err, SB_ESIG, "the manifest names another commit or tree than the order");
	return 0;
}

static int transfer_state(struct sb_db *db, const char *id, char out[16], struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(db, &st, err, "SELECT state FROM transfer_in WHERE id = ?", "s", id);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	return sb_format(out, 16, err, "%s", r ? sb_db_text(st, 0) : "");
}

/* 0 the commit is here and whole, 1 its pack is still on the way, or an error that ends the order */
static int check_objects(struct sb_db *db, struct sb_repo *repo, const struct agent_order *o, struct sb_error *err)
{
	struct sb_commit commit;
	char state[16] = "";

	if (sb_repo_has(repo, o->commit)) {
		int r = sb_repo_commit(repo, o->commit, &commit, err);
		if (r == 0 && strcmp(commit.tree, o->tree) != 0)
			r = sb_fail(err, SB_ESIG, "commit %.12s has another tree than the order says", o->commit);
		return r;
	}
	if (*o->transfer) {
		int r = transfer_state(db, o->transfer, state, err);
		if (r < 0)
			return r;
		/* not offered yet, on its way, or complete and waiting for its git job */
		if (strcmp(state, "failed") != 0 && strcmp(state, "done") != 0)
			return 1;
	}
	return sb_fail(err, SB_EGIT, "commit %.12s is not in this stage%s", o->commit, *o->transfer ? " and its pack did not bring it" : "");
}

static int fenced(struct sb_db *db, const struct agent_order *o, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(db, &st, err, "SELECT lease FROM fence WHERE origin = ?", "s", o->origin);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	return r && sb_db_int(st, 0) > o->lease;
}

/* What is decided before anything is touched. 0: go on; 1: put aside; 2: out is the end of it. */
static int judge(struct agent *a, struct sb_db *db, struct sb_repo **repo, const struct agent_order *o, struct agent_outcome *out, struct sb_error *err)
{
	char current[65];
	int r;

	out->state = "errored";
	if (!agent_origin_find(a, o->origin)) {
		(void)snprintf(out->reason, sizeof(out->reason), "origin \"%s\" is not configured in this stage", o->origin);
		return 2;
	}
	r = check_manifest(o, err);
	if (r == 0)
		r = agent_repo_open(repo, a, o->origin, err);
	if (r == 0)
		r = check_objects(db, *repo, o, err);
	if (r == 1)
		return 1;
	if (r < 0 && !err->retriable) {
		(void)snprintf(out->reason, sizeof(out->reason), "%s", err->msg);
		return 2;
	}
	if (r < 0)
		return r;
	r = agent_current(db, o->origin, current, err);
	if (r < 0)
		return r;
	if (strcmp(current, o->expected_current) != 0 && strcmp(current, o->artifact) != 0) {
		out->state = "conflict";
		(void)snprintf(out->reason, sizeof(out->reason), "the stage has %.12s, the order expects %.12s", *current ? current : "nothing",
			*o->expected_current ? o->expected_current : "nothing");
		return 2;
	}
	return 0;
}

static int say(struct agent *a, struct sb_db *db, const struct agent_order *o, const char *state, struct sb_error *err)
{
	struct agent_outcome out = { .state = state };

	sb_buf_init(&out.output, 1);
	int r = agent_report(a, db, o, &out, err);
	sb_buf_release(&out.output);
	return r;
}

static int keep(struct sb_repo *repo, const struct agent_order *o, struct sb_error *err)
{
	char ref[120];

	int r = sb_format(ref, sizeof(ref), err, "refs/stagebridge/keep/%s", o->artifact);
	return r < 0 ? r : sb_repo_ref_set(repo, ref, o->commit, NULL, "deployed", err);
}

int agent_deploy_job(struct agent *a, struct sb_db *db, const json_t *payload, struct sb_error *err)
{
	struct agent_outcome out = { .state = "errored" };
	struct sb_repo *repo = NULL;
	struct agent_order o;
	int64_t start = sb_mono_ms();

	int r = agent_order_parse(&o, payload, err);
	if (r < 0)
		return r;
	r = fenced(db, &o, err);
	if (r == 1) {
		sb_log(SB_WARN, "order_fenced", "promotion=%s attempt=%" PRId64 " lease=%" PRId64, o.promotion, o.attempt, o.lease);
		return 0;
	}
	if (r < 0)
		return r;
	sb_buf_init(&out.output, AGENT_OUTPUT_MAX + 1);
	r = judge(a, db, &repo, &o, &out, err);
	if (r == 0) {
		r = say(a, db, &o, "accepted", err);
		if (r == 0)
			r = keep(repo, &o, err);
		if (r == 0)
			r = agent_release(a, repo, agent_origin_find(a, o.origin), &o, &out, err);
		if (r == 0)
			r = 2;
	}
	if (r == 2) {
		out.duration_ms = sb_mono_ms() - start;
		sb_log(SB_INFO, "order_done", "promotion=%s origin=%s artifact=%.12s state=%s ms=%" PRId64, o.promotion, o.origin, o.artifact, out.state, out.duration_ms);
		r = agent_report(a, db, &o, &out, err);
	}
	sb_buf_release(&out.output);
	sb_repo_close(repo);
	return r;
}
