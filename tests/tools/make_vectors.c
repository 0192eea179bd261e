/* Prints one file of known answers: make_vectors keyring|records|batches|carrier > proto/vectors/<name>.json
 * Keys, times and, for the carrier, random bytes come from fixed seeds, so the same build prints the same file. TEST KEYS ONLY. */
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>
#include <sodium.h>

#include "devkeys.h"
#include "stagebridge/carrier.h"
#include "stagebridge/change.h"
#include "stagebridge/clock.h"
#include "stagebridge/stream.h"

#define NOW   "2026-03-02T09:15:01.234Z"
#define LATER "2026-03-02T09:15:31.234Z"

static struct devkeys keys;

static void need(bool ok, const char *what, const struct sb_error *err)
{
	if (!ok)
		devkeys_fail(what, err);
}

/* Returns new. */
static json_t *base64(const void *p, size_t n)
{
	sb_cleanup(sb_freep) char *s = sb_base64(p, n);

	return json_string(s);
}

static json_t *hex(const void *p, size_t n)
{
	char text[129];

	sb_hex(text, p, n);
	return json_string(text);
}

/* --- keyring --- */

/* The payload of the folder's keyring, to be altered. Returns new. */
static json_t *keyring_payload(void)
{
	struct sb_error err = SB_ERROR_INIT;
	char path[128];
	sb_cleanup(sb_freep) char *text = NULL;
	size_t n = 0, raw_len = 0;
	unsigned char raw[16384];

	need(sb_format(path, sizeof(path), &err, "%s/keyring.json", keys.dir) == 0 && sb_file_read(path, 1 << 20, &text, &n, &err) == 0,
		"read", &err);
	json_auto_t *envelope = json_loads(text, 0, NULL);
	const char *b64 = json_string_value(json_object_get(envelope, "payload"));
	need(b64 && sodium_base642bin(raw, sizeof(raw), b64, strlen(b64), NULL, &raw_len, NULL, sodium_base64_VARIANT_ORIGINAL) == 0,
		"payload", &err);
	return json_loadb((const char *)raw, raw_len, 0, NULL);
}

/* Takes the payload. Returns new: the envelope as text. */
static json_t *envelope_of(json_t *payload, const char *type, const struct sb_identity *signer, int variant)
{
	sb_cleanup(sb_freep) char *body = json_dumps(payload, JSON_COMPACT);
	char b64[32768], sig64[128];
	uint8_t sig[64];

	sb_identity_sign(signer, SB_PAYLOAD_KEYRING, body, strlen(body), sig);
	sodium_bin2base64(b64, sizeof(b64), (const unsigned char *)body, strlen(body), variant);
	sodium_bin2base64(sig64, sizeof(sig64), sig, sizeof(sig), variant);
	json_auto_t *e = json_pack("{s:s, s:s, s:[{s:s, s:s}]}", "payloadType", type, "payload", b64, "signatures", "keyid",
		sb_identity_kid(signer), "sig", sig64);
	sb_cleanup(sb_freep) char *text = json_dumps(e, JSON_COMPACT);
	json_decref(payload);
	return json_string(text);
}

static json_t *row(json_t *payload, size_t i)
{
	return json_array_get(json_object_get(payload, "keys"), i);
}

/* Takes the envelope. */
static void keyring_vector(json_t *out, const char *name, json_t *envelope, const char *now, const char *expect)
{
	(void)json_array_append_new(
		out, json_pack("{s:s, s:o, s:s, s:s}", "name", name, "envelope", envelope, "now", now, "expect", expect));
}

