/* A receiver of entity records that applies them to real tables, as hub and replica do: verifies, applies, and fails the test when a row is refused.
 * Header only. */
#ifndef SB_TEST_LANDING_H
#define SB_TEST_LANDING_H

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "agent_fixture.h"
#include "pg_fixture.h"
#include "stagebridge/entity_table.h"
#include "stagebridge/pg.h"

struct landing {
	struct sb_pg *pg;
	struct sb_entity_tables *tables;
	unsigned ended;   /* snapshots */
};

/* A database of its own; views go to schema dev. */
static inline void landing_open(struct landing *l, const char *name)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_pg *admin;
	char text[512];

	memset(l, 0, sizeof(*l));
	fix_ok(sb_pg_open(&admin, pg_fixture_start(), "test", &err), err);
	(void)snprintf(text, sizeof(text), "CREATE DATABASE land_%s", name);
	fix_ok(sb_pg_exec(admin, text, 0, NULL, NULL, &err), err);
	sb_pg_close(admin);
	(void)snprintf(text, sizeof(text), "%s dbname=land_%s", pg_fixture_start(), name);
	fix_ok(sb_pg_open(&l->pg, text, "test", &err), err);
	fix_ok(sb_entity_tables_new(&l->tables, l->pg, "dev", "dev", &err), err);
}

static inline void landing_close(struct landing *l)
{
	sb_entity_tables_free(l->tables);
	sb_pg_close(l->pg);
}

static inline int landing_refused(void *user, const struct sb_shape *shape, const struct sb_change *c, const struct sb_error *why)
{
	(void)user;
	(void)c;
	ck_abort_msg("a row of %s was refused: %s", shape->type, why->msg);
	return 0;
}

static inline void landing_take(struct landing *l, const struct sb_keyring *keyring, const struct sb_inrecord *ir)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_apply_stats stats;
	struct sb_meta meta;
	uint64_t lsn = 0;
	bool news;

	fix_ok(sb_record_verify(&ir->rec, keyring, DEVKEYS_TENANT, "hub", sb_wall_ms(), &meta, &err), err);
	fix_ok(sb_pg_begin(l->pg, &err), err);
	if (meta.event == SB_EV_ENTITY_CHANGED || meta.event == SB_EV_SNAPSHOT_ROWS) {
		fix_ok(sb_entity_apply(l->tables, ir->rec.value, ir->rec.value_len, (struct sb_position){ 0 }, landing_refused, NULL, &stats, &err), err);
	} else {
		json_t *value = json_loadb(ir->rec.value, ir->rec.value_len, 0, NULL);
		const char *type = json_string_value(json_object_get(value, "type"));
		ck_assert_ptr_nonnull(type);
		if (meta.event == SB_EV_ENTITY_DESCRIBED)
			fix_ok(sb_entity_describe(l->tables, value, &news, &err), err);
		if (meta.event == SB_EV_SNAPSHOT_BEGUN)
			fix_ok(sb_entity_snapshot_begun(l->tables, type, &err), err);
		if (meta.event == SB_EV_SNAPSHOT_ENDED) {
			fix_ok(sb_lsn_parse(json_string_value(json_object_get(value, "lsn")), &lsn, &err), err);
			fix_ok(sb_entity_snapshot_ended(l->tables, type, (uint64_t)json_integer_value(json_object_get(value, "incarnation")), lsn, NULL, &err), err);
			l->ended++;
		}
		json_decref(value);
	}
	fix_ok(sb_pg_commit(l->pg, &err), err);
}

/* Reads what is there; true when something was. */
static inline bool landing_pull(struct landing *l, const struct sb_keyring *keyring, struct sb_consumer *consumer)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_inrecord ir;
	bool any = false;
	int r;

	while ((r = sb_consumer_poll(consumer, 5, &ir, &err)) > 0) {
		landing_take(l, keyring, &ir);
		sb_inrecord_release(&ir);
		any = true;
	}
	ck_assert_msg(r == 0 || r == SB_EKAFKA, "%s", err.msg);
	return any;
}

/* The one value of a query; returns new, "" for NULL or an error. */
static inline char *landing_ask(struct sb_pg *pg, const char *query)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_pg_result *res = NULL;
	int r = sb_pg_exec(pg, query, 0, NULL, &res, &err);
	char *s = sb_strdup(r == 0 && sb_pg_rows(res) && sb_pg_get(res, 0, 0) ? sb_pg_get(res, 0, 0) : "");

	sb_pg_free(res);
	return s;
}

#endif
