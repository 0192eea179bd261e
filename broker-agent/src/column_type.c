/* The table of column types. The parsers are strict on purpose: leading zeros, signs in front, spaces, exponents and local forms of dates are text. Pure. */
#include "column_type.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#define DIGITS_MAX 1000 /* of a numeric: far within what PostgreSQL holds */

static bool digit(char c)
{
	return c >= '0' && c <= '9';
}

static size_t digits(const char *p, size_t n)
{
	size_t k = 0;

	while (k < n && digit(p[k]))
		k++;
	return k;
}

static bool is(const char *p, size_t n, const char *what)
{
	return n == strlen(what) && memcmp(p, what, n) == 0;
}

/* --- booleans --- */

static bool exact_boolean(const char *p, size_t n)
{
	return is(p, n, "true") || is(p, n, "false");
}

static bool accepts_boolean(const char *p, size_t n)
{
	return exact_boolean(p, n) || is(p, n, "t") || is(p, n, "f");
}

/* --- numbers --- */

/* The part before a point: "0", or digits that begin with none; a minus in front. Returns its length, 0: not one. */
static size_t whole_part(const char *p, size_t n)
{
	size_t sign = n && *p == '-', k = digits(p + sign, n - sign);

	return k == 0 || (k > 1 && p[sign] == '0') ? 0 : sign + k;
}

/* Not above the decimal number in limit, which has as many digits as the type's largest. */
static bool within(const char *p, size_t n, const char *most, const char *least)
{
	const char *limit = *p == '-' ? least : most;
	size_t sign = *p == '-', k = strlen(limit);

	if (whole_part(p, n) != n || is(p, n, "-0"))
		return false;
	return n - sign != k ? n - sign < k : memcmp(p + sign, limit, k) <= 0;
}

static bool is_smallint(const char *p, size_t n)
{
	return n && within(p, n, "32767", "32768");
}

static bool is_integer(const char *p, size_t n)
{
	return n && within(p, n, "2147483647", "2147483648");
}

static bool is_bigint(const char *p, size_t n)
{
	return n && within(p, n, "9223372036854775807", "9223372036854775808");
}

static bool is_numeric(const char *p, size_t n)
{
	size_t whole = whole_part(p, n), fraction = 0;

	if (whole == 0 || n > DIGITS_MAX)
		return false;
	if (whole < n) {
		if (p[whole] != '.')
			return false;
		fraction = digits(p + whole + 1, n - whole - 1);
		if (fraction == 0 || whole + 1 + fraction != n)
			return false;
	}
	return *p != '-' || strspn(p + 1, "0.") < n - 1; /* there is no negative zero */
}

static bool is_double(const char *p, size_t n)
{
	char text[64], *end = NULL;

	if (is(p, n, "NaN") || is(p, n, "Infinity") || is(p, n, "-Infinity"))
		return true;
	if (n == 0 || n >= sizeof(text) || strspn(p, "0123456789+-.eE") < n || !(digit(*p) || *p == '-') || (*p == '-' && (n == 1 || !digit(p[1]))))
		return false;
	memcpy(text, p, n);
	text[n] = '\0';
	errno = 0;
	double v = strtod(text, &end);
	return *end == '\0' && isfinite(v) && !(errno == ERANGE && v == 0);
}

/* --- dates and times --- */

static unsigned number(const char *p, unsigned n)
{
	unsigned v = 0;

	for (unsigned i = 0; i < n; i++)
		v = v * 10 + (unsigned)(p[i] - '0');
	return v;
}

