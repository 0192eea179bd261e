/* Opening a spool: one pass with constant memory that checks every chunk, both digests, the final tag and the size, while it writes
 * beside the destination; only a whole and true file gets its name. Runs in a worker lane. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sodium.h>
#include <zstd.h>

#include "carrier_private.h"
#include "stagebridge/file.h"

#define WRITE_SIZE     (128 * 1024)
#define WINDOW_LOG_MAX 23 /* 8 MiB: what the decoder may be made to allocate */

struct opener {
	const struct sb_manifest *m;
	int in, out;
	ZSTD_DCtx *zstd;
	bool frame_done;
	uint8_t *sealed; /* SB_CHUNK_SEALED */
	uint8_t *chunk;  /* SB_CHUNK_PLAIN */
	uint8_t *write;  /* WRITE_SIZE */
	uint64_t plain_bytes;
	crypto_secretstream_xchacha20poly1305_state stream;
	crypto_hash_sha256_state sealed_hash, plain_hash;
};

static int decompress_chunk(struct opener *o, size_t n, struct sb_error *err)
{
	ZSTD_inBuffer in = { .src = o->chunk, .size = n, .pos = 0 };
	ZSTD_outBuffer out;

	do {
		if (o->frame_done && in.pos < in.size)
			return sb_fail(err, SB_EPROTO, "bytes follow the end of the compressed stream");
		out = (ZSTD_outBuffer){ .dst = o->write, .size = WRITE_SIZE, .pos = 0 };
		size_t left = ZSTD_decompressStream(o->zstd, &out, &in);
		if (ZSTD_isError(left))
			return sb_fail(err, SB_EPROTO, "could not decompress: %s", ZSTD_getErrorName(left));
		o->frame_done = left == 0;
		o->plain_bytes += out.pos;
		if (o->plain_bytes > o->m->plain_bytes)
			return sb_fail(err, SB_EPROTO, "content is larger than its manifest says");
		crypto_hash_sha256_update(&o->plain_hash, o->write, out.pos);
		int r = sb_write_all(o->out, o->write, out.pos, err);
		if (r < 0)
			return r;
		/* a full output buffer may hide more that is still inside the decoder */
	} while (in.pos < in.size || (out.pos == out.size && !o->frame_done));
	return 0;
}

static int open_chunk(struct opener *o, uint64_t i, struct sb_error *err)
{
	size_t sealed = sb_chunk_size(o->m, i);
	char ad[SB_CHUNK_AD_MAX];
	size_t ad_len = sb_chunk_ad(ad, o->m, i);
	bool last = i + 1 == o->m->chunks;
	uint8_t tag = 0;

	int r = sb_pread_all(o->in, o->sealed, sealed, i * SB_CHUNK_SEALED, err);
	if (r < 0)
		return r;
	crypto_hash_sha256_update(&o->sealed_hash, o->sealed, sealed);
	if (crypto_secretstream_xchacha20poly1305_pull(&o->stream, o->chunk, NULL, &tag, o->sealed, sealed, (const uint8_t *)ad, ad_len) !=
		0)
		return sb_fail(err, SB_ESIG, "chunk %" PRIu64 " of %" PRIu64 " was altered or is not in its place", i, o->m->chunks);
	if (tag != (last ? crypto_secretstream_xchacha20poly1305_TAG_FINAL : crypto_secretstream_xchacha20poly1305_TAG_MESSAGE))
		return sb_fail(err, SB_ESIG, "chunk %" PRIu64 " of %" PRIu64 " %s", i, o->m->chunks,
			last ? "is not the final one" : "ends too early");
	return decompress_chunk(o, sealed - SB_CHUNK_TAG, err);
}

static int check_digest(crypto_hash_sha256_state *hash, const char *expected, const char *what, struct sb_error *err)
{
	uint8_t digest[32];
	char hex[65];

	crypto_hash_sha256_final(hash, digest);
	sb_hex(hex, digest, sizeof(digest));
	return strcmp(hex, expected) == 0 ? 0 : sb_fail(err, SB_ESIG, "digest of the %s bytes is not that of the manifest", what);
}

