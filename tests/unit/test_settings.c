/* Settings: every type both ways, every refusal with its file, line, key and reason, environment, defaults, paths,
 * memory. */
#include "stagebridge/settings.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "settings_sample.h"
#include "support.h"

#define MIN "stage: dev\nbroker:\n  servers: [b1:9092]\n"

static int parse(struct sample *s, const char *yaml, struct sb_error *err)
{
	*s = (struct sample){ 0 };
	return sb_settings_parse(sample_table, s, yaml, strlen(yaml), "t.yaml", err);
}

static void parse_ok(struct sample *s, const char *yaml)
{
	struct sb_error err = SB_ERROR_INIT;
	int r = parse(s, yaml, &err);

	ck_assert_msg(r == SB_OK, "%s", err.msg);
}

START_TEST(test_defaults)
{
	struct sample s, zero = { 0 };
	char here[TEST_PATH_MAX], want[TEST_PATH_MAX + 8];

	test_path(here, "");
	ck_assert_int_eq(chdir(here), 0);
	parse_ok(&s, MIN);
	ck_assert_ptr_nonnull(getcwd(here, sizeof(here)));
	(void)snprintf(want, sizeof(want), "%s/state", here);
	ck_assert_str_eq(s.title, "no title");
	ck_assert_str_eq(s.stage, "dev");
	ck_assert_ptr_null(s.entity);
	ck_assert_str_eq(s.state_dir, want);
	ck_assert_ptr_null(s.key_file);
	ck_assert_int_eq(s.port, 8080);
	ck_assert_int_eq(s.offset, 0);
	ck_assert(!s.verbose);
	ck_assert_int_eq(s.timeout_ms, 10000);
	ck_assert_uint_eq(s.limit, 8u << 20);
	ck_assert_int_eq(s.level, 1);
	ck_assert_uint_eq(s.broker.servers.count, 1);
	ck_assert_str_eq(s.broker.servers.item[0], "b1:9092");
	ck_assert_ptr_null(s.oidc.issuer);
	ck_assert_int_eq(s.oidc.port, 443);
	ck_assert_uint_eq(s.sources.count, 0);
	sb_settings_release(sample_table, &s);
	ck_assert_mem_eq(&s, &zero, sizeof(s));
	sb_settings_release(sample_table, &s);
}
END_TEST

static const char full[] =
	"# everything\n"
	"title: 'it''s: \"quoted\"'\n"
	"stage: prod\n"
	"entity: web_order\n"
	"state_dir: /var/lib/x\n"
	"port: 65535\n"
	"offset: -5\n"
	"verbose: true\n"
	"timeout: 1h\n"
	"limit: 2GiB\n"
	"level: error\n"
	"broker:\n"
	"  servers:\n"
	"    - a:1\n"
	"    - \"b:2\"\n"
	"    - c:3\n"
	"  linger: 5ms\n"
	"oidc: {issuer: https://id.example, port: 8443}\n"
	"sources:\n"
	"  - name: one\n"
	"    weight: 100\n"
	"    columns: [id, name]\n"
	"  - {name: two, type: customer}\n";

static void check_full(const struct sample *s)
{
	const struct sample_source *source = s->sources.item;

	ck_assert_str_eq(s->title, "it's: \"quoted\"");
	ck_assert_str_eq(s->stage, "prod");
	ck_assert_str_eq(s->entity, "web_order");
	ck_assert_str_eq(s->state_dir, "/var/lib/x");
	ck_assert_int_eq(s->port, 65535);
	ck_assert_int_eq(s->offset, -5);
	ck_assert(s->verbose);
	ck_assert_int_eq(s->timeout_ms, 3600000);
	ck_assert_uint_eq(s->limit, 2ull << 30);
	ck_assert_int_eq(s->level, 3);
	ck_assert_uint_eq(s->broker.servers.count, 3);
	ck_assert_str_eq(s->broker.servers.item[1], "b:2");
	ck_assert_int_eq(s->broker.linger_ms, 5);
	ck_assert_str_eq(s->oidc.issuer, "https://id.example");
	ck_assert_int_eq(s->oidc.port, 8443);
	ck_assert_uint_eq(s->sources.count, 2);
	ck_assert_str_eq(source[0].name, "one");
	ck_assert_str_eq(source[0].type, "row");
	ck_assert_int_eq(source[0].weight, 100);
	ck_assert_uint_eq(source[0].columns.count, 2);
	ck_assert_str_eq(source[1].name, "two");
	ck_assert_str_eq(source[1].type, "customer");
	ck_assert_int_eq(source[1].weight, 1);
}

