/* runtime/file/peft: reading, matching and writing adapters as the PEFT library does. */
#include "file_limit.h"
#include "hn_test.h"
#include "runtime/base/alloc.h"
#include "runtime/file/peft.h"
#include "runtime/file/safetensors.h"

namespace {

namespace fs = std::filesystem;

/* A config that is freed at the end of the test. */
struct Config {
    hn_peft_config c = {};
    ~Config() { hn_peft_config_clear(&c); }
};

hn_status parse(const std::string &json, hn_peft_config *c)
{
    return hn_peft_config_parse(json.data(), json.size(), "adapter_config.json", c);
}

/* A config with peft_type, r 4, alpha 8 and the rest of the object. */
std::string lora(const std::string &rest)
{
    return "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8, " + rest + "}";
}

#define EXPECT_REFUSED(json, code, part)                                         \
    do {                                                                         \
        Config refused;                                                          \
        EXPECT_HN_FAIL(parse(json, &refused.c), code, part);                     \
        EXPECT_NE(std::strstr(hn_last_error(), "adapter_config.json"), nullptr); \
        EXPECT_EQ(refused.c.r, 0);                                               \
    } while (0)

bool matches(const hn_peft_config &c, const char *module)
{
    bool out = false;
    EXPECT_HN_OK(hn_peft_matches(&c, module, &out)) << module;
    return out;
}

/* What PEFT 0.21.2 writes for LoraConfig(target_modules=["q_proj"]). */
const char kOfPeft[] = R"({"task_type": null, "peft_type": "LORA", "auto_mapping": null,
"peft_version": "0.21.2", "base_model_name_or_path": "m", "revision": null, "inference_mode": true,
"r": 8, "target_modules": ["q_proj"], "exclude_modules": null, "lora_alpha": 16, "lora_dropout": 0.0,
"fan_in_fan_out": false, "bias": "none", "use_rslora": false, "modules_to_save": null,
"init_lora_weights": true, "layers_to_transform": null, "layers_pattern": null, "rank_pattern": {},
"alpha_pattern": {}, "megatron_config": null, "megatron_core": "megatron.core",
"trainable_token_indices": null, "loftq_config": {}, "eva_config": null, "corda_config": null,
"lora_ga_config": null, "use_dora": false, "velora_config": null, "alora_invocation_tokens": null,
"use_qalora": false, "qalora_group_size": 16, "monteclora_config": null, "layer_replication": null,
"lora_bias": false, "target_parameters": null, "use_bdlora": null, "arrow_config": null,
"kasa_config": null, "ensure_weight_tying": false})";

TEST(PeftConfig, ReadsWhatPeftWrites)
{
    Config k;
    ASSERT_HN_OK(parse(kOfPeft, &k.c));
    EXPECT_EQ(k.c.r, 8);
    EXPECT_EQ(k.c.alpha, 16);
    EXPECT_STREQ(k.c.base_model, "m");
    EXPECT_EQ(k.c.task_type, nullptr);
    EXPECT_TRUE(matches(k.c, "model.layers.0.self_attn.q_proj"));
    EXPECT_FALSE(matches(k.c, "model.layers.0.self_attn.k_proj"));
    int64_t r = 0;
    double scale = 0;
    ASSERT_HN_OK(hn_peft_rank(&k.c, "model.layers.0.self_attn.q_proj", &r, &scale));
    EXPECT_EQ(r, 8);
    EXPECT_EQ(scale, 2.0);
}

TEST(PeftConfig, FillsInPeftsDefaults)
{
    Config k;
    ASSERT_HN_OK(parse(R"({"peft_type": "LORA", "target_modules": ["a"]})", &k.c));
    EXPECT_EQ(k.c.r, 8);
    EXPECT_EQ(k.c.alpha, 8);
    EXPECT_EQ(k.c.dropout, 0);
}

