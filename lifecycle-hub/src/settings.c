/* The hub's settings: one table, from which come the parser, --print-config and the reference, and the cross-checks that a table cannot
 * say. Main thread, at start; const afterwards. */
#include "settings.h"

#include <stddef.h>

#include "settings_check.h"

#define S(field) offsetof(struct hub_settings, field)
#define T(field) offsetof(struct hub_tenant, field)
#define B(field) offsetof(struct hub_broker, field)
#define G(field) offsetof(struct hub_stage, field)
#define F(field) offsetof(struct hub_forge, field)

#define MINUTE_MS 60000LL
#define DAY_MS (24 * 60 * MINUTE_MS)

static const char *const security_choices[] = { "plaintext", "ssl", "sasl_ssl", NULL };
static const char *const mode_choices[] = { "auto", "manual", NULL };
static const char *const forge_choices[] = { "bare", "gitea", NULL };
static const char *const role_choices[] = { "viewer", "developer", "approver", "admin", NULL };
static const char *const level_choices[] = { "debug", "info", "warn", "error", NULL };
static const char *const format_choices[] = { "logfmt", "json", NULL };

static const struct sb_setting broker_table[] = {
	{ .key = "servers", .type = SB_SET_STRING, .flags = SB_SET_REQUIRED, .offset = B(servers),
		.help = "Kafka bootstrap servers of this stage, host:port separated by commas." },
	{ .key = "security", .type = SB_SET_CHOICE, .offset = B(security), .dflt = "plaintext", .choices = security_choices,
		.help = "How to connect: plaintext (loopback and tests), ssl (client certificate), sasl_ssl (user and password over TLS)." },
	{ .key = "user", .type = SB_SET_STRING, .offset = B(user), .help = "User for sasl_ssl (SCRAM-SHA-512)." },
	{ .key = "password_file", .type = SB_SET_SECRET, .offset = B(password_file),
		.help = "File with the password for sasl_ssl, mode 0400 or 0600." },
	{ .key = "ca_file", .type = SB_SET_PATH, .offset = B(ca_file), .help = "Certificates that may sign the broker's, PEM." },
	{ .key = "cert_file", .type = SB_SET_PATH, .offset = B(cert_file), .help = "Our certificate for ssl, PEM." },
	{ .key = "key_file", .type = SB_SET_SECRET, .offset = B(key_file), .help = "Private key of cert_file, PEM, mode 0400 or 0600." },
	{ .key = "fetch_wait", .type = SB_SET_DURATION, .offset = B(fetch_wait_ms), .dflt = "100ms", .min = 1, .max = 10000,
		.help = "How long the broker may hold an empty fetch; the in-process broker of the demo wants 10ms." },
	{ .key = NULL },
};

static const struct sb_setting stage_table[] = {
	{ .key = "name", .type = SB_SET_NAME, .flags = SB_SET_REQUIRED, .offset = G(name),
		.help = "Name of the stage; the order of the list is the order of promotion." },
	{ .key = "broker", .type = SB_SET_GROUP, .flags = SB_SET_REQUIRED, .offset = G(broker), .sub = broker_table,
		.help = "The stage's own broker." },
	{ .key = "mode", .type = SB_SET_CHOICE, .offset = G(mode), .dflt = "manual", .choices = mode_choices,
		.help = "Whether an artifact enters this stage by itself once its gates pass, or a person must ask." },
	{ .key = "promoted", .type = SB_SET_BOOL, .offset = G(promoted), .dflt = "true",
		.help = "False: the stage takes data and copies but no artifacts (explore)." },
	{ .key = "soak", .type = SB_SET_DURATION, .offset = G(soak_ms), .dflt = "0s", .min = 0, .max = 365 * DAY_MS,
		.help = "How long an artifact must have been verified in the stage before, without a break, before it enters this one by itself." },
	{ .key = NULL },
};

static const struct sb_setting type_table[] = {
	{ .key = "type", .type = SB_SET_TYPE, .flags = SB_SET_REQUIRED, .offset = offsetof(struct hub_type, type),
		.help = "Entity type (table or collection); a type that is not listed is refused." },
	{ .key = "owner", .type = SB_SET_NAME, .flags = SB_SET_REQUIRED, .offset = offsetof(struct hub_type, owner),
		.help = "The one stage where it may change." },
	{ .key = "subscribers", .type = SB_SET_STRINGS, .offset = offsetof(struct hub_type, subscribers), .max = 64,
		.help = "Stages that get a read-only copy." },
	{ .key = "public_down", .type = SB_SET_BOOL, .offset = offsetof(struct hub_type, public_down), .dflt = "false",
		.help = "Allows copies in stages before the owner in the list: key, public and masked columns, as its agent publishes them (down)." },
	{ .key = "history", .type = SB_SET_STRING, .offset = offsetof(struct hub_type, history), .dflt = "false",
		.help = "Keeps every version of every row: true for ever, or a duration such as 90d since a version ended. View <type>_history, function <type>_at(time)." },
	{ .key = NULL },
};

