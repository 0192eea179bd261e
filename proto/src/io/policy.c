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

struct walk { const struct sb_policy *p; const struct sb_policy_edge *e; const struct sb_policy_window *denied; int64_t next; };

static bool any_active(struct walk *k, const struct sb_list *list, int64_t t, const struct sb_policy_window **ret)
{
	const struct sb_policy_window *w = list->item;
	bool any = false;

	for (size_t i = 0; i < list->count; i++) {
		int64_t change = 0;
		if (sb_window_at(w[i].made, t, &change) && !any) {
			any = true;
			*ret = &w[i];
		}
		if (change > t && (k->next == 0 || change < k->next))
			k->next = change;
	}
	return any;
}

/* Open at t? next: when any window of the edge begins or ends after t. */
static bool open_at(struct walk *k, int64_t t)
{
	const struct sb_policy_window *allowed = NULL, *frozen = NULL;

	k->next = 0;
	k->denied = NULL;
	bool deny = any_active(k, &k->e->windows.deny, t, &k->denied);
	bool freeze = any_active(k, &k->p->freezes, t, &frozen);
	bool allow = any_active(k, &k->e->windows.allow, t, &allowed) || k->e->windows.allow.count == 0;
	if (freeze && !deny)
		k->denied = frozen;
	return !deny && !freeze && allow;
}

void sb_policy_at(const struct sb_policy *p, const struct sb_policy_edge *e, int64_t t_ms, struct sb_policy_moment *ret)
{
	struct walk k = { .p = p, .e = e };
	const struct sb_policy_window *allow = e->windows.allow.item;

	*ret = (struct sb_policy_moment){ .open = open_at(&k, t_ms) };
	if (!ret->open && k.denied) {
		(void)sb_window_since(k.denied->made, t_ms, &ret->since);
		(void)snprintf(ret->reason, sizeof(ret->reason), "closed by \"%.100s\"", k.denied->name);
		(void)snprintf(ret->tz, sizeof(ret->tz), "%.63s", k.denied->tz);
	} else if (!ret->open) {
		(void)sb_window_since(allow[0].made, t_ms, &ret->since);
		(void)snprintf(ret->reason, sizeof(ret->reason), "outside of \"%.100s\"%s", allow[0].name, e->windows.allow.count > 1 ? " and the others" : "");
		(void)snprintf(ret->tz, sizeof(ret->tz), "%.63s", allow[0].tz);
	}
	int64_t t = k.next;
	for (unsigned i = 0; t != 0 && i < STEPS_MAX; i++, t = k.next) {
		if (open_at(&k, t) == ret->open)
			continue;
		*(ret->open ? &ret->next_close : &ret->next_open) = t;
		return;
	}
}
