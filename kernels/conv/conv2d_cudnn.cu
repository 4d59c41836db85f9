/* A call is cuDNN's plan, once a replica, and behind it a small kernel for what the plan leaves
 * over: bias and relu, `add`, or adding dw to what is there. */
#include "kernels/conv/conv2d_cudnn.h"

#include <inttypes.h>
#include <string.h>

#include "kernels/activation/elementwise.h"
#include "kernels/conv/cuda_conv2d.h"
#include "runtime/base/alloc.h"
#include "runtime/base/check.h"

#ifndef HONE_CUDNN

static hn_status no_headers()
{
    return HN_FAIL(HN_ERR_UNSUPPORTED, "this build has no cuDNN: its headers were not there");
}

hn_status hn_conv2d_cudnn_open(hn_cudnn *, hn_conv2d_cudnn **) { return no_headers(); }
void hn_conv2d_cudnn_close(hn_conv2d_cudnn *) {}
const char *hn_conv2d_cudnn_version(const hn_conv2d_cudnn *) { return "none"; }

#define NO_PASS(pass, args)                                                              \
    hn_status hn_conv2d_cudnn_plan_##pass(hn_conv2d_cudnn *, const args *, size_t *)     \
    {                                                                                    \
        return no_headers();                                                             \
    }                                                                                    \
    hn_status hn_conv2d_cudnn_##pass(hn_conv2d_cudnn *, const args *, void *, hn_stream) \
    {                                                                                    \
        return no_headers();                                                             \
    }
NO_PASS(fwd, hn_conv2d_args)
NO_PASS(dx, hn_conv2d_dx_args)
NO_PASS(dw, hn_conv2d_dw_args)

#else
#include "kernels/conv/cuda_conv2d_cudnn.h"

static const char op[] = "conv2d through cuDNN";

hn_status hn_conv2d_cudnn_open(hn_cudnn *lib, hn_conv2d_cudnn **out)
{
    HN_TRY(hn_check_pointer(op, "the library", lib));
    hn_conv2d_cudnn *c = static_cast<hn_conv2d_cudnn *>(hn_calloc(1, sizeof *c));
    if (c == nullptr) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for convolution plans", sizeof *c);
    c->lib = lib;
    *out = c;
    return HN_OK;
}

void hn_conv2d_cudnn_close(hn_conv2d_cudnn *c)
{
    if (c == nullptr) return;
    for (int64_t i = 0; i < c->n_plans; i++)
        (void)c->lib->BackendDestroyDescriptor(c->plans[i].plan);
    hn_free(c->plans);
    hn_free(c);
}

const char *hn_conv2d_cudnn_version(const hn_conv2d_cudnn *c) { return c->lib->version; }

/* ---- limits ---- */

/* Rows of an operand, ld elements apart. */
static hn_status check_ld(const char *name, int64_t rows, int64_t ld, hn_dtype t)
{
    if (ld * (int64_t)hn_dtype_size(t) % 16 != 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "leading dimension %" PRId64 " of %s: multiples of 16 bytes", ld, name);
    if (rows * ld >= (int64_t)1 << 31)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "%" PRId64 " rows of %s, %" PRId64 " elements apart: below 2^31 elements",
                       rows, name, ld);
    return HN_OK;
}

static hn_status check_gaps(const hn_conv2d_shape *s, int64_t ld_w)
{
    if (ld_w == hn_conv2d_taps(s)) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED,
                   "rows of w with %" PRId64 " values, %" PRId64 " apart: it takes no gaps there",
                   hn_conv2d_taps(s), ld_w);
}

static hn_status check_stride(const char *name, int64_t replicas, int64_t stride, hn_dtype t)
{
    if (replicas < 2 || stride * (int64_t)hn_dtype_size(t) % 16 == 0) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED,
                   "%" PRId64 " elements from one replica of %s to the next: multiples of 16 bytes",
                   stride, name);
}

static hn_status check_aligned(const char *name, const void *p)
{
    if ((uintptr_t)p % 16 == 0) return HN_OK;
    return HN_FAIL(HN_ERR_ALIGN, "%s: %s = %p, wanted on a 16-byte boundary", op, name, p);
}

/* What the three passes want alike. */
static hn_status check_common(hn_dtype t, const hn_conv2d_shape *s, int64_t replicas)
{
    HN_TRY(hn_conv2d_check_shape(op, s));
    HN_TRY(hn_check_float(op, "x", t));
    return hn_check_replicas(op, s->n, replicas);
}

static int64_t x_rows(const hn_conv2d_shape *s) { return s->n * s->h * s->w; }
static int64_t y_rows(const hn_conv2d_shape *s)
{
    return s->n * hn_conv2d_out_h(s) * hn_conv2d_out_w(s);
}

