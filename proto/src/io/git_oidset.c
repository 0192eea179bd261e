/*
 * A list of object ids without repetitions: the walks over trees and commits remember in it what they have met and,
 * in order of arrival, what is still to be looked at. Owned by one walk; about 60 bytes per id.
 */
#include <string.h>

#include "git_private.h"

void sb_oid_list_release(struct sb_oid_list *l)
{
	free(l->id);
	free(l->slot);
	memset(l, 0, sizeof(*l));
}

static size_t slot_of(const struct sb_oid_list *l, const git_oid *id)
{
	size_t h;

	memcpy(&h, id->id, sizeof(h)); /* ids are uniformly distributed already */
	h &= l->n_slots - 1;
	while (l->slot[h] && !git_oid_equal(&l->id[l->slot[h] - 1], id))
		h = (h + 1) & (l->n_slots - 1);
	return h;
}

static int grow(struct sb_oid_list *l, struct sb_error *err)
{
	size_t cap = l->cap ? l->cap * 2 : 256;
	git_oid *id = cap < UINT32_MAX / 2 ? reallocarray(l->id, cap, sizeof(*id)) : NULL;

	if (!id)
		return sb_fail_nomem(err);
	l->id = id;
	uint32_t *slot = calloc(cap * 2, sizeof(*slot));
	if (!slot)
		return sb_fail_nomem(err);
	free(l->slot);
	l->slot = slot;
	l->cap = cap;
	l->n_slots = cap * 2;
	for (size_t i = 0; i < l->n; i++)
		l->slot[slot_of(l, &l->id[i])] = (uint32_t)(i + 1);
	return 0;
}

int sb_oid_list_add(struct sb_oid_list *l, const git_oid *id, struct sb_error *err)
{
	if (l->n == l->cap) {
		int rc = grow(l, err);
		if (rc < 0)
			return rc;
	}
	size_t at = slot_of(l, id);
	if (l->slot[at])
		return 0;
	l->id[l->n++] = *id;
	l->slot[at] = (uint32_t)l->n;
	return 1;
}
