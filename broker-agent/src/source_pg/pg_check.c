/* The pre-flight: what a source lacks, found without changing anything, each with the SQL that mends it. Every demand on the server is one query that
 * tells (level, text, SQL); tables are judged by the same code that the source itself uses. The session is read-only, so that not even a mistake here
 * could write. Runs in the program's main thread, without an agent; safe beside a running one. */
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "pgsrc.h"

struct demand { const char *what; const char *sql; };

/* $1 slot, $2 publication */
static const struct demand demands[] = {
	{ "server", "SELECT CASE WHEN v < 140000 THEN 'missing' WHEN v >= 180000 THEN 'warning' ELSE 'ok' END, 'PostgreSQL ' || current_setting('server_version') ||"
		" CASE WHEN v < 140000 THEN ': 14 is the first that can be read' WHEN v >= 180000 THEN ': newer than those that are tested' ELSE '' END, '' FROM (SELECT"
		" current_setting('server_version_num')::int v, $1::text, $2::text) x" },
	{ "primary", "SELECT 'missing', 'is a standby: give the address of the primary', '' FROM (SELECT $1::text, $2::text) x WHERE pg_is_in_recovery()" },
	{ "wal_level", "SELECT CASE s WHEN 'logical' THEN 'ok' ELSE 'missing' END, s, 'ALTER SYSTEM SET wal_level = logical; -- then restart the server'"
		" FROM (SELECT current_setting('wal_level') s, $1::text, $2::text) x" },
	{ "replication", "SELECT CASE WHEN rolreplication OR rolsuper THEN 'ok' ELSE 'missing' END, 'role ' || quote_ident(rolname) || CASE WHEN rolreplication OR rolsuper THEN"
		" ' may replicate' ELSE ' may not replicate' END, format('ALTER ROLE %I REPLICATION', rolname) FROM pg_roles, (SELECT $1::text, $2::text) x"
		" WHERE rolname = current_user" },
	{ "slots", "SELECT CASE WHEN used + need > most THEN 'missing' ELSE 'ok' END, used || ' of ' || most || ' replication slots are used, ' || need || ' more needed',"
		" format('ALTER SYSTEM SET max_replication_slots = %s; -- then restart the server', used + need + 2) FROM (SELECT count(*) used,"
		" current_setting('max_replication_slots')::int most, 2 - count(*) FILTER (WHERE slot_name = $1) need, $2::text FROM pg_replication_slots) x" },
	{ "senders", "SELECT CASE WHEN used + need > most THEN 'missing' ELSE 'ok' END, used || ' of ' || most || ' WAL senders are used, ' || need || ' more needed',"
		" format('ALTER SYSTEM SET max_wal_senders = %s; -- then restart the server', used + need + 2) FROM (SELECT count(*) used,"
		" current_setting('max_wal_senders')::int most, 2 - count(*) FILTER (WHERE pid IN (SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1)) need,"
		" $2::text FROM pg_stat_activity WHERE backend_type = 'walsender') x" },
	{ "wal_sender_timeout", "SELECT CASE WHEN ms BETWEEN 1 AND 4999 THEN 'warning' ELSE 'ok' END, ms || ' ms', 'ALTER SYSTEM SET wal_sender_timeout = ''60s''; SELECT pg_reload_conf()'"
		" FROM (SELECT setting::bigint ms, $1::text, $2::text FROM pg_settings WHERE name = 'wal_sender_timeout') x" },
	{ "max_slot_wal_keep_size", "SELECT CASE WHEN mb < 0 THEN 'warning' ELSE 'ok' END, CASE WHEN mb < 0 THEN 'an agent that is away holds back the log without a limit' ELSE"
		" mb || ' MB' END, 'ALTER SYSTEM SET max_slot_wal_keep_size = ''50GB''; SELECT pg_reload_conf()'"
		" FROM (SELECT setting::bigint mb, $1::text, $2::text FROM pg_settings WHERE name = 'max_slot_wal_keep_size') x" },
	{ "encoding", "SELECT CASE e WHEN 'SQL_ASCII' THEN 'warning' ELSE 'ok' END, e || CASE e WHEN 'SQL_ASCII' THEN ': values that are not UTF-8 are withheld' ELSE '' END, ''"
		" FROM (SELECT current_setting('server_encoding') e, $1::text, $2::text) x" },
	{ "slot", "SELECT CASE WHEN slot_name IS NULL THEN 'ok' WHEN plugin IS DISTINCT FROM 'pgoutput' OR database <> current_database() THEN 'missing' WHEN wal_status = 'lost' THEN 'warning'"
		" ELSE 'ok' END, CASE WHEN slot_name IS NULL THEN 'will be made' WHEN plugin IS DISTINCT FROM 'pgoutput' OR database <> current_database() THEN"
		" 'belongs to another database or plugin: choose another name' WHEN wal_status = 'lost' THEN 'lost: it will be made anew, with snapshots of everything' ELSE"
		" 'there, ' || coalesce(wal_status, '') || CASE WHEN active THEN ', in use' ELSE '' END END, '' FROM (SELECT $1::text n, $2::text) x"
		" LEFT JOIN pg_replication_slots ON slot_name = n" },
	{ "transactions", "SELECT 'warning', format('a transaction is open for %s min in process %s of %s: a slot cannot be made before it ends',"
		" (extract(epoch FROM now() - xact_start) / 60)::int, pid, coalesce(quote_ident(usename), '?')), format('SELECT pg_terminate_backend(%s)', pid) FROM pg_stat_activity"
		" WHERE backend_xid IS NOT NULL AND xact_start < now() - interval '1 minute' AND $2::text IS NOT NULL"
		" AND NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)" },
	{ "prepared", "SELECT 'warning', format('prepared transaction %L is open: a slot cannot be made before it ends', gid), format('COMMIT PREPARED %L; -- or ROLLBACK PREPARED', gid)"
		" FROM pg_prepared_xacts WHERE $2::text IS NOT NULL AND NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)" },
	{ "publication", "SELECT CASE WHEN p.oid IS NULL AND NOT may THEN 'missing' WHEN p.oid IS NOT NULL AND NOT (pubinsert AND pubupdate AND pubdelete AND pubtruncate AND pubviaroot)"
		" AND NOT pg_has_role(pubowner, 'USAGE') THEN 'missing' ELSE 'ok' END, CASE WHEN p.oid IS NOT NULL THEN 'there' WHEN may THEN 'will be made' ELSE"
		" 'is not there and the role may not make it' END, CASE WHEN p.oid IS NULL THEN format('GRANT CREATE ON DATABASE %I TO %I', current_database(), current_user) ELSE"
		" format('ALTER PUBLICATION %I SET (publish = ''insert, update, delete, truncate'', publish_via_partition_root = true)', n) END"
		" FROM (SELECT $1::text, $2::text n, has_database_privilege(current_database(), 'CREATE') may) x LEFT JOIN pg_publication p ON p.pubname = n" },
};

