/* kernels/conv: maxima and means over windows. */
#include "kernel_test.h"
#include "kernels/conv/pool2d.h"
#include "vision_golden.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

hn_pool2d_shape shape_of(int kind, std::vector<int64_t> x, int64_t size, int64_t stride,
                         int64_t pad, bool include, hn_dtype t)
{
    hn_pool2d_shape s = {};
    s.n = x[0], s.h = x[1], s.w = x[2], s.c = x[3];
    s.out_h = size ? hn_pool2d_out(s.h, size, stride, pad) : 1;
    s.out_w = size ? hn_pool2d_out(s.w, size, stride, pad) : 1;
    s.size = size, s.stride = stride, s.pad = pad;
    s.kind = kind, s.count_include_pad = include, s.dtype = t;
    return s;
}

/* Bytes between the rows are not part of an index. */
struct HostIndex {
    std::vector<uint8_t> v;
    explicit HostIndex(size_t n) : v(n, 0xff) {}
    uint8_t *data() { return v.data(); }
    std::vector<uint8_t> host() const { return v; }
};

#ifdef HONE_CUDA
using DeviceIndex = DeviceArray<uint8_t>;
#endif

struct Case {
    hn_pool2d_shape s;
    int64_t gap;
};

/* Operands on the host or on the device, with the same values; x is rounded to halves, so that
 * windows have several maxima. */
template <class M, class Index>
struct Operands {
    const hn_pool2d_shape s;
    const int64_t rows, out_rows, ld_index;
    M x, dx, y, dy;
    Index index;
    explicit Operands(const Case &c)
        : s(c.s), rows(s.n * s.h * s.w), out_rows(s.n * s.out_h * s.out_w), ld_index(s.c + c.gap),
          x(s.dtype, rows, s.c, c.gap), dx(s.dtype, rows, s.c, c.gap),
          y(s.dtype, out_rows, s.c, c.gap), dy(s.dtype, out_rows, s.c, c.gap),
          index((size_t)(out_rows * ld_index))
    {
        auto v = normal_f32((size_t)(rows * s.c), 3);
        for (auto &e : v) e = std::round(2 * e) / 2;
        x.assign(v);
        dy.normal(4);
    }
    hn_pool2d_args fwd()
    {
        return {s,      x.data(), y.data(), s.kind == HN_POOL_MAX ? index.data() : nullptr,
                x.ld(), y.ld(),   ld_index};
    }
    hn_pool2d_bwd_args back()
    {
        return {s,         dy.data(), s.kind == HN_POOL_MAX ? index.data() : nullptr,
                dx.data(), dy.ld(),   ld_index,
                dx.ld()};
    }
    /* The same bits of everything. */
    void expect_same(Operands &o)
    {
        EXPECT_TRUE(same_bits(y.values(), o.y.values()));
        EXPECT_TRUE(same_bits(dx.values(), o.dx.values()));
        EXPECT_EQ(index.host(), o.index.host());
    }
};
using Host = Operands<Matrix, HostIndex>;

void run(Host &o, bool fast)
{
    const auto a = o.fwd();
    const auto b = o.back();
    ASSERT_HN_OK(fast ? hn_pool2d_fwd_fast(&a) : hn_pool2d_fwd_cpu(&a));
    ASSERT_HN_OK(fast ? hn_pool2d_bwd_fast(&b) : hn_pool2d_bwd_cpu(&b));
}

std::vector<Case> cases()
{
    std::vector<Case> all;
    for (const hn_dtype t : {HN_F32, HN_BF16}) {
        const auto add = [&](int kind, std::vector<int64_t> x, int64_t size, int64_t stride,
                             int64_t pad, bool include, int64_t gap) {
            all.push_back({shape_of(kind, x, size, stride, pad, include, t), gap});
        };
        add(HN_POOL_MAX, {1, 1, 1, 1}, 1, 1, 0, false, 0);
        add(HN_POOL_MAX, {2, 6, 4, 24}, 2, 2, 0, false, 0);
        add(HN_POOL_MAX, {2, 9, 8, 13}, 3, 2, 1, false, 3);
        add(HN_POOL_MAX, {1, 20, 17, 8}, 16, 3, 8, false, 8);
        add(HN_POOL_MAX, {1, 5, 5, 600}, 3, 1, 1, false, 1);
        for (const Case &c : {Case{shape_of(HN_POOL_MAX, {2, 6, 4, 24}, 2, 2, 0, false, t), 0},
                              Case{shape_of(HN_POOL_MAX, {2, 9, 8, 13}, 3, 2, 1, false, t), 3},
                              Case{shape_of(HN_POOL_MAX, {1, 20, 17, 8}, 15, 3, 7, false, t), 8}}) {
            all.push_back(c);
            all.back().s.relu = true;
        }
        add(HN_POOL_AVG, {2, 7, 5, 16}, 2, 2, 0, false, 0);
        add(HN_POOL_AVG, {2, 7, 5, 5}, 3, 2, 1, false, 2);
        add(HN_POOL_AVG, {2, 7, 6, 12}, 3, 2, 1, true, 4);
        add(HN_POOL_AVG, {1, 5, 9, 8}, 2, 3, 1, false, 0); /* pixels in no window */
        add(HN_POOL_AVG, {3, 7, 7, 40}, 0, 0, 0, false, 0);
        add(HN_POOL_AVG, {3, 4, 3, 521}, 0, 0, 0, false, 2);
    }
    return all;
}

