/* Depthwise convolutions have kernels of their own, and so have forward and
 * the gradient of w of a few taps. The others
 * are matrix products: of x itself where the kernel is 1 x 1, else of its patches, which are laid
 * out in the scratch a piece at a time. (cuDNN, which lays out nothing, is in conv2d_cudnn.h.) */
#include "kernels/conv/conv2d.h"

#include <inttypes.h>

#include "kernels/conv/cuda_conv2d.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1ll << 16;   /* blocks loop over what is left */
constexpr int64_t kPieceBytes = 64ll << 20; /* of patches; a few times what L2 holds */
/* Of patches of several replicas: their products are small, and those of as few as L2 holds would
 * leave half of the last wave of tiles empty. A hundred clients of 32 images of 64 pixels, 5 x 5 x
 * 32 taps each, are 625 MiB in f32. */
constexpr int64_t kReplicaBytes = 1ll << 30;

/* ---- bias and relu behind a product ---- */

/* y and from may be the same memory: an element is read and then written by one thread. */
template <class F, class B, class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(const F *from, const B *bias, T *y, int64_t rows, int64_t cols, int64_t group,
                  int64_t ld_from, int64_t ld_y, int64_t bias_stride, bool relu)
{
    const int64_t spans = (cols + kWidth - 1) / kWidth;
    for (int64_t at = (int64_t)blockIdx.x * kThreads + threadIdx.x; at < rows * spans;
         at += (int64_t)gridDim.x * kThreads) {
        const int64_t row = at / spans, col = (at - row * spans) * kWidth, n = cols - col;
        const B *const add = bias == nullptr ? nullptr : bias + row / group * bias_stride + col;
        float v[kWidth];
        hn_load_span<kWidth>(from + row * ld_from + col, n, v);
#pragma unroll
        for (int k = 0; k < kWidth; k++) {
            if (add != nullptr && k < n) v[k] += hn_f32(add[k]);
            if (relu && v[k] < 0.0f) v[k] = 0.0f; /* NaN stays */
        }
        hn_store_span<kWidth>(y + row * ld_y + col, n, v);
    }
}

template <class F, class B, class T>
void launch_finish(const hn_conv2d_finish *a, cudaStream_t stream)
{
    const F *const from = static_cast<const F *>(a->from);
    const B *const bias = static_cast<const B *>(a->bias);
    T *const y = static_cast<T *>(a->y);
    const bool packs = hn_vectors_fit(a->from, a->ld_from, a->from_dtype) &&
                       hn_vectors_fit(a->y, a->ld_y, a->dtype);
    const int64_t width = packs ? HN_VEC : 1, n = a->rows * ((a->cols + width - 1) / width);
    const unsigned blocks = hn_grid(n, kThreads, kMaxBlocks);
    if (packs)
        finish_kernel<F, B, T, HN_VEC>
            <<<blocks, kThreads, 0, stream>>>(from, bias, y, a->rows, a->cols, a->group, a->ld_from,
                                              a->ld_y, a->bias_stride, a->relu);
    else
        finish_kernel<F, B, T, 1><<<blocks, kThreads, 0, stream>>>(from, bias, y, a->rows, a->cols,
                                                                   a->group, a->ld_from, a->ld_y,
                                                                   a->bias_stride, a->relu);
}

/* ---- the pieces ---- */

/* A convolution in pieces: rows of y of one replica, or whole replicas. */
struct Pieces {
    int64_t replicas, images; /* of one replica */
    int64_t rows;             /* of y, of one replica */
    int64_t at_once;          /* replicas a piece */
    int64_t piece;            /* rows a piece, of all its replicas */
    int64_t group_in, group_out, taps;
    int64_t ld, group_stride; /* of patches; 0 where x itself serves */
    int64_t padded_w;         /* elements; 0: the product takes w as it lies */
};

/* As many replicas a piece as there is room for; 1 where a product is one of groups already. */
void set_replicas(Pieces *p, const hn_conv2d_shape *s, int64_t bytes)
{
    const int64_t most = bytes > 0 ? kReplicaBytes / bytes : p->replicas;
    if (p->replicas == 1 || s->groups > 1 || most < 2) return;
    const int64_t pieces = (p->replicas + most - 1) / most;
    p->at_once = (p->replicas + pieces - 1) / pieces;
    p->piece = p->at_once * p->rows;
}

