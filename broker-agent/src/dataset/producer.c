/* Producing a dataset: policy, permission, rows through the plan into a file without a name, sealed to the recipient, and only then anything leaves: the
 * transfer and the report commit together. Whatever goes wrong before, nothing of the data has left the stage and nothing readable stays: the plain
 * file is unlinked before its first byte is written, so a kill takes it away too. The dataset lane's thread.
 *
 *   ordered --(policy allows)--> accepted --(sealed, committed)--> produced        ordered, accepted --> refused | failed
 *
 * The transfer's id is chosen with the acceptance: a repeat after a kill overwrites the spool of the attempt before. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "dataset.h"
#include "stagebridge/clock.h"
#include "stagebridge/file.h"
#include "stagebridge/log.h"
#include "stagebridge/metric.h"

#define TRANSFER_LIFE_MS (INT64_C(7) * 86400 * 1000)
#define FLUSH_BYTES (256u * 1024)
#define OUT_MAX (1u << 31)       /* one row and what waits before it */
#define STOP_CHECK_ROWS 4096

struct run {
	struct agent *a;
	struct sb_db *db;
	const struct sb_lane *lane;
	const char *request, *dataset, *to;
	char state[16], transfer[SB_ID_LEN + 1];
	struct agent_policy policy;
	bool has_policy;
	struct agent_made made;
	char fingerprint[65];
	struct agent_refusal no;
};

/* --- where it stands --- */

static int load_row(struct run *run, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(run->db, &st, err, "SELECT state, transfer FROM dataset WHERE request = ? AND role = 'produce'", "s", run->request);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	if (r == 0)
		return sb_fail(err, SB_EPROTO, "no order stands behind this request");
	r = sb_format(run->state, sizeof(run->state), err, "%s", sb_db_text(st, 0));
	return r < 0 ? r : sb_format(run->transfer, sizeof(run->transfer), err, "%s", sb_db_text(st, 1));
}

static int report(struct run *run, const char *state, const char *code, const char *reason, struct sb_error *err)
{
	bool produced = strcmp(state, "produced") == 0;
	struct agent_dataset_report rep = { .request = run->request, .dataset = run->dataset, .state = state, .code = code, .reason = reason,
		.transfer = produced ? run->transfer : "", .policy_digest = run->has_policy ? run->policy.digest : "", .path = "",
		.rows = produced ? (int64_t)run->made.rows_out : 0 };

	return agent_dataset_report(run->a, run->db, &rep, err);
}

static int accept(struct run *run, struct sb_error *err)
{
	if (strcmp(run->state, "ordered") != 0)
		return 0; /* accepted before a kill */
	sb_id_new(run->transfer);
	int r = sb_db_begin(run->db, err);
	if (r == 0)
		r = sb_db_run(run->db, NULL, err, "UPDATE dataset SET transfer = ? WHERE request = ?", "ss", run->transfer, run->request);
	if (r == 0)
		r = report(run, "accepted", "", "", err);
	if (r == 0)
		r = sb_db_commit(run->db, err);
	if (r < 0) {
		sb_db_rollback(run->db);
		return r;
	}
	agent_wake_courier(run->a);
	sb_log(SB_INFO, "dataset_accepted", "request=%s dataset=%s to=%s policy=%s version=%s", run->request, run->dataset, run->to, run->policy.name, run->policy.version);
	return 0;
}

/* The sealed attempt, and what sealing leaves behind when it is killed. */
static int remove_spool(const struct run *run, struct sb_error *err)
{
	static const char *const suffix[] = { "", ".part" };
	char path[4096], whole[4104];

	if (!run->transfer[0])
		return 0;
	int r = agent_state_spool(path, sizeof(path), run->a, run->transfer, false, err);
	for (size_t i = 0; r == 0 && i < SB_COUNT(suffix); i++) {
		r = sb_format(whole, sizeof(whole), err, "%s%s", path, suffix[i]);
		if (r == 0 && unlink(whole) < 0 && errno != ENOENT)
			r = sb_fail_errno(err, errno, "spool of transfer %s", run->transfer);
	}
	return r;
}

/* --- rows --- */

struct sink {
	int fd;
	struct sb_buf buf;
	uint64_t bytes, max_bytes;
};

static int flush(struct sink *s, struct agent_refusal *no, struct sb_error *err)
{
	s->bytes += s->buf.len;
	if (s->bytes > s->max_bytes)
		return agent_refuse(no, err, "too_large", "the dataset is larger than the stage gives away (datasets.max_bytes, carrier.max_bytes)");
	int r = sb_write_all(s->fd, s->buf.data, s->buf.len, err);
	sb_buf_reset(&s->buf);
	return r;
}

