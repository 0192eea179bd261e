/* From a batch of all that leaves the stage to what of it may go down. Every column is looked up by its name in the settings, at every batch: one that is not
 * declared public or masked is not there. A batch whose key is not whole in the projection yields nothing but its positions. */
#include "projection.h"

#include <stdio.h>
#include <string.h>

#include <sodium.h>

#include "dataset/operator.h"
#include "stagebridge/log.h"
#include "stagebridge/metric.h"

#define TOKEN_RECIPIENT "down"
#define TOKEN_EPOCH "1"

struct agent_projection {
	const struct agent_table *conf;
	struct agent_bound *mask;                    /* one per conf->masks */
	char digest[AGENT_PROJECTION_DIGEST];
	struct sb_batch *batch;
	struct sb_batch_reader *reader;       /* NULL: no batch is open */
	bool whole_key;
	struct sb_shape shape;                /* of the parts */
	unsigned from_column[SB_COLUMNS_MAX]; /* column of a part -> column of the batch */
	const struct agent_bound *mask_of[SB_COLUMNS_MAX]; /* by column of a part; NULL: as it is */
	unsigned key_of[SB_COLUMNS_MAX];      /* place in an old key -> column of a part */
	char (*scratch)[AGENT_SCRATCH];       /* by column of a part; twice as many: old keys */
	struct sb_cell cell[SB_COLUMNS_MAX], old_key[SB_COLUMNS_MAX];
	struct sb_change pending;             /* made and not in a part yet */
	bool has_pending, ended;
	bool covers;
	struct sb_position at, to;            /* where the next part begins; where the batch ends */
};

/* --- making --- */

/* Everything that a part depends on, one line each */
static void describe(const struct agent_projection *p, const char *key_id, struct sb_buf *out)
{
	const struct agent_rule *rule = p->conf->masks.item;

	for (size_t i = 0; i < p->conf->public_columns.count; i++)
		sb_buf_addf(out, "public %s\n", p->conf->public_columns.item[i]);
	for (size_t i = 0; i < p->conf->masks.count; i++) {
		const struct agent_rule *r = &rule[i];
		const char *const word[] = { r->op, r->null, r->domain, r->token_prefix, r->value, r->step, r->lo, r->hi, r->part };
		sb_buf_addf(out, "mask %s\n", r->name);
		for (size_t k = 0; k < SB_COUNT(word); k++)
			sb_buf_addf(out, "%c%s\n", word[k] ? '=' : '-', word[k] ? word[k] : "");
		for (size_t k = 0; k < r->edges.count; k++)
			sb_buf_addf(out, "edge %s\n", r->edges.item[k]);
		sb_buf_addf(out, "n %lld\n", (long long)r->n);
	}
	sb_buf_addf(out, "key %s\n", key_id);
}

static int make_digest(struct agent_projection *p, const struct agent_scope *scope, struct sb_error *err)
{
	sb_cleanup(sb_buf_release) struct sb_buf text = { 0 };
	uint8_t hash[crypto_hash_sha256_BYTES];
	char key_id[17] = "";

	sb_buf_init(&text, 4u << 20);
	if (scope)
		agent_scope_key_id(scope, key_id);
	describe(p, key_id, &text);
	int r = sb_buf_check(&text, "column declarations", err);
	if (r < 0)
		return r;
	(void)crypto_hash_sha256(hash, (const uint8_t *)text.data, text.len); /* always 0 */
	sb_hex(p->digest, hash, (AGENT_PROJECTION_DIGEST - 1) / 2);
	return 0;
}

/* One key for all types of a stage: equal values of one domain get equal tokens, so that copies can be joined. */
static int make_scope(struct agent_scope **ret, const struct agent_settings *set, const struct agent_table *conf, struct sb_error *err)
{
	const struct agent_rule *rule = conf->masks.item;
	sb_cleanup(sb_freep) char *link = sb_asprintf("copy:%s", set->stage);
	bool any = false;

	for (size_t i = 0; i < conf->masks.count; i++)
		any = any || agent_rule_tokens(&rule[i]);
	if (!any)
		return 0;
	return link ? agent_scope_stored(ret, set->datasets.secret, set->tenant, link, TOKEN_RECIPIENT, TOKEN_EPOCH, err) : sb_fail_nomem(err);
}

