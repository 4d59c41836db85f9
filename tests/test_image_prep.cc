/* Batches of augmented images: hand values, PyTorch's numbers, the same bits from twin and fast
 * function, what is random and what not, padding rows, errors. */
#include "kernels/vision/image_prep.h"

#include <algorithm>
#include <map>

#include "golden_test.h"
#include "graph_test.h"
#include "kernel_test.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

struct Shape {
    int64_t count, height, width, channels, n, out_height, out_width, out_channels;
    bool resized, train;
    int64_t pad;
    int64_t gap; /* between pixels of y; 0 and a multiple of 4 channels: stores in packs */
};

std::ostream &operator<<(std::ostream &o, const Shape &s)
{
    return o << s.height << "x" << s.width << "x" << s.channels << " to " << s.out_height << "x"
             << s.out_width << "x" << s.out_channels << (s.resized ? " resized" : " crop")
             << (s.train ? " train" : "");
}

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
    Matrix y;
    GuardedArray<int32_t> y_labels;
    hn_rng_state state = {5, 9, 2};

    Problem(const Shape &shape, hn_dtype t)
        : s(shape), ld_images(s.channels + (s.channels == 3)),
          images((size_t)(s.count * s.height * s.width * ld_images)), labels((size_t)s.count),
          index((size_t)s.n), y(t, s.n * s.out_height * s.out_width, s.out_channels, s.gap),
          y_labels((size_t)s.n)
    {
        for (size_t i = 0; i < images.size(); i++) images[i] = (uint8_t)(i * 2654435761u >> 11);
        for (size_t i = 0; i < labels.size(); i++) labels[i] = (int32_t)(100 + i);
        for (size_t i = 0; i < index.size(); i++)
            index[i] = i % 5 == 3 ? -1 : (int32_t)(i * 7 % (size_t)s.count);
    }
    hn_image_prep_args args()
    {
        hn_image_prep_args a = {};
        a.images = images.data(), a.labels = labels.data(), a.index = index.data();
        a.y = y.data(), a.y_labels = y_labels.data(), a.state = &state, a.key = 77;
        a.count = s.count, a.height = s.height, a.width = s.width, a.channels = s.channels;
        a.ld_images = ld_images, a.n = s.n, a.out_height = s.out_height;
        a.out_width = s.out_width, a.out_channels = s.out_channels, a.ld_y = y.ld();
        a.pad = s.pad, a.resized = s.resized, a.train = s.train, a.flip = 0.5f;
        a.dtype = y.dtype();
        const float mean[] = {0.49f, 0.48f, 0.45f, 0.5f}, std[] = {0.25f, 0.24f, 0.26f, 0.3f};
        std::copy_n(mean, 4, a.mean), std::copy_n(std, 4, a.std);
        return a;
    }
    Result result() { return {y.values(), y_labels.host()}; }
    template <class Fn>
    Result run(Fn fn)
    {
        const auto a = args();
        EXPECT_HN_OK(fn(&a));
        return result();
    }
};

/* One pixel; CIFAR; gray; ImageNet's way, up and down; channels in packs, in part and one by one;
 * more than one block of 1024 pixels; a box that never fits. */
const Shape kShapes[] = {{1, 1, 1, 1, 1, 1, 1, 1, false, false, 0, 0},
                         {6, 32, 32, 3, 9, 32, 32, 4, false, true, 4, 4},
                         {6, 32, 32, 3, 9, 32, 32, 8, false, true, 4, 0},
                         {3, 28, 28, 1, 7, 28, 28, 1, false, true, 2, 7},
                         {3, 9, 7, 3, 4, 5, 4, 3, false, false, 0, 5},
                         {3, 9, 7, 4, 4, 13, 11, 5, false, false, 2, 3},
                         {5, 40, 30, 3, 8, 33, 35, 4, true, true, 0, 4},
                         {5, 40, 30, 3, 8, 9, 7, 3, true, true, 0, 0},
                         {4, 20, 50, 2, 5, 31, 70, 8, true, false, 0, 0},
                         {2, 3, 100, 4, 6, 8, 8, 4, true, true, 0, 0},
                         {2, 50, 1, 3, 4, 8, 8, 4, true, true, 0, 0}};

class ImagePrep : public ::testing::TestWithParam<Shape> {};

