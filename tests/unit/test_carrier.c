/* The carrier: sealed files come back whole or not at all; what was altered, moved, cut or swapped is found; spools resume by index. */
#include <check.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sodium.h>

#include "devkeys.h"
#include "stagebridge/carrier.h"
#include "stagebridge/clock.h"
#include "support.h"

#define TRANSFER "06ejq0mbjwxsh3tg5v1r2k8c4e"

static struct devkeys keys;

static void setup(void)
{
	devkeys_make(&keys);
}

static void teardown(void)
{
	devkeys_release(&keys);
}

struct sample {
	char in[TEST_PATH_MAX], spool[TEST_PATH_MAX], out[TEST_PATH_MAX];
	struct sb_manifest m;
};

static void sample_paths(struct sample *s)
{
	*s = (struct sample){ .m = { .transfer = TRANSFER, .kind = "blob", .from = "prod", .to = "train", .expires_ms = DEVKEYS_NOW_MS } };
	test_path(s->in, "in");
	test_path(s->spool, "spool");
	test_path(s->out, "out");
}

/* Seals n bytes: noise does not compress, the rest is one letter. */
static void sample_make(struct sample *s, size_t n, bool noise)
{
	struct sb_error err = SB_ERROR_INIT;
	char *bytes = malloc(n + 1);
	static const uint8_t seed[randombytes_SEEDBYTES] = { 7 };

	ck_assert_ptr_nonnull(bytes);
	sample_paths(s);
	memset(bytes, 'a', n);
	if (noise)
		randombytes_buf_deterministic(bytes, n, seed);
	ck_assert_int_eq(sb_file_write(s->in, bytes, n, 0600, &err), 0);
	free(bytes);
	const struct sb_key *to = sb_keyring_party(keys.keyring, DEVKEYS_TENANT, "train", DEVKEYS_NOW_MS);
	ck_assert_msg(sb_carrier_seal(&s->m, s->in, s->spool, to, &err) == 0, "%s", err.msg);
}

static int sample_open(const struct sample *s, struct sb_error *err)
{
	return sb_carrier_open(&s->m, s->spool, s->out, UINT64_MAX, keys.train, err);
}

static void ck_refused(const struct sample *s, int expect, const char *text)
{
	struct sb_error err = SB_ERROR_INIT;
	char part[TEST_PATH_MAX + 8];

	int r = sample_open(s, &err);
	ck_assert_msg(r == expect, "%d: %s", r, err.msg);
	ck_assert_msg(strstr(err.msg, text), "%s", err.msg);
	ck_assert_int_ne(access(s->out, F_OK), 0);
	ck_assert_int_eq(sb_format(part, sizeof(part), NULL, "%s.part", s->out), 0);
	ck_assert_int_ne(access(part, F_OK), 0);
}

static void flip(const char *path, off_t at)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	uint8_t b;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pread(fd, &b, 1, at), 1);
	b ^= 1;
	ck_assert_int_eq(pwrite(fd, &b, 1, at), 1);
	ck_assert_int_eq(close(fd), 0);
}

static const struct {
	size_t bytes;
	bool noise;
	uint64_t chunks;
} sizes[] = {
	{ 0, false, 1 },
	{ 1, false, 1 },
	{ 300000, true, 1 },
	{ SB_CHUNK_PLAIN, true, 2 },
	{ 3 * SB_CHUNK_PLAIN, true, 4 },
	{ 8000000, false, 1 },
	{ 2000001, true, 4 },
};

