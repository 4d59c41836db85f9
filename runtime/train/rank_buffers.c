#include "runtime/train/rank_buffers.h"

#include <inttypes.h>

#include "runtime/base/alloc.h"

void hn_rank_buffers_drop(hn_run_state *s)
{
    hn_free(s->buffers);
    s->buffers = NULL;
    s->ranks = s->n_buffers = 0;
}

hn_status hn_rank_buffers_gather(hn_run_state *s, const hn_params *p, const hn_team *team)
{
    const int64_t n = hn_params_buffer_values(p), ranks = hn_team_size(team);
    float *own = NULL;
    hn_rank_buffers_drop(s);
    if (team->hub == NULL || n == 0) return HN_OK;
    HN_TRY(hn_params_get_buffers(p, &own));
    float *all = hn_malloc((size_t)(ranks * n) * sizeof *all);
    hn_status st = all ? hn_hub_gather(team->hub, own, (size_t)n * sizeof *own, all)
                       : HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " buffers of ranks", ranks * n);
    hn_free(own);
    if (st != HN_OK) {
        hn_free(all);
        return st;
    }
    s->buffers = all;
    s->ranks = ranks;
    s->n_buffers = n;
    return HN_OK;
}

/* Into the row of rank 0. */
static void average(hn_run_state *s, int64_t per_step)
{
    for (int64_t i = 0; i < s->n_buffers; i++) {
        double sum = 0, weight = 0;
        for (int64_t k = 0; k < s->ranks; k++) {
            const double of_rank = (double)hn_share_own((hn_share){k, s->ranks, per_step});
            sum += of_rank * (double)s->buffers[k * s->n_buffers + i];
            weight += of_rank;
        }
        s->buffers[i] = (float)(sum / weight);
    }
}

hn_status hn_rank_buffers_put(hn_run_state *s, const hn_params *p, const hn_team *team,
                              int64_t per_step)
{
    const float *own = s->buffers;
    if (own == NULL) return HN_OK;
    if (s->ranks == hn_team_size(team))
        own += team->ranks.rank * s->n_buffers;
    else
        average(s, per_step);
    const hn_status st = hn_params_put_buffers(p, own);
    hn_rank_buffers_drop(s);
    return st;
}
