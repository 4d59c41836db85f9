/* The search for a product's fastest algorithm: all that the library suggests, with and without a
 * workspace, run in turn on random operands that come from memory, as in a training step, where
 * other kernels have been through the L2 cache. In turn, because clocks drift with the load: each
 * round times every algorithm once, and the medians over the rounds are compared. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/linear/cuda_gemm_plan.h"
#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/base/cuda_math.h"
#include "runtime/base/rng.h"

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1ll << 16; /* blocks loop over what is left */
constexpr int kAsked = 32;                /* algorithms asked for, with and without workspace */
constexpr int kMost = 1 + 2 * kAsked;     /* and the plan before */
constexpr int kSift = 3;                  /* rounds of all, before the slow ones go ... */
constexpr double kSlow = 1.25;            /* ... that take so many times as long as the best */
constexpr int kRounds = 15;               /* in all */
constexpr double kSeconds = 3;            /* or less, when they take so long */
constexpr double kWorth = 0.99;           /* share of the time before that is worth a change */
constexpr size_t kAlign = 256;

/* ---- operands ---- */

/* Normal numbers by Box and Muller, four elements (one Philox block) a thread. */
template <class T>
__global__ void __launch_bounds__(kThreads)
    fill_kernel(T *p, int64_t n, uint64_t name, float deviation)
{
    const hn_rng r = hn_rng_make(1, 0, name);
    for (int64_t q = (int64_t)blockIdx.x * kThreads + threadIdx.x; q < (n + 3) / 4;
         q += (int64_t)gridDim.x * kThreads) {
        uint32_t w[4];
        hn_rng_block(r, (uint64_t)q, 0, w);
        for (int j = 0; j < 4; j++) {
            const float u = ((float)(w[j / 2 * 2] >> 8) + 1.0f) * 0x1p-24f;
            const float v = (float)(w[j / 2 * 2 + 1] >> 8) * 0x1p-23f; /* turns, in halves */
            const float radius = deviation * sqrtf(-2.0f * logf(u));
            if (4 * q + j < n)
                p[4 * q + j] = hn_round<T>(radius * (j % 2 == 0 ? cospif(v) : sinpif(v)));
        }
    }
}

/* *differ = 1 when x and y are not the same words; every writer writes the same. */
__global__ void __launch_bounds__(kThreads)
    compare_kernel(const uint32_t *x, const uint32_t *y, int64_t n, int *differ)
{
    for (int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * kThreads)
        if (x[i] != y[i]) *differ = 1;
}

/* One matrix, or a batch of them. */
struct Region {
    int64_t elements, align;
    hn_dtype dtype;
    size_t at, bytes; /* in the memory: the first element lies align % 16 bytes behind `at` */
};

Region region(hn_dtype dtype, int64_t batch, int64_t stride, int64_t rows, int64_t cols, int64_t ld,
              int64_t align)
{
    Region r = {};
    r.elements = (batch - 1) * stride + (rows - 1) * ld + cols;
    r.align = align, r.dtype = dtype;
    r.bytes = (size_t)r.elements * hn_dtype_size(dtype) + 16;
    r.bytes = (r.bytes + kAlign - 1) / kAlign * kAlign;
    return r;
}

enum { A, B, C0, BIAS, C, AGAIN, FLUSH, DIFFER, N_REGIONS };

struct Operands {
    unsigned char *memory;
    Region r[N_REGIONS];

    void *data(int i) const { return memory + r[i].at + r[i].align % 16; }
};

/* Region without a matrix. */
Region bytes_of(size_t n)
{
    Region r = {};
    r.align = 16, r.bytes = (n + kAlign - 1) / kAlign * kAlign;
    return r;
}

