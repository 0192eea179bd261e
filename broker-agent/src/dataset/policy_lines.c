/* Where in a policy file each rule begins, for messages about rules that no single key of it makes wrong. The settings parser has accepted the file
 * before. The one file of the agent that knows libyaml. Pure; any thread. */
#include <string.h>
#include <yaml.h>

#include "policy.h"

static void fill(struct agent_policy *p, yaml_document_t *doc, const yaml_node_t *list)
{
	struct agent_rule *rule = p->columns.item;
	size_t i = 0;

	for (const yaml_node_item_t *it = list->data.sequence.items.start; it < list->data.sequence.items.top && i < p->columns.count; it++)
		rule[i++].line = yaml_document_get_node(doc, *it)->start_mark.line + 1;
}

static void find_columns(struct agent_policy *p, yaml_document_t *doc)
{
	const yaml_node_t *root = yaml_document_get_root_node(doc);

	if (!root || root->type != YAML_MAPPING_NODE)
		return;
	for (const yaml_node_pair_t *pair = root->data.mapping.pairs.start; pair < root->data.mapping.pairs.top; pair++) {
		const yaml_node_t *key = yaml_document_get_node(doc, pair->key), *value = yaml_document_get_node(doc, pair->value);
		if (key->type == YAML_SCALAR_NODE && strcmp((const char *)key->data.scalar.value, "columns") == 0 && value->type == YAML_SEQUENCE_NODE)
			fill(p, doc, value);
	}
}

void agent_policy_lines(struct agent_policy *p, const char *yaml, size_t n)
{
	yaml_document_t doc;
	yaml_parser_t parser;

	if (!yaml_parser_initialize(&parser))
		return;
	yaml_parser_set_input_string(&parser, (const unsigned char *)yaml, n);
	if (yaml_parser_load(&parser, &doc)) {
		find_columns(p, &doc);
		yaml_document_delete(&doc);
	}
	yaml_parser_delete(&parser);
}
