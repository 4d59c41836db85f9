/* Engines of several ranks: what they sum, what they average, what has to be the same. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/save.h"
#include "runtime/graph/tensor.h"
#include "runtime/train/engine_impl.h"

static const hn_collectives *collectives(const hn_engine *e)
{
    return e->o.device && !e->o.alone ? hn_device_collectives(e->o.device) : NULL;
}

int64_t hn_engine_ranks(const hn_engine *e) { return collectives(e) ? collectives(e)->ranks : 1; }
int64_t hn_engine_rank(const hn_engine *e) { return collectives(e) ? collectives(e)->rank : 0; }

/* Gradients, and behind them the count, are one range (of each replica). */
hn_status hn_engine_sums(hn_engine *e, bool all, hn_tensor **out)
{
    const hn_flat *flat = hn_params_flat(e->params);
    if (all && e->sums == NULL && hn_engine_ranks(e) > 1)
        HN_TRY(hn_program_range(e->program, HN_MEM_GRAD, "sums over ranks", HN_F32, 0, flat->n + 1,
                                &e->sums));
    *out = all ? e->sums : flat->count;
    return HN_OK;
}

hn_status hn_engine_record_sums(hn_engine *e, hn_graph *g)
{
    hn_tensor *sums;
    if (hn_engine_ranks(e) == 1) return HN_OK;
    HN_TRY(hn_engine_sums(e, true, &sums));
    hn_tensor *const in[] = {sums, e->loss, e->stop};
    return hn_emit(g, HN_OP_ALL_REDUCE, "all_reduce", in, NULL, NULL);
}

hn_status hn_engine_record_shared(const hn_engine *e, hn_graph *g, hn_tensor *sums,
                                  hn_tensor *beside)
{
    hn_tensor *const in[] = {sums, beside, NULL};
    if (hn_engine_ranks(e) == 1) return HN_OK;
    return hn_emit(g, HN_OP_ALL_REDUCE, "all_reduce of what is gathered", in, NULL, NULL);
}

hn_status hn_engine_record_unshared(const hn_engine *e, hn_graph *g, hn_tensor *sums)
{
    return hn_engine_rank(e) > 0 ? hn_engine_record_zero(g, sums) : HN_OK;
}

void hn_engine_want_stop(hn_engine *e, bool stop) { e->want_stop = stop; }

/* ---- a base that ranks share ---- */

static hn_status idle(const hn_engine *e, const hn_graph *g)
{
    const hn_run_options o = {.step = e->step->data, .idle = true};
    return g != NULL && e->o.base_shares > 1 ? hn_graph_run(g, &o) : HN_OK;
}

hn_status hn_engine_idle_micro(hn_engine *e) { return idle(e, e->micro); }
hn_status hn_engine_idle_eval_batch(hn_engine *e) { return idle(e, e->eval); }
hn_status hn_engine_idle_probe(hn_engine *e) { return idle(e, e->probe); }

static hn_status check_shares(const hn_engine *e, const char *what, int shares)
{
    const int64_t ranks = hn_engine_ranks(e);
    if (shares <= 1 || shares == ranks) return HN_OK;
    return HN_FAIL(HN_ERR_ARG, "%s in %d shares, on %" PRId64 " ranks", what, shares, ranks);
}

hn_status hn_engine_check_shares(const hn_engine *e)
{
    HN_TRY(check_shares(e, "a base", e->o.base_shares));
    return check_shares(e, "optimizer state", e->o.train ? e->o.zero_ranks : 0);
}

/* ---- buffers ---- */

