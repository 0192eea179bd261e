/* Datasets from end to end: a private PostgreSQL in stage prod, sealed to stage train, taken in there. What must not happen is planted: a value that no
 * rule lets through is looked for in every file and every log line. A kill is a SIGKILL of a child that does the job, at growing distances. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent_fixture.h"
#include "dataset/dataset.h"
#include "pg_fixture.h"
#include "schema.h"
#include "stagebridge/file.h"
#include "stagebridge/log.h"
#include "stagebridge/pg.h"

#define PLANTED "Zaphod-Q7-Beeblebrox"
#define REQUEST "06ejq0mbjwxsh3tg5v1r2k8c4e"
#define OTHER_REQUEST "06ejq0mbjwxsh3tg5v1r2k8c4f"

static const char *conninfo;
static struct fix f;               /* stage train: receives */
static struct agent prod;          /* stage prod: produces */
static struct sb_db *prod_db, *train_db;
static char policies[TEST_PATH_MAX], inbox[TEST_PATH_MAX], prod_dir[TEST_PATH_MAX], secret[TEST_PATH_MAX], log_file[TEST_PATH_MAX];

/* --- scenery --- */

static void script(const char *sql)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_pg *pg = NULL;

	fix_ok(sb_pg_open(&pg, conninfo, "test", &err), err);
	fix_ok(sb_pg_script(pg, sql, &err), err);
	sb_pg_close(pg);
}

static void make_table(int rows)
{
	char sql[1024];

	(void)snprintf(sql, sizeof(sql), "DROP TABLE IF EXISTS public.person; CREATE TABLE public.person(id bigint PRIMARY KEY, name text, born date, age int, note text);"
		" INSERT INTO public.person SELECT i, 'name ' || i || ' of ' || '" PLANTED "', DATE '1950-01-01' + i, i %% 100, CASE WHEN i %% 3 = 0 THEN NULL WHEN i %% 3 = 1 THEN '' ELSE 'a, \"b\"' || chr(10) || 'c' END"
		" FROM generate_series(1, %d) AS i", rows);
	script(sql);
}

#define POLICY_HEAD "policy: person\nversion: \"1\"\nsource:\n  postgres: {conninfo: \"%s\", table: public.person}\nrecipients: [train]\n"
#define POLICY_COLUMNS \
	"columns:\n" \
	"  - {name: id, role: key, op: pseudonym, domain: person, token_prefix: p}\n" \
	"  - {name: name, role: direct, op: drop}\n" \
	"  - {name: born, role: quasi, op: date_part, part: year}\n" \
	"  - {name: age, role: quasi, op: bucket, step: \"10\"}\n" \
	"  - {name: note, role: public, op: keep, reason: made up}\n"

static void write_policy(const char *middle, const char *columns)
{
	char path[TEST_PATH_MAX + 32], text[4096];
	int n = snprintf(text, sizeof(text), POLICY_HEAD, conninfo);

	(void)snprintf(text + n, sizeof(text) - (size_t)n, "%s%s", middle, columns);
	(void)snprintf(path, sizeof(path), "%s/person.yaml", policies);
	test_write(path, text, 0600);
}

static void open_states(void)
{
	struct sb_error err = SB_ERROR_INIT;

	fix_ok(agent_state_open(&prod_db, &prod, &err), err);
	fix_ok(agent_state_open(&train_db, &f.a, &err), err);
}

static void close_states(void)
{
	sb_db_close(prod_db);
	sb_db_close(train_db);
}

static void set_up(void)
{
	static char stage[] = "prod";
	struct sb_error err = SB_ERROR_INIT;

	fix_init(&f);
	test_path(policies, "policies");
	test_path(inbox, "inbox");
	test_path(prod_dir, "prod");
	test_path(secret, "root.key");
	test_path(log_file, "log");
	fix_ok(sb_dir_make(policies, 0700, &err), err);
	test_write(secret, "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", 0400);
	ck_assert_ptr_nonnull(freopen(log_file, "w", stderr)); /* the log goes to standard error: it is searched too */
	prod = f.a;
	prod.set.stage = stage;
	prod.identity = f.keys.prod;
	prod.set.state_dir = prod_dir;
	prod.set.datasets.policies = policies;
	prod.set.datasets.secret = secret;
	f.a.set.datasets.inbox = inbox;
	f.a.set.datasets.max_bytes = prod.set.datasets.max_bytes = 64 * 1024 * 1024;
	for (int c = 0; c < SB_CLASS_COUNT; c++) {
		sb_topic_name(prod.topic_up[c], DEVKEYS_TENANT, "prod", SB_UP, (enum sb_class)c);
		sb_topic_name(prod.topic_down[c], DEVKEYS_TENANT, "prod", SB_DOWN, (enum sb_class)c);
	}
	open_states();
}

static void tear_down(void)
{
	close_states();
	fix_release(&f);
}

