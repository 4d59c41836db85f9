/* The anchor penalty and accumulated squares of gradients: hand values, PyTorch's numbers, fast
 * against the twin, replicas, shared references, repeatability, errors. */
#include "kernels/optim/anchor.h"

#include "golden_test.h"
#include "graph_test.h"
#include "kernel_test.h"
#include "kernels/optim/square_accumulate.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

struct Shape {
    int64_t n, replicas;
    bool shared;  /* ref, fisher and count serve all replicas */
    bool aligned; /* replicas begin on 16 bytes */
};

std::ostream &operator<<(std::ostream &o, const Shape &s)
{
    return o << s.n << " x " << s.replicas << (s.shared ? " shared" : "")
             << (s.aligned ? " aligned" : "");
}

/* Arrays of a range on the host, or on the device. */
template <template <class> class Array>
struct Range {
    const Shape s;
    const int64_t stride, grad_stride;
    std::vector<float> first_p, first_ref, first_fisher, first_grad, first_count;
    Array<float> p, ref, fisher, grad, count, loss;

    explicit Range(const Shape &shape)
        : s(shape), stride(s.aligned ? (s.n + 7) / 8 * 8 : s.n + 3),
          grad_stride(s.aligned ? (s.n + 8) / 8 * 8 : s.n + 5),
          first_p(random(s.replicas * stride, 1)), first_ref(random(reads() * stride, 2)),
          first_fisher(positive(reads() * stride, 3)),
          first_grad(random(s.replicas * grad_stride, 4)), first_count(positive(2 * reads(), 5)),
          p(first_p), ref(first_ref), fisher(first_fisher), grad(first_grad), count(first_count),
          loss(std::vector<float>((size_t)(3 * s.replicas), 10))
    {
    }
    int64_t reads() const { return s.shared ? 1 : s.replicas; }
    static std::vector<float> random(int64_t n, unsigned seed)
    {
        return normal_f32((size_t)n, seed);
    }
    static std::vector<float> positive(int64_t n, unsigned seed)
    {
        auto v = random(n, seed);
        for (auto &e : v) e = 0.5f + std::fabs(e);
        return v;
    }
    hn_anchor_args anchor()
    {
        hn_anchor_args a = {};
        a.p = p.data(), a.ref = ref.data(), a.fisher = fisher.data(), a.count = count.data();
        a.grad = grad.data(), a.loss = loss.data();
        a.n = s.n, a.replicas = s.replicas, a.weight = 0.3f;
        a.stride = stride, a.grad_stride = grad_stride, a.loss_stride = 3;
        a.ref_stride = a.fisher_stride = s.shared ? 0 : stride;
        a.count_stride = s.shared ? 0 : 2;
        return a;
    }
    /* Into fisher, which must not be shared. */
    hn_square_accumulate_args squares()
    {
        hn_square_accumulate_args a = {};
        a.f = fisher.data(), a.grad = grad.data(), a.count = count.data();
        a.n = s.n, a.replicas = s.replicas, a.stride = stride, a.grad_stride = grad_stride;
        a.count_stride = 2, a.keep = 0.9f, a.scale = 0.25f;
        return a;
    }
};

using Host = Range<GuardedArray>;

/* What lies behind n in every replica is as it was. */
void expect_gaps_kept(const std::vector<float> &v, const std::vector<float> &before, int64_t n,
                      int64_t stride)
{
    for (size_t i = 0; i < v.size(); i++)
        if ((int64_t)i % stride >= n) {
            ASSERT_EQ(v[i], before[i]) << "wrote between replicas";
        }
}

void anchor_twin(Host &r)
{
    const auto a = r.anchor();
    EXPECT_HN_OK(hn_anchor_cpu(&a));
}

void anchor_fast(Host &r)
{
    const auto a = r.anchor();
    Scratch scratch(hn_anchor_fast_scratch(&a));
    EXPECT_HN_OK(hn_anchor_fast(&a, scratch.data()));
}

void squares_fast(Host &r)
{
    const auto a = r.squares();
    EXPECT_HN_OK(hn_square_accumulate_fast(&a));
}

const Shape kShapes[] = {{1, 1, false, false},    {37, 1, false, false},  {4096, 1, false, true},
                         {4097, 1, false, true},  {13, 3, false, false},  {13, 3, true, true},
                         {20011, 1, false, true}, {9000, 2, true, false}, {8200, 2, false, true}};

class Anchor : public ::testing::TestWithParam<Shape> {};