static json_t *make_keyring(void)
{
	const int std = sodium_base64_VARIANT_ORIGINAL;
	json_t *out = json_array();
	json_t *p;

	keyring_vector(out, "good", envelope_of(keyring_payload(), SB_PAYLOAD_KEYRING, keys.root, std), NOW, "OK");
	keyring_vector(out, "good, url-safe base64",
		envelope_of(keyring_payload(), SB_PAYLOAD_KEYRING, keys.root, sodium_base64_VARIANT_URLSAFE), NOW, "OK");
	keyring_vector(out, "signed by another key", envelope_of(keyring_payload(), SB_PAYLOAD_KEYRING, keys.hub, std), NOW, "ESIG");
	keyring_vector(out, "another payload type", envelope_of(keyring_payload(), "application/json", keys.root, std), NOW, "EPROTO");
	keyring_vector(
		out, "run out", envelope_of(keyring_payload(), SB_PAYLOAD_KEYRING, keys.root, std), "2100-01-01T00:00:00.000Z", "EAUTH");
	p = keyring_payload();
	(void)json_array_append(json_object_get(p, "keys"), row(p, 0));
	keyring_vector(out, "the same key twice", envelope_of(p, SB_PAYLOAD_KEYRING, keys.root, std), NOW, "EPROTO");
	p = keyring_payload();
	(void)json_object_set_new(row(p, 1), "kid", json_string("0000000000000000"));
	keyring_vector(out, "kid of another key", envelope_of(p, SB_PAYLOAD_KEYRING, keys.root, std), NOW, "EPROTO");
	p = keyring_payload();
	(void)json_object_set_new(row(p, 1), "stage", json_string("hub"));
	keyring_vector(out, "agent that calls itself hub", envelope_of(p, SB_PAYLOAD_KEYRING, keys.root, std), NOW, "EPROTO");
	p = keyring_payload();
	(void)json_object_set_new(row(p, 1), "comment", json_string("hello"));
	keyring_vector(out, "unknown key in a row", envelope_of(p, SB_PAYLOAD_KEYRING, keys.root, std), NOW, "EPROTO");
	p = keyring_payload();
	(void)json_object_del(p, "expires");
	keyring_vector(out, "no end", envelope_of(p, SB_PAYLOAD_KEYRING, keys.root, std), NOW, "EPROTO");
	return json_pack("{s:s, s:o, s:o}", "note", "TEST KEYS ONLY. The envelope is text: read it as it is.", "root_pk",
		hex(keys.root_pk, 32), "vectors", out);
}

/* --- records --- */

struct party {
	struct sb_stream_out stream;
	const struct sb_identity *id;
};

static struct party party(const char *stage, const char *stream, const struct sb_identity *id, bool chained)
{
	struct party p = { .id = id };

	sb_stream_out_init(&p.stream, DEVKEYS_TENANT, stage, stream, 7, chained);
	return p;
}

/* extra: name, value, ..., NULL */
static void make_record(struct sb_record *rec, struct party *p, const char *topic, enum sb_event event, const char *key,
	const char *content_type, const void *value, size_t n, const char *const *extra)
{
	struct sb_error err = SB_ERROR_INIT;

	sb_record_init(rec, topic);
	rec->value = value;
	rec->value_len = n;
	bool timed = false;
	for (; extra && *extra; extra += 2) {
		need(sb_record_set(rec, extra[0], extra[1], &err) == 0, extra[0], &err);
		timed = timed || strcmp(extra[0], "time") == 0;
	}
	need(timed || sb_record_set(rec, "time", NOW, &err) == 0, "time", &err);
	need(sb_stream_stamp(&p->stream, rec, event, key, content_type, p->id, &err) == 0, "stamp", &err);
}

/* Returns new. */
static json_t *record_json(const struct sb_record *rec)
{
	uint8_t digest[32];
	json_t *attributes = json_array();
	const char *name, *value;

	for (unsigned i = 0; (value = sb_record_attr(rec, i, &name)); i++)
		(void)json_array_append_new(attributes, json_pack("[s, s]", name, value));
	sb_record_digest(rec, digest);
	return json_pack("{s:s, s:o, s:o, s:o}", "topic", rec->topic, "attributes", attributes, "value", base64(rec->value, rec->value_len),
		"digest", hex(digest, 32));
}

/* Replaces the value of an attribute; NULL removes it. Borrows and returns v. */
static json_t *edit(json_t *v, const char *name, const char *value)
{
	json_t *attributes = json_object_get(v, "attributes");
	json_t *pair;
	size_t i;

	json_array_foreach(attributes, i, pair)
	{
		if (strcmp(json_string_value(json_array_get(pair, 0)), name) != 0)
			continue;
		if (value)
			(void)json_array_set_new(pair, 1, json_string(value));
		else
			(void)json_array_remove(attributes, i);
		break;
	}
	return v;
}

