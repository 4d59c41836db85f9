/* kernels/linear/gemm_cuda: products through cuBLASLt, their plans, the plain kernel. */
#include "kernels/linear/gemm_cuda.h"

#include "kernel_test.h"

namespace {

TEST(GemmCudaPadded, RowsBeginOn16ByteBoundaries)
{
    EXPECT_EQ(hn_gemm_cuda_padded(1, HN_F32), 4);
    EXPECT_EQ(hn_gemm_cuda_padded(4, HN_F32), 4);
    EXPECT_EQ(hn_gemm_cuda_padded(5, HN_F32), 8);
    EXPECT_EQ(hn_gemm_cuda_padded(9, HN_BF16), 16);
}

} // namespace

#ifdef HONE_CUDA
#include <cublasLt.h>
#include <dlfcn.h>

#include "gemm_cuda_test.h"
#include "runtime/base/json.h"

namespace {

/* A batch of matrices under each other on the device; `shift` columns before the first move every
 * row off its boundary. */
class Operand {
    int64_t rows_, cols_, shift_;
    DeviceMatrix m_;
    std::vector<float> v_;

  public:
    Operand(hn_dtype t, int64_t batch, int64_t rows, int64_t cols, int64_t shift, int64_t gap)
        : rows_(rows), cols_(cols), shift_(shift), m_(t, batch * rows, cols + shift, gap)
    {
    }
    Operand &normal(unsigned seed)
    {
        m_.normal(seed);
        v_ = values();
        return *this;
    }
    void *data() { return static_cast<char *>(m_.data()) + (size_t)shift_ * hn_dtype_size(type()); }
    hn_dtype type() const { return m_.dtype(); }
    int64_t ld() const { return m_.ld(); }
    int64_t stride() const { return rows_ * m_.ld(); }
    double at(int64_t z, int64_t i, int64_t j) const
    {
        return (double)v_[(size_t)((z * rows_ + i) * cols_ + j)];
    }
    std::vector<float> values()
    {
        const auto all = m_.values();
        const int64_t width = cols_ + shift_;
        std::vector<float> v;
        for (size_t i = 0; i < all.size(); i++)
            if ((int64_t)i % width >= shift_) v.push_back(all[i]);
        return v;
    }
    std::vector<unsigned char> raw() { return m_.raw(); }
};

enum Add { NOTHING, ITSELF, OTHER };

struct Case {
    int64_t m, n, k, batch;
    bool trans_a, trans_b;
    hn_dtype dtype, c_dtype;
    int64_t shift, gap;
    bool bias;
    Add add;
};

struct Product {
    const Case s;
    Operand a, b, bias, c0, c;

