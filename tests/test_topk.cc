/* The k largest scores: against a stable sort, on plain, fast and CUDA functions: ties, NaN,
 * infinities, zeros of both signs, all equal, every k at the edges. */
#include <algorithm>
#include <numeric>

#include "kernel_test.h"
#include "kernels/reduce/topk.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

enum Kind { kNormal, kSquares, kTies, kEqual, kZeros, kSpecial, kRising, kKinds };
const char *const kNames[] = {"normal", "squares", "ties", "equal", "zeros", "special", "rising"};

std::vector<float> scores(Kind kind, size_t n)
{
    auto x = normal_f32(n, 17u + (unsigned)n);
    const float inf = std::numeric_limits<float>::infinity();
    const float special[] = {inf, -inf, NAN, -NAN, 0.0f, -0.0f, 1e-42f, -1e-42f, 3e38f, 1.0f};
    for (size_t i = 0; i < n; i++) {
        if (kind == kSquares) x[i] *= x[i];
        if (kind == kTies) x[i] = std::round(x[i]);
        if (kind == kEqual) x[i] = 0.25f;
        if (kind == kZeros && i % 10 != 3) x[i] = i % 2 ? 0.0f : -0.0f;
        if (kind == kSpecial) x[i] = i % 3 ? special[i * 7 % 10] : x[i];
        if (kind == kRising) x[i] = (float)i;
    }
    return x;
}

/* Positions by falling score, ties by position, NaN last. */
std::vector<int32_t> best(const std::vector<float> &x, size_t k)
{
    std::vector<int32_t> order(x.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        const float u = x[(size_t)a], v = x[(size_t)b];
        return std::isnan(v) ? !std::isnan(u) : u > v;
    });
    order.resize(k);
    std::sort(order.begin(), order.end());
    return order;
}

std::vector<size_t> counts(size_t n)
{
    std::vector<size_t> k = {0, 1, n / 100, n / 10, n / 2, n - 1, n};
    std::sort(k.begin(), k.end());
    k.erase(std::unique(k.begin(), k.end()), k.end());
    return k;
}

hn_topk_args args_of(const float *x, int32_t *index, float *value, size_t n, size_t k)
{
    hn_topk_args a = {};
    a.x = x, a.index = index, a.value = value, a.n = (int64_t)n, a.k = (int64_t)k;
    return a;
}

void expect_best(const std::vector<float> &x, const std::vector<int32_t> &want,
                 const std::vector<int32_t> &index, const std::vector<float> &value)
{
    std::vector<float> of;
    for (const int32_t i : want) of.push_back(x[(size_t)i]);
    EXPECT_TRUE(index == want);
    EXPECT_TRUE(want.empty() || same_bits(value, of));
}

class TopK : public ::testing::TestWithParam<std::tuple<int, size_t>> {
  protected:
    const Kind kind = (Kind)std::get<0>(GetParam());
    const size_t n = std::get<1>(GetParam());
};

TEST_P(TopK, TwinAndFastMatchAStableSort)
{
    const auto x = scores(kind, n);
    for (const size_t k : counts(n)) {
        SCOPED_TRACE(std::to_string(k));
        const auto want = best(x, k);
        for (int threads = 0; threads < 3; threads++) {
            GuardedArray<int32_t> index(k);
            GuardedArray<float> value(k);
            const auto a = args_of(x.data(), index.data(), value.data(), n, k);
            if (threads == 0)
                EXPECT_HN_OK(hn_topk_cpu(&a));
            else
                on_threads(threads, [&] { EXPECT_HN_OK(hn_topk_fast(&a)); });
            expect_best(x, want, index.host(), value.host());
        }
    }
}

std::string name_of(const ::testing::TestParamInfo<std::tuple<int, size_t>> &i)
{
    return case_name(kNames[std::get<0>(i.param)], "_", (int64_t)std::get<1>(i.param));
}

INSTANTIATE_TEST_SUITE_P(Scores, TopK,
                         ::testing::Combine(::testing::Range(0, (int)kKinds),
                                            ::testing::Values(1u, 2u, 63u, 1000u, 33000u)),
                         name_of);

