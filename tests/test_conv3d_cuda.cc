/* The convolution of volumes on a GPU against the CPU twin: shapes, repeatability, captured replay,
 * aliasing. */
#include "gemm_cuda_test.h"
#include "kernels/conv/conv3d.h"

namespace {

hn_gemm_cuda *gemm()
{
    static Gemm *g = new Gemm;
    return *g;
}

/* ---- the three passes under one name ---- */

hn_status cpu(const hn_conv3d_args &a) { return hn_conv3d_fwd_cpu(&a); }
hn_status cpu(const hn_conv3d_dx_args &a) { return hn_conv3d_dx_cpu(&a); }
hn_status cpu(const hn_conv3d_dw_args &a) { return hn_conv3d_dw_cpu(&a); }

size_t scratch_of(const hn_conv3d_args &a) { return hn_conv3d_fwd_cuda_scratch(&a); }
size_t scratch_of(const hn_conv3d_dx_args &a) { return hn_conv3d_dx_cuda_scratch(&a); }
size_t scratch_of(const hn_conv3d_dw_args &a) { return hn_conv3d_dw_cuda_scratch(&a); }

hn_status cuda(const hn_conv3d_args &a, void *scratch, hn_stream s)
{
    return hn_conv3d_fwd_cuda(&a, gemm(), scratch, s);
}
hn_status cuda(const hn_conv3d_dx_args &a, void *scratch, hn_stream s)
{
    return hn_conv3d_dx_cuda(&a, gemm(), scratch, s);
}
hn_status cuda(const hn_conv3d_dw_args &a, void *scratch, hn_stream s)
{
    return hn_conv3d_dw_cuda(&a, gemm(), scratch, s);
}

/* A call with its scratch, which holds NaN: it needs no clearing. */
template <class Args>
struct Call {
    const Args a;
    DeviceScratch scratch;

    explicit Call(const Args &args) : a(args), scratch(scratch_of(args)) {}
    void enqueue(hn_stream s) { EXPECT_HN_OK(cuda(a, scratch.data(), s)); }
};

template <class Args>
void run(const Args &a)
{
    Call<Args>(a).enqueue(nullptr);
}

/* ---- problems ---- */

struct Shape {
    const char *name;
    hn_conv3d_shape s;
    int64_t replicas;
};

struct Case {
    Shape shape;
    hn_dtype dtype, bias_dtype;
    bool aligned; /* voxels on 16-byte boundaries, w without gaps */
};

std::ostream &operator<<(std::ostream &o, const Case &c) { return o << c.shape.name; }

/* The same values on the host (M = Matrix) or on the device. */
template <class M>
struct Problem {
    const hn_conv3d_shape s;
    const hn_dtype dtype, bias_dtype;
    const int64_t replicas, g, taps, rows, out_rows;
    M x, w, bias, dy, add, y, dx, dw;

