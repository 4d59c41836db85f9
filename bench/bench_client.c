#include <string.h>

#include "bench/bench.h"
#include "kernels/client/client_cnn.h"
#include "kernels/client/weighted_mean.h"
#include "runtime/base/alloc.h"

/* ---- client_cnn: clients steps / time is what is compared with bench/peer_clients.py ---- */

enum { CLIENTS, STEPS, BATCH };

enum { IMAGES = 10000, SIDE = 28, CLASSES = 10 };

/* The small CNN of MNIST. */
static const hn_client_cnn_net net = {.height = SIDE,
                                      .width = SIDE,
                                      .channels = 1,
                                      .steps = 2,
                                      .filters = {8, 16},
                                      .kernel = 3,
                                      .hidden = 64,
                                      .classes = CLASSES};

static void *upload_bytes(hn_bench *b, size_t n)
{
    uint8_t *host = hn_malloc(n);
    if (host == NULL) return NULL;
    for (size_t i = 0; i < n; i++) host[i] = (uint8_t)((uint32_t)i * 2654435761u >> 24);
    void *p = hn_bench_upload(b, host, n);
    hn_free(host);
    return p;
}

static void *upload_same(hn_bench *b, int64_t n, const void *value)
{
    uint32_t word, *host = hn_malloc((size_t)n * sizeof *host);
    if (host == NULL) return NULL;
    memcpy(&word, value, sizeof word);
    for (int64_t i = 0; i < n; i++) host[i] = word;
    void *p = hn_bench_upload(b, host, (size_t)n * sizeof *host);
    hn_free(host);
    return p;
}

static hn_status cnn_setup(hn_bench *b, const int64_t *s, void *args)
{
    hn_client_cnn_args *a = args;
    const float lr = 0.01f;
    const int32_t steps = (int32_t)s[STEPS], zero = 0;
    a->net = net;
    a->n = a->values_stride = hn_client_cnn_layout(&net, &a->at);
    a->clients = s[CLIENTS], a->steps = s[STEPS], a->batch = s[BATCH], a->count = IMAGES;
    a->start = hn_bench_array(b, a->n, HN_F32, HN_FILL_WEIGHT);
    a->values = hn_bench_array(b, a->clients * a->n, HN_F32, HN_FILL_NONE);
    a->images = upload_bytes(b, (size_t)IMAGES * SIDE * SIDE);
    a->labels = hn_bench_ids(b, IMAGES, CLASSES);
    a->rows = hn_bench_ids(b, a->clients * a->steps * a->batch, IMAGES);
    a->client_steps = upload_same(b, a->clients, &steps);
    a->loss_from = upload_same(b, a->clients, &zero);
    a->lr = upload_same(b, a->steps, &lr);
    a->loss = hn_bench_array(b, a->clients, HN_F32, HN_FILL_NONE);
    a->status = hn_bench_array(b, a->clients, HN_I32, HN_FILL_NONE);
    a->mean[0] = 0.1307f, a->std[0] = 0.3081f;
    return hn_client_cnn_check(a);
}

static hn_status cnn_run(const void *args, hn_stream stream)
{
    return hn_client_cnn_cuda(args, stream);
}

/* Images in, values out. */
static double cnn_bytes(const int64_t *s, hn_dtype t)
{
    hn_client_cnn_at at;
    return (double)s[CLIENTS] *
           ((double)(s[STEPS] * s[BATCH] * SIDE * SIDE) +
            (double)(hn_client_cnn_layout(&net, &at)) * 2.0 * (double)hn_dtype_size(t));
}

/* Multiply-adds of an image: forward all windows that a pool reads, backward the chosen pixels. */
static double cnn_flops(const int64_t *s)
{
    const double conv1 = 26.0 * 26 * 8 * 9, conv2 = 10.0 * 10 * 16 * 72;
    const double layers = 400.0 * 64 + 64.0 * CLASSES;
    const double image = conv1 * (1 + 0.25) + conv2 * (1 + 0.5) + 3 * layers;
    return 2 * image * (double)(s[CLIENTS] * s[STEPS] * s[BATCH]);
}

/* What is asked of it; one client for each multiprocessor of an H200; the next one waits. */
static const int64_t cnn_shapes[][HN_BENCH_AXES] = {
    {100, 20, 32}, {132, 20, 32}, {133, 20, 32}, {1000, 20, 32}, {132, 20, 10}};

const hn_bench_def hn_bench_client_cnn = {
    .name = "client_cnn",
    .dtype = HN_F32,
    .axes = {"clients", "steps", "batch"},
    HN_BENCH_SHAPES(cnn_shapes),
    .bytes = cnn_bytes,
    .flops = cnn_flops,
    .args_size = sizeof(hn_client_cnn_args),
    .setup = cnn_setup,
    .run = cnn_run,
};

/* ---- weighted_mean ---- */

enum { VALUES = 1 };

static hn_status mean_setup(hn_bench *b, const int64_t *s, void *args)
{
    hn_weighted_mean_args *a = args;
    double *const weight = hn_malloc((size_t)s[CLIENTS] * sizeof *weight);
    if (weight == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the weights");
    for (int64_t g = 0; g < s[CLIENTS]; g++) weight[g] = 1.0 / (double)s[CLIENTS];
    a->clients = s[CLIENTS], a->n = s[VALUES], a->stride = (s[VALUES] + 3) / 4 * 4;
    a->x = hn_bench_array(b, a->clients * a->stride, HN_F32, HN_FILL_NORMAL);
    a->base = hn_bench_array(b, a->n, HN_F32, HN_FILL_NORMAL);
    a->out = hn_bench_array(b, a->n, HN_F32, HN_FILL_NONE);
    a->weight = hn_bench_upload(b, weight, (size_t)s[CLIENTS] * sizeof *weight);
    hn_free(weight);
    return hn_weighted_mean_check(a);
}

static hn_status mean_run(const void *args, hn_stream stream)
{
    return hn_weighted_mean_cuda(args, stream);
}

static double mean_bytes(const int64_t *s, hn_dtype t)
{
    return (double)hn_dtype_size(t) * (double)s[VALUES] * (double)(s[CLIENTS] + 2);
}

/* The small CNN, the CNN of 1.17 M, ResNet-18. */
static const int64_t mean_shapes[][HN_BENCH_AXES] = {
    {100, 27564}, {1000, 27564}, {100, 1165248}, {10, 11173960}};

const hn_bench_def hn_bench_weighted_mean = {
    .name = "weighted_mean",
    .dtype = HN_F32,
    .axes = {"clients", "values"},
    HN_BENCH_SHAPES(mean_shapes),
    .bytes = mean_bytes,
    .args_size = sizeof(hn_weighted_mean_args),
    .setup = mean_setup,
    .run = mean_run,
};
