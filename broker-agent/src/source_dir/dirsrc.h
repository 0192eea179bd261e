/* Inside of the directory source: files, the documents in them, and their publication. One lane owns it all.
 *
 *   source_dir.c     the lane: looks (all files at every poll, some when the system tells of them), state for people
 *   dir_files.c      which files are there, and which of them are whole
 *   dir_watch.c      the system's hints (inotify)
 *   dir_documents.c  from text to documents
 *   dir_read.c       from documents to what differs from what was published
 *   dir_state.c      what is published, in state.db
 *   dir_publish.c    batches, deletions, snapshots
 *   dir_infer.c      broker-agent --infer, for itself */
#ifndef AGENT_DIRSRC_H
#define AGENT_DIRSRC_H

#include <sys/stat.h>

#include "row_schema.h"
#include "source.h"
#include "state.h"

#define DIRSRC_BATCH_BYTES (512u * 1024)
#define DIRSRC_BATCH_ROWS 5000u
#define DIRSRC_REASON_MAX 160

/* ---- dir_files.c ---- */

struct dirsrc_stamp { uint64_t ino; int64_t size, mtime, ctime; };   /* times in ns */

struct dirsrc_file {
	char *name;               /* below the folder: "a.json", "x/a.json" */
	struct dirsrc_stamp stamp;
	int64_t since_ms;         /* monotonic: when it was first seen as it is */
	uint32_t look;            /* the last full look that found it */
	unsigned char missing;    /* looks in a row that did not find it */
	bool stable;              /* not being written: see dir_files.c */
	bool taken;               /* its documents, as it is now, are known */
	bool bad;                 /* as it is now it cannot be read */
	bool conflict;            /* a key of it belongs to another file */
	char *reason;             /* why it is bad or rows of it are refused, else NULL */
};
struct dirsrc_files {
	struct dirsrc_file **item;   /* in no order */
	size_t count, cap;
	uint32_t *slot;              /* open addressing: place in item + 1; 0 empty */
	size_t n_slots;
	uint32_t look;
	size_t n_skipped;            /* in the last full look: links, special files, folders that are too deep */
	size_t n_gone;               /* files with gone set, waiting to be dropped */
};
void dirsrc_files_release(struct dirsrc_files *f);
struct dirsrc_file *dirsrc_files_find(const struct dirsrc_files *f, const char *name);   /* NULL: none */
/** Adds a file that an earlier life has taken. */
int dirsrc_files_restore(struct dirsrc_files *f, const char *name, struct dirsrc_stamp stamp, struct sb_error *err) SB_MUSTCHECK;
/** Looks at all. SB_EIO when the folder cannot be read, SB_ETOOBIG: nothing is known then, and nothing may be taken for deleted. */
int dirsrc_files_look(struct dirsrc_files *f, const struct agent_dir_source *set, int (*on_folder)(void *user, const char *name), void *user, struct sb_error *err) SB_MUSTCHECK;
/** Looks at one, whose writer has closed it or that was put there as a whole (closed), or that is said to be gone. */
int dirsrc_files_look_at(struct dirsrc_files *f, const struct agent_dir_source *set, const char *name, bool closed, struct sb_error *err) SB_MUSTCHECK;
bool dirsrc_file_gone(const struct dirsrc_file *file);
/** How long a file must stay the same before it counts as whole. */
int64_t dirsrc_settle_ms(const struct agent_dir_source *set);
/** Forgets the files that are gone. */
void dirsrc_files_drop_gone(struct dirsrc_files *f);
/** The whole text; SB_EAGAIN when it changed meanwhile, SB_ETOOBIG, SB_EIO. Returns new. */
int dirsrc_file_read(const struct agent_dir_source *set, const struct dirsrc_file *f, char **ret, size_t *ret_len, struct sb_error *err) SB_MUSTCHECK;
bool dirsrc_name_fits(const struct agent_dir_source *set, const char *name);   /* the last part of a path */

/* ---- dir_watch.c ---- */

struct dirsrc_watch;
/** NULL in *ret where the system cannot: the folder is polled alone. */
int dirsrc_watch_new(struct dirsrc_watch **ret, struct sb_error *err) SB_MUSTCHECK;
void dirsrc_watch_free(struct dirsrc_watch *w);
int dirsrc_watch_fd(const struct dirsrc_watch *w);
/** A folder below `root` ("" itself); known ones are fine. Failure only means that it is polled alone. */
void dirsrc_watch_add(struct dirsrc_watch *w, const char *root, const char *name);
/** Takes what happened: fn per name, closed: a writer closed it or it was moved here. Returns false when some hints were lost: look at all. */
bool dirsrc_watch_take(struct dirsrc_watch *w, const struct agent_dir_source *set, void (*fn)(void *user, const char *name, bool closed), void *user);

/* ---- dir_documents.c ---- */

struct dirsrc_document {
	const char *key;
	const struct row_field *field;   /* the key's own among them */
	unsigned n_fields;
	char hash[65];                   /* of what may leave */
	unsigned line;
};
typedef int (*dirsrc_document_fn)(void *user, const struct dirsrc_document *doc, struct sb_error *err);
/** All documents of one file, in order. SB_EPROTO with the line when the file is not what its format says; else what fn returns. */
int dirsrc_documents(const struct agent_dir_source *set, const struct row_schema *schema, const char *name, const char *text, size_t n, dirsrc_document_fn fn, void *user,
	struct sb_error *err) SB_MUSTCHECK;