int agent_projection_new(struct agent_projection **ret, const struct agent_settings *set, const struct agent_table *conf, struct sb_error *err)
{
	struct agent_projection *p = calloc(1, sizeof(*p));
	const struct agent_rule *rule = conf->masks.item;
	struct agent_scope *scope = NULL;

	if (!p)
		return sb_fail_nomem(err);
	p->conf = conf;
	p->mask = calloc(conf->masks.count + 1, sizeof(*p->mask));
	int r = p->mask ? sb_batch_new(&p->batch, err) : sb_fail_nomem(err);
	if (r == 0)
		r = make_scope(&scope, set, conf, err);
	for (size_t i = 0; r == 0 && i < conf->masks.count; i++)
		r = agent_bound_init(&p->mask[i], &rule[i], scope, err);
	if (r == 0)
		r = make_digest(p, scope, err);
	agent_scope_free(scope);
	if (r < 0)
		agent_projection_free(p);
	else
		*ret = p;
	return r;
}

static void close_batch(struct agent_projection *p)
{
	sb_batch_close(p->reader);
	sb_shape_release(&p->shape);
	free(p->scratch);
	p->reader = NULL;
	p->scratch = NULL;
	p->has_pending = p->ended = false;
}

void agent_projection_free(struct agent_projection *p)
{
	if (!p)
		return;
	close_batch(p);
	for (size_t i = 0; p->mask && i < p->conf->masks.count; i++)
		agent_bound_release(&p->mask[i]);
	free(p->mask);
	sb_batch_free(p->batch);
	free(p);
}

const char *agent_projection_digest(const struct agent_projection *p)
{
	return p->digest;
}

/* --- one batch --- */

static const struct agent_bound *find_mask(const struct agent_projection *p, const char *column)
{
	const struct agent_rule *rule = agent_column_mask(p->conf, column);

	return rule ? &p->mask[rule - (const struct agent_rule *)p->conf->masks.item] : NULL;
}

static int add_column(struct agent_projection *p, const struct sb_column *c, unsigned at, unsigned *n_key, struct sb_error *err)
{
	const struct agent_bound *mask = find_mask(p, c->name);
	const char *type = mask ? mask->step.rule->operator->type : NULL;
	unsigned to = p->shape.n_columns++;

	/* what stands for NULL is a word where no number would do */
	if (mask && mask->step.rule->on_null == AGENT_NULL_TOKEN)
		type = "text";
	p->shape.column[to] = (struct sb_column){ .name = sb_strdup(c->name), .type = sb_strdup(type ? type : c->type), .key = c->key };
	p->from_column[to] = at;
	p->mask_of[to] = mask;
	if (c->key)
		p->key_of[(*n_key)++] = to;
	return p->shape.column[to].name && p->shape.column[to].type ? 0 : sb_fail_nomem(err);
}

static int make_shape(struct agent_projection *p, const struct sb_shape *full, struct sb_error *err)
{
	unsigned n_key = 0;
	int r = 0;

	p->shape = (struct sb_shape){ .incarnation = full->incarnation };
	memcpy(p->shape.type, full->type, sizeof(p->shape.type));
	p->shape.column = calloc((size_t)full->n_columns + 1, sizeof(*p->shape.column));
	p->scratch = calloc(2 * ((size_t)full->n_columns + 1), sizeof(*p->scratch));
	if (!p->shape.column || !p->scratch)
		return sb_fail_nomem(err);
	p->whole_key = true;
	for (unsigned i = 0; r == 0 && i < full->n_columns; i++) {
		const struct sb_column *c = &full->column[i];
		enum agent_class class = agent_column_class(p->conf, c->name);
		if (c->key && agent_column_key_refusal(p->conf, c->name))
			p->whole_key = false;
		else if (class == AGENT_PUBLIC || class == AGENT_MASKED)
			r = add_column(p, c, i, &n_key, err);
	}
	return r;
}

int agent_projection_open(struct agent_projection *p, const void *value, size_t n, const struct sb_position *from, const struct sb_position *to,
	struct sb_error *err)
{
	close_batch(p);
	int r = sb_batch_open(&p->reader, value, n, err);
	if (r == 0)
		r = make_shape(p, sb_batch_shape(p->reader), err);
	p->covers = from && to;
	p->at = from ? *from : (struct sb_position){ .lsn = 0 };
	p->to = to ? *to : (struct sb_position){ .lsn = 0 };
	if (r < 0)
		close_batch(p);
	return r;
}

