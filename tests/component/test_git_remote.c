/*
 * Git remotes through the worker process: a bare repository as the far side, and a small web server of canned answers
 * for what only a network can do wrong (silence, redirects, questions for the token). This program is its own worker,
 * as the daemons are.
 */
#include <arpa/inet.h>
#include <check.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stagebridge/clock.h"
#include "stagebridge/file.h"
#include "stagebridge/git.h"
#include "stagebridge/text.h"

#define OID (SB_OID_LEN + 1)

static char dir[64];
static char path_a[96], path_b[96], path_far[96], token_file[96];
static struct sb_repo *a, *b, *far_side;
static struct sb_remote remote;

static void must(int r, const struct sb_error *err)
{
	ck_assert_msg(r == 0, "%s: %s", sb_code_name(err->code), err->msg);
}

static void setup(void)
{
	struct sb_error err = SB_ERROR_INIT;

	memcpy(dir, "/tmp/sb-remote-XXXXXX", 22);
	ck_assert_ptr_nonnull(mkdtemp(dir));
	must(sb_git_init(&err), &err);
	must(sb_format(path_a, sizeof(path_a), &err, "%s/a.git", dir), &err);
	must(sb_format(path_b, sizeof(path_b), &err, "%s/b.git", dir), &err);
	must(sb_format(path_far, sizeof(path_far), &err, "%s/far.git", dir), &err);
	must(sb_format(token_file, sizeof(token_file), &err, "%s/token", dir), &err);
	must(sb_file_write(token_file, "s3cret-token\n", 13, 0400, &err), &err);
	must(sb_repo_open(&a, path_a, true, &err), &err);
	must(sb_repo_open(&b, path_b, true, &err), &err);
	must(sb_repo_open(&far_side, path_far, true, &err), &err);
	remote = (struct sb_remote){ .url = path_far, .timeout_ms = 30000 };
}

static void teardown(void)
{
	sb_repo_close(a);
	sb_repo_close(b);
	sb_repo_close(far_side);
	ck_assert_int_eq(sb_dir_remove(dir, NULL), 0);
}

static void commit(const char *parent, const char *content, char oid[OID])
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_git_file f = { .path = "file.txt", .content = content };

	must(sb_repo_commit_files(a, parent, &f, 1, content, "Ada", oid, &err), &err);
}

START_TEST(test_push_and_list)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_refs refs = { 0 };
	char c1[OID], c2[OID], other[OID];
	const char *ref = "refs/heads/stage/train";

	must(sb_remote_refs(&remote, &refs, &err), &err);
	ck_assert_uint_eq(refs.count, 0);
	commit("", "one", c1);
	commit(c1, "two", c2);
	commit("", "other root", other);

	must(sb_remote_push(&remote, path_a, c1, ref, "", false, &err), &err);
	ck_assert_int_eq(sb_remote_push(&remote, path_a, c2, ref, "", false, &err), SB_ECONFLICT);
	ck_assert_int_eq(sb_remote_push(&remote, path_a, c2, ref, other, true, &err), SB_ECONFLICT);
	ck_assert_ptr_nonnull(strstr(err.msg, c1)); /* says where it is */
	must(sb_remote_push(&remote, path_a, c2, ref, c1, false, &err), &err);
	/* no fast-forward: refused without force, against any expectation */
	ck_assert_int_eq(sb_remote_push(&remote, path_a, other, ref, c2, false, &err), SB_ECONFLICT);
	ck_assert_int_eq(sb_remote_push(&remote, path_a, c1, ref, NULL, false, &err), SB_ECONFLICT);
	must(sb_remote_push(&remote, path_a, other, ref, c2, true, &err), &err);
	must(sb_remote_push(&remote, path_a, c1, "refs/heads/main", NULL, false, &err), &err);

	must(sb_remote_refs(&remote, &refs, &err), &err);
	ck_assert_uint_eq(refs.count, 2);
	ck_assert_str_eq(refs.item[0].name, "refs/heads/main");
	ck_assert_str_eq(refs.item[0].oid, c1);
	ck_assert_str_eq(refs.item[1].name, ref);
	ck_assert_str_eq(refs.item[1].oid, other);
	sb_refs_release(&refs);

	must(sb_remote_push(&remote, path_a, "", ref, other, true, &err), &err); /* deletes */
	must(sb_remote_refs(&remote, &refs, &err), &err);
	ck_assert_uint_eq(refs.count, 1);
	sb_refs_release(&refs);
}
END_TEST

