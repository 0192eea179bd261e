/* Files: bounds, atomic writes, key files, folders, digests. */
#include "stagebridge/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support.h"

static unsigned entries(const char *path)
{
	DIR *d = opendir(path);
	unsigned n = 0;

	ck_assert_ptr_nonnull(d);
	while (readdir(d) != NULL)
		n++;
	ck_assert_int_eq(closedir(d), 0);
	return n - 2; /* . and .. */
}

static const struct {
	size_t size, max;
	bool fits;
} reads[] = {
	{ 0, 0, true },
	{ 1, 0, false },
	{ 10, 10, true },
	{ 11, 10, false },
	{ 4095, 4095, true },
	{ 4096, 4095, false },
	{ 4096, 4096, true },
	{ 4097, 1 << 20, true },
	{ 100000, 100000, true },
	{ 100001, 100000, false },
	{ 100000, SIZE_MAX / 4, true },
};

START_TEST(test_reading)
{
	char path[TEST_PATH_MAX], *data = NULL;
	struct sb_error err = SB_ERROR_INIT;
	char *text = calloc(1, reads[_i].size + 1);
	size_t n = 77;

	ck_assert_ptr_nonnull(text);
	memset(text, 'x', reads[_i].size);
	test_path(path, "file");
	test_write(path, text, 0600);
	for (int secret = 0; secret <= (reads[_i].max < (1 << 21) ? 1 : 0); secret++) {
		int r = secret == 1 ? sb_file_read_secret(path, reads[_i].max, &data, &n, &err) :
				      sb_file_read(path, reads[_i].max, &data, &n, &err);
		if (reads[_i].fits) {
			ck_assert_msg(r == SB_OK, "%s", err.msg);
			ck_assert_uint_eq(n, reads[_i].size);
			ck_assert_str_eq(data, text);
			free(data);
		} else {
			ck_assert_int_eq(r, SB_ETOOBIG);
			ck_assert_ptr_nonnull(strstr(err.msg, "is larger than"));
		}
		data = NULL;
	}
	free(text);
}
END_TEST

START_TEST(test_read_fails)
{
	char path[TEST_PATH_MAX], *data = NULL;
	struct sb_error err = SB_ERROR_INIT;

	test_path(path, "none");
	ck_assert_int_eq(sb_file_read(path, 10, &data, NULL, &err), SB_ENOTFOUND);
	test_path(path, "");
	ck_assert_int_eq(sb_file_read(path, 10, &data, NULL, &err), SB_EIO);
	ck_assert_int_eq(sb_file_read("/proc/self/status", 1 << 20, &data, NULL, &err), SB_OK); /* its size says 0 */
	ck_assert_int_eq(strncmp(data, "Name:", 5), 0);
	free(data);
}
END_TEST

static const struct {
	const char *name;
	mode_t mode;
	const char *reason; /* NULL: taken */
} secrets[] = {
	{ "key", 0400, NULL },
	{ "key", 0600, NULL },
	{ "key", 0640, "is open to others: mode is 0640" },
	{ "key", 0601, "is open to others: mode is 0601" },
	{ "link", 0400, "is a symbolic link" },
	{ "hard", 0400, "has more than one link" },
	{ "folder", 0400, "is not a regular file" },
	{ "pipe", 0400, "is not a regular file" },
	{ "none", 0400, "does not exist" },
};

START_TEST(test_secret)
{
	char key[TEST_PATH_MAX], other[TEST_PATH_MAX], *data = NULL;
	struct sb_error err = SB_ERROR_INIT;
	size_t n = 0;
	int r;

	test_path(key, "key");
	test_write(key, "secret", secrets[_i].mode);
	test_path(other, secrets[_i].name);
	if (strcmp(secrets[_i].name, "link") == 0)
		ck_assert_int_eq(symlink("key", other), 0);
	if (strcmp(secrets[_i].name, "hard") == 0)
		ck_assert_int_eq(link(key, other), 0);
	if (strcmp(secrets[_i].name, "folder") == 0)
		ck_assert_int_eq(mkdir(other, 0700), 0);
	if (strcmp(secrets[_i].name, "pipe") == 0)
		ck_assert_int_eq(mkfifo(other, 0600), 0);
	r = sb_file_read_secret(other, 100, &data, &n, &err);
	if (secrets[_i].reason == NULL) {
		ck_assert_msg(r == SB_OK, "%s", err.msg);
		ck_assert_str_eq(data, "secret");
		ck_assert_uint_eq(n, 6);
		free(data);
	} else {
		ck_assert_int_eq(r, SB_ECONFIG);
		ck_assert_msg(strstr(err.msg, secrets[_i].reason) != NULL, "%s", err.msg);
		ck_assert_ptr_null(data);
	}
}
END_TEST

