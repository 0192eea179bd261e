/* Records: attributes in fixed storage, the signed bytes, signing and hopping. Pure; a record belongs to one thread at a time.
 * Invariant: what is in a record obeys every cap, so the body always fits its buffer. */
#include "stagebridge/record.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <sodium.h>

#include "record_body.h"
#include "stagebridge/hash.h"

#define SIG_BASE64_SIZE sodium_base64_ENCODED_LEN(64, sodium_base64_VARIANT_ORIGINAL)

void sb_record_init(struct sb_record *rec, const char *topic)
{
	size_t n = strnlen(topic, SB_TOPIC_MAX - 1);

	/* the store is written before it is read: clearing 8 KiB per record would cost more than signing needs */
	memcpy(rec->topic, topic, n);
	rec->topic[n] = '\0';
	rec->value = NULL;
	rec->value_len = 0;
	rec->n_attr = 0;
	rec->store_len = 0;
}

static bool attr_name_ok(const char *name, size_t n)
{
	if (n == 0 || n > SB_ATTR_NAME_MAX)
		return false;
	for (size_t i = 0; i < n; i++) {
		if (!((name[i] >= 'a' && name[i] <= 'z') || (name[i] >= '0' && name[i] <= '9')))
			return false;
	}
	return true;
}

/* CloudEvents strings hold no control characters; this also keeps them harmless in logs */
static bool attr_value_ok(const char *value, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if ((unsigned char)value[i] < 0x20 || value[i] == 0x7f)
			return false;
	}
	return sb_utf8_ok(value, n);
}

int sb_record_set(struct sb_record *rec, const char *name, const char *value, struct sb_error *err)
{
	size_t nn = strnlen(name, SB_ATTR_NAME_MAX + 1);
	size_t vn = strnlen(value, SB_ATTR_VALUE_MAX + 1);

	if (!attr_name_ok(name, nn))
		return sb_fail(err, SB_EPROTO, "attribute name is not 1 to %d characters a-z, 0-9", SB_ATTR_NAME_MAX);
	if (vn == 0 || vn > SB_ATTR_VALUE_MAX)
		return sb_fail(err, SB_EPROTO, "attribute \"%s\" is empty or longer than %d bytes", name, SB_ATTR_VALUE_MAX);
	if (!attr_value_ok(value, vn))
		return sb_fail(err, SB_EPROTO, "attribute \"%s\" is not UTF-8 text", name);
	if (sb_record_get(rec, name))
		return sb_fail(err, SB_EPROTO, "attribute \"%s\" is there twice", name);
	if (rec->n_attr == SB_ATTR_MAX || rec->store_len + nn + vn + 2 > SB_ATTRS_BYTES_MAX)
		return sb_fail(err, SB_EPROTO, "attributes are more than %d or larger than %d bytes", SB_ATTR_MAX, SB_ATTRS_BYTES_MAX);

	struct sb_attr *a = &rec->attr[rec->n_attr++];
	a->name = (uint16_t)rec->store_len;
	a->value = (uint16_t)(rec->store_len + nn + 1);
	memcpy(rec->store + a->name, name, nn + 1);
	memcpy(rec->store + a->value, value, vn + 1);
	rec->store_len += nn + vn + 2;
	return 0;
}

int sb_record_setf(struct sb_record *rec, const char *name, struct sb_error *err, const char *fmt, ...)
{
	char value[SB_ATTR_VALUE_MAX + 2];
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(value, sizeof(value), fmt, ap);
	va_end(ap);
	if (n < 0 || n > SB_ATTR_VALUE_MAX)
		return sb_fail(err, SB_EPROTO, "attribute \"%s\" is longer than %d bytes", name, SB_ATTR_VALUE_MAX);
	return sb_record_set(rec, name, value, err);
}

const char *sb_record_get(const struct sb_record *rec, const char *name)
{
	for (unsigned i = 0; i < rec->n_attr; i++) {
		if (strcmp(rec->store + rec->attr[i].name, name) == 0)
			return rec->store + rec->attr[i].value;
	}
	return NULL;
}

const char *sb_record_attr(const struct sb_record *rec, unsigned i, const char **ret_name)
{
	if (i >= rec->n_attr)
		return NULL;
	*ret_name = rec->store + rec->attr[i].name;
	return rec->store + rec->attr[i].value;
}

/* --- signed bytes --- */

static void body_add(struct sb_body *b, const void *p, size_t n)
{
	memcpy(b->p + b->n, p, n);
	b->n += n;
}

static void netstring(struct sb_body *b, const char *s, size_t n)
{
	char digits[20];
	size_t at = sizeof(digits);
	size_t rest = n;

	do {
		digits[--at] = (char)('0' + rest % 10);
		rest /= 10;
	} while (rest);
	body_add(b, digits + at, sizeof(digits) - at);
	body_add(b, ":", 1);
	body_add(b, s, n);
	body_add(b, ",", 1);
}

void sb_body_netstring(struct sb_body *b, const char *s)
{
	netstring(b, s, strlen(s));
}

static bool signed_by_owner(const char *name)
{
	static const char *const not [] = { "sbsig", "sbdest", "sbhopseq", "sbhopkid", "sbhopsig" };

	if (name[0] != 's' || name[1] != 'b')
		return true;
	for (size_t i = 0; i < SB_COUNT(not ); i++) {
		if (strcmp(name, not [i]) == 0)
			return false;
	}
	return true;
}

