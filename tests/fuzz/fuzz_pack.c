/*
 * Fuzz target: arbitrary bytes as a pack that another stage sent. One bare repository for the whole run; what is
 * accepted stays in it, so later inputs meet an object database that is not empty, as in life.
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz_driver.h"
#include "stagebridge/file.h"
#include "stagebridge/git.h"
#include "stagebridge/text.h"

/* The tip of good.pack: with it the walk over trees and parents is reached. */
static const char tip[] = "4e4707a1eaca1ca1c85b4b182e3ae59dbd6ce71d";

static char dir[] = "/tmp/sb-fuzz-pack-XXXXXX";
static struct sb_repo *repo;

static void done(void)
{
	sb_repo_close(repo);
	if (sb_dir_remove(dir, NULL) < 0)
		perror(dir);
}

static void start(void)
{
	struct sb_error err = SB_ERROR_INIT;
	char path[128];

	if (!mkdtemp(dir) || sb_git_init(&err) < 0 || sb_format(path, sizeof(path), &err, "%s/r.git", dir) < 0 ||
		sb_repo_open(&repo, path, true, &err) < 0 || atexit(done) != 0) {
		fprintf(stderr, "%s\n", err.msg);
		abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sb_error err = SB_ERROR_INIT;
	char path[128];

	if (!repo)
		start();
	if (sb_format(path, sizeof(path), &err, "%s/in.pack", dir) < 0 || sb_file_write(path, data, size, 0600, &err) < 0)
		abort();
	int r = sb_repo_index(repo, path, 10000, tip, &err);
	if (r == 0 && !sb_repo_has(repo, tip))
		abort(); /* accepted without what it promised */
	/* without an expected commit the objects alone decide: what was accepted above is accepted again */
	if (sb_repo_index(repo, path, 10000, NULL, &err) < 0 && r == 0)
		abort();
	return 0;
}
