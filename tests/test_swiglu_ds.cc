/* kernels/lora: the gradient of the gated activation with ds of the layer below. */
#include "kernel_test.h"
#include "kernels/lora/lowrank_linear.h"
#include "kernels/lora/swiglu_ds.h"
#ifdef HONE_CUDA
#include "gemm_cuda_test.h"
#endif

namespace {

/* gap: elements between rows; room for ds behind [dgate | dup] where `tail`. */
struct Shape {
    hn_dtype dtype;
    int64_t rows, cols, rank, gap;
    bool tail;
};

/* Operands on the host or on the device, with the same values. [gate | up] is one matrix, and so is
 * [dgate | dup]. */
template <class M>
struct Operands {
    const Shape s;
    M in{s.dtype, s.rows, 2 * s.cols, s.gap + room()}, dy{s.dtype, s.rows, s.cols, s.gap};
    M b{s.dtype, 2 * s.cols, s.rank, s.gap};
    M out{s.dtype, s.rows, 2 * s.cols, s.gap + room()}, h{s.dtype, s.rows, s.cols, s.gap};
    M ds{s.dtype, s.rows, s.rank, s.gap};
    explicit Operands(const Shape &shape) : s(shape) { fill(); }
    int64_t room() const { return s.tail ? s.rank : 0; }
    void fill() { in.normal(1, 0, 2), dy.normal(2), b.normal(3); }
    void *at(M &m, int64_t col) { return (char *)m.data() + (size_t)col * hn_dtype_size(s.dtype); }
    hn_swiglu_ds_args args(bool want_h = true)
    {
        hn_swiglu_ds_args a = {};
        a.swiglu = {in.data(), at(in, s.cols), dy.data(), out.data(), at(out, s.cols),
                    s.rows,    s.cols,         in.ld(),   in.ld(),    dy.ld(),
                    out.ld(),  out.ld(),       s.dtype,   nullptr,    0};
        if (want_h) a.swiglu.h = h.data(), a.swiglu.ld_h = h.ld();
        a.b = b.data(), a.ld_b = b.ld(), a.ds = ds.data(), a.ld_ds = ds.ld();
        a.rank = s.rank, a.scale = 0.5f, a.tail = room();
        return a;
    }
    /* ds alone, of dy = [dgate | dup]. */
    static hn_lowrank_linear_dx_args rest_of(const hn_swiglu_ds_args &a)
    {
        hn_lowrank_linear_dx_args l = {};
        l.dy = a.swiglu.dgate, l.ld_dy = a.swiglu.ld_dgate, l.dy_tail = a.tail;
        l.b = a.b, l.ld_b = a.ld_b, l.ds = a.ds, l.ld_ds = a.ld_ds;
        l.rows = a.swiglu.rows, l.out = 2 * a.swiglu.cols, l.rank = a.rank;
        l.dtype = a.swiglu.dtype, l.scale = a.scale;
        return l;
    }
    /* dgate and dup where they go, everything on its input. */
    hn_swiglu_ds_args in_place()
    {
        hn_swiglu_ds_args a = args();
        a.swiglu.dgate = in.data(), a.swiglu.dup = at(in, s.cols);
        a.swiglu.ld_dgate = a.swiglu.ld_dup = in.ld();
        a.swiglu.h = dy.data(), a.swiglu.ld_h = dy.ld();
        return a;
    }
};

class SwigluDs : public ::testing::TestWithParam<Shape> {};

TEST_P(SwigluDs, IsSwigluBackwardThenDsAlone)
{
    Operands<Matrix> want(GetParam()), twin(GetParam());
    const auto w = want.args(), t = twin.args();
    const auto rest = want.rest_of(w);
    ASSERT_HN_OK(hn_swiglu_bwd_cpu(&w.swiglu));
    ASSERT_HN_OK(hn_lowrank_linear_dx_cpu(&rest));
    ASSERT_HN_OK(hn_swiglu_ds_cpu(&t));
    EXPECT_TRUE(same_bits(twin.out.values(), want.out.values()));
    EXPECT_TRUE(same_bits(twin.h.values(), want.h.values()));
    EXPECT_TRUE(same_bits(twin.ds.values(), want.ds.values()));
}

TEST_P(SwigluDs, FastMatchesTwinWithTheSameBitsOnAnyThreads)
{
    Operands<Matrix> want(GetParam());
    const auto w = want.args();
    ASSERT_HN_OK(hn_swiglu_ds_cpu(&w));
    std::vector<std::vector<float>> first;
    for (const int threads : {1, 2, 3}) {
        Operands<Matrix> o(GetParam());
        const auto a = o.args();
        Scratch scratch(hn_swiglu_ds_fast_scratch(&a));
        on_threads(threads, [&] { EXPECT_HN_OK(hn_swiglu_ds_fast(&a, scratch.data())); });
        const std::vector<std::vector<float>> now = {o.out.values(), o.h.values(), o.ds.values()};
        if (first.empty()) first = now;
        for (size_t k = 0; k < now.size(); k++) EXPECT_TRUE(same_bits(now[k], first[k])) << k;
    }
    const double most = tolerance(GetParam().dtype);
    EXPECT_LT(rel_l2(first[0], want.out.values()), most);
    EXPECT_LT(rel_l2(first[1], want.h.values()), most);
    EXPECT_LT(rel_l2(first[2], want.ds.values()), most);
}

TEST_P(SwigluDs, OutputsMayLieOnInputs)
{
    Operands<Matrix> want(GetParam()), o(GetParam());
    const auto w = want.args(), a = o.in_place();
    Scratch scratch(hn_swiglu_ds_fast_scratch(&a));
    ASSERT_HN_OK(hn_swiglu_ds_fast(&w, scratch.data()));
    ASSERT_HN_OK(hn_swiglu_ds_fast(&a, scratch.data()));
    EXPECT_TRUE(same_bits(o.in.values(), want.out.values()));
    EXPECT_TRUE(same_bits(o.dy.values(), want.h.values()));
    EXPECT_TRUE(same_bits(o.ds.values(), want.ds.values()));
}

std::string name_of(const ::testing::TestParamInfo<Shape> &i)
{
    const Shape &s = i.param;
    return case_name("r", s.rows, "_c", s.cols, "_k", s.rank, "_gap", s.gap, s.tail ? "_t" : "",
                     s.dtype);
}

INSTANTIATE_TEST_SUITE_P(Shapes, SwigluDs,
                         ::testing::Values(Shape{HN_F32, 1, 1, 1, 0, false},
                                           Shape{HN_F32, 5, 9, 3, 2, true},
                                           Shape{HN_F32, 30, 130, 8, 0, false},
                                           Shape{HN_BF16, 5, 9, 3, 1, true},
                                           Shape{HN_BF16, 30, 136, 16, 0, true}),
                         name_of);

TEST(SwigluDsCheck, NamesWhatIsWrong)
{
    Operands<Matrix> o({HN_F32, 2, 3, 1, 1, true});
    const auto a = o.args();
    EXPECT_HN_OK(hn_swiglu_ds_check(&a));
    const auto with = [&](auto change) {
        auto b = a;
        change(b);
        return hn_swiglu_ds_check(&b);
    };
    EXPECT_HN_FAIL(hn_swiglu_ds_check(nullptr), HN_ERR_ARG, "args");
    EXPECT_HN_FAIL(with([](auto &b) { b.swiglu.dy = nullptr; }), HN_ERR_ARG, "dy is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.b = nullptr; }), HN_ERR_ARG, "B is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.ds = nullptr; }), HN_ERR_ARG, "ds is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.rank = 0; }), HN_ERR_SHAPE, "B is [6, 0]");
    EXPECT_HN_FAIL(with([](auto &b) { b.tail = 6; }), HN_ERR_SHAPE, "behind a row of dup");
    EXPECT_HN_FAIL(with([](auto &b) { b.scale = 0; }), HN_ERR_ARG, "scale 0");
    EXPECT_HN_FAIL(with([](auto &b) { b.swiglu.dtype = HN_F16; }), HN_ERR_UNSUPPORTED, "f16");
}

