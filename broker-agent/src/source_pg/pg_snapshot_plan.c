/* Where a table's rows lie, and the statements that read them part by part: ranges of blocks of each table that holds rows. PostgreSQL 14 and newer
 * find such a range without reading what is before it. Nothing here changes anything. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <sodium.h>

#include "pg_snapshot.h"

#define BLOCK 8192

void snap_plan_release(struct snap_plan *p)
{
	for (unsigned i = 0; i < p->n_leaves; i++)
		free(p->leaf[i].name);
	free(p->leaf);
	free(p->range);
	*p = (struct snap_plan){ .n_leaves = 0 };
}

/* --- looking --- */

/* What holds rows. A place is a system column, for which a right on single columns is not enough; a partition's policies are not its parent's. */
static const char leaves_query[] =
	"SELECT l.oid, format('%I.%I', n.nspname, l.relname), pg_relation_filenode(l.oid), pg_relation_size(l.oid) / current_setting('block_size')::bigint,"
	" has_table_privilege(l.oid, 'SELECT') AND NOT row_security_active(l.oid),"
	" l.reltoastrelid <> 0 AND coalesce(pg_relation_size(nullif(l.reltoastrelid, 0)), 0) > 0"
	" FROM (SELECT $1::oid AS oid WHERE $2 = 'r' UNION ALL SELECT p.relid::oid FROM pg_partition_tree($1::oid) p WHERE p.isleaf AND $2 = 'p') t"
	" JOIN pg_class l ON l.oid = t.oid JOIN pg_namespace n ON n.oid = l.relnamespace ORDER BY l.oid";

static void hash_text(crypto_hash_sha256_state *st, const char *s)
{
	crypto_hash_sha256_update(st, (const unsigned char *)s, strlen(s) + 1); /* its end too: no two lists look the same */
}

static int take_leaves(const struct sb_pg_result *res, struct snap_plan *p, crypto_hash_sha256_state *st, struct sb_error *err)
{
	int n = sb_pg_rows(res);

	p->leaf = calloc((size_t)n + 1, sizeof(*p->leaf));
	if (!p->leaf)
		return sb_fail_nomem(err);
	for (int i = 0; i < n; i++) {
		struct snap_leaf *l = &p->leaf[p->n_leaves++];
		const char *places = sb_pg_get(res, i, 4); /* NULL of a table that was dropped since the transaction began: then the print differs too */
		*l = (struct snap_leaf){ .oid = (uint32_t)sb_pg_get_i64(res, i, 0), .name = sb_strdup(sb_pg_get(res, i, 1)), .blocks = sb_pg_get_i64(res, i, 3),
			.places = places && places[0] == 't' };
		if (!l->name)
			return sb_fail_nomem(err);
		p->toasted = p->toasted || sb_pg_get(res, i, 5)[0] == 't';
		hash_text(st, sb_pg_get(res, i, 0));
		hash_text(st, sb_pg_get(res, i, 2) ? sb_pg_get(res, i, 2) : "");
		hash_text(st, l->places ? "places" : "");
	}
	return 0;
}

int snap_plan_look(struct sb_pg *pg, const struct pgsrc_table *t, const char *predicate, struct snap_plan *ret, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	sb_cleanup(sb_freep) char *shape = pgsrc_shape_text(t);
	char oid[16];
	const char kind[2] = { t->kind, '\0' };
	const char *const param[] = { oid, kind };
	crypto_hash_sha256_state st;
	uint8_t digest[crypto_hash_sha256_BYTES];

	if (!shape)
		return sb_fail_nomem(err);
	(void)snprintf(oid, sizeof(oid), "%" PRIu32, t->oid); /* ten digits at most */
	int r = sb_pg_exec(pg, leaves_query, 2, param, &res, err);
	if (r < 0)
		return r;
	crypto_hash_sha256_init(&st);
	hash_text(&st, shape);
	hash_text(&st, predicate);
	hash_text(&st, t->filter ? t->filter : "");
	hash_text(&st, t->down_digest);
	r = take_leaves(res, ret, &st, err);
	crypto_hash_sha256_final(&st, digest);
	sb_hex(ret->print, digest, sizeof(digest));
	/* what FULL tells of a row is always whole */
	ret->toasted = ret->toasted && t->identity != 'f';
	return r;
}

/* --- cutting --- */

static int add_range(struct snap_plan *p, struct snap_range range, unsigned room, struct sb_error *err)
{
	if (!p->range)
		p->range = calloc(room, sizeof(*p->range));
	if (!p->range)
		return sb_fail_nomem(err);
	p->range[p->n_ranges++] = range;
	return 0;
}

