/* op_util.h - what several rows of the registry say in the same words. */
#ifndef HN_OP_UTIL_H
#define HN_OP_UTIL_H
#include "runtime/base/rng.h"
#include "runtime/graph/op.h"

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

/* What random operations read of the step block. */
static inline hn_rng_state hn_rng_state_of(const hn_exec *x)
{
    const hn_step_block none = {0}, *s = x->step ? x->step : &none;
    return (hn_rng_state){s->seed, s->step, s->row_offset};
}

#endif
