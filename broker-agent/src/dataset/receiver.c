/* Taking in a dataset: opened, checked and placed by one rename into <inbox>/<dataset>-<request>/, so that whoever reads the folder sees it whole or not at
 * all. Only what this stage asked for, from the stage that it asked, is opened; a transfer that names somebody else's request does nothing to
 * that request. The folder's place tells a repeat after a kill that it was placed. The dataset lane's thread.
 *
 *   transfer complete --(placed, committed)--> done, dataset delivered        complete --(refused)--> failed, dataset failed when it is its own
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "csv_out.h"
#include "dataset.h"
#include "stagebridge/file.h"
#include "stagebridge/log.h"

#define HEADER_MAX (1u << 20)
#define ATTESTATION_MAX (4u << 20)

struct arrival {
	struct agent *a;
	struct sb_db *db;
	const char *transfer;
	struct sb_manifest m;
	/* borrowed from the manifest's meta, checked */
	const char *request, *dataset, *policy_digest;
	const json_t *columns, *attestation;
	uint64_t rows;
	char path[4096];               /* where it is placed */
	bool ours;                     /* it answers our request: its failure is the request's */
};

/* --- who asked for it --- */

/* The state of the transfer's row; "" when it has none. The manifest only while there is something to do. */
static int load_transfer(struct arrival *v, char state[16], struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;
	json_auto_t *json = NULL;

	int r = sb_db_query(v->db, &st, err, "SELECT state, manifest FROM transfer_in WHERE id = ?", "s", v->transfer);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	r = sb_format(state, 16, err, "%s", r ? sb_db_text(st, 0) : "");
	if (r < 0 || strcmp(state, "complete") != 0)
		return r;
	json = json_loads(sb_db_text(st, 1), JSON_REJECT_DUPLICATES, NULL);
	if (!json)
		return sb_fail(err, SB_EDATA, "stored manifest of transfer %s cannot be read", v->transfer);
	return sb_manifest_parse(&v->m, json, UINT64_MAX, err);
}

static int read_meta(struct arrival *v, struct sb_error *err)
{
	const json_t *meta = v->m.meta, *rows;
	const char *format = json_string_value(json_object_get(meta, "format"));

	v->request = json_string_value(json_object_get(meta, "request"));
	v->dataset = json_string_value(json_object_get(meta, "dataset"));
	v->columns = json_object_get(meta, "columns");
	v->attestation = json_object_get(meta, "attestation");
	rows = json_object_get(v->attestation, "rows_out");
	v->policy_digest = json_string_value(json_object_get(v->attestation, "policy_digest"));
	if (strcmp(v->m.kind, "dataset") != 0 || !v->request || !sb_id_ok(v->request) || !v->dataset || !sb_type_ok(v->dataset))
		return sb_fail(err, SB_EPROTO, "the manifest names no request or no dataset");
	if (!format || strcmp(format, "csv") != 0 || !json_is_array(v->columns) || json_array_size(v->columns) == 0)
		return sb_fail(err, SB_EPROTO, "the manifest names another format than csv, or no columns");
	if (!json_is_integer(rows) || json_integer_value(rows) < 0 || !v->policy_digest || !sb_hex_ok(v->policy_digest, 64))
		return sb_fail(err, SB_EPROTO, "the manifest has no attestation");
	v->rows = (uint64_t)json_integer_value(rows);
	return 0;
}

/* Whether the request is ours and open, and asks for this of that stage. */
static int match_request(struct arrival *v, struct sb_error *err)
{
	sb_cleanup(sb_db_donep) struct sb_stmt *st = NULL;

	int r = sb_db_query(v->db, &st, err, "SELECT peer, dataset, state FROM dataset WHERE request = ? AND role = 'receive'", "s", v->request);
	if (r == 0)
		r = sb_db_step(st, err);
	if (r < 0)
		return r;
	if (r == 0)
		return sb_fail(err, SB_EREFUSED, "request %s is not one of this stage", v->request);
	if (strcmp(sb_db_text(st, 0), v->m.from) != 0)
		return sb_fail(err, SB_EREFUSED, "request %s asked stage %s, not %s", v->request, sb_db_text(st, 0), v->m.from);
	const char *state = sb_db_text(st, 2);
	if (strcmp(state, "delivered") == 0 || strcmp(state, "failed") == 0 || strcmp(state, "refused") == 0)
		return sb_fail(err, SB_EREFUSED, "request %s is %s already", v->request, state);
	v->ours = true;
	if (strcmp(sb_db_text(st, 1), v->dataset) != 0)
		return sb_fail(err, SB_EREFUSED, "request %s asked for another dataset", v->request);
	return 0;
}

