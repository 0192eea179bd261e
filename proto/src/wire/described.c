/* Reading entity.described, strictly: one table of keys per object, then what each value must be. */
#include "stagebridge/described.h"

#include <string.h>

#include "batch_rules.h"
#include "json_strict.h"

static const char *const class_names[SB_COLUMN_CLASS_COUNT] = {
	[SB_COLUMN_INTERNAL] = "internal", [SB_COLUMN_PUBLIC] = "public", [SB_COLUMN_MASKED] = "masked",
};

const char *sb_column_class_name(enum sb_column_class c)
{
	return (unsigned)c < SB_COLUMN_CLASS_COUNT ? class_names[c] : "?";
}

static bool class_ok(const char *s)
{
	for (int c = 0; s && c < SB_COLUMN_CLASS_COUNT; c++) {
		if (strcmp(s, class_names[c]) == 0)
			return true;
	}
	return false;
}

/* UTF-8 is jansson's care; max counts characters */
static bool text_ok(const json_t *v, size_t max)
{
	size_t n = 0;

	if (!json_is_string(v))
		return false;
	for (const char *p = json_string_value(v); *p; p++)
		n += ((unsigned char)*p & 0xC0) != 0x80;
	return n <= max;
}

static bool names_ok(const json_t *list, size_t max)
{
	size_t i;
	const json_t *v;

	if (!json_is_array(list) || json_array_size(list) > max)
		return false;
	json_array_foreach(list, i, v)
	{
		if (!json_is_string(v) || json_string_length(v) < 1 || json_string_length(v) > SB_COLUMN_NAME_MAX)
			return false;
	}
	return true;
}

static int column_check(const json_t *c, struct sb_error *err)
{
	static const char *const keys[] = { "name", "type", "key", "source_type", "comment", "labels", "class" };

	int r = sb_json_closed(c, keys, SB_COUNT(keys), "column", err);
	if (r < 0)
		return r;
	/* names and types: sb_shape_wrong */
	if (!sb_json_string(c, "name") || !sb_json_string(c, "type") || !json_is_boolean(json_object_get(c, "key")) ||
		!text_ok(json_object_get(c, "source_type"), SB_COLUMN_TYPE_MAX) || !text_ok(json_object_get(c, "comment"), SB_COMMENT_MAX) ||
		!names_ok(json_object_get(c, "labels"), SB_LABELS_MAX) || !class_ok(sb_json_string(c, "class")))
		return sb_fail(err, SB_EPROTO, "column of an entity type is not described as the contract says");
	return 0;
}

int sb_described_shape(const json_t *described, struct sb_shape *ret, struct sb_error *err)
{
	const json_t *columns = json_object_get(described, "columns"), *c;
	struct sb_shape s = { .incarnation = (uint64_t)json_integer_value(json_object_get(described, "incarnation")) };
	size_t i;

	int r = sb_format(s.type, sizeof(s.type), err, "%s", sb_json_string(described, "type"));
	if (r < 0)
		return r;
	s.column = calloc(json_array_size(columns) + 1, sizeof(*s.column));
	if (!s.column)
		return sb_fail_nomem(err);
	json_array_foreach(columns, i, c)
	{
		struct sb_column *to = &s.column[s.n_columns++];
		*to = (struct sb_column){ .name = sb_strdup(sb_json_string(c, "name")), .type = sb_strdup(sb_json_string(c, "type")),
			.key = json_is_true(json_object_get(c, "key")) };
		if (!to->name || !to->type) {
			sb_shape_release(&s);
			return sb_fail_nomem(err);
		}
	}
	*ret = s;
	return 0;
}

static int shape_check(const json_t *described, struct sb_error *err)
{
	struct sb_shape s;

	int r = sb_described_shape(described, &s, err);
	if (r < 0)
		return r;
	const char *wrong = sb_shape_wrong(&s);
	if (wrong)
		r = sb_fail(err, SB_EPROTO, "described columns: %s", wrong);
	sb_shape_release(&s);
	return r;
}

int sb_described_check(const json_t *described, struct sb_error *err)
{
	static const char *const keys[] = { "type", "incarnation", "lsn", "comment", "rows", "columns", "withheld" };
	const json_t *rows = json_object_get(described, "rows"), *columns = json_object_get(described, "columns"), *c;
	uint64_t incarnation, lsn;
	size_t i;

	int r = sb_json_closed(described, keys, SB_COUNT(keys), "description", err);
	if (r < 0)
		return r;
	const char *type = sb_json_string(described, "type"), *at = sb_json_string(described, "lsn");
	if (!type || !sb_type_ok(type))
		return sb_fail(err, SB_EPROTO, "\"type\" is not the name of an entity type");
	if (!sb_json_u64(described, "incarnation", &incarnation) || !at || sb_lsn_parse(at, &lsn, NULL) < 0)
		return sb_fail(err, SB_EPROTO, "\"incarnation\" or \"lsn\" is not a position");
	if (!text_ok(json_object_get(described, "comment"), SB_COMMENT_MAX))
		return sb_fail(err, SB_EPROTO, "\"comment\" is not a text of at most %d characters", SB_COMMENT_MAX);
	if (!json_is_integer(rows) || json_integer_value(rows) < -1)
		return sb_fail(err, SB_EPROTO, "\"rows\" is not a count");
	if (!names_ok(json_object_get(described, "withheld"), SB_COLUMNS_MAX))
		return sb_fail(err, SB_EPROTO, "\"withheld\" is not a list of column names");
	if (!json_is_array(columns) || json_array_size(columns) > SB_COLUMNS_MAX)
		return sb_fail(err, SB_EPROTO, "\"columns\" is not a list of at most %d", SB_COLUMNS_MAX);
	json_array_foreach(columns, i, c)
	{
		r = column_check(c, err);
		if (r < 0)
			return r;
	}
	return shape_check(described, err);
}

int sb_described_parse(json_t **ret, const void *p, size_t n, struct sb_error *err)
{
	json_t *d = NULL;

	int r = sb_json_load_object(&d, p, n, "description", err);
	if (r == 0)
		r = sb_described_check(d, err);
	if (r < 0) {
		json_decref(d);
		return r;
	}
	*ret = d;
	return 0;
}

uint64_t sb_described_lsn(const json_t *described)
{
	uint64_t lsn = 0;

	return sb_lsn_parse(sb_json_string(described, "lsn"), &lsn, NULL) == 0 ? lsn : 0; /* checked before */
}
