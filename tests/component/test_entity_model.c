/* Entities against a model: a small source makes random transactions (inserts, updates that leave out unchanged values, key changes, deletes,
 * truncates), a snapshot is taken somewhere in between, and stream and snapshot arrive interleaved, cut into batches at random, in part
 * again, in part rolled back first. Whatever the order, the table must end up exactly as the source. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "pg_fixture.h"
#include "stagebridge/entity_table.h"
#include "support.h"

#define KEYS 8
#define TRANSACTIONS 40
#define LINES_MAX 1000
#define SHAPE "{\"type\":\"e\",\"incarnation\":1,\"columns\":[[\"id\",\"integer\",true],[\"name\",\"text\",false],[\"big\",\"text\",false]]}\n"

static const char *conninfo;

struct row { bool there; unsigned name, big; };
struct line { char text[120]; uint64_t lsn; uint32_t seq; };

struct model {
	uint64_t random;
	struct row row[KEYS], at_point[KEYS];
	struct line stream[LINES_MAX]; unsigned n_stream;
	struct line snapshot[KEYS]; unsigned n_snapshot;
	uint64_t lsn, point;
	unsigned values;
	/* the receiving side */
	struct sb_pg *pg;
	struct sb_entity_tables *tables;
	unsigned read, snapshot_read;
	bool begun, ended;
	struct sb_position done;
};

static unsigned pick(struct model *m, unsigned n)
{
	m->random ^= m->random << 13;
	m->random ^= m->random >> 7;
	m->random ^= m->random << 17;
	return (unsigned)(m->random >> 33) % n;
}

/* ---- the source ---- */

static void big_cell(char out[24], const struct row *r, bool unchanged)
{
	(void)snprintf(out, 24, unchanged ? "\\U" : "B%u", r->big);
}

static void change(struct model *m, uint32_t seq)
{
	unsigned k = pick(m, KEYS), to = pick(m, KEYS), kind = pick(m, 50);
	struct row *r = &m->row[k];
	struct line *l = &m->stream[m->n_stream];
	char big[24];
	bool keep = pick(m, 4) != 0;

	if (kind == 0) {
		(void)snprintf(l->text, sizeof(l->text), "t\t0/%" PRIX64 "\t%u\n", m->lsn, seq);
		memset(m->row, 0, sizeof(m->row));
	} else if (!r->there) {
		*r = (struct row){ true, ++m->values, m->values };
		(void)snprintf(l->text, sizeof(l->text), "i\t0/%" PRIX64 "\t%u\t%u\tN%u\tB%u\n", m->lsn, seq, k, r->name, r->big);
	} else if (kind < 9) {
		r->there = false;
		(void)snprintf(l->text, sizeof(l->text), "d\t0/%" PRIX64 "\t%u\t%u\t\\N\t\\N\n", m->lsn, seq, k);
	} else {
		bool moves = kind < 28 && !m->row[to].there;
		r->name = ++m->values;
		if (!keep)
			r->big = m->values;
		big_cell(big, r, keep);
		if (moves) {
			(void)snprintf(l->text, sizeof(l->text), "k\t0/%" PRIX64 "\t%u\t%u\tN%u\t%s\t%u\n", m->lsn, seq, to, r->name, big, k);
			m->row[to] = *r;
			r->there = false;
		} else {
			(void)snprintf(l->text, sizeof(l->text), "u\t0/%" PRIX64 "\t%u\t%u\tN%u\t%s\n", m->lsn, seq, k, r->name, big);
		}
	}
	l->lsn = m->lsn;
	l->seq = seq;
	m->n_stream++;
}

static void take_snapshot(struct model *m)
{
	m->lsn += 16;
	m->point = m->lsn;
	for (unsigned k = 0; k < KEYS; k++)
		if (m->row[k].there)
			(void)snprintf(m->snapshot[m->n_snapshot++].text, sizeof(m->snapshot[0].text), "s\t0/%" PRIX64 "\t0\t%u\tN%u\tB%u\n",
				m->point, k, m->row[k].name, m->row[k].big);
}

/* initial: the stream begins at the snapshot's point, as with a new slot; else the receiver has followed from the start and is resynced. */
static void make_history(struct model *m, bool initial)
{
	unsigned at = pick(m, TRANSACTIONS);

	m->lsn = 0x1000;
	for (unsigned t = 0; t < TRANSACTIONS; t++) {
		if (t == at) {
			take_snapshot(m);
			if (initial)
				m->n_stream = 0;
		}
		m->lsn += 16;
		for (uint32_t seq = 0, n = 1 + pick(m, 6); seq < n; seq++)
			change(m, seq);
	}
}

/* ---- delivery ---- */

static void must(int rc, const struct sb_error *err)
{
	ck_assert_msg(rc == SB_OK, "%d %s %s", rc, err->state, err->msg);
}

static int no_refusal(void *user, const struct sb_shape *shape, const struct sb_change *c, const struct sb_error *why)
{
	(void)user;
	(void)shape;
	(void)c;
	ck_abort_msg("refused: %s", why->msg);
	return SB_OK;
}

static void deliver(struct model *m, const struct line *line, unsigned n, struct sb_position done)
{
	static char batch[LINES_MAX * sizeof(line->text)];
	struct sb_error err = SB_ERROR_INIT;
	size_t len = (size_t)snprintf(batch, sizeof(batch), "%s", SHAPE);

	for (unsigned i = 0; i < n; i++)
		len += (size_t)snprintf(batch + len, sizeof(batch) - len, "%s", line[i].text);
	for (bool again = pick(m, 8) == 0;; again = false) {
		must(sb_pg_begin(m->pg, &err), &err);
		must(sb_entity_apply(m->tables, batch, len, done, no_refusal, NULL, NULL, &err), &err);
		if (!again)
			break;
		sb_pg_rollback(m->pg); /* the process died here and does it once more */
	}
	must(sb_pg_commit(m->pg, &err), &err);
}

