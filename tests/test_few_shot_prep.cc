/* Batches of few-shot tuning: PyTorch's numbers, clean rows as image_prep makes them, what is
 * random and over which rows, padding, replicas, errors. */
#include "kernels/vision/few_shot_prep.h"

#include <algorithm>

#include "golden_test.h"
#include "graph_test.h"
#include "kernel_test.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

struct Shape {
    int64_t count, height, width, channels, replicas, support, out_height, out_width, out_channels;
    int64_t gap; /* between pixels of y; 0 and a multiple of 4 channels: stores in packs */
    int64_t pixels() const { return out_height * out_width; }
    int64_t sources() const { return replicas * support; }
};

/* Random state of a replica, as in a step block: something lies behind it. */
struct ReplicaState {
    hn_rng_state state;
    uint64_t behind[2];
};

struct Result {
    std::vector<float> y;
    std::vector<int32_t> labels;
    bool operator==(const Result &r) const { return same_bits(y, r.y) && labels == r.labels; }
};

struct Problem {
    const Shape s;
    const int64_t ld_images;
    std::vector<uint8_t> images;
    std::vector<int32_t> labels, index;
    std::vector<ReplicaState> states;
    Matrix y;
    GuardedArray<int32_t> y_labels;
    float augment = 1;

    Problem(const Shape &shape, hn_dtype t)
        : s(shape), ld_images(s.channels + (s.channels == 3)),
          images((size_t)(s.count * s.height * s.width * ld_images)),
          y(t, 2 * s.sources() * s.pixels(), s.out_channels, s.gap),
          y_labels((size_t)(2 * s.sources()))
    {
        for (size_t i = 0; i < images.size(); i++) images[i] = (uint8_t)(i * 2654435761u >> 11);
        for (int64_t i = 0; i < s.sources(); i++) {
            labels.push_back((int32_t)(i % 5));
            index.push_back(i % 6 == 4 ? -1 : (int32_t)(i * 7 % s.count));
        }
        for (int64_t g = 0; g < s.replicas; g++)
            states.push_back({{5 + (uint64_t)g, 9, g % 3}, {}});
    }
    hn_few_shot_prep_args args()
    {
        hn_few_shot_prep_args a = {};
        a.images = images.data(), a.labels = labels.data(), a.index = index.data();
        a.y = y.data(), a.y_labels = y_labels.data(), a.state = &states[0].state, a.key = 77;
        a.state_stride = sizeof(ReplicaState), a.replicas = s.replicas, a.support = s.support;
        a.count = s.count, a.height = s.height, a.width = s.width, a.channels = s.channels;
        a.ld_images = ld_images, a.out_height = s.out_height, a.out_width = s.out_width;
        a.out_channels = s.out_channels, a.ld_y = y.ld(), a.augment = augment;
        a.dtype = y.dtype();
        const float mean[] = {0.49f, 0.48f, 0.45f, 0.5f}, std[] = {0.25f, 0.24f, 0.26f, 0.3f};
        std::copy_n(mean, 4, a.mean), std::copy_n(std, 4, a.std);
        return a;
    }
    Result result() { return {y.values(), y_labels.host()}; }
    Result run()
    {
        const auto a = args();
        Scratch scratch(hn_few_shot_prep_cpu_scratch(&a));
        EXPECT_HN_OK(hn_few_shot_prep_cpu(&a, scratch.data()));
        return result();
    }
};

/* One pixel; CIFAR's images; up and down, wide and high; gray and four channels; stores in packs
 * and one by one; several blocks of 1024 pixels. */
const Shape kShapes[] = {{1, 1, 1, 1, 1, 1, 1, 1, 1, 0},     {6, 32, 32, 3, 2, 5, 32, 32, 4, 4},
                         {4, 32, 32, 3, 3, 3, 48, 48, 3, 5}, {3, 9, 40, 4, 2, 4, 31, 70, 8, 0},
                         {5, 40, 30, 3, 3, 4, 9, 7, 4, 0},   {3, 28, 28, 1, 2, 3, 56, 56, 1, 7},
                         {2, 3, 100, 2, 1, 5, 8, 8, 5, 1}};

