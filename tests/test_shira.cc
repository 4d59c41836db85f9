/* runtime/file/shira.h: PEFT's container for sparse changes, against files of PEFT 0.21.2
 * (tests/golden/make_shira_golden.py). */
#include "runtime/file/shira.h"

#include <numeric>

#include "hn_test.h"
#include "runtime/base/alloc.h"
#include "runtime/file/safetensors.h"

namespace {

const std::string kFixture = "tests/fixtures/peft_shira";

struct Adapter : hn_shira_adapter {
    Adapter() : hn_shira_adapter{} {}
    ~Adapter() { hn_shira_clear(this); }
};

/* The two layers of the fixtures' network. */
bool shape_of(void *, const char *module, int64_t *out, int64_t *in)
{
    const bool up = std::strcmp(module, "block.up") == 0;
    if (!up && std::strcmp(module, "block.down") != 0) return false;
    *out = up ? 8 : 6;
    *in = up ? 6 : 8;
    return true;
}

std::vector<float> dense(const hn_shira_module &m)
{
    std::vector<float> d((size_t)(m.out * m.in), 0.0f);
    for (int64_t i = 0; i < m.n; i++) d[(size_t)m.at[i]] = m.value[i];
    return d;
}

class Golden {
    hn_st_file *f_ = nullptr;

