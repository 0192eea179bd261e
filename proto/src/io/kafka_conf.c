/* Configuration of librdkafka handles. Only the properties named here are ever set: nothing from a file reaches librdkafka by name, because
 * some of its properties load libraries, run commands or fetch URLs.
 *
 * Threads: called by the lane that makes a handle. The log callback runs in the lane's own poll (log.queue), for admin handles and the
 * in-process broker on librdkafka's threads: sb_log_limited is safe on any. */
#include "kafka_private.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/eventfd.h>
#include <syslog.h>
#include <unistd.h>

#include "stagebridge/file.h"
#include "stagebridge/log.h"
#include "stagebridge/text.h"

static void conf_freep(rd_kafka_conf_t **rkc)
{
	if (*rkc)
		rd_kafka_conf_destroy(*rkc);
}

static int conf_set(rd_kafka_conf_t *rkc, const char *name, const char *value, struct sb_error *err)
{
	char why[256];

	/* librdkafka's text repeats the value it refuses: not for a password */
	if (rd_kafka_conf_set(rkc, name, value, why, sizeof(why)) != RD_KAFKA_CONF_OK)
		return sb_fail(err, SB_ECONFIG, "broker client property \"%s\" was refused%s%s", name,
			strstr(name, "password") ? "" : ": ", strstr(name, "password") ? "" : why);
	return SB_OK;
}

static int set_all(rd_kafka_conf_t *rkc, const struct sb_kafka_prop *props, size_t n, struct sb_error *err)
{
	int rc = SB_OK;

	for (size_t i = 0; i < n && rc == SB_OK; i++)
		if (props[i].value)
			rc = conf_set(rkc, props[i].name, props[i].value, err);
	return rc;
}

static void wipe_freep(char **p)
{
	if (*p) {
		explicit_bzero(*p, strlen(*p));
		free(*p);
	}
}

static int set_sasl(rd_kafka_conf_t *rkc, const struct sb_kafka_conf *conf, struct sb_error *err)
{
	sb_cleanup(wipe_freep) char *password = NULL;
	size_t n;

	if (!conf->sasl_user || !conf->sasl_password_file)
		return sb_fail(err, SB_ECONFIG, "broker security sasl_ssl needs a user and a password file");
	int rc = sb_file_read_secret(conf->sasl_password_file, 4096, &password, &n, err);
	if (rc)
		return rc;
	while (n && (password[n - 1] == '\n' || password[n - 1] == '\r'))
		password[--n] = '\0';
	if (n == 0 || strlen(password) != n)
		return sb_fail(err, SB_ECONFIG, "broker password file \"%s\" is empty or holds a NUL", conf->sasl_password_file);
	const struct sb_kafka_prop props[] = {
		{ "sasl.mechanism", "SCRAM-SHA-512" },
		{ "sasl.username", conf->sasl_user },
		{ "sasl.password", password },
	};
	return set_all(rkc, props, SB_COUNT(props), err);
}

static int set_security(rd_kafka_conf_t *rkc, const struct sb_kafka_conf *conf, struct sb_error *err)
{
	const char *security = conf->security ? conf->security : "plaintext";
	bool sasl = strcmp(security, "sasl_ssl") == 0;

	if (!sasl && strcmp(security, "ssl") != 0 && strcmp(security, "plaintext") != 0)
		return sb_fail(err, SB_ECONFIG, "broker security \"%s\" is not one of sasl_ssl, ssl, plaintext", security);
	int rc = conf_set(rkc, "security.protocol", security, err);
	if (rc || strcmp(security, "plaintext") == 0)
		return rc;
	const struct sb_kafka_prop props[] = {
		{ "ssl.ca.location", conf->ca_file },
		{ "ssl.certificate.location", conf->cert_file },
		{ "ssl.key.location", conf->key_file },
		{ "enable.ssl.certificate.verification", "true" },
		{ "ssl.endpoint.identification.algorithm", "https" },
	};
	rc = set_all(rkc, props, SB_COUNT(props), err);
	return rc || !sasl ? rc : set_sasl(rkc, conf, err);
}

