/* golden_test.h - numbers of a file that a script in tests/golden has written. */
#ifndef HN_GOLDEN_TEST_H
#define HN_GOLDEN_TEST_H
#include <jansson.h>

#include "hn_test.h"

/* A JSON value; the file lives as long as the first one. */
class Golden {
    json_t *owned_ = nullptr;
    const json_t *j_;

    explicit Golden(const json_t *j) : j_(j) {}

  public:
    static Golden load(const std::string &path)
    {
        json_error_t e;
        json_t *const j = json_load_file(path.c_str(), 0, &e);
        EXPECT_NE(j, nullptr) << path << ": " << e.text;
        Golden g(j);
        g.owned_ = j;
        return g;
    }
    Golden(const Golden &) = delete;
    Golden(Golden &&g) : owned_(g.owned_), j_(g.j_) { g.owned_ = nullptr; }
    ~Golden() { json_decref(owned_); }

    Golden operator[](const char *key) const
    {
        const json_t *const v = json_object_get(j_, key);
        EXPECT_NE(v, nullptr) << key;
        return Golden(v);
    }
    Golden at(size_t i) const { return Golden(json_array_get(j_, i)); }
    size_t size() const { return json_array_size(j_); }
    bool is_null() const { return json_is_null(j_); }
    bool flag() const { return json_is_true(j_); }
    std::string text() const { return json_string_value(j_); }
    int64_t integer() const { return json_integer_value(j_); }
    float number() const { return (float)json_number_value(j_); }
    std::vector<float> numbers() const
    {
        std::vector<float> v;
        for (size_t i = 0; i < size(); i++) v.push_back(at(i).number());
        return v;
    }
    template <class T = int32_t>
    std::vector<T> integers() const
    {
        std::vector<T> v;
        for (size_t i = 0; i < size(); i++) v.push_back((T)at(i).integer());
        return v;
    }
};

#endif
