/* keys, provision: what an installation needs before the daemons start. */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "stagebridge/kafka.h"
#include "stagebridge/keyring.h"
#include "stagebridge/text.h"

#define STAGES_MAX 16

enum { OPT_STAGES };
static const struct cli_option key_options[] = { { "--stages", "A,B,...", "the stages that get a key pair" }, { NULL, NULL, NULL } };

static int run_keys(struct cli *cli, struct sb_error *err)
{
	char names[STAGES_MAX * (SB_NAME_MAX + 1)];
	const char *stage[STAGES_MAX];
	size_t n = 0;
	int r;

	if (strcmp(cli->argument[0], "dev") != 0)
		return sb_fail(err, SB_EINVAL, "expected: stagebridge keys dev DIR --tenant NAME --stages dev,train,...");
	if (!cli->tenant || !sb_name_ok(cli->tenant))
		return sb_fail(err, SB_EINVAL, "--tenant NAME is needed: lower-case letters, digits and '-'");
	if (!cli->option[OPT_STAGES] || sb_format(names, sizeof(names), err, "%s", cli->option[OPT_STAGES]) < 0)
		return sb_fail(err, SB_EINVAL, "--stages is needed: at most %d names, separated by commas", STAGES_MAX);
	for (char *p = names, *comma; p; p = comma) {
		comma = strchr(p, ',');
		if (comma)
			*comma++ = '\0';
		if (n == STAGES_MAX || !sb_name_ok(p))
			return sb_fail(err, SB_EINVAL, "--stages: \"%s\" is not a stage's name, or there are more than %d", p, STAGES_MAX);
		stage[n++] = p;
	}
	r = sb_keyring_make_dev(cli->argument[1], cli->tenant, stage, n, NULL, err);
	if (r < 0)
		return r;
	if (!cli->quiet)
		printf("keys of %s for the hub and %zu stages are in %s\nroot.key signs the keyring: on a real installation it lives offline\n", cli->tenant, n, cli->argument[1]);
	return 0;
}

enum { OPT_SERVERS, OPT_STAGE, OPT_REPLICATION, OPT_RETENTION };
static const struct cli_option provision_options[] = {
	{ "--servers", "HOST:PORT,...", "the stage's own broker" },
	{ "--stage", "NAME", "the stage" },
	{ "--replication", "N", "replication factor (default: the broker's)" },
	{ "--retention", "DURATION", "how long records are kept (default 30d)" },
	{ NULL, NULL, NULL },
};

static int run_provision(struct cli *cli, struct sb_error *err)
{
	struct sb_kafka_conf conf = { .servers = cli->option[OPT_SERVERS], .client_id = "stagebridge-provision" };
	char name[2 * SB_CLASS_COUNT][SB_TOPIC_MAX];
	const char *topic[2 * SB_CLASS_COUNT];
	int64_t retention_ms = INT64_C(30) * 86400 * 1000;
	uint64_t replication = 0;
	size_t n = 0;
	int r;

	if (!conf.servers || !cli->option[OPT_STAGE] || !cli->tenant || !sb_name_ok(cli->tenant) || !sb_name_ok(cli->option[OPT_STAGE]))
		return sb_fail(err, SB_EINVAL, "--servers, --tenant and --stage are needed");
	if (cli->option[OPT_REPLICATION] && sb_parse_u64(cli->option[OPT_REPLICATION], 1, 16, "--replication", &replication, err) < 0)
		return (int)err->code;
	if (cli->option[OPT_RETENTION] && sb_parse_duration_ms(cli->option[OPT_RETENTION], "--retention", &retention_ms, err) < 0)
		return (int)err->code;
	for (int d = 0; d < 2; d++) {
		for (int c = 0; c < SB_CLASS_COUNT; c++) {
			sb_topic_name(name[n], cli->tenant, cli->option[OPT_STAGE], (enum sb_direction)d, (enum sb_class)c);
			topic[n] = name[n];
			n++;
		}
	}
	r = sb_kafka_provision(&conf, topic, n, (int)replication, retention_ms, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n && !cli->quiet; i++)
		printf("%s\n", topic[i]);
	return 0;
}

const struct cli_command cli_keys = {
	.name = "keys", .arguments = "dev DIR --tenant NAME --stages A,B,...", .summary = "make a development keyring", .options = key_options, .min_arguments = 2, .max_arguments = 2, .run = run_keys,
	.help = "Makes a root, one key file per party (0400) and the keyring that the root signed. For development and tests.\n\n  stagebridge keys dev ./keys --tenant acme --stages dev,train,preprod,prod",
};
const struct cli_command cli_provision = {
	.name = "provision", .arguments = "--servers HOST:PORT --tenant NAME --stage NAME", .summary = "create the topics of a stage on its broker", .options = provision_options, .max_arguments = 0,
	.run = run_provision, .help = "Idempotent: topics that are there are checked and left alone.\n\n  stagebridge provision --servers kafka.dev:9092 --tenant acme --stage dev --replication 3",
};
