/* Any bytes as a promotion policy: refused with one clean line that names a place, or loaded, and then every edge explains itself and answers at any time. */
#include "fuzz_driver.h"

#include <stdlib.h>
#include <string.h>

#include "stagebridge/policy.h"
#include "stagebridge/text.h"

static void must(int holds)
{
	if (!holds)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const int64_t now = INT64_C(1790000000000);
	struct sb_error err = SB_ERROR_INIT;
	struct sb_policy p;

	if (sb_policy_parse(&p, (const char *)data, size, "fuzz", now, &err) < 0) {
		must(err.code == SB_ECONFIG && strncmp(err.msg, "fuzz:", 5) == 0 && sb_utf8_ok(err.msg, strlen(err.msg)) && strchr(err.msg, '\n') == NULL);
		return 0;
	}
	const struct sb_policy_edge *e = p.edges.item;
	for (size_t i = 0; i < p.edges.count; i++) {
		must(sb_policy_edge_to(&p, e[i].to) == &e[i] && strlen(e[i].digest) == 64);
		for (int64_t t = now - INT64_C(400) * 86400000; t < now + INT64_C(400) * 86400000; t += INT64_C(37) * 86400000 + 1234567) {
			struct sb_policy_moment m, then;
			sb_policy_at(&p, &e[i], t, &m);
			int64_t change = m.open ? m.next_close : m.next_open;
			must(m.since <= t && (change == 0 || change > t) && (m.open || m.reason[0] != '\0'));
			if (change == 0)
				continue;
			sb_policy_at(&p, &e[i], change, &then);
			must(then.open != m.open);
			sb_policy_at(&p, &e[i], change - 1, &then);
			must(then.open == m.open);
		}
		json_t *told = sb_policy_explain(&p, &e[i], now);
		must(told != NULL);
		json_decref(told);
	}
	sb_policy_release(&p);
	return 0;
}
