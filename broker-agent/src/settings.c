/* The agent's settings as one table: parser, --check-config, --print-config and the reference all come from it. After parsing, what no
 * single row can say is checked here: names that must differ, values that need each other. Runs once, in main, before any thread. */
#include "settings.h"

#include <string.h>
#include <sys/un.h>

#include "column_type.h"
#include "columns.h"
#include "stagebridge/text.h"

#define SLOT_MAX 63

static const char *const security_choices[] = { "plaintext", "ssl", "sasl_ssl", NULL };
static const char *const dir_choices[] = { "json", "jsonl", "csv", NULL };
static const char *const rows_choices[] = { "document", "columns", NULL };
static const char *const level_choices[] = { "debug", "info", "warn", "error", NULL };
static const char *const format_choices[] = { "logfmt", "json", NULL };

#define END { .key = NULL }
#define AT(type, field) .offset = offsetof(struct type, field)

static const struct sb_setting broker_table[] = {
	{ .key = "servers", .type = SB_SET_STRING, .flags = SB_SET_REQUIRED, AT(agent_broker, servers),
	  .help = "Comma-separated host:port list of the stage's own brokers." },
	{ .key = "security", .type = SB_SET_CHOICE, AT(agent_broker, security), .dflt = "plaintext", .choices = security_choices,
	  .help = "How the connection is protected; plaintext is for loopback and tests." },
	{ .key = "user", .type = SB_SET_STRING, AT(agent_broker, user), .help = "SCRAM-SHA-512 user, with sasl_ssl." },
	{ .key = "password_file", .type = SB_SET_SECRET, AT(agent_broker, password_file), .help = "File with the password of that user, mode 0400." },
	{ .key = "ca_file", .type = SB_SET_PATH, AT(agent_broker, ca_file), .help = "Certificates that the brokers' own must chain to; without it the system's." },
	{ .key = "cert_file", .type = SB_SET_PATH, AT(agent_broker, cert_file), .help = "Client certificate, where the brokers ask for one." },
	{ .key = "key_file", .type = SB_SET_SECRET, AT(agent_broker, key_file), .help = "Private key of the client certificate, mode 0400." },
	{ .key = "fetch_wait", .type = SB_SET_DURATION, AT(agent_broker, fetch_wait_ms), .dflt = "100ms", .min = 1, .max = 10000,
	  .help = "How long a broker may hold an empty fetch; the in-process broker of the demo wants 10ms." },
	END,
};

static const struct sb_setting keys_table[] = {
	{ .key = "identity", .type = SB_SET_SECRET, .flags = SB_SET_REQUIRED, AT(agent_settings, keys.identity),
	  .help = "This agent's private keys, mode 0400." },
	{ .key = "keyring", .type = SB_SET_PATH, .flags = SB_SET_REQUIRED, AT(agent_settings, keys.keyring),
	  .help = "The keyring: who may speak for whom, signed by the root." },
	{ .key = "root", .type = SB_SET_PATH, .flags = SB_SET_REQUIRED, AT(agent_settings, keys.root), .help = "The root's public key in hex." },
	END,
};

static const struct sb_setting api_table[] = {
	{ .key = "socket", .type = SB_SET_PATH, AT(agent_settings, api.socket), .dflt = "/run/stagebridge/agent.sock",
	  .help = "Unix socket for the people and programs of this stage." },
	{ .key = "mode", .type = SB_SET_INT, AT(agent_settings, api.mode), .dflt = "660", .min = 0, .max = 777,
	  .help = "Permissions of the socket, as three octal digits." },
	END,
};

static const struct sb_setting user_table[] = {
	{ .key = "unix", .type = SB_SET_STRING, .flags = SB_SET_REQUIRED, AT(agent_user, unix_name), .help = "Name of an account of this machine." },
	{ .key = "user", .type = SB_SET_STRING, .flags = SB_SET_REQUIRED, AT(agent_user, user), .help = "The tenant user that it is." },
	END,
};