static hn_status check_limits(const hn_conv2d_args *a)
{
    HN_TRY(check_common(a->dtype, &a->shape, a->replicas));
    HN_TRY(check_ld("x", x_rows(&a->shape), a->ld_x, a->dtype));
    HN_TRY(check_gaps(&a->shape, a->ld_w));
    HN_TRY(check_ld("y", y_rows(&a->shape), a->ld_y, a->dtype));
    return check_stride("w", a->replicas, a->w_stride, a->dtype);
}

static hn_status check_dx_limits(const hn_conv2d_dx_args *a)
{
    HN_TRY(check_common(a->dtype, &a->shape, a->replicas));
    HN_TRY(check_ld("dy", y_rows(&a->shape), a->ld_dy, a->dtype));
    HN_TRY(check_gaps(&a->shape, a->ld_w));
    HN_TRY(check_ld("dx", x_rows(&a->shape), a->ld_dx, a->dtype));
    if (a->add != nullptr) HN_TRY(check_ld("add", x_rows(&a->shape), a->ld_add, a->dtype));
    return check_stride("w", a->replicas, a->w_stride, a->dtype);
}

static hn_status check_dw_limits(const hn_conv2d_dw_args *a)
{
    HN_TRY(check_common(a->dtype, &a->shape, a->replicas));
    HN_TRY(check_ld("dy", y_rows(&a->shape), a->ld_dy, a->dtype));
    return check_ld("x", x_rows(&a->shape), a->ld_x, a->dtype);
}

/* ---- plans ---- */

static hn_conv2d_cudnn_key shape_key(hn_cudnn_conv pass, const hn_conv2d_shape *s, int64_t replicas,
                                     hn_dtype dtype)
{
    hn_conv2d_cudnn_key k = {};
    k.pass = pass;
    k.n = s->n / hn_replica_count(replicas);
    k.h = s->h, k.w = s->w, k.in = s->in, k.out = s->out, k.kh = s->kh, k.kw = s->kw;
    k.stride = s->stride, k.pad = s->pad, k.dilation = s->dilation, k.groups = s->groups;
    k.dtype = dtype;
    return k;
}

static hn_conv2d_cudnn_key key_of(const hn_conv2d_args *a)
{
    hn_conv2d_cudnn_key k = shape_key(HN_CUDNN_CONV_FWD, &a->shape, a->replicas, a->dtype);
    k.ld_x = a->ld_x, k.ld_w = a->ld_w, k.ld_y = a->ld_y;
    return k;
}

static hn_conv2d_cudnn_key key_of(const hn_conv2d_dx_args *a)
{
    hn_conv2d_cudnn_key k = shape_key(HN_CUDNN_CONV_DX, &a->shape, a->replicas, a->dtype);
    k.adds = a->add != nullptr;
    k.ld_x = k.adds ? hn_gemm_cuda_padded(a->shape.in, a->dtype) : a->ld_dx;
    k.ld_w = a->ld_w, k.ld_y = a->ld_dy;
    return k;
}

static hn_conv2d_cudnn_key key_of(const hn_conv2d_dw_args *a)
{
    hn_conv2d_cudnn_key k = shape_key(HN_CUDNN_CONV_DW, &a->shape, a->replicas, a->dtype);
    k.ld_x = a->ld_x, k.ld_w = hn_conv2d_taps(&a->shape), k.ld_y = a->ld_dy;
    return k;
}

static hn_conv2d_cudnn_entry *find_plan(const hn_conv2d_cudnn *c, const hn_conv2d_cudnn_key *key)
{
    for (int64_t i = 0; i < c->n_plans; i++)
        if (memcmp(&c->plans[i].key, key, sizeof *key) == 0) return &c->plans[i];
    return nullptr;
}

static hn_status make_plan(hn_conv2d_cudnn *c, const hn_conv2d_cudnn_key *k)
{
    static const char *const pass[] = {"forward", "gradient of x", "gradient of w"};
    hn_conv2d_cudnn_entry e = {};
    e.key = *k;
    HN_TRY(hn_grow(&c->plans, &c->cap_plans, c->n_plans, sizeof e));
    const hn_status st = hn_conv2d_cudnn_make(c, &e);
    if (st != HN_OK)
        return HN_FAIL(st,
                       "cuDNN %s: no %s for %" PRId64 " images of %" PRId64 " x %" PRId64
                       ", %" PRId64 " to %" PRId64 " channels, kernel %" PRId64 " x %" PRId64
                       ": %s",
                       c->lib->version, pass[k->pass], k->n, k->h, k->w, k->in, k->out, k->kh,
                       k->kw, hn_last_text());
    c->plans[c->n_plans++] = e;
    return HN_OK;
}

