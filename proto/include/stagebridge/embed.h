/* Puts a file of the source tree into the program: SB_EMBED(page_html, "lifecycle-hub/src/http/page/index.html") defines
 * page_html[] (NUL-terminated) and page_html_len. Paths are relative to the top of the tree, where make runs. */
#ifndef STAGEBRIDGE_EMBED_H
#define STAGEBRIDGE_EMBED_H

#include <stddef.h>

#define SB_EMBED(symbol, path)                                                                     \
	__asm__(".section .rodata\n.balign 16\n.globl " #symbol "\n" #symbol ":\n.incbin \"" path "\"\n" \
		".globl " #symbol "_end\n" #symbol "_end:\n.byte 0\n.previous\n");                 \
	extern const char symbol[], symbol##_end[]

/** Length without the closing NUL. */
#define SB_EMBED_LEN(symbol) ((size_t)((symbol##_end) - (symbol)))

#endif
