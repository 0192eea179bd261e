/* The part of the settings' private interface that knows libyaml's types. Private to io/settings*.c. */
#ifndef STAGEBRIDGE_IO_SETTINGS_YAML_H
#define STAGEBRIDGE_IO_SETTINGS_YAML_H

#include <yaml.h>

#include "settings_internal.h"

/** libyaml's complaint as "file:line: yaml: reason"; SB_ENOMEM for want of memory. */
int sb_settings_yaml_error(struct sb_settings_ctx *ctx, const yaml_parser_t *parser, const char *yaml, size_t n);

#endif
