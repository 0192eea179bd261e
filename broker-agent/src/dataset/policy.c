/* Policies: the settings table of a policy file, and what no single row of it can say. The file is read once, so that the digest in the attestation is
 * that of the very bytes that were followed. The dataset lane's thread. */
#include "policy.h"

#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "operator.h"
#include "stagebridge/file.h"
#include "stagebridge/text.h"

#define FILE_MAX (1u << 20)
#define COLUMN_NAME_MAX 63

const char *const agent_role_names[] = { "direct", "quasi", "sensitive", "key", "subject", "public", "drop", NULL };
static const char *const mode_choices[] = { "ephemeral", "stored", NULL };

#define END { .key = NULL }
#define AT(field) .flags = SB_SET_FILE_ONLY, .offset = offsetof(struct agent_policy, field)
#define MUST(field) .flags = SB_SET_FILE_ONLY | SB_SET_REQUIRED, .offset = offsetof(struct agent_policy, field)
#define GROUP(name, table, text) { .key = name, .type = SB_SET_GROUP, .flags = SB_SET_OPTIONAL, .sub = table, .help = text }

static const struct sb_setting column_table[] = {
	{ .key = "name", .type = SB_SET_STRING, .flags = SB_SET_REQUIRED, AGENT_RULE_AT(name), .help = "The column, as the source spells it." },
	{ .key = "role", .type = SB_SET_CHOICE, .flags = SB_SET_REQUIRED, AGENT_RULE_AT(role), .choices = agent_role_names, .help = "What it says of a person." },
	AGENT_RULE_PARAMETERS,
	END,
};

static const struct sb_setting postgres_table[] = {
	{ .key = "conninfo", .type = SB_SET_STRING, MUST(source.postgres.conninfo), .help = "libpq connection string; a role that may only read." },
	{ .key = "query", .type = SB_SET_STRING, AT(source.postgres.query), .help = "One SELECT; names qualified by their schema." },
	{ .key = "table", .type = SB_SET_STRING, AT(source.postgres.table), .help = "Instead of a query: schema.table." },
	END,
};

static const struct sb_setting csv_table[] = {
	{ .key = "path", .type = SB_SET_STRING, MUST(source.csv.path), .help = "CSV file with a header; relative to the policy's folder." },
	END,
};

static const struct sb_setting source_table[] = {
	GROUP("postgres", postgres_table, "Rows of a database."),
	GROUP("csv", csv_table, "Rows of a file."),
	{ .key = "fingerprint", .type = SB_SET_STRING, AT(source.fingerprint), .dflt = "", .help = "The attested source_fingerprint: another one is refused." },
	END,
};

static const struct sb_setting keys_table[] = {
	{ .key = "mode", .type = SB_SET_CHOICE, AT(keys.mode), .dflt = "ephemeral", .choices = mode_choices,
	  .help = "ephemeral: tokens of one run only; stored: the same tokens again, from the stage's root key." },
	{ .key = "epoch", .type = SB_SET_STRING, AT(keys.epoch), .dflt = "", .help = "stored: another word, other tokens." },
	{ .key = "link", .type = SB_SET_STRING, AT(keys.link), .dflt = "dataset", .help = "stored: dataset, or group:<name> for datasets that may be joined." },
	END,
};

static const struct sb_setting limits_table[] = {
	{ .key = "min_rows", .type = SB_SET_INT, AT(limits.min_rows), .dflt = "100", .min = 1, .max = INT64_MAX, .help = "Fewer rows are refused." },
	{ .key = "max_rows", .type = SB_SET_INT, AT(limits.max_rows), .dflt = "50000000", .min = 1, .max = INT64_MAX, .help = "More rows are refused." },
	END,
};

static const struct sb_setting policy_table[] = {
	{ .key = "policy", .type = SB_SET_TYPE, MUST(name), .help = "Name of the policy." },
	{ .key = "version", .type = SB_SET_STRING, MUST(version), .help = "Its version, for people." },
	{ .key = "source", .type = SB_SET_GROUP, .flags = SB_SET_REQUIRED, .sub = source_table, .help = "Where the rows come from." },
	{ .key = "recipients", .type = SB_SET_STRINGS, MUST(recipients), .min = 1, .max = 64, .help = "Stages that may have it." },
	GROUP("keys", keys_table, "Keys of pseudonyms."),
	GROUP("limits", limits_table, "Limits."),
	{ .key = "columns", .type = SB_SET_LIST, MUST(columns), .min = 1, .max = SB_COLUMNS_MAX, .sub = column_table,
	  .item_size = sizeof(struct agent_rule), .help = "One rule for every column of the source." },
	END,
};

static bool has(const char *s)
{
	return s && *s;
}

static int check_source(const struct agent_policy *p, const char *file, struct sb_error *err)
{
	bool postgres = has(p->source.postgres.conninfo), csv = has(p->source.csv.path);

	if (postgres == csv)
		return sb_fail(err, SB_ECONFIG, "%s: source: needs either postgres or csv", file);
	if (postgres && has(p->source.postgres.query) == has(p->source.postgres.table))
		return sb_fail(err, SB_ECONFIG, "%s: source.postgres: needs either query or table", file);
	if (postgres && has(p->source.postgres.table)) {
		const char *dot = strchr(p->source.postgres.table, '.');
		if (!dot || dot == p->source.postgres.table || !dot[1])
			return sb_fail(err, SB_ECONFIG, "%s: source.postgres.table: is not schema.table", file);
	}
	if (has(p->source.fingerprint) && !sb_hex_ok(p->source.fingerprint, 64))
		return sb_fail(err, SB_ECONFIG, "%s: source.fingerprint: is not 64 hex digits", file);
	return 0;
}

