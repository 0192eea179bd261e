/* Brings a tenant's database to the schema of this program and writes the settings that SQL needs into it. Main thread, at start.
 * Several hubs may start at once: an advisory lock lets one at a time through. */
#include <inttypes.h>
#include <string.h>

#include "stagebridge/embed.h"
#include "stagebridge/log.h"
#include "store.h"

SB_EMBED(migration_001, "lifecycle-hub/src/store/migrations/001_base.sql");
SB_EMBED(migration_002, "lifecycle-hub/src/store/migrations/002_promotion.sql");
SB_EMBED(migration_003, "lifecycle-hub/src/store/migrations/003_views.sql");

static const struct {
	const char *name;
	const char *sql;
} migrations[] = {
	{ "base", migration_001 },
	{ "promotion", migration_002 },
	{ "views", migration_003 },
};

static int version_get(struct sb_pg *pg, int64_t *ret, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *there = NULL, *res = NULL;

	int r = sb_pg_exec(pg, "SELECT to_regclass('sb.migration') IS NOT NULL", 0, NULL, &there, err);
	if (r < 0)
		return r;
	*ret = 0;
	if (strcmp(sb_pg_get(there, 0, 0), "t") != 0)
		return 0;
	r = sb_pg_exec(pg, "SELECT coalesce(max(version), 0) FROM sb.migration", 0, NULL, &res, err);
	if (r == 0)
		*ret = sb_pg_get_i64(res, 0, 0);
	return r;
}

static int migrate_one(struct sb_pg *pg, size_t i, struct sb_error *err)
{
	char version[HUB_NUM];
	const char *param[] = { hub_num(version, (int64_t)i + 1), migrations[i].name };

	int r = sb_pg_begin(pg, err);
	if (r == 0)
		r = sb_pg_script(pg, migrations[i].sql, err);
	if (r == 0)
		r = sb_pg_exec(pg, "INSERT INTO sb.migration (version, name) VALUES ($1, $2)", 2, param, NULL, err);
	if (r == 0)
		r = sb_pg_commit(pg, err);
	if (r < 0) {
		sb_pg_rollback(pg);
		return sb_fail_prefix(err, "migration %zu (%s)", i + 1, migrations[i].name);
	}
	sb_log(SB_INFO, "schema_migrated", "version=%zu name=%s", i + 1, migrations[i].name);
	return 0;
}

static int stages_write(struct sb_pg *pg, const struct hub_tenant *t, struct sb_error *err)
{
	const struct hub_stage *stage = t->stages.item;

	int r = sb_pg_exec(pg, "UPDATE lifecycle.stage SET retired = true", 0, NULL, NULL, err);
	for (size_t i = 0; r == 0 && i < t->stages.count; i++) {
		char place[HUB_NUM], soak[HUB_NUM];
		const char *param[] = { stage[i].name, hub_num(place, (int64_t)i), stage[i].promoted ? "t" : "f",
			stage[i].mode == HUB_MODE_AUTO ? "auto" : "manual", hub_num(soak, stage[i].soak_ms) };
		r = sb_pg_exec(pg,
			"INSERT INTO lifecycle.stage (name, place, promoted, mode, soak) VALUES ($1, $2, $3, $4, $5::bigint * interval '1 "
			"millisecond') "
			"ON CONFLICT (name) DO UPDATE SET place = excluded.place, promoted = excluded.promoted, mode = excluded.mode, soak "
			"= excluded.soak, "
			"retired = false",
			5, param, NULL, err);
	}
	return r;
}

/* A text[] literal of names that the settings have checked: no character in them needs quoting */
static int array_literal(struct sb_buf *out, const struct sb_strings *names, struct sb_error *err)
{
	sb_buf_addc(out, '{');
	for (size_t i = 0; i < names->count; i++)
		sb_buf_addf(out, "%s\"%s\"", i ? "," : "", names->item[i]);
	sb_buf_addc(out, '}');
	return sb_buf_check(out, "subscribers", err);
}

