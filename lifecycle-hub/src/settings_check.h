/* What the settings table cannot say: names that must be unique, must exist, or need each other. */
#ifndef HUB_SETTINGS_CHECK_H
#define HUB_SETTINGS_CHECK_H

#include "settings.h"

/** SB_ECONFIG "file:line: key: reason"; the line is looked up in file by the offending word. */
int hub_settings_check(const struct hub_settings *set, const char *file, struct sb_error *err) SB_MUSTCHECK;

#endif
