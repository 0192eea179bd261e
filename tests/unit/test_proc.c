/* Child processes: status, output, input, environment, time-out of the whole group, limits. */
#include "stagebridge/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "support.h"

static struct sb_error err;
static struct sb_buf out;
static int status;

/* Runs a shell line: the shell is the test's child program, sb_proc_run itself knows none. */
static int sh(const char *line, struct sb_proc p)
{
	const char *argv[] = { "sh", "-c", line, NULL };

	p.argv = p.argv != NULL ? p.argv : argv;
	p.timeout_ms = p.timeout_ms != 0 ? p.timeout_ms : 20000;
	p.output_max = p.output_max != 0 ? p.output_max : 1000;
	status = -1;
	return sb_proc_run(&p, &status, &out, &err);
}

static void setup(void)
{
	sb_buf_init(&out, 1 << 20);
}

static void teardown(void)
{
	sb_buf_release(&out);
}

static const struct {
	const char *line;
	int status;
	const char *output;
} runs[] = {
	{ "exit 0", 0, "" },
	{ "exit 7", 7, "" },
	{ "exit 255", 255, "" },
	{ "kill -KILL $$", 137, "" },
	{ "kill -TERM $$", 143, "" },
	{ "echo out; echo err >&2", 0, "out\nerr\n" },
	{ "cat", 0, "" },
	{ "echo one | cat; echo two", 0, "one\ntwo\n" },
};

START_TEST(test_runs)
{
	int r = sh(runs[_i].line, (struct sb_proc){ 0 });

	ck_assert_msg(r == SB_OK, "%s", err.msg);
	ck_assert_int_eq(status, runs[_i].status);
	ck_assert_uint_eq(out.len, strlen(runs[_i].output));
	if (strstr(runs[_i].line, ">&2") == NULL) /* two pipes: their order is not kept */
		ck_assert_str_eq(out.data, runs[_i].output);
}
END_TEST

START_TEST(test_no_shell)
{
	const char *argv[] = { "/bin/echo", "$HOME; `id`", "*", "", "a  b", NULL };

	ck_assert_int_eq(sh(NULL, (struct sb_proc){ .argv = argv }), SB_OK);
	ck_assert_str_eq(out.data, "$HOME; `id` *  a  b\n");
	sb_buf_reset(&out);
	argv[0] = "echo"; /* found in PATH */
	ck_assert_int_eq(sh(NULL, (struct sb_proc){ .argv = argv }), SB_OK);
	ck_assert_str_eq(out.data, "$HOME; `id` *  a  b\n");
}
END_TEST

START_TEST(test_cannot_start)
{
	char path[TEST_PATH_MAX];
	const char *argv[] = { path, NULL };

	test_path(path, "none");
	ck_assert_int_eq(sh(NULL, (struct sb_proc){ .argv = argv }), SB_EIO);
	ck_assert_ptr_nonnull(strstr(err.msg, "No such file or directory"));
	test_path(path, "text");
	test_write(path, "not executable", 0644);
	ck_assert_int_eq(sh(NULL, (struct sb_proc){ .argv = argv }), SB_EIO);
	ck_assert_ptr_nonnull(strstr(err.msg, "Permission denied"));
	argv[0] = "no-such-program-anywhere";
	ck_assert_int_eq(sh(NULL, (struct sb_proc){ .argv = argv }), SB_EIO);
	ck_assert_str_eq(err.msg, "could not start \"no-such-program-anywhere\": not found in PATH");
	ck_assert_int_eq(sh("true", (struct sb_proc){ .cwd = "/no/such/folder" }), SB_EIO);
	argv[0] = NULL;
	ck_assert_int_eq(sh(NULL, (struct sb_proc){ .argv = argv }), SB_EINVAL);
	ck_assert_int_eq(sh("true", (struct sb_proc){ .timeout_ms = -1 }), SB_EINVAL);
	ck_assert_int_eq(status, -1);
}
END_TEST

