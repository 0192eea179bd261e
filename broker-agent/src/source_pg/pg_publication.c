/* The publication is ours: made when it is missing, and kept at what the settings ask for. Of the application's tables nothing is changed. Private columns
 * are left out by a column list where the server can (15 and later, not with REPLICA IDENTITY FULL); the decoder drops them in any case. A table
 * that cannot be added is refused with the SQL that mends it, the others go on. Stream lane. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "pgsrc.h"
#include "stagebridge/log.h"

#define OPTIONS "publish = 'insert, update, delete, truncate', publish_via_partition_root = true"

static bool wants_list(const struct pgsrc *s, const struct pgsrc_table *t)
{
	return t->hides && t->identity != 'f' && sb_pg_version(s->pg) >= 150000;
}

static const struct pgsrc_column *numbered(const struct pgsrc_column *c, unsigned n, int attnum)
{
	for (unsigned i = 0; i < n; i++) {
		if (c[i].attnum == attnum)
			return &c[i];
	}
	return NULL;
}

/* The column of that number if it is in the list: all but the private ones. What is withheld is withheld by us: left out of the list, the application's
 * updates would fail as soon as its identity came to use it. */
static const struct pgsrc_column *listed(const struct pgsrc_table *t, int attnum)
{
	const struct pgsrc_column *c = numbered(t->column, t->n_columns, attnum);

	return c ? c : numbered(t->withheld, t->n_withheld, attnum);
}

/* ADD TABLE's operand: ONLY, because children of plain inheritance are tables of their own */
static void add_operand(const struct pgsrc *s, struct sb_buf *sql, const struct pgsrc_table *t, const char *where)
{
	sb_buf_adds(sql, t->kind == 'r' ? "ONLY " : "");
	pgsrc_table_sql(sql, t);
	for (int n = 0, attnum = 1; wants_list(s, t) && attnum <= t->natts; attnum++) {
		const struct pgsrc_column *c = listed(t, attnum);
		if (!c)
			continue;
		sb_buf_adds(sql, n++ ? ", " : " (");
		sb_pg_ident(sql, c->name);
	}
	sb_buf_adds(sql, wants_list(s, t) ? ")" : "");
	if (where && *where)
		sb_buf_addf(sql, " WHERE (%s)", where);
}

static int alter(struct pgsrc *s, struct sb_buf *sql, struct sb_error *err)
{
	int r = sb_buf_check(sql, "publication", err);

	return r < 0 ? r : sb_pg_exec(s->pg, sql->data, 0, NULL, NULL, err);
}

static void begin_alter(struct pgsrc *s, struct sb_buf *sql, const char *what)
{
	sb_buf_reset(sql);
	sb_buf_adds(sql, "ALTER PUBLICATION ");
	sb_pg_ident(sql, s->set->publication);
	sb_buf_addc(sql, ' ');
	sb_buf_adds(sql, what);
}

static int create(struct pgsrc *s, struct sb_buf *sql, struct sb_error *err)
{
	sb_buf_reset(sql);
	sb_buf_adds(sql, "CREATE PUBLICATION ");
	sb_pg_ident(sql, s->set->publication);
	sb_buf_adds(sql, " WITH (" OPTIONS ")");
	int r = alter(s, sql, err);
	if (r < 0)
		return sb_fail_prefix(err, "could not make the publication, its owner may do so by: %s", sql->data);
	sb_log(SB_INFO, "publication_made", "source=%s publication=%s", s->set->name, s->set->publication);
	return 0;
}

/* Is it there, for all tables, and does it publish everything? */
static int look(struct pgsrc *s, bool *ret_there, bool *ret_all, bool *ret_whole, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *const param[] = { s->set->publication };

	int r = sb_pg_exec(s->pg, "SELECT puballtables, pubinsert AND pubupdate AND pubdelete AND pubtruncate AND pubviaroot FROM pg_publication WHERE pubname = $1", 1,
		param, &res, err);
	if (r < 0)
		return r;
	*ret_there = sb_pg_rows(res) == 1;
	*ret_all = *ret_there && sb_pg_get(res, 0, 0)[0] == 't';
	*ret_whole = *ret_there && sb_pg_get(res, 0, 1)[0] == 't';
	return 0;
}