START_TEST(test_fetch)
{
	static const char *const specs[] = { "+refs/heads/*:refs/remotes/far/*" };
	struct sb_error err = SB_ERROR_INIT;
	char c1[OID], c2[OID], oid[OID], url[128];

	commit("", "one", c1);
	commit(c1, "two", c2);
	must(sb_remote_push(&remote, path_a, c1, "refs/heads/main", "", false, &err), &err);
	must(sb_remote_fetch(&remote, path_b, specs, 1, &err), &err);
	must(sb_repo_ref(b, "refs/remotes/far/main", oid, &err), &err);
	ck_assert_str_eq(oid, c1);
	must(sb_remote_push(&remote, path_a, c2, "refs/heads/main", c1, false, &err), &err);
	must(sb_format(url, sizeof(url), &err, "file://%s", path_far), &err);
	remote.url = url;
	must(sb_remote_fetch(&remote, path_b, specs, 1, &err), &err);
	must(sb_repo_ref(b, "refs/remotes/far/main", oid, &err), &err);
	ck_assert_str_eq(oid, c2);
	ck_assert(sb_repo_has(b, c2));
}
END_TEST

START_TEST(test_bad_remotes)
{
	static const char *const urls[] = { "ssh://host/x", "git://host/x", "host:path", "relative/path", "https://u:p@host/x", "http:///x",
		"ext::sh -c id", "", "file://host/x" };
	struct sb_error err = SB_ERROR_INIT;
	struct sb_refs refs = { 0 };
	char none[128];

	for (size_t i = 0; i < SB_COUNT(urls); i++) {
		remote.url = urls[i];
		ck_assert_msg(sb_remote_refs(&remote, &refs, &err) == SB_EINVAL, "%s", urls[i]);
	}
	must(sb_format(none, sizeof(none), &err, "%s/none.git", dir), &err);
	remote.url = none;
	ck_assert_int_lt(sb_remote_refs(&remote, &refs, &err), 0);
	ck_assert_ptr_null(strstr(err.msg, "no answer")); /* the worker said why */
	remote.url = path_far;
	ck_assert_int_eq(sb_remote_push(&remote, none, "", "refs/heads/x", "", false, &err), SB_ENOTFOUND);
	ck_assert_int_eq(sb_remote_push(&remote, path_a, "nonsense", "refs/heads/x", "", false, &err), SB_EINVAL);
}
END_TEST

/* ---- a web server that answers every request the same way ---- */

struct web {
	int fd;
	pthread_t thread;
	atomic_bool stop;
	atomic_int requests;
	atomic_int with_token;   /* requests that carried "Authorization: Basic" with our user and token */
	atomic_int with_other;   /* any other Authorization */
	const char *answer;      /* to a request without the token; NULL: silence */
	const char *answer_auth; /* to one with it; NULL: the same */
	char url[64];
};

/* base64("bridge:s3cret-token") */
static const char basic[] = "Authorization: Basic YnJpZGdlOnMzY3JldC10b2tlbg==";

static void web_serve(struct web *w, int c)
{
	char text[8192];
	size_t n = 0;

	text[0] = '\0';
	while (n + 1 < sizeof(text) && !strstr(text, "\r\n\r\n")) {
		ssize_t got = read(c, text + n, sizeof(text) - 1 - n);
		if (got <= 0)
			return;
		n += (size_t)got;
		text[n] = '\0';
	}
	bool token = strstr(text, basic) != NULL;
	const char *answer = token && w->answer_auth ? w->answer_auth : w->answer;

	atomic_fetch_add(&w->requests, 1);
	if (token)
		atomic_fetch_add(&w->with_token, 1);
	else if (strstr(text, "Authorization:"))
		atomic_fetch_add(&w->with_other, 1);
	if (answer)
		(void)!send(c, answer, strlen(answer), MSG_NOSIGNAL); /* the client may have gone */
	struct pollfd p = { .fd = c, .events = POLLIN };
	/* silence lasts until the client gives up */
	while (!answer && !atomic_load(&w->stop) && poll(&p, 1, 20) == 0)
		;
}

static void *web_main(void *arg)
{
	struct web *w = arg;
	struct pollfd p = { .fd = w->fd, .events = POLLIN };

	while (!atomic_load(&w->stop)) {
		if (poll(&p, 1, 20) <= 0)
			continue;
		int c = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC);
		if (c < 0)
			continue;
		web_serve(w, c);
		close(c);
	}
	return NULL;
}

static void web_start(struct web *w)
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(addr);

	w->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(w->fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	ck_assert_int_eq(listen(w->fd, 16), 0);
	ck_assert_int_eq(getsockname(w->fd, (struct sockaddr *)&addr, &len), 0);
	ck_assert_int_eq(sb_format(w->url, sizeof(w->url), NULL, "http://127.0.0.1:%d/t/r.git", ntohs(addr.sin_port)), 0);
	ck_assert_int_eq(pthread_create(&w->thread, NULL, web_main, w), 0);
}

static void web_stop(struct web *w)
{
	atomic_store(&w->stop, true);
	ck_assert_int_eq(pthread_join(w->thread, NULL), 0);
	close(w->fd);
}