/* With `failover`; $1 slot, $2 publication */
static const char failover_sql[] =
	"SELECT CASE WHEN v < 170000 THEN 'missing' WHEN kept = 'false' OR held = '' THEN 'warning' ELSE 'ok' END, CASE WHEN v < 170000 THEN"
	" 'PostgreSQL 17 is the first that keeps slots in step on standbys: remove `failover`' WHEN kept = 'false' THEN 'the slot was made without it: drop it while the agent is stopped'"
	" WHEN held = '' THEN 'changes may be read before a standby has them: name the standby''s own slot' ELSE 'standbys may keep the slot in step' END,"
	" CASE WHEN v < 170000 THEN '' WHEN kept = 'false' THEN format('SELECT pg_drop_replication_slot(%L)', n) ELSE"
	" 'ALTER SYSTEM SET synchronized_standby_slots = ''...''; SELECT pg_reload_conf()' END FROM (SELECT current_setting('server_version_num')::int v,"
	" current_setting('synchronized_standby_slots', true) held, $1::text n, $2::text, (SELECT to_jsonb(s) ->> 'failover' FROM pg_replication_slots s WHERE slot_name = $1) kept) x";

/* Whose rights a table needs to be published, and whether its policies hide rows; $1 oid, $2 publication */
static const char table_rights[] =
	"SELECT CASE WHEN NOT mine AND NOT there THEN 'missing' WHEN hides THEN 'missing' ELSE 'ok' END, CASE WHEN NOT mine AND NOT there THEN 'is not in the publication, and only its"
	" owner may add it' WHEN hides THEN 'row security may hide rows from the role' ELSE 'can be read' END, CASE WHEN NOT mine AND NOT there THEN"
	" format('ALTER PUBLICATION %I ADD TABLE %s%s', pub, CASE relkind WHEN 'r' THEN 'ONLY ' ELSE '' END, oid::regclass) ELSE format('ALTER ROLE %I BYPASSRLS', current_user) END"
	" FROM (SELECT c.oid, c.relkind, $2::text pub, pg_has_role(c.relowner, 'USAGE') mine, EXISTS (SELECT FROM pg_publication_tables t WHERE t.pubname = $2 AND t.schemaname ="
	" c.relnamespace::regnamespace::name AND t.tablename = c.relname) there, c.relrowsecurity AND row_security_active(c.oid) hides FROM pg_class c WHERE c.oid = $1::oid) x";

struct check {
	const struct agent_pg_source *set;
	struct sb_pg *pg;
	json_t *findings;
};

static int add(struct check *ck, const char *table, const char *what, const char *level, const char *text, const char *sql, struct sb_error *err)
{
	bool fine = strcmp(level, "ok") == 0;
	json_t *f = json_pack("{s:s, s:s, s:s, s:s, s:s}", "table", table, "what", what, "level", level, "text", text, "sql", fine || !sql ? "" : sql);

	return json_array_append_new(ck->findings, f) == 0 ? 0 : sb_fail_nomem(err);
}

