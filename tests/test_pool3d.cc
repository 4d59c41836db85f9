/* kernels/conv: maxima over cubes of volumes. */
#include "kernel_test.h"
#include "kernels/conv/pool3d.h"
#include "volume_golden.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

struct HostIndex {
    std::vector<uint8_t> v;
    explicit HostIndex(size_t n) : v(n, 0xff) {}
    uint8_t *data() { return v.data(); }
    std::vector<uint8_t> host() const { return v; }
};

struct Case {
    hn_pool3d_shape s;
    hn_dtype dtype;
    int64_t gap;
};

/* Operands on the host or on the device, with the same values; x is rounded to halves, so that
 * cubes have several maxima, and one value is NaN. */
template <class M, class Index>
struct Operands {
    const Case c;
    const hn_pool3d_shape s = c.s;
    const int64_t rows = s.n * s.d * s.h * s.w, out_rows = hn_pool3d_rows_out(&s);
    const int64_t ld_index = s.c + c.gap;
    M x{c.dtype, rows, s.c, c.gap}, dx{c.dtype, rows, s.c, c.gap};
    M y{c.dtype, out_rows, s.c, c.gap}, dy{c.dtype, out_rows, s.c, c.gap};
    Index index{(size_t)(out_rows * ld_index)};
    explicit Operands(const Case &from) : c(from)
    {
        auto v = normal_f32((size_t)(rows * s.c), 3);
        for (auto &e : v) e = std::round(2 * e) / 2;
        v[v.size() / 2] = NAN;
        x.assign(v);
        dy.normal(4);
    }
    hn_pool3d_args fwd()
    {
        return {s, x.data(), y.data(), index.data(), x.ld(), y.ld(), ld_index, c.dtype};
    }
    hn_pool3d_bwd_args back()
    {
        return {s, dy.data(), index.data(), dx.data(), dy.ld(), ld_index, dx.ld(), c.dtype};
    }
    /* Of y, with one kind of NaN: which one comes out is not promised. */
    std::vector<float> maxima()
    {
        auto v = y.values();
        for (auto &e : v)
            if (std::isnan(e)) e = NAN;
        return v;
    }
    template <class Other>
    void expect_same(Other &o)
    {
        EXPECT_TRUE(same_bits(maxima(), o.maxima()));
        EXPECT_TRUE(same_bits(dx.values(), o.dx.values()));
        const auto a = index.host(), b = o.index.host();
        for (int64_t i = 0; i < out_rows * s.c; i++) {
            const size_t at = (size_t)(i / s.c * ld_index + i % s.c);
            ASSERT_EQ(a[at], b[at]) << i;
        }
    }
};
using Host = Operands<Matrix, HostIndex>;

void run(Host &o, bool fast)
{
    const auto a = o.fwd();
    const auto b = o.back();
    ASSERT_HN_OK(fast ? hn_pool3d_fwd_fast(&a) : hn_pool3d_fwd_cpu(&a));
    ASSERT_HN_OK(fast ? hn_pool3d_bwd_fast(&b) : hn_pool3d_bwd_cpu(&b));
}

/* One voxel; voxels left over on each side; every size; whole spans of channels and not. */
std::vector<Case> cases()
{
    std::vector<Case> all;
    for (const hn_dtype t : {HN_F32, HN_BF16})
        for (const hn_pool3d_shape &s : {hn_pool3d_shape{1, 1, 1, 1, 1, 1},
                                         {2, 4, 6, 8, 4, 2},
                                         {1, 5, 7, 3, 16, 2},
                                         {2, 7, 6, 8, 6, 3},
                                         {1, 6, 7, 13, 19, 6},
                                         {1, 9, 4, 5, 24, 4}})
            for (const int64_t gap : {(int64_t)3, (8 - s.c % 8) % 8}) all.push_back({s, t, gap});
    return all;
}

class Pool3d : public ::testing::TestWithParam<Case> {};

