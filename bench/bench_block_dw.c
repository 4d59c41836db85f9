/* Gradients of chosen blocks beside the whole gradient (block_dw_dense: the same product by
 * linear_dw). The blocks are drawn at random, as many as the capacity; `lines` 1: from a sixteenth
 * of the rows, as masks of large gradients cluster. block_dw_tile: single elements, of masks that
 * lie in few tiles, by each way (hn_block_dw_way) in turn. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "kernels/linear/linear_dw.h"
#include "kernels/sparse/block_dw.h"

enum { ROWS, IN, OUT, BLOCK, PPM, LINES };

static hn_block_shape shape_of(const int64_t *s) { return (hn_block_shape){s[BLOCK], s[BLOCK]}; }

static int64_t count_of(const int64_t *s)
{
    const int64_t total = hn_block_total(shape_of(s), s[OUT], s[IN]), n = total * s[PPM] / 1000000;
    return n > 0 ? n : 1;
}

/* Every column that a block needs once, or all there are. */
static double least_bytes(const int64_t *s, hn_dtype t)
{
    const double n = (double)count_of(s), side = (double)s[BLOCK];
    const double dy = n * side < (double)s[OUT] ? n * side : (double)s[OUT];
    const double x = n * side < (double)s[IN] ? n * side : (double)s[IN];
    return (double)s[ROWS] * (dy + x) * (double)hn_dtype_size(t) + 8.0 * n * side * side;
}

/* ---- lists ---- */

static uint64_t draw(uint64_t *state, uint64_t below) /* splitmix64 */
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) % below;
}

/* `n` ids, ascending, each once. */
static hn_status draw_ids(const int64_t *s, int64_t n, int32_t *id)
{
    enum { SHARE = 16 };
    const hn_block_shape b = shape_of(s);
    const int64_t total = hn_block_total(b, s[OUT], s[IN]), across = s[IN] / b.bc;
    bool *const taken = calloc((size_t)total, sizeof *taken);
    if (taken == NULL) return HN_FAIL(HN_ERR_MEMORY, "%lld blocks", (long long)total);
    uint64_t state = (uint64_t)n;
    for (int64_t i = 0; i < n;) {
        int64_t at = (int64_t)draw(&state, (uint64_t)total);
        if (s[LINES]) at = at / across / SHARE * SHARE * across + at % across;
        if (taken[at]) continue;
        taken[at] = true;
        i++;
    }
    for (int64_t at = 0, i = 0; at < total; at++)
        if (taken[at]) id[i++] = (int32_t)at;
    free(taken);
    return HN_OK;
}

typedef struct {
    hn_block_dw_args a;
    hn_gemm_cuda *gemm;
    void *scratch;
} set;

/* id (its first n are given), order, block and tile_first, one behind the other in `buffer`. */
static hn_status put_list(hn_bench *b, int64_t n, int32_t *buffer, hn_block_dw_args *a)
{
    const bool tiled = hn_block_tiled(a->shape);
    int32_t *const order = buffer + n, *const block = order + n, *const tile_first = block + n;
    HN_TRY(hn_sparse_order(a->shape, a->out, a->in, buffer, n, tile_first, order));
    for (int64_t i = 0; i < n; i++) block[i] = buffer[order[i]];
    const size_t tiles = (size_t)hn_sparse_tiles(a->out, a->in) + 1;
    const hn_sparse_span span = {0, 0, (int32_t)n};
    a->span = hn_bench_upload(b, &span, sizeof span);
    a->block = hn_bench_upload(b, block, (size_t)n * sizeof *block);
    if (tiled) a->tile_first = hn_bench_upload(b, tile_first, tiles * sizeof *tile_first);
    return HN_OK;
}

