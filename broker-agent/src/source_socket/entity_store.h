/* Entities that applications wrote through the socket: the table `entity` of state.db holds them as they are now. Every change takes the next number of its type in
 * the transaction that stores it, so what is stored and what will be published cannot differ. Used by the API's threads and by the source's lane, each
 * with a handle of its own. */
#ifndef AGENT_ENTITY_STORE_H
#define AGENT_ENTITY_STORE_H

#include "row_json.h"
#include "state.h"

#define ENTITY_KEY_MAX 1024

/* A type with what is needed to judge its documents. */
struct entity_type {
	const struct agent_socket_type *set;   /* borrowed */
	struct row_schema schema;
	struct row_json json;
	struct sb_cell *cell;
	char source[SB_TYPE_MAX + 16];         /* "socket/<type>" in source_state */
};
int entity_type_open(struct entity_type *t, const struct agent_socket_type *set, struct sb_error *err) SB_MUSTCHECK;
void entity_type_close(struct entity_type *t);
/** Makes the rows of source_state and snapshot that the type needs; idempotent. */
int entity_type_ready(struct entity_type *t, struct sb_db *db, uint64_t session, struct sb_error *err) SB_MUSTCHECK;

/** The row that a stored document is: cells borrowed until the next call. SB_EDATA: a value does not fit its column. */
int entity_cells(struct entity_type *t, const char *key, const char *document, size_t n, struct sb_error *err) SB_MUSTCHECK;

enum entity_result { ENTITY_UNCHANGED, ENTITY_CREATED, ENTITY_CHANGED, ENTITY_DELETED, ENTITY_ABSENT };
/** Inside the caller's transaction. document: one JSON value, strictly; key NULL: it is in the document. SB_EPROTO, SB_EDATA (does not fit), SB_ETOOBIG (a limit). */
int entity_put(struct entity_type *t, struct sb_db *db, const char *key, const char *document, size_t n, enum entity_result *ret, struct sb_error *err) SB_MUSTCHECK;
int entity_delete(struct entity_type *t, struct sb_db *db, const char *key, enum entity_result *ret, struct sb_error *err) SB_MUSTCHECK;

#endif
