/*
 * HTTP server: libmicrohttpd with a pool of threads, each with an epoll set of its own; one table of routes.
 *
 * A request lives on one thread: headers (route, limits, who asks) -> body (memory up to 1 MiB, then a spool file) ->
 * handler -> answer. A handler blocks only the connections of its thread. A refused request is answered after its
 * body was read, because closing a socket with unread data makes the kernel drop the answer; a body that is
 * hopelessly large, or that waits for "100 Continue", is refused at once.
 *
 * The server owns its listening socket (and the socket file it made), the library's daemon, and every request until
 * the library says that it is over. Percent-decoding by the library is switched off: it would turn "%2F" into a path
 * separator.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "http_private.h"
#include "http_listen.h"
#include "stagebridge/file.h"
#include "stagebridge/text.h"

enum {
	CONNECTIONS = 128,
	IDLE_S = 30,                 /* a connection without traffic */
	DRAIN_MAX = 8 * 1024 * 1024, /* refused bodies are read up to here, then the connection is closed */
	JSON_DEPTH = 32,
};

struct sb_http_server {
	struct MHD_Daemon *daemon;
	const struct sb_http_route *routes;
	void *user;
	sb_http_auth_fn auth;
	char *spool_dir;
	struct sb_listener listener;
};

struct query {
	char *name, *value;
};

struct sb_http_request {
	struct sb_http_server *server;
	struct MHD_Connection *conn;
	const char *method; /* the library's, as long as the connection */
	struct sb_http_match match;
	struct query query[SB_HTTP_QUERIES];
	unsigned n_query;
	struct sb_principal who;
	struct sb_buf body;
	int spool_fd;
	char *spool_path;
	size_t received;
	bool refused; /* err and status are the answer; what still comes in is dropped */
	int status;
	struct sb_error err;
};

static void spool_remove(struct sb_http_request *r)
{
	sb_closep(&r->spool_fd);
	if (r->spool_path)
		(void)unlink(r->spool_path); /* gone already is as good */
	free(SB_TAKE(r->spool_path));
}

static void request_free(struct sb_http_request *r)
{
	if (!r)
		return;
	spool_remove(r);
	sb_buf_release(&r->body);
	sb_http_match_release(&r->match);
	for (unsigned i = 0; i < r->n_query; i++) {
		free(r->query[i].name);
		free(r->query[i].value);
	}
	free(r);
}

static void refuse(struct sb_http_request *r, int status)
{
	r->refused = true;
	r->status = status;
	spool_remove(r);
	sb_buf_reset(&r->body);
}

static int credentials_check(struct sb_http_request *r)
{
	const struct sb_http_server *s = r->server;
	const struct sb_http_route *route = r->match.route;
	unsigned needs = route->flags & ~(unsigned)SB_ROUTE_AUTH;

	if (route->flags == 0 || !s->auth)
		return 0;
	int rc = s->auth(r, &r->who, s->user, &r->err);
	if (rc < 0) {
		bool anonymous = !sb_http_header(r, "Authorization") && !sb_http_header(r, "Cookie");

		refuse(r, rc == SB_EAUTH && anonymous ? 401 : 0);
		return rc;
	}
	if ((r->who.may & needs) != needs) {
		rc = sb_fail(&r->err, SB_EAUTH, "\"%s\" may not do this", r->who.name);
		refuse(r, 403);
	}
	return rc;
}

/* Declared length of the body: 0 none, UINT64_MAX unknown (chunked). */
static int declared_length(struct sb_http_request *r, uint64_t *ret)
{
	const char *length = sb_http_header(r, MHD_HTTP_HEADER_CONTENT_LENGTH);
	const char *coding = sb_http_header(r, MHD_HTTP_HEADER_TRANSFER_ENCODING);

	*ret = coding ? UINT64_MAX : 0;
	if (coding && length)
		return sb_fail(&r->err, SB_EINVAL, "a body has a length or is chunked, not both"); /* request smuggling */
	if (length)
		return sb_parse_u64(length, 0, UINT64_MAX - 1, "Content-Length", ret, &r->err);
	return 0;
}