/* patch: dtype of patches. whole: pieces are whole images */
Pieces pieces_of(const hn_conv2d_shape *s, int64_t replicas, hn_dtype patch, bool whole)
{
    const int64_t per_image = hn_conv2d_out_h(s) * hn_conv2d_out_w(s);
    Pieces p = {};
    p.replicas = hn_replica_count(replicas);
    p.images = s->n / p.replicas;
    p.rows = p.piece = p.images * per_image;
    p.group_in = s->in / s->groups, p.group_out = s->out / s->groups;
    p.taps = hn_conv2d_taps(s);
    p.at_once = 1;
    if (hn_conv2d_is_product(s)) {
        set_replicas(&p, s, 0);
        return p;
    }
    p.ld = hn_gemm_cuda_padded(p.taps, patch);
    const int64_t unit = whole ? per_image : 1;
    const int64_t row = s->groups * p.ld * (int64_t)hn_dtype_size(patch), bytes = unit * row;
    const int64_t units = kPieceBytes / bytes > 1 ? kPieceBytes / bytes : 1;
    set_replicas(&p, s, p.rows * row);
    if (p.at_once == 1 && units * unit < p.rows) p.piece = units * unit;
    p.group_stride = p.piece * p.ld;
    return p;
}

/* Rows first .. first + rows of y, counted over all images: of `count` replicas from `at` on. */
struct Piece {
    int64_t at, count, first, rows;
};

/* run(piece) for all of them, in order. */
template <class Run>
hn_status for_pieces(const Pieces &p, Run run)
{
    for (int64_t at = 0, count; at < p.replicas; at += count) {
        count = p.replicas - at < p.at_once ? p.replicas - at : p.at_once;
        const int64_t all = count * p.rows;
        for (int64_t row = 0; row < all; row += p.piece)
            HN_TRY(run(
                Piece{at, count, at * p.rows + row, all - row < p.piece ? all - row : p.piece}));
    }
    return HN_OK;
}

/* The batch of a piece's product: its replicas, or the groups of one. */
int64_t batch_of(const Piece &i, const hn_conv2d_shape *s)
{
    return i.count > 1 ? i.count : s->groups;
}

/* From one matrix of the batch to the next. */
int64_t batch_stride(const Piece &i, int64_t of_replicas, int64_t of_groups)
{
    return i.count > 1 ? of_replicas : of_groups;
}

size_t patch_bytes(const Pieces &p, const hn_conv2d_shape *s, hn_dtype patch)
{
    const size_t bytes = (size_t)(s->groups * p.group_stride) * hn_dtype_size(patch);
    return (bytes + 255) / 256 * 256;
}

hn_conv2d_patches patches_of(const Pieces &p, const hn_conv2d_shape *s, hn_dtype dtype,
                             const Piece &i)
{
    hn_conv2d_patches k = {};
    k.shape = *s;
    k.first = i.first, k.rows = i.rows;
    k.ld = p.ld, k.group_stride = p.group_stride;
    k.dtype = dtype;
    return k;
}

/* Kernels count taps and places in padded images in 32 bits. */
hn_status check_extent(const char *op, const hn_conv2d_shape *s)
{
    if (s->kh * s->kw > INT32_MAX / s->in)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "%s: patches of %" PRId64 " x %" PRId64 " pixels of %" PRId64
                       " channels are larger than 2^31 - 1",
                       op, s->kh, s->kw, s->in);
    if (s->h + 2 * s->pad > INT32_MAX || s->w + 2 * s->pad > INT32_MAX)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "%s: images of %" PRId64 " x %" PRId64 " with padding %" PRId64
                       " are larger than 2^31 - 1",
                       op, s->h, s->w, s->pad);
    return HN_OK;
}

const void *element(const void *p, int64_t at, hn_dtype t)
{
    return p == nullptr ? nullptr : static_cast<const char *>(p) + at * (int64_t)hn_dtype_size(t);
}

void *element(void *p, int64_t at, hn_dtype t)
{
    return static_cast<char *>(p) + at * (int64_t)hn_dtype_size(t);
}

/* A and its leading dimension, stride of the batch: rows of x, or their patches. */
hn_status lay_out(const Pieces &p, const Piece &i, const hn_conv2d_patches &k, const void *x,
                  int64_t ld_x, void *patches, const void **a, int64_t *ld, int64_t *stride,
                  hn_stream stream)
{
    if (p.ld == 0) {
        *a = element(x, k.first * ld_x, k.dtype), *ld = ld_x;
        *stride = batch_stride(i, p.rows * ld_x, p.group_in);
        return HN_OK;
    }
    *a = patches, *ld = p.ld, *stride = batch_stride(i, p.rows * p.ld, p.group_stride);
    return hn_conv2d_patches_of(&k, x, ld_x, patches, stream);
}

} // namespace

