/* Topic names, both ways. Pure; any thread. A stage may not be called "hub": that word names the hub's own topic. */
#include "stagebridge/topic.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define TOPIC_PARTS 6 /* sb tenant stage direction class v1 */

static const char *const class_names[SB_CLASS_COUNT] = { "entity", "event", "data" };

const char *sb_class_name(enum sb_class c)
{
	return (unsigned)c < SB_CLASS_COUNT ? class_names[c] : "?";
}

void sb_topic_name(char out[SB_TOPIC_MAX], const char *tenant, const char *stage, enum sb_direction d, enum sb_class c)
{
	assert(sb_name_ok(tenant) && sb_name_ok(stage) && (unsigned)c < SB_CLASS_COUNT);
	int n = snprintf(out, SB_TOPIC_MAX, "sb.%s.%s.%s.%s.v1", tenant, stage, d == SB_UP ? "up" : "down", class_names[c]);
	assert(n > 0 && n < SB_TOPIC_MAX);
}

static bool parse_class(const char *s, enum sb_class *ret)
{
	for (unsigned c = 0; c < SB_CLASS_COUNT; c++) {
		if (strcmp(s, class_names[c]) == 0) {
			*ret = (enum sb_class)c;
			return true;
		}
	}
	return false;
}

int sb_topic_parse(const char *name, struct sb_topic *ret, struct sb_error *err)
{
	char copy[SB_TOPIC_MAX];
	char *part[TOPIC_PARTS];
	size_t n = strnlen(name, SB_TOPIC_MAX);

	if (n >= SB_TOPIC_MAX)
		return sb_fail(err, SB_EPROTO, "topic name is longer than %d bytes", SB_TOPIC_MAX - 1);
	memcpy(copy, name, n + 1);

	char *rest = copy;
	for (unsigned i = 0; i < TOPIC_PARTS; i++) {
		part[i] = strsep(&rest, ".");
		if (!part[i])
			return sb_fail(err, SB_EPROTO, "topic name has %u parts, not %d", i, TOPIC_PARTS);
	}
	if (rest || strcmp(part[0], "sb") != 0 || strcmp(part[5], "v1") != 0)
		return sb_fail(err, SB_EPROTO, "topic name is not of the form sb.<tenant>.<stage>.<up|down>.<class>.v1");
	if (!sb_name_ok(part[1]) || !sb_name_ok(part[2]) || strcmp(part[2], "hub") == 0)
		return sb_fail(err, SB_EPROTO, "topic name has a bad tenant or stage");

	bool up = strcmp(part[3], "up") == 0;
	enum sb_class c = SB_ENTITY;
	if (!up && strcmp(part[3], "down") != 0)
		return sb_fail(err, SB_EPROTO, "topic direction is neither \"up\" nor \"down\"");
	if (!parse_class(part[4], &c))
		return sb_fail(err, SB_EPROTO, "topic class is not known");

	/* sb_name_ok bounds both to SB_NAME_MAX */
	memcpy(ret->tenant, part[1], strlen(part[1]) + 1);
	memcpy(ret->stage, part[2], strlen(part[2]) + 1);
	ret->direction = up ? SB_UP : SB_DOWN;
	ret->class = c;
	return 0;
}
