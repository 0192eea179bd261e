/* Packs that the hub sends to a stage: made, sealed to the stage's key, registered for the courier. */
#ifndef HUB_TRANSFER_H
#define HUB_TRANSFER_H

#include "hub.h"
#include "stagebridge/carrier.h"
#include "stagebridge/git.h"

/** id "": the stage has all it needs, nothing is sent. */
struct hub_transfer { char id[SB_ID_LEN + 1]; struct sb_manifest manifest; char spool[1024]; };

/** The hub's own repository of an origin: <state_dir>/<tenant>/repos/<origin>.git; made when missing. */
int hub_repo_open(struct sb_repo **ret, char path[1024], const struct hub_world *w, const char *origin, struct sb_error *err) SB_MUSTCHECK;

/** Packs commit and its history without what the stage was sent before (deployed or announced). No effect on the database. lane: who makes it; two lanes
 * may want the same pack at the same time, and each writes a file of its own. */
int hub_transfer_pack(struct hub_world *w, struct sb_pg *pg, const char *lane, const char *stage, const char *origin, const char *commit, struct hub_transfer *ret,
	struct sb_error *err) SB_MUSTCHECK;
/** Writes the row (state offered) for the courier, inside the caller's transaction. Nothing for id "". */
int hub_transfer_register(struct hub_world *w, struct sb_pg *pg, const struct hub_transfer *t, struct sb_error *err) SB_MUSTCHECK;
/** Frees; drop: removes the spool file too, when the row was not committed. */
void hub_transfer_release(struct hub_world *w, struct hub_transfer *t, bool drop);

#endif
