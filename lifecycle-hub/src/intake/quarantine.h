/* Refused records and rows: kept in lifecycle.quarantine with the reason, inside the transaction that moves on past them. */
#ifndef HUB_QUARANTINE_H
#define HUB_QUARANTINE_H

#include "hub.h"
#include "stagebridge/change.h"

struct hub_refusal {
	const char *stage;  /* whose broker it came from */
	const char *class;  /* malf route type forge auth stale not-owned zombie equivocation gap data row edge */
	const char *reason; /* never a value of the record */
	const char *type;   /* entity type; NULL: not known */
	const char *key;    /* hash of the row's key; NULL: the whole record */
};
/** One row, an entry in the log (limited) and a count in the metrics. */
int hub_quarantine(struct sb_pg *pg, const struct sb_inrecord *in, const struct hub_refusal *why, struct sb_error *err) SB_MUSTCHECK;
/** The same where no record is at hand: offsets that are gone. */
int hub_quarantine_offset(
	struct sb_pg *pg, const char *topic, int64_t offset, const struct hub_refusal *why, struct sb_error *err) SB_MUSTCHECK;
/** True when another attempt would fail the same way: the record is at fault, not the moment. dynamic: the statement was made from the
 * record's shape, so what PostgreSQL says about the statement is about the record as well. */
bool hub_is_poison(const struct sb_error *why, bool dynamic);
/** SHA-256 over the key cells, 32 hex digits: names a row without telling its key. out holds 33 bytes. */
void hub_key_hash(char out[33], const struct sb_shape *shape, const struct sb_change *c);

#endif