static const struct sb_setting mask_table[] = {
	{ .key = "column", .type = SB_SET_STRING, .flags = SB_SET_REQUIRED, AGENT_RULE_AT(name), .help = "The column." },
	AGENT_RULE_PARAMETERS,
	END,
};

static const char *const new_choices[] = { "withhold", "send", NULL };

static const struct sb_setting table_table[] = {
	{ .key = "table", .type = SB_SET_STRING, .flags = SB_SET_REQUIRED, AT(agent_table, table), .help = "The table as schema.table." },
	{ .key = "type", .type = SB_SET_TYPE, .flags = SB_SET_REQUIRED, AT(agent_table, type), .help = "The entity type that it becomes." },
	{ .key = "where", .type = SB_SET_STRING, AT(agent_table, where), .help = "Row filter, an SQL condition over the key columns: other rows never leave." },
	{ .key = "key", .type = SB_SET_STRINGS, AT(agent_table, key), .max = 32, .help = "Key columns, where the table has no primary key." },
	{ .key = "private", .type = SB_SET_STRINGS, AT(agent_table, private_columns), .max = 1600, .help = "Columns that never leave the stage." },
	{ .key = "internal", .type = SB_SET_STRINGS, AT(agent_table, internal), .max = 1600,
	  .help = "Columns for the sync view and for copies in later stages; those that were there from the start are this without being named." },
	{ .key = "public", .type = SB_SET_STRINGS, AT(agent_table, public_columns), .max = 1600, .help = "Columns that may go to every stage, also to earlier ones." },
	{ .key = "masks", .type = SB_SET_LIST, AT(agent_table, masks), .max = 1600, .sub = mask_table, .item_size = sizeof(struct agent_rule),
	  .help = "Columns that go to earlier stages only as a rule makes them; elsewhere they are internal." },
	{ .key = "new_columns", .type = SB_SET_CHOICE, AT(agent_table, new_columns), .dflt = "withhold", .choices = new_choices,
	  .help = "A column that is added later and not declared: withhold it until it is, or send it as an internal one." },
	{ .key = "down", .type = SB_SET_BOOL, AT(agent_table, down), .dflt = "false",
	  .help = "Publishes key, public and masked columns for copies in earlier stages; the hub's public_down must allow them too." },
	END,
};

static const struct sb_setting outbox_table[] = {
	{ .key = "type", .type = SB_SET_TYPE, AT(agent_pg_source, outbox.type), .help = "The entity type that events of applications become; none: they are not read." },
	{ .key = "table", .type = SB_SET_STRING, AT(agent_pg_source, outbox.table), .help = "Outbox table as schema.table; none: only messages with the prefix stagebridge.outbox." },
	END,
};

static const struct sb_setting postgres_table[] = {
	{ .key = "name", .type = SB_SET_NAME, .flags = SB_SET_REQUIRED, AT(agent_pg_source, name), .help = "Name of the source in logs and status." },
	{ .key = "conninfo", .type = SB_SET_STRING, .flags = SB_SET_REQUIRED, AT(agent_pg_source, conninfo),
	  .help = "libpq connection string; a password belongs in a passfile that it names." },
	{ .key = "slot", .type = SB_SET_STRING, AT(agent_pg_source, slot), .help = "Replication slot; default stagebridge_<stage>_<name>." },
	{ .key = "failover", .type = SB_SET_BOOL, AT(agent_pg_source, failover), .dflt = "false",
	  .help = "PostgreSQL 17: standbys keep the slot in step, and a promoted one that lacks nothing is gone on with; see docs/postgres-source.md. Older servers: no effect." },
	{ .key = "publication", .type = SB_SET_STRING, AT(agent_pg_source, publication), .help = "Publication; default: the slot's name." },
	{ .key = "snapshot_readers", .type = SB_SET_INT, AT(agent_pg_source, snapshot_readers), .dflt = "2", .min = 1, .max = 16,
	  .help = "Connections that read a table for its snapshot at the same time." },
	{ .key = "snapshot_range", .type = SB_SET_SIZE, AT(agent_pg_source, snapshot_range), .dflt = "32MiB", .min = 8192,
	  .help = "Size of the parts in which a table is read; after a crash the parts that are complete are not read again." },
	{ .key = "tables", .type = SB_SET_LIST, .flags = SB_SET_REQUIRED, AT(agent_pg_source, tables), .min = 1, .max = 500, .sub = table_table,
	  .item_size = sizeof(struct agent_table), .help = "The tables that become entity types." },
	{ .key = "outbox", .type = SB_SET_GROUP, .offset = 0, .sub = outbox_table, .help = "Events of applications, see docs/postgres-source.md." },
	END,
};

