/* Cleans a repository of ours after a kill. libgit2 takes a reference by creating "<ref>.lock" and renaming it; a process that dies between the two
 * leaves the lock for ever. Any thread, on a repository without another writer. */
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "stagebridge/file.h"
#include "stagebridge/git.h"
#include "stagebridge/text.h"

#define PATH_BYTES 1200
#define DEPTH_MAX 16

static bool ends_with(const char *s, const char *tail)
{
	size_t n = strlen(s), t = strlen(tail);

	return n >= t && strcmp(s + n - t, tail) == 0;
}

static bool old_enough(const struct stat *st, int64_t min_age_ms)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_REALTIME, &now); /* cannot fail for this clock */
	int64_t age = ((int64_t)now.tv_sec - (int64_t)st->st_mtim.tv_sec) * 1000 + (now.tv_nsec - st->st_mtim.tv_nsec) / 1000000;
	return age >= min_age_ms;
}

static int remove_file(const char *path, struct sb_error *err)
{
	if (unlink(path) != 0 && errno != ENOENT)
		return sb_fail_errno(err, errno, "could not remove \"%s\"", path);
	return 0;
}

/* Lock files below a folder of references; links are not followed. */
static int sweep_refs(const char *dir, int64_t min_age_ms, unsigned depth, struct sb_error *err)
{
	struct dirent *entry;
	DIR *d = opendir(dir);
	int r = 0;

	if (!d)
		return errno == ENOENT ? 0 : sb_fail_errno(err, errno, "could not read \"%s\"", dir);
	while (r == 0 && (entry = readdir(d))) {
		char path[PATH_BYTES];
		struct stat st;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		r = sb_format(path, sizeof(path), err, "%s/%s", dir, entry->d_name);
		if (r < 0 || lstat(path, &st) != 0)
			continue;
		if (S_ISDIR(st.st_mode) && depth < DEPTH_MAX)
			r = sweep_refs(path, min_age_ms, depth + 1, err);
		else if (S_ISREG(st.st_mode) && ends_with(entry->d_name, ".lock") && old_enough(&st, min_age_ms))
			r = remove_file(path, err);
	}
	(void)closedir(d); /* read only */
	return r;
}

static int sweep_packs(const char *dir, int64_t min_age_ms, struct sb_error *err)
{
	struct dirent *entry;
	DIR *d = opendir(dir);
	int r = 0;

	if (!d)
		return errno == ENOENT ? 0 : sb_fail_errno(err, errno, "could not read \"%s\"", dir);
	while (r == 0 && (entry = readdir(d))) {
		char path[PATH_BYTES];
		struct stat st;

		if (strncmp(entry->d_name, "incoming-", 9) != 0)
			continue;
		r = sb_format(path, sizeof(path), err, "%s/%s", dir, entry->d_name);
		if (r == 0 && lstat(path, &st) == 0 && old_enough(&st, min_age_ms))
			r = sb_dir_remove(path, err);
	}
	(void)closedir(d); /* read only */
	return r;
}

int sb_repo_sweep(const char *path, int64_t min_age_ms, struct sb_error *err)
{
	static const char *const top[] = { "packed-refs.lock", "HEAD.lock", "config.lock", "shallow.lock" };
	char name[PATH_BYTES];

	int r = sb_format(name, sizeof(name), err, "%s/refs", path);
	if (r == 0)
		r = sweep_refs(name, min_age_ms, 0, err);
	if (r == 0)
		r = sb_format(name, sizeof(name), err, "%s/objects", path);
	if (r == 0)
		r = sweep_packs(name, min_age_ms, err);
	for (size_t i = 0; r == 0 && i < SB_COUNT(top); i++) {
		struct stat st;

		r = sb_format(name, sizeof(name), err, "%s/%s", path, top[i]);
		if (r == 0 && lstat(name, &st) == 0 && old_enough(&st, min_age_ms))
			r = remove_file(name, err);
	}
	return r;
}
