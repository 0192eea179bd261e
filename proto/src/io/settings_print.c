/* Settings, the writing: what is in force as YAML that reads back to the same struct, and the reference page. Main
 * thread; owns nothing. */
#include <inttypes.h>
#include <string.h>

#include "settings_internal.h"
#include "stagebridge/text.h"

static bool is_text(enum sb_setting_type type)
{
	return type == SB_SET_STRING || type == SB_SET_NAME || type == SB_SET_TYPE || type == SB_SET_PATH ||
	       type == SB_SET_SECRET;
}

/* ---- YAML ---- */

/* The code point of the well-formed character at p; its length in *ret_len. */
static uint32_t decode(const char *p, size_t *ret_len)
{
	const unsigned char *u = (const unsigned char *)p;
	size_t len = u[0] < 0x80 ? 1 : u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : 4;
	uint32_t code = len == 1 ? u[0] : u[0] & (0xffu >> (len + 1));

	for (size_t i = 1; i < len; i++)
		code = code << 6 | (u[i] & 0x3fu);
	*ret_len = len;
	return code;
}

/* What libyaml refuses, folds or eats when it stands there as it is. */
static bool must_escape(uint32_t code)
{
	return code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0x2028 || code == 0x2029 || code == 0xfeff ||
	       code == 0xfffe || code == 0xffff;
}

static void print_string(struct sb_buf *out, const char *s)
{
	sb_buf_addc(out, '"');
	while (*s != '\0') {
		size_t len = 1;
		uint32_t code = decode(s, &len);
		if (code == '"' || code == '\\')
			sb_buf_addf(out, "\\%c", *s);
		else if (must_escape(code))
			sb_buf_addf(out, "\\u%04" PRIx32, code);
		else
			sb_buf_add(out, s, len);
		s += len;
	}
	sb_buf_addc(out, '"');
}

static void print_indent(struct sb_buf *out, unsigned depth)
{
	for (unsigned i = 0; i < depth; i++)
		sb_buf_adds(out, "  ");
}

/* Nothing was given and there is no default: zero, where zero may not be said. */
static bool is_unset(const struct sb_setting *row, const void *field)
{
	int64_t min = 0, max = 0;

	if (is_text(row->type))
		return *(char *const *)field == NULL;
	if (row->dflt != NULL || !sb_setting_bounded(row, &min, &max) || (min <= 0 && max >= 0))
		return false;
	if (row->type == SB_SET_INT || row->type == SB_SET_DURATION)
		return *(const int64_t *)field == 0;
	if (row->type == SB_SET_SIZE)
		return *(const uint64_t *)field == 0;
	if (row->type == SB_SET_STRINGS)
		return ((const struct sb_strings *)field)->count == 0;
	return row->type == SB_SET_LIST && ((const struct sb_list *)field)->count == 0;
}

static bool lacks_required(const struct sb_setting *table, const void *base)
{
	for (const struct sb_setting *row = table; row->key != NULL; row++) {
		const void *field = sb_setting_field_const(base, row);
		if (row->type == SB_SET_GROUP && (row->flags & SB_SET_OPTIONAL) == 0 && lacks_required(row->sub, field))
			return true;
		if (row->type != SB_SET_GROUP && (row->flags & SB_SET_REQUIRED) != 0 && is_unset(row, field))
			return true;
	}
	return false;
}

static void print_strings(struct sb_buf *out, const struct sb_strings *list)
{
	sb_buf_addc(out, '[');
	for (size_t i = 0; i < list->count; i++) {
		sb_buf_adds(out, i > 0 ? ", " : "");
		print_string(out, list->item[i]);
	}
	sb_buf_addc(out, ']');
}

static void print_value(struct sb_buf *out, const struct sb_setting *row, const void *field)
{
	char text[SB_SETTINGS_SPELL_MAX];

	switch (row->type) {
	case SB_SET_STRING:
	case SB_SET_NAME:
	case SB_SET_TYPE:
	case SB_SET_PATH:
	case SB_SET_SECRET:
		print_string(out, *(char *const *)field);
		break;
	case SB_SET_INT:
	case SB_SET_DURATION:
		sb_settings_spell(text, row->type, *(const int64_t *)field);
		sb_buf_adds(out, text);
		break;
	case SB_SET_SIZE:
		sb_settings_spell_size(text, *(const uint64_t *)field);
		sb_buf_adds(out, text);
		break;
	case SB_SET_BOOL:
		sb_buf_adds(out, *(const bool *)field ? "true" : "false");
		break;
	case SB_SET_CHOICE:
		print_string(out, row->choices[*(const int *)field]);
		break;
	case SB_SET_STRINGS:
		print_strings(out, field);
		break;
	case SB_SET_GROUP:
	case SB_SET_LIST:
		break; /* print_row goes down into them */
	}
	sb_buf_addc(out, '\n');
}

static void print_table(struct sb_buf *out, const struct sb_setting *table, const void *base, unsigned depth);

/* false: not one line that is more than a comment, which would read back as nothing instead of a mapping. */
static bool has_lines(const struct sb_setting *table, const void *base)
{
	for (const struct sb_setting *row = table; row->key != NULL; row++) {
		const void *field = sb_setting_field_const(base, row);
		bool skipped = row->type == SB_SET_GROUP && (row->flags & SB_SET_OPTIONAL) != 0 &&
			       lacks_required(row->sub, field);
		if (!skipped && !is_unset(row, field))
			return true;
	}
	return false;
}