void sb_body_record(struct sb_body *b, const struct sb_record *rec)
{
	const struct sb_attr *sorted[SB_ATTR_MAX];
	unsigned n = 0;
	char count[12];
	char hash[65];

	/* insertion sort by byte order: at most 40 short names */
	for (unsigned i = 0; i < rec->n_attr; i++) {
		const char *name = rec->store + rec->attr[i].name;
		if (!signed_by_owner(name))
			continue;
		unsigned at = n++;
		for (; at > 0 && strcmp(rec->store + sorted[at - 1]->name, name) > 0; at--)
			sorted[at] = sorted[at - 1];
		sorted[at] = &rec->attr[i];
	}

	b->n = 0;
	sb_body_netstring(b, "stagebridge.event.v1");
	(void)snprintf(count, sizeof(count), "%u", n); /* at most 40 */
	sb_body_netstring(b, count);
	for (unsigned i = 0; i < n; i++) {
		sb_body_netstring(b, rec->store + sorted[i]->name);
		sb_body_netstring(b, rec->store + sorted[i]->value);
	}
	sb_body_netstring(b, "data");
	if (rec->value) {
		uint8_t h[32];
		sb_sha256(h, rec->value, rec->value_len);
		sb_hex(hash, h, sizeof(h));
		sb_body_netstring(b, hash);
	} else {
		sb_body_netstring(b, "null");
	}
}

void sb_body_hop(
	struct sb_body *b, const struct sb_record *rec, const uint8_t digest[32], const char *dest, const char *hopseq, const char *hopkid)
{
	char hex[65];

	sb_hex(hex, digest, 32);
	b->n = 0;
	sb_body_netstring(b, "stagebridge.hop.v1");
	sb_body_netstring(b, dest);
	sb_body_netstring(b, hopseq);
	sb_body_netstring(b, hopkid);
	sb_body_netstring(b, hex);
	sb_body_netstring(b, sb_record_get(rec, "sbsig"));
}

void sb_body_digest(const struct sb_body *b, uint8_t out[32])
{
	crypto_hash_sha256(out, (const unsigned char *)b->p, b->n);
}

void sb_record_digest(const struct sb_record *rec, uint8_t out[32])
{
	struct sb_body body;

	sb_body_record(&body, rec);
	sb_body_digest(&body, out);
}

/* --- signing --- */

int sb_record_seal(struct sb_record *rec, const struct sb_identity *id, uint8_t digest[32], struct sb_error *err)
{
	struct sb_body body;
	uint8_t sig[64];
	char b64[SIG_BASE64_SIZE];
	unsigned n_attr = rec->n_attr;
	size_t store_len = rec->store_len;

	if (rec->value_len > SB_VALUE_MAX)
		return sb_fail(err, SB_ETOOBIG, "value of %zu bytes is larger than %d", rec->value_len, SB_VALUE_MAX);
	int r = sb_record_set(rec, "sbkid", sb_identity_kid(id), err);
	if (r == 0) {
		sb_body_record(&body, rec);
		sb_body_digest(&body, digest);
		sb_identity_sign(id, SB_PAYLOAD_RECORD, body.p, body.n, sig);
		sodium_bin2base64(b64, sizeof(b64), sig, sizeof(sig), sodium_base64_VARIANT_ORIGINAL);
		r = sb_record_set(rec, "sbsig", b64, err);
	}
	if (r < 0) {
		rec->n_attr = n_attr;
		rec->store_len = store_len;
	}
	return r;
}

int sb_record_sign(struct sb_record *rec, const struct sb_identity *id, struct sb_error *err)
{
	uint8_t digest[32];

	return sb_record_seal(rec, id, digest, err);
}

int sb_record_hop(struct sb_record *rec, const struct sb_identity *hub, const char *dest, uint64_t hopseq, struct sb_error *err)
{
	struct sb_body body;
	uint8_t digest[32], sig[64];
	char seq[24], b64[SIG_BASE64_SIZE];
	unsigned n_attr = rec->n_attr;
	size_t store_len = rec->store_len;

	if (!sb_record_get(rec, "sbsig"))
		return sb_fail(err, SB_EINVAL, "cannot forward a record that its owner has not signed");
	(void)snprintf(seq, sizeof(seq), "%020" PRIu64, hopseq); /* always 20 digits */
	sb_record_digest(rec, digest);
	sb_body_hop(&body, rec, digest, dest, seq, sb_identity_kid(hub));
	sb_identity_sign(hub, SB_PAYLOAD_HOP, body.p, body.n, sig);
	sodium_bin2base64(b64, sizeof(b64), sig, sizeof(sig), sodium_base64_VARIANT_ORIGINAL);

	int r = sb_record_set(rec, "sbdest", dest, err);
	if (r == 0)
		r = sb_record_set(rec, "sbhopseq", seq, err);
	if (r == 0)
		r = sb_record_set(rec, "sbhopkid", sb_identity_kid(hub), err);
	if (r == 0)
		r = sb_record_set(rec, "sbhopsig", b64, err);
	if (r < 0) {
		rec->n_attr = n_attr;
		rec->store_len = store_len;
	}
	return r;
}
