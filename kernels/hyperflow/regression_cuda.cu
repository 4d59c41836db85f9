/* A block has a group: its threads take 16-byte pieces of the rows in turn, where all operands
 * allow them, and leave the group's loss in scratch; one block then adds those up in order. */
#include "kernels/hyperflow/regression.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;

template <class T, class V>
struct Operands {
    const T *y;
    const V *target;
    const int32_t *labels;
    T *dy;
    float *group_loss;
    int64_t cols, group_rows, groups;
    int64_t ld_y, ld_target, ld_dy;
    int64_t spans; /* of a row */
    double share;  /* 1 / (rows of a group * cols) */
};

__device__ __forceinline__ bool trained(const int32_t *labels, int64_t e)
{
    return labels == nullptr || labels[e] != HN_LABEL_IGNORED;
}

/* dy may lie on y: a thread reads a piece before it writes it. */
template <class T, class V, int kWidth>
__global__ void __launch_bounds__(kThreads)
    groups_kernel(const Operands<T, V> a, double *__restrict__ loss)
{
    const int64_t e = blockIdx.x, first = e * a.group_rows;
    const bool counts = trained(a.labels, e);
    const float factor = (float)(2.0 * a.share);
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < a.group_rows * a.spans; i += kThreads) {
        const int64_t row = first + i / a.spans, j = i % a.spans * kWidth, n = a.cols - j;
        float y[kWidth], target[kWidth], piece = 0.0f;
        if (counts) {
            hn_load_span<kWidth>(a.y + row * a.ld_y + j, n, y);
            hn_load_span<kWidth>(a.target + row * a.ld_target + j, n, target);
        }
#pragma unroll
        for (int k = 0; k < kWidth; k++) { /* behind the row both are 0 */
            const float d = counts ? y[k] - target[k] : 0.0f;
            piece += d * d;
            y[k] = factor * d;
        }
        sum += (double)piece;
        if (a.dy != nullptr) hn_store_span<kWidth>(a.dy + row * a.ld_dy + j, n, y);
    }
    sum = hn_block_sum<kThreads>(sum) * a.share;
    if (threadIdx.x != 0) return;
    loss[e] = sum;
    if (a.group_loss != nullptr) a.group_loss[e] = (float)sum;
}

__global__ void __launch_bounds__(kThreads)
    totals_kernel(const double *__restrict__ loss, const int32_t *__restrict__ labels,
                  int64_t groups, float *loss_sum, float *count)
{
    double sum = 0.0;
    int n = 0;
    for (int64_t e = threadIdx.x; e < groups; e += kThreads) {
        sum += loss[e];
        n += trained(labels, e);
    }
    sum = hn_block_sum<kThreads>(sum);
    n = hn_block_sum<kThreads>(n);
    if (threadIdx.x != 0) return;
    *loss_sum = (float)((double)*loss_sum + sum);
    *count += (float)n;
}

template <class T, class V>
void launch(const hn_regression_args *a, double *loss, cudaStream_t stream)
{
    const bool packs = hn_vectors_fit(a->y, a->ld_y, a->dtype) &&
                       hn_vectors_fit(a->target, a->ld_target, a->target_dtype) &&
                       hn_vectors_fit(a->dy, a->ld_dy, a->dtype);
    const int64_t group = a->rows / a->groups;
    const Operands<T, V> o = {(const T *)a->y,
                              (const V *)a->target,
                              a->labels,
                              (T *)a->dy,
                              a->group_loss,
                              a->cols,
                              group,
                              a->groups,
                              a->ld_y,
                              a->ld_target,
                              a->ld_dy,
                              packs ? (a->cols + HN_VEC - 1) / HN_VEC : a->cols,
                              1.0 / ((double)group * (double)a->cols)};
    const unsigned groups = (unsigned)a->groups;
    if (packs)
        groups_kernel<T, V, HN_VEC><<<groups, kThreads, 0, stream>>>(o, loss);
    else
        groups_kernel<T, V, 1><<<groups, kThreads, 0, stream>>>(o, loss);
    totals_kernel<<<1, kThreads, 0, stream>>>(loss, a->labels, a->groups, a->loss_sum, a->count);
}

} // namespace

hn_status hn_regression_cuda(const hn_regression_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_regression_check(a));
    HN_TRY(hn_check_pointer("regression", "scratch", scratch));
    if (a->dtype == HN_F32)
        launch<float, float>(a, (double *)scratch, stream);
    else if (a->target_dtype == HN_F32)
        launch<__nv_bfloat16, float>(a, (double *)scratch, stream);
    else
        launch<__nv_bfloat16, __nv_bfloat16>(a, (double *)scratch, stream);
    return HN_CUDA_LAUNCHED("regression");
}
