/* Settings, the values: text of the file, of the environment or of a default -> the field, with all checks; and the way
 * back to the file's spelling. Runs on the main thread before the lanes start; owns nothing. */
#include "settings_internal.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "file_secret.h"
#include "stagebridge/text.h"

#define SHOWN 60 /* bytes of a refused value that a message repeats */

int sb_settings_fail(struct sb_settings_ctx *ctx, const struct sb_settings_place *at, const char *fmt, ...)
{
	char reason[300];
	va_list ap;

	va_start(ap, fmt);
	if (vsnprintf(reason, sizeof(reason), fmt, ap) < 0)
		reason[0] = '\0';
	va_end(ap);
	if (at->line == 0)
		return sb_fail(ctx->err, SB_ECONFIG, "%s: %s: %s", at->name, ctx->path, reason);
	if (at->column == 0)
		return sb_fail(ctx->err, SB_ECONFIG, "%s:%zu: %s: %s", at->name, at->line, ctx->path, reason);
	return sb_fail(ctx->err, SB_ECONFIG, "%s:%zu:%zu: %s: %s", at->name, at->line, at->column, ctx->path, reason);
}

/* ---- spelling ---- */

struct spelling {
	uint64_t factor;
	const char *unit;
};

/* The largest unit without a rest. */
static void spell(char out[SB_SETTINGS_SPELL_MAX], uint64_t value, const struct spelling *units, size_t count)
{
	size_t i = 0;

	while (i + 1 < count && (value == 0 || value % units[i].factor != 0))
		i++;
	(void)snprintf(out, SB_SETTINGS_SPELL_MAX, "%" PRIu64 "%s", value / units[i].factor,
		units[i].unit); /* 20 digits + unit */
}

void sb_settings_spell_duration(char out[SB_SETTINGS_SPELL_MAX], int64_t ms)
{
	static const struct spelling units[] = { { 86400000, "d" }, { 3600000, "h" }, { 60000, "m" }, { 1000, "s" },
		{ 1, "ms" } };

	spell(out, ms < 0 ? 0 : (uint64_t)ms, units, SB_COUNT(units));
}

void sb_settings_spell_size(char out[SB_SETTINGS_SPELL_MAX], uint64_t bytes)
{
	static const struct spelling units[] = { { 1u << 30, "GiB" }, { 1u << 20, "MiB" }, { 1u << 10, "KiB" },
		{ 1, "" } };

	spell(out, bytes, units, SB_COUNT(units));
}

void sb_settings_spell(char out[SB_SETTINGS_SPELL_MAX], enum sb_setting_type type, int64_t value)
{
	if (type == SB_SET_DURATION)
		sb_settings_spell_duration(out, value);
	else if (type == SB_SET_SIZE)
		sb_settings_spell_size(out, value < 0 ? 0 : (uint64_t)value);
	else
		(void)snprintf(out, SB_SETTINGS_SPELL_MAX, "%" PRId64, value); /* 20 characters at most */
}

/* ---- bounds ---- */

bool sb_setting_bounded(const struct sb_setting *row, int64_t *ret_min, int64_t *ret_max)
{
	if (row->min == 0 && row->max == 0)
		return false;
	*ret_min = row->min;
	*ret_max = row->max == 0 && row->min > 0 ? INT64_MAX : row->max; /* "at least min" */
	return true;
}

static int fail_outside(struct sb_settings_ctx *ctx, const struct sb_setting *row, const char *text, int64_t min,
	int64_t max, const struct sb_settings_place *at)
{
	char low[SB_SETTINGS_SPELL_MAX], high[SB_SETTINGS_SPELL_MAX];

	sb_settings_spell(low, row->type, min);
	if (max == INT64_MAX)
		return sb_settings_fail(ctx, at, "%.*s is less than %s", SHOWN, text, low);
	sb_settings_spell(high, row->type, max);
	return sb_settings_fail(ctx, at, "%.*s is outside %s..%s", SHOWN, text, low, high);
}

int sb_settings_check_count(
	struct sb_settings_ctx *ctx, const struct sb_setting *row, size_t count, const struct sb_settings_place *at)
{
	int64_t min = 0, max = 0;

	if (!sb_setting_bounded(row, &min, &max) || ((int64_t)count >= min && (int64_t)count <= max))
		return SB_OK;
	if (max == INT64_MAX)
		return sb_settings_fail(ctx, at, "%zu items, must be at least %lld", count, (long long)min);
	return sb_settings_fail(ctx, at, "%zu items, must be %lld..%lld", count, (long long)min, (long long)max);
}

/* ---- the types ---- */

static int set_number(struct sb_settings_ctx *ctx, const struct sb_setting *row, void *field, const char *text,
		      const struct sb_settings_place *at)
{
	int64_t value = 0, min = 0, max = 0;
	uint64_t bytes = 0;
	struct sb_error cause = SB_ERROR_INIT;
	int r;

	if (row->type == SB_SET_INT)
		r = sb_parse_i64(text, INT64_MIN, INT64_MAX, "", &value, &cause);
	else if (row->type == SB_SET_DURATION)
		r = sb_parse_duration_ms(text, "", &value, &cause);
	else
		r = sb_parse_size(text, "", &bytes, &cause);
	if (r < 0)
		return sb_settings_fail(ctx, at, "%s", cause.msg + strlen(": "));
	if (row->type == SB_SET_SIZE)
		value = bytes > INT64_MAX ? INT64_MAX
					  : (int64_t)bytes; /* bounds are below that, 8 EiB is above all of them */
	if (sb_setting_bounded(row, &min, &max) && (value < min || value > max))
		return fail_outside(ctx, row, text, min, max, at);
	if (row->type == SB_SET_SIZE)
		*(uint64_t *)field = bytes;
	else
		*(int64_t *)field = value;
	return SB_OK;
}

