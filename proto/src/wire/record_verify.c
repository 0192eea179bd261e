/* Judging a record before its value is parsed, in the order of SPEC.md: form, type, route, signatures, what the key may say, time.
 * Pure; any thread. The key that verified decides, never a name in the record; err->state carries the reason class. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <sodium.h>

#include "record_body.h"
#include "stagebridge/clock.h"
#include "stagebridge/record.h"

/* Records wait on the broker for up to its retention: a key that has run out regularly still vouches for what it signed in its time.
 * A stolen key is revoked, which has no grace. */
#define KEY_GRACE_MS    (30LL * 24 * 3600 * 1000)

#define SESSION_DIGITS  10
#define SEQUENCE_DIGITS 20

struct check {
	const struct sb_record *rec;
	const struct sb_keyring *kr;
	const char *tenant, *dest;
	int64_t now_ms;
	const struct sb_event_info *info;
	struct sb_meta meta;
	struct sb_body body;
	const char *kid, *sig;
	bool from_hub;
};

/* Puts the reason class beside the error that was just made. */
static int because(struct sb_error *err, const char *reason, int rc)
{
	if (err)
		(void)snprintf(err->state, sizeof(err->state), "%s", reason);
	return rc;
}

static bool digits_parse(const char *s, size_t digits, uint64_t *ret)
{
	uint64_t v = 0;

	if (strlen(s) != digits)
		return false;
	for (size_t i = 0; i < digits; i++) {
		if (s[i] < '0' || s[i] > '9')
			return false;
		if (__builtin_mul_overflow(v, (uint64_t)10, &v) || __builtin_add_overflow(v, (uint64_t)(s[i] - '0'), &v))
			return false;
	}
	*ret = v;
	return true;
}

