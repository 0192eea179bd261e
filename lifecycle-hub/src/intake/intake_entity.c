/* Entity records: ownership, order, continuity, then the rows. The intake lane's thread.
 *
 * Order has two sides. Within a session the sequence and the chain say whether a record is missing; across sessions (an agent that was
 * killed reads its source again and cuts other batches) the positions [from, to) do. A hole is answered by a resync order, and what comes
 * after the hole is applied all the same: it is newer than anything stored, versions make that safe, and the snapshot of the resync mends
 * what lies before. Until then sb.stream.gap_at is set and the views say so. */
#include <inttypes.h>
#include <string.h>

#include "intake.h"
#include "ownership.h"
#include "stagebridge/clock.h"
#include "stagebridge/described.h"
#include "stagebridge/log.h"
#include "store/store.h"

#define ATTR_FROM "sbfrom"
#define ATTR_TO   "sbto"
#define ATTR_COMMIT "sbcommit"

struct entity_job {
	struct intake *in;
	const struct sb_meta *meta;
	struct hub_entity what;
	struct intake_stream *stream;
	bool covers; /* the record names the positions that it covers */
	struct sb_position from, to;
	uint64_t incarnation;
};

static int refuse(struct entity_job *job, const char *class, const char *reason, struct sb_error *err)
{
	struct hub_refusal why = { .stage = job->in->stage->name, .class = class, .reason = reason, .type = job->what.type };

	return hub_quarantine(job->in->pg, job->in->now, &why, err);
}

int intake_resync(struct intake *in, const char *type, const char *reason, bool again, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { in->stage->name, type, again ? "t" : "f" };

	/* a hole shows in many records at once, and one snapshot mends them all */
	int r = sb_pg_exec(in->pg,
		"INSERT INTO lifecycle.entity_type AS e (stage, type, owner, resync_at) VALUES ($1, $2, $1, now()) "
		"ON CONFLICT (stage, type) DO UPDATE SET resync_at = now() "
		"WHERE $3::boolean OR e.resync_at IS NULL OR e.resync_at < now() - interval '60 s'",
		3, param, &res, err);
	if (r < 0 || sb_pg_affected(res) == 0)
		return r;
	in->wake_courier = true;
	return hub_resync_put(in->w, in->pg, in->stage->name, &(struct hub_resync){ .type = type, .reason = reason, .asked = "" }, err);
}

/* A hole in the stream: kept on record, the type's owner is asked to send everything again */
static int on_gap(struct entity_job *job, const char *reason, struct sb_error *err)
{
	struct intake *in = job->in;
	const char *mark[] = { job->meta->source, in->stage->name };
	const char *broken[] = { in->stage->name, job->what.type };
	struct hub_refusal why = { .stage = in->stage->name, .class = "gap", .reason = reason, .type = job->what.type };

	int r = hub_quarantine_offset(in->pg, in->now->rec.topic, in->now->offset, &why, err);
	if (r == 0 && job->what.snapshot && !job->what.down)
		r = sb_pg_exec(in->pg,
			"UPDATE lifecycle.entity_type SET snapshot_state = 'broken' WHERE stage = $1 AND type = $2 AND snapshot_state = "
			"'running'",
			2, broken, NULL, err);
	else if (r == 0)
		r = sb_pg_exec(in->pg,
			"INSERT INTO sb.stream (source, stage, session, sequence, prev, gap_at) VALUES ($1, $2, 0, 0, '', "
			"clock_timestamp()) "
			"ON CONFLICT (source) DO UPDATE SET gap_at = clock_timestamp()",
			2, mark, NULL, err);
	/* a snapshot with a hole is ordered again when it ends: an order that comes while it runs could be taken for the one that it
	 * answers */
	if (r == 0 && !job->what.snapshot)
		r = intake_resync(in, job->what.type, reason, false, err);
	return r;
}

static int read_positions(struct entity_job *job, struct sb_error *err)
{
	const char *from = sb_record_get(&job->in->now->rec, ATTR_FROM);
	const char *to = sb_record_get(&job->in->now->rec, ATTR_TO);

	job->covers = from && to && job->meta->event == SB_EV_ENTITY_CHANGED;
	if (!job->covers)
		return 0;
	int r = sb_position_parse(from, &job->from, err);
	if (r == 0)
		r = sb_position_parse(to, &job->to, err);
	if (r == 0 && sb_position_cmp(job->to, job->from) < 0)
		r = sb_fail(err, SB_EPROTO, "positions run backwards: from %s to %s", from, to);
	return r;
}

