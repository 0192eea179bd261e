/* The columns of one entity type that comes from documents: named in the settings (pinned), or learned from the values and then remembered. Turns a
 * document's fields into the cells of a row. Owned by one thread; no I/O. */
#ifndef AGENT_ROW_SCHEMA_H
#define AGENT_ROW_SCHEMA_H

#include "column_type.h"
#include "settings.h"
#include "stagebridge/change.h"

/* One field of a document, borrowed. json: p is the JSON value as it was written; else it is a CSV field without its quotes. */
struct row_field { const char *name; size_t name_n; bool json, null; const char *p; size_t n; };

struct row_column {
	char *name;
	unsigned fits;                    /* types that every value so far fits, see column_type.h */
	const struct column_type *type;   /* pinned, or what follows from fits */
	bool key;
};
struct row_schema {
	struct row_column *column;
	unsigned n;
	bool pinned;                      /* other fields are left out, nothing is learned */
	bool document;                    /* the two columns key and document: nothing is learned */
	bool learn_key;                   /* of the key column too: for showing only */
	char *key;                        /* name of the key column */
	const struct sb_strings *hidden;  /* private: never in a row; borrowed */
	char *room;                       /* decoded texts of the row at work */
	size_t room_size;
};

/** pins: struct row_pin of the settings, none: it is learned. hidden borrowed for the schema's life. */
int row_schema_init(struct row_schema *s, const char *key, bool document, const struct sb_list *pins, const struct sb_strings *hidden, struct sb_error *err) SB_MUSTCHECK;
void row_schema_release(struct row_schema *s);
bool row_schema_hides(const struct row_schema *s, const char *name, size_t n);

/** What was learned, as JSON text (returns new); and back: SB_EPROTO when it is not that. */
char *row_schema_text(const struct row_schema *s);
int row_schema_load(struct row_schema *s, const char *text, struct sb_error *err) SB_MUSTCHECK;

enum { ROW_NEW = 1, ROW_WIDER = 2 };   /* a column, or its first type, is new; a column has a wider type now */
/** Learns from one field and adds what changed to ret_change. SB_ETOOBIG: too many columns. */
int row_schema_learn(struct row_schema *s, const struct row_field *f, unsigned *ret_change, struct sb_error *err) SB_MUSTCHECK;

/**
 * Cells of a row, one per column, borrowed from the fields and from the schema until the next call; columns without a field are NULL. Fields that have no
 * column are left out. SB_EDATA names the column whose value does not fit, never the value.
 */
int row_schema_cells(struct row_schema *s, const struct row_field *field, unsigned n, struct sb_cell *cell, struct sb_error *err) SB_MUSTCHECK;

/** Fills type names and keys of a shape; its incarnation and entity type stay. */
int row_schema_shape(const struct row_schema *s, struct sb_shape *shape, struct sb_error *err) SB_MUSTCHECK;
/** The columns as lines for the settings file, indented by `indent` spaces. */
void row_schema_yaml(const struct row_schema *s, unsigned indent, struct sb_buf *out);

#endif
