/* What the replica lane keeps besides the rows: offsets, stream positions, snapshots under way and refused records, all in schema `store` of the replica
 * database, so that they commit with the rows. On the replica lane's thread and connection.
 *
 * People read the views of schema `replica`; the tables of `store` are the agent's alone. Transactions carry a replication origin where the role may set
 * one: a postgres source of this or another agent on the same database then knows that these rows were not made here. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "replica.h"
#include "stagebridge/log.h"
#include "stagebridge/metric.h"

#define NUM 24

static const char set_up[] =
	"CREATE SCHEMA IF NOT EXISTS store;"
	"CREATE SCHEMA IF NOT EXISTS replica;"
	"CREATE TABLE IF NOT EXISTS store.down_position(topic text PRIMARY KEY, next_offset bigint NOT NULL);"
	"CREATE TABLE IF NOT EXISTS store.down_stream(source text PRIMARY KEY, session bigint NOT NULL, sequence bigint NOT NULL, prev bytea NOT NULL,"
	" incarnation bigint NOT NULL, lsn bigint NOT NULL, seq bigint NOT NULL, made_at timestamptz NOT NULL, stored_at timestamptz NOT NULL DEFAULT now());"
	"CREATE TABLE IF NOT EXISTS store.down_snapshot(stage text NOT NULL, type text NOT NULL, snapshot text NOT NULL,"
	" state text NOT NULL CHECK (state IN ('running', 'broken', 'done')), since timestamptz NOT NULL DEFAULT now(), PRIMARY KEY(stage, type));"
	"CREATE TABLE IF NOT EXISTS store.quarantine(id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(),"
	" topic text NOT NULL, record_offset bigint NOT NULL, class text NOT NULL, reason text NOT NULL, source text, type text);"
	/* no type can have a name that begins so */
	"CREATE OR REPLACE VIEW replica._freshness AS SELECT split_part(s.source, '/', 4) AS owner, split_part(s.source, '/', 7) AS type,"
	" CASE WHEN bool_or(split_part(s.source, '/', 6) LIKE 'public%') THEN 'public' ELSE 'whole' END AS content, max(s.made_at) AS last_made_at,"
	" max(s.stored_at) AS last_stored_at, min(n.state) AS snapshot_state, min(n.since) AS snapshot_since"
	" FROM store.down_stream s LEFT JOIN store.down_snapshot n ON n.stage = split_part(s.source, '/', 4) AND n.type = split_part(s.source, '/', 7) GROUP BY 1, 2;"
	"COMMENT ON SCHEMA replica IS 'Read-only copies of what other stages own; _freshness says of each where it comes from and how fresh it is';"
	"COMMENT ON SCHEMA store IS 'What the views of schema replica stand on: the agent''s alone';"
	"COMMENT ON VIEW replica._freshness IS 'One row per copy: its owner, what of it is here, when its owner sent the last record and when it came here';"
	"COMMENT ON COLUMN replica._freshness.content IS 'whole: all that leaves its owner; public: key, public and masked columns';"
	"COMMENT ON COLUMN replica._freshness.snapshot_state IS 'running, broken (records are missing, another one was ordered) or done; null: none has come yet';"
	/* nobody but us writes, whatever default privileges somebody gave */
	"DO $$ DECLARE x record; BEGIN FOR x IN SELECT DISTINCT n.nspname, c.relname, a.grantee FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,"
	" aclexplode(c.relacl) a WHERE n.nspname IN ('store', 'replica') AND c.relkind IN ('r', 'v') AND a.grantee NOT IN (0, c.relowner)"
	" AND (n.nspname = 'store' OR a.privilege_type <> 'SELECT') LOOP EXECUTE format('REVOKE ALL ON %I.%I FROM %s', x.nspname, x.relname, x.grantee::regrole);"
	" END LOOP; END $$;"
	"REVOKE ALL ON SCHEMA store FROM PUBLIC; REVOKE ALL ON ALL TABLES IN SCHEMA store FROM PUBLIC;"
	"REVOKE ALL ON SCHEMA replica FROM PUBLIC; REVOKE ALL ON ALL TABLES IN SCHEMA replica FROM PUBLIC;"
	"GRANT USAGE ON SCHEMA replica TO PUBLIC;"
	"GRANT SELECT ON ALL TABLES IN SCHEMA replica TO PUBLIC;"
	"ALTER DEFAULT PRIVILEGES IN SCHEMA replica GRANT SELECT ON TABLES TO PUBLIC;";