/* What the inbox does with dataset.ordered, and the local API with a request. */
static void order(const char *request, const char *to)
{
	struct sb_error err = SB_ERROR_INIT;

	fix_ok(sb_db_run(prod_db, NULL, &err, "INSERT INTO dataset(request, dataset, peer, role, user, purpose, state, created_ms, updated_ms)"
		" VALUES (?, 'person', ?, 'produce', 'ana', 'tests', 'ordered', 1, 1)", "ss", request, to), err);
	fix_ok(sb_db_run(train_db, NULL, &err, "INSERT INTO dataset(request, dataset, peer, role, user, purpose, state, created_ms, updated_ms)"
		" VALUES (?, 'person', 'prod', 'receive', 'ana', 'tests', 'requested', 1, 1)", "s", request), err);
}

static int produce(const char *request, const char *to, struct sb_error *err)
{
	json_auto_t *body = json_pack("{s:s, s:s, s:s, s:s, s:s}", "request", request, "dataset", "person", "to", to, "user", "ana", "purpose", "tests");

	return agent_dataset_produce(&prod, prod_db, NULL, request, body, err);
}

static void produced(const char *request, const char *to)
{
	struct sb_error err = SB_ERROR_INIT;

	order(request, to);
	fix_ok(produce(request, to, &err), err);
}

#define text_is(db, query, want)                                          \
	do {                                                              \
		char _text[1024];                                         \
		fix_text(db, query, _text, sizeof(_text));                \
		ck_assert_str_eq(_text, want);                            \
	} while (0)

#define LAST_EVENT(field) "SELECT json_extract(CAST(value AS TEXT), '$." field "') FROM outbox ORDER BY id DESC LIMIT 1"

static void check_events(struct sb_db *db)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_stmt *st = NULL;
	int r;

	fix_ok(sb_db_query(db, &st, &err, "SELECT CAST(value AS TEXT) FROM outbox", ""), err);
	while ((r = sb_db_step(st, &err)) > 0) {
		json_t *value = json_loads(sb_db_text(st, 0), 0, NULL);
		ck_assert_ptr_nonnull(value);
		ck_schema("dataset.reported", value);
		json_decref(value);
	}
	fix_ok(r, err);
	sb_db_done(st);
}

/* The courier, the hub and the inbox in one: the spool and the manifest of the newest transfer arrive whole. */
static void carry(char transfer[SB_ID_LEN + 1])
{
	struct sb_error err = SB_ERROR_INIT;
	char from[4096], to[4096], manifest[65536];

	fix_text(prod_db, "SELECT id FROM transfer_out ORDER BY updated_ms DESC LIMIT 1", transfer, SB_ID_LEN + 1);
	ck_assert(sb_id_ok(transfer));
	fix_text(prod_db, "SELECT manifest FROM transfer_out ORDER BY updated_ms DESC LIMIT 1", manifest, sizeof(manifest));
	fix_ok(agent_state_spool(from, sizeof(from), &prod, transfer, false, &err), err);
	fix_ok(agent_state_spool(to, sizeof(to), &f.a, transfer, true, &err), err);
	char *data = NULL;
	size_t n = 0;
	fix_ok(sb_file_read(from, 64u << 20, &data, &n, &err), err);
	fix_ok(sb_file_write(to, data, n, 0600, &err), err);
	free(data);
	fix_ok(sb_db_run(train_db, NULL, &err, "INSERT INTO transfer_in(id, kind, manifest, expires_ms, state, updated_ms) VALUES (?, 'dataset', ?, 0, 'complete', 1)", "ss",
		transfer, manifest), err);
}

static char *delivered(const char *request, const char *file)
{
	char path[TEST_PATH_MAX + 128];

	(void)snprintf(path, sizeof(path), "%s/person-%s/%s", inbox, request, file);
	return test_read(path);
}

static bool exists(const char *dir, const char *name)
{
	char path[TEST_PATH_MAX + 128];
	struct stat st;

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	return stat(path, &st) == 0;
}

/* Number of entries of a folder. */
static int entries(const char *dir)
{
	DIR *d = opendir(dir);
	int n = 0;

	if (!d)
		return 0;
	for (const struct dirent *e; (e = readdir(d));)
		n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
	closedir(d);
	return n;
}

static int spools(const struct agent *a)
{
	char dir[TEST_PATH_MAX + 16];

	(void)snprintf(dir, sizeof(dir), "%s/spool", a->set.state_dir);
	return entries(dir);
}

/* Files under dir that hold the text. */
static int holding(const char *dir, const char *text)
{
	DIR *d = opendir(dir);
	char path[2048];
	int n = 0;

	ck_assert_ptr_nonnull(d);
	for (const struct dirent *e; (e = readdir(d));) {
		struct sb_error err = SB_ERROR_INIT;
		struct stat st;
		char *data = NULL;
		size_t len = 0;
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		(void)snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		if (lstat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
			n += holding(path, text);
			continue;
		}
		fix_ok(sb_file_read(path, 256u << 20, &data, &len, &err), err);
		n += memmem(data, len, text, strlen(text)) != NULL;
		free(data);
	}
	closedir(d);
	return n;
}

