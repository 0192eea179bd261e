/* What the catalog says of a configured table, and whether it can be a source: it must exist, be logged, have a key that pgoutput tells with every
 * update and delete, and be readable by us. The worst thing a reader of a database can do is to break its writers: a table without replica identity refuses
 * updates once it is published, so such a table is never published, and the reason names the SQL that mends it. Nothing here changes anything.
 * Called by both lanes, each with its own connection. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "columns.h"
#include "pgsrc.h"

static void columns_free(struct pgsrc_column *c, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		free(c[i].name);
		free(c[i].type);
	}
	free(c);
}

void pgsrc_table_release(struct pgsrc_table *t)
{
	columns_free(t->column, t->n_columns);
	columns_free(t->withheld, t->n_withheld);
	pgsrc_leaves_release(t);
	free(t->filter);
	free(t->schema);
	free(t->name);
	*t = (struct pgsrc_table){ .oid = 0 };
}

void pgsrc_table_sql(struct sb_buf *out, const struct pgsrc_table *t)
{
	sb_pg_ident(out, t->schema);
	sb_buf_addc(out, '.');
	sb_pg_ident(out, t->name);
}

bool pgsrc_is_withheld(const struct pgsrc_table *t, const char *column)
{
	for (unsigned i = 0; i < t->n_withheld; i++) {
		if (strcmp(t->withheld[i].name, column) == 0)
			return true;
	}
	return false;
}

void pgsrc_columns_sql(struct sb_buf *out, const struct pgsrc_table *t)
{
	for (unsigned i = 0; i < t->n_columns; i++) {
		sb_buf_adds(out, i ? ", " : "");
		sb_pg_ident(out, t->column[i].name);
	}
}

static bool in_list(const struct sb_strings *list, const char *s)
{
	for (size_t i = 0; i < list->count; i++) {
		if (strcmp(list->item[i], s) == 0)
			return true;
	}
	return false;
}

bool pgsrc_name_ok(const char *name)
{
	size_t n = strlen(name);

	for (size_t i = 0; i < n; i++) {
		if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
			return false;
	}
	return n <= 255 && sb_utf8_ok(name, n);
}

static int refuse(struct pgsrc_table *t, const char *fmt, ...) SB_PRINTF(2, 3);
static int refuse(struct pgsrc_table *t, const char *fmt, ...)
{
	va_list ap;

	if (t->refusal[0])
		return 0; /* the first reason is the one to mend first */
	va_start(ap, fmt);
	(void)vsnprintf(t->refusal, sizeof(t->refusal), fmt, ap); /* for people; long names may cut it */
	va_end(ap);
	return 0;
}

/* "schema"."name" for messages; returns new */
static char *spelled(const struct pgsrc_table *t)
{
	struct sb_buf b;

	sb_buf_init(&b, 512);
	pgsrc_table_sql(&b, t);
	return sb_buf_detach(&b);
}

/* --- reading --- */

static const char table_query[] =
	"SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpersistence, c.relreplident, c.relnatts,"
	" CASE c.relkind WHEN 'p' THEN (SELECT sum(greatest(l.reltuples, 0)) FROM pg_partition_tree(c.oid) p JOIN pg_class l ON l.oid = p.relid)"
	" ELSE greatest(c.reltuples, 0) END::bigint,"
	" CASE c.relkind WHEN 'p' THEN (SELECT l.oid::regclass::text FROM pg_partition_tree(c.oid) p JOIN pg_class l ON l.oid = p.relid WHERE p.isleaf"
	"  AND (l.relreplident <> c.relreplident OR l.relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = l.oid AND i.indisprimary))"
	"  LIMIT 1) END"
	" FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)";

static const char columns_query[] =
	"SELECT a.attnum, a.attname, " PGSRC_TYPE_SQL("a.atttypid", "a.atttypmod") ", a.atthasdef OR a.atthasmissing OR a.attidentity <> '', a.attgenerated <> '',"
	" EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisprimary AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])),"
	" EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisreplident AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])),"
	" has_column_privilege(a.attrelid, a.attnum, 'SELECT'), current_user"
	" FROM pg_attribute a WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

/* unique indexes that could be an identity; the last column: is it the declared key? */
static const char unique_query[] =
	"SELECT c.relname, bool_and(a.attnotnull), coalesce(array_agg(a.attname::text COLLATE \"C\" ORDER BY a.attname::text COLLATE \"C\") ="
	" (SELECT array_agg(x COLLATE \"C\" ORDER BY x COLLATE \"C\") FROM json_array_elements_text($2::json) x), false) AS declared"
	" FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
	" JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])"
	" WHERE i.indrelid = $1::oid AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL"
	" GROUP BY i.indexrelid, c.relname ORDER BY 3 DESC, 2 DESC, 1";

