/* Prints answers: aligned tables for people, JSON for programs. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli.h"
#include "stagebridge/buf.h"
#include "stagebridge/clock.h"
#include "stagebridge/promotion.h"

#define COLUMNS_MAX 12
#define CELL_MAX 200

const char *cli_str(const json_t *object, const char *key)
{
	const char *s = json_string_value(json_object_get(object, key));

	return s ? s : "";
}

int cli_exit_of(const char *state)
{
	int s = sb_promotion_state_find(state);

	return s < 0 ? 4 : sb_promotion_exit((enum sb_promotion_state)s);
}

/* "2026-03-02T09:15:01..." or PostgreSQL's "2026-03-02 09:15:01.2+00" -> "5m", "3h", "12d" */
static void age(char *out, size_t size, const char *stamp)
{
	struct tm tm = { 0 };
	const char *rest = strptime(stamp, "%Y-%m-%d", &tm);
	int64_t s;

	out[0] = '\0';
	if (!rest || (*rest != 'T' && *rest != ' ') || !strptime(rest + 1, "%H:%M:%S", &tm))
		return;
	s = sb_wall_ms() / 1000 - (int64_t)timegm(&tm);
	if (s < 0)
		s = 0;
	if (s < 120)
		(void)snprintf(out, size, "%" PRId64 "s", s);
	else if (s < 7200)
		(void)snprintf(out, size, "%" PRId64 "m", s / 60);
	else if (s < 172800)
		(void)snprintf(out, size, "%" PRId64 "h", s / 3600);
	else
		(void)snprintf(out, size, "%" PRId64 "d", s / 86400);
}

static void list(char *out, size_t size, const json_t *value)
{
	size_t used = 0, i;
	json_t *item;

	out[0] = '\0';
	json_array_foreach(value, i, item)
	{
		const char *s = json_is_string(item) ? json_string_value(item) : cli_str(item, "name");
		int n = snprintf(out + used, size - used, "%s%s", used ? "," : "", s);

		if (n < 0 || (size_t)n >= size - used)
			return;
		used += (size_t)n;
	}
}

static void cell(char *out, size_t size, const json_t *item, const struct cli_column *c)
{
	const json_t *v = json_object_get(item, c->key);
	const char *s = json_string_value(v);

	out[0] = '\0';
	if (c->form == CLI_LIST)
		list(out, size, v);
	else if (c->form == CLI_AGE)
		age(out, size, s ? s : "");
	else if (s)
		(void)snprintf(out, size, c->form == CLI_SHORT ? "%.12s" : "%s", s);
	else if (json_is_integer(v))
		(void)snprintf(out, size, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
	else if (json_is_number(v))
		(void)snprintf(out, size, "%.1f", json_number_value(v));
	else if (json_is_boolean(v))
		(void)snprintf(out, size, "%s", json_is_true(v) ? "yes" : "no");
	if (!*out)
		(void)snprintf(out, size, "-");
}

/* Columns of a terminal that a UTF-8 text takes, near enough: code points. */
static int width(const char *s)
{
	int n = 0;

	for (; *s; s++)
		n += ((unsigned char)*s & 0xC0) != 0x80;
	return n;
}

static void pad(const char *s, int to, bool last)
{
	fputs(s, stdout);
	for (int n = width(s); !last && n < to + 2; n++)
		fputc(' ', stdout);
}

void cli_show(const struct cli *cli, const json_t *answer, const struct cli_column *columns)
{
	const json_t *items = json_object_get(answer, "items");
	int wide[COLUMNS_MAX] = { 0 };
	char text[CELL_MAX];
	size_t i, n = 0;
	json_t *item;

	if (cli->output == CLI_JSON) {
		(void)json_dumpf(answer, stdout, JSON_INDENT(2));
		fputc('\n', stdout);
		return;
	}
	for (; columns[n].header && n < COLUMNS_MAX; n++) {
		wide[n] = width(columns[n].header);
		json_array_foreach(items, i, item)
		{
			cell(text, sizeof(text), item, &columns[n]);
			if (width(text) > wide[n])
				wide[n] = width(text);
		}
	}
	for (size_t c = 0; c < n; c++)
		pad(columns[c].header, wide[c], c + 1 == n);
	fputc('\n', stdout);
	json_array_foreach(items, i, item)
	{
		for (size_t c = 0; c < n; c++) {
			cell(text, sizeof(text), item, &columns[c]);
			pad(text, wide[c], c + 1 == n);
		}
		fputc('\n', stdout);
	}
	if (json_array_size(items) == 0)
		fprintf(stderr, "(none)\n");
}

void cli_say(const struct cli *cli, const json_t *answer, const char *fmt, ...)
{
	va_list ap;

	if (cli->output == CLI_JSON) {
		(void)json_dumpf(answer, stdout, JSON_INDENT(2));
		fputc('\n', stdout);
		return;
	}
	va_start(ap, fmt);
	(void)vprintf(fmt, ap);
	va_end(ap);
	fputc('\n', stdout);
}