/* True when changes before this record are missing. Only what names its positions can be judged. */
static bool positions_gap(const struct entity_job *job)
{
	const struct intake_stream *s = job->stream;

	if (!job->covers || !s->known || job->incarnation > s->incarnation)
		return false; /* nothing to compare with, or a new life of the source: a snapshot follows */
	if (s->position.lsn == 0 && s->position.seq == 0)
		return false;
	/* after a restart the agent may begin before what we have: versions drop the repeats */
	return sb_position_cmp(job->from, s->position) > 0;
}

static int on_row_refused(void *user, const struct sb_shape *shape, const struct sb_change *c, const struct sb_error *reason)
{
	struct entity_job *job = user;
	struct sb_error err = SB_ERROR_INIT;
	char key[33];
	struct hub_refusal why = {
		.stage = job->in->stage->name, .class = "row", .reason = reason->msg, .type = job->what.type, .key = key
	};

	hub_key_hash(key, shape, c);
	return hub_quarantine(job->in->pg, job->in->now, &why, &err);
}

/* For types with history: changes hold since their commit; of sources that do not tell it, since the record was signed */
static int tell_when(struct entity_job *job, struct sb_error *err)
{
	const char *committed = sb_record_get(&job->in->now->rec, ATTR_COMMIT);
	struct sb_entity_when when = { .ms = job->meta->time_ms, .incarnation = job->incarnation, .until = job->to, .snapshot = job->what.snapshot };

	if (committed && !sb_time_parse(committed, &when.ms))
		return sb_fail(err, SB_EPROTO, "%s is not a time", ATTR_COMMIT);
	sb_entity_when(job->in->tables, &when);
	return 0;
}

static int tables_of(struct intake *in, struct sb_error *err)
{
	return in->tables ? 0 : sb_entity_tables_new(&in->tables, in->pg, in->stage->name, in->stage->name, err);
}

static int apply(struct entity_job *job, struct sb_error *err)
{
	struct intake *in = job->in;
	struct sb_apply_stats stats = { 0 };
	struct sb_position done = { 0, 0 };

	if (job->meta->event == SB_EV_ENTITY_CHANGED && job->stream->known && job->incarnation == job->stream->incarnation)
		done = job->stream->position;
	int r = tables_of(in, err);
	if (r == 0)
		r = tell_when(job, err);
	if (r == 0)
		r = sb_entity_apply(in->tables, in->now->rec.value, in->now->rec.value_len, done, on_row_refused, job, &stats, err);
	if (r == 0)
		intake_count_rows(in, job->what.type, stats.applied);
	return r;
}

/* For people: what the views lifecycle.entity_column and lifecycle.freshness say of the type */
static int describe_for_people(struct entity_job *job, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *text = json_dumps(job->what.body, JSON_COMPACT);
	const char *param[] = { job->in->stage->name, job->what.type, text };

	if (!text)
		return sb_fail_nomem(err);
	return sb_pg_exec(job->in->pg,
		"INSERT INTO lifecycle.entity_description (stage, type, described) VALUES ($1, $2, $3::jsonb) "
		"ON CONFLICT (stage, type) DO UPDATE SET described = excluded.described, at = now()",
		3, param, NULL, err);
}

static int described(struct entity_job *job, struct sb_error *err)
{
	struct intake *in = job->in;
	bool news = false;

	int r = sb_described_check(job->what.body, err);
	if (r == 0)
		r = tables_of(in, err);
	if (r == 0)
		r = sb_entity_describe(in->tables, job->what.body, &news, err);
	if (r == 0 && news)
		r = describe_for_people(job, err);
	return r;
}

/* A snapshot that goes on after a break of its sender names the last record that it builds upon: that, and all before it, must be here. In
 * the order of sessions: a begun that was lost itself shows as a gap. */
static int goes_on(struct entity_job *job, bool *ret_new, bool *ret_whole, struct sb_error *err)
{
	const struct intake_stream *s = job->stream;
	int64_t session = 0, sequence = 0;

	int r = intake_number(job->what.body, "after_session", &session, err);
	if (r == 0)
		r = intake_number(job->what.body, "after_sequence", &sequence, err);
	if (r < 0)
		return r;
	*ret_new = session == 0;
	*ret_whole = *ret_new || (s->known && (s->in.session > (uint64_t)session || (s->in.session == (uint64_t)session && s->in.sequence >= (uint64_t)sequence)));
	return 0;
}

