/* From files to rows: reads what is whole and not known yet, and adds what differs from what was published. A key belongs to one file; who came first keeps it
 * until that file lets it go, then the files that had to go without are read again. A file is checked completely before its first document counts;
 * one that is refused keeps what it last held. The source's lane. */
#include <stdio.h>
#include <string.h>

#include "dirsrc.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "stagebridge/metric.h"

#define PENDING_MAX 20000 /* claims without a change that wait in memory */
#define ROUNDS 3          /* over files whose keys moved among themselves */

const char *dirsrc_unstable(const struct dirsrc *s)
{
	for (size_t i = 0; i < s->files.count; i++) {
		if (!s->files.item[i]->stable || s->files.item[i]->missing)
			return s->files.item[i]->name;
	}
	return NULL;
}

struct reading { struct dirsrc *s; struct dirsrc_file *file; unsigned change, refused; char *only; };   /* only: key of a file that is one document */

/* The first thing that is wrong with a file is what people are told. */
static void complain(struct reading *rd, unsigned line, const struct sb_error *why)
{
	if (rd->refused++ == 0) {
		free(rd->file->reason);
		rd->file->reason = line ? sb_asprintf("line %u: %s", line, why->msg) : sb_strdup(why->msg); /* NULL without memory: only for people */
	}
}

static void refuse(struct reading *rd, unsigned line, const struct sb_error *why)
{
	struct sb_error e = *why;

	complain(rd, line, why);
	sb_fail_prefix(&e, "%s:%u", rd->file->name, line);
	sb_log_limited(SB_ERROR, "row_refused", rd->file->name, &e);
	sb_metric_add(sb_metric("stagebridge_source_refused_total", SB_COUNTER, "type", "Documents that were not published because they do not fit"), rd->s->set->type, 1);
}

/* --- a document --- */

enum claim { CLAIM_NEW, CLAIM_OURS, CLAIM_SAME, CLAIM_TWICE, CLAIM_ELSEWHERE };

static bool one_document(const struct dirsrc *s)
{
	return s->set->format == AGENT_DIR_JSON;
}

/* Notes that the file names the key; false when it did before. */
static int name_it(struct reading *rd, const char *key, bool *ret_first, struct sb_error *err)
{
	struct dirsrc *s = rd->s;
	int64_t n = 0;

	*ret_first = true;
	if (one_document(s)) {
		rd->only = sb_strdup(key);
		return rd->only ? 0 : sb_fail_nomem(err);
	}
	int r = sb_db_run(s->db, &n, err, "INSERT OR IGNORE INTO temp.named(key) VALUES (?)", "s", key);
	*ret_first = n > 0;
	return r;
}

static int claim(struct reading *rd, const struct dirsrc_document *doc, enum claim *ret, bool *ret_moved, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	struct dirsrc *s = rd->s;
	bool first = false;

	int r = name_it(rd, doc->key, &first, err);
	if (r == 0 && !first) {
		*ret = CLAIM_TWICE;
		return 0;
	}
	if (r == 0)
		r = dirsrc_holder(s, doc->key, &st, err);
	if (r <= 0) {
		*ret = CLAIM_NEW;
		return r;
	}
	const char *holder = sb_db_text(st, 0);
	*ret_moved = strcmp(holder, rd->file->name) != 0;
	if (*holder && *ret_moved && dirsrc_files_find(&s->files, holder))
		*ret = CLAIM_ELSEWHERE;
	else
		*ret = !s->snapshot && strcmp(sb_db_text(st, 1), doc->hash) == 0 ? CLAIM_SAME : CLAIM_OURS;
	return 0;
}

static int publish(struct reading *rd, const struct dirsrc_document *doc, bool is_new, struct sb_error *err)
{
	struct sb_error why = SB_ERROR_INIT;

	int r = dirsrc_add(rd->s, doc, is_new, rd->file->name, &why);
	if (r == SB_EDATA) {
		refuse(rd, doc->line, &why);
		return 0;
	}
	if (r < 0 && err)
		*err = why;
	return r;
}

