/* The update of single weights spread over all matrices of the 1B model: sparse_adamw, then
 * block_store of all matrices. */
#include <stdlib.h>

#include "bench/bench.h"
#include "kernels/sparse/block_store.h"
#include "kernels/sparse/sparse_adamw.h"
#include "runtime/base/alloc.h"
#include "runtime/base/rng.h"

enum { LAYERS = 16, OF_LAYER = 7, MATRICES = LAYERS * OF_LAYER };

static const int64_t dims[OF_LAYER][2] = {{2048, 2048}, {512, 2048},  {512, 2048}, {2048, 2048},
                                          {8192, 2048}, {8192, 2048}, {2048, 8192}};
static const int64_t layer_values = 60817408;
static const hn_block_shape one = {1, 1};

typedef struct {
    hn_sparse_adamw_args update;
    hn_block_store_args store[MATRICES];
} update_set;

/* An entry costs a sector of W read and one written, and four values with delta, m and v written
 * back. */
static double bytes(const int64_t *s, hn_dtype t)
{
    (void)t;
    return (64.0 + 28.0) * (double)s[0];
}

static int64_t count_of(int64_t entries, int matrix)
{
    const int64_t *d = dims[matrix % OF_LAYER];
    return (int64_t)((double)entries / LAYERS * (double)(d[0] * d[1]) / (double)layer_values);
}

/* Ids of a matrix in the order of the pool: one at random in each of `count` equal parts. */
static hn_status choose(int matrix, int64_t count, int32_t *block)
{
    const int64_t out = dims[matrix % OF_LAYER][0], in = dims[matrix % OF_LAYER][1];
    const int64_t part = out * in / count;
    const hn_rng r = hn_rng_make(3, (uint64_t)matrix, hn_hash_name("entries"));
    int32_t *id = hn_malloc((size_t)count * sizeof *id), *order = NULL, *first = NULL;
    hn_status st = HN_OK;
    order = hn_malloc((size_t)count * sizeof *order);
    first = hn_malloc((size_t)(hn_sparse_tiles(out, in) + 1) * sizeof *first);
    if (id == NULL || order == NULL || first == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "the ids of %lld entries", (long long)count);
        goto done;
    }
    for (int64_t i = 0; i < count; i++)
        id[i] = (int32_t)(i * part + hn_rng_u32(r, (uint64_t)i, 0) % part);
    HN_TRY_GOTO(st, hn_sparse_order(one, out, in, id, count, first, order), done);
    for (int64_t i = 0; i < count; i++) block[i] = id[order[i]];

done:
    hn_free(id);
    hn_free(order);
    hn_free(first);
    return st;
}

static hn_status choose_all(int64_t entries, hn_sparse_span *spans, int32_t *block, uint16_t *age)
{
    int64_t used = 0;
    for (int m = 0; m < MATRICES; m++) {
        const int64_t count = count_of(entries, m);
        spans[m] = (hn_sparse_span){used, (int32_t)used, (int32_t)count};
        HN_TRY(choose(m, count, block + used));
        used += count;
    }
    for (int64_t i = 0; i < entries; i++) /* a tenth came with the last selection */
        age[i] = hn_rng_u32(hn_rng_make(4, 0, 0), (uint64_t)i, 0) % 10 ? 500 : 20;
    return HN_OK;
}