int snap_plan_cut(struct snap_plan *p, uint64_t range_bytes, struct sb_error *err)
{
	int64_t blocks = 0, step = (int64_t)(range_bytes / BLOCK);
	bool places = true;
	int r = 0;

	for (unsigned i = 0; i < p->n_leaves; i++) {
		blocks += p->leaf[i].blocks;
		places = places && p->leaf[i].places;
	}
	if (step < blocks / SNAP_RANGES_MAX + 1)
		step = blocks / SNAP_RANGES_MAX + 1;
	if (p->n_leaves > SNAP_RANGES_MAX || (p->n_leaves > 0 && !places))
		return add_range(p, (struct snap_range){ .last = -1 }, 1, err);
	/* every leaf has one range more at most than its size says */
	unsigned room = (unsigned)(blocks / step) + 2 * p->n_leaves + 1;
	for (unsigned i = 0; r == 0 && i < p->n_leaves; i++) {
		int64_t first = 0;
		for (; r == 0 && first + step < p->leaf[i].blocks; first += step)
			r = add_range(p, (struct snap_range){ .leaf = p->leaf[i].oid, .first = first, .last = first + step }, room, err);
		if (r == 0)
			r = add_range(p, (struct snap_range){ .leaf = p->leaf[i].oid, .first = first, .last = -1 }, room, err);
	}
	return r;
}

int snap_plan_catch_up(struct snap_plan *p, struct sb_error *err)
{
	unsigned n = p->n_ranges;
	struct snap_range *more = realloc(p->range, 2 * (size_t)(n + 1) * sizeof(*more));

	if (!more)
		return sb_fail_nomem(err);
	p->range = more;
	for (unsigned i = 0; i < n; i++) {
		const struct snap_range *done = &p->range[i];
		if (done->state == SNAP_DONE)
			p->range[p->n_ranges++] = (struct snap_range){ .leaf = done->leaf, .first = done->first, .last = done->last, .newer = true };
	}
	return 0;
}

/* --- statements --- */

static void table_from(struct sb_buf *sql, const struct pgsrc_table *t)
{
	sb_buf_adds(sql, t->kind == 'r' ? " FROM ONLY " : " FROM ");
	pgsrc_table_sql(sql, t);
}

/* LOCK TABLE would ask for a right on the whole table; a query takes the same lock, on all partitions too, with a right on one column. */
int snap_plan_lock(struct sb_pg *pg, const struct pgsrc_table *t, struct sb_error *err)
{
	sb_cleanup(sb_buf_release) struct sb_buf sql = { 0 };

	sb_buf_init(&sql, 1024);
	sb_buf_adds(&sql, "SELECT");
	table_from(&sql, t);
	sb_buf_adds(&sql, " LIMIT 0");
	int r = sb_buf_check(&sql, "lock", err);
	return r < 0 ? r : sb_pg_script(pg, sql.data, err);
}

static const struct snap_leaf *leaf_of(const struct snap_plan *p, uint32_t oid)
{
	for (unsigned i = 0; i < p->n_leaves; i++) {
		if (p->leaf[i].oid == oid)
			return &p->leaf[i];
	}
	return NULL;
}

static void add_places(struct sb_buf *sql, const struct snap_range *range)
{
	sb_buf_addf(sql, " WHERE ctid >= '(%" PRId64 ",0)'::tid", range->first);
	if (range->last >= 0)
		sb_buf_addf(sql, " AND ctid < '(%" PRId64 ",0)'::tid", range->last);
}

int snap_plan_sql(struct sb_buf *out, const struct snap_plan *p, const struct pgsrc_table *t, const struct snap_range *range, const char *predicate, uint64_t xid,
	struct sb_error *err)
{
	const struct snap_leaf *leaf = leaf_of(p, range->leaf);

	if (range->leaf && !leaf)
		return sb_fail(err, SB_ESTATE, "a part of the table is gone"); /* the print would differ */
	sb_buf_reset(out);
	sb_buf_adds(out, "COPY (SELECT ");
	pgsrc_columns_sql(out, t);
	if (leaf) {
		sb_buf_addf(out, " FROM ONLY %s", leaf->name);
		add_places(out, range);
	} else {
		table_from(out, t);
		sb_buf_adds(out, " WHERE true");
	}
	/* transaction numbers are 32 bits in a row and wrap around: at most 2^31 lie between two that count */
	if (range->newer)
		sb_buf_addf(out, " AND ((xmin::text::bigint - %" PRIu32 ") & 4294967295) < 2147483648", (uint32_t)xid);
	if (t->filter)
		sb_buf_addf(out, " AND (%s)", t->filter);
	if (*predicate)
		sb_buf_addf(out, " AND (%s)", predicate);
	sb_buf_adds(out, ") TO STDOUT");
	return sb_buf_check(out, "snapshot query", err);
}