START_TEST(test_round_trip)
{
	struct sample s;
	struct sb_error err = SB_ERROR_INIT;
	struct sb_manifest copy;
	struct stat st;
	char a[65], b[65];
	uint64_t na, nb;

	sample_make(&s, sizes[_i].bytes, sizes[_i].noise);
	ck_assert_uint_eq(s.m.chunks, sizes[_i].chunks);
	ck_assert_uint_eq(s.m.plain_bytes, sizes[_i].bytes);
	ck_assert_int_eq(stat(s.spool, &st), 0);
	ck_assert_uint_eq((uint64_t)st.st_size, s.m.sealed_bytes);
	ck_assert_uint_eq(st.st_mode & 0777, 0600);
	/* by way of its JSON, as a receiver has it */
	json_auto_t *json = sb_manifest_json(&s.m);
	ck_assert_msg(sb_manifest_parse(&copy, json, sizes[_i].bytes, &err) == 0, "%s", err.msg);
	s.m = copy;
	ck_assert_msg(sample_open(&s, &err) == 0, "%s", err.msg);
	ck_assert_int_eq(sb_file_sha256(s.in, a, &na, &err), 0);
	ck_assert_int_eq(sb_file_sha256(s.out, b, &nb, &err), 0);
	ck_assert_str_eq(a, b);
	ck_assert_str_eq(a, s.m.plain_sha256);
	ck_assert_uint_eq(na, nb);
	ck_assert_int_eq(stat(s.out, &st), 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0600);
	sb_manifest_release(&s.m);
}
END_TEST

START_TEST(test_chunk_bounds)
{
	struct sample s;
	struct sb_error err = SB_ERROR_INIT;

	/* noise of which the compressed form ends near the end of a chunk */
	for (size_t n = SB_CHUNK_PLAIN - 40; n <= SB_CHUNK_PLAIN; n++) {
		sample_make(&s, n, true);
		ck_assert_msg(sample_open(&s, &err) == 0, "%zu: %s", n, err.msg);
		ck_assert_uint_le(s.m.chunks, 2);
	}
}
END_TEST

START_TEST(test_altered_chunk)
{
	struct sample s;

	sample_make(&s, 2000000, true);
	flip(s.spool, 0);
	ck_refused(&s, SB_ESIG, "chunk 0 of 4");
	flip(s.spool, 0);
	flip(s.spool, 2 * SB_CHUNK_SEALED + 1000);
	ck_refused(&s, SB_ESIG, "chunk 2 of 4");
	flip(s.spool, 2 * SB_CHUNK_SEALED + 1000);
	flip(s.spool, (off_t)s.m.sealed_bytes - 1);
	ck_refused(&s, SB_ESIG, "chunk 3 of 4");
}
END_TEST

START_TEST(test_swapped_chunks)
{
	struct sample s;
	static uint8_t a[SB_CHUNK_SEALED], b[SB_CHUNK_SEALED];
	struct sb_error err = SB_ERROR_INIT;
	size_t n;

	sample_make(&s, 2000000, true);
	int fd = open(s.spool, O_RDWR | O_CLOEXEC);
	ck_assert_int_eq(sb_spool_read(fd, &s.m, 0, a, &n, &err), 0);
	ck_assert_int_eq(sb_spool_read(fd, &s.m, 1, b, &n, &err), 0);
	ck_assert_int_eq(pwrite(fd, b, n, 0), (ssize_t)n);
	ck_assert_int_eq(pwrite(fd, a, n, SB_CHUNK_SEALED), (ssize_t)n);
	ck_assert_int_eq(close(fd), 0);
	ck_refused(&s, SB_ESIG, "chunk 0");
}
END_TEST

/* A manifest made to fit a stream without its end: the number of chunks is bound into every chunk. */
START_TEST(test_cut_with_fitting_manifest)
{
	struct sample s;
	struct sb_error err = SB_ERROR_INIT;
	uint64_t size;

	sample_make(&s, 2000000, true);
	s.m.chunks--;
	s.m.sealed_bytes = s.m.chunks * SB_CHUNK_SEALED;
	ck_assert_int_eq(truncate(s.spool, (off_t)s.m.sealed_bytes), 0);
	ck_assert_int_eq(sb_file_sha256(s.spool, s.m.sealed_sha256, &size, &err), 0);
	ck_refused(&s, SB_ESIG, "chunk 0 of 3");
}
END_TEST

START_TEST(test_missing_end)
{
	struct sample s;

	sample_make(&s, 2000000, true);
	ck_assert_int_eq(truncate(s.spool, 3 * SB_CHUNK_SEALED), 0);
	ck_refused(&s, SB_ESIG, "spool holds");
	ck_assert_int_eq(unlink(s.spool), 0);
	ck_refused(&s, SB_ENOTFOUND, "spool");
}
END_TEST

