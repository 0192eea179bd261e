/* Records as a broker may hand them over: first line the topic, then "name: value" lines up to an empty one, then the value. The keyring
 * and the receiver are fixed. */
#include <stdint.h>
#include <string.h>

#include "devkeys.h"
#include "stagebridge/carrier.h"
#include "stagebridge/record.h"

#include "fuzz_driver.h"

static char *line(char **at)
{
	return strsep(at, "\n");
}

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

static void judge(const struct sb_record *rec, const char *dest)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_meta meta;
	const char *transfer;
	uint64_t index, count;

	int r = sb_record_verify(rec, keys.keyring, DEVKEYS_TENANT, dest, DEVKEYS_NOW_MS, &meta, &err);
	/* whoever passes was signed by a key of the ring, and every refusal has a class */
	if (r == 0 && (!meta.signer || !meta.stream || meta.event < 0))
		abort();
	if (r < 0 && err.state[0] == '\0')
		abort();
	if (sb_chunk_index(rec, &transfer, &index, &count, &err) == 0 && (index >= count || !sb_id_ok(transfer)))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sb_record rec;
	struct sb_error err = SB_ERROR_INIT;
	char *text = malloc(size + 1);
	char *at = text, *l, *head_end;

	need_keys();
	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	head_end = strstr(text, "\n\n");
	if (head_end)
		*head_end = '\0';
	l = line(&at);
	sb_record_init(&rec, l ? l : "");
	while ((l = line(&at))) {
		char *value = l;
		const char *name = strsep(&value, ":");
		/* an adapter sets such a record aside; here the rest goes on */
		if (sb_record_set(&rec, name, value && *value == ' ' ? value + 1 : "", &err) < 0)
			continue;
	}
	if (head_end) {
		rec.value = head_end + 2;
		rec.value_len = size - (size_t)(head_end + 2 - text);
	}
	judge(&rec, "hub");
	judge(&rec, "train");
	free(text);
	return 0;
}