static bool is_true(const struct sb_pg_result *res, int row, int column)
{
	const char *s = sb_pg_get(res, row, column);

	return s && s[0] == 't';
}

static int read_table(struct sb_pg *pg, const struct agent_table *conf, struct pgsrc_table *t, char *ret_persistence, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *const param[] = { conf->table };

	int r = sb_pg_exec(pg, table_query, 1, param, &res, err);
	if (r < 0 && sb_pg_ok(pg) && strncmp(err->state, "42", 2) == 0)
		return refuse(t, "\"%s\" is not the name of a table: %s", conf->table, err->msg);
	if (r < 0)
		return r;
	if (sb_pg_rows(res) == 0)
		return refuse(t, "table \"%s\" does not exist (quote names that are not lower case), or its schema may not be used", conf->table);
	t->oid = (uint32_t)sb_pg_get_i64(res, 0, 0);
	t->schema = sb_strdup(sb_pg_get(res, 0, 1));
	t->name = sb_strdup(sb_pg_get(res, 0, 2));
	if (!t->schema || !t->name)
		return sb_fail_nomem(err);
	t->kind = sb_pg_get(res, 0, 3)[0];
	*ret_persistence = sb_pg_get(res, 0, 4)[0];
	t->identity = sb_pg_get(res, 0, 5)[0];
	t->natts = (int)sb_pg_get_i64(res, 0, 6);
	t->estimate = sb_pg_get_i64(res, 0, 7);
	if (sb_pg_get(res, 0, 8)) {
		t->harmful = true;
		refuse(t, "partition %s has no replica identity or another one than its parent: give it a primary key, or ALTER TABLE %s REPLICA IDENTITY as its parent's",
			sb_pg_get(res, 0, 8), sb_pg_get(res, 0, 8));
	}
	return 0;
}

struct columns { const struct sb_pg_result *res; const struct agent_table *conf; const struct pgsrc_known *known; bool has_primary, declared_used; };

static int add_column(const struct columns *c, int i, bool key, struct pgsrc_column *to, struct sb_error *err)
{
	*to = (struct pgsrc_column){ .attnum = (int)sb_pg_get_i64(c->res, i, 0), .key = key, .has_default = is_true(c->res, i, 3),
		.name = sb_strdup(sb_pg_get(c->res, i, 1)), .type = sb_strdup(sb_pg_get(c->res, i, 2)) };
	return to->name && to->type ? 0 : sb_fail_nomem(err);
}

/* It came after the type was taken up, and nobody has said where it may go */
static bool is_withheld(const struct columns *c, int i, const struct pgsrc_table *t)
{
	const char *name = sb_pg_get(c->res, i, 1);

	return c->conf->new_columns == AGENT_NEW_WITHHOLD && agent_column_class(c->conf, name) == AGENT_UNDECLARED &&
		!pgsrc_known_has(c->known, t->oid, (int)sb_pg_get_i64(c->res, i, 0), name);
}

/* Column of the result at row i becomes a column of the table, or is left out, or is a reason to refuse. */
static int take_column(struct columns *c, int i, struct pgsrc_table *t, struct sb_error *err)
{
	const char *name = sb_pg_get(c->res, i, 1);
	bool by_index = t->identity == 'i';
	bool key = c->declared_used ? in_list(&c->conf->key, name) : is_true(c->res, i, by_index ? 6 : 5);

	if (agent_column_class(c->conf, name) == AGENT_PRIVATE) {
		t->hides = true;
		t->harmful = t->harmful || key; /* a list without it */
		if (key)
			refuse(t, "column \"%s\" is private, but rows are told apart by it: choose another replica identity, or let it leave", name);
		return 0;
	}
	if (is_true(c->res, i, 4))
		return key ? refuse(t, "column \"%s\" is generated and cannot be a key", name) : 0;
	if (is_withheld(c, i, t)) {
		t->harmful = t->harmful || key; /* the list that it is not in yet */
		if (key)
			refuse(t, "column \"%s\" is new and not declared, but rows are told apart by it: declare it (internal, public or masks), or choose another"
				" replica identity", name);
		return add_column(c, i, key, &t->withheld[t->n_withheld++], err);
	}
	if (!is_true(c->res, i, 7)) {
		sb_cleanup(sb_freep) char *table = spelled(t);
		refuse(t, "column \"%s\" cannot be read: GRANT SELECT ON %s TO \"%s\"", name, table ? table : "?", sb_pg_get(c->res, i, 8));
	}
	if (!pgsrc_name_ok(name) || !pgsrc_name_ok(sb_pg_get(c->res, i, 2))) /* not shown: it would spoil whatever shows it */
		refuse(t, "the name or type of its column number %d has control characters or is not UTF-8: ALTER TABLE ... RENAME COLUMN", i + 1);
	return add_column(c, i, key, &t->column[t->n_columns++], err);
}

