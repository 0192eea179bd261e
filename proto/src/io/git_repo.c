/*
 * Opening repositories, reading commits, walking history.
 *
 * Any lane, each with its own handle: libgit2 objects are used by one thread at a time. sb_git_init sets process-wide
 * limits once: this process reads packs and trees that another stage wrote, so sizes are capped, and no configuration
 * outside of the repository itself (which could name another proxy, another URL, another safe folder) is read.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "git_private.h"
#include "stagebridge/text.h"

enum {
	WINDOW = 1024 * 1024,
	MAPPED_MAX = 32 * 1024 * 1024,
	CACHE_MAX = 8 * 1024 * 1024,
	DELTA_CACHE_MAX = 16 * 1024 * 1024,
	OBJECTS_MAX = 20 * 1000 * 1000,
	OBJECT_BYTES_MAX = 128 * 1024 * 1024, /* larger content travels as a blob by digest, outside of git */
};

static enum sb_code code_of(int rc, int class)
{
	switch (rc) {
	case GIT_ENOTFOUND:
		return SB_ENOTFOUND;
	case GIT_EEXISTS:
	case GIT_EMODIFIED:
	case GIT_ENONFASTFORWARD:
	case GIT_EMERGECONFLICT:
		return SB_ECONFLICT;
	case GIT_ELOCKED:
		return SB_EAGAIN;
	case GIT_EAUTH:
		return SB_EAUTH;
	case GIT_EINVALIDSPEC:
	case GIT_EAMBIGUOUS:
		return SB_EINVAL;
	case GIT_EMISMATCH:
		return SB_ESIG;
	case GIT_EOWNER:
		return SB_ECONFIG;
	default:
		break;
	}
	switch (class) {
	case GIT_ERROR_NOMEMORY:
		return SB_ENOMEM;
	case GIT_ERROR_OS:
	case GIT_ERROR_FILESYSTEM:
		return SB_EIO;
	case GIT_ERROR_NET:
	case GIT_ERROR_HTTP:
	case GIT_ERROR_SSL:
		return SB_EHTTP;
	default:
		return SB_EGIT;
	}
}

int sb_git_fail(struct sb_error *err, int rc, const char *fmt, ...)
{
	const git_error *e = git_error_last();
	enum sb_code code = code_of(rc, e ? e->klass : GIT_ERROR_NONE);
	char what[256];
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	if (n < 0)
		what[0] = '\0'; /* a cut context is fine, the reason follows */
	(void)sb_fail(err, code, "%s: %s", what, e && e->message ? e->message : "no reason given"); /* returned below */
	git_error_clear(); /* it is thread-local and sticky: the next failure must not show this one */
	return code;
}

int sb_git_oid(git_oid *ret, const char *oid, struct sb_error *err)
{
	if (!oid || !sb_hex_ok(oid, SB_OID_LEN) || git_oid_fromstr(ret, oid) != 0)
		return sb_fail(err, SB_EINVAL, "\"%.60s\" is not an object id", oid ? oid : "");
	return 0;
}

void sb_git_hex(char out[SB_OID_LEN + 1], const git_oid *oid)
{
	git_oid_tostr(out, SB_OID_LEN + 1, oid);
}

void sb_git_small_memory(void)
{
	(void)git_libgit2_opts(GIT_OPT_ENABLE_CACHING, 0); /* cannot fail: a flag */
}

int sb_git_init(struct sb_error *err)
{
	static const int levels[] = { GIT_CONFIG_LEVEL_SYSTEM, GIT_CONFIG_LEVEL_GLOBAL, GIT_CONFIG_LEVEL_XDG,
		GIT_CONFIG_LEVEL_PROGRAMDATA };
	int rc = git_libgit2_init();

	if (rc < 0)
		return sb_git_fail(err, rc, "could not start libgit2");
	rc = sb_git_cap_allocations();
	for (size_t i = 0; rc == 0 && i < SB_COUNT(levels); i++)
		rc = git_libgit2_opts(GIT_OPT_SET_SEARCH_PATH, levels[i], "");
	if (rc == 0)
		rc = git_libgit2_opts(GIT_OPT_SET_MWINDOW_SIZE, (size_t)WINDOW);
	if (rc == 0)
		rc = git_libgit2_opts(GIT_OPT_SET_MWINDOW_MAPPED_LIMIT, (size_t)MAPPED_MAX);
	if (rc == 0)
		rc = git_libgit2_opts(GIT_OPT_SET_CACHE_MAX_SIZE, (ssize_t)CACHE_MAX);
	if (rc == 0)
		rc = git_libgit2_opts(GIT_OPT_SET_PACK_MAX_OBJECTS, (size_t)OBJECTS_MAX);
	if (rc == 0)
		rc = git_libgit2_opts(GIT_OPT_SET_PACK_MAX_OBJECT_SIZE, (size_t)OBJECT_BYTES_MAX);
	if (rc == 0)
		rc = git_libgit2_opts(GIT_OPT_SET_OWNER_VALIDATION, 1);
	if (rc == 0)
		rc = git_libgit2_opts(GIT_OPT_ENABLE_STRICT_HASH_VERIFICATION, 1);
	/* what was acknowledged on the broker must still be here after a power cut */
	if (rc == 0)
		rc = git_libgit2_opts(GIT_OPT_ENABLE_FSYNC_GITDIR, 1);
	return rc < 0 ? sb_git_fail(err, rc, "could not set the limits of libgit2") : 0;
}