/* draw: gives `n` ids of `shape`, ascending, each once. */
static hn_status setup_list(hn_bench *b, const int64_t *s, hn_block_shape shape, int64_t n,
                            hn_status (*draw_list)(const int64_t *s, int64_t n, int32_t *id),
                            set *to)
{
    const hn_dtype t = hn_bench_dtype(b);
    const int64_t values = n * hn_block_values(shape);
    to->gemm = hn_bench_gemm(b);
    to->a = (hn_block_dw_args){
        .dy = hn_bench_array(b, s[ROWS] * s[OUT], t, HN_FILL_NORMAL),
        .x = hn_bench_array(b, s[ROWS] * s[IN], t, HN_FILL_NORMAL),
        .grad = hn_bench_array(b, values, HN_F32, HN_FILL_NORMAL),
        .rows = s[ROWS],
        .in = s[IN],
        .out = s[OUT],
        .ld_dy = s[OUT],
        .ld_x = s[IN],
        .shape = shape,
        .capacity = n,
        .blocks = n,
        .values = values,
        .dtype = t,
    };
    const int64_t tiles = hn_sparse_tiles(s[OUT], s[IN]) + 1;
    int32_t *const buffer = malloc((size_t)(3 * n + tiles) * sizeof *buffer);
    if (buffer == NULL) return HN_FAIL(HN_ERR_MEMORY, "lists of %lld blocks", (long long)n);
    hn_status st = draw_list(s, n, buffer);
    if (st == HN_OK) st = put_list(b, n, buffer, &to->a);
    free(buffer);
    return st;
}

static hn_status setup(hn_bench *b, const int64_t *s, void *args)
{
    set *const to = args;
    HN_TRY(setup_list(b, s, shape_of(s), count_of(s), draw_ids, to));
    to->scratch = hn_bench_scratch(b, hn_block_dw_cuda_scratch(&to->a));
    return hn_block_dw_check(&to->a);
}

static hn_status run(const void *args, hn_stream stream)
{
    const set *const s = args;
    return hn_block_dw_cuda(&s->a, s->gemm, s->scratch, stream);
}

/* clang-format off */
#define MATRIX(rows, in, out)                                                                     \
    {rows, in, out, 1, 500}, {rows, in, out, 1, 1000}, {rows, in, out, 1, 1000, 1},               \
    {rows, in, out, 1, 5000}, {rows, in, out, 1, 11600}, {rows, in, out, 1, 50000},               \
    {rows, in, out, 4, 1000}, {rows, in, out, 4, 11600}, {rows, in, out, 16, 11600},              \
    {rows, in, out, 16, 50000}, {rows, in, out, 32, 11600}, {rows, in, out, 32, 50000},           \
    {rows, in, out, 64, 11600}, {rows, in, out, 64, 50000}, {rows, in, out, 128, 11600},          \
    {rows, in, out, 128, 50000}, {rows, in, out, 256, 11600}, {rows, in, out, 256, 50000}
/* Matrices of the 1B and the 8B model. */
static const int64_t shapes[][HN_BENCH_AXES] = {
    MATRIX(16384, 2048, 2048), MATRIX(16384, 2048, 8192), MATRIX(16384, 8192, 2048),
    MATRIX(8192, 4096, 4096), MATRIX(8192, 4096, 14336), MATRIX(8192, 14336, 4096),
};
/* clang-format on */

const hn_bench_def hn_bench_block_dw = {
    .name = "block_dw",
    .dtype = HN_BF16,
    .axes = {"rows", "in", "out", "block", "ppm", "lines"},
    HN_BENCH_SHAPES(shapes),
    .bytes = least_bytes,
    .args_size = sizeof(set),
    .setup = setup,
    .run = run,
};

/* ---- masks that lie in few tiles ---- */

enum { TILE_PPM = 3, MASK, WAY }; /* ROWS, IN and OUT as above; WAY: an hn_block_dw_way */

static const hn_block_shape one = {1, 1};

static int64_t ones_of(const int64_t *s)
{
    const int64_t n = s[IN] * s[OUT] * s[TILE_PPM] / 1000000;
    return n > 0 ? n : 1;
}

static double ones_bytes(const int64_t *s, hn_dtype t)
{
    const int64_t as_blocks[HN_BENCH_AXES] = {s[ROWS], s[IN], s[OUT], 1, s[TILE_PPM]};
    return least_bytes(as_blocks, t);
}

/* The exponential of nearly normal numbers: sizes that differ by orders of magnitude. */
static float spread(uint64_t *state, float deviation)
{
    const uint64_t z = draw(state, UINT64_MAX);
    float sum = -2.0f; /* four numbers of [0, 1): deviation 0.577 */
    for (int i = 0; i < 4; i++) sum += (float)(z >> (16 * i) & 0xffff) / 65536.0f;
    return expf(deviation * sum / 0.577f);
}

