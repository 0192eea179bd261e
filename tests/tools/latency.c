/* Measures the time from a commit in a source to its being visible in the sync view. One thread writes rows at a fixed rate,
 * each in a transaction of its own, and notes when the commit was acknowledged; the main thread asks the view for the highest
 * number that it shows, every poll interval, and notes when each number was first seen. Each thread owns its connection; they
 * share two arrays of times, each written by one thread, and the count of the rows written. Prints one JSON object.
 *
 * The writer keeps to its schedule: a late commit does not delay the ones after it more than it must. The rate that was
 * reached and how late the writer sent its rows are printed, so that a load that was not the one asked for shows.
 *
 * Both statements are prepared: neither the source nor the view is kept busy with planning, and what one question costs the
 * machine is printed beside how many were asked. */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "stagebridge/clock.h"
#include "stagebridge/pg.h"
#include "stagebridge/text.h"

#define US      1000000
#define TAIL_US (60 * (int64_t)US) /* how long after the last commit its row may take */

struct probe {
	const char *source, *insert; /* connection string; statement with $1 = the number */
	int64_t first;               /* number before the first one written */
	uint64_t rate, total;
	int64_t *committed, *seen; /* microseconds, by number - first - 1 */
	int64_t *behind;           /* how long after its time the row was sent, same index */
	_Atomic uint64_t written;
	_Atomic bool ended;
	int64_t began, took;
	uint64_t asked; /* questions to the view, and the time they took */
	int64_t asking;
	struct sb_error err;
	int result;
};

static void nap_us(int64_t us)
{
	struct timespec ts = { .tv_sec = us / US, .tv_nsec = us % US * 1000 };

	if (us > 0)
		(void)nanosleep(&ts, NULL); /* an early wake-up only asks earlier */
}

/* Opens a connection and prepares the statement in it, with or without a parameter, planned once. */
static int open_prepared(struct sb_pg **ret, const char *dsn, const char *name, const char *parameters, const char *sql, struct sb_error *err)
{
	char *prepare = sb_asprintf("SET plan_cache_mode = force_generic_plan; PREPARE probe%s AS %s", parameters, sql);

	if (!prepare)
		return sb_fail_nomem(err);
	int r = sb_pg_open(ret, dsn, name, err);
	if (r == 0)
		r = sb_pg_script(*ret, prepare, err);
	free(prepare);
	return r;
}

static int write_rows(struct probe *p)
{
	struct sb_pg *pg = NULL;
	char execute[64];

	int r = open_prepared(&pg, p->source, "latency-writer", "(bigint)", p->insert, &p->err);
	p->began = sb_mono_us();
	for (uint64_t i = 0; r == 0 && i < p->total; i++) {
		int64_t due = p->began + (int64_t)(i * US / p->rate);
		nap_us(due - sb_mono_us());
		p->behind[i] = sb_mono_us() - due;
		(void)snprintf(execute, sizeof(execute), "EXECUTE probe(%" PRId64 ")", p->first + (int64_t)i + 1); /* 40 characters at most */
		r = sb_pg_exec(pg, execute, 0, NULL, NULL, &p->err);
		p->committed[i] = sb_mono_us();
		if (r == 0)
			atomic_store(&p->written, i + 1);
	}
	p->took = sb_mono_us() - p->began;
	sb_pg_close(pg);
	return r;
}

static void *writer(void *user)
{
	struct probe *p = user;

	p->result = write_rows(p);
	atomic_store(&p->ended, true);
	return NULL;
}

static int highest(struct sb_pg *pg, int64_t *ret, struct sb_error *err)
{
	sb_cleanup(sb_pg_freep) struct sb_pg_result *res = NULL;

	int r = sb_pg_exec(pg, "EXECUTE probe", 0, NULL, &res, err);
	if (r == 0)
		*ret = sb_pg_rows(res) ? sb_pg_get_i64(res, 0, 0) : 0;
	return r;
}

