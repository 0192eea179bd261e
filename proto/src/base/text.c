/* Strict text, pure functions. Any thread; owns nothing. Base64 and randomness are libsodium's. */
#include "stagebridge/text.h"

#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "stagebridge/clock.h"

#define BRANCH_MAX 200
#define SHOWN 60 /* bytes of a refused input that a message repeats */

static bool is_lower(char c)
{
	return c >= 'a' && c <= 'z';
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool word_ok(const char *s, size_t max, bool underscore)
{
	size_t n = 0;

	if (s == NULL || !is_lower(s[0]))
		return false;
	for (; s[n] != '\0'; n++)
		if (n == max || !(is_lower(s[n]) || is_digit(s[n]) || s[n] == '-' || (underscore && s[n] == '_')))
			return false;
	return true;
}

bool sb_name_ok(const char *s)
{
	return word_ok(s, SB_NAME_MAX, false);
}

bool sb_type_ok(const char *s)
{
	return word_ok(s, SB_TYPE_MAX, true);
}

/* One part of a branch name between slashes: not empty, not ".x", not "x.lock". */
static bool branch_part_ok(const char *p, size_t n)
{
	static const char lock[] = ".lock";
	size_t k = sizeof(lock) - 1;

	return n > 0 && p[0] != '.' && !(n >= k && memcmp(p + n - k, lock, k) == 0);
}

bool sb_branch_ok(const char *s)
{
	size_t n, part = 0;

	if (s == NULL)
		return false;
	n = strnlen(s, BRANCH_MAX + 1);
	if (n == 0 || n > BRANCH_MAX || s[0] == '-' || s[n - 1] == '.' || !sb_utf8_ok(s, n))
		return false;
	if (strcmp(s, "@") == 0 || strcmp(s, "HEAD") == 0 || strstr(s, "..") != NULL || strstr(s, "@{") != NULL)
		return false;
	for (size_t i = 0; i <= n; i++) {
		unsigned char c = (unsigned char)s[i];
		if (c == '/' || c == '\0') {
			if (!branch_part_ok(s + part, i - part))
				return false;
			part = i + 1;
		} else if (c <= ' ' || c == 0x7f || strchr("~^:?*[\\", c) != NULL) {
			return false;
		}
	}
	return true;
}

/* Length of the well-formed character at p (no NUL), 0 when there is none. */
static size_t utf8_char(const unsigned char *p, size_t n)
{
	size_t len;
	unsigned char low = 0x80, high = 0xbf; /* of the second byte: narrower after some first bytes */

	if (p[0] < 0x80)
		return p[0] != 0;
	if (p[0] >= 0xc2 && p[0] <= 0xdf)
		len = 2;
	else if (p[0] >= 0xe0 && p[0] <= 0xef)
		len = 3;
	else if (p[0] >= 0xf0 && p[0] <= 0xf4)
		len = 4;
	else
		return 0;
	if (len > n)
		return 0;
	if (p[0] == 0xe0)
		low = 0xa0; /* shorter forms exist */
	else if (p[0] == 0xed)
		high = 0x9f; /* surrogates */
	else if (p[0] == 0xf0)
		low = 0x90;
	else if (p[0] == 0xf4)
		high = 0x8f; /* above U+10FFFF */
	if (p[1] < low || p[1] > high)
		return 0;
	for (size_t i = 2; i < len; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	return len;
}

bool sb_utf8_ok(const char *p, size_t n)
{
	const unsigned char *u = (const unsigned char *)p;

	for (size_t i = 0; i < n;) {
		uint64_t w;
		/* eight ASCII characters at once: none with the high bit, none zero */
		if (n - i >= sizeof(w)) {
			memcpy(&w, u + i, sizeof(w));
			if (((w | (w - 0x0101010101010101u)) & 0x8080808080808080u) == 0) {
				i += sizeof(w);
				continue;
			}
		}
		size_t len = utf8_char(u + i, n - i);
		if (len == 0)
			return false;
		i += len;
	}
	return true;
}

void sb_text_tidy(char *s)
{
	size_t n = strlen(s);

	for (size_t i = 0; i < n;) {
		size_t len = utf8_char((const unsigned char *)s + i, n - i);
		if (len == 0)
			s[i] = '?';
		else if (len == 1 && ((unsigned char)s[i] < ' ' || s[i] == 0x7f))
			s[i] = ' ';
		i += len == 0 ? 1 : len;
	}
	while (n > 0 && s[n - 1] == ' ')
		s[--n] = '\0';
}

static int hex_value(char c)
{
	if (is_digit(c))
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool sb_hex_ok(const char *s, size_t digits)
{
	if (s == NULL)
		return false;
	for (size_t i = 0; i < digits; i++)
		if (hex_value(s[i]) < 0)
			return false;
	return s[digits] == '\0';
}

/* Digits from s on; what stands behind them is at *ret_end. false: no digit at all, or above UINT64_MAX. */
static bool parse_digits(const char *s, uint64_t *ret, const char **ret_end, bool *ret_overflow)
{
	uint64_t value = 0;
	size_t n = 0;

	*ret_overflow = false;
	for (; is_digit(s[n]); n++)
		if (__builtin_mul_overflow(value, (uint64_t)10, &value) ||
		    __builtin_add_overflow(value, (uint64_t)(s[n] - '0'), &value))
			*ret_overflow = true;
	*ret = value;
	*ret_end = s + n;
	return n > 0 && !*ret_overflow;
}

int sb_parse_u64(const char *s, uint64_t min, uint64_t max, const char *what, uint64_t *ret, struct sb_error *err)
{
	uint64_t value = 0;
	const char *end = "";
	bool overflow = false;

	if (s == NULL)
		return sb_fail(err, SB_EINVAL, "%s: no number given", what);
	if (!parse_digits(s, &value, &end, &overflow) && !overflow)
		return sb_fail(err, SB_EINVAL, "%s: \"%.*s\" is not a whole number", what, SHOWN, s);
	if (*end != '\0')
		return sb_fail(err, SB_EINVAL, "%s: \"%.*s\" is not a whole number", what, SHOWN, s);
	if (overflow || value < min || value > max)
		return sb_fail(err, SB_EINVAL, "%s: %.*s is outside %llu..%llu", what, SHOWN, s,
			(unsigned long long)min, (unsigned long long)max);
	*ret = value;
	return SB_OK;
}

int sb_parse_i64(const char *s, int64_t min, int64_t max, const char *what, int64_t *ret, struct sb_error *err)
{
	uint64_t value = 0, limit;
	int64_t number = 0;
	const char *end = "";
	bool negative, overflow = false;

	if (s == NULL)
		return sb_fail(err, SB_EINVAL, "%s: no number given", what);
	negative = s[0] == '-';
	if ((!parse_digits(s + negative, &value, &end, &overflow) && !overflow) || *end != '\0')
		return sb_fail(err, SB_EINVAL, "%s: \"%.*s\" is not a whole number", what, SHOWN, s);
	limit = (uint64_t)INT64_MAX + (negative ? 1 : 0);
	if (!overflow && value <= limit)
		number = !negative ? (int64_t)value : value == limit ? INT64_MIN : -(int64_t)value;
	if (overflow || value > limit || number < min || number > max)
		return sb_fail(err, SB_EINVAL, "%s: %.*s is outside %lld..%lld", what, SHOWN, s, (long long)min,
			       (long long)max);
	*ret = number;
	return SB_OK;
}

struct unit {
	const char *name;
	uint64_t factor;
};

/* "<digits><unit>"; SB_EINVAL for another form, SB_ETOOBIG above max. Says nothing: the callers know the words. */
static int parse_unit(const char *s, const struct unit *units, size_t count, uint64_t max, uint64_t *ret)
{
	uint64_t value = 0;
	const char *end = "";
	bool overflow = false;

	if (s == NULL || (!parse_digits(s, &value, &end, &overflow) && !overflow))
		return SB_EINVAL;
	for (size_t i = 0; i < count; i++) {
		if (strcmp(end, units[i].name) != 0)
			continue;
		if (overflow || __builtin_mul_overflow(value, units[i].factor, &value) || value > max)
			return SB_ETOOBIG;
		*ret = value;
		return SB_OK;
	}
	return SB_EINVAL;
}

int sb_parse_duration_ms(const char *s, const char *what, int64_t *ret, struct sb_error *err)
{
	static const struct unit units[] = { { "ms", 1 }, { "s", 1000 }, { "m", 60000 }, { "h", 3600000 },
		{ "d", 86400000 } };
	uint64_t ms = 0;
	int r = parse_unit(s, units, SB_COUNT(units), INT64_MAX, &ms);

	if (r == SB_ETOOBIG)
		return sb_fail(err, SB_EINVAL, "%s: \"%.*s\" is too long a time", what, SHOWN, s);
	if (r < 0)
		return sb_fail(err, SB_EINVAL, "%s: \"%.*s\" is not a duration such as 250ms, 10s, 5m, 2h or 30d", what,
			SHOWN, s != NULL ? s : "");
	*ret = (int64_t)ms;
	return SB_OK;
}

int sb_parse_size(const char *s, const char *what, uint64_t *ret, struct sb_error *err)
{
	static const struct unit units[] = { { "", 1 }, { "KiB", 1u << 10 }, { "MiB", 1u << 20 }, { "GiB", 1u << 30 } };
	uint64_t bytes = 0;
	int r = parse_unit(s, units, SB_COUNT(units), UINT64_MAX, &bytes);

	if (r == SB_ETOOBIG)
		return sb_fail(err, SB_EINVAL, "%s: \"%.*s\" is too large a size", what, SHOWN, s);
	if (r < 0)
		return sb_fail(err, SB_EINVAL, "%s: \"%.*s\" is not a size such as 512, 64KiB, 8MiB or 2GiB", what,
			SHOWN, s != NULL ? s : "");
	*ret = bytes;
	return SB_OK;
}

void sb_hex(char *out, const uint8_t *p, size_t n)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < n; i++) {
		out[2 * i] = digits[p[i] >> 4];
		out[2 * i + 1] = digits[p[i] & 15];
	}
	out[2 * n] = '\0';
}

int sb_unhex(uint8_t *out, size_t n, const char *hex, struct sb_error *err)
{
	if (!sb_hex_ok(hex, 2 * n))
		return sb_fail(err, SB_EINVAL, "not %zu lower-case hex digits", 2 * n);
	for (size_t i = 0; i < n; i++)
		out[i] = (uint8_t)(hex_value(hex[2 * i]) << 4 | hex_value(hex[2 * i + 1]));
	return SB_OK;
}

char *sb_base64(const uint8_t *p, size_t n)
{
	size_t size;
	char *out;

	if (n > (SIZE_MAX - 4) / 4 * 3)
		return NULL;
	size = (n + 2) / 3 * 4 + 1;
	out = malloc(size);
	if (out != NULL)
		(void)sodium_bin2base64(out, size, p, n, sodium_base64_VARIANT_ORIGINAL); /* returns out */
	return out;
}

int sb_unbase64(uint8_t *out, size_t n, const char *s, struct sb_error *err)
{
	size_t got = 0;

	/* the length first, so that a refused text leaves out as it was unless its letters are wrong */
	if (s == NULL || strlen(s) != (n + 2) / 3 * 4)
		return sb_fail(err, SB_EINVAL, "not the base64 of %zu bytes", n);
	if (sodium_base642bin(out, n, s, strlen(s), NULL, &got, NULL, sodium_base64_VARIANT_ORIGINAL) != 0 ||
		got != n) {
		if (n > 0)
			memset(out, 0, n);
		return sb_fail(err, SB_EINVAL, "not the base64 of %zu bytes", n);
	}
	return SB_OK;
}

int sb_format(char *out, size_t size, struct sb_error *err, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(out, size, fmt, ap);
	va_end(ap);
	if (n >= 0 && (size_t)n < size)
		return SB_OK;
	if (size > 0)
		out[0] = '\0';
	return sb_fail(err, SB_ETOOBIG, "text of %d bytes does not fit into %zu", n, size > 0 ? size - 1 : 0);
}

char *sb_strdup(const char *s)
{
	size_t n;
	char *copy;

	if (s == NULL)
		return NULL;
	n = strlen(s) + 1;
	copy = malloc(n);
	if (copy != NULL)
		memcpy(copy, s, n);
	return copy;
}

char *sb_asprintf(const char *fmt, ...)
{
	va_list ap;
	char *out;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0)
		return NULL;
	out = malloc((size_t)n + 1);
	if (out == NULL)
		return NULL;
	va_start(ap, fmt);
	(void)vsnprintf(out, (size_t)n + 1, fmt, ap); /* measured above: it fits */
	va_end(ap);
	return out;
}

