/* Entity batches: what is written is read back, what breaks the form is refused at its line, limits hold; positions as text. */
#include <check.h>
#include <string.h>

#include <jansson.h>

#include "stagebridge/change.h"
#include "stagebridge/json.h"
#include "stagebridge/record.h"
#include "support.h"

static struct sb_column columns[] = {
	{ .name = (char[]){ "id" }, .type = (char[]){ "integer" }, .key = true },
	{ .name = (char[]){ "region" }, .type = (char[]){ "text" }, .key = true },
	{ .name = (char[]){ "note \"x\"" }, .type = (char[]){ "numeric(10,2)" }, .key = false },
};
static const struct sb_shape shape = { .type = "experiment", .incarnation = 4, .column = columns, .n_columns = 3 };

#define V(s) \
	{ \
		SB_CELL_VALUE, s, sizeof(s) - 1 \
	}
#define N \
	{ \
		SB_CELL_NULL, NULL, 0 \
	}
#define U \
	{ \
		SB_CELL_UNCHANGED, NULL, 0 \
	}

static const struct sb_cell full[] = { V("1"), V("eu"), V("l\xc3\xa9\n\"\\\t") }, keyed[] = { V("1"), V("eu"), N },
			    toast[] = { V("1"), V("eu"), U }, empty[] = { V("1"), V(""), V("") }, old_key[] = { V("0"), V("us") };

static const struct sb_change changes[] = {
	{ .op = 'i', .lsn = 0x16B3748, .seq = 0, .n_cells = 3, .cell = full },
	{ .op = 'u', .lsn = 0xA00000001, .seq = 4294967295u, .n_cells = 3, .cell = toast },
	{ .op = 'd', .lsn = 1, .seq = 2, .n_cells = 3, .cell = keyed },
	{ .op = 'k', .lsn = 1, .seq = 3, .n_cells = 3, .cell = empty, .n_old = 2, .old_key = old_key },
	{ .op = 't', .lsn = UINT64_MAX, .seq = 4 },
	{ .op = 's', .lsn = 0, .seq = 0, .n_cells = 3, .cell = keyed },
};

static bool same_cells(const struct sb_cell *a, const struct sb_cell *b, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (a[i].kind != b[i].kind || a[i].n != b[i].n || (a[i].n && memcmp(a[i].p, b[i].p, a[i].n) != 0))
			return false;
	}
	return true;
}

static bool same_change(const struct sb_change *a, const struct sb_change *b)
{
	return a->op == b->op && a->lsn == b->lsn && a->seq == b->seq && a->n_cells == b->n_cells && a->n_old == b->n_old &&
	       same_cells(a->cell, b->cell, a->n_cells) && same_cells(a->old_key, b->old_key, a->n_old);
}

/* Writes and reads everything; *ret_same says that all came back. No assertion in here: it runs while allocations fail. */
static int round_trip(bool *ret_same, struct sb_error *err)
{
	struct sb_batch *b = NULL;
	struct sb_batch_reader *r = NULL;
	struct sb_change c;
	size_t n = 0, same = 0;
	int rc = sb_batch_new(&b, err);

	if (rc == 0)
		rc = sb_batch_begin(b, &shape, err);
	for (size_t i = 0; rc == 0 && i < SB_COUNT(changes); i++)
		rc = sb_batch_add(b, &changes[i], err);
	if (rc == 0) {
		const void *value = sb_batch_value(b, &n);
		rc = sb_batch_open(&r, value, n, err);
	}
	n = 0;
	while (rc == 0 && (rc = sb_batch_next(r, &c, err)) == 1) {
		same += n < SB_COUNT(changes) && same_change(&c, &changes[n]);
		n++;
		rc = 0;
		if (n == SB_COUNT(changes)) {
			rc = sb_batch_next(r, &c, err);
			break;
		}
	}
	*ret_same = rc == 0 && same == SB_COUNT(changes) && sb_batch_count(b) == same && sb_shape_equal(sb_batch_shape(r), &shape) &&
		    sb_batch_shape(r)->incarnation == 4;
	sb_batch_close(r);
	sb_batch_free(b);
	return rc;
}

