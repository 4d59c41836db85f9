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
    double share; /* of the way down that is left */
    if (s->kind == HN_SCHEDULE_LINEAR)
        share = i < s->steps ? (double)(s->steps - i) / (double)span : 0;
    else
        share = 0.5 * (1 + cos(3.14159265358979323846 * (double)(i - s->warmup) / (double)span));
    if (s->kind == HN_SCHEDULE_COSINE && i >= s->warmup + span) share = 0;
    return s->min_lr + (s->lr - s->min_lr) * share;
}
