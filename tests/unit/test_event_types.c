/* The table of record types, and that the contract's documents follow it. Runs in the repository's root. */
#include <check.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "stagebridge/event_types.h"
#include "stagebridge/file.h"
#include "support.h"

START_TEST(test_info)
{
	const struct sb_event_info *info = sb_event_info((enum sb_event)_i);
	char type[128];

	ck_assert_int_eq(sb_format(type, sizeof(type), NULL, "stagebridge.%s.v1", info->name), 0);
	ck_assert_str_eq(info->type, type);
	ck_assert_int_eq(sb_event_find(type), _i);
	/* what is not JSON is a batch or a chunk */
	ck_assert(info->has_schema || info->class != SB_EVENT);
}
END_TEST

START_TEST(test_unknown)
{
	ck_assert_int_eq(sb_event_find(""), -1);
	ck_assert_int_eq(sb_event_find("stagebridge.entity.changed.v2"), -1);
	ck_assert_int_eq(sb_event_find("stagebridge.entity.changed"), -1);
	ck_assert_int_eq(sb_event_find("entity.changed"), -1);
}
END_TEST

START_TEST(test_schema_file)
{
	const struct sb_event_info *info = sb_event_info((enum sb_event)_i);
	struct stat st;
	char path[128];

	ck_assert_int_eq(sb_format(path, sizeof(path), NULL, "proto/schemas/%s.json", info->name), 0);
	ck_assert_msg((stat(path, &st) == 0) == info->has_schema, "%s: file and table differ", path);
}
END_TEST

static void names_each(const char *path)
{
	struct sb_error err = SB_ERROR_INIT;
	char *text = NULL;
	size_t n;

	ck_assert_msg(sb_file_read(path, 1 << 20, &text, &n, &err) == 0, "%s", err.msg);
	for (int i = 0; i < SB_EV_COUNT; i++)
		ck_assert_msg(strstr(text, sb_event_info((enum sb_event)i)->name), "%s does not name %s", path,
			sb_event_info((enum sb_event)i)->name);
	free(text);
}

START_TEST(test_documents)
{
	names_each("proto/SPEC.md");
	names_each("proto/asyncapi.yaml");
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("event_types");

	tcase_add_loop_test(tc, test_info, 0, SB_EV_COUNT);
	tcase_add_loop_test(tc, test_schema_file, 0, SB_EV_COUNT);
	tcase_add_test(tc, test_unknown);
	tcase_add_test(tc, test_documents);
	Suite *s = suite_create("event_types");
	suite_add_tcase(s, tc);
	return test_run(s);
}
