/* The hub's program: options, start, wait for a signal, stop. Main thread. Exit status: 0 stopped as asked, 78 bad settings, else by error
 * code (3: something it needs is away, worth another try). */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "hub.h"
#include "stagebridge/git.h"
#include "stagebridge/log.h"
#include "stagebridge/policy.h"
#include "stagebridge/promotion.h"

#define CONFIG_DEFAULT "/etc/stagebridge/hub.yaml"
#define PRINT_MAX      (4 * 1024 * 1024)

static const char help[] =
	"usage: lifecycle-hub [--config FILE] [ONE OF THE OPTIONS BELOW]\n"
	"\n"
	"The central side of stagebridge: reads what the stages' agents publish on their brokers, keeps one\n"
	"PostgreSQL sync view per tenant, moves artifacts from stage to stage, relays anonymized data.\n"
	"\n"
	"  --config FILE      settings, YAML (default " CONFIG_DEFAULT ")\n"
	"  --check-config     read and check the settings, say what is wrong with file and line, exit 0 or 78\n"
	"  --print-config     print the settings in force, defaults included; secrets as paths only\n"
	"  --print-reference  print every setting with its default and meaning, Markdown\n"
	"  --print-fsm        print the promotion states as a Mermaid diagram\n"
	"  --version, --help\n"
	"\n"
	"First steps:\n"
	"  stagebridge keys dev keys --tenant acme --stages dev,train,prod    # keys and keyring\n"
	"  createdb hub_acme                                                  # the sync view; the hub makes its schema\n"
	"  lifecycle-hub --config hub.yaml --check-config                     # config/hub.sample.yaml is a start\n"
	"  lifecycle-hub --config hub.yaml                                    # then: http://127.0.0.1:8080/\n"
	"\n"
	"Logs go to standard error. SIGTERM stops it cleanly; a kill loses nothing. Any setting but secrets can come\n"
	"from the environment: SB_HTTP_PORT=9000.\n";

enum { OPT_CONFIG = 1, OPT_CHECK, OPT_PRINT, OPT_REFERENCE, OPT_FSM, OPT_VERSION, OPT_HELP };

static const struct option options[] = {
	{ "config", required_argument, NULL, OPT_CONFIG },
	{ "check-config", no_argument, NULL, OPT_CHECK },
	{ "print-config", no_argument, NULL, OPT_PRINT },
	{ "print-reference", no_argument, NULL, OPT_REFERENCE },
	{ "print-fsm", no_argument, NULL, OPT_FSM },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ "help", no_argument, NULL, OPT_HELP },
	{ NULL, 0, NULL, 0 },
};

static int complain(const struct sb_error *err)
{
	fprintf(stderr, "lifecycle-hub: %s\n", err->msg);
	return sb_code_exit(err->code);
}

static int print(struct sb_buf *out)
{
	struct sb_error err = SB_ERROR_INIT;

	if (sb_buf_check(out, "output", &err) == 0 && (fwrite(out->data, 1, out->len, stdout) != out->len || fflush(stdout) != 0))
		(void)sb_fail(&err, SB_EIO, "cannot write to standard output");
	sb_buf_release(out);
	return err.code == SB_OK ? 0 : complain(&err);
}

static int look_at_config(const char *file, bool show)
{
	struct sb_error err = SB_ERROR_INIT;
	struct hub_settings set = { 0 };
	struct sb_buf out;

	if (hub_settings_load(&set, file, &err) < 0)
		return complain(&err);
	sb_buf_init(&out, PRINT_MAX);
	if (show)
		sb_settings_print(hub_settings_table, &set, &out);
	else
		sb_buf_addf(&out, "%s: ok, %zu tenants\n", file, set.tenants.count);
	hub_settings_release(&set);
	return print(&out);
}

static int print_table(int what)
{
	struct sb_buf out;

	sb_buf_init(&out, PRINT_MAX);
	if (what == OPT_FSM)
		sb_promotion_diagram(&out);
	else {
		sb_settings_reference(hub_settings_table, "lifecycle-hub", &out);
		sb_buf_addc(&out, '\n');
		sb_settings_reference(sb_policy_table, "promotion policy", &out);
	}
	return print(&out);
}

static int serve(const char *file)
{
	struct sb_error err = SB_ERROR_INIT;
	struct hub *h = NULL;
	int sig;

	sb_log_init("hub", "", SB_INFO, false);
	int r = sb_signals_block(&err);
	if (r == 0)
		r = sb_git_init(&err);
	if (r == 0)
		r = hub_open(&h, file, &err);
	if (r == 0)
		r = hub_start(h, &err);
	if (r < 0) {
		hub_close(h);
		sb_log_error(SB_ERROR, "start_failed", &err, "config=%s", file);
		return sb_code_exit(err.code);
	}
	while ((sig = sb_signals_wait()) == SIGHUP)
		sb_log(SB_WARN, "reload_ignored", "reason=%s", "settings are read at start: restart the hub");
	sb_log(SB_INFO, "hub_stopping", "signal=%d", sig);
	hub_close(h);
	return 0;
}

int main(int argc, char **argv)
{
	const char *file = CONFIG_DEFAULT;
	int what = 0, c;

	/* the same program carries Git over the network in a child of its own: nothing else may run before */
	if (argc > 1 && strcmp(argv[1], "--git-worker") == 0)
		return sb_git_worker_main();
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == OPT_CONFIG)
			file = optarg;
		else if (c == '?' || what)
			what = '?';
		else
			what = c;
	}
	if (what == '?' || optind < argc) {
		fputs("lifecycle-hub: those arguments do not fit; see lifecycle-hub --help\n", stderr);
		return 1;
	}
	if (what == OPT_HELP)
		return fputs(help, stdout) < 0;
	if (what == OPT_VERSION)
		return printf("lifecycle-hub %s\n", sb_version()) < 0;
	if (what == OPT_REFERENCE || what == OPT_FSM)
		return print_table(what);
	if (what == OPT_CHECK || what == OPT_PRINT)
		return look_at_config(file, what == OPT_PRINT);
	return serve(file);
}