static enum MHD_Result take_query(void *cls, enum MHD_ValueKind kind, const char *name, const char *value)
{
	struct sb_http_request *r = cls;
	struct query q = { 0 };

	(void)kind;
	if (r->n_query == SB_HTTP_QUERIES) {
		(void)sb_fail(&r->err, SB_EINVAL, "more than %d query arguments", SB_HTTP_QUERIES); /* seen by err.code */
		return MHD_NO;
	}
	if (!value)
		value = "";
	if (sb_http_decode(name, strlen(name), &q.name, &r->err) < 0 || sb_http_decode(value, strlen(value), &q.value, &r->err) < 0) {
		free(q.name);
		return MHD_NO;
	}
	r->query[r->n_query++] = q;
	return MHD_YES;
}

/* Everything that the headers decide. On refusal the request says so; nothing is sent yet. */
static void request_begin(struct sb_http_request *r, const char *url, uint64_t *ret_length)
{
	size_t body_max;

	if (declared_length(r, ret_length) < 0) {
		refuse(r, 400);
		return;
	}
	if (sb_http_match(r->server->routes, r->method, url, &r->match, &r->err) < 0) {
		refuse(r, r->match.allow[0] ? 405 : 0);
		return;
	}
	(void)MHD_get_connection_values(r->conn, MHD_GET_ARGUMENT_KIND, take_query, r); /* failure is in err */
	if (r->err.code != SB_OK) {
		refuse(r, 0);
		return;
	}
	if (credentials_check(r) < 0)
		return;
	body_max = r->match.route->body_max;
	if (*ret_length != UINT64_MAX && *ret_length > body_max) {
		(void)sb_fail(&r->err, SB_ETOOBIG, "the body has %llu bytes, at most %zu are taken here", (unsigned long long)*ret_length,
			body_max); /* sent as the answer */
		refuse(r, 413);
		return;
	}
	sb_buf_init(&r->body, body_max < SB_HTTP_MEMORY_MAX ? body_max : SB_HTTP_MEMORY_MAX);
}

static int spool_open(struct sb_http_request *r)
{
	char *path = sb_asprintf("%s/body-XXXXXX", r->server->spool_dir);
	int rc;

	if (!path)
		return sb_fail_nomem(&r->err);
	int fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0) {
		rc = sb_fail_errno(&r->err, errno, "could not make a spool file");
		free(path);
		return rc;
	}
	r->spool_fd = fd;
	r->spool_path = path;
	rc = sb_write_all(fd, r->body.data, r->body.len, &r->err);
	sb_buf_release(&r->body);
	sb_buf_init(&r->body, 0);
	return rc;
}

static void body_take(struct sb_http_request *r, const char *p, size_t n)
{
	size_t max = r->match.route->body_max;
	int rc = 0;

	if (n > max - r->received) {
		(void)sb_fail(&r->err, SB_ETOOBIG, "the body is larger than %zu bytes", max); /* sent as the answer */
		refuse(r, 413);
		return;
	}
	if (r->spool_fd < 0 && r->received + n > SB_HTTP_MEMORY_MAX)
		rc = spool_open(r);
	if (rc == 0 && r->spool_fd >= 0) {
		rc = sb_write_all(r->spool_fd, p, n, &r->err);
	} else if (rc == 0) {
		sb_buf_add(&r->body, p, n);
		rc = sb_buf_check(&r->body, "the body", &r->err);
	}
	if (rc < 0)
		refuse(r, 0);
}

static enum MHD_Result answer_refused(struct sb_http_request *r)
{
	return sb_http_send_problem(r->conn, r->status, &r->err, r->status == 405 ? r->match.allow : "");
}

static enum MHD_Result answer(struct sb_http_request *r)
{
	struct sb_http_reply reply = { 0 };
	sb_buf_init(&reply.body, SB_HTTP_ANSWER_MAX); /* ready to be appended to */
	enum MHD_Result result;

