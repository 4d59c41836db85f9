/* kernels/norm: batch normalisation with residual and relu, and what the graph asks of it. */
#include "kernels/norm/batch_norm.h"
#include "norm_test.h"
#include "runtime/graph/op_util.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

extern "C" {
#include "runtime/graph/graph_impl.h"
}

namespace {

struct Shape {
    hn_dtype dtype, param;
    int64_t rows, cols, gap; /* gap: elements between rows */
    bool relu, res, frozen;
};

std::string name_of(const Shape &s)
{
    return case_name("r", s.rows, "_c", s.cols, "_gap", s.gap, (s.relu ? "_relu" : "_plain"),
                     (s.res ? "_res" : ""), (s.frozen ? "_frozen" : ""), s.dtype, s.param);
}

/* Operands on the host or on the device, with the same values. */
template <class M>
struct Operands {
    const Shape s;
    M x{s.dtype, s.rows, s.cols, s.gap}, res{s.dtype, s.rows, s.cols, s.gap};
    M y{s.dtype, s.rows, s.cols, s.gap}, dy{s.dtype, s.rows, s.cols, s.gap};
    M dx{s.dtype, s.rows, s.cols, s.gap}, dres{s.dtype, s.rows, s.cols, s.gap};
    M gain{s.param, 1, s.cols, 0}, bias{HN_F32, 1, s.cols, 0}, mean{HN_F32, 1, s.cols, 0};
    M rstd{HN_F32, 1, s.cols, 0}, rm{HN_F32, 1, s.cols, 0}, rv{HN_F32, 1, s.cols, 0};
    M dgain{HN_F32, 1, s.cols, 0}, dbias{HN_F32, 1, s.cols, 0};

