/*
 * HTTP server and client against each other, on a TCP port that the kernel chose and on a Unix socket; what the
 * client would never send (smuggling, chunked overflow) goes over a plain socket.
 */
#include <arpa/inet.h>
#include <check.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "stagebridge/file.h"
#include "stagebridge/http_client.h"
#include "stagebridge/http_server.h"
#include "stagebridge/text.h"

enum { ECHO_MAX = 64 * 1024, BLOB_MAX = 8 * 1024 * 1024 };

static char dir[64];
static struct sb_http_server *server;
static struct sb_http_client *client;

static int on_thing(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	const char *q = sb_http_query(req, "q");
	const char *plus = sb_http_query(req, "p");
	int r = sb_format(reply->etag, sizeof(reply->etag), err, "v1-%.8s", sb_http_param(req, "id"));

	if (r < 0)
		return r;
	return sb_http_json(reply,
		json_pack("{s:s, s:s?, s:s?, s:I, s:s, s:s}", "id", sb_http_param(req, "id"), "q", q, "p", plus, "uid",
			(json_int_t)sb_http_peer_uid(req), "user", (const char *)user, "none", sb_http_param(req, "nothing")),
		err);
}

static int on_echo(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	json_t *body = NULL;
	int r = sb_http_body_json(req, &body, err);

	(void)user;
	if (r < 0)
		return r;
	reply->status = 201;
	r = sb_format(reply->location, sizeof(reply->location), err, "/api/v1/things/7");
	if (r < 0) {
		json_decref(body);
		return r;
	}
	return sb_http_json(reply, body, err);
}

static int on_blob(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	const char *path = sb_http_body_file(req);
	struct stat st = { 0 };
	char hex[65] = "";
	uint64_t size = 0;
	size_t len = 0;

	(void)user;
	if (path) {
		int r = sb_file_sha256(path, hex, &size, err);
		if (r < 0)
			return r;
		(void)stat(path, &st); /* a zero mode fails the test */
	}
	(void)sb_http_body(req, &len);
	return sb_http_json(reply,
		json_pack("{s:s, s:I, s:I, s:s, s:i}", "file", path ? path : "", "size", (json_int_t)size, "len", (json_int_t)len, "sha256",
			hex, "mode", (int)(st.st_mode & 0777)),
		err);
}

static int on_fail(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	int64_t code = 0;
	int r = sb_parse_i64(sb_http_param(req, "code"), -20, -1, "code", &code, err);

	(void)user;
	(void)reply;
	if (r < 0)
		return r;
	return sb_fail(err, (enum sb_code)code, "because");
}

static int on_secure(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	(void)user;
	return sb_http_json(reply, json_pack("{s:s, s:s}", "who", sb_http_who(req)->name, "tenant", sb_http_who(req)->tenant), err);
}

static int on_page(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	(void)req;
	(void)user;
	(void)err;
	reply->content_type = "text/html; charset=utf-8";
	reply->file = "<h1>hello</h1>";
	reply->file_len = strlen(reply->file);
	return 0;
}

static int on_auth(struct sb_http_request *req, struct sb_principal *ret, void *user, struct sb_error *err)
{
	const char *a = sb_http_header(req, "Authorization");

	(void)user;
	if (!a || (strcmp(a, "Bearer writer") != 0 && strcmp(a, "Bearer reader") != 0))
		return sb_fail(err, SB_EAUTH, "who are you");
	ret->may = strcmp(a, "Bearer writer") == 0 ? SB_ROUTE_WRITE : 0;
	int r = sb_format(ret->name, sizeof(ret->name), err, "%s", a + 7);
	return r < 0 ? r : sb_format(ret->tenant, sizeof(ret->tenant), err, "acme");
}

