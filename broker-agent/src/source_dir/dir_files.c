/* The files of a folder. A file is whole, and may be read, when one of these holds:
 *   - the system said that its writer closed it or moved it here, and it is still what it was then;
 *   - it has been the same for a poll interval (five seconds at most), by two looks or by its own times;
 *   - it was renamed over another one (its inode changed, and was touched by the renaming after its last write).
 * A file is gone when two looks did not find it. Names that begin with a dot or end with ~ are left alone, so are links (one could bring in what is not meant
 * to leave), special files, and folders below the depth that the settings allow. The source's lane. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "dirsrc.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"

#define GONE_LOOKS 2
#define NS 1000000000LL
#define SETTLE_MS 5000

/* --- the table of names --- */

static uint32_t hash_of(const char *name)
{
	uint32_t h = 2166136261u;

	for (; *name; name++)
		h = (h ^ (unsigned char)*name) * 16777619u;
	return h;
}

static void index_add(struct dirsrc_files *f, size_t at)
{
	size_t i = hash_of(f->item[at]->name) & (f->n_slots - 1);

	while (f->slot[i])
		i = (i + 1) & (f->n_slots - 1);
	f->slot[i] = (uint32_t)at + 1;
}

static int index_all(struct dirsrc_files *f, size_t n_slots, struct sb_error *err)
{
	if (n_slots != f->n_slots) {
		uint32_t *slot = calloc(n_slots, sizeof(*slot));
		if (!slot)
			return sb_fail_nomem(err);
		free(f->slot);
		f->slot = slot;
		f->n_slots = n_slots;
	} else {
		memset(f->slot, 0, n_slots * sizeof(*f->slot));
	}
	for (size_t i = 0; i < f->count; i++)
		index_add(f, i);
	return 0;
}

struct dirsrc_file *dirsrc_files_find(const struct dirsrc_files *f, const char *name)
{
	if (!f->n_slots)
		return NULL;
	for (size_t i = hash_of(name) & (f->n_slots - 1); f->slot[i]; i = (i + 1) & (f->n_slots - 1)) {
		struct dirsrc_file *file = f->item[f->slot[i] - 1];
		if (strcmp(file->name, name) == 0)
			return file;
	}
	return NULL;
}

static void file_free(struct dirsrc_file *file)
{
	if (!file)
		return;
	free(file->name);
	free(file->reason);
	free(file);
}

void dirsrc_files_release(struct dirsrc_files *f)
{
	for (size_t i = 0; i < f->count; i++)
		file_free(f->item[i]);
	free(f->item);
	free(f->slot);
	*f = (struct dirsrc_files){ .item = NULL };
}

static int add(struct dirsrc_files *f, const char *name, struct dirsrc_file **ret, struct sb_error *err)
{
	struct dirsrc_file *file = calloc(1, sizeof(*file));
	int r = 0;

	if (!file || !(file->name = sb_strdup(name))) {
		free(file);
		return sb_fail_nomem(err);
	}
	if (f->count == f->cap) {
		size_t cap = f->cap ? f->cap * 2 : 64;
		struct dirsrc_file **item = realloc(f->item, cap * sizeof(struct dirsrc_file *));
		if (item) {
			f->item = item;
			f->cap = cap;
		} else {
			r = sb_fail_nomem(err);
		}
	}
	if (r == 0 && (f->count + 1) * 2 > f->n_slots)
		r = index_all(f, f->n_slots ? f->n_slots * 2 : 256, err);
	if (r < 0) {
		file_free(file);
		return r;
	}
	f->item[f->count++] = file;
	index_add(f, f->count - 1);
	*ret = file;
	return 0;
}

int dirsrc_files_restore(struct dirsrc_files *f, const char *name, struct dirsrc_stamp stamp, struct sb_error *err)
{
	struct dirsrc_file *file = NULL;

	int r = add(f, name, &file, err);
	if (r < 0)
		return r;
	file->stamp = stamp;
	file->taken = true;
	return 0;
}

bool dirsrc_file_gone(const struct dirsrc_file *file)
{
	return file->missing >= GONE_LOOKS;
}

void dirsrc_files_drop_gone(struct dirsrc_files *f)
{
	struct sb_error err = SB_ERROR_INIT;
	size_t kept = 0;

	for (size_t i = 0; i < f->count; i++) {
		if (dirsrc_file_gone(f->item[i]))
			file_free(f->item[i]);
		else
			f->item[kept++] = f->item[i];
	}
	f->count = kept;
	f->n_gone = 0;
	if (f->n_slots)
		(void)index_all(f, f->n_slots, &err); /* the same size: needs no memory */
}