    explicit Operands(const Shape &shape) : s(shape) { fill(); }
    void fill()
    {
        x.normal(1, 0.5f), res.normal(2), gain.normal(3, 1, 0.3f), bias.normal(4), dy.normal(5);
        rm.normal(6), dgain.normal(7), dbias.normal(8);
        auto var = normal_f32((size_t)s.cols, 9);
        for (auto &v : var) v = v * v + 0.5f;
        rv.assign(var);
    }
    hn_batch_norm_args fwd()
    {
        hn_batch_norm_args a = {};
        a.x = x.data(), a.gain = gain.data(), a.bias = bias.data(), a.y = y.data();
        if (s.res) a.res = res.data();
        a.mean = mean.f32(), a.rstd = rstd.f32(), a.running_mean = rm.f32();
        a.running_var = rv.f32(), a.rows = s.rows, a.cols = s.cols;
        a.ld_x = x.ld(), a.ld_res = res.ld(), a.ld_y = y.ld();
        a.dtype = s.dtype, a.gain_dtype = s.param, a.bias_dtype = HN_F32;
        a.eps = 1e-5f, a.momentum = 0.1f, a.frozen = s.frozen, a.relu = s.relu;
        return a;
    }
    hn_batch_norm_bwd_args back()
    {
        hn_batch_norm_bwd_args a = {};
        a.x = x.data(), a.gain = gain.data(), a.mean = mean.f32(), a.rstd = rstd.f32();
        if (s.relu) a.y = y.data();
        if (s.res) a.dres = dres.data();
        a.dy = dy.data(), a.dx = dx.data(), a.dgain = dgain.f32(), a.dbias = dbias.f32();
        a.rows = s.rows, a.cols = s.cols, a.ld_x = x.ld(), a.ld_y = y.ld(), a.ld_dy = dy.ld();
        a.ld_dx = dx.ld(), a.ld_dres = dres.ld(), a.dtype = s.dtype, a.gain_dtype = s.param;
        a.frozen = s.frozen;
        return a;
    }
    /* What relu let through, by bias in place of y. */
    hn_batch_norm_bwd_args back_by_bias()
    {
        hn_batch_norm_bwd_args a = back();
        a.y = nullptr, a.bias = bias.data(), a.bias_dtype = HN_F32;
        return a;
    }
    /* What forward and backward have written. */
    std::vector<std::vector<float>> results()
    {
        std::vector<std::vector<float>> all = {
            y.values(),  mean.values(),  rstd.values(),  rm.values(),
            rv.values(), dgain.values(), dbias.values(), dx.values(),
        };
        if (s.res) all.push_back(dres.values());
        return all;
    }
};
using Host = Operands<Matrix>;

void expect_same(const std::vector<std::vector<float>> &a, const std::vector<std::vector<float>> &b)
{
    ASSERT_EQ(a.size(), b.size());
    for (size_t k = 0; k < a.size(); k++) EXPECT_TRUE(same_bits(a[k], b[k])) << "result " << k;
}

/* Statistics and sums in fp32 and double; y, dx and dres as they are stored. Of two rows all of dx
 * cancels: an absolute bound. */
void expect_near(const Shape &s, const std::vector<std::vector<float>> &got,
                 const std::vector<std::vector<float>> &want)
{
    ASSERT_EQ(got.size(), want.size());
    for (size_t k = 0; k < got.size(); k++) {
        if (k == 7 && s.rows == 2 && !s.frozen)
            EXPECT_LT(max_abs(got[k], want[k]), 1e-5);
        else
            EXPECT_LT(rel_l2(got[k], want[k]), k == 0 || k >= 7 ? tolerance(s.dtype) : 5e-6)
                << "result " << k;
    }
}

hn_status fwd_fast(const hn_batch_norm_args &a)
{
    Scratch scratch(hn_batch_norm_fwd_fast_scratch(&a));
    return hn_batch_norm_fwd_fast(&a, scratch.data());
}

hn_status bwd_fast(const hn_batch_norm_bwd_args &a)
{
    Scratch scratch(hn_batch_norm_bwd_fast_scratch(&a));
    return hn_batch_norm_bwd_fast(&a, scratch.data());
}

class BatchNorm : public ::testing::TestWithParam<Shape> {
  protected:
    const Shape s = GetParam();
};

TEST_P(BatchNorm, FastMatchesTwinWithTheSameBitsOnAnyThreads)
{
    Host want(s);
    const auto a = want.fwd();
    ASSERT_HN_OK(hn_batch_norm_fwd_cpu(&a));
    const auto b = want.back();
    ASSERT_HN_OK(hn_batch_norm_bwd_cpu(&b));
    std::vector<std::vector<float>> first;
    for (const int threads : {1, 2, 3}) {
        Host o(s);
        on_threads(threads, [&] {
            EXPECT_HN_OK(fwd_fast(o.fwd()));
            EXPECT_HN_OK(bwd_fast(o.back()));
        });
        if (first.empty()) first = o.results();
        expect_same(o.results(), first);
    }
    expect_near(s, first, want.results());
}

TEST_P(BatchNorm, OutputsMayLieOnInputs)
{
    for (const bool use_fast : {false, true}) {
        Host o(s);
        auto forward = [&](const hn_batch_norm_args &a) {
            ASSERT_HN_OK(use_fast ? fwd_fast(a) : hn_batch_norm_fwd_cpu(&a));
        };
        auto backward = [&](const hn_batch_norm_bwd_args &a) {
            ASSERT_HN_OK(use_fast ? bwd_fast(a) : hn_batch_norm_bwd_cpu(&a));
        };
        forward(o.fwd());
        backward(o.back());
        for (const char *on : {"x", "res"}) {
            Host p(s);
            if (*on == 'r' && !s.res) continue;
            Matrix &to = *on == 'x' ? p.x : p.res;
            auto a = p.fwd();
            a.y = to.data();
            forward(a);
            EXPECT_TRUE(same_bits(to.values(), o.y.values())) << on;
        }
        /* dx on dy, x, y; dres on y, dy, dy */
        for (int k = 0; k < 3; k++) {
            Host p(s);
            forward(p.fwd());
            Matrix &to = k == 0 ? p.dy : k == 1 ? p.x : p.y;
            Matrix &res = k == 0 ? p.y : p.dy;
            auto b = p.back();
            b.dx = to.data();
            if (s.res) b.dres = res.data();
            backward(b);
            EXPECT_TRUE(same_bits(to.values(), o.dx.values())) << k;
            if (s.res) {
                EXPECT_TRUE(same_bits(res.values(), o.dres.values())) << k;
            }
            EXPECT_TRUE(same_bits(p.dgain.values(), o.dgain.values()));
        }
    }
}

TEST_P(BatchNorm, LeavesOutWhatIsNotWanted)
{
    Host o(s), p(s);
    ASSERT_HN_OK(fwd_fast(o.fwd()));
    ASSERT_HN_OK(bwd_fast(o.back()));
    ASSERT_HN_OK(fwd_fast(p.fwd()));
    auto dx = p.back(), gain = p.back(), res = p.back();
    dx.dgain = dx.dbias = nullptr, dx.dres = nullptr;
    ASSERT_HN_OK(bwd_fast(dx));
    EXPECT_TRUE(same_bits(p.dx.values(), o.dx.values()));
    gain.dx = gain.dres = nullptr, gain.dbias = nullptr;
    ASSERT_HN_OK(bwd_fast(gain));
    EXPECT_TRUE(same_bits(p.dgain.values(), o.dgain.values()));
    if (!s.res) return;
    res.dx = nullptr, res.dgain = res.dbias = nullptr;
    EXPECT_EQ(hn_batch_norm_bwd_fast_scratch(&res), 0u);
    ASSERT_HN_OK(bwd_fast(res));
    EXPECT_TRUE(same_bits(p.dres.values(), o.dres.values()));
}

/* Smallest, one block of columns and one past it, several runs, with and without relu, residual. */
INSTANTIATE_TEST_SUITE_P(Shapes, BatchNorm,
                         ::testing::Values(Shape{HN_F32, HN_F32, 2, 1, 0, false, false, false},
                                           Shape{HN_F32, HN_F32, 7, 5, 2, true, true, false},
                                           Shape{HN_F32, HN_BF16, 70, 33, 3, false, true, false},
                                           Shape{HN_F32, HN_F32, 5000, 12, 0, true, false, false},
                                           Shape{HN_F32, HN_F32, 9, 513, 1, true, true, true},
                                           Shape{HN_BF16, HN_BF16, 70, 33, 3, true, true, false},
                                           Shape{HN_BF16, HN_F32, 300, 600, 0, false, false, false},
                                           Shape{HN_BF16, HN_BF16, 40, 64, 8, true, false, true}),
                         [](const auto &i) { return name_of(i.param); });

/* With relu, without a residual. */
class BatchNormRelu : public BatchNorm {};

TEST_P(BatchNormRelu, BiasStandsForY)
{
    for (const bool use_fast : {false, true}) {
        Host by_y(s), by_bias(s), on_x(s);
        for (Host *o : {&by_y, &by_bias, &on_x}) {
            const auto a = o->fwd();
            ASSERT_HN_OK(use_fast ? fwd_fast(a) : hn_batch_norm_fwd_cpu(&a));
        }
        const auto y = by_y.back(), bias = by_bias.back_by_bias();
        auto in_place = on_x.back_by_bias();
        in_place.dx = on_x.x.data();
        for (const auto &b : {y, bias, in_place})
            ASSERT_HN_OK(use_fast ? bwd_fast(b) : hn_batch_norm_bwd_cpu(&b));
        expect_same(by_bias.results(), by_y.results());
        EXPECT_TRUE(same_bits(on_x.x.values(), by_y.dx.values()));
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, BatchNormRelu,
                         ::testing::Values(Shape{HN_F32, HN_F32, 2, 1, 0, true, false, false},
                                           Shape{HN_F32, HN_BF16, 70, 33, 3, true, false, false},
                                           Shape{HN_F32, HN_F32, 5000, 12, 0, true, false, false},
                                           Shape{HN_BF16, HN_BF16, 300, 600, 0, true, false, false},
                                           Shape{HN_BF16, HN_F32, 40, 64, 8, true, false, true}),
                         [](const auto &i) { return name_of(i.param); });

/* The backward node of a batch norm. */
struct Recorded {
    hn_program *p = nullptr;
    hn_tensor *bias = nullptr;
    const hn_node *back = nullptr;

    Recorded(bool relu, bool res, bool frozen)
    {
        const hn_type image = hn_type_image(HN_BF16, 2, 3, 3, 4), param = hn_type_1d(HN_F32, 4);
        hn_graph *g;
        hn_tensor *in[6] = {}, *out[5], *dy;
        EXPECT_HN_OK(hn_program_new(1, &p));
        EXPECT_HN_OK(hn_graph_new(p, "test", true, &g));
        for (int k = 0; k < 6; k++) {
            if (k == 1 && !res) continue;
            const std::string name = "in" + std::to_string(k);
            EXPECT_HN_OK(
                hn_program_tensor(p, HN_MEM_INPUT, name.c_str(), k < 2 ? &image : &param, &in[k]));
            in[k]->needs_grad = k < 4;
        }
        hn_attr attr = {};
        attr.channel_norm.eps = 1e-5f, attr.channel_norm.momentum = 0.1f;
        attr.channel_norm.relu = relu, attr.channel_norm.frozen = frozen;
        EXPECT_HN_OK(hn_emit(g, HN_OP_BATCH_NORM, "bn", in, &attr, out));
        EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_INPUT, "dy", &image, &dy));
        EXPECT_HN_OK(hn_graph_backward(g, 1, out, &dy));
        for (int64_t i = 0; i < g->n_nodes; i++)
            if (g->node[i]->op == HN_OP_BATCH_NORM_BWD) back = g->node[i];
        bias = in[3];
    }
    ~Recorded() { hn_program_free(p); }
};

