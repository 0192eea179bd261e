/* What a directory source has published, in state.db: which key with which content comes from which file, and which files are known. Changes collect in temporary
 * tables of the lane's own handle, so that no lock is held while files are read, and go over in short transactions. The source's lane. */
#include <string.h>

#include <sodium.h>

#include "dirsrc.h"
#include "stagebridge/clock.h"

#define GONE_AT_ONCE 5000 /* files a transaction */

int dirsrc_in_transaction(struct dirsrc *s, int (*fn)(struct dirsrc *s, struct sb_error *err), struct sb_error *err)
{
	int r = sb_db_begin(s->db, err);

	if (r < 0)
		return r;
	r = fn(s, err);
	if (r == 0)
		r = sb_db_commit(s->db, err);
	if (r < 0)
		sb_db_rollback(s->db);
	return r;
}

int dirsrc_store_numbers(struct dirsrc *s, struct sb_error *err)
{
	return sb_db_run(s->db, NULL, err, "UPDATE source_state SET acked_lsn = ?, updated_ms = ? WHERE source = ?", "iis", (int64_t)s->next, sb_wall_ms(), s->set->name);
}

int dirsrc_store_schema(struct dirsrc *s, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *text = row_schema_text(&s->schema);

	if (!text)
		return sb_fail_nomem(err);
	return sb_db_run(s->db, NULL, err, "UPDATE snapshot SET shape = ? WHERE source = ? AND type = ?", "sss", text, s->set->name, s->set->type);
}

int dirsrc_want_snapshot(struct dirsrc *s, const char *reason, struct sb_error *err)
{
	return sb_db_run(s->db, NULL, err, "UPDATE snapshot SET state = 'wanted', reason = ? WHERE source = ? AND type = ?", "sss", reason, s->set->name, s->set->type);
}

int dirsrc_holder(struct dirsrc *s, const char *key, struct sb_stmt **ret, struct sb_error *err)
{
	int r;

	if (s->snapshot)
		r = sb_db_query(s->db, ret, err, "SELECT file, hash FROM temp.pending WHERE key = ?", "s", key);
	else
		r = sb_db_query(s->db, ret, err, "SELECT file, hash FROM temp.pending WHERE key = ?1 UNION ALL SELECT file, hash FROM document WHERE source = ?2 AND key = ?1"
			" LIMIT 1", "ss", key, s->set->name);
	if (r == 0)
		r = sb_db_step(*ret, err);
	return r > 0 && !sb_db_text(*ret, 0) ? 0 : r; /* its deletion is on the way */
}

int dirsrc_pend(struct dirsrc *s, const char *key, const char *file, const char *hash, bool sent, struct sb_error *err)
{
	s->n_pending++;
	return sb_db_run(s->db, NULL, err, "INSERT INTO temp.pending(key, file, hash, sent) VALUES (?1, ?2, ?3, ?4)"
		" ON CONFLICT(key) DO UPDATE SET file = ?2, hash = ?3, sent = sent OR ?4", "sssi", key, file, hash, (int64_t)sent);
}

/* A file with a conflict is read again after a start: its times are stored as nobody's. */
int dirsrc_pend_file(struct dirsrc *s, const struct dirsrc_file *f, struct sb_error *err)
{
	s->n_pending++;
	return sb_db_run(s->db, NULL, err, "INSERT OR REPLACE INTO temp.pending_file(name, ino, size, mtime, ctime) VALUES (?, ?, ?, ?, ?)", "siiii", f->name,
		(int64_t)f->stamp.ino, f->stamp.size, f->stamp.mtime, f->conflict || f->reason ? 0 : f->stamp.ctime);
}

int dirsrc_in_doubt(struct dirsrc *s, struct sb_error *err)
{
	int r = dirsrc_store_numbers(s, err);

	return r < 0 ? r : sb_db_run(s->db, NULL, err, "INSERT INTO document(source, key, file, hash) SELECT ?, key, coalesce(file, ''), '' FROM temp.pending WHERE sent"
		" ON CONFLICT(source, key) DO UPDATE SET hash = ''", "s", s->set->name);
}

static int store_position(struct dirsrc *s, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *key = sb_asprintf("position/%s/%s", s->set->name, s->set->type);
	char text[SB_POSITION_LEN + 1];

	if (!key)
		return sb_fail_nomem(err);
	sb_position_format(text, s->from);
	return sb_db_run(s->db, NULL, err, "INSERT OR REPLACE INTO meta(key, value) VALUES (?, ?)", "ss", key, text);
}