/* A query that fails is a finding too: the role may not see something. */
static int ask(struct check *ck, const char *table, const char *what, const char *sql, const char *p1, const char *p2, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	struct sb_error why = SB_ERROR_INIT;
	const char *const param[] = { p1, p2 };

	int r = sb_pg_exec(ck->pg, sql, 2, param, &res, &why);
	if (r < 0)
		return add(ck, table, what, "missing", why.msg, "", err);
	for (int i = 0; r == 0 && i < sb_pg_rows(res); i++)
		r = add(ck, table, what, sb_pg_get(res, i, 0), sb_pg_get(res, i, 1), sb_pg_get(res, i, 2), err);
	return r;
}

static int check_table(struct check *ck, const struct agent_table *conf, struct sb_error *err)
{
	const struct pgsrc_known none = { .oid = 0 };
	struct pgsrc_table t;
	struct sb_error why = SB_ERROR_INIT;
	char oid[16];

	if (pgsrc_table_read(ck->pg, conf, &none, &t, &why) < 0)
		return add(ck, conf->table, "table", "missing", why.msg, "", err);
	int r = t.refusal[0] ? add(ck, conf->table, "table", "missing", t.refusal, "", err) : 0;
	(void)snprintf(oid, sizeof(oid), "%u", t.oid); /* ten digits at most */
	if (r == 0 && t.oid && !t.refusal[0])
		r = ask(ck, conf->table, "table", table_rights, oid, ck->set->publication, err);
	pgsrc_table_release(&t);
	return r;
}

/* That it answers on the replication protocol depends on pg_hba.conf. */
static int check_protocol(struct check *ck, struct sb_error *err)
{
	struct sb_pgrepl *repl = NULL;
	struct sb_pgrepl_system sys;
	struct sb_error why = SB_ERROR_INIT;

	int r = sb_pgrepl_open(&repl, ck->set->conninfo, "stagebridge check", &why);
	if (r == 0)
		r = sb_pgrepl_identify(repl, &sys, &why);
	sb_pgrepl_close(repl);
	return r < 0 ? add(ck, "", "protocol", "missing", why.msg, "", err) : add(ck, "", "protocol", "ok", "the server answers on it", "", err);
}

static int check_source(struct check *ck, struct sb_error *err)
{
	const struct agent_table *table = ck->set->tables.item;
	struct sb_error why = SB_ERROR_INIT;

	int r = sb_pg_open(&ck->pg, ck->set->conninfo, "stagebridge check", &why);
	if (r == 0)
		r = sb_pg_script(ck->pg, "SET default_transaction_read_only = on", &why);
	if (r < 0)
		return add(ck, "", "connection", "missing", why.msg, "", err);
	for (size_t i = 0; r == 0 && i < SB_COUNT(demands); i++)
		r = ask(ck, "", demands[i].what, demands[i].sql, ck->set->slot, ck->set->publication, err);
	if (r == 0 && ck->set->failover)
		r = ask(ck, "", "failover", failover_sql, ck->set->slot, ck->set->publication, err);
	if (r == 0)
		r = check_protocol(ck, err);
	for (size_t i = 0; r == 0 && i < ck->set->tables.count; i++)
		r = check_table(ck, &table[i], err);
	if (r == 0 && ck->set->outbox.type && ck->set->outbox.table && ck->set->outbox.table[0]) {
		const struct agent_table outbox = { .table = ck->set->outbox.table, .type = ck->set->outbox.type };
		r = check_table(ck, &outbox, err);
	}
	return r;
}

int agent_pg_check(const struct agent_settings *set, json_t **ret, unsigned *ret_missing, struct sb_error *err)
{
	const struct agent_pg_source *pg = set->postgres.item;
	json_auto_t *sources = json_array();
	unsigned missing = 0;
	int r = sources ? 0 : sb_fail_nomem(err);

	for (size_t i = 0; r == 0 && i < set->postgres.count; i++) {
		struct check ck = { .set = &pg[i], .findings = json_array() };
		json_t *f;
		size_t k;
		r = ck.findings ? check_source(&ck, err) : sb_fail_nomem(err);
		sb_pg_close(ck.pg);
		json_array_foreach(ck.findings, k, f)
			missing += strcmp(json_string_value(json_object_get(f, "level")), "missing") == 0;
		if (json_array_append_new(sources, json_pack("{s:s, s:o}", "source", pg[i].name, "findings", ck.findings)) < 0 && r == 0)
			r = sb_fail_nomem(err);
	}
	if (r < 0)
		return r;
	*ret = SB_TAKE(sources);
	*ret_missing = missing;
	return 0;
}

void agent_pg_check_text(const json_t *sources, struct sb_buf *out)
{
	const json_t *s, *f;
	size_t i, k;

	json_array_foreach(sources, i, s) {
		sb_buf_addf(out, "%s\n", json_string_value(json_object_get(s, "source")));
		json_array_foreach(json_object_get(s, "findings"), k, f) {
			const char *table = json_string_value(json_object_get(f, "table")), *sql = json_string_value(json_object_get(f, "sql"));
			sb_buf_addf(out, "  %-8s %-24s %s\n", json_string_value(json_object_get(f, "level")), *table ? table : json_string_value(json_object_get(f, "what")),
				json_string_value(json_object_get(f, "text")));
			if (*sql)
				sb_buf_addf(out, "  %-8s %-24s   %s\n", "", "", sql);
		}
	}
}
