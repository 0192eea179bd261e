/* The adapter of libcrypto. Pure; any thread. */
#include "stagebridge/hash.h"

#include <openssl/evp.h>
#include <sodium.h>

#define LARGE 4096 /* below, looking up the algorithm costs more than it saves */

void sb_sha256(uint8_t out[32], const void *p, size_t n)
{
	unsigned len = 32;

	/* the fall-back also serves when libcrypto cannot: out of memory, or a policy of the machine's */
	if (n >= LARGE && EVP_Digest(p, n, out, &len, EVP_sha256(), NULL) == 1)
		return;
	crypto_hash_sha256(out, p, n);
}