static const struct sb_setting pin_table[] = {
	{ .key = "name", .type = SB_SET_STRING, .flags = SB_SET_REQUIRED, AT(row_pin, name), .help = "Name of the column: the field of a document, or of a CSV header." },
	{ .key = "type", .type = SB_SET_STRING, .flags = SB_SET_REQUIRED, AT(row_pin, type),
	  .help = "boolean, smallint, integer, bigint, numeric, double precision, date, timestamp, timestamptz, uuid, text or jsonb." },
	END,
};

static const struct sb_setting directory_table[] = {
	{ .key = "name", .type = SB_SET_NAME, .flags = SB_SET_REQUIRED, AT(agent_dir_source, name), .help = "Name of the source in logs and status." },
	{ .key = "type", .type = SB_SET_TYPE, .flags = SB_SET_REQUIRED, AT(agent_dir_source, type), .help = "The entity type that the files become." },
	{ .key = "path", .type = SB_SET_PATH, .flags = SB_SET_REQUIRED, AT(agent_dir_source, path), .help = "The folder." },
	{ .key = "format", .type = SB_SET_CHOICE, AT(agent_dir_source, format), .dflt = "json", .choices = dir_choices,
	  .help = "json: a document per file; jsonl: one per line; csv: one per row, with a header." },
	{ .key = "key", .type = SB_SET_STRING, AT(agent_dir_source, key), .dflt = "",
	  .help = "Field that identifies a document; empty: the file name without its suffix (json only)." },
	{ .key = "rows", .type = SB_SET_CHOICE, AT(agent_dir_source, rows), .dflt = "document", .choices = rows_choices,
	  .help = "What a JSON document becomes: document: the columns key and document; columns: a column for each of its fields. CSV rows and pinned columns are always columns." },
	{ .key = "columns", .type = SB_SET_LIST, AT(agent_dir_source, columns), .max = 1600, .sub = pin_table, .item_size = sizeof(struct row_pin),
	  .help = "The columns and their types, pinned; without them they are learned from the values (broker-agent --infer shows them)." },
	{ .key = "private", .type = SB_SET_STRINGS, AT(agent_dir_source, private_columns), .max = 1600, .help = "Columns, or fields of JSON documents, that never leave the stage." },
	{ .key = "poll", .type = SB_SET_DURATION, AT(agent_dir_source, poll_ms), .dflt = "5s", .min = 100, .max = 86400000,
	  .help = "How often the whole folder is looked through; where the system tells of changes they are seen at once." },
	{ .key = "depth", .type = SB_SET_INT, AT(agent_dir_source, depth), .dflt = "0", .max = 16, .help = "How many levels of folders below it are looked into." },
	{ .key = "max_files", .type = SB_SET_INT, AT(agent_dir_source, max_files), .dflt = "200000", .min = 1, .max = 2000000,
	  .help = "With more files nothing is read, and the source says so." },
	{ .key = "max_file", .type = SB_SET_SIZE, AT(agent_dir_source, max_file), .dflt = "32MiB", .min = 1, .max = 1073741824,
	  .help = "Larger files are invalid; a file is in memory while it is read." },
	{ .key = "delete_share", .type = SB_SET_INT, AT(agent_dir_source, delete_share), .dflt = "50", .min = 1, .max = 100,
	  .help = "When more than this share of all documents is gone at once, in percent (and more than ten), their deletion waits for delete_wait; 100: never." },
	{ .key = "delete_wait", .type = SB_SET_DURATION, AT(agent_dir_source, delete_wait_ms), .dflt = "1h", .min = 100, .max = 2592000000,
	  .help = "How long it waits before it is believed, unless somebody confirms it (stagebridge source confirm)." },
	END,
};

