/* kernels/embed: tokens of a vision transformer, and rows at a stride. */
#include "kernel_test.h"
#include "kernels/embed/class_token.h"
#include "kernels/embed/take_rows.h"
#include "vision_golden.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

struct Case {
    hn_dtype dtype, param_dtype;
    int64_t images, patches, dim;
    bool has_cls;
    int64_t replicas, gap;
};

/* Operands on the host or on the device, with the same values; parameters of replica g are rows of
 * one matrix. */
template <class M>
struct Operands {
    const Case c;
    const int64_t has = c.has_cls, tokens = c.patches + has, g = c.replicas > 1 ? c.replicas : 1;
    M x{c.dtype, c.images *c.patches, c.dim, c.gap}, dx{c.dtype, c.images *c.patches, c.dim, c.gap};
    M y{c.dtype, c.images *tokens, c.dim, c.gap}, dy{c.dtype, c.images *tokens, c.dim, c.gap};
    M cls{c.param_dtype, g, c.dim, c.gap}, dcls{HN_F32, g, c.dim, c.gap};
    M pos{c.param_dtype, g *tokens, c.dim, c.gap}, dpos{HN_F32, g *tokens, c.dim, c.gap};
    explicit Operands(const Case &of) : c(of)
    {
        x.normal(1), cls.normal(2), pos.normal(3), dy.normal(4), dcls.normal(5), dpos.normal(6);
    }
    hn_class_token_args fwd()
    {
        return {x.data(),
                has ? cls.data() : nullptr,
                pos.data(),
                y.data(),
                c.images,
                c.patches,
                c.dim,
                x.ld(),
                pos.ld(),
                y.ld(),
                c.replicas,
                cls.ld(),
                tokens * pos.ld(),
                c.dtype,
                c.param_dtype};
    }
    hn_class_token_bwd_args back()
    {
        return {dy.data(),
                dx.data(),
                has ? dcls.f32() : nullptr,
                dpos.f32(),
                c.images,
                c.patches,
                c.dim,
                dy.ld(),
                dx.ld(),
                dpos.ld(),
                c.replicas,
                dcls.ld(),
                tokens * dpos.ld(),
                c.dtype,
                c.has_cls};
    }
    void expect_same(Operands &o)
    {
        EXPECT_TRUE(same_bits(y.values(), o.y.values()));
        EXPECT_TRUE(same_bits(dx.values(), o.dx.values()));
        EXPECT_TRUE(same_bits(dcls.values(), o.dcls.values()));
        EXPECT_TRUE(same_bits(dpos.values(), o.dpos.values()));
    }
};

void run(Operands<Matrix> &o, bool fast)
{
    const auto a = o.fwd();
    const auto b = o.back();
    ASSERT_HN_OK(fast ? hn_class_token_fwd_fast(&a) : hn_class_token_fwd_cpu(&a));
    ASSERT_HN_OK(fast ? hn_class_token_bwd_fast(&b) : hn_class_token_bwd_cpu(&b));
}

/* y and dx have one rounding or none, and so the same bits; sums of a few hundred fp32 terms. */
template <class A, class B>
void expect_near(A &got, B &want)
{
    EXPECT_TRUE(same_bits(got.y.values(), want.y.values()));
    EXPECT_TRUE(same_bits(got.dx.values(), want.dx.values()));
    EXPECT_LT(rel_l2(got.dcls.values(), want.dcls.values()), 3e-6);
    EXPECT_LT(rel_l2(got.dpos.values(), want.dpos.values()), 3e-6);
}

std::vector<Case> cases()
{
    std::vector<Case> all;
    for (const hn_dtype t : {HN_F32, HN_BF16}) {
        all.push_back({t, t, 1, 1, 1, true, 0, 0});
        all.push_back({t, t, 3, 4, 24, true, 0, 0});
        all.push_back({t, HN_F32, 37, 5, 75, true, 0, 5}); /* part-filled spans, aligned rows */
        all.push_back({t, HN_BF16, 9, 3, 264, true, 0, 1});
        all.push_back({t, t, 40, 6, 600, false, 0, 8});
        all.push_back({t, t, 12, 3, 40, true, 3, 8});
    }
    return all;
}

std::string name_of(const Case &c)
{
    return case_name("n", c.images, "_p", c.patches, "_d", c.dim, c.has_cls ? "_cls" : "", "_g",
                     c.replicas, "_gap", c.gap, c.dtype, c.param_dtype);
}

class ClassToken : public ::testing::TestWithParam<Case> {};

TEST_P(ClassToken, FastMatchesTwinWithTheSameBitsOnAnyThreads)
{
    Operands<Matrix> want(GetParam()), first(GetParam());
    run(want, false);
    run(first, true);
    expect_near(first, want);
    for (const int threads : {1, 2, 3}) {
        Operands<Matrix> now(GetParam());
        on_threads(threads, [&] { run(now, true); });
        now.expect_same(first);
    }
}

