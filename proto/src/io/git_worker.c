/*
 * Git over the network, the child's side: one job from standard input, one answer to standard output, then the end.
 *
 * Single-threaded, own process (see git_remote.c). It dies with its parent and by its own alarm should the parent be
 * stopped. Redirects to another host are refused (libgit2 still follows one within the host, never from https to
 * http), and the token is given once, only for the address that was configured, only as basic authentication. A push
 * compares the remote's old value twice: when the references are listed and, through libgit2's negotiation callback,
 * with the value that goes into the push command itself, which the server compares again under its lock.
 */
#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "git_private.h"
#include "stagebridge/buf.h"
#include "stagebridge/file.h"
#include "stagebridge/text.h"

enum { JOB_MAX = 1024 * 1024, TOKEN_MAX = 4096, OBJECTS_MAX = 20 * 1000 * 1000, ALARM_GRACE_S = 5 };
static const uint64_t fetch_bytes_max = (uint64_t)16 << 30;

struct job {
	json_t *in; /* owned */
	const char *op, *url, *repo, *token_file, *token_user, *src, *ref, *expected;
	bool force;
	bool token_given;
	char old[SB_OID_LEN + 1]; /* push: the remote's value when listed; "" when absent */
	struct sb_error *err;     /* of a callback: stronger than libgit2's message */
};

/* "https://host:port" of an address: what a token is bound to. */
static size_t origin_length(const char *url)
{
	const char *host = strstr(url, "://");

	return host ? (size_t)(host + 3 - url) + strcspn(host + 3, "/") : 0;
}

/* What a callback returns to stop libgit2, with our own reason. */
static int stop(struct job *job, enum sb_code code, const char *why)
{
	(void)sb_fail(job->err, code, "%s", why); /* found by remote_fail */
	return GIT_EUSER;
}

static int on_credentials(git_credential **out, const char *url, const char *user, unsigned allowed, void *payload)
{
	struct job *job = payload;
	sb_cleanup(sb_freep) char *token = NULL;
	size_t n = origin_length(job->url), len = 0;

	(void)user;
	if (!job->token_file)
		return stop(job, SB_EAUTH, "the remote wants credentials and none are configured");
	if (job->token_given)
		return stop(job, SB_EAUTH, "the remote refused the token");
	if (!(allowed & GIT_CREDENTIAL_USERPASS_PLAINTEXT))
		return stop(job, SB_EAUTH, "the remote does not take a user and a token");
	if (n == 0 || origin_length(url) != n || strncmp(url, job->url, n) != 0)
		return stop(job, SB_EAUTH, "another address asked for the token");
	if (sb_file_read_secret(job->token_file, TOKEN_MAX, &token, &len, job->err) < 0)
		return GIT_EUSER;
	token[strcspn(token, "\r\n")] = '\0';
	job->token_given = true;
	int rc = git_credential_userpass_plaintext_new(out, job->token_user ? job->token_user : "stagebridge", token);
	explicit_bzero(token, len);
	return rc;
}

static int on_progress(const git_indexer_progress *stats, void *payload)
{
	struct job *job = payload;

	if (stats->total_objects > OBJECTS_MAX || stats->received_bytes > fetch_bytes_max)
		return stop(job, SB_ETOOBIG, "the remote sends more objects or bytes than are taken");
	return 0;
}

static int moved(struct job *job, const char *now)
{
	return sb_fail(job->err, SB_ECONFLICT, "\"%s\" is at %s on the remote, not at %s", job->ref, now[0] ? now : "nothing",
		job->expected[0] ? job->expected : "nothing");
}

/* Compares what the push command will say the old value is. */
static int on_negotiation(const git_push_update **updates, size_t n, void *payload)
{
	struct job *job = payload;

	for (size_t i = 0; i < n; i++) {
		char old[SB_OID_LEN + 1] = "";

		if (!git_oid_is_zero(&updates[i]->src))
			sb_git_hex(old, &updates[i]->src);
		if (strcmp(old, job->old) != 0 || (job->expected && strcmp(old, job->expected) != 0)) {
			if (!job->expected)
				job->expected = job->old;
			(void)moved(job, old); /* found by remote_fail */
			return GIT_EUSER;
		}
	}
	return 0;
}

