/* HTTP/1.1 server over libmicrohttpd: one table of routes; TCP for people and webhooks (hub), a Unix socket with peer credentials (agent).
 * Errors are problem+json (RFC 9457). A handler runs on one of a few server threads and may block for a bounded time. */
#ifndef STAGEBRIDGE_HTTP_SERVER_H
#define STAGEBRIDGE_HTTP_SERVER_H

#include <jansson.h>
#include <sys/types.h>

#include "stagebridge/base.h"
#include "stagebridge/buf.h"
#include "stagebridge/error.h"

struct sb_http_server;
struct sb_http_request;     /* opaque: read through the functions below */

struct sb_http_reply {      /* zeroed, the body ready to append to; filled by the handler */
	int status;             /* 0: 200, or from the returned error */
	const char *content_type; /* static string; NULL: application/json */
	struct sb_buf body;
	char etag[72];          /* "" none: the server answers 304 when If-None-Match fits */
	char location[200];
	const char *file;       /* a static file's bytes to send instead of body: set file_len */
	size_t file_len;
};

enum { SB_ROUTE_AUTH = 1, SB_ROUTE_WRITE = 2, SB_ROUTE_APPROVE = 4, SB_ROUTE_ADMIN = 8 };
struct sb_http_route {
	const char *method;     /* NULL ends the table */
	const char *path;       /* "/api/v1/promotions/{id}/approve" */
	unsigned flags;
	size_t body_max;        /* 0: no body allowed. Bodies over 1 MiB are spooled: see sb_http_body_file */
	/** 0 with the reply filled, or an error: it becomes problem+json with the code's status. user: of the server. */
	int (*handler)(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err);
	const char *summary;    /* for the OpenAPI document and --help */
};

struct sb_principal { char name[96]; char tenant[32]; unsigned may; /* SB_ROUTE_* flags it holds */ };
/** Decides who asks; called before the handler on routes with flags. SB_EAUTH refuses (401 without credentials). */
typedef int (*sb_http_auth_fn)(struct sb_http_request *req, struct sb_principal *ret, void *user, struct sb_error *err);

struct sb_http_options {
	const char *host; int port;      /* TCP: port 0 picks one; or: */
	const char *unix_path; mode_t unix_mode;
	int threads;                     /* 0: 2 */
	const char *spool_dir;           /* for large bodies */
	sb_http_auth_fn auth;            /* NULL: everything is open (Unix socket: peer credentials are the auth) */
};
int sb_http_server_start(struct sb_http_server **ret, const struct sb_http_options *o, const struct sb_http_route *routes, void *user, struct sb_error *err) SB_MUSTCHECK;
void sb_http_server_stop(struct sb_http_server *s);
int sb_http_server_port(const struct sb_http_server *s);

const char *sb_http_path(struct sb_http_request *r);                        /* as the matched route spells it: "/api/v1/things/{id}" */
const char *sb_http_param(struct sb_http_request *r, const char *name);   /* from {name} in the path, decoded; never NULL */
const char *sb_http_query(struct sb_http_request *r, const char *name);   /* NULL when absent */
const char *sb_http_header(struct sb_http_request *r, const char *name);
const void *sb_http_body(struct sb_http_request *r, size_t *ret_len);     /* raw bytes, NUL-terminated */
/** Body parsed as one JSON object (duplicates refused, depth-limited); returns new. */
int sb_http_body_json(struct sb_http_request *r, json_t **ret, struct sb_error *err) SB_MUSTCHECK;
/** Path of the spooled body when it was larger than 1 MiB, else NULL; removed after the handler. */
const char *sb_http_body_file(struct sb_http_request *r);
const struct sb_principal *sb_http_who(struct sb_http_request *r);
/** Unix socket: the peer's uid; -1 on TCP. */
int64_t sb_http_peer_uid(struct sb_http_request *r);
/** Fills the reply with the JSON value (takes it). */
int sb_http_json(struct sb_http_reply *reply, json_t *value, struct sb_error *err) SB_MUSTCHECK;

#endif