TEST(BatchNormGraph, BackwardGoesByBiasOnlyInTrainingAndWithoutAResidual)
{
    for (int k = 0; k < 8; k++) {
        const bool relu = k & 1, res = k & 2, frozen = k & 4, by_bias = relu && !res && !frozen;
        const Recorded r(relu, res, frozen);
        ASSERT_NE(r.back, nullptr) << k;
        EXPECT_EQ(r.back->attr.channel_norm.by_bias, by_bias) << k;
        EXPECT_EQ(r.back->in[1] == r.bias, by_bias) << k;
        EXPECT_EQ(r.back->in[1] == nullptr, !relu) << k;
    }
}

TEST(BatchNormTwin, MatchesHandComputedColumns)
{
    /* column 0 is 1, 3: mean 2, deviation 1; column 1 is -4, 4: mean 0, deviation 4 */
    const float x[] = {1, -4, 3, 4}, gain[] = {2, 1}, bias[] = {0, 5}, res[] = {-3, 0, 0, -8};
    float y[4], mean[2], rstd[2], rm[] = {1, 0}, rv[] = {1, 2};
    hn_batch_norm_args a = {};
    a.x = x, a.gain = gain, a.bias = bias, a.y = y, a.mean = mean, a.rstd = rstd;
    a.running_mean = rm, a.running_var = rv, a.rows = a.cols = a.ld_x = a.ld_y = a.ld_res = 2;
    a.eps = 1e-20f, a.momentum = 0.25f;
    ASSERT_HN_OK(hn_batch_norm_fwd_cpu(&a));
    EXPECT_EQ(std::vector<float>(y, y + 4), (std::vector<float>{-2, 4, 2, 6}));
    EXPECT_EQ(std::vector<float>(rstd, rstd + 2), (std::vector<float>{1, 0.25f}));
    /* 3/4 old + 1/4 new; unbiased variances 2 and 32 */
    EXPECT_EQ(std::vector<float>(rm, rm + 2), (std::vector<float>{1.25f, 0}));
    EXPECT_EQ(std::vector<float>(rv, rv + 2), (std::vector<float>{1.25f, 9.5f}));
    a.res = res, a.relu = true;
    ASSERT_HN_OK(hn_batch_norm_fwd_cpu(&a));
    EXPECT_EQ(std::vector<float>(y, y + 4), (std::vector<float>{0, 4, 2, 0}));

    /* g = {0, 2; 1, 0}: what cancels of dx is all, with two rows; dgain, dbias add */
    const float dy[] = {1, 2, 1, 2};
    float dx[4], dres[4], dgain[] = {10, 10}, dbias[] = {0, 0};
    hn_batch_norm_bwd_args b = {};
    b.x = x, b.y = y, b.gain = gain, b.mean = mean, b.rstd = rstd, b.dy = dy, b.dx = dx;
    b.dres = dres, b.dgain = dgain, b.dbias = dbias;
    b.rows = b.cols = b.ld_x = b.ld_y = b.ld_dy = b.ld_dx = b.ld_dres = 2;
    ASSERT_HN_OK(hn_batch_norm_bwd_cpu(&b));
    EXPECT_EQ(std::vector<float>(dres, dres + 4), (std::vector<float>{0, 2, 1, 0}));
    EXPECT_EQ(std::vector<float>(dx, dx + 4), (std::vector<float>{0, 0, 0, 0}));
    EXPECT_EQ(std::vector<float>(dgain, dgain + 2), (std::vector<float>{11, 8}));
    EXPECT_EQ(std::vector<float>(dbias, dbias + 2), (std::vector<float>{1, 2}));
    b.frozen = true;
    ASSERT_HN_OK(hn_batch_norm_bwd_cpu(&b));
    EXPECT_EQ(std::vector<float>(dx, dx + 4), (std::vector<float>{0, 0.5f, 2, 0}));
}

