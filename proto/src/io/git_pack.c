/*
 * Building a pack for another stage.
 *
 * Any lane with its own handle. libgit2's packbuilder keeps everything that it knows of every object until the end
 * (800 MB for half a million objects), so the objects are built in slices of a bounded number, each by a builder of
 * its own, and the slices' entries are put one behind the other: entries refer to their bases by name or by a
 * distance within their slice, so a pack of joined slices is a pack. Its count is known only at the end, so header
 * and checksum are written last.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "git_private.h"
#include "git_sha1.h"
#include "stagebridge/text.h"

enum { HEADER = 12, CHECKSUM = 20, SLICE_OBJECTS = 16384, BLOCK = 64 * 1024 };

struct pack {
	git_repository *repo;
	git_packbuilder *pb; /* of the present slice; NULL before the first object */
	struct sb_oid_list trees, files;
	FILE *out;
	size_t skip;            /* bytes of the slice's own header still to drop */
	uint8_t tail[CHECKSUM]; /* held back: the slice's own checksum, in the end */
	size_t n_tail;
	uint64_t objects;
	int io_errno; /* of a failed write inside of libgit2's call */
	bool marking; /* what the far side has: seen, not sent */
	struct sb_error *err;
};

static void pack_release(struct pack *p)
{
	git_packbuilder_free(p->pb);
	sb_oid_list_release(&p->trees);
	sb_oid_list_release(&p->files);
	if (p->out)
		(void)fclose(p->out); /* after a failure: what could not be written was reported */
}

/* Writes n bytes of a slice, without the first HEADER and the last CHECKSUM bytes of the whole slice. */
static int on_slice(void *data, size_t n, void *user)
{
	struct pack *p = user;
	const uint8_t *in = data;
	size_t skip = n < p->skip ? n : p->skip;

	in += skip;
	n -= skip;
	p->skip -= skip;
	size_t emit = p->n_tail + n > CHECKSUM ? p->n_tail + n - CHECKSUM : 0;
	size_t old = emit < p->n_tail ? emit : p->n_tail;

	if (fwrite(p->tail, 1, old, p->out) != old || fwrite(in, 1, emit - old, p->out) != emit - old) {
		p->io_errno = errno;
		return GIT_EUSER;
	}
	memmove(p->tail, p->tail + old, p->n_tail - old);
	p->n_tail -= old;
	memcpy(p->tail + p->n_tail, in + (emit - old), n - (emit - old));
	p->n_tail += n - (emit - old);
	return 0;
}

static int flush_slice(struct pack *p)
{
	if (!p->pb)
		return 0;
	p->skip = HEADER;
	p->n_tail = 0;
	int rc = git_packbuilder_foreach(p->pb, on_slice, p);
	if (rc == GIT_EUSER)
		return sb_fail_errno(p->err, p->io_errno, "could not write the pack");
	if (rc < 0)
		return sb_git_fail(p->err, rc, "could not build the pack");
	p->objects += git_packbuilder_object_count(p->pb);
	git_packbuilder_free(p->pb);
	p->pb = NULL;
	return 0;
}

static int insert(struct pack *p, const git_oid *id, const char *name)
{
	int rc = 0;

	if (!p->pb) {
		rc = git_packbuilder_new(&p->pb, p->repo);
		if (rc == 0)
			git_packbuilder_set_threads(p->pb, 1); /* each thread holds a delta window of its own */
	}
	if (rc == 0)
		rc = git_packbuilder_insert(p->pb, id, name);
	return rc < 0 ? sb_git_fail(p->err, rc, "could not collect the objects to send") : 0;
}

/* name: files of one name are tried as bases of each other. */
static int take(struct pack *p, struct sb_oid_list *list, const git_oid *id, const char *name)
{
	int rc = sb_oid_list_add(list, id, p->err);

	return rc <= 0 || p->marking ? (rc < 0 ? rc : 0) : insert(p, id, name);
}

