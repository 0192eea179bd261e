/*
 * Git adapter on repositories of its own: compare-and-set of references, packs between repositories and what is
 * refused in them, export of harmless and hostile trees, record commits, merges, walks. Hostile objects are written
 * as raw bytes, because libgit2's own builders would refuse to make them.
 */
#include <check.h>
#include <dirent.h>
#include <git2.h>
#include <git2/sys/mempack.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stagebridge/file.h"
#include "stagebridge/git.h"
#include "stagebridge/text.h"

#define OID (SB_OID_LEN + 1)

static char dir[64];
static struct sb_repo *a, *b;

static void must(int r, const struct sb_error *err)
{
	ck_assert_msg(r == 0, "%s: %s", sb_code_name(err->code), err->msg);
}

static const char *in_dir(const char *name)
{
	static char text[4][256];
	static unsigned next;
	char *out = text[next++ % 4];

	ck_assert_int_eq(sb_format(out, sizeof(text[0]), NULL, "%s/%s", dir, name), 0);
	return out;
}

static void setup(void)
{
	struct sb_error err = SB_ERROR_INIT;

	memcpy(dir, "/tmp/sb-git-XXXXXX", 19);
	ck_assert_ptr_nonnull(mkdtemp(dir));
	must(sb_git_init(&err), &err);
	must(sb_repo_open(&a, in_dir("a.git"), true, &err), &err);
	must(sb_repo_open(&b, in_dir("b.git"), true, &err), &err);
}

static void teardown(void)
{
	sb_repo_close(a);
	sb_repo_close(b);
	ck_assert_int_eq(sb_dir_remove(dir, NULL), 0);
}

static void commit(struct sb_repo *r, const char *parent, const char *path, const char *content, char oid[OID])
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_git_file f = { .path = path, .content = content };

	must(sb_repo_commit_files(r, parent, &f, 1, content, "Ada <ada@example.org>", oid, &err), &err);
}

/* c[0] <- c[1] <- c[2], each changes one file. */
static void chain(struct sb_repo *r, char c[3][OID])
{
	commit(r, "", "src/one.txt", "one", c[0]);
	commit(r, c[0], "src/two.txt", "two", c[1]);
	commit(r, c[1], "src/two.txt", "three", c[2]);
}