static json_t *move(json_t *v, const char *topic)
{
	(void)json_object_set_new(v, "topic", json_string(topic));
	return v;
}

/* Takes v. reason "" for good ones. */
static void record_vector(json_t *out, const char *name, const char *dest, json_t *v, const char *expect, const char *reason)
{
	json_t *o = json_pack("{s:s, s:s, s:s, s:s}", "name", name, "dest", dest, "expect", expect, "reason", reason);

	/* the digest of an altered record is nobody's */
	if (strcmp(expect, "OK") != 0)
		(void)json_object_del(v, "digest");
	(void)json_object_update(o, v);
	(void)json_array_append_new(out, o);
	json_decref(v);
}

static const char batch_text[] =
	"{\"type\":\"experiment\",\"incarnation\":1,\"columns\":[[\"id\",\"integer\",true],[\"name\",\"text\",false]]}\n"
	"u\t0/16B3748\t3\t1\tfirst\n";
static const char order_text[] = "{\"type\":\"experiment\",\"reason\":\"gap\"}";
static const char beat_text[] = "{}";

#define UP_ENTITY    "sb.acme.dev.up.entity.v1"
#define UP_EVENT     "sb.acme.dev.up.event.v1"
#define TRAIN_ENTITY "sb.acme.train.down.entity.v1"
#define TRAIN_EVENT  "sb.acme.train.down.event.v1"

