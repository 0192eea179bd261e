/* Git at the local socket: refs and pull requests for whoever develops in this stage, and pushes, which become pull requests at the forge. The
 * pusher is the peer of the socket, never a field of the request. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "api.h"
#include "deploy/deploy.h"
#include "stagebridge/carrier.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "stagebridge/text.h"

#define TITLE_MAX 255
#define BODY_MAX 16384
#define PACK_MAX (2048UL * 1024 * 1024)
#define TRANSFER_LIFE_MS (INT64_C(7) * 86400 * 1000)
#define LIST_MAX "200"

struct push {
	char id[SB_ID_LEN + 1], transfer[SB_ID_LEN + 1], user[96], base[SB_OID_LEN + 1];
	const char *origin, *branch, *head, *title, *body;
};

static int add_pulls(struct sb_db *db, const char *origin, json_t *array, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(db, &st, err, "SELECT number, title, state, head, base, user, url, updated_at FROM pull WHERE origin = ? ORDER BY number DESC LIMIT " LIST_MAX, "s", origin);
	while (r >= 0 && (r = sb_db_step(st, err)) == 1) {
		json_t *row = json_pack("{s:I, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "number", (json_int_t)sb_db_int(st, 0), "title", sb_db_text(st, 1), "state", sb_db_text(st, 2),
			"head", sb_db_text(st, 3), "base", sb_db_text(st, 4), "user", sb_db_text(st, 5), "url", sb_db_text(st, 6), "updated_at", sb_db_text(st, 7));
		if (json_array_append_new(array, row) != 0)
			return sb_fail_nomem(err);
	}
	return r;
}

static int add_refs(struct sb_repo *repo, json_t *array, struct sb_error *err)
{
	struct sb_refs refs = { .count = 0 };

	int r = sb_repo_refs(repo, "refs/", &refs, err);
	for (size_t i = 0; r == 0 && i < refs.count; i++) {
		if (json_array_append_new(array, json_pack("{s:s, s:s}", "name", refs.item[i].name, "oid", refs.item[i].oid)) != 0)
			r = sb_fail_nomem(err);
	}
	sb_refs_release(&refs);
	return r;
}

static int get_refs(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	const char *origin = sb_http_param(req, "origin");
	json_auto_t *refs = json_array(), *pulls = json_array();
	struct agent *a = user;
	struct sb_repo *repo = NULL;
	struct sb_db *db = NULL;
	char path[1024];

	if (!refs || !pulls)
		return sb_fail_nomem(err);
	int r = agent_repo_path(path, sizeof(path), a, origin, err);
	if (r == 0)
		r = agent_repo_open(&repo, a, origin, err);
	if (r == 0)
		r = agent_state_open(&db, a, err);
	if (r == 0)
		r = add_refs(repo, refs, err);
	if (r == 0)
		r = add_pulls(db, origin, pulls, err);
	sb_db_close(db);
	sb_repo_close(repo);
	if (r < 0)
		return r;
	return sb_http_json(reply, json_pack("{s:s, s:s, s:O, s:O}", "origin", origin, "path", path, "refs", refs, "pulls", pulls), err);
}

static int read_push(struct sb_http_request *req, struct agent *a, struct push *p, struct sb_error *err)
{
	p->origin = sb_http_param(req, "origin");
	p->branch = sb_http_query(req, "branch");
	p->head = sb_http_query(req, "head");
	p->title = sb_http_query(req, "title");
	p->body = sb_http_query(req, "body") ? sb_http_query(req, "body") : "";
	if (!agent_origin_find(a, p->origin))
		return sb_fail(err, SB_ENOTFOUND, "origin \"%s\" is not configured in stage %s", p->origin, a->set.stage);
	if (!p->branch || !sb_branch_ok(p->branch))
		return sb_fail(err, SB_EINVAL, "branch: expected a branch name that Git accepts");
	if (strcmp(p->branch, "main") == 0 || strncmp(p->branch, "stage/", 6) == 0 || strncmp(p->branch, "promote/", 8) == 0)
		return sb_fail(err, SB_EREFUSED, "branch \"%s\" is moved by merges and promotions alone: push under another name (--branch)", p->branch);
	if (!p->head || !sb_hex_ok(p->head, SB_OID_LEN))
		return sb_fail(err, SB_EINVAL, "head: expected 40 lower-case hex digits");
	if (!p->title || !*p->title || strlen(p->title) > TITLE_MAX || !sb_utf8_ok(p->title, strlen(p->title)))
		return sb_fail(err, SB_EINVAL, "title: expected 1 to %d bytes of UTF-8", TITLE_MAX);
	if (strlen(p->body) > BODY_MAX || !sb_utf8_ok(p->body, strlen(p->body)))
		return sb_fail(err, SB_EINVAL, "body: expected at most %d bytes of UTF-8", BODY_MAX);
	sb_id_new(p->id);
	return agent_api_user(a, req, p->user, err);
}

/* The pack into the stage's repository; an empty body is fine when the commit is known. */
static int take_body(struct sb_http_request *req, struct agent *a, struct sb_repo *repo, const struct push *p, struct sb_error *err)
{
	const char *file = sb_http_body_file(req);
	char path[1024];
	size_t n = 0;
	const void *body = file ? NULL : sb_http_body(req, &n);
	FILE *f;

	if (!file && n == 0) {
		if (sb_repo_has(repo, p->head))
			return 0;
		return sb_fail(err, SB_EINVAL, "no pack was sent, and commit %.12s is not known here", p->head);
	}
	if (file)
		return sb_repo_index(repo, file, AGENT_PACK_OBJECTS_MAX, p->head, err);
	int r = sb_format(path, sizeof(path), err, "%s/spool/%s.push", a->set.state_dir, p->id);
	if (r < 0)
		return r;
	f = fopen(path, "wxe");
	if (!f)
		return sb_fail(err, SB_EIO, "could not write into the spool folder");
	bool whole = fwrite(body, 1, n, f) == n;
	if (fclose(f) != 0 || !whole)
		r = sb_fail(err, SB_EIO, "could not write the pack into the spool folder");
	if (r == 0)
		r = sb_repo_index(repo, path, AGENT_PACK_OBJECTS_MAX, p->head, err);
	(void)unlink(path); /* ours alone; swept with the spool otherwise */
	return r;
}

