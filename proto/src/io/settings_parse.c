/* Settings, the reading: YAML document -> struct, by the daemon's table. Main thread, before the lanes start. Every
 * field is filled from the first of: environment, file, default; whatever else the file holds is an error with its
 * line. Owns the document while it reads. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "settings_internal.h"
#include "settings_yaml.h"
#include "stagebridge/text.h"

/* A mapping being read: the whole file, a group, or an item of a list. */
struct mapping {
	const struct sb_setting *table;
	void *base;
	const yaml_node_t *node; /* NULL: absent */
	struct sb_settings_place at; /* where a message about an absent key points */
	bool demand;             /* required settings must be there */
};

struct reader {
	struct sb_settings_ctx ctx;
	yaml_document_t *doc;
};

static int read_mapping(struct reader *rd, const struct mapping *m);

static struct sb_settings_place place_of(const struct reader *rd, const yaml_node_t *node)
{
	return (struct sb_settings_place){ rd->ctx.file, node->start_mark.line + 1, node->start_mark.column + 1 };
}

static bool is_null(const yaml_node_t *node)
{
	static const char *const words[] = { "", "~", "null", "Null", "NULL" };

	if (node->type != YAML_SCALAR_NODE || node->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
		return false;
	for (size_t i = 0; i < SB_COUNT(words); i++)
		if (strcmp((const char *)node->data.scalar.value, words[i]) == 0)
			return true;
	return false;
}

static const char *node_word(const yaml_node_t *node)
{
	switch (node->type) {
	case YAML_SCALAR_NODE:
		return is_null(node) ? "nothing" : "one value";
	case YAML_SEQUENCE_NODE:
		return "a list";
	case YAML_MAPPING_NODE:
		return "a mapping";
	case YAML_NO_NODE:
		break;
	}
	return "nothing";
}

static int fail_at(struct reader *rd, struct sb_settings_place at, const char *reason)
{
	return sb_settings_fail(&rd->ctx, &at, "%s", reason);
}

static int fail_type(struct reader *rd, const yaml_node_t *node, const char *wanted)
{
	struct sb_settings_place at = place_of(rd, node);

	return sb_settings_fail(&rd->ctx, &at, "must be %s, not %s", wanted, node_word(node));
}

/* Lengthens the path by a key; returns the length before, for path_pop. */
static size_t path_push(struct reader *rd, const char *key)
{
	size_t n = strlen(rd->ctx.path);

	/* depth and keys are the table's, so it fits; an unknown key of the file may be cut: it is for a message */
	(void)snprintf(rd->ctx.path + n, sizeof(rd->ctx.path) - n, "%s%.80s", n > 0 ? "." : "", key);
	return n;
}

static size_t path_push_index(struct reader *rd, size_t index)
{
	size_t n = strlen(rd->ctx.path);

	(void)snprintf(rd->ctx.path + n, sizeof(rd->ctx.path) - n, "[%zu]", index);
	return n;
}

static void path_pop(struct reader *rd, size_t n)
{
	rd->ctx.path[n] = '\0';
}

/* ---- environment ---- */

/* NULL when there is none, or none may be. */
static const char *from_environment(struct reader *rd, const struct sb_setting *row, char *name, size_t size)
{
	const char *value;
	size_t n = 3;

	if (rd->ctx.in_list > 0 || row->type == SB_SET_SECRET || (row->flags & SB_SET_FILE_ONLY) != 0)
		return NULL;
	(void)snprintf(name, size, "SB_%s", rd->ctx.path); /* size is the path's and more */
	for (; name[n] != '\0'; n++)
		name[n] = name[n] == '.' || name[n] == '-' ? '_' : (char)toupper((unsigned char)name[n]);
	value = getenv(name);
	return value != NULL && value[0] != '\0' ? value : NULL;
}

/* ---- one setting ---- */

static int scalar_text(struct reader *rd, const struct sb_setting *row, const yaml_node_t *node, const char **ret)
{
	bool quoted;

	if (node->type != YAML_SCALAR_NODE)
		return fail_type(rd, node, row->type == SB_SET_STRINGS ? "a list of strings" : "one value");
	if (is_null(node))
		return fail_at(rd, place_of(rd, node), "has no value");
	if (memchr(node->data.scalar.value, '\0', node->data.scalar.length) != NULL)
		return fail_at(rd, place_of(rd, node), "holds a NUL character");
	quoted = node->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
	if (quoted && (row->type == SB_SET_INT || row->type == SB_SET_BOOL))
		return fail_at(rd, place_of(rd, node), row->type == SB_SET_INT ? "must be a whole number without quotes" :
									  "must be true or false without quotes");
	*ret = (const char *)node->data.scalar.value;
	return SB_OK;
}

static int read_strings(
	struct reader *rd, const struct sb_setting *row, struct sb_strings *field, const yaml_node_t *node)
{
	struct sb_settings_place at = place_of(rd, node);

	if (node->type != YAML_SEQUENCE_NODE)
		return fail_type(rd, node, "a list of strings");
	for (const yaml_node_item_t *it = node->data.sequence.items.start; it < node->data.sequence.items.top; it++) {
		const yaml_node_t *item = yaml_document_get_node(rd->doc, *it);
		const char *text = NULL;
		size_t n = path_push_index(rd, field->count);
		int r = scalar_text(rd, row, item, &text);
		if (r < 0)
			return r;
		if (sb_settings_append(field, text, strlen(text)) < 0)
			return sb_fail_nomem(rd->ctx.err);
		path_pop(rd, n);
	}
	return sb_settings_check_count(&rd->ctx, row, field->count, &at);
}

static int read_value(struct reader *rd, const struct sb_setting *row, void *field, const yaml_node_t *node)
{
	struct sb_settings_place at = place_of(rd, node);
	const char *text = NULL;
	int r;

	if (row->type == SB_SET_STRINGS)
		return read_strings(rd, row, field, node);
	r = scalar_text(rd, row, node, &text);
	return r < 0 ? r : sb_settings_set(&rd->ctx, row, field, text, &at);
}

static int read_list(struct reader *rd, const struct sb_setting *row, struct sb_list *list, const yaml_node_t *node)
{
	struct sb_settings_place at = place_of(rd, node);
	size_t count;
	int r;

	if (node->type != YAML_SEQUENCE_NODE)
		return fail_type(rd, node, "a list of mappings");
	count = (size_t)(node->data.sequence.items.top - node->data.sequence.items.start);
	r = sb_settings_check_count(&rd->ctx, row, count, &at);
	if (r < 0 || count == 0)
		return r;
	list->item = calloc(count, row->item_size);
	if (list->item == NULL)
		return sb_fail_nomem(rd->ctx.err);
	rd->ctx.in_list++;
	for (size_t i = 0; i < count; i++) {
		const yaml_node_t *item = yaml_document_get_node(rd->doc, node->data.sequence.items.start[i]);
		struct mapping m = { row->sub, (char *)list->item + i * row->item_size, item, place_of(rd, item), true };
		size_t n = path_push_index(rd, i);
		list->count = i + 1; /* so that a release reaches the half-read one */
		if (item->type != YAML_MAPPING_NODE)
			return fail_type(rd, item, "a mapping");
		r = read_mapping(rd, &m);
		if (r < 0)
			return r;
		path_pop(rd, n);
	}
	rd->ctx.in_list--;
	return SB_OK;
}

static int read_group(
	struct reader *rd, const struct sb_setting *row, const struct mapping *parent, const yaml_node_t *node)
{
	struct mapping m = { row->sub, sb_setting_field(parent->base, row), NULL, parent->at, parent->demand };

	if (node == NULL) {
		if ((row->flags & SB_SET_REQUIRED) != 0 && parent->demand)
			return fail_at(rd, parent->at, "is required, but missing");
		m.demand = parent->demand && (row->flags & SB_SET_OPTIONAL) == 0;
		return read_mapping(rd, &m);
	}
	m.at = place_of(rd, node);
	if (node->type == YAML_MAPPING_NODE)
		m.node = node;
	else if (!is_null(node)) /* a group whose lines are all commented out is an empty one */
		return fail_type(rd, node, "a mapping");
	return read_mapping(rd, &m);
}

static int read_row(struct reader *rd, const struct sb_setting *row, const struct mapping *m, const yaml_node_t *node)
{
	char variable[SB_SETTINGS_PATH_MAX + 4];
	struct sb_settings_place built_in = { "default", 0, 0 };
	void *field = sb_setting_field(m->base, row);
	const char *text;

	if (row->type == SB_SET_GROUP)
		return read_group(rd, row, m, node);
	if (row->type == SB_SET_LIST && node != NULL)
		return read_list(rd, row, field, node);
	if (row->type != SB_SET_LIST) {
		text = from_environment(rd, row, variable, sizeof(variable));
		if (text != NULL) {
			struct sb_settings_place at = { variable, 0, 0 };
			if (!sb_utf8_ok(text, strlen(text)))
				return sb_settings_fail(&rd->ctx, &at, "is not UTF-8");
			return sb_settings_set(&rd->ctx, row, field, text, &at);
		}
		if (node != NULL)
			return read_value(rd, row, field, node);
		if (row->dflt != NULL)
			return sb_settings_set(&rd->ctx, row, field, row->dflt, &built_in);
	}
	if ((row->flags & SB_SET_REQUIRED) != 0 && m->demand)
		return fail_at(rd, m->at, "is required, but missing");
	return SB_OK;
}

/* ---- mappings ---- */

static const struct sb_setting *find_row(const struct sb_setting *table, const char *key)
{
	for (; table->key != NULL; table++)
		if (strcmp(table->key, key) == 0)
			return table;
	return NULL;
}

/* The first pair from `start` on with that key; NULL when there is none. */
static const yaml_node_pair_t *find_pair(
	struct reader *rd, const yaml_node_t *mapping, const yaml_node_pair_t *start, const char *key)
{
	for (const yaml_node_pair_t *p = start; p < mapping->data.mapping.pairs.top; p++) {
		const yaml_node_t *node = yaml_document_get_node(rd->doc, p->key);
		if (node->type == YAML_SCALAR_NODE && strcmp((const char *)node->data.scalar.value, key) == 0)
			return p;
	}
	return NULL;
}

/* All keys are known and there once. Ends at the first that is not, so a hostile file costs no more than table times
 * table. */
static int check_keys(struct reader *rd, const struct mapping *m)
{
	const yaml_node_pair_t *first = m->node->data.mapping.pairs.start;

	for (const yaml_node_pair_t *p = first; p < m->node->data.mapping.pairs.top; p++) {
		const yaml_node_t *node = yaml_document_get_node(rd->doc, p->key);
		struct sb_settings_place at = place_of(rd, node);
		const yaml_node_pair_t *same;
		const char *key;
		size_t n;
		if (node->type != YAML_SCALAR_NODE) {
			(void)path_push(rd, "?");
			return fail_type(rd, node, "a key");
		}
		key = (const char *)node->data.scalar.value;
		n = path_push(rd, key);
		if (strcmp(key, "<<") == 0)
			return sb_settings_fail(&rd->ctx, &at, "merges are refused");
		if (find_row(m->table, key) == NULL || strlen(key) != node->data.scalar.length)
			return sb_settings_fail(&rd->ctx, &at, "unknown key");
		same = find_pair(rd, m->node, first, key);
		if (same != NULL && same != p)
			return sb_settings_fail(&rd->ctx, &at, "duplicate of line %zu",
						place_of(rd, yaml_document_get_node(rd->doc, same->key)).line);
		path_pop(rd, n);
	}
	return SB_OK;
}

static int read_mapping(struct reader *rd, const struct mapping *m)
{
	int r = m->node != NULL ? check_keys(rd, m) : SB_OK;

	for (const struct sb_setting *row = m->table; r == SB_OK && row->key != NULL; row++) {
		const yaml_node_pair_t *pair = NULL;
		size_t n = path_push(rd, row->key);
		if (m->node != NULL)
			pair = find_pair(rd, m->node, m->node->data.mapping.pairs.start, row->key);
		r = read_row(rd, row, m, pair != NULL ? yaml_document_get_node(rd->doc, pair->value) : NULL);
		if (r == SB_OK)
			path_pop(rd, n);
	}
	return r;
}

/* ---- whole files ---- */

static int read_document(struct reader *rd, const struct sb_setting *table, void *out)
{
	const yaml_node_t *root = yaml_document_get_root_node(rd->doc);
	struct mapping m = { table, out, root, { rd->ctx.file, 1, 1 }, true };

	if (root != NULL && is_null(root))
		m.node = NULL;
	else if (root != NULL && root->type != YAML_MAPPING_NODE) {
		(void)path_push(rd, "yaml");
		return fail_type(rd, root, "a mapping");
	}
	return read_mapping(rd, &m);
}

int sb_settings_read(struct sb_settings_ctx *ctx, const struct sb_setting *table, void *out, const char *yaml, size_t n)
{
	yaml_document_t doc;
	yaml_parser_t parser;
	int r = sb_settings_prescan(ctx, yaml, n);

	if (r < 0)
		return r;
	if (!yaml_parser_initialize(&parser))
		return sb_fail_nomem(ctx->err);
	yaml_parser_set_input_string(&parser, (const unsigned char *)yaml, n);
	if (!yaml_parser_load(&parser, &doc)) {
		r = sb_settings_yaml_error(ctx, &parser, yaml, n);
	} else {
		struct reader rd = { *ctx, &doc };
		r = read_document(&rd, table, out);
		yaml_document_delete(&doc);
	}
	yaml_parser_delete(&parser);
	return r;
}
