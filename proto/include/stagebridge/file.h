/* Files: bounded reads, atomic durable writes, safe key files, folders. */
#ifndef STAGEBRIDGE_FILE_H
#define STAGEBRIDGE_FILE_H

#include <sys/types.h>

#include "stagebridge/base.h"
#include "stagebridge/error.h"

/** Whole file, at most max bytes (SB_ETOOBIG). Returns new, NUL-terminated. */
int sb_file_read(const char *path, size_t max, char **ret, size_t *ret_len, struct sb_error *err) SB_MUSTCHECK;
/** A secret: opened without following a link; regular, one link, owner root or us, mode & 077 == 0; else SB_ECONFIG saying which. */
int sb_file_read_secret(const char *path, size_t max, char **ret, size_t *ret_len, struct sb_error *err) SB_MUSTCHECK;
/** Temp file beside, write, fsync, rename, fsync of the folder: either the old or the new content, whole. */
int sb_file_write(const char *path, const void *p, size_t n, mode_t mode, struct sb_error *err) SB_MUSTCHECK;
/** mkdir -p; existing is fine. */
int sb_dir_make(const char *path, mode_t mode, struct sb_error *err) SB_MUSTCHECK;
/** rm -r without following links; missing is fine. */
int sb_dir_remove(const char *path, struct sb_error *err) SB_MUSTCHECK;
int sb_dir_sync(const char *path, struct sb_error *err) SB_MUSTCHECK;
/** write() all n bytes, EINTR handled. */
int sb_write_all(int fd, const void *p, size_t n, struct sb_error *err) SB_MUSTCHECK;
/** Lower-case hex SHA-256 of a file (64 digits + NUL) and its size. */
int sb_file_sha256(const char *path, char hex[65], uint64_t *ret_size, struct sb_error *err) SB_MUSTCHECK;

#endif