/* Who owns a schema may drop what is in it and look into it. */
static int check_owners(struct replica *rp, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;

	int r = sb_pg_exec(rp->pg,
		"SELECT nspname, nspowner::regrole, quote_ident(current_user) FROM pg_namespace WHERE nspname IN ('store', 'replica') AND nspowner <> current_user::regrole", 0,
		NULL, &res, err);
	if (r < 0 || sb_pg_rows(res) == 0)
		return r;
	return sb_fail(err, SB_ECONFIG, "schema \"%s\" belongs to role %s, which could change the copies: ALTER SCHEMA %s OWNER TO %s, or keep copies in a database of"
		" their own", sb_pg_get(res, 0, 0), sb_pg_get(res, 0, 1), sb_pg_get(res, 0, 0), sb_pg_get(res, 0, 2));
}

/* A role that the application uses as well, or is a member of, may write what ours may: it cannot be hindered, so it is said. */
static int tell_shared_role(struct replica *rp, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	struct sb_error why = { .code = SB_ECONFIG };

	int r = sb_pg_exec(rp->pg,
		"SELECT 'role ' || m.member::regrole || ' is a member of ' || current_user FROM pg_auth_members m WHERE m.roleid = current_user::regrole"
		" UNION ALL SELECT current_user || ' owns ' || c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
		" WHERE c.relowner = current_user::regrole AND c.relkind IN ('r', 'p') AND n.nspname NOT IN ('store', 'replica', 'pg_catalog', 'information_schema')"
		" AND n.nspname NOT LIKE 'pg\\_%' LIMIT 1", 0, NULL, &res, err);
	if (r < 0 || sb_pg_rows(res) == 0)
		return r;
	(void)snprintf(why.msg, sizeof(why.msg), "%s: whoever uses that role may write the copies too; give the agent a role of its own", sb_pg_get(res, 0, 0)); /* may be cut */
	sb_log_limited(SB_WARN, "replica_role_shared", "replica", &why);
	return 0;
}

static char *num(char out[NUM], int64_t v)
{
	(void)snprintf(out, NUM, "%" PRId64, v); /* 20 characters at most */
	return out;
}

static int set_origin(struct replica *rp, struct sb_error *err)
{
	char origin[AGENT_ORIGIN_SIZE];
	const char *param[] = { origin };

	agent_origin_name(rp->a, origin);
	int r = sb_pg_exec(rp->pg,
		"SELECT pg_catalog.pg_replication_origin_create($1) WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_replication_origin WHERE roname = $1)", 1,
		param, NULL, err);
	if (r == 0)
		r = sb_pg_exec(rp->pg, "SELECT pg_catalog.pg_replication_origin_session_setup($1)", 1, param, NULL, err);
	/* 55000: the server takes no origins at all (max_replication_slots is 0) */
	if (r != SB_EAUTH && !(r < 0 && err && strcmp(err->state, "55000") == 0))
		return r;
	/* copies are right without it; it matters only when somebody publishes schema `store` as well */
	sb_log_limited(SB_WARN, "replication_origin_denied", "replica", err);
	sb_log(SB_WARN, "replication_origin_rights", "text=%s",
		"copies are not marked as copies; a superuser may let them be: GRANT EXECUTE ON FUNCTION pg_replication_origin_create(text),"
		" pg_replication_origin_session_setup(text) TO the agent's role");
	return 0;
}

int replica_prepare(struct replica *rp, struct sb_error *err)
{
	int r = sb_pg_begin(rp->pg, err);

	if (r < 0)
		return r;
	r = check_owners(rp, err);
	if (r == 0)
		r = sb_pg_script(rp->pg, set_up, err);
	if (r == 0)
		r = tell_shared_role(rp, err);
	if (r == 0)
		r = sb_pg_commit(rp->pg, err);
	if (r < 0) {
		sb_pg_rollback(rp->pg);
		return sb_fail_prefix(err, "setting up the replica database");
	}
	return set_origin(rp, err);
}

int replica_offset_load(struct replica *rp, int64_t *ret, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { rp->a->topic_down[SB_ENTITY] };

	int r = sb_pg_exec(rp->pg, "SELECT next_offset FROM store.down_position WHERE topic = $1", 1, param, &res, err);
	if (r == 0)
		*ret = sb_pg_rows(res) ? sb_pg_get_i64(res, 0, 0) : SB_OFFSET_BEGINNING;
	return r;
}

