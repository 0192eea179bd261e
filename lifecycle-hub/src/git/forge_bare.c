/* Forge "bare": plain repositories in a folder, for the demo and for installations without a forge. Pull requests are rows of ours; merging one is a
 * fast-forward or a merge commit made here, compared with the head that was looked at. One object per lane or request. */
#include <stdio.h>
#include <string.h>

#include "forge.h"
#include "stagebridge/file.h"
#include "stagebridge/text.h"

struct bare { const struct hub_world *w; struct sb_pg *pg; };

static int path_of(const struct bare *b, const char *repository, char out[400], struct sb_error *err)
{
	return sb_format(out, 400, err, "%s/%s.git", b->w->set->forge.path, repository);
}

static const char *origin_of(const struct bare *b, const char *repository)
{
	const struct hub_origin *o = b->w->set->origins.item;

	for (size_t i = 0; i < b->w->set->origins.count; i++) {
		if (strcmp(o[i].repository, repository) == 0)
			return o[i].name;
	}
	return repository;
}

static int open_repo(const struct bare *b, const char *repository, struct sb_repo **ret, struct sb_error *err)
{
	char path[400];

	int r = path_of(b, repository, path, err);
	return r < 0 ? r : sb_repo_open(ret, path, true, err);
}

static int bare_provision(void *forge, const char *repository, struct sb_error *err)
{
	struct bare *b = forge;
	struct sb_repo *repo = NULL;

	int r = sb_dir_make(b->w->set->forge.path, 0755, err);
	if (r == 0)
		r = open_repo(b, repository, &repo, err);
	sb_repo_close(repo);
	return r;
}

static int bare_remote(void *forge, const char *repository, char url[400], struct sb_remote *ret, struct sb_error *err)
{
	int r = path_of(forge, repository, url, err);

	*ret = (struct sb_remote){ .url = url, .timeout_ms = 60000 };
	return r;
}

static int bare_pull_open(void *forge, const char *repository, const char *head, const char *base, const char *title, const char *body, const char *author, struct hub_pull *ret, struct sb_error *err)
{
	struct bare *b = forge;
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	struct sb_repo *repo = NULL;
	char ref[300], oid[SB_OID_LEN + 1];

	(void)body; /* a description has no place in a bare repository; the push keeps it */
	int r = open_repo(b, repository, &repo, err);
	if (r == 0)
		r = sb_format(ref, sizeof(ref), err, "refs/heads/%s", head);
	if (r == 0)
		r = sb_repo_ref(repo, ref, oid, err);
	sb_repo_close(repo);
	if (r < 0)
		return r;
	const char *param[] = { origin_of(b, repository), head, base, title, author, oid };
	r = sb_pg_exec(b->pg,
		"WITH open AS (UPDATE lifecycle.pull_request SET head_oid = $6, title = $4, updated_at = now() WHERE origin = $1 AND head = $2 AND base = $3 AND state = 'open' RETURNING number),"
		" made AS (INSERT INTO lifecycle.pull_request (origin, number, title, state, head, base, head_oid, author, url)"
		" SELECT $1, 1 + coalesce((SELECT max(number) FROM lifecycle.pull_request WHERE origin = $1), 0), $4, 'open', $2, $3, $6, $5, '' WHERE NOT EXISTS (SELECT FROM open) RETURNING number)"
		" SELECT number FROM open UNION ALL SELECT number FROM made",
		6, param, &res, err);
	if (r < 0)
		return r;
	ret->number = (int)sb_pg_get_i64(res, 0, 0);
	return sb_format(ret->url, sizeof(ret->url), err, "bare:%s#%d", repository, ret->number);
}

/* The rows are the truth already. */
static int bare_pulls(void *forge, const char *repository, struct hub_pulls *ret, struct sb_error *err)
{
	(void)forge;
	(void)repository;
	(void)err;
	*ret = (struct hub_pulls){ .count = 0 };
	return 0;
}