/* --- placing --- */

/* What goes beside the data. The same bytes whenever it is written. Returns new. */
static char *attestation_text(const struct arrival *v)
{
	json_auto_t *all = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:O, s:O}", "request", v->request, "dataset", v->dataset, "from", v->m.from, "transfer", v->transfer,
		"format", "csv", "data_sha256", v->m.plain_sha256, "columns", v->columns, "attestation", v->attestation);

	return all ? json_dumps(all, JSON_INDENT(2) | JSON_SORT_KEYS) : NULL;
}

static int check_data(const struct arrival *v, const char *file, struct sb_error *err)
{
	sb_cleanup(sb_buf_release) struct sb_buf header;
	json_t *name;
	size_t i;

	sb_buf_init(&header, HEADER_MAX);
	json_array_foreach((json_t *)(uintptr_t)v->columns, i, name) { /* the macro takes no const but does not write */
		if (!json_is_string(name))
			return sb_fail(err, SB_EPROTO, "the manifest's columns are not names");
		if (i)
			sb_buf_addc(&header, ',');
		agent_csv_cell(&header, json_string_value(name), json_string_length(name));
	}
	sb_buf_addc(&header, '\n');
	int r = sb_buf_check(&header, "header", err);
	return r < 0 ? r : agent_csv_check(file, &header, v->rows, err);
}

static int write_folder(const struct arrival *v, const char *dir, struct sb_error *err)
{
	const struct agent_settings *set = &v->a->set;
	uint64_t most = set->datasets.max_bytes < set->carrier.max_bytes ? set->datasets.max_bytes : set->carrier.max_bytes;
	sb_cleanup(sb_freep) char *text = attestation_text(v);
	char data[4200], attestation[4200], spool[4096];

	if (!text)
		return sb_fail_nomem(err);
	int r = sb_format(data, sizeof(data), err, "%s/data.csv", dir);
	if (r == 0)
		r = sb_format(attestation, sizeof(attestation), err, "%s/attestation.json", dir);
	if (r == 0)
		r = agent_state_spool(spool, sizeof(spool), v->a, v->transfer, true, err);
	if (r == 0)
		r = sb_carrier_open(&v->m, spool, data, most, v->a->identity, err);
	if (r == 0)
		r = check_data(v, data, err);
	if (r == 0)
		r = sb_file_write(attestation, text, strlen(text), 0640, err);
	/* for the group of the folder: who may use datasets is its owner's choice */
	if (r == 0 && (chmod(data, 0640) < 0 || chmod(dir, 0750) < 0))
		r = sb_fail_errno(err, errno, "could not set the mode of what arrived");
	return r < 0 ? r : sb_dir_sync(dir, err);
}

static int place(const struct arrival *v, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *tmp = sb_asprintf("%s/.tmp", v->a->set.datasets.inbox);
	sb_cleanup(sb_freep) char *dir = sb_asprintf("%s/.tmp/%s", v->a->set.datasets.inbox, v->request);
	struct sb_error left = SB_ERROR_INIT;

	if (!tmp || !dir)
		return sb_fail_nomem(err);
	int r = sb_dir_make(v->a->set.datasets.inbox, 0750, err);
	if (r == 0)
		r = sb_dir_make(tmp, 0700, err);
	if (r == 0)
		r = sb_dir_remove(dir, err); /* of an attempt that was killed */
	if (r == 0)
		r = sb_dir_make(dir, 0700, err);
	if (r == 0)
		r = write_folder(v, dir, err);
	if (r == 0 && rename(dir, v->path) < 0)
		r = sb_fail_errno(err, errno, "could not put \"%s\" in place", v->path);
	if (r == 0)
		return sb_dir_sync(v->a->set.datasets.inbox, err);
	/* the first error counts; what stays is removed at the lane's next start */
	if (sb_dir_remove(dir, &left) < 0)
		sb_log_error(SB_ERROR, "dataset_left_behind", &left, "request=%s", v->request);
	return r;
}

