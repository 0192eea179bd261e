/* The promotion policy: its table. Parser, check, printed form and reference come from it. What the engine cannot do yet has a place here all the same, so that
 * a policy that wants it is refused by its name (policy_check.c). */
#include <stddef.h>

#include "stagebridge/policy.h"

#define SECOND_MS 1000LL
#define HOUR_MS   (3600 * SECOND_MS)
#define DAY_MS    (24 * HOUR_MS)
#define YEAR_MS   (365 * DAY_MS)

#define END           { .key = NULL }
#define E(field)      .offset = offsetof(struct sb_policy_edge, field)
#define W(field)      .offset = offsetof(struct sb_policy_window, field)
#define GROUP(name, table, text) { .key = name, .type = SB_SET_GROUP, .sub = table, .help = text }
#define LATER         " Not supported yet."

static const char *const mode_choices[] = { "auto", "manual", "on_merge", NULL };
static const char *const select_choices[] = { "newest", "newest_ready", "fifo", "match_upstream", "exact", NULL };
static const char *const strategy_choices[] = { "all", "one_of", NULL };
static const char *const counts_choices[] = { "continuous", NULL };
static const char *const self_choices[] = { "deny", "allow", NULL };
static const char *const missing_choices[] = { "pending", NULL };
static const char *const exempt_choices[] = { "exempt", "bound", NULL };
static const char *const target_choices[] = { "last_verified", NULL };
static const char *const guard_choices[] = { "none", "required", NULL };
static const char *const then_choices[] = { "hold", NULL };
static const char *const inconclusive_choices[] = { "hold", "fail", NULL };
static const char *const reverify_choices[] = { "revoke", "keep", NULL };
static const char *const emit_choices[] = { "none", "vsa", NULL };
static const char *const class_choices[] = { "anonymized", "public", NULL };
static const char *const attestation_choices[] = { "required", "none", NULL };

static const struct sb_setting window_table[] = {
	{ .key = "name", .type = SB_SET_STRING, .flags = SB_SET_REQUIRED, W(name), .help = "What people are told: \"year end\"." },
	{ .key = "tz", .type = SB_SET_STRING, W(tz), .dflt = "UTC", .help = "Time zone, such as Europe/Berlin; daylight saving is followed." },
	{ .key = "start", .type = SB_SET_STRING, .flags = SB_SET_REQUIRED, W(start), .help = "Local time of the first one, 2026-12-18T18:00, or a day." },
	{ .key = "end", .type = SB_SET_STRING, W(end), .help = "Local time when the first one ends; or a duration." },
	{ .key = "duration", .type = SB_SET_DURATION, W(duration_ms), .min = 0, .max = 366 * DAY_MS, .help = "How long each is on the wall clock; or an end." },
	{ .key = "rrule", .type = SB_SET_STRING, W(rrule), .help = "Recurrence rule of RFC 5545: FREQ=WEEKLY;BYDAY=FR. Without one: once." },
	{ .key = "exdates", .type = SB_SET_STRINGS, W(exdates), .max = 1000, .help = "Starts, or whole days of starts, that are left out." },
	END,
};

static const struct sb_setting rule_table[] = {
	{ .key = "group", .type = SB_SET_TYPE, .flags = SB_SET_REQUIRED, .offset = offsetof(struct sb_policy_rule, group), .help = "Members of this group may approve." },
	{ .key = "min", .type = SB_SET_INT, .offset = offsetof(struct sb_policy_rule, min), .dflt = "0", .min = 0, .max = 100, .help = "That many of them must; 0: they may." },
	END,
};

static const struct sb_setting availability_table[] = {
	{ .key = "strategy", .type = SB_SET_CHOICE, E(availability.strategy), .dflt = "all", .choices = strategy_choices,
		.help = "all: every stage of upstream has verified it. one_of:" LATER },
	{ .key = "upstream", .type = SB_SET_STRINGS, E(availability.upstream), .max = 64, .help = "Stages that must have verified it; only the one before is supported yet." },
	END,
};

static const struct sb_setting soak_table[] = {
	{ .key = "min", .type = SB_SET_DURATION, E(soak.min_ms), .dflt = "0s", .min = 0, .max = YEAR_MS, .help = "How long it must have been in the stage before." },
	{ .key = "counts", .type = SB_SET_CHOICE, E(soak.counts), .dflt = "continuous", .choices = counts_choices, .help = "Only time without a break counts." },
	END,
};

