/*
 * Route matching and the small grammars of HTTP that the server needs: path templates, percent-encoding, entity tags.
 *
 * Pure functions over borrowed strings: any thread, no I/O, no state. The table of routes is the caller's and is
 * searched in its order, so a literal path is listed before a template that would also fit it.
 */
#include "http_private.h"

#include <string.h>

#include "stagebridge/text.h"

static const char *const methods[] = { "GET", "POST", "PUT", "PATCH", "DELETE" };

int sb_http_routes_check(const struct sb_http_route *routes, bool has_spool, struct sb_error *err)
{
	for (const struct sb_http_route *r = routes; r->method; r++) {
		bool known = false;
		unsigned names = 0;

		for (size_t i = 0; i < SB_COUNT(methods); i++)
			known = known || strcmp(r->method, methods[i]) == 0;
		if (!known || !r->handler || !r->path || r->path[0] != '/')
			return sb_fail(err, SB_ECONFIG, "route \"%s %s\": method, path or handler is missing or unknown", r->method,
				r->path ? r->path : "");
		for (const char *p = r->path; *p; p++)
			names += *p == '{';
		if (names > SB_HTTP_PARAMS)
			return sb_fail(err, SB_ECONFIG, "route \"%s\": more than %d names", r->path, SB_HTTP_PARAMS);
		if (r->body_max > SB_HTTP_MEMORY_MAX && !has_spool)
			return sb_fail(err, SB_ECONFIG, "route \"%s\": bodies over 1 MiB need a spool folder", r->path);
	}
	return 0;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int sb_http_decode(const char *s, size_t n, char **ret, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *out = malloc(n + 1);
	size_t len = 0;

	if (!out)
		return sb_fail_nomem(err);
	for (size_t i = 0; i < n; i++) {
		if (s[i] != '%') {
			out[len++] = s[i];
			continue;
		}
		int hi = n - i > 2 ? hex_digit(s[i + 1]) : -1;
		int lo = hi >= 0 ? hex_digit(s[i + 2]) : -1;

		if (lo < 0)
			return sb_fail(err, SB_EINVAL, "the address has a broken percent escape");
		out[len++] = (char)(hi * 16 + lo);
		i += 2;
	}
	out[len] = '\0';
	if (!sb_utf8_ok(out, len))
		return sb_fail(err, SB_EINVAL, "the address is not UTF-8 text");
	*ret = SB_TAKE(out);
	return 0;
}

void sb_http_match_release(struct sb_http_match *m)
{
	for (unsigned i = 0; i < m->n; i++)
		free(m->param[i].value);
	m->n = 0;
}

/* One segment up to '/' or the end. */
static size_t segment(const char *p)
{
	return strcspn(p, "/");
}

/* 1 fits (parameters appended to m), 0 does not, negative error. */
static int path_fits(const char *tmpl, const char *path, struct sb_http_match *m, struct sb_error *err)
{
	m->n = 0;
	while (*tmpl == '/' && *path == '/') {
		tmpl++, path++;
		size_t tn = segment(tmpl), pn = segment(path);

		if (tn > 2 && tmpl[0] == '{' && tmpl[tn - 1] == '}') {
			char *value = NULL;

			if (pn == 0)
				return 0;
			int r = sb_http_decode(path, pn, &value, err);
			if (r < 0)
				return r;
			m->param[m->n].name = tmpl + 1;
			m->param[m->n].name_len = tn - 2;
			m->param[m->n++].value = value;
			/* these never name anything of ours, and must not reach code that builds file names */
			if (strcmp(value, ".") == 0 || strcmp(value, "..") == 0)
				return 0;
		} else if (tn != pn || memcmp(tmpl, path, tn) != 0) {
			return 0;
		}
		tmpl += tn;
		path += pn;
	}
	return *tmpl == '\0' && *path == '\0';
}

static void allow_add(char *allow, size_t size, const char *method)
{
	size_t len = strlen(allow);
	size_t need = strlen(method) + (len ? 2 : 0);

	if (strstr(allow, method) || len + need + 1 > size)
		return;
	if (len) {
		memcpy(allow + len, ", ", 2);
		len += 2;
	}
	memcpy(allow + len, method, strlen(method) + 1);
}

int sb_http_match(
	const struct sb_http_route *routes, const char *method, const char *raw_path, struct sb_http_match *ret, struct sb_error *err)
{
	struct sb_http_match m = { 0 };

	if (strcmp(method, "HEAD") == 0)
		method = "GET"; /* the library leaves the body out */
	for (const struct sb_http_route *route = routes; route->method; route++) {
		int r = path_fits(route->path, raw_path, &m, err);

		if (r < 0) {
			sb_http_match_release(&m);
			return r;
		}
		if (r > 0 && strcmp(route->method, method) == 0) {
			m.route = route;
			*ret = m;
			return 0;
		}
		if (r > 0) {
			allow_add(m.allow, sizeof(m.allow), route->method);
			if (strcmp(route->method, "GET") == 0)
				allow_add(m.allow, sizeof(m.allow), "HEAD");
		}
		sb_http_match_release(&m);
	}
	*ret = m;
	if (m.allow[0])
		return sb_fail(err, SB_ENOTFOUND, "this address does not take the method %.16s", method);
	return sb_fail(err, SB_ENOTFOUND, "there is nothing at this address");
}

bool sb_http_etag_fits(const char *if_none_match, const char *etag)
{
	size_t n = strlen(etag);
	const char *p = if_none_match;

	while (*p) {
		p += strspn(p, " \t,");
		if (*p == '*')
			return true;
		if (p[0] == 'W' && p[1] == '/')
			p += 2;
		if (*p != '"')
			return false; /* not a list of tags */
		const char *end = strchr(p + 1, '"');
		if (!end)
			return false;
		if ((size_t)(end - p - 1) == n && memcmp(p + 1, etag, n) == 0)
			return true;
		p = end + 1;
	}
	return false;
}

bool sb_http_json_shallow(const char *p, size_t n, unsigned max)
{
	unsigned depth = 0;
	bool in_string = false;

	for (size_t i = 0; i < n; i++) {
		if (in_string) {
			if (p[i] == '\\')
				i++;
			else if (p[i] == '"')
				in_string = false;
		} else if (p[i] == '"') {
			in_string = true;
		} else if (p[i] == '{' || p[i] == '[') {
			if (++depth > max)
				return false;
		} else if ((p[i] == '}' || p[i] == ']') && depth > 0) {
			depth--;
		}
	}
	return true;
}