/* Each gradient may be left out; the others stay the same. */
TEST_P(ClassToken, GradientsThatAreNotWantedAreNotWritten)
{
    Operands<Matrix> all(GetParam());
    run(all, true);
    for (const bool fast : {false, true})
        for (int left_out = 0; left_out < 3; left_out++) {
            Operands<Matrix> o(GetParam()), before(GetParam());
            auto b = o.back();
            if (left_out == 0) b.dx = nullptr;
            if (left_out == 1) b.dcls = nullptr;
            if (left_out == 2) b.dpos = nullptr;
            ASSERT_HN_OK(fast ? hn_class_token_bwd_fast(&b) : hn_class_token_bwd_cpu(&b));
            EXPECT_TRUE(same_bits(o.dx.values(), (b.dx ? all : before).dx.values()));
            EXPECT_LT(rel_l2(o.dcls.values(), (b.dcls ? all : before).dcls.values()), 3e-6);
            EXPECT_LT(rel_l2(o.dpos.values(), (b.dpos ? all : before).dpos.values()), 3e-6);
        }
}

INSTANTIATE_TEST_SUITE_P(Cases, ClassToken, ::testing::ValuesIn(cases()),
                         [](const auto &i) { return name_of(i.param); });

TEST(ClassTokenGolden, MatchesPyTorch)
{
    for (const char *name : {"cls", "no_cls"}) {
        SCOPED_TRACE(name);
        const GoldenCase g(std::string("token_") + name);
        const bool has = !g.floats("cls").empty();
        for (const bool fast : {false, true}) {
            Operands<Matrix> o({HN_F32, HN_F32, g.number("images"), g.number("patches"),
                                g.number("dim"), has, 0, 2});
            o.x.assign(g.floats("x")), o.pos.assign(g.floats("pos")), o.dy.assign(g.floats("dy"));
            if (has) o.cls.assign(g.floats("cls"));
            o.dcls.assign(std::vector<float>((size_t)o.c.dim, 0));
            o.dpos.assign(std::vector<float>((size_t)(o.tokens * o.c.dim), 0));
            run(o, fast);
            EXPECT_EQ(o.y.values(), g.floats("y"));
            EXPECT_EQ(o.dx.values(), g.floats("dx"));
            EXPECT_LT(max_abs(o.dpos.values(), g.floats("dpos")), 1e-6);
            EXPECT_TRUE(!has || max_abs(o.dcls.values(), g.floats("dcls")) < 1e-6);
        }
    }
}

TEST(ClassTokenTwin, MatchesHandComputedValues)
{
    const float x[] = {1, 2}, cls = 10, pos[] = {100, 200}; /* two images of one patch */
    const float dy[] = {1, 2, 3, 4};
    float y[4], dx[2], dcls = 0.5f, dpos[] = {0.25f, 0};
    const hn_class_token_args a = {x, &cls, pos, y, 2, 1, 1, 1, 1, 1, 0, 0, 0, HN_F32, HN_F32};
    const hn_class_token_bwd_args b = {dy, dx, &dcls, dpos, 2, 1,      1,   1,
                                       1,  1,  0,     0,    0, HN_F32, true};
    ASSERT_HN_OK(hn_class_token_fwd_cpu(&a));
    ASSERT_HN_OK(hn_class_token_bwd_cpu(&b));
    EXPECT_EQ(std::vector<float>(y, y + 4), (std::vector<float>{110, 201, 110, 202}));
    EXPECT_EQ(std::vector<float>(dx, dx + 2), (std::vector<float>{2, 4}));
    EXPECT_EQ(dcls, 4.5f);
    EXPECT_EQ(dpos[0], 4.25f);
    EXPECT_EQ(dpos[1], 6);
}