static int create_bare(git_repository **ret, const char *path, struct sb_error *err)
{
	git_repository_init_options o;
	git_config *config = NULL;
	int rc = git_repository_init_options_init(&o, GIT_REPOSITORY_INIT_OPTIONS_VERSION);

	if (rc < 0)
		return sb_git_fail(err, rc, "could not create the repository \"%s\"", path);
	o.flags = GIT_REPOSITORY_INIT_BARE | GIT_REPOSITORY_INIT_MKPATH | GIT_REPOSITORY_INIT_NO_REINIT;
	o.initial_head = "main";
	rc = git_repository_init_ext(ret, path, &o);
	if (rc < 0)
		return sb_git_fail(err, rc, "could not create the repository \"%s\"", path);
	/* 256 MiB by default, per pack that is built */
	rc = git_repository_config(&config, *ret);
	if (rc == 0)
		rc = git_config_set_int64(config, "pack.deltaCacheSize", DELTA_CACHE_MAX);
	git_config_free(config);
	if (rc < 0)
		return sb_git_fail(err, rc, "could not configure the repository \"%s\"", path);
	return 0;
}

int sb_repo_open(struct sb_repo **ret, const char *path, bool create, struct sb_error *err)
{
	sb_cleanup(sb_git_repo_freep) git_repository *git = NULL;
	int rc = git_repository_open_ext(&git, path, GIT_REPOSITORY_OPEN_NO_SEARCH, NULL);

	if (rc == GIT_ENOTFOUND && create) {
		int r = create_bare(&git, path, err);
		if (r < 0)
			return r;
	} else if (rc < 0) {
		return sb_git_fail(err, rc, "could not open the repository \"%s\"", path);
	}
	struct sb_repo *r = calloc(1, sizeof(*r));
	if (!r)
		return sb_fail_nomem(err);
	r->repo = SB_TAKE(git);
	*ret = r;
	return 0;
}

void sb_repo_close(struct sb_repo *r)
{
	if (!r)
		return;
	git_repository_free(r->repo);
	free(r);
}

int sb_git_commit_lookup(struct sb_repo *r, const char *oid, git_commit **ret, struct sb_error *err)
{
	git_oid id;
	int rc = sb_git_oid(&id, oid, err);

	if (rc < 0)
		return rc;
	rc = git_commit_lookup(ret, r->repo, &id);
	return rc < 0 ? sb_git_fail(err, rc, "could not read commit %s", oid) : 0;
}

/* Cuts at a character, and replaces what is not UTF-8: names and titles end in JSON and in SQL. */
static void copy_text(char *out, size_t size, const char *s)
{
	size_t n = strlen(s);

	if (n >= size) {
		n = size - 1;
		while (n > 0 && ((unsigned char)s[n] & 0xc0) == 0x80)
			n--;
	}
	memcpy(out, s, n);
	out[n] = '\0';
	bool well = sb_utf8_ok(out, n);
	for (size_t i = 0; i < n; i++) {
		if (((unsigned char)out[i] & 0x80 && !well) || (unsigned char)out[i] < 0x20)
			out[i] = '?';
	}
}

static void fill_commit(struct sb_commit *out, const git_commit *c, const char *title)
{
	const git_signature *author = git_commit_author(c);
	char who[512];

	memset(out, 0, sizeof(*out));
	sb_git_hex(out->oid, git_commit_id(c));
	sb_git_hex(out->tree, git_commit_tree_id(c));
	out->n_parents = git_commit_parentcount(c);
	for (unsigned i = 0; i < 2 && i < out->n_parents; i++)
		sb_git_hex(out->parent[i], git_commit_parent_id(c, i));
	/* a commit may claim any 64-bit second */
	if (__builtin_mul_overflow(git_commit_time(c), 1000, &out->committed_ms))
		out->committed_ms = 0;
	if (snprintf(who, sizeof(who), "%s <%s>", author ? author->name : "", author ? author->email : "") < 0)
		who[0] = '\0'; /* cut names are cut once more below */
	copy_text(out->author, sizeof(out->author), who);
	copy_text(out->title, sizeof(out->title), title ? title : "");
}

