/*
 * Connectivity of a quarantined pack: does everything that the new commits name exist?
 *
 * Pure reading, on the lane that takes the pack in. The walks use lists instead of recursion and look at each tree
 * once, because a hostile pack can nest trees a million deep or name one tree from everywhere.
 */
#include <string.h>

#include "git_private.h"

struct check {
	git_repository *both; /* with the quarantine */
	git_odb *all;
	git_odb *old; /* without it */
	struct sb_oid_list trees, commits, files;
};

/* A plain lookup reads the folder of packs again for every id that it does not find: for each new object, that is. */
static bool was_here(const struct check *c, const git_oid *id)
{
	return git_odb_exists_ext(c->old, id, GIT_ODB_LOOKUP_NO_REFRESH) == 1;
}

static int missing(const git_oid *id, const char *what, struct sb_error *err)
{
	char hex[SB_OID_LEN + 1];

	git_error_clear();
	sb_git_hex(hex, id);
	return sb_fail(err, SB_EPROTO, "the pack is incomplete: %s %s is missing or is not what it says", what, hex);
}

/* The indexer hashes what a pack's entry inflates to, together with the size that the entry announces, and never compares the two.
 * Reading does (and hashes again), so the files that will be exported are read once; history is only looked up. */
static int check_blob(struct check *c, const git_oid *id, bool whole, struct sb_error *err)
{
	git_odb_object *object = NULL;
	git_object_t type;
	size_t size;
	int rc;

	if (git_odb_read_header(&size, &type, c->all, id) != 0 || type != GIT_OBJECT_BLOB)
		return missing(id, "file", err);
	if (!whole || was_here(c, id))
		return 0;
	rc = sb_oid_list_add(&c->files, id, err);
	if (rc <= 0)
		return rc;
	rc = git_odb_read(&object, c->all, id);
	git_odb_object_free(object);
	return rc < 0 ? missing(id, "file", err) : 0;
}

/* Looks at every tree that is still to do. whole: also below trees that were here before the pack. */
static int check_trees(struct check *c, bool whole, struct sb_error *err)
{
	while (c->trees.next < c->trees.n) {
		sb_cleanup(sb_git_tree_freep) git_tree *tree = NULL;
		git_oid id = c->trees.id[c->trees.next++];

		if (!whole && was_here(c, &id))
			continue;
		if (git_tree_lookup(&tree, c->both, &id) != 0)
			return missing(&id, "folder", err);
		for (size_t i = 0; i < git_tree_entrycount(tree); i++) {
			const git_tree_entry *e = git_tree_entry_byindex(tree, i);
			int rc = 0;

			switch (git_tree_entry_filemode(e)) {
			case GIT_FILEMODE_TREE:
				rc = sb_oid_list_add(&c->trees, git_tree_entry_id(e), err);
				break;
			case GIT_FILEMODE_COMMIT: /* a submodule's commit lives elsewhere */
				break;
			case GIT_FILEMODE_BLOB:
			case GIT_FILEMODE_BLOB_EXECUTABLE:
			case GIT_FILEMODE_LINK:
			case GIT_FILEMODE_UNREADABLE:
				rc = check_blob(c, git_tree_entry_id(e), whole, err);
				break;
			}
			if (rc < 0)
				return rc;
		}
	}
	return 0;
}

/* The commit's tree and its parents; parents that are new are added to the list. */
static int check_commit(struct check *c, const git_oid *id, bool whole, struct sb_error *err)
{
	sb_cleanup(sb_git_commit_freep) git_commit *commit = NULL;
	int rc;

	if (git_commit_lookup(&commit, c->both, id) != 0)
		return missing(id, "commit", err);
	for (unsigned i = 0; i < git_commit_parentcount(commit); i++) {
		const git_oid *parent = git_commit_parent_id(commit, i);

		if (was_here(c, parent))
			continue;
		if (git_odb_exists(c->all, parent) != 1)
			return missing(parent, "parent commit", err);
		rc = sb_oid_list_add(&c->commits, parent, err);
		if (rc < 0)
			return rc;
	}
	rc = sb_oid_list_add(&c->trees, git_commit_tree_id(commit), err);
	return rc < 0 ? rc : check_trees(c, whole, err);
}

int sb_git_connected(git_repository *both, git_odb *old, const char *expect, struct sb_error *err)
{
	sb_cleanup(sb_git_odb_freep) git_odb *all = NULL;
	struct check c = { .both = both, .old = old };
	git_oid id;
	int rc = sb_git_oid(&id, expect, err);

	if (rc < 0)
		return rc;
	rc = git_repository_odb(&all, both);
	if (rc == 0)
		rc = git_odb_refresh(old);
	if (rc < 0)
		return sb_git_fail(err, rc, "could not open the quarantined pack");
	c.all = all;
	rc = check_commit(&c, &id, true, err);
	while (rc == 0 && c.commits.next < c.commits.n) {
		id = c.commits.id[c.commits.next++];
		rc = check_commit(&c, &id, false, err);
	}
	sb_oid_list_release(&c.trees);
	sb_oid_list_release(&c.commits);
	sb_oid_list_release(&c.files);
	return rc;
}