TEST_P(Pool3d, FastMatchesTwinBitForBit)
{
    Host want(GetParam());
    run(want, false);
    for (const int threads : {1, 3}) {
        Host got(GetParam());
        on_threads(threads, [&] { run(got, true); });
        got.expect_same(want);
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Pool3d, ::testing::ValuesIn(cases()), [](const auto &i) {
    const hn_pool3d_shape &s = i.param.s;
    return case_name("n", s.n, "_d", s.d, "_h", s.h, "_w", s.w, "_c", s.c, "_s", s.size, "_g",
                     i.param.gap, i.param.dtype);
});

TEST(Pool3dGolden, MatchesPyTorch)
{
    const VolumeGolden g;
    int n = 0;
    for (; g.has("pool." + std::to_string(n) + ".x"); n++) {
        const std::string k = "pool." + std::to_string(n) + ".";
        const auto v = g.whole(k + "shape");
        const hn_pool3d_shape s = {v[0], v[1], v[2], v[3], v[4], v[5]};
        const auto x = g.floats(k + "x"), dy = g.floats(k + "dy");
        std::vector<float> y(dy.size()), dx(x.size());
        std::vector<uint8_t> index(dy.size());
        const hn_pool3d_args a = {s, x.data(), y.data(), index.data(), s.c, s.c, s.c, HN_F32};
        const hn_pool3d_bwd_args b = {s, dy.data(), index.data(), dx.data(), s.c, s.c, s.c, HN_F32};
        ASSERT_HN_OK(hn_pool3d_fwd_cpu(&a));
        ASSERT_HN_OK(hn_pool3d_bwd_cpu(&b));
        EXPECT_EQ(y, g.floats(k + "y"));
        EXPECT_EQ(dx, g.floats(k + "dx"));
    }
    EXPECT_EQ(n, 2);
}

TEST(Pool3dCheck, NamesWhatIsWrong)
{
    float f[64] = {};
    uint8_t index[64];
    hn_pool3d_args a = {{1, 2, 3, 4, 2, 2}, f, f + 50, index, 2, 2, 2, HN_F32};
    EXPECT_HN_OK(hn_pool3d_check(&a));
    auto with = [&](auto change) {
        hn_pool3d_args b = a;
        change(b);
        return hn_pool3d_check(&b);
    };
    EXPECT_HN_FAIL(hn_pool3d_check(nullptr), HN_ERR_ARG, "args");
    EXPECT_HN_FAIL(with([](auto &b) { b.x = nullptr; }), HN_ERR_ARG, "x is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.ld_index = 1; }), HN_ERR_SHAPE, "of index");
    EXPECT_HN_FAIL(with([](auto &b) { b.dtype = HN_F16; }), HN_ERR_UNSUPPORTED, "f16");
    EXPECT_HN_FAIL(with([](auto &b) { b.s.size = 7; }), HN_ERR_SHAPE, "size is 7, must be 1 to 6");
    EXPECT_HN_FAIL(with([](auto &b) { b.s.size = 3; }), HN_ERR_SHAPE,
                   "cubes of 3 are larger than volumes of 2 x 3 x 4");
    EXPECT_HN_FAIL(with([](auto &b) { b.s.d = b.s.h = 1 << 20; }), HN_ERR_SHAPE, "voxels");
    hn_pool3d_bwd_args b = {a.s, f, index, f + 8, 2, 2, 2, HN_F32};
    EXPECT_HN_OK(hn_pool3d_bwd_check(&b));
    b.index = nullptr;
    EXPECT_HN_FAIL(hn_pool3d_bwd_check(&b), HN_ERR_ARG, "index is NULL");
}

#ifdef HONE_CUDA
using Device = Operands<DeviceMatrix, DeviceArray<uint8_t>>;

void run_cuda(Device &o, hn_stream stream)
{
    const auto a = o.fwd();
    const auto b = o.back();
    EXPECT_HN_OK(hn_pool3d_fwd_cuda(&a, stream));
    EXPECT_HN_OK(hn_pool3d_bwd_cuda(&b, stream));
}

TEST_P(Pool3d, CudaMatchesCpuBitForBit)
{
    HN_NEED_CUDA();
    Host want(GetParam());
    run(want, false);
    Device plain(GetParam()), captured(GetParam());
    run_cuda(plain, nullptr);
    plain.expect_same(want);
    run_captured([&](hn_stream stream) { run_cuda(captured, stream); });
    captured.expect_same(want);
}
#endif

} // namespace
