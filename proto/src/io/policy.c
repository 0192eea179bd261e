/* The promotion policy: loading, the digests, the windows, the edges that no file names. Any thread; owns what it loads. */
#include "stagebridge/policy.h"

#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "policy_private.h"
#include "stagebridge/file.h"

#define FILE_MAX   (1u << 20)
#define PRINT_MAX  (8u << 20)
#define HORIZON_MS (10LL * 366 * 86400000)
#define STEPS_MAX  5000 /* ends and beginnings that the search for the next opening looks at */

const struct sb_policy_edge *sb_policy_edge_to(const struct sb_policy *p, const char *stage)
{
	const struct sb_policy_edge *edge = p->edges.item;

	for (size_t i = 0; i < p->edges.count; i++) {
		if (strcmp(edge[i].to, stage) == 0)
			return &edge[i];
	}
	return NULL;
}

const struct sb_policy_group *sb_policy_group_find(const struct sb_policy *p, const char *name)
{
	const struct sb_policy_group *group = p->groups.item;

	for (size_t i = 0; i < p->groups.count; i++) {
		if (strcmp(group[i].name, name) == 0)
			return &group[i];
	}
	return NULL;
}

bool sb_policy_member(const struct sb_policy_group *g, const char *person)
{
	for (size_t i = 0; i < g->members.count; i++) {
		if (strcmp(g->members.item[i], person) == 0)
			return true;
	}
	return false;
}

int64_t sb_policy_approvals(const struct sb_policy_edge *e)
{
	const struct sb_policy_rule *rule = e->approvals.rules.item;
	int64_t min = e->mode == SB_MODE_MANUAL && e->approvals.min < 1 ? 1 : e->approvals.min;

	for (size_t i = 0; i < e->approvals.rules.count; i++)
		min = rule[i].min > min ? rule[i].min : min;
	return min;
}

/* --- digests --- */

static void sha256_hex(char out[65], const void *p, size_t n)
{
	uint8_t digest[crypto_hash_sha256_BYTES];

	(void)crypto_hash_sha256(digest, p, n); /* always 0 */
	sb_hex(out, digest, sizeof(digest));
}

/* All that decides on an edge, in the form that the settings print: a comment or another order of keys is no other policy, a member of a group is. */
static int edge_digest(const struct sb_policy *p, struct sb_policy_edge *edge, struct sb_error *err)
{
	static char none[] = "";
	struct sb_policy_group *kept = calloc(p->groups.count + 1, sizeof(*kept));
	struct sb_policy view = { .name = none, .version = none, .groups = { kept, 0 }, .freezes = p->freezes, .edges = { edge, 1 } };
	struct sb_buf out;

	if (!kept)
		return sb_fail_nomem(err);
	for (size_t i = 0; i < p->groups.count; i++) {
		const struct sb_policy_group *group = p->groups.item;
		const struct sb_policy_rule *rule = edge->approvals.rules.item;
		for (size_t k = 0; k < edge->approvals.rules.count; k++) {
			if (strcmp(rule[k].group, group[i].name) != 0)
				continue;
			kept[view.groups.count++] = group[i];
			break;
		}
	}
	sb_buf_init(&out, PRINT_MAX);
	sb_settings_print(sb_policy_table, &view, &out);
	int r = sb_buf_check(&out, "policy", err);
	if (r == 0)
		sha256_hex(edge->digest, out.data, out.len);
	sb_buf_release(&out);
	free(kept);
	return r;
}

static int digests(struct sb_policy *p, struct sb_error *err)
{
	struct sb_policy_edge *edge = p->edges.item;
	int r = 0;

	for (size_t i = 0; r == 0 && i < p->edges.count; i++)
		r = edge_digest(p, &edge[i], err);
	return r;
}

/* --- loading --- */

static void release_windows(struct sb_list *list)
{
	struct sb_policy_window *w = list->item;

	for (size_t i = 0; i < list->count; i++)
		sb_window_free(SB_TAKE(w[i].made));
}

void sb_policy_release(struct sb_policy *p)
{
	struct sb_policy_edge *edge = p->edges.item;

	release_windows(&p->freezes);
	for (size_t i = 0; i < p->edges.count; i++) {
		release_windows(&edge[i].windows.allow);
		release_windows(&edge[i].windows.deny);
	}
	sb_settings_release(sb_policy_table, p);
	free(p->text);
	free(p->file);
	*p = (struct sb_policy){ .name = NULL };
}

int sb_policy_parse(struct sb_policy *ret, const char *yaml, size_t n, const char *file, int64_t now_ms, struct sb_error *err)
{
	struct sb_policy p = { .name = NULL };
	struct sb_error why = SB_ERROR_INIT;

	*ret = (struct sb_policy){ .name = NULL };
	int r = sb_settings_parse(sb_policy_table, &p, yaml, n, file, &why);
	if (r == 0) {
		sha256_hex(p.digest, yaml, n);
		p.text = malloc(n + 1);
		p.file = sb_strdup(file);
		r = p.text && p.file ? 0 : sb_fail_nomem(&why);
	}
	if (r == 0) {
		memcpy(p.text, yaml, n);
		p.text[n] = '\0';
		p.text_len = n;
		r = sb_policy_check(&p, now_ms + HORIZON_MS, &why);
	}
	if (r == 0)
		r = digests(&p, &why);
	if (r == 0) {
		*ret = p;
		return 0;
	}
	sb_policy_release(&p);
	if (err)
		*err = why;
	return r;
}

