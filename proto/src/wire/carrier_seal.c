/* Sealing a file into a spool. Two passes over the spool, constant memory: the first compresses into the places of the chunks, the
 * second seals each in its place, because every chunk is bound to the number of all. Runs in a worker lane; the file appears under its
 * name only when it is whole. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <sodium.h>
#include <zstd.h>

#include "carrier_private.h"
#include "stagebridge/file.h"

#define READ_SIZE (128 * 1024)
#define LEVEL     3

struct sealer {
	struct sb_manifest *m;
	int in, out;
	ZSTD_CCtx *zstd;
	uint8_t *read;   /* READ_SIZE */
	uint8_t *chunk;  /* SB_CHUNK_PLAIN */
	uint8_t *sealed; /* SB_CHUNK_SEALED */
	size_t fill;     /* bytes in chunk */
	crypto_hash_sha256_state plain_hash;
};

/* Chunks are written when the next byte comes, so the last one is never empty. */
static int flush_chunk(struct sealer *s, struct sb_error *err)
{
	int r = sb_pwrite_all(s->out, s->chunk, s->fill, s->m->chunks * SB_CHUNK_SEALED, err);
	if (r < 0)
		return r;
	s->m->chunks++;
	s->m->sealed_bytes += s->fill + SB_CHUNK_TAG;
	s->fill = 0;
	return 0;
}

/* One piece of input; with end, everything that is still inside comes out. */
static int compress_piece(struct sealer *s, size_t n, bool end, struct sb_error *err)
{
	ZSTD_inBuffer in = { .src = s->read, .size = n, .pos = 0 };
	size_t left;

	do {
		if (s->fill == SB_CHUNK_PLAIN) {
			int r = flush_chunk(s, err);
			if (r < 0)
				return r;
		}
		ZSTD_outBuffer out = { .dst = s->chunk, .size = SB_CHUNK_PLAIN, .pos = s->fill };
		left = ZSTD_compressStream2(s->zstd, &out, &in, end ? ZSTD_e_end : ZSTD_e_continue);
		if (ZSTD_isError(left))
			return sb_fail(err, SB_EIO, "could not compress: %s", ZSTD_getErrorName(left));
		s->fill = out.pos;
	} while (end ? left > 0 : in.pos < in.size);
	return 0;
}

static int compress_all(struct sealer *s, const char *in_path, struct sb_error *err)
{
	ssize_t n;
	int r = 0;

	do {
		n = read(s->in, s->read, READ_SIZE);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return sb_fail_errno(err, errno, "could not read \"%s\"", in_path);
		crypto_hash_sha256_update(&s->plain_hash, s->read, (size_t)n);
		s->m->plain_bytes += (uint64_t)n;
		r = compress_piece(s, (size_t)n, n == 0, err);
	} while (r == 0 && n != 0);
	return r < 0 ? r : flush_chunk(s, err);
}

static int seal_all(struct sealer *s, const uint8_t key[32], struct sb_error *err)
{
	crypto_secretstream_xchacha20poly1305_state stream;
	crypto_hash_sha256_state hash;
	uint8_t header[crypto_secretstream_xchacha20poly1305_HEADERBYTES];
	uint8_t digest[32];
	int r = 0;

	(void)crypto_secretstream_xchacha20poly1305_init_push(&stream, header, key); /* always 0 */
	sodium_bin2base64(s->m->stream_header, sizeof(s->m->stream_header), header, sizeof(header), sodium_base64_VARIANT_ORIGINAL);
	crypto_hash_sha256_init(&hash);
	for (uint64_t i = 0; r == 0 && i < s->m->chunks; i++) {
		size_t sealed = sb_chunk_size(s->m, i);
		size_t plain = sealed - SB_CHUNK_TAG;
		char ad[SB_CHUNK_AD_MAX];
		size_t ad_len = sb_chunk_ad(ad, s->m, i);
		uint8_t tag = i + 1 == s->m->chunks ? crypto_secretstream_xchacha20poly1305_TAG_FINAL
						    : crypto_secretstream_xchacha20poly1305_TAG_MESSAGE;

		r = sb_pread_all(s->out, s->chunk, plain, i * SB_CHUNK_SEALED, err);
		if (r < 0)
			break;
		(void)crypto_secretstream_xchacha20poly1305_push(
			&stream, s->sealed, NULL, s->chunk, plain, (const uint8_t *)ad, ad_len, tag); /* always 0 */
		crypto_hash_sha256_update(&hash, s->sealed, sealed);
		r = sb_pwrite_all(s->out, s->sealed, sealed, i * SB_CHUNK_SEALED, err);
	}
	sodium_memzero(&stream, sizeof(stream));
	crypto_hash_sha256_final(&hash, digest);
	sb_hex(s->m->sealed_sha256, digest, sizeof(digest));
	return r;
}

