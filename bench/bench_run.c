/* How one operation is timed (bench.h says what is done). Memory comes in slabs that are cut up in
 * order and given back together; random numbers are copied from pools that are filled once. */
#include <cuda_runtime_api.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench/bench.h"
#include "runtime/base/alloc.h"
#include "runtime/base/cuda_check.h"
#include "runtime/base/rng.h"

enum {
    MAX_SLABS = 512,
    MAX_SETS = 1024,      /* of 100 KB together exceed twice the L2 of an H200 */
    MAX_CALLS = 2048,     /* in one graph */
    MAX_BATCHES = 1000,   /* events of one measurement */
    POOL = 1 << 22,       /* random numbers of a kind; copies start anywhere in a pool */
    POOL_STEP = 64,       /* on multiples of this many elements */
    SLAB_BYTES = 1 << 28, /* at least */
    ALIGN = 256,
};
static const double batch_us = 1000; /* the gap between two graph launches is a few us */
static const double warm_up_s = 0.1;

typedef struct {
    char *at;
    size_t bytes, used;
} slab;

struct hn_bench {
    hn_device *device;
    hn_bench_settings settings;
    void *pool[HN_FILL_POSITIVE + 1][2]; /* by fill; f32, bf16 */
    slab slabs[MAX_SLABS];
    int n_slabs;
    size_t bytes;  /* handed out since the last reset */
    uint64_t draw; /* counts what was drawn, so that no two arrays start alike */
    hn_dtype dtype;
    hn_status failed; /* of the first array that could not be had */
    char why[512];
    cudaEvent_t events[MAX_BATCHES + 1];
    int n_events;
};

/* ---- memory ---- */

static void note(hn_bench *b, hn_status st)
{
    if (st == HN_OK || b->failed != HN_OK) return;
    b->failed = st;
    snprintf(b->why, sizeof b->why, "%s", hn_last_text());
}

static void reset(hn_bench *b)
{
    for (int i = 0; i < b->n_slabs; i++) hn_device_release(b->device, b->slabs[i].at);
    b->n_slabs = 0;
    b->bytes = 0;
    b->failed = HN_OK;
}

static hn_status take(hn_bench *b, size_t bytes, void **out)
{
    const size_t need = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    slab *s = b->n_slabs > 0 ? &b->slabs[b->n_slabs - 1] : NULL;
    if (s == NULL || s->bytes - s->used < need) {
        void *at = NULL;
        if (b->n_slabs == MAX_SLABS)
            return HN_FAIL(HN_ERR_MEMORY, "the argument sets take more than %d slabs", MAX_SLABS);
        const size_t size = need > SLAB_BYTES ? need : SLAB_BYTES;
        HN_TRY(hn_device_alloc(b->device, size, &at));
        s = &b->slabs[b->n_slabs++];
        *s = (slab){.at = at, .bytes = size};
    }
    *out = s->at + s->used;
    s->used += need;
    b->bytes += need;
    return HN_OK;
}

static uint64_t draw(hn_bench *b)
{
    const hn_rng r = hn_rng_make(1, 0, hn_hash_name("arrays"));
    return hn_rng_u32(r, b->draw++, 0);
}

/* Elements of the pool in order, from anywhere, round and round. */
static hn_status copy_from_pool(hn_bench *b, const char *pool, char *to, int64_t n, size_t elem)
{
    int64_t from = (int64_t)(draw(b) % (POOL / POOL_STEP)) * POOL_STEP;
    for (int64_t done = 0; done < n;) {
        const int64_t part = n - done < POOL - from ? n - done : POOL - from;
        HN_TRY(HN_CUDA(cudaMemcpyAsync(to + (size_t)done * elem, pool + (size_t)from * elem,
                                       (size_t)part * elem, cudaMemcpyDeviceToDevice,
                                       hn_device_stream(b->device))));
        done += part;
        from = 0;
    }
    return HN_OK;
}

void *hn_bench_array(hn_bench *b, int64_t n, hn_dtype dtype, hn_bench_fill fill)
{
    void *p = NULL;
    const size_t elem = hn_dtype_size(dtype);
    hn_status st = take(b, (size_t)n * elem, &p);
    if (st == HN_OK && fill != HN_FILL_NONE)
        st = copy_from_pool(b, b->pool[fill][dtype == HN_BF16], p, n, elem);
    note(b, st);
    return st == HN_OK ? p : NULL;
}

