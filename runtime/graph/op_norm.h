/* op_norm.h - what the rows of the norms say in the same words. */
#ifndef HN_OP_NORM_H
#define HN_OP_NORM_H
#include "runtime/graph/op_util.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A gain or bias for n columns, f32 or bf16. */
static inline bool hn_norm_is_param(const hn_tensor *t, int64_t n)
{
    return hn_is_real(&t->type) && t->type.ndim == 1 && t->type.dim[0] == n;
}

/* n f32 values: statistics, running values, gradients of parameters. Absent ones fit. */
static inline bool hn_norm_is_f32(const hn_tensor *t, int64_t n)
{
    return t == NULL || (t->type.dtype == HN_F32 && hn_type_elements(&t->type) == n);
}

/* Replicas of the first of up to three parameters or gradients that has some. */
static inline int64_t hn_norm_replicas(const hn_tensor *a, const hn_tensor *b, const hn_tensor *c)
{
    const int64_t of_a = hn_replicas_of(a), of_b = hn_replicas_of(b);
    return of_a ? of_a : of_b ? of_b : hn_replicas_of(c);
}

static inline void *hn_norm_data(const hn_tensor *t) { return t ? t->data : NULL; }
static inline int64_t hn_norm_ld(const hn_tensor *t) { return t ? hn_type_ld(&t->type) : 0; }
static inline int64_t hn_norm_stride(const hn_tensor *t) { return t ? hn_replica_stride(t) : 0; }

#ifdef __cplusplus
}
#endif
#endif