int sb_repo_commit(struct sb_repo *r, const char *oid, struct sb_commit *ret, struct sb_error *err)
{
	sb_cleanup(sb_git_commit_freep) git_commit *c = NULL;
	int rc = sb_git_commit_lookup(r, oid, &c, err);

	if (rc < 0)
		return rc;
	fill_commit(ret, c, git_commit_summary(c));
	return 0;
}

bool sb_repo_has(struct sb_repo *r, const char *oid)
{
	sb_cleanup(sb_git_odb_freep) git_odb *odb = NULL;
	git_oid id;

	return sb_git_oid(&id, oid, NULL) == 0 && git_repository_odb(&odb, r->repo) == 0 && git_odb_exists(odb, &id) == 1;
}

int sb_repo_is_ancestor(struct sb_repo *r, const char *ancestor, const char *oid, struct sb_error *err)
{
	sb_cleanup(sb_git_commit_freep) git_commit *a = NULL;
	sb_cleanup(sb_git_commit_freep) git_commit *b = NULL;
	int rc = sb_git_commit_lookup(r, ancestor, &a, err);

	if (rc == 0)
		rc = sb_git_commit_lookup(r, oid, &b, err);
	if (rc < 0)
		return rc;
	if (git_oid_equal(git_commit_id(a), git_commit_id(b)))
		return 1;
	rc = git_graph_descendant_of(r->repo, git_commit_id(b), git_commit_id(a));
	return rc < 0 ? sb_git_fail(err, rc, "could not walk from %s to %s", oid, ancestor) : rc;
}

/* A walk from `from` that leaves out what `without` ("" = nothing) reaches. */
static int walk_start(struct sb_repo *r, const char *from, const char *without, git_revwalk **ret, struct sb_error *err)
{
	sb_cleanup(sb_git_walk_freep) git_revwalk *walk = NULL;
	git_oid id, hidden;
	int rc = sb_git_oid(&id, from, err);

	if (rc == 0 && without && without[0])
		rc = sb_git_oid(&hidden, without, err);
	if (rc < 0)
		return rc;
	rc = git_revwalk_new(&walk, r->repo);
	if (rc == 0)
		rc = git_revwalk_sorting(walk, GIT_SORT_TOPOLOGICAL);
	if (rc == 0)
		rc = git_revwalk_push(walk, &id);
	if (rc == 0 && without && without[0])
		rc = git_revwalk_hide(walk, &hidden);
	if (rc < 0)
		return sb_git_fail(err, rc, "could not walk from %s", from);
	*ret = SB_TAKE(walk);
	return 0;
}

int sb_repo_first_parents(
	struct sb_repo *r, const char *tip, const char *until, size_t max, struct sb_commit **ret, size_t *ret_n, struct sb_error *err)
{
	sb_cleanup(sb_git_walk_freep) git_revwalk *walk = NULL;
	sb_cleanup(sb_freep) struct sb_commit *list = NULL;
	size_t n = 0, cap = 0;
	git_oid id;
	int rc = walk_start(r, tip, until, &walk, err);

	if (rc < 0)
		return rc;
	/* hidden commits still hide all of their parents: only the walk itself is narrowed */
	rc = git_revwalk_simplify_first_parent(walk);
	while (rc == 0 && n < max && (rc = git_revwalk_next(&id, walk)) == 0) {
		sb_cleanup(sb_git_commit_freep) git_commit *c = NULL;

		if (n == cap) {
			cap = cap ? cap * 2 : 16;
			struct sb_commit *more = reallocarray(list, cap, sizeof(*list));
			if (!more)
				return sb_fail_nomem(err);
			list = more;
		}
		rc = git_commit_lookup(&c, r->repo, &id);
		if (rc == 0)
			fill_commit(&list[n++], c, git_commit_summary(c));
	}
	if (rc < 0 && rc != GIT_ITEROVER)
		return sb_git_fail(err, rc, "could not walk from %s", tip);
	*ret = SB_TAKE(list);
	*ret_n = n;
	return 0;
}

int sb_repo_ahead(struct sb_repo *r, const char *a, const char *b, uint64_t *ret, struct sb_error *err)
{
	sb_cleanup(sb_git_walk_freep) git_revwalk *walk = NULL;
	uint64_t n = 0;
	git_oid id;
	int rc = walk_start(r, a, b, &walk, err);

	if (rc < 0)
		return rc;
	while ((rc = git_revwalk_next(&id, walk)) == 0)
		n++;
	if (rc != GIT_ITEROVER)
		return sb_git_fail(err, rc, "could not walk from %s", a);
	*ret = n;
	return 0;
}
