/* Rows of a CSV file (RFC 4180) with a header: an unquoted empty field is NULL, a quoted one is the empty text, as in PostgreSQL's COPY. Read in one pass
 * with bounded memory. A malformed row, a field that is not UTF-8 or a file that changes meanwhile gives no dataset. The dataset lane's thread; owns
 * the open file. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "feed.h"
#include "stagebridge/buf.h"
#include "stagebridge/text.h"

#define ROW_MAX (64u << 20)
#define FILE_BUFFER (256u * 1024)

struct field { size_t at, n; bool quoted; };

struct csv_feed {
	struct agent_feed feed;
	FILE *file;
	char *buffer;
	struct stat opened;
	struct sb_buf row;           /* the fields of a row, one after the other */
	struct field *field;         /* SB_COLUMNS_MAX */
	unsigned n_fields;
	unsigned *wanted, n_wanted;
};

static struct csv_feed *self(struct agent_feed *f)
{
	return (struct csv_feed *)(void *)f;
}

static void csv_close(struct agent_feed *f)
{
	struct csv_feed *c = self(f);

	if (c->file)
		(void)fclose(c->file); /* was read only */
	free(c->buffer);
	free(c->field);
	free(c->wanted);
	sb_buf_release(&c->row);
	free(c);
}

static int malformed(struct agent_refusal *no, struct sb_error *err, const char *what)
{
	return agent_refuse(no, err, "source", "the file is malformed: %s", what);
}

/* The rest of a quoted field; the character that ends it, or -2 when the quote never ends or something stands behind it. */
static int read_quoted(struct csv_feed *c)
{
	for (;;) {
		int ch = getc_unlocked(c->file);
		if (ch == EOF)
			return -2;
		if (ch == '"') {
			ch = getc_unlocked(c->file);
			if (ch != '"')
				return ch == ',' || ch == '\n' || ch == '\r' || ch == EOF ? ch : -2;
		}
		sb_buf_addc(&c->row, (char)ch);
	}
}

/* The rest of an unquoted field that begins with ch; as above. */
static int read_plain(struct csv_feed *c, int ch)
{
	while (ch != ',' && ch != '\n' && ch != '\r' && ch != EOF) {
		if (ch == '"')
			return -2;
		sb_buf_addc(&c->row, (char)ch);
		ch = getc_unlocked(c->file);
	}
	return ch;
}

/* One field; *ret_end is the character behind it: ',' '\n' or EOF. */
static int read_field(struct csv_feed *c, int first, int *ret_end, struct agent_refusal *no, struct sb_error *err)
{
	struct field *f = &c->field[c->n_fields];

	if (c->n_fields == SB_COLUMNS_MAX)
		return malformed(no, err, "a row has too many fields");
	f->at = c->row.len;
	f->quoted = first == '"';
	int end = f->quoted ? read_quoted(c) : read_plain(c, first);
	if (end == '\r')
		end = getc_unlocked(c->file) == '\n' ? '\n' : -2;
	if (end == -2)
		return malformed(no, err, "a quotation mark or line end stands where none can be");
	f->n = c->row.len - f->at;
	c->n_fields++;
	*ret_end = end;
	if (ferror(c->file))
		return sb_fail_errno(err, errno, "source: could not read the file");
	int r = sb_buf_check(&c->row, "row", NULL);
	if (r == SB_ENOMEM)
		return sb_fail_nomem(err);
	if (r < 0)
		return malformed(no, err, "a row is longer than 64 MiB");
	return sb_utf8_ok(c->row.data + f->at, f->n) ? 0 : malformed(no, err, "a field is not UTF-8");
}

/* 1 with a row's fields, 0 at the end of the file. */
static int read_row(struct csv_feed *c, struct agent_refusal *no, struct sb_error *err)
{
	int end = ',';

	sb_buf_reset(&c->row);
	c->n_fields = 0;
	int first = getc_unlocked(c->file);
	if (first == EOF)
		return ferror(c->file) ? sb_fail_errno(err, errno, "source: could not read the file") : 0;
	for (;;) {
		int r = read_field(c, first, &end, no, err);
		if (r < 0)
			return r;
		if (end != ',')
			return 1;
		first = getc_unlocked(c->file);
	}
}

