/* cuda_attention_short.h - the backward of short sequences. For the .cu files of this folder only.
 */
#ifndef HN_CUDA_ATTENTION_SHORT_H
#define HN_CUDA_ATTENTION_SHORT_H
#include "kernels/attention/attention.h"
#include "runtime/base/stream.h"

/* Whether hn_attention_bwd_short_ does what is asked, for checked bf16 arguments with value_dim =
 * head_dim and rows of 16-byte pieces: heads of 32, 64 or 128, as many of keys as of queries, the
 * same offsets for both, no softcap, and sequences (`longest`) that fit a block's shared memory on
 * the current GPU: 256 rows on sm_90, 224 of heads of 128. Pointers but kv_offsets are not read. */
hn_status hn_attention_bwd_fits_short_(const hn_attention_args *a, bool *out);
hn_status hn_attention_bwd_short_(const hn_attention_args *a, hn_stream stream);
#endif
