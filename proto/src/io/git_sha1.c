/*
 * SHA-1 (FIPS 180-4). A pack ends with it, libgit2 does not export its own, and libsodium has none; it guards against
 * damage only, every record that carries a pack is signed. Pure; any thread.
 */
#include "git_sha1.h"

#include <string.h>

void sb_sha1_init(struct sb_sha1 *s)
{
	*s = (struct sb_sha1){ .h = { 0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0 } };
}

static uint32_t rotate(uint32_t x, unsigned n)
{
	return x << n | x >> (32 - n);
}

static void compress(struct sb_sha1 *s)
{
	uint32_t w[80], a = s->h[0], b = s->h[1], c = s->h[2], d = s->h[3], e = s->h[4];

	for (size_t i = 0; i < 16; i++)
		w[i] = (uint32_t)s->block[4 * i] << 24 | (uint32_t)s->block[4 * i + 1] << 16 | (uint32_t)s->block[4 * i + 2] << 8 |
		       s->block[4 * i + 3];
	for (size_t i = 16; i < 80; i++)
		w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
	for (size_t i = 0; i < 80; i++) {
		uint32_t f, k;

		if (i < 20) {
			f = (b & c) | (~b & d);
			k = 0x5a827999;
		} else if (i < 40) {
			f = b ^ c ^ d;
			k = 0x6ed9eba1;
		} else if (i < 60) {
			f = (b & c) | (b & d) | (c & d);
			k = 0x8f1bbcdc;
		} else {
			f = b ^ c ^ d;
			k = 0xca62c1d6;
		}
		uint32_t t = rotate(a, 5) + f + e + k + w[i];
		e = d;
		d = c;
		c = rotate(b, 30);
		b = a;
		a = t;
	}
	s->h[0] += a;
	s->h[1] += b;
	s->h[2] += c;
	s->h[3] += d;
	s->h[4] += e;
}

void sb_sha1_add(struct sb_sha1 *s, const void *p, size_t n)
{
	const uint8_t *in = p;

	while (n > 0) {
		size_t at = (size_t)(s->bytes % sizeof(s->block)), k = sizeof(s->block) - at;

		if (k > n)
			k = n;
		memcpy(s->block + at, in, k);
		s->bytes += k;
		in += k;
		n -= k;
		if (at + k == sizeof(s->block))
			compress(s);
	}
}

void sb_sha1_final(struct sb_sha1 *s, uint8_t out[20])
{
	uint64_t bits = s->bytes * 8;
	uint8_t length[8];

	for (size_t i = 0; i < 8; i++)
		length[i] = (uint8_t)(bits >> (56 - 8 * i));
	sb_sha1_add(s, "\x80", 1);
	while (s->bytes % sizeof(s->block) != 56)
		sb_sha1_add(s, "", 1); /* a zero byte */
	sb_sha1_add(s, length, sizeof(length));
	for (size_t i = 0; i < 20; i++)
		out[i] = (uint8_t)(s->h[i / 4] >> (24 - 8 * (i % 4)));
}