/* Row `row` of a replica: its images as one vector. */
std::vector<float> image(const Result &r, const Shape &s, int64_t g, int64_t row)
{
    const int64_t n = s.pixels() * s.out_channels, at = (2 * g * s.support + row) * n;
    return {r.y.begin() + at, r.y.begin() + at + n};
}

TEST(FewShotPrep, CleanRowsAreThoseOfImagePrep)
{
    for (const Shape &s : kShapes)
        for (const hn_dtype t : {HN_F32, HN_BF16}) {
            Problem p(s, t);
            const Result got = p.run();
            const auto a = p.args();
            Matrix y(t, s.sources() * s.pixels(), s.out_channels);
            hn_image_prep_args b = {};
            b.images = a.images, b.index = a.index, b.y = y.data(), b.count = a.count;
            b.height = a.height, b.width = a.width, b.channels = a.channels;
            b.ld_images = a.ld_images, b.n = s.sources(), b.out_height = a.out_height;
            b.out_width = a.out_width, b.out_channels = a.out_channels, b.ld_y = y.ld();
            b.resized = true, b.dtype = t;
            std::copy_n(a.mean, 4, b.mean), std::copy_n(a.std, 4, b.std);
            ASSERT_HN_OK(hn_image_prep_fast(&b));
            const auto want = y.values();
            const int64_t n = s.support * s.pixels() * s.out_channels;
            for (int64_t g = 0; g < s.replicas; g++)
                EXPECT_TRUE(std::equal(want.begin() + g * n, want.begin() + (g + 1) * n,
                                       got.y.begin() + 2 * g * n));
        }
}

TEST(FewShotPrep, SameBitsForAnyNumberOfThreads)
{
    for (const Shape &s : kShapes) {
        Problem one(s, HN_BF16), three(s, HN_BF16);
        Result a, b;
        on_threads(1, [&] { a = one.run(); });
        on_threads(3, [&] { b = three.run(); });
        EXPECT_TRUE(a == b);
    }
}

TEST(FewShotPrep, EqualsPyTorch)
{
    const Golden file = Golden::load("tests/golden/episode.json");
    const Golden list = file["few_shot_prep"];
    ASSERT_GT(list.size(), 0u);
    int changed = 0, same = 0;
    for (size_t i = 0; i < list.size(); i++) {
        const Golden c = list.at(i);
        const int64_t channels = c["channels"].integer();
        const Shape s = {c["count"].integer(),
                         c["height"].integer(),
                         c["width"].integer(),
                         channels,
                         (int64_t)c["seeds"].size(),
                         c["support"].integer(),
                         c["out"].at(0).integer(),
                         c["out"].at(1).integer(),
                         channels,
                         0};
        Problem p(s, HN_F32);
        p.images = c["images"].integers<uint8_t>();
        p.index = c["index"].integers();
        p.augment = 0.9f;
        for (size_t g = 0; g < p.states.size(); g++)
            p.states[g].state = {(uint64_t)c["seeds"].at(g).integer(),
                                 (uint64_t)c["step"].integer(), c["row_offset"].integer()};
        auto a = p.args();
        a.ld_images = channels;
        a.key = hn_hash_name(c["name"].text().c_str());
        for (size_t k = 0; k < (size_t)channels; k++)
            a.mean[k] = c["mean"].at(k).number(), a.std[k] = c["std"].at(k).number();
        Scratch scratch(hn_few_shot_prep_cpu_scratch(&a));
        ASSERT_HN_OK(hn_few_shot_prep_cpu(&a, scratch.data()));
        const Result r = p.result();
        EXPECT_LT(max_abs(r.y, c["y"].numbers()), 2e-4); /* the mean's weights are rounded */
        for (int64_t g = 0; g < s.replicas; g++)
            (image(r, s, g, 0) == image(r, s, g, s.support) ? same : changed)++;
    }
    EXPECT_GT(changed, 0);
    EXPECT_GT(same, 0) << "no replica of the file has been left as it was";
}

