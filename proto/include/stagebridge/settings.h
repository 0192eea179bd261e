/* Settings: one table per daemon. From it come the YAML parser, --check-config, --print-config, the reference page and the tests.
 * Unknown key, duplicate, wrong type, out of range, missing: SB_ECONFIG with "file:line:column: key: reason". YAML through libyaml;
 * anchors, tags and merges are refused. Environment override: SB_<PATH WITH _>, e.g. SB_BROKER_SERVERS (never for secrets nor inside lists;
 * an empty variable counts as none; STRINGS are separated by commas, there and in dflt: "[a, b]"). */
#ifndef STAGEBRIDGE_SETTINGS_H
#define STAGEBRIDGE_SETTINGS_H

#include "stagebridge/base.h"
#include "stagebridge/buf.h"
#include "stagebridge/error.h"

enum sb_setting_type {
	SB_SET_STRING,    /* char *                            */
	SB_SET_NAME,      /* char *, sb_name_ok                */
	SB_SET_TYPE,      /* char *, sb_type_ok                */
	SB_SET_PATH,      /* char *, made absolute against the file's folder */
	SB_SET_SECRET,    /* char *, path of a key file; checked 0400/0600, owner, no symlink when loaded */
	SB_SET_INT,       /* int64_t                           */
	SB_SET_BOOL,      /* bool: true | false                */
	SB_SET_DURATION,  /* int64_t milliseconds, min/max in ms */
	SB_SET_SIZE,      /* uint64_t bytes                    */
	SB_SET_CHOICE,    /* int, index into choices           */
	SB_SET_STRINGS,   /* struct sb_strings                 */
	SB_SET_GROUP,     /* sub at the same base + offset: a mapping */
	SB_SET_LIST,      /* struct sb_list of sub, item_size each: a sequence of mappings */
};

struct sb_strings { char **item; size_t count; };
struct sb_list { void *item; size_t count; };   /* items are calloc'ed, contiguous, item_size each */

enum {
	SB_SET_REQUIRED = 1,
	SB_SET_OPTIONAL = 2, /* GROUP: when it is absent, what it requires is not demanded */
	SB_SET_FILE_ONLY = 4, /* no environment override: for files whose digest says what they are */
};

struct sb_setting {
	const char *key;               /* last part of the path; NULL ends the table */
	enum sb_setting_type type;
	unsigned flags;
	size_t offset;                 /* offsetof in the struct of this table */
	const char *dflt;              /* in the spelling of the file; NULL: zero / NULL */
	int64_t min, max;              /* INT, DURATION, SIZE, and item count of STRINGS and LIST; 0,0 = no bound */
	const char *const *choices;    /* CHOICE: NULL-terminated */
	const struct sb_setting *sub;  /* GROUP, LIST */
	size_t item_size;              /* LIST */
	const char *help;              /* one sentence, for the reference */
};

/** Reads file into the zeroed struct at out. On error the struct is released and zeroed. */
int sb_settings_load(const struct sb_setting *table, void *out, const char *file, struct sb_error *err) SB_MUSTCHECK;
/** The same from memory; name stands for the file in messages, relative paths resolve against the current folder. */
int sb_settings_parse(const struct sb_setting *table, void *out, const char *yaml, size_t n, const char *name, struct sb_error *err) SB_MUSTCHECK;
/** For checks that a table cannot say: where the value of a dotted path ("edges[1].windows.deny[0].rrule") stands in a text that was parsed, or, when it is
 * absent, the nearest mapping or list around it. 1:1 when the text is not YAML. */
void sb_settings_where(const char *yaml, size_t n, const char *path, size_t *ret_line, size_t *ret_column);
void sb_settings_release(const struct sb_setting *table, void *out);
/** YAML of what is in force, with secrets as paths only. */
void sb_settings_print(const struct sb_setting *table, const void *in, struct sb_buf *out);
/** Markdown table rows for config/REFERENCE.md: key, type, default, range, help. */
void sb_settings_reference(const struct sb_setting *table, const char *title, struct sb_buf *out);

#endif
