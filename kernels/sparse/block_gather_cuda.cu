/* A thread has one value of the span at a time: the values of a row of a block are neighbours in
 * the span and in dw. */
#include "kernels/sparse/cuda_block_dw.h"

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxGrid = kHnSms_ * 16; /* blocks loop over what is left */

struct Shape {
    hn_divisor by_values, by_bc, by_across; /* of a block; blocks in a row of the matrix */
    int64_t br, bc, across, values, capacity;
};

__global__ void __launch_bounds__(kThreads)
    block_gather_kernel(const float *__restrict__ dw, int64_t ld, int64_t row, int64_t rows,
                        const Shape s, const int32_t *value, int32_t above, float alpha,
                        const hn_sparse_span *span, const int32_t *__restrict__ block, float *grad)
{
    const int blocks = hn_span_blocks_(span, s.capacity);
    const int64_t n = *value > above ? blocks * s.values : 0;
    const int32_t *const id = block + span->first_block;
    float *const to = grad + span->first_value;
    for (int64_t v = (int64_t)blockIdx.x * kThreads + threadIdx.x; v < n;
         v += (int64_t)gridDim.x * kThreads) {
        const int64_t b = n <= INT32_MAX ? hn_divide((uint32_t)v, s.by_values) : v / s.values;
        const uint32_t at = (uint32_t)(v - b * s.values), i = hn_divide(at, s.by_bc);
        const uint32_t down = hn_divide((uint32_t)id[b], s.by_across);
        const int64_t r = down * s.br + i - row;
        const int64_t col = (id[b] - down * s.across) * s.bc + at - i * s.bc;
        if (r >= 0 && r < rows) to[v] += alpha * dw[r * ld + col];
    }
}

} // namespace

hn_status hn_block_gather_rows_(const hn_block_gather_args *a, int64_t row, int64_t rows,
                                const int32_t *value, int32_t above, hn_stream stream)
{
    const int64_t values = hn_block_values(a->shape), across = a->in / a->shape.bc;
    const Shape s = {hn_divisor_of(values),
                     hn_divisor_of(a->shape.bc),
                     hn_divisor_of(across),
                     a->shape.br,
                     a->shape.bc,
                     across,
                     values,
                     a->capacity};
    block_gather_kernel<<<hn_grid(a->capacity * values, kThreads, kMaxGrid), kThreads, 0, stream>>>(
        a->dw, a->ld_dw, row, rows, s, value, above, hn_alpha_(a->alpha), a->span, a->block,
        a->grad);
    return HN_CUDA_LAUNCHED("block_gather");
}

hn_status hn_block_gather_cuda(const hn_block_gather_args *a, hn_stream stream)
{
    HN_TRY(hn_block_gather_check(a));
    return hn_block_gather_rows_(a, 0, a->out, &a->span->count, 0, stream);
}