/* A gray image has no saturation: y = M + b + c (x - M), moved and mirrored; M is exact here. */
TEST(FewShotPrep, MovesMirrorsAndChangesColours)
{
    Problem p({1, 8, 8, 1, 40, 4, 8, 8, 1, 0}, HN_F32);
    std::fill(p.index.begin(), p.index.end(), 0);
    auto a = p.args();
    a.mean[0] = 0, a.std[0] = 0;
    Scratch scratch(hn_few_shot_prep_cpu_scratch(&a));
    ASSERT_HN_OK(hn_few_shot_prep_cpu(&a, scratch.data()));
    double mean = 0;
    for (const uint8_t v : p.images) mean += v / 255.0 / 64;
    const Result r = p.result();
    int flips = 0;
    for (int64_t g = 0; g < 40; g++) {
        const hn_rng_state state = p.states[(size_t)g].state;
        const hn_rng rng = hn_rng_make(state.seed, state.step, 77);
        const bool flip = hn_rng_unit(hn_rng_u32(rng, 0, 9)) < 0.5f;
        flips += flip;
        for (int64_t j = 0; j < 4; j++) {
            const auto row = (uint64_t)(state.row_offset + j);
            const double b = hn_rng_unit(hn_rng_u32(rng, row, 0)) - 0.5;
            const double c = hn_rng_unit(hn_rng_u32(rng, row, 2)) + 0.5;
            const int64_t down = (int64_t)((uint64_t)hn_rng_u32(rng, row, 4) * 3 >> 32) - 1;
            const int64_t right = (int64_t)((uint64_t)hn_rng_u32(rng, row, 5) * 3 >> 32) - 1;
            const auto y = image(r, p.s, g, 4 + j);
            for (int64_t at = 0; at < 64; at++) {
                const int64_t up = at / 8 + down, left = at % 8 + right;
                double want = 0;
                if (up >= 0 && up < 8 && left >= 0 && left < 8)
                    want =
                        mean + b +
                        c * (p.images[(size_t)(8 * up + (flip ? 7 - left : left))] / 255.0 - mean);
                EXPECT_NEAR(y[(size_t)at], want, 1e-6) << g << " " << j << " " << at;
            }
        }
    }
    EXPECT_GT(flips, 8);
    EXPECT_LT(flips, 32);
}

TEST(FewShotPrep, RowsOfAReplicaAreAugmentedTogetherOrNot)
{
    const Shape s = {3, 6, 6, 3, 400, 2, 6, 6, 3, 0};
    Problem p(s, HN_F32);
    std::fill(p.index.begin(), p.index.end(), 1);
    p.augment = 0.9f;
    const Result some = p.run();
    int changed = 0;
    for (int64_t g = 0; g < s.replicas; g++) {
        const bool first = image(some, s, g, 0) != image(some, s, g, 2);
        EXPECT_EQ(first, image(some, s, g, 1) != image(some, s, g, 3));
        changed += first;
    }
    EXPECT_NEAR(changed, 360, 30); /* 5 deviations of 6 */
    p.augment = 0;
    const Result none = p.run();
    for (int64_t g = 0; g < s.replicas; g++) ASSERT_EQ(image(none, s, g, 0), image(none, s, g, 2));
}