static int pump(struct run *run, const struct agent_plan *plan, struct agent_feed *feed, struct sb_cell *cell, struct sink *sink, struct sb_error *err)
{
	uint64_t rows = 0;
	int r;

	agent_plan_header(plan, &sink->buf);
	while ((r = feed->ops->next(feed, cell, &run->no, err)) > 0) {
		if (++rows > (uint64_t)run->policy.limits.max_rows)
			return agent_refuse(&run->no, err, "too_large", "the source has more rows than the policy's limits.max_rows");
		r = agent_plan_row(plan, cell, &sink->buf, &run->no, err);
		if (r == 0 && sink->buf.failed)
			r = sb_buf_check(&sink->buf, "row", err);
		if (r == 0 && sink->buf.len >= FLUSH_BYTES)
			r = flush(sink, &run->no, err);
		if (r == 0 && rows % STOP_CHECK_ROWS == 0 && run->lane && sb_lane_stopping(run->lane))
			r = sb_fail(err, SB_ESHUTDOWN, "the agent stops");
		if (r < 0)
			return r;
	}
	if (r == 0 && rows < (uint64_t)run->policy.limits.min_rows)
		r = agent_refuse(&run->no, err, "too_small", "the source has fewer rows than the policy's limits.min_rows");
	if (r == 0)
		r = flush(sink, &run->no, err);
	run->made.rows_in = run->made.rows_out = rows;
	return r;
}

static int write_rows(struct run *run, const struct agent_plan *plan, struct agent_feed *feed, int fd, struct sb_error *err)
{
	sb_cleanup(sb_freep) struct sb_cell *cell = calloc(plan->n_wanted + 1u, sizeof(*cell));
	const struct agent_settings *set = &run->a->set;
	struct sink sink = { .fd = fd, .max_bytes = set->datasets.max_bytes < set->carrier.max_bytes ? set->datasets.max_bytes : set->carrier.max_bytes };

	if (!cell)
		return sb_fail_nomem(err);
	sb_buf_init(&sink.buf, OUT_MAX);
	int r = feed->ops->start(feed, plan->wanted, plan->n_wanted, &run->no, err);
	if (r == 0)
		r = pump(run, plan, feed, cell, &sink, err);
	sb_buf_release(&sink.buf);
	return r;
}

