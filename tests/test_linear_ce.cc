/* Chunked linear layer + cross-entropy: hand values, fast against the twin, finite differences,
 * ignored rows, repeatability, errors, ONNX vectors. */
#include "kernels/loss/linear_ce.h"

#include <omp.h>

#include <algorithm>

#include "hn_test.h"
#include "onnx_vectors.h"

namespace {

struct Shape {
    int64_t rows, dim, vocab, chunk_rows;
    float softcap;
    int ignore_every; /* rows i with i % ignore_every == 1 are ignored; 0: none */
};

std::ostream &operator<<(std::ostream &o, const Shape &s)
{
    return o << s.rows << "x" << s.dim << "x" << s.vocab;
}

std::vector<int32_t> labels_for(const Shape &s)
{
    std::vector<int32_t> labels;
    for (int64_t i = 0; i < s.rows; i++)
        labels.push_back(s.ignore_every && i % s.ignore_every == 1 % s.ignore_every
                             ? HN_LABEL_IGNORED
                             : (int32_t)(i * 31 % s.vocab));
    return labels;
}

template <class T>
struct Problem {
    const Shape s;
    const int64_t ld_x, ld_w, ld_dx, ld_dw;
    std::vector<int32_t> labels;
    GuardedArray<T> x, w, dx;
    GuardedArray<float> dw, row_loss, loss, count;