static void up_records(json_t *out)
{
	static const char *const positions[] = { "sbfrom", "16B3000.0", "sbto", "16B3748.4", "sbcount", "1", NULL };
	static const char *const expiry[] = { "expirytime", LATER, NULL };
	static const char *const expired[] = { "expirytime", "2026-03-02T09:10:01.234Z", NULL };
	static const char *const old[] = { "time", "2019-12-31T00:00:00.000Z", NULL };
	static const char *const chunk[] = { "sbtransfer", "06ejq0mbjwxsh3tg5v1r2k8c4e", "sbchunk", "0/1", NULL };
	static const char *const key = "experiment";
	struct party dev = party("dev", "entity/experiment", keys.dev, true), beat = party("dev", "event", keys.dev, true);
	struct party data = party("dev", "data/06ejq0mbjwxsh3tg5v1r2k8c4e", keys.dev, false);
	struct party thief = party("train", "entity/experiment", keys.dev, true), revoked = party("explore", "event", keys.explore, true);
	struct party stranger = party("dev", "entity/experiment", keys.root, true);
	struct sb_record r;

	make_record(&r, &dev, UP_ENTITY, SB_EV_ENTITY_CHANGED, key, SB_BATCH_CONTENT_TYPE, batch_text, strlen(batch_text), positions);
	record_vector(out, "entity batch, first of its session", "hub", record_json(&r), "OK", "");
	record_vector(out, "on the topic of another stage", "hub", move(record_json(&r), "sb.acme.train.up.entity.v1"), "EPROTO", "route");
	record_vector(out, "on the topic of another class", "hub", move(record_json(&r), UP_EVENT), "EPROTO", "route");
	record_vector(out, "on the topic of another tenant", "hub", move(record_json(&r), "sb.acme2.dev.up.entity.v1"), "EPROTO", "route");
	record_vector(out, "on no topic of ours", "hub", move(record_json(&r), "sb.acme.hub.event.v1"), "EPROTO", "route");
	record_vector(out, "copied down without a hop", "train", move(record_json(&r), TRAIN_ENTITY), "EPROTO", "route");
	record_vector(out, "altered attribute", "hub", edit(record_json(&r), "sbto", "16B9999.4"), "ESIG", "forge");
	record_vector(out, "altered key", "hub", edit(record_json(&r), "partitionkey", "exp"), "ESIG", "forge");
	record_vector(out, "removed attribute", "hub", edit(record_json(&r), "sbto", NULL), "ESIG", "forge");
	record_vector(out, "missing time", "hub", edit(record_json(&r), "time", NULL), "EPROTO", "malf");
	record_vector(out, "empty attribute", "hub", edit(record_json(&r), "sbto", ""), "EPROTO", "malf");
	record_vector(out, "id that is not session and sequence", "hub", edit(record_json(&r), "id", "0000000007-00000000000000000002"),
		"EPROTO", "malf");
	record_vector(out, "unknown type", "hub", edit(record_json(&r), "type", "stagebridge.entity.renamed.v1"), "EPROTO", "type");
	record_vector(out, "source of another stage", "hub",
		edit(record_json(&r), "source", "stagebridge://acme/train/agent/entity/experiment"), "EPROTO", "route");
	json_t *v = record_json(&r);
	(void)json_array_append_new(json_object_get(v, "attributes"), json_pack("[s, s]", "sbto", "16B3748.4"));
	record_vector(out, "attribute that is there twice", "hub", v, "EPROTO", "malf");
	v = record_json(&r);
	(void)json_object_set_new(v, "value", base64("{}", 2));
	record_vector(out, "altered value", "hub", v, "ESIG", "forge");
	v = record_json(&r);
	(void)json_object_set_new(v, "value", json_null());
	record_vector(out, "no value", "hub", v, "EPROTO", "malf");

	make_record(&r, &dev, UP_ENTITY, SB_EV_ENTITY_CHANGED, key, SB_BATCH_CONTENT_TYPE, batch_text, strlen(batch_text), positions);
	record_vector(out, "entity batch, second, linked to the first by sbprev", "hub", record_json(&r), "OK", "");
	make_record(&r, &beat, UP_EVENT, SB_EV_HEARTBEAT_SENT, "dev", NULL, beat_text, 2, expiry);
	record_vector(out, "heartbeat", "hub", record_json(&r), "OK", "");
	make_record(&r, &beat, UP_EVENT, SB_EV_HEARTBEAT_SENT, "dev", NULL, beat_text, 2, expired);
	record_vector(out, "heartbeat that has run out", "hub", record_json(&r), "EAUTH", "stale");
	make_record(&r, &beat, UP_EVENT, SB_EV_HEARTBEAT_SENT, "dev", NULL, beat_text, 2, NULL);
	record_vector(out, "heartbeat without an end", "hub", record_json(&r), "EPROTO", "malf");
	make_record(&r, &beat, UP_EVENT, SB_EV_AGENT_STARTED, "dev", NULL, beat_text, 2, old);
	record_vector(out, "from before the key was valid", "hub", record_json(&r), "EAUTH", "auth");
	make_record(&r, &data, "sb.acme.dev.up.data.v1", SB_EV_TRANSFER_CHUNK, "06ejq0mbjwxsh3tg5v1r2k8c4e", "application/octet-stream",
		"\0\1\2\377", 4, chunk);
	record_vector(out, "binary value, not chained", "hub", record_json(&r), "OK", "");
	make_record(&r, &thief, "sb.acme.train.up.entity.v1", SB_EV_ENTITY_CHANGED, key, SB_BATCH_CONTENT_TYPE, batch_text,
		strlen(batch_text), positions);
	record_vector(out, "the key of dev speaks for train", "hub", record_json(&r), "EAUTH", "auth");
	make_record(&r, &revoked, "sb.acme.explore.up.event.v1", SB_EV_AGENT_STARTED, "explore", NULL, beat_text, 2, NULL);
	record_vector(out, "revoked key", "hub", record_json(&r), "EAUTH", "auth");
	make_record(&r, &stranger, UP_ENTITY, SB_EV_ENTITY_CHANGED, key, SB_BATCH_CONTENT_TYPE, batch_text, strlen(batch_text), positions);
	record_vector(out, "key that is not in the keyring", "hub", record_json(&r), "ESIG", "forge");
	make_record(&r, &dev, UP_EVENT, SB_EV_RESYNC_ORDERED, key, NULL, order_text, strlen(order_text), NULL);
	record_vector(out, "agent that gives an order", "hub", record_json(&r), "EPROTO", "route");
}

