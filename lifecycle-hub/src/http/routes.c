/* The table of routes: paths, rights, limits. The OpenAPI document comes from it. */
#include "api.h"

#define T "/api/v1/tenants/{tenant}"

const struct sb_http_route hub_routes[] = {
	{ "GET", "/", 0, 0, hub_page, "the page for people" },
	{ "GET", "/page.css", 0, 0, hub_page_css, "its style" },
	{ "GET", "/page.js", 0, 0, hub_page_js, "its script" },
	{ "GET", "/healthz", 0, 0, hub_api_health, "the process answers" },
	{ "GET", "/readyz", 0, 0, hub_api_ready, "all lanes run; 503 names those that do not" },
	{ "GET", "/metrics", 0, 0, hub_api_metrics, "Prometheus text" },
	{ "GET", "/api/v1/openapi.json", 0, 0, hub_api_openapi, "this API, as OpenAPI 3.1" },
	{ "GET", "/api/v1/tenants", SB_ROUTE_AUTH, 0, hub_api_tenants, "tenants of this hub" },
	{ "GET", T "/overview", SB_ROUTE_AUTH, 0, hub_api_overview, "all that the page shows, in one answer" },
	{ "GET", T "/stages", SB_ROUTE_AUTH, 0, hub_api_list, "stages, their agents, what is in them" },
	{ "GET", T "/artifacts", SB_ROUTE_AUTH, 0, hub_api_list, "artifacts, newest first; query: origin, limit" },
	{ "GET", T "/promotions", SB_ROUTE_AUTH, 0, hub_api_list, "promotions, newest first; query: origin, stage, state=open, limit" },
	{ "POST", T "/promotions", SB_ROUTE_AUTH | SB_ROUTE_WRITE, 16384, hub_api_request_post, "ask: promote, rollback, approve, reject, abort, stop, resume, hold, release" },
	{ "GET", T "/promotions/{id}", SB_ROUTE_AUTH, 0, hub_api_promotion_get, "one promotion with its gates and its record" },
	{ "GET", T "/requests/{id}", SB_ROUTE_AUTH, 0, hub_api_request_get, "what became of a request" },
	{ "GET", T "/why", SB_ROUTE_AUTH, 0, hub_api_why, "why something waits; query: subject (promotion, artifact, origin), to, all=1 (open gates too)" },
	{ "GET", T "/policy", SB_ROUTE_AUTH, 0, hub_api_policy, "the promotion policy in force, edge by edge, with its windows; query: edge, at" },
	{ "POST", T "/statuses", SB_ROUTE_AUTH | SB_ROUTE_WRITE, 4096, hub_api_status_post, "report a commit status that a policy may require: origin, commit, context, state, description, url" },
	{ "GET", T "/entities", SB_ROUTE_AUTH, 0, hub_api_list, "entity types and their freshness; query: stage" },
	{ "POST", T "/entities/{type}/resync", SB_ROUTE_AUTH | SB_ROUTE_WRITE, 4096, hub_api_resync, "order that a type is sent again, or take that back" },
	{ "GET", T "/datasets", SB_ROUTE_AUTH, 0, hub_api_list, "requests for datasets and their fate" },
	{ "GET", T "/pulls", SB_ROUTE_AUTH, 0, hub_api_list, "pull requests; query: origin" },
	{ "POST", T "/pulls/{origin}/{number}/merge", SB_ROUTE_AUTH | SB_ROUTE_WRITE, 4096, hub_api_pull_merge, "merge a pull request of the bare forge" },
	{ "GET", T "/events", SB_ROUTE_AUTH, 0, hub_api_list, "what happened lately" },
	{ "GET", T "/quarantine", SB_ROUTE_AUTH, 0, hub_api_list, "records and rows that were refused" },
	{ "POST", "/hooks/gitea/{tenant}", 0, 1048576, hub_api_gitea_hook, "Gitea's webhook: a hint to look, checked by HMAC" },
	{ NULL, NULL, 0, 0, NULL, NULL },
};
