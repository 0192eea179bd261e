/* The one function behind base.h's macros. Any thread; owns nothing. */
#include "stagebridge/base.h"

#include <unistd.h>

void sb_closep(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd); /* nothing to tell: what must reach the disk was synced before */
	*fd = -1;
}
