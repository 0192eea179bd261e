/* Facts for the judgement, from the sync view: one statement, whether for one promotion or for all that wait. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine.h"

#define MS(time) "coalesce((date_part('epoch', " time ") * 1000)::bigint, 0)"

/* Who is asked about: $1 promotion or '', $2 artifact, $3 stage, $4 kind */
static const char one[] =
	"SELECT $1::text AS id, $2::text AS artifact, $3::text AS stage, $4::text AS kind, coalesce(p.state, 'PENDING') AS state, coalesce(p.policy, '') AS policy, coalesce(p.waiting_for, '') AS waiting_for,"
	" coalesce(p.created_at, now()) AS created_at, coalesce(p.seq, 9223372036854775807) AS seq FROM (SELECT 1) x LEFT JOIN lifecycle.promotion p ON p.id = $1";
static const char waiting[] =
	"SELECT id, artifact, stage, kind, state, policy, waiting_for, created_at, seq FROM lifecycle.promotion WHERE state IN ('PENDING', 'GATED', 'READY') ORDER BY seq LIMIT 2000";

static const char facts_head[] = "WITH subject AS MATERIALIZED (";
static const char facts_body[] =
	"), path AS MATERIALIZED (SELECT from_stage, to_stage FROM lifecycle.edge), stops AS MATERIALIZED (SELECT * FROM lifecycle.stop ORDER BY stage, origin)"
	" SELECT s.id, s.artifact, a.origin, s.stage, s.kind, s.policy, s.waiting_for, s.state, " MS("now()") ", " MS("s.created_at") ", a.seq, a.orphaned,"
	" coalesce(up.verified, false), here.verified, " MS("up.since") ", coalesce(up.longest, 0), coalesce(cur.seq, 0),"
	" coalesce(h.person || ': ' || h.reason, ''), " MS("h.since") ", coalesce(st.person || ': ' || st.reason, ''), " MS("st.since") ", coalesce(fl.what, ''), coalesce(old.id, ''), coalesce(last.state, ''),"
	" votes.list, statuses.list, authors.list"
	" FROM subject s JOIN lifecycle.artifact a ON a.id = s.artifact LEFT JOIN path ON path.to_stage = s.stage"
	" LEFT JOIN LATERAL (SELECT bool_or(o.verified_at IS NOT NULL) AS verified, max(o.since) FILTER (WHERE o.until IS NULL) AS since,"
	"   max((date_part('epoch', coalesce(o.until, now()) - o.since) * 1000)::bigint) AS longest FROM lifecycle.occupancy o WHERE o.artifact = a.id AND o.stage = path.from_stage) up ON true"
	" CROSS JOIN LATERAL (SELECT coalesce(bool_or(o.verified_at IS NOT NULL), false) AS verified FROM lifecycle.occupancy o WHERE o.artifact = a.id AND o.stage = s.stage) here"
	" LEFT JOIN LATERAL (SELECT x.seq FROM lifecycle.occupancy o JOIN lifecycle.artifact x ON x.id = o.artifact WHERE o.stage = s.stage AND o.origin = a.origin AND o.until IS NULL) cur ON true"
	" LEFT JOIN lifecycle.hold h ON h.stage = s.stage AND h.origin = a.origin"
	" LEFT JOIN LATERAL (SELECT * FROM stops t WHERE t.stage IN ('', s.stage) AND t.origin IN ('', a.origin) LIMIT 1) st ON true"
	" LEFT JOIN LATERAL (SELECT p.id || ' ' || p.state AS what FROM lifecycle.promotion p WHERE p.stage = s.stage AND p.origin = a.origin AND p.id <> s.id"
	"   AND p.state IN ('DISPATCHED', 'APPLYING', 'APPLIED', 'VERIFYING', 'HELD', 'IN_DOUBT')) fl ON true"
	" LEFT JOIN LATERAL (SELECT p.id FROM lifecycle.promotion p WHERE p.stage = s.stage AND p.origin = a.origin AND p.seq < s.seq AND p.state IN ('PENDING', 'GATED', 'READY') ORDER BY p.seq LIMIT 1) old ON true"
	" LEFT JOIN LATERAL (SELECT p.state FROM lifecycle.promotion p WHERE p.artifact = a.id AND p.stage = s.stage AND p.id <> s.id AND p.ended_at IS NOT NULL ORDER BY p.seq DESC LIMIT 1) last ON true"
	" CROSS JOIN LATERAL (SELECT json_agg(json_build_array(v.person, v.decision, " MS("v.at") ", v.artifact, v.policy) ORDER BY v.at DESC)::text AS list FROM lifecycle.approval v WHERE v.promotion = s.id) votes"
	" CROSS JOIN LATERAL (SELECT json_agg(json_build_array(c.context, c.state, c.reporter) ORDER BY c.updated_at DESC)::text AS list FROM lifecycle.commit_status c"
	"   WHERE c.origin = a.origin AND c.oid = a.commit_oid AND c.reporter <> '') statuses"
	" CROSS JOIN LATERAL (SELECT json_agg(DISTINCT who)::text AS list FROM (SELECT r.author AS who FROM lifecycle.pull_request r WHERE r.origin = a.origin AND r.merge_oid = a.commit_oid"
	"   UNION SELECT u.pusher FROM lifecycle.push u WHERE u.origin = a.origin AND u.head = a.commit_oid"
	"   UNION SELECT u.pusher FROM lifecycle.pull_request r JOIN lifecycle.push u ON u.origin = r.origin AND u.head = r.head_oid WHERE r.origin = a.origin AND r.merge_oid = a.commit_oid) w) authors"
	" ORDER BY s.seq";
