/* The hub's settings: the sample loads, defaults are what the reference says, and every cross-check names its key. */
#include <stdio.h>
#include <string.h>

#include "hub.h"
#include "stagebridge/file.h"
#include "support.h"

static const char good[] = "state_dir: state\n"
			   "tokens:\n"
			   "  - { name: ci, file: secret, role: admin }\n"
			   "tenants:\n"
			   "  - name: acme\n"
			   "    database: dbname=hub_acme\n"
			   "    keys: { identity: secret, keyring: keyring.json, root: root.pub }\n"
			   "    stages:\n"
			   "      - { name: dev, broker: { servers: \"a:1\" } }\n"
			   "      - { name: train, mode: auto, soak: 2h, broker: { servers: \"b:1\", fetch_wait: 10ms } }\n"
			   "      - { name: explore, promoted: false, broker: { servers: \"c:1\" } }\n"
			   "    types:\n"
			   "      - { type: experiment, owner: dev, subscribers: [train, explore] }\n"
			   "      - { type: card, owner: train, subscribers: [dev], public_down: true }\n"
			   "    datasets:\n"
			   "      - { dataset: customers, from: train, to: [dev] }\n"
			   "    forge: { kind: bare, path: forge }\n"
			   "    origins:\n"
			   "      - { name: model, repository: model }\n";

static int load(struct hub_settings *set, const char *yaml, struct sb_error *err)
{
	char path[TEST_PATH_MAX];

	test_path(path, "secret");
	test_write(path, "token-0123456789abcdef", 0600);
	test_path(path, "hub.yaml");
	test_write(path, yaml, 0644);
	return hub_settings_load(set, path, err);
}

/* good with one piece replaced */
static char *changed(const char *old, const char *new)
{
	const char *at = strstr(good, old);

	ck_assert_msg(at != NULL, "\"%s\" is not in the sample", old);
	return sb_asprintf("%.*s%s%s", (int)(at - good), good, new, at + strlen(old));
}

START_TEST(test_good)
{
	struct hub_settings set = { 0 };
	struct sb_error err = SB_ERROR_INIT;

	ck_assert_msg(load(&set, good, &err) == 0, "%s", err.msg);
	ck_assert_uint_eq(set.tenants.count, 1);
	const struct hub_tenant *t = set.tenants.item;
	ck_assert_uint_eq(t->stages.count, 3);
	const struct hub_stage *stage = t->stages.item;
	ck_assert_str_eq(stage[0].name, "dev");
	ck_assert_int_eq(stage[0].mode, HUB_MODE_MANUAL);
	ck_assert(stage[0].promoted);
	ck_assert_int_eq(stage[0].broker.fetch_wait_ms, 100);
	ck_assert_int_eq(stage[1].mode, HUB_MODE_AUTO);
	ck_assert_int_eq(stage[1].soak_ms, 2 * 3600 * 1000);
	ck_assert_int_eq(stage[1].broker.fetch_wait_ms, 10);
	ck_assert(!stage[2].promoted);
	ck_assert_int_eq(hub_stage_position(t, "explore"), 2);
	ck_assert_int_eq(hub_stage_position(t, "prod"), -1);
	ck_assert_ptr_eq(hub_stage_find(t, "train"), &stage[1]);
	ck_assert_str_eq(hub_type_find(t, "card")->owner, "train");
	ck_assert_ptr_null(hub_type_find(t, "other"));
	ck_assert_int_eq(set.http.port, 8080);
	ck_assert_int_eq(set.carrier.window, 16);
	ck_assert_uint_eq(set.carrier.max_bytes, UINT64_C(8) << 30);
	ck_assert_int_eq(set.deadlines.ack_ms, 15 * 60 * 1000);
	ck_assert_int_eq(((const struct hub_token *)set.tokens.item)->role, 3);

	struct sb_kafka_conf conf;
	hub_kafka_conf(&conf, &stage[1], "test");
	ck_assert_str_eq(conf.servers, "b:1");
	ck_assert_str_eq(conf.security, "plaintext");
	ck_assert_int_eq(conf.fetch_wait_ms, 10);
	hub_settings_release(&set);
}
END_TEST