static unsigned entries(const char *path)
{
	DIR *d = opendir(path);
	unsigned n = 0;

	ck_assert_ptr_nonnull(d);
	for (const struct dirent *e; (e = readdir(d));)
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

/* Nothing of a refused pack stays: no pack, no quarantine folder. */
static void assert_untouched(const char *repo)
{
	char path[256];

	ck_assert_int_eq(sb_format(path, sizeof(path), NULL, "%s/objects", in_dir(repo)), 0);
	ck_assert_uint_eq(entries(path), 2); /* info, pack */
	ck_assert_int_eq(sb_format(path, sizeof(path), NULL, "%s/objects/pack", in_dir(repo)), 0);
	ck_assert_uint_eq(entries(path), 0);
}

/* ---- references ---- */

START_TEST(test_ref_cas)
{
	struct sb_error err = SB_ERROR_INIT;
	char c[3][OID], oid[OID];
	const char *ref = "refs/heads/main";

	chain(a, c);
	ck_assert_int_eq(sb_repo_ref(a, ref, oid, &err), SB_ENOTFOUND);
	ck_assert_int_eq(sb_repo_ref_set(a, ref, c[0], c[1], "x", &err), SB_ECONFLICT);
	must(sb_repo_ref_set(a, ref, c[0], "", "first", &err), &err);
	ck_assert_int_eq(sb_repo_ref_set(a, ref, c[1], "", "x", &err), SB_ECONFLICT);
	ck_assert_int_eq(sb_repo_ref_set(a, ref, c[2], c[1], "x", &err), SB_ECONFLICT);
	must(sb_repo_ref(a, ref, oid, &err), &err);
	ck_assert_str_eq(oid, c[0]);
	must(sb_repo_ref_set(a, ref, c[1], c[0], "on", &err), &err);
	must(sb_repo_ref_set(a, ref, c[2], NULL, "any", &err), &err);
	must(sb_repo_ref(a, ref, oid, &err), &err);
	ck_assert_str_eq(oid, c[2]);
	ck_assert_int_eq(sb_repo_ref_set(a, ref, NULL, c[0], "x", &err), SB_ECONFLICT);
	ck_assert_int_eq(sb_repo_ref_set(a, ref, NULL, "", "x", &err), SB_ECONFLICT);
	must(sb_repo_ref_set(a, ref, NULL, c[2], "gone", &err), &err);
	ck_assert_int_eq(sb_repo_ref_set(a, ref, NULL, c[2], "x", &err), SB_ECONFLICT);
	must(sb_repo_ref_set(a, ref, NULL, NULL, "still gone", &err), &err);

	ck_assert_int_eq(sb_repo_ref_set(a, ref, "12", "", "x", &err), SB_EINVAL);
	ck_assert_int_eq(sb_repo_ref_set(a, "refs/heads/a..b", c[0], "", "x", &err), SB_EINVAL);
	memset(oid, '7', SB_OID_LEN); /* an object that is not there */
	ck_assert_int_lt(sb_repo_ref_set(a, ref, oid, "", "x", &err), 0);
}
END_TEST

/* A kill between taking a reference's lock and renaming it would refuse every later move of that reference. */
START_TEST(test_sweep_after_a_kill)
{
	struct sb_error err = SB_ERROR_INIT;
	char oid[OID], lock[300], half[300];

	commit(a, "", "f", "x", oid);
	must(sb_repo_ref_set(a, "refs/remotes/forge/stage/train", oid, NULL, "", &err), &err);
	(void)snprintf(lock, sizeof(lock), "%s/refs/remotes/forge/stage/train.lock", in_dir("a.git"));
	(void)snprintf(half, sizeof(half), "%s/objects/incoming-1", in_dir("a.git"));
	must(sb_file_write(lock, "", 0, 0600, &err), &err);
	must(sb_dir_make(half, 0700, &err), &err);
	ck_assert_int_lt(sb_repo_ref_set(a, "refs/remotes/forge/stage/train", oid, NULL, "", &err), 0);

	must(sb_repo_sweep(in_dir("a.git"), 60000, &err), &err);
	ck_assert_int_eq(access(lock, F_OK), 0); /* too young: it may be somebody's */
	must(sb_repo_sweep(in_dir("a.git"), 0, &err), &err);
	ck_assert_int_ne(access(lock, F_OK), 0);
	ck_assert_int_ne(access(half, F_OK), 0);
	must(sb_repo_ref_set(a, "refs/remotes/forge/stage/train", oid, NULL, "", &err), &err);
	must(sb_repo_sweep(in_dir("missing.git"), 0, &err), &err);
}
END_TEST

START_TEST(test_ref_list)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_refs refs = { 0 };
	char c[3][OID], name[64];

	chain(a, c);
	must(sb_repo_refs(a, "refs/heads/", &refs, &err), &err);
	ck_assert_uint_eq(refs.count, 0);
	for (int i = 40; i > 0; i--) {
		ck_assert_int_eq(sb_format(name, sizeof(name), NULL, "refs/heads/f/%02d", i), 0);
		must(sb_repo_ref_set(a, name, c[i % 3], "", "x", &err), &err);
	}
	must(sb_repo_ref_set(a, "refs/stagebridge/keep/1", c[0], "", "x", &err), &err);
	must(sb_repo_refs(a, "refs/heads/", &refs, &err), &err);
	ck_assert_uint_eq(refs.count, 40);
	ck_assert_str_eq(refs.item[0].name, "refs/heads/f/01");
	ck_assert_str_eq(refs.item[0].oid, c[1]);
	ck_assert_str_eq(refs.item[39].name, "refs/heads/f/40");
	sb_refs_release(&refs);
	must(sb_repo_refs(a, "refs/stagebridge/", &refs, &err), &err);
	ck_assert_uint_eq(refs.count, 1);
	sb_refs_release(&refs);
}
END_TEST

START_TEST(test_head)
{
	struct sb_error err = SB_ERROR_INIT;
	char c[3][OID], branch[256], oid[OID];

	ck_assert_int_eq(sb_repo_head(a, branch, oid, &err), SB_ENOTFOUND);
	ck_assert_str_eq(branch, "");
	chain(a, c);
	must(sb_repo_ref_set(a, "refs/heads/main", c[1], "", "x", &err), &err);
	must(sb_repo_head(a, branch, oid, &err), &err);
	ck_assert_str_eq(branch, "refs/heads/main");
	ck_assert_str_eq(oid, c[1]);
	must(sb_file_write(in_dir("a.git/HEAD"), c[0], SB_OID_LEN, 0600, &err), &err);
	ck_assert_int_eq(sb_repo_head(a, branch, oid, &err), SB_ENOTFOUND);
	ck_assert_str_eq(branch, "");

	struct sb_repo *none = NULL;
	ck_assert_int_eq(sb_repo_open(&none, in_dir("nowhere"), false, &err), SB_ENOTFOUND);
	ck_assert_ptr_null(none);
}
END_TEST

/* ---- walks ---- */