/* What the hub has for certain: the branches that it announced. Returns new array of borrowed ids. */
static const char **hub_has(const struct sb_refs *refs)
{
	const char **have = calloc(refs->count + 1, sizeof(*have));

	for (size_t i = 0; have && i < refs->count; i++)
		have[i] = refs->item[i].oid;
	return have;
}

/* Packs for the hub and seals to its key. Sets p->transfer, "" when the hub has all. */
static int make_transfer(struct agent *a, struct sb_repo *repo, struct push *p, struct sb_manifest *m, struct sb_error *err)
{
	const struct sb_key *hub = sb_keyring_party(a->keyring, a->set.tenant, "hub", sb_wall_ms());
	struct sb_refs refs = { .count = 0 };
	struct sb_pack_stats stats;
	const char *want[] = { p->head }, **have = NULL;
	char pack[1024], spool[1024];

	if (!hub)
		return sb_fail(err, SB_EAUTH, "the keyring holds no valid key of the hub");
	sb_id_new(p->transfer);
	int r = sb_format(pack, sizeof(pack), err, "%s/spool/%s.pack", a->set.state_dir, p->transfer);
	if (r == 0)
		r = agent_state_spool(spool, sizeof(spool), a, p->transfer, false, err);
	if (r == 0)
		r = sb_repo_refs(repo, "refs/heads/", &refs, err);
	if (r < 0)
		return r;
	have = hub_has(&refs);
	r = have ? sb_repo_pack(repo, want, 1, have, refs.count, pack, &stats, err) : sb_fail_nomem(err);
	free(have);
	sb_refs_release(&refs);
	if (r == SB_ESTATE) {
		p->transfer[0] = '\0';
		return 0;
	}
	if (r == 0) {
		memcpy(m->transfer, p->transfer, sizeof(m->transfer));
		(void)snprintf(m->kind, sizeof(m->kind), "pack");
		(void)snprintf(m->from, sizeof(m->from), "%s", a->set.stage);
		(void)snprintf(m->to, sizeof(m->to), "hub");
		m->expires_ms = sb_wall_ms() + TRANSFER_LIFE_MS;
		m->meta = json_pack("{s:s, s:s, s:s}", "origin", p->origin, "head", p->head, "push", p->id);
		r = m->meta ? sb_carrier_seal(m, pack, spool, hub, err) : sb_fail_nomem(err);
	}
	(void)unlink(pack); /* ours alone */
	return r;
}

