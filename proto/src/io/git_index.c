/*
 * Taking in a pack that another stage wrote.
 *
 * Any lane with its own handle. The pack is indexed in a quarantine folder inside of the repository's objects folder,
 * checked there, and moved in by rename only then: what is refused leaves nothing behind. The indexer hashes every
 * object (an object's name is its hash, so content cannot be forged) and checks the pack's own digest; what it does
 * not know is whether the objects that these name are there, which git_connect.c checks: the expected commit's whole
 * tree, and for every commit that is new, its parents and what is new in its tree.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "git_private.h"
#include "stagebridge/file.h"
#include "stagebridge/text.h"

enum { PACK_HEADER = 12, PACK_MIN = 32, READ_BLOCK = 64 * 1024 };

static inline void indexer_freep(git_indexer **p)
{
	git_indexer_free(*p);
}

/* The header's own count, before anything is allocated for it. */
static int check_header(int fd, uint64_t max_objects, struct sb_error *err)
{
	uint8_t h[PACK_HEADER];
	struct stat st;

	if (fstat(fd, &st) != 0)
		return sb_fail_errno(err, errno, "could not look at the pack");
	if (st.st_size < PACK_MIN || pread(fd, h, sizeof(h), 0) != (ssize_t)sizeof(h) || memcmp(h, "PACK\0\0\0\2", 8) != 0)
		return sb_fail(err, SB_EPROTO, "this is not a pack of version 2");
	uint64_t n = (uint64_t)h[8] << 24 | (uint64_t)h[9] << 16 | (uint64_t)h[10] << 8 | h[11];
	if (n > max_objects)
		return sb_fail(err, SB_ETOOBIG, "the pack has %llu objects, at most %llu are taken", (unsigned long long)n,
			(unsigned long long)max_objects);
	/* an object takes more than its header byte: a short pack that claims millions is a lie */
	if (n == 0 || n > (uint64_t)st.st_size / 2)
		return sb_fail(err, SB_EPROTO, "the pack's object count does not fit its size");
	return 0;
}

/* Bad input, as opposed to a failing disk or memory. */
static int pack_refused(struct sb_error *err, int rc)
{
	struct sb_error e = SB_ERROR_INIT;
	int code = sb_git_fail(&e, rc, "the pack is refused");

	if (code == SB_EIO || code == SB_ENOMEM || code == SB_EAGAIN)
		return sb_fail(err, (enum sb_code)code, "%s", e.msg);
	return sb_fail(err, SB_EPROTO, "%s", e.msg);
}

/* Indexes into quarantine/pack; ret_name: "pack-<name>" without suffix, returned new. */
static int index_into(int fd, const char *pack_dir, git_odb *odb, char **ret_name, struct sb_error *err)
{
	sb_cleanup(indexer_freep) git_indexer *indexer = NULL;
	sb_cleanup(sb_freep) char *block = malloc(READ_BLOCK);
	git_indexer_progress stats = { 0 };
	int rc = block ? git_indexer_new(&indexer, pack_dir, 0444, odb, NULL) : GIT_ERROR;
	ssize_t n = 0;

	if (!block)
		return sb_fail_nomem(err);
	while (rc == 0 && (n = read(fd, block, READ_BLOCK)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return sb_fail_errno(err, errno, "could not read the pack");
		rc = git_indexer_append(indexer, block, (size_t)n, &stats);
	}
	if (rc == 0)
		rc = git_indexer_commit(indexer, &stats);
	if (rc < 0)
		return pack_refused(err, rc);
	*ret_name = sb_asprintf("pack-%s", git_indexer_name(indexer));
	return *ret_name ? 0 : sb_fail_nomem(err);
}

/* Pack first: an index without its pack is an error to readers, a pack without its index is ignored. */
static int move_in(const char *from, const char *to, const char *name, struct sb_error *err)
{
	static const char *const suffixes[] = { "pack", "idx" };

	for (size_t i = 0; i < SB_COUNT(suffixes); i++) {
		sb_cleanup(sb_freep) char *a = sb_asprintf("%s/%s.%s", from, name, suffixes[i]);
		sb_cleanup(sb_freep) char *b = sb_asprintf("%s/%s.%s", to, name, suffixes[i]);

		if (!a || !b)
			return sb_fail_nomem(err);
		if (rename(a, b) != 0)
			return sb_fail_errno(err, errno, "could not take the pack in");
	}
	return sb_dir_sync(to, err);
}

/* A database that sees the repository's objects and the quarantined ones. */
static int open_both(const char *objects, const char *quarantine, git_repository **ret, struct sb_error *err)
{
	sb_cleanup(sb_git_odb_freep) git_odb *odb = NULL;
	int rc = git_odb_open(&odb, objects);

	if (rc == 0)
		rc = git_odb_add_disk_alternate(odb, quarantine);
	if (rc == 0)
		rc = git_repository_wrap_odb(ret, odb);
	return rc < 0 ? sb_git_fail(err, rc, "could not open the quarantined pack") : 0;
}

static int index_quarantined(
	struct sb_repo *r, int fd, const char *objects, const char *quarantine, const char *expect, struct sb_error *err)
{
	sb_cleanup(sb_git_odb_freep) git_odb *odb = NULL;
	sb_cleanup(sb_git_repo_freep) git_repository *both = NULL;
	sb_cleanup(sb_freep) char *from = sb_asprintf("%s/pack", quarantine);
	sb_cleanup(sb_freep) char *to = sb_asprintf("%s/pack", objects);
	sb_cleanup(sb_freep) char *name = NULL;
	int rc;

	if (!from || !to)
		return sb_fail_nomem(err);
	rc = git_repository_odb(&odb, r->repo);
	if (rc < 0)
		return sb_git_fail(err, rc, "could not open the object database");
	rc = sb_dir_make(from, 0700, err);
	if (rc == 0)
		rc = sb_dir_make(to, 0755, err);
	if (rc == 0)
		rc = index_into(fd, from, odb, &name, err);
	if (rc == 0)
		rc = open_both(objects, quarantine, &both, err);
	if (rc == 0 && expect)
		rc = sb_git_connected(both, odb, expect, err);
	if (rc == 0)
		rc = move_in(from, to, name, err);
	if (rc < 0)
		return rc;
	rc = git_odb_refresh(odb);
	return rc < 0 ? sb_git_fail(err, rc, "could not read the new pack") : 0;
}

int sb_repo_index(struct sb_repo *r, const char *pack_path, uint64_t max_objects, const char *expect, struct sb_error *err)
{
	const char *common = git_repository_commondir(r->repo);
	sb_cleanup(sb_freep) char *objects = sb_asprintf("%sobjects", common);
	sb_cleanup(sb_freep) char *quarantine = sb_asprintf("%sobjects/incoming-XXXXXX", common);
	sb_cleanup(sb_closep) int fd = open(pack_path, O_RDONLY | O_CLOEXEC);
	int rc;

	if (!objects || !quarantine)
		return sb_fail_nomem(err);
	if (fd < 0)
		return sb_fail_errno(err, errno, "could not open the pack \"%s\"", pack_path);
	rc = check_header(fd, max_objects, err);
	if (rc < 0)
		return rc;
	if (!mkdtemp(quarantine))
		return sb_fail_errno(err, errno, "could not make a quarantine folder");
	rc = index_quarantined(r, fd, objects, quarantine, expect, err);
	if (sb_dir_remove(quarantine, NULL) < 0)
		return rc; /* a leftover costs space, not truth: the result stands */
	return rc;
}