TEST(PeftConfig, RefusesWhatItDoesNotDoAndNamesTheKey)
{
    const std::string t = R"("target_modules": ["a"], )";
    EXPECT_REFUSED(R"({"peft_type": "VERA"})", HN_ERR_UNSUPPORTED, "'peft_type' is 'VERA'");
    EXPECT_REFUSED(R"({"r": 4})", HN_ERR_FORMAT, "'peft_type' is missing");
    EXPECT_REFUSED(lora(t + R"("bias": "all")"), HN_ERR_UNSUPPORTED, "'bias' is 'all'");
    for (const char *key : {"use_qalora", "lora_bias", "ensure_weight_tying"})
        EXPECT_REFUSED(lora(t + "\"" + key + "\": true"), HN_ERR_UNSUPPORTED, key);
    for (const char *key : {"layer_replication", "target_parameters", "trainable_token_indices",
                            "alora_invocation_tokens"})
        EXPECT_REFUSED(lora(t + "\"" + key + "\": [1]"), HN_ERR_UNSUPPORTED, key);
    for (const char *key :
         {"loftq_config", "corda_config", "use_bdlora", "arrow_config", "kasa_config",
          "velora_config", "monteclora_config", "megatron_config", "lora_ga_config"})
        EXPECT_REFUSED(lora(t + "\"" + key + "\": {\"x\": 1}"), HN_ERR_UNSUPPORTED, key);
    EXPECT_REFUSED(lora(t + R"("of_the_future": 3)"), HN_ERR_UNSUPPORTED, "'of_the_future'");
    EXPECT_REFUSED(lora(t + R"("init_lora_weights": "pissa_niter_4")"), HN_ERR_UNSUPPORTED,
                   "'init_lora_weights' is 'pissa_niter_4'");
    Config k;
    EXPECT_REFUSED(lora(t + R"("use_dora": 1)"), HN_ERR_FORMAT, "'use_dora' is not true or false");
    EXPECT_HN_OK(parse(lora(t + R"("use_dora": true)"), &k.c));
    EXPECT_TRUE(k.c.dora);
    hn_peft_config_clear(&k.c);
    EXPECT_HN_OK(parse(lora(t + R"("of_the_future": {}, "init_lora_weights": "gaussian")"), &k.c));
}