START_TEST(test_everything_and_back)
{
	struct sb_buf first, second;
	struct sample s, again;

	parse_ok(&s, full);
	check_full(&s);
	sb_buf_init(&first, 10000);
	sb_settings_print(sample_table, &s, &first);
	ck_assert_int_eq(sb_buf_check(&first, "settings", NULL), SB_OK);
	parse_ok(&again, first.data);
	check_full(&again);
	sb_buf_init(&second, 10000);
	sb_settings_print(sample_table, &again, &second);
	ck_assert_str_eq(second.data, first.data);
	sb_settings_release(sample_table, &s);
	sb_settings_release(sample_table, &again);
	sb_buf_release(&first);
	sb_buf_release(&second);
}
END_TEST

START_TEST(test_print)
{
	struct sb_buf out;
	struct sample s;

	parse_ok(&s, MIN "state_dir: /s\ntimeout: 90s\nlimit: 1025\nsources: [{name: a}]\n");
	sb_buf_init(&out, 10000);
	sb_settings_print(sample_table, &s, &out);
	ck_assert_str_eq(out.data, "title: \"no title\"\nstage: \"dev\"\n# entity: not set\nstate_dir: \"/s\"\n# "
				   "key_file: not set\nport: 8080\n"
				   "offset: 0\nverbose: false\ntimeout: 90s\nlimit: 1025\nlevel: \"info\"\nbroker:\n"
				   "  servers: [\"b1:9092\"]\n  linger: 0ms\n# oidc: not set\nsources:\n  -\n    name: "
				   "\"a\"\n    type: \"row\"\n"
				   "    # key_file: not set\n    weight: 1\n    columns: []\n");
	sb_settings_release(sample_table, &s);
	sb_buf_release(&out);
}
END_TEST

/* Texts that YAML would take for something else, or fold, or refuse: they come back as they were. */
static const char *const hard_texts[] = {
	"",
	" ",
	"null",
	"~",
	"true",
	"12",
	"- x",
	"a: b",
	"# no comment",
	"&a",
	"*a",
	"!!str x",
	"{",
	"[a, b]",
	"'",
	"\"",
	"\\",
	"a\nb\n\nc\n",
	"\t",
	"\x01\x1f\x7f",
	"caf\xc3\xa9",
	"\xc2\x85x\xc2\xa0",
	"\xe2\x80\xa8\xe2\x80\xa9",
	"\xef\xbb\xbfx",
	"\xf0\x9f\x9a\x80",
	"%d%s",
	"trailing ",
	"\xef\xbf\xbe",
	"\xef\xbf\xbd",
};

START_TEST(test_hard_texts_come_back)
{
	struct sample s, again;
	struct sb_buf out;

	parse_ok(&s, MIN);
	free(s.title);
	s.title = strdup(hard_texts[_i]);
	sb_buf_init(&out, 10000);
	sb_settings_print(sample_table, &s, &out);
	parse_ok(&again, out.data);
	ck_assert_str_eq(again.title, hard_texts[_i]);
	sb_settings_release(sample_table, &s);
	sb_settings_release(sample_table, &again);
	sb_buf_release(&out);
}
END_TEST