static const struct sb_http_route routes[] = {
	{ "GET", "/api/v1/things/special", 0, 0, on_page, "a literal before the template" },
	{ "GET", "/api/v1/things/{id}", 0, 0, on_thing, "one thing" },
	{ "DELETE", "/api/v1/things/{id}", 0, 0, on_page, "away with it" },
	{ "POST", "/api/v1/echo", 0, ECHO_MAX, on_echo, "the same back" },
	{ "PUT", "/api/v1/blob", 0, BLOB_MAX, on_blob, "a large body" },
	{ "POST", "/api/v1/json", 0, BLOB_MAX, on_echo, "a large JSON body" },
	{ "GET", "/api/v1/fail/{code}", 0, 0, on_fail, "an error" },
	{ "GET", "/api/v1/secure", SB_ROUTE_AUTH, 0, on_secure, "for those we know" },
	{ "POST", "/api/v1/secure", SB_ROUTE_AUTH | SB_ROUTE_WRITE, ECHO_MAX, on_secure, "for writers" },
	{ "GET", "/", 0, 0, on_page, "the page" },
	{ NULL, NULL, 0, 0, NULL, NULL },
};
static char user_word[] = "the user";

static void must(int r, const struct sb_error *err)
{
	ck_assert_msg(r == 0, "%s: %s", sb_code_name(err->code), err->msg);
}

static void start(const char *unix_path)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_http_options o = { .host = "127.0.0.1", .spool_dir = dir, .auth = on_auth, .unix_path = unix_path, .unix_mode = 0660 };

	memcpy(dir, "/tmp/sb-http-XXXXXX", 20);
	ck_assert_ptr_nonnull(mkdtemp(dir));
	must(sb_http_server_start(&server, &o, routes, user_word, &err), &err);
	must(sb_http_client_new(&client, NULL, &err), &err);
}

static void setup_tcp(void)
{
	start(NULL);
}

static void teardown(void)
{
	sb_http_client_free(client);
	sb_http_server_stop(server);
	ck_assert_int_eq(sb_dir_remove(dir, NULL), 0);
}

static const char *url(const char *path)
{
	static char text[512];

	ck_assert_int_eq(sb_format(text, sizeof(text), NULL, "http://127.0.0.1:%d%s", sb_http_server_port(server), path), 0);
	return text;
}

static int call(const char *method, const char *path, const void *body, size_t n, const char *header, struct sb_buf *answer)
{
	const char *headers[] = { header, NULL };
	struct sb_http_call c = { .method = method, .url = url(path), .body = body, .body_len = n, .headers = headers };
	struct sb_error err = SB_ERROR_INIT;
	int status = 0;

	must(sb_http_call(client, &c, &status, answer, &err), &err);
	return status;
}

static json_t *parsed(const struct sb_buf *b)
{
	json_t *j = json_loadb(b->data, b->len, 0, NULL);

	ck_assert_msg(j != NULL, "no JSON: %s", b->data);
	return j;
}

static const char *text_at(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));

	return s ? s : "(none)";
}

/* Sends bytes as they are and reads until the server closes. */
static char *raw(const char *request, size_t n)
{
	struct sockaddr_in a = {
		.sin_family = AF_INET, .sin_port = htons((uint16_t)sb_http_server_port(server)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)
	};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	static char answer[65536];
	size_t len = 0;
	ssize_t got;

	ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	for (size_t sent = 0; sent < n;) {
		got = send(fd, request + sent, n - sent, MSG_NOSIGNAL);
		if (got <= 0)
			break; /* the server may close early: what it said is read below */
		sent += (size_t)got;
	}
	while (len + 1 < sizeof(answer) && (got = read(fd, answer + len, sizeof(answer) - 1 - len)) > 0)
		len += (size_t)got;
	answer[len] = '\0';
	close(fd);
	return answer;
}

