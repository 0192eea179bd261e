/* The manifest of a transfer and the names of its chunk records: JSON both ways, sizes checked against each other. Pure; any thread,
 * one manifest at a time. */
#include "stagebridge/carrier.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <sodium.h>

#include "carrier_private.h"
#include "json_strict.h"
#include "stagebridge/clock.h"

#define SEALED_KEY_BYTES (crypto_secretstream_xchacha20poly1305_KEYBYTES + crypto_box_SEALBYTES)
#define CHUNKS_MAX       (UINT64_C(1) << 32) /* 2 PiB */

_Static_assert(SB_CHUNK_TAG == crypto_secretstream_xchacha20poly1305_ABYTES, "chunk size follows libsodium");

void sb_manifest_release(struct sb_manifest *m)
{
	json_decref(m->meta);
	m->meta = NULL;
}

json_t *sb_manifest_json(const struct sb_manifest *m)
{
	char expires[SB_TIME_LEN + 1];
	json_auto_t *meta = m->meta ? json_incref(m->meta) : json_object();

	sb_time_format(expires, m->expires_ms);
	return json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:s, s:s, s:s, s:s, s:s, s:s, s:O}", "transfer", m->transfer, "kind", m->kind,
		"from", m->from, "to", m->to, "plain_bytes", (json_int_t)m->plain_bytes, "sealed_bytes", (json_int_t)m->sealed_bytes,
		"chunks", (json_int_t)m->chunks, "plain_sha256", m->plain_sha256, "sealed_sha256", m->sealed_sha256, "recipient_kid",
		m->recipient_kid, "sealed_key", m->sealed_key, "stream_header", m->stream_header, "expires", expires, "meta", meta);
}

bool sb_manifest_sizes_ok(const struct sb_manifest *m)
{
	/* every chunk but the last is full, the last holds at least one byte */
	if (m->chunks == 0 || m->chunks > CHUNKS_MAX)
		return false;
	uint64_t before = (m->chunks - 1) * SB_CHUNK_SEALED;
	return m->sealed_bytes > before + SB_CHUNK_TAG && m->sealed_bytes <= before + SB_CHUNK_SEALED;
}

size_t sb_chunk_size(const struct sb_manifest *m, uint64_t i)
{
	return i + 1 < m->chunks ? SB_CHUNK_SEALED : (size_t)(m->sealed_bytes - (m->chunks - 1) * SB_CHUNK_SEALED);
}

size_t sb_chunk_ad(char out[SB_CHUNK_AD_MAX], const struct sb_manifest *m, uint64_t i)
{
	char index[24], count[24];
	int in = snprintf(index, sizeof(index), "%" PRIu64, i);
	int cn = snprintf(count, sizeof(count), "%" PRIu64, m->chunks);

	return (size_t)snprintf(out, SB_CHUNK_AD_MAX, "%zu:%s,%d:%s,%d:%s,", strlen(m->transfer), m->transfer, in, index, cn, count);
}

/* Copies text that must be one of the fixed-size fields; false when it does not fit. */
static bool copy_text(char *out, size_t size, const json_t *o, const char *key)
{
	const char *s = sb_json_string(o, key);
	size_t n = s ? strlen(s) : size;

	if (n >= size)
		return false;
	memcpy(out, s, n + 1);
	return true;
}

static bool copy_base64(char *out, size_t size, size_t bytes, const json_t *o, const char *key)
{
	uint8_t raw[128];

	return copy_text(out, size, o, key) && sb_unbase64(raw, bytes, out, NULL) == 0;
}

static bool kind_ok(const char *kind)
{
	return strcmp(kind, "pack") == 0 || strcmp(kind, "dataset") == 0 || strcmp(kind, "blob") == 0;
}