static int begun(struct entity_job *job, struct sb_error *err)
{
	struct intake *in = job->in;
	struct intake_field f[] = { { "snapshot", 64, false, NULL }, { "reason", 200, true, NULL } };
	bool is_new = true, whole = true;

	int r = tables_of(in, err);
	if (r == 0)
		r = intake_fields(job->what.body, f, SB_COUNT(f), err);
	if (r == 0)
		r = tell_when(job, err);
	if (r == 0)
		r = goes_on(job, &is_new, &whole, err);
	if (r == 0)
		r = sb_entity_snapshot_begun(in->tables, job->what.type, err);
	if (r < 0)
		return r;
	const char *param[] = { in->stage->name, job->what.type, f[0].value, is_new ? "t" : "f", whole ? "t" : "f" };
	bool partial = json_is_true(json_object_get(job->what.body, "partial"));
	sb_log(whole ? SB_INFO : SB_WARN, "snapshot_begun", "stage=%s type=%s snapshot=%s reason=%s partial=%d resumed=%d whole=%d", in->stage->name, job->what.type,
		f[0].value, f[1].value, partial, !is_new, whole);
	if (partial)
		return 0; /* the last whole one still says how complete the view is */
	/* what goes on keeps the time of its first begun: what went missing since then is not in its first ranges */
	return sb_pg_exec(in->pg,
		"INSERT INTO lifecycle.entity_type AS e (stage, type, owner, snapshot_state, snapshot, snapshot_at) VALUES ($1, $2, $1, "
		"CASE WHEN $4::boolean THEN 'running' ELSE 'broken' END, $3, clock_timestamp()) "
		"ON CONFLICT (stage, type) DO UPDATE SET snapshot = excluded.snapshot, "
		"snapshot_state = CASE WHEN $4::boolean OR ($5::boolean AND e.snapshot = $3 AND e.snapshot_state = 'running') THEN 'running' ELSE 'broken' END, "
		"snapshot_at = CASE WHEN $4::boolean OR e.snapshot <> $3 OR e.snapshot_at IS NULL THEN excluded.snapshot_at ELSE e.snapshot_at END",
		5, param, NULL, err);
}

/* Sweeping deletes what the snapshot did not name: only a snapshot that arrived whole may do that */
static int snapshot_whole(struct entity_job *job, const char *snapshot, bool *ret, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { job->in->stage->name, job->what.type, snapshot };

	int r = sb_pg_exec(job->in->pg,
		"SELECT 1 FROM lifecycle.entity_type WHERE stage = $1 AND type = $2 AND snapshot = $3 AND snapshot_state = 'running'", 3,
		param, &res, err);
	if (r == 0)
		*ret = sb_pg_rows(res) == 1;
	return r;
}

/* It was partial, or was given up: nothing is removed, and what is known to be missing stays so */
static int ended_incomplete(struct entity_job *job, const char *snapshot, struct sb_error *err)
{
	struct intake *in = job->in;
	const char *param[] = { in->stage->name, job->what.type, snapshot };

	int r = tables_of(in, err);
	if (r == 0)
		r = sb_entity_snapshot_ended(in->tables, job->what.type, 0, 0, NULL, err);
	if (r == 0)
		r = sb_pg_exec(in->pg,
			"UPDATE lifecycle.entity_type SET snapshot_state = 'incomplete' WHERE stage = $1 AND type = $2 AND snapshot = $3", 3, param,
			NULL, err);
	if (r == 0)
		sb_log(SB_INFO, "snapshot_ended", "stage=%s type=%s snapshot=%s complete=0", in->stage->name, job->what.type, snapshot);
	return r;
}

