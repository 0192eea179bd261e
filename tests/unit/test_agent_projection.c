/* What of a batch may go down: columns by their declaration, masks by their rule, types that fit what the rules make; keys, deletions, unchanged values, and
 * rows that grow until a part is full. What was planted in private and internal columns is in no part. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "projection.h"
#include "support.h"

static struct agent_settings set;
static struct agent_table table;
static struct agent_rule rule[6];

static struct sb_strings list(const char *a, const char *b)
{
	struct sb_strings s = { calloc(2, sizeof(char *)), 0 };

	s.item[s.count++] = sb_strdup(a);
	if (b)
		s.item[s.count++] = sb_strdup(b);
	return s;
}

static void list_release(struct sb_strings *s)
{
	for (size_t i = 0; i < s->count; i++)
		free(s->item[i]);
	free(s->item);
}

static void setup(void)
{
	static char root[TEST_PATH_MAX];
	static char customer[] = "customer", dots[] = "dots", ten[] = "10", year[] = "year";
	struct sb_error err = SB_ERROR_INIT;

	test_path(root, "root.key");
	(void)remove(root); /* of the test before */
	test_write(root, "0101010101010101010101010101010101010101010101010101010101010101", 0400);
	set = (struct agent_settings){ .tenant = customer, .stage = customer, .datasets = { .secret = root } };
	static char names[6][8] = { "id", "mail", "note", "pay", "born", "round" };
	static char ops[6][12] = { "pseudonym", "suppress", "constant", "bucket", "date_part", "round" };
	memset(rule, 0, sizeof(rule));
	for (int i = 0; i < 6; i++) {
		rule[i].name = names[i];
		rule[i].op = ops[i];
	}
	rule[0].domain = customer;
	rule[2].value = dots;
	rule[3].step = rule[5].step = ten;
	rule[4].part = year;
	table = (struct agent_table){ .table = customer, .type = customer, .private_columns = list("iban", NULL), .internal = list("phone", NULL),
		.public_columns = list("plan", "body"), .masks = { rule, 6 }, .down = true };
	ck_assert_msg(agent_columns_check(&table, true, &err) == 0, "%s", err.msg);
}

static void teardown(void)
{
	agent_columns_release(&table);
	list_release(&table.private_columns);
	list_release(&table.internal);
	list_release(&table.public_columns);
}

/* Columns of the full batch. `extra` is declared nowhere: internal, if it came this far. */
enum { ID, PLAN, MAIL, NOTE, PAY, BORN, ROUND, PHONE, BODY, EXTRA, COLUMNS };
static struct sb_column column[COLUMNS] = { { (char[]){ "id" }, (char[]){ "integer" }, true }, { (char[]){ "plan" }, (char[]){ "text" }, false },
	{ (char[]){ "mail" }, (char[]){ "uuid" }, false }, { (char[]){ "note" }, (char[]){ "jsonb" }, false }, { (char[]){ "pay" }, (char[]){ "smallint" }, false },
	{ (char[]){ "born" }, (char[]){ "date" }, false }, { (char[]){ "round" }, (char[]){ "smallint" }, false }, { (char[]){ "phone" }, (char[]){ "text" }, false },
	{ (char[]){ "body" }, (char[]){ "text" }, false }, { (char[]){ "extra" }, (char[]){ "text" }, false } };

static struct sb_cell text(const char *s)
{
	return s ? (struct sb_cell){ .kind = SB_CELL_VALUE, .p = s, .n = strlen(s) } : (struct sb_cell){ .kind = SB_CELL_NULL };
}

static void row(struct sb_cell cell[COLUMNS], const char *id)
{
	const char *const v[COLUMNS] = { id, "free", "1b4e28ba-2fa1-11d2-883f-0016d3cca427", "{\"SECRET\": 1}", "37", "1970-05-06", "14", "SECRET", "lorem", "SECRET" };

	for (int i = 0; i < COLUMNS; i++)
		cell[i] = text(v[i]);
}

static struct sb_batch *begin(void)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_shape shape = { .type = "customer", .incarnation = 3, .column = column, .n_columns = COLUMNS };
	struct sb_batch *b;

	ck_assert_msg(sb_batch_new(&b, &err) == 0 && sb_batch_begin(b, &shape, &err) == 0, "%s", err.msg);
	return b;
}

