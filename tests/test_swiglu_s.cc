/* kernels/lora: the gated activation with s of the layer above. */
#include "kernel_test.h"
#include "kernels/lora/swiglu_s.h"
#ifdef HONE_CUDA
#include "gemm_cuda_test.h"
#endif

namespace {

/* gap: elements between rows; room for s behind y where `tail`. */
struct Shape {
    hn_dtype dtype;
    int64_t rows, cols, rank, gap;
    bool tail;
};

/* Operands on the host or on the device, with the same values. [gate | up] is one matrix. */
template <class M>
struct Operands {
    const Shape s;
    M in{s.dtype, s.rows, 2 * s.cols, s.gap}, a{s.dtype, s.rank, s.cols, s.gap};
    M y{s.dtype, s.rows, s.cols, s.gap + room()}, sv{s.dtype, s.rows, s.rank, s.gap};
    explicit Operands(const Shape &shape) : s(shape) { in.normal(1, 0, 2), a.normal(3); }
    int64_t room() const { return s.tail ? s.rank : 0; }
    void *up() { return (char *)in.data() + (size_t)s.cols * hn_dtype_size(s.dtype); }
    hn_swiglu_s_args args()
    {
        hn_swiglu_s_args f = {};
        f.swiglu = {in.data(), up(), y.data(), s.rows, s.cols, in.ld(), in.ld(), y.ld(), s.dtype};
        f.a = a.data(), f.ld_a = a.ld(), f.s = sv.data(), f.ld_s = sv.ld();
        f.rank = s.rank, f.scale = 0.5f, f.tail = room();
        return f;
    }
    /* y where gate is. */
    hn_swiglu_s_args in_place()
    {
        hn_swiglu_s_args f = args();
        f.swiglu.y = in.data(), f.swiglu.ld_y = in.ld(), f.tail = 0;
        return f;
    }
};

class SwigluS : public ::testing::TestWithParam<Shape> {};

TEST_P(SwigluS, IsSwigluThenSAlone)
{
    Operands<Matrix> want(GetParam()), twin(GetParam());
    const auto w = want.args(), t = twin.args();
    const auto rest = hn_swiglu_s_rest(&w);
    ASSERT_HN_OK(hn_swiglu_fwd_cpu(&w.swiglu));
    ASSERT_HN_OK(hn_lowrank_linear_fwd_cpu(&rest));
    ASSERT_HN_OK(hn_swiglu_s_cpu(&t));
    EXPECT_TRUE(same_bits(twin.y.values(), want.y.values()));
    EXPECT_TRUE(same_bits(twin.sv.values(), want.sv.values()));
}

TEST_P(SwigluS, FastMatchesTwinWithTheSameBitsOnAnyThreads)
{
    Operands<Matrix> want(GetParam());
    const auto w = want.args();
    ASSERT_HN_OK(hn_swiglu_s_cpu(&w));
    std::vector<std::vector<float>> first;
    for (const int threads : {1, 2, 3}) {
        Operands<Matrix> o(GetParam());
        const auto a = o.args();
        Scratch scratch(hn_swiglu_s_fast_scratch(&a));
        on_threads(threads, [&] { EXPECT_HN_OK(hn_swiglu_s_fast(&a, scratch.data())); });
        const std::vector<std::vector<float>> now = {o.y.values(), o.sv.values()};
        if (first.empty()) first = now;
        for (size_t k = 0; k < now.size(); k++) EXPECT_TRUE(same_bits(now[k], first[k])) << k;
    }
    EXPECT_LT(rel_l2(first[0], want.y.values()), tolerance(GetParam().dtype));
    EXPECT_LT(rel_l2(first[1], want.sv.values()), tolerance(GetParam().dtype));
}

std::string name_of(const ::testing::TestParamInfo<Shape> &i)
{
    const Shape &s = i.param;
    return case_name("r", s.rows, "_c", s.cols, "_k", s.rank, "_gap", s.gap, s.tail ? "_t" : "",
                     s.dtype);
}

INSTANTIATE_TEST_SUITE_P(Shapes, SwigluS,
                         ::testing::Values(Shape{HN_F32, 1, 1, 1, 0, false},
                                           Shape{HN_F32, 5, 9, 3, 2, true},
                                           Shape{HN_F32, 30, 130, 8, 0, false},
                                           Shape{HN_BF16, 5, 9, 3, 1, true},
                                           Shape{HN_BF16, 30, 136, 16, 0, true}),
                         name_of);

TEST(SwigluSCheck, NamesWhatIsWrong)
{
    Operands<Matrix> o({HN_F32, 2, 3, 1, 1, true});
    const auto a = o.args();
    EXPECT_HN_OK(hn_swiglu_s_check(&a));
    const auto with = [&](auto change) {
        auto b = a;
        change(b);
        return hn_swiglu_s_check(&b);
    };
    EXPECT_HN_FAIL(hn_swiglu_s_check(nullptr), HN_ERR_ARG, "args");
    EXPECT_HN_FAIL(with([](auto &b) { b.swiglu.up = nullptr; }), HN_ERR_ARG, "up is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.a = nullptr; }), HN_ERR_ARG, "A is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.s = nullptr; }), HN_ERR_ARG, "s is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.rank = 0; }), HN_ERR_SHAPE, "A is [0, 3]");
    EXPECT_HN_FAIL(with([](auto &b) { b.tail = 3; }), HN_ERR_SHAPE, "behind a row of x");
    EXPECT_HN_FAIL(with([](auto &b) { b.scale = 0; }), HN_ERR_ARG, "scale 0");
    EXPECT_HN_FAIL(with([](auto &b) { b.swiglu.dtype = HN_F16; }), HN_ERR_UNSUPPORTED, "f16");
}

