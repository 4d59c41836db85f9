/* Cross-entropy over class logits: hand values, PyTorch's numbers, fast against the twin, ranges,
 * ignored rows, ties, repeatability, errors. */
#include "kernels/loss/class_ce.h"

#include "golden_test.h"
#include "graph_test.h"
#include "kernel_test.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

struct Shape {
    int64_t rows, classes, first, n;
    float smoothing;
    int64_t columns() const { return n ? n : classes - first; }
};

std::ostream &operator<<(std::ostream &o, const Shape &s)
{
    return o << s.rows << "x" << s.classes << " from " << s.first << ", " << s.n;
}

std::vector<int32_t> labels_for(const Shape &s)
{
    std::vector<int32_t> v;
    for (int64_t i = 0; i < s.rows; i++)
        v.push_back(i % 3 == 1 ? HN_LABEL_IGNORED : (int32_t)(s.first + i * 31 % s.columns()));
    return v;
}

struct Result {
    std::vector<float> loss, count, hits, dlogits, row_loss;
    std::vector<int32_t> prediction;
    bool operator==(const Result &r) const
    {
        return same_bits(loss, r.loss) && same_bits(count, r.count) && same_bits(hits, r.hits) &&
               same_bits(dlogits, r.dlogits) && same_bits(row_loss, r.row_loss) &&
               prediction == r.prediction;
    }
};

hn_class_ce_args args_of(const Shape &s, hn_dtype t)
{
    hn_class_ce_args a = {};
    a.rows = s.rows, a.classes = s.classes, a.first_class = s.first, a.n_classes = s.n;
    a.smoothing = s.smoothing, a.dtype = t;
    return a;
}

struct Problem {
    const Shape s;
    Matrix logits, dlogits;
    std::vector<int32_t> labels;
    GuardedArray<float> loss, count, hits, row_loss;
    GuardedArray<int32_t> prediction;

    Problem(const Shape &shape, hn_dtype t, float sd = 3)
        : s(shape), logits(t, s.rows, s.classes, 5), dlogits(t, s.rows, s.classes, 2),
          labels(labels_for(s)), loss(std::vector<float>{10}), count(std::vector<float>{3}),
          hits(std::vector<float>{2}), row_loss((size_t)s.rows), prediction((size_t)s.rows)
    {
        logits.normal(1, 0, sd);
    }
    hn_class_ce_args args()
    {
        hn_class_ce_args a = args_of(s, logits.dtype());
        a.logits = logits.data(), a.labels = labels.data(), a.dlogits = dlogits.data();
        a.ld_logits = logits.ld(), a.ld_dlogits = dlogits.ld();
        a.loss_sum = loss.data(), a.count = count.data(), a.hits = hits.data();
        a.row_loss = row_loss.data(), a.prediction = prediction.data();
        return a;
    }
    Result result()
    {
        return {loss.host(),      count.host(),    hits.host(),
                dlogits.values(), row_loss.host(), prediction.host()};
    }
    Result twin()
    {
        const auto a = args();
        EXPECT_HN_OK(hn_class_ce_cpu(&a));
        return result();
    }
    Result fast()
    {
        const auto a = args();
        Scratch scratch(hn_class_ce_fast_scratch(&a));
        EXPECT_HN_OK(hn_class_ce_fast(&a, scratch.data()));
        return result();
    }
};

void expect_close(const Result &got, const Result &want, hn_dtype t)
{
    EXPECT_LT(rel_l2(got.row_loss, want.row_loss), 2e-6); /* fp32 sums over the classes */
    EXPECT_LT(rel_l2(got.loss, want.loss), 2e-6);
    EXPECT_EQ(got.count, want.count);
    EXPECT_EQ(got.hits, want.hits);
    EXPECT_EQ(got.prediction, want.prediction);
    EXPECT_LT(rel_l2(got.dlogits, want.dlogits), tolerance(t));
}

