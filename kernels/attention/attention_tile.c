/* A product keeps blocks of c of 4 x 16 in registers (8 vectors of 8: as many multiply-adds as
 * are in flight at once) while k runs; gcc keeps them there only when they are vectors by type. */
#include "kernels/attention/attention_tile.h"

#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

typedef float vec __attribute__((vector_size(32), aligned(4), may_alias));
enum { LANES = 8, ROWS = 4 };

void hn_tile_pack_(const void *x, hn_dtype t, int64_t x0, int64_t ld, int64_t rows, int64_t cols,
                   float *tile)
{
    const int64_t ld_tile = hn_round8_(cols);
    for (int64_t r = 0; r < rows; r++) {
        float *y = tile + r * ld_tile;
        hn_to_f32(x, t, x0 + r * ld, cols, y);
        for (int64_t c = cols; c < ld_tile; c++) y[c] = 0.0f;
    }
}

void hn_tile_pack_transposed_(const void *x, hn_dtype t, int64_t x0, int64_t ld, int64_t rows,
                              int64_t cols, float *tile)
{
    for (int64_t c = 0; c < cols; c++) {
        float *y = tile + c * HN_TILE_;
        if (t == HN_F32)
            for (int64_t r = 0; r < rows; r++) y[r] = ((const float *)x)[x0 + r * ld + c];
        else
            for (int64_t r = 0; r < rows; r++)
                y[r] = hn_bf16_to_f32(((const hn_bf16 *)x)[x0 + r * ld + c]);
        for (int64_t r = rows; r < HN_TILE_; r++) y[r] = 0.0f;
    }
}

/* rows and vecs are constants at every call, so that the loops over them vanish. */
__attribute__((always_inline)) static inline void block(const hn_tile_product_args_ *p, int64_t i,
                                                        int64_t j, const int rows, const int vecs)
{
    const float *a = p->a + i * p->rs, *b = p->b + j;
    float *c = p->c + i * p->ld_c + j;
    vec sum[ROWS][2];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vecs; v++)
            sum[r][v] = p->add ? *(const vec *)(c + r * p->ld_c + LANES * v) : (vec){0};
    for (int64_t k = 0; k < p->k; k++)
        for (int r = 0; r < rows; r++) {
            const float x = a[r * p->rs + k * p->ks];
            for (int v = 0; v < vecs; v++)
                sum[r][v] += x * *(const vec *)(b + k * p->ld_b + LANES * v);
        }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vecs; v++) *(vec *)(c + r * p->ld_c + LANES * v) = sum[r][v];
}

HN_MULTIVERSION void hn_tile_product_(const hn_tile_product_args_ *p)
{
    int64_t i = 0;
    for (; i + ROWS <= p->m; i += ROWS) {
        int64_t j = 0;
        for (; j + 2 * LANES <= p->n; j += 2 * LANES) block(p, i, j, ROWS, 2);
        if (j < p->n) block(p, i, j, ROWS, 1);
    }
    for (; i < p->m; i++) {
        int64_t j = 0;
        for (; j + 2 * LANES <= p->n; j += 2 * LANES) block(p, i, j, 1, 2);
        if (j < p->n) block(p, i, j, 1, 1);
    }
}
