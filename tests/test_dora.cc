/* DoRA on whole decoders: what the first step computes, gradients by finite differences, fused and
 * bordered layers against plain ones, generation, merged weights, refusals. Losses and logits of
 * PEFT itself: test_engine.cc. */
#include "decoder_test.h"
#include "runtime/base/alloc.h"
#include "runtime/train/generator.h"
#include "runtime/train/lora_hook.h"

namespace {

class Dora : public ::testing::Test {
  protected:
    const std::string dir = "tests/fixtures/models/qwen2"; /* its q, k and v have biases */
    std::vector<int32_t> ids;
    hn_peft_config peft = {};
    hn_adapt adapt = {};

    void SetUp() override
    {
        for (int i = 0; i < 400; i++) ids.push_back((i * i * 7 + i) % 64);
        peft.r = 4;
        peft.alpha = 8;
        peft.dora = true;
        targets({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"});
        adapt = hn_lora_hook(&peft);
    }
    void TearDown() override { hn_peft_config_clear(&peft); }
    void targets(std::initializer_list<const char *> names)
    {
        hn_names_clear(&peft.targets.list);
        for (const char *name : names) ASSERT_HN_OK(hn_names_add(&peft.targets.list, name));
    }
    void open(Engine &m, bool train, bool adapted = true)
    {
        m.o.adapt = adapted ? &adapt : nullptr;
        m.o.train = train;
        m.d.batch_rows = m.d.max_seqs = 2;
        m.d.seq_len = 12;
        m.d.logits_rows = 24;
        m.open(5);
    }
    /* B other than zero, magnitudes other than the norms. */
    static void disturb(const Engine &m)
    {
        for (int64_t i = 0; i < hn_params_count(m.params()); i++) {
            hn_param p = *hn_params_at(m.params(), i);
            if (!p.adapter) continue;
            if (p.ndim == 2) {
                p.init = HN_INIT_UNIFORM;
                p.init_scale = 0.3;
                EXPECT_HN_OK(hn_param_init(&p, 9));
                continue;
            }
            auto v = get(&p);
            for (size_t k = 0; k < v.size(); k++) v[k] *= 1.0f + 0.25f * (float)((int)(k % 5) - 2);
            EXPECT_HN_OK(hn_param_set(&p, v.data()));
        }
    }
    static std::vector<float> get(const hn_param *p)
    {
        std::vector<float> v((size_t)hn_param_values(p));
        EXPECT_HN_OK(hn_param_get(p, v.data()));
        return v;
    }
    std::vector<int32_t> tokens(int64_t n = 20) const
    {
        return std::vector<int32_t>(ids.begin(), ids.begin() + n);
    }
    double loss(const Engine &m) const
    {
        hn_step_report r = {};
        m.fill(ids, {0, 20});
        EXPECT_HN_OK(hn_engine_begin(m.e, 0));
        EXPECT_HN_OK(hn_engine_micro(m.e, 0));
        EXPECT_HN_OK(hn_engine_update(m.e, 0, &r));
        return r.loss;
    }
};

TEST_F(Dora, BeginsAsTheBaseModel)
{
    for (const char *dtype : {"f32", "bf16"}) {
        Engine plain(dir, dtype), m(dir, dtype), lora(dir, dtype);
        open(plain, false, false);
        open(m, false);
        const auto base = plain.logits(tokens()), got = m.logits(tokens());
        for (int64_t i = 0; i < hn_params_linears(m.params()); i++) {
            const hn_linear_layer *l = hn_params_linear_at(m.params(), i);
            ASSERT_NE(l->m, nullptr) << l->module;
            const auto w = get(l->weight), magnitudes = get(l->m);
            for (int64_t o = 0; o < l->out; o++) {
                double sum = 0;
                for (int64_t k = 0; k < l->in; k++)
                    sum += std::pow((double)w[(size_t)(o * l->in + k)], 2);
                EXPECT_NEAR(magnitudes[(size_t)o], std::sqrt(sum), 1e-6 * std::sqrt(sum));
            }
        }
        /* factors are 1 to the bit; a bias comes behind the rounding of the product in bf16 */
        EXPECT_LT(rel_l2(got, base), dtype[0] == 'f' ? 1e-6 : 1e-2) << dtype;
    }
}

/* Without biases, and where no residual is added on the way in bf16, not a bit changes. */
TEST_F(Dora, WithoutBiasesBeginsWithTheBitsOfLora)
{
    targets({"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"});
    for (const char *dtype : {"f32", "bf16"}) {
        Engine m("tests/fixtures/models/qwen3", dtype), lora("tests/fixtures/models/qwen3", dtype);
        open(m, false);
        peft.dora = false;
        open(lora, false);
        peft.dora = true;
        EXPECT_TRUE(same_bits(m.logits(tokens()), lora.logits(tokens()))) << dtype;
    }
}

/* Those of A and B hold the norms constant, so that differences of the loss are not theirs. */
TEST_F(Dora, GradientsOfMagnitudesMatchFiniteDifferences)
{
    Engine m(dir);
    open(m, true);
    disturb(m);
    m.fill(ids, {0, 20});
    ASSERT_HN_OK(hn_engine_begin(m.e, 0));
    ASSERT_HN_OK(hn_engine_micro(m.e, 0));
    const double n = 24; /* trained tokens */
    for (const char *module : {"model.layers.0.self_attn.q_proj", "model.layers.0.mlp.gate_proj",
                               "model.layers.1.mlp.down_proj"}) {
        const hn_param *p =
            hn_params_find(m.params(), (std::string(module) + ".lora_magnitude_vector").c_str());
        ASSERT_NE(p, nullptr);
        Engine other(dir); /* a loss of its own, so that the gradient above stays */
        open(other, true);
        disturb(other);
        const hn_param *q = hn_params_find(other.params(), p->name);
        const auto g = m.gradient(p), v = get(q);
        for (const size_t k : {(size_t)0, (size_t)3, v.size() - 1}) {
            auto x = v;
            const float h = 0.02f * v[k];
            x[k] = v[k] + h;
            ASSERT_HN_OK(hn_param_set(q, x.data()));
            const double up = loss(other);
            x[k] = v[k] - h;
            ASSERT_HN_OK(hn_param_set(q, x.data()));
            const double down = loss(other);
            const double want = (up - down) / (2 * (double)h);
            EXPECT_NEAR((double)g[k] / n, want, 2e-2 * std::fabs(want) + 2e-5) << p->name << k;
        }
    }
}

TEST_F(Dora, TrainsMagnitudesAndRepeatsBitForBit)
{
    std::vector<float> first;
    for (int run = 0; run < 2; run++) {
        Engine m(dir);
        open(m, true);
        const hn_param *p =
            hn_params_find(m.params(), "model.layers.0.mlp.up_proj.lora_magnitude_vector");
        const auto before = get(p);
        double at_first = 0, at_last = 0;
        for (int64_t t = 0; t < 30; t++) {
            hn_step_report r = {};
            m.fill(ids, {0, 20});
            ASSERT_HN_OK(hn_engine_step(m.e, t, 5e-3, &r));
            (t == 0 ? at_first : at_last) = r.loss;
        }
        EXPECT_LT(at_last, at_first - 0.5);
        std::vector<float> all;
        for (int64_t i = 0; i < hn_params_count(m.params()); i++)
            if (hn_params_at(m.params(), i)->trained) {
                const auto v = get(hn_params_at(m.params(), i));
                all.insert(all.end(), v.begin(), v.end());
            }
        if (first.empty()) first = all;
        EXPECT_TRUE(same_bits(all, first));
        EXPECT_FALSE(same_bits(get(p), before));
    }
}

/* bf16 fuses q, k and v, and gate and up; f32 has every layer apart. */
TEST_F(Dora, FusedLayersFollowPlainOnes)
{
    for (const bool biased : {true, false}) {
        const std::string where = biased ? dir : "tests/fixtures/models/qwen3";
        Engine f32(where), bf16(where, "bf16");
        open(f32, true);
        open(bf16, true);
        disturb(f32);
        disturb(bf16);
        EXPECT_NEAR(loss(bf16), loss(f32), 0.03);
        EXPECT_LT(rel_l2(bf16.logits(tokens()), f32.logits(tokens())), 5e-2);
    }
}

TEST_F(Dora, RecomputedLayersGiveTheSameBits)
{
    std::vector<float> grads[2];
    for (int k = 0; k < 2; k++) {
        Engine m(dir);
        m.o.recompute = k ? HN_RECOMPUTE_ON : HN_RECOMPUTE_OFF;
        open(m, true);
        disturb(m);
        m.fill(ids, {0, 20});
        ASSERT_HN_OK(hn_engine_begin(m.e, 0));
        ASSERT_HN_OK(hn_engine_micro(m.e, 0));
        for (int64_t i = 0; i < hn_params_count(m.params()); i++)
            if (hn_params_at(m.params(), i)->trained) {
                const auto g = m.gradient(hn_params_at(m.params(), i));
                grads[k].insert(grads[k].end(), g.begin(), g.end());
            }
    }
    EXPECT_TRUE(same_bits(grads[0], grads[1]));
}

TEST_F(Dora, NothingIsAllocatedInAStep)
{
    Engine m(dir);
    open(m, true);
    hn_step_report r;
    const uint64_t before = hn_alloc_calls();
    for (int64_t t = 0; t < 3; t++) {
        m.fill(ids, {0, 20});
        ASSERT_HN_OK(hn_engine_step(m.e, t, 1e-3, &r));
    }
    EXPECT_EQ(hn_alloc_calls(), before);
}

/* Prefill and single steps over the cache, whose norms are made once. */
TEST_F(Dora, GenerationGivesTheLogitsOfTheWholeSequence)
{
    Engine m(dir);
    open(m, false);
    disturb(m);
    const auto seq = tokens(12);
    const auto want = m.logits(seq);
    const int64_t vocab = m.model.decoder.vocab;
    for (const int64_t prompt : {(int64_t)1, (int64_t)6}) {
        hn_generator *g = nullptr;
        const hn_generator_options o = {.device = m.device,
                                        .decoder = &m.model.decoder,
                                        .adapt = &adapt,
                                        .dtype = HN_F32,
                                        .max_prompt = prompt,
                                        .max_tokens = 12};
        ASSERT_HN_OK(hn_generator_new(&o, &g));
        ASSERT_HN_OK(hn_generator_allocate(g));
        const hn_params *p = hn_generator_params(g);
        ASSERT_HN_OK(hn_model_load(&m.model, p, 5));
        for (int64_t i = 0; i < hn_params_count(p); i++) {
            const hn_param *q = hn_params_at(p, i);
            if (!q->adapter) continue;
            ASSERT_HN_OK(hn_param_set(q, get(hn_params_find(m.params(), q->name)).data()));
        }
        const float *logits = nullptr;
        ASSERT_HN_OK(hn_generator_prompt(g, seq.data(), prompt, &logits));
        for (int64_t i = prompt;; i++) {
            const std::vector<float> got(logits, logits + vocab);
            const std::vector<float> row(want.begin() + (i - 1) * vocab, want.begin() + i * vocab);
            EXPECT_LT(rel_l2(got, row), 2e-5) << "prompt " << prompt << ", token " << i;
            if (i == 12) break;
            ASSERT_HN_OK(hn_generator_next(g, seq[(size_t)i], &logits));
        }
        hn_generator_free(g);
    }
}

/* Values through a folder of PEFT's, and back. */
TEST_F(Dora, AdaptersComeBackFromAFolder)
{
    const TempDir t;
    Engine m(dir), other(dir);
    open(m, false);
    open(other, false);
    disturb(m);
    hn_peft_adapter a = {}, back = {};
    ASSERT_HN_OK(hn_lora_get(m.params(), &peft, &a));
    ASSERT_HN_OK(hn_peft_save((t / "a").c_str(), &a, HN_F32));
    ASSERT_HN_OK(hn_peft_load((t / "a").c_str(), &back));
    EXPECT_TRUE(back.config.dora);
    ASSERT_HN_OK(hn_lora_set(other.params(), &back, "a"));
    EXPECT_TRUE(same_bits(other.logits(tokens()), m.logits(tokens())));
    back.config.dora = false; /* the same pairs for LoRA alone */
    const hn_adapt without = hn_lora_hook(&back.config);
    Engine plain(dir);
    plain.o.adapt = &without;
    plain.d.logits_rows = 4;
    plain.open();
    EXPECT_HN_FAIL(hn_lora_set(plain.params(), &back, "a"), HN_ERR_FORMAT, "DoRA's magnitudes");
    EXPECT_HN_FAIL(hn_peft_save((t / "b").c_str(), &back, HN_F32), HN_ERR_ARG,
                   "has trained magnitudes, its config says LoRA");
    hn_lora_release(&a);
    hn_peft_clear(&back);
}

TEST_F(Dora, IsRefusedWhereItCannotBe)
{
    hn_params *p = nullptr;
    const hn_lowrank wants[] = {{.rank = 2, .scale = 1, .materialise = true, .magnitude = true},
                                {.rank = 2, .scale = 1, .magnitude = true}};
    const auto hook = [](const void *c, const char *, int64_t, int64_t, hn_lowrank *choice) {
        *choice = *(const hn_lowrank *)c;
        return HN_OK;
    };
    const hn_adapt materialised = {.linear = hook, .context = &wants[0]};
    const hn_adapt plain = {.linear = hook, .context = &wants[1]};
    const hn_adapt whole = {.parameter = [](const void *, const char *) { return HN_ADAPT_FULL; },
                            .linear = hook,
                            .context = &wants[1]};
    ASSERT_HN_OK(hn_params_new(&materialised, &p));
    EXPECT_HN_FAIL(hn_params_linear(p, "fc", 4, 3, false, 0.1), HN_ERR_UNSUPPORTED,
                   "fc: DoRA's magnitudes for an update that is added to the weight");
    hn_params_free(p);
    ASSERT_HN_OK(hn_params_new(&whole, &p));
    EXPECT_HN_FAIL(hn_params_linear(p, "fc", 4, 3, false, 0.1), HN_ERR_UNSUPPORTED,
                   "trained as a whole");
    hn_params_free(p);
    ASSERT_HN_OK(hn_params_new(&plain, &p));
    const hn_conv_shape conv = {.in = 3, .out = 4, .kh = 3, .kw = 3, .groups = 1};
    EXPECT_HN_FAIL(hn_params_conv(p, "conv1", &conv), HN_ERR_UNSUPPORTED,
                   "conv1: DoRA's magnitudes for a convolution");
    hn_params_free(p);
    hn_program *program = nullptr;
    ASSERT_HN_OK(hn_params_new(&plain, &p));
    ASSERT_HN_OK(hn_program_new(3, &program));
    ASSERT_HN_OK(hn_params_linear(p, "fc", 4, 3, false, 0.1));
    const hn_params_options o = {.dtype = HN_F32, .moments = 2, .gradients = true};
    EXPECT_HN_FAIL(hn_params_create(p, program, &o), HN_ERR_UNSUPPORTED,
                   "fc: DoRA's magnitudes in a program with replicas");
    hn_params_free(p);
    hn_program_free(program);
}

} // namespace