int replica_offset_store(struct replica *rp, int64_t next, struct sb_error *err)
{
	char n[NUM];
	const char *param[] = { rp->a->topic_down[SB_ENTITY], num(n, next) };

	return sb_pg_exec(rp->pg,
		"INSERT INTO store.down_position(topic, next_offset) VALUES ($1, $2::bigint) ON CONFLICT (topic) DO UPDATE SET next_offset = excluded.next_offset", 2,
		param, NULL, err);
}

int replica_stream_load(struct replica *rp, const char *source, struct replica_stream *ret, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	sb_cleanup(sb_freep) uint8_t *prev = NULL;
	const char *param[] = { source };
	size_t n = 0;

	*ret = (struct replica_stream){ .known = false };
	int r = sb_pg_exec(rp->pg, "SELECT session, sequence, prev, incarnation, lsn, seq FROM store.down_stream WHERE source = $1", 1, param, &res, err);
	if (r < 0 || sb_pg_rows(res) == 0)
		return r;
	r = sb_pg_get_bytes(res, 0, 2, &prev, &n, err);
	if (r == 0 && n != sizeof(ret->in.prev))
		r = sb_fail(err, SB_EDB, "stored place of stream %s cannot be read", source);
	if (r < 0)
		return r;
	ret->known = true;
	ret->in.session = (uint64_t)sb_pg_get_i64(res, 0, 0);
	ret->in.sequence = (uint64_t)sb_pg_get_i64(res, 0, 1);
	memcpy(ret->in.prev, prev, n);
	ret->incarnation = (uint64_t)sb_pg_get_i64(res, 0, 3);
	ret->done = (struct sb_position){ .lsn = (uint64_t)sb_pg_get_i64(res, 0, 4), .seq = (uint32_t)sb_pg_get_i64(res, 0, 5) };
	return 0;
}

int replica_stream_store(struct replica *rp, const char *source, const struct replica_stream *s, struct sb_error *err)
{
	char n[6][NUM], prev[sizeof(s->in.prev) * 2 + 3] = "\\x";
	const char *param[] = { source, num(n[0], (int64_t)s->in.session), num(n[1], (int64_t)s->in.sequence), prev, num(n[2], (int64_t)s->incarnation),
		num(n[3], (int64_t)s->done.lsn), num(n[4], (int64_t)s->done.seq), num(n[5], s->made_ms) };

	sb_hex(prev + 2, s->in.prev, sizeof(s->in.prev));
	return sb_pg_exec(rp->pg,
		"INSERT INTO store.down_stream(source, session, sequence, prev, incarnation, lsn, seq, made_at)"
		" VALUES ($1, $2::bigint, $3::bigint, $4::bytea, $5::bigint, $6::bigint, $7::bigint, to_timestamp($8::bigint / 1000.0))"
		" ON CONFLICT (source) DO UPDATE SET session = excluded.session, sequence = excluded.sequence, prev = excluded.prev,"
		" incarnation = excluded.incarnation, lsn = excluded.lsn, seq = excluded.seq, made_at = excluded.made_at, stored_at = now()", 8, param, NULL, err);
}

int replica_snapshot_begun(struct replica *rp, const char *stage, const char *type, const char *snapshot, struct sb_error *err)
{
	const char *param[] = { stage, type, snapshot };

	return sb_pg_exec(rp->pg,
		"INSERT INTO store.down_snapshot(stage, type, snapshot, state) VALUES ($1, $2, $3, 'running')"
		" ON CONFLICT (stage, type) DO UPDATE SET snapshot = excluded.snapshot, state = 'running', since = now()", 3, param, NULL, err);
}

int replica_snapshot_goes_on(struct replica *rp, const char *stage, const char *type, const char *snapshot, bool has_all, struct sb_error *err)
{
	const char *param[] = { stage, type, snapshot, has_all ? "t" : "f" };

	return sb_pg_exec(rp->pg,
		"INSERT INTO store.down_snapshot AS d (stage, type, snapshot, state) VALUES ($1, $2, $3, 'broken')"
		" ON CONFLICT (stage, type) DO UPDATE SET snapshot = excluded.snapshot,"
		" state = CASE WHEN $4::boolean AND d.snapshot = $3 AND d.state = 'running' THEN 'running' ELSE 'broken' END", 4, param, NULL, err);
}

