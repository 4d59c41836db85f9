/* message.h - one payload as bytes: what the server sends a client, and what comes back.
 *
 *    0   8  "hone-fed"             64  32  SHA-256 of the layout
 *    8   4  version 1              96   8  elements of the payload
 *   12   4  kind                  104   8  values that are sent (all, or the k of topk)
 *   16   4  encoding              112   8  bytes of the body
 *   20   4  flags                 120   4  topk: parameter of the gap code; else 0
 *   24   8  round                 124   4  CRC-32 of all other bytes
 *   32   8  client (-1: server)   128      the body
 *   40   8  samples n_k
 *   48   4  loss F_k, fp32
 *   52   4  0
 *   56   8  tensors
 *
 * Little-endian. The body is: the values (tensors of role VALUE) in their encoding; buffers and
 * counters in fp32, always; the diagonal Fisher where there is one, [values], in fp32 or bf16.
 *
 *   f32   4 bytes a value: what was meant, bit for bit
 *   bf16  2 bytes a value, rounded to nearest even: values, or with a base differences to it
 *   topk  k differences to a base of largest magnitude: 8 bytes length of the ids' code, ids among
 *         the values by gap_code.h, k fp32 (compress.h says how they are chosen)
 *
 * The base is the model as the client has it: where the server's own message was rounded, the
 * decoded one. What the receiver has is base + sent, rounded once to fp32; a client's residual
 * (compress.h) brings what was not sent into its next round.
 *
 * Bytes are hostile: every field is checked before it is used, nothing is allocated by what they
 * claim. The checksum finds accidents; that nobody forged a message is the transport's business.
 */
#ifndef HN_FED_MESSAGE_H
#define HN_FED_MESSAGE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/fed/layout.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_FED_HEADER_BYTES = 128 };
/* n_k theta_k is exact in fp64 up to here. */
enum { HN_FED_MAX_SAMPLES = (1 << 29) - 1 };

typedef enum { HN_FED_MODEL = 1, HN_FED_UPDATE = 2 } hn_fed_kind;

typedef enum { HN_FED_F32, HN_FED_BF16, HN_FED_TOPK } hn_fed_encoding;
const char *hn_fed_encoding_name(hn_fed_encoding e); /* "f32", "bf16", "topk"; "?" */

/* What one client sends in one round; the pointers are borrowed. */
typedef struct {
    int64_t client, round; /* at least 0 */
    int64_t samples;       /* n_k: training samples, 1 .. HN_FED_MAX_SAMPLES */
    float loss;            /* F_k: mean training loss of its last local epoch */
    const float *value;    /* [n of the layout] its parameters after training */
    const float *fisher;   /* NULL, or [values of the layout] diagonal, none negative */
} hn_fed_update;

/* What both sides demand of an update, but for whether a Fisher diagonal is wanted.
 * Errors   naming the client. HN_ERR_ARG: a number out of range; HN_ERR_NUMERIC: NaN or infinity in
 *          loss, value or fisher (tensor and index), a negative Fisher element */
HN_NODISCARD hn_status hn_fed_update_check(const hn_fed_layout *l, const hn_fed_update *u);

typedef struct {
    hn_fed_encoding encoding;
    int64_t k;         /* topk: values that are sent, 1 .. values of the layout */
    const float *base; /* [n]; topk needs it, bf16 may have it, f32 does not read it */
    float *residual;   /* NULL, or in/out [values]: only with a base; zero before the first round */
} hn_fed_coding;

typedef struct {
    hn_fed_kind kind;
    hn_fed_encoding encoding;
    bool difference; /* the values are differences to a base */
    bool fisher;
    int64_t round, client, samples; /* a model: client -1, samples 0 */
    float loss;
    int64_t sent; /* values in the body */
} hn_fed_head;

typedef struct {
    uint8_t *data; /* hn_fed_bytes_free frees it */
    size_t n, cap;
} hn_fed_bytes;
void hn_fed_bytes_free(hn_fed_bytes *b); /* accepts an empty one */

/* A client's message. out is overwritten; its memory is used again. The residual changes on
 * success only.
 * Errors   HN_ERR_ARG: fields outside what hn_fed_update and hn_fed_coding say;
 *          HN_ERR_UNSUPPORTED: topk with a Fisher diagonal, or for 2^31 values and more;
 *          HN_ERR_NUMERIC: something not finite (tensor and index; a value that bf16 makes
 *          infinite, too); HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_fed_encode_update(const hn_fed_layout *l, const hn_fed_update *u,
                                            const hn_fed_coding *coding, hn_fed_bytes *out);
/* The server's message: the model value [n] of a round, f32 or bf16 (without a base). */
HN_NODISCARD hn_status hn_fed_encode_model(const hn_fed_layout *l, int64_t round,
                                           const float *value, hn_fed_encoding encoding,
                                           hn_fed_bytes *out);

/* Makes the checksum of a whole message right again after its bytes were changed: for tests of what
 * arrives. */
void hn_fed_seal(hn_fed_bytes *b);

/* Length of a message. f32 and bf16: exact; topk: the most that k ids can take. */
int64_t hn_fed_message_bytes(const hn_fed_layout *l, hn_fed_encoding encoding, int64_t k,
                             bool fisher);

/* What a message says it is, without its body: to find the client that sent it. The checksum is
 * not looked at.
 * Errors   HN_ERR_FORMAT: truncated, not a message, another version, a field out of range (negative
 *          n_k); HN_ERR_NUMERIC: the loss is not finite */
HN_NODISCARD hn_status hn_fed_peek(const void *bytes, size_t n, hn_fed_head *head);

/* A whole message.
 * kind, round   what is expected; round -1: any
 * base          [n] or NULL; needed where the message has differences
 * value         out [n], not base; unspecified after an error
 * fisher        NULL (the message must have none) or out [values] (it must have one)
 * Errors   HN_ERR_FORMAT: truncated, bytes left over, bad checksum, another kind, ids out of
 *          order, a field out of range (negative n_k), a Fisher diagonal missing or not wanted;
 *          HN_ERR_SHAPE: another layout; HN_ERR_ARG: another round ("stale"), no base;
 *          HN_ERR_NUMERIC: NaN or infinity (tensor and index), a negative Fisher element;
 *          HN_ERR_MEMORY. Behind a sound header all name the client. */
HN_NODISCARD hn_status hn_fed_decode(const hn_fed_layout *l, const void *bytes, size_t n,
                                     hn_fed_kind kind, int64_t round, const float *base,
                                     hn_fed_head *head, float *value, float *fisher);

#ifdef __cplusplus
}
#endif
#endif
