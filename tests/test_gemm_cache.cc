/* runtime/train/gemm_cache: the file of tuned matrix products. */
#include "runtime/train/gemm_cache.h"

#include "hn_test.h"
#include "runtime/base/alloc.h"

namespace {

/* A variable of the environment, as long as a test lasts. */
class Variable {
    const char *name_;
    bool had_ = false;
    std::string old_;

  public:
    Variable(const char *name, const char *value) : name_(name)
    {
        if (const char *old = std::getenv(name)) had_ = true, old_ = old;
        value ? setenv(name, value, 1) : unsetenv(name);
    }
    ~Variable() { had_ ? setenv(name_, old_.c_str(), 1) : unsetenv(name_); }
    Variable(const Variable &) = delete;
};

std::string path_of(const char *option)
{
    char *path = nullptr;
    EXPECT_HN_OK(hn_gemm_cache_path(option, "NVIDIA H200 (x/y)", 130101, &path));
    const std::string text = path ? path : "none";
    hn_free(path);
    return text;
}

TEST(GemmCachePath, IsMadeOfGpuAndLibrary)
{
    const Variable home("HOME", "/home/me");
    {
        const Variable xdg("XDG_CACHE_HOME", "/cache");
        EXPECT_EQ(path_of("auto"), "/cache/hone/gemm-NVIDIA-H200--x-y--130101.json");
    }
    const Variable xdg("XDG_CACHE_HOME", nullptr);
    EXPECT_EQ(path_of("auto"), "/home/me/.cache/hone/gemm-NVIDIA-H200--x-y--130101.json");
    EXPECT_EQ(path_of("off"), "none");
    EXPECT_EQ(path_of("some/file.json"), "some/file.json");
    const Variable nowhere("HOME", nullptr);
    EXPECT_EQ(path_of("auto"), "none");
}

/* A list of plans, as far as the file looks into it. */
json_t *list_of(std::vector<std::pair<int, int>> shape_and_words)
{
    json_t *list = json_array();
    for (const auto &[m, words] : shape_and_words)
        json_array_append_new(list, json_pack("{s:{s:i,s:s}, s:i}", "shape", "m", m, "dtype",
                                              "bf16", "words", words));
    return list;
}

class GemmCache : public ::testing::Test {
  protected:
    TempDir dir;
    const std::string path = dir / "new/folder/plans.json";
    json_t *plans = nullptr;
    char *whose = nullptr;

    ~GemmCache() override { clear(); }
    void clear()
    {
        json_decref(plans);
        hn_free(whose);
        plans = nullptr, whose = nullptr;
    }
    hn_status load(const char *gpu = "GPU", int64_t library = 7)
    {
        clear();
        return hn_gemm_cache_load(path.c_str(), gpu, library, &plans, &whose);
    }
    hn_status save(json_t *older, json_t *list)
    {
        const hn_status st = hn_gemm_cache_save(path.c_str(), "GPU", 7, older, list);
        json_decref(list);
        return st;
    }
    /* Puts `text` in place of `part` of a good file; loading must fail on `reason`. */
    void refused(const char *part, const char *text, const char *reason)
    {
        ASSERT_HN_OK(save(nullptr, list_of({{1, 10}})));
        std::string bytes = read_file(path);
        const size_t at = bytes.find(part);
        ASSERT_NE(at, std::string::npos) << part << "\n" << bytes;
        write_file(path, bytes.replace(at, std::strlen(part), text));
        EXPECT_HN_FAIL(load(), HN_ERR_FORMAT, reason);
        EXPECT_NE(std::strstr(hn_last_error(), path.c_str()), nullptr) << hn_last_error();
        EXPECT_EQ(plans, nullptr);
    }
};

TEST_F(GemmCache, GivesBackWhatWasSaved)
{
    json_t *const list = list_of({{1, 10}, {2, 20}});
    json_incref(list);
    ASSERT_HN_OK(save(nullptr, list));
    ASSERT_HN_OK(load());
    EXPECT_TRUE(json_equal(plans, list));
    EXPECT_EQ(whose, nullptr);
    json_decref(list);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir / "new/folder"), {}), 1);
}

TEST_F(GemmCache, NewPlansReplaceThoseOfTheSameShapeAndOthersStay)
{
    json_t *const older = list_of({{1, 10}, {2, 20}, {3, 30}});
    ASSERT_HN_OK(save(older, list_of({{2, 21}, {4, 41}})));
    json_decref(older);
    ASSERT_HN_OK(load());
    json_t *const want = list_of({{2, 21}, {4, 41}, {1, 10}, {3, 30}});
    EXPECT_TRUE(json_equal(plans, want));
    json_decref(want);
}

TEST_F(GemmCache, AnotherGpuOrLibraryIsNamed)
{
    ASSERT_HN_OK(save(nullptr, list_of({{1, 10}})));
    ASSERT_HN_OK(load("Voodoo 2"));
    EXPECT_EQ(plans, nullptr);
    EXPECT_STREQ(whose, "cuBLASLt 7 on GPU");
    ASSERT_HN_OK(load("GPU", 8));
    EXPECT_EQ(plans, nullptr);
    EXPECT_STREQ(whose, "cuBLASLt 7 on GPU");
}

TEST_F(GemmCache, DamagedFilesAreRefused)
{
    EXPECT_HN_FAIL(load(), HN_ERR_IO, "plans.json");
    refused("{", "[", "2:9");
    refused("\"what\"", "\"that\"", "'what' is missing");
    refused("hone gemm plans", "tea leaves", "'tea leaves'");
    refused("\"version\": 1", "\"version\": 2", "format version 2");
    refused("\"library\": 7", "\"library\": \"7\"", "library");
    refused("\"gpu\"", "\"cpu\"", "gpu");
    refused("\"plans\": [", "\"plans\": 5, \"x\": [", "'plans' is not an array");
    refused("\"shape\": {", "\"form\": {", "plan 0 has no shape");
    refused("\"plans\": [", "\"plans\": [7, ", "plan 0 has no shape");
    write_file(path, "");
    EXPECT_HN_FAIL(load(), HN_ERR_FORMAT, "plans.json");
    write_file(path, "[]");
    EXPECT_HN_FAIL(load(), HN_ERR_FORMAT, "not a JSON object");
}

} // namespace
