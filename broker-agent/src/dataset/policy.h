/* A dataset's policy: one YAML file of the stage's own people, <datasets.policies>/<dataset>.yaml. It says where the rows come from, who may have them
 * and what happens to every column; a column that it does not name refuses the whole dataset. Const after load; only the file speaks, never the
 * environment. */
#ifndef AGENT_DATASET_POLICY_H
#define AGENT_DATASET_POLICY_H

#include "number.h"
#include "stagebridge/settings.h"

enum agent_role { AGENT_ROLE_DIRECT, AGENT_ROLE_QUASI, AGENT_ROLE_SENSITIVE, AGENT_ROLE_KEY, AGENT_ROLE_SUBJECT, AGENT_ROLE_PUBLIC, AGENT_ROLE_DROP };
extern const char *const agent_role_names[]; /* by enum agent_role; ends with NULL */

enum agent_null { AGENT_NULL_KEEP, AGENT_NULL_TOKEN, AGENT_NULL_REFUSE };
enum agent_part { AGENT_PART_YEAR, AGENT_PART_QUARTER, AGENT_PART_MONTH };
enum { AGENT_KEYS_EPHEMERAL, AGENT_KEYS_STORED };

struct agent_operator;

/** One column's rule: first what the file says (absent: NULL, 0, empty), then what operator.c made of it. */
struct agent_rule {
	char *name;
	int role;                     /* enum agent_role */
	char *op;
	char *null;
	char *domain, *token_prefix;  /* pseudonym */
	char *value;                  /* constant */
	char *step;                   /* bucket, round */
	char *lo, *hi;                /* top_bottom */
	char *part;                   /* date_part */
	char *reason;                 /* keep: why it may; elsewhere a remark */
	struct sb_strings edges;      /* bucket */
	int64_t n;                    /* prefix: characters */

	size_t line;                  /* of the file, for messages */
	const struct agent_operator *operator;
	enum agent_null on_null;
	enum agent_part date_part;
	agent_fixed by, from, to;     /* step; lo, hi */
	agent_fixed *edge; size_t n_edges;
	char **label; size_t n_labels;/* bucket: n_edges + 1; top_bottom: 2 */
};

/* The parameters of a rule as rows of a settings table, for all that let people write rules */
#define AGENT_RULE_AT(field) .offset = offsetof(struct agent_rule, field)
#define AGENT_RULE_PARAMETERS \
	{ .key = "op", .type = SB_SET_STRING, .flags = SB_SET_REQUIRED, AGENT_RULE_AT(op), .help = "What happens to it." }, \
	{ .key = "null", .type = SB_SET_STRING, AGENT_RULE_AT(null), .help = "keep (default), token: a value of its own, or refuse." }, \
	{ .key = "domain", .type = SB_SET_STRING, AGENT_RULE_AT(domain), .help = "pseudonym: equal values of one domain get equal tokens." }, \
	{ .key = "token_prefix", .type = SB_SET_STRING, AGENT_RULE_AT(token_prefix), .help = "pseudonym: what tokens begin with; default: the domain." }, \
	{ .key = "value", .type = SB_SET_STRING, AGENT_RULE_AT(value), .help = "constant: the value." }, \
	{ .key = "edges", .type = SB_SET_STRINGS, AGENT_RULE_AT(edges), .min = 1, .max = 1000, .help = "bucket: where a bucket ends and the next begins." }, \
	{ .key = "step", .type = SB_SET_STRING, AGENT_RULE_AT(step), .help = "bucket, round: width." }, \
	{ .key = "lo", .type = SB_SET_STRING, AGENT_RULE_AT(lo), .help = "top_bottom: this and less become one value." }, \
	{ .key = "hi", .type = SB_SET_STRING, AGENT_RULE_AT(hi), .help = "top_bottom: this and more become one value." }, \
	{ .key = "n", .type = SB_SET_INT, AGENT_RULE_AT(n), .min = 1, .max = 64, .help = "prefix: characters kept." }, \
	{ .key = "part", .type = SB_SET_STRING, AGENT_RULE_AT(part), .help = "date_part: year, quarter or month." }, \
	{ .key = "reason", .type = SB_SET_STRING, AGENT_RULE_AT(reason), .help = "keep: why it may leave as it is; elsewhere a remark." }

struct agent_policy {
	char *name, *version;
	struct {
		struct { char *conninfo, *query, *table; } postgres;
		struct { char *path; } csv;
		char *fingerprint;    /* "": not pinned */
	} source;
	struct sb_strings recipients;
	struct { int mode; char *epoch, *link; } keys;
	struct { int64_t min_rows, max_rows; } limits;
	struct sb_list columns;       /* struct agent_rule */
	char digest[65];              /* SHA-256 of the file's bytes */
};

/** Reads <folder>/<dataset>.yaml. SB_ENOTFOUND: there is none; SB_ECONFIG: "<dataset>.yaml:line: key: reason". */
int agent_policy_load(struct agent_policy *ret, const char *folder, const char *dataset, struct sb_error *err) SB_MUSTCHECK;
/** The same from memory; file stands for it in messages, folder is where a relative path of a CSV file starts. */
int agent_policy_parse(struct agent_policy *ret, const char *yaml, size_t n, const char *file, const char *folder, struct sb_error *err) SB_MUSTCHECK;
void agent_policy_release(struct agent_policy *p);
bool agent_policy_allows(const struct agent_policy *p, const char *stage);
const struct agent_rule *agent_policy_rule(const struct agent_policy *p, const char *column); /* NULL when it has none */

/* policy_lines.c: fills line of every rule; what it cannot find stays 0. */
void agent_policy_lines(struct agent_policy *p, const char *yaml, size_t n);

#endif