#ifdef HONE_CUDA
class SwigluDsCuda : public ::testing::TestWithParam<Shape> {
  protected:
    const Shape s = GetParam();
    /* What lies behind the rows of m, room() columns. */
    std::vector<float> tail(Operands<DeviceMatrix> &d, DeviceMatrix &m) const
    {
        const auto all = m.raw();
        std::vector<float> v;
        for (int64_t i = 0; i < s.rows; i++)
            for (int64_t j = 0; j < d.room(); j++)
                v.push_back(hn_get_f32(all.data(), s.dtype, i * m.ld() + 2 * s.cols + j));
        return v;
    }
    /* Without the tail, which DeviceMatrix::values takes for a gap. */
    std::vector<float> columns(DeviceMatrix &m) const
    {
        const auto all = m.raw();
        std::vector<float> v;
        for (int64_t i = 0; i < s.rows; i++)
            for (int64_t j = 0; j < 2 * s.cols; j++)
                v.push_back(hn_get_f32(all.data(), s.dtype, i * m.ld() + j));
        return v;
    }
    /* Nothing but NaN between the tails and the next rows. */
    bool gaps_untouched(Operands<DeviceMatrix> &d, DeviceMatrix &m) const
    {
        const auto all = m.raw();
        for (int64_t i = 0; i < s.rows; i++)
            for (int64_t j = 2 * s.cols + d.room(); j < m.ld(); j++)
                if (!std::isnan(hn_get_f32(all.data(), s.dtype, i * m.ld() + j))) return false;
        return true;
    }
};