START_TEST(test_secret_of_others)
{
	char key[TEST_PATH_MAX], *data = NULL;
	struct sb_error err = SB_ERROR_INIT;

	if (geteuid() != 0)
		return; /* only root can give a file away */
	test_path(key, "key");
	test_write(key, "secret", 0400);
	ck_assert_int_eq(chown(key, 12345, 12345), 0);
	ck_assert_int_eq(sb_file_read_secret(key, 100, &data, NULL, &err), SB_ECONFIG);
	ck_assert_msg(strstr(err.msg, "belongs to user 12345") != NULL, "%s", err.msg);
}
END_TEST

START_TEST(test_write_replaces_whole)
{
	char path[TEST_PATH_MAX], folder[TEST_PATH_MAX], *text;
	struct sb_error err = SB_ERROR_INIT;
	struct stat st;

	test_path(path, "file");
	test_path(folder, "");
	(void)umask(077);
	ck_assert_msg(sb_file_write(path, "first", 5, 0644, &err) == SB_OK, "%s", err.msg);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0644);
	ck_assert_msg(sb_file_write(path, "2", 1, 0400, &err) == SB_OK, "%s", err.msg);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0400);
	text = test_read(path);
	ck_assert_str_eq(text, "2");
	free(text);
	ck_assert_uint_eq(entries(folder), 1);
	ck_assert_msg(sb_file_write(path, "", 0, 0600, &err) == SB_OK, "%s", err.msg);
	ck_assert_int_eq(chdir(folder), 0);
	ck_assert_msg(sb_file_write("bare", "x", 1, 0600, &err) == SB_OK, "%s", err.msg);
	ck_assert_uint_eq(entries(folder), 2);
}
END_TEST

/* The disk "fills up" half way: the old content stays, nothing is left lying around. */
START_TEST(test_write_fails_whole)
{
	const struct rlimit limit = { .rlim_cur = 1000, .rlim_max = 1000 };
	char path[TEST_PATH_MAX], folder[TEST_PATH_MAX], *text;
	char data[5000] = { 0 };
	struct sb_error err = SB_ERROR_INIT;

	test_path(path, "file");
	test_path(folder, "");
	test_write(path, "old", 0600);
	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	ck_assert_int_eq(sb_file_write(path, data, sizeof(data), 0600, &err), SB_EIO);
	ck_assert_ptr_nonnull(strstr(err.msg, "File too large"));
	ck_assert_ptr_nonnull(strstr(err.msg, path));
	text = test_read(path);
	ck_assert_str_eq(text, "old");
	free(text);
	ck_assert_uint_eq(entries(folder), 1);
	test_path(path, "none/file");
	ck_assert_int_eq(sb_file_write(path, "x", 1, 0600, &err), SB_ENOTFOUND);
	test_path(path, "folder");
	ck_assert_int_eq(mkdir(path, 0700), 0);
	ck_assert_int_lt(sb_file_write(path, "x", 1, 0600, &err), 0);
	ck_assert_uint_eq(entries(folder), 2);
}
END_TEST