static const struct {
	const char *old, *new, *line, *key;
} bad[] = {
	{ "name: train, mode", "name: dev, mode", ":10: ", "tenants[0].stages[1].name: \"dev\" is there twice" },
	{ "name: explore,", "name: hub,", ":11: ", "tenants[0].stages[2].name: \"hub\"" },
	{ "name: dev, broker: {", "name: dev, broker: { security: sasl_ssl,", ":9: ", "tenants[0].stages[0].broker.user" },
	{ "name: dev, broker: {", "name: dev, broker: { security: ssl, ca_file: ca,", ":9: ", "tenants[0].stages[0].broker.cert_file" },
	{ "owner: dev,", "owner: nowhere,", ":13: ", "tenants[0].types[0].owner: \"nowhere\" is not one of the stages" },
	{ "type: card", "type: experiment", ":14: ", "tenants[0].types[1].type: \"experiment\" has an owner already" },
	{ "[train, explore]", "[train, mars]", ":13: ", "tenants[0].types[0].subscribers: \"mars\" is not one of the stages" },
	{ "[train, explore]", "[dev]", ":13: ", "tenants[0].types[0].subscribers: \"dev\" owns the type" },
	{ ", public_down: true", ", public_down: true, history: soon", ":14: ", "tenants[0].types[1].history is \"soon\": expected true, false, or a duration" },
	{ ", public_down: true", ", public_down: true, history: 5m", ":14: ", "history is \"5m\"" },
	{ "owner: dev, subscribers: [train, explore] }", "owner: dev, history: 90d }\n      - { type: experiment_history, owner: dev }", ":13: ",
		"tenants[0].types[0].history: its view would be named \"experiment_history\"" },
	{ ", public_down: true", "", ":14: ", "tenants[0].types[1].subscribers: \"dev\" comes before the owner \"train\"" },
	{ "from: train, to: [dev]", "from: mars, to: [dev]", ":16: ", "tenants[0].datasets[0].from: \"mars\"" },
	{ "from: train, to: [dev]", "from: train, to: [mars]", ":16: ", "tenants[0].datasets[0].to: \"mars\"" },
	{ "from: train, to: [dev]", "from: train, to: [train]", ":16: ", "tenants[0].datasets[0].to: \"train\" is where" },
	{ "      - { dataset: customers, from: train, to: [dev] }\n",
		"      - { dataset: customers, from: train, to: [dev] }\n      - { dataset: customers, from: train, to: [explore] }\n",
		":17: ", "tenants[0].datasets[1].dataset: \"customers\"" },
	{ "{ kind: bare, path: forge }", "{ kind: bare }", ":17: ", "tenants[0].forge.path" },
	{ "{ kind: bare, path: forge }", "{ kind: gitea, url: \"http://x\", owner: o, token_user: u }",
		":17: ", "tenants[0].forge.token_file" },
	{ "{ kind: bare, path: forge }",
		"{ kind: gitea, url: \"http://x\", owner: o, token_user: u, token_file: secret, hook_url: \"http://y\" }",
		":17: ", "tenants[0].forge.webhook_secret_file" },
	{ "{ name: model, repository: model }", "{ name: model, repository: model }\n      - { name: other, repository: model }",
		":20: ", "tenants[0].origins[1].repository: \"model\" is there twice" },
	{ "  - { name: ci, file: secret, role: admin }\n", "  - { name: ci, file: secret }\n  - { name: ci, file: secret }\n",
		":4: ", "tokens[1].name: \"ci\" is there twice" },
	{ "dataset: customers", "dataset: customers, color: red", ":16:31: ", "color" },
	{ "mode: auto", "mode: maybe", ":10:30: ", "mode" },
};

START_TEST(test_bad)
{
	struct hub_settings set = { 0 };
	struct sb_error err = SB_ERROR_INIT;
	sb_cleanup(sb_freep) char *yaml = changed(bad[_i].old, bad[_i].new);

	ck_assert_int_eq(load(&set, yaml, &err), SB_ECONFIG);
	ck_assert_msg(strstr(err.msg, bad[_i].key) != NULL, "message \"%s\" does not say \"%s\"", err.msg, bad[_i].key);
	ck_assert_msg(strstr(err.msg, bad[_i].line) != NULL, "message \"%s\" does not say line \"%s\"", err.msg, bad[_i].line);
	ck_assert_int_eq(sb_code_exit(err.code), 78);
}
END_TEST

