/* Writing cells, and counting rows of what arrived. The dataset lane's thread; no state. */
#include "csv_out.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define BLOCK (128 * 1024)

static bool plain(const char *p, size_t n)
{
	/* what a reader could take for structure, and the backslash for PostgreSQL's end mark "\." */
	static const bool special[256] = { [','] = true, ['"'] = true, ['\n'] = true, ['\r'] = true, ['\\'] = true };

	for (size_t i = 0; i < n; i++) {
		if (special[(unsigned char)p[i]])
			return false;
	}
	return n > 0; /* an empty text is quoted: unquoted it would be NULL */
}

void agent_csv_cell(struct sb_buf *out, const char *p, size_t n)
{
	if (plain(p, n)) {
		sb_buf_add(out, p, n);
		return;
	}
	sb_buf_addc(out, '"');
	for (const char *quote; (quote = n ? memchr(p, '"', n) : NULL) != NULL;) {
		size_t k = (size_t)(quote - p) + 1;
		sb_buf_add(out, p, k);
		sb_buf_addc(out, '"');
		p += k;
		n -= k;
	}
	sb_buf_add(out, p, n);
	sb_buf_addc(out, '"');
}

struct count { uint64_t lines; bool quoted, open; };

/* Line ends outside of quotes; a doubled quote inside opens and closes and so changes nothing. */
static void count_lines(struct count *c, const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (p[i] == '"')
			c->quoted = !c->quoted;
		bool end = p[i] == '\n' && !c->quoted;
		c->lines += end;
		c->open = !end;
	}
}

int agent_csv_check(const char *path, const struct sb_buf *header, uint64_t rows, struct sb_error *err)
{
	sb_cleanup(sb_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	sb_cleanup(sb_freep) char *block = malloc(BLOCK);
	struct count count = { .lines = 0 };
	size_t matched = 0;
	ssize_t n;

	if (!block)
		return sb_fail_nomem(err);
	if (fd < 0)
		return sb_fail_errno(err, errno, "could not open what arrived");
	while ((n = read(fd, block, BLOCK)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return sb_fail_errno(err, errno, "could not read what arrived");
		size_t k = header->len - matched < (size_t)n ? header->len - matched : (size_t)n;
		if (memcmp(block, header->data + matched, k) != 0)
			return sb_fail(err, SB_EPROTO, "its header does not name the columns that the manifest does");
		matched += k;
		count_lines(&count, block, (size_t)n);
	}
	if (matched < header->len || count.open || count.lines != rows + 1)
		return sb_fail(err, SB_EPROTO, "it does not hold the %" PRIu64 " rows that the attestation names", rows);
	return 0;
}
