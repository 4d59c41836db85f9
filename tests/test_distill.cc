/* Distillation: hand values, PyTorch's numbers, fast against the twin, ranges, padding rows, equal
 * networks, repeatability, errors. */
#include "kernels/loss/distill.h"

#include "golden_test.h"
#include "graph_test.h"
#include "kernel_test.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

struct Shape {
    int64_t rows, classes, teacher_classes, first, n;
    float temperature, weight;
};

std::ostream &operator<<(std::ostream &o, const Shape &s)
{
    return o << s.rows << "x" << s.classes << " and " << s.teacher_classes << " from " << s.first
             << ", " << s.n;
}

struct Result {
    std::vector<float> loss, dstudent, row_loss;
    bool operator==(const Result &r) const
    {
        return same_bits(loss, r.loss) && same_bits(dstudent, r.dstudent) &&
               same_bits(row_loss, r.row_loss);
    }
};

struct Problem {
    const Shape s;
    Matrix student, teacher, dstudent;
    std::vector<int32_t> labels;
    GuardedArray<float> loss, row_loss;

    Problem(const Shape &shape, hn_dtype t)
        : s(shape), student(t, s.rows, s.classes, 5), teacher(t, s.rows, s.teacher_classes, 1),
          dstudent(t, s.rows, s.classes, 2), labels((size_t)s.rows), loss(std::vector<float>{10}),
          row_loss((size_t)s.rows)
    {
        student.normal(1, 0, 3), teacher.normal(2, 0, 3);
        for (int64_t i = 0; i < s.rows; i++)
            if (i % 3 == 1) labels[(size_t)i] = HN_LABEL_IGNORED;
    }
    hn_distill_args args()
    {
        hn_distill_args a = {};
        a.student = student.data(), a.teacher = teacher.data(), a.labels = labels.data();
        a.loss_sum = loss.data(), a.dstudent = dstudent.data(), a.row_loss = row_loss.data();
        a.rows = s.rows, a.classes = s.classes, a.teacher_classes = s.teacher_classes;
        a.ld_student = student.ld(), a.ld_teacher = teacher.ld(), a.ld_dstudent = dstudent.ld();
        a.first_class = s.first, a.n_classes = s.n;
        a.temperature = s.temperature, a.weight = s.weight, a.dtype = student.dtype();
        return a;
    }
    Result result() { return {loss.host(), dstudent.values(), row_loss.host()}; }
    Result twin()
    {
        const auto a = args();
        EXPECT_HN_OK(hn_distill_cpu(&a));
        return result();
    }
    Result fast()
    {
        const auto a = args();
        Scratch scratch(hn_distill_fast_scratch(&a));
        EXPECT_HN_OK(hn_distill_fast(&a, scratch.data()));
        return result();
    }
};

void expect_close(const Result &got, const Result &want, hn_dtype t)
{
    /* A loss is a sum of differences of logarithms, each good to fp32 of about 10. */
    EXPECT_LT(rel_l2(got.row_loss, want.row_loss), 5e-6);
    EXPECT_LT(rel_l2(got.loss, want.loss), 5e-6);
    EXPECT_LT(rel_l2(got.dstudent, want.dstudent), tolerance(t));
}

const Shape kShapes[] = {{3, 2, 2, 0, 0, 1, 1},          {64, 10, 10, 0, 0, 2, 1},
                         {65, 10, 10, 0, 0, 4, 0.5f},    {130, 100, 30, 20, 10, 2, 1},
                         {9, 256, 256, 0, 0, 2, 1},      {9, 257, 300, 0, 0, 2, 3},
                         {4, 1500, 1408, 7, 1401, 0, 1}, {600, 33, 33, 0, 0, 2, -1}};

class Distill : public ::testing::TestWithParam<Shape> {};

TEST_P(Distill, FastMatchesTwin)
{
    for (const hn_dtype t : {HN_F32, HN_BF16}) {
        Problem p(GetParam(), t), reference(GetParam(), t);
        expect_close(p.fast(), reference.twin(), t);
    }
}

