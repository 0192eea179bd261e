/* Settings, the ways in and out: loading a file or a text, and releasing what was read. Main thread; the struct is the
 * caller's, what it points at is freed by sb_settings_release. The parts: settings_yaml.c looks for what YAML must not
 * hold, settings_parse.c walks the document by the table, settings_value.c converts and checks, settings_print.c
 * writes. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "settings_internal.h"
#include "stagebridge/file.h"
#include "stagebridge/text.h"

static int parse_in(const struct sb_setting *table, void *out, const char *yaml, size_t n, const char *name,
	const char *folder, struct sb_error *err)
{
	struct sb_error cause = SB_ERROR_INIT;
	struct sb_settings_ctx ctx = { .file = name, .folder = folder, .err = &cause };
	int r;

	if (n > SB_SETTINGS_FILE_MAX)
		r = sb_fail(&cause, SB_ECONFIG, "%s: larger than %u bytes", name, SB_SETTINGS_FILE_MAX);
	else
		r = sb_settings_read(&ctx, table, out, yaml, n);
	if (r < 0) {
		sb_settings_release(table, out);
		if (err != NULL)
			*err = cause;
	}
	return r;
}

/* The absolute folder of a file, as new. */
static int absolute_folder(const char *file, char **ret, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *here = NULL;
	const char *slash = strrchr(file, '/');
	int n = slash == NULL ? 0 : slash == file ? 1 : (int)(slash - file);

	if (file[0] == '/') {
		*ret = sb_asprintf("%.*s", n, file);
	} else {
		here = getcwd(NULL, 0);
		if (here == NULL)
			return sb_fail_errno(err, errno, "the current folder is not to be found");
		*ret = sb_asprintf("%s%s%.*s", here, n > 0 && strcmp(here, "/") != 0 ? "/" : "", n, file);
	}
	return *ret != NULL ? SB_OK : sb_fail_nomem(err);
}

int sb_settings_parse(
	const struct sb_setting *table, void *out, const char *yaml, size_t n, const char *name, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *folder = NULL;
	int r = absolute_folder("", &folder, err);

	return r < 0 ? r : parse_in(table, out, yaml, n, name, folder, err);
}

int sb_settings_load(const struct sb_setting *table, void *out, const char *file, struct sb_error *err)
{
	sb_cleanup(sb_freep) char *folder = NULL;
	sb_cleanup(sb_freep) char *yaml = NULL;
	size_t n = 0;
	int r = absolute_folder(file, &folder, err);

	if (r < 0)
		return r;
	r = sb_file_read(file, SB_SETTINGS_FILE_MAX, &yaml, &n, err);
	if (r == SB_ENOMEM)
		return r;
	if (r < 0) /* missing or unreadable settings are a configuration error, not one that a retry heals */
		return sb_fail(err, SB_ECONFIG, "%s", err != NULL ? err->msg : "");
	return parse_in(table, out, yaml, n, file, folder, err);
}

/* ---- release ---- */

static void release_strings(struct sb_strings *list)
{
	for (size_t i = 0; i < list->count; i++)
		free(list->item[i]);
	free(list->item);
	*list = (struct sb_strings){ 0 };
}

static void release_list(const struct sb_setting *row, struct sb_list *list)
{
	for (size_t i = 0; i < list->count; i++)
		sb_settings_release(row->sub, (char *)list->item + i * row->item_size);
	free(list->item);
	*list = (struct sb_list){ 0 };
}

static void release_field(const struct sb_setting *row, void *field)
{
	switch (row->type) {
	case SB_SET_STRING:
	case SB_SET_NAME:
	case SB_SET_TYPE:
	case SB_SET_PATH:
	case SB_SET_SECRET:
		free(*(char **)field);
		*(char **)field = NULL;
		break;
	case SB_SET_INT:
	case SB_SET_DURATION:
		*(int64_t *)field = 0;
		break;
	case SB_SET_SIZE:
		*(uint64_t *)field = 0;
		break;
	case SB_SET_BOOL:
		*(bool *)field = false;
		break;
	case SB_SET_CHOICE:
		*(int *)field = 0;
		break;
	case SB_SET_STRINGS:
		release_strings(field);
		break;
	case SB_SET_GROUP:
		sb_settings_release(row->sub, field);
		break;
	case SB_SET_LIST:
		release_list(row, field);
		break;
	}
}

void sb_settings_release(const struct sb_setting *table, void *out)
{
	for (const struct sb_setting *row = table; row->key != NULL; row++)
		release_field(row, sb_setting_field(out, row));
}
