/* Lanes: running, waking, failing and coming back, stopping, what they report. */
#include "stagebridge/lane.h"

#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "support.h"

/* What a lane of these tests does and counts. */
struct probe {
	atomic_int runs, wakes, ready;
	atomic_int fail_runs;   /* that many runs end in an error */
	atomic_bool notes;      /* says that it works */
	atomic_bool deaf;       /* does not look at the stop flag */
	atomic_bool quits;      /* ends without having been asked to */
	int fd;                 /* watched too; -1: none */
	char name[32];
};

static struct sb_lanes *lanes;
static struct sb_error err;

static int probe_fn(struct sb_lane *lane, void *user, struct sb_error *e)
{
	struct probe *p = user;

	atomic_fetch_add(&p->runs, 1);
	(void)snprintf(p->name, sizeof(p->name), "%s", sb_lane_name(lane));
	if (atomic_load(&p->fail_runs) > 0) {
		atomic_fetch_sub(&p->fail_runs, 1);
		return sb_fail(e, SB_EKAFKA, "broker is away");
	}
	if (atomic_load(&p->quits))
		return SB_OK;
	if (atomic_load(&p->notes))
		sb_lane_note(lane, "streaming %s", "\xff");
	while (!sb_lane_stopping(lane) || atomic_load(&p->deaf)) {
		struct pollfd fd = { .fd = p->fd, .events = POLLIN, .revents = 0x7f };
		int n = sb_lane_wait(lane, &fd, p->fd >= 0 ? 1 : 0, atomic_load(&p->deaf) ? 5 : -1);
		if (n > 0 && (fd.revents & POLLIN) != 0) {
			char c;
			ck_assert_int_eq(read(p->fd, &c, 1), 1);
			atomic_fetch_add(&p->ready, 1);
		} else if (!sb_lane_stopping(lane)) {
			atomic_fetch_add(&p->wakes, 1);
		}
	}
	return SB_OK;
}

static void start(const char *name, struct probe *p)
{
	int r = sb_lanes_start(lanes, name, probe_fn, p, &err);

	ck_assert_msg(r == SB_OK, "%s", err.msg);
}

static void setup(void)
{
	ck_assert_int_eq(sb_lanes_new(&lanes, &err), SB_OK);
}

static void teardown(void)
{
	sb_lanes_free(lanes);
	lanes = NULL;
}

/* The reported field of one lane, as new; NULL when there is no such lane. */
static char *reported(const char *name, const char *key)
{
	struct sb_buf out;
	char *value = NULL;
	size_t i;
	json_t *list, *o;

	sb_buf_init(&out, 100000);
	sb_lanes_report(lanes, &out);
	ck_assert_int_eq(sb_buf_check(&out, "report", NULL), SB_OK);
	list = json_loads(out.data, 0, NULL);
	ck_assert_msg(json_is_array(list), "%s", out.data);
	json_array_foreach(list, i, o)
		if (strcmp(json_string_value(json_object_get(o, "name")), name) == 0) {
			json_t *v = json_object_get(o, key);
			value = json_is_integer(v) ? json_dumps(v, JSON_ENCODE_ANY) : strdup(json_string_value(v));
		}
	json_decref(list);
	sb_buf_release(&out);
	return value;
}

static bool reports(const char *name, const char *key, const char *want)
{
	char *value = reported(name, key);
	bool same = value != NULL && strcmp(value, want) == 0;

	free(value);
	return same;
}

START_TEST(test_wake)
{
	struct probe a = { .fd = -1 }, b = { .fd = -1 };

	start("up.customer", &a);
	start("up.order", &b);
	ck_assert(wait_until(atomic_load(&a.runs) == 1 && atomic_load(&b.runs) == 1, 5000));
	sb_lanes_wake(lanes, "up.customer");
	ck_assert(wait_until(atomic_load(&a.wakes) == 1, 5000));
	ck_assert_int_eq(atomic_load(&b.wakes), 0);
	sb_lanes_wake(lanes, "up.*");
	ck_assert(wait_until(atomic_load(&a.wakes) == 2 && atomic_load(&b.wakes) == 1, 5000));
	sb_lanes_wake(lanes, "*");
	ck_assert(wait_until(atomic_load(&a.wakes) == 3 && atomic_load(&b.wakes) == 2, 5000));
	sb_lanes_wake(lanes, "");
	sb_lanes_wake(lanes, "nobody");
	sb_lanes_wake(lanes, "up");
	sb_lanes_wake(lanes, "down*");
	ck_assert_str_eq(a.name, "up.customer");
	ck_assert_int_eq(sb_lanes_stop(lanes, 5000, &err), SB_OK);
	ck_assert_int_eq(atomic_load(&a.wakes), 3);
	ck_assert_int_eq(atomic_load(&b.wakes), 2);
	ck_assert_int_eq(atomic_load(&a.runs), 1);
}
END_TEST

