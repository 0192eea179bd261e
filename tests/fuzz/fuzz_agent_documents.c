/* Any bytes as files of all formats of a folder: refused with a line, or documents with a key, whose values fit what was learned from them, without what is
 * private. */
#include "fuzz_driver.h"

#include <stdlib.h>
#include <string.h>

#include "source_dir/dirsrc.h"

static void must(int holds)
{
	if (!holds)
		abort();
}

struct run { struct row_schema schema; bool learn; };

static int on_document(void *user, const struct dirsrc_document *doc, struct sb_error *err)
{
	struct run *run = user;
	struct sb_cell *cell;
	unsigned change = 0;

	must(doc->key[0] != '\0' && doc->n_fields > 0 && doc->line > 0 && strlen(doc->hash) == 64);
	for (unsigned i = 0; i < doc->n_fields; i++) {
		must(!(doc->field[i].name_n == 4 && memcmp(doc->field[i].name, "HUSH", 4) == 0));
		if (run->learn && row_schema_learn(&run->schema, &doc->field[i], &change, err) < 0)
			return SB_ETOOBIG;
	}
	if (run->learn)
		return 0;
	cell = calloc(run->schema.n, sizeof(*cell));
	must(cell != NULL && row_schema_cells(&run->schema, doc->field, doc->n_fields, cell, err) == 0);
	free(cell);
	return 0;
}

static void one(const struct agent_dir_source *set, const uint8_t *data, size_t size)
{
	struct run run = { .learn = true };
	struct sb_error err = SB_ERROR_INIT;

	must(row_schema_init(&run.schema, dirsrc_key_column(set), dirsrc_is_document(set), &set->columns, &set->private_columns, &err) == 0);
	int r = dirsrc_documents(set, &run.schema, "a.json", (const char *)data, size, on_document, &run, &err);
	must(r == 0 || r == SB_EPROTO || r == SB_ETOOBIG);
	run.learn = false;
	if (r == 0)
		must(dirsrc_documents(set, &run.schema, "a.json", (const char *)data, size, on_document, &run, &err) == 0);
	row_schema_release(&run.schema);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char *const hush[] = { (char *)(uintptr_t)"HUSH" };
	struct agent_dir_source set = { .private_columns = { .item = (char **)(uintptr_t)hush, .count = 1 } };

	for (int form = AGENT_DIR_JSON; form <= AGENT_DIR_CSV; form++) {
		for (int rows = AGENT_ROWS_DOCUMENT; rows <= AGENT_ROWS_COLUMNS; rows++) {
			set.format = form;
			set.rows = rows;
			set.key = (char *)(uintptr_t)(form == AGENT_DIR_JSON ? "" : "id");
			one(&set, data, size);
		}
	}
	return 0;
}