/* --- one look --- */

static struct dirsrc_stamp stamp_of(const struct stat *st)
{
	return (struct dirsrc_stamp){ .ino = st->st_ino, .size = st->st_size, .mtime = (int64_t)st->st_mtim.tv_sec * NS + st->st_mtim.tv_nsec,
		.ctime = (int64_t)st->st_ctim.tv_sec * NS + st->st_ctim.tv_nsec };
}

static bool same(struct dirsrc_stamp a, struct dirsrc_stamp b)
{
	return a.ino == b.ino && a.size == b.size && a.mtime == b.mtime && a.ctime == b.ctime;
}

struct look {
	struct dirsrc_files *f;
	const struct agent_dir_source *set;
	int64_t now_ms, wall_ms;
	int (*on_folder)(void *user, const char *name);
	void *user;
};

int64_t dirsrc_settle_ms(const struct agent_dir_source *set)
{
	return set->poll_ms < SETTLE_MS ? set->poll_ms : SETTLE_MS;
}

/* Nobody wrote to it for that long, and for a second at least: times of files are coarse. */
static bool old_enough(const struct look *lk, const struct dirsrc_file *file)
{
	int64_t settle = dirsrc_settle_ms(lk->set), wait = settle > 1000 ? settle : 1000;
	int64_t last = file->stamp.mtime > file->stamp.ctime ? file->stamp.mtime : file->stamp.ctime;

	return last / 1000000 + wait <= lk->wall_ms;
}

static void judge(const struct look *lk, struct dirsrc_file *file, bool is_new, const struct stat *st, bool closed)
{
	struct dirsrc_stamp was = file->stamp, now = stamp_of(st);

	file->missing = 0;
	if (!is_new && same(was, now)) {
		file->stable = file->stable || file->taken || closed || lk->now_ms - file->since_ms >= dirsrc_settle_ms(lk->set) || old_enough(lk, file);
		return;
	}
	file->stamp = now;
	file->since_ms = lk->now_ms;
	file->taken = file->bad = file->conflict = false;
	free(SB_TAKE(file->reason));
	file->stable = closed || old_enough(lk, file) || (!is_new && was.ino != now.ino && now.ctime > now.mtime);
}

bool dirsrc_name_fits(const struct agent_dir_source *set, const char *name)
{
	static const char *const suffix[] = { [AGENT_DIR_JSON] = ".json", [AGENT_DIR_JSONL] = ".jsonl", [AGENT_DIR_CSV] = ".csv" };
	size_t n = strlen(name), k = strlen(suffix[set->format]);

	return name[0] != '.' && n > k && strcmp(name + n - k, suffix[set->format]) == 0;
}

static int too_many(const struct agent_dir_source *set, struct sb_error *err)
{
	return sb_fail(err, SB_ETOOBIG, "folder \"%s\": more than %lld files (max_files)", set->path, (long long)set->max_files);
}

static int take_stat(const struct look *lk, const char *path, const struct stat *st, bool closed, struct sb_error *err)
{
	struct dirsrc_file *file = dirsrc_files_find(lk->f, path);
	bool is_new = !file;

	if (is_new && lk->f->count >= (size_t)lk->set->max_files)
		return too_many(lk->set, err);
	int r = is_new ? add(lk->f, path, &file, err) : 0;
	if (r < 0)
		return r;
	judge(lk, file, is_new, st, closed);
	file->look = lk->f->look;
	return 0;
}

static int look_into(const struct look *lk, int parent, const char *path, const char *last, int64_t depth, struct sb_error *err);

