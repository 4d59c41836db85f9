#include "kernels/reduce/sum_squares.h"
#include "runtime/base/multiversion.h"

/* Eight sums side by side: written out, so that the order does not depend on the compiler. */
HN_MULTIVERSION static double block_sum(const float *restrict x, int64_t n)
{
    double lane[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++) lane[k] += (double)x[i + k] * (double)x[i + k];
    for (int k = 0; i < n; i++, k++) lane[k] += (double)x[i] * (double)x[i];
    return ((lane[0] + lane[1]) + (lane[2] + lane[3])) +
           ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}

void hn_sum_squares_blockwise(const float *x, int64_t n, double *partial)
{
    const int64_t blocks = hn_sum_squares_blocks(n);
#pragma omp parallel for schedule(static) if (n > 16 * HN_OMP_MIN)
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t left = n - b * HN_SUM_BLOCK;
        partial[b] = block_sum(x + b * HN_SUM_BLOCK, left < HN_SUM_BLOCK ? left : HN_SUM_BLOCK);
    }
}

double hn_sum_blocks(double *partial, int64_t blocks)
{
    for (int64_t width = 1; width < blocks; width *= 2) /* neighbours, then neighbours of those */
        for (int64_t b = 0; b + width < blocks; b += 2 * width) partial[b] += partial[b + width];
    return partial[0];
}

double hn_sum_squares_fast(const float *x, int64_t n, double *partial)
{
    hn_sum_squares_blockwise(x, n, partial);
    return hn_sum_blocks(partial, hn_sum_squares_blocks(n));
}
