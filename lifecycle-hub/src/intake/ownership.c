/* Ownership of entity types. Pure but for the settings; any lane. */
#include "ownership.h"

#include <stdio.h>
#include <string.h>

#include "stagebridge/change.h"

void hub_entity_release(struct hub_entity *e)
{
	json_decref(e->body);
	e->body = NULL;
}

static int type_of_stream(struct hub_entity *ret, const char *stream, struct sb_error *err)
{
	struct sb_entity_stream_name name;

	if (!sb_entity_stream_parse(stream, &name))
		return sb_fail(err, SB_EPROTO, "stream \"%s\" is not one of entities", stream);
	ret->snapshot = name.snapshot;
	ret->down = name.down;
	(void)snprintf(ret->type, sizeof(ret->type), "%s", name.type); /* sb_type_ok: it fits */
	return 0;
}

static int type_of_batch(struct hub_entity *ret, const struct sb_record *rec, char type[SB_TYPE_MAX + 1], struct sb_error *err)
{
	struct sb_batch_reader *reader = NULL;

	int r = sb_batch_open(&reader, rec->value, rec->value_len, err);
	if (r < 0)
		return r;
	(void)snprintf(type, SB_TYPE_MAX + 1, "%s", sb_batch_shape(reader)->type); /* the same array size */
	ret->incarnation = sb_batch_shape(reader)->incarnation;
	sb_batch_close(reader);
	return 0;
}

static int type_of_marker(struct hub_entity *ret, const struct sb_record *rec, char type[SB_TYPE_MAX + 1], struct sb_error *err)
{
	ret->body = json_loadb(rec->value, rec->value_len, JSON_REJECT_DUPLICATES, NULL);
	const char *s = json_string_value(json_object_get(ret->body, "type"));
	if (!s || strlen(s) > SB_TYPE_MAX)
		return sb_fail(err, SB_EPROTO, "value is not an object with \"type\"");
	(void)snprintf(type, SB_TYPE_MAX + 1, "%s", s); /* checked above */
	return 0;
}

int hub_entity_judge(
	struct hub_entity *ret, const struct hub_tenant *t, const struct sb_record *rec, const struct sb_meta *meta, struct sb_error *err)
{
	char type[SB_TYPE_MAX + 1];
	bool batch = meta->event == SB_EV_ENTITY_CHANGED || meta->event == SB_EV_SNAPSHOT_ROWS;

	*ret = (struct hub_entity){ 0 };
	int r = type_of_stream(ret, meta->stream, err);
	if (r == 0)
		r = batch ? type_of_batch(ret, rec, type, err) : type_of_marker(ret, rec, type, err);
	if (r == 0 && strcmp(type, ret->type) != 0)
		r = sb_fail(err, SB_EPROTO, "value is of another type than stream \"%s\"", meta->stream);
	if (r == 0 && ret->snapshot != (meta->event != SB_EV_ENTITY_CHANGED && meta->event != SB_EV_ENTITY_DESCRIBED))
		r = sb_fail(err, SB_EPROTO, "record does not belong on stream \"%s\"", meta->stream);
	if (r == 0) {
		ret->rule = hub_type_find(t, ret->type);
		if (!ret->rule)
			r = sb_fail(err, SB_EREFUSED, "type \"%s\" is not listed in the hub's settings", ret->type);
		else if (strcmp(ret->rule->owner, meta->stage) != 0)
			r = sb_fail(err, SB_EREFUSED, "type \"%s\" is owned by \"%s\"", ret->type, ret->rule->owner);
	}
	if (r < 0)
		hub_entity_release(ret);
	return r;
}
