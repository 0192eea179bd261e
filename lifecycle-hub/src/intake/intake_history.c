/* History of the types that ask for it in the settings: switched on and off at the start of the lane, pruned now and then. The intake lane's thread. */
#include <inttypes.h>
#include <string.h>

#include "intake.h"
#include "stagebridge/clock.h"
#include "stagebridge/log.h"
#include "store/store.h"

#define PRUNE_EVERY_MS (10 * 60 * 1000)

int intake_history_set(struct intake *in, struct sb_error *err)
{
	const struct hub_type *type = in->w->set->types.item;
	int r = 0;

	if (!in->tables)
		r = sb_entity_tables_new(&in->tables, in->pg, in->stage->name, in->stage->name, err);
	for (size_t i = 0; r == 0 && i < in->w->set->types.count; i++) {
		int64_t keep_ms = 0;
		bool on = false;
		if (strcmp(type[i].owner, in->stage->name) != 0)
			continue;
		r = hub_type_history(&type[i], &on, &keep_ms, err);
		if (r == 0)
			r = sb_entity_history(in->tables, type[i].type, on, err);
	}
	return r;
}

static int prune(struct intake *in, bool *ret_more, struct sb_error *err)
{
	const struct hub_type *type = in->w->set->types.item;
	int r = 0;

	for (size_t i = 0; r == 0 && i < in->w->set->types.count; i++) {
		uint64_t gone = 0;
		int64_t keep_ms = 0;
		bool on = false;
		if (strcmp(type[i].owner, in->stage->name) != 0)
			continue;
		r = hub_type_history(&type[i], &on, &keep_ms, err);
		if (r == 0 && on && keep_ms > 0)
			r = sb_entity_history_prune(in->tables, type[i].type, keep_ms, &gone, err);
		*ret_more = *ret_more || gone > 0;
		if (gone)
			sb_log(SB_INFO, "history_pruned", "stage=%s type=%s versions=%" PRIu64, in->stage->name, type[i].type, gone);
	}
	return r;
}

int intake_history_prune(struct intake *in, struct sb_error *err)
{
	int64_t now = sb_mono_ms();
	bool more = false;
	int r = 0;

	if (now < in->prune_ms)
		return 0;
	in->prune_ms = now + PRUNE_EVERY_MS;
	r = sb_pg_begin(in->pg, err);
	if (r == 0)
		r = hub_fence(in->pg, sb_lane_name(in->lane), in->generation, err);
	if (r == 0 && !in->tables)
		r = sb_entity_tables_new(&in->tables, in->pg, in->stage->name, in->stage->name, err);
	if (r == 0)
		r = prune(in, &more, err);
	if (r == 0)
		r = sb_pg_commit(in->pg, err);
	if (r < 0)
		sb_pg_rollback(in->pg);
	else if (more)
		in->prune_ms = now; /* in portions, and what arrives goes between them */
	return r;
}