int dirsrc_settle(struct dirsrc *s, struct sb_error *err)
{
	const char *source = s->set->name;

	int r = sb_db_run(s->db, NULL, err, "DELETE FROM document WHERE source = ? AND key IN (SELECT key FROM temp.pending WHERE file IS NULL)", "s", source);
	if (r == 0)
		r = sb_db_run(s->db, NULL, err, "INSERT INTO document(source, key, file, hash) SELECT ?, key, file, hash FROM temp.pending WHERE file IS NOT NULL"
			" ON CONFLICT(source, key) DO UPDATE SET file = excluded.file, hash = excluded.hash", "s", source);
	if (r == 0)
		r = sb_db_run(s->db, NULL, err, "INSERT OR REPLACE INTO dir_file(source, name, ino, size, mtime, ctime) SELECT ?, name, ino, size, mtime, ctime FROM temp.pending_file",
			"s", source);
	return r < 0 ? r : store_position(s, err);
}

static int release_some(struct dirsrc *s, struct sb_error *err)
{
	unsigned n = 0;
	int r = 0;

	for (; r == 0 && s->release_at < s->files.count && n < GONE_AT_ONCE; s->release_at++) {
		const struct dirsrc_file *f = s->files.item[s->release_at];
		if (!dirsrc_file_gone(f))
			continue;
		r = sb_db_run(s->db, NULL, err, "UPDATE document SET file = '' WHERE source = ? AND file = ?", "ss", s->set->name, f->name);
		if (r == 0)
			r = sb_db_run(s->db, NULL, err, "DELETE FROM dir_file WHERE source = ? AND name = ?", "ss", s->set->name, f->name);
		n++;
	}
	return r;
}

int dirsrc_release_gone(struct dirsrc *s, struct sb_error *err)
{
	int r = 0;

	if (s->files.n_gone == 0)
		return 0;
	for (s->release_at = 0; r == 0 && s->release_at < s->files.count;)
		r = dirsrc_in_transaction(s, release_some, err);
	if (r < 0)
		return r;
	dirsrc_files_drop_gone(&s->files);
	s->released = s->look_for_deleted = true;
	return 0;
}

int dirsrc_count(struct dirsrc *s, int64_t *ret_all, int64_t *ret_orphans, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(s->db, &st, err, "SELECT count(*), coalesce(sum(file = ''), 0) FROM document WHERE source = ?", "s", s->set->name);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r <= 0)
		return r;
	*ret_all = sb_db_int(st, 0);
	*ret_orphans = sb_db_int(st, 1);
	return 0;
}

/* --- opening --- */

static int load_files(struct dirsrc *s, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(s->db, &st, err, "SELECT name, ino, size, mtime, ctime FROM dir_file WHERE source = ?", "s", s->set->name);
	while (r == 0 && (r = sb_db_step(st, err)) > 0) {
		const struct dirsrc_stamp stamp = { .ino = (uint64_t)sb_db_int(st, 1), .size = sb_db_int(st, 2), .mtime = sb_db_int(st, 3), .ctime = sb_db_int(st, 4) };
		r = dirsrc_files_restore(&s->files, sb_db_text(st, 0), stamp, err);
	}
	return r;
}

/* Everything in the settings that a row's content depends on. Returns new. */
static char *settings_digest(const struct agent_dir_source *set)
{
	const struct row_pin *pin = set->columns.item;
	uint8_t digest[crypto_hash_sha256_BYTES];
	crypto_hash_sha256_state st;
	char *out = malloc(65);
	const int mode[2] = { set->format, dirsrc_is_document(set) };

	crypto_hash_sha256_init(&st);
	crypto_hash_sha256_update(&st, (const unsigned char *)mode, sizeof(mode));
	crypto_hash_sha256_update(&st, (const unsigned char *)set->key, strlen(set->key) + 1);
	for (size_t i = 0; i < set->columns.count; i++) {
		crypto_hash_sha256_update(&st, (const unsigned char *)pin[i].name, strlen(pin[i].name) + 1);
		crypto_hash_sha256_update(&st, (const unsigned char *)pin[i].type, strlen(pin[i].type) + 1);
	}
	crypto_hash_sha256_update(&st, (const unsigned char *)"private", 8);
	for (size_t i = 0; i < set->private_columns.count; i++)
		crypto_hash_sha256_update(&st, (const unsigned char *)set->private_columns.item[i], strlen(set->private_columns.item[i]) + 1);
	crypto_hash_sha256_final(&st, digest);
	if (out)
		sb_hex(out, digest, sizeof(digest));
	return out;
}

/* With other settings the same files are other rows: all are read and sent again. */
static int check_settings(struct dirsrc *s, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	sb_cleanup(sb_freep) char *digest = settings_digest(s->set), *key = sb_asprintf("settings/%s/%s", s->set->name, s->set->type);

	if (!digest || !key)
		return sb_fail_nomem(err);
	int r = sb_db_query(s->db, &st, err, "SELECT value FROM meta WHERE key = ?", "s", key);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	bool known = r > 0, same = known && strcmp(sb_db_text(st, 0), digest) == 0;
	sb_db_done(SB_TAKE(st));
	r = 0;
	if (known && !same)
		r = dirsrc_want_snapshot(s, "settings changed", err);
	return r < 0 || same ? r : sb_db_run(s->db, NULL, err, "INSERT OR REPLACE INTO meta(key, value) VALUES (?, ?)", "ss", key, digest);
}

