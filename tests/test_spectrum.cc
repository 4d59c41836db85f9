/* runtime/adapt/spectrum.h: singular values and vectors of a matrix and of a product of factors. */
#include "runtime/adapt/spectrum.h"

#include <omp.h>

#include <thread>

#include "hn_test.h"
#include "kernel_test.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

/* A solver on its device, and spectra that are freed. */
class Solver {
    hn_device *device_ = nullptr;
    hn_spectrum_solver *solver_ = nullptr;

  public:
    explicit Solver(const char *device = "cpu")
    {
        EXPECT_HN_OK(hn_device_open(device, &device_));
        EXPECT_HN_OK(hn_spectrum_open(device_, &solver_));
    }
    Solver(const Solver &) = delete;
    ~Solver()
    {
        hn_spectrum_close(solver_);
        hn_device_close(device_);
    }
    operator hn_spectrum_solver *() const { return solver_; }
};

struct Spectrum : hn_spectrum {
    Spectrum() : hn_spectrum{} {}
    Spectrum(const Spectrum &) = delete;
    Spectrum &operator=(const Spectrum &) = delete;
    ~Spectrum() { hn_spectrum_free(this); }
    std::vector<double> values() const { return {s, s + r}; }
    /* sum over i < k of s_i u_i v_i^T */
    std::vector<double> rebuilt(int64_t k) const
    {
        std::vector<double> x((size_t)(m * n));
        for (int64_t i = 0; i < k; i++)
            for (int64_t a = 0; a < m; a++)
                for (int64_t b = 0; b < n; b++)
                    x[(size_t)(a * n + b)] += s[i] * u[a * r + i] * vt[i * n + b];
        return x;
    }
    /* Largest |x_i . x_j - (i == j)| over both sides, i and j < k. */
    double not_orthonormal(int64_t k) const
    {
        double worst = 0;
        for (int64_t i = 0; i < k; i++)
            for (int64_t j = 0; j <= i; j++) {
                double left = i == j ? -1 : 0, right = left;
                for (int64_t a = 0; a < m; a++) left += u[a * r + i] * u[a * r + j];
                for (int64_t b = 0; b < n; b++) right += vt[i * n + b] * vt[j * n + b];
                worst = std::max({worst, std::fabs(left), std::fabs(right)});
            }
        return worst;
    }
};

/* [m, n] with gaps of NaN between its rows. */
struct Gapped {
    int64_t m, n, ld;
    std::vector<float> dense, with_gaps;

    Gapped(int64_t rows, int64_t cols, const std::vector<float> &values, int64_t gap = 3)
        : m(rows), n(cols), ld(cols + gap), dense(values), with_gaps((size_t)(rows * ld), NAN)
    {
        for (int64_t i = 0; i < m; i++)
            std::copy_n(&dense[(size_t)(i * n)], n, &with_gaps[(size_t)(i * ld)]);
    }
    hn_spectrum_args args() const { return {with_gaps.data(), m, n, ld}; }
    double energy() const
    {
        double e = 0;
        for (float v : dense) e += (double)v * v;
        return e;
    }
};

Gapped normal(int64_t m, int64_t n, unsigned seed)
{
    return Gapped(m, n, normal_f32((size_t)(m * n), seed));
}

/* A product of whole numbers: of exactly the rank `rank`, without rounding. */
Gapped of_rank(int64_t m, int64_t n, int64_t rank, unsigned seed)
{
    std::mt19937 rng(seed);
    std::uniform_int_distribution<int> whole(-8, 8);
    std::vector<float> b((size_t)(m * rank)), a((size_t)(rank * n)), x((size_t)(m * n));
    for (auto &v : b) v = (float)whole(rng);
    for (auto &v : a) v = (float)whole(rng);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++)
            for (int64_t k = 0; k < rank; k++)
                x[(size_t)(i * n + j)] += b[(size_t)(i * rank + k)] * a[(size_t)(k * n + j)];
    return Gapped(m, n, x);
}

/* ---- values by hand ---- */

