/* broker-agent: the program. Reads its arguments, starts the agent and waits for a signal. Exit status: 0 stopped when asked, 78 the
 * configuration is wrong, else by the kind of error (see the table in stagebridge/error.h). */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "agent.h"
#include "source.h"
#include "source_dir/dir_infer.h"
#include "stagebridge/git.h"
#include "stagebridge/log.h"

#define OUTPUT_MAX (4 * 1024 * 1024)
#define DEFAULT_CONFIG "/etc/stagebridge/agent.yaml"

static const char help[] =
	"broker-agent runs beside one stage and is its only way to the other stages. It speaks to the stage's own\n"
	"message broker and to the stage's own data, never to another stage and never to the hub directly.\n"
	"\n"
	"Usage: broker-agent [--config FILE]            run until SIGTERM or SIGINT\n"
	"       broker-agent [--config FILE] --check-config\n"
	"       broker-agent [--config FILE] --print-config\n"
	"       broker-agent [--config FILE] --infer NAME\n"
	"       broker-agent [--config FILE] --check-sources [-o json]\n"
	"       broker-agent --print-reference\n"
	"\n"
	"  -c, --config FILE    settings in YAML; default " DEFAULT_CONFIG "\n"
	"      --check-config   read and check the settings, say what is wrong with file, line and key, and stop\n"
	"      --print-config   show the settings in force, with defaults and SB_* variables applied; secrets as paths\n"
	"      --infer NAME     read the folder of that name in `directories` and show the columns that its values fit,\n"
	"                       ready to be pinned in the settings\n"
	"      --check-sources  look at the databases of the settings, change nothing, and say for each what is missing\n"
	"                       with the SQL that mends it; exit status 1 when something is\n"
	"  -o, --output FORM    with --check-sources: text (default) or json\n"
	"      --print-reference  all settings with type, default, range and meaning, as Markdown\n"
	"      --version        show the version\n"
	"  -h, --help           show this\n"
	"\n"
	"A first agent, from nothing:\n"
	"  stagebridge keys dev keys --tenant acme --stages dev,train       make keys for a trial (never for production)\n"
	"  stagebridge provision --servers localhost:9092 --tenant acme --stage dev     make the stage's topics\n"
	"  broker-agent --config agent.yaml --check-config                  see config/agent.sample.yaml for the file\n"
	"  broker-agent --config agent.yaml\n"
	"  stagebridge status                                               ask it how it is, through its socket\n"
	"\n"
	"Logs go to standard error, one line an event. Exit status 78: the configuration is wrong.\n";

enum { MODE_RUN, MODE_CHECK, MODE_PRINT, MODE_INFER, MODE_SOURCES };

static int print_buf(struct sb_buf *b, const char *what)
{
	struct sb_error err = SB_ERROR_INIT;

	int r = sb_buf_check(b, what, &err);
	if (r == 0 && (fwrite(b->data, 1, b->len, stdout) != b->len || fflush(stdout) != 0))
		r = sb_fail(&err, SB_EIO, "could not write %s", what);
	if (r < 0)
		(void)fprintf(stderr, "broker-agent: %s\n", err.msg);
	sb_buf_release(b);
	return r < 0 ? sb_code_exit((enum sb_code)r) : 0;
}

static int print_reference(void)
{
	struct sb_buf out;

	sb_buf_init(&out, OUTPUT_MAX);
	sb_settings_reference(agent_settings_table, "broker-agent", &out);
	return print_buf(&out, "the reference");
}

static int complain(const struct sb_error *err)
{
	(void)fprintf(stderr, "broker-agent: %s\n", err->msg);
	return sb_code_exit(err->code);
}

static int infer(const struct agent_settings *set, const char *name)
{
	const struct agent_dir_source *dir = set->directories.item;
	struct sb_error err = SB_ERROR_INIT;
	struct sb_buf out;
	size_t i = 0;

	while (i < set->directories.count && strcmp(dir[i].name, name) != 0)
		i++;
	if (i == set->directories.count) {
		(void)sb_fail(&err, SB_ECONFIG, "no folder is called \"%s\" in `directories`", name);
		return complain(&err);
	}
	sb_buf_init(&out, OUTPUT_MAX);
	if (agent_dir_infer(&dir[i], &out, &err) < 0) {
		sb_buf_release(&out);
		return complain(&err);
	}
	return print_buf(&out, "the columns");
}

/* --check-config, --print-config and --infer: no state is touched, so all are safe beside a running agent. */
static int look(const char *file, int mode, const char *name)
{
	struct agent_settings set = { .tenant = NULL };
	struct sb_error err = SB_ERROR_INIT;
	struct sb_buf out;
	int status = 0;

	if (agent_settings_load(&set, file, &err) < 0)
		return complain(&err);
	if (mode == MODE_CHECK) {
		(void)printf("%s: ok: stage %s of tenant %s, %zu databases, %zu folders, %zu origins\n", file, set.stage, set.tenant, set.postgres.count,
			set.directories.count, set.origins.count);
	} else if (mode == MODE_INFER) {
		status = infer(&set, name);
	} else {
		sb_buf_init(&out, OUTPUT_MAX);
		sb_settings_print(agent_settings_table, &set, &out);
		status = print_buf(&out, "the settings");
	}
	agent_settings_release(&set);
	return status;
}