/* One class, a few, ImageNet's, more than a block of 512; whole rows and ranges; with smoothing. */
const Shape kShapes[] = {{1, 1, 0, 0, 0},      {3, 2, 0, 0, 0.1f},     {64, 10, 0, 0, 0},
                         {65, 10, 0, 0, 0.1f}, {130, 100, 20, 10, 0},  {9, 256, 0, 0, 0.1f},
                         {9, 257, 0, 0, 0.1f}, {5, 1000, 0, 0, 0.1f},  {4, 1500, 7, 1401, 0.3f},
                         {200, 12, 11, 0, 0},  {2, 600, 590, 3, 0.5f}, {600, 33, 0, 0, 1}};

class ClassCe : public ::testing::TestWithParam<Shape> {};

TEST_P(ClassCe, FastMatchesTwin)
{
    for (const hn_dtype t : {HN_F32, HN_BF16}) {
        Problem p(GetParam(), t), reference(GetParam(), t);
        expect_close(p.fast(), reference.twin(), t);
    }
}

TEST_P(ClassCe, SameBitsForAnyNumberOfThreads)
{
    for (const hn_dtype t : {HN_F32, HN_BF16}) {
        Problem one(GetParam(), t), three(GetParam(), t);
        Result a, b;
        on_threads(1, [&] { a = one.fast(); });
        on_threads(3, [&] { b = three.fast(); });
        EXPECT_TRUE(a == b);
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, ClassCe, ::testing::ValuesIn(kShapes));

/* Both CPU functions. */
template <class Fn>
void on_both(Fn fn)
{
    fn([](Problem &p) { return p.twin(); });
    fn([](Problem &p) { return p.fast(); });
}

TEST(ClassCeFwd, MatchesHandComputedValues)
{
    on_both([](auto run) {
        Problem p({3, 4, 1, 3, 0.3f}, HN_F32);
        const float ln2 = std::log(2.0f);
        /* powers 1, 2, 1: p = 1/4, 1/2, 1/4; row 1 is ignored; row 2 is flat: p = 1/3 */
        p.logits.assign({50, 0, ln2, 0, 60, 1, 2, 3, 70, 5, 5, 5});
        p.labels = {2, HN_LABEL_IGNORED, 3};
        const Result r = run(p);
        /* 0.7 ln 2 + 0.1 (ln 4 + ln 2 + ln 4) */
        const float first = 0.7f * ln2 + 0.1f * 5 * ln2, third = std::log(3.0f);
        EXPECT_NEAR(r.row_loss[0], first, 1e-6f);
        EXPECT_EQ(r.row_loss[1], 0);
        EXPECT_NEAR(r.row_loss[2], third, 1e-6f);
        EXPECT_NEAR(r.loss[0], 10 + first + third, 2e-6f);
        EXPECT_EQ(r.count[0], 3 + 2);
        EXPECT_EQ(r.hits[0], 2 + 1);
        EXPECT_EQ(r.prediction, (std::vector<int32_t>{2, 3, 1})); /* of equals the first */
        const float third_p = 1.0f / 3;
        EXPECT_LT(
            max_abs(r.dlogits, std::vector<float>{0, 0.15f, -0.3f, 0.15f, 0, 0, 0, 0, 0,
                                                  third_p - 0.1f, third_p - 0.1f, third_p - 0.8f}),
            1e-7);
    });
}

TEST(ClassCeFwd, EqualsPyTorch)
{
    const Golden cases = Golden::load("tests/golden/loss.json");
    const Golden list = cases["class_ce"];
    ASSERT_GT(list.size(), 0u);
    for (size_t i = 0; i < list.size(); i++)
        on_both([&](auto run) {
            const Golden c = list.at(i);
            Problem p({c["rows"].integer(), c["classes"].integer(), c["first_class"].integer(),
                       c["n_classes"].integer(), c["smoothing"].number()},
                      HN_F32);
            p.logits.assign(c["logits"].numbers());
            p.labels = c["labels"].integers();
            const Result r = run(p);
            EXPECT_NEAR(r.loss[0], 10 + c["loss"].number(), 2e-5f); /* fp32 sum of about 30 */
            EXPECT_EQ(r.count[0], 3 + c["count"].number());
            EXPECT_EQ(r.hits[0], 2 + c["hits"].number());
            EXPECT_EQ(r.prediction, c["prediction"].integers());
            EXPECT_LT(rel_l2(r.dlogits, c["dlogits"].numbers()), 1e-6);
        });
}

TEST(ClassCeFwd, StaysFiniteForLargeLogitsAndTakesNaNForTheLargest)
{
    on_both([](auto run) {
        Problem p({2, 3, 0, 0, 0}, HN_F32);
        p.logits.assign({1000, -1000, 0, NAN, 5, 6});
        p.labels = {1, 2};
        Result r = run(p);
        EXPECT_EQ(r.row_loss[0], 2000);
        EXPECT_TRUE(std::isnan(r.row_loss[1]) && std::isnan(r.loss[0]));
        EXPECT_EQ(r.prediction, (std::vector<int32_t>{0, 0}));
        EXPECT_EQ(r.hits[0], 2);
    });
}

TEST(ClassCeFwd, OutputsMayBeLeftOut)
{
    on_both([](auto run) {
        Problem all({7, 10, 2, 5, 0.1f}, HN_F32);
        const Result want = run(all);
        Problem some({7, 10, 2, 5, 0.1f}, HN_F32);
        auto a = some.args();
        a.loss_sum = a.count = a.hits = nullptr, a.row_loss = nullptr, a.prediction = nullptr;
        Scratch scratch(hn_class_ce_fast_scratch(&a));
        EXPECT_HN_OK(hn_class_ce_fast(&a, scratch.data()));
        EXPECT_LT(rel_l2(some.dlogits.values(), want.dlogits), 1e-6);
        Problem loss({7, 10, 2, 5, 0.1f}, HN_F32);
        a = loss.args();
        a.dlogits = nullptr, a.prediction = nullptr;
        EXPECT_HN_OK(hn_class_ce_cpu(&a));
        EXPECT_NEAR(loss.loss.host()[0], want.loss[0], 1e-5f);
        EXPECT_TRUE(std::isnan(loss.dlogits.values()[0]));
    });
}

TEST(ClassCeFwd, RefusesWhatTheContractExcludes)
{
    Problem p({4, 10, 2, 5, 0.1f}, HN_F32);
    const auto good = p.args();
    const auto refused = [&](auto change, hn_status code, const char *part) {
        auto a = good;
        change(a);
        Scratch scratch(hn_class_ce_fast_scratch(&good));
        EXPECT_HN_FAIL(hn_class_ce_cpu(&a), code, part);
        EXPECT_HN_FAIL(hn_class_ce_fast(&a, scratch.data()), code, part);
    };
    using A = hn_class_ce_args;
    refused([](A &a) { a.logits = nullptr; }, HN_ERR_ARG, "logits");
    refused([](A &a) { a.labels = nullptr; }, HN_ERR_ARG, "labels");
    refused([](A &a) { a.dtype = HN_F16; }, HN_ERR_UNSUPPORTED, "class_ce");
    refused([](A &a) { a.ld_logits = 9; }, HN_ERR_SHAPE, "logits");
    refused([](A &a) { a.ld_dlogits = 9; }, HN_ERR_SHAPE, "dlogits");
    refused([](A &a) { a.n_classes = 9; }, HN_ERR_SHAPE, "columns from 2 on, 9");
    refused([](A &a) { a.first_class = 10, a.n_classes = 0; }, HN_ERR_SHAPE, "columns from 10");
    refused([](A &a) { a.first_class = -1; }, HN_ERR_SHAPE, "columns from -1");
    refused([](A &a) { a.smoothing = 1.5f; }, HN_ERR_ARG, "smoothing 1.5");
    refused([](A &a) { a.smoothing = NAN; }, HN_ERR_ARG, "smoothing");
    p.labels[3] = 7;
    refused([](A &) {}, HN_ERR_ARG, "label 7 of row 3 is neither 2 to 6 nor -100");
    p.labels[3] = -1;
    refused([](A &) {}, HN_ERR_ARG, "label -1 of row 3");
    EXPECT_TRUE(std::isnan(p.dlogits.values()[0])) << "wrote before all checks passed";
    EXPECT_EQ(p.loss.host()[0], 10);
}

/* Emits the row on persistent inputs of these types; ndim 0: absent. */
class ClassCeRow : public Graph {
  protected:
    hn_attr attr = {};
    hn_tensor *out[HN_MAX_OUT] = {};
    hn_status row(const std::vector<hn_type> &types, bool training = false)
    {
        hn_tensor *in[HN_MAX_IN] = {};
        for (size_t k = 0; k < types.size(); k++) {
            const std::string name = "in" + std::to_string(number_++);
            if (types[k].ndim == 0) continue;
            EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_INPUT, name.c_str(), &types[k], &in[k]));
        }
        if (training) in[0]->needs_grad = true;
        return hn_emit(graph(("g" + std::to_string(number_)).c_str(), training), HN_OP_CLASS_CE,
                       "head", in, &attr, out);
    }

  private:
    int number_ = 0;
};

