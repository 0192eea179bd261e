/*
 * References: listing, reading, compare-and-set.
 *
 * Any lane with its own handle. libgit2 writes a reference through a lock file and a rename, and compares the old
 * value under that lock, so two processes that set the same reference cannot both win.
 */
#include <stdio.h>
#include <string.h>

#include "git_private.h"
#include "stagebridge/text.h"

enum { REFS_MAX = 200000 };

static inline void iterator_freep(git_reference_iterator **p)
{
	git_reference_iterator_free(*p);
}

void sb_refs_release(struct sb_refs *refs)
{
	free(refs->item);
	refs->item = NULL;
	refs->count = 0;
}

int sb_git_refs_add(struct sb_refs *refs, const char *name, const git_oid *oid, struct sb_error *err)
{
	/* a name that does not fit is nobody's stage or branch of ours, and must not stop the others */
	if (strlen(name) >= sizeof(refs->item->name))
		return 0;
	if (refs->count == REFS_MAX)
		return sb_fail(err, SB_ETOOBIG, "more than %d references", REFS_MAX);
	/* grows at 0, 16, 32, 64 ... */
	if (refs->count == 0 || (refs->count >= 16 && (refs->count & (refs->count - 1)) == 0)) {
		size_t cap = refs->count ? refs->count * 2 : 16;
		struct sb_ref *more = reallocarray(refs->item, cap, sizeof(*more));

		if (!more)
			return sb_fail_nomem(err);
		refs->item = more;
	}
	struct sb_ref *ref = &refs->item[refs->count++];
	memcpy(ref->name, name, strlen(name) + 1);
	sb_git_hex(ref->oid, oid);
	return 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct sb_ref *)a)->name, ((const struct sb_ref *)b)->name);
}

void sb_git_refs_sort(struct sb_refs *refs)
{
	if (refs->count > 1)
		qsort(refs->item, refs->count, sizeof(*refs->item), by_name);
}

int sb_repo_refs(struct sb_repo *r, const char *prefix, struct sb_refs *ret, struct sb_error *err)
{
	sb_cleanup(iterator_freep) git_reference_iterator *it = NULL;
	sb_cleanup(sb_refs_release) struct sb_refs refs = { 0 };
	const char *name;
	git_oid oid;
	int rc = git_reference_iterator_new(&it, r->repo);

	if (rc < 0)
		return sb_git_fail(err, rc, "could not list references");
	while ((rc = git_reference_next_name(&name, it)) == 0) {
		if (strncmp(name, prefix, strlen(prefix)) != 0)
			continue;
		rc = git_reference_name_to_id(&oid, r->repo, name);
		if (rc == GIT_ENOTFOUND)
			continue; /* deleted meanwhile, or a symbolic one that points nowhere */
		if (rc < 0)
			return sb_git_fail(err, rc, "could not read \"%s\"", name);
		rc = sb_git_refs_add(&refs, name, &oid, err);
		if (rc < 0)
			return rc;
	}
	if (rc != GIT_ITEROVER)
		return sb_git_fail(err, rc, "could not list references");
	sb_git_refs_sort(&refs);
	*ret = refs;
	refs = (struct sb_refs){ 0 };
	return 0;
}

int sb_repo_ref(struct sb_repo *r, const char *name, char oid[SB_OID_LEN + 1], struct sb_error *err)
{
	git_oid id;
	int rc = git_reference_name_to_id(&id, r->repo, name);

	if (rc < 0)
		return sb_git_fail(err, rc, "could not read \"%s\"", name);
	sb_git_hex(oid, &id);
	return 0;
}

static int moved(const char *name, const char *expected, struct sb_error *err)
{
	git_error_clear();
	if (!expected[0])
		return sb_fail(err, SB_ECONFLICT, "\"%s\" exists already", name);
	return sb_fail(err, SB_ECONFLICT, "\"%s\" is not at %s any more", name, expected);
}

static int ref_delete(struct sb_repo *r, const char *name, const char *expected, struct sb_error *err)
{
	sb_cleanup(sb_git_ref_freep) git_reference *ref = NULL;
	char now[SB_OID_LEN + 1];
	int rc = git_reference_lookup(&ref, r->repo, name);

	if (rc == GIT_ENOTFOUND) {
		git_error_clear();
		return !expected || !expected[0] ? 0 : moved(name, expected, err);
	}
	if (rc < 0)
		return sb_git_fail(err, rc, "could not read \"%s\"", name);
	const git_oid *target = git_reference_target(ref);
	if (!target)
		return sb_fail(err, SB_ESTATE, "\"%s\" is a symbolic reference", name);
	sb_git_hex(now, target);
	if (expected && strcmp(now, expected) != 0)
		return moved(name, expected, err);
	rc = git_reference_delete(ref); /* compares with the value that was read */
	if (rc == GIT_EMODIFIED)
		return moved(name, now, err);
	return rc < 0 ? sb_git_fail(err, rc, "could not delete \"%s\"", name) : 0;
}

int sb_repo_ref_set(struct sb_repo *r, const char *name, const char *oid, const char *expected, const char *reason, struct sb_error *err)
{
	sb_cleanup(sb_git_ref_freep) git_reference *ref = NULL;
	git_oid id, old;
	int rc;

	if (expected && expected[0] && (rc = sb_git_oid(&old, expected, err)) < 0)
		return rc;
	if (!oid)
		return ref_delete(r, name, expected, err);
	rc = sb_git_oid(&id, oid, err);
	if (rc < 0)
		return rc;
	if (!expected)
		rc = git_reference_create(&ref, r->repo, name, &id, 1, reason);
	else if (!expected[0])
		rc = git_reference_create(&ref, r->repo, name, &id, 0, reason);
	else
		rc = git_reference_create_matching(&ref, r->repo, name, &id, 1, &old, reason);
	if (expected && (rc == GIT_EEXISTS || rc == GIT_EMODIFIED || rc == GIT_ENOTFOUND))
		return moved(name, expected, err);
	return rc < 0 ? sb_git_fail(err, rc, "could not set \"%s\"", name) : 0;
}

int sb_repo_head(struct sb_repo *r, char branch[256], char oid[SB_OID_LEN + 1], struct sb_error *err)
{
	sb_cleanup(sb_git_ref_freep) git_reference *ref = NULL;
	int rc;

	branch[0] = '\0';
	oid[0] = '\0';
	rc = git_repository_head(&ref, r->repo);
	if (rc == GIT_EUNBORNBRANCH || rc == GIT_ENOTFOUND) {
		git_error_clear();
		return sb_fail(err, SB_ENOTFOUND, "the repository has no commit on its branch yet");
	}
	if (rc < 0)
		return sb_git_fail(err, rc, "could not read HEAD");
	if (!git_reference_is_branch(ref))
		return sb_fail(err, SB_ENOTFOUND, "HEAD is on no branch");
	rc = sb_format(branch, 256, err, "%s", git_reference_name(ref));
	if (rc < 0)
		return rc;
	sb_git_hex(oid, git_reference_target(ref));
	return 0;
}
