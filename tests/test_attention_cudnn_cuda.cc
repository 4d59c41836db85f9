/* Attention through cuDNN against the CPU twin: packed and grouped, masks, layouts, rows that no
 * sequence covers, repeatability, captured replay, limits, and the choice that a plan makes. */
#include "attention_test.h"
#include "kernels/attention/attention_cudnn.h"
#include "runtime/base/alloc.h"
#include "runtime/graph/plan.h"
#include "runtime/graph/run.h"
#include "runtime/graph/tensor.h"

namespace {

/* One library handle for all tests. NULL: cuDNN is not there, and the test is skipped. */
hn_attention_cudnn *cudnn()
{
    static hn_attention_cudnn *c = [] {
        hn_cudnn *lib = nullptr;
        hn_attention_cudnn *opened = nullptr;
        if (hn_cudnn_open(&lib) != HN_OK || hn_attention_cudnn_open(lib, &opened) != HN_OK)
            std::printf("%s\n", hn_last_error());
        return opened;
    }();
    return c;
}

#define HN_NEED_CUDNN()                                                                  \
    HN_NEED_CUDA();                                                                      \
    if (cudnn() == nullptr) {                                                            \
        ASSERT_EQ(std::getenv("HN_REQUIRE_GPU"), nullptr) << "no cuDNN on this machine"; \
        GTEST_SKIP() << "no cuDNN on this machine";                                      \
    }

size_t planned(const hn_attention_args &a, hn_cudnn_pass pass)
{
    size_t bytes = 0;
    EXPECT_HN_OK(hn_attention_cudnn_plan(cudnn(), &a, pass, SIZE_MAX, &bytes));
    return bytes;
}

struct Call {
    DeviceProblem<hn_bf16> p;
    hn_attention_args a;
    hn_cudnn_pass pass;
    DeviceArray<char> fwd, bwd; /* scratch, all NaN: it needs no clearing */

