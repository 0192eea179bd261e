/* stagebridge: reads the command line by the table of commands, runs one, maps errors to exit codes. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "stagebridge/file.h"
#include "stagebridge/git.h"
#include "stagebridge/log.h"
#include "stagebridge/text.h"

static const struct cli_command *const commands[] = { &cli_push, &cli_promote, &cli_rollback, &cli_approve, &cli_reject, &cli_abort, &cli_merge, &cli_status, &cli_get, &cli_why, &cli_policy, &cli_stop, &cli_resume, &cli_hold, &cli_release,
	&cli_data, &cli_source, &cli_resync, &cli_keys, &cli_provision };

static const struct cli_option common[] = {
	{ "--socket", "PATH", "the stage's agent (SB_SOCKET); used by push, promote, data and status from inside a stage" },
	{ "--hub", "URL", "the lifecycle hub (SB_HUB)" },
	{ "--tenant", "NAME", "the tenant (SB_TENANT)" },
	{ "--token-file", "PATH", "file with the bearer token for the hub (SB_TOKEN_FILE); mode 0600" },
	{ "-o", "table|json", "how to print; json is stable" },
	{ "--wait", "[=DURATION]", "wait for the outcome (default 5m); the exit code tells it" },
	{ "--quiet", NULL, "no progress on standard error" },
	{ NULL, NULL, NULL },
};

static void print_options(const struct cli_option *o)
{
	char left[64];

	for (; o && o->name; o++) {
		(void)snprintf(left, sizeof(left), "%s%s%s", o->name, o->value && o->value[0] != '[' ? " " : "", o->value ? o->value : "");
		printf("  %-26s %s\n", left, o->help);
	}
}

static void usage(void)
{
	printf("stagebridge %s: work across stages that have no route to each other\n\nusage: stagebridge COMMAND [ARGUMENTS] [OPTIONS]\n\n", sb_version());
	for (size_t i = 0; i < SB_COUNT(commands); i++)
		printf("  %-10s %s\n", commands[i]->name, commands[i]->summary);
	printf("\nCommon options:\n");
	print_options(common);
	printf("\nA developer inside a stage needs the socket only:\n  export SB_SOCKET=/run/stagebridge/dev.sock\n  stagebridge push --title \"better prompts\" --wait\n"
	       "A manager asks the hub:\n  export SB_HUB=https://hub.example.org SB_TENANT=acme SB_TOKEN_FILE=~/.config/stagebridge/token\n  stagebridge status\n"
	       "\nMore: stagebridge COMMAND --help\n");
}

static void command_help(const struct cli_command *c)
{
	printf("usage: stagebridge %s %s [OPTIONS]\n\n%s\n", c->name, c->arguments, c->help);
	if (c->options && c->options[0].name) {
		printf("\nOptions:\n");
		print_options(c->options);
	}
	printf("\nCommon options:\n");
	print_options(common);
}

/* "--name value" and "--name=value"; moves *i. NULL when the value is missing. */
static const char *value_of(int argc, char **argv, int *i, size_t name_len)
{
	if (argv[*i][name_len] == '=')
		return argv[*i] + name_len + 1;
	if (*i + 1 >= argc)
		return NULL;
	return argv[++*i];
}

static bool is_option(const char *arg, const char *name)
{
	size_t n = strlen(name);

	return strncmp(arg, name, n) == 0 && (arg[n] == '\0' || arg[n] == '=');
}

static int set_common(struct cli *cli, const char **token_file, int argc, char **argv, int *i, struct sb_error *err)
{
	const char *arg = argv[*i], *v;

	if (strcmp(arg, "--quiet") == 0) {
		cli->quiet = true;
		return 1;
	}
	if (is_option(arg, "--wait")) {
		cli->wait = true;
		if (arg[6] == '=')
			return sb_parse_duration_ms(arg + 7, "--wait", &cli->wait_ms, err) < 0 ? (int)err->code : 1;
		return 1;
	}
	for (size_t k = 0; common[k].name; k++) {
		if (!common[k].value || common[k].value[0] == '[' || !is_option(arg, common[k].name))
			continue;
		v = value_of(argc, argv, i, strlen(common[k].name));
		if (!v)
			return sb_fail(err, SB_EINVAL, "%s needs a value: %s", common[k].name, common[k].value);
		if (k == 4) {
			if (strcmp(v, "json") != 0 && strcmp(v, "table") != 0)
				return sb_fail(err, SB_EINVAL, "-o \"%s\": expected table or json", v);
			cli->output = strcmp(v, "json") == 0 ? CLI_JSON : CLI_TABLE;
			return 1;
		}
		*(k == 0 ? &cli->socket : k == 1 ? &cli->hub : k == 2 ? &cli->tenant : token_file) = v;
		return 1;
	}
	return 0;
}