static void deliver_stream(struct model *m)
{
	unsigned n = 1 + pick(m, 12), from = m->read;

	if (!m->begun) /* the marker comes before anything later than the snapshot's point */
		for (unsigned i = 0; i < n; i++)
			if (from + i >= m->n_stream || m->stream[from + i].lsn > m->point)
				n = i;
	if (n > m->n_stream - m->read)
		n = m->n_stream - m->read;
	if (n == 0)
		return;
	if (pick(m, 4) == 0) { /* after a restart the source sends some of it again, cut otherwise */
		unsigned back = pick(m, from + 1);
		from -= back;
		n += back;
	}
	deliver(m, &m->stream[from], n, m->done);
	m->read = from + n;
	m->done = (struct sb_position){ m->stream[m->read - 1].lsn, m->stream[m->read - 1].seq + 1 };
}

static void snapshot_step(struct model *m)
{
	struct sb_error err = SB_ERROR_INIT;
	unsigned n = 1 + pick(m, 6);

	if (!m->begun || m->snapshot_read == m->n_snapshot) {
		must(sb_pg_begin(m->pg, &err), &err);
		must(m->begun ? sb_entity_snapshot_ended(m->tables, "e", 1, m->point, NULL, &err) : sb_entity_snapshot_begun(m->tables, "e", &err), &err);
		must(sb_pg_commit(m->pg, &err), &err);
		m->ended = m->begun;
		m->begun = true;
		return;
	}
	if (n > m->n_snapshot - m->snapshot_read)
		n = m->n_snapshot - m->snapshot_read;
	deliver(m, &m->snapshot[m->snapshot_read], n, m->done);
	if (pick(m, 5)) /* else: the same rows once more */
		m->snapshot_read += n;
}

static void check_end(struct model *m, unsigned seed)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;
	struct sb_error err = SB_ERROR_INIT;
	char expected[512] = "", sql[200];
	size_t n = 0;

	for (unsigned k = 0; k < KEYS; k++)
		if (m->row[k].there)
			n += (size_t)snprintf(expected + n, sizeof(expected) - n, "%u:N%u:B%u ", k, m->row[k].name, m->row[k].big);
	(void)snprintf(sql, sizeof(sql), "SELECT coalesce(string_agg(id || ':' || coalesce(name, '?') || ':' || coalesce(big, '?') || ' ', '' ORDER BY id), '') FROM m%d.e",
		(int)getpid());
	must(sb_pg_exec(m->pg, sql, 0, NULL, &res, &err), &err);
	ck_assert_msg(strcmp(sb_pg_get(res, 0, 0), expected) == 0, "seed %u: table %s source %s", seed, sb_pg_get(res, 0, 0), expected);
	sb_pg_free(SB_TAKE(res));
	/* nothing is left of the snapshot's bookkeeping */
	(void)snprintf(sql, sizeof(sql), "SELECT count(*) FROM store.m%d__e WHERE _deleted OR _missing IS NOT NULL", (int)getpid());
	must(sb_pg_exec(m->pg, sql, 0, NULL, &res, &err), &err);
	ck_assert_int_eq(sb_pg_get_i64(res, 0, 0), 0);
}

static void play(struct model *m, unsigned seed, bool initial)
{
	struct sb_error err = SB_ERROR_INIT;
	char scope[32];

	*m = (struct model){ .random = UINT64_C(0x9E3779B97F4A7C15) * (seed + 1) };
	for (int i = 0; i < 10; i++)
		(void)pick(m, 2);
	make_history(m, initial);
	(void)snprintf(scope, sizeof(scope), "m%d", (int)getpid());
	must(sb_pg_open(&m->pg, conninfo, "model", &err), &err);
	must(sb_entity_tables_new(&m->tables, m->pg, scope, scope, &err), &err);
	if (initial)
		snapshot_step(m);
	while (!m->ended || m->read < m->n_stream) {
		if (m->ended || (m->read < m->n_stream && pick(m, 3)))
			deliver_stream(m);
		else
			snapshot_step(m);
		if (!m->begun && m->read < m->n_stream && m->stream[m->read].lsn > m->point)
			snapshot_step(m);
	}
	check_end(m, seed);
	(void)snprintf(scope, sizeof(scope), "m%d", (int)getpid());
	char sql[200];
	(void)snprintf(sql, sizeof(sql), "DROP SCHEMA %s CASCADE; DROP TABLE store.%s__e; DELETE FROM store.entity_type WHERE scope = '%s'", scope, scope, scope);
	must(sb_pg_script(m->pg, sql, &err), &err);
	sb_entity_tables_free(m->tables);
	sb_pg_close(m->pg);
}

#define SEEDS_PER_TEST 15

START_TEST(test_converges)
{
	static struct model m;
	unsigned rounds = getenv("SB_MODEL_ROUNDS") ? (unsigned)strtoul(getenv("SB_MODEL_ROUNDS"), NULL, 10) : SEEDS_PER_TEST;

	for (unsigned i = 0; i < rounds; i++)
		play(&m, (unsigned)_i / 2 * rounds + i, _i % 2);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("entity_model");
	TCase *tc = tcase_create("entity_model");

	conninfo = pg_fixture_start();
	tcase_set_timeout(tc, 600);
	tcase_add_loop_test(tc, test_converges, 0, 8);
	suite_add_tcase(s, tc);
	return test_run(s);
}