TEST(PeftConfig, RefusesValuesOutOfRange)
{
    const std::string t = R"({"peft_type": "LORA", "target_modules": ["a"], )";
    EXPECT_REFUSED("[]", HN_ERR_FORMAT, "not a JSON object");
    EXPECT_REFUSED(t + R"("r": 0})", HN_ERR_FORMAT, "'r' is 0");
    EXPECT_REFUSED(t + R"("r": 4.0})", HN_ERR_FORMAT, "'r' is not an integer");
    EXPECT_REFUSED(t + R"("lora_alpha": -1})", HN_ERR_FORMAT, "'lora_alpha'");
    EXPECT_REFUSED(t + R"("lora_dropout": 1})", HN_ERR_FORMAT, "'lora_dropout'");
    EXPECT_REFUSED(t + R"("rank_pattern": {"a": 0}})", HN_ERR_FORMAT, "'rank_pattern': 'a'");
    EXPECT_REFUSED(t + R"("rank_pattern": {"a": 2.5}})", HN_ERR_FORMAT, "'rank_pattern': 'a'");
    EXPECT_REFUSED(t + R"("alpha_pattern": {"a": "x"}})", HN_ERR_FORMAT, "'alpha_pattern': 'a'");
    EXPECT_REFUSED(t + R"("rank_pattern": {"(": 2}})", HN_ERR_FORMAT, "'rank_pattern': regular");
    EXPECT_REFUSED(t + R"("rank_pattern": []})", HN_ERR_FORMAT, "'rank_pattern'");
    EXPECT_REFUSED(t + R"("layers_pattern": "h"})", HN_ERR_FORMAT, "'layers_pattern' needs");
    EXPECT_REFUSED(t + R"("layers_to_transform": "0"})", HN_ERR_FORMAT, "'layers_to_transform'");
    EXPECT_REFUSED(t + R"("layers_to_transform": [0, -1]})", HN_ERR_FORMAT, "entry 1");
    EXPECT_REFUSED(t + R"("exclude_modules": 3})", HN_ERR_FORMAT, "'exclude_modules'");
    EXPECT_REFUSED(R"({"peft_type": "LORA"})", HN_ERR_FORMAT, "'target_modules' is missing");
    EXPECT_REFUSED(lora(R"("target_modules": [])"), HN_ERR_FORMAT, "'target_modules'");
    EXPECT_REFUSED(lora(R"("target_modules": ["a", 1])"), HN_ERR_FORMAT, "entry 1");
    EXPECT_REFUSED(lora(R"("target_modules": "(a")"), HN_ERR_FORMAT, "'target_modules': regular");
    EXPECT_REFUSED(lora(R"("target_modules": "all-linear")"), HN_ERR_UNSUPPORTED, "all-linear");
    EXPECT_REFUSED(lora(R"("target_modules": "a", "layers_to_transform": 1)"), HN_ERR_FORMAT,
                   "needs a list");
}

TEST(PeftConfig, SurvivesEveryFailedAllocation)
{
    const std::string json = lora(
        R"("target_modules": ["q", "v"], "exclude_modules": "x.*", "layers_to_transform": [1],
           "layers_pattern": ["h"], "rank_pattern": {"a": 2}, "alpha_pattern": {"a": 3},
           "base_model_name_or_path": "b", "revision": "r", "task_type": "CAUSAL_LM")");
    for (uint64_t n = 1;; n++) {
        Config k;
        hn_alloc_fail_at(n);
        const hn_status st = parse(json, &k.c);
        hn_alloc_fail_at(0);
        if (st == HN_OK) break;
        ASSERT_EQ(st, HN_ERR_MEMORY) << hn_last_error();
        ASSERT_LT(n, 100u);
    }
}

TEST(PeftMatch, ListEntriesAreSuffixesAfterADot)
{
    Config k;
    ASSERT_HN_OK(parse(lora(R"("target_modules": ["q_proj", "mlp.up", "lm_head"],
                              "exclude_modules": ["layers.1.q_proj"])"),
                       &k.c));
    EXPECT_TRUE(matches(k.c, "model.layers.0.q_proj"));
    EXPECT_TRUE(matches(k.c, "q_proj"));
    EXPECT_TRUE(matches(k.c, "lm_head"));
    EXPECT_TRUE(matches(k.c, "model.layers.0.mlp.up"));
    EXPECT_FALSE(matches(k.c, "model.layers.0.other_up"));
    EXPECT_FALSE(matches(k.c, "model.layers.0.xq_proj"));
    EXPECT_FALSE(matches(k.c, "model.layers.0.q_proj.inner"));
    EXPECT_FALSE(matches(k.c, "model.layers.1.q_proj"));
    EXPECT_TRUE(matches(k.c, "model.layers.11.q_proj"));
}

TEST(PeftMatch, AnExpressionMustMatchTheWholePath)
{
    Config k;
    ASSERT_HN_OK(parse(lora(R"("target_modules": ".*layers\\.[01]\\..*(q|v)_proj",
                              "exclude_modules": ".*\\.1\\..*q_proj")"),
                       &k.c));
    EXPECT_TRUE(matches(k.c, "model.layers.0.self_attn.q_proj"));
    EXPECT_TRUE(matches(k.c, "model.layers.1.self_attn.v_proj"));
    EXPECT_FALSE(matches(k.c, "model.layers.1.self_attn.q_proj"));
    EXPECT_FALSE(matches(k.c, "model.layers.2.self_attn.q_proj"));
    EXPECT_FALSE(matches(k.c, "model.layers.0.self_attn.q_proj.x"));
}

TEST(PeftMatch, BacktrackingIsLimited)
{
    Config k;
    ASSERT_HN_OK(parse(lora(R"("target_modules": "(a|aa)+[bc]")"), &k.c));
    bool out;
    EXPECT_HN_FAIL(hn_peft_matches(&k.c, std::string(64, 'a').c_str(), &out), HN_ERR_FORMAT,
                   "limit");
}

TEST(PeftMatch, LayersAreTheFirstNumberOfThePath)
{
    Config k;
    ASSERT_HN_OK(parse(lora(R"("target_modules": ["q", "model.layers.5.q"],
                              "layers_to_transform": [1, 3])"),
                       &k.c));
    EXPECT_TRUE(matches(k.c, "model.layers.1.q"));
    EXPECT_FALSE(matches(k.c, "model.layers.2.q"));
    EXPECT_TRUE(matches(k.c, "model.layers.3.experts.0.q"));
    EXPECT_FALSE(matches(k.c, "model.layers.0.experts.3.q"));
    EXPECT_TRUE(matches(k.c, "model.layers.5.q")) << "the whole path is listed";
    EXPECT_FALSE(matches(k.c, "model.q"));
    EXPECT_FALSE(matches(k.c, "layers.1.q")) << "PEFT wants two names before the number";
    EXPECT_FALSE(matches(k.c, "model.layers.99999999999999999999.q"));
    Config one;
    ASSERT_HN_OK(parse(lora(R"("target_modules": ["q"], "layers_to_transform": 1,
                              "layers_pattern": ["experts", "h"])"),
                       &one.c));
    EXPECT_TRUE(matches(one.c, "model.layers.0.experts.1.q"));
    EXPECT_FALSE(matches(one.c, "model.layers.1.experts.0.q"));
    EXPECT_TRUE(matches(one.c, "h.1.q"));
    EXPECT_FALSE(matches(one.c, "model.layers.1.q"));
    EXPECT_FALSE(matches(one.c, "model.h.99999999999999999999.q"));
}

TEST(PeftMatch, TheFirstPatternWinsForRankAndAlpha)
{
    Config k;
    ASSERT_HN_OK(parse(lora(R"("target_modules": ["q", "v"], "use_rslora": true,
        "rank_pattern": {"layers.0.q": 16, "q": 9, "^model\\.layers\\.1\\.v": 25},
        "alpha_pattern": {"v": 2.5})"),
                       &k.c));
    const auto check = [&](const char *module, int64_t rank, double scale) {
        int64_t r = 0;
        double s = 0;
        EXPECT_HN_OK(hn_peft_rank(&k.c, module, &r, &s));
        EXPECT_EQ(r, rank) << module;
        EXPECT_DOUBLE_EQ(s, scale) << module;
    };
    check("model.layers.0.q", 16, 8 / 4.0);
    check("model.layers.10.q", 9, 8 / 3.0);
    check("model.layers.1.v", 25, 2.5 / 5.0);
    check("model.layers.2.v", 4, 2.5 / 2.0);
    check("model.layers.2.xq", 4, 8 / 2.0);
}

/* ---- folders ---- */

struct Adapter {
    hn_peft_adapter a = {};
    ~Adapter() { hn_peft_clear(&a); }
};

/* Two modules of rank 2 and 3 with values 0.5, 1, 1.5, ... */
void make(hn_peft_adapter *a)
{
    ASSERT_HN_OK(parse(R"({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "lora_dropout": 0.25,
        "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 3},
        "base_model_name_or_path": "models/x", "task_type": "CAUSAL_LM"})",
                       &a->config));
    a->modules = (hn_peft_module *)hn_calloc(2, sizeof *a->modules);
    const char *const paths[] = {"model.layers.0.q_proj", "model.layers.0.v_proj"};
    for (a->n = 0; a->n < 2; a->n++) {
        hn_peft_module *m = &a->modules[a->n];
        m->module = hn_strdup(paths[a->n]);
        m->r = 2 + a->n, m->in = 5, m->out = 4;
        ASSERT_HN_OK(hn_peft_rank(&a->config, m->module, &m->r, &m->scale));
        m->a = (float *)hn_malloc((size_t)(m->r * m->in) * sizeof(float));
        m->b = (float *)hn_malloc((size_t)(m->out * m->r) * sizeof(float));
        for (int64_t i = 0; i < m->r * m->in; i++) m->a[i] = 0.5f * (float)(i + 1);
        for (int64_t i = 0; i < m->r * m->out; i++) m->b[i] = -0.5f * (float)(i + 1);
    }
}