/* A mean of 1000 with a deviation of 0.01: sums of squares would lose all of the variance. */
template <class M, class Run>
void expect_accurate_far_from_zero(Run run)
{
    const Shape s = {HN_F32, HN_F32, 20000, 3, 0, false, false, false};
    Operands<M> o(s);
    const auto v = normal_f32((size_t)(s.rows * s.cols), 21, 1000, 0.01f);
    o.x.assign(v);
    run(o);
    const auto mean = o.mean.values(), rstd = o.rstd.values();
    for (int64_t j = 0; j < s.cols; j++) {
        double sum = 0, square = 0;
        for (int64_t i = 0; i < s.rows; i++) sum += (double)v[(size_t)(i * s.cols + j)];
        sum /= (double)s.rows;
        for (int64_t i = 0; i < s.rows; i++)
            square += std::pow((double)v[(size_t)(i * s.cols + j)] - sum, 2);
        const double want = 1 / std::sqrt(square / (double)s.rows + (double)1e-5f);
        EXPECT_NEAR((double)mean[(size_t)j], sum, 3.1e-5); /* half of the distance of two floats */
        EXPECT_NEAR((double)rstd[(size_t)j] / want, 1, 1e-5);
    }
}

TEST(BatchNormTwin, IsAccurateFarFromZero)
{
    expect_accurate_far_from_zero<Matrix>([](Host &o) {
        const auto a = o.fwd();
        ASSERT_HN_OK(hn_batch_norm_fwd_cpu(&a));
    });
}

