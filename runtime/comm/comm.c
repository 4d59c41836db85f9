#include "runtime/comm/comm.h"

#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/comm/nccl_link.h"

struct hn_comm {
    hn_hub *hub;
    hn_device *device;
    hn_nccl *nccl; /* NULL: on the CPU, or alone */
    hn_collectives collectives;
    char text[64];
};

const hn_collectives *hn_comm_collectives(const hn_comm *c) { return &c->collectives; }

static const char *text_or_null(const char *text) { return text[0] != '\0' ? text : NULL; }

void hn_comm_hub_options(const hn_ranks *r, hn_hub_options *out)
{
    *out = (hn_hub_options){.rank = r->rank,
                            .size = r->size,
                            .host = text_or_null(r->host),
                            .job = text_or_null(r->job),
                            .secret = text_or_null(r->secret),
                            .address = text_or_null(r->address),
                            .file = text_or_null(r->file),
                            .listen_fd = r->listen_fd,
                            .local = r->local};
}

static int64_t copies_of(const hn_collective_span *s) { return s->copies > 1 ? s->copies : 1; }

/* ---- alone ---- */

static hn_status reduce_alone(void *context, const hn_collective_span *span, int n_spans,
                              hn_stream stream)
{
    (void)context, (void)span, (void)n_spans, (void)stream;
    return HN_OK;
}

static hn_status copy_alone(hn_comm *c, const void *from, void *to, size_t bytes)
{
    return from == to ? HN_OK : hn_device_copy(c->device, to, from, bytes);
}

static hn_status scatter_alone(void *context, float *from, float *to, int64_t n, hn_stream stream)
{
    (void)stream;
    return copy_alone(context, from, to, (size_t)n * sizeof *to);
}

static hn_status gather_alone(void *context, const void *from, void *to, size_t bytes,
                              hn_stream stream)
{
    (void)stream;
    return copy_alone(context, from, to, bytes);
}

/* ---- the CPU: sums of the hub ---- */

static hn_status reduce_cpu(void *context, const hn_collective_span *span, int n_spans,
                            hn_stream stream)
{
    hn_comm *c = context;
    (void)stream;
    for (int i = 0; i < n_spans; i++)
        for (int64_t k = 0; k < copies_of(&span[i]); k++)
            HN_TRY(hn_hub_sum_f32(c->hub, span[i].data + k * span[i].stride, span[i].n));
    return HN_OK;
}

static hn_status scatter_cpu(void *context, float *from, float *to, int64_t n, hn_stream stream)
{
    hn_comm *c = context;
    (void)stream;
    HN_TRY(hn_hub_sum_f32(c->hub, from, c->collectives.ranks * n));
    memmove(to, from + c->collectives.rank * n, (size_t)n * sizeof *to);
    return HN_OK;
}

static hn_status gather_cpu(void *context, const void *from, void *to, size_t bytes,
                            hn_stream stream)
{
    hn_comm *c = context;
    (void)stream;
    return hn_hub_gather(c->hub, from, bytes, to);
}

/* ---- GPUs: NCCL ---- */

/* A collective of NCCL that failed because somebody died says who. */
static hn_status explain(const hn_comm *c, hn_status st)
{
    const char *dead = hn_hub_dead(c->hub);
    return st == HN_OK || dead == NULL ? st : HN_FAIL(HN_ERR_COMM, "%s", dead);
}

static hn_status reduce_nccl(void *context, const hn_collective_span *span, int n_spans,
                             hn_stream stream)
{
    hn_comm *c = context;
    return explain(c, hn_nccl_all_reduce(c->nccl, span, n_spans, stream));
}

static hn_status scatter_nccl(void *context, float *from, float *to, int64_t n, hn_stream stream)
{
    hn_comm *c = context;
    return explain(c, hn_nccl_reduce_scatter(c->nccl, from, to, n, stream));
}

static hn_status gather_nccl(void *context, const void *from, void *to, size_t bytes,
                             hn_stream stream)
{
    hn_comm *c = context;
    return explain(c, hn_nccl_all_gather(c->nccl, from, to, bytes, stream));
}