TEST_P(ImagePrep, FastGivesTheBitsOfTheTwinForAnyNumberOfThreads)
{
    for (const hn_dtype t : {HN_F32, HN_BF16}) {
        Problem twin(GetParam(), t), one(GetParam(), t), three(GetParam(), t);
        const Result want = twin.run(hn_image_prep_cpu);
        on_threads(1, [&] { EXPECT_TRUE(one.run(hn_image_prep_fast) == want); });
        on_threads(3, [&] { EXPECT_TRUE(three.run(hn_image_prep_fast) == want); });
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, ImagePrep, ::testing::ValuesIn(kShapes));

/* Both CPU functions. */
template <class Fn>
void on_both(Fn fn)
{
    fn(hn_image_prep_cpu);
    fn(hn_image_prep_fast);
}

/* A 2 x 3 gray image, 10 to 60, in values (v / 255 - 0) / 1 * 255. */
struct Small : Problem {
    Small(int64_t out_height, int64_t out_width, int64_t pad_by, bool resized)
        : Problem({1, 2, 3, 1, 1, out_height, out_width, 1, resized, false, pad_by, 0}, HN_F32)
    {
        images = {10, 20, 30, 40, 50, 60};
        index = {0};
    }
};

std::vector<float> run_small(hn_status (*fn)(const hn_image_prep_args *), Small &p, float mean = 0,
                             float std = 1, float centre = 0)
{
    auto a = p.args();
    a.mean[0] = mean, a.std[0] = std, a.centre = centre;
    EXPECT_HN_OK(fn(&a));
    auto v = p.y.values();
    for (auto &e : v) e *= 255;
    return v;
}

TEST(ImagePrepFwd, TakesTheMiddleOfAnImageWithBlackRoundIt)
{
    on_both([](auto fn) {
        Small whole(2, 3, 4, false), wide(4, 5, 1, false), one(1, 1, 0, false);
        EXPECT_LT(max_abs(run_small(fn, whole), std::vector<float>{10, 20, 30, 40, 50, 60}), 1e-5);
        EXPECT_LT(
            max_abs(run_small(fn, wide), std::vector<float>{0, 0,  0,  0,  0, 0, 10, 20, 30, 0,
                                                            0, 40, 50, 60, 0, 0, 0,  0,  0,  0}),
            1e-5);
        EXPECT_LT(max_abs(run_small(fn, one), std::vector<float>{20}), 1e-5);
        /* (v / 255 - 0.2) / 0.5, also for black: 0.2 is 51 / 255 */
        Small normal(1, 5, 1, false);
        EXPECT_LT(max_abs(run_small(fn, normal, 0.2f, 0.5f),
                          std::vector<float>{-102, -82, -62, -42, -102}),
                  1e-4);
    });
}

TEST(ImagePrepFwd, ResizesBetweenPixelCentres)
{
    on_both([](auto fn) {
        /* the middle of 2 x 3 shaped like the output */
        Small same(2, 3, 0, true), half(1, 3, 0, true), one(1, 1, 0, true);
        EXPECT_LT(max_abs(run_small(fn, same), std::vector<float>{10, 20, 30, 40, 50, 60}), 1e-5);
        EXPECT_LT(max_abs(run_small(fn, half), std::vector<float>{10, 20, 30}), 1e-5); /* 1 x 3 */
        EXPECT_LT(max_abs(run_small(fn, one), std::vector<float>{30}), 1e-5); /* 2 x 2: mean */
        Small twice(4, 6, 0, true);
        const float row[] = {10, 12.5f, 17.5f, 22.5f, 27.5f, 30};
        std::vector<float> want;
        for (const float down : {0.0f, 7.5f, 22.5f, 30.0f})
            for (const float v : row) want.push_back(v + down);
        EXPECT_LT(max_abs(run_small(fn, twice), want), 1e-5);
        Small part(2, 3, 0, true); /* half of the sides: 1 x 2, at the left */
        EXPECT_LT(
            max_abs(run_small(fn, part, 0, 1, 0.5f), std::vector<float>{10, 15, 20, 10, 15, 20}),
            1e-5);
    });
}

TEST(ImagePrepFwd, GathersLabelsAndPadsRowsAndChannels)
{
    on_both([](auto fn) {
        Problem p({3, 4, 4, 3, 3, 4, 4, 8, false, true, 1, 1}, HN_BF16);
        p.index = {2, -1, 0};
        const Result r = p.run(fn);
        EXPECT_EQ(r.labels, (std::vector<int32_t>{102, HN_LABEL_IGNORED, 100}));
        for (size_t i = 0; i < r.y.size(); i++)
            if (i % 8 >= 3 || i / (16 * 8) == 1) {
                ASSERT_EQ(r.y[i], 0) << i;
            }
    });
}

/* The same sample in another cut of the step's rows; another step, seed or operation is another
 * choice; rows differ among each other. */
TEST(ImagePrepFwd, ChoiceDependsOnSeedStepKeyAndGlobalRow)
{
    for (const bool resized : {false, true}) {
        Problem all({1, 16, 16, 3, 8, 12, 12, 3, resized, true, 2, 0}, HN_F32);
        Problem part({1, 16, 16, 3, 3, 12, 12, 3, resized, true, 2, 0}, HN_F32);
        all.index.assign(8, 0), part.index.assign(3, 0);
        part.state.row_offset += 5;
        const auto whole = all.run(hn_image_prep_fast).y, last = part.run(hn_image_prep_fast).y;
        const size_t row = 12 * 12 * 3;
        EXPECT_TRUE(std::equal(last.begin(), last.end(), whole.begin() + 5 * (ptrdiff_t)row));
        int differ = 0;
        for (size_t i = 1; i < 8; i++)
            differ += !std::equal(whole.begin(), whole.begin() + (ptrdiff_t)row,
                                  whole.begin() + (ptrdiff_t)(i * row));
        EXPECT_GE(differ, 6);
        for (int change = 0; change < 3; change++) {
            Problem other({1, 16, 16, 3, 8, 12, 12, 3, resized, true, 2, 0}, HN_F32);
            other.index.assign(8, 0);
            auto a = other.args();
            if (change == 0) other.state.seed++;
            if (change == 1) other.state.step++;
            if (change == 2) a.key++;
            EXPECT_HN_OK(hn_image_prep_fast(&a));
            EXPECT_FALSE(same_bits(other.y.values(), whole)) << change;
        }
    }
}

/* Random state of replicas, as in a step block: something lies behind each. */
struct ReplicaState {
    hn_rng_state state;
    uint64_t behind[2];
};
const std::vector<ReplicaState> kReplicaStates = {
    {{5, 9, 2}, {}}, {{6, 9, 0}, {}}, {{7, 3, 1}, {}}};

/* Rows of replica g of one call are those of a call of its own. */
template <class Run>
void expect_own_random_rows(Run run)
{
    const Shape s = {4, 16, 16, 3, 9, 12, 12, 3, false, true, 2, 0};
    Problem all(s, HN_F32);
    auto a = all.args();
    a.flip = 0.5f, a.replicas = 3, a.state_stride = sizeof(ReplicaState);
    a.state = &kReplicaStates[0].state;
    const auto got = run(all, a);
    for (size_t g = 0; g < 3; g++) {
        Shape part = s;
        part.n = 3;
        Problem one(part, HN_F32);
        one.state = kReplicaStates[g].state;
        std::copy_n(all.index.begin() + 3 * (ptrdiff_t)g, 3, one.index.begin());
        auto b = one.args();
        b.flip = 0.5f;
        EXPECT_HN_OK(hn_image_prep_cpu(&b));
        const auto want = one.y.values();
        EXPECT_TRUE(
            std::equal(want.begin(), want.end(), got.begin() + (ptrdiff_t)(g * want.size())));
    }
}

TEST(ImagePrepFwd, ReplicasHaveRandomRowsOfTheirOwn)
{
    for (const auto run : {hn_image_prep_cpu, hn_image_prep_fast})
        expect_own_random_rows([&](Problem &p, const hn_image_prep_args &a) {
            EXPECT_HN_OK(run(&a));
            return p.y.values();
        });
}

/* Every offset and both directions come, about equally often. */
TEST(ImagePrepFwd, CropsAndFlipsAreUniform)
{
    Problem p({1, 3, 3, 1, 4500, 3, 3, 1, false, true, 1, 0}, HN_F32);
    p.images = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    p.index.assign(4500, 0);
    const auto y = p.run(hn_image_prep_fast).y;
    std::map<std::vector<float>, int> seen;
    for (size_t i = 0; i < 4500; i++)
        seen[{y.begin() + 9 * (ptrdiff_t)i, y.begin() + 9 * (ptrdiff_t)(i + 1)}]++;
    EXPECT_EQ(seen.size(), 18u); /* 3 x 3 offsets, two directions */
    for (const auto &[image, times] : seen) EXPECT_NEAR(times, 250, 80); /* 5 deviations of 15.4 */
}

TEST(ImagePrepFwd, FlipProbabilityMayBeZeroOrOne)
{
    Problem p({1, 1, 3, 1, 64, 1, 3, 1, false, true, 0, 0}, HN_F32);
    p.images = {1, 2, 3};
    p.index.assign(64, 0);
    for (const float flip : {0.0f, 1.0f}) {
        auto a = p.args();
        a.flip = flip, a.mean[0] = 0, a.std[0] = 0; /* 0: 1 */
        EXPECT_HN_OK(hn_image_prep_fast(&a));
        const auto y = p.y.values();
        for (size_t i = 0; i < 64; i++)
            EXPECT_NEAR(y[3 * i] * 255, flip == 0.0f ? 1 : 3, 1e-5) << i;
    }
}

TEST(ImagePrepFwd, EqualsPyTorch)
{
    const Golden file = Golden::load("tests/golden/loss.json");
    const Golden list = file["image_prep"];
    ASSERT_GT(list.size(), 0u);
    for (size_t i = 0; i < list.size(); i++)
        on_both([&](auto fn) {
            const Golden c = list.at(i);
            const int64_t channels = c["channels"].integer();
            Problem p({c["count"].integer(), c["height"].integer(), c["width"].integer(), channels,
                       c["n"].integer(), c["out"].at(0).integer(), c["out"].at(1).integer(),
                       channels, c["resized"].flag(), true, c["pad"].integer(), 0},
                      HN_F32);
            p.images = c["images"].integers<uint8_t>();
            p.labels = c["labels"].integers(), p.index = c["index"].integers();
            p.state = {(uint64_t)c["seed"].integer(), (uint64_t)c["step"].integer(),
                       c["row_offset"].integer()};
            auto a = p.args();
            a.ld_images = channels;
            a.key = hn_hash_name(c["name"].text().c_str());
            a.flip = c["flip"].number();
            for (size_t k = 0; k < 2; k++)
                a.scale[k] = c["scale"].at(k).number(), a.ratio[k] = c["ratio"].at(k).number();
            for (size_t k = 0; k < (size_t)channels; k++)
                a.mean[k] = c["mean"].at(k).number(), a.std[k] = c["std"].at(k).number();
            EXPECT_HN_OK(fn(&a));
            EXPECT_EQ(p.y_labels.host(), c["y_labels"].integers());
            EXPECT_LT(max_abs(p.y.values(), c["y"].numbers()), 2e-5); /* fp32 weights of pixels */
        });
}

TEST(ImagePrepFwd, RefusesWhatTheContractExcludes)
{
    Problem p({3, 9, 7, 3, 4, 5, 4, 4, false, true, 1, 0}, HN_F32);
    const auto good = p.args();
    const auto refused = [&](auto change, hn_status code, const char *part) {
        auto a = good;
        change(a);
        EXPECT_HN_FAIL(hn_image_prep_cpu(&a), code, part);
        EXPECT_HN_FAIL(hn_image_prep_fast(&a), code, part);
    };
    using A = hn_image_prep_args;
    refused([](A &a) { a.images = nullptr; }, HN_ERR_ARG, "images");
    refused([](A &a) { a.index = nullptr; }, HN_ERR_ARG, "index");
    refused([](A &a) { a.labels = nullptr; }, HN_ERR_ARG, "labels");
    refused([](A &a) { a.state = nullptr; }, HN_ERR_ARG, "random state");
    refused([](A &a) { a.dtype = HN_F16; }, HN_ERR_UNSUPPORTED, "image_prep");
    refused([](A &a) { a.channels = 5, a.out_channels = 5; }, HN_ERR_SHAPE, "5 channels");
    refused([](A &a) { a.out_channels = 2; }, HN_ERR_SHAPE, "become 2");
    refused([](A &a) { a.ld_images = 2; }, HN_ERR_SHAPE, "images");
    refused([](A &a) { a.ld_y = 3; }, HN_ERR_SHAPE, "y");
    refused([](A &a) { a.out_height = 12; }, HN_ERR_SHAPE,
            "a crop of 12 x 4 from 9 x 7 with pad 1");
    refused([](A &a) { a.height = 70000; }, HN_ERR_SHAPE, "height 70000");
    refused([](A &a) { a.pad = -1; }, HN_ERR_SHAPE, "pad -1");
    refused([](A &a) { a.flip = 1.5f; }, HN_ERR_ARG, "flip 1.5");
    refused([](A &a) { a.scale[0] = 1, a.scale[1] = 0.5f; }, HN_ERR_ARG, "scale 1 .. 0.5");
    refused([](A &a) { a.ratio[0] = 0, a.ratio[1] = 2; }, HN_ERR_ARG, "ratio 0 .. 2");
    refused([](A &a) { a.centre = 2; }, HN_ERR_ARG, "centre 2");
    refused([](A &a) { a.std[1] = -1; }, HN_ERR_ARG, "channel 1");
    p.index[2] = 3;
    refused([](A &) {}, HN_ERR_ARG, "index 3 of row 2 is neither 0 to 2 nor -1");
    p.index[2] = -2;
    refused([](A &) {}, HN_ERR_ARG, "index -2 of row 2");
    EXPECT_TRUE(std::isnan(p.y.values()[0])) << "wrote before all checks passed";
}

/* Emits the row on persistent inputs of these types; ndim 0: absent. */
class ImagePrepRow : public Graph {
  protected:
    hn_attr attr = {};
    hn_tensor *out[HN_MAX_OUT] = {};
    hn_graph *g = nullptr;
    void SetUp() override
    {
        Graph::SetUp();
        g = graph("micro", true);
        attr.prep.height = attr.prep.width = 32;
        attr.prep.channels = 4, attr.prep.to = HN_BF16, attr.prep.pad = 4;
    }
    hn_status row(const std::vector<hn_type> &types)
    {
        hn_tensor *in[HN_MAX_IN] = {};
        for (size_t k = 0; k < types.size(); k++) {
            const std::string name = "in" + std::to_string(number_++);
            if (types[k].ndim == 0) continue;
            EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_STATE, name.c_str(), &types[k], &in[k]));
        }
        return hn_emit(g, HN_OP_IMAGE_PREP, "batch", in, &attr, out);
    }

  private:
    int number_ = 0;
};

