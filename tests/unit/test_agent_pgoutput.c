/* The pgoutput decoder: messages as PostgreSQL 15 sends them, byte for byte, and what must be refused. */
#include <stdio.h>
#include <string.h>

#include "pgoutput.h"
#include "support.h"

static struct pgoutput *d;

static void open_decoder(void)
{
	struct sb_error err = SB_ERROR_INIT;

	ck_assert_int_eq(pgoutput_new(&d, &err), 0);
}

static void close_decoder(void)
{
	pgoutput_free(d);
}

/* hex with spaces; decoded from a block of exactly that size */
static int decode(const char *hex, struct pgoutput_msg *m, struct sb_error *err)
{
	static char *last;
	size_t n = 0;

	free(last); /* what the message of the call before pointed at */
	last = malloc(strlen(hex) / 2 + 1);
	for (const char *p = hex; *p;) {
		unsigned byte;
		if (*p == ' ') {
			p++;
			continue;
		}
		ck_assert_int_eq(sscanf(p, "%2x", &byte), 1);
		last[n++] = (char)byte;
		p += 2;
	}
	char *exact = malloc(n ? n : 1);
	memcpy(exact, last, n);
	free(last);
	last = exact;
	return pgoutput_decode(d, exact, n, m, err);
}

static void ok(const char *hex, struct pgoutput_msg *m)
{
	struct sb_error err = SB_ERROR_INIT;

	ck_assert_msg(decode(hex, m, &err) == 0, "%s", err.msg);
}

static void cell_is(const struct sb_cell *c, const char *text)
{
	ck_assert_int_eq(c->kind, SB_CELL_VALUE);
	ck_assert_uint_eq(c->n, strlen(text));
	ck_assert_int_eq(memcmp(c->p, text, c->n), 0);
}

START_TEST(transaction)
{
	struct pgoutput_msg m;

	ok("42 00000000016b3748 0002d79883d2f618 000002e5", &m);
	ck_assert_int_eq(m.kind, 'B');
	ck_assert_uint_eq(m.lsn, 0x16B3748);
	ck_assert_uint_eq(m.xid, 741);
	ck_assert_int_eq(m.commit_us, INT64_C(946684800000000) + INT64_C(0x2d79883d2f618));
	ok("43 00 00000000016b3748 00000000016b3778 0002d79883d2f618", &m);
	ck_assert_int_eq(m.kind, 'C');
	ck_assert_uint_eq(m.lsn, 0x16B3748);
	ck_assert_uint_eq(m.end_lsn, 0x16B3778);
}
END_TEST

START_TEST(relation)
{
	struct pgoutput_msg m;

	ok("52 00004001 7075626c696300 6500 64 0002 01 696400 00000017 ffffffff 00 6e00 000006a4 000a0006", &m);
	ck_assert_uint_eq(m.oid, 0x4001);
	ck_assert_str_eq(m.schema, "public");
	ck_assert_str_eq(m.name, "e");
	ck_assert_int_eq(m.identity, 'd');
	ck_assert_uint_eq(m.n_columns, 2);
	ck_assert(m.column[0].key && !m.column[1].key);
	ck_assert_str_eq(m.column[0].name, "id");
	ck_assert_uint_eq(m.column[0].type, 23);
	ck_assert_int_eq(m.column[0].typmod, -1);
	ck_assert_int_eq(m.column[1].typmod, 0xa0006);
	ok("52 00000001 00 7000 69 0000", &m); /* the server says "" for pg_catalog */
	ck_assert_str_eq(m.schema, "pg_catalog");
}
END_TEST

START_TEST(rows)
{
	struct pgoutput_msg m;

	ok("49 00004001 4e 0003 74 00000001 31 74 00000000 6e", &m);
	ck_assert_uint_eq(m.n_cells, 3);
	cell_is(&m.cell[0], "1");
	cell_is(&m.cell[1], "");
	ck_assert_int_eq(m.cell[2].kind, SB_CELL_NULL);

	ok("55 00004001 4e 0002 74 00000001 31 75", &m);
	ck_assert_int_eq(m.old_kind, 0);
	ck_assert_int_eq(m.cell[1].kind, SB_CELL_UNCHANGED);

	ok("55 00004001 4b 0002 74 00000001 31 6e 4e 0002 74 00000001 32 75", &m);
	ck_assert_int_eq(m.old_kind, 'K');
	cell_is(&m.old[0], "1");
	cell_is(&m.cell[0], "2");

	ok("55 00004001 4f 0001 74 00000001 31 4e 0001 75", &m);
	ck_assert_int_eq(m.old_kind, 'O');

	ok("44 00004001 4b 0002 74 00000001 31 6e", &m);
	ck_assert_uint_eq(m.n_old, 2);
	ck_assert_uint_eq(m.n_cells, 0);
}
END_TEST

