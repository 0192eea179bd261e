/* The agent as a whole: opening (settings, keys, state), the lanes that the settings ask for, closing in order. Main thread; the status board alone is
 * for all lanes, behind its lock. Owns everything that struct agent points at, and the lock on the state folder: two agents on one state
 * would number two streams as one. */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "api.h"
#include "source.h"
#include "deploy/deploy.h"
#include "stagebridge/clock.h"
#include "stagebridge/file.h"
#include "stagebridge/log.h"
#include "state.h"

#define STOP_DEADLINE_MS 15000
#define QUEUE_BYTES (8ULL * 1024 * 1024)

/* What nobody but this file needs; the agent comes first, so that one pointer is both. */
struct agent_whole {
	struct agent agent;
	struct agent_api *api;
	struct agent_pg_lane *pg_lane;
	struct agent_dir_lane *dir_lane;
	char client_id[SB_NAME_MAX * 2 + 32];
	int lock_fd;
};

static struct agent_whole *whole(struct agent *a)
{
	return (struct agent_whole *)(void *)a;
}

/* --- opening --- */

static int open_keys(struct agent *a, struct sb_error *err)
{
	uint8_t root[32];

	int r = sb_root_load(a->set.keys.root, root, err);
	if (r < 0)
		return sb_fail_prefix(err, "keys.root");
	r = sb_keyring_load(&a->keyring, a->set.keys.keyring, root, sb_wall_ms(), err);
	if (r < 0)
		return sb_fail_prefix(err, "keys.keyring");
	r = sb_identity_load(&a->identity, a->set.keys.identity, err);
	if (r < 0)
		return sb_fail_prefix(err, "keys.identity");
	const struct sb_key *mine = sb_keyring_find(a->keyring, sb_identity_kid(a->identity));
	if (!mine)
		return sb_fail(err, SB_ECONFIG, "keys.identity: key %s is not in the keyring", sb_identity_kid(a->identity));
	if (mine->role != SB_ROLE_AGENT || strcmp(mine->tenant, a->set.tenant) != 0 || strcmp(mine->stage, a->set.stage) != 0)
		return sb_fail(err, SB_ECONFIG, "keys.identity: key %s speaks for %s/%s, not for %s/%s", mine->kid, mine->tenant, mine->stage, a->set.tenant,
			a->set.stage);
	return 0;
}