START_TEST(test_folders)
{
	char path[TEST_PATH_MAX], deep[TEST_PATH_MAX], slash[TEST_PATH_MAX];
	struct sb_error err = SB_ERROR_INIT;
	struct stat st;

	test_path(path, "a");
	test_path(deep, "a/b//c/d");
	test_path(slash, "a/e/");
	ck_assert_msg(sb_dir_make(deep, 0750, &err) == SB_OK, "%s", err.msg);
	ck_assert_msg(sb_dir_make(deep, 0750, &err) == SB_OK, "%s", err.msg);
	ck_assert_msg(sb_dir_make(slash, 0700, &err) == SB_OK, "%s", err.msg);
	ck_assert_int_eq(stat(deep, &st), 0);
	ck_assert(S_ISDIR(st.st_mode));
	ck_assert_int_eq(sb_dir_sync(deep, &err), SB_OK);
	test_path(path, "a/file");
	test_write(path, "x", 0600);
	ck_assert_int_eq(sb_dir_make(path, 0700, &err), SB_EIO);
	ck_assert_int_eq(sb_dir_sync(path, &err), SB_EIO);
	test_path(path, "a/file/below");
	ck_assert_int_eq(sb_dir_make(path, 0700, &err), SB_EIO);
	ck_assert_int_eq(sb_dir_make("", 0700, &err), SB_EINVAL);
	ck_assert_int_eq(sb_dir_sync("/none/at/all", &err), SB_ENOTFOUND);
}
END_TEST

START_TEST(test_remove_follows_no_link)
{
	char path[TEST_PATH_MAX], kept[TEST_PATH_MAX], file[TEST_PATH_MAX];
	struct sb_error err = SB_ERROR_INIT;
	char *text;

	test_path(kept, "kept");
	ck_assert_int_eq(mkdir(kept, 0700), 0);
	test_path(file, "kept/file");
	test_write(file, "precious", 0600);
	test_path(path, "tree/x/y");
	ck_assert_int_eq(sb_dir_make(path, 0700, &err), SB_OK);
	test_path(path, "tree/x/link");
	ck_assert_int_eq(symlink(kept, path), 0);
	test_path(path, "tree/x/hard");
	ck_assert_int_eq(link(file, path), 0);
	test_path(path, "tree/x/y/read-only");
	test_write(path, "x", 0400);
	test_path(path, "tree");
	ck_assert_msg(sb_dir_remove(path, &err) == SB_OK, "%s", err.msg);
	ck_assert_int_ne(access(path, F_OK), 0);
	ck_assert_msg(sb_dir_remove(path, &err) == SB_OK, "missing is fine");
	text = test_read(file);
	ck_assert_str_eq(text, "precious");
	free(text);
	test_path(path, "link");
	ck_assert_int_eq(symlink(kept, path), 0);
	ck_assert_msg(sb_dir_remove(path, &err) == SB_OK, "%s", err.msg);
	ck_assert_int_eq(access(file, F_OK), 0);
	ck_assert_int_eq(sb_dir_remove("", &err), SB_EINVAL);
	ck_assert_int_eq(sb_dir_remove("/", &err), SB_EINVAL);
	ck_assert_int_eq(sb_dir_remove("..", &err), SB_EINVAL);
	ck_assert_int_eq(sb_dir_remove("./../", &err), SB_EINVAL);
}
END_TEST

