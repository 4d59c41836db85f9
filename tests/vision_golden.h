/* vision_golden.h - the cases of tests/golden/vision_small.json. */
#ifndef HN_VISION_GOLDEN_H
#define HN_VISION_GOLDEN_H
#include "hn_test.h"
#include "runtime/base/json.h"

class GoldenCase {
    json_t *root_ = nullptr;
    const json_t *case_ = nullptr;

  public:
    explicit GoldenCase(const std::string &name)
    {
        EXPECT_HN_OK(hn_json_load("tests/golden/vision_small.json", &root_));
        case_ = json_object_get(root_, name.c_str());
        EXPECT_NE(case_, nullptr) << name;
    }
    GoldenCase(const GoldenCase &) = delete;
    ~GoldenCase() { json_decref(root_); }
    int64_t number(const char *key) const
    {
        return json_integer_value(json_object_get(case_, key));
    }
    std::vector<float> floats(const char *key) const
    {
        const json_t *list = json_object_get(case_, key);
        std::vector<float> v;
        EXPECT_NE(list, nullptr) << key;
        for (size_t i = 0; i < json_array_size(list); i++)
            v.push_back((float)json_number_value(json_array_get(list, i)));
        return v;
    }
    std::vector<int64_t> numbers(const char *key) const
    {
        std::vector<int64_t> v;
        for (const float f : floats(key)) v.push_back((int64_t)f);
        return v;
    }
};
#endif