TEST(PeftSave, WritesTheSmallestConfig)
{
    TempDir t;
    Adapter x;
    make(&x.a);
    ASSERT_HN_OK(hn_peft_save((t / "out").c_str(), &x.a, HN_F32));
    EXPECT_EQ(read_file(t / "out/adapter_config.json"), R"({
  "base_model_name_or_path": "models/x",
  "bias": "none",
  "fan_in_fan_out": false,
  "inference_mode": true,
  "init_lora_weights": true,
  "lora_alpha": 4,
  "lora_dropout": 0.25,
  "modules_to_save": null,
  "peft_type": "LORA",
  "r": 2,
  "rank_pattern": {
    "v_proj": 3
  },
  "revision": null,
  "target_modules": [
    "q_proj",
    "v_proj"
  ],
  "task_type": "CAUSAL_LM"
}
)");
    hn_st_file *f = nullptr;
    ASSERT_HN_OK(hn_st_open((t / "out/adapter_model.safetensors").c_str(), &f));
    EXPECT_EQ(hn_st_count(f), 4);
    EXPECT_STREQ(hn_st_metadata(f, "format"), "pt");
    const hn_st_tensor *b = hn_st_find(f, "base_model.model.model.layers.0.v_proj.lora_B.weight");
    ASSERT_NE(b, nullptr);
    EXPECT_EQ(b->dim[0], 4);
    EXPECT_EQ(b->dim[1], 3);
    hn_st_close(f);
}