/* The server's verdict on one reference. */
static int on_pushed(const char *ref, const char *status, void *payload)
{
	static const char *const races[] = { "fast-forward", "fetch first", "stale", "lock", "already exists", "old value",
		"reference changed" };
	struct job *job = payload;
	enum sb_code code = SB_EREFUSED;

	if (!status)
		return 0;
	for (size_t i = 0; i < SB_COUNT(races); i++) {
		if (strstr(status, races[i]))
			code = SB_ECONFLICT;
	}
	(void)sb_fail(job->err, code, "the remote refused \"%s\": %s", ref, status); /* found by remote_fail */
	return GIT_EUSER;
}

static int callbacks_init(git_remote_callbacks *cb, struct job *job)
{
	int rc = git_remote_init_callbacks(cb, GIT_REMOTE_CALLBACKS_VERSION);

	cb->credentials = on_credentials;
	cb->transfer_progress = on_progress;
	cb->push_negotiation = on_negotiation;
	cb->push_update_reference = on_pushed;
	cb->payload = job;
	return rc;
}

/* libgit2's failure, unless a callback of ours knows better. */
static int remote_fail(struct job *job, int rc, const char *what)
{
	const git_error *e = git_error_last();

	if (job->err->code != SB_OK)
		return job->err->code;
	if (rc == GIT_ENONFASTFORWARD)
		return sb_fail(job->err, SB_ECONFLICT, "\"%s\" on the remote is not an ancestor of what is pushed", job->ref);
	if (e && e->message && (strstr(e->message, "status code: 404") || strstr(e->message, "404 Not Found")))
		return sb_fail(job->err, SB_ENOTFOUND, "%s: the remote knows no such repository", what);
	if (e && e->message && (strstr(e->message, "status code: 401") || strstr(e->message, "status code: 403")))
		return sb_fail(job->err, SB_EAUTH, "%s: the remote refused us", what);
	return sb_git_fail(job->err, rc, "%s", what);
}

static int connect_to(struct job *job, git_remote *remote, git_direction direction)
{
	git_remote_connect_options o;
	int rc = git_remote_connect_options_init(&o, GIT_REMOTE_CONNECT_OPTIONS_VERSION);

	if (rc == 0)
		rc = callbacks_init(&o.callbacks, job);
	o.follow_redirects = GIT_REMOTE_REDIRECT_NONE;
	if (rc == 0)
		rc = git_remote_connect_ext(remote, direction, &o);
	return rc < 0 ? remote_fail(job, rc, "could not reach the remote") : 0;
}

static int job_refs(struct job *job, json_t *out)
{
	git_remote *remote = NULL;
	const git_remote_head **heads = NULL;
	json_t *list = json_array();
	size_t n = 0;
	int rc = git_remote_create_detached(&remote, job->url);

	if (rc < 0)
		rc = remote_fail(job, rc, "could not prepare the remote");
	else
		rc = connect_to(job, remote, GIT_DIRECTION_FETCH);
	if (rc == 0 && git_remote_ls(&heads, &n, remote) < 0)
		rc = remote_fail(job, GIT_ERROR, "could not list the remote's references");
	for (size_t i = 0; rc == 0 && i < n; i++) {
		char hex[SB_OID_LEN + 1];

		/* peeled tags and HEAD are no references of their own; a name that is no text is nobody's of ours */
		if (strncmp(heads[i]->name, "refs/", 5) != 0 || strstr(heads[i]->name, "^{}") ||
			!sb_utf8_ok(heads[i]->name, strlen(heads[i]->name)))
			continue;
		sb_git_hex(hex, &heads[i]->oid);
		if (json_array_append_new(list, json_pack("[ss]", heads[i]->name, hex)) != 0)
			rc = sb_fail_nomem(job->err);
	}
	if (json_object_set_new(out, "refs", list) != 0 && rc == 0)
		rc = sb_fail_nomem(job->err);
	git_remote_free(remote);
	return rc;
}