START_TEST(test_environment)
{
	const char *const listed[] = { "A=1", "B=two words", NULL };

	setenv("SECRET", "x", 1);
	setenv("TZ", "UTC", 1);
	setenv("LANG", "C.UTF-8", 1);
	setenv("HOME", "/h", 1);
	ck_assert_int_eq(sh("echo \"$SECRET|$TZ|$LANG|$HOME|${PATH:+p}\"", (struct sb_proc){ 0 }), SB_OK);
	ck_assert_str_eq(out.data, "|UTC|C.UTF-8|/h|p\n");
	sb_buf_reset(&out);
	ck_assert_int_eq(sh("echo \"$SECRET|$TZ|$HOME|$A|$B\"", (struct sb_proc){ .env = listed }), SB_OK);
	ck_assert_str_eq(out.data, "|||1|two words\n");
}
END_TEST

START_TEST(test_cwd)
{
	char path[TEST_PATH_MAX], want[TEST_PATH_MAX + 1];

	test_path(path, "");
	path[strlen(path) - 1] = '\0';
	ck_assert_int_eq(sh("pwd -P", (struct sb_proc){ .cwd = path }), SB_OK);
	(void)snprintf(want, sizeof(want), "%s\n", path);
	ck_assert_str_eq(out.data, want);
}
END_TEST

START_TEST(test_input)
{
	static char big[3000000];

	ck_assert_int_eq(sh("cat; echo end", (struct sb_proc){ .input = "given", .input_len = 5 }), SB_OK);
	ck_assert_str_eq(out.data, "givenend\n");
	sb_buf_reset(&out);
	ck_assert_int_eq(sh("cat; echo end", (struct sb_proc){ .input = "", .input_len = 0 }), SB_OK);
	ck_assert_str_eq(out.data, "end\n");
	memset(big, 'x', sizeof(big));
	sb_buf_reset(&out);
	ck_assert_int_eq(sh("wc -c | tr -d ' '", (struct sb_proc){ .input = big, .input_len = sizeof(big) }), SB_OK);
	ck_assert_str_eq(out.data, "3000000\n");
	/* through and back, more than the pipes hold: neither side may wait for the other for ever */
	sb_buf_release(&out);
	sb_buf_init(&out, 4000000);
	ck_assert_int_eq(
		sh("cat", (struct sb_proc){ .input = big, .input_len = sizeof(big), .output_max = sizeof(big) }),
		SB_OK);
	ck_assert_uint_eq(out.len, sizeof(big));
}
END_TEST

/* The child does not read: no SIGPIPE for us, and the signal mask is as before. */
START_TEST(test_input_not_wanted)
{
	static char big[1000000];
	sigset_t mask;

	ck_assert_int_eq(sh("exec 0<&-; exit 3", (struct sb_proc){ .input = big, .input_len = sizeof(big) }), SB_OK);
	ck_assert_int_eq(status, 3);
	ck_assert_int_eq(pthread_sigmask(SIG_BLOCK, NULL, &mask), 0);
	ck_assert_int_eq(sigismember(&mask, SIGPIPE), 0);
	ck_assert_int_eq(sigpending(&mask), 0);
	ck_assert_int_eq(sigismember(&mask, SIGPIPE), 0);
}
END_TEST

static const struct {
	const char *line;
	size_t max;
	const char *tail;
} tails[] = {
	{ "seq 1 100000", 12, "99999\n100000\n" + 1 },
	{ "seq 1 100000", 6, "00000\n" },
	{ "seq 1 100000", 1, "\n" },
	{ "seq 1 3; seq 4 5 >&2", 1000, NULL },
	{ "printf abcdef", 6, "abcdef" },
	{ "printf abcdefg", 6, "bcdefg" },
	{ "head -c 100000 /dev/zero | tr '\\0' x; printf END", 50000, NULL },
};

START_TEST(test_tail)
{
	ck_assert_int_eq(sh(tails[_i].line, (struct sb_proc){ .output_max = tails[_i].max }), SB_OK);
	ck_assert_uint_le(out.len, tails[_i].max);
	if (tails[_i].tail != NULL) {
		ck_assert_str_eq(out.data, tails[_i].tail);
	} else if (tails[_i].max == 50000) {
		ck_assert_uint_eq(out.len, 50000);
		ck_assert_str_eq(out.data + 49996, "xEND");
	} else {
		ck_assert_uint_eq(out.len, 10);
	}
}
END_TEST