START_TEST(test_commit_fields)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_commit c;
	char oid[OID];
	struct sb_git_file f = { .path = "x", .content = "x" };

	must(sb_repo_commit_files(a, "", &f, 1, "a title\n\nand a body\n", "Zo\xc3\xab <z@example.org>", oid, &err), &err);
	must(sb_repo_commit(a, oid, &c, &err), &err);
	ck_assert_str_eq(c.oid, oid);
	ck_assert_str_eq(c.title, "a title");
	ck_assert_str_eq(c.author, "Zo\xc3\xab <z@example.org>");
	ck_assert_uint_eq(c.n_parents, 0);
	ck_assert_str_eq(c.parent[0], "");
	ck_assert(c.committed_ms > INT64_C(1500000000000));
	ck_assert(sb_repo_has(a, oid));
	ck_assert(sb_repo_has(a, c.tree));
	ck_assert(!sb_repo_has(b, oid));
	ck_assert(!sb_repo_has(a, "short"));
	ck_assert_int_eq(sb_repo_commit(a, c.tree, &c, &err), SB_ENOTFOUND);

	/* Latin-1 in a title, and one that must be cut */
	char longer[400];
	memset(longer, 'a', 254);
	memcpy(longer + 254, "\xc3\xab\xc3\xab", 5);
	must(sb_repo_commit_files(a, "", &f, 1, longer, NULL, oid, &err), &err);
	must(sb_repo_commit(a, oid, &c, &err), &err);
	ck_assert_uint_eq(strlen(c.title), 254);
	must(sb_repo_commit_files(a, "", &f, 1, "caf\xe9", NULL, oid, &err), &err);
	must(sb_repo_commit(a, oid, &c, &err), &err);
	ck_assert_str_eq(c.title, "caf?");
	ck_assert_str_eq(c.author, "stagebridge <stagebridge@localhost>");
}
END_TEST

START_TEST(test_walks)
{
	struct sb_error err = SB_ERROR_INIT;
	char c[3][OID], side[OID], merged[OID], last[OID];
	struct sb_commit *list = NULL;
	uint64_t ahead = 0;
	size_t n = 0;

	chain(a, c);
	commit(a, c[0], "side.txt", "side", side);
	must(sb_repo_merge(a, c[2], side, "merge side", "Bo <bo@example.org>", merged, &err), &err);
	commit(a, merged, "last.txt", "last", last);

	must(sb_repo_first_parents(a, last, "", 100, &list, &n, &err), &err);
	ck_assert_uint_eq(n, 5);
	static const char *const titles[] = { "last", "merge side", "three", "two", "one" };
	for (size_t i = 0; i < n; i++)
		ck_assert_str_eq(list[i].title, titles[i]);
	free(list);
	must(sb_repo_first_parents(a, last, c[1], 100, &list, &n, &err), &err);
	ck_assert_uint_eq(n, 3);
	ck_assert_str_eq(list[2].oid, c[2]);
	free(list);
	/* until reaches the tip's history only through a second parent */
	must(sb_repo_first_parents(a, c[2], merged, 100, &list, &n, &err), &err);
	ck_assert_uint_eq(n, 0);
	free(list);
	must(sb_repo_first_parents(a, last, side, 100, &list, &n, &err), &err);
	ck_assert_uint_eq(n, 4); /* down to c[1]; c[0] is an ancestor of side */
	ck_assert_str_eq(list[3].oid, c[1]);
	free(list);
	must(sb_repo_first_parents(a, last, "", 2, &list, &n, &err), &err);
	ck_assert_uint_eq(n, 2);
	free(list);

	must(sb_repo_ahead(a, last, "", &ahead, &err), &err);
	ck_assert_uint_eq(ahead, 6);
	must(sb_repo_ahead(a, last, c[2], &ahead, &err), &err);
	ck_assert_uint_eq(ahead, 3);
	must(sb_repo_ahead(a, c[2], last, &ahead, &err), &err);
	ck_assert_uint_eq(ahead, 0);

	ck_assert_int_eq(sb_repo_is_ancestor(a, c[0], last, &err), 1);
	ck_assert_int_eq(sb_repo_is_ancestor(a, side, last, &err), 1);
	ck_assert_int_eq(sb_repo_is_ancestor(a, last, last, &err), 1);
	ck_assert_int_eq(sb_repo_is_ancestor(a, last, c[0], &err), 0);
	ck_assert_int_eq(sb_repo_is_ancestor(a, side, c[2], &err), 0);
	ck_assert_int_eq(sb_repo_is_ancestor(b, c[0], c[1], &err), SB_ENOTFOUND);
}
END_TEST

/* ---- packs ---- */

START_TEST(test_pack_round_trip)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_pack_stats stats = { 0 };
	struct sb_commit in_a, in_b;
	char c[3][OID], more[OID], back[OID];
	struct stat st;

	chain(a, c);
	const char *want[] = { c[2] };
	must(sb_repo_pack(a, want, 1, NULL, 0, in_dir("full.pack"), &stats, &err), &err);
	ck_assert_uint_eq(stats.commits, 3);
	ck_assert_uint_eq(stats.objects, 3 + 6 + 3); /* commits, trees, files */
	ck_assert_int_eq(stat(in_dir("full.pack"), &st), 0);
	ck_assert_uint_eq((uint64_t)st.st_size, stats.bytes);

	must(sb_repo_index(b, in_dir("full.pack"), stats.objects, c[2], &err), &err);
	for (int i = 0; i < 3; i++) {
		must(sb_repo_commit(a, c[i], &in_a, &err), &err);
		must(sb_repo_commit(b, c[i], &in_b, &err), &err);
		ck_assert_int_eq(memcmp(&in_a, &in_b, sizeof(in_a)), 0);
	}
	must(sb_repo_index(b, in_dir("full.pack"), stats.objects, c[2], &err), &err); /* twice is once */

	/* what the far side has is left out; what it has and we do not know is no obstacle */
	commit(a, c[2], "new.txt", "new", more);
	commit(a, more, "src/two.txt", "two", back); /* a file that is in the history already */
	const char *have[] = { c[2], "1234567890123456789012345678901234567890" };
	const char *want2[] = { back };
	must(sb_repo_pack(a, want2, 1, have, 2, in_dir("delta.pack"), &stats, &err), &err);
	ck_assert_uint_eq(stats.commits, 2);
	must(sb_repo_index(b, in_dir("delta.pack"), 1000, back, &err), &err);
	must(sb_repo_export(b, back, in_dir("out"), &err), &err);
	ck_assert_int_eq(stat(in_dir("out/new.txt"), &st), 0);

	const char *all[] = { back };
	ck_assert_int_eq(sb_repo_pack(a, want2, 1, all, 1, in_dir("none.pack"), &stats, &err), SB_ESTATE);
	ck_assert_int_ne(stat(in_dir("none.pack"), &st), 0);
	const char *unknown[] = { have[1] };
	ck_assert_int_eq(sb_repo_pack(a, unknown, 1, NULL, 0, in_dir("none.pack"), &stats, &err), SB_ENOTFOUND);
}
END_TEST

