/* What the kafka_*.c files share: building a configuration, waking a poll loop, naming errors. Never included elsewhere. */
#ifndef SB_KAFKA_PRIVATE_H
#define SB_KAFKA_PRIVATE_H

#include <librdkafka/rdkafka.h>

#include "stagebridge/kafka.h"

#if RD_KAFKA_VERSION < 0x020000ff
#error "librdkafka 2.0 or newer is needed"
#endif

#define SB_KAFKA_QUEUE_BYTES ((uint64_t)16 * 1024 * 1024)
#define SB_KAFKA_MESSAGE_BYTES "1048576"

struct sb_kafka_prop { const char *name, *value; };

/** Base properties from conf (servers, security, sockets, logging), then props. Returns new; rd_kafka_new takes it. */
int sb_kafka_conf_make(rd_kafka_conf_t **ret, const struct sb_kafka_conf *conf, const struct sb_kafka_prop *props, size_t n, struct sb_error *err) SB_MUSTCHECK;
/** rd_kafka_new; takes rkc also on failure. */
int sb_kafka_handle(rd_kafka_t **ret, rd_kafka_type_t type, rd_kafka_conf_t *rkc, struct sb_error *err) SB_MUSTCHECK;
void sb_kafka_log_cb(const rd_kafka_t *rk, int level, const char *fac, const char *text);

/** An eventfd that q makes readable when it turns non-empty. */
int sb_kafka_wake_open(int *ret_fd, rd_kafka_queue_t *q, struct sb_error *err) SB_MUSTCHECK;
void sb_kafka_wake_drain(int fd);
void sb_kafka_wake_raise(int fd);

/** SB_EKAFKA (SB_ETOOBIG, SB_EAUTH where that is what it means) with a message for people that names the topic. */
int sb_kafka_fail(struct sb_error *err, rd_kafka_resp_err_t code, const char *topic, const char *text);

#endif
