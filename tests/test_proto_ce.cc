/* Queries against prototypes: hand values, PyTorch's numbers, other names for the classes, classes
 * without support, padding, norms of zero, replicas, errors. */
#include "kernels/loss/proto_ce.h"

#include <cfloat>

#include "golden_test.h"
#include "graph_test.h"
#include "kernel_test.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

struct Shape {
    int64_t replicas, support, queries, width, ways;
    int64_t rows() const { return replicas * (support + queries); }
    int64_t asked() const { return replicas * queries; }
};

/* Class `absent` has no support and no query; padding and a query without label are among them. */
std::vector<int32_t> labels_for(const Shape &s, int32_t absent = -1)
{
    std::vector<int32_t> classes, v;
    for (int32_t c = 0; c < s.ways; c++)
        if (c != absent) classes.push_back((int32_t)((c + 3) % s.ways));
    if (absent >= 0) std::erase(classes, absent), classes.push_back((absent + 1) % (int)s.ways);
    const auto n = (int64_t)classes.size();
    const auto name = [&](int64_t i) { return classes[(size_t)(i % n)]; };
    for (int64_t g = 0; g < s.replicas; g++) {
        for (int64_t j = 0; j < s.support; j++)
            v.push_back(j >= n && j % 5 == 2 ? HN_LABEL_IGNORED : name(j + g));
        for (int64_t i = 0; i < s.queries; i++) {
            const int64_t has = std::min(s.support, n);
            v.push_back(i % 7 == 5   ? HN_LABEL_IGNORED
                        : i % 7 == 6 ? HN_PROTO_UNLABELLED
                                     : name(i * 5 % has + g));
        }
    }
    return v;
}

struct Result {
    std::vector<float> loss, count, hits, dfeatures, logits;
    std::vector<int32_t> prediction;
    bool operator==(const Result &r) const
    {
        return same_bits(loss, r.loss) && same_bits(count, r.count) && same_bits(hits, r.hits) &&
               same_bits(dfeatures, r.dfeatures) && same_bits(logits, r.logits) &&
               prediction == r.prediction;
    }
};

std::vector<float> each(int64_t n, float first)
{
    std::vector<float> v;
    for (int64_t g = 0; g < n; g++) v.push_back(first + (float)g);
    return v;
}

/* Sums begin at 10, 3 and 2 in the first replica, one more in each that follows. */
struct Problem {
    const Shape s;
    Matrix features, dfeatures, logits;
    std::vector<int32_t> labels;
    GuardedArray<float> loss, count, hits;
    GuardedArray<int32_t> prediction;
    float scale = 10, offset = 0.25f;

    Problem(const Shape &shape, hn_dtype t)
        : s(shape), features(t, s.rows(), s.width, 5), dfeatures(t, s.rows(), s.width, 2),
          logits(HN_F32, s.asked(), s.ways, 3), labels(labels_for(s)), loss(each(s.replicas, 10)),
          count(each(s.replicas, 3)), hits(each(s.replicas, 2)), prediction((size_t)s.asked())
    {
        auto x = normal_f32((size_t)(s.rows() * s.width), 1);
        for (size_t i = 0; i < x.size(); i++) /* rows of a class have something in common */
            x[i] += std::cos((float)(i % (size_t)s.width) * (float)labels[i / (size_t)s.width]);
        features.assign(x);
    }
    hn_proto_ce_args args()
    {
        hn_proto_ce_args a = {};
        a.features = features.data(), a.labels = labels.data(), a.dfeatures = dfeatures.data();
        a.loss_sum = loss.data(), a.count = count.data(), a.hits = hits.data();
        a.prediction = prediction.data(), a.logits = logits.f32();
        a.replicas = s.replicas, a.support = s.support, a.queries = s.queries;
        a.width = s.width, a.ways = s.ways;
        a.ld_features = features.ld(), a.ld_dfeatures = dfeatures.ld(), a.ld_logits = logits.ld();
        a.count_stride = 1, a.scale = scale, a.offset = offset, a.dtype = features.dtype();
        return a;
    }
    Result result()
    {
        return {loss.host(),        count.host(),    hits.host(),
                dfeatures.values(), logits.values(), prediction.host()};
    }
    Result run()
    {
        const auto a = args();
        Scratch scratch(hn_proto_ce_cpu_scratch(&a));
        EXPECT_HN_OK(hn_proto_ce_cpu(&a, scratch.data()));
        return result();
    }
};