static int open_stream(struct opener *o, const struct sb_identity *id, struct sb_error *err)
{
	uint8_t box[32 + crypto_box_SEALBYTES];
	uint8_t header[crypto_secretstream_xchacha20poly1305_HEADERBYTES];
	uint8_t key[32];

	if (strcmp(o->m->recipient_kid, sb_identity_kid(id)) != 0)
		return sb_fail(err, SB_ESIG, "transfer is sealed to key %s, not to %s", o->m->recipient_kid, sb_identity_kid(id));
	if (sb_unbase64(box, sizeof(box), o->m->sealed_key, NULL) < 0 || sb_unbase64(header, sizeof(header), o->m->stream_header, NULL) < 0)
		return sb_fail(err, SB_EPROTO, "manifest has a bad key or header");
	int r = sb_identity_open(id, box, sizeof(box), key, sizeof(key), err);
	if (r < 0)
		return r;
	if (crypto_secretstream_xchacha20poly1305_init_pull(&o->stream, header, key) != 0)
		r = sb_fail(err, SB_ESIG, "stream header cannot be used");
	sodium_memzero(key, sizeof(key));
	return r;
}

static int open_files(struct opener *o, const char *spool_path, const char *tmp_path, struct sb_error *err)
{
	struct stat st;

	o->sealed = malloc(SB_CHUNK_SEALED);
	o->chunk = malloc(SB_CHUNK_PLAIN);
	o->write = malloc(WRITE_SIZE);
	o->zstd = ZSTD_createDCtx();
	if (!o->sealed || !o->chunk || !o->write || !o->zstd)
		return sb_fail_nomem(err);
	if (ZSTD_isError(ZSTD_DCtx_setParameter(o->zstd, ZSTD_d_windowLogMax, WINDOW_LOG_MAX)))
		return sb_fail(err, SB_EIO, "could not set up decompression");
	o->in = open(spool_path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (o->in < 0 || fstat(o->in, &st) < 0)
		return sb_fail_errno(err, errno, "could not open spool \"%s\"", spool_path);
	if ((uint64_t)st.st_size != o->m->sealed_bytes)
		return sb_fail(err, SB_ESIG, "spool holds %jd bytes, its manifest says %" PRIu64, (intmax_t)st.st_size, o->m->sealed_bytes);
	o->out = open(tmp_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (o->out < 0)
		return sb_fail_errno(err, errno, "could not make \"%s\"", tmp_path);
	crypto_hash_sha256_init(&o->sealed_hash);
	crypto_hash_sha256_init(&o->plain_hash);
	return 0;
}

static int open_content(struct opener *o, struct sb_error *err)
{
	int r = 0;

	for (uint64_t i = 0; r == 0 && i < o->m->chunks; i++)
		r = open_chunk(o, i, err);
	if (r == 0)
		r = check_digest(&o->sealed_hash, o->m->sealed_sha256, "sealed", err);
	if (r == 0 && (!o->frame_done || o->plain_bytes != o->m->plain_bytes))
		r = sb_fail(err, SB_EPROTO, "content is shorter than its manifest says");
	if (r == 0)
		r = check_digest(&o->plain_hash, o->m->plain_sha256, "plain", err);
	return r;
}

static void opener_release(struct opener *o)
{
	sb_closep(&o->in);
	sb_closep(&o->out);
	ZSTD_freeDCtx(o->zstd);
	free(o->sealed);
	free(o->chunk);
	free(o->write);
	sodium_memzero(&o->stream, sizeof(o->stream));
}

int sb_carrier_open(const struct sb_manifest *m, const char *spool_path, const char *out_path, uint64_t max_plain_bytes,
	const struct sb_identity *id, struct sb_error *err)
{
	struct opener o = { .m = m, .in = -1, .out = -1 };
	sb_cleanup(sb_freep) char *tmp_path = sb_asprintf("%s.part", out_path);

	if (!tmp_path)
		return sb_fail_nomem(err);
	if (m->plain_bytes > max_plain_bytes)
		return sb_fail(err, SB_ETOOBIG, "transfer of %" PRIu64 " bytes is larger than the limit of %" PRIu64, m->plain_bytes,
			max_plain_bytes);
	if (!sb_manifest_sizes_ok(m))
		return sb_fail(err, SB_EPROTO, "sizes of the manifest contradict each other");
	int r = open_stream(&o, id, err);
	if (r == 0)
		r = open_files(&o, spool_path, tmp_path, err);
	if (r == 0)
		r = open_content(&o, err);
	if (r == 0 && fsync(o.out) < 0)
		r = sb_fail_errno(err, errno, "could not sync \"%s\"", tmp_path);
	if (r == 0 && rename(tmp_path, out_path) < 0)
		r = sb_fail_errno(err, errno, "could not rename to \"%s\"", out_path);
	if (r < 0 && o.out >= 0)
		(void)unlink(tmp_path); /* what is left of it is overwritten next time */
	opener_release(&o);
	return r < 0 ? r : sb_parent_sync(out_path, err);
}
