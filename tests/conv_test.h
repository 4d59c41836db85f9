/* conv_test.h - what the tests of convolutions of images and of volumes share: operands of a case,
 * the fast functions beside their twins, PyTorch's values.
 *
 * C says which: types Shape, Fwd, Dx, Dw (arguments); functions taps, rows_in, rows_out of a shape;
 * twin(args) and fast(args) of each; add_all(Fwd), which turns on what only it has. */
#ifndef HN_CONV_TEST_H
#define HN_CONV_TEST_H
#include "kernel_test.h"
#include "kernels/linear/linear_dw.h"
#include "runtime/file/safetensors.h"

template <class C>
struct ConvCase {
    hn_dtype dtype, bias_dtype;
    typename C::Shape s;
    int64_t replicas;
};

template <class C>
class ConvTest : public ::testing::TestWithParam<ConvCase<C>> {
  protected:
    const ConvCase<C> p = this->GetParam();
    const typename C::Shape &s = p.s;
    const int64_t g = p.replicas ? p.replicas : 1, taps = C::taps(s);
    const int64_t rows = C::rows_in(s), out_rows = C::rows_out(s);
    Matrix x{p.dtype, rows, s.in}, w{p.dtype, g *s.out, taps}, bias{p.bias_dtype, g, s.out};
    Matrix dy{p.dtype, out_rows, s.out, 1}, add{p.dtype, rows, s.in, 5};

    void SetUp() override { x.normal(1), w.normal(2), bias.normal(3), dy.normal(5), add.normal(6); }
    Matrix y() { return Matrix(p.dtype, out_rows, s.out); }
    Matrix dx() { return Matrix(p.dtype, rows, s.in); }
    Matrix dw() { return Matrix(HN_F32, g * s.out, taps); }

    typename C::Fwd fwd(Matrix &to, bool full)
    {
        typename C::Fwd a = {};
        a.x = x.data(), a.w = w.data(), a.y = to.data(), a.shape = s;
        if (full) a.bias = bias.data(), C::add_all(a);
        a.ld_x = x.ld(), a.ld_w = w.ld(), a.ld_y = to.ld();
        a.replicas = p.replicas, a.w_stride = s.out * w.ld(), a.bias_stride = bias.ld();
        a.dtype = p.dtype, a.bias_dtype = p.bias_dtype;
        return a;
    }
    typename C::Dx back(Matrix &to, bool full)
    {
        typename C::Dx a = {};
        a.dy = dy.data(), a.w = w.data(), a.dx = to.data(), a.shape = s;
        if (full) a.add = add.data();
        a.ld_dy = dy.ld(), a.ld_w = w.ld(), a.ld_add = add.ld(), a.ld_dx = to.ld();
        a.replicas = p.replicas, a.w_stride = s.out * w.ld();
        a.dtype = p.dtype;
        return a;
    }
    typename C::Dw weight(Matrix &to)
    {
        typename C::Dw a = {};
        a.dy = dy.data(), a.x = x.data(), a.dw = to.f32(), a.shape = s;
        a.ld_dy = dy.ld(), a.ld_x = x.ld(), a.ld_dw = to.ld();
        a.replicas = p.replicas, a.dw_stride = s.out * to.ld();
        a.dtype = p.dtype;
        return a;
    }

    void fast_matches_twin()
    {
        for (const bool full : {false, true}) {
            Matrix want = y(), got = y();
            ASSERT_HN_OK(C::twin(fwd(want, full)));
            ASSERT_HN_OK(C::fast(fwd(got, full)));
            EXPECT_LT(rel_l2(got.values(), want.values()), tolerance(p.dtype)) << full;
        }
    }
    void fast_dx_matches_twin()
    {
        for (const bool full : {false, true}) {
            Matrix want = dx(), got = dx();
            ASSERT_HN_OK(C::twin(back(want, full)));
            ASSERT_HN_OK(C::fast(back(got, full)));
            EXPECT_LT(rel_l2(got.values(), want.values()), tolerance(p.dtype)) << full;
        }
    }
    void fast_dw_matches_twin()
    {
        Matrix want = dw(), got = dw();
        want.normal(8), got.normal(8);
        ASSERT_HN_OK(C::twin(weight(want)));
        ASSERT_HN_OK(C::fast(weight(got)));
        EXPECT_LT(rel_l2(got.values(), want.values()), tolerance(HN_F32));
    }
    void bits_do_not_depend_on_threads()
    {
        std::vector<std::vector<float>> first;
        for (const int threads : {1, 2, 3}) {
            Matrix to = y(), to_dx = dx(), to_dw = dw();
            to_dw.normal(8);
            on_threads(threads, [&] {
                EXPECT_HN_OK(C::fast(fwd(to, true)));
                EXPECT_HN_OK(C::fast(back(to_dx, true)));
                EXPECT_HN_OK(C::fast(weight(to_dw)));
            });
            const std::vector<std::vector<float>> now = {to.values(), to_dx.values(),
                                                         to_dw.values()};
            if (first.empty()) first = now;
            for (size_t k = 0; k < now.size(); k++) EXPECT_TRUE(same_bits(now[k], first[k])) << k;
        }
    }
    void dx_may_be_the_added_operand()
    {
        Matrix want = dx(), twin = dx();
        ASSERT_HN_OK(C::fast(back(want, true)));
        ASSERT_HN_OK(C::fast(back(add, true)));
        EXPECT_TRUE(same_bits(add.values(), want.values()));
        add.normal(6);
        ASSERT_HN_OK(C::twin(back(twin, true)));
        ASSERT_HN_OK(C::twin(back(add, true)));
        EXPECT_TRUE(same_bits(add.values(), twin.values()));
    }
};

