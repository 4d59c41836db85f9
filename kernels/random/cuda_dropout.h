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

/* The words of columns 8 * span .. 8 * span + 7 of a row: two Philox blocks that share the keys of
 * the rounds. Elements whose word is below the threshold are dropped. */
static __device__ __forceinline__ void hn_dropout_words8(const hn_dropout_now &d, int64_t row,
                                                         uint32_t span, uint32_t (&word)[8])
{
    const uint64_t at = d.row0 + (uint64_t)row;
    uint32_t k0 = d.rng.k0, k1 = d.rng.k1;
#pragma unroll
    for (uint32_t b = 0; b < 2; b++) {
        word[4 * b] = 2 * span + b;
        word[4 * b + 1] = (uint32_t)at;
        word[4 * b + 2] = (uint32_t)(at >> 32);
        word[4 * b + 3] = d.rng.step;
    }
#pragma unroll
    for (int round = 0; round < 10; round++) {
        hn_philox_round_(word, k0, k1);
        hn_philox_round_(word + 4, k0, k1);
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
}
#endif
