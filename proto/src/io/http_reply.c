/*
 * Answers of the HTTP server: a handler's reply or problem+json, with the headers that every answer carries.
 *
 * Runs on the server's threads. Owns nothing beyond a call: bodies move into libmicrohttpd's response, which frees
 * them.
 */
#include <string.h>

#include "http_private.h"
#include "stagebridge/text.h"

static const struct {
	const char *name, *value;
} fixed_headers[] = {
	{ "Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
				     "frame-ancestors 'none'; base-uri 'none'; form-action 'self'" },
	{ "X-Content-Type-Options", "nosniff" },
	{ "Referrer-Policy", "no-referrer" },
};

/* Titles of the few statuses that do not come from our table of errors. */
static const char *status_title(int status, enum sb_code code)
{
	switch (status) {
	case 401:
		return "who asks is not known";
	case 405:
		return "method not allowed here";
	default:
		return sb_code_text(code);
	}
}

static bool add_header(struct MHD_Response *res, const char *name, const char *value)
{
	return MHD_add_response_header(res, name, value) == MHD_YES;
}

/* Takes res. */
static enum MHD_Result queue(struct MHD_Connection *conn, int status, struct MHD_Response *res)
{
	enum MHD_Result result = MHD_YES;

	for (size_t i = 0; i < SB_COUNT(fixed_headers); i++) {
		if (!add_header(res, fixed_headers[i].name, fixed_headers[i].value))
			result = MHD_NO; /* an answer without its protections is not sent */
	}
	if (result == MHD_YES)
		result = MHD_queue_response(conn, (unsigned)status, res);
	MHD_destroy_response(res);
	return result;
}

static struct MHD_Response *response_from(struct sb_http_reply *reply)
{
	if (reply->file) {
		/* the library's parameter is not const, but a persistent buffer is only read */
		union {
			const char *in;
			void *out;
		} bytes = { .in = reply->file };

		return MHD_create_response_from_buffer(reply->file_len, bytes.out, MHD_RESPMEM_PERSISTENT);
	}
	size_t len = reply->body.len;
	if (len == 0)
		return MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
	char *body = sb_buf_detach(&reply->body);
	if (!body)
		return NULL;
	struct MHD_Response *res = MHD_create_response_from_buffer(len, body, MHD_RESPMEM_MUST_FREE);
	if (!res)
		free(body);
	return res;
}

/* Headers must not be split by what a handler put into them. */
static bool header_safe(const char *s)
{
	for (; *s; s++) {
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			return false;
	}
	return true;
}

enum MHD_Result sb_http_send(struct MHD_Connection *conn, const char *method, int status, struct sb_http_reply *reply)
{
	const char *inm = MHD_lookup_connection_value(conn, MHD_HEADER_KIND, "If-None-Match");
	bool readable = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
	bool unchanged, empty = !reply->file && reply->body.len == 0;
	size_t tag = strlen(reply->etag);
	struct MHD_Response *res;
	bool ok = true;

	if (tag > 1 && reply->etag[0] == '"' && reply->etag[tag - 1] == '"') { /* a handler that quoted it itself */
		memmove(reply->etag, reply->etag + 1, tag - 2);
		reply->etag[tag - 2] = '\0';
	}
	unchanged = readable && status == 200 && reply->etag[0] && inm && sb_http_etag_fits(inm, reply->etag);
	if (!header_safe(reply->etag) || strchr(reply->etag, '"') || !header_safe(reply->location)) {
		struct sb_error err = SB_ERROR_INIT;

		(void)sb_fail(&err, SB_EINVAL, "the answer's headers are malformed"); /* sent as the answer */
		return sb_http_send_problem(conn, 500, &err, "");
	}
	if (unchanged) {
		status = 304;
		res = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
	} else {
		res = response_from(reply);
	}
	if (!res)
		return MHD_NO;
	if (!unchanged && !empty)
		ok = add_header(res, "Content-Type", reply->content_type ? reply->content_type : "application/json");
	if (reply->etag[0]) {
		char quoted[sizeof(reply->etag) + 2];

		ok = ok && sb_format(quoted, sizeof(quoted), NULL, "\"%s\"", reply->etag) == 0 && add_header(res, "ETag", quoted);
	}
	/* "no-cache" lets a browser keep a tagged answer but makes it ask each time */
	ok = ok && add_header(res, "Cache-Control", reply->etag[0] ? "no-cache" : "no-store");
	if (reply->location[0])
		ok = ok && add_header(res, "Location", reply->location);
	if (!ok) {
		MHD_destroy_response(res);
		return MHD_NO;
	}
	return queue(conn, status, res);
}

static json_t *problem(int status, const struct sb_error *err)
{
	char type[64] = "urn:stagebridge:problem:";
	size_t at = strlen(type);

	for (const char *p = sb_code_name(err->code); *p && at + 1 < sizeof(type); p++)
		type[at++] = (char)(*p >= 'A' && *p <= 'Z' ? *p - 'A' + 'a' : *p);
	type[at] = '\0';
	/* a reason may quote foreign text: what is not UTF-8 would make the whole answer fail */
	return json_pack("{s:s, s:s, s:i, s:s, s:s}", "type", type, "title", status_title(status, err->code), "status", status, "detail",
		sb_utf8_ok(err->msg, strlen(err->msg)) ? err->msg : "", "code", sb_code_name(err->code));
}

enum MHD_Result sb_http_send_problem(struct MHD_Connection *conn, int status, const struct sb_error *err, const char *allow)
{
	bool ok;

	if (status < 400)
		status = sb_code_http(err->code);
	if (status < 400)
		status = 500; /* an error without a code is a handler's mistake, not a success */

	json_auto_t *j = problem(status, err);
	char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
	struct MHD_Response *res = text ? MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE) : NULL;

	if (!res) {
		free(text);
		return MHD_NO;
	}
	ok = add_header(res, "Content-Type", "application/problem+json") && add_header(res, "Cache-Control", "no-store");
	if (allow[0])
		ok = ok && add_header(res, "Allow", allow);
	if (status == 401)
		ok = ok && add_header(res, "WWW-Authenticate", "Bearer realm=\"stagebridge\"");
	if (status == 503)
		ok = ok && add_header(res, "Retry-After", "1");
	if (!ok) {
		MHD_destroy_response(res);
		return MHD_NO;
	}
	return queue(conn, status, res);
}