TEST(Spectrum, OfADiagonal)
{
    Solver solver;
    Spectrum s;
    const Gapped d(3, 3, {2, 0, 0, 0, -5, 0, 0, 0, 3});
    const hn_spectrum_args a = d.args();
    ASSERT_HN_OK(hn_spectrum_of(solver, &a, &s));
    EXPECT_EQ(s.r, 3);
    EXPECT_EQ(s.rank, 3);
    EXPECT_DOUBLE_EQ(s.energy, 38);
    EXPECT_LT(max_abs(s.values(), std::vector<double>{5, 3, 2}), 1e-14);
    /* -5 sits in the second row and column; its pair has opposite signs */
    EXPECT_NEAR(s.u[1 * 3 + 0] * s.vt[0 * 3 + 1], -1, 1e-14);
    EXPECT_NEAR(s.u[2 * 3 + 1] * s.vt[1 * 3 + 2], 1, 1e-14);
}

/* [[3, 0], [4, 5]]: X X^T = [[9, 12], [12, 41]] has the eigenvalues 45 and 5. */
TEST(Spectrum, OfTwoByTwo)
{
    Solver solver;
    Spectrum s;
    const Gapped d(2, 2, {3, 0, 4, 5});
    const hn_spectrum_args a = d.args();
    ASSERT_HN_OK(hn_spectrum_of(solver, &a, &s));
    EXPECT_NEAR(s.s[0], std::sqrt(45), 1e-13);
    EXPECT_NEAR(s.s[1], std::sqrt(5), 1e-13);
    const double u0 = 1 / std::sqrt(10), v0 = 1 / std::sqrt(2); /* (1, 3), (1, 1) */
    EXPECT_NEAR(s.u[0] * s.vt[0], u0 * v0, 1e-14);
    EXPECT_NEAR(s.u[2] * s.vt[1], 3 * u0 * v0, 1e-14);
}

TEST(Spectrum, OfOneRowAndOneColumn)
{
    Solver solver;
    for (const bool row : {true, false}) {
        Spectrum s;
        const Gapped d(row ? 1 : 5, row ? 5 : 1, {1, -2, 2, 0, 4});
        const hn_spectrum_args a = d.args();
        ASSERT_HN_OK(hn_spectrum_of(solver, &a, &s));
        EXPECT_EQ(s.r, 1);
        EXPECT_NEAR(s.s[0], 5, 1e-14);
        EXPECT_LT(max_abs(s.rebuilt(1), d.dense), 1e-14);
        EXPECT_LT(s.not_orthonormal(1), 1e-14);
    }
}

TEST(Spectrum, OfZeros)
{
    Solver solver;
    Spectrum s;
    const Gapped d(4, 6, std::vector<float>(24, 0.0f));
    const hn_spectrum_args a = d.args();
    ASSERT_HN_OK(hn_spectrum_of(solver, &a, &s));
    EXPECT_EQ(s.rank, 0);
    EXPECT_EQ(s.energy, 0);
    EXPECT_EQ(s.values(), std::vector<double>(4, 0.0));
}

/* ---- what a decomposition is ---- */

TEST(Spectrum, RebuildsTheMatrixFromOrthonormalVectors)
{
    Solver solver;
    const int64_t shapes[][2] = {{1, 1}, {2, 7}, {7, 2}, {64, 27}, {33, 129}, {129, 33}, {96, 96}};
    for (const auto &[m, n] : shapes) {
        SCOPED_TRACE(std::to_string(m) + " x " + std::to_string(n));
        Spectrum s;
        const Gapped d = normal(m, n, 5);
        const hn_spectrum_args a = d.args();
        ASSERT_HN_OK(hn_spectrum_of(solver, &a, &s));
        EXPECT_EQ(s.m, m);
        EXPECT_EQ(s.n, n);
        ASSERT_EQ(s.r, std::min(m, n));
        EXPECT_EQ(s.rank, s.r);
        for (int64_t i = 1; i < s.r; i++) EXPECT_GE(s.s[i - 1], s.s[i]);
        /* dgesdd is backward stable: some units of fp64's rounding times the size */
        EXPECT_LT(rel_l2(s.rebuilt(s.r), d.dense), 1e-13);
        EXPECT_LT(s.not_orthonormal(s.r), 1e-13);
        double sum = 0;
        for (double v : s.values()) sum += v * v;
        EXPECT_NEAR(sum / d.energy(), 1, 1e-13);
        EXPECT_NEAR(s.energy / d.energy(), 1, 1e-14);
    }
}