TEST(BatchNormFast, IsAccurateFarFromZero)
{
    expect_accurate_far_from_zero<Matrix>([](Host &o) { ASSERT_HN_OK(fwd_fast(o.fwd())); });
}

TEST(BatchNormFast, FrozenLeavesTheRunningValues)
{
    const Shape s = {HN_F32, HN_F32, 1, 4, 0, true, false, true}; /* one row will do */
    Host o(s), p(s);
    ASSERT_HN_OK(fwd_fast(o.fwd()));
    EXPECT_TRUE(same_bits(o.rm.values(), p.rm.values()));
    EXPECT_TRUE(same_bits(o.rv.values(), p.rv.values()));
    EXPECT_TRUE(same_bits(o.mean.values(), p.rm.values()));
}

TEST(BatchNormFast, ReluKeepsNan)
{
    const Shape s = {HN_F32, HN_F32, 8, 2, 0, true, false, false};
    for (const bool use_fast : {false, true}) {
        Host o(s);
        o.x.set(3, 1, NAN);
        const auto a = o.fwd();
        ASSERT_HN_OK(use_fast ? fwd_fast(a) : hn_batch_norm_fwd_cpu(&a));
        for (int64_t i = 0; i < 8; i++) {
            EXPECT_FALSE(std::isnan(hn_get_f32(o.y.data(), HN_F32, 2 * i)));
            EXPECT_TRUE(std::isnan(hn_get_f32(o.y.data(), HN_F32, 2 * i + 1)));
        }
    }
}

/* PyTorch's numbers; run(o) goes forward and backward. */
template <class M, class Run>
void expect_pytorch(Run run)
{
    for (const char *name : {"batch_train", "batch_train_relu", "batch_eval", "batch_eval_relu"})
        for (const hn_dtype t : {HN_F32, HN_BF16}) {
            SCOPED_TRACE(case_name(name, t));
            const NormGolden g(name);
            const int64_t cols = (int64_t)g.values("gain").size();
            const int64_t rows = (int64_t)g.values("x").size() / cols;
            const bool relu = g.flag("relu");
            const Shape s = {t, HN_F32, rows, cols, 0, relu, relu, !g.flag("training")};
            Operands<M> o(s);
            const std::vector<float> zeros((size_t)cols);
            o.x.assign(g.values("x")), o.dy.assign(g.values("dy"));
            o.gain.assign(g.values("gain")), o.bias.assign(g.values("bias"));
            o.rm.assign(g.values("running_mean")), o.rv.assign(g.values("running_var"));
            o.dgain.assign(zeros), o.dbias.assign(zeros);
            if (relu) o.res.assign(g.values("res"));
            auto a = o.fwd();
            a.eps = g.number("eps"), a.momentum = g.number("momentum");
            run(a, o.back());
            const double most = golden_tolerance(t);
            EXPECT_LT(rel_l2(o.y.values(), g.values("y")), most);
            EXPECT_LT(rel_l2(o.dx.values(), g.values("dx")), most);
            EXPECT_LT(rel_l2(o.dgain.values(), g.values("dgain")), most);
            EXPECT_LT(rel_l2(o.dbias.values(), g.values("dbias")), most);
            EXPECT_LT(rel_l2(o.rm.values(), g.values("running_mean_after")), most);
            EXPECT_LT(rel_l2(o.rv.values(), g.values("running_var_after")), most);
            if (relu) {
                EXPECT_LT(rel_l2(o.dres.values(), g.values("dres")), most);
            }
        }
}

TEST(BatchNormTwin, MatchesPyTorch)
{
    expect_pytorch<Matrix>([](const hn_batch_norm_args &a, const hn_batch_norm_bwd_args &b) {
        ASSERT_HN_OK(hn_batch_norm_fwd_cpu(&a));
        ASSERT_HN_OK(hn_batch_norm_bwd_cpu(&b));
    });
}

TEST(BatchNormFast, MatchesPyTorch)
{
    expect_pytorch<Matrix>([](const hn_batch_norm_args &a, const hn_batch_norm_bwd_args &b) {
        ASSERT_HN_OK(fwd_fast(a));
        ASSERT_HN_OK(bwd_fast(b));
    });
}

