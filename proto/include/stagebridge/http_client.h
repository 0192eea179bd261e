/* HTTP client over libcurl: no redirects, TLS verified, deadlines, bounded answers. For Gitea, for the CLI (TCP or Unix socket). */
#ifndef STAGEBRIDGE_HTTP_CLIENT_H
#define STAGEBRIDGE_HTTP_CLIENT_H

#include <jansson.h>

#include "stagebridge/base.h"
#include "stagebridge/buf.h"
#include "stagebridge/error.h"

struct sb_http_client;     /* keeps connections; belongs to one lane */
struct sb_http_call {
	const char *method;
	const char *url;             /* http(s)://...; with a Unix socket: http://localhost/... */
	const char *unix_path;       /* NULL: TCP */
	const char *const *headers;  /* NULL-terminated "Name: value"; may be NULL. Secrets go here, never in the URL */
	const void *body; size_t body_len;
	const char *body_file;       /* instead of body: streamed from this file */
	int64_t timeout_ms;          /* 0: 15 s */
	size_t answer_max;           /* 0: 4 MiB */
};
int sb_http_client_new(struct sb_http_client **ret, const char *ca_file, struct sb_error *err) SB_MUSTCHECK;
void sb_http_client_free(struct sb_http_client *c);
/** 0 with status and body whatever the status; SB_EHTTP (connection), SB_ETIMEOUT, SB_ETOOBIG. */
int sb_http_call(struct sb_http_client *c, const struct sb_http_call *call, int *ret_status, struct sb_buf *body, struct sb_error *err) SB_MUSTCHECK;
/** The same with JSON both ways: body may be NULL (borrowed); ret (new) NULL when the answer is empty. A status >= 400 is SB_EHTTP (404 SB_ENOTFOUND,
 * 409 SB_ECONFLICT, 401/403 SB_EAUTH, 400/422 SB_EINVAL) with the answer's "detail" or "message" in err->msg; ret_status set all the same. */
int sb_http_call_json(struct sb_http_client *c, const struct sb_http_call *call, const json_t *body, int *ret_status, json_t **ret, struct sb_error *err) SB_MUSTCHECK;

#endif