enum { MANY_DIRS = 10, MANY_FILES = 1700 };

/* A commit with 17,000 files, made in memory and given to the repository as one pack: loose they would take seconds. */
static void many_files(char oid[OID])
{
	struct sb_error err = SB_ERROR_INIT;
	git_repository *repo = NULL;
	git_odb *odb = NULL;
	git_odb_backend *memory = NULL;
	git_treebuilder *root = NULL, *sub = NULL;
	git_signature *who = NULL;
	git_tree *tree = NULL;
	git_buf pack = { 0 };
	git_oid id;
	char name[32];

	ck_assert_int_eq(git_repository_open(&repo, in_dir("a.git")), 0);
	ck_assert_int_eq(git_repository_odb(&odb, repo), 0);
	ck_assert_int_eq(git_mempack_new(&memory), 0);
	ck_assert_int_eq(git_odb_add_backend(odb, memory, 999), 0); /* takes it */
	ck_assert_int_eq(git_treebuilder_new(&root, repo, NULL), 0);
	for (int d = 0; d < MANY_DIRS; d++) {
		ck_assert_int_eq(git_treebuilder_new(&sub, repo, NULL), 0);
		for (int f = 0; f < MANY_FILES; f++) {
			ck_assert_int_eq(sb_format(name, sizeof(name), NULL, "file-%d-%d", d, f), 0);
			ck_assert_int_eq(git_blob_create_from_buffer(&id, repo, name, strlen(name)), 0);
			ck_assert_int_eq(git_treebuilder_insert(NULL, sub, name, &id, GIT_FILEMODE_BLOB), 0);
		}
		ck_assert_int_eq(git_treebuilder_write(&id, sub), 0);
		git_treebuilder_free(sub);
		ck_assert_int_eq(sb_format(name, sizeof(name), NULL, "dir-%d", d), 0);
		ck_assert_int_eq(git_treebuilder_insert(NULL, root, name, &id, GIT_FILEMODE_TREE), 0);
	}
	ck_assert_int_eq(git_treebuilder_write(&id, root), 0);
	ck_assert_int_eq(git_tree_lookup(&tree, repo, &id), 0);
	ck_assert_int_eq(git_signature_now(&who, "x", "x@example.org"), 0);
	ck_assert_int_eq(git_commit_create(&id, repo, NULL, who, who, NULL, "many", tree, 0, NULL), 0);
	git_oid_tostr(oid, OID, &id);
	ck_assert_int_eq(git_mempack_dump(&pack, repo, memory), 0);
	must(sb_file_write(in_dir("many"), pack.ptr, pack.size, 0600, &err), &err);
	must(sb_repo_index(a, in_dir("many"), 100000, oid, &err), &err);
	git_buf_dispose(&pack);
	git_signature_free(who);
	git_tree_free(tree);
	git_treebuilder_free(root);
	git_odb_free(odb);
	git_repository_free(repo);
}

/* More objects than one slice of the builder takes: the pack is joined from several. */
START_TEST(test_pack_slices)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_pack_stats stats = { 0 };
	char oid[OID];

	many_files(oid);
	const char *want[] = { oid };
	must(sb_repo_pack(a, want, 1, NULL, 0, in_dir("p"), &stats, &err), &err);
	ck_assert_uint_eq(stats.objects, MANY_DIRS * MANY_FILES + MANY_DIRS + 2);
	ck_assert_int_eq(sb_repo_index(b, in_dir("p"), stats.objects - 1, oid, &err), SB_ETOOBIG);
	must(sb_repo_index(b, in_dir("p"), stats.objects, oid, &err), &err);
}
END_TEST