size_t lay_out(const hn_gemm_key *k, size_t flush, Operands *o)
{
    const hn_dtype t = (hn_dtype)k->dtype, c = (hn_dtype)k->c_dtype;
    o->r[A] = region(t, k->batch, k->a_stride, k->trans_a ? k->k : k->m, k->trans_a ? k->m : k->k,
                     k->ld_a, k->align_a);
    o->r[B] = region(t, k->batch, k->b_stride, k->trans_b ? k->n : k->k, k->trans_b ? k->k : k->n,
                     k->ld_b, k->align_b);
    if (k->adds) o->r[C0] = region(c, k->batch, k->c0_stride, k->m, k->n, k->ld_c0, k->align_c0);
    if (k->bias) o->r[BIAS] = region(c, k->batch, k->bias_stride, 1, k->n, k->n, k->align_bias);
    o->r[C] = o->r[AGAIN] = region(c, k->batch, k->c_stride, k->m, k->n, k->ld_c, k->align_c);
    o->r[FLUSH] = bytes_of(flush);
    o->r[DIFFER] = bytes_of(sizeof(int));
    size_t total = 0;
    for (Region &r : o->r) {
        r.at = total;
        total += r.bytes;
    }
    return total;
}

template <class T>
void fill(const Operands *o, int i, float deviation, cudaStream_t stream)
{
    const int64_t n = o->r[i].elements;
    fill_kernel<T><<<hn_grid((n + 3) / 4, kThreads, kMaxBlocks), kThreads, 0, stream>>>(
        static_cast<T *>(o->data(i)), n, (uint64_t)i, deviation);
}

hn_status take_operands(const hn_gemm_key *k, hn_stream stream, Operands *o)
{
    int device = 0, l2 = 0;
    HN_TRY(HN_CUDA(cudaGetDevice(&device)));
    HN_TRY(HN_CUDA(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, device)));
    const size_t total = lay_out(k, 2 * (size_t)l2 + 1, o);
    HN_TRY(HN_CUDA(cudaMalloc(reinterpret_cast<void **>(&o->memory), total)));
    for (const int i : {A, B, C0, BIAS}) {
        const float deviation = i == B ? 0.02f : 1.0f; /* a weight, and activations */
        if (o->r[i].elements > 0) HN_CUDA_REAL(o->r[i].dtype, T, fill<T>(o, i, deviation, stream));
    }
    return HN_CUDA_LAUNCHED("gemm_tune: fill");
}

/* ---- algorithms ---- */

struct Candidate {
    cublasLtMatmulAlgo_t algo;
    cudaEvent_t begin, end;
    float ms[kRounds];
    double median;
    bool alive;
};

struct Search {
    const hn_gemm_cuda *g;
    hn_gemm_plan *plan;
    hn_stream stream;
    Operands o;
    Candidate c[kMost];
    int n, rounds;
};

void add_candidate(Search *s, const cublasLtMatmulAlgo_t *algo)
{
    for (int i = 0; i < s->n; i++)
        if (memcmp(&s->c[i].algo, algo, sizeof *algo) == 0) return;
    if (s->n == kMost || !hn_gemm_is_ordered(s->g, algo)) return;
    s->c[s->n].algo = *algo;
    s->c[s->n++].alive = true;
}

/* The plan as it is first, then what the library suggests. */
hn_status gather(Search *s)
{
    add_candidate(s, &s->plan->algo);
    for (const size_t workspace : {s->g->workspace_bytes, (size_t)0}) {
        cublasLtMatmulHeuristicResult_t result[kAsked];
        int found = 0;
        HN_TRY(hn_gemm_candidates(s->g, s->plan, workspace, kAsked, result, &found));
        for (int i = 0; i < found; i++) add_candidate(s, &result[i].algo);
    }
    for (int i = 0; i < s->n; i++) {
        HN_TRY(HN_CUDA(cudaEventCreate(&s->c[i].begin)));
        HN_TRY(HN_CUDA(cudaEventCreate(&s->c[i].end)));
    }
    return HN_OK;
}

