/* Orders to send a type again. Any lane, and the HTTP threads, inside the caller's transaction. */
#include "stagebridge/log.h"
#include "store.h"

int hub_resync_put(struct hub_world *w, struct sb_pg *pg, const char *stage, const struct hub_resync *q, struct sb_error *err)
{
	json_t *body = json_pack("{s:s, s:s, s:s, s:b}", "type", q->type, "reason", q->reason, "asked", q->asked, "cancel", q->cancel);

	if (!body)
		return sb_fail_nomem(err);
	int r = hub_outbox_put(w, pg, stage, SB_EV_RESYNC_ORDERED, q->type, body, err);
	json_decref(body);
	if (r == 0)
		sb_log(*q->asked ? SB_INFO : SB_WARN, "resync_ordered", "stage=%s type=%s reason=%s asked=%s cancel=%d", stage, q->type, q->reason, q->asked, q->cancel);
	return r;
}