TEST_P(Anchor, FastMatchesTwin)
{
    Host twin(GetParam()), fast(GetParam());
    anchor_twin(twin), anchor_fast(fast);
    EXPECT_LT(rel_l2(fast.grad.host(), twin.grad.host()), 3e-7); /* fp32, element by element */
    EXPECT_LT(rel_l2(fast.loss.host(), twin.loss.host()), 3e-7); /* sums in double */
    expect_gaps_kept(fast.grad.host(), fast.first_grad, fast.s.n, fast.grad_stride);
    EXPECT_TRUE(same_bits(fast.p.host(), fast.first_p));
}

TEST_P(Anchor, SameBitsForAnyNumberOfThreads)
{
    Host one(GetParam()), three(GetParam());
    on_threads(1, [&] { anchor_fast(one); });
    on_threads(3, [&] { anchor_fast(three); });
    EXPECT_TRUE(same_bits(one.grad.host(), three.grad.host()));
    EXPECT_TRUE(same_bits(one.loss.host(), three.loss.host()));
}

TEST_P(Anchor, SquaresFastMatchTwin)
{
    Shape s = GetParam();
    s.shared = false;
    Host twin(s), fast(s);
    const auto a = twin.squares();
    EXPECT_HN_OK(hn_square_accumulate_cpu(&a));
    on_threads(3, [&] { squares_fast(fast); });
    EXPECT_LT(rel_l2(fast.fisher.host(), twin.fisher.host()), 2e-7);
    expect_gaps_kept(fast.fisher.host(), fast.first_fisher, s.n, fast.stride);
}

INSTANTIATE_TEST_SUITE_P(Shapes, Anchor, ::testing::ValuesIn(kShapes));

TEST(AnchorTwin, MatchesHandComputedValues)
{
    float p[] = {3, -1}, ref[] = {1, 1}, fisher[] = {2, 0.5f}, grad[] = {10, 20};
    float count = 4, loss = 1;
    hn_anchor_args a = {};
    a.p = p, a.ref = ref, a.fisher = fisher, a.grad = grad, a.count = &count, a.loss = &loss;
    a.n = 2, a.weight = 0.5f;
    EXPECT_HN_OK(hn_anchor_cpu(&a)); /* 0.5 * 4 = 2; differences 2, -2 */
    EXPECT_EQ(grad[0], 10 + 2 * 2 * 2);
    EXPECT_EQ(grad[1], 20 - 2 * 0.5f * 2);
    EXPECT_EQ(loss, 1 + 0.5f * 2 * (2 * 4 + 0.5f * 4));
    a.fisher = nullptr, a.count = nullptr, a.loss = nullptr; /* FedProx */
    EXPECT_EQ(hn_anchor_fast_scratch(&a), 0u);
    EXPECT_HN_OK(hn_anchor_fast(&a, nullptr));
    EXPECT_EQ(grad[0], 18 + 0.5f * 2);
    EXPECT_EQ(grad[1], 18 - 0.5f * 2);
}

TEST(AnchorTwin, EqualsPyTorch)
{
    const Golden file = Golden::load("tests/golden/loss.json");
    const Golden c = file["anchor"];
    auto p = c["p"].numbers(), ref = c["ref"].numbers(), fisher = c["fisher"].numbers();
    auto grad = c["grad"].numbers();
    float count = c["count"].number(), loss = 0;
    hn_anchor_args a = {};
    a.p = p.data(), a.ref = ref.data(), a.fisher = fisher.data(), a.grad = grad.data();
    a.count = &count, a.loss = &loss, a.n = (int64_t)p.size(), a.weight = c["weight"].number();
    EXPECT_HN_OK(hn_anchor_cpu(&a));
    EXPECT_LT(rel_l2(grad, c["after"].numbers()), 2e-7);
    EXPECT_NEAR(loss, c["loss"].number(), 1e-6f * loss);
}

TEST(SquareAccumulate, MatchesHandComputedValuesAndPyTorch)
{
    float f[] = {2, 4}, grad[] = {3, -1}, count = 0;
    hn_square_accumulate_args a = {};
    a.f = f, a.grad = grad, a.n = 2, a.keep = 0.5f, a.scale = 2;
    EXPECT_HN_OK(hn_square_accumulate_cpu(&a));
    EXPECT_EQ(f[0], 1 + 2 * 9);
    EXPECT_EQ(f[1], 2 + 2);
    a.count = &count; /* nothing was trained: nothing is added */
    EXPECT_HN_OK(hn_square_accumulate_fast(&a));
    EXPECT_EQ(f[0], 9.5f);

    const Golden file = Golden::load("tests/golden/loss.json");
    const Golden c = file["fisher"];
    auto sum = c["f"].numbers();
    a.f = sum.data(), a.n = (int64_t)sum.size();
    a.keep = c["keep"].number(), a.scale = c["scale"].number();
    for (size_t i = 0; i < c["grads"].size(); i++) {
        const auto g = c["grads"].at(i).numbers();
        count = c["counts"].at(i).number();
        a.grad = g.data();
        EXPECT_HN_OK(hn_square_accumulate_cpu(&a));
        a.keep = 1;
    }
    EXPECT_LT(rel_l2(sum, c["after"].numbers()), 2e-7);
}