/* "-" when the table is not in it, else the numbers of the listed columns, "" for all. */
static int listed_columns(struct pgsrc *s, const struct pgsrc_table *t, struct sb_buf *out, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	char oid[16];
	const char *const param[] = { s->set->publication, oid };

	(void)snprintf(oid, sizeof(oid), "%" PRIu32, t->oid); /* ten digits at most */
	int r = sb_pg_exec(s->pg, sb_pg_version(s->pg) >= 150000 ?
		"SELECT coalesce(array_to_string(r.prattrs::int2[], ','), '') FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid"
		" WHERE p.pubname = $1 AND r.prrelid = $2::oid" :
		"SELECT '' FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE p.pubname = $1 AND r.prrelid = $2::oid",
		2, param, &res, err);
	if (r < 0)
		return r;
	sb_buf_reset(out);
	sb_buf_adds(out, sb_pg_rows(res) ? sb_pg_get(res, 0, 0) : "-");
	return sb_buf_check(out, "column list", err);
}

static void wanted_columns(const struct pgsrc *s, const struct pgsrc_table *t, struct sb_buf *out)
{
	sb_buf_reset(out);
	for (int n = 0, attnum = 1; wants_list(s, t) && attnum <= t->natts; attnum++) {
		if (listed(t, attnum))
			sb_buf_addf(out, "%s%d", n++ ? "," : "", attnum);
	}
}

/* In the publication by name or through FOR ALL TABLES or FOR TABLES IN SCHEMA */
static int published(struct pgsrc *s, const struct pgsrc_table *t, bool *ret, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *const param[] = { s->set->publication, t->schema, t->name };

	int r = sb_pg_exec(s->pg, "SELECT FROM pg_publication_tables WHERE pubname = $1 AND schemaname = $2 AND tablename = $3", 3, param, &res, err);
	if (r == 0)
		*ret = sb_pg_rows(res) > 0;
	return r;
}

static int drop_harmful(struct pgsrc *s, const struct pgsrc_table *t, struct sb_buf *sql, struct sb_error *err)
{
	int r = listed_columns(s, t, sql, err);

	if (r < 0 || strcmp(sql->data, "-") == 0)
		return r;
	begin_alter(s, sql, "DROP TABLE ");
	pgsrc_table_sql(sql, t);
	r = alter(s, sql, err);
	if (r == 0)
		sb_log(SB_WARN, "table_unpublished", "source=%s table=%s.%s reason=%s", s->set->name, t->schema, t->name, t->refusal);
	return r;
}

/* Out and in again, or in, as one transaction. */
static int put(struct pgsrc *s, const struct pgsrc_type *type, bool drop, struct sb_buf *sql, struct sb_error *err)
{
	const struct pgsrc_table *t = &type->table;
	int r = sb_pg_begin(s->pg, err);

	if (r == 0 && drop) {
		begin_alter(s, sql, "DROP TABLE ");
		pgsrc_table_sql(sql, t);
		r = alter(s, sql, err);
	}
	if (r == 0) {
		begin_alter(s, sql, "ADD TABLE ");
		add_operand(s, sql, t, type->conf->where);
		r = alter(s, sql, err);
	}
	if (r == 0)
		r = sb_pg_commit(s->pg, err);
	if (r < 0)
		sb_pg_rollback(s->pg);
	return r;
}

/* The server spells a filter in its own way, so the texts cannot be compared: the settings' is put once a session, and when there is one too many or too few. */
static bool filter_stands(const struct pgsrc_type *type)
{
	bool wanted = type->conf->where && type->conf->where[0];

	return wanted == (type->table.filter != NULL) && (type->filter_put || !wanted);
}

static int filter_now(struct pgsrc *s, struct pgsrc_type *type, struct sb_error *err)
{
	free(type->table.filter);
	type->filter_put = true;
	return pgsrc_filter_read(s->pg, s->set->publication, &type->table, &type->table.filter, err);
}

