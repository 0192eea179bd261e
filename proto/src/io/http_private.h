/* What http_server.c, http_reply.c and http_router.c share; nobody else includes this. */
#ifndef STAGEBRIDGE_HTTP_PRIVATE_H
#define STAGEBRIDGE_HTTP_PRIVATE_H

#include <microhttpd.h>

#include "stagebridge/http_server.h"

enum {
	SB_HTTP_PARAMS = 8,                   /* {names} in one path */
	SB_HTTP_QUERIES = 32,                 /* arguments in one query string */
	SB_HTTP_MEMORY_MAX = 1024 * 1024,     /* a body beyond this goes to a file */
	SB_HTTP_ANSWER_MAX = 32 * 1024 * 1024 /* JSON answer of a handler */
};

struct sb_http_match {
	const struct sb_http_route *route;
	struct {
		const char *name; /* borrowed from the route's path, not terminated */
		size_t name_len;
		char *value; /* owned, decoded */
	} param[SB_HTTP_PARAMS];
	unsigned n;
	char allow[96]; /* methods of the routes with this path, for 405: "GET, HEAD, POST" */
};

/** SB_ECONFIG with the row's path when the table itself is wrong. */
int sb_http_routes_check(const struct sb_http_route *routes, bool has_spool, struct sb_error *err) SB_MUSTCHECK;
/** First route of the table that fits. SB_ENOTFOUND (allow says whether only the method was wrong), SB_EINVAL bad escapes. */
int sb_http_match(const struct sb_http_route *routes, const char *method, const char *raw_path, struct sb_http_match *ret,
	struct sb_error *err) SB_MUSTCHECK;
void sb_http_match_release(struct sb_http_match *m);
/** Percent-decodes n bytes: returns new UTF-8 without NUL, or SB_EINVAL. */
int sb_http_decode(const char *s, size_t n, char **ret, struct sb_error *err) SB_MUSTCHECK;
/** Weak comparison of a bare tag with an If-None-Match value. */
bool sb_http_etag_fits(const char *if_none_match, const char *etag);
/** False when arrays and objects are nested deeper than max (counted outside of strings, before any parsing). */
bool sb_http_json_shallow(const char *p, size_t n, unsigned max);

/** Queues a handler's reply (takes its body). */
enum MHD_Result sb_http_send(struct MHD_Connection *conn, const char *method, int status, struct sb_http_reply *reply);
/** Queues problem+json for err. status 0: the code's own; allow: for 405, else "". */
enum MHD_Result sb_http_send_problem(struct MHD_Connection *conn, int status, const struct sb_error *err, const char *allow);

#endif