/* A file that has no name any more: only this descriptor leads to it. */
static int open_plain(const struct run *run, int *ret_fd, struct sb_error *err)
{
	char path[4096];

	int r = sb_format(path, sizeof(path), err, "%s/spool/%s.plain", run->a->set.state_dir, run->transfer);
	if (r < 0)
		return r;
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return sb_fail_errno(err, errno, "could not make a file in the spool folder");
	if (unlink(path) < 0) {
		r = sb_fail_errno(err, errno, "could not unlink the plain file of transfer %s", run->transfer);
		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

/* --- sealing --- */

static json_t *meta_json(const struct run *run, const struct agent_plan *plan)
{
	json_auto_t *columns = json_array(), *attestation = agent_attestation(&run->policy, plan, &run->made);

	for (unsigned i = 0; columns && i < plan->n_columns; i++) {
		if (json_array_append_new(columns, json_string(plan->column[i].bound.step.rule->name)) < 0)
			return NULL;
	}
	if (!columns || !attestation)
		return NULL;
	return json_pack("{s:s, s:s, s:s, s:O, s:O}", "request", run->request, "dataset", run->dataset, "format", "csv", "columns", columns, "attestation", attestation);
}

static int seal(struct run *run, const struct agent_plan *plan, int fd, struct sb_manifest *m, struct sb_error *err)
{
	const struct sb_key *key = sb_keyring_party(run->a->keyring, run->a->set.tenant, run->to, sb_wall_ms());
	char plain[64], spool[4096];

	if (!key)
		return agent_refuse(&run->no, err, "no_key", "the keyring holds no valid key of the stage that asked");
	run->made.at_ms = sb_wall_ms();
	memcpy(m->transfer, run->transfer, sizeof(m->transfer));
	m->expires_ms = run->made.at_ms + TRANSFER_LIFE_MS;
	m->meta = meta_json(run, plan);
	if (!m->meta)
		return sb_fail_nomem(err);
	int r = sb_format(m->kind, sizeof(m->kind), err, "dataset");
	if (r == 0)
		r = sb_format(m->from, sizeof(m->from), err, "%s", run->a->set.stage);
	if (r == 0)
		r = sb_format(m->to, sizeof(m->to), err, "%s", run->to);
	if (r == 0)
		r = sb_format(plain, sizeof(plain), err, "/proc/self/fd/%d", fd);
	if (r == 0)
		r = agent_state_spool(spool, sizeof(spool), run->a, run->transfer, false, err);
	return r < 0 ? r : sb_carrier_seal(m, plain, spool, key, err);
}

static int make(struct run *run, struct sb_manifest *m, struct sb_error *err)
{
	const struct agent_audience to = { .tenant = run->a->set.tenant, .dataset = run->dataset, .recipient = run->to, .root_file = run->a->set.datasets.secret };
	sb_cleanup(sb_closep) int fd = -1;
	struct agent_feed *feed = NULL;
	struct agent_plan plan = { .column = NULL };

	int r = agent_feed_open(&feed, &run->policy, &run->no, err);
	if (r == 0)
		r = agent_plan_make(&plan, &run->policy, feed, &to, &run->no, err);
	if (r == 0) {
		agent_feed_fingerprint(feed, run->fingerprint);
		run->made.fingerprint = run->fingerprint;
		r = open_plain(run, &fd, err);
	}
	if (r == 0)
		r = write_rows(run, &plan, feed, fd, err);
	agent_feed_close(feed); /* the source is not held while it is sealed */
	if (r == 0)
		r = seal(run, &plan, fd, m, err);
	agent_plan_release(&plan);
	return r;
}

static int commit(struct run *run, const struct sb_manifest *m, struct sb_error *err)
{
	int r = sb_db_begin(run->db, err);

	if (r == 0)
		r = agent_transfer_send(run->a, run->db, m, err);
	if (r == 0)
		r = report(run, "produced", "", "", err);
	if (r == 0)
		r = sb_db_commit(run->db, err);
	if (r < 0)
		sb_db_rollback(run->db);
	else
		agent_wake_courier(run->a);
	return r;
}

/* --- refusals --- */

static int end_badly(struct run *run, const char *state, const char *code, const char *reason, struct sb_error *err)
{
	/* first, so that a kill between repeats it */
	int r = remove_spool(run, err);
	if (r == 0)
		r = sb_db_begin(run->db, err);
	if (r == 0)
		r = report(run, state, code, reason, err);
	if (r == 0)
		r = sb_db_commit(run->db, err);
	if (r < 0)
		sb_db_rollback(run->db);
	else
		agent_wake_courier(run->a);
	return r;
}

/* Refusals are told with their reason, other ends without: what the agent stumbled over is for its own log. */
static int conclude(struct run *run, int result, const struct sb_error *why, struct sb_error *err)
{
	if (result == 0) {
		sb_metric_add(sb_metric("stagebridge_dataset_rows_total", SB_COUNTER, NULL, "Rows of datasets produced"), NULL, (double)run->made.rows_out);
		sb_log(SB_INFO, "dataset_produced", "request=%s dataset=%s to=%s transfer=%s rows=%" PRIu64 " policy_digest=%.16s", run->request, run->dataset, run->to,
			run->transfer, run->made.rows_out, run->policy.digest);
		return 0;
	}
	if (why->retriable) {
		*err = *why;
		return result;
	}
	bool refused = result == SB_EREFUSED && run->no.code;
	sb_log_error(refused ? SB_WARN : SB_ERROR, refused ? "dataset_refused" : "dataset_failed", why, "request=%s dataset=%s to=%s", run->request, run->dataset, run->to);
	return end_badly(run, refused ? "refused" : "failed", refused ? run->no.code : "internal",
		refused ? run->no.reason : "the stage's agent could not produce the dataset; its log says why", err);
}

static int load_policy(struct run *run, struct sb_error *err)
{
	const char *folder = run->a->set.datasets.policies;
	struct sb_error why = SB_ERROR_INIT;

	int r = folder && *folder ? agent_policy_load(&run->policy, folder, run->dataset, &why) : SB_ENOTFOUND;
	if (r == SB_ENOTFOUND)
		return agent_refuse(&run->no, err, "no_policy", "the stage has no policy for this dataset");
	if (r == SB_ECONFIG)
		return agent_refuse(&run->no, err, "bad_policy", "%s", why.msg);
	if (r < 0) {
		*err = why;
		return r;
	}
	run->has_policy = true;
	if (!agent_policy_allows(&run->policy, run->to))
		return agent_refuse(&run->no, err, "recipient", "the policy does not name stage %s among its recipients", run->to);
	return 0;
}

/* Trouble with the agent's own state is not the dataset's: it goes to the caller and decides nothing. */
static int carry_out(struct run *run, struct sb_manifest *m, struct sb_error *err)
{
	struct sb_error why = SB_ERROR_INIT;

	int result = load_policy(run, &why);
	if (result == 0) {
		int r = accept(run, err);
		if (r < 0)
			return r;
		result = make(run, m, &why);
	}
	if (result == 0) {
		int r = commit(run, m, err);
		if (r < 0)
			return r;
	}
	return conclude(run, result, &why, err);
}

int agent_dataset_produce(struct agent *a, struct sb_db *db, const struct sb_lane *lane, const char *request, const json_t *order, struct sb_error *err)
{
	struct run run = { .a = a, .db = db, .lane = lane, .request = request };
	struct sb_manifest m = { .meta = NULL };

	run.dataset = json_string_value(json_object_get(order, "dataset"));
	run.to = json_string_value(json_object_get(order, "to"));
	if (!run.dataset || !sb_type_ok(run.dataset) || !run.to || !sb_name_ok(run.to))
		return sb_fail(err, SB_EPROTO, "the order names no dataset or no stage");
	int r = load_row(&run, err);
	if (r < 0)
		return r;
	if (strcmp(run.state, "ordered") != 0 && strcmp(run.state, "accepted") != 0)
		return 0; /* done before a kill */
	r = carry_out(&run, &m, err);
	sb_manifest_release(&m);
	if (run.has_policy)
		agent_policy_release(&run.policy);
	return r;
}
