/* class_ce_sums.h - the sums of a replica on the CPU. For the sources of this folder only. */
#ifndef HN_CLASS_CE_SUMS_H
#define HN_CLASS_CE_SUMS_H
#include "kernels/loss/class_ce.h"

typedef struct {
    double loss;
    int64_t trained, hits;
} hn_class_sums;

/* Adds them to those of the call, and begins anew. */
static inline void hn_class_add_sums_(const hn_class_ce_args *a, int64_t replica, hn_class_sums *s)
{
    if (a->loss_sum) a->loss_sum[replica] = (float)((double)a->loss_sum[replica] + s->loss);
    if (a->count) a->count[replica > 0 ? replica * a->count_stride : 0] += (float)s->trained;
    if (a->hits) a->hits[replica] += (float)s->hits;
    *s = (hn_class_sums){0, 0, 0};
}
#endif