/* NULL, or the key that is wrong */
static const char *parse_fields(struct sb_manifest *m, const json_t *o)
{
	if (!copy_text(m->transfer, sizeof(m->transfer), o, "transfer") || !sb_id_ok(m->transfer))
		return "transfer";
	if (!copy_text(m->kind, sizeof(m->kind), o, "kind") || !kind_ok(m->kind))
		return "kind";
	if (!copy_text(m->from, sizeof(m->from), o, "from") || !sb_name_ok(m->from))
		return "from";
	if (!copy_text(m->to, sizeof(m->to), o, "to") || !sb_name_ok(m->to) || strcmp(m->from, m->to) == 0)
		return "to";
	if (!sb_json_u64(o, "plain_bytes", &m->plain_bytes))
		return "plain_bytes";
	if (!sb_json_u64(o, "chunks", &m->chunks))
		return "chunks";
	if (!sb_json_u64(o, "sealed_bytes", &m->sealed_bytes) || !sb_manifest_sizes_ok(m))
		return "sealed_bytes";
	if (!copy_text(m->plain_sha256, sizeof(m->plain_sha256), o, "plain_sha256") || !sb_hex_ok(m->plain_sha256, 64))
		return "plain_sha256";
	if (!copy_text(m->sealed_sha256, sizeof(m->sealed_sha256), o, "sealed_sha256") || !sb_hex_ok(m->sealed_sha256, 64))
		return "sealed_sha256";
	if (!copy_text(m->recipient_kid, sizeof(m->recipient_kid), o, "recipient_kid") || !sb_hex_ok(m->recipient_kid, SB_KID_LEN))
		return "recipient_kid";
	if (!copy_base64(m->sealed_key, sizeof(m->sealed_key), SEALED_KEY_BYTES, o, "sealed_key"))
		return "sealed_key";
	if (!copy_base64(m->stream_header, sizeof(m->stream_header), crypto_secretstream_xchacha20poly1305_HEADERBYTES, o, "stream_header"))
		return "stream_header";
	if (!sb_json_time(o, "expires", &m->expires_ms))
		return "expires";
	if (!json_is_object(json_object_get(o, "meta")))
		return "meta";
	return NULL;
}

int sb_manifest_parse(struct sb_manifest *ret, const json_t *json, uint64_t max_bytes, struct sb_error *err)
{
	static const char *const keys[] = { "transfer", "kind", "from", "to", "plain_bytes", "sealed_bytes", "chunks", "plain_sha256",
		"sealed_sha256", "recipient_kid", "sealed_key", "stream_header", "expires", "meta" };
	struct sb_manifest m = { .meta = NULL };

	int r = sb_json_closed(json, keys, SB_COUNT(keys), "manifest", err);
	if (r < 0)
		return r;
	const char *wrong = parse_fields(&m, json);
	if (wrong)
		return sb_fail(err, SB_EPROTO, "manifest has a bad \"%s\"", wrong);
	if (m.plain_bytes > max_bytes)
		return sb_fail(
			err, SB_ETOOBIG, "transfer of %" PRIu64 " bytes is larger than the limit of %" PRIu64, m.plain_bytes, max_bytes);
	/* compression never adds more than a little: more chunks than that are somebody filling a disk */
	if (m.sealed_bytes - m.chunks * SB_CHUNK_TAG > m.plain_bytes + m.plain_bytes / 128 + 64 * 1024)
		return sb_fail(err, SB_EPROTO, "manifest has more sealed bytes than its plain bytes can need");
	m.meta = json_incref(json_object_get(json, "meta"));
	*ret = m;
	return 0;
}

static bool number_until(const char *s, size_t n, uint64_t *ret)
{
	char copy[24];

	if (n == 0 || n >= sizeof(copy))
		return false;
	memcpy(copy, s, n);
	copy[n] = '\0';
	return sb_parse_u64(copy, 0, CHUNKS_MAX, "chunk", ret, NULL) == 0;
}

int sb_chunk_index(const struct sb_record *rec, const char **ret_transfer, uint64_t *ret_index, uint64_t *ret_count, struct sb_error *err)
{
	const char *transfer = sb_record_get(rec, "sbtransfer");
	const char *chunk = sb_record_get(rec, "sbchunk");
	const char *sequence = sb_record_get(rec, "sequence");
	const char *slash = chunk ? strchr(chunk, '/') : NULL;
	char expected[24];
	uint64_t index, count;

	if (!transfer || !sb_id_ok(transfer))
		return sb_fail(err, SB_EPROTO, "chunk has no \"sbtransfer\", or a bad one");
	if (!slash || !number_until(chunk, (size_t)(slash - chunk), &index) || !number_until(slash + 1, strlen(slash + 1), &count) ||
		index >= count)
		return sb_fail(err, SB_EPROTO, "chunk has no \"sbchunk\", or a bad one");
	(void)snprintf(expected, sizeof(expected), "%020" PRIu64, index + 2); /* the manifest is 1; always 20 digits */
	if (!sequence || strcmp(sequence, expected) != 0)
		return sb_fail(err, SB_EPROTO, "chunk has a sequence that is not its index plus 2");
	*ret_transfer = transfer;
	*ret_index = index;
	*ret_count = count;
	return 0;
}