TEST_F(ClassCeRow, GivesTheTypesOfItsOutputs)
{
    const hn_type one = hn_type_1d(HN_F32, 1), labels = hn_type_1d(HN_I32, 6);
    ASSERT_HN_OK(row({{HN_BF16, 4, {6, 1, 1, 10}, 16}, labels, one, one, one}, true));
    const hn_type want = {HN_BF16, 4, {6, 1, 1, 10}};
    ASSERT_NE(out[3], nullptr);
    EXPECT_TRUE(hn_type_same(&out[3]->type, &want));
    EXPECT_EQ(hn_type_ld(&out[3]->type), 16);
    EXPECT_EQ(out[4], nullptr);
    attr.class_ce.want_row_loss = attr.class_ce.want_prediction = true;
    ASSERT_HN_OK(row({{HN_F32, 2, {6, 10}}, labels, one, one}));
    EXPECT_EQ(out[2], nullptr); /* no hits */
    EXPECT_EQ(out[3], nullptr); /* no gradient outside training */
    EXPECT_EQ(out[5]->type.dtype, HN_I32);
}

TEST_F(ClassCeRow, RefusesByName)
{
    const hn_type one = hn_type_1d(HN_F32, 1), labels = hn_type_1d(HN_I32, 6);
    EXPECT_HN_FAIL(row({{HN_F16, 2, {6, 10}}, labels, one, one}), HN_ERR_UNSUPPORTED, "head");
    EXPECT_HN_FAIL(row({{HN_F32, 2, {7, 10}}, labels, one, one}), HN_ERR_SHAPE, "labels [rows]");
    EXPECT_HN_FAIL(row({{HN_F32, 2, {6, 10}}, labels, one, labels}), HN_ERR_SHAPE, "count");
    EXPECT_HN_FAIL(row({{HN_F32, 2, {6, 10}}, labels, one}), HN_ERR_ARG, "operand 3 is missing");
    attr.class_ce.first_class = 8, attr.class_ce.n_classes = 3;
    EXPECT_HN_FAIL(row({{HN_F32, 2, {6, 10}}, labels, one, one}), HN_ERR_SHAPE, "range of classes");
}

