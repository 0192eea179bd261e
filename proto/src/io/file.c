/* Files: bounded reads, atomic durable writes, key files that are refused when loose, folders. Any thread; owns nothing
 * between calls. */
#include "stagebridge/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file_secret.h"
#include "stagebridge/text.h"

#define DEPTH_MAX 200 /* folders inside each other that sb_dir_remove opens: one descriptor each */

/* ---- reading ---- */

static ssize_t read_some(int fd, void *p, size_t n)
{
	ssize_t r;

	do
		r = read(fd, p, n);
	while (r < 0 && errno == EINTR);
	return r;
}

/* The rest of fd. secret: what is given up on the way is wiped first, and nothing is left behind by a realloc. */
static int read_all(
	int fd, const char *path, size_t max, bool secret, char **ret, size_t *ret_len, struct sb_error *err)
{
	size_t len = 0, cap = secret || max < 4096 ? max + 1 : 4096;
	char *data = max < SIZE_MAX - 1 ? malloc(cap + 1) : NULL;
	int r = SB_OK;

	if (data == NULL)
		return sb_fail_nomem(err);
	for (;;) {
		ssize_t n = read_some(fd, data + len, cap - len);
		if (n < 0)
			r = sb_fail_errno(err, errno, "could not read \"%s\"", path);
		if (n <= 0)
			break;
		len += (size_t)n;
		if (len > max) {
			r = sb_fail(err, SB_ETOOBIG, "\"%s\" is larger than %zu bytes", path, max);
			break;
		}
		if (len == cap) {
			size_t more = cap > max / 2 ? max + 1 : cap * 2;
			char *grown = realloc(data, more + 1);
			if (grown == NULL) {
				r = sb_fail_nomem(err);
				break;
			}
			data = grown;
			cap = more;
		}
	}
	if (r < 0) {
		if (secret)
			sodium_memzero(data, cap);
		free(data);
		return r;
	}
	data[len] = '\0';
	*ret = data;
	if (ret_len != NULL)
		*ret_len = len;
	return SB_OK;
}

int sb_file_read(const char *path, size_t max, char **ret, size_t *ret_len, struct sb_error *err)
{
	sb_cleanup(sb_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

	if (fd < 0)
		return sb_fail_errno(err, errno, "could not open \"%s\"", path);
	return read_all(fd, path, max, false, ret, ret_len, err);
}

/* ---- secrets ---- */

static int judge_secret(const char *path, const struct stat *st, struct sb_error *err)
{
	if (S_ISLNK(st->st_mode))
		return sb_fail(err, SB_ECONFIG, "key file \"%s\" is a symbolic link", path);
	if (!S_ISREG(st->st_mode))
		return sb_fail(err, SB_ECONFIG, "key file \"%s\" is not a regular file", path);
	if (st->st_nlink != 1)
		return sb_fail(err, SB_ECONFIG, "key file \"%s\" has more than one link", path);
	if (st->st_uid != 0 && st->st_uid != geteuid())
		return sb_fail(err, SB_ECONFIG, "key file \"%s\" belongs to user %u, neither to root nor to us", path,
			st->st_uid);
	if ((st->st_mode & 077) != 0)
		return sb_fail(err, SB_ECONFIG, "key file \"%s\" is open to others: mode is %04o, must be 0400 or 0600",
			path, st->st_mode & 07777u);
	return SB_OK;
}

int sb_file_check_secret(const char *path, struct sb_error *err)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return sb_fail(err, SB_ECONFIG, "key file \"%s\": %s", path,
			errno == ENOENT ? "does not exist" : strerrordesc_np(errno));
	return judge_secret(path, &st, err);
}

int sb_file_read_secret(const char *path, size_t max, char **ret, size_t *ret_len, struct sb_error *err)
{
	/* O_NONBLOCK: a pipe put in place of the file must not hold us */
	sb_cleanup(sb_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK);
	struct stat st;
	int r;

	if (fd < 0 && errno == ELOOP)
		return sb_fail(err, SB_ECONFIG, "key file \"%s\" is a symbolic link", path);
	if (fd < 0)
		return sb_fail(err, SB_ECONFIG, "key file \"%s\": %s", path,
			errno == ENOENT ? "does not exist" : strerrordesc_np(errno));
	if (fstat(fd, &st) < 0)
		return sb_fail_errno(err, errno, "could not examine \"%s\"", path);
	r = judge_secret(path, &st, err);
	if (r < 0)
		return r;
	return read_all(fd, path, max, true, ret, ret_len, err);
}

/* ---- writing ---- */

int sb_write_all(int fd, const void *p, size_t n, struct sb_error *err)
{
	const char *data = p;

	while (n > 0) {
		ssize_t w = write(fd, data, n);
		if (w < 0 && errno == EINTR)
			continue;
		if (w < 0)
			return sb_fail_errno(err, errno, "could not write");
		data += w;
		n -= (size_t)w;
	}
	return SB_OK;
}

/* The folder of a path, as new; "." for a bare name. */
static char *folder_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	if (slash == NULL)
		return sb_strdup(".");
	return sb_asprintf("%.*s", slash == path ? 1 : (int)(slash - path), path);
}

int sb_dir_sync(const char *path, struct sb_error *err)
{
	sb_cleanup(sb_closep) int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return sb_fail_errno(err, errno, "could not open folder \"%s\"", path);
	if (fsync(fd) < 0)
		return sb_fail_errno(err, errno, "could not sync folder \"%s\"", path);
	return SB_OK;
}