static int seal_key(struct sb_manifest *m, const struct sb_key *recipient, const uint8_t key[32], struct sb_error *err)
{
	uint8_t box[32 + crypto_box_SEALBYTES];

	if (crypto_box_seal(box, key, 32, recipient->box_pk) != 0)
		return sb_fail(err, SB_EINVAL, "box key of %s cannot be used", recipient->kid);
	sodium_bin2base64(m->sealed_key, sizeof(m->sealed_key), box, sizeof(box), sodium_base64_VARIANT_ORIGINAL);
	memcpy(m->recipient_kid, recipient->kid, sizeof(m->recipient_kid));
	return 0;
}

static int sealer_open(struct sealer *s, const char *in_path, const char *tmp_path, struct sb_error *err)
{
	s->read = malloc(READ_SIZE);
	s->chunk = malloc(SB_CHUNK_PLAIN);
	s->sealed = malloc(SB_CHUNK_SEALED);
	s->zstd = ZSTD_createCCtx();
	if (!s->read || !s->chunk || !s->sealed || !s->zstd)
		return sb_fail_nomem(err);
	if (ZSTD_isError(ZSTD_CCtx_setParameter(s->zstd, ZSTD_c_compressionLevel, LEVEL)) ||
		ZSTD_isError(ZSTD_CCtx_setParameter(s->zstd, ZSTD_c_checksumFlag, 1)))
		return sb_fail(err, SB_EIO, "could not set up compression");
	s->in = open(in_path, O_RDONLY | O_CLOEXEC);
	if (s->in < 0)
		return sb_fail_errno(err, errno, "could not open \"%s\"", in_path);
	s->out = open(tmp_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (s->out < 0)
		return sb_fail_errno(err, errno, "could not make \"%s\"", tmp_path);
	crypto_hash_sha256_init(&s->plain_hash);
	return 0;
}

static void sealer_release(struct sealer *s)
{
	sb_closep(&s->in);
	sb_closep(&s->out);
	ZSTD_freeCCtx(s->zstd);
	free(s->read);
	free(s->chunk);
	free(s->sealed);
}

int sb_carrier_seal(
	struct sb_manifest *m, const char *in_path, const char *spool_path, const struct sb_key *recipient, struct sb_error *err)
{
	struct sealer s = { .m = m, .in = -1, .out = -1 };
	sb_cleanup(sb_freep) char *tmp_path = sb_asprintf("%s.part", spool_path);
	uint8_t key[crypto_secretstream_xchacha20poly1305_KEYBYTES];
	uint8_t digest[32];

	if (sodium_init() < 0)
		return sb_fail(err, SB_EIO, "could not initialise libsodium");
	if (!tmp_path)
		return sb_fail_nomem(err);
	m->plain_bytes = m->sealed_bytes = m->chunks = 0;
	crypto_secretstream_xchacha20poly1305_keygen(key);
	int r = seal_key(m, recipient, key, err);
	if (r == 0)
		r = sealer_open(&s, in_path, tmp_path, err);
	if (r == 0)
		r = compress_all(&s, in_path, err);
	if (r == 0) {
		crypto_hash_sha256_final(&s.plain_hash, digest);
		sb_hex(m->plain_sha256, digest, sizeof(digest));
		r = seal_all(&s, key, err);
	}
	sodium_memzero(key, sizeof(key));
	if (r == 0 && fsync(s.out) < 0)
		r = sb_fail_errno(err, errno, "could not sync \"%s\"", tmp_path);
	if (r == 0 && rename(tmp_path, spool_path) < 0)
		r = sb_fail_errno(err, errno, "could not rename to \"%s\"", spool_path);
	if (r < 0 && s.out >= 0)
		(void)unlink(tmp_path); /* what is left of it is overwritten next time */
	sealer_release(&s);
	return r < 0 ? r : sb_parent_sync(spool_path, err);
}