START_TEST(test_pack_limits)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_pack_stats stats = { 0 };
	char c[3][OID];

	chain(a, c);
	const char *want[] = { c[2] };
	must(sb_repo_pack(a, want, 1, NULL, 0, in_dir("p"), &stats, &err), &err);
	ck_assert_int_eq(sb_repo_index(b, in_dir("p"), stats.objects - 1, c[2], &err), SB_ETOOBIG);
	ck_assert_int_eq(sb_repo_index(b, in_dir("missing"), 10, c[2], &err), SB_ENOTFOUND);
	ck_assert_int_eq(sb_repo_index(b, in_dir("p"), 1000, "4444444444444444444444444444444444444444", &err), SB_EPROTO);
	ck_assert_int_eq(sb_repo_index(b, in_dir("p"), 1000, "zz", &err), SB_EINVAL);
	assert_untouched("b.git");
}
END_TEST

START_TEST(test_pack_corrupt)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_pack_stats stats = { 0 };
	sb_cleanup(sb_freep) char *bytes = NULL;
	char c[3][OID];
	size_t n = 0;

	chain(a, c);
	const char *want[] = { c[2] };
	must(sb_repo_pack(a, want, 1, NULL, 0, in_dir("p"), &stats, &err), &err);
	must(sb_file_read(in_dir("p"), 1 << 20, &bytes, &n, &err), &err);
	for (size_t i = 0; i < n; i += 7) {
		bytes[i] = (char)(bytes[i] ^ 0x10);
		must(sb_file_write(in_dir("q"), bytes, n, 0600, &err), &err);
		int r = sb_repo_index(b, in_dir("q"), 1000, c[2], &err);
		ck_assert_msg(r == SB_EPROTO || r == SB_ETOOBIG, "byte %zu of %zu: %s %s", i, n, sb_code_name((enum sb_code)r), err.msg);
		bytes[i] = (char)(bytes[i] ^ 0x10);
	}
	for (size_t cut = 0; cut < n; cut += 23) {
		must(sb_file_write(in_dir("q"), bytes, cut, 0600, &err), &err);
		ck_assert_int_eq(sb_repo_index(b, in_dir("q"), 1000, c[2], &err), SB_EPROTO);
	}
	assert_untouched("b.git");
	ck_assert(!sb_repo_has(b, c[2]));
}
END_TEST

/* Packs that were made to hurt; the fuzz corpus holds them. */
static const struct {
	const char *name, *expect;
	int want;
} hostile_packs[] = {
	{ "delta-announced", NULL, SB_EPROTO },
	{ "delta-bomb", NULL, SB_EPROTO },
	{ "delta-nested", NULL, SB_EPROTO },
	{ "delta-self", NULL, SB_EPROTO },
	{ "ref-missing", NULL, SB_EPROTO },
	{ "count-low", NULL, SB_EPROTO },
	{ "count-high", NULL, SB_EPROTO },
	{ "thin", NULL, SB_EPROTO },
	{ "trailer", NULL, SB_EPROTO },
	{ "flipped", NULL, SB_EPROTO },
	{ "truncated", NULL, SB_EPROTO },
	{ "empty", NULL, SB_EPROTO },
	/* entries that announce another size than they have, below a commit that is otherwise fine */
	{ "liar-small", "309e88c4a8dff60dbc3cbbfd8d61955d7bd17b7e", SB_EPROTO },
	{ "liar-huge", "6a413cdd84d2662b8cbb95943d5d2fecfb353723", SB_EPROTO },
	{ "liar-not", "2adf22f7a6308e8c10550e1f296a34b5451bed73", SB_OK },
	{ "good", "4e4707a1eaca1ca1c85b4b182e3ae59dbd6ce71d", SB_OK },
};

START_TEST(test_pack_hostile)
{
	struct sb_error err = SB_ERROR_INIT;
	struct rusage before, after;
	char path[128];

	ck_assert_int_eq(getrusage(RUSAGE_SELF, &before), 0);
	ck_assert_int_eq(sb_format(path, sizeof(path), NULL, "tests/fuzz/corpus/pack/%s.pack", hostile_packs[_i].name), 0);
	ck_assert_int_eq(access(path, R_OK), 0);
	int r = sb_repo_index(b, path, 1000, hostile_packs[_i].expect, &err);
	ck_assert_int_eq(getrusage(RUSAGE_SELF, &after), 0);
	ck_assert_msg(r == hostile_packs[_i].want, "%s: %d %s", hostile_packs[_i].name, r, err.msg);
	ck_assert_msg(after.ru_maxrss - before.ru_maxrss < 64 * 1024, "%ld KiB", after.ru_maxrss - before.ru_maxrss);
	if (r < 0)
		assert_untouched("b.git");
}
END_TEST

/* A pack of exactly these objects, made past our own adapter. */
static void raw_pack(const char *const *oids, size_t n, const char *path)
{
	git_repository *repo = NULL;
	git_packbuilder *pb = NULL;
	git_buf buf = { 0 };
	git_oid id;

	ck_assert_int_eq(git_repository_open(&repo, in_dir("a.git")), 0);
	ck_assert_int_eq(git_packbuilder_new(&pb, repo), 0);
	for (size_t i = 0; i < n; i++) {
		ck_assert_int_eq(git_oid_fromstr(&id, oids[i]), 0);
		ck_assert_int_eq(git_packbuilder_insert(pb, &id, NULL), 0);
	}
	ck_assert_int_eq(git_packbuilder_write_buf(&buf, pb), 0);
	ck_assert_int_eq(sb_file_write(path, buf.ptr, buf.size, 0600, NULL), 0);
	git_buf_dispose(&buf);
	git_packbuilder_free(pb);
	git_repository_free(repo);
}

