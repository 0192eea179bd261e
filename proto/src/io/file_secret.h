/* What the settings need to know about a key file without reading it. Private to io. */
#ifndef STAGEBRIDGE_IO_FILE_SECRET_H
#define STAGEBRIDGE_IO_FILE_SECRET_H

#include "stagebridge/base.h"
#include "stagebridge/error.h"

/** The rules of sb_file_read_secret on the name alone; SB_ECONFIG says which one does not hold. Opens nothing. */
int sb_file_check_secret(const char *path, struct sb_error *err) SB_MUSTCHECK;

#endif
