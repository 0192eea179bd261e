/* An agent of stage "train" without threads or broker, and a hub that signs what it is told: for the tests of the agent's own modules. Header only. */
#ifndef SB_TEST_AGENT_FIXTURE_H
#define SB_TEST_AGENT_FIXTURE_H

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "agent.h"
#include "devkeys.h"
#include "inbox.h"
#include "outbox.h"
#include "support.h"

#define FIX_STAGE "train"

struct fix {
	struct devkeys keys;
	struct agent a;
	char dir[TEST_PATH_MAX];
	struct sb_stream_out hub;      /* the hub's event stream to us */
	int64_t offset;                /* next offset of down.event */
};

/** Fails the test with the message when r is an error. */
#define fix_ok(r, err) ck_assert_msg((r) >= 0, "%s: %s", sb_code_name((err).code), (err).msg)

static inline void fix_init(struct fix *f)
{
	memset(f, 0, sizeof(*f));
	devkeys_make(&f->keys);
	test_path(f->dir, "state");
	f->a.set.tenant = sb_strdup(DEVKEYS_TENANT);
	f->a.set.stage = sb_strdup(FIX_STAGE);
	f->a.set.state_dir = sb_strdup(f->dir);
	f->a.set.carrier.window = 4;
	f->a.set.carrier.max_bytes = 64 * 1024 * 1024;
	f->a.set.heartbeat.interval_ms = 1000;
	f->a.identity = f->keys.train;
	f->a.keyring = f->keys.keyring;
	f->a.session = 1;
	pthread_mutex_init(&f->a.board.lock, NULL);
	for (int c = 0; c < SB_CLASS_COUNT; c++) {
		sb_topic_name(f->a.topic_up[c], DEVKEYS_TENANT, FIX_STAGE, SB_UP, (enum sb_class)c);
		sb_topic_name(f->a.topic_down[c], DEVKEYS_TENANT, FIX_STAGE, SB_DOWN, (enum sb_class)c);
	}
	sb_stream_out_init(&f->hub, DEVKEYS_TENANT, "hub", "event/" FIX_STAGE, 1000, true);
}

static inline void fix_release(struct fix *f)
{
	free(f->a.set.tenant);
	free(f->a.set.stage);
	free(f->a.set.state_dir);
	pthread_mutex_destroy(&f->a.board.lock);
	devkeys_release(&f->keys);
}

/** The next event of the hub, as the consumer would give it; value must outlive it. */
static inline void fix_event(struct fix *f, struct sb_inrecord *ir, enum sb_event event, const char *key, const char *value)
{
	struct sb_error err = SB_ERROR_INIT;

	memset(ir, 0, sizeof(*ir));
	sb_record_init(&ir->rec, f->a.topic_down[SB_EVENT]);
	ir->rec.value = value;
	ir->rec.value_len = strlen(value);
	fix_ok(sb_stream_stamp(&f->hub, &ir->rec, event, key, NULL, f->keys.hub, &err), err);
	ir->offset = f->offset++;
}

/** A record of a transfer from the hub: chunk -1 is the manifest. */
static inline void fix_data(struct fix *f, struct sb_inrecord *ir, const struct sb_manifest *m, int64_t chunk, uint64_t attempt, const void *value, size_t n, int64_t offset)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_stream_out so;
	char stream[64];

	(void)snprintf(stream, sizeof(stream), "data/%s", m->transfer);
	sb_stream_out_init(&so, DEVKEYS_TENANT, "hub", stream, attempt, false);
	so.sequence = (uint64_t)(chunk + 1);
	memset(ir, 0, sizeof(*ir));
	sb_record_init(&ir->rec, f->a.topic_down[SB_DATA]);
	ir->rec.value = value;
	ir->rec.value_len = n;
	if (chunk >= 0) {
		fix_ok(sb_record_set(&ir->rec, "sbtransfer", m->transfer, &err), err);
		fix_ok(sb_record_setf(&ir->rec, "sbchunk", &err, "%" PRId64 "/%" PRIu64, chunk, m->chunks), err);
	}
	fix_ok(sb_stream_stamp(&so, &ir->rec, chunk < 0 ? SB_EV_TRANSFER_OFFERED : SB_EV_TRANSFER_CHUNK, m->transfer, chunk < 0 ? NULL : "application/octet-stream",
		f->keys.hub, &err), err);
	ir->offset = offset;
}

/** One number of the state. */
static inline int64_t fix_number(struct sb_db *db, const char *sql)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_stmt *st = NULL;

	fix_ok(sb_db_query(db, &st, &err, sql, ""), err);
	int r = sb_db_step(st, &err);
	fix_ok(r, err);
	int64_t v = r ? sb_db_int(st, 0) : -1;
	sb_db_done(st);
	return v;
}

/** One text of the state, into a buffer of the caller; "" when there is no row. */
static inline const char *fix_text(struct sb_db *db, const char *sql, char *out, size_t size)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_stmt *st = NULL;

	fix_ok(sb_db_query(db, &st, &err, sql, ""), err);
	int r = sb_db_step(st, &err);
	fix_ok(r, err);
	(void)snprintf(out, size, "%s", r && sb_db_text(st, 0) ? sb_db_text(st, 0) : "");
	sb_db_done(st);
	return out;
}

#endif
