/* Administration: topics for `stagebridge provision`, reachability for `doctor`. Each call makes a handle of its own and blocks, with a deadline;
 * run by commands, not by lanes. */
#include <inttypes.h>
#include <string.h>

#include "kafka_private.h"
#include "stagebridge/clock.h"
#include "stagebridge/text.h"

#define REQUEST_TIMEOUT_MS 15000
#define SETTLE_TIMEOUT_MS 15000

static void handle_freep(rd_kafka_t **rk)
{
	if (*rk)
		rd_kafka_destroy(*rk);
}

static int admin_handle(rd_kafka_t **ret, const struct sb_kafka_conf *conf, struct sb_error *err)
{
	rd_kafka_conf_t *rkc = NULL;
	int rc = sb_kafka_conf_make(&rkc, conf, NULL, 0, err);

	return rc ? rc : sb_kafka_handle(ret, RD_KAFKA_PRODUCER, rkc, err);
}

static const rd_kafka_metadata_topic_t *find_topic(const rd_kafka_metadata_t *md, const char *name)
{
	for (int i = 0; i < md->topic_cnt; i++)
		if (strcmp(md->topics[i].topic, name) == 0)
			return &md->topics[i];
	return NULL;
}

/* Fills missing[0..*ret_n) with the topics that the broker does not have; checks the others. */
static int survey(rd_kafka_t *rk, const char *const *topics, size_t n, const char **missing, size_t *ret_n, struct sb_error *err)
{
	const rd_kafka_metadata_t *md = NULL;
	rd_kafka_resp_err_t code = rd_kafka_metadata(rk, 1, NULL, &md, REQUEST_TIMEOUT_MS);
	size_t k = 0;
	int rc = SB_OK;

	if (code)
		return sb_fail(err, SB_EKAFKA, "the broker did not list its topics: %s", rd_kafka_err2str(code));
	for (size_t i = 0; i < n && rc == SB_OK; i++) {
		const rd_kafka_metadata_topic_t *t = find_topic(md, topics[i]);
		if (!t || t->err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
			missing[k++] = topics[i];
		else if (t->err && t->err != RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE)
			rc = sb_kafka_fail(err, t->err, topics[i], NULL);
		else if (t->partition_cnt > 1)
			rc = sb_fail(err, SB_ECONFLICT, "topic \"%s\" has %d partitions, 1 is needed for its order", topics[i], t->partition_cnt);
	}
	rd_kafka_metadata_destroy(md);
	if (rc == SB_OK)
		*ret_n = k;
	return rc;
}

static int new_topic(rd_kafka_NewTopic_t **ret, const char *name, int replication, int64_t retention_ms, struct sb_error *err)
{
	char why[256], retention[24];
	int rc = sb_format(retention, sizeof(retention), err, "%" PRId64, retention_ms);
	if (rc)
		return rc;
	rd_kafka_NewTopic_t *t = rd_kafka_NewTopic_new(name, 1, replication > 0 ? replication : -1, why, sizeof(why));
	if (!t)
		return sb_fail(err, SB_EINVAL, "topic \"%s\": %s", name, why);
	/* by time, never compacted: compaction hides gaps; append time: a producer's clock must not stop retention */
	const struct sb_kafka_prop props[] = {
		{ "cleanup.policy", "delete" },
		{ "retention.ms", retention },
		{ "retention.bytes", "-1" },
		{ "max.message.bytes", SB_KAFKA_MESSAGE_BYTES },
		{ "message.timestamp.type", "LogAppendTime" },
		{ "unclean.leader.election.enable", "false" },
		{ "compression.type", "producer" },
		{ "min.insync.replicas", replication >= 3 ? "2" : NULL },
	};
	for (size_t i = 0; i < SB_COUNT(props); i++)
		if (props[i].value && rd_kafka_NewTopic_set_config(t, props[i].name, props[i].value)) {
			rd_kafka_NewTopic_destroy(t);
			return sb_fail_nomem(err);
		}
	*ret = t;
	return SB_OK;
}

static int check_created(rd_kafka_event_t *ev, struct sb_error *err)
{
	size_t n = 0;

	if (rd_kafka_event_error(ev))
		return sb_fail(err, SB_EKAFKA, "the broker did not create topics: %s", rd_kafka_event_error_string(ev));
	const rd_kafka_topic_result_t **res = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(ev), &n);
	for (size_t i = 0; i < n; i++) {
		rd_kafka_resp_err_t code = rd_kafka_topic_result_error(res[i]);
		if (code && code != RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS) /* somebody provisions at the same time: survey judges it */
			return sb_fail(err, code == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED ? SB_EAUTH : SB_EKAFKA, "topic \"%s\" was not created: %s",
				rd_kafka_topic_result_name(res[i]), rd_kafka_topic_result_error_string(res[i]) ? rd_kafka_topic_result_error_string(res[i]) :
				rd_kafka_err2str(code));
	}
	return SB_OK;
}

