/* The agent's settings: the sample is valid, defaults are in force, and what no single row can say is refused with the key that is wrong. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "columns.h"
#include "settings.h"
#include "stagebridge/log.h"
#include "stagebridge/text.h"
#include "support.h"

#define BASE "tenant: acme\nstage: dev\nbroker: {servers: 'localhost:9092'}\nkeys: {identity: a.key, keyring: k.json, root: r.pub}\n"
#define TABLE "{table: public.a, type: a}"
#define DOWN(more) "postgres: [{name: app, conninfo: x, tables: [{table: public.a, type: a, " more "}]}]\n"

/* Key files are looked at when settings are read: they are beside the file here. */
static int load(struct agent_settings *set, const char *yaml, struct sb_error *err)
{
	static const char *const secrets[] = { "a.key", "dev.key", "broker.password", "pseudonym.key" };
	char path[TEST_PATH_MAX];

	for (size_t i = 0; i < SB_COUNT(secrets); i++) {
		test_path(path, secrets[i]);
		(void)unlink(path); /* of the load before, when there was one */
		test_write(path, "x", 0400);
	}
	test_path(path, "agent.yaml");
	test_write(path, yaml, 0600);
	return agent_settings_load(set, path, err);
}

START_TEST(test_defaults)
{
	struct agent_settings set;
	struct sb_error err = SB_ERROR_INIT;

	ck_assert_msg(load(&set, BASE, &err) == 0, "%s", err.msg);
	ck_assert_str_eq(set.state_dir, "/var/lib/stagebridge/agent");
	ck_assert_str_eq(set.api.socket, "/run/stagebridge/agent.sock");
	ck_assert_int_eq(set.api.mode, 660);
	ck_assert_int_eq(set.broker.security, 0);
	ck_assert_int_eq(set.broker.fetch_wait_ms, 100);
	ck_assert_int_eq(set.heartbeat.interval_ms, 10000);
	ck_assert_int_eq(set.carrier.window, 4);
	ck_assert_uint_eq(set.carrier.max_bytes, 4ULL << 30);
	ck_assert_uint_eq(set.datasets.max_bytes, 2ULL << 30);
	ck_assert_int_eq(set.log.level, SB_INFO);
	ck_assert_str_eq(set.replica.conninfo, "");
	ck_assert(set.keys.identity[0] == '/');
	agent_settings_release(&set);
	ck_assert_ptr_null(set.tenant);
}
END_TEST

START_TEST(test_names_are_completed)
{
	struct agent_settings set;
	struct sb_error err = SB_ERROR_INIT;

	ck_assert_msg(load(&set, "tenant: acme\nstage: pre-prod\nbroker: {servers: 'localhost:9092'}\nkeys: {identity: a.key, keyring: k.json, root: r.pub}\n"
		"postgres: [{name: my-app, conninfo: dbname=x, tables: [" TABLE "]}]\n", &err) == 0, "%s", err.msg);
	const struct agent_pg_source *pg = set.postgres.item;
	ck_assert_str_eq(pg->slot, "stagebridge_pre_prod_my_app");
	ck_assert_str_eq(pg->publication, pg->slot);
	agent_settings_release(&set);
}
END_TEST

/* The sample with its files beside it instead of in /etc. Returns new. */
static char *local_sample(void)
{
	static const char etc[] = "/etc/stagebridge/";
	char *sample = test_read("config/agent.sample.yaml");

	for (char *p = strstr(sample, etc); p; p = strstr(p, etc))
		memmove(p, p + strlen(etc), strlen(p + strlen(etc)) + 1);
	return sample;
}