static void nothing_planted(void)
{
	(void)fflush(stderr);
	char *log = test_read(log_file);

	ck_assert_ptr_null(strstr(log, PLANTED));
	free(log);
	ck_assert_int_eq(holding(prod_dir, PLANTED), 0);
	ck_assert_int_eq(holding(f.dir, PLANTED), 0);
	if (entries(inbox) > 0)
		ck_assert_int_eq(holding(inbox, PLANTED), 0);
}

/* --- the way through --- */

START_TEST(test_produced_and_delivered)
{
	struct sb_error err = SB_ERROR_INIT;
	char transfer[SB_ID_LEN + 1], first[256];

	make_table(500);
	write_policy("keys: {mode: stored, epoch: \"1\"}\n", POLICY_COLUMNS);
	produced(REQUEST, "train");
	text_is(prod_db, "SELECT group_concat(json_extract(CAST(value AS TEXT), '$.state'), ' ') FROM outbox", "accepted produced");
	text_is(prod_db, LAST_EVENT("rows"), "500");
	text_is(prod_db, "SELECT state || ' ' || rows FROM dataset", "produced 500");
	ck_assert_int_eq(spools(&prod), 1);
	carry(transfer);
	text_is(prod_db, LAST_EVENT("transfer"), transfer);
	fix_ok(agent_dataset_receive(&f.a, train_db, transfer, &err), err);
	text_is(train_db, "SELECT state || ' ' || rows FROM dataset", "delivered 500");
	text_is(train_db, LAST_EVENT("state"), "delivered");
	text_is(train_db, "SELECT state FROM transfer_in", "done");
	check_events(prod_db);
	check_events(train_db);
	ck_assert_int_eq(spools(&f.a), 0);

	char *csv = delivered(REQUEST, "data.csv");
	ck_assert_int_eq(strncmp(csv, "id,born,age,note\np_", 19), 0);
	ck_assert_ptr_nonnull(strstr(csv, ",1950,\"[0,10)\",\"\"\n"));             /* the empty text is no NULL */
	ck_assert_ptr_nonnull(strstr(csv, ",1950,\"[0,10)\",\"a, \"\"b\"\"\nc\"\n"));
	ck_assert_ptr_nonnull(strstr(csv, ",1950,\"[0,10)\",\n"));                   /* NULL */
	(void)snprintf(first, sizeof(first), "%.*s", 28, csv + 17);
	free(csv);

	char *text = delivered(REQUEST, "attestation.json");
	json_auto_t *all = json_loads(text, 0, NULL);
	free(text);
	const json_t *att = json_object_get(all, "attestation");
	ck_assert_str_eq(json_string_value(json_object_get(att, "claim")), "pseudonymized");
	ck_assert_int_eq(json_integer_value(json_object_get(att, "rows_out")), 500);
	ck_assert_int_eq(json_integer_value(json_object_get(att, "columns_dropped")), 1);
	ck_assert_uint_eq(json_array_size(json_object_get(att, "columns")), 4);
	ck_assert_uint_eq(strlen(json_string_value(json_object_get(att, "key_id"))), 16);
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(json_object_get(att, "columns"), 0), "iso_class")), "pseudonymization");
	nothing_planted();

	/* another request of the same epoch: the same tokens; ephemeral: others */
	produced(OTHER_REQUEST, "train");
	carry(transfer);
	fix_ok(agent_dataset_receive(&f.a, train_db, transfer, &err), err);
	csv = delivered(OTHER_REQUEST, "data.csv");
	ck_assert_int_eq(strncmp(csv + 17, first, 28), 0);
	free(csv);
}
END_TEST

START_TEST(test_ephemeral_keys)
{
	struct sb_error err = SB_ERROR_INIT;
	char transfer[SB_ID_LEN + 1];

	make_table(200);
	write_policy("", POLICY_COLUMNS);
	produced(REQUEST, "train");
	carry(transfer);
	fix_ok(agent_dataset_receive(&f.a, train_db, transfer, &err), err);
	produced(OTHER_REQUEST, "train");
	carry(transfer);
	fix_ok(agent_dataset_receive(&f.a, train_db, transfer, &err), err);
	char *a = delivered(REQUEST, "data.csv"), *b = delivered(OTHER_REQUEST, "data.csv"), *text = delivered(REQUEST, "attestation.json");
	ck_assert_int_ne(strncmp(a + 17, b + 17, 28), 0);
	ck_assert_ptr_nonnull(strstr(text, "\"key_id\": \"\""));
	free(a);
	free(b);
	free(text);
}
END_TEST

/* --- refusals: nothing leaves, nothing readable stays --- */