static const char *check_nccl(void *context)
{
    const hn_comm *c = context;
    return hn_nccl_failure(c->nccl);
}

static void abort_nccl(void *context)
{
    const hn_comm *c = context;
    hn_nccl_abort(c->nccl);
}

/* ---- opening ---- */

/* What the ranks have to have in common, or not. */
typedef struct {
    int32_t kind, version; /* hn_device_kind; of NCCL, 0: it is missing, -1: nobody needs it */
    unsigned char gpu[HN_GPU_ID];
    char why[480]; /* it is missing */
} card;

static const char *kind_name(int32_t kind) { return kind == HN_DEVICE_CPU ? "the CPU" : "a GPU"; }

static hn_status compare_cards(const hn_hub *hub, const card *all)
{
    const int ranks = hn_hub_size(hub);
    for (int r = 0; r < ranks; r++) {
        const char *host = hn_hub_host(hub, r), *first = hn_hub_host(hub, 0);
        if (all[r].kind != all[0].kind)
            return HN_FAIL(HN_ERR_ARG, "rank %d on %s computes on %s, rank 0 on %s on %s", r, host,
                           kind_name(all[r].kind), first, kind_name(all[0].kind));
        if (all[r].kind != HN_DEVICE_CUDA) continue;
        if (all[r].version == 0)
            return HN_FAIL(HN_ERR_UNSUPPORTED, "rank %d on %s: %.*s", r, host,
                           (int)sizeof all[r].why - 1, all[r].why);
        if (all[r].version != all[0].version)
            return HN_FAIL(
                HN_ERR_UNSUPPORTED, "rank %d on %s has NCCL %d.%d.%d, rank 0 on %s has %d.%d.%d", r,
                host, all[r].version / 10000, all[r].version / 100 % 100, all[r].version % 100,
                first, all[0].version / 10000, all[0].version / 100 % 100, all[0].version % 100);
        for (int k = 0; k < r; k++)
            if (memcmp(all[k].gpu, all[r].gpu, HN_GPU_ID) == 0)
                return HN_FAIL(HN_ERR_ARG,
                               "ranks %d and %d on %s have the same GPU: one rank a GPU", k, r,
                               host);
    }
    return HN_OK;
}

/* A rank without NCCL tells the others why before it fails with them. */
static hn_status make_card(hn_comm *c, card *out)
{
    *out = (card){.kind = (int32_t)hn_device_kind_of(c->device)};
    if (out->kind == HN_DEVICE_CPU) return HN_OK;
    if (hn_nccl_open(&c->nccl) == HN_OK && hn_nccl_gpu(out->gpu) == HN_OK)
        out->version = hn_nccl_version(c->nccl);
    else
        snprintf(out->why, sizeof out->why, "%s", hn_last_text());
    return HN_OK;
}