/* One agent per state folder. The lock dies with the process. */
static int lock_state(struct agent_whole *w, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *path = sb_asprintf("%s/lock", w->agent.set.state_dir);

	if (!path)
		return sb_fail_nomem(err);
	int r = sb_dir_make(w->agent.set.state_dir, 0700, err);
	if (r < 0)
		return r;
	w->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (w->lock_fd < 0)
		return sb_fail_errno(err, errno, "%s", path);
	if (flock(w->lock_fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? sb_fail(err, SB_ECONFLICT, "another agent uses %s", w->agent.set.state_dir) :
					      sb_fail_errno(err, errno, "%s", path);
	return 0;
}

static int open_state(struct agent *a, struct sb_error *err)
{
	struct sb_db *db = NULL;

	int r = agent_state_open(&db, a, err);
	if (r == 0) {
		r = agent_state_keyring(db, sb_keyring_version(a->keyring), err);
		if (r < 0)
			r = sb_fail_prefix(err, "keys.keyring");
	}
	if (r == 0)
		r = agent_state_session(db, "agent", (uint64_t)(sb_wall_ms() / 1000), &a->session, err);
	sb_db_close(db);
	return r;
}

static void fill_kafka(struct agent_whole *w)
{
	static const char *const security[] = { "plaintext", "ssl", "sasl_ssl" };
	const struct agent_broker *b = &w->agent.set.broker;

	(void)snprintf(w->client_id, sizeof(w->client_id), "stagebridge-agent-%s-%s", w->agent.set.tenant, w->agent.set.stage); /* names are bounded */
	w->agent.kafka = (struct sb_kafka_conf){
		.servers = b->servers, .client_id = w->client_id, .security = security[b->security], .sasl_user = b->user,
		.sasl_password_file = b->password_file, .ca_file = b->ca_file, .cert_file = b->cert_file, .key_file = b->key_file,
		.queue_bytes = QUEUE_BYTES, .fetch_wait_ms = b->fetch_wait_ms,
	};
}

int agent_open(struct agent **ret, const char *config_file, struct sb_error *err)
{
	struct agent_whole *w = calloc(1, sizeof(*w));
	struct agent *a;

	if (!w)
		return sb_fail_nomem(err);
	a = &w->agent;
	w->lock_fd = -1;
	int r = pthread_mutex_init(&a->board.lock, NULL);
	if (r != 0) {
		free(w);
		return sb_fail_errno(err, r, "board");
	}
	r = agent_settings_load(&a->set, config_file, err);
	if (r == 0) {
		for (int c = 0; c < SB_CLASS_COUNT; c++) {
			sb_topic_name(a->topic_up[c], a->set.tenant, a->set.stage, SB_UP, (enum sb_class)c);
			sb_topic_name(a->topic_down[c], a->set.tenant, a->set.stage, SB_DOWN, (enum sb_class)c);
		}
		fill_kafka(w);
		r = open_keys(a, err);
	}
	if (r == 0)
		r = lock_state(w, err);
	if (r == 0)
		r = open_state(a, err);
	if (r < 0) {
		agent_close(a);
		return r;
	}
	*ret = a;
	return 0;
}

/* --- starting --- */

static int announce(struct agent *a, struct sb_error *err)
{
	json_auto_t *value = NULL;
	struct sb_db *db = NULL;
	char now[SB_TIME_LEN + 1];

	sb_time_format(now, sb_wall_ms());
	value = json_pack("{s:s, s:I, s:s}", "agent_version", sb_version(), "session", (json_int_t)a->session, "started_at", now);
	if (!value)
		return sb_fail_nomem(err);
	int r = agent_state_open(&db, a, err);
	if (r == 0)
		r = sb_db_begin(db, err);
	if (r == 0)
		r = agent_outbox_put(a, db, SB_EV_AGENT_STARTED, a->set.stage, value, err);
	if (r == 0)
		r = sb_db_commit(db, err);
	sb_db_close(db); /* ends the transaction when it did not commit */
	return r;
}

static int start_source(struct agent *a, const char *source, const char *part, sb_lane_fn fn, void *user, struct sb_error *err)
{
	char name[SB_NAME_MAX + 24];

	int r = sb_format(name, sizeof(name), err, "source/%s%s", source, part);
	return r < 0 ? r : sb_lanes_start(a->lanes, name, fn, user, err);
}

static int start_sources(struct agent_whole *w, struct sb_error *err)
{
	struct agent *a = &w->agent;
	const struct agent_pg_source *pg = a->set.postgres.item;
	const struct agent_dir_source *dir = a->set.directories.item;
	int r = 0;

	w->pg_lane = calloc(a->set.postgres.count + 1, sizeof(*w->pg_lane));
	w->dir_lane = calloc(a->set.directories.count + 1, sizeof(*w->dir_lane));
	if (!w->pg_lane || !w->dir_lane)
		return sb_fail_nomem(err);
	for (size_t i = 0; r == 0 && i < a->set.postgres.count; i++) {
		w->pg_lane[i] = (struct agent_pg_lane){ .agent = a, .source = &pg[i] };
		r = start_source(a, pg[i].name, "", agent_pg_source_lane, &w->pg_lane[i], err);
		if (r == 0)
			r = start_source(a, pg[i].name, "/snapshot", agent_pg_snapshot_lane, &w->pg_lane[i], err);
	}
	for (size_t i = 0; r == 0 && i < a->set.directories.count; i++) {
		w->dir_lane[i] = (struct agent_dir_lane){ .agent = a, .source = &dir[i] };
		r = start_source(a, dir[i].name, "", agent_dir_source_lane, &w->dir_lane[i], err);
	}
	if (r == 0 && a->set.entities.count > 0)
		r = start_source(a, AGENT_SOCKET_SOURCE, "", agent_socket_source_lane, a, err);
	return r;
}

int agent_start(struct agent *a, struct sb_error *err)
{
	static const struct { const char *name; sb_lane_fn fn; } always[] = {
		{ "courier", agent_courier_lane },
		{ "inbox", agent_inbox_lane },
		{ "deploy", agent_deploy_lane },
		{ "dataset", agent_dataset_lane },
	};

	int r = announce(a, err);
	if (r == 0)
		r = agent_repos_sweep(a, err);
	if (r == 0)
		r = sb_lanes_new(&a->lanes, err);
	for (size_t i = 0; r == 0 && i < SB_COUNT(always); i++)
		r = sb_lanes_start(a->lanes, always[i].name, always[i].fn, a, err);
	if (r == 0 && a->set.replica.conninfo && *a->set.replica.conninfo)
		r = sb_lanes_start(a->lanes, "replica", agent_replica_lane, a, err);
	if (r == 0)
		r = start_sources(whole(a), err);
	/* last: who finds the socket finds an agent that works */
	if (r == 0)
		r = agent_api_start(&whole(a)->api, a, err);
	if (r == 0)
		sb_log(SB_INFO, "agent_started", "version=%s tenant=%s session=%" PRIu64, sb_version(), a->set.tenant, a->session);
	return r;
}

/* --- closing --- */

void agent_close(struct agent *a)
{
	struct sb_error err = SB_ERROR_INIT;
	struct agent_whole *w = whole(a);

	if (!a)
		return;
	agent_api_stop(w->api);
	if (a->lanes && sb_lanes_stop(a->lanes, STOP_DEADLINE_MS, &err) < 0) {
		/* its thread still uses what would be freed; the state is durable at every moment, so ending here loses nothing */
		sb_log_error(SB_ERROR, "stop_timed_out", &err, "deadline_ms=%d", STOP_DEADLINE_MS);
		_exit(sb_code_exit(SB_ETIMEOUT));
	}
	sb_lanes_free(a->lanes);
	free(w->pg_lane);
	free(w->dir_lane);
	sb_identity_free(a->identity);
	sb_keyring_free(a->keyring);
	agent_settings_release(&a->set);
	pthread_mutex_destroy(&a->board.lock);
	sb_closep(&w->lock_fd);
	free(w);
}

/* --- the board --- */

void agent_board_head(struct agent *a, const struct sb_stream_out *so)
{
	struct agent_board *b = &a->board;
	unsigned i = 0;

	pthread_mutex_lock(&b->lock);
	while (i < b->n_heads && strcmp(b->head[i].source, so->source) != 0)
		i++;
	if (i < AGENT_HEADS_MAX) {
		struct agent_head *h = &b->head[i];
		memcpy(h->source, so->source, sizeof(h->source));
		h->session = so->session;
		h->sequence = so->sequence;
		if (i == b->n_heads)
			b->n_heads++;
	}
	pthread_mutex_unlock(&b->lock);
	if (i == AGENT_HEADS_MAX)
		sb_log_limited(SB_WARN, "board_full", "heads", NULL);
}

void agent_origin_name(const struct agent *a, char out[AGENT_ORIGIN_SIZE])
{
	(void)snprintf(out, AGENT_ORIGIN_SIZE, "stagebridge_%s_%s", a->set.tenant, a->set.stage); /* two names of SB_NAME_MAX */
}

void agent_board_source(struct agent *a, const struct agent_source_state *s)
{
	struct agent_board *b = &a->board;
	unsigned i = 0;

	pthread_mutex_lock(&b->lock);
	while (i < b->n_sources && strcmp(b->source[i].name, s->name) != 0)
		i++;
	if (i < SB_COUNT(b->source)) {
		b->source[i] = *s;
		if (i == b->n_sources)
			b->n_sources++;
	}
	pthread_mutex_unlock(&b->lock);
	if (i == SB_COUNT(b->source))
		sb_log_limited(SB_WARN, "board_full", "sources", NULL);
}

bool agent_board_source_is(struct agent *a, const char *name, const char *state)
{
	struct agent_board *b = &a->board;
	bool is = false;

	pthread_mutex_lock(&b->lock);
	for (unsigned i = 0; i < b->n_sources; i++)
		is = is || (strcmp(b->source[i].name, name) == 0 && strcmp(b->source[i].state, state) == 0);
	pthread_mutex_unlock(&b->lock);
	return is;
}
