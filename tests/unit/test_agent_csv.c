/* The CSV reader: what RFC 4180 allows is read exactly, everything else is refused with its line. */
#include <stdio.h>
#include <string.h>

#include "csv.h"
#include "support.h"

#define FIELDS 8

static const struct { const char *text, *want; } good[] = {
	{ "a,b\n1,2\n", "[a][b];[1][2];" },
	{ "a,b\r\n1,2\r\n", "[a][b];[1][2];" },
	{ "a,b\n1,2", "[a][b];[1][2];" },
	{ "\xef\xbb\xbf" "a\n1\n", "[a];[1];" },
	{ "a,b\n\"x,y\",\"he said \"\"no\"\"\"\n", "[a][b];[x,y][he said \"no\"];" },
	{ "a,b\n\"two\nlines\",\n", "[a][b];[two\nlines][];" },
	{ "a,b\n\"\",\"\"\n,\n", "[a][b];[][];[][];" },
	{ "a,b\n 1 ,\t\n", "[a][b];[ 1 ][\t];" },
	{ "\xc3\xa9\n\xe2\x82\xac\n", "[\xc3\xa9];[\xe2\x82\xac];" },
	{ "", "" },
};

START_TEST(reads)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_cell field[FIELDS];
	struct csv c;
	char got[256] = "";
	size_t len = 0;
	unsigned n;
	int r;

	csv_init(&c, good[_i].text, strlen(good[_i].text));
	while ((r = csv_next(&c, field, FIELDS, &n, &err)) > 0) {
		for (unsigned i = 0; i < n; i++)
			len += (size_t)snprintf(got + len, sizeof(got) - len, "[%.*s]", (int)field[i].n, field[i].p);
		len += (size_t)snprintf(got + len, sizeof(got) - len, ";");
	}
	ck_assert_msg(r == 0, "%s", err.msg);
	ck_assert_str_eq(got, good[_i].want);
	csv_release(&c);
}
END_TEST

static const struct { const char *text; enum sb_code code; const char *why; } bad[] = {
	{ "a,b\n1\n", SB_EPROTO, "line 2: 1 fields instead of 2" },
	{ "a,b\n1,2,3\n", SB_EPROTO, "line 2: 3 fields instead of 2" },
	{ "a,b\n1,2\n\n", SB_EPROTO, "line 3: 1 fields instead of 2" },
	{ "a\n\"x\n", SB_EPROTO, "line 2: a quoted field does not end" },
	{ "a\n\"two\nlines\"x\n", SB_EPROTO, "line 2: text after a closing quote" },
	{ "a\nx\"y\n", SB_EPROTO, "line 2: a quote within" },
	{ "a\rb\n", SB_EPROTO, "line 1: a carriage return" },
	{ "a,b\n\"x\ny\",1\n\xff,2\n", SB_EPROTO, "line 4: not UTF-8" },
	{ "1,2,3,4,5,6,7,8,9\n", SB_ETOOBIG, "line 1: more than 8 fields" },
};

START_TEST(refuses)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_cell field[FIELDS];
	struct csv c;
	unsigned n;
	int r;

	csv_init(&c, bad[_i].text, strlen(bad[_i].text));
	while ((r = csv_next(&c, field, FIELDS, &n, &err)) > 0)
		continue;
	ck_assert_int_eq(r, bad[_i].code);
	ck_assert_msg(strncmp(err.msg, bad[_i].why, strlen(bad[_i].why)) == 0, "%s", err.msg);
	csv_release(&c);
}
END_TEST

START_TEST(nul_is_refused)
{
	struct sb_error err = SB_ERROR_INIT;
	struct sb_cell field[FIELDS];
	struct csv c;
	unsigned n;

	csv_init(&c, "a\0b\n", 4);
	ck_assert_int_eq(csv_next(&c, field, FIELDS, &n, &err), SB_EPROTO);
	csv_release(&c);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("agent_csv");
	TCase *t = tcase_create("csv");

	tcase_add_loop_test(t, reads, 0, SB_COUNT(good));
	tcase_add_loop_test(t, refuses, 0, SB_COUNT(bad));
	tcase_add_test(t, nul_is_refused);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return test_run(suite());
}
