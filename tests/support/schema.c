/* A validator of the keywords that proto/schemas/ uses; an unknown keyword is a failure, so none is skipped unseen. One thread. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <check.h>
#include <regex.h>

#include "schema.h"
#include "stagebridge/base.h"

json_t *schema_load(const char *name)
{
	char path[256];
	json_error_t je;

	(void)snprintf(path, sizeof(path), "proto/schemas/%s.json", name); /* names are short; a cut one does not open */
	json_t *schema = json_load_file(path, JSON_REJECT_DUPLICATES, &je);
	ck_assert_msg(schema != NULL, "%s: %s", path, je.text);
	return schema;
}

static bool wrong(char why[256], const char *where, const char *what)
{
	(void)snprintf(why, 256, "%s: %s", where, what); /* for people */
	return false;
}

static bool type_is(const char *type, const json_t *v)
{
	return (strcmp(type, "object") == 0 && json_is_object(v)) || (strcmp(type, "array") == 0 && json_is_array(v)) ||
	       (strcmp(type, "string") == 0 && json_is_string(v)) || (strcmp(type, "integer") == 0 && json_is_integer(v)) ||
	       (strcmp(type, "boolean") == 0 && json_is_boolean(v));
}

static bool matches(const char *pattern, const char *text)
{
	regex_t re;

	ck_assert_int_eq(regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB), 0);
	bool ok = regexec(&re, text, 0, NULL, 0) == 0;
	regfree(&re);
	return ok;
}

static bool one_of(const json_t *list, const json_t *v)
{
	for (size_t i = 0; i < json_array_size(list); i++) {
		if (json_equal(json_array_get(list, i), v))
			return true;
	}
	return false;
}

static bool object_holds(const json_t *schema, const json_t *value, const char *where, char why[256])
{
	const json_t *properties = json_object_get(schema, "properties"), *required = json_object_get(schema, "required");
	const char *key;
	json_t *v;

	for (size_t i = 0; i < json_array_size(required); i++) {
		if (!json_object_get(value, json_string_value(json_array_get(required, i))))
			return wrong(why, where, json_string_value(json_array_get(required, i)));
	}
	/* the one cast here: jansson's loop takes a non-const object and does not touch it */
	json_object_foreach((json_t *)(uintptr_t)value, key, v)
	{
		const json_t *s = json_object_get(properties, key);
		if (!s && json_is_false(json_object_get(schema, "additionalProperties")))
			return wrong(why, key, "not known");
		if (s && !schema_holds(s, v, why))
			return wrong(why, key, "does not hold");
	}
	return true;
}

bool schema_holds(const json_t *schema, const json_t *value, char why[256])
{
	static const char *const known[] = { "$schema", "$id", "title", "description", "examples", "type", "additionalProperties",
		"required", "properties", "items", "enum", "pattern", "minimum", "minLength", "maxLength" };
	const char *key;
	json_t *k;

	json_object_foreach((json_t *)(uintptr_t)schema, key, k)
	{
		bool found = false;
		for (size_t i = 0; i < SB_COUNT(known); i++)
			found = found || strcmp(key, known[i]) == 0;
		if (!found)
			return wrong(why, key, "keyword is not known here");
	}
	if (!type_is(json_string_value(json_object_get(schema, "type")), value))
		return wrong(why, "type", json_string_value(json_object_get(schema, "type")));
	if ((k = json_object_get(schema, "enum")) && !one_of(k, value))
		return wrong(why, "enum", "not one of them");
	if ((k = json_object_get(schema, "pattern")) && !matches(json_string_value(k), json_string_value(value)))
		return wrong(why, "pattern", json_string_value(k));
	if ((k = json_object_get(schema, "minimum")) && json_integer_value(value) < json_integer_value(k))
		return wrong(why, "minimum", "less");
	if ((k = json_object_get(schema, "minLength")) && (json_int_t)json_string_length(value) < json_integer_value(k))
		return wrong(why, "minLength", "shorter");
	if ((k = json_object_get(schema, "maxLength")) && (json_int_t)json_string_length(value) > json_integer_value(k))
		return wrong(why, "maxLength", "longer");
	if ((k = json_object_get(schema, "items"))) {
		for (size_t i = 0; i < json_array_size(value); i++) {
			if (!schema_holds(k, json_array_get(value, i), why))
				return false;
		}
	}
	return !json_is_object(value) || object_holds(schema, value, "required", why);
}

void ck_schema(const char *name, const json_t *payload)
{
	json_auto_t *schema = schema_load(name);
	char why[256] = "";

	ck_assert_msg(schema_holds(schema, payload, why), "%s: %s", name, why);
}