static const struct {
	const char *yaml, *msg;
} refused[] = {
	/* unknown */
	{ MIN "colour: red\n", "t.yaml:4:1: colour: unknown key" },
	{ "stage: dev\nbroker:\n  servers: [a]\n  colour: red\n", "t.yaml:4:3: broker.colour: unknown key" },
	{ MIN "sources:\n  - name: a\n  - name: b\n    colour: x\n", "t.yaml:7:5: sources[1].colour: unknown key" },
	{ MIN "\"port\\0x\": 1\n", "t.yaml:4:1: port: unknown key" },
	/* duplicate */
	{ MIN "port: 1\nlevel: info\nport: 2\n", "t.yaml:6:1: port: duplicate of line 4" },
	{ "stage: dev\nbroker: {servers: [a], linger: 1s,\n linger: 2s}\n",
		"t.yaml:3:2: broker.linger: duplicate of line 2" },
	/* wrong type */
	{ MIN "port: many\n", "t.yaml:4:7: port: \"many\" is not a whole number" },
	{ MIN "port: \"80\"\n", "t.yaml:4:7: port: must be a whole number without quotes" },
	{ MIN "port: [80]\n", "t.yaml:4:7: port: must be one value, not a list" },
	{ MIN "port: {a: 1}\n", "t.yaml:4:7: port: must be one value, not a mapping" },
	{ MIN "port: 1.5\n", "t.yaml:4:7: port: \"1.5\" is not a whole number" },
	{ MIN "port: 0x50\n", "t.yaml:4:7: port: \"0x50\" is not a whole number" },
	{ MIN "offset: 9223372036854775808\n",
		"t.yaml:4:9: offset: 9223372036854775808 is outside -9223372036854775808..9223372036854775807" },
	{ MIN "verbose: yes\n", "t.yaml:4:10: verbose: \"yes\" is neither true nor false" },
	{ MIN "verbose: 'true'\n", "t.yaml:4:10: verbose: must be true or false without quotes" },
	{ MIN "timeout: 10\n", "t.yaml:4:10: timeout: \"10\" is not a duration such as 250ms, 10s, 5m, 2h or 30d" },
	{ MIN "limit: 8MB\n", "t.yaml:4:8: limit: \"8MB\" is not a size such as 512, 64KiB, 8MiB or 2GiB" },
	{ MIN "level: loud\n", "t.yaml:4:8: level: \"loud\" is none of: debug, info, warn, error" },
	{ "stage: Dev\nbroker: {servers: [a]}\n",
		"t.yaml:1:8: stage: \"Dev\" is not a name: a-z first, then a-z, 0-9 and -, at most 31 characters" },
	{ MIN "entity: 9x\n",
		"t.yaml:4:9: entity: \"9x\" is not a type: a-z first, then a-z, 0-9, - and _, at most 63 characters" },
	{ MIN "title:\n", "t.yaml:4:7: title: has no value" },
	{ MIN "title: ~\n", "t.yaml:4:8: title: has no value" },
	{ MIN "title: null\n", "t.yaml:4:8: title: has no value" },
	{ MIN "title: \"a\\0b\"\n", "t.yaml:4:8: title: holds a NUL character" },
	{ MIN "state_dir: ''\n", "t.yaml:4:12: state_dir: is empty" },
	{ "stage: dev\nbroker: here\n", "t.yaml:2:9: broker: must be a mapping, not one value" },
	{ "stage: dev\nbroker: [a]\n", "t.yaml:2:9: broker: must be a mapping, not a list" },
	{ "stage: dev\nbroker:\n  servers: a\n", "t.yaml:3:12: broker.servers: must be a list of strings, not one value" },
	{ "stage: dev\nbroker:\n  servers:\n  - a\n  - [b]\n",
		"t.yaml:5:5: broker.servers[1]: must be a list of strings, not a list" },
	{ "stage: dev\nbroker:\n  servers:\n  - a\n  -\n", "t.yaml:5:4: broker.servers[1]: has no value" },
	{ MIN "sources: one\n", "t.yaml:4:10: sources: must be a list of mappings, not one value" },
	{ MIN "sources:\n- one\n", "t.yaml:5:3: sources[0]: must be a mapping, not one value" },
	{ MIN "sources:\n-\n", "t.yaml:5:2: sources[0]: must be a mapping, not nothing" },
	{ MIN "? [a, b]\n: 1\n", "t.yaml:4:3: ?: must be a key, not a list" },
	{ "- a\n- b\n", "t.yaml:1:1: yaml: must be a mapping, not a list" },
	{ "just text\n", "t.yaml:1:1: yaml: must be a mapping, not one value" },
	/* out of range */
	{ MIN "port: 0\n", "t.yaml:4:7: port: 0 is outside 1..65535" },
	{ MIN "port: 65536\n", "t.yaml:4:7: port: 65536 is outside 1..65535" },
	{ MIN "port: 99999999999999999999\n", "t.yaml:4:7: port: 99999999999999999999 is outside" },
	{ MIN "timeout: 99ms\n", "t.yaml:4:10: timeout: 99ms is outside 100ms..1h" },
	{ MIN "timeout: 2h\n", "t.yaml:4:10: timeout: 2h is outside 100ms..1h" },
	{ MIN "limit: 1023\n", "t.yaml:4:8: limit: 1023 is less than 1KiB" },
	{ MIN "limit: 99999999999999999999GiB\n", "t.yaml:4:8: limit: \"99999999999999999999GiB\" is too large a size" },
	{ "stage: dev\nbroker: {servers: []}\n", "t.yaml:2:19: broker.servers: 0 items, must be 1..3" },
	{ "stage: dev\nbroker: {servers: [a, b, c, d]}\n", "t.yaml:2:19: broker.servers: 4 items, must be 1..3" },
	{ MIN "sources: [{name: a}, {name: b}, {name: c}, {name: d}]\n", "t.yaml:4:10: sources: 4 items, must be 0..3" },
	/* missing */
	{ "broker: {servers: [a]}\n", "t.yaml:1:1: stage: is required, but missing" },
	{ "", "t.yaml:1:1: stage: is required, but missing" },
	{ "# nothing\n---\n", "t.yaml:1:1: stage: is required, but missing" },
	{ "stage: dev\n", "t.yaml:1:1: broker.servers: is required, but missing" },
	{ "stage: dev\nbroker:\n", "t.yaml:2:8: broker.servers: is required, but missing" },
	{ "stage: dev\nbroker:\n  linger: 1s\n", "t.yaml:3:3: broker.servers: is required, but missing" },
	{ MIN "oidc:\n  port: 1\n", "t.yaml:5:3: oidc.issuer: is required, but missing" },
	{ MIN "sources:\n  - name: a\n  - weight: 3\n", "t.yaml:6:5: sources[1].name: is required, but missing" },
	/* YAML that is refused */
	{ "stage: &a dev\n", "t.yaml:1:8: &a: anchors are refused" },
	{ "stage: dev\nbroker: &b\n  servers: [a]\n", "t.yaml:2:9: &b: anchors are refused" },
	{ "stage: dev\nbroker:\n  servers: &c [a]\n", "t.yaml:3:12: &c: anchors are refused" },
	{ "stage: *a\n", "t.yaml:1:8: *a: aliases are refused" },
	{ MIN "port: !!int 80\n", "t.yaml:4:7: tag:yaml.org,2002:int: tags are refused" },
	{ MIN "oidc: !x {issuer: a}\n", "t.yaml:4:7: !x: tags are refused" },
	{ "%TAG ! tag:x,2000:\n---\nstage: dev\n", "t.yaml:1:1: %TAG: tags are refused" },
	{ MIN "<<: {port: 1}\n", "t.yaml:4:1: <<: merges are refused" },
	{ MIN "---\nstage: dev\n", "t.yaml:4:1: ---: only one document is allowed" },
	{ MIN "title: [[[[[[[[[[[[[[[[[x]]]]]]]]]]]]]]]]]\n", "t.yaml:4:23: yaml: is nested too deep" },
	{ "stage: dev\nbroker: [a\n",
		"t.yaml:3:1: yaml: did not find expected ',' or ']' (while parsing a flow sequence)" },
	{ "stage: dev\n\tport: 1\n",
		"t.yaml:2:1: yaml: found a tab character that violates indentation (while scanning a plain scalar)" },
	{ "stage: dev\nport: a: b\n", "t.yaml:2:8: yaml: mapping values are not allowed in this context" },
	{ "stage: dev\ntitle: \"caf\xe9\"\n", "t.yaml:2: yaml: " },
	{ "stage: dev\ntitle: \x01\n", "t.yaml:2: yaml: control characters are not allowed" },
};