void *hn_bench_scratch(hn_bench *b, size_t bytes)
{
    return bytes > 0 ? hn_bench_array(b, (int64_t)bytes, HN_U8, HN_FILL_NONE) : NULL;
}

void *hn_bench_upload(hn_bench *b, const void *host, size_t bytes)
{
    void *p = NULL;
    hn_status st = take(b, bytes, &p);
    if (st == HN_OK) st = hn_device_write(b->device, p, host, bytes);
    note(b, st);
    return st == HN_OK ? p : NULL;
}

typedef int32_t (*int_rule)(const hn_rng *r, int64_t i, int64_t parameter);

static int32_t *upload_ints(hn_bench *b, int64_t n, int_rule rule, int64_t parameter)
{
    const hn_rng r = hn_rng_make(2, b->draw++, hn_hash_name("integers"));
    int32_t *host = hn_malloc((size_t)n * sizeof *host), *p = NULL;
    if (host == NULL) {
        note(b, HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " integers", n));
        return NULL;
    }
    for (int64_t i = 0; i < n; i++) host[i] = rule(&r, i, parameter);
    p = hn_bench_upload(b, host, (size_t)n * sizeof *host);
    hn_free(host);
    return p;
}

static int32_t below(const hn_rng *r, int64_t i, int64_t limit)
{
    return (int32_t)hn_rng_below(*r, (uint64_t)i, 0, (uint64_t)limit);
}

static int32_t modulo(const hn_rng *r, int64_t i, int64_t length)
{
    (void)r;
    return (int32_t)(i % length);
}

static int32_t times(const hn_rng *r, int64_t i, int64_t length)
{
    (void)r;
    return (int32_t)(i * length);
}

int32_t *hn_bench_ids(hn_bench *b, int64_t n, int64_t limit)
{
    return upload_ints(b, n, below, limit);
}

int32_t *hn_bench_positions(hn_bench *b, int64_t n, int64_t length)
{
    return upload_ints(b, n, modulo, length);
}

int32_t *hn_bench_offsets(hn_bench *b, int64_t sequences, int64_t length)
{
    return upload_ints(b, sequences + 1, times, length);
}

hn_gemm_cuda *hn_bench_gemm(const hn_bench *b) { return hn_device_gemm(b->device); }
hn_attention_cudnn *hn_bench_attention(hn_bench *b)
{
    return hn_device_open_cudnn(b->device) == HN_OK ? hn_device_attention(b->device) : NULL;
}
hn_conv2d_cudnn *hn_bench_conv2d(hn_bench *b)
{
    return hn_device_open_cudnn(b->device) == HN_OK ? hn_device_conv2d(b->device) : NULL;
}
hn_stream hn_bench_stream(const hn_bench *b) { return hn_device_stream(b->device); }
hn_dtype hn_bench_dtype(const hn_bench *b) { return b->dtype; }
const hn_device *hn_bench_device(const hn_bench *b) { return b->device; }

/* ---- random pools ---- */

static float random_value(hn_bench_fill fill, const uint32_t w[4])
{
    if (fill == HN_FILL_POSITIVE) return 0.5f + hn_rng_unit(w[0]);
    const float u = 1.0f - hn_rng_unit(w[0]); /* in (0, 1]: its logarithm is finite */
    const float z = sqrtf(-2.0f * logf(u)) * cosf(6.2831853f * hn_rng_unit(w[1]));
    return fill == HN_FILL_WEIGHT ? 0.02f * z : z;
}

static hn_status fill_pool(hn_bench *b, hn_bench_fill fill, float *values, hn_bf16 *rounded)
{
    const hn_rng r = hn_rng_make((uint64_t)fill, 0, hn_hash_name("pool"));
#pragma omp parallel for
    for (int64_t i = 0; i < POOL; i++) {
        uint32_t w[4];
        hn_rng_block(r, (uint64_t)i, 0, w);
        values[i] = random_value(fill, w);
        rounded[i] = hn_bf16_from_f32(values[i]);
    }
    HN_TRY(hn_device_alloc(b->device, POOL * sizeof *values, &b->pool[fill][0]));
    HN_TRY(hn_device_alloc(b->device, POOL * sizeof *rounded, &b->pool[fill][1]));
    HN_TRY(hn_device_write(b->device, b->pool[fill][0], values, POOL * sizeof *values));
    return hn_device_write(b->device, b->pool[fill][1], rounded, POOL * sizeof *rounded);
}

