/*
 * Export of a commit's tree to a folder: what an artifact puts into a stage.
 *
 * Any lane with its own handle. The tree was made by people of another stage, so nothing in it is trusted: only plain
 * files and folders are written, names that any usual file system could take for git's own folder are refused as a
 * whole, every file is opened relative to its folder, new and without following links, and depth, entries and bytes
 * are bounded (a tree may name one folder ten times, ten levels deep). The folder is made beside as dir.tmp and
 * appears by one rename, complete or not at all.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "git_private.h"
#include "stagebridge/file.h"
#include "stagebridge/text.h"

enum { DEPTH_MAX = 64, ENTRIES_MAX = 1000 * 1000 };
static const uint64_t bytes_max = (uint64_t)64 << 30;

/* Code points that HFS+ drops from names: U+200C..U+200F, U+202A..U+202E, U+206A..U+206F, U+FEFF. */
static size_t ignorable(const char *s)
{
	const unsigned char *p = (const unsigned char *)s;

	if (p[0] == 0xe2 && p[1] == 0x80 && ((p[2] >= 0x8c && p[2] <= 0x8f) || (p[2] >= 0xaa && p[2] <= 0xae)))
		return 3;
	if (p[0] == 0xe2 && p[1] == 0x81 && p[2] >= 0xaa && p[2] <= 0xaf)
		return 3;
	if (p[0] == 0xef && p[1] == 0xbb && p[2] == 0xbf)
		return 3;
	return 0;
}

bool sb_git_name_hostile(const char *name)
{
	char bare[16]; /* what file systems keep of the name; longer than anything we look for */
	size_t n = 0;

	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strpbrk(name, "/\\"))
		return true;
	for (const char *p = name; *p && *p != ':'; p++) { /* NTFS: "name:stream" opens name */
		size_t skip = ignorable(p);

		if (skip)
			p += skip - 1;
		else if (n < sizeof(bare))
			bare[n++] = *p;
		else if (*p != '.' && *p != ' ')
			return false;
	}
	while (n > 0 && (bare[n - 1] == '.' || bare[n - 1] == ' ')) /* NTFS drops them */
		n--;
	if (n == 0)
		return true; /* nothing that every file system keeps */
	if (n == 4 && strncasecmp(bare, ".git", 4) == 0)
		return true;
	if (n < 5 || strncasecmp(bare, "git~", 4) != 0)
		return false;
	for (size_t i = 4; i < n; i++) { /* NTFS: the 8.3 alias of ".git" */
		if (bare[i] < '0' || bare[i] > '9')
			return false;
	}
	return true;
}

struct export
{
	git_repository *repo;
	uint64_t bytes;
	unsigned entries;
	struct sb_error *err;
};

static int write_file(struct export *x, int folder, const git_tree_entry *e, mode_t mode)
{
	const char *name = git_tree_entry_name(e);
	git_blob *blob = NULL;
	int rc = git_blob_lookup(&blob, x->repo, git_tree_entry_id(e));

	if (rc < 0)
		return sb_git_fail(x->err, rc, "could not read \"%s\"", name);
	uint64_t size = (uint64_t)git_blob_rawsize(blob);
	sb_cleanup(sb_closep) int fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

	x->bytes += size;
	if (x->bytes > bytes_max)
		rc = sb_fail(x->err, SB_ETOOBIG, "the tree holds more than %llu bytes", (unsigned long long)bytes_max);
	else if (fd < 0)
		rc = sb_fail_errno(x->err, errno, "could not create \"%s\"", name);
	else
		rc = sb_write_all(fd, git_blob_rawcontent(blob), (size_t)size, x->err);
	if (rc == 0 && fchmod(fd, mode) != 0) /* whatever our umask is */
		rc = sb_fail_errno(x->err, errno, "could not set the mode of \"%s\"", name);
	git_blob_free(blob);
	return rc;
}

static int write_tree(struct export *x, int folder, const git_oid *id, unsigned depth);

static int write_folder(struct export *x, int parent, const git_tree_entry *e, unsigned depth)
{
	const char *name = git_tree_entry_name(e);

	if (mkdirat(parent, name, 0755) != 0)
		return sb_fail_errno(x->err, errno, "could not create \"%s\"", name);
	sb_cleanup(sb_closep) int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fchmod(fd, 0755) != 0)
		return sb_fail_errno(x->err, errno, "could not open \"%s\"", name);
	return write_tree(x, fd, git_tree_entry_id(e), depth + 1);
}