static const struct { const char *middle, *columns, *to, *code, *reason; } refusals[] = {
	{ "", "columns:\n  - {name: id, role: key, op: pseudonym, domain: p}\n  - {name: name, role: direct, op: drop}\n  - {name: born, role: quasi, op: drop}\n"
	      "  - {name: age, role: quasi, op: drop}\n", "train", "unlisted_column", "column \"note\" has no rule; to leave it out, add to columns: - {name: \"note\", role: drop, op: drop}" },
	{ "", "columns:\n  - {name: id, role: key, op: pseudonym, domain: p}\n", "train", "unlisted_column", "column \"name\" and 3 more have no rule" },
	{ "", POLICY_COLUMNS "  - {name: ghost, role: drop, op: drop}\n", "train", "missing_column", "\"ghost\"" },
	{ "limits: {min_rows: 1000}\n", POLICY_COLUMNS, "train", "too_small", "min_rows" },
	{ "limits: {min_rows: 1, max_rows: 10}\n", POLICY_COLUMNS, "train", "too_large", "max_rows" },
	{ "", POLICY_COLUMNS, "dev", "recipient", "stage dev" },
	{ "colour: red\n", POLICY_COLUMNS, "train", "bad_policy", "person.yaml:6:1: colour: unknown key" },
	/* the planted value makes the operator fail: it must not show */
	{ "", "columns:\n  - {name: id, role: key, op: pseudonym, domain: p}\n  - {name: name, role: quasi, op: round, step: 1}\n  - {name: born, role: quasi, op: drop}\n"
	      "  - {name: age, role: quasi, op: drop}\n  - {name: note, role: quasi, op: drop}\n", "train", "operator", "column \"name\" holds a value that is not a finite number" },
	{ "", "columns:\n  - {name: id, role: key, op: pseudonym, domain: p}\n  - {name: name, role: direct, op: drop}\n  - {name: born, role: quasi, op: drop}\n"
	      "  - {name: age, role: quasi, op: drop}\n  - {name: note, role: public, op: keep, reason: r, null: refuse}\n", "train", "operator", "column \"note\" holds NULL" },
};

START_TEST(test_refused)
{
	make_table(500);
	write_policy(refusals[_i].middle, refusals[_i].columns);
	produced(REQUEST, refusals[_i].to);
	text_is(prod_db, "SELECT state FROM dataset", "refused");
	text_is(prod_db, "SELECT reason_code FROM dataset", refusals[_i].code);
	text_is(prod_db, LAST_EVENT("state"), "refused");
	text_is(prod_db, LAST_EVENT("reason_code"), refusals[_i].code);
	text_is(prod_db, LAST_EVENT("transfer"), "");
	char reason[1024];
	fix_text(prod_db, LAST_EVENT("reason"), reason, sizeof(reason));
	ck_assert_msg(strstr(reason, refusals[_i].reason) != NULL, "%s", reason);
	ck_assert_int_eq(fix_number(prod_db, "SELECT count(*) FROM transfer_out"), 0);
	ck_assert_int_eq(spools(&prod), 0);
	check_events(prod_db);
	nothing_planted();
}
END_TEST

/* The server's own words quote the value: they stay away too. */
START_TEST(test_refused_by_the_server)
{
	char text[4096], path[TEST_PATH_MAX + 32];

	make_table(10);
	(void)snprintf(text, sizeof(text), "policy: person\nversion: \"1\"\nsource:\n  postgres: {conninfo: \"%s\", query: \"SELECT id, name::int AS name FROM public.person; \"}\nrecipients: [train]\n"
		"columns:\n  - {name: id, role: key, op: pseudonym, domain: p}\n  - {name: name, role: public, op: keep, reason: r}\n", conninfo);
	(void)snprintf(path, sizeof(path), "%s/person.yaml", policies);
	test_write(path, text, 0600);
	produced(REQUEST, "train");
	text_is(prod_db, LAST_EVENT("reason_code"), "source");
	text_is(prod_db, LAST_EVENT("reason"), "the policy's source cannot be read: SQLSTATE 22P02");
	nothing_planted();
	/* a query that would do more than read */
	(void)snprintf(text, sizeof(text), "policy: person\nversion: \"1\"\nsource:\n  postgres: {conninfo: \"%s\", query: \"SELECT 1 AS id) AS s; DROP TABLE public.person; SELECT (1\"}\nrecipients: [train]\n"
		"columns:\n  - {name: id, role: key, op: pseudonym, domain: p}\n", conninfo);
	test_write(path, text, 0600);
	produced(OTHER_REQUEST, "train");
	text_is(prod_db, LAST_EVENT("reason"), "the policy's source cannot be read: SQLSTATE 42601");
	script("SELECT 1 FROM public.person");
}
END_TEST

START_TEST(test_no_policy)
{
	produced(REQUEST, "train");
	text_is(prod_db, LAST_EVENT("reason_code"), "no_policy");
}
END_TEST

