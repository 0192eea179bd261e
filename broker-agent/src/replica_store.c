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
	" incarnation bigint NOT NULL, lsn bigint NOT NULL, seq bigint NOT NULL);"
	"CREATE TABLE IF NOT EXISTS store.down_snapshot(stage text NOT NULL, type text NOT NULL, snapshot text NOT NULL,"
	" state text NOT NULL CHECK (state IN ('running', 'broken', 'done')), since timestamptz NOT NULL DEFAULT now(), PRIMARY KEY(stage, type));"
	"CREATE TABLE IF NOT EXISTS store.quarantine(id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(),"
	" topic text NOT NULL, record_offset bigint NOT NULL, class text NOT NULL, reason text NOT NULL, source text, type text);"
	"GRANT USAGE ON SCHEMA replica TO PUBLIC;"
	"GRANT SELECT ON ALL TABLES IN SCHEMA replica TO PUBLIC;"
	"ALTER DEFAULT PRIVILEGES IN SCHEMA replica GRANT SELECT ON TABLES TO PUBLIC;";

static char *num(char out[NUM], int64_t v)
{
	(void)snprintf(out, NUM, "%" PRId64, v); /* 20 characters at most */
	return out;
}

static int set_origin(struct replica *rp, struct sb_error *err)
{
	const char *param[] = { rp->origin };

	int r = sb_pg_exec(rp->pg,
		"SELECT pg_catalog.pg_replication_origin_create($1) WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_replication_origin WHERE roname = $1)", 1,
		param, NULL, err);
	if (r == 0)
		r = sb_pg_exec(rp->pg, "SELECT pg_catalog.pg_replication_origin_session_setup($1)", 1, param, NULL, err);
	if (r != SB_EAUTH)
		return r;
	/* copies are right without it; it matters only when somebody publishes schema `store` as well */
	sb_log_limited(SB_WARN, "replication_origin_denied", "replica", err);
	return 0;
}

int replica_prepare(struct replica *rp, struct sb_error *err)
{
	int r = sb_pg_begin(rp->pg, err);

	if (r < 0)
		return r;
	r = sb_pg_script(rp->pg, set_up, err);
	if (r == 0)
		r = sb_pg_commit(rp->pg, err);
	if (r < 0) {
		sb_pg_rollback(rp->pg);
		return sb_fail_prefix(err, "setting up the replica database");
	}
	/* one server may hold the databases of several stages, and an origin belongs to one session of it */
	r = sb_format(rp->origin, sizeof(rp->origin), err, "stagebridge_%s_%s", rp->a->set.tenant, rp->a->set.stage);
	return r < 0 ? r : set_origin(rp, err);
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
	char n[5][NUM], prev[sizeof(s->in.prev) * 2 + 3] = "\\x";
	const char *param[] = { source, num(n[0], (int64_t)s->in.session), num(n[1], (int64_t)s->in.sequence), prev, num(n[2], (int64_t)s->incarnation),
		num(n[3], (int64_t)s->done.lsn), num(n[4], (int64_t)s->done.seq) };

	sb_hex(prev + 2, s->in.prev, sizeof(s->in.prev));
	return sb_pg_exec(rp->pg,
		"INSERT INTO store.down_stream(source, session, sequence, prev, incarnation, lsn, seq)"
		" VALUES ($1, $2::bigint, $3::bigint, $4::bytea, $5::bigint, $6::bigint, $7::bigint)"
		" ON CONFLICT (source) DO UPDATE SET session = excluded.session, sequence = excluded.sequence, prev = excluded.prev,"
		" incarnation = excluded.incarnation, lsn = excluded.lsn, seq = excluded.seq", 7, param, NULL, err);
}

int replica_snapshot_begun(struct replica *rp, const char *stage, const char *type, const char *snapshot, struct sb_error *err)
{
	const char *param[] = { stage, type, snapshot };

	return sb_pg_exec(rp->pg,
		"INSERT INTO store.down_snapshot(stage, type, snapshot, state) VALUES ($1, $2, $3, 'running')"
		" ON CONFLICT (stage, type) DO UPDATE SET snapshot = excluded.snapshot, state = 'running', since = now()", 3, param, NULL, err);
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