hn_status hn_conv2d_finish_cuda(const hn_conv2d_finish *a, hn_stream stream)
{
    const bool bf16 = a->bias_dtype == HN_BF16;
    using half = __nv_bfloat16;
    if (a->dtype == HN_F32)
        bf16 ? launch_finish<float, half, float>(a, stream)
             : launch_finish<float, float, float>(a, stream);
    else if (a->from_dtype == HN_F32)
        bf16 ? launch_finish<float, half, half>(a, stream)
             : launch_finish<float, float, half>(a, stream);
    else
        bf16 ? launch_finish<half, half, half>(a, stream)
             : launch_finish<half, float, half>(a, stream);
    return HN_CUDA_LAUNCHED("conv2d: bias and relu");
}

hn_status hn_conv2d_finish_y_cuda(const hn_conv2d_args *a, hn_stream stream)
{
    const hn_conv2d_shape *const s = &a->shape;
    hn_conv2d_finish f = {};
    f.from = f.y = a->y, f.ld_from = f.ld_y = a->ld_y, f.from_dtype = f.dtype = a->dtype;
    f.bias = a->bias, f.bias_dtype = a->bias_dtype, f.relu = a->relu;
    f.rows = s->n * hn_conv2d_out_h(s) * hn_conv2d_out_w(s), f.cols = s->out;
    f.group = f.rows / hn_replica_count(a->replicas);
    f.bias_stride = a->replicas > 1 ? a->bias_stride : 0;
    return hn_conv2d_finish_cuda(&f, stream);
}

/* ---- forward ---- */

/* Scratch: patches | w with zeros behind its rows | an f32 product, where the bias has another
 * dtype than y */
static bool is_apart(const hn_conv2d_args *a) { return a->bias_dtype != a->dtype; }

/* Sums over 27 or 147 taps keep cuBLASLt from its fast bf16 kernels, which want 16 bytes: patches
 * and w get zeros behind their rows, which they are then multiplied with. Not with replicas. */
static Pieces fwd_pieces_of(const hn_conv2d_args *a)
{
    Pieces p = pieces_of(&a->shape, a->replicas, a->dtype, false);
    if (a->dtype == HN_BF16 && p.ld > p.taps && p.replicas == 1 &&
        hn_conv2d_patches_are_padded(&a->shape, a->ld_x, a->dtype))
        p.padded_w = a->shape.out * p.ld;
    return p;
}

static size_t padded_w_bytes(const hn_conv2d_args *a, const Pieces &p)
{
    return ((size_t)p.padded_w * hn_dtype_size(a->dtype) + 255) / 256 * 256;
}

size_t hn_conv2d_fwd_cuda_scratch(const hn_conv2d_args *a)
{
    if (hn_conv2d_depthwise_fits(&a->shape, a->replicas) ||
        hn_conv2d_direct_fits(&a->shape, a->replicas))
        return 0;
    const Pieces p = fwd_pieces_of(a);
    const int64_t product = is_apart(a) ? p.piece * hn_gemm_cuda_padded(a->shape.out, HN_F32) : 0;
    return patch_bytes(p, &a->shape, a->dtype) + padded_w_bytes(a, p) +
           (size_t)product * sizeof(float);
}