TEST(PeftSave, WhatIsWrittenReadsBack)
{
    for (const hn_dtype dtype : {HN_F32, HN_BF16}) { /* the values are exact in bf16 */
        TempDir t;
        Adapter x, y;
        make(&x.a);
        ASSERT_HN_OK(hn_peft_save((t / "out").c_str(), &x.a, dtype));
        ASSERT_HN_OK(hn_peft_load((t / "out").c_str(), &y.a));
        ASSERT_EQ(y.a.n, 2);
        EXPECT_EQ(y.a.config.dropout, 0.25);
        for (int64_t i = 0; i < 2; i++) {
            const hn_peft_module *m = &x.a.modules[i], *n = hn_peft_find(&y.a, m->module);
            ASSERT_NE(n, nullptr);
            EXPECT_EQ(n->r, m->r);
            EXPECT_EQ(n->in, 5);
            EXPECT_EQ(n->out, 4);
            EXPECT_EQ(n->scale, m->scale);
            EXPECT_EQ(std::memcmp(n->a, m->a, (size_t)(m->r * 5) * 4), 0);
            EXPECT_EQ(std::memcmp(n->b, m->b, (size_t)(m->r * 4) * 4), 0);
        }
        EXPECT_EQ(hn_peft_find(&y.a, "model.layers.0"), nullptr);
    }
}

TEST(PeftSave, AllKeysSurviveARoundTrip)
{
    TempDir t;
    Adapter x, y;
    make(&x.a);
    hn_peft_config_clear(&x.a.config);
    ASSERT_HN_OK(parse(lora(R"("target_modules": ["q_proj", "v_proj"], "use_rslora": true,
        "exclude_modules": "lm_head", "layers_to_transform": [0, 2], "layers_pattern": "layers",
        "rank_pattern": {"v_proj": 3, ".*": 2}, "alpha_pattern": {"z": 1, "q_proj": 2.5},
        "fan_in_fan_out": true, "revision": "abc")"),
                       &x.a.config));
    for (int64_t i = 0; i < 2; i++)
        ASSERT_HN_OK(hn_peft_rank(&x.a.config, x.a.modules[i].module, &x.a.modules[i].r,
                                  &x.a.modules[i].scale));
    ASSERT_HN_OK(hn_peft_save((t / "out").c_str(), &x.a, HN_F32));
    ASSERT_HN_OK(hn_peft_load((t / "out").c_str(), &y.a));
    const hn_peft_config &c = y.a.config;
    EXPECT_TRUE(c.rslora);
    EXPECT_TRUE(c.fan_in_fan_out);
    EXPECT_STREQ(c.exclude.regex, "lm_head");
    ASSERT_EQ(c.n_layers, 2);
    EXPECT_EQ(c.layers[1], 2);
    ASSERT_EQ(c.layers_pattern.n, 1);
    ASSERT_EQ(c.ranks.n, 2);
    EXPECT_STREQ(c.ranks.items[0].key, "v_proj") << "the order of patterns matters";
    EXPECT_STREQ(c.alphas.items[0].key, "z");
    EXPECT_EQ(c.alphas.items[1].value, 2.5);
    EXPECT_STREQ(c.revision, "abc");
}

TEST(PeftSave, ReplacesAnAdapterButNothingElse)
{
    TempDir t;
    Adapter x, y;
    make(&x.a);
    const std::string dir = t / "out";
    ASSERT_HN_OK(hn_peft_save(dir.c_str(), &x.a, HN_F32));
    write_file(dir + "/README.md", "mine");
    x.a.modules[0].a[0] = 99;
    ASSERT_HN_OK(hn_peft_save(dir.c_str(), &x.a, HN_F32));
    EXPECT_EQ(read_file(dir + "/README.md"), "mine");
    ASSERT_HN_OK(hn_peft_load(dir.c_str(), &y.a));
    EXPECT_EQ(y.a.modules[0].a[0], 99);
    write_file(dir + "/thesis.txt", "mine");
    EXPECT_HN_FAIL(hn_peft_save(dir.c_str(), &x.a, HN_F32), HN_ERR_IO, "'thesis.txt'");
    EXPECT_EQ(read_file(dir + "/thesis.txt"), "mine");
    EXPECT_EQ(std::distance(fs::directory_iterator(t.str()), {}), 1);
}

