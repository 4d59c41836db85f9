#include "kernels/reduce/topk.h"

#include <inttypes.h>
#include <string.h>

#include "kernels/reduce/topk_key.h"
#include "runtime/base/check.h"

hn_status hn_topk_check(const hn_topk_args *a)
{
    HN_TRY(hn_check_pointer("topk", "args", a));
    HN_TRY(hn_check_pointer("topk", "x", a->x));
    if (a->n < 1 || a->n > INT32_MAX || a->k < 0 || a->k > a->n)
        return HN_FAIL(HN_ERR_SHAPE,
                       "topk: the %" PRId64 " largest of %" PRId64
                       " scores; must be 0 to all of at most 2^31 - 1",
                       a->k, a->n);
    return a->k > 0 ? hn_check_pointer("topk", "index", a->index) : HN_OK;
}

static uint32_t key_at(const hn_topk_args *a, int64_t i)
{
    uint32_t bits;
    memcpy(&bits, &a->x[i], sizeof bits);
    return hn_topk_key_(bits);
}

static int64_t count_from(const hn_topk_args *a, uint32_t least)
{
    int64_t n = 0;
    for (int64_t i = 0; i < a->n; i++) n += key_at(a, i) >= least;
    return n;
}

hn_status hn_topk_cpu(const hn_topk_args *a)
{
    HN_TRY(hn_topk_check(a));
    uint32_t least = 0; /* the largest key that k scores reach, bit by bit */
    for (uint32_t bit = 0x80000000u; bit > 0; bit >>= 1)
        if (count_from(a, least | bit) >= a->k) least |= bit;
    int64_t ties = a->k - (least < UINT32_MAX ? count_from(a, least + 1) : 0);
    for (int64_t i = 0, j = 0; j < a->k; i++) {
        const uint32_t key = key_at(a, i);
        if (key < least || (key == least && ties-- <= 0)) continue;
        a->index[j] = (int32_t)i;
        if (a->value) a->value[j] = a->x[i];
        j++;
    }
    return HN_OK;
}