START_TEST(test_round_trip)
{
	struct sb_error err = SB_ERROR_INIT;

	bool same = false;

	ck_assert_msg(round_trip(&same, &err) == 0, "%s", err.msg);
	ck_assert(same);
}
END_TEST

START_TEST(test_without_memory)
{
	sb_json_guard();
	for (long n = 0;; n++) {
		struct sb_error err = SB_ERROR_INIT;
		bool same;
		fault_alloc_after(n);
		int r = round_trip(&same, &err);
		fault_alloc_after(-1);
		if (!fault_hit())
			break;
		ck_assert_msg(r == SB_ENOMEM, "allocation %ld: %d (%s)", n, r, err.msg);
	}
}
END_TEST

START_TEST(test_bytes)
{
	static const char expected[] =
		"{\"type\":\"experiment\",\"incarnation\":4,\"columns\":[[\"id\",\"integer\",true],[\"region\",\"text\",true],"
		"[\"note \\\"x\\\"\",\"numeric(10,2)\",false]]}\n"
		"i\t0/16B3748\t0\t1\teu\tl\xc3\xa9\\n\"\\\\\\t\n";
	struct sb_batch *b = NULL;
	struct sb_error err = SB_ERROR_INIT;
	size_t n;

	ck_assert_int_eq(sb_batch_new(&b, &err), 0);
	ck_assert_int_eq(sb_batch_begin(b, &shape, &err), 0);
	ck_assert_int_eq(sb_batch_add(b, &changes[0], &err), 0);
	const char *value = sb_batch_value(b, &n);
	ck_assert_uint_eq(n, sizeof(expected) - 1);
	ck_assert_mem_eq(value, expected, n);
	ck_assert_int_eq(sb_batch_begin(b, &shape, &err), 0);
	ck_assert_uint_eq(sb_batch_count(b), 0);
	sb_batch_free(b);
}
END_TEST

START_TEST(test_vectors)
{
	json_error_t je;
	json_auto_t *file = json_load_file("proto/vectors/batches.json", 0, &je);
	size_t i;
	json_t *v;

	ck_assert_msg(file, "%s", je.text);
	ck_assert_uint_gt(json_array_size(json_object_get(file, "vectors")), 30);
	json_array_foreach(json_object_get(file, "vectors"), i, v)
	{
		const char *name = json_string_value(json_object_get(v, "name"));
		const json_t *value = json_object_get(v, "value");
		long long line = json_integer_value(json_object_get(v, "line"));
		struct sb_error err = SB_ERROR_INIT;
		struct sb_batch_reader *r = NULL;
		struct sb_change c;
		char at[32];
		int rc = sb_batch_open(&r, json_string_value(value), json_string_length(value), &err);

		if (rc == 0)
			while ((rc = sb_batch_next(r, &c, &err)) == 1)
				;
		sb_batch_close(r);
		ck_assert_msg(strcmp(sb_code_name((enum sb_code)rc), json_string_value(json_object_get(v, "expect"))) == 0, "%s: %s (%s)",
			name, sb_code_name((enum sb_code)rc), err.msg);
		ck_assert_int_eq(sb_format(at, sizeof(at), NULL, "line %lld", line), 0);
		if (line > 0)
			ck_assert_msg(strncmp(err.msg, at, strlen(at)) == 0, "%s: %s", name, err.msg);
	}
}
END_TEST

/* Every beginning of a good batch is refused, unless it ends with a line. */
START_TEST(test_every_cut)
{
	struct sb_batch *b = NULL;
	struct sb_error err = SB_ERROR_INIT;
	struct sb_change c;
	size_t n;

	ck_assert_int_eq(sb_batch_new(&b, &err), 0);
	ck_assert_int_eq(sb_batch_begin(b, &shape, &err), 0);
	for (size_t i = 0; i < SB_COUNT(changes); i++)
		ck_assert_int_eq(sb_batch_add(b, &changes[i], &err), 0);
	const char *value = sb_batch_value(b, &n);
	for (size_t cut = 0; cut < n; cut++) {
		struct sb_batch_reader *r = NULL;
		int rc = sb_batch_open(&r, value, cut, &err);
		while (rc == 0 && (rc = sb_batch_next(r, &c, &err)) == 1)
			rc = 0;
		if (rc == 0 && cut > 0 && value[cut - 1] == '\n')
			rc = -1000; /* whole lines */
		ck_assert_int_lt(rc, 0);
		sb_batch_close(r);
	}
	sb_batch_free(b);
}
END_TEST

