/* A release: <deploy_dir>/releases/<artifact>-<promotion>, exported from Git, and the link <deploy_dir>/current that is moved by rename. The hook sees
 * the new release in place; when it or the health check says no, the link goes back to where it was. Hooks may run twice after a kill and must cope. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "deploy.h"
#include "stagebridge/file.h"
#include "stagebridge/log.h"
#include "stagebridge/proc.h"
#include "stagebridge/text.h"

#define PATH_MAX_BYTES 1024
#define ENV_MAX 64

struct place {
	char release[PATH_MAX_BYTES];
	char link[PATH_MAX_BYTES];
	char next[PATH_MAX_BYTES];    /* the link under its temporary name */
	char before[PATH_MAX_BYTES];  /* the link `previous`: what to go back to, also after a kill in the middle */
	char former[PATH_MAX_BYTES];  /* the release that was in use before this one; "" nothing */
};

static int read_link(const char *link, char out[PATH_MAX_BYTES], struct sb_error *err)
{
	ssize_t n = readlink(link, out, PATH_MAX_BYTES - 1);

	if (n < 0 && errno != ENOENT)
		return sb_fail_errno(err, errno, "\"%s\" is not a link of ours", link);
	out[n < 0 ? 0 : n] = '\0';
	return 0;
}

static int find_place(struct place *p, const struct agent_origin *origin, const struct agent_order *o, struct sb_error *err)
{
	int r = sb_format(p->release, sizeof(p->release), err, "%s/releases/%.16s-%s", origin->deploy_dir, o->artifact, o->promotion);

	if (r == 0)
		r = sb_format(p->link, sizeof(p->link), err, "%s/current", origin->deploy_dir);
	if (r == 0)
		r = sb_format(p->next, sizeof(p->next), err, "%s/current.next", origin->deploy_dir);
	if (r == 0)
		r = sb_format(p->before, sizeof(p->before), err, "%s/previous", origin->deploy_dir);
	if (r == 0)
		r = read_link(p->link, p->former, err);
	/* a kill came after the switch: the release before is what `previous` says */
	if (r == 0 && strcmp(p->former, p->release) == 0)
		r = read_link(p->before, p->former, err);
	return r;
}

static int point(const struct place *p, const char *link, const char *target, struct sb_error *err)
{
	if (unlink(p->next) != 0 && errno != ENOENT)
		return sb_fail_errno(err, errno, "could not remove \"%s\"", p->next);
	if (symlink(target, p->next) != 0 || rename(p->next, link) != 0)
		return sb_fail_errno(err, errno, "could not point \"%s\" to the release", link);
	return 0;
}

static int switch_over(const struct place *p, struct sb_error *err)
{
	int r = *p->former ? point(p, p->before, p->former, err) : 0;

	return r < 0 ? r : point(p, p->link, p->release, err);
}

static int put_back(const struct place *p, struct sb_error *err)
{
	if (*p->former && strcmp(p->former, p->release) != 0)
		return point(p, p->link, p->former, err);
	if (!*p->former && unlink(p->link) != 0 && errno != ENOENT)
		return sb_fail_errno(err, errno, "could not remove \"%s\"", p->link);
	return 0;
}

/* "K=V" strings: a small path, what the config lists, then ours, which win. */
struct env { char *item[ENV_MAX]; size_t n; };

static void env_release(struct env *e)
{
	for (size_t i = 0; i < e->n; i++)
		free(e->item[i]);
}

static int env_add(struct env *e, const char *key, const char *value, struct sb_error *err)
{
	if (e->n == ENV_MAX - 1)
		return sb_fail(err, SB_ETOOBIG, "more than %d variables in the hook's environment", ENV_MAX - 1);
	e->item[e->n] = key ? sb_asprintf("%s=%s", key, value) : sb_strdup(value);
	if (!e->item[e->n])
		return sb_fail_nomem(err);
	e->n++;
	return 0;
}

static int env_make(struct env *e, const struct agent *a, const struct agent_origin *origin, const struct agent_order *o, const struct place *p, struct sb_error *err)
{
	const char *own[][2] = { { "PATH", "/usr/local/bin:/usr/bin:/bin" }, { "LANG", "C.UTF-8" }, { "SB_TENANT", a->set.tenant }, { "SB_STAGE", a->set.stage }, { "SB_ORIGIN", o->origin },
		{ "SB_ARTIFACT", o->artifact }, { "SB_COMMIT", o->commit }, { "SB_PROMOTION", o->promotion }, { "SB_KIND", o->kind }, { "SB_RELEASE", p->release }, { "SB_PREVIOUS", p->former } };
	int r = 0;

	for (size_t i = 0; r == 0 && i < origin->environment.count; i++)
		r = env_add(e, NULL, origin->environment.item[i], err);
	for (size_t i = 0; r == 0 && i < SB_COUNT(own); i++)
		r = env_add(e, own[i][0], own[i][1], err);
	return r;
}

