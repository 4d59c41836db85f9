/* kernels/vision: volumes made larger, beside a skip connection. */
#include "graph_test.h"
#include "kernel_test.h"
#include "kernels/vision/upsample.h"
#include "volume_golden.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

struct Case {
    hn_upsample_shape s;
    int64_t c_skip;
    hn_dtype dtype;
    int64_t gap;
};

template <class M>
struct Operands {
    const Case c;
    const hn_upsample_shape s = c.s;
    const int64_t rows = hn_upsample_rows_in(&s), out_rows = hn_upsample_rows_out(&s);
    M x{c.dtype, rows, s.c, c.gap}, dx{c.dtype, rows, s.c, c.gap};
    M skip{c.dtype, out_rows, c.c_skip ? c.c_skip : 1, c.gap};
    M y{c.dtype, out_rows, c.c_skip + s.c, c.gap}, dy{c.dtype, out_rows, s.c, c.gap};
    explicit Operands(const Case &from) : c(from) { x.normal(1), skip.normal(2), dy.normal(3); }
    hn_upsample_args fwd()
    {
        return {s,         x.data(), c.c_skip ? skip.data() : nullptr,
                y.data(),  c.c_skip, x.ld(),
                skip.ld(), y.ld(),   c.dtype};
    }
    hn_upsample_bwd_args back() { return {s, dy.data(), dx.data(), dy.ld(), dx.ld(), c.dtype}; }
};

void run(Operands<Matrix> &o, bool fast)
{
    const auto a = o.fwd();
    const auto b = o.back();
    ASSERT_HN_OK(fast ? hn_upsample_fwd_fast(&a) : hn_upsample_fwd_cpu(&a));
    ASSERT_HN_OK(fast ? hn_upsample_bwd_fast(&b) : hn_upsample_bwd_cpu(&b));
}

/* One voxel; twice and odd sides; the same size; spans of channels with and without gaps. */
std::vector<Case> cases()
{
    std::vector<Case> all;
    for (const hn_dtype t : {HN_F32, HN_BF16})
        for (const Case &c :
             {Case{{1, 1, 1, 1, 1, 1, 1, 1}, 0, t, 3}, Case{{2, 2, 3, 2, 5, 4, 6, 4}, 0, t, 3},
              Case{{1, 2, 3, 2, 8, 5, 7, 4}, 16, t, 8}, Case{{1, 3, 2, 4, 8, 7, 5, 8}, 4, t, 4},
              Case{{1, 3, 2, 2, 5, 10, 3, 7}, 3, t, 2}, Case{{2, 2, 1, 3, 6, 2, 1, 3}, 9, t, 1}})
            all.push_back(c);
    return all;
}

class Upsample : public ::testing::TestWithParam<Case> {};

TEST_P(Upsample, FastMatchesTwinWithTheSameBitsOnAnyThreads)
{
    Operands<Matrix> want(GetParam()), first(GetParam());
    run(want, false);
    run(first, true);
    EXPECT_TRUE(same_bits(first.y.values(), want.y.values()));
    EXPECT_LT(rel_l2(first.dx.values(), want.dx.values()), tolerance(GetParam().dtype));
    for (const int threads : {1, 3}) {
        Operands<Matrix> now(GetParam());
        on_threads(threads, [&] { run(now, true); });
        EXPECT_TRUE(same_bits(now.dx.values(), first.dx.values()));
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Upsample, ::testing::ValuesIn(cases()), [](const auto &i) {
    const hn_upsample_shape &s = i.param.s;
    return case_name("n", s.n, "_", s.d, "x", s.h, "x", s.w, "_c", s.c, "_to", s.out_d, "x",
                     s.out_h, "x", s.out_w, "_skip", i.param.c_skip, i.param.dtype);
});

TEST(UpsampleGolden, MatchesPyTorch)
{
    const VolumeGolden g;
    int n = 0;
    for (; g.has("up." + std::to_string(n) + ".x"); n++) {
        const std::string k = "up." + std::to_string(n) + ".";
        const auto v = g.whole(k + "shape");
        const hn_upsample_shape s = {v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]};
        const int64_t c_skip = v[8], c = c_skip + s.c;
        const auto x = g.floats(k + "x"), skip = g.floats(k + "skip"), dy = g.floats(k + "dy");
        std::vector<float> y(dy.size()), dx(x.size());
        const hn_upsample_args a = {s,   x.data(), skip.data(), y.data(), c_skip,
                                    s.c, c_skip,   c,           HN_F32};
        const hn_upsample_bwd_args b = {s, dy.data() + c_skip, dx.data(), c, s.c, HN_F32};
        ASSERT_HN_OK(hn_upsample_fwd_cpu(&a));
        ASSERT_HN_OK(hn_upsample_bwd_cpu(&b));
        EXPECT_EQ(y, g.floats(k + "y"));
        EXPECT_LT(rel_l2(dx, g.floats(k + "dx")), 1e-7);
    }
    EXPECT_EQ(n, 3);
}

TEST(UpsampleCheck, NamesWhatIsWrong)
{
    float f[256] = {};
    hn_upsample_args a = {{1, 2, 2, 2, 2, 4, 4, 4}, f, f, f, 1, 2, 1, 3, HN_F32};
    EXPECT_HN_OK(hn_upsample_check(&a));
    auto with = [&](auto change) {
        hn_upsample_args b = a;
        change(b);
        return hn_upsample_check(&b);
    };
    EXPECT_HN_FAIL(hn_upsample_check(nullptr), HN_ERR_ARG, "args");
    EXPECT_HN_FAIL(with([](auto &b) { b.skip = nullptr; }), HN_ERR_ARG, "skip is NULL and has 1");
    EXPECT_HN_FAIL(with([](auto &b) { b.ld_y = 2; }), HN_ERR_SHAPE, "of y");
    EXPECT_HN_FAIL(with([](auto &b) { b.dtype = HN_I32; }), HN_ERR_UNSUPPORTED, "i32");
    EXPECT_HN_FAIL(with([](auto &b) { b.s.out_h = 1; }), HN_ERR_SHAPE,
                   "volumes of 2 x 2 x 2 cannot become smaller ones of 4 x 1 x 4");
    EXPECT_HN_FAIL(with([](auto &b) { b.s.out_h = b.s.out_w = 1 << 20; }), HN_ERR_SHAPE,
                   "y has 1 x 4 x 1048576 x 1048576 voxels");
}

#ifdef HONE_CUDA
void run_cuda(Operands<DeviceMatrix> &o, hn_stream stream)
{
    const auto a = o.fwd();
    const auto b = o.back();
    EXPECT_HN_OK(hn_upsample_fwd_cuda(&a, stream));
    EXPECT_HN_OK(hn_upsample_bwd_cuda(&b, stream));
}

TEST_P(Upsample, CudaMatchesCpuAndRepeats)
{
    HN_NEED_CUDA();
    Operands<Matrix> want(GetParam());
    run(want, false);
    Operands<DeviceMatrix> plain(GetParam()), captured(GetParam());
    run_cuda(plain, nullptr);
    EXPECT_TRUE(same_bits(plain.y.values(), want.y.values()));
    EXPECT_LT(rel_l2(plain.dx.values(), want.dx.values()), tolerance(GetParam().dtype));
    run_captured([&](hn_stream stream) { run_cuda(captured, stream); });
    EXPECT_TRUE(same_bits(captured.y.values(), plain.y.values()));
    EXPECT_TRUE(same_bits(captured.dx.values(), plain.dx.values()));
}
#endif

} // namespace