TEST_F(ImagePrepRow, GivesABatchOfPaddedPixelsAndItsLabels)
{
    const hn_type index = hn_type_1d(HN_I32, 7), labels = hn_type_1d(HN_I32, 5);
    ASSERT_HN_OK(row({{HN_U8, 4, {5, 32, 32, 3}}, index, labels}));
    const hn_type want = {HN_BF16, 4, {7, 32, 32, 4}};
    EXPECT_TRUE(hn_type_same(&out[0]->type, &want));
    EXPECT_EQ(hn_type_ld(&out[0]->type), 8); /* 16 bytes */
    EXPECT_TRUE(hn_type_same(&out[1]->type, &index));
    EXPECT_FALSE(out[0]->needs_grad);
    ASSERT_HN_OK(row({{HN_U8, 4, {5, 32, 32, 3}}, index}));
    EXPECT_EQ(out[1], nullptr);
}

TEST_F(ImagePrepRow, RefusesByName)
{
    const hn_type index = hn_type_1d(HN_I32, 7), labels = hn_type_1d(HN_I32, 5);
    const hn_type images = {HN_U8, 4, {5, 32, 32, 3}};
    EXPECT_HN_FAIL(row({{HN_F32, 4, {5, 32, 32, 3}}, index, labels}), HN_ERR_UNSUPPORTED, "batch");
    EXPECT_HN_FAIL(row({images, index, index}), HN_ERR_SHAPE, "labels [count]");
    EXPECT_HN_FAIL(row({{HN_U8, 4, {5, 32, 32, 5}}, index}), HN_ERR_SHAPE, "4 channels");
    EXPECT_HN_FAIL(row({{HN_U8, 4, {5, 20, 32, 3}}, index}), HN_ERR_SHAPE, "larger than");
    attr.prep.to = HN_F16;
    EXPECT_HN_FAIL(row({images, index}), HN_ERR_UNSUPPORTED, "to f32 or bf16");
}