static int take_entries(struct pack *p, const git_oid *tree_id)
{
	sb_cleanup(sb_git_tree_freep) git_tree *tree = NULL;
	int rc = git_tree_lookup(&tree, p->repo, tree_id);

	if (rc < 0)
		return sb_git_fail(p->err, rc, "could not read a folder");
	for (size_t i = 0; rc == 0 && i < git_tree_entrycount(tree); i++) {
		const git_tree_entry *e = git_tree_entry_byindex(tree, i);
		git_filemode_t mode = git_tree_entry_filemode(e);

		if (mode == GIT_FILEMODE_TREE)
			rc = take(p, &p->trees, git_tree_entry_id(e), git_tree_entry_name(e));
		else if (mode != GIT_FILEMODE_COMMIT)
			rc = take(p, &p->files, git_tree_entry_id(e), git_tree_entry_name(e));
	}
	return rc;
}

static int take_tree(struct pack *p, const git_commit *commit)
{
	int rc = take(p, &p->trees, git_commit_tree_id(commit), NULL);

	while (rc == 0 && p->trees.next < p->trees.n) {
		git_oid id = p->trees.id[p->trees.next++]; /* a copy: the list grows below */

		rc = take_entries(p, &id);
		if (rc == 0 && p->pb && git_packbuilder_object_count(p->pb) >= SLICE_OBJECTS)
			rc = flush_slice(p);
	}
	return rc;
}

static int push_wanted(struct pack *p, git_revwalk *walk, const char *oid)
{
	sb_cleanup(sb_git_object_freep) git_object *wanted = NULL;
	sb_cleanup(sb_git_object_freep) git_object *commit = NULL;
	git_oid id;
	int rc = sb_git_oid(&id, oid, p->err);

	if (rc < 0)
		return rc;
	rc = git_object_lookup(&wanted, p->repo, &id, GIT_OBJECT_ANY);
	if (rc == 0)
		rc = git_object_peel(&commit, wanted, GIT_OBJECT_COMMIT);
	if (rc == 0)
		rc = git_revwalk_push(walk, git_object_id(commit));
	if (rc < 0)
		return sb_git_fail(p->err, rc, "could not read %s", oid);
	return git_object_type(wanted) == GIT_OBJECT_TAG ? take(p, &p->files, &id, NULL) : 0;
}

/* Leaves out what the far side has; a commit that we do not know is no obstacle. */
static int hide_known(struct pack *p, git_revwalk *walk, const char *oid)
{
	sb_cleanup(sb_git_commit_freep) git_commit *commit = NULL;
	git_oid id;

	if (sb_git_oid(&id, oid, NULL) < 0 || git_commit_lookup(&commit, p->repo, &id) != 0) {
		git_error_clear();
		return 0;
	}
	int rc = git_revwalk_hide(walk, &id);
	if (rc < 0)
		return sb_git_fail(p->err, rc, "could not leave out %s", oid);
	p->marking = true;
	rc = take_tree(p, commit);
	p->marking = false;
	return rc;
}

static int collect(struct pack *p, git_revwalk *walk, uint64_t *ret_commits)
{
	git_oid id;
	int rc;

	while ((rc = git_revwalk_next(&id, walk)) == 0) {
		sb_cleanup(sb_git_commit_freep) git_commit *commit = NULL;

		rc = git_commit_lookup(&commit, p->repo, &id);
		if (rc < 0)
			break;
		++*ret_commits;
		rc = insert(p, &id, NULL);
		if (rc == 0)
			rc = take_tree(p, commit);
		if (rc < 0)
			return rc;
	}
	if (rc != GIT_ITEROVER)
		return sb_git_fail(p->err, rc, "could not walk the commits to send");
	return *ret_commits ? flush_slice(p) : sb_fail(p->err, SB_ESTATE, "there is nothing to send");
}