/* ---- replicas ---- */

/* Sums of a call with replicas, each behind what the test begins with; counts lie kApart apart. */
constexpr int64_t kGroups = 3, kApart = 5;

Shape part_of(const Shape &s) { return {s.rows / kGroups, s.classes, s.first, s.n, s.smoothing}; }

struct GroupSums {
    std::vector<float> loss = {10, 20, 30}, hits = {2, 3, 4};
    std::vector<float> count = std::vector<float>(2 * kApart + 1, -1);
    GroupSums() { count[0] = 3, count[kApart] = 4, count[2 * kApart] = 5; }
};

/* One call on all rows gives the sums and gradients of a call on each group. */
template <class Run>
void expect_sums_of_groups(const Shape &s, Run run)
{
    Problem all(s, HN_F32);
    const GroupSums got = run(all);
    const auto logits = all.logits.values(), dlogits = all.dlogits.values();
    for (int64_t g = 0; g < kGroups; g++) {
        Problem part(part_of(s), HN_F32);
        const size_t n = (size_t)(part.s.rows * s.classes), at = (size_t)g * n;
        part.logits.assign({logits.begin() + (long)at, logits.begin() + (long)(at + n)});
        std::copy_n(all.labels.begin() + g * part.s.rows, part.s.rows, part.labels.begin());
        const Result want = part.twin();
        const size_t k = (size_t)g;
        EXPECT_NEAR(got.loss[k] - 10 * (float)g, want.loss[0], 1e-4);
        EXPECT_EQ(got.count[k * kApart] - (float)g, want.count[0]);
        EXPECT_EQ(got.hits[k] - (float)g, want.hits[0]);
        const std::vector<float> of(dlogits.begin() + (long)at, dlogits.begin() + (long)(at + n));
        EXPECT_LT(rel_l2(of, want.dlogits), 2e-6);
    }
    EXPECT_EQ(got.count[1], -1);
}

