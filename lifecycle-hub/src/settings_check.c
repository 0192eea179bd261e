/* Cross-checks of the settings. Main thread, at start. Every refusal names the key, the reason and, as far as the offending word can be
 * found in the file, the line. */
#include "settings_check.h"

#include <ctype.h>
#include <string.h>

#include "promote/policy.h"
#include "stagebridge/clock.h"
#include "stagebridge/file.h"
#include "stagebridge/text.h"

#define FILE_MAX (4 * 1024 * 1024)

struct check {
	const char *file;
	const struct hub_tenant *tenant;
	size_t at; /* index of the tenant */
	struct sb_error *err;
};

static bool word_char(char c)
{
	return isalnum((unsigned char)c) || c == '-' || c == '_';
}

/* Line of the nth occurrence of word, or of the last one when there are fewer; 0 when there is none */
static unsigned line_of(const char *text, const char *word, unsigned nth)
{
	size_t n = strlen(word);
	unsigned found = 0, at = 0, line = 1;

	for (const char *p = text; *p; p++) {
		if (*p == '\n')
			line++;
		if (strncmp(p, word, n) != 0 || word_char(p[n]) || (p > text && word_char(p[-1])))
			continue;
		at = line;
		if (++found == nth)
			break;
	}
	return at;
}

/* Puts "file:line: " before the message that is there */
static int refuse(const struct check *c, const char *word, unsigned nth)
{
	sb_cleanup(sb_freep) char *text = NULL;
	size_t n = 0;
	unsigned line = 0;

	if (word && *word && sb_file_read(c->file, FILE_MAX, &text, &n, NULL) == 0)
		line = line_of(text, word, nth);
	if (line)
		(void)sb_fail_prefix(c->err, "%s:%u", c->file, line);
	else
		(void)sb_fail_prefix(c->err, "%s", c->file);
	return SB_ECONFIG;
}

static int fail_unknown_stage(const struct check *c, const char *list, size_t i, const char *key, const char *name)
{
	(void)sb_fail(c->err, SB_ECONFIG, "tenants[%zu].%s[%zu].%s: \"%s\" is not one of the stages", c->at, list, i, key, name);
	return refuse(c, name, 1);
}

static int place_of(const struct hub_tenant *t, const char *stage)
{
	const struct hub_stage *item = t->stages.item;

	for (size_t i = 0; i < t->stages.count; i++) {
		if (strcmp(item[i].name, stage) == 0)
			return (int)i;
	}
	return -1;
}

static int check_broker(const struct check *c, size_t i, const struct hub_stage *stage)
{
	const struct hub_broker *b = &stage->broker;
	const char *missing = NULL;

	if (b->security == 2 && !b->user)
		missing = "user";
	else if (b->security == 2 && !b->password_file)
		missing = "password_file";
	else if (b->security != 0 && !b->ca_file)
		missing = "ca_file";
	else if (b->security == 1 && !b->cert_file)
		missing = "cert_file";
	else if (b->security == 1 && !b->key_file)
		missing = "key_file";
	if (!missing)
		return 0;
	(void)sb_fail(c->err, SB_ECONFIG, "tenants[%zu].stages[%zu].broker.%s: is needed with this \"security\"", c->at, i, missing);
	return refuse(c, "security", 1);
}

static int check_stages(const struct check *c)
{
	const struct hub_stage *stage = c->tenant->stages.item;
	size_t n = c->tenant->stages.count;
	bool promoted = false;

	for (size_t i = 0; i < n; i++) {
		if (strcmp(stage[i].name, "hub") == 0) {
			(void)sb_fail(c->err, SB_ECONFIG, "tenants[%zu].stages[%zu].name: \"hub\" is the hub's own name", c->at, i);
			return refuse(c, "hub", 1);
		}
		if (place_of(c->tenant, stage[i].name) != (int)i) {
			(void)sb_fail(c->err, SB_ECONFIG, "tenants[%zu].stages[%zu].name: \"%s\" is there twice", c->at, i, stage[i].name);
			return refuse(c, stage[i].name, 2);
		}
		int r = check_broker(c, i, &stage[i]);
		if (r < 0)
			return r;
		promoted = promoted || stage[i].promoted;
	}
	if (promoted)
		return 0;
	(void)sb_fail(c->err, SB_ECONFIG, "tenants[%zu].stages: none of them is promoted", c->at);
	return refuse(c, "stages", 1);
}