/* A stream that ends in an ordinary chunk, as a careless or dishonest sender would make it: the reader insists on FINAL. */
static void seal_by_hand(struct sample *s, const char *plain, size_t n, uint8_t tag)
{
	crypto_secretstream_xchacha20poly1305_state st;
	uint8_t key[32] = { 1 }, header[24], box[80], sealed[256], digest[32];
	char ad[64];
	struct sb_error err = SB_ERROR_INIT;

	sample_paths(s);
	ck_assert_int_eq(sb_format(ad, sizeof(ad), NULL, "26:%s,1:0,1:1,", TRANSFER), 0);
	ck_assert_int_eq(crypto_secretstream_xchacha20poly1305_init_push(&st, header, key), 0);
	ck_assert_int_eq(crypto_secretstream_xchacha20poly1305_push(
				 &st, sealed, NULL, (const uint8_t *)plain, n, (const uint8_t *)ad, strlen(ad), tag),
		0);
	ck_assert_int_eq(crypto_box_seal(box, key, sizeof(key), sb_identity_box_pk(keys.train)), 0);
	sodium_bin2base64(s->m.sealed_key, sizeof(s->m.sealed_key), box, sizeof(box), sodium_base64_VARIANT_ORIGINAL);
	sodium_bin2base64(s->m.stream_header, sizeof(s->m.stream_header), header, sizeof(header), sodium_base64_VARIANT_ORIGINAL);
	memcpy(s->m.recipient_kid, sb_identity_kid(keys.train), SB_KID_LEN + 1);
	s->m.chunks = 1;
	s->m.sealed_bytes = n + 17;
	crypto_hash_sha256(digest, sealed, n + 17);
	sb_hex(s->m.sealed_sha256, digest, 32);
	ck_assert_int_eq(sb_file_write(s->spool, sealed, n + 17, 0600, &err), 0);
}

START_TEST(test_insists_on_the_end)
{
	/* zstd frame of no content, and what else a sender might put there */
	static const char frame[] = "\x28\xb5\x2f\xfd\x24\x00\x01\x00\x00\x99\xe9\xd8\x51";
	struct sample s;
	struct sb_error err = SB_ERROR_INIT;
	uint64_t n;

	seal_by_hand(&s, frame, 13, crypto_secretstream_xchacha20poly1305_TAG_FINAL);
	ck_assert_int_eq(sb_file_write(s.in, "", 0, 0600, &err), 0);
	ck_assert_int_eq(sb_file_sha256(s.in, s.m.plain_sha256, &n, &err), 0);
	ck_assert_msg(sample_open(&s, &err) == 0, "%s", err.msg);
	ck_assert_int_eq(unlink(s.out), 0);
	seal_by_hand(&s, frame, 13, crypto_secretstream_xchacha20poly1305_TAG_MESSAGE);
	ck_refused(&s, SB_ESIG, "is not the final one");
	seal_by_hand(&s, frame, 12, crypto_secretstream_xchacha20poly1305_TAG_FINAL);
	ck_refused(&s, SB_EPROTO, "shorter");
	seal_by_hand(&s, "not zstd", 8, crypto_secretstream_xchacha20poly1305_TAG_FINAL);
	ck_refused(&s, SB_EPROTO, "decompress");
	seal_by_hand(&s, "\x28\xb5\x2f\xfd\x24\x00\x01\x00\x00\x99\xe9\xd8\x51x", 14, crypto_secretstream_xchacha20poly1305_TAG_FINAL);
	ck_refused(&s, SB_EPROTO, "follow");
	/* the manifest promises an empty file: a bomb stops at its first byte */
	seal_by_hand(&s, "\x28\xb5\x2f\xfd\x20\x05\x29\x00\x00hello", 14, crypto_secretstream_xchacha20poly1305_TAG_FINAL);
	ck_refused(&s, SB_EPROTO, "larger than its manifest");
}
END_TEST

