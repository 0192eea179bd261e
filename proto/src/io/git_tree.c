/*
 * New commits: record commits, merges, and commits made from files.
 *
 * Any lane with its own handle. Works on object level only: no index file, no working folder, no reference is
 * touched; the caller moves a reference afterwards by compare-and-set, so a killed process leaves at most unreachable
 * objects.
 */
#include <stdio.h>
#include <string.h>

#include "git_private.h"
#include "stagebridge/text.h"

#define OUR_NAME "stagebridge"
#define OUR_MAIL "stagebridge@localhost"

enum { PARENTS_MAX = 8 };

/* "Name <mail>", or a bare name, or NULL for ourselves. */
static int signature_new(git_signature **ret, const char *author, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *name = NULL;
	sb_cleanup(sb_freep) char *mail = NULL;
	const char *open = author ? strchr(author, '<') : NULL;
	const char *close = open ? strchr(open, '>') : NULL;
	int rc;

	if (author && open && close && open > author) {
		name = sb_asprintf("%.*s", (int)(open - author), author);
		mail = sb_asprintf("%.*s", (int)(close - open - 1), open + 1);
	} else {
		name = sb_strdup(author && author[0] ? author : OUR_NAME);
		mail = author && author[0] ? sb_asprintf("%s@localhost", author) : sb_strdup(OUR_MAIL);
	}
	if (!name || !mail)
		return sb_fail_nomem(err);
	rc = git_signature_now(ret, name, mail);
	return rc < 0 ? sb_git_fail(err, rc, "\"%s\" is no author", author ? author : "") : 0;
}

/* parents: borrowed. author NULL: ourselves. */
static int commit_create(struct sb_repo *r, const git_oid *tree_id, const git_commit **parents, size_t n, const char *message,
	const char *author, char oid[SB_OID_LEN + 1], struct sb_error *err)
{
	sb_cleanup(sb_git_signature_freep) git_signature *who = NULL;
	sb_cleanup(sb_git_signature_freep) git_signature *us = NULL;
	sb_cleanup(sb_git_tree_freep) git_tree *tree = NULL;
	git_oid id;
	int rc = signature_new(&who, author, err);

	if (rc == 0)
		rc = signature_new(&us, NULL, err);
	if (rc < 0)
		return rc;
	rc = git_tree_lookup(&tree, r->repo, tree_id);
	if (rc == 0)
		rc = git_commit_create(&id, r->repo, NULL, who, us, "UTF-8", message, tree, n, parents);
	if (rc < 0)
		return sb_git_fail(err, rc, "could not create a commit");
	sb_git_hex(oid, &id);
	return 0;
}

int sb_repo_record(struct sb_repo *r, const char *tree_of, const char *const *parents, size_t n, const char *message,
	char oid[SB_OID_LEN + 1], struct sb_error *err)
{
	sb_cleanup(sb_git_commit_freep) git_commit *source = NULL;
	git_commit *owned[PARENTS_MAX] = { NULL };
	const git_commit *borrowed[PARENTS_MAX] = { NULL };
	int rc = sb_git_commit_lookup(r, tree_of, &source, err);

	if (rc == 0 && n > PARENTS_MAX)
		rc = sb_fail(err, SB_EINVAL, "a record commit has at most %d parents", PARENTS_MAX);
	for (size_t i = 0; rc == 0 && i < n; i++) {
		rc = sb_git_commit_lookup(r, parents[i], &owned[i], err);
		borrowed[i] = owned[i];
	}
	if (rc == 0)
		rc = commit_create(r, git_commit_tree_id(source), borrowed, n, message, NULL, oid, err);
	for (size_t i = 0; i < PARENTS_MAX; i++)
		git_commit_free(owned[i]);
	return rc;
}

