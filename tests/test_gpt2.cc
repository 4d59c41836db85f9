/* GPT-2 and minGPT against PyTorch. */
#include "kernels/activation/activation.h"
#include "model_test.h"
#include "runtime/model/gpt2.h"

namespace {

hn_gpt2_config config_of(const std::string &text)
{
    hn_gpt2_config c = {};
    const JsonText json(text);
    EXPECT_HN_OK(hn_gpt2_config_read(json.root, "config.json", nullptr, &c));
    return c;
}

/* A model with one batch: sequences one behind the other. */
class Gpt2 : public ModelRun {
  public:
    hn_gpt2_config c;
    hn_llama_input in = {};
    std::vector<int32_t> tokens, positions, offsets;

    Gpt2(const hn_gpt2_config &config, const std::vector<int32_t> &ids,
         const std::vector<int32_t> &ends, bool trained)
        : ModelRun(trained), c(config), tokens(ids), offsets(ends)
    {
        for (size_t s = 0; s + 1 < offsets.size(); s++)
            for (int32_t i = 0; i < offsets[s + 1] - offsets[s]; i++) positions.push_back(i);
        EXPECT_HN_OK(hn_gpt2_declare(&c, params));
        create();
        in.tokens = input("tokens", hn_type_1d(HN_I32, (int64_t)tokens.size()));
        in.positions = input("positions", hn_type_1d(HN_I32, (int64_t)tokens.size()));
        in.offsets = input("offsets", hn_type_1d(HN_I32, (int64_t)offsets.size()));
    }
    hn_tensor *record(hn_graph *g, int64_t recompute = 0)
    {
        hn_gpt2_build b = {};
        b.config = &c;
        b.params = params;
        b.recompute = recompute;
        hn_tensor *hidden = nullptr, *logits = nullptr;
        EXPECT_HN_OK(hn_gpt2_hidden(&b, g, &in, &hidden));
        EXPECT_HN_OK(hn_gpt2_logits(&b, g, hidden, &logits));
        hn_graph_keep(logits);
        return logits;
    }
    void ready(const StFile &f)
    {
        plan();
        load(f);
        write(in.tokens, tokens);
        write(in.positions, positions);
        write(in.offsets, offsets);
    }
    static void write(hn_tensor *t, const std::vector<int32_t> &v)
    {
        EXPECT_HN_OK(hn_tensor_write(t, 0, v.data(), v.size() * sizeof v[0]));
    }
};

TEST(Gpt2Golden, LogitsAndGradientsEqualTransformers)
{
    const StFile golden("tests/fixtures/golden/model_gpt2_hf.safetensors");
    Gpt2 m(config_of(hn_st_metadata(golden.f, "config")), golden.ints("in.tokens"),
           golden.ints("in.offsets"), true);
    hn_tensor *dlogits = m.input("dlogits", hn_type_2d(HN_F32, (int64_t)m.tokens.size(), 20));
    hn_graph *train = m.graph("train", true), *again = m.graph("again", true);
    hn_tensor *logits = m.record(train), *again_logits = m.record(again, m.c.layers);
    ASSERT_HN_OK(hn_graph_backward(train, 1, &logits, &dlogits));
    ASSERT_HN_OK(hn_graph_backward(again, 1, &again_logits, &dlogits));
    m.ready(golden);
    ASSERT_HN_OK(hn_tensor_set(dlogits, golden.floats("in.dlogits").data()));
    const auto want = golden.floats("eval.logits");
    m.run(train);
    EXPECT_LT(max_abs(m.values(logits), want), 5e-5); /* fp32, logits up to 7 */
    m.expect_gradients(golden, "eval", 1e-4);
    m.zero_gradients();
    m.run(again);
    EXPECT_LT(max_abs(m.values(again_logits), want), 5e-5);
    m.expect_gradients(golden, "eval", 1e-4);
}

/* A prompt at once, then token by token over the cache: the logits of the whole text. */
TEST(Gpt2Golden, DecodingOverACacheEqualsTheWholePass)
{
    const StFile golden("tests/fixtures/golden/model_gpt2_hf.safetensors");
    const auto ids = golden.ints("in.tokens");
    const auto offsets = golden.ints("in.offsets"); /* 0, 7, ... */
    const int64_t prompt = 4, length = offsets[1], vocab = 20;
    Gpt2 m(config_of(hn_st_metadata(golden.f, "config")),
           std::vector<int32_t>(ids.begin(), ids.begin() + prompt), {0, (int32_t)prompt}, false);
    std::vector<hn_llama_cache> cache((size_t)m.c.layers);
    const hn_type type = {HN_F32, 3, {1, 8, m.c.hidden}};
    for (size_t i = 0; i < cache.size(); i++)
        for (hn_tensor **t : {&cache[i].k, &cache[i].v}) {
            const std::string name = "cache." + std::to_string(i) + (t == &cache[i].k ? "k" : "v");
            ASSERT_HN_OK(hn_program_tensor(m.program, HN_MEM_CACHE, name.c_str(), &type, t));
        }
    hn_llama_input one = {};
    one.tokens = m.input("token", hn_type_1d(HN_I32, 1));
    one.positions = one.cache_position = m.input("position", hn_type_1d(HN_I32, 1));
    m.in.cache_position = m.input("prompt.at", hn_type_1d(HN_I32, 1));
    hn_gpt2_build b = {};
    b.config = &m.c;
    b.params = m.params;
    b.cache = cache.data();
    hn_graph *prefill = m.graph("prefill", false), *decode = m.graph("decode", false);
    ASSERT_HN_OK(hn_gpt2_hidden(&b, prefill, &m.in, nullptr));
    b.decode = true;
    hn_tensor *hidden = nullptr, *logits = nullptr;
    ASSERT_HN_OK(hn_gpt2_hidden(&b, decode, &one, &hidden));
    ASSERT_HN_OK(hn_gpt2_logits(&b, decode, hidden, &logits));
    hn_graph_keep(logits);
    m.ready(golden);
    m.run(prefill);
    const auto want = golden.floats("eval.logits");
    for (int64_t i = prompt; i < length; i++) {
        Gpt2::write(one.tokens, {ids[(size_t)i]});
        Gpt2::write(one.positions, {(int32_t)i});
        m.run(decode);
        const std::vector<float> row(want.begin() + i * vocab, want.begin() + (i + 1) * vocab);
        EXPECT_LT(max_abs(m.values(logits), row), 5e-5) << i;
    }
}

/* minGPT's model that sorts six letters: every stage of the first block, and the others' ends. */
TEST(Gpt2Real, GptNanoSortEqualsItsPartialResults)
{
    HN_NEED_DATA(dir, "gpt-nano-sort");
    const StFile want(dir + "/partials.safetensors");
    const int64_t n = 3, length = 11, heads = 3, head_dim = 16, d = heads * head_dim;
    std::vector<int32_t> tokens, offsets;
    for (const float id : want.floats("idx")) tokens.push_back((int32_t)id);
    for (int32_t s = 0; s <= n; s++) offsets.push_back(s * (int32_t)length);
    Gpt2 m(config_of(read_file(dir + "/config.json")), tokens, offsets, false);
    const StFile file(dir + "/model.safetensors");
    int64_t total = 0; /* all but the masks */
    for (int64_t i = 0; i < hn_st_count(file.f); i++)
        if (std::strstr(hn_st_at(file.f, i)->name, ".attn.bias") == nullptr)
            total += hn_st_elements(hn_st_at(file.f, i));
    EXPECT_EQ(hn_params_total(m.params), total);
    hn_graph *g = m.graph("eval", false);
    m.record(g);
    const std::string h = "transformer.h.";
    const struct {
        const char *name;
        hn_op_id op;
        std::string node;
        int out;
    } stages[] = {{"tok_emb", HN_OP_EMBEDDING, "transformer.wte.weight", 0},
                  {"x", HN_OP_ADD, "transformer.embed", 0},
                  {"ln1", HN_OP_LAYER_NORM, h + "0.ln_1", 1},
                  {"qkv", HN_OP_LINEAR, h + "0.attn.c_attn", 0},
                  {"y", HN_OP_ATTENTION, h + "0.attn", 0},
                  {"yProj", HN_OP_LINEAR, h + "0.attn.c_proj", 0},
                  {"attnResid", HN_OP_LAYER_NORM, h + "0.ln_2", 0},
                  {"ln2", HN_OP_LAYER_NORM, h + "0.ln_2", 1},
                  {"fc", HN_OP_LINEAR, h + "0.mlp.c_fc", 0},
                  {"gelu", HN_OP_ACTIVATION, h + "0.mlp.act", 0},
                  {"mlp", HN_OP_LINEAR, h + "0.mlp.c_proj", 0},
                  {"mlpResid", HN_OP_LAYER_NORM, h + "1.ln_1", 0},
                  {"block0", HN_OP_LAYER_NORM, h + "1.ln_1", 0},
                  {"block1", HN_OP_LAYER_NORM, h + "2.ln_1", 0},
                  {"block2", HN_OP_LAYER_NORM, "transformer.ln_f", 0},
                  {"ln_f", HN_OP_LAYER_NORM, "transformer.ln_f", 1},
                  {"lm_head", HN_OP_LINEAR, "lm_head", 0}};
    hn_tensor *place = made_by(g, HN_OP_EMBEDDING, "transformer.wpe.weight");
    hn_graph_keep(place);
    for (const auto &s : stages) hn_graph_keep(made_by(g, s.op, s.node, s.out));
    m.ready(file);
    m.run(g);
    for (const auto &s : stages)
        EXPECT_LT(max_abs(m.values(made_by(g, s.op, s.node, s.out)), want.floats(s.name)), 1e-4)
            << s.name;
    auto pos = m.values(place);
    pos.resize((size_t)(length * d));
    EXPECT_LT(max_abs(pos, want.floats("pos_emb")), 1e-4);

    /* What our attention does not write: heads apart, scores, probabilities. */
    const auto qkv = m.values(made_by(g, HN_OP_LINEAR, h + "0.attn.c_attn"));
    const auto at = [&](int64_t part, int64_t s, int64_t head, int64_t i, int64_t c) {
        return qkv[(size_t)(((s * length + i) * 3 + part) * d + head * head_dim + c)];
    };
    const char *const parts[] = {"q", "k", "v"};
    for (int64_t part = 0; part < 3; part++) {
        std::vector<float> got;
        for (int64_t s = 0; s < n; s++)
            for (int64_t head = 0; head < heads; head++)
                for (int64_t i = 0; i < length; i++)
                    for (int64_t c = 0; c < head_dim; c++) got.push_back(at(part, s, head, i, c));
        EXPECT_LT(max_abs(got, want.floats(parts[part])), 1e-4) << parts[part];
    }
    std::vector<float> scores, soft;
    for (int64_t s = 0; s < n; s++)
        for (int64_t head = 0; head < heads; head++)
            for (int64_t i = 0; i < length; i++) {
                double sum = 0;
                for (int64_t j = 0; j < length; j++) {
                    double dot = 0;
                    for (int64_t c = 0; c < head_dim; c++)
                        dot += (double)at(0, s, head, i, c) * (double)at(1, s, head, j, c);
                    scores.push_back((float)(dot / 4));
                    soft.push_back(j <= i ? (float)std::exp(dot / 4) : 0);
                    sum += (double)soft.back();
                }
                for (int64_t j = 0; j < length; j++)
                    soft[soft.size() - 1 - (size_t)j] /= (float)sum;
            }
    EXPECT_LT(max_abs(soft, want.floats("attSm")), 1e-4);
    const auto att = want.floats("att");
    for (size_t k = 0; k < att.size(); k++)
        if (std::isfinite(att[k])) {
            EXPECT_NEAR(scores[k], att[k], 1e-4) << k;
        }

    auto probs = m.values(made_by(g, HN_OP_LINEAR, "lm_head"));
    for (size_t r = 0; r < probs.size(); r += 3) {
        float sum = 0;
        for (size_t k = r; k < r + 3; k++) sum += probs[k] = std::exp(probs[k]);
        for (size_t k = r; k < r + 3; k++) probs[k] /= sum;
    }
    EXPECT_LT(max_abs(probs, want.floats("probs")), 1e-4);
}

} // namespace
