/* The spool: a transfer's sealed chunks in one file, chunk i at i * SB_CHUNK_SEALED, so that both sides resume by index. Plain file
 * calls on descriptors that the caller owns; runs in whatever lane moves the transfer. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "carrier_private.h"
#include "stagebridge/file.h"

int sb_pread_all(int fd, void *p, size_t n, uint64_t at, struct sb_error *err)
{
	char *to = p;

	while (n > 0) {
		ssize_t k = pread(fd, to, n, (off_t)at);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return sb_fail_errno(err, errno, "could not read the spool");
		if (k == 0)
			return sb_fail(err, SB_EIO, "spool is shorter than its manifest says");
		to += k;
		n -= (size_t)k;
		at += (uint64_t)k;
	}
	return 0;
}

int sb_pwrite_all(int fd, const void *p, size_t n, uint64_t at, struct sb_error *err)
{
	const char *from = p;

	while (n > 0) {
		ssize_t k = pwrite(fd, from, n, (off_t)at);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return sb_fail_errno(err, errno, "could not write the spool");
		from += k;
		n -= (size_t)k;
		at += (uint64_t)k;
	}
	return 0;
}

int sb_parent_sync(const char *path, struct sb_error *err)
{
	const char *slash = strrchr(path, '/');
	sb_cleanup(sb_freep) char *dir = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : sb_strdup(".");

	return dir ? sb_dir_sync(dir, err) : sb_fail_nomem(err);
}

int sb_spool_read(int fd, const struct sb_manifest *m, uint64_t i, void *buf, size_t *ret_len, struct sb_error *err)
{
	if (i >= m->chunks)
		return sb_fail(err, SB_EINVAL, "chunk %" PRIu64 " of %" PRIu64 " does not exist", i, m->chunks);
	size_t n = sb_chunk_size(m, i);
	int r = sb_pread_all(fd, buf, n, i * SB_CHUNK_SEALED, err);
	if (r < 0)
		return r;
	*ret_len = n;
	return 0;
}

int sb_spool_received(const char *path, const struct sb_manifest *m, uint64_t *ret_next, struct sb_error *err)
{
	struct stat st;
	uint64_t whole, size;

	if (stat(path, &st) < 0) {
		if (errno != ENOENT)
			return sb_fail_errno(err, errno, "could not look at spool \"%s\"", path);
		*ret_next = 0;
		return 0;
	}
	if (!S_ISREG(st.st_mode))
		return sb_fail(err, SB_EIO, "spool \"%s\" is not a file", path);
	size = (uint64_t)st.st_size;
	whole = size >= m->sealed_bytes ? m->chunks : size / SB_CHUNK_SEALED;
	uint64_t keep = whole == m->chunks ? m->sealed_bytes : whole * SB_CHUNK_SEALED;
	if (keep != size && truncate(path, (off_t)keep) < 0)
		return sb_fail_errno(err, errno, "could not cut spool \"%s\"", path);
	*ret_next = whole;
	return 0;
}

int sb_spool_append(int fd, const struct sb_manifest *m, uint64_t *next, uint64_t i, const void *p, size_t n, struct sb_error *err)
{
	if (i >= m->chunks || n != sb_chunk_size(m, i))
		return sb_fail(err, SB_EPROTO, "chunk %" PRIu64 " of %zu bytes does not fit its manifest", i, n);
	if (i < *next)
		return 0;
	if (i > *next)
		return sb_fail(err, SB_ECONFLICT, "chunk %" PRIu64 " came before chunk %" PRIu64, i, *next);
	int r = sb_pwrite_all(fd, p, n, i * SB_CHUNK_SEALED, err);
	if (r < 0)
		return r;
	++*next;
	return 0;
}