/* Two directions in the plane; the gradient is orthogonal to each vector. */
TEST(ProtoCe, MatchesHandComputedValues)
{
    Problem p({1, 3, 2, 2, 2}, HN_F32);
    p.scale = 2, p.offset = 0.5f;
    /* prototypes (2, 0) of class 1, from two rows, and (0, 4) of class 0 */
    p.features.assign({1, 0, 3, 0, 0, 4, /* queries */ 5, 0, 0, 2});
    p.labels = {1, 1, 0, 1, HN_PROTO_UNLABELLED};
    const Result r = p.run();
    EXPECT_LT(max_abs(r.logits, std::vector<float>{1, 3, 3, 1}), 1e-6);
    const float wrong = 1 / (1 + std::exp(2.0f)); /* share of class 0 in query 0 */
    EXPECT_NEAR(r.loss[0], 10 - std::log(1 - wrong), 1e-6);
    EXPECT_EQ(r.count[0], 3 + 1);
    EXPECT_EQ(r.hits[0], 2 + 1);
    EXPECT_EQ(r.prediction, (std::vector<int32_t>{1, 0}));
    /* g = -2 wrong at class 1, 2 wrong at class 0; query: 2 wrong (0, 1) / 5; prototype of class
     * 1: along u = (1, 0), nothing is left; of class 0: 2 wrong (1, 0) / 4 */
    EXPECT_LT(
        max_abs(r.dfeatures, std::vector<float>{0, 0, 0, 0, wrong / 2, 0, 0, 0.4f * wrong, 0, 0}),
        1e-7);
}

TEST(ProtoCe, EqualsPyTorch)
{
    const Golden file = Golden::load("tests/golden/episode.json");
    const Golden list = file["proto_ce"];
    ASSERT_GT(list.size(), 0u);
    for (size_t i = 0; i < list.size(); i++) {
        const Golden c = list.at(i);
        Problem p({c["replicas"].integer(), c["support"].integer(), c["queries"].integer(),
                   c["width"].integer(), c["ways"].integer()},
                  HN_F32);
        p.scale = c["scale"].number(), p.offset = c["offset"].number();
        p.features.assign(c["features"].numbers());
        p.labels = c["labels"].integers();
        const Result r = p.run();
        for (size_t g = 0; g < (size_t)p.s.replicas; g++) {
            EXPECT_NEAR(r.loss[g], 10 + g + c["loss"].at(g).number(), 1e-5);
            EXPECT_EQ(r.count[g], 3 + g + c["count"].at(g).integer());
            EXPECT_EQ(r.hits[g], 2 + g + c["hits"].at(g).integer());
        }
        EXPECT_EQ(r.prediction, c["prediction"].integers());
        const Golden logits = c["logits"];
        for (size_t k = 0; k < r.logits.size(); k++) {
            if (logits.at(k).is_null())
                EXPECT_EQ(r.logits[k], -FLT_MAX) << k;
            else
                EXPECT_NEAR(r.logits[k], logits.at(k).number(), 1e-5) << k;
        }
        EXPECT_LT(rel_l2(r.dfeatures, c["dfeatures"].numbers()), 1e-6);
    }
}

/* The classes have other names and nothing but their names changes, bit for bit. */
template <class Make>
void expect_names_do_not_matter(Make make)
{
    for (const Shape &s : {Shape{3, 25, 30, 19, 5}, Shape{2, 90, 40, 7, 64}}) {
        auto one = make(s), other = make(s);
        std::vector<int32_t> name; /* of each class */
        for (int64_t c = 0; c < s.ways; c++) name.push_back((int32_t)((c * 3 + 2) % s.ways));
        auto labels = labels_for(s);
        for (auto &y : labels)
            if (y >= 0) y = name[(size_t)y];
        other->set_labels(labels);
        const Result a = one->run(), b = other->run();
        EXPECT_TRUE(same_bits(a.loss, b.loss) && same_bits(a.hits, b.hits));
        EXPECT_TRUE(same_bits(a.dfeatures, b.dfeatures));
        EXPECT_GT(a.hits[0], 2) << "nothing was right: the test says little";
        for (size_t i = 0; i < a.prediction.size(); i++) {
            const int32_t c = a.prediction[i];
            EXPECT_EQ(b.prediction[i], c < 0 ? c : name[(size_t)c]);
            for (size_t k = 0; c >= 0 && k < name.size(); k++)
                EXPECT_EQ(b.logits[i * name.size() + (size_t)name[k]],
                          a.logits[i * name.size() + k]);
        }
    }
}