/* Rows in another cut of the step; another step, seed or operation is another choice. */
TEST(FewShotPrep, ChoiceDependsOnSeedStepKeyAndGlobalRow)
{
    const Shape s = {1, 8, 8, 3, 1, 6, 10, 10, 3, 0};
    Problem all(s, HN_F32), part({1, 8, 8, 3, 1, 2, 10, 10, 3, 0}, HN_F32);
    all.index.assign(6, 0), part.index.assign(2, 0);
    part.states[0].state.row_offset += 4;
    const Result whole = all.run(), last = part.run();
    for (int64_t j = 0; j < 2; j++)
        EXPECT_EQ(image(last, part.s, 0, 2 + j), image(whole, s, 0, 6 + 4 + j));
    EXPECT_NE(image(whole, s, 0, 6), image(whole, s, 0, 7));
    for (int change = 0; change < 3; change++) {
        Problem other(s, HN_F32);
        other.index.assign(6, 0);
        if (change == 0) other.states[0].state.seed++;
        if (change == 1) other.states[0].state.step++;
        auto a = other.args();
        if (change == 2) a.key++;
        Scratch scratch(hn_few_shot_prep_cpu_scratch(&a));
        EXPECT_HN_OK(hn_few_shot_prep_cpu(&a, scratch.data()));
        EXPECT_NE(image(other.result(), s, 0, 6), image(whole, s, 0, 6)) << change;
    }
}

TEST(FewShotPrep, BothRowsHaveTheLabelAndPaddingHasNone)
{
    Problem p({3, 4, 4, 3, 2, 2, 4, 4, 8, 1}, HN_BF16);
    p.index = {2, -1, 0, 1}, p.labels = {7, 8, 9, 4};
    const Result r = p.run();
    const int32_t no = HN_LABEL_IGNORED;
    EXPECT_EQ(r.labels, (std::vector<int32_t>{7, no, 7, no, 9, 4, 9, 4}));
    for (int64_t row = 0; row < 8; row++) {
        const auto y = image(r, p.s, row / 4, row % 4);
        for (size_t i = 0; i < y.size(); i++)
            if (i % 8 >= 3 || row == 1 || row == 3) {
                ASSERT_EQ(y[i], 0) << row;
            }
    }
}

TEST(FewShotPrep, ReplicasAreDrawnEachFromItsState)
{
    const Shape s = {4, 8, 8, 3, 3, 4, 12, 12, 3, 0};
    Problem all(s, HN_F32);
    const Result got = all.run();
    for (int64_t g = 0; g < 3; g++) {
        Problem one({4, 8, 8, 3, 1, 4, 12, 12, 3, 0}, HN_F32);
        one.states[0] = all.states[(size_t)g];
        std::copy_n(all.index.begin() + 4 * g, 4, one.index.begin());
        const Result want = one.run();
        for (int64_t row = 0; row < 8; row++)
            EXPECT_EQ(image(got, s, g, row), image(want, one.s, 0, row)) << g << " " << row;
    }
}

TEST(FewShotPrep, RefusesWhatTheContractExcludes)
{
    Problem p({3, 9, 7, 3, 2, 4, 5, 4, 4, 1}, HN_F32);
    const auto good = p.args();
    Scratch scratch(hn_few_shot_prep_cpu_scratch(&good));
    const auto refused = [&](auto change, hn_status code, const char *part) {
        auto a = good;
        change(a);
        EXPECT_HN_FAIL(hn_few_shot_prep_cpu(&a, scratch.data()), code, part);
    };
    using A = hn_few_shot_prep_args;
    refused([](A &a) { a.images = nullptr; }, HN_ERR_ARG, "images");
    refused([](A &a) { a.index = nullptr; }, HN_ERR_ARG, "index");
    refused([](A &a) { a.labels = nullptr; }, HN_ERR_ARG, "labels");
    refused([](A &a) { a.state = nullptr; }, HN_ERR_ARG, "random state");
    refused([](A &a) { a.dtype = HN_F16; }, HN_ERR_UNSUPPORTED, "dtype");
    refused([](A &a) { a.support = 0; }, HN_ERR_SHAPE, "2 replicas of 0 support rows");
    refused([](A &a) { a.support = INT32_MAX; }, HN_ERR_SHAPE, "8589934588 rows");
    refused([](A &a) { a.channels = 5, a.out_channels = 5; }, HN_ERR_SHAPE, "5 channels");
    refused([](A &a) { a.out_channels = 2; }, HN_ERR_SHAPE, "become 2");
    refused([](A &a) { a.ld_images = 2; }, HN_ERR_SHAPE, "images");
    refused([](A &a) { a.ld_y = 3; }, HN_ERR_SHAPE, "y");
    refused([](A &a) { a.height = 4096; }, HN_ERR_SHAPE, "4096 x 7, sides at most 4095");
    refused([](A &a) { a.out_width = 0; }, HN_ERR_SHAPE, "output width 0");
    refused([](A &a) { a.augment = 1.5f; }, HN_ERR_ARG, "augment 1.5");
    refused([](A &a) { a.std[1] = -1; }, HN_ERR_ARG, "channel 1");
    EXPECT_HN_FAIL(hn_few_shot_prep_cpu(&good, nullptr), HN_ERR_ARG, "scratch");
    p.index[2] = 3;
    refused([](A &) {}, HN_ERR_ARG, "index 3 of row 2 is neither 0 to 2 nor -1");
    EXPECT_TRUE(std::isnan(p.y.values()[0])) << "wrote before all checks passed";
}

