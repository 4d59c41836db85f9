/* sum_squares.h - sum of the squares of a range, in double, with the same bits for any number of
 * threads.
 *
 *   result = sum_{i < n} x[i]^2
 *
 * Shapes     x [n] f32, contiguous.
 * Precision  each square and every sum in double. Fast: blocks of HN_SUM_BLOCK elements, 8 partial
 *            sums each, then a tree over the blocks whose shape depends on n alone.
 * Limits     n >= 0. NaN and Inf go into the result.
 * Repeats    bit for bit, for any number of threads; twin and fast differ by 1e-13 relative.
 * Cost       one read of x.
 */
#ifndef HN_SUM_SQUARES_H
#define HN_SUM_SQUARES_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_SUM_BLOCK = 8192 };

double hn_sum_squares_cpu(const float *x, int64_t n);

/* partial: hn_sum_squares_blocks(n) doubles to work in. */
static inline int64_t hn_sum_squares_blocks(int64_t n)
{
    return n > 0 ? (n + HN_SUM_BLOCK - 1) / HN_SUM_BLOCK : 1;
}
double hn_sum_squares_fast(const float *x, int64_t n, double *partial);
/* Its two parts. partial [hn_sum_squares_blocks(n)]: sums of blocks; their sum, which spoils them.
 * Zeros behind x, and more blocks of them, leave the bits as they are. */
void hn_sum_squares_blockwise(const float *x, int64_t n, double *partial);
double hn_sum_blocks(double *partial, int64_t blocks);

#ifdef __cplusplus
}
#endif
#endif
