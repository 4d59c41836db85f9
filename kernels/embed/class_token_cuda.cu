/* Forward: a thread takes 8 neighbouring columns of a token (1 where alignment forbids 16-byte
 * accesses). Backward: a block takes 32 such spans of one token's place and walks the images in
 * eight interleaved rows of threads, whose sums are then added in order; dx is written in passing.
 */
#include "kernels/embed/class_token.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;

/* ---- forward ---- */

template <class T, class P>
struct Forward {
    const T *x;
    const P *cls, *pos;
    T *y;
    int64_t dim, ld_x, ld_pos, ld_y, cls_stride, pos_stride;
    uint32_t first, tokens, patches, has;
    hn_divisor by_tokens, by_group;
    hn_spans spans;
};

template <class T, class P, int kWidth>
__global__ void __launch_bounds__(kThreads) class_token_fwd_kernel(const Forward<T, P> a)
{
    const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
    if (i >= a.spans.n) return;
    const hn_span_at at = hn_span_place(a.spans, i);
    const uint32_t row = a.first + (uint32_t)at.row;
    const uint32_t image = hn_divide(row, a.by_tokens), t = row - image * a.tokens;
    const int64_t g = hn_divide(image, a.by_group);
    const int64_t col = (int64_t)at.span * kWidth, n = a.dim - col;
    float token[kWidth], pos[kWidth];
    hn_load_span<kWidth>(a.pos + g * a.pos_stride + t * a.ld_pos + col, n, pos);
    if (t < a.has)
        hn_load_span<kWidth>(a.cls + g * a.cls_stride + col, n, token);
    else
        hn_load_span<kWidth>(a.x + ((int64_t)image * a.patches + t - a.has) * a.ld_x + col, n,
                             token);
#pragma unroll
    for (int k = 0; k < kWidth; k++) token[k] += pos[k];
    hn_store_span<kWidth>(a.y + row * a.ld_y + col, n, token);
}

template <class T, class P, int kWidth>
void launch(const hn_class_token_args *a, cudaStream_t stream)
{
    const int64_t has = a->cls != nullptr, tokens = a->patches + has, rows = a->images * tokens;
    const int64_t spans = (a->dim + kWidth - 1) / kWidth;
    for (int64_t row = 0; row < rows; row += hn_band_rows(spans)) {
        const Forward<T, P> f = {(const T *)a->x,
                                 (const P *)a->cls,
                                 (const P *)a->pos,
                                 (T *)a->y,
                                 a->dim,
                                 a->ld_x,
                                 a->ld_pos,
                                 a->ld_y,
                                 a->cls_stride,
                                 a->pos_stride,
                                 (uint32_t)row,
                                 (uint32_t)tokens,
                                 (uint32_t)a->patches,
                                 (uint32_t)has,
                                 hn_divisor_of(tokens),
                                 hn_divisor_of(a->images / hn_replica_count(a->replicas)),
                                 hn_spans_of(rows - row, spans)};
        class_token_fwd_kernel<T, P, kWidth>
            <<<hn_grid(f.spans.n, kThreads, INT32_MAX), kThreads, 0, stream>>>(f);
    }
}

template <class T, class P>
void launch_fwd(const hn_class_token_args *a, cudaStream_t stream)
{
    const hn_dtype p = a->param_dtype;
    if (hn_vectors_fit(a->x, a->ld_x, a->dtype) && hn_vectors_fit(a->y, a->ld_y, a->dtype) &&
        hn_vectors_fit(a->pos, a->ld_pos, p) && hn_vectors_fit(a->pos, a->pos_stride, p) &&
        hn_vectors_fit(a->cls, a->cls_stride, p))
        launch<T, P, HN_VEC>(a, stream);
    else
        launch<T, P, 1>(a, stream);
}

/* ---- backward ---- */

constexpr int kSpans = 32;               /* of a block: a warp's */
constexpr int kRows = kThreads / kSpans; /* of threads, each with images of its own */
constexpr int kBatch = 4;                /* images that a thread has under way */