/* Scratch, each part on a 256-byte boundary: dx ahead of `add`, or dw | cuDNN's own */
struct Layout {
    size_t workspace, end;
};

static Layout layout_of(const hn_conv2d_cudnn_entry *e)
{
    const hn_conv2d_cudnn_key *const k = &e->key;
    int64_t values = k->adds ? k->n * k->h * k->w * k->ld_x : 0;
    if (k->pass == HN_CUDNN_CONV_DW) values = k->out * k->ld_w;
    const size_t bytes = (size_t)values * hn_dtype_size((hn_dtype)k->dtype);
    Layout at;
    at.workspace = (bytes + 255) / 256 * 256;
    at.end = at.workspace + (size_t)e->workspace + 256; /* to begin on such a boundary */
    return at;
}

static hn_status plan(hn_conv2d_cudnn *c, const hn_conv2d_cudnn_key &key, size_t *scratch)
{
    HN_TRY(hn_check_pointer(op, "the library", c));
    if (find_plan(c, &key) == nullptr) HN_TRY(make_plan(c, &key));
    *scratch = layout_of(find_plan(c, &key)).end;
    return HN_OK;
}

hn_status hn_conv2d_cudnn_plan_fwd(hn_conv2d_cudnn *c, const hn_conv2d_args *a, size_t *scratch)
{
    HN_TRY(check_limits(a));
    return plan(c, key_of(a), scratch);
}

hn_status hn_conv2d_cudnn_plan_dx(hn_conv2d_cudnn *c, const hn_conv2d_dx_args *a, size_t *scratch)
{
    HN_TRY(check_dx_limits(a));
    return plan(c, key_of(a), scratch);
}

hn_status hn_conv2d_cudnn_plan_dw(hn_conv2d_cudnn *c, const hn_conv2d_dw_args *a, size_t *scratch)
{
    HN_TRY(check_dw_limits(a));
    return plan(c, key_of(a), scratch);
}

/* ---- kernels behind cuDNN's ---- */

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1ll << 16; /* blocks loop over what is left */

/* dw += product, rows of dw ld_dw elements apart */
template <class T>
__global__ void __launch_bounds__(kThreads)
    add_dw_kernel(const T *__restrict__ product, float *__restrict__ dw, int64_t rows, int64_t cols,
                  int64_t ld_dw)
{
    const int64_t n = rows * cols;
    for (int64_t at = (int64_t)blockIdx.x * kThreads + threadIdx.x; at < n;
         at += (int64_t)gridDim.x * kThreads)
        dw[at / cols * ld_dw + at % cols] += hn_f32(product[at]);
}

template <class T>
void add_dw(const void *product, float *dw, int64_t rows, int64_t cols, int64_t ld_dw,
            cudaStream_t stream)
{
    add_dw_kernel<T><<<hn_grid(rows * cols, kThreads, kMaxBlocks), kThreads, 0, stream>>>(
        static_cast<const T *>(product), dw, rows, cols, ld_dw);
}

} // namespace

/* ---- running ---- */

/* One replica. */
static hn_status execute(const hn_conv2d_cudnn *c, const hn_conv2d_cudnn_entry *e, const void *x,
                         const void *w, const void *y, char *base)
{
    const int64_t id[] = {HN_CONV2D_X, HN_CONV2D_W, HN_CONV2D_Y};
    void *const pointer[] = {const_cast<void *>(x), const_cast<void *>(w), const_cast<void *>(y)};
    return hn_cudnn_execute(c->lib, e->plan, 3, id, pointer, base + layout_of(e).workspace);
}

/* The plan of a call, and its scratch from a 256-byte boundary on. */
static hn_status begin(hn_conv2d_cudnn *c, const hn_conv2d_cudnn_key &key, void *scratch,
                       hn_stream stream, const hn_conv2d_cudnn_entry **e, char **base)
{
    HN_TRY(hn_check_pointer(op, "the library", c));
    HN_TRY(hn_check_pointer(op, "scratch", scratch));
    *e = find_plan(c, &key);
    if (*e == nullptr) return HN_FAIL(HN_ERR_ARG, "%s: no plan for this shape was made", op);
    *base = reinterpret_cast<char *>(((uintptr_t)scratch + 255) / 256 * 256);
    return hn_cudnn_use_stream(c->lib, stream);
}

