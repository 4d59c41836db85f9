/* The engine of a run against references made with PyTorch (tests/golden): logits and gradients of
 * every model family, training runs of LoRA and of all weights; and what the engine promises. */
#include <jansson.h>

#include "decoder_test.h"
#include "runtime/base/alloc.h"
#include "runtime/base/rng.h"
#include "runtime/file/safetensors.h"
#include "runtime/train/generator.h"
#include "runtime/train/lora_hook.h"
#include "runtime/train/schedule.h"

namespace {

struct Json {
    json_t *root = nullptr;
    explicit Json(const std::string &path)
    {
        json_error_t e;
        root = json_load_file(path.c_str(), 0, &e);
        EXPECT_NE(root, nullptr) << path << ": " << e.text;
    }
    ~Json() { json_decref(root); }
    Json(const Json &) = delete;
    const json_t *at(const char *key) const
    {
        const json_t *v = json_object_get(root, key);
        EXPECT_NE(v, nullptr) << key;
        return v;
    }
    double number(const char *key) const { return json_number_value(at(key)); }
    std::string text(const char *key) const { return json_string_value(at(key)); }
    std::vector<double> numbers(const char *key) const
    {
        std::vector<double> v;
        for (size_t i = 0; i < json_array_size(at(key)); i++)
            v.push_back(json_number_value(json_array_get(at(key), i)));
        return v;
    }
};

struct File {
    hn_st_file *f = nullptr;
    explicit File(const std::string &path) { EXPECT_HN_OK(hn_st_open(path.c_str(), &f)); }
    ~File() { hn_st_close(f); }
    File(const File &) = delete;
    std::vector<float> floats(const char *name) const
    {
        const hn_st_tensor *t = hn_st_find(f, name);
        EXPECT_NE(t, nullptr) << name;
        std::vector<float> v((size_t)hn_st_elements(t));
        EXPECT_HN_OK(hn_st_convert(t, HN_F32, v.data()));
        return v;
    }
    std::vector<int32_t> ints(const char *name) const
    {
        const hn_st_tensor *t = hn_st_find(f, name);
        EXPECT_NE(t, nullptr) << name;
        std::vector<int32_t> v((size_t)hn_st_elements(t));
        EXPECT_HN_OK(hn_st_convert(t, HN_I32, v.data()));
        return v;
    }
};

hn_adapt_kind all_parameters(const void *, const char *) { return HN_ADAPT_FULL; }

/* ---- logits ---- */

class GoldenLogits : public ::testing::TestWithParam<const char *> {};

TEST_P(GoldenLogits, RealModelsEqualTheirReference)
{
    HN_NEED_DATA(dir, GetParam());
    const File golden(dir + "/golden_128.safetensors");
    Engine m(dir);
    m.d.logits_rows = 128;
    m.open();
    EXPECT_LT(max_abs(m.logits(golden.ints("tokens")), golden.floats("logits")), 2e-4);
}
INSTANTIATE_TEST_SUITE_P(Models, GoldenLogits,
                         ::testing::Values("stories260k", "babyllama-char105"),
                         [](const auto &i) { return std::string(i.param).substr(0, 5); });

class Family : public ::testing::TestWithParam<const char *> {
  protected:
    const std::string dir = std::string("tests/fixtures/models/") + GetParam();
};

TEST_P(Family, LogitsEqualTransformers)
{
    const File golden(dir + "/golden.safetensors");
    Engine m(dir);
    const auto tokens = golden.ints("tokens");
    m.d.logits_rows = (int64_t)tokens.size();
    m.open();
    EXPECT_LT(max_abs(m.logits(tokens), golden.floats("logits")), 2e-5); /* fp32, two layers */
}

/* Two sequences packed into one row give the logits of each alone. */
TEST_P(Family, PackedSequencesDoNotSeeEachOther)
{
    const File golden(dir + "/golden.safetensors");
    Engine m(dir);
    const auto tokens = golden.ints("tokens"), offsets = golden.ints("packed_offsets");
    m.d.logits_rows = (int64_t)tokens.size();
    m.open();
    std::vector<float> got;
    for (size_t s = 0; s + 1 < offsets.size(); s++) {
        const std::vector<int32_t> one(tokens.begin() + offsets[s],
                                       tokens.begin() + offsets[s + 1]);
        const auto l = m.logits(one);
        got.insert(got.end(), l.begin(), l.end());
    }
    EXPECT_LT(max_abs(got, golden.floats("packed_logits")), 2e-5);
}

/* The gradient of every parameter: its 2-norm and its product with cos(i). */
TEST_P(Family, GradientsEqualPyTorch)
{
    const File golden(dir + "/golden.safetensors");
    const Json facts(dir + "/golden.json");
    Engine m(dir);
    const auto tokens = golden.ints("tokens");
    const hn_adapt adapt = {.parameter = all_parameters, .linear = nullptr, .context = nullptr};
    m.o.adapt = &adapt;
    m.o.train = true;
    m.d.batch_rows = 1;
    m.d.seq_len = (int64_t)tokens.size() - 1;
    m.d.max_seqs = 1;
    m.open();
    m.fill(tokens, {0});
    ASSERT_HN_OK(hn_engine_begin(m.e, 0));
    ASSERT_HN_OK(hn_engine_micro(m.e, 0));
    const double n = (double)m.d.seq_len;
    const char *name;
    json_t *fact;
    int checked = 0;
    json_object_foreach(json_object_get(facts.root, "grad_l2"), name, fact)
    {
        const hn_param *p = hn_params_find(m.params(), name);
        ASSERT_NE(p, nullptr) << name;
        const auto g = m.gradient(p);
        double norm = 0, probe = 0;
        for (size_t i = 0; i < g.size(); i++) {
            norm += (double)g[i] * (double)g[i];
            probe += (double)g[i] * std::cos((double)i);
        }
        const double want = json_number_value(fact);
        const json_t *want_probe = json_object_get(json_object_get(facts.root, "grad_probe"), name);
        EXPECT_NEAR(std::sqrt(norm) / n, want, 2e-5 * want + 1e-7) << name;
        EXPECT_NEAR(probe / n, json_number_value(want_probe), 5e-5 * want + 1e-7) << name;
        checked++;
    }
    EXPECT_EQ(checked, (int)hn_params_count(m.params()));
}
INSTANTIATE_TEST_SUITE_P(Models, Family,
                         ::testing::Values("llama", "llama_f16", "mistral", "qwen2", "qwen2_window",
                                           "qwen3"),
                         [](const auto &i) { return std::string(i.param); });

/* ---- adapters that PEFT wrote ---- */

class PeftAdapter : public ::testing::TestWithParam<const char *> {};

TEST_P(PeftAdapter, GivesTheLogitsOfPeft)
{
    HN_NEED_DATA(base, "babyllama-char105");
    const std::string dir = std::string("tests/fixtures/") + GetParam();
    const File golden(dir + "/golden.safetensors");
    hn_peft_adapter a = {};
    ASSERT_HN_OK(hn_peft_load(dir.c_str(), &a));
    const hn_adapt adapt = hn_lora_hook(&a.config);
    Engine m(base);
    const auto tokens = golden.ints("tokens");
    m.o.adapt = &adapt;
    m.d.logits_rows = (int64_t)tokens.size();
    m.open();
    const auto plain = m.logits(tokens);
    ASSERT_HN_OK(hn_lora_set(m.params(), &a, dir.c_str()));
    EXPECT_LT(max_abs(m.logits(tokens), golden.floats("logits")), 2e-4);
    EXPECT_GT(max_abs(plain, golden.floats("logits")), 1e-2); /* the adapter does something */
    hn_peft_clear(&a);
}
INSTANTIATE_TEST_SUITE_P(Fixtures, PeftAdapter,
                         ::testing::Values("peft_babyllama_r4", "peft_babyllama_pattern",
                                           "peft_babyllama_dora"),
                         [](const auto &i) { return std::string(i.param); });

TEST(LoraHook, NamesWhatDoesNotFit)
{
    hn_peft_adapter a = {};
    ASSERT_HN_OK(hn_peft_load("tests/fixtures/peft_babyllama_r4", &a));
    const hn_adapt adapt = hn_lora_hook(&a.config);
    Engine m("tests/fixtures/models/llama"); /* other widths */
    m.o.adapt = &adapt;
    m.d.logits_rows = 4;
    m.open();
    EXPECT_HN_FAIL(hn_lora_set(m.params(), &a, "here"), HN_ERR_SHAPE, "here: model.layers.0");
    a.config.r = 64;
    hn_engine *e = nullptr;
    EXPECT_HN_FAIL(m.make(&e), HN_ERR_SHAPE, "rank 64 is above both widths");
    hn_peft_clear(&a);
}

/* ---- generation ---- */

/* Prefill and single steps over the cache give the logits of the whole sequence. */
TEST_P(Family, CacheGivesTheSameLogits)
{
    const File golden(dir + "/golden.safetensors");
    const auto tokens = golden.ints("tokens");
    const auto want = golden.floats("logits");
    const int64_t n = (int64_t)tokens.size(), vocab = (int64_t)want.size() / n;
    hn_model model = {};
    hn_device *device = nullptr;
    ASSERT_HN_OK(hn_device_open(test_device(), &device));
    ASSERT_HN_OK(hn_model_open(dir.c_str(), "f32", nullptr, &model));
    for (const int64_t prompt : {(int64_t)1, (int64_t)2, (int64_t)6, n - 1}) {
        hn_generator *g = nullptr;
        const hn_generator_options o = {.device = device,
                                        .decoder = &model.decoder,
                                        .adapt = nullptr,
                                        .dtype = HN_F32,
                                        .max_prompt = prompt,
                                        .max_tokens = n};
        ASSERT_HN_OK(hn_generator_new(&o, &g));
        ASSERT_HN_OK(hn_generator_allocate(g));
        ASSERT_HN_OK(hn_model_load(&model, hn_generator_params(g), 0));
        const float *logits = nullptr;
        ASSERT_HN_OK(hn_generator_prompt(g, tokens.data(), prompt, &logits));
        const uint64_t allocations = hn_alloc_calls();
        for (int64_t i = prompt; i <= n; i++) {
            const std::vector<float> got(logits, logits + vocab);
            const std::vector<float> row(want.begin() + (i - 1) * vocab, want.begin() + i * vocab);
            EXPECT_LT(max_abs(got, row), 2e-5) << "prompt " << prompt << ", token " << i;
            if (i == n) break;
            ASSERT_HN_OK(hn_generator_next(g, tokens[(size_t)i], &logits));
        }
        EXPECT_EQ(hn_alloc_calls(), allocations);
        hn_generator_free(g);
    }
    hn_model_close(&model);
    hn_device_close(device);
}

/* ---- training runs of PyTorch and PEFT ---- */

/* Characters as the reference reads them: space is U+2581, a newline is <unk>, no BOS. */
std::vector<int32_t> character_ids(const std::string &vocab_path, const std::string &text)
{
    std::vector<int32_t> id(256, 0);
    std::istringstream lines(read_file(vocab_path));
    std::string line;
    for (int32_t i = 0; std::getline(lines, line); i++) {
        const std::string piece = line.substr(0, line.find('\t'));
        if (piece == "\xe2\x96\x81") id[' '] = i;
        if (piece.size() == 1) id[(unsigned char)piece[0]] = i;
    }
    std::vector<int32_t> v;
    for (const char c : text) v.push_back(id[(unsigned char)c]);
    return v;
}

class GoldenRun : public ::testing::TestWithParam<const char *> {};

TEST_P(GoldenRun, LossesAgree)
{
    HN_NEED_DATA(dir, "babyllama-char105");
    const Json run(std::string("tests/golden/") + GetParam() + ".json");
    const std::string text = read_file(data_dir("tinyshakespeare") + "/input.txt");
    const auto ids =
        character_ids(dir + "/tok105.vocab", text.substr(0, (size_t)(0.9 * (double)text.size())));
    const json_t *s = run.at("settings");
    const auto setting = [&](const char *key) {
        return json_number_value(json_object_get(s, key));
    };
    const bool lora = std::string(json_string_value(json_object_get(s, "method"))) == "lora";
    const bool sgd = std::string(json_string_value(json_object_get(s, "optimizer"))) == "sgd";

    hn_peft_config peft = {};
    hn_adapt adapt = {.parameter = all_parameters, .linear = nullptr, .context = nullptr};
    Engine m(dir);
    if (lora) {
        peft.r = (int64_t)setting("rank");
        peft.alpha = setting("alpha");
        peft.rslora = json_is_true(json_object_get(s, "rslora"));
        peft.dora = json_is_true(json_object_get(s, "dora"));
        for (const char *name :
             {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
            ASSERT_HN_OK(hn_names_add(&peft.targets.list, name));
        adapt = hn_lora_hook(&peft);
    }
    m.o.adapt = &adapt;
    m.o.train = true;
    m.d.batch_rows = (int64_t)setting("rows");
    m.d.seq_len = (int64_t)setting("length");
    m.d.max_seqs = m.d.batch_rows;
    m.o.optimizer.kind = sgd ? HN_OPTIMIZER_SGD : HN_OPTIMIZER_ADAMW;
    m.o.optimizer.momentum = sgd ? setting("momentum") : 0;
    m.o.optimizer.nesterov = json_is_true(json_object_get(s, "nesterov"));
    m.o.optimizer.weight_decay = lora || sgd ? setting("weight_decay") : 0;
    m.o.optimizer.max_grad_norm = setting("clip_norm");
    m.open(lora ? (uint64_t)setting("seed") : 0);

    const auto loss = run.numbers("loss"), lr = run.numbers("lr"), norm = run.numbers("grad_norm");
    const int64_t accumulation = (int64_t)setting("accumulation"), n = (int64_t)ids.size();
#ifdef __SANITIZE_ADDRESS__
    const int64_t steps = 3; /* what a sanitizer looks for does not change from step to step */
#else
    const int64_t steps = (int64_t)loss.size();
#endif
    const auto fill = [&](int64_t number) {
        std::vector<int64_t> start;
        for (int64_t b = 0; b < m.d.batch_rows; b++)
            start.push_back((number * m.d.batch_rows + b) * m.d.seq_len * 7 %
                            (n - m.d.seq_len - 1));
        m.fill(ids, start);
    };
    for (int64_t t = 0; t < steps; t++) {
        hn_step_report r;
        if (accumulation == 1) {
            fill(t);
            ASSERT_HN_OK(hn_engine_step(m.e, t, lr[(size_t)t], &r));
        } else {
            ASSERT_HN_OK(hn_engine_begin(m.e, t));
            for (int64_t a = 0; a < accumulation; a++) {
                fill(t * accumulation + a);
                ASSERT_HN_OK(hn_engine_micro(m.e, a));
            }
            ASSERT_HN_OK(hn_engine_update(m.e, lr[(size_t)t], &r));
        }
        float count = -1; /* the update clears it */
        ASSERT_HN_OK(hn_tensor_get(hn_params_flat(m.params())->count, &count));
        EXPECT_EQ(count, 0);
        EXPECT_NEAR(r.loss, loss[(size_t)t], 1e-3) << "step " << t;
        EXPECT_NEAR(r.grad_norm, norm[(size_t)t], 2e-2 * norm[(size_t)t]) << "step " << t;
    }
    hn_peft_config_clear(&peft);
}
INSTANTIATE_TEST_SUITE_P(Runs, GoldenRun,
                         ::testing::Values("lora_babyllama_50", "lora_babyllama_accum",
                                           "dora_babyllama_50", "full_babyllama_sgd"),
                         [](const auto &i) { return std::string(i.param); });

/* ---- promises ---- */

class Small : public ::testing::Test {
  protected:
    const std::string dir = "tests/fixtures/models/qwen2";
    std::vector<int32_t> ids;
    hn_peft_config peft = {};
    hn_adapt adapt = {};

    void SetUp() override
    {
        for (int i = 0; i < 400; i++) ids.push_back((i * i * 7 + i) % 64);
        peft.r = 4;
        peft.alpha = 8;
        for (const char *name : {"q_proj", "v_proj", "down_proj"})
            ASSERT_HN_OK(hn_names_add(&peft.targets.list, name));
        adapt = hn_lora_hook(&peft);
    }
    void TearDown() override { hn_peft_config_clear(&peft); }
    void recompute_and_compare(double dropout, bool full);
    void configure(Engine &m, int64_t rows, double dropout)
    {
        peft.dropout = dropout;
        m.o.adapt = &adapt;
        m.o.train = true;
        m.d.batch_rows = rows;
        m.d.seq_len = 12;
        m.d.max_seqs = rows;
    }
    void setup(Engine &m, int64_t rows, double dropout)
    {
        configure(m, rows, dropout);
        m.open(5);
        for (int64_t i = 0; i < hn_params_count(m.params()); i++) /* B = 0 hides half of it */
            if (hn_params_at(m.params(), i)->adapter) {
                hn_param p = *hn_params_at(m.params(), i);
                p.init = HN_INIT_UNIFORM;
                p.init_scale = 0.3;
                EXPECT_HN_OK(hn_param_init(&p, 9));
            }
    }
    std::vector<float> gradients(int64_t rows, int64_t accumulation, double dropout)
    {
        Engine m(dir);
        setup(m, rows, dropout);
        EXPECT_HN_OK(hn_engine_begin(m.e, 3));
        for (int64_t a = 0; a < accumulation; a++) {
            std::vector<int64_t> start;
            for (int64_t b = 0; b < rows; b++) start.push_back((a * rows + b) * 20);
            m.fill(ids, start);
            EXPECT_HN_OK(hn_engine_micro(m.e, a));
        }
        std::vector<float> all;
        for (int64_t i = 0; i < hn_params_count(m.params()); i++) {
            if (!hn_params_at(m.params(), i)->trained) continue;
            const auto g = m.gradient(hn_params_at(m.params(), i));
            all.insert(all.end(), g.begin(), g.end());
        }
        return all;
    }
};

TEST_F(Small, BatchOf8EqualsEightBatchesOf1)
{
    EXPECT_LT(rel_l2(gradients(1, 8, 0), gradients(8, 1, 0)), 1e-6);
}

TEST_F(Small, DropoutDoesNotDependOnTheMicroBatch)
{
    const auto with = gradients(8, 1, 0.3);
    EXPECT_LT(rel_l2(gradients(1, 8, 0.3), with), 1e-6);
    EXPECT_LT(rel_l2(gradients(4, 2, 0.3), with), 1e-6);
    EXPECT_GT(rel_l2(gradients(8, 1, 0), with), 1e-2); /* it does something */
}

TEST_F(Small, RecomputingLayersGivesTheSameBitsInLessMemory)
{
    for (const double dropout : {0.0, 0.2}) /* with one, q, k and v are products of their own */
        for (const bool full : {false, true}) recompute_and_compare(dropout, full);
}

TEST_F(Small, AsFewLayersRunAgainAsMakeThePlanFit)
{
    if (std::string(test_device()) != "cpu")
        GTEST_SKIP() << "on a GPU two layers of this model take no less than one";
    size_t all = 0, total[3];
    for (const int64_t layers : {0, 1, 2}) {
        Engine m(dir);
        m.o.recompute = HN_RECOMPUTE_AUTO;
        m.o.memory = layers == 0 ? 0 : total[layers - 1] - 1;
        setup(m, 8, 0.2);
        hn_plan_sizes s;
        hn_plan_sizes_of(hn_engine_program(m.e), &s);
        total[layers] = s.total_bytes;
        EXPECT_EQ(hn_engine_recomputed(m.e), layers);
        char *text = hn_engine_plan_text(m.e);
        EXPECT_EQ(std::strstr(text, "recompute: ") != nullptr, layers > 0) << text;
        const bool one = std::strstr(text, "recompute: 1 of 2 layers, to fit 0.0 GiB") != nullptr;
        EXPECT_EQ(one, layers == 1) << text;
        hn_free(text);
        all = s.total_bytes;
    }
    Engine m(dir);
    m.o.recompute = HN_RECOMPUTE_AUTO;
    m.o.memory = all - 1;
    configure(m, 8, 0.2);
    ASSERT_HN_OK(m.make(&m.e));
    EXPECT_EQ(hn_engine_recomputed(m.e), 2);
    char *text = hn_engine_plan_text(m.e);
    EXPECT_NE(std::strstr(text, "all 2 layers\nit does not fit: there are "), nullptr) << text;
    hn_free(text);
    EXPECT_HN_FAIL(hn_engine_allocate(m.e), HN_ERR_MEMORY, "GiB may be taken");
}

/* Not a bit depends on how many layers run again. */
void Small::recompute_and_compare(double dropout, bool full)
{
    std::vector<float> grads[3];
    size_t bytes[3], total = 0;
    const hn_adapt all = {.parameter = all_parameters, .linear = nullptr, .context = nullptr};
    for (int k = 0; k < 3; k++) {
        Engine m(dir);
        m.o.recompute = k == 0 ? HN_RECOMPUTE_OFF : k == 1 ? HN_RECOMPUTE_AUTO : HN_RECOMPUTE_ON;
        if (k == 1) m.o.memory = total - 1; /* a byte less than without */
        if (full) adapt = all;
        setup(m, 8, dropout);
        m.fill(ids, {0, 20, 40, 60, 80, 100, 120, 140});
        ASSERT_HN_OK(hn_engine_begin(m.e, 0));
        ASSERT_HN_OK(hn_engine_micro(m.e, 0));
        for (int64_t i = 0; i < hn_params_count(m.params()); i++)
            if (hn_params_at(m.params(), i)->trained) {
                const auto g = m.gradient(hn_params_at(m.params(), i));
                grads[k].insert(grads[k].end(), g.begin(), g.end());
            }
        hn_plan_sizes s;
        hn_plan_sizes_of(hn_engine_program(m.e), &s);
        bytes[k] = s.class_bytes[HN_MEM_TRANSIENT];
        total = s.total_bytes;
        EXPECT_EQ(hn_engine_recomputed(m.e), k);
    }
    EXPECT_TRUE(same_bits(grads[0], grads[1]));
    EXPECT_TRUE(same_bits(grads[0], grads[2]));
    EXPECT_LT(bytes[1], bytes[0]);
    if (std::string(test_device()) == "cpu") { /* of two layers */
        EXPECT_LT(bytes[2], bytes[1]);
    }
    adapt = hn_lora_hook(&peft);
}

TEST_F(Small, NothingIsAllocatedInAStep)
{
    Engine m(dir);
    setup(m, 4, 0.1);
    hn_step_report r;
    const uint64_t before = hn_alloc_calls();
    for (int64_t t = 0; t < 3; t++) {
        m.fill(ids, {0, 20, 40, 60});
        ASSERT_HN_OK(hn_engine_begin(m.e, t));
        ASSERT_HN_OK(hn_engine_micro(m.e, 0));
        ASSERT_HN_OK(hn_engine_update(m.e, 1e-3, &r));
    }
    /* fill makes no library call; vectors of the test do not count either */
    EXPECT_EQ(hn_alloc_calls(), before);
}

TEST_F(Small, MaskedBatchIsReportedAsEmptyAndChangesNothing)
{
    Engine m(dir);
    setup(m, 2, 0);
    m.fill(ids, {0, 20});
    hn_engine_input in;
    ASSERT_HN_OK(hn_engine_batch(m.e, &in));
    const hn_decoder_batch to = hn_decoder_batch_of(&in);
    for (int i = 0; i < 24; i++) to.labels[i] = -100;
    const hn_param *a = nullptr;
    for (int64_t i = 0; i < hn_params_count(m.params()); i++)
        if (hn_params_at(m.params(), i)->trained) a = hn_params_at(m.params(), i);
    std::vector<float> before((size_t)(a->dim[0] * a->dim[1])), after = before;
    ASSERT_HN_OK(hn_param_get(a, before.data()));
    hn_step_report r;
    ASSERT_HN_OK(hn_engine_begin(m.e, 0));
    ASSERT_HN_OK(hn_engine_micro(m.e, 0));
    ASSERT_HN_OK(hn_engine_update(m.e, 1e-1, &r));
    ASSERT_HN_OK(hn_param_get(a, after.data()));
    EXPECT_EQ(r.skipped, HN_STEP_EMPTY);
    EXPECT_TRUE(same_bits(before, after));
}

TEST_F(Small, NonFiniteValuesAreTracedToTheirOperation)
{
    Engine m(dir);
    setup(m, 2, 0);
    const hn_param *w = hn_params_find(m.params(), "model.layers.1.mlp.up_proj.weight");
    const float bad = INFINITY;
    ASSERT_HN_OK(hn_tensor_write(w->value, 3 * sizeof bad, &bad, sizeof bad));
    m.fill(ids, {0, 20});
    hn_step_report r;
    ASSERT_HN_OK(hn_engine_begin(m.e, 0));
    ASSERT_HN_OK(hn_engine_micro(m.e, 0));
    ASSERT_HN_OK(hn_engine_update(m.e, 1e-1, &r));
    EXPECT_EQ(r.skipped, HN_STEP_NONFINITE);
    ASSERT_HN_OK(hn_engine_begin(m.e, 0));
    EXPECT_HN_FAIL(hn_engine_find_nonfinite(m.e, 0), HN_ERR_NUMERIC,
                   "model.layers.1.mlp.up_proj (linear");
}

TEST_F(Small, Bf16TrainsCloseToF32)
{
    double loss[2];
    for (int k = 0; k < 2; k++) {
        Engine m(dir, k ? "bf16" : "f32");
        setup(m, 4, 0);
        hn_step_report r = {};
        for (int64_t t = 0; t < 20; t++) {
            m.fill(ids, {0, 20, 40, 60});
            ASSERT_HN_OK(hn_engine_begin(m.e, t));
            ASSERT_HN_OK(hn_engine_micro(m.e, 0));
            ASSERT_HN_OK(hn_engine_update(m.e, 5e-3, &r));
        }
        loss[k] = r.loss;
    }
    EXPECT_NEAR(loss[0], loss[1], 0.05); /* 20 steps of three-digit arithmetic */
    EXPECT_NE(loss[0], loss[1]);
}

TEST(EngineNew, RefusesARunThatTrainsNothing)
{
    Engine m("tests/fixtures/models/llama");
    m.o.train = true;
    m.d.batch_rows = m.d.max_seqs = 1;
    m.d.seq_len = 8;
    hn_engine *e = nullptr;
    EXPECT_HN_FAIL(m.make(&e), HN_ERR_ARG, "nothing to train");
    EXPECT_EQ(e, nullptr);
}

/* ---- schedules ---- */

TEST(Schedule, EqualsTransformers)
{
    const Json golden("tests/golden/optim.json");
    const json_t *list = golden.at("schedules");
    ASSERT_GT(json_array_size(list), 0u);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *c = json_array_get(list, i);
        const std::string name = json_string_value(json_object_get(c, "name"));
        hn_schedule s = {};
        ASSERT_HN_OK(hn_schedule_kind_of(name.substr(0, name.find('_')).c_str(), &s.kind));
        s.lr = 1e-3;
        s.steps = json_integer_value(json_object_get(c, "total"));
        if (name != "constant") s.warmup = json_integer_value(json_object_get(c, "warmup"));
        const json_t *want = json_object_get(c, "factor");
        for (int64_t k = 0; k < s.steps; k++)
            EXPECT_NEAR(hn_schedule_lr(&s, k),
                        1e-3 * json_number_value(json_array_get(want, (size_t)k)), 1e-12)
                << name << ", step " << k;
    }
}

} // namespace
