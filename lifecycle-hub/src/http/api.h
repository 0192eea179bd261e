/* What the HTTP handlers share: the tenant of the path, a pooled connection, and JSON that the database makes. */
#ifndef HUB_API_H
#define HUB_API_H

#include "http.h"
#include "stagebridge/http_server.h"

#define HUB_POOL_MAX 4

/** A request's tenant and connection. */
struct hub_call { struct hub_world *w; struct sb_pg *pg; };
/** 404 for an unknown tenant. Give back with hub_call_end, ok false when the connection may be broken. */
int hub_call_begin(struct hub_http *http, struct sb_http_request *req, struct hub_call *ret, struct sb_error *err) SB_MUSTCHECK;
void hub_call_end(struct hub_http *http, struct hub_call *c, bool ok);
/** Runs a query whose one cell is a JSON text and replies with it. */
int hub_call_json(struct hub_call *c, const char *sql, unsigned n, const char *const *param, struct sb_http_reply *reply, struct sb_error *err) SB_MUSTCHECK;
struct hub *hub_of(struct hub_http *http);

/* Handlers, by file; user is struct hub_http *. */
int hub_api_list(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err);          /* api_list.c */
int hub_api_overview(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err);
int hub_api_tenants(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err);
int hub_api_request_post(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err);  /* api_promote.c */
int hub_api_request_get(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err);
int hub_api_promotion_get(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err);
int hub_api_why(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err);
int hub_api_policy(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err);        /* api_policy.c */
int hub_api_status_post(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err);
int hub_api_pull_merge(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err);    /* api_git.c */
int hub_api_resync(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err);        /* api_resync.c */
int hub_api_gitea_hook(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err);
int hub_api_health(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err);        /* api_ops.c */
int hub_api_ready(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err);
int hub_api_metrics(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err);
int hub_api_openapi(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err);
int hub_page(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err);              /* page.c */
int hub_page_css(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err);
int hub_page_js(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err);

extern const struct sb_http_route hub_routes[]; /* routes.c; ends with method NULL */

#endif
