/* Three passes: blocks sum over voxels of one image, threads in fp32 over a few dozen of them, then
 * in double; one block an image adds the blocks' sums in order and makes the slopes, one thread the
 * totals; the gradient, a thread a voxel. */
#include "kernels/loss/seg_loss.h"

#include "kernels/loss/seg_sums.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_math.h"

namespace {

constexpr int kThreads = 128;
constexpr int64_t kVoxels = 32;       /* of a thread, as long as there are blocks for all */
constexpr int64_t kMostBlocks = 1056; /* eight a multiprocessor of an H200, of one image */
constexpr int64_t kMaxBlocks = 1ll << 20;

struct Layout {
    int64_t blocks;  /* of an image */
    double *sums;    /* [images][blocks][HN_SEG_SUMS] */
    double *results; /* [images][3] loss, labelled, share of hits */
    hn_seg_slopes *slopes;
    size_t bytes;
};

Layout layout_of(const hn_seg_loss_args *a, void *scratch)
{
    Layout l = {};
    const int64_t wanted = (a->voxels + kThreads * kVoxels - 1) / (kThreads * kVoxels);
    l.blocks = wanted < kMostBlocks ? wanted : kMostBlocks;
    const int64_t sums = a->images * l.blocks * HN_SEG_SUMS;
    l.sums = static_cast<double *>(scratch);
    l.results = l.sums + sums;
    l.slopes = reinterpret_cast<hn_seg_slopes *>(l.results + 3 * a->images);
    l.bytes =
        (size_t)(sums + 3 * a->images) * sizeof(double) + (size_t)a->images * sizeof(hn_seg_slopes);
    return l;
}

template <class T>
struct Loss {
    const T *logits;
    const int32_t *labels;
    T *dlogits;
    int32_t *prediction;
    int64_t voxels, ld_logits, ld_dlogits;
    int classes;
    hn_seg_terms terms;
};

template <int kC>
struct Voxel {
    float z[kC], p[kC], log_powers;
    int best;
};

/* Softmax of one row; classes that are not there have p 0. */
template <class T, int kC>
__device__ __forceinline__ void look(const Loss<T> &a, int64_t row, Voxel<kC> &v)
{
    float powers = 0.0f, most = 0.0f;
    v.best = 0;
#pragma unroll
    for (int c = 0; c < kC; c++) {
        v.z[c] = c < a.classes ? hn_f32(a.logits[row * a.ld_logits + c]) : 0.0f;
        const bool first = c == 0;
        if (c < a.classes && (first || v.z[c] > most || (isnan(v.z[c]) && !isnan(most))))
            most = v.z[c], v.best = c;
    }
#pragma unroll
    for (int c = 0; c < kC; c++) {
        v.p[c] = c < a.classes ? expf(v.z[c] - most) : 0.0f;
        powers += v.p[c];
    }
#pragma unroll
    for (int c = 0; c < kC; c++) v.p[c] /= powers;
    v.log_powers = most + logf(powers);
}

struct Focal {
    float weight, b, q;
};

__device__ __forceinline__ Focal focal_of(float z, bool mine, float gamma)
{
    const float u = mine ? z : -z, e = expf(-fabsf(u)), far = e / (1.0f + e);
    const float b = fmaxf(-u, 0.0f) + log1pf(e);
    return {expf(-gamma * (u + b)), b, u < 0.0f ? 1.0f - far : far};
}

template <class T, int kC>
__global__ void __launch_bounds__(kThreads, 2) sum_kernel(const Loss<T> a, double *sums)
{
    const bool focal = a.terms.w_focal != 0.0f;
    const int64_t image = blockIdx.y;
    float p[kC] = {}, both[kC] = {}, t[kC] = {}, weighed[kC] = {}, weight[kC] = {};
    float cross = 0.0f, voxels = 0.0f, hits = 0.0f;
    for (int64_t at = (int64_t)blockIdx.x * kThreads + threadIdx.x; at < a.voxels;
         at += (int64_t)gridDim.x * kThreads) {
        const int64_t row = image * a.voxels + at;
        const int32_t y = a.labels[row];
        Voxel<kC> v;
        look<T, kC>(a, row, v);
        if (a.prediction != nullptr) a.prediction[row] = v.best;
        if (y == HN_LABEL_IGNORED) continue;
        if (y < 0 || y >= a.classes) cross = NAN; /* the loader's promise is broken */
#pragma unroll
        for (int c = 0; c < kC; c++) {
            const bool mine = c == y;
            p[c] += v.p[c];
            both[c] += mine ? v.p[c] : 0.0f;
            t[c] += mine ? 1.0f : 0.0f;
            cross += mine ? v.log_powers - v.z[c] : 0.0f;
            if (!focal) continue;
            const Focal f = focal_of(v.z[c], mine, a.terms.gamma);
            weighed[c] += (mine ? a.terms.alpha : 1.0f - a.terms.alpha) * f.weight * f.b;
            weight[c] += f.weight;
        }
        voxels += 1.0f;
        hits += v.best == y ? 1.0f : 0.0f;
    }
    double *const to = sums + (image * gridDim.x + blockIdx.x) * HN_SEG_SUMS;
    const auto put = [&](int k, float v) {
        const double sum = hn_block_sum<kThreads>((double)v);
        if (threadIdx.x == 0) to[k] = sum;
    };
#pragma unroll
    for (int c = 0; c < kC; c++) {
        if (c >= a.classes) break;
        put(c * HN_SEG_EACH + HN_SEG_BOTH, both[c]);
        put(c * HN_SEG_EACH + HN_SEG_P, p[c]);
        put(c * HN_SEG_EACH + HN_SEG_T, t[c]);
        put(c * HN_SEG_EACH + HN_SEG_FOCAL, weighed[c]);
        put(c * HN_SEG_EACH + HN_SEG_WEIGHT, weight[c]);
    }
    put(HN_SEG_CROSS, cross);
    put(HN_SEG_VOXELS, voxels);
    put(HN_SEG_HITS, hits);
}

/* A thread adds one sum of all blocks, in order. */
__global__ void __launch_bounds__(kThreads)
    image_kernel(const double *sums, int64_t blocks, int classes, const hn_seg_terms terms,
                 double *results, hn_seg_slopes *slopes)
{
    static_assert(HN_SEG_SUMS <= kThreads, "a thread a sum");
    __shared__ double total[HN_SEG_SUMS];
    const int64_t image = blockIdx.x;
    const double *const mine = sums + image * blocks * HN_SEG_SUMS;
    const int k = (int)threadIdx.x;
    if (k < classes * HN_SEG_EACH || (k >= HN_SEG_CROSS && k < HN_SEG_SUMS)) {
        double sum = 0.0;
#pragma unroll 4
        for (int64_t b = 0; b < blocks; b++) sum += mine[b * HN_SEG_SUMS + k];
        total[k] = sum;
    }
    __syncthreads();
    if (k > 0) return;
    const double loss = hn_seg_image(total, classes, &terms, &slopes[image]);
    const double voxels = total[HN_SEG_VOXELS];
    results[3 * image] = loss;
    results[3 * image + 1] = voxels > 0.0 ? 1.0 : 0.0;
    results[3 * image + 2] = voxels > 0.0 ? total[HN_SEG_HITS] / voxels : 0.0;
}

__global__ void total_kernel(const double *results, int64_t images, float *loss, float *count,
                             float *hits)
{
    double sum[3] = {};
    for (int64_t i = 0; i < images; i++)
        for (int k = 0; k < 3; k++) sum[k] += results[3 * i + k];
    if (loss != nullptr) *loss = (float)((double)*loss + sum[0]);
    if (count != nullptr) *count = (float)((double)*count + sum[1]);
    if (hits != nullptr) *hits = (float)((double)*hits + sum[2]);
}

template <class T, int kC>
__global__ void __launch_bounds__(kThreads)
    gradient_kernel(const Loss<T> a, int64_t rows, const hn_seg_slopes *__restrict__ slopes)
{
    const bool focal = a.terms.w_focal != 0.0f;
    for (int64_t row = (int64_t)blockIdx.x * kThreads + threadIdx.x; row < rows;
         row += (int64_t)gridDim.x * kThreads) {
        const int32_t y = a.labels[row];
        const hn_seg_slopes &s = slopes[row / a.voxels];
        T *const to = a.dlogits + row * a.ld_dlogits;
        Voxel<kC> v;
        look<T, kC>(a, row, v);
        float mean = 0.0f;
#pragma unroll
        for (int c = 0; c < kC; c++) {
            if (c >= a.classes) break;
            mean += v.p[c] * (s.dice[c] + (c == y ? s.dice_t[c] : 0.0f));
        }
#pragma unroll
        for (int c = 0; c < kC; c++) {
            if (c >= a.classes) break;
            const bool mine = c == y;
            float d = v.p[c] * (s.dice[c] + (mine ? s.dice_t[c] : 0.0f) - mean);
            d += s.cross * (v.p[c] - (mine ? 1.0f : 0.0f));
            if (focal) {
                const Focal f = focal_of(v.z[c], mine, a.terms.gamma);
                const float alpha = mine ? a.terms.alpha : 1.0f - a.terms.alpha;
                const float slope = -a.terms.gamma * f.weight * (1.0f - f.q);
                const float by_u =
                    s.focal[c] * alpha * (slope * f.b - f.weight * f.q) - s.weight[c] * slope;
                d += mine ? by_u : -by_u;
            }
            to[c] = hn_round<T>(y == HN_LABEL_IGNORED ? 0.0f : d);
        }
    }
}

template <class T, int kC>
void launch(const hn_seg_loss_args *a, const Layout &l, cudaStream_t stream)
{
    Loss<T> k = {};
    k.logits = static_cast<const T *>(a->logits), k.labels = a->labels;
    k.dlogits = static_cast<T *>(a->dlogits), k.prediction = a->prediction;
    k.voxels = a->voxels, k.ld_logits = a->ld_logits, k.ld_dlogits = a->ld_dlogits;
    k.classes = (int)a->classes, k.terms = a->terms;
    const dim3 grid((unsigned)l.blocks, (unsigned)a->images);
    sum_kernel<T, kC><<<grid, kThreads, 0, stream>>>(k, l.sums);
    image_kernel<<<(unsigned)a->images, kThreads, 0, stream>>>(l.sums, l.blocks, k.classes,
                                                               a->terms, l.results, l.slopes);
    total_kernel<<<1, 1, 0, stream>>>(l.results, a->images, a->loss_sum, a->count, a->hits);
    if (a->dlogits == nullptr) return;
    const int64_t rows = a->images * a->voxels;
    gradient_kernel<T, kC>
        <<<hn_grid(rows, kThreads, kMaxBlocks), kThreads, 0, stream>>>(k, rows, l.slopes);
}

} // namespace

size_t hn_seg_loss_cuda_scratch(const hn_seg_loss_args *a) { return layout_of(a, nullptr).bytes; }

hn_status hn_seg_loss_cuda(const hn_seg_loss_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_seg_loss_check(a));
    HN_TRY(hn_check_pointer("seg_loss", "scratch", scratch));
    if (a->images > 65535) /* a dimension of the grid */
        return HN_FAIL(HN_ERR_UNSUPPORTED, "seg_loss: %lld images at a time, at most 65535",
                       (long long)a->images);
    const Layout l = layout_of(a, scratch);
    if (a->classes <= 4)
        HN_CUDA_REAL(a->dtype, T, launch<T, 4>(a, l, stream));
    else
        HN_CUDA_REAL(a->dtype, T, launch<T, HN_SEG_CLASSES>(a, l, stream));
    return HN_CUDA_LAUNCHED("seg_loss");
}
