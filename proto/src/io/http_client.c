/*
 * HTTP client over libcurl's easy interface: one handle, reused, so connections stay open between calls.
 *
 * A client belongs to one lane and blocks it for at most the call's deadline. Redirects are not followed (a forge
 * that redirects would receive our token at another address), only http and https are spoken, certificates are
 * verified, and proxies from the environment are ignored, so that a variable cannot re-route a secret. Owns its curl
 * handle.
 */
#include "stagebridge/http_client.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stagebridge/text.h"

enum { DEFAULT_TIMEOUT_MS = 15000, CONNECT_TIMEOUT_MS = 10000, DEFAULT_ANSWER_MAX = 4 * 1024 * 1024 };

struct sb_http_client {
	CURL *curl;
	char *ca_file;
	char why[CURL_ERROR_SIZE];
};

/* One call's moving parts, for the callbacks. */
struct transfer {
	struct sb_buf *answer;
	size_t answer_max;
	bool too_big;
	int fd; /* -1: no body file */
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static CURLcode global_init_result;

static void global_init(void)
{
	global_init_result = curl_global_init(CURL_GLOBAL_DEFAULT);
}

int sb_http_client_new(struct sb_http_client **ret, const char *ca_file, struct sb_error *err)
{
	if (pthread_once(&once, global_init) != 0 || global_init_result != CURLE_OK)
		return sb_fail(err, SB_EHTTP, "could not start the HTTP library");
	struct sb_http_client *c = calloc(1, sizeof(*c));
	if (!c)
		return sb_fail_nomem(err);
	c->curl = curl_easy_init();
	c->ca_file = sb_strdup(ca_file);
	if (!c->curl || (ca_file && !c->ca_file)) {
		sb_http_client_free(c);
		return sb_fail_nomem(err);
	}
	*ret = c;
	return 0;
}

void sb_http_client_free(struct sb_http_client *c)
{
	if (!c)
		return;
	if (c->curl)
		curl_easy_cleanup(c->curl);
	free(c->ca_file);
	free(c);
}

static size_t on_answer(char *p, size_t size, size_t n, void *user)
{
	struct transfer *t = user;

	(void)size; /* always 1 */
	if (n > t->answer_max - t->answer->len) {
		t->too_big = true;
		return 0;
	}
	sb_buf_add(t->answer, p, n);
	return t->answer->failed ? 0 : n;
}

static size_t on_body(char *p, size_t size, size_t n, void *user)
{
	const struct transfer *t = user;
	ssize_t got;

	(void)size; /* always 1 */
	do
		got = read(t->fd, p, n);
	while (got < 0 && errno == EINTR);
	return got < 0 ? CURL_READFUNC_ABORT : (size_t)got;
}

/* curl starts a body over when a kept connection turns out to be dead. */
static int on_seek(void *user, curl_off_t offset, int origin)
{
	const struct transfer *t = user;

	return lseek(t->fd, offset, origin) < 0 ? CURL_SEEKFUNC_FAIL : CURL_SEEKFUNC_OK;
}

static int set_body(CURL *curl, const struct sb_http_call *call, struct transfer *t, struct sb_error *err)
{
	struct stat st;

	if (call->body_file) {
		t->fd = open(call->body_file, O_RDONLY | O_CLOEXEC);
		if (t->fd < 0 || fstat(t->fd, &st) != 0)
			return sb_fail_errno(err, errno, "could not open the body \"%s\"", call->body_file);
		curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
		curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)st.st_size);
		curl_easy_setopt(curl, CURLOPT_READFUNCTION, on_body);
		curl_easy_setopt(curl, CURLOPT_READDATA, t);
		curl_easy_setopt(curl, CURLOPT_SEEKFUNCTION, on_seek);
		curl_easy_setopt(curl, CURLOPT_SEEKDATA, t);
	} else if (call->body || strcmp(call->method, "POST") == 0 || strcmp(call->method, "PUT") == 0 ||
		   strcmp(call->method, "PATCH") == 0) {
		curl_easy_setopt(curl, CURLOPT_POST, 1L);
		curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->body_len);
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, call->body ? call->body : "");
	}
	if (strcmp(call->method, "HEAD") == 0)
		curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
	else
		curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, call->method);
	return 0;
}

/* Options that guard something are checked; the others cannot fail for constant arguments. */
static int set_guards(struct sb_http_client *c, const struct sb_http_call *call, struct sb_error *err)
{
	CURL *curl = c->curl;
	int64_t timeout = call->timeout_ms > 0 ? call->timeout_ms : DEFAULT_TIMEOUT_MS;
	bool ok;

	curl_easy_reset(curl); /* keeps connections and DNS answers */
	c->why[0] = '\0';
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, c->why);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)timeout);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)(timeout < CONNECT_TIMEOUT_MS ? timeout : CONNECT_TIMEOUT_MS));
	ok = curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
	     curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L) == CURLE_OK && curl_easy_setopt(curl, CURLOPT_PROXY, "") == CURLE_OK &&
	     curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 1L) == CURLE_OK &&
	     curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, 2L) == CURLE_OK && curl_easy_setopt(curl, CURLOPT_URL, call->url) == CURLE_OK;
	if (c->ca_file)
		ok = ok && curl_easy_setopt(curl, CURLOPT_CAINFO, c->ca_file) == CURLE_OK;
	if (call->unix_path)
		ok = ok && curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, call->unix_path) == CURLE_OK;
	return ok ? 0 : sb_fail(err, SB_EHTTP, "could not prepare an HTTP call");
}

