#include <math.h>

#include "runtime/data/partition_impl.h"

double hn_unit_draw(hn_rng rng, uint64_t row, uint32_t block)
{
    uint32_t w[4];
    hn_rng_block(rng, row, block, w);
    return (double)((uint64_t)w[0] << 21 | w[1] >> 11) * 0x1p-53;
}

void hn_shuffle_draw(hn_rng rng, int32_t *x, int64_t n)
{
    for (int64_t i = n - 1; i > 0; i--) {
        const int64_t j = (int64_t)hn_rng_below(rng, (uint64_t)i, 0, (uint64_t)i + 1);
        const int32_t kept = x[i];
        x[i] = x[j];
        x[j] = kept;
    }
}

/* Box and Muller, 1958. */
static double normal_draw(hn_rng rng, uint64_t row, uint32_t block)
{
    const double u = 1 - hn_unit_draw(rng, row, block), v = hn_unit_draw(rng, row, block + 1);
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

/* Marsaglia and Tsang 2000, "A simple method for generating gamma variables"; for a shape below 1
 * Gamma(shape) = Gamma(shape + 1) U^(1 / shape), section 6. A draw takes three blocks a try, and
 * fewer than 1.05 tries on average. */
double hn_log_gamma_draw(hn_rng rng, uint64_t row, double shape)
{
    if (shape < 1)
        return hn_log_gamma_draw(rng, row, shape + 1) +
               log(1 - hn_unit_draw(rng, row, UINT32_MAX)) / shape;
    const double d = shape - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (uint32_t block = 0;; block += 3) {
        const double x = normal_draw(rng, row, block), root = 1 + c * x;
        const double v = root * root * root, u = 1 - hn_unit_draw(rng, row, block + 2);
        if (root > 0 && log(u) < 0.5 * x * x + d - d * v + d * log(v)) return log(d * v);
    }
}

/* Relative to the largest, so that not all of them underflow. */
void hn_dirichlet_draw(hn_rng rng, uint64_t row, const double *shape, int64_t stride, int64_t n,
                       double *share)
{
    double most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        share[i] = hn_log_gamma_draw(rng, row + (uint64_t)i, shape[i * stride]);
        most = fmax(most, share[i]);
    }
    for (int64_t i = 0; i < n; i++) sum += share[i] = exp(share[i] - most);
    for (int64_t i = 0; i < n; i++) share[i] /= sum;
}