#ifdef HONE_CUDA

struct OnDevice {
    Problem p;
    DeviceArray<uint8_t> images;
    DeviceArray<int32_t> labels, index, y_labels;
    DeviceArray<hn_rng_state> state;
    DeviceMatrix y;

    OnDevice(const Shape &s, hn_dtype t)
        : p(s, t), images(p.images), labels(p.labels), index(p.index), y_labels((size_t)s.n),
          state(std::vector<hn_rng_state>{p.state}),
          y(t, s.n * s.out_height * s.out_width, s.out_channels, s.gap)
    {
    }
    hn_image_prep_args args()
    {
        auto a = p.args();
        a.images = images.data(), a.labels = labels.data(), a.index = index.data();
        a.y_labels = y_labels.data(), a.state = state.data(), a.y = y.data();
        return a;
    }
    Result run(hn_stream stream = nullptr)
    {
        const auto a = args();
        EXPECT_HN_OK(hn_image_prep_cuda(&a, stream));
        return {y.values(), y_labels.host()};
    }
};

class ImagePrepCuda : public ::testing::TestWithParam<Shape> {};

TEST_P(ImagePrepCuda, CudaGivesTheBitsOfTheCpu)
{
    HN_NEED_CUDA();
    for (const hn_dtype t : {HN_F32, HN_BF16}) {
        OnDevice d(GetParam(), t);
        const Result got = d.run(), want = d.p.run(hn_image_prep_cpu);
        EXPECT_EQ(got.labels, want.labels);
        EXPECT_TRUE(same_bits(got.y, want.y)) << max_abs(got.y, want.y);
    }
}

