/* attention.h - grouped-query attention over packed sequences, forward and backward.
 *
 * Sequence s has the query rows q_offsets[s] .. q_offsets[s+1] and the key rows
 * kv_offsets[s] .. kv_offsets[s+1]; with n_q and n_kv of them, query i of the sequence
 * stands at position pos(i) = i + n_kv - n_q of the keys (so a chunk of a prompt attends
 * to everything before it). Query head h reads the kv head h / (heads / kv_heads).
 *
 *   visible(i) = keys j with   j <= pos(i)            if causal
 *                              j >  pos(i) - window   if window > 0
 *   t[i,j] = scale * sum_c q[i,c] k[j,c]
 *   s[i,j] = softcap > 0 ? softcap * tanh(t[i,j] / softcap) : t[i,j]
 *   lse[i] = log sum_{j visible} exp(s[i,j])
 *   p[i,j] = exp(s[i,j] - lse[i])
 *   o[i,c] = sum_j p[i,j] v[j,c]
 *
 * Backward, from dout = d loss / d o:
 *   dv[j,c] = sum_i p[i,j] dout[i,c]              (sums also run over the heads of the group)
 *   ds[i,j] = p[i,j] (sum_c dout[i,c] v[j,c] - sum_c dout[i,c] o[i,c])
 *   dt[i,j] = ds[i,j] * (softcap > 0 ? 1 - (s[i,j] / softcap)^2 : 1)
 *   dq[i,c] = scale * sum_j dt[i,j] k[j,c]        dk[j,c] = scale * sum_i dt[i,j] q[i,c]
 *
 * A query that sees no key, and a row that no sequence covers, has o = 0, lse = 0 (finite, so
 * that a scan for NaN and Inf passes padding) and gradients 0. Gradients are written, not
 * accumulated.
 *
 * Shapes     q [q_rows, heads * head_dim], k [kv_rows, kv_heads * head_dim], v [kv_rows,
 *            kv_heads * value_dim], o and dout [q_rows, heads * value_dim], lse [q_rows,
 *            heads] without gaps; gradients like what they belong to. Every other operand
 *            has a leading dimension in elements, so q, k and v may be columns of one buffer.
 * Precision  f32 or bf16 in and out, lse f32; fp32 arithmetic (the twin in double), p is not
 *            rounded before it meets v; one rounding at each store.
 * Limits     heads a multiple of kv_heads; any head_dim, value_dim; rows below 2^31.
 * Aliasing   none of the outputs may overlap an input or another output; outputs may be
 *            columns of one buffer.
 * Repeats    bit for bit, for any number of threads; a sequence gives the same bits alone
 *            and packed with others.
 * Cost       visible pairs * heads * 2 * (head_dim + value_dim) flops forward, 2.5 times that
 *            backward (CUDA: 3.5 times, since p and dt are made twice); no memory that grows with
 *            the square of a length.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED, all before the first write. The
 *            check does not read device memory: offsets are checked by the CPU functions, on
 *            a device they are a promise of whoever packed the batch.
 */
#ifndef HN_ATTENTION_H
#define HN_ATTENTION_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const void *q;             /* in  [q_rows, heads * head_dim] */
    const void *k;             /* in  [kv_rows, kv_heads * head_dim] */
    const void *v;             /* in  [kv_rows, kv_heads * value_dim] */
    const int32_t *q_offsets;  /* in  [sequences + 1] ascending, within 0 .. q_rows */
    const int32_t *kv_offsets; /* in  [sequences + 1], within 0 .. kv_rows; NULL: q_offsets */
    void *o;                   /* fwd out, bwd in [q_rows, heads * value_dim] */
    float *lse;                /* fwd out, bwd in [q_rows, heads] */
    const void *dout;          /* bwd in  like o */
    void *dq, *dk, *dv;        /* bwd out like q, k, v */
    int64_t ld_q, ld_k, ld_v, ld_o;
    int64_t ld_dout, ld_dq, ld_dk, ld_dv; /* bwd only */
    int64_t q_rows, kv_rows, sequences;
    int64_t heads, kv_heads, head_dim;
    int64_t value_dim; /* 0: head_dim */
    int64_t window;    /* keys that a query sees, itself included; 0: all */
    int64_t longest;   /* no sequence has more rows (a promise, like offsets); 0: q_rows */
    bool even;         /* a permission: the rows may be taken to be sequences of `longest`
                        * rows each (q_rows is a multiple of it), whatever the offsets say; nobody
                        * reads what that changes */
    float scale;       /* finite; usually 1 / sqrt(head_dim) */
    float softcap;     /* 0: none */
    bool causal;
    hn_dtype dtype; /* of all operands but lse */
} hn_attention_args;

/* What the contract says of the arguments themselves; `backward` adds dout, dq, dk, dv. */
HN_NODISCARD hn_status hn_attention_check(const hn_attention_args *a, bool backward);

/* The same for offsets in host memory. */
HN_NODISCARD hn_status hn_attention_check_offsets(const hn_attention_args *a);

/* Host pointers; the definition that every other version is tested against. */
HN_NODISCARD hn_status hn_attention_fwd_cpu(const hn_attention_args *a);
HN_NODISCARD hn_status hn_attention_bwd_cpu(const hn_attention_args *a);

/* Host pointers, OpenMP. scratch: that many bytes, 64-byte aligned, asked for with the number
 * of OpenMP threads (or more) of the call; NULL where 0 is asked for. */
size_t hn_attention_fwd_fast_scratch(const hn_attention_args *a);
size_t hn_attention_bwd_fast_scratch(const hn_attention_args *a);
HN_NODISCARD hn_status hn_attention_fwd_fast(const hn_attention_args *a, void *scratch);
HN_NODISCARD hn_status hn_attention_bwd_fast(const hn_attention_args *a, void *scratch);

/* Device pointers; offsets are not checked: a promise of whoever packed the batch. In bf16 with
 * head_dim = value_dim = 64 or 128, pointers on 16-byte boundaries and leading dimensions in
 * multiples of 8 the products run on the tensor cores, and p and dt / scale are rounded to bf16
 * before they meet v, dout, k and q; everything else is plain fp32 (no TF32), as said above; there
 * each further 64 columns of a head compute the scores once more. A masked operand that is NaN or
 * Inf (v; in backward q, k and dout, too) may reach rows that do not see it (0 * NaN), within its
 * sequence. On sm_90, without softcap and with scale > 0, programs with code for sm_90a do the same
 * with wgmma, two to four times as fast. Backward of sequences of at most 256 rows (`longest`; 224
 * with heads of 128) runs in one kernel, with heads of 32, too, and the same roundings: with as
 * many kv heads as heads, the same offsets for queries and keys (kv_offsets NULL, as many rows) and
 * no softcap; the bits of a sequence then depend on which side of that limit `longest` is. scratch:
 * that many bytes of device memory, 64-byte aligned. */
HN_CUDA_FUNCTION size_t hn_attention_bwd_cuda_scratch(const hn_attention_args *a);
/* Whether these shapes run with wgmma on the current GPU. Pointers are not read and may be NULL. */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_attention_cuda_wgmma(const hn_attention_args *a,
                                                                bool backward, bool *out);
/* Whether backward of these shapes runs as that of short sequences; the same about pointers, but
 * for kv_offsets: NULL or not. */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_attention_cuda_short(const hn_attention_args *a,
                                                                bool *out);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_attention_fwd_cuda(const hn_attention_args *a,
                                                              hn_stream stream);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_attention_bwd_cuda(const hn_attention_args *a,
                                                              void *scratch, hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