START_TEST(test_source_away)
{
	struct sb_error err = SB_ERROR_INIT;
	const char *here = conninfo;

	conninfo = "host=/nowhere dbname=x";
	write_policy("", POLICY_COLUMNS);
	order(REQUEST, "train");
	ck_assert_int_lt(produce(REQUEST, "train", &err), 0);
	ck_assert(err.retriable); /* another time: the request is not refused for it */
	text_is(prod_db, "SELECT state FROM dataset", "accepted");
	conninfo = here;
	make_table(200);
	write_policy("", POLICY_COLUMNS);
	fix_ok(produce(REQUEST, "train", &err), err);
	text_is(prod_db, "SELECT state FROM dataset", "produced");
	text_is(prod_db, "SELECT group_concat(json_extract(CAST(value AS TEXT), '$.state'), ' ') FROM outbox", "accepted produced");
}
END_TEST

START_TEST(test_schema_drift)
{
	char middle[200], print[80];

	make_table(200);
	write_policy("", POLICY_COLUMNS);
	produced(REQUEST, "train");
	fix_text(prod_db, "SELECT json_extract(manifest, '$.meta.attestation.source_fingerprint') FROM transfer_out", print, sizeof(print));
	ck_assert_uint_eq(strlen(print), 64);
	/* pinned: the same is fine, another type is not */
	(void)snprintf(middle, sizeof(middle), "  fingerprint: %s\nrecipients: [train]\n", print);
	char text[4096], path[TEST_PATH_MAX + 32];
	(void)snprintf(text, sizeof(text), "policy: person\nversion: \"2\"\nsource:\n  postgres: {conninfo: \"%s\", table: public.person}\n%s" POLICY_COLUMNS, conninfo, middle);
	(void)snprintf(path, sizeof(path), "%s/person.yaml", policies);
	test_write(path, text, 0600);
	produced(OTHER_REQUEST, "train");
	text_is(prod_db, LAST_EVENT("state"), "produced");
	script("ALTER TABLE public.person ALTER COLUMN age TYPE bigint");
	produced("06ejq0mbjwxsh3tg5v1r2k8c4g", "train");
	text_is(prod_db, LAST_EVENT("reason_code"), "schema_drift");
}
END_TEST

/* --- CSV source --- */

START_TEST(test_csv_source)
{
	struct sb_error err = SB_ERROR_INIT;
	char path[TEST_PATH_MAX + 32], transfer[SB_ID_LEN + 1];

	(void)snprintf(path, sizeof(path), "%s/people.csv", policies);
	test_write(path, "\xef\xbb\xbfid,name,age\r\n1,\"" PLANTED "\",41\r\n2,\"say \"\"x\"\",\ny\",\r\n3,\"\",7", 0600);
	(void)snprintf(path, sizeof(path), "%s/person.yaml", policies);
	test_write(path, "policy: person\nversion: 1\nsource: {csv: {path: people.csv}}\nrecipients: [train]\nlimits: {min_rows: 3}\ncolumns:\n"
		"  - {name: id, role: key, op: pseudonym, domain: p}\n  - {name: name, role: direct, op: drop}\n  - {name: age, role: quasi, op: round, step: 10, null: token}\n", 0600);
	produced(REQUEST, "train");
	text_is(prod_db, LAST_EVENT("state"), "produced");
	carry(transfer);
	fix_ok(agent_dataset_receive(&f.a, train_db, transfer, &err), err);
	char *csv = delivered(REQUEST, "data.csv");
	ck_assert_ptr_nonnull(strstr(csv, ",40\n"));
	ck_assert_ptr_nonnull(strstr(csv, ",(null)\n"));
	ck_assert_ptr_nonnull(strstr(csv, ",10\n"));
	free(csv);
	ck_assert_int_eq(holding(inbox, PLANTED), 0);
	ck_assert_int_eq(holding(prod_dir, PLANTED), 0);
}
END_TEST

static const char *const torn[] = { "", "id,name\n1,a,b\n", "id,name\n1\n", "id,name\n\"1\n", "id,name\n\"1\"x,2\n", "id,name\n1\"2\",2\n", "id,name\n1,\xff\n", "id,id\n1,2\n",
	"id,name\n1,2\r3\n" };

START_TEST(test_csv_torn)
{
	char path[TEST_PATH_MAX + 32];

	(void)snprintf(path, sizeof(path), "%s/people.csv", policies);
	test_write(path, torn[_i], 0600);
	(void)snprintf(path, sizeof(path), "%s/person.yaml", policies);
	test_write(path, "policy: person\nversion: 1\nsource: {csv: {path: people.csv}}\nrecipients: [train]\nlimits: {min_rows: 1}\ncolumns:\n"
		"  - {name: id, role: key, op: pseudonym, domain: p}\n  - {name: name, role: public, op: keep, reason: r}\n", 0600);
	produced(REQUEST, "train");
	text_is(prod_db, LAST_EVENT("state"), "refused");
	text_is(prod_db, LAST_EVENT("reason_code"), "source");
	ck_assert_int_eq(spools(&prod), 0);
}
END_TEST