/* A misspelt private column, or one that was renamed, would leave the stage: nothing of the table does then. */
static void check_private(const struct columns *c, struct pgsrc_table *t)
{
	for (size_t k = 0; k < c->conf->private_columns.count; k++) {
		bool found = false;
		for (int i = 0; i < sb_pg_rows(c->res) && !found; i++)
			found = strcmp(sb_pg_get(c->res, i, 1), c->conf->private_columns.item[k]) == 0;
		if (!found)
			refuse(t, "private column \"%s\" does not exist: if it was renamed, correct the configuration; if it was dropped, remove it there",
				c->conf->private_columns.item[k]);
	}
}

/* --- keys --- */

/* Returns new: the declared key as a JSON array. */
static char *declared_json(const struct agent_table *conf)
{
	json_auto_t *list = json_array();

	for (size_t i = 0; list && i < conf->key.count; i++) {
		if (json_array_append_new(list, json_string(conf->key.item[i])) < 0)
			return NULL;
	}
	return list ? json_dumps(list, JSON_COMPACT) : NULL;
}

/* The best unique index: the declared key's, then one without NULLs. "" when there is none. */
static int best_unique(struct sb_pg *pg, const struct agent_table *conf, const struct pgsrc_table *t, char index[64], bool *ret_not_null, bool *ret_declared,
	struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	sb_cleanup(sb_freep) char *key = declared_json(conf);
	char oid[16];
	const char *const param[] = { oid, key };

	if (!key)
		return sb_fail_nomem(err);
	(void)snprintf(oid, sizeof(oid), "%" PRIu32, t->oid); /* ten digits at most */
	index[0] = '\0';
	*ret_not_null = *ret_declared = false;
	int r = sb_pg_exec(pg, unique_query, 2, param, &res, err);
	if (r < 0 || sb_pg_rows(res) == 0)
		return r;
	*ret_not_null = is_true(res, 0, 1);
	*ret_declared = is_true(res, 0, 2);
	return sb_format(index, 64, err, "%s", sb_pg_get(res, 0, 0));
}

static int refuse_no_identity(struct sb_pg *pg, const struct agent_table *conf, struct pgsrc_table *t, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *table = spelled(t);
	char index[64];
	bool not_null, declared;

	t->harmful = true;
	int r = table ? best_unique(pg, conf, t, index, &not_null, &declared, err) : sb_fail_nomem(err);
	if (r < 0)
		return r;
	if (index[0] && not_null)
		return refuse(t, "has no replica identity, its updates would fail once it is published: ALTER TABLE %s REPLICA IDENTITY USING INDEX \"%s\"", table, index);
	if (declared)
		return refuse(t, "has no replica identity, its updates would fail once it is published: make the columns of index \"%s\" NOT NULL, then"
			" ALTER TABLE %s REPLICA IDENTITY USING INDEX \"%s\"", index, table, index);
	return refuse(t, "has no primary key, its updates would fail once it is published: ALTER TABLE %s ADD PRIMARY KEY (%s)", table,
		conf->key.count ? conf->key.item[0] : "...");
}

/* REPLICA IDENTITY FULL tells whole old rows: any unique, never null columns can be the key. */
static int check_declared(struct sb_pg *pg, const struct agent_table *conf, struct pgsrc_table *t, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *table = spelled(t);
	char index[64];
	bool not_null, declared;

	if (!table)
		return sb_fail_nomem(err);
	if (conf->key.count == 0)
		return refuse(t, "has no primary key: ALTER TABLE %s ADD PRIMARY KEY (...), or declare `key` where it has a unique index", table);
	int r = best_unique(pg, conf, t, index, &not_null, &declared, err);
	if (r < 0)
		return r;
	if (!declared)
		return refuse(t, "nothing makes the declared key unique: CREATE UNIQUE INDEX ON %s (\"%s\"%s)", table, conf->key.item[0],
			conf->key.count > 1 ? ", ..." : "");
	if (!not_null)
		return refuse(t, "the declared key may be null: ALTER TABLE %s ALTER COLUMN \"%s\" SET NOT NULL", table, conf->key.item[0]);
	return 0;
}