/** Name of the key column; whether rows are key and document. */
const char *dirsrc_key_column(const struct agent_dir_source *set);
bool dirsrc_is_document(const struct agent_dir_source *set);

/* ---- the source as a whole ---- */

struct dirsrc {
	struct agent *a;
	const struct agent_dir_source *set;
	struct sb_lane *lane;
	struct sb_db *db;
	struct agent_publisher *pub;
	struct sb_batch *batch;
	struct dirsrc_files files;
	struct dirsrc_watch *watch;
	struct row_schema schema;
	struct sb_shape shape;        /* of the schema as it is; that of the batch at work when that is not empty */
	bool reshape;                 /* the schema changed since the shape was made */
	struct sb_cell *cell;         /* of the row at work */
	uint64_t next;                /* number of the next change; what was used is stored before it is sent */
	struct sb_position from;      /* where the next record of the entity stream begins */
	bool snapshot;                /* rows go to the snapshot, all with number `point` */
	uint64_t point, rows, sent_rows, refused;
	unsigned n_pending;           /* changes and claims that are not in state.db yet */
	bool released;                /* a key was let go since files with conflicts were last looked at */
	bool look_for_deleted;
	int64_t orphans_since_ms;     /* monotonic: since when there are keys to delete while a file is being written; 0: none */
	size_t release_at;            /* of the files, while those that are gone are let go */
	int64_t held_since_ms;        /* monotonic: since when a mass deletion waits; 0: none does */
	char reason[DIRSRC_REASON_MAX]; /* what is wrong, for people */
	char stream[SB_TYPE_MAX + 16], snapshot_stream[SB_TYPE_MAX + 16];
};

/* ---- dir_state.c ---- */

int dirsrc_open(struct dirsrc *s, struct sb_error *err) SB_MUSTCHECK;
void dirsrc_close(struct dirsrc *s);
int dirsrc_in_transaction(struct dirsrc *s, int (*fn)(struct dirsrc *s, struct sb_error *err), struct sb_error *err) SB_MUSTCHECK;
int dirsrc_store_numbers(struct dirsrc *s, struct sb_error *err) SB_MUSTCHECK;
int dirsrc_store_schema(struct dirsrc *s, struct sb_error *err) SB_MUSTCHECK;
/** Wants a snapshot, for a reason. */
int dirsrc_want_snapshot(struct dirsrc *s, const char *reason, struct sb_error *err) SB_MUSTCHECK;
/** Which file holds a key ("" none, NULL unknown key) and with which hash: borrowed until done. */
int dirsrc_holder(struct dirsrc *s, const char *key, struct sb_stmt **ret, struct sb_error *err) SB_MUSTCHECK;
/** Remembers what becomes true when the batch at work is on the broker. file NULL: deleted. sent: it is in the batch. */
int dirsrc_pend(struct dirsrc *s, const char *key, const char *file, const char *hash, bool sent, struct sb_error *err) SB_MUSTCHECK;
int dirsrc_pend_file(struct dirsrc *s, const struct dirsrc_file *f, struct sb_error *err) SB_MUSTCHECK;
/** Before and after the batch at work goes to the broker. */
int dirsrc_in_doubt(struct dirsrc *s, struct sb_error *err) SB_MUSTCHECK;
int dirsrc_settle(struct dirsrc *s, struct sb_error *err) SB_MUSTCHECK;
/** Keys of files that are gone belong to no file. */
int dirsrc_release_gone(struct dirsrc *s, struct sb_error *err) SB_MUSTCHECK;
/** How many keys are published, and how many of them are in no file. */
int dirsrc_count(struct dirsrc *s, int64_t *ret_all, int64_t *ret_orphans, struct sb_error *err) SB_MUSTCHECK;

/* ---- dir_read.c ---- */

/** Reads every file that is whole and not known yet, adds what differs to the batch (everything, in a snapshot). */
int dirsrc_read(struct dirsrc *s, struct sb_error *err) SB_MUSTCHECK;
/** The first file that is being written right now; NULL: none. */
const char *dirsrc_unstable(const struct dirsrc *s);

/* ---- dir_publish.c ---- */

/** Adds a row; hash only kept. SB_EDATA: the row is refused, and why. */
int dirsrc_add(struct dirsrc *s, const struct dirsrc_document *doc, bool is_new, const char *file, struct sb_error *err) SB_MUSTCHECK;
/** Sends the batch at work and settles it; without one settles alone. */
int dirsrc_flush(struct dirsrc *s, struct sb_error *err) SB_MUSTCHECK;
/** Publishes what differs between the folder and what was published. */
int dirsrc_changes(struct dirsrc *s, struct sb_error *err) SB_MUSTCHECK;
/** Publishes everything; the receivers drop what is not in it. */
int dirsrc_snapshot(struct dirsrc *s, const char *reason, struct sb_error *err) SB_MUSTCHECK;

#endif
