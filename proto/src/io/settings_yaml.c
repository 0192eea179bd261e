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
	struct sb_settings_place at = { ctx->file, parser->problem_mark.line + 1 };
	const char *problem = parser->problem != NULL ? parser->problem : "cannot be read";

	if (parser->error == YAML_MEMORY_ERROR)
		return sb_fail_nomem(ctx->err);
	if (parser->error == YAML_READER_ERROR) /* has no mark, only a place in the bytes */
		at.line = line_at(yaml, n, parser->problem_offset);
	(void)snprintf(ctx->path, sizeof(ctx->path), "yaml"); /* no setting is known here */
	if (parser->context != NULL)
		return sb_settings_fail(ctx, &at, "%s (%s)", problem, parser->context);
	return sb_settings_fail(ctx, &at, "%s", problem);
}

/* Names the culprit in place of a setting: "&base: anchors are refused". */
static int refuse(
	struct sb_settings_ctx *ctx, const yaml_event_t *event, const char *mark, const void *name, const char *reason)
{
	struct sb_settings_place at = { ctx->file, event->start_mark.line + 1 };

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
