/* The agent's durable state: schema, jobs, outgoing transfers. Every lane opens its own handle on the same file; SQLite serialises the writers, and
 * every statement group that belongs together runs in one transaction of the caller. Nothing here keeps memory between calls. */
#include "state.h"

#include <inttypes.h>
#include <string.h>

#include "stagebridge/carrier.h"
#include "stagebridge/clock.h"
#include "stagebridge/file.h"

#define SCHEMA_VERSION 1
#define JOB_KEEP_MS (30LL * 24 * 3600 * 1000)

/* one string a table: a compiler need not take a literal of more than 4095 bytes */
static const char *const schema[] = {
	"CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID",
	"CREATE TABLE outbox(id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, attrs BLOB NOT NULL, value BLOB NOT NULL,"
	" created_ms INTEGER NOT NULL)",
	"CREATE TABLE down_offset(topic TEXT PRIMARY KEY, next_offset INTEGER NOT NULL) WITHOUT ROWID",
	"CREATE TABLE stream_in(source TEXT PRIMARY KEY, session INTEGER NOT NULL, sequence INTEGER NOT NULL, prev BLOB NOT NULL) WITHOUT ROWID",
	"CREATE TABLE job(id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, ref TEXT NOT NULL, payload TEXT NOT NULL,"
	" state TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'waiting', 'done', 'failed')), result TEXT NOT NULL DEFAULT '',"
	" created_ms INTEGER NOT NULL, updated_ms INTEGER NOT NULL, UNIQUE(kind, ref))",
	"CREATE INDEX job_open ON job(kind, id) WHERE state IN ('queued', 'running')",
	"CREATE TABLE transfer_in(id TEXT PRIMARY KEY, kind TEXT NOT NULL, manifest TEXT NOT NULL, next INTEGER NOT NULL DEFAULT 0,"
	" gap_session INTEGER NOT NULL DEFAULT 0, expires_ms INTEGER NOT NULL,"
	" state TEXT NOT NULL DEFAULT 'receiving' CHECK (state IN ('receiving', 'complete', 'failed', 'done')), reason TEXT NOT NULL DEFAULT '',"
	" updated_ms INTEGER NOT NULL) WITHOUT ROWID",
	"CREATE TABLE transfer_out(id TEXT PRIMARY KEY, kind TEXT NOT NULL, manifest TEXT NOT NULL, sent INTEGER NOT NULL DEFAULT 0,"
	" credited INTEGER NOT NULL DEFAULT 0, window INTEGER NOT NULL, attempt INTEGER NOT NULL DEFAULT 0, rewind INTEGER NOT NULL DEFAULT 0,"
	" spool INTEGER NOT NULL DEFAULT 1,"
	" state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'complete', 'failed')), reason TEXT NOT NULL DEFAULT '',"
	" updated_ms INTEGER NOT NULL) WITHOUT ROWID",
	"CREATE INDEX transfer_open ON transfer_out(id) WHERE state = 'open'",
	"CREATE INDEX transfer_spool ON transfer_out(id) WHERE spool = 1 AND state <> 'open'",
	"CREATE TABLE push(id TEXT PRIMARY KEY, origin TEXT NOT NULL, branch TEXT NOT NULL, head TEXT NOT NULL, base TEXT NOT NULL,"
	" title TEXT NOT NULL, body TEXT NOT NULL, user TEXT NOT NULL, transfer TEXT NOT NULL, state TEXT NOT NULL, url TEXT NOT NULL DEFAULT '',"
	" number INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '', created_ms INTEGER NOT NULL, updated_ms INTEGER NOT NULL) WITHOUT ROWID",
	"CREATE TABLE pull(origin TEXT NOT NULL, number INTEGER NOT NULL, title TEXT NOT NULL, state TEXT NOT NULL, head TEXT NOT NULL, base TEXT NOT NULL,"
	" user TEXT NOT NULL, url TEXT NOT NULL, updated_at TEXT NOT NULL, PRIMARY KEY(origin, number)) WITHOUT ROWID",
	"CREATE TABLE request(id TEXT PRIMARY KEY, action TEXT NOT NULL, payload TEXT NOT NULL, state TEXT NOT NULL, promotion TEXT NOT NULL DEFAULT '',"
	" reason TEXT NOT NULL DEFAULT '', gates TEXT NOT NULL DEFAULT '[]', created_ms INTEGER NOT NULL, updated_ms INTEGER NOT NULL) WITHOUT ROWID",
	"CREATE INDEX request_promotion ON request(promotion)",
	"CREATE TABLE deployment(origin TEXT PRIMARY KEY, artifact TEXT NOT NULL, commit_oid TEXT NOT NULL, tree TEXT NOT NULL, manifest TEXT NOT NULL,"
	" state TEXT NOT NULL, since_ms INTEGER NOT NULL, previous_artifact TEXT NOT NULL DEFAULT '') WITHOUT ROWID",
	"CREATE TABLE deploy_order(promotion TEXT NOT NULL, attempt INTEGER NOT NULL, lease INTEGER NOT NULL, state TEXT NOT NULL,"
	" report TEXT NOT NULL DEFAULT '', PRIMARY KEY(promotion, attempt)) WITHOUT ROWID",
	"CREATE TABLE fence(origin TEXT PRIMARY KEY, lease INTEGER NOT NULL) WITHOUT ROWID",
	"CREATE TABLE dataset(request TEXT PRIMARY KEY, dataset TEXT NOT NULL, peer TEXT NOT NULL, role TEXT NOT NULL CHECK (role IN ('produce', 'receive')),"
	" user TEXT NOT NULL, purpose TEXT NOT NULL, state TEXT NOT NULL, reason_code TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '',"
	" transfer TEXT NOT NULL DEFAULT '', path TEXT NOT NULL DEFAULT '', rows INTEGER NOT NULL DEFAULT 0, created_ms INTEGER NOT NULL,"
	" updated_ms INTEGER NOT NULL) WITHOUT ROWID",
	"CREATE TABLE document(source TEXT NOT NULL, key TEXT NOT NULL, file TEXT NOT NULL, hash TEXT NOT NULL, PRIMARY KEY(source, key)) WITHOUT ROWID",
	"CREATE INDEX document_file ON document(source, file)",
	"CREATE TABLE dir_file(source TEXT NOT NULL, name TEXT NOT NULL, ino INTEGER NOT NULL, size INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL,"
	" PRIMARY KEY(source, name)) WITHOUT ROWID",
	"CREATE TABLE entity(type TEXT NOT NULL, key TEXT NOT NULL, document TEXT, version INTEGER NOT NULL, PRIMARY KEY(type, key)) WITHOUT ROWID",
	"CREATE UNIQUE INDEX entity_version ON entity(type, version)",
	"CREATE TABLE source_state(source TEXT PRIMARY KEY, system_id TEXT NOT NULL DEFAULT '', timeline TEXT NOT NULL DEFAULT '',"
	" slot TEXT NOT NULL DEFAULT '', incarnation INTEGER NOT NULL DEFAULT 0, acked_lsn INTEGER NOT NULL DEFAULT 0, sent_lsn INTEGER NOT NULL DEFAULT -1, point_lsn INTEGER NOT NULL DEFAULT 0, updated_ms INTEGER NOT NULL) WITHOUT ROWID",
	"CREATE TABLE snapshot(source TEXT NOT NULL, type TEXT NOT NULL, shape TEXT NOT NULL DEFAULT '',"
	" state TEXT NOT NULL CHECK (state IN ('wanted', 'running', 'cancelled', 'done')), reason TEXT NOT NULL DEFAULT '',"
	" predicate TEXT NOT NULL DEFAULT '', asked TEXT NOT NULL DEFAULT '', lsn INTEGER NOT NULL DEFAULT 0, rows INTEGER NOT NULL DEFAULT 0,"
	" PRIMARY KEY(source, type)) WITHOUT ROWID",
	"CREATE TABLE snapshot_run(source TEXT NOT NULL, type TEXT NOT NULL, snapshot TEXT NOT NULL, incarnation INTEGER NOT NULL, point INTEGER NOT NULL,"
	" xid INTEGER NOT NULL, print TEXT NOT NULL, session INTEGER NOT NULL, sequence INTEGER NOT NULL,"
	" down_sequence INTEGER NOT NULL, PRIMARY KEY(source, type)) WITHOUT ROWID",
	"CREATE TABLE snapshot_range(source TEXT NOT NULL, type TEXT NOT NULL, n INTEGER NOT NULL, leaf INTEGER NOT NULL, first INTEGER NOT NULL,"
	" last INTEGER NOT NULL, rows INTEGER NOT NULL DEFAULT 0, done INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(source, type, n)) WITHOUT ROWID",
	"CREATE TABLE quarantine(id INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, topic TEXT NOT NULL, record_offset INTEGER NOT NULL,"
	" class TEXT NOT NULL, reason TEXT NOT NULL, source TEXT, type TEXT, attrs BLOB, value BLOB)",
	"PRAGMA user_version = 1",
};

