/* What every lane of the hub gets. A tenant is its own world: database, keys, lanes "<tenant>/<lane>[/<stage>]". */
#ifndef HUB_H
#define HUB_H

#include <jansson.h>

#include "settings.h"
#include "stagebridge/kafka.h"
#include "stagebridge/keyring.h"
#include "stagebridge/lane.h"
#include "stagebridge/pg.h"
#include "stagebridge/stream.h"

struct hub;
struct hub_http;
struct hub_stage_lane;
struct hub_world {                       /* one tenant at work */
	struct hub *hub;
	const struct hub_tenant *set;
	struct sb_identity *identity;
	struct sb_keyring *keyring;
	char holder[64];                     /* this process: host, pid, start */
	struct hub_policy_slot *policy;      /* promotion policy in force: promote/policy.h */
	struct hub_stage_lane *stage_lane;   /* one per stage: what its lanes get */
};
struct hub {
	struct hub_settings set;
	struct sb_lanes *lanes;
	struct hub_http *http;
	struct hub_world *world; size_t n_worlds;
};
struct hub_stage_lane { struct hub_world *w; const struct hub_stage *stage; };

int hub_open(struct hub **ret, const char *config_file, struct sb_error *err) SB_MUSTCHECK; /* settings, keys, migrations */
int hub_start(struct hub *h, struct sb_error *err) SB_MUSTCHECK;
void hub_close(struct hub *h);
const struct hub_stage *hub_stage_find(const struct hub_tenant *t, const char *name);
int hub_stage_position(const struct hub_tenant *t, const char *name);   /* index in the list, -1 unknown */
const struct hub_type *hub_type_find(const struct hub_tenant *t, const char *type);
void hub_kafka_conf(struct sb_kafka_conf *ret, const struct hub_stage *stage, const char *client_id);
/** Wakes "<tenant>/<lane>". */
void hub_wake(struct hub_world *w, const char *lane);
/** Fills a folder path below state_dir: <state_dir>/<tenant>/<what>[/name]. */
int hub_path(char *out, size_t size, const struct hub_world *w, const char *what, const char *name, struct sb_error *err) SB_MUSTCHECK;

/* Lane bodies */
int hub_intake_lane(struct sb_lane *lane, void *user, struct sb_error *err);   /* struct hub_stage_lane: up.entity, up.event -> PostgreSQL */
int hub_relay_lane(struct sb_lane *lane, void *user, struct sb_error *err);    /* struct hub_stage_lane: up.data -> spool or other stages; up.entity -> subscribers */
int hub_courier_lane(struct sb_lane *lane, void *user, struct sb_error *err);  /* struct hub_world: outbox and the hub's own transfers -> stages */
int hub_git_lane(struct sb_lane *lane, void *user, struct sb_error *err);      /* struct hub_world: forge: poll, pushes, pull requests, statuses */
int hub_engine_lane(struct sb_lane *lane, void *user, struct sb_error *err);   /* struct hub_world: promotions */

#endif
