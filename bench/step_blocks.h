/* step_blocks.h - what hone-bench-step trains with --block: random blocks of the layers' weights,
 * in the place of adapters. The steps cost what those of hone-sparse do: which blocks they are does
 * not matter to the kernels, but how they lie does, and random ones lie worst. */
#ifndef HN_STEP_BLOCKS_H
#define HN_STEP_BLOCKS_H
#include "runtime/file/peft.h"
#include "runtime/train/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const hn_peft_config *layers; /* which layers; must outlive it */
    hn_block_shape shape;
} hn_step_blocks;

/* Blocks of these layers, and nothing else. The hook reads *b when it is asked. */
hn_adapt hn_step_blocks_hook(const hn_step_blocks *b);

/* Values that low-rank pairs of that rank on the layers have.
 * Errors: those of the job's declaration */
HN_NODISCARD hn_status hn_step_blocks_as_pairs(const hn_step_blocks *b, const hn_job *job,
                                               int64_t rank, int64_t *values);

/* A support of random blocks: every matrix its share. Errors: hn_sparse_select */
HN_NODISCARD hn_status hn_step_blocks_choose(hn_sparse *s, uint64_t seed);

#ifdef __cplusplus
}
#endif
#endif