TEST(AnchorTwin, RefusesWhatTheContractExcludes)
{
    Host r({13, 3, false, false});
    const auto good = r.anchor();
    const auto refused = [&](auto change, hn_status code, const char *part) {
        auto a = good;
        change(a);
        Scratch scratch(hn_anchor_fast_scratch(&good));
        EXPECT_HN_FAIL(hn_anchor_cpu(&a), code, part);
        EXPECT_HN_FAIL(hn_anchor_fast(&a, scratch.data()), code, part);
    };
    using A = hn_anchor_args;
    refused([](A &a) { a.p = nullptr; }, HN_ERR_ARG, "p");
    refused([](A &a) { a.ref = nullptr; }, HN_ERR_ARG, "ref");
    refused([](A &a) { a.grad = nullptr; }, HN_ERR_ARG, "grad");
    refused([](A &a) { a.n = 0; }, HN_ERR_SHAPE, "0 elements");
    refused([](A &a) { a.grad_stride = 12; }, HN_ERR_SHAPE, "grad");
    refused([](A &a) { a.ref_stride = 12; }, HN_ERR_SHAPE, "ref");
    refused([](A &a) { a.fisher_stride = 12; }, HN_ERR_SHAPE, "fisher");
    refused([](A &a) { a.loss_stride = 0; }, HN_ERR_SHAPE, "loss");
    refused([](A &a) { a.weight = INFINITY; }, HN_ERR_ARG, "weight");
    EXPECT_TRUE(same_bits(r.grad.host(), r.first_grad));
    EXPECT_HN_FAIL(hn_anchor_fast(&good, nullptr), HN_ERR_ARG, "scratch");
}

TEST(SquareAccumulate, RefusesWhatTheContractExcludes)
{
    Host r({13, 3, false, false});
    const auto good = r.squares();
    const auto refused = [&](auto change, hn_status code, const char *part) {
        auto a = good;
        change(a);
        EXPECT_HN_FAIL(hn_square_accumulate_cpu(&a), code, part);
        EXPECT_HN_FAIL(hn_square_accumulate_fast(&a), code, part);
    };
    using A = hn_square_accumulate_args;
    refused([](A &a) { a.f = nullptr; }, HN_ERR_ARG, "f");
    refused([](A &a) { a.grad = nullptr; }, HN_ERR_ARG, "grad");
    refused([](A &a) { a.n = 0; }, HN_ERR_SHAPE, "0 elements");
    refused([](A &a) { a.stride = 12; }, HN_ERR_SHAPE, "f");
    refused([](A &a) { a.keep = NAN; }, HN_ERR_ARG, "keep");
    EXPECT_TRUE(same_bits(r.fisher.host(), r.first_fisher));
}

/* A program whose trained classes have two replicas. */
class AnchorRow : public ::testing::Test {
  protected:
    hn_program *p = nullptr;
    hn_graph *g = nullptr;
    void SetUp() override
    {
        ASSERT_HN_OK(hn_program_new(2, &p));
        ASSERT_HN_OK(hn_graph_new(p, "last", true, &g));
    }
    void TearDown() override { hn_program_free(p); }
    hn_tensor *tensor(hn_mem mem, const char *name, int64_t n)
    {
        hn_tensor *t = nullptr;
        const hn_type type = hn_type_1d(HN_F32, n);
        EXPECT_HN_OK(hn_program_tensor(p, mem, name, &type, &t));
        return t;
    }
    static void fill(hn_tensor *t, int64_t replica, std::vector<float> v)
    {
        std::copy(v.begin(), v.end(), (float *)t->data + replica * hn_replica_stride(t));
    }
};