START_TEST(test_routing)
{
	static const struct {
		const char *method, *path;
		int status;
		const char *key, *want;
	} cases[] = {
		{ "GET", "/api/v1/things/a%2Fb", 200, "id", "a/b" },
		{ "GET", "/api/v1/things/x?q=1%262&q=second&p=a+b%2B", 200, "q", "1&2" },
		{ "GET", "/api/v1/things/x?p=a+b%2B", 200, "p", "a b+" },
		{ "GET", "/api/v1/things/caf%C3%A9", 200, "id", "caf\xc3\xa9" },
		{ "GET", "/api/v1/things/x?q", 200, "q", "" },
		{ "GET", "/api/v1/things/x", 200, "user", "the user" },
		{ "GET", "/api/v1/things/x", 200, "none", "" },
		{ "GET", "/api/v1/things/", 404, "code", "ENOTFOUND" },
		{ "GET", "/api/v1/things/x/", 404, "code", "ENOTFOUND" },
		{ "GET", "/api/v1/things/%2e%2e", 404, "code", "ENOTFOUND" },
		{ "GET", "/api/v1/thing", 404, "type", "urn:stagebridge:problem:enotfound" },
		{ "GET", "/api/v1/things/%zz", 400, "code", "EINVAL" },
		{ "GET", "/api/v1/things/%00", 400, "code", "EINVAL" },
		{ "GET", "/api/v1/things/%ff", 400, "code", "EINVAL" },
		{ "GET", "/api/v1/things/x?q=%0", 400, "code", "EINVAL" },
		{ "POST", "/api/v1/things/x", 405, "title", "method not allowed here" },
		{ "GET", "/api/v1/echo", 405, "code", "ENOTFOUND" },
		{ "GET", "/api/v1/fail/-4", 409, "detail", "because" },
		{ "GET", "/api/v1/fail/-10", 503, "code", "EAGAIN" },
		{ "GET", "/api/v1/fail/x", 400, "code", "EINVAL" },
	};
	sb_cleanup(sb_buf_release) struct sb_buf answer = { 0 };
	int status = call(cases[_i].method, cases[_i].path, NULL, 0, NULL, &answer);
	json_auto_t *j = parsed(&answer);

	ck_assert_int_eq(status, cases[_i].status);
	ck_assert_str_eq(text_at(j, cases[_i].key), cases[_i].want);
	if (status >= 400)
		ck_assert_int_eq(json_integer_value(json_object_get(j, "status")), status);
}
END_TEST
enum { ROUTING_CASES = 20 };

START_TEST(test_headers)
{
	static const char *const want[] = {
		"HTTP/1.1 405",
		"Allow: GET, HEAD, DELETE",
		"Content-Type: application/problem+json",
		"Content-Security-Policy: default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
		"frame-ancestors 'none'",
		"X-Content-Type-Options: nosniff",
		"Referrer-Policy: no-referrer",
		"Cache-Control: no-store",
	};
	static const char request[] = "PUT /api/v1/things/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
	const char *answer = raw(request, strlen(request));

	for (size_t i = 0; i < SB_COUNT(want); i++)
		ck_assert_msg(strstr(answer, want[i]) != NULL, "no \"%s\" in %s", want[i], answer);

	static const char head[] = "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
	answer = raw(head, strlen(head));
	ck_assert_ptr_nonnull(strstr(answer, "HTTP/1.1 200"));
	ck_assert_ptr_nonnull(strstr(answer, "Content-Length: 14"));
	ck_assert_ptr_null(strstr(answer, "hello"));
}
END_TEST

START_TEST(test_literal_and_file)
{
	sb_cleanup(sb_buf_release) struct sb_buf answer = { 0 };

	ck_assert_int_eq(call("GET", "/api/v1/things/special", NULL, 0, NULL, &answer), 200);
	ck_assert_str_eq(answer.data, "<h1>hello</h1>");
	ck_assert_int_eq(call("GET", "/", NULL, 0, NULL, &answer), 200);
	ck_assert_str_eq(answer.data, "<h1>hello</h1>");
}
END_TEST

