/* volume_golden.h - tests/fixtures/golden/volumes.safetensors (made by tests/golden/volumes.py). */
#ifndef HN_VOLUME_GOLDEN_H
#define HN_VOLUME_GOLDEN_H
#include "hn_test.h"
#include "runtime/file/safetensors.h"

class VolumeGolden {
    hn_st_file *f_ = nullptr;

  public:
    VolumeGolden() { EXPECT_HN_OK(hn_st_open("tests/fixtures/golden/volumes.safetensors", &f_)); }
    VolumeGolden(const VolumeGolden &) = delete;
    VolumeGolden &operator=(const VolumeGolden &) = delete;
    ~VolumeGolden() { hn_st_close(f_); }

    bool has(const std::string &name) const { return hn_st_find(f_, name.c_str()) != nullptr; }
    template <class T>
    std::vector<T> values(const std::string &name, hn_dtype t) const
    {
        const hn_st_tensor *s = hn_st_find(f_, name.c_str());
        if (s == nullptr) return ADD_FAILURE() << name << " is missing", std::vector<T>();
        std::vector<T> v((size_t)hn_st_elements(s));
        EXPECT_HN_OK(hn_st_convert(s, t, v.data()));
        return v;
    }
    std::vector<float> floats(const std::string &name) const { return values<float>(name, HN_F32); }
    std::vector<int64_t> whole(const std::string &name) const
    {
        return values<int64_t>(name, HN_I64);
    }
};
#endif
