/* The system's hints about a folder (inotify): which names to look at now instead of at the next poll. They are never the truth: they may be lost, doubled, or not
 * come at all (network file systems), and then the polls find everything. The source's lane. */
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "dirsrc.h"

#define FOLDERS_MAX 4096 /* more are polled alone */
#define EVENTS (IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_CREATE | IN_ONLYDIR)

struct folder { int wd; char *name; };
struct dirsrc_watch {
	int fd;
	struct folder *folder;
	size_t n;
};

int dirsrc_watch_new(struct dirsrc_watch **ret, struct sb_error *err)
{
	struct dirsrc_watch *w = calloc(1, sizeof(*w));

	*ret = NULL;
	if (!w)
		return sb_fail_nomem(err);
	w->fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (w->fd < 0) {
		free(w); /* too many instances, or none at all: polled alone */
		return 0;
	}
	*ret = w;
	return 0;
}

void dirsrc_watch_free(struct dirsrc_watch *w)
{
	if (!w)
		return;
	sb_closep(&w->fd);
	for (size_t i = 0; i < w->n; i++)
		free(w->folder[i].name);
	free(w->folder);
	free(w);
}

int dirsrc_watch_fd(const struct dirsrc_watch *w)
{
	return w ? w->fd : -1;
}

static struct folder *by_wd(const struct dirsrc_watch *w, int wd)
{
	for (size_t i = 0; i < w->n; i++) {
		if (w->folder[i].wd == wd)
			return &w->folder[i];
	}
	return NULL;
}

static void forget(struct dirsrc_watch *w, struct folder *folder)
{
	free(folder->name);
	*folder = w->folder[--w->n];
}

void dirsrc_watch_add(struct dirsrc_watch *w, const char *root, const char *name)
{
	sb_cleanup(sb_freep) char *path = sb_asprintf("%s/%s", root, name);
	struct folder *more;

	if (!w || !path || w->n == FOLDERS_MAX)
		return;
	/* one call, also for a folder that is known: it may be another one of the same name by now */
	int wd = inotify_add_watch(w->fd, path, EVENTS);
	struct folder *known = wd < 0 ? NULL : by_wd(w, wd);
	if (wd < 0 || (known && strcmp(known->name, name) == 0))
		return;
	if (known)
		forget(w, known);
	char *copy = sb_strdup(name);
	more = copy ? realloc(w->folder, (w->n + 1) * sizeof(*more)) : NULL;
	if (!more) {
		free(copy);
		return;
	}
	w->folder = more;
	w->folder[w->n++] = (struct folder){ .wd = wd, .name = copy };
}

static bool take_one(struct dirsrc_watch *w, const struct agent_dir_source *set, const struct inotify_event *e, void (*fn)(void *user, const char *name, bool closed), void *user)
{
	struct folder *folder = by_wd(w, e->wd);

	if (e->mask & IN_Q_OVERFLOW)
		return false;
	if (!folder)
		return true;
	if (e->mask & IN_IGNORED) {
		forget(w, folder);
		return true;
	}
	if (e->mask & IN_ISDIR) /* another folder below it */
		return set->depth == 0;
	if (!e->len || !dirsrc_name_fits(set, e->name))
		return true;
	sb_cleanup(sb_freep) char *name = *folder->name ? sb_asprintf("%s/%s", folder->name, e->name) : sb_strdup(e->name);
	if (!name)
		return false;
	if (!(e->mask & IN_CREATE)) /* its writer is at it: the closing tells */
		fn(user, name, (e->mask & (IN_CLOSE_WRITE | IN_MOVED_TO)) != 0);
	return true;
}

bool dirsrc_watch_take(struct dirsrc_watch *w, const struct agent_dir_source *set, void (*fn)(void *user, const char *name, bool closed), void *user)
{
	_Alignas(struct inotify_event) char buf[16384];
	bool whole = true;
	ssize_t n;

	while (w && (n = read(w->fd, buf, sizeof(buf))) > 0) {
		for (ssize_t at = 0; at < n;) {
			const struct inotify_event *e = (const void *)(buf + at);
			whole = take_one(w, set, e, fn, user) && whole;
			at += (ssize_t)sizeof(*e) + e->len;
		}
	}
	return whole;
}