TEST(Spectrum, CountsTheRankOfADeficientMatrix)
{
    Solver solver;
    for (const int64_t rank : {1, 3, 8}) {
        Spectrum s;
        const Gapped d = of_rank(24, 40, rank, 7);
        const hn_spectrum_args a = d.args();
        ASSERT_HN_OK(hn_spectrum_of(solver, &a, &s));
        EXPECT_EQ(s.rank, rank);
        EXPECT_EQ(s.s[rank], 0);
        EXPECT_LT(rel_l2(s.rebuilt(rank), d.dense), 1e-13);
        EXPECT_LT(s.not_orthonormal(s.r), 1e-13); /* on the CPU also behind the rank */
    }
}

TEST(Spectrum, SameBitsForAnyNumberOfThreads)
{
    Solver solver;
    Spectrum one, more;
    const Gapped d = normal(150, 700, 9); /* enough that OpenBLAS would split it */
    const hn_spectrum_args a = d.args();
    const int before = omp_get_max_threads();
    omp_set_num_threads(1);
    ASSERT_HN_OK(hn_spectrum_of(solver, &a, &one));
    omp_set_num_threads(4);
    ASSERT_HN_OK(hn_spectrum_of(solver, &a, &more));
    EXPECT_EQ(omp_get_max_threads(), 4) << "the caller's number of threads comes back";
    std::vector<int> same(4);
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; i++)
        threads.emplace_back([&, i] {
            Spectrum own;
            same[(size_t)i] = hn_spectrum_of(solver, &a, &own) == HN_OK &&
                              std::memcmp(own.vt, one.vt, sizeof(double) * 150 * 700) == 0;
        });
    for (auto &t : threads) t.join();
    omp_set_num_threads(before);
    EXPECT_TRUE(same_bits(one.values(), more.values()));
    EXPECT_EQ(std::memcmp(one.u, more.u, sizeof(double) * 150 * 150), 0);
    EXPECT_EQ(std::memcmp(one.vt, more.vt, sizeof(double) * 150 * 700), 0);
    EXPECT_EQ(same, std::vector<int>(4, 1)) << "several threads share a solver";
}

/* ---- refusals ---- */

TEST(Spectrum, RefusesNanInfinityAndBadShapes)
{
    Solver solver;
    Spectrum s;
    const Gapped good = normal(3, 4, 1);
    const hn_spectrum_args a = good.args();
    ASSERT_HN_OK(hn_spectrum_of(solver, &a, &s));
    const double *const kept = s.s;
    for (const float bad : {(float)NAN, (float)INFINITY, (float)-INFINITY}) {
        Gapped d = good;
        d.with_gaps[(size_t)d.ld] = bad;
        const hn_spectrum_args b = d.args();
        EXPECT_HN_FAIL(hn_spectrum_of(solver, &b, &s), HN_ERR_NUMERIC, "a NaN or an infinity");
    }
    hn_spectrum_args b = a;
    b.delta = nullptr;
    EXPECT_HN_FAIL(hn_spectrum_of(solver, &b, &s), HN_ERR_ARG, "delta");
    b = a, b.ld = 3;
    EXPECT_HN_FAIL(hn_spectrum_of(solver, &b, &s), HN_ERR_SHAPE, "delta");
    b = a, b.m = 0;
    EXPECT_HN_FAIL(hn_spectrum_of(solver, &b, &s), HN_ERR_SHAPE, "delta");
    b = a, b.m = b.n = b.ld = 16385;
    EXPECT_HN_FAIL(hn_spectrum_of(solver, &b, &s), HN_ERR_SHAPE, "at most 16384");
    EXPECT_EQ(s.s, kept) << "untouched after an error";
    EXPECT_HN_FAIL(hn_spectrum_open(nullptr, nullptr), HN_ERR_ARG, "device");
    hn_spectrum_close(nullptr);
    hn_spectrum_free(nullptr);
}

