/* Shared between the carrier's files. Private to wire. */
#ifndef SB_WIRE_CARRIER_PRIVATE_H
#define SB_WIRE_CARRIER_PRIVATE_H

#include "stagebridge/carrier.h"

#define SB_CHUNK_TAG    17 /* what secretstream adds to a chunk */
#define SB_CHUNK_AD_MAX 96 /* netstrings of a 26-byte id and two numbers */

/** Bytes of sealed chunk i < chunks. */
size_t sb_chunk_size(const struct sb_manifest *m, uint64_t i);
/** netstrings(transfer, index, count); returns the length. */
size_t sb_chunk_ad(char out[SB_CHUNK_AD_MAX], const struct sb_manifest *m, uint64_t i);
/** chunks and sealed_bytes fit each other. */
bool sb_manifest_sizes_ok(const struct sb_manifest *m);
/** pread until n bytes are there; SB_EIO when the file is shorter. */
int sb_pread_all(int fd, void *p, size_t n, uint64_t at, struct sb_error *err) SB_MUSTCHECK;
int sb_pwrite_all(int fd, const void *p, size_t n, uint64_t at, struct sb_error *err) SB_MUSTCHECK;
/** Makes a rename in the folder of path durable. */
int sb_parent_sync(const char *path, struct sb_error *err) SB_MUSTCHECK;

#endif
