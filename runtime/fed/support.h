/* support.h - which blocks of which matrices travel: chosen once on the server, sent once as a
 * message of its own; what follows are their values alone.
 *
 * A matrix [out, in] is cut into blocks of br x bc; block id = R (in / bc) + C for the block in row
 * R and column C of blocks. Only matrices with a block are listed.
 *
 *   0   8  "hone-ids"             24  32  SHA-256 of the support
 *   8   4  version 1              56   4  0
 *  12   4  matrices               60   4  CRC-32 of all other bytes
 *  16   8  bytes of the body      64      the body
 *
 * Little-endian. The body is, for each matrix: 8 bytes each for the length of its name, out, in,
 * br, bc, blocks, the parameter of the gap code and the length of the code; then the name and the
 * code of the ids (runtime/file/gap_code.h). Bytes are hostile: every field is checked before it is
 * used.
 *
 * Errors  HN_ERR_ARG: a name twice or empty, a shape that does not divide the matrix, ids that do
 *         not ascend, more than INT32_MAX values or 16384 matrices; HN_ERR_FORMAT: bytes that break
 *         the rules above; HN_ERR_MEMORY */
#ifndef HN_FED_SUPPORT_H
#define HN_FED_SUPPORT_H
#include "runtime/fed/message.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_FED_SUPPORT_HEADER = 64, HN_FED_SUPPORT_NAME = 511 /* bytes of a name, at most */ };

typedef struct {
    const char *name; /* of the weight */
    int64_t out, in, br, bc;
    int64_t n;         /* blocks, at least 1 */
    const int32_t *id; /* [n] ascending */
    int64_t values;    /* n br bc */
} hn_fed_matrix;

/* Zero before the first use. */
typedef struct {
    hn_arena memory; /* names and ids */
    hn_fed_matrix *matrix;
    int64_t count, cap;
    int64_t blocks, values; /* of all matrices */
} hn_fed_support;

/* One more matrix; name and ids are copied, `values` is not read. */
HN_NODISCARD hn_status hn_fed_support_add(hn_fed_support *s, const hn_fed_matrix *m);
void hn_fed_support_free(hn_fed_support *s); /* accepts an empty one */
/* The matrix of that weight, or -1. */
int64_t hn_fed_support_find(const hn_fed_support *s, const char *name);
/* SHA-256 over names, shapes and ids, in order. */
HN_NODISCARD hn_status hn_fed_support_digest(const hn_fed_support *s, char hex[HN_SHA256_HEX]);

/* out is overwritten. */
HN_NODISCARD hn_status hn_fed_support_encode(const hn_fed_support *s, hn_fed_bytes *out);
/* Whether bytes begin as such a message. */
bool hn_fed_is_support(const void *bytes, size_t n);
/* out: empty; changed on success only. */
HN_NODISCARD hn_status hn_fed_support_decode(const void *bytes, size_t n, hn_fed_support *out);

#ifdef __cplusplus
}
#endif
#endif