TEST(PeftSave, RefusesWhatNobodyCouldLoad)
{
    TempDir t;
    Adapter x;
    make(&x.a);
    const std::string dir = t / "out";
    hn_peft_module *m = &x.a.modules[0];
    EXPECT_HN_FAIL(hn_peft_save(dir.c_str(), &x.a, HN_F16), HN_ERR_UNSUPPORTED, "f16");
    m->scale *= 2;
    EXPECT_HN_FAIL(hn_peft_save(dir.c_str(), &x.a, HN_F32), HN_ERR_ARG, "scale");
    m->scale /= 2;
    m->a[3] = NAN;
    EXPECT_HN_FAIL(hn_peft_save(dir.c_str(), &x.a, HN_F32), HN_ERR_NUMERIC, "element 3 of A");
    m->a[3] = 0;
    m->module[std::strlen(m->module) - 1] = 'x';
    EXPECT_HN_FAIL(hn_peft_save(dir.c_str(), &x.a, HN_F32), HN_ERR_ARG, "not among the targets");
    x.a.n = 0;
    EXPECT_HN_FAIL(hn_peft_save(dir.c_str(), &x.a, HN_F32), HN_ERR_ARG, "without modules");
    x.a.n = 2;
    EXPECT_TRUE(fs::is_empty(t.str()));
}

TEST(PeftSave, FailsWithoutATrace)
{
    TempDir t;
    Adapter x;
    make(&x.a);
    const std::string dir = t / "out";
    {
        FileSizeLimit full(100);
        EXPECT_HN_FAIL(hn_peft_save(dir.c_str(), &x.a, HN_F32), HN_ERR_WRITE, "large");
    }
    EXPECT_TRUE(fs::is_empty(t.str()));
    for (uint64_t n = 1;; n++) {
        hn_alloc_fail_at(n);
        const hn_status st = hn_peft_save(dir.c_str(), &x.a, HN_BF16);
        hn_alloc_fail_at(0);
        if (st == HN_OK) break;
        ASSERT_EQ(st, HN_ERR_MEMORY) << hn_last_error();
        ASSERT_FALSE(fs::exists(dir));
        ASSERT_LT(n, 200u);
    }
    for (uint64_t n = 1;; n++) {
        Adapter y;
        hn_alloc_fail_at(n);
        const hn_status st = hn_peft_load(dir.c_str(), &y.a);
        hn_alloc_fail_at(0);
        if (st == HN_OK) break;
        ASSERT_EQ(st, HN_ERR_MEMORY) << hn_last_error();
        ASSERT_LT(n, 200u);
    }
}

/* ---- adapters that are not right ---- */

hn_st_entry entry(const char *name, std::vector<int64_t> dim, const float *data)
{
    hn_st_entry e = {};
    e.name = name, e.dtype = HN_ST_F32, e.ndim = (int)dim.size(), e.data = data;
    for (size_t i = 0; i < dim.size(); i++) e.dim[i] = dim[i];
    return e;
}