static int load_position(struct dirsrc *s, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *key = sb_asprintf("position/%s/%s", s->set->name, s->set->type);
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	if (!key)
		return sb_fail_nomem(err);
	s->from = (struct sb_position){ .lsn = s->next };
	int r = sb_db_query(s->db, &st, err, "SELECT value FROM meta WHERE key = ?", "s", key);
	if (r == 0)
		r = sb_db_step(st, err);
	return r > 0 ? sb_position_parse(sb_db_text(st, 0), &s->from, err) : r;
}

static int load_schema(struct dirsrc *s, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = row_schema_init(&s->schema, dirsrc_key_column(s->set), dirsrc_is_document(s->set), &s->set->columns, &s->set->private_columns, err);
	if (r == 0)
		r = sb_db_query(s->db, &st, err, "SELECT shape FROM snapshot WHERE source = ? AND type = ?", "ss", s->set->name, s->set->type);
	if (r == 0)
		r = sb_db_step(st, err);
	s->reshape = true;
	return r > 0 ? row_schema_load(&s->schema, sb_db_text(st, 0), err) : r;
}

static int load_source(struct dirsrc *s, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(s->db, &st, err, "SELECT incarnation, acked_lsn FROM source_state WHERE source = ?", "s", s->set->name);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	/* with the state lost there may have been lives before: the session is above their number, being made of the time */
	s->shape.incarnation = r ? (uint64_t)sb_db_int(st, 0) : s->a->session;
	s->next = r ? (uint64_t)sb_db_int(st, 1) : 1;
	bool known = r > 0;
	sb_db_done(SB_TAKE(st));
	r = 0;
	if (!known)
		r = sb_db_run(s->db, NULL, err, "INSERT INTO source_state(source, incarnation, acked_lsn, updated_ms) VALUES (?, ?, ?, ?)", "siii", s->set->name,
			(int64_t)s->shape.incarnation, (int64_t)s->next, sb_wall_ms());
	return r < 0 ? r : sb_db_run(s->db, NULL, err, "INSERT INTO snapshot(source, type, state, reason) VALUES (?, ?, 'wanted', 'first') ON CONFLICT DO NOTHING", "ss",
		s->set->name, s->set->type);
}

static int load_state(struct dirsrc *s, struct sb_error *err)
{
	int r = load_source(s, err);

	if (r == 0)
		r = check_settings(s, err);
	if (r == 0)
		r = load_schema(s, err);
	if (r == 0)
		r = load_position(s, err);
	/* keys that were new and in doubt when the process died, and whose file is gone by now */
	if (r == 0)
		r = sb_db_run(s->db, NULL, err, "UPDATE document SET file = '' WHERE source = ?1 AND file <> '' AND file NOT IN (SELECT name FROM dir_file WHERE source = ?1)", "s",
			s->set->name);
	s->look_for_deleted = true;
	return r < 0 ? r : load_files(s, err);
}

int dirsrc_open(struct dirsrc *s, struct sb_error *err)
{
	char name[SB_NAME_MAX + 16];
	uint64_t session = 0;

	int r = sb_format(s->shape.type, sizeof(s->shape.type), err, "%s", s->set->type);
	if (r == 0)
		r = sb_format(s->stream, sizeof(s->stream), err, "entity/%s", s->set->type);
	if (r == 0)
		r = sb_format(s->snapshot_stream, sizeof(s->snapshot_stream), err, "snapshot/%s", s->set->type);
	if (r == 0)
		r = sb_format(name, sizeof(name), err, "source/%s", s->set->name);
	if (r == 0)
		r = agent_state_open(&s->db, s->a, err);
	if (r == 0)
		r = sb_db_script(s->db, "CREATE TEMP TABLE named(key TEXT PRIMARY KEY) WITHOUT ROWID;"
			"CREATE TEMP TABLE pending(key TEXT PRIMARY KEY, file TEXT, hash TEXT, sent INTEGER) WITHOUT ROWID;"
			"CREATE TEMP TABLE pending_file(name TEXT PRIMARY KEY, ino, size, mtime, ctime) WITHOUT ROWID", err);
	if (r == 0)
		r = load_state(s, err);
	if (r == 0)
		r = dirsrc_watch_new(&s->watch, err);
	if (r == 0)
		r = agent_state_session(s->db, name, s->a->session, &session, err);
	if (r == 0)
		r = agent_publisher_new(&s->pub, s->a, session, err);
	return r < 0 ? r : sb_batch_new(&s->batch, err);
}

void dirsrc_close(struct dirsrc *s)
{
	agent_publisher_free(s->pub);
	sb_batch_free(s->batch);
	dirsrc_watch_free(s->watch);
	dirsrc_files_release(&s->files);
	sb_shape_release(&s->shape);
	row_schema_release(&s->schema);
	free(s->cell);
	sb_db_close(s->db);
}