struct OnHost : Problem {
    explicit OnHost(const Shape &shape) : Problem(shape, HN_F32) {}
    void set_features(const std::vector<float> &v) { features.assign(v); }
    void set_labels(const std::vector<int32_t> &v) { labels = v; }
};

TEST(ProtoCe, NamesOfClassesDoNotMatter)
{
    expect_names_do_not_matter([](const Shape &s) { return std::make_unique<OnHost>(s); });
}

TEST(ProtoCe, OfEqualLogitsTheClassThatCameFirstWins)
{
    Problem p({1, 3, 2, 2, 3}, HN_F32);
    p.features.assign({1, 1, 1, 1, -1, -1, /* queries */ 2, 2, -3, -3});
    p.labels = {2, 0, 1, 0, 1};
    const Result r = p.run();
    EXPECT_EQ(r.prediction, (std::vector<int32_t>{2, 1}));
    EXPECT_EQ(r.hits[0], 2 + 1);
}

TEST(ProtoCe, ReplicasAreEpisodesOfTheirOwn)
{
    const Shape s = {3, 12, 9, 8, 4};
    Problem all(s, HN_F32);
    const Result got = all.run();
    const auto features = all.features.values();
    for (int64_t g = 0; g < 3; g++) {
        Problem one({1, 12, 9, 8, 4}, HN_F32);
        const auto part = [g](const auto &v) {
            const auto n = (ptrdiff_t)(v.size() / 3);
            return std::decay_t<decltype(v)>(v.begin() + g * n, v.begin() + (g + 1) * n);
        };
        one.features.assign(part(features));
        one.labels = part(all.labels);
        const Result want = one.run();
        const auto k = (size_t)g;
        EXPECT_NEAR(got.loss[k] - (float)g, want.loss[0], 2e-6); /* added to another number */
        EXPECT_EQ(got.count[k] - (float)g, want.count[0]);
        EXPECT_EQ(got.hits[k] - (float)g, want.hits[0]);
        EXPECT_EQ(part(got.prediction), want.prediction);
        EXPECT_TRUE(same_bits(part(got.dfeatures), want.dfeatures));
        EXPECT_TRUE(same_bits(part(got.logits), want.logits));
    }
}

/* A prototype of rows that cancel, a query of zeros, an episode of padding. */
template <class Problem>
void expect_edges(Problem &&p)
{
    std::vector<float> x(2 * 6 * 2, 7.0f);
    const float first[] = {1, 2, -1, -2, 3, 4, /* queries */ 0, 0, 2, 1, 5, 6};
    std::copy(std::begin(first), std::end(first), x.begin());
    p.set_features(x);
    const int32_t no = HN_LABEL_IGNORED;
    p.set_labels({0, 0, 1, 0, 0, no, no, no, no, HN_PROTO_UNLABELLED, no, no});
    const Result r = p.run();
    /* cosine 0 with a prototype of zeros; of query 0 with everything */
    const float c = 10 * 10 / (5 * std::sqrt(5.0f)) + 2.5f; /* query 1 and class 1 */
    const float want[] = {2.5f, 2.5f, 2.5f, c, 0, 0};
    for (size_t i = 0; i < 6; i++) EXPECT_NEAR(r.logits[i], want[i], 1e-5) << i;
    const float power = std::exp(c - 2.5f);
    EXPECT_NEAR(r.loss[0], 10 + std::log(2.0f) + std::log(1 + power), 2e-5);
    EXPECT_EQ(r.count, (std::vector<float>{5, 4}));
    EXPECT_EQ(r.hits, (std::vector<float>{2 + 1, 3}));
    EXPECT_EQ(r.prediction, (std::vector<int32_t>{0, 1, -1, -1, -1, -1}));
    EXPECT_EQ(r.loss[1], 11);
    for (size_t i = 6; i < 12; i++) EXPECT_EQ(r.logits[i], i < 8 ? -FLT_MAX : 0.0f);
    for (size_t i = 12; i < 24; i++) EXPECT_EQ(r.dfeatures[i], 0) << i;
    EXPECT_EQ(r.dfeatures[10], 0);
    /* query 0: g = (-5, 5) along the prototypes (0, 0) and (0.6, 0.8), times 1e8 */
    EXPECT_NEAR(r.dfeatures[6], 3e8, 1e3);
    EXPECT_NEAR(r.dfeatures[7], 4e8, 1e3);
    /* support of class 0, both rows alike: 1e8 / 2 sum of g u, of query 1 alone, g = -10 p_1 */
    const float g = -10 * power / (1 + power) * 0.5e8f / std::sqrt(5.0f);
    EXPECT_NEAR(r.dfeatures[0] / (2 * g), 1, 1e-5);
    EXPECT_NEAR(r.dfeatures[3] / g, 1, 1e-5);
}

