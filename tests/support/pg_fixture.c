/* Runs initdb and postgres as child processes (as user postgres when we are root: the server refuses root). The parent stops them at exit; when the
 * parent dies without one, the kernel ends the server (pdeathsig). Children that Check forks inherit the atexit handler and do nothing in it. */
#include "pg_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stagebridge/file.h"
#include "stagebridge/pg.h"
#include "stagebridge/text.h"
#include "support.h"

#define ARGS_MAX 48

static struct {
	pid_t owner, server;
	char dir[64], bin[256], conninfo[256];
} pg;

static void die(const char *what)
{
	(void)fprintf(stderr, "pg_fixture: %s: %s\n", what, strerror(errno));
	exit(2);
}

/* SB_PG_BIN, else the newest of /usr/lib/postgresql/<version>/bin */
static void find_bin(void)
{
	const char *chosen = getenv("SB_PG_BIN");
	glob_t g;
	unsigned long best = 0;

	if (chosen && *chosen) {
		(void)snprintf(pg.bin, sizeof(pg.bin), "%s", chosen); /* a name that is cut does not start */
		return;
	}
	if (glob("/usr/lib/postgresql/*/bin/postgres", 0, NULL, &g) == 0)
		for (size_t i = 0; i < g.gl_pathc; i++) {
			unsigned long version = strtoul(g.gl_pathv[i] + strlen("/usr/lib/postgresql/"), NULL, 10);
			if (version <= best)
				continue;
			best = version;
			(void)snprintf(pg.bin, sizeof(pg.bin), "/usr/lib/postgresql/%lu/bin", version);
		}
	globfree(&g);
	if (!best) {
		errno = ENOENT;
		die("no server below /usr/lib/postgresql");
	}
}

static void add_args(const char **argv, size_t *n, const char *const *more)
{
	for (; *more && *n < ARGS_MAX - 1; more++)
		argv[(*n)++] = *more;
}

/* Starts bin/<program> as the server's user, output to <dir>/<program>.log. */
static pid_t spawn(const char *program, const char *const *args)
{
	static const char *const as_postgres[] = { "setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig=SIGQUIT", NULL };
	const char *argv[ARGS_MAX] = { NULL };
	char path[300], log[128];
	size_t n = 0;

	(void)snprintf(path, sizeof(path), "%s/%s", pg.bin, program);
	(void)snprintf(log, sizeof(log), "%s/%s.log", pg.dir, program);
	if (geteuid() == 0)
		add_args(argv, &n, as_postgres);
	argv[n++] = path;
	add_args(argv, &n, args);
	pid_t pid = fork();
	if (pid < 0)
		die("fork");
	if (pid > 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGQUIT);
	int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0 || chdir(pg.dir) != 0)
		_exit(126);
	execvp(argv[0], (char *const *)(uintptr_t)argv);
	_exit(127);
}

static void start_server(void)
{
	char data[96], socket_dir[128];
	struct sb_error err = SB_ERROR_INIT;
	struct sb_pg *conn = NULL;

	(void)snprintf(data, sizeof(data), "%s/data", pg.dir);
	(void)snprintf(socket_dir, sizeof(socket_dir), "unix_socket_directories=%s", pg.dir);
	const char *const args[] = { "-D", data, "-c", socket_dir, "-c", "listen_addresses=", "-c", "wal_level=logical", "-c", "fsync=off", "-c",
		"max_replication_slots=20", "-c", "max_wal_senders=20", "-c", "max_prepared_transactions=0", "-c", "autovacuum=off", NULL };
	pg.server = spawn("postgres", args);
	if (!wait_until(sb_pg_open(&conn, pg.conninfo, "fixture", &err) == SB_OK || waitpid(pg.server, NULL, WNOHANG) != 0, 30000) || !conn) {
		(void)fprintf(stderr, "pg_fixture: %s; see %s/postgres.log\n", err.msg, pg.dir);
		exit(2);
	}
	sb_pg_close(conn);
}

static void stop_server(int signal_number)
{
	if (pg.server > 0) {
		kill(pg.server, signal_number);
		waitpid(pg.server, NULL, 0);
	}
	pg.server = 0;
}

static void stop(void)
{
	struct sb_error err = SB_ERROR_INIT;

	if (getpid() != pg.owner)
		return;
	stop_server(SIGQUIT); /* nothing of the data is wanted */
	if (sb_dir_remove(pg.dir, &err) != SB_OK)
		(void)fprintf(stderr, "pg_fixture: %s\n", err.msg);
}

const char *pg_fixture_start(void)
{
	char data[96];
	int status;

	if (pg.owner)
		return pg.conninfo;
	find_bin();
	(void)snprintf(pg.dir, sizeof(pg.dir), "/tmp/sb-pg-XXXXXX");
	if (!mkdtemp(pg.dir))
		die("mkdtemp");
	const struct passwd *user = geteuid() == 0 ? getpwnam("postgres") : NULL;
	if (geteuid() == 0 && (!user || chown(pg.dir, user->pw_uid, user->pw_gid) != 0))
		die("user postgres");
	pg.owner = getpid();
	if (atexit(stop) != 0)
		die("atexit");
	(void)snprintf(data, sizeof(data), "%s/data", pg.dir);
	(void)snprintf(pg.conninfo, sizeof(pg.conninfo), "host=%s dbname=postgres user=postgres", pg.dir);
	const char *const args[] = { "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", NULL };
	if (waitpid(spawn("initdb", args), &status, 0) < 0 || status != 0) {
		(void)fprintf(stderr, "pg_fixture: initdb failed with status %d\n", status);
		exit(2);
	}
	start_server();
	return pg.conninfo;
}

void pg_fixture_restart(void)
{
	stop_server(SIGINT);
	start_server();
}