static void down_records(json_t *out)
{
	struct party dev = party("dev", "entity/experiment", keys.dev, true), hub = party("hub", "train/event", keys.hub, true);
	struct party fake = party("hub", "train/event", keys.dev, true);
	struct sb_error err = SB_ERROR_INIT;
	struct sb_record r;
	json_t *v;

	make_record(&r, &hub, TRAIN_EVENT, SB_EV_RESYNC_ORDERED, "experiment", NULL, order_text, strlen(order_text), NULL);
	record_vector(out, "order of the hub", "train", record_json(&r), "OK", "");
	record_vector(out, "order of the hub, shown to another stage", "prod", move(record_json(&r), "sb.acme.prod.down.event.v1"),
		"EPROTO", "route");
	record_vector(out, "order of the hub, re-addressed", "prod",
		edit(move(record_json(&r), "sb.acme.prod.down.event.v1"), "sbtarget", "prod"), "ESIG", "forge");
	make_record(&r, &fake, TRAIN_EVENT, SB_EV_RESYNC_ORDERED, "experiment", NULL, order_text, strlen(order_text), NULL);
	record_vector(out, "order that an agent signed as the hub", "train", record_json(&r), "EAUTH", "auth");
	make_record(
		&r, &hub, TRAIN_ENTITY, SB_EV_ENTITY_CHANGED, "experiment", SB_BATCH_CONTENT_TYPE, batch_text, strlen(batch_text), NULL);
	record_vector(out, "entity that the hub made up", "train", record_json(&r), "EAUTH", "auth");

	make_record(&r, &dev, UP_ENTITY, SB_EV_ENTITY_CHANGED, "experiment", SB_BATCH_CONTENT_TYPE, batch_text, strlen(batch_text), NULL);
	struct sb_record owner = r;
	need(sb_record_hop(&r, keys.hub, "train", 88, &err) == 0, "hop", &err);
	record_vector(out, "forwarded by the hub", "train", move(record_json(&r), TRAIN_ENTITY), "OK", "");
	record_vector(out, "forwarded for another stage", "prod", move(record_json(&r), "sb.acme.prod.down.entity.v1"), "EPROTO", "route");
	v = edit(move(record_json(&r), "sb.acme.prod.down.entity.v1"), "sbdest", "prod");
	record_vector(out, "forwarded, re-addressed", "prod", v, "ESIG", "forge");
	record_vector(out, "forwarded, other hop sequence", "train",
		edit(move(record_json(&r), TRAIN_ENTITY), "sbhopseq", "00000000000000000089"), "ESIG", "forge");
	record_vector(out, "forwarded, hop without its signature", "train", edit(move(record_json(&r), TRAIN_ENTITY), "sbhopsig", NULL),
		"EPROTO", "malf");
	record_vector(out, "forwarded record on its up topic", "hub", record_json(&r), "EPROTO", "route");
	v = move(record_json(&r), TRAIN_ENTITY);
	(void)json_object_set_new(v, "value", base64("{}", 2));
	record_vector(out, "forwarded, value altered on the way", "train", v, "ESIG", "forge");
	r = owner;
	need(sb_record_hop(&r, keys.prod, "train", 88, &err) == 0, "hop", &err);
	record_vector(out, "forwarded by an agent", "train", move(record_json(&r), TRAIN_ENTITY), "EAUTH", "auth");
}

static json_t *make_records(void)
{
	json_t *out = json_array();
	json_t *payload = keyring_payload();
	json_t *keyring_row;
	size_t i;

	/* one revoked key, to be told from the valid ones */
	json_array_foreach(json_object_get(payload, "keys"), i, keyring_row)
	{
		if (strcmp(json_string_value(json_object_get(keyring_row, "stage")), "explore") == 0)
			(void)json_object_set_new(keyring_row, "revoked", json_true());
	}
	up_records(out);
	down_records(out);
	return json_pack("{s:s, s:s, s:s, s:o, s:o, s:o}", "note",
		"TEST KEYS ONLY: the Ed25519 seed of a party is SHA-256(\"stagebridge-test-seed:vectors:<party>:sign\"), its X25519 secret "
		"the same with \":box\". "
		"value is base64; digest is SHA-256 of the signed body.",
		"tenant", DEVKEYS_TENANT, "now", NOW, "root_pk", hex(keys.root_pk, 32), "keyring",
		envelope_of(payload, SB_PAYLOAD_KEYRING, keys.root, sodium_base64_VARIANT_ORIGINAL), "vectors", out);
}

/* --- batches --- */