	sb_closep(&r->spool_fd);
	/* the idle clock runs while a handler blocks, and would close the connection before the answer is written */
	(void)MHD_set_connection_option(r->conn, MHD_CONNECTION_OPTION_TIMEOUT, 0U); /* best effort: a slow handler loses */
	int rc = r->match.route->handler(r, &reply, r->server->user, &r->err);
	(void)MHD_set_connection_option(r->conn, MHD_CONNECTION_OPTION_TIMEOUT, (unsigned)IDLE_S); /* as above */
	if (rc < 0 && r->err.code == SB_OK)
		r->err.code = (enum sb_code)rc;
	if (rc < 0)
		result = sb_http_send_problem(r->conn, reply.status, &r->err, "");
	else
		result = sb_http_send(r->conn, r->method, reply.status ? reply.status : 200, &reply);
	sb_buf_release(&reply.body);
	spool_remove(r);
	return result;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *conn, const char *url, const char *method, const char *version,
	const char *data, size_t *n, void **con_cls)
{
	struct sb_http_request *r = *con_cls;
	uint64_t length = 0;

	(void)version;
	if (!r) {
		r = calloc(1, sizeof(*r));
		if (!r)
			return MHD_NO;
		*con_cls = r;
		r->server = cls;
		r->conn = conn;
		r->method = method;
		r->spool_fd = -1;
		request_begin(r, url, &length);
		if (r->refused && ((length != UINT64_MAX && length > DRAIN_MAX) || sb_http_header(r, MHD_HTTP_HEADER_EXPECT)))
			return answer_refused(r);
		return MHD_YES;
	}
	if (*n > 0) {
		if (!r->refused)
			body_take(r, data, *n);
		r->received += *n;
		*n = 0;
		return r->refused && r->received > DRAIN_MAX + (uint64_t)SB_HTTP_MEMORY_MAX ? MHD_NO : MHD_YES;
	}
	return r->refused ? answer_refused(r) : answer(r);
}

static void on_completed(void *cls, struct MHD_Connection *conn, void **con_cls, enum MHD_RequestTerminationCode why)
{
	(void)cls;
	(void)conn;
	(void)why;
	request_free(SB_TAKE(*con_cls));
}

/* The library asks us to decode a path or an argument in place; we do that ourselves, later, piece by piece. */
static size_t keep_escapes(void *cls, struct MHD_Connection *conn, char *s)
{
	(void)cls;
	(void)conn;
	return strlen(s);
}

static struct MHD_Daemon *start_daemon(struct sb_http_server *s, unsigned threads)
{
	/* a pool of one is not a pool for the library: it takes two and more */
	struct MHD_OptionItem pool[] = {
		{ threads > 1 ? MHD_OPTION_THREAD_POOL_SIZE : MHD_OPTION_END, (intptr_t)threads, NULL },
		{ MHD_OPTION_END, 0, NULL },
	};

	return MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD, 0, NULL, NULL, on_request, s, MHD_OPTION_LISTEN_SOCKET, s->listener.fd,
		MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S,
		MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_UNESCAPE_CALLBACK,
		keep_escapes, NULL, MHD_OPTION_ARRAY, pool, MHD_OPTION_END);
}

int sb_http_server_start(
	struct sb_http_server **ret, const struct sb_http_options *o, const struct sb_http_route *routes, void *user, struct sb_error *err)
{
	int r = sb_http_routes_check(routes, o->spool_dir != NULL, err);

	if (r < 0)
		return r;
	struct sb_http_server *s = calloc(1, sizeof(*s));
	if (!s)
		return sb_fail_nomem(err);
	sb_listener_init(&s->listener);
	s->routes = routes;
	s->user = user;
	s->auth = o->auth;
	s->spool_dir = sb_strdup(o->spool_dir);
	if (o->spool_dir && !s->spool_dir)
		r = sb_fail_nomem(err);
	if (r == 0 && o->unix_path)
		r = sb_listen_unix(&s->listener, o->unix_path, o->unix_mode, err);
	else if (r == 0)
		r = sb_listen_tcp(&s->listener, o->host, o->port, err);
	if (r < 0)
		goto out;