int replica_snapshot_broken(struct replica *rp, const char *stage, const char *type, struct sb_error *err)
{
	const char *param[] = { stage, type };

	return sb_pg_exec(rp->pg, "UPDATE store.down_snapshot SET state = 'broken' WHERE stage = $1 AND type = $2 AND state = 'running'", 2, param, NULL, err);
}

int replica_snapshot_ended(struct replica *rp, const char *stage, const char *type, const char *snapshot, bool *ret_whole, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { stage, type, snapshot };

	int r = sb_pg_exec(rp->pg, "UPDATE store.down_snapshot SET state = 'done' WHERE stage = $1 AND type = $2 AND snapshot = $3 AND state = 'running'", 3, param,
		&res, err);
	if (r == 0)
		*ret_whole = sb_pg_affected(res) == 1;
	return r;
}

int replica_comment(struct replica *rp, const char *stage, const char *type, bool down, struct sb_error *err)
{
	sb_cleanup(sb_buf_release) struct sb_buf sql = { 0 };
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	sb_cleanup(sb_freep) char *text = sb_asprintf("Read-only copy of \"%s\" of stage %s%s; see replica._freshness", type, stage,
		down ? ", what its owner lets go to earlier stages" : "");
	const char *param[] = { type, text };

	if (!text)
		return sb_fail_nomem(err);
	int r = sb_pg_exec(rp->pg,
		"SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'replica' AND c.relname = $1 AND c.relkind = 'v'"
		" AND coalesce(obj_description(c.oid, 'pg_class'), '') IN ('', $2)", 2, param, &res, err);
	if (r < 0 || sb_pg_rows(res) == 0)
		return r; /* the owner's own comment says more */
	sb_buf_init(&sql, 4096);
	sb_buf_adds(&sql, "COMMENT ON VIEW replica.");
	sb_pg_ident(&sql, type);
	sb_buf_adds(&sql, " IS ");
	sb_pg_literal(&sql, text);
	r = sb_buf_check(&sql, "comment", err);
	return r < 0 ? r : sb_pg_exec(rp->pg, sql.data, 0, NULL, NULL, err);
}

int replica_quarantine(struct replica *rp, const struct sb_inrecord *ir, const char *class, const char *reason, struct sb_error *err)
{
	char n[NUM];
	const char *param[] = { ir->rec.topic, num(n, ir->offset), class, reason, sb_record_get(&ir->rec, "source"), sb_record_get(&ir->rec, "type") };
	struct sb_error why = { .code = SB_EPROTO };

	sb_metric_add(sb_metric("stagebridge_refused_total", SB_COUNTER, "class", "Records that were refused, by reason"), class, 1);
	(void)snprintf(why.msg, sizeof(why.msg), "%s", reason); /* a cut reason is good enough */
	sb_log_limited(SB_WARN, "record_refused", class, &why);
	int r = sb_pg_exec(rp->pg,
		"INSERT INTO store.quarantine(topic, record_offset, class, reason, source, type) VALUES ($1, $2::bigint, $3, $4, $5, $6)", 6, param, NULL, err);
	if (r == 0)
		r = sb_pg_exec(rp->pg, "DELETE FROM store.quarantine WHERE id <= (SELECT max(id) FROM store.quarantine) - 10000", 0, NULL, NULL, err);
	return r;
}

int replica_tables(struct replica *rp, const char *stage, struct sb_entity_tables **ret, struct sb_error *err)
{
	struct replica_owner *o;

	for (unsigned i = 0; i < rp->n_owners; i++) {
		if (strcmp(rp->owner[i].stage, stage) == 0) {
			*ret = rp->owner[i].tables;
			return 0;
		}
	}
	if (rp->n_owners == REPLICA_OWNERS_MAX)
		return sb_fail(err, SB_ETOOBIG, "entities of more than %d stages", REPLICA_OWNERS_MAX);
	o = &rp->owner[rp->n_owners];
	int r = sb_format(o->stage, sizeof(o->stage), err, "%s", stage);
	if (r == 0)
		r = sb_entity_tables_new(&o->tables, rp->pg, stage, "replica", err);
	if (r < 0)
		return r;
	rp->n_owners++;
	*ret = o->tables;
	return 0;
}
