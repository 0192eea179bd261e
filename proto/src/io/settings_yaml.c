/* Settings, the look at YAML before it is read: what the loaded document would no longer show (anchors, tags) or what
 * would cost too much to load (depth) is refused on libyaml's event stream. Main thread; owns nothing. */
#include "settings_internal.h"

#include <stdio.h>
#include <string.h>
#include <yaml.h>

#include "settings_yaml.h"

#define DEPTH_MAX 16

static size_t line_at(const char *yaml, size_t n, size_t offset)
{
	size_t line = 1;

	for (size_t i = 0; i < n && i < offset; i++)
		line += yaml[i] == '\n';
	return line;
}

int sb_settings_yaml_error(struct sb_settings_ctx *ctx, const yaml_parser_t *parser, const char *yaml, size_t n)
{
	struct sb_settings_place at = { ctx->file, parser->problem_mark.line + 1, parser->problem_mark.column + 1 };
	const char *problem = parser->problem != NULL ? parser->problem : "cannot be read";

	if (parser->error == YAML_MEMORY_ERROR)
		return sb_fail_nomem(ctx->err);
	if (parser->error == YAML_READER_ERROR) /* has no mark, only a place in the bytes */
		at = (struct sb_settings_place){ ctx->file, line_at(yaml, n, parser->problem_offset), 0 };
	(void)snprintf(ctx->path, sizeof(ctx->path), "yaml"); /* no setting is known here */
	if (parser->context != NULL)
		return sb_settings_fail(ctx, &at, "%s (%s)", problem, parser->context);
	return sb_settings_fail(ctx, &at, "%s", problem);
}

/* Names the culprit in place of a setting: "&base: anchors are refused". */
static int refuse(
	struct sb_settings_ctx *ctx, const yaml_event_t *event, const char *mark, const void *name, const char *reason)
{
	struct sb_settings_place at = { ctx->file, event->start_mark.line + 1, event->start_mark.column + 1 };

	(void)snprintf(ctx->path, sizeof(ctx->path), "%s%.60s", mark,
		(const char *)name); /* for the message only: may be cut */
	return sb_settings_fail(ctx, &at, "%s", reason);
}

static int check_node(
	struct sb_settings_ctx *ctx, const yaml_event_t *event, const yaml_char_t *anchor, const yaml_char_t *tag)
{
	if (anchor != NULL)
		return refuse(ctx, event, "&", anchor, "anchors are refused");
	if (tag != NULL)
		return refuse(ctx, event, "", tag, "tags are refused");
	return SB_OK;
}

struct scan {
	unsigned documents;
	unsigned depth;
};

static int check_event(struct sb_settings_ctx *ctx, const yaml_event_t *event, struct scan *scan)
{
	int r = SB_OK;

	switch (event->type) {
	case YAML_DOCUMENT_START_EVENT:
		if (++scan->documents > 1)
			return refuse(ctx, event, "---", "", "only one document is allowed");
		if (event->data.document_start.tag_directives.start != event->data.document_start.tag_directives.end)
			return refuse(ctx, event, "%TAG", "", "tags are refused");
		return SB_OK;
	case YAML_ALIAS_EVENT:
		return refuse(ctx, event, "*", event->data.alias.anchor, "aliases are refused");
	case YAML_SCALAR_EVENT:
		return check_node(ctx, event, event->data.scalar.anchor, event->data.scalar.tag);
	case YAML_SEQUENCE_START_EVENT:
		r = check_node(ctx, event, event->data.sequence_start.anchor, event->data.sequence_start.tag);
		scan->depth++;
		break;
	case YAML_MAPPING_START_EVENT:
		r = check_node(ctx, event, event->data.mapping_start.anchor, event->data.mapping_start.tag);
		scan->depth++;
		break;
	case YAML_SEQUENCE_END_EVENT:
	case YAML_MAPPING_END_EVENT:
		scan->depth--;
		break;
	case YAML_NO_EVENT:
	case YAML_STREAM_START_EVENT:
	case YAML_STREAM_END_EVENT:
	case YAML_DOCUMENT_END_EVENT:
		break;
	}
	if (r == SB_OK && scan->depth > DEPTH_MAX)
		return refuse(ctx, event, "yaml", "", "is nested too deep");
	return r;
}

int sb_settings_prescan(struct sb_settings_ctx *ctx, const char *yaml, size_t n)
{
	struct scan scan = { 0 };
	yaml_parser_t parser;
	yaml_event_t event;
	bool end = false;
	int r = SB_OK;

	if (!yaml_parser_initialize(&parser))
		return sb_fail_nomem(ctx->err);
	yaml_parser_set_input_string(&parser, (const unsigned char *)yaml, n);
	while (r == SB_OK && !end) {
		if (!yaml_parser_parse(&parser, &event)) {
			r = sb_settings_yaml_error(ctx, &parser, yaml, n);
			break;
		}
		r = check_event(ctx, &event, &scan);
		end = event.type == YAML_STREAM_END_EVENT;
		yaml_event_delete(&event);
	}
	yaml_parser_delete(&parser);
	ctx->path[0] = r == SB_OK ? '\0' : ctx->path[0];
	return r;
}

/* One step of a path, "[3]" or "key" with an optional dot before: the node below, NULL when there is none. *path moves behind the step. */
static yaml_node_t *descend(yaml_document_t *doc, const yaml_node_t *node, const char **path)
{
	const char *p = **path == '.' ? *path + 1 : *path;
	size_t len = *p == '[' ? strcspn(p, "]") + 1 : strcspn(p, ".[");
	uint64_t index = 0;

	*path = p + (len <= strlen(p) ? len : strlen(p));
	if (*p == '[') {
		for (const char *d = p + 1; *d >= '0' && *d <= '9' && index < UINT32_MAX; d++)
			index = index * 10 + (uint64_t)(*d - '0');
		if (node->type != YAML_SEQUENCE_NODE || index >= (uint64_t)(node->data.sequence.items.top - node->data.sequence.items.start))
			return NULL;
		return yaml_document_get_node(doc, node->data.sequence.items.start[index]);
	}
	if (node->type != YAML_MAPPING_NODE)
		return NULL;
	for (const yaml_node_pair_t *pair = node->data.mapping.pairs.start; pair < node->data.mapping.pairs.top; pair++) {
		const yaml_node_t *key = yaml_document_get_node(doc, pair->key);
		if (key->type == YAML_SCALAR_NODE && key->data.scalar.length == len && memcmp(key->data.scalar.value, p, len) == 0)
			return yaml_document_get_node(doc, pair->value);
	}
	return NULL;
}

void sb_settings_where(const char *yaml, size_t n, const char *path, size_t *ret_line, size_t *ret_column)
{
	yaml_document_t doc;
	yaml_parser_t parser;

	*ret_line = *ret_column = 1;
	if (!yaml_parser_initialize(&parser))
		return;
	yaml_parser_set_input_string(&parser, (const unsigned char *)yaml, n);
	if (yaml_parser_load(&parser, &doc)) {
		for (const yaml_node_t *node = yaml_document_get_root_node(&doc); node; node = *path ? descend(&doc, node, &path) : NULL) {
			*ret_line = node->start_mark.line + 1;
			*ret_column = node->start_mark.column + 1;
		}
		yaml_document_delete(&doc);
	}
	yaml_parser_delete(&parser);
}
