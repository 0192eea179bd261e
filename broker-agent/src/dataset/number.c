/* Decimal arithmetic of the generalizing operators. Pure; any thread. */
#include "number.h"

#include <string.h>

__extension__ typedef unsigned __int128 agent_wide;

#define PLACES 9      /* decimals kept */
#define WEIGHT_MAX 26 /* power of ten of the highest digit: doubling and adding a step still fit */
#define EXPONENT_MAX 999

static bool digit(char c)
{
	return c >= '0' && c <= '9';
}

/* [eE][+-]digits up to the end; absent is 0. */
static bool parse_exponent(const char *p, size_t n, int *ret)
{
	int value = 0;
	bool negative;

	*ret = 0;
	if (n == 0)
		return true;
	if (*p != 'e' && *p != 'E')
		return false;
	p++, n--;
	negative = n > 0 && *p == '-';
	if (n > 0 && (*p == '-' || *p == '+'))
		p++, n--;
	if (n == 0)
		return false;
	for (; n > 0; p++, n--) {
		if (!digit(*p))
			return false;
		if (value <= EXPONENT_MAX)
			value = value * 10 + (*p - '0');
	}
	*ret = negative ? -value : value;
	return value <= EXPONENT_MAX;
}

bool agent_fixed_parse(const char *p, size_t n, agent_fixed *ret, bool *ret_exact)
{
	size_t mantissa = 0, digits = 0, whole;
	agent_fixed value = 0;
	bool negative = n > 0 && *p == '-', rest = false, point = false;
	int exponent, weight, last = 1;

	if (n > 0 && (*p == '-' || *p == '+'))
		p++, n--;
	while (mantissa < n && digit(p[mantissa]))
		mantissa++;
	whole = mantissa;
	if (mantissa < n && p[mantissa] == '.') {
		point = true;
		for (mantissa++; mantissa < n && digit(p[mantissa]); mantissa++)
			digits++;
	}
	digits += whole;
	if (digits == 0 || !parse_exponent(p + mantissa, n - mantissa, &exponent))
		return false;
	weight = (int)(whole > 100000 ? 100000 : whole) - 1 + exponent;
	for (size_t i = 0; i < mantissa; i++) {
		if (point && i == whole)
			continue;
		if (p[i] != '0' && weight > WEIGHT_MAX)
			return false;
		if (weight < -PLACES)
			rest = rest || p[i] != '0';
		else if (weight <= WEIGHT_MAX)
			value = value * 10 + (p[i] - '0'), last = weight;
		weight--;
	}
	/* what the spelling left out down to the last place kept: "12" has nine zeros to come */
	for (; value != 0 && last > -PLACES; last--)
		value *= 10;
	*ret = negative ? -value - (rest ? 1 : 0) : value;
	if (ret_exact)
		*ret_exact = !rest;
	return true;
}

/* Digits of v, least significant first, down from out + at: the decimals without zeros at their end, then the whole part. A division of 128 bits costs many
 * of 64, and nearly all values fit into those. */
static size_t write_digits(char *out, size_t at, agent_wide wide)
{
	uint64_t v = 0;
	bool any = false;

	for (int place = 0; place <= PLACES || wide != 0 || v != 0; place++) {
		unsigned d;
		if (v == 0 && wide <= UINT64_MAX) {
			v = (uint64_t)wide;
			wide = 0;
		}
		if (wide != 0) {
			d = (unsigned)(wide % 10);
			wide /= 10;
		} else {
			d = (unsigned)(v % 10);
			v /= 10;
		}
		if (place == PLACES && any)
			out[--at] = '.';
		any = any || d != 0 || place >= PLACES;
		if (any)
			out[--at] = (char)('0' + d);
	}
	return at;
}

size_t agent_fixed_format(char out[AGENT_FIXED_LEN], agent_fixed v)
{
	char text[AGENT_FIXED_LEN];
	bool negative = v < 0;
	size_t at = write_digits(text, sizeof(text), (agent_wide)(negative ? -v : v)), n;

	if (negative)
		text[--at] = '-';
	n = sizeof(text) - at;
	memcpy(out, text + at, n);
	out[n] = '\0';
	return n;
}

agent_fixed agent_fixed_floor(agent_fixed v, agent_fixed step)
{
	agent_fixed rest = v >= INT64_MIN && v <= INT64_MAX && step <= INT64_MAX ? (int64_t)v % (int64_t)step : v % step;

	return v - (rest < 0 ? rest + step : rest);
}
