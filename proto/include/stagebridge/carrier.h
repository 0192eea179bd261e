/* The data carrier: one file (git pack, dataset, blob) as a signed manifest and sealed chunks. zstd, then secretstream
 * (XChaCha20-Poly1305) with a fresh key per transfer, sealed to the recipient's box key; the last chunk is tagged FINAL. Neither
 * broker nor a forwarding hub can read or alter it unseen. A spool is the sealed stream in a file: chunk i at a fixed place, so both sides
 * resume by index. */
#ifndef STAGEBRIDGE_CARRIER_H
#define STAGEBRIDGE_CARRIER_H

#include <jansson.h>

#include "stagebridge/base.h"
#include "stagebridge/error.h"
#include "stagebridge/keyring.h"
#include "stagebridge/record.h"

#define SB_CHUNK_PLAIN (512 * 1024)
#define SB_CHUNK_SEALED (SB_CHUNK_PLAIN + 17)

struct sb_manifest {
	char transfer[SB_ID_LEN + 1];
	char kind[16];                    /* "pack" | "dataset" | "blob" */
	char from[SB_NAME_MAX + 1];       /* stage or "hub" */
	char to[SB_NAME_MAX + 1];
	uint64_t plain_bytes, sealed_bytes, chunks;
	char plain_sha256[65], sealed_sha256[65];
	char recipient_kid[SB_KID_LEN + 1];
	char sealed_key[112];             /* base64 of crypto_box_seal(32-byte stream key) */
	char stream_header[36];           /* base64 of 24 bytes */
	int64_t expires_ms;
	json_t *meta;                     /* owned; an object for the kind's own needs: dataset name, attestation, ... */
};
void sb_manifest_release(struct sb_manifest *m);
/** Returns new (jansson reference). */
json_t *sb_manifest_json(const struct sb_manifest *m);
/** Closed schema; every size and count checked against each other and against max_bytes. */
int sb_manifest_parse(struct sb_manifest *ret, const json_t *json, uint64_t max_bytes, struct sb_error *err) SB_MUSTCHECK;

/** Compresses and seals in_path into spool_path (0600, fsynced) and completes m (transfer, kind, from, to, expires_ms, meta are the caller's). Constant memory. */
int sb_carrier_seal(struct sb_manifest *m, const char *in_path, const char *spool_path, const struct sb_key *recipient, struct sb_error *err) SB_MUSTCHECK;
/** Checks whole spool and digests, opens, decompresses to out_path (0600, written beside and renamed). SB_ESIG names the first bad chunk. */
int sb_carrier_open(const struct sb_manifest *m, const char *spool_path, const char *out_path, uint64_t max_plain_bytes, const struct sb_identity *id, struct sb_error *err) SB_MUSTCHECK;

/** Sender: reads sealed chunk i (0-based) into buf of SB_CHUNK_SEALED bytes. */
int sb_spool_read(int fd, const struct sb_manifest *m, uint64_t i, void *buf, size_t *ret_len, struct sb_error *err) SB_MUSTCHECK;
/** Receiver: number of whole chunks that the spool file holds (0 when missing). A torn tail is cut off. */
int sb_spool_received(const char *path, const struct sb_manifest *m, uint64_t *ret_next, struct sb_error *err) SB_MUSTCHECK;
/** Receiver: appends chunk i == next. SB_ECONFLICT when i > next (gap); 0 without effect when i < next. Does not fsync. */
int sb_spool_append(int fd, const struct sb_manifest *m, uint64_t *next, uint64_t i, const void *p, size_t n, struct sb_error *err) SB_MUSTCHECK;

/* Chunk records: stream "data/<transfer>", session = attempt (from 1), sequence = index + 2 (the manifest is sequence 1), attributes
 * sbtransfer and sbchunk "<index>/<count>". */
int sb_chunk_index(const struct sb_record *rec, const char **ret_transfer, uint64_t *ret_index, uint64_t *ret_count, struct sb_error *err) SB_MUSTCHECK;

#endif
