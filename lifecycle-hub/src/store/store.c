/* Opens a lane's connection to its tenant's database. Any lane; the handle belongs to the lane that opened it.
 *
 * Every connection holds a shared advisory lock on the name of its process for as long as it lives. Another hub that wants to lead tries
 * the exclusive one: it gets it exactly when PostgreSQL has seen the last connection of that process go (a kill is noticed at once). */
#include "store.h"

#include <inttypes.h>
#include <stdio.h>

#include "stagebridge/clock.h"

/* A frozen process must not hold row locks in an open transaction for ever */
#define SESSION_SETTINGS "SET idle_in_transaction_session_timeout = '60s'; SET lock_timeout = '30s'; SET client_min_messages = warning"

const char *hub_num(char out[HUB_NUM], int64_t v)
{
	(void)snprintf(out, HUB_NUM, "%" PRId64, v); /* at most 20 characters */
	return out;
}

int hub_store_open(struct sb_pg **ret, struct hub_world *w, const char *lane, struct sb_error *err)
{
	struct sb_pg *pg = NULL;
	const char *param[] = { w->holder };

	int r = sb_pg_open(&pg, w->set->database, lane, err);
	if (r == 0)
		r = sb_pg_script(pg, SESSION_SETTINGS, err);
	if (r == 0)
		r = sb_pg_exec(pg, "SELECT pg_advisory_lock_shared(21314, hashtext($1))", 1, param, NULL, err);
	if (r < 0) {
		sb_pg_close(pg);
		return sb_fail_prefix(err, "tenant %s", w->set->name);
	}
	*ret = pg;
	return 0;
}