static int set_choice(struct sb_settings_ctx *ctx, const struct sb_setting *row, int *field, const char *text,
		      const struct sb_settings_place *at)
{
	char list[200];
	size_t n = 0;

	list[0] = '\0';
	for (int i = 0; row->choices[i] != NULL; i++) {
		if (strcmp(row->choices[i], text) == 0) {
			*field = i;
			return SB_OK;
		}
		if (n < sizeof(list))
			n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%s", i > 0 ? ", " : "", row->choices[i]);
	}
	return sb_settings_fail(ctx, at, "\"%.*s\" is none of: %s", SHOWN, text, list);
}

static int set_path(struct sb_settings_ctx *ctx, const struct sb_setting *row, char **field, const char *text,
		    const struct sb_settings_place *at)
{
	sb_cleanup(sb_freep) char *path = NULL;
	struct sb_error cause = SB_ERROR_INIT;

	if (text[0] == '\0')
		return sb_settings_fail(ctx, at, "is empty");
	path = text[0] == '/' ? sb_strdup(text)
			      : sb_asprintf("%s%s%s", ctx->folder, strcmp(ctx->folder, "/") == 0 ? "" : "/", text);
	if (path == NULL)
		return sb_fail_nomem(ctx->err);
	if (row->type == SB_SET_SECRET && sb_file_check_secret(path, &cause) < 0)
		return sb_settings_fail(ctx, at, "%s", cause.msg);
	*field = SB_TAKE(path);
	return SB_OK;
}

static int set_word(struct sb_settings_ctx *ctx, const struct sb_setting *row, char **field, const char *text,
		    const struct sb_settings_place *at)
{
	if (row->type == SB_SET_NAME && !sb_name_ok(text))
		return sb_settings_fail(ctx, at,
			"\"%.*s\" is not a name: a-z first, then a-z, 0-9 and -, at most %d characters", SHOWN, text,
			SB_NAME_MAX);
	if (row->type == SB_SET_TYPE && !sb_type_ok(text))
		return sb_settings_fail(ctx, at,
			"\"%.*s\" is not a type: a-z first, then a-z, 0-9, - and _, at most %d characters", SHOWN, text,
			SB_TYPE_MAX);
	*field = sb_strdup(text);
	return *field != NULL ? SB_OK : sb_fail_nomem(ctx->err);
}

int sb_settings_append(struct sb_strings *list, const char *text, size_t n)
{
	char **items = realloc(list->item, (list->count + 1) * sizeof(*items)); /* the file's size bounds the count */

	if (items == NULL)
		return SB_ENOMEM;
	list->item = items;
	items[list->count] = malloc(n + 1);
	if (items[list->count] == NULL)
		return SB_ENOMEM;
	memcpy(items[list->count], text, n);
	items[list->count][n] = '\0';
	list->count++;
	return SB_OK;
}

/* "a, b" or "[a, b]" */
static int set_strings(struct sb_settings_ctx *ctx, const struct sb_setting *row, struct sb_strings *field,
	const char *text, const struct sb_settings_place *at)
{
	size_t end = strlen(text);
	const char *p = text;

	if (end >= 2 && text[0] == '[' && text[end - 1] == ']') {
		p++;
		end--;
	}
	while (p < text + end) {
		size_t n = strcspn(p, ",");
		const char *next;
		if (n > (size_t)(text + end - p))
			n = (size_t)(text + end - p);
		next = p + n + 1;
		for (; n > 0 && *p == ' '; n--)
			p++;
		while (n > 0 && p[n - 1] == ' ')
			n--;
		if (n > 0 && sb_settings_append(field, p, n) < 0)
			return sb_fail_nomem(ctx->err);
		p = next;
	}
	return sb_settings_check_count(ctx, row, field->count, at);
}

int sb_settings_set(struct sb_settings_ctx *ctx, const struct sb_setting *row, void *field, const char *text,
		    const struct sb_settings_place *at)
{
	switch (row->type) {
	case SB_SET_STRING:
	case SB_SET_NAME:
	case SB_SET_TYPE:
		return set_word(ctx, row, field, text, at);
	case SB_SET_PATH:
	case SB_SET_SECRET:
		return set_path(ctx, row, field, text, at);
	case SB_SET_INT:
	case SB_SET_DURATION:
	case SB_SET_SIZE:
		return set_number(ctx, row, field, text, at);
	case SB_SET_BOOL:
		if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
			return sb_settings_fail(ctx, at, "\"%.*s\" is neither true nor false", SHOWN, text);
		*(bool *)field = text[0] == 't';
		return SB_OK;
	case SB_SET_CHOICE:
		return set_choice(ctx, row, field, text, at);
	case SB_SET_STRINGS:
		return set_strings(ctx, row, field, text, at);
	case SB_SET_GROUP:
	case SB_SET_LIST:
		break;
	}
	return sb_settings_fail(ctx, at, "cannot be one value");
}