START_TEST(test_head)
{
	const struct sb_proc head = { .output_head = true, .output_max = 6 };

	ck_assert_int_eq(sh("printf abcdef; echo no >&2", head), SB_OK);
	ck_assert_str_eq(out.data, "abcdef");
	sb_buf_reset(&out);
	ck_assert_int_eq(sh("printf abcdefg", head), SB_ETOOBIG);
	ck_assert_str_eq(out.data, "abcdef");
	ck_assert_str_eq(err.msg, "\"sh\" printed more than 6 bytes");
	sb_buf_reset(&out);
	ck_assert_int_eq(sh("yes", head), SB_ETOOBIG); /* is ended, would not end itself */
	ck_assert_str_eq(out.data, "y\ny\ny\n");
}
END_TEST

START_TEST(test_no_buffer)
{
	const char *argv[] = { "sh", "-c", "seq 1 100000; exit 4", NULL };
	const struct sb_proc p = { .argv = argv, .timeout_ms = 20000 };

	ck_assert_int_eq(sb_proc_run(&p, &status, NULL, &err), SB_OK);
	ck_assert_int_eq(status, 4);
	sb_buf_release(&out);
	sb_buf_init(&out, 3);
	ck_assert_int_eq(sh("echo too long", (struct sb_proc){ 0 }), SB_OK);
	ck_assert_int_eq(sb_buf_check(&out, "output", NULL), SB_ETOOBIG);
}
END_TEST

/* A reaped orphan of an orphan needs an init that reaps; a zombie counts as gone. */
static bool gone(int pid)
{
	char path[64], text[200] = "";
	ssize_t n;
	int fd;

	(void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return true;
	n = read(fd, text, sizeof(text) - 1);
	ck_assert_int_eq(close(fd), 0);
	return n <= 0 || strstr(text, ") Z ") != NULL;
}

/* TERM is ignored by the second one: it takes the KILL that comes 2 s later. Grandchildren go too. */
static const struct {
	const char *line;
	int64_t least_ms, most_ms;
} timeouts[] = {
	{ "echo started; sleep 1000 & echo $!; wait", 100, 1900 },
	{ "trap '' TERM; echo started; sleep 1000 & echo $!; while :; do wait; done", 2000, 8000 },
	{ "trap 'exit 0' TERM; echo started; sleep 1000 & echo $!; wait", 100, 1900 },
};

START_TEST(test_timeout)
{
	int64_t start_ms = sb_mono_ms(), took_ms;
	int r = sh(timeouts[_i].line, (struct sb_proc){ .timeout_ms = 300 });
	int pid = 0;

	took_ms = sb_mono_ms() - start_ms;
	ck_assert_int_eq(r, SB_ETIMEOUT);
	ck_assert_str_eq(err.msg, "\"sh\" did not end within 300 ms");
	ck_assert_int_ge(took_ms, timeouts[_i].least_ms);
	ck_assert_int_le(took_ms, timeouts[_i].most_ms);
	ck_assert_int_eq(sscanf(out.data, "started\n%d", &pid), 1);
	ck_assert(wait_until(gone(pid), 5000));
	ck_assert_int_eq(status, -1);
}
END_TEST

/* A process left behind that holds the pipes does not hold us. */
START_TEST(test_left_behind)
{
	int64_t start_ms = sb_mono_ms();
	int pid = 0;

	ck_assert_int_eq(sh("sleep 1000 & echo $!; exit 5", (struct sb_proc){ 0 }), SB_OK);
	ck_assert_int_eq(status, 5);
	ck_assert_int_lt(sb_mono_ms() - start_ms, 10000);
	ck_assert_int_eq(sscanf(out.data, "%d", &pid), 1);
	ck_assert_msg(!gone(pid), "only a time-out ends what it left behind");
	ck_assert_int_eq(kill(pid, SIGKILL), 0);
}
END_TEST

START_TEST(test_memory_limit)
{
	ck_assert_int_eq(sh("ulimit -v", (struct sb_proc){ .memory_max = 256u << 20 }), SB_OK);
	ck_assert_str_eq(out.data, "262144\n");
}
END_TEST

/* The child gets no descriptor but its three, default signals, and nothing blocked. */
START_TEST(test_clean_child)
{
	sigset_t set;
	int loose = open("/dev/null", O_RDONLY); /* not close-on-exec, as a library may open it */

	ck_assert_int_ge(loose, 3);
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGUSR1);
	ck_assert_int_eq(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);
	/* 32 and 33 are libc's own: posix_spawn(), by which make starts us, leaves them ignored and no program can change it */
	ck_assert_int_eq(sh("grep -E '^Sig(Blk|Ign)' /proc/self/status | tr -d '\\t' | sed -E 's/[138]80000000$/080000000/; s/80000000$/00000000/'; ls /proc/self/fd | wc -l",
				 (struct sb_proc){ 0 }),
		SB_OK);
	ck_assert_str_eq(
		out.data, "SigBlk:0000000000000000\nSigIgn:0000000000000000\n4\n"); /* ls has the folder open itself */
	ck_assert_int_eq(close(loose), 0);
}
END_TEST

