/* A broker inside the process for the demo and the component tests: librdkafka's mock cluster, reachable by other processes over loopback.
 * It keeps about 5 MB per partition and nothing on disk. Its threads belong to the handle; the maker owns and frees it. */
#include "kafka_private.h"

#include <librdkafka/rdkafka_mock.h>

struct sb_mock_broker {
	rd_kafka_t *rk;
	rd_kafka_mock_cluster_t *cluster; /* the handle's */
};

int sb_mock_broker_new(struct sb_mock_broker **ret, const char *const *topics, size_t n, struct sb_error *err)
{
	struct sb_mock_broker *m = calloc(1, sizeof(*m));
	rd_kafka_conf_t *rkc = rd_kafka_conf_new();
	char why[128];
	int rc;

	/* the handle makes the cluster and ends it: rd_kafka_mock_cluster_destroy() waits a second for the thread of a handle that goes on */
	if (!m || !rkc || rd_kafka_conf_set(rkc, "log_level", "3", why, sizeof(why)) != RD_KAFKA_CONF_OK ||
		rd_kafka_conf_set(rkc, "test.mock.num.brokers", "1", why, sizeof(why)) != RD_KAFKA_CONF_OK) {
		if (rkc)
			rd_kafka_conf_destroy(rkc);
		free(m);
		return sb_fail_nomem(err);
	}
	rd_kafka_conf_set_log_cb(rkc, sb_kafka_log_cb);
	rc = sb_kafka_handle(&m->rk, RD_KAFKA_PRODUCER, rkc, err);
	if (rc)
		goto out;
	m->cluster = rd_kafka_handle_mock_cluster(m->rk);
	if (!m->cluster) {
		rc = sb_fail(err, SB_EKAFKA, "could not start the in-process broker");
		goto out;
	}
	for (size_t i = 0; i < n && rc == SB_OK; i++) {
		rd_kafka_resp_err_t code = rd_kafka_mock_topic_create(m->cluster, topics[i], 1, 1);
		if (code)
			rc = sb_kafka_fail(err, code, topics[i], rd_kafka_err2str(code));
	}
	if (rc == SB_OK)
		*ret = SB_TAKE(m);
out:
	sb_mock_broker_free(m);
	return rc;
}

const char *sb_mock_broker_servers(const struct sb_mock_broker *m)
{
	return rd_kafka_mock_cluster_bootstraps(m->cluster);
}

int sb_mock_broker_away(struct sb_mock_broker *m, bool away, struct sb_error *err)
{
	rd_kafka_resp_err_t code = away ? rd_kafka_mock_broker_set_down(m->cluster, 1) : rd_kafka_mock_broker_set_up(m->cluster, 1);

	return code ? sb_kafka_fail(err, code, "in-process broker", rd_kafka_err2str(code)) : 0;
}

void sb_mock_broker_free(struct sb_mock_broker *m)
{
	if (!m)
		return;
	if (m->rk)
		rd_kafka_destroy(m->rk);
	free(m);
}