static int read_columns(struct sb_pg *pg, const struct agent_table *conf, const struct pgsrc_known *known, struct pgsrc_table *t, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	char oid[16];
	const char *const param[] = { oid };
	struct columns c = { .conf = conf, .known = known };
	bool has_identity_index = false;

	(void)snprintf(oid, sizeof(oid), "%" PRIu32, t->oid); /* ten digits at most */
	int r = sb_pg_exec(pg, columns_query, 1, param, &res, err);
	if (r < 0)
		return r;
	int n = sb_pg_rows(res);
	c.res = res;
	for (int i = 0; i < n; i++) {
		c.has_primary = c.has_primary || is_true(res, i, 5);
		has_identity_index = has_identity_index || is_true(res, i, 6);
	}
	if (t->identity == 'n' || (t->identity == 'd' && !c.has_primary) || (t->identity == 'i' && !has_identity_index))
		return refuse_no_identity(pg, conf, t, err);
	c.declared_used = t->identity == 'f' && !c.has_primary;
	if (c.declared_used)
		r = check_declared(pg, conf, t, err);
	t->column = calloc((size_t)n + 1, sizeof(*t->column));
	t->withheld = calloc((size_t)n + 1, sizeof(*t->withheld));
	if (!t->column || !t->withheld)
		return sb_fail_nomem(err);
	for (int i = 0; r == 0 && i < n; i++)
		r = take_column(&c, i, t, err);
	if (r == 0)
		check_private(&c, t);
	if (r == 0 && t->n_columns == 0)
		refuse(t, "has no column that may leave the stage");
	if (r == 0 && t->n_columns > SB_COLUMNS_MAX)
		refuse(t, "has %u columns that may leave the stage, %d fit into a copy of it: declare some of them private", t->n_columns, SB_COLUMNS_MAX);
	return r;
}

int pgsrc_table_read(struct sb_pg *pg, const struct agent_table *conf, const struct pgsrc_known *known, struct pgsrc_table *ret, struct sb_error *err)
{
	struct pgsrc_table t = { .oid = 0 };
	char persistence = 'p';

	int r = read_table(pg, conf, &t, &persistence, err);
	if (r == 0 && t.oid && t.kind != 'r' && t.kind != 'p')
		refuse(&t, "\"%s\" is not a table", conf->table);
	if (r == 0 && t.oid && (strcmp(t.schema, "store") == 0 || strcmp(t.schema, "replica") == 0))
		refuse(&t, "schema \"%s\" holds copies of what other stages own: they are never captured again", t.schema);
	if (r == 0 && t.oid && persistence != 'p') {
		sb_cleanup(sb_freep) char *table = spelled(&t);
		refuse(&t, "is not logged, its changes cannot be read: ALTER TABLE %s SET LOGGED", table ? table : "?");
	}
	if (r == 0 && t.oid && (!t.refusal[0] || t.harmful))
		r = read_columns(pg, conf, known, &t, err);
	if (r == 0 && t.kind == 'p' && !t.refusal[0])
		r = pgsrc_leaves_read(pg, &t, err);
	if (r == 0 && t.oid)
		r = pgsrc_filter_check(pg, conf, &t, err);
	if (r < 0) {
		pgsrc_table_release(&t);
		return r;
	}
	*ret = t;
	return 0;
}

int pgsrc_server_check(struct sb_pg *pg, int64_t *ret_timeout_ms, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;

	if (sb_pg_version(pg) < 140000)
		return sb_fail(err, SB_ECONFIG, "the server has version %d, 14 is the first that can be read", sb_pg_version(pg) / 10000);
	int r = sb_pg_exec(pg, "SELECT current_setting('wal_level'), (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_sender_timeout')", 0, NULL, &res, err);
	if (r < 0)
		return r;
	if (strcmp(sb_pg_get(res, 0, 0), "logical") != 0)
		return sb_fail(err, SB_ECONFIG, "wal_level is \"%s\": ALTER SYSTEM SET wal_level = logical, then restart the server", sb_pg_get(res, 0, 0));
	*ret_timeout_ms = sb_pg_get_i64(res, 0, 1);
	return 0;
}
