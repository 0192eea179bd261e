/*
 * Git over the network, the daemon's side: each operation is one child process of our own binary ("--git-worker").
 *
 * libgit2 1.5 waits forever for a silent server and grows with what a server sends; a process can be given a deadline
 * and a memory limit, and its end closes everything. Runs on the lane that asks and blocks it for at most the
 * deadline. The job goes in by standard input, with the token's path, never the token: neither argv nor the
 * environment shows a secret.
 */
#include <jansson.h>
#include <string.h>

#include "git_private.h"
#include "stagebridge/proc.h"
#include "stagebridge/text.h"

enum { DEFAULT_TIMEOUT_MS = 120000, ANSWER_MAX = 64 * 1024 * 1024 };

/* Address sanitizers reserve terabytes of addresses. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static const uint64_t memory_max = 0;
#else
static const uint64_t memory_max = (uint64_t)1536 << 20;
#endif

int sb_git_url_check(const char *url, struct sb_error *err)
{
	const char *host = NULL;

	if (!url || !sb_utf8_ok(url, strlen(url)))
		return sb_fail(err, SB_EINVAL, "the remote's address is missing or not text");
	if (strncmp(url, "http://", 7) == 0)
		host = url + 7;
	else if (strncmp(url, "https://", 8) == 0)
		host = url + 8;
	else if (url[0] == '/' || strncmp(url, "file:///", 8) == 0)
		return 0;
	if (!host || strcspn(host, "/") == 0)
		return sb_fail(err, SB_EINVAL, "a remote is http://, https://, file:/// or an absolute path");
	/* credentials in an address end up in logs and configuration files */
	if (memchr(host, '@', strcspn(host, "/")))
		return sb_fail(err, SB_EINVAL, "the remote's address must not hold credentials");
	return 0;
}

static json_t *job_new(const char *op, const struct sb_remote *remote, int64_t timeout_ms)
{
	return json_pack("{s:s, s:s, s:s?, s:s?, s:I}", "op", op, "url", remote->url, "token_file", remote->token_file, "token_user",
		remote->token_user, "timeout_ms", (json_int_t)timeout_ms);
}

/* The worker's own verdict: its code is one of ours or it is not believed. */
static int worker_error(const json_t *answer, struct sb_error *err)
{
	json_int_t code = json_integer_value(json_object_get(answer, "code"));
	const char *msg = json_string_value(json_object_get(answer, "msg"));

	if (code == 0)
		return 0;
	if (code > 0 || code < -64 || strcmp(sb_code_name((enum sb_code)code), "?") == 0)
		return sb_fail(err, SB_EGIT, "the git worker gave an unknown answer");
	(void)sb_fail(err, (enum sb_code)code, "%s", msg ? msg : "no reason given"); /* returned below */
	if (err)
		err->retriable = json_is_true(json_object_get(answer, "retriable"));
	return (int)code;
}

/* Takes job. ret_answer: new. */
static int run_job(json_t *job, const struct sb_remote *remote, int64_t timeout_ms, json_t **ret_answer, struct sb_error *err)
{
	static const char *const argv[] = { "/proc/self/exe", "--git-worker", NULL };
	json_auto_t *owned = job;
	sb_cleanup(sb_freep) char *input = owned ? json_dumps(owned, JSON_COMPACT) : NULL;
	sb_cleanup(sb_buf_release) struct sb_buf out = { 0 };
	struct sb_proc p = {
		.argv = argv, .timeout_ms = timeout_ms, .output_max = ANSWER_MAX, .output_head = true, .memory_max = memory_max
	};
	json_error_t je;
	int status = 0;
	int r = sb_git_url_check(remote->url, err);

	if (r < 0)
		return r;
	if (!input)
		return sb_fail_nomem(err);
	p.input = input;
	p.input_len = strlen(input);
	sb_buf_init(&out, ANSWER_MAX);
	r = sb_proc_run(&p, &status, &out, err);
	if (r < 0) {
		(void)sb_fail_prefix(err, "git worker"); /* adds context only */
		return r;
	}
	json_auto_t *answer = json_loadb(out.data, out.len, JSON_REJECT_DUPLICATES, &je);
	if (!json_is_object(answer)) {
		r = sb_fail(err, SB_EGIT, "the git worker ended with status %d and no answer", status);
		if (err)
			err->retriable = true; /* killed for its memory, or by a signal: another time it may fit */
		return r;
	}
	r = worker_error(answer, err);
	if (r < 0)
		return r;
	if (ret_answer)
		*ret_answer = SB_TAKE(answer);
	return 0;
}

static int64_t timeout_of(const struct sb_remote *remote)
{
	return remote->timeout_ms > 0 ? remote->timeout_ms : DEFAULT_TIMEOUT_MS;
}

int sb_remote_refs(const struct sb_remote *remote, struct sb_refs *ret, struct sb_error *err)
{
	sb_cleanup(sb_refs_release) struct sb_refs refs = { 0 };
	json_t *answer = NULL;
	int64_t timeout = timeout_of(remote);
	int r = run_job(job_new("refs", remote, timeout), remote, timeout, &answer, err);

	if (r < 0)
		return r;
	json_auto_t *owned = answer;
	const json_t *list = json_object_get(owned, "refs");
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *item = json_array_get(list, i);
		const char *name = json_string_value(json_array_get(item, 0));
		git_oid oid;

		r = sb_git_oid(&oid, json_string_value(json_array_get(item, 1)), err);
		if (r == 0 && name)
			r = sb_git_refs_add(&refs, name, &oid, err);
		if (r < 0)
			return r;
	}
	sb_git_refs_sort(&refs);
	*ret = refs;
	refs = (struct sb_refs){ 0 };
	return 0;
}

int sb_remote_fetch(const struct sb_remote *remote, const char *repo_path, const char *const *refspecs, size_t n, struct sb_error *err)
{
	int64_t timeout = timeout_of(remote);
	json_t *job = job_new("fetch", remote, timeout);
	json_t *list = json_array();
	int bad = json_object_set_new(job, "repo", json_string(repo_path));

	for (size_t i = 0; i < n; i++)
		bad |= json_array_append_new(list, json_string(refspecs[i]));
	bad |= json_object_set_new(job, "refspecs", list);
	if (bad) {
		json_decref(job);
		return sb_fail(err, SB_EINVAL, "a path or a refspec is not UTF-8 text");
	}
	return run_job(job, remote, timeout, NULL, err);
}

int sb_remote_push(const struct sb_remote *remote, const char *repo_path, const char *src_oid, const char *ref, const char *expected,
	bool force, struct sb_error *err)
{
	int64_t timeout = timeout_of(remote);
	json_t *job = job_new("push", remote, timeout);
	int bad = json_object_set_new(job, "repo", json_string(repo_path));

	bad |= json_object_set_new(job, "src", json_string(src_oid ? src_oid : ""));
	bad |= json_object_set_new(job, "ref", json_string(ref));
	bad |= json_object_set_new(job, "expected", expected ? json_string(expected) : json_null());
	bad |= json_object_set_new(job, "force", json_boolean(force));
	if (bad) {
		json_decref(job);
		return sb_fail(err, SB_EINVAL, "a path or a reference name is not UTF-8 text");
	}
	return run_job(job, remote, timeout, NULL, err);
}