    /* Rows begin anywhere, or (aligned) on 16-byte boundaries. */
    explicit Problem(const Shape &shape, bool aligned = false)
        : s(shape), ld_x(ld(3, aligned)), ld_w(ld(1, aligned)), ld_dx(ld(2, aligned)),
          ld_dw(ld(5, aligned)), labels(labels_for(s)), x(values(s.rows * ld_x, 1, 1)),
          w(values(s.vocab * ld_w, 2, 0.5f)), dx((size_t)(s.rows * ld_dx)),
          dw(std::vector<float>((size_t)(s.vocab * ld_dw), 0.25f)), row_loss((size_t)s.rows),
          loss(std::vector<float>{10}), count(std::vector<float>{3})
    {
    }
    int64_t ld(int64_t gap, bool aligned) const
    {
        return aligned ? (s.dim + 7) / 8 * 8 : s.dim + gap;
    }
    static std::vector<T> values(int64_t n, unsigned seed, float sd)
    {
        if constexpr (sizeof(T) == 2)
            return normal_bf16((size_t)n, seed, 0, sd);
        else
            return normal_f32((size_t)n, seed, 0, sd);
    }
    hn_linear_ce_args args()
    {
        return {.x = x.data(),
                .w = w.data(),
                .labels = labels.data(),
                .loss_sum = loss.data(),
                .count = count.data(),
                .dx = dx.data(),
                .dw = dw.data(),
                .row_loss = row_loss.data(),
                .rows = s.rows,
                .dim = s.dim,
                .vocab = s.vocab,
                .ld_x = ld_x,
                .ld_w = ld_w,
                .ld_dx = ld_dx,
                .ld_dw = ld_dw,
                .chunk_rows = s.chunk_rows,
                .softcap = s.softcap,
                .dtype = sizeof(T) == 2 ? HN_BF16 : HN_F32};
    }
    struct Result {
        std::vector<T> dx;
        std::vector<float> dw, row_loss, loss, count;
        bool operator==(const Result &r) const
        {
            return same_bits(dx, r.dx) && same_bits(dw, r.dw) && same_bits(row_loss, r.row_loss) &&
                   same_bits(loss, r.loss) && same_bits(count, r.count);
        }
    };
    Result result()
    {
        Result r = {{}, dw.host(), row_loss.host(), loss.host(), count.host()};
        const auto all = dx.host();
        for (int64_t i = 0; i < s.rows * ld_dx; i++)
            if (i % ld_dx < s.dim)
                r.dx.push_back(all[(size_t)i]);
            else
                EXPECT_TRUE(std::isnan(as_double(all[(size_t)i]))) << "wrote between rows";
        for (int64_t i = 0; i < s.vocab * ld_dw; i++)
            EXPECT_TRUE(i % ld_dw < s.dim || r.dw[(size_t)i] == 0.25f) << "wrote between rows";
        return r;
    }
    Result twin()
    {
        const auto a = args();
        EXPECT_HN_OK(hn_linear_ce_cpu(&a));
        return result();
    }
    Result fast()
    {
        const auto a = args();
        GuardedArray<char> scratch(hn_linear_ce_fast_scratch(&a));
        EXPECT_HN_OK(hn_linear_ce_fast(&a, scratch.data()));
        scratch.host();
        return result();
    }
};

class LinearCe : public ::testing::TestWithParam<Shape> {};

TEST_P(LinearCe, FastMatchesTwinInF32)
{
    Problem<float> p(GetParam()), reference(GetParam());
    const auto want = reference.twin(), got = p.fast();
    EXPECT_LT(rel_l2(got.row_loss, want.row_loss), 1e-6);
    EXPECT_LT(rel_l2(got.loss, want.loss), 1e-6);
    EXPECT_EQ(got.count, want.count);
    EXPECT_LT(rel_l2(got.dx, want.dx), 5e-6); /* fp32 sums over the vocabulary */
    EXPECT_LT(rel_l2(got.dw, want.dw), 5e-6); /* and over the rows */
}

TEST_P(LinearCe, FastMatchesTwinInBf16)
{
    Problem<hn_bf16> p(GetParam()), reference(GetParam());
    const auto want = reference.twin(), got = p.fast();
    EXPECT_LT(rel_l2(got.row_loss, want.row_loss), 1e-6);
    EXPECT_LT(rel_l2(got.dw, want.dw), 5e-6);
    EXPECT_LT(rel_l2(got.dx, want.dx), 1e-3); /* a few values round to the other neighbour */
}

TEST_P(LinearCe, FastGivesTheSameBitsForAnyNumberOfThreads)
{
    Problem<float> first(GetParam());
    const auto want = first.fast();
    const int threads = omp_get_max_threads();
    for (int n : {1, 2, 3}) {
        omp_set_num_threads(n);
        Problem<float> again(GetParam());
        EXPECT_TRUE(again.fast() == want) << n << " threads";
    }
    omp_set_num_threads(threads);
}

/* One row, one word, part of a chunk, one past a chunk, several blocks of a bf16 w, all ignored. */
INSTANTIATE_TEST_SUITE_P(Shapes, LinearCe,
                         ::testing::Values(Shape{1, 1, 1, 0, 0, 0}, Shape{3, 5, 7, 0, 0, 0},
                                           Shape{17, 33, 65, 8, 0, 3}, Shape{33, 16, 105, 32, 0, 0},
                                           Shape{9, 8, 11, 1, 0, 2}, Shape{40, 12, 50, 7, 3.0f, 4},
                                           Shape{6, 4, 4100, 4, 0, 3}, Shape{5, 4, 6, 2, 0, 1},
                                           Shape{300, 64, 105, 64, 0, 5}),
                         [](const auto &i) {
                             return "r" + std::to_string(i.param.rows) + "_d" +
                                    std::to_string(i.param.dim) + "_v" +
                                    std::to_string(i.param.vocab);
                         });

TEST(LinearCeTwin, MatchesHandComputedRows)
{
    /* Logits (0, log 3): probabilities 1/4 and 3/4. Row 1 is ignored. */
    const float x[] = {1, 5}, w[] = {0, std::log(3.0f)};
    const int32_t labels[] = {0, HN_LABEL_IGNORED};
    float loss = 1, count = 2, dx[2], dw[2] = {1, 1}, row_loss[2];
    hn_linear_ce_args a = {};
    a.x = x, a.w = w, a.labels = labels, a.loss_sum = &loss, a.count = &count;
    a.dx = dx, a.dw = dw, a.row_loss = row_loss;
    a.rows = a.vocab = 2;
    a.dim = a.ld_x = a.ld_w = a.ld_dx = a.ld_dw = 1;
    ASSERT_HN_OK(hn_linear_ce_cpu(&a));
    EXPECT_FLOAT_EQ(row_loss[0], std::log(4.0f));
    EXPECT_EQ(row_loss[1], 0);
    EXPECT_FLOAT_EQ(loss, 1 + std::log(4.0f));
    EXPECT_EQ(count, 3);
    EXPECT_FLOAT_EQ(dx[0], 0.75f * std::log(3.0f));
    EXPECT_EQ(dx[1], 0);
    EXPECT_FLOAT_EQ(dw[0], 0.25f);
    EXPECT_FLOAT_EQ(dw[1], 1.75f);
}

TEST(LinearCeTwin, GradientsMatchFiniteDifferences)
{
    for (const float softcap : {0.0f, 2.0f}) {
        Problem<float> p({4, 3, 5, 0, softcap, 4});
        std::fill_n(p.dw.data(), p.dw.size(), 0.0f);
        const auto a = p.args();
        ASSERT_HN_OK(hn_linear_ce_cpu(&a));
        const auto loss = [&] {
            hn_linear_ce_args b = p.args();
            b.loss_sum = b.count = b.dw = nullptr;
            b.dx = nullptr;
            EXPECT_HN_OK(hn_linear_ce_cpu(&b));
            double sum = 0;
            for (int64_t i = 0; i < 4; i++) sum += as_double(p.row_loss.data()[i]);
            return sum;
        };
        const auto check = [&](GuardedArray<float> &t, int64_t ld, const float *d, int64_t ld_d,
                               int64_t rows) {
            std::vector<double> got, want;
            for (int64_t i = 0; i < rows; i++)
                for (int64_t c = 0; c < 3; c++) {
                    float &v = t.data()[i * ld + c];
                    const float old = v, h = 1e-2f;
                    v = old + h;
                    const double above = loss();
                    v = old - h;
                    const double below = loss();
                    v = old;
                    want.push_back((above - below) / (2.0 * (double)h));
                    got.push_back(as_double(d[i * ld_d + c]));
                }
            EXPECT_LT(rel_l2(got, want), 1e-3); /* second-order differences, h = 1e-2 */
        };
        const auto dx = p.dx.host(), dw = p.dw.host();
        check(p.x, p.ld_x, dx.data(), p.ld_dx, 4);
        check(p.w, p.ld_w, dw.data(), p.ld_dw, 5);
    }
}

TEST(LinearCeFast, DoesWithoutOptionalOutputs)
{
    const Shape s = {20, 8, 30, 6, 0, 3};
    Problem<float> all(s);
    const auto want = all.fast();
    Problem<float> p(s);
    auto a = p.args();
    a.dx = nullptr, a.dw = nullptr, a.row_loss = nullptr;
    a.ld_dx = 0;
    GuardedArray<char> scratch(hn_linear_ce_fast_scratch(&a));
    ASSERT_HN_OK(hn_linear_ce_fast(&a, scratch.data()));
    scratch.host();
    EXPECT_TRUE(same_bits(p.loss.host(), want.loss));
    EXPECT_TRUE(same_bits(p.count.host(), want.count));
    a = p.args();
    a.loss_sum = a.count = nullptr;
    GuardedArray<char> more(hn_linear_ce_fast_scratch(&a));
    ASSERT_HN_OK(hn_linear_ce_fast(&a, more.data()));
    EXPECT_TRUE(same_bits(p.dw.host(), want.dw));
}

TEST(LinearCeFast, StaysFiniteForLargeLogits)
{
    Problem<float> p({8, 16, 40, 0, 0, 0}), reference(p.s);
    for (auto *x : {&p.x, &reference.x})
        for (size_t i = 0; i < x->size(); i++) x->data()[i] *= 1000;
    const auto want = reference.twin(), got = p.fast();
    EXPECT_LT(rel_l2(got.row_loss, want.row_loss), 1e-5);
}

TEST(LinearCeCheck, NamesWhatIsWrong)
{
    Problem<float> p({4, 3, 5, 0, 0, 0});
    const auto good = p.args();
    EXPECT_HN_OK(hn_linear_ce_check(&good));
    const auto fails = [&](auto change, hn_status code, const char *text) {
        auto a = good;
        char scratch[64];
        change(a);
        EXPECT_HN_FAIL(hn_linear_ce_cpu(&a), code, text);
        EXPECT_HN_FAIL(hn_linear_ce_fast(&a, scratch), code, text);
    };
    using A = hn_linear_ce_args;
    fails([](A &a) { a.x = nullptr; }, HN_ERR_ARG, "x is NULL");
    fails([](A &a) { a.w = nullptr; }, HN_ERR_ARG, "w is NULL");
    fails([](A &a) { a.labels = nullptr; }, HN_ERR_ARG, "labels is NULL");
    fails([](A &a) { a.rows = 0; }, HN_ERR_SHAPE, "x is [0, 3]");
    fails([](A &a) { a.ld_dx = 2; }, HN_ERR_SHAPE, "leading dimension 2 of dx");
    fails([](A &a) { a.ld_dw = 2; }, HN_ERR_SHAPE, "leading dimension 2 of dw");
    fails([](A &a) { a.dtype = HN_F16; }, HN_ERR_UNSUPPORTED, "f16");
    fails([](A &a) { a.chunk_rows = -1; }, HN_ERR_ARG, "chunk_rows -1");
    fails([](A &a) { a.softcap = -2; }, HN_ERR_ARG, "softcap -2");
    p.labels[2] = 5;
    fails([](A &) {}, HN_ERR_ARG, "label 5 of row 2");
    p.labels[2] = -1;
    fails([](A &) {}, HN_ERR_ARG, "label -1 of row 2");
    p.labels[2] = 0;
    EXPECT_HN_FAIL(hn_linear_ce_fast(&good, nullptr), HN_ERR_ARG, "scratch is NULL");
    EXPECT_EQ(p.loss.host()[0], 10); /* nothing was written */
    EXPECT_TRUE(std::isnan(p.dx.host()[0]));
}

/* Row-wise losses of x [n, classes, d1, d2, ...] through w = identity: logits = x. */
struct OnnxLoss {
    std::vector<float> row;
    double sum = 0, count = 0;
};

OnnxLoss onnx_loss(const onnx::Case &c)
{
    const auto &x = *c.in(0), &y = *c.in(1);
    const int64_t classes = x.dim(1), rows = (int64_t)y.values.size();
    const int64_t inner = rows / x.dim(0); /* d1 * d2 * ... */
    const int64_t ignored = c.has("ignore_index") ? c.integer("ignore_index", 0) : INT64_MIN;
    std::vector<float> flat((size_t)(rows * classes)), w((size_t)(classes * classes), 0);
    std::vector<int32_t> labels;
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t k = 0; k < classes; k++)
            flat[(size_t)(r * classes + k)] =
                (float)x.values[(size_t)((r / inner * classes + k) * inner + r % inner)];
        const int64_t label = (int64_t)y.values[(size_t)r];
        labels.push_back(label == ignored ? HN_LABEL_IGNORED : (int32_t)label);
    }
    for (int64_t k = 0; k < classes; k++) w[(size_t)(k * classes + k)] = 1;
    OnnxLoss l;
    l.row.resize((size_t)rows);
    float sum = 0, count = 0;
    hn_linear_ce_args a = {};
    a.x = flat.data(), a.w = w.data(), a.labels = labels.data();
    a.loss_sum = &sum, a.count = &count, a.row_loss = l.row.data();
    a.rows = rows, a.dim = a.vocab = a.ld_x = a.ld_w = classes;
    GuardedArray<char> scratch(hn_linear_ce_fast_scratch(&a));
    EXPECT_HN_OK(hn_linear_ce_fast(&a, scratch.data()));
    l.sum = (double)sum;
    l.count = (double)count;
    return l;
}

