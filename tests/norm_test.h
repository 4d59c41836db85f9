/* norm_test.h - what the tests of the norms share: PyTorch's numbers. */
#ifndef HN_NORM_TEST_H
#define HN_NORM_TEST_H
#include "kernel_test.h"
#include "runtime/base/json.h"

/* A case of tests/fixtures/golden/norm.json (tests/golden/make_norm_golden.py). */
class NormGolden {
    json_t *root_ = nullptr;
    const json_t *case_ = nullptr;

  public:
    explicit NormGolden(const char *name)
    {
        EXPECT_HN_OK(hn_json_load("tests/fixtures/golden/norm.json", &root_));
        case_ = json_object_get(root_, name);
        EXPECT_NE(case_, nullptr) << name;
    }
    NormGolden(const NormGolden &) = delete;
    NormGolden &operator=(const NormGolden &) = delete;
    ~NormGolden() { json_decref(root_); }
    bool flag(const char *key) const { return json_is_true(json_object_get(case_, key)); }
    float number(const char *key) const
    {
        return (float)json_number_value(json_object_get(case_, key));
    }
    std::vector<float> values(const char *key) const
    {
        const json_t *list = json_object_get(case_, key);
        std::vector<float> v;
        for (size_t i = 0; i < json_array_size(list); i++)
            v.push_back((float)json_number_value(json_array_get(list, i)));
        return v;
    }
};

/* fp32 against float64: a few roundings. bf16: inputs and outputs are rounded, too, by 2^-9 at
 * most, and the differences of backward make more of it. */
inline double golden_tolerance(hn_dtype t) { return t == HN_F32 ? 4e-6 : 8e-3; }

#endif