/* ---- products ---- */

TEST(SpectrumOfProduct, IsThatOfTheMultipliedMatrix)
{
    Solver solver;
    const int64_t shapes[][3] = {{1, 1, 1},  {9, 30, 4}, {30, 9, 4}, {20, 20, 1},
                                 {5, 30, 8}, {30, 5, 8}, {5, 6, 9}};
    for (const auto &[m, n, k] : shapes) {
        SCOPED_TRACE(std::to_string(m) + " x " + std::to_string(k) + " x " + std::to_string(n));
        const Gapped b = normal(m, k, 3), a = normal(k, n, 4);
        std::vector<double> x((size_t)(m * n));
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++)
                for (int64_t l = 0; l < k; l++)
                    x[(size_t)(i * n + j)] +=
                        (double)b.dense[(size_t)(i * k + l)] * a.dense[(size_t)(l * n + j)];
        Spectrum s;
        const hn_spectrum_product_args args = {
            b.with_gaps.data(), a.with_gaps.data(), m, n, k, b.ld, a.ld};
        ASSERT_HN_OK(hn_spectrum_of_product(&args, &s));
        EXPECT_EQ(s.r, std::min({m, n, k}));
        EXPECT_LT(rel_l2(s.rebuilt(s.r), x), 1e-13);
        EXPECT_LT(s.not_orthonormal(s.r), 1e-13);
        const Gapped whole(m, n, std::vector<float>(x.begin(), x.end()));
        Spectrum direct;
        const hn_spectrum_args w = whole.args();
        ASSERT_HN_OK(hn_spectrum_of(solver, &w, &direct));
        for (int64_t i = 0; i < s.r; i++) /* the product was rounded to f32 */
            EXPECT_NEAR(s.s[i], direct.s[i], 1e-6 * direct.s[0]);
        EXPECT_NEAR(s.energy / direct.energy, 1, 1e-6);
    }
}

/* What training has left unused: a factor of zeros, two rows of A that are the same. */
TEST(SpectrumOfProduct, FindsUnusedDirections)
{
    Gapped b = normal(12, 3, 3), a = normal(3, 10, 4);
    for (int64_t j = 0; j < 10; j++) a.with_gaps[(size_t)(2 * a.ld + j)] = a.with_gaps[(size_t)j];
    Spectrum s;
    hn_spectrum_product_args args = {b.with_gaps.data(), a.with_gaps.data(), 12, 10, 3, b.ld, a.ld};
    ASSERT_HN_OK(hn_spectrum_of_product(&args, &s));
    EXPECT_EQ(s.rank, 2);
    const Gapped zero(12, 3, std::vector<float>(36, 0.0f));
    args.b = zero.with_gaps.data();
    ASSERT_HN_OK(hn_spectrum_of_product(&args, &s));
    EXPECT_EQ(s.rank, 0);
}

TEST(SpectrumOfProduct, RefusesBadArguments)
{
    const Gapped b = normal(4, 2, 3), a = normal(2, 5, 4);
    Spectrum s;
    const hn_spectrum_product_args good = {
        b.with_gaps.data(), a.with_gaps.data(), 4, 5, 2, b.ld, a.ld};
    hn_spectrum_product_args bad = good;
    bad.b = nullptr;
    EXPECT_HN_FAIL(hn_spectrum_of_product(&bad, &s), HN_ERR_ARG, "b");
    bad = good, bad.ld_a = 4;
    EXPECT_HN_FAIL(hn_spectrum_of_product(&bad, &s), HN_ERR_SHAPE, "a");
    Gapped nan = b;
    nan.with_gaps[0] = NAN;
    bad = good, bad.b = nan.with_gaps.data();
    EXPECT_HN_FAIL(hn_spectrum_of_product(&bad, &s), HN_ERR_NUMERIC, "a NaN or an infinity");
}

#ifdef HONE_CUDA
/* ---- a GPU ---- */