std::string name_of(const Case &c)
{
    const hn_pool2d_shape &s = c.s;
    return case_name(s.kind == HN_POOL_MAX ? "max" : "avg", s.size, "_s", s.stride, "_p", s.pad,
                     s.count_include_pad ? "_include" : "", s.relu ? "_relu" : "", "_h", s.h, "_w",
                     s.w, "_c", s.c, "_gap", c.gap, s.dtype);
}

class Pool2d : public ::testing::TestWithParam<Case> {};

TEST_P(Pool2d, FastMatchesTwinWithTheSameBitsOnAnyThreads)
{
    const hn_pool2d_shape &s = GetParam().s;
    Host want(GetParam()), first(GetParam());
    run(want, false);
    run(first, true);
    EXPECT_LT(rel_l2(first.y.values(), want.y.values()), tolerance(s.dtype));
    EXPECT_LT(rel_l2(first.dx.values(), want.dx.values()), tolerance(s.dtype));
    if (s.kind == HN_POOL_MAX) {
        EXPECT_TRUE(same_bits(first.y.values(), want.y.values()));
        EXPECT_EQ(first.index.host(), want.index.host());
    }
    for (const int threads : {1, 2, 3}) {
        Host now(GetParam());
        on_threads(threads, [&] { run(now, true); });
        now.expect_same(first);
    }
}

TEST_P(Pool2d, IndicesNeedNotBeWritten)
{
    for (const bool fast : {false, true}) {
        Host with(GetParam()), without(GetParam());
        run(with, fast);
        auto a = without.fwd();
        a.index = nullptr;
        ASSERT_HN_OK(fast ? hn_pool2d_fwd_fast(&a) : hn_pool2d_fwd_cpu(&a));
        EXPECT_TRUE(same_bits(with.y.values(), without.y.values()));
    }
}

/* The bits of a relu behind the pool, and of its gradient: none where the maximum is not positive.
 */
TEST_P(Pool2d, ReluInsideIsReluBehind)
{
    Case plain = GetParam();
    if (!plain.s.relu) return;
    plain.s.relu = false;
    for (const bool fast : {false, true}) {
        Host fused(GetParam()), apart(plain);
        run(fused, fast);
        run(apart, fast);
        auto y = apart.y.values(), dy = apart.dy.values();
        for (size_t i = 0; i < y.size(); i++)
            if (y[i] <= 0) y[i] = dy[i] = 0;
        EXPECT_TRUE(same_bits(fused.y.values(), y));
        apart.dy.assign(dy);
        run(apart, fast);
        EXPECT_TRUE(same_bits(fused.dx.values(), apart.dx.values()));
        const auto cut = std::count(y.begin(), y.end(), 0.0f);
        EXPECT_TRUE(plain.s.size > 2 || (cut > 0 && cut < (ptrdiff_t)y.size())); /* both kinds */
    }
}

INSTANTIATE_TEST_SUITE_P(Cases, Pool2d, ::testing::ValuesIn(cases()),
                         [](const auto &i) { return name_of(i.param); });

TEST(Pool2dGolden, MatchesPyTorch)
{
    for (const char *name :
         {"max_2", "max_stem", "max_overlap", "avg_2", "avg_pad", "avg_include", "image"}) {
        SCOPED_TRACE(name);
        const GoldenCase g(std::string("pool_") + name);
        const auto s = shape_of(g.number("max") ? HN_POOL_MAX : HN_POOL_AVG, g.numbers("shape"),
                                g.number("size"), g.number("stride"), g.number("pad"),
                                g.number("include") != 0, HN_F32);
        for (const bool fast : {false, true}) {
            Host o({s, 0});
            o.x.assign(g.floats("x"));
            o.dy.assign(g.floats("dy"));
            run(o, fast);
            EXPECT_LT(max_abs(o.y.values(), g.floats("y")), 1e-6);
            EXPECT_LT(max_abs(o.dx.values(), g.floats("dx")), 1e-6);
        }
    }
}