START_TEST(test_sample_is_valid)
{
	struct agent_settings set;
	struct sb_error err = SB_ERROR_INIT;
	struct sb_buf out;
	char *sample = local_sample();

	ck_assert_msg(load(&set, sample, &err) == 0, "%s", err.msg);
	free(sample);
	ck_assert_uint_eq(set.postgres.count, 1);
	const struct agent_pg_source *pg = set.postgres.item;
	ck_assert_uint_eq(pg->tables.count, 3);
	const struct agent_table *t = pg->tables.item;
	ck_assert_uint_eq(t[1].key.count, 2);
	ck_assert_str_eq(t[1].private_columns.item[0], "annotator_email");
	ck_assert_int_eq(t[0].new_columns, AGENT_NEW_WITHHOLD);
	ck_assert_int_eq(t[1].new_columns, AGENT_NEW_SEND);
	ck_assert(!t[1].down && t[2].down);
	ck_assert_uint_eq(t[2].masks.count, 8);
	ck_assert_uint_eq(set.directories.count, 2);
	ck_assert_int_eq(((const struct agent_dir_source *)set.directories.item)[1].format, AGENT_DIR_JSONL);
	ck_assert_uint_eq(set.origins.count, 1);
	ck_assert_int_eq(((const struct agent_origin *)set.origins.item)->timeout_ms, 300000);
	/* what is printed is what was read */
	sb_buf_init(&out, 1 << 20);
	sb_settings_print(agent_settings_table, &set, &out);
	agent_settings_release(&set);
	ck_assert_msg(load(&set, out.data, &err) == 0, "%s", err.msg);
	ck_assert_str_eq(((const struct agent_pg_source *)set.postgres.item)->publication, "stagebridge");
	agent_settings_release(&set);
	sb_buf_release(&out);
}
END_TEST

START_TEST(test_column_classes)
{
	struct agent_settings set;
	struct sb_error err = SB_ERROR_INIT;
	char *sample = local_sample();

	ck_assert_msg(load(&set, sample, &err) == 0, "%s", err.msg);
	free(sample);
	const struct agent_table *t = &((const struct agent_table *)((const struct agent_pg_source *)set.postgres.item)->tables.item)[2];
	ck_assert_int_eq(agent_column_class(t, "iban"), AGENT_PRIVATE);
	ck_assert_int_eq(agent_column_class(t, "phone"), AGENT_INTERNAL);
	ck_assert_int_eq(agent_column_class(t, "plan"), AGENT_PUBLIC);
	ck_assert_int_eq(agent_column_class(t, "email"), AGENT_MASKED);
	ck_assert_int_eq(agent_column_class(t, "Email"), AGENT_UNDECLARED); /* names are PostgreSQL's, to the letter */
	ck_assert_ptr_null(agent_column_mask(t, "plan"));
	ck_assert_ptr_null(agent_column_key_refusal(t, "id"));
	ck_assert_ptr_null(agent_column_key_refusal(t, "plan"));
	ck_assert(strstr(agent_column_key_refusal(t, "zip"), "pseudonym only"));
	ck_assert(strstr(agent_column_key_refusal(t, "phone"), "declare it public"));
	agent_settings_release(&set);
}
END_TEST

/* every key of the table is in the sample, so that the sample teaches all of them */
static void every_key(const struct sb_setting *table, const char *sample)
{
	for (const struct sb_setting *s = table; s->key; s++) {
		char key[80];
		(void)snprintf(key, sizeof(key), "%s:", s->key);
		ck_assert_msg(strstr(sample, key), "config/agent.sample.yaml lacks \"%s\"", s->key);
		ck_assert_msg(s->help && *s->help, "key \"%s\" has no help", s->key);
		if (s->sub)
			every_key(s->sub, sample);
	}
}

START_TEST(test_sample_has_all_keys)
{
	char *sample = test_read("config/agent.sample.yaml");

	every_key(agent_settings_table, sample);
	free(sample);
}
END_TEST