static int check_subscribers(const struct check *c, size_t i, const struct hub_type *type)
{
	for (size_t k = 0; k < type->subscribers.count; k++) {
		const char *name = type->subscribers.item[k];
		int place = place_of(c->tenant, name);
		if (place < 0)
			return fail_unknown_stage(c, "types", i, "subscribers", name);
		if (strcmp(name, type->owner) == 0) {
			(void)sb_fail(c->err, SB_ECONFIG, "tenants[%zu].types[%zu].subscribers: \"%s\" owns the type and needs no copy",
				c->at, i, name);
			return refuse(c, type->type, 1);
		}
		if (place < place_of(c->tenant, type->owner) && !type->public_down) {
			(void)sb_fail(c->err, SB_ECONFIG,
				"tenants[%zu].types[%zu].subscribers: \"%s\" comes before the owner \"%s\": data goes down only when "
				"public_down says so",
				c->at, i, name, type->owner);
			return refuse(c, type->type, 1);
		}
	}
	return 0;
}

int hub_type_history(const struct hub_type *t, bool *ret_on, int64_t *ret_keep_ms, struct sb_error *err)
{
	*ret_keep_ms = 0;
	*ret_on = strcmp(t->history, "false") != 0;
	if (!*ret_on || strcmp(t->history, "true") == 0)
		return 0;
	if (sb_parse_duration_ms(t->history, "history", ret_keep_ms, NULL) < 0 || *ret_keep_ms < 3600 * 1000)
		return sb_fail(err, SB_ECONFIG, "history is \"%s\": expected true, false, or a duration of at least 1h such as 90d", t->history);
	return 0;
}

/* The view of versions is named <type>_history beside the type's own */
static int check_history(const struct check *c, size_t i, const struct hub_type *type)
{
	const struct hub_type *other = c->tenant->types.item;
	size_t n = strlen(type->type);
	int64_t keep_ms;
	bool on;

	struct sb_error why = SB_ERROR_INIT;
	if (hub_type_history(type, &on, &keep_ms, &why) < 0) {
		(void)sb_fail(c->err, SB_ECONFIG, "tenants[%zu].types[%zu].%s", c->at, i, why.msg);
		return refuse(c, type->history, 1);
	}
	for (size_t k = 0; on && k < c->tenant->types.count; k++) {
		if (strncmp(other[k].type, type->type, n) == 0 && strcmp(other[k].type + n, "_history") == 0 && strcmp(other[k].owner, type->owner) == 0) {
			(void)sb_fail(c->err, SB_ECONFIG, "tenants[%zu].types[%zu].history: its view would be named \"%s\", which is a type of its own", c->at, i,
				other[k].type);
			return refuse(c, type->type, 1);
		}
	}
	if (on && n + sizeof("_history") - 1 > SB_TYPE_MAX) {
		(void)sb_fail(c->err, SB_ECONFIG, "tenants[%zu].types[%zu].history: the name of the type is too long for a view \"<type>_history\"", c->at, i);
		return refuse(c, type->type, 1);
	}
	return 0;
}

static int check_types(const struct check *c)
{
	const struct hub_type *type = c->tenant->types.item;
	int r = 0;

	for (size_t i = 0; r == 0 && i < c->tenant->types.count; i++) {
		if (place_of(c->tenant, type[i].owner) < 0)
			return fail_unknown_stage(c, "types", i, "owner", type[i].owner);
		for (size_t k = 0; k < i; k++) {
			if (strcmp(type[k].type, type[i].type) == 0) {
				(void)sb_fail(c->err, SB_ECONFIG, "tenants[%zu].types[%zu].type: \"%s\" has an owner already", c->at, i,
					type[i].type);
				return refuse(c, type[i].type, 2);
			}
		}
		r = check_subscribers(c, i, &type[i]);
		if (r == 0)
			r = check_history(c, i, &type[i]);
	}
	return r;
}

static int check_datasets(const struct check *c)
{
	const struct hub_dataset *set = c->tenant->datasets.item;

	for (size_t i = 0; i < c->tenant->datasets.count; i++) {
		if (place_of(c->tenant, set[i].from) < 0)
			return fail_unknown_stage(c, "datasets", i, "from", set[i].from);
		for (size_t k = 0; k < set[i].to.count; k++) {
			if (place_of(c->tenant, set[i].to.item[k]) < 0)
				return fail_unknown_stage(c, "datasets", i, "to", set[i].to.item[k]);
			if (strcmp(set[i].to.item[k], set[i].from) == 0) {
				(void)sb_fail(c->err, SB_ECONFIG, "tenants[%zu].datasets[%zu].to: \"%s\" is where the dataset comes from",
					c->at, i, set[i].from);
				return refuse(c, set[i].dataset, 1);
			}
		}
		for (size_t k = 0; k < i; k++) {
			if (strcmp(set[k].dataset, set[i].dataset) == 0 && strcmp(set[k].from, set[i].from) == 0) {
				(void)sb_fail(c->err, SB_ECONFIG, "tenants[%zu].datasets[%zu].dataset: \"%s\" from \"%s\" is there twice",
					c->at, i, set[i].dataset, set[i].from);
				return refuse(c, set[i].dataset, 2);
			}
		}
	}
	return 0;
}

