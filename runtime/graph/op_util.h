/* op_util.h - what several rows of the registry say in the same words. */
#ifndef HN_OP_UTIL_H
#define HN_OP_UTIL_H
#include <assert.h>
#include <stddef.h>

#include "runtime/base/rng.h"
#include "runtime/graph/op.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The replica count of a node's parameters: 0 when none has a replica axis. */
static inline int64_t hn_replicas_of(const hn_tensor *t)
{
    return t != NULL && t->type.replicas > 1 ? t->type.replicas : 0;
}

/* f32 or bf16. */
static inline bool hn_is_real(const hn_type *t)
{
    return t->dtype == HN_F32 || t->dtype == HN_BF16;
}

/* A matrix of the dtype of `like`, f32 or bf16. */
static inline bool hn_is_matrix(const hn_type *t, const hn_type *like)
{
    return hn_is_real(t) && t->dtype == like->dtype && t->ndim >= 2;
}

/* The axes and dtype of x, rows without gaps but that the pitch is rounded up to 16 bytes, as that
 * of hn_type_2d. */
static inline hn_type hn_type_fresh(const hn_type *x)
{
    const int64_t step = 16 / (int64_t)hn_dtype_size(x->dtype), cols = hn_type_cols(x);
    hn_type y = *x;
    y.pitch = (cols + step - 1) / step * step;
    y.tail = 0;
    y.replicas = 0;
    return y;
}

/* Channels-last images, f32 or bf16: [n, h, w, c]. */
static inline bool hn_is_image(const hn_type *t) { return hn_is_real(t) && t->ndim == 4; }

static inline hn_type hn_type_image(hn_dtype dtype, int64_t n, int64_t h, int64_t w, int64_t c)
{
    hn_type t = hn_type_2d(dtype, n * h * w, c);
    t.ndim = 4;
    t.dim[0] = n;
    t.dim[1] = h;
    t.dim[2] = w;
    t.dim[3] = c;
    return t;
}

/* Channels-last volumes, f32 or bf16: [n, d, h, w, c]. */
static inline bool hn_is_volume(const hn_type *t) { return hn_is_real(t) && t->ndim == 5; }

static inline hn_type hn_type_volume(hn_dtype dtype, int64_t n, int64_t d, int64_t h, int64_t w,
                                     int64_t c)
{
    hn_type t = hn_type_2d(dtype, n * d * h * w, c);
    t.ndim = 5;
    t.dim[0] = n;
    t.dim[1] = d;
    t.dim[2] = h;
    t.dim[3] = w;
    t.dim[4] = c;
    return t;
}

/* Bytes from the start of a tensor's root to the tensor. */
static inline size_t hn_place_in_root(const hn_tensor *t, const hn_tensor **root)
{
    size_t at = 0;
    for (; t->base != NULL; t = t->base) at += t->offset;
    *root = t;
    return at;
}

/* Whether row 0 of t begins `elements` behind row 0 of w, in one tensor with one pitch. */
static inline bool hn_lies_behind(const hn_tensor *w, const hn_tensor *t, int64_t elements)
{
    const hn_tensor *root_w, *root_t;
    const size_t at_w = hn_place_in_root(w, &root_w), at_t = hn_place_in_root(t, &root_t);
    return root_w == root_t && hn_type_ld(&w->type) == hn_type_ld(&t->type) &&
           at_t == at_w + (size_t)elements * hn_dtype_size(w->type.dtype);
}

static_assert(offsetof(hn_step_block, seed) == offsetof(hn_rng_state, seed) &&
                  offsetof(hn_step_block, step) == offsetof(hn_rng_state, step) &&
                  offsetof(hn_step_block, row_offset) == offsetof(hn_rng_state, row_offset),
              "a step block begins like the state of random operations");

/* What random operations read of the step block, in *state; NULL when the run has none, which
 * the operations refuse. On a GPU they read the head of the block itself, when they run. */
static inline const hn_rng_state *hn_rng_state_of(const hn_exec *x, hn_rng_state *state)
{
    if (x->step == NULL) return NULL;
    if (x->device == HN_DEVICE_CUDA) return (const hn_rng_state *)(const void *)x->step;
    state->seed = x->step->seed;
    state->step = x->step->step;
    state->row_offset = x->step->row_offset;
    return state;
}

/* Of an operation whose random rows are those of the whole batch: replicas count their own. */
static inline hn_status hn_check_random_rows(const hn_tensor *x)
{
    return hn_program_replicas(x->program) > 1
               ? HN_FAIL(HN_ERR_UNSUPPORTED, "dropout in a program with replicas")
               : HN_OK;
}

#ifdef __cplusplus
}
#endif
#endif