	s->daemon = start_daemon(s, o->threads > 0 ? (unsigned)o->threads : 2);
	if (!s->daemon) {
		r = sb_fail(err, SB_EIO, "could not start the HTTP server's threads");
		goto out;
	}
	*ret = SB_TAKE(s);
out:
	sb_http_server_stop(s);
	return r;
}

void sb_http_server_stop(struct sb_http_server *s)
{
	if (!s)
		return;
	if (s->daemon) {
		MHD_stop_daemon(s->daemon); /* waits for handlers; closes the listening socket */
		s->listener.fd = -1;
	}
	sb_listener_close(&s->listener);
	free(s->spool_dir);
	free(s);
}

int sb_http_server_port(const struct sb_http_server *s)
{
	return s->listener.port;
}

const char *sb_http_path(struct sb_http_request *r)
{
	return r->match.route->path;
}

const char *sb_http_param(struct sb_http_request *r, const char *name)
{
	for (unsigned i = 0; i < r->match.n; i++) {
		if (r->match.param[i].name_len == strlen(name) && memcmp(r->match.param[i].name, name, strlen(name)) == 0)
			return r->match.param[i].value;
	}
	return "";
}

const char *sb_http_query(struct sb_http_request *r, const char *name)
{
	for (unsigned i = 0; i < r->n_query; i++) {
		if (strcmp(r->query[i].name, name) == 0)
			return r->query[i].value;
	}
	return NULL;
}

const char *sb_http_header(struct sb_http_request *r, const char *name)
{
	return MHD_lookup_connection_value(r->conn, MHD_HEADER_KIND, name);
}

const void *sb_http_body(struct sb_http_request *r, size_t *ret_len)
{
	if (ret_len)
		*ret_len = r->body.len;
	return r->body.data ? r->body.data : "";
}

int sb_http_body_json(struct sb_http_request *r, json_t **ret, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *large = NULL;
	const char *text = r->body.data ? r->body.data : "";
	size_t n = r->body.len;
	json_error_t je;

	if (r->spool_path) {
		int rc = sb_file_read(r->spool_path, r->match.route->body_max, &large, &n, err);
		if (rc < 0)
			return rc;
		text = large;
	}
	if (!sb_http_json_shallow(text, n, JSON_DEPTH))
		return sb_fail(err, SB_EINVAL, "the body's JSON is nested deeper than %d", JSON_DEPTH);
	json_auto_t *j = json_loadb(text, n, JSON_REJECT_DUPLICATES, &je);
	if (!j)
		return sb_fail(err, SB_EINVAL, "the body is not JSON: %s (line %d)", je.text, je.line);
	if (!json_is_object(j))
		return sb_fail(err, SB_EINVAL, "the body is not a JSON object");
	*ret = SB_TAKE(j);
	return 0;
}

const char *sb_http_body_file(struct sb_http_request *r)
{
	return r->spool_path;
}

const struct sb_principal *sb_http_who(struct sb_http_request *r)
{
	return &r->who;
}

int64_t sb_http_peer_uid(struct sb_http_request *r)
{
	const union MHD_ConnectionInfo *info;
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (!r->server->listener.path)
		return -1;
	info = MHD_get_connection_info(r->conn, MHD_CONNECTION_INFO_CONNECTION_FD);
	if (!info || getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0)
		return -1;
	return (int64_t)peer.uid;
}

static int dump_to_buf(const char *p, size_t n, void *user)
{
	struct sb_buf *b = user;

	sb_buf_add(b, p, n);
	return b->failed ? -1 : 0;
}

int sb_http_json(struct sb_http_reply *reply, json_t *value, struct sb_error *err)
{
	json_auto_t *j = value;

	if (!j)
		return sb_fail_nomem(err); /* building it failed */
	sb_buf_release(&reply->body);
	sb_buf_init(&reply->body, SB_HTTP_ANSWER_MAX);
	int dumped = json_dump_callback(j, dump_to_buf, &reply->body, JSON_COMPACT | JSON_ENCODE_ANY);
	int r = sb_buf_check(&reply->body, "the answer", err);
	if (r == 0 && dumped != 0)
		r = sb_fail(err, SB_EINVAL, "the answer is not valid JSON");
	reply->content_type = NULL;
	return r;
}