START_TEST(test_etag)
{
	static const struct {
		const char *header;
		int status;
	} cases[] = {
		{ "If-None-Match: \"v1-x\"", 304 },
		{ "If-None-Match: W/\"v1-x\"", 304 },
		{ "If-None-Match: \"a\", \"v1-x\"", 304 },
		{ "If-None-Match: *", 304 },
		{ "If-None-Match: \"v1-y\"", 200 },
		{ "If-None-Match: v1-x", 200 },
		{ "If-None-Match: \"v1-x", 200 },
		{ "X-Other: 1", 200 },
	};
	sb_cleanup(sb_buf_release) struct sb_buf answer = { 0 };

	for (size_t i = 0; i < SB_COUNT(cases); i++) {
		ck_assert_int_eq(call("GET", "/api/v1/things/x", NULL, 0, cases[i].header, &answer), cases[i].status);
		ck_assert((answer.len == 0) == (cases[i].status == 304));
	}
}
END_TEST

START_TEST(test_json)
{
	static const struct {
		const char *body;
		int status;
	} cases[] = {
		{ "{\"a\":[1,2,{\"b\":\"[[[[\"}]}", 201 },
		{ "[1]", 400 },
		{ "{\"a\":1,\"a\":2}", 400 },
		{ "{\"a\":1} x", 400 },
		{ "", 400 },
		{ "{\"a\":\"\xff\"}", 400 },
	};
	sb_cleanup(sb_buf_release) struct sb_buf answer = { 0 };
	char deep[256] = "{\"a\":";

	for (size_t i = 0; i < SB_COUNT(cases); i++)
		ck_assert_int_eq(call("POST", "/api/v1/echo", cases[i].body, strlen(cases[i].body), NULL, &answer), cases[i].status);
	memset(deep + 5, '[', 40);
	memset(deep + 45, ']', 40);
	deep[85] = '}';
	ck_assert_int_eq(call("POST", "/api/v1/echo", deep, 86, NULL, &answer), 400);
	ck_assert_ptr_nonnull(strstr(answer.data, "deeper"));
}
END_TEST

START_TEST(test_call_json)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_http_call c = { .method = "POST", .url = url("/api/v1/echo") };
	json_auto_t *body = json_pack("{s:s}", "k", "v");
	json_t *ret = NULL;
	int status = 0;

	must(sb_http_call_json(client, &c, body, &status, &ret, &err), &err);
	ck_assert_int_eq(status, 201);
	ck_assert_str_eq(text_at(ret, "k"), "v");
	json_decref(ret);

	static const struct {
		int code, want, status;
	} cases[] = {
		{ SB_ENOTFOUND, SB_ENOTFOUND, 404 },
		{ SB_ECONFLICT, SB_ECONFLICT, 409 },
		{ SB_EAUTH, SB_EAUTH, 403 },
		{ SB_EDATA, SB_EINVAL, 422 },
		{ SB_EAGAIN, SB_EHTTP, 503 },
		{ SB_EGIT, SB_EHTTP, 500 },
	};
	for (size_t i = 0; i < SB_COUNT(cases); i++) {
		char path[64];

		ck_assert_int_eq(sb_format(path, sizeof(path), NULL, "/api/v1/fail/%d", cases[i].code), 0);
		c.method = "GET";
		c.url = url(path);
		err = (struct sb_error)SB_ERROR_INIT;
		ck_assert_int_eq(sb_http_call_json(client, &c, NULL, &status, &ret, &err), cases[i].want);
		ck_assert_int_eq(status, cases[i].status);
		ck_assert_str_eq(err.msg, "because");
		ck_assert_ptr_null(ret);
	}
}
END_TEST

