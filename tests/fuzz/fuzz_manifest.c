/* Manifests of transfers: what parses must be written as the same JSON, and hold its own limits. */
#include <stdint.h>

#include "stagebridge/carrier.h"
#include "stagebridge/json.h"

#include "fuzz_driver.h"

#define MAX_BYTES (UINT64_C(1) << 40)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sb_manifest m = { .meta = NULL };
	json_auto_t *json = NULL;

	if (sb_json_load_object(&json, data, size, "manifest", NULL) < 0)
		return 0;
	if (sb_manifest_parse(&m, json, MAX_BYTES, NULL) == 0) {
		json_auto_t *again = sb_manifest_json(&m);
		if (!json_equal(json, again) || m.plain_bytes > MAX_BYTES || m.chunks == 0)
			abort();
		sb_manifest_release(&m);
	}
	return 0;
}