/* A block a group; several blocks of warps; a block a row. */
const Shape kGroupShapes[] = {{96, 62, 0, 0, 0}, {300, 10, 0, 0, 0.1f}, {9, 300, 20, 270, 0}};

TEST(ClassCeReplicas, HaveSumsOfTheirOwn)
{
    for (const Shape &s : kGroupShapes)
        for (const bool fast : {false, true})
            expect_sums_of_groups(s, [&](Problem &p) {
                GroupSums sums;
                auto a = p.args();
                a.replicas = kGroups, a.count_stride = kApart;
                a.loss_sum = sums.loss.data(), a.count = sums.count.data();
                a.hits = sums.hits.data();
                Scratch scratch(hn_class_ce_fast_scratch(&a));
                if (fast) {
                    EXPECT_HN_OK(hn_class_ce_fast(&a, scratch.data()));
                } else {
                    EXPECT_HN_OK(hn_class_ce_cpu(&a));
                }
                return sums;
            });
}

TEST(ClassCeReplicas, AreRefusedUnlessTheyDivideTheRows)
{
    Problem p({7, 3, 0, 0, 0}, HN_F32);
    auto a = p.args();
    a.replicas = 2, a.count_stride = 1;
    EXPECT_HN_FAIL(hn_class_ce_check(&a), HN_ERR_SHAPE, "7 rows of 2 replicas");
    a.replicas = 7, a.count_stride = 0;
    EXPECT_HN_FAIL(hn_class_ce_check(&a), HN_ERR_SHAPE, "replicas of count are 0 elements apart");
}

#ifdef HONE_CUDA

struct OnDevice {
    Problem p;
    DeviceMatrix logits, dlogits;
    DeviceArray<int32_t> labels, prediction;
    DeviceArray<float> loss, count, hits, row_loss;

    OnDevice(const Shape &s, hn_dtype t)
        : p(s, t), logits(t, s.rows, s.classes, 5), dlogits(t, s.rows, s.classes, 2),
          labels(p.labels), prediction((size_t)s.rows), loss(std::vector<float>{10}),
          count(std::vector<float>{3}), hits(std::vector<float>{2}), row_loss((size_t)s.rows)
    {
        logits.assign(p.logits.values());
    }
    hn_class_ce_args args()
    {
        auto a = p.args();
        a.logits = logits.data(), a.labels = labels.data(), a.dlogits = dlogits.data();
        a.loss_sum = loss.data(), a.count = count.data(), a.hits = hits.data();
        a.row_loss = row_loss.data(), a.prediction = prediction.data();
        return a;
    }
    void enqueue(hn_stream stream, void *scratch)
    {
        const auto a = args();
        EXPECT_HN_OK(hn_class_ce_cuda(&a, scratch, stream));
    }
    Result result()
    {
        return {loss.host(),      count.host(),    hits.host(),
                dlogits.values(), row_loss.host(), prediction.host()};
    }
    Result run()
    {
        const auto a = args();
        DeviceArray<unsigned char> scratch(hn_class_ce_cuda_scratch(&a));
        enqueue(nullptr, scratch.data());
        scratch.host();
        return result();
    }
};

class ClassCeCuda : public ::testing::TestWithParam<Shape> {};

TEST_P(ClassCeCuda, CudaMatchesCpu)
{
    HN_NEED_CUDA();
    for (const hn_dtype t : {HN_F32, HN_BF16}) {
        OnDevice d(GetParam(), t);
        expect_close(d.run(), d.p.twin(), t);
    }
}

