/* The files beside a classifier's weights: preprocessor_config.json, config.json as it is written
 * again, names of classes. */
#include "model_test.h"
#include "runtime/model/model.h"

namespace {

hn_vision_config resnet18()
{
    hn_vision_config c = {};
    EXPECT_HN_OK(hn_vision_config_named("resnet18", nullptr, &c));
    return c;
}

hn_status preprocess(const std::string &text, hn_vision_config *c)
{
    const JsonText json(text.c_str());
    return hn_vision_preprocessor_read(json.root, "preprocessor_config.json", c);
}

/* A model opened from a config.json. */
struct Model {
    hn_model m = {};
    explicit Model(const std::string &path)
    {
        EXPECT_HN_OK(hn_model_open(path.c_str(), "f32", nullptr, &m));
    }
    ~Model() { hn_model_close(&m); }
    Model(const Model &) = delete;
    void set(int64_t image, int64_t channels, int64_t classes, bool new_head = false)
    {
        const hn_vision_override o = {image, channels, classes};
        EXPECT_HN_OK(hn_model_override(&m, &o, new_head));
    }
    std::string config(std::vector<std::string> names = {}) const
    {
        std::vector<char *> list;
        for (auto &n : names) list.push_back(n.data());
        json_t *j = nullptr;
        EXPECT_HN_OK(hn_model_config(&m, (int64_t)list.size(), list.data(), &j));
        char *text = json_dumps(j, JSON_COMPACT | JSON_SORT_KEYS);
        const std::string out = text ? text : "";
        free(text);
        json_decref(j);
        return out;
    }
};

bool has(const std::string &text, const std::string &part)
{
    return text.find(part) != std::string::npos;
}

/* ---- preprocessor_config.json ---- */

TEST(Preprocessor, SaysMeanDeviationAndSize)
{
    hn_vision_config c = resnet18();
    ASSERT_HN_OK(preprocess(R"({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3],
        "do_rescale": true, "rescale_factor": 0.00392156862745098, "do_normalize": true,
        "image_processor_type": "ViTImageProcessor", "resample": 2, "do_resize": true,
        "size": {"height": 96, "width": 96}, "do_pad": false})",
                            &c));
    EXPECT_EQ(c.image, 96);
    EXPECT_FLOAT_EQ(c.mean[1], 0.4f);
    EXPECT_FLOAT_EQ(c.std[2], 0.3f);
    ASSERT_HN_OK(preprocess(R"({"do_normalize": false, "size": {"shortest_edge": 64}})", &c));
    EXPECT_EQ(c.image, 64);
    EXPECT_EQ(c.mean[1], 0);
    EXPECT_EQ(c.std[2], 1);
    ASSERT_HN_OK(preprocess(R"({"size": 48})", &c));
    EXPECT_EQ(c.image, 48);
}

TEST(Preprocessor, RefusesByNameWhatWouldChangeThePixels)
{
    const std::pair<const char *, const char *> cases[] = {
        {R"({"do_reduce_labels": true})", "do_reduce_labels"},
        {R"({"do_rescale": false})", "do_rescale false"},
        {R"({"rescale_factor": 0.5})", "rescale_factor 0.5"},
        {R"({"size": {"height": 96, "width": 64}})", "size"},
        {R"({"size": {"longest_edge": 96}})", "size"},
        {R"({"size": -1})", "size"},
        {R"({"image_mean": [0.5]})", "image_mean must have 3"},
        {R"({"image_std": [0.5, 0, 0.5]})", "image_std[1]"},
        {R"({"image_std": [0.5, "a", 0.5]})", "image_std[1]"},
        {R"([1])", "not a JSON object"}};
    for (const auto &[text, part] : cases) {
        hn_vision_config c = resnet18();
        EXPECT_NE(preprocess(text, &c), HN_OK) << text;
        EXPECT_TRUE(has(hn_last_error(), part)) << hn_last_error();
        EXPECT_TRUE(has(hn_last_error(), "preprocessor_config.json")) << hn_last_error();
    }
}

/* ---- config.json ---- */

TEST(ModelConfig, OfANameIsTimms)
{
    Model m("resnet20");
    m.set(16, 1, 2);
    const std::string text = m.config({"cat", "dog"});
    EXPECT_TRUE(has(text, R"("label_names":["cat","dog"],"num_classes":2)")) << text;
    EXPECT_TRUE(has(text, R"("input_size":[1,16,16])")) << text;
    const JsonText json(text.c_str());
    hn_vision_config c = {};
    ASSERT_HN_OK(hn_vision_config_read(json.root, "again", nullptr, nullptr, &c));
    EXPECT_EQ(c.image, 16);
    EXPECT_EQ(c.channels, 1);
    EXPECT_EQ(c.classes, 2);
    EXPECT_EQ(c.mean[0], m.m.vision.mean[0]); /* the bits of the float */
    EXPECT_EQ(c.std[0], m.m.vision.std[0]);
}

TEST(ModelConfig, OfHuggingFaceKeepsWhatItSaysAndCountsById2label)
{
    const TempDir t;
    write_file(t / "config.json", R"({"model_type": "resnet", "embedding_size": 4,
        "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic", "my_own": 5,
        "id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0, "dog": 1}})");
    Model m(t / "config.json");
    EXPECT_STREQ(hn_model_class(&m.m, 1), "dog");
    EXPECT_EQ(hn_model_class(&m.m, 2), nullptr);
    std::string text = m.config();
    EXPECT_TRUE(has(text, R"("id2label":{"0":"cat","1":"dog"})")) << text;
    EXPECT_TRUE(has(text, R"("my_own":5)")) << text;
    m.set(0, 0, 3);
    EXPECT_EQ(hn_model_class(&m.m, 1), nullptr); /* of another head */
    text = m.config();
    EXPECT_TRUE(has(text, R"("id2label":{"0":"LABEL_0","1":"LABEL_1","2":"LABEL_2"})")) << text;
    text = m.config({"a", "b", "c"});
    EXPECT_TRUE(has(text, R"("label2id":{"a":0,"b":1,"c":2})")) << text;
    json_t *p = nullptr;
    ASSERT_HN_OK(hn_model_preprocessor(&m.m, nullptr, &p));
    hn_vision_config c = resnet18();
    EXPECT_HN_OK(hn_vision_preprocessor_read(p, "written", &c));
    EXPECT_EQ(c.image, 224);
    json_decref(p);
}

TEST(ModelConfig, RefusesDecodersAndAnotherNumberOfNames)
{
    Model m("resnet20");
    char name[] = "cat";
    char *names[] = {name};
    json_t *j = nullptr;
    EXPECT_HN_FAIL(hn_model_config(&m.m, 1, names, &j), HN_ERR_ARG, "1 classes");
    Model d("tests/fixtures/models/llama");
    EXPECT_HN_FAIL(hn_model_config(&d.m, 0, nullptr, &j), HN_ERR_ARG, "no classifier");
    ASSERT_HN_OK(hn_model_preprocessor(&d.m, nullptr, &j));
    EXPECT_EQ(j, nullptr);
}

} // namespace
