/* Git adapter: the only file family that knows libgit2 (git_*.c). A repository handle belongs to one lane. Object ids are 40 lower-case hex digits.
 * Network access happens in a child process (git_remote.c), with deadline and memory limit: libgit2 1.5 has no timeouts. */
#ifndef STAGEBRIDGE_GIT_H
#define STAGEBRIDGE_GIT_H

#include "stagebridge/base.h"
#include "stagebridge/error.h"

#define SB_OID_LEN 40
struct sb_repo;

int sb_git_init(struct sb_error *err) SB_MUSTCHECK;   /* once, in main: caps (object size, mwindow), owner validation on */
/** Opens a repository at path (bare or not); create: makes a bare one (branch main) when missing. */
int sb_repo_open(struct sb_repo **ret, const char *path, bool create, struct sb_error *err) SB_MUSTCHECK;
void sb_repo_close(struct sb_repo *r);
/**
 * Removes what a killed process left in a bare repository: lock files of references and half-indexed packs that are at least min_age_ms old. A lock
 * left behind would refuse every later move of its reference. With 0 the caller must be the repository's only writer. Missing is fine.
 */
int sb_repo_sweep(const char *path, int64_t min_age_ms, struct sb_error *err) SB_MUSTCHECK;

struct sb_ref { char name[256]; char oid[SB_OID_LEN + 1]; };
struct sb_refs { struct sb_ref *item; size_t count; };
void sb_refs_release(struct sb_refs *refs);
/** All refs below prefix ("refs/heads/"), sorted. */
int sb_repo_refs(struct sb_repo *r, const char *prefix, struct sb_refs *ret, struct sb_error *err) SB_MUSTCHECK;
int sb_repo_ref(struct sb_repo *r, const char *name, char oid[SB_OID_LEN + 1], struct sb_error *err) SB_MUSTCHECK; /* SB_ENOTFOUND */
/** Compare and set: expected NULL = any, "" = must not exist. SB_ECONFLICT otherwise. oid NULL deletes. */
int sb_repo_ref_set(struct sb_repo *r, const char *name, const char *oid, const char *expected, const char *reason, struct sb_error *err) SB_MUSTCHECK;
/** HEAD's branch name ("refs/heads/x") and commit; SB_ENOTFOUND when unborn or detached (branch ""). */
int sb_repo_head(struct sb_repo *r, char branch[256], char oid[SB_OID_LEN + 1], struct sb_error *err) SB_MUSTCHECK;

struct sb_commit {
	char oid[SB_OID_LEN + 1], tree[SB_OID_LEN + 1];
	char parent[2][SB_OID_LEN + 1];  /* first two; "" when absent */
	unsigned n_parents;
	int64_t committed_ms;
	char author[128], title[256];    /* UTF-8, cut */
};
int sb_repo_commit(struct sb_repo *r, const char *oid, struct sb_commit *ret, struct sb_error *err) SB_MUSTCHECK;
bool sb_repo_has(struct sb_repo *r, const char *oid);
/** True when ancestor is oid or an ancestor of it. Negative on error. */
int sb_repo_is_ancestor(struct sb_repo *r, const char *ancestor, const char *oid, struct sb_error *err) SB_MUSTCHECK;
/** First-parent walk from tip down to (not including) an ancestor that is in `until` ("" = root), newest first, at most max commits. Returns new array. */
int sb_repo_first_parents(struct sb_repo *r, const char *tip, const char *until, size_t max, struct sb_commit **ret, size_t *ret_n, struct sb_error *err) SB_MUSTCHECK;
/** Number of commits reachable from a and not from b ("" = none). */
int sb_repo_ahead(struct sb_repo *r, const char *a, const char *b, uint64_t *ret, struct sb_error *err) SB_MUSTCHECK;

struct sb_pack_stats { uint64_t commits, objects, bytes; };
/** Self-contained pack of what `want` needs and `have` does not hold (unknown have oids are ignored), written to path. SB_ESTATE when there is nothing to send. */
int sb_repo_pack(struct sb_repo *r, const char *const *want, size_t n_want, const char *const *have, size_t n_have, const char *path, struct sb_pack_stats *stats, struct sb_error *err) SB_MUSTCHECK;
/** Indexes a pack into the repository, every object's hash checked; then `expect` (a commit) and its whole tree must be readable. Limits: SB_ETOOBIG. */
int sb_repo_index(struct sb_repo *r, const char *pack_path, uint64_t max_objects, const char *expect, struct sb_error *err) SB_MUSTCHECK;

/** Writes the commit's tree to dir (must not exist; made beside as dir.tmp and renamed). Symlinks and submodules are refused by type, .git aliases by name. */
int sb_repo_export(struct sb_repo *r, const char *oid, const char *dir, struct sb_error *err) SB_MUSTCHECK;
/** Record commit: given parents, exactly the tree of tree_of. Author stagebridge. */
int sb_repo_record(struct sb_repo *r, const char *tree_of, const char *const *parents, size_t n, const char *message, char oid[SB_OID_LEN + 1], struct sb_error *err) SB_MUSTCHECK;
/** Three-way merge of two commits into a new commit (parents: ours, theirs). SB_ECONFLICT names the first conflicting path. */
int sb_repo_merge(struct sb_repo *r, const char *ours, const char *theirs, const char *message, const char *author, char oid[SB_OID_LEN + 1], struct sb_error *err) SB_MUSTCHECK;
/** Makes a commit in a repository from files (path, content pairs) on top of parent ("" = root): for tests and the demo. */
struct sb_git_file { const char *path, *content; bool executable; };
int sb_repo_commit_files(struct sb_repo *r, const char *parent, const struct sb_git_file *files, size_t n, const char *message, const char *author, char oid[SB_OID_LEN + 1], struct sb_error *err) SB_MUSTCHECK;

/* Remote, in a child process: the daemon's binary calls sb_git_worker_main first thing when argv[1] is "--git-worker". */
struct sb_remote { const char *url; const char *token_file; /* NULL: none; sent as basic auth to this host only */ const char *token_user; int64_t timeout_ms; };
int sb_git_worker_main(void);   /* reads one JSON job from stdin, writes one JSON answer; returns the exit status */
int sb_remote_refs(const struct sb_remote *remote, struct sb_refs *ret, struct sb_error *err) SB_MUSTCHECK;              /* ls-remote */
int sb_remote_fetch(const struct sb_remote *remote, const char *repo_path, const char *const *refspecs, size_t n, struct sb_error *err) SB_MUSTCHECK;
/** Pushes src_oid to ref; expected: the remote's old oid ("" = new, NULL = any fast-forward). force allows non-fast-forward against expected. SB_ECONFLICT when it moved. */
int sb_remote_push(const struct sb_remote *remote, const char *repo_path, const char *src_oid, const char *ref, const char *expected, bool force, struct sb_error *err) SB_MUSTCHECK;

#endif