static int on_document(void *user, const struct dirsrc_document *doc, struct sb_error *err)
{
	struct reading *rd = user;
	struct sb_error why = SB_ERROR_INIT;
	enum claim whose = CLAIM_NEW;
	bool moved = false;

	int r = claim(rd, doc, &whose, &moved, err);
	if (r < 0)
		return r;
	if (whose == CLAIM_SAME)
		return moved ? dirsrc_pend(rd->s, doc->key, rd->file->name, doc->hash, false, err) : 0;
	if (whose == CLAIM_NEW || whose == CLAIM_OURS)
		return publish(rd, doc, whose == CLAIM_NEW, err);
	rd->file->conflict = rd->file->conflict || whose == CLAIM_ELSEWHERE;
	(void)sb_fail(&why, SB_ECONFLICT, "the key is there already%s, the first one counts", whose == CLAIM_TWICE ? "" : " in another file"); /* only told */
	refuse(rd, doc->line, &why);
	return 0;
}

/* --- a file --- */

static int on_check(void *user, const struct dirsrc_document *doc, struct sb_error *err)
{
	struct reading *rd = user;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < doc->n_fields; i++)
		r = row_schema_learn(&rd->s->schema, &doc->field[i], &rd->change, err);
	return r;
}

static int new_columns(struct reading *rd, struct sb_error *err)
{
	struct dirsrc *s = rd->s;

	if (!rd->change)
		return 0;
	s->reshape = true;
	sb_log(rd->change & ROW_WIDER ? SB_WARN : SB_INFO, rd->change & ROW_WIDER ? "columns_widened" : "columns_added", "source=%s file=%s columns=%u", s->set->name,
		rd->file->name, s->schema.n);
	int r = dirsrc_store_schema(s, err);
	return r < 0 || !(rd->change & ROW_WIDER) ? r : dirsrc_want_snapshot(s, "columns widened", err);
}

/* What the file no longer names belongs to nobody. The index is named: without it every file would look at all documents. */
static int let_go(struct reading *rd, struct sb_error *err)
{
	struct dirsrc *s = rd->s;
	const char *file = rd->file->name;
	int64_t n = 0;
	int r;

	if (one_document(s))
		r = sb_db_run(s->db, &n, err, "INSERT INTO temp.pending(key, file, hash, sent) SELECT d.key, '', d.hash, 0 FROM document d INDEXED BY document_file WHERE d.source = ? AND d.file = ?"
			" AND d.key <> ? AND NOT EXISTS (SELECT 1 FROM temp.pending p WHERE p.key = d.key)", "sss", s->set->name, file, rd->only);
	else
		r = sb_db_run(s->db, &n, err, "INSERT INTO temp.pending(key, file, hash, sent) SELECT d.key, '', d.hash, 0 FROM document d INDEXED BY document_file WHERE d.source = ? AND d.file = ?"
			" AND NOT EXISTS (SELECT 1 FROM temp.named x WHERE x.key = d.key) AND NOT EXISTS (SELECT 1 FROM temp.pending p WHERE p.key = d.key)", "ss", s->set->name, file);
	s->n_pending += (unsigned)n;
	if (n > 0)
		s->released = s->look_for_deleted = true;
	return r;
}

static int bad_file(struct reading *rd, const struct sb_error *why)
{
	rd->file->bad = true; /* until it changes */
	rd->refused = 0;
	complain(rd, 0, why);
	sb_log_error(SB_ERROR, "file_skipped", why, "source=%s file=%s", rd->s->set->name, rd->file->name);
	return 0;
}

