/* A fuzz target without a fuzzer: main() that replays the files and folders it is given. Include it once, after
 * LLVMFuzzerTestOneInput's own includes; with SB_LIBFUZZER the fuzzer brings its own main and this header only
 * declares. SB_FUZZ_ROUNDS=n in the environment feeds n damaged variants of every file too, always the same. */
#ifndef SB_TESTS_FUZZ_DRIVER_H
#define SB_TESTS_FUZZ_DRIVER_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#ifndef SB_LIBFUZZER

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define FUZZ_FILE_MAX (4u << 20)

static uint64_t fuzz_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Some bytes changed, or a piece cut out, or a piece doubled. */
static size_t fuzz_damage(uint8_t *data, size_t size, size_t cap, uint64_t *state)
{
	size_t at = (size_t)(fuzz_next(state) % size), n = (size_t)(fuzz_next(state) % (size - at)) + 1;

	switch (fuzz_next(state) % 4) {
	case 0:
		memmove(data + at, data + at + n, size - at - n);
		return size - n;
	case 1:
		if (size + n > cap)
			return size;
		memmove(data + at + n, data + at, size - at);
		return size + n;
	default:
		for (uint64_t i = fuzz_next(state) % 4 + 1; i > 0; i--)
			data[fuzz_next(state) % size] = (uint8_t)fuzz_next(state);
		return size;
	}
}

/* The data is handed on in a block of exactly its size, so that a sanitizer sees the first byte read behind it. */
static void fuzz_feed(const uint8_t *data, size_t size)
{
	uint8_t *exact = malloc(size > 0 ? size : 1);

	if (exact == NULL)
		abort();
	if (size > 0)
		memcpy(exact, data, size);
	(void)LLVMFuzzerTestOneInput(exact, size); /* says nothing: a finding is a crash */
	free(exact);
}

static int fuzz_file(const char *path, unsigned long rounds)
{
	FILE *f = fopen(path, "rbe");
	uint8_t *data = malloc(FUZZ_FILE_MAX), *copy = malloc(FUZZ_FILE_MAX);
	uint64_t state = 0x9e3779b97f4a7c15u;
	size_t size;

	if (f == NULL || data == NULL || copy == NULL) {
		perror(path);
		abort();
	}
	size = fread(data, 1, FUZZ_FILE_MAX, f);
	(void)fclose(f); /* was read only */
	fuzz_feed(data, size);
	for (unsigned long i = 0; size > 0 && i < rounds; i++) {
		size_t n = size;
		memcpy(copy, data, size);
		for (uint64_t k = fuzz_next(&state) % 3 + 1; k > 0 && n > 0; k--)
			n = fuzz_damage(copy, n, FUZZ_FILE_MAX, &state);
		fuzz_feed(copy, n);
	}
	free(data);
	free(copy);
	return 1;
}

static int fuzz_path(const char *path, unsigned long rounds)
{
	struct stat st;
	struct dirent **list = NULL;
	char name[4096];
	int n, fed = 0;

	if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode))
		return fuzz_file(path, rounds);
	n = scandir(path, &list, NULL, alphasort);
	for (int i = 0; i < n; i++) {
		if (list[i]->d_name[0] != '.' &&
			snprintf(name, sizeof(name), "%s/%s", path, list[i]->d_name) < (int)sizeof(name))
			fed += fuzz_path(name, rounds);
		free(list[i]);
	}
	free(list);
	return fed;
}

int main(int argc, char **argv)
{
	const char *rounds = getenv("SB_FUZZ_ROUNDS");
	int fed = 0;

	for (int i = 1; i < argc; i++)
		fed += fuzz_path(argv[i], rounds != NULL ? strtoul(rounds, NULL, 10) : 0);
	printf("%d inputs replayed\n", fed);
	return fed > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

#endif
#endif