/* Object ids of the tree "src", and of a file in it, of a commit. */
static void parts(const char *commit_oid, const char *path, char root[OID], char sub[OID], char file[OID])
{
	git_repository *repo = NULL;
	git_commit *c = NULL;
	git_tree *tree = NULL;
	git_tree_entry *e = NULL;
	git_oid id;

	ck_assert_int_eq(git_repository_open(&repo, in_dir("a.git")), 0);
	ck_assert_int_eq(git_oid_fromstr(&id, commit_oid), 0);
	ck_assert_int_eq(git_commit_lookup(&c, repo, &id), 0);
	ck_assert_int_eq(git_commit_tree(&tree, c), 0);
	git_oid_tostr(root, OID, git_tree_id(tree));
	git_oid_tostr(sub, OID, git_tree_entry_id(git_tree_entry_byname(tree, "src")));
	ck_assert_int_eq(git_tree_entry_bypath(&e, tree, path), 0);
	git_oid_tostr(file, OID, git_tree_entry_id(e));
	git_tree_entry_free(e);
	git_tree_free(tree);
	git_commit_free(c);
	git_repository_free(repo);
}

START_TEST(test_pack_incomplete)
{
	struct sb_error err = SB_ERROR_INIT;
	char c[3][OID], root[3][OID], sub[3][OID], one[OID], two[3][OID];

	chain(a, c);
	parts(c[0], "src/one.txt", root[0], sub[0], one);
	parts(c[1], "src/two.txt", root[1], sub[1], two[1]);
	parts(c[2], "src/two.txt", root[2], sub[2], two[2]);

	const char *all[] = { c[0], root[0], sub[0], one, c[1], root[1], sub[1], two[1], c[2], root[2], sub[2], two[2] };
	/* each object left out in turn: every one of them is needed */
	for (size_t skip = 0; skip < SB_COUNT(all); skip++) {
		const char *some[SB_COUNT(all)];
		size_t n = 0;

		for (size_t i = 0; i < SB_COUNT(all); i++) {
			if (i != skip)
				some[n++] = all[i];
		}
		raw_pack(some, n, in_dir("p"));
		int r = sb_repo_index(b, in_dir("p"), 1000, c[2], &err);
		ck_assert_msg(r == SB_EPROTO, "without object %zu: %d", skip, r);
		ck_assert_msg(strstr(err.msg, all[skip]) != NULL, "without object %zu: %s", skip, err.msg);
		assert_untouched("b.git");
	}
	raw_pack(all, SB_COUNT(all), in_dir("p"));
	must(sb_repo_index(b, in_dir("p"), 1000, c[2], &err), &err);
}
END_TEST

START_TEST(test_pack_expect_is_no_commit)
{
	struct sb_error err = SB_ERROR_INIT;
	char c[3][OID], root[OID], sub[OID], file[OID];

	chain(a, c);
	parts(c[0], "src/one.txt", root, sub, file);
	const char *all[] = { c[0], root, sub, file };
	raw_pack(all, SB_COUNT(all), in_dir("p"));
	ck_assert_int_eq(sb_repo_index(b, in_dir("p"), 1000, root, &err), SB_EPROTO);
	ck_assert_int_eq(sb_repo_index(b, in_dir("p"), 1000, file, &err), SB_EPROTO);
	assert_untouched("b.git");
}
END_TEST

/* ---- export ---- */

/* A commit over a tree of one raw entry; sub: put that tree below a folder "d" instead. */
static void raw_commit(const char *mode, const char *name, bool sub, char oid[OID])
{
	git_repository *repo = NULL;
	git_odb *odb = NULL;
	git_tree *tree = NULL;
	git_signature *who = NULL;
	git_oid blob, id, target;
	char bytes[512];

	ck_assert_int_eq(git_repository_open(&repo, in_dir("a.git")), 0);
	ck_assert_int_eq(git_repository_odb(&odb, repo), 0);
	ck_assert_int_eq(git_odb_write(&blob, odb, "evil", 4, GIT_OBJECT_BLOB), 0);
	target = blob;
	if (strcmp(mode, "40000") == 0)
		ck_assert_int_eq(git_odb_write(&target, odb, "", 0, GIT_OBJECT_TREE), 0);
	int n = snprintf(bytes, sizeof(bytes), "%s %s", mode, name);
	memcpy(bytes + n + 1, target.id, 20);
	ck_assert_int_eq(git_odb_write(&id, odb, bytes, (size_t)n + 21, GIT_OBJECT_TREE), 0);
	if (sub) {
		memcpy(bytes, "40000 d", 8);
		memcpy(bytes + 8, id.id, 20);
		ck_assert_int_eq(git_odb_write(&id, odb, bytes, 28, GIT_OBJECT_TREE), 0);
	}
	ck_assert_int_eq(git_tree_lookup(&tree, repo, &id), 0);
	ck_assert_int_eq(git_signature_now(&who, "x", "x@example.org"), 0);
	ck_assert_int_eq(git_commit_create(&id, repo, NULL, who, who, NULL, "evil", tree, 0, NULL), 0);
	git_oid_tostr(oid, OID, &id);
	git_signature_free(who);
	git_tree_free(tree);
	git_odb_free(odb);
	git_repository_free(repo);
}

