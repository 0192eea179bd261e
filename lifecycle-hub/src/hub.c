/* The hub's start and stop. Main thread. Owns settings, keys, lanes and the HTTP server; everything but the lanes' own handles is const
 * once hub_start() has run.
 *
 * Start: settings -> keys -> folders -> migrations -> lanes -> HTTP. Stop: HTTP -> lanes (each commits or rolls back what it has) -> keys.
 */
#include "hub.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "http/http.h"
#include "promote/policy.h"
#include "stagebridge/clock.h"
#include "stagebridge/file.h"
#include "stagebridge/log.h"
#include "store/store.h"

#define STOP_DEADLINE_MS 20000
#define LANE_NAME_MAX    (2 * SB_NAME_MAX + 16)
#define CONSUMER_BYTES   (8 * 1024 * 1024)

static const char *const security_names[] = { "plaintext", "ssl", "sasl_ssl" };

const struct hub_stage *hub_stage_find(const struct hub_tenant *t, const char *name)
{
	int i = hub_stage_position(t, name);

	return i < 0 ? NULL : (const struct hub_stage *)t->stages.item + i;
}

int hub_stage_position(const struct hub_tenant *t, const char *name)
{
	const struct hub_stage *stage = t->stages.item;

	for (size_t i = 0; i < t->stages.count; i++) {
		if (strcmp(stage[i].name, name) == 0)
			return (int)i;
	}
	return -1;
}

const struct hub_type *hub_type_find(const struct hub_tenant *t, const char *type)
{
	const struct hub_type *item = t->types.item;

	for (size_t i = 0; i < t->types.count; i++) {
		if (strcmp(item[i].type, type) == 0)
			return &item[i];
	}
	return NULL;
}

void hub_kafka_conf(struct sb_kafka_conf *ret, const struct hub_stage *stage, const char *client_id)
{
	const struct hub_broker *b = &stage->broker;

	*ret = (struct sb_kafka_conf){
		.servers = b->servers,
		.client_id = client_id,
		.security = security_names[b->security],
		.sasl_user = b->user,
		.sasl_password_file = b->password_file,
		.ca_file = b->ca_file,
		.cert_file = b->cert_file,
		.key_file = b->key_file,
		.queue_bytes = CONSUMER_BYTES,
		.fetch_wait_ms = b->fetch_wait_ms,
	};
}

void hub_wake(struct hub_world *w, const char *lane)
{
	char name[LANE_NAME_MAX];

	if (!w->hub->lanes || sb_format(name, sizeof(name), NULL, "%s/%s", w->set->name, lane) < 0)
		return;
	sb_lanes_wake(w->hub->lanes, name);
}

int hub_path(char *out, size_t size, const struct hub_world *w, const char *what, const char *name, struct sb_error *err)
{
	return sb_format(out, size, err, "%s/%s/%s%s%s", w->hub->set.state_dir, w->set->name, what, name ? "/" : "", name ? name : "");
}

static int world_open(struct hub_world *w, struct sb_error *err)
{
	uint8_t root[32];
	char path[4096];

	int r = sb_root_load(w->set->keys.root, root, err);
	if (r == 0)
		r = sb_keyring_load(&w->keyring, w->set->keys.keyring, root, sb_wall_ms(), err);
	if (r == 0)
		r = sb_identity_load(&w->identity, w->set->keys.identity, err);
	if (r < 0)
		return sb_fail_prefix(err, "tenant %s: keys", w->set->name);
	const struct sb_key *key = sb_keyring_find(w->keyring, sb_identity_kid(w->identity));
	if (!key || key->role != SB_ROLE_HUB || strcmp(key->tenant, w->set->name) != 0)
		return sb_fail(err, SB_ECONFIG, "tenant %s: the key in \"%s\" is not a hub key of this tenant in the keyring", w->set->name,
			w->set->keys.identity);
	r = hub_path(path, sizeof(path), w, "spool", NULL, err);
	if (r == 0)
		r = sb_dir_make(path, 0700, err);
	if (r == 0)
		r = hub_policy_open(w, err);
	if (r == 0)
		r = hub_store_migrate(w, err);
	return r;
}