static int write_entry(struct export *x, int folder, const git_tree_entry *e, unsigned depth)
{
	const char *name = git_tree_entry_name(e);

	if (++x->entries > ENTRIES_MAX)
		return sb_fail(x->err, SB_ETOOBIG, "the tree has more than %d entries", ENTRIES_MAX);
	if (sb_git_name_hostile(name))
		return sb_fail(x->err, SB_EREFUSED, "the tree has an entry with the forbidden name \"%s\"",
			sb_utf8_ok(name, strlen(name)) ? name : "?");
	switch (git_tree_entry_filemode(e)) {
	case GIT_FILEMODE_TREE:
		return write_folder(x, folder, e, depth);
	case GIT_FILEMODE_BLOB:
		return write_file(x, folder, e, 0644);
	case GIT_FILEMODE_BLOB_EXECUTABLE:
		return write_file(x, folder, e, 0755);
	case GIT_FILEMODE_LINK:
		return sb_fail(x->err, SB_EREFUSED, "\"%s\" is a symbolic link", name);
	case GIT_FILEMODE_COMMIT:
		return sb_fail(x->err, SB_EREFUSED, "\"%s\" is a submodule", name);
	case GIT_FILEMODE_UNREADABLE:
		break;
	}
	return sb_fail(x->err, SB_EREFUSED, "\"%s\" has an unknown mode", name);
}

static int write_tree(struct export *x, int folder, const git_oid *id, unsigned depth)
{
	sb_cleanup(sb_git_tree_freep) git_tree *tree = NULL;
	int rc;

	if (depth > DEPTH_MAX)
		return sb_fail(x->err, SB_ETOOBIG, "the tree is deeper than %d folders", DEPTH_MAX);
	rc = git_tree_lookup(&tree, x->repo, id);
	if (rc < 0)
		return sb_git_fail(x->err, rc, "could not read a folder of the tree");
	for (size_t i = 0; i < git_tree_entrycount(tree); i++) {
		const git_tree_entry *e = git_tree_entry_byindex(tree, i);

		rc = write_entry(x, folder, e, depth);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* The folder that holds dir: "a/b" -> "a", "b" -> ".", "/b" -> "/". Returns new. */
static char *parent_of(const char *dir)
{
	const char *slash = strrchr(dir, '/');

	if (!slash)
		return sb_strdup(".");
	return slash == dir ? sb_strdup("/") : sb_asprintf("%.*s", (int)(slash - dir), dir);
}

static int export_to(struct export *x, const git_oid *tree, const char *tmp, const char *dir)
{
	sb_cleanup(sb_freep) char *parent = parent_of(dir);
	int rc;

	if (!parent)
		return sb_fail_nomem(x->err);
	if (mkdir(tmp, 0755) != 0)
		return sb_fail_errno(x->err, errno, "could not create \"%s\"", tmp);
	sb_cleanup(sb_closep) int fd = open(tmp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fchmod(fd, 0755) != 0)
		return sb_fail_errno(x->err, errno, "could not open \"%s\"", tmp);
	rc = write_tree(x, fd, tree, 0);
	if (rc < 0)
		return rc;
	/* one call for all files: after the rename a power cut must not leave empty ones */
	if (syncfs(fd) != 0)
		return sb_fail_errno(x->err, errno, "could not sync \"%s\"", tmp);
	if (renameat2(AT_FDCWD, tmp, AT_FDCWD, dir, RENAME_NOREPLACE) != 0)
		return errno == EEXIST ? sb_fail(x->err, SB_ECONFLICT, "\"%s\" exists already", dir)
				       : sb_fail_errno(x->err, errno, "could not rename to \"%s\"", dir);
	return sb_dir_sync(parent, x->err);
}

int sb_repo_export(struct sb_repo *r, const char *oid, const char *dir, struct sb_error *err)
{
	sb_cleanup(sb_git_commit_freep) git_commit *commit = NULL;
	sb_cleanup(sb_freep) char *tmp = sb_asprintf("%s.tmp", dir);
	struct export x = { .repo = r->repo, .err = err };
	struct stat st;
	int rc = sb_git_commit_lookup(r, oid, &commit, err);

	if (rc < 0)
		return rc;
	if (!tmp)
		return sb_fail_nomem(err);
	if (lstat(dir, &st) == 0)
		return sb_fail(err, SB_ECONFLICT, "\"%s\" exists already", dir);
	rc = sb_dir_remove(tmp, err); /* of an export that was killed */
	if (rc < 0)
		return rc;
	rc = export_to(&x, git_commit_tree_id(commit), tmp, dir);
	if (rc < 0 && sb_dir_remove(tmp, NULL) < 0)
		return rc; /* the error above is the news; what is left is removed by the next export */
	return rc;
}
