/* The table of record types as data. Pure; any thread. */
#include "stagebridge/event_types.h"

#include <assert.h>
#include <string.h>

static const struct sb_event_info infos[SB_EV_COUNT] = {
#define SB_X(symbol, name_, direction_, class_, schema_) \
	[SB_EV_##symbol] = { \
		.name = name_, .type = "stagebridge." name_ ".v1", .direction = direction_, .class = class_, .has_schema = schema_ \
	},
	SB_EVENT_TABLE(SB_X)
#undef SB_X
};

const struct sb_event_info *sb_event_info(enum sb_event e)
{
	assert((unsigned)e < SB_EV_COUNT);
	return &infos[e];
}

int sb_event_find(const char *type)
{
	for (int i = 0; i < SB_EV_COUNT; i++) {
		if (strcmp(infos[i].type, type) == 0)
			return i;
	}
	return -1;
}