static int record(struct agent *a, struct sb_db *db, const struct push *p, const struct sb_manifest *m, struct sb_error *err)
{
	json_auto_t *body = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "push", p->id, "origin", p->origin, "branch", p->branch, "head", p->head, "base", p->base, "title", p->title,
		"body", p->body, "user", p->user, "transfer", p->transfer);
	int64_t now = sb_wall_ms();

	if (!body)
		return sb_fail_nomem(err);
	int r = sb_db_begin(db, err);
	if (r == 0)
		r = sb_db_run(db, NULL, err, "INSERT INTO push(id, origin, branch, head, base, title, body, user, transfer, state, created_ms, updated_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'waiting', ?, ?)",
			"sssssssssii", p->id, p->origin, p->branch, p->head, p->base, p->title, p->body, p->user, p->transfer, now, now);
	if (r == 0 && *p->transfer)
		r = agent_transfer_send(a, db, m, err);
	if (r == 0)
		r = agent_outbox_put(a, db, SB_EV_PUSH_REQUESTED, p->id, body, err);
	if (r == 0)
		r = sb_db_commit(db, err);
	if (r < 0)
		sb_db_rollback(db);
	return r;
}

static int post_push(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	struct sb_manifest m = { .meta = NULL };
	struct push p = { .transfer = "", .base = "" };
	struct agent *a = user;
	struct sb_repo *repo = NULL;
	struct sb_db *db = NULL;

	int r = read_push(req, a, &p, err);
	if (r == 0)
		r = agent_repo_open(&repo, a, p.origin, err);
	if (r == 0)
		r = take_body(req, a, repo, &p, err);
	if (r == 0 && sb_repo_ref(repo, "refs/heads/main", p.base, err) == SB_ENOTFOUND)
		p.base[0] = '\0';
	if (r == 0)
		r = make_transfer(a, repo, &p, &m, err);
	if (r == 0)
		r = agent_state_open(&db, a, err);
	if (r == 0)
		r = record(a, db, &p, &m, err);
	sb_db_close(db);
	sb_repo_close(repo);
	if (r == 0) {
		agent_wake_courier(a);
		sb_log(SB_INFO, "push_taken", "push=%s origin=%s branch=%s head=%.12s bytes=%llu", p.id, p.origin, p.branch, p.head, (unsigned long long)m.sealed_bytes);
		reply->status = 202;
		r = sb_http_json(reply, json_pack("{s:s, s:s, s:s, s:s}", "push", p.id, "state", "waiting", "transfer", p.transfer, "user", p.user), err);
	}
	sb_manifest_release(&m);
	return r;
}

static json_t *push_row(struct sb_stmt *st)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:s}", "push", sb_db_text(st, 0), "origin", sb_db_text(st, 1), "branch", sb_db_text(st, 2), "head", sb_db_text(st, 3), "title",
		sb_db_text(st, 4), "user", sb_db_text(st, 5), "state", sb_db_text(st, 6), "url", sb_db_text(st, 7), "number", (json_int_t)sb_db_int(st, 8), "reason", sb_db_text(st, 9));
}

#define PUSH_COLUMNS "SELECT id, origin, branch, head, title, user, state, url, number, reason FROM push "

static int get_push(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	struct sb_stmt *st = NULL;
	struct sb_db *db = NULL;
	json_t *row = NULL;

	int r = agent_state_open(&db, user, err);
	if (r == 0)
		r = sb_db_query(db, &st, err, PUSH_COLUMNS "WHERE id = ?", "s", sb_http_param(req, "id"));
	if (r == 0)
		r = sb_db_step(st, err);
	if (r == 0)
		r = sb_fail(err, SB_ENOTFOUND, "no push has this id");
	else if (r == 1)
		row = push_row(st);
	sb_db_done(st);
	sb_db_close(db);
	return r < 0 ? r : sb_http_json(reply, row, err);
}

static int get_pushes(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	json_auto_t *items = json_array();
	struct sb_stmt *st = NULL;
	struct sb_db *db = NULL;

	(void)req; /* no parameters */
	int r = agent_state_open(&db, user, err);
	if (r == 0)
		r = sb_db_query(db, &st, err, PUSH_COLUMNS "ORDER BY created_ms DESC LIMIT " LIST_MAX, "");
	while (r >= 0 && (r = sb_db_step(st, err)) == 1) {
		if (json_array_append_new(items, push_row(st)) != 0)
			r = sb_fail_nomem(err);
	}
	sb_db_done(st);
	sb_db_close(db);
	return r < 0 ? r : sb_http_json(reply, json_pack("{s:O}", "items", items), err);
}

const struct sb_http_route agent_api_git_routes[] = {
	{ "GET", "/v1/git/{origin}/refs", 0, 0, get_refs, "references of the stage's repository, its path for git clone, and the forge's pull requests" },
	{ "POST", "/v1/git/{origin}/push", 0, PACK_MAX, post_push, "take a pack and open a pull request for it" },
	{ "GET", "/v1/pushes", 0, 0, get_pushes, "pushes from this stage and their fate" },
	{ "GET", "/v1/pushes/{id}", 0, 0, get_push, "one push" },
	{ NULL, NULL, 0, 0, NULL, NULL },
};
