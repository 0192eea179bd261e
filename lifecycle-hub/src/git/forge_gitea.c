/* Forge "gitea": REST through libcurl with a token of least rights, Git over HTTP with the same account. Merges name the head that was looked at; the hub never
 * asks Gitea to merge later. Pages of 50; redirects are not followed. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "forge.h"
#include "stagebridge/clock.h"
#include "stagebridge/file.h"
#include "stagebridge/http_client.h"
#include "stagebridge/log.h"
#include "stagebridge/text.h"

#define PAGE 50
#define PAGES_MAX 200

struct gitea {
	const struct hub_forge *set;
	struct sb_http_client *http;
	char *authorization;           /* "Authorization: token ..." */
};

static const char *str(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

static int call(struct gitea *g, const char *method, const char *path, const json_t *body, json_t **ret, struct sb_error *err)
{
	const char *headers[] = { g->authorization, "Accept: application/json", NULL };
	sb_cleanup(sb_freep) char *url = sb_asprintf("%s/api/v1%s", g->set->url, path);
	struct sb_http_call c = { .method = method, .url = url, .headers = headers };
	json_auto_t *answer = NULL;
	int status = 0;

	if (!url)
		return sb_fail_nomem(err);
	int r = sb_http_call_json(g->http, &c, body, &status, &answer, err);
	if (r == 0 && ret)
		*ret = SB_TAKE(answer);
	/* too many requests, or Gitea in trouble: worth another try */
	if (r < 0 && (status == 429 || status >= 500))
		err->retriable = true;
	return r < 0 ? sb_fail_prefix(err, "gitea: %s %s", method, path) : 0;
}

/* --- provisioning: what is missing is made, what is there is left --- */

static int ensure_repository(struct gitea *g, const char *repository, struct sb_error *err)
{
	json_auto_t *body = json_pack("{s:s, s:b, s:b, s:s, s:s}", "name", repository, "private", 1, "auto_init", 1, "default_branch", "main", "readme", "Default");
	sb_cleanup(sb_freep) char *path = sb_asprintf("/repos/%s/%s", g->set->owner, repository);
	sb_cleanup(sb_freep) char *org = sb_asprintf("/orgs/%s/repos", g->set->owner);
	struct sb_error why = SB_ERROR_INIT;

	if (!body || !path || !org)
		return sb_fail_nomem(err);
	int r = call(g, "GET", path, NULL, NULL, err);
	if (r != SB_ENOTFOUND)
		return r;
	r = call(g, "POST", org, body, NULL, &why);
	if (r == SB_ENOTFOUND) /* the owner is a user: our own account */
		return call(g, "POST", "/user/repos", body, NULL, err);
	if (r < 0)
		*err = why;
	return r;
}

static bool has_hook(const json_t *hooks, const char *url)
{
	json_t *h;
	size_t i;

	json_array_foreach(hooks, i, h)
	{
		if (strcmp(str(json_object_get(h, "config"), "url"), url) == 0)
			return true;
	}
	return false;
}

static int ensure_hook(struct gitea *g, const char *repository, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *path = sb_asprintf("/repos/%s/%s/hooks", g->set->owner, repository);
	sb_cleanup(sb_freep) char *secret = NULL;
	json_auto_t *hooks = NULL;
	size_t n = 0;

	if (!path)
		return sb_fail_nomem(err);
	if (!g->set->hook_url || !*g->set->hook_url)
		return 0;
	int r = call(g, "GET", path, NULL, &hooks, err);
	if (r < 0 || has_hook(hooks, g->set->hook_url))
		return r;
	r = sb_file_read_secret(g->set->webhook_secret_file, 1024, &secret, &n, err);
	if (r < 0)
		return r;
	while (n && (secret[n - 1] == '\n' || secret[n - 1] == '\r'))
		secret[--n] = '\0';
	json_auto_t *body = json_pack("{s:s, s:b, s:[s,s,s], s:{s:s, s:s, s:s}}", "type", "gitea", "active", 1, "events", "push", "pull_request", "status", "config", "url", g->set->hook_url, "content_type", "json", "secret", secret);
	return body ? call(g, "POST", path, body, NULL, err) : sb_fail_nomem(err);
}

/* Nobody but our account pushes to stage branches; promotion statuses are required there. */
static int ensure_protection(struct gitea *g, const char *repository, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *path = sb_asprintf("/repos/%s/%s/branch_protections", g->set->owner, repository);
	json_auto_t *rules = NULL;
	json_t *rule;
	size_t i;

	if (!path)
		return sb_fail_nomem(err);
	int r = call(g, "GET", path, NULL, &rules, err);
	if (r < 0)
		return r;
	json_array_foreach(rules, i, rule)
	{
		if (strcmp(str(rule, "rule_name"), "stage/*") == 0)
			return 0;
	}
	json_auto_t *body = json_pack("{s:s, s:b, s:b, s:[s]}", "rule_name", "stage/*", "enable_push", 1, "enable_push_whitelist", 1, "push_whitelist_usernames", g->set->token_user);
	return body ? call(g, "POST", path, body, NULL, err) : sb_fail_nomem(err);
}

static int gitea_provision(void *forge, const char *repository, struct sb_error *err)
{
	int r = ensure_repository(forge, repository, err);

	if (r == 0)
		r = ensure_hook(forge, repository, err);
	if (r == 0)
		r = ensure_protection(forge, repository, err);
	return r;
}

static int gitea_remote(void *forge, const char *repository, char url[400], struct sb_remote *ret, struct sb_error *err)
{
	struct gitea *g = forge;

	*ret = (struct sb_remote){ .url = url, .token_file = g->set->token_file, .token_user = g->set->token_user, .timeout_ms = 120000 };
	return sb_format(url, 400, err, "%s/%s/%s.git", g->set->url, g->set->owner, repository);
}

/* --- pull requests --- */

static void copy(char *out, size_t size, const char *s)
{
	(void)snprintf(out, size, "%s", s); /* cut texts are for people only; ids and branches fit */
}

static void read_pull(struct hub_pull *p, const json_t *j)
{
	const json_t *head = json_object_get(j, "head"), *base = json_object_get(j, "base");
	bool merged = json_is_true(json_object_get(j, "merged"));

	*p = (struct hub_pull){ .number = (int)json_integer_value(json_object_get(j, "number")) };
	copy(p->title, sizeof(p->title), str(j, "title"));
	copy(p->state, sizeof(p->state), merged ? "merged" : str(j, "state"));
	copy(p->head, sizeof(p->head), str(head, "ref"));
	copy(p->base, sizeof(p->base), str(base, "ref"));
	copy(p->head_oid, sizeof(p->head_oid), str(head, "sha"));
	copy(p->merge_oid, sizeof(p->merge_oid), merged ? str(j, "merge_commit_sha") : "");
	copy(p->author, sizeof(p->author), str(json_object_get(j, "user"), "login"));
	copy(p->merged_by, sizeof(p->merged_by), merged ? str(json_object_get(j, "merged_by"), "login") : "");
	copy(p->url, sizeof(p->url), str(j, "html_url"));
	copy(p->created_at, sizeof(p->created_at), str(j, "created_at"));
	copy(p->updated_at, sizeof(p->updated_at), str(j, "updated_at"));
}

static int find_open(struct gitea *g, const char *repository, const char *head, const char *base, struct hub_pull *ret, struct sb_error *err)
{
	for (int page = 1; page <= PAGES_MAX; page++) {
		sb_cleanup(sb_freep) char *path = sb_asprintf("/repos/%s/%s/pulls?state=open&limit=%d&page=%d", g->set->owner, repository, PAGE, page);
		json_auto_t *list = NULL;
		json_t *j;
		size_t i;

		if (!path)
			return sb_fail_nomem(err);
		int r = call(g, "GET", path, NULL, &list, err);
		if (r < 0)
			return r;
		json_array_foreach(list, i, j)
		{
			read_pull(ret, j);
			if (strcmp(ret->head, head) == 0 && strcmp(ret->base, base) == 0)
				return 0;
		}
		if (json_array_size(list) < PAGE)
			break;
	}
	return sb_fail(err, SB_ENOTFOUND, "no open pull request from \"%s\" to \"%s\"", head, base);
}

static int gitea_pull_open(void *forge, const char *repository, const char *head, const char *base, const char *title, const char *body, const char *author, struct hub_pull *ret, struct sb_error *err)
{
	struct gitea *g = forge;
	sb_cleanup(sb_freep) char *path = sb_asprintf("/repos/%s/%s/pulls", g->set->owner, repository);
	json_auto_t *json = json_pack("{s:s, s:s, s:s, s:s}", "head", head, "base", base, "title", title, "body", body);
	struct sb_error why = SB_ERROR_INIT;
	json_auto_t *made = NULL;

	(void)author; /* named in the body; the account at Gitea is the hub's */
	if (!path || !json)
		return sb_fail_nomem(err);
	int r = find_open(g, repository, head, base, ret, &why);
	if (r == 0) /* adopted: its head follows the branch */
		return 0;
	if (r != SB_ENOTFOUND) {
		*err = why;
		return r;
	}
	r = call(g, "POST", path, json, &made, err);
	if (r == 0)
		read_pull(ret, made);
	return r;
}

static int add_pull(struct hub_pulls *list, const struct hub_pull *p, struct sb_error *err)
{
	struct hub_pull *more = realloc(list->item, (list->count + 1) * sizeof(*more));

	if (!more)
		return sb_fail_nomem(err);
	more[list->count++] = *p;
	list->item = more;
	return 0;
}

/* All of them, page by page, newest updates first. Stamps of Gitea have whole seconds: a mark "read up to here" would lose what shares its second. */
static int gitea_pulls(void *forge, const char *repository, struct hub_pulls *ret, struct sb_error *err)
{
	struct gitea *g = forge;
	bool more = true;
	int r = 0;

	*ret = (struct hub_pulls){ .count = 0 };
	for (int page = 1; page <= PAGES_MAX && more && r == 0; page++) {
		sb_cleanup(sb_freep) char *path = sb_asprintf("/repos/%s/%s/pulls?state=all&sort=highestindex&limit=%d&page=%d", g->set->owner, repository, PAGE, page);
		json_auto_t *list = NULL;
		struct hub_pull p;
		json_t *j;
		size_t i;

		r = path ? call(g, "GET", path, NULL, &list, err) : sb_fail_nomem(err);
		json_array_foreach(list, i, j)
		{
			read_pull(&p, j);
			if (r == 0)
				r = add_pull(ret, &p, err);
		}
		more = json_array_size(list) == PAGE;
	}
	if (r < 0) {
		free(ret->item);
		*ret = (struct hub_pulls){ .count = 0 };
	}
	return r;
}

static int gitea_pull_get(void *forge, const char *repository, int number, struct hub_pull *ret, struct sb_error *err)
{
	struct gitea *g = forge;
	sb_cleanup(sb_freep) char *path = sb_asprintf("/repos/%s/%s/pulls/%d", g->set->owner, repository, number);
	json_auto_t *one = NULL;

	int r = path ? call(g, "GET", path, NULL, &one, err) : sb_fail_nomem(err);
	if (r == 0)
		read_pull(ret, one);
	return r;
}

static int gitea_pull_merge(void *forge, const char *repository, int number, const char *head_oid, const char *who, char merge_oid[SB_OID_LEN + 1], struct sb_error *err)
{
	(void)forge;
	(void)repository;
	(void)head_oid;
	(void)who;
	(void)merge_oid;
	return sb_fail(err, SB_EREFUSED, "pull request %d is merged at Gitea, by a person", number);
}

static int gitea_pull_close(void *forge, const char *repository, int number, const char *comment, struct sb_error *err)
{
	struct gitea *g = forge;
	sb_cleanup(sb_freep) char *say = sb_asprintf("/repos/%s/%s/issues/%d/comments", g->set->owner, repository, number);
	sb_cleanup(sb_freep) char *path = sb_asprintf("/repos/%s/%s/pulls/%d", g->set->owner, repository, number);
	json_auto_t *text = json_pack("{s:s}", "body", comment), *closed = json_pack("{s:s}", "state", "closed");

	if (!say || !path || !text || !closed)
		return sb_fail_nomem(err);
	int r = call(g, "PATCH", path, closed, NULL, err);
	return r < 0 ? r : call(g, "POST", say, text, NULL, err);
}

static int gitea_status(void *forge, const char *repository, const char *oid, const char *state, const char *context, const char *description, const char *url, struct sb_error *err)
{
	struct gitea *g = forge;
	sb_cleanup(sb_freep) char *path = sb_asprintf("/repos/%s/%s/statuses/%s", g->set->owner, repository, oid);
	json_auto_t *body = json_pack("{s:s, s:s, s:s, s:s}", "state", state, "context", context, "description", description, "target_url", url);

	return path && body ? call(g, "POST", path, body, NULL, err) : sb_fail_nomem(err);
}

static size_t place_of(const struct hub_check *check, size_t n, const char *context)
{
	size_t k = 0;

	while (k < n && strcmp(check[k].context, context) != 0)
		k++;
	return k;
}

/* The highest number of each context counts: times are of a second, and what Gitea sorts by differs between its versions. A warning is no success. */
static int gitea_checks(void *forge, const char *repository, const char *oid, struct hub_check ret[HUB_CHECKS_MAX], size_t *ret_count, struct sb_error *err)
{
	struct gitea *g = forge;
	sb_cleanup(sb_freep) char *path = sb_asprintf("/repos/%s/%s/commits/%s/statuses?sort=recentupdate&limit=%d", g->set->owner, repository, oid, HUB_CHECKS_MAX);
	int64_t number[HUB_CHECKS_MAX] = { 0 };
	json_auto_t *list = NULL;
	json_t *j;
	size_t i, n = 0;

	if (!path)
		return sb_fail_nomem(err);
	int r = call(g, "GET", path, NULL, &list, err);
	if (r < 0)
		return r;
	json_array_foreach(list, i, j)
	{
		const char *context = str(j, "context"), *reporter = str(json_object_get(j, "creator"), "login");
		int64_t id = json_integer_value(json_object_get(j, "id"));
		size_t k = place_of(ret, n, context);
		if (!*context || !*reporter || strlen(context) >= sizeof(ret->context) || strncmp(context, "stagebridge/", 12) == 0 || k == HUB_CHECKS_MAX || (k < n && id < number[k]))
			continue;
		n += k == n;
		number[k] = id;
		copy(ret[k].context, sizeof(ret[k].context), context);
		copy(ret[k].state, sizeof(ret[k].state), strcmp(str(j, "status"), "warning") == 0 ? "failure" : str(j, "status"));
		copy(ret[k].reporter, sizeof(ret[k].reporter), reporter);
		copy(ret[k].description, sizeof(ret[k].description), str(j, "description"));
		copy(ret[k].url, sizeof(ret[k].url), str(j, "target_url"));
		sb_text_tidy(ret[k].description);
		sb_text_tidy(ret[k].url);
	}
	*ret_count = n;
	return 0;
}

static void gitea_free(void *forge)
{
	struct gitea *g = forge;

	if (!g)
		return;
	sb_http_client_free(g->http);
	free(g->authorization);
	free(g);
}

int hub_forge_gitea_new(void **ret, const struct hub_forge_api **ret_api, struct hub_world *w, struct sb_error *err)
{
	static const struct hub_forge_api api = { .name = "gitea", .provision = gitea_provision, .remote = gitea_remote, .pull_open = gitea_pull_open, .pulls = gitea_pulls, .pull_get = gitea_pull_get, .pull_merge = gitea_pull_merge,
		.pull_close = gitea_pull_close, .status = gitea_status, .checks = gitea_checks, .free = gitea_free };
	struct gitea *g = calloc(1, sizeof(*g));
	sb_cleanup(sb_freep) char *token = NULL;
	size_t n = 0;

	if (!g)
		return sb_fail_nomem(err);
	g->set = &w->set->forge;
	int r = sb_file_read_secret(g->set->token_file, 1024, &token, &n, err);
	while (r == 0 && n && (token[n - 1] == '\n' || token[n - 1] == '\r'))
		token[--n] = '\0';
	if (r == 0) {
		g->authorization = sb_asprintf("Authorization: token %s", token);
		r = g->authorization ? sb_http_client_new(&g->http, g->set->ca_file && *g->set->ca_file ? g->set->ca_file : NULL, err) : sb_fail_nomem(err);
	}
	if (r < 0) {
		gitea_free(g);
		return r;
	}
	*ret = g;
	*ret_api = &api;
	return 0;
}