/* The matrix on the device, between guard bands and with gaps of NaN. */
struct OnDevice {
    DeviceArray<float> values;
    hn_spectrum_args args;
    explicit OnDevice(const Gapped &d) : values(d.with_gaps), args(d.args())
    {
        args.delta = values.data();
    }
};

TEST(Spectrum, CudaMatchesCpu)
{
    HN_NEED_CUDA();
    Solver cpu, gpu("cuda");
    const int64_t shapes[][2] = {{1, 1},   {1, 9},    {9, 1},    {2, 7},    {16, 16}, {17, 15},
                                 {64, 27}, {33, 129}, {129, 33}, {64, 576}, {300, 64}};
    for (const auto &[m, n] : shapes) {
        SCOPED_TRACE(std::to_string(m) + " x " + std::to_string(n));
        const Gapped d = normal(m, n, 5);
        OnDevice on(d);
        Spectrum want, got;
        const hn_spectrum_args a = d.args();
        ASSERT_HN_OK(hn_spectrum_of(cpu, &a, &want));
        ASSERT_HN_OK(hn_spectrum_of(gpu, &on.args, &got));
        EXPECT_EQ(got.r, want.r);
        EXPECT_EQ(got.rank, want.rank);
        EXPECT_NEAR(got.energy / want.energy, 1, 1e-13);
        /* of s_1; orthogonal to about 1e-15 (s_1 / s_r)^2, and s_r is above 1e-3 s_1 here */
        EXPECT_GT(want.s[want.r - 1], 1e-3 * want.s[0]);
        EXPECT_LT(max_abs(got.values(), want.values()) / want.s[0], 1e-12);
        EXPECT_LT(rel_l2(got.rebuilt(got.r), d.dense), 1e-12);
        EXPECT_LT(got.not_orthonormal(got.r), 1e-8);
        (void)on.values.host(); /* guard bands */
    }
}

TEST(Spectrum, CudaCountsTheRankAndTakesZeros)
{
    HN_NEED_CUDA();
    Solver gpu("cuda");
    for (const int64_t rank : {1, 3, 8}) {
        for (const bool wide : {true, false}) {
            Spectrum s;
            const Gapped d = of_rank(wide ? 24 : 40, wide ? 40 : 24, rank, 7);
            OnDevice on(d);
            ASSERT_HN_OK(hn_spectrum_of(gpu, &on.args, &s));
            EXPECT_EQ(s.rank, rank);
            EXPECT_LT(rel_l2(s.rebuilt(rank), d.dense), 1e-12);
            EXPECT_LT(s.not_orthonormal(rank), 1e-10);
        }
    }
    OnDevice zeros(Gapped(4, 6, std::vector<float>(24, 0.0f)));
    Spectrum s;
    ASSERT_HN_OK(hn_spectrum_of(gpu, &zeros.args, &s));
    EXPECT_EQ(s.rank, 0);
    EXPECT_EQ(s.energy, 0);
}

TEST(Spectrum, CudaRepeatsBitForBit)
{
    HN_NEED_CUDA();
    Solver gpu("cuda");
    OnDevice on(normal(96, 200, 9));
    Spectrum one, two;
    ASSERT_HN_OK(hn_spectrum_of(gpu, &on.args, &one));
    ASSERT_HN_OK(hn_spectrum_of(gpu, &on.args, &two));
    EXPECT_TRUE(same_bits(one.values(), two.values()));
    EXPECT_EQ(std::memcmp(one.u, two.u, sizeof(double) * 96 * 96), 0);
    EXPECT_EQ(std::memcmp(one.vt, two.vt, sizeof(double) * 96 * 200), 0);
}

TEST(Spectrum, CudaRefusesNan)
{
    HN_NEED_CUDA();
    Solver gpu("cuda");
    Gapped d = normal(20, 30, 1);
    d.with_gaps[(size_t)(3 * d.ld + 2)] = NAN;
    OnDevice on(d);
    Spectrum s;
    EXPECT_HN_FAIL(hn_spectrum_of(gpu, &on.args, &s), HN_ERR_NUMERIC, "a NaN or an infinity");
    EXPECT_EQ(s.s, nullptr);
}
#endif

} // namespace
