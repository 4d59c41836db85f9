/* A warp or a block takes a row (cuda_class_rows.h) and walks student and teacher three times:
 * largest logits, sums of the powers, loss and gradient; later times from the first cache. */
#include "kernels/loss/cuda_class_rows.h"
#include "kernels/loss/distill.h"
#include "runtime/base/check.h"

namespace {

using namespace hn_class;

template <class T>
struct Distill {
    const T *student, *teacher;
    const int32_t *labels;
    T *dstudent;
    float *row_loss;
    int64_t classes, ld_student, ld_teacher, ld_dstudent, first, n;
    float inverse, factor; /* 1 / T, weight * T */
    double loss_factor;    /* weight * T^2 */

    template <int kTeam>
    __device__ __forceinline__ RowGives row(int64_t row, int lane) const
    {
        const T *const s = student + row * ld_student + first;
        const T *const t = teacher + row * ld_teacher + first;
        T *const d = dstudent != nullptr ? dstudent + row * ld_dstudent : nullptr;
        const bool counts = labels == nullptr || labels[row] != HN_LABEL_IGNORED;
        if (d != nullptr && (!counts || n < classes)) {
            const T zero = hn_round<T>(0.0f);
            for (int64_t k = lane; k < classes; k += kTeam)
                if (!counts || k < first || k >= first + n) d[k] = zero;
        }
        if (!counts) { /* the same for the whole team */
            if (row_loss != nullptr && lane == 0) row_loss[row] = 0.0f;
            return {0.0, 0};
        }
        Best most_s = {-INFINITY, INT32_MAX}, most_t = most_s;
#pragma unroll 2
        for (int64_t c = lane; c < n; c += kTeam) {
            most_s = better(most_s, {hn_f32(s[c]), (int32_t)c});
            most_t = better(most_t, {hn_f32(t[c]), (int32_t)c});
        }
        most_s = team_best<kTeam>(most_s);
        most_t = team_best<kTeam>(most_t);
        float sum_s = 0.0f, sum_t = 0.0f;
#pragma unroll 2
        for (int64_t c = lane; c < n; c += kTeam) {
            sum_s += expf((hn_f32(s[c]) - most_s.z) * inverse);
            sum_t += expf((hn_f32(t[c]) - most_t.z) * inverse);
        }
        sum_s = team_sum<kTeam>(sum_s);
        sum_t = team_sum<kTeam>(sum_t);
        const float shift = (float)(log((double)sum_s) - log((double)sum_t));
        const float scale_s = 1.0f / sum_s, scale_t = 1.0f / sum_t;
        float part = 0.0f;
#pragma unroll 2
        for (int64_t c = lane; c < n; c += kTeam) {
            const float u = (hn_f32(s[c]) - most_s.z) * inverse;
            const float v = (hn_f32(t[c]) - most_t.z) * inverse;
            const float p = expf(u) * scale_s, q = expf(v) * scale_t;
            if (!(q == 0.0f)) part += q * (v - u + shift);
            if (d != nullptr) d[first + c] = hn_round<T>(factor * (p - q));
        }
        const double loss = loss_factor * (double)team_sum<kTeam>(part);
        if (row_loss != nullptr && lane == 0) row_loss[row] = (float)loss;
        return {loss, HN_ROW_TRAINED};
    }
};

template <class T>
void launch(const hn_distill_args *a, void *scratch, cudaStream_t stream)
{
    const int64_t n = hn_class_count_(a->classes, a->first_class, a->n_classes);
    const float temperature = a->temperature != 0.0f ? a->temperature : 1.0f;
    const Distill<T> op = {(const T *)a->student,
                           (const T *)a->teacher,
                           a->labels,
                           (T *)a->dstudent,
                           a->row_loss,
                           a->classes,
                           a->ld_student,
                           a->ld_teacher,
                           a->ld_dstudent,
                           a->first_class,
                           n,
                           1.0f / temperature,
                           a->weight * temperature,
                           (double)a->weight * (double)temperature * (double)temperature};
    launch_rows(op, a->rows, n, hn_class_rows_of_(a->rows, scratch),
                {a->loss_sum, nullptr, nullptr, 1, 0}, stream);
}

} // namespace

size_t hn_distill_cuda_scratch(const hn_distill_args *a)
{
    return hn_class_rows_of_(a->rows, nullptr).n_bytes;
}

hn_status hn_distill_cuda(const hn_distill_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_distill_check(a));
    HN_TRY(hn_check_pointer("distill", "scratch", scratch));
    HN_CUDA_REAL(a->dtype, T, launch<T>(a, scratch, stream));
    return HN_CUDA_LAUNCHED("distill");
}
