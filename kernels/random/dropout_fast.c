/* The mask is the cost: 10 Philox rounds for 4 elements. LANES blocks of 4 go through the rounds
 * side by side, one per vector lane: 3.4 ns an element on one core against 18 for the twin. */
#include "kernels/random/dropout.h"

#include <string.h>

#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

enum { LANES = 8, SPAN = 4 * LANES };

/* The SPAN words of columns 4 * block .. of a row, column by column. */
HN_INLINE void words_of(hn_rng r, uint64_t row, uint32_t block, uint32_t out[SPAN])
{
    uint32_t c0[LANES], c1[LANES], c2[LANES], c3[LANES];
    for (uint32_t l = 0; l < LANES; l++) {
        c0[l] = block + l;
        c1[l] = (uint32_t)row;
        c2[l] = (uint32_t)(row >> 32);
        c3[l] = r.step;
    }
    for (int round = 0; round < 10; round++) {
#pragma omp simd
        for (int l = 0; l < LANES; l++) {
            const uint64_t a = (uint64_t)0xd2511f53u * c0[l], b = (uint64_t)0xcd9e8d57u * c2[l];
            c0[l] = (uint32_t)(b >> 32) ^ c1[l] ^ r.k0;
            c2[l] = (uint32_t)(a >> 32) ^ c3[l] ^ r.k1;
            c1[l] = (uint32_t)b;
            c3[l] = (uint32_t)a;
        }
        r.k0 += 0x9e3779b9u;
        r.k1 += 0xbb67ae85u;
    }
    for (int l = 0; l < LANES; l++) {
        out[4 * l] = c0[l];
        out[4 * l + 1] = c1[l];
        out[4 * l + 2] = c2[l];
        out[4 * l + 3] = c3[l];
    }
}

HN_MULTIVERSION void hn_dropout_span(const hn_dropout_now *d, int64_t row, int64_t col, int64_t n,
                                     const float *x, float *y)
{
    const uint32_t threshold = d->threshold;
    const float scale = d->scale;
    for (int64_t j = 0; j < n; j += SPAN) {
        uint32_t word[SPAN];
        words_of(d->rng, d->row0 + (uint64_t)row, (uint32_t)((col + j) / 4), word);
        const int64_t len = n - j < SPAN ? n - j : SPAN;
#pragma omp simd
        for (int64_t l = 0; l < len; l++) y[j + l] = word[l] >= threshold ? x[j + l] * scale : 0.0f;
    }
}

static void copy_rows(const hn_dropout_args *a)
{
    const size_t size = hn_dtype_size(a->dtype), n_bytes = (size_t)a->cols * size;
    if (a->x == a->y) return;
    for (int64_t i = 0; i < a->rows; i++)
        memcpy((char *)a->y + (size_t)(i * a->ld_y) * size,
               (const char *)a->x + (size_t)(i * a->ld_x) * size, n_bytes);
}

hn_status hn_dropout_fast(const hn_dropout_args *a)
{
    HN_TRY(hn_dropout_check(a));
    if (a->key.p == 0.0) {
        copy_rows(a);
        return HN_OK;
    }
    const hn_dropout_now d = hn_dropout_read(&a->key);
#pragma omp parallel for schedule(static) if (a->rows * a->cols > HN_OMP_MIN)
    for (int64_t i = 0; i < a->rows; i++) {
        float in[HN_BLOCK], out[HN_BLOCK];
        for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
            const int64_t n = hn_block_len(j, a->cols), at = i * a->ld_y + j;
            const float *const x = hn_load_f32(a->x, a->dtype, i * a->ld_x + j, n, in);
            float *const y = hn_target_f32(a->y, a->dtype, at, out);
            hn_dropout_span(&d, i, j, n, x, y);
            hn_store_f32(y, n, a->y, a->dtype, at);
        }
    }
    return HN_OK;
}

void hn_dropout_matrix_f32(const hn_dropout_key *key, const void *x, hn_dtype t, int64_t rows,
                           int64_t cols, int64_t ld_x, float *y)
{
    const hn_dropout_now d = hn_dropout_read(key);
#pragma omp parallel for schedule(static) if (rows * cols > HN_OMP_MIN)
    for (int64_t i = 0; i < rows; i++) {
        float in[HN_BLOCK];
        hn_bf16 rounded[HN_BLOCK];
        for (int64_t j = 0; j < cols; j += HN_BLOCK) {
            const int64_t n = hn_block_len(j, cols);
            float *const out = y + i * cols + j;
            hn_dropout_span(&d, i, j, n, hn_load_f32(x, t, i * ld_x + j, n, in), out);
            if (t == HN_F32) continue;
            hn_from_f32(out, n, rounded, t, 0);
            hn_to_f32(rounded, t, 0, n, out);
        }
    }
}