/* False when the library does not run the algorithm after all. */
bool launch(const Search *s, const Candidate *c, int to)
{
    const hn_gemm_plan *const p = s->plan;
    const Operands *const o = &s->o;
    const float alpha = 1.0f, beta = p->key.adds ? 1.0f : 0.0f;
    const void *const c0 = p->key.adds ? o->data(C0) : o->data(to);
    const cublasStatus_t st = s->g->lt.Matmul(
        s->g->handle, p->desc, &alpha, o->data(B), p->a, o->data(A), p->b, &beta, c0, p->c0,
        o->data(to), p->c, &c->algo, s->g->workspace, s->g->workspace_bytes, s->stream);
    if (st == CUBLAS_STATUS_SUCCESS) return true;
    (void)cudaGetLastError(); /* must not surface again at the next check */
    return false;
}

/* Two launches must write the same bits, whatever the library says. */
hn_status check_repeats(Search *s, Candidate *c)
{
    const Operands *const o = &s->o;
    const int64_t words = (int64_t)(o->r[C].bytes / sizeof(uint32_t));
    int *const differ = static_cast<int *>(o->data(DIFFER));
    int differs = 0;
    for (const int to : {C, AGAIN}) {
        HN_TRY(HN_CUDA(cudaMemsetAsync(o->memory + o->r[to].at, 0xff, o->r[to].bytes, s->stream)));
        c->alive = c->alive && launch(s, c, to);
    }
    if (!c->alive) return HN_OK;
    HN_TRY(HN_CUDA(cudaMemsetAsync(differ, 0, sizeof *differ, s->stream)));
    compare_kernel<<<hn_grid(words, kThreads, kMaxBlocks), kThreads, 0, s->stream>>>(
        reinterpret_cast<const uint32_t *>(o->memory + o->r[C].at),
        reinterpret_cast<const uint32_t *>(o->memory + o->r[AGAIN].at), words, differ);
    HN_TRY(HN_CUDA_LAUNCHED("gemm_tune: compare"));
    HN_TRY(HN_CUDA(
        cudaMemcpyAsync(&differs, differ, sizeof differs, cudaMemcpyDeviceToHost, s->stream)));
    HN_TRY(HN_CUDA(cudaStreamSynchronize(s->stream)));
    c->alive = differs == 0;
    return HN_OK;
}

/* Times every algorithm that is left once. The host is ahead of the GPU all the time: what is
 * written over the L2 cache takes longer than a launch. */
hn_status time_round(Search *s)
{
    const Operands *const o = &s->o;
    for (int i = 0; i < s->n; i++) {
        Candidate *const c = &s->c[i];
        if (!c->alive) continue;
        HN_TRY(HN_CUDA(
            cudaMemsetAsync(o->memory + o->r[FLUSH].at, s->rounds, o->r[FLUSH].bytes, s->stream)));
        HN_TRY(HN_CUDA(cudaEventRecord(c->begin, s->stream)));
        c->alive = launch(s, c, C);
        HN_TRY(HN_CUDA(cudaEventRecord(c->end, s->stream)));
    }
    HN_TRY(HN_CUDA(cudaStreamSynchronize(s->stream)));
    for (int i = 0; i < s->n; i++) {
        Candidate *const c = &s->c[i];
        if (c->alive) HN_TRY(HN_CUDA(cudaEventElapsedTime(&c->ms[s->rounds], c->begin, c->end)));
    }
    s->rounds++;
    return HN_OK;
}

int by_size(const void *a, const void *b)
{
    const float x = *static_cast<const float *>(a), y = *static_cast<const float *>(b);
    return (x > y) - (x < y);
}

/* Sorts the times so far: their order does not matter. */
void find_medians(Search *s)
{
    for (int i = 0; i < s->n; i++) {
        Candidate *const c = &s->c[i];
        if (!c->alive) continue;
        qsort(c->ms, (size_t)s->rounds, sizeof *c->ms, by_size);
        c->median = (double)c->ms[s->rounds / 2];
    }
}