TEST_P(Distill, SameBitsForAnyNumberOfThreads)
{
    for (const hn_dtype t : {HN_F32, HN_BF16}) {
        Problem one(GetParam(), t), three(GetParam(), t);
        Result a, b;
        on_threads(1, [&] { a = one.fast(); });
        on_threads(3, [&] { b = three.fast(); });
        EXPECT_TRUE(a == b);
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Distill, ::testing::ValuesIn(kShapes));

/* Both CPU functions. */
template <class Fn>
void on_both(Fn fn)
{
    fn([](Problem &p) { return p.twin(); });
    fn([](Problem &p) { return p.fast(); });
}

TEST(DistillFwd, MatchesHandComputedValues)
{
    on_both([](auto run) {
        Problem p({2, 3, 3, 1, 2, 2, 3}, HN_F32);
        const float ln3 = std::log(3.0f);
        /* z / T: student 0, 0: p = 1/2; teacher ln 3, 0: q = 3/4, 1/4; row 1 is padding */
        p.student.assign({9, 4, 4, 1, 2, 3});
        p.teacher.assign({7, 2 * ln3, 0, 1, 1, 1});
        const Result r = run(p);
        const float kl = 0.75f * std::log(1.5f) + 0.25f * std::log(0.5f);
        EXPECT_NEAR(r.row_loss[0], 3 * 4 * kl, 2e-6f);
        EXPECT_EQ(r.row_loss[1], 0);
        EXPECT_NEAR(r.loss[0], 10 + 12 * kl, 2e-6f);
        EXPECT_LT(max_abs(r.dstudent, std::vector<float>{0, -1.5f, 1.5f, 0, 0, 0}), 1e-6);
    });
}

TEST(DistillFwd, EqualsPyTorch)
{
    const Golden cases = Golden::load("tests/golden/loss.json");
    const Golden list = cases["distill"];
    ASSERT_GT(list.size(), 0u);
    for (size_t i = 0; i < list.size(); i++)
        on_both([&](auto run) {
            const Golden c = list.at(i);
            Problem p({c["rows"].integer(), c["classes"].integer(), c["teacher_classes"].integer(),
                       c["first_class"].integer(), c["n_classes"].integer(),
                       c["temperature"].number(), c["weight"].number()},
                      HN_F32);
            p.student.assign(c["student"].numbers());
            p.teacher.assign(c["teacher"].numbers());
            p.labels.assign((size_t)p.s.rows, 0);
            if (!c["labels"].is_null()) p.labels = c["labels"].integers();
            const Result r = run(p);
            EXPECT_NEAR(r.loss[0], 10 + c["loss"].number(), 1e-5f * (10 + c["loss"].number()));
            EXPECT_LT(rel_l2(r.dstudent, c["dstudent"].numbers()), 2e-6);
        });
}

TEST(DistillFwd, IsZeroForEqualNetworksAndTakesNothingFromImpossibleClasses)
{
    on_both([](auto run) {
        Problem equal({5, 40, 40, 0, 0, 2, 1}, HN_F32);
        equal.teacher.assign(equal.student.values());
        Result r = run(equal);
        EXPECT_EQ(r.loss[0], 10);
        EXPECT_LT(max_abs(r.dstudent, std::vector<float>(r.dstudent.size())), 1e-7); /* fused */
        Problem none({1, 3, 3, 0, 0, 1, 1}, HN_F32);
        none.student.assign({0, 0, 0});
        none.teacher.assign({0, 0, -INFINITY});
        r = run(none);
        EXPECT_NEAR(r.row_loss[0], std::log(1.5f), 1e-6f);
        EXPECT_NEAR(r.dstudent[2], 1.0f / 3, 1e-6f);
    });
}

TEST(DistillFwd, RefusesWhatTheContractExcludes)
{
    Problem p({4, 10, 8, 2, 5, 2, 1}, HN_F32);
    const auto good = p.args();
    const auto refused = [&](auto change, hn_status code, const char *part) {
        auto a = good;
        change(a);
        Scratch scratch(hn_distill_fast_scratch(&good));
        EXPECT_HN_FAIL(hn_distill_cpu(&a), code, part);
        EXPECT_HN_FAIL(hn_distill_fast(&a, scratch.data()), code, part);
    };
    using A = hn_distill_args;
    refused([](A &a) { a.student = nullptr; }, HN_ERR_ARG, "student");
    refused([](A &a) { a.teacher = nullptr; }, HN_ERR_ARG, "teacher");
    refused([](A &a) { a.dtype = HN_F16; }, HN_ERR_UNSUPPORTED, "distill");
    refused([](A &a) { a.ld_teacher = 7; }, HN_ERR_SHAPE, "teacher");
    refused([](A &a) { a.ld_dstudent = 9; }, HN_ERR_SHAPE, "dstudent");
    refused([](A &a) { a.n_classes = 0; }, HN_ERR_SHAPE, "of the teacher with 8");
    refused([](A &a) { a.n_classes = 9; }, HN_ERR_SHAPE, "of the student with 10");
    refused([](A &a) { a.temperature = -1; }, HN_ERR_ARG, "temperature -1");
    refused([](A &a) { a.weight = NAN; }, HN_ERR_ARG, "weight");
    EXPECT_TRUE(std::isnan(p.dstudent.values()[0])) << "wrote before all checks passed";
    EXPECT_EQ(p.loss.host()[0], 10);
}

class DistillRow : public Graph {};

TEST_F(DistillRow, RefusesByName)
{
    hn_graph *g = graph("micro", true);
    hn_tensor *const student = input("student", 6, 10), *const teacher = input("teacher", 6, 8);
    hn_tensor *const fewer = input("fewer", 5, 10), *const loss = input("loss", 1, 1);
    hn_attr attr = {};
    const auto row = [&](std::vector<hn_tensor *> in) {
        return hn_emit(g, HN_OP_DISTILL, "old", in.data(), &attr, nullptr);
    };
    EXPECT_HN_FAIL(row({student, fewer, loss, nullptr}), HN_ERR_SHAPE, "old (distill)");
    EXPECT_HN_FAIL(row({student, teacher, teacher, nullptr}), HN_ERR_SHAPE, "loss is f32 [1]");
    EXPECT_HN_FAIL(row({student, teacher, loss, loss}), HN_ERR_SHAPE, "labels is i32");
    EXPECT_HN_FAIL(row({student, teacher, loss, nullptr}), HN_ERR_SHAPE, "range of classes");
    attr.distill.n_classes = 8;
    EXPECT_HN_OK(row({student, teacher, loss, nullptr}));
}

#ifdef HONE_CUDA

struct OnDevice {
    Problem p;
    DeviceMatrix student, teacher, dstudent;
    DeviceArray<int32_t> labels;
    DeviceArray<float> loss, row_loss;

    OnDevice(const Shape &s, hn_dtype t)
        : p(s, t), student(t, s.rows, s.classes, 5), teacher(t, s.rows, s.teacher_classes, 1),
          dstudent(t, s.rows, s.classes, 2), labels(p.labels), loss(std::vector<float>{10}),
          row_loss((size_t)s.rows)
    {
        student.assign(p.student.values()), teacher.assign(p.teacher.values());
    }
    hn_distill_args args()
    {
        auto a = p.args();
        a.student = student.data(), a.teacher = teacher.data(), a.labels = labels.data();
        a.loss_sum = loss.data(), a.dstudent = dstudent.data(), a.row_loss = row_loss.data();
        return a;
    }
    Result result() { return {loss.host(), dstudent.values(), row_loss.host()}; }
    Result run()
    {
        const auto a = args();
        DeviceArray<unsigned char> scratch(hn_distill_cuda_scratch(&a));
        EXPECT_HN_OK(hn_distill_cuda(&a, scratch.data(), nullptr));
        scratch.host();
        return result();
    }
};

class DistillCuda : public ::testing::TestWithParam<Shape> {};

TEST_P(DistillCuda, CudaMatchesCpu)
{
    HN_NEED_CUDA();
    for (const hn_dtype t : {HN_F32, HN_BF16}) {
        OnDevice d(GetParam(), t);
        expect_close(d.run(), d.p.twin(), t);
    }
}

TEST_P(DistillCuda, CudaRepeatsBitForBitAndRunsFromACapturedGraph)
{
    HN_NEED_CUDA();
    for (const hn_dtype t : {HN_F32, HN_BF16}) {
        OnDevice one(GetParam(), t), two(GetParam(), t), captured(GetParam(), t);
        const Result want = one.run();
        EXPECT_TRUE(two.run() == want);
        const auto a = captured.args();
        DeviceArray<unsigned char> scratch(hn_distill_cuda_scratch(&a));
        run_captured(
            [&](hn_stream stream) { EXPECT_HN_OK(hn_distill_cuda(&a, scratch.data(), stream)); });
        EXPECT_TRUE(captured.result() == want);
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, DistillCuda, ::testing::ValuesIn(kShapes));

TEST(DistillCudaOptions, IsZeroForEqualNetworksAndTakesAllRowsWithoutLabels)
{
    HN_NEED_CUDA();
    OnDevice equal({70, 40, 40, 0, 0, 2, 1}, HN_F32);
    equal.teacher.assign(equal.p.student.values());
    const Result r = equal.run();
    EXPECT_EQ(r.loss[0], 10);
    EXPECT_LT(max_abs(r.dstudent, std::vector<float>(r.dstudent.size())), 1e-7); /* fused */
    OnDevice all({7, 40, 40, 0, 0, 2, 1}, HN_F32);
    auto a = all.args(), host = all.p.args();
    a.labels = host.labels = nullptr;
    DeviceArray<unsigned char> scratch(hn_distill_cuda_scratch(&a));
    EXPECT_HN_OK(hn_distill_cuda(&a, scratch.data(), nullptr));
    EXPECT_HN_OK(hn_distill_cpu(&host));
    expect_close(all.result(), all.p.result(), HN_F32);
}
#endif

} // namespace
