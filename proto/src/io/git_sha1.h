/* SHA-1 for the checksum at the end of a pack. Private to proto/src/io; not for anything that must resist forgery. */
#ifndef STAGEBRIDGE_GIT_SHA1_H
#define STAGEBRIDGE_GIT_SHA1_H

#include "stagebridge/base.h"

struct sb_sha1 {
	uint32_t h[5];
	uint64_t bytes;
	uint8_t block[64];
};

void sb_sha1_init(struct sb_sha1 *s);
void sb_sha1_add(struct sb_sha1 *s, const void *p, size_t n);
void sb_sha1_final(struct sb_sha1 *s, uint8_t out[20]);

#endif
