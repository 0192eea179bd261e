/* Starts the server, tells who asks (static bearer tokens), and lends connections: at most HUB_POOL_MAX idle ones a tenant are kept. */
#include "http.h"

#include <pthread.h>
#include <sodium.h>
#include <string.h>

#include "api.h"
#include "stagebridge/file.h"
#include "stagebridge/log.h"
#include "store/store.h"

struct token { char name[64]; char *secret; size_t len; unsigned may; };

struct hub_http {
	struct hub *hub;
	struct sb_http_server *server;
	struct token *token;
	size_t n_tokens;
	pthread_mutex_t lock;
	struct { struct sb_pg *idle[HUB_POOL_MAX]; unsigned n; } *pool;   /* by tenant */
};

struct hub *hub_of(struct hub_http *http)
{
	return http->hub;
}

int hub_call_begin(struct hub_http *http, struct sb_http_request *req, struct hub_call *ret, struct sb_error *err)
{
	const char *name = sb_http_param(req, "tenant");
	struct hub *h = http->hub;

	*ret = (struct hub_call){ .w = NULL };
	for (size_t i = 0; i < h->n_worlds; i++) {
		if (strcmp(h->world[i].set->name, name) != 0)
			continue;
		ret->w = &h->world[i];
		(void)pthread_mutex_lock(&http->lock);
		if (http->pool[i].n > 0)
			ret->pg = http->pool[i].idle[--http->pool[i].n];
		(void)pthread_mutex_unlock(&http->lock);
		return ret->pg ? 0 : hub_store_open(&ret->pg, ret->w, "http", err);
	}
	return sb_fail(err, SB_ENOTFOUND, "no tenant of this name");
}

void hub_call_end(struct hub_http *http, struct hub_call *c, bool ok)
{
	size_t i = c->w ? (size_t)(c->w - http->hub->world) : 0;

	if (!c->pg)
		return;
	sb_pg_rollback(c->pg);
	(void)pthread_mutex_lock(&http->lock);
	if (ok && sb_pg_ok(c->pg) && http->pool[i].n < HUB_POOL_MAX)
		http->pool[i].idle[http->pool[i].n++] = SB_TAKE(c->pg);
	(void)pthread_mutex_unlock(&http->lock);
	sb_pg_close(c->pg);
}

int hub_call_json(struct hub_call *c, const char *sql, unsigned n, const char *const *param, struct sb_http_reply *reply, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;

	int r = sb_pg_exec(c->pg, sql, n, param, &res, err);
	if (r < 0)
		return r;
	if (sb_pg_rows(res) == 0 || !sb_pg_get(res, 0, 0))
		return sb_fail(err, SB_ENOTFOUND, "not found");
	sb_buf_adds(&reply->body, sb_pg_get(res, 0, 0));
	return sb_buf_check(&reply->body, "answer", err);
}

/* --- who asks --- */

static int authenticate(struct sb_http_request *req, struct sb_principal *ret, void *user, struct sb_error *err)
{
	const char *header = sb_http_header(req, "Authorization");
	struct hub_http *http = user;
	size_t n;

	if (!header && http->hub->set.http.open) {
		*ret = (struct sb_principal){ .name = "anonymous", .may = SB_ROUTE_AUTH };
		return 0;
	}
	if (!header || strncmp(header, "Bearer ", 7) != 0)
		return sb_fail(err, SB_EAUTH, "a bearer token is needed");
	n = strlen(header + 7);
	for (size_t i = 0; i < http->n_tokens; i++) {
		const struct token *t = &http->token[i];

		if (t->len == n && sodium_memcmp(t->secret, header + 7, n) == 0) {
			*ret = (struct sb_principal){ .may = t->may };
			return sb_format(ret->name, sizeof(ret->name), err, "%s", t->name);
		}
	}
	return sb_fail(err, SB_EAUTH, "this token is not known here");
}

static int load_tokens(struct hub_http *http, struct sb_error *err)
{
	static const unsigned rights[] = { SB_ROUTE_AUTH, SB_ROUTE_AUTH | SB_ROUTE_WRITE, SB_ROUTE_AUTH | SB_ROUTE_WRITE | SB_ROUTE_APPROVE,
		SB_ROUTE_AUTH | SB_ROUTE_WRITE | SB_ROUTE_APPROVE | SB_ROUTE_ADMIN };
	const struct hub_token *set = http->hub->set.tokens.item;

	http->token = calloc(http->hub->set.tokens.count + 1, sizeof(*http->token));
	if (!http->token)
		return sb_fail_nomem(err);
	for (size_t i = 0; i < http->hub->set.tokens.count; i++) {
		struct token *t = &http->token[i];

		if (sb_file_read_secret(set[i].file, 4096, &t->secret, &t->len, err) < 0)
			return sb_fail_prefix(err, "token of %s", set[i].name);
		while (t->len && (t->secret[t->len - 1] == '\n' || t->secret[t->len - 1] == '\r'))
			t->secret[--t->len] = '\0';
		http->n_tokens = i + 1;
		if (t->len < 16)
			return sb_fail(err, SB_ECONFIG, "token of %s in \"%s\" is shorter than 16 characters", set[i].name, set[i].file);
		t->may = rights[set[i].role];
		if (sb_format(t->name, sizeof(t->name), err, "%s", set[i].name) < 0)
			return (int)err->code;
	}
	return 0;
}

int hub_http_start(struct hub_http **ret, struct hub *h, struct sb_error *err)
{
	struct hub_http *http = calloc(1, sizeof(*http));

	if (!http)
		return sb_fail_nomem(err);
	http->hub = h;
	(void)pthread_mutex_init(&http->lock, NULL);
	http->pool = calloc(h->n_worlds ? h->n_worlds : 1, sizeof(*http->pool));
	int r = http->pool ? load_tokens(http, err) : sb_fail_nomem(err);
	if (r == 0) {
		struct sb_http_options o = { .host = h->set.http.host, .port = (int)h->set.http.port, .threads = (int)h->set.http.threads, .spool_dir = h->set.state_dir, .auth = authenticate };

		r = sb_http_server_start(&http->server, &o, hub_routes, http, err);
	}
	if (r < 0) {
		hub_http_stop(http);
		return r;
	}
	sb_log(SB_INFO, "http_listens", "host=%s port=%d", h->set.http.host, sb_http_server_port(http->server));
	*ret = http;
	return 0;
}

void hub_http_stop(struct hub_http *http)
{
	if (!http)
		return;
	if (http->server)
		sb_http_server_stop(http->server);
	for (size_t i = 0; http->pool && i < http->hub->n_worlds; i++) {
		while (http->pool[i].n > 0)
			sb_pg_close(http->pool[i].idle[--http->pool[i].n]);
	}
	for (size_t i = 0; http->token && i < http->n_tokens; i++) {
		sodium_memzero(http->token[i].secret, http->token[i].len);
		free(http->token[i].secret);
	}
	free(http->token);
	free(http->pool);
	(void)pthread_mutex_destroy(&http->lock);
	free(http);
}