static int set_own(struct cli *cli, const struct cli_command *c, int argc, char **argv, int *i, struct sb_error *err)
{
	for (size_t k = 0; c->options && c->options[k].name; k++) {
		if (!is_option(argv[*i], c->options[k].name))
			continue;
		cli->option[k] = c->options[k].value ? value_of(argc, argv, i, strlen(c->options[k].name)) : "yes";
		if (!cli->option[k])
			return sb_fail(err, SB_EINVAL, "%s needs a value: %s", c->options[k].name, c->options[k].value);
		return 1;
	}
	return 0;
}

static int parse(struct cli *cli, const struct cli_command *c, const char **token_file, int argc, char **argv, struct sb_error *err)
{
	for (int i = 2; i < argc; i++) {
		int r = set_common(cli, token_file, argc, argv, &i, err);

		if (r == 0)
			r = set_own(cli, c, argc, argv, &i, err);
		if (r < 0)
			return r;
		if (r == 1)
			continue;
		if (argv[i][0] == '-' && argv[i][1])
			return sb_fail(err, SB_EINVAL, "unknown option \"%s\": see stagebridge %s --help", argv[i], c->name);
		if (cli->n_arguments == SB_COUNT(cli->argument))
			return sb_fail(err, SB_EINVAL, "too many arguments: see stagebridge %s --help", c->name);
		cli->argument[cli->n_arguments++] = argv[i];
	}
	if (cli->n_arguments < c->min_arguments || cli->n_arguments > c->max_arguments)
		return sb_fail(err, SB_EINVAL, "expected: stagebridge %s %s", c->name, c->arguments);
	return 0;
}

static int load_token(struct cli *cli, const char *token_file, struct sb_error *err)
{
	size_t n;

	if (!token_file || !*token_file)
		return 0;
	if (sb_file_read_secret(token_file, 4096, &cli->token, &n, err) < 0)
		return (int)err->code;
	while (n && (cli->token[n - 1] == '\n' || cli->token[n - 1] == '\r'))
		cli->token[--n] = '\0';
	return 0;
}

static int report(const struct cli *cli, const struct sb_error *err)
{
	int status = sb_code_exit(err->code);

	if (cli->output == CLI_JSON) {
		json_t *j = json_pack("{s:{s:s, s:s, s:b}}", "error", "code", sb_code_name(err->code), "message", err->msg, "retriable", (int)err->retriable);

		if (j)
			(void)json_dumpf(j, stderr, JSON_COMPACT);
		json_decref(j);
		fputc('\n', stderr);
	} else {
		fprintf(stderr, "stagebridge: %s\n", err->msg);
	}
	return status ? status : 3;
}

static int run(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
	const char *token_file = getenv("SB_TOKEN_FILE");
	struct sb_error err = SB_ERROR_INIT;
	int r;

	cli->socket = getenv("SB_SOCKET");
	cli->hub = getenv("SB_HUB");
	cli->tenant = getenv("SB_TENANT");
	cli->wait_ms = 5 * 60 * 1000;
	r = parse(cli, c, &token_file, argc, argv, &err);
	if (r == 0)
		r = load_token(cli, token_file, &err);
	if (r == 0)
		r = sb_http_client_new(&cli->http, NULL, &err);
	if (r == 0)
		r = sb_git_init(&err);
	if (r == 0)
		r = c->run(cli, &err);
	return r < 0 ? report(cli, &err) : r;
}

int main(int argc, char **argv)
{
	struct cli cli = { .output = CLI_TABLE };
	int status = 1;

	if (argc >= 2 && strcmp(argv[1], "--git-worker") == 0)
		return sb_git_worker_main();
	(void)signal(SIGPIPE, SIG_IGN); /* a closed pipe shows as a failed write */
	sb_log_init("cli", "", SB_WARN, false);
	if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
		usage();
		return argc < 2;
	}
	if (strcmp(argv[1], "--version") == 0) {
		printf("stagebridge %s\n", sb_version());
		return 0;
	}
	for (size_t i = 0; i < SB_COUNT(commands); i++) {
		if (strcmp(argv[1], commands[i]->name) != 0)
			continue;
		for (int k = 2; k < argc; k++) {
			if (strcmp(argv[k], "--help") == 0) {
				command_help(commands[i]);
				return 0;
			}
		}
		status = run(&cli, commands[i], argc, argv);
		sb_http_client_free(cli.http);
		free(cli.token);
		return status;
	}
	fprintf(stderr, "stagebridge: unknown command \"%s\": stagebridge --help lists them\n", argv[1]);
	return 1;
}