/* --check-sources: reads catalogs only, so it is safe beside a running agent. */
static int check_sources(const char *file, bool as_json)
{
	struct agent_settings set = { .tenant = NULL };
	struct sb_error err = SB_ERROR_INIT;
	json_t *sources = NULL;
	unsigned missing = 0;
	struct sb_buf out;

	if (agent_settings_load(&set, file, &err) < 0)
		return complain(&err);
	int r = agent_pg_check(&set, &sources, &missing, &err);
	agent_settings_release(&set);
	if (r < 0)
		return complain(&err);
	sb_buf_init(&out, OUTPUT_MAX);
	if (as_json) {
		sb_cleanup(sb_freep) char *text = json_dumps(sources, JSON_INDENT(1));
		sb_buf_addf(&out, "%s\n", text ? text : "[]");
	} else {
		agent_pg_check_text(sources, &out);
	}
	json_decref(sources);
	int status = print_buf(&out, "the findings");
	return status ? status : missing > 0;
}

static void wait_for_end(void)
{
	for (;;) {
		int signo = sb_signals_wait();
		if (signo != SIGHUP) {
			sb_log(SB_INFO, "stopping", "signal=%d", signo);
			return;
		}
		sb_log(SB_WARN, "reload_ignored", "reason=%s", "settings are read at the start: restart the agent, nothing is lost by it");
	}
}

static int run(const char *file)
{
	struct sb_error err = SB_ERROR_INIT;
	struct agent *a = NULL;

	int r = sb_signals_block(&err); /* before any thread: they inherit it */
	if (r == 0)
		r = sb_git_init(&err);
	if (r == 0)
		r = agent_open(&a, file, &err);
	if (r < 0)
		return complain(&err);
	sb_log_init("agent", a->set.stage, (enum sb_level)a->set.log.level, a->set.log.format == 1);
	r = agent_start(a, &err);
	if (r == 0)
		wait_for_end();
	else
		sb_log_error(SB_ERROR, "start_failed", &err, "stage=%s", a->set.stage);
	agent_close(a);
	return r < 0 ? sb_code_exit((enum sb_code)r) : 0;
}

int main(int argc, char **argv)
{
	enum { OPT_CHECK = 256, OPT_PRINT, OPT_REFERENCE, OPT_VERSION, OPT_INFER, OPT_SOURCES };
	static const struct option options[] = {
		{ "config", required_argument, NULL, 'c' },
		{ "check-config", no_argument, NULL, OPT_CHECK },
		{ "print-config", no_argument, NULL, OPT_PRINT },
		{ "infer", required_argument, NULL, OPT_INFER },
		{ "check-sources", no_argument, NULL, OPT_SOURCES },
		{ "output", required_argument, NULL, 'o' },
		{ "print-reference", no_argument, NULL, OPT_REFERENCE },
		{ "version", no_argument, NULL, OPT_VERSION },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	const char *file = DEFAULT_CONFIG, *name = NULL;
	int mode = MODE_RUN;
	bool as_json = false;
	int opt;

	/* git over the network runs in a child of this same program */
	if (argc > 1 && strcmp(argv[1], "--git-worker") == 0)
		return sb_git_worker_main();
	sb_log_init("agent", "", SB_INFO, false);
	while ((opt = getopt_long(argc, argv, "c:o:h", options, NULL)) != -1) {
		switch (opt) {
		case 'c':
			file = optarg;
			break;
		case OPT_CHECK:
			mode = MODE_CHECK;
			break;
		case OPT_PRINT:
			mode = MODE_PRINT;
			break;
		case OPT_INFER:
			mode = MODE_INFER;
			name = optarg;
			break;
		case OPT_SOURCES:
			mode = MODE_SOURCES;
			break;
		case 'o':
			as_json = strcmp(optarg, "json") == 0;
			if (!as_json && strcmp(optarg, "text") != 0) {
				(void)fprintf(stderr, "broker-agent: --output is \"%s\", expected text or json\n", optarg);
				return 1;
			}
			break;
		case OPT_REFERENCE:
			return print_reference();
		case OPT_VERSION:
			(void)printf("broker-agent %s\n", sb_version());
			return 0;
		case 'h':
			(void)fputs(help, stdout);
			return 0;
		default:
			(void)fputs("Try \"broker-agent --help\".\n", stderr);
			return 1;
		}
	}
	if (optind < argc) {
		(void)fprintf(stderr, "broker-agent: unexpected argument \"%s\"\nTry \"broker-agent --help\".\n", argv[optind]);
		return 1;
	}
	if (mode == MODE_SOURCES)
		return check_sources(file, as_json);
	return mode == MODE_RUN ? run(file) : look(file, mode, name);
}