/* Placed before a kill: by this transfer, or the place is taken. 1: yes, 0: nothing is there. */
static int placed(const struct arrival *v, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *file = sb_asprintf("%s/attestation.json", v->path);
	sb_cleanup(sb_freep) char *found = NULL, *expected = attestation_text(v);
	struct stat st;

	if (!file || !expected)
		return sb_fail_nomem(err);
	if (lstat(v->path, &st) < 0)
		return errno == ENOENT ? 0 : sb_fail_errno(err, errno, "could not look at \"%s\"", v->path);
	int r = sb_file_read(file, ATTESTATION_MAX, &found, NULL, err);
	if (r < 0 && r != SB_ENOTFOUND)
		return r;
	return found && strcmp(found, expected) == 0 ? 1 : sb_fail(err, SB_ECONFLICT, "\"%s\" is there and holds something else", v->path);
}

static int take(struct arrival *v, struct sb_error *err)
{
	const char *inbox = v->a->set.datasets.inbox;

	int r = read_meta(v, err);
	if (r == 0)
		r = match_request(v, err);
	if (r == 0 && (!inbox || !*inbox))
		r = sb_fail(err, SB_EREFUSED, "this stage has no folder for datasets (datasets.inbox)");
	if (r == 0)
		r = sb_format(v->path, sizeof(v->path), err, "%s/%s-%s", inbox, v->dataset, v->request);
	if (r == 0)
		r = placed(v, err);
	return r == 0 ? place(v, err) : r < 0 ? r : 0;
}

/* --- ends --- */

static int report(struct arrival *v, bool delivered, const struct sb_error *why, struct sb_error *err)
{
	struct sb_error tidy = *why;
	struct agent_dataset_report rep = { .request = v->request, .dataset = v->dataset, .state = delivered ? "delivered" : "failed", .code = delivered ? "" : "receive",
		.reason = delivered ? "" : tidy.msg, .transfer = v->transfer,
		.policy_digest = v->policy_digest, .path = delivered ? v->path : "", .rows = delivered ? (int64_t)v->rows : 0 };

	sb_text_tidy(tidy.msg); /* it may have been cut within a character */
	return agent_dataset_report(v->a, v->db, &rep, err);
}

static int remove_spool(const struct arrival *v, struct sb_error *err)
{
	char path[4096];

	int r = agent_state_spool(path, sizeof(path), v->a, v->transfer, true, err);
	if (r == 0 && unlink(path) < 0 && errno != ENOENT)
		r = sb_fail_errno(err, errno, "spool of transfer %s", v->transfer);
	return r;
}

static int commit(struct arrival *v, int result, const struct sb_error *why, struct sb_error *err)
{
	int r = sb_db_begin(v->db, err);

	if (r == 0)
		r = sb_db_run(v->db, NULL, err, "UPDATE transfer_in SET state = ?, reason = ? WHERE id = ?", "sss", result == 0 ? "done" : "failed",
			result == 0 ? "" : why->msg, v->transfer);
	if (r == 0 && v->ours)
		r = report(v, result == 0, why, err);
	if (r == 0)
		r = sb_db_commit(v->db, err);
	if (r < 0)
		sb_db_rollback(v->db);
	else if (v->ours)
		agent_wake_courier(v->a);
	return r;
}

int agent_dataset_receive(struct agent *a, struct sb_db *db, const char *transfer, struct sb_error *err)
{
	struct arrival v = { .a = a, .db = db, .transfer = transfer };
	struct sb_error why = SB_ERROR_INIT;
	char state[16];

	int r = load_transfer(&v, state, &why);
	if (r == 0 && strcmp(state, "complete") != 0)
		return remove_spool(&v, err); /* ended before a kill */
	if (r == 0)
		r = take(&v, &why);
	if (r < 0 && why.retriable) {
		*err = why;
		sb_manifest_release(&v.m);
		return r;
	}
	if (r == 0)
		sb_log(SB_INFO, "dataset_delivered", "request=%s dataset=%s from=%s transfer=%s rows=%" PRIu64, v.request, v.dataset, v.m.from, transfer, v.rows);
	else
		sb_log_error(SB_ERROR, "dataset_not_taken", &why, "transfer=%s", transfer);
	r = commit(&v, r, &why, err);
	if (r == 0)
		r = remove_spool(&v, err);
	sb_manifest_release(&v.m);
	return r;
}