static void add(struct sb_batch *b, const struct sb_change *c)
{
	struct sb_error err = SB_ERROR_INIT;
	int r = sb_batch_add(b, c, &err);

	ck_assert_msg(r == 0, "%s", err.msg);
}

struct reading { struct agent_projection *p; struct agent_projected part; struct sb_batch_reader *reader; };

static void open_projection(struct reading *in, struct sb_batch *b)
{
	static const struct sb_position from = { 10, 0 }, to = { 90, 0 };
	struct sb_error err = SB_ERROR_INIT;
	size_t n;
	const void *value = sb_batch_value(b, &n);

	*in = (struct reading){ .p = NULL };
	ck_assert_msg(agent_projection_new(&in->p, &set, &table, &err) == 0, "%s", err.msg);
	ck_assert_msg(agent_projection_open(in->p, value, n, &from, &to, &err) == 0, "%s", err.msg);
}

static bool next_part(struct reading *in)
{
	struct sb_error err = SB_ERROR_INIT;

	sb_batch_close(in->reader);
	in->reader = NULL;
	int r = agent_projection_next(in->p, &in->part, &err);
	ck_assert_msg(r >= 0, "%s", err.msg);
	if (r == 0)
		return false;
	ck_assert_ptr_null(memmem(in->part.value, in->part.n, "SECRET", 6));
	ck_assert_ptr_null(memmem(in->part.value, in->part.n, "1b4e28ba", 8));
	ck_assert_msg(sb_batch_open(&in->reader, in->part.value, in->part.n, &err) == 0, "%s", err.msg);
	return true;
}

static struct sb_change next_change(struct reading *in)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_change c;

	ck_assert_msg(sb_batch_next(in->reader, &c, &err) == 1, "%s", err.msg);
	return c;
}

static void close_projection(struct reading *in, struct sb_batch *b)
{
	sb_batch_close(in->reader);
	agent_projection_free(in->p);
	sb_batch_free(b);
}

static bool is(const struct sb_cell *c, const char *s)
{
	return s ? c->kind == SB_CELL_VALUE && c->n == strlen(s) && memcmp(c->p, s, c->n) == 0 : c->kind == SB_CELL_NULL;
}

/* Places of the columns in a part */
enum { P_ID, P_PLAN, P_MAIL, P_NOTE, P_PAY, P_BORN, P_ROUND, P_BODY, P_COLUMNS };

START_TEST(test_columns_and_types)
{
	static const char *const expected[P_COLUMNS][2] = { { "id", "text" }, { "plan", "text" }, { "mail", "uuid" }, { "note", "text" }, { "pay", "text" },
		{ "born", "text" }, { "round", "numeric" }, { "body", "text" } };
	struct sb_cell cell[COLUMNS];
	struct sb_batch *b = begin();
	struct reading in;

	row(cell, "7");
	add(b, &(struct sb_change){ .op = 'i', .lsn = 20, .seq = 1, .n_cells = COLUMNS, .cell = cell });
	open_projection(&in, b);
	ck_assert(next_part(&in));
	const struct sb_shape *shape = sb_batch_shape(in.reader);
	ck_assert_str_eq(shape->type, "customer");
	ck_assert_uint_eq(shape->incarnation, 3);
	ck_assert_uint_eq(shape->n_columns, P_COLUMNS);
	for (unsigned i = 0; i < P_COLUMNS; i++) {
		ck_assert_str_eq(shape->column[i].name, expected[i][0]);
		ck_assert_str_eq(shape->column[i].type, expected[i][1]);
		ck_assert(shape->column[i].key == (i == P_ID));
	}
	struct sb_change c = next_change(&in);
	ck_assert(c.op == 'i' && c.lsn == 20 && c.seq == 1);
	ck_assert(c.cell[P_ID].n == strlen("customer_") + 26 && memcmp(c.cell[P_ID].p, "customer_", 9) == 0);
	ck_assert(is(&c.cell[P_PLAN], "free") && is(&c.cell[P_MAIL], NULL) && is(&c.cell[P_NOTE], "dots"));
	ck_assert(is(&c.cell[P_PAY], "[30,40)") && is(&c.cell[P_BORN], "1970") && is(&c.cell[P_ROUND], "10") && is(&c.cell[P_BODY], "lorem"));
	ck_assert_uint_eq(in.part.count, 1);
	ck_assert(in.part.from.lsn == 10 && in.part.to.lsn == 90);
	ck_assert(!next_part(&in));
	close_projection(&in, b);
}
END_TEST

