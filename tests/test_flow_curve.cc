/* runtime/flow: curves through knots, and integrators that follow their slopes. */
#include <functional>

#include "hn_test.h"
#include "runtime/flow/curve.h"
#include "runtime/flow/integrate.h"

namespace {

using Vector = std::vector<double>;

/* A curve through numbers. */
class Curve {
    hn_curve *c_ = nullptr;

  public:
    const Vector knots;
    Curve(hn_curve_kind kind, const Vector &k) : knots(k)
    {
        EXPECT_HN_OK(hn_curve_make(kind, (int64_t)k.size(), &c_));
    }
    Curve(hn_curve_kind kind, int64_t pieces, double (*f)(double)) : Curve(kind, sample(pieces, f))
    {
    }
    ~Curve() { hn_curve_free(c_); }
    Curve(const Curve &) = delete;
    static Vector sample(int64_t pieces, double (*f)(double))
    {
        Vector v;
        for (int64_t k = 0; k <= pieces; k++) v.push_back(f((double)k / (double)pieces));
        return v;
    }
    const hn_curve *get() const { return c_; }
    /* Value and derivative. */
    std::pair<double, double> operator()(double t) const
    {
        Vector w(knots.size()), dw(knots.size());
        EXPECT_HN_OK(hn_curve_weights(c_, t, w.data(), dw.data()));
        double value = 0, slope = 0;
        for (size_t k = 0; k < knots.size(); k++)
            value += w[k] * knots[k], slope += dw[k] * knots[k];
        return {value, slope};
    }
};

TEST(FlowCurve, LinearIsTheChord)
{
    const Curve c(HN_CURVE_LINEAR, Vector{2, 50, -7, 6});
    for (const double t : {0.0, 0.25, 1.0}) {
        EXPECT_EQ(c(t).first, 2 + 4 * t);
        EXPECT_EQ(c(t).second, 4);
    }
}

TEST(FlowCurve, PiecewiseFollowsTheKnotsAndTakesTheSlopeBehindAKnot)
{
    const Curve c(HN_CURVE_PIECEWISE, Vector{0, 1, 5, 4, 4});
    EXPECT_EQ(c(0.125).first, 0.5);
    EXPECT_EQ(c(0.125).second, 4);
    EXPECT_EQ(c(0.25).first, 1);
    EXPECT_EQ(c(0.25).second, 16); /* of the piece that begins there */
    EXPECT_EQ(c(0.625).first, 4.5);
    EXPECT_EQ(c(0.625).second, -4);
    EXPECT_EQ(c(1).first, 4);
    EXPECT_EQ(c(1).second, 0); /* of the last piece */
}

/* M_0 = M_2 = 0 and 4 M_1 = 6 / h^2 (0 - 2 + 0) with h = 1/2: M_1 = -12. In the first half, with
 * b = 2 t: theta = b + h^2/6 (b^3 - b) (-12) = 1.5 b - 0.5 b^3. */
TEST(FlowCurve, SplineMatchesAHandComputedOne)
{
    const Curve c(HN_CURVE_SPLINE, Vector{0, 1, 0});
    for (const double t : {0.0, 0.1, 0.25, 0.4, 0.5}) {
        const double b = 2 * t;
        EXPECT_NEAR(c(t).first, 1.5 * b - 0.5 * b * b * b, 1e-15);
        EXPECT_NEAR(c(t).second, 2 * (1.5 - 1.5 * b * b), 1e-14);
        EXPECT_NEAR(c(1 - t).first, c(t).first, 1e-15);
        EXPECT_NEAR(c(1 - t).second, -c(t).second, 1e-14);
    }
}

/* A cubic whose second derivative is 0 at both ends is a straight line: of a cubic that is natural
 * at 0 alone, t^3 - t, the error of the other end dies off inwards by 2 - sqrt(3) a knot. */
TEST(FlowCurve, SplineReproducesWhatItsEndsAllow)
{
    const Curve line(HN_CURVE_SPLINE, 7, [](double t) { return 3 * t - 2; });
    for (const double t : {0.0, 0.3, 4.0 / 7, 1.0}) {
        EXPECT_NEAR(line(t).first, 3 * t - 2, 1e-14);
        EXPECT_NEAR(line(t).second, 3, 1e-13);
    }
    const Curve cubic(HN_CURVE_SPLINE, 50, [](double t) { return t * t * t - t; });
    for (const double t : {0.0, 0.013, 0.21, 0.3}) {
        EXPECT_NEAR(cubic(t).first, t * t * t - t, 1e-15);
        EXPECT_NEAR(cubic(t).second, 3 * t * t - 1, 1e-14);
    }
    EXPECT_GT(std::fabs(cubic(0.99).second - (3 * 0.99 * 0.99 - 1)), 1e-4);
    /* Two cubics that meet with the same value, slope and second derivative, natural at both ends,
     * are a natural spline: it finds them again exactly. */
    const Curve two(HN_CURVE_SPLINE, 8, [](double t) {
        return t < 0.5 ? t * t * t - t : -t * t * t + 3 * t * t - 2.5 * t + 0.25;
    });
    EXPECT_NEAR(two(0.3).first, 0.3 * 0.3 * 0.3 - 0.3, 1e-15);
    EXPECT_NEAR(two(0.3).second, 3 * 0.3 * 0.3 - 1, 1e-14);
    EXPECT_NEAR(two(0.8).second, -3 * 0.64 + 6 * 0.8 - 2.5, 1e-13);
}

TEST(FlowCurve, WeightsSumToOneTheirDerivativesToZeroAndAreThose)
{
    for (int kind = 0; kind < HN_CURVE_COUNT; kind++)
        for (const int64_t knots : {2, 3, 11, 51}) {
            hn_curve *c = nullptr;
            ASSERT_HN_OK(hn_curve_make((hn_curve_kind)kind, knots, &c));
            EXPECT_EQ(hn_curve_knots(c), knots);
            for (const double t : {0.0, 0.1, 0.333, 0.77, 1.0}) {
                Vector w((size_t)knots), dw(w), lo(w), hi(w), none(w);
                ASSERT_HN_OK(hn_curve_weights(c, t, w.data(), dw.data()));
                double sum = 0, dsum = 0;
                for (size_t k = 0; k < w.size(); k++) sum += w[k], dsum += dw[k];
                EXPECT_NEAR(sum, 1, 1e-13);
                EXPECT_NEAR(dsum, 0, 1e-11);
                std::vector<float> row((size_t)(2 * knots));
                ASSERT_HN_OK(hn_curve_row(c, t, row.data()));
                EXPECT_EQ(row[1], (float)w[1]);
                EXPECT_EQ(row[(size_t)knots + 1], (float)dw[1]);
                if (t != 0.333 && t != 0.77) continue; /* off the knots: differences */
                const double h = 1e-5;
                ASSERT_HN_OK(hn_curve_weights(c, t - h, lo.data(), none.data()));
                ASSERT_HN_OK(hn_curve_weights(c, t + h, hi.data(), none.data()));
                for (size_t k = 0; k < w.size(); k++)
                    EXPECT_NEAR((hi[k] - lo[k]) / (2 * h), dw[k], 1e-4) << kind << " " << knots;
            }
            hn_curve_free(c);
        }
}

TEST(FlowCurve, SplinePassesThroughItsKnotsSmoothly)
{
    const Curve c(HN_CURVE_SPLINE, 10, [](double t) { return std::sin(9 * t) + t; });
    for (int k = 1; k < 10; k++) {
        const double t = k / 10.0, h = 1e-6;
        EXPECT_NEAR(c(t).first, c.knots[(size_t)k], 1e-14);
        const double before = c(t - h).second, at = c(t).second, behind = c(t + h).second;
        EXPECT_NEAR(before, behind, 1e-3);
        EXPECT_NEAR((behind - at) / h, (at - before) / h, 1e-3); /* second derivative */
    }
}

TEST(FlowCurve, NamesWhatIsWrong)
{
    hn_curve *c = nullptr;
    EXPECT_HN_FAIL(hn_curve_make((hn_curve_kind)7, 5, &c), HN_ERR_ARG, "curve 7");
    EXPECT_HN_FAIL(hn_curve_make(HN_CURVE_SPLINE, 1, &c), HN_ERR_ARG, "1 knots");
    EXPECT_HN_FAIL(hn_curve_make(HN_CURVE_SPLINE, 1025, &c), HN_ERR_ARG, "2 to 1024");
    const Curve good(HN_CURVE_SPLINE, Vector{0, 1});
    double w[2], dw[2];
    EXPECT_HN_FAIL(hn_curve_weights(good.get(), 1.01, w, dw), HN_ERR_ARG, "1.01");
    EXPECT_HN_FAIL(hn_curve_weights(good.get(), NAN, w, dw), HN_ERR_ARG, "nan");
    EXPECT_STREQ(hn_curve_name(HN_CURVE_PIECEWISE), "PL");
}

/* ---- integrators ---- */

using Slope = std::function<double(double t, double z)>;

hn_status slope_of(void *user, double t, const double *z, double *slope)
{
    *slope = (*(const Slope *)user)(t, *z);
    return HN_OK;
}

double follow(hn_integrator kind, int64_t steps, double stop, double z, Slope slope)
{
    EXPECT_HN_OK(hn_integrate(kind, steps, stop, 1, &z, slope_of, &slope));
    return z;
}

TEST(FlowIntegrate, StepsMatchHandComputedOnes)
{
    const Slope f = [](double t, double z) { return z + t; };
    EXPECT_DOUBLE_EQ(follow(HN_INTEGRATE_EULER, 2, 1, 1, f), 2.5); /* 1.5, then 1.5 + (1.5+.5)/2 */
    /* k = 1; at (1.5, 0.5): 2; z = 3 */
    EXPECT_DOUBLE_EQ(follow(HN_INTEGRATE_MIDPOINT, 1, 1, 1, f), 3);
    /* slopes 1, 2, 2.5, 4.5: 1 + (1 + 4 + 5 + 4.5) / 6 */
    EXPECT_DOUBLE_EQ(follow(HN_INTEGRATE_RK4, 1, 1, 1, f), 1 + 14.5 / 6);
    EXPECT_EQ(follow(HN_INTEGRATE_RK4, 0, 1, 5, f), 5);
    EXPECT_EQ(follow(HN_INTEGRATE_EULER, 3, 0, 5, f), 5);
    EXPECT_DOUBLE_EQ(follow(HN_INTEGRATE_EULER, 1, 0.5, 1, f), 1.5);
}

/* The oracle, the true slope of a piecewise linear curve, with as many Euler steps as pieces: all
 * knots again, to the last bit where the numbers are short. */
TEST(FlowIntegrate, OracleReproducesPiecewiseEndPoints)
{
    for (const int64_t pieces : {8, 10, 49, 50}) {
        Vector knots = {0.5};
        for (int64_t k = 0; k < pieces; k++)
            knots.push_back(knots.back() + ((double)(k * 7 % 11) - 5) / 16);
        const Curve c(HN_CURVE_PIECEWISE, knots);
        const Slope oracle = [&](double t, double) { return c(t).second; };
        for (const int64_t k : {pieces, pieces / 2, (int64_t)1}) {
            const double end =
                follow(HN_INTEGRATE_EULER, k, (double)k / (double)pieces, knots[0], oracle);
            if (pieces == 8)
                EXPECT_EQ(end, knots[(size_t)k]);
            else
                EXPECT_NEAR(end, knots[(size_t)k], 1e-14) << k << " of " << pieces;
        }
    }
}

/* log2 of how much smaller the error gets with twice the steps, of the oracle of a spline followed
 * to its middle knot. (To its end the midpoint's h^2 / 24 (theta''(1) - theta''(0)) is 0.) */
double order_of(hn_integrator kind, int64_t steps, const Curve &c)
{
    const Slope oracle = [&](double t, double) { return c(t).second; };
    double error[2];
    for (int i = 0; i < 2; i++)
        error[i] = std::fabs(follow(kind, steps << i, 0.5, c.knots[0], oracle) - c.knots[5]);
    return std::log2(error[0] / error[1]);
}

TEST(FlowIntegrate, OracleOfASplineConvergesByTheOrderOfTheMethod)
{
    const Curve c(HN_CURVE_SPLINE, 10, [](double t) { return std::exp(-3 * t) + 0.2 * t * t; });
    EXPECT_NEAR(order_of(HN_INTEGRATE_EULER, 200, c), 1, 0.05);
    EXPECT_NEAR(order_of(HN_INTEGRATE_MIDPOINT, 200, c), 2, 0.05);
    /* RK4 of a slope of t alone is Simpson's rule: exact on each piece of a cubic */
    const Slope oracle = [&](double t, double) { return c(t).second; };
    EXPECT_NEAR(follow(HN_INTEGRATE_RK4, 10, 1, c.knots.front(), oracle), c.knots.back(), 1e-14);
}

/* dz/dt = -z^2 + t: the error of a state that feeds back, against 4096 steps. */
TEST(FlowIntegrate, ErrorsFallByTheOrderOfTheMethod)
{
    const Slope f = [](double t, double z) { return t - z * z; };
    const double want = follow(HN_INTEGRATE_RK4, 4096, 1, 1, f);
    const double order[] = {1, 2, 4};
    for (int kind = 0; kind < HN_INTEGRATE_COUNT; kind++) {
        const double a = std::fabs(follow((hn_integrator)kind, 32, 1, 1, f) - want);
        const double b = std::fabs(follow((hn_integrator)kind, 64, 1, 1, f) - want);
        EXPECT_NEAR(std::log2(a / b), order[kind], 0.1)
            << hn_integrator_of((hn_integrator)kind)->name;
    }
}

TEST(FlowIntegrate, NamesWhatIsWrongAndPassesFailuresUp)
{
    double z = 1;
    Slope f = [](double, double) { return 0.0; };
    EXPECT_HN_FAIL(hn_integrate((hn_integrator)3, 1, 1, 1, &z, slope_of, &f), HN_ERR_ARG, "3");
    EXPECT_HN_FAIL(hn_integrate(HN_INTEGRATE_EULER, -1, 1, 1, &z, slope_of, &f), HN_ERR_ARG, "-1");
    EXPECT_HN_FAIL(hn_integrate(HN_INTEGRATE_EULER, 1, 1.5, 1, &z, slope_of, &f), HN_ERR_ARG,
                   "1.5");
    const auto fails = [](void *, double, const double *, double *) {
        return HN_FAIL(HN_ERR_NUMERIC, "no slope");
    };
    EXPECT_HN_FAIL(hn_integrate(HN_INTEGRATE_EULER, 2, 1, 1, &z, fails, nullptr), HN_ERR_NUMERIC,
                   "no slope");
    EXPECT_EQ(hn_integrator_of((hn_integrator)3), nullptr);
}

} // namespace