static int call_error(const struct sb_http_client *c, CURLcode rc, const struct transfer *t, struct sb_error *err)
{
	const char *why = c->why[0] ? c->why : curl_easy_strerror(rc);

	if (t->too_big)
		return sb_fail(err, SB_ETOOBIG, "the answer is larger than %zu bytes", t->answer_max);
	if (t->answer->failed || rc == CURLE_OUT_OF_MEMORY)
		return sb_fail_nomem(err);
	if (rc == CURLE_OPERATION_TIMEDOUT)
		return sb_fail(err, SB_ETIMEOUT, "%s", why);
	if (rc == CURLE_URL_MALFORMAT || rc == CURLE_UNSUPPORTED_PROTOCOL)
		return sb_fail(err, SB_EINVAL, "%s", why);
	(void)sb_fail(err, SB_EHTTP, "%s", why); /* the code is returned below, once retriable is set */
	if (err && rc == CURLE_PEER_FAILED_VERIFICATION)
		err->retriable = false;
	return SB_EHTTP;
}

int sb_http_call(struct sb_http_client *c, const struct sb_http_call *call, int *ret_status, struct sb_buf *body, struct sb_error *err)
{
	struct transfer t = { .answer = body, .fd = -1 };
	struct curl_slist *headers = NULL;
	CURLcode rc;
	long status = 0;
	int r;

	t.answer_max = call->answer_max ? call->answer_max : DEFAULT_ANSWER_MAX;
	if (body->max == 0)
		sb_buf_init(body, SIZE_MAX); /* an all-zero buffer: each call's own maximum bounds it */
	sb_buf_reset(body);
	if (body->max < t.answer_max)
		t.answer_max = body->max;
	r = set_guards(c, call, err);
	if (r == 0)
		r = set_body(c->curl, call, &t, err);
	for (const char *const *h = call->headers; r == 0 && h && *h; h++) {
		struct curl_slist *longer = curl_slist_append(headers, *h);

		if (!longer)
			r = sb_fail_nomem(err);
		else
			headers = longer;
	}
	if (r < 0)
		goto out;
	curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, on_answer);
	curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, &t);

	rc = curl_easy_perform(c->curl);
	if (rc != CURLE_OK) {
		r = call_error(c, rc, &t, err);
		goto out;
	}
	curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
	*ret_status = (int)status;
out:
	curl_slist_free_all(headers);
	sb_closep(&t.fd);
	return r;
}

static enum sb_code status_code(int status)
{
	switch (status) {
	case 400:
	case 422:
		return SB_EINVAL;
	case 401:
	case 403:
		return SB_EAUTH;
	case 404:
		return SB_ENOTFOUND;
	case 409:
		return SB_ECONFLICT;
	default:
		return SB_EHTTP;
	}
}

static int status_error(int status, const json_t *answer, struct sb_error *err)
{
	enum sb_code code = status_code(status);
	const char *detail = json_string_value(json_object_get(answer, "detail"));

	if (!detail)
		detail = json_string_value(json_object_get(answer, "message"));
	if (detail)
		(void)sb_fail(err, code, "%s", detail); /* returned below, once retriable is set */
	else
		(void)sb_fail(err, code, "the service answered with status %d", status); /* as above */
	if (err && code == SB_EHTTP)
		err->retriable = status >= 500 || status == 408 || status == 429;
	return code;
}

/* The caller's headers with the content types in front; the array is the caller's to free, the strings are not. */
static const char **json_headers(const struct sb_http_call *call, bool has_body)
{
	size_t n = 0, at = 0;

	while (call->headers && call->headers[n])
		n++;
	const char **all = calloc(n + 3, sizeof(*all));
	if (!all)
		return NULL;
	all[at++] = "Accept: application/json, application/problem+json";
	if (has_body)
		all[at++] = "Content-Type: application/json";
	for (size_t i = 0; i < n; i++)
		all[at++] = call->headers[i];
	return all;
}

int sb_http_call_json(
	struct sb_http_client *c, const struct sb_http_call *call, const json_t *body, int *ret_status, json_t **ret, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *text = NULL;
	sb_cleanup(sb_freep) const char **headers = json_headers(call, body != NULL);
	sb_cleanup(sb_buf_release) struct sb_buf answer = { 0 };
	struct sb_http_call copy = *call;
	json_error_t je;
	int status = 0, r;

	*ret = NULL;
	*ret_status = 0;
	if (body) {
		text = json_dumps(body, JSON_COMPACT | JSON_ENCODE_ANY);
		copy.body = text;
		copy.body_len = text ? strlen(text) : 0;
	}
	if (!headers || (body && !text))
		return sb_fail_nomem(err);
	copy.headers = headers;
	r = sb_http_call(c, &copy, &status, &answer, err);
	if (r < 0)
		return r;
	*ret_status = status;
	json_auto_t *j = answer.len ? json_loadb(answer.data, answer.len, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &je) : NULL;
	if (status >= 300)
		return status_error(status, j, err);
	if (answer.len && !j)
		return sb_fail(err, SB_EHTTP, "the answer is not JSON: %s", je.text);
	*ret = SB_TAKE(j);
	return 0;
}