/* --- what is not taken in --- */

static void set_manifest(const char *sql)
{
	struct sb_error err = SB_ERROR_INIT;

	fix_ok(sb_db_script(train_db, sql, &err), err);
}

static const struct { const char *sql; bool ours; const char *reason; } foreign[] = {
	{ "DELETE FROM dataset", false, "is not one of this stage" },
	{ "UPDATE dataset SET peer = 'dev'", false, "asked stage dev, not prod" },
	{ "UPDATE dataset SET state = 'refused'", false, "is refused already" },
	{ "UPDATE dataset SET role = 'produce'", false, "is not one of this stage" },
	{ "UPDATE dataset SET dataset = 'census'", true, "asked for another dataset" },
	{ "UPDATE transfer_in SET manifest = json_set(manifest, '$.meta.attestation.rows_out', 499)", true, "does not hold the 499 rows" },
	{ "UPDATE transfer_in SET manifest = json_set(manifest, '$.meta.columns[0]', 'salary')", true, "header does not name" },
	{ "UPDATE transfer_in SET manifest = json_remove(manifest, '$.meta.attestation')", false, "has no attestation" },
	{ "UPDATE transfer_in SET manifest = json_set(manifest, '$.meta.request', '../../../etc/cron.d/xxxxxxx')", false, "names no request" },
};

START_TEST(test_not_taken)
{
	struct sb_error err = SB_ERROR_INIT;
	char transfer[SB_ID_LEN + 1], reason[1024], before[64], after[64];

	make_table(500);
	write_policy("", POLICY_COLUMNS);
	produced(REQUEST, "train");
	carry(transfer);
	set_manifest(foreign[_i].sql);
	fix_text(train_db, "SELECT state FROM dataset", before, sizeof(before));
	fix_ok(agent_dataset_receive(&f.a, train_db, transfer, &err), err);
	text_is(train_db, "SELECT state FROM transfer_in", "failed");
	fix_text(train_db, "SELECT reason FROM transfer_in", reason, sizeof(reason));
	ck_assert_msg(strstr(reason, foreign[_i].reason) != NULL, "%s", reason);
	fix_text(train_db, "SELECT state FROM dataset", after, sizeof(after));
	/* what names a request that is not its own does nothing to it */
	ck_assert_str_eq(after, foreign[_i].ours ? "failed" : before);
	ck_assert_int_eq(fix_number(train_db, "SELECT count(*) FROM outbox"), foreign[_i].ours ? 1 : 0);
	ck_assert_int_eq(spools(&f.a), 0);
	ck_assert(!exists(inbox, "person-" REQUEST));
	ck_assert(!exists(inbox, ".tmp/" REQUEST));
	check_events(train_db);
}
END_TEST

START_TEST(test_altered_on_the_way)
{
	struct sb_error err = SB_ERROR_INIT;
	char transfer[SB_ID_LEN + 1], path[4096];

	make_table(500);
	write_policy("", POLICY_COLUMNS);
	produced(REQUEST, "train");
	carry(transfer);
	fix_ok(agent_state_spool(path, sizeof(path), &f.a, transfer, true, &err), err);
	int fd = open(path, O_RDWR);
	ck_assert_int_eq(pwrite(fd, "x", 1, 100), 1);
	close(fd);
	fix_ok(agent_dataset_receive(&f.a, train_db, transfer, &err), err);
	text_is(train_db, "SELECT state FROM dataset", "failed");
	ck_assert(!exists(inbox, "person-" REQUEST));
	ck_assert(!exists(inbox, ".tmp/" REQUEST));
}
END_TEST

/* Sealed to train: another stage's agent cannot open it, whatever its state says. */
START_TEST(test_wrong_recipient)
{
	struct sb_error err = SB_ERROR_INIT;
	char transfer[SB_ID_LEN + 1];

	make_table(500);
	write_policy("", POLICY_COLUMNS);
	produced(REQUEST, "train");
	carry(transfer);
	f.a.identity = f.keys.explore;
	fix_ok(agent_dataset_receive(&f.a, train_db, transfer, &err), err);
	text_is(train_db, "SELECT state FROM dataset", "failed");
	ck_assert(!exists(inbox, "person-" REQUEST));
}
END_TEST

/* --- kills --- */

/* Runs the job in a child that is killed after us microseconds; true when it ended by itself. The state is open in no other process meanwhile. */
static bool run_killed(int (*job)(struct sb_error *err), long us)
{
	int status = 0;
	pid_t pid;

	close_states();
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		struct sb_error err = SB_ERROR_INIT;
		open_states();
		_exit(job(&err) == 0 ? 0 : 1);
	}
	const struct timespec wait = { .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000 };
	(void)nanosleep(&wait, NULL); /* the distance of the kill, not a wait for anything */
	kill(pid, SIGKILL);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	open_states();
	ck_assert(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
	return !WIFSIGNALED(status);
}