static int one_table(struct pgsrc *s, struct pgsrc_type *type, bool all, struct sb_buf *sql, struct sb_error *err)
{
	sb_cleanup(sb_buf_release) struct sb_buf wanted = { 0 };
	struct pgsrc_table *t = &type->table;
	struct sb_error why = SB_ERROR_INIT;
	bool already = false;

	sb_buf_init(&wanted, 16384);
	if (t->harmful && !all)
		return drop_harmful(s, t, sql, err);
	if (t->refusal[0])
		return 0;
	wanted_columns(s, t, &wanted);
	int r = published(s, t, &already, err);
	if (r == 0)
		r = pgsrc_filter_read(s->pg, s->set->publication, t, &t->filter, err);
	if (r == 0)
		r = listed_columns(s, t, sql, err);
	if (r == 0)
		r = sb_buf_check(&wanted, "column list", err);
	if (r < 0)
		return r;
	bool named = strcmp(sql->data, "-") != 0, columns_fit = already && (!named || strcmp(sql->data, wanted.data) == 0);
	t->listed = named && *wanted.data && columns_fit;
	bool filtered = type->conf->where && type->conf->where[0];
	if (columns_fit && filter_stands(type))
		return 0;
	if (all && filtered) {
		(void)snprintf(t->refusal, sizeof(t->refusal), "the publication is for all tables, it takes no row filter: name another publication");
		return 0;
	}
	r = put(s, type, named, sql, &why);
	if (r == 0) {
		t->listed = *wanted.data != '\0';
		sb_log(SB_INFO, "table_published", "source=%s table=%s.%s", s->set->name, t->schema, t->name);
		return filter_now(s, type, err);
	}
	if (!sb_pg_ok(s->pg)) {
		*err = why;
		return r;
	}
	/* made by its owner, who alone may change it: then it is taken for what the settings ask for */
	type->filter_put = filtered && t->filter && why.code == SB_EAUTH;
	if (columns_fit && type->filter_put)
		return 0;
	if (!filter_stands(type))
		(void)snprintf(t->refusal, sizeof(t->refusal), "the publication has another row filter (%.100s); its owner may mend it: %.250s", why.msg, sql->data);
	else if (already && !*wanted.data)
		(void)snprintf(t->refusal, sizeof(t->refusal), "the publication lists other columns (%.100s); its owner may mend it: %.250s", why.msg, sql->data);
	else if (!already)
		(void)snprintf(t->refusal, sizeof(t->refusal), "could not be published (%.120s); its owner may do so by: %.250s", why.msg, sql->data);
	else
		sb_log_limited(SB_WARN, "column_list_not_set", type->conf->type, &why); /* the decoder drops the private columns */
	return 0;
}

int pgsrc_publication(struct pgsrc *s, bool *ret_made, struct sb_error *err)
{
	sb_cleanup(sb_buf_release) struct sb_buf sql = { 0 };
	bool there = false, all = false, whole = false;

	sb_buf_init(&sql, 256 * 1024);
	/* an exclusive lock of the application on its table must not hold us, and with us the stream */
	int r = sb_pg_exec(s->pg, "SET lock_timeout = '2s'", 0, NULL, NULL, err);
	if (r == 0)
		r = look(s, &there, &all, &whole, err);
	if (r == 0 && !there)
		r = create(s, &sql, err);
	if (r == 0 && there && !whole) {
		begin_alter(s, &sql, "SET (" OPTIONS ")");
		r = alter(s, &sql, err);
		if (r < 0)
			r = sb_fail_prefix(err, "the publication does not publish everything, its owner may mend it by: %s", sql.data);
	}
	*ret_made = !there;
	for (size_t i = 0; r == 0 && i < s->n_types; i++)
		r = s->type[i].events && !s->outbox.table ? 0 : one_table(s, &s->type[i], all, &sql, err);
	return r;
}

int pgsrc_guard(struct pgsrc *s, bool *ret_changed, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *const param[] = { s->set->publication };

	int r = sb_pg_exec(s->pg,
		"SELECT md5(coalesce(string_agg(concat_ws(' ', c.oid, c.relreplident, i.indexrelid), ',' ORDER BY c.oid, i.indexrelid), ''))"
		" FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid JOIN pg_class c ON c.oid = r.prrelid"
		" LEFT JOIN pg_index i ON i.indrelid = c.oid AND (i.indisprimary OR i.indisreplident) WHERE p.pubname = $1", 1, param, &res, err);
	if (r < 0)
		return r;
	*ret_changed = s->guard[0] && strcmp(s->guard, sb_pg_get(res, 0, 0)) != 0;
	return sb_format(s->guard, sizeof(s->guard), err, "%s", sb_pg_get(res, 0, 0));
}