static hn_status show_cards(hn_hub *hub, const card *mine)
{
    card *all = hn_calloc((size_t)hn_hub_size(hub), sizeof *all);
    if (all == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %d ranks", hn_hub_size(hub));
    hn_status st = hn_hub_gather(hub, mine, sizeof *mine, all);
    if (st == HN_OK) st = compare_cards(hub, all);
    hn_free(all);
    return st;
}

static hn_status meet(hn_comm *c)
{
    card mine;
    HN_TRY(make_card(c, &mine));
    return show_cards(c->hub, &mine);
}

hn_status hn_comm_check(hn_hub *hub, hn_device *d)
{
    card mine = {.kind = (int32_t)hn_device_kind_of(d), .version = -1};
    if (hn_hub_size(hub) == 1) return HN_OK;
    if (mine.kind == HN_DEVICE_CUDA) HN_TRY(hn_nccl_gpu(mine.gpu));
    return show_cards(hub, &mine);
}

/* NCCL connects and takes buffers when an algorithm first runs, and chooses one by size: all of
 * them now, up to the size from which on nothing changes. */
enum { LARGEST_WARM_UP = 1 << 24 }; /* floats */

static hn_status warm_up(hn_comm *c)
{
    void *x = NULL;
    HN_TRY(hn_device_alloc(c->device, LARGEST_WARM_UP * sizeof(float), &x));
    hn_status st = HN_OK;
    for (int64_t n = 1; n <= LARGEST_WARM_UP && st == HN_OK; n *= 8) {
        const hn_collective_span span = {.data = x, .n = n};
        st = reduce_nccl(c, &span, 1, hn_device_stream(c->device));
    }
    const size_t ranks = (size_t)c->collectives.ranks, rank = (size_t)c->collectives.rank;
    const size_t most = LARGEST_WARM_UP * sizeof(float) / ranks;
    for (size_t bytes = 256; bytes <= most && st == HN_OK; bytes *= 8)
        st = gather_nccl(c, (char *)x + rank * bytes, x, bytes, hn_device_stream(c->device));
    for (size_t n = 64; n * sizeof(float) <= most && st == HN_OK; n *= 8)
        st = scatter_nccl(c, x, (float *)x + rank * n, (int64_t)n, hn_device_stream(c->device));
    if (st == HN_OK) st = explain(c, hn_device_wait(c->device));
    hn_device_release(c->device, x);
    return st;
}

static hn_status join_nccl(hn_comm *c)
{
    unsigned char id[HN_NCCL_ID] = {0};
    size_t before, total;
    if (c->collectives.rank == 0) HN_TRY(hn_nccl_make_id(c->nccl, id));
    HN_TRY(hn_hub_share(c->hub, id, sizeof id, 0));
    HN_TRY(hn_device_memory(c->device, &before, &total));
    HN_TRY(hn_nccl_join(c->nccl, id, c->collectives.rank, c->collectives.ranks));
    const hn_hub_callbacks watch = {.check = check_nccl, .abort = abort_nccl, .context = c};
    hn_hub_watch(c->hub, &watch);
    HN_TRY(warm_up(c));
    return hn_device_count_taken(c->device, before);
}

static hn_status open_ranks(hn_comm *c)
{
    hn_collectives *t = &c->collectives;
    HN_TRY(meet(c));
    if (hn_device_kind_of(c->device) == HN_DEVICE_CPU) {
        snprintf(c->text, sizeof c->text, "hone in rank order");
        t->all_reduce = reduce_cpu;
        t->reduce_scatter = scatter_cpu;
        t->all_gather = gather_cpu;
        return HN_OK;
    }
    const int v = hn_nccl_version(c->nccl);
    snprintf(c->text, sizeof c->text, "NCCL %d.%d.%d", v / 10000, v / 100 % 100, v % 100);
    t->all_reduce = reduce_nccl;
    t->reduce_scatter = scatter_nccl;
    t->all_gather = gather_nccl;
    return join_nccl(c);
}

hn_status hn_comm_open(hn_hub *hub, hn_device *d, hn_comm **out)
{
    hn_comm *c = hn_calloc(1, sizeof *c);
    if (c == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for collectives", sizeof *c);
    c->hub = hub;
    c->device = d;
    c->collectives = (hn_collectives){.rank = hn_hub_rank(hub),
                                      .ranks = hn_hub_size(hub),
                                      .text = c->text,
                                      .context = c,
                                      .all_reduce = reduce_alone,
                                      .reduce_scatter = scatter_alone,
                                      .all_gather = gather_alone};
    const hn_status st = c->collectives.ranks > 1 ? open_ranks(c) : HN_OK;
    if (st != HN_OK) {
        hn_comm_close(c, false);
        return st;
    }
    if (c->collectives.ranks > 1) hn_device_set_collectives(d, &c->collectives);
    *out = c;
    return HN_OK;
}

/* A rank whose work is done may hold what another still reads: they wait for each other first. */
void hn_comm_close(hn_comm *c, bool together)
{
    if (c == NULL) return;
    if (c->nccl != NULL) {
        const bool orderly = together && hn_device_wait(c->device) == HN_OK &&
                             hn_hub_barrier(c->hub) == HN_OK && hn_hub_dead(c->hub) == NULL;
        hn_hub_watch(c->hub, NULL);
        hn_nccl_close(c->nccl, orderly);
    }
    if (hn_device_collectives(c->device) == &c->collectives)
        hn_device_set_collectives(c->device, NULL);
    hn_free(c);
}
