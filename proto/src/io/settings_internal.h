/* What the parts of the settings module share. Private to io/settings*.c. */
#ifndef STAGEBRIDGE_IO_SETTINGS_INTERNAL_H
#define STAGEBRIDGE_IO_SETTINGS_INTERNAL_H

#include "stagebridge/settings.h"

#define SB_SETTINGS_FILE_MAX (1u << 20)
#define SB_SETTINGS_PATH_MAX 256

/* One load. Where we are is the dotted path of the setting; errors name it. */
struct sb_settings_ctx {
	const char *file;   /* for messages */
	const char *folder; /* absolute; relative paths start here */
	char path[SB_SETTINGS_PATH_MAX];
	unsigned in_list;   /* lists around us: no environment there */
	struct sb_error *err; /* never NULL */
};

/* Where a value stands: a line of the file, or something else with a name. */
struct sb_settings_place {
	const char *name;
	size_t line; /* 0: name says it all */
	size_t column; /* 0: not known */
};

static inline void *sb_setting_field(void *base, const struct sb_setting *row)
{
	return (char *)base + row->offset;
}

static inline const void *sb_setting_field_const(const void *base, const struct sb_setting *row)
{
	return (const char *)base + row->offset;
}

/** "name:line:column: path: reason" as SB_ECONFIG. */
int sb_settings_fail(struct sb_settings_ctx *ctx, const struct sb_settings_place *at, const char *fmt, ...)
	SB_PRINTF(3, 4);

/** Converts text and puts it into the still empty field. For all types of one value, and STRINGS as "a, b". */
int sb_settings_set(struct sb_settings_ctx *ctx, const struct sb_setting *row, void *field, const char *text,
		    const struct sb_settings_place *at) SB_MUSTCHECK;
/** Appends one item to STRINGS. */
int sb_settings_append(struct sb_strings *list, const char *text, size_t n) SB_MUSTCHECK;
/** The count of a list or of strings against the row's bounds. */
int sb_settings_check_count(struct sb_settings_ctx *ctx, const struct sb_setting *row, size_t count,
			    const struct sb_settings_place *at) SB_MUSTCHECK;
bool sb_setting_bounded(const struct sb_setting *row, int64_t *ret_min, int64_t *ret_max);

/** Fills out from the text, without a release on failure. */
int sb_settings_read(struct sb_settings_ctx *ctx, const struct sb_setting *table, void *out, const char *yaml,
	size_t n) SB_MUSTCHECK;

/** Anchors, aliases, tags, merges, second documents, deep nesting: all that the loaded document would not show any
 * more. */
int sb_settings_prescan(struct sb_settings_ctx *ctx, const char *yaml, size_t n) SB_MUSTCHECK;

/* The spellings of the file: "90s", "64KiB" */
#define SB_SETTINGS_SPELL_MAX 40
void sb_settings_spell_duration(char out[SB_SETTINGS_SPELL_MAX], int64_t ms);
void sb_settings_spell_size(char out[SB_SETTINGS_SPELL_MAX], uint64_t bytes);
/** One bound or value of an INT, DURATION or SIZE row. */
void sb_settings_spell(char out[SB_SETTINGS_SPELL_MAX], enum sb_setting_type type, int64_t value);

#endif