static int merge_heads(struct sb_repo *repo, const char *base_ref, const char *head_oid, const char *title, int number, const char *who, char merge_oid[SB_OID_LEN + 1], struct sb_error *err)
{
	char base[SB_OID_LEN + 1], message[400];

	int r = sb_repo_ref(repo, base_ref, base, err);
	if (r == SB_ENOTFOUND) {
		r = sb_format(merge_oid, SB_OID_LEN + 1, err, "%s", head_oid);
		return r < 0 ? r : sb_repo_ref_set(repo, base_ref, head_oid, "", "first commit", err);
	}
	if (r < 0)
		return r;
	r = sb_repo_is_ancestor(repo, base, head_oid, err);
	if (r == 1) {
		r = sb_format(merge_oid, SB_OID_LEN + 1, err, "%s", head_oid);
	} else if (r == 0) {
		r = sb_format(message, sizeof(message), err, "Merge pull request %d: %.255s", number, title);
		if (r == 0)
			r = sb_repo_merge(repo, base, head_oid, message, who, merge_oid, err);
	}
	return r < 0 ? r : sb_repo_ref_set(repo, base_ref, merge_oid, base, "merge", err);
}

static int bare_pull_merge(void *forge, const char *repository, int number, const char *head_oid, const char *who, char merge_oid[SB_OID_LEN + 1], struct sb_error *err)
{
	struct bare *b = forge;
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	struct sb_repo *repo = NULL;
	char digits[16], ref[300];

	(void)snprintf(digits, sizeof(digits), "%d", number);
	const char *find[] = { origin_of(b, repository), digits };
	int r = sb_pg_begin(b->pg, err);
	if (r == 0)
		r = sb_pg_exec(b->pg, "SELECT base, head_oid, title, state FROM lifecycle.pull_request WHERE origin = $1 AND number = $2 FOR UPDATE", 2, find, &res, err);
	if (r == 0 && sb_pg_rows(res) == 0)
		r = sb_fail(err, SB_ENOTFOUND, "no pull request %d in \"%s\"", number, find[0]);
	if (r == 0 && strcmp(sb_pg_get(res, 0, 3), "open") != 0)
		r = sb_fail(err, SB_ESTATE, "pull request %d is %s", number, sb_pg_get(res, 0, 3));
	if (r == 0 && *head_oid && strcmp(sb_pg_get(res, 0, 1), head_oid) != 0)
		r = sb_fail(err, SB_ECONFLICT, "the head of pull request %d moved to %.12s", number, sb_pg_get(res, 0, 1));
	if (r == 0)
		r = open_repo(b, repository, &repo, err);
	if (r == 0)
		r = sb_format(ref, sizeof(ref), err, "refs/heads/%s", sb_pg_get(res, 0, 0));
	if (r == 0)
		r = merge_heads(repo, ref, sb_pg_get(res, 0, 1), sb_pg_get(res, 0, 2), number, who, merge_oid, err);
	if (r == 0) {
		const char *done[] = { find[0], digits, merge_oid, who };

		r = sb_pg_exec(b->pg, "UPDATE lifecycle.pull_request SET state = 'merged', merge_oid = $3, merged_by = $4, updated_at = now() WHERE origin = $1 AND number = $2", 4, done, NULL, err);
	}
	if (r == 0)
		r = sb_pg_commit(b->pg, err);
	if (r < 0)
		sb_pg_rollback(b->pg);
	sb_repo_close(repo);
	return r;
}

static int bare_pull_close(void *forge, const char *repository, int number, const char *comment, struct sb_error *err)
{
	struct bare *b = forge;
	char digits[16];

	(void)comment; /* rows have no comments; the audit has the reason */
	(void)snprintf(digits, sizeof(digits), "%d", number);
	const char *param[] = { origin_of(b, repository), digits };
	return sb_pg_exec(b->pg, "UPDATE lifecycle.pull_request SET state = 'closed', updated_at = now() WHERE origin = $1 AND number = $2 AND state = 'open'", 2, param, NULL, err);
}

/* lifecycle.commit_status is the record; a bare repository has no other place. */
static int bare_status(void *forge, const char *repository, const char *oid, const char *state, const char *context, const char *description, const char *url, struct sb_error *err)
{
	(void)forge;
	(void)repository;
	(void)oid;
	(void)state;
	(void)context;
	(void)description;
	(void)url;
	(void)err;
	return 0;
}

int hub_forge_bare_new(void **ret, const struct hub_forge_api **ret_api, struct hub_world *w, struct sb_pg *pg, struct sb_error *err)
{
	static const struct hub_forge_api api = { .name = "bare", .provision = bare_provision, .remote = bare_remote, .pull_open = bare_pull_open, .pulls = bare_pulls, .pull_merge = bare_pull_merge,
		.pull_close = bare_pull_close, .status = bare_status, .free = free };
	struct bare *b = calloc(1, sizeof(*b));

	if (!b)
		return sb_fail_nomem(err);
	b->w = w;
	b->pg = pg;
	*ret = b;
	*ret_api = &api;
	return 0;
}