/* Half of the elements in one tile of 50, the rest anywhere. */
static hn_status draw_half_in_tiles(const int64_t *s, int64_t n, int32_t *id)
{
    const int64_t total = s[IN] * s[OUT], tiles = hn_sparse_tiles(s[OUT], s[IN]);
    const int64_t across = hn_sparse_tiles_across(s[IN]), hot = (tiles + 49) / 50;
    const int64_t fit = hot * HN_SPARSE_TILE * HN_SPARSE_TILE, half = n / 2 < fit ? n / 2 : fit;
    char *const taken = calloc((size_t)total, 1);
    if (taken == NULL) return HN_FAIL(HN_ERR_MEMORY, "%lld elements", (long long)total);
    uint64_t state = (uint64_t)n;
    for (int64_t i = 0; i < n;) {
        int64_t at = (int64_t)draw(&state, (uint64_t)total);
        if (i < half) {
            const int64_t tile = (int64_t)draw(&state, (uint64_t)hot) * tiles / hot;
            const int64_t in_tile = at % (HN_SPARSE_TILE * HN_SPARSE_TILE);
            at = (tile / across * HN_SPARSE_TILE + in_tile / HN_SPARSE_TILE) * s[IN] +
                 tile % across * HN_SPARSE_TILE + in_tile % HN_SPARSE_TILE;
        }
        if (taken[at]) continue;
        taken[at] = 1;
        i++;
    }
    for (int64_t at = 0, i = 0; at < total; at++)
        if (taken[at]) id[i++] = (int32_t)at;
    free(taken);
    return HN_OK;
}

/* The largest of noise times a matrix of rank 1 whose factors vary by element and by heads of 64
 * and 128: gradients of weights whose heads and features differ. */
static hn_status draw_low_rank(const int64_t *s, int64_t n, int32_t *id)
{
    enum { BINS = 65536 };
    hn_status st = HN_OK;
    float *const rows = malloc((size_t)s[OUT] * sizeof *rows);
    float *const cols = malloc((size_t)s[IN] * sizeof *cols);
    int64_t *const count = calloc(BINS, sizeof *count);
    if (rows == NULL || cols == NULL || count == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "factors of [%lld, %lld]", (long long)s[OUT], (long long)s[IN]);
        goto done;
    }
    uint64_t state = 1;
    float head = 1.0f;
    for (int64_t i = 0; i < s[OUT]; i++) {
        if (i % 64 == 0) head = spread(&state, 1.0f);
        rows[i] = head * spread(&state, 1.0f);
    }
    for (int64_t j = 0; j < s[IN]; j++) {
        if (j % 128 == 0) head = spread(&state, 1.0f);
        cols[j] = head * spread(&state, 1.0f);
    }
    /* Twice through the same numbers: how many there are of each size, and which are taken. Sizes
     * are the upper halves of positive floats; of the smallest that is taken, the first come. */
    int64_t least = 0, room = 0, taken = 0;
    for (int pass = 0; pass < 2; pass++) {
        state = (uint64_t)n;
        for (int64_t i = 0; i < s[OUT]; i++)
            for (int64_t j = 0; j < s[IN]; j++) {
                const float v = rows[i] * cols[j] * (float)draw(&state, 1 << 20);
                uint32_t bits;
                memcpy(&bits, &v, sizeof bits);
                const int64_t bin = bits >> 16;
                if (pass == 0)
                    count[bin]++;
                else if (bin > least || (bin == least && room-- > 0))
                    id[taken++] = (int32_t)(i * s[IN] + j);
            }
        if (pass == 0)
            for (room = n, least = BINS - 1; count[least] < room; least--) room -= count[least];
    }
    if (taken != n)
        st = HN_FAIL(HN_ERR_ARG, "%lld of %lld elements", (long long)taken, (long long)n);
done:
    free(rows), free(cols), free(count);
    return st;
}

/* MASK 0: anywhere (draw_ids of elements), 1: half in few tiles, 2: low rank. */
static hn_status draw_mask(const int64_t *s, int64_t n, int32_t *id)
{
    const int64_t as_blocks[HN_BENCH_AXES] = {s[ROWS], s[IN], s[OUT], 1};
    if (s[MASK] == 1) return draw_half_in_tiles(s, n, id);
    return s[MASK] == 2 ? draw_low_rank(s, n, id) : draw_ids(as_blocks, n, id);
}