static char kill_transfer[SB_ID_LEN + 1];

static int job_produce(struct sb_error *err)
{
	return produce(REQUEST, "train", err);
}

static int job_receive(struct sb_error *err)
{
	return agent_dataset_receive(&f.a, train_db, kill_transfer, err);
}

START_TEST(test_killed)
{
	struct sb_error err = SB_ERROR_INIT;
	unsigned kills = 0;

	make_table(20000);
	write_policy("", POLICY_COLUMNS);
	order(REQUEST, "train");
	for (long us = 500; !run_killed(job_produce, us); us += us / 4) {
		kills++;
		ck_assert_int_le(fix_number(prod_db, "SELECT count(*) FROM transfer_out"), 1);
		ck_assert_int_le(spools(&prod), 2); /* one attempt's, whatever the number of kills */
	}
	ck_assert_uint_ge(kills, 2);
	/* once more, as the lane does when it was killed before the job's end */
	fix_ok(produce(REQUEST, "train", &err), err);
	text_is(prod_db, "SELECT group_concat(json_extract(CAST(value AS TEXT), '$.state'), ' ') FROM outbox", "accepted produced");
	ck_assert_int_eq(fix_number(prod_db, "SELECT count(*) FROM transfer_out"), 1);
	ck_assert_int_eq(spools(&prod), 1);
	nothing_planted();

	carry(kill_transfer);
	kills = 0;
	for (long us = 300; !run_killed(job_receive, us); us += us / 4) {
		kills++;
		/* whole or not there */
		ck_assert(!exists(inbox, "person-" REQUEST) || exists(inbox, "person-" REQUEST "/attestation.json"));
	}
	ck_assert_uint_ge(kills, 2);
	fix_ok(agent_dataset_receive(&f.a, train_db, kill_transfer, &err), err);
	text_is(train_db, "SELECT state || ' ' || rows FROM dataset", "delivered 20000");
	ck_assert_int_eq(fix_number(train_db, "SELECT count(*) FROM outbox"), 1);
	ck_assert_int_eq(spools(&f.a), 0);
	ck_assert_int_eq(entries(inbox), 2); /* .tmp and the dataset */
	nothing_planted();
}
END_TEST

/* The two worst moments, exactly: everything done but the commit. */
START_TEST(test_commit_lost)
{
	struct sb_error err = SB_ERROR_INIT;
	char transfer[SB_ID_LEN + 1];

	make_table(500);
	write_policy("", POLICY_COLUMNS);
	order(REQUEST, "train");
	fix_ok(sb_db_script(prod_db, "CREATE TRIGGER lost BEFORE INSERT ON transfer_out BEGIN SELECT RAISE(ABORT, 'lost'); END", &err), err);
	ck_assert_int_lt(produce(REQUEST, "train", &err), 0);
	ck_assert_int_lt(produce(REQUEST, "train", &err), 0);
	ck_assert_int_eq(spools(&prod), 1);
	fix_ok(sb_db_script(prod_db, "DROP TRIGGER lost", &err), err);
	fix_ok(produce(REQUEST, "train", &err), err);
	ck_assert_int_eq(fix_number(prod_db, "SELECT count(*) FROM outbox"), 2);
	carry(transfer);
	fix_ok(sb_db_script(train_db, "CREATE TRIGGER lost BEFORE UPDATE ON transfer_in BEGIN SELECT RAISE(ABORT, 'lost'); END", &err), err);
	ck_assert_int_lt(agent_dataset_receive(&f.a, train_db, transfer, &err), 0);
	ck_assert(exists(inbox, "person-" REQUEST "/data.csv")); /* placed, not committed */
	ck_assert_int_lt(agent_dataset_receive(&f.a, train_db, transfer, &err), 0);
	fix_ok(sb_db_script(train_db, "DROP TRIGGER lost", &err), err);
	fix_ok(agent_dataset_receive(&f.a, train_db, transfer, &err), err);
	text_is(train_db, "SELECT state FROM dataset", "delivered");
	ck_assert_int_eq(fix_number(train_db, "SELECT count(*) FROM outbox"), 1);
}
END_TEST

/* A refusal after an attempt that was sealed takes the sealed file away. */
START_TEST(test_refused_after_a_kill)
{
	struct sb_error err = SB_ERROR_INIT;

	make_table(500);
	write_policy("", POLICY_COLUMNS);
	order(REQUEST, "train");
	fix_ok(sb_db_script(prod_db, "CREATE TRIGGER lost BEFORE INSERT ON transfer_out BEGIN SELECT RAISE(ABORT, 'lost'); END", &err), err);
	ck_assert_int_lt(produce(REQUEST, "train", &err), 0);
	ck_assert_int_eq(spools(&prod), 1);
	script("ALTER TABLE public.person ADD COLUMN ssn text");
	fix_ok(produce(REQUEST, "train", &err), err);
	text_is(prod_db, LAST_EVENT("reason_code"), "unlisted_column");
	ck_assert_int_eq(spools(&prod), 0);
}
END_TEST