TEST(ClassTokenCheck, NamesWhatIsWrong)
{
    float f[64] = {};
    hn_class_token_args a = {f, f, f, f, 2, 2, 3, 3, 3, 3, 0, 0, 0, HN_F32, HN_F32};
    EXPECT_HN_OK(hn_class_token_check(&a));
    EXPECT_HN_FAIL(hn_class_token_check(nullptr), HN_ERR_ARG, "args");
    const auto with = [&](auto change) {
        hn_class_token_args b = a;
        change(b);
        return hn_class_token_check(&b);
    };
    EXPECT_HN_FAIL(with([](auto &b) { b.pos = nullptr; }), HN_ERR_ARG, "pos is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.images = 0; }), HN_ERR_SHAPE, "0 images of 2 patches");
    EXPECT_HN_FAIL(with([](auto &b) { b.ld_pos = 2; }), HN_ERR_SHAPE, "of pos");
    EXPECT_HN_FAIL(with([](auto &b) { b.replicas = 3; }), HN_ERR_SHAPE, "replicas");
    EXPECT_HN_FAIL(with([](auto &b) { b.replicas = 2, b.pos_stride = 5; }), HN_ERR_SHAPE,
                   "replicas of pos");
    EXPECT_HN_FAIL(with([](auto &b) { b.param_dtype = HN_F16; }), HN_ERR_UNSUPPORTED, "f16");
    hn_class_token_bwd_args b = {f, f, f, f, 2, 2, 3, 3, 3, 3, 0, 0, 0, HN_F32, true};
    EXPECT_HN_OK(hn_class_token_bwd_check(&b));
    b.has_cls = false;
    EXPECT_HN_FAIL(hn_class_token_bwd_check(&b), HN_ERR_ARG, "without a class token");
    b.has_cls = true, b.replicas = 2, b.dcls_stride = 1;
    EXPECT_HN_FAIL(hn_class_token_bwd_check(&b), HN_ERR_SHAPE, "replicas of dcls");
    b.replicas = 0, b.ld_dx = 1;
    EXPECT_HN_FAIL(hn_class_token_bwd_check(&b), HN_ERR_SHAPE, "of dx");
}

/* ---- rows at a stride ---- */

struct RowsCase {
    hn_dtype dtype;
    int64_t rows, cols, stride, offset, gap;
};

template <class M>
struct RowsOperands {
    const RowsCase c;
    M x{c.dtype, c.rows *c.stride, c.cols, c.gap}, dx{c.dtype, c.rows *c.stride, c.cols, c.gap};
    M y{c.dtype, c.rows, c.cols, c.gap}, dy{c.dtype, c.rows, c.cols, c.gap};
    explicit RowsOperands(const RowsCase &of) : c(of) { x.normal(1), dy.normal(2); }
    hn_take_rows_args fwd()
    {
        return {x.data(), y.data(), c.rows, c.cols, c.stride, c.offset, x.ld(), y.ld(), c.dtype};
    }
    hn_take_rows_bwd_args back()
    {
        return {dy.data(), dx.data(), c.rows,  c.cols, c.stride,
                c.offset,  dy.ld(),   dx.ld(), c.dtype};
    }
};

void run(RowsOperands<Matrix> &o, bool fast)
{
    const auto a = o.fwd();
    const auto b = o.back();
    ASSERT_HN_OK(fast ? hn_take_rows_fwd_fast(&a) : hn_take_rows_fwd_cpu(&a));
    ASSERT_HN_OK(fast ? hn_take_rows_bwd_fast(&b) : hn_take_rows_bwd_cpu(&b));
}

std::vector<RowsCase> rows_cases()
{
    std::vector<RowsCase> all;
    for (const hn_dtype t : {HN_F32, HN_BF16}) {
        all.push_back({t, 1, 1, 1, 0, 0});
        all.push_back({t, 5, 24, 3, 0, 0});
        all.push_back({t, 4, 75, 7, 6, 5});
        all.push_back({t, 30, 130, 5, 2, 1});
    }
    return all;
}

std::string rows_name(const RowsCase &c)
{
    return case_name("r", c.rows, "_c", c.cols, "_s", c.stride, "_at", c.offset, "_gap", c.gap,
                     c.dtype);
}

class TakeRows : public ::testing::TestWithParam<RowsCase> {};

TEST_P(TakeRows, FastGivesTheBitsOfTheTwinOnAnyThreads)
{
    RowsOperands<Matrix> want(GetParam());
    run(want, false);
    for (const int threads : {1, 2, 3}) {
        RowsOperands<Matrix> now(GetParam());
        on_threads(threads, [&] { run(now, true); });
        EXPECT_TRUE(same_bits(now.y.values(), want.y.values()));
        EXPECT_TRUE(same_bits(now.dx.values(), want.dx.values()));
    }
}

INSTANTIATE_TEST_SUITE_P(Cases, TakeRows, ::testing::ValuesIn(rows_cases()),
                         [](const auto &i) { return rows_name(i.param); });

TEST(TakeRowsGolden, MatchesPyTorch)
{
    const GoldenCase g("rows");
    RowsOperands<Matrix> o(
        {HN_F32, g.number("rows"), g.number("cols"), g.number("stride"), g.number("offset"), 3});
    o.x.assign(g.floats("x")), o.dy.assign(g.floats("dy"));
    run(o, false);
    EXPECT_EQ(o.y.values(), g.floats("y"));
    EXPECT_EQ(o.dx.values(), g.floats("dx"));
}

TEST(TakeRowsCheck, NamesWhatIsWrong)
{
    float f[64] = {};
    hn_take_rows_args a = {f, f + 32, 2, 3, 4, 3, 3, 3, HN_F32};
    EXPECT_HN_OK(hn_take_rows_check(&a));
    a.offset = 4;
    EXPECT_HN_FAIL(hn_take_rows_check(&a), HN_ERR_SHAPE, "row 4 of every 4");
    a.offset = 0, a.ld_y = 2;
    EXPECT_HN_FAIL(hn_take_rows_check(&a), HN_ERR_SHAPE, "of y");
    EXPECT_HN_FAIL(hn_take_rows_check(nullptr), HN_ERR_ARG, "args");
    hn_take_rows_bwd_args b = {f, f + 32, 2, 3, 4, 0, 3, 3, HN_I32};
    EXPECT_HN_FAIL(hn_take_rows_bwd_check(&b), HN_ERR_UNSUPPORTED, "i32");
    b.dtype = HN_F32, b.dy = nullptr;
    EXPECT_HN_FAIL(hn_take_rows_bwd_check(&b), HN_ERR_ARG, "dy is NULL");
}

#ifdef HONE_CUDA
void run(Operands<DeviceMatrix> &o, hn_stream stream = nullptr)
{
    const auto a = o.fwd();
    const auto b = o.back();
    ASSERT_HN_OK(hn_class_token_fwd_cuda(&a, stream));
    ASSERT_HN_OK(hn_class_token_bwd_cuda(&b, stream));
}

class ClassTokenCuda : public ::testing::TestWithParam<Case> {};

TEST_P(ClassTokenCuda, CudaMatchesCpu)
{
    HN_NEED_CUDA();
    Operands<Matrix> h(GetParam());
    Operands<DeviceMatrix> d(GetParam());
    run(h, false);
    run(d);
    expect_near(d, h);
}

TEST_P(ClassTokenCuda, CudaRepeatsBitForBitAlsoFromACapturedGraph)
{
    HN_NEED_CUDA();
    Operands<DeviceMatrix> a(GetParam()), b(GetParam()), c(GetParam());
    run(a);
    run(b);
    run_captured([&](hn_stream stream) { run(c, stream); });
    b.expect_same(a);
    c.expect_same(a);
}

TEST_P(ClassTokenCuda, CudaGradientsThatAreNotWantedAreNotWritten)
{
    HN_NEED_CUDA();
    Operands<DeviceMatrix> all(GetParam());
    run(all);
    for (int left_out = 0; left_out < 3; left_out++) {
        Operands<DeviceMatrix> o(GetParam()), before(GetParam());
        auto b = o.back();
        if (left_out == 0) b.dx = nullptr;
        if (left_out == 1) b.dcls = nullptr;
        if (left_out == 2) b.dpos = nullptr;
        ASSERT_HN_OK(hn_class_token_bwd_cuda(&b, nullptr));
        EXPECT_TRUE(same_bits(o.dx.values(), (b.dx ? all : before).dx.values()));
        EXPECT_TRUE(same_bits(o.dcls.values(), (b.dcls ? all : before).dcls.values()));
        EXPECT_TRUE(same_bits(o.dpos.values(), (b.dpos ? all : before).dpos.values()));
    }
}

INSTANTIATE_TEST_SUITE_P(Cases, ClassTokenCuda, ::testing::ValuesIn(cases()),
                         [](const auto &i) { return name_of(i.param); });

void run(RowsOperands<DeviceMatrix> &o, hn_stream stream = nullptr)
{
    const auto a = o.fwd();
    const auto b = o.back();
    ASSERT_HN_OK(hn_take_rows_fwd_cuda(&a, stream));
    ASSERT_HN_OK(hn_take_rows_bwd_cuda(&b, stream));
}

class TakeRowsCuda : public ::testing::TestWithParam<RowsCase> {};

TEST_P(TakeRowsCuda, CudaGivesTheBitsOfTheCpuAlsoFromACapturedGraph)
{
    HN_NEED_CUDA();
    RowsOperands<Matrix> h(GetParam());
    RowsOperands<DeviceMatrix> d(GetParam()), c(GetParam());
    run(h, false);
    run(d);
    run_captured([&](hn_stream stream) { run(c, stream); });
    for (RowsOperands<DeviceMatrix> *o : {&d, &c}) {
        EXPECT_TRUE(same_bits(o->y.values(), h.y.values()));
        EXPECT_TRUE(same_bits(o->dx.values(), h.dx.values()));
    }
}

INSTANTIATE_TEST_SUITE_P(Cases, TakeRowsCuda, ::testing::ValuesIn(rows_cases()),
                         [](const auto &i) { return rows_name(i.param); });
#endif

} // namespace