static int look_entry(const struct look *lk, int dir, const char *path, const struct dirent *e, int64_t depth, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *below = *path ? sb_asprintf("%s/%s", path, e->d_name) : NULL;
	const char *name = *path ? below : e->d_name;
	struct stat st;

	if (!name)
		return sb_fail_nomem(err);
	if (e->d_type != DT_DIR && e->d_type != DT_UNKNOWN && !dirsrc_name_fits(lk->set, e->d_name))
		return 0;
	if (fstatat(dir, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : sb_fail_errno(err, errno, "%s", name);
	if (S_ISDIR(st.st_mode) && depth < lk->set->depth)
		return look_into(lk, dir, name, e->d_name, depth + 1, err);
	if (S_ISDIR(st.st_mode) && lk->set->depth == 0)
		return 0;
	if (S_ISREG(st.st_mode))
		return dirsrc_name_fits(lk->set, e->d_name) ? take_stat(lk, name, &st, false, err) : 0;
	lk->f->n_skipped++;
	sb_log_limited(SB_WARN, S_ISDIR(st.st_mode) ? "folder_too_deep" : "not_a_file", name, NULL);
	return 0;
}

static int look_into(const struct look *lk, int parent, const char *path, const char *last, int64_t depth, struct sb_error *err)
{
	int fd = openat(parent, last, O_RDONLY | O_DIRECTORY | O_CLOEXEC | (depth ? O_NOFOLLOW : 0));
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	int r = 0;

	if (!dir) {
		r = depth && errno == ENOENT ? 0 : sb_fail_errno(err, errno, "folder \"%s\"%s%s", lk->set->path, depth ? " below it " : "", path);
		sb_closep(&fd);
		return r;
	}
	if (lk->on_folder)
		(void)lk->on_folder(lk->user, path); /* a hint that is missing costs time only */
	for (const struct dirent *e; r == 0 && (errno = 0, e = readdir(dir)) != NULL;) {
		if (e->d_name[0] != '.')
			r = look_entry(lk, dirfd(dir), path, e, depth, err);
	}
	if (r == 0 && errno)
		r = sb_fail_errno(err, errno, "folder \"%s\"", lk->set->path);
	closedir(dir);
	return r;
}

static void miss(struct dirsrc_files *f, struct dirsrc_file *file)
{
	if (file->missing < GONE_LOOKS && ++file->missing == GONE_LOOKS)
		f->n_gone++;
}

static struct look look_of(struct dirsrc_files *f, const struct agent_dir_source *set)
{
	return (struct look){ .f = f, .set = set, .now_ms = sb_mono_ms(), .wall_ms = sb_wall_ms() };
}

int dirsrc_files_look(struct dirsrc_files *f, const struct agent_dir_source *set, int (*on_folder)(void *user, const char *name), void *user, struct sb_error *err)
{
	struct look lk = look_of(f, set);

	size_t found = 0;

	lk.on_folder = on_folder;
	lk.user = user;
	f->look++;
	f->n_skipped = 0;
	int r = look_into(&lk, AT_FDCWD, "", set->path, 0, err);
	for (size_t i = 0; r == 0 && i < f->count; i++)
		found += f->item[i]->look == f->look;
	if (r == 0 && found > (size_t)set->max_files)
		r = too_many(set, err); /* known from a start with other settings */
	for (size_t i = 0; r == 0 && i < f->count; i++) {
		if (f->item[i]->look != f->look)
			miss(f, f->item[i]);
	}
	return r;
}

int dirsrc_files_look_at(struct dirsrc_files *f, const struct agent_dir_source *set, const char *name, bool closed, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *path = sb_asprintf("%s/%s", set->path, name);
	const struct look lk = look_of(f, set);
	struct dirsrc_file *file;
	struct stat st;

	if (!path)
		return sb_fail_nomem(err);
	if (lstat(path, &st) == 0)
		return S_ISREG(st.st_mode) ? take_stat(&lk, name, &st, closed, err) : 0;
	if (errno != ENOENT)
		return 0; /* the next full look says what it is */
	file = dirsrc_files_find(f, name);
	if (file)
		miss(f, file);
	return 0;
}

/* --- reading --- */

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

static bool unchanged(int fd, const struct dirsrc_file *f)
{
	struct stat st;

	return fstat(fd, &st) == 0 && same(stamp_of(&st), f->stamp);
}

int dirsrc_file_read(const struct agent_dir_source *set, const struct dirsrc_file *f, char **ret, size_t *ret_len, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *path = sb_asprintf("%s/%s", set->path, f->name);
	sb_cleanup(sb_closep) int fd = -1;

	if (!path)
		return sb_fail_nomem(err);
	if (f->stamp.size > (int64_t)set->max_file)
		return sb_fail(err, SB_ETOOBIG, "is larger than %llu bytes (max_file)", (unsigned long long)set->max_file);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return errno == ENOENT ? sb_fail(err, SB_EAGAIN, "is gone") : sb_fail_errno(err, errno, "open");
	if (!unchanged(fd, f))
		return sb_fail(err, SB_EAGAIN, "changed");
	size_t n = (size_t)f->stamp.size;
	sb_cleanup(sb_freep) char *text = malloc(n + 1);
	if (!text)
		return sb_fail_nomem(err);
	int r = read_all(fd, n, text, err);
	if (r < 0)
		return r;
	if (!unchanged(fd, f))
		return sb_fail(err, SB_EAGAIN, "changed while it was read");
	text[n] = '\0';
	*ret = SB_TAKE(text);
	*ret_len = n;
	return 0;
}
