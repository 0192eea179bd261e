/* The schemas of the payloads: closed, complete, and their examples hold; what the code writes follows them. In the repository's root. */
#include <check.h>
#include <string.h>

#include "schema.h"
#include "stagebridge/carrier.h"
#include "stagebridge/event_types.h"
#include "stagebridge/promotion.h"
#include "support.h"

/* Every object of the schema with properties is closed and asks for all of them. */
static void ck_closed(const char *name, const json_t *schema)
{
	json_t *properties = json_object_get(schema, "properties"), *required = json_object_get(schema, "required");
	const char *key;
	json_t *v;

	if (json_object_get(schema, "items"))
		ck_closed(name, json_object_get(schema, "items"));
	if (!properties)
		return;
	ck_assert_msg(json_is_false(json_object_get(schema, "additionalProperties")), "%s is open", name);
	ck_assert_msg(json_array_size(required) == json_object_size(properties), "%s does not ask for all", name);
	json_object_foreach(properties, key, v)
	{
		bool found = false;
		for (size_t i = 0; i < json_array_size(required); i++)
			found = found || strcmp(json_string_value(json_array_get(required, i)), key) == 0;
		ck_assert_msg(found, "%s: %s is not required", name, key);
		ck_closed(key, v);
	}
}

START_TEST(test_closed_and_complete)
{
	const struct sb_event_info *info = sb_event_info((enum sb_event)_i);
	char text[128];

	if (!info->has_schema)
		return;
	json_auto_t *schema = schema_load(info->name);
	ck_assert_str_eq(json_string_value(json_object_get(schema, "$schema")), "https://json-schema.org/draft/2020-12/schema");
	ck_assert_int_eq(sb_format(text, sizeof(text), NULL, "urn:stagebridge:schema:%s:v1", info->name), 0);
	ck_assert_str_eq(json_string_value(json_object_get(schema, "$id")), text);
	ck_assert_str_eq(json_string_value(json_object_get(schema, "title")), info->name);
	ck_closed(info->name, schema);
}
END_TEST

/* The example holds; without any one of its keys, with one more, or with a value of another type it does not. */
START_TEST(test_examples)
{
	const struct sb_event_info *info = sb_event_info((enum sb_event)_i);
	char why[256] = "";
	const char *key;
	json_t *v;

	if (!info->has_schema)
		return;
	json_auto_t *schema = schema_load(info->name);
	json_t *example = json_array_get(json_object_get(schema, "examples"), 0);
	ck_assert_msg(schema_holds(schema, example, why), "%s: %s", info->name, why);
	json_object_foreach(example, key, v)
	{
		json_auto_t *damaged = json_deep_copy(example);
		(void)json_object_del(damaged, key);
		ck_assert_msg(!schema_holds(schema, damaged, why), "%s without %s", info->name, key);
		(void)json_object_set_new(damaged, key, json_null());
		ck_assert_msg(!schema_holds(schema, damaged, why), "%s with %s null", info->name, key);
	}
	json_auto_t *more = json_deep_copy(example);
	(void)json_object_set_new(more, "one_more", json_true());
	ck_assert(!schema_holds(schema, more, why));
}
END_TEST

START_TEST(test_manifest)
{
	struct sb_manifest m = { .meta = NULL };
	struct sb_error err = SB_ERROR_INIT;
	json_auto_t *schema = schema_load("transfer.offered");
	json_t *example = json_array_get(json_object_get(schema, "examples"), 0);

	ck_assert_msg(sb_manifest_parse(&m, example, 1000, &err) == 0, "%s", err.msg);
	json_auto_t *again = sb_manifest_json(&m);
	ck_schema("transfer.offered", again);
	ck_assert(json_equal(example, again));
	sb_manifest_release(&m);
}
END_TEST

START_TEST(test_promotion_states)
{
	json_auto_t *schema = schema_load("promotion.reported");
	json_t *states = json_object_get(json_object_get(json_object_get(schema, "properties"), "state"), "enum");

	ck_assert_uint_eq(json_array_size(states), SB_P_COUNT);
	for (int s = 0; s < SB_P_COUNT; s++)
		ck_assert_str_eq(json_string_value(json_array_get(states, (size_t)s)), sb_promotion_state_name((enum sb_promotion_state)s));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("schemas");
	TCase *tc = tcase_create("schemas");

	tcase_add_loop_test(tc, test_closed_and_complete, 0, SB_EV_COUNT);
	tcase_add_loop_test(tc, test_examples, 0, SB_EV_COUNT);
	tcase_add_test(tc, test_manifest);
	tcase_add_test(tc, test_promotion_states);
	suite_add_tcase(s, tc);
	return test_run(s);
}
