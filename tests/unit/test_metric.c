/* The metrics registry: values, the exposition, its bounds, threads. */
#include "stagebridge/metric.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "support.h"

static struct sb_buf out;

static const char *render(void)
{
	if (out.data != NULL)
		sb_buf_release(&out);
	sb_buf_init(&out, 1 << 22);
	sb_metric_render(&out);
	ck_assert_int_eq(sb_buf_check(&out, "metrics", NULL), SB_OK);
	return out.data;
}

static void done(void)
{
	sb_buf_release(&out);
}

START_TEST(test_values)
{
	struct sb_metric *sent = sb_metric("stagebridge_sent_total", SB_COUNTER, "type", "Rows sent.");
	struct sb_metric *depth = sb_metric("stagebridge_depth", SB_GAUGE, NULL, "Depth.");

	ck_assert_ptr_nonnull(sent);
	ck_assert_ptr_nonnull(depth);
	ck_assert_ptr_eq(sb_metric("stagebridge_sent_total", SB_COUNTER, "type", "Rows sent."), sent);
	ck_assert(fabs(sb_metric_get(sent, "customer")) < 0.1);
	sb_metric_add(sent, "customer", 2);
	sb_metric_add(sent, "customer", 3);
	sb_metric_add(sent, "order", 1);
	sb_metric_set(depth, NULL, 7.5);
	sb_metric_add(depth, "a label is ignored where there is none", -2);
	ck_assert(fabs(sb_metric_get(sent, "customer") - 5) < 1e-9);
	ck_assert(fabs(sb_metric_get(sent, "order") - 1) < 1e-9);
	ck_assert(fabs(sb_metric_get(depth, NULL) - 5.5) < 1e-9);
	ck_assert_ptr_nonnull(strstr(render(),
		"# HELP stagebridge_sent_total Rows sent.\n# TYPE stagebridge_sent_total counter\n"
		"stagebridge_sent_total{type=\"customer\"} 5\nstagebridge_sent_total{type=\"order\"} 1\n"
		"# HELP stagebridge_depth Depth.\n# TYPE stagebridge_depth gauge\nstagebridge_depth 5.5\n"));
	done();
}
END_TEST

static const struct {
	double value;
	const char *text;
} numbers[] = {
	{ 0, "0" },         { -3, "-3" },       { 1e14, "100000000000000" },      { 1.7e9 + 0.25, "1700000000.25" },
	{ NAN, "NaN" },     { INFINITY, "+Inf" }, { -INFINITY, "-Inf" },          { 1e300, "1.0000000000000001e+300" },
};

START_TEST(test_numbers)
{
	struct sb_metric *m = sb_metric("stagebridge_x", SB_GAUGE, NULL, "X.");
	char want[100];

	sb_metric_set(m, NULL, numbers[_i].value);
	(void)snprintf(want, sizeof(want), "\nstagebridge_x %s\n", numbers[_i].text);
	ck_assert_msg(strstr(render(), want) != NULL, "%s", out.data);
	done();
}
END_TEST

START_TEST(test_process_and_order)
{
	const char *text = render();
	double resident = 0;

	ck_assert_msg(strncmp(text, "# HELP process_resident_memory_bytes ", 37) == 0, "%s", text);
	ck_assert_int_eq(sscanf(strstr(text, "\nprocess_resident_memory_bytes "), "\nprocess_resident_memory_bytes %lf",
				 &resident),
		1);
	ck_assert(resident > 100000);
	ck_assert_ptr_nonnull(strstr(text, "\n# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total "));
	ck_assert_ptr_nonnull(strstr(text, "\nstagebridge_metrics_dropped_total 0\n"));
	(void)sb_metric("stagebridge_new_total", SB_COUNTER, NULL, "New.");
	(void)sb_metric("stagebridge_labelled_total", SB_COUNTER, "stage", "Labelled.");
	text = render();
	ck_assert_ptr_nonnull(strstr(text, "\nstagebridge_new_total 0\n"));
	ck_assert_ptr_null(strstr(text, "\nstagebridge_labelled_total"));
	ck_assert_ptr_nonnull(strstr(text, "\n# TYPE stagebridge_labelled_total counter\n"));
	done();
}
END_TEST