TEST_P(SwigluDsCuda, CudaMatchesCpuAndWritesTheTail)
{
    HN_NEED_CUDA();
    Gemm gemm;
    for (const bool want_h : {false, true}) {
        Operands<Matrix> host(s);
        Operands<DeviceMatrix> d(s);
        const auto a = host.args(want_h), b = d.args(want_h);
        ASSERT_HN_OK(hn_swiglu_ds_cpu(&a));
        ASSERT_HN_OK(hn_swiglu_ds_cuda(&b, gemm, nullptr));
        EXPECT_LT(rel_l2(columns(d.out), host.out.values()), tolerance(s.dtype));
        /* twice as far: a few of the rounded dgate and dup differ before they are multiplied */
        EXPECT_LT(rel_l2(d.ds.values(), host.ds.values()), 2 * tolerance(s.dtype));
        if (want_h) {
            EXPECT_LT(rel_l2(d.h.values(), host.h.values()), tolerance(s.dtype));
        }
        EXPECT_TRUE(gaps_untouched(d, d.out));
        if (s.tail) {
            EXPECT_EQ(tail(d, d.out), d.ds.values());
        }
    }
}

/* The bits of swiglu_bwd by itself; ds is the product of exactly those. */
TEST_P(SwigluDsCuda, CudaMakesTheBitsOfSwigluBackward)
{
    HN_NEED_CUDA();
    Gemm gemm;
    Operands<DeviceMatrix> d(s), apart(s);
    const auto a = d.args(), b = apart.args();
    const auto rest = apart.rest_of(b);
    ASSERT_HN_OK(hn_swiglu_ds_cuda(&a, gemm, nullptr));
    ASSERT_HN_OK(hn_swiglu_bwd_cuda(&b.swiglu, nullptr));
    ASSERT_HN_OK(hn_lowrank_linear_dx_cuda(&rest, gemm, nullptr, nullptr));
    EXPECT_TRUE(same_bits(columns(d.out), columns(apart.out)));
    EXPECT_TRUE(same_bits(d.h.values(), apart.h.values()));
    /* two orders of fp32 sums: only the last rounding may differ */
    EXPECT_LT(rel_l2(d.ds.values(), apart.ds.values()), tolerance(s.dtype));
    if (s.tail) {
        EXPECT_EQ(tail(apart, apart.out), apart.ds.values());
    }
}

TEST_P(SwigluDsCuda, CudaOutputsMayLieOnInputs)
{
    HN_NEED_CUDA();
    Gemm gemm;
    Operands<DeviceMatrix> o(s), d(s);
    const auto a = o.args(), b = d.in_place();
    ASSERT_HN_OK(hn_swiglu_ds_cuda(&a, gemm, nullptr));
    ASSERT_HN_OK(hn_swiglu_ds_cuda(&b, gemm, nullptr));
    EXPECT_TRUE(same_bits(columns(d.in), columns(o.out)));
    EXPECT_TRUE(same_bits(d.dy.values(), o.h.values()));
    EXPECT_TRUE(same_bits(d.ds.values(), o.ds.values()));
    EXPECT_TRUE(same_bits(tail(d, d.in), tail(o, o.out)));
}

TEST_P(SwigluDsCuda, CudaRepeatsBitForBitAlsoFromACapturedGraph)
{
    HN_NEED_CUDA();
    Gemm gemm;
    Operands<DeviceMatrix> a(s), b(s), c(s);
    const auto x = a.args(), y = b.args(), z = c.args();
    ASSERT_HN_OK(hn_swiglu_ds_cuda(&x, gemm, nullptr));
    ASSERT_HN_OK(hn_swiglu_ds_cuda(&y, gemm, nullptr));
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    run_captured([&](hn_stream stream) { EXPECT_HN_OK(hn_swiglu_ds_cuda(&z, gemm, stream)); });
    for (Operands<DeviceMatrix> *o : {&b, &c}) {
        EXPECT_TRUE(o->out.raw() == a.out.raw());
        EXPECT_TRUE(o->h.raw() == a.h.raw());
        EXPECT_TRUE(o->ds.raw() == a.ds.raw());
    }
}

TEST(SwigluDsCudaPlaces, DupHasToLieRightOfDgate)
{
    HN_NEED_CUDA();
    Gemm gemm;
    Operands<DeviceMatrix> d({HN_F32, 2, 3, 1, 1, false});
    auto a = d.args();
    a.swiglu.dup = d.in.data();
    EXPECT_HN_FAIL(hn_swiglu_ds_cuda(&a, gemm, nullptr), HN_ERR_ARG, "right of dgate");
}

/* f32, odd widths and few rows run as two kernels; the one kernel starts at 8 rows an SM (1056 on
 * an H200), with blocks of 16, 32 (from 4225 rows on) or 64 rows (8449): every height with every
 * rank, B in one tile and in several, part-filled last steps. */
INSTANTIATE_TEST_SUITE_P(
    Shapes, SwigluDsCuda,
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
