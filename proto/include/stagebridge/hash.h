/* SHA-256 (FIPS 180-4) of what is in memory: by libcrypto, which uses the processor's instructions for it, four times as fast as portable code. */
#ifndef STAGEBRIDGE_HASH_H
#define STAGEBRIDGE_HASH_H

#include "stagebridge/base.h"

/** Any thread. p may be NULL when n is 0. */
void sb_sha256(uint8_t out[32], const void *p, size_t n);

#endif
