/* What all feeds share: opening by the policy, the columns' names, the fingerprint; and refusals. The dataset lane's thread. */
#include "feed.h"

#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "stagebridge/text.h"

int agent_refuse(struct agent_refusal *no, struct sb_error *err, const char *code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (vsnprintf(no->reason, sizeof(no->reason), fmt, ap) < 0)
		no->reason[0] = '\0';
	va_end(ap);
	sb_text_tidy(no->reason); /* it may have been cut within a character */
	no->code = code;
	return sb_fail(err, SB_EREFUSED, "%s: %s", code, no->reason);
}

int agent_feed_columns(struct agent_feed *f, unsigned n, struct sb_error *err)
{
	f->column = calloc(n ? n : 1, sizeof(*f->column));
	f->type = calloc(n ? n : 1, sizeof(*f->type));
	if (!f->column || !f->type)
		return sb_fail_nomem(err);
	f->n_columns = n;
	return 0;
}

int agent_feed_open(struct agent_feed **ret, const struct agent_policy *p, struct agent_refusal *no, struct sb_error *err)
{
	return p->source.csv.path ? agent_feed_csv(ret, p, no, err) : agent_feed_pg(ret, p, no, err);
}

void agent_feed_close(struct agent_feed *f)
{
	if (!f)
		return;
	for (unsigned i = 0; i < f->n_columns; i++) {
		free(f->column[i]);
		free(f->type[i]);
	}
	free(f->column);
	free(f->type);
	f->ops->close(f);
}

void agent_feed_fingerprint(const struct agent_feed *f, char out[65])
{
	crypto_hash_sha256_state st;
	uint8_t digest[crypto_hash_sha256_BYTES];

	/* these always return 0; the NULs keep names and types apart */
	(void)crypto_hash_sha256_init(&st);
	for (unsigned i = 0; i < f->n_columns; i++) {
		(void)crypto_hash_sha256_update(&st, (const uint8_t *)f->column[i], strlen(f->column[i]) + 1);
		(void)crypto_hash_sha256_update(&st, (const uint8_t *)f->type[i], strlen(f->type[i]) + 1);
	}
	(void)crypto_hash_sha256_final(&st, digest);
	sb_hex(out, digest, sizeof(digest));
}