/* The tests of a fixture that is a ConvTest. */
#define HN_CONV_TESTS(Suite)                                                               \
    TEST_P(Suite, FastMatchesTwin) { fast_matches_twin(); }                                \
    TEST_P(Suite, FastInputGradientMatchesTwin) { fast_dx_matches_twin(); }                \
    TEST_P(Suite, FastWeightGradientMatchesTwinAndAccumulates) { fast_dw_matches_twin(); } \
    TEST_P(Suite, BitsDoNotDependOnThreads) { bits_do_not_depend_on_threads(); }           \
    TEST_P(Suite, InputGradientMayBeTheAddedOperand) { dx_may_be_the_added_operand(); }

/* f32 operands without gaps; y, dx and dw (from zero) by the twin or the fast functions. */
template <class C>
struct PlainConv {
    typename C::Shape s;
    std::vector<float> x, w, bias, dy;
    bool all = false; /* C::add_all */

    template <class Args>
    static void run(const Args &a, bool by_fast)
    {
        EXPECT_HN_OK(by_fast ? C::fast(a) : C::twin(a));
    }
    std::vector<float> y(bool by_fast) const
    {
        std::vector<float> to((size_t)(C::rows_out(s) * s.out));
        typename C::Fwd a = {};
        a.x = x.data(), a.w = w.data(), a.y = to.data(), a.shape = s;
        if (all) C::add_all(a);
        a.bias = bias.empty() ? nullptr : bias.data();
        a.ld_x = s.in, a.ld_w = C::taps(s), a.ld_y = s.out;
        run(a, by_fast);
        return to;
    }
    std::vector<float> dx(bool by_fast) const
    {
        std::vector<float> to((size_t)(C::rows_in(s) * s.in));
        typename C::Dx a = {};
        a.dy = dy.data(), a.w = w.data(), a.dx = to.data(), a.shape = s;
        a.ld_dy = s.out, a.ld_w = C::taps(s), a.ld_dx = s.in;
        run(a, by_fast);
        return to;
    }
    std::vector<float> dw(bool by_fast) const
    {
        std::vector<float> to((size_t)(s.out * C::taps(s)));
        typename C::Dw a = {};
        a.dy = dy.data(), a.x = x.data(), a.dw = to.data(), a.shape = s;
        a.ld_dy = s.out, a.ld_x = s.in, a.ld_dw = C::taps(s);
        run(a, by_fast);
        return to;
    }
};

inline std::vector<float> floats_of(const hn_st_file *f, const std::string &name)
{
    const hn_st_tensor *t = hn_st_find(f, name.c_str());
    if (t == nullptr) return ADD_FAILURE() << name << " is missing", std::vector<float>();
    std::vector<float> v((size_t)hn_st_elements(t));
    EXPECT_HN_OK(hn_st_convert(t, HN_F32, v.data()));
    return v;
}

/* Cases "0.shape", "0.x", ..., whose shapes are the numbers of C::Shape in order. */
template <class C>
void expect_golden_convolutions(const char *path, int cases)
{
    constexpr size_t kNumbers = sizeof(typename C::Shape) / sizeof(int64_t);
    hn_st_file *f = nullptr;
    ASSERT_HN_OK(hn_st_open(path, &f));
    int n = 0;
    for (; hn_st_find(f, (std::to_string(n) + ".shape").c_str()); n++) {
        const std::string k = std::to_string(n) + ".";
        SCOPED_TRACE("case " + std::to_string(n));
        PlainConv<C> c = {{},
                          floats_of(f, k + "x"),
                          floats_of(f, k + "w"),
                          floats_of(f, k + "bias"),
                          floats_of(f, k + "dy")};
        const hn_st_tensor *shape = hn_st_find(f, (k + "shape").c_str());
        ASSERT_EQ(hn_st_elements(shape), (int64_t)kNumbers);
        ASSERT_HN_OK(hn_st_convert(shape, HN_I64, &c.s));
        for (const bool by_fast : {false, true}) { /* twin: one rounding, to f32 */
            const double tolerance = by_fast ? 1e-6 : 1e-7;
            EXPECT_LT(rel_l2(c.y(by_fast), floats_of(f, k + "y")), tolerance);
            EXPECT_LT(rel_l2(c.dx(by_fast), floats_of(f, k + "dx")), tolerance);
            EXPECT_LT(rel_l2(c.dw(by_fast), floats_of(f, k + "dw")), tolerance);
        }
        std::vector<float> db((size_t)c.s.out);
        hn_linear_db_args b = {};
        b.dy = c.dy.data(), b.db = db.data(), b.out = b.ld_dy = c.s.out;
        b.rows = (int64_t)c.dy.size() / c.s.out;
        ASSERT_HN_OK(hn_linear_db_cpu(&b));
        EXPECT_LT(rel_l2(db, floats_of(f, k + "db")), 1e-7);
    }
    hn_st_close(f);
    EXPECT_EQ(n, cases);
}

#endif