static const struct sb_setting entity_table[] = {
	{ .key = "type", .type = SB_SET_TYPE, .flags = SB_SET_REQUIRED, AT(agent_socket_type, type), .help = "The entity type that applications may write." },
	{ .key = "key", .type = SB_SET_STRING, AT(agent_socket_type, key), .dflt = "key", .help = "Name of the column that holds the key." },
	{ .key = "columns", .type = SB_SET_LIST, AT(agent_socket_type, columns), .max = 1600, .sub = pin_table, .item_size = sizeof(struct row_pin),
	  .help = "The columns and their types; without them there are two: the key, and the document." },
	{ .key = "private", .type = SB_SET_STRINGS, AT(agent_socket_type, private_columns), .max = 1600, .help = "Fields that never leave the stage." },
	{ .key = "max_rows", .type = SB_SET_INT, AT(agent_socket_type, max_rows), .dflt = "1000000", .min = 1, .max = 100000000,
	  .help = "Entities of the type, deleted ones that the broker does not have yet included; one more is refused." },
	{ .key = "max_body", .type = SB_SET_SIZE, AT(agent_socket_type, max_body), .dflt = "8MiB", .min = 1024, .max = 67108864, .help = "Largest request." },
	END,
};

static const struct sb_setting replica_table[] = {
	{ .key = "conninfo", .type = SB_SET_STRING, AT(agent_settings, replica.conninfo), .dflt = "",
	  .help = "Database that receives read-only copies of other stages' entities (schema replica); empty: none." },
	END,
};

static const struct sb_setting origin_table[] = {
	{ .key = "name", .type = SB_SET_TYPE, .flags = SB_SET_REQUIRED, AT(agent_origin, name), .help = "The origin, as the hub calls it." },
	{ .key = "deploy_dir", .type = SB_SET_PATH, .flags = SB_SET_REQUIRED, AT(agent_origin, deploy_dir),
	  .help = "Where artifacts are put: releases/<artifact>, and the link current." },
	{ .key = "hook", .type = SB_SET_STRINGS, AT(agent_origin, hook), .max = 64, .help = "Program and arguments that take the artifact into use; no shell." },
	{ .key = "health", .type = SB_SET_STRINGS, AT(agent_origin, health), .max = 64,
	  .help = "Program and arguments that judge it afterwards; without one a hook that succeeds is healthy." },
	{ .key = "environment", .type = SB_SET_STRINGS, AT(agent_origin, environment), .max = 64, .help = "KEY=VALUE given to both, besides SB_*." },
	{ .key = "timeout", .type = SB_SET_DURATION, AT(agent_origin, timeout_ms), .dflt = "5m", .min = 1000, .max = 86400000,
	  .help = "Limit of each of the two." },
	END,
};

static const struct sb_setting datasets_table[] = {
	{ .key = "policies", .type = SB_SET_PATH, AT(agent_settings, datasets.policies), .help = "Folder of dataset policies; without it nothing is produced here." },
	{ .key = "inbox", .type = SB_SET_PATH, AT(agent_settings, datasets.inbox), .help = "Folder where datasets from other stages arrive; without it they are refused." },
	{ .key = "secret", .type = SB_SET_SECRET, AT(agent_settings, datasets.secret), .help = "Key file from which pseudonyms are derived, mode 0400." },
	{ .key = "max_bytes", .type = SB_SET_SIZE, AT(agent_settings, datasets.max_bytes), .dflt = "2GiB", .min = 1, .help = "Largest dataset, uncompressed." },
	END,
};