static const struct sb_setting approvals_table[] = {
	{ .key = "min", .type = SB_SET_INT, E(approvals.min), .dflt = "0", .min = 0, .max = 100, .help = "How many different people must say yes; at least 1 with mode manual." },
	{ .key = "rules", .type = SB_SET_LIST, E(approvals.rules), .max = 32, .sub = rule_table, .item_size = sizeof(struct sb_policy_rule),
		.help = "Whose yes counts; without rules everybody's who may approve." },
	{ .key = "self", .type = SB_SET_CHOICE, E(approvals.self), .dflt = "deny", .choices = self_choices, .help = "Whether the yes of whoever made the change counts." },
	{ .key = "request_counts", .type = SB_SET_BOOL, E(approvals.request_counts), .dflt = "true", .help = "Whether asking for the promotion, or merging its pull request, is a yes." },
	{ .key = "expires", .type = SB_SET_DURATION, E(approvals.expires_ms), .dflt = "30d", .min = SECOND_MS, .max = YEAR_MS, .help = "How long a yes counts." },
	END,
};

static const struct sb_setting statuses_table[] = {
	{ .key = "required", .type = SB_SET_STRINGS, E(statuses.required), .max = 32, .help = "Commit statuses that must be success on the artifact's commit: ci/build." },
	{ .key = "reporters", .type = SB_SET_STRINGS, E(statuses.reporters), .max = 32, .help = "Who may report them (names of tokens); empty: everybody who may write." },
	{ .key = "missing_is", .type = SB_SET_CHOICE, E(statuses.missing_is), .dflt = "pending", .choices = missing_choices, .help = "A status that nobody reported yet is waited for." },
	END,
};

static const struct sb_setting windows_table[] = {
	{ .key = "allow", .type = SB_SET_LIST, E(windows.allow), .max = 32, .sub = window_table, .item_size = sizeof(struct sb_policy_window),
		.help = "Open only in these; without any: always." },
	{ .key = "deny", .type = SB_SET_LIST, E(windows.deny), .max = 32, .sub = window_table, .item_size = sizeof(struct sb_policy_window),
		.help = "Closed in these, whatever allow says." },
	{ .key = "rollback", .type = SB_SET_CHOICE, E(windows.rollback), .dflt = "exempt", .choices = exempt_choices, .help = "Whether rollbacks wait for a window too." },
	{ .key = "override", .type = SB_SET_STRING, E(windows.override), .help = "Role that may go through a closed window." LATER },
	END,
};

static const struct sb_setting deadlines_table[] = {
	{ .key = "waiting", .type = SB_SET_DURATION, E(deadlines.waiting_ms), .dflt = "0s", .min = 0, .max = YEAR_MS, .help = "After waiting that long it ends as EXPIRED; 0s: never." },
	{ .key = "ack", .type = SB_SET_DURATION, E(deadlines.ack_ms), .dflt = "0s", .min = 0, .max = 30 * DAY_MS, .help = "How long the stage may take to accept; 0s: the hub's deadlines.ack." },
	{ .key = "apply", .type = SB_SET_DURATION, E(deadlines.apply_ms), .dflt = "0s", .min = 0, .max = 30 * DAY_MS, .help = "How long it may work on it; 0s: the hub's deadlines.apply." },
	{ .key = "verify", .type = SB_SET_DURATION, E(deadlines.verify_ms), .dflt = "0s", .min = 0, .max = 30 * DAY_MS, .help = "How long verification may take." LATER },
	END,
};

static const struct sb_setting retry_table[] = {
	{ .key = "attempts", .type = SB_SET_INT, E(retry.attempts), .dflt = "3", .min = 1, .max = 10, .help = "How often an order is given in all when the stage has technical trouble." },
	{ .key = "backoff", .type = SB_SET_DURATION, E(retry.backoff_ms), .dflt = "0s", .min = 0, .max = HOUR_MS, .help = "Time between them." LATER },
	END,
};

static const struct sb_setting rollback_table[] = {
	{ .key = "on", .type = SB_SET_STRINGS, E(rollback.on), .max = 8, .help = "What rolls back by itself: verification.failed." LATER },
	{ .key = "target", .type = SB_SET_CHOICE, E(rollback.target), .dflt = "last_verified", .choices = target_choices, .help = "What comes back." },
	{ .key = "schema_guard", .type = SB_SET_CHOICE, E(rollback.schema_guard), .dflt = "none", .choices = guard_choices, .help = "required: refuse a target that the data no longer fit." LATER },
	{ .key = "then", .type = SB_SET_CHOICE, E(rollback.then), .dflt = "hold", .choices = then_choices, .help = "Automation is held afterwards." },
	END,
};

static const struct sb_setting verification_table[] = {
	{ .key = "suite", .type = SB_SET_STRINGS, E(verification.suite), .max = 32, .help = "What the stage runs after the health check." LATER },
	{ .key = "timeout", .type = SB_SET_DURATION, E(verification.timeout_ms), .dflt = "30m", .min = SECOND_MS, .max = 30 * DAY_MS, .help = "How long it may run." },
	{ .key = "inconclusive", .type = SB_SET_CHOICE, E(verification.inconclusive), .dflt = "hold", .choices = inconclusive_choices, .help = "hold: a person judges." },
	{ .key = "on_reverify_fail", .type = SB_SET_CHOICE, E(verification.on_reverify_fail), .dflt = "revoke", .choices = reverify_choices, .help = "revoke: no longer counts as verified." },
	END,
};

