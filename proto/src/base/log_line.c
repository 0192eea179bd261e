/* Builds log lines. Any thread: all state is the caller's. The formats are walked here, one conversion at a time,
 * because each value must be quoted on its own: what a %s brings in can neither end its field nor start another. A line
 * never grows beyond SB_LOG_LINE_MAX; what does not fit is cut between characters and the line is marked. */
#include "log_line.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#include "stagebridge/text.h"

#define TAIL_BYTES 24 /* kept free for what ends a cut line */
#define FIELDS_MAX 16

/* One field's value before quoting. */
struct value {
	char text[SB_LOG_LINE_MAX];
	size_t len;
	bool number; /* one plain numeric conversion and nothing else */
	bool cut;
};

void sb_log_line_begin(struct sb_log_line *l, bool json)
{
	l->len = 0;
	l->json = json;
	l->cut = false;
	l->fields = 0;
	if (json)
		l->text[l->len++] = '{';
}

size_t sb_log_line_end(struct sb_log_line *l)
{
	const char *tail = l->json ? (l->cut ? ",\"cut\":true}\n" : "}\n") : (l->cut ? " cut=true\n" : "\n");
	size_t n = strlen(tail);

	memcpy(l->text + l->len, tail, n); /* within TAIL_BYTES */
	return l->len + n;
}

/* ---- quoting ---- */

static bool line_put(struct sb_log_line *l, const char *p, size_t n)
{
	if (l->len + n > sizeof(l->text) - TAIL_BYTES) {
		l->cut = true;
		return false;
	}
	memcpy(l->text + l->len, p, n);
	l->len += n;
	return true;
}

/* Escapes one byte that cannot stand in a quoted value as it is. */
static size_t escape(char out[8], unsigned char c)
{
	static const char plain[] = "\"\\\n\r\t";
	static const char letter[] = "\"\\nrt";
	const char *p = c != 0 ? strchr(plain, c) : NULL;

	if (p != NULL) {
		out[0] = '\\';
		out[1] = letter[p - plain];
		return 2;
	}
	return (size_t)snprintf(out, 8, "\\u%04x", c);
}

static size_t utf8_len(const char *p, size_t n)
{
	for (size_t len = 1; len <= 4 && len <= n; len++)
		if (sb_utf8_ok(p, len))
			return len;
	return 0;
}

/* Cut between characters when it does not fit. false: not even begun. */
static bool line_quoted(struct sb_log_line *l, const char *p, size_t n)
{
	bool fits = true;

	if (!line_put(l, "\"", 1))
		return false;
	for (size_t i = 0; fits && i < n;) {
		char out[8];
		size_t len = utf8_len(p + i, n - i);
		if (len == 0 && p[i] != '\0') {
			fits = line_put(l, "\\ufffd", 6);
		} else if (len <= 1 && ((unsigned char)p[i] < ' ' || p[i] == '"' || p[i] == '\\' || p[i] == 0x7f)) {
			size_t k = escape(out, (unsigned char)p[i]);
			fits = line_put(l, out, k);
		} else {
			fits = line_put(l, p + i, len);
		}
		i += len == 0 ? 1 : len;
	}
	l->text[l->len++] = '"'; /* within TAIL_BYTES */
	return true;
}

static bool needs_quotes(const char *p, size_t n)
{
	if (n == 0 || !sb_utf8_ok(p, n))
		return true;
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)p[i] <= ' ' || p[i] == 0x7f || p[i] == '"' || p[i] == '\\' || p[i] == '=')
			return true;
	return false;
}

static bool line_value(struct sb_log_line *l, const char *p, size_t n, bool number)
{
	bool plain = l->json ? number : !needs_quotes(p, n);

	if (plain && (number || l->len + n <= sizeof(l->text) - TAIL_BYTES))
		return line_put(l, p, n);
	return line_quoted(l, p, n); /* a long plain value too: it is cut inside its quotes */
}