/* An unchanged value stays unchanged where the rule would have read it; a key change has old and new key through the rule; a deletion has its key alone. */
START_TEST(test_kinds_of_changes)
{
	struct sb_cell cell[COLUMNS], old[1] = { text("7") };
	struct sb_batch *b = begin();
	struct reading in;
	char token[64];

	row(cell, "7");
	cell[PAY] = cell[NOTE] = cell[BODY] = cell[MAIL] = cell[PHONE] = (struct sb_cell){ .kind = SB_CELL_UNCHANGED };
	add(b, &(struct sb_change){ .op = 'u', .lsn = 20, .seq = 1, .n_cells = COLUMNS, .cell = cell });
	row(cell, "8");
	add(b, &(struct sb_change){ .op = 'k', .lsn = 20, .seq = 2, .n_cells = COLUMNS, .cell = cell, .n_old = 1, .old_key = old });
	for (int i = PLAN; i < COLUMNS; i++)
		cell[i] = text(NULL);
	add(b, &(struct sb_change){ .op = 'd', .lsn = 20, .seq = 3, .n_cells = COLUMNS, .cell = cell });
	add(b, &(struct sb_change){ .op = 't', .lsn = 20, .seq = 4 });
	open_projection(&in, b);
	ck_assert(next_part(&in));
	struct sb_change c = next_change(&in);
	ck_assert(c.cell[P_PAY].kind == SB_CELL_UNCHANGED && c.cell[P_BODY].kind == SB_CELL_UNCHANGED);
	ck_assert(is(&c.cell[P_NOTE], "dots") && is(&c.cell[P_MAIL], NULL));
	(void)snprintf(token, sizeof(token), "%.*s", (int)c.cell[P_ID].n, c.cell[P_ID].p);
	c = next_change(&in);
	ck_assert(c.op == 'k' && c.n_old == 1 && is(&c.old_key[0], token) && !is(&c.cell[P_ID], token));
	(void)snprintf(token, sizeof(token), "%.*s", (int)c.cell[P_ID].n, c.cell[P_ID].p);
	c = next_change(&in);
	ck_assert(c.op == 'd' && is(&c.cell[P_ID], token));
	for (unsigned i = P_PLAN; i < P_COLUMNS; i++)
		ck_assert(is(&c.cell[i], NULL)); /* no constant either */
	c = next_change(&in);
	ck_assert(c.op == 't' && c.n_cells == 0);
	ck_assert_uint_eq(in.part.count, 4);
	close_projection(&in, b);
}
END_TEST

/* A value that no rule foresaw does not stop the stream, and does not go down either. */
START_TEST(test_rule_that_cannot)
{
	struct sb_cell cell[COLUMNS];
	struct sb_batch *b = begin();
	struct reading in;

	row(cell, "7");
	cell[PAY] = text("NaN-SECRET");
	cell[BORN] = text("SECRET BC");
	add(b, &(struct sb_change){ .op = 's', .lsn = 20, .n_cells = COLUMNS, .cell = cell });
	open_projection(&in, b);
	ck_assert(next_part(&in));
	struct sb_change c = next_change(&in);
	ck_assert(is(&c.cell[P_PAY], NULL) && is(&c.cell[P_BORN], NULL) && is(&c.cell[P_PLAN], "free"));
	close_projection(&in, b);
}
END_TEST

