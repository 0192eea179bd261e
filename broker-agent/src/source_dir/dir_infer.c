/* broker-agent --infer NAME: reads a folder once and shows the columns that its values fit, ready to be pinned in the settings. Touches no state, so it is safe
 * beside a running agent. */
#include <stdio.h>
#include <string.h>

#include "dirsrc.h"
#include "dir_infer.h"

#define COMPLAINTS_MAX 10

struct inference { struct row_schema schema; uint64_t documents; unsigned files, bad; struct sb_buf complaints; };

static int on_document(void *user, const struct dirsrc_document *doc, struct sb_error *err)
{
	struct inference *in = user;
	unsigned change = 0;
	int r = 0;

	in->documents++;
	for (unsigned i = 0; r == 0 && i < doc->n_fields; i++)
		r = row_schema_learn(&in->schema, &doc->field[i], &change, err);
	return r;
}

static int read_one(struct inference *in, const struct agent_dir_source *set, const struct dirsrc_file *f, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *text = NULL;
	struct sb_error why = SB_ERROR_INIT;
	size_t n = 0;

	int r = dirsrc_file_read(set, f, &text, &n, &why);
	if (r == 0)
		r = dirsrc_documents(set, &in->schema, f->name, text, n, on_document, in, &why);
	if (r == SB_ENOMEM)
		return sb_fail_nomem(err);
	in->files++;
	if (r < 0 && in->bad++ < COMPLAINTS_MAX)
		sb_buf_addf(&in->complaints, "#   %s: %s\n", f->name, why.msg);
	return 0;
}

static int by_name(const void *a, const void *b)
{
	const struct dirsrc_file *const *x = a, *const *y = b;

	return strcmp((*x)->name, (*y)->name);
}

static int read_all(struct inference *in, const struct agent_dir_source *set, struct sb_error *err)
{
	struct dirsrc_files files = { .item = NULL };

	int r = dirsrc_files_look(&files, set, NULL, NULL, err);
	if (r == 0 && files.count) {
		qsort(files.item, files.count, sizeof(struct dirsrc_file *), by_name); /* the table of names is not used any more */
		for (size_t i = 0; r == 0 && i < files.count; i++)
			r = read_one(in, set, files.item[i], err);
	}
	dirsrc_files_release(&files);
	return r;
}

int agent_dir_infer(const struct agent_dir_source *source, struct sb_buf *out, struct sb_error *err)
{
	struct agent_dir_source set = *source;   /* borrows all, but reads it as if nothing was pinned */
	struct inference in = { .files = 0 };

	set.columns = (struct sb_list){ .item = NULL };
	set.rows = AGENT_ROWS_COLUMNS;
	sb_buf_init(&in.complaints, 64 * 1024);
	int r = row_schema_init(&in.schema, dirsrc_key_column(&set), false, &set.columns, &set.private_columns, err);
	if (r == 0) {
		in.schema.learn_key = true;
		in.schema.column[0].fits = COLUMN_ANY;
		r = read_all(&in, &set, err);
	}
	if (r == 0) {
		sb_buf_addf(out, "# %llu documents in %u files of \"%s\"", (unsigned long long)in.documents, in.files, set.path);
		if (in.bad)
			sb_buf_addf(out, "; %u of them are invalid:\n%s", in.bad, in.complaints.data);
		else
			sb_buf_addc(out, '\n');
		sb_buf_addf(out, "# to be put below `- name: %s` in `directories`:\n", set.name);
		row_schema_yaml(&in.schema, 4, out);
	}
	row_schema_release(&in.schema);
	sb_buf_release(&in.complaints);
	return r;
}