#define SHAPE "{\"type\":\"t\",\"incarnation\":1,\"columns\":[[\"id\",\"integer\",true],[\"v\",\"text\",false]]}\n"

static json_t *make_batches(void)
{
	static const struct {
		const char *name, *value, *expect;
		int line;
	} table[] = {
		{ "one of each operation",
			SHAPE "i\t0/1\t0\t1\ta\nu\t0/1\t1\t1\t\\U\nd\t0/1\t2\t1\t\\N\nk\tA/FFFFFFFF\t3\t2\t\t1\nt\t0/2\t4294967295\n"
			      "s\t0/3\t0\t9\t\xc3\xa9\\n\"\n",
			"OK", 0 },
		{ "every escape", SHAPE "i\t0/1\t0\t1\t\\b\\f\\n\\r\\t\\v\\\\\n", "OK", 0 },
		{ "values that only look like marks", SHAPE "i\t0/1\t0\t\\\\N\tN\ni\t0/1\t1\tU\t\\\\U\n", "OK", 0 },
		{ "other control characters as they are", SHAPE "i\t0/1\t0\t1\t\x01\x7f\n", "OK", 0 },
		{ "no change", SHAPE, "OK", 0 },
		{ "nothing", "", "EPROTO", 0 },
		{ "shape without an end", "{\"type\":\"t\",\"incarnation\":1,\"columns\":[[\"id\",\"integer\",true]]}", "EPROTO", 1 },
		{ "shape with another key", "{\"type\":\"t\",\"incarnation\":1,\"columns\":[[\"id\",\"\",true]],\"x\":1}\n", "EPROTO", 1 },
		{ "shape with a key twice", "{\"type\":\"t\",\"type\":\"u\",\"incarnation\":1,\"columns\":[[\"id\",\"\",true]]}\n",
			"EPROTO", 1 },
		{ "shape with a column twice", "{\"type\":\"t\",\"incarnation\":1,\"columns\":[[\"id\",\"\",true],[\"id\",\"\",false]]}\n",
			"EPROTO", 1 },
		{ "shape without a key column", "{\"type\":\"t\",\"incarnation\":1,\"columns\":[[\"id\",\"\",false]]}\n", "EPROTO", 1 },
		{ "shape without columns", "{\"type\":\"t\",\"incarnation\":1,\"columns\":[]}\n", "EPROTO", 1 },
		{ "shape with a bad type", "{\"type\":\"T T\",\"incarnation\":1,\"columns\":[[\"id\",\"\",true]]}\n", "EPROTO", 1 },
		{ "shape with a nameless column", "{\"type\":\"t\",\"incarnation\":1,\"columns\":[[\"\",\"\",true]]}\n", "EPROTO", 1 },
		{ "shape with a negative incarnation", "{\"type\":\"t\",\"incarnation\":-1,\"columns\":[[\"id\",\"\",true]]}\n", "EPROTO",
			1 },
		{ "unknown operation", SHAPE "x\t0/1\t0\t1\ta\n", "EPROTO", 2 },
		{ "operation of two letters", SHAPE "ii\t0/1\t0\t1\ta\n", "EPROTO", 2 },
		{ "a cell too few", SHAPE "i\t0/1\t0\t1\n", "EPROTO", 2 },
		{ "a cell too many", SHAPE "i\t0/1\t0\t1\ta\tb\n", "EPROTO", 2 },
		{ "no cells", SHAPE "i\t0/1\t0\n", "EPROTO", 2 },
		{ "operation alone", SHAPE "i\n", "EPROTO", 2 },
		{ "unknown escape", SHAPE "i\t0/1\t0\t1\ta\\q\n", "EPROTO", 2 },
		{ "octal escape", SHAPE "i\t0/1\t0\t1\t\\101\n", "EPROTO", 2 },
		{ "backslash at the end", SHAPE "i\t0/1\t0\t1\ta\\\n", "EPROTO", 2 },
		{ "NULL with something behind it", SHAPE "i\t0/1\t0\t1\t\\Nx\n", "EPROTO", 2 },
		{ "carriage return without an escape", SHAPE "i\t0/1\t0\t1\ta\r\n", "EPROTO", 2 },
		{ "null in the key", SHAPE "i\t0/1\t0\t\\N\ta\n", "EPROTO", 2 },
		{ "unchanged cell in an insert", SHAPE "i\t0/1\t0\t1\t\\U\n", "EPROTO", 2 },
		{ "unchanged cell in the key", SHAPE "u\t0/1\t0\t\\U\ta\n", "EPROTO", 2 },
		{ "delete with more than the key", SHAPE "d\t0/1\t0\t1\ta\n", "EPROTO", 2 },
		{ "truncate with cells", SHAPE "t\t0/1\t0\t1\ta\n", "EPROTO", 2 },
		{ "truncate with an empty cell", SHAPE "t\t0/1\t0\t\n", "EPROTO", 2 },
		{ "key change without its old key", SHAPE "k\t0/1\t0\t1\ta\n", "EPROTO", 2 },
		{ "key change with a null old key", SHAPE "k\t0/1\t0\t1\ta\t\\N\n", "EPROTO", 2 },
		{ "old key where there is none", SHAPE "i\t0/1\t0\t1\ta\t1\n", "EPROTO", 2 },
		{ "NUL in a cell", SHAPE "i\t0/1\t0\t1\ta\\0\n", "EPROTO", 2 },
		{ "lower-case log position", SHAPE "i\t0/a\t0\t1\ta\n", "EPROTO", 2 },
		{ "log position without a slash", SHAPE "i\t1\t0\t1\ta\n", "EPROTO", 2 },
		{ "empty log position", SHAPE "i\t\t0\t1\ta\n", "EPROTO", 2 },
		{ "negative number", SHAPE "i\t0/1\t-1\t1\ta\n", "EPROTO", 2 },
		{ "number too large", SHAPE "i\t0/1\t4294967296\t1\ta\n", "EPROTO", 2 },
		{ "number with a zero in front", SHAPE "i\t0/1\t01\t1\ta\n", "EPROTO", 2 },
		{ "fraction as a number", SHAPE "i\t0/1\t0.0\t1\ta\n", "EPROTO", 2 },
		{ "JSON as a change", SHAPE "[\"i\",\"0/1\",0,[\"1\",\"a\"]]\n", "EPROTO", 2 },
		{ "empty line", SHAPE "\ni\t0/1\t0\t1\ta\n", "EPROTO", 2 },
		{ "cut in the third line", SHAPE "i\t0/1\t0\t1\ta\ni\t0/1\t1\t2", "EPROTO", 3 },
		{ "third line has no end", SHAPE "i\t0/1\t0\t1\ta\ni\t0/1\t1\t2\tb", "EPROTO", 3 },
	};
	json_t *out = json_array();

	for (size_t i = 0; i < SB_COUNT(table); i++)
		(void)json_array_append_new(out, json_pack("{s:s, s:s, s:s, s:i}", "name", table[i].name, "value", table[i].value, "expect",
							 table[i].expect, "line", table[i].line));
	return json_pack("{s:s, s:o}", "note", "line: where the first fault is, counted from 1; 0 where there is none or no line at all.",
		"vectors", out);
}

