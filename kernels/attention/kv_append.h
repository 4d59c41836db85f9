/* kv_append.h - writes the keys and values of new tokens into a cache of fixed capacity.
 *
 *   k_cache[b, positions[b] + t, :] = k[b * tokens + t, :]      the same for v
 *
 * Shapes     k [batch * tokens, k_cols], v [batch * tokens, v_cols]; k_cache [batch, capacity,
 *            k_cols], v_cache [batch, capacity, v_cols]. Rows lie a leading dimension apart
 *            (elements); batch entries of a cache lie capacity rows apart.
 * Precision  values are copied: f32 or bf16, the same for all operands.
 * Limits     positions are read from memory when the operation runs, so that a captured graph
 *            serves every token. positions[b] + tokens <= capacity.
 * Aliasing   no overlap of caches and new rows.
 * Repeats    bit for bit.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED before the first write; a position
 *            outside the cache is HN_ERR_ARG (found by the CPU function; on a device positions
 *            are a promise of the generating loop, which counts tokens against the capacity).
 */
#ifndef HN_KV_APPEND_H
#define HN_KV_APPEND_H
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const void *k, *v;        /* in  [batch * tokens, k_cols], [batch * tokens, v_cols] */
    const int32_t *positions; /* in  [batch] cache row of the first new token */
    void *k_cache, *v_cache;  /* i/o [batch, capacity, k_cols], [batch, capacity, v_cols] */
    int64_t ld_k, ld_v, ld_k_cache, ld_v_cache;
    int64_t batch, tokens, capacity;
    int64_t k_cols, v_cols; /* kv_heads * head_dim, kv_heads * value_dim */
    hn_dtype dtype;
} hn_kv_append_args;

HN_NODISCARD hn_status hn_kv_append_check(const hn_kv_append_args *a);
HN_NODISCARD hn_status hn_kv_append_cpu(const hn_kv_append_args *a); /* host pointers */

/* Device pointers; rows whose position lies outside the cache are left out. */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_kv_append_cuda(const hn_kv_append_args *a,
                                                          hn_stream stream);

/* HN_ERR_ARG unless 0 <= positions[b] and positions[b] + tokens <= capacity for all b. */
HN_NODISCARD hn_status hn_kv_check_positions(const char *op, const int32_t *positions,
                                             int64_t batch, int64_t tokens, int64_t capacity);

#ifdef __cplusplus
}
#endif
#endif