TEST(BatchNormCheck, NamesWhatIsWrong)
{
    float f[64] = {};
    hn_batch_norm_args a = {};
    a.x = f, a.gain = f, a.bias = f, a.y = f + 16, a.mean = f + 32, a.rstd = f + 40;
    a.rows = 2, a.cols = a.ld_x = a.ld_y = a.ld_res = 4, a.eps = 1e-5f, a.momentum = 0.1f;
    EXPECT_HN_OK(hn_batch_norm_check(&a));
    auto with = [&](auto change) {
        hn_batch_norm_args b = a;
        change(b);
        return hn_batch_norm_check(&b);
    };
    EXPECT_HN_FAIL(hn_batch_norm_check(nullptr), HN_ERR_ARG, "args");
    EXPECT_HN_FAIL(with([](auto &b) { b.x = nullptr; }), HN_ERR_ARG, "x is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.bias = nullptr; }), HN_ERR_ARG, "bias is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.mean = nullptr; }), HN_ERR_ARG, "mean is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.eps = 0; }), HN_ERR_ARG, "eps 0");
    EXPECT_HN_FAIL(with([](auto &b) { b.momentum = 2; }), HN_ERR_ARG, "momentum 2");
    EXPECT_HN_FAIL(with([&](auto &b) { b.running_mean = f; }), HN_ERR_ARG, "go together");
    EXPECT_HN_FAIL(with([](auto &b) { b.frozen = true; }), HN_ERR_ARG, "no running values");
    EXPECT_HN_FAIL(with([](auto &b) { b.rows = 1; }), HN_ERR_SHAPE,
                   "expected more than 1 value per channel when training, got 1 row");
    EXPECT_HN_FAIL(with([](auto &b) { b.cols = 5; }), HN_ERR_SHAPE, "leading dimension 4 of x");
    EXPECT_HN_FAIL(with([](auto &b) { b.dtype = HN_F16; }), HN_ERR_UNSUPPORTED, "f16");
    EXPECT_HN_FAIL(with([](auto &b) { b.bias_dtype = HN_U8; }), HN_ERR_UNSUPPORTED, "bias_dtype");
    EXPECT_HN_FAIL(with([&](auto &b) { b.y = f, b.ld_y = 5; }), HN_ERR_ARG, "4 and 5");
    EXPECT_HN_FAIL(hn_batch_norm_fwd_fast(&a, nullptr), HN_ERR_ARG, "scratch");
    hn_batch_norm_bwd_args b = {};
    b.x = f, b.gain = f, b.mean = f, b.rstd = f, b.dy = f + 16, b.dx = f + 32, b.rows = 2;
    b.cols = b.ld_x = b.ld_y = b.ld_dy = b.ld_dx = b.ld_dres = 4;
    EXPECT_HN_OK(hn_batch_norm_bwd_check(&b));
    EXPECT_HN_FAIL(hn_batch_norm_bwd_fast(&b, nullptr), HN_ERR_ARG, "scratch");
    b.dres = b.dx;
    EXPECT_HN_FAIL(hn_batch_norm_bwd_check(&b), HN_ERR_ARG, "dres may not lie on dx");
    b.dx = b.dres = nullptr;
    EXPECT_HN_FAIL(hn_batch_norm_bwd_check(&b), HN_ERR_ARG, "none of dx");
    b.dgain = f, b.rstd = nullptr;
    EXPECT_HN_FAIL(hn_batch_norm_bwd_check(&b), HN_ERR_ARG, "rstd is NULL");
    b.rstd = f, b.y = f, b.ld_y = 4, b.bias = f;
    EXPECT_HN_FAIL(hn_batch_norm_bwd_check(&b), HN_ERR_ARG, "y is there, too");
    b.y = nullptr, b.dres = f + 32;
    EXPECT_HN_FAIL(hn_batch_norm_bwd_check(&b), HN_ERR_ARG, "dres is there, too");
    b.dres = nullptr;
    EXPECT_HN_OK(hn_batch_norm_bwd_check(&b));
    b.bias_dtype = HN_U8;
    EXPECT_HN_FAIL(hn_batch_norm_bwd_check(&b), HN_ERR_UNSUPPORTED, "bias_dtype");
}

#ifdef HONE_CUDA
using Device = Operands<DeviceMatrix>;

/* Scratch of exactly the promised size, between guard bands. */
void fwd_cuda(const hn_batch_norm_args &a)
{
    DeviceArray<unsigned char> scratch(hn_batch_norm_fwd_cuda_scratch(&a));
    ASSERT_HN_OK(hn_batch_norm_fwd_cuda(&a, a.frozen ? nullptr : scratch.data(), nullptr));
    (void)scratch.host();
}