#ifdef HONE_CUDA
class SwigluSCuda : public ::testing::TestWithParam<Shape> {
  protected:
    const Shape s = GetParam();
    /* Columns first .. first+n-1 of the rows of m, which DeviceMatrix::values takes for a gap where
     * they are a tail. */
    std::vector<float> columns(DeviceMatrix &m, int64_t first, int64_t n) const
    {
        const auto all = m.raw();
        std::vector<float> v;
        for (int64_t i = 0; i < s.rows; i++)
            for (int64_t j = 0; j < n; j++)
                v.push_back(hn_get_f32(all.data(), s.dtype, i * m.ld() + first + j));
        return v;
    }
};

TEST_P(SwigluSCuda, CudaMatchesCpuAndWritesTheTail)
{
    HN_NEED_CUDA();
    Gemm gemm;
    Operands<Matrix> host(s);
    Operands<DeviceMatrix> d(s);
    const auto a = host.args(), b = d.args();
    ASSERT_HN_OK(hn_swiglu_s_cpu(&a));
    ASSERT_HN_OK(hn_swiglu_s_cuda(&b, gemm, nullptr));
    EXPECT_LT(rel_l2(columns(d.y, 0, s.cols), host.y.values()), tolerance(s.dtype));
    /* twice as far: a few of the rounded y differ before they are multiplied */
    EXPECT_LT(rel_l2(d.sv.values(), host.sv.values()), 2 * tolerance(s.dtype));
    EXPECT_EQ(columns(d.y, s.cols, d.room()), s.tail ? d.sv.values() : std::vector<float>{});
    const int64_t used = s.cols + d.room();
    for (const float v : columns(d.y, used, d.y.ld() - used)) ASSERT_TRUE(std::isnan(v));
}

