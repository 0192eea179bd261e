/* The local API on the stage's Unix socket: what `stagebridge` talks to from inside a stage. Routes live in api_<noun>.c files and are
 * collected in api.c. Peers are known by SO_PEERCRED. */
#ifndef AGENT_API_H
#define AGENT_API_H

#include "agent.h"
#include "stagebridge/http_server.h"

struct agent_api; /* server + a state handle per request */
int agent_api_start(struct agent_api **ret, struct agent *a, struct sb_error *err) SB_MUSTCHECK;
void agent_api_stop(struct agent_api *api);
/** The tenant user of the peer: mapped by settings, else the Unix account's name. */
int agent_api_user(struct agent *a, struct sb_http_request *req, char out[96], struct sb_error *err) SB_MUSTCHECK;

/* Handlers (user = struct agent *), by file:
 *  api_status.c   GET  /v1/status                 stage, lanes, sources, outbox, transfers, heartbeat
 *  api_git.c      GET  /v1/git/{origin}/refs      refs of the stage's repository, pulls
 *                 POST /v1/git/{origin}/push      query: branch, head, title, [body]; body: a git pack; answers {push,...}
 *                 GET  /v1/pushes, GET /v1/pushes/{id}
 *  api_promote.c  POST /v1/promotions             {action, origin, artifact, stage, reason}; GET /v1/promotions/{id} (request's fate)
 *  api_data.c     POST /v1/datasets               {dataset, from, purpose}; GET /v1/datasets, GET /v1/datasets/{request}
 *  api_entity.c   GET  /v1/entities               types, sources, columns, progress
 *                 POST /v1/sources/{name}/confirm a mass deletion that waits is meant
 *  api_entity_write.c  PUT, DELETE, GET /v1/entities/{type}/{key}; POST, DELETE, GET /v1/entities/{type}   entities of the socket
 *  api_resync.c   POST /v1/entities/{type}/resync {where, reason}; POST /v1/entities/{type}/resync/cancel
 */
extern const struct sb_http_route agent_api_status_routes[], agent_api_git_routes[], agent_api_promote_routes[], agent_api_data_routes[],
	agent_api_entity_routes[], agent_api_entity_write_routes[], agent_api_resync_routes[];   /* each ends with method NULL */

#endif