/* --- carrier --- */

static uint64_t random_counter;

static const char *fixed_name(void)
{
	return "fixed";
}

static void fixed_buf(void *const p, const size_t n)
{
	uint8_t block[32], seed[8];
	uint8_t *to = p;

	for (size_t at = 0; at < n; at += sizeof(block)) {
		for (unsigned i = 0; i < sizeof(seed); i++)
			seed[i] = (uint8_t)(random_counter >> (8 * i));
		random_counter++;
		crypto_hash_sha256(block, seed, sizeof(seed));
		memcpy(to + at, block, n - at < sizeof(block) ? n - at : sizeof(block));
	}
}

static uint32_t fixed_random(void)
{
	uint32_t v;

	fixed_buf(&v, sizeof(v));
	return v;
}

/* Takes v. */
static void carrier_vector(json_t *out, const char *name, json_t *v, const char *expect)
{
	(void)json_object_set_new(v, "name", json_string(name));
	(void)json_object_set_new(v, "expect", json_string(expect));
	(void)json_array_append_new(out, v);
}

/* Returns new: manifest, plain and spool of a sealed text. */
static json_t *sealed(const char *plain, size_t n)
{
	struct sb_manifest m = {
		.transfer = "06ejq0mbjwxsh3tg5v1r2k8c4e", .kind = "blob", .from = "prod", .to = "train", .expires_ms = DEVKEYS_NOW_MS
	};
	struct sb_error err = SB_ERROR_INIT;
	char in[128], spool[128];
	sb_cleanup(sb_freep) char *bytes = NULL;
	size_t len = 0;

	const struct sb_key *to = sb_keyring_party(keys.keyring, DEVKEYS_TENANT, "train", DEVKEYS_NOW_MS);
	need(sb_format(in, sizeof(in), &err, "%s/in", keys.dir) == 0 && sb_format(spool, sizeof(spool), &err, "%s/spool", keys.dir) == 0,
		"path", &err);
	need(sb_file_write(in, plain, n, 0600, &err) == 0, "write", &err);
	need(sb_carrier_seal(&m, in, spool, to, &err) == 0, "seal", &err);
	need(sb_file_read(spool, 1 << 20, &bytes, &len, &err) == 0, "read", &err);
	return json_pack("{s:o, s:o, s:[o]}", "manifest", sb_manifest_json(&m), "plain", base64(plain, n), "chunks", base64(bytes, len));
}