/* A replay reads indices and random state when it runs. */
TEST_P(ImagePrepCuda, CapturedGraphFollowsIndexAndStep)
{
    HN_NEED_CUDA();
    OnDevice d(GetParam(), HN_BF16);
    const auto a = d.args();
    CapturedGraph graph([&](hn_stream s) { EXPECT_HN_OK(hn_image_prep_cuda(&a, s)); });
    for (int step = 0; step < 3; step++) {
        d.p.state.step++, d.p.state.row_offset += 3;
        std::rotate(d.p.index.begin(), d.p.index.begin() + 1, d.p.index.end());
        d.state.assign({d.p.state}), d.index.assign(d.p.index);
        graph.launch();
        const Result got = {d.y.values(), d.y_labels.host()};
        EXPECT_TRUE(got == d.p.run(hn_image_prep_cpu)) << step;
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, ImagePrepCuda, ::testing::ValuesIn(kShapes));

TEST(ImagePrepCudaOptions, ReplicasHaveRandomRowsOfTheirOwn)
{
    HN_NEED_CUDA();
    expect_own_random_rows([](Problem &p, const hn_image_prep_args &host) {
        OnDevice d(p.s, HN_F32);
        DeviceArray<ReplicaState> states(kReplicaStates);
        auto a = d.args();
        a.flip = host.flip, a.replicas = host.replicas, a.state_stride = host.state_stride;
        a.state = &states.data()->state;
        EXPECT_HN_OK(hn_image_prep_cuda(&a, nullptr));
        return d.y.values();
    });
}

/* Thousands of boxes, which are drawn in double: the host's and the device's arithmetic agree. */
TEST(ImagePrepCudaBoxes, AreThoseOfTheHost)
{
    HN_NEED_CUDA();
    OnDevice d({1, 97, 131, 1, 4000, 3, 3, 1, true, true, 0, 0}, HN_F32);
    d.p.index.assign(4000, 0);
    d.index.assign(d.p.index);
    EXPECT_TRUE(d.run() == d.p.run(hn_image_prep_fast));
}

TEST(ImagePrepCudaOptions, UnknownIndexIsPadding)
{
    HN_NEED_CUDA();
    OnDevice d({3, 4, 4, 3, 4, 4, 4, 4, false, true, 1, 0}, HN_F32);
    d.index.assign({0, 3, INT32_MAX, INT32_MIN});
    const Result r = d.run();
    EXPECT_EQ(r.labels,
              (std::vector<int32_t>{100, HN_LABEL_IGNORED, HN_LABEL_IGNORED, HN_LABEL_IGNORED}));
    for (size_t i = 64; i < r.y.size(); i++) ASSERT_EQ(r.y[i], 0);
}
#endif

} // namespace
