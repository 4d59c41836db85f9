/* curve_noise.h - the normal numbers of curve_point.h on the host. For the sources of this folder
 * only. */
#ifndef HN_CURVE_NOISE_H
#define HN_CURVE_NOISE_H
#include <math.h>

#include "kernels/hyperflow/curve_point.h"

/* What the state says at this moment. */
typedef struct {
    hn_rng rng;
    uint64_t row0; /* the global row of row 0 */
} hn_curve_noise;

static inline hn_curve_noise hn_curve_noise_read_(const hn_curve_point_args *a)
{
    const hn_rng_state none = {0, 0, 0};
    const hn_rng_state *const s = a->state ? a->state : &none;
    hn_curve_noise now;
    now.rng = hn_rng_make(s->seed, s->step, a->op_hash);
    now.row0 = (uint64_t)s->row_offset;
    return now;
}

static inline float hn_curve_unit_(uint32_t v) { return (float)v * 0x1p-32f + 0x1p-33f; }

/* to[0 .. n) = the numbers of columns col .. col + n of a row. */
static inline void hn_curve_normals_(const hn_curve_noise *now, int64_t row, int64_t col, int64_t n,
                                     float *to)
{
    float four[4] = {0};
    for (int64_t j = 0; j < n; j++) {
        const int64_t at = col + j;
        if (j == 0 || at % 4 == 0) {
            uint32_t v[4];
            hn_rng_block(now->rng, now->row0 + (uint64_t)row, (uint32_t)(at / 4), v);
            for (int pair = 0; pair < 4; pair += 2) {
                const float length = sqrtf(-2.0f * logf(hn_curve_unit_(v[pair])));
                const float angle = 6.2831853f * hn_curve_unit_(v[pair + 1]);
                four[pair] = length * cosf(angle);
                four[pair + 1] = length * sinf(angle);
            }
        }
        to[j] = four[at % 4];
    }
}
#endif
