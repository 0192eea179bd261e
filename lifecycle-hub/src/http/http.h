/* The hub's faces for people and for Gitea's webhooks: HTTP API, page, metrics, health. */
#ifndef HUB_HTTP_H
#define HUB_HTTP_H

#include "hub.h"

struct hub_http;
/** Starts the server threads; each request borrows a connection of its tenant from a small pool. */
int hub_http_start(struct hub_http **ret, struct hub *h, struct sb_error *err) SB_MUSTCHECK;
void hub_http_stop(struct hub_http *http); /* NULL is fine */

#endif