static int schema_version(struct sb_db *db, int64_t *ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(db, &st, err, "PRAGMA user_version", "");
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	*ret = r ? sb_db_int(st, 0) : 0;
	return 0;
}

static int make_schema(struct sb_db *db, struct sb_error *err)
{
	int64_t version = 0;

	int r = schema_version(db, &version, err);
	if (r < 0 || version == SCHEMA_VERSION)
		return r;
	for (size_t i = 0; r == 0 && i < SB_COUNT(schema); i++)
		r = sb_db_script(db, schema[i], err);
	if (r == 0)
		r = sb_db_run(db, NULL, err, "INSERT INTO meta(key, value) VALUES ('created', ?)", "i", sb_wall_ms() / 1000);
	return r;
}

/* Inside a write transaction, where the version is looked at again: two lanes that open a new file at once must not both make the tables. */
static int upgrade(struct sb_db *db, struct sb_error *err)
{
	int64_t version = 0;

	int r = schema_version(db, &version, err);
	if (r < 0 || version == SCHEMA_VERSION)
		return r;
	if (version != 0)
		return sb_fail(err, SB_ECONFIG, "has version %lld, this program knows %d: it was written by a newer one", (long long)version, SCHEMA_VERSION);
	r = sb_db_begin(db, err);
	if (r < 0)
		return r;
	r = make_schema(db, err);
	if (r == 0)
		r = sb_db_commit(db, err);
	if (r < 0)
		sb_db_rollback(db);
	return r;
}

