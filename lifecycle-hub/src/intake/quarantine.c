/* Quarantine. Intake and relay lanes, inside their transactions. What is kept is bounded: 64 KiB of a value, 90 days of rows (intake.c). */
#include "quarantine.h"

#include <string.h>

#include <sodium.h>

#include "stagebridge/log.h"
#include "stagebridge/metric.h"
#include "store/store.h"

#define VALUE_KEPT (64 * 1024)

static const char insert_sql[] =
	"INSERT INTO lifecycle.quarantine (stage, topic, record_offset, class, reason, source, type, entity_key, attrs, value) "
	"VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING";

static const char *text(const char *s)
{
	if (!s)
		return "";
	return sb_utf8_ok(s, strlen(s)) ? s : "(not text)";
}

static void tell(const char *topic, int64_t offset, const struct hub_refusal *why)
{
	struct sb_error err = SB_ERROR_INIT;

	(void)sb_fail(&err, SB_EREFUSED, "%s at offset %lld: %s: %s", topic, (long long)offset, why->class, text(why->reason));
	sb_log_limited(SB_WARN, "record_quarantined", why->class, &err);
	sb_metric_add(
		sb_metric("stagebridge_quarantined_total", SB_COUNTER, "reason", "Records and rows refused by the hub"), why->class, 1);
}

static int insert(struct sb_pg *pg, const char *topic, int64_t offset, const struct hub_refusal *why, const char *source,
	const struct sb_buf *attrs, const void *value, size_t value_len, struct sb_error *err)
{
	char number[HUB_NUM];
	const char *param[] = { why->stage, topic, hub_num(number, offset), why->class, text(why->reason), text(source), text(why->type),
		text(why->key), attrs ? attrs->data : NULL, value };
	int len[] = { -1, -1, -1, -1, -1, -1, -1, -1, attrs ? (int)attrs->len : -1, value ? (int)value_len : -1 };

	return sb_pg_exec_bin(pg, insert_sql, SB_COUNT(param), param, len, NULL, err);
}

int hub_quarantine(struct sb_pg *pg, const struct sb_inrecord *in, const struct hub_refusal *why, struct sb_error *err)
{
	struct sb_buf attrs;
	size_t n = in->rec.value_len < VALUE_KEPT ? in->rec.value_len : VALUE_KEPT;

	sb_buf_init(&attrs, SB_ATTRS_BYTES_MAX + 64);
	int r = hub_attrs_pack(&in->rec, &attrs, err);
	/* a refused row leaves its record to the rest of the batch: only whole records are kept */
	if (r == 0 && why->key)
		r = insert(pg, in->rec.topic, in->offset, why, sb_record_get(&in->rec, "source"), NULL, NULL, 0, err);
	else if (r == 0)
		r = insert(pg, in->rec.topic, in->offset, why, sb_record_get(&in->rec, "source"), &attrs, in->rec.value, n, err);
	sb_buf_release(&attrs);
	if (r == 0)
		tell(in->rec.topic, in->offset, why);
	return r;
}

int hub_quarantine_offset(struct sb_pg *pg, const char *topic, int64_t offset, const struct hub_refusal *why, struct sb_error *err)
{
	int r = insert(pg, topic, offset, why, NULL, NULL, NULL, 0, err);
	if (r == 0)
		tell(topic, offset, why);
	return r;
}

static bool state_is_poison(const char *state, bool dynamic)
{
	static const char *const data[] = { "0A", "22", "23", "54" };      /* unsupported, bad value, constraint, over a limit */
	static const char *const statement[] = { "2B", "42", "44", "P0" }; /* no such object, no right, refused by a function */

	for (size_t i = 0; i < SB_COUNT(data); i++) {
		if (strncmp(state, data[i], 2) == 0 || (dynamic && strncmp(state, statement[i], 2) == 0))
			return true;
	}
	return false;
}

bool hub_is_poison(const struct sb_error *why, bool dynamic)
{
	if (strlen(why->state) == 5)
		return state_is_poison(why->state, dynamic);
	switch (why->code) {
	case SB_EINVAL:
	case SB_ENOTFOUND:
	case SB_ETOOBIG:
	case SB_EPROTO:
	case SB_ESIG:
	case SB_EAUTH:
	case SB_EDATA:
	case SB_ESTATE:
	case SB_EREFUSED:
		return true;
	case SB_OK:
	case SB_ENOMEM:
	case SB_ECONFLICT:
	case SB_ETIMEOUT:
	case SB_EAGAIN:
	case SB_EIO:
	case SB_EKAFKA:
	case SB_EDB:
	case SB_EGIT:
	case SB_EHTTP:
	case SB_ECONFIG:
	case SB_ESHUTDOWN:
		return false;
	}
	return false;
}

void hub_key_hash(char out[33], const struct sb_shape *shape, const struct sb_change *c)
{
	crypto_hash_sha256_state st;
	uint8_t digest[crypto_hash_sha256_BYTES];
	uint64_t n;

	crypto_hash_sha256_init(&st);
	for (unsigned i = 0; i < c->n_cells && i < shape->n_columns; i++) {
		if (!shape->column[i].key)
			continue;
		n = c->cell[i].n;
		crypto_hash_sha256_update(&st, (const unsigned char *)&n, sizeof(n));
		if (n)
			crypto_hash_sha256_update(&st, (const unsigned char *)c->cell[i].p, n);
	}
	crypto_hash_sha256_final(&st, digest);
	sb_hex(out, digest, 16);
}