/* A policy is checked with the settings, against the stages of its tenant, and keeps its own places */
START_TEST(test_policy_file)
{
	static const struct { const char *policy, *msg; } files[] = {
		{ "policy: p\nversion: \"1\"\nedges:\n  - { edge: dev..train, mode: auto }\n", NULL },
		{ "policy: p\nversion: \"1\"\nedges:\n  - { edge: dev..explore, mode: auto }\n", "policy.yaml:4:13: edges[0].edge: \"explore\" is not a stage that artifacts are promoted into" },
		{ "policy: p\nversion: \"1\"\nedges:\n  - { edge: dev..train, mode: auto, depends_on: [x] }\n", "policy.yaml:4:49: edges[0].depends_on: not supported yet" },
		{ "policy: p\n", "policy.yaml:1:1: version: is required" },
	};
	sb_cleanup(sb_freep) char *yaml = changed("    forge:", "    policy: policy.yaml\n    forge:");

	for (size_t i = 0; i < SB_COUNT(files); i++) {
		struct hub_settings set = { 0 };
		struct sb_error err = SB_ERROR_INIT;
		char path[TEST_PATH_MAX];
		test_path(path, "policy.yaml");
		test_write(path, files[i].policy, 0644);
		int r = load(&set, yaml, &err);
		ck_assert_msg(files[i].msg ? r == SB_ECONFIG && strstr(err.msg, files[i].msg) != NULL : r == 0, "policy %zu: %d %s", i, r, err.msg);
		hub_settings_release(&set);
	}
}
END_TEST

START_TEST(test_tenants_apart)
{
	struct hub_settings set = { 0 };
	struct sb_error err = SB_ERROR_INIT;
	const char *second = strstr(good, "  - name: acme\n");
	sb_cleanup(sb_freep) char *same = sb_asprintf("%s%s", good, second);
	sb_cleanup(sb_freep) char *other = sb_asprintf("%s  - name: beta\n%s", good, second + strlen("  - name: acme\n"));

	ck_assert_int_eq(load(&set, same, &err), SB_ECONFIG);
	ck_assert_msg(strstr(err.msg, "tenants[1].name: \"acme\" is there twice") != NULL, "%s", err.msg);
	ck_assert_int_eq(load(&set, other, &err), SB_ECONFIG);
	ck_assert_msg(strstr(err.msg, "tenants[1].database: is the one of tenant \"acme\" already") != NULL, "%s", err.msg);
}
END_TEST

/* The sample is a sample of every part; only its secrets are made up here */
START_TEST(test_sample_file)
{
	struct hub_settings set = { 0 };
	struct sb_error err = SB_ERROR_INIT;
	static const char *const secrets[] = { "secrets/ci.token", "secrets/kafka-train", "secrets/gitea.token", "secrets/gitea.hook",
		"keys/hub.key" };
	char path[TEST_PATH_MAX];
	sb_cleanup(sb_freep) char *text = test_read("config/hub.sample.yaml");

	test_path(path, "secrets");
	ck_assert_int_eq(sb_dir_make(path, 0700, &err), 0);
	test_path(path, "keys");
	ck_assert_int_eq(sb_dir_make(path, 0700, &err), 0);
	for (size_t i = 0; i < SB_COUNT(secrets); i++) {
		test_path(path, secrets[i]);
		test_write(path, "0123456789abcdef", 0400);
	}
	sb_cleanup(sb_freep) char *policy = test_read("config/policies/promotion.sample.yaml");
	test_path(path, "policies");
	ck_assert_int_eq(sb_dir_make(path, 0700, &err), 0);
	test_path(path, "policies/promotion.sample.yaml");
	test_write(path, policy, 0644);
	ck_assert_msg(load(&set, text, &err) == 0, "%s", err.msg);
	const struct hub_tenant *t = set.tenants.item;
	ck_assert_uint_eq(t->stages.count, 5);
	ck_assert_int_eq(t->forge.kind, HUB_FORGE_GITEA);
	hub_settings_release(&set);
}
END_TEST

static void reference_has(const struct sb_setting *table, const char *reference)
{
	for (const struct sb_setting *s = table; s->key; s++) {
		ck_assert_msg(strstr(reference, s->key) != NULL, "the reference does not name %s", s->key);
		ck_assert_msg(s->help && strlen(s->help) > 10, "%s has no help", s->key);
		if (s->sub)
			reference_has(s->sub, reference);
	}
}

START_TEST(test_reference)
{
	struct sb_buf out;
	struct sb_error err = SB_ERROR_INIT;

	sb_buf_init(&out, 1 << 20);
	sb_settings_reference(hub_settings_table, "lifecycle-hub", &out);
	ck_assert_int_eq(sb_buf_check(&out, "reference", &err), 0);
	reference_has(hub_settings_table, out.data);
	sb_buf_release(&out);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("hub_settings");
	TCase *tc = tcase_create("all");

	tcase_add_test(tc, test_good);
	tcase_add_loop_test(tc, test_bad, 0, (int)SB_COUNT(bad));
	tcase_add_test(tc, test_policy_file);
	tcase_add_test(tc, test_tenants_apart);
	tcase_add_test(tc, test_sample_file);
	tcase_add_test(tc, test_reference);
	suite_add_tcase(s, tc);
	return test_run(s);
}