TEST(PeftLoad, RefusesTensorsThatPeftWouldDropSilently)
{
    TempDir t;
    const float v[64] = {};
    const char *const a = "base_model.model.m.q.lora_A.weight";
    const char *const b = "base_model.model.m.q.lora_B.weight";
    write_file(t / "adapter_config.json",
               R"({"peft_type": "LORA", "r": 4, "target_modules": ["q"]})");
    const auto expect = [&](std::vector<hn_st_entry> entries, hn_status code, const char *part) {
        ASSERT_HN_OK(hn_st_save((t / "adapter_model.safetensors").c_str(), entries.data(),
                                (int64_t)entries.size(), nullptr, 0, nullptr, nullptr));
        Adapter x;
        if (code == HN_OK)
            EXPECT_HN_OK(hn_peft_load(t.str().c_str(), &x.a));
        else
            EXPECT_HN_FAIL(hn_peft_load(t.str().c_str(), &x.a), code, part);
    };
    expect({entry(a, {4, 3}, v), entry(b, {2, 4}, v)}, HN_OK, "");
    expect({}, HN_ERR_FORMAT, "no tensors");
    expect({entry(a, {4, 3}, v)}, HN_ERR_FORMAT, "no lora_B beside it");
    expect({entry(b, {2, 4}, v)}, HN_ERR_FORMAT, "no lora_A beside it");
    expect({entry(a, {3, 3}, v), entry(b, {2, 4}, v)}, HN_ERR_SHAPE, "rank 4");
    expect({entry(a, {4, 3}, v), entry(b, {4, 2}, v)}, HN_ERR_SHAPE, "B [4, 2]");
    expect({entry(a, {4, 3, 2, 2}, v), entry(b, {2, 4, 1, 1}, v)}, HN_OK, ""); /* convolution */
    expect({entry(a, {4, 3, 1}, v), entry(b, {2, 4, 1}, v)}, HN_ERR_UNSUPPORTED, "matrix");
    expect({entry(a, {4, 3, 1, 1}, v), entry(b, {2, 4}, v)}, HN_ERR_SHAPE, "A has 4");
    expect({entry(a, {4, 3, 1, 1}, v), entry(b, {2, 1, 2, 2}, v)}, HN_ERR_SHAPE, "end with 1, 1");
    expect({entry("m.q.lora_A.weight", {4, 3}, v)}, HN_ERR_UNSUPPORTED, "'m.q.lora_A.weight'");
    expect({entry(a, {4, 3}, v), entry(b, {2, 4}, v),
            entry("base_model.model.m.q.lora_magnitude_vector", {2}, v)},
           HN_ERR_FORMAT, "lora_magnitude_vector' belongs to DoRA");
    expect({entry("base_model.model.lora_A.weight", {4, 3}, v)}, HN_ERR_UNSUPPORTED,
           "only LoRA and DoRA");
    expect({entry("base_model.model.m.k.lora_A.weight", {4, 3}, v),
            entry("base_model.model.m.k.lora_B.weight", {2, 4}, v)},
           HN_ERR_FORMAT, "module 'm.k' is not one");
    const char *const head = "base_model.model.fc.weight";
    expect({entry(a, {4, 3}, v), entry(b, {2, 4}, v), entry(head, {5, 2}, v)}, HN_ERR_UNSUPPORTED,
           "fc.weight");
    write_file(
        t / "adapter_config.json",
        R"({"peft_type": "LORA", "r": 4, "target_modules": ["q"], "modules_to_save": ["fc"]})");
    expect({entry(a, {4, 3}, v), entry(b, {2, 4}, v), entry(head, {5, 2}, v)}, HN_OK, "");
    expect(
        {entry(a, {4, 3}, v), entry(b, {2, 4}, v), entry("base_model.model.c.weight", {5, 2}, v)},
        HN_ERR_UNSUPPORTED, "c.weight"); /* "fc" ends with "c", but is another module */
    write_file(t / "adapter_config.json",
               R"({"peft_type": "LORA", "r": 4, "target_modules": ["q"], "use_dora": true})");
    const char *const m = "base_model.model.m.q.lora_magnitude_vector";
    expect({entry(a, {4, 3}, v), entry(b, {2, 4}, v), entry(m, {2}, v)}, HN_OK, "");
    expect({entry(a, {4, 3}, v), entry(b, {2, 4}, v)}, HN_ERR_FORMAT, "no lora_magnitude_vector");
    expect({entry(a, {4, 3}, v), entry(b, {2, 4}, v), entry(m, {4}, v)}, HN_ERR_SHAPE, "not [2]");
    expect({entry(a, {4, 3}, v), entry(b, {2, 4}, v), entry(m, {2, 1}, v)}, HN_ERR_SHAPE,
           "not [2]");
    expect({entry(m, {2}, v)}, HN_ERR_FORMAT, "no lora_A beside it");
    expect({entry(a, {4, 3, 1, 1}, v), entry(b, {2, 4, 1, 1}, v), entry(m, {2}, v)},
           HN_ERR_UNSUPPORTED, "'m.q' is a convolution");
    Adapter x;
    fs::remove(t / "adapter_model.safetensors");
    EXPECT_HN_FAIL(hn_peft_load(t.str().c_str(), &x.a), HN_ERR_IO, "adapter_model.safetensors");
    write_file(t / "adapter_model.bin", "pickle");
    EXPECT_HN_FAIL(hn_peft_load(t.str().c_str(), &x.a), HN_ERR_UNSUPPORTED, "pickle");
    EXPECT_HN_FAIL(hn_peft_load((t / "none").c_str(), &x.a), HN_ERR_IO, "none");
}

} // namespace