static int create(rd_kafka_t *rk, const char **names, size_t n, int replication, int64_t retention_ms, struct sb_error *err)
{
	rd_kafka_queue_t *q = rd_kafka_queue_new(rk);
	rd_kafka_NewTopic_t **topics = calloc(n, sizeof(*topics));
	rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_CREATETOPICS);
	size_t made = 0;
	char why[128];
	int rc = topics && q && options ? SB_OK : sb_fail_nomem(err);

	for (; made < n && rc == SB_OK; made += rc == SB_OK)
		rc = new_topic(&topics[made], names[made], replication, retention_ms, err);
	if (rc == SB_OK && (rd_kafka_AdminOptions_set_request_timeout(options, REQUEST_TIMEOUT_MS, why, sizeof(why)) ||
		rd_kafka_AdminOptions_set_operation_timeout(options, REQUEST_TIMEOUT_MS, why, sizeof(why))))
		rc = sb_fail(err, SB_ECONFIG, "%s", why);
	if (rc == SB_OK) {
		rd_kafka_CreateTopics(rk, topics, n, options, q);
		rd_kafka_event_t *ev = rd_kafka_queue_poll(q, 2 * REQUEST_TIMEOUT_MS);
		rc = ev ? check_created(ev, err) : sb_fail(err, SB_ETIMEOUT, "the broker did not answer the creation of topics");
		if (ev)
			rd_kafka_event_destroy(ev);
	}
	if (topics)
		rd_kafka_NewTopic_destroy_array(topics, made);
	free(topics);
	if (options)
		rd_kafka_AdminOptions_destroy(options);
	if (q)
		rd_kafka_queue_destroy(q);
	return rc;
}

int sb_kafka_provision(const struct sb_kafka_conf *conf, const char *const *topics, size_t n, int replication, int64_t retention_ms, struct sb_error *err)
{
	sb_cleanup(handle_freep) rd_kafka_t *rk = NULL;
	sb_cleanup(sb_freep) const char **missing = calloc(n ? n : 1, sizeof(*missing));
	size_t n_missing = 0;

	if (!missing)
		return sb_fail_nomem(err);
	int rc = admin_handle(&rk, conf, err);
	if (rc == SB_OK)
		rc = survey(rk, topics, n, missing, &n_missing, err);
	if (rc || n_missing == 0)
		return rc;
	rc = create(rk, missing, n_missing, replication, retention_ms, err);
	/* who starts right after this must find them: a created topic takes a moment to reach every broker's metadata */
	for (int64_t deadline = sb_mono_ms() + SETTLE_TIMEOUT_MS; rc == SB_OK && n_missing;) {
		rc = survey(rk, topics, n, missing, &n_missing, err);
		if (rc == SB_OK && n_missing && sb_mono_ms() > deadline)
			rc = sb_fail(err, SB_ETIMEOUT, "topic \"%s\" was created but the broker does not list it", missing[0]);
		if (rc == SB_OK && n_missing)
			rd_kafka_poll(rk, 50);
	}
	return rc;
}

int sb_kafka_ping(const struct sb_kafka_conf *conf, int timeout_ms, struct sb_error *err)
{
	sb_cleanup(handle_freep) rd_kafka_t *rk = NULL;
	const rd_kafka_metadata_t *md = NULL;
	int rc = admin_handle(&rk, conf, err);

	if (rc)
		return rc;
	rd_kafka_resp_err_t code = rd_kafka_metadata(rk, 0, NULL, &md, timeout_ms);
	if (code)
		return sb_fail(err, SB_EKAFKA, "no broker of \"%s\" answers: %s", conf->servers, rd_kafka_err2str(code));
	rd_kafka_metadata_destroy(md);
	return SB_OK;
}
