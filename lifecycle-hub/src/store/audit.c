/* Appends to lifecycle.audit, the hash chain of decisions. Any lane, inside its transaction: the row and what it tells of commit together.
 * The chain is computed by lifecycle.audit_hash() in the database, so that anyone with SQL can check it (view lifecycle.audit_broken). */
#include "store.h"

static const char *or_empty(const char *s)
{
	return s ? s : "";
}

int hub_audit(struct sb_pg *pg, const char *actor, const char *action, const char *object, const char *from_state, const char *to_state,
	const char *reason, struct sb_error *err)
{
	const char *param[] = { or_empty(actor), or_empty(action), or_empty(object), or_empty(from_state), or_empty(to_state),
		or_empty(reason) };

	/* a statement of its own: the next one must see what the holder before us has committed */
	int r = sb_pg_exec(pg, "SELECT pg_advisory_xact_lock(21314, 1)", 0, NULL, NULL, err);
	if (r < 0)
		return r;
	return sb_pg_exec(pg,
		"INSERT INTO lifecycle.audit (id, at, actor, action, object, from_state, to_state, reason, prev_hash, hash) "
		"SELECT n.id, n.at, $1, $2, $3, $4, $5, $6, n.prev, lifecycle.audit_hash(n.prev, n.id, n.at, $1, $2, $3, $4, $5, $6) FROM ("
		" SELECT coalesce(max(a.id), 0) + 1 AS id, clock_timestamp() AS at,"
		"  coalesce((SELECT hash FROM lifecycle.audit ORDER BY id DESC LIMIT 1), '\\x'::bytea) AS prev FROM lifecycle.audit a) n",
		6, param, NULL, err);
}
