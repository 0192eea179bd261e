/* Fuzz target: arbitrary bytes as a message of the replication stream. What is accepted is read completely, so that a sanitizer sees what lies outside. */
#include <stdlib.h>
#include <string.h>

#include "fuzz_driver.h"
#include "pgoutput.h"

static struct pgoutput *decoder;
static volatile unsigned sum; /* keeps the reads */

static void done(void)
{
	pgoutput_free(decoder);
}

static void read_cells(const struct sb_cell *cell, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		for (size_t k = 0; k < cell[i].n; k++)
			sum += (unsigned char)cell[i].p[k];
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sb_error err = SB_ERROR_INIT;
	struct pgoutput_msg m;

	if (!decoder && (pgoutput_new(&decoder, &err) < 0 || atexit(done) != 0))
		abort();
	if (pgoutput_decode(decoder, (const char *)data, size, &m, &err) < 0) {
		if (err.code != SB_EPROTO)
			abort();
		return 0;
	}
	read_cells(m.old, m.n_old);
	read_cells(m.cell, m.n_cells);
	for (unsigned i = 0; i < m.n_columns; i++)
		sum += (unsigned)strlen(m.column[i].name);
	for (unsigned i = 0; i < m.n_relations; i++)
		sum += pgoutput_truncated(&m, i);
	for (size_t i = 0; i < m.content_len; i++)
		sum += (unsigned char)m.content[i];
	sum += (unsigned)((m.name ? strlen(m.name) : 0) + (m.schema ? strlen(m.schema) : 0));
	return 0;
}