START_TEST(test_wrong_recipient_and_limits)
{
	struct sample s;
	struct sb_error err = SB_ERROR_INIT;

	sample_make(&s, 1000, true);
	ck_assert_int_eq(sb_carrier_open(&s.m, s.spool, s.out, UINT64_MAX, keys.dev, &err), SB_ESIG);
	ck_assert_int_eq(sb_carrier_open(&s.m, s.spool, s.out, 999, keys.train, &err), SB_ETOOBIG);
	ck_assert_int_eq(sb_carrier_open(&s.m, s.spool, s.out, 1000, keys.train, &err), 0);
	ck_assert_int_eq(unlink(s.out), 0);
	memcpy(s.m.recipient_kid, sb_identity_kid(keys.dev), SB_KID_LEN + 1);
	ck_assert_int_eq(sb_carrier_open(&s.m, s.spool, s.out, UINT64_MAX, keys.dev, &err), SB_ESIG);
	memcpy(s.m.recipient_kid, sb_identity_kid(keys.train), SB_KID_LEN + 1);
	s.m.plain_sha256[0] = s.m.plain_sha256[0] == '0' ? '1' : '0';
	ck_refused(&s, SB_ESIG, "plain");
	s.m.sealed_sha256[0] = s.m.sealed_sha256[0] == '0' ? '1' : '0';
	ck_refused(&s, SB_ESIG, "sealed");
}
END_TEST

START_TEST(test_seal_failures)
{
	struct sample s;
	struct sb_error err = SB_ERROR_INIT;
	const struct sb_key *to = sb_keyring_party(keys.keyring, DEVKEYS_TENANT, "train", DEVKEYS_NOW_MS);

	sample_paths(&s);
	ck_assert_int_eq(sb_carrier_seal(&s.m, s.in, s.spool, to, &err), SB_ENOTFOUND);
	ck_assert_int_ne(access(s.spool, F_OK), 0);
	ck_assert_int_eq(sb_file_write(s.in, "x", 1, 0600, &err), 0);
	ck_assert_int_eq(sb_carrier_seal(&s.m, s.in, "/nonexistent/spool", to, &err), SB_ENOTFOUND);
}
END_TEST

START_TEST(test_resume)
{
	struct sample s;
	static uint8_t buf[SB_CHUNK_SEALED];
	struct sb_error err = SB_ERROR_INIT;
	char copy[TEST_PATH_MAX];
	uint64_t next = 99;
	size_t n;

	sample_make(&s, 2000000, true);
	test_path(copy, "copy");
	ck_assert_int_eq(sb_spool_received(copy, &s.m, &next, &err), 0);
	ck_assert_uint_eq(next, 0);
	int from = open(s.spool, O_RDONLY | O_CLOEXEC), to = open(copy, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ck_assert_int_eq(sb_spool_read(from, &s.m, 0, buf, &n, &err), 0);
	ck_assert_int_eq(sb_spool_append(to, &s.m, &next, 1, buf, n, &err), SB_ECONFLICT);
	ck_assert_int_eq(sb_spool_append(to, &s.m, &next, 4, buf, n, &err), SB_EPROTO);
	ck_assert_int_eq(sb_spool_append(to, &s.m, &next, 0, buf, n - 1, &err), SB_EPROTO);
	ck_assert_int_eq(sb_spool_append(to, &s.m, &next, 0, buf, n, &err), 0);
	ck_assert_uint_eq(next, 1);
	ck_assert_int_eq(sb_spool_append(to, &s.m, &next, 0, buf, n, &err), 0); /* again: no effect */
	ck_assert_uint_eq(next, 1);

	/* killed in the middle of the second */
	ck_assert_int_eq(sb_spool_read(from, &s.m, 1, buf, &n, &err), 0);
	ck_assert_int_eq(pwrite(to, buf, 1000, SB_CHUNK_SEALED), 1000);
	ck_assert_int_eq(sb_spool_received(copy, &s.m, &next, &err), 0);
	ck_assert_uint_eq(next, 1);
	ck_assert_int_eq(lseek(to, 0, SEEK_END), SB_CHUNK_SEALED);
	for (uint64_t i = next; i < s.m.chunks; i++) {
		ck_assert_int_eq(sb_spool_read(from, &s.m, i, buf, &n, &err), 0);
		ck_assert_int_eq(sb_spool_append(to, &s.m, &next, i, buf, n, &err), 0);
	}
	ck_assert_int_eq(sb_spool_received(copy, &s.m, &next, &err), 0);
	ck_assert_uint_eq(next, s.m.chunks);
	ck_assert_int_eq(sb_spool_read(from, &s.m, 4, buf, &n, &err), SB_EINVAL);
	ck_assert_int_eq(close(from), 0);
	ck_assert_int_eq(close(to), 0);
	ck_assert_int_eq(sb_carrier_open(&s.m, copy, s.out, UINT64_MAX, keys.train, &err), 0);
}
END_TEST

static void ck_manifest(const struct sample *s, const char *key, json_t *value, int expect)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_manifest m = { .meta = NULL };
	json_auto_t *json = sb_manifest_json(&s->m);

	if (value)
		(void)json_object_set_new(json, key, value);
	else
		(void)json_object_del(json, key);
	int r = sb_manifest_parse(&m, json, 1000000, &err);
	ck_assert_msg(r == expect, "%s: %d (%s)", key, r, err.msg);
	sb_manifest_release(&m);
}