static hn_status tile_setup(hn_bench *b, const int64_t *s, void *args)
{
    set *const to = args;
    HN_TRY(setup_list(b, s, one, ones_of(s), draw_mask, to));
    to->a.way = (hn_block_dw_way)s[WAY];
    to->scratch = hn_bench_scratch(b, hn_block_dw_cuda_scratch(&to->a));
    return hn_block_dw_check(&to->a);
}

/* clang-format off */
#define WAYS(...)                                                                                 \
    {__VA_ARGS__, HN_BLOCK_DW_BEST}, {__VA_ARGS__, HN_BLOCK_DW_BLOCKS},                           \
    {__VA_ARGS__, HN_BLOCK_DW_TILES}, {__VA_ARGS__, HN_BLOCK_DW_WHOLE}
#define DENSITIES(mask, rows, in, out)                                                            \
    WAYS(rows, in, out, 1000, mask), WAYS(rows, in, out, 5000, mask),                             \
    WAYS(rows, in, out, 11600, mask), WAYS(rows, in, out, 50000, mask)
#define MASKS(rows, in, out)                                                                      \
    DENSITIES(0, rows, in, out), DENSITIES(1, rows, in, out), DENSITIES(2, rows, in, out)
static const int64_t tile_shapes[][HN_BENCH_AXES] = {
    MASKS(16384, 2048, 2048), MASKS(16384, 2048, 8192), MASKS(8192, 4096, 4096),
    DENSITIES(0, 16384, 8192, 2048), DENSITIES(0, 8192, 14336, 4096),
};
/* clang-format on */

const hn_bench_def hn_bench_block_dw_tile = {
    .name = "block_dw_tile",
    .dtype = HN_BF16,
    .axes = {"rows", "in", "out", "ppm", "mask", "way"},
    HN_BENCH_SHAPES(tile_shapes),
    .bytes = ones_bytes,
    .args_size = sizeof(set),
    .setup = tile_setup,
    .run = run,
};

/* ---- the whole gradient ---- */

typedef struct {
    hn_linear_dw_args a;
    hn_gemm_cuda *gemm;
    void *scratch;
} dense_set;

static double dense_flops(const int64_t *s)
{
    return 2.0 * (double)s[ROWS] * (double)s[IN] * (double)s[OUT];
}

static hn_status dense_setup(hn_bench *b, const int64_t *s, void *args)
{
    const hn_dtype t = hn_bench_dtype(b);
    dense_set *const to = args;
    to->gemm = hn_bench_gemm(b);
    to->a = (hn_linear_dw_args){
        .dy = hn_bench_array(b, s[ROWS] * s[OUT], t, HN_FILL_NORMAL),
        .x = hn_bench_array(b, s[ROWS] * s[IN], t, HN_FILL_NORMAL),
        .dw = hn_bench_array(b, s[OUT] * s[IN], HN_F32, HN_FILL_NORMAL),
        .rows = s[ROWS],
        .in = s[IN],
        .out = s[OUT],
        .ld_dy = s[OUT],
        .ld_x = s[IN],
        .ld_dw = s[IN],
        .dtype = t,
    };
    to->scratch = hn_bench_scratch(b, hn_linear_dw_cuda_scratch(&to->a));
    return hn_linear_dw_check(&to->a);
}

static hn_status dense_run(const void *args, hn_stream stream)
{
    const dense_set *const s = args;
    return hn_linear_dw_cuda(&s->a, s->gemm, s->scratch, stream);
}

static const int64_t dense_shapes[][HN_BENCH_AXES] = {
    {16384, 2048, 2048}, {16384, 2048, 8192}, {16384, 8192, 2048},
    {8192, 4096, 4096},  {8192, 4096, 14336}, {8192, 14336, 4096},
};

const hn_bench_def hn_bench_block_dw_dense = {
    .name = "block_dw_dense",
    .dtype = HN_BF16,
    .axes = {"rows", "in", "out"},
    HN_BENCH_SHAPES(dense_shapes),
    .flops = dense_flops,
    .args_size = sizeof(dense_set),
    .setup = dense_setup,
    .run = dense_run,
};
