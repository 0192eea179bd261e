/* The agent's settings: what the table in settings.c fills. Const after load. */
#ifndef AGENT_SETTINGS_H
#define AGENT_SETTINGS_H

#include "stagebridge/settings.h"

struct agent_table {          /* one table that becomes one entity type */
	char *table;              /* "schema.table" as PostgreSQL spells it */
	char *type;               /* entity type */
	char *where;              /* row filter: an SQL condition; empty: all rows */
	struct sb_strings key;    /* declared key where the table has none */
	/* which column may go where; a column is in one of the four at most (columns.h) */
	struct sb_strings private_columns; /* never leave the stage */
	struct sb_strings internal;        /* the sync view and copies in later stages */
	struct sb_strings public_columns;  /* anywhere */
	struct sb_list masks;              /* struct agent_rule: as internal; in copies of earlier stages only what the rule makes of it */
	int new_columns;                   /* AGENT_NEW_...: a column that came after the type was taken up, and that no list names */
	bool down;                         /* publishes what copies in earlier stages may hold */
};
enum { AGENT_NEW_WITHHOLD, AGENT_NEW_SEND };

struct agent_pg_source {
	char *name;
	char *conninfo;
	char *slot, *publication;
	bool failover;            /* the slot is to be kept in step on standbys */
	int64_t snapshot_readers;
	uint64_t snapshot_range;  /* bytes */
	struct sb_list tables;    /* struct agent_table */
	struct { char *type, *table; } outbox; /* events of applications; type empty: none; table empty: messages alone */
};

struct row_pin { char *name, *type; };   /* a column and its type, see column_type.h */

struct agent_dir_source {
	char *name;
	char *type;
	char *path;
	int format;               /* AGENT_DIR_JSON, _JSONL, _CSV */
	int rows;                 /* AGENT_ROWS_DOCUMENT, _COLUMNS: what a JSON document becomes */
	char *key;                /* field that identifies a document; empty: the file name without its suffix (JSON only) */
	struct sb_list columns;   /* struct row_pin; none: the columns are learned */
	struct sb_strings private_columns; /* never leave the stage */
	int64_t poll_ms;
	int64_t depth;            /* folders below the folder */
	int64_t max_files;
	uint64_t max_file;        /* bytes */
	int64_t delete_share;     /* percent of all that may go at once */
	int64_t delete_wait_ms;   /* more than that waits for as long */
};
enum { AGENT_DIR_JSON, AGENT_DIR_JSONL, AGENT_DIR_CSV };
enum { AGENT_ROWS_DOCUMENT, AGENT_ROWS_COLUMNS };

#define AGENT_SOCKET_SOURCE "socket"   /* name of the source of all these types */
struct agent_socket_type {    /* a type that applications write through the socket */
	char *type;
	struct sb_list columns;   /* struct row_pin; none: key and document */
	char *key;                /* name of the key column */
	struct sb_strings private_columns;
	int64_t max_rows;
	uint64_t max_body;        /* bytes of one request */
};

struct agent_user { char *unix_name; char *user; };   /* socket peer -> tenant user; unlisted peers keep their own name */

struct agent_origin {
	char *name;
	char *deploy_dir;         /* releases/<artifact>, and the link `current` */
	struct sb_strings hook;   /* argv; empty: none */
	struct sb_strings health; /* argv; empty: healthy when the hook succeeded */
	struct sb_strings environment; /* K=V given to both, besides SB_* */
	int64_t timeout_ms;
};

struct agent_broker { char *servers; int security; char *user, *password_file, *ca_file, *cert_file, *key_file; int64_t fetch_wait_ms; };

struct agent_settings {
	char *tenant, *stage;
	char *state_dir;
	struct agent_broker broker;
	struct { char *identity, *keyring, *root; } keys;
	struct { char *socket; int64_t mode; } api;   /* mode: octal digits read as a decimal number, 660 */
	struct sb_list users;
	struct sb_list postgres;      /* struct agent_pg_source */
	struct sb_list directories;   /* struct agent_dir_source */
	struct sb_list entities;      /* struct agent_socket_type */
	struct { char *conninfo; } replica;  /* empty: no read-only copies */
	struct sb_list origins;       /* struct agent_origin */
	struct { char *policies, *inbox, *secret; uint64_t max_bytes; } datasets; /* folder of policy files; folder where datasets arrive; tenant root key file */
	struct { int64_t window; uint64_t max_bytes; } carrier;   /* chunks in flight without credit */
	struct { int64_t interval_ms; } heartbeat;
	struct { int level; int format; } log;
};

extern const struct sb_setting agent_settings_table[];
int agent_settings_load(struct agent_settings *set, const char *file, struct sb_error *err) SB_MUSTCHECK; /* parse, then cross-checks (duplicate types, names) */
void agent_settings_release(struct agent_settings *set);

#endif