static hn_status forward_piece(const hn_conv2d_args *a, const Pieces &p, const Piece &i,
                               hn_gemm_cuda *gemm, char *scratch, hn_stream stream)
{
    const hn_conv2d_shape *const s = &a->shape;
    const bool apart = a->bias != nullptr && is_apart(a);
    const void *const bias =
        element(a->bias, p.replicas > 1 ? i.at * a->bias_stride : 0, a->bias_dtype);
    void *const y = element(a->y, i.first * a->ld_y, a->dtype);
    hn_conv2d_patches k = patches_of(p, s, a->dtype, i);
    k.w = element(a->w, p.replicas > 1 ? i.at * a->w_stride : 0, a->dtype), k.ld_w = a->ld_w;
    if (p.padded_w > 0) k.padded_w = scratch + patch_bytes(p, s, a->dtype);
    hn_gemm_cuda_args g = {};
    HN_TRY(lay_out(p, i, k, a->x, a->ld_x, scratch, &g.a, &g.ld_a, &g.a_stride, stream));
    g.batch = batch_of(i, s), g.m = i.rows / i.count, g.n = p.group_out, g.k = p.taps;
    g.b = k.w, g.ld_b = a->ld_w, g.trans_b = true;
    g.b_stride = batch_stride(i, a->w_stride, p.group_out * a->ld_w);
    if (p.padded_w > 0) g.b = k.padded_w, g.k = g.ld_b = p.ld;
    g.c = y, g.ld_c = a->ld_y, g.c_dtype = a->dtype;
    g.bias_stride = batch_stride(i, a->bias_stride, p.group_out);
    g.bias = bias, g.dtype = a->dtype, g.alpha = 1.0f;
    if (apart) {
        g.c = scratch + patch_bytes(p, s, a->dtype) + padded_w_bytes(a, p), g.c_dtype = HN_F32;
        g.ld_c = hn_gemm_cuda_padded(s->out, HN_F32), g.bias = nullptr;
    }
    g.c_stride = batch_stride(i, g.m * g.ld_c, p.group_out);
    HN_TRY(hn_gemm_cuda_run(gemm, &g, stream));
    if (!apart && !a->relu) return HN_OK;
    hn_conv2d_finish f = {};
    f.from = g.c, f.ld_from = g.ld_c, f.from_dtype = g.c_dtype;
    f.y = y, f.ld_y = a->ld_y, f.dtype = a->dtype;
    f.bias = apart ? bias : nullptr, f.bias_dtype = a->bias_dtype, f.relu = a->relu;
    f.rows = i.rows, f.group = i.rows / i.count, f.cols = s->out;
    f.bias_stride = i.count > 1 ? a->bias_stride : 0;
    return hn_conv2d_finish_cuda(&f, stream);
}

hn_status hn_conv2d_fwd_cuda(const hn_conv2d_args *a, hn_gemm_cuda *gemm, void *scratch,
                             hn_stream stream)
{
    HN_TRY(hn_conv2d_check(a));
    HN_TRY(check_extent("conv2d", &a->shape));
    if (hn_conv2d_depthwise_fits(&a->shape, a->replicas)) return hn_conv2d_depthwise_fwd(a, stream);
    if (hn_conv2d_direct_fits(&a->shape, a->replicas)) return hn_conv2d_direct_fwd(a, stream);
    if (hn_conv2d_fwd_cuda_scratch(a) > 0) HN_TRY(hn_check_pointer("conv2d", "scratch", scratch));
    const Pieces p = fwd_pieces_of(a);
    return for_pieces(p, [&](const Piece &i) {
        return forward_piece(a, p, i, gemm, static_cast<char *>(scratch), stream);
    });
}

/* ---- gradient of x ---- */

size_t hn_conv2d_dx_cuda_scratch(const hn_conv2d_dx_args *a)
{
    if (hn_conv2d_depthwise_fits(&a->shape, a->replicas)) return 0;
    return patch_bytes(pieces_of(&a->shape, a->replicas, HN_F32, true), &a->shape, HN_F32);
}

static hn_status dx_piece(const hn_conv2d_dx_args *a, const Pieces &p, const Piece &i,
                          hn_gemm_cuda *gemm, void *scratch, hn_stream stream)
{
    const hn_conv2d_shape *const s = &a->shape;
    hn_gemm_cuda_args g = {};
    g.batch = batch_of(i, s), g.m = i.rows / i.count, g.n = p.taps, g.k = p.group_out;
    g.a = element(a->dy, i.first * a->ld_dy, a->dtype), g.ld_a = a->ld_dy;
    g.a_stride = batch_stride(i, g.m * a->ld_dy, p.group_out);
    g.b = element(a->w, p.replicas > 1 ? i.at * a->w_stride : 0, a->dtype);
    g.ld_b = a->ld_w, g.b_stride = batch_stride(i, a->w_stride, p.group_out * a->ld_w);
    g.dtype = a->dtype, g.alpha = 1.0f;
    if (p.ld == 0) { /* dx itself */
        g.c = element(a->dx, i.first * a->ld_dx, a->dtype), g.ld_c = a->ld_dx;
        g.c0 = element(a->add, i.first * a->ld_add, a->dtype), g.ld_c0 = a->ld_add;
        g.c_stride = batch_stride(i, g.m * a->ld_dx, p.group_in);
        g.c0_stride = batch_stride(i, g.m * a->ld_add, p.group_in);
        g.c_dtype = a->dtype, g.beta = a->add != nullptr ? 1.0f : 0.0f;
        return hn_gemm_cuda_run(gemm, &g, stream);
    }
    g.c = scratch, g.ld_c = p.ld, g.c_dtype = HN_F32;
    g.c_stride = batch_stride(i, g.m * p.ld, p.group_stride);
    HN_TRY(hn_gemm_cuda_run(gemm, &g, stream));
    const hn_conv2d_patches k = patches_of(p, s, a->dtype, i);
    return hn_conv2d_patches_sum(&k, static_cast<const float *>(scratch), a->add, a->ld_add, a->dx,
                                 a->ld_dx, stream);
}

