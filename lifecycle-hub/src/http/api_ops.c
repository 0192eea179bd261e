/* For operators: health, readiness, metrics, and the API's own description. */
#include <ctype.h>
#include <string.h>

#include "api.h"
#include "stagebridge/metric.h"

#define READY_GRACE_MS 30000

int hub_api_health(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	(void)req;
	(void)user;
	return sb_http_json(reply, json_pack("{s:s}", "status", "alive"), err);
}

int hub_api_ready(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	struct hub *h = hub_of(user);
	bool ready = sb_lanes_ready(h->lanes, READY_GRACE_MS);

	(void)req; /* no parameters */
	reply->status = ready ? 200 : 503;
	sb_buf_addf(&reply->body, "{\"ready\":%s,\"lanes\":", ready ? "true" : "false");
	sb_lanes_report(h->lanes, &reply->body);
	sb_buf_addc(&reply->body, '}');
	return sb_buf_check(&reply->body, "answer", err);
}

int hub_api_metrics(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	(void)req;
	(void)user;
	reply->content_type = "text/plain; version=0.0.4; charset=utf-8";
	sb_metric_render(&reply->body);
	return sb_buf_check(&reply->body, "metrics", err);
}

static json_t *parameters(const char *path)
{
	json_t *list = json_array();

	for (const char *p = strchr(path, '{'); p; p = strchr(p + 1, '{')) {
		const char *end = strchr(p, '}');

		if (!end)
			break;
		(void)json_array_append_new(list, json_pack("{s:s%, s:s, s:b, s:{s:s}}", "name", p + 1, (size_t)(end - p - 1), "in", "path", "required", 1, "schema", "type", "string"));
	}
	return list;
}

static json_t *operation(const struct sb_http_route *r)
{
	json_t *op = json_pack("{s:s, s:o, s:{s:{s:s}, s:{s:s, s:{s:{s:{s:s}}}}}}", "summary", r->summary, "parameters", parameters(r->path), "responses", r->flags & SB_ROUTE_WRITE ? "202" : "200", "description", "done",
		"default", "description", "RFC 9457 problem", "content", "application/problem+json", "schema", "type", "object");

	if (op && r->flags & SB_ROUTE_AUTH)
		(void)json_object_set_new(op, "security", json_pack("[{s:[]}]", "token"));
	return op;
}

/* From the table of routes, so that it cannot say anything else. */
int hub_api_openapi(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	json_t *paths = json_object();
	char method[8];

	(void)req;
	(void)user;
	for (const struct sb_http_route *r = hub_routes; r->method; r++) {
		json_t *item = json_object_get(paths, r->path);

		if (!item) {
			item = json_object();
			(void)json_object_set_new(paths, r->path, item);
		}
		for (size_t i = 0; i < sizeof(method); i++) {
			method[i] = (char)tolower((unsigned char)r->method[i]);
			if (!method[i])
				break;
		}
		(void)json_object_set_new(item, method, operation(r));
	}
	return sb_http_json(reply, json_pack("{s:s, s:{s:s, s:s}, s:o, s:{s:{s:{s:s, s:s}}}}", "openapi", "3.1.0", "info", "title", "stagebridge lifecycle hub", "version", sb_version(), "paths", paths, "components",
		"securitySchemes", "token", "type", "http", "scheme", "bearer"), err);
}