  public:
    Golden() { EXPECT_HN_OK(hn_st_open((kFixture + "/golden.safetensors").c_str(), &f_)); }
    ~Golden() { hn_st_close(f_); }
    template <class T>
    std::vector<T> get(const std::string &name, hn_dtype dtype) const
    {
        const hn_st_tensor *t = hn_st_find(f_, name.c_str());
        EXPECT_NE(t, nullptr) << name;
        if (t == nullptr) return {};
        std::vector<T> v((size_t)hn_st_elements(t));
        EXPECT_HN_OK(hn_st_convert(t, dtype, v.data()));
        return v;
    }
    std::vector<float> floats(const std::string &name) const { return get<float>(name, HN_F32); }
    std::vector<int32_t> ids(const std::string &name) const { return get<int32_t>(name, HN_I32); }
};

TEST(Shira, ReadsWhatPeftWrites)
{
    Golden g;
    Adapter a;
    ASSERT_HN_OK(hn_shira_load(kFixture.c_str(), shape_of, nullptr, &a));
    EXPECT_EQ(a.config.r, 2);
    ASSERT_EQ(a.n, 2);
    EXPECT_STREQ(a.modules[0].module, "block.down");
    EXPECT_STREQ(a.modules[1].module, "block.up");
    for (int i = 0; i < 2; i++) {
        EXPECT_EQ(a.modules[i].n, 28);
        const auto want = g.floats(std::string(a.modules[i].module) + ".delta");
        EXPECT_TRUE(same_bits(dense(a.modules[i]), want)) << a.modules[i].module;
    }
}

/* The change of the fixture, ready to be written. */
void fill(Adapter *a)
{
    Golden g;
    for (const char *module : {"up", "down"}) {
        const std::string path = std::string("block.") + module;
        const bool up = module[0] == 'u';
        const auto ids = g.ids(path + ".ids");
        const auto values = g.floats(path + ".values");
        ASSERT_HN_OK(hn_shira_add(a, path.c_str(), up ? 8 : 6, up ? 6 : 8, up ? 1 : 2, up ? 1 : 2,
                                  ids.data(), (int64_t)ids.size(), values.data()));
        ASSERT_HN_OK(hn_names_add(&a->config.targets.list, module));
    }
}

TEST(Shira, WritesTheBytesThatPeftHasRead)
{
    TempDir dir;
    Adapter a, back;
    fill(&a);
    int64_t r = 0, slots = 0, used = 0;
    ASSERT_HN_OK(hn_shira_slots(&a, &r, &slots, &used));
    EXPECT_EQ(r, 2);
    EXPECT_EQ(slots, 56);
    EXPECT_EQ(used, 40);
    const std::string to = dir / "a";
    ASSERT_HN_OK(hn_shira_save(to.c_str(), &a, HN_F32));
    for (const char *file : {"/adapter_config.json", "/adapter_model.safetensors"})
        EXPECT_EQ(read_file(to + file), read_file(kFixture + "/written" + file)) << file;
    ASSERT_HN_OK(hn_shira_load(to.c_str(), shape_of, nullptr, &back));
    ASSERT_EQ(back.n, 2);
    EXPECT_TRUE(same_bits(dense(back.modules[0]), dense(a.modules[1])));
    EXPECT_TRUE(same_bits(dense(back.modules[1]), dense(a.modules[0])));
    EXPECT_EQ(back.modules[0].n, 20);                     /* zeros are gone again */
    ASSERT_HN_OK(hn_shira_save(to.c_str(), &a, HN_BF16)); /* over the old one */
    hn_shira_clear(&back);
    ASSERT_HN_OK(hn_shira_load(to.c_str(), shape_of, nullptr, &back));
    EXPECT_LT(rel_l2(dense(back.modules[1]), dense(a.modules[0])), 1.0 / 256);
}

TEST(Shira, RefusesWhatTheContainerCannotHold)
{
    TempDir dir;
    const std::string to = dir / "a";
    std::vector<float> v(48, 1.0f);
    std::vector<int32_t> all(48);
    std::iota(all.begin(), all.end(), 0);
    {
        Adapter a;
        EXPECT_HN_FAIL(hn_shira_save(to.c_str(), &a, HN_F32), HN_ERR_ARG, "without modules");
        ASSERT_HN_OK(hn_names_add(&a.config.targets.list, "up"));
        ASSERT_HN_OK(hn_shira_add(&a, "block.up", 8, 6, 1, 1, all.data(), 43, v.data()));
        EXPECT_HN_FAIL(hn_shira_save(to.c_str(), &a, HN_F32), HN_ERR_UNSUPPORTED,
                       "'block.up' [8, 6] has no room for the r = 4");
        EXPECT_HN_FAIL(hn_shira_save(to.c_str(), &a, HN_F16), HN_ERR_UNSUPPORTED, "f16");
    }
    {
        Adapter a;
        ASSERT_HN_OK(hn_names_add(&a.config.targets.list, "up"));
        ASSERT_HN_OK(hn_shira_add(&a, "block.up", 8, 6, 1, 1, all.data(), 6, v.data()));
        EXPECT_HN_FAIL(hn_shira_save(to.c_str(), &a, HN_F32), HN_ERR_UNSUPPORTED,
                       "14 slots for 6 values");
        ASSERT_HN_OK(hn_shira_add(&a, "block.down", 6, 8, 1, 1, all.data(), 14, v.data()));
        EXPECT_HN_FAIL(hn_shira_save(to.c_str(), &a, HN_F32), HN_ERR_ARG,
                       "'block.down' is not among the targets");
        const int32_t bad[] = {3, 3};
        EXPECT_HN_FAIL(hn_shira_add(&a, "x", 8, 6, 1, 1, bad, 2, v.data()), HN_ERR_ARG, "block 3");
        EXPECT_HN_FAIL(hn_shira_add(&a, "x", 8, 6, 3, 3, bad, 1, v.data()), HN_ERR_ARG, "3 x 3");
        v[0] = INFINITY;
        EXPECT_HN_FAIL(hn_shira_add(&a, "x", 8, 6, 1, 1, all.data(), 1, v.data()), HN_ERR_NUMERIC,
                       "value 0");
    }
    EXPECT_FALSE(std::filesystem::exists(to));
}

/* The fixture's folder with another configuration or other tensors. */
struct Folder {
    TempDir dir;
    std::string at = dir / "a";
    Folder()
    {
        std::filesystem::create_directory(at);
        for (const char *file : {"/adapter_config.json", "/adapter_model.safetensors"})
            write_file(at + file, read_file(kFixture + "/written" + file));
    }
    void replace(const std::string &from, const std::string &to)
    {
        std::string text = read_file(at + "/adapter_config.json");
        const size_t i = text.find(from);
        ASSERT_NE(i, std::string::npos);
        write_file(at + "/adapter_config.json", text.replace(i, from.size(), to));
    }
    hn_status load()
    {
        Adapter a;
        const hn_status st = hn_shira_load(at.c_str(), shape_of, nullptr, &a);
        EXPECT_EQ(a.n != 0, st == HN_OK);
        return st;
    }
};

TEST(Shira, RefusesOtherConfigurations)
{
    const struct {
        const char *from, *to;
        hn_status code;
        const char *part;
    } cases[] = {
        {"\"SHIRA\"", "\"LORA\"", HN_ERR_UNSUPPORTED, "'peft_type' is 'LORA'"},
        {"\"r\": 2", "\"r\": 1", HN_ERR_SHAPE, "are not [14] and [2, 14]"},
        {"\"r\": 2", "\"r\": 0", HN_ERR_FORMAT, "'r' is 0"},
        {"\"r\": 2", "\"r\": 99999999999", HN_ERR_FORMAT, "'r' is"},
        {"\"random\"", "\"mine\"", HN_ERR_UNSUPPORTED, "'mask_type' is 'mine'"},
        {"\"fan_in_fan_out\": false", "\"fan_in_fan_out\": true", HN_ERR_UNSUPPORTED, "fan_in"},
        {"\"modules_to_save\": null", "\"modules_to_save\": [\"a\"]", HN_ERR_UNSUPPORTED,
         "modules"},
        {"\"task_type\"", "\"unheard_of\": 1, \"task_type\"", HN_ERR_UNSUPPORTED, "'unheard_of'"},
        {"\"up\"", "\"down\"", HN_ERR_FORMAT, "'block.up' is not one that"},
        {"[\n    \"up\",\n    \"down\"\n  ]", "[]", HN_ERR_FORMAT, "'target_modules'"},
    };
    for (const auto &c : cases) {
        Folder f;
        f.replace(c.from, c.to);
        EXPECT_HN_FAIL(f.load(), c.code, c.part);
    }
}

hn_status load_indices(const std::vector<int32_t> &index, const std::vector<float> &weight)
{
    Folder f;
    const auto n = (int64_t)weight.size();
    const hn_st_entry e[] = {{.name = "base_model.model.block.up.shira_weight",
                              .dtype = HN_ST_F32,
                              .ndim = 1,
                              .dim = {n},
                              .data = weight.data()},
                             {.name = "base_model.model.block.up.shira_indices",
                              .dtype = HN_ST_I32,
                              .ndim = 2,
                              .dim = {2, n},
                              .data = index.data()}};
    EXPECT_HN_OK(hn_st_save((f.at + "/adapter_model.safetensors").c_str(), e, 2, nullptr, 0,
                            nullptr, nullptr));
    return f.load();
}

TEST(Shira, RefusesHostileTensors)
{
    std::vector<int32_t> index(56);
    std::vector<float> weight(28, 0.5f);
    for (int i = 0; i < 28; i++) index[(size_t)i] = i / 6, index[(size_t)(28 + i)] = i % 6;
    EXPECT_HN_OK(load_indices(index, weight));
    const int32_t good = index[3];
    for (int32_t bad : {-1, 8, INT32_MAX, INT32_MIN}) {
        index[3] = bad;
        EXPECT_HN_FAIL(load_indices(index, weight), HN_ERR_FORMAT, "in [8, 6]");
    }
    index[3] = good;
    index[28 + 3] = 6;
    EXPECT_HN_FAIL(load_indices(index, weight), HN_ERR_FORMAT, "position (0, 6)");
    index[28 + 3] = 2;
    EXPECT_HN_FAIL(load_indices(index, weight), HN_ERR_FORMAT, "position (0, 2) twice");
    index[28 + 3] = 3;
    weight[1] = NAN;
    EXPECT_HN_FAIL(load_indices(index, weight), HN_ERR_NUMERIC, "value 1");
    weight.pop_back();
    EXPECT_HN_FAIL(load_indices(index, weight), HN_ERR_SHAPE, "are not [28]");
}

TEST(Shira, SurvivesFlippedBits)
{
    const std::string name = "/adapter_model.safetensors";
    Folder f;
    const std::string good = read_file(f.at + name);
    for (size_t i = 0; i < good.size(); i++) {
        std::string bytes = good;
        bytes[i] = (char)(bytes[i] ^ 1 << i % 8);
        write_file(f.at + name, bytes);
        (void)f.load();
    }
    for (size_t n = 0; n < good.size(); n += 13) {
        write_file(f.at + name, good.substr(0, n));
        EXPECT_NE(f.load(), HN_OK);
    }
}

TEST(Shira, LosesNothingWhenMemoryRunsOut)
{
    TempDir dir;
    for (uint64_t nth = 1;; nth++) {
        Adapter a, back;
        fill(&a);
        hn_alloc_fail_at(nth);
        hn_status st = hn_shira_save((dir / "a").c_str(), &a, HN_BF16);
        if (st == HN_OK) st = hn_shira_load((dir / "a").c_str(), shape_of, nullptr, &back);
        hn_alloc_fail_at(0);
        if (st == HN_OK) break;
        EXPECT_EQ(st, HN_ERR_MEMORY) << hn_last_error();
        ASSERT_LT(nth, 400u);
    }
}

} // namespace