static const struct sb_setting dataset_table[] = {
	{ .key = "dataset", .type = SB_SET_TYPE, .flags = SB_SET_REQUIRED, .offset = offsetof(struct hub_dataset, dataset),
		.help = "Name of the dataset; its policy lives with the agent of the source stage." },
	{ .key = "from", .type = SB_SET_NAME, .flags = SB_SET_REQUIRED, .offset = offsetof(struct hub_dataset, from),
		.help = "Stage that anonymizes and sends it." },
	{ .key = "to", .type = SB_SET_STRINGS, .flags = SB_SET_REQUIRED, .offset = offsetof(struct hub_dataset, to), .min = 1, .max = 64,
		.help = "Stages that may ask for it." },
	{ .key = NULL },
};

static const struct sb_setting forge_table[] = {
	{ .key = "kind", .type = SB_SET_CHOICE, .offset = F(kind), .dflt = "bare", .choices = forge_choices,
		.help = "bare: plain repositories in a folder, pull requests in the sync view; gitea: a Gitea server." },
	{ .key = "path", .type = SB_SET_PATH, .offset = F(path), .help = "bare: folder of the repositories, <path>/<repository>.git." },
	{ .key = "url", .type = SB_SET_STRING, .offset = F(url), .help = "gitea: its address, https://gitea.example.org." },
	{ .key = "owner", .type = SB_SET_STRING, .offset = F(owner), .help = "gitea: organisation or user that owns the repositories." },
	{ .key = "token_file", .type = SB_SET_SECRET, .offset = F(token_file),
		.help = "gitea: file with the access token, mode 0400 or 0600." },
	{ .key = "token_user", .type = SB_SET_STRING, .offset = F(token_user), .help = "gitea: user that the token belongs to." },
	{ .key = "webhook_secret_file", .type = SB_SET_SECRET, .offset = F(webhook_secret_file),
		.help = "gitea: file with the secret that webhooks are signed with." },
	{ .key = "ca_file", .type = SB_SET_PATH, .offset = F(ca_file), .help = "gitea: certificates that may sign its certificate, PEM." },
	{ .key = "hook_url", .type = SB_SET_STRING, .offset = F(hook_url),
		.help = "gitea: where it reaches this hub, .../hooks/gitea/<tenant>; without it the hub polls alone." },
	{ .key = "poll", .type = SB_SET_DURATION, .offset = F(poll_ms), .dflt = "30s", .min = 100, .max = DAY_MS,
		.help = "How often branches and pull requests are looked at without a webhook." },
	{ .key = NULL },
};

static const struct sb_setting origin_table[] = {
	{ .key = "name", .type = SB_SET_TYPE, .flags = SB_SET_REQUIRED, .offset = offsetof(struct hub_origin, name),
		.help = "Name of a line of artifacts, as the stages know it." },
	{ .key = "repository", .type = SB_SET_STRING, .flags = SB_SET_REQUIRED, .offset = offsetof(struct hub_origin, repository),
		.help = "Its repository in the forge." },
	{ .key = NULL },
};

static const struct sb_setting keys_table[] = {
	{ .key = "identity", .type = SB_SET_SECRET, .flags = SB_SET_REQUIRED, .offset = T(keys.identity),
		.help = "The hub's private key file for this tenant, mode 0400." },
	{ .key = "keyring", .type = SB_SET_PATH, .flags = SB_SET_REQUIRED, .offset = T(keys.keyring),
		.help = "The tenant's keyring, signed by its root." },
	{ .key = "root", .type = SB_SET_PATH, .flags = SB_SET_REQUIRED, .offset = T(keys.root),
		.help = "Public key of the root that signs the keyring." },
	{ .key = NULL },
};

static const struct sb_setting tenant_table[] = {
	{ .key = "name", .type = SB_SET_NAME, .flags = SB_SET_REQUIRED, .offset = T(name),
		.help = "Name of the tenant, part of all its topics." },
	{ .key = "database", .type = SB_SET_STRING, .flags = SB_SET_REQUIRED, .offset = T(database),
		.help = "Connection string of the sync view's database (libpq); a password belongs in a passfile." },
	{ .key = "keys", .type = SB_SET_GROUP, .flags = SB_SET_REQUIRED, .sub = keys_table, .help = "Who we are and whom we trust." },
	{ .key = "stages", .type = SB_SET_LIST, .flags = SB_SET_REQUIRED, .offset = T(stages), .min = 1, .max = 64, .sub = stage_table, .item_size = sizeof(struct hub_stage),
		.help = "The stages, in the order of promotion." },
	{ .key = "types", .type = SB_SET_LIST, .offset = T(types), .max = 10000, .sub = type_table, .item_size = sizeof(struct hub_type),
		.help = "Entity types: who owns them, who gets copies." },
	{ .key = "datasets", .type = SB_SET_LIST, .offset = T(datasets), .max = 10000, .sub = dataset_table, .item_size = sizeof(struct hub_dataset),
		.help = "Which stage may ask which other for which anonymized dataset; everything else is refused." },
	{ .key = "forge", .type = SB_SET_GROUP, .flags = SB_SET_REQUIRED, .offset = T(forge), .sub = forge_table,
		.help = "Where the repositories live." },
	{ .key = "origins", .type = SB_SET_LIST, .offset = T(origins), .max = 1000, .sub = origin_table, .item_size = sizeof(struct hub_origin),
		.help = "Lines of artifacts and their repositories." },
	{ .key = "policy", .type = SB_SET_PATH, .offset = T(policy),
		.help = "Promotion policy, YAML; looked at every second. Without one, mode and soak of the stages are all there is." },
	{ .key = NULL },
};