START_TEST(others)
{
	struct pgoutput_msg m;

	ok("54 00000002 03 00004001 00004006", &m);
	ck_assert_uint_eq(m.n_relations, 2);
	ck_assert_uint_eq(pgoutput_truncated(&m, 1), 0x4006);
	ck_assert(m.cascade && m.restart);
	ok("4d 01 00000000016b3748 7362 00 00000002 7b7d", &m);
	ck_assert_str_eq(m.name, "sb");
	ck_assert_uint_eq(m.content_len, 2);
	ck_assert(m.transactional);
	ok("4f 00000000016b3748 7800", &m);
	ck_assert_str_eq(m.name, "x");
	ok("59 00004010 7075626c696300 6d6f6f6400", &m);
	ck_assert_str_eq(m.name, "mood");
}
END_TEST

static const struct { const char *hex, *why; } bad[] = {
	{ "", "cut short" },
	{ "42 00000000016b3748", "cut short" },
	{ "42 00000000016b3748 0002d79883d2f618 000002e5 00", "longer" },
	{ "53 00000001 01", "unknown kind" },                             /* streaming of open transactions was not asked for */
	{ "49 00004001 4f 0001 6e", "no new row" },
	{ "49 00004001 4e 0001 62 00000001 31", "binary" },
	{ "49 00004001 4e 0001 78", "unknown kind" },
	{ "49 00004001 4e 0001 74 ffffffff 31", "cut short" },
	{ "49 00004001 4e ffff", "too many columns" },
	{ "49 00004001 4e 0002 6e", "cut short" },
	{ "44 00004001 4e 0001 6e", "no old row" },
	{ "44 00004001 4b 0001 6e 4e", "longer" },
	{ "54 ffffffff 00", "cut short" },
	{ "54 00000001 00 0000", "cut short" },
	{ "52 00004001 7075", "cut short" },
	{ "52 00004001 7000 7000 7a 0000", "replica identity" },
	{ "52 00004001 7000 7000 00 0000", "replica identity" },
	{ "52 00004001 7000 7000 64 ffff", "too many columns" },
	{ "4d 00 00000000016b3748 7800 000000ff 00", "cut short" },
};

START_TEST(refused)
{
	struct sb_error err = SB_ERROR_INIT;
	struct pgoutput_msg m;

	ck_assert_int_eq(decode(bad[_i].hex, &m, &err), SB_EPROTO);
	ck_assert_msg(strstr(err.msg, bad[_i].why) != NULL, "%s", err.msg);
}
END_TEST

/* Every prefix of a good message is refused, none is read beyond its end. */
START_TEST(prefixes)
{
	static const char whole[] = "R\0\0\x40\x01public\0experiment\0d\0\2\1id\0\0\0\0\x17\xff\xff\xff\xff\0name\0\0\0\0\x19\xff\xff\xff\xff";
	struct sb_error err = SB_ERROR_INIT;
	struct pgoutput_msg m;

	ck_assert_int_eq(pgoutput_decode(d, whole, sizeof(whole) - 1, &m, &err), 0);
	for (size_t n = 0; n < sizeof(whole) - 1; n++) {
		char *part = malloc(n ? n : 1);
		memcpy(part, whole, n);
		ck_assert_int_eq(pgoutput_decode(d, part, n, &m, &err), SB_EPROTO);
		free(part);
	}
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("agent_pgoutput");
	TCase *t = tcase_create("decode");

	tcase_add_checked_fixture(t, open_decoder, close_decoder);
	tcase_add_test(t, transaction);
	tcase_add_test(t, relation);
	tcase_add_test(t, rows);
	tcase_add_test(t, others);
	tcase_add_loop_test(t, refused, 0, SB_COUNT(bad));
	tcase_add_test(t, prefixes);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return test_run(suite());
}
