/* The functions of base.h. Any thread; owns nothing. */
#include "stagebridge/base.h"

#include <unistd.h>

void sb_closep(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd); /* nothing to tell: what must reach the disk was synced before */
	*fd = -1;
}

const char *sb_version(void)
{
	return SB_VERSION;
}