START_TEST(test_too_large)
{
	sb_cleanup(sb_buf_release) struct sb_buf answer = { 0 };
	sb_cleanup(sb_freep) char *big = calloc(1, BLOB_MAX + 1);

	/* declared, drained; no body allowed at all; declared and hopeless (with Expect) */
	ck_assert_int_eq(call("POST", "/api/v1/echo", big, ECHO_MAX + 1, NULL, &answer), 413);
	ck_assert_int_eq(call("DELETE", "/api/v1/things/x", "x", 1, NULL, &answer), 413);
	ck_assert_int_eq(call("PUT", "/api/v1/blob", big, BLOB_MAX + 1, NULL, &answer), 413);
	ck_assert_int_eq(call("POST", "/api/v1/nothing", big, ECHO_MAX, NULL, &answer), 404);
	/* exactly the limit is fine */
	ck_assert_int_eq(call("PUT", "/api/v1/blob", big, BLOB_MAX, NULL, &answer), 200);
}
END_TEST

START_TEST(test_chunked)
{
	static char request[200 * 1024];
	int n = snprintf(request, sizeof(request),
		"POST /api/v1/echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
		"Transfer-Encoding: chunked\r\n\r\n%x\r\n",
		100U * 1024);

	memset(request + n, ' ', 100 * 1024);
	memcpy(request + n + 100 * 1024, "\r\n0\r\n\r\n", 7);
	ck_assert_ptr_nonnull(strstr(raw(request, (size_t)n + 100 * 1024 + 7), "HTTP/1.1 413"));

	static const char fits[] = "POST /api/v1/echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
				   "5\r\n{\"a\":\r\n2\r\n1}\r\n0\r\n\r\n";
	ck_assert_ptr_nonnull(strstr(raw(fits, strlen(fits)), "HTTP/1.1 201"));

	static const char both[] = "POST /api/v1/echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4\r\n"
				   "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
	ck_assert_ptr_null(strstr(raw(both, strlen(both)), "HTTP/1.1 2"));
}
END_TEST

START_TEST(test_spool)
{
	sb_cleanup(sb_buf_release) struct sb_buf answer = { 0 };
	size_t n = 3 * 1024 * 1024 + 17;
	sb_cleanup(sb_freep) char *big = malloc(n);
	char path[128], want[65];
	uint64_t size = 0;
	struct stat st;

	for (size_t i = 0; i < n; i++)
		big[i] = (char)(i * 31 + i / 4096);
	ck_assert_int_eq(sb_format(path, sizeof(path), NULL, "%s/out", dir), 0);
	ck_assert_int_eq(sb_file_write(path, big, n, 0600, NULL), 0);
	ck_assert_int_eq(sb_file_sha256(path, want, &size, NULL), 0);

	struct sb_error err = SB_ERROR_INIT;
	struct sb_http_call c = { .method = "PUT", .url = url("/api/v1/blob"), .body_file = path };
	int status = 0;
	must(sb_http_call(client, &c, &status, &answer, &err), &err);
	ck_assert_int_eq(status, 200);
	json_auto_t *j = parsed(&answer);
	ck_assert_str_eq(text_at(j, "sha256"), want);
	ck_assert_int_eq(json_integer_value(json_object_get(j, "size")), (json_int_t)n);
	ck_assert_int_eq(json_integer_value(json_object_get(j, "len")), 0);
	ck_assert_int_eq(json_integer_value(json_object_get(j, "mode")), 0600);
	ck_assert_int_eq(strncmp(text_at(j, "file"), dir, strlen(dir)), 0);
	ck_assert_int_ne(stat(text_at(j, "file"), &st), 0); /* removed after the handler */

	/* up to 1 MiB stays in memory */
	ck_assert_int_eq(call("PUT", "/api/v1/blob", big, 1024 * 1024, NULL, &answer), 200);
	json_auto_t *small = parsed(&answer);
	ck_assert_str_eq(text_at(small, "file"), "");
	ck_assert_int_eq(json_integer_value(json_object_get(small, "len")), 1024 * 1024);
}
END_TEST