static const struct sb_setting carrier_table[] = {
	{ .key = "window", .type = SB_SET_INT, AT(agent_settings, carrier.window), .dflt = "4", .min = 1, .max = 256,
	  .help = "Chunks of 512 KiB on the way without the receiver's credit." },
	{ .key = "max_bytes", .type = SB_SET_SIZE, AT(agent_settings, carrier.max_bytes), .dflt = "4GiB", .min = 1, .help = "Largest transfer, either way." },
	END,
};

static const struct sb_setting heartbeat_table[] = {
	{ .key = "interval", .type = SB_SET_DURATION, AT(agent_settings, heartbeat.interval_ms), .dflt = "10s", .min = 100, .max = 3600000,
	  .help = "Time between signs of life; after three without one the hub calls the stage stale." },
	END,
};

static const struct sb_setting log_table[] = {
	{ .key = "level", .type = SB_SET_CHOICE, AT(agent_settings, log.level), .dflt = "info", .choices = level_choices, .help = "Least level that is written." },
	{ .key = "format", .type = SB_SET_CHOICE, AT(agent_settings, log.format), .dflt = "logfmt", .choices = format_choices, .help = "Form of a log line." },
	END,
};

/* groups share the base of the whole struct, except the broker, which has a struct of its own */
#define GROUP(name, table, text) { .key = name, .type = SB_SET_GROUP, .offset = 0, .sub = table, .help = text }
#define LIST(name, field, table, item_type, most, text) \
	{ .key = name, .type = SB_SET_LIST, AT(agent_settings, field), .max = most, .sub = table, .item_size = sizeof(struct item_type), .help = text }

const struct sb_setting agent_settings_table[] = {
	{ .key = "tenant", .type = SB_SET_NAME, .flags = SB_SET_REQUIRED, AT(agent_settings, tenant), .help = "The tenant that the stage belongs to." },
	{ .key = "stage", .type = SB_SET_NAME, .flags = SB_SET_REQUIRED, AT(agent_settings, stage), .help = "The stage beside which this agent runs." },
	{ .key = "state_dir", .type = SB_SET_PATH, AT(agent_settings, state_dir), .dflt = "/var/lib/stagebridge/agent",
	  .help = "Durable state: one SQLite file, spools of transfers, repositories." },
	{ .key = "broker", .type = SB_SET_GROUP, .flags = SB_SET_REQUIRED, AT(agent_settings, broker), .sub = broker_table, .help = "The stage's own message broker." },
	GROUP("keys", keys_table, "Keys of this agent and of those it hears."),
	GROUP("api", api_table, "The local API."),
	LIST("users", users, user_table, agent_user, 10000, "Who an account of this machine is in the tenant; unlisted ones keep their name."),
	LIST("postgres", postgres, postgres_table, agent_pg_source, 32, "PostgreSQL databases whose tables become entities."),
	LIST("directories", directories, directory_table, agent_dir_source, 32, "Folders whose files become entities."),
	LIST("entities", entities, entity_table, agent_socket_type, 100, "Entity types that applications write through the local API."),
	GROUP("replica", replica_table, "Read-only copies of other stages' entities."),
	LIST("origins", origins, origin_table, agent_origin, 64, "What is deployed into this stage."),
	GROUP("datasets", datasets_table, "Anonymized datasets."),
	GROUP("carrier", carrier_table, "The data carrier."),
	GROUP("heartbeat", heartbeat_table, "Signs of life."),
	GROUP("log", log_table, "Logging, on standard error."),
	END,
};

static bool has(const char *s)
{
	return s && *s;
}

static int bad(struct sb_error *err, const char *file, const char *key, const char *reason, const char *value)
{
	return sb_fail(err, SB_ECONFIG, "%s: %s: %s%s%s%s", file, key, reason, value ? " \"" : "", value ? value : "", value ? "\"" : "");
}