/* A cut value stays, as far as it fits; a field without room for its key and a value goes. */
void sb_log_line_field(struct sb_log_line *l, const char *key, size_t key_len, const char *p, size_t n, bool number)
{
	size_t start = l->len;
	bool begun;

	if (l->cut)
		return;
	if (l->json)
		begun = line_put(l, ",", l->len > 1 ? 1 : 0) && line_quoted(l, key, key_len) && !l->cut &&
			line_put(l, ":", 1);
	else
		begun = line_put(l, " ", l->len > 0 ? 1 : 0) && line_put(l, key, key_len) && line_put(l, "=", 1);
	if (!begun || !line_value(l, p, n, number))
		l->len = start;
}

void sb_log_line_string(struct sb_log_line *l, const char *key, const char *s)
{
	sb_log_line_field(l, key, strlen(key), s, strlen(s), false);
}

/* ---- the format walk ---- */

static void value_put(struct value *v, const char *p, size_t n)
{
	size_t room = sizeof(v->text) - v->len;

	if (n > room) {
		n = room;
		v->cut = true;
	}
	memcpy(v->text + v->len, p, n);
	v->len += n;
}

struct spec {
	bool left, zero, plus;
	int width;
	int precision; /* -1: none */
	enum { SIZE_INT, SIZE_CHAR, SIZE_SHORT, SIZE_LONG, SIZE_LLONG, SIZE_SIZE, SIZE_MAX_T, SIZE_PTRDIFF } size;
	char conv;
};

static int spec_number(const char **f, struct sb_log_args *a)
{
	int n = 0;

	if (**f == '*') {
		(*f)++;
		return va_arg(a->ap, int);
	}
	for (; **f >= '0' && **f <= '9'; (*f)++)
		if (n < SB_LOG_LINE_MAX)
			n = n * 10 + (**f - '0');
	return n;
}

/* Reads what follows a '%'; f ends behind the conversion letter. */
static void spec_parse(struct spec *s, const char **f, struct sb_log_args *a)
{
	*s = (struct spec){ .precision = -1, .size = SIZE_INT };
	for (; **f != '\0' && strchr("-+ #0", **f) != NULL; (*f)++) {
		s->left = s->left || **f == '-';
		s->zero = s->zero || **f == '0';
		s->plus = s->plus || **f == '+';
	}
	s->width = spec_number(f, a);
	if (s->width < 0) {
		s->left = true;
		s->width = s->width == INT_MIN ? 0 : -s->width;
	}
	if (**f == '.') {
		(*f)++;
		s->precision = spec_number(f, a);
	}
	for (;; (*f)++) {
		if (**f == 'l')
			s->size = s->size == SIZE_LONG ? SIZE_LLONG : SIZE_LONG;
		else if (**f == 'h')
			s->size = s->size == SIZE_SHORT ? SIZE_CHAR : SIZE_SHORT;
		else if (**f == 'z')
			s->size = SIZE_SIZE;
		else if (**f == 'j')
			s->size = SIZE_MAX_T;
		else if (**f == 't')
			s->size = SIZE_PTRDIFF;
		else
			break;
	}
	s->conv = **f;
	if (**f != '\0')
		(*f)++;
}

static long long arg_signed(const struct spec *s, struct sb_log_args *a)
{
	switch (s->size) {
	case SIZE_INT:
		return va_arg(a->ap, int);
	case SIZE_CHAR:
		return (signed char)va_arg(a->ap, int);
	case SIZE_SHORT:
		return (short)va_arg(a->ap, int);
	case SIZE_LONG:
		return va_arg(a->ap, long);
	case SIZE_LLONG:
		return va_arg(a->ap, long long);
	case SIZE_SIZE:
		return va_arg(a->ap, ssize_t);
	case SIZE_MAX_T:
		return va_arg(a->ap, intmax_t);
	case SIZE_PTRDIFF:
		return va_arg(a->ap, ptrdiff_t);
	}
	return 0;
}

static unsigned long long arg_unsigned(const struct spec *s, struct sb_log_args *a)
{
	switch (s->size) {
	case SIZE_INT:
		return va_arg(a->ap, unsigned);
	case SIZE_CHAR:
		return (unsigned char)va_arg(a->ap, unsigned);
	case SIZE_SHORT:
		return (unsigned short)va_arg(a->ap, unsigned);
	case SIZE_LONG:
		return va_arg(a->ap, unsigned long);
	case SIZE_LLONG:
		return va_arg(a->ap, unsigned long long);
	case SIZE_SIZE:
		return va_arg(a->ap, size_t);
	case SIZE_MAX_T:
		return va_arg(a->ap, uintmax_t);
	case SIZE_PTRDIFF:
		return (unsigned long long)va_arg(a->ap, ptrdiff_t);
	}
	return 0;
}

