/* runtime/file/model_dir: single and sharded weights, what is refused, the digest, writing. */
#include "file_limit.h"
#include "hn_test.h"
#include "runtime/base/alloc.h"
#include "runtime/file/model_dir.h"

namespace {

namespace fs = std::filesystem;

const float kA[4] = {1, 2, 3, 4}, kB[2] = {5, 6}, kC[1] = {7};

hn_st_entry entry(const char *name, int64_t n, const float *data)
{
    hn_st_entry e = {};
    e.name = name, e.dtype = HN_ST_F32, e.ndim = 1, e.dim[0] = n, e.data = data;
    return e;
}

void save(const std::string &path, const std::vector<hn_st_entry> &entries)
{
    ASSERT_HN_OK(hn_st_save(path.c_str(), entries.data(), (int64_t)entries.size(), nullptr, 0,
                            nullptr, nullptr));
}

void make_single(const TempDir &t)
{
    write_file(t / "config.json", "{\"model_type\": \"llama\"}");
    save(t / "model.safetensors", {entry("b", 2, kB), entry("a", 4, kA), entry("c", 1, kC)});
}

/* a and c in the first shard, b in the second. */
void make_sharded(const TempDir &t)
{
    write_file(t / "config.json", "{\"model_type\": \"llama\"}");
    write_file(t / "model.safetensors.index.json",
               "{\"metadata\": {\"total_size\": 1e99}, \"weight_map\": {\"a\": \"s1.safetensors\","
               "\"b\": \"s2.safetensors\", \"c\": \"s1.safetensors\"}}");
    save(t / "s1.safetensors", {entry("c", 1, kC), entry("a", 4, kA)});
    save(t / "s2.safetensors", {entry("b", 2, kB)});
}

struct Lines {
    std::vector<std::string> text;
    hn_log log{
        [](void *c, hn_log_level, const char *t) { static_cast<Lines *>(c)->text.push_back(t); },
        this};
};

hn_status open_dir(const TempDir &t, hn_model_dir **m, Lines *lines = nullptr)
{
    return hn_model_dir_open(t.str().c_str(), lines ? &lines->log : nullptr, m);
}

#define EXPECT_REFUSED(t, code, part)                      \
    do {                                                   \
        hn_model_dir *refused = nullptr;                   \
        EXPECT_HN_FAIL(open_dir(t, &refused), code, part); \
        hn_model_dir_close(refused);                       \
    } while (0)

void expect_content(const hn_model_dir *m)
{
    ASSERT_EQ(hn_model_dir_count(m), 3);
    EXPECT_STREQ(hn_model_dir_at(m, 0)->name, "a");
    EXPECT_STREQ(hn_model_dir_at(m, 1)->name, "b");
    EXPECT_STREQ(hn_model_dir_at(m, 2)->name, "c");
    EXPECT_EQ(hn_model_dir_at(m, 3), nullptr);
    EXPECT_EQ(hn_model_dir_find(m, "d"), nullptr);
    EXPECT_EQ(std::memcmp(hn_model_dir_find(m, "b")->data, kB, sizeof kB), 0);
    EXPECT_STREQ(json_string_value(json_object_get(hn_model_dir_config(m), "model_type")), "llama");
}

TEST(ModelDirOpen, ReadsASingleFile)
{
    TempDir t;
    hn_model_dir *m = nullptr;
    make_single(t);
    ASSERT_HN_OK(open_dir(t, &m));
    expect_content(m);
    EXPECT_EQ(hn_model_dir_generation(m), nullptr);
    EXPECT_EQ(hn_model_dir_shard_bytes(m), 0u);
    hn_model_dir_close(m);
    write_file(t / "generation_config.json", "{\"eos_token_id\": 2}");
    write_file(t / "model.safetensors.index.json", "the single file is preferred");
    ASSERT_HN_OK(open_dir(t, &m));
    EXPECT_NE(hn_model_dir_generation(m), nullptr);
    hn_model_dir_close(m);
    hn_model_dir_close(nullptr);
}

TEST(ModelDirOpen, ReadsShardsAndWarnsOfWhatTheIndexLeavesOut)
{
    TempDir t;
    Lines lines;
    hn_model_dir *m = nullptr;
    make_sharded(t);
    save(t / "s2.safetensors", {entry("b", 2, kB), entry("rotary", 1, kC)});
    ASSERT_HN_OK(open_dir(t, &m, &lines));
    expect_content(m);
    EXPECT_EQ(hn_model_dir_shard_bytes(m), 20u);
    EXPECT_EQ(hn_model_dir_file_of(m, hn_model_dir_find(m, "b")), t / "s2.safetensors");
    ASSERT_EQ(lines.text.size(), 1u);
    EXPECT_NE(lines.text[0].find("'rotary'"), std::string::npos);
    hn_model_dir_close(m);
}

TEST(ModelDirOpen, RefusesABadIndex)
{
    const auto index = [](const std::string &text, const char *part) {
        TempDir t;
        make_sharded(t);
        write_file(t / "model.safetensors.index.json", text);
        EXPECT_REFUSED(t, HN_ERR_FORMAT, part);
        EXPECT_NE(std::strstr(hn_last_error(), "index.json"), nullptr);
    };
    index("[]", "not a JSON object");
    index("{}", "'weight_map'");
    index("{\"weight_map\": {}}", "'weight_map'");
    index("{\"weight_map\": {\"a\": 1}}", "'a'");
    index("{\"weight_map\": {\"a\": \"../s1.safetensors\"}}", "not a file name");
    index("{\"weight_map\": {\"a\": \"..\"}}", "not a file name");
    index("{\"weight_map\": {\"a\": \"x\\\\s1.safetensors\"}}", "not a file name");
    index("{\"weight_map\": {\"a\": \"s1.safetensors\", \"a\": \"s1.safetensors\"}}", "duplicate");
    index("{\"weight_map\": {\"a\": \"s1.safetensors\", \"z\": \"s1.safetensors\"}}",
          "'z' is not in its shard s1");
    TempDir t;
    make_sharded(t);
    save(t / "s2.safetensors", {entry("b", 2, kB), entry("a", 4, kA)});
    EXPECT_REFUSED(t, HN_ERR_FORMAT, "'a' is in s2.safetensors as well as in s1.safetensors");
    fs::remove(t / "s2.safetensors");
    EXPECT_REFUSED(t, HN_ERR_IO, "s2.safetensors");
    write_file(t / "s2.safetensors", "short");
    EXPECT_REFUSED(t, HN_ERR_FORMAT, "s2.safetensors");
}

TEST(ModelDirOpen, SaysWhatIsMissing)
{
    TempDir t;
    hn_model_dir *m = nullptr;
    EXPECT_HN_FAIL(hn_model_dir_open((t / "none").c_str(), nullptr, &m), HN_ERR_IO, "no such");
    EXPECT_REFUSED(t, HN_ERR_IO, "config.json");
    write_file(t / "adapter_config.json", "{}");
    EXPECT_REFUSED(t, HN_ERR_IO, "an adapter, not a model");
    write_file(t / "config.json", "[1]");
    EXPECT_REFUSED(t, HN_ERR_FORMAT, "config.json: not a JSON object");
    write_file(t / "config.json", "{}");
    EXPECT_REFUSED(t, HN_ERR_IO, "no weights");
    write_file(t / "pytorch_model.bin", "pickle");
    EXPECT_REFUSED(t, HN_ERR_UNSUPPORTED, "save_pretrained");
    fs::rename(t / "pytorch_model.bin", t / "pytorch_model.bin.index.json");
    EXPECT_REFUSED(t, HN_ERR_UNSUPPORTED, "save_pretrained");
    write_file(t / "generation_config.json", "{");
    EXPECT_REFUSED(t, HN_ERR_FORMAT, "generation_config.json");
}

TEST(ModelDirOpen, SurvivesEveryFailedAllocation)
{
    TempDir t;
    make_sharded(t);
    for (uint64_t n = 1;; n++) {
        hn_model_dir *m = nullptr;
        hn_alloc_fail_at(n);
        const hn_status st = open_dir(t, &m);
        hn_alloc_fail_at(0);
        hn_model_dir_close(m);
        if (st == HN_OK) break;
        ASSERT_EQ(st, HN_ERR_MEMORY) << hn_last_error();
        ASSERT_LT(n, 100u);
    }
}

TEST(ModelDirDigest, IsTheOneOfTheDescription)
{
    TempDir one, many;
    hn_model_dir *a = nullptr, *b = nullptr;
    make_single(one);
    make_sharded(many);
    ASSERT_HN_OK(open_dir(one, &a));
    ASSERT_HN_OK(open_dir(many, &b));
    char text[3][200], hex[HN_SHA256_HEX], got[HN_SHA256_HEX], other[HN_SHA256_HEX];
    ASSERT_HN_OK(hn_sha256(kA, sizeof kA, hex));
    snprintf(text[0], sizeof text[0], "a F32 [4] %s\n", hex);
    ASSERT_HN_OK(hn_sha256(kB, sizeof kB, hex));
    snprintf(text[1], sizeof text[1], "b F32 [2] %s\n", hex);
    ASSERT_HN_OK(hn_sha256(kC, sizeof kC, hex));
    snprintf(text[2], sizeof text[2], "c F32 [1] %s\n", hex);
    const std::string all = std::string(text[0]) + text[1] + text[2];
    ASSERT_HN_OK(hn_sha256(all.data(), all.size(), hex));
    ASSERT_HN_OK(hn_model_dir_digest(a, got));
    ASSERT_HN_OK(hn_model_dir_digest(b, other));
    EXPECT_STREQ(got, hex);
    EXPECT_STREQ(other, hex);
    for (uint64_t n = 1;; n++) {
        hn_alloc_fail_at(n);
        const hn_status st = hn_model_dir_digest(a, got);
        hn_alloc_fail_at(0);
        if (st == HN_OK) break;
        ASSERT_EQ(st, HN_ERR_MEMORY);
        ASSERT_LT(n, 20u);
    }
    hn_model_dir_close(a);
    hn_model_dir_close(b);
    hn_st_tensor bad = {};
    const hn_st_tensor *p = &bad;
    bad.name = "a\nb", bad.dtype = HN_ST_F32, bad.ndim = 1;
    EXPECT_HN_FAIL(hn_tensor_tree_digest(&p, 1, got), HN_ERR_FORMAT, "control character");
}

std::vector<std::string> tree(const std::string &dir)
{
    std::vector<std::string> names;
    for (const auto &e : fs::recursive_directory_iterator(dir))
        if (!e.is_directory()) names.push_back(fs::relative(e.path(), dir));
    std::sort(names.begin(), names.end());
    return names;
}

TEST(ModelDirSave, CopiesEverythingButWeights)
{
    TempDir t, out;
    Lines lines;
    hn_model_dir *m = nullptr;
    make_single(t);
    for (const char *name : {"tokenizer.json", "tok512.bin", "README.md", "pytorch_model.bin",
                             "adapter_config.json", "old.gguf", "model.safetensors.index.json"})
        write_file(t / name, name);
    fs::create_directories(t / "additional_chat_templates");
    fs::create_directories(t / "onnx");
    fs::create_directories(t / ".git");
    write_file(t / "additional_chat_templates/tool_use.jinja", "{{ x }}");
    write_file(t / "onnx/model.onnx", "x");
    write_file(t / ".git/HEAD", "x");
    fs::create_symlink(t / "tokenizer.json", t / "link.json"); /* as in a Hub cache */
    ASSERT_HN_OK(open_dir(t, &m));
    const hn_st_entry entries[] = {entry("a", 4, kA), entry("b", 2, kB), entry("c", 1, kC)};
    const std::string dir = out / "new/model/";
    ASSERT_HN_OK(hn_model_dir_save(m, dir.c_str(), entries, 3, &lines.log));
    EXPECT_EQ(tree(dir), (std::vector<std::string>{
                             "README.md", "additional_chat_templates/tool_use.jinja", "config.json",
                             "link.json", "model.safetensors", "tok512.bin", "tokenizer.json"}));
    EXPECT_FALSE(fs::is_symlink(dir + "link.json"));
    EXPECT_EQ(read_file(dir + "config.json"), read_file(t / "config.json"));
    EXPECT_EQ(tree(out / "new").size(), 7u); /* no temporary folder is left */
    EXPECT_FALSE(lines.text.empty());
    hn_model_dir *copy = nullptr;
    ASSERT_HN_OK(hn_model_dir_open(dir.c_str(), nullptr, &copy));
    expect_content(copy);
    hn_model_dir_close(copy);
    EXPECT_HN_FAIL(hn_model_dir_save(m, dir.c_str(), entries, 3, nullptr), HN_ERR_IO, "not empty");
    EXPECT_HN_FAIL(hn_model_dir_save(m, t.str().c_str(), entries, 3, nullptr), HN_ERR_IO,
                   "not empty");
    EXPECT_HN_FAIL(hn_model_dir_save(m, (out / "x").c_str(), entries, 0, nullptr), HN_ERR_ARG,
                   "without tensors");
    hn_model_dir_close(m);
}

TEST(ModelDirSave, KeepsTheSizeOfTheShards)
{
    TempDir t, out;
    hn_model_dir *m = nullptr, *copy = nullptr;
    make_sharded(t); /* the larger shard has 20 bytes */
    ASSERT_HN_OK(open_dir(t, &m));
    const std::vector<float> big(100, 1.0f);
    const hn_st_entry entries[] = {entry("a", 4, kA), entry("c", 1, kC), entry("b", 2, kB),
                                   entry("big", 100, big.data()), entry("last", 1, kC)};
    const std::string dir = out / "m";
    ASSERT_HN_OK(hn_model_dir_save(m, dir.c_str(), entries, 5, nullptr));
    EXPECT_EQ(tree(dir), (std::vector<std::string>{
                             "config.json", "model-00001-of-00004.safetensors",
                             "model-00002-of-00004.safetensors", "model-00003-of-00004.safetensors",
                             "model-00004-of-00004.safetensors", "model.safetensors.index.json"}));
    EXPECT_EQ(read_file(dir + "/model.safetensors.index.json"),
              "{\n  \"metadata\": {\n    \"total_size\": 432\n  },\n  \"weight_map\": {\n"
              "    \"a\": \"model-00001-of-00004.safetensors\",\n"
              "    \"b\": \"model-00002-of-00004.safetensors\",\n"
              "    \"big\": \"model-00003-of-00004.safetensors\",\n"
              "    \"c\": \"model-00001-of-00004.safetensors\",\n"
              "    \"last\": \"model-00004-of-00004.safetensors\"\n  }\n}\n");
    ASSERT_HN_OK(hn_model_dir_open(dir.c_str(), nullptr, &copy));
    EXPECT_EQ(hn_model_dir_count(copy), 5);
    hn_model_dir_close(copy);
    const hn_st_entry twice[] = {entry("a", 4, kA), entry("b", 2, kB), entry("a", 4, kA)};
    EXPECT_HN_FAIL(hn_model_dir_save(m, (out / "n").c_str(), twice, 3, nullptr), HN_ERR_ARG, "'a'");
    EXPECT_EQ(tree(out.str()).size(), 6u);
    hn_model_dir_close(m);
}

TEST(ModelDirSave, FailsWithoutATrace)
{
    TempDir t, out;
    hn_model_dir *m = nullptr;
    make_sharded(t);
    ASSERT_HN_OK(open_dir(t, &m));
    const hn_st_entry entries[] = {entry("a", 4, kA), entry("b", 2, kB)};
    const std::string dir = out / "m";
    {
        FileSizeLimit full(100);
        EXPECT_HN_FAIL(hn_model_dir_save(m, dir.c_str(), entries, 2, nullptr), HN_ERR_WRITE,
                       "large");
    }
    EXPECT_TRUE(fs::is_empty(out.str()));
    for (uint64_t n = 1;; n++) {
        hn_alloc_fail_at(n);
        const hn_status st = hn_model_dir_save(m, dir.c_str(), entries, 2, nullptr);
        hn_alloc_fail_at(0);
        if (st == HN_OK) break;
        ASSERT_EQ(st, HN_ERR_MEMORY) << hn_last_error();
        ASSERT_FALSE(fs::exists(dir));
        ASSERT_LT(n, 200u);
    }
    EXPECT_EQ(tree(out.str()).size(), 4u);
    hn_model_dir_close(m);
}

} // namespace