enum { F_ID, F_ARTIFACT, F_ORIGIN, F_STAGE, F_KIND, F_POLICY, F_WAITING, F_TEXTS, F_STATE = F_TEXTS, F_NOW, F_CREATED, F_SEQ, F_ORPHANED, F_UP_VERIFIED, F_HERE_VERIFIED, F_UP_SINCE, F_UP_LONGEST,
	F_CURRENT, F_HOLD, F_HOLD_AT, F_STOP, F_STOP_AT, F_IN_FLIGHT, F_OLDER, F_LAST, F_VOTES, F_STATUSES, F_AUTHORS };

static void copy(char *out, size_t size, const char *text)
{
	(void)snprintf(out, size, "%s", text ? text : ""); /* reasons of people may be cut: they are shown */
}

static const char *text_at(const json_t *row, size_t i)
{
	const char *s = json_string_value(json_array_get(row, i));

	return s ? s : "";
}

static json_t *list(const struct sb_pg_result *res, int row, int column)
{
	const char *s = sb_pg_get(res, row, column);

	return s ? json_loads(s, 0, NULL) : NULL;
}

static void read_lists(const struct sb_pg_result *res, int row, struct hub_facts *f)
{
	json_auto_t *votes = list(res, row, F_VOTES), *statuses = list(res, row, F_STATUSES), *authors = list(res, row, F_AUTHORS);
	json_t *x;
	size_t i;

	json_array_foreach(votes, i, x)
	{
		if (f->n_votes == HUB_VOTES_MAX)
			break;
		struct hub_vote *v = &f->vote[f->n_votes++];
		copy(v->person, sizeof(v->person), text_at(x, 0));
		v->yes = strcmp(text_at(x, 1), "approve") == 0;
		v->at_ms = json_integer_value(json_array_get(x, 2));
		copy(v->artifact, sizeof(v->artifact), text_at(x, 3));
		copy(v->policy, sizeof(v->policy), text_at(x, 4));
	}
	json_array_foreach(statuses, i, x)
	{
		if (f->n_statuses == HUB_STATUSES_MAX)
			break;
		struct hub_status *c = &f->status[f->n_statuses++];
		copy(c->context, sizeof(c->context), text_at(x, 0));
		copy(c->state, sizeof(c->state), text_at(x, 1));
		copy(c->reporter, sizeof(c->reporter), text_at(x, 2));
	}
	json_array_foreach(authors, i, x)
	{
		if (f->n_authors == HUB_AUTHORS_MAX)
			break;
		copy(f->author[f->n_authors++], sizeof(f->author[0]), json_string_value(x));
	}
}