START_TEST(test_not_utf8)
{
	static const char *const bad[] = { "\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "ab\xc3" };
	struct sb_cell cell[3] = { V("1"), V("eu"), N };
	struct sb_change c = { .op = 'i', .n_cells = 3, .cell = cell };
	struct sb_batch *b = NULL;
	struct sb_error err = SB_ERROR_INIT;
	size_t before, after;

	ck_assert_int_eq(sb_batch_new(&b, &err), 0);
	ck_assert_int_eq(sb_batch_begin(b, &shape, &err), 0);
	(void)sb_batch_value(b, &before);
	for (size_t i = 0; i < SB_COUNT(bad); i++) {
		cell[2] = (struct sb_cell){ SB_CELL_VALUE, bad[i], strlen(bad[i]) };
		ck_assert_int_eq(sb_batch_add(b, &c, &err), SB_EPROTO);
	}
	cell[2] = (struct sb_cell){ SB_CELL_VALUE, "a\0b", 3 };
	ck_assert_int_eq(sb_batch_add(b, &c, &err), SB_EPROTO);
	(void)sb_batch_value(b, &after);
	ck_assert_uint_eq(before, after);
	ck_assert_uint_eq(sb_batch_count(b), 0);
	sb_batch_free(b);
}
END_TEST

START_TEST(test_writer_refuses_what_a_reader_would)
{
	static const struct sb_cell null_key[] = { N, V("eu"), N };
	const struct sb_change bad[] = {
		{ .op = 'x', .n_cells = 3, .cell = full },
		{ .op = '\0', .n_cells = 3, .cell = full },
		{ .op = 'i', .n_cells = 2, .cell = full },
		{ .op = 't', .n_cells = 3, .cell = full },
		{ .op = 'd', .n_cells = 3, .cell = full },
		{ .op = 'i', .n_cells = 3, .cell = toast },
		{ .op = 'i', .n_cells = 3, .cell = null_key },
		{ .op = 'k', .n_cells = 3, .cell = full },
		{ .op = 'k', .n_cells = 3, .cell = full, .n_old = 2, .old_key = null_key },
		{ .op = 'i', .n_cells = 3, .cell = full, .n_old = 2, .old_key = old_key },
	};
	struct sb_batch *b = NULL;
	struct sb_error err = SB_ERROR_INIT;

	ck_assert_int_eq(sb_batch_new(&b, &err), 0);
	ck_assert_int_eq(sb_batch_add(b, &changes[0], &err), SB_EINVAL); /* not begun */
	ck_assert_int_eq(sb_batch_begin(b, &shape, &err), 0);
	for (size_t i = 0; i < SB_COUNT(bad); i++)
		ck_assert_msg(sb_batch_add(b, &bad[i], &err) == SB_EINVAL, "%zu", i);
	sb_batch_free(b);
}
END_TEST

START_TEST(test_bad_shapes)
{
	struct sb_column two[2] = { { .name = (char[]){ "a" }, .type = (char[]){ "" }, .key = true },
		{ .name = (char[]){ "b" }, .type = (char[]){ "" }, .key = false } };
	struct sb_shape s = { .type = "t", .incarnation = 1, .column = two, .n_columns = 2 };
	char sixty_four[65];
	struct sb_batch *b = NULL;
	struct sb_error err = SB_ERROR_INIT;

	memset(sixty_four, 'x', 64);
	sixty_four[64] = '\0';
	ck_assert_int_eq(sb_batch_new(&b, &err), 0);
	ck_assert_int_eq(sb_batch_begin(b, &s, &err), 0);
	two[1].name = sixty_four;
	ck_assert_int_eq(sb_batch_begin(b, &s, &err), SB_EPROTO);
	sixty_four[63] = '\0';
	ck_assert_int_eq(sb_batch_begin(b, &s, &err), 0);
	two[1].name = two[0].name;
	ck_assert_int_eq(sb_batch_begin(b, &s, &err), SB_EPROTO);
	two[1].name = (char[]){ "\xff" };
	ck_assert_int_eq(sb_batch_begin(b, &s, &err), SB_EPROTO);
	two[1].name = (char[]){ "b" };
	two[0].key = false;
	ck_assert_int_eq(sb_batch_begin(b, &s, &err), SB_EPROTO);
	two[0].key = true;
	s.n_columns = 0;
	ck_assert_int_eq(sb_batch_begin(b, &s, &err), SB_EPROTO);
	s.n_columns = SB_COLUMNS_MAX + 1;
	ck_assert_int_eq(sb_batch_begin(b, &s, &err), SB_EPROTO);
	sb_batch_free(b);
}
END_TEST

START_TEST(test_full)
{
	static char big[100000];
	struct sb_cell cell[3] = { V("1"), V("eu"), { SB_CELL_VALUE, big, sizeof(big) } };
	struct sb_change c = { .op = 's', .n_cells = 3, .cell = cell };
	struct sb_batch *b = NULL;
	struct sb_batch_reader *r = NULL;
	struct sb_error err = SB_ERROR_INIT;
	size_t before, after;
	unsigned n = 0;
	int rc;

	memset(big, 'x', sizeof(big));
	ck_assert_int_eq(sb_batch_new(&b, &err), 0);
	ck_assert_int_eq(sb_batch_begin(b, &shape, &err), 0);
	do {
		(void)sb_batch_value(b, &before);
		rc = sb_batch_add(b, &c, &err);
		n += rc == 0;
	} while (rc == 0);
	ck_assert_int_eq(rc, SB_ETOOBIG);
	const void *value = sb_batch_value(b, &after);
	ck_assert_uint_eq(before, after);
	ck_assert_uint_le(after, SB_VALUE_MAX);
	ck_assert_uint_eq(sb_batch_count(b), n);
	ck_assert_uint_eq(n, 7);
	ck_assert_int_eq(sb_batch_add(b, &changes[0], &err), 0); /* a small one still fits */

	ck_assert_int_eq(sb_batch_open(&r, value, after, &err), 0);
	for (unsigned i = 0; i < n; i++)
		ck_assert_int_eq(sb_batch_next(r, &c, &err), 1);
	ck_assert_int_eq(sb_batch_next(r, &c, &err), 0);
	sb_batch_close(r);
	sb_batch_free(b);
}
END_TEST

START_TEST(test_many_columns)
{
	static struct sb_column many[SB_COLUMNS_MAX];
	static char name[SB_COLUMNS_MAX][8];
	static struct sb_cell cell[SB_COLUMNS_MAX];
	static char no_type[] = "";
	struct sb_shape s = { .type = "wide", .incarnation = INT64_MAX, .column = many, .n_columns = SB_COLUMNS_MAX }, copy;
	struct sb_change c = { .op = 'i', .n_cells = SB_COLUMNS_MAX, .cell = cell }, got;
	struct sb_batch *b = NULL;
	struct sb_batch_reader *r = NULL;
	struct sb_error err = SB_ERROR_INIT;
	size_t n;

	for (unsigned i = 0; i < SB_COLUMNS_MAX; i++) {
		ck_assert_int_eq(sb_format(name[i], sizeof(name[i]), NULL, "c%u", i), 0);
		many[i] = (struct sb_column){ .name = name[i], .type = no_type, .key = i == SB_COLUMNS_MAX - 1 };
		cell[i] = (struct sb_cell){ SB_CELL_VALUE, "v", 1 };
	}
	ck_assert_int_eq(sb_batch_new(&b, &err), 0);
	ck_assert_int_eq(sb_batch_begin(b, &s, &err), 0);
	ck_assert_int_eq(sb_batch_add(b, &c, &err), 0);
	const void *value = sb_batch_value(b, &n);
	ck_assert_int_eq(sb_batch_open(&r, value, n, &err), 0);
	ck_assert_int_eq(sb_batch_next(r, &got, &err), 1);
	ck_assert_uint_eq(got.n_cells, SB_COLUMNS_MAX);
	ck_assert_int_eq(sb_shape_copy(&copy, sb_batch_shape(r), &err), 0);
	sb_batch_close(r);
	ck_assert(sb_shape_equal(&copy, &s));
	copy.column[3].key = true;
	ck_assert(!sb_shape_equal(&copy, &s));
	sb_shape_release(&copy);
	sb_batch_free(b);
}
END_TEST

START_TEST(test_positions)
{
	static const char *const bad[] = { "", ".", "1", "1.", ".1", "g.1", "a.1", "01.1", "1.01", "1.-1", "1.4294967296",
		"11112222333344445.1", "1.1 ", " 1.1", "1.1.1" };
	const struct {
		struct sb_position p;
		const char *text;
	} good[] = {
		{ { 0, 0 }, "0.0" },
		{ { 0x16B3748, 3 }, "16B3748.3" },
		{ { UINT64_MAX, UINT32_MAX }, "FFFFFFFFFFFFFFFF.4294967295" },
	};
	struct sb_position p;
	struct sb_error err = SB_ERROR_INIT;
	char text[SB_POSITION_LEN + 1];

	for (size_t i = 0; i < SB_COUNT(good); i++) {
		sb_position_format(text, good[i].p);
		ck_assert_str_eq(text, good[i].text);
		ck_assert_int_eq(sb_position_parse(text, &p, &err), 0);
		ck_assert_int_eq(sb_position_cmp(p, good[i].p), 0);
		if (i > 0) {
			ck_assert_int_lt(sb_position_cmp(good[i - 1].p, p), 0);
			ck_assert_int_gt(sb_position_cmp(p, good[i - 1].p), 0);
		}
	}
	for (size_t i = 0; i < SB_COUNT(bad); i++)
		ck_assert_msg(sb_position_parse(bad[i], &p, &err) == SB_EPROTO, "%s", bad[i]);
	ck_assert_int_lt(sb_position_cmp((struct sb_position){ 1, 2 }, (struct sb_position){ 1, 3 }), 0);
}
END_TEST

START_TEST(test_lsn)
{
	static const char *const bad[] = { "", "/", "0", "0/", "/0", "0/g", "0/a", "0/123456789", "123456789/0", "0/1 ", "0/1/2" };
	const struct {
		uint64_t lsn;
		const char *text;
	} good[] = { { 0, "0/0" }, { 0x16B3748, "0/16B3748" }, { UINT64_MAX, "FFFFFFFF/FFFFFFFF" }, { 0xA00000001, "A/1" } };
	struct sb_error err = SB_ERROR_INIT;
	uint64_t lsn;
	char text[20];

	for (size_t i = 0; i < SB_COUNT(good); i++) {
		sb_lsn_format(text, good[i].lsn);
		ck_assert_str_eq(text, good[i].text);
		ck_assert_int_eq(sb_lsn_parse(text, &lsn, &err), 0);
		ck_assert_uint_eq(lsn, good[i].lsn);
	}
	ck_assert_int_eq(sb_lsn_parse("0/0016B3748", &lsn, &err), SB_EPROTO); /* nine digits */
	ck_assert_int_eq(sb_lsn_parse("0/01600000", &lsn, &err), 0);          /* newer servers pad */
	for (size_t i = 0; i < SB_COUNT(bad); i++)
		ck_assert_msg(sb_lsn_parse(bad[i], &lsn, &err) == SB_EPROTO, "%s", bad[i]);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("change");
	TCase *tc = tcase_create("change");

	tcase_add_test(tc, test_round_trip);
	tcase_add_test(tc, test_without_memory);
	tcase_add_test(tc, test_bytes);
	tcase_add_test(tc, test_vectors);
	tcase_add_test(tc, test_every_cut);
	tcase_add_test(tc, test_not_utf8);
	tcase_add_test(tc, test_writer_refuses_what_a_reader_would);
	tcase_add_test(tc, test_bad_shapes);
	tcase_add_test(tc, test_full);
	tcase_add_test(tc, test_many_columns);
	tcase_add_test(tc, test_positions);
	tcase_add_test(tc, test_lsn);
	suite_add_tcase(s, tc);
	return test_run(s);
}