START_TEST(test_remove_is_bounded)
{
	char path[TEST_PATH_MAX];
	struct sb_error err = SB_ERROR_INIT;
	int at, next;

	test_path(path, "deep");
	ck_assert_int_eq(mkdir(path, 0700), 0);
	at = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (int i = 0; i < 210; i++) {
		ck_assert_int_eq(mkdirat(at, "d", 0700), 0);
		next = openat(at, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		ck_assert_int_ge(next, 0);
		ck_assert_int_eq(close(at), 0);
		at = next;
	}
	ck_assert_int_eq(close(at), 0);
	ck_assert_int_eq(sb_dir_remove(path, &err), SB_ETOOBIG);
	ck_assert_ptr_nonnull(strstr(err.msg, "more than 200 folders in each other"));
	test_path(path, "deep/d/d/d/d/d/d/d/d/d/d/d/d");
	ck_assert_msg(sb_dir_remove(path, &err) == SB_OK, "%s", err.msg);
}
END_TEST

static const struct {
	const char *text;
	const char *hex;
} digests[] = {
	{ "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
	{ "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
};

START_TEST(test_sha256)
{
	char path[TEST_PATH_MAX], hex[65];
	struct sb_error err = SB_ERROR_INIT;
	uint64_t size = 77;

	test_path(path, "file");
	test_write(path, digests[_i].text, 0600);
	ck_assert_int_eq(sb_file_sha256(path, hex, &size, &err), SB_OK);
	ck_assert_str_eq(hex, digests[_i].hex);
	ck_assert_uint_eq(size, strlen(digests[_i].text));
	ck_assert_int_eq(sb_file_sha256(path, hex, NULL, &err), SB_OK);
	test_path(path, "none");
	ck_assert_int_eq(sb_file_sha256(path, hex, &size, &err), SB_ENOTFOUND);
}
END_TEST

START_TEST(test_sha256_of_many_blocks)
{
	char path[TEST_PATH_MAX], hex[65];
	char *data = malloc(1000000);
	struct sb_error err = SB_ERROR_INIT;
	uint64_t size = 0;

	ck_assert_ptr_nonnull(data);
	memset(data, 'a', 1000000);
	test_path(path, "million");
	ck_assert_int_eq(sb_file_write(path, data, 1000000, 0600, &err), SB_OK);
	ck_assert_int_eq(sb_file_sha256(path, hex, &size, &err), SB_OK);
	ck_assert_str_eq(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
	ck_assert_uint_eq(size, 1000000);
	free(data);
}
END_TEST

START_TEST(test_write_all_to_a_closed_pipe)
{
	struct sb_error err = SB_ERROR_INIT;
	int fds[2];

	signal(SIGPIPE, SIG_IGN);
	ck_assert_int_eq(pipe(fds), 0);
	ck_assert_int_eq(sb_write_all(fds[1], "x", 1, &err), SB_OK);
	ck_assert_int_eq(close(fds[0]), 0);
	ck_assert_int_eq(sb_write_all(fds[1], "x", 1, &err), SB_EIO);
	ck_assert_ptr_nonnull(strstr(err.msg, "Broken pipe"));
	ck_assert_int_eq(close(fds[1]), 0);
}
END_TEST

static int all_of_it(char *folder, char *file, struct sb_error *err)
{
	char *data = NULL;
	int r = sb_dir_make(folder, 0700, err);

	if (r == SB_OK)
		r = sb_file_write(file, "text", 4, 0600, err);
	if (r == SB_OK)
		r = sb_file_read(file, 10000, &data, NULL, err);
	free(data);
	data = NULL;
	if (r == SB_OK)
		r = sb_file_read_secret(file, 100, &data, NULL, err);
	free(data);
	return r;
}

START_TEST(test_out_of_memory)
{
	char folder[TEST_PATH_MAX], file[TEST_PATH_MAX];
	struct sb_error err = SB_ERROR_INIT;
	int r = SB_OK;

	test_path(folder, "a/b");
	test_path(file, "a/b/file");
	for (long n = 0;; n++) {
		fault_alloc_after(n);
		r = all_of_it(folder, file, &err);
		fault_alloc_after(-1);
		if (!fault_hit())
			break;
		ck_assert_int_eq(r, SB_ENOMEM);
	}
	ck_assert_int_eq(r, SB_OK);
	ck_assert_uint_eq(entries(folder), 1);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("file");
	TCase *tc = tcase_create("file");

	tcase_add_loop_test(tc, test_reading, 0, (int)SB_COUNT(reads));
	tcase_add_test(tc, test_read_fails);
	tcase_add_loop_test(tc, test_secret, 0, (int)SB_COUNT(secrets));
	tcase_add_test(tc, test_secret_of_others);
	tcase_add_test(tc, test_write_replaces_whole);
	tcase_add_test(tc, test_write_fails_whole);
	tcase_add_test(tc, test_folders);
	tcase_add_test(tc, test_remove_follows_no_link);
	tcase_add_test(tc, test_remove_is_bounded);
	tcase_add_loop_test(tc, test_sha256, 0, (int)SB_COUNT(digests));
	tcase_add_test(tc, test_sha256_of_many_blocks);
	tcase_add_test(tc, test_write_all_to_a_closed_pipe);
	tcase_add_test(tc, test_out_of_memory);
	suite_add_tcase(s, tc);
	return test_run(s);
}
