/* Walks over an object without building it. It trusts the text only in so far as it never leaves it: text that is no object ends in SB_EPROTO. Pure. */
#include "json_fields.h"

#include <string.h>

#include "stagebridge/json.h"

static const char *skip_space(const char *p, const char *end)
{
	while (p < end && memchr(" \t\r\n", *p, 4))
		p++;
	return p;
}

/* Behind the closing quote; NULL: there is none. p is at the opening one. */
static const char *skip_string(const char *p, const char *end)
{
	for (p++; p < end; p++) {
		if (*p == '\\')
			p++;
		else if (*p == '"')
			return p + 1;
	}
	return NULL;
}

/* Behind a value: of an object or array the closing bracket, of others the last byte before what ends it. */
static const char *skip_value(const char *p, const char *end)
{
	unsigned depth = 0;

	while (p < end) {
		if (*p == '"') {
			p = skip_string(p, end);
			if (!p || depth == 0)
				return p;
			continue;
		}
		if (*p == '{' || *p == '[') {
			depth++;
		} else if (*p == '}' || *p == ']') {
			if (depth <= 1)
				return depth ? p + 1 : p;
			depth--;
		} else if (depth == 0 && memchr(", \t\r\n", *p, 5)) {
			return p;
		}
		p++;
	}
	return depth ? NULL : p;
}

int json_text(const char *raw, size_t n, struct sb_buf *out, struct sb_error *err)
{
	if (n < 2 || raw[0] != '"' || raw[n - 1] != '"')
		return sb_fail(err, SB_EPROTO, "is not a JSON string");
	if (!memchr(raw, '\\', n)) {
		sb_buf_add(out, raw + 1, n - 2);
		return sb_buf_check(out, "text", err);
	}
	json_error_t why;
	json_auto_t *text = json_loadb(raw, n, JSON_DECODE_ANY, &why);
	if (!json_is_string(text))
		return sb_fail(err, SB_EPROTO, "is not a JSON string");
	sb_buf_add(out, json_string_value(text), json_string_length(text));
	return sb_buf_check(out, "text", err);
}

static int member(const char **at, const char *end, struct sb_buf *name, struct json_field *f, struct sb_error *err)
{
	const char *p = *at, *stop = p < end && *p == '"' ? skip_string(p, end) : NULL;

	if (!stop)
		return sb_fail(err, SB_EPROTO, "is not a JSON object");
	sb_buf_reset(name);
	int r = json_text(p, (size_t)(stop - p), name, err);
	if (r < 0)
		return r;
	p = skip_space(stop, end);
	if (p == end || *p != ':')
		return sb_fail(err, SB_EPROTO, "is not a JSON object");
	p = skip_space(p + 1, end);
	stop = skip_value(p, end);
	if (!stop || stop == p)
		return sb_fail(err, SB_EPROTO, "is not a JSON object");
	*f = (struct json_field){ .name = name->data, .name_n = name->len, .raw = p, .raw_n = (size_t)(stop - p) };
	*at = skip_space(stop, end);
	return 0;
}

int json_fields(const char *p, size_t n, int (*fn)(void *user, const struct json_field *f, struct sb_error *err), void *user, struct sb_error *err)
{
	sb_cleanup(sb_buf_release) struct sb_buf name = { 0 };
	const char *end = p + n;
	struct json_field f;
	int r = 0;

	sb_buf_init(&name, n + 1);
	p = skip_space(p, end);
	if (p == end || *p != '{')
		return sb_fail(err, SB_EPROTO, "is not a JSON object");
	p = skip_space(p + 1, end);
	while (r == 0 && p < end && *p != '}') {
		r = member(&p, end, &name, &f, err);
		if (r == 0)
			r = fn(user, &f, err);
		if (r == 0 && p < end && *p == ',')
			p = skip_space(p + 1, end);
		else if (r == 0 && (p == end || *p != '}'))
			r = sb_fail(err, SB_EPROTO, "is not a JSON object");
	}
	return r == 0 && p == end ? sb_fail(err, SB_EPROTO, "is not a JSON object") : r;
}
