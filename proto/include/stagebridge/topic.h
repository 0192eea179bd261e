/* Topic names: sb.<tenant>.<stage>.<up|down>.<entity|event|data>.v1, sb.<tenant>.hub.event.v1 for outside consumers. */
#ifndef STAGEBRIDGE_TOPIC_H
#define STAGEBRIDGE_TOPIC_H

#include "stagebridge/base.h"
#include "stagebridge/error.h"
#include "stagebridge/text.h"

enum sb_direction { SB_UP, SB_DOWN };          /* up: written by the stage's agent; down: by the hub */
enum sb_class { SB_ENTITY, SB_EVENT, SB_DATA };
#define SB_CLASS_COUNT 3

#define SB_TOPIC_MAX 128

struct sb_topic {
	char tenant[SB_NAME_MAX + 1];
	char stage[SB_NAME_MAX + 1];
	enum sb_direction direction;
	enum sb_class class;
};

/** out holds SB_TOPIC_MAX bytes; names must be sb_name_ok (asserted: configuration has checked them). */
void sb_topic_name(char out[SB_TOPIC_MAX], const char *tenant, const char *stage, enum sb_direction d, enum sb_class c);
/** SB_EPROTO when the name has another form. */
int sb_topic_parse(const char *name, struct sb_topic *ret, struct sb_error *err) SB_MUSTCHECK;
const char *sb_class_name(enum sb_class c);

#endif