/* Puts converted text into its width. Zeros go between sign and digits, and only before numbers. */
static void put_padded(struct value *v, const struct spec *s, const char *p, size_t n, bool number)
{
	size_t width = (size_t)s->width;
	bool zero = number && s->zero && !s->left;
	size_t sign = zero && n > 0 && (*p == '-' || *p == '+') ? 1 : 0;

	value_put(v, p, sign);
	for (size_t i = n; !s->left && i < width && !v->cut; i++)
		value_put(v, zero ? "0" : " ", 1);
	value_put(v, p + sign, n - sign);
	for (size_t i = n; s->left && i < width && !v->cut; i++)
		value_put(v, " ", 1);
}

/* One conversion. false: a letter that we do not know, so the place in the arguments is lost. */
static bool convert(struct value *v, const struct spec *s, struct sb_log_args *a)
{
	char out[512]; /* DBL_MAX with 100 decimals */
	bool number = true;
	int n = 0, decimals = s->precision < 0 ? 6 : s->precision > 100 ? 100 : s->precision;
	const char *str;
	double d;

	switch (s->conv) {
	case 'd':
	case 'i':
		n = snprintf(out, sizeof(out), s->plus ? "%+lld" : "%lld", arg_signed(s, a));
		break;
	case 'u':
		n = snprintf(out, sizeof(out), "%llu", arg_unsigned(s, a));
		break;
	case 'x':
	case 'X':
		n = snprintf(out, sizeof(out), s->conv == 'x' ? "%llx" : "%llX", arg_unsigned(s, a));
		v->number = false;
		break;
	case 'f':
	case 'g':
		d = va_arg(a->ap, double);
		if (s->conv == 'f')
			n = snprintf(out, sizeof(out), "%.*f", decimals, d);
		else
			n = snprintf(out, sizeof(out), "%.*g", decimals, d);
		v->number = v->number && isfinite(d);
		break;
	case 'c':
		out[0] = (char)va_arg(a->ap, int);
		n = 1;
		number = false;
		break;
	case 's':
		str = va_arg(a->ap, const char *);
		str = str != NULL ? str : "";
		v->number = false;
		put_padded(v, s, str, s->precision >= 0 ? strnlen(str, (size_t)s->precision) : strlen(str), false);
		return true;
	default:
		return false;
	}
	v->number = v->number && number && s->width == 0 && !s->plus;
	put_padded(v, s, out, n < 0 ? 0 : (size_t)n, number);
	return true;
}

/* One "key=..." of the format; returns what follows it, NULL when the walk cannot go on. */
static const char *walk_field(struct sb_log_line *l, const char *f, struct sb_log_args *a)
{
	const char *key = f;
	size_t key_len = strcspn(f, "= ");
	struct value v;
	struct spec s;
	unsigned conversions = 0, others = 0;

	v.len = 0;
	v.number = true;
	v.cut = false;
	f += key_len;
	if (*f == '=')
		f++;
	while (*f != '\0' && *f != ' ') {
		if (*f != '%') {
			value_put(&v, f++, 1);
			others++;
		} else if (f[1] == '%') {
			value_put(&v, "%", 1);
			f += 2;
			others++;
		} else {
			f++;
			spec_parse(&s, &f, a);
			if (!convert(&v, &s, a))
				return NULL;
			conversions++;
		}
	}
	sb_log_line_field(l, key, key_len, v.text, v.len, v.number && conversions == 1 && others == 0);
	l->cut = l->cut || v.cut;
	return f;
}

void sb_log_line_walk(struct sb_log_line *l, const char *fmt, struct sb_log_args *a)
{
	for (const char *f = fmt; f != NULL && *f != '\0';) {
		if (*f == ' ') {
			f++;
			continue;
		}
		if (l->cut || l->fields++ == FIELDS_MAX) {
			l->cut = true;
			return;
		}
		f = walk_field(l, f, a);
		if (f == NULL)
			sb_log_line_string(l, "badformat", fmt);
	}
}

