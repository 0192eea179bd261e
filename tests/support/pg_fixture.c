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

static struct pg_server own; /* the program's */
static pid_t owner;
static char bin[256];

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
		(void)snprintf(bin, sizeof(bin), "%s", chosen); /* a name that is cut does not start */
		return;
	}
	if (glob("/usr/lib/postgresql/*/bin/postgres", 0, NULL, &g) == 0)
		for (size_t i = 0; i < g.gl_pathc; i++) {
			unsigned long version = strtoul(g.gl_pathv[i] + strlen("/usr/lib/postgresql/"), NULL, 10);
			if (version <= best)
				continue;
			best = version;
			(void)snprintf(bin, sizeof(bin), "/usr/lib/postgresql/%lu/bin", version);
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

/* Starts a program of the server's, or cp, as the server's user, output to <dir>/<program>.log. */
static pid_t spawn(const struct pg_server *s, const char *program, const char *const *args)
{
	static const char *const as_postgres[] = { "setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig=SIGQUIT", NULL };
	const char *argv[ARGS_MAX] = { NULL };
	char path[300], log[128];
	size_t n = 0;

	(void)snprintf(path, sizeof(path), "%s/%s", strcmp(program, "cp") == 0 ? "/bin" : bin, program);
	(void)snprintf(log, sizeof(log), "%s/%s.log", s->dir, program);
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
	if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0 || chdir(s->dir) != 0)
		_exit(126);
	execvp(argv[0], (char *const *)(uintptr_t)argv);
	_exit(127);
}

void pg_server_start(struct pg_server *s)
{
	char data[96], socket_dir[128];
	struct sb_error err = SB_ERROR_INIT;
	struct sb_pg *conn = NULL;

	(void)snprintf(data, sizeof(data), "%s/data", s->dir);
	(void)snprintf(socket_dir, sizeof(socket_dir), "unix_socket_directories=%s", s->dir);
	const char *const args[] = { "-D", data, "-c", socket_dir, "-c", "listen_addresses=", "-c", "wal_level=logical", "-c", "fsync=off", "-c",
		"max_replication_slots=20", "-c", "max_wal_senders=20", "-c", "max_prepared_transactions=0", "-c", "autovacuum=off", NULL };
	s->pid = spawn(s, "postgres", args);
	if (!wait_until(sb_pg_open(&conn, s->conninfo, "fixture", &err) == SB_OK || waitpid(s->pid, NULL, WNOHANG) != 0, 30000) || !conn) {
		(void)fprintf(stderr, "pg_fixture: %s; see %s/postgres.log\n", err.msg, s->dir);
		exit(2);
	}
	sb_pg_close(conn);
}

void pg_server_stop(struct pg_server *s, int signal_number)
{
	if (s->pid > 0) {
		kill(s->pid, signal_number);
		waitpid(s->pid, NULL, 0);
	}
	s->pid = 0;
}

void pg_server_free(struct pg_server *s)
{
	struct sb_error err = SB_ERROR_INIT;

	pg_server_stop(s, SIGQUIT); /* nothing of the data is wanted */
	if (sb_dir_remove(s->dir, &err) != SB_OK)
		(void)fprintf(stderr, "pg_fixture: %s\n", err.msg);
}

static void make_folder(struct pg_server *s)
{
	*s = (struct pg_server){ .dir = "/tmp/sb-pg-XXXXXX" };
	if (!mkdtemp(s->dir))
		die("mkdtemp");
	const struct passwd *user = geteuid() == 0 ? getpwnam("postgres") : NULL;
	if (geteuid() == 0 && (!user || chown(s->dir, user->pw_uid, user->pw_gid) != 0))
		die("user postgres");
	(void)snprintf(s->conninfo, sizeof(s->conninfo), "host=%s dbname=postgres user=postgres", s->dir);
}

static void run(const struct pg_server *s, const char *program, const char *const *args)
{
	int status;

	if (waitpid(spawn(s, program, args), &status, 0) < 0 || status != 0) {
		(void)fprintf(stderr, "pg_fixture: %s failed with status %d\n", program, status);
		exit(2);
	}
}

void pg_server_new(struct pg_server *s)
{
	char data[96];

	make_folder(s);
	(void)snprintf(data, sizeof(data), "%s/data", s->dir);
	const char *const args[] = { "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", NULL };
	run(s, "initdb", args);
	pg_server_start(s);
}

void pg_server_copy(struct pg_server *s, const struct pg_server *of)
{
	char data[96];

	make_folder(s);
	(void)snprintf(data, sizeof(data), "%s/data", of->dir);
	const char *const args[] = { "-a", data, s->dir, NULL };
	run(s, "cp", args);
}

void pg_server_follow(const struct pg_server *s, const struct pg_server *primary)
{
	char path[96], text[224];

	(void)snprintf(path, sizeof(path), "%s/data/standby.signal", s->dir);
	test_write(path, "", 0644);
	(void)snprintf(path, sizeof(path), "%s/data/postgresql.auto.conf", s->dir);
	(void)snprintf(text, sizeof(text), "primary_conninfo = 'host=%s user=postgres dbname=postgres'\nprimary_slot_name = 'standby'\nhot_standby_feedback = on\n", primary->dir);
	test_write(path, text, 0644);
}

static void stop(void)
{
	if (getpid() == owner)
		pg_server_free(&own);
}

const char *pg_fixture_start(void)
{
	if (owner)
		return own.conninfo;
	find_bin();
	owner = getpid();
	pg_server_new(&own);
	if (atexit(stop) != 0)
		die("atexit");
	return own.conninfo;
}