void bwd_cuda(const hn_batch_norm_bwd_args &a)
{
    const size_t bytes = hn_batch_norm_bwd_cuda_scratch(&a);
    DeviceArray<unsigned char> scratch(bytes);
    ASSERT_HN_OK(hn_batch_norm_bwd_cuda(&a, bytes ? scratch.data() : nullptr, nullptr));
    (void)scratch.host();
}

class BatchNormCuda : public ::testing::TestWithParam<Shape> {
  protected:
    const Shape s = GetParam();
};

TEST_P(BatchNormCuda, CudaMatchesCpu)
{
    HN_NEED_CUDA();
    Host h(s), same_mask(s);
    Device d(s);
    const auto a = h.fwd(), again = same_mask.fwd();
    ASSERT_HN_OK(hn_batch_norm_fwd_cpu(&a));
    fwd_cuda(d.fwd());
    ASSERT_HN_OK(hn_batch_norm_fwd_cpu(&again));
    same_mask.y.assign(d.y.values()); /* near zero y may round to either side */
    const auto b = same_mask.back();
    ASSERT_HN_OK(hn_batch_norm_bwd_cpu(&b));
    bwd_cuda(d.back());
    auto want = same_mask.results();
    const auto got = d.results();
    want[0] = h.y.values();
    expect_near(s, got, want);
}

TEST_P(BatchNormCuda, CudaOutputsMayLieOnInputs)
{
    HN_NEED_CUDA();
    Device o(s);
    fwd_cuda(o.fwd());
    bwd_cuda(o.back());
    for (const char *on : {"x", "res"}) {
        Device p(s);
        if (*on == 'r' && !s.res) continue;
        DeviceMatrix &to = *on == 'x' ? p.x : p.res;
        auto a = p.fwd();
        a.y = to.data();
        fwd_cuda(a);
        EXPECT_TRUE(same_bits(to.values(), o.y.values())) << on;
    }
    /* dx on dy, x, y; dres on y, dy, dy */
    for (int k = 0; k < 3; k++) {
        Device p(s);
        fwd_cuda(p.fwd());
        DeviceMatrix &to = k == 0 ? p.dy : k == 1 ? p.x : p.y;
        DeviceMatrix &res = k == 0 ? p.y : p.dy;
        auto b = p.back();
        b.dx = to.data();
        if (s.res) b.dres = res.data();
        bwd_cuda(b);
        EXPECT_TRUE(same_bits(to.values(), o.dx.values())) << k;
        if (s.res) {
            EXPECT_TRUE(same_bits(res.values(), o.dres.values())) << k;
        }
        EXPECT_TRUE(same_bits(p.dgain.values(), o.dgain.values()));
    }
}

TEST_P(BatchNormCuda, CudaLeavesOutWhatIsNotWanted)
{
    HN_NEED_CUDA();
    Device o(s), p(s);
    fwd_cuda(o.fwd());
    bwd_cuda(o.back());
    fwd_cuda(p.fwd());
    auto dx = p.back(), gain = p.back(), res = p.back();
    dx.dgain = dx.dbias = nullptr, dx.dres = nullptr;
    bwd_cuda(dx);
    EXPECT_TRUE(same_bits(p.dx.values(), o.dx.values()));
    gain.dx = gain.dres = nullptr, gain.dbias = nullptr;
    bwd_cuda(gain);
    EXPECT_TRUE(same_bits(p.dgain.values(), o.dgain.values()));
    if (!s.res) return;
    res.dx = nullptr, res.dgain = res.dbias = nullptr;
    bwd_cuda(res);
    EXPECT_TRUE(same_bits(p.dres.values(), o.dres.values()));
}

TEST_P(BatchNormCuda, CudaRepeatsBitForBitAlsoFromACapturedGraph)
{
    HN_NEED_CUDA();
    Device a(s), b(s), d(s);
    for (Device *o : {&a, &b}) {
        fwd_cuda(o->fwd());
        bwd_cuda(o->back());
    }
    expect_same(a.results(), b.results());
    const auto f = d.fwd();
    const auto g = d.back();
    DeviceArray<unsigned char> one(hn_batch_norm_fwd_cuda_scratch(&f));
    DeviceArray<unsigned char> two(hn_batch_norm_bwd_cuda_scratch(&g));
    run_captured([&](hn_stream stream) {
        ASSERT_HN_OK(hn_batch_norm_fwd_cuda(&f, f.frozen ? nullptr : one.data(), stream));
        ASSERT_HN_OK(hn_batch_norm_bwd_cuda(&g, two.data(), stream));
    });
    expect_same(a.results(), d.results());
}