static int check_forge(const struct check *c)
{
	const struct hub_forge *f = &c->tenant->forge;
	const char *missing = NULL;

	if (f->kind == HUB_FORGE_BARE && !f->path)
		missing = "path";
	else if (f->kind == HUB_FORGE_GITEA && !f->url)
		missing = "url";
	else if (f->kind == HUB_FORGE_GITEA && !f->owner)
		missing = "owner";
	else if (f->kind == HUB_FORGE_GITEA && !f->token_file)
		missing = "token_file";
	else if (f->kind == HUB_FORGE_GITEA && !f->token_user)
		missing = "token_user";
	else if (f->kind == HUB_FORGE_GITEA && f->hook_url && *f->hook_url && !f->webhook_secret_file)
		missing = "webhook_secret_file";
	if (!missing)
		return 0;
	(void)sb_fail(c->err, SB_ECONFIG, "tenants[%zu].forge.%s: is needed with this kind of forge", c->at, missing);
	return refuse(c, "forge", (unsigned)c->at + 1);
}

static int check_origins(const struct check *c)
{
	const struct hub_origin *origin = c->tenant->origins.item;

	for (size_t i = 0; i < c->tenant->origins.count; i++) {
		for (size_t k = 0; k < i; k++) {
			bool name = strcmp(origin[k].name, origin[i].name) == 0;
			if (!name && strcmp(origin[k].repository, origin[i].repository) != 0)
				continue;
			const char *word = name ? origin[i].name : origin[i].repository;
			(void)sb_fail(c->err, SB_ECONFIG, "tenants[%zu].origins[%zu].%s: \"%s\" is there twice", c->at, i,
				name ? "name" : "repository", word);
			return refuse(c, word, name ? 2 : UINT32_MAX);
		}
	}
	return 0;
}

/* The policy has messages with places of its own */
static int check_policy(const struct check *c)
{
	struct sb_policy policy;

	int r = hub_policy_load(&policy, c->tenant, sb_wall_ms(), c->err);
	sb_policy_release(&policy);
	return r;
}

/* Tenants share the process, never data: two of them in one database would be a leak by configuration */
static int check_apart(const struct check *c, const struct hub_tenant *tenant)
{
	for (size_t k = 0; k < c->at; k++) {
		if (strcmp(tenant[k].name, c->tenant->name) == 0) {
			(void)sb_fail(c->err, SB_ECONFIG, "tenants[%zu].name: \"%s\" is there twice", c->at, c->tenant->name);
			return refuse(c, c->tenant->name, 2);
		}
		if (strcmp(tenant[k].database, c->tenant->database) == 0) {
			(void)sb_fail(
				c->err, SB_ECONFIG, "tenants[%zu].database: is the one of tenant \"%s\" already", c->at, tenant[k].name);
			return refuse(c, "database", (unsigned)c->at + 1);
		}
	}
	return 0;
}

static int check_tokens(const struct hub_settings *set, const struct check *c)
{
	const struct hub_token *token = set->tokens.item;

	for (size_t i = 0; i < set->tokens.count; i++) {
		for (size_t k = 0; k < i; k++) {
			if (strcmp(token[k].name, token[i].name) == 0) {
				(void)sb_fail(c->err, SB_ECONFIG, "tokens[%zu].name: \"%s\" is there twice", i, token[i].name);
				return refuse(c, token[i].name, 2);
			}
		}
	}
	return 0;
}

int hub_settings_check(const struct hub_settings *set, const char *file, struct sb_error *err)
{
	int (*const steps[])(const struct check *) = { check_stages, check_types, check_datasets, check_forge, check_origins, check_policy };
	const struct hub_tenant *tenant = set->tenants.item;
	struct check c = { .file = file, .err = err };

	int r = check_tokens(set, &c);
	for (size_t i = 0; r == 0 && i < set->tenants.count; i++) {
		c.tenant = &tenant[i];
		c.at = i;
		r = check_apart(&c, tenant);
		for (size_t k = 0; r == 0 && k < SB_COUNT(steps); k++)
			r = steps[k](&c);
	}
	return r;
}
