/* Generalizing operators: a coarser value in place of a precise one. Numbers are exact decimals (number.h), dates are PostgreSQL's ISO spelling. The
 * dataset lane's thread; what a run needs is made in prepare. */
#include <stdio.h>
#include <string.h>

#include "operator.h"
#include "stagebridge/text.h"

#define ROLES (AGENT_ROLE_BIT(AGENT_ROLE_QUASI) | AGENT_ROLE_BIT(AGENT_ROLE_SENSITIVE) | AGENT_ROLE_BIT(AGENT_ROLE_PUBLIC))
#define NOT_A_NUMBER "holds a value that is not a finite number"
#define NOT_A_DATE "holds a value that is not a date of the common era"
#define LABEL_MAX (2 * AGENT_FIXED_LEN + 4)

_Static_assert(AGENT_SCRATCH >= LABEL_MAX, "a label fits");

static const char *set(struct sb_cell *out, const char *p, size_t n)
{
	*out = (struct sb_cell){ .kind = SB_CELL_VALUE, .p = p, .n = n };
	return NULL;
}

static int labels_new(struct agent_rule *rule, size_t n, struct sb_error *err)
{
	rule->label = calloc(n, sizeof(*rule->label));
	rule->n_labels = rule->label ? n : 0;
	return rule->label ? 0 : sb_fail_nomem(err);
}

static int positive_step(struct agent_rule *rule, struct sb_error *err)
{
	int r = agent_rule_number("step", rule->step, &rule->by, err);

	if (r == 0 && rule->by <= 0)
		r = sb_fail(err, SB_ECONFIG, "step: must be above 0");
	return r;
}

/* --- bucket: half-open, by explicit edges or by a step --- */

static int bucket_edges(struct agent_rule *rule, struct sb_error *err)
{
	size_t n = rule->edges.count;
	char low[AGENT_FIXED_LEN], high[AGENT_FIXED_LEN];

	rule->edge = calloc(n, sizeof(*rule->edge));
	if (!rule->edge)
		return sb_fail_nomem(err);
	rule->n_edges = n;
	for (size_t i = 0; i < n; i++) {
		int r = agent_rule_number("edges", rule->edges.item[i], &rule->edge[i], err);
		if (r < 0)
			return r;
		if (i > 0 && rule->edge[i] <= rule->edge[i - 1])
			return sb_fail(err, SB_ECONFIG, "edges: must go up");
	}
	int r = labels_new(rule, n + 1, err);
	for (size_t i = 0; r == 0 && i <= n; i++) {
		if (i > 0)
			(void)agent_fixed_format(low, rule->edge[i - 1]); /* the length is not needed */
		if (i < n)
			(void)agent_fixed_format(high, rule->edge[i]);
		rule->label[i] = i == 0 ? sb_asprintf("<%s", high) : i == n ? sb_asprintf(">=%s", low) : sb_asprintf("[%s,%s)", low, high);
		r = rule->label[i] ? 0 : sb_fail_nomem(err);
	}
	return r;
}

static int prepare_bucket(struct agent_rule *rule, struct sb_error *err)
{
	if ((rule->edges.count > 0) == (rule->step != NULL))
		return sb_fail(err, SB_ECONFIG, "op: bucket needs either edges or step");
	return rule->step ? positive_step(rule, err) : bucket_edges(rule, err);
}

static const char *apply_bucket(const struct agent_step *step, const struct sb_cell *in, struct sb_cell *out, char scratch[AGENT_SCRATCH])
{
	const struct agent_rule *rule = step->rule;
	agent_fixed v;
	size_t n, i = 0;

	if (!agent_fixed_parse(in->p, in->n, &v, NULL))
		return NOT_A_NUMBER;
	if (rule->n_edges > 0) {
		while (i < rule->n_edges && v >= rule->edge[i])
			i++;
		return set(out, rule->label[i], strlen(rule->label[i]));
	}
	v = agent_fixed_floor(v, rule->by);
	scratch[0] = '[';
	n = 1 + agent_fixed_format(scratch + 1, v);
	scratch[n++] = ',';
	n += agent_fixed_format(scratch + n, v + rule->by);
	scratch[n++] = ')';
	return set(out, scratch, n);
}

/* --- round: to the nearest multiple, halves go up --- */

static const char *apply_round(const struct agent_step *step, const struct sb_cell *in, struct sb_cell *out, char scratch[AGENT_SCRATCH])
{
	agent_fixed by = step->rule->by, v;

	if (!agent_fixed_parse(in->p, in->n, &v, NULL))
		return NOT_A_NUMBER;
	v = agent_fixed_floor(2 * v + by, 2 * by) / 2;
	return set(out, scratch, agent_fixed_format(scratch, v));
}

/* --- top_bottom: the ends of the range become one value each --- */

static int prepare_top_bottom(struct agent_rule *rule, struct sb_error *err)
{
	char text[AGENT_FIXED_LEN];

	int r = agent_rule_number("lo", rule->lo, &rule->from, err);
	if (r == 0)
		r = agent_rule_number("hi", rule->hi, &rule->to, err);
	if (r == 0 && rule->from >= rule->to)
		r = sb_fail(err, SB_ECONFIG, "lo: must be below hi");
	if (r == 0)
		r = labels_new(rule, 2, err);
	for (int i = 0; r == 0 && i < 2; i++) {
		(void)agent_fixed_format(text, i == 0 ? rule->from : rule->to); /* the length is not needed */
		rule->label[i] = sb_asprintf("%s%s", i == 0 ? "<=" : ">=", text);
		r = rule->label[i] ? 0 : sb_fail_nomem(err);
	}
	return r;
}

