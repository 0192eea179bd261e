/* The second way of a type's records: what of them copies in earlier stages may hold, on streams of their own beside the type's. Every record is made from the
 * one that goes to the sync view, right after it, with its positions. A type without `down` has none of this. Both lanes, each with one of its own per type. */
#include <stdio.h>
#include <string.h>

#include "pgsrc.h"
#include "projection.h"
#include "stagebridge/log.h"

struct pgsrc_down {
	const struct agent_table *conf;
	struct agent_projection *projection;
	char stream[SB_ENTITY_STREAM_SIZE];
};

int pgsrc_down_new(struct pgsrc_down **ret, const struct agent *a, const struct agent_table *conf, enum sb_entity_stream kind, struct sb_error *err)
{
	struct pgsrc_down *d;

	*ret = NULL;
	if (!conf->down)
		return 0;
	d = calloc(1, sizeof(*d));
	if (!d)
		return sb_fail_nomem(err);
	d->conf = conf;
	sb_entity_stream_name(d->stream, kind, conf->type);
	int r = agent_projection_new(&d->projection, &a->set, conf, err);
	if (r < 0)
		pgsrc_down_free(d);
	else
		*ret = d;
	return r < 0 ? sb_fail_prefix(err, "masks of \"%s\"", conf->type) : 0;
}

void pgsrc_down_free(struct pgsrc_down *d)
{
	if (!d)
		return;
	agent_projection_free(d->projection);
	free(d);
}

void pgsrc_down_judge(const struct pgsrc_down *d, struct pgsrc_table *t)
{
	bool any = false;

	t->down_refusal[0] = t->down_digest[0] = '\0';
	if (!d || t->refusal[0])
		return;
	for (unsigned i = 0; i < t->n_columns; i++) {
		enum agent_class class = agent_column_class(d->conf, t->column[i].name);
		const char *why = t->column[i].key ? agent_column_key_refusal(d->conf, t->column[i].name) : NULL;
		any = any || class == AGENT_PUBLIC || class == AGENT_MASKED;
		if (why && !t->down_refusal[0])
			(void)snprintf(t->down_refusal, sizeof(t->down_refusal), "column \"%.63s\": %s", t->column[i].name, why); /* fits */
	}
	if (!any)
		(void)snprintf(t->down_refusal, sizeof(t->down_refusal), "%s", "none of the columns that may go down is in the table");
	if (!t->down_refusal[0])
		(void)snprintf(t->down_digest, sizeof(t->down_digest), "%s", agent_projection_digest(d->projection)); /* the same size */
}

int pgsrc_down_batch(struct pgsrc_down *d, const struct pgsrc_down_to *to, enum sb_event event, const struct pgsrc_down_batch *b, struct sb_error *err)
{
	struct agent_projected part;
	struct sb_error why = SB_ERROR_INIT;

	int r = agent_projection_open(d->projection, b->value, b->n, b->from, b->to, &why);
	while (r == 0 && (r = agent_projection_next(d->projection, &part, &why)) > 0) {
		r = to->wait(to->user, &why);
		if (r == 0)
			r = agent_publisher_send(to->pub, d->stream, event, d->conf->type, SB_BATCH_CONTENT_TYPE, b->from ? &part.from : NULL, b->to ? &part.to : NULL,
				part.count, part.value, part.n, &why);
	}
	/* rows of a time when the key was another one: the hole shows in the positions, and a snapshot mends it */
	if (r == SB_EREFUSED) {
		sb_log_limited(SB_WARN, "copy_refused", d->conf->type, &why);
		return 0;
	}
	if (r < 0 && err)
		*err = why;
	return r;
}