static int read_header(struct csv_feed *c, struct agent_refusal *no, struct sb_error *err)
{
	static const char mark[] = "\xef\xbb\xbf";
	char start[3];

	if (fread(start, 1, sizeof(start), c->file) != sizeof(start) || memcmp(start, mark, sizeof(start)) != 0)
		rewind(c->file);
	int r = read_row(c, no, err);
	if (r == 0)
		return malformed(no, err, "it has no header");
	if (r < 0)
		return r;
	r = agent_feed_columns(&c->feed, c->n_fields, err);
	for (unsigned i = 0; r == 0 && i < c->n_fields; i++) {
		c->feed.column[i] = sb_asprintf("%.*s", (int)c->field[i].n, c->row.data + c->field[i].at);
		c->feed.type[i] = sb_strdup("");
		if (!c->feed.column[i] || !c->feed.type[i])
			return sb_fail_nomem(err);
		for (unsigned k = 0; r == 0 && k < i; k++) {
			if (strcmp(c->feed.column[i], c->feed.column[k]) == 0)
				r = malformed(no, err, "the header has a column twice");
		}
	}
	return r;
}

static int csv_start(struct agent_feed *feed, const unsigned *wanted, unsigned n, struct agent_refusal *no, struct sb_error *err)
{
	struct csv_feed *c = self(feed);

	(void)no;
	c->wanted = calloc(n ? n : 1, sizeof(*c->wanted));
	if (!c->wanted)
		return sb_fail_nomem(err);
	if (n)
		memcpy(c->wanted, wanted, n * sizeof(*wanted));
	c->n_wanted = n;
	return 0;
}

/* A file that was written to while it was read is a mixture: another time. */
static int check_unchanged(const struct csv_feed *c, struct sb_error *err)
{
	struct stat now;

	if (fstat(fileno(c->file), &now) < 0)
		return sb_fail_errno(err, errno, "source: could not examine the file");
	if (now.st_size != c->opened.st_size || now.st_mtim.tv_sec != c->opened.st_mtim.tv_sec || now.st_mtim.tv_nsec != c->opened.st_mtim.tv_nsec)
		return sb_fail(err, SB_EAGAIN, "source: the file changed while it was read");
	return 0;
}

static int csv_next(struct agent_feed *feed, struct sb_cell *cell, struct agent_refusal *no, struct sb_error *err)
{
	struct csv_feed *c = self(feed);

	int r = read_row(c, no, err);
	if (r == 0)
		return check_unchanged(c, err);
	if (r < 0)
		return r;
	if (c->n_fields != feed->n_columns)
		return malformed(no, err, "a row has more or fewer fields than the header");
	for (unsigned i = 0; i < c->n_wanted; i++) {
		const struct field *f = &c->field[c->wanted[i]];
		cell[i] = (struct sb_cell){ .kind = f->n || f->quoted ? SB_CELL_VALUE : SB_CELL_NULL, .p = c->row.data + f->at, .n = f->n };
	}
	return 1;
}

static const struct agent_feed_ops ops = { .start = csv_start, .next = csv_next, .close = csv_close };

int agent_feed_csv(struct agent_feed **ret, const struct agent_policy *p, struct agent_refusal *no, struct sb_error *err)
{
	struct csv_feed *c = calloc(1, sizeof(*c));
	int r = 0;

	if (!c)
		return sb_fail_nomem(err);
	c->feed.ops = &ops;
	sb_buf_init(&c->row, ROW_MAX);
	c->field = calloc(SB_COLUMNS_MAX, sizeof(*c->field));
	c->buffer = malloc(FILE_BUFFER);
	if (!c->field || !c->buffer)
		r = sb_fail_nomem(err);
	if (r == 0) {
		c->file = fopen(p->source.csv.path, "re");
		if (!c->file) {
			(void)agent_refuse(no, NULL, "source", "the policy's file cannot be opened");
			r = sb_fail(err, SB_EREFUSED, "source: \"%s\" cannot be opened", p->source.csv.path);
		}
	}
	if (r == 0 && (setvbuf(c->file, c->buffer, _IOFBF, FILE_BUFFER) != 0 || fstat(fileno(c->file), &c->opened) < 0))
		r = sb_fail_errno(err, errno, "source: could not examine the file");
	if (r == 0 && !S_ISREG(c->opened.st_mode))
		r = agent_refuse(no, err, "source", "the policy's file is not a regular file");
	if (r == 0)
		r = read_header(c, no, err);
	if (r < 0) {
		agent_feed_close(&c->feed);
		return r;
	}
	*ret = &c->feed;
	return 0;
}