TEST(ProtoCe, TakesNormsOfZeroAndEpisodesOfPadding) { expect_edges(OnHost({2, 3, 3, 2, 2})); }

/* Episode 0: a query of NaN, whose class has the first slot, and one that is whole. Episode 1: the
 * prototype of the first slot is NaN, so the other class is the largest. Episode 2: both are. */
template <class Problem>
void expect_nan_is_no_hit(Problem &&p)
{
    const float n = NAN;
    p.set_features({1, 0, 0, 1, n, n, 0, 2, n, 0, 0, 1, 1, 0, 0, 1, n, 0, 0, n, 1, 0, 0, 1});
    p.set_labels({0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1});
    const Result r = p.run();
    EXPECT_EQ(r.prediction, (std::vector<int32_t>{-1, 1, 1, 1, -1, -1}));
    EXPECT_EQ(r.count, (std::vector<float>{3 + 2, 4 + 2, 5 + 2}));
    EXPECT_EQ(r.hits, (std::vector<float>{2 + 1, 3 + 1, 4 + 0}));
    for (const float loss : r.loss) EXPECT_TRUE(std::isnan(loss));
    const bool nan[] = {true, true, false, false, true, false, true, false, true, true, true, true};
    for (size_t i = 0; i < 12; i++) EXPECT_EQ(std::isnan(r.logits[i]), nan[i]) << i;
}

TEST(ProtoCe, ANanIsNoHit) { expect_nan_is_no_hit(OnHost({3, 2, 2, 2, 2})); }

TEST(ProtoCe, OutputsMayBeLeftOut)
{
    const Shape s = {2, 9, 8, 6, 4};
    Problem all(s, HN_F32), some(s, HN_F32), loss(s, HN_F32);
    const Result want = all.run();
    auto a = some.args();
    Scratch scratch(hn_proto_ce_cpu_scratch(&a));
    a.loss_sum = a.count = a.hits = nullptr, a.prediction = nullptr, a.logits = nullptr;
    EXPECT_HN_OK(hn_proto_ce_cpu(&a, scratch.data()));
    EXPECT_TRUE(same_bits(some.dfeatures.values(), want.dfeatures));
    a = loss.args();
    a.dfeatures = nullptr, a.logits = nullptr, a.prediction = nullptr;
    EXPECT_HN_OK(hn_proto_ce_cpu(&a, scratch.data()));
    EXPECT_TRUE(same_bits(loss.loss.host(), want.loss));
}