static const struct sb_setting token_table[] = {
	{ .key = "name", .type = SB_SET_STRING, .flags = SB_SET_REQUIRED, .offset = offsetof(struct hub_token, name),
		.help = "Who holds it: the name that appears in approvals and in the audit." },
	{ .key = "file", .type = SB_SET_SECRET, .flags = SB_SET_REQUIRED, .offset = offsetof(struct hub_token, file),
		.help = "File with the bearer token, mode 0400 or 0600." },
	{ .key = "role", .type = SB_SET_CHOICE, .offset = offsetof(struct hub_token, role), .dflt = "viewer", .choices = role_choices,
		.help = "What it may do." },
	{ .key = NULL },
};

static const struct sb_setting http_table[] = {
	{ .key = "host", .type = SB_SET_STRING, .offset = S(http.host), .dflt = "127.0.0.1", .help = "Address to listen on." },
	{ .key = "port", .type = SB_SET_INT, .offset = S(http.port), .dflt = "8080", .min = 0, .max = 65535,
		.help = "Port to listen on; 0 picks a free one." },
	{ .key = "threads", .type = SB_SET_INT, .offset = S(http.threads), .dflt = "2", .min = 1, .max = 64,
		.help = "Threads that answer requests." },
	{ .key = "open", .type = SB_SET_BOOL, .offset = S(http.open), .dflt = "false",
		.help = "Viewer rights without a token: for the demo only." },
	{ .key = NULL },
};

static const struct sb_setting carrier_table[] = {
	{ .key = "window", .type = SB_SET_INT, .offset = S(carrier.window), .dflt = "16", .min = 2, .max = 1024,
		.help = "Chunks of 512 KiB that a transfer may have under way without credit." },
	{ .key = "max_bytes", .type = SB_SET_SIZE, .offset = S(carrier.max_bytes), .dflt = "8GiB", .min = 1024 * 1024,
		.help = "Largest file that is accepted or forwarded." },
	{ .key = NULL },
};

static const struct sb_setting deadlines_table[] = {
	{ .key = "ack", .type = SB_SET_DURATION, .offset = S(deadlines.ack_ms), .dflt = "15m", .min = 1000, .max = 30 * DAY_MS,
		.help = "How long a stage may take to accept an order before it counts as in doubt." },
	{ .key = "apply", .type = SB_SET_DURATION, .offset = S(deadlines.apply_ms), .dflt = "1h", .min = 1000, .max = 30 * DAY_MS,
		.help = "How long a stage may work on an accepted order." },
	{ .key = NULL },
};

static const struct sb_setting log_table[] = {
	{ .key = "level", .type = SB_SET_CHOICE, .offset = S(log.level), .dflt = "info", .choices = level_choices,
		.help = "Least important lines to write." },
	{ .key = "format", .type = SB_SET_CHOICE, .offset = S(log.format), .dflt = "logfmt", .choices = format_choices,
		.help = "Lines as key=value or as JSON." },
	{ .key = NULL },
};

const struct sb_setting hub_settings_table[] = {
	{ .key = "state_dir", .type = SB_SET_PATH, .flags = SB_SET_REQUIRED, .offset = S(state_dir),
		.help = "Folder of the hub's own files: repositories and spools; made 0700." },
	{ .key = "http", .type = SB_SET_GROUP, .sub = http_table, .help = "API, page, metrics, webhooks." },
	{ .key = "tokens", .type = SB_SET_LIST, .offset = S(tokens), .max = 1000, .sub = token_table, .item_size = sizeof(struct hub_token),
		.help = "Static bearer tokens for the demo and for machines." },
	{ .key = "tenants", .type = SB_SET_LIST, .flags = SB_SET_REQUIRED, .offset = S(tenants), .min = 1, .max = 64, .sub = tenant_table, .item_size = sizeof(struct hub_tenant),
		.help = "The tenants that this hub serves; they share the process and nothing else." },
	{ .key = "carrier", .type = SB_SET_GROUP, .sub = carrier_table, .help = "Large files: packs and datasets." },
	{ .key = "deadlines", .type = SB_SET_GROUP, .sub = deadlines_table, .help = "How long the promotion engine waits for a stage." },
	{ .key = "log", .type = SB_SET_GROUP, .sub = log_table, .help = "What is written to standard error." },
	{ .key = NULL },
};

int hub_settings_load(struct hub_settings *set, const char *file, struct sb_error *err)
{
	int r = sb_settings_load(hub_settings_table, set, file, err);
	if (r < 0)
		return r;
	r = hub_settings_check(set, file, err);
	if (r < 0)
		hub_settings_release(set);
	return r;
}

void hub_settings_release(struct hub_settings *set)
{
	sb_settings_release(hub_settings_table, set);
}