START_TEST(test_manifest_rules)
{
	static const char *const all[] = { "transfer", "kind", "from", "to", "plain_bytes", "sealed_bytes", "chunks", "plain_sha256",
		"sealed_sha256", "recipient_kid", "sealed_key", "stream_header", "expires", "meta" };
	struct sample s;

	sample_make(&s, 600000, true);
	ck_manifest(&s, "kind", json_string("dataset"), 0);
	for (size_t i = 0; i < SB_COUNT(all); i++) {
		ck_manifest(&s, all[i], NULL, SB_EPROTO);
		ck_manifest(&s, all[i], json_true(), SB_EPROTO);
		ck_manifest(&s, all[i], json_string("?"), SB_EPROTO);
		ck_manifest(&s, all[i], json_integer(-1), SB_EPROTO);
	}
	ck_manifest(&s, "more", json_true(), SB_EPROTO);
	ck_manifest(&s, "to", json_string("prod"), SB_EPROTO); /* the sender itself */
	ck_manifest(&s, "plain_bytes", json_integer(1000001), SB_ETOOBIG);
	ck_manifest(&s, "plain_bytes", json_integer(1), SB_EPROTO); /* 600,000 sealed bytes of one byte */
	ck_manifest(&s, "chunks", json_integer(0), SB_EPROTO);
	ck_manifest(&s, "chunks", json_integer(1), SB_EPROTO);
	ck_manifest(&s, "chunks", json_integer(3), SB_EPROTO);
	ck_manifest(&s, "chunks", json_integer(INT64_MAX), SB_EPROTO);
	ck_manifest(&s, "sealed_bytes", json_integer(SB_CHUNK_SEALED + 17), SB_EPROTO);
	ck_manifest(&s, "sealed_bytes", json_integer(2 * SB_CHUNK_SEALED + 1), SB_EPROTO);
	ck_manifest(&s, "sealed_bytes", json_integer(INT64_MAX), SB_EPROTO);
	ck_manifest(&s, "expires", json_string("2026-03-02"), SB_EPROTO);
	ck_manifest(&s, "meta", json_array(), SB_EPROTO);
}
END_TEST