static const struct {
	const char *mode, *name;
} hostile[] = {
	{ "120000", "link" },
	{ "160000", "module" },
	{ "100644", ".git" },
	{ "40000", ".git" },
	{ "100644", ".GIT" },
	{ "100644", ".Git" },
	{ "100644", ".git." },
	{ "100644", ".git . ." },
	{ "100644", ".git " },
	{ "100644", "git~1" },
	{ "100644", "GIT~2" },
	{ "40000", "git~10" },
	{ "100644", "git~1." },
	{ "100644", ".g\xe2\x80\x8cit" },
	{ "100644", "\xef\xbb\xbf.git" },
	{ "100644", ".git\xe2\x80\xae" },
	{ "100644", ".gi\xe2\x81\xaat" },
	{ "100644", ".git::$INDEX_ALLOCATION" },
	{ "100644", "." },
	{ "40000", ".." },
	{ "100644", "a/b" },
	{ "100644", "a\\b" },
	{ "100644", "../x" },
	{ "100644", "..." },
	{ "100644", " " },
	{ "100644", ".git                                      ." },
};

START_TEST(test_export_hostile)
{
	struct sb_error err = SB_ERROR_INIT;
	struct stat st;
	char oid[OID];

	for (int sub = 0; sub < 2; sub++) {
		raw_commit(hostile[_i].mode, hostile[_i].name, sub, oid);
		int r = sb_repo_export(a, oid, in_dir("out"), &err);
		ck_assert_msg(r == SB_EREFUSED, "%s %s: %d", hostile[_i].mode, hostile[_i].name, r);
		ck_assert_int_ne(lstat(in_dir("out"), &st), 0);
		ck_assert_int_ne(lstat(in_dir("out.tmp"), &st), 0);
	}
}
END_TEST

START_TEST(test_export_harmless_names)
{
	static const char *const names[] = { ".gitignore", ".gitattributes", ".github", "git", ".gi", "git~", "git~a", "git~1a", "a.git",
		"a\xe2\x80\x8c"
		"b",
		"...a", "\xff\xfe", ".git                        x", "a b." };
	struct sb_error err = SB_ERROR_INIT;
	char oid[OID], out[32];

	for (size_t i = 0; i < SB_COUNT(names); i++) {
		raw_commit("100644", names[i], false, oid);
		ck_assert_int_eq(sb_format(out, sizeof(out), NULL, "out%zu", i), 0);
		int r = sb_repo_export(a, oid, in_dir(out), &err);
		ck_assert_msg(r == 0, "%s: %s", names[i], err.msg);
	}
}
END_TEST

START_TEST(test_export)
{
	static const struct sb_git_file files[] = {
		{ "README.md", "hello\n", false },
		{ "bin/run", "#!/bin/sh\n", true },
		{ "a/b/c/d.txt", "", false },
	};
	struct sb_error err = SB_ERROR_INIT;
	sb_cleanup(sb_freep) char *text = NULL;
	char oid[OID];
	struct stat st;
	size_t n = 0;

	must(sb_repo_commit_files(a, "", files, SB_COUNT(files), "three", "Ada", oid, &err), &err);
	/* an earlier export was killed half-way */
	must(sb_dir_make(in_dir("out.tmp/half"), 0700, &err), &err);
	umask(077);
	must(sb_repo_export(a, oid, in_dir("out"), &err), &err);
	must(sb_file_read(in_dir("out/README.md"), 100, &text, &n, &err), &err);
	ck_assert_str_eq(text, "hello\n");
	ck_assert_int_eq(stat(in_dir("out/README.md"), &st), 0);
	ck_assert_int_eq(st.st_mode & 07777, 0644);
	ck_assert_int_eq(stat(in_dir("out/bin/run"), &st), 0);
	ck_assert_int_eq(st.st_mode & 07777, 0755);
	ck_assert_int_eq(stat(in_dir("out/a/b/c"), &st), 0);
	ck_assert_int_eq(st.st_mode & 07777, 0755);
	ck_assert_int_eq(stat(in_dir("out/a/b/c/d.txt"), &st), 0);
	ck_assert_int_eq(st.st_size, 0);
	ck_assert_uint_eq(entries(in_dir("out")), 3);
	ck_assert_int_ne(stat(in_dir("out.tmp"), &st), 0);
	ck_assert_int_eq(sb_repo_export(a, oid, in_dir("out"), &err), SB_ECONFLICT);
	ck_assert_int_eq(sb_repo_export(b, oid, in_dir("out2"), &err), SB_ENOTFOUND);
}
END_TEST