    /* even: the length of all sequences, which lie side by side; 0: packed */
    explicit Call(const Shape &s, hn_cudnn_pass how = HN_CUDNN_BWD, int64_t gap = 0,
                  int64_t even = 0)
        : p(s, gap), a(args_of(p, even)), pass(how), fwd(planned(a, HN_CUDNN_FWD)),
          bwd(planned(a, how))
    {
    }
    static hn_attention_args args_of(DeviceProblem<hn_bf16> &p, int64_t even)
    {
        hn_attention_args a = p.args();
        a.even = even > 0, a.longest = even;
        return a;
    }
    void enqueue(hn_stream stream)
    {
        EXPECT_HN_OK(hn_attention_cudnn_fwd(cudnn(), &a, fwd.data(), stream));
        EXPECT_HN_OK(hn_attention_cudnn_bwd(cudnn(), &a, pass, bwd.data(), stream));
    }
    Problem<hn_bf16>::Result result()
    {
        fwd.host(), bwd.host(); /* guard bands */
        return p.result();
    }
    Problem<hn_bf16>::Result run()
    {
        enqueue(nullptr);
        return result();
    }
};

/* p and dt are rounded to bf16 (2^-9 each, averaged over a row), o and the gradients once more at
 * the store (1.7e-3 of the norm); measured at most 2.0e-3 (o) and 3.5e-3 (gradients). */
void expect_close(const Problem<hn_bf16>::Result &got, const Problem<hn_bf16>::Result &want)
{
    EXPECT_LT(rel_l2(got.o, want.o), 4e-3);
    EXPECT_LT(max_abs(got.lse, want.lse), 1e-4); /* of values up to about 10 */
    EXPECT_LT(rel_l2(got.dq, want.dq), 6e-3);
    EXPECT_LT(rel_l2(got.dk, want.dk), 6e-3);
    EXPECT_LT(rel_l2(got.dv, want.dv), 6e-3);
}

class AttentionCudnn : public ::testing::TestWithParam<Shape> {};

TEST_P(AttentionCudnn, MatchesCpu)
{
    HN_NEED_CUDNN();
    Problem<hn_bf16> reference(GetParam(), 0);
    const auto want = reference.twin();
    for (const hn_cudnn_pass pass : {HN_CUDNN_BWD, HN_CUDNN_BWD_FAST}) {
        SCOPED_TRACE(pass == HN_CUDNN_BWD ? "deterministic" : "fast");
        expect_close(Call(GetParam(), pass).run(), want);
    }
}

TEST_P(AttentionCudnn, RepeatsBitForBit)
{
    HN_NEED_CUDNN();
    Call first(GetParam());
    const auto want = first.run();
    for (int i = 0; i < 3; i++) EXPECT_TRUE(Call(GetParam()).run() == want);
}

TEST_P(AttentionCudnn, RunsFromACapturedGraph)
{
    HN_NEED_CUDNN();
    Call plain(GetParam()), captured(GetParam());
    const auto want = plain.run();
    run_captured([&](cudaStream_t stream) { captured.enqueue(stream); }, 2);
    EXPECT_TRUE(captured.result() == want);
}

/* clang-format off */
const Shape shapes[] = {
    {"one_token", {0, 1}, {}, 1, 1, 1, 1, 64, 0, 0, 0, true},
    {"packed", {0, 5, 5, 12, 129}, {}, 129, 129, 6, 2, 64, 0, 0, 0, true},
    {"packed_128", {0, 127, 128, 257}, {}, 257, 257, 4, 2, 128, 0, 0, 0, true},
    {"all_heads", {0, 63, 150}, {}, 150, 150, 4, 4, 64, 0, 0, 0, true},
    {"one_kv_head", {0, 100, 201}, {}, 201, 201, 4, 1, 64, 0, 0, 0, true},
    {"uncovered_rows", {2, 90, 200}, {}, 270, 270, 4, 2, 64, 0, 0, 0, true},
    {"nothing_covered", {0, 0, 0}, {}, 50, 50, 2, 1, 64, 0, 0, 0, true},
    {"not_causal", {0, 13, 170}, {}, 170, 170, 4, 2, 64, 0, 0, 0, false},
    {"not_causal_128", {0, 13, 170}, {}, 170, 170, 2, 2, 128, 0, 0, 0, false},
    {"window", {0, 90, 300}, {}, 300, 300, 4, 2, 64, 0, 17, 0, true},
    {"window_128", {0, 290}, {}, 290, 290, 2, 2, 128, 0, 140, 0, true},
    {"window_wider_than_all", {0, 70}, {}, 70, 70, 2, 2, 64, 0, 500, 0, true},
    {"narrow_heads", {0, 40, 150}, {}, 150, 150, 4, 2, 32, 0, 0, 0, true},
    {"odd_heads", {0, 40, 150}, {}, 150, 150, 4, 2, 80, 0, 0, 0, true},
    {"long", {0, 700, 1100}, {}, 1100, 1100, 2, 1, 64, 0, 0, 0, true},
};
/* clang-format on */
INSTANTIATE_TEST_SUITE_P(Shapes, AttentionCudnn, ::testing::ValuesIn(shapes),
                         [](const auto &i) { return std::string(i.param.name); });

/* Offsets are read when the kernels run: one plan and one capture serve every packing. */
TEST(AttentionCudnnPlan, ServesEveryPacking)
{
    HN_NEED_CUDNN();
    const Shape empty = {"", {0, 0, 0, 0}, {}, 200, 200, 4, 2, 64, 0, 0, 0, true};
    Shape full = empty;
    full.q_offsets = {0, 10, 150, 190};
    Call captured(empty);
    CapturedGraph graph([&](hn_stream stream) { captured.enqueue(stream); });
    captured.p.q_offsets.assign(full.q_offsets);
    graph.launch();
    Problem<hn_bf16> reference(full, 0);
    expect_close(captured.result(), reference.twin());
}

/* `longest` makes the plan smaller, and changes nothing else. */
TEST(AttentionCudnnPlan, IsSmallerForShorterSequences)
{
    HN_NEED_CUDNN();
    const Shape s = {"", {0, 100, 180, 300}, {}, 300, 300, 4, 2, 64, 0, 0, 0, true};
    Call wide(s), tight(s);
    tight.a.longest = 128;
    EXPECT_LT(planned(tight.a, HN_CUDNN_BWD), planned(wide.a, HN_CUDNN_BWD));
    (void)planned(tight.a, HN_CUDNN_FWD);
    Problem<hn_bf16> reference(s, 0);
    expect_close(tight.run(), reference.twin());
}

/* Gaps between rows, in multiples of 8 elements so that rows stay on 16-byte boundaries; k and v of
 * different strides, which packed sequences may not have. */
TEST(AttentionCudnnPlan, LeavesGapsBetweenRowsAlone)
{
    HN_NEED_CUDNN();
    const Shape s = {"", {0, 100, 200}, {}, 200, 200, 4, 2, 64, 0, 0, 0, true};
    for (const int64_t gap : {8, 128}) { /* with 128, dv a query head lies in the gaps of dk */
        Problem<hn_bf16> reference(s, gap);
        const auto want = reference.twin();
        expect_close(Call(s, HN_CUDNN_BWD, gap, 100).run(), want);
        expect_close(Call(s, HN_CUDNN_BWD_FAST, gap, 100).run(), want);
    }
}

/* No mask at all: images of as many patches each. */
TEST(AttentionCudnnPlan, EvenSequencesNeedNoMask)
{
    HN_NEED_CUDNN();
    const Shape s = {"", {0, 197, 394}, {}, 394, 394, 3, 3, 64, 0, 0, 0, false};
    Problem<hn_bf16> reference(s, 0);
    const auto want = reference.twin();
    expect_close(Call(s, HN_CUDNN_BWD, 0, 197).run(), want);
    expect_close(Call(s, HN_CUDNN_BWD_FAST, 0, 197).run(), want);
}

/* Tensors with gaps between their rows, one at a time and together; packed only where the limits
 * allow. */
struct Strided {
    const char *name;
    std::vector<int> gap; /* of q k v o dout dq dk dv */
    bool even_only;
};

class AttentionCudnnStride
    : public ::testing::TestWithParam<std::tuple<Strided, hn_cudnn_pass, bool>> {};

TEST_P(AttentionCudnnStride, IsHonoured)
{
    HN_NEED_CUDNN();
    const auto &[strided, pass, even] = GetParam();
    if (strided.even_only && !even) GTEST_SKIP() << "outside the limits";
    Shape s = {"", {0, 30, 190}, {}, 200, 200, 4, 2, 64, 0, 0, 0, true};
    if (even) s.q_offsets = {0, 100, 200};
    Problem<hn_bf16> reference(s, 0);
    const auto want = reference.twin();
    const int64_t rows = 200, q = 256, kv = 128;
    const auto &g = strided.gap;
    DeviceProblem<hn_bf16> p(s, 0);
    auto a = p.args();
    const auto widened = [&](const hn_bf16 *v, int64_t cols, int gap) {
        std::vector<hn_bf16> wide((size_t)(rows * (cols + gap)));
        for (int64_t i = 0; i < rows; i++)
            for (int64_t c = 0; c < cols; c++) wide[i * (cols + gap) + c] = v[i * cols + c];
        return wide;
    };
    DeviceArray<hn_bf16> in_q(widened(reference.q.data(), q, g[0])),
        in_k(widened(reference.k.data(), kv, g[1])), in_v(widened(reference.v.data(), kv, g[2])),
        in_dout(widened(reference.dout.data(), q, g[4]));
    DeviceMatrix o(HN_BF16, rows, q, g[3]), dq(HN_BF16, rows, q, g[5]), dk(HN_BF16, rows, kv, g[6]),
        dv(HN_BF16, rows, kv, g[7]);
    a.even = even, a.longest = even ? 100 : 0;
    a.q = in_q.data(), a.k = in_k.data(), a.v = in_v.data(), a.dout = in_dout.data();
    a.ld_q = q + g[0], a.ld_k = kv + g[1], a.ld_v = kv + g[2], a.ld_dout = q + g[4];
    a.dq = dq.data(), a.dk = dk.data(), a.dv = dv.data(), a.o = o.data();
    a.ld_dq = dq.ld(), a.ld_dk = dk.ld(), a.ld_dv = dv.ld(), a.ld_o = o.ld();
    DeviceArray<char> fwd(planned(a, HN_CUDNN_FWD)), bwd(planned(a, pass));
    ASSERT_HN_OK(hn_attention_cudnn_fwd(cudnn(), &a, fwd.data(), nullptr));
    EXPECT_LT(rel_l2(o.values(), want.o), 4e-3);
    ASSERT_HN_OK(hn_attention_cudnn_bwd(cudnn(), &a, pass, bwd.data(), nullptr));
    EXPECT_LT(rel_l2(dq.values(), want.dq), 6e-3);
    EXPECT_LT(rel_l2(dk.values(), want.dk), 6e-3);
    EXPECT_LT(rel_l2(dv.values(), want.dv), 6e-3);
}

/* clang-format off */
const Strided strided[] = {
    {"none",     {0, 0, 0, 0, 0, 0, 0, 0}, false},
    {"q",        {64, 0, 0, 0, 0, 0, 0, 0}, true},
    {"k",        {0, 64, 0, 0, 0, 0, 0, 0}, true},
    {"v",        {0, 0, 64, 0, 0, 0, 0, 0}, true},
    {"o",        {0, 0, 0, 64, 0, 0, 0, 0}, false},
    {"dout",     {0, 0, 0, 0, 64, 0, 0, 0}, false},
    {"dq",       {0, 0, 0, 0, 0, 64, 0, 0}, true},
    {"dk",       {0, 0, 0, 0, 0, 0, 64, 0}, true},
    {"dv",       {0, 0, 0, 0, 0, 0, 0, 64}, true},
    {"q_dq",     {64, 0, 0, 0, 0, 64, 0, 0}, false},
    {"kv_dkdv",  {0, 64, 64, 0, 0, 0, 64, 64}, false},
    {"all",      {8, 16, 16, 24, 32, 8, 16, 16}, false},
    {"apart",    {8, 16, 24, 32, 40, 48, 56, 64}, true},
};
/* clang-format on */
INSTANTIATE_TEST_SUITE_P(Tensors, AttentionCudnnStride,
                         ::testing::Combine(::testing::ValuesIn(strided),
                                            ::testing::Values(HN_CUDNN_BWD, HN_CUDNN_BWD_FAST),
                                            ::testing::Bool()),
                         [](const auto &i) {
                             return std::string(std::get<0>(i.param).name) +
                                    (std::get<1>(i.param) == HN_CUDNN_BWD ? "" : "_fast") +
                                    (std::get<2>(i.param) ? "_even" : "");
                         });

TEST(AttentionCudnnPlan, NamesWhatCudnnCannotDo)
{
    HN_NEED_CUDNN();
    DeviceProblem<hn_bf16> p({"", {0, 30}, {}, 30, 30, 4, 2, 64, 0, 0, 0, true}, 0);
    const auto good = p.args();
    const auto fails = [&](auto change, const char *text) {
        auto a = good;
        size_t bytes = 7;
        change(a);
        EXPECT_HN_FAIL(hn_attention_cudnn_plan(cudnn(), &a, HN_CUDNN_BWD, SIZE_MAX, &bytes),
                       HN_ERR_UNSUPPORTED, text);
        EXPECT_EQ(bytes, 7u);
    };
    using A = hn_attention_args;
    fails([](A &a) { a.dtype = HN_F32; }, "bf16 only, not in f32");
    fails([](A &a) { a.head_dim = 40; }, "head_dim 40");
    fails([](A &a) { a.value_dim = 32; }, "value_dim 32");
    fails([](A &a) { a.softcap = 2; }, "softcap 2");
    fails([](A &a) { a.kv_offsets = a.q_offsets; }, "key offsets");
    fails([](A &a) { a.window = 3, a.causal = false; }, "without a causal mask");
    fails([](A &a) { a.ld_k = a.ld_v = a.ld_dk = a.ld_dv = 201; }, "leading dimension 201 of k");
    fails([](A &a) { a.ld_dv += 8; }, "of v and dv");
    fails([](A &a) { a.ld_q = (int64_t)1 << 28; }, "32 bits");
    size_t bytes = 0;
    EXPECT_HN_FAIL(hn_attention_cudnn_plan(cudnn(), &good, HN_CUDNN_BWD, 1000, &bytes),
                   HN_ERR_UNSUPPORTED, "more than");
    auto a = good; /* no plan */
    a.heads = 2, a.kv_heads = 1, a.head_dim = 112;
    DeviceArray<char> scratch(64);
    EXPECT_HN_FAIL(hn_attention_cudnn_fwd(cudnn(), &a, scratch.data(), nullptr), HN_ERR_ARG,
                   "no plan");
    a = good;
    a.q = (const char *)a.q + 2;
    EXPECT_HN_FAIL(hn_attention_cudnn_fwd(cudnn(), &a, scratch.data(), nullptr), HN_ERR_ALIGN, "q");
    EXPECT_HN_FAIL(hn_attention_cudnn_bwd(cudnn(), &good, HN_CUDNN_FWD, scratch.data(), nullptr),
                   HN_ERR_ARG, "no backward");
}

/* ---- the choice that a plan makes ---- */

/* One attention node over inputs of 60 rows, planned on the GPU; the text of the plan. */
std::string plan_text(hn_device *d, hn_dtype dtype, float softcap, hn_attention_impl impl,
                      hn_status want = HN_OK)
{
    hn_program *p = nullptr;
    hn_graph *g = nullptr;
    hn_tensor *in[5] = {nullptr}, *out[HN_MAX_OUT];
    const char *const names[] = {"q", "k", "v"};
    const hn_type type = hn_type_2d(dtype, 60, 128), offsets = hn_type_1d(HN_I32, 3);
    const hn_attr attr = {.attention = {.heads = 2,
                                        .kv_heads = 2,
                                        .head_dim = 64,
                                        .scale = 0.125f,
                                        .softcap = softcap,
                                        .causal = true,
                                        .impl = impl}};
    const hn_plan_options options = {.device = d};
    EXPECT_HN_OK(hn_program_new(1, &p));
    for (int i = 0; i < 3; i++)
        EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_INPUT, names[i], &type, &in[i]));
    EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_INPUT, "offsets", &offsets, &in[3]));
    EXPECT_HN_OK(hn_graph_new(p, "g", false, &g));
    EXPECT_HN_OK(hn_emit(g, HN_OP_ATTENTION, "a", in, &attr, out));
    hn_graph_keep(out[0]);
    const hn_status st = hn_plan_build(p, &options);
    EXPECT_EQ(st, want) << hn_last_error();
    char *text = st == HN_OK ? hn_plan_text(p) : nullptr;
    const std::string got = st == HN_OK ? text : hn_last_error();
    if (st == HN_OK) { /* an empty batch runs through every implementation */
        const hn_run_options run = {.check = true};
        EXPECT_HN_OK(hn_plan_allocate(p));
        EXPECT_HN_OK(hn_graph_run(g, &run));
    }
    hn_free(text);
    hn_program_free(p);
    return got;
}

