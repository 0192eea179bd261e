/* The promotion policy: what an artifact needs to go along each edge, one YAML file per tenant. Hub and CLI read it by this one table. Const after load. */
#ifndef STAGEBRIDGE_POLICY_H
#define STAGEBRIDGE_POLICY_H

#include <jansson.h>

#include "stagebridge/base.h"
#include "stagebridge/error.h"
#include "stagebridge/settings.h"
#include "stagebridge/text.h"
#include "stagebridge/window.h"

#define SB_POLICY_MAIN "main" /* what the edge into the first stage comes from */

struct sb_policy_group { char *name; struct sb_strings members; };
struct sb_policy_rule { char *group; int64_t min; };
struct sb_policy_window {
	char *name, *tz, *start, *end, *rrule;
	int64_t duration_ms;
	struct sb_strings exdates;
	struct sb_window *made;          /* not of the file: the window, expanded */
};

enum { SB_MODE_AUTO, SB_MODE_MANUAL, SB_MODE_ON_MERGE };
enum { SB_SELECT_NEWEST, SB_SELECT_NEWEST_READY, SB_SELECT_FIFO, SB_SELECT_MATCH_UPSTREAM, SB_SELECT_EXACT };
enum { SB_SELF_DENY, SB_SELF_ALLOW };
enum { SB_ROLLBACK_EXEMPT, SB_ROLLBACK_BOUND };

struct sb_policy_edge {
	char *edge;                      /* "preprod..prod" */
	int mode, select;
	struct { int strategy; struct sb_strings upstream; } availability;
	struct { int64_t min_ms; int counts; } soak;
	struct { int64_t min, expires_ms; int self; bool request_counts; struct sb_list rules; } approvals;      /* struct sb_policy_rule */
	struct { struct sb_strings required, reporters; int missing_is; } statuses;
	struct { struct sb_list allow, deny; int rollback; char *override; } windows;                            /* struct sb_policy_window */
	struct { int64_t waiting_ms, ack_ms, apply_ms, verify_ms; } deadlines;                                   /* 0: none, or the hub's */
	struct { int64_t attempts, backoff_ms; } retry;
	struct { struct sb_strings on; int target, schema_guard, then; } rollback;
	struct { struct sb_strings suite; int64_t timeout_ms; int inconclusive, on_reverify_fail; } verification;
	struct { struct sb_strings require; int emit; } evidence;
	struct { int down, attestation; int64_t max_age_ms; } data;
	struct sb_strings depends_on;
	/* not of the file */
	char from[SB_NAME_MAX + 1], to[SB_NAME_MAX + 1];
	char digest[65];                 /* SHA-256 of all that decides on this edge, in normal form: approvals are bound to it */
	bool built_in;                   /* the file does not name it: it follows the stage's mode and soak */
};

struct sb_policy {
	char *name, *version;
	struct sb_list groups;           /* struct sb_policy_group */
	struct sb_list freezes;          /* struct sb_policy_window: closed for every edge */
	struct sb_list edges;            /* struct sb_policy_edge */
	/* not of the file */
	char digest[65];                 /* SHA-256 of the file's bytes; of nothing for the built-in one */
	char *text, *file;
	size_t text_len;
};

extern const struct sb_setting sb_policy_table[];

/** SB_ECONFIG "file:line:column: path: reason, what was expected"; what the engine cannot do yet is refused as "not supported yet".
 * Windows are expanded for ten years from now_ms on. On error *ret is zeroed. */
int sb_policy_load(struct sb_policy *ret, const char *file, int64_t now_ms, struct sb_error *err) SB_MUSTCHECK;
int sb_policy_parse(struct sb_policy *ret, const char *yaml, size_t n, const char *file, int64_t now_ms, struct sb_error *err) SB_MUSTCHECK;
void sb_policy_release(struct sb_policy *p);

/** A promoted stage, in the order of promotion, and what holds on the edge into it when the policy does not name that. */
struct sb_policy_stage { const char *name; bool manual; int64_t soak_ms; };
/** Checks the edges against the path and adds the missing ones. For no policy at all: on a zeroed one. */
int sb_policy_fit(struct sb_policy *p, const struct sb_policy_stage *stage, size_t n, int64_t now_ms, struct sb_error *err) SB_MUSTCHECK;

/** The edge into a stage; NULL when there is none. */
const struct sb_policy_edge *sb_policy_edge_to(const struct sb_policy *p, const char *stage);
const struct sb_policy_group *sb_policy_group_find(const struct sb_policy *p, const char *name);
bool sb_policy_member(const struct sb_policy_group *g, const char *person);
/** How many different people must say yes. */
int64_t sb_policy_approvals(const struct sb_policy_edge *e);

/** Is the edge open at t: no freeze and no deny window active, and an allow window active if there is one. Pure. Times in ms, 0: not known or never. */
struct sb_policy_moment { bool open; int64_t since, next_open, next_close; char reason[160], tz[64]; };
void sb_policy_at(const struct sb_policy *p, const struct sb_policy_edge *e, int64_t t_ms, struct sb_policy_moment *ret);

/** One edge for people and programs at that time: its window, its rules as sentences; returns new, NULL without memory. */
json_t *sb_policy_explain(const struct sb_policy *p, const struct sb_policy_edge *e, int64_t t_ms);

#endif
