/* Any bytes as a CSV file: it is refused with its line, or every row has the header's columns, each value fits its inferred type, and the cells are within
 * the text. */
#include "fuzz_driver.h"

#include <stdlib.h>
#include <string.h>

#include "csv.h"
#include "row_schema.h"

#define COLUMNS 64

static void must(int holds)
{
	if (!holds)
		abort();
}

static void read_all(const char *text, size_t n, struct row_schema *s, bool learn)
{
	struct sb_cell head[COLUMNS], cell[COLUMNS], row[COLUMNS + 1];
	struct row_field field[COLUMNS];
	struct sb_error err = SB_ERROR_INIT;
	char names[COLUMNS][8];
	unsigned columns = 0, got, change = 0;
	struct csv c;
	int r;

	csv_init(&c, text, n);
	r = csv_next(&c, head, COLUMNS, &columns, &err);
	for (unsigned i = 0; i < columns; i++)
		names[i][0] = 'c', names[i][1] = (char)('0' + i);
	while (r > 0 && (r = csv_next(&c, cell, COLUMNS, &got, &err)) > 0) {
		must(got == columns);
		for (unsigned i = 0; i < got; i++) {
			must(cell[i].kind == SB_CELL_VALUE || cell[i].n == 0);
			field[i] = (struct row_field){ .name = names[i], .name_n = 2, .null = cell[i].kind == SB_CELL_NULL, .p = cell[i].p, .n = cell[i].n };
			if (learn)
				must(row_schema_learn(s, &field[i], &change, &err) == 0);
		}
		if (!learn) { /* the key is the row's place: every row has one */
			field[columns < COLUMNS ? columns : 0] = (struct row_field){ .name = "key", .name_n = 3, .p = "1", .n = 1 };
			if (columns < COLUMNS)
				must(row_schema_cells(s, field, columns + 1, row, &err) == 0);
		}
	}
	if (r < 0)
		must(strncmp(err.msg, "line ", 5) == 0);
	csv_release(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sb_list none = { .item = NULL };
	struct sb_error err = SB_ERROR_INIT;
	struct row_schema s;

	if (row_schema_init(&s, "key", false, &none, NULL, &err) < 0)
		return 0;
	read_all((const char *)data, size, &s, true);
	read_all((const char *)data, size, &s, false);
	row_schema_release(&s);
	return 0;
}