static int take_file(struct reading *rd, const char *text, size_t n, struct sb_error *err)
{
	struct dirsrc *s = rd->s;
	struct dirsrc_file *f = rd->file;
	struct sb_error why = SB_ERROR_INIT;

	f->conflict = false;
	free(SB_TAKE(f->reason));
	rd->refused = 0;
	int r = one_document(s) ? 0 : sb_db_run(s->db, NULL, err, "DELETE FROM temp.named", "");
	if (r == 0)
		r = dirsrc_documents(s->set, &s->schema, f->name, text, n, on_document, rd, &why);
	if (r < 0 && r != SB_ENOMEM && one_document(s) && !rd->only)
		return bad_file(rd, &why); /* it was not looked at before: see read_file */
	if (r < 0 && err)
		*err = why;
	if (r == 0 && !s->snapshot)
		r = let_go(rd, err);
	if (r == 0)
		r = dirsrc_pend_file(s, f, err);
	if (r < 0)
		return r;
	f->taken = true;
	s->refused += rd->refused;
	if (rd->refused)
		sb_log(SB_WARN, "file_taken_in_part", "source=%s file=%s refused=%u", s->set->name, f->name, rd->refused);
	return !s->snapshot && s->n_pending > PENDING_MAX ? dirsrc_flush(s, err) : 0; /* a snapshot settles at its end */
}

static int read_file(struct dirsrc *s, struct dirsrc_file *f, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *text = NULL;
	struct reading rd = { .s = s, .file = f };
	struct sb_error why = SB_ERROR_INIT;
	size_t n = 0;

	int r = dirsrc_file_read(s->set, f, &text, &n, &why);
	if (r == SB_EAGAIN) {
		f->stable = false;
		f->since_ms = sb_mono_ms();
		return 0;
	}
	if (r == SB_ENOMEM)
		return sb_fail_nomem(err);
	/* one document is told when all of it was read: checking it first would find nothing more */
	if (r == 0 && !(one_document(s) && (s->schema.document || s->schema.pinned)))
		r = dirsrc_documents(s->set, &s->schema, f->name, text, n, on_check, &rd, &why);
	if (r < 0)
		return r == SB_ENOMEM ? sb_fail_nomem(err) : bad_file(&rd, &why);
	r = new_columns(&rd, err);
	if (r == 0)
		r = take_file(&rd, text, n, err);
	free(rd.only);
	return r;
}

/* --- all of them --- */

static int by_name(const void *a, const void *b)
{
	const struct dirsrc_file *const *x = a, *const *y = b;

	return strcmp((*x)->name, (*y)->name);
}

static bool to_read(const struct dirsrc_file *f)
{
	return f->stable && !f->missing && !f->taken && !f->bad;
}

/* One round, in the order of names. */
static int read_round(struct dirsrc *s, struct sb_error *err)
{
	sb_cleanup(sb_freep) struct dirsrc_file **list = NULL;
	size_t n = 0;
	int r = 0;

	for (size_t i = 0; i < s->files.count; i++)
		n += to_read(s->files.item[i]);
	if (n == 0)
		return 0;
	list = malloc(n * sizeof(struct dirsrc_file *));
	if (!list)
		return sb_fail_nomem(err);
	n = 0;
	for (size_t i = 0; i < s->files.count; i++) {
		if (to_read(s->files.item[i]))
			list[n++] = s->files.item[i];
	}
	qsort(list, n, sizeof(struct dirsrc_file *), by_name);
	for (size_t i = 0; r == 0 && i < n; i++) {
		r = read_file(s, list[i], err);
		if (r == 0 && sb_lane_stopping(s->lane))
			r = sb_fail(err, SB_ESHUTDOWN, "stopped while reading");
	}
	return r;
}

int dirsrc_read(struct dirsrc *s, struct sb_error *err)
{
	int r = 0;

	for (int round = 0; r == 0 && round < ROUNDS; round++) {
		for (size_t i = 0; s->released && i < s->files.count; i++) {
			if (s->files.item[i]->conflict)
				s->files.item[i]->taken = false;
		}
		s->released = false;
		r = read_round(s, err);
		if (!s->released)
			break;
	}
	return r;
}