/* Not expressible: class weights, which the operation does not have (14 of 30 vectors of
 * SoftmaxCrossEntropyLoss, 8 of 16 of NegativeLogLikelihoodLoss). Of the other 16, eight have a
 * second output log_prob; only the loss is compared there, since the operation never keeps
 * probabilities. NegativeLogLikelihoodLoss takes logarithms that need not be those of probabilities
 * with sum 1: linear_ce normalises, so its row loss is the wanted one plus log sum exp(x), which
 * the test takes away again. */
int compare(const std::string &dir, const char *op)
{
    int tried = 0;
    onnx::each(dir, op, [&](const onnx::Case &c) {
        if (c.in(2) != nullptr) return; /* class weights */
        tried++;
        OnnxLoss l = onnx_loss(c);
        if (c.op == "NegativeLogLikelihoodLoss") {
            const auto &x = *c.in(0), &y = *c.in(1);
            const int64_t classes = x.dim(1), inner = (int64_t)y.values.size() / x.dim(0);
            l.sum = 0;
            for (size_t r = 0; r < l.row.size(); r++) {
                if (c.has("ignore_index") && (int64_t)y.values[r] == c.integer("ignore_index", 0))
                    continue;
                double sum = 0;
                for (int64_t k = 0; k < classes; k++)
                    sum += std::exp(x.values[(size_t)(((int64_t)r / inner * classes + k) * inner +
                                                      (int64_t)r % inner)]);
                l.row[r] -= (float)std::log(sum);
                l.sum += (double)l.row[r];
            }
        }
        const auto &want = c.out(0)->values;
        const std::string reduction = c.text("reduction", "mean");
        if (reduction == "none")
            EXPECT_LT(max_abs(l.row, want), 2e-6);
        else
            EXPECT_NEAR(reduction == "sum" ? l.sum : l.sum / l.count, want.at(0),
                        2e-6 * (1 + std::fabs(want.at(0))));
    });
    return tried;
}