static const struct sb_setting evidence_table[] = {
	{ .key = "require", .type = SB_SET_STRINGS, E(evidence.require), .max = 32, .help = "What must come with it: artifact.signature, provenance." LATER },
	{ .key = "emit", .type = SB_SET_CHOICE, E(evidence.emit), .dflt = "none", .choices = emit_choices, .help = "vsa: a signed summary of each decision." LATER },
	END,
};

static const struct sb_setting data_table[] = {
	{ .key = "down", .type = SB_SET_CHOICE, E(data.down), .dflt = "anonymized", .choices = class_choices, .help = "Class of data that goes back down along this edge." },
	{ .key = "attestation", .type = SB_SET_CHOICE, E(data.attestation), .dflt = "required", .choices = attestation_choices, .help = "What comes with them." },
	{ .key = "max_age", .type = SB_SET_DURATION, E(data.max_age_ms), .dflt = "0s", .min = 0, .max = YEAR_MS, .help = "Older ones are refused." LATER },
	END,
};

static const struct sb_setting edge_table[] = {
	{ .key = "edge", .type = SB_SET_STRING, .flags = SB_SET_REQUIRED, E(edge), .help = "FROM..TO, two stages that follow each other; main..TO into the first." },
	{ .key = "mode", .type = SB_SET_CHOICE, .flags = SB_SET_REQUIRED, E(mode), .choices = mode_choices,
		.help = "auto: by itself once its gates pass; manual: a person asks, approves, or merges its pull request. on_merge:" LATER },
	{ .key = "select", .type = SB_SET_CHOICE, E(select), .dflt = "newest", .choices = select_choices,
		.help = "newest: takes the place of older ones that wait; newest_ready: once its own gates pass; fifo: each in its turn. match_upstream, exact:" LATER },
	GROUP("availability", availability_table, "Which stages must have verified it."),
	GROUP("soak", soak_table, "Time in the stage before."),
	GROUP("approvals", approvals_table, "Who must say yes."),
	GROUP("statuses", statuses_table, "What other systems must say."),
	GROUP("windows", windows_table, "When it may happen."),
	GROUP("deadlines", deadlines_table, "How long anything may take."),
	GROUP("retry", retry_table, "Technical trouble; a definitive no is never tried again."),
	GROUP("rollback", rollback_table, "The way back."),
	GROUP("verification", verification_table, "After the health check."),
	GROUP("evidence", evidence_table, "What proves it."),
	GROUP("data", data_table, "Data against the direction of the edge."),
	{ .key = "depends_on", .type = SB_SET_STRINGS, E(depends_on), .max = 32, .help = "Origins that go first." LATER },
	END,
};

static const struct sb_setting group_table[] = {
	{ .key = "name", .type = SB_SET_TYPE, .flags = SB_SET_REQUIRED, .offset = offsetof(struct sb_policy_group, name), .help = "Name of the group." },
	{ .key = "members", .type = SB_SET_STRINGS, .flags = SB_SET_REQUIRED, .offset = offsetof(struct sb_policy_group, members), .min = 1, .max = 1000,
		.help = "Who is in it: names of tokens, accounts of the stages, users of the forge." },
	END,
};

#define P(field) .offset = offsetof(struct sb_policy, field)

const struct sb_setting sb_policy_table[] = {
	{ .key = "policy", .type = SB_SET_TYPE, .flags = SB_SET_FILE_ONLY | SB_SET_REQUIRED, P(name), .help = "Name of the policy." },
	{ .key = "version", .type = SB_SET_STRING, .flags = SB_SET_FILE_ONLY | SB_SET_REQUIRED, P(version), .help = "Its version, for people; what counts is the SHA-256." },
	{ .key = "groups", .type = SB_SET_LIST, P(groups), .max = 100, .sub = group_table, .item_size = sizeof(struct sb_policy_group), .help = "Groups of people, for approvals." },
	{ .key = "freezes", .type = SB_SET_LIST, P(freezes), .max = 32, .sub = window_table, .item_size = sizeof(struct sb_policy_window), .help = "Closed for all edges." },
	{ .key = "edges", .type = SB_SET_LIST, .flags = SB_SET_REQUIRED, P(edges), .min = 1, .max = 64, .sub = edge_table, .item_size = sizeof(struct sb_policy_edge),
		.help = "The edges; one that is missing follows the mode and soak of its stage." },
	END,
};