static int check_broker(const struct agent_settings *set, const char *file, struct sb_error *err)
{
	const struct agent_broker *b = &set->broker;

	if (strcmp(security_choices[b->security], "sasl_ssl") == 0 && (!has(b->user) || !has(b->password_file)))
		return bad(err, file, "broker.security", "sasl_ssl needs user and password_file", NULL);
	if (has(b->cert_file) != has(b->key_file))
		return bad(err, file, "broker.cert_file", "cert_file and key_file go together", NULL);
	return 0;
}

static int check_plain(const struct agent_settings *set, const char *file, struct sb_error *err)
{
	if (strcmp(set->stage, "hub") == 0)
		return bad(err, file, "stage", "is the hub's own name", set->stage);
	if (set->api.mode % 10 > 7 || set->api.mode / 10 % 10 > 7)
		return bad(err, file, "api.mode", "is not three octal digits", NULL);
	if (strlen(set->api.socket) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
		return bad(err, file, "api.socket", "path is too long for a socket", NULL);
	if (has(set->datasets.policies) && !has(set->datasets.secret))
		return bad(err, file, "datasets.secret", "is needed to produce datasets (datasets.policies is set)", NULL);
	return check_broker(set, file, err);
}

static bool slot_ok(const char *s)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_");

	return n > 0 && n <= SLOT_MAX && s[n] == '\0';
}

/* Fills the names that the file left out. */
static int complete_pg(struct agent_pg_source *pg, const struct agent_settings *set, const char *file, struct sb_error *err)
{
	if (!has(pg->slot)) {
		free(pg->slot);
		pg->slot = sb_asprintf("stagebridge_%s_%s", set->stage, pg->name);
		if (!pg->slot)
			return sb_fail_nomem(err);
		for (char *p = pg->slot; *p; p++) {
			if (*p == '-')
				*p = '_';
		}
	}
	if (!slot_ok(pg->slot))
		return bad(err, file, "postgres.slot", "is not 1 to 63 characters a-z, 0-9, _", pg->slot);
	if (!has(pg->publication)) {
		free(pg->publication);
		pg->publication = sb_strdup(pg->slot);
		if (!pg->publication)
			return sb_fail_nomem(err);
	}
	return 0;
}

static int check_tables(const struct agent_settings *set, const struct agent_pg_source *pg, const char *file, struct sb_error *err)
{
	struct agent_table *t = pg->tables.item;

	if (has(pg->outbox.table) && !has(pg->outbox.type))
		return bad(err, file, "postgres.outbox.table", "has no type beside it", pg->outbox.table);
	if (has(pg->outbox.table) && !strchr(pg->outbox.table, '.'))
		return bad(err, file, "postgres.outbox.table", "is not schema.table", pg->outbox.table);
	for (size_t i = 0; i < pg->tables.count; i++) {
		const char *dot = strchr(t[i].table, '.');
		if (!dot || dot == t[i].table || !dot[1])
			return bad(err, file, "postgres.tables.table", "is not schema.table", t[i].table);
		if (has(pg->outbox.table) && strcmp(t[i].table, pg->outbox.table) == 0)
			return bad(err, file, "postgres.outbox.table", "is one of the tables too", t[i].table);
		for (size_t k = 0; k < i; k++) {
			if (strcmp(t[i].table, t[k].table) == 0)
				return bad(err, file, "postgres.tables.table", "is there twice", t[i].table);
		}
		int r = agent_columns_check(&t[i], has(set->datasets.secret), err);
		if (r < 0) {
			(void)sb_fail_prefix(err, "%s: postgres.tables", file);
			return r;
		}
	}
	return 0;
}