/* The bits of swiglu by itself; s is the product of exactly those. */
TEST_P(SwigluSCuda, CudaMakesTheBitsOfSwiglu)
{
    HN_NEED_CUDA();
    Gemm gemm;
    Operands<DeviceMatrix> d(s), apart(s);
    const auto a = d.args(), b = apart.args();
    const auto rest = hn_swiglu_s_rest(&b);
    ASSERT_HN_OK(hn_swiglu_s_cuda(&a, gemm, nullptr));
    ASSERT_HN_OK(hn_swiglu_fwd_cuda(&b.swiglu, nullptr));
    ASSERT_HN_OK(hn_lowrank_linear_fwd_cuda(&rest, gemm, nullptr, nullptr));
    EXPECT_TRUE(same_bits(columns(d.y, 0, s.cols), columns(apart.y, 0, s.cols)));
    /* two orders of fp32 sums: only the last rounding may differ */
    EXPECT_LT(rel_l2(d.sv.values(), apart.sv.values()), tolerance(s.dtype));
    EXPECT_EQ(columns(apart.y, s.cols, d.room()),
              s.tail ? apart.sv.values() : std::vector<float>{});
}

TEST_P(SwigluSCuda, CudaYMayLieOnGate)
{
    HN_NEED_CUDA();
    Gemm gemm;
    Operands<DeviceMatrix> o(s), d(s);
    const auto a = o.args(), b = d.in_place();
    ASSERT_HN_OK(hn_swiglu_s_cuda(&a, gemm, nullptr));
    ASSERT_HN_OK(hn_swiglu_s_cuda(&b, gemm, nullptr));
    EXPECT_TRUE(same_bits(columns(d.in, 0, s.cols), columns(o.y, 0, s.cols)));
    EXPECT_TRUE(same_bits(d.sv.values(), o.sv.values()));
}

TEST_P(SwigluSCuda, CudaRepeatsBitForBitAlsoFromACapturedGraph)
{
    HN_NEED_CUDA();
    Gemm gemm;
    Operands<DeviceMatrix> a(s), b(s), c(s);
    const auto x = a.args(), y = b.args(), z = c.args();
    ASSERT_HN_OK(hn_swiglu_s_cuda(&x, gemm, nullptr));
    ASSERT_HN_OK(hn_swiglu_s_cuda(&y, gemm, nullptr));
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    run_captured([&](hn_stream stream) { EXPECT_HN_OK(hn_swiglu_s_cuda(&z, gemm, stream)); });
    for (Operands<DeviceMatrix> *o : {&b, &c}) {
        EXPECT_TRUE(o->y.raw() == a.y.raw());
        EXPECT_TRUE(o->sv.raw() == a.sv.raw());
    }
}

/* f32, odd widths and few rows run as two kernels; the one kernel starts at 8 rows an SM (1056 on
 * an H200), with blocks of 16, 32 (from 4225 rows on) or 64 rows (8449): every height with every
 * rank, A in one tile and in several, part-filled last steps. */
INSTANTIATE_TEST_SUITE_P(
    Shapes, SwigluSCuda,
    ::testing::Values(
        Shape{HN_F32, 1, 1, 1, 0, false}, Shape{HN_F32, 30, 130, 8, 0, true},
        Shape{HN_BF16, 5, 9, 3, 1, true}, Shape{HN_BF16, 33, 136, 16, 0, true},
        Shape{HN_BF16, 1061, 8, 8, 8, true}, Shape{HN_BF16, 1056, 264, 32, 8, true},
        Shape{HN_BF16, 1100, 528, 48, 0, false}, Shape{HN_BF16, 1077, 296, 64, 8, true},
        Shape{HN_BF16, 4240, 136, 16, 0, true}, Shape{HN_BF16, 4225, 72, 24, 8, true},
        Shape{HN_BF16, 4233, 144, 40, 8, false}, Shape{HN_BF16, 4300, 264, 64, 0, true},
        Shape{HN_BF16, 8449, 264, 16, 8, true}, Shape{HN_BF16, 8512, 40, 32, 0, true},
        Shape{HN_BF16, 8500, 136, 48, 8, true}, Shape{HN_BF16, 8460, 72, 56, 8, true}),
    name_of);
#endif

} // namespace