START_TEST(test_refused)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sample s, zero = { 0 };
	int r = parse(&s, refused[_i].yaml, &err);

	ck_assert_int_eq(r, SB_ECONFIG);
	ck_assert_int_eq(err.code, SB_ECONFIG);
	ck_assert_msg(strncmp(err.msg, refused[_i].msg, strlen(refused[_i].msg)) == 0, "got \"%s\", not \"%s\"",
		err.msg, refused[_i].msg);
	ck_assert_msg(memcmp(&s, &zero, sizeof(s)) == 0, "released and zeroed");
	ck_assert_int_eq(parse(&s, refused[_i].yaml, NULL), SB_ECONFIG);
}
END_TEST

START_TEST(test_too_large)
{
	static char yaml[(1u << 20) + 2];
	struct sb_error err = SB_ERROR_INIT;
	struct sample s;

	memset(yaml, '#', sizeof(yaml) - 1);
	ck_assert_int_eq(parse(&s, yaml, &err), SB_ECONFIG);
	ck_assert_str_eq(err.msg, "t.yaml: larger than 1048576 bytes");
}
END_TEST

/* ---- files ---- */

START_TEST(test_paths_resolve_against_the_file)
{
	char file[TEST_PATH_MAX], folder[TEST_PATH_MAX], want[TEST_PATH_MAX + 32];
	struct sb_error err = SB_ERROR_INIT;
	struct sample s = { 0 };

	test_path(file, "agent.yaml");
	test_path(folder, "");
	test_write(file, MIN "state_dir: sub/state\n", 0644);
	ck_assert_msg(sb_settings_load(sample_table, &s, file, &err) == SB_OK, "%s", err.msg);
	(void)snprintf(want, sizeof(want), "%ssub/state", folder);
	ck_assert_str_eq(s.state_dir, want);
	sb_settings_release(sample_table, &s);
	ck_assert_int_eq(chdir(folder), 0);
	ck_assert_msg(sb_settings_load(sample_table, &s, "agent.yaml", &err) == SB_OK, "%s", err.msg);
	ck_assert_str_eq(s.state_dir, want);
	sb_settings_release(sample_table, &s);
	ck_assert_msg(sb_settings_load(sample_table, &s, "./agent.yaml", &err) == SB_OK, "%s", err.msg);
	(void)snprintf(want, sizeof(want), "%s./sub/state", folder);
	ck_assert_str_eq(s.state_dir, want);
	sb_settings_release(sample_table, &s);
}
END_TEST

