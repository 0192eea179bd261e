/* Exact decimals for operators: billionths in 128 bits. A value is floored to billionths, so every comparison with an edge of at most nine decimals
 * and every half-open bucket of such edges is exact, which binary floating point would not be. */
#ifndef AGENT_DATASET_NUMBER_H
#define AGENT_DATASET_NUMBER_H

#include "stagebridge/base.h"

__extension__ typedef __int128 agent_fixed;

#define AGENT_FIXED_ONE ((agent_fixed)1000000000)
#define AGENT_FIXED_LEN 44 /* bytes of its longest spelling, with the NUL */

/** PostgreSQL's spelling of a finite number: [+-]digits[.digits][e[+-]digits], below 10^27. ret_exact (may be NULL): nothing was cut off.
 * False for anything else. */
bool agent_fixed_parse(const char *p, size_t n, agent_fixed *ret, bool *ret_exact);
/** Shortest decimal spelling; returns its length. */
size_t agent_fixed_format(char out[AGENT_FIXED_LEN], agent_fixed v);
/** The largest multiple of step (> 0) that is not above v. */
agent_fixed agent_fixed_floor(agent_fixed v, agent_fixed step);

#endif