static int types_write(struct sb_pg *pg, const struct hub_tenant *t, struct sb_error *err)
{
	const struct hub_type *type = t->types.item;
	struct sb_buf list;

	sb_buf_init(&list, 64 * 1024);
	int r = sb_pg_exec(pg, "DELETE FROM lifecycle.entity_owner", 0, NULL, NULL, err);
	for (size_t i = 0; r == 0 && i < t->types.count; i++) {
		sb_buf_reset(&list);
		r = array_literal(&list, &type[i].subscribers, err);
		const char *param[] = { type[i].type, type[i].owner, list.data, type[i].public_down ? "t" : "f", type[i].history };
		if (r == 0)
			r = sb_pg_exec(pg,
				"INSERT INTO lifecycle.entity_owner (type, owner, subscribers, public_down, history) VALUES ($1, $2, $3::text[], "
				"$4, $5)",
				5, param, NULL, err);
	}
	sb_buf_release(&list);
	return r;
}

static int origins_write(struct sb_pg *pg, const struct hub_tenant *t, struct sb_error *err)
{
	const struct hub_origin *origin = t->origins.item;
	int r = 0;

	for (size_t i = 0; r == 0 && i < t->origins.count; i++) {
		const char *param[] = { origin[i].name, origin[i].repository };
		r = sb_pg_exec(pg,
			"INSERT INTO lifecycle.origin (name, repository) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET repository = "
			"excluded.repository",
			2, param, NULL, err);
	}
	return r;
}

static int settings_write(struct sb_pg *pg, const struct hub_tenant *t, struct sb_error *err)
{
	int r = sb_pg_begin(pg, err);
	if (r == 0)
		r = stages_write(pg, t, err);
	if (r == 0)
		r = types_write(pg, t, err);
	if (r == 0)
		r = origins_write(pg, t, err);
	if (r == 0)
		r = sb_pg_commit(pg, err);
	if (r < 0)
		sb_pg_rollback(pg);
	return r;
}

/* An older keyring may hold keys that were revoked since. Under the advisory lock: two hubs that start at once are asked one after the other. */
static int keyring_hold(struct sb_pg *pg, uint64_t version, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	char number[HUB_NUM];
	const char *param[] = { hub_num(number, (int64_t)version) };

	int r = sb_pg_exec(pg, "SELECT value::bigint FROM sb.meta WHERE key = 'keyring_version'", 0, NULL, &res, err);
	if (r < 0)
		return r;
	uint64_t seen = sb_pg_rows(res) ? (uint64_t)sb_pg_get_i64(res, 0, 0) : 0;
	if (version < seen)
		return sb_fail(err, SB_ECONFIG, "keyring has version %" PRIu64 ", but version %" PRIu64 " was in use here: put the newer one in place",
			version, seen);
	if (version == seen)
		return 0;
	return sb_pg_exec(pg,
		"INSERT INTO sb.meta (key, value) VALUES ('keyring_version', $1) ON CONFLICT (key) DO UPDATE SET value = excluded.value", 1,
		param, NULL, err);
}

static int migrate(struct sb_pg *pg, const struct hub_world *w, struct sb_error *err)
{
	int64_t version = 0;

	int r = sb_pg_exec(pg, "SELECT pg_advisory_lock(21314, 0)", 0, NULL, NULL, err);
	if (r == 0)
		r = version_get(pg, &version, err);
	if (r == 0 && version > (int64_t)SB_COUNT(migrations))
		r = sb_fail(err, SB_ESTATE, "database is at schema version %d, this program knows %zu: use a newer program", (int)version,
			SB_COUNT(migrations));
	for (size_t i = (size_t)version; r == 0 && i < SB_COUNT(migrations); i++)
		r = migrate_one(pg, i, err);
	if (r == 0)
		r = keyring_hold(pg, sb_keyring_version(w->keyring), err);
	if (r == 0)
		r = settings_write(pg, w->set, err);
	return r;
}

int hub_store_migrate(struct hub_world *w, struct sb_error *err)
{
	struct sb_pg *pg = NULL;

	int r = sb_pg_open(&pg, w->set->database, "stagebridge-migrate", err);
	if (r == 0)
		r = sb_pg_script(pg, "SET client_min_messages = warning", err);
	if (r == 0)
		r = migrate(pg, w, err);
	sb_pg_close(pg); /* releases the advisory lock */
	if (r < 0)
		return sb_fail_prefix(err, "tenant %s", w->set->name);
	return 0;
}