static int worlds_open(struct hub *h, struct sb_error *err)
{
	const struct hub_tenant *tenant = h->set.tenants.item;
	char host[32] = "";

	h->world = calloc(h->set.tenants.count, sizeof(*h->world));
	if (!h->world)
		return sb_fail_nomem(err);
	if (gethostname(host, sizeof(host) - 1) < 0)
		return sb_fail(err, SB_EIO, "cannot read this machine's name");
	for (size_t i = 0; i < h->set.tenants.count; i++) {
		struct hub_world *w = &h->world[i];
		w->hub = h;
		w->set = &tenant[i];
		h->n_worlds = i + 1;
		int r = sb_format(w->holder, sizeof(w->holder), err, "%.24s/%d/%lld", host, (int)getpid(), (long long)sb_wall_ms());
		if (r == 0)
			r = world_open(w, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int hub_open(struct hub **ret, const char *config_file, struct sb_error *err)
{
	struct hub *h = calloc(1, sizeof(*h));

	if (!h)
		return sb_fail_nomem(err);
	int r = hub_settings_load(&h->set, config_file, err);
	if (r == 0) {
		sb_log_init("hub", "", (enum sb_level)h->set.log.level, h->set.log.format == 1);
		r = sb_dir_make(h->set.state_dir, 0700, err);
	}
	if (r == 0)
		r = worlds_open(h, err);
	if (r == 0)
		r = sb_lanes_new(&h->lanes, err);
	if (r < 0) {
		hub_close(h);
		return r;
	}
	*ret = h;
	return 0;
}

static int lane_start(struct hub_world *w, const char *what, const char *stage, sb_lane_fn fn, void *user, struct sb_error *err)
{
	char name[LANE_NAME_MAX];

	int r = sb_format(name, sizeof(name), err, "%s/%s%s%s", w->set->name, what, stage ? "/" : "", stage ? stage : "");
	if (r < 0)
		return r;
	return sb_lanes_start(w->hub->lanes, name, fn, user, err);
}

static int world_start(struct hub_world *w, struct sb_error *err)
{
	const struct hub_stage *stage = w->set->stages.item;
	int r = 0;

	w->stage_lane = calloc(w->set->stages.count, sizeof(*w->stage_lane));
	if (!w->stage_lane)
		return sb_fail_nomem(err);
	for (size_t i = 0; r == 0 && i < w->set->stages.count; i++) {
		w->stage_lane[i] = (struct hub_stage_lane){ .w = w, .stage = &stage[i] };
		r = lane_start(w, "intake", stage[i].name, hub_intake_lane, &w->stage_lane[i], err);
		if (r == 0)
			r = lane_start(w, "relay", stage[i].name, hub_relay_lane, &w->stage_lane[i], err);
	}
	if (r == 0)
		r = lane_start(w, "courier", NULL, hub_courier_lane, w, err);
	if (r == 0)
		r = lane_start(w, "git", NULL, hub_git_lane, w, err);
	if (r == 0)
		r = lane_start(w, "engine", NULL, hub_engine_lane, w, err);
	return r;
}

int hub_start(struct hub *h, struct sb_error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < h->n_worlds; i++)
		r = world_start(&h->world[i], err);
	if (r == 0)
		r = hub_http_start(&h->http, h, err);
	if (r == 0)
		sb_log(SB_INFO, "hub_started", "version=%s tenants=%zu port=%lld", sb_version(), h->n_worlds, (long long)h->set.http.port);
	return r;
}

void hub_close(struct hub *h)
{
	struct sb_error err = SB_ERROR_INIT;

	if (!h)
		return;
	hub_http_stop(h->http);
	if (h->lanes && sb_lanes_stop(h->lanes, STOP_DEADLINE_MS, &err) < 0) {
		/* a lane that hangs still uses what would be freed now; its transaction is not committed, so nothing is lost */
		sb_log_error(SB_ERROR, "stop_failed", &err, "deadline_ms=%d", STOP_DEADLINE_MS);
		_exit(70);
	}
	sb_lanes_free(h->lanes);
	for (size_t i = 0; i < h->n_worlds; i++) {
		sb_identity_free(h->world[i].identity);
		sb_keyring_free(h->world[i].keyring);
		hub_policy_close(h->world[i].policy);
		free(h->world[i].stage_lane);
	}
	free(h->world);
	hub_settings_release(&h->set);
	free(h);
}