START_TEST(test_missing_file)
{
	struct sb_error err = SB_ERROR_INIT;
	char file[TEST_PATH_MAX];
	struct sample s = { 0 };

	test_path(file, "none.yaml");
	ck_assert_int_eq(sb_settings_load(sample_table, &s, file, &err), SB_ECONFIG);
	ck_assert_ptr_nonnull(strstr(err.msg, "none.yaml\": No such file or directory"));
	ck_assert_int_eq(sb_settings_load(sample_table, &s, file, NULL), SB_ECONFIG);
}
END_TEST

static const struct {
	const char *name; /* in the file */
	mode_t mode;
	const char *reason; /* NULL: taken */
} key_files[] = {
	{ "key", 0400, NULL },
	{ "key", 0600, NULL },
	{ "key", 0440, "is open to others: mode is 0440, must be 0400 or 0600" },
	{ "key", 0604, "is open to others: mode is 0604, must be 0400 or 0600" },
	{ "key", 0644, "is open to others: mode is 0644, must be 0400 or 0600" },
	{ "link", 0400, "is a symbolic link" },
	{ "hard", 0400, "has more than one link" },
	{ "folder", 0400, "is not a regular file" },
	{ "none", 0400, "does not exist" },
};

START_TEST(test_key_files)
{
	char file[TEST_PATH_MAX], key[TEST_PATH_MAX], other[TEST_PATH_MAX], yaml[200], want[2 * TEST_PATH_MAX + 200];
	struct sb_error err = SB_ERROR_INIT;
	struct sample s = { 0 };
	int r;

	test_path(key, "key");
	test_write(key, "secret\n", key_files[_i].mode);
	test_path(other, key_files[_i].name);
	if (strcmp(key_files[_i].name, "link") == 0)
		ck_assert_int_eq(symlink("key", other), 0);
	if (strcmp(key_files[_i].name, "hard") == 0)
		ck_assert_int_eq(link(key, other), 0);
	if (strcmp(key_files[_i].name, "folder") == 0)
		ck_assert_int_eq(mkdir(other, 0700), 0);
	test_path(file, "agent.yaml");
	(void)snprintf(yaml, sizeof(yaml), MIN "key_file: %s\n", key_files[_i].name);
	test_write(file, yaml, 0644);
	r = sb_settings_load(sample_table, &s, file, &err);
	if (key_files[_i].reason == NULL) {
		ck_assert_msg(r == SB_OK, "%s", err.msg);
		ck_assert_str_eq(s.key_file, other);
		sb_settings_release(sample_table, &s);
	} else {
		(void)snprintf(want, sizeof(want), "%s:4:11: key_file: key file \"%s\"", file, other);
		ck_assert_int_eq(r, SB_ECONFIG);
		ck_assert_msg(strncmp(err.msg, want, strlen(want)) == 0, "%s", err.msg);
		ck_assert_msg(strstr(err.msg, key_files[_i].reason) != NULL, "%s", err.msg);
	}
}
END_TEST