static json_t *make_carrier(void)
{
	static struct randombytes_implementation fixed = { .implementation_name = fixed_name, .random = fixed_random, .buf = fixed_buf };
	static const char text[] = "id,name\n1,first\n2,second\n";
	json_t *out = json_array();
	json_t *v, *manifest;
	char flipped[128];

	(void)randombytes_set_implementation(&fixed);
	carrier_vector(out, "small file", sealed(text, strlen(text)), "OK");
	carrier_vector(out, "empty file", sealed("", 0), "OK");
	v = sealed(text, strlen(text));
	(void)snprintf(flipped, sizeof(flipped), "%s", json_string_value(json_array_get(json_object_get(v, "chunks"), 0)));
	flipped[8] = flipped[8] == 'A' ? 'B' : 'A';
	(void)json_array_set_new(json_object_get(v, "chunks"), 0, json_string(flipped));
	carrier_vector(out, "altered chunk", v, "ESIG");
	v = sealed(text, strlen(text));
	(void)json_object_set_new(json_object_get(v, "manifest"), "transfer", json_string("06ejq0mbjwxsh3tg5v1r2k8c4f"));
	carrier_vector(out, "chunk of another transfer", v, "ESIG");
	v = sealed(text, strlen(text));
	manifest = json_object_get(v, "manifest");
	(void)json_object_set_new(manifest, "plain_sha256", json_object_get(manifest, "sealed_sha256"));
	(void)json_incref(json_object_get(manifest, "sealed_sha256"));
	carrier_vector(out, "other digest of the plain bytes", v, "ESIG");
	v = sealed(text, strlen(text));
	(void)json_object_set_new(json_object_get(v, "manifest"), "plain_bytes", json_integer(1));
	carrier_vector(out, "more content than the manifest says", v, "EPROTO");
	v = sealed(text, strlen(text));
	(void)json_object_set_new(json_object_get(v, "manifest"), "chunks", json_integer(2));
	carrier_vector(out, "sizes that contradict each other", v, "EPROTO");
	return json_pack("{s:s, s:s, s:o}", "note", "TEST KEYS ONLY. Sealed to the party \"train\" of records.json; chunks are base64.",
		"tenant", DEVKEYS_TENANT, "vectors", out);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		json_t *(*make)(void);
	} files[] = {
		{ "keyring", make_keyring },
		{ "records", make_records },
		{ "batches", make_batches },
		{ "carrier", make_carrier },
	};

	for (size_t i = 0; argc == 2 && i < SB_COUNT(files); i++) {
		if (strcmp(argv[1], files[i].name) != 0)
			continue;
		devkeys_make(&keys);
		json_auto_t *v = files[i].make();
		int rc = v && json_dumpf(v, stdout, JSON_INDENT(1)) == 0 && putchar('\n') != EOF ? 0 : 1;
		devkeys_release(&keys);
		return rc;
	}
	(void)fprintf(stderr, "usage: make_vectors keyring|records|batches|carrier\n");
	return 2;
}