/* Element `at` of an array. */
static const void *element(const void *p, int64_t at, hn_dtype t)
{
    return p == nullptr ? nullptr : static_cast<const char *>(p) + at * (int64_t)hn_dtype_size(t);
}

static hn_status check_call(const hn_conv2d_args *a)
{
    HN_TRY(hn_conv2d_check(a));
    HN_TRY(check_limits(a));
    HN_TRY(check_aligned("x", a->x));
    HN_TRY(check_aligned("w", a->w));
    return check_aligned("y", a->y);
}

hn_status hn_conv2d_cudnn_fwd(hn_conv2d_cudnn *c, const hn_conv2d_args *a, void *scratch,
                              hn_stream stream)
{
    const hn_conv2d_cudnn_entry *e;
    char *base;
    HN_TRY(check_call(a));
    HN_TRY(begin(c, key_of(a), scratch, stream, &e, &base));
    const int64_t g = hn_replica_count(a->replicas);
    const int64_t rows_x = x_rows(&a->shape) / g, rows_y = y_rows(&a->shape) / g;
    for (int64_t i = 0; i < g; i++)
        HN_TRY(execute(c, e, element(a->x, i * rows_x * a->ld_x, a->dtype),
                       element(a->w, g > 1 ? i * a->w_stride : 0, a->dtype),
                       element(a->y, i * rows_y * a->ld_y, a->dtype), base));
    return a->bias == nullptr && !a->relu ? HN_OK : hn_conv2d_finish_y_cuda(a, stream);
}

static hn_status check_call(const hn_conv2d_dx_args *a)
{
    HN_TRY(hn_conv2d_dx_check(a));
    HN_TRY(check_dx_limits(a));
    HN_TRY(check_aligned("dy", a->dy));
    HN_TRY(check_aligned("w", a->w));
    HN_TRY(check_aligned("add", a->add));
    return check_aligned("dx", a->dx);
}

hn_status hn_conv2d_cudnn_dx(hn_conv2d_cudnn *c, const hn_conv2d_dx_args *a, void *scratch,
                             hn_stream stream)
{
    const hn_conv2d_cudnn_entry *e;
    char *base;
    HN_TRY(check_call(a));
    HN_TRY(begin(c, key_of(a), scratch, stream, &e, &base));
    const int64_t g = hn_replica_count(a->replicas);
    const int64_t rows_x = x_rows(&a->shape) / g, rows_y = y_rows(&a->shape) / g;
    for (int64_t i = 0; i < g; i++) {
        const int64_t first = i * rows_x;
        hn_binary_args s = {};
        s.y = const_cast<void *>(element(a->dx, first * a->ld_dx, a->dtype));
        HN_TRY(execute(c, e, e->key.adds ? base : s.y,
                       element(a->w, g > 1 ? i * a->w_stride : 0, a->dtype),
                       element(a->dy, i * rows_y * a->ld_dy, a->dtype), base));
        if (!e->key.adds) continue;
        s.a = base, s.ld_a = e->key.ld_x;
        s.b = element(a->add, first * a->ld_add, a->dtype), s.ld_b = a->ld_add;
        s.ld_y = a->ld_dx, s.rows = rows_x, s.cols = a->shape.in, s.dtype = a->dtype;
        HN_TRY(hn_add_cuda(&s, stream));
    }
    return HN_OK;
}

hn_status hn_conv2d_cudnn_dw(hn_conv2d_cudnn *c, const hn_conv2d_dw_args *a, void *scratch,
                             hn_stream stream)
{
    const hn_conv2d_cudnn_entry *e;
    char *base;
    HN_TRY(hn_conv2d_dw_check(a));
    HN_TRY(check_dw_limits(a));
    HN_TRY(check_aligned("dy", a->dy));
    HN_TRY(check_aligned("x", a->x));
    HN_TRY(begin(c, key_of(a), scratch, stream, &e, &base));
    const int64_t g = hn_replica_count(a->replicas), taps = hn_conv2d_taps(&a->shape);
    const int64_t rows_x = x_rows(&a->shape) / g, rows_y = y_rows(&a->shape) / g;
    for (int64_t i = 0; i < g; i++) {
        float *const dw = a->dw + (g > 1 ? i * a->dw_stride : 0);
        HN_TRY(execute(c, e, element(a->x, i * rows_x * a->ld_x, a->dtype), base,
                       element(a->dy, i * rows_y * a->ld_dy, a->dtype), base));
        HN_CUDA_REAL(a->dtype, T, add_dw<T>(base, dw, a->shape.out, taps, a->ld_dw, stream));
        HN_TRY(HN_CUDA_LAUNCHED("conv2d: add_dw"));
    }
    return HN_OK;
}
#endif