TEST(AttentionChoice, AutoTakesCudnnWhereItServesAndSaysSo)
{
    HN_NEED_CUDNN();
    hn_device *d = nullptr;
    ASSERT_HN_OK(hn_device_open("cuda", &d));
    const auto has = [](const std::string &text, const char *part) {
        EXPECT_NE(text.find(part), std::string::npos) << text;
    };
    has(plan_text(d, HN_BF16, 0, HN_ATTENTION_AUTO), "attention: cuDNN 9.");
    has(plan_text(d, HN_BF16, 0, HN_ATTENTION_CUDNN_FAST), "attention: cuDNN 9.");
    has(plan_text(d, HN_F32, 0, HN_ATTENTION_AUTO), "attention: hone, forward (");
    has(plan_text(d, HN_BF16, 2, HN_ATTENTION_AUTO), "softcap 2");
    EXPECT_EQ(plan_text(d, HN_BF16, 0, HN_ATTENTION_OWN).find("attention:"), std::string::npos);
    has(plan_text(d, HN_BF16, 2, HN_ATTENTION_CUDNN, HN_ERR_UNSUPPORTED), "softcap 2");
    has(plan_text(d, HN_F32, 0, HN_ATTENTION_CUDNN, HN_ERR_UNSUPPORTED), "bf16 only");
    hn_device_close(d);
}

TEST(AttentionChoice, CudnnByNameNeedsAGpu)
{
    hn_device *d = nullptr;
    ASSERT_HN_OK(hn_device_open("cpu", &d));
    EXPECT_NE(plan_text(d, HN_BF16, 0, HN_ATTENTION_CUDNN, HN_ERR_UNSUPPORTED).find("needs a GPU"),
              std::string::npos);
    EXPECT_EQ(plan_text(d, HN_BF16, 0, HN_ATTENTION_AUTO).find("attention:"), std::string::npos);
    hn_device_close(d);
}

} // namespace