static int check_keys(const struct agent_policy *p, const char *file, struct sb_error *err)
{
	bool group = strncmp(p->keys.link, "group:", 6) == 0;

	if (group ? !sb_type_ok(p->keys.link + 6) : strcmp(p->keys.link, "dataset") != 0)
		return sb_fail(err, SB_ECONFIG, "%s: keys.link: is neither dataset nor group:<name>", file);
	if (p->keys.mode == AGENT_KEYS_EPHEMERAL && (group || has(p->keys.epoch)))
		return sb_fail(err, SB_ECONFIG, "%s: keys.mode: ephemeral keys have no epoch and link nothing", file);
	if (p->keys.mode == AGENT_KEYS_STORED && !has(p->keys.epoch))
		return sb_fail(err, SB_ECONFIG, "%s: keys.epoch: is required with stored keys", file);
	return 0;
}

static int check_recipients(const struct agent_policy *p, const char *file, struct sb_error *err)
{
	for (size_t i = 0; i < p->recipients.count; i++) {
		if (!sb_name_ok(p->recipients.item[i]))
			return sb_fail(err, SB_ECONFIG, "%s: recipients[%zu]: is not a stage", file, i);
	}
	return 0;
}

static int fail_rule(const struct agent_rule *rule, size_t i, const char *file, const char *reason, struct sb_error *err)
{
	return sb_fail(err, SB_ECONFIG, "%s:%zu: columns[%zu].%s", file, rule->line, i, reason);
}

static int check_columns(struct agent_policy *p, const char *file, struct sb_error *err)
{
	struct agent_rule *rule = p->columns.item;
	struct sb_error why = SB_ERROR_INIT;
	bool emits = false;

	for (size_t i = 0; i < p->columns.count; i++) {
		if (!has(rule[i].name) || strlen(rule[i].name) > COLUMN_NAME_MAX)
			return fail_rule(&rule[i], i, file, "name: is not 1 to 63 bytes", err);
		if (agent_policy_rule(p, rule[i].name) != &rule[i])
			return fail_rule(&rule[i], i, file, "name: the column has a rule already", err);
		int r = agent_rule_prepare(&rule[i], &why);
		if (r == SB_ENOMEM)
			return sb_fail_nomem(err);
		if (r < 0)
			return fail_rule(&rule[i], i, file, why.msg, err);
		emits = emits || rule[i].operator->emits;
	}
	return emits ? 0 : sb_fail(err, SB_ECONFIG, "%s: columns: none of them is in the output", file);
}

static int resolve_path(struct agent_policy *p, const char *folder, struct sb_error *err)
{
	char *path;

	if (!has(p->source.csv.path) || p->source.csv.path[0] == '/')
		return 0;
	path = sb_asprintf("%s/%s", folder, p->source.csv.path);
	if (!path)
		return sb_fail_nomem(err);
	free(p->source.csv.path);
	p->source.csv.path = path;
	return 0;
}

int agent_policy_parse(struct agent_policy *ret, const char *yaml, size_t n, const char *file, const char *folder, struct sb_error *err)
{
	struct agent_policy p = { .name = NULL };
	uint8_t digest[crypto_hash_sha256_BYTES];

	int r = sb_settings_parse(policy_table, &p, yaml, n, file, err);
	if (r < 0)
		return r;
	(void)crypto_hash_sha256(digest, (const uint8_t *)yaml, n); /* always 0 */
	sb_hex(p.digest, digest, sizeof(digest));
	agent_policy_lines(&p, yaml, n);
	r = check_source(&p, file, err);
	if (r == 0)
		r = check_keys(&p, file, err);
	if (r == 0)
		r = check_recipients(&p, file, err);
	if (r == 0)
		r = check_columns(&p, file, err);
	if (r == 0 && p.limits.min_rows > p.limits.max_rows)
		r = sb_fail(err, SB_ECONFIG, "%s: limits.min_rows: is above max_rows", file);
	if (r == 0)
		r = resolve_path(&p, folder, err);
	if (r < 0)
		agent_policy_release(&p);
	else
		*ret = p;
	return r;
}

int agent_policy_load(struct agent_policy *ret, const char *folder, const char *dataset, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *path = NULL, *file = NULL, *yaml = NULL;
	size_t n = 0;

	/* the name becomes a file name: nothing else may get here */
	if (!sb_type_ok(dataset))
		return sb_fail(err, SB_EINVAL, "dataset name is malformed");
	file = sb_asprintf("%s.yaml", dataset);
	path = sb_asprintf("%s/%s.yaml", folder, dataset);
	if (!file || !path)
		return sb_fail_nomem(err);
	int r = sb_file_read(path, FILE_MAX, &yaml, &n, err);
	return r < 0 ? r : agent_policy_parse(ret, yaml, n, file, folder, err);
}

void agent_policy_release(struct agent_policy *p)
{
	struct agent_rule *rule = p->columns.item;

	for (size_t i = 0; i < p->columns.count; i++)
		agent_rule_release(&rule[i]);
	sb_settings_release(policy_table, p);
}

bool agent_policy_allows(const struct agent_policy *p, const char *stage)
{
	for (size_t i = 0; i < p->recipients.count; i++) {
		if (strcmp(p->recipients.item[i], stage) == 0)
			return true;
	}
	return false;
}

const struct agent_rule *agent_policy_rule(const struct agent_policy *p, const char *column)
{
	const struct agent_rule *rule = p->columns.item;

	for (size_t i = 0; i < p->columns.count; i++) {
		if (strcmp(rule[i].name, column) == 0)
			return &rule[i];
	}
	return NULL;
}
