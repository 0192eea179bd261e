/* Git's faces: merging at the bare forge, and Gitea's webhook. */
#include <string.h>

#include "api.h"
#include "git/forge.h"
#include "stagebridge/file.h"
#include "stagebridge/log.h"
#include "stagebridge/metric.h"

static const char *repository_of(const struct hub_tenant *t, const char *origin)
{
	const struct hub_origin *o = t->origins.item;

	for (size_t i = 0; i < t->origins.count; i++) {
		if (strcmp(o[i].name, origin) == 0)
			return o[i].repository;
	}
	return NULL;
}

static int merge(struct hub_call *c, const char *origin, int number, const char *who, char merge_oid[SB_OID_LEN + 1], struct sb_error *err)
{
	const char *repository = repository_of(c->w->set, origin);
	const struct hub_forge_api *api = NULL;
	void *forge = NULL;

	if (!repository)
		return sb_fail(err, SB_ENOTFOUND, "no origin \"%s\"", origin);
	if (c->w->set->forge.kind != HUB_FORGE_BARE)
		return sb_fail(err, SB_ESTATE, "pull requests of this tenant are merged at Gitea");
	int r = hub_forge_bare_new(&forge, &api, c->w, c->pg, err);
	if (r == 0)
		r = api->pull_merge(forge, repository, number, "", who, merge_oid, err);
	if (forge)
		api->free(forge);
	return r;
}

int hub_api_pull_merge(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	char merge_oid[SB_OID_LEN + 1];
	struct hub_call c;
	uint64_t number = 0;

	int r = sb_parse_u64(sb_http_param(req, "number"), 1, INT32_MAX, "number of the pull request", &number, err);
	if (r < 0)
		return r;
	r = hub_call_begin(user, req, &c, err);
	if (r == 0)
		r = merge(&c, sb_http_param(req, "origin"), (int)number, sb_http_who(req)->name, merge_oid, err);
	if (r == 0)
		hub_wake(c.w, "git");
	hub_call_end(user, &c, r == 0);
	return r < 0 ? r : sb_http_json(reply, json_pack("{s:s, s:s, s:I}", "merge_oid", merge_oid, "origin", sb_http_param(req, "origin"), "number", (json_int_t)number), err);
}

/* The body is authenticated before it is parsed; what it says is only written down, what counts is asked at the forge. */
static int verify(const struct hub_world *w, struct sb_http_request *req, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *secret = NULL;
	size_t len = 0, n = 0;
	const void *body = sb_http_body(req, &n);

	if (w->set->forge.kind != HUB_FORGE_GITEA || !w->set->forge.webhook_secret_file || !*w->set->forge.webhook_secret_file)
		return sb_fail(err, SB_ENOTFOUND, "no webhook is configured");
	if (sb_file_read_secret(w->set->forge.webhook_secret_file, 1024, &secret, &len, err) < 0)
		return (int)err->code;
	while (len && (secret[len - 1] == '\n' || secret[len - 1] == '\r'))
		secret[--len] = '\0';
	if (!hub_webhook_ok((const uint8_t *)secret, len, body, n, sb_http_header(req, "X-Gitea-Signature")))
		return sb_fail(err, SB_ESIG, "the signature does not fit");
	return 0;
}

int hub_api_gitea_hook(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	const char *delivery = sb_http_header(req, "X-Gitea-Delivery"), *event = sb_http_header(req, "X-Gitea-Event");
	struct sb_metric *m = sb_metric("stagebridge_webhooks_total", SB_COUNTER, "result", "webhooks received");
	struct hub_call c = { .w = NULL };
	json_auto_t *body = NULL;
	bool own = false;

	int r = hub_call_begin(user, req, &c, err);
	if (r == 0)
		r = verify(c.w, req, err);
	if (r == 0)
		r = sb_http_body_json(req, &body, err);
	if (r == 0) {
		const char *name = json_string_value(json_object_get(json_object_get(body, "repository"), "full_name"));
		const char *context = json_string_value(json_object_get(body, "context"));
		const char *param[] = { delivery && strlen(delivery) <= 64 ? delivery : "", event && strlen(event) <= 64 ? event : "", name ? name : "" };

		own = event && strcmp(event, "status") == 0 && context && strncmp(context, "stagebridge/", 12) == 0; /* an echo of our own word */
		r = sb_pg_exec(c.pg, "INSERT INTO sb.webhook (delivery, event, repository) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", 3, param, NULL, err);
	}
	sb_metric_add(m, r == 0 ? "accepted" : "refused", 1);
	if (r == 0 && !own)
		hub_wake(c.w, "git");
	hub_call_end(user, &c, r == 0);
	return r < 0 ? r : sb_http_json(reply, json_pack("{s:b}", "taken", 1), err);
}