static bool is_true(const struct sb_pg_result *res, int row, int column)
{
	const char *s = sb_pg_get(res, row, column);

	return s && strcmp(s, "t") == 0;
}

static int read_row(const struct sb_pg_result *res, int row, struct hub_facts *f, struct sb_error *err)
{
	char *const text[] = { f->promotion, f->artifact, f->origin, f->stage, f->kind, f->policy, f->waiting_for };
	const size_t size[] = { sizeof(f->promotion), sizeof(f->artifact), sizeof(f->origin), sizeof(f->stage), sizeof(f->kind), sizeof(f->policy), sizeof(f->waiting_for) };
	int state = sb_promotion_state_find(sb_pg_get(res, row, F_STATE));

	f->n_votes = f->n_statuses = f->n_authors = 0;
	for (int i = 0; i < F_TEXTS; i++)
		copy(text[i], size[i], sb_pg_get(res, row, i));
	if (state < 0)
		return sb_fail(err, SB_EDB, "promotion %s has an unknown state", f->promotion);
	f->state = (enum sb_promotion_state)state;
	f->now_ms = sb_pg_get_i64(res, row, F_NOW);
	f->created_ms = sb_pg_get_i64(res, row, F_CREATED);
	f->seq = sb_pg_get_i64(res, row, F_SEQ);
	f->orphaned = is_true(res, row, F_ORPHANED);
	f->up_verified = is_true(res, row, F_UP_VERIFIED);
	f->here_verified = is_true(res, row, F_HERE_VERIFIED);
	f->up_since_ms = sb_pg_get_i64(res, row, F_UP_SINCE);
	f->up_longest_ms = sb_pg_get_i64(res, row, F_UP_LONGEST);
	f->current_seq = sb_pg_get_i64(res, row, F_CURRENT);
	copy(f->hold, sizeof(f->hold), sb_pg_get(res, row, F_HOLD));
	f->hold_ms = sb_pg_get_i64(res, row, F_HOLD_AT);
	copy(f->stop, sizeof(f->stop), sb_pg_get(res, row, F_STOP));
	f->stop_ms = sb_pg_get_i64(res, row, F_STOP_AT);
	copy(f->in_flight, sizeof(f->in_flight), sb_pg_get(res, row, F_IN_FLIGHT));
	copy(f->older, sizeof(f->older), sb_pg_get(res, row, F_OLDER));
	copy(f->last_state, sizeof(f->last_state), sb_pg_get(res, row, F_LAST));
	read_lists(res, row, f);
	return 0;
}

static int ask(struct sb_pg *pg, const char *subject, unsigned n, const char *const *param, struct sb_pg_result **ret, struct sb_error *err)
{
	struct sb_buf sql;

	sb_buf_init(&sql, 16384);
	sb_buf_addf(&sql, "%s%s%s", facts_head, subject, facts_body);
	int r = sb_buf_check(&sql, "query", err);
	if (r == 0)
		r = sb_pg_exec(pg, sql.data, n, param, ret, err);
	sb_buf_release(&sql);
	return r;
}

int hub_facts_load(struct sb_pg *pg, const char *promotion, const char *artifact, const char *stage, const char *kind, struct hub_facts *ret, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { promotion, artifact, stage, kind };

	int r = ask(pg, one, 4, param, &res, err);
	if (r < 0)
		return r;
	return sb_pg_rows(res) ? read_row(res, 0, ret, err) : sb_fail(err, SB_ENOTFOUND, "no artifact has this id");
}

int hub_facts_waiting(struct sb_pg *pg, hub_facts_fn each, void *user, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	struct hub_facts f;

	int r = ask(pg, waiting, 0, NULL, &res, err);
	for (int i = 0; r >= 0 && i < sb_pg_rows(res); i++) {
		r = read_row(res, i, &f, err);
		if (r == 0)
			r = each(user, &f, err);
	}
	return r < 0 ? r : sb_pg_rows(res);
}