static int conflict(git_index *index, struct sb_error *err)
{
	git_index_conflict_iterator *it = NULL;
	const git_index_entry *base = NULL, *ours = NULL, *theirs = NULL;
	const char *path = "?";

	if (git_index_conflict_iterator_new(&it, index) == 0 && git_index_conflict_next(&base, &ours, &theirs, it) == 0)
		path = ours ? ours->path : theirs ? theirs->path : base ? base->path : path;
	(void)sb_fail(err, SB_ECONFLICT, "\"%s\" was changed on both sides", path); /* before the path is freed */
	git_index_conflict_iterator_free(it);
	return SB_ECONFLICT;
}

int sb_repo_merge(struct sb_repo *r, const char *ours, const char *theirs, const char *message, const char *author,
	char oid[SB_OID_LEN + 1], struct sb_error *err)
{
	sb_cleanup(sb_git_commit_freep) git_commit *a = NULL;
	sb_cleanup(sb_git_commit_freep) git_commit *b = NULL;
	sb_cleanup(sb_git_index_freep) git_index *index = NULL;
	git_merge_options o;
	git_oid tree;
	int rc = sb_git_commit_lookup(r, ours, &a, err);

	if (rc == 0)
		rc = sb_git_commit_lookup(r, theirs, &b, err);
	if (rc < 0)
		return rc;
	rc = git_merge_options_init(&o, GIT_MERGE_OPTIONS_VERSION);
	if (rc == 0)
		rc = git_merge_commits(&index, r->repo, a, b, &o);
	if (rc < 0)
		return sb_git_fail(err, rc, "could not merge %s into %s", theirs, ours);
	if (git_index_has_conflicts(index))
		return conflict(index, err);
	rc = git_index_write_tree_to(&tree, index, r->repo);
	if (rc < 0)
		return sb_git_fail(err, rc, "could not write the merged tree");
	const git_commit *parents[] = { a, b };
	return commit_create(r, &tree, parents, 2, message, author, oid, err);
}

static int add_file(struct sb_repo *r, git_index *index, const struct sb_git_file *f, struct sb_error *err)
{
	git_index_entry e = { .path = f->path, .mode = f->executable ? GIT_FILEMODE_BLOB_EXECUTABLE : GIT_FILEMODE_BLOB };
	int rc;

	if (!f->content) {
		rc = git_index_remove(index, f->path, 0);
	} else {
		rc = git_blob_create_from_buffer(&e.id, r->repo, f->content, strlen(f->content));
		if (rc == 0)
			rc = git_index_add(index, &e);
	}
	return rc < 0 ? sb_git_fail(err, rc, "could not put \"%s\" into a tree", f->path) : 0;
}

int sb_repo_commit_files(struct sb_repo *r, const char *parent, const struct sb_git_file *files, size_t n, const char *message,
	const char *author, char oid[SB_OID_LEN + 1], struct sb_error *err)
{
	sb_cleanup(sb_git_commit_freep) git_commit *base = NULL;
	sb_cleanup(sb_git_tree_freep) git_tree *tree = NULL;
	sb_cleanup(sb_git_index_freep) git_index *index = NULL;
	git_oid id;
	int rc = 0, git;

	if (parent && parent[0])
		rc = sb_git_commit_lookup(r, parent, &base, err);
	if (rc < 0)
		return rc;
	git = git_index_new(&index);
	if (git == 0 && base)
		git = git_commit_tree(&tree, base);
	if (git == 0 && base)
		git = git_index_read_tree(index, tree);
	if (git < 0)
		return sb_git_fail(err, git, "could not read the parent's tree");
	for (size_t i = 0; i < n; i++) {
		rc = add_file(r, index, &files[i], err);
		if (rc < 0)
			return rc;
	}
	git = git_index_write_tree_to(&id, index, r->repo);
	if (git < 0)
		return sb_git_fail(err, git, "could not write the tree");
	const git_commit *parents[] = { base };
	return commit_create(r, &id, parents, base ? 1 : 0, message, author, oid, err);
}