/* Header with the count that is known now, then the checksum over everything. */
static int finish(struct pack *p, uint64_t *ret_bytes)
{
	uint8_t header[HEADER] = { 'P', 'A', 'C', 'K', 0, 0, 0, 2 }, sum[CHECKSUM];
	sb_cleanup(sb_freep) char *block = malloc(BLOCK);
	struct sb_sha1 sha;
	size_t n;

	if (!block)
		return sb_fail_nomem(p->err);
	if (p->objects > UINT32_MAX)
		return sb_fail(p->err, SB_ETOOBIG, "a pack cannot hold that many objects");
	for (size_t i = 0; i < 4; i++)
		header[8 + i] = (uint8_t)(p->objects >> (24 - 8 * i));
	rewind(p->out);
	if (fwrite(header, 1, HEADER, p->out) != HEADER || fflush(p->out) != 0)
		return sb_fail_errno(p->err, errno, "could not write the pack");
	sb_sha1_init(&sha);
	rewind(p->out);
	*ret_bytes = CHECKSUM;
	while ((n = fread(block, 1, BLOCK, p->out)) > 0) {
		sb_sha1_add(&sha, block, n);
		*ret_bytes += n;
	}
	sb_sha1_final(&sha, sum);
	if (ferror(p->out) || fseek(p->out, 0, SEEK_END) != 0 || fwrite(sum, 1, CHECKSUM, p->out) != CHECKSUM || fflush(p->out) != 0 ||
		fsync(fileno(p->out)) != 0)
		return sb_fail_errno(p->err, errno, "could not write the pack");
	return 0;
}

static int write_pack(
	struct pack *p, const char *const *want, size_t n_want, const char *const *have, size_t n_have, struct sb_pack_stats *s)
{
	static const uint8_t room[HEADER];
	sb_cleanup(sb_git_walk_freep) git_revwalk *walk = NULL;
	int rc = git_revwalk_new(&walk, p->repo);

	if (rc == 0)
		rc = git_revwalk_sorting(walk, GIT_SORT_TIME);
	if (rc < 0)
		return sb_git_fail(p->err, rc, "could not walk");
	if (fwrite(room, 1, HEADER, p->out) != HEADER)
		return sb_fail_errno(p->err, errno, "could not write the pack");
	for (size_t i = 0; rc == 0 && i < n_have; i++)
		rc = hide_known(p, walk, have[i]);
	for (size_t i = 0; rc == 0 && i < n_want; i++)
		rc = push_wanted(p, walk, want[i]);
	if (rc == 0)
		rc = collect(p, walk, &s->commits);
	s->objects = p->objects;
	return rc < 0 ? rc : finish(p, &s->bytes);
}

int sb_repo_pack(struct sb_repo *r, const char *const *want, size_t n_want, const char *const *have, size_t n_have, const char *path,
	struct sb_pack_stats *stats, struct sb_error *err)
{
	struct sb_error local = SB_ERROR_INIT;
	sb_cleanup(sb_freep) char *part = sb_asprintf("%s.part", path);
	struct pack p = { .repo = r->repo, .err = err ? err : &local };
	struct sb_pack_stats s = { 0 };

	if (!part)
		return sb_fail_nomem(err);
	p.out = fopen(part, "w+ex");
	if (!p.out && errno == EEXIST && unlink(part) == 0) /* of a build that was killed */
		p.out = fopen(part, "w+ex");
	if (!p.out || fchmod(fileno(p.out), 0600) != 0) {
		int rc = sb_fail_errno(err, errno, "could not create \"%s\"", part);

		pack_release(&p);
		return rc;
	}
	int rc = write_pack(&p, want, n_want, have, n_have, &s);
	pack_release(&p);
	if (rc == 0 && rename(part, path) != 0)
		rc = sb_fail_errno(err, errno, "could not rename to \"%s\"", path);
	if (rc < 0) {
		(void)unlink(part); /* the error is reported; a leftover is replaced by the next build */
		return rc;
	}
	if (stats)
		*stats = s;
	return 0;
}
