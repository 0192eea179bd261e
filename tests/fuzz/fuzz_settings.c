/* Any bytes as a settings file: they are refused with one clean line, or what they say prints and reads back to the
 * same. */
#include "fuzz_driver.h"

#include <stdlib.h>
#include <string.h>

#include "settings_sample.h"
#include "stagebridge/text.h"

static void must(int holds)
{
	if (!holds)
		abort();
}

static void check_refusal(const struct sample *s, const struct sb_error *err)
{
	const struct sample zero = { 0 };

	must(err->code == SB_ECONFIG && memcmp(s, &zero, sizeof(zero)) == 0);
	must(strncmp(err->msg, "fuzz:", 5) == 0 && sb_utf8_ok(err->msg, strlen(err->msg)) &&
		strchr(err->msg, '\n') == NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sample s = { 0 }, again = { 0 };
	struct sb_error err = SB_ERROR_INIT;
	struct sb_buf first, second;

	if (sb_settings_parse(sample_table, &s, (const char *)data, size, "fuzz", &err) < 0) {
		check_refusal(&s, &err);
		return 0;
	}
	sb_buf_init(&first, 16u << 20);
	sb_buf_init(&second, 16u << 20);
	sb_settings_print(sample_table, &s, &first);
	must(sb_buf_check(&first, "settings", &err) == SB_OK);
	must(sb_settings_parse(sample_table, &again, first.data, first.len, "fuzz", &err) == SB_OK);
	sb_settings_print(sample_table, &again, &second);
	must(first.len == second.len && memcmp(first.data, second.data, first.len) == 0);
	sb_settings_release(sample_table, &s);
	sb_settings_release(sample_table, &again);
	sb_buf_release(&first);
	sb_buf_release(&second);
	return 0;
}