static const char *apply_top_bottom(const struct agent_step *step, const struct sb_cell *in, struct sb_cell *out, char scratch[AGENT_SCRATCH])
{
	const struct agent_rule *rule = step->rule;
	bool exact = true;
	agent_fixed v;

	(void)scratch;
	if (!agent_fixed_parse(in->p, in->n, &v, &exact))
		return NOT_A_NUMBER;
	/* what was cut off makes an equal value a larger one */
	const char *label = v < rule->from || (v == rule->from && exact) ? rule->label[0] : v >= rule->to ? rule->label[1] : NULL;
	return label ? set(out, label, strlen(label)) : set(out, in->p, in->n);
}

/* --- prefix: the first characters --- */

static int prepare_prefix(struct agent_rule *rule, struct sb_error *err)
{
	return rule->n >= 1 && rule->n <= 64 ? 0 : sb_fail(err, SB_ECONFIG, "n: is outside 1..64");
}

static const char *apply_prefix(const struct agent_step *step, const struct sb_cell *in, struct sb_cell *out, char scratch[AGENT_SCRATCH])
{
	int64_t left = step->rule->n;
	size_t at = 0;

	(void)scratch;
	/* sources give well-formed UTF-8 only: a character ends where the next byte begins one */
	while (at < in->n) {
		if (((unsigned char)in->p[at] & 0xc0) != 0x80 && left-- == 0)
			break;
		at++;
	}
	return set(out, in->p, at);
}

/* --- date_part --- */

static int prepare_date_part(struct agent_rule *rule, struct sb_error *err)
{
	static const char *const parts[] = { "year", "quarter", "month" };

	for (size_t i = 0; i < SB_COUNT(parts); i++) {
		if (strcmp(rule->part, parts[i]) == 0) {
			rule->date_part = (enum agent_part)i;
			return 0;
		}
	}
	return sb_fail(err, SB_ECONFIG, "part: is none of: year, quarter, month");
}

static int two_digits(const char *p)
{
	return p[0] >= '0' && p[0] <= '9' && p[1] >= '0' && p[1] <= '9' ? (p[0] - '0') * 10 + p[1] - '0' : -1;
}

/* YYYY-MM-DD, or that and a time; a year may have more digits. The length of the year, 0 when it is no such date. */
static size_t date_read(const char *p, size_t n, int *ret_month)
{
	size_t year = 0;

	while (year < n && p[year] >= '0' && p[year] <= '9')
		year++;
	if (year < 4 || year > 6 || n < year + 6 || p[year] != '-' || p[year + 3] != '-')
		return 0;
	int month = two_digits(p + year + 1), day = two_digits(p + year + 4);
	if (month < 1 || month > 12 || day < 1 || day > 31)
		return 0;
	if (n > year + 6 && (n == year + 7 || (p[year + 6] != ' ' && p[year + 6] != 'T')))
		return 0;
	if (n > year + 7 && (p[n - 1] == 'C' || p[year + 7] < '0' || p[year + 7] > '9')) /* "BC", or no time of day */
		return 0;
	*ret_month = month;
	return year;
}

static const char *apply_date_part(const struct agent_step *step, const struct sb_cell *in, struct sb_cell *out, char scratch[AGENT_SCRATCH])
{
	int month = 0;
	size_t year = date_read(in->p, in->n, &month), n = 0;

	if (year == 0)
		return NOT_A_DATE;
	switch (step->rule->date_part) {
	case AGENT_PART_YEAR:
		return set(out, in->p, year);
	case AGENT_PART_QUARTER:
		n = (size_t)snprintf(scratch, AGENT_SCRATCH, "%.*s-Q%d", (int)year, in->p, (month + 2) / 3); /* fits */
		break;
	case AGENT_PART_MONTH:
		n = (size_t)snprintf(scratch, AGENT_SCRATCH, "%.*s-%02d", (int)year, in->p, month); /* fits */
		break;
	}
	return set(out, scratch, n);
}

const struct agent_operator agent_op_bucket = { .name = "bucket", .iso_class = "rounding",
	.takes = AGENT_P_EDGES | AGENT_P_STEP | AGENT_P_NULL | AGENT_P_REASON, .roles = ROLES, .emits = true, .reads = true, .type = "text", .prepare = prepare_bucket,
	.apply = apply_bucket };

const struct agent_operator agent_op_round = { .name = "round", .iso_class = "rounding", .takes = AGENT_P_STEP | AGENT_P_NULL | AGENT_P_REASON,
	.needs = AGENT_P_STEP, .roles = ROLES, .emits = true, .reads = true, .type = "numeric", .prepare = positive_step, .apply = apply_round };

const struct agent_operator agent_op_top_bottom = { .name = "top_bottom", .iso_class = "top and bottom coding",
	.takes = AGENT_P_LO | AGENT_P_HI | AGENT_P_NULL | AGENT_P_REASON, .needs = AGENT_P_LO | AGENT_P_HI, .roles = ROLES, .emits = true, .reads = true, .type = "text",
	.prepare = prepare_top_bottom, .apply = apply_top_bottom };

const struct agent_operator agent_op_prefix = { .name = "prefix", .iso_class = "generalization", .takes = AGENT_P_N | AGENT_P_NULL | AGENT_P_REASON,
	.needs = AGENT_P_N, .roles = ROLES, .emits = true, .reads = true, .type = "text", .prepare = prepare_prefix, .apply = apply_prefix };

const struct agent_operator agent_op_date_part = { .name = "date_part", .iso_class = "generalization",
	.takes = AGENT_P_PART | AGENT_P_NULL | AGENT_P_REASON, .needs = AGENT_P_PART, .roles = ROLES, .emits = true, .reads = true, .type = "text",
	.prepare = prepare_date_part, .apply = apply_date_part };