/* A daemon without standard descriptors: ours must not land on 0, 1, 2 and be overwritten there. */
START_TEST(test_without_standard_descriptors)
{
	int keep = fcntl(2, F_DUPFD_CLOEXEC, 10);

	ck_assert_int_ge(keep, 10);
	(void)close(0); /* may not be open */
	(void)close(1);
	(void)close(2);
	ck_assert_int_eq(sh("cat; echo out; echo err >&2", (struct sb_proc){ .input = "in\n", .input_len = 3 }), SB_OK);
	ck_assert_int_eq(dup2(keep, 2), 2);
	ck_assert_uint_eq(out.len, 11);
	ck_assert_ptr_nonnull(strstr(out.data, "in\nout\n"));
}
END_TEST

static unsigned open_descriptors(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 200; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

START_TEST(test_nothing_is_left_open)
{
	const char *argv[] = { "/no/such/program", NULL };
	unsigned before = open_descriptors();

	for (int i = 0; i < 20; i++) {
		ck_assert_int_eq(sh("cat", (struct sb_proc){ .input = "x", .input_len = 1 }), SB_OK);
		ck_assert_int_eq(sh(NULL, (struct sb_proc){ .argv = argv }), SB_EIO);
	}
	ck_assert_uint_eq(open_descriptors(), before);
}
END_TEST

START_TEST(test_too_many_open_files)
{
	struct rlimit limit;

	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = open_descriptors() + 3;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	ck_assert_int_eq(sh("true", (struct sb_proc){ 0 }), SB_EIO);
	ck_assert_ptr_nonnull(strstr(err.msg, "Too many open files"));
}
END_TEST

START_TEST(test_out_of_memory)
{
	const char *const listed[] = { "A=1", NULL };
	int r = SB_OK;

	for (int own_env = 0; own_env < 2; own_env++)
		for (long n = 0;; n++) {
			sb_buf_release(&out);
			fault_alloc_after(n);
			r = sh("echo $A text", (struct sb_proc){ .env = own_env == 1 ? listed : NULL });
			fault_alloc_after(-1);
			if (!fault_hit())
				break;
			if (r == SB_OK) /* the last allocation is the caller's buffer */
				r = sb_buf_check(&out, "output", &err);
			ck_assert_int_eq(r, SB_ENOMEM);
		}
	ck_assert_int_eq(r, SB_OK);
	ck_assert_str_eq(out.data, "1 text\n");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("proc");
	TCase *tc = tcase_create("proc");

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_loop_test(tc, test_runs, 0, (int)SB_COUNT(runs));
	tcase_add_test(tc, test_no_shell);
	tcase_add_test(tc, test_cannot_start);
	tcase_add_test(tc, test_environment);
	tcase_add_test(tc, test_cwd);
	tcase_add_test(tc, test_input);
	tcase_add_test(tc, test_input_not_wanted);
	tcase_add_loop_test(tc, test_tail, 0, (int)SB_COUNT(tails));
	tcase_add_test(tc, test_head);
	tcase_add_test(tc, test_no_buffer);
	tcase_add_loop_test(tc, test_timeout, 0, (int)SB_COUNT(timeouts));
	tcase_add_test(tc, test_left_behind);
	tcase_add_test(tc, test_memory_limit);
	tcase_add_test(tc, test_clean_child);
	tcase_add_test(tc, test_without_standard_descriptors);
	tcase_add_test(tc, test_nothing_is_left_open);
	tcase_add_test(tc, test_too_many_open_files);
	tcase_add_test(tc, test_out_of_memory);
	suite_add_tcase(s, tc);
	return test_run(s);
}