START_TEST(test_spooled_json)
{
	sb_cleanup(sb_buf_release) struct sb_buf answer = { 0 };
	size_t n = 2 * 1024 * 1024;
	sb_cleanup(sb_freep) char *big = malloc(n);

	memset(big, 'x', n);
	memcpy(big, "{\"a\":\"", 6);
	memcpy(big + n - 2, "\"}", 2);
	ck_assert_int_eq(call("POST", "/api/v1/json", big, n, NULL, &answer), 201);
	ck_assert_uint_eq(answer.len, n);
}
END_TEST

START_TEST(test_auth)
{
	static const struct {
		const char *method, *header;
		int status;
	} cases[] = {
		{ "GET", NULL, 401 },
		{ "GET", "Authorization: Bearer wrong", 403 },
		{ "GET", "Authorization: Bearer reader", 200 },
		{ "POST", "Authorization: Bearer reader", 403 },
		{ "POST", "Authorization: Bearer writer", 200 },
		{ "POST", NULL, 401 },
	};
	sb_cleanup(sb_buf_release) struct sb_buf answer = { 0 };

	for (size_t i = 0; i < SB_COUNT(cases); i++) {
		ck_assert_int_eq(call(cases[i].method, "/api/v1/secure", NULL, 0, cases[i].header, &answer), cases[i].status);
		json_auto_t *j = parsed(&answer);
		if (cases[i].status == 200) {
			ck_assert_str_eq(text_at(j, "tenant"), "acme");
			ck_assert_str_eq(text_at(j, "who"), cases[i].header + strlen("Authorization: Bearer "));
		} else {
			ck_assert_str_eq(text_at(j, "code"), "EAUTH");
		}
	}
	static const char request[] = "GET /api/v1/secure HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
	ck_assert_ptr_nonnull(strstr(raw(request, strlen(request)), "WWW-Authenticate: Bearer"));
}
END_TEST

