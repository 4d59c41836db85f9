#include "runtime/train/schedule.h"

#include <math.h>
#include <string.h>

hn_status hn_schedule_kind_of(const char *name, hn_schedule_kind *out)
{
    static const char *const names[] = {"constant", "linear", "cosine"};
    for (int i = 0; i < 3; i++) {
        if (strcmp(name, names[i]) != 0) continue;
        *out = (hn_schedule_kind)i;
        return HN_OK;
    }
    return HN_FAIL(HN_ERR_ARG, "schedule '%s': constant, linear or cosine", name);
}

double hn_schedule_lr(const hn_schedule *s, int64_t i)
{
    if (i < s->warmup) return s->lr * (double)i / (double)s->warmup;
    if (s->kind == HN_SCHEDULE_CONSTANT) return s->lr;
    const int64_t span = s->steps > s->warmup ? s->steps - s->warmup : 1;
    double done = (double)(i - s->warmup) / (double)span;
    if (done > 1) done = 1;
    const double share =
        s->kind == HN_SCHEDULE_LINEAR ? 1 - done : 0.5 * (1 + cos(3.14159265358979323846 * done));
    return s->min_lr + (s->lr - s->min_lr) * share;
}
