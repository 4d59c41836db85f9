/* schedule.h - the learning rate of a step. */
#ifndef HN_SCHEDULE_H
#define HN_SCHEDULE_H
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { HN_SCHEDULE_CONSTANT, HN_SCHEDULE_LINEAR, HN_SCHEDULE_COSINE } hn_schedule_kind;

typedef struct {
    hn_schedule_kind kind;
    double lr, min_lr;
    int64_t warmup, steps;
} hn_schedule;

/* "constant", "linear" or "cosine". Errors: HN_ERR_ARG */
HN_NODISCARD hn_status hn_schedule_kind_of(const char *name, hn_schedule_kind *out);

/* Rate of step i (from 0), as in Transformers' get_*_schedule_with_warmup:
 *   i < warmup   lr * i / warmup
 *   constant     lr
 *   linear       min + (lr - min) * (steps - i) / (steps - warmup)
 *   cosine       min + (lr - min) * (1 + cos(pi * (i - warmup) / (steps - warmup))) / 2
 * so the first step of a warm-up has rate 0. */
double hn_schedule_lr(const hn_schedule *s, int64_t i);

#ifdef __cplusplus
}
#endif
#endif