/* Calls fn for every entity type with the name of its source; stops at the first non-zero result. */
static int each_type(const struct agent_settings *set, int (*fn)(void *user, const char *source, const char *type), void *user)
{
	const struct agent_pg_source *pg = set->postgres.item;
	const struct agent_dir_source *dir = set->directories.item;
	int r = 0;

	for (size_t i = 0; r == 0 && i < set->postgres.count; i++) {
		const struct agent_table *t = pg[i].tables.item;
		for (size_t k = 0; r == 0 && k < pg[i].tables.count; k++)
			r = fn(user, pg[i].name, t[k].type);
		if (r == 0 && has(pg[i].outbox.type))
			r = fn(user, pg[i].name, pg[i].outbox.type);
	}
	for (size_t i = 0; r == 0 && i < set->directories.count; i++)
		r = fn(user, dir[i].name, dir[i].type);
	const struct agent_socket_type *e = set->entities.item;
	for (size_t i = 0; r == 0 && i < set->entities.count; i++)
		r = fn(user, AGENT_SOCKET_SOURCE, e[i].type);
	return r;
}

struct seen { const char *name; unsigned times; };

static int count_type(void *user, const char *source, const char *type)
{
	struct seen *seen = user;

	(void)source; /* types are unique over all sources */
	seen->times += strcmp(seen->name, type) == 0;
	return 0;
}

struct types_check { const struct agent_settings *set; const char *twice; };

static int check_type(void *user, const char *source, const char *type)
{
	struct types_check *tc = user;
	struct seen seen = { .name = type };

	(void)source;
	(void)each_type(tc->set, count_type, &seen); /* count_type never stops it */
	if (seen.times < 2)
		return 0;
	tc->twice = type;
	return 1;
}

/* Pinned columns: known types, no name twice, none of them private, the key among them. */
static int check_pins(const struct sb_list *columns, const struct sb_strings *hidden, const char *key, const char *file, const char *where, struct sb_error *err)
{
	const struct row_pin *pin = columns->item;
	bool has_key = false;

	for (size_t i = 0; i < hidden->count; i++) {
		if (strcmp(hidden->item[i], key) == 0)
			return bad(err, file, where, "the key cannot be private", key);
	}
	for (size_t i = 0; i < columns->count; i++) {
		if (!*pin[i].name || strlen(pin[i].name) > 63)
			return bad(err, file, where, "a name is empty or longer than 63 bytes", NULL);
		if (!column_type_find(pin[i].type))
			return bad(err, file, where, "is no type of a column (see the reference)", pin[i].type);
		for (size_t k = 0; k < hidden->count; k++) {
			if (strcmp(pin[i].name, hidden->item[k]) == 0)
				return bad(err, file, where, "is private too", pin[i].name);
		}
		for (size_t k = 0; k < i; k++) {
			if (strcmp(pin[i].name, pin[k].name) == 0)
				return bad(err, file, where, "is there twice", pin[i].name);
		}
		has_key = has_key || strcmp(pin[i].name, key) == 0;
	}
	return has_key || !columns->count ? 0 : bad(err, file, where, "the key is not among them", key);
}

static int check_documents(const struct agent_settings *set, const char *file, struct sb_error *err)
{
	const struct agent_dir_source *dir = set->directories.item;
	const struct agent_socket_type *e = set->entities.item;
	int r = 0;

	for (size_t i = 0; r == 0 && i < set->directories.count; i++) {
		r = check_pins(&dir[i].columns, &dir[i].private_columns, has(dir[i].key) ? dir[i].key : "key", file, "directories.columns", err);
		if (r == 0 && strcmp(dir[i].name, AGENT_SOCKET_SOURCE) == 0)
			r = bad(err, file, "directories.name", "is the name of the socket's own source", dir[i].name);
	}
	for (size_t i = 0; r == 0 && i < set->entities.count; i++)
		r = check_pins(&e[i].columns, &e[i].private_columns, e[i].key, file, "entities.columns", err);
	return r;
}

