/* One in-process broker per stage, reachable over loopback, for the demo and for tests that need no durability: librdkafka's mock
 * cluster with all topics of a tenant. Prints "<stage> <host:port>" a line, then waits until its standard input ends. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "stagebridge/kafka.h"
#include "stagebridge/log.h"

#define STAGES_MAX 16

static int start(struct sb_mock_broker **ret, const char *tenant, const char *stage, struct sb_error *err)
{
	char name[6][SB_TOPIC_MAX];
	const char *topic[6];
	unsigned n = 0;

	for (int d = 0; d < 2; d++) {
		for (int c = 0; c < SB_CLASS_COUNT; c++) {
			sb_topic_name(name[n], tenant, stage, (enum sb_direction)d, (enum sb_class)c);
			topic[n] = name[n];
			n++;
		}
	}
	return sb_mock_broker_new(ret, topic, n, err);
}

int main(int argc, char **argv)
{
	struct sb_mock_broker *broker[STAGES_MAX] = { NULL };
	struct sb_error err = SB_ERROR_INIT;
	int status = 0;
	char c;

	if (argc < 3 || argc - 2 > STAGES_MAX) {
		fprintf(stderr, "usage: mock_brokers TENANT STAGE...\n");
		return 1;
	}
	sb_log_init("mock", "", SB_WARN, false);
	for (int i = 2; i < argc && status == 0; i++) {
		if (!sb_name_ok(argv[1]) || !sb_name_ok(argv[i])) {
			fprintf(stderr, "mock_brokers: \"%s\" is not a name\n", argv[i]);
			status = 1;
		} else if (start(&broker[i - 2], argv[1], argv[i], &err) < 0) {
			fprintf(stderr, "mock_brokers: %s: %s\n", argv[i], err.msg);
			status = 1;
		} else {
			printf("%s %s\n", argv[i], sb_mock_broker_servers(broker[i - 2]));
		}
	}
	fflush(stdout);
	while (status == 0 && read(STDIN_FILENO, &c, 1) > 0) {
	}
	for (int i = 0; i < STAGES_MAX; i++) {
		if (broker[i])
			sb_mock_broker_free(broker[i]);
	}
	return status;
}