static hn_status fill_pools(hn_bench *b)
{
    hn_status st = HN_OK;
    float *values = hn_malloc(POOL * sizeof *values);
    hn_bf16 *rounded = hn_malloc(POOL * sizeof *rounded);
    if (values == NULL || rounded == NULL) st = HN_FAIL(HN_ERR_MEMORY, "no memory for the pools");
    for (int f = HN_FILL_NORMAL; st == HN_OK && f <= HN_FILL_POSITIVE; f++)
        st = fill_pool(b, (hn_bench_fill)f, values, rounded);
    hn_free(values);
    hn_free(rounded);
    return st;
}

static hn_status open_into(hn_bench *b)
{
    HN_TRY(hn_device_open(b->settings.device, &b->device));
    if (hn_device_kind_of(b->device) != HN_DEVICE_CUDA)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "hone-bench times GPU kernels, and the device is: %s",
                       hn_device_text(b->device));
    HN_TRY(hn_device_take_workspace(b->device, HN_GEMM_WORKSPACE, true));
    for (; b->n_events <= MAX_BATCHES; b->n_events++)
        HN_TRY(HN_CUDA(cudaEventCreate(&b->events[b->n_events])));
    return fill_pools(b);
}

hn_status hn_bench_open(const hn_bench_settings *s, hn_bench **out)
{
    hn_bench *b = hn_calloc(1, sizeof *b);
    if (b == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for the harness", sizeof *b);
    b->settings = *s;
    const hn_status st = open_into(b);
    if (st != HN_OK)
        hn_bench_close(b);
    else
        *out = b;
    return st;
}

void hn_bench_close(hn_bench *b)
{
    if (b == NULL) return;
    if (b->device != NULL) {
        reset(b);
        for (int i = 0; i < b->n_events; i++) (void)cudaEventDestroy(b->events[i]);
        for (int f = 0; f <= HN_FILL_POSITIVE; f++)
            for (int t = 0; t < 2; t++)
                if (b->pool[f][t] != NULL) hn_device_release(b->device, b->pool[f][t]);
    }
    hn_device_close(b->device);
    hn_free(b);
}

/* ---- timing ---- */

typedef struct {
    hn_bench *b;
    const hn_bench_def *d;
    char *args; /* n_sets argument bundles */
    int64_t n_sets, calls;
    hn_device_graph *graph;
} timing;

static hn_status make_set(timing *t, const int64_t *shape)
{
    hn_bench *b = t->b;
    const hn_status st = t->d->setup(b, shape, t->args + (size_t)t->n_sets * t->d->args_size);
    if (b->failed != HN_OK) return HN_FAIL(b->failed, "%s", b->why);
    t->n_sets++;
    return st;
}

/* The first set says how many there are to be. */
static hn_status make_sets(timing *t, const int64_t *shape)
{
    int gpu = 0, l2 = 0;
    HN_TRY(HN_CUDA(cudaGetDevice(&gpu)));
    HN_TRY(HN_CUDA(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, gpu)));
    HN_TRY(make_set(t, shape));
    const double sets = ceil(2.0 * l2 / (double)(t->b->bytes > 0 ? t->b->bytes : 1));
    const int64_t wanted = sets < 2 ? 2 : sets > MAX_SETS ? MAX_SETS : (int64_t)sets;
    while (t->n_sets < wanted) HN_TRY(make_set(t, shape));
    return HN_OK;
}

static hn_status enqueue(const timing *t, int64_t calls)
{
    const hn_stream stream = hn_device_stream(t->b->device);
    for (int64_t i = 0; i < calls; i++)
        HN_TRY(t->d->run(t->args + (size_t)(i % t->n_sets) * t->d->args_size, stream));
    return HN_OK;
}

static hn_status record(const timing *t, int64_t event)
{
    return HN_CUDA(cudaEventRecord(t->b->events[event], hn_device_stream(t->b->device)));
}

static hn_status elapsed_us(const timing *t, int64_t from, int64_t to, double *us)
{
    float ms = 0;
    HN_TRY(HN_CUDA(cudaEventElapsedTime(&ms, t->b->events[from], t->b->events[to])));
    *us = 1e3 * (double)ms;
    return HN_OK;
}