template <class T>
struct Backward {
    const T *dy;
    T *dx;
    float *dcls, *dpos;
    int64_t dim, ld_dy, ld_dx, ld_dpos, dcls_stride, dpos_stride;
    int64_t group, tokens, patches, has, pieces, items;
};

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) class_token_bwd_kernel(const Backward<T> a)
{
    __shared__ float part[kRows][kWidth][kSpans];
    const int lane = (int)threadIdx.x % kSpans, slice = (int)threadIdx.x / kSpans;
    for (int64_t item = blockIdx.x; item < a.items; item += gridDim.x) {
        const int64_t place = item / a.pieces, first = (item - place * a.pieces) * kSpans * kWidth;
        const int64_t g = place / a.tokens, t = place - g * a.tokens;
        const int64_t col = first + lane * kWidth, n = a.dim - col;
        const bool is_patch = t >= a.has;
        float sum[kWidth] = {};
        for (int64_t i = slice; n > 0 && i < a.group; i += kBatch * kRows) {
            float v[kBatch][kWidth];
#pragma unroll
            for (int b = 0; b < kBatch; b++) {
                const int64_t image = g * a.group + i + b * kRows;
                const bool there = i + b * kRows < a.group;
                hn_load_span<kWidth>(a.dy + (image * a.tokens + t) * a.ld_dy + col, there ? n : 0,
                                     v[b]);
            }
#pragma unroll
            for (int b = 0; b < kBatch; b++) {
                const int64_t image = g * a.group + i + b * kRows;
                if (i + b * kRows >= a.group) continue;
                if (a.dx != nullptr && is_patch)
                    hn_store_span<kWidth>(a.dx + (image * a.patches + t - a.has) * a.ld_dx + col, n,
                                          v[b]);
#pragma unroll
                for (int k = 0; k < kWidth; k++) sum[k] += v[b][k];
            }
        }
        float *const dpos = a.dpos ? a.dpos + g * a.dpos_stride + t * a.ld_dpos : nullptr;
        float *const dcls = a.dcls && t == 0 ? a.dcls + g * a.dcls_stride : nullptr;
        if (dpos == nullptr && dcls == nullptr) continue; /* the same in every thread */
#pragma unroll
        for (int k = 0; k < kWidth; k++) part[slice][k][lane] = sum[k];
        __syncthreads();
        const int64_t to = first + lane * kWidth + slice; /* a thread a column */
        if (slice < kWidth && to < a.dim) {
            float total = part[0][slice][lane];
#pragma unroll
            for (int r = 1; r < kRows; r++) total += part[r][slice][lane];
            if (dpos != nullptr) dpos[to] += total;
            if (dcls != nullptr) dcls[to] += total;
        }
        __syncthreads(); /* before the next item's sums */
    }
}
static_assert(kRows >= HN_VEC, "a row of threads for each column of a span");

constexpr int64_t kMaxBlocks = 1 << 20; /* then a block takes several items */

template <class T, int kWidth>
void launch(const hn_class_token_bwd_args *a, cudaStream_t stream)
{
    const int64_t replicas = hn_replica_count(a->replicas), tokens = a->patches + a->has_cls;
    const int64_t pieces = (a->dim + kSpans * kWidth - 1) / (kSpans * kWidth);
    const Backward<T> b = {(const T *)a->dy,
                           (T *)a->dx,
                           a->dcls,
                           a->dpos,
                           a->dim,
                           a->ld_dy,
                           a->ld_dx,
                           a->ld_dpos,
                           a->dcls_stride,
                           a->dpos_stride,
                           a->images / replicas,
                           tokens,
                           a->patches,
                           a->has_cls,
                           pieces,
                           replicas * tokens * pieces};
    class_token_bwd_kernel<T, kWidth><<<hn_grid(b.items, 1, kMaxBlocks), kThreads, 0, stream>>>(b);
}

template <class T>
void launch_bwd(const hn_class_token_bwd_args *a, cudaStream_t stream)
{
    if (hn_vectors_fit(a->dy, a->ld_dy, a->dtype) && hn_vectors_fit(a->dx, a->ld_dx, a->dtype))
        launch<T, HN_VEC>(a, stream);
    else
        launch<T, 1>(a, stream);
}

} // namespace

hn_status hn_class_token_fwd_cuda(const hn_class_token_args *a, hn_stream stream)
{
    HN_TRY(hn_class_token_check(a));
    HN_CUDA_REAL(a->dtype, T, HN_CUDA_REAL(a->param_dtype, P, launch_fwd<T, P>(a, stream)));
    return HN_CUDA_LAUNCHED("class_token");
}

hn_status hn_class_token_bwd_cuda(const hn_class_token_bwd_args *a, hn_stream stream)
{
    HN_TRY(hn_class_token_bwd_check(a));
    HN_CUDA_REAL(a->dtype, T, launch_bwd<T>(a, stream));
    return HN_CUDA_LAUNCHED("class_token_bwd");
}