static void print_list(struct sb_buf *out, const struct sb_setting *row, const struct sb_list *list, unsigned depth)
{
	if (list->count == 0) {
		sb_buf_adds(out, " []\n");
		return;
	}
	sb_buf_addc(out, '\n');
	for (size_t i = 0; i < list->count; i++) {
		const void *item = (const char *)list->item + i * row->item_size;
		print_indent(out, depth + 1);
		sb_buf_adds(out, has_lines(row->sub, item) ? "-\n" : "- {}\n");
		print_table(out, row->sub, item, depth + 2);
	}
}

static void print_row(struct sb_buf *out, const struct sb_setting *row, const void *field, unsigned depth)
{
	bool absent =
		row->type == SB_SET_GROUP && (row->flags & SB_SET_OPTIONAL) != 0 && lacks_required(row->sub, field);

	print_indent(out, depth);
	if (absent || is_unset(row, field)) {
		sb_buf_addf(out, "# %s: not set\n", row->key);
		return;
	}
	sb_buf_addf(out, "%s:", row->key);
	if (row->type == SB_SET_LIST) {
		print_list(out, row, field, depth);
	} else if (row->type == SB_SET_GROUP) {
		sb_buf_addc(out, '\n');
		print_table(out, row->sub, field, depth + 1);
	} else {
		sb_buf_addc(out, ' ');
		print_value(out, row, field);
	}
}

static void print_table(struct sb_buf *out, const struct sb_setting *table, const void *base, unsigned depth)
{
	for (const struct sb_setting *row = table; row->key != NULL; row++)
		print_row(out, row, sb_setting_field_const(base, row), depth);
}

void sb_settings_print(const struct sb_setting *table, const void *in, struct sb_buf *out)
{
	print_table(out, table, in, 0);
}

/* ---- reference ---- */

static const char *type_word(enum sb_setting_type type)
{
	switch (type) {
	case SB_SET_STRING:
		return "text";
	case SB_SET_NAME:
		return "name";
	case SB_SET_TYPE:
		return "type name";
	case SB_SET_PATH:
		return "path";
	case SB_SET_SECRET:
		return "key file";
	case SB_SET_INT:
		return "number";
	case SB_SET_BOOL:
		return "true, false";
	case SB_SET_DURATION:
		return "duration";
	case SB_SET_SIZE:
		return "size";
	case SB_SET_CHOICE:
		return "choice";
	case SB_SET_STRINGS:
		return "list of text";
	case SB_SET_GROUP:
		return "group";
	case SB_SET_LIST:
		return "list";
	}
	return "";
}

/* A table cell: '|' would end it. */
static void add_cell(struct sb_buf *out, const char *s)
{
	for (; *s != '\0'; s++) {
		if (*s == '|')
			sb_buf_addc(out, '\\');
		sb_buf_addc(out, *s == '\n' ? ' ' : *s);
	}
}

static void add_range(struct sb_buf *out, const struct sb_setting *row)
{
	char low[SB_SETTINGS_SPELL_MAX], high[SB_SETTINGS_SPELL_MAX];
	bool counts = row->type == SB_SET_STRINGS || row->type == SB_SET_LIST;
	int64_t min = 0, max = 0;

	if (row->type == SB_SET_CHOICE) {
		for (size_t i = 0; row->choices[i] != NULL; i++) {
			sb_buf_adds(out, i > 0 ? ", " : "");
			add_cell(out, row->choices[i]);
		}
		return;
	}
	if (!sb_setting_bounded(row, &min, &max))
		return;
	sb_settings_spell(low, row->type, min);
	sb_settings_spell(high, row->type, max);
	if (max == INT64_MAX)
		sb_buf_addf(out, "at least %s", low);
	else
		sb_buf_addf(out, "%s to %s", low, high);
	sb_buf_adds(out, counts ? " items" : "");
}

static void reference_rows(const struct sb_setting *table, const char *prefix, struct sb_buf *out)
{
	for (const struct sb_setting *row = table; row->key != NULL; row++) {
		sb_buf_addf(out, "| `%s%s` | %s | ", prefix, row->key, type_word(row->type));
		if ((row->flags & SB_SET_REQUIRED) != 0)
			sb_buf_adds(out, "required");
		else if (row->dflt != NULL)
			sb_buf_addf(out, "`%s`", row->dflt);
		sb_buf_adds(out, " | ");
		add_range(out, row);
		sb_buf_adds(out, " | ");
		add_cell(out, row->help != NULL ? row->help : "");
		sb_buf_adds(out, " |\n");
		if (row->type == SB_SET_GROUP || row->type == SB_SET_LIST) {
			sb_cleanup(sb_freep) char *below =
				sb_asprintf("%s%s%s.", prefix, row->key, row->type == SB_SET_LIST ? "[]" : "");
			if (below == NULL) {
				out->failed = out->nomem = true;
				return;
			}
			reference_rows(row->sub, below, out);
		}
	}
}

void sb_settings_reference(const struct sb_setting *table, const char *title, struct sb_buf *out)
{
	sb_buf_addf(out, "## %s\n\n| key | type | default | range | meaning |\n|---|---|---|---|---|\n", title);
	reference_rows(table, "", out);
}