static int open_remote(struct job *job, struct sb_repo **repo, git_remote **remote)
{
	int rc = sb_repo_open(repo, job->repo, false, job->err);

	if (rc < 0)
		return rc;
	rc = git_remote_create_anonymous(remote, (*repo)->repo, job->url);
	return rc < 0 ? remote_fail(job, rc, "could not prepare the remote") : 0;
}

static int job_fetch(struct job *job)
{
	const json_t *specs = json_object_get(job->in, "refspecs");
	size_t n = json_array_size(specs);
	char **list = calloc(n + 1, sizeof(*list));
	git_strarray refspecs = { .strings = list, .count = n };
	git_remote *remote = NULL;
	struct sb_repo *repo = NULL;
	git_fetch_options o;
	int rc = list ? open_remote(job, &repo, &remote) : sb_fail_nomem(job->err);

	for (size_t i = 0; rc == 0 && i < n; i++) {
		list[i] = sb_strdup(json_string_value(json_array_get(specs, i)));
		if (!list[i])
			rc = sb_fail(job->err, SB_EINVAL, "a refspec is not a string");
	}
	if (rc == 0) {
		rc = git_fetch_options_init(&o, GIT_FETCH_OPTIONS_VERSION);
		if (rc == 0)
			rc = callbacks_init(&o.callbacks, job);
		o.update_fetchhead = 0;
		o.download_tags = GIT_REMOTE_DOWNLOAD_TAGS_NONE;
		o.follow_redirects = GIT_REMOTE_REDIRECT_NONE;
		if (rc == 0)
			rc = git_remote_fetch(remote, &refspecs, &o, "fetch");
		if (rc < 0)
			rc = remote_fail(job, rc, "could not fetch");
	}
	for (size_t i = 0; list && i < n; i++)
		free(list[i]);
	free(list);
	git_remote_free(remote);
	sb_repo_close(repo);
	return rc;
}

/* The remote's present value of the reference, compared with the expected one. */
static int check_old(struct job *job, git_remote *remote)
{
	const git_remote_head **heads = NULL;
	size_t n = 0;
	int rc = git_remote_ls(&heads, &n, remote);

	if (rc < 0)
		return remote_fail(job, rc, "could not list the remote's references");
	for (size_t i = 0; i < n; i++) {
		if (strcmp(heads[i]->name, job->ref) == 0)
			sb_git_hex(job->old, &heads[i]->oid);
	}
	if (job->expected && strcmp(job->old, job->expected) != 0)
		return moved(job, job->old);
	return 0;
}

/* libgit2 1.5 pushes references only, so the commit gets one while it is pushed. Its name is derived from both ends: what a killed
 * worker left is taken over by the next attempt, and two pushes at a time do not meet. */
static int source_ref(struct job *job, struct sb_repo *repo, char *name, size_t size, bool make)
{
	if (!job->src[0])
		return 0; /* deletes the remote's reference */
	int rc = sb_format(name, size, job->err, "refs/stagebridge/push/%s/%s", job->src, job->ref);
	if (rc == 0)
		rc = sb_repo_ref_set(repo, name, make ? job->src : NULL, NULL, "push", make ? job->err : NULL);
	return rc;
}

static int push_connected(struct job *job, git_remote *remote, const char *source)
{
	sb_cleanup(sb_freep) char *spec = sb_asprintf("%s%s:%s", job->force ? "+" : "", source, job->ref);
	char *list[] = { spec };
	git_strarray refspecs = { .strings = list, .count = 1 };
	git_push_options o;
	int rc = git_push_options_init(&o, GIT_PUSH_OPTIONS_VERSION);

	if (!spec)
		return sb_fail_nomem(job->err);
	if (rc == 0)
		rc = callbacks_init(&o.callbacks, job);
	o.follow_redirects = GIT_REMOTE_REDIRECT_NONE;
	if (rc == 0)
		rc = git_remote_upload(remote, &refspecs, &o);
	return rc < 0 ? remote_fail(job, rc, "could not push") : 0;
}

