/* Types that the columns of a folder's or the socket's documents may have, and which texts fit them. "Exact" is what inference asks: what the sync view
 * shows of the typed value is, byte for byte, what was in the document. "Accepts" is what a pinned column asks: PostgreSQL takes the text, and its value is
 * the one that was meant. Pure. */
#ifndef AGENT_COLUMN_TYPE_H
#define AGENT_COLUMN_TYPE_H

#include "stagebridge/base.h"

/* Inferred types, narrowest first: a column has the first one that all its values fit. */
enum {
	COLUMN_BOOLEAN = 1, COLUMN_BIGINT = 2, COLUMN_NUMERIC = 4, COLUMN_DATE = 8, COLUMN_TIMESTAMPTZ = 16, COLUMN_TEXT = 32, COLUMN_JSONB = 64,
	COLUMN_ANY = 127,          /* nothing but NULL so far */
};

struct column_type {
	const char *name;          /* in the settings */
	const char *pg;            /* format_type() of PostgreSQL */
	unsigned bit;              /* when it may be inferred, else 0 */
	char json;                 /* which JSON values it holds: 'b' true and false, 'n' numbers, 's' strings, '*' all */
	bool (*accepts)(const char *p, size_t n);
	bool (*exact)(const char *p, size_t n);   /* NULL: never inferred */
};

extern const struct column_type column_types[];   /* ends with name NULL */
const struct column_type *column_type_find(const char *name);   /* NULL: there is none */
/** The type of a column all of whose values fit these; text when there were none. */
const struct column_type *column_type_of(unsigned fits);
/** What a text (of a CSV field) fits: never 0, text at least. */
unsigned column_fits(const char *p, size_t n);
/** What a JSON value fits; 0 for null: says nothing. text: its content when it is a string, else the value as it was written. */
unsigned column_fits_json(char first, const char *text, size_t n);

#endif