static const struct { const char *yaml, *message; } bad[] = {
	{ "tenant: acme\n", "stage" },
	{ BASE "speed: 3\n", "speed" },
	{ BASE "heartbeat: {interval: 10}\n", "heartbeat.interval" },
	{ BASE "heartbeat: {interval: 1ms}\n", "heartbeat.interval" },
	{ BASE "carrier: {window: 0}\n", "carrier.window" },
	{ BASE "api: {mode: 680}\n", "api.mode: is not three octal digits" },
	{ "tenant: acme\nstage: hub\nbroker: {servers: 'localhost:9092'}\nkeys: {identity: a.key, keyring: k.json, root: r.pub}\n", "stage: is the hub's own name" },
	{ "tenant: acme\nstage: dev\nbroker: {servers: a, security: sasl_ssl}\nkeys: {identity: a.key, keyring: k.json, root: r.pub}\n", "sasl_ssl needs user" },
	{ "tenant: acme\nstage: dev\nbroker: {servers: a, security: ssl, cert_file: x}\nkeys: {identity: a.key, keyring: k.json, root: r.pub}\n", "go together" },
	{ BASE "datasets: {policies: p}\n", "datasets.secret" },
	{ BASE "users: [{unix: a, user: x}, {unix: a, user: y}]\n", "users.unix: is there twice \"a\"" },
	{ BASE "postgres: [{name: app, conninfo: x, tables: [{table: nodot, type: a}]}]\n", "is not schema.table \"nodot\"" },
	{ BASE "postgres: [{name: app, conninfo: x, slot: 'A B', tables: [" TABLE "]}]\n", "postgres.slot" },
	{ BASE "postgres: [{name: app, conninfo: x, tables: [" TABLE ", {table: public.a, type: b}]}]\n", "is there twice \"public.a\"" },
	{ BASE "postgres: [{name: app, conninfo: x, tables: [" TABLE ", {table: public.b, type: a}]}]\n", "comes from two places \"a\"" },
	{ BASE DOWN("private: [x], public: [x]"), "private: table \"public.a\": column \"x\" is declared twice" },
	{ BASE DOWN("public: [x, x]"), "column \"x\" is declared twice" },
	{ BASE DOWN("internal: [x], masks: [{column: x, op: suppress}]"), "column \"x\" is declared twice" },
	{ BASE DOWN("public: ['']"), "a column has no name" },
	{ BASE DOWN("masks: [{column: x, op: blur}]"), "column \"x\": op: \"blur\" is none of" },
	{ BASE DOWN("masks: [{column: x, op: keep, reason: y}]"), "keep is what `public` says" },
	{ BASE DOWN("masks: [{column: x, op: drop}]"), "drop is what `internal` says" },
	{ BASE DOWN("masks: [{column: x, op: round}]"), "column \"x\": step: is required by round" },
	{ BASE DOWN("masks: [{column: x, op: round, step: 1, null: refuse}]"), "changes must not wait" },
	{ BASE DOWN("masks: [{column: x, op: pseudonym, domain: d}]"), "set datasets.secret" },
	{ BASE DOWN("down: true, internal: [x]"), "down: table \"public.a\": needs columns that may go down" },
	{ BASE DOWN("down: true, key: [k], public: [x]"), "column \"k\": rows are told apart by it: declare it public" },
	{ BASE DOWN("down: true, key: [k], public: [x], masks: [{column: k, op: prefix, n: 2}]"), "column \"k\": rows are told apart by it, and its rule makes" },
	{ BASE DOWN("new_columns: maybe"), "postgres[0].tables[0].new_columns" },
	{ BASE "postgres: [{name: s, conninfo: x, tables: [" TABLE "]}]\ndirectories: [{name: s, type: b, path: p}]\n", "directories.name: is there twice \"s\"" },
	{ BASE "directories: [{name: a, type: x, path: p}, {name: b, type: x, path: q}]\n", "comes from two places \"x\"" },
	{ BASE "directories: [{name: a, type: x, path: p, format: csv}]\n", "directories.key" },
	{ BASE "origins: [{name: m, deploy_dir: /x}, {name: m, deploy_dir: /y}]\n", "origins.name: is there twice \"m\"" },
	{ BASE "origins: [{name: m, deploy_dir: /x}, {name: n, deploy_dir: /x}]\n", "origins.deploy_dir" },
	{ BASE "origins: [{name: m, deploy_dir: /x, environment: [SB_STAGE=prod]}]\n", "SB_*" },
	{ BASE "origins: [{name: m, deploy_dir: /x, environment: [nothing]}]\n", "KEY=VALUE" },
};

START_TEST(test_refused)
{
	struct agent_settings set;
	struct sb_error err = SB_ERROR_INIT;

	memset(&set, 0x5a, sizeof(set));
	ck_assert_int_eq(load(&set, bad[_i].yaml, &err), SB_ECONFIG);
	ck_assert_msg(strstr(err.msg, bad[_i].message), "\"%s\" is not in \"%s\"", bad[_i].message, err.msg);
	ck_assert_msg(strstr(err.msg, "agent.yaml"), "no file in \"%s\"", err.msg);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("agent settings");
	TCase *tc = tcase_create("settings");

	tcase_add_test(tc, test_defaults);
	tcase_add_test(tc, test_names_are_completed);
	tcase_add_test(tc, test_sample_is_valid);
	tcase_add_test(tc, test_column_classes);
	tcase_add_test(tc, test_sample_has_all_keys);
	tcase_add_loop_test(tc, test_refused, 0, (int)SB_COUNT(bad));
	suite_add_tcase(s, tc);
	return test_run(s);
}
