/* Which columns of a table may go where, by what its settings declare. Pure; any thread once the settings are loaded.
 *
 *   private     nowhere: not even to the sync view
 *   internal    the sync view, and copies in stages after the owner
 *   masks       as internal; copies in stages before the owner hold what the rule makes of the value
 *   public      anywhere
 *   undeclared  as internal when it was there when the type was taken up; one that came later is withheld (source_pg/pg_classes.c) */
#ifndef AGENT_COLUMNS_H
#define AGENT_COLUMNS_H

#include "dataset/policy.h"
#include "settings.h"

enum agent_class { AGENT_UNDECLARED, AGENT_PRIVATE, AGENT_INTERNAL, AGENT_PUBLIC, AGENT_MASKED };

enum agent_class agent_column_class(const struct agent_table *t, const char *column);
/** The rule of a masked column; NULL: it has none. */
const struct agent_rule *agent_column_mask(const struct agent_table *t, const char *column);
/** A key tells rows apart, so it may go down as it is, or through a rule that keeps different values different. NULL, or why this one may not. */
const char *agent_column_key_refusal(const struct agent_table *t, const char *column);

/** After loading: prepares the rules and refuses what contradicts itself. The message begins with the key below postgres.tables. SB_ECONFIG. */
int agent_columns_check(struct agent_table *t, bool has_secret, struct sb_error *err) SB_MUSTCHECK;
void agent_columns_release(struct agent_table *t); /* what the check made */

#endif
