/*
 * Listening sockets of the HTTP server, made here rather than by libmicrohttpd: a Unix socket needs its mode before
 * anyone can connect, and a chosen TCP port must be known before the first request.
 *
 * Called on the thread that starts and stops the server. Owns the socket until the library takes it, and the socket
 * file.
 */
#include "http_listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "stagebridge/text.h"

enum { BACKLOG = 64 };

void sb_listener_init(struct sb_listener *l)
{
	memset(l, 0, sizeof(*l));
	l->fd = -1;
}

void sb_listener_close(struct sb_listener *l)
{
	struct stat now;

	if (l->path && l->made.st_ino != 0 && lstat(l->path, &now) == 0 && now.st_ino == l->made.st_ino && now.st_dev == l->made.st_dev)
		(void)unlink(l->path); /* a leftover is replaced by the next start */
	free(SB_TAKE(l->path));
	sb_closep(&l->fd);
}

static int bound_port(int fd)
{
	union {
		struct sockaddr sa;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_storage all;
	} addr;
	socklen_t len = sizeof(addr);

	if (getsockname(fd, &addr.sa, &len) != 0)
		return 0;
	return ntohs(addr.sa.sa_family == AF_INET6 ? addr.in6.sin6_port : addr.in.sin_port);
}

static int try_address(const struct addrinfo *ai)
{
	int one = 1;
	int fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, ai->ai_protocol);

	if (fd < 0)
		return -1;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0 && bind(fd, ai->ai_addr, ai->ai_addrlen) == 0 &&
		listen(fd, BACKLOG) == 0)
		return fd;
	int saved = errno;
	(void)close(fd); /* the reason is errno above */
	errno = saved;
	return -1;
}

int sb_listen_tcp(struct sb_listener *l, const char *host, int port, struct sb_error *err)
{
	struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE };
	struct addrinfo *list = NULL;
	char service[12];
	int last = 0;

	if (port < 0 || port > 65535)
		return sb_fail(err, SB_ECONFIG, "port %d is outside 0..65535", port);
	int r = sb_format(service, sizeof(service), err, "%d", port);
	if (r < 0)
		return r;
	if (!host || !host[0])
		host = "127.0.0.1"; /* open to the network only when somebody says so */
	int gai = getaddrinfo(host, service, &hints, &list);
	if (gai != 0)
		return sb_fail(err, SB_ECONFIG, "cannot listen on \"%s\": %s", host, gai_strerror(gai));
	for (const struct addrinfo *ai = list; ai && l->fd < 0; ai = ai->ai_next) {
		l->fd = try_address(ai);
		last = errno;
	}
	freeaddrinfo(list);
	if (l->fd < 0)
		return sb_fail_errno(err, last, "could not listen on %s port %d", host, port);
	l->port = bound_port(l->fd);
	return 0;
}

/* A socket file without a listener refuses connections; only such a file is removed. */
static int clear_stale(const struct sockaddr_un *addr, struct sb_error *err)
{
	struct stat st;

	if (lstat(addr->sun_path, &st) != 0)
		return errno == ENOENT ? 0 : sb_fail_errno(err, errno, "could not look at \"%s\"", addr->sun_path);
	if (!S_ISSOCK(st.st_mode))
		return sb_fail(err, SB_ECONFLICT, "\"%s\" is there and is not a socket", addr->sun_path);
	sb_cleanup(sb_closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return sb_fail_errno(err, errno, "could not make a socket");
	/* EAGAIN: its backlog is full, so somebody listens */
	if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0 || errno == EAGAIN)
		return sb_fail(err, SB_ECONFLICT, "another process listens on \"%s\"", addr->sun_path);
	if (errno != ECONNREFUSED)
		return sb_fail_errno(err, errno, "could not probe \"%s\"", addr->sun_path);
	if (unlink(addr->sun_path) != 0 && errno != ENOENT)
		return sb_fail_errno(err, errno, "could not remove the stale \"%s\"", addr->sun_path);
	return 0;
}

int sb_listen_unix(struct sb_listener *l, const char *path, mode_t mode, struct sb_error *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int r;

	if (strlen(path) >= sizeof(addr.sun_path))
		return sb_fail(err, SB_ECONFIG, "socket path \"%s\" is longer than %zu bytes", path, sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, path, strlen(path) + 1);
	if (mode == 0)
		mode = 0600;
	l->path = sb_strdup(path);
	if (!l->path)
		return sb_fail_nomem(err);
	r = clear_stale(&addr, err);
	if (r < 0)
		return r;
	l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->fd < 0)
		return sb_fail_errno(err, errno, "could not make a socket");
	/* bind gives the file the socket's own mode: narrow from its first moment, widened below if asked */
	if (fchmod(l->fd, mode & 0700) != 0 || bind(l->fd, (const struct sockaddr *)&addr, sizeof(addr)) != 0)
		return sb_fail_errno(err, errno, "could not bind \"%s\"", path);
	if (lstat(path, &l->made) != 0 || chmod(path, mode) != 0 || listen(l->fd, BACKLOG) != 0)
		return sb_fail_errno(err, errno, "could not listen on \"%s\"", path);
	return 0;
}