/* 0 said yes, 1 said no (outcome filled), or an error of ours */
static int ask(const char *what, const struct sb_strings *argv, const struct env *env, const struct agent_origin *origin, const struct place *p, struct agent_outcome *out, struct sb_error *err)
{
	const char *args[64];
	struct sb_proc proc = { .argv = args, .env = (const char *const *)env->item, .cwd = p->release, .timeout_ms = origin->timeout_ms, .output_max = AGENT_OUTPUT_MAX };
	struct sb_error why = SB_ERROR_INIT;
	int status = 0;

	if (argv->count == 0)
		return 0;
	if (argv->count >= SB_COUNT(args))
		return sb_fail(err, SB_ECONFIG, "%s has more than %zu arguments", what, SB_COUNT(args) - 1);
	for (size_t i = 0; i < argv->count; i++)
		args[i] = argv->item[i];
	args[argv->count] = NULL;
	sb_buf_reset(&out->output);
	int r = sb_proc_run(&proc, &status, &out->output, &why);
	if (r == 0 && status == 0)
		return 0;
	out->state = "failed";
	if (r < 0)
		(void)snprintf(out->reason, sizeof(out->reason), "%s: %.400s", what, why.msg);
	else
		(void)snprintf(out->reason, sizeof(out->reason), "%s said no with exit status %d", what, status);
	return 1;
}

/* Keeps the newest releases, and always the one in use and the one before. Best effort: what cannot be removed stays. */
static void prune(const struct agent_origin *origin, const struct place *p)
{
	char dir[PATH_MAX_BYTES], oldest[PATH_MAX_BYTES];
	struct sb_error ignored = SB_ERROR_INIT;
	struct dirent *entry;
	struct stat st;

	for (;;) {
		time_t when = 0;
		unsigned n = 0;
		DIR *d;

		if (sb_format(dir, sizeof(dir), &ignored, "%s/releases", origin->deploy_dir) < 0 || !(d = opendir(dir)))
			return;
		oldest[0] = '\0';
		while ((entry = readdir(d))) {
			char path[PATH_MAX_BYTES + 256];

			if (entry->d_name[0] == '.' || sb_format(path, sizeof(path), &ignored, "%s/%s", dir, entry->d_name) < 0 || lstat(path, &st) != 0)
				continue;
			n++;
			if (strcmp(path, p->release) != 0 && strcmp(path, p->former) != 0 && (!*oldest || st.st_mtime < when) && sb_format(oldest, sizeof(oldest), &ignored, "%s", path) == 0)
				when = st.st_mtime;
		}
		(void)closedir(d); /* read only */
		if (n <= AGENT_RELEASES_KEPT || !*oldest || sb_dir_remove(oldest, &ignored) < 0)
			return;
	}
}

/* The former release is back in place: its hook is told, so that what serves is what the link says. Its trouble goes into the reason of the failure. */
static int restore(const struct agent *a, const struct agent_origin *origin, const struct agent_order *o, const struct place *p, struct agent_outcome *out, struct sb_error *err)
{
	struct agent_outcome again = { .state = "failed" };
	struct agent_order undo = *o;
	struct place back = *p;
	struct env env = { .n = 0 };

	int r = put_back(p, err);
	if (r < 0 || !*p->former || strcmp(p->former, p->release) == 0)
		return r;
	undo.kind = "restore";
	memcpy(back.release, p->former, sizeof(back.release));
	memcpy(back.former, p->release, sizeof(back.former));
	sb_buf_init(&again.output, AGENT_OUTPUT_MAX + 1);
	r = env_make(&env, a, origin, &undo, &back, err);
	if (r == 0)
		r = ask("the former release's deploy hook", &origin->hook, &env, origin, &back, &again, err);
	if (r == 1) {
		size_t n = strlen(out->reason);

		(void)snprintf(out->reason + n, sizeof(out->reason) - n, "; and %.200s", again.reason);
		r = 0;
	}
	sb_buf_release(&again.output);
	env_release(&env);
	return r;
}

static int make_release(struct sb_repo *repo, const struct agent_origin *origin, const struct agent_order *o, const struct place *p, struct sb_error *err)
{
	char releases[PATH_MAX_BYTES];
	struct stat st;

	int r = sb_format(releases, sizeof(releases), err, "%s/releases", origin->deploy_dir);
	if (r == 0)
		r = sb_dir_make(releases, 0755, err);
	if (r < 0)
		return r;
	/* left by a kill: whole, because it came by rename, and of this very promotion */
	if (lstat(p->release, &st) == 0)
		return 0;
	return sb_repo_export(repo, o->commit, p->release, err);
}

int agent_release(struct agent *a, struct sb_repo *repo, const struct agent_origin *origin, const struct agent_order *o, struct agent_outcome *out, struct sb_error *err)
{
	struct env env = { .n = 0 };
	struct place p;

	int r = find_place(&p, origin, o, err);
	if (r == 0)
		r = make_release(repo, origin, o, &p, err);
	if (r < 0 && !err->retriable) {
		out->state = "failed"; /* the artifact cannot be put in place: a definitive no */
		(void)snprintf(out->reason, sizeof(out->reason), "%s", err->msg);
		return 0;
	}
	if (r == 0)
		r = env_make(&env, a, origin, o, &p, err);
	if (r == 0)
		r = switch_over(&p, err);
	if (r == 0)
		r = ask("deploy hook", &origin->hook, &env, origin, &p, out, err);
	if (r == 0)
		r = ask("health check", &origin->health, &env, origin, &p, out, err);
	if (r == 1) {
		r = restore(a, origin, o, &p, out, err);
	} else if (r == 0) {
		out->state = "healthy";
		prune(origin, &p);
	}
	env_release(&env);
	return r;
}