/* The first round loads kernels and makes plans, the second says how long a call takes. */
static hn_status capture(timing *t, double *call_us)
{
    double us = 0;
    HN_TRY(enqueue(t, t->n_sets));
    HN_TRY(hn_device_wait(t->b->device));
    HN_TRY(record(t, 0));
    HN_TRY(enqueue(t, t->n_sets));
    HN_TRY(record(t, 1));
    HN_TRY(hn_device_wait(t->b->device));
    HN_TRY(elapsed_us(t, 0, 1, &us));
    *call_us = us / (double)t->n_sets;
    const double rounds = ceil(batch_us / (us > 0.1 ? us : 0.1));
    const int64_t most = MAX_CALLS / t->n_sets;
    t->calls = t->n_sets * (rounds < (double)most ? (int64_t)rounds : most);
    if (t->d->uncaptured) return HN_OK;
    HN_TRY(hn_device_capture_begin(t->b->device));
    const hn_status st = enqueue(t, t->calls);
    if (st == HN_OK) return hn_device_capture_end(t->b->device, &t->graph);
    (void)!hn_device_capture_end(t->b->device, NULL);
    return HN_FAIL(st, "in a captured graph: %s", hn_last_text());
}

static hn_status launch(const timing *t)
{
    return t->graph ? hn_device_launch(t->b->device, t->graph) : enqueue(t, t->calls);
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The q-quantile of sorted values, between neighbours in proportion. */
static double quantile(const double *v, int64_t n, double q)
{
    const double at = q * (double)(n - 1);
    const int64_t i = (int64_t)at;
    return i + 1 < n ? v[i] + (at - (double)i) * (v[i + 1] - v[i]) : v[i];
}

static hn_status measure(timing *t, double call_us, hn_bench_result *out)
{
    const hn_bench_settings *s = &t->b->settings;
    double us[MAX_BATCHES];
    const double one_us = call_us * (double)t->calls;
    const double wanted = fmax(ceil(s->seconds * 1e6 / one_us), (double)s->batches);
    const int64_t n = (int64_t)fmin(wanted, MAX_BATCHES);
    const double warm_ups = fmin(ceil(warm_up_s * 1e6 / one_us), MAX_BATCHES);
    for (int64_t i = 0; i < (int64_t)warm_ups; i++) HN_TRY(launch(t));
    HN_TRY(record(t, 0));
    for (int64_t i = 0; i < n; i++) {
        HN_TRY(launch(t));
        HN_TRY(record(t, i + 1));
    }
    HN_TRY(hn_device_wait(t->b->device));
    for (int64_t i = 0; i < n; i++) {
        HN_TRY(elapsed_us(t, i, i + 1, &us[i]));
        us[i] /= (double)t->calls;
    }
    qsort(us, (size_t)n, sizeof *us, by_size);
    out->us_p20 = quantile(us, n, 0.2);
    out->us_p50 = quantile(us, n, 0.5);
    out->us_p80 = quantile(us, n, 0.8);
    out->batches = n;
    out->calls = t->calls;
    out->sets = t->n_sets;
    return HN_OK;
}

void hn_bench_describe(const hn_bench_def *d, const int64_t *shape, hn_bench_result *r)
{
    *r = (hn_bench_result){0};
    snprintf(r->bench, sizeof r->bench, "%s", d->name);
    snprintf(r->dtype, sizeof r->dtype, "%s", hn_dtype_name(d->dtype));
    for (; r->n_axes < HN_BENCH_AXES && d->axes[r->n_axes] != NULL; r->n_axes++) {
        snprintf(r->axis[r->n_axes], sizeof r->axis[0], "%s", d->axes[r->n_axes]);
        r->size[r->n_axes] = shape[r->n_axes];
    }
}

static hn_status time_into(timing *t, const int64_t *shape, hn_bench_result *out)
{
    double call_us = 0;
    t->args = hn_calloc(MAX_SETS, t->d->args_size);
    if (t->args == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for argument sets");
    HN_TRY(make_sets(t, shape));
    HN_TRY(capture(t, &call_us));
    HN_TRY(measure(t, call_us, out));
    out->gb_s = t->d->bytes ? t->d->bytes(shape, t->d->dtype) / out->us_p50 * 1e-3 : 0;
    out->tflop_s = t->d->flops ? t->d->flops(shape) / out->us_p50 * 1e-6 : 0;
    return HN_OK;
}

hn_status hn_bench_time(hn_bench *b, const hn_bench_def *d, const int64_t *shape,
                        hn_bench_result *out)
{
    timing t = {.b = b, .d = d};
    b->dtype = d->dtype;
    hn_bench_describe(d, shape, out);
    const hn_status st = time_into(&t, shape, out);
    hn_device_graph_free(t.graph);
    hn_free(t.args);
    reset(b);
    return st;
}