START_TEST(test_foreign_key_file)
{
	char file[TEST_PATH_MAX], key[TEST_PATH_MAX];
	struct sb_error err = SB_ERROR_INIT;
	struct sample s = { 0 };

	if (geteuid() != 0)
		return; /* only root can give a file away */
	test_path(key, "key");
	test_write(key, "secret\n", 0400);
	ck_assert_int_eq(chown(key, 12345, 12345), 0);
	test_path(file, "agent.yaml");
	test_write(file, MIN "key_file: key\n", 0644);
	ck_assert_int_eq(sb_settings_load(sample_table, &s, file, &err), SB_ECONFIG);
	ck_assert_msg(strstr(err.msg, "belongs to user 12345, neither to root nor to us") != NULL, "%s", err.msg);
}
END_TEST

/* ---- environment ---- */

START_TEST(test_environment_wins)
{
	char here[TEST_PATH_MAX], want[TEST_PATH_MAX + 16];
	struct sample s;

	test_path(here, "");
	ck_assert_int_eq(chdir(here), 0);
	setenv("SB_STAGE", "train", 1);
	setenv("SB_PORT", "99", 1);
	setenv("SB_VERBOSE", "true", 1);
	setenv("SB_BROKER_SERVERS", "x:1, y:2", 1);
	setenv("SB_BROKER_LINGER", "7ms", 1);
	setenv("SB_OIDC_PORT", "1", 1);
	setenv("SB_STATE_DIR", "elsewhere", 1);
	setenv("SB_LEVEL", "", 1);                /* empty: as if not set */
	setenv("SB_KEY_FILE", "/nowhere", 1);     /* never for secrets */
	setenv("SB_SOURCES_0_NAME", "zzz", 1);    /* never inside lists */
	setenv("SB_SOURCES", "zzz", 1);
	parse_ok(&s, "level: warn\nport: 1\nsources: [{name: a}]\n");
	ck_assert_str_eq(s.stage, "train");
	ck_assert_int_eq(s.port, 99);
	ck_assert(s.verbose);
	ck_assert_uint_eq(s.broker.servers.count, 2);
	ck_assert_str_eq(s.broker.servers.item[0], "x:1");
	ck_assert_str_eq(s.broker.servers.item[1], "y:2");
	ck_assert_int_eq(s.broker.linger_ms, 7);
	ck_assert_int_eq(s.oidc.port, 1);
	ck_assert_int_eq(s.level, 2);
	ck_assert_ptr_null(s.key_file);
	ck_assert_str_eq(((struct sample_source *)s.sources.item)->name, "a");
	ck_assert_ptr_nonnull(getcwd(here, sizeof(here)));
	(void)snprintf(want, sizeof(want), "%s/elsewhere", here);
	ck_assert_str_eq(s.state_dir, want);
	sb_settings_release(sample_table, &s);
}
END_TEST