static int ended_whole(struct entity_job *job, const char *snapshot, int64_t incarnation, uint64_t lsn, struct sb_error *err)
{
	struct intake *in = job->in;
	uint64_t swept = 0;

	int r = tables_of(in, err);
	if (r == 0)
		r = tell_when(job, err);
	if (r == 0)
		r = sb_entity_snapshot_ended(in->tables, job->what.type, (uint64_t)incarnation, lsn, &swept, err);
	const char *param[] = { in->stage->name, job->what.type };
	/* what was missing before the snapshot began is in it */
	if (r == 0)
		r = sb_pg_exec(in->pg,
			"WITH done AS (UPDATE lifecycle.entity_type SET snapshot_state = 'done' "
			"WHERE stage = $1 AND type = $2 RETURNING snapshot_at) "
			"UPDATE sb.stream s SET gap_at = NULL FROM done WHERE s.stage = $1 "
			"AND split_part(s.source, '/agent/', 2) = 'entity/' || $2 AND s.gap_at < done.snapshot_at",
			2, param, NULL, err);
	if (r == 0)
		sb_log(SB_INFO, "snapshot_ended", "stage=%s type=%s snapshot=%s complete=1 swept=%" PRIu64, in->stage->name, job->what.type, snapshot, swept);
	return r;
}

static int ended(struct entity_job *job, struct sb_error *err)
{
	struct intake_field f[] = { { "snapshot", 64, false, NULL }, { "lsn", 20, false, NULL } };
	const json_t *complete = json_object_get(job->what.body, "complete");
	int64_t incarnation = 0;
	uint64_t lsn = 0;
	bool whole = false;

	int r = json_is_boolean(complete) ? 0 : sb_fail(err, SB_EPROTO, "\"complete\" is not true or false");
	if (r == 0)
		r = intake_fields(job->what.body, f, SB_COUNT(f), err);
	if (r == 0)
		r = intake_number(job->what.body, "incarnation", &incarnation, err);
	if (r == 0)
		r = sb_lsn_parse(f[1].value, &lsn, err);
	if (r == 0)
		r = snapshot_whole(job, f[0].value, &whole, err);
	if (r < 0)
		return r;
	if (json_is_false(complete))
		return ended_incomplete(job, f[0].value, err);
	if (!whole)
		return intake_resync(job->in, job->what.type, "a snapshot ended of which records are missing", true, err);
	return ended_whole(job, f[0].value, incarnation, lsn, err);
}

static void advance(struct entity_job *job)
{
	struct intake_stream *s = job->stream;

	sb_stream_advance(&s->in, job->meta);
	if (job->covers && (!s->known || job->incarnation != s->incarnation || sb_position_cmp(job->to, s->position) > 0))
		s->position = job->to;
	if (job->incarnation)
		s->incarnation = job->incarnation;
	s->known = true;
	s->dirty = true;
}

/* A "public" stream is for earlier stages: the relay forwards it, and the view has the same rows whole. What is lost of it is mended here all the same, since
 * only the hub orders resyncs: gap_at of the snapshot's stream says that its end would not be that of a whole one. */
static int down_marker(struct entity_job *job, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	struct intake *in = job->in;
	const char *stream[] = { job->meta->source };
	const char *mended[] = { in->stage->name, job->what.type };

	if (job->meta->event == SB_EV_SNAPSHOT_BEGUN)
		return sb_pg_exec(in->pg, "UPDATE sb.stream SET gap_at = NULL WHERE source = $1", 1, stream, NULL, err);
	int r = sb_pg_exec(in->pg, "SELECT 1 FROM sb.stream WHERE source = $1 AND gap_at IS NOT NULL", 1, stream, &res, err);
	if (r < 0)
		return r;
	if (sb_pg_rows(res) > 0)
		return intake_resync(in, job->what.type, "a snapshot for earlier stages ended of which records are missing", true, err);
	return sb_pg_exec(in->pg,
		"UPDATE sb.stream s SET gap_at = NULL FROM lifecycle.entity_type t WHERE t.stage = $1 AND t.type = $2 AND s.stage = $1 "
		"AND split_part(s.source, '/agent/', 2) = 'public/' || $2 AND s.gap_at < t.snapshot_at",
		2, mended, NULL, err);
}

static int effects(void *user, struct sb_error *err)
{
	struct entity_job *job = user;
	bool marker = job->meta->event == SB_EV_SNAPSHOT_BEGUN || job->meta->event == SB_EV_SNAPSHOT_ENDED;

	if (job->what.down)
		return marker ? down_marker(job, err) : 0;
	if (job->meta->event == SB_EV_ENTITY_DESCRIBED)
		return described(job, err);
	if (job->meta->event == SB_EV_SNAPSHOT_BEGUN)
		return begun(job, err);
	if (job->meta->event == SB_EV_SNAPSHOT_ENDED)
		return ended(job, err);
	return apply(job, err);
}

/* What the order of the stream lets through. A hole is recorded first, outside the savepoint of the effects: it stays on record when they
 * fail */