#define CLOSE "Connection: close\r\nContent-Length: 0\r\n\r\n"
static const char ask[] = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"\r\n" CLOSE;
static const char adverts[] = "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\nConnection: close\r\n\r\n"
			      "001e# service=git-upload-pack\n0000"
			      "004d1111111111111111111111111111111111111111 refs/heads/main\0 ofs-delta agent=x";

START_TEST(test_silence)
{
	struct web w = { 0 };
	struct sb_error err = SB_ERROR_INIT;
	struct sb_refs refs = { 0 };
	int64_t began = sb_mono_ms();

	web_start(&w);
	remote.url = w.url;
	remote.timeout_ms = 500;
	ck_assert_int_eq(sb_remote_refs(&remote, &refs, &err), SB_ETIMEOUT);
	ck_assert_int_lt(sb_mono_ms() - began, 10000);
	ck_assert_int_eq(atomic_load(&w.requests), 1);
	web_stop(&w);
}
END_TEST

START_TEST(test_token)
{
	struct web w = { .answer = ask, .answer_auth = "HTTP/1.1 404 Not Found\r\n" CLOSE };
	struct sb_error err = SB_ERROR_INIT;
	struct sb_refs refs = { 0 };

	web_start(&w);
	remote.url = w.url;
	/* none configured */
	ck_assert_int_eq(sb_remote_refs(&remote, &refs, &err), SB_EAUTH);
	ck_assert_int_eq(atomic_load(&w.with_token), 0);
	/* given when asked, and the answer behind it is seen */
	remote.token_file = token_file;
	remote.token_user = "bridge";
	ck_assert_int_eq(sb_remote_refs(&remote, &refs, &err), SB_ENOTFOUND);
	ck_assert_int_eq(atomic_load(&w.with_token), 1);
	/* refused: given once more, not for ever */
	w.answer_auth = NULL;
	ck_assert_int_eq(sb_remote_refs(&remote, &refs, &err), SB_EAUTH);
	ck_assert_int_le(atomic_load(&w.with_token), 3);
	ck_assert_int_eq(atomic_load(&w.with_other), 0);
	ck_assert_ptr_null(strstr(err.msg, "s3cret"));
	/* a token that others can read is no secret */
	ck_assert_int_eq(chmod(token_file, 0644), 0);
	ck_assert_int_eq(sb_remote_refs(&remote, &refs, &err), SB_ECONFIG);
	web_stop(&w);
}
END_TEST

START_TEST(test_no_redirect)
{
	struct web target = { .answer = ask }, w = { 0 };
	struct sb_error err = SB_ERROR_INIT;
	struct sb_refs refs = { 0 };
	char redirect[256];

	web_start(&target);
	/* the same machine by another name */
	ck_assert_int_eq(sb_format(redirect, sizeof(redirect), NULL,
				 "HTTP/1.1 302 Found\r\n"
				 "Location: http://localhost%s/info/refs?service=git-upload-pack\r\n" CLOSE,
				 target.url + strlen("http://127.0.0.1")),
		0);
	w.answer = redirect;
	web_start(&w);
	remote.url = w.url;
	remote.token_file = token_file;
	remote.token_user = "bridge";
	ck_assert_int_lt(sb_remote_refs(&remote, &refs, &err), 0);
	ck_assert_int_eq(atomic_load(&target.requests), 0);
	ck_assert_int_eq(atomic_load(&w.with_token), 0);
	web_stop(&w);
	web_stop(&target);
}
END_TEST

START_TEST(test_broken_server)
{
	struct web w = { 0 };
	struct sb_error err = SB_ERROR_INIT;
	struct sb_refs refs = { 0 };
	static const char *const answers[] = {
		adverts, /* cut in the middle of a reference */
		"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<html>",
		"HTTP/1.1 500 Oops\r\n" CLOSE,
		"nonsense\r\n\r\n",
	};

	web_start(&w);
	remote.url = w.url;
	for (size_t i = 0; i < SB_COUNT(answers); i++) {
		w.answer = answers[i];
		err = (struct sb_error)SB_ERROR_INIT;
		ck_assert_msg(sb_remote_refs(&remote, &refs, &err) < 0, "answer %zu", i);
		ck_assert_uint_eq(refs.count, 0);
		ck_assert_ptr_null(refs.item);
	}
	web_stop(&w);
}
END_TEST

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "--git-worker") == 0)
		return sb_git_worker_main();

	Suite *suite = suite_create("git_remote");
	TCase *tc = tcase_create("remote");

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_push_and_list);
	tcase_add_test(tc, test_fetch);
	tcase_add_test(tc, test_bad_remotes);
	tcase_add_test(tc, test_silence);
	tcase_add_test(tc, test_token);
	tcase_add_test(tc, test_no_redirect);
	tcase_add_test(tc, test_broken_server);
	suite_add_tcase(suite, tc);

	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