int agent_state_open(struct sb_db **ret, const struct agent *a, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *path = sb_asprintf("%s/state.db", a->set.state_dir);
	sb_cleanup(sb_freep) char *spool = sb_asprintf("%s/spool", a->set.state_dir);
	struct sb_db *db = NULL;

	if (!path || !spool)
		return sb_fail_nomem(err);
	int r = sb_dir_make(spool, 0700, err);
	if (r == 0)
		r = sb_db_open(&db, path, err);
	if (r < 0)
		return r;
	r = upgrade(db, err);
	if (r < 0) {
		sb_db_close(db);
		return sb_fail_prefix(err, "%s", path);
	}
	*ret = db;
	return 0;
}

int agent_state_spool(char *out, size_t size, const struct agent *a, const char *transfer, bool incoming, struct sb_error *err)
{
	/* the id becomes a file name: nothing else may get here */
	if (!sb_id_ok(transfer))
		return sb_fail(err, SB_EINVAL, "transfer id is malformed");
	return sb_format(out, size, err, "%s/spool/%s.%s", a->set.state_dir, transfer, incoming ? "in" : "out");
}

int agent_state_session(struct sb_db *db, const char *name, uint64_t least, uint64_t *ret, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	sb_cleanup(sb_freep) char *key = sb_asprintf("session/%s", name);
	uint64_t session = least;

	if (!key)
		return sb_fail_nomem(err);
	int r = sb_db_query(db, &st, err, "SELECT value FROM meta WHERE key = ?", "s", key);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	if (r > 0 && (uint64_t)sb_db_int(st, 0) >= session)
		session = (uint64_t)sb_db_int(st, 0) + 1;
	sb_db_done(SB_TAKE(st));
	r = sb_db_run(db, NULL, err, "INSERT OR REPLACE INTO meta(key, value) VALUES (?, ?)", "si", key, (int64_t)session);
	if (r == 0)
		*ret = session;
	return r;
}

