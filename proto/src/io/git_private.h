/* What the git_*.c family shares; the only header of ours that names libgit2. */
#ifndef STAGEBRIDGE_GIT_PRIVATE_H
#define STAGEBRIDGE_GIT_PRIVATE_H

#include <git2.h>
#include <git2/sys/repository.h>

#include "stagebridge/git.h"

struct sb_repo {
	git_repository *repo;
};

/** Converts libgit2's result rc and its thread-local message; "what: reason". Returns the code. */
int sb_git_fail(struct sb_error *err, int rc, const char *fmt, ...) SB_PRINTF(3, 4);
/** Exactly 40 lower-case hex digits, else SB_EINVAL. */
int sb_git_oid(git_oid *ret, const char *oid, struct sb_error *err) SB_MUSTCHECK;
/** git_oid_tostr for our fixed arrays. */
void sb_git_hex(char out[SB_OID_LEN + 1], const git_oid *oid);
/** Commit by its id; returns new (git_commit_free). */
int sb_git_commit_lookup(struct sb_repo *r, const char *oid, git_commit **ret, struct sb_error *err) SB_MUSTCHECK;
/** True when a checkout of this name could touch git's own folder on any usual file system, or leave the folder. */
bool sb_git_name_hostile(const char *name);

/** Appends one reference; a name too long for the struct is left out. */
int sb_git_refs_add(struct sb_refs *refs, const char *name, const git_oid *oid, struct sb_error *err) SB_MUSTCHECK;
void sb_git_refs_sort(struct sb_refs *refs);

/* Ids without repetitions in order of arrival; all-zero is empty. next: for the walk that owns it. */
struct sb_oid_list {
	git_oid *id;
	size_t n, cap, next;
	uint32_t *slot; /* open addressing: index + 1; n_slots is a power of two, at least twice n */
	size_t n_slots;
};
void sb_oid_list_release(struct sb_oid_list *l);
/** 1 added, 0 was there, SB_ENOMEM. */
int sb_oid_list_add(struct sb_oid_list *l, const git_oid *id, struct sb_error *err) SB_MUSTCHECK;

/**
 * Everything that `expect` and the commits new with it name exists: SB_EPROTO says what does not.
 * @param both repository over the old objects and the quarantined ones
 * @param old  the old objects alone
 */
int sb_git_connected(git_repository *both, git_odb *old, const char *expect, struct sb_error *err) SB_MUSTCHECK;

/** Makes libgit2 refuse single allocations above a cap. libgit2's result. */
int sb_git_cap_allocations(void) SB_MUSTCHECK;
/** The options of a process that only walks and packs: no object cache, small windows. */
void sb_git_small_memory(void);
/** http, https, file URL or absolute path, and no credentials inside; else SB_EINVAL. */
int sb_git_url_check(const char *url, struct sb_error *err) SB_MUSTCHECK;

/* for sb_cleanup() */
static inline void sb_git_commit_freep(git_commit **p)
{
	git_commit_free(*p);
}
static inline void sb_git_tree_freep(git_tree **p)
{
	git_tree_free(*p);
}
static inline void sb_git_object_freep(git_object **p)
{
	git_object_free(*p);
}
static inline void sb_git_index_freep(git_index **p)
{
	git_index_free(*p);
}
static inline void sb_git_odb_freep(git_odb **p)
{
	git_odb_free(*p);
}
static inline void sb_git_walk_freep(git_revwalk **p)
{
	git_revwalk_free(*p);
}
static inline void sb_git_ref_freep(git_reference **p)
{
	git_reference_free(*p);
}
static inline void sb_git_repo_freep(git_repository **p)
{
	git_repository_free(*p);
}
static inline void sb_git_signature_freep(git_signature **p)
{
	git_signature_free(*p);
}

#endif