TEST_P(ClassCeCuda, CudaRepeatsBitForBitAndRunsFromACapturedGraph)
{
    HN_NEED_CUDA();
    for (const hn_dtype t : {HN_F32, HN_BF16}) {
        OnDevice one(GetParam(), t), two(GetParam(), t), captured(GetParam(), t);
        const Result want = one.run();
        EXPECT_TRUE(two.run() == want);
        const auto a = captured.args();
        DeviceArray<unsigned char> scratch(hn_class_ce_cuda_scratch(&a));
        run_captured([&](hn_stream stream) { captured.enqueue(stream, scratch.data()); });
        EXPECT_TRUE(captured.result() == want);
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, ClassCeCuda, ::testing::ValuesIn(kShapes));

TEST(ClassCeCudaOptions, OutputsMayBeLeftOut)
{
    HN_NEED_CUDA();
    for (const int64_t rows : {7, 70}) {
        OnDevice all({rows, 10, 2, 5, 0.1f}, HN_F32), some({rows, 10, 2, 5, 0.1f}, HN_F32);
        const Result want = all.run();
        auto a = some.args();
        DeviceArray<unsigned char> scratch(hn_class_ce_cuda_scratch(&a));
        a.loss_sum = a.count = a.hits = nullptr, a.row_loss = nullptr, a.prediction = nullptr;
        EXPECT_HN_OK(hn_class_ce_cuda(&a, scratch.data(), nullptr));
        EXPECT_TRUE(same_bits(some.dlogits.values(), want.dlogits));
        OnDevice loss({rows, 10, 2, 5, 0.1f}, HN_F32);
        a = loss.args();
        a.dlogits = nullptr, a.prediction = nullptr;
        EXPECT_HN_OK(hn_class_ce_cuda(&a, scratch.data(), nullptr));
        EXPECT_TRUE(same_bits(loss.loss.host(), want.loss));
        EXPECT_TRUE(same_bits(loss.hits.host(), want.hits));
    }
}

TEST(ClassCeCudaOptions, ReplicasHaveSumsOfTheirOwn)
{
    HN_NEED_CUDA();
    for (const Shape &s : kGroupShapes)
        expect_sums_of_groups(s, [&](Problem &p) {
            OnDevice d(s, HN_F32);
            GroupSums sums;
            DeviceArray<float> loss(sums.loss), count(sums.count), hits(sums.hits);
            auto a = d.args();
            a.replicas = kGroups, a.count_stride = kApart;
            a.loss_sum = loss.data(), a.count = count.data(), a.hits = hits.data();
            DeviceArray<unsigned char> scratch(hn_class_ce_cuda_scratch(&a));
            EXPECT_HN_OK(hn_class_ce_cuda(&a, scratch.data(), nullptr));
            sums.loss = loss.host(), sums.count = count.host(), sums.hits = hits.host();
            p.dlogits.assign(d.dlogits.values());
            return sums;
        });
}

/* The device cannot report an error; the loss must tell, without a read outside the row. */
TEST(ClassCeCudaOptions, UnknownLabelGivesNaN)
{
    HN_NEED_CUDA();
    for (const int64_t classes : {10, 600})
        for (const int32_t label : {-1, 1, 7, INT32_MAX, INT32_MIN}) {
            OnDevice d({9, classes, 2, 5, 0}, HN_BF16);
            auto labels = d.p.labels;
            labels[3] = label;
            d.labels.assign(labels);
            const Result r = d.run();
            EXPECT_TRUE(std::isnan(r.loss[0]) && std::isnan(r.row_loss[3]));
            EXPECT_TRUE(std::isfinite(r.row_loss[2]) && std::isfinite(r.dlogits[3]));
        }
}

TEST(ClassCeCudaOptions, TakesNaNForTheLargest)
{
    HN_NEED_CUDA();
    for (const int64_t classes : {40, 300}) {
        OnDevice d({2, classes, 0, 0, 0}, HN_F32);
        auto z = d.p.logits.values();
        z[(size_t)classes - 2] = z[(size_t)classes - 1] = NAN;
        d.logits.assign(z);
        const Result r = d.run();
        EXPECT_EQ(r.prediction[0], (int32_t)classes - 2);
        EXPECT_TRUE(std::isnan(r.loss[0]));
    }
}
#endif

} // namespace
