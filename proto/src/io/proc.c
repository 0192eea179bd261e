/* Child processes. Any thread, which it blocks; owns nothing between calls. The child is made with fork and does
 * nothing before execve but async-signal-safe calls, because other threads may hold any lock at that moment: the path
 * search, the environment and the argument copies are all made before. Its process group is its own, so that a time-out
 * reaches all it started. */
#include "stagebridge/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stagebridge/clock.h"
#include "stagebridge/text.h"

#define GRACE_MS 2000    /* between SIGTERM and SIGKILL */
#define TICK_MS 20       /* how often the child is looked at where the kernel gives no pidfd */
#define CHUNK 16384

/* What the child needs, made before the fork. */
struct image {
	char *path;
	char **argv;
	char **env;
};

/* A running child. */
struct child {
	const struct sb_proc *proc;
	pid_t pid;
	int pidfd;           /* -1 where the kernel has none */
	int in, out, err;    /* our ends; -1 when closed */
	size_t sent;
	struct sb_buf kept;  /* up to twice output_max, then shortened to its tail */
	bool exited;
	bool too_big;
	bool timed_out;      /* SIGTERM is sent */
	bool killed;         /* SIGKILL is sent */
	int64_t deadline_ms; /* of the next signal */
};

/* ---- before the fork ---- */

static void strings_free(char **list)
{
	for (size_t i = 0; list != NULL && list[i] != NULL; i++)
		free(list[i]);
	free(list);
}

static void image_release(struct image *im)
{
	free(im->path);
	strings_free(im->argv);
	strings_free(im->env);
}

/* Returns new; NULL without memory. */
static char **strings_copy(const char *const *list)
{
	size_t n = 0;
	char **copy;

	while (list[n] != NULL)
		n++;
	copy = calloc(n + 1, sizeof(*copy));
	for (size_t i = 0; copy != NULL && i < n; i++) {
		copy[i] = sb_strdup(list[i]);
		if (copy[i] == NULL) {
			strings_free(copy);
			return NULL;
		}
	}
	return copy;
}

static char **default_env(void)
{
	static const char *const names[] = { "PATH", "HOME", "LANG", "TZ" };
	char **env = calloc(SB_COUNT(names) + 1, sizeof(*env));
	size_t n = 0;

	for (size_t i = 0; env != NULL && i < SB_COUNT(names); i++) {
		const char *value = getenv(names[i]);
		if (value == NULL)
			continue;
		env[n] = sb_asprintf("%s=%s", names[i], value);
		if (env[n++] == NULL) {
			strings_free(env);
			return NULL;
		}
	}
	return env;
}

/* argv[0] itself when it names a folder, else the first executable of that name in our PATH. */
static int find_program(const char *name, char **ret, struct sb_error *err)
{
	const char *at = getenv("PATH");

	if (strchr(name, '/') != NULL) {
		*ret = sb_strdup(name);
		return *ret != NULL ? SB_OK : sb_fail_nomem(err);
	}
	if (at == NULL)
		at = "/usr/local/bin:/usr/bin:/bin";
	while (*at != '\0') {
		size_t n = strcspn(at, ":");
		char *path = sb_asprintf("%.*s/%s", (int)n, at, name);
		if (path == NULL)
			return sb_fail_nomem(err);
		if (n > 0 && access(path, X_OK) == 0) {
			*ret = path;
			return SB_OK;
		}
		free(path);
		at += n + (at[n] == ':' ? 1 : 0);
	}
	return sb_fail(err, SB_EIO, "could not start \"%s\": not found in PATH", name);
}

static int image_init(struct image *im, const struct sb_proc *p, struct sb_error *err)
{
	int r;

	if (p->argv == NULL || p->argv[0] == NULL || p->argv[0][0] == '\0')
		return sb_fail(err, SB_EINVAL, "no program to run");
	if (p->timeout_ms <= 0)
		return sb_fail(err, SB_EINVAL, "\"%s\" must have a time limit", p->argv[0]);
	r = find_program(p->argv[0], &im->path, err);
	if (r < 0)
		return r;
	im->argv = strings_copy(p->argv);
	im->env = p->env != NULL ? strings_copy(p->env) : default_env();
	return im->argv != NULL && im->env != NULL ? SB_OK : sb_fail_nomem(err);
}