static const struct {
	const char *name, *value, *msg;
} bad_environment[] = {
	{ "SB_PORT", "x", "SB_PORT: port: \"x\" is not a whole number" },
	{ "SB_PORT", "70000", "SB_PORT: port: 70000 is outside 1..65535" },
	{ "SB_BROKER_SERVERS", "a,b,c,d", "SB_BROKER_SERVERS: broker.servers: 4 items, must be 1..3" },
	{ "SB_BROKER_SERVERS", " , ", "SB_BROKER_SERVERS: broker.servers: 0 items, must be 1..3" },
	{ "SB_TITLE", "caf\xe9", "SB_TITLE: title: is not UTF-8" },
};

START_TEST(test_bad_environment)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sample s;

	setenv(bad_environment[_i].name, bad_environment[_i].value, 1);
	ck_assert_int_eq(parse(&s, MIN, &err), SB_ECONFIG);
	ck_assert_str_eq(err.msg, bad_environment[_i].msg);
}
END_TEST

static const struct {
	const char *text;
	size_t count;
	const char *first;
} string_lists[] = {
	{ "a", 1, "a" }, { "[a]", 1, "a" }, { "[a, b]", 2, "a" }, { "[ a ,b , ]", 2, "a" }, { "[]", 0, NULL },
	{ ",,a", 1, "a" }, { "[", 1, "[" }, { "two words, x", 2, "two words" },
};

START_TEST(test_string_lists)
{
	const struct sb_setting table[] = { { .key = "list", .type = SB_SET_STRINGS, .dflt = string_lists[_i].text },
		{ .key = NULL } };
	struct sb_error err = SB_ERROR_INIT;
	struct sb_strings list = { 0 };

	ck_assert_int_eq(sb_settings_parse(table, &list, "", 0, "t", &err), SB_OK);
	ck_assert_uint_eq(list.count, string_lists[_i].count);
	if (list.count > 0)
		ck_assert_str_eq(list.item[0], string_lists[_i].first);
	sb_settings_release(table, &list);
}
END_TEST

START_TEST(test_required_group)
{
	const struct sb_setting sub[] = { { .key = "n", .type = SB_SET_INT }, { .key = NULL } };
	const struct sb_setting table[] = { { .key = "g", .type = SB_SET_GROUP, .flags = SB_SET_REQUIRED, .sub = sub },
		{ .key = NULL } };
	struct sb_error err = SB_ERROR_INIT;
	int64_t n = 0;

	ck_assert_int_eq(sb_settings_parse(table, &n, "", 0, "t", &err), SB_ECONFIG);
	ck_assert_str_eq(err.msg, "t:1:1: g: is required, but missing");
	ck_assert_int_eq(sb_settings_parse(table, &n, "g: {n: 5}", 9, "t", &err), SB_OK);
	ck_assert_int_eq(n, 5);
}
END_TEST

START_TEST(test_reference)
{
	struct sb_buf out;

	sb_buf_init(&out, 10000);
	sb_settings_reference(sample_table, "agent.yaml", &out);
	ck_assert_int_eq(sb_buf_check(&out, "reference", NULL), SB_OK);
	ck_assert_int_eq(
		strncmp(out.data,
			"## agent.yaml\n\n| key | type | default | range | meaning |\n|---|---|---|---|---|\n", 80),
		0);
	ck_assert_ptr_nonnull(strstr(out.data, "| `title` | text | `no title` |  | A \\| title. |\n"));
	ck_assert_ptr_nonnull(strstr(out.data, "| `stage` | name | required |  | The stage. |\n"));
	ck_assert_ptr_nonnull(strstr(out.data, "| `timeout` | duration | `10s` | 100ms to 1h | The timeout. |\n"));
	ck_assert_ptr_nonnull(strstr(out.data, "| `limit` | size | `8MiB` | at least 1KiB | The limit. |\n"));
	ck_assert_ptr_nonnull(
		strstr(out.data, "| `level` | choice | `info` | debug, info, warn, error | The level. |\n"));
	ck_assert_ptr_nonnull(
		strstr(out.data, "| `broker.servers` | list of text | required | 1 to 3 items | Servers. |\n"));
	ck_assert_ptr_nonnull(strstr(out.data, "| `sources[].weight` | number | `1` | 1 to 100 | Weight. |\n"));
	sb_buf_release(&out);
}
END_TEST