/* Emits the row on persistent inputs of these types. */
class FewShotPrepRow : public Graph {
  protected:
    hn_attr attr = {};
    hn_tensor *out[HN_MAX_OUT] = {};
    hn_status row(const std::vector<hn_type> &types)
    {
        attr.few_shot.height = attr.few_shot.width = 32;
        attr.few_shot.channels = 4, attr.few_shot.augment = 0.9f;
        hn_tensor *in[HN_MAX_IN] = {};
        for (size_t k = 0; k < types.size(); k++) {
            const std::string name = "in" + std::to_string(number_++);
            EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_STATE, name.c_str(), &types[k], &in[k]));
        }
        return hn_emit(graph(("g" + std::to_string(number_)).c_str(), true), HN_OP_FEW_SHOT_PREP,
                       "batch", in, &attr, out);
    }

  private:
    int number_ = 0;
};

TEST_F(FewShotPrepRow, GivesTwoRowsOfEveryImageAndTheirLabels)
{
    const hn_type index = hn_type_1d(HN_I32, 7), images = {HN_U8, 4, {5, 20, 20, 3}};
    attr.few_shot.to = HN_BF16;
    ASSERT_HN_OK(row({images, index, index}));
    const hn_type want = {HN_BF16, 4, {14, 32, 32, 4}}, labels = hn_type_1d(HN_I32, 14);
    EXPECT_TRUE(hn_type_same(&out[0]->type, &want));
    EXPECT_EQ(hn_type_ld(&out[0]->type), 8); /* 16 bytes */
    EXPECT_TRUE(hn_type_same(&out[1]->type, &labels));
    EXPECT_FALSE(out[0]->needs_grad);
    ASSERT_HN_OK(row({images, index}));
    EXPECT_EQ(out[1], nullptr);
}

TEST_F(FewShotPrepRow, RefusesByName)
{
    const hn_type index = hn_type_1d(HN_I32, 7), images = {HN_U8, 4, {5, 20, 20, 3}};
    EXPECT_HN_FAIL(row({{HN_F32, 4, {5, 20, 20, 3}}, index}), HN_ERR_UNSUPPORTED, "batch");
    EXPECT_HN_FAIL(row({images, index, hn_type_1d(HN_I32, 5)}), HN_ERR_SHAPE, "index and labels");
    EXPECT_HN_FAIL(row({{HN_U8, 4, {5, 20, 20, 5}}, index}), HN_ERR_SHAPE, "4 channels");
    attr.few_shot.to = HN_F16;
    EXPECT_HN_FAIL(row({images, index}), HN_ERR_UNSUPPORTED, "to f32 or bf16");
}

#ifdef HONE_CUDA