int sb_kafka_conf_make(rd_kafka_conf_t **ret, const struct sb_kafka_conf *conf, const struct sb_kafka_prop *props, size_t n, struct sb_error *err)
{
	if (!conf->servers || !*conf->servers)
		return sb_fail(err, SB_ECONFIG, "no broker servers are named");
	sb_cleanup(conf_freep) rd_kafka_conf_t *rkc = rd_kafka_conf_new();
	if (!rkc)
		return sb_fail_nomem(err);
	const struct sb_kafka_prop base[] = {
		{ "bootstrap.servers", conf->servers },
		{ "client.id", conf->client_id ? conf->client_id : "stagebridge" },
		{ "socket.keepalive.enable", "true" },
		{ "socket.nagle.disable", "true" },
		{ "socket.connection.setup.timeout.ms", "10000" },
		/* a broker that comes back is found within two seconds */
		{ "reconnect.backoff.ms", "50" },
		{ "reconnect.backoff.max.ms", "2000" },
		{ "topic.metadata.refresh.fast.interval.ms", "100" },
		{ "log.connection.close", "false" },
	};
	int rc = set_all(rkc, base, SB_COUNT(base), err);
	if (rc == SB_OK)
		rc = set_security(rkc, conf, err);
	if (rc == SB_OK)
		rc = set_all(rkc, props, n, err);
	if (rc)
		return rc;
	rd_kafka_conf_set_log_cb(rkc, sb_kafka_log_cb);
	*ret = SB_TAKE(rkc);
	return SB_OK;
}

int sb_kafka_handle(rd_kafka_t **ret, rd_kafka_type_t type, rd_kafka_conf_t *rkc, struct sb_error *err)
{
	char why[256];
	rd_kafka_t *rk = rd_kafka_new(type, rkc, why, sizeof(why));

	if (!rk) {
		rd_kafka_conf_destroy(rkc);
		return sb_fail(err, SB_ECONFIG, "could not make a broker client: %s", why);
	}
	*ret = rk;
	return SB_OK;
}

void sb_kafka_log_cb(const rd_kafka_t *rk, int level, const char *fac, const char *text)
{
	struct sb_error err = SB_ERROR_INIT;
	enum sb_level to = level <= LOG_CRIT ? SB_ERROR : level <= LOG_NOTICE ? SB_WARN : SB_DEBUG;
	char key[160];

	if (!sb_log_on(to))
		return;
	/* one line a minute per client and kind of trouble: a broker that is down says so at every attempt */
	if (sb_format(key, sizeof(key), NULL, "%s/%s", rk ? rd_kafka_name(rk) : "", fac) != SB_OK)
		key[0] = '\0';
	(void)sb_fail(&err, SB_EKAFKA, "%s", text); /* fills err for the line below */
	sb_log_limited(to, "broker_client", key, &err);
}

int sb_kafka_wake_open(int *ret_fd, rd_kafka_queue_t *q, struct sb_error *err)
{
	static const uint64_t one = 1;
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

	if (fd < 0)
		return sb_fail_errno(err, errno, "eventfd");
	rd_kafka_queue_io_event_enable(q, fd, &one, sizeof(one));
	*ret_fd = fd;
	return SB_OK;
}

void sb_kafka_wake_drain(int fd)
{
	uint64_t v;

	while (read(fd, &v, sizeof(v)) < 0 && errno == EINTR)
		;
}

void sb_kafka_wake_raise(int fd)
{
	const uint64_t one = 1;

	while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

int sb_kafka_fail(struct sb_error *err, rd_kafka_resp_err_t code, const char *topic, const char *text)
{
	if (!text || !*text)
		text = rd_kafka_err2str(code);
	if (code == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE || code == RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE)
		return sb_fail(err, SB_ETOOBIG, "topic \"%s\": the broker refuses a record of this size", topic);
	if (code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || code == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC ||
		code == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION)
		return sb_fail(err, SB_EKAFKA, "topic \"%s\" is not on the broker: create it with `stagebridge provision`", topic);
	if (code == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED || code == RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED)
		return sb_fail(err, SB_EKAFKA, "topic \"%s\": the broker does not allow this principal to use it", topic);
	return sb_fail(err, SB_EKAFKA, "%s%s%s%s", topic && *topic ? "topic \"" : "", topic ? topic : "", topic && *topic ? "\": " : "", text);
}