TEST(ProtoCe, RefusesWhatTheContractExcludes)
{
    Problem p({2, 4, 3, 6, 3}, HN_F32);
    p.labels = {0, 1, 0, 1, 0, 1, 0, /* second episode */ 2, 1, 2, 1, 2, 1, 2};
    const auto good = p.args();
    Scratch scratch(hn_proto_ce_cpu_scratch(&good));
    const auto refused = [&](auto change, hn_status code, const char *part) {
        auto a = good;
        change(a);
        EXPECT_HN_FAIL(hn_proto_ce_cpu(&a, scratch.data()), code, part);
    };
    using A = hn_proto_ce_args;
    refused([](A &a) { a.features = nullptr; }, HN_ERR_ARG, "features");
    refused([](A &a) { a.labels = nullptr; }, HN_ERR_ARG, "labels");
    refused([](A &a) { a.dtype = HN_F16; }, HN_ERR_UNSUPPORTED, "proto_ce");
    refused([](A &a) { a.ld_features = 5; }, HN_ERR_SHAPE, "features");
    refused([](A &a) { a.ld_dfeatures = 5; }, HN_ERR_SHAPE, "dfeatures");
    refused([](A &a) { a.ld_logits = 2; }, HN_ERR_SHAPE, "logits");
    refused([](A &a) { a.support = 0; }, HN_ERR_SHAPE, "support 0");
    refused([](A &a) { a.queries = 0; }, HN_ERR_SHAPE, "queries 0");
    refused([](A &a) { a.replicas = (int64_t)1 << 30; }, HN_ERR_SHAPE, "rows 7516192768");
    refused([](A &a) { a.ways = 65; }, HN_ERR_SHAPE, "65 ways");
    refused([](A &a) { a.width = (int64_t)1 << 24; }, HN_ERR_SHAPE, "width 16777216");
    refused([](A &a) { a.count_stride = 0; }, HN_ERR_SHAPE, "count");
    refused([](A &a) { a.scale = 0; }, HN_ERR_ARG, "scale 0");
    refused([](A &a) { a.offset = NAN; }, HN_ERR_ARG, "offset nan");
    EXPECT_HN_FAIL(hn_proto_ce_cpu(&good, nullptr), HN_ERR_ARG, "scratch");
    const auto wrong = [&](size_t row, int32_t label, const char *part) {
        const int32_t before = p.labels[row];
        p.labels[row] = label;
        refused([](A &) {}, HN_ERR_ARG, part);
        p.labels[row] = before;
    };
    wrong(8, 3, "label 3 of row 8, support, is not 0 to 2 or -100");
    wrong(8, HN_PROTO_UNLABELLED, "label -1 of row 8");
    wrong(11, -2, "label -2 of row 11, a query, is not 0 to 2, -1 or -100");
    wrong(12, 0, "query row 12 has label 0, a class without support");
    EXPECT_TRUE(std::isnan(p.dfeatures.values()[0])) << "wrote before all checks passed";
    EXPECT_EQ(p.loss.host()[0], 10);
}

/* Emits the row on persistent inputs of these types. */
class ProtoCeRow : public Graph {
  protected:
    hn_attr attr = {};
    hn_tensor *out[HN_MAX_OUT] = {};
    void SetUp() override
    {
        Graph::SetUp();
        attr.proto_ce.support = 3, attr.proto_ce.ways = 2, attr.proto_ce.scale = 10;
    }
    hn_status row(const std::vector<hn_type> &types, bool training = false)
    {
        hn_tensor *in[HN_MAX_IN] = {};
        for (size_t k = 0; k < types.size(); k++) {
            const std::string name = "in" + std::to_string(number_++);
            EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_INPUT, name.c_str(), &types[k], &in[k]));
        }
        if (training) in[0]->needs_grad = true;
        return hn_emit(graph(("g" + std::to_string(number_)).c_str(), training), HN_OP_PROTO_CE,
                       "head", in, &attr, out);
    }

  private:
    int number_ = 0;
};

TEST_F(ProtoCeRow, GivesTheTypesOfItsOutputs)
{
    const hn_type sums = hn_type_1d(HN_F32, 2), labels = hn_type_1d(HN_I32, 10);
    ASSERT_HN_OK(row({{HN_BF16, 4, {10, 1, 1, 6}, 16}, labels, sums, sums, sums}, true));
    const hn_type want = {HN_BF16, 4, {10, 1, 1, 6}};
    ASSERT_NE(out[3], nullptr);
    EXPECT_TRUE(hn_type_same(&out[3]->type, &want));
    EXPECT_EQ(hn_type_ld(&out[3]->type), 8);
    EXPECT_EQ(out[4], nullptr);
    attr.proto_ce.want_prediction = attr.proto_ce.want_logits = true;
    ASSERT_HN_OK(row({{HN_F32, 2, {10, 6}}, labels, sums, sums}));
    EXPECT_EQ(out[3], nullptr); /* no gradient outside training */
    const hn_type prediction = hn_type_1d(HN_I32, 4), logits = hn_type_2d(HN_F32, 4, 2);
    EXPECT_TRUE(hn_type_same(&out[4]->type, &prediction));
    EXPECT_TRUE(hn_type_same(&out[5]->type, &logits));
}