static int watch(struct probe *p, struct sb_pg *pg, int64_t poll_us, struct sb_error *err)
{
	int64_t shown = p->first, now = 0, deadline = 0;

	while (shown < p->first + (int64_t)p->total) {
		int64_t asked = sb_mono_us();
		int r = highest(pg, &now, err);
		if (r < 0)
			return r;
		int64_t at = sb_mono_us();
		p->asked++;
		p->asking += at - asked;
		for (; shown < now && shown < p->first + (int64_t)p->total; shown++)
			p->seen[shown - p->first] = at;
		if (atomic_load(&p->ended)) {
			if (p->result < 0)
				return 0; /* the writer says why */
			deadline = deadline ? deadline : at + TAIL_US;
			if (at > deadline)
				return sb_fail(err, SB_ETIMEOUT, "row %" PRId64 " is not visible 60 s after the last commit", shown + 1);
		}
		nap_us(poll_us - (sb_mono_us() - asked));
	}
	return 0;
}

static int by_value(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

static double quantile_ms(const int64_t *sorted, uint64_t n, unsigned permille)
{
	uint64_t at = (n * permille + 999) / 1000;

	return (double)sorted[at ? at - 1 : 0] / 1000.0;
}

static void print(struct probe *p)
{
	int64_t *late = p->seen;

	/* the view may show a row before its writer has heard of the commit */
	for (uint64_t i = 0; i < p->total; i++)
		late[i] = p->seen[i] > p->committed[i] ? p->seen[i] - p->committed[i] : 0;
	qsort(late, p->total, sizeof(*late), by_value);
	qsort(p->behind, p->total, sizeof(*p->behind), by_value);
	printf("{\"rows\": %" PRIu64 ", \"rate\": %.1f, \"p50_ms\": %.3f, \"p95_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f, ", p->total,
		(double)(p->total > 1 ? p->total - 1 : 1) * US / (double)p->took, quantile_ms(late, p->total, 500), quantile_ms(late, p->total, 950), quantile_ms(late, p->total, 990),
		(double)late[p->total - 1] / 1000.0);
	printf("\"behind_p99_ms\": %.3f, \"behind_max_ms\": %.3f, \"asked\": %" PRIu64 ", \"ask_us\": %.1f}\n", quantile_ms(p->behind, p->total, 990),
		(double)p->behind[p->total - 1] / 1000.0, p->asked, (double)p->asking / (double)p->asked);
}

static int measure(struct probe *p, const char *view, const char *sql, int64_t poll_us, struct sb_error *err)
{
	struct sb_pg *pg = NULL;
	pthread_t thread;

	int r = open_prepared(&pg, view, "latency-reader", "", sql, err);
	if (r == 0)
		r = highest(pg, &p->first, err);
	if (r == 0 && pthread_create(&thread, NULL, writer, p) != 0)
		r = sb_fail(err, SB_EIO, "cannot start a thread");
	else if (r == 0) {
		r = watch(p, pg, poll_us, err);
		(void)pthread_join(thread, NULL); /* joinable and joined once: cannot fail */
		if (r == 0 && p->result < 0) {
			*err = p->err;
			r = p->result;
		}
	}
	sb_pg_close(pg);
	return r;
}

static int run(char **argv, struct sb_error *err)
{
	struct probe p = { .source = argv[1], .insert = argv[3] };
	uint64_t seconds = 0, poll_us = 0;

	int r = sb_parse_u64(argv[5], 1, 100000, "RATE", &p.rate, err);
	if (r == 0)
		r = sb_parse_u64(argv[6], 1, 86400, "SECONDS", &seconds, err);
	if (r == 0)
		r = sb_parse_u64(argv[7], 0, US, "POLL_US", &poll_us, err);
	if (r < 0)
		return r;
	p.total = p.rate * seconds;
	p.committed = calloc(p.total, sizeof(*p.committed));
	p.seen = calloc(p.total, sizeof(*p.seen));
	p.behind = calloc(p.total, sizeof(*p.behind));
	r = p.committed && p.seen && p.behind ? measure(&p, argv[2], argv[4], (int64_t)poll_us, err) : sb_fail_nomem(err);
	if (r == 0)
		print(&p);
	free(p.committed);
	free(p.seen);
	free(p.behind);
	return r;
}

int main(int argc, char **argv)
{
	struct sb_error err = SB_ERROR_INIT;

	if (argc != 8) {
		fprintf(stderr,
			"usage: latency SOURCE_DSN VIEW_DSN INSERT_SQL HIGHEST_SQL RATE SECONDS POLL_US\n"
			"INSERT_SQL writes one row with the number $1; HIGHEST_SQL returns the highest number that the view shows\n");
		return 1;
	}
	if (run(argv, &err) < 0) {
		fprintf(stderr, "latency: %s\n", err.msg);
		return 1;
	}
	return 0;
}