int agent_state_keyring(struct sb_db *db, uint64_t version, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(db, &st, err, "SELECT value FROM meta WHERE key = 'keyring_version'", "");
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	uint64_t seen = r > 0 ? (uint64_t)sb_db_int(st, 0) : 0;
	sb_db_done(SB_TAKE(st));
	if (version < seen)
		return sb_fail(err, SB_ECONFIG, "keyring has version %" PRIu64 ", but version %" PRIu64 " was in use here: put the newer one in place",
			version, seen);
	return sb_db_run(db, NULL, err, "INSERT OR REPLACE INTO meta(key, value) VALUES ('keyring_version', ?)", "i", (int64_t)version);
}

/* --- jobs --- */

int agent_job_add(struct sb_db *db, const char *kind, const char *ref, const json_t *payload, bool *ret_new, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *text = json_dumps(payload, JSON_COMPACT);
	int64_t now = sb_wall_ms();
	int64_t changes = 0;

	if (!text)
		return sb_fail_nomem(err);
	int r = sb_db_run(db, &changes, err,
		"INSERT INTO job(kind, ref, payload, created_ms, updated_ms) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", "sssii",
		kind, ref, text, now, now);
	if (r == 0 && ret_new)
		*ret_new = changes > 0;
	return r;
}

int agent_job_take(struct sb_db *db, const char *kind, int64_t *ret_id, char *ret_ref, size_t ref_size, json_t **ret_payload, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	json_auto_t *payload = NULL;
	int64_t id;

	int r = sb_db_query(db, &st, err,
		"SELECT id, ref, payload FROM job WHERE kind = ? AND state IN ('queued', 'running') ORDER BY id LIMIT 1", "s", kind);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r <= 0)
		return r;
	id = sb_db_int(st, 0);
	r = sb_format(ret_ref, ref_size, err, "%s", sb_db_text(st, 1));
	if (r < 0)
		return r;
	payload = json_loads(sb_db_text(st, 2), JSON_REJECT_DUPLICATES, NULL);
	sb_db_done(SB_TAKE(st));
	if (!payload)
		return sb_fail(err, SB_EDB, "job %lld of kind \"%s\" has no readable payload", (long long)id, kind);
	r = sb_db_run(db, NULL, err, "UPDATE job SET state = 'running', updated_ms = ? WHERE id = ?", "ii", sb_wall_ms(), id);
	if (r < 0)
		return r;
	*ret_id = id;
	*ret_payload = SB_TAKE(payload);
	return 1;
}

int agent_job_wait(struct sb_db *db, int64_t id, struct sb_error *err)
{
	return sb_db_run(db, NULL, err, "UPDATE job SET state = 'waiting', updated_ms = ? WHERE id = ?", "ii", sb_wall_ms(), id);
}

int agent_job_resume(struct sb_db *db, const char *kind, struct sb_error *err)
{
	return sb_db_run(db, NULL, err, "UPDATE job SET state = 'queued' WHERE kind = ? AND state = 'waiting'", "s", kind);
}

int agent_job_end(struct sb_db *db, int64_t id, bool ok, const char *result, struct sb_error *err)
{
	int64_t now = sb_wall_ms();

	int r = sb_db_run(db, NULL, err, "UPDATE job SET state = ?, result = ?, updated_ms = ? WHERE id = ?", "ssii",
		ok ? "done" : "failed", result ? result : "", now, id);
	/* what ended stays for a while so that it is done once; a repeat after that long cannot come from a broker's retention */
	if (r == 0)
		r = sb_db_run(db, NULL, err, "DELETE FROM job WHERE state IN ('done', 'failed') AND updated_ms < ?", "i", now - JOB_KEEP_MS);
	return r;
}

/* --- outgoing transfers --- */

int agent_transfer_send(struct agent *a, struct sb_db *db, const struct sb_manifest *m, struct sb_error *err)
{
	json_auto_t *json = sb_manifest_json(m);
	sb_cleanup(sb_freep) char *text = json ? json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS) : NULL;

	if (!text)
		return sb_fail_nomem(err);
	return sb_db_run(db, NULL, err, "INSERT INTO transfer_out(id, kind, manifest, window, updated_ms) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
		"sssii", m->transfer, m->kind, text, a->set.carrier.window, sb_wall_ms());
}
