/* The page: three static files in the program. */
#include <string.h>

#include "api.h"
#include "stagebridge/embed.h"

SB_EMBED(hub_page_html_data, "lifecycle-hub/src/http/page/index.html");
SB_EMBED(hub_page_css_data, "lifecycle-hub/src/http/page/page.css");
SB_EMBED(hub_page_js_data, "lifecycle-hub/src/http/page/page.js");

static int send_file(struct sb_http_reply *reply, const char *data, size_t n, const char *type)
{
	reply->file = data;
	reply->file_len = n;
	reply->content_type = type;
	return 0;
}

int hub_page(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	(void)req;
	(void)user;
	(void)err;
	return send_file(reply, hub_page_html_data, SB_EMBED_LEN(hub_page_html_data), "text/html; charset=utf-8");
}

int hub_page_css(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	(void)req;
	(void)user;
	(void)err;
	return send_file(reply, hub_page_css_data, SB_EMBED_LEN(hub_page_css_data), "text/css; charset=utf-8");
}

int hub_page_js(struct sb_http_request *req, struct sb_http_reply *reply, void *user, struct sb_error *err)
{
	(void)req;
	(void)user;
	(void)err;
	return send_file(reply, hub_page_js_data, SB_EMBED_LEN(hub_page_js_data), "text/javascript; charset=utf-8");
}