int sb_policy_load(struct sb_policy *ret, const char *file, int64_t now_ms, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *yaml = NULL;
	struct sb_error why = SB_ERROR_INIT;
	size_t n = 0;

	*ret = (struct sb_policy){ .name = NULL };
	int r = sb_file_read(file, FILE_MAX, &yaml, &n, &why);
	if (r == SB_ENOMEM)
		return sb_fail_nomem(err);
	return r < 0 ? sb_fail(err, SB_ECONFIG, "%s", why.msg) : sb_policy_parse(ret, yaml, n, file, now_ms, err);
}

/* --- edges that no file names --- */

static int add_built_in(struct sb_policy *p, const char *from, const struct sb_policy_stage *to, int64_t now_ms, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *yaml = sb_asprintf("policy: built-in\nversion: \"\"\nedges:\n  - { edge: %s..%s, mode: %s, soak: { min: %" PRId64 "ms } }\n", from, to->name,
		to->manual ? "manual" : "auto", to->soak_ms);
	struct sb_policy one = { .name = NULL };

	if (!yaml)
		return sb_fail_nomem(err);
	int r = sb_policy_parse(&one, yaml, strlen(yaml), "built-in policy", now_ms, err);
	if (r < 0)
		return r;
	struct sb_policy_edge *more = realloc(p->edges.item, (p->edges.count + 1) * sizeof(*more));
	if (!more) {
		sb_policy_release(&one);
		return sb_fail_nomem(err);
	}
	p->edges.item = more;
	more[p->edges.count] = *(struct sb_policy_edge *)one.edges.item;
	more[p->edges.count].built_in = true;
	p->edges.count++;
	one.edges.count = 0; /* moved; the array itself is released */
	sb_policy_release(&one);
	return 0;
}

int sb_policy_fit(struct sb_policy *p, const struct sb_policy_stage *stage, size_t n, int64_t now_ms, struct sb_error *err)
{
	int r = sb_policy_check_path(p, stage, n, err);

	if (r == 0 && !p->name) {
		p->name = sb_strdup("built-in");
		p->version = sb_strdup("");
		r = p->name && p->version ? 0 : sb_fail_nomem(err);
	}
	for (size_t i = 0; r == 0 && i < n; i++) {
		if (!sb_policy_edge_to(p, stage[i].name))
			r = add_built_in(p, i ? stage[i - 1].name : SB_POLICY_MAIN, &stage[i], now_ms, err);
	}
	return r < 0 ? r : digests(p, err); /* freezes hold for the built-in edges too */
}

/* --- windows --- */

/* The windows of one list at one time */
struct set {
	const struct sb_policy_window *active; /* the first, NULL: none */
	bool for_ever;                         /* one of the active does not end */
	int64_t last_end, first_end, next;     /* of the active; when another one begins; 0: none */
};

static struct set look(const struct sb_list *list, int64_t t)
{
	const struct sb_policy_window *w = list->item;
	struct set s = { NULL, false, 0, 0, 0 };

	for (size_t i = 0; i < list->count; i++) {
		int64_t change = 0;
		if (!sb_window_at(w[i].made, t, &change)) {
			s.next = change && (!s.next || change < s.next) ? change : s.next;
			continue;
		}
		s.active = s.active ? s.active : &w[i];
		s.for_ever = s.for_ever || !change;
		s.last_end = change > s.last_end ? change : s.last_end;
		s.first_end = change && (!s.first_end || change < s.first_end) ? change : s.first_end;
	}
	return s;
}

struct at { struct set deny, freeze, allow; bool open; };

static struct at open_at(const struct sb_policy *p, const struct sb_policy_edge *e, int64_t t)
{
	struct at a = { look(&e->windows.deny, t), look(&p->freezes, t), look(&e->windows.allow, t), false };

	a.open = !a.deny.active && !a.freeze.active && (a.allow.active || e->windows.allow.count == 0);
	return a;
}

static int64_t earliest(int64_t a, int64_t b)
{
	return !a || (b && b < a) ? b : a;
}

/* The first moment after which it may be otherwise: nothing opens before all that closes has ended. 0: never. */
static int64_t may_change(const struct at *a)
{
	if (a->open)
		return earliest(earliest(a->deny.next, a->freeze.next), a->allow.first_end);
	if (a->deny.for_ever || a->freeze.for_ever)
		return 0;
	if (a->deny.active || a->freeze.active)
		return a->deny.last_end > a->freeze.last_end ? a->deny.last_end : a->freeze.last_end;
	return a->allow.next;
}

void sb_policy_at(const struct sb_policy *p, const struct sb_policy_edge *e, int64_t t_ms, struct sb_policy_moment *ret)
{
	const struct sb_policy_window *allow = e->windows.allow.item;
	struct at a = open_at(p, e, t_ms);
	const struct sb_policy_window *closer = a.deny.active ? a.deny.active : a.freeze.active;

	*ret = (struct sb_policy_moment){ .open = a.open };
	if (!a.open) {
		(void)sb_window_since((closer ? closer : &allow[0])->made, t_ms, &ret->since);
		(void)snprintf(ret->tz, sizeof(ret->tz), "%.63s", (closer ? closer : &allow[0])->tz);
		if (closer)
			(void)snprintf(ret->reason, sizeof(ret->reason), "closed by \"%.100s\"", closer->name);
		else
			(void)snprintf(ret->reason, sizeof(ret->reason), "outside of \"%.100s\"%s", allow[0].name, e->windows.allow.count > 1 ? " and the others" : "");
	}
	int64_t t = may_change(&a);
	for (unsigned i = 0; t != 0 && i < STEPS_MAX; i++, t = may_change(&a)) {
		a = open_at(p, e, t);
		if (a.open == ret->open)
			continue;
		*(ret->open ? &ret->next_close : &ret->next_open) = t;
		return;
	}
}