static bool is_date(const char *p, size_t n)
{
	static const unsigned char length[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };

	if (n != 10 || digits(p, 4) != 4 || p[4] != '-' || digits(p + 5, 2) != 2 || p[7] != '-' || digits(p + 8, 2) != 2)
		return false;
	unsigned y = number(p, 4), m = number(p + 5, 2), d = number(p + 8, 2);
	bool leap = (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
	return y > 0 && m >= 1 && m <= 12 && d >= 1 && d <= length[m - 1] + (m == 2 && leap ? 1u : 0u);
}

/* "2026-03-02 09:15:01.25": its length, 0 when it is not one. separators: what may stand between date and time. */
static size_t moment(const char *p, size_t n, const char *separators)
{
	size_t fraction;

	if (n < 19 || !is_date(p, 10) || !strchr(separators, p[10]) || p[10] == '\0')
		return 0;
	const char *t = p + 11;
	if (digits(t, 2) != 2 || t[2] != ':' || digits(t + 3, 2) != 2 || t[5] != ':' || digits(t + 6, 2) != 2)
		return 0;
	if (number(t, 2) > 23 || number(t + 3, 2) > 59 || number(t + 6, 2) > 59)
		return 0;
	if (n == 19 || p[19] != '.')
		return 19;
	fraction = digits(p + 20, n - 20);
	return fraction >= 1 && fraction <= 6 ? 20 + fraction : 0;
}

static bool is_timestamp(const char *p, size_t n)
{
	return n && moment(p, n, " T") == n;
}

/* With a zone that leaves no doubt about the moment. */
static bool accepts_timestamptz(const char *p, size_t n)
{
	size_t at = moment(p, n, " T");
	const char *z = p + at;

	if (at == 0)
		return false;
	if (n - at == 1)
		return *z == 'Z';
	if ((n - at != 3 && n - at != 6) || (*z != '+' && *z != '-') || digits(z + 1, 2) != 2 || number(z + 1, 2) > 14)
		return false;
	return n - at == 3 || (z[3] == ':' && digits(z + 4, 2) == 2 && number(z + 4, 2) < 60);
}

/* As PostgreSQL writes it in UTC. */
static bool exact_timestamptz(const char *p, size_t n)
{
	size_t at = moment(p, n, " ");

	return at != 0 && is(p + at, n - at, "+00") && (at == 19 || p[at - 1] != '0');
}

/* --- the others --- */

static bool is_uuid(const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;
		if (dash ? p[i] != '-' : !digit(p[i]) && !(p[i] >= 'a' && p[i] <= 'f') && !(p[i] >= 'A' && p[i] <= 'F'))
			return false;
	}
	return n == 36;
}

static bool is_text(const char *p, size_t n)
{
	(void)p; /* the readers refuse what is not UTF-8, and NUL */
	(void)n;
	return true;
}

const struct column_type column_types[] = {
	{ "boolean", "boolean", COLUMN_BOOLEAN, 'b', accepts_boolean, exact_boolean },
	{ "bigint", "bigint", COLUMN_BIGINT, 'n', is_bigint, is_bigint },
	{ "numeric", "numeric", COLUMN_NUMERIC, 'n', is_numeric, is_numeric },
	{ "date", "date", COLUMN_DATE, 's', is_date, is_date },
	{ "timestamptz", "timestamp with time zone", COLUMN_TIMESTAMPTZ, 's', accepts_timestamptz, exact_timestamptz },
	{ "text", "text", COLUMN_TEXT, 's', is_text, is_text },
	{ "jsonb", "jsonb", COLUMN_JSONB, '*', is_text, NULL },
	{ "smallint", "smallint", 0, 'n', is_smallint, NULL },
	{ "integer", "integer", 0, 'n', is_integer, NULL },
	{ "double precision", "double precision", 0, 'n', is_double, NULL },
	{ "timestamp", "timestamp without time zone", 0, 's', is_timestamp, NULL },
	{ "uuid", "uuid", 0, 's', is_uuid, NULL },
	{ .name = NULL },
};

const struct column_type *column_type_find(const char *name)
{
	for (const struct column_type *t = column_types; t->name; t++) {
		if (strcmp(t->name, name) == 0)
			return t;
	}
	return NULL;
}

const struct column_type *column_type_of(unsigned fits)
{
	for (const struct column_type *t = column_types; t->name && fits != COLUMN_ANY; t++) {
		if (fits & t->bit)
			return t;
	}
	return column_type_find("text");
}

unsigned column_fits(const char *p, size_t n)
{
	unsigned fits = 0;

	for (const struct column_type *t = column_types; t->name; t++)
		fits |= t->exact && t->exact(p, n) ? t->bit : 0;
	return fits;
}

unsigned column_fits_json(char first, const char *text, size_t n)
{
	char kind = first == '"' ? 's' : first == 't' || first == 'f' ? 'b' : first == '{' || first == '[' ? '*' : 'n';
	unsigned fits = COLUMN_JSONB;

	if (first == 'n')
		return 0;
	for (const struct column_type *t = column_types; t->name; t++)
		fits |= t->json == kind && t->exact && t->exact(text, n) ? t->bit : 0;
	return fits;
}
