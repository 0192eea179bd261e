/* A JSON object as the fields of a row, or as text without its private fields. Only for text that a strict parser has accepted already. Pure. */
#ifndef AGENT_ROW_JSON_H
#define AGENT_ROW_JSON_H

#include "row_schema.h"

#define ROW_FIELDS_MAX 1600

struct row_json {
	struct row_field *field;   /* ROW_FIELDS_MAX, valid until the next call */
	unsigned n;
	struct sb_buf names, text;
};
/** max: bytes of the largest text that will be seen, doubled. */
int row_json_init(struct row_json *rj, size_t max, struct sb_error *err) SB_MUSTCHECK;
void row_json_release(struct row_json *rj);
/**
 * Fills the fields, without hidden ones; their names and values are borrowed from p and rj. key_name, when it is not NULL: the key is not in the object, it is the
 * first field; a member of that name is left out and told in ret_twice. SB_EPROTO says what is wrong, without a line.
 */
int row_json_fields(struct row_json *rj, const struct row_schema *schema, const char *key_name, const char *key, const char *p, size_t n, bool *ret_twice,
	struct sb_error *err) SB_MUSTCHECK;
/** The object without hidden fields; borrowed from rj. */
int row_json_strip(struct row_json *rj, const struct row_schema *schema, const char *p, size_t n, const char **ret, size_t *ret_n, struct sb_error *err) SB_MUSTCHECK;

#endif
