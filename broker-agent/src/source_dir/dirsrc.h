/* Inside of the directory source: files, the documents in them, and their publication. One lane owns it all. */
#ifndef AGENT_DIRSRC_H
#define AGENT_DIRSRC_H

#include <sys/stat.h>

#include "source.h"
#include "state.h"

#define DIRSRC_FILES_MAX 100000
#define DIRSRC_FILE_MAX (32u * 1024 * 1024)
#define DIRSRC_BATCH_BYTES (512u * 1024)
#define DIRSRC_BATCH_ROWS 5000u

/* ---- dir_files.c: which files are there, and which of them are whole ---- */

struct dirsrc_file {
	char *name;
	ino_t ino;
	off_t size;
	struct timespec mtime;
	unsigned missing;         /* looks in a row that did not find it */
	bool stable;              /* not being written: the same in two looks, or renamed into place */
	bool taken;               /* its documents, as it is now, are known */
	bool ever_taken;          /* as it is now or was before, since the start */
	bool bad;                 /* as it is now it cannot be read */
};
struct dirsrc_files { struct dirsrc_file *item; size_t count; bool gone; };   /* sorted by name; gone: one was dropped in the last look */
void dirsrc_files_release(struct dirsrc_files *f);
struct dirsrc_file *dirsrc_files_find(const struct dirsrc_files *f, const char *name);   /* NULL: none */
/** Looks again. SB_EIO when the folder cannot be read: then nothing is known, and nothing may be taken for deleted. */
int dirsrc_files_look(struct dirsrc_files *f, const struct agent_dir_source *set, struct sb_error *err) SB_MUSTCHECK;
/** The whole text; SB_EAGAIN when it changed meanwhile, SB_ETOOBIG, SB_EIO. Returns new. */
int dirsrc_file_read(const struct agent_dir_source *set, const struct dirsrc_file *f, char **ret, size_t *ret_len, struct sb_error *err) SB_MUSTCHECK;

/* ---- dir_documents.c: from text to documents ---- */

struct dirsrc_document {
	const char *key;
	const struct sb_cell *cell;   /* CSV: in the order of the header; JSON: the key, the document */
	unsigned n_cells;
	char hash[65];
	unsigned line;
};
struct dirsrc_sink {
	void *user;
	int (*columns)(void *user, const struct sb_cell *name, unsigned n, struct sb_error *err);   /* CSV: the header, before the documents */
	int (*document)(void *user, const struct dirsrc_document *doc, struct sb_error *err);
};
/** All documents of one file, in order. SB_EPROTO with the line: nothing was told to the sink before, when it was called without one first. */
int dirsrc_documents(const struct agent_dir_source *set, const char *name, const char *text, size_t n, const struct dirsrc_sink *sink,
	struct sb_error *err) SB_MUSTCHECK;
/** Name of the key column. */
const char *dirsrc_key_column(const struct agent_dir_source *set);

/* ---- dir_publish.c ---- */

struct dirsrc {
	struct agent *a;
	const struct agent_dir_source *set;
	struct sb_lane *lane;
	struct sb_db *db;
	struct agent_publisher *pub;
	struct sb_batch *batch;
	struct dirsrc_files files;
	struct sb_shape shape;
	unsigned *place;              /* header field of the present CSV file -> column of the shape */
	unsigned shape_sent;          /* columns of the batch at work */
	struct sb_cell *cell;         /* of the row at work, n_columns of the shape */
	uint64_t next;                /* number of the next change; what was used is stored before it is sent */
	struct sb_position from;      /* where the next record of the entity stream begins */
	bool snapshot;                /* rows go to the snapshot, all with number `point` */
	uint64_t point, rows, sent_rows;
	struct dirsrc_file *now;      /* the file whose documents are told */
	bool look_for_deleted;        /* a file was read or is gone since deletions were last looked for */
	bool moving;                  /* keys that are in no file now may be found by the next look: they are not deleted */
	bool conflict;                /* a key of it belongs to another file */
	char stream[SB_TYPE_MAX + 16], snapshot_stream[SB_TYPE_MAX + 16];
};
int dirsrc_open(struct dirsrc *s, struct sb_error *err) SB_MUSTCHECK;
void dirsrc_close(struct dirsrc *s);
/** Publishes what differs between the folder and what was published. */
int dirsrc_changes(struct dirsrc *s, struct sb_error *err) SB_MUSTCHECK;
/** Publishes everything; the receivers drop what is not in it. */
int dirsrc_snapshot(struct dirsrc *s, const char *reason, struct sb_error *err) SB_MUSTCHECK;
/** Waits for the broker to have everything, or until there is room. SB_ESHUTDOWN when the lane is to stop. */
int dirsrc_wait(struct dirsrc *s, bool for_room, struct sb_error *err) SB_MUSTCHECK;

/* ---- dir_read.c: a file's documents become rows ---- */

/** Reads every file that is whole and not known yet. fn is told every document that is new or differs (all, in a snapshot). */
int dirsrc_read(struct dirsrc *s, int (*fn)(struct dirsrc *s, const struct dirsrc_document *doc, bool is_new, struct sb_error *err), struct sb_error *err) SB_MUSTCHECK;
/** A file is there of which it is not known what it holds. */
bool dirsrc_unknown_files(const struct dirsrc *s);
/** A file is being written right now. */
bool dirsrc_unstable_files(const struct dirsrc *s);

#endif