static int fill_and_rename(
	int fd, const char *temp, const char *path, const void *p, size_t n, mode_t mode, struct sb_error *err)
{
	int r = sb_write_all(fd, p, n, err);

	if (r < 0) {
		(void)sb_fail_prefix(err, "\"%s\"", path); /* keeps r */
		return r;
	}
	if (fchmod(fd, mode) < 0)
		return sb_fail_errno(err, errno, "could not set the mode of \"%s\"", path);
	if (fsync(fd) < 0)
		return sb_fail_errno(err, errno, "could not sync \"%s\"", path);
	if (rename(temp, path) < 0)
		return sb_fail_errno(err, errno, "could not put \"%s\" in place", path);
	return SB_OK;
}

int sb_file_write(const char *path, const void *p, size_t n, mode_t mode, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *folder = folder_of(path);
	sb_cleanup(sb_freep) char *temp = NULL;
	sb_cleanup(sb_closep) int fd = -1;
	const char *slash = strrchr(path, '/');
	int r;

	if (folder == NULL)
		return sb_fail_nomem(err);
	/* hidden, so that who reads the folder does not take it for a file of its own */
	temp = sb_asprintf("%s/.%s.XXXXXX", folder, slash != NULL ? slash + 1 : path);
	if (temp == NULL)
		return sb_fail_nomem(err);
	fd = mkostemp(temp, O_CLOEXEC);
	if (fd < 0)
		return sb_fail_errno(err, errno, "could not create a file beside \"%s\"", path);
	r = fill_and_rename(fd, temp, path, p, n, mode, err);
	if (r < 0) {
		(void)unlink(temp); /* best effort: the first error is the one that counts */
		return r;
	}
	return sb_dir_sync(folder, err);
}

/* ---- folders ---- */

static int make_one(const char *path, mode_t mode, struct sb_error *err)
{
	struct stat st;
	int e;

	if (mkdir(path, mode) == 0)
		return SB_OK;
	e = errno;
	if (e == EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		return SB_OK;
	return sb_fail_errno(err, e == EEXIST ? ENOTDIR : e, "could not make folder \"%s\"", path);
}

int sb_dir_make(const char *path, mode_t mode, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *part = sb_strdup(path);
	int r;

	if (part == NULL)
		return sb_fail_nomem(err);
	if (part[0] == '\0')
		return sb_fail(err, SB_EINVAL, "no folder named");
	for (char *p = part + 1; *p != '\0'; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		r = make_one(part, mode, err);
		if (r < 0)
			return r;
		*p = '/';
	}
	return make_one(part, mode, err);
}

static void close_dirp(DIR **d)
{
	if (*d != NULL)
		(void)closedir(*d); /* was read only */
}

static int remove_at(int at, const char *name, const char *root, unsigned depth, struct sb_error *err);

static int empty_dir(int fd, const char *root, unsigned depth, struct sb_error *err)
{
	sb_cleanup(close_dirp) DIR *d = fdopendir(fd);
	struct dirent *e;
	int r;

	if (d == NULL) {
		r = sb_fail_errno(err, errno, "could not read folder \"%s\"", root);
		(void)close(fd); /* fdopendir did not take it */
		return r;
	}
	for (;;) {
		errno = 0;
		e = readdir(d);
		if (e == NULL)
			return errno == 0 ? SB_OK : sb_fail_errno(err, errno, "could not read folder \"%s\"", root);
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		r = remove_at(dirfd(d), e->d_name, root, depth + 1, err);
		if (r < 0)
			return r;
	}
}

/* One entry and all in it. All is named relative to open folders, so nobody can put a link in our way meanwhile. */
static int remove_at(int at, const char *name, const char *root, unsigned depth, struct sb_error *err)
{
	int fd, r;

	if (unlinkat(at, name, 0) == 0 || errno == ENOENT)
		return SB_OK;
	if (errno != EISDIR && errno != EPERM)
		return sb_fail_errno(err, errno, "could not remove \"%s\" in \"%s\"", name, root);
	if (depth > DEPTH_MAX)
		return sb_fail(err, SB_ETOOBIG, "\"%s\" holds more than %d folders in each other", root, DEPTH_MAX);
	fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return sb_fail_errno(err, errno, "could not open folder \"%s\" in \"%s\"", name, root);
	r = empty_dir(fd, root, depth, err);
	if (r < 0)
		return r;
	if (unlinkat(at, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		return sb_fail_errno(err, errno, "could not remove folder \"%s\" in \"%s\"", name, root);
	return SB_OK;
}

int sb_dir_remove(const char *path, struct sb_error *err)
{
	if (path[0] == '\0' || strspn(path, "/.") == strlen(path))
		return sb_fail(err, SB_EINVAL, "\"%s\" is not removed", path);
	return remove_at(AT_FDCWD, path, path, 0, err);
}

/* ---- digest ---- */

int sb_file_sha256(const char *path, char hex[65], uint64_t *ret_size, struct sb_error *err)
{
	sb_cleanup(sb_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	crypto_hash_sha256_state state;
	uint8_t digest[crypto_hash_sha256_BYTES];
	uint8_t block[16384];
	uint64_t size = 0;
	ssize_t n;

	if (fd < 0)
		return sb_fail_errno(err, errno, "could not open \"%s\"", path);
	(void)crypto_hash_sha256_init(&state); /* these three always return 0 */
	while ((n = read_some(fd, block, sizeof(block))) > 0) {
		(void)crypto_hash_sha256_update(&state, block, (unsigned long long)n);
		size += (uint64_t)n;
	}
	if (n < 0)
		return sb_fail_errno(err, errno, "could not read \"%s\"", path);
	(void)crypto_hash_sha256_final(&state, digest);
	sb_hex(hex, digest, sizeof(digest));
	if (ret_size != NULL)
		*ret_size = size;
	return SB_OK;
}