/* Without i, l, o, u: in ASCII order, so that ids sort by their time, and hard to misread. */
static const char id_digits[] = "0123456789abcdefghjkmnpqrstvwxyz";

void sb_id_new(char out[SB_ID_LEN + 1])
{
	uint64_t ms = (uint64_t)sb_wall_ms() & 0xffffffffffffu;
	uint8_t dice[10];
	uint64_t bits = 0;
	unsigned have = 0;
	size_t at = 10;

	if (sodium_init() < 0) /* idempotent; fails only where the kernel gives no entropy: no id can be had then */
		sodium_misuse(); /* does not return */
	randombytes_buf(dice, sizeof(dice));
	for (size_t i = 0; i < 10; i++)
		out[i] = id_digits[ms >> (45 - 5 * i) & 31];
	for (size_t i = 0; i < sizeof(dice); i++) {
		bits = bits << 8 | dice[i];
		for (have += 8; have >= 5; have -= 5)
			out[at++] = id_digits[bits >> (have - 5) & 31];
	}
	out[SB_ID_LEN] = '\0';
}

bool sb_id_ok(const char *s)
{
	if (s == NULL || s[0] < '0' || s[0] > '7') /* 26 digits hold 130 bits: two are always zero */
		return false;
	for (size_t i = 0; i < SB_ID_LEN; i++)
		if (s[i] == '\0' || strchr(id_digits, s[i]) == NULL)
			return false;
	return s[SB_ID_LEN] == '\0';
}