START_TEST(test_escapes)
{
	struct sb_metric *m = sb_metric("stagebridge_x", SB_GAUGE, "l", "Back\\slash\nand \"quotes\".");

	sb_metric_set(m, "a\"b\\c\nd", 1);
	ck_assert_ptr_nonnull(strstr(render(), "# HELP stagebridge_x Back\\\\slash\\nand \"quotes\".\n"));
	ck_assert_ptr_nonnull(strstr(out.data, "stagebridge_x{l=\"a\\\"b\\\\c\\nd\"} 1\n"));
	done();
}
END_TEST

START_TEST(test_bounds)
{
	struct sb_metric *m = sb_metric("stagebridge_x", SB_GAUGE, "l", "X.");
	char name[64];

	for (int i = 0; i < 130; i++) {
		(void)snprintf(name, sizeof(name), "v%d", i);
		sb_metric_set(m, name, i);
	}
	ck_assert(fabs(sb_metric_get(m, "v127") - 127) < 1e-9);
	ck_assert(fabs(sb_metric_get(m, "v128")) < 1e-9);
	for (int i = 1; i < 260; i++) {
		(void)snprintf(name, sizeof(name), "stagebridge_m%d", i);
		ck_assert_int_eq(sb_metric(name, SB_GAUGE, NULL, "M.") != NULL, i < 256);
	}
	ck_assert_ptr_eq(sb_metric("stagebridge_x", SB_GAUGE, "l", "X."), m);
	sb_metric_add(NULL, "x", 1);
	sb_metric_set(NULL, "x", 1);
	ck_assert(fabs(sb_metric_get(NULL, "x")) < 1e-9);
	ck_assert_msg(strstr(render(), "\nstagebridge_metrics_dropped_total 8\n") != NULL,
		"2 values, 4 metrics, 2 uses of none");
	done();
}
END_TEST

START_TEST(test_out_of_memory)
{
	struct sb_metric *m = NULL;
	double before;
	long n = 0;

	for (;; n++) {
		fault_alloc_after(n);
		m = sb_metric("stagebridge_x", SB_GAUGE, "l", "X.");
		fault_alloc_after(-1);
		if (!fault_hit())
			break;
		ck_assert_ptr_null(m);
	}
	for (;; n++) {
		before = sb_metric_get(m, "v");
		fault_alloc_after(0);
		sb_metric_add(m, "v", 1);
		fault_alloc_after(-1);
		if (!fault_hit())
			break;
		ck_assert(fabs(sb_metric_get(m, "v") - before) < 1e-9);
		fault_alloc_after(1);
		sb_metric_add(m, "v", 1);
		fault_alloc_after(-1);
		if (!fault_hit())
			break;
		ck_assert(fabs(sb_metric_get(m, "v") - before) < 1e-9);
		sb_metric_add(m, "v", 1); /* memory is back */
	}
	ck_assert(sb_metric_get(m, "v") > 0);
}
END_TEST

static void *add_much(void *m)
{
	for (int i = 0; i < 20000; i++)
		sb_metric_add(m, i % 2 == 0 ? "even" : "odd", 1);
	return NULL;
}

START_TEST(test_threads)
{
	struct sb_metric *m = sb_metric("stagebridge_x_total", SB_COUNTER, "l", "X.");
	pthread_t thread[4];

	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, add_much, m), 0);
	(void)render();
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(pthread_join(thread[i], NULL), 0);
	ck_assert(fabs(sb_metric_get(m, "even") - 40000) < 1e-9);
	ck_assert(fabs(sb_metric_get(m, "odd") - 40000) < 1e-9);
	done();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("metric");
	TCase *tc = tcase_create("metric");

	tcase_add_test(tc, test_values);
	tcase_add_loop_test(tc, test_numbers, 0, (int)SB_COUNT(numbers));
	tcase_add_test(tc, test_process_and_order);
	tcase_add_test(tc, test_escapes);
	tcase_add_test(tc, test_bounds);
	tcase_add_test(tc, test_out_of_memory);
	tcase_add_test(tc, test_threads);
	suite_add_tcase(s, tc);
	return test_run(s);
}