static bool stream_ok(const char *s)
{
	char before = '/';

	for (; *s; s++) {
		bool plain = (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9') || strchr("._-", *s);
		if (!plain && !(*s == '/' && before != '/'))
			return false;
		before = *s;
	}
	return before != '/';
}

static int check_required(struct check *c, struct sb_error *err)
{
	static const char *const required[] = { "specversion", "id", "source", "type", "time", "datacontenttype", "partitionkey",
		"sbtenant", "sbstage", "sbsession", "sequence", "sbkid", "sbsig" };

	if (!c->rec->value || c->rec->value_len > SB_VALUE_MAX)
		return because(err, "malf", sb_fail(err, SB_EPROTO, "value is absent or larger than %d bytes", SB_VALUE_MAX));
	for (size_t i = 0; i < SB_COUNT(required); i++) {
		if (!sb_record_get(c->rec, required[i]))
			return because(err, "malf", sb_fail(err, SB_EPROTO, "attribute \"%s\" is missing", required[i]));
	}
	if (strcmp(sb_record_get(c->rec, "specversion"), "1.0") != 0)
		return because(err, "malf", sb_fail(err, SB_EPROTO, "attribute \"specversion\" is not \"1.0\""));
	return 0;
}

static int check_syntax(struct check *c, struct sb_error *err)
{
	const struct sb_record *rec = c->rec;
	struct sb_meta *m = &c->meta;
	const char *session = sb_record_get(rec, "sbsession");
	const char *sequence = sb_record_get(rec, "sequence");
	const char *prev = sb_record_get(rec, "sbprev");
	const char *expiry = sb_record_get(rec, "expirytime");
	const char *wrong = NULL;

	m->id = sb_record_get(rec, "id");
	m->source = sb_record_get(rec, "source");
	m->key = sb_record_get(rec, "partitionkey");
	m->tenant = sb_record_get(rec, "sbtenant");
	m->stage = sb_record_get(rec, "sbstage");
	c->kid = sb_record_get(rec, "sbkid");
	c->sig = sb_record_get(rec, "sbsig");
	c->from_hub = strcmp(m->stage, "hub") == 0;

	if (!digits_parse(session, SESSION_DIGITS, &m->session) || m->session == 0)
		wrong = "sbsession";
	else if (!digits_parse(sequence, SEQUENCE_DIGITS, &m->sequence) || m->sequence == 0)
		wrong = "sequence";
	else if (strlen(m->id) != SESSION_DIGITS + 1 + SEQUENCE_DIGITS || strncmp(m->id, session, SESSION_DIGITS) != 0 ||
		 m->id[SESSION_DIGITS] != '-' || strcmp(m->id + SESSION_DIGITS + 1, sequence) != 0)
		wrong = "id";
	else if (!sb_name_ok(m->tenant))
		wrong = "sbtenant";
	else if (!sb_name_ok(m->stage))
		wrong = "sbstage";
	else if (!sb_time_parse(sb_record_get(rec, "time"), &m->time_ms))
		wrong = "time";
	else if (expiry && (!sb_time_parse(expiry, &m->expiry_ms) || m->expiry_ms <= 0))
		wrong = "expirytime";
	else if (prev && (!sb_hex_ok(prev, 64) || sb_unhex(m->prev, sizeof(m->prev), prev, NULL) < 0))
		wrong = "sbprev";
	else if (!sb_hex_ok(c->kid, SB_KID_LEN))
		wrong = "sbkid";
	if (wrong)
		return because(err, "malf", sb_fail(err, SB_EPROTO, "attribute \"%s\" is malformed", wrong));
	m->has_prev = prev != NULL;
	return 0;
}

/* stagebridge://<tenant>/<stage>/agent/<stream>, stagebridge://<tenant>/hub/<stream> */
static int check_source(struct check *c, struct sb_error *err)
{
	char prefix[SB_SOURCE_MAX];
	struct sb_meta *m = &c->meta;

	int n = snprintf(prefix, sizeof(prefix), "stagebridge://%s/%s/%s", m->tenant, m->stage, c->from_hub ? "" : "agent/");
	if (n < 0 || (size_t)n >= sizeof(prefix) || strlen(m->source) >= SB_SOURCE_MAX || strncmp(m->source, prefix, (size_t)n) != 0 ||
		!stream_ok(m->source + n))
		return because(err, "route", sb_fail(err, SB_EPROTO, "attribute \"source\" is not one of \"sbtenant\" and \"sbstage\""));
	m->stream = m->source + n;
	return 0;
}

static int check_type(struct check *c, struct sb_error *err)
{
	c->meta.event = sb_event_find(sb_record_get(c->rec, "type"));
	if (c->meta.event < 0)
		return because(err, "type", sb_fail(err, SB_EPROTO, "record type is not known"));
	c->info = sb_event_info((enum sb_event)c->meta.event);
	/* the newest record of a silent stage could be shown forever, did it not run out */
	if (c->meta.event == SB_EV_HEARTBEAT_SENT && !c->meta.expiry_ms)
		return because(err, "malf", sb_fail(err, SB_EPROTO, "heartbeat has no \"expirytime\""));
	return 0;
}

static int check_route(struct check *c, struct sb_error *err)
{
	struct sb_meta *m = &c->meta;
	const char *target = sb_record_get(c->rec, "sbtarget");
	const char *hop_dest = sb_record_get(c->rec, "sbdest");
	bool hop = hop_dest || sb_record_get(c->rec, "sbhopseq") || sb_record_get(c->rec, "sbhopkid") || sb_record_get(c->rec, "sbhopsig");
	bool up, carried;
	const char *wrong = NULL;

	if (sb_topic_parse(c->rec->topic, &m->topic, err) < 0)
		return because(err, "route", SB_EPROTO);
	up = m->topic.direction == SB_UP;
	carried = c->info->class != SB_EVENT; /* entities and transfers travel down as well */
	if (strcmp(m->topic.tenant, c->tenant) != 0 || strcmp(m->tenant, c->tenant) != 0)
		wrong = "is of another tenant";
	else if (m->topic.class != c->info->class)
		wrong = "is of a type that does not belong on this topic";
	else if (strcmp(c->dest, up ? "hub" : m->topic.stage) != 0)
		wrong = "is on a topic that this receiver does not read";
	else if (up && (strcmp(m->stage, m->topic.stage) != 0 || hop || target))
		wrong = "on an up topic is not one of its stage, or was forwarded";
	else if (!up && c->from_hub && (hop || !target || strcmp(target, c->dest) != 0))
		wrong = "of the hub is meant for another stage";
	else if (!up && !c->from_hub && (!hop_dest || strcmp(hop_dest, c->dest) != 0))
		wrong = "was not forwarded to this stage by the hub";
	else if (!carried && m->topic.direction != c->info->direction)
		wrong = "is of a type that goes the other way";
	if (wrong)
		return because(err, "route", sb_fail(err, SB_EPROTO, "record %s", wrong));
	m->hopped = hop;
	return 0;
}

static int check_signature(
	struct check *c, const char *kid, const char *sig_b64, const char *payload_type, const struct sb_key **ret, struct sb_error *err)
{
	uint8_t sig[64];
	size_t n = 0;
	const char *end = NULL;

	if (sodium_base642bin(sig, sizeof(sig), sig_b64, strlen(sig_b64), NULL, &n, &end, sodium_base64_VARIANT_ORIGINAL) != 0 ||
		n != sizeof(sig) || *end != '\0')
		return because(err, "malf", sb_fail(err, SB_EPROTO, "signature is not base64 of 64 bytes"));
	const struct sb_key *key = sb_keyring_find(c->kr, kid);
	if (!key)
		return because(err, "forge", sb_fail(err, SB_ESIG, "key %s is not in the keyring", kid));
	if (!sb_dsse_verify(key->sign_pk, payload_type, c->body.p, c->body.n, sig))
		return because(err, "forge", sb_fail(err, SB_ESIG, "signature by key %s does not hold", kid));
	*ret = key;
	return 0;
}

static int check_key_valid(const struct sb_key *key, int64_t from_ms, int64_t at_ms, int64_t now_ms, struct sb_error *err)
{
	if (key->revoked)
		return because(err, "auth", sb_fail(err, SB_EAUTH, "key %s is revoked", key->kid));
	if (from_ms < key->not_before_ms - SB_CLOCK_SKEW_MS || at_ms > key->not_after_ms + SB_CLOCK_SKEW_MS ||
		now_ms > key->not_after_ms + KEY_GRACE_MS)
		return because(err, "auth", sb_fail(err, SB_EAUTH, "key %s was not valid at that time", key->kid));
	return 0;
}

static int check_owner(struct check *c, struct sb_error *err)
{
	struct sb_meta *m = &c->meta;
	const struct sb_key *key = NULL;
	bool may;

	sb_body_record(&c->body, c->rec);
	sb_body_digest(&c->body, m->digest);
	int r = check_signature(c, c->kid, c->sig, SB_PAYLOAD_RECORD, &key, err);
	if (r < 0)
		return r;
	/* a hub may speak its own types and its own transfers; entities are their owner's alone */
	if (c->from_hub)
		may = key->role == SB_ROLE_HUB && (c->info->direction == SB_DOWN || c->info->class == SB_DATA);
	else
		may = key->role == SB_ROLE_AGENT && c->info->direction == SB_UP;
	if (!may || strcmp(key->tenant, m->tenant) != 0 || strcmp(key->stage, m->stage) != 0)
		return because(err, "auth", sb_fail(err, SB_EAUTH, "key %s may not say this", key->kid));
	m->signer = key;
	return check_key_valid(key, m->time_ms, m->time_ms, c->now_ms, err);
}

static int check_hop(struct check *c, struct sb_error *err)
{
	const char *seq = sb_record_get(c->rec, "sbhopseq");
	const char *kid = sb_record_get(c->rec, "sbhopkid");
	const char *sig = sb_record_get(c->rec, "sbhopsig");
	const struct sb_key *key = NULL;
	uint64_t n;

	if (!seq || !kid || !sig || !digits_parse(seq, SEQUENCE_DIGITS, &n) || !sb_hex_ok(kid, SB_KID_LEN))
		return because(err, "malf", sb_fail(err, SB_EPROTO, "hop attributes are incomplete or malformed"));
	sb_body_hop(&c->body, c->rec, c->meta.digest, c->dest, seq, kid);
	int r = check_signature(c, kid, sig, SB_PAYLOAD_HOP, &key, err);
	if (r < 0)
		return r;
	if (key->role != SB_ROLE_HUB || strcmp(key->tenant, c->tenant) != 0)
		return because(err, "auth", sb_fail(err, SB_EAUTH, "key %s may not forward", key->kid));
	/* a hop carries no time of its own: it was made after the owner's and before now */
	return check_key_valid(key, c->now_ms, c->meta.time_ms, c->now_ms, err);
}

int sb_record_verify(const struct sb_record *rec, const struct sb_keyring *kr, const char *tenant, const char *dest, int64_t now_ms,
	struct sb_meta *ret, struct sb_error *err)
{
	struct check c = { .rec = rec, .kr = kr, .tenant = tenant, .dest = dest, .now_ms = now_ms };
	int (*const steps[])(
		struct check *, struct sb_error *) = { check_required, check_syntax, check_source, check_type, check_route, check_owner };
	int r = 0;

	for (size_t i = 0; r == 0 && i < SB_COUNT(steps); i++)
		r = steps[i](&c, err);
	if (r == 0 && c.meta.hopped)
		r = check_hop(&c, err);
	if (r < 0)
		return r;
	if (c.meta.expiry_ms && now_ms > c.meta.expiry_ms + SB_CLOCK_SKEW_MS)
		return because(err, "stale", sb_fail(err, SB_EAUTH, "record has run out"));
	*ret = c.meta;
	return 0;
}
