/* From files to rows: reads what is whole and not known yet, tells what differs from what was published. Which key is in which file is kept in the temporary
 * table "seen" of the lane's own handle (on disk when it is large): a key that no file holds any more was deleted. A file is checked completely
 * before its first document counts; one that is refused keeps what it last held. The source's lane. */
#include <string.h>

#include "dirsrc.h"
#include "stagebridge/log.h"

typedef int (*document_fn)(struct dirsrc *s, const struct dirsrc_document *doc, bool is_new, struct sb_error *err);

struct reading { struct dirsrc *s; document_fn fn; };

bool dirsrc_unknown_files(const struct dirsrc *s)
{
	for (size_t i = 0; i < s->files.count; i++) {
		if (!s->files.item[i].ever_taken)
			return true;
	}
	return false;
}

bool dirsrc_unstable_files(const struct dirsrc *s)
{
	for (size_t i = 0; i < s->files.count; i++) {
		if (!s->files.item[i].stable || s->files.item[i].missing)
			return true;
	}
	return false;
}

/* --- which file holds a key --- */

enum claim { CLAIM_OURS, CLAIM_TWICE, CLAIM_ELSEWHERE };

/* Takes the key for the present file, unless it named it before, or another file holds it: who came first keeps it until that file lets it go. */
static int claim(struct dirsrc *s, const struct dirsrc_document *doc, enum claim *ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(s->db, &st, err, "SELECT file FROM temp.seen WHERE key = ?", "s", doc->key);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	if (r > 0) {
		const struct dirsrc_file *other = dirsrc_files_find(&s->files, sb_db_text(st, 0));
		*ret = other == s->now ? CLAIM_TWICE : CLAIM_ELSEWHERE;
		/* about to be read itself: perhaps the key moves from there to here */
		if (other && other != s->now && other->stable && !other->missing && !other->taken && !other->bad)
			s->moving = true;
		if (other)
			return 0;
	}
	sb_db_done(SB_TAKE(st));
	*ret = CLAIM_OURS;
	return sb_db_run(s->db, NULL, err, "INSERT OR REPLACE INTO temp.seen(key, file, hash) VALUES (?, ?, ?)", "sss", doc->key, s->now->name, doc->hash);
}

static int published(struct dirsrc *s, const struct dirsrc_document *doc, bool *ret_same, bool *ret_new, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(s->db, &st, err, "SELECT hash FROM document WHERE source = ? AND key = ?", "ss", s->set->name, doc->key);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	*ret_new = r == 0;
	*ret_same = r > 0 && strcmp(sb_db_text(st, 0), doc->hash) == 0;
	return 0;
}

static int on_document(void *user, const struct dirsrc_document *doc, struct sb_error *err)
{
	struct reading *rd = user;
	struct dirsrc *s = rd->s;
	struct sb_error why = SB_ERROR_INIT;
	enum claim whose = CLAIM_OURS;
	bool same = false, is_new = true;

	int r = claim(s, doc, &whose, err);
	if (r < 0)
		return r;
	if (whose != CLAIM_OURS) {
		(void)sb_fail(&why, SB_ECONFLICT, "line %u: the key is there already, the first one counts", doc->line); /* only logged */
		sb_log_limited(SB_ERROR, "key_twice", s->now->name, &why);
		s->conflict = s->conflict || whose == CLAIM_ELSEWHERE;
		return 0;
	}
	if (!s->snapshot)
		r = published(s, doc, &same, &is_new, err);
	return r < 0 || same ? r : rd->fn(s, doc, is_new, err);
}

/* --- columns of CSV files --- */

static int add_column(struct dirsrc *s, const struct sb_cell *name, unsigned *ret, struct sb_error *err)
{
	struct sb_shape *shape = &s->shape;

	for (unsigned i = 0; i < shape->n_columns; i++) {
		if (strlen(shape->column[i].name) == name->n && memcmp(shape->column[i].name, name->p, name->n) == 0) {
			*ret = i;
			return 0;
		}
	}
	if (shape->n_columns == SB_COLUMNS_MAX)
		return sb_fail(err, SB_ETOOBIG, "the files have more than %d columns together", SB_COLUMNS_MAX);
	struct sb_column *more = realloc(shape->column, (shape->n_columns + 1) * sizeof(*more));
	if (!more)
		return sb_fail_nomem(err);
	shape->column = more;
	struct sb_column *c = &more[shape->n_columns];
	*c = (struct sb_column){ .name = strndup(name->p, name->n), .type = sb_strdup("text") };
	if (!c->name || !c->type) {
		free(c->name);
		free(c->type);
		return sb_fail_nomem(err);
	}
	c->key = strcmp(c->name, s->set->key) == 0;
	*ret = shape->n_columns++;
	return 0;
}