START_TEST(test_vectors)
{
	json_error_t je;
	json_auto_t *file = json_load_file("proto/vectors/carrier.json", 0, &je);
	size_t i, j, n;
	json_t *v, *chunk;

	ck_assert_msg(file, "%s", je.text);
	ck_assert_uint_gt(json_array_size(json_object_get(file, "vectors")), 4);
	json_array_foreach(json_object_get(file, "vectors"), i, v)
	{
		const char *name = json_string_value(json_object_get(v, "name"));
		struct sb_error err = SB_ERROR_INIT;
		struct sample s;
		uint8_t bytes[4096];
		uint64_t next = 0;

		sample_paths(&s);
		(void)unlink(s.spool);
		(void)unlink(s.out);
		int r = sb_manifest_parse(&s.m, json_object_get(v, "manifest"), 4096, &err);
		int fd = open(s.spool, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		json_array_foreach(json_object_get(v, "chunks"), j, chunk)
		{
			const char *b64 = json_string_value(chunk);
			ck_assert_int_eq(
				sodium_base642bin(bytes, sizeof(bytes), b64, strlen(b64), NULL, &n, NULL, sodium_base64_VARIANT_ORIGINAL),
				0);
			if (r == 0)
				r = sb_spool_append(fd, &s.m, &next, j, bytes, n, &err);
		}
		ck_assert_int_eq(close(fd), 0);
		if (r == 0)
			r = sample_open(&s, &err);
		ck_assert_msg(strcmp(sb_code_name((enum sb_code)r), json_string_value(json_object_get(v, "expect"))) == 0, "%s: %s (%s)",
			name, sb_code_name((enum sb_code)r), err.msg);
		if (r == 0) {
			sb_cleanup(sb_freep) char *got = NULL;
			ck_assert_int_eq(sb_file_read(s.out, 4096, &got, &n, &err), 0);
			sb_cleanup(sb_freep) char *b64 = sb_base64((const uint8_t *)got, n);
			ck_assert_str_eq(b64, json_string_value(json_object_get(v, "plain")));
		}
		sb_manifest_release(&s.m);
	}
}
END_TEST

static const struct {
	const char *transfer, *chunk, *sequence;
	bool ok;
} indexes[] = {
	{ TRANSFER, "0/1", "00000000000000000002", true },
	{ TRANSFER, "41/42", "00000000000000000043", true },
	{ TRANSFER, "42/42", "00000000000000000044", false },
	{ TRANSFER, "0/1", "00000000000000000003", false },
	{ TRANSFER, "0", "00000000000000000002", false },
	{ TRANSFER, "/1", "00000000000000000002", false },
	{ TRANSFER, "0/", "00000000000000000002", false },
	{ TRANSFER, "-1/1", "00000000000000000002", false },
	{ TRANSFER, "0/1/1", "00000000000000000002", false },
	{ TRANSFER, "0/99999999999999999999999", "00000000000000000002", false },
	{ "x", "0/1", "00000000000000000002", false },
	{ TRANSFER, NULL, "00000000000000000002", false },
	{ NULL, "0/1", "00000000000000000002", false },
	{ TRANSFER, "0/1", NULL, false },
};

START_TEST(test_chunk_index)
{
	struct sb_record rec;
	struct sb_error err = SB_ERROR_INIT;
	const char *transfer = NULL;
	uint64_t index = 99, count = 99;

	sb_record_init(&rec, "t");
	if (indexes[_i].transfer)
		ck_assert_int_eq(sb_record_set(&rec, "sbtransfer", indexes[_i].transfer, &err), 0);
	if (indexes[_i].chunk)
		ck_assert_int_eq(sb_record_set(&rec, "sbchunk", indexes[_i].chunk, &err), 0);
	if (indexes[_i].sequence)
		ck_assert_int_eq(sb_record_set(&rec, "sequence", indexes[_i].sequence, &err), 0);
	ck_assert_int_eq(sb_chunk_index(&rec, &transfer, &index, &count, &err), indexes[_i].ok ? 0 : SB_EPROTO);
	if (indexes[_i].ok) {
		ck_assert_str_eq(transfer, TRANSFER);
		ck_assert_uint_lt(index, count);
	} else {
		ck_assert_uint_eq(index, 99);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("carrier");
	TCase *tc = tcase_create("carrier");

	tcase_add_unchecked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, test_round_trip, 0, (int)SB_COUNT(sizes));
	tcase_add_test(tc, test_chunk_bounds);
	tcase_add_test(tc, test_altered_chunk);
	tcase_add_test(tc, test_swapped_chunks);
	tcase_add_test(tc, test_cut_with_fitting_manifest);
	tcase_add_test(tc, test_missing_end);
	tcase_add_test(tc, test_insists_on_the_end);
	tcase_add_test(tc, test_wrong_recipient_and_limits);
	tcase_add_test(tc, test_seal_failures);
	tcase_add_test(tc, test_resume);
	tcase_add_test(tc, test_manifest_rules);
	tcase_add_test(tc, test_vectors);
	tcase_add_loop_test(tc, test_chunk_index, 0, (int)SB_COUNT(indexes));
	suite_add_tcase(s, tc);
	return test_run(s);
}
