/* Streams: the sender numbers, chains and signs; the receiver compares with what it stored. Pure; one stream belongs to one thread. */
#include "stagebridge/stream.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <sodium.h>

#include "record_body.h"
#include "stagebridge/clock.h"

#define SESSION_MAX 9999999999ULL /* ten digits */

void sb_stream_out_init(struct sb_stream_out *so, const char *tenant, const char *stage, const char *stream, uint64_t session, bool chained)
{
	assert(sb_name_ok(tenant) && sb_name_ok(stage) && session > 0 && session <= SESSION_MAX);
	*so = (struct sb_stream_out){ .session = session, .chained = chained };
	memcpy(so->tenant, tenant, strlen(tenant) + 1);
	memcpy(so->stage, stage, strlen(stage) + 1);
	int n = strcmp(stage, "hub") == 0 ? snprintf(so->source, sizeof(so->source), "stagebridge://%s/hub/%s", tenant, stream)
					  : snprintf(so->source, sizeof(so->source), "stagebridge://%s/%s/agent/%s", tenant, stage, stream);
	assert(n > 0 && (size_t)n < sizeof(so->source));
}

static int set_identity(const struct sb_stream_out *so, struct sb_record *rec, const char *type, const char *key, const char *content_type,
	struct sb_error *err)
{
	const struct {
		const char *name, *value;
	} plain[] = {
		{ "specversion", "1.0" },
		{ "source", so->source },
		{ "type", type },
		{ "datacontenttype", content_type ? content_type : "application/json" },
		{ "partitionkey", key },
		{ "sbtenant", so->tenant },
		{ "sbstage", so->stage },
	};

	for (size_t i = 0; i < SB_COUNT(plain); i++) {
		int r = sb_record_set(rec, plain[i].name, plain[i].value, err);
		if (r < 0)
			return r;
	}
	/* a hub speaks to several stages under one key: what it says to one must not be shown to another */
	if (strcmp(so->stage, "hub") == 0) {
		struct sb_topic topic;
		int r = sb_topic_parse(rec->topic, &topic, err);
		if (r < 0)
			return r;
		return sb_record_set(rec, "sbtarget", topic.stage, err);
	}
	return 0;
}

static int set_place(const struct sb_stream_out *so, struct sb_record *rec, struct sb_error *err)
{
	uint64_t sequence = so->sequence + 1;
	char time[SB_TIME_LEN + 1];
	char prev[65];

	int r = sb_record_setf(rec, "id", err, "%010" PRIu64 "-%020" PRIu64, so->session, sequence);
	if (r == 0)
		r = sb_record_setf(rec, "sbsession", err, "%010" PRIu64, so->session);
	if (r == 0)
		r = sb_record_setf(rec, "sequence", err, "%020" PRIu64, sequence);
	if (r == 0 && !sb_record_get(rec, "time")) {
		sb_time_format(time, sb_wall_ms());
		r = sb_record_set(rec, "time", time, err);
	}
	if (r == 0 && so->chained && so->sequence > 0) {
		sb_hex(prev, so->prev, sizeof(so->prev));
		r = sb_record_set(rec, "sbprev", prev, err);
	}
	return r;
}

int sb_stream_stamp(struct sb_stream_out *so, struct sb_record *rec, enum sb_event event, const char *key, const char *content_type,
	const struct sb_identity *id, struct sb_error *err)
{
	uint8_t digest[32];

	int r = set_identity(so, rec, sb_event_info(event)->type, key, content_type, err);
	if (r == 0)
		r = set_place(so, rec, err);
	if (r == 0)
		r = sb_record_seal(rec, id, digest, err);
	if (r < 0)
		return r;
	so->sequence++;
	memcpy(so->prev, digest, sizeof(digest));
	return 0;
}

enum sb_verdict sb_stream_judge(const struct sb_stream_in *in, const struct sb_meta *meta)
{
	if (!in || in->session == 0)
		return SB_NEW_SESSION;
	if (meta->session > in->session)
		return meta->sequence == 1 ? SB_NEW_SESSION : SB_GAP;
	if (meta->session < in->session)
		return SB_ZOMBIE;
	if (meta->sequence < in->sequence)
		return SB_DUPLICATE;
	if (meta->sequence == in->sequence)
		return memcmp(meta->digest, in->prev, sizeof(in->prev)) == 0 ? SB_DUPLICATE : SB_EQUIVOCATION;
	if (meta->sequence > in->sequence + 1 || (meta->has_prev && memcmp(meta->prev, in->prev, sizeof(in->prev)) != 0))
		return SB_GAP;
	return SB_APPLY;
}

void sb_stream_advance(struct sb_stream_in *in, const struct sb_meta *meta)
{
	in->session = meta->session;
	in->sequence = meta->sequence;
	memcpy(in->prev, meta->digest, sizeof(in->prev));
}

const char *sb_verdict_name(enum sb_verdict v)
{
	static const char *const names[] = {
		[SB_APPLY] = "apply",
		[SB_DUPLICATE] = "duplicate",
		[SB_NEW_SESSION] = "new_session",
		[SB_GAP] = "gap",
		[SB_ZOMBIE] = "zombie",
		[SB_EQUIVOCATION] = "equivocation",
	};

	return (unsigned)v < SB_COUNT(names) ? names[v] : "?";
}

static int by_source(const void *a, const void *b)
{
	return strcmp(((const struct sb_head *)a)->source, ((const struct sb_head *)b)->source);
}

void sb_heads_digest(struct sb_head *heads, size_t n, char hex[65])
{
	crypto_hash_sha256_state hash;
	uint8_t digest[32];
	char place[48]; /* two numbers of 20 digits */

	if (n > 1)
		qsort(heads, n, sizeof(*heads), by_source);
	crypto_hash_sha256_init(&hash);
	for (size_t i = 0; i < n; i++) {
		/* one line a stream; a source holds no space */
		(void)snprintf(place, sizeof(place), " %" PRIu64 " %" PRIu64 "\n", heads[i].session, heads[i].sequence);
		crypto_hash_sha256_update(&hash, (const unsigned char *)heads[i].source, strlen(heads[i].source));
		crypto_hash_sha256_update(&hash, (const unsigned char *)place, strlen(place));
	}
	crypto_hash_sha256_final(&hash, digest);
	sb_hex(hex, digest, sizeof(digest));
}

/* --- streams of entities --- */

static const char *const entity_prefix[] = { [SB_STREAM_ENTITY] = "entity/", [SB_STREAM_SNAPSHOT] = "snapshot/", [SB_STREAM_PUBLIC] = "public/",
	[SB_STREAM_PUBLIC_SNAPSHOT] = "public-snapshot/" };

bool sb_entity_stream_parse(const char *stream, struct sb_entity_stream_name *ret)
{
	for (size_t i = 0; i < SB_COUNT(entity_prefix); i++) {
		size_t n = strlen(entity_prefix[i]);
		if (strncmp(stream, entity_prefix[i], n) != 0)
			continue;
		*ret = (struct sb_entity_stream_name){ .kind = (enum sb_entity_stream)i, .type = stream + n,
			.snapshot = i == SB_STREAM_SNAPSHOT || i == SB_STREAM_PUBLIC_SNAPSHOT, .down = i >= SB_STREAM_PUBLIC };
		return sb_type_ok(ret->type);
	}
	return false;
}

void sb_entity_stream_name(char out[SB_ENTITY_STREAM_SIZE], enum sb_entity_stream kind, const char *type)
{
	(void)snprintf(out, SB_ENTITY_STREAM_SIZE, "%s%s", entity_prefix[kind], type); /* a type is SB_TYPE_MAX long at most */
}
