/* attention_decode.h - attention of one or a few new tokens against a cache of keys and values.
 *
 * Token t of batch row b stands at position pos = positions[b] + t, and its own key and value
 * are in the cache already (kv_append). With s, softcap and the groups of heads as in
 * attention.h:
 *
 *   visible = keys 0 <= j <= pos, with window > 0 only j > pos - window
 *   o       = sum_{j visible} softmax(s)[j] v_cache[b, j]
 *
 * Shapes     q [batch * tokens, heads * head_dim], o [batch * tokens, heads * value_dim];
 *            k_cache [batch, capacity, kv_heads * head_dim], v_cache [batch, capacity,
 *            kv_heads * value_dim]. Rows lie a leading dimension apart (elements); batch
 *            entries of a cache lie capacity rows apart.
 * Precision  f32 or bf16 in and out; fp32 arithmetic (the twin in double); one rounding.
 * Limits     positions are read when the operation runs. positions[b] + tokens <= capacity.
 * Aliasing   none of o with anything. Cache rows behind a token's position are never read.
 * Repeats    bit for bit, for any number of threads and any batch.
 * Cost       reads the visible part of the cache once per group of heads; CUDA: once per 4 heads
 *            of a group; where rows are not made of 16-byte pieces, or heads are longer than 256,
 *            the keys again for each further 128 columns of the values.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED before the first write; positions
 *            are checked by the CPU functions (see kv_append.h).
 */
#ifndef HN_ATTENTION_DECODE_H
#define HN_ATTENTION_DECODE_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const void *q;                  /* in  [batch * tokens, heads * head_dim] */
    const void *k_cache, *v_cache;  /* in  [batch, capacity, kv_heads * head_dim | value_dim] */
    const int32_t *positions;       /* in  [batch] position of the first new token */
    void *o;                        /* out [batch * tokens, heads * value_dim] */
    int64_t ld_q, ld_k, ld_v, ld_o; /* k and v: of the caches */
    int64_t batch, tokens, capacity;
    int64_t heads, kv_heads, head_dim;
    int64_t value_dim; /* 0: head_dim */
    int64_t window;    /* keys that a token sees, itself included; 0: all */
    float scale;       /* finite; usually 1 / sqrt(head_dim) */
    float softcap;     /* 0: none */
    hn_dtype dtype;
} hn_attention_decode_args;

HN_NODISCARD hn_status hn_attention_decode_check(const hn_attention_decode_args *a);

/* Host pointers; the definition that every other version is tested against. */
HN_NODISCARD hn_status hn_attention_decode_cpu(const hn_attention_decode_args *a);

/* Host pointers, OpenMP. scratch: that many bytes, 64-byte aligned, asked for with the number
 * of OpenMP threads (or more) of the call. */
size_t hn_attention_decode_fast_scratch(const hn_attention_decode_args *a);
HN_NODISCARD hn_status hn_attention_decode_fast(const hn_attention_decode_args *a, void *scratch);

/* Device pointers; positions are not checked, but nothing outside the caches is read. The visible
 * keys are shared out among blocks by the position and the capacity alone, so the bits do not
 * depend on the batch. scratch: that many bytes of device memory, 64-byte aligned; NULL where 0 is
 * asked for. */
HN_CUDA_FUNCTION size_t hn_attention_decode_cuda_scratch(const hn_attention_decode_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_attention_decode_cuda(const hn_attention_decode_args *a,
                                                                 void *scratch, hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