TEST(Pool2dTwin, MatchesHandComputedValues)
{
    const float x[] = {1, 3, 3, 0, 2, 3}, dy[] = {10}; /* 2 x 3; the maximum is there three times */
    float y, dx[6];
    uint8_t index = 99;
    const auto s = shape_of(HN_POOL_MAX, {1, 2, 3, 1}, 2, 2, 0, false, HN_F32);
    ASSERT_EQ(s.out_h * s.out_w, 1);
    const hn_pool2d_args a = {s, x, &y, &index, 1, 1, 1};
    const hn_pool2d_bwd_args b = {s, dy, &index, dx, 1, 1, 1};
    ASSERT_HN_OK(hn_pool2d_fwd_cpu(&a));
    ASSERT_HN_OK(hn_pool2d_bwd_cpu(&b));
    EXPECT_EQ(y, 3);
    EXPECT_EQ(index, 1);
    EXPECT_EQ(std::vector<float>(dx, dx + 6), (std::vector<float>{0, 10, 0, 0, 0, 0}));
    const auto m = shape_of(HN_POOL_AVG, {1, 2, 3, 1}, 0, 0, 0, false, HN_F32);
    const hn_pool2d_args c = {m, x, &y, nullptr, 1, 1, 0};
    ASSERT_HN_OK(hn_pool2d_fwd_cpu(&c));
    EXPECT_EQ(y, 2);
}

/* As in PyTorch: NaN is the maximum, -infinity everywhere belongs to the first pixel. */
TEST(Pool2dEnds, NanAndInfinity)
{
    const float inf = std::numeric_limits<float>::infinity();
    const float x[] = {5, NAN, 7, 1, -inf, -inf, -inf, -inf}; /* two channels apart: two images */
    float y[2];
    uint8_t index[2];
    const auto s = shape_of(HN_POOL_MAX, {2, 2, 2, 1}, 2, 2, 0, false, HN_F32);
    const hn_pool2d_args a = {s, x, y, index, 1, 1, 1};
    for (const bool fast : {false, true}) {
        ASSERT_HN_OK(fast ? hn_pool2d_fwd_fast(&a) : hn_pool2d_fwd_cpu(&a));
        EXPECT_TRUE(std::isnan(y[0]));
        EXPECT_EQ(index[0], 1);
        EXPECT_EQ(y[1], -inf);
        EXPECT_EQ(index[1], 0);
    }
    auto relu = a;
    relu.s.relu = true;
    for (const bool fast : {false, true}) {
        ASSERT_HN_OK(fast ? hn_pool2d_fwd_fast(&relu) : hn_pool2d_fwd_cpu(&relu));
        EXPECT_TRUE(std::isnan(y[0]));
        EXPECT_EQ(index[0], 1);
        EXPECT_EQ(y[1], 0);
        EXPECT_EQ(index[1], HN_POOL2D_NONE);
    }
}