TEST_F(ProtoCeRow, RefusesByName)
{
    const hn_type sums = hn_type_1d(HN_F32, 2), labels = hn_type_1d(HN_I32, 10);
    const hn_type features = {HN_F32, 2, {10, 6}};
    EXPECT_HN_FAIL(row({{HN_F16, 2, {10, 6}}, labels, sums, sums}), HN_ERR_UNSUPPORTED, "head");
    EXPECT_HN_FAIL(row({{HN_F32, 2, {9, 6}}, labels, sums, sums}), HN_ERR_SHAPE, "labels [rows]");
    EXPECT_HN_FAIL(row({features, labels, sums, labels}), HN_ERR_SHAPE, "count");
    const hn_type three = hn_type_1d(HN_F32, 3);
    EXPECT_HN_FAIL(row({features, labels, three, three}), HN_ERR_SHAPE, "no equal groups");
    attr.proto_ce.support = 5;
    EXPECT_HN_FAIL(row({features, labels, sums, sums}), HN_ERR_SHAPE, "5 rows, 5 of them support");
    attr.proto_ce.support = 3, attr.proto_ce.ways = 65;
    EXPECT_HN_FAIL(row({features, labels, sums, sums}), HN_ERR_SHAPE, "65 ways");
}

#ifdef HONE_CUDA

std::ostream &operator<<(std::ostream &o, const Shape &s)
{
    return o << s.replicas << " of " << s.support << " + " << s.queries << " x " << s.width << ", "
             << s.ways << " ways";
}

struct OnDevice {
    Problem p;
    DeviceMatrix features, dfeatures, logits;
    DeviceArray<int32_t> labels, prediction;
    DeviceArray<float> loss, count, hits;

    explicit OnDevice(const Shape &s, hn_dtype t = HN_F32)
        : p(s, t), features(t, s.rows(), s.width, 5), dfeatures(t, s.rows(), s.width, 2),
          logits(HN_F32, s.asked(), s.ways, 3), labels(p.labels), prediction((size_t)s.asked()),
          loss(p.loss.host()), count(p.count.host()), hits(p.hits.host())
    {
        features.assign(p.features.values());
    }
    void set_features(const std::vector<float> &v) { features.assign(v); }
    void set_labels(const std::vector<int32_t> &v) { labels.assign(v); }
    hn_proto_ce_args args()
    {
        auto a = p.args();
        a.features = features.data(), a.labels = labels.data(), a.dfeatures = dfeatures.data();
        a.loss_sum = loss.data(), a.count = count.data(), a.hits = hits.data();
        a.prediction = prediction.data(), a.logits = logits.f32();
        return a;
    }
    Result result()
    {
        return {loss.host(),        count.host(),    hits.host(),
                dfeatures.values(), logits.values(), prediction.host()};
    }
    Result run()
    {
        const auto a = args();
        DeviceArray<unsigned char> scratch(hn_proto_ce_cuda_scratch(&a));
        EXPECT_HN_OK(hn_proto_ce_cuda(&a, scratch.data(), nullptr));
        scratch.host();
        return result();
    }
};

/* The smallest; a pack of 4 slots in part, whole and one more; two slots a lane; widths of a part
 * of a warp's lanes and one past; more than 512 elements; real ones; sums in scratch. */
const Shape kShapes[] = {{1, 1, 1, 1, 1},       {2, 6, 5, 3, 3},      {3, 4, 17, 33, 4},
                         {2, 11, 40, 31, 5},    {1, 50, 9, 64, 33},   {2, 70, 20, 40, 64},
                         {9, 25, 75, 192, 5},   {4, 25, 25, 384, 5},  {2, 100, 33, 200, 40},
                         {1, 600, 700, 65, 20}, {3, 25, 900, 192, 5}, {1, 128, 64, 384, 64}};

class ProtoCeCuda : public ::testing::TestWithParam<Shape> {};

