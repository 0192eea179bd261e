/* Talks to the stage's agent over its Unix socket, or to the hub over HTTP with a bearer token. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli.h"
#include "stagebridge/clock.h"
#include "stagebridge/text.h"

#define POLL_FIRST_MS 100
#define POLL_LAST_MS 1000

void cli_query(struct sb_buf *out, const char *name, const char *value)
{
	if (!value || !*value)
		return;
	sb_buf_addc(out, memchr(out->data, '?', out->len) ? '&' : '?');
	sb_buf_adds(out, name);
	sb_buf_addc(out, '=');
	for (const char *p = value; *p; p++) {
		if (isalnum((unsigned char)*p) || strchr("-_.~", *p))
			sb_buf_addc(out, *p);
		else
			sb_buf_addf(out, "%%%02X", (unsigned)(unsigned char)*p);
	}
}

static int call(struct cli *cli, struct sb_http_call *c, const char *base, const char *path, const json_t *body, json_t **ret, struct sb_error *err)
{
	char *url = sb_asprintf("%s%s", base, path);
	int status, r;

	if (!url)
		return sb_fail_nomem(err);
	c->url = url;
	r = sb_http_call_json(cli->http, c, body, &status, ret, err);
	free(url);
	return r;
}

static int need_socket(const struct cli *cli, struct sb_error *err)
{
	if (cli->socket && *cli->socket)
		return 0;
	return sb_fail(err, SB_EINVAL, "no agent is named: this command works from inside a stage; give --socket PATH or set SB_SOCKET "
				       "(the agent's setting api.socket)");
}

int cli_agent_call(struct cli *cli, const char *method, const char *path, const json_t *body, json_t **ret, struct sb_error *err)
{
	struct sb_http_call c = { .method = method, .unix_path = cli->socket };
	int r = need_socket(cli, err);

	if (r == 0)
		r = call(cli, &c, "http://localhost", path, body, ret, err);
	if (r == SB_EHTTP && err->retriable)
		return sb_fail_prefix(err, "agent at \"%s\"", cli->socket);
	return r;
}

int cli_agent_upload(struct cli *cli, const char *path, const char *file, json_t **ret, struct sb_error *err)
{
	static const char *const headers[] = { "Content-Type: application/x-git-pack", NULL };
	struct sb_http_call c = { .method = "POST", .unix_path = cli->socket, .body_file = file, .headers = headers, .timeout_ms = 600000 };
	int r = need_socket(cli, err);

	return r < 0 ? r : call(cli, &c, "http://localhost", path, NULL, ret, err);
}

int cli_hub_call(struct cli *cli, const char *method, const char *path, const json_t *body, json_t **ret, struct sb_error *err)
{
	char *authorization = NULL, *full = NULL;
	const char *headers[] = { NULL, NULL };
	struct sb_http_call c = { .method = method, .headers = headers };
	int r;

	if (!cli->hub || !*cli->hub)
		return sb_fail(err, SB_EINVAL, "no hub is named: give --hub URL or set SB_HUB");
	if (!cli->tenant || !*cli->tenant)
		return sb_fail(err, SB_EINVAL, "no tenant is named: give --tenant NAME or set SB_TENANT");
	if (!sb_name_ok(cli->tenant))
		return sb_fail(err, SB_EINVAL, "\"%s\" is not a tenant's name: lower-case letters, digits and '-'", cli->tenant);
	if (cli->token)
		authorization = sb_asprintf("Authorization: Bearer %s", cli->token);
	headers[0] = authorization;
	full = sb_asprintf("/api/v1/tenants/%s%s", cli->tenant, path);
	if (!full || (cli->token && !authorization))
		r = sb_fail_nomem(err);
	else
		r = call(cli, &c, cli->hub, full, body, ret, err);
	if (r == SB_EHTTP && err->retriable)
		(void)sb_fail_prefix(err, "hub at %s", cli->hub);
	free(authorization);
	free(full);
	return r;
}

static void pause_ms(int64_t ms)
{
	struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1000000 };

	(void)nanosleep(&ts, NULL); /* an early wake-up only asks earlier */
}

int cli_poll(struct cli *cli, cli_fetch_fn fetch, cli_settled_fn settled, const void *user, json_t **ret, struct sb_error *err)
{
	int64_t end = sb_mono_ms() + cli->wait_ms, wait = POLL_FIRST_MS;
	char last[64] = "";
	int r;

	for (;;) {
		json_t *answer = NULL;

		r = fetch(cli, user, &answer, err);
		if (r < 0)
			return r;
		if (settled(answer)) {
			*ret = answer;
			return 1;
		}
		if (!cli->quiet && strcmp(last, cli_str(answer, "state")) != 0) {
			(void)snprintf(last, sizeof(last), "%s", cli_str(answer, "state"));
			fprintf(stderr, "  %s %s\n", last, cli_str(answer, "waiting_for"));
		}
		if (!cli->wait || sb_mono_ms() >= end) {
			*ret = answer;
			return 0;
		}
		json_decref(answer);
		pause_ms(wait);
		wait = wait * 2 > POLL_LAST_MS ? POLL_LAST_MS : wait * 2;
	}
}