TEST_F(AnchorRow, ReplicasShareAReference)
{
    hn_tensor *const values = tensor(HN_MEM_TRAINED, "p", 2);
    hn_tensor *const grad = tensor(HN_MEM_GRAD, "g", 3);
    hn_tensor *const ref = tensor(HN_MEM_STATE, "ref", 2), *const f = tensor(HN_MEM_STATE, "f", 3);
    hn_tensor *const short_ref = tensor(HN_MEM_STATE, "short", 1);
    hn_attr attr = {};
    attr.anchor.weight = 0.5f;
    const auto row = [&](std::vector<hn_tensor *> in) {
        in.resize(6);
        return hn_emit(g, HN_OP_ANCHOR, "hold", in.data(), &attr, nullptr);
    };
    EXPECT_HN_FAIL(row({values, short_ref, grad}), HN_ERR_SHAPE, "hold (anchor)");
    EXPECT_HN_FAIL(row({values, ref, f}), HN_ERR_SHAPE, "grad is [n] or longer"); /* no replicas */
    EXPECT_HN_FAIL(row({values, ref, grad, nullptr, nullptr, short_ref}), HN_ERR_SHAPE,
                   "one a replica");
    ASSERT_HN_OK(row({values, ref, grad}));
    hn_plan_options o = {};
    ASSERT_HN_OK(hn_plan_build(p, &o));
    ASSERT_HN_OK(hn_plan_allocate(p));
    fill(ref, 0, {1, 2});
    fill(values, 0, {3, 2}), fill(values, 1, {1, 6});
    fill(grad, 0, {10, 20, 30}), fill(grad, 1, {40, 50, 60});
    hn_step_block step = {};
    const hn_run_options run = {.step = &step, .twin = false, .check = false};
    ASSERT_HN_OK(hn_graph_run(g, &run));
    const float *const one = (float *)grad->data, *const two = one + hn_replica_stride(grad);
    EXPECT_EQ(std::vector<float>(one, one + 3), (std::vector<float>{11, 20, 30}));
    EXPECT_EQ(std::vector<float>(two, two + 3), (std::vector<float>{40, 52, 60}));
}

#ifdef HONE_CUDA

using Device = Range<DeviceArray>;

class AnchorCuda : public ::testing::TestWithParam<Shape> {};

void enqueue(Device &r, void *scratch, hn_stream stream)
{
    const auto a = r.anchor();
    EXPECT_HN_OK(hn_anchor_cuda(&a, scratch, stream));
}

TEST_P(AnchorCuda, CudaMatchesCpuRepeatsAndRunsFromACapturedGraph)
{
    HN_NEED_CUDA();
    Host twin(GetParam());
    Device one(GetParam()), captured(GetParam());
    anchor_twin(twin);
    const auto a = one.anchor();
    DeviceArray<unsigned char> scratch(hn_anchor_cuda_scratch(&a));
    enqueue(one, scratch.data(), nullptr);
    scratch.host();
    EXPECT_LT(rel_l2(one.grad.host(), twin.grad.host()), 3e-7); /* fp32, element by element */
    EXPECT_LT(rel_l2(one.loss.host(), twin.loss.host()), 3e-7); /* sums in double */
    expect_gaps_kept(one.grad.host(), one.first_grad, one.s.n, one.grad_stride);
    run_captured([&](hn_stream stream) { enqueue(captured, scratch.data(), stream); });
    EXPECT_TRUE(same_bits(captured.grad.host(), one.grad.host()));
    EXPECT_TRUE(same_bits(captured.loss.host(), one.loss.host()));
}

TEST_P(AnchorCuda, WorksWithoutFisherCountAndLoss)
{
    HN_NEED_CUDA();
    Host twin(GetParam());
    Device d(GetParam());
    auto host = twin.anchor();
    auto a = d.anchor();
    host.fisher = host.count = nullptr, host.loss = nullptr;
    a.fisher = a.count = nullptr, a.loss = nullptr;
    EXPECT_HN_OK(hn_anchor_cpu(&host));
    EXPECT_HN_OK(hn_anchor_cuda(&a, nullptr, nullptr));
    EXPECT_LT(rel_l2(d.grad.host(), twin.grad.host()), 3e-7);
}

TEST_P(AnchorCuda, SquaresMatchCpuAndRunFromACapturedGraph)
{
    HN_NEED_CUDA();
    Shape s = GetParam();
    s.shared = false;
    Host twin(s);
    Device one(s), captured(s);
    const auto host = twin.squares();
    EXPECT_HN_OK(hn_square_accumulate_cpu(&host));
    const auto a = one.squares();
    EXPECT_HN_OK(hn_square_accumulate_cuda(&a, nullptr));
    EXPECT_LT(rel_l2(one.fisher.host(), twin.fisher.host()), 2e-7);
    expect_gaps_kept(one.fisher.host(), one.first_fisher, s.n, one.stride);
    run_captured([&](hn_stream stream) {
        const auto c = captured.squares();
        EXPECT_HN_OK(hn_square_accumulate_cuda(&c, stream));
    });
    EXPECT_TRUE(same_bits(captured.fisher.host(), one.fisher.host()));
}

INSTANTIATE_TEST_SUITE_P(Shapes, AnchorCuda, ::testing::ValuesIn(kShapes));
#endif

} // namespace