static int check_sources(struct agent_settings *set, const char *file, struct sb_error *err)
{
	struct agent_pg_source *pg = set->postgres.item;
	const struct agent_dir_source *dir = set->directories.item;
	struct types_check tc = { .set = set };
	int r = 0;

	for (size_t i = 0; r == 0 && i < set->postgres.count; i++) {
		for (size_t k = 0; k < i; k++) {
			if (strcmp(pg[i].name, pg[k].name) == 0)
				return bad(err, file, "postgres.name", "is there twice", pg[i].name);
		}
		r = complete_pg(&pg[i], set, file, err);
		if (r == 0)
			r = check_tables(set, &pg[i], file, err);
	}
	for (size_t i = 0; r == 0 && i < set->directories.count; i++) {
		for (size_t k = 0; k < i + set->postgres.count; k++) {
			if (strcmp(dir[i].name, k < i ? dir[k].name : pg[k - i].name) == 0)
				return bad(err, file, "directories.name", "is there twice", dir[i].name);
		}
		if (!has(dir[i].key) && dir[i].format != AGENT_DIR_JSON)
			return bad(err, file, "directories.key", "is needed for jsonl and csv", NULL);
	}
	if (r == 0 && each_type(set, check_type, &tc) != 0)
		r = bad(err, file, "type", "comes from two places", tc.twice);
	return r;
}

static int check_origins(const struct agent_settings *set, const char *file, struct sb_error *err)
{
	const struct agent_origin *o = set->origins.item;

	for (size_t i = 0; i < set->origins.count; i++) {
		for (size_t k = 0; k < i; k++) {
			if (strcmp(o[i].name, o[k].name) == 0)
				return bad(err, file, "origins.name", "is there twice", o[i].name);
			if (strcmp(o[i].deploy_dir, o[k].deploy_dir) == 0)
				return bad(err, file, "origins.deploy_dir", "is there twice", o[i].deploy_dir);
		}
		for (size_t k = 0; k < o[i].environment.count; k++) {
			const char *e = o[i].environment.item[k];
			if (!strchr(e, '=') || e[0] == '=')
				return bad(err, file, "origins.environment", "has an entry that is not KEY=VALUE", NULL);
			if (strncmp(e, "SB_", 3) == 0)
				return bad(err, file, "origins.environment", "sets a variable SB_*, which are the agent's", NULL);
		}
	}
	return 0;
}

static int check_users(const struct agent_settings *set, const char *file, struct sb_error *err)
{
	const struct agent_user *u = set->users.item;

	for (size_t i = 0; i < set->users.count; i++) {
		if (!has(u[i].unix_name) || !has(u[i].user) || strlen(u[i].user) > 95)
			return bad(err, file, "users", "has a name that is empty or longer than 95 bytes", NULL);
		for (size_t k = 0; k < i; k++) {
			if (strcmp(u[i].unix_name, u[k].unix_name) == 0)
				return bad(err, file, "users.unix", "is there twice", u[i].unix_name);
		}
	}
	return 0;
}

int agent_settings_load(struct agent_settings *set, const char *file, struct sb_error *err)
{
	struct agent_settings s;

	memset(&s, 0, sizeof(s));
	int r = sb_settings_load(agent_settings_table, &s, file, err);
	if (r < 0)
		return r;
	r = check_plain(&s, file, err);
	if (r == 0)
		r = check_sources(&s, file, err);
	if (r == 0)
		r = check_documents(&s, file, err);
	if (r == 0)
		r = check_origins(&s, file, err);
	if (r == 0)
		r = check_users(&s, file, err);
	if (r < 0) {
		agent_settings_release(&s);
		return r;
	}
	*set = s;
	return 0;
}

void agent_settings_release(struct agent_settings *set)
{
	const struct agent_pg_source *pg = set->postgres.item;

	for (size_t i = 0; i < set->postgres.count; i++) {
		struct agent_table *t = pg[i].tables.item;
		for (size_t k = 0; k < pg[i].tables.count; k++)
			agent_columns_release(&t[k]);
	}
	sb_settings_release(agent_settings_table, set);
	memset(set, 0, sizeof(*set));
}