static int job_push(struct job *job)
{
	char source[512] = "";
	git_remote *remote = NULL;
	struct sb_repo *repo = NULL;
	git_oid id;
	int rc = 0;

	if (job->src[0])
		rc = sb_git_oid(&id, job->src, job->err);
	if (rc == 0)
		rc = open_remote(job, &repo, &remote);
	if (rc == 0)
		rc = connect_to(job, remote, GIT_DIRECTION_PUSH);
	if (rc == 0)
		rc = check_old(job, remote);
	if (rc == 0)
		rc = source_ref(job, repo, source, sizeof(source), true);
	if (rc == 0)
		rc = push_connected(job, remote, source);
	git_remote_free(remote);
	if (source[0] && source_ref(job, repo, source, sizeof(source), false) < 0)
		source[0] = '\0'; /* left for the next push of the same; the result stands */
	sb_repo_close(repo);
	return rc;
}

static const char *text_of(const json_t *in, const char *key)
{
	return json_string_value(json_object_get(in, key));
}

static int read_job(struct job *job, struct sb_error *err)
{
	sb_cleanup(sb_buf_release) struct sb_buf in = { 0 };
	char block[4096];
	json_error_t je;
	ssize_t n;

	sb_buf_init(&in, JOB_MAX);
	while ((n = read(STDIN_FILENO, block, sizeof(block))) != 0) {
		if (n < 0 && errno != EINTR)
			return sb_fail_errno(err, errno, "could not read the job");
		if (n > 0)
			sb_buf_add(&in, block, (size_t)n);
	}
	int r = sb_buf_check(&in, "the job", err);
	if (r < 0)
		return r;
	job->in = json_loadb(in.data, in.len, JSON_REJECT_DUPLICATES, &je);
	if (!json_is_object(job->in))
		return sb_fail(err, SB_EINVAL, "the job is not a JSON object");
	job->op = text_of(job->in, "op");
	job->url = text_of(job->in, "url");
	job->repo = text_of(job->in, "repo");
	job->token_file = text_of(job->in, "token_file");
	job->token_user = text_of(job->in, "token_user");
	job->src = text_of(job->in, "src");
	job->ref = text_of(job->in, "ref");
	job->expected = text_of(job->in, "expected");
	job->force = json_is_true(json_object_get(job->in, "force"));
	return sb_git_url_check(job->url, err);
}

static int run(struct job *job, json_t *out)
{
	int r = read_job(job, job->err);

	if (r < 0)
		return r;
	json_int_t ms = json_integer_value(json_object_get(job->in, "timeout_ms"));
	if (ms > 0 && ms < INT32_MAX)
		alarm((unsigned)(ms / 1000) + ALARM_GRACE_S);
	r = sb_git_init(job->err);
	if (r < 0)
		return r;
	sb_git_small_memory();
	if (job->op && strcmp(job->op, "refs") == 0)
		return job_refs(job, out);
	if (job->op && strcmp(job->op, "fetch") == 0 && job->repo)
		return job_fetch(job);
	if (job->op && strcmp(job->op, "push") == 0 && job->repo && job->src && job->ref)
		return job_push(job);
	return sb_fail(job->err, SB_EINVAL, "the job lacks something, or is unknown");
}

int sb_git_worker_main(void)
{
	struct sb_error err = SB_ERROR_INIT;
	struct job job = { .err = &err };
	json_auto_t *out = json_object();
	int bad;

	/* a stopped daemon must not leave workers that push later */
	if (!out || prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
		return 3;
	int r = run(&job, out);
	bad = json_object_set_new(out, "code", json_integer(r));
	if (r < 0) {
		const char *msg = sb_utf8_ok(err.msg, strlen(err.msg)) ? err.msg : "the reason is not text";

		bad |= json_object_set_new(out, "msg", json_string(msg));
		bad |= json_object_set_new(out, "retriable", json_boolean(err.retriable));
	}
	sb_cleanup(sb_freep) char *text = bad ? NULL : json_dumps(out, JSON_COMPACT);
	json_decref(job.in);
	if (!text || sb_write_all(STDOUT_FILENO, text, strlen(text), NULL) < 0)
		return 3;
	return 0;
}