hn_status hn_conv2d_dx_cuda(const hn_conv2d_dx_args *a, hn_gemm_cuda *gemm, void *scratch,
                            hn_stream stream)
{
    HN_TRY(hn_conv2d_dx_check(a));
    HN_TRY(check_extent("conv2d_dx", &a->shape));
    if (hn_conv2d_depthwise_fits(&a->shape, a->replicas)) return hn_conv2d_depthwise_dx(a, stream);
    const Pieces p = pieces_of(&a->shape, a->replicas, HN_F32, true);
    if (p.ld != 0) HN_TRY(hn_check_pointer("conv2d_dx", "scratch", scratch));
    return for_pieces(p, [&](const Piece &i) { return dx_piece(a, p, i, gemm, scratch, stream); });
}

/* ---- gradient of w ---- */

size_t hn_conv2d_dw_cuda_scratch(const hn_conv2d_dw_args *a)
{
    if (hn_conv2d_depthwise_fits(&a->shape, a->replicas)) return hn_conv2d_depthwise_dw_scratch(a);
    if (hn_conv2d_direct_fits(&a->shape, a->replicas)) return hn_conv2d_direct_dw_scratch(a);
    return patch_bytes(pieces_of(&a->shape, a->replicas, a->dtype, false), &a->shape, a->dtype);
}

static hn_status dw_piece(const hn_conv2d_dw_args *a, const Pieces &p, const Piece &i,
                          hn_gemm_cuda *gemm, void *scratch, hn_stream stream)
{
    const hn_conv2d_shape *const s = &a->shape;
    hn_gemm_cuda_args g = {};
    const hn_conv2d_patches k = patches_of(p, s, a->dtype, i);
    HN_TRY(lay_out(p, i, k, a->x, a->ld_x, scratch, &g.b, &g.ld_b, &g.b_stride, stream));
    g.batch = batch_of(i, s), g.m = p.group_out, g.n = p.taps, g.k = i.rows / i.count;
    g.a = element(a->dy, i.first * a->ld_dy, a->dtype), g.ld_a = a->ld_dy;
    g.a_stride = batch_stride(i, g.k * a->ld_dy, p.group_out), g.trans_a = true;
    g.c = a->dw + (p.replicas > 1 ? i.at * a->dw_stride : 0);
    g.ld_c = a->ld_dw, g.c_stride = batch_stride(i, a->dw_stride, p.group_out * a->ld_dw);
    g.dtype = a->dtype, g.c_dtype = HN_F32;
    g.alpha = g.beta = 1.0f;
    return hn_gemm_cuda_run(gemm, &g, stream);
}

hn_status hn_conv2d_dw_cuda(const hn_conv2d_dw_args *a, hn_gemm_cuda *gemm, void *scratch,
                            hn_stream stream)
{
    HN_TRY(hn_conv2d_dw_check(a));
    HN_TRY(check_extent("conv2d_dw", &a->shape));
    if (hn_conv2d_depthwise_fits(&a->shape, a->replicas))
        return hn_conv2d_depthwise_dw(a, scratch, stream);
    if (hn_conv2d_direct_fits(&a->shape, a->replicas))
        return hn_conv2d_direct_dw(a, scratch, stream);
    const Pieces p = pieces_of(&a->shape, a->replicas, a->dtype, false);
    if (p.ld != 0) HN_TRY(hn_check_pointer("conv2d_dw", "scratch", scratch));
    return for_pieces(p, [&](const Piece &i) { return dw_piece(a, p, i, gemm, scratch, stream); });
}