/* NULL when none is left. */
const Candidate *best_of(const Search *s)
{
    const Candidate *best = nullptr;
    for (int i = 0; i < s->n; i++)
        if (s->c[i].alive && (best == nullptr || s->c[i].median < best->median)) best = &s->c[i];
    return best;
}

/* The plan before stays to the end: gains are told against it. */
void drop_slow(Search *s)
{
    find_medians(s);
    const Candidate *const best = best_of(s);
    for (int i = 1; best != nullptr && i < s->n; i++)
        s->c[i].alive = s->c[i].alive && s->c[i].median <= kSlow * best->median;
}

hn_status time_all(Search *s)
{
    const int64_t start = hn_clock_ns();
    HN_TRY(time_round(s)); /* loads kernels, warms up */
    s->rounds = 0;
    while (s->rounds < kSift) HN_TRY(time_round(s));
    drop_slow(s);
    while (s->rounds < kRounds && 1e-9 * (double)(hn_clock_ns() - start) < kSeconds)
        HN_TRY(time_round(s));
    find_medians(s);
    return HN_OK;
}

hn_status search(Search *s, hn_gemm_cuda_tuned *out)
{
    const hn_gemm_key *const k = &s->plan->key;
    HN_TRY(take_operands(k, s->stream, &s->o));
    if (k->bias) {
        const void *const bias = s->o.data(BIAS);
        HN_TRY(HN_LT(s->g, MatmulDescSetAttribute(s->plan->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                                  &bias, sizeof bias)));
    }
    HN_TRY(gather(s));
    for (int i = 0; i < s->n; i++) HN_TRY(check_repeats(s, &s->c[i]));
    for (int i = 0; i < s->n; i++) out->tried += s->c[i].alive;
    if (out->tried == 0) return HN_OK;
    HN_TRY(time_all(s));
    const Candidate *const first = &s->c[0], *best = best_of(s);
    if (best == nullptr) return HN_OK;
    if (first->alive && best->median > kWorth * first->median) best = first;
    out->best_us = 1e3 * best->median;
    out->first_us = first->alive ? 1e3 * first->median : out->best_us;
    if (best == first) return HN_OK;
    s->plan->algo = best->algo;
    s->plan->offered = false;
    return HN_OK;
}

} // namespace

hn_status hn_gemm_cuda_tune(hn_gemm_cuda *g, int64_t i, hn_stream stream, hn_gemm_cuda_tuned *out)
{
    if (i < 0 || i >= g->n_plans)
        return HN_FAIL(HN_ERR_ARG, "product %lld of %lld", (long long)i, (long long)g->n_plans);
    if (g->workspace == nullptr) return HN_FAIL(HN_ERR_ARG, "gemm: workspace is NULL");
    hn_gemm_plan *const p = &g->plans[i];
    const hn_gemm_key *const k = &p->key;
    *out = hn_gemm_cuda_tuned();
    out->m = k->m, out->n = k->n, out->k = k->k, out->batch = k->batch, out->sms = k->sms;
    out->trans_a = k->trans_a, out->trans_b = k->trans_b, out->bias = k->bias, out->adds = k->adds;
    out->dtype = (hn_dtype)k->dtype, out->c_dtype = (hn_dtype)k->c_dtype, out->calls = p->calls;
    if (p->plain) return HN_OK;
    Search *const s = static_cast<Search *>(hn_calloc(1, sizeof *s));
    if (s == nullptr) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a search", sizeof *s);
    s->g = g, s->plan = p, s->stream = stream;
    hn_status st = search(s, out);
    (void)cudaStreamSynchronize(stream); /* an error of it has been told before */
    for (const Candidate &c : s->c)
        for (cudaEvent_t e : {c.begin, c.end})
            if (e != nullptr) (void)cudaEventDestroy(e);
    (void)cudaFree(s->o.memory);
    hn_free(s);
    char text[HN_GEMM_KEY_TEXT];
    if (st != HN_OK)
        st = HN_FAIL(st, "search for product %s: %s", hn_gemm_key_text(k, text), hn_last_text());
    return st;
}