/* --- the lane --- */

START_TEST(test_lane)
{
	struct sb_error err = SB_ERROR_INIT;
	json_auto_t *body = json_pack("{s:s, s:s, s:s, s:s, s:s}", "request", REQUEST, "dataset", "person", "to", "train", "user", "ana", "purpose", "tests");
	char transfer[SB_ID_LEN + 1];

	/* the first request waits for a source that is away; the second does not wait for it */
	json_auto_t *away = json_pack("{s:s, s:s, s:s, s:s, s:s}", "request", OTHER_REQUEST, "dataset", "away", "to", "train", "user", "ana", "purpose", "tests");
	char path[TEST_PATH_MAX + 32];
	(void)snprintf(path, sizeof(path), "%s/away.yaml", policies);
	test_write(path, "policy: away\nversion: 1\nsource:\n  postgres: {conninfo: \"host=/nowhere dbname=x\", table: a.b}\nrecipients: [train]\n" POLICY_COLUMNS, 0600);
	fix_ok(sb_db_run(prod_db, NULL, &err, "INSERT INTO dataset(request, dataset, peer, role, user, purpose, state, created_ms, updated_ms)"
		" VALUES (?, 'away', 'train', 'produce', 'ana', 'tests', 'ordered', 1, 1)", "s", OTHER_REQUEST), err);
	fix_ok(agent_job_add(prod_db, "dataset", OTHER_REQUEST, away, NULL, &err), err);
	make_table(500);
	write_policy("", POLICY_COLUMNS);
	order(REQUEST, "train");
	fix_ok(agent_job_add(prod_db, "dataset", REQUEST, body, NULL, &err), err);
	fix_ok(sb_lanes_new(&prod.lanes, &err), err);
	fix_ok(sb_lanes_start(prod.lanes, "dataset", agent_dataset_lane, &prod, &err), err);
	ck_assert(wait_until(fix_number(prod_db, "SELECT count(*) FROM job WHERE ref = '" REQUEST "' AND state = 'done'") == 1, 20000));
	ck_assert(wait_until(fix_number(prod_db, "SELECT count(*) FROM job WHERE ref = '" OTHER_REQUEST "' AND state IN ('waiting', 'queued', 'running')") == 1, 20000));
	/* it comes back */
	(void)snprintf(path, sizeof(path), "%s/away.yaml", policies);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert(wait_until(fix_number(prod_db, "SELECT count(*) FROM dataset WHERE state = 'refused'") == 1, 20000));
	fix_ok(sb_lanes_stop(prod.lanes, 10000, &err), err);
	sb_lanes_free(prod.lanes);
	prod.lanes = NULL;

	carry(transfer);
	json_auto_t *manifest = json_object();
	fix_ok(agent_job_add(train_db, "receive", transfer, manifest, NULL, &err), err);
	fix_ok(sb_lanes_new(&f.a.lanes, &err), err);
	fix_ok(sb_lanes_start(f.a.lanes, "dataset", agent_dataset_lane, &f.a, &err), err);
	ck_assert(wait_until(fix_number(train_db, "SELECT count(*) FROM job WHERE kind = 'receive' AND state = 'done'") == 1, 20000));
	fix_ok(sb_lanes_stop(f.a.lanes, 10000, &err), err);
	sb_lanes_free(f.a.lanes);
	f.a.lanes = NULL;
	text_is(train_db, "SELECT state FROM dataset WHERE request = '" REQUEST "'", "delivered");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("agent dataset");
	TCase *tc = tcase_create("dataset");

	conninfo = pg_fixture_start();
	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, test_produced_and_delivered);
	tcase_add_test(tc, test_ephemeral_keys);
	tcase_add_loop_test(tc, test_refused, 0, (int)SB_COUNT(refusals));
	tcase_add_test(tc, test_refused_by_the_server);
	tcase_add_test(tc, test_no_policy);
	tcase_add_test(tc, test_source_away);
	tcase_add_test(tc, test_schema_drift);
	tcase_add_test(tc, test_csv_source);
	tcase_add_loop_test(tc, test_csv_torn, 0, (int)SB_COUNT(torn));
	tcase_add_loop_test(tc, test_not_taken, 0, (int)SB_COUNT(foreign));
	tcase_add_test(tc, test_altered_on_the_way);
	tcase_add_test(tc, test_wrong_recipient);
	tcase_add_test(tc, test_killed);
	tcase_add_test(tc, test_commit_lost);
	tcase_add_test(tc, test_refused_after_a_kill);
	tcase_add_test(tc, test_lane);
	suite_add_tcase(s, tc);
	return test_run(s);
}
