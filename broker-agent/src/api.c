/* The local API: one HTTP server on the stage's Unix socket, with the routes of all api_*.c files. Handlers run on the server's threads; each opens its
 * own handle on the state, so that they share nothing but the settings and the board. Who asks is known from the socket: the kernel names the
 * peer's account, and the settings say which tenant user that is. */
#include "api.h"

#include <errno.h>
#include <pwd.h>
#include <string.h>
#include <unistd.h>

#include "stagebridge/file.h"
#include "stagebridge/log.h"

#define THREADS 2
#define PASSWD_MAX 16384

struct agent_api {
	struct sb_http_server *server;
	struct sb_http_route *routes;
};

static const struct sb_http_route *const parts[] = {
	agent_api_status_routes, agent_api_git_routes, agent_api_promote_routes, agent_api_data_routes, agent_api_entity_routes,
	agent_api_entity_write_routes, agent_api_resync_routes,
};

/* Returns new: all parts in one table. */
static struct sb_http_route *collect(void)
{
	size_t n = 1;
	struct sb_http_route *all;

	for (size_t i = 0; i < SB_COUNT(parts); i++) {
		for (const struct sb_http_route *p = parts[i]; p->method; p++)
			n++;
	}
	all = calloc(n, sizeof(*all));
	n = 0;
	for (size_t i = 0; all && i < SB_COUNT(parts); i++) {
		for (const struct sb_http_route *p = parts[i]; p->method; p++)
			all[n++] = *p;
	}
	return all;
}

/* Three octal digits written as a decimal number: 660 is 0660. */
static mode_t octal_mode(int64_t digits)
{
	return (mode_t)(digits / 100 * 64 + digits / 10 % 10 * 8 + digits % 10);
}

static int make_socket_dir(const char *path, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *dir = sb_strdup(path);
	char *slash = dir ? strrchr(dir, '/') : NULL;

	if (!dir)
		return sb_fail_nomem(err);
	if (!slash || slash == dir)
		return 0;
	*slash = '\0';
	return sb_dir_make(dir, 0755, err);
}

int agent_api_start(struct agent_api **ret, struct agent *a, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *spool = sb_asprintf("%s/spool", a->set.state_dir);
	struct agent_api *api = calloc(1, sizeof(*api));
	struct sb_http_options o = { .unix_path = a->set.api.socket, .unix_mode = octal_mode(a->set.api.mode), .threads = THREADS, .spool_dir = spool };

	if (!api || !spool) {
		free(api);
		return sb_fail_nomem(err);
	}
	api->routes = collect();
	int r = api->routes ? make_socket_dir(a->set.api.socket, err) : sb_fail_nomem(err);
	if (r == 0)
		r = sb_http_server_start(&api->server, &o, api->routes, a, err);
	if (r < 0) {
		agent_api_stop(api);
		return sb_fail_prefix(err, "api.socket");
	}
	*ret = api;
	return 0;
}

void agent_api_stop(struct agent_api *api)
{
	if (!api)
		return;
	if (api->server)
		sb_http_server_stop(api->server);
	free(api->routes);
	free(api);
}

static int account_name(uid_t uid, char *buf, size_t size, const char **ret, struct sb_error *err)
{
	struct passwd entry, *found = NULL;

	int e = getpwuid_r(uid, &entry, buf, size, &found);
	if (e != 0)
		return sb_fail_errno(err, e, "account %lld", (long long)uid);
	if (!found)
		return sb_fail(err, SB_EAUTH, "uid %lld has no account on this machine", (long long)uid);
	*ret = entry.pw_name;
	return 0;
}

int agent_api_user(struct agent *a, struct sb_http_request *req, char out[96], struct sb_error *err)
{
	const struct agent_user *u = a->set.users.item;
	sb_cleanup(sb_freep) char *buf = malloc(PASSWD_MAX);
	int64_t uid = sb_http_peer_uid(req);
	const char *name = NULL;

	if (!buf)
		return sb_fail_nomem(err);
	if (uid < 0)
		return sb_fail(err, SB_EAUTH, "the peer of the socket is not known");
	int r = account_name((uid_t)uid, buf, PASSWD_MAX, &name, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < a->set.users.count; i++) {
		if (strcmp(u[i].unix_name, name) == 0)
			return sb_format(out, 96, err, "%s", u[i].user);
	}
	return sb_format(out, 96, err, "%s", name);
}