TEST(TopKTwin, TakesTheLowerOfTwoEqualPositions)
{
    const float x[] = {1, NAN, 3, -0.0f, 3, 0.0f, 3};
    int32_t index[5];
    float value[5];
    auto a = args_of(x, index, value, 7, 2);
    ASSERT_HN_OK(hn_topk_cpu(&a));
    EXPECT_EQ((std::vector<int32_t>{index[0], index[1]}), (std::vector<int32_t>{2, 4}));
    a.k = 5; /* 1, the threes and the first zero */
    ASSERT_HN_OK(hn_topk_cpu(&a));
    EXPECT_EQ(std::vector<int32_t>(index, index + 5), (std::vector<int32_t>{0, 2, 3, 4, 6}));
    EXPECT_TRUE(std::signbit(value[2]));
}

TEST(TopKTwin, RefusesWhatBreaksTheContract)
{
    const float x[] = {1, 2};
    int32_t index[2];
    auto a = args_of(x, index, nullptr, 2, 3);
    EXPECT_HN_FAIL(hn_topk_cpu(&a), HN_ERR_SHAPE, "the 3 largest of 2");
    a = args_of(x, index, nullptr, 0, 0);
    EXPECT_HN_FAIL(hn_topk_fast(&a), HN_ERR_SHAPE, "of 0 scores");
    a = args_of(x, nullptr, nullptr, 2, 1);
    EXPECT_HN_FAIL(hn_topk_cpu(&a), HN_ERR_ARG, "index");
    a = args_of(nullptr, index, nullptr, 2, 1);
    EXPECT_HN_FAIL(hn_topk_cpu(&a), HN_ERR_ARG, "topk: x");
}

#ifdef HONE_CUDA
/* x from element `skip` of its array on: 0 is aligned for vectors. */
void cuda_matches(const std::vector<float> &x, size_t k, size_t skip)
{
    std::vector<float> padded(skip, 0.0f);
    padded.insert(padded.end(), x.begin(), x.end());
    DeviceArray<float> from(padded), value(k);
    DeviceArray<int32_t> index(k);
    const auto a = args_of(from.data() + skip, index.data(), value.data(), x.size(), k);
    DeviceArray<unsigned char> scratch(hn_topk_cuda_scratch(&a));
    const auto want = best(x, k);
    EXPECT_HN_OK(hn_topk_cuda(&a, scratch.data(), nullptr));
    expect_best(x, want, index.host(), value.host());
    (void)scratch.host();
    index.assign(std::vector<int32_t>(k, -1));
    run_captured([&](hn_stream s) { EXPECT_HN_OK(hn_topk_cuda(&a, scratch.data(), s)); }, 2);
    expect_best(x, want, index.host(), value.host());
}

TEST_P(TopK, CudaMatchesAStableSort)
{
    HN_NEED_CUDA();
    const auto x = scores(kind, n);
    for (const size_t k : counts(n)) {
        SCOPED_TRACE(std::to_string(k));
        cuda_matches(x, k, k % 2);
    }
}

/* A few ranges, and a part-filled last one; small enough for the sanitizer's race check. */
TEST(TopKCuda, SmallRangesMatchAStableSort)
{
    HN_NEED_CUDA();
    const size_t n = 20000;
    for (const Kind kind : {kNormal, kTies, kSpecial}) {
        const auto x = scores(kind, n);
        cuda_matches(x, n / 4, kind == kTies ? 1 : 0);
    }
}

/* Long enough for many ranges and for a list; ties and a half of all go without the list. */
TEST(TopKCuda, ManyRangesMatchAStableSort)
{
    HN_NEED_CUDA();
    const size_t n = (5u << 20) + 77;
    for (int kind = 0; kind < kKinds; kind++) {
        const auto x = scores((Kind)kind, n);
        for (const size_t k : {(size_t)1, n / 1000, n / 20, n / 2}) {
            SCOPED_TRACE(std::string(kNames[kind]) + ", " + std::to_string(k));
            cuda_matches(x, k, kind == kTies ? 1 : 0);
        }
    }
}
#endif

} // namespace
