/* cuda_dropout.h - the mask of dropout.h inside kernels (for .cu files only). */
#ifndef HN_CUDA_DROPOUT_H
#define HN_CUDA_DROPOUT_H
#include "kernels/random/dropout.h"
#include "runtime/base/cuda_math.h"

/* The key as a launch argument: nothing in it changes from step to step. */
struct hn_dropout_launch {
    const hn_rng_state *state; /* device memory, read by the kernel */
    uint64_t op_hash;
    uint32_t threshold;
    float scale;
};

static inline hn_dropout_launch hn_dropout_launch_of(const hn_dropout_key *key)
{
    return {key->state, key->op_hash, hn_rng_drop_threshold(key->p), (float)(1.0 / (1.0 - key->p))};
}

/* The same as hn_dropout_read, at the start of a kernel. */
static __device__ __forceinline__ hn_dropout_now hn_dropout_begin(const hn_dropout_launch &d)
{
    hn_dropout_now now;
    now.rng = hn_rng_make(d.state->seed, d.state->step, d.op_hash);
    now.row0 = (uint64_t)d.state->row_offset;
    now.threshold = d.threshold;
    now.scale = d.scale;
    return now;
}

/* mask' of columns 4 * block .. 4 * block + 3 of a row: scale where kept, else 0. */
static __device__ __forceinline__ void hn_dropout_mask4(const hn_dropout_now &d, int64_t row,
                                                        int64_t block, float mask[4])
{
    uint32_t word[4];
    hn_rng_block(d.rng, d.row0 + (uint64_t)row, (uint32_t)block, word);
#pragma unroll
    for (int j = 0; j < 4; j++) mask[j] = word[j] >= d.threshold ? d.scale : 0.0f;
}
#endif