static hn_status average(hn_hub *hub, double weight, float *x, int64_t n)
{
    double *sum = hn_malloc((size_t)(n + 1) * sizeof *sum);
    if (sum == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of buffers", n);
    for (int64_t i = 0; i < n; i++) sum[i] = weight * (double)x[i];
    sum[n] = weight;
    hn_status st = hn_hub_sum_f64(hub, sum, n + 1);
    if (st == HN_OK && !(sum[n] > 0))
        st = HN_FAIL(HN_ERR_ARG, "buffers of ranks without micro-batches");
    for (int64_t i = 0; st == HN_OK && i < n; i++) x[i] = (float)(sum[i] / sum[n]);
    hn_free(sum);
    return st;
}

hn_status hn_engine_average_buffers(hn_engine *e, hn_hub *hub, int64_t micro_batches)
{
    float *buffers = NULL;
    if (hn_hub_size(hub) == 1) return HN_OK;
    HN_TRY(hn_params_get_buffers(e->params, &buffers));
    if (buffers == NULL) return HN_OK;
    hn_status st = average(hub, (double)micro_batches, buffers, hn_params_buffer_values(e->params));
    if (st == HN_OK) st = hn_params_put_buffers(e->params, buffers);
    hn_free(buffers);
    return st;
}

/* ---- the same values everywhere ---- */

enum { CHUNK = 8 << 20 }; /* bytes that are read at a time */

/* What is to be the same: the masters, or where each rank has a share of those, what graphs read.
 */
static hn_mem compared_class(const hn_engine *e)
{
    const hn_split *s = hn_params_split(e->params);
    return s && s->master ? HN_MEM_WORK : HN_MEM_TRAINED;
}

/* Of one replica, as a chain: digest = sha256(digest, sha256(chunk)). */
static hn_status digest_of(const hn_engine *e, int64_t replica, char *chunk,
                           char digest[HN_SHA256_HEX])
{
    size_t bytes;
    const char *at = hn_program_replica(e->program, compared_class(e), replica, &bytes);
    for (size_t done = 0; done < bytes; done += CHUNK) {
        const size_t n = bytes - done < CHUNK ? bytes - done : CHUNK;
        char pair[2 * HN_SHA256_HEX];
        HN_TRY(hn_device_read(hn_program_device(e->program), chunk, at + done, n));
        memcpy(pair, digest, HN_SHA256_HEX);
        HN_TRY(hn_sha256(chunk, n, pair + HN_SHA256_HEX));
        HN_TRY(hn_sha256(pair, sizeof pair, digest));
    }
    return HN_OK;
}

static hn_status digest_all(const hn_engine *e, char digest[HN_SHA256_HEX])
{
    char *chunk = hn_malloc(CHUNK);
    hn_status st = HN_OK;
    memset(digest, '0', HN_SHA256_HEX - 1);
    digest[HN_SHA256_HEX - 1] = '\0';
    if (chunk == NULL) return HN_FAIL(HN_ERR_MEMORY, "%d bytes for a digest", CHUNK);
    for (int64_t g = 0; g < e->o.replicas && st == HN_OK; g++) st = digest_of(e, g, chunk, digest);
    hn_free(chunk);
    return st;
}

static hn_status compare(hn_hub *hub, const char (*digest)[HN_SHA256_HEX])
{
    char which[128] = "";
    int others = 0;
    for (int r = 1; r < hn_hub_size(hub); r++) {
        const size_t at = strlen(which);
        if (memcmp(digest[r], digest[0], HN_SHA256_HEX) == 0) continue;
        others++;
        snprintf(which + at, sizeof which - at, "%s%d on %s", at > 0 ? ", " : "", r,
                 hn_hub_host(hub, r));
    }
    if (others == 0) return HN_OK;
    return HN_FAIL(HN_ERR_NUMERIC,
                   "trained values of %d of %d ranks are not those of rank 0 on %s: %s", others,
                   hn_hub_size(hub), hn_hub_host(hub, 0), which);
}

hn_status hn_engine_compare_ranks(hn_engine *e, hn_hub *hub)
{
    const size_t ranks = (size_t)hn_hub_size(hub);
    char mine[HN_SHA256_HEX];
    if (ranks == 1) return HN_OK;
    char(*all)[HN_SHA256_HEX] = hn_calloc(ranks, sizeof *all);
    if (all == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %zu digests", ranks);
    hn_status st = digest_all(e, mine);
    if (st == HN_OK) st = hn_hub_gather(hub, mine, sizeof mine, all);
    if (st == HN_OK) st = compare(hub, (const char(*)[HN_SHA256_HEX])all);
    hn_free(all);
    return st;
}