static void fill_set(hn_bench *b, int64_t entries, const hn_sparse_span *spans,
                     const int32_t *block, const uint16_t *age, const float *corrections,
                     update_set *set)
{
    const hn_step_block step = {.step = 600, .lr = 1e-4f, .grad_scale = 1e-4f};
    set->update = (hn_sparse_adamw_args){
        .delta = hn_bench_array(b, entries, HN_F32, HN_FILL_WEIGHT),
        .grad = hn_bench_array(b, entries, HN_F32, HN_FILL_NORMAL),
        .m = hn_bench_array(b, entries, HN_F32, HN_FILL_WEIGHT),
        .v = hn_bench_array(b, entries, HN_F32, HN_FILL_POSITIVE),
        .age = hn_bench_upload(b, age, (size_t)entries * sizeof *age),
        .spans = hn_bench_upload(b, spans, MATRICES * sizeof *spans),
        .corrections = hn_bench_upload(b, corrections, 2 * HN_SPARSE_AGES * sizeof *corrections),
        .step = hn_bench_upload(b, &step, sizeof step),
        .values = entries,
        .blocks = entries,
        .matrices = MATRICES,
        .block_values = 1,
        .beta1 = 0.9f,
        .beta2 = 0.999f,
        .eps = 1e-8f,
    };
    const int32_t *ids = hn_bench_upload(b, block, (size_t)entries * sizeof *block);
    void *frozen = hn_bench_array(b, entries, HN_BF16, HN_FILL_WEIGHT);
    for (int m = 0; m < MATRICES; m++) {
        const int64_t out = dims[m % OF_LAYER][0], in = dims[m % OF_LAYER][1];
        const int64_t most = 4 * (int64_t)spans[m].count; /* as the engine's capacity */
        set->store[m] = (hn_block_store_args){
            .w = hn_bench_array(b, out * in, HN_BF16, HN_FILL_WEIGHT),
            .span = set->update.spans ? set->update.spans + m : NULL,
            .block = ids,
            .delta = set->update.delta,
            .frozen = frozen,
            .out = out,
            .in = in,
            .ld_w = in,
            .shape = one,
            .capacity = most < out * in ? most : out * in,
            .blocks = entries,
            .values = entries,
            .dtype = HN_BF16,
        };
    }
}

static hn_status setup(hn_bench *b, const int64_t *s, void *args)
{
    const int64_t entries = s[0];
    hn_sparse_span spans[MATRICES];
    int32_t *block = hn_calloc((size_t)entries, sizeof *block);
    uint16_t *age = hn_calloc((size_t)entries, sizeof *age);
    float *corrections = hn_malloc(2 * HN_SPARSE_AGES * sizeof *corrections);
    hn_status st = HN_OK;
    if (block == NULL || age == NULL || corrections == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "the pool of %lld entries", (long long)entries);
        goto done;
    }
    hn_sparse_corrections(0.9f, 0.999f, corrections);
    HN_TRY_GOTO(st, choose_all(entries, spans, block, age), done);
    fill_set(b, entries, spans, block, age, corrections, args);
    st = hn_sparse_adamw_check(&((update_set *)args)->update);

done:
    hn_free(block);
    hn_free(age);
    hn_free(corrections);
    return st;
}

static hn_status run_update(const void *args, hn_stream stream)
{
    return hn_sparse_adamw_cuda(&((const update_set *)args)->update, stream);
}

static hn_status run_store(const void *args, hn_stream stream)
{
    return hn_block_store_cuda(((const update_set *)args)->store, MATRICES, stream);
}

static hn_status run_both(const void *args, hn_stream stream)
{
    HN_TRY(run_update(args, stream));
    return run_store(args, stream);
}

static const int64_t shapes[][HN_BENCH_AXES] = {{1000000}, {10000000}, {50000000}};

const hn_bench_def hn_bench_sparse_update = {
    .name = "sparse_update",
    .dtype = HN_BF16,
    .axes = {"entries"},
    HN_BENCH_SHAPES(shapes),
    .bytes = bytes,
    .args_size = sizeof(update_set),
    .setup = setup,
    .run = run_both,
};

/* ---- its two halves ---- */

static double update_bytes(const int64_t *s, hn_dtype t)
{
    (void)t;
    return 36.0 * (double)s[0]; /* with the gradient zeroed, and ages */
}

static double store_bytes(const int64_t *s, hn_dtype t)
{
    (void)t;
    return (64.0 + 10.0) * (double)s[0]; /* with id, delta and frozen */
}

const hn_bench_def hn_bench_sparse_adamw = {
    .name = "sparse_adamw",
    .dtype = HN_F32,
    .axes = {"entries"},
    HN_BENCH_SHAPES(shapes),
    .bytes = update_bytes,
    .args_size = sizeof(update_set),
    .setup = setup,
    .run = run_update,
};

const hn_bench_def hn_bench_block_store = {
    .name = "block_store",
    .dtype = HN_BF16,
    .axes = {"entries"},
    HN_BENCH_SHAPES(shapes),
    .bytes = store_bytes,
    .args_size = sizeof(update_set),
    .setup = setup,
    .run = run_store,
};