static int on_columns(void *user, const struct sb_cell *name, unsigned n, struct sb_error *err)
{
	struct reading *rd = user;
	struct dirsrc *s = rd->s;
	int r = 0;

	unsigned *place = realloc(s->place, n * sizeof(*place));
	if (!place)
		return sb_fail_nomem(err);
	s->place = place;
	for (unsigned i = 0; r == 0 && i < n; i++)
		r = add_column(s, &name[i], &s->place[i], err);
	return r;
}

/* --- files --- */

static int forget(struct dirsrc *s, const char *file, struct sb_error *err)
{
	return sb_db_run(s->db, NULL, err, "DELETE FROM temp.seen WHERE file = ?", "s", file);
}

static int take_file(struct reading *rd, struct dirsrc_file *f, const char *text, size_t n, struct sb_error *err)
{
	const struct dirsrc_sink sink = { .user = rd, .columns = on_columns, .document = on_document };
	struct dirsrc *s = rd->s;

	s->now = f;
	s->conflict = false;
	int r = forget(s, f->name, err);
	if (r == 0)
		r = dirsrc_documents(s->set, f->name, text, n, &sink, err);
	if (r < 0)
		return r;
	f->ever_taken = true;
	s->look_for_deleted = true;
	f->taken = !s->conflict; /* looked at again: the other file may let the key go */
	return 0;
}

static int read_file(struct reading *rd, struct dirsrc_file *f, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *text = NULL;
	struct sb_error why = SB_ERROR_INIT;
	size_t n = 0;

	int r = dirsrc_file_read(rd->s->set, f, &text, &n, &why);
	if (r == SB_EAGAIN) {
		f->stable = false;
		return 0;
	}
	if (r == SB_ENOMEM)
		return sb_fail_nomem(err);
	if (r == 0)
		r = dirsrc_documents(rd->s->set, f->name, text, n, NULL, &why);
	if (r < 0) {
		f->bad = true; /* until it changes */
		sb_log_error(SB_ERROR, "file_skipped", &why, "source=%s file=%s", rd->s->set->name, f->name);
		return 0;
	}
	return take_file(rd, f, text, n, err);
}

/* Keys of files that are gone: a file that was dropped from the list is not in it. */
static int forget_gone(struct dirsrc *s, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *gone = NULL;

	if (!s->files.gone)
		return 0;
	s->look_for_deleted = true;
	for (;;) {
		struct sb_stmt *st = NULL;
		free(SB_TAKE(gone));
		int r = sb_db_query(s->db, &st, err, "SELECT DISTINCT file FROM temp.seen", "");
		while (r == 0 && !gone && (r = sb_db_step(st, err)) > 0) {
			r = 0;
			if (dirsrc_files_find(&s->files, sb_db_text(st, 0)))
				continue;
			gone = sb_strdup(sb_db_text(st, 0));
			if (!gone)
				r = sb_fail_nomem(err);
		}
		sb_db_done(st);
		if (r < 0 || !gone)
			return r;
		r = forget(s, gone, err);
		if (r < 0)
			return r;
	}
}

int dirsrc_read(struct dirsrc *s, document_fn fn, struct sb_error *err)
{
	struct reading rd = { .s = s, .fn = fn };
	int r = forget_gone(s, err);

	s->moving = false;
	for (size_t i = 0; r == 0 && i < s->files.count; i++) {
		struct dirsrc_file *f = &s->files.item[i];
		if (f->stable && !f->missing && !f->taken && !f->bad)
			r = read_file(&rd, f, err);
		if (r == 0 && sb_lane_stopping(s->lane))
			r = sb_fail(err, SB_ESHUTDOWN, "stopped while reading");
	}
	return r;
}