    explicit Product(const Case &x)
        : s(x), a(s.dtype, s.batch, s.trans_a ? s.k : s.m, s.trans_a ? s.m : s.k, s.shift, s.gap),
          b(s.dtype, s.batch, s.trans_b ? s.n : s.k, s.trans_b ? s.k : s.n, s.shift, s.gap),
          bias(s.c_dtype, s.batch, 1, s.n, s.shift, s.gap),
          c0(s.c_dtype, s.batch, s.m, s.n, s.shift, s.gap + (s.add == OTHER ? 8 : 0)),
          c(s.c_dtype, s.batch, s.m, s.n, s.shift, s.gap)
    {
        a.normal(1), b.normal(2), bias.normal(3), c0.normal(4);
        if (s.add == ITSELF) c.normal(4);
    }
    hn_gemm_cuda_args args()
    {
        hn_gemm_cuda_args g = {};
        g.a = a.data(), g.b = b.data(), g.c = c.data();
        if (s.bias) g.bias = bias.data();
        if (s.add == OTHER) g.c0 = c0.data();
        g.m = s.m, g.n = s.n, g.k = s.k, g.batch = s.batch;
        g.ld_a = a.ld(), g.ld_b = b.ld(), g.ld_c0 = c0.ld(), g.ld_c = c.ld();
        g.a_stride = a.stride(), g.b_stride = b.stride(), g.bias_stride = bias.stride();
        g.c0_stride = c0.stride(), g.c_stride = c.stride();
        g.trans_a = s.trans_a, g.trans_b = s.trans_b, g.dtype = s.dtype, g.c_dtype = s.c_dtype;
        g.alpha = 0.5f, g.beta = s.add == NOTHING ? 0.0f : 2.0f;
        return g;
    }
    std::vector<float> expected()
    {
        std::vector<float> v;
        for (int64_t z = 0; z < s.batch; z++)
            for (int64_t i = 0; i < s.m; i++)
                for (int64_t j = 0; j < s.n; j++) {
                    double sum = 0;
                    for (int64_t k = 0; k < s.k; k++)
                        sum += (s.trans_a ? a.at(z, k, i) : a.at(z, i, k)) *
                               (s.trans_b ? b.at(z, j, k) : b.at(z, k, j));
                    sum *= 0.5;
                    if (s.bias) sum += bias.at(z, 0, j);
                    if (s.add != NOTHING) sum += 2 * c0.at(z, i, j);
                    v.push_back(hn_round_f32(s.c_dtype, (float)sum));
                }
        return v;
    }
    /* Runs once from the state of the constructor and compares. */
    void check(hn_gemm_cuda *g, const std::string &what)
    {
        const auto want = expected();
        const auto args_ = args();
        ASSERT_HN_OK(hn_gemm_cuda_run(g, &args_, nullptr)) << what;
        /* cuBLASLt may round the product before it adds bias and C0 */
        const double twice = (s.bias || s.add != NOTHING) && s.c_dtype == HN_BF16 ? 2 : 1;
        EXPECT_LT(rel_l2(c.values(), want), twice * tolerance(s.c_dtype)) << what;
    }
};

std::string text_of(const Case &s)
{
    return case_name("m", s.m, "_n", s.n, "_k", s.k, "_batch", s.batch, s.trans_a ? "_ta" : "",
                     s.trans_b ? "_tb" : "", s.dtype, s.c_dtype, "_shift", s.shift, "_gap", s.gap,
                     s.bias ? "_bias" : "", "_add", (int)s.add);
}

constexpr hn_dtype kTypes[][2] = {{HN_F32, HN_F32}, {HN_BF16, HN_BF16}, {HN_BF16, HN_F32}};

/* Sizes that are multiples of 8, odd ones, one row, one column, k = 1. */
constexpr int64_t kSizes[][3] = {{32, 40, 24}, {17, 19, 23}, {1, 70, 33},
                                 {65, 1, 16},  {9, 130, 1},  {1, 1, 1}};

template <class Fn>
void each_case(Fn fn)
{
    int at = 0;
    for (const auto &t : kTypes)
        for (const auto &size : kSizes)
            for (const bool ta : {false, true})
                for (const bool tb : {false, true})
                    for (const int64_t shift : {0, 1}) {
                        const int64_t batch = at % 3 == 1 ? 3 : 1, gap = at % 4 == 2 ? 3 : 0;
                        fn(Case{size[0], size[1], size[2], batch, ta, tb, t[0], t[1], shift, gap,
                                at % 2 == 1, (Add)(at / 2 % 3)});
                        at++;
                    }
}

TEST(GemmCuda, MatchesTheSumForEveryTransposeBatchDtypeAndAlignment)
{
    HN_NEED_CUDA();
    Gemm g;
    ASSERT_NE((hn_gemm_cuda *)g, nullptr);
    each_case([&](const Case &s) { Product(s).check(g, text_of(s)); });
}

/* The list of plans with one value replaced in every entry. */
void replace(json_t *plans, const char *key, json_t *value)
{
    for (size_t i = 0; i < json_array_size(plans); i++)
        json_object_set(json_array_get(plans, i), key, value);
    json_decref(value);
}

TEST(GemmCuda, PlainKernelMatchesTheSumToo)
{
    HN_NEED_CUDA();
    Gemm g;
    ASSERT_NE((hn_gemm_cuda *)g, nullptr);
    each_case([&](const Case &s) { Product(s).check(g, text_of(s)); });
    json_t *plans = nullptr;
    ASSERT_HN_OK(hn_gemm_cuda_plans(g, &plans));
    replace(plans, "plain", json_true());
    Gemm plain;
    ASSERT_HN_OK(hn_gemm_cuda_restore(plain, plans, "test"));
    each_case([&](const Case &s) { Product(s).check(plain, text_of(s)); });
    json_t *used = nullptr;
    ASSERT_HN_OK(hn_gemm_cuda_plans(plain, &used));
    EXPECT_EQ(json_array_size(used), json_array_size(plans)); /* all came from the list */
    json_decref(plans);
    json_decref(used);
}

constexpr Case kLarge = {130, 264, 520, 1, false, true, HN_BF16, HN_BF16, 0, 0, true, OTHER};
constexpr Case kSmall = {33, 20, 65, 2, true, false, HN_F32, HN_F32, 1, 0, false, ITSELF};

std::vector<unsigned char> bits_of(hn_gemm_cuda *g, const Case &s)
{
    Product p(s);
    const auto a = p.args();
    EXPECT_HN_OK(hn_gemm_cuda_run(g, &a, nullptr));
    return p.c.raw();
}

TEST(GemmCuda, RepeatsBitForBitOnOnePlan)
{
    HN_NEED_CUDA();
    Gemm g;
    const auto first = bits_of(g, kLarge);
    EXPECT_TRUE(bits_of(g, kLarge) == first);
    bits_of(g, kSmall);
    bits_of(g, kSmall);
    json_t *plans = nullptr;
    ASSERT_HN_OK(hn_gemm_cuda_plans(g, &plans));
    EXPECT_EQ(json_array_size(plans), 2u);
    json_decref(plans);
}

/* What training needs must not fall to the plain kernel: rows on 16-byte boundaries, every dtype,
 * bias, adding, batch; and f32 wherever rows begin. */
TEST(GemmCuda, CublasLtHasAnAlgorithmForOrdinaryProducts)
{
    HN_NEED_CUDA();
    Gemm g;
    for (const auto &t : kTypes)
        for (const int64_t batch : {1, 3})
            for (const Add add : {NOTHING, ITSELF, OTHER}) {
                const bool bias = t[0] == t[1];
                bits_of(g, {64, 128, 96, batch, false, true, t[0], t[1], 0, 0, bias, add});
                bits_of(g, {64, 128, 96, batch, false, false, t[0], t[1], 0, 0, false, add});
                bits_of(g, {64, 128, 96, batch, true, false, t[0], t[1], 0, 0, false, add});
            }
    bits_of(g, kSmall);
    json_t *plans = nullptr;
    ASSERT_HN_OK(hn_gemm_cuda_plans(g, &plans));
    for (size_t i = 0; i < json_array_size(plans); i++) {
        const json_t *const o = json_array_get(plans, i);
        char *const text = json_dumps(o, 0);
        EXPECT_FALSE(json_is_true(json_object_get(o, "plain"))) << text;
        free(text);
    }
    json_decref(plans);
}

TEST(GemmCuda, RunsFromACapturedGraph)
{
    HN_NEED_CUDA();
    Gemm g;
    for (const Case &s : {kLarge, kSmall}) {
        const auto want = bits_of(g, s);
        Product p(s);
        const auto a = p.args();
        run_captured([&](hn_stream stream) { ASSERT_HN_OK(hn_gemm_cuda_run(g, &a, stream)); });
        EXPECT_TRUE(p.c.raw() == want);
    }
}

/* A plan made in the middle of a capture disturbs nothing. */
TEST(GemmCuda, MayPlanDuringCapture)
{
    HN_NEED_CUDA();
    Gemm warm, g;
    const auto want = bits_of(warm, kLarge);
    Product p(kLarge);
    const auto a = p.args();
    run_captured([&](hn_stream stream) { ASSERT_HN_OK(hn_gemm_cuda_run(g, &a, stream)); });
    EXPECT_TRUE(p.c.raw() == want);
}

class GemmCudaPlans : public ::testing::Test {
  protected:
    json_t *plans = nullptr;
    std::vector<unsigned char> large, small;
    void make()
    {
        Gemm g;
        large = bits_of(g, kLarge);
        small = bits_of(g, kSmall);
        ASSERT_HN_OK(hn_gemm_cuda_plans(g, &plans));
    }
    ~GemmCudaPlans() override { json_decref(plans); }
    /* The list is refused and leaves no plan behind. */
    void refused(hn_status code, const char *part)
    {
        Gemm g;
        json_t *left = nullptr;
        EXPECT_HN_FAIL(hn_gemm_cuda_restore(g, plans, "state.json"), code, part);
        EXPECT_NE(std::strstr(hn_last_error(), "state.json"), nullptr) << hn_last_error();
        ASSERT_HN_OK(hn_gemm_cuda_plans(g, &left));
        EXPECT_EQ(json_array_size(left), 0u);
        json_decref(left);
    }
};

TEST_F(GemmCudaPlans, RestoredPlansAreTheSameAndGiveTheSameBits)
{
    HN_NEED_CUDA();
    make();
    Gemm g;
    ASSERT_HN_OK(hn_gemm_cuda_restore(g, plans, "test"));
    EXPECT_TRUE(bits_of(g, kLarge) == large);
    EXPECT_TRUE(bits_of(g, kSmall) == small);
    ASSERT_HN_OK(hn_gemm_cuda_restore(g, plans, "test")); /* again: nothing is doubled */
    EXPECT_TRUE(bits_of(g, kLarge) == large);
    json_t *again = nullptr;
    ASSERT_HN_OK(hn_gemm_cuda_plans(g, &again));
    EXPECT_TRUE(json_equal(plans, again));
    json_decref(again);
}

TEST_F(GemmCudaPlans, FewerMultiprocessorsArePlansOfTheirOwn)
{
    HN_NEED_CUDA();
    make();
    Gemm g;
    ASSERT_HN_OK(hn_gemm_cuda_restore(g, plans, "test"));
    hn_gemm_cuda_sms(g, 120);
    const auto fewer = bits_of(g, kLarge), again = bits_of(g, kLarge);
    EXPECT_TRUE(fewer == again);
    hn_gemm_cuda_sms(g, 0);
    EXPECT_TRUE(bits_of(g, kLarge) == large); /* the other plan is as it was */
    json_t *both = nullptr;
    int64_t bounded = 0;
    ASSERT_HN_OK(hn_gemm_cuda_plans(g, &both));
    for (size_t i = 0; i < json_array_size(both); i++) {
        const json_t *const shape = json_object_get(json_array_get(both, i), "shape");
        const json_t *const sms = json_object_get(shape, "sms");
        if (sms == nullptr) continue;
        bounded++;
        EXPECT_EQ(json_integer_value(sms), 120);
        EXPECT_STREQ(json_string_value(json_object_get(shape, "dtype")), "bf16");
    }
    const bool has_own = kLarge.dtype == HN_BF16; /* f32 has one plan */
    EXPECT_EQ(bounded, has_own ? 1 : 0);
    Gemm h;
    ASSERT_HN_OK(hn_gemm_cuda_restore(h, both, "test"));
    hn_gemm_cuda_sms(h, 120);
    EXPECT_TRUE(bits_of(h, kLarge) == fewer);
    json_decref(both);
}

TEST_F(GemmCudaPlans, AnotherLibraryOrGpuIsRefused)
{
    HN_NEED_CUDA();
    make();
    json_t *const version = json_incref(json_object_get(json_array_get(plans, 0), "library"));
    replace(plans, "library", json_integer(1));
    refused(HN_ERR_UNSUPPORTED, "cuBLASLt 1 on");
    replace(plans, "library", version);
    replace(plans, "gpu", json_string("Voodoo 2"));
    refused(HN_ERR_UNSUPPORTED, "Voodoo 2");
}

TEST_F(GemmCudaPlans, DamagedListsAreRefused)
{
    HN_NEED_CUDA();
    make();
    json_t *const good = json_deep_copy(plans);
    const auto with = [&](auto change) {
        json_decref(plans);
        plans = json_deep_copy(good);
        change(json_array_get(plans, 1));
    };
    with([](json_t *o) { json_object_del(o, "words"); });
    refused(HN_ERR_FORMAT, "'words' is missing");
    with([](json_t *o) { json_object_set_new(o, "words", json_string("12")); });
    refused(HN_ERR_FORMAT, "hexadecimal");
    with([](json_t *o) { json_object_del(json_object_get(o, "shape"), "ld_a"); });
    refused(HN_ERR_FORMAT, "ld_a");
    with([](json_t *o) { json_object_set_new(json_object_get(o, "shape"), "m", json_integer(0)); });
    refused(HN_ERR_FORMAT, "dimension");
    with([](json_t *o) {
        json_object_set_new(json_object_get(o, "shape"), "align_a", json_integer(3));
    });
    refused(HN_ERR_FORMAT, "alignment");
    with([](json_t *o) {
        json_object_set_new(json_object_get(o, "shape"), "dtype", json_string("i32"));
    });
    refused(HN_ERR_FORMAT, "i32");
    json_decref(plans);
    plans = json_object();
    refused(HN_ERR_FORMAT, "not an array");
    json_decref(good);
}

/* The algorithm of an f32 product offered for a bf16 one. */
TEST_F(GemmCudaPlans, AnAlgorithmThatDoesNotFitIsRefusedByShape)
{
    HN_NEED_CUDA();
    make();
    json_t *const o = json_array_get(plans, 1);
    if (json_is_true(json_object_get(o, "plain"))) GTEST_SKIP() << "no algorithm to offer";
    json_object_set(o, "words", json_object_get(json_array_get(plans, 0), "words"));
    refused(HN_ERR_UNSUPPORTED, "m=33 n=20 k=65 batch=2");
}

/* The words of a plan, for the library's own functions. */
cublasLtMatmulAlgo_t algorithm_of(const json_t *plan)
{
    cublasLtMatmulAlgo_t algo = {};
    const std::string words = json_string_value(json_object_get(plan, "words"));
    for (size_t i = 0; i < std::size(algo.data); i++)
        algo.data[i] = std::stoull(words.substr(16 * i, 16), nullptr, 16);
    return algo;
}

void put_algorithm(json_t *plan, const cublasLtMatmulAlgo_t &algo)
{
    std::string words;
    for (const uint64_t word : algo.data) {
        char digits[17];
        std::snprintf(digits, sizeof digits, "%016llx", (unsigned long long)word);
        words += digits;
    }
    json_object_set_new(plan, "words", json_string(words.c_str()));
}

/* Sums in the output's memory and type: no plan of ours, whoever wrote it into the list. */
TEST_F(GemmCudaPlans, AnAlgorithmWithSumsInTheOutputIsRefused)
{
    HN_NEED_CUDA();
    make();
    json_t *const o = json_array_get(plans, 0);
    if (json_is_true(json_object_get(o, "plain"))) GTEST_SKIP() << "no algorithm to change";
    using Set = cublasStatus_t (*)(cublasLtMatmulAlgo_t *, cublasLtMatmulAlgoConfigAttributes_t,
                                   const void *, size_t);
    void *library = nullptr;
    for (const char *name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"})
        if (library == nullptr) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library, nullptr) << dlerror();
    const auto set = reinterpret_cast<Set>(dlsym(library, "cublasLtMatmulAlgoConfigSetAttribute"));
    ASSERT_NE(set, nullptr);
    cublasLtMatmulAlgo_t algo = algorithm_of(o);
    const uint32_t parts = 2, scheme = CUBLASLT_REDUCTION_SCHEME_INPLACE;
    if (set(&algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &parts, sizeof parts) !=
            CUBLAS_STATUS_SUCCESS ||
        set(&algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme, sizeof scheme) !=
            CUBLAS_STATUS_SUCCESS)
        GTEST_SKIP() << "the algorithm knows no parts";
    put_algorithm(o, algo);
    refused(HN_ERR_UNSUPPORTED, "m=130 n=264 k=520"); /* by us, or by the library before */
}

TEST_F(GemmCudaPlans, OfferedPlansWaitForTheirShape)
{
    HN_NEED_CUDA();
    make();
    Gemm g;
    int64_t n = -1, offered = -1;
    ASSERT_HN_OK(hn_gemm_cuda_offer(g, plans, "test"));
    hn_gemm_cuda_count(g, &n, &offered);
    EXPECT_EQ(n, 0);
    EXPECT_EQ(offered, 0);
    EXPECT_TRUE(bits_of(g, kSmall) == small);
    bits_of(g, {16, 16, 16, 1, false, false, HN_F32, HN_F32, 0, 0, false, NOTHING}); /* not there */
    hn_gemm_cuda_count(g, &n, &offered);
    EXPECT_EQ(n, 2);
    EXPECT_EQ(offered, 1);
    json_t *used = nullptr;
    ASSERT_HN_OK(hn_gemm_cuda_plans(g, &used));
    EXPECT_TRUE(json_equal(json_array_get(used, 0), json_array_get(plans, 1)));
    json_decref(used);
    /* restored ones go before */
    ASSERT_HN_OK(hn_gemm_cuda_restore(g, plans, "test"));
    hn_gemm_cuda_count(g, &n, &offered);
    EXPECT_EQ(n, 3);
    EXPECT_EQ(offered, 0);
    EXPECT_TRUE(bits_of(g, kLarge) == large);
    EXPECT_STREQ(hn_gemm_cuda_gpu(g),
                 json_string_value(json_object_get(json_array_get(plans, 0), "gpu")));
    EXPECT_EQ(hn_gemm_cuda_version(g),
              json_integer_value(json_object_get(json_array_get(plans, 0), "library")));
}

TEST_F(GemmCudaPlans, DamagedOffersAreRefused)
{
    HN_NEED_CUDA();
    make();
    Gemm g;
    json_object_set_new(json_array_get(plans, 1), "words", json_string("12"));
    EXPECT_HN_FAIL(hn_gemm_cuda_offer(g, plans, "plans.json"), HN_ERR_FORMAT, "plans.json");
    int64_t n = -1, offered = -1;
    bits_of(g, kLarge);
    hn_gemm_cuda_count(g, &n, &offered);
    EXPECT_EQ(offered, 0);
}

/* Every kind of product: the search leaves a plan that works, gives the same bits on every run, and
 * comes back from its list. */
TEST(GemmCudaTune, FindsPlansThatMatchTheSumAndRepeat)
{
    HN_NEED_CUDA();
    Gemm g;
    std::vector<Case> cases = {kLarge, kSmall};
    for (const auto &t : kTypes)
        for (const Add add : {NOTHING, OTHER}) {
            const bool bias = t[0] == t[1];
            cases.push_back({64, 128, 96, 1, false, true, t[0], t[1], 0, 0, bias, add});
            cases.push_back({64, 128, 96, 3, true, false, t[0], t[1], 0, 8, false, add});
            cases.push_back({17, 19, 23, 1, false, true, t[0], t[1], 1, 3, bias, add}); /* plain? */
        }
    for (const Case &s : cases) bits_of(g, s);
    int64_t n = 0, offered = 0;
    hn_gemm_cuda_count(g, &n, &offered);
    ASSERT_EQ(n, (int64_t)cases.size());
    for (int64_t i = 0; i < n; i++) {
        const Case &s = cases[(size_t)i];
        hn_gemm_cuda_tuned t = {};
        ASSERT_HN_OK(hn_gemm_cuda_tune(g, i, nullptr, &t)) << text_of(s);
        EXPECT_EQ(t.m, s.m);
        EXPECT_EQ(t.k, s.k);
        EXPECT_EQ(t.calls, 1);
        if (t.tried == 0) continue;
        EXPECT_GT(t.best_us, 0) << text_of(s);
        EXPECT_LE(t.best_us, t.first_us) << text_of(s);
    }
    json_t *plans = nullptr;
    ASSERT_HN_OK(hn_gemm_cuda_plans(g, &plans));
    Gemm again;
    ASSERT_HN_OK(hn_gemm_cuda_offer(again, plans, "test"));
    for (const Case &s : cases) {
        Product(s).check(g, text_of(s));
        const auto bits = bits_of(g, s);
        EXPECT_TRUE(bits_of(g, s) == bits) << text_of(s);
        EXPECT_TRUE(bits_of(again, s) == bits) << text_of(s);
    }
    hn_gemm_cuda_count(again, &n, &offered);
    EXPECT_EQ(offered, n);
    json_decref(plans);
}

TEST(GemmCudaTune, NamesWhatIsWrong)
{
    HN_NEED_CUDA();
    Gemm g;
    hn_gemm_cuda_tuned t = {};
    EXPECT_HN_FAIL(hn_gemm_cuda_tune(g, 0, nullptr, &t), HN_ERR_ARG, "product 0 of 0");
}

TEST(GemmCudaCheck, NamesWhatIsWrong)
{
    HN_NEED_CUDA();
    Gemm g;
    Product p(kSmall);
    const auto with = [&](auto change) {
        auto a = p.args();
        change(a);
        return hn_gemm_cuda_run(g, &a, nullptr);
    };
    EXPECT_HN_FAIL(with([](auto &a) { a.a = nullptr; }), HN_ERR_ARG, "a is NULL");
    EXPECT_HN_FAIL(with([](auto &a) { a.k = 0; }), HN_ERR_SHAPE, "[0, 33]");
    EXPECT_HN_FAIL(with([](auto &a) { a.ld_c = 2; }), HN_ERR_SHAPE, "leading dimension 2 of c");
    EXPECT_HN_FAIL(with([](auto &a) { a.dtype = HN_F16; }), HN_ERR_UNSUPPORTED, "f16");
    EXPECT_HN_FAIL(with([](auto &a) { a.c0 = a.c, a.ld_c0 = 99; }), HN_ERR_ARG, "99");
    hn_gemm_cuda *bare = nullptr;
    ASSERT_HN_OK(hn_gemm_cuda_open(&bare));
    const auto a = p.args();
    EXPECT_HN_FAIL(hn_gemm_cuda_run(bare, &a, nullptr), HN_ERR_ARG, "workspace");
    hn_gemm_cuda_close(bare);
}

} // namespace
#endif
