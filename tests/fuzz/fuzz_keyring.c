/* Keyrings: as an envelope from anybody, and as a payload that the root has signed, so that the content is reached too. */
#include <stdint.h>
#include <string.h>

#include "devkeys.h"

#include "fuzz_driver.h"

static struct devkeys keys;

static void drop_keys(void)
{
	devkeys_release(&keys);
}

static void need_keys(void)
{
	if (keys.keyring)
		return;
	devkeys_make(&keys);
	(void)atexit(drop_keys); /* leaves a folder in /tmp at worst */
}

static void parse(const char *text, size_t n)
{
	struct sb_keyring *kr = NULL;

	if (sb_keyring_parse(&kr, text, n, keys.root_pk, DEVKEYS_NOW_MS, NULL) < 0)
		return;
	const struct sb_key *dev = sb_keyring_party(kr, DEVKEYS_TENANT, "dev", DEVKEYS_NOW_MS);
	if (sb_keyring_version(kr) == 0 || (dev && sb_keyring_find(kr, dev->kid) != dev))
		abort();
	sb_keyring_free(kr);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t sig[64];

	need_keys();
	parse((const char *)data, size);

	sb_identity_sign(keys.root, SB_PAYLOAD_KEYRING, data, size, sig);
	sb_cleanup(sb_freep) char *body64 = sb_base64(data, size);
	sb_cleanup(sb_freep) char *sig64 = sb_base64(sig, sizeof(sig));
	sb_cleanup(sb_freep) char *text = sb_asprintf(
		"{\"payloadType\":\"%s\",\"payload\":\"%s\",\"signatures\":[{\"sig\":\"%s\"}]}", SB_PAYLOAD_KEYRING, body64, sig64);
	if (text)
		parse(text, strlen(text));
	return 0;
}
