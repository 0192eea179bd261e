/* A settings table with every type, for the unit test and the fuzz target. */
#ifndef SB_TESTS_SETTINGS_SAMPLE_H
#define SB_TESTS_SETTINGS_SAMPLE_H

#include "stagebridge/settings.h"

struct sample_source {
	char *name;
	char *type;
	char *key_file;
	int64_t weight;
	struct sb_strings columns;
};

struct sample_oidc {
	char *issuer;
	int64_t port;
};

struct sample {
	char *title;
	char *stage;
	char *entity;
	char *state_dir;
	char *key_file;
	int64_t port;
	int64_t offset;
	bool verbose;
	int64_t timeout_ms;
	uint64_t limit;
	int level;
	struct {
		struct sb_strings servers;
		int64_t linger_ms;
	} broker;
	struct sample_oidc oidc;
	struct sb_list sources;
};

extern const struct sb_setting sample_table[];

#endif