START_TEST(test_export_deep)
{
	struct sb_error err = SB_ERROR_INIT;
	char oid[OID], path[512];
	struct sb_git_file f = { .path = path, .content = "x" };
	size_t at = 0;

	for (int i = 0; i < 66; i++, at += 2)
		memcpy(path + at, "d/", 2);
	memcpy(path + at, "f", 2);
	must(sb_repo_commit_files(a, "", &f, 1, "deep", NULL, oid, &err), &err);
	ck_assert_int_eq(sb_repo_export(a, oid, in_dir("out"), &err), SB_ETOOBIG);
}
END_TEST

/* ---- commits ---- */

START_TEST(test_record)
{
	struct sb_error err = SB_ERROR_INIT;
	char c[3][OID], side[OID], oid[OID];
	struct sb_commit recorded, source;

	chain(a, c);
	commit(a, c[0], "other.txt", "other", side);
	const char *parents[] = { side, c[1] };
	must(sb_repo_record(a, c[1], parents, 2, "roll back to two", oid, &err), &err);
	must(sb_repo_commit(a, oid, &recorded, &err), &err);
	must(sb_repo_commit(a, c[1], &source, &err), &err);
	ck_assert_str_eq(recorded.tree, source.tree);
	ck_assert_uint_eq(recorded.n_parents, 2);
	ck_assert_str_eq(recorded.parent[0], side);
	ck_assert_str_eq(recorded.parent[1], c[1]);
	ck_assert_str_eq(recorded.title, "roll back to two");
	ck_assert_str_eq(recorded.author, "stagebridge <stagebridge@localhost>");
	ck_assert_int_eq(sb_repo_record(b, c[1], parents, 2, "x", oid, &err), SB_ENOTFOUND);
}
END_TEST

START_TEST(test_merge)
{
	struct sb_error err = SB_ERROR_INIT;
	char base[OID], ours[OID], theirs[OID], clash[OID], oid[OID];
	struct sb_commit m;
	struct stat st;

	commit(a, "", "dir/shared.txt", "base\n", base);
	commit(a, base, "ours.txt", "ours", ours);
	commit(a, base, "theirs.txt", "theirs", theirs);
	must(sb_repo_merge(a, ours, theirs, "merge", "Bo <bo@example.org>", oid, &err), &err);
	must(sb_repo_commit(a, oid, &m, &err), &err);
	ck_assert_str_eq(m.parent[0], ours);
	ck_assert_str_eq(m.parent[1], theirs);
	ck_assert_str_eq(m.author, "Bo <bo@example.org>");
	must(sb_repo_export(a, oid, in_dir("out"), &err), &err);
	ck_assert_int_eq(stat(in_dir("out/ours.txt"), &st), 0);
	ck_assert_int_eq(stat(in_dir("out/theirs.txt"), &st), 0);
	ck_assert_int_eq(stat(in_dir("out/dir/shared.txt"), &st), 0);

	commit(a, ours, "dir/shared.txt", "mine\n", ours);
	commit(a, theirs, "dir/shared.txt", "yours\n", clash);
	ck_assert_int_eq(sb_repo_merge(a, ours, clash, "merge", NULL, oid, &err), SB_ECONFLICT);
	ck_assert_ptr_nonnull(strstr(err.msg, "dir/shared.txt"));

	/* removed on one side, changed on the other */
	struct sb_git_file gone = { .path = "dir/shared.txt" };
	must(sb_repo_commit_files(a, base, &gone, 1, "gone", NULL, theirs, &err), &err);
	ck_assert_int_eq(sb_repo_merge(a, theirs, ours, "merge", NULL, oid, &err), SB_ECONFLICT);
	ck_assert_ptr_nonnull(strstr(err.msg, "dir/shared.txt"));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("git");
	TCase *tc = tcase_create("git");

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_ref_cas);
	tcase_add_test(tc, test_sweep_after_a_kill);
	tcase_add_test(tc, test_ref_list);
	tcase_add_test(tc, test_head);
	tcase_add_test(tc, test_commit_fields);
	tcase_add_test(tc, test_walks);
	tcase_add_test(tc, test_pack_round_trip);
	tcase_add_test(tc, test_pack_slices);
	tcase_add_test(tc, test_pack_limits);
	tcase_add_test(tc, test_pack_corrupt);
	tcase_add_loop_test(tc, test_pack_hostile, 0, (int)SB_COUNT(hostile_packs));
	tcase_add_test(tc, test_pack_incomplete);
	tcase_add_test(tc, test_pack_expect_is_no_commit);
	tcase_add_loop_test(tc, test_export_hostile, 0, (int)SB_COUNT(hostile));
	tcase_add_test(tc, test_export_harmless_names);
	tcase_add_test(tc, test_export);
	tcase_add_test(tc, test_export_deep);
	tcase_add_test(tc, test_record);
	tcase_add_test(tc, test_merge);
	suite_add_tcase(suite, tc);

	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
