/* The files of a folder. A file is whole when it looks the same in two looks, or when it was renamed over another (its inode changed, and was touched by
 * the renaming after its last write). A file is gone when two looks did not find it. Names that begin with a dot are left alone, so are links:
 * a link could bring in what is not meant to leave. The source's lane. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "dirsrc.h"
#include "stagebridge/log.h"

static void file_release(struct dirsrc_file *f)
{
	free(f->name);
	f->name = NULL;
}

void dirsrc_files_release(struct dirsrc_files *f)
{
	for (size_t i = 0; i < f->count; i++)
		file_release(&f->item[i]);
	free(f->item);
	*f = (struct dirsrc_files){ .item = NULL };
}

static bool suffix_fits(const char *name, int format)
{
	static const char *const suffix[] = { [AGENT_DIR_JSON] = ".json", [AGENT_DIR_JSONL] = ".jsonl", [AGENT_DIR_CSV] = ".csv" };
	size_t n = strlen(name), k = strlen(suffix[format]);

	return name[0] != '.' && n > k && strcmp(name + n - k, suffix[format]) == 0;
}

static int by_name(const void *a, const void *b)
{
	const struct dirsrc_file *x = a, *y = b;

	return strcmp(x->name, y->name);
}

struct dirsrc_file *dirsrc_files_find(const struct dirsrc_files *f, const char *name)
{
	size_t from = 0, to = f->count;

	while (from < to) {
		size_t at = from + (to - from) / 2;
		int order = strcmp(name, f->item[at].name);
		if (order == 0)
			return &f->item[at];
		if (order < 0)
			to = at;
		else
			from = at + 1;
	}
	return NULL;
}

static bool same_time(struct timespec a, struct timespec b)
{
	return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static bool later(struct timespec a, struct timespec b)
{
	return a.tv_sec != b.tv_sec ? a.tv_sec > b.tv_sec : a.tv_nsec > b.tv_nsec;
}

static bool same_file(const struct dirsrc_file *f, const struct stat *st)
{
	return f->ino == st->st_ino && f->size == st->st_size && same_time(f->mtime, st->st_mtim);
}

/* What this look says of a file that the last one knew (was) or did not (NULL). */
static struct dirsrc_file judge(const struct dirsrc_file *was, const struct stat *st)
{
	struct dirsrc_file f = { .ino = st->st_ino, .size = st->st_size, .mtime = st->st_mtim };

	if (!was)
		return f;
	f.ever_taken = was->ever_taken;
	if (same_file(was, st)) {
		f.stable = true;
		f.taken = was->taken;
		f.bad = was->bad;
	} else {
		f.stable = was->ino != st->st_ino && later(st->st_ctim, st->st_mtim);
	}
	return f;
}

static int add(struct dirsrc_files *f, size_t *cap, struct dirsrc_file file, const char *name, struct sb_error *err)
{
	if (f->count == DIRSRC_FILES_MAX)
		return sb_fail(err, SB_ETOOBIG, "more than %d files", DIRSRC_FILES_MAX);
	if (f->count == *cap) {
		size_t more = *cap ? *cap * 2 : 64;
		struct dirsrc_file *item = realloc(f->item, more * sizeof(*item));
		if (!item)
			return sb_fail_nomem(err);
		f->item = item;
		*cap = more;
	}
	file.name = sb_strdup(name);
	if (!file.name)
		return sb_fail_nomem(err);
	f->item[f->count++] = file;
	return 0;
}

static int look_at(DIR *dir, const char *name, const struct dirsrc_files *old, struct dirsrc_files *now, size_t *cap, struct sb_error *err)
{
	struct stat st;

	if (fstatat(dirfd(dir), name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : sb_fail_errno(err, errno, "%s", name);
	if (!S_ISREG(st.st_mode)) {
		sb_log_limited(SB_WARN, "not_a_file", name, NULL);
		return 0;
	}
	return add(now, cap, judge(dirsrc_files_find(old, name), &st), name, err);
}

/* One look that misses a file may have come between two steps of its writer. */
static int keep_missing(const struct dirsrc_files *old, struct dirsrc_files *now, size_t *cap, struct sb_error *err)
{
	size_t found = now->count;
	int r = 0;

	for (size_t i = 0; r == 0 && i < old->count; i++) {
		const struct dirsrc_file *was = &old->item[i];
		if (found && bsearch(was, now->item, found, sizeof(*was), by_name))
			continue;
		now->gone = now->gone || was->missing > 0;
		if (was->missing > 0)
			continue;
		struct dirsrc_file kept = *was;
		kept.missing = 1;
		r = add(now, cap, kept, was->name, err);
	}
	if (now->count > found)
		qsort(now->item, now->count, sizeof(*now->item), by_name);
	return r;
}

int dirsrc_files_look(struct dirsrc_files *f, const struct agent_dir_source *set, struct sb_error *err)
{
	struct dirsrc_files now = { .item = NULL };
	DIR *dir = opendir(set->path);
	size_t cap = 0;
	int r = 0;

	if (!dir)
		return sb_fail_errno(err, errno, "folder \"%s\"", set->path);
	for (const struct dirent *e; r == 0 && (errno = 0, e = readdir(dir)) != NULL;) {
		if (suffix_fits(e->d_name, set->format))
			r = look_at(dir, e->d_name, f, &now, &cap, err);
	}
	if (r == 0 && errno)
		r = sb_fail_errno(err, errno, "folder \"%s\"", set->path);
	closedir(dir);
	if (r == 0 && now.count)
		qsort(now.item, now.count, sizeof(*now.item), by_name);
	if (r == 0)
		r = keep_missing(f, &now, &cap, err);
	if (r < 0) {
		dirsrc_files_release(&now);
		return r;
	}
	dirsrc_files_release(f);
	*f = now;
	return 0;
}

static int read_all(int fd, size_t n, char *out, struct sb_error *err)
{
	for (size_t got = 0; got < n;) {
		ssize_t k = read(fd, out + got, n - got);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return sb_fail_errno(err, errno, "read");
		if (k == 0)
			return sb_fail(err, SB_EAGAIN, "became shorter");
		got += (size_t)k;
	}
	return 0;
}

int dirsrc_file_read(const struct agent_dir_source *set, const struct dirsrc_file *f, char **ret, size_t *ret_len, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *path = sb_asprintf("%s/%s", set->path, f->name);
	sb_cleanup(sb_closep) int fd = -1;
	struct stat st;

	if (!path)
		return sb_fail_nomem(err);
	if (f->size > (off_t)DIRSRC_FILE_MAX)
		return sb_fail(err, SB_ETOOBIG, "is larger than %u bytes", DIRSRC_FILE_MAX);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return errno == ENOENT ? sb_fail(err, SB_EAGAIN, "is gone") : sb_fail_errno(err, errno, "open");
	if (fstat(fd, &st) < 0 || !same_file(f, &st))
		return sb_fail(err, SB_EAGAIN, "changed");
	size_t n = (size_t)st.st_size;
	sb_cleanup(sb_freep) char *text = malloc(n + 1);
	if (!text)
		return sb_fail_nomem(err);
	int r = read_all(fd, n, text, err);
	if (r < 0)
		return r;
	if (fstat(fd, &st) < 0 || !same_file(f, &st))
		return sb_fail(err, SB_EAGAIN, "changed while it was read");
	text[n] = '\0';
	*ret = SB_TAKE(text);
	*ret_len = n;
	return 0;
}
