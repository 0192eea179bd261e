/* Entity records for subscribers: the owner's bytes unchanged, with our hop signature. Stages after the owner get its streams "entity" and "snapshot",
 * stages before it only "public" and "public-snapshot". The relay lane's thread. The relay judges ownership and direction for itself; what it does not forward is on record through intake, which reads the same topic. */
#include <string.h>

#include "intake/ownership.h"
#include "relay.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "store/store.h"

static bool goes_down(const struct hub_tenant *t, const struct hub_type *type, const char *stage)
{
	return hub_stage_position(t, stage) < hub_stage_position(t, type->owner);
}

bool relay_subscribes(const struct hub_tenant *t, const struct hub_type *type, const char *stage)
{
	/* data goes down, to a stage before its owner, only when the settings let it; and then only what its owner published for that */
	if (goes_down(t, type, stage) && !type->public_down)
		return false;
	for (size_t i = 0; i < type->subscribers.count; i++) {
		if (strcmp(type->subscribers.item[i], stage) == 0)
			return strcmp(type->owner, stage) != 0;
	}
	return false;
}

int relay_entity(struct relay_link *l, struct sb_inrecord *in, struct sb_error *err)
{
	struct sb_error cause = SB_ERROR_INIT;
	struct hub_entity what;
	struct sb_meta meta;
	int r = 0;

	if (in->malformed != SB_OK)
		return 0;
	if (sb_record_verify(&in->rec, l->relay->w->keyring, l->relay->w->set->name, RELAY_HUB, sb_wall_ms(), &meta, &cause) < 0)
		return 0;
	if (hub_entity_judge(&what, l->relay->w->set, &in->rec, &meta, &cause) < 0)
		return cause.code == SB_ENOMEM ? sb_fail_nomem(err) : 0;
	if (what.down == goes_down(l->relay->w->set, what.rule, l->target) && relay_subscribes(l->relay->w->set, what.rule, l->target))
		r = relay_forward(l, in, &meta, SB_ENTITY, err);
	hub_entity_release(&what);
	return r;
}

static int subscribe_one(struct relay_link *l, const char *type, bool partial, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { l->target, type };

	int r = sb_pg_exec(
		l->relay->pg, "INSERT INTO sb.subscription (stage, type) VALUES ($1, $2) ON CONFLICT DO NOTHING", 2, param, &res, err);
	if (r < 0 || sb_pg_affected(res) == 0 || !partial)
		return r;
	l->wake_courier = true;
	return hub_resync_put(l->relay->w, l->relay->pg, l->relay->stage->name,
		&(struct hub_resync){ .type = type, .reason = "a new subscriber needs everything", .asked = "" }, err);
}

int relay_subscribe(struct relay_link *l, bool partial, struct sb_error *err)
{
	const struct hub_tenant *t = l->relay->w->set;
	const struct hub_type *type = t->types.item;

	int r = relay_begin(l, err);
	for (size_t i = 0; r == 0 && i < t->types.count; i++) {
		if (strcmp(type[i].owner, l->relay->stage->name) == 0 && relay_subscribes(t, &type[i], l->target))
			r = subscribe_one(l, type[i].type, partial, err);
	}
	if (r == 0)
		r = sb_pg_commit(l->relay->pg, err);
	if (r < 0)
		sb_pg_rollback(l->relay->pg);
	else if (l->wake_courier)
		hub_wake(l->relay->w, "courier");
	return r;
}