START_TEST(test_wait_sees_descriptors)
{
	struct probe a = { .fd = -1 };
	int fds[2];

	ck_assert_int_eq(pipe(fds), 0);
	a.fd = fds[0];
	start("a", &a);
	ck_assert_int_eq(write(fds[1], "x", 1), 1);
	ck_assert(wait_until(atomic_load(&a.ready) == 1, 5000));
	sb_lanes_wake(lanes, "a");
	ck_assert(wait_until(atomic_load(&a.wakes) == 1, 5000));
	ck_assert_int_eq(write(fds[1], "xy", 2), 2);
	ck_assert(wait_until(atomic_load(&a.ready) == 3, 5000));
	ck_assert_int_eq(sb_lanes_stop(lanes, 5000, &err), SB_OK);
	ck_assert_int_eq(close(fds[0]) + close(fds[1]), 0);
}
END_TEST

static int timed_fn(struct sb_lane *lane, void *user, SB_UNUSED struct sb_error *e)
{
	atomic_llong *took_ms = user;
	int64_t start_ms = sb_mono_ms();

	ck_assert_int_eq(sb_lane_wait(lane, NULL, 0, 50), 0);
	atomic_store(took_ms, sb_mono_ms() - start_ms);
	ck_assert_int_eq(sb_lane_wait(lane, NULL, 0, 0), 0);
	(void)sb_lane_wait(lane, NULL, 0, INT64_MAX / 2); /* until the stop: longer than poll(2) can wait in one go */
	return SB_OK;
}

START_TEST(test_wait_times_out)
{
	atomic_llong took_ms = -1;

	ck_assert_int_eq(sb_lanes_start(lanes, "timed", timed_fn, &took_ms, &err), SB_OK);
	ck_assert(wait_until(atomic_load(&took_ms) >= 0, 5000));
	ck_assert_int_ge(atomic_load(&took_ms), 49);
	ck_assert_int_eq(sb_lanes_stop(lanes, 5000, &err), SB_OK);
}
END_TEST

START_TEST(test_failure_and_return)
{
	struct probe a = { .fd = -1, .fail_runs = 2, .notes = true };

	start("a", &a);
	ck_assert(wait_until(reports("a", "state", "backoff"), 5000));
	ck_assert(reports("a", "reason", "broker is away"));
	ck_assert(sb_lanes_ready(lanes, 60000));
	ck_assert(wait_until(!sb_lanes_ready(lanes, 0), 5000));
	sb_lanes_wake(lanes, "a"); /* is for the next run, does not cut the back-off short, is not lost */
	ck_assert(wait_until(atomic_load(&a.runs) == 3, 10000));
	ck_assert(wait_until(reports("a", "note", "streaming ?"), 5000));
	ck_assert(wait_until(atomic_load(&a.wakes) == 1, 5000));
	ck_assert(reports("a", "state", "running"));
	ck_assert(reports("a", "restarts", "2"));
	ck_assert_msg(sb_lanes_ready(lanes, 0), "the note ended the failure");
	ck_assert_int_eq(sb_lanes_stop(lanes, 5000, &err), SB_OK);
	ck_assert(reports("a", "state", "stopped"));
	ck_assert(!sb_lanes_ready(lanes, 60000));
}
END_TEST

START_TEST(test_quitting_counts_as_failure)
{
	struct probe a = { .fd = -1, .quits = true };

	start("a", &a);
	ck_assert(wait_until(reports("a", "reason", "ended without having been asked to"), 5000));
	ck_assert(wait_until(atomic_load(&a.runs) >= 2, 5000));
	ck_assert_int_eq(sb_lanes_stop(lanes, 5000, &err), SB_OK);
}
END_TEST

/* Twenty lanes in back-offs of up to 3 s and more: some would still sleep for long when the stop comes. */
START_TEST(test_stop_cuts_backoff)
{
	static struct probe probes[20];
	char name[24];
	int64_t start_ms;

	for (int i = 0; i < (int)SB_COUNT(probes); i++) {
		probes[i].fd = -1;
		atomic_store(&probes[i].fail_runs, 1000);
		(void)snprintf(name, sizeof(name), "lane-%d", i);
		start(name, &probes[i]);
	}
	for (size_t i = 0; i < SB_COUNT(probes); i++)
		ck_assert(wait_until(atomic_load(&probes[i].runs) >= 5, 15000));
	start_ms = sb_mono_ms();
	ck_assert_int_eq(sb_lanes_stop(lanes, 30000, &err), SB_OK);
	ck_assert_int_lt(sb_mono_ms() - start_ms, 1000);
}
END_TEST

START_TEST(test_stop_has_a_deadline)
{
	struct probe a = { .fd = -1, .deaf = true, .notes = true }, b = { .fd = -1 };

	start("a", &a);
	start("b", &b);
	ck_assert(wait_until(reports("a", "note", "streaming ?"), 5000));
	ck_assert_int_eq(sb_lanes_stop(lanes, 50, &err), SB_ETIMEOUT);
	ck_assert_str_eq(err.msg, "lane \"a\" (streaming ?) did not stop within 50 ms");
	ck_assert(reports("b", "state", "stopped"));
	atomic_store(&a.deaf, false);
	ck_assert_int_eq(sb_lanes_stop(lanes, 5000, &err), SB_OK);
	ck_assert_int_eq(sb_lanes_stop(lanes, 0, &err), SB_OK);
}
END_TEST

