/* Gitea's webhook: the signature covers the body alone, so what it says is a hint and nothing more. */
#include <sodium.h>
#include <string.h>

#include "forge.h"
#include "stagebridge/text.h"

bool hub_webhook_ok(const uint8_t *secret, size_t secret_len, const void *body, size_t n, const char *signature_hex)
{
	crypto_auth_hmacsha256_state st;
	uint8_t want[32], got[32];
	struct sb_error ignored = SB_ERROR_INIT;

	if (secret_len == 0 || !signature_hex || !sb_hex_ok(signature_hex, 64) || sb_unhex(got, sizeof(got), signature_hex, &ignored) < 0)
		return false;
	(void)crypto_auth_hmacsha256_init(&st, secret, secret_len);
	(void)crypto_auth_hmacsha256_update(&st, body, n);
	(void)crypto_auth_hmacsha256_final(&st, want);
	return sodium_memcmp(want, got, sizeof(want)) == 0;
}