/* --- one change --- */

static void count_failure(const struct agent_projection *p, const struct agent_bound *mask, const char *why)
{
	struct sb_error err = { .code = SB_EDATA };

	(void)snprintf(err.msg, sizeof(err.msg), "column \"%s\" %s: NULL in its place", mask->step.rule->name, why); /* a cut text is fine */
	sb_log_limited(SB_WARN, "mask_failed", p->conf->type, &err);
	sb_metric_add(sb_metric("stagebridge_source_mask_failed_total", SB_COUNTER, "type", "Values that a mask could not work on: NULL went down instead"), p->conf->type,
		1);
}

static struct sb_cell masked(const struct agent_projection *p, const struct agent_bound *mask, const struct sb_cell *in, char scratch[AGENT_SCRATCH])
{
	struct sb_cell out = { .kind = SB_CELL_NULL };

	/* the receiver has what the rule made of the value that did not change */
	if (!mask || (in->kind == SB_CELL_UNCHANGED && mask->step.rule->operator->reads))
		return *in;
	const char *why = agent_step_apply(&mask->step, in, &out, scratch);
	if (why) {
		count_failure(p, mask, why);
		return (struct sb_cell){ .kind = SB_CELL_NULL };
	}
	return out;
}

static void make_change(struct agent_projection *p, const struct sb_change *c)
{
	p->pending = (struct sb_change){ .op = c->op, .lsn = c->lsn, .seq = c->seq, .n_cells = c->n_cells ? p->shape.n_columns : 0, .cell = p->cell,
		.n_old = c->n_old, .old_key = p->old_key };
	for (unsigned i = 0; i < p->pending.n_cells; i++) {
		const struct sb_cell *in = &c->cell[p->from_column[i]];
		/* a deletion has its key alone */
		bool there = c->op != 'd' || p->shape.column[i].key;
		p->cell[i] = there ? masked(p, p->mask_of[i], in, p->scratch[i]) : (struct sb_cell){ .kind = SB_CELL_NULL };
	}
	for (unsigned k = 0; k < c->n_old; k++)
		p->old_key[k] = masked(p, p->mask_of[p->key_of[k]], &c->old_key[k], p->scratch[p->shape.n_columns + k]);
	p->has_pending = true;
}

/* --- parts --- */

static int finish(struct agent_projection *p, struct sb_position to, struct agent_projected *ret)
{
	*ret = (struct agent_projected){ .count = sb_batch_count(p->batch), .from = p->at, .to = to };
	ret->value = sb_batch_value(p->batch, &ret->n);
	p->at = to;
	return 1;
}

/* 1: full, the pending change is the next part's first */
static int put_pending(struct agent_projection *p, struct sb_error *err)
{
	struct sb_error why = SB_ERROR_INIT;

	int r = sb_batch_add(p->batch, &p->pending, &why);
	if (r == SB_ETOOBIG && sb_batch_count(p->batch) > 0)
		return 1;
	p->has_pending = false;
	if (r == SB_ETOOBIG) { /* tokens have made it so; nothing smaller would be true */
		sb_log_limited(SB_ERROR, "row_withheld_down", p->conf->type, &why);
		return 0;
	}
	return r < 0 ? sb_fail(err, (enum sb_code)r, "%s", why.msg) : 0;
}

int agent_projection_next(struct agent_projection *p, struct agent_projected *ret, struct sb_error *err)
{
	struct sb_change c;
	int r = 1;

	if (p->ended) {
		close_batch(p);
		return 0;
	}
	/* without its key no row can be told, and no shape: the caller does not publish such a type, this is for the moment before it knows */
	if (!p->whole_key)
		return sb_fail(err, SB_EREFUSED, "a key column of \"%s\" may not go down", p->conf->type);
	int began = sb_batch_begin(p->batch, &p->shape, err);
	if (began < 0)
		return began;
	while (p->has_pending || (r = sb_batch_next(p->reader, &c, err)) > 0) {
		if (!p->has_pending)
			make_change(p, &c);
		r = put_pending(p, err);
		if (r < 0)
			return r;
		if (r > 0)
			return finish(p, (struct sb_position){ .lsn = p->pending.lsn, .seq = p->pending.seq }, ret);
	}
	if (r < 0)
		return r;
	p->ended = true;
	return finish(p, p->to, ret);
}