/* Tokens are longer than what they stand for: a full batch becomes several parts, which cover its positions without a hole and hold every row once. */
START_TEST(test_parts)
{
	struct sb_cell cell[COLUMNS];
	struct sb_batch *b = begin();
	struct sb_error err = SB_ERROR_INIT;
	struct reading in;
	char id[16];
	unsigned rows = 0, parts = 0, seen = 0;
	struct sb_position at = { 10, 0 };

	for (int i = 0; i < COLUMNS; i++)
		cell[i] = text(NULL);
	for (int r = 0; r == 0; rows++) {
		(void)snprintf(id, sizeof(id), "%u", rows);
		cell[ID] = text(id);
		r = sb_batch_add(b, &(struct sb_change){ .op = 'i', .lsn = 20, .seq = rows + 1, .n_cells = COLUMNS, .cell = cell }, &err);
	}
	rows--; /* the last one did not fit */
	open_projection(&in, b);
	while (next_part(&in)) {
		struct sb_change c;
		unsigned n = 0;
		parts++;
		ck_assert_int_eq(sb_position_cmp(in.part.from, at), 0);
		at = in.part.to;
		while (sb_batch_next(in.reader, &c, &err) == 1) {
			n++;
			ck_assert_uint_eq(c.seq, ++seen);
			ck_assert(sb_position_cmp((struct sb_position){ c.lsn, c.seq }, at) < 0);
		}
		ck_assert_uint_eq(n, in.part.count);
	}
	ck_assert_uint_gt(parts, 1);
	ck_assert_uint_eq(seen, rows);
	ck_assert(at.lsn == 90 && at.seq == 0);
	close_projection(&in, b);
}
END_TEST

START_TEST(test_no_change_is_a_part_too)
{
	struct sb_batch *b = begin();
	struct reading in;

	open_projection(&in, b);
	ck_assert(next_part(&in));
	ck_assert_uint_eq(in.part.count, 0);
	ck_assert(in.part.from.lsn == 10 && in.part.to.lsn == 90);
	ck_assert(!next_part(&in));
	close_projection(&in, b);
}
END_TEST

/* A key that may not go down: nothing does. */
START_TEST(test_key_that_may_not)
{
	struct sb_cell cell[COLUMNS];
	struct sb_error err = SB_ERROR_INIT;
	struct sb_batch *b;
	struct reading in;

	column[PHONE].key = true;
	b = begin();
	row(cell, "7");
	add(b, &(struct sb_change){ .op = 'i', .lsn = 20, .seq = 1, .n_cells = COLUMNS, .cell = cell });
	open_projection(&in, b);
	ck_assert_int_eq(agent_projection_next(in.p, &in.part, &err), SB_EREFUSED);
	column[PHONE].key = false;
	close_projection(&in, b);
}
END_TEST

/* The digest follows every word that decides what goes down, and nothing else. */
START_TEST(test_digest)
{
	static char other[] = "other", key[TEST_PATH_MAX];
	struct agent_projection *a, *b;
	struct sb_error err = SB_ERROR_INIT;
	char first[AGENT_PROJECTION_DIGEST];

	ck_assert(agent_projection_new(&a, &set, &table, &err) == 0 && agent_projection_new(&b, &set, &table, &err) == 0);
	(void)snprintf(first, sizeof(first), "%s", agent_projection_digest(a));
	ck_assert_str_eq(first, agent_projection_digest(b));
	agent_projection_free(a);
	agent_projection_free(b);
	rule[2].value = other;
	ck_assert(agent_projection_new(&a, &set, &table, &err) == 0);
	ck_assert_str_ne(first, agent_projection_digest(a));
	agent_projection_free(a);
	setup();
	test_path(key, "other.key");
	test_write(key, "0202020202020202020202020202020202020202020202020202020202020202", 0400);
	set.datasets.secret = key;
	ck_assert(agent_projection_new(&a, &set, &table, &err) == 0);
	ck_assert_str_ne(first, agent_projection_digest(a));
	agent_projection_free(a);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("agent projection");
	TCase *tc = tcase_create("projection");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_columns_and_types);
	tcase_add_test(tc, test_kinds_of_changes);
	tcase_add_test(tc, test_rule_that_cannot);
	tcase_add_test(tc, test_parts);
	tcase_add_test(tc, test_no_change_is_a_part_too);
	tcase_add_test(tc, test_key_that_may_not);
	tcase_add_test(tc, test_digest);
	suite_add_tcase(s, tc);
	return test_run(s);
}
