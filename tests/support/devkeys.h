/* A tenant "acme" with test keys that are the same everywhere: stages dev, train, prod, explore. Header only; one per test program. */
#ifndef SB_TEST_DEVKEYS_H
#define SB_TEST_DEVKEYS_H

#include <stdio.h>
#include <stdlib.h>

#include "stagebridge/file.h"
#include "stagebridge/keyring.h"

#define DEVKEYS_TENANT "acme"
#define DEVKEYS_NOW_MS INT64_C(1772442901234) /* 2026-03-02T09:15:01.234Z */

struct devkeys {
	char dir[64];
	uint8_t root_pk[32];
	struct sb_keyring *keyring;
	struct sb_identity *root, *hub, *dev, *train, *prod, *explore;
};

static inline void devkeys_fail(const char *what, const struct sb_error *err)
{
	(void)fprintf(stderr, "devkeys: %s: %s\n", what, err->msg);
	exit(2);
}

static inline struct sb_identity *devkeys_identity(const struct devkeys *k, const char *party)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_identity *id = NULL;
	char path[128];

	if (sb_format(path, sizeof(path), &err, "%s/%s.key", k->dir, party) < 0 || sb_identity_load(&id, path, &err) < 0)
		devkeys_fail(party, &err);
	return id;
}

static inline void devkeys_make(struct devkeys *k)
{
	static const char *const stages[] = { "dev", "train", "prod", "explore" };
	struct sb_error err = SB_ERROR_INIT;
	char path[128];

	*k = (struct devkeys){ .dir = "/tmp/sb-devkeys-XXXXXX" };
	if (!mkdtemp(k->dir))
		devkeys_fail("mkdtemp", &err);
	if (sb_keyring_make_dev(k->dir, DEVKEYS_TENANT, stages, SB_COUNT(stages), "vectors", &err) < 0)
		devkeys_fail("make", &err);
	if (sb_format(path, sizeof(path), &err, "%s/root.pub", k->dir) < 0 || sb_root_load(path, k->root_pk, &err) < 0)
		devkeys_fail("root", &err);
	if (sb_format(path, sizeof(path), &err, "%s/keyring.json", k->dir) < 0 ||
		sb_keyring_load(&k->keyring, path, k->root_pk, DEVKEYS_NOW_MS, &err) < 0)
		devkeys_fail("keyring", &err);
	k->root = devkeys_identity(k, "root");
	k->hub = devkeys_identity(k, "hub");
	k->dev = devkeys_identity(k, "dev");
	k->train = devkeys_identity(k, "train");
	k->prod = devkeys_identity(k, "prod");
	k->explore = devkeys_identity(k, "explore");
}

static inline void devkeys_release(struct devkeys *k)
{
	struct sb_error err = SB_ERROR_INIT;

	sb_keyring_free(k->keyring);
	sb_identity_free(k->root);
	sb_identity_free(k->hub);
	sb_identity_free(k->dev);
	sb_identity_free(k->train);
	sb_identity_free(k->prod);
	sb_identity_free(k->explore);
	if (sb_dir_remove(k->dir, &err) < 0)
		devkeys_fail("remove", &err);
}

#endif
