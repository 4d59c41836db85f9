/* A warp or a block takes a row (cuda_class_rows.h) and walks it three times: the largest logit,
 * the sum of the powers, the gradient; the second and third time from the first cache. Loops are
 * unrolled by 2: by more, the kernel of one block spills. */
#include "kernels/loss/class_ce.h"
#include "kernels/loss/cuda_class_rows.h"
#include "runtime/base/check.h"

namespace {

using namespace hn_class;

template <class T>
struct ClassCe {
    const T *logits;
    const int32_t *labels;
    T *dlogits;
    float *row_loss;
    int32_t *prediction;
    int64_t classes, ld_logits, ld_dlogits, first, n;
    float smoothing;

    /* Columns of a row outside the range, or all of them, become 0. */
    template <int kTeam>
    __device__ __forceinline__ void clear(T *d, int lane, bool all) const
    {
        const T zero = hn_round<T>(0.0f);
        for (int64_t k = lane; k < classes; k += kTeam)
            if (all || k < first || k >= first + n) d[k] = zero;
    }

    template <int kTeam>
    __device__ __forceinline__ RowGives row(int64_t row, int lane) const
    {
        const T *const z = logits + row * ld_logits + first;
        T *const d = dlogits != nullptr ? dlogits + row * ld_dlogits : nullptr;
        const int32_t label = labels[row];
        const bool counts = label != HN_LABEL_IGNORED;
        if (d != nullptr && (!counts || n < classes)) clear<kTeam>(d, lane, !counts);
        if (!counts && row_loss != nullptr && lane == 0) row_loss[row] = 0.0f;
        if (!counts && prediction == nullptr) return {0.0, 0}; /* the same for the team */

        Best best = {-INFINITY, INT32_MAX};
        float sum = 0.0f;
#pragma unroll 2
        for (int64_t c = lane; c < n; c += kTeam) {
            const float v = hn_f32(z[c]);
            best = better(best, {v, (int32_t)c});
            sum += v;
        }
        best = team_best<kTeam>(best);
        if (prediction != nullptr && lane == 0) prediction[row] = (int32_t)first + best.at;
        if (!counts) return {0.0, 0};

        float powers = 0.0f;
#pragma unroll 2
        for (int64_t c = lane; c < n; c += kTeam) powers += expf(hn_f32(z[c]) - best.z);
        powers = team_sum<kTeam>(powers);
        const int64_t y = (int64_t)label - first;
        const bool known = y >= 0 && y < n;
        const double on = 1.0 - (double)smoothing;
        double loss = (double)best.z + log((double)powers) -
                      on * (known ? (double)hn_f32(z[y]) : (double)NAN);
        if (smoothing > 0.0f) /* the same for all */
            loss -= (double)smoothing * (double)team_sum<kTeam>(sum) / (double)n;
        if (row_loss != nullptr && lane == 0) row_loss[row] = (float)loss;
        if (d != nullptr) {
            const float scale = 1.0f / powers, spread = smoothing / (float)n;
#pragma unroll 2
            for (int64_t c = lane; c < n; c += kTeam)
                d[first + c] = hn_round<T>(expf(hn_f32(z[c]) - best.z) * scale - spread -
                                           (c == y ? (float)on : 0.0f));
        }
        return {loss, HN_ROW_TRAINED + (known && best.at == y ? HN_ROW_HIT : 0)};
    }
};

template <class T>
void launch(const hn_class_ce_args *a, void *scratch, cudaStream_t stream)
{
    const int64_t n = hn_class_count_(a->classes, a->first_class, a->n_classes);
    const ClassCe<T> op = {(const T *)a->logits, a->labels,  (T *)a->dlogits, a->row_loss,
                           a->prediction,        a->classes, a->ld_logits,    a->ld_dlogits,
                           a->first_class,       n,          a->smoothing};
    launch_rows(op, a->rows, n, hn_class_rows_of_(a->rows, scratch),
                {a->loss_sum, a->count, a->hits, hn_replica_count(a->replicas), a->count_stride},
                stream);
}

} // namespace

size_t hn_class_ce_cuda_scratch(const hn_class_ce_args *a)
{
    return hn_class_rows_of_(a->rows, nullptr).n_bytes;
}

hn_status hn_class_ce_cuda(const hn_class_ce_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_class_ce_check(a));
    HN_TRY(hn_check_pointer("class_ce", "scratch", scratch));
    HN_CUDA_REAL(a->dtype, T, launch<T>(a, scratch, stream));
    return HN_CUDA_LAUNCHED("class_ce");
}
