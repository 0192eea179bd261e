/* Listening sockets of the HTTP server. Private to proto/src/io. */
#ifndef STAGEBRIDGE_HTTP_LISTEN_H
#define STAGEBRIDGE_HTTP_LISTEN_H

#include <sys/stat.h>

#include "stagebridge/base.h"
#include "stagebridge/error.h"

struct sb_listener {
	int fd;           /* -1: closed, or owned by the library */
	int port;         /* TCP */
	char *path;       /* Unix socket, NULL for TCP */
	struct stat made; /* identity of the socket file, so that a successor's is not removed */
};

void sb_listener_init(struct sb_listener *l);
void sb_listener_close(struct sb_listener *l); /* removes the socket file when it is still ours */
int sb_listen_tcp(struct sb_listener *l, const char *host, int port, struct sb_error *err) SB_MUSTCHECK;
/** A socket file that nobody listens on any more is replaced; SB_ECONFLICT when somebody does, or when it is no socket. */
int sb_listen_unix(struct sb_listener *l, const char *path, mode_t mode, struct sb_error *err) SB_MUSTCHECK;

#endif