START_TEST(test_out_of_memory)
{
	struct sb_error err = SB_ERROR_INIT;
	char file[TEST_PATH_MAX];
	struct sample s, zero = { 0 };
	int r = SB_OK;
	long n = 0;

	test_path(file, "agent.yaml");
	test_write(file, full, 0644);
	for (;; n++) {
		s = zero;
		fault_alloc_after(n);
		r = sb_settings_load(sample_table, &s, file, &err);
		fault_alloc_after(-1);
		if (!fault_hit())
			break;
		ck_assert_int_eq(r, SB_ENOMEM);
		ck_assert_int_eq(err.code, SB_ENOMEM);
		ck_assert_mem_eq(&s, &zero, sizeof(s));
	}
	ck_assert_int_eq(r, SB_OK);
	ck_assert(!fault_available() || n > 20);
	check_full(&s);
	sb_settings_release(sample_table, &s);
}
END_TEST

/* Where a value stands, or what is around an absent one */
START_TEST(test_where)
{
	static const char yaml[] = "stage: dev\nsources:\n  - name: a\n    columns: [x, y]\n  - { name: b, weight: 2 }\n";
	static const struct { const char *path; size_t line, column; } places[] = {
		{ "stage", 1, 8 }, { "sources", 3, 3 }, { "sources[0]", 3, 5 }, { "sources[0].columns[1]", 4, 18 }, { "sources[1].weight", 5, 24 },
		{ "sources[1].columns", 5, 5 }, { "sources[7].name", 3, 3 }, { "nothing.at.all", 1, 1 }, { "stage[0]", 1, 8 }, { "sources[", 3, 5 }, { "", 1, 1 },
	};

	for (size_t i = 0; i < SB_COUNT(places); i++) {
		size_t line = 0, column = 0;
		sb_settings_where(yaml, strlen(yaml), places[i].path, &line, &column);
		ck_assert_msg(line == places[i].line && column == places[i].column, "%s is said to be at %zu:%zu", places[i].path, line, column);
	}
	size_t line = 0, column = 0;
	sb_settings_where("a: [", 4, "a", &line, &column);
	ck_assert(line == 1 && column == 1);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("settings");
	TCase *tc = tcase_create("settings");

	tcase_add_test(tc, test_defaults);
	tcase_add_test(tc, test_everything_and_back);
	tcase_add_test(tc, test_print);
	tcase_add_loop_test(tc, test_hard_texts_come_back, 0, (int)SB_COUNT(hard_texts));
	tcase_add_loop_test(tc, test_refused, 0, (int)SB_COUNT(refused));
	tcase_add_test(tc, test_too_large);
	tcase_add_test(tc, test_paths_resolve_against_the_file);
	tcase_add_test(tc, test_missing_file);
	tcase_add_loop_test(tc, test_key_files, 0, (int)SB_COUNT(key_files));
	tcase_add_test(tc, test_foreign_key_file);
	tcase_add_test(tc, test_environment_wins);
	tcase_add_loop_test(tc, test_bad_environment, 0, (int)SB_COUNT(bad_environment));
	tcase_add_loop_test(tc, test_string_lists, 0, (int)SB_COUNT(string_lists));
	tcase_add_test(tc, test_required_group);
	tcase_add_test(tc, test_reference);
	tcase_add_test(tc, test_out_of_memory);
	tcase_add_test(tc, test_where);
	suite_add_tcase(s, tc);
	return test_run(s);
}
