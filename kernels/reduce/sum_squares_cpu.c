#include "kernels/reduce/sum_squares.h"

double hn_sum_squares_cpu(const float *x, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sum;
}
