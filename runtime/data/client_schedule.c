#include "runtime/data/client_schedule.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>

#include "runtime/base/alloc.h"
#include "runtime/data/partition_impl.h"

static hn_status check(const hn_fed_schedule *s)
{
    if (s->clients < 1)
        return HN_FAIL(HN_ERR_ARG, "option clients is %" PRId64 ", at least 1", s->clients);
    if (s->per_round < 1 || s->per_round > s->clients)
        return HN_FAIL(HN_ERR_ARG, "option per_round is %" PRId64 ": 1 to %" PRId64 " clients",
                       s->per_round, s->clients);
    if (!(s->dropout >= 0 && s->dropout < 1))
        return HN_FAIL(HN_ERR_ARG, "option dropout is %g: at least 0 and below 1", s->dropout);
    if (!(s->late >= 0 && s->late < 1))
        return HN_FAIL(HN_ERR_ARG, "option late is %g: at least 0 and below 1", s->late);
    if (s->late > 0 && !(s->late_least > 0 && s->late_least <= 1))
        return HN_FAIL(HN_ERR_ARG, "option late_least is %g: above 0 and at most 1", s->late_least);
    return HN_OK;
}

/* A client's fate does not depend on who else is asked. */
static hn_fed_call call_of(const hn_fed_schedule *s, int64_t round, int64_t client)
{
    const hn_rng rng = hn_rng_make(s->seed, (uint64_t)round, hn_hash_name("fed client's fate"));
    hn_fed_call c = {.client = client, .fate = HN_FED_WORKS, .share = 1};
    if (hn_unit_draw(rng, (uint64_t)client, 0) < s->dropout) {
        c.fate = HN_FED_DROPS;
        c.share = 0;
    } else if (hn_unit_draw(rng, (uint64_t)client, 1) < s->late) {
        c.fate = HN_FED_LATE;
        c.share = s->late_least + (1 - s->late_least) * hn_unit_draw(rng, (uint64_t)client, 2);
    }
    return c;
}

static int ascending(const void *a, const void *b)
{
    const int64_t x = ((const hn_fed_call *)a)->client, y = ((const hn_fed_call *)b)->client;
    return (x > y) - (x < y);
}

hn_status hn_fed_schedule_round(const hn_fed_schedule *s, int64_t round, hn_fed_call *out)
{
    HN_TRY(check(s));
    int64_t *id = hn_malloc((size_t)s->clients * sizeof *id);
    if (id == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " clients", s->clients);
    const hn_rng rng = hn_rng_make(s->seed, (uint64_t)round, hn_hash_name("fed clients"));
    for (int64_t i = 0; i < s->clients; i++) id[i] = i;
    for (int64_t i = 0; i < s->per_round; i++) { /* the first places of a shuffle */
        const int64_t j =
            i + (int64_t)hn_rng_below(rng, (uint64_t)i, 0, (uint64_t)(s->clients - i));
        const int64_t taken = id[j];
        id[j] = id[i];
        out[i] = call_of(s, round, taken);
    }
    qsort(out, (size_t)s->per_round, sizeof *out, ascending);
    hn_free(id);
    return HN_OK;
}