TEST(Pool2dCheck, NamesWhatIsWrong)
{
    float f[64] = {};
    uint8_t i[64] = {};
    hn_pool2d_args a = {
        shape_of(HN_POOL_MAX, {1, 4, 4, 2}, 2, 2, 0, false, HN_F32), f, f, i, 2, 2, 2};
    EXPECT_HN_OK(hn_pool2d_check(&a));
    EXPECT_HN_FAIL(hn_pool2d_check(nullptr), HN_ERR_ARG, "args");
    const auto with = [&](auto change) {
        hn_pool2d_args b = a;
        change(b);
        return hn_pool2d_check(&b);
    };
    EXPECT_HN_FAIL(with([](auto &b) { b.s.dtype = HN_F16; }), HN_ERR_UNSUPPORTED, "f16");
    EXPECT_HN_FAIL(with([](auto &b) { b.s.kind = 7; }), HN_ERR_UNSUPPORTED, "no kind 7");
    EXPECT_HN_FAIL(with([](auto &b) { b.s.out_h = 3; }), HN_ERR_SHAPE, "do not give 3 x 2");
    EXPECT_HN_FAIL(with([](auto &b) { b.s.pad = 2; }), HN_ERR_SHAPE, "pad 2");
    EXPECT_HN_FAIL(with([](auto &b) { b.s.stride = 0; }), HN_ERR_SHAPE, "stride 0");
    EXPECT_HN_FAIL(with([](auto &b) { b.s.size = 17; }), HN_ERR_UNSUPPORTED, "at most 16");
    EXPECT_HN_FAIL(with([](auto &b) {
                       b.s = shape_of(HN_POOL_MAX, {1, 16, 16, 2}, 16, 16, 0, false, HN_F32);
                       b.s.relu = true;
                   }),
                   HN_ERR_UNSUPPORTED, "with relu over windows of 16, at most 15");
    EXPECT_HN_FAIL(with([](auto &b) { b.s.kind = HN_POOL_AVG, b.s.relu = true; }),
                   HN_ERR_UNSUPPORTED, "relu belongs to maxima");
    EXPECT_HN_FAIL(with([](auto &b) { b.s.size = 0; }), HN_ERR_UNSUPPORTED, "means only");
    EXPECT_HN_FAIL(with([](auto &b) { b.s.n = 0; }), HN_ERR_SHAPE, "[0, 4, 4, 2]");
    EXPECT_HN_FAIL(with([](auto &b) { b.s.h = b.s.w = 1 << 20; }), HN_ERR_SHAPE, "2^31 - 1");
    EXPECT_HN_FAIL(with([](auto &b) { b.ld_x = 1; }), HN_ERR_SHAPE, "of x");
    EXPECT_HN_FAIL(with([](auto &b) { b.ld_index = 1; }), HN_ERR_SHAPE, "of index");
    a.s.kind = HN_POOL_AVG;
    EXPECT_HN_FAIL(hn_pool2d_check(&a), HN_ERR_ARG, "have no index");
    a.s.size = 0, a.index = nullptr;
    EXPECT_HN_FAIL(hn_pool2d_check(&a), HN_ERR_SHAPE, "one output pixel");
    hn_pool2d_bwd_args b = {
        shape_of(HN_POOL_MAX, {1, 4, 4, 2}, 2, 2, 0, false, HN_F32), f, i, f, 2, 2, 2};
    EXPECT_HN_OK(hn_pool2d_bwd_check(&b));
    b.index = nullptr;
    EXPECT_HN_FAIL(hn_pool2d_bwd_check(&b), HN_ERR_ARG, "index is NULL");
    b.index = i, b.s.kind = HN_POOL_AVG;
    EXPECT_HN_FAIL(hn_pool2d_bwd_check(&b), HN_ERR_ARG, "have no index");
    EXPECT_EQ(hn_pool2d_out(1, 3, 1, 0), 0);
}

#ifdef HONE_CUDA
using Gpu = Operands<DeviceMatrix, DeviceIndex>;

void run(Gpu &o, hn_stream stream = nullptr)
{
    const auto a = o.fwd();
    const auto b = o.back();
    ASSERT_HN_OK(hn_pool2d_fwd_cuda(&a, stream));
    ASSERT_HN_OK(hn_pool2d_bwd_cuda(&b, stream));
}

class Pool2dCuda : public ::testing::TestWithParam<Case> {};

TEST_P(Pool2dCuda, CudaMatchesCpu)
{
    HN_NEED_CUDA();
    const hn_pool2d_shape &s = GetParam().s;
    Host h(GetParam());
    Gpu d(GetParam());
    run(h, false);
    run(d);
    EXPECT_LT(rel_l2(d.y.values(), h.y.values()), tolerance(s.dtype));
    EXPECT_LT(rel_l2(d.dx.values(), h.dx.values()), tolerance(s.dtype));
    if (s.kind != HN_POOL_MAX) return;
    EXPECT_TRUE(same_bits(d.y.values(), h.y.values()));
    EXPECT_EQ(d.index.host(), h.index.host());
}

TEST_P(Pool2dCuda, CudaRepeatsBitForBitAlsoFromACapturedGraph)
{
    HN_NEED_CUDA();
    Gpu a(GetParam()), b(GetParam()), c(GetParam());
    run(a);
    run(b);
    run_captured([&](hn_stream stream) { run(c, stream); });
    b.expect_same(a);
    c.expect_same(a);
}

/* Vectors of 8 and single elements give the same bits. */
TEST_P(Pool2dCuda, CudaBitsDoNotDependOnAlignment)
{
    HN_NEED_CUDA();
    Case aligned = GetParam(), not_aligned = GetParam();
    aligned.gap = 7 - (GetParam().s.c + 7) % 8, not_aligned.gap = aligned.gap + 1;
    Gpu a(aligned), b(not_aligned);
    run(a);
    run(b);
    EXPECT_TRUE(same_bits(a.y.values(), b.y.values()));
    EXPECT_TRUE(same_bits(a.dx.values(), b.dx.values()));
}

INSTANTIATE_TEST_SUITE_P(Cases, Pool2dCuda, ::testing::ValuesIn(cases()),
                         [](const auto &i) { return name_of(i.param); });
#endif

} // namespace