/* Smallest, one column a thread (part-filled, one past 32, gaps that do not fit 16 bytes), 8
 * columns a thread (1 to 32 threads side by side, several blocks of columns), several runs with a
 * short last one, few rows. The last three have too many rows for blocks that add the runs
 * themselves. */
INSTANTIATE_TEST_SUITE_P(
    Shapes, BatchNormCuda,
    ::testing::Values(Shape{HN_F32, HN_F32, 2, 1, 0, false, false, false},
                      Shape{HN_F32, HN_F32, 7, 5, 2, true, true, false},
                      Shape{HN_F32, HN_BF16, 70, 33, 3, false, true, false},
                      Shape{HN_F32, HN_F32, 300, 8, 0, true, false, false},
                      Shape{HN_F32, HN_F32, 5000, 64, 4, true, true, false},
                      Shape{HN_F32, HN_F32, 41, 264, 0, true, true, true},
                      Shape{HN_F32, HN_F32, 40000, 8, 0, false, false, false},
                      Shape{HN_BF16, HN_BF16, 70, 33, 3, true, true, false},
                      Shape{HN_BF16, HN_F32, 999, 24, 8, true, true, false},
                      Shape{HN_BF16, HN_BF16, 9001, 64, 0, true, false, false},
                      Shape{HN_BF16, HN_F32, 2000, 128, 0, false, false, false},
                      Shape{HN_BF16, HN_BF16, 513, 512, 0, true, true, false},
                      Shape{HN_BF16, HN_BF16, 300, 600, 0, true, true, true},
                      Shape{HN_BF16, HN_F32, 1000, 40, 1, true, false, true},
                      Shape{HN_BF16, HN_F32, 3, 2056, 0, false, true, false},
                      Shape{HN_F32, HN_F32, 40000, 33, 1, true, true, false},
                      Shape{HN_F32, HN_BF16, 36000, 33, 1, true, false, true},
                      Shape{HN_BF16, HN_BF16, 66000, 32, 0, true, true, false}),
    [](const auto &i) { return name_of(i.param); });

/* With relu, without a residual. */
class BatchNormReluCuda : public BatchNormCuda {};

/* Forward and backward agree on every element near zero: one that fell on the other side would show
 * far above the bounds of rounding. */
TEST_P(BatchNormReluCuda, CudaBiasStandsForY)
{
    HN_NEED_CUDA();
    Device by_y(s), by_bias(s), on_x(s);
    for (Device *o : {&by_y, &by_bias, &on_x}) fwd_cuda(o->fwd());
    bwd_cuda(by_y.back());
    bwd_cuda(by_bias.back_by_bias());
    auto in_place = on_x.back_by_bias();
    in_place.dx = on_x.x.data();
    bwd_cuda(in_place);
    expect_near(s, by_bias.results(), by_y.results());
    EXPECT_TRUE(same_bits(on_x.x.values(), by_bias.dx.values()));
    EXPECT_TRUE(same_bits(on_x.dgain.values(), by_bias.dgain.values()));
}

/* One column a thread and 8, blocks that add the runs themselves and a kernel that does. */
INSTANTIATE_TEST_SUITE_P(Shapes, BatchNormReluCuda,
                         ::testing::Values(Shape{HN_F32, HN_F32, 2, 1, 0, true, false, false},
                                           Shape{HN_F32, HN_F32, 300, 8, 0, true, false, false},
                                           Shape{HN_F32, HN_BF16, 40000, 33, 1, true, false, false},
                                           Shape{HN_F32, HN_F32, 66000, 32, 0, true, false, false},
                                           Shape{HN_BF16, HN_F32, 70, 33, 3, true, false, false},
                                           Shape{HN_BF16, HN_BF16, 9001, 64, 0, true, false, false},
                                           Shape{HN_BF16, HN_BF16, 66000, 32, 0, true, false,
                                                 false},
                                           Shape{HN_BF16, HN_F32, 1000, 40, 1, true, false, true}),
                         [](const auto &i) { return name_of(i.param); });

TEST(BatchNormFarCuda, CudaIsAccurateFarFromZero)
{
    HN_NEED_CUDA();
    expect_accurate_far_from_zero<DeviceMatrix>([](Device &o) { fwd_cuda(o.fwd()); });
}

TEST(BatchNormTorchCuda, CudaMatchesPyTorch)
{
    HN_NEED_CUDA();
    expect_pytorch<DeviceMatrix>([](const hn_batch_norm_args &a, const hn_batch_norm_bwd_args &b) {
        fwd_cuda(a);
        bwd_cuda(b);
    });
}
#endif

} // namespace