START_TEST(test_client_limits)
{
	struct sb_error err = SB_ERROR_INIT;
	sb_cleanup(sb_buf_release) struct sb_buf answer = { 0 };
	struct sb_http_call c = { .method = "GET", .url = url("/"), .answer_max = 13 };
	int status = 0;

	ck_assert_int_eq(sb_http_call(client, &c, &status, &answer, &err), SB_ETOOBIG);
	c.answer_max = 14;
	err = (struct sb_error)SB_ERROR_INIT;
	must(sb_http_call(client, &c, &status, &answer, &err), &err);

	c.url = "ftp://127.0.0.1/x";
	ck_assert_int_eq(sb_http_call(client, &c, &status, &answer, &err), SB_EINVAL);
	c.url = "file:///etc/hostname";
	ck_assert_int_eq(sb_http_call(client, &c, &status, &answer, &err), SB_EINVAL);

	/* a listener that never accepts: connected by the kernel, silent forever */
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char silent[64];

	ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	ck_assert_int_eq(listen(fd, 4), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	ck_assert_int_eq(sb_format(silent, sizeof(silent), NULL, "http://127.0.0.1:%d/", ntohs(a.sin_port)), 0);
	c.url = silent;
	c.timeout_ms = 200;
	ck_assert_int_eq(sb_http_call(client, &c, &status, &answer, &err), SB_ETIMEOUT);
	close(fd);
	err = (struct sb_error)SB_ERROR_INIT;
	ck_assert_int_eq(sb_http_call(client, &c, &status, &answer, &err), SB_EHTTP); /* nobody listens any more */
	ck_assert(err.retriable);
}
END_TEST

START_TEST(test_unix)
{
	struct sb_error err = SB_ERROR_INIT;
	char path[128], stale[128];
	struct stat st;

	memcpy(dir, "/tmp/sb-http-XXXXXX", 20);
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(sb_format(path, sizeof(path), NULL, "%s/api.sock", dir), 0);
	ck_assert_int_eq(sb_format(stale, sizeof(stale), NULL, "%s/file", dir), 0);

	struct sb_http_options o = { .unix_path = path, .unix_mode = 0660, .threads = 1, .spool_dir = dir };
	/* left behind by a killed process: bound, nobody listens */
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	memcpy(a.sun_path, path, strlen(path) + 1);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	close(fd);

	must(sb_http_server_start(&server, &o, routes, user_word, &err), &err);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_int_eq(st.st_mode & 0777, 0660);

	struct sb_http_server *second = NULL;
	ck_assert_int_eq(sb_http_server_start(&second, &o, routes, user_word, &err), SB_ECONFLICT);
	ck_assert_ptr_null(second);
	ck_assert_int_eq(stat(path, &st), 0); /* the refused one took nothing away */

	must(sb_http_client_new(&client, NULL, &err), &err);
	struct sb_http_call c = { .method = "GET", .url = "http://localhost/api/v1/things/u", .unix_path = path };
	json_t *j = NULL;
	int status = 0;
	must(sb_http_call_json(client, &c, NULL, &status, &j, &err), &err);
	ck_assert_int_eq(json_integer_value(json_object_get(j, "uid")), (json_int_t)getuid());
	json_decref(j);
	/* without an auth function everything is open: the socket's mode and the peer's uid are the auth */
	c.url = "http://localhost/api/v1/secure";
	must(sb_http_call_json(client, &c, NULL, &status, &j, &err), &err);
	ck_assert_str_eq(text_at(j, "who"), "");
	json_decref(j);
	sb_http_server_stop(server);
	ck_assert_int_ne(stat(path, &st), 0);

	o.unix_path = stale;
	ck_assert_int_eq(sb_file_write(stale, "x", 1, 0600, NULL), 0);
	ck_assert_int_eq(sb_http_server_start(&second, &o, routes, user_word, &err), SB_ECONFLICT);
	ck_assert_int_eq(stat(stale, &st), 0); /* a file that is no socket is never removed */
	sb_http_client_free(client);
	ck_assert_int_eq(sb_dir_remove(dir, NULL), 0);
}
END_TEST

START_TEST(test_bad_tables)
{
	static const struct sb_http_route bad[][2] = {
		{ { "FETCH", "/", 0, 0, on_page, "" }, { NULL, NULL, 0, 0, NULL, NULL } },
		{ { "GET", "x", 0, 0, on_page, "" }, { NULL, NULL, 0, 0, NULL, NULL } },
		{ { "GET", "/", 0, 0, NULL, "" }, { NULL, NULL, 0, 0, NULL, NULL } },
		{ { "PUT", "/", 0, BLOB_MAX, on_page, "" }, { NULL, NULL, 0, 0, NULL, NULL } }, /* needs a spool folder */
	};
	struct sb_http_options o = { .host = "127.0.0.1" };
	struct sb_http_server *s = NULL;

	for (size_t i = 0; i < SB_COUNT(bad); i++)
		ck_assert_int_eq(sb_http_server_start(&s, &o, bad[i], NULL, NULL), SB_ECONFIG);
	ck_assert_ptr_null(s);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("http");
	TCase *tcp = tcase_create("tcp"), *other = tcase_create("other");

	tcase_set_timeout(tcp, 30);
	tcase_set_timeout(other, 30);
	tcase_add_checked_fixture(tcp, setup_tcp, teardown);
	tcase_add_loop_test(tcp, test_routing, 0, ROUTING_CASES);
	tcase_add_test(tcp, test_headers);
	tcase_add_test(tcp, test_literal_and_file);
	tcase_add_test(tcp, test_etag);
	tcase_add_test(tcp, test_json);
	tcase_add_test(tcp, test_call_json);
	tcase_add_test(tcp, test_too_large);
	tcase_add_test(tcp, test_chunked);
	tcase_add_test(tcp, test_spool);
	tcase_add_test(tcp, test_spooled_json);
	tcase_add_test(tcp, test_auth);
	tcase_add_test(tcp, test_client_limits);
	tcase_add_test(other, test_unix);
	tcase_add_test(other, test_bad_tables);
	suite_add_tcase(suite, tcp);
	suite_add_tcase(suite, other);

	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