TEST(LinearCeOnnx, SoftmaxCrossEntropyLoss)
{
    HN_NEED_DATA(dir, "onnx-op-vectors");
    EXPECT_EQ(compare(dir, "SoftmaxCrossEntropyLoss"), 16);
}

TEST(LinearCeOnnx, NegativeLogLikelihoodLoss)
{
    HN_NEED_DATA(dir, "onnx-op-vectors");
    EXPECT_EQ(compare(dir, "NegativeLogLikelihoodLoss"), 8);
}

} // namespace

#ifdef HONE_CUDA
#include "gemm_cuda_test.h"

namespace {

template <class V>
std::vector<V> vector_of(GuardedArray<V> &a)
{
    return {a.data(), a.data() + a.size()};
}

/* A problem with all its arrays on the device. */
template <class T>
struct OnDevice {
    const bool aligned;
    Problem<T> p;
    DeviceArray<T> x, w, dx;
    DeviceArray<float> dw, row_loss, loss, count;
    DeviceArray<int32_t> labels;

    explicit OnDevice(const Shape &s, bool rows_aligned = false)
        : aligned(rows_aligned), p(s, aligned), x(vector_of(p.x)), w(vector_of(p.w)),
          dx(p.dx.size()), dw(vector_of(p.dw)), row_loss(p.row_loss.size()),
          loss(vector_of(p.loss)), count(vector_of(p.count)), labels(p.labels)
    {
    }
    hn_linear_ce_args args()
    {
        auto a = p.args();
        a.x = x.data(), a.w = w.data(), a.labels = labels.data(), a.dx = dx.data();
        a.dw = dw.data(), a.row_loss = row_loss.data();
        a.loss_sum = loss.data(), a.count = count.data();
        return a;
    }
    void run(hn_gemm_cuda *gemm)
    {
        const auto a = args();
        DeviceScratch scratch(hn_linear_ce_cuda_scratch(&a));
        EXPECT_HN_OK(hn_linear_ce_cuda(&a, gemm, scratch.data(), nullptr));
        EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    }
    /* Back in the arrays of a host problem, which checks what lies between the rows. */
    typename Problem<T>::Result result()
    {
        Problem<T> host(p.s, aligned);
        const auto back = [](auto &device, auto &to) {
            const auto v = device.host();
            std::copy(v.begin(), v.end(), to.data());
        };
        back(dx, host.dx), back(dw, host.dw), back(row_loss, host.row_loss);
        back(loss, host.loss), back(count, host.count);
        return host.result();
    }
};

class LinearCeCuda : public ::testing::TestWithParam<Shape> {};

TEST_P(LinearCeCuda, CudaMatchesCpuInF32)
{
    HN_NEED_CUDA();
    Gemm gemm;
    for (const bool aligned : {false, true}) {
        OnDevice<float> d(GetParam(), aligned);
        d.run(gemm);
        const auto want = d.p.twin(), got = d.result();
        EXPECT_LT(rel_l2(got.row_loss, want.row_loss), 2e-6); /* fp32 logits and sums */
        EXPECT_LT(rel_l2(got.loss, want.loss), 1e-6);
        EXPECT_EQ(got.count, want.count);
        EXPECT_LT(rel_l2(got.dx, want.dx), 5e-6); /* fp32 sums over the vocabulary */
        EXPECT_LT(rel_l2(got.dw, want.dw), 5e-6); /* and over the rows */
    }
}

TEST_P(LinearCeCuda, CudaMatchesCpuInBf16)
{
    HN_NEED_CUDA();
    Gemm gemm;
    for (const bool aligned : {false, true}) {
        OnDevice<hn_bf16> d(GetParam(), aligned);
        d.run(gemm);
        const auto want = d.p.twin(), got = d.result();
        /* Logits are rounded to bf16, by at most 2^-9 of what is below 16 here, 4 as a rule: so
         * much is in a loss of about 5, and in the logarithms of the probabilities. */
        EXPECT_LT(rel_l2(got.row_loss, want.row_loss), 6e-3);
        EXPECT_LT(rel_l2(got.loss, want.loss), 2e-3);
        EXPECT_EQ(got.count, want.count);
        /* dt is rounded, too, at most 2^-9 of each term; dx then rounds to another neighbour here
         * and there, half a unit (2^-8) in the norm */
        EXPECT_LT(rel_l2(got.dw, want.dw), 1e-2);
        EXPECT_LT(rel_l2(got.dx, want.dx), 1.4e-2);
    }
}

/* x is the identity, so that logits are the columns of w, exact in bf16 and in any order of sums:
 * what remains is the softmax, for every way in which a row is held. */
class LinearCeWide : public ::testing::TestWithParam<Shape> {};

TEST_P(LinearCeWide, CudaMatchesCpuWhereLogitsAreExact)
{
    HN_NEED_CUDA();
    Gemm gemm;
    OnDevice<hn_bf16> d(GetParam()), again(GetParam());
    auto x = vector_of(d.p.x);
    for (int64_t i = 0; i < d.p.s.rows; i++)
        for (int64_t k = 0; k < d.p.s.dim; k++)
            x[(size_t)(i * d.p.ld_x + k)] = hn_bf16_from_f32(i == k ? 1.0f : 0.0f);
    std::copy(x.begin(), x.end(), d.p.x.data());
    d.x.assign(x), again.x.assign(x);
    for (int64_t i = 0; i < d.p.s.rows; i++) /* the last column, then others all over the row */
        if (d.p.labels[(size_t)i] != HN_LABEL_IGNORED)
            d.p.labels[(size_t)i] = (int32_t)(d.p.s.vocab - 1 - i * (d.p.s.vocab / d.p.s.rows - 1));
    d.labels.assign(d.p.labels), again.labels.assign(d.p.labels);
    for (int64_t n = 0; n < d.p.s.vocab; n++)
        std::fill_n(d.p.dw.data() + n * d.p.ld_dw, d.p.s.dim, 0.0f);
    d.dw.assign(vector_of(d.p.dw)), again.dw.assign(vector_of(d.p.dw));
    d.run(gemm), again.run(gemm);
    auto got = d.result(), want = d.p.twin();
    EXPECT_TRUE(again.result() == got);
    EXPECT_LT(rel_l2(got.row_loss, want.row_loss), 2e-6); /* fp32 sums */
    EXPECT_LT(rel_l2(got.loss, want.loss), 1e-6);
    EXPECT_EQ(got.count, want.count);
    EXPECT_LT(rel_l2(got.dw, want.dw), 3e-3); /* dt rounded once: 2^-9 */
    EXPECT_LT(rel_l2(got.dx, want.dx), 8e-3);
    /* dw is dt; its targets, near -1, would hide all the others */
    for (int64_t i = 0; i < d.p.s.rows; i++) {
        if (d.p.labels[(size_t)i] == HN_LABEL_IGNORED) continue;
        const auto at = (size_t)(d.p.labels[(size_t)i] * d.p.ld_dw + i);
        EXPECT_NEAR(got.dw[at], want.dw[at], 3e-3f);
        got.dw[at] = want.dw[at] = 0;
    }
    for (size_t i = 0; i < got.dw.size(); i++)
        if ((int64_t)i % d.p.ld_dw >= d.p.s.dim) got.dw[i] = want.dw[i] = 0; /* gaps */
    EXPECT_LT(rel_l2(got.dw, want.dw), 3e-3);
}

/* Widths at which a row goes to 1, 2, 4, 8 blocks and to one that reads it twice, which does so in
 * pieces; the last vector whole and in part. */
INSTANTIATE_TEST_SUITE_P(
    Shapes, LinearCeWide,
    ::testing::Values(Shape{4, 4, 8, 0, 0, 0}, Shape{4, 4, 4095, 0, 0, 3},
                      Shape{3, 3, 32768, 0, 0, 0}, Shape{3, 3, 32769, 0, 0, 0},
                      Shape{3, 3, 50257, 2, 5.0f, 0}, Shape{3, 3, 65536, 0, 0, 0},
                      Shape{3, 3, 65542, 0, 0, 0}, Shape{3, 3, 128256, 0, 0, 0},
                      Shape{3, 3, 128256, 0, 1.5f, 3}, Shape{3, 3, 131073, 2, 0, 0},
                      Shape{3, 3, 262144, 0, 0, 0}, Shape{3, 3, 262144, 0, 3.0f, 0},
                      Shape{3, 3, 262145, 0, 0, 0}, Shape{3, 3, 300007, 0, 2.0f, 0}),
    [](const auto &i) {
        return "v" + std::to_string(i.param.vocab) + (i.param.softcap > 0 ? "_capped" : "");
    });

template <class T>
void repeats(const Shape &s)
{
    Gemm gemm;
    OnDevice<T> first(s), second(s), replayed(s);
    first.run(gemm);
    second.run(gemm);
    const auto a = replayed.args();
    DeviceScratch scratch(hn_linear_ce_cuda_scratch(&a));
    run_captured([&](hn_stream stream) {
        ASSERT_HN_OK(hn_linear_ce_cuda(&a, gemm, scratch.data(), stream));
    });
    const auto want = first.result();
    EXPECT_TRUE(second.result() == want);
    EXPECT_TRUE(replayed.result() == want);
}

TEST_P(LinearCeCuda, CudaRepeatsBitForBitAlsoFromACapturedGraph)
{
    HN_NEED_CUDA();
    repeats<float>(GetParam());
    repeats<hn_bf16>(GetParam());
}

/* As above; a block's threads and one more than they take at a time; more rows than a block of the
 * list and of the last sum has threads. */
INSTANTIATE_TEST_SUITE_P(Shapes, LinearCeCuda,
                         ::testing::Values(Shape{1, 1, 1, 0, 0, 0}, Shape{3, 5, 7, 0, 0, 0},
                                           Shape{17, 33, 65, 8, 0, 3}, Shape{33, 16, 105, 32, 0, 0},
                                           Shape{9, 8, 11, 1, 0, 2}, Shape{40, 12, 50, 7, 3.0f, 4},
                                           Shape{6, 4, 4100, 4, 0, 3}, Shape{5, 4, 6, 2, 0, 1},
                                           Shape{4, 16, 512, 0, 0, 0},
                                           Shape{4, 16, 513, 0, 2.0f, 0},
                                           Shape{1030, 8, 24, 400, 0, 5},
                                           Shape{300, 64, 105, 64, 0, 5}),
                         [](const auto &i) {
                             return "r" + std::to_string(i.param.rows) + "_d" +
                                    std::to_string(i.param.dim) + "_v" +
                                    std::to_string(i.param.vocab);
                         });

TEST(LinearCeCudaOptions, OutputsMayBeLeftOut)
{
    HN_NEED_CUDA();
    Gemm gemm;
    const Shape s = {20, 8, 30, 6, 0, 3};
    OnDevice<hn_bf16> all(s), loss(s), dx(s), dw(s);
    all.run(gemm);
    const auto want = all.result();
    const auto run = [&](auto &d, auto change) {
        auto a = d.args();
        change(a);
        DeviceScratch scratch(hn_linear_ce_cuda_scratch(&a));
        ASSERT_HN_OK(hn_linear_ce_cuda(&a, gemm, scratch.data(), nullptr));
        ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    };
    run(loss, [](auto &a) { a.dx = nullptr, a.dw = nullptr, a.row_loss = nullptr, a.ld_dx = 0; });
    EXPECT_TRUE(same_bits(loss.result().loss, want.loss));
    EXPECT_TRUE(same_bits(loss.result().count, want.count));
    run(dx, [](auto &a) { a.loss_sum = nullptr, a.dw = nullptr; });
    EXPECT_TRUE(same_bits(dx.result().dx, want.dx));
    EXPECT_TRUE(same_bits(dx.result().count, want.count));
    run(dw, [](auto &a) { a.loss_sum = a.count = nullptr, a.dx = nullptr; });
    EXPECT_TRUE(same_bits(dw.result().dw, want.dw));
    EXPECT_TRUE(same_bits(dw.result().row_loss, want.row_loss));
}

TEST(LinearCeCudaOptions, StaysFiniteForLargeLogits)
{
    HN_NEED_CUDA();
    Gemm gemm;
    OnDevice<float> d({8, 16, 40, 0, 0, 0});
    auto x = vector_of(d.p.x);
    for (size_t i = 0; i < x.size(); i++) d.p.x.data()[i] = x[i] *= 1000;
    d.x.assign(x);
    d.run(gemm);
    EXPECT_LT(rel_l2(d.result().row_loss, d.p.twin().row_loss), 1e-5);
}

/* The device cannot report an error; the loss must tell, without a read outside the row. */
template <class T>
void unknown_label(int64_t vocab)
{
    Gemm gemm;
    for (const int32_t label : {-1, (int32_t)vocab, INT32_MAX}) {
        OnDevice<T> d({8, 16, vocab, 0, 0, 0});
        auto labels = d.p.labels;
        labels[3] = label;
        d.labels.assign(labels);
        d.run(gemm);
        const auto r = d.result();
        EXPECT_TRUE(std::isnan(r.loss[0]) && std::isnan(r.row_loss[3]));
        EXPECT_TRUE(std::isfinite(r.row_loss[2]));
    }
}

TEST(LinearCeCudaOptions, UnknownLabelGivesNaN)
{
    HN_NEED_CUDA();
    unknown_label<float>(40);
    unknown_label<hn_bf16>(40);
    unknown_label<hn_bf16>(33000); /* two blocks a row */
}

/* `count` of the rows are trained, spread evenly; the x of the others is NaN: nobody reads it. */
template <class T>
void set_labels(OnDevice<T> &d, int64_t count)
{
    const Shape &s = d.p.s;
    Problem<T> fresh(s);
    auto x = vector_of(fresh.x);
    d.p.labels = fresh.labels;
    for (int64_t i = 0; i < s.rows; i++) {
        if ((i + 1) * count / s.rows > i * count / s.rows) continue;
        d.p.labels[(size_t)i] = HN_LABEL_IGNORED;
        std::memset(&x[(size_t)(i * d.p.ld_x)], 0xff, (size_t)s.dim * sizeof(T));
    }
    d.x.assign(x);
    d.labels.assign(d.p.labels);
    d.dx.assign(vector_of(fresh.dx)), d.dw.assign(vector_of(fresh.dw));
    d.loss.assign(vector_of(fresh.loss)), d.count.assign(vector_of(fresh.count));
    d.row_loss.assign(vector_of(fresh.row_loss));
}

/* Three chunks of 8, 8 and 5 rows: the list ends before, at and behind their ends. */
template <class T>
void follows_labels(double loss_within, double gradient_within)
{
    Gemm gemm;
    OnDevice<T> d({21, 16, 40, 8, 0, 0});
    const auto a = d.args();
    DeviceScratch scratch(hn_linear_ce_cuda_scratch(&a));
    CapturedGraph graph([&](hn_stream stream) {
        EXPECT_HN_OK(hn_linear_ce_cuda(&a, gemm, scratch.data(), stream));
    });
    for (const int64_t count : {21, 5, 0, 21, 1, 7, 8, 9, 16, 17, 20}) {
        SCOPED_TRACE(count);
        set_labels(d, count);
        graph.launch();
        const auto got = d.result();
        set_labels(d, count);
        d.run(gemm);
        EXPECT_TRUE(d.result() == got) << "not captured";
        Problem<T> reference(d.p.s);
        reference.labels = d.p.labels;
        const auto want = reference.twin();
        EXPECT_EQ(got.count[0], 3 + (float)count);
        EXPECT_LT(rel_l2(got.loss, want.loss), loss_within);
        EXPECT_LT(rel_l2(got.row_loss, want.row_loss), loss_within);
        EXPECT_LT(rel_l2(got.dx, want.dx), gradient_within);
        EXPECT_LT(rel_l2(got.dw, want.dw), gradient_within);
    }
}

TEST(LinearCeCudaLabels, CapturedGraphFollowsThemInF32)
{
    HN_NEED_CUDA();
    follows_labels<float>(2e-6, 5e-6);
}

TEST(LinearCeCudaLabels, CapturedGraphFollowsThemInBf16)
{
    HN_NEED_CUDA();
    follows_labels<hn_bf16>(6e-3, 1.4e-2); /* as CudaMatchesCpuInBf16 */
}

TEST(LinearCeCudaLabels, TrainedRowsDoNotDependOnIgnoredOnes)
{
    HN_NEED_CUDA();
    Gemm gemm;
    OnDevice<hn_bf16> some({12, 16, 40, 0, 0, 0}), all({6, 16, 40, 0, 0, 0});
    /* rows 1, 3, 5, ... of the one are the rows of the other */
    set_labels(some, 6);
    auto x = vector_of(some.p.x);
    auto labels = some.p.labels;
    for (int64_t i = 0; i < 6; i++) {
        labels[(size_t)(2 * i + 1)] = all.p.labels[(size_t)i];
        std::copy_n(all.p.x.data() + i * all.p.ld_x, 16, &x[(size_t)((2 * i + 1) * some.p.ld_x)]);
    }
    some.labels.assign(labels), some.x.assign(x);
    some.run(gemm), all.run(gemm);
    const auto got = some.result(), want = all.result();
    for (size_t i = 0; i < 6; i++) {
        EXPECT_NEAR(got.row_loss[2 * i + 1], want.row_loss[i], 1e-6f * want.row_loss[i]);
        EXPECT_EQ(got.row_loss[2 * i], 0);
        for (size_t k = 0; k < 16; k++) EXPECT_EQ(as_double(got.dx[2 * i * 16 + k]), 0);
    }
}

/* Needs no GPU. */
TEST(LinearCeCudaScratch, HoldsAChunkOfLogitsItsRowsAndTheList)
{
    hn_linear_ce_args a = {};
    a.rows = 16384, a.dim = a.ld_x = a.ld_dx = 2048, a.vocab = 128256, a.dtype = HN_BF16;
    const size_t rows = 16384 * (8 + 4) + 64;
    EXPECT_EQ(hn_linear_ce_cuda_scratch(&a), (size_t)4096 * (128256 + 2048) * 2 + rows);
    a.dtype = HN_F32;
    EXPECT_EQ(hn_linear_ce_cuda_scratch(&a), (size_t)4096 * (128256 + 2048) * 4 + rows);
    a.vocab = 300000; /* 2^30 / 300000 = 3579.1 */
    EXPECT_EQ(hn_linear_ce_cuda_scratch(&a),
              ((size_t)3579 * 300000 * 4 + 63) / 64 * 64 + (size_t)3579 * 2048 * 4 + rows);
    a.rows = 3, a.vocab = 5, a.chunk_rows = 2, a.dim = a.ld_x = 6, a.ld_dx = 0;
    EXPECT_EQ(hn_linear_ce_cuda_scratch(&a), (size_t)64 * 5); /* 2 x 8, 2 x 6, 3, 3, 1 */
}

} // namespace
#endif
