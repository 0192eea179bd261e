/* Checks payloads against proto/schemas/: the part of JSON Schema 2020-12 that those files use. Runs in the repository's root. */
#ifndef SB_TESTS_SCHEMA_H
#define SB_TESTS_SCHEMA_H

#include <stdbool.h>

#include <jansson.h>

/** Returns new: proto/schemas/<name>.json; ends the test when it is missing or no JSON. name: "heartbeat.sent". */
json_t *schema_load(const char *name);
/** True when value follows the schema; else why (256 bytes) says where it does not. */
bool schema_holds(const json_t *schema, const json_t *value, char why[256]);
/** Ends the test when the payload does not follow proto/schemas/<name>.json. */
void ck_schema(const char *name, const json_t *payload);

#endif
