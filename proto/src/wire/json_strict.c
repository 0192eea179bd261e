/* Strict reading of JSON: payloads of records, and the small closed objects of wire (keyring, manifest, shape of a batch). Pure; any
 * thread. Error texts name keys that we know, never content. The one static of the process here is per thread: that an allocation of
 * jansson has failed on it. */
#include "json_strict.h"

#include <string.h>

#include "stagebridge/clock.h"

static _Thread_local bool no_memory;

static void *remembering_malloc(size_t n)
{
	void *p = malloc(n);

	no_memory = no_memory || !p;
	return p;
}

void sb_json_guard(void)
{
	json_set_alloc_funcs(remembering_malloc, free);
}

__attribute__((constructor)) static void guard_at_start(void)
{
	sb_json_guard();
}

int sb_json_load(json_t **ret, const void *p, size_t n, const char *what, struct sb_error *err)
{
	json_error_t je = { .line = 0 };

	no_memory = false;
	json_t *root = json_loadb(p, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &je);
	if (no_memory) {
		json_decref(root);
		return sb_fail_nomem(err);
	}
	if (!root)
		return sb_fail(err, SB_EPROTO, "%s is not valid JSON", what);
	*ret = root;
	return 0;
}

int sb_json_load_object(json_t **ret, const void *p, size_t n, const char *what, struct sb_error *err)
{
	json_t *root = NULL;

	int r = sb_json_load(&root, p, n, what, err);
	if (r < 0)
		return r;
	if (!json_is_object(root)) {
		json_decref(root);
		return sb_fail(err, SB_EPROTO, "%s is not a JSON object", what);
	}
	*ret = root;
	return 0;
}

int sb_json_closed(const json_t *object, const char *const *keys, size_t n_keys, const char *what, struct sb_error *err)
{
	if (!json_is_object(object))
		return sb_fail(err, SB_EPROTO, "%s is not a JSON object", what);
	for (size_t i = 0; i < n_keys; i++) {
		if (!json_object_get(object, keys[i]))
			return sb_fail(err, SB_EPROTO, "%s has no \"%s\"", what, keys[i]);
	}
	/* all of ours are there, so another size means a key that we do not know */
	if (json_object_size(object) != n_keys)
		return sb_fail(err, SB_EPROTO, "%s has an unknown key", what);
	return 0;
}

const char *sb_json_string(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

bool sb_json_u64(const json_t *object, const char *key, uint64_t *ret)
{
	const json_t *v = json_object_get(object, key);

	if (!json_is_integer(v) || json_integer_value(v) < 0)
		return false;
	*ret = (uint64_t)json_integer_value(v);
	return true;
}

bool sb_json_time(const json_t *object, const char *key, int64_t *ret_ms)
{
	const char *s = sb_json_string(object, key);

	return s && sb_time_parse(s, ret_ms);
}