TEST_P(ProtoCeCuda, CudaMatchesCpu)
{
    HN_NEED_CUDA();
    for (const hn_dtype t : {HN_F32, HN_BF16}) {
        OnDevice d(GetParam(), t);
        const Result got = d.run(), want = d.p.run();
        /* fp32 cosines times 10; sums in fp32 of up to 900 rows */
        EXPECT_LT(rel_l2(got.loss, want.loss), 5e-6);
        EXPECT_EQ(got.count, want.count);
        EXPECT_EQ(got.hits, want.hits);
        EXPECT_EQ(got.prediction, want.prediction);
        EXPECT_LT(rel_l2(got.logits, want.logits), 5e-6);
        EXPECT_LT(rel_l2(got.dfeatures, want.dfeatures), t == HN_F32 ? 2e-5 : 3e-3);
    }
}

TEST_P(ProtoCeCuda, CudaRepeatsBitForBitAndRunsFromACapturedGraph)
{
    HN_NEED_CUDA();
    for (const hn_dtype t : {HN_F32, HN_BF16}) {
        OnDevice one(GetParam(), t), two(GetParam(), t), captured(GetParam(), t);
        const Result want = one.run();
        EXPECT_TRUE(two.run() == want);
        const auto a = captured.args();
        DeviceArray<unsigned char> scratch(hn_proto_ce_cuda_scratch(&a));
        run_captured(
            [&](hn_stream stream) { EXPECT_HN_OK(hn_proto_ce_cuda(&a, scratch.data(), stream)); });
        EXPECT_TRUE(captured.result() == want);
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, ProtoCeCuda, ::testing::ValuesIn(kShapes));

TEST(ProtoCeCudaOptions, NamesOfClassesDoNotMatter)
{
    HN_NEED_CUDA();
    expect_names_do_not_matter([](const Shape &s) { return std::make_unique<OnDevice>(s); });
}

TEST(ProtoCeCudaOptions, TakesNormsOfZeroAndEpisodesOfPadding)
{
    HN_NEED_CUDA();
    expect_edges(OnDevice({2, 3, 3, 2, 2}));
}

TEST(ProtoCeCudaOptions, ANanIsNoHit)
{
    HN_NEED_CUDA();
    expect_nan_is_no_hit(OnDevice({3, 2, 2, 2, 2}));
}

TEST(ProtoCeCudaOptions, OutputsMayBeLeftOut)
{
    HN_NEED_CUDA();
    for (const Shape &s : {Shape{2, 9, 8, 6, 4}, Shape{2, 70, 8, 200, 60}}) {
        OnDevice all(s), some(s), loss(s);
        const Result want = all.run();
        auto a = some.args();
        DeviceArray<unsigned char> scratch(hn_proto_ce_cuda_scratch(&a));
        a.loss_sum = a.count = a.hits = nullptr, a.prediction = nullptr, a.logits = nullptr;
        EXPECT_HN_OK(hn_proto_ce_cuda(&a, scratch.data(), nullptr));
        EXPECT_TRUE(same_bits(some.dfeatures.values(), want.dfeatures));
        a = loss.args();
        a.dfeatures = nullptr, a.logits = nullptr, a.prediction = nullptr;
        EXPECT_HN_OK(hn_proto_ce_cuda(&a, scratch.data(), nullptr));
        EXPECT_TRUE(same_bits(loss.loss.host(), want.loss));
        EXPECT_TRUE(same_bits(loss.hits.host(), want.hits));
    }
}

/* The device cannot report an error: such rows count for nothing, and nothing is read outside. */
TEST(ProtoCeCudaOptions, LabelsThatAreNoClassTakeNoPart)
{
    HN_NEED_CUDA();
    for (const int32_t label : {-2, 4, INT32_MAX, INT32_MIN}) {
        const Shape s = {1, 12, 6, 40, 4};
        OnDevice unknown(s), ignored(s);
        auto labels = labels_for(s);
        labels[9] = label, labels[14] = label;
        unknown.set_labels(labels);
        labels[9] = HN_LABEL_IGNORED, labels[14] = HN_PROTO_UNLABELLED;
        ignored.set_labels(labels);
        EXPECT_TRUE(unknown.run() == ignored.run()) << label;
    }
    OnDevice d({1, 12, 6, 40, 4});
    auto labels = labels_for(d.p.s, 2);
    labels[13] = 2; /* a class without support */
    d.set_labels(labels);
    const Result got = d.run();
    labels[13] = HN_PROTO_UNLABELLED;
    OnDevice unlabelled({1, 12, 6, 40, 4});
    unlabelled.set_labels(labels);
    EXPECT_TRUE(got == unlabelled.run());
}
#endif

} // namespace
