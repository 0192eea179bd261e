/* Topic names both ways. */
#include <check.h>
#include <string.h>

#include "stagebridge/topic.h"
#include "support.h"

START_TEST(test_round_trip)
{
	char name[SB_TOPIC_MAX];
	struct sb_topic t;
	struct sb_error err = SB_ERROR_INIT;

	for (int d = SB_UP; d <= SB_DOWN; d++) {
		for (int c = 0; c < SB_CLASS_COUNT; c++) {
			sb_topic_name(name, "acme", "pre-prod", (enum sb_direction)d, (enum sb_class)c);
			ck_assert_int_eq(sb_topic_parse(name, &t, &err), 0);
			ck_assert_str_eq(t.tenant, "acme");
			ck_assert_str_eq(t.stage, "pre-prod");
			ck_assert_int_eq((int)t.direction, d);
			ck_assert_int_eq((int)t.class, c);
		}
	}
	sb_topic_name(name, "acme", "dev", SB_UP, SB_ENTITY);
	ck_assert_str_eq(name, "sb.acme.dev.up.entity.v1");
	sb_topic_name(name, "acme", "dev", SB_DOWN, SB_DATA);
	ck_assert_str_eq(name, "sb.acme.dev.down.data.v1");
}
END_TEST

START_TEST(test_longest_names)
{
	static const char longest[] = "a234567890123456789012345678901";
	char name[SB_TOPIC_MAX];
	struct sb_topic t;

	ck_assert_uint_eq(strlen(longest), SB_NAME_MAX);
	sb_topic_name(name, longest, longest, SB_DOWN, SB_ENTITY);
	ck_assert_int_eq(sb_topic_parse(name, &t, NULL), 0);
	ck_assert_str_eq(t.stage, longest);
}
END_TEST

static const char *const bad[] = {
	"",
	"sb",
	"sb.acme.dev.up.entity",
	"sb.acme.dev.up.entity.v1.",
	"sb.acme.dev.up.entity.v1.x",
	"sb.acme.dev.up.entity.v2",
	"xx.acme.dev.up.entity.v1",
	"sb..dev.up.entity.v1",
	"sb.acme..up.entity.v1",
	"sb.Acme.dev.up.entity.v1",
	"sb.acme.dev_1.up.entity.v1",
	"sb.acme.dev.side.entity.v1",
	"sb.acme.dev.up.command.v1",
	"sb.acme.dev.up..v1",
	"sb.acme.hub.event.v1",
	"sb.acme.hub.up.event.v1",
	" sb.acme.dev.up.entity.v1",
	"sb.a2345678901234567890123456789012.dev.up.entity.v1",
	"sb.acme.dev.up.entity."
	"v1aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
};

START_TEST(test_bad)
{
	struct sb_topic t = { .tenant = "untouched" };
	struct sb_error err = SB_ERROR_INIT;

	ck_assert_int_eq(sb_topic_parse(bad[_i], &t, &err), SB_EPROTO);
	ck_assert_str_eq(t.tenant, "untouched");
	ck_assert_uint_gt(strlen(err.msg), 0);
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("topic");
	tcase_add_test(tc, test_round_trip);
	tcase_add_test(tc, test_longest_names);
	tcase_add_loop_test(tc, test_bad, 0, (int)SB_COUNT(bad));
	Suite *s = suite_create("topic");
	suite_add_tcase(s, tc);
	return test_run(s);
}