    explicit Problem(const Case &c)
        : s(c.shape.s), dtype(c.dtype), bias_dtype(c.bias_dtype), replicas(c.shape.replicas),
          g(replicas > 1 ? replicas : 1), taps(hn_conv3d_taps(&s)), rows(hn_conv3d_voxels_in(&s)),
          out_rows(hn_conv3d_voxels_out(&s)), x(dtype, rows, s.in, gap(c, s.in, 8)),
          w(dtype, g * s.out, taps, c.aligned ? 0 : 3), bias(bias_dtype, g, s.out),
          dy(dtype, out_rows, s.out, gap(c, s.out, 16)), add(dtype, rows, s.in, gap(c, s.in, 0)),
          y(dtype, out_rows, s.out, gap(c, s.out, 0)), dx(dtype, rows, s.in, gap(c, s.in, 0)),
          dw(HN_F32, g * s.out, taps)
    {
        x.normal(1), w.normal(2, 0, 0.2f), bias.normal(3), dy.normal(5), add.normal(6);
        dw.normal(8);
    }
    static int64_t gap(const Case &c, int64_t cols, int64_t more)
    {
        return c.aligned ? hn_gemm_cuda_padded(cols, HN_BF16) - cols + more : 3;
    }
    hn_conv3d_args fwd(bool full)
    {
        hn_conv3d_args a = {};
        a.x = x.data(), a.w = w.data(), a.y = y.data(), a.shape = s;
        if (full) a.bias = bias.data();
        a.ld_x = x.ld(), a.ld_w = w.ld(), a.ld_y = y.ld();
        a.replicas = replicas, a.w_stride = s.out * w.ld(), a.bias_stride = bias.ld();
        a.dtype = dtype, a.bias_dtype = full ? bias_dtype : dtype;
        return a;
    }
    hn_conv3d_dx_args back(bool full)
    {
        hn_conv3d_dx_args a = {};
        a.dy = dy.data(), a.w = w.data(), a.dx = dx.data(), a.shape = s;
        if (full) a.add = add.data();
        a.ld_dy = dy.ld(), a.ld_w = w.ld(), a.ld_add = add.ld(), a.ld_dx = dx.ld();
        a.replicas = replicas, a.w_stride = s.out * w.ld(), a.dtype = dtype;
        return a;
    }
    hn_conv3d_dx_args back_in_place()
    {
        hn_conv3d_dx_args a = back(true);
        a.dx = add.data(), a.ld_dx = a.ld_add;
        return a;
    }
    hn_conv3d_dw_args weight()
    {
        hn_conv3d_dw_args a = {};
        a.dy = dy.data(), a.x = x.data(), a.dw = dw.f32(), a.shape = s;
        a.ld_dy = dy.ld(), a.ld_x = x.ld(), a.ld_dw = dw.ld();
        a.replicas = replicas, a.dw_stride = s.out * dw.ld(), a.dtype = dtype;
        return a;
    }
};

/* f32: sums of up to some thousand terms in fp32. bf16: one rounding at the store (1.7e-3 of the
 * norm), or two where bias and add are a pass of their own. */
double close(hn_dtype t) { return t == HN_F32 ? 5e-6 : 4e-3; }

class Conv3dCuda : public ::testing::TestWithParam<Case> {
  protected:
    const hn_dtype dtype = GetParam().dtype;
    Problem<Matrix> host{GetParam()};
};

TEST_P(Conv3dCuda, CudaMatchesCpu)
{
    HN_NEED_CUDA();
    Problem<DeviceMatrix> gpu(GetParam());
    for (const bool full : {false, true}) {
        SCOPED_TRACE(full ? "with bias, add" : "plain");
        ASSERT_HN_OK(cpu(host.fwd(full)));
        run(gpu.fwd(full));
        EXPECT_LT(rel_l2(gpu.y.values(), host.y.values()), close(dtype));
        ASSERT_HN_OK(cpu(host.back(full)));
        run(gpu.back(full));
        EXPECT_LT(rel_l2(gpu.dx.values(), host.dx.values()), close(dtype));
    }
    ASSERT_HN_OK(cpu(host.weight()));
    run(gpu.weight());
    EXPECT_LT(rel_l2(gpu.dw.values(), host.dw.values()), close(HN_F32));
}

TEST_P(Conv3dCuda, CudaRepeatsBitForBit)
{
    HN_NEED_CUDA();
    std::vector<std::vector<float>> first;
    for (int i = 0; i < 3; i++) {
        Problem<DeviceMatrix> gpu(GetParam());
        run(gpu.fwd(true));
        run(gpu.back(true));
        run(gpu.weight());
        const std::vector<std::vector<float>> now = {gpu.y.values(), gpu.dx.values(),
                                                     gpu.dw.values()};
        if (first.empty()) first = now;
        for (size_t k = 0; k < now.size(); k++) EXPECT_TRUE(same_bits(now[k], first[k])) << k;
    }
}

TEST_P(Conv3dCuda, CudaRunsFromACapturedGraph)
{
    HN_NEED_CUDA();
    Problem<DeviceMatrix> plain(GetParam()), captured(GetParam());
    run(plain.fwd(true));
    run(plain.back(true));
    run(plain.weight());
    Call fwd(captured.fwd(true));
    Call back(captured.back(true));
    Call weight(captured.weight());
    run_captured([&](cudaStream_t s) { fwd.enqueue(s), back.enqueue(s), weight.enqueue(s); });
    EXPECT_TRUE(same_bits(captured.y.values(), plain.y.values()));
    EXPECT_TRUE(same_bits(captured.dx.values(), plain.dx.values()));
    EXPECT_TRUE(same_bits(captured.dw.values(), plain.dw.values()));
}

TEST_P(Conv3dCuda, CudaInputGradientMayBeTheAddedOperand)
{
    HN_NEED_CUDA();
    Problem<DeviceMatrix> gpu(GetParam());
    ASSERT_HN_OK(cpu(host.back(true)));
    run(gpu.back_in_place());
    EXPECT_LT(rel_l2(gpu.add.values(), host.dx.values()), close(dtype));
}

/* n, d, h, w, in, out, kd, kh, kw, stride, pad, dilation; replicas */
/* clang-format off */
const Shape shapes[] = {
    {"one", {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1}, 0},
    {"meshnet_first", {1, 5, 6, 9, 1, 5, 3, 3, 3, 1, 1, 1}, 0},
    {"meshnet5", {2, 4, 7, 9, 5, 5, 3, 3, 3, 1, 2, 2}, 0},
    {"meshnet5_wide", {1, 6, 9, 20, 5, 5, 3, 3, 3, 1, 16, 16}, 0},
    {"meshnet20", {1, 5, 6, 9, 20, 20, 3, 3, 3, 1, 4, 4}, 0},
    {"classes", {1, 4, 5, 6, 20, 3, 1, 1, 1, 1, 0, 1}, 0},
    {"unet_4", {1, 4, 6, 11, 4, 4, 3, 3, 3, 1, 1, 1}, 0},
    {"unet_12", {1, 4, 5, 6, 12, 4, 3, 3, 3, 1, 1, 1}, 0},
    {"unet_48", {1, 4, 5, 6, 48, 16, 3, 3, 3, 1, 1, 1}, 0},
    {"unet_32", {1, 3, 4, 5, 32, 32, 3, 3, 3, 1, 1, 1}, 0},
    {"unet_boxes", {2, 9, 6, 70, 12, 20, 3, 3, 3, 1, 1, 1}, 0}, /* several, the last ones cut */
    {"unet_no_pad", {1, 7, 8, 40, 4, 4, 3, 3, 3, 1, 0, 1}, 0},
    {"unet_wide_pad", {1, 3, 2, 30, 8, 8, 3, 3, 3, 1, 3, 1}, 0},
    {"unet_1", {1, 6, 5, 33, 1, 2, 3, 3, 3, 1, 1, 1}, 0},
    {"odd", {2, 3, 5, 4, 9, 7, 2, 3, 4, 1, 1, 1}, 0},
    {"stride", {1, 5, 8, 9, 6, 8, 3, 3, 3, 2, 1, 1}, 0},
    {"stride_dilation", {1, 7, 8, 9, 3, 4, 3, 2, 3, 3, 4, 2}, 0},
    {"unread_voxels", {1, 7, 5, 9, 8, 8, 2, 2, 2, 3, 0, 1}, 0},
    {"padding_alone", {1, 2, 3, 2, 2, 2, 3, 2, 2, 4, 3, 1}, 0},
    {"by_patches", {1, 3, 4, 5, 72, 40, 3, 3, 3, 1, 1, 1}, 0},
    {"by_patches_odd", {1, 4, 3, 5, 65, 33, 3, 2, 3, 2, 1, 1}, 0},
    {"by_patches_one", {1, 4, 3, 5, 80, 48, 1, 1, 1, 1, 0, 1}, 0},
    {"replicas", {4, 3, 4, 5, 4, 6, 3, 3, 3, 1, 1, 1}, 2},
    {"replicas_by_patches", {2, 2, 3, 4, 72, 40, 3, 3, 3, 1, 1, 1}, 2},
};
/* Threads with several voxels, blocks with several tiles; pieces of dw of several stages. */
const Shape large[] = {
    {"many_voxels", {1, 80, 82, 83, 1, 4, 1, 2, 2, 1, 0, 1}, 0},
    {"many_voxels_8", {1, 70, 82, 83, 1, 8, 1, 1, 2, 1, 0, 1}, 0},
    {"many_voxels_16", {1, 70, 82, 83, 1, 9, 1, 1, 1, 1, 0, 1}, 0},
    {"many_boxes", {1, 34, 36, 130, 9, 3, 3, 3, 3, 1, 1, 1}, 0}, /* blocks with several */
};
/* clang-format on */

std::vector<Case> cases()
{
    std::vector<Case> all;
    for (const hn_dtype t : {HN_F32, HN_BF16}) {
        const hn_dtype other = t == HN_F32 ? HN_BF16 : HN_F32;
        for (const bool aligned : {false, true})
            for (const Shape &s : shapes) all.push_back({s, t, aligned ? t : other, aligned});
        for (const Shape &s : large) all.push_back({s, t, t, true});
    }
    return all;
}

INSTANTIATE_TEST_SUITE_P(Shapes, Conv3dCuda, ::testing::ValuesIn(cases()), [](const auto &i) {
    const Case &c = i.param;
    return case_name(c.shape.name, c.dtype, c.aligned ? "_aligned" : "");
});

/* Patches in several pieces: 65536 voxels of y, 108 MiB of patches. */
TEST(Conv3dPieces, CudaMatchesDirectKernels)
{
    HN_NEED_CUDA();
    const Case c = {{"", {1, 32, 32, 64, 64, 40, 3, 1, 3, 1, 1, 1}, 0}, HN_F32, HN_F32, true};
    Problem<DeviceMatrix> gpu(c);
    const hn_conv3d_args a = gpu.fwd(true);
    ASSERT_GT(scratch_of(a), (size_t)60 << 20);
    run(a);
    const auto together = gpu.y.values();
    /* 32 filters and then 8 by the direct kernels */
    DeviceMatrix part(HN_F32, gpu.out_rows, 32, 0);
    hn_conv3d_args b = a;
    b.y = part.data(), b.ld_y = part.ld(), b.shape.out = 32;
    ASSERT_EQ(scratch_of(b), 0u);
    run(b);
    const auto first = part.values();
    double most = 0;
    for (int64_t row = 0; row < gpu.out_rows; row++)
        for (int64_t o = 0; o < 32; o++)
            most = std::max(most, (double)std::abs(together[(size_t)(row * 40 + o)] -
                                                   first[(size_t)(row * 32 + o)]));
    EXPECT_LT(most, 1e-4); /* sums of 576 terms of about 0.2 */
}

} // namespace