std::ostream &operator<<(std::ostream &o, const Shape &s)
{
    return o << s.height << "x" << s.width << "x" << s.channels << " to " << s.out_height << "x"
             << s.out_width << "x" << s.out_channels;
}

struct OnDevice {
    Problem p;
    DeviceArray<uint8_t> images;
    DeviceArray<int32_t> labels, index, y_labels;
    DeviceArray<ReplicaState> states;
    DeviceMatrix y;
    DeviceArray<unsigned char> scratch;

    OnDevice(const Shape &s, hn_dtype t)
        : p(s, t), images(p.images), labels(p.labels), index(p.index),
          y_labels((size_t)(2 * s.sources())), states(p.states),
          y(t, 2 * s.sources() * s.pixels(), s.out_channels, s.gap), scratch(scratch_bytes())
    {
    }
    size_t scratch_bytes()
    {
        const auto a = p.args();
        return hn_few_shot_prep_cuda_scratch(&a);
    }
    hn_few_shot_prep_args args()
    {
        auto a = p.args();
        a.images = images.data(), a.labels = labels.data(), a.index = index.data();
        a.y_labels = y_labels.data(), a.state = &states.data()->state, a.y = y.data();
        return a;
    }
    void enqueue(hn_stream stream)
    {
        const auto a = args();
        EXPECT_HN_OK(hn_few_shot_prep_cuda(&a, scratch.data(), stream));
    }
    Result result()
    {
        scratch.host();
        return {y.values(), y_labels.host()};
    }
    Result run()
    {
        enqueue(nullptr);
        return result();
    }
};

class FewShotPrepCuda : public ::testing::TestWithParam<Shape> {};

TEST_P(FewShotPrepCuda, CudaGivesTheBitsOfTheCpu)
{
    HN_NEED_CUDA();
    for (const hn_dtype t : {HN_F32, HN_BF16})
        for (const float augment : {1.0f, 0.5f}) {
            OnDevice d(GetParam(), t);
            d.p.augment = augment;
            const Result got = d.run(), want = d.p.run();
            EXPECT_EQ(got.labels, want.labels);
            EXPECT_TRUE(same_bits(got.y, want.y)) << max_abs(got.y, want.y);
        }
}

/* A replay reads indices, labels and random state when it runs. */
TEST_P(FewShotPrepCuda, CapturedGraphFollowsIndexAndStep)
{
    HN_NEED_CUDA();
    OnDevice d(GetParam(), HN_BF16);
    d.p.augment = 0.9f;
    CapturedGraph graph([&](hn_stream s) { d.enqueue(s); });
    for (int step = 0; step < 3; step++) {
        for (auto &s : d.p.states) s.state.step++, s.state.row_offset += 3;
        std::rotate(d.p.index.begin(), d.p.index.begin() + 1, d.p.index.end());
        std::rotate(d.p.labels.begin(), d.p.labels.begin() + 1, d.p.labels.end());
        d.states.assign(d.p.states), d.index.assign(d.p.index), d.labels.assign(d.p.labels);
        graph.launch();
        EXPECT_TRUE(d.result() == d.p.run()) << step;
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, FewShotPrepCuda, ::testing::ValuesIn(kShapes));

TEST(FewShotPrepCudaOptions, UnknownIndexIsPadding)
{
    HN_NEED_CUDA();
    OnDevice d({3, 4, 4, 3, 1, 4, 4, 4, 4, 0}, HN_F32);
    d.index.assign({0, 3, INT32_MAX, INT32_MIN});
    const Result r = d.run();
    const int32_t no = HN_LABEL_IGNORED;
    EXPECT_EQ(r.labels, (std::vector<int32_t>{0, no, no, no, 0, no, no, no}));
    for (int64_t row = 0; row < 8; row++)
        if (row % 4 != 0) {
            EXPECT_EQ(image(r, d.p.s, 0, row), std::vector<float>(64, 0.0f)) << row;
        }
}
#endif

} // namespace