static int go(struct entity_job *job, enum sb_verdict verdict, struct sb_error *err)
{
	int r = 0;

	if (verdict == SB_GAP)
		r = on_gap(job, "records of this stream are missing", err);
	else if (positions_gap(job))
		r = on_gap(job, "changes of the source are missing between two sessions", err);
	if (r == 0)
		r = intake_try(job->in, job->what.type, effects, job, err);
	/* a record that was refused keeps its place in the stream: the next one follows it */
	if (r == 0)
		advance(job);
	return r;
}

static int judge_order(struct entity_job *job, struct sb_error *err)
{
	struct intake *in = job->in;
	bool batch = job->meta->event == SB_EV_ENTITY_CHANGED || job->meta->event == SB_EV_SNAPSHOT_ROWS;

	int r = intake_stream_get(in, job->meta->source, &job->stream, err);
	if (r < 0)
		return r;
	enum sb_verdict verdict = sb_stream_judge(job->stream->known ? &job->stream->in : NULL, job->meta);
	if (verdict == SB_DUPLICATE) {
		sb_metric_add(in->m_duplicates, in->label, 1);
		return 0;
	}
	if (verdict == SB_ZOMBIE)
		return refuse(job, "zombie", "an older session of this stream speaks", err);
	if (verdict == SB_EQUIVOCATION) {
		r = hub_audit(in->pg, in->stage->name, "equivocation", job->meta->source, NULL, NULL,
			"two records with the same place in the stream", err);
		return r < 0 ? r : refuse(job, "equivocation", "another record has this place in the stream", err);
	}
	r = read_positions(job, err);
	if (r == 0 && batch)
		job->incarnation = job->what.incarnation;
	if (r == 0 && batch && job->stream->known && job->incarnation < job->stream->incarnation)
		return refuse(job, "zombie", "an older incarnation of the source speaks", err);
	return r < 0 ? r : go(job, verdict, err);
}

/* What is refused for its type keeps its place in the stream: else the stage would count as behind for ever */
static int keep_place(struct entity_job *job, struct sb_error *err)
{
	int r = intake_stream_get(job->in, job->meta->source, &job->stream, err);

	if (r < 0)
		return r;
	switch (sb_stream_judge(job->stream->known ? &job->stream->in : NULL, job->meta)) {
	case SB_APPLY:
	case SB_NEW_SESSION:
	case SB_GAP:
		advance(job);
		break;
	case SB_DUPLICATE:
	case SB_ZOMBIE:
	case SB_EQUIVOCATION:
		break;
	}
	return 0;
}

static int owned_again(struct intake *in, const char *type, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	const char *param[] = { in->stage->name, type };

	int r = sb_pg_exec(in->pg,
		"SELECT 1 FROM lifecycle.quarantine q WHERE q.stage = $1 AND q.type = $2 AND q.class = 'not-owned' AND NOT EXISTS (SELECT 1 FROM "
		"lifecycle.entity_type t WHERE t.stage = q.stage AND t.type = q.type AND greatest(t.snapshot_at, t.resync_at) > q.at) LIMIT 1",
		2, param, &res, err);
	if (r < 0 || sb_pg_rows(res) == 0)
		return r;
	return intake_resync(in, type, "it was refused before and is owned now", false, err);
}

int intake_owned_again(struct intake *in, struct sb_error *err)
{
	const struct hub_type *type = in->w->set->types.item;
	int r = 0;

	for (size_t i = 0; r == 0 && i < in->w->set->types.count; i++) {
		if (strcmp(type[i].owner, in->stage->name) == 0)
			r = owned_again(in, type[i].type, err);
	}
	return r;
}

int intake_entity(struct intake *in, const struct sb_meta *meta, struct sb_error *err)
{
	struct entity_job job = { .in = in, .meta = meta };

	int r = hub_entity_judge(&job.what, in->w->set, &in->now->rec, meta, err);
	if (r == SB_EREFUSED) {
		r = refuse(&job, "not-owned", err->msg, err);
		if (r == 0)
			r = hub_audit(in->pg, in->stage->name, "ownership-violation", job.what.type, NULL, NULL,
				"a change of a type that the stage does not own was refused", err);
		if (r == 0)
			r = keep_place(&job, err);
		return r;
	}
	if (r == 0)
		r = judge_order(&job, err);
	hub_entity_release(&job.what);
	return r;
}