/* ---- in the child ---- */

_Noreturn static void child_fail(int report)
{
	int e = errno;

	if (write(report, &e, sizeof(e)) < 0)
		_exit(127);
	_exit(127);
}

static void child_reset_signals(void)
{
	struct sigaction dfl = { .sa_handler = SIG_DFL };
	sigset_t none;

	for (int i = 1; i < NSIG; i++)
		(void)sigaction(i, &dfl, NULL); /* SIGKILL, SIGSTOP and libc's own refuse: right so */
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL); /* cannot fail */
}

_Noreturn static void child_main(const struct image *im, const struct sb_proc *p, int in, int out, int err, int report)
{
	if (setpgid(0, 0) < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
		child_fail(report);
	child_reset_signals();
	/* ours are all close-on-exec; a library's may not be */
	(void)close_range(3, UINT_MAX, CLOSE_RANGE_CLOEXEC);
	if (p->cwd != NULL && chdir(p->cwd) < 0)
		child_fail(report);
	if (p->memory_max > 0) {
		struct rlimit limit = { .rlim_cur = p->memory_max, .rlim_max = p->memory_max };
		if (setrlimit(RLIMIT_AS, &limit) < 0)
			child_fail(report);
	}
	(void)execve(im->path, im->argv, im->env); /* comes back only to fail */
	child_fail(report);
}

/* ---- starting ---- */

struct pipes {
	int in[2], out[2], err[2], report[2];
};

/* Above 2: dup2 in the child must not overwrite one by another when a daemon has no standard descriptors. */
static int lift(int *fd)
{
	int up;

	if (*fd > 2)
		return 0;
	up = fcntl(*fd, F_DUPFD_CLOEXEC, 3);
	if (up < 0)
		return -1;
	(void)close(*fd); /* the copy lives */
	*fd = up;
	return 0;
}

static int make_pipe(int fds[2])
{
	return pipe2(fds, O_CLOEXEC) < 0 || lift(&fds[0]) < 0 || lift(&fds[1]) < 0 ? -1 : 0;
}

static int open_null(int *fd, int flags)
{
	*fd = open("/dev/null", flags | O_CLOEXEC);
	return *fd < 0 || lift(fd) < 0 ? -1 : 0;
}

static void pipes_release(struct pipes *pp)
{
	int *all[] = { pp->in, pp->out, pp->err, pp->report };

	for (size_t i = 0; i < SB_COUNT(all); i++) {
		sb_closep(&all[i][0]);
		sb_closep(&all[i][1]);
	}
}

static int pipes_init(struct pipes *pp, const struct sb_proc *p)
{
	*pp = (struct pipes){ { -1, -1 }, { -1, -1 }, { -1, -1 }, { -1, -1 } };
	if ((p->input != NULL ? make_pipe(pp->in) : open_null(&pp->in[0], O_RDONLY)) < 0)
		return -1;
	if (make_pipe(pp->out) < 0 || make_pipe(pp->report) < 0)
		return -1;
	if ((p->output_head ? open_null(&pp->err[1], O_WRONLY) : make_pipe(pp->err)) < 0)
		return -1;
	for (size_t i = 0; i < 3; i++) {
		int fd = i == 0 ? pp->in[1] : i == 1 ? pp->out[0] : pp->err[0];
		if (fd >= 0 && fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
			return -1;
	}
	return 0;
}

/* Waits for the child's word: a closed pipe says that execve came through. */
static int await_exec(pid_t pid, int report)
{
	int e = 0;
	ssize_t n;

	do
		n = read(report, &e, sizeof(e));
	while (n < 0 && errno == EINTR);
	if (n == 0)
		return 0;
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return n == (ssize_t)sizeof(e) ? e : EIO;
}

static int take_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

static int start(struct child *c, const struct image *im, struct sb_error *err)
{
	const struct sb_proc *p = c->proc;
	struct pipes pp;
	int e = 0;

	if (pipes_init(&pp, p) < 0) {
		e = errno;
		pipes_release(&pp);
		return sb_fail(err, SB_EIO, "could not start \"%s\": %s", im->path, strerrordesc_np(e));
	}
	c->pid = fork();
	if (c->pid == 0)
		child_main(im, p, pp.in[0], pp.out[1], pp.err[1], pp.report[1]);
	if (c->pid < 0) {
		e = errno;
	} else {
		(void)setpgid(c->pid,
			c->pid); /* also here: it must hold before the first kill; fails once the child has done it */
		sb_closep(&pp.report[1]);
		e = await_exec(c->pid, pp.report[0]);
	}
	if (e == 0) {
		c->in = take_fd(&pp.in[1]);
		c->out = take_fd(&pp.out[0]);
		c->err = take_fd(&pp.err[0]);
		c->pidfd = pidfd_open(c->pid, 0); /* -1: we look every TICK_MS */
	}
	pipes_release(&pp);
	return e == 0 ? SB_OK : sb_fail(err, SB_EIO, "could not start \"%s\": %s", im->path, strerrordesc_np(e));
}

/* ---- while it runs ---- */

static void feed(struct child *c)
{
	const char *input = c->proc->input;
	ssize_t n = write(c->in, input + c->sent, c->proc->input_len - c->sent);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0)
		c->sent += (size_t)n;
	if (n < 0 || c->sent == c->proc->input_len) /* all sent, or it does not want more: its status will tell */
		sb_closep(&c->in);
}

static void keep(struct child *c, const char *p, size_t n)
{
	size_t max = c->proc->output_max;

	if (c->proc->output_head && n > max - c->kept.len) {
		n = max - c->kept.len;
		c->too_big = true;
	}
	if (n > max) {
		p += n - max;
		n = max;
	}
	sb_buf_add(&c->kept, p, n);
	if (!c->proc->output_head && c->kept.len > max) {
		size_t excess = c->kept.len - max;
		if (excess < max || c->kept.len < CHUNK)
			return; /* shortened once in a while only, and at the end */
		memmove(c->kept.data, c->kept.data + excess, max);
		sb_buf_truncate(&c->kept, max);
	}
}

/* Reads once; true while there may be more. */
static bool take_output(struct child *c, int *fd)
{
	char chunk[CHUNK];
	ssize_t n = *fd >= 0 ? read(*fd, chunk, sizeof(chunk)) : 0;

	if (n > 0) {
		keep(c, chunk, (size_t)n);
		return true;
	}
	if (n < 0 && errno == EINTR)
		return true;
	if (n == 0 || errno != EAGAIN)
		sb_closep(fd);
	return false;
}

static void signal_group(const struct child *c, int signo)
{
	(void)kill(-c->pid, signo); /* the leader is not reaped yet, so the group is still ours; it may be empty */
}

/* Sends what is due; returns the milliseconds until the next look. */
static int64_t enforce(struct child *c)
{
	int64_t now_ms = sb_mono_ms();

	if (c->too_big && !c->killed) {
		c->killed = true;
		signal_group(c, SIGKILL);
	}
	if (!c->killed && now_ms >= c->deadline_ms) {
		signal_group(c, c->timed_out ? SIGKILL : SIGTERM);
		c->killed = c->timed_out;
		c->timed_out = true;
		c->deadline_ms = now_ms + GRACE_MS;
	}
	if (c->pidfd < 0)
		return TICK_MS;
	return c->killed ? GRACE_MS : c->deadline_ms - now_ms;
}

static void turn(struct child *c)
{
	struct pollfd set[] = {
		{ .fd = c->pidfd, .events = POLLIN },
		{ .fd = c->in, .events = POLLOUT },
		{ .fd = c->out, .events = POLLIN },
		{ .fd = c->err, .events = POLLIN },
	};
	int64_t wait_ms = enforce(c);
	siginfo_t si = { 0 };

	if (poll(set, SB_COUNT(set), wait_ms > INT_MAX ? INT_MAX : (int)wait_ms) > 0) {
		if (set[1].revents != 0)
			feed(c);
		if (set[2].revents != 0)
			(void)take_output(c, &c->out); /* the next turn sees what is left */
		if (set[3].revents != 0)
			(void)take_output(c, &c->err);
	}
	/* looked at without reaping: as long as it is a zombie, its group's number is not given to others */
	if (waitid(P_PID, (id_t)c->pid, &si, WEXITED | WNOHANG | WNOWAIT) < 0)
		c->exited = errno != EINTR;
	else
		c->exited = si.si_pid != 0;
}

static int finish(struct child *c, int *ret_status, struct sb_buf *out, struct sb_error *err)
{
	const char *name = c->proc->argv[0];
	int status = 0;
	pid_t reaped;

	/* What it wrote itself is in the pipes by now; a process that it left behind could go on for ever, hence the
	 * bound. */
	for (int i = 0; i < 64 && take_output(c, &c->out); i++)
		;
	for (int i = 0; i < 64 && take_output(c, &c->err); i++)
		;
	if (c->timed_out || c->too_big)
		signal_group(c, SIGKILL);
	do
		reaped = waitpid(c->pid, &status, 0);
	while (reaped < 0 && errno == EINTR);
	if (out != NULL) {
		size_t skip = c->kept.len > c->proc->output_max ? c->kept.len - c->proc->output_max : 0;
		sb_buf_add(out, c->kept.data + skip, c->kept.len - skip);
	}
	if (c->timed_out)
		return sb_fail(
			err, SB_ETIMEOUT, "\"%s\" did not end within %lld ms", name, (long long)c->proc->timeout_ms);
	if (c->too_big)
		return sb_fail(err, SB_ETOOBIG, "\"%s\" printed more than %zu bytes", name, c->proc->output_max);
	if (c->kept.failed)
		return sb_fail_nomem(err);
	if (reaped < 0)
		return sb_fail(err, SB_EIO, "the status of \"%s\" was lost", name);
	*ret_status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	return SB_OK;
}

static int run(struct child *c, const struct image *im, int *ret_status, struct sb_buf *out, struct sb_error *err)
{
	int r = start(c, im, err);

	if (r < 0)
		return r;
	c->deadline_ms = sb_mono_ms() + c->proc->timeout_ms;
	if (c->in >= 0 && c->proc->input_len == 0)
		sb_closep(&c->in);
	while (!c->exited)
		turn(c);
	r = finish(c, ret_status, out, err);
	sb_closep(&c->in);
	sb_closep(&c->out);
	sb_closep(&c->err);
	sb_closep(&c->pidfd);
	return r;
}

int sb_proc_run(const struct sb_proc *p, int *ret_status, struct sb_buf *out, struct sb_error *err)
{
	struct child c = { .proc = p, .pid = -1, .pidfd = -1, .in = -1, .out = -1, .err = -1 };
	const struct timespec at_once = { 0 };
	struct image im = { 0 };
	sigset_t pipe_only, before, pending;
	int r;

	sb_buf_init(&c.kept, p->output_max < SIZE_MAX / 4 ? p->output_max * 2 + 2 * CHUNK : SIZE_MAX);
	/* A child that closes its input must not end us: held back here, and taken out again unless it was there
	 * before. */
	sigemptyset(&pipe_only);
	sigaddset(&pipe_only, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe_only, &before);
	sigpending(&pending);
	r = image_init(&im, p, err);
	if (r == SB_OK)
		r = run(&c, &im, ret_status, out, err);
	if (!sigismember(&pending, SIGPIPE))
		(void)sigtimedwait(&pipe_only, NULL, &at_once); /* EAGAIN: none came */
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	image_release(&im);
	sb_buf_release(&c.kept);
	return r;
}