START_TEST(test_start_refused)
{
	struct probe a = { .fd = -1 };

	start("a", &a);
	ck_assert_int_eq(sb_lanes_start(lanes, "a", probe_fn, &a, &err), SB_ECONFLICT);
	ck_assert_int_eq(sb_lanes_stop(lanes, 5000, &err), SB_OK);
	ck_assert_int_eq(sb_lanes_start(lanes, "late", probe_fn, &a, &err), SB_ESHUTDOWN);
}
END_TEST

START_TEST(test_report_of_none)
{
	struct sb_buf out;

	sb_buf_init(&out, 100);
	sb_lanes_report(lanes, &out);
	ck_assert_str_eq(out.data, "[]");
	ck_assert(sb_lanes_ready(lanes, 0));
	sb_buf_release(&out);
	sb_lanes_free(NULL);
}
END_TEST

START_TEST(test_many_lanes_wake_each_other)
{
	enum { MANY = 40 };
	static struct probe probes[MANY];
	char name[24];

	for (int i = 0; i < MANY; i++) {
		probes[i].fd = -1;
		(void)snprintf(name, sizeof(name), "lane-%d", i);
		start(name, &probes[i]);
	}
	for (int i = 0; i < MANY; i++) {
		(void)snprintf(name, sizeof(name), "lane-%d", i);
		sb_lanes_wake(lanes, name);
	}
	for (int i = 0; i < MANY; i++)
		ck_assert(wait_until(atomic_load(&probes[i].wakes) == 1, 10000));
	ck_assert_int_eq(sb_lanes_stop(lanes, 10000, &err), SB_OK);
}
END_TEST

START_TEST(test_out_of_memory)
{
	static struct probe a = { .fd = -1 };
	struct sb_lanes *own = NULL;
	struct sb_buf out;
	int r = SB_OK;

	for (long n = 0;; n++) {
		fault_alloc_after(n);
		r = sb_lanes_new(&own, &err);
		if (r == SB_OK)
			r = sb_lanes_start(own, "a", probe_fn, &a, &err);
		fault_alloc_after(-1);
		if (!fault_hit())
			break;
		ck_assert_int_eq(r, SB_ENOMEM);
		sb_lanes_free(own);
		own = NULL;
	}
	ck_assert_int_eq(r, SB_OK);
	for (long n = 0;; n++) {
		sb_buf_init(&out, 10000);
		fault_alloc_after(n);
		sb_lanes_report(own, &out);
		fault_alloc_after(-1);
		r = sb_buf_check(&out, "report", NULL);
		sb_buf_release(&out);
		if (!fault_hit())
			break;
		ck_assert_int_eq(r, SB_ENOMEM);
	}
	ck_assert_int_eq(r, SB_OK);
	sb_lanes_free(own);
}
END_TEST

static void *send_signal(void *signo)
{
	(void)kill(getpid(), *(int *)signo); /* to ourselves: cannot fail */
	return NULL;
}

START_TEST(test_signals)
{
	int signals[] = { SIGTERM, SIGINT, SIGHUP };
	int fds[2];

	ck_assert_int_eq(sb_signals_block(&err), SB_OK);
	for (size_t i = 0; i < SB_COUNT(signals); i++) {
		pthread_t thread;
		ck_assert_int_eq(pthread_create(&thread, NULL, send_signal, &signals[i]), 0);
		ck_assert_int_eq(sb_signals_wait(), signals[i]);
		ck_assert_int_eq(pthread_join(thread, NULL), 0);
	}
	ck_assert_int_eq(pipe(fds), 0);
	ck_assert_int_eq(close(fds[0]), 0);
	ck_assert_int_eq(write(fds[1], "x", 1), -1); /* a lost reader does not end the process */
	ck_assert_int_eq(close(fds[1]), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("lane");
	TCase *tc = tcase_create("lane");

	tcase_set_timeout(tc, 30);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_wake);
	tcase_add_test(tc, test_wait_sees_descriptors);
	tcase_add_test(tc, test_wait_times_out);
	tcase_add_test(tc, test_failure_and_return);
	tcase_add_test(tc, test_quitting_counts_as_failure);
	tcase_add_test(tc, test_stop_cuts_backoff);
	tcase_add_test(tc, test_stop_has_a_deadline);
	tcase_add_test(tc, test_start_refused);
	tcase_add_test(tc, test_report_of_none);
	tcase_add_test(tc, test_many_lanes_wake_each_other);
	tcase_add_test(tc, test_out_of_memory);
	tcase_add_test(tc, test_signals);
	suite_add_tcase(s, tc);
	return test_run(s);
}
