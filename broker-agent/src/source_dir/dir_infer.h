/* What a folder's values look like, for broker-agent --infer. */
#ifndef AGENT_DIR_INFER_H
#define AGENT_DIR_INFER_H

#include "settings.h"
#include "stagebridge/buf.h"

/** Reads the folder once and appends the inferred columns as lines for the settings file, with what is wrong as comments. SB_EIO, SB_ETOOBIG, SB_ENOMEM. */
int agent_dir_infer(const struct agent_dir_source *source, struct sb_buf *out, struct sb_error *err) SB_MUSTCHECK;

#endif
